"""The runtime's command line, as a user calls it: exit codes, messages, files, signals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from bundle_factory import add_negative, upscale, upscale_model, write_manifest, write_small_bundle
from live_servers import http_server

from runtime.bundle import open_bundle
from runtime.cli import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nearest-neighbour x2 bundle."""
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "tiny-x2")


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # where the tests run in a shell's background, Ctrl-C is ignored by them and all that they start
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [Fraction(frame.pts * frame.time_base) for frame in container.decode(video=0)]


# --- what a run gives -------------------------------------------------------------------------------------------------


def test_a_run_keeps_every_frame_and_its_time(bundle: Path, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    ticks = [0, 3600, 7200, 12000, 12600, 20000]  # variable frame rate
    clip, out, report = make_clip(ticks=ticks), tmp_path / "out.mp4", tmp_path / "r.json"
    assert run(["run", "-b", str(bundle), "-i", str(clip), "-o", str(out), "--json", str(report), "--quiet"]) == 0
    assert times_of(out) == times_of(clip)
    with av.open(str(out)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 96)
    content = json.loads(report.read_text())
    assert content["outcome"] == "complete"
    assert content["frames"] == 6
    assert content["fps"] > 0
    assert content["peak_rss_bytes"] > 1 << 20
    assert set(content["latency"]) == {"read", "infer", "write", "frame"}
    assert {"p50_ms", "p95_ms", "p99_ms"} <= set(content["latency"]["infer"])
    assert content["stages"][0]["bundle"] == "tiny-x2"
    assert content["stages"][0]["reason"]


def test_a_file_played_in_real_time_tells_its_latency(
    bundle: Path, make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out, report = make_clip(), tmp_path / "out.mp4", tmp_path / "r.json"  # 10 frames, 25 a second
    arguments = ["run", "-b", str(bundle), "-i", str(clip), "-o", str(out), "--json", str(report), "--quiet"]
    assert run([*arguments, "--realtime", "--max-latency-ms", "2000"]) == 0
    content = json.loads(report.read_text())
    assert content["frames"] + content["dropped"] == 10
    assert content["seconds"] >= 9 / 25
    assert content["latency"]["capture"]["count"] == content["frames"]
    assert set(times_of(out)) <= set(times_of(clip))
    assert "from capture to output: p50 " in capsys.readouterr().err
    assert run([*arguments, "--realtime", "--max-latency-ms", "0", "--overwrite"]) == 0  # all are too old
    assert json.loads(report.read_text())["frames"] == 0
    assert "all 10 frames were older than --max-latency-ms" in capsys.readouterr().err


def test_a_stream_that_comes_back_is_in_the_report(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out.mkv", tmp_path / "r.json"
    with http_server(seconds=1) as server:  # every connection gives one second of video, then ends
        address = server.address("stream.ts")
        arguments = ["run", "-b", str(bundle), "-i", address, "-o", str(out), "--json", str(report), "--quiet"]
        assert run([*arguments, "--max-frames", "30"]) == 0
    content = json.loads(report.read_text())
    assert content["gaps"]
    assert content["gaps"][0]["reason"]
    assert content["latency"]["capture"]["count"] == content["frames"] == 30
    assert any("gap" in warning for warning in content["warnings"])
    said = capsys.readouterr().err
    assert f"{address}: 64x48 at 30 fps as h264; the newest frame wins" in said
    assert f"warning: {address} is lost (" in said
    assert f"{address} is back after " in said
    times = times_of(out)
    assert times == sorted(set(times))
    assert times[0] < Fraction(1, 10)


def test_video_from_standard_input(bundle: Path, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip, out = make_clip("clip.mkv"), tmp_path / "out.mkv"
    command = [sys.executable, "-m", "runtime", "run", "-b", bundle, "-i", "-", "-o", out, "--quiet"]
    subprocess.run(command, cwd=ROOT, input=clip.read_bytes(), check=True, stderr=subprocess.DEVNULL)
    assert times_of(out) == times_of(clip)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_pictures_are_exactly_what_the_graph_computes(bundle: Path, tmp_path: Path, backend: str) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (31, 45, 3), dtype=np.uint8)
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    cv2.imwrite(str(source), frame)
    assert run(["run", "-b", str(bundle), "-i", str(source), "-o", str(out), "--backend", backend, "--quiet"]) == 0
    np.testing.assert_array_equal(cv2.imread(str(out)), upscale(frame[None])[0])


def test_several_bundles_are_stages_in_order(bundle: Path, tmp_path: Path) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), frame)
    brighter = write_small_bundle(tmp_path / "brighter", name="brighter", models={"fp32": upscale_model(3, 10.0)})
    manifest = json.loads((brighter / "manifest.json").read_text())
    manifest["geometry"]["scale"] = 3
    (brighter / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "out.png"
    arguments = ["run", "-b", str(bundle), "-b", str(brighter), "-i", str(tmp_path / "in.png"), "-o", str(out)]
    assert run([*arguments, "--quiet"]) == 0
    expected = np.clip(upscale(frame[None], 6)[0].astype(int) + 10, 0, 255)
    np.testing.assert_array_equal(cv2.imread(str(out)), expected)


def test_the_image_that_is_asked_for_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two, source = add_negative(write_small_bundle(tmp_path / "two")), tmp_path / "in.png"
    frame = np.random.default_rng(2).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    cv2.imwrite(str(source), frame)

    def output(*options: str, bundles: int = 1) -> np.ndarray:
        out, report = tmp_path / "out.png", tmp_path / "r.json"
        arguments = ["run", *["-b", str(two)] * bundles, "-i", str(source), "-o", str(out), "--json", str(report)]
        assert run([*arguments, "--overwrite", "--quiet", *options]) == 0
        names.append([stage["image"] for stage in json.loads(report.read_text())["stages"]])
        return cv2.imread(str(out))

    names: list[list[str]] = []
    once, twice = upscale(frame[None])[0], upscale(frame[None], 4)[0]
    np.testing.assert_array_equal(output(), once)
    np.testing.assert_array_equal(output("--image", "negative"), 255 - once)
    np.testing.assert_array_equal(output("--image", "image"), once)
    np.testing.assert_array_equal(output("--image", "negative", bundles=2), 255 - twice)  # of the last stage
    np.testing.assert_array_equal(output("--image", "1:negative", bundles=2), 255 - twice)
    np.testing.assert_array_equal(output("--image", "1:negative", "--image", "negative", bundles=2), twice)
    assert names[3:] == [["image", "negative"], ["negative", "image"], ["negative", "negative"]]

    for wish, words in (
        (["mask"], "two gives no image 'mask': choose among image, negative"),
        (["2:negative"], "--image 2:negative: the stage before the colon is a number from 1 to 1"),
        (["0:negative"], "a number from 1 to 1"),
        (["x:negative"], "a number from 1 to 1"),
        (["9" * 5000 + ":negative"], "99: the stage before the colon is a number from 1 to 1"),
        ([":negative"], "a number from 1 to 1"),
        (["image", "--image", "1:negative"], "stage 1 has its image already"),
    ):
        message = fails(capsys, 2, "run", "-b", two, "-i", source, "-o", tmp_path / "no.png", "--image", *wish)
        assert words.replace("two gives", "tiny-x2 gives") in message
    assert not (tmp_path / "no.png").exists()


def test_a_bundle_of_one_size_takes_other_frames_as_its_manifest_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, source, out = write_small_bundle(tmp_path / "one"), tmp_path / "in.png", tmp_path / "out.png"
    frame = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    cv2.imwrite(str(source), frame)
    manifest = open_bundle(folder).manifest
    arguments = ["run", "-b", folder, "-i", source, "-o", out]

    def of_one_size(**changes: object) -> None:
        changed = replace(manifest.geometry, fixed_size=(8, 12), **changes)
        write_manifest(folder, replace(manifest, geometry=changed))

    of_one_size(tileable=False)
    message = fails(capsys, 2, *arguments)
    assert "takes frames of 12x8 only and cannot be tiled, but the input is 30x20: resize the input" in message
    of_one_size()  # tileable
    assert run([*map(str, arguments), "--quiet"]) == 0
    np.testing.assert_array_equal(cv2.imread(str(out)), upscale(frame[None])[0])
    of_one_size(tileable=False, fit="resize")
    assert run([*map(str, arguments), "--quiet", "--overwrite"]) == 0
    small = cv2.resize(frame, (12, 8), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(upscale(small[None])[0], (60, 40), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(cv2.imread(str(out)), expected)
    report = tmp_path / "bench.json"
    assert run(["bench", str(folder), "--rounds", "1", "--backend", "openvino", "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    assert (content["height"], content["width"]) == (8, 12)  # its own size, not one that it is resized from
    assert run(["verify", str(folder)]) == 0


def test_tiles_give_the_same_pictures(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3):
        frame = np.random.default_rng(index).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), frame)
    for name, tile in (("whole", "0"), ("tiled", "16")):
        out = str(tmp_path / f"{name}_%02d.png")
        arguments = ["run", "-b", str(bundle), "-i", str(tmp_path / "in"), "-o", out, "--tile", tile, "--quiet"]
        assert run(arguments) == 0
    for index in range(3):
        whole, tiled = (cv2.imread(str(tmp_path / f"{name}_{index:02d}.png")) for name in ("whole", "tiled"))
        np.testing.assert_array_equal(whole, tiled)


def test_sound_is_copied(bundle: Path, assets: Callable[[str], Path], tmp_path: Path) -> None:
    clip, out = assets("video/short_hamilton_clip.mp4"), tmp_path / "out.mp4"
    arguments = ["run", "-b", str(bundle), "-i", str(clip), "-o", str(out), "--max-frames", "12", "--quiet"]
    assert run(arguments) == 0
    with av.open(str(clip)) as before, av.open(str(out)) as after:
        assert after.streams.audio[0].codec_context.name == before.streams.audio[0].codec_context.name
    assert run([*arguments, "--overwrite", "--no-audio"]) == 0
    with av.open(str(out)) as after:
        assert not after.streams.audio


def test_null_output_counts_only(bundle: Path, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    before = set(tmp_path.iterdir()) | {make_clip()}
    report = tmp_path / "r.json"
    arguments = ["run", "-b", str(bundle), "-i", str(tmp_path / "clip.mp4"), "-o", "null://", "--json", str(report)]
    assert run([*arguments, "--quiet"]) == 0
    assert json.loads(report.read_text())["frames"] == 10
    assert set(tmp_path.iterdir()) == before | {report}


# --- bad input --------------------------------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str | Path) -> str:
    """Run, expect ``code``, and return the one sentence on stderr."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in errors[0]
    return errors[0]


def test_an_existing_output_is_left_alone(
    bundle: Path, make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = make_clip(), tmp_path / "out.mp4"
    out.write_bytes(b"precious")
    message = fails(capsys, 2, "run", "-b", bundle, "-i", clip, "-o", out)
    assert "--overwrite" in message
    assert out.read_bytes() == b"precious"
    assert run(["run", "-b", str(bundle), "-i", str(clip), "-o", str(out), "--overwrite", "--quiet"]) == 0
    assert len(times_of(out)) == 10


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.mp4", None, "does not exist"),
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"this is no video at all\n" * 50, "cannot be opened as video"),
        ("noise.mkv", bytes(range(256)) * 40, "cannot be opened as video"),
    ],
)
def test_unreadable_videos(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    words: str,
) -> None:
    clip, out = tmp_path / name, tmp_path / "out.mp4"
    if content is not None:
        clip.write_bytes(content)
    assert words in fails(capsys, 1, "run", "-b", bundle, "-i", clip, "-o", out)
    assert not out.exists()


def test_a_video_without_frames(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, out = tmp_path / "none.mp4", tmp_path / "out.mp4"
    with av.open(str(clip), "w") as container:
        container.add_stream("libx264", rate=25)
        container.start_encoding()
    assert "has no video track" in fails(capsys, 1, "run", "-b", bundle, "-i", clip, "-o", out)
    assert not out.exists()


def test_sound_alone_is_no_video(
    bundle: Path, assets: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, out = tmp_path / "sound.mp4", tmp_path / "out.mp4"
    with av.open(str(assets("video/short_hamilton_clip.mp4"))) as clip, av.open(str(sound), "w") as container:
        stream = container.add_stream_from_template(clip.streams.audio[0])
        for packet in clip.demux(clip.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    message = fails(capsys, 1, "run", "-b", bundle, "-i", sound, "-o", out)
    assert "has no video track, only audio" in message
    assert not out.exists()


def test_a_truncated_video_keeps_what_was_decoded(
    bundle: Path, make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip("whole.mkv", ticks=[i * 40 for i in range(100)], time_base=Fraction(1, 1000))
    cut, out, report = tmp_path / "cut.mkv", tmp_path / "out.mp4", tmp_path / "r.json"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    message = fails(capsys, 1, "run", "-b", bundle, "-i", cut, "-o", out, "--json", report, "--quiet")
    place = re.search(r"frame (\d+)", message)
    assert place is not None, message
    kept = len(times_of(out))
    assert kept == int(place[1])
    assert 10 < kept < 100
    content = json.loads(report.read_text())
    assert content["outcome"] == "failed"
    assert content["frames"] == kept
    assert content["error"] in message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the path is Linux's")
def test_no_camera(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, 1, "run", "-b", bundle, "-i", "/dev/video97", "-o", "null://")
    assert "no camera at /dev/video97" in message


def test_bundles_that_cannot_be_used(
    make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, out = make_clip(), tmp_path / "out.mp4"
    arguments = ("-i", clip, "-o", out)
    assert "no bundle nowhere" in fails(capsys, 1, "run", "-b", "nowhere", *arguments)
    broken = write_small_bundle(tmp_path / "broken")
    with (broken / "model.fp32.onnx").open("ab") as model:
        model.write(b"\0")
    assert "sha256" in fails(capsys, 1, "run", "-b", broken, *arguments)
    manifest = json.loads((broken / "manifest.json").read_text())
    for change, words in (
        ({"format": 2}, "newer than format 1"),
        ({"artifacts": {"fp32": {**manifest["artifacts"]["fp32"], "file": "/etc/passwd"}}}, "not a plain path"),
        ({"artifacts": {"fp32": {**manifest["artifacts"]["fp32"], "file": "../x.onnx"}}}, "not a plain path"),
    ):
        (broken / "manifest.json").write_text(json.dumps({**manifest, **change}))
        assert words in fails(capsys, 1, "run", "-b", broken, *arguments)
    assert not out.exists()


def test_values_that_cannot_be_right(
    bundle: Path, make_clip: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip()
    base = ("run", "-b", bundle, "-i", clip)
    out = tmp_path / "out.mp4"
    assert "unknown backend" in fails(capsys, 2, *base, "-o", out, "--backend", "magic")
    assert "unknown precision" in fails(capsys, 2, *base, "-o", out, "--precision", "fp4")
    assert "no int8" in fails(capsys, 1, *base, "-o", out, "--precision", "int8")
    assert "too small" in fails(capsys, 2, *base, "-o", out, "--tile", "2")
    assert "unknown preset" in fails(capsys, 2, *base, "-o", out, "--preset", "warp")
    assert "cannot tell" in fails(capsys, 2, *base, "-o", tmp_path / "out.xyz")
    assert "does not exist" in fails(capsys, 2, *base, "-o", tmp_path / "no" / "out.mp4")
    assert "is the input itself" in fails(capsys, 2, *base, "-o", clip, "--overwrite")
    assert not out.exists()
    assert len(times_of(clip)) == 10
    for wrong in (["--tile", "-1"], ["--input-rate", "0"], ["--threads", "x"]):
        with pytest.raises(SystemExit) as stopped:
            run([*map(str, base), "-o", str(out), *wrong])
        assert stopped.value.code == 2


@contextlib.contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[None]:
    """A file system of that size, mounted on ``folder``; skips where this user may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(bundle: Path, assets: Callable[[str], Path], tmp_path: Path) -> None:
    clip, folder = assets("video/short_hamilton_clip.mp4"), tmp_path / "disk"
    with small_disk(folder, 400):
        process = start("run", "-b", bundle, "-i", clip, "-o", folder / "out.mp4", "--quiet")
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 1
        assert "disk full" in errors
        assert "Traceback" not in errors
        assert "can be played" in errors
        assert [path.name for path in folder.iterdir()] == ["out.mp4"]
        assert len(times_of(folder / "out.mp4")) > 10


# --- signals and terminals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_playable_file(
    bundle: Path, assets: Callable[[str], Path], tmp_path: Path, number: signal.Signals
) -> None:
    clip, out, report = assets("video/short_hamilton_clip.mp4"), tmp_path / "out.mp4", tmp_path / "r.json"
    process = start("run", "-b", bundle, "-i", clip, "-o", out, "--json", report, "--quiet")
    part = tmp_path / ".out.part.mp4"
    try:
        deadline = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > 20_000):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert 0 < len(times_of(out)) < 275
    assert not part.exists()
    assert json.loads(report.read_text())["outcome"] == "interrupted"


def test_the_progress_line_on_a_terminal(bundle: Path, make_clip: Callable[..., Path]) -> None:
    clip = make_clip(ticks=[i * 3600 for i in range(200)], size=(320, 240))
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "runtime", "run", "-b", str(bundle), "-i", str(clip), "-o", "null://"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=follower, stdout=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    assert "\r" in text.replace("\r\n", "")
    assert re.search(r"\d+/200 frames  [\d.]+ fps  ETA \d+:\d\d", text), text
    assert re.search(r"200/200 frames  in \d+:\d\d  [\d.]+ fps", text), text


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A virtual screen of its own."""
    if shutil.which("Xvfb") is None or shutil.which("xdotool") is None:
        pytest.skip("Xvfb and xdotool are not installed")
    reading, writing = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as number:
            name = f":{number.readline().strip()}"
        monkeypatch.setenv("DISPLAY", name)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        yield name
    finally:
        screen.terminate()
        screen.wait(timeout=10)


def test_a_window_that_q_closes(bundle: Path, display: str, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip, report = make_clip(ticks=[i * 3600 for i in range(2000)]), tmp_path / "r.json"  # 80 seconds
    process = start("run", "-b", bundle, "-i", clip, "-o", "display://", "--json", report, "--quiet")
    try:
        search = ["xdotool", "search", "--sync", "--onlyvisible", "--name", "genedge"]
        window = subprocess.run(search, capture_output=True, text=True, timeout=60, check=True).stdout.split()[0]
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            subprocess.run(["xdotool", "windowfocus", window, "key", "q"], capture_output=True, check=False)
            time.sleep(0.2)
        errors = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "QFontDatabase" not in errors
    assert 0 < json.loads(report.read_text())["frames"] < 2000


# --- the other verbs --------------------------------------------------------------------------------------------------


def test_verify_passes_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_small_bundle(tmp_path / "b")
    report = tmp_path / "v.json"
    assert run(["verify", str(bundle), "--json", str(report)]) == 0
    assert "parity with PyTorch met" in capsys.readouterr().out
    results = json.loads(report.read_text())["results"]
    assert {result["backend"] for result in results} == {"openvino", "onnxruntime"}
    assert all(result["passed"] for result in results)
    # another model under a right digest: nobody has measured it
    write_small_bundle(tmp_path / "other", models={"fp32": upscale_model(2, 0.001)})
    for name in ("model.fp32.onnx", "manifest.json"):
        (bundle / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert run(["verify", str(bundle)]) == 3
    captured = capsys.readouterr()
    assert "NOT MET" in captured.out
    assert "not the file whose parity was measured" in captured.err


def test_bench_times_every_variant(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "b.json"
    assert run(["bench", str(bundle), "--size", "48x64", "--rounds", "3", "--json", str(report)]) == 0
    content = json.loads(report.read_text())
    assert (content["height"], content["width"]) == (48, 64)
    assert all(result["median_ms"] > 0 for result in content["results"])
    assert "time/best" in capsys.readouterr().out


def test_bench_tells_its_progress_and_ends_early_with_slow_nets(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("runtime.bench.ENOUGH", 0.0)
    assert run(["bench", str(bundle), "--size", "16x16"]) == 0
    captured = capsys.readouterr()
    assert "16x16, 3 rounds in turn" in captured.out
    assert "warming up fp32 on " in captured.err
    assert "round 1 of 20" in captured.err
    assert run(["bench", str(bundle), "--size", "16x16", "--rounds", "4"]) == 0  # as many as somebody asks for
    assert "16x16, 4 rounds in turn" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["verify", "bench", "doctor"])
def test_json_on_standard_output_stands_alone(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = [str(write_small_bundle(tmp_path / "b"))] if verb != "doctor" else []
    rounds = ["--rounds", "1", "--size", "16x16"] if verb == "bench" else []
    assert run([verb, *place, *rounds, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)
    assert captured.err


def test_doctor_names_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "d.json"
    assert run(["doctor", "--json", str(report)]) == 0
    text = capsys.readouterr().out
    for name in ("Python", "numpy", "openvino", "onnxruntime", "tensorrt", "libx264"):
        assert name in text
    assert all(finding["good"] or finding["optional"] for finding in json.loads(report.read_text()))


def test_doctor_names_the_repair(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.util

    found = importlib.util.find_spec
    hidden = {"openvino", "onnxruntime", "tensorrt"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else found(name, *rest))
    for module in ("runtime.doctor", "runtime.doctor_nvidia"):
        monkeypatch.setattr(f"{module}.installed_version", lambda name: "")
    assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "no inference engine at all" in text
    assert 'pip install "genedge[cpu]"' in text


def test_help_is_fast_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, runtime.cli\n"
        "try: runtime.cli.run(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'cv2', 'av', 'numpy', 'openvino', 'onnxruntime', 'torch', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "run a video" in done.stdout
