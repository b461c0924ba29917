"""Live outputs: frames go to a server, a network address or a GStreamer pipeline, and never hold the run up.

A process of its own compresses and sends (:mod:`runtime.video.sender`). PyAV keeps Python's lock while it connects, and
neither it nor OpenCV can be told to give up on a server or an element that does not answer: a process can be left, and
ended, at any moment. Frames get there through shared memory, without a copy more than any sink needs.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import VideoError
from runtime.live.reconnect import LIVED, MOST_GAPS, waits
from runtime.video.encoders import Encoding
from runtime.video.preview import Pace
from runtime.video.sink import Sink, _check_frame, output_color
from runtime.video.source import SWS_OF_MATRIX, Gap, SourceInfo, VideoFrame
from runtime.video.uri import STREAM_FORMATS, SinkUri

SLOTS = 4  # frames that are on their way at most: 0.13 s at 30 frames a second, for moments without a processor
OPENING = 15.0  # seconds in which a connection has to be there
STALL = 5.0  # seconds after which one that takes no frame counts as lost
LOST = 30  # whole seconds of one call after which the system ends a process whose run was killed
CLOSING = 3.0  # seconds for the last frames and the good-bye
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Sending:
    """What the process that sends is told; ``job`` is ready for JSON."""

    shown: str
    job: dict[str, Any]


def open_stream(
    uri: SinkUri,
    source: SourceInfo,
    width: int,
    height: int,
    encoding: Encoding,
    reconnect: float,
    say: Callable[[str], None],
    *,
    audio: bool,
) -> Sink:
    """A sink that sends frames of ``width`` x ``height`` pixels to the address of ``uri``, see :class:`LiveSink`."""
    color = output_color(source.color, width, height)
    rate = (source.rate or Fraction(30)).limit_denominator(1000)
    job = {
        "kind": "stream",
        "address": uri.target,
        "format": STREAM_FORMATS[uri.target.partition(":")[0].lower()],
        "encoder": encoding.encoder,
        "options": dict(encoding.options),
        "threads": encoding.threads,
        "pix_fmt": encoding.pixel_format(width, height),
        "rate": [rate.numerator, rate.denominator],
        "aspect": [source.sample_aspect.numerator, source.sample_aspect.denominator],
        "matrix": color.matrix,
        "sws_matrix": SWS_OF_MATRIX[color.matrix],
        "primaries": color.primaries,
        "transfer": color.transfer,
        "silence": STALL,
    }
    sink = LiveSink(Sending(uri.shown, job), source, width, height, reconnect, say)
    sink.encoder = encoding.encoder
    if audio and source.audio:
        sink.warnings.append(f"{uri.shown}: without sound: a live output has pictures only")
    return sink


def open_pipeline(
    uri: SinkUri, source: SourceInfo, width: int, height: int, reconnect: float, say: Callable[[str], None]
) -> Sink:
    """A sink that gives frames to a GStreamer pipeline, through an OpenCV that has GStreamer."""
    rate = float(source.rate or 30)
    job = {"kind": "gstreamer", "pipeline": pipeline_of(uri.target), "rate": rate}
    return LiveSink(Sending(uri.text, job), source, width, height, reconnect, say)


def pipeline_of(text: str) -> str:
    """What GStreamer is told: frames come from an ``appsrc``, which is put in front where it is not there."""
    own = text.strip().lstrip("! ")
    return own if own.startswith("appsrc") else f"appsrc ! videoconvert ! {own}"


class _Link:
    """One process that sends. ``write`` never waits: without a free slot the frame is not taken."""

    def __init__(self, sending: Sending, width: int, height: int) -> None:
        self.opened = self.ended = False
        self.sent = 0
        self.error = ""
        self.began = self.moved = time.monotonic()  # when it last took a frame off, or had none to take
        self._free = list(range(SLOTS))
        self._lock = threading.Lock()
        self.changed = threading.Condition(self._lock)
        self._memory, handle = _shared(SLOTS * height * width * 3)
        shape = (SLOTS, height, width, 3)
        self._slots: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(self._memory, dtype=np.uint8).reshape(shape)
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "runtime.video.sender", str(handle)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(handle,),
                env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},  # nothing from the working folder
                start_new_session=True,  # Ctrl-C is for us: this process ends when its input does
            )
        finally:
            os.close(handle)
        self._thread = threading.Thread(target=self._listen, name="live output", daemon=True)
        self._thread.start()
        self._tell({**sending.job, "width": width, "height": height, "slots": SLOTS, "lost": LOST})

    def write(self, frame: VideoFrame) -> bool:
        """Hand the frame over. False: it was not taken."""
        with self._lock:
            if not self.opened or self.ended or not self._free:
                return False
            slot = self._free.pop()
            if len(self._free) == SLOTS - 1:
                self.moved = time.monotonic()
        np.copyto(self._slots[slot], frame.image)
        self._tell({"slot": slot, "pts": [frame.pts.numerator, frame.pts.denominator]})
        return True

    def trouble(self, now: float) -> str:
        """Why it cannot be used any longer, "" while it can."""
        with self._lock:
            if self.ended:
                return self.error or "it has ended"
            limit = OPENING if not self.opened else STALL if len(self._free) < SLOTS else math.inf
            return "it does not answer" if now - self.moved > limit else ""

    @property
    def under_way(self) -> int:
        """Frames that were taken and are not sent."""
        with self._lock:
            return SLOTS - len(self._free)

    def close(self, seconds: float) -> None:
        """End it: ``seconds`` for what is under way, then it is stopped."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(CLOSING)

    def _tell(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, and why comes from the other side
            self._process.stdin.write(json.dumps(content).encode() + b"\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                said = json.loads(line)
                with self.changed:
                    self.moved = time.monotonic()
                    if "slot" in said:
                        self._free.append(said["slot"])
                        self.sent += 1
                    elif "error" in said:
                        self.error = str(said["error"])
                    else:
                        self.opened = True
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()


def _shared(size: int) -> tuple[mmap.mmap, int]:
    """Memory of ``size`` bytes, and the handle by which another process gets it."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("genedge frames")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.set_inheritable(handle, True)
    os.ftruncate(handle, size)
    return mmap.mmap(handle, size), handle


class LiveSink(Sink):
    """Sends frames as they come; those that a slow or lost receiver cannot take are left out and counted.

    Files go out no faster than they were filmed. When the connection breaks, or takes no frame for five seconds, it is
    made anew, with growing waits, for ``reconnect`` seconds; then ``write`` raises ``VideoError``. ``gaps`` has every
    time without a connection.

    Args:
        sending: what to send where.
        source: where the frames come from.
        width, height: of the frames in pixels.
        reconnect: seconds; 0: a connection that is lost is the end.
        say: gets a line when the connection is lost and when it is back.

    Raises ``VideoError`` where it cannot be opened at first.
    """

    def __init__(
        self,
        sending: Sending,
        source: SourceInfo,
        width: int,
        height: int,
        reconnect: float,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.warnings = []
        self.gaps: list[Gap] = []
        self._sending, self._size = sending, (width, height)
        self._reconnect, self._say = reconnect, say
        self._pace = Pace(live=source.live)
        self._sent = 0  # over links that have ended
        self._lost_at: float | None = None
        self._reason = ""
        self._pts = self._lost_pts = 0.0  # seconds, of the last frame taken, and of the last before the loss
        self._missing = self._longest = 0.0
        self._number = 0
        self._waits: Iterator[float] = waits()
        self._next_try = 0.0
        self._closed = False
        self._link: _Link | None = _Link(sending, width, height)
        self._await_first(self._link)

    def _await_first(self, link: _Link) -> None:
        with link.changed:
            link.changed.wait_for(lambda: link.opened or link.ended, OPENING)
        if link.opened and not link.ended:
            return
        link.close(0.0)
        self._closed = True
        raise VideoError(f"{self._sending.shown} cannot be opened: {link.error or 'it does not answer'}")

    def write(self, frame: VideoFrame) -> None:
        _check_frame(frame.image, *self._size)
        if self._closed:
            raise VideoError(f"{self._sending.shown} is closed: it takes no more frames")
        self._pace.wait(frame.pts)
        self._tend()
        self.frames_written += 1
        self._pts = float(frame.pts)
        if self._link is None or not self._link.write(frame):
            self.dropped += 1

    def _tend(self) -> None:
        """Look after the connection; never waits."""
        now, link = time.monotonic(), self._link
        if link is not None:
            reason = link.trouble(now)
            if not reason:
                if self._lost_at is not None and link.sent:
                    self._back(now, self._lost_at)
                return
            self._lose(link, reason, now)
        assert self._lost_at is not None
        if now - self._lost_at >= self._reconnect:
            raise VideoError(
                f"{self._sending.shown}: lost after {self._sent} frames: {self._reason}"
                + (f"; it did not come back within {self._reconnect:g} s" if self._reconnect else "")
            )
        if now >= self._next_try:
            self._link = _Link(self._sending, *self._size)

    def _lose(self, link: _Link, reason: str, now: float) -> None:
        self._link = None
        self.dropped += link.under_way
        self._sent += link.sent
        link.close(0.0)
        if self._lost_at is None:
            self._lost_at, self._lost_pts, self._reason = now, self._pts, reason
            if self._reconnect:
                self._say(f"warning: {self._sending.shown} is lost ({reason}): trying again")
            if now - link.began > LIVED:
                self._waits = waits()
        self._next_try = now + next(self._waits)

    def _back(self, now: float, lost_at: float) -> None:
        self._note_gap(now - lost_at)
        self._lost_at = None
        self._say(f"{self._sending.shown} is back after {now - lost_at:.1f} s")

    def _note_gap(self, seconds: float) -> None:
        if len(self.gaps) < MOST_GAPS:
            self.gaps.append(Gap(self._sent, self._lost_pts, seconds, self._reason))
        self._number += 1
        self._missing += seconds
        self._longest = max(self._longest, seconds)

    def close(self) -> None:
        """Send what is under way and say good-bye; three seconds at most."""
        self._finish(CLOSING)

    def abort(self) -> None:
        self._finish(CLOSING / 3)

    def _finish(self, seconds: float) -> None:
        if self._closed:
            return
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            link.close(seconds)
            self.dropped += link.under_way
            self._sent += link.sent
        if self._lost_at is not None:
            self._note_gap(time.monotonic() - self._lost_at)
        if self._number:
            gaps = "1 gap" if self._number == 1 else f"{self._number} gaps"
            self.warnings.append(
                f"{self._sending.shown}: {gaps}, {self._missing:.1f} s in all, the longest {self._longest:.1f} s"
            )
        if self.dropped:
            self.warnings.append(
                f"{self._sending.shown}: {self.dropped} of {self.frames_written} frames were left out, because they "
                "could not be sent in time"
            )
