"""Memory over time, so that no face slips through for a frame or two.

Every frame waits for ``lookahead`` later ones, and is then decided from all sights of a face before, in and after it:

* detected: the region holds the detection's own;
* interpolated: between two sights, on the line from one to the other;
* held: for ``hold`` seconds after the last sight, at least HELD_LEAST frames;
* filled: in the ``lookahead`` frames before the first sight.

Where a face was not seen, the region holds all places where it may be: where it was last, where its motion leads, where
its picture is found again; and it grows by ``grow`` a frame and by what the latest predictions were off. Where its
picture is found again without a doubt, it is followed by that instead: the region is about it, holds what the motion
says up to FOLLOWED_WAY of it, and grows for FOLLOWED_GROWTH frames. Nothing is carried over a cut.

What may be no face at all must not stay for ever: a track of a single sight below ``high`` is covered half as far,
``lookahead`` / 2 frames to both sides (or ``hold`` / 4 seconds after it, if that is longer), in full from its second
sight on. Two weak sights that are at most 1.5 ``lookahead`` frames apart leave no frame between them uncovered.

A track that never had a ``high`` score is mostly a hand or a pattern, and one that was left behind where another face
was taken for its own is mostly empty: without a sight both are followed over one face size at most, and grow less. What
the predictions of any track were off adds MOST_OFF of its size at most: beyond that they were no predictions.

How far that reaches is tested: a face of 20 to 200 pixels (w: its width) is inside of the ellipse of its region in
each of k frames in a row that miss it, with a look-ahead L and sights of a ``high`` score in the frames around them
that are within 4 % of where it is

* between sights, at least two before: k <= L, even motion up to 1 w a frame, or 0.1 w a frame that changes by up to
  0.03 w each frame; with only one sight before: up to 0.4 w a frame, for k <= 3 up to 1 w;
* after the last of three sights or more: k within ``hold`` of 0.8 s at 25 frames a second, even motion up to 0.4 w a
  frame, for k <= 12 up to 1 w; after the second of two, up to 0.1 w for k <= 10; also without look-ahead;
* before the first of two sights or more: k < L, even motion up to 1 w a frame;
* before or after a single sight: what moves up to 0.05 w a frame, and whatever its picture is found again in.

With low scores only, and k < L: between sights, two before, and after the last of three, up to 0.1 w a frame; before
the first of three, up to 0.05 w; around a single one for k <= L / 2.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from runtime.errors import UsageError
from runtime.faces.match import SmallFrame
from runtime.faces.regions import enclosing, plausible, smooth
from runtime.faces.track import (
    JITTER,
    MOST_NUMBER,
    STEADY_GAIN,
    TRAVEL,
    Match,
    Matrix,
    Motion,
    Sight,
    Track,
    assign,
    between,
    carried,
    compared,
    predicted,
    size_of,
)
from runtime.faces.types import Box, Cover, CoverKind, Face, Verdict
from runtime.frames import Frame

HELD_LEAST = 3  # frames, however long they take: what leaks is seen frame by frame
HELD_MOST = 900  # frames, however little time they take
MOST_GROWTH = 2.0  # of a region's sides
WEAK_GROWTH = 1.5  # the same of a track that never had a high score
WEAK_WAY = 1.0  # face sizes that such a track is followed without a sight, and a quarter of that to all sides
FOLLOWED = 0.85  # likeness down to which a face that is followed by its picture is where that is found
FOLLOWED_WAY = 0.4  # face sizes from there that such a face is covered towards where its motion leads
FOLLOWED_GROWTH = 4  # frames for which the region of such a face grows
MOST_OFF = 1.0  # face sizes to all sides that what the predictions were off adds at most
OFF_FRAMES = 5  # frames over which what the predictions were off adds up
UNKNOWN_SPEED = 0.05  # face sizes a frame that one may move that was seen once
SAME = 0.5  # intersection over union from which two detections in one frame are the same face
STAYS_SURE = 0.4  # score down to which a face that was sure stays so
EASE = 0.1  # by which its landmarks may be less plausible
SURE_MISSES = 3  # frames to a sight that was sure, within which its face may be drawn
MOST_FACES = 1000  # in a frame; more are not told apart in time, and the frame counts as failed
MOST_LEFT = 64  # tracks at a time of faces that may have stayed where another was taken for them
MOST_MATCHES = 48  # searches for a picture a frame
REMEMBERED = 256  # frames whose shot is remembered for faces that are found in the result
USUAL_STEP = 1 / 25  # seconds from frame to frame, until it is known
LEAST_STEP = 1e-4  # seconds; a clock that goes slower stands still


@dataclass(frozen=True)
class GuardSettings:
    """How much is covered beyond what was seen.

    ``lookahead``: frames that wait for later ones, 0 for live. ``hold``: seconds that a face stays covered after its
    last sight. ``grow``: relative growth of its region a frame without a sight. ``low``: score that covers. ``high``:
    score that permits drawing a face. ``across``, ``down``: size of the region over that of the face's box.
    ``smallest_sure``: pixels, shorter side of a face that may be drawn.

    Raises :class:`UsageError` for values that would leave faces uncovered or mean nothing.
    """

    lookahead: int = 12
    hold: float = 0.8
    grow: float = 0.03
    low: float = 0.25
    high: float = 0.6
    across: float = 1.6
    down: float = 1.8
    smallest_sure: float = 24.0

    def __post_init__(self) -> None:
        if not 0 <= self.lookahead <= 1000:
            raise UsageError(f"look-ahead must be 0 to 1000 frames, not {self.lookahead}")
        for name, least, most in (
            ("hold", 0.0, 60.0),
            ("grow", 0.0, 1.0),
            ("low", 0.0, 1.0),
            ("high", 0.0, 1.0),
            ("across", 1.0, 10.0),
            ("down", 1.0, 10.0),
            ("smallest_sure", 0.0, 1e5),
        ):
            if not least <= getattr(self, name) <= most:
                raise UsageError(f"{name} must be {least:g} to {most:g}, not {getattr(self, name)}")
        if self.low > self.high:
            raise UsageError(f"the low score ({self.low}) must not be above the high one ({self.high})")


@dataclass(frozen=True)
class TrackSummary:
    """A track, for the report: frames ``first`` to ``last`` in which it was covered, and how many of them why.

    ``seen`` counts sights in the covered result as well. ``uncertain``: it was never seen with a high score, or in
    fewer than three frames.
    """

    track: int
    first: int
    last: int
    seen: int
    held: int
    filled: int
    interpolated: int
    best_score: float
    uncertain: bool


@dataclass
class _Waiting:
    """A frame that waits for its verdict. ``clock``: seconds, always advancing."""

    index: int
    clock: float
    shot: int
    small: SmallFrame | None
    reason: str = ""  # why it cannot be judged
    doubles: dict[int, list[Box]] = field(default_factory=dict)  # more detections of a track's face


@dataclass
class _Counts:
    first: int
    last: int
    best: float
    kinds: dict[CoverKind, int] = field(default_factory=dict)


class Guard:
    """See the module. Frames are pushed in order, each once, and each gets one verdict, in the same order.

    ::

        guard.push(index, pts, image, detector.detect(image), cut=cut)
        while (verdict := guard.pop()) is not None:
            ...  # of the frame verdict.index, lookahead frames ago
        guard.finish()  # after the last push; then pop the rest

    Keeps at most ``lookahead`` + 3 grey copies of frames (see :class:`SmallFrame`) and no frame itself.
    """

    def __init__(self, settings: GuardSettings | None = None) -> None:
        self.settings = settings or GuardSettings()
        self._waiting: deque[_Waiting] = deque()
        self._popped: deque[_Waiting] = deque(maxlen=2)
        self._active: list[Track] = []  # that a face can be assigned to
        self._tracks: list[Track] = []  # that a waiting frame may need, the active ones among them
        self._counts: dict[int, _Counts] = {}
        self._shots: dict[int, tuple[float, int]] = {}  # clock and shot of decided frames
        self._clock = _Clock()
        self._last_index: int | None = None
        self._shot = self._numbers = 0
        self._matches = 0
        self._finished = False

    # -- frames in ------------------------------------------------------------------------------

    def push(
        self, index: int, pts: float, image: Frame | None, faces: Sequence[Face] | None, *, cut: bool = False
    ) -> None:
        """Take the frame ``index`` with its faces.

        Args:
            index: counts frames upwards; gaps are allowed.
            pts: seconds. Where they do not advance, the frame is taken to come after the usual time.
            image: uint8 (H, W, 3) BGR, of which a small grey copy is kept; None: faces are not found by their picture.
            faces: what the detector found. None, a number among them that is none, or more than MOST_FACES: the frame
                is one that cannot be judged, as with :meth:`fail`.
            cut: it is the first frame of another shot.

        Raises ``ValueError`` where ``index`` is not above the last one, or after :meth:`finish`.
        """
        reason = _unusable(faces)
        if faces is None or reason:
            self.fail(index, pts, image, reason, cut=cut)
            return
        frame = self._enter(index, pts, image, cut)
        usable = [_with_area(face) for face in faces if face.score >= self.settings.low]
        usable.sort(key=lambda face: -face.score)
        self._follow(frame, usable)

    def fail(self, index: int, pts: float, image: Frame | None, reason: str, *, cut: bool = False) -> None:
        """Take a frame that cannot be judged: its verdict is not ``ok``, for ``reason``. Faces known before go on
        behind it, as if it had shown none."""
        frame = self._enter(index, pts, image, cut)
        frame.reason = reason or "not judged"
        self._follow(frame, [])

    def finish(self) -> None:
        """No more frames come: those that wait are decided."""
        self._finished = True

    def add_late(self, index: int, face: Face) -> Cover:
        """A face was found in the covered frame ``index``, whose verdict was given.

        Returns what has to be covered in that frame. The face is followed from there on: frames whose verdict is not
        yet given cover it as one that was seen in ``index``.
        """
        face = _with_area(face)
        clock, shot = self._shots.get(index, (self._clock.now, -1))
        track = self._known_at(index, shot, face.box)
        if track is not None:
            track.see(face, index, clock, False, late=True)
            track.matched = {key: match for key, match in track.matched.items() if key < index}
        else:
            track = self._begin(face, index, clock, shot, late=True)
        self._match_onwards(track)
        self._count(track, index, "rechecked")
        region = self._region(None, [face.box], 0, 0.0)
        return Cover(track.number, face.box, region, "rechecked", face.score, None, False)

    # -- verdicts out ---------------------------------------------------------------------------

    def pop(self) -> Verdict | None:
        """The verdict on the oldest frame, once ``lookahead`` later ones, a cut or the end have come; else None."""
        if not self._waiting:
            return None
        frame = self._waiting[0]
        if len(self._waiting) <= self.settings.lookahead and frame.shot == self._shot and not self._finished:
            return None
        covers: list[Cover] = []
        for track in self._tracks:
            cover = self._cover(track, frame)
            if cover is not None:
                covers.append(cover)
                self._count(track, frame.index, cover.kind)
        self._waiting.popleft()
        self._popped.append(frame)
        self._shots[frame.index] = frame.clock, frame.shot
        while len(self._shots) > REMEMBERED:
            del self._shots[next(iter(self._shots))]
        self._forget(frame)
        return Verdict(frame.index, not frame.reason, tuple(covers), frame.reason)

    @property
    def tracks(self) -> list[TrackSummary]:
        """Of what was covered in the frames whose verdicts were given, in the order of the first sight."""
        summaries = []
        for number, counts in sorted(self._counts.items()):
            kinds = counts.kinds
            detected = kinds.get("detected", 0)
            summaries.append(
                TrackSummary(
                    track=number,
                    first=counts.first,
                    last=counts.last,
                    seen=detected + kinds.get("rechecked", 0),
                    held=kinds.get("held", 0),
                    filled=kinds.get("filled", 0),
                    interpolated=kinds.get("interpolated", 0),
                    best_score=round(counts.best, 4),
                    uncertain=counts.best < self.settings.high or detected < 3,
                )
            )
        return summaries

    # -- following ------------------------------------------------------------------------------

    def _enter(self, index: int, pts: float, image: Frame | None, cut: bool) -> _Waiting:
        if self._finished:
            raise ValueError(f"frame {index} comes after the end")
        if self._last_index is not None and index <= self._last_index:
            raise ValueError(f"frame {index} comes after frame {self._last_index}")
        self._last_index = index
        if cut:
            self._shot += 1
            self._active.clear()
        frame = _Waiting(index, self._clock.tick(pts), self._shot, None if image is None else SmallFrame(image))
        self._waiting.append(frame)
        self._matches = MOST_MATCHES
        return frame

    def _follow(self, frame: _Waiting, faces: list[Face]) -> None:
        """Give ``faces``, best first, to the tracks; begin tracks for the others; look for what was missed."""
        tracks = self._active
        pairs = assign(tracks, faces, frame.index, self.settings.high)
        left: list[Track] = []
        for pair in pairs:
            track, face = tracks[pair.track], faces[pair.face]
            if pair.jumped:
                left.append(self._left_behind(track))
                track.matched.clear()
            track.see(face, frame.index, frame.clock, self._is_sure(track, face, frame.index))
        with_track, seen = {pair.track for pair in pairs}, {pair.face: tracks[pair.track] for pair in pairs}
        missed = [track for place, track in enumerate(tracks) if place not in with_track]
        self._active = [track for track in tracks if not self._is_lost(track, frame)]
        self._begin_all(frame, faces, seen)
        room = max(0, MOST_LEFT - sum(track.since >= 0 for track in self._active))
        self._active += left[:room]
        self._tracks += left[:room]
        for track in missed + left[:room]:
            self._match_onwards(track)

    def _begin_all(self, frame: _Waiting, faces: list[Face], seen: dict[int, Track]) -> None:
        """Begin a track for every face that has none, unless it is another detection of one that has."""
        if len(seen) == len(faces):
            return
        boxes = np.array([face.box for face in faces], np.float64)
        same = _overlaps(boxes) > SAME
        fresh: list[Track] = []
        for place, face in enumerate(faces):
            if place in seen:
                continue
            twin = next((seen[other] for other in np.flatnonzero(same[place]).tolist() if other in seen), None)
            if twin is not None:
                frame.doubles.setdefault(twin.number, []).append(face.box)
                continue
            seen[place] = self._begin(face, frame.index, frame.clock, frame.shot)
            fresh.append(seen[place])
        for track in fresh:
            self._match_backwards(track)

    def _begin(self, face: Face, index: int, clock: float, shot: int, *, late: bool = False) -> Track:
        sure = not late and self._is_sure(None, face, index)
        sight = Sight(index, clock, face.box, face.score, face.landmarks, face.landmarks, sure, Motion(), late)
        track = Track(self._numbers, shot, [sight], 1, face.score)
        self._numbers += 1
        self._tracks.append(track)
        if shot == self._shot:
            self._active.append(track)
        return track

    def _left_behind(self, track: Track) -> Track:
        """A track that stays where ``track`` was, because what was taken for its face may be another one's."""
        sight = replace(track.last, sure=False, landmarks=None, steady=None, motion=Motion())
        left = Track(self._numbers, track.shot, [sight], track.seen, track.best, dict(track.matched), sight.index)
        self._numbers += 1
        return left

    def _known_at(self, index: int, shot: int, box: Box) -> Track | None:
        """The track that was not seen in or after ``index`` and most likely is what ``box`` shows there."""
        best, most = None, 0.1
        for track in self._active:
            if track.shot == shot and track.last.index < index:
                overlap = max(box.iou(track.expected(index)), box.iou(track.last.box))
                if overlap > most:
                    best, most = track, overlap
        return best

    def _is_lost(self, track: Track, frame: _Waiting) -> bool:
        """Whether no later face can be that of ``track``."""
        steps = frame.index - track.last.index
        if steps > HELD_MOST:
            return True
        return steps > max(HELD_LEAST, self.settings.lookahead) and frame.clock - track.last.clock > self.settings.hold

    def _is_sure(self, track: Track | None, face: Face, index: int) -> bool:
        was_sure = track is not None and track.last.sure and index - track.last.index <= SURE_MISSES
        if face.score < (min(STAYS_SURE, self.settings.high) if was_sure else self.settings.high):
            return False
        if min(face.box.width, face.box.height) < self.settings.smallest_sure or face.landmarks is None:
            return False
        return plausible(face.landmarks, EASE if was_sure else 0.0)

    # -- finding by the picture -----------------------------------------------------------------

    def _match_onwards(self, track: Track) -> None:
        """Follow the picture of a face from its last sight, or from where it was found last, to the newest frame."""
        if track.blind:
            return
        here, before = Match(track.last.box, 1.0), None
        for frame in (*self._popped, *self._waiting):
            if frame.shot != track.shot or frame.index < track.last.index:
                continue
            known = track.matched.get(frame.index)
            if frame.index == track.last.index or known is not None:
                here, before = known or Match(track.last.box, 1.0), frame.small
                continue
            if self._matches <= 0:
                return
            found = None
            if before is not None and frame.small is not None:
                self._matches -= 1
                around = here.box.union(here.box.moved(track.last.motion.dx, track.last.motion.dy))
                found = before.locate(here.box, frame.small, around)
            if found is None:
                track.blind = True
                return
            here, before = Match(found[0], min(here.alike, found[1])), frame.small
            track.matched[frame.index] = here

    def _match_backwards(self, track: Track) -> None:
        """Follow the picture of a new face through the frames before its first sight."""
        here, later = Match(track.last.box, 1.0), None
        most = self._filled_most(track)
        for frame in reversed(self._waiting):
            if frame.index >= track.last.index:
                later = frame.small
                continue
            if frame.shot != track.shot or track.last.index - frame.index > most:
                return
            if later is None or frame.small is None or self._matches <= 0:
                return
            self._matches -= 1
            found = later.locate(here.box, frame.small, here.box)
            if found is None:
                return
            here, later = Match(found[0], min(here.alike, found[1])), frame.small
            track.matched[frame.index] = here

    # -- deciding -------------------------------------------------------------------------------

    def _cover(self, track: Track, frame: _Waiting) -> Cover | None:
        """What ``frame`` has to cover because of ``track``, from all that is known by now."""
        if track.shot != frame.shot or frame.index <= track.since:
            return None
        before, here, after = track.around(frame.index)
        if here is not None:
            return self._detected(track, here, frame)
        if before is not None and after is not None:
            return self._interpolated(track, before, after, frame)
        if before is not None and self._is_held(track, before, frame):
            return self._held(track, before, frame)
        if after is not None and after.index - frame.index <= self._filled_most(track):
            return self._filled(track, after, frame)
        return None

    def _detected(self, track: Track, here: Sight, frame: _Waiting) -> Cover:
        box, landmarks = smooth(track, here)
        boxes = [here.box, box, *frame.doubles.get(track.number, ())]
        region = self._region(track, boxes, 0, 0.0)
        kind: CoverKind = "rechecked" if here.late else "detected"
        return Cover(track.number, box, region, kind, here.score, landmarks, here.sure)

    def _interpolated(self, track: Track, before: Sight, after: Sight, frame: _Waiting) -> Cover:
        gap, steps = after.index - before.index, frame.index - before.index
        nearest = min(steps, gap - steps)
        box = between(before.box, after.box, steps / gap)
        (x, y), (to_x, to_y) = before.box.center, after.box.center
        motion, bend = before.motion, 0.0
        if motion.known:  # on a path that bends evenly the middle is this far from the line
            bend = min(size_of(box), math.hypot(motion.dx - (to_x - x) / gap, motion.dy - (to_y - y) / gap) * gap / 4)
        landmarks = None
        if before.steady is not None and after.landmarks is not None:
            share = np.float32(steps / gap)
            landmarks = np.asarray(before.steady + share * (after.landmarks - before.steady), np.float32)
        sure = before.sure and after.sure and nearest <= SURE_MISSES and landmarks is not None
        region = self._where(track, frame, None, box, nearest, bend)
        return Cover(track.number, box, region, "interpolated", before.score, landmarks, sure)

    def _held(self, track: Track, before: Sight, frame: _Waiting) -> Cover:
        steps = frame.index - before.index
        box = predicted(before, steps)
        region = self._where(track, frame, before.box, box, steps, _off(before.motion, before.box, steps))
        if (matched := track.matched.get(frame.index)) is not None:
            box = matched.box
        landmarks = None if before.steady is None else carried(before.steady, before.box, box)
        sure = before.sure and steps <= SURE_MISSES and landmarks is not None
        return Cover(track.number, box, region, "held", before.score, landmarks, sure)

    def _filled(self, track: Track, after: Sight, frame: _Waiting) -> Cover:
        steps = after.index - frame.index
        motion = track.motion_from(after)
        box = after.box.moved(-motion.dx * steps, -motion.dy * steps) if motion.known else after.box
        region = self._where(track, frame, after.box, box, steps, _off(motion, after.box, steps))
        if (matched := track.matched.get(frame.index)) is not None:
            box = matched.box
        landmarks = None if after.landmarks is None else carried(after.landmarks, after.box, box)
        return Cover(track.number, box, region, "filled", after.score, landmarks, False)

    def _is_doubtful(self, track: Track) -> bool:
        return (track.best < self.settings.high and not track.last.late) or self._was_left(track)

    @staticmethod
    def _was_left(track: Track) -> bool:
        """Whether nothing was seen of ``track`` since it was left behind."""
        return track.since == track.last.index

    def _is_weak(self, track: Track) -> bool:
        return track.seen == 1 and self._is_doubtful(track)

    def _filled_most(self, track: Track) -> int:
        return (self.settings.lookahead + 1) // 2 if self._is_weak(track) else self.settings.lookahead

    def _is_held(self, track: Track, before: Sight, frame: _Waiting) -> bool:
        hold, least = self.settings.hold, HELD_LEAST
        if hold <= 0:
            return False
        if self._is_weak(track):
            hold, least = hold / 4, max(HELD_LEAST, (self.settings.lookahead + 1) // 2)
        steps = frame.index - before.index
        return steps <= least or (steps <= HELD_MOST and frame.clock - before.clock <= hold + 1e-9)

    def _where(self, track: Track, frame: _Waiting, seen: Box | None, guess: Box, steps: int, extra: float) -> Box:
        """The region of a face in a frame without a sight of it: where it was ``seen``, ``steps`` frames away, where it
        is by a ``guess`` that is up to ``extra`` pixels off, and where its picture was found.

        A face that was followed by its picture without a doubt is near where that was found."""
        matched = track.matched.get(frame.index)
        boxes = [guess] if seen is None else [seen, _no_smaller(guess, seen)]
        size = size_of(boxes[0])
        if matched is not None and matched.alike >= FOLLOWED:
            place = matched.box
            boxes = [_no_further(place, _of_size(guess, place), FOLLOWED_WAY)]
            steps, extra = min(steps, FOLLOWED_GROWTH), min(extra, FOLLOWED_WAY / 2 * size)
        elif seen is not None and self._is_doubtful(track):
            boxes[1] = _no_further(seen, boxes[1], WEAK_WAY)
            extra = min(extra, WEAK_WAY / 4 * size)
        if matched is not None:
            boxes.append(matched.box)
        return self._region(track, boxes, steps, extra)

    def _region(self, track: Track | None, boxes: Sequence[Box], steps: int, extra: float) -> Box:
        """What must be replaced so that a face in any of ``boxes``, ``steps`` frames from a sight and up to ``extra``
        pixels beside it, is covered."""
        most = WEAK_GROWTH if track is not None and self._is_doubtful(track) else MOST_GROWTH
        grown = min(most, (1 + self.settings.grow) ** min(steps, 100))
        across, down = self.settings.across * grown, self.settings.down * grown
        regions: list[Box] = []
        for box in dict.fromkeys(boxes):
            x, y, width, height = box.scaled(across, down)
            regions.append(Box(x - extra, y - extra, width + 2 * extra, height + 2 * extra))
        return enclosing(regions)

    # -- memory ---------------------------------------------------------------------------------

    def _count(self, track: Track, index: int, kind: CoverKind) -> None:
        counts = self._counts.setdefault(track.number, _Counts(index, index, track.best))
        counts.first, counts.last = min(counts.first, index), max(counts.last, index)
        counts.best = max(counts.best, track.best)
        counts.kinds[kind] = counts.kinds.get(kind, 0) + 1

    def _forget(self, frame: _Waiting) -> None:
        """Drop what frames after ``frame`` do not need."""
        active = set(map(id, self._active))
        kept = []
        for track in self._tracks:
            track.forget_before(frame.index + 1)
            ended = track.last.index <= frame.index and not self._is_held(track, track.last, frame)
            if id(track) in active or (track.shot >= frame.shot and not ended):
                kept.append(track)
        self._tracks = kept


class _Clock:
    """Seconds that always advance, from times that may not."""

    def __init__(self) -> None:
        self.now = 0.0
        self._last: float | None = None
        self._steps: deque[float] = deque(maxlen=25)

    def tick(self, pts: float) -> float:
        """The time of the next frame. ``pts``: as its source says."""
        if not math.isfinite(pts):
            self.now += self._usual()
            return self.now
        step = 0.0 if self._last is None else pts - self._last
        if step >= LEAST_STEP:
            self._steps.append(step)
        elif self._last is not None:
            step = self._usual()
        self._last = pts
        self.now += step
        return self.now

    def _usual(self) -> float:
        return statistics.median(self._steps) if self._steps else USUAL_STEP


def _off(motion: Motion, box: Box, steps: int) -> float:
    """Pixels by which a face may be beside its prediction after ``steps`` frames, besides growing: what the latest
    ones were off, and the detector's noise in the velocity."""
    size = size_of(box)
    if not motion.known:
        return UNKNOWN_SPEED * size * min(steps, OFF_FRAMES)
    noise = JITTER * size * max(STEADY_GAIN, 2 / motion.known)  # both ends of the way may be off
    return min(MOST_OFF * size, motion.off * min(steps, OFF_FRAMES)) + noise * min(steps, TRAVEL)


def _no_smaller(box: Box, than: Box) -> Box:
    """``box``, or one of the size of ``than`` about its centre: that a face becomes smaller is not relied on."""
    return box if box.width >= than.width else box.scaled(than.width / max(1e-6, box.width))


def _of_size(box: Box, like: Box) -> Box:
    """A box of the size of ``like`` about the centre of ``box``."""
    (x, y), (to_x, to_y) = like.center, box.center
    return like.moved(to_x - x, to_y - y)


def _no_further(box: Box, to: Box, sizes: float) -> Box:
    """``to``, or on the way there, ``sizes`` of its own sizes from ``box``."""
    (x, y), (to_x, to_y) = box.center, to.center
    way, most = math.hypot(to_x - x, to_y - y), sizes * size_of(box)
    return to if way <= most else to.moved((most / way - 1) * (to_x - x), (most / way - 1) * (to_y - y))


def _overlaps(boxes: Matrix) -> Matrix:
    """Intersection over union of all with all."""
    return compared(boxes, boxes)[2]


def _unusable(faces: Sequence[Face] | None) -> str:
    """Why nothing can be concluded from ``faces``; empty: something can."""
    if faces is None:
        return "detector failed"
    if len(faces) > MOST_FACES:
        return f"more than {MOST_FACES} faces"
    for face in faces:
        if not all(abs(value) < MOST_NUMBER for value in (*face.box, face.score)):  # false for what is no number
            return "detector gave a number that is none"
        points = face.landmarks
        if points is not None and not (points.shape == (5, 2) and float(np.abs(points).max()) < MOST_NUMBER):
            return "detector gave landmarks that are none"
    return ""


def _with_area(face: Face) -> Face:
    """With sides of at least two pixels, about the same centre."""
    x, y, width, height = face.box
    if width >= 2 and height >= 2:
        return face
    wide, high = max(2.0, width), max(2.0, height)
    return replace(face, box=Box(x + (width - wide) / 2, y + (height - high) / 2, wide, high))
