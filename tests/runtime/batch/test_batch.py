"""``python -m runtime batch`` as a user calls it, with real workers and a tiny bundle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from bundle_factory import write_conditional_bundle, write_recurrent_bundle, write_small_bundle

from runtime.cli import run

ROOT = Path(__file__).resolve().parents[3]
MakeClip = Callable[..., Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nearest-neighbour x2 bundle."""
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "tiny-x2")


def batch(bundle: Path, *arguments: str | Path) -> int:
    return run(["batch", "-b", str(bundle), "--quiet", "--backend", "onnxruntime", *map(str, arguments)])


def start(bundle: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime", "batch", "-b", bundle, "--backend", "onnxruntime", *arguments]
    return subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(true: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """Workers of a batch: its spawned processes, without Python's tracker of resources."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def frames_of(path: Path) -> list[tuple[Fraction, bytes]]:
    """(time, pixels) of every frame."""
    with av.open(str(path)) as container:
        return [(frame.pts * frame.time_base, frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]


@pytest.fixture
def clips(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Two clips, one of them in a sub-folder, and a picture."""
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    make_clip("a.mp4").rename(folder / "a.mp4")
    make_clip("b.mkv", ticks=[0, 40, 80, 200, 210], time_base=Fraction(1, 1000)).rename(folder / "sub" / "b.mkv")
    cv2.imwrite(str(folder / "sub" / "c.png"), np.full((10, 12, 3), 99, np.uint8))
    return folder


def test_a_folder_becomes_what_run_makes_of_each_file(
    bundle: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "r.json"
    assert batch(bundle, clips, "-o", out, "--jobs", "2", "--json", report) == 0
    assert f"{out}: 3 files done; 16 frames" in capsys.readouterr().err
    for place in ("a.mp4", "sub/b.mkv", "sub/c.png"):
        alone = tmp_path / Path(place).name
        single = ["run", "-b", str(bundle), "-i", str(clips / place), "-o", str(alone), "--quiet", "--overwrite"]
        assert run([*single, "--backend", "onnxruntime"]) == 0
        if place.endswith("png"):
            assert (out / place).read_bytes() == alone.read_bytes()
        else:
            assert frames_of(out / place) == frames_of(alone)
    content = json.loads(report.read_text())
    assert (content["outcome"], content["jobs"], content["ray"]) == ("complete", 2, None)
    assert content["stages"][0]["backend"] == "onnxruntime"
    assert [Path(file["output"]).name for file in content["files"]] == ["a.mp4", "b.mkv", "c.png"]
    assert [file["frames"] for file in content["files"]] == [10, 5, 1]
    assert all(file["seconds"] > 0 and file["retries"] == 0 and file["error"] is None for file in content["files"])
    assert {name: content["totals"][name] for name in ("files", "complete", "skipped", "failed", "left", "frames")} == {
        "files": 3, "complete": 3, "skipped": 0, "failed": 0, "left": 0, "frames": 16,
    }  # fmt: skip


def test_the_number_of_workers_changes_nothing(bundle: Path, clips: Path, tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        assert batch(bundle, clips, "-o", tmp_path / jobs, "--jobs", jobs) == 0
    one, two = tmp_path / "1", tmp_path / "2"
    for place in ("a.mp4", "sub/c.png"):
        assert (one / place).read_bytes() == (two / place).read_bytes()
    assert frames_of(one / "sub/b.mkv") == frames_of(two / "sub/b.mkv")  # Matroska files have a number of their own


def test_a_broken_file_is_told_and_the_others_are_done(
    bundle: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clips / "bad.mp4").write_bytes(b"no video" * 100)
    (clips / "empty.png").touch()
    out, report = tmp_path / "out", tmp_path / "r.json"
    assert batch(bundle, clips, "-o", out, "--json", report) == 1
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if line.startswith("error: ") and "bad.mp4" in line]) == 1
    assert f"{out}: 3 files done, 2 failed" in said
    content = json.loads(report.read_text())
    assert content["outcome"] == "failed"
    errors = {Path(file["input"]).name: file["error"] for file in content["files"]}
    assert "bad.mp4 cannot be opened as video" in errors["bad.mp4"]
    assert "empty.png cannot be read as a picture" in errors["empty.png"]
    assert not (out / "bad.mp4").exists()
    assert content["totals"]["retries"] == 0  # what is broken stays broken


def test_a_video_that_breaks_off_is_a_failure_that_is_tried_again(
    bundle: Path, clips: Path, tmp_path: Path, make_clip: MakeClip, capsys: pytest.CaptureFixture[str]
) -> None:
    long = make_clip("long.mkv", ticks=[40 * i for i in range(60)], time_base=Fraction(1, 1000))
    (clips / "cut.mkv").write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    out = tmp_path / "out"
    assert batch(bundle, clips / "cut.mkv", "-o", out) == 1
    assert "cut.mkv" in capsys.readouterr().err
    assert batch(bundle, clips / "cut.mkv", "-o", out) == 1  # not refused: it is what this job has left
    shutil.copy(long, clips / "cut.mkv")
    assert batch(bundle, clips / "cut.mkv", "-o", out, "--overwrite") == 0
    assert len(frames_of(out / "cut.mkv")) == 60


def test_what_is_done_is_not_done_again(
    bundle: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_clip: MakeClip
) -> None:
    out, report = tmp_path / "out", tmp_path / "r.json"
    assert batch(bundle, clips, "-o", out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("?.*")}
    make_clip("new.mp4", ticks=[0, 3600]).rename(clips / "new.mp4")
    assert batch(bundle, clips, "-o", out, "--json", report) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads(report.read_text())["totals"]["skipped"] == 3
    assert f"{out}: 1 file done, 3 were done before; 2 frames" in capsys.readouterr().err


def test_outputs_of_other_jobs_are_kept_unless_they_shall_be_overwritten(
    bundle: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "c.png").write_bytes(b"mine")
    assert batch(bundle, clips, "-o", out) == 1
    assert f"error: {out / 'sub/c.png'} exists: add --overwrite to replace it" in capsys.readouterr().err
    assert (out / "sub" / "c.png").read_bytes() == b"mine"
    assert batch(bundle, clips, "-o", out, "--crf", "30") == 1  # the two videos are of another job now
    said = capsys.readouterr().err
    assert said.count("was made from another input, or with other bundles or options: add --overwrite") == 2
    assert batch(bundle, clips, "-o", out, "--crf", "30", "--overwrite") == 0
    assert cv2.imread(str(out / "sub" / "c.png")).shape == (20, 24, 3)


def test_the_output_folder_may_be_inside_the_input(bundle: Path, clips: Path) -> None:
    for _ in range(2):
        assert batch(bundle, clips, "-o", clips / "out") == 0
    assert sorted(path.name for path in (clips / "out").rglob("?.*")) == ["a.mp4", "b.mkv", "c.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-o", "out"], "nowhere does not exist"),
        (["clips", "-o", "clips"], "clips is the output folder too"),
        (["clips", "-o", "clips/a.mp4"], "clips/a.mp4 is a file: give an output folder"),
        (["clips", "-o", "out", "--jobs", "0"], "--jobs must be at least 1"),
        (["clips", "-o", "out", "--code", "style=1"], "tiny-x2 takes no code"),
        (["clips", "-o", "out", "--preset", "quick"], "unknown preset quick"),
        (["clips", "-o", "out", "--crf", "99"], "crf 99 is not between 0 and 51"),
    ],
)
def test_wrong_usage_is_told_at_once(
    bundle: Path,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(clips.parent)
    assert batch(bundle, *arguments) == 2
    assert message in capsys.readouterr().err


def test_codes_reach_the_workers_and_are_part_of_the_job(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle, out = write_conditional_bundle(tmp_path / "tiny-codes"), tmp_path / "out"
    Path("secret.txt").write_text("correct horse battery staple")
    picture = clips / "sub" / "c.png"
    codes = ["--code", "style=c", "--passcode-file", "secret.txt"]
    assert batch(bundle, picture, "-o", out, *codes) == 0
    single = ["run", "-b", str(bundle), "-i", str(picture), "-o", "alone.png", "--backend", "onnxruntime", *codes]
    assert run(single) == 0
    assert (out / "c.png").read_bytes() == Path("alone.png").read_bytes()
    assert batch(bundle, picture, "-o", out, *codes) == 0  # done before
    assert batch(bundle, picture, "-o", out, "--code", "style=a", *codes[2:]) == 1
    assert "was made from another input, or with other bundles or options" in capsys.readouterr().err
    assert "horse" not in (out / ".batch.jsonl").read_text()


# --- killed and interrupted -------------------------------------------------------------------------------------------


@pytest.fixture
def long_clips(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Four clips of 80 frames: some tenths of a second of work each."""
    folder = tmp_path / "long"
    folder.mkdir()
    clip = make_clip("clip.mp4", ticks=[3600 * i for i in range(80)], size=(96, 72))
    for name in "abcd":
        shutil.copy(clip, folder / f"{name}.mp4")
    clip.unlink()
    return folder


def parts(out: Path) -> list[Path]:
    return list(out.rglob(".*.part*"))


def test_a_worker_that_is_killed_costs_nothing(bundle: Path, long_clips: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "r.json"
    process = start(bundle, long_clips, "-o", out, "--jobs", "2", "--json", report)
    wait_for(lambda: parts(out), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    files = json.loads(report.read_text())["files"]
    assert sum(file["retries"] for file in files) == 1
    assert {file["outcome"] for file in files} == {"complete"}
    assert all(frames_of(out / f"{name}.mp4") == frames_of(out / "a.mp4") for name in "bcd")
    assert len(frames_of(out / "a.mp4")) == 80


def test_ctrl_c_finishes_what_is_under_way_and_the_same_command_goes_on(
    bundle: Path, long_clips: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out", tmp_path / "r.json"
    process = start(bundle, long_clips, "-o", out, "--json", report)
    wait_for(lambda: parts(out), process)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "interrupted: the same command goes on with the rest" in said
    totals = json.loads(report.read_text())["totals"]
    assert totals["complete"] + totals["left"] == 4
    assert totals["left"] >= 2
    assert not parts(out)
    assert batch(bundle, long_clips, "-o", out, "--json", report) == 0
    again = json.loads(report.read_text())["totals"]
    assert (again["skipped"], again["complete"]) == (totals["complete"], totals["left"])
    assert [len(frames_of(out / f"{name}.mp4")) for name in "abcd"] == [80] * 4


def test_nothing_is_lost_when_the_batch_is_killed(bundle: Path, long_clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(bundle, long_clips, "-o", out, "--jobs", "2")
    wait_for(lambda: parts(out), process)
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    limit = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert batch(bundle, long_clips, "-o", out) == 0
    assert [len(frames_of(out / f"{name}.mp4")) for name in "abcd"] == [80] * 4


def test_progress_and_workers_that_keep_dying_are_told(bundle: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(bundle, clips / "a.mp4", "-o", out, "--retries", "1")
    seen: set[int] = set()
    while process.poll() is None:
        for pid in children(process.pid):
            if pid not in seen:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.returncode == 1
    assert re.search(r"error: .*a\.mp4: its worker process was ended by SIGKILL.* \(2 times\)", said)


# --- one long file ----------------------------------------------------------------------------------------------------


@pytest.fixture
def talking(tmp_path: Path) -> Path:
    """A clip of 300 frames at irregular times, with B-frames and sound that begins before the video."""
    path = tmp_path / "talking" / "clip.mp4"
    path.parent.mkdir()
    steps = np.random.default_rng(3).integers(800, 2400, 300)
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=50)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 90_000)
        video.options = {"crf": "20", "preset": "veryfast", "g": "60"}
        sound: Any = out.add_stream("aac", rate=16_000)
        samples = 0
        for index, tick in enumerate(np.cumsum(steps)):
            image = np.full((48, 64, 3), index % 200, np.uint8)
            image[:, index % 60 : index % 60 + 4] = 255
            picture = av.VideoFrame.from_ndarray(image, format="bgr24")
            picture.pts, picture.time_base = int(tick), Fraction(1, 90_000)
            out.mux(video.encode(picture))
            while samples / 16_000 < tick / 90_000:
                tone = np.sin(np.arange(samples, samples + 1024) / 7).astype(np.float32)[None]
                piece = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 16_000, samples, Fraction(1, 16_000)
                out.mux(sound.encode(piece))
                samples += 1024
        out.mux(video.encode(None))
        out.mux(sound.encode(None))
    return path


def packets_of(path: Path, kind: str) -> list[tuple[Any, ...]]:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(p.pts, p.dts, p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def pieces(out: Path) -> list[Path]:
    return sorted(out.rglob("*.json"))


def test_a_file_made_in_pieces_is_that_of_one_run(bundle: Path, talking: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    for jobs, out in (("1", tmp_path / "one"), ("2", tmp_path / "two")):
        assert batch(bundle, talking, "-o", out, "--jobs", jobs, "--json", report, "--segment", "100") == 0
        (file,) = json.loads(report.read_text())["files"]
        assert (file["frames"], file["pieces"]) == (300, 3)
    whole = tmp_path / "whole.mp4"
    arguments = ["run", "-b", str(bundle), "-i", str(talking), "-o", str(whole), "--quiet"]
    assert run([*arguments, "--backend", "onnxruntime", "--segment", "100"]) == 0
    expected = frames_of(whole)
    assert [time for time, _ in expected] == [time for time, _ in frames_of(talking)]
    for out in (tmp_path / "one", tmp_path / "two"):
        assert frames_of(out / "clip.mp4") == expected
        assert packets_of(out / "clip.mp4", "video") == packets_of(whole, "video")
        assert packets_of(out / "clip.mp4", "audio") == packets_of(whole, "audio")
        assert sorted(path.name for path in out.iterdir()) == [".batch.jsonl", "clip.mp4"]
    assert [packet[-1] for packet in packets_of(whole, "audio")] == [
        packet[-1] for packet in packets_of(talking, "audio")
    ]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_pieces_that_are_finished_are_not_made_again(
    bundle: Path, talking: Path, tmp_path: Path, how: signal.Signals
) -> None:
    out, report = tmp_path / "out", tmp_path / "r.json"
    process = start(bundle, talking, "-o", out, "--segment", "50")
    wait_for(lambda: pieces(out), process)
    process.send_signal(how)
    process.communicate()
    kept = {path: path.read_bytes() for path in pieces(out)}
    assert kept
    assert not (out / "clip.mp4").exists()
    again = start(bundle, talking, "-o", out, "--json", report, "--segment", "50")
    while again.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # they are joined by now
            assert all(path.read_bytes() == content for path, content in kept.items())
        time.sleep(0.005)
    assert again.communicate()[0] is None
    assert again.returncode == 0
    arguments = ["run", "-b", str(bundle), "-i", str(talking), "-o", str(tmp_path / "whole.mp4"), "--quiet"]
    assert run([*arguments, "--backend", "onnxruntime", "--segment", "50"]) == 0
    assert frames_of(out / "clip.mp4") == frames_of(tmp_path / "whole.mp4")
    (file,) = json.loads(report.read_text())["files"]
    assert (file["frames"], file["outcome"]) == (300, "complete")


def test_a_long_video_that_breaks_off_leaves_what_run_leaves(bundle: Path, talking: Path, tmp_path: Path) -> None:
    clip, alone, out = tmp_path / "cut.mkv", tmp_path / "alone.mkv", tmp_path / "out"
    with av.open(str(talking)) as source, av.open(str(clip), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * 0.8)])
    options = ["-b", str(bundle), "--backend", "onnxruntime", "--quiet", "--segment", "50"]
    assert run(["run", "-i", str(clip), "-o", str(alone), *options]) == 1
    assert batch(bundle, clip, "-o", out, "--segment", "50") == 1
    assert [time for time, _ in frames_of(out / "cut.mkv")] == [time for time, _ in frames_of(alone)]
    assert len(frames_of(out / "cut.mkv")) > 60
    assert not pieces(out)


def test_a_recurrent_bundle_makes_a_file_in_one_go(
    talking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, report = write_recurrent_bundle(tmp_path / "tiny-rrn"), tmp_path / "r.json"
    assert batch(bundle, talking, "-o", tmp_path / "out", "--jobs", "2", "--segment", "50", "--json", report) == 0
    assert "tiny-rrn computes each frame from those before: a file is made by one worker" in capsys.readouterr().err
    (file,) = json.loads(report.read_text())["files"]
    assert (file["frames"], file["pieces"]) == (300, 1)
