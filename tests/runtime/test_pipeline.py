from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime.errors import EndedEarlyError, VideoError
from runtime.frames import Frame, Frames, SizeRule
from runtime.pipeline import HURRY, PipelineReport, run_pipeline
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.fake import FakeSession
from runtime.stats import Progress
from runtime.tiles import TiledSession

pytestmark = pytest.mark.timeout(60)
ROOT = Path(runtime.__file__).parent.parent


@dataclass(frozen=True)
class VideoFrame:
    image: Frame
    pts: Fraction
    index: int
    duration: Fraction | None = None


def picture(index: int, height: int = 6, width: int = 8) -> Frame:
    return np.full((height, width, 3), index % 256, dtype=np.uint8) + np.arange(width, dtype=np.uint8)[:, None]


class FakeSource:
    """``count`` frames; then the end, or ``error``. ``block`` is waited for before the frame ``block_at``."""

    def __init__(self, count: int, error: BaseException | None = None, delay: float = 0.0) -> None:
        self.count, self.error, self.delay = count, error, delay
        self.given = 0
        self.block: threading.Event | None = None
        self.block_at = 0
        self.size = (6, 8)
        self.reads_after_end = 0

    def read(self) -> VideoFrame | None:
        if self.block is not None and self.given == self.block_at:
            self.block.wait(30)
        time.sleep(self.delay)
        if self.given == self.count:
            if self.error is not None:
                raise self.error
            return None
        index, self.given = self.given, self.given + 1
        return VideoFrame(picture(index, *self.size), Fraction(index, 25), index)


class FakeSink:
    """Keeps index and content; fails or waits at a frame; counts how often it was finalised."""

    def __init__(self, fail_at: int | None = None, delay: float = 0.0, error: Exception | None = None) -> None:
        self.fail_at, self.delay = fail_at, delay
        self.error = error or OSError(errno.ENOSPC, "No space left on device", "out.mp4")
        self.indices: list[int] = []
        self.sums: list[int] = []
        self.pts: list[Fraction] = []
        self.closed = self.aborted = 0
        self.close_error: Exception | None = None
        self.abort_error: Exception | None = None
        self.block: threading.Event | None = None
        self.block_at = 0
        self.threads: set[int] = set()

    def write(self, frame: VideoFrame) -> None:
        assert not self.closed
        assert not self.aborted
        self.threads.add(threading.get_ident())
        if self.block is not None and len(self.indices) == self.block_at:
            self.block.wait(30)
        if len(self.indices) == self.fail_at:
            raise self.error
        before = frame.image.copy()
        time.sleep(self.delay)
        assert np.array_equal(frame.image, before)  # nobody writes into it while the sink has it
        self.indices.append(frame.index)
        self.pts.append(frame.pts)
        self.sums.append(int(frame.image.astype(np.int64).sum()))

    def close(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error

    def abort(self) -> None:
        self.aborted += 1
        if self.abort_error is not None:
            raise self.abort_error


class AsyncSession(Session):
    """Adds ``add`` and repeats by ``scale``, on threads, in any order. Checks the rules about buffers."""

    def __init__(self, scale: int = 1, add: int = 1, in_flight: int = 2, delay: float = 0.0, seed: int = 0) -> None:
        self.scale, self.add, self.delay = scale, add, delay
        self.info = SessionInfo("async", "fp32", "fake", "none", 1, in_flight)
        self.outs: set[int] = set()
        self.under_way = self.most = self.number = 0
        self.fail_submit_at: int | None = None
        self.fail_result_at: int | None = None
        self.block: threading.Event | None = None
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        number, self.number = self.number, self.number + 1
        if number == self.fail_submit_at:
            raise RuntimeError(f"submit {number} failed")
        assert out is not None
        assert out.flags.c_contiguous
        assert out.shape == self.output_shape(frames.shape)
        self.outs.add(out.ctypes.data)
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            assert self.under_way <= self.info.in_flight
        wait_for = self._random.random() * self.delay

        def work() -> None:
            time.sleep(wait_for)
            np.copyto(out, (frames + np.uint8(self.add)).repeat(self.scale, 1).repeat(self.scale, 2))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()

        def wait() -> Frames:
            if self.block is not None:
                self.block.wait(30)
            thread.join()
            with self._lock:
                self.under_way -= 1
            if number == self.fail_result_at:
                raise RuntimeError(f"result {number} failed")
            return out

        return Pending(wait)

    def close(self) -> None:
        pass


def expected_sums(count: int, add: int = 0, area: int = 1) -> list[int]:
    return [int((picture(i) + np.uint8(add)).astype(np.int64).sum()) * area for i in range(count)]


def threads_left() -> list[str]:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        names = [t.name for t in threading.enumerate() if t.name.startswith("pipeline")]
        if not names:
            return []
        time.sleep(0.01)
    return names


@given(
    st.integers(0, 40), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=3),
    st.sampled_from([0.0, 0.001]), st.sampled_from([0.0, 0.001]), st.sampled_from([0.0, 0.003]), st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_every_frame_arrives_once_in_order(
    count: int, queue_size: int, in_flight: list[int], read: float, write: float, infer: float, seed: int
) -> None:
    sink = FakeSink(delay=write)
    stages = [AsyncSession(1, 1 + i, n, infer, seed) for i, n in enumerate(in_flight)]
    report = run_pipeline(FakeSource(count, delay=read), stages, sink, queue_size=queue_size)
    assert sink.indices == list(range(count))
    assert sink.pts == [Fraction(i, 25) for i in range(count)]
    assert sink.sums == expected_sums(count, sum(stage.add for stage in stages))
    assert (sink.closed, sink.aborted) == (1, 0)
    assert report.frames == count
    assert len(sink.threads) <= 1
    for i, stage in enumerate(stages):
        assert len(stage.outs) <= (
            stage.info.in_flight + queue_size + (in_flight[i + 1] if i + 1 < len(in_flight) else 1) + 1
        )
    assert all(mark <= queue_size for mark in report.queue_high_water.values())
    assert not report.stopped


@given(
    st.integers(0, 30), st.lists(st.integers(1, 4), max_size=3),
    st.sampled_from([0.0, 0.001]), st.sampled_from([0.0, 0.001]), st.sampled_from([0.0, 0.003]), st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_newest_gives_all_that_the_source_gives_one_at_a_time(
    count: int, in_flight: list[int], read: float, write: float, infer: float, seed: int
) -> None:
    sink = FakeSink(delay=write)
    stages = [AsyncSession(1, 1 + i, n, infer, seed) for i, n in enumerate(in_flight)]
    report = run_pipeline(FakeSource(count, delay=read), stages, sink, newest=True)
    assert sink.sums == expected_sums(count, sum(stage.add for stage in stages))
    assert all(stage.most <= 1 for stage in stages)
    assert (sink.closed, report.frames, report.dropped) == (1, count, 0)


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_newest_asks_for_a_frame_only_when_it_can_be_used(stages: int) -> None:
    source, sink = FakeSource(20), FakeSink()
    sink.block, sink.block_at = threading.Event(), 3
    sessions = [FakeSession(1) for _ in range(stages)]
    thread = threading.Thread(target=lambda: run_pipeline(source, sessions, sink, newest=True), daemon=True)
    thread.start()
    time.sleep(0.3)
    # the sink holds the fourth frame, and every stage has one that waits for it; none is read ahead
    assert source.given == 4 + stages
    sink.block.set()
    thread.join(10)
    assert sink.indices == list(range(20))


@pytest.mark.parametrize("where", ["source", "submit", "result", "sink", "close"])
@pytest.mark.parametrize("at", [0, 1, 5])
def test_newest_ends_in_every_case(where: str, at: int) -> None:
    source, sink, stages = FakeSource(20), FakeSink(), [AsyncSession(), AsyncSession(delay=0.002)]
    if where == "source":
        source.count, source.error = at, RuntimeError("source")
    elif where == "submit":
        stages[1].fail_submit_at = at
    elif where == "result":
        stages[0].fail_result_at = at
    elif where == "sink":
        sink.fail_at = at
    else:
        source.count, sink.close_error = at, OSError(errno.EIO, "close")
    with pytest.raises((RuntimeError, OSError)):
        run_pipeline(source, stages, sink, newest=True)
    assert sink.indices == list(range(at))
    assert sink.aborted == 1
    assert threads_left() == []


@pytest.mark.parametrize("newest", [False, True])
def test_a_source_that_waits_is_interrupted_at_the_end(newest: bool) -> None:
    class Waiting(FakeSource):
        def interrupt(self) -> None:
            assert self.block is not None
            self.count = self.given  # what it gives from now on: the end
            self.block.set()

    source, sink, stop = Waiting(20), FakeSink(), threading.Event()
    source.block, source.block_at = threading.Event(), 2
    threading.Timer(0.2, stop.set).start()
    begin = time.monotonic()
    report = run_pipeline(source, [FakeSession(1)], sink, stop=stop, newest=newest)
    assert time.monotonic() - begin < 5
    assert (report.stopped, sink.indices) == (True, [0, 1])


def test_all_requests_in_flight_are_used() -> None:
    stage = AsyncSession(2, in_flight=3, delay=0.01)
    run_pipeline(FakeSource(30), [stage], FakeSink())
    assert stage.most == 3


def test_a_result_does_not_wait_for_the_next_frame() -> None:
    source, sink = FakeSource(2), FakeSink()
    source.block, source.block_at = threading.Event(), 1  # a live source whose second frame comes later
    thread = threading.Thread(target=lambda: run_pipeline(source, [AsyncSession()], sink), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not sink.indices and time.monotonic() < deadline:
        time.sleep(0.005)
    assert sink.indices == [0]
    source.block.set()
    thread.join(10)
    assert sink.indices == [0, 1]


@pytest.mark.parametrize("at", [0, 7, 19])
@pytest.mark.parametrize("stages", [0, 1, 2])
@pytest.mark.parametrize("delay", [0.0, 0.005], ids=["fast sink", "slow sink"])
def test_a_source_that_breaks_off(at: int, stages: int, delay: float) -> None:
    sink, error = FakeSink(delay=delay), EndedEarlyError(f"broke off after frame {at}")
    with pytest.raises(EndedEarlyError) as caught:
        run_pipeline(FakeSource(at, error), [AsyncSession() for _ in range(stages)], sink, queue_size=2)
    assert caught.value is error
    assert sink.indices == list(range(at))
    assert (sink.closed, sink.aborted) == (1, 0)
    assert threads_left() == []


@pytest.mark.parametrize("at", [0, 7, 19])
@pytest.mark.parametrize("kind", [VideoError, RuntimeError, MemoryError, SystemExit])
def test_a_source_that_fails(at: int, kind: type[BaseException]) -> None:
    sink, error = FakeSink(), kind("no")
    with pytest.raises(kind) as caught:
        run_pipeline(FakeSource(at, error), [AsyncSession(), AsyncSession()], sink, queue_size=1)
    assert caught.value is error
    assert sink.indices == list(range(at))
    assert (sink.closed, sink.aborted) == (0, 1)
    assert threads_left() == []


@pytest.mark.parametrize("at", [0, 10, 19])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("place", ["submit", "result"])
@pytest.mark.parametrize("count", [20, 10_000])
def test_a_session_that_fails(at: int, which: int, place: str, count: int) -> None:
    stages = [AsyncSession(in_flight=3, delay=0.001), AsyncSession(delay=0.001)]
    setattr(stages[which], f"fail_{place}_at", at)
    sink = FakeSink()
    with pytest.raises(RuntimeError, match=f"{place} {at} failed"):
        run_pipeline(FakeSource(count), stages, sink, queue_size=2)
    assert sink.indices == list(range(at))  # all before it
    assert (sink.closed, sink.aborted) == (0, 1)
    assert all(stage.under_way == 0 for stage in stages)  # nothing still writes into our buffers
    assert threads_left() == []


def test_the_fake_sessions_failure_comes_through_tiles() -> None:
    sink, source = FakeSink(), FakeSource(50)
    source.size = (20, 20)
    with TiledSession(FakeSession(fail_at=17), 14, 14, 2, SizeRule()) as tiled:
        with pytest.raises(RuntimeError, match="request 17"):
            run_pipeline(source, [tiled], sink)
        assert sink.indices == [0, 1, 2, 3]  # four tiles a frame
    assert sink.aborted == 1


@pytest.mark.parametrize("at", [0, 10, 19])
@pytest.mark.parametrize("count", [20, 10_000])
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_a_sink_that_fails(at: int, count: int, stages: int) -> None:
    sink = FakeSink(fail_at=at)
    sessions = [AsyncSession(in_flight=3) for _ in range(stages)]
    with pytest.raises(OSError, match="No space left") as caught:
        run_pipeline(FakeSource(count), sessions, sink, queue_size=1)
    assert caught.value is sink.error
    assert sink.indices == list(range(at))
    assert (sink.closed, sink.aborted) == (0, 1)
    assert all(session.under_way == 0 for session in sessions)
    assert threads_left() == []


def test_a_sink_that_fails_to_close_is_aborted_and_the_first_error_stays() -> None:
    sink = FakeSink()
    sink.close_error, sink.abort_error = OSError(errno.ENOSPC, "disk"), RuntimeError("abort failed too")
    with pytest.raises(OSError, match="disk"):
        run_pipeline(FakeSource(3), [AsyncSession()], sink)
    assert (sink.closed, sink.aborted) == (1, 1)


def test_the_first_error_wins_over_that_of_abort() -> None:
    sink = FakeSink(fail_at=1)
    sink.abort_error = RuntimeError("abort failed too")
    with pytest.raises(OSError, match="No space"):
        run_pipeline(FakeSource(30), [AsyncSession()], sink)
    assert sink.aborted == 1


def test_a_failure_outranks_a_source_that_broke_off() -> None:
    # "what was decoded before has been written" would not be true
    sink = FakeSink(fail_at=4, delay=0.01)
    with pytest.raises(OSError, match="No space"):
        run_pipeline(FakeSource(6, EndedEarlyError("broke off")), [AsyncSession()], sink)
    assert (sink.closed, sink.aborted) == (0, 1)


def test_stop_finishes_what_was_read() -> None:
    stop, source, sink = threading.Event(), FakeSource(1_000_000, delay=0.001), FakeSink()
    threading.Timer(0.2, stop.set).start()
    report = run_pipeline(source, [AsyncSession(), AsyncSession()], sink, stop=stop)
    assert report.stopped
    assert source.given - 1 <= len(sink.indices) <= source.given
    assert sink.indices == list(range(len(sink.indices)))
    assert (sink.closed, sink.aborted) == (1, 0)
    assert threads_left() == []


def test_stop_before_the_first_frame() -> None:
    stop, sink = threading.Event(), FakeSink()
    stop.set()
    assert run_pipeline(FakeSource(10), [AsyncSession()], sink, stop=stop).frames == 0
    assert sink.closed == 1


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_max_frames(count: int) -> None:
    source, sink = FakeSource(20), FakeSink()
    report = run_pipeline(source, [AsyncSession()], sink, max_frames=count)
    assert report.frames == len(sink.indices) == source.given == min(count, 20)
    assert sink.closed == 1


def stop_after(seconds: float) -> threading.Event:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    return stop


@pytest.mark.parametrize("stages", [0, 1, 2])
def test_a_stuck_sink_does_not_keep_a_stopped_run(stages: int) -> None:
    sink = FakeSink()
    sink.block, sink.block_at = threading.Event(), 3
    begin = time.monotonic()
    with pytest.raises(VideoError, match="the sink did not answer for 0 s"):
        run_pipeline(
            FakeSource(1000), [AsyncSession() for _ in range(stages)], sink, stop=stop_after(0.2), patience=0.3
        )
    assert time.monotonic() - begin < 5
    assert (sink.closed, sink.aborted) == (0, 0)  # not called from a second thread
    sink.block.set()
    assert threads_left() == []
    assert (sink.closed, sink.aborted) == (0, 1)  # but by its own thread, as soon as it is back


def test_a_stuck_session_does_not_keep_a_stopped_run() -> None:
    sink, stage = FakeSink(), AsyncSession()
    stage.block = threading.Event()
    with pytest.raises(VideoError, match="the async session did not answer"):
        run_pipeline(FakeSource(1000), [stage], sink, stop=stop_after(0.2), patience=0.3)
    assert (sink.closed, sink.aborted) == (0, 1)
    stage.block.set()
    assert threads_left() == []


def test_a_stuck_source_does_not_keep_a_stopped_run() -> None:
    source, sink = FakeSource(1000), FakeSink()
    source.block, source.block_at = threading.Event(), 5
    with pytest.raises(VideoError, match="the source did not answer"):
        run_pipeline(source, [AsyncSession()], sink, stop=stop_after(0.3), patience=0.3)
    assert sink.indices == [0, 1, 2, 3, 4]
    assert (sink.closed, sink.aborted) == (1, 0)  # everything there was is in it
    source.block.set()
    assert threads_left() == []


def test_a_slow_source_that_answers_in_time_is_no_failure() -> None:
    source, sink = FakeSource(1000, delay=0.3), FakeSink()
    assert run_pipeline(source, [AsyncSession()], sink, stop=stop_after(0.4), patience=5).stopped
    assert sink.closed == 1


def test_a_failing_session_ends_while_the_sink_is_stuck() -> None:
    stage, sink = AsyncSession(), FakeSink()
    stage.fail_result_at = 10
    sink.block = threading.Event()
    with pytest.raises(RuntimeError, match="result 10 failed"):
        run_pipeline(FakeSource(1000), [stage], sink, queue_size=32, patience=0.3)
    sink.block.set()
    assert threads_left() == []
    assert sink.aborted == 1


class HoldingSink(FakeSink):
    """Looks at each frame during the whole of a slow write, while the sessions run ahead as far as they can."""

    def write(self, frame: VideoFrame) -> None:
        before = frame.image.copy()
        for _ in range(5):
            time.sleep(0.002)
            assert np.array_equal(frame.image, before)
        assert int(frame.image[0, 0, 0]) == (frame.index + 3) % 256
        super().write(frame)


def test_buffers_are_used_again_but_never_while_the_sink_has_them() -> None:
    stages = [AsyncSession(2, 1, in_flight=4, delay=0.001), AsyncSession(1, 2, in_flight=3, delay=0.001)]
    sink = HoldingSink()
    run_pipeline(FakeSource(60), stages, sink, queue_size=1)
    assert sink.sums == expected_sums(60, 3, 4)
    assert len(stages[0].outs) <= 4 + 1 + 3 + 1
    assert len(stages[1].outs) <= 3 + 1 + 1 + 1


def test_a_ring_that_gave_its_buffers_back_too_early_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime import pipeline

    class Hasty(pipeline._Ring):
        def take(self, shape: tuple[int, ...]) -> Frames | None:
            array = super().take(shape)
            if array is not None:
                self.give(array)  # free at once: the next frame gets it too
            return array

    monkeypatch.setattr(pipeline, "_Ring", Hasty)
    with pytest.raises(AssertionError):
        run_pipeline(FakeSource(60), [AsyncSession(in_flight=2)], HoldingSink())


def test_a_session_with_buffers_of_its_own_is_served_too() -> None:
    class Own(FakeSession):
        def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
            return super().submit(frames, None)

    sink = FakeSink()
    run_pipeline(FakeSource(40), [Own(2), AsyncSession(1)], sink)
    assert sink.sums == expected_sums(40, 1, 4)


def test_frames_may_change_their_size() -> None:
    class Changing(FakeSource):
        def read(self) -> VideoFrame | None:
            self.size = (6, 8) if self.given % 7 < 4 else (10, 4)
            return super().read()

    sink = FakeSink()
    run_pipeline(Changing(40), [AsyncSession(2)], sink)
    assert sink.indices == list(range(40))


def test_memory_stays_flat() -> None:
    source, sink = FakeSource(1200), FakeSink()
    source.size = (180, 320)
    report = run_pipeline(source, [FakeSession(2)], sink)
    assert report.frames == 1200
    assert report.rss_growth is not None
    assert report.rss_growth < 0.05  # one output frame is 0.7 MB: 1,000 leaked ones would be 690 MB


def test_the_report() -> None:
    source, sink = FakeSource(250, delay=0.001), FakeSink(delay=0.002)
    reports: list[PipelineReport] = []
    report = run_pipeline(
        source, [AsyncSession(delay=0.004), AsyncSession()], sink, queue_size=3, on_report=reports.append
    )
    assert reports == [report]
    figures = json.loads(json.dumps(report.to_dict()))
    assert set(figures["latency"]) == {"read", "infer 1", "infer 2", "write", "frame"}
    assert set(figures["utilisation"]) == {"read", "infer 1", "infer 2", "write"}
    assert set(figures["queue_high_water"]) == {"read", "infer 1", "infer 2"}
    assert figures["latency"]["write"]["p50_ms"] >= 2
    assert figures["latency"]["read"]["p50_ms"] >= 1
    assert figures["latency"]["frame"]["p50_ms"] > figures["latency"]["write"]["p50_ms"]
    assert all(0 < share <= 1 for share in figures["utilisation"].values())
    assert figures["utilisation"]["write"] > 0.5
    assert figures["latency"]["write"]["count"] == figures["frames"] == 250
    assert figures["fps"] == pytest.approx(250 / figures["seconds"])
    assert figures["rss_at_frame_200_bytes"] > 0
    assert figures["peak_rss_bytes"] >= figures["rss_end_bytes"] * 0.9
    single = run_pipeline(FakeSource(3), [AsyncSession()], FakeSink())
    assert set(single.latency) == {"read", "infer", "write", "frame"}
    assert single.rss_growth is None


def test_the_report_comes_also_with_an_error() -> None:
    reports: list[PipelineReport] = []
    with pytest.raises(EndedEarlyError):
        run_pipeline(FakeSource(5, EndedEarlyError("x")), [AsyncSession()], FakeSink(), on_report=reports.append)
    assert [report.frames for report in reports] == [5]


def test_progress_counts_what_was_written_and_is_ended() -> None:
    import io

    stream = io.StringIO()
    progress = Progress(20, stream=stream)
    with pytest.raises(OSError, match="No space"):
        run_pipeline(FakeSource(20), [AsyncSession()], FakeSink(fail_at=12), progress=progress)
    assert progress.done == 12
    assert stream.getvalue().startswith("12/20 frames")
    assert stream.getvalue().endswith("\n")


def test_a_queue_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="queue_size"):
        run_pipeline(FakeSource(1), [], FakeSink(), queue_size=0)


def test_no_thread_is_left_behind_by_a_hundred_runs() -> None:
    for i in range(100):
        run_pipeline(FakeSource(i % 4), [FakeSession()], FakeSink())
    assert threads_left() == []


PROGRAM = """
import os, signal, sys, threading, time
from dataclasses import dataclass
import numpy as np
from runtime.pipeline import run_pipeline
from runtime.sessions.fake import FakeSession
from runtime.errors import guarded

@dataclass(frozen=True)
class VideoFrame:
    image: np.ndarray
    index: int

class Source:
    given = 0
    def read(self):
        time.sleep(0.002)
        self.given += 1
        if self.given == 20:
            print("running", flush=True)
        return VideoFrame(np.zeros((8, 8, 3), np.uint8), self.given - 1)

class Sink:
    indices = []
    def write(self, frame):
        self.indices.append(frame.index)
        SINK_BODY
    def close(self):
        print("closed", flush=True)
    def abort(self):
        ABORT_BODY
        print("aborted", len(self.indices), self.indices == list(range(len(self.indices))), flush=True)

def main():
    run_pipeline(Source(), [FakeSession(2, delay=0.001)], Sink())
    return 0

sys.exit(guarded(main))
"""


def interrupted(sink_body: str, abort_body: str, signals: list[float], hurry: float = HURRY) -> tuple[int, str, float]:
    """Run PROGRAM, send SIGINT after each of ``signals`` seconds; exit code, output, seconds since the first one."""
    program = PROGRAM.replace("SINK_BODY", sink_body).replace("ABORT_BODY", abort_body)
    program = f"import runtime.pipeline; runtime.pipeline.HURRY = {hurry}\n{program}"
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that started the tests in the background would have SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "running\n"
        begin = time.monotonic()
        for pause in signals:
            time.sleep(pause)
            os.kill(child.pid, signal.SIGINT)
        out, err = child.communicate(timeout=30)
        assert err == "interrupted\n", err
        return child.returncode, out, time.monotonic() - begin
    finally:
        child.kill()
        child.wait()


def test_ctrl_c_finalises_and_exits_130() -> None:
    code, out, seconds = interrupted("time.sleep(0.002)", "pass", [0.2])
    assert code == 130
    assert out.startswith("aborted ")
    assert out.endswith(" True\n")
    assert int(out.split()[1]) >= 15
    assert seconds < 5


def test_ctrl_c_at_any_moment() -> None:
    for pause in (0.0, 0.003, 0.011, 0.05):
        code, out, _ = interrupted("pass", "pass", [pause])
        assert code == 130
        assert out.count("aborted") == 1


def test_a_second_ctrl_c_still_finalises() -> None:
    code, out, seconds = interrupted("time.sleep(0.05)", "time.sleep(0.3)", [0.1, 0.1])
    assert code == 130
    assert out.startswith("aborted ")
    assert seconds < 8


def test_a_second_ctrl_c_does_not_hang_on_a_stuck_sink() -> None:
    code, out, seconds = interrupted("time.sleep(3600) if frame.index == 12 else None", "pass", [0.1, 0.3], hurry=0.5)
    assert code == 130
    assert "aborted" not in out
    assert seconds < 6  # half a second of hurry, twice


def test_a_third_ctrl_c_leaves_at_once() -> None:
    code, _, seconds = interrupted("time.sleep(3600) if frame.index == 12 else None", "pass", [0.1, 0.2, 0.2])
    assert code == 130
    assert seconds < 2.5


def test_ctrl_c_in_process() -> None:
    sink = FakeSink()
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.15, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(FakeSource(10_000_000, delay=0.0005), [AsyncSession()], sink)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, previous)
    assert sink.indices == list(range(len(sink.indices)))
    assert (sink.closed, sink.aborted) == (0, 1)
    assert threads_left() == []
