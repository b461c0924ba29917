"""Which detection is which face of the frames before, and how each face moves.

Association in passes, as ByteTrack (Zhang et al., 2022, arXiv:2110.06864) has them: faces with a high score choose
their track before the weak ones do, and near pairs are made before far ones. Motion is an alpha-beta filter with
alpha = 1: the position is the detection's own, the velocity follows it the more slowly the longer the face is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.faces.types import Box, Face, Landmarks

TIGHT = 0.55  # distance of the centres in face sizes up to which a pair is made first
TIGHT_MOST = 1.25  # the same after frames without a sight, in which the noise of the velocity adds up
LOOSE, LOOSER, LOOSEST = 0.9, 0.15, 2.5  # the same for what is left; more for every frame without a sight; at most
WIDE, WIDEST = 2.5, 5.0  # for a face that jumps: a frame, and altogether
OVERLAP = 0.2  # intersection over union that makes a pair tight at any distance
SIZE_RATIO = 2.2  # a face does not become this much larger from one sight to the next
TRAVEL = 12  # frames for which a velocity is trusted; then it fades
FADE = 0.9  # a frame
STEADY_GAIN = 0.35  # of the velocity, once it is known; 1/k at the k-th difference before
SMOOTHED = 7  # sights to both sides that a sight is averaged with
BACK_FRAMES = 4  # over which the velocity before the first sight is taken
JITTER = 0.04  # of the face's size: a difference to the prediction that small is the detector's noise
LANDMARK_GAIN = 0.6  # share of a new sight in the landmarks
MOST_NUMBER = 1e6  # pixels; a coordinate beyond is no coordinate
TURNED = 0.2  # of the face's size: landmarks that differ by more are taken as they are


Matrix = NDArray[np.float64]  # (N, M) or (N, 4)


class Motion(NamedTuple):
    """``dx``, ``dy``: pixels a frame; ``growth``: relative change of the sides a frame; ``off``: pixels by which the
    latest predictions missed, beyond noise; ``known``: how many differences it was learned from."""

    dx: float = 0.0
    dy: float = 0.0
    growth: float = 0.0
    off: float = 0.0
    known: int = 0


@dataclass(frozen=True)
class Sight:
    """A face as a detector saw it. ``clock``: seconds. ``steady``: its landmarks, smoothed with those before.
    ``late``: found in the covered output."""

    index: int
    clock: float
    box: Box
    score: float
    landmarks: Landmarks | None
    steady: Landmarks | None
    sure: bool
    motion: Motion
    late: bool = False


class Match(NamedTuple):
    """Where a face was found by its picture, and how alike, 0 to 1, the worst pair of frames on the way from a sight
    is."""

    box: Box
    alike: float


@dataclass
class Track:
    """A face that is followed within one shot. ``sights``: the latest, oldest first, never empty.

    ``matched``: by frame, where its picture was found without a detector; ``blind``: it was not found since the last
    sight. ``since``: the frame after which it covers
    anything; for a track that was left behind at the place of another one, see ``runtime.faces.guard``.
    """

    number: int
    shot: int
    sights: list[Sight]
    seen: int
    best: float
    matched: dict[int, Match] = field(default_factory=dict)
    since: int = -1
    blind: bool = False

    @property
    def last(self) -> Sight:
        return self.sights[-1]

    def around(self, index: int) -> tuple[Sight | None, Sight | None, Sight | None]:
        """The latest sight before the frame ``index``, the one in it, the next one after it."""
        before = here = None
        for sight in self.sights:
            if sight.index < index:
                before = sight
            elif sight.index == index:
                here = sight
            else:
                return before, here, sight
        return before, here, None

    def at(self, index: int) -> Sight | None:
        """The sight in the frame ``index``."""
        for sight in reversed(self.sights):
            if sight.index <= index:
                return sight if sight.index == index else None
        return None

    def forget_before(self, index: int) -> None:
        """Drop what frames from ``index`` on do not need: all but SMOOTHED frames before, and the latest sight."""
        while len(self.sights) > 1 and self.sights[1].index < index - SMOOTHED:
            del self.sights[0]
        for key in [key for key in self.matched if key < index - 1]:
            del self.matched[key]

    def expected(self, index: int) -> Box:
        """Where it should be in the frame ``index``, later than the last sight."""
        matched = self.matched.get(index - 1)
        if matched is not None:
            return matched.box.moved(self.last.motion.dx, self.last.motion.dy)
        return predicted(self.last, index - self.last.index)

    def motion_from(self, first: Sight) -> Motion:
        """How the face moved in the frames after ``first``, for going back from it: the mean of up to
        ``BACK_FRAMES`` frames. ``known`` 0 where there is no later sight."""
        motion = Motion()
        for sight in self.sights:
            steps = sight.index - first.index
            if steps > 0 and (steps <= BACK_FRAMES or not motion.known):
                (x, y), (to_x, to_y) = first.box.center, sight.box.center
                motion = Motion((to_x - x) / steps, (to_y - y) / steps, 0.0, 0.0, steps)
        return motion

    def see(self, face: Face, index: int, clock: float, sure: bool, *, late: bool = False) -> Sight:
        """Note a sight later than all before."""
        last = self.last
        steps = max(1, index - last.index)
        guess = predicted(last, steps)
        size = size_of(last.box)
        (x, y), (guess_x, guess_y) = face.box.center, guess.center
        gain = max(STEADY_GAIN, 1 / (last.motion.known + 1))
        error_x, error_y = (x - guess_x) / steps, (y - guess_y) / steps
        grown = (math.sqrt(max(1e-6, face.box.area) / max(1e-6, guess.area)) - 1) / steps
        off = max(0.0, math.hypot(error_x, error_y) - JITTER * size)
        motion = Motion(
            last.motion.dx + gain * error_x,
            last.motion.dy + gain * error_y,
            min(0.25, max(-0.25, last.motion.growth + STEADY_GAIN * grown)),
            off if last.motion.known == 0 else 0.5 * (off + last.motion.off),
            last.motion.known + 1,
        )
        steady = steadied(last, face, motion) if steps == 1 else face.landmarks
        sight = Sight(index, clock, face.box, face.score, face.landmarks, steady, sure, motion, late)
        self.sights.append(sight)
        self.blind = False
        self.seen += 1
        self.best = max(self.best, face.score)
        return sight


def size_of(box: Box) -> float:
    """Geometric mean of the sides, at least one pixel."""
    return math.sqrt(max(1.0, box.width * box.height))


def travelled(steps: int) -> float:
    """Frames' worth of motion after ``steps`` frames without a sight."""
    if steps <= TRAVEL:
        return float(steps)
    return TRAVEL + FADE * (1 - FADE ** (steps - TRAVEL)) / (1 - FADE)


def predicted(sight: Sight, steps: int) -> Box:
    """The box ``steps`` frames after ``sight`` at the motion known then."""
    way = travelled(steps)
    motion = sight.motion
    box = sight.box.moved(motion.dx * way, motion.dy * way)
    factor = min(1.6, max(0.67, 1 + motion.growth * way))
    return box if factor == 1.0 else box.scaled(factor)


def between(one: Box, other: Box, share: float) -> Box:
    """``share`` of the way from ``one`` to ``other``."""
    return Box(
        one.x + share * (other.x - one.x),
        one.y + share * (other.y - one.y),
        one.width + share * (other.width - one.width),
        one.height + share * (other.height - one.height),
    )


def carried(landmarks: Landmarks, box: Box, to: Box) -> Landmarks:
    """Landmarks of a face in ``box`` when the face is in ``to``."""
    (x, y), (to_x, to_y) = box.center, to.center
    across, down = to.width / max(1e-6, box.width), to.height / max(1e-6, box.height)
    scaled = (landmarks - np.array([x, y], np.float32)) * np.array([across, down], np.float32)
    return np.asarray(scaled + np.array([to_x, to_y], np.float32), np.float32)


def steadied(last: Sight, face: Face, motion: Motion) -> Landmarks | None:
    """Landmarks of ``face`` in the frame after ``last``, pulled towards where those of ``last`` have moved.

    With the track's velocity, so that a face that moves evenly has no lag; a turn of the head is taken as it is.
    """
    if face.landmarks is None or last.steady is None:
        return face.landmarks
    guess = last.steady + np.array([motion.dx, motion.dy], np.float32)
    error = face.landmarks - guess
    if float(np.abs(error).max()) > TURNED * size_of(face.box):
        return face.landmarks
    return np.asarray(guess + np.float32(LANDMARK_GAIN) * error, np.float32)


@dataclass(frozen=True)
class Pair:
    """``track`` and ``face``: places in what was given to :func:`assign`. ``jumped``: the face is neither where the
    track was expected nor where it was last, so it may be another person's, and the track's own still there, unseen."""

    track: int
    face: int
    jumped: bool


def assign(tracks: Sequence[Track], faces: Sequence[Face], index: int, high: float) -> list[Pair]:
    """Pairs of tracks and faces, each used once at most.

    Four passes: faces with a score of ``high`` and then the rest near the expected place; then, unless neither face nor
    track ever had that score, all within a distance that grows with the frames that were missed; then faces that
    jumped, where there is no second candidate on either side.
    In each pass the best pair is made first (greedy; two faces would have to be equally near to be exchanged by that).
    """
    if not tracks or not faces:
        return []
    expected = np.array([track.expected(index) for track in tracks], np.float64)
    found = np.array([face.box for face in faces], np.float64)
    strong = np.array([face.score >= high for face in faces])[None, :]
    missed = np.array([max(0, index - track.last.index - 1) for track in tracks], np.float64)[:, None]
    noise = np.array([max(STEADY_GAIN, 1 / max(1, track.last.motion.known)) for track in tracks])[:, None]
    distance, ratio, iou = compared(expected, found)
    cost = distance + 0.5 * np.log(ratio) + (1 - iou)
    reach = np.minimum(TIGHT_MOST, TIGHT + 1.5 * JITTER * noise * missed)
    tight = (ratio < SIZE_RATIO) & ((distance < reach) | (iou > OVERLAP))
    pairs: list[Pair] = []
    free_tracks, free_faces = [True] * len(tracks), [True] * len(faces)

    def pair(possible: NDArray[np.bool_]) -> bool:
        """Make the pairs of one pass; whether both tracks and faces are left."""
        rows, columns = np.nonzero(possible)
        order = np.argsort(cost[rows, columns], kind="stable")
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if free_tracks[row] and free_faces[column]:
                stayed = iou[row, column] >= OVERLAP or faces[column].box.iou(tracks[row].last.box) >= OVERLAP
                pairs.append(Pair(row, column, not stayed))
                free_tracks[row] = free_faces[column] = False
        return any(free_tracks) and any(free_faces)

    if not (pair(tight & strong) and pair(tight & ~strong)):
        return pairs
    # what was never more than weak is mostly no face and jumps about: it only follows what is near
    trusted = strong | np.array([track.best >= high for track in tracks])[:, None]
    if not pair((ratio < SIZE_RATIO) & trusted & (distance < np.minimum(LOOSEST, LOOSE + LOOSER * missed))):
        return pairs
    wide = (ratio < math.sqrt(SIZE_RATIO)) & (distance < np.minimum(WIDEST, WIDE * (1 + missed)))
    wide &= trusted & np.array(free_tracks)[:, None] & np.array(free_faces)[None, :]
    alone = wide & (wide.sum(axis=1, keepdims=True) == 1) & (wide.sum(axis=0, keepdims=True) == 1)
    return pairs + [Pair(int(row), int(column), True) for row, column in np.argwhere(alone)]


def compared(one: Matrix, other: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Distance of the centres in sizes of the larger one, ratio of the sizes (1 or more), intersection over union."""
    x, y, width, height = (one[:, None, place] for place in range(4))
    x_, y_, width_, height_ = (other[None, :, place] for place in range(4))
    size = np.sqrt(np.maximum(1.0, width * height))
    size_ = np.sqrt(np.maximum(1.0, width_ * height_))
    larger = np.maximum(size, size_)
    aside, below = x + width / 2 - (x_ + width_ / 2), y + height / 2 - (y_ + height_ / 2)
    distance = np.sqrt(aside * aside + below * below) / larger
    common = np.maximum(0.0, np.minimum(x + width, x_ + width_) - np.maximum(x, x_))
    common = common * np.maximum(0.0, np.minimum(y + height, y_ + height_) - np.maximum(y, y_))
    whole = width * height + width_ * height_ - common
    return distance, larger / np.minimum(size, size_), common / np.maximum(1e-9, whole)
