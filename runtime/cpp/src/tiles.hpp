// Frames of any size through a session: padding to the generator's size rule, exact tiles, resizing.
//
// A tile reads a window of the frame and keeps only the part of the result whose whole receptive field (the halo) lies
// in the window, or reaches over the frame's true border. See runtime/tiles.py, whose plans these are.
#pragma once

#include <memory>
#include <vector>

#include "genedge/session.hpp"

namespace genedge {

/// In input pixels: the window's top left corner in the padded frame, and the part of the frame that it contributes.
struct Tile {
  cv::Point window;
  cv::Rect part;
};

/// Tiles that cover `frame`, which is first padded at the bottom and right to `padded`; every window is of size `tile`.
struct TilePlan {
  cv::Size frame;
  cv::Size padded;
  cv::Size tile;
  std::vector<Tile> tiles;
};

/// Smallest side of a tile: both halos, one step between them, and what the size rule asks for.
int smallest_tile(int halo, const SizeRule& rule);

/// Cut a frame into the smallest number of tiles of one shape, spread evenly. `fixed_shape`: the engine takes this tile
/// only, so a smaller frame is padded up to it; otherwise the tile shrinks to the frame.
/// Throws UsageError where the tile is too small for the halo, or breaks the rule.
TilePlan plan_tiles(cv::Size frame, cv::Size tile, int halo, const SizeRule& rule, bool fixed_shape = false);

/// Repeat the bottom row and the right column until the frame has the size of `out`.
void pad_into(const cv::Mat& frame, cv::Mat& out);

/// Resize into `out`: an axis that shrinks is averaged (INTER_AREA), then one that grows interpolated (INTER_CUBIC).
void resize_into(const cv::Mat& image, cv::Mat& out);

std::unique_ptr<Session> padded_session(std::unique_ptr<Session> inner, const SizeRule& rule);
std::unique_ptr<Session> resized_session(std::unique_ptr<Session> inner, cv::Size size);
std::unique_ptr<Session> tiled_session(std::unique_ptr<Session> inner, cv::Size tile, int halo, const SizeRule& rule,
                                       bool fixed_shape);

/// Wrap a session so that it takes frames of `size`, as the bundle's geometry says; see `open_stage`.
std::unique_ptr<Session> fit_session(std::unique_ptr<Session> session, const Geometry& geometry, cv::Size size,
                                     int tile);

}  // namespace genedge
