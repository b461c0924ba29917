"""``python -m runtime deid`` on real faces when the input or the output is not as it should be: no face comes out.

Where the faces are is known without the detector under test: from the portraits' table, or from an independent search
of the original frames. Pictures come out as PNG, so a pixel that was not replaced has exactly its value.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from benchmarks.faces.check import NOT_FACES, excluded, reference_of
from benchmarks.faces.clips import frames_of
from benchmarks.faces.leaks import leaks
from benchmarks.faces.reference import ReferenceDetector
from recipes.portraits import PortraitRow, portrait_rows
from runtime.cli import run
from runtime.faces.methods import WHOLE
from runtime.faces.resolve import OWN
from runtime.faces.types import Box, Face
from runtime.frames import Frame
from runtime.video.sink import PictureSink
from runtime.video.source import VideoFrame

RATE = Fraction(25)
TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
Faces = Sequence[Sequence[Face]]


# --- what is shown, and where the faces are ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detectors(assets: Callable[[str], Path]) -> dict[str, Path]:
    return {"yunet": assets("weights/yunet/yunet_n_640_640.onnx"), "own": OWN}


@pytest.fixture(scope="module")
def reference(assets: Callable[[str], Path]) -> ReferenceDetector:
    return ReferenceDetector(assets("weights/yunet/yunet_n_dynamic.onnx"))


@pytest.fixture(scope="module")
def stage(assets: Callable[[str], Path], reference: ReferenceDetector) -> tuple[list[Frame], Faces]:
    """Six frames of a stage with two people, 640x360, and their faces."""
    clip = assets("video/short_hamilton_clip.mp4")
    frames = first_frames(clip, 6)
    faces = known_faces(frames, reference, clip.name)
    assert [len(found) for found in faces] == [2] * 6
    return frames, faces


@pytest.fixture(scope="module")
def portraits(assets: Callable[[str], Path]) -> list[PortraitRow]:
    return portrait_rows(assets("faces/congress_pd/faces.csv").parent)


@pytest.fixture(scope="module")
def wall(assets: Callable[[str], Path]) -> Frame:
    """A photo without people, 640x360."""
    image = cv2.imread(str(assets("images/kodak/7.png")))
    return cv2.resize(image[:432], (640, 360), interpolation=cv2.INTER_AREA)


def first_frames(path: Path, count: int) -> list[Frame]:
    return [frame for frame, _ in zip(frames_of(path), range(count), strict=False)]


def known_faces(frames: Sequence[Frame], reference: ReferenceDetector, clip: str) -> list[list[Face]]:
    """Faces of the first frames of a clip by an independent search; what a person saw to be none is left out."""
    found = reference_of(frames, reference, excluded(NOT_FACES, clip))
    return [found.faces(index) for index in range(len(frames))]


def portrait_of(row: PortraitRow, across: float) -> tuple[Frame, Box]:
    """The portrait at a scale at which the face is ``across`` pixels wide, and the box of the face."""
    factor = across / row.box.width
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    image = cv2.resize(cv2.imread(str(row.path)), None, fx=factor, fy=factor, interpolation=way)
    return image, Box(*(factor * value for value in row.box))


def write_clip(path: Path, frames: Sequence[Frame], *, turned: int = 0) -> Path:
    """Without loss, so that what is decoded is ``frames``. ``turned``: degrees clockwise by which the pixels are stored
    turned back, with a display matrix that says so."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264rgb", rate=RATE)
        stream.options = {"crf": "0", "preset": "ultrafast"}
        stored = [cv2.rotate(frame, TURNS[360 - turned]) if turned else frame for frame in frames]
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = "rgb24"
        if turned:
            stream.set_display_rotation(-turned)
        for frame in stored:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")))
        out.mux(stream.encode(None))
    return path


def turned_face(face: Face, degrees: int, width: int, height: int) -> Face:
    """Where a face of a frame of ``width`` x ``height`` is once that is turned clockwise."""
    x, y, across, down = face.box
    turned = {
        90: Box(height - y - down, x, down, across),
        180: Box(width - x - across, height - y - down, across, down),
        270: Box(y, width - x - across, down, across),
    }
    return Face(turned[degrees], face.score)


# --- what came out ----------------------------------------------------------------------------------------------------


def deid(*arguments: object) -> int:
    return run(["deid", "--quiet", *map(str, arguments)])


def pictures(folder: Path) -> list[Frame]:
    return [cv2.imread(str(path)) for path in sorted(folder.glob("d_*.png"))]


def open_share(original: Frame, released: Frame, box: Box) -> float:
    """Share of the ellipse in ``box`` that is as it was: pixels that have their value, and so have all around them. A
    single one can have it by chance."""
    left, top = max(0, int(box.x) - 2), max(0, int(box.y) - 2)
    window = slice(top, int(box.y + box.height) + 3), slice(left, int(box.x + box.width) + 3)
    same = (original[window] == released[window]).all(axis=2).astype(np.uint8)
    whole = cv2.erode(same, np.ones((3, 3), np.uint8))
    rows, columns = np.mgrid[: whole.shape[0], : whole.shape[1]] + 0.5
    (x, y), across, down = box.moved(-left, -top).center, box.width / 2, box.height / 2
    inside = ((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 <= 1
    assert inside.any(), "the face is in the picture"
    return float(whole[inside].mean())


def check_covered(originals: Sequence[Frame], released: Sequence[Frame], faces: Faces) -> None:
    """No face of the frames that came out, which are the first ones, shows in any of its pixels."""
    assert released, "something came out"
    assert any(faces), "there is something to hide"
    shown = []
    for index, (original, frame) in enumerate(zip(originals, released, strict=False)):
        assert frame.shape == original.shape
        for face in faces[index]:
            if share := open_share(original, frame, face.box):
                shown.append((index, tuple(map(round, face.box)), round(share, 3)))
    assert not shown, shown


def is_whole(frame: Frame) -> bool:
    return bool((frame == WHOLE).all())


def test_the_measure_sees_an_open_face(stage: tuple[list[Frame], Faces]) -> None:
    frames, faces = stage
    covered = [frame.copy() for frame in frames]
    for frame, found in zip(covered, faces, strict=True):
        for face in found:
            x, y, across, down = map(int, face.box.scaled(1.1))
            frame[max(0, y) : y + down, max(0, x) : x + across] = (1, 2, 3)
    check_covered(frames, covered, faces)
    left, top = map(int, faces[4][0].box.center)
    covered[4][top : top + 4, left : left + 4] = frames[4][top : top + 4, left : left + 4]
    with pytest.raises(AssertionError, match="4, "):
        check_covered(frames, covered, faces)


# --- turned -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("turned", "name"), [(90, "yunet"), (180, "yunet"), (270, "yunet"), (90, "own")])
def test_a_file_that_says_how_it_is_turned(stage, detectors, tmp_path: Path, turned: int, name: str) -> None:
    frames, faces = stage
    clip = write_clip(tmp_path / "clip.mp4", frames, turned=turned)
    with av.open(str(clip)) as container:
        stored = container.streams.video[0]
        assert (stored.width > stored.height) == (turned == 180)
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--detector", detectors[name]) == 0
    released = pictures(tmp_path)
    assert len(released) == len(frames)
    check_covered(frames, released, faces)


@pytest.mark.parametrize("name", ["yunet", "own"])
@pytest.mark.parametrize("turned", [90, 180, 270])
def test_frames_that_are_turned_and_do_not_say_so(stage, detectors, tmp_path: Path, turned: int, name: str) -> None:
    """Also those in which the camera is turned while it runs."""
    height, width = stage[0][0].shape[:2]
    frames = [cv2.rotate(frame, TURNS[turned]) for frame in stage[0]]
    faces = [[turned_face(face, turned, width, height) for face in found] for found in stage[1]]
    if turned == 180:
        frames, faces = [*stage[0], *frames], [*stage[1], *faces]
    clip = write_clip(tmp_path / "clip.mp4", frames)
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--detector", detectors[name]) == 0
    released = pictures(tmp_path)
    assert len(released) == len(frames)
    check_covered(frames, released, faces)


def test_small_faces_upside_down(portraits, wall, detectors, tmp_path: Path) -> None:
    frame, faces = wall.copy(), []
    for place, person in enumerate((0, 60, 120, 180, 210, 240)):
        image, box = portrait_of(portraits[person], 14.0)
        left, top = 40 + 90 * place, 60 + 30 * place
        frame[top : top + image.shape[0], left : left + image.shape[1]] = image
        faces.append(turned_face(Face(box.moved(left, top), 1.0), 180, 640, 360))
    frame = cv2.rotate(frame, cv2.ROTATE_180)
    cv2.imwrite(str(tmp_path / "in.png"), frame)
    assert deid("-i", tmp_path / "in.png", "-o", tmp_path / "d_0.png", "--detector", detectors["yunet"]) == 0
    check_covered([frame], pictures(tmp_path), [faces])


# --- large and small --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yunet", "own"])
def test_a_face_of_a_thousand_pixels(portraits, detectors, tmp_path: Path, name: str) -> None:
    image, box = portrait_of(portraits[3], 750.0)
    assert box.height > 1000
    top = round(box.center[1]) - 800
    frames, faces = [], []
    for left in (0, 12):  # the camera moves
        frames.append(np.ascontiguousarray(image[top : top + 1600, left : left + image.shape[1] - 12]))
        faces.append([Face(box.moved(-left, -top), 1.0)])
        assert frames[-1].shape[0] == 1600
    clip = write_clip(tmp_path / "clip.mkv", frames)
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--detector", detectors[name]) == 0
    check_covered(frames, pictures(tmp_path), faces)


def test_two_people_in_five_megapixels(assets, detectors, tmp_path: Path) -> None:
    clip = assets("video/egoblur_two_people.mp4")
    boxes = (1153, 804, 133, 171), (1676, 701, 126, 184)  # by the reference, which is slow on such frames
    faces = [[Face(Box(*map(float, box)), 0.94) for box in boxes]]
    options = ("--max-frames", 1, "--detector", detectors["yunet"])
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", *options) == 0
    check_covered(first_frames(clip, 1), pictures(tmp_path), faces)


@pytest.mark.parametrize(
    ("name", "person", "across"),
    [("yunet", 0, 12.0), ("own", 0, 12.0), ("yunet", 782, 9.0)],
    ids=["yunet", "own", "only a thorough search finds it"],
)
def test_a_face_of_twelve_pixels(portraits, wall, detectors, tmp_path, name: str, person: int, across: float) -> None:
    image, box = portrait_of(portraits[person], across)
    frames, faces = [], []
    for step in range(24):
        left, top = 60 + 2 * step, 40 + step
        frames.append(wall.copy())
        frames[-1][top : top + image.shape[0], left : left + image.shape[1]] = image
        faces.append([Face(box.moved(left, top), 1.0)])
    clip = write_clip(tmp_path / "clip.mkv", frames)
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--detector", detectors[name]) == 0
    check_covered(frames, pictures(tmp_path), faces)


# --- sources that break off -------------------------------------------------------------------------------------------


class Camera:
    """Stands in for OpenCV's capture: ``frames``, then nothing, and its ``device`` is gone."""

    def __init__(self, frames: Sequence[Frame], device: Path) -> None:
        self._frames, self._device = [frame.copy() for frame in frames], device

    def open(self, *args: Any) -> bool:
        return True

    def read(self) -> tuple[bool, Frame | None]:
        if self._frames:
            return True, self._frames.pop(0)
        self._device.unlink(missing_ok=True)
        return False, None

    def get(self, key: int) -> float:
        return 25.0

    def set(self, key: int, value: float) -> bool:
        return True

    def release(self) -> None:
        pass


@pytest.mark.parametrize("name", ["yunet", "own"])
def test_a_camera_that_is_unplugged(stage, detectors, tmp_path: Path, name: str, monkeypatch, capsys) -> None:
    frames, faces = stage[0][:1] * 6, stage[1][:1] * 6  # all alike: the newest wins, and some may be left out
    device = tmp_path / "video0"
    device.touch()
    monkeypatch.setattr(cv2, "VideoCapture", lambda: Camera(frames, device))
    monkeypatch.setattr("runtime.video.source.Path", lambda text: device)
    report = tmp_path / "r.json"
    options = ("--detector", detectors[name], "--json", report, "--reconnect", 0)
    assert deid("-i", "0", "-o", tmp_path / "d_%03d.png", *options) == 1
    assert "was it unplugged?" in capsys.readouterr().err
    released = pictures(tmp_path)
    told = json.loads(report.read_text())
    assert 1 <= len(released) == told["frames"] <= len(frames)
    check_covered(frames[: len(released)], released, faces[: len(released)])
    assert (told["outcome"], told["guard"]["lookahead"]) == ("failed", 0)


@pytest.mark.parametrize("lookahead", [0, 12])
def test_a_pipe_that_breaks(stage, detectors, tmp_path: Path, lookahead: int, capsys) -> None:
    frames, faces = stage
    clip, pipe = write_clip(tmp_path / "clip.mkv", frames * 2), tmp_path / "pipe.mkv"
    data = clip.read_bytes()
    os.mkfifo(pipe)

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb") as end:
            end.write(data[: len(data) * 5 // 8])

    feeding = threading.Thread(target=feed)
    feeding.start()
    out = tmp_path / "d.mkv"
    options = ("--detector", detectors["yunet"], "--lookahead", lookahead, "--crf", 0)
    assert deid("-i", pipe, "-o", out, *options) == 1
    feeding.join()
    assert "broke off" in capsys.readouterr().err
    assert not out.exists()
    released = list(frames_of(tmp_path / "d.mkv.partial"))
    assert 4 <= len(released) < 12
    assert not leaks((frames * 2)[: len(released)], released, (list(faces) * 2)[: len(released)])


# --- damaged frames ---------------------------------------------------------------------------------------------------


def damaged(source: Path, to: Path, seed: int) -> Path:
    """The first packets of a clip; in two of them, in the middle, some bits are flipped."""
    random = np.random.default_rng(seed)
    with av.open(str(source)) as before, av.open(str(to), "w") as after:
        stream = before.streams.video[0]
        copied = after.add_stream_from_template(stream)
        for packet, index in zip(before.demux(stream), range(12), strict=False):
            if index in (4, 7):
                data = bytearray(bytes(packet))
                for place in random.integers(len(data) // 3, len(data), 6):
                    data[place] ^= 1 << int(random.integers(8))
                spoilt: Any = av.Packet(bytes(data))
                spoilt.pts, spoilt.dts, spoilt.time_base = packet.pts, packet.dts, packet.time_base
                spoilt.is_keyframe, spoilt.duration = packet.is_keyframe, packet.duration
                packet = spoilt
            packet.stream = copied
            after.mux(packet)
    return to


@pytest.mark.parametrize(
    ("name", "suffix", "seed"),
    [
        ("short_hamilton_clip.mp4", ".mp4", 1),
        ("short_hamilton_clip.mp4", ".mkv", 2),
        ("carphone_pristine.mp4", ".mp4", 1),
    ],
)
def test_damaged_frames(assets, detectors, tmp_path: Path, name: str, suffix: str, seed: int, capsys) -> None:
    clip = damaged(assets(f"video/{name}"), tmp_path / f"clip{suffix}", seed)
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        bad = [index for index, frame in enumerate(container.decode(video=0)) if frame.is_corrupt]
    assert bad, "the decoder has seen it"
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--detector", detectors["yunet"]) == 3
    assert f"{len(bad)} (frame is damaged)" in capsys.readouterr().err
    frames, released = list(frames_of(clip)), pictures(tmp_path)
    assert len(released) == len(frames) == 12
    assert [index for index, frame in enumerate(released) if is_whole(frame)] == bad
    assert min((frame == given).mean() for frame, given in zip(frames[:3], released[:3], strict=True)) > 0.5
    reference = ReferenceDetector(assets("weights/yunet/yunet_n_dynamic.onnx"), score=0.85)
    faces = [reference.detect(frame) if index >= bad[0] else [] for index, frame in enumerate(frames)]
    check_covered(frames, released, faces)


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yunet", "own"])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (16, 2), (33, 17), (17, 33), (45, 51), (31, 401)])
def test_odd_sizes(portraits, detectors, tmp_path: Path, size: tuple[int, int], name: str) -> None:
    """Width and height. A face as large as the frame allows; what is too small to show one is covered whole."""
    frames, faces = shown_in(size, portraits[5])
    for index, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"in_{index}.png"), frame)
    code = deid("-i", tmp_path / "in_%d.png", "-o", tmp_path / "d_%03d.png", "--detector", detectors[name])
    released = pictures(tmp_path)
    assert len(released) == 2
    if min(size) < 12:
        assert code == 3
        assert all(map(is_whole, released))
    else:
        assert code == 0
        assert not any(map(is_whole, released))
        check_covered(frames, released, faces)


def test_an_odd_size_in_a_file(portraits, detectors, tmp_path: Path) -> None:
    frames, faces = shown_in((33, 17), portraits[5])
    clip, out = write_clip(tmp_path / "clip.mkv", frames), tmp_path / "d.mkv"
    assert deid("-i", clip, "-o", out, "--detector", detectors["yunet"], "--crf", 0) == 0
    check_covered(frames, list(frames_of(out)), faces)


def shown_in(size: tuple[int, int], row: PortraitRow) -> tuple[list[Frame], Faces]:
    """Two frames of ``size`` (width, height) with a face that is a little narrower than the shorter side."""
    width, height = size
    image, box = portrait_of(row, 0.6 * min(size))
    frames, faces = [], []
    for step in range(2):
        left, top = width / 2 - box.center[0] + step, height / 2 - box.center[1]
        frame = np.full((height, width, 3), 130, np.uint8)
        matrix = np.array([[1, 0, left], [0, 1, top]], np.float32)
        cv2.warpAffine(image, matrix, size, frame, borderMode=cv2.BORDER_TRANSPARENT)
        frames.append(frame)
        faces.append([Face(box.moved(left, top), 1.0)])
    return frames, faces


# --- outputs that cannot be written -----------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own on ``folder``; skips where this user may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(("output", "size"), [("d.mp4", "100k"), ("d.mkv", "100k"), ("d_%03d.png", "2000k")])
def test_a_full_disk(stage, detectors, tmp_path: Path, output: str, size: str, capsys) -> None:
    frames, faces = (part * 3 for part in stage)
    clip, disk = write_clip(tmp_path / "clip.mkv", frames), tmp_path / "disk"
    with mounted(disk, f"size={size}"):
        assert deid("-i", clip, "-o", disk / output, "--detector", detectors["yunet"], "--crf", 10) == 1
        assert "disk full" in capsys.readouterr().err
        left = sorted(path.name for path in disk.iterdir())
        released = pictures(disk) if "%" in output else []
        if "%" not in output:
            assert left == [f"{output}.partial"]
            released = list(frames_of(disk / left[0]))
    assert 2 <= len(released) < len(frames)
    assert not leaks(frames[: len(released)], released, faces[: len(released)])


def test_a_full_disk_for_the_vault(stage, detectors, tmp_path: Path, monkeypatch, capsys) -> None:
    frames, faces = (part * 3 for part in stage)
    clip, disk = write_clip(tmp_path / "clip.mkv", frames), tmp_path / "disk"
    monkeypatch.setenv("GENEDGE_PASSCODE", "correct horse")
    options = ("--detector", detectors["yunet"], "--vault", disk / "faces.vault")
    with mounted(disk, "size=100k"):
        assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", *options) == 1
        assert "disk full" in capsys.readouterr().err
        assert not (disk / "faces.vault").exists(), "it is not complete"
    released = pictures(tmp_path)
    assert len(released) < len(frames)
    check_covered(frames, released, faces)


def test_an_output_that_may_not_be_written(stage, detectors, tmp_path: Path, capsys) -> None:
    clip, disk = write_clip(tmp_path / "clip.mkv", stage[0]), tmp_path / "disk"
    with mounted(disk, "size=100k,ro"):
        assert deid("-i", clip, "-o", disk / "d.mp4", "--detector", detectors["yunet"]) == 2
    assert "may not be written to" in capsys.readouterr().err
    clip.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_a_folder_that_goes_away(stage, detectors, tmp_path: Path, monkeypatch, capsys) -> None:
    """As a network's or a stick's does."""
    frames, faces = stage
    clip, folder = write_clip(tmp_path / "clip.mkv", frames), tmp_path / "out"
    folder.mkdir()
    write = PictureSink.write

    def writing(sink: PictureSink, frame: VideoFrame) -> None:
        if frame.index == 3:
            folder.rename(tmp_path / "gone")
        write(sink, frame)

    monkeypatch.setattr(PictureSink, "write", writing)
    assert deid("-i", clip, "-o", folder / "d_%03d.png", "--detector", detectors["yunet"]) == 1
    assert "d_003.png" in capsys.readouterr().err
    released = pictures(tmp_path / "gone")
    assert len(released) == 3
    check_covered(frames, released, faces)
