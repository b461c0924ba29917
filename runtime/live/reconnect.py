"""A camera or stream that breaks is opened again: a pulled cable costs a gap, not the run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from runtime.errors import EndedEarlyError, VideoError
from runtime.video.source import Gap, Source, VideoFrame

BURST = 2.0  # seconds of video that a live server may send at once, so that a picture is there soon
FIRST_WAIT = 0.25  # seconds between two attempts, doubled from one to the next
LONGEST_WAIT = 2.0
LIVED = 2.0  # seconds after which a source that is lost again is tried at once, and the waits begin anew
MOST_GAPS = 1000  # that are kept for the report; later ones are only counted


def waits() -> Iterator[float]:
    """Seconds from one attempt to the next."""
    wait = FIRST_WAIT
    while True:
        yield wait
        wait = min(2 * wait, LONGEST_WAIT)


def caught_up(source: Source) -> VideoFrame | None:
    """Read past what was sent, and buffered, before the first frame could be read: until one does not come faster than
    it was filmed, or for ``BURST``. Only from there on can its time be told by the clock on the wall."""
    first = last = source.read()
    then = time.monotonic()
    while first is not None and last is not None:
        frame, now = source.read(), time.monotonic()
        if frame is None or now - then >= (frame.pts - last.pts) / 2 or frame.pts - first.pts > BURST:
            return frame
        last, then = frame, now
    return None


class ReconnectingSource(Source):
    """Wraps a live ``source``; when it breaks, ends or stays silent, ``open_again`` is tried until frames come again.

    A stream that ends by itself and came much faster than it was filmed was a recording: that is its end.
    Times go on by the clock on the wall, so that what is recorded keeps its pace; the first frame after a gap says so,
    and ``gaps`` has them all. Frames of another size are scaled to the first one.

    Args:
        source: the open source.
        open_again: opens it anew; what it raises as ``VideoError`` counts as a failed attempt.
        give_up: seconds without a frame after which it is over: :class:`EndedEarlyError`, or just the end where the
            stream had ended by itself.
        say: gets a line when the source is lost and when it is back.
    """

    def __init__(
        self,
        source: Source,
        open_again: Callable[[], Source],
        give_up: float,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.info = source.info
        self.warnings = []
        self.gaps: list[Gap] = []
        self._source: Source | None = source
        self._open_again, self._give_up, self._say = open_again, give_up, say
        self._interrupted = threading.Event()
        self._waits = waits()
        self._lost_at = 0.0
        self._reason = ""  # why the source was lost
        self._broken = False  # by an error: it did not end by itself
        self._number = 0  # of gaps
        self._missing = self._longest = 0.0  # seconds
        self._summary = ""
        self._index = 0
        self._offset = Fraction(0)  # from the times of the source that is open now to ours
        self._last = Fraction(0)  # time of the last frame given
        self._opened_at = self._last_at = time.monotonic()
        self._opened = Fraction(0)  # time of the first frame since then
        self._step = 1 / self.info.rate if self.info.rate else Fraction(1, 25)
        self._fresh = True  # no frame of the source that is open now was given yet
        self._back = False  # the next frame is the first after a gap
        self._resized = False

    def read(self) -> VideoFrame | None:
        while not self._interrupted.is_set():
            if self._source is None and not self._reopened():
                return None
            assert self._source is not None
            try:
                frame = caught_up(self._source) if self._fresh else self._source.read()
            except VideoError as error:
                self._lose(str(error).removeprefix(f"{self.info.uri}: "), broken=True)
                continue
            if frame is not None:
                return self._placed(frame)
            if self._last - self._opened > 2 * (time.monotonic() - self._opened_at) + BURST:
                return None
            self._lose("the stream ended", broken=False)
        return None

    def _placed(self, frame: VideoFrame) -> VideoFrame:
        """The frame with our time, number and size."""
        now = time.monotonic() if frame.captured is None else frame.captured
        self._fresh = False
        if self._back:
            self._note_gap()
            base = self.info.time_base
            step = max(Fraction(now - self._last_at), self._step)
            self._offset = math.ceil((self._last + step - frame.pts) / base) * base
            frame.gap, self._back = True, False
            self._opened, self._opened_at = frame.pts + self._offset, time.monotonic()
        frame.pts += self._offset
        frame.index = self._index
        self._index += 1
        self._last, self._last_at = frame.pts, now
        if frame.image.shape[:2] != (self.info.height, self.info.width):
            self._scale(frame)
        return frame

    def _scale(self, frame: VideoFrame) -> None:
        import cv2

        height, width = frame.image.shape[:2]
        wanted = self.info.width, self.info.height
        if not self._resized:
            self._resized = True
            self.warnings.append(
                f"{self.info.uri} came back with {width}x{height}, scaled to {wanted[0]}x{wanted[1]} as before"
            )
        frame.image = np.asarray(cv2.resize(frame.image, wanted, interpolation=cv2.INTER_AREA), dtype=np.uint8)

    # -- gaps -----------------------------------------------------------------------------------

    def _lose(self, reason: str, *, broken: bool) -> None:
        """Close the source. One that breaks before its first frame has not been back."""
        source, self._source, self._fresh = self._source, None, True
        if source is not None:
            source.close()
            self.warnings += [warning for warning in source.warnings if warning not in self.warnings]
        if self._back:
            return
        self._reason, self._broken, self._back = reason, broken, True
        self._lost_at = time.monotonic()
        self._say(f"warning: {self.info.uri} is lost ({reason}): trying again")

    def _reopened(self) -> bool:
        """Try until it is open. False: interrupted, or it had ended by itself and stays away."""
        begin = time.monotonic()
        if self._opened_at + LIVED < begin:
            self._waits = waits()
        else:  # it was hardly back: whatever answers there needs time
            begin += next(self._waits)
        while not self._interrupted.wait(max(0.0, begin - time.monotonic())):
            begin = time.monotonic()
            if begin - self._lost_at > self._give_up:
                return self._gone()
            try:
                self._source = self._open_again()
            except VideoError:
                begin += next(self._waits)
            else:
                return True
        return False

    def _gone(self) -> bool:
        after = f"{self.info.uri}: lost after frame {self._index} ({float(self._last):.1f} s): {self._reason}"
        away = f"it did not come back within {self._give_up:g} s"
        if self._broken:
            raise EndedEarlyError(f"{after}; {away}")
        self.warnings.append(f"{after}; {away}")
        return False

    def _note_gap(self) -> None:
        seconds = time.monotonic() - self._lost_at
        self._say(f"{self.info.uri} is back after {seconds:.1f} s")
        if len(self.gaps) < MOST_GAPS:
            self.gaps.append(Gap(self._index, float(self._last), seconds, self._reason))
        self._number += 1
        self._missing += seconds
        self._longest = max(self._longest, seconds)
        if self._summary:
            self.warnings.remove(self._summary)
        gaps = "1 gap" if self._number == 1 else f"{self._number} gaps"
        self._summary = f"{self.info.uri}: {gaps}, {self._missing:.1f} s in all, the longest {self._longest:.1f} s"
        self.warnings.append(self._summary)

    # -- the end --------------------------------------------------------------------------------

    def interrupt(self) -> None:
        self._interrupted.set()
        if (source := self._source) is not None:
            source.interrupt()

    def close(self) -> None:
        self._interrupted.set()
        source, self._source = self._source, None
        if source is not None:
            source.close()
