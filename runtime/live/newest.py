"""The newest frame wins: a thread reads a live source as fast as it gives, and keeps one frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from fractions import Fraction

from runtime.video.source import Source, VideoFrame

CLOSING = 2.0  # seconds that ``close`` waits for a read that is under way


class NewestSource(Source):
    """Wraps a live ``source`` and gives its newest frame to whoever asks.

    Frames in between are ``dropped``; ``late`` counts those of them that were too old. What the source ends with, an
    error too, comes after its last frame. A frame also has the ``gap`` of those that were dropped before it.

    Args:
        source: is read, and closed, by a thread of its own.
        max_latency: seconds; a frame that is older than this when it is asked for is dropped too. Frames that do not
            say when they were ``captured`` never are.
        at_once: start reading now, so that a camera's or network's buffers never hold old frames; else with the first
            ``read``. What comes before the first ``read`` is not counted, and the times begin with the frame that it
            gives.
        clock: seconds, as ``VideoFrame.captured``.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_latency: float | None = None,
        at_once: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.info = source.info
        self.warnings, self.gaps = source.warnings, source.gaps
        self.dropped = self.late = 0
        self._source, self._max_latency, self._clock = source, max_latency, clock
        self._changed = threading.Condition()
        self._latest: VideoFrame | None = None
        self._zero = None if at_once else Fraction(0)  # what is taken off the times, seconds
        self._gap = False  # in front of a frame that was dropped
        self._asked = self._ended = self._interrupted = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="newest frame", daemon=True)
        if at_once:
            self._thread.start()

    def read(self) -> VideoFrame | None:
        with self._changed:
            self._asked = True
            if self._thread.ident is None:
                self._thread.start()
            while True:
                while self._latest is None and not self._ended and not self._interrupted:
                    self._changed.wait()
                if self._interrupted:
                    return None
                frame, self._latest = self._latest, None
                if frame is None:
                    if self._error is not None:
                        raise self._error
                    return None
                frame.gap, self._gap = frame.gap or self._gap, False
                if not self._is_late(frame):
                    if self._zero is None:
                        self._zero = frame.pts
                    frame.pts -= self._zero
                    return frame
                self.dropped, self.late, self._gap = self.dropped + 1, self.late + 1, frame.gap

    def _is_late(self, frame: VideoFrame) -> bool:
        if self._max_latency is None or frame.captured is None:
            return False
        return self._clock() - frame.captured > self._max_latency

    def _work(self) -> None:
        error: Exception | None = None
        try:
            while not self._interrupted and (frame := self._source.read()) is not None:
                with self._changed:
                    if self._latest is not None:
                        self.dropped += self._asked
                        self._gap = self._gap or self._latest.gap
                    self._latest = frame
                    self._changed.notify_all()
        except Exception as problem:
            error = problem
        finally:
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify_all()
            self._source.close()

    def interrupt(self) -> None:
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()
        self._source.interrupt()

    def close(self) -> None:
        """A read that does not return within two seconds is left behind: the source is closed when it does."""
        self.interrupt()
        if self._thread.ident is None:
            self._source.close()
        else:
            self._thread.join(CLOSING)
