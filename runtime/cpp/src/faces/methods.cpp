#include "genedge/faces/methods.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <optional>
#include <utility>

#include "faces/align.h"
#include "faces/average.h"
#include "faces/blend.h"
#include "genedge/error.hpp"
#include "text.hpp"

namespace genedge::faces {
namespace {

constexpr int kMosaicCells = 5;     // cells of a mosaic across and down one face, at most
constexpr int kBlurCells = 8;       // cells of a blurred face before they are joined, at most
constexpr double kSmallest = 24.0;  // pixels, shorter side of a face that is drawn; a smaller one gets a flat colour
constexpr int kWhole = 48;          // grey level of a frame that is covered whole

Merged merged_of(const cv::Mat& image, const std::vector<Cover>& covers) {
  std::vector<Box> regions;
  regions.reserve(covers.size());
  for (const Cover& cover : covers) regions.push_back(cover.region);
  return merge(regions, image.cols, image.rows);
}

std::vector<Applied> all_by(const std::string& name, const std::vector<Cover>& covers) {
  std::vector<Applied> applied;
  for (const Cover& cover : covers) applied.push_back({cover.track, name, ""});
  return applied;
}

// Why no face is drawn for `cover`; empty: one can be.
std::string reason_against(const Cover& cover) {
  if (!cover.sure) return "unsure";
  if (std::min(cover.box.width, cover.box.height) < kSmallest) return "small";
  std::string trouble = trouble_with(cover.landmarks);
  if (!trouble.empty()) return trouble;
  const auto [x, y] = cover.region.center();
  const auto [half, tall] = half_axes(cover.region);
  for (const Point& point : *cover.landmarks) {
    const float across = (point.x - static_cast<float>(x)) / static_cast<float>(half);
    const float down = (point.y - static_cast<float>(y)) / static_cast<float>(tall);
    if (across * across + down * down > 1) return "unsure";  // landmarks of another face, or of none
  }
  return "";
}

// `cover` in a picture whose corner is elsewhere.
Cover moved(Cover cover, int dx, int dy) {
  cover.box = cover.box.moved(dx, dy);
  cover.region = cover.region.moved(dx, dy);
  if (cover.landmarks) {
    for (Point& point : *cover.landmarks) {
      point = {static_cast<float>(static_cast<double>(point.x) + dx),
               static_cast<float>(static_cast<double>(point.y) + dy)};
    }
  }
  return cover;
}

// Every connected region in the mean colour of what surrounds it.
class SolidMethod : public Method {
 public:
  const std::string& name() const override { return name_; }

  std::vector<Applied> apply(cv::Mat& image, const std::vector<Cover>& covers) override {
    const Merged merged = merged_of(image, covers);
    for (const Group& group : merged.groups) {
      const cv::Mat fill = solid_fill(image(group.wide.rect()), merged.mask(group.wide.rect()),
                                      group.members.size() == 1);
      blend(image, fill(group.inner()), merged.mask, group);
    }
    return all_by(name_, covers);
  }

 private:
  const std::string name_ = "solid";
};

// Every face in a few cells of their mean colour, sharp (mosaic) or joined (blur).
class CellsMethod : public Method {
 public:
  CellsMethod(std::string name, int count, bool smooth) : name_(std::move(name)), count_(count), smooth_(smooth) {}

  const std::string& name() const override { return name_; }

  std::vector<Applied> apply(cv::Mat& image, const std::vector<Cover>& covers) override {
    const Merged merged = merged_of(image, covers);
    for (const Group& group : merged.groups) {
      std::vector<Box> regions;
      for (const int index : group.members) regions.push_back(covers[static_cast<std::size_t>(index)].region);
      std::sort(regions.begin(), regions.end());
      blend(image, fill(image, regions, group.window), merged.mask, group);
    }
    return all_by(name_, covers);
  }

 private:
  // A pixel of two regions takes the cell of the one whose middle is nearer.
  cv::Mat fill(const cv::Mat& image, const std::vector<Box>& regions, const Window& window) const {
    if (regions.size() == 1) return cells_fill(image, window, uncut_window(regions[0]), count_, smooth_);
    cv::Mat result = cv::Mat::zeros(window.height(), window.width(), CV_8UC3);
    cv::Mat nearest(result.size(), CV_32FC1, cv::Scalar(std::numeric_limits<float>::infinity()));
    for (const Box& region : regions) {
      const Window part = changed_window(region, image.cols, image.rows);
      const cv::Rect view = part.rect() - cv::Point(window.left, window.top);
      const cv::Mat far = distance(region, part);
      cv::Mat near = nearest(view), mine;
      cv::compare(far, near, mine, cv::CMP_LT);
      far.copyTo(near, mine);
      cells_fill(image, part, uncut_window(region), count_, smooth_).copyTo(result(view), mine);
    }
    return result;
  }

  const std::string name_;
  const int count_;
  const bool smooth_;
};

// Every face removed, its surroundings continued over it, and the face of a painter drawn there. A cover on which no
// face can be drawn gets a flat colour; what the painter draws outside of the region is dropped.
class DrawingMethod : public Method {
 public:
  DrawingMethod(std::string name, std::unique_ptr<Painter> painter, std::shared_ptr<const TrackKeys> keys)
      : name_(std::move(name)), painter_(std::move(painter)), keys_(std::move(keys)) {}

  const std::string& name() const override { return name_; }

  std::vector<Applied> apply(cv::Mat& image, const std::vector<Cover>& covers) override {
    const Merged merged = merged_of(image, covers);
    std::vector<std::string> reasons;
    for (const Cover& cover : covers) reasons.push_back(reason_against(cover));
    painter_->look(image, merged.mask);
    for (const Group& group : merged.groups) replace(image, merged, group, covers, reasons);
    std::vector<Applied> applied;
    for (std::size_t index = 0; index < covers.size(); ++index) {
      applied.push_back({covers[index].track, reasons[index].empty() ? name_ : "solid", reasons[index]});
    }
    return applied;
  }

 private:
  // Replace the covers of `group`; `reasons` is completed where the painter fails.
  void replace(cv::Mat& image, const Merged& merged, const Group& group, const std::vector<Cover>& covers,
               std::vector<std::string>& reasons) {
    const cv::Mat wide = image(group.wide.rect()), mask = merged.mask(group.wide.rect());
    const bool connected = group.members.size() == 1;
    std::vector<std::size_t> members(group.members.begin(), group.members.end());
    if (std::none_of(members.begin(), members.end(), [&](std::size_t index) { return reasons[index].empty(); })) {
      return blend(image, solid_fill(wide, mask, connected)(group.inner()), merged.mask, group);
    }
    cv::Mat fill = background_fill(wide, mask);
    // the largest face is the nearest: it is drawn last
    std::stable_sort(members.begin(), members.end(), [&](std::size_t one, std::size_t other) {
      const Box &first = covers[one].region, &second = covers[other].region;
      return first.area() != second.area() ? first.area() < second.area() : first < second;
    });
    std::vector<std::pair<Box, cv::Mat>> drawn;
    for (const std::size_t index : members) {
      if (!reasons[index].empty()) continue;
      const Cover cover = moved(covers[index], -group.wide.left, -group.wide.top);
      const std::optional<cv::Mat> face = painted(wide, fill, cover);
      if (face) {
        drawn.emplace_back(cover.region, *face);
      } else {
        reasons[index] = "engine failed";
      }
    }
    cv::Mat colours;
    for (const std::size_t index : members) {
      if (reasons[index].empty()) continue;
      if (colours.empty()) colours = solid_fill(wide, mask, connected);
      put(fill, colours, covers[index].region.moved(-group.wide.left, -group.wide.top), false);
    }
    for (const auto& [region, face] : drawn) put(fill, face, region, true);
    blend(image, fill(group.inner()), merged.mask, group);
  }

  // `fill` with a face on it, or nothing where the painter failed. `original` cannot be reached through it.
  std::optional<cv::Mat> painted(const cv::Mat& original, const cv::Mat& fill, const Cover& cover) {
    cv::Mat target = fill.clone();
    try {
      painter_->paint(original.clone(), target, cover, *keys_);
    } catch (...) {  // whatever went wrong, the face must not be seen
      return std::nullopt;
    }
    return target;
  }

  // Put `face` into `fill` in the ellipse of `region`, its soft edge inside or outside of it.
  static void put(cv::Mat& fill, const cv::Mat& face, const Box& region, bool inside) {
    const Window window = changed_window(region, fill.cols, fill.rows);
    if (window.empty()) return;
    const cv::Mat alpha = inside ? inside_mask(region, window) : ellipse_mask(region, window);
    cv::Mat target = fill(window.rect());
    mixed(target, face(window.rect()), alpha).copyTo(target);
  }

  const std::string name_;
  const std::unique_ptr<Painter> painter_;
  const std::shared_ptr<const TrackKeys> keys_;
};

}  // namespace

std::unique_ptr<Method> make_method(const std::string& name, std::shared_ptr<const TrackKeys> keys,
                                    std::unique_ptr<Painter> painter) {
  if (name == "solid") return std::make_unique<SolidMethod>();
  if (name == "mosaic") return std::make_unique<CellsMethod>("mosaic", kMosaicCells, false);
  if (name == "blur") return std::make_unique<CellsMethod>("blur", kBlurCells, true);
  if (name == "average") {
    return std::make_unique<DrawingMethod>("average", std::make_unique<AveragePainter>(), std::move(keys));
  }
  if (name == "generator") {
    if (!painter) throw UsageError("the method generator needs a face generator");
    return std::make_unique<DrawingMethod>("generator", std::move(painter), std::move(keys));
  }
  throw UsageError("no method is called " + in_quotes(name) + ": take one of " +
                   joined({std::begin(kMethods), std::end(kMethods)}));
}

void cover_whole(cv::Mat& image) { image.setTo(cv::Scalar::all(kWhole)); }

}  // namespace genedge::faces
