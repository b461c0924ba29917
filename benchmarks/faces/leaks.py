"""Whether pixels of a face are still to be seen in the covered output.

A pixel counts as uncovered where it is close to the original's *and* the small structure around it is the original's:
a flat cover can have a cheek's colour by chance, and another person's face has an eye where the face has one. Only
pixels with structure in the original are asked, unless a face has nearly none. How close is close is measured frame by
frame outside of all faces, where nothing was covered: a codec's noise passes, a cover does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.faces.reference import FaceTrack
from runtime.errors import GenedgeError
from runtime.faces.types import Box, Face
from runtime.frames import Frame

SHARE = 0.10  # of a face's ellipse that may be uncovered, as notes of redaction makers have it
ACROSS = 64  # pixels of a face's width that are compared at most: larger ones are shrunk, which removes a codec's noise
WINDOW = 7  # pixels of the small structure
ALIKE = 0.85  # least correlation of a window with the original's
GAIN = 0.6  # least contrast of a window against the original's: a blurred face has less
STRUCTURE = (1.0, 4.0)  # least standard deviation of a window, in 8-bit steps, that is not flat: dark and bright face
OF_SPREAD = 0.25  # between the two, this share of the standard deviation of the whole face
CLOSE = (2.0, 12.0)  # least and greatest noise, in 8-bit steps; with more, another face of that colour would pass
CLOSE_OF_SPREAD, CLOSE_MOST = 0.3, 6.0  # where there is less noise: a share of the face's standard deviation, at most
QUANTILE = 0.95  # of the distances outside of faces that are a codec's noise
OUTSIDE = 2.2  # a face's box grown so many times is kept out of that measure
GRID = 64  # pixels of a side of the places outside that are measured
PLACES = 60  # such places a frame, at most
GREY = np.array([0.114, 0.587, 0.299], np.float32)  # BGR weights of BT.601 luma
FEW = 0.15  # with less of the ellipse structured, all its pixels are asked


@dataclass(frozen=True)
class Leak:
    """A face that the covered frame ``frame`` shows. ``share`` of it is uncovered, 0 to 1; ``original`` is the index of
    the original frame; ``track`` that of the face's track, where they were linked."""

    frame: int
    original: int
    face: Face
    share: float
    track: int | None = None


@dataclass(frozen=True)
class FrameNoise:
    """How far the output is from the original where no face is: ``distance`` in 8-bit steps (that 95 % stay within),
    and the ``seen`` share, 0 to 1, that the measure calls uncovered there: near 1 where it works, near 0 where the
    frame was covered whole or is another one. None where faces fill the frame."""

    distance: float | None
    seen: float | None


@dataclass(frozen=True)
class FrameCheck:
    """One covered frame: what was measured outside, and the uncovered share of each reference face."""

    frame: int
    original: int
    noise: FrameNoise
    faces: tuple[Face, ...]
    shares: tuple[float, ...]

    def leaks(self, share: float = SHARE) -> list[Leak]:
        pairs = zip(self.faces, self.shares, strict=True)
        return [Leak(self.frame, self.original, face, found) for face, found in pairs if found > share]


def leaks(
    original_frames: Iterable[Frame],
    covered_frames: Iterable[Frame],
    reference_faces: Sequence[Sequence[Face]],
    *,
    share: float = SHARE,
) -> list[Leak]:
    """Faces of the originals that are uncovered in more than ``share`` of their ellipse, frame by frame.

    Frames are uint8 (H, W, 3) BGR; covered frames of another size are brought to the original's. ``reference_faces``:
    those of each original frame. Raises :class:`runtime.errors.GenedgeError` where the numbers of frames differ: match
    them first, see :func:`benchmarks.faces.clips.matched`.
    """
    checks = check_frames(zip_all(original_frames, covered_frames, reference_faces))
    return [leak for check in checks for leak in check.leaks(share)]


def zip_all(
    originals: Iterable[Frame], covered: Iterable[Frame], faces: Sequence[Sequence[Face]]
) -> Iterator[tuple[int, Frame, Frame, Sequence[Face]]]:
    """Frames with their index and faces, one for one."""
    frames = enumerate(zip(originals, covered, faces, strict=True))
    while True:
        try:
            index, (original, cover, found) = next(frames)
        except StopIteration:
            return
        except ValueError:
            message = "the original, the covered output and the faces are not of the same number of frames"
            raise GenedgeError(message) from None
        yield index, original, cover, found


def check_frames(frames: Iterable[tuple[int, Frame, Frame, Sequence[Face]]]) -> Iterator[FrameCheck]:
    """Check (index of the original, original, covered output, faces of the original) in the output's order."""
    for place, (index, original, covered, faces) in enumerate(frames):
        yield check_frame(place, index, original, covered, faces)


def check_frame(place: int, index: int, original: Frame, covered: Frame, faces: Sequence[Face]) -> FrameCheck:
    """Compare one output frame with its original. See :func:`leaks`."""
    covered = like(original, covered)
    noise = noise_of(original, covered, faces)
    shares = [uncovered(original, covered, face.box, noise.distance or CLOSE[0]) for face in faces]
    return FrameCheck(place, index, noise, tuple(faces), tuple(shares))


def like(original: Frame, covered: Frame) -> Frame:
    """``covered`` in the original's size: some tools give sizes of their own."""
    import cv2

    if covered.shape == original.shape:
        return covered
    height, width = original.shape[:2]
    return np.asarray(cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def uncovered(original: Frame, covered: Frame, box: Box, distance: float = CLOSE[0]) -> float:
    """Share, 0 to 1, of the ellipse in ``box`` whose pixels are the original's within ``distance`` 8-bit steps.

    Of a face that the border cuts, only the part in the frame counts; 0 where none of it is.
    """
    height, width = original.shape[:2]
    left, top = max(0, int(np.floor(box.x))), max(0, int(np.floor(box.y)))
    right, bottom = min(width, int(np.ceil(box.x + box.width))), min(height, int(np.ceil(box.y + box.height)))
    if right - left < 2 or bottom - top < 2:
        return 0.0
    rows, columns = np.mgrid[top:bottom, left:right] + 0.5
    (x, y), half, tall = box.center, box.width / 2, box.height / 2
    inside = ((columns - x) / half) ** 2 + ((rows - y) / tall) ** 2 <= 1
    first, second = original[top:bottom, left:right], covered[top:bottom, left:right]
    spread = float((first @ GREY)[inside].std()) if inside.any() else 0.0
    distance = max(distance, min(CLOSE_MOST, CLOSE_OF_SPREAD * spread))
    same, structured = compare(first, second, box.width, distance, float(np.clip(OF_SPREAD * spread, *STRUCTURE)))
    inside = resized(inside.astype(np.float32), same.shape) >= 0.5
    if not inside.any():
        return 0.0
    asked = inside & structured
    if asked.sum() < FEW * inside.sum():
        asked = inside
    return float(same[asked].mean())


def compare(
    original: Frame, covered: Frame, across: float, distance: float, structure: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels of two pictures of one size are the same, and which have structure in the original, both (h, w).

    The pictures are shrunk first where a face of ``across`` pixels is larger than is compared. ``distance`` and
    ``structure`` are in 8-bit steps: how far the same may be, and the least standard deviation of what is not flat.
    """
    scale = min(1.0, ACROSS / max(1.0, across))
    shape = max(2, round(original.shape[0] * scale)), max(2, round(original.shape[1] * scale))
    first, second = (resized(picture.astype(np.float32), shape) for picture in (original, covered))
    near = distances(first, second) <= distance
    a, b = first @ GREY, second @ GREY
    mean_a, mean_b = smooth(a), smooth(b)
    spread_a = np.sqrt(np.maximum(smooth(a * a) - mean_a**2, 0))
    spread_b = np.sqrt(np.maximum(smooth(b * b) - mean_b**2, 0))
    common = smooth(a * b) - mean_a * mean_b
    structured = spread_a >= structure
    alike = (common >= ALIKE * spread_a * spread_b) & (spread_b >= GAIN * spread_a)
    flat = ~structured & (spread_b < structure)  # nothing to correlate: colour has to do
    return near & (alike | flat), structured


def distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) greatest difference of the three colours in 8-bit steps, each a mean over 3x3 pixels."""
    import cv2

    return np.asarray(np.abs(cv2.blur(first - second, (3, 3))).max(axis=2), np.float32)


def smooth(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over the window of the small structure."""
    import cv2

    return np.asarray(cv2.blur(values, (WINDOW, WINDOW)), np.float32)


def resized(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """To (height, width), by area."""
    import cv2

    if values.shape[:2] == shape[:2]:
        return values
    return np.asarray(cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.float32)


def noise_of(original: Frame, covered: Frame, faces: Sequence[Face]) -> FrameNoise:
    """What the way to the output did to places without a face. See :class:`FrameNoise`."""
    height, width = original.shape[:2]
    covers = [face.box.scaled(OUTSIDE) for face in faces]
    side = min(GRID, height, width)
    places = [
        (x, y)
        for y in range(0, height - side + 1, side)
        for x in range(0, width - side + 1, side)
        if not any(Box(x, y, side, side).intersection(cover) for cover in covers)
    ]
    places = places[:: -(-len(places) // PLACES)] if places else []
    found = [
        (original[y : y + side, x : x + side], covered[y : y + side, x : x + side])
        for x, y in places
    ]  # fmt: skip
    if not found:
        return FrameNoise(None, None)
    away = np.stack([distances(first.astype(np.float32), second.astype(np.float32)) for first, second in found])
    asked = np.stack([compare(first, second, 1, 0, STRUCTURE[0])[1] for first, second in found])
    enough = bool(asked.mean() > 0.01)
    distance = float(np.clip(np.quantile(away[asked] if enough else away, QUANTILE), *CLOSE))
    same = np.stack([compare(first, second, 1, distance, STRUCTURE[0])[0] for first, second in found])
    return FrameNoise(distance, float(same[asked].mean()) if enough else None)


@dataclass(frozen=True)
class Summary:
    """Leaks of one clip. ``seconds``: its length. Tracks of a single frame count as tracks too."""

    frames: int
    face_frames: int
    tracks: int
    leaks: tuple[Leak, ...]
    leaking_tracks: int
    seconds: float
    seen: float | None
    unlike: int

    @property
    def leaked_frames(self) -> int:
        return len({leak.frame for leak in self.leaks})

    @property
    def track_rate(self) -> float | None:
        """Share of tracks with at least one leak; None without tracks."""
        return self.leaking_tracks / self.tracks if self.tracks else None

    @property
    def per_hour(self) -> float | None:
        """Leaked face-frames an hour; None for pictures."""
        return len(self.leaks) * 3600 / self.seconds if self.seconds > 0 else None


def summary_of(
    checks: Sequence[FrameCheck], tracks: Sequence[FaceTrack], seconds: float, share: float = SHARE
) -> Summary:
    """Leaks with their tracks. ``unlike``: frames whose places without a face are not the original's either, so they
    were covered whole, or are other frames."""
    track_of = {
        (index, id(face)): t
        for t, track in enumerate(tracks)
        for index, face in (*track.faces.items(), *track.unseen.items())
    }
    found = [
        Leak(leak.frame, leak.original, leak.face, leak.share, track_of.get((leak.original, id(leak.face))))
        for check in checks
        for leak in check.leaks(share)
    ]
    seen = [check.noise.seen for check in checks if check.noise.seen is not None]
    return Summary(
        frames=len(checks),
        face_frames=sum(len(check.faces) for check in checks),
        tracks=len(tracks),
        leaks=tuple(found),
        leaking_tracks=len({leak.track for leak in found if leak.track is not None}),
        seconds=seconds,
        seen=float(np.median(seen)) if seen else None,
        unlike=sum(value < 0.2 for value in seen),
    )
