// OpenVINO: the engine for CPUs. Settings are those of runtime/sessions/openvino.py, so that results are the same.

#include <algorithm>
#include <openvino/openvino.hpp>

#include "engines.hpp"
#include "genedge/error.hpp"
#include "text.hpp"

namespace genedge {
namespace {

constexpr const char* kDevice = "CPU";

ov::Core& core() {
  static ov::Core one;
  return one;
}

ov::element::Type type_of(const std::string& dtype) {
  if (dtype == "uint8") return ov::element::u8;
  if (dtype == "float16") return ov::element::f16;
  return dtype == "int64" ? ov::element::i64 : ov::element::f32;
}

/// What OpenVINO computes floats in. An INT8 graph says whether that may be bf16, where the processor has it.
ov::element::Type hint_for(const Manifest& manifest, const Choice& choice) {
  const Artifact* artifact = manifest.artifact(choice.variant);
  const bool may = choice.precision == "int8" && artifact != nullptr && artifact->float_precision == "bf16";
  return choice.precision == "bf16" || (may && has_bf16()) ? ov::element::bf16 : ov::element::f32;
}

class OpenVinoEngine : public Engine {
 public:
  OpenVinoEngine(const std::string& model, const Manifest& manifest, const Choice& choice,
                 const EngineOptions& options)
      : frame_(manifest.frame().name) {
    info_ = {"openvino", choice.precision, choice.variant, kDevice, options.threads};
    // pinning makes two processes on one machine share a core while others idle
    config_ = {ov::hint::inference_precision(hint_for(manifest, choice)), ov::hint::enable_cpu_pinning(false),
               ov::num_streams(options.streams)};
    if (options.threads) config_.insert(ov::inference_num_threads(options.threads));
    try {
      model_ = core().read_model(model, ov::Tensor());
    } catch (const std::exception& error) {
      throw Error("OpenVINO cannot read the " + choice.variant + " model: " + reason_of(error));
    }
  }

  std::vector<std::string> input_names() const override { return names(model_->inputs()); }
  std::vector<std::string> output_names() const override { return names(model_->outputs()); }

  void specialise(const Shapes& inputs, int slots) override {
    requests_.clear();
    try {
      std::map<std::string, ov::PartialShape> shapes;
      for (const auto& [name, shape] : inputs) shapes[name] = ov::PartialShape(ov::Shape(shape.begin(), shape.end()));
      model_->reshape(shapes);
      compiled_ = core().compile_model(model_, kDevice, config_);
      for (int i = 0; i < slots; ++i) requests_.push_back(compiled_.create_infer_request());
      info_.threads = compiled_.get_property(ov::inference_num_threads);
      info_.device = trimmed(core().get_property(kDevice, ov::device::full_name));
    } catch (const std::exception& error) {
      const auto& frame = inputs.at(frame_);
      throw Error("OpenVINO cannot run frames of " + std::to_string(frame[2]) + "x" + std::to_string(frame[1]) + ": " +
                  reason_of(error));
    }
  }

  Shape output_shape(const std::string& name) const override {
    const auto shape = compiled_.output(name).get_shape();
    return {shape.begin(), shape.end()};
  }

  void start(int slot, const Arrays& inputs, const Arrays& outputs) override {
    try {
      for (const auto* arrays : {&inputs, &outputs}) {
        for (const auto& [name, array] : *arrays) {
          const ov::Shape shape(array.shape.begin(), array.shape.end());
          requests_.at(slot).set_tensor(name, ov::Tensor(type_of(array.dtype), shape, array.data));
        }
      }
      requests_.at(slot).start_async();
    } catch (const std::exception& error) {
      throw Error("OpenVINO refused the frame: " + reason_of(error));
    }
  }

  void wait(int slot) override {
    try {
      requests_.at(slot).wait();
    } catch (const std::exception& error) {
      throw Error("OpenVINO failed: " + reason_of(error));
    }
  }

 private:
  template <typename Nodes>
  static std::vector<std::string> names(const Nodes& nodes) {
    std::vector<std::string> result;
    for (const auto& node : nodes) result.push_back(node.get_any_name());
    return result;
  }

  std::string frame_;
  ov::AnyMap config_;
  std::shared_ptr<ov::Model> model_;
  ov::CompiledModel compiled_;
  std::vector<ov::InferRequest> requests_;
};

}  // namespace

std::unique_ptr<Engine> open_openvino(const std::string& model, const Manifest& manifest, const Choice& choice,
                                      const EngineOptions& options) {
  return std::make_unique<OpenVinoEngine>(model, manifest, choice, options);
}

bool has_openvino() { return true; }

bool has_bf16() {
  const auto can = core().get_property(kDevice, ov::device::capabilities);
  return std::find(can.begin(), can.end(), ov::device::capability::BF16) != can.end();
}

std::string openvino_version() {
  const std::string build = ov::get_openvino_version().buildNumber;
  return build.substr(0, build.find('-'));
}

}  // namespace genedge
