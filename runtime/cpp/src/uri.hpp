// One string names any video: what kind of source or sink it stands for. See runtime/video/uri.py.
#pragma once

#include <string>
#include <vector>

namespace genedge {

enum class SourceKind { camera, file, network, pattern, folder, picture, standard_input, csi, gstreamer };
enum class SinkKind { file, pattern, picture, display, gstreamer, null };

/// A parsed INPUT. `target` is a camera index or device, a path, an address, or a pipeline, by `kind`.
struct SourceUri {
  SourceKind kind;
  std::string target;
  std::string text;
};

/// A parsed OUTPUT. `target` is a path or a pipeline, or empty.
struct SinkUri {
  SinkKind kind;
  std::string target;
  std::string text;
};

/// Throws UsageError where it can be nothing that we know.
SourceUri parse_source(const std::string& text);
SinkUri parse_sink(const std::string& text);

/// A name with one printf-style number, such as frames_%06d.png.
struct NumberedName {
  std::string before, after;
  int digits = 0;  // 0: without leading zeros

  std::string operator()(long long number) const;
  /// The number that a name has here, -1 where it is not of this pattern.
  long long number_in(const std::string& name) const;
};

/// Whether a file's name has a number in it; `count`: how many.
NumberedName numbered_name(const std::string& name, int& count);

const std::vector<std::string>& picture_suffixes();

}  // namespace genedge
