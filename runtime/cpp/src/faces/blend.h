// Which pixels are replaced, what they are filled with, and how the fill meets the picture: runtime/faces/blend.py.
//
// Images are CV_8UC3 BGR, masks CV_8UC1: 255 where the picture is replaced, 0 where it is left, between them in the
// soft edge. Nothing here takes a colour from a pixel that is replaced.
#pragma once

#include <vector>

#include <opencv2/core.hpp>

#include "genedge/faces/types.hpp"

namespace genedge::faces {

// The colour of a region around which nothing of the picture is left.
inline const cv::Vec3d kNeutral{128.0, 128.0, 128.0};

// Covers whose windows touch, replaced together: `window` holds all that changes, `wide` the ring as well.
struct Group {
  std::vector<int> members;
  Window window;
  Window wide;

  // `window` inside of `wide`.
  cv::Rect inner() const { return {window.left - wide.left, window.top - wide.top, window.width(), window.height()}; }
};

// The union of all regions of one frame, and the groups, whose windows do not overlap.
struct Merged {
  cv::Mat mask;
  std::vector<Group> groups;
};

// How far out the pixels of `window` are: 0 in the middle of the region, 1 on its hard ellipse. CV_32F; for regions so
// large that float would misplace their edge it is computed in double.
cv::Mat distance(const Box& region, const Window& window);

// Half width and half height of the hard ellipse in pixels.
std::pair<double, double> half_axes(const Box& region);

// 255 in the hard ellipse of `region`, falling to 0 within at most feather_of(region) outside of it.
cv::Mat ellipse_mask(const Box& region, const Window& window);

// 0 on the hard ellipse and outside, rising to 255 within a tenth of its half axes inside of it.
cv::Mat inside_mask(const Box& region, const Window& window);

// The union of `regions` in a frame of `width` x `height`. Throws Error for a region that is not finite.
Merged merge(const std::vector<Box>& regions, int width, int height);

// 0 (black and white) to 1 (in colour) for a difference of channels of `spread` grey levels.
double colour_share(double spread);

// Flat colours for the masked parts of `image`: for every connected part the mean of the ring around it. Values where
// `mask` is 0 mean nothing. `connected`: there is one part only.
cv::Mat solid_fill(const cv::Mat& image, const cv::Mat& mask, bool connected);

// `window` of `image` as means of cells, at most `count` x `count` of them on `whole`, the window before it was cut to
// the frame. `smooth` joins the cells to a soft picture.
cv::Mat cells_fill(const cv::Mat& image, const Window& window, const Window& whole, int count, bool smooth);

// A smooth continuation of the unmasked pixels of `image` over the masked ones.
cv::Mat background_fill(const cv::Mat& image, const cv::Mat& mask);

// `above` where `alpha` is 255, `below` where it is 0, exactly; between them where it is between.
cv::Mat mixed(const cv::Mat& below, const cv::Mat& above, const cv::Mat& alpha);

// Put `fill`, which is of the group's window, into `image` in place, as much as `mask` (of all of the image) says.
void blend(cv::Mat& image, const cv::Mat& fill, const cv::Mat& mask, const Group& group);

}  // namespace genedge::faces
