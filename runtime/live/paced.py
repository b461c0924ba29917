"""A file as a stand-in for a camera: its frames come at the rate at which they were filmed."""

from __future__ import annotations

import dataclasses
import threading
import time

from runtime.video.source import Source, VideoFrame


class PacedSource(Source):
    """Gives the frames of ``source`` when their time has come, as a live source.

    ``captured`` is that moment. A frame that cannot be decoded in time is captured when it is there, and moves the
    clock: nothing comes faster than filmed to catch up.
    """

    def __init__(self, source: Source) -> None:
        self.info = dataclasses.replace(source.info, live=True, frame_count=None)
        self.warnings, self.gaps = source.warnings, source.gaps
        self._source = source
        self._zero: float | None = None  # monotonic time at which pts 0 was due
        self._interrupted = threading.Event()

    def read(self) -> VideoFrame | None:
        frame = self._source.read()
        if frame is None:
            return None
        now, pts = time.monotonic(), float(frame.pts)
        if self._zero is None or self._zero + pts < now:
            self._zero = now - pts
        frame.captured = self._zero + pts
        if self._interrupted.wait(frame.captured - now):
            return None
        return frame

    def interrupt(self) -> None:
        self._interrupted.set()
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()
