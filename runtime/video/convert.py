"""Conversions between BGR and YUV that OpenCV does faster than swscale, to the same pixels but for rounding.

Told to round accurately, swscale is slow from and to packed colours: it takes four times as long to YUV and twice as
long from it. ``python -m benchmarks.pipeline --only stages`` measures both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.frames import Frame

#: Kr and Kb, the shares of red and blue in luma (BT.601, BT.709, BT.2020, FCC, SMPTE 240M), by swscale's number
LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
_BITS = 10  # behind the point, to which OpenCV rounds the weights of 8-bit pixels


def limited_from_bgr(matrix: int) -> NDArray[np.float64]:
    """Weights ``(3, 4)`` of B, G, R and 1 for Y, U and V in limited range; ``matrix`` is a key of ``LUMA``.

    They are rounded here so that grey has no colour, and white is as light as it shall be.
    """
    red, blue = LUMA[matrix]
    y = np.array([blue, 1 - red - blue, red])
    u = (np.array([1, 0, 0]) - y) / (1 - blue) / 2
    v = (np.array([0, 0, 1]) - y) / (1 - red) / 2
    weights = np.stack([y * 219, u * 224, v * 224]) / 255 * (1 << _BITS)
    rounded = weights.round()
    off = weights.sum(axis=1).round() - rounded.sum(axis=1)
    rows = np.arange(3)
    worst = (np.sign(off)[:, None] * (weights - rounded)).argmax(axis=1)
    rounded[rows, worst] += off  # at most one unit
    return np.column_stack([rounded / (1 << _BITS), [16, 128, 128]])


class BgrTo420:
    """Converts ``uint8 (height, width, 3) BGR``, both even, to ``av.VideoFrame``s of yuv420p in limited range.

    A chroma value is the mean of those of its four pixels.
    """

    def __init__(self, width: int, height: int, matrix: int) -> None:
        self.key = width, height, matrix
        self._matrix, self._weights = matrix, limited_from_bgr(matrix)
        self._packed = np.empty((height, width, 3), np.uint8)
        self._chroma = [np.empty((height, width), np.uint8) for _ in "uv"]

    def __call__(self, image: Frame) -> Any:
        import av
        import cv2

        width, height, matrix = self.key
        frame: Any = av.VideoFrame(width, height, "yuv420p")
        frame.colorspace, frame.color_range = matrix, 1
        luma, *halves = (plane_of(plane) for plane in frame.planes)
        cv2.transform(image, self._weights, self._packed)
        cv2.split(self._packed, [luma, *self._chroma])
        for whole, half in zip(self._chroma, halves, strict=True):
            cv2.resize(whole, (width // 2, height // 2), half, interpolation=cv2.INTER_AREA)
        return frame


def bgr_from_planes(frame: Any) -> Frame:
    """The picture of a gbrp ``av.VideoFrame`` in a new array, ``uint8 (H, W, 3) BGR``."""
    import cv2

    green, blue, red = (plane_of(plane) for plane in frame.planes)
    return np.asarray(cv2.merge((blue, green, red)), dtype=np.uint8)


def plane_of(plane: Any, channels: int = 1) -> NDArray[np.uint8]:
    """A view on an 8-bit plane of an ``av.VideoFrame``: ``(H, W)``, or ``(H, W, channels)`` of packed pixels."""
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width * channels]
    return rows if channels == 1 else rows.reshape(plane.height, plane.width, channels)
