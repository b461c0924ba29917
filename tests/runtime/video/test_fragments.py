"""Files that grow in whole pieces: at every moment what is on the disk can be played."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from runtime.video.fragments import PartFile
from runtime.video.sink import open_sink
from runtime.video.source import SourceInfo, VideoFrame, open_source

INFO = SourceInfo("test", 64, 48, Fraction(25), Fraction(1, 25))


def frames(count: int) -> list[VideoFrame]:
    random = np.random.default_rng(1)
    return [
        VideoFrame(random.integers(0, 256, (48, 64, 3), dtype=np.uint8), Fraction(i, 25), i, Fraction(1, 25))
        for i in range(count)
    ]


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("fragmented", [False, True])
def test_a_kill_at_any_moment(name: str, fragmented: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bytes] = []
    put = PartFile._put

    def watched(self: PartFile, view: memoryview, at: int) -> None:
        part = tmp_path / f".out.part{Path(name).suffix}"
        put(self, view[: len(view) // 2], at)  # a kill may also come in the middle of a write
        left.append(part.read_bytes())
        put(self, view, at)
        left.append(part.read_bytes())

    monkeypatch.setattr(PartFile, "_put", watched)
    out = tmp_path / name
    sink = open_sink(str(out), source=INFO, width=64, height=48, segment=20, fragmented=fragmented)
    for frame in frames(70):
        sink.write(frame)
    sink.close()
    counts = []
    for data in left:
        try:
            container = av.open(io.BytesIO(data))
        except av.FFmpegError:
            counts.append(-1)  # nothing yet
            continue
        with container:
            times = [frame.time for frame in container.decode(video=0)]
        assert times == [pytest.approx(i / 25, abs=1e-6) for i in range(len(times))]
        counts.append(len(times))
    assert counts == sorted(counts)
    assert counts[-1] == 70
    assert len(set(counts)) >= 4  # nothing, and then piece by piece
    with open_source(str(out)) as source:
        assert [frame.pts for frame in source] == [Fraction(i, 25) for i in range(70)]


def boxes(path: Path) -> list[bytes]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
    assert at == len(data)
    return found


def test_a_finished_mp4_has_one_index(tmp_path: Path) -> None:
    for fragmented in (False, True):
        out = tmp_path / f"{fragmented}.mp4"
        with open_sink(str(out), source=INFO, width=64, height=48, fragmented=fragmented) as sink:
            for frame in frames(40):
                sink.write(frame)
        assert (b"moof" in boxes(out)) == fragmented
        assert boxes(out).count(b"moov") == 1


def test_a_full_disk_leaves_whole_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = PartFile(tmp_path / "a.mp4", "mp4")
    piece = (12).to_bytes(4, "big") + b"moof" + b"1234" + (12).to_bytes(4, "big") + b"mdat" + b"5678"
    part.write(piece + piece[:20])

    def full(file: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            part.write(piece[20:])
    assert (tmp_path / "a.mp4").read_bytes() == piece
    part.seek(0)
    with pytest.raises(OSError, match="No space left"):
        part.write(b"index")  # a muxer that goes back must not spoil what is there
    part.end(complete=True)
    assert (tmp_path / "a.mp4").read_bytes() == piece


def test_its_mode_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    path.touch(mode=0o600)
    PartFile(path, "matroska").end(complete=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_piece_of_any_cut(tmp_path: Path, make_clip: Callable[..., Path]) -> None:
    """However the muxer's writes are cut, the file is the same."""
    with av.open(
        str(make_clip(container_options={"movflags": "frag_keyframe+empty_moov"}, options={"g": "3"}))
    ) as clip:
        data = Path(clip.name).read_bytes()
    for step in (1, 7, 1000):
        part = PartFile(tmp_path / f"{step}.mp4", "mp4")
        for at in range(0, len(data), step):
            part.write(data[at : at + step])
        part.end(complete=True)
        assert (tmp_path / f"{step}.mp4").read_bytes() == data
