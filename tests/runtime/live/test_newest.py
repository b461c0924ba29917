"""The newest frame wins: what is given, what is dropped, and how waiting ends."""

from __future__ import annotations

import queue
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import EndedEarlyError
from runtime.live.newest import NewestSource
from runtime.live.open import LiveOptions, open_input
from runtime.pipeline import run_pipeline
from runtime.sessions.fake import FakeSession
from runtime.video.sink import NullSink
from runtime.video.source import Source, SourceInfo, SourceOptions, VideoFrame

pytestmark = pytest.mark.timeout(30)


class Camera(Source):
    """Gives what the test puts in: a time of capture, an error, or None for the end."""

    def __init__(self) -> None:
        self.info = SourceInfo("camera", 8, 6, Fraction(30), Fraction(1, 90_000), live=True)
        self.warnings = []
        self.put: queue.Queue[VideoFrame | Exception | None] = queue.Queue()
        self.closed = threading.Event()
        self.index = 0

    def shoot(self, captured: float | None = None, gap: bool = False) -> None:
        image = np.zeros((6, 8, 3), np.uint8)
        self.put.put(VideoFrame(image, Fraction(self.index, 30), self.index, gap=gap, captured=captured))
        self.index += 1

    def read(self) -> VideoFrame | None:
        item = self.put.get()
        self.put.task_done()
        if isinstance(item, Exception):
            raise item
        return item

    def settle(self) -> None:
        """Wait until all that was put in is taken, and the reading thread is back for more."""
        self.put.join()
        time.sleep(0.02)

    def interrupt(self) -> None:
        self.put.put(None)

    def close(self) -> None:
        self.closed.set()


def test_frames_between_two_reads_are_dropped_and_counted() -> None:
    camera = Camera()
    with NewestSource(camera) as source:
        for _ in range(3):
            camera.shoot()
        camera.settle()
        first = source.read()
        assert (first.index, first.pts) == (2, 0)
        assert source.dropped == 0  # nobody had asked yet
        for _ in range(5):
            camera.shoot()
        camera.settle()
        frame = source.read()
        assert (frame.index, frame.pts) == (7, Fraction(5, 30))
        assert (source.dropped, source.late) == (4, 0)
    assert camera.closed.wait(5)


def test_the_gap_before_a_dropped_frame_is_kept() -> None:
    camera = Camera()
    with NewestSource(camera) as source:
        camera.shoot(gap=True)
        camera.shoot()
        camera.settle()
        assert source.read().gap
        camera.shoot()
        assert not source.read().gap


def test_old_frames_are_dropped_before_they_are_given() -> None:
    camera, now = Camera(), 100.0
    with NewestSource(camera, max_latency=0.2, clock=lambda: now) as source:
        camera.shoot(captured=99.7, gap=True)
        camera.settle()
        threading.Timer(0.05, camera.shoot, [99.9]).start()
        frame = source.read()
        assert (frame.captured, frame.gap) == (99.9, True)
        assert (source.dropped, source.late) == (1, 1)
        camera.shoot(captured=None)
        assert source.read().captured is None


@pytest.mark.parametrize("error", [None, EndedEarlyError("the camera is gone")])
def test_the_end_comes_after_the_last_frame(error: Exception | None) -> None:
    camera = Camera()
    with NewestSource(camera) as source:
        camera.shoot()
        camera.put.put(error)
        camera.settle()
        assert source.read().index == 0
        for _ in range(2):
            if error is None:
                assert source.read() is None
            else:
                with pytest.raises(EndedEarlyError):
                    source.read()


def test_a_read_that_waits_is_interrupted() -> None:
    camera = Camera()
    with NewestSource(camera) as source:
        threading.Timer(0.05, source.interrupt).start()
        assert source.read() is None
        assert source.read() is None


def test_a_camera_that_hangs_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.live.newest.CLOSING", 0.1)
    camera = Camera()
    monkeypatch.setattr(camera, "interrupt", lambda: None)
    begin = time.monotonic()
    NewestSource(camera).close()
    assert time.monotonic() - begin < 2
    camera.put.put(None)  # it comes back: only now it is closed, by the thread that was inside
    assert camera.closed.wait(5)


def test_a_slow_stage_gets_new_frames_and_no_queue(make_clip) -> None:
    """50 frames a second into a stage that takes 50 ms: what is computed was taken just before."""
    clip = make_clip(ticks=[i * 1800 for i in range(60)])
    with open_input(str(clip), SourceOptions(), LiveOptions(realtime=True)) as source:
        assert source.info.live
        session = FakeSession(scale=1, delay=0.05)
        report = run_pipeline(source, [session], NullSink(64, 48), newest=True)
    assert report.frames + report.dropped == 60
    assert report.dropped >= 20
    # the frame waits for the next turn for up to one interval (20 ms), then is computed (50 ms); 30 ms for the machine
    assert report.latency["capture"].p50_ms < 20 + 50 + 30
    assert report.latency["capture"].p50_ms >= 50


def test_nothing_is_dropped_where_the_stage_is_fast_enough(make_clip) -> None:
    clip = make_clip(ticks=[i * 3600 for i in range(20)])
    with open_input(str(clip), SourceOptions(), LiveOptions(realtime=True)) as source:
        report = run_pipeline(source, [FakeSession(scale=1)], NullSink(64, 48), newest=True)
    assert report.frames + report.dropped == 20
    assert report.dropped <= 5  # on a busy machine
    assert report.seconds >= 19 / 25


def test_files_stay_as_they_are(make_clip, tmp_path: Path) -> None:
    with open_input(str(make_clip()), SourceOptions(), LiveOptions(max_latency=0.001)) as source:
        assert not source.info.live
        assert [frame.captured for frame in source] == [None] * 10
