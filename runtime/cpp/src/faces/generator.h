// Draws faces with a generator that sees no face, only what is left of one after 8 x 8 mean colours and softened
// landmarks: runtime/faces/generator.py and sanitise.py.
#pragma once

#include <array>
#include <memory>

#include <opencv2/core.hpp>

#include "faces/align.h"
#include "genedge/faces/methods.hpp"
#include "genedge/session.hpp"

namespace genedge::faces {

inline constexpr int kCropSide = 96;  // pixels of a crop, across and down
inline constexpr int kCropCells = 8;  // cells of the thumbnail, across and down

// Mean colours BGR, 0..255, of the cells of the erased part of a crop, row by row.
using Thumbnail = std::array<cv::Vec3f, kCropCells * kCropCells>;

// What goes into the generator. `landmarks`: x and y of the five, -1..1 from one edge of the crop to the other. `matrix`
// maps pixels of the image to pixels of the crop.
struct SanitisedFace {
  cv::Mat frame;
  std::vector<double> landmarks;
  Affine matrix;
};

// The similarity from pixels of the image to those of the crop. Throws Error where the landmarks fall together.
Affine crop_matrix(const Landmarks& landmarks);

// The crop of `image`, CV_8UC3; beyond the border its edge pixels are repeated.
cv::Mat aligned(const cv::Mat& image, const Affine& matrix);

Thumbnail thumbnail_of(const cv::Mat& crop);

// The crop of `surroundings`, from which the face has been taken, with `thumbnail` and the noise of `seed` in its place.
SanitisedFace sanitised(const cv::Mat& surroundings, const Landmarks& landmarks, std::uint64_t seed,
                        const Thumbnail& thumbnail);

// Draw `face`, a crop, into `image` in place, from forehead to chin and ear to ear, with a soft edge.
void put_back(const cv::Mat& face, const Affine& matrix, cv::Mat& image);

// Draws one face at a time with the session of a face-deid bundle. Throws Error where it takes other codes than
// landmarks (10 numbers) and passcode (bits).
std::unique_ptr<Painter> make_generator_painter(std::unique_ptr<Session> session);

}  // namespace genedge::faces
