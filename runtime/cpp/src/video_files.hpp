// Video files: through FFmpeg's libraries where they were found, else through OpenCV.
#pragma once

#include <memory>

#include "genedge/video.hpp"
#include "uri.hpp"

namespace genedge {

/// A video file, network stream or standard input.
std::unique_ptr<Source> open_video(const SourceUri& uri);

/// A video file with the source's sound. It appears under its own name only when it is finished.
std::unique_ptr<Sink> open_video_sink(const SinkUri& uri, const SourceInfo& source, cv::Size size,
                                      const SinkOptions& options);

/// Throws UsageError where container, codec and quality do not go together; gives codec and quality.
struct Encoding {
  std::string codec;  // h264 | hevc | vp9
  double crf;
};
Encoding encoding_for(const SinkUri& uri, const SinkOptions& options);

/// Throws VideoError where there is no such file, or nothing in it.
void check_video_file(const SourceUri& uri);

/// `FFmpeg 59.27` or `OpenCV`: what video files go through.
std::string video_library();

}  // namespace genedge
