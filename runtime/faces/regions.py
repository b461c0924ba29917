"""The geometry of what is covered: regions that hold others, landmarks that can be drawn on, smooth boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from runtime.faces.track import MOST_NUMBER, SMOOTHED, Matrix, Sight, Track, size_of
from runtime.faces.types import Box, Landmarks

CLOSE = 1.03  # of an ellipse's size
SWAY = 0.08  # of the face's size that smoothed landmarks may be beside those of the frame
_POINTS = 16
_CIRCLE = [
    (math.cos(angle) / math.cos(math.pi / _POINTS), math.sin(angle) / math.cos(math.pi / _POINTS))
    for angle in (2 * math.pi * place / _POINTS for place in range(_POINTS))
]  # the corners of a polygon around the unit circle


def enclosing(regions: Sequence[Box]) -> Box:
    """A box whose inscribed ellipse holds those of all ``regions``, because it is ellipses that are replaced.

    The ellipse of the regions' common bounding box, which leaves out its corners, enlarged as far as it has to be.
    """
    hull = regions[0]
    for region in regions[1:]:
        hull = hull.union(region)
    if len(regions) == 1:
        return hull
    (x, y), across, down = hull.center, max(1e-6, hull.width / 2), max(1e-6, hull.height / 2)
    most = 1.0
    for region in regions:
        if region == hull:
            continue
        center = region.center
        left, top = (center[0] - x) / across, (center[1] - y) / down
        half, tall = region.width / 2 / across, region.height / 2 / down
        enough = math.hypot(left, top) + max(half, tall)  # by the triangle inequality
        if enough <= CLOSE:  # a finer look would save little
            most = max(most, enough * enough)
            continue
        for cos, sin in _CIRCLE:
            most = max(most, (left + half * cos) ** 2 + (top + tall * sin) ** 2)
    return hull if most == 1.0 else hull.scaled(math.sqrt(most))


def plausible(landmarks: Landmarks, ease: float = 0.0) -> bool:
    """Whether five landmarks are those of a face that can be drawn.

    In the picture, the eyes above the mouth, the head rolled by less than about 70 degrees; the distance of the eyes
    0.45 to 2.5 times that of eyes and mouth (about 1 from the front, it shrinks when the head turns); the nose between
    the eyes (0.15 to 0.85 of the way, 0.5 from the front) and between eyes and mouth. ``ease``, such as 0.1, widens
    these ranges to both sides: for a face that was one in the frame before.
    """
    (rx, ry), (lx, ly), (nx, ny), (mrx, mry), (mlx, mly) = landmarks.tolist()
    across_x, across_y = lx - rx, ly - ry
    eyes_x, eyes_y = (rx + lx) / 2, (ry + ly) / 2
    down_x, down_y = (mrx + mlx) / 2 - eyes_x, (mry + mly) / 2 - eyes_y
    width, height = math.hypot(across_x, across_y), math.hypot(down_x, down_y)
    if not (4 <= width < MOST_NUMBER and 4 <= height < MOST_NUMBER):  # too small to tell, or no numbers
        return False
    if not 0.45 - ease <= width / height <= 2.5 + ease:
        return False
    if across_x < 0.3 * width or down_y < 0.3 * height:  # rolled by more than 72 degrees, or upside down
        return False
    along = ((nx - rx) * across_x + (ny - ry) * across_y) / width**2
    below = ((nx - eyes_x) * down_x + (ny - eyes_y) * down_y) / height**2
    return bool(0.15 - ease <= along <= 0.85 + ease and -ease <= below <= 1.0 + ease)


def smooth(track: Track, here: Sight) -> tuple[Box, Landmarks | None]:
    """Box and landmarks of a sight, averaged with as many sights before as after, so that an even motion has no lag.

    Over as many of SMOOTHED frames to both sides as there are sights, and as long as the average stays near the sight
    itself: a turn of the head is not to be smoothed away. Without sights after it, the landmarks that were smoothed
    with those before, and the box as it is.
    """
    box, landmarks = here.box, here.steady
    sides: list[tuple[Sight, Sight]] = []
    while len(sides) < SMOOTHED:
        steps = len(sides) + 1
        before, after = track.at(here.index - steps), track.at(here.index + steps)
        if before is None or after is None:
            break
        sides.append((before, after))
    if not sides:
        return box, landmarks
    boxes = np.array([here.box, *(side.box for pair in sides for side in pair)], np.float64)
    for reach in range(len(sides), 0, -1):
        mean = Box(*_mean(boxes, reach).tolist())
        if mean.iou(box) > 0.8:  # else it turns faster than the average can follow
            box = mean
            break
    if here.landmarks is None:
        return box, None
    known = next((k for k, pair in enumerate(sides) if any(side.landmarks is None for side in pair)), len(sides))
    points = np.array([here.landmarks, *(side.landmarks for pair in sides[:known] for side in pair)], np.float64)
    for reach in range(known, 0, -1):
        average = _mean(points, reach)
        if float(np.abs(average - here.landmarks).max()) <= SWAY * size_of(here.box):
            return box, np.asarray(average, np.float32)
    return box, landmarks


def _mean(values: Matrix, reach: int) -> Matrix:
    """Of the first of ``values`` and ``reach`` pairs around it, the nearest first: weights fall to the outside."""
    weights = np.array([reach + 1.0, *(reach + 1.0 - steps for steps in range(1, reach + 1) for _ in range(2))])
    return np.asarray(np.tensordot(weights / weights.sum(), values[: len(weights)], 1), np.float64)
