"""What the parts of the face pipeline hand to each other.

    detector -> Face -> guard -> Verdict of Covers -> method -> covered frame

Coordinates are pixels of the upright frame, x to the right, y down, and may lie outside of it: a face that the border
cuts keeps its true box. Nothing here keeps pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.frames import Frame

MIRRORED = [1, 0, 2, 4, 3]
"""Order of the landmarks of a face that is seen in a mirror."""

Landmarks = NDArray[np.float32]
"""(5, 2), x and y in pixels: the person's right eye, left eye, tip of the nose, right and left corner of the mouth.

The person's right eye is the left one in a picture of a face that looks at the camera (as YuNet orders them).
"""


class Box(NamedTuple):
    """A rectangle: left, top, width and height in pixels, as floats."""

    x: float
    y: float
    width: float
    height: float

    @property
    def center(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    def scaled(self, across: float, down: float | None = None) -> Box:
        """About its centre, ``across`` times as wide and ``down`` (by default ``across``) times as high."""
        down = across if down is None else down
        (x, y), width, height = self.center, self.width * across, self.height * down
        return Box(x - width / 2, y - height / 2, width, height)

    def moved(self, dx: float, dy: float) -> Box:
        return Box(self.x + dx, self.y + dy, self.width, self.height)

    def union(self, other: Box) -> Box:
        """The smallest box that holds both."""
        x, y = min(self.x, other.x), min(self.y, other.y)
        right = max(self.x + self.width, other.x + other.width)
        bottom = max(self.y + self.height, other.y + other.height)
        return Box(x, y, right - x, bottom - y)

    def intersection(self, other: Box) -> float:
        """Area that both cover, in square pixels."""
        width = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        height = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0.0, width) * max(0.0, height)

    def iou(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        common = self.intersection(other)
        whole = self.area + other.area - common
        return common / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class Face:
    """A detection in one frame: the box of the face from forehead to chin, its score 0..1, and its landmarks."""

    box: Box
    score: float
    landmarks: Landmarks | None = None


class FaceDetector(Protocol):
    """Finds faces in raw frames. Used by one thread at a time.

    ``name`` and ``digest`` (sha256 of the model file) are for the report; ``description`` says where it came from.
    """

    name: str
    digest: str
    description: str

    def detect(self, image: Frame, *, thorough: bool = False) -> list[Face]:
        """The faces in ``image``, uint8 (H, W, 3) BGR, best first, each once.

        All with a score of at least the detector's low threshold. ``thorough`` looks at more scales, which takes a
        multiple of the time: for the first frame of a shot and for pictures.

        Raises :class:`runtime.errors.GenedgeError` where the engine fails or gives a number that is none.
        """
        ...

    def close(self) -> None: ...


CoverKind = Literal["detected", "held", "filled", "interpolated", "rechecked"]
"""Why a region is covered: found in this very frame; kept after the last sight of it; covered before its first sight
(backward fill); between two sights; found in the covered output."""


@dataclass(frozen=True)
class Cover:
    """One face of one frame that has to be replaced.

    ``box`` is where the face is taken to be, ``region`` the box of what must be replaced entirely (an upright ellipse
    fits ``box.scaled(1.6, 1.8)`` and lies in ``region``: the method replaces the whole *rectangle's inscribed ellipse*
    of ``region``; growth and uncertainty are in it already). ``score`` is that of the latest detection of the track,
    ``landmarks`` those of this frame, smoothed or interpolated, None where they are not known. ``sure``: good enough
    for a method that draws a face (else it falls back to solid).
    """

    track: int
    box: Box
    region: Box
    kind: CoverKind
    score: float
    landmarks: Landmarks | None
    sure: bool


@dataclass(frozen=True)
class Verdict:
    """What was decided about the frame ``index``, and nothing else lets a frame out.

    ``ok``: every face in it that is known of is in ``covers``. Otherwise the frame is covered whole, and ``reason``
    says why in a few words, such as ``detector failed``.
    """

    index: int
    ok: bool
    covers: tuple[Cover, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Applied:
    """What a method did to one cover: ``method`` that was used in the end, and ``reason`` where it is not the one asked
    for, such as ``small``, ``no landmarks``, ``unsure``, ``profile``, ``engine failed``."""

    track: int
    method: str
    reason: str = ""


class TrackKeys(Protocol):
    """Secrets of one recording, a different one for every track. See ``runtime.faces.passcode``."""

    def number(self, track: int, below: int) -> int:
        """A number from 0 to ``below`` - 1, the same for the same passcode, recording and track."""
        ...

    def bits(self, track: int, count: int) -> NDArray[np.float32]:
        """(count,) of 0 and 1, the same for the same passcode, recording and track."""
        ...


class Method(Protocol):
    """Replaces faces. Used by one thread at a time."""

    name: str

    def apply(self, image: Frame, covers: Sequence[Cover]) -> list[Applied]:
        """Replace every cover in ``image``, uint8 (H, W, 3) BGR, in place, and say what was done, one for each cover.

        No pixel inside the ellipse of a region keeps its value or a value that tells more than the method allows. All
        regions are merged first, so a pixel that two of them share is replaced once, from outside of both. The feather
        lies outside of the regions. A method that cannot do one cover uses solid for it.
        """
        ...

    def close(self) -> None: ...


def feather_of(region: Box) -> float:
    """Width in pixels of the soft edge outside of a region: a tenth of its shorter side, at least 1, at most 24."""
    return float(min(24.0, max(1.0, 0.1 * min(region.width, region.height))))


def changed_box(region: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of all pixels that covering ``region`` may change, feather included, cut to
    a frame of ``width`` x ``height``; empty (right <= left) where it lies outside."""
    left, top, right, bottom = uncut_box(region)
    return max(0, left), max(0, top), min(width, right), min(height, bottom)


def uncut_box(region: Box) -> tuple[int, int, int, int]:
    """:func:`changed_box` in a frame without borders."""
    edge = feather_of(region) + 1
    return (
        int(np.floor(region.x - edge)),
        int(np.floor(region.y - edge)),
        int(np.ceil(region.x + region.width + edge)),
        int(np.ceil(region.y + region.height + edge)),
    )


Locate = Callable[[int, Box, int], tuple[Box, float]]
"""(frame index, box there, other frame index) -> where the same picture is in the other frame, and how alike, 0..1."""
