"""More from the frames at hand: ground truth for super-resolution, and content that is harder than the frames are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.frames import Frame

SUPPORT = 2.0  # input pixels on each side that the cubic kernel reaches at scale 1
SHARPNESS = -0.5  # of Keys' cubic convolution kernel, as in the benchmarks of the field
LARGEST_GAIN = 8.0  # of contrast: a frame of less than 32 steps shows mostly noise, and a black one shows nothing else


def reduced(frame: Frame, scale: int) -> Frame:
    """``uint8 (H, W, 3)`` to ``uint8 (H/scale, W/scale, 3)`` with the antialiased bicubic filter, rounded to 8 bit.

    The kernel is stretched by ``scale``, which is what "bicubic degradation" means in super-resolution papers (Keys,
    Cubic Convolution Interpolation for Digital Image Processing, IEEE TASSP 1981). Both sides must be multiples of
    ``scale``; raises ``ValueError`` else.
    """
    height, width = frame.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"a frame of {width}x{height} pixels cannot be reduced by {scale} evenly")
    rows, columns = _weights(height, scale), _weights(width, scale)
    small = np.einsum("ih,hwc->iwc", rows, frame.astype(np.float32), optimize=True)
    small = np.einsum("jw,iwc->ijc", columns, small, optimize=True)
    return np.ascontiguousarray(np.clip(np.round(small), 0, 255).astype(np.uint8))


def _weights(size: int, scale: int) -> NDArray[np.float32]:
    """(size / scale, size): how much a pixel adds to each reduced one. At the border the weights are renormalised."""
    centres = (np.arange(size // scale) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(size)[None] - centres[:, None]) / scale
    near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * SHARPNESS - 4 * SHARPNESS
    weights = np.where(distance < 1, near, np.where(distance < SUPPORT, far, 0.0))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def hardened(frame: Frame, factor: int, contrast: tuple[float, float] | None = None) -> Frame:
    """The frame reduced by ``factor`` and stretched to full contrast: sharper edges than a video mostly shows.

    ``contrast`` are the values that become black and white, by default those that 1 % of the frame's values lie below
    and above. Compressed or dim video drives a net far less than a sharp picture does, and ranges measured on such
    video alone clip the first sharp frame that comes. Sides are cut down to a multiple of ``factor``. Contrast grows to
    ``LARGEST_GAIN`` times at most: the first frame of a run may be black, and the noise of a lens cap is no content.
    """
    low, high = contrast_of(frame) if contrast is None else contrast
    height, width = (side - side % factor for side in frame.shape[:2])
    small = reduced(np.ascontiguousarray(frame[:height, :width]), factor) if factor > 1 else frame
    stretched = (small.astype(np.float32) - low) * min(255 / max(high - low, 1.0), LARGEST_GAIN)
    return np.clip(np.round(stretched), 0, 255).astype(np.uint8)


def contrast_of(frame: Frame) -> tuple[float, float]:
    """The values that 1 % of a frame's values lie below, and above."""
    low, high = np.percentile(frame, (1, 99))
    return float(low), float(high)
