from __future__ import annotations

import io
import json
import math
import os
import pty
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.stats import Clock as Steps
from runtime.stats import LatencyRecorder, Progress, current_rss_bytes, peak_rss_bytes


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200))
def test_percentiles_are_those_of_numpy(seconds: list[float]) -> None:
    recorder = LatencyRecorder()
    for value in seconds:
        recorder.add(value)
    for percent, value in ((50, recorder.p50), (95, recorder.p95), (99, recorder.p99)):
        assert value == pytest.approx(1e3 * np.percentile(seconds, percent), abs=1e-6)
    assert recorder.max == pytest.approx(1e3 * max(seconds))
    assert recorder.mean == pytest.approx(1e3 * np.mean(seconds))
    summary = recorder.summary()
    assert summary is not None
    assert summary.count == len(seconds)
    assert json.loads(json.dumps(summary.to_dict())) == summary.to_dict()


def test_an_empty_recorder_has_no_figures() -> None:
    recorder = LatencyRecorder()
    assert recorder.summary() is None
    assert math.isnan(recorder.p50)
    assert math.isnan(recorder.mean)


def test_memory_is_bounded_and_figures_stay_near() -> None:
    recorder = LatencyRecorder(capacity=2_000)
    values = np.random.default_rng(1).exponential(0.01, 30_000)
    for value in values:
        recorder.add(value)
    assert len(recorder._samples) == 2_000
    assert recorder.count == 30_000
    assert recorder.max == 1e3 * values.max()
    assert recorder.mean == pytest.approx(1e3 * values.mean())
    assert recorder.p50 == pytest.approx(1e3 * np.percentile(values, 50), rel=0.1)
    assert recorder.p95 == pytest.approx(1e3 * np.percentile(values, 95), rel=0.15)


def test_measure_records_also_when_the_body_raises() -> None:
    clock = Clock()
    recorder = LatencyRecorder(clock=clock)

    def body() -> None:
        with recorder.measure():
            clock.now += 0.25
            raise KeyError

    with pytest.raises(KeyError):
        body()
    assert recorder.count == 1
    assert recorder.p99 == pytest.approx(250)


def test_resident_memory_is_in_bytes() -> None:
    before = current_rss_bytes()
    block = np.ones(64 << 20, dtype=np.uint8)
    grown = current_rss_bytes() - before
    assert 50 << 20 < grown < 90 << 20
    assert peak_rss_bytes() >= current_rss_bytes() - (1 << 20)
    assert peak_rss_bytes() < 1 << 40
    del block


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares with Linux' own figures")
def test_peak_without_proc_is_the_resource_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    def refuse(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr("runtime.stats.Path.read_text", refuse)
    assert peak_rss_bytes() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rel=0.01)
    assert current_rss_bytes() == pytest.approx(peak_rss_bytes(), rel=0.01)


class Terminal:
    """A real pseudo terminal: ``stream`` writes to it, ``received()`` gives the bytes that arrived."""

    def __init__(self, columns: int) -> None:
        self.master, slave = pty.openpty()
        self.slave = slave
        self.resize(columns)
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST  # bytes as they were written, no \n to \r\n
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self._bytes = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int) -> None:
        ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 4096)
            except OSError:  # EIO: Linux' end of file on a terminal
                return
            if not data:
                return
            self._bytes += data

    def received(self) -> str:
        self.stream.close()
        self._reader.join(10)
        return self._bytes.decode()


@contextmanager
def terminal(columns: int) -> Iterator[Terminal]:
    it = Terminal(columns)
    try:
        yield it
    finally:
        if not it.stream.closed:
            it.stream.close()
        os.close(it.master)


def test_on_a_terminal_the_line_is_rewritten_at_most_five_times_a_second() -> None:
    clock = Clock()
    with terminal(80) as tty:
        with Progress(300, label="sr-x2", stream=tty.stream, clock=clock) as progress:
            for _ in range(300):  # 100 frames a second for three seconds
                clock.now += 0.01
                progress.step()
        text = tty.received()
    assert text.startswith("\r")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    lines = text[1:-1].split("\r")
    assert 14 <= len(lines) <= 17
    assert lines[7].rstrip().startswith("sr-x2  1")
    assert "/300 frames  100.0 fps  ETA 0:0" in lines[7]
    assert lines[-1].rstrip() == "sr-x2  300/300 frames  in 0:03  100.0 fps"
    # what stood there before is covered
    for before, after in pairwise(lines):
        assert len(after) >= len(before.rstrip())


@pytest.mark.parametrize("columns", [5, 12, 20, 30, 45, 80])
def test_the_line_fits_any_terminal(columns: int) -> None:
    clock = Clock()
    with terminal(columns) as tty:
        with Progress(123_456, label="a-rather-long-name", stream=tty.stream, clock=clock) as progress:
            for _ in range(20):
                clock.now += 0.3
                progress.step(7)
        text = tty.received()
    assert all(len(line) < columns for line in text.rstrip("\n").split("\r"))
    if columns >= 20:
        assert "140/123456 frames" in text


def test_the_line_follows_a_terminal_that_changes_its_size_or_tells_none() -> None:
    clock = Clock()
    with terminal(0) as tty:
        progress = Progress(1000, label="x" * 30, stream=tty.stream, clock=clock)
        clock.now += 1
        progress.update(10)
        tty.resize(20)
        clock.now += 1
        progress.update(20)
        progress.close()
        lines = tty.received().rstrip("\n").split("\r")[1:]
    assert 40 < len(lines[0]) < 80
    assert len(lines[1]) < 20


def test_elsewhere_a_plain_line_comes_every_five_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(100, stream=stream, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.125  # 8 frames a second for 12.5 seconds
            progress.step()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "40/100 frames  8.0 fps  ETA 0:08",
        "80/100 frames  8.0 fps  ETA 0:02",
        "100/100 frames  in 0:12  8.0 fps",
    ]
    assert "\r" not in stream.getvalue()


def test_the_speed_is_that_of_the_last_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(10_000, stream=stream, clock=clock)
    for step in [0.1] * 100 + [0.5] * 40:  # 10 a second for ten seconds, then 2 a second for twenty
        clock.now += step
        progress.step()
    lines = stream.getvalue().splitlines()
    assert "10.0 fps" in lines[0]
    assert "2.0 fps" in lines[-1]
    assert len(progress._window) < 30


def test_an_unknown_or_wrong_total_gives_no_time_left() -> None:
    for total in (None, 5):
        clock, stream = Clock(), io.StringIO()
        with Progress(total, stream=stream, clock=clock) as progress:
            clock.now += 6
            progress.update(12)
        assert stream.getvalue() == "12 frames  2.0 fps\n12 frames  in 0:06  2.0 fps\n"


def test_long_durations_have_hours() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(36_010, stream=stream, clock=clock)
    clock.now += 10
    progress.update(10)
    assert "ETA 10:00:00" in stream.getvalue()


def test_quiet_prints_nothing_and_counts() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(10, stream=stream, quiet=True, clock=clock) as progress:
        clock.now += 60
        progress.step(10)
    assert stream.getvalue() == ""
    assert progress.done == 10


def test_nothing_done_prints_nothing_and_close_is_idempotent() -> None:
    stream = io.StringIO()
    progress = Progress(10, stream=stream)
    progress.close()
    progress.close()
    progress.step()
    assert stream.getvalue() == ""


def test_a_stream_that_breaks_stops_the_line_not_the_work() -> None:
    clock = Clock()

    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    for stream in (Broken(), io.StringIO()):
        if not isinstance(stream, Broken):
            stream.close()
        progress = Progress(10, stream=stream, clock=clock)
        for _ in range(3):
            clock.now += 10
            progress.step()
        progress.close()
        assert progress.done == 3


# --- steps of a long job ----------------------------------------------------------------------------------------------


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that ``time.monotonic`` tells."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def to(seconds: float) -> None:
        now[0] = 100.0 + seconds

    return to


def test_steps_are_told_with_the_seconds_since_the_start(
    at: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Steps()
    clock("loading")
    at(1.25)
    clock("exporting")
    at(1234.5)
    clock("exporting")
    captured = capsys.readouterr()
    assert captured.err == "[   0.0 s] loading\n[   1.2 s] exporting\n[1234.5 s] exporting\n"
    assert captured.out == ""


def test_lines_that_differ_in_numbers_only_come_every_two_seconds(
    at: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Steps()
    for number in range(50):  # ten a second
        at(number / 10)
        clock(f"frame {number} of 50, {5 - number / 10:.1f} s left")
    at(4.95)
    clock("frame 50 of 50, done")  # other words
    clock("layer 1 of 3")
    clock("layer 2 of 3")
    said = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [line.split(",")[0] for line in said] == [
        "frame 0 of 50", "frame 20 of 50", "frame 40 of 50", "frame 50 of 50", "layer 1 of 3",
    ]  # fmt: skip


def test_the_first_line_is_told_whatever_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the machine has just started, and its clock with it."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.5)
    Steps()("3")
    assert capsys.readouterr().err == "[   0.0 s] 3\n"
