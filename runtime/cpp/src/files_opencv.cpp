// Where FFmpeg's headers were not found: video files and pictures through OpenCV.

#include "parts.hpp"
#include "video_files.hpp"

namespace genedge {

std::unique_ptr<Source> open_video(const SourceUri& uri) { return device_parts().video(uri); }

std::unique_ptr<Sink> open_video_sink(const SinkUri& uri, const SourceInfo& source, cv::Size size,
                                      const SinkOptions& options) {
  return device_parts().video_sink(uri, source, size, options);
}

cv::Mat decoded_png(const unsigned char* data, std::size_t size) { return picture_parts().decode(data, size, true); }

std::string video_library() { return "OpenCV"; }

}  // namespace genedge
