// Video files through OpenCV, for builds without FFmpeg.
#pragma once

#include <memory>

#include "genedge/video.hpp"
#include "uri.hpp"

namespace genedge {

std::unique_ptr<Source> opencv_video(const SourceUri& uri);
std::unique_ptr<Sink> opencv_video_sink(const SinkUri& uri, const SourceInfo& source, cv::Size size,
                                        const SinkOptions& options);

}  // namespace genedge
