"""De-identification that is killed: what is left holds covered frames only; --resume goes on exactly, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from runtime.cli import run
from runtime.video.segments import SegmentSink
from runtime.video.source import VideoFrame

FRAMES, SEGMENT = 40, 16


def deid(source: Path, out: Path, *more: object) -> int:
    settings = ("--segment", SEGMENT, "--max-frames", FRAMES, "--no-recheck", "--preset", "ultrafast", "--quiet")
    return run(["deid", "-i", str(source), "-o", str(out), *map(str, (*settings, *more))])


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def test_a_killed_run_is_continued(
    assets: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, whole, killed = assets("video/short_hamilton_clip.mp4"), tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    write = SegmentSink.write

    def watched(sink: SegmentSink, frame: VideoFrame) -> None:
        write(sink, frame)
        if frame.index == FRAMES - 2:
            shutil.copytree(whole, killed)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentSink, "write", watched)
        assert deid(source, whole / "d.mp4", "--method", "solid", "--json", whole / "r.json") == 0
    expected = decoded(whole / "d.mp4")
    left = decoded(killed / ".d.part.mp4")
    assert len(left) >= SEGMENT
    assert all(np.array_equal(one, other) for one, other in zip(left, expected, strict=False))
    capsys.readouterr()
    options = ("--method", "solid", "--resume", "--json", killed / "r.json")
    assert deid(source, killed / "d.mp4", *options, "--thresh", 0.4) == 2
    assert "was begun with another --thresh (0.3, now 0.4)" in capsys.readouterr().err
    assert deid(source, killed / "d.mp4", *options) == 0
    said = capsys.readouterr().err
    assert "frames are there and are kept" in said
    assert "faces are looked for in these frames again" in said
    again = decoded(killed / "d.mp4")
    assert len(again) == len(expected) == FRAMES
    assert all(np.array_equal(one, other) for one, other in zip(again, expected, strict=True))
    reports: list[dict[str, Any]] = [json.loads((folder / "r.json").read_text()) for folder in (whole, killed)]
    for name in ("faces", "tracks", "methods", "covered_whole", "frames"):
        assert reports[0][name] == reports[1][name], name
    assert sorted(path.name for path in killed.iterdir()) == ["d.mp4", "r.json"]


def test_keys_that_are_kept_nowhere(
    assets: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = assets("video/short_hamilton_clip.mp4"), tmp_path / "d.mp4"
    assert deid(source, out, "--resume") == 2
    assert "--resume cannot continue --method average, whose keys are kept nowhere" in capsys.readouterr().err
    assert deid(source, out, "--resume", "--method", "solid", "--vault", tmp_path / "v") == 2
    assert "--resume cannot continue a run with --vault" in capsys.readouterr().err
    noted = []
    write = SegmentSink.write

    def watched(sink: SegmentSink, frame: VideoFrame) -> None:
        write(sink, frame)
        noted.append((tmp_path / ".d.mp4.job").stat().st_size)

    monkeypatch.setattr(SegmentSink, "write", watched)
    assert deid(source, out, "--method", "average", "--max-frames", 2 * SEGMENT + 4) == 0
    assert len(set(noted)) == 1  # nothing of it is noted, since nothing could be continued
    assert [path.name for path in tmp_path.iterdir()] == ["d.mp4"]
