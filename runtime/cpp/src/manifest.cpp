#include "genedge/manifest.hpp"

#include <algorithm>
#include <set>
#include <stdexcept>

#include "genedge/error.hpp"
#include "json_reader.hpp"
#include "text.hpp"

namespace genedge {
namespace {

const std::vector<std::string> kTasks = {"super-resolution", "translation", "face-deid", "face-detection"};
const std::vector<std::string> kRoles = {"frame", "code", "state", "image", "head"};
const std::vector<std::string> kDtypes = {"uint8", "float32", "float16", "int64"};
const std::vector<std::string> kInitials = {"zeros", "frame"};
const std::vector<std::string> kFits = {"pad", "resize"};
const std::vector<std::string> kKinds = {"vector", "one-hot", "bits"};
const std::vector<std::string> kVariants = {"fp32", "fp16", "int8", "int8-strong", "int8-ort"};
const std::vector<std::string> kLimitKeys = {"fp32", "fp16", "int8", "int8-strong", "int8-ort", "bf16"};
const std::vector<std::string> kFloats = {"fp32", "bf16"};
constexpr int kStrides[] = {8, 16, 32};
const std::vector<std::pair<std::string, int>> kHeads = {{"cls", 1}, {"obj", 1}, {"bbox", 4}, {"kps", 10}};
constexpr int kMaxCode = 4096;
constexpr const char* kDetection = "face-detection";

using Ports = std::vector<Port>;

std::string shown(const Side& side) { return side.is_free() ? side.name : std::to_string(side.size); }

/// As Python shows a value that is no dimension.
std::string shown(const Json& json) {
  switch (json.kind) {
    case Json::Kind::null: return "None";
    case Json::Kind::boolean: return json.boolean ? "True" : "False";
    case Json::Kind::text: return in_quotes(json.text);
    default: return json.dump();
  }
}

std::string at(const std::string& side, std::size_t index) {
  return "manifest." + side + "[" + std::to_string(index) + "]";
}

FileRef file_ref(const JsonReader& reader) { return {reader.file("file"), reader.sha256("sha256")}; }

Code code_of(const JsonReader& reader) {
  Code code;
  code.default_value = reader.numbers("default", 1, kMaxCode);
  if (reader.has("labels")) code.labels = reader.texts("labels", kMaxCode);
  code.kind = reader.choice("kind", kKinds);
  code.low = reader.number("low");
  code.high = reader.number("high");
  try {
    code.check_rule();
  } catch (const UsageError& error) {
    throw ManifestError(reader.place() + ": " + error.what());
  }
  return code;
}

Port port_of(const JsonReader& reader) {
  const Json& shape = reader.get("shape");
  if (!shape.is(Json::Kind::list) || shape.items.empty() || shape.items.size() > 8) {
    throw ManifestError(reader.place() + ".shape: must be a list of 1 to 8 dimensions");
  }
  Port port;
  for (const Json& side : shape.items) {
    if (side.is(Json::Kind::integer) && side.integer > 0 && side.integer <= kMaxSide) {
      port.shape.push_back({static_cast<int>(side.integer), ""});
    } else if (side.is(Json::Kind::text) && is_name(side.text)) {
      port.shape.push_back({0, side.text});
    } else {
      throw ManifestError(reader.place() + ".shape: " + cut(shown(side)) + " is neither a size nor a name");
    }
  }
  port.name = reader.name("name");
  port.role = reader.choice("role", kRoles);
  port.dtype = reader.choice("dtype", kDtypes);
  if (reader.has("source")) port.source = reader.text("source");
  if (reader.has("initial")) port.initial = reader.choice("initial", kInitials);
  if (reader.has("code")) port.code = code_of(reader.object("code"));
  return port;
}

Artifact artifact_of(const std::string& variant, const JsonReader& reader) {
  Artifact artifact;
  artifact.variant = variant;
  if (const Json* layers = reader.content().find("float_layers")) {
    bool good = layers->is(Json::Kind::list);
    for (const Json& layer : layers->items) {
      good = good && layer.is(Json::Kind::text);
      artifact.float_layers.push_back(layer.text);
    }
    if (!good) throw ManifestError(reader.place() + ".float_layers: must be a list of names");
  }
  if (reader.has("parity")) {
    const auto parity = reader.object("parity");
    for (const auto& engine : parity.names()) {
      const auto entry = parity.object(engine);
      for (const auto& key : entry.names()) artifact.parity[engine][key] = entry.number(key);
    }
  }
  if (reader.has("float_precision")) artifact.float_precision = reader.choice("float_precision", kFloats);
  artifact.file = file_ref(reader);
  return artifact;
}

Limits limits_of(const JsonReader& reader) {
  Limits limits;
  for (const auto& key : reader.keys({"max_abs", "psnr_db", "delta_e", "changed"})) {
    if (key == "max_abs") limits.max_abs = static_cast<int>(reader.integer(key, 0, 255));
    if (key == "psnr_db") limits.psnr_db = reader.number(key);
    if (key == "delta_e") limits.delta_e = reader.number(key);
    if (key == "changed") limits.changed = reader.number(key);
  }
  return limits;
}

const Port& only(const Ports& ports, const std::string& role) {
  return *std::find_if(ports.begin(), ports.end(), [&](const Port& port) { return port.role == role; });
}

void check_roles(const std::string& side, const Ports& ports, const std::string& role,
                 const std::vector<std::string>& others) {
  const auto count = std::count_if(ports.begin(), ports.end(), [&](const Port& port) { return port.role == role; });
  const bool single = role == "frame";
  if (count == 0 || (single && count > 1)) {
    throw ManifestError("manifest." + side + ": needs " + (single ? "exactly one port" : "a port") +
                        " with the role " + role);
  }
  for (const Port& port : ports) {
    if (port.role == role && (port.dtype != "uint8" || port.shape.size() != 4 || port.shape[3] != Side{3, ""})) {
      throw ManifestError("manifest." + side + ": the " + role + " must be uint8 of shape (n, h, w, 3)");
    }
    if (port.role != role && std::find(others.begin(), others.end(), port.role) == others.end()) {
      throw ManifestError("manifest." + side + ": the role " + port.role + " does not belong here");
    }
  }
  for (const Port& port : ports) {
    if (port.role == role && port.shape != only(ports, role).shape) {
      throw ManifestError("manifest." + side + ": all with the role " + role + " must have the shape of the first");
    }
  }
}

void check_names(const Ports& inputs, const Ports& outputs) {
  std::set<std::string> in, out;
  for (const Port& port : inputs) in.insert(port.name);
  for (const Port& port : outputs) out.insert(port.name);
  if (in.size() != inputs.size()) throw ManifestError("manifest.inputs: two ports have the same name");
  if (out.size() != outputs.size()) throw ManifestError("manifest.outputs: two ports have the same name");
  for (const auto& name : in) {
    if (out.count(name)) throw ManifestError("manifest.outputs: an input is called " + name + " too");
  }
}

/// The names of the free dimensions that a state may have: those of the frame, and of the image's height and width.
std::set<std::string> free_names(const Port& frame, const Port& image) {
  std::set<std::string> names;
  if (image.shape[1] != image.shape[2]) {  // else one name would stand for both
    names.insert(image.shape[1].name);
    names.insert(image.shape[2].name);
  }
  for (const Side& side : frame.shape) names.insert(side.name);
  return names;
}

void check_states(const Ports& inputs, const Ports& outputs) {
  const Port& frame = only(inputs, "frame");
  const auto found = std::find_if(outputs.begin(), outputs.end(), [](const Port& port) { return port.role == "image"; });
  const auto free = free_names(frame, found == outputs.end() ? frame : *found);
  std::set<std::string> fed;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Port& port = inputs[i];
    const std::string place = at("inputs", i);
    if (port.role != "state") {
      if (port.source || port.initial) {
        throw ManifestError(place + ": only a state among the inputs has a source");
      }
      continue;
    }
    if (!port.source || !port.initial) throw ManifestError(place + ": a state needs a source and an initial value");
    const Port* source = *port.source == frame.name ? &frame : nullptr;
    for (const Port& output : outputs) {
      if (source == nullptr && output.role == "state" && output.name == *port.source) source = &output;
    }
    if (source == nullptr) {
      throw ManifestError(place + ".source: " + in_quotes(cut(*port.source)) +
                          " is neither the frame nor a state among the outputs");
    }
    if (port.dtype != source->dtype || port.shape != source->shape) {
      throw ManifestError(place + ": its dtype and shape are not those of its source " + source->name);
    }
    if (*port.initial == "frame" && (port.dtype != frame.dtype || port.shape != frame.shape)) {
      throw ManifestError(place + ".initial: its dtype and shape are not those of the frame");
    }
    for (const Side& side : port.shape) {
      if (side.is_free() && !free.count(side.name)) {
        throw ManifestError(place + ".shape: " + side.name +
                            " is no dimension of the frame or the image, so its size is not known");
      }
    }
    if (fed.count(*port.source) && source != &frame) {
      throw ManifestError(place + ".source: " + *port.source + " feeds another state already");
    }
    fed.insert(*port.source);
  }
  std::set<std::string> unused;
  for (const Port& port : outputs) {
    if (port.role == "state" && !fed.count(port.name)) unused.insert(port.name);
  }
  if (!unused.empty()) throw ManifestError("manifest.outputs: the state " + *unused.begin() + " feeds nothing");
}

void check_codes(const Ports& inputs, const Ports& outputs) {
  const auto& frame = only(inputs, "frame").shape;
  for (const auto& [side, ports] : {std::pair("inputs", &inputs), std::pair("outputs", &outputs)}) {
    for (std::size_t i = 0; i < ports->size(); ++i) {
      const Port& port = (*ports)[i];
      if (!port.code) continue;
      if (port.role != "code") throw ManifestError(at(side, i) + ".code: only a port with the role code has one");
      if (port.dtype != "float32") throw ManifestError(at(side, i) + ".dtype: a code is float32");
      const Side size{port.code->size(), ""};
      const std::vector<Side> flat = {frame[0], size}, map = {frame[0], size, frame[1], frame[2]};
      if (port.shape != flat && port.shape != map) {
        const std::string start = "(" + shown(frame[0]) + ", " + std::to_string(size.size);
        throw ManifestError(at(side, i) + ".shape: a code of " + std::to_string(size.size) + " numbers is " + start +
                            "), or as a map " + start + ", " + shown(frame[1]) + ", " + shown(frame[2]) +
                            "), with the frame's own dimensions");
      }
    }
  }
}

/// A face detector's outputs are twelve heads, which decoding finds by name, for frames of any size.
void check_heads(const Port& frame, const Ports& outputs) {
  if (!frame.shape[1].is_free() || !frame.shape[2].is_free()) {
    throw ManifestError("manifest.inputs: the frame of a face detector has a free height and width");
  }
  struct Wanted {
    std::string name;
    int stride, size;
  };
  std::vector<Wanted> wanted;
  std::vector<std::string> names;
  for (const int stride : kStrides) {
    for (const auto& [kind, size] : kHeads) {
      names.push_back(kind + "_" + std::to_string(stride));
      wanted.push_back({names.back(), stride, size});
    }
  }
  std::map<int, std::string> anchors;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Port& port = outputs[i];
    const std::string place = at("outputs", i);
    if (port.role != "head") {
      throw ManifestError(place + ".role: a face detector's outputs are heads, not " + port.role);
    }
    const auto head =
        std::find_if(wanted.begin(), wanted.end(), [&](const Wanted& each) { return each.name == port.name; });
    if (head == wanted.end()) {
      std::vector<std::string> left;
      for (const auto& each : wanted) left.push_back(each.name);
      throw ManifestError(place + ".name: " + in_quotes(cut(port.name)) + " is no head of a face detector: " +
                          joined(left));
    }
    if (port.dtype != "float32") throw ManifestError(place + ".dtype: a head is float32");
    const Wanted found = *head;
    wanted.erase(head);
    const Side anchor = port.shape.size() == 3 ? port.shape[1] : Side{};
    const bool taken = std::find(frame.shape.begin(), frame.shape.end(), anchor) != frame.shape.end();
    if (!anchor.is_free() || taken || port.shape != std::vector<Side>{frame.shape[0], anchor, {found.size, ""}}) {
      const std::string a = "a" + std::to_string(found.stride);
      throw ManifestError(place + ".shape: " + port.name + " is (" + shown(frame.shape[0]) + ", " + a + ", " +
                          std::to_string(found.size) + "), where " + a + " is free");
    }
    std::set<std::string> different;
    const bool same = anchors.emplace(found.stride, anchor.name).first->second == anchor.name;
    for (const auto& each : anchors) different.insert(each.second);
    if (!same || different.size() != anchors.size()) {
      throw ManifestError(place + ".shape: the heads of one stride share a free dimension of their own");
    }
  }
  if (!wanted.empty()) throw ManifestError("manifest.outputs: the head " + wanted[0].name + " is missing");
}

void check_fixed_size(const std::optional<std::array<int, 2>>& fixed, const Port& frame) {
  for (int i = 0; i < 2; ++i) {
    const Side& side = frame.shape[1 + i];
    if (!side.is_free() && (!fixed || (*fixed)[i] != side.size)) {
      throw ManifestError("manifest.geometry.fixed_size: the frame is " + shown(frame.shape[1]) + "x" +
                          shown(frame.shape[2]) + " (height x width), so this must be too");
    }
  }
}

Geometry geometry_of(const JsonReader& reader) {
  Geometry geometry;
  geometry.scale = static_cast<int>(reader.integer("scale", 1, 16));
  geometry.size_rule.minimum = static_cast<int>(reader.integer("minimum", 1, kMaxSide));
  geometry.size_rule.multiple = static_cast<int>(reader.integer("multiple", 1, kMaxSide));
  geometry.halo = static_cast<int>(reader.integer("halo", 0, kMaxSide));
  geometry.tileable = reader.boolean("tileable");
  if (const auto fixed = reader.size("fixed_size")) geometry.fixed_size = cv::Size((*fixed)[1], (*fixed)[0]);
  geometry.resizes = reader.has("fit") && reader.choice("fit", kFits) == "resize";
  if (geometry.resizes && !geometry.fixed_size) {
    throw ManifestError("manifest.geometry.fit: resize needs a fixed_size to resize to");
  }
  return geometry;
}

Golden golden_of(const JsonReader& reader, const Ports& inputs) {
  Golden golden{file_ref(reader.object("input")), file_ref(reader.object("output")), {}};
  if (!reader.has("codes")) return golden;
  const auto given = reader.object("codes");
  for (const auto& name : given.names()) {
    const std::string place = given.place() + "." + name;
    const auto port =
        std::find_if(inputs.begin(), inputs.end(), [&](const Port& each) { return each.name == name && each.code; });
    if (port == inputs.end()) throw ManifestError(place + ": no input is a code of that name");
    const auto size = static_cast<std::size_t>(port->code->size());
    const auto numbers = given.numbers(name, size, size);
    try {
      port->code->check(numbers);
    } catch (const UsageError& error) {
      throw ManifestError(place + ": " + error.what());
    }
    golden.codes[name] = numbers;
  }
  return golden;
}

Manifest manifest_of(const JsonReader& top) {
  const auto version = top.integer("format", 1, std::int64_t{1} << 31);
  if (version > kFormat) {
    throw ManifestError("manifest: format " + std::to_string(version) + " is newer than format " +
                        std::to_string(kFormat) + ", which this version reads: update genedge");
  }
  Manifest manifest;
  const auto geometry = top.object("geometry");
  const auto artifacts = top.object("artifacts");
  for (const auto& variant : artifacts.keys(kVariants)) {
    manifest.artifacts.push_back(artifact_of(variant, artifacts.object(variant)));
  }
  if (manifest.artifacts.empty()) throw ManifestError("manifest.artifacts: holds no variant");
  const auto limits = top.object("limits");
  for (const auto& key : limits.keys(kLimitKeys)) manifest.limits[key] = limits_of(limits.object(key));
  for (const auto& reader : top.objects("inputs", 1, 64)) manifest.inputs.push_back(port_of(reader));
  for (const auto& reader : top.objects("outputs", 1, 64)) manifest.outputs.push_back(port_of(reader));
  const auto &inputs = manifest.inputs, &outputs = manifest.outputs;
  manifest.task = top.choice("task", kTasks);
  const bool detects = manifest.task == kDetection;
  check_roles("inputs", inputs, "frame",
              detects ? std::vector<std::string>{} : std::vector<std::string>{"code", "state"});
  if (!detects) check_roles("outputs", outputs, "image", {"state"});
  check_names(inputs, outputs);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].source || outputs[i].initial) {
      throw ManifestError(at("outputs", i) + ": only a state among the inputs has a source");
    }
  }
  if (std::any_of(inputs.begin(), inputs.end(), [](const Port& port) { return port.source || port.initial; })) {
    check_states(inputs, outputs);
    if (geometry.boolean("tileable")) {
      throw ManifestError("manifest.geometry.tileable: a generator with a state takes whole frames only");
    }
  }
  check_codes(inputs, outputs);
  if (detects) {
    check_heads(only(inputs, "frame"), outputs);
    if (!top.objects("golden", 0, 1000).empty()) {
      throw ManifestError("manifest.golden: a face detector gives no picture, so it has no golden frames");
    }
  }
  const auto weights = top.object("weights");
  if (const Json* face = top.content().find("face"); face != nullptr && !face->is(Json::Kind::null)) {
    if (!face->is(Json::Kind::object)) throw ManifestError("manifest.face: must be an object or null");
    manifest.face = face->dump();
  }
  check_fixed_size(geometry.size("fixed_size"), only(inputs, "frame"));
  manifest.name = top.name("name");
  manifest.generator = top.name("generator");
  manifest.weights = {weights.sha256("sha256"), weights.text("licence"), weights.text("trained_on")};
  manifest.geometry = geometry_of(geometry);
  for (const auto& reader : top.objects("golden", 0, 1000)) manifest.golden.push_back(golden_of(reader, inputs));
  return manifest;
}

}  // namespace

const Port& Manifest::frame() const { return only(inputs, "frame"); }

std::vector<const Port*> Manifest::images() const {
  std::vector<const Port*> found;
  for (const Port& port : outputs) {
    if (port.role == "image") found.push_back(&port);
  }
  return found;
}

const Port& Manifest::image(const std::string& wanted) const {
  check_gives_images();
  std::vector<std::string> names;
  for (const Port* port : images()) {
    if (wanted.empty() || port->name == wanted) return *port;
    names.push_back(port->name);
  }
  throw UsageError(name + " gives no image " + in_quotes(cut(wanted)) + ": choose among " + joined(names));
}

std::vector<const Port*> Manifest::inputs_of(const std::string& role) const {
  std::vector<const Port*> found;
  for (const Port& port : inputs) {
    if (port.role == role) found.push_back(&port);
  }
  return found;
}

const Artifact* Manifest::artifact(const std::string& variant) const {
  for (const Artifact& each : artifacts) {
    if (each.variant == variant) return &each;
  }
  return nullptr;
}

std::string Manifest::variants() const {
  std::vector<std::string> names;
  for (const Artifact& each : artifacts) names.push_back(each.variant);
  return joined(names);
}

void Manifest::check_gives_images() const {
  if (task == kDetection) {
    throw UsageError(name + " is a face detector: use it with `genedge-run deid --detector`");
  }
}

Manifest parse_manifest(std::string_view text) {
  if (text.size() > kMaxManifestBytes) {
    throw ManifestError("manifest: " + std::to_string(text.size()) + " bytes, more than the " +
                        std::to_string(kMaxManifestBytes) + " allowed");
  }
  Json content;
  try {
    content = parse_json(text);
  } catch (const std::invalid_argument& error) {
    throw ManifestError(std::string("manifest: not valid JSON (") + error.what() + ")");
  }
  return manifest_of({content, "manifest"});
}

}  // namespace genedge
