// The contract between the exporter that writes a bundle and the runtime that reads it (see runtime/MANIFEST.md).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "genedge/codes.hpp"
#include "genedge/frame.hpp"

namespace genedge {

inline constexpr int kFormat = 1;
inline constexpr const char* kManifestName = "manifest.json";
inline constexpr std::size_t kMaxManifestBytes = 1 << 20;
inline constexpr int kMaxSide = 1 << 16;

/// A file inside the bundle and the SHA-256 of its bytes.
struct FileRef {
  std::string file;
  std::string sha256;
};

/// A dimension: a number, or a name where it is free.
struct Side {
  int size = 0;      // 0 where it has a name
  std::string name;  // empty where it is a number

  bool is_free() const { return !name.empty(); }
  bool operator==(const Side& other) const { return size == other.size && name == other.name; }
  bool operator!=(const Side& other) const { return !(*this == other); }
};

/// An input or output of the graph; the fields are those of MANIFEST.md, an absent one is empty.
struct Port {
  std::string name;
  std::string role;   // frame | code | state | image | head
  std::string dtype;  // uint8 | float32 | float16 | int64
  std::vector<Side> shape;
  std::optional<std::string> source;
  std::optional<std::string> initial;  // zeros | frame
  std::optional<Code> code;

  /// Whether a code differs from pixel to pixel.
  bool is_map() const { return role == "code" && shape.size() == 4; }
};

/// How input and output sizes relate, and how the frame may be cut; see MANIFEST.md.
struct Geometry {
  int scale = 1;
  SizeRule size_rule;
  int halo = 0;
  bool tileable = false;
  std::optional<cv::Size> fixed_size;
  bool resizes = false;  // fit is `resize`, not `pad`
};

/// One precision variant of the graph. `parity`: engine -> figure -> value.
struct Artifact {
  std::string variant;
  FileRef file;
  std::vector<std::string> float_layers;
  std::map<std::string, std::map<std::string, double>> parity;
  std::string float_precision = "fp32";
};

/// What a variant must reach against PyTorch; one that is absent is not checked.
struct Limits {
  std::optional<int> max_abs;
  std::optional<double> psnr_db;
  std::optional<double> delta_e;
  std::optional<double> changed;

  bool empty() const { return !max_abs && !psnr_db && !delta_e && !changed; }
};

/// An input frame and PyTorch's output for it, both PNG, and the codes that it had, by their port's name.
struct Golden {
  FileRef input;
  FileRef output;
  std::map<std::string, std::vector<double>> codes;
};

struct Weights {
  std::string sha256;
  std::string licence;
  std::string trained_on;
};

struct Manifest {
  std::string name;
  std::string task;
  std::string generator;
  Weights weights;
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  Geometry geometry;
  std::vector<Artifact> artifacts;
  std::map<std::string, Limits> limits;
  std::vector<Golden> golden;
  std::optional<std::string> face;  // the object's JSON text

  /// The input that takes the frames.
  const Port& frame() const;
  /// The outputs that give pictures, the main one first; empty for a face detector.
  std::vector<const Port*> images() const;
  /// The image `name`, or the main one for an empty name. Throws UsageError where there is no such image.
  const Port& image(const std::string& name = "") const;
  std::vector<const Port*> inputs_of(const std::string& role) const;
  /// The artifact of a variant, or nullptr.
  const Artifact* artifact(const std::string& variant) const;
  /// The names of all variants, joined by ", ".
  std::string variants() const;
  /// Throws UsageError where this is a face detector: nothing can be shown of it.
  void check_gives_images() const;
};

/// Read the text of a manifest. Throws ManifestError with the place of the first mistake.
Manifest parse_manifest(std::string_view text);

}  // namespace genedge
