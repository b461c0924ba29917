"""To a frame by its number: the same frames, times and durations as reading all before it."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.video.source import FileSource, Source, open_source

UNEVEN = [0, 3600, 7200, 12_000, 12_600, 20_000]


def rest_of(source: Source) -> list[tuple[Any, ...]]:
    return [(f.index, f.pts, f.duration, f.gap, f.image.tobytes()) for f in source]


def check(clip: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch, *, seeks: bool | None = True) -> None:
    """Compare with reading from the beginning; ``seeks``: whether most frames need not be decoded, None: either."""
    with open_source(str(clip)) as source:
        whole = rest_of(source)
    for count in counts:
        with open_source(str(clip)) as source:
            assert isinstance(source, FileSource)
            steps: list[int] = []
            following = source._next
            monkeypatch.setattr(
                source, "_next", lambda steps=steps, following=following: (steps.append(1), following())[1]
            )
            source.skip(count)
            if seeks is not None:
                assert (not steps) == seeks, count
            assert rest_of(source) == whole[count:]


def uneven(count: int) -> list[int]:
    random = np.random.default_rng(3)
    return [int(t) for t in np.cumsum(random.integers(1, 9000, count))]


GROUPS = {"g": "10", "bf": "3", "b_strategy": "0", "sc_threshold": "0", "crf": "4", "preset": "veryfast"}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.mov"])
def test_uneven_times_and_b_frames(name: str, make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Matroska counts in milliseconds: every frame its own
    ticks = [90 * t for t in uneven(60)] if name.endswith("mkv") else uneven(60)
    clip = make_clip(name, ticks=ticks, options=GROUPS)
    check(clip, [35, 40, 59], monkeypatch, seeks=not name.endswith("ts"))
    check(clip, [0, 1, 9], monkeypatch, seeks=None)


def test_open_groups(make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(ticks=[i * 3600 for i in range(60)], options={**GROUPS, "x264-params": "open-gop=1"})
    check(clip, [33, 39, 41, 45], monkeypatch)


def test_the_end_and_beyond(make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(ticks=[i * 3600 for i in range(30)], options=GROUPS)
    check(clip, [29, 30, 31, 100], monkeypatch, seeks=None)


def test_times_that_do_not_rise_are_counted_one_by_one(
    make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip("clip.avi", ticks=list(range(40)), codec="mpeg4", time_base=Fraction(1, 25), options={"g": "5"})
    check(clip, [20, 33], monkeypatch, seeks=None)


def test_a_late_start_and_rotation(make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = make_clip(ticks=[500_000 + i * 3003 for i in range(50)], options=GROUPS, rotate=(90, False))
    check(clip, [31, 47], monkeypatch)


@pytest.mark.parametrize("name", ["short_hamilton_clip.mp4", "carphone_pristine.mp4", "bikes.mp4", "asl_book.mkv"])
def test_real_clips(name: str, assets: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    clip = assets(f"video/{name}")
    with open_source(str(clip)) as source:
        last = (source.info.frame_count or 0) - 3
        frames = [source.read() for _ in range(last + 1)]
    wanted = frames[last]
    assert wanted is not None
    with open_source(str(clip)) as source:
        source.skip(last)
        frame = source.read()
    assert frame is not None
    assert (frame.index, frame.pts, frame.duration) == (wanted.index, wanted.pts, wanted.duration)
    assert np.array_equal(frame.image, wanted.image)


def test_pictures(tmp_path: Path) -> None:
    import cv2

    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((8, 8, 3), index, np.uint8))
    with open_source(f"{tmp_path}/") as source:
        source.skip(2)
        assert [(f.index, f.pts, int(f.image[0, 0, 0])) for f in source] == [
            (2, Fraction(2, 25), 2),
            (3, Fraction(3, 25), 3),
        ]


def test_what_cannot_be_sought_is_read(make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that does not get to the key frame it was asked for is read from its beginning."""
    clip = make_clip(ticks=[i * 3600 for i in range(60)], options=GROUPS)
    monkeypatch.setattr("runtime.video.source.seek_frames", lambda *arguments: None)
    check(clip, [35, 59], monkeypatch, seeks=False)
