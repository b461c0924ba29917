from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.video.sink import Ticks, open_sink
from runtime.video.source import ArrivalClock, Timestamps, open_source

BASES = st.sampled_from([Fraction(1, 90_000), Fraction(1, 12_800), Fraction(1, 1000), Fraction(1001, 30_000)])
VARIABLE = [0, 3003, 6006, 6007, 20_000, 20_100, 95_123, 100_000, 271_828, 314_159]  # in 1/90000 s, no two steps alike


@given(base=BASES, start=st.integers(-(10**6), 10**9), steps=st.lists(st.integers(1, 10**6), max_size=60))
@settings(max_examples=200, deadline=None)
def test_rising_timestamps_come_through_exactly(base: Fraction, start: int, steps: list[int]) -> None:
    ticks = [start]
    for step in steps:
        ticks.append(ticks[-1] + step)
    source, sink = Timestamps(base, Fraction(1, 25)), Ticks(base)
    times = [source.next(tick) for tick in ticks]
    assert source.start == start * base
    assert source.made_up == 0
    assert times == [(tick - start) * base for tick in ticks]
    assert [sink.next(start * base + time) for time in times] == ticks
    assert sink.moved == 0


@given(
    base=BASES,
    duration=st.sampled_from([Fraction(1, 25), Fraction(1001, 30_000), Fraction(1, 240)]),
    ticks=st.lists(st.none() | st.integers(-(10**7), 10**7), min_size=1, max_size=60),
)
@settings(max_examples=300, deadline=None)
def test_any_timestamps_become_strictly_rising(base: Fraction, duration: Fraction, ticks: list[int | None]) -> None:
    source, sink = Timestamps(base, duration), Ticks(base)
    times = [source.next(tick) for tick in ticks]
    assert times[0] == 0
    assert all(a < b for a, b in pairwise(times))
    written = [sink.next(time) for time in times]
    assert all(a < b for a, b in pairwise(written))


def test_missing_repeated_and_restarted_clocks() -> None:
    clock = Timestamps(Fraction(1, 1000), Fraction(1, 25))
    assert [clock.next(t) for t in (100, None, 180)] == [0, Fraction(1, 25), Fraction(2, 25)]
    assert clock.next(180) == Fraction(81, 1000)  # repeated: one tick later, and the next one is where it was
    assert clock.next(220) == Fraction(3, 25)
    assert clock.next(-5000) == Fraction(4, 25)  # restarted: goes on one frame later
    assert clock.next(-4960) == Fraction(5, 25)


def test_a_clock_that_restarts_is_told_for_that_frame_only() -> None:
    clock = Timestamps(Fraction(1, 1000), Fraction(1, 25))
    ticks = [5000, 5040, 5040, None, 5030, 0, 40, None, 9000]
    assert [index for index, tick in enumerate(ticks) if (clock.next(tick), clock.restarted)[1]] == [5]


def test_a_frame_after_a_restarted_clock_says_that_something_is_missing(
    make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """Two MPEG transport streams in one file, as a recorder leaves them that was started twice."""
    one = make_clip("one.ts", ticks=[i * 3600 for i in range(40)], format="mpegts")
    (tmp_path / "both.ts").write_bytes(one.read_bytes() * 2)
    with open_source(str(tmp_path / "both.ts")) as source:
        frames = [(frame.index, frame.gap) for frame in source]
    assert len(frames) == 80
    assert [index for index, gap in frames if gap] == [40]


@pytest.mark.parametrize("ticks", [VARIABLE, [tick + 45_678 for tick in VARIABLE]], ids=["from zero", "late start"])
def test_variable_frame_rate_is_kept(
    tmp_path: Path, make_clip: Callable[..., Path], copy_clip: Any, frame_times: Any, ticks: list[int]
) -> None:
    clip = make_clip(ticks=ticks, container_options={"movie_timescale": "90000"})
    assert frame_times(clip) == [Fraction(tick, 90_000) for tick in ticks]
    out = tmp_path / "out.mp4"
    times = copy_clip(clip, out)
    assert times == [Fraction(tick - ticks[0], 90_000) for tick in ticks]
    assert frame_times(out) == frame_times(clip)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov"])
def test_length_of_the_last_frame_is_kept(tmp_path: Path, make_clip: Any, copy_clip: Any, name: str) -> None:
    """Ten frames at 25 a second, the last of which is shown for two seconds; with B-frames."""
    first, second = tmp_path / f"first_{name}", tmp_path / f"second_{name}"
    with open_source(str(make_clip())) as source:
        info = source.info
        with open_sink(str(first), source=info, width=info.width, height=info.height, preset="medium") as sink:
            for frame in source:
                if frame.index == 9:
                    frame.duration = Fraction(2)
                sink.write(frame)
    copy_clip(first, second, preset="medium")
    for path in (first, second):
        with open_source(str(path)) as again:
            assert again.info.duration == Fraction(9, 25) + 2
            durations = [frame.duration for frame in again]
        assert durations == [Fraction(1, 25)] * 9 + [Fraction(2)]


@pytest.mark.parametrize("name", ["raw.h264", "clip.avi"])
def test_files_without_timestamps(tmp_path: Path, make_clip: Any, copy_clip: Any, frame_times: Any, name: str) -> None:
    raw = name.endswith("h264")
    clip = make_clip(
        name,
        ticks=list(range(12)),
        time_base=Fraction(1, 25),
        codec="libx264" if raw else "mpeg4",
        format="h264" if raw else None,
        options={"crf": "10"} if raw else {"bf": "2"},
    )
    out = tmp_path / "out.mp4"
    times = copy_clip(clip, out)
    assert times == [Fraction(i, 25) for i in range(12)]
    written = frame_times(out)
    assert [time - written[0] for time in written] == times


@pytest.mark.parametrize("name", ["asl_book.mkv", "carphone_pristine.mp4"])
def test_real_clips(tmp_path: Path, assets: Any, copy_clip: Any, frame_times: Any, name: str) -> None:
    clip = assets(f"video/{name}")
    out = tmp_path / "out.mp4"
    times = copy_clip(clip, out, preset="ultrafast")
    assert frame_times(out) == frame_times(clip)
    with open_source(str(out)) as again, open_source(str(clip)) as first:
        assert again.info.start == first.info.start
        assert again.info.rate is not None
        assert first.info.rate is not None
        assert abs(again.info.rate / first.info.rate - 1) < Fraction(1, 50)
        assert [frame.pts for frame in again] == times


def test_arrival_clock_counts_what_a_packet_has_waited() -> None:
    clock = ArrivalClock()
    assert clock.captured(3.0, 50.0) == 50.0  # nothing is known yet
    clock.note(3.0, 50.0)
    clock.note(3.1, 50.4)  # came 0.3 s later than the one before
    assert clock.captured(3.1, 50.4) == pytest.approx(50.1)
    clock.note(3.2, 50.1)  # a burst: the first one had waited for 0.1 s itself
    assert clock.captured(3.2, 50.1) == pytest.approx(50.1)
    clock.note(3.3, 50.5)
    assert clock.captured(3.3, 50.5) == pytest.approx(50.2)


def test_arrival_clock_follows_a_slow_sender_and_a_restarted_one() -> None:
    clock = ArrivalClock()
    for i in range(10_000):  # 1000 s of a sender whose clock is 50 ppm slow
        clock.note(i / 10, i / 10 * (1 + 5e-5))
    now = 999.9 * (1 + 5e-5)
    assert now - clock.captured(999.9, now) < 1e-3
    clock.note(0.0, 1200.0)
    assert clock.captured(0.0, 1200.0) == 1200.0
