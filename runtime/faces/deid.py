"""A source that gives covered frames only: whatever comes after it never sees a face.

    source -> detector -> guard (look-ahead) -> method -> check of the result -> frame

It fails closed. A frame leaves with a verdict that was made for its own index and says OK; in every other case, an
engine that fails or hangs, a number that is none, a verdict for another frame, a frame that the decoder could not read
whole, it is covered whole.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Protocol

import numpy as np

from runtime.cuts import Beginnings
from runtime.errors import EndedEarlyError, GenedgeError, VideoError
from runtime.faces.blend import distance
from runtime.faces.guard import Guard, GuardSettings
from runtime.faces.methods import cover_whole, make_method
from runtime.faces.passcode import RecordingKeys
from runtime.faces.report import DeidCounts
from runtime.faces.types import Applied, Box, Cover, Face, FaceDetector, Method, Verdict, changed_box
from runtime.faces.watched import Call, CallTimeoutError, WatchedThread
from runtime.frames import Frame
from runtime.video.source import Source, VideoFrame

CANARY_SECONDS = 1.0
RECHECK_ROUNDS = 6  # searches of the result after which the whole frame is covered
# Share of a hit's pixels that must be replaced for it to be what the method has drawn. Of 498 hits in two clips that
# were covered by average faces, 492 have more than 0.8, all others less than 0.3.
INSIDE = 0.8
DRAWING = frozenset({"average", "generator"})  # methods whose result is meant to be found as a face


class CanaryLike(Protocol):
    def check(self, detector: FaceDetector, height: int, width: int) -> bool: ...


class Checker(FaceDetector, Protocol):
    def glance(self, image: Frame, number: int) -> list[Face]:
        """As ``detect``, at half of the scales for an even ``number`` and at the others for an odd one."""
        ...


class VaultLike(Protocol):
    def add(self, frame_index: int, pts: Fraction | float, track: int, left: int, top: int, crop: Frame) -> None: ...


@dataclass(frozen=True)
class DeidSettings:
    """How carefully it is done.

    ``timeout``: seconds that the engines may take for a frame before it is covered whole. ``recheck``: look for faces
    in every covered frame again. ``thorough_every``: seconds between two frames that are searched at more scales,
    besides the first of every shot; 0 for those only.
    """

    guard: GuardSettings = field(default_factory=GuardSettings)
    timeout: float = 10.0
    recheck: bool = True
    thorough_every: float = 1.0


@dataclass
class _Held:
    """A frame that waits for its verdict."""

    frame: VideoFrame
    index: int  # counted here, whatever the source says


@dataclass
class _Checking:
    """A covered frame whose result is searched once more; ``call`` None: not needed."""

    frame: VideoFrame
    verdict: Verdict
    covers: list[Cover]
    applied: list[Applied]
    original: Frame | None
    call: Call[list[Face]] | None


Observer = Callable[[VideoFrame, "list[Cover]"], None]


class DeidentifiedSource(Source):
    """Wraps ``source``. Closes it, but neither ``detector`` nor ``method``.

    ``counts`` grows while it runs. ``guard`` tells about the tracks at the end.

    Args:
        source: raw frames. When it breaks off, the frames that are still held are given first, then its error.
        detector, method: see :mod:`runtime.faces.types`.
        canary: asked every second whether the detector still finds a face; None: never.
        vault: gets the original pixels of everything that is replaced.
        checker: searches the result, in a thread of its own unless it is ``detector``; None: ``detector`` does, and
            at all scales every time.
        observer: sees every covered frame with its covers, for the review page.
    """

    def __init__(
        self,
        source: Source,
        detector: FaceDetector,
        method: Method,
        settings: DeidSettings | None = None,
        *,
        canary: CanaryLike | None = None,
        vault: VaultLike | None = None,
        checker: Checker | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.info = source.info
        self.warnings, self.gaps = source.warnings, source.gaps
        self.settings = settings or DeidSettings()
        self.guard = Guard(self.settings.guard)
        self.counts = DeidCounts()
        self._source, self._detector, self._method = source, detector, method
        self._solid = make_method("solid", keys=RecordingKeys.random())
        self._canary, self._vault, self._observer = canary, vault, observer
        self._begins = Beginnings()
        self._engines = self._check_engines = WatchedThread(self.settings.timeout)
        self._checker = checker
        if checker not in (None, detector):
            self._check_engines = WatchedThread(self.settings.timeout)
        self._held: deque[_Held] = deque()
        self._detecting: tuple[_Held, bool, Call[list[Face]]] | None = None
        self._checking: _Checking | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._distrusted = ""  # why the detector's word is not taken, empty: it is
        self._next_canary = self._next_thorough = float("-inf")
        self._count = 0

    # -- the two ends ---------------------------------------------------------------------------

    def read(self) -> VideoFrame | None:
        """The next covered frame. As the source's own ``read``; what the source raises comes after the frames that
        were read before, and one that broke off is a :class:`VideoError`: the output is not complete."""
        while True:
            verdict = self.guard.pop()
            if verdict is not None:
                released = self._checked()
                self._cover(verdict)
                if self.settings.guard.lookahead == 0 and released is None:
                    released = self._checked()
            else:
                released = self._checked() if self._ended else None
            if released is not None:
                return released
            if verdict is None:
                if self._ended and self._detecting is None and not self._held:
                    if self._error is not None:
                        raise self._error
                    return None
                self._advance()

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Frames that the source left out, before anybody looked for faces in them."""
        return self._source.dropped

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._engines.close()
        if self._check_engines is not self._engines:
            self._check_engines.close()
        self._held.clear()
        self._source.close()

    # -- frames in ------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Read one frame and start the search for faces in it; take note of those in the frame before."""
        frame = self._read_source()
        if frame is None:
            self._note_detection()
            self._ended = True
            self.guard.finish()
            return
        held = _Held(frame, self._count)
        self._count += 1
        anew = self._begins(frame)
        self.counts.cuts = self._begins.cuts
        pts = float(frame.pts)
        self._ask_canary(pts)
        thorough = anew or held.index == 0
        if self.settings.thorough_every and pts >= self._next_thorough:
            thorough = True
        if thorough:
            self._next_thorough = pts + self.settings.thorough_every
        image = frame.image
        # given before the answer for the last one is waited for, so that the engine always has something to do
        detecting = held, anew, self._engines.call(lambda: self._detector.detect(image, thorough=thorough))
        self._note_detection()
        self._held.append(held)
        self._detecting = detecting
        if self.settings.guard.lookahead == 0:
            self._note_detection()

    def _read_source(self) -> VideoFrame | None:
        if self._ended:
            return None
        try:
            return self._source.read()
        except EndedEarlyError as error:
            self._error = VideoError(str(error))
        except Exception as error:  # what was read before is still given, covered
            self._error = error
        return None

    def _note_detection(self) -> None:
        if self._detecting is None:
            return
        held, anew, call = self._detecting
        self._detecting = None
        pts, image = float(held.frame.pts), held.frame.image
        try:
            faces = valid_faces(call.result())
        except CallTimeoutError:
            self.guard.fail(held.index, pts, image, "detector did not answer in time", cut=anew)
        except Exception:
            self.guard.fail(held.index, pts, image, "detector failed", cut=anew)
        else:
            if self._distrusted:
                self.guard.fail(held.index, pts, image, self._distrusted, cut=anew)
            else:
                self.guard.push(held.index, pts, image, faces, cut=anew)

    def _ask_canary(self, pts: float) -> None:
        """Whether the engines still find a face that is known to be there."""
        if self._canary is None or (pts < self._next_canary and not self._distrusted):
            return
        self._next_canary = pts + CANARY_SECONDS
        canary, height, width = self._canary, self.info.height, self.info.width
        self.counts.canaries += 1
        pairs = [(self._engines, self._detector)]
        if self._checker is not None and self._checker is not self._detector:
            pairs.append((self._check_engines, self._checker))
        try:
            calls = [engines.call(partial(canary.check, detector, height, width)) for engines, detector in pairs]
            found = all(call.result() for call in calls)
        except (CallTimeoutError, Exception):
            found = False
        self._distrusted = "" if found else "detector missed the test face"
        self.counts.canaries_missed += not found

    # -- frames out -----------------------------------------------------------------------------

    def _cover(self, verdict: Verdict) -> None:
        """Cover the oldest frame as ``verdict`` says, and start the check of the result."""
        held = self._held.popleft()
        frame, image = held.frame, held.frame.image
        if verdict.index != held.index:
            verdict = Verdict(held.index, False, reason="no verdict for this frame")
        if verdict.ok and self._distrusted:
            verdict = replace(verdict, ok=False, reason=self._distrusted)
        if verdict.ok and frame.damaged:  # half a face is not found, and still known
            verdict = replace(verdict, ok=False, reason="frame is damaged")
        original = image.copy() if self._vault is not None else None
        covers = list(verdict.covers)
        applied: list[Applied] = []
        if verdict.ok:
            try:
                applied = self._method.apply(image, covers)
                if len(applied) != len(covers):
                    raise GenedgeError("the method left out a face")
            except Exception:
                verdict = replace(verdict, ok=False, reason="method failed")
        if not verdict.ok:
            cover_whole(image)
        call = None
        if verdict.ok and self.settings.recheck:
            call = self._search(image, verdict.index)
        self._checking = _Checking(frame, verdict, covers, applied, original, call)

    def _search(self, image: Frame, number: int = 0) -> Call[list[Face]]:
        """Look for faces in a result; ``number``: which of the scales will do, 0 all of them."""
        checker = self._checker
        if checker is not None and number:
            return self._check_engines.call(lambda: checker.glance(image, number))
        detector = self._detector if checker is None else checker
        return self._check_engines.call(lambda: detector.detect(image))

    def _checked(self) -> VideoFrame | None:
        """The frame whose result is being checked, once it is."""
        check, self._checking = self._checking, None
        if check is None:
            return None
        if check.call is not None and (reason := self._covered_again(check, check.call)):
            cover_whole(check.frame.image)
            check.verdict = replace(check.verdict, ok=False, reason=reason)
        self.counts.add(check.verdict)
        if check.verdict.ok:
            self.counts.add_covers(check.covers, check.applied)
        self._keep(check)
        if self._observer is not None:
            self._observer(check.frame, check.covers)
        return check.frame

    def _covered_again(self, check: _Checking, call: Call[list[Face]]) -> str:
        """Cover what is still found in the result; why all of the frame has to be, else nothing."""
        image, index = check.frame.image, check.verdict.index
        try:
            for left in reversed(range(RECHECK_ROUNDS)):
                hits = valid_faces(call.result())
                size = image.shape[:2]
                more = [self.guard.add_late(index, hit) for hit in hits if self._uncovered(hit, check.covers, size)]
                if not more:
                    return ""
                self.counts.rechecks += 1
                self._solid.apply(image, more)
                check.covers += more
                check.applied += [Applied(cover.track, "solid", "found in the result") for cover in more]
                if left:  # else nobody reads what it finds
                    call = self._search(image)
        except CallTimeoutError:
            return "check did not answer in time"
        except Exception:
            return "check failed"
        return "a face is still found in the result"

    def _uncovered(self, hit: Face, covers: list[Cover], size: tuple[int, int]) -> bool:
        """Whether a face that was found in the result, of ``size`` (height, width), is none that the method has
        drawn."""
        if replaced_share(hit.box, [cover.region for cover in covers], *size) < INSIDE:
            return True
        if self._method.name in ("solid", *DRAWING) or hit.score < self.settings.guard.high:
            return False
        # a face that can be found through the mosaic or the blur is told too much of
        again = [cover.region for cover in covers if cover.kind == "rechecked"]
        return replaced_share(hit.box, again, *size) < INSIDE

    def _keep(self, check: _Checking) -> None:
        """Put the original pixels of what was replaced into the vault."""
        original = check.original
        if self._vault is None or original is None:
            return
        height, width = original.shape[:2]
        index, pts = check.verdict.index, check.frame.pts
        if not check.verdict.ok:
            self._vault.add(index, pts, 0, 0, 0, original)
            return
        for cover in check.covers:
            left, top, right, bottom = changed_box(cover.region, width, height)
            if right > left and bottom > top:
                self._vault.add(index, pts, cover.track, left, top, original[top:bottom, left:right])


def valid_faces(faces: list[Face]) -> list[Face]:
    """The detector's answer as it is. Raises :class:`GenedgeError` where it is none: no list of faces, or a box or a
    score that is no finite number."""
    if not isinstance(faces, list) or not all(isinstance(face, Face) for face in faces):
        raise GenedgeError("the face detector gave no list of faces")
    for face in faces:
        numbers = [*face.box, face.score, *(() if face.landmarks is None else face.landmarks.ravel())]
        if not np.isfinite(numbers).all():
            raise GenedgeError("the face detector gave a number that is none")
    return faces


def replaced_share(box: Box, regions: Sequence[Box], height: int, width: int) -> float:
    """The share of the pixels of ``box``, 0 to 1, that are replaced where ``regions`` are covered, soft edges not
    counted; 1 where the frame of ``height`` x ``width`` has no pixel of it."""
    left, top = max(0, math.floor(box.x)), max(0, math.floor(box.y))
    right, bottom = min(width, math.ceil(box.x + box.width)), min(height, math.ceil(box.y + box.height))
    if right <= left or bottom <= top:
        return 1.0
    replaced = np.zeros((bottom - top, right - left), np.bool_)
    for region in regions:
        x, y, end, low = changed_box(region, width, height)
        if x < right and left < end and y < bottom and top < low:
            replaced |= distance(region, (left, top, right, bottom)) <= 1
    return float(replaced.mean())
