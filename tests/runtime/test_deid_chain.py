"""``python -m runtime deid -b``: bundles behind the covered frames begin anew at cuts and gaps, and take codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundle_factory import conditional, recurrent, write_conditional_bundle, write_recurrent_bundle, write_small_bundle

from calib.dataset import CalibrationSet
from runtime.cli import run
from runtime.cuts import CutDetector
from runtime.frames import Frames

FIRST, ALL = 6, 10  # frames of the first of two shots, and of both


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pans over photos, as numbered pictures."""
    folder = tmp_path_factory.mktemp("shots")
    photos = list(CalibrationSet.built_in().crops(260, 400, 2))
    for index in range(ALL):
        left = 3 * index
        cv2.imwrite(str(folder / f"{index:02}.png"), photos[index >= FIRST][10:250, left : left + 320])
    return folder


@pytest.fixture
def covered(shots: Path, tmp_path: Path) -> Callable[..., tuple[Frames, dict[str, object]]]:
    """Run `deid` with further options; the frames and the report."""

    def go(*options: object, source: object = shots) -> tuple[Frames, dict[str, object]]:
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        report = folder / "report.json"
        command = ["deid", "-i", source, "-o", folder / "%02d.png", "--method", "solid", "--quiet", "--json", report]
        assert run([str(each) for each in (*command, "--backend", "onnxruntime", *options)]) == 0
        images = [cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))]
        return np.stack(images), json.loads(report.read_text())

    return go


def test_a_recurrent_bundle_begins_anew_at_a_cut(covered: Callable[..., tuple[Frames, dict]], tmp_path: Path) -> None:
    frames, report = covered()
    assert len(frames) == ALL
    assert report["resets"] is None
    bundle = write_recurrent_bundle(tmp_path / "rrn")
    result, report = covered("-b", bundle)
    wanted = [recurrent(shot[:, None])[:, 0] for shot in (frames[:FIRST], frames[FIRST:])]
    np.testing.assert_array_equal(result, np.concatenate(wanted))
    assert report["resets"] == {"cuts": 1, "gaps": 0}
    assert [index for index, is_cut in enumerate(map(CutDetector(), frames)) if is_cut] != [FIRST]  # of covered frames
    result, report = covered("-b", bundle, "--no-cut-reset")
    np.testing.assert_array_equal(result, recurrent(frames[:, None])[:, 0])
    assert report["resets"] == {"cuts": 0, "gaps": 0}


def test_a_recurrent_bundle_begins_anew_after_a_gap(
    covered: Callable[..., tuple[Frames, dict]], shots: Path, tmp_path: Path
) -> None:
    from clip_factory import write_clip

    images = [cv2.imread(str(shots / f"{index:02}.png")) for index in range(FIRST)]
    ticks = [0, 1, 2, 3, 4, 100]  # the last one comes after 3.8 s
    clip = write_clip(tmp_path / "clip.mp4", ticks=ticks, size=(320, 240), images=images)
    frames, _ = covered(source=clip)
    result, report = covered("-b", write_recurrent_bundle(tmp_path / "rrn"), source=clip)
    wanted = [recurrent(part[:, None])[:, 0] for part in (frames[:5], frames[5:])]
    np.testing.assert_array_equal(result, np.concatenate(wanted))
    assert report["resets"] == {"cuts": 0, "gaps": 1}


def test_a_conditional_bundle_takes_codes(covered: Callable[..., tuple[Frames, dict]], tmp_path: Path) -> None:
    frames, _ = covered("--max-frames", 3)
    bundle = write_conditional_bundle(tmp_path / "codes")
    control = tmp_path / "control.json"
    control.write_text('{"strength": [7, 9]}')
    options = ("--code", "style=c", "--control", control, "--max-frames", 3)
    result, report = covered("-b", bundle, *options)
    np.testing.assert_array_equal(result, conditional(frames, {"style": (0, 0, 1, 0), "strength": (7, 9)}))
    assert report["codes"][0]["style"] == "c"  # type: ignore[index]
    assert report["resets"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--code", "style=2"), "--code is for a bundle behind: add -b BUNDLE"),
        (("--no-cut-reset",), "--no-cut-reset is for a bundle behind"),
        (("-b", "{plain}", "--code", "style=2"), "tiny-x2 takes no code: leave out --code"),
        (("-b", "{codes}", "--code", "style=9"), "style"),
        (("-b", "{codes}", "--code", "passcode=passcode:x"), "use --control FILE"),
        (("-b", "{plain}", "--image", "3:image"), "from 1 to 1"),
    ],
)
def test_a_mistake_gets_one_sentence(
    options: tuple[str, ...], words: str, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, codes = write_small_bundle(tmp_path / "plain"), write_conditional_bundle(tmp_path / "codes")
    filled = [option.format(plain=plain, codes=codes) for option in options]
    assert run(["deid", "-i", str(shots), "-o", str(tmp_path / "%02d.png"), *filled]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))
