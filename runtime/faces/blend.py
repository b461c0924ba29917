"""Which pixels are replaced, what they are filled with, and how the fill meets the picture.

All arithmetic is on the crops around the covers, in uint8, and on a small copy of them where a smooth fill is wanted.
A pixel is replaced whole where its centre lies in an ellipse (grown by :data:`GUARD` pixels, so that rounding never
shows a pixel); the soft edge is outside of that. Nothing here takes a colour from a pixel that is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import GenedgeError
from runtime.faces.types import Box, changed_box, feather_of
from runtime.frames import Frame

Value = TypeVar("Value", np.uint8, np.float32)

Mask = NDArray[np.uint8]
"""(H, W), 255 where the picture is replaced, 0 where it is left, between them in the soft edge."""

Colour = tuple[float, float, float]
"""Blue, green, red, 0 to 255."""

Window = tuple[int, int, int, int]
"""Left, top, right and bottom (exclusive) in pixels."""

GUARD = 1.0
"""Pixels by which the hard ellipse is larger than the region: it then holds every pixel that the region touches."""

NEUTRAL: Colour = (128.0, 128.0, 128.0)
"""The colour of a region around which nothing of the picture is left."""

FILL_SIDE = 48
"""Longer side in pixels of the small picture in which a smooth fill is computed."""

COLOURLESS, COLOURED = 3.0, 9.0
"""Difference of the largest and the smallest channel, in grey levels, up to which a picture is black and white, and
from which it has its colours."""

COARSE = 4
"""Pixels whose mean is one of the small picture in which the colours of separate regions are found."""

RING_SHARE = 0.08
"""Width of the ring that gives the colours, as a share of the longer side of the group's window."""


@dataclass(frozen=True)
class Group:
    """Covers whose windows touch, replaced together: ``window`` holds all that changes, ``wide`` the ring as well."""

    members: tuple[int, ...]
    window: Window
    wide: Window

    @property
    def inner(self) -> tuple[slice, slice]:
        """Rows and columns of ``window`` inside of ``wide``."""
        (left, top, right, bottom), (x, y, _, _) = self.window, self.wide
        return slice(top - y, bottom - y), slice(left - x, right - x)


@dataclass(frozen=True)
class Merged:
    """The union of all regions of one frame: ``mask`` (H, W) and the groups, whose windows do not overlap."""

    mask: Mask
    groups: tuple[Group, ...]


def cut(image: NDArray[np.uint8], window: Window) -> NDArray[np.uint8]:
    """View of the part of ``image`` in ``window``."""
    left, top, right, bottom = window
    return image[top:bottom, left:right]


def distance(region: Box, window: Window) -> NDArray[np.floating]:
    """How far out the pixels of ``window`` are: 0 in the middle of the region, 1 on its hard ellipse.

    float32, and float64 for regions so large that float32 would misplace their edge.
    """
    left, top, right, bottom = window
    (x, y), (across, down) = region.center, half_axes(region)
    kind = np.float32 if max(across, down) < 4096 else np.float64
    columns = (((np.arange(left, right) + (0.5 - x)) / across) ** 2).astype(kind)
    rows = (((np.arange(top, bottom) + (0.5 - y)) / down) ** 2).astype(kind)
    out: NDArray[np.floating] = np.add(rows[:, None], columns[None, :])
    np.sqrt(out, out=out)
    return out


def half_axes(region: Box) -> tuple[float, float]:
    """Half width and half height of the hard ellipse in pixels."""
    return max(0.0, region.width) / 2 + GUARD, max(0.0, region.height) / 2 + GUARD


def ellipse_mask(region: Box, window: Window) -> Mask:
    """255 in the hard ellipse of ``region``, falling to 0 within at most ``feather_of(region)`` outside of it."""
    slope = 255.0 * max(half_axes(region)) / feather_of(region)
    alpha = distance(region, window)
    alpha *= -slope
    alpha += 255.0 + slope
    np.clip(alpha, 0, 255, out=alpha)
    return alpha.astype(np.uint8)


def inside_mask(region: Box, window: Window) -> Mask:
    """0 on the hard ellipse of ``region`` and outside, rising to 255 within a tenth of its half axes inside of it."""
    alpha = distance(region, window)
    alpha *= -2550.0
    alpha += 2550.0
    np.clip(alpha, 0, 255, out=alpha)
    return alpha.astype(np.uint8)


def merge(regions: Sequence[Box], width: int, height: int) -> Merged:
    """The union of ``regions`` in a frame of ``width`` x ``height``.

    Regions outside of the frame belong to no group. Raises :class:`GenedgeError` for a region that is not finite.
    """
    mask: Mask = np.zeros((height, width), np.uint8)
    groups: list[tuple[tuple[int, ...], Window]] = []
    for index, region in enumerate(regions):
        if not np.isfinite(region).all():
            raise GenedgeError(f"a region to be covered is not finite: {tuple(map(float, region))}")
        window = changed_box(region, width, height)
        if window[2] <= window[0] or window[3] <= window[1]:
            continue
        part = cut(mask, window)
        np.maximum(part, ellipse_mask(region, window), out=part)
        members: tuple[int, ...] = (index,)
        while True:  # a window that grew may touch another group
            touching = [group for group in groups if _touch(group[1], window)]
            if not touching:
                break
            groups = [group for group in groups if group not in touching]
            for others, other in touching:
                members += others
                window = _union(window, other)
        groups.append((members, window))
    return Merged(mask, tuple(_group(tuple(sorted(m)), w, width, height) for m, w in groups))


def colour_share(spread: float) -> float:
    """0 (black and white) to 1 (in colour) for a difference of channels of ``spread`` grey levels."""
    return float(np.clip((spread - COLOURLESS) / (COLOURED - COLOURLESS), 0, 1))


def ring_colour(image: Frame, mask: Mask) -> Colour:
    """Mean colour of the pixels where ``mask`` is 0; :data:`NEUTRAL` where there are none."""
    return _mean(image, _free(mask))


def solid_fill(image: Frame, mask: Mask, *, connected: bool = False) -> Frame:
    """Flat colours for the masked parts of ``image``: for every connected part the mean of the ring around it.

    ``image`` and ``mask`` are of the wide window of a group. ``connected`` says that there is one part only, which
    saves the search for them. Values where ``mask`` is 0 mean nothing.
    """
    out: Frame = np.empty_like(image)
    if connected:
        # a row at a time: three values at a time take ten times as long
        out[:] = np.repeat(np.rint([ring_colour(image, mask)]), image.shape[1], 0).astype(np.uint8)
        return out
    height, width = mask.shape
    size = -(-width // COARSE), -(-height // COARSE)
    border = 0, COARSE * size[1] - height, 0, COARSE * size[0] - width  # so that each small pixel is of whole ones
    padded = cv2.copyMakeBorder(image, *border, cv2.BORDER_REPLICATE)
    share = cv2.copyMakeBorder(_free(mask) * np.uint8(255), *border, cv2.BORDER_REPLICATE)
    small = _resized(np.asarray(padded, np.uint8), size, cv2.INTER_AREA)
    free: Mask = (_resized(np.asarray(share, np.uint8), size, cv2.INTER_AREA) == 255).view(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - free, connectivity=4, ltype=cv2.CV_16U)
    colours = np.zeros((count, 3), np.uint8)
    for label in range(1, count):
        x, y, across, down = (int(value) for value in stats[label, :4])
        edge = max(1, round(_ring_width(COARSE * across, COARSE * down) / COARSE))
        rows = slice(max(0, y - edge), min(size[1], y + down + edge))
        columns = slice(max(0, x - edge), min(size[0], x + across + edge))
        part: NDArray[np.bool_] = labels[rows, columns] == label
        near = cv2.dilate(part.view(np.uint8), np.ones((2 * edge + 1, 2 * edge + 1), np.uint8))
        near = near.astype(np.uint8).reshape(part.shape) & free[rows, columns]
        colours[label] = np.rint(_mean(small[rows, columns], near))
    large = _resized(colours[labels], (COARSE * size[0], COARSE * size[1]), cv2.INTER_NEAREST)
    return large[:height, :width]


def cells_fill(image: Frame, window: Window, whole: Window, count: int, *, smooth: bool) -> Frame:
    """``window`` of ``image`` as means of cells, at most ``count`` x ``count`` of them on ``whole``.

    ``whole`` is the window before it was cut to the frame: the cells of a face that the border cuts are as large as
    those of one in the middle. ``smooth`` joins the cells to a soft picture.
    """
    left, top, right, bottom = window
    across = max(1, int(count * (right - left) / max(1, whole[2] - whole[0])))
    down = max(1, int(count * (bottom - top) / max(1, whole[3] - whole[1])))
    size = (right - left, bottom - top)
    small = _resized(cut(image, window), (min(across, size[0]), min(down, size[1])), cv2.INTER_AREA)
    if smooth:
        small = cv2.GaussianBlur(small, (3, 3), 0.7, borderType=cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)
    return _resized(small, size, cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)


def background_fill(image: Frame, mask: Mask) -> Frame:
    """A smooth continuation of the unmasked pixels of ``image`` (H, W, 3) over the masked ones.

    Pull-push (Gortler et al., The Lumigraph, SIGGRAPH 1996) on a copy of at most :data:`FILL_SIDE` pixels: averages
    of what is known at ever coarser scales fill what is not known at the finer ones. Values where ``mask`` is 0 are a
    blurred ``image``. :data:`NEUTRAL` everywhere where ``mask`` is nowhere 0.
    """
    height, width = mask.shape
    scale = min(1.0, FILL_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    free = _free(mask)
    known = cv2.bitwise_and(image, image, mask=free).astype(np.uint8, copy=False).reshape(image.shape)
    colour = _resized(known, size, cv2.INTER_AREA).astype(np.float32)
    weight = _resized(free * np.uint8(255), size, cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    levels: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = [(colour, weight)]
    while max(weight.shape) > 1:
        half = ((weight.shape[1] + 1) // 2, (weight.shape[0] + 1) // 2)
        colour = _resized(colour, half, cv2.INTER_AREA)
        weight = _resized(weight, half, cv2.INTER_AREA)
        # a coarse pixel of which a part is known counts as known
        gain = np.minimum(np.float32(4), 1 / np.maximum(weight, np.float32(1e-6)))
        colour, weight = colour * gain[..., None], weight * gain
        levels.append((colour, weight))
    filled = np.full((1, 1, 3), NEUTRAL, np.float32)
    for colour, weight in reversed(levels):
        up = _resized(filled, (weight.shape[1], weight.shape[0]), cv2.INTER_LINEAR)
        filled = colour + (1 - weight)[..., None] * up
    small: Frame = np.clip(np.rint(filled), 0, 255).astype(np.uint8)
    return _resized(small, (width, height), cv2.INTER_LINEAR)


def mixed(below: Frame, above: Frame, alpha: Mask) -> Frame:
    """``above`` where ``alpha`` is 255, ``below`` where it is 0, exactly; between them where it is between."""
    weight = cv2.merge((alpha, alpha, alpha))
    shown = cv2.multiply(above, weight, scale=1 / 255)
    left = cv2.multiply(below, cv2.bitwise_not(weight), scale=1 / 255)
    return cv2.add(shown, left).astype(np.uint8, copy=False).reshape(below.shape)


def blend(image: Frame, fill: Frame, mask: Mask, group: Group) -> None:
    """Put ``fill``, which is of the group's ``window``, into ``image`` in place, as much as ``mask`` (H, W) says."""
    target = cut(image, group.window)
    target[:] = mixed(target, fill, cut(mask, group.window))


def _free(mask: Mask) -> Mask:
    """1 where nothing is replaced, else 0."""
    free: NDArray[np.bool_] = mask == 0
    return free.view(np.uint8)


def _mean(image: Frame, chosen: Mask) -> Colour:
    if not chosen.any():
        return NEUTRAL
    blue, green, red, _ = cv2.mean(image, chosen)
    return blue, green, red


def _resized(image: NDArray[Value], size: tuple[int, int], how: int) -> NDArray[Value]:
    """To ``size`` (width, height); OpenCV drops axes of length one, this does not."""
    out = cv2.resize(image, size, interpolation=how)
    shape: tuple[int, ...] = (size[1], size[0], *image.shape[2:])
    shaped: NDArray[Value] = np.asarray(out, image.dtype).reshape(shape)
    return shaped


def _group(members: tuple[int, ...], window: Window, width: int, height: int) -> Group:
    left, top, right, bottom = window
    edge = _ring_width(right - left, bottom - top)
    wide = (max(0, left - edge), max(0, top - edge), min(width, right + edge), min(height, bottom + edge))
    return Group(members, window, wide)


def _ring_width(across: int, down: int) -> int:
    return max(3, round(RING_SHARE * min(400, max(across, down))))


def _touch(one: Window, other: Window) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _union(one: Window, other: Window) -> Window:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
