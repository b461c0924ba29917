// Frames, codes and states through an engine.

#include "genedge/session.hpp"

#include <algorithm>
#include <cstring>
#include <deque>
#include <mutex>
#include <stdexcept>

#include "engines.hpp"
#include "genedge/error.hpp"
#include "text.hpp"

namespace genedge {
namespace {

constexpr std::int64_t kMaxStateBytes = std::int64_t{1} << 31;  // a 64-channel float32 state of a 4K frame
constexpr std::int64_t kMaxMapBytes = std::int64_t{1} << 31;

using Bytes = std::vector<unsigned char>;
using Floats = std::vector<float>;

/// Values for the codes of a graph, the default until others are set, and the arrays that an engine reads.
class CodeInputs {
 public:
  explicit CodeInputs(const Manifest& manifest) {
    for (const Port* port : manifest.inputs_of("code")) {
      if (!port->code) {
        throw Error("the manifest of " + manifest.name + " does not say what the code " + port->name +
                    " takes: build the bundle again");
      }
      rules_[port->name] = *port->code;
      now_[port->name] = port->code->default_value;
      if (port->is_map()) maps_.push_back(port->name);
    }
  }

  const std::map<std::string, Code>& rules() const { return rules_; }

  void set(const std::string& name, const std::vector<double>& values) {
    const auto rule = rules_.find(name);
    if (rule == rules_.end()) {
      std::vector<std::string> names;
      for (const auto& each : rules_) names.push_back(each.first);
      throw UsageError("this generator has no code called " + in_quotes(cut(name)) + ", " +
                       (names.empty() ? "and none at all" : "only " + joined(names)));
    }
    try {
      rule->second.check(values);
    } catch (const UsageError& error) {
      throw UsageError(name + ": " + error.what());
    }
    now_[name] = values;
    made_.clear();
  }

  void replace(const std::map<std::string, std::vector<double>>& values) {
    for (const auto& [name, code] : rules_) now_[name] = code.default_value;
    made_.clear();
    for (const auto& [name, each] : values) set(name, each);
  }

  /// What an engine reads for frames of `size`; made once for each change, and never written afterwards.
  const std::map<std::string, std::shared_ptr<Floats>>& arrays(cv::Size size) {
    if (made_.empty() || size != size_) {
      size_ = size;
      for (const auto& [name, values] : now_) {
        const bool map = std::find(maps_.begin(), maps_.end(), name) != maps_.end();
        const std::int64_t each = map ? std::int64_t{size.width} * size.height : 1;
        if (4 * each * static_cast<std::int64_t>(values.size()) > kMaxMapBytes) {
          throw Error("frames of " + std::to_string(size.width) + "x" + std::to_string(size.height) +
                      " need a map of more than 2 GiB");
        }
        auto array = std::make_shared<Floats>();
        for (const double value : values) {
          array->insert(array->end(), static_cast<std::size_t>(each), static_cast<float>(value));
        }
        made_[name] = std::move(array);
      }
    }
    return made_;
  }

 private:
  std::map<std::string, Code> rules_;
  std::vector<std::string> maps_;
  std::map<std::string, std::vector<double>> now_;
  cv::Size size_;
  std::map<std::string, std::shared_ptr<Floats>> made_;
};

/// The shape of a port for frames of `size`. Throws Error for frames that the generator does not take.
Shape shape_for(const Port& port, const Manifest& manifest, const Port& image, cv::Size size) {
  const std::int64_t taken[] = {1, size.height, size.width, 3};
  std::map<std::string, std::int64_t> sizes;
  const auto& big = image.shape;
  if (big[1] != big[2]) {  // else one name would stand for both
    sizes[big[1].name] = std::int64_t{size.height} * manifest.geometry.scale;
    sizes[big[2].name] = std::int64_t{size.width} * manifest.geometry.scale;
  }
  for (int i = 0; i < 4; ++i) sizes[manifest.frame().shape[i].name] = taken[i];
  Shape shape;
  for (const Side& side : port.shape) shape.push_back(side.is_free() ? sizes.at(side.name) : side.size);
  if (port.role == "frame" && shape != Shape(std::begin(taken), std::end(taken))) {
    throw Error("this generator takes frames of " + std::to_string(shape[2]) + "x" + std::to_string(shape[1]) +
                " only, not of " + std::to_string(size.width) + "x" + std::to_string(size.height));
  }
  return shape;
}

void check_names(const std::string& side, std::vector<std::string> found, std::vector<std::string> wanted, bool more,
                 const std::string& variant) {
  std::sort(found.begin(), found.end());
  std::sort(wanted.begin(), wanted.end());
  if (more ? std::includes(found.begin(), found.end(), wanted.begin(), wanted.end()) : found == wanted) return;
  throw Error("the " + variant + " model has the " + side + " " + joined(found) + ", but the manifest describes " +
              joined(wanted) + ": build the bundle again");
}

/// What both kinds of sessions share: ports, codes, and the engine that is specialised to a size.
class GraphSession : public Session {
 public:
  GraphSession(const Bundle& bundle, const Choice& choice, const SessionOptions& options)
      : manifest_(bundle.manifest),
        image_(manifest_.image(options.image)),
        codes_(manifest_),
        engine_(open_engine(bundle, choice, options.engine)),
        in_flight_(std::max(options.in_flight, options.engine.streams)) {
    std::vector<std::string> inputs, outputs = {image_.name};
    for (const Port& port : manifest_.inputs) inputs.push_back(port.name);
    for (const Port& port : manifest_.outputs) {
      if (port.role == "state") outputs.push_back(port.name);
    }
    check_names("inputs", engine_->input_names(), inputs, false, choice.variant);
    check_names("outputs", engine_->output_names(), outputs, true, choice.variant);
  }

  EngineInfo info() const override { return engine_->info(); }
  int in_flight() const override { return in_flight_; }
  int scale() const override { return manifest_.geometry.scale; }
  const std::map<std::string, Code>& codes() const override { return codes_.rules(); }
  void set_code(const std::string& name, const std::vector<double>& values) override { codes_.set(name, values); }
  void set_codes(const std::map<std::string, std::vector<double>>& values) override { codes_.replace(values); }

 protected:
  void specialise(cv::Size size, int slots) {
    size_ = {};
    shapes_.clear();
    for (const Port& port : manifest_.inputs) shapes_[port.name] = shape_for(port, manifest_, image_, size);
    engine_->specialise(shapes_, slots);
    const Shape wanted = {1, std::int64_t{size.height} * scale(), std::int64_t{size.width} * scale(), 3};
    if (engine_->output_shape(image_.name) != wanted) {
      throw Error("the model's image is not " + std::to_string(scale()) +
                  " times the frame, as the manifest says: build the bundle again");
    }
    size_ = size;
  }

  /// An image of `scale` times the size; the caller's where it fits.
  void make(cv::Mat& out, cv::Size size) const {
    out.create(size * scale(), CV_8UC3);
    if (!out.isContinuous()) throw std::invalid_argument("the output's rows must have no gaps");
  }

  Arrays inputs_of(const cv::Mat& frame, const std::map<std::string, std::shared_ptr<Floats>>& codes) const {
    Arrays arrays;
    const std::string& name = manifest_.frame().name;
    arrays[name] = {"uint8", shapes_.at(name), frame.data};
    for (const auto& [code, values] : codes) arrays[code] = {"float32", shapes_.at(code), values->data()};
    return arrays;
  }

  Array image_in(cv::Mat& out) const { return {"uint8", {1, out.rows, out.cols, 3}, out.data}; }

  const Manifest manifest_;
  const Port& image_;
  CodeInputs codes_;
  std::unique_ptr<Engine> engine_;
  int in_flight_;
  cv::Size size_;  // that the engine is ready for
  Shapes shapes_;
};

/// A started request: whoever comes first, the owner of the result or the next request, waits for the engine.
class Running {
 public:
  Running(Engine& engine, int slot, cv::Mat frame, cv::Mat out, std::map<std::string, std::shared_ptr<Floats>> codes)
      : engine_(engine), slot_(slot), frame_(std::move(frame)), out_(std::move(out)), codes_(std::move(codes)) {}

  void settle() {
    const std::lock_guard<std::mutex> held(lock_);
    if (done_) return;
    done_ = true;
    try {
      engine_.wait(slot_);
    } catch (...) {
      failure_ = std::current_exception();
    }
    frame_.release();
    out_.release();
    codes_.clear();
  }

  void result() {
    settle();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  Engine& engine_;
  int slot_;
  cv::Mat frame_, out_;  // the engine knows only their addresses, so they are held until it is done
  std::map<std::string, std::shared_ptr<Floats>> codes_;
  std::mutex lock_;
  bool done_ = false;
  std::exception_ptr failure_;
};

/// A generator without memory: requests run side by side.
class PlainSession : public GraphSession {
 public:
  using GraphSession::GraphSession;

  ~PlainSession() override { settle(); }

  Pending submit(const cv::Mat& frame, cv::Mat& out) override {
    check_frame(frame);
    make(out, frame.size());
    if (frame.size() != size_) prepare(frame.size());
    auto& running = slots_[next_];
    if (running) running->settle();  // it has the oldest request, so the first to end
    const auto& codes = codes_.arrays(frame.size());
    engine_->start(next_, inputs_of(frame, codes), {{image_.name, image_in(out)}});
    running = std::make_shared<Running>(*engine_, next_, frame, out, codes);
    next_ = (next_ + 1) % in_flight_;
    return [running = running] { running->result(); };
  }

  void reset() override {}

  void prepare(cv::Size size) override {
    settle();
    slots_.clear();
    specialise(size, in_flight_);
    slots_.resize(static_cast<std::size_t>(in_flight_));
  }

 private:
  void settle() {
    for (auto& running : slots_) {
      if (running) running->settle();
    }
    next_ = 0;
  }

  std::vector<std::shared_ptr<Running>> slots_;
  int next_ = 0;
};

/// A generator with states: every frame is computed from what the one before has left, in the order of `submit`.
///
/// A state that an output feeds lives in two arrays that change roles after each step; the frame of the step before is
/// copied. A step is computed by whoever waits for it. A step that fails leaves the states as they were before it.
class RecurrentSession : public GraphSession {
 public:
  RecurrentSession(const Bundle& bundle, const Choice& choice, const SessionOptions& options)
      : GraphSession(bundle, choice, options) {
    for (const Port* port : manifest_.inputs_of("state")) {
      if (!port->source || !port->initial) {
        throw Error("the manifest of " + manifest_.name + " does not say what feeds the state " + port->name +
                    ": build the bundle again");
      }
    }
  }

  Pending submit(const cv::Mat& frame, cv::Mat& out) override {
    check_frame(frame);
    make(out, frame.size());
    const bool anew = std::exchange(reset_, false);
    return [this, frame, out, anew, codes = codes_.arrays(frame.size())]() mutable { step(frame, out, anew, codes); };
  }

  void reset() override { reset_ = true; }

  void prepare(cv::Size size) override {
    states_.clear();
    initial_ = true;
    const auto states = manifest_.inputs_of("state");
    std::int64_t bytes = 0;
    for (const Port* port : states) {
      std::int64_t each = 2 * static_cast<std::int64_t>(bytes_of(port->dtype));
      for (const auto side : shape_for(*port, manifest_, image_, size)) {
        if (each > kMaxStateBytes) break;
        each *= side;
      }
      bytes += each;
    }
    if (bytes > kMaxStateBytes) {
      throw Error("frames of " + std::to_string(size.width) + "x" + std::to_string(size.height) +
                  " need states of more than 2 GiB");
    }
    try {
      specialise(size, 1);
    } catch (const Error& error) {
      throw misfit(size, error);
    }
    for (const Port* port : states) {
      const Array array{port->dtype, shapes_.at(port->name), nullptr};
      const bool fed_by_frame = *port->source == manifest_.frame().name;
      states_.push_back({port, Bytes(array.bytes()), fed_by_frame ? Bytes() : Bytes(array.bytes())});
    }
  }

 private:
  struct State {
    const Port* port;
    Bytes value;      // what the next step reads
    Bytes following;  // what it writes; empty where the frame feeds it
  };

  void step(const cv::Mat& frame, cv::Mat& out, bool anew, const std::map<std::string, std::shared_ptr<Floats>>& codes) {
    if (frame.size() != size_) {
      prepare(frame.size());
    } else if (anew && !initial_) {
      for (State& state : states_) std::fill(state.value.begin(), state.value.end(), 0);
      initial_ = true;
    }
    Arrays inputs = inputs_of(frame, codes), outputs = {{image_.name, image_in(out)}};
    for (State& state : states_) {
      const bool own = initial_ && *state.port->initial == "frame";
      const Shape& shape = shapes_.at(state.port->name);
      inputs[state.port->name] = {state.port->dtype, shape, own ? frame.data : state.value.data()};
      if (!state.following.empty()) outputs[*state.port->source] = {state.port->dtype, shape, state.following.data()};
    }
    try {
      engine_->run(inputs, outputs);
    } catch (const Error& error) {
      if (initial_) throw misfit(frame.size(), error);
      throw;
    }
    for (State& state : states_) {
      if (state.following.empty()) {
        std::memcpy(state.value.data(), frame.data, state.value.size());
      } else {
        state.value.swap(state.following);
      }
    }
    initial_ = false;
  }

  /// What to throw where the first step has failed: often because a state does not grow with the frame.
  Error misfit(cv::Size size, const Error& error) const {
    const auto& frame = manifest_.frame().shape;
    if (!frame[1].is_free() && !frame[2].is_free()) return error;
    for (const Port* port : manifest_.inputs_of("state")) {
      const auto& shape = port->shape;
      if (shape.size() > 2 && std::none_of(shape.begin() + 1, shape.end(), [](const Side& s) { return s.is_free(); })) {
        std::vector<std::string> sides;
        for (const Side& side : shape) sides.push_back(side.is_free() ? side.name : std::to_string(side.size));
        return Error("frames of " + std::to_string(size.width) + "x" + std::to_string(size.height) +
                     " do not seem to fit the state " + port->name + ", which is always " + joined(sides, "x") + ": " +
                     error.what());
      }
    }
    return error;
  }

  std::vector<State> states_;
  bool initial_ = true;  // the states hold their initial values
  bool reset_ = false;   // before the request that is submitted next
};

}  // namespace

cv::Mat Session::infer(const cv::Mat& frame) {
  cv::Mat out;
  submit(frame, out)();
  return out;
}

std::vector<cv::Mat> Session::infer(const std::vector<cv::Mat>& frames) {
  std::vector<cv::Mat> images;
  for (const cv::Mat& frame : frames) images.push_back(infer(frame));
  return images;
}

void Session::warm_up(cv::Size size) {
  infer(cv::Mat(size, CV_8UC3, cv::Scalar::all(127)));
  reset();
}

std::unique_ptr<Session> open_session(const Bundle& bundle, const Choice& choice, const SessionOptions& options) {
  if (bundle.manifest.inputs_of("state").empty()) return std::make_unique<PlainSession>(bundle, choice, options);
  return std::make_unique<RecurrentSession>(bundle, choice, options);
}

}  // namespace genedge
