"""``genedge-run deid`` beside ``python -m runtime deid``: the same pixels, masks, report and exit codes.

ctest runs this, with the program in ``$GENEDGE_RUN``; without it there is nothing to test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from bundle_factory import write_recurrent_bundle
from onnx import helper

from runtime.faces.bank import average_faces
from runtime.frames import Frame, Frames
from runtime.manifest import HEADS, STRIDES

PROGRAM = os.environ.get("GENEDGE_RUN", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="ctest runs it")

TIMES = {"seconds", "fps", "latency", "peak_rss_bytes"}
"""What no two runs have in common."""

SIZE = (240, 320)  # height, width


def faces_that_move(count: int) -> Frames:
    """uint8 (count, 240, 320, 3): two faces of the bank, one of which is turned away for some frames, and a cut."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    ground = np.stack([90 + 40 * np.sin(x / (31 + 6 * plane)) + 30 * np.cos(y / 23) for plane in range(3)], -1)
    frames = []
    for index in range(count):
        image = np.asarray(ground, np.uint8)[:, :: -1 if index >= count * 2 // 3 else 1].copy()
        _put(image, 3, 30 + 5 * index, 60, 64)
        if index % 7 not in (3, 4):
            _put(image, 8, 230 - 2 * index, 130, 48)
        frames.append(image)
    return np.stack(frames)


def _put(image: Frame, number: int, left: int, top: int, width: int) -> None:
    face = cv2.resize(average_faces()[number].levels[0], (width, width * 13 // 10), interpolation=cv2.INTER_AREA)
    place = image[top : top + face.shape[0], left : left + width]
    face = face[: place.shape[0], : place.shape[1]]
    place[:] = (place + (face[..., 3:] / 255) * (face[..., :3].astype(float) - place)).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Frames]:
    """The pattern of numbered pictures, which both programs decode alike, and the frames."""
    folder, frames = tmp_path_factory.mktemp("clip"), faces_that_move(24)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index:03}.png"), frame)
    return str(folder / "%03d.png"), frames


def started(command: list[str], arguments: tuple[Any, ...], folder: Path, code: int) -> str:
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "GENEDGE_OFFLINE": "1"}
    words = [*command, "deid", "--quiet", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=folder, env=paths, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


def both(folder: Path, *arguments: Any, code: int = 0, step: int = 0) -> tuple[dict[str, Any], bytes]:
    """The report and the bytes of all frames of a run that Python's program ends in the same way.

    ``step``: 8-bit steps that they may be apart.
    """
    results = []
    for name, command in (("c", [PROGRAM]), ("p", [sys.executable, "-m", "runtime"])):
        files = ("-o", "null://", "--json", f"{name}.json", "--dump-raw", f"{name}.raw")
        started(command, (*arguments, *files), folder, code)
        report = json.loads((folder / f"{name}.json").read_text())
        results.append(({key: value for key, value in report.items() if key not in TIMES}, folder / f"{name}.raw"))
    (ours, our_frames), (theirs, their_frames) = results
    assert ours == theirs
    covered = our_frames.read_bytes()
    pixels, wanted = (np.frombuffer(each, np.uint8) for each in (covered, their_frames.read_bytes()))
    assert pixels.shape == wanted.shape
    assert np.abs(pixels.astype(np.int16) - wanted).max() <= step
    return ours, covered


@pytest.mark.parametrize("method", ["solid", "mosaic"])
def test_a_clip_is_covered_alike(pictures: tuple[str, Frames], tmp_path: Path, method: str) -> None:
    pattern, frames = pictures
    report, covered = both(tmp_path, "-i", pattern, "--method", method)
    assert report["frames"] == len(frames)
    assert report["faces"] >= len(frames)
    assert report["cuts"] == 1
    assert report["covered_whole"] == 0
    changed = (np.frombuffer(covered, np.uint8).reshape(frames.shape) != frames).any((1, 2, 3))
    assert changed.all()


@pytest.mark.parametrize(
    "options",
    [["--lookahead", 0], ["--no-recheck", "--hold", 0.2, "--mask-scale", 1.3], ["--thresh", 0.5, "--max-frames", 9]],
    ids=lambda options: str(options[0]),
)
def test_options_do_the_same(pictures: tuple[str, Frames], tmp_path: Path, options: list[Any]) -> None:
    both(tmp_path, "-i", pictures[0], "--method", "mosaic", *options)


def test_a_recurrent_bundle_behind_it_starts_afresh_at_cuts(pictures: tuple[str, Frames], tmp_path: Path) -> None:
    bundle = write_recurrent_bundle(tmp_path / "recurrent")
    report, _ = both(tmp_path, "-i", pictures[0], "--method", "solid", "-b", bundle, step=1)
    assert report["resets"] == {"cuts": 1, "gaps": 0}
    assert report["stages"] == ["openvino"]


def test_a_picture_is_covered_alike(assets: Callable[[str], Path], tmp_path: Path) -> None:
    report, _ = both(tmp_path, "-i", assets("faces/crowds/deface_city.jpg"), "--method", "solid")
    assert report["thresholds"]["low"] == 0.25
    assert report["faces"] >= 20


def test_a_film_is_covered_alike(assets: Callable[[str], Path], tmp_path: Path) -> None:
    film = assets("video/short_hamilton_clip.mp4")
    report, _ = both(tmp_path, "-i", film, "--method", "mosaic", "--max-frames", 40)
    assert report["faces"] >= 20


def write_blind_detector(path: Path) -> Path:
    """An ONNX file in YuNet's form whose heads are 0 everywhere."""
    nodes, weights, outputs = [], [], []
    for stride in STRIDES:
        for kind, size in HEADS.items():
            name, zeros = f"{kind}_{stride}", np.zeros((size, 3, stride, stride), np.float32)
            weights.append(onnx.numpy_helper.from_array(zeros, f"{name}.zeros"))
            weights.append(onnx.numpy_helper.from_array(np.array([1, -1, size]), f"{name}.shape"))
            nodes.append(helper.make_node("Conv", ["input", f"{name}.zeros"], [f"{name}.map"], strides=[stride] * 2))
            nodes.append(helper.make_node("Transpose", [f"{name}.map"], [f"{name}.cells"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Reshape", [f"{name}.cells", f"{name}.shape"], [name]))
            outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None, size]))
    frame = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, None, None])
    graph = helper.make_graph(nodes, "blind", [frame], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("passcode", ["correct horse", "Zürich"])
def test_a_passcode_chooses_the_same_faces(pictures: tuple[str, Frames], tmp_path: Path, passcode: str) -> None:
    film, code = tmp_path / "film.mkv", tmp_path / "code.txt"
    with av.open(str(film), "w") as container:
        video: Any = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = SIZE[1], SIZE[0], "bgr0"
        for frame in pictures[1][:9]:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="bgr24")))
        container.mux(video.encode(None))
    code.write_text(f"{passcode}\n", encoding="utf-8")
    code.chmod(0o600)
    report, _ = both(tmp_path, "-i", film, "--method", "average", "--passcode-file", code, step=1)
    assert report["methods"]["average"] > 9


def test_a_broken_input_leaves_covered_frames_under_a_name_that_tells(
    assets: Callable[[str], Path], tmp_path: Path
) -> None:
    with av.open(str(assets("video/short_hamilton_clip.mp4"))) as source, av.open(str(tmp_path / "x.mkv"), "w") as copy:
        stream = source.streams.video[0]
        out = copy.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.dts is None or number > 60:
                break
            packet.stream = out
            copy.mux(packet)
    data = (tmp_path / "x.mkv").read_bytes()
    (tmp_path / "broken.mkv").write_bytes(data[: len(data) * 2 // 3])
    arguments = ("-i", "broken.mkv", "-o", "d.mp4", "--method", "solid", "--json", "r.json")
    said = started([PROGRAM], arguments, tmp_path, 1)
    assert "broke off" in said
    assert "d.mp4.partial: " in said
    assert not (tmp_path / "d.mp4").exists()
    with av.open(str(tmp_path / "d.mp4.partial")) as result:
        count = sum(1 for _ in result.decode(video=0))
    assert 3 <= count < 60
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["outcome"], report["frames"]) == ("failed", count)


def test_a_detector_that_sees_nothing_covers_all(pictures: tuple[str, Frames], tmp_path: Path) -> None:
    blind = write_blind_detector(tmp_path / "blind.onnx")
    report, covered = both(tmp_path, "-i", pictures[0], "--method", "solid", "--detector", blind, code=3)
    assert report["covered_whole_reasons"] == {"detector missed the test face": report["frames"]}
    assert set(covered) == {48}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-i", "PICTURES", "-o", "nowhere/out.mp4"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--thresh", "2"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--mask-scale", "0.5"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--json", "out.mp4"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--json", "nowhere/report.json"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--code", "a=1"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--image", "x"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--no-cut-reset"], 2),
        (["-i", "PICTURES", "-o", "out.mp4", "--detector", "none.onnx"], 1),
        (["-i", "PICTURES", "-o", "out.mp4", "--detector", "text.onnx"], 1),
        (["-i", "PICTURES", "-o", "out.mp4", "--detector", "."], 1),
    ],
    ids=lambda value: str(value[-2:] if isinstance(value, list) else value),
)
def test_complaints_are_the_same(pictures: tuple[str, Frames], tmp_path: Path, arguments: list[str], code: int) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    words = [pictures[0] if word == "PICTURES" else word for word in arguments]
    ours, theirs = (
        started(command, tuple(words), tmp_path, code) for command in ([PROGRAM], [sys.executable, "-m", "runtime"])
    )
    assert ours.splitlines()[-1].removeprefix("error: ") in theirs
    assert not (tmp_path / "out.mp4").exists()
