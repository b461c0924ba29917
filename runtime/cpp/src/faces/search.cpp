#include "faces/search.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <opencv2/imgproc.hpp>

#include "genedge/error.hpp"

namespace genedge::faces {
namespace {

constexpr std::array<int, 3> kStrides = {8, 16, 32};
constexpr int kMultiple = 32;                  // sides of what the net gets
constexpr std::array<int, 2> kLongSides = {640, 320};  // faces of about 10 to 300 pixels are found at a size
constexpr int kTile = 640, kTileStep = 480;    // pixels; a quarter of a tile overlaps
constexpr int kTiledFrom = 960;                // longer side of a frame from which tiles are searched too
constexpr int kMostTiles = 12;                 // of a frame in a normal search: a larger one is reduced before
constexpr int kThoroughTiles = 80;
constexpr int kThoroughSide = 1280;            // longer side at which a small frame is searched thoroughly
constexpr float kSame = 0.35f;                 // overlap from which two boxes are one face
constexpr int kGrey = 114;                     // beside a frame that does not fill its pass
constexpr std::size_t kMost = 500;             // faces of a frame
constexpr std::array<int, 2> kCloserSides = {320, 640};  // of the place of a face that only a thorough search found
constexpr float kCloserLow = 0.4f;             // score from which such a place is looked at
constexpr double kCloserMost = 32;             // pixels of a longer side from which only the mirror shows more
constexpr std::size_t kMostCloser = 6;         // such places; for more, the passes that found them are repeated
constexpr int kX = 4;                          // place of the first landmark in a row
constexpr int kScore = 14;

int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

int up_to_multiple(int side) { return (side + kMultiple - 1) / kMultiple * kMultiple; }

Box box_of(const Row& row) { return {row[0], row[1], row[2], row[3]}; }

bool contains(const std::vector<Pass>& passes, const Pass& pass) {
  return std::find(passes.begin(), passes.end(), pass) != passes.end();
}

// Overlapping tiles over the frame enlarged by `factor`, or by less, so that `most` suffice.
std::vector<Pass> tiles_for(cv::Size frame, int most, double factor = 1.0) {
  const auto count = [&](int side) {
    return std::max(1, static_cast<int>(std::ceil((side * factor - kTile) / kTileStep)) + 1);
  };
  while (count(frame.width) * count(frame.height) > most) factor *= 0.9;
  const int columns = count(frame.width), rows = count(frame.height);
  const int side = static_cast<int>(kTile / factor);  // whole pixels, and never more than a tile of them once enlarged
  const auto place = [side](int all, int number, int numbers) {
    return numbers > 1 ? rounded(static_cast<double>((all - side) * number) / (numbers - 1)) : 0;
  };
  std::vector<Pass> tiles;
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const int left = place(frame.width, column, columns), top = place(frame.height, row, rows);
      tiles.push_back({left, top, std::min(frame.width, left + side), std::min(frame.height, top + side), factor, {}});
    }
  }
  return tiles;
}

// A look like `finding` at the surroundings of `box`, or `finding` itself for a large face.
Pass closer_look(const Pass& finding, const Box& box, cv::Size frame) {
  const double across = std::max(box.width, box.height) * finding.factor;
  for (const int side : kCloserSides) {
    if (3 * across > side) continue;
    const int wide = std::min(frame.width, static_cast<int>(side / finding.factor));
    const int tall = std::min(frame.height, static_cast<int>(side / finding.factor));
    const auto [x, y] = box.center();
    const int left = static_cast<int>(std::clamp(x - wide / 2.0, 0.0, static_cast<double>(frame.width - wide)));
    const int top = static_cast<int>(std::clamp(y - tall / 2.0, 0.0, static_cast<double>(frame.height - tall)));
    return {left, top, left + wide, top + tall, finding.factor, finding.turn, finding.mirror};
  }
  return finding;
}

// Whether `look` sees what `finding` did in `box`, and its surroundings.
bool holds(const Pass& look, const Pass& finding, const Box& box) {
  if (look.factor != finding.factor || look.mirror != finding.mirror) return false;
  const Box around = box.scaled(3);
  return look.left <= around.x && look.top <= around.y && around.x + around.width <= look.right &&
         around.y + around.height <= look.bottom;
}

Head head_of(const Heads& heads, const std::string& name, std::int64_t count, const std::string& who) {
  const auto found = heads.find(name);
  if (found == heads.end() || found->second.count != count) {
    throw Error(who + ": the output " + name + " has another size than YuNet's: it is no YuNet");
  }
  const float* values = found->second.values;
  // the sum is none where one of them is, and takes less time
  double sum = 0;
  for (std::int64_t place = 0; place < count; ++place) sum += values[place];
  if (!std::isfinite(sum)) throw Error("the face detector gave a number that is none");
  return found->second;
}

}  // namespace

cv::Size Pass::size() const {
  return {std::max(1, rounded((right - left) * factor)), std::max(1, rounded((bottom - top) * factor))};
}

cv::Mat Pass::picture(const cv::Mat& image) const {
  cv::Mat piece = image(cv::Rect(left, top, right - left, bottom - top));
  if (piece.size() != size()) {
    cv::Mat made;
    cv::resize(piece, made, size(), 0, 0, factor < 0.6 ? cv::INTER_AREA : cv::INTER_LINEAR);
    piece = made;
  }
  if (turn) {
    cv::Mat turned;
    cv::rotate(piece, turned, *turn);
    piece = turned;
  }
  if (mirror) {
    cv::Mat mirrored;
    cv::flip(piece, mirrored, 1);
    piece = mirrored;
  }
  cv::Mat full(up_to_multiple(piece.rows), up_to_multiple(piece.cols), CV_8UC3, cv::Scalar::all(kGrey));
  piece.copyTo(full(cv::Rect(cv::Point(0, 0), piece.size())));
  return full;
}

Rows Pass::back(Rows rows) const {
  const cv::Size picture = size();
  const float height = static_cast<float>(picture.height), width = static_cast<float>(picture.width);
  const float across = static_cast<float>(static_cast<double>(right - left) / picture.width);
  const float down = static_cast<float>(static_cast<double>(bottom - top) / picture.height);
  for (Row& row : rows) {
    const Row from = row;
    if (mirror) {  // never together with a turn
      row[0] = width - from[0] - from[2];
      for (int point = 0; point < 5; ++point) {
        const int other = kX + 2 * kMirrored[static_cast<std::size_t>(point)];
        row[static_cast<std::size_t>(kX + 2 * point)] = width - from[static_cast<std::size_t>(other)];
        row[static_cast<std::size_t>(kX + 2 * point + 1)] = from[static_cast<std::size_t>(other + 1)];
      }
    }
    for (std::size_t x = kX; turn && x < kScore; x += 2) {
      const std::size_t y = x + 1;
      if (*turn == cv::ROTATE_90_CLOCKWISE) {  // x' = height - y, y' = x
        row[x] = from[y];
        row[y] = height - from[x];
      } else if (*turn == cv::ROTATE_90_COUNTERCLOCKWISE) {  // x' = y, y' = width - x
        row[x] = width - from[y];
        row[y] = from[x];
      } else {
        row[x] = width - from[x];
        row[y] = height - from[y];
      }
    }
    if (turn && *turn == cv::ROTATE_90_CLOCKWISE) {
      row[0] = from[1];
      row[1] = height - from[0] - from[2];
    } else if (turn && *turn == cv::ROTATE_90_COUNTERCLOCKWISE) {
      row[0] = width - from[1] - from[3];
      row[1] = from[0];
    } else if (turn) {
      row[0] = width - from[0] - from[2];
      row[1] = height - from[1] - from[3];
    }
    if (turn && *turn != cv::ROTATE_180) std::swap(row[2], row[3]);
    row[0] = row[0] * across + static_cast<float>(left);
    row[1] = row[1] * down + static_cast<float>(top);
    row[2] *= across;
    row[3] *= down;
    for (std::size_t x = kX; x < kScore; x += 2) {
      row[x] = row[x] * across + static_cast<float>(left);
      row[x + 1] = row[x + 1] * down + static_cast<float>(top);
    }
  }
  return rows;
}

Rows Pass::whole(const Rows& rows, cv::Size frame) const {
  const double edge = 2 / factor;
  const float first = static_cast<float>(left + edge), upper = static_cast<float>(top + edge);
  const float last = static_cast<float>(right - edge), lower = static_cast<float>(bottom - edge);
  const float shared = static_cast<float>((kTile - kTileStep) * 0.8);
  Rows kept;
  for (const Row& row : rows) {
    const bool cut = (left > 0 && row[0] < first) || (top > 0 && row[1] < upper) ||
                     (right < frame.width && row[0] + row[2] > last) ||
                     (bottom < frame.height && row[1] + row[3] > lower);
    // a face as large as what two tiles share may be cut in both
    if (!(cut && std::max(row[2], row[3]) * static_cast<float>(factor) < shared)) kept.push_back(row);
  }
  return kept;
}

std::vector<Pass> passes_for(cv::Size frame, bool thorough) {
  const int side = std::max(frame.width, frame.height);
  const auto all = [&](double factor) { return Pass{0, 0, frame.width, frame.height, factor, {}}; };
  std::vector<Pass> passes;
  for (const int wanted : kLongSides) {
    const double factor = std::min(2.0, static_cast<double>(wanted) / side);
    const bool known = std::any_of(passes.begin(), passes.end(), [factor](const Pass& each) {
      return std::abs(each.factor - factor) <= 0.02 * std::max(each.factor, factor);
    });
    if (!known) passes.push_back(all(factor));
  }
  if (side > kTiledFrom) {
    for (const Pass& tile : tiles_for(frame, thorough ? kThoroughTiles : kMostTiles)) passes.push_back(tile);
  }
  if (thorough) {
    Pass base = passes[0];
    if (side < kThoroughSide) passes.push_back(all(std::min(2.0, static_cast<double>(kThoroughSide) / side)));
    base.mirror = true;
    passes.push_back(base);
    base.mirror = false;
    for (const int turn : {cv::ROTATE_90_CLOCKWISE, cv::ROTATE_180, cv::ROTATE_90_COUNTERCLOCKWISE}) {
      base.turn = turn;
      passes.push_back(base);
    }
  }
  return passes;
}

std::vector<Pass> closer_looks(const Rows& rows, const std::vector<Pass>& passes, const std::vector<Rows>& found,
                               const std::vector<Pass>& normal, cv::Size frame) {
  double finest = 0;
  for (const Pass& each : normal) finest = std::max(finest, each.factor);
  Rows known;
  for (std::size_t place = 0; place < passes.size(); ++place) {
    if (contains(normal, passes[place])) known.insert(known.end(), found[place].begin(), found[place].end());
  }
  std::vector<Pass> looks, finders;
  for (const Row& row : rows) {
    const Box box = box_of(row);
    std::size_t finder = passes.size();
    while (finder-- > 0) {
      if (std::find(found[finder].begin(), found[finder].end(), row) != found[finder].end()) break;
    }
    const Pass& finding = passes.at(finder);
    if (row[kScore] < kCloserLow || finding.turn || contains(normal, finding)) continue;
    if (!finding.mirror && std::max(box.width, box.height) * finest >= kCloserMost) continue;
    const bool seen = std::any_of(known.begin(), known.end(), [&](const Row& other) {
      return box.iou(box_of(other)) >= 0.35;
    });
    if (seen) continue;
    if (!contains(finders, finding)) finders.push_back(finding);
    const bool held = std::any_of(looks.begin(), looks.end(), [&](const Pass& look) {
      return holds(look, finding, box);
    });
    if (!held) looks.push_back(closer_look(finding, box, frame));
  }
  return looks.size() <= kMostCloser ? looks : finders;
}

const std::vector<std::string>& head_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> result;
    for (const int stride : kStrides) {
      for (const char* kind : {"cls_", "obj_", "bbox_", "kps_"}) result.push_back(kind + std::to_string(stride));
    }
    return result;
  }();
  return names;
}

Rows decode(const Heads& heads, cv::Size size, double low, const std::string& who) {
  const float least = static_cast<float>(low * low);
  Rows rows;
  for (const int stride : kStrides) {
    const int columns = size.width / stride;
    const std::int64_t cells = static_cast<std::int64_t>(size.height / stride) * columns;
    const std::string end = std::to_string(stride);
    const Head cls = head_of(heads, "cls_" + end, cells, who), obj = head_of(heads, "obj_" + end, cells, who);
    const Head bbox = head_of(heads, "bbox_" + end, 4 * cells, who);
    const Head kps = head_of(heads, "kps_" + end, 10 * cells, who);
    const float step = static_cast<float>(stride);
    for (std::int64_t cell = 0; cell < cells; ++cell) {
      const float product = std::clamp(cls.values[cell], 0.0f, 1.0f) * std::clamp(obj.values[cell], 0.0f, 1.0f);
      if (!(product >= least)) continue;
      const float place[2] = {static_cast<float>(cell % columns), static_cast<float>(cell / columns)};
      const float* box = bbox.values + 4 * cell;
      const float* points = kps.values + 10 * cell;
      Row row;
      for (std::size_t axis = 0; axis < 2; ++axis) {
        const float center = (place[axis] + box[axis]) * step;
        // in double, because float's differs in its last bit between libraries, and with it what is covered
        const double grown = std::exp(static_cast<double>(std::clamp(box[2 + axis], -8.0f, 8.0f)));
        row[2 + axis] = static_cast<float>(grown) * step;
        row[axis] = center - row[2 + axis] / 2;
      }
      for (std::size_t number = 0; number < 10; ++number) {
        row[kX + number] = (place[number % 2] + points[number]) * step;
      }
      row[kScore] = std::sqrt(product);
      rows.push_back(row);
    }
  }
  return rows;
}

Rows merged(Rows rows) {
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& one, const Row& other) { return one[kScore] > other[kScore]; });
  const auto area = [](const Row& row) { return std::max(1e-6f, row[2] * row[3]); };
  Rows kept;
  while (!rows.empty()) {
    if (kept.size() == kMost) throw Error("the face detector found more than " + std::to_string(kMost) + " faces");
    const Row best = rows.front();
    kept.push_back(best);
    Rows left;  // those that no better one has taken yet
    for (std::size_t place = 1; place < rows.size(); ++place) {
      const Row& other = rows[place];
      const float across = std::min(best[0] + best[2], other[0] + other[2]) - std::max(best[0], other[0]);
      const float down = std::min(best[1] + best[3], other[1] + other[3]) - std::max(best[1], other[1]);
      const float shared = std::max(across, 0.0f) * std::max(down, 0.0f);
      const bool same = shared >= kSame * (area(best) + area(other) - shared);
      // a part of a face that was found at a larger scale is none of its own
      const bool part = shared > 0.8f * area(other) && area(other) < area(best);
      if (!same && !part) left.push_back(other);
    }
    rows = std::move(left);
  }
  return kept;
}

std::vector<Face> faces_of(const Rows& rows) {
  std::vector<Face> faces;
  for (const Row& row : rows) {
    Landmarks points;
    for (std::size_t point = 0; point < points.size(); ++point) {
      points[point] = {row[kX + 2 * point], row[kX + 2 * point + 1]};
    }
    faces.push_back({box_of(row), std::min(1.0, static_cast<double>(row[kScore])), points});
  }
  return faces;
}

}  // namespace genedge::faces
