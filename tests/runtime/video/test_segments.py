"""Segments: whoever encodes them, the joined file is that of one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import VideoError
from runtime.video.segments import SegmentFile, SegmentSink, Whole, join, plan_segments, repeatable, stored_segments
from runtime.video.sink import Encoding, open_sink
from runtime.video.source import open_source

LENGTH = 16


@given(st.integers(0, 5000), st.integers(1, 700))
def test_the_plan_holds_every_frame_once(frames: int, length: int) -> None:
    plan = plan_segments(frames, length)
    assert [n for segment in plan for n in range(segment.start, segment.stop)] == list(range(frames))
    assert all(segment.start == segment.index * length and segment.start < segment.stop for segment in plan)
    assert all(segment.stop - segment.start == length for segment in plan[:-1])


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=40), st.integers(-(2**40), 2**40), st.integers(1, 2**31))
def test_what_is_known_of_a_segment_survives_json(steps: list[int], first: int, last: int) -> None:
    ticks = tuple(first + int(step) for step in np.cumsum([0, *steps]))
    whole = Whole(ticks, ticks[-1] + last, "ab", "cd", 2)
    assert Whole.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


def packets_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with av.open(str(path)) as container:
        found: dict[str, list[tuple[Any, ...]]] = {stream.type: [] for stream in container.streams}
        for packet in container.demux():
            if packet.size:
                found[packet.stream.type].append(
                    (packet.pts, packet.dts, packet.time_base, packet.is_keyframe, bytes(packet))
                )
        return found


def write(clip: Path, out: Path, start: int = 0, stop: int | None = None, **settings: Any) -> SegmentSink:
    with open_source(str(clip)) as source:
        info = source.info
        source.skip(start)
        sink = open_sink(str(out), source=info, width=info.width, height=info.height, segment=LENGTH, **settings)
        assert isinstance(sink, SegmentSink)
        for frame in source:
            if frame.index == stop:
                break
            sink.write(frame)
        sink.close()
    return sink


def joined(clip: Path, out: Path, parts: list[SegmentFile], **settings: Any) -> Path:
    with open_source(str(clip)) as source:
        info = source.info
    sink = open_sink(str(out), source=info, width=info.width, height=info.height, segment=LENGTH, **settings)
    assert isinstance(sink, SegmentSink)
    join(parts, sink)
    return out


def in_parts(clip: Path, folder: Path, name: str, bounds: list[int], **settings: Any) -> list[SegmentFile]:
    parts = []
    for start, stop in zip(bounds, [*bounds[1:], None], strict=True):
        path = folder / f"{start}-{name}"
        sink = write(clip, path, start, stop, audio=False, **settings)
        parts.append(SegmentFile(path, tuple(sink.whole)))
    return parts


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("out.mp4", {}),
        ("out.mp4", {"fragmented": True}),
        ("out.mkv", {}),
        ("out.mov", {"codec": "hevc", "preset": "ultrafast"}),
        ("out.webm", {}),
    ],
)
def test_joined_parts_are_one_run(
    name: str, settings: dict[str, Any], tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    ticks = [int(t) for t in np.cumsum(np.random.default_rng(7).integers(500, 9000, 3 * LENGTH + 5))]
    clip = make_clip(ticks=ticks)
    whole = tmp_path / f"whole-{name}"
    sink = write(clip, whole, **settings)
    assert [len(part.ticks) for part in sink.whole] == [LENGTH] * 3 + [5]
    parts = in_parts(clip, tmp_path, name, [0, LENGTH, 3 * LENGTH], **settings)
    assert packets_of(joined(clip, tmp_path / name, parts, **settings)) == packets_of(whole)
    with open_source(str(clip)) as before, open_source(str(tmp_path / name)) as after:
        exact = Fraction(1, 1000) if name.endswith(("mkv", "webm")) else Fraction(0)
        times = [(frame.pts, other.pts) for frame, other in zip(before, after, strict=True)]
    assert all(abs(one - other) <= exact for one, other in times)


@pytest.mark.parametrize("has", [True, False])
def test_x264_is_told_to_do_without_avx512(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.video.segments._has_avx512", lambda: has)
    plain, own = Encoding("libx264", (("crf", "18"),)), Encoding("libx264", (("x264-params", "keyint=50"),))
    assert ("asm=" in dict(repeatable(plain).options).get("x264-params", "")) == has
    assert dict(repeatable(own).options)["x264-params"].startswith("keyint=50:asm=" if has else "keyint=50")
    assert "AVX512" not in str(repeatable(plain)).upper()
    assert repeatable(Encoding("libx265", ())) == Encoding("libx265", ())


def test_sound_and_a_late_start(tmp_path: Path, assets: Callable[[str], Path]) -> None:
    clip = assets("video/short_hamilton_clip.mp4")
    whole = tmp_path / "whole.mp4"
    write(clip, whole, preset="ultrafast", crf=35)
    parts = in_parts(clip, tmp_path, "part.mp4", [0, 9 * LENGTH], preset="ultrafast", crf=35)
    out = packets_of(joined(clip, tmp_path / "out.mp4", parts, preset="ultrafast", crf=35))
    assert out == packets_of(whole)
    assert [packet[-1] for packet in out["audio"]] == [packet[-1] for packet in packets_of(clip)["audio"]]


def test_a_part_that_has_changed_is_not_joined(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    clip = make_clip(ticks=[i * 3600 for i in range(2 * LENGTH)])
    parts = in_parts(clip, tmp_path, "part.mp4", [0, LENGTH])
    data = bytearray(parts[1].path.read_bytes())
    with av.open(str(parts[1].path)) as container:
        last = [bytes(packet) for packet in container.demux(video=0) if packet.size][-1]
    data[data.find(last) + len(last) - 1] ^= 1
    parts[1].path.write_bytes(data)
    assert not list(stored_segments(parts[1].path, parts[1].whole))
    with pytest.raises(VideoError, match=r"16-part\.mp4 is not what was written there"):
        joined(clip, tmp_path / "out.mp4", parts)
