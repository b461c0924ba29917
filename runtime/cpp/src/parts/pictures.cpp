// Pictures through OpenCV's codecs. See parts.hpp.

#include <climits>
#include <opencv2/imgcodecs.hpp>

#include "genedge/error.hpp"
#include "parts.hpp"
#include "quiet.hpp"

namespace genedge {
namespace {

cv::Mat decode(const void* data, std::size_t size, bool alpha) {
  if (size == 0 || size > INT_MAX) return {};
  try {
    const QuietOpenCv quiet;
    const cv::Mat bytes(1, static_cast<int>(size), CV_8U, const_cast<void*>(data));
    return cv::imdecode(bytes, alpha ? cv::IMREAD_UNCHANGED : cv::IMREAD_COLOR);
  } catch (const cv::Exception&) {  // more pixels than OpenCV reads
    return {};
  }
}

std::vector<unsigned char> encode(const std::string& path, const std::string& suffix, const cv::Mat& image) {
  std::vector<int> options;
  if (suffix == ".png") options = {cv::IMWRITE_PNG_COMPRESSION, 3};
  if (suffix == ".jpg" || suffix == ".jpeg") options = {cv::IMWRITE_JPEG_QUALITY, 95};
  std::vector<unsigned char> data;
  bool good = false;
  try {
    good = cv::imencode(suffix, image, data, options);
  } catch (const cv::Exception& error) {
    throw VideoError(path + " cannot be written: " + error.err);
  }
  if (!good) throw VideoError(path + " cannot be written: OpenCV cannot encode it");
  return data;
}

}  // namespace
}  // namespace genedge

extern "C" const genedge::PictureParts* genedge_pictures();

const genedge::PictureParts* genedge_pictures() {
  static const genedge::PictureParts parts = {genedge::decode, genedge::encode};
  return &parts;
}
