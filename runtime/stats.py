"""Measurements of a running pipeline: latencies, memory, and a progress line."""

from __future__ import annotations

import math
import os
import random
import re
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypeVar

EXACT_SAMPLES = 100_000  # 8 bytes each: 0.8 MB a stage, about an hour of video at 25 frames a second


@dataclass(frozen=True)
class LatencySummary:
    """A stage's latencies, all in milliseconds."""

    count: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class LatencyRecorder:
    """Collects seconds, reports milliseconds, in bounded memory.

    Percentiles are exact for the first ``capacity`` samples. Beyond that they come from a uniform
    random sample (a reservoir) of ``capacity`` of them; count, mean and maximum stay exact.
    One thread adds; others may read at any time.
    """

    def __init__(self, capacity: int = EXACT_SAMPLES, clock: Callable[[], float] = time.perf_counter) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        self._capacity, self._clock = capacity, clock
        self._samples = array("d")
        self._random = random.Random(0)
        self._sum, self._max, self._count = 0.0, 0.0, 0

    def add(self, seconds: float) -> None:
        """Record one duration in seconds."""
        self._count += 1
        self._sum += seconds
        self._max = max(self._max, seconds)
        if len(self._samples) < self._capacity:
            self._samples.append(seconds)
            return
        place = self._random.randrange(self._count)
        if place < self._capacity:
            self._samples[place] = seconds

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Record how long the body takes, also when it raises."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(self._clock() - start)

    @property
    def count(self) -> int:
        return self._count

    @property
    def mean(self) -> float:
        """Milliseconds; nan without samples."""
        return 1e3 * self._sum / self._count if self._count else math.nan

    @property
    def max(self) -> float:
        """Milliseconds; nan without samples."""
        return 1e3 * self._max if self._count else math.nan

    @property
    def p50(self) -> float:
        """Median in milliseconds; nan without samples."""
        return self.percentile(50)

    @property
    def p95(self) -> float:
        """95th percentile in milliseconds; nan without samples."""
        return self.percentile(95)

    @property
    def p99(self) -> float:
        """99th percentile in milliseconds; nan without samples."""
        return self.percentile(99)

    def percentile(self, percent: float) -> float:
        """Milliseconds, interpolated between neighbours as numpy does; nan without samples."""
        return _percentile(sorted(self._samples), percent)

    def summary(self) -> LatencySummary | None:
        """All figures at once; None without samples."""
        if not self._count:
            return None
        ordered = sorted(self._samples)
        p50, p95, p99 = (_percentile(ordered, percent) for percent in (50, 95, 99))
        return LatencySummary(self._count, self.mean, p50, p95, p99, self.max)


def _percentile(ordered: list[float], percent: float) -> float:
    if not ordered:
        return math.nan
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return 1e3 * (ordered[low] + (ordered[high] - ordered[low]) * (place - low))


def cores_here() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system does not tell."""
    try:
        # Linux: of this program only. ru_maxrss would also count what the process was before exec.
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def current_rss_bytes() -> int:
    """Resident memory of this process now, in bytes. Without ``/proc`` it is the peak instead."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return peak_rss_bytes()


P = TypeVar("P", bound="Progress")


class Progress:
    """A progress line: frames done, frames a second over the last five seconds, time left.

    On a terminal the line is rewritten in place, at most five times a second, and cut to the
    terminal's width. Elsewhere a plain line comes every five seconds. A stream that breaks makes it
    quiet; it never stops the work. Safe to call from any thread.

    Args:
        total: frames to come, or None where that is unknown (then there is no time left).
        label: put in front of the line.
        stream: standard error if None.
        quiet: print nothing.
        clock: seconds, never going back.
    """

    TTY_INTERVAL = 0.2  # seconds between two rewrites
    PLAIN_INTERVAL = 5.0  # seconds between two plain lines
    WINDOW = 5.0  # seconds over which the speed is taken

    def __init__(
        self,
        total: int | None = None,
        *,
        label: str = "",
        stream: TextIO | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total, self._label, self._quiet, self._clock = total, label, quiet, clock
        self._tty = not quiet and _is_tty(self._stream)
        self._lock = threading.Lock()
        self._start = clock()
        self._done = 0
        self._shown = 0  # characters of the line that stands on the terminal
        self._last = -math.inf if self._tty else self._start
        # (time, done), at least TTY_INTERVAL apart, so at most 26 of them
        self._window: deque[tuple[float, int]] = deque([(self._start, 0)])
        self._closed = False

    @property
    def done(self) -> int:
        """Frames reported so far."""
        return self._done

    def step(self, frames: int = 1) -> None:
        """``frames`` more are done."""
        self.update(self._done + frames)

    def update(self, done: int) -> None:
        """``done`` frames are done in all."""
        with self._lock:
            self._done = done
            if self._closed:
                return
            now = self._clock()
            if now - self._window[-1][0] >= self.TTY_INTERVAL:
                self._window.append((now, done))
                while len(self._window) > 2 and now - self._window[1][0] >= self.WINDOW:
                    self._window.popleft()
            if self._quiet or now - self._last < (self.TTY_INTERVAL if self._tty else self.PLAIN_INTERVAL):
                return
            self._last = now
            self._show(self._parts(now))

    def close(self) -> None:
        """Print the final line and end it. Calling it twice is harmless."""
        if not self._lock.acquire(timeout=1):  # a terminal that is held (Ctrl-S) must not hold the program's end
            return
        try:
            if self._closed:
                return
            self._closed = True
            if self._quiet or (not self._done and not self._shown):
                return
            seconds = self._clock() - self._start
            speed = [f"{self._done / seconds:.1f} fps"] if seconds > 0 else []
            self._show([self._counter(), f"in {duration(seconds)}", *speed])
            if self._tty:
                self._write("\n")
        finally:
            self._lock.release()

    def __enter__(self: P) -> P:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _counter(self) -> str:
        # a container's frame count can be wrong: what was counted here is right
        known = self._total is not None and self._done <= self._total
        return f"{self._done}/{self._total} frames" if known else f"{self._done} frames"

    def _parts(self, now: float) -> list[str]:
        parts = [self._counter()]
        then, before = self._window[0]
        speed = (self._done - before) / (now - then) if now > then else 0.0
        if speed > 0:
            parts.append(f"{speed:.1f} fps")
        if left := self._time_left(now, speed):
            parts.append(left)
        return parts

    def _time_left(self, now: float, speed: float) -> str | None:
        if speed <= 0 or self._total is None or self._done > self._total:
            return None
        return f"ETA {duration((self._total - self._done) / speed)}"

    def _show(self, parts: list[str]) -> None:
        label = [self._label] if self._label else []
        if not self._tty:
            self._write("  ".join([*label, *parts]) + "\n")
            return
        room = _columns(self._stream) - 1  # a character in the last column makes some terminals wrap
        while len("  ".join([*label, *parts])) > room and label:
            label = []
        while len("  ".join(parts)) > room and len(parts) > 1:
            parts = parts[:-1]
        line = "  ".join([*label, *parts])[:room]
        blank = " " * max(0, min(self._shown, room) - len(line))
        self._shown = len(line)
        self._write("\r" + line + blank)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal went away, or the stream was closed
            self._quiet = True


def _is_tty(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


def _columns(stream: TextIO) -> int:
    """Width of the terminal behind ``stream`` now; 80 where it does not tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def duration(seconds: float) -> str:
    """``0:07``, ``12:34`` or ``1:02:03``."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Clock:
    """Steps of a long job to stderr: one line each, with the seconds since the start.

    Lines that differ from the one before in numbers only, such as ``frame 3 of 80``, come every two seconds at most.
    """

    EVERY = 2.0  # seconds

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._kind, self._printed = "", -math.inf

    def __call__(self, text: str) -> None:
        now, kind = time.monotonic(), re.sub(r"\d+", "", text)
        if kind == self._kind and now - self._printed < self.EVERY:
            return
        self._kind, self._printed = kind, now
        print(f"[{now - self._start:6.1f} s] {text}", file=sys.stderr, flush=True)
