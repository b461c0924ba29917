// Where a drawn face goes: runtime/faces/align.py.
#pragma once

#include <optional>
#include <string>

#include <opencv2/core.hpp>

#include "genedge/faces/types.hpp"

namespace genedge::faces {

// Maps (x, y, 1) to (x, y).
using Affine = cv::Matx23d;

// The rotation, uniform scale and shift that bring `source` closest to `target` in squares (Umeyama, PAMI 13(4), 1991).
Affine similarity(const Landmarks& source, const Landmarks& target);

// A similarity that gives way to the affine map by a half: a turned head becomes narrower. Where the affine map
// mirrors, or is more than twice as long one way as the other, it is the similarity alone.
Affine placement(const Landmarks& source, const Landmarks& target);

// How much larger, by area, something is under `matrix`: the absolute determinant.
double growth(const Affine& matrix);

// `image` (8 bits, 1 to 4 channels) under `matrix`, bilinear between pixel centres; beyond its border 0, or where
// `repeated` its edge pixels.
//
// cv::warpAffine rounds coordinates to 1/32 of a pixel before OpenCV 5, which differs by several steps from what later
// ones give; this is as exact as those on every version.
cv::Mat warped(const cv::Mat& image, const Affine& matrix, cv::Size size, bool repeated = false);

// `image` (CV_8UC3) under `matrix`, bicubic, beyond its border its edge pixels; on every version as OpenCV 5 gives it.
cv::Mat warped_smoothly(const cv::Mat& image, const Affine& matrix, cv::Size size);

// Why no face can be drawn on `landmarks`: "no landmarks" or "profile"; empty where one can.
std::string trouble_with(const std::optional<Landmarks>& landmarks);

}  // namespace genedge::faces
