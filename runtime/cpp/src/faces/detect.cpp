#include "genedge/faces/detect.hpp"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "engines.hpp"
#include "faces/search.h"
#include "genedge/bundle.hpp"
#include "genedge/error.hpp"
#include "genedge/session.hpp"
#include "text.hpp"

namespace genedge::faces {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariable = "GENEDGE_FACE_DETECTOR";
constexpr const char* kYunetName = "yunet_n_640_640";
constexpr const char* kYunetDigest = "25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31";
constexpr double kLow = 0.25;        // score from which a face counts; of YuNet's and of any other detector,
constexpr double kOwnLow = 0.3;      // and of the own net, which sees more that is none
constexpr const char* kOwnNet = "face-net";
constexpr std::uintmax_t kMostBytes = std::uintmax_t{64} << 20;  // of a detector; YuNet has 0.4 MB
constexpr std::size_t kMostSizes = 24;  // sizes of pictures for which an engine is kept
constexpr int kSlots = 2;               // pictures of one size that a detector has under way at once
constexpr std::size_t kMostRunning = 4;  // and of all sizes

// A detector's model. `bundle` has a manifest made up for a file without one, which takes float planes.
struct DetectorFile {
  Bundle bundle;
  std::string name;
  std::string digest;
  std::string description;
  std::string path;
  std::string model;
  bool takes_frames = false;
  double low = kLow;
};

std::optional<std::string> bytes_of(const fs::path& path) {
  std::error_code failure;
  if (!fs::is_regular_file(path, failure) || fs::file_size(path, failure) > kMostBytes) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

DetectorFile of_file(const fs::path& path, const std::string& description, std::string model) {
  DetectorFile file;
  file.name = path.stem().string();
  file.digest = sha256_hex(model);
  file.description = description;
  file.path = path.string();
  file.model = std::move(model);
  file.bundle.folder = path.parent_path();
  Manifest& manifest = file.bundle.manifest;
  manifest.name = file.name;
  Port input;
  input.name = "input";
  input.role = "frame";
  input.dtype = "float32";
  manifest.inputs.push_back(input);
  Artifact artifact;
  artifact.variant = "fp32";
  artifact.file = {path.filename().string(), file.digest};
  manifest.artifacts.push_back(artifact);
  return file;
}

DetectorFile of_bundle(const fs::path& folder, const std::string& who) {
  if (!fs::is_regular_file(folder / kManifestName)) {
    throw Error(folder.string() + ": no face detector there: give one with --detector FILE");
  }
  DetectorFile file;
  file.bundle = open_bundle(folder.string());
  const Manifest& manifest = file.bundle.manifest;
  const Artifact* artifact = manifest.artifact("fp32");
  if (manifest.task != "face-detection" || artifact == nullptr) {
    throw Error(folder.string() + ": " + manifest.name + " is no face detector");
  }
  file.model = file.bundle.read_model("fp32");
  file.name = manifest.name;
  file.digest = sha256_hex(file.model);
  file.description = manifest.name + " (" + who + ")";
  file.path = (folder / artifact->file.file).string();
  file.takes_frames = true;
  if (manifest.generator == kOwnNet) file.low = kOwnLow;
  return file;
}

DetectorFile asked_for(const fs::path& path, const std::string& who) {
  if (fs::is_directory(path)) return of_bundle(path, who);
  if (!fs::is_regular_file(path)) throw Error(path.string() + ": there is no such face detector (" + who + ")");
  if (fs::file_size(path) > kMostBytes) throw Error(path.string() + ": more than 64 MiB: not a face detector");
  std::optional<std::string> model = bytes_of(path);
  if (!model) throw Error(path.string() + ": cannot be read");
  return of_file(path, path.filename().string() + " (" + who + ")", std::move(*model));
}

// YuNet where Python's runtime keeps it.
std::optional<DetectorFile> cached_yunet() {
  fs::path cache;
  if (const char* place = std::getenv("XDG_CACHE_HOME"); place != nullptr && *place != '\0') {
    cache = place;
  } else if (const char* home = std::getenv("HOME")) {
    cache = fs::path(home) / ".cache";
  } else {
    return std::nullopt;
  }
  const fs::path path = cache / "genedge" / (std::string(kYunetName) + ".onnx");
  std::optional<std::string> model = bytes_of(path);
  if (!model || sha256_hex(*model) != kYunetDigest) return std::nullopt;
  return of_file(path, "YuNet (" + std::string(kYunetName) + ")", std::move(*model));
}

DetectorFile find_detector(const std::string& place) {
  if (!place.empty()) return asked_for(place, "asked for");
  if (const char* chosen = std::getenv(kVariable); chosen != nullptr && *chosen != '\0') {
    return asked_for(chosen, std::string("$") + kVariable);
  }
  if (std::optional<DetectorFile> yunet = cached_yunet()) return *yunet;
  // installed, or in the tree that this was built from
  const fs::path installed = fs::path(GENEDGE_DATA_FOLDER) / "face-detector";
  return of_bundle(fs::is_directory(installed) ? installed : fs::path(GENEDGE_FACES_DATA) / "face-detector",
                   "the own detector");
}

// The net on one size of pictures, and where the results of each slot are. Several threads may use it, each with slots
// of its own.
class SizedNet {
 public:
  SizedNet(const DetectorFile& file, const Choice& choice, const EngineOptions& options, cv::Size size, int slots)
      : takes_frames_(file.takes_frames), slots_(static_cast<std::size_t>(slots)) {
    const Manifest& manifest = file.bundle.manifest;
    engine_ = choice.backend == "tensorrt"
                  ? open_tensorrt(file.model, manifest, choice, options, file.bundle.folder)
                  : open_openvino(file.model, manifest, choice, options);
    const std::vector<std::string> inputs = engine_->input_names(), outputs = engine_->output_names();
    const bool all = std::all_of(head_names().begin(), head_names().end(), [&](const std::string& name) {
      return std::find(outputs.begin(), outputs.end(), name) != outputs.end();
    });
    if (inputs.size() != 1 || !all) {
      throw Error(file.path + ": not a face detector: it needs one input and the outputs cls, obj, bbox and kps of "
                  "strides 8, 16 and 32, as YuNet has them");
    }
    input_.dtype = takes_frames_ ? "uint8" : "float32";
    input_.shape = takes_frames_ ? Shape{1, size.height, size.width, 3} : Shape{1, 3, size.height, size.width};
    name_ = inputs[0];
    engine_->specialise({{name_, input_.shape}}, slots);
    for (Slot& slot : slots_) {
      for (const std::string& name : outputs) {
        Array array{"float32", engine_->output_shape(name), nullptr};
        std::vector<float>& values = slot.values[name];
        values.resize(array.bytes() / sizeof(float));
        array.data = values.data();
        slot.outputs[name] = array;
        slot.heads[name] = {values.data(), static_cast<std::int64_t>(values.size())};
      }
    }
  }

  int slots() const { return static_cast<int>(slots_.size()); }

  // The slot must be free.
  void start(int number, const cv::Mat& picture) {
    Slot& slot = slots_[static_cast<std::size_t>(number)];
    Array array = input_;
    slot.picture = picture;
    array.data = takes_frames_ ? slot.picture.data : planes_of(slot);
    const std::lock_guard lock(starting_);
    engine_->start(number, {{name_, array}}, slot.outputs);
  }

  const Heads& wait(int number) {
    engine_->wait(number);
    return slots_[static_cast<std::size_t>(number)].heads;
  }

 private:
  struct Slot {
    cv::Mat picture;
    std::vector<float> planes;
    std::map<std::string, std::vector<float>> values;
    Arrays outputs;
    Heads heads;
  };

  static void* planes_of(Slot& slot) {
    const cv::Mat& picture = slot.picture;
    const std::size_t count = picture.total();
    slot.planes.resize(3 * count);
    const unsigned char* from = picture.ptr();
    for (std::size_t pixel = 0; pixel < count; ++pixel) {
      for (std::size_t plane = 0; plane < 3; ++plane) slot.planes[plane * count + pixel] = from[3 * pixel + plane];
    }
    return slot.planes.data();
  }

  const bool takes_frames_;
  std::vector<Slot> slots_;
  std::unique_ptr<Engine> engine_;
  std::mutex starting_;
  std::string name_;
  Array input_;
};

// The nets of a detector and its twins.
class Nets {
 public:
  Nets(DetectorFile file, Choice choice, EngineOptions options)
      : file(std::move(file)), choice(std::move(choice)), options_(std::move(options)) {}

  // A number for a detector: which slots are its own.
  int enter() {
    const std::lock_guard lock(mutex_);
    return users_++;
  }

  std::shared_ptr<SizedNet> of(cv::Size size) {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<SizedNet>& net = nets_[{size.width, size.height}];
    if (!net || !enough(*net)) {
      if (nets_.size() > kMostSizes) {
        nets_.clear();
        return nets_[{size.width, size.height}] = made(size);
      }
      net = made(size);
    }
    return net;
  }

  // Make those nets that are missing side by side: most of that work is done by one thread each.
  void prepare(const std::vector<cv::Size>& sizes) {
    std::map<std::pair<int, int>, std::future<std::shared_ptr<SizedNet>>> coming;
    {
      const std::lock_guard lock(mutex_);
      for (const cv::Size size : sizes) {
        const std::pair key(size.width, size.height);
        const auto known = nets_.find(key);
        if (coming.count(key) || (known != nets_.end() && enough(*known->second))) continue;
        coming[key] = std::async(std::launch::async, [this, size] { return made(size); });
      }
    }
    for (auto& [size, net] : coming) {
      std::shared_ptr<SizedNet> ready = net.get();
      const std::lock_guard lock(mutex_);
      nets_[size] = std::move(ready);
    }
  }

  const DetectorFile file;
  const Choice choice;

 private:
  // Whether every detector has slots of its own there.
  bool enough(const SizedNet& net) const { return net.slots() >= kSlots * users_; }

  std::shared_ptr<SizedNet> made(cv::Size size) const {
    return std::make_shared<SizedNet>(file, choice, options_, size, kSlots * users_);
  }

  const EngineOptions options_;
  std::mutex mutex_;
  std::map<std::pair<int, int>, std::shared_ptr<SizedNet>> nets_;
  int users_ = 0;
};

class MultiScaleDetector : public FaceDetector {
 public:
  MultiScaleDetector(std::shared_ptr<Nets> nets, double low) : nets_(std::move(nets)), user_(nets_->enter()) {
    name_ = nets_->file.name;
    digest_ = nets_->file.digest;
    description_ = nets_->file.description + " on " + nets_->choice.backend;
    low_ = low;
  }

  std::vector<Face> detect(const cv::Mat& image, bool thorough) override {
    const cv::Size frame = image.size();
    const std::vector<Pass> normal = passes_for(frame, false);
    std::vector<Pass> passes = thorough ? passes_for(frame, true) : normal;
    if (!thorough) {  // people who lie, or a video that stands on its side
      for (const int turn : turns_) {
        Pass turned = normal[0];
        turned.turn = turn;
        passes.push_back(turned);
      }
      if (closer_frame_ == frame) passes.insert(passes.end(), closer_.begin(), closer_.end());
    }
    const std::vector<Rows> found = search(image, passes);
    const Rows rows = merged(joined_rows(found));
    if (thorough) {
      turns_.clear();
      for (std::size_t place = 0; place < passes.size(); ++place) {
        if (!passes[place].turn) continue;
        const bool kept = std::any_of(found[place].begin(), found[place].end(), [&](const Row& row) {
          return std::find(rows.begin(), rows.end(), row) != rows.end();
        });
        if (kept) turns_.insert(*passes[place].turn);
      }
      closer_ = closer_looks(rows, passes, found, normal, frame);
      closer_frame_ = frame;
    }
    return faces_of(rows);
  }

  std::vector<Face> glance(const cv::Mat& image, int number) override {
    const std::vector<Pass> usual = passes_for(image.size(), false);
    std::vector<Pass> half;
    for (std::size_t place = static_cast<std::size_t>(number % 2); place < usual.size(); place += 2) {
      half.push_back(usual[place]);
    }
    return faces_of(merged(joined_rows(search(image, half.empty() ? usual : half))));
  }

  void prepare(cv::Size size) override {
    const cv::Mat image(size, CV_8UC3, cv::Scalar::all(127));
    std::vector<cv::Size> sizes;
    for (const Pass& pass : passes_for(size, true)) sizes.push_back(pass.picture(image).size());
    nets_->prepare(sizes);
  }

  std::unique_ptr<FaceDetector> twin() const override {
    return std::make_unique<MultiScaleDetector>(nets_, low_);
  }

 private:
  static Rows joined_rows(const std::vector<Rows>& found) {
    Rows all;
    for (const Rows& rows : found) all.insert(all.end(), rows.begin(), rows.end());
    return all;
  }

  struct Running {
    std::shared_ptr<SizedNet> net;
    int slot;
    cv::Size size;
    const Pass* pass;
  };

  // What each of `passes` finds. A few pictures are under way at once, so that the engine always has something to do.
  std::vector<Rows> search(const cv::Mat& image, const std::vector<Pass>& passes) {
    std::vector<Rows> found;
    std::deque<Running> running;
    std::map<SizedNet*, int> used;
    const auto finish_one = [&] {
      const Running one = std::move(running.front());
      running.pop_front();
      const double low = one.pass->turn ? std::max(low_, kTurnedLow) : low_;
      const Rows rows = decode(one.net->wait(one.slot), one.size, low, nets_->file.path);
      found.push_back(one.pass->whole(one.pass->back(rows), image.size()));
    };
    try {
      for (const Pass& pass : passes) {
        const cv::Mat picture = pass.picture(image);
        const std::shared_ptr<SizedNet> net = nets_->of(picture.size());
        const auto busy = [&] {
          return std::count_if(running.begin(), running.end(), [&](const Running& each) { return each.net == net; });
        };
        while (running.size() >= kMostRunning || busy() >= kSlots) finish_one();
        const int slot = kSlots * user_ + used[net.get()]++ % kSlots;
        net->start(slot, picture);
        running.push_back({net, slot, picture.size(), &pass});
      }
      while (!running.empty()) finish_one();
    } catch (const std::exception& error) {
      for (const Running& each : running) {  // they read from pictures that go away with this error
        try {
          each.net->wait(each.slot);
        } catch (const std::exception&) {
        }
      }
      throw Error("the face detector failed: " + std::string(error.what()));
    }
    return found;
  }

  const std::shared_ptr<Nets> nets_;
  const int user_;
  std::set<int> turns_;  // in which faces were found when the last thorough search was
  cv::Size closer_frame_;
  std::vector<Pass> closer_;  // looks at what that alone found, in frames of this size
};

}  // namespace

std::unique_ptr<FaceDetector> open_detector(const DetectorOptions& options) {
  DetectorFile file = find_detector(options.place);
  refuse_external_data(file.model, file.path);
  std::string backend = options.backend;
  if (backend == "auto") backend = has_openvino() ? "openvino" : "tensorrt";
  if (backend == "openvino" && !has_openvino()) {
    throw Error("this program was built without OpenVINO: pip install openvino, then build it again");
  }
  if (backend == "tensorrt") {
    if (!has_tensorrt()) throw Error("this program was built without an engine that finds faces: genedge-run doctor");
    if (const auto trouble = trouble_with_tensorrt()) throw Error("TensorRT cannot be used: " + *trouble);
    if (!file.takes_frames) throw Error(file.path + ": TensorRT takes a detector from a bundle only");
  } else if (backend != "openvino") {
    throw UsageError("faces are found by openvino or tensorrt, not by " + in_quotes(backend));
  }
  const bool half = backend == "openvino" && options.precision == "auto" && has_bf16();
  const Choice choice{backend, half ? "bf16" : "fp32", "fp32", ""};
  EngineOptions engine;
  engine.threads = options.threads;
  engine.streams = options.streams;
  const double low = options.low.value_or(file.low);
  return std::make_unique<MultiScaleDetector>(std::make_shared<Nets>(std::move(file), choice, engine), low);
}

}  // namespace genedge::faces
