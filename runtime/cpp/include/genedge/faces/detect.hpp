// Finds faces in raw frames, small and large, with YuNet or the own detector: runtime/faces/detect.py and resolve.py.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <opencv2/core.hpp>

#include "genedge/faces/types.hpp"

namespace genedge::faces {

/// Finds faces in raw frames. Used by one thread at a time; every call throws Error where the engine fails or gives a
/// number that is none.
class FaceDetector {
 public:
  virtual ~FaceDetector() = default;

  const std::string& name() const { return name_; }
  /// SHA-256 of the model file.
  const std::string& digest() const { return digest_; }
  /// Where it came from and what it runs on.
  const std::string& description() const { return description_; }
  /// Score, 0 to 1, from which a face counts.
  double low() const { return low_; }

  /// The faces in `image`, CV_8UC3 BGR, best first, each once. `thorough` looks at more scales, which takes a multiple
  /// of the time: for the first frame of a shot and for pictures.
  virtual std::vector<Face> detect(const cv::Mat& image, bool thorough = false) = 0;
  /// As detect(), at half of the scales for an even `number` and at the others for an odd one: for the second look at a
  /// frame that is like the one before.
  virtual std::vector<Face> glance(const cv::Mat& image, int number) = 0;
  /// Make ready for frames of `size`: else the first ones wait, as for each scale the model is compiled.
  virtual void prepare(cv::Size) {}
  /// Another one of the same model, for another thread.
  virtual std::unique_ptr<FaceDetector> twin() const = 0;

 protected:
  std::string name_, digest_, description_;
  double low_ = 0;
};

/// `place`: a bundle's folder or an ONNX file in YuNet's form; empty: that of $GENEDGE_FACE_DETECTOR, else YuNet where
/// `python -m runtime` has fetched it into the user's cache, else the own one. `low`: score from which a face counts;
/// nothing: what suits the detector. `precision`: auto computes in bf16 where the processor does, fp32 never.
struct DetectorOptions {
  std::string place;
  std::optional<double> low;
  std::string backend = "auto";  // openvino | tensorrt
  std::string precision = "auto";
  int threads = 0;
  int streams = 1;
};

/// Throws Error where the detector is missing, damaged or none.
std::unique_ptr<FaceDetector> open_detector(const DetectorOptions& options = {});

}  // namespace genedge::faces
