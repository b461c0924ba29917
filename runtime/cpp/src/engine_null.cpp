#include <cstring>
#include <stdexcept>

#include "engines.hpp"

namespace genedge {
namespace {

class NullEngine : public Engine {
 public:
  NullEngine(const Manifest& manifest, const Choice& choice) : manifest_(manifest) {
    info_ = {"null", choice.precision, choice.variant, "none", 1};
  }

  std::vector<std::string> input_names() const override { return names(manifest_.inputs); }
  std::vector<std::string> output_names() const override { return names(manifest_.outputs); }

  void specialise(const Shapes& inputs, int) override { frame_ = inputs.at(manifest_.frame().name); }

  Shape output_shape(const std::string& name) const override {
    for (const Port& port : manifest_.outputs) {
      if (port.name == name && port.role == "image") {
        return {frame_[0], frame_[1] * manifest_.geometry.scale, frame_[2] * manifest_.geometry.scale, 3};
      }
    }
    throw std::invalid_argument("the null engine gives images only, not " + name);
  }

  void start(int, const Arrays& inputs, const Arrays& outputs) override {
    const Array& frame = inputs.at(manifest_.frame().name);
    const auto* pixels = static_cast<const unsigned char*>(frame.data);
    const auto scale = manifest_.geometry.scale;
    for (const auto& [name, array] : outputs) {
      auto* target = static_cast<unsigned char*>(array.data);
      if (!is_image(name)) {
        std::memset(target, 0, array.bytes());
        continue;
      }
      const auto rows = frame.shape[0] * frame.shape[1], columns = frame.shape[2], width = columns * scale * 3;
      for (std::int64_t y = 0; y < rows; ++y) {
        unsigned char* row = target + y * scale * width;
        for (std::int64_t x = 0; x < columns * scale; ++x) std::memcpy(row + 3 * x, pixels + 3 * (x / scale), 3);
        for (int i = 1; i < scale; ++i) std::memcpy(row + i * width, row, static_cast<std::size_t>(width));
        pixels += 3 * columns;
      }
      pixels = static_cast<const unsigned char*>(frame.data);
    }
  }

  void wait(int) override {}

 private:
  static std::vector<std::string> names(const std::vector<Port>& ports) {
    std::vector<std::string> result;
    for (const Port& port : ports) result.push_back(port.name);
    return result;
  }

  bool is_image(const std::string& name) const {
    for (const Port& port : manifest_.outputs) {
      if (port.name == name) return port.role == "image";
    }
    return false;
  }

  Manifest manifest_;
  Shape frame_;
};

}  // namespace

std::unique_ptr<Engine> open_null(const Manifest& manifest, const Choice& choice) {
  return std::make_unique<NullEngine>(manifest, choice);
}

}  // namespace genedge
