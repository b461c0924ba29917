// The choice of engine and precision on this device: the rules, and the words, of runtime/sessions/__init__.py.

#include <algorithm>
#include <map>

#include "engines.hpp"
#include "genedge/error.hpp"
#include "genedge/session.hpp"
#include "text.hpp"

namespace genedge {
namespace {

const std::vector<std::string> kBackends = {"tensorrt", "openvino"};  // in the order of preference
const std::vector<std::string> kPrecisions = {"fp32", "fp16", "bf16", "int8"};

// What bf16 and fp16 must reach against PyTorch to be chosen without being asked for
constexpr double kAlonePsnrDb = 50.0, kAloneDeltaE = 0.3, kTensorRtFp16Db = 45.0;

using Figures = std::map<std::string, double>;

double figure(const Figures& figures, const std::string& name, double otherwise) {
  const auto found = figures.find(name);
  return found == figures.end() ? otherwise : found->second;
}

std::string told(const Figures& figures) {
  return with_digits(figure(figures, "psnr_db", 0.0), 1) + " dB and ΔE " +
         with_digits(figure(figures, "delta_e", 100.0), 2) + " from PyTorch";
}

bool near(const Figures& figures, double psnr_db) {
  return figure(figures, "psnr_db", 0.0) >= psnr_db && figure(figures, "delta_e", 100.0) <= kAloneDeltaE;
}

const Figures* parity(const Manifest& manifest, const std::string& variant, const std::string& engine) {
  const Artifact* artifact = manifest.artifact(variant);
  if (artifact == nullptr) return nullptr;
  const auto found = artifact->parity.find(engine);
  return found == artifact->parity.end() ? nullptr : &found->second;
}

/// The precisions of a backend, in the order in which they are shown.
std::vector<std::string> precisions_of(const std::string& backend) {
  if (backend == "openvino") return {"fp32", "bf16", "fp16", "int8"};
  return {"fp32", "fp16", "int8"};
}

std::string installed(const std::string& backend) {
  const auto here = available_backends();
  if (backend == "auto") {
    if (here.empty()) throw Error("this program was built without an engine that works here: genedge-run doctor");
    return here[0];
  }
  if (backend == "openvino" && !has_openvino()) {
    throw Error("this program was built without OpenVINO: pip install openvino, then build it again");
  }
  if (backend == "tensorrt") {
    if (const auto trouble = trouble_with_tensorrt()) throw Error("TensorRT cannot be used: " + *trouble);
  }
  return backend;
}

/// Whether fp16 may be taken unasked, and what was measured: on TensorRT, else of the fp16 variant elsewhere.
std::pair<bool, std::string> fp16_on_tensorrt(const Manifest& manifest, const std::string& variant) {
  if (const auto* figures = parity(manifest, variant, "tensorrt-fp16")) {
    return {near(*figures, kTensorRtFp16Db), told(*figures)};
  }
  for (const std::string engine : {"openvino", "onnxruntime"}) {
    if (const auto* figures = parity(manifest, "fp16", engine + "-fp16"); figures != nullptr && !figures->empty()) {
      return {near(*figures, kAlonePsnrDb), told(*figures) + " on " + engine};
    }
  }
  return {false, "the bundle has no parity on record for it"};
}

Choice asked_for(const Manifest& manifest, const std::string& backend, const std::string& precision,
                 const std::string& why) {
  const std::string variant = variant_for(backend, precision);
  if (variant.empty()) {
    throw Error(backend + " has no " + precision + " precision: choose " + joined(precisions_of(backend)));
  }
  if (manifest.artifact(variant) == nullptr) {
    throw Error(manifest.name + " has no " + variant + " variant, only " + manifest.variants());
  }
  if (precision == "bf16" && !has_bf16()) throw Error("this CPU does not compute in bfloat16: choose fp32");
  if (precision == "bf16" && !manifest.limits.count("bf16")) {
    throw Error(manifest.name + " missed its parity with PyTorch in bf16: choose fp32");
  }
  return {backend, precision, variant, backend + " " + precision + ": " + why};
}

}  // namespace

std::string variant_for(const std::string& backend, const std::string& precision) {
  if (backend == "openvino") {
    static const std::map<std::string, std::string> kOf = {
        {"fp32", "fp32"}, {"bf16", "fp32"}, {"fp16", "fp16"}, {"int8", "int8"}};
    const auto found = kOf.find(precision);
    return found == kOf.end() ? "" : found->second;
  }
  if (precision == "bf16") return "";
  if (backend == "null") return "fp32";
  // from 10.12 on TensorRT takes its precisions from the graph's types, and not from flags
  const bool strong = tensorrt_version() >= std::pair(10, 12);
  if (precision == "fp16") return strong ? "fp16" : "fp32";
  if (precision == "int8") return strong ? "int8-strong" : "int8";
  return precision == "fp32" ? "fp32" : "";
}

std::vector<std::string> available_backends() {
  std::vector<std::string> here;
  if (has_tensorrt() && !trouble_with_tensorrt()) here.push_back("tensorrt");
  if (has_openvino()) here.push_back("openvino");
  return here;
}

std::vector<Choice> runnable(const Bundle& bundle) {
  const auto& manifest = bundle.manifest;
  std::vector<Choice> choices;
  for (const auto& backend : available_backends()) {
    for (const auto& precision : precisions_of(backend)) {
      const std::string variant = variant_for(backend, precision);
      if (manifest.artifact(variant) == nullptr) continue;
      if (precision == "bf16" && !(manifest.limits.count("bf16") && has_bf16())) continue;
      // it could be computed from the float32 graph, but nothing says what it must reach
      if (backend == "tensorrt" && precision == "fp16" && !manifest.limits.count("fp16")) continue;
      choices.push_back({backend, precision, variant, "asked for"});
    }
  }
  return choices;
}

Choice choose(const Bundle& bundle, const std::string& asked, const std::string& precision) {
  const auto& manifest = bundle.manifest;
  manifest.check_gives_images();
  if (asked == "null") {
    return {"null", "fp32", "fp32", "null fp32: it computes nothing, and repeats the frame's pixels"};
  }
  const auto known = [](const std::vector<std::string>& all, const std::string& one) {
    return one == "auto" || std::find(all.begin(), all.end(), one) != all.end();
  };
  if (asked == "onnxruntime") throw UsageError("ONNX Runtime is a backend of `python -m runtime` only: choose openvino");
  if (!known(kBackends, asked)) {
    throw UsageError("unknown backend " + in_quotes(asked) + ": choose auto, " + joined(kBackends));
  }
  if (!known(kPrecisions, precision)) {
    throw UsageError("unknown precision " + in_quotes(precision) + ": choose auto, " + joined(kPrecisions));
  }
  const std::string backend = installed(asked);
  std::string why = "asked for";
  if (asked == "auto") {
    why = backend == "tensorrt" ? "TensorRT is the fastest engine for an NVIDIA GPU"
                                : "OpenVINO is the fastest engine for a CPU";
    if (backend != "tensorrt" && has_tensorrt()) {
      why += "; TensorRT is installed, but " + trouble_with_tensorrt().value_or("");
    }
  }
  if (precision != "auto") return asked_for(manifest, backend, precision, why);
  const std::string int8 = variant_for(backend, "int8");
  if (const auto* figures = parity(manifest, int8, backend + "-int8")) {
    return {backend, "int8", int8, backend + " int8: " + why + ", " + told(*figures)};
  }
  if (backend == "openvino" && manifest.artifact("fp32") != nullptr && has_bf16()) {
    const auto* figures = parity(manifest, "fp32", "openvino-bf16");
    if (figures == nullptr) {
      why += "; bf16 is possible here, but the bundle has no parity on record for it";
    } else if (near(*figures, kAlonePsnrDb)) {
      return {backend, "bf16", "fp32", "openvino bf16: " + why + ", this CPU computes bf16, " + told(*figures)};
    } else {
      why += "; bf16 is possible here, but " + told(*figures);
    }
  }
  const std::string fp16 = variant_for(backend, "fp16");
  if (backend == "tensorrt" && manifest.artifact(fp16) != nullptr) {
    const auto [good, reason] = fp16_on_tensorrt(manifest, fp16);
    if (good) return {backend, "fp16", fp16, "tensorrt fp16: " + why + ", " + reason};
    why += "; fp16 is possible here, but " + reason;
  }
  for (const std::string name : {"fp32", "fp16", "int8"}) {
    const std::string variant = variant_for(backend, name);
    if (manifest.artifact(variant) != nullptr) return {backend, name, variant, backend + " " + name + ": " + why};
  }
  throw Error(manifest.name + " has no variant for " + backend + ", only " + manifest.variants());
}

std::unique_ptr<Engine> open_engine(const Bundle& bundle, const Choice& choice, const EngineOptions& options) {
  if (choice.backend == "null") return open_null(bundle.manifest, choice);
  const std::string model = bundle.read_model(choice.variant);
  if (choice.backend == "tensorrt") return open_tensorrt(model, bundle.manifest, choice, options, bundle.folder);
  return open_openvino(model, bundle.manifest, choice, options);
}

}  // namespace genedge
