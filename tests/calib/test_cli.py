from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundle_factory import write_manifest, write_small_bundle

import runtime.bundle
from calib.cli import run
from calib.index import read_index
from calib.inspection import CELL, Overview, histogram_picture, inspect
from calib.quantise import checked_material
from runtime.bundle import Bundle, open_bundle
from runtime.errors import UsageError
from runtime.frames import Frame, SizeRule
from runtime.manifest import Port

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "cv2", "numpy", "av", "skimage")


@pytest.fixture
def clip(write_clip: Callable[..., Path], photos: tuple[Frame, ...], pan: Callable[..., list[Frame]]) -> Path:
    """Twelve frames of each of four photos, 96x128."""
    return write_clip([frame for photo in photos for frame in pan(photo, 12)])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "set"


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and the one sentence with which a command fails."""
    try:
        code = run([str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse
        code = int(str(stopped.code))
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1, lines
    return code, lines[0].partition("error: ")[2]


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


# --- what is imported -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["sample", "--help"], ["inspect", "--help"], ["nonsense"]])
def test_help_answers_without_heavy_imports(arguments: list[str]) -> None:
    code = f"""
import sys
from calib.cli import run
try:
    run(sys.argv[1:])
except SystemExit:
    pass
print("HEAVY", sorted(set(sys.modules) & set({HEAVY!r})))
"""
    outcome = python(code, *arguments)
    assert outcome.returncode == 0
    assert outcome.stdout.splitlines()[-1] == "HEAVY []"
    assert "usage: python -m calib" in outcome.stdout + outcome.stderr


def test_sampling_needs_neither_torch_nor_onnx() -> None:
    code = """
import sys
import calib.cli, calib.dataset, calib.inspection, calib.sample
print(sorted(set(sys.modules) & {"torch", "onnx", "onnxruntime", "openvino", "skimage", "export"}))
"""
    outcome = python(code)
    assert (outcome.returncode, outcome.stdout.strip()) == (0, "[]"), outcome.stderr


def test_a_missing_package_says_what_to_install() -> None:
    code = "import sys; sys.modules['cv2'] = None; from calib.cli import run; sys.exit(run(sys.argv[1:]))"
    outcome = python(code, "sample", "clip.mp4", "-o", "set")
    assert (outcome.returncode, outcome.stderr) == (1, "error: cv2 is not installed: pip install genedge\n")


def test_module_can_be_run_and_exits_with_its_code(tmp_path: Path) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "calib", "sample", "nowhere.mp4", "-o", str(tmp_path / "set")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr == "error: nowhere.mp4: no such video, picture or folder\n"


# --- sample -----------------------------------------------------------------------------------------------------------


def test_sample_writes_a_set_and_says_what_it_took(
    clip: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = target.with_name("report.json")
    assert run(["sample", str(clip), "-o", str(target), "-n", "8", "--size", "64x96", "--json", str(report)]) == 0
    captured = capsys.readouterr()
    head, row, last = captured.out.splitlines()
    assert head.split() == ["source", "frames", "scenes", "distinct", "taken"]
    assert row.split()[:3] == ["clip.mp4", "48", "4"]
    assert last.startswith(f"wrote {target}: 8 frames of 64x96, digest ")
    assert "48 frames" in captured.err  # progress
    index = read_index(target)
    assert (len(index.pictures), index.size, index.seed) == (8, (64, 96), 0)
    result = json.loads(report.read_text())
    assert (result["digest"], result["frames"], result["size"]) == (index.digest, 8, [64, 96])
    assert result["sources"][0]["taken"] == 8
    assert result["peak_rss_bytes"] > 0


def test_json_on_standard_output_stands_alone(clip: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", str(clip), "-o", str(target), "-n", "99", "--size", "96x128", "--json", "-"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["frames"] < 99
    assert result["warnings"][0].startswith(f"only {result['frames']} distinct frames were found, 99 were asked for")
    assert f"warning: {result['warnings'][0]}" in captured.err
    assert run(["inspect", str(target), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == result["digest"]


def test_runs_and_seed(clip: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", str(clip), "-o", str(target), "-n", "9", "--size", "64x64", "--runs", "3", "--seed", "5"]
    assert run(arguments) == 0
    assert "9 frames of 64x64 in 3 runs of 3" in capsys.readouterr().out
    assert (read_index(target).run_length, read_index(target).seed) == (3, 5)
    assert failure(capsys, *arguments) == (2, f"{target} exists: add --force to replace it")
    assert run([*arguments, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--size", "64"], "argument --size: '64' is not HEIGHTxWIDTH, for example 360x640"),
        (["--size", "0x64"], "argument --size: '0x64' is not HEIGHTxWIDTH, for example 360x640"),
        (["-n", "0"], "argument -n/--count: '0' is no whole number from 1 to 65536"),
        (["-n", "9" * 5000], f"argument -n/--count: '{'9' * 5000}' is no whole number from 1 to 65536"),
        (["--runs", "-1"], "argument --runs: '-1' is no whole number from 1 to 1024"),
        (["--seed", "4294967296"], "argument --seed: '4294967296' is no whole number from 0 to 4294967295"),
    ],
)
def test_values_that_cannot_be_right(
    arguments: list[str], complaint: str, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure(capsys, "sample", "clip.mp4", "-o", target, *arguments) == (2, complaint)


def test_what_is_too_small_is_a_usage_error(clip: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, sentence = failure(capsys, "sample", clip, "-o", target)
    assert code == 2
    assert sentence == (
        "every frame is smaller than 256x256, the largest is 96x128 (HEIGHTxWIDTH): "
        "add --size 96x128, or name larger material"
    )
    assert run(["sample", str(clip), "-o", str(target), "--size", "whole", "-n", "4"]) == 0
    assert read_index(target).size is None


def test_a_black_video_has_failed(
    write_clip: Callable[..., Path], target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip([np.zeros((64, 64, 3), np.uint8)] * 5)
    code, sentence = failure(capsys, "sample", clip, "-o", target, "--size", "32x32")
    assert (code, sentence.partition(";")[0]) == (1, "nothing to calibrate with: every frame is one flat colour")


# --- a set for a bundle -----------------------------------------------------------------------------------------------


def test_the_bundle_says_the_size(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_small_bundle(tmp_path / "fixed")
    manifest = open_bundle(folder).manifest
    write_manifest(folder, replace(manifest, geometry=replace(manifest.geometry, fixed_size=(48, 72))))
    assert run(["sample", str(clip), "-o", str(tmp_path / "a"), "--for", str(folder), "-n", "4"]) == 0
    index = read_index(tmp_path / "a")
    assert (index.size, index.run_length) == ((48, 72), 1)
    for size in ("whole", "64x64"):
        sentence = f"{folder} takes 48x72 frames only: leave --size out"
        arguments = ["sample", clip, "-o", tmp_path / "b", "--for", folder, "--size", size]
        assert failure(capsys, *arguments) == (2, sentence)


@pytest.mark.parametrize(("wish", "size"), [([], None), (["--size", "whole"], None), (["--size", "30x50"], (30, 50))])
def test_a_bundle_that_resizes_gets_whole_frames_or_what_is_asked_for(
    clip: Path, tmp_path: Path, wish: list[str], size: tuple[int, int] | None
) -> None:
    """Whatever its own size, which may be larger than the clip's."""
    folder = write_small_bundle(tmp_path / "fixed")
    manifest = open_bundle(folder).manifest
    geometry = replace(manifest.geometry, fixed_size=(480, 480), fit="resize", size_rule=SizeRule(480, 480))
    write_manifest(folder, replace(manifest, geometry=geometry))
    assert run(["sample", str(clip), "-o", str(tmp_path / "a"), "--for", str(folder), "-n", "4", *wish]) == 0
    assert read_index(tmp_path / "a").size == size
    assert len(checked_material((tmp_path / "a",), open_bundle(folder).manifest)) == 4


def test_the_bundle_says_the_multiple(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_small_bundle(tmp_path / "free")
    manifest = open_bundle(folder).manifest
    write_manifest(folder, replace(manifest, geometry=replace(manifest.geometry, size_rule=SizeRule(20, 24))))
    arguments = ["sample", clip, "-o", tmp_path / "a", "--for", folder]
    code, sentence = failure(capsys, *arguments)
    assert code == 2
    assert "smaller than 264x264" in sentence  # the default size, made a multiple
    assert "add --size 96x120" in sentence
    assert failure(capsys, *arguments, "--size", "64x64") == (
        2,
        f"{folder} takes no 64x64 frames; the next size is 72x72",
    )
    assert run([str(argument) for argument in [*arguments, "--size", "72x72", "-n", "4"]]) == 0
    assert failure(capsys, "sample", clip, "-o", tmp_path / "b", "--for", "nothing")[0] == 1


def test_a_recurrent_bundle_gets_runs(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "recurrent"))
    state = Port("hidden", "state", "float32", ("n", "h", "w", 16))
    manifest = replace(bundle.manifest, inputs=(*bundle.manifest.inputs, state))
    monkeypatch.setattr(runtime.bundle, "open_bundle", lambda place: Bundle(bundle.folder, manifest))
    arguments = ["sample", str(clip), "--for", "recurrent", "--size", "64x64", "-n", "16"]
    assert run([*arguments, "-o", str(tmp_path / "a")]) == 0
    assert [len(length) for length in read_index(tmp_path / "a").runs] == [8, 8]
    assert run([*arguments, "-o", str(tmp_path / "b"), "--runs", "2"]) == 0
    assert read_index(tmp_path / "b").run_length == 2


# --- inspect ----------------------------------------------------------------------------------------------------------


def test_inspect_prints_figures_and_draws_beside_the_set(
    clip: Path, target: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["sample", str(clip), "-o", str(target), "-n", "8", "--size", "64x96"]) == 0
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    report = target.with_name("report.json")
    capsys.readouterr()
    monkeypatch.chdir(target.parent)
    assert run(["inspect", "set/", "--json", str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["clip.mp4", "8"]
    assert [line.split()[0] for line in lines[2:5]] == ["mean,", "brightness", "saturation"]
    assert "8 pictures in 8 runs, 8 of 64x96" in lines[5]
    assert "every picture read and checked" in lines[5]
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    output = target.with_name("set-inspect")
    assert {path.name for path in output.iterdir()} == {"contact_sheet.png", "histograms.png"}
    result = json.loads(report.read_text())
    assert (result["frames"], result["sources"], result["sizes"]) == (8, {"clip.mp4": 8}, {"64x96": 8})
    assert 0 <= result["brightness"]["p0"] <= result["brightness"]["p100"] <= 255
    assert run(["inspect", "set", "-o", str(target.with_name("elsewhere"))]) == 0
    assert target.with_name("elsewhere").is_dir()


def test_inspect_finds_a_changed_picture(clip: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", str(clip), "-o", str(target), "-n", "4", "--size", "64x64"]) == 0
    cv2.imwrite(str(target / "00002.png"), np.zeros((64, 64, 3), np.uint8))
    code, sentence = failure(capsys, "inspect", target)
    assert code == 2
    assert sentence.startswith(f"{target}/00002.png: not the picture that the set's index.json describes")
    assert not target.with_name("set-inspect").exists()


def test_inspect_writes_nothing_into_the_set(
    clip: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sample", str(clip), "-o", str(target), "-n", "4", "--size", "64x64"]) == 0
    for output in (target, target / "pictures", target / ".." / "set"):
        code, sentence = failure(capsys, "inspect", target, "-o", output)
        assert (code, "lies in the set" in sentence) == (2, True)
    (tmp_path / "file").write_text("mine")
    assert failure(capsys, "inspect", target, "-o", tmp_path / "file")[0] == 2
    code, sentence = failure(capsys, "inspect", tmp_path / "nowhere")
    assert code == 2
    assert "no such set: make one with `python -m calib sample VIDEO -o" in sentence


def test_figures_and_pictures_of_known_colours(tmp_path: Path) -> None:
    """A folder of two plain pictures: pure red and mid grey."""
    folder, output = tmp_path / "album", tmp_path / "shown"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.full((64, 128, 3), (0, 0, 255), np.uint8))
    cv2.imwrite(str(folder / "b.png"), np.full((64, 128, 3), 128, np.uint8))
    overview = inspect(folder, output)
    assert overview.brightness == pytest.approx([76, 128], abs=1)
    assert overview.saturation == pytest.approx([255, 0])
    assert overview.ends() == {
        "red": {"0": 0.0, "255": 0.5},
        "green": {"0": 0.5, "255": 0.0},
        "blue": {"0": 0.5, "255": 0.0},
    }
    assert overview.histograms.sum() == 2 * 64 * 128 * 3
    assert overview.sources == {"album": 2}
    sheet = cv2.imread(str(output / "contact_sheet.png"))
    assert tuple(sheet[4 + CELL // 2, 4 + CELL // 2]) == (0, 0, 255)
    assert tuple(sheet[4 + CELL // 2, 8 + CELL + CELL // 2]) == (128, 128, 128)
    picture = cv2.imread(str(output / "histograms.png"))
    assert np.array_equal(picture, histogram_picture(overview))
    # the red panel's last bar reaches the top, as half of all values are 255
    assert tuple(picture[24 + 75, 40 + 510]) == (60, 60, 230)


def test_a_large_set_is_shown_in_part(tmp_path: Path) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(300):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.full((2, 2, 3), number % 256, np.uint8))
    assert isinstance(inspect(folder, tmp_path / "shown"), Overview)
    sheet = cv2.imread(str(tmp_path / "shown" / "contact_sheet.png"))
    assert sheet.shape[0] * sheet.shape[1] < 3000 * 3000


def test_an_output_in_the_set_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    tmp_path.joinpath("set").mkdir()
    with pytest.raises(UsageError, match="lies in the set"):
        inspect(tmp_path / "set", tmp_path / "set")
