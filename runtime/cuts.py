"""Where a video begins anew: cuts, seeks and gaps. A recurrent generator starts afresh there.

Everything here decides about a frame before it is computed, from that frame and those before it, so that nothing that a
generator has kept of another shot gets into the new one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.frames import Frame

# A frame is reduced to 32x18 cells, and a change is one minus the correlation of two such pictures, from 0 (the same,
# also where it became lighter or darker) to 2. In 1,309 frames of 9 clips the 8 hard cuts measured 0.68 to 1.24, at
# least 8 times the largest of the four changes before. Motion reached 0.42 (a camera that pans past a close car) and,
# of changes above 0.2, 2.3 times the largest before.
CELLS = (32, 18)  # width, height
SURE_CUT = 0.55
LIKELY_CUT = 0.25  # where it stands out SPIKE times: a cut between similar shots
SPIKE = 3.5
BEFORE = 4  # changes that it must stand out from
LEAST = 6.0  # 8-bit steps: what changes by less on average is no other shot, however little its flat parts correlate
NOISE = 4.0  # 8-bit steps of contrast that all frames are taken to share, so that two nearly flat ones are alike

# A frame is this much later than usual where something is missing: a seek, frames that were lost, a stream that paused.
GAP_SECONDS = 0.5
GAP_INTERVALS = 5  # usual times from frame to frame
USUAL_OF = 25  # intervals whose median is the usual one
SETTLED = 3  # intervals that must be known


class CutDetector:
    """Says of each frame of a video whether a hard cut lies in front of it. Frames may differ in size.

    Dissolves are none: they have no first frame of the new shot.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None
        self._changes: deque[float] = deque(maxlen=BEFORE)

    def __call__(self, image: Frame) -> bool:
        """Whether ``image``, uint8 (H, W, 3) BGR, shows another shot than the last one. False for the first."""
        cells, last = _cells(image), self._last
        self._last = cells
        if last is None:
            return False
        change = _change(last, cells)
        standing_out = len(self._changes) == BEFORE and change >= SPIKE * max(self._changes)
        self._changes.append(change)
        if not (change >= SURE_CUT or (change >= LIKELY_CUT and standing_out)):
            return False
        if float(np.abs(cells - last).mean()) < LEAST:
            return False
        self._changes.clear()  # the new shot has a motion of its own
        return True

    def forget(self) -> None:
        """Compare the next frame with nothing."""
        self._last = None
        self._changes.clear()


def _cells(image: Frame) -> NDArray[np.float32]:
    """Mean colours of ``CELLS``, of every eighth pixel or so: averaging all of them takes 0.7 ms at 720p, this 0.1."""
    width, height = CELLS
    if image.shape[1] > 8 * width and image.shape[0] > 8 * height:
        image = np.asarray(cv2.resize(image, (8 * width, 8 * height), interpolation=cv2.INTER_NEAREST), np.uint8)
    return np.asarray(cv2.resize(image, CELLS, interpolation=cv2.INTER_AREA), dtype=np.float32)


def _change(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = ((one * one).mean() + NOISE**2) * ((other * other).mean() + NOISE**2)
    return 1.0 - (float((one * other).mean()) + NOISE**2) / float(np.sqrt(spread))


class GapDetector:
    """Says of each frame, by its time, whether something is missing in front of it: the time jumps or runs back."""

    def __init__(self) -> None:
        self._last: Fraction | float | None = None
        self._intervals: deque[float] = deque(maxlen=USUAL_OF)

    def __call__(self, pts: Fraction | float) -> bool:
        """``pts``: seconds. False for the first frame."""
        last, self._last = self._last, pts
        if last is None:
            return False
        interval = float(pts - last)
        if interval < 0:
            return True
        known = len(self._intervals) >= SETTLED
        usual = float(np.median(self._intervals)) if known else 0.0
        self._intervals.append(interval)  # also a long one: the rate may have changed for good
        return known and interval > max(GAP_SECONDS, GAP_INTERVALS * usual)


class TimedFrame(Protocol):
    """Such as ``runtime.video.source.VideoFrame``."""

    @property
    def image(self) -> Frame: ...

    @property
    def pts(self) -> Fraction: ...


class Beginnings:
    """Which frames of a video know nothing of those before; for ``run_pipeline(begins=...)``.

    ``cuts`` and ``gaps`` count them. A frame whose source says that there is a ``gap`` in front of it counts as one.
    Where a frame says itself whether it is a ``cut``, its picture is not looked at: it may have become another since.

    Args:
        at_cuts: also look at the pictures, not only at the times.
        before: times in seconds of the frames before the first one, which begins a shot.
    """

    def __init__(self, *, at_cuts: bool = True, before: Sequence[Fraction] = ()) -> None:
        self.cuts = self.gaps = 0
        self._first = self._frames = len(before)
        self._cut_frames: list[int] = []
        self._is_cut = CutDetector() if at_cuts else None
        self._is_gap = GapDetector()
        for pts in before:
            self._is_gap(pts)

    def __call__(self, frame: TimedFrame) -> bool:
        known: bool | None = getattr(frame, "cut", None)
        cut = self._is_cut is not None and (
            self._is_cut(frame.image) if known is None else known
        )  # both see every frame
        gap = self._is_gap(frame.pts) or bool(getattr(frame, "gap", False))
        self.gaps += gap
        self.cuts += cut and not gap
        if cut:
            self._cut_frames.append(self._frames)
        self._frames += 1
        return cut or gap

    def last_cut(self, before: int) -> int:
        """Number of the last frame before the frame ``before`` in front of which there is a cut; where a run begins
        there, it finds the same beginnings after it. Without one: the first frame."""
        return max((frame for frame in tuple(self._cut_frames) if frame < before), default=self._first)

    def to_dict(self) -> dict[str, Any]:
        """The counts, for reports."""
        return {"cuts": self.cuts, "gaps": self.gaps}
