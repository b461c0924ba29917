"""genedge-run beside ``python -m runtime``: the same pictures, messages and exit codes.

ctest runs this, with the program in ``$GENEDGE_RUN``; without it there is nothing to test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from bundle_factory import (
    CODE_MAP,
    CODES,
    add_negative,
    conditional,
    png,
    random_frames,
    recurrent,
    upscale,
    write_conditional_bundle,
    write_recurrent_bundle,
    write_small_bundle,
)

from runtime.frames import Frames

PROGRAM = os.environ.get("GENEDGE_RUN", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="ctest runs it")
PRESENT = Path(__file__).parent.parent / "data" / "manifests"


def genedge_run(*arguments: Any, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, check=False)
    assert done.returncode == code, done.stderr
    return done


def python_run(*arguments: Any, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "runtime", *map(str, arguments)]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=paths, check=False)
    assert done.returncode == code, done.stderr
    return done


def pictures(folder: Path, frames: Frames) -> str:
    """Numbered PNG files of ``frames``; gives their pattern."""
    folder.mkdir()
    for index, frame in enumerate(frames):
        (folder / f"{index:03}.png").write_bytes(png(frame))
    return str(folder / "%03d.png")


def dumped(path: Path, like: Frames) -> Frames:
    return np.fromfile(path, np.uint8).reshape(like.shape)


def clip(path: Path, *, frames: int = 24, size: tuple[int, int] = (96, 64), sound: bool = False, **stream: Any) -> Path:
    """A film of moving noise in colours, with B-frames, as a camera would give it."""
    width, height = size
    noise = cv2.GaussianBlur(random_frames(height, width + frames, 3), (5, 5), 0)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = width, height, stream.get("pix_fmt", "yuv420p")
        tone: Any = container.add_stream("aac", rate=48_000) if sound else None
        for index in range(frames):
            picture = np.ascontiguousarray(noise[:, index : index + width])
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            if tone is not None:
                wave = np.sin(np.arange(1920) * 0.05).astype(np.float32)[None]
                samples = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                samples.sample_rate, samples.pts = 48_000, 1920 * index
                samples.time_base = Fraction(1, 48_000)
                container.mux(tone.encode(samples))
        container.mux(video.encode(None))
        if tone is not None:
            container.mux(tone.encode(None))
    return path


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_frames_are_computed_exactly(tmp_path: Path) -> None:
    bundle, frames = write_small_bundle(tmp_path / "net"), random_frames(5, 9, 13, 3)
    source = pictures(tmp_path / "in", frames)
    genedge_run("run", "-b", bundle, "-i", source, "-o", tmp_path / "%02d.png", "--dump-raw", "raw", folder=tmp_path)
    wanted = upscale(frames)
    assert np.array_equal(dumped(tmp_path / "raw", wanted), wanted)
    written = np.stack([cv2.imread(str(tmp_path / f"{index:02}.png")) for index in range(5)])
    assert np.array_equal(written, wanted)


def test_tiles_and_stages(tmp_path: Path) -> None:
    bundle, frames = write_small_bundle(tmp_path / "net"), random_frames(3, 50, 70, 3)
    source = pictures(tmp_path / "in", frames)
    stages = ["-b", bundle, "-b", bundle, "--tile", 16]
    genedge_run("run", *stages, "-i", source, "-o", "null://", "--dump-raw", "raw", folder=tmp_path)
    wanted = upscale(upscale(frames))
    assert np.array_equal(dumped(tmp_path / "raw", wanted), wanted)


def test_states_are_carried_from_frame_to_frame(tmp_path: Path) -> None:
    bundle, frames = write_recurrent_bundle(tmp_path / "rrn"), random_frames(6, 10, 14, 3)
    source = pictures(tmp_path / "in", frames)
    one_shot = ["--no-cut-reset", "--input-rate", 25]
    genedge_run("run", "-b", bundle, "-i", source, "-o", "null://", "--dump-raw", "raw", *one_shot, folder=tmp_path)
    wanted = recurrent(frames[:, None])[:, 0]
    assert np.array_equal(dumped(tmp_path / "raw", wanted), wanted)


def test_cuts_begin_anew_as_in_python(tmp_path: Path) -> None:
    bundle = write_recurrent_bundle(tmp_path / "rrn")
    shots = [cv2.GaussianBlur(random_frames(54, 96, 3, seed=seed), (31, 31), 0) for seed in (1, 2)]
    source = pictures(tmp_path / "in", np.stack([shots[0]] * 5 + [shots[1]] * 5))
    report = ["-b", bundle, "-i", source, "-o", "null://", "--backend", "openvino"]
    genedge_run("run", *report, "--dump-raw", "cpp.raw", "--json", "cpp.json", folder=tmp_path)
    python_run("run", *report, "--dump-raw", "py.raw", "--json", "py.json", folder=tmp_path)
    ours, theirs = (json.loads((tmp_path / name).read_text())["resets"] for name in ("cpp.json", "py.json"))
    assert ours == theirs
    assert (tmp_path / "cpp.raw").read_bytes() == (tmp_path / "py.raw").read_bytes()


@pytest.mark.parametrize("ports", [CODES, (CODE_MAP,)], ids=["numbers", "map"])
def test_codes(tmp_path: Path, ports: Any) -> None:
    bundle = write_conditional_bundle(tmp_path / "net", ports=ports)
    frames = random_frames(2, 8, 12, 3)
    source = pictures(tmp_path / "in", frames)
    said = {"style": "c", "passcode": "101", "strength": "blue=7"} if len(ports) > 1 else {"labels": "1"}
    codes = [part for name, value in said.items() for part in ("--code", f"{name}={value}")]
    genedge_run("run", "-b", bundle, "-i", source, "-o", "null://", "--dump-raw", "raw", *codes, folder=tmp_path)
    values = {port.name: port.code.parsed(said[port.name]) for port in ports}
    wanted = conditional(frames, values, ports)
    assert np.array_equal(dumped(tmp_path / "raw", wanted), wanted)


def test_another_image(tmp_path: Path) -> None:
    bundle = add_negative(write_small_bundle(tmp_path / "net"))
    frames = random_frames(2, 8, 12, 3)
    source = pictures(tmp_path / "in", frames)
    chosen = ["--image", "negative", "--dump-raw", "raw"]
    genedge_run("run", "-b", bundle, "-i", source, "-o", "null://", *chosen, folder=tmp_path)
    wanted = 255 - upscale(frames)
    assert np.array_equal(dumped(tmp_path / "raw", wanted), wanted)


# --- video ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_decoded_pixels_are_those_of_python(tmp_path: Path, pix_fmt: str) -> None:
    bundle = write_small_bundle(tmp_path / "net")
    film = clip(tmp_path / "film.mp4", size=(98, 66), pix_fmt=pix_fmt)
    same = ["-b", bundle, "-i", film, "-o", "null://", "--backend", "openvino"]
    genedge_run("run", *same, "--dump-raw", "cpp.raw", folder=tmp_path)
    python_run("run", *same, "--dump-raw", "py.raw", folder=tmp_path)
    ours, theirs = (np.fromfile(tmp_path / name, np.uint8).astype(int) for name in ("cpp.raw", "py.raw"))
    assert ours.shape == (24 * 132 * 196 * 3,)
    assert np.abs(ours - theirs).max() <= (0 if pix_fmt in ("yuv420p", "yuvj420p", "yuv444p") else 1)


def test_a_written_file_keeps_times_and_sound(tmp_path: Path) -> None:
    bundle, film = write_small_bundle(tmp_path / "net"), clip(tmp_path / "film.mp4", sound=True)
    genedge_run("run", "-b", bundle, "-i", film, "-o", "out.mp4", folder=tmp_path)

    def facts(path: Path) -> tuple[list[float], float, list[bytes]]:
        with av.open(str(path)) as container:
            times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
            length = float(container.streams.video[0].duration * container.streams.video[0].time_base)
        with av.open(str(path)) as container:
            sound = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
        return times, length, sound

    assert facts(tmp_path / "out.mp4") == facts(film)
    assert not list(tmp_path.glob(".*part*"))


def test_a_turned_film_is_laid_upright(tmp_path: Path) -> None:
    film = clip(tmp_path / "film.mp4", frames=3)
    turned = tmp_path / "turned.mp4"
    with av.open(str(film)) as source, av.open(str(turned), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    data = bytearray(turned.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 20 + 16  # the display matrix, as ISO 14496-12 has it in version 0
    quarter = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[place : place + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in quarter)
    turned.write_bytes(data)
    same = ["-b", write_small_bundle(tmp_path / "net"), "-i", turned, "-o", "null://", "--backend", "openvino"]
    genedge_run("run", *same, "--dump-raw", "cpp.raw", "--json", "cpp.json", folder=tmp_path)
    python_run("run", *same, "--dump-raw", "py.raw", folder=tmp_path)
    assert json.loads((tmp_path / "cpp.json").read_text())["input"]["rotation"] == 90
    assert (tmp_path / "cpp.raw").read_bytes() == (tmp_path / "py.raw").read_bytes()


def test_a_file_as_a_camera(tmp_path: Path) -> None:
    bundle, film = write_small_bundle(tmp_path / "net"), clip(tmp_path / "film.mp4")
    live = ["--realtime", "--json", "-", "--quiet"]
    done = genedge_run("run", "-b", bundle, "-i", film, "-o", "null://", *live, folder=tmp_path)
    report = json.loads(done.stdout)
    assert 0.7 < report["seconds"] < 10
    assert report["frames"] + report["dropped"] == 24
    assert report["latency"]["capture"]["count"] == report["frames"]
    assert "from capture to output" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_playable_file(tmp_path: Path, number: signal.Signals) -> None:
    bundle, film = write_small_bundle(tmp_path / "net"), clip(tmp_path / "film.mp4", frames=250)
    arguments = ["run", "-b", str(bundle), "-i", str(film), "-o", "out.mp4", "--realtime", "--quiet"]
    process = subprocess.Popen([PROGRAM, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # the bundle's line: the run begins
    process.stderr.readline()
    time.sleep(1.0)
    process.send_signal(number)
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in words
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert 0 < sum(1 for _ in container.decode(video=0)) < 250


def test_systemd_hears_of_the_frames(tmp_path: Path) -> None:
    bundle, frames = write_small_bundle(tmp_path / "net"), random_frames(3, 8, 12, 3)
    source = pictures(tmp_path / "in", frames)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        command = [PROGRAM, "run", "-b", str(bundle), "-i", source, "-o", "null://", "--quiet"]
        subprocess.run(command, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}, check=True, timeout=60)
        heard = [systemd.recv(100).decode() for _ in range(2)]
    assert heard[0].splitlines() == ["READY=1", "WATCHDOG=1"]
    assert heard[1] in ("WATCHDOG=1", "STOPPING=1")


# --- messages and exit codes ------------------------------------------------------------------------------------------


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    return next(line for line in done.stderr.splitlines() if line.startswith("error: "))


@pytest.mark.parametrize(
    "broken",
    ["missing", "empty", "noise", "truncated", "text.txt.mp4", "sound only"],
)
def test_broken_videos_end_as_in_python(tmp_path: Path, broken: str) -> None:
    bundle, film = write_small_bundle(tmp_path / "net"), clip(tmp_path / "film.mkv", frames=60, sound=True)
    path = tmp_path / "broken.mkv"
    if broken == "empty":
        path.write_bytes(b"")
    elif broken == "noise":
        path.write_bytes(random_frames(100, 100, 3).tobytes())
    elif broken == "truncated":
        path.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    elif broken == "text.txt.mp4":
        path.write_text("not a film\n" * 100)
    elif broken == "sound only":
        with av.open(str(path), "w") as container:
            tone: Any = container.add_stream("aac", rate=48_000)
            container.mux(tone.encode(None))
    same = ["run", "-b", bundle, "-i", path, "-o", "null://", "--backend", "openvino"]
    ours, theirs = genedge_run(*same, folder=tmp_path, code=1), python_run(*same, folder=tmp_path, code=1)
    assert complaint(ours) == complaint(theirs)


def test_usage_errors_are_those_of_python(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "net")
    film = clip(tmp_path / "film.mp4", frames=2)
    taken = tmp_path / "taken.mp4"
    shutil.copy(film, taken)
    for arguments in (
        ["-b", bundle, "-i", film, "-o", taken],
        ["-b", bundle, "-i", film, "-o", film, "--overwrite"],
        ["-b", bundle, "-i", film, "-o", "out.xyz"],
        ["-b", bundle, "-i", film, "-o", "nowhere/out.mp4"],
        ["-b", bundle, "-i", film, "-o", "picture.png"],
        ["-b", bundle, "-i", "ftp://somewhere", "-o", "null://"],
        ["-b", bundle, "-i", film, "-o", "null://", "--backend", "abacus"],
        ["-b", bundle, "-i", film, "-o", "null://", "--precision", "fp8"],
        ["-b", bundle, "-i", film, "-o", "null://", "--code", "style=1"],
        ["-b", bundle, "-i", film, "-o", "null://", "--image", "depth"],
        ["-b", bundle, "-i", film, "-o", "null://", "--workspace", "5", "--backend", "openvino"],
    ):
        ours = genedge_run("run", *arguments, folder=tmp_path, code=2)
        theirs = python_run("run", *arguments, folder=tmp_path, code=2)
        backends = "choose auto, tensorrt, openvino"
        assert complaint(ours).replace(backends, "") == complaint(theirs).replace(f"{backends}, onnxruntime", "")
    assert genedge_run("run", "-b", bundle, "-i", film, folder=tmp_path, code=2).stdout == ""
    assert "python -m runtime" in genedge_run("run", "--control", "x", folder=tmp_path, code=2).stderr


def test_hostile_manifests_end_as_in_python(tmp_path: Path) -> None:
    (tmp_path / "hostile").mkdir()
    for name in ("dotdot-path.json", "duplicate-key.json", "huge-integer.json", "nan.json"):
        shutil.copy(PRESENT / "invalid" / name, tmp_path / "hostile" / "manifest.json")
        same = ["verify", "hostile"]
        ours, theirs = (each(*same, folder=tmp_path, code=1) for each in (genedge_run, python_run))
        if name == "nan.json":  # the parsers have words of their own for what is no JSON
            assert complaint(ours).split("(")[0] == complaint(theirs).split("(")[0]
        else:
            assert complaint(ours) == complaint(theirs)


# --- the other verbs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_small_bundle, write_recurrent_bundle, write_conditional_bundle])
def test_verify_meets_what_python_meets(tmp_path: Path, write: Any) -> None:
    bundle = write(tmp_path / "net")
    ours, theirs = (
        each("verify", bundle, "--backend", "openvino", "--json", "-", folder=tmp_path)
        for each in (genedge_run, python_run)
    )
    assert json.loads(ours.stdout) == json.loads(theirs.stdout)
    assert "parity with PyTorch met" in ours.stderr


def test_verify_fails_with_three(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "net")
    record = json.loads((bundle / "parity.json").read_text())
    record["results"][0]["sha256"] = "0" * 64
    (bundle / "parity.json").write_text(json.dumps(record))
    done = genedge_run("verify", bundle, folder=tmp_path, code=3)
    assert "is not the file whose parity was measured at build time" in done.stderr
    (bundle / "model.fp32.onnx").write_bytes(b"damaged")
    assert "changed or damaged" in genedge_run("verify", bundle, folder=tmp_path, code=1).stderr


def test_bench_and_doctor(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "net")
    table = ["bench", bundle, "--size", "16x24", "--rounds", 3, "--json", "bench.json"]
    genedge_run(*table, folder=tmp_path)
    report = json.loads((tmp_path / "bench.json").read_text())
    assert (report["width"], report["height"]) == (24, 16)
    assert all(result["median_ms"] > 0 for result in report["results"])
    assert "openvino" in genedge_run("doctor", folder=tmp_path).stdout
