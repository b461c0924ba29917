// Video files: through FFmpeg's libraries where they were found, else through OpenCV.
#pragma once

#include <memory>

#include "genedge/video.hpp"
#include "uri.hpp"

namespace genedge {

/// The end of the name of a file that is not complete, where that is asked for.
inline constexpr const char* kPartial = ".partial";

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

/// Throws VideoError where a frame is not what a sink of `size` takes.
void check_size(const cv::Mat& image, cv::Size size);

/// A PNG file's 8-bit pixels with what channels it has, BGRA for one with alpha; empty where it cannot be read.
cv::Mat decoded_png(const unsigned char* data, std::size_t size);

/// `FFmpeg 59.27` or `OpenCV`: what video files go through.
std::string video_library();

}  // namespace genedge
