"""The comparison of the two runtimes: Python's own, and a stand-in for the other whose report is known."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_factory import write_small_bundle

from benchmarks import native

pytestmark = pytest.mark.timeout(120)


def stand_in(path: Path, fps: float, peak: int) -> Path:
    """A program that writes such a report to the file behind ``--json``, and nothing else."""
    report = json.dumps({"fps": fps, "peak_rss_bytes": peak})
    path.write_text(
        f'#!/bin/sh\nwhile [ $# -gt 0 ]; do\n  [ "$1" = --json ] && echo \'{report}\' > "$2"\n  shift\ndone\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def verdicts(folder: Path, clip: Path, program: Path) -> tuple[int, dict[str, str], list[dict]]:
    found = folder / "found.json"
    bundle = folder / "tiny-x2"
    if not bundle.exists():
        write_small_bundle(bundle)
    arguments = ["--bundle", str(bundle), "--input", str(clip), "--program", str(program), "--frames", "3"]
    code = native.main([*arguments, "--rounds", "1", "--threads", "1", "--json", str(found)])
    content = json.loads(found.read_text())
    return code, {target["name"]: target["verdict"] for target in content["targets"]}, content["figures"]


def test_ratios_are_those_of_the_reports(
    assets: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "METHODS", ())
    clip = assets("video/carphone_pristine.mp4")
    code, found, (figures,) = verdicts(tmp_path, clip, stand_in(tmp_path / "better", 1e6, 1 << 20))
    assert (code, set(found.values())) == (0, {"met"})
    assert len(found) == 3
    assert figures["native"]["runs"] == [[1e6, 1.0]]
    assert figures["ratios"][0] == figures["native"]["starts"][0] / figures["python"]["starts"][0]
    code, found, _ = verdicts(tmp_path, clip, stand_in(tmp_path / "worse", 1e-3, 1 << 40))
    assert code == 1
    assert sorted(found.values()) == ["MISSED", "MISSED", "met"]  # it still starts sooner


def test_without_the_program_it_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert native.main(["--input", __file__]) == 0
    assert "cmake --build --preset host" in capsys.readouterr().out


def test_a_program_that_fails_is_one_sentence(assets: Callable[[str], Path], tmp_path: Path, capsys) -> None:
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\necho 'error: no engine' >&2\nexit 1\n")
    bad.chmod(0o755)
    bundle = write_small_bundle(tmp_path / "tiny-x2")
    arguments = ["--bundle", str(bundle), "--input", str(assets("video/carphone_pristine.mp4")), "--program", str(bad)]
    assert native.main([*arguments, "--rounds", "1", "--frames", "2"]) == 1
    assert "bad failed: error: no engine" in capsys.readouterr().err
