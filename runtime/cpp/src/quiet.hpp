#pragma once

#include <opencv2/core/utils/logger.hpp>

namespace genedge {

/// OpenCV prints warnings of its own, such as when a camera does not open; our message says it.
class QuietOpenCv {
 public:
  QuietOpenCv() : before_(cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT)) {}
  ~QuietOpenCv() { cv::utils::logging::setLogLevel(before_); }

 private:
  cv::utils::logging::LogLevel before_;
};

}  // namespace genedge
