"""A file that is played at its own rate."""

from __future__ import annotations

import threading
import time

import pytest

from runtime.live.paced import PacedSource
from runtime.video.source import open_source

pytestmark = pytest.mark.timeout(30)


def test_frames_come_when_they_were_filmed(make_clip) -> None:
    clip = make_clip(ticks=[0, 4500, 18000, 22500])  # 0, 50, 200, 250 ms
    with PacedSource(open_source(str(clip))) as source:
        assert (source.info.live, source.info.frame_count) == (True, None)
        frames, late = [], []
        while (frame := source.read()) is not None:
            late.append(time.monotonic() - frame.captured)
            frames.append(frame)
    since = [frame.captured - frames[0].captured for frame in frames]
    assert since == pytest.approx([0.0, 0.05, 0.2, 0.25], abs=0.03)
    assert min(late) >= 0
    assert sorted(late)[2] < 0.02


def test_a_late_frame_moves_the_clock(make_clip) -> None:
    with PacedSource(open_source(str(make_clip(ticks=[0, 1800, 3600, 5400])))) as source:
        first = source.read()
        time.sleep(0.2)
        second, third = source.read(), source.read()
    assert second.captured - first.captured >= 0.2
    assert third.captured - second.captured >= 0.019  # not faster to catch up


def test_the_wait_for_a_frame_is_interrupted(make_clip) -> None:
    with PacedSource(open_source(str(make_clip(ticks=[0, 90_000 * 20])))) as source:
        assert source.read() is not None
        threading.Timer(0.05, source.interrupt).start()
        begin = time.monotonic()
        assert source.read() is None
        assert time.monotonic() - begin < 5
