"""A window that shows frames, at the speed of the video."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from fractions import Fraction
from typing import Any

from runtime.errors import VideoError
from runtime.video.sink import Sink, _check_frame
from runtime.video.source import VideoFrame

_INSTEAD = "write to a file instead, or to null:// to measure"
_PROBE = "import cv2; cv2.namedWindow('genedge'); cv2.waitKey(1); cv2.destroyAllWindows()"
_PROBE_SECONDS = 20
_KEYS_STOP = (ord("q"), ord("Q"), 27)  # 27 = Esc


def require_display() -> None:
    """Raise ``VideoError`` where no window can be shown.

    Qt, under OpenCV, ends the whole process when it finds no display, so a child process tries first.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise VideoError(f"no display here (DISPLAY is not set): {_INSTEAD}")
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_SECONDS, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        raise VideoError(f"the display does not answer: {_INSTEAD}") from None
    if probe.returncode == 0:
        return
    if "not implemented" in probe.stderr or "Rebuild the library" in probe.stderr:
        raise VideoError(f"this OpenCV has no windows (opencv-python-headless is installed): {_INSTEAD}")
    raise VideoError(f"no window can be opened on this display: {_INSTEAD}")


class Pace:
    """Holds frames back to the speed at which they were filmed; those of a ``live`` source are due as they come."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._zero: float | None = None  # monotonic time at which pts 0 was due

    def wait(self, pts: Fraction) -> None:
        """Return when the frame is due. A late frame moves the clock: nothing is shown faster to catch up."""
        now = time.monotonic()
        if self._live or self._zero is None or self._zero + float(pts) < now:
            self._zero = now - float(pts)
            return
        wait = self._zero + float(pts) - now
        if wait > 0.001:
            time.sleep(wait)


class WindowSink(Sink):
    """Shows frames in a window. q, Esc or closing the window sets ``stop_requested``; other keys go to ``on_key``.

    Files are shown no faster than they were filmed; live sources as they come. All calls must come from one thread
    (on macOS the main thread).
    """

    def __init__(self, width: int, height: int, *, live: bool, title: str = "genedge (q stops)") -> None:
        require_display()
        # the Qt in OpenCV's wheels warns of fonts that it lacks, and of the thread at the end; nobody can act on it
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
        self.warnings = []
        self._size = width, height
        self._pace = Pace(live=live)
        self._title = title
        self._shown = False

    def write(self, frame: VideoFrame) -> None:
        import cv2

        _check_frame(frame.image, *self._size)
        self._pace.wait(frame.pts)
        try:
            if not self._shown:
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL)
                cv2.resizeWindow(self._title, *self._size)
            cv2.imshow(self._title, frame.image)
            key = cv2.waitKey(1) & 0xFF
            closed: Any = self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise VideoError(f"the window failed: {error.err}: {_INSTEAD}") from error
        self._shown = True
        self.frames_written += 1
        if key in _KEYS_STOP or closed:
            self.stop_requested = True
        elif key < 128 and self.on_key is not None:  # 255: none
            self.on_key(chr(key))

    def close(self) -> None:
        import cv2

        if self._shown:
            self._shown = False
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)
