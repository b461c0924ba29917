// What OpenCV's codecs, cameras and windows need is dear to load: with Debian's packages a hundred libraries for pictures
// and as many more for the others. Hence each of the two lies in a library of its own beside this one, in the folder
// genedge-VERSION, and is loaded when it is first used.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/video.hpp"
#include "uri.hpp"

namespace genedge {

/// OpenCV's picture codecs.
struct PictureParts {
  /// 8-bit BGR or, with `alpha`, what channels there are; empty where this is no picture, or one of too many pixels.
  cv::Mat (*decode)(const void* data, std::size_t size, bool alpha);
  /// The bytes of a file with this suffix. Throws VideoError, which names `path`, where it cannot be.
  std::vector<unsigned char> (*encode)(const std::string& path, const std::string& suffix, const cv::Mat& image);
};

/// OpenCV's cameras, GStreamer pipelines and windows; and its video files, which builds without FFmpeg use.
struct DeviceParts {
  std::unique_ptr<Source> (*camera)(const SourceUri& uri, const SourceOptions& options);
  std::unique_ptr<Sink> (*window)(cv::Size size, const SourceInfo& source);
  std::unique_ptr<Sink> (*pipeline)(const SinkUri& uri, const SourceInfo& source, cv::Size size);
  std::unique_ptr<Source> (*video)(const SourceUri& uri);
  std::unique_ptr<Sink> (*video_sink)(const SinkUri& uri, const SourceInfo& source, cv::Size size,
                                      const SinkOptions& options);
};

/// Both throw Error where the library is not there or does not load.
const PictureParts& picture_parts();
const DeviceParts& device_parts();

}  // namespace genedge
