"""Runs that are killed: what is left can be played, and --resume gives the file of a run that went through."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from bundle_factory import write_conditional_bundle, write_recurrent_bundle, write_small_bundle

from runtime.cli import run
from runtime.cuts import Beginnings
from runtime.video.segments import SegmentSink
from runtime.video.source import VideoFrame

ROOT = Path(__file__).resolve().parents[2]
SEGMENT = 20
FRAMES = 4 * SEGMENT + 7


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "small": write_small_bundle(folder / "small"),
        "recurrent": write_recurrent_bundle(folder / "recurrent"),
        "conditional": write_conditional_bundle(folder / "conditional"),
    }


def draw(index: int, width: int, height: int) -> np.ndarray:
    """Two shots of a moving bar, with the cut at frame 50."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(40, 160, width, dtype=np.uint8)[None, :, None]
    if index >= 50:
        image[:] = np.linspace(220, 0, height, dtype=np.uint8)[:, None, None]
        image[:, : width // 2] //= 3
    left = index * 3 % width
    image[:, left : left + 4] = 230
    return image


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    """87 frames at uneven times, with B-frames."""
    ticks = [500 + int(t) for t in np.cumsum(np.random.default_rng(5).integers(1500, 5000, FRAMES))]
    return make_clip(ticks=ticks, draw=draw, options={"g": "12", "bf": "2", "crf": "4", "preset": "veryfast"})


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Times and bytes of all packets by the kind of track."""
    with av.open(str(path)) as container:
        found: dict[str, list[tuple[Any, ...]]] = {stream.type: [] for stream in container.streams}
        for packet in container.demux():
            if packet.size:
                found[packet.stream.type].append((packet.pts, packet.dts, packet.time_base, bytes(packet)))
        return found


def played(path: Path) -> int:
    """Frames of a file that is played to its end; 0: there is nothing of it yet."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    with path.open("rb") as file:
        if not any(file.read(8)):
            return 0  # its first piece is not whole
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Iterator[Path]]:
    """Run a command and give a copy of its folder as a kill would leave it after each of some frames."""

    def take(arguments: list[str], folder: Path, moments: list[int]) -> Iterator[Path]:
        copies: list[Path] = []
        write = SegmentSink.write

        def watched(sink: SegmentSink, frame: VideoFrame) -> None:
            write(sink, frame)
            if frame.index in moments:
                copy = tmp_path / f"killed-{frame.index}"
                shutil.copytree(folder, copy)
                copies.append(copy)

        with monkeypatch.context() as patch:
            patch.setattr(SegmentSink, "write", watched)
            assert run(arguments) == 0
        assert len(copies) == len(moments)
        yield from copies
        for copy in copies:
            shutil.rmtree(copy)

    return take


def command(bundle: Path, clip: Path, out: Path, *more: str | int) -> list[str]:
    settings = ["--segment", str(SEGMENT), "--quiet", "--backend", "onnxruntime", "--precision", "fp32"]
    return ["run", "-b", str(bundle), "-i", str(clip), "-o", str(out), *settings, *map(str, more)]


@pytest.fixture
def killed(
    bundles: dict[str, Path], clip: Path, tmp_path: Path, snapshots: Callable[..., Iterator[Path]]
) -> Iterator[Path]:
    """The folder of a killed run of the small bundle, and in ``whole`` beside it one that went through."""
    folder = tmp_path / "whole"
    folder.mkdir()
    yield from snapshots(command(bundles["small"], clip, folder / "out.mp4"), folder, [FRAMES - 2])


# --- continued after a kill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "more"),
    [
        ("small", "out.mp4", ()),
        ("small", "out.mkv", ("--codec", "hevc", "--preset", "ultrafast")),
        ("small", "out.mov", ("--fragmented",)),
        ("small", "out.webm", ()),
        ("recurrent", "out.mp4", ()),
        ("recurrent", "out.mkv", ("--no-cut-reset",)),
    ],
)
def test_continued_is_the_same(
    kind: str,
    name: str,
    more: tuple[str, ...],
    bundles: dict[str, Path],
    clip: Path,
    tmp_path: Path,
    snapshots: Callable[..., Iterator[Path]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    moments = sorted(random.Random(f"{kind}{name}").sample(range(3, FRAMES), 4))
    for killed in snapshots(command(bundles[kind], clip, folder / name, *more), folder, moments):
        frame = int(killed.name.removeprefix("killed-"))
        part = killed / f".out.part{Path(name).suffix}"
        assert played(part) <= frame + 1
        capsys.readouterr()
        report = killed / "r.json"
        assert run(command(bundles[kind], clip, killed / name, *more, "--resume", "--json", report)) == 0
        kept = json.loads(report.read_text())["kept"]
        assert kept % SEGMENT == 0
        assert frame - kept <= 2 * SEGMENT + 10  # what was in the encoder when it was killed, and its segment
        assert (f"{kept} frames are there and are kept" in capsys.readouterr().err) == (kept > 0)
        assert content(killed / name) == content(folder / name)
        assert leftovers(killed) == []
    assert leftovers(folder) == []


def test_only_what_is_missing_is_computed(
    bundles: dict[str, Path],
    clip: Path,
    tmp_path: Path,
    snapshots: Callable[..., Iterator[Path]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One frame more than that without a state; from the last cut on with one."""
    for kind, again in (("small", FRAMES - 3 * SEGMENT + 1), ("recurrent", FRAMES - 50)):
        folder, report = tmp_path / kind, tmp_path / f"{kind}.json"
        folder.mkdir()
        for killed in snapshots(command(bundles[kind], clip, folder / "out.mp4"), folder, [FRAMES - 1]):
            assert run(command(bundles[kind], clip, killed / "out.mp4", "--resume", "--json", report)) == 0
            told = json.loads(report.read_text())
            assert (told["kept"], told["frames"]) in (
                (3 * SEGMENT, again),
                (4 * SEGMENT, again - (SEGMENT if kind == "small" else 0)),
            )
    assert "since the last cut are computed again" in capsys.readouterr().err


def test_sound_is_that_of_one_run(
    bundles: dict[str, Path], assets: Callable[[str], Path], tmp_path: Path, snapshots: Callable[..., Iterator[Path]]
) -> None:
    source, folder = assets("video/short_hamilton_clip.mp4"), tmp_path / "whole"
    folder.mkdir()
    options = ("--max-frames", 60, "--preset", "ultrafast")
    for killed in snapshots(command(bundles["small"], source, folder / "out.mp4", *options), folder, [55]):
        assert run(command(bundles["small"], source, killed / "out.mp4", *options, "--resume")) == 0
        assert content(killed / "out.mp4") == content(folder / "out.mp4")
        copied, whole = content(folder / "out.mp4")["audio"], content(source)["audio"]
        assert [packet[-1] for packet in copied] == [packet[-1] for packet in whole][: len(copied)]
        assert len(copied) == 123  # of 1024 / 44100 s each: to the end of the 60th frame, at 2.854 s


def test_a_resumed_run_that_is_killed_again(
    bundles: dict[str, Path], clip: Path, tmp_path: Path, snapshots: Callable[..., Iterator[Path]]
) -> None:
    """Also while what is there is being taken over: until the new file holds as much, the old one is kept."""
    folder, again = tmp_path / "whole", tmp_path / "again"
    folder.mkdir()
    take = SegmentSink.take
    for killed in snapshots(command(bundles["small"], clip, folder / "out.mp4"), folder, [FRAMES - 2]):

        def dies(sink: SegmentSink, *arguments: Any, killed: Path = killed) -> None:
            take(sink, *arguments)
            if len(sink.whole) == 2:
                shutil.copytree(killed, again)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SegmentSink, "take", dies)
            assert run(command(bundles["small"], clip, killed / "out.mp4", "--resume")) == 0
        assert leftovers(again) == [".out.left.mp4", ".out.mp4.job", ".out.part.mp4"]
        assert run(command(bundles["small"], clip, again / "out.mp4", "--resume", "--json", again / "r.json")) == 0
        assert json.loads((again / "r.json").read_text())["kept"] >= 3 * SEGMENT
        assert content(again / "out.mp4") == content(folder / "out.mp4") == content(killed / "out.mp4")
        assert leftovers(again) == []


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runtime", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stderr=subprocess.PIPE,
        # where the tests run in a shell's background, Ctrl-C is ignored by them and all that they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def killed_after(arguments: list[str], part: Path, size: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Kill a run once the hidden part has ``size`` bytes. False: it has ended before."""
    part.unlink(missing_ok=True) if not (part.parent / f".{part.name.split('.')[1]}.mp4.job").exists() else None
    process = start(arguments)
    before = part.stat().st_mtime_ns if part.exists() else 0
    try:
        while process.poll() is None:
            with contextlib.suppress(FileNotFoundError):  # not there yet, or just given its final name
                now = part.stat()
                if now.st_mtime_ns != before and now.st_size >= size:
                    process.send_signal(number)
                    break
            time.sleep(0.002)
        errors = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert "Traceback" not in errors
    return process.returncode != 0


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_kill_9(kills: int, bundles: dict[str, Path], assets: Callable[[str], Path], tmp_path: Path) -> None:
    """A run that is killed again and again, at random."""
    source, out, whole = assets("video/carphone_pristine.mp4"), tmp_path / "out.mp4", tmp_path / "whole.mp4"
    assert run(command(bundles["small"], source, whole)) == 0
    chance, size = random.Random(kills), whole.stat().st_size
    arguments = command(bundles["small"], source, out, "--resume")
    part, left = tmp_path / ".out.part.mp4", tmp_path / ".out.left.mp4"
    best = 0
    for _ in range(kills):
        if not killed_after(arguments, part, int(chance.random() * size)):
            assert content(out) == content(whole)
            out.unlink()  # it came through: from the beginning
            best = 0
            continue
        assert not out.exists()
        there = max(played(part), played(left))
        assert there >= best // SEGMENT * SEGMENT, "what was there once is lost"
        best = max(best, there)
    assert run(arguments) == 0
    assert content(out) == content(whole)
    assert leftovers(tmp_path) == []


def test_ctrl_c_and_on(bundles: dict[str, Path], assets: Callable[[str], Path], tmp_path: Path) -> None:
    source, out, whole = assets("video/carphone_pristine.mp4"), tmp_path / "out.mp4", tmp_path / "whole.mp4"
    assert run(command(bundles["small"], source, whole)) == 0
    if killed_after(command(bundles["small"], source, out), tmp_path / ".out.part.mp4", 30_000, signal.SIGINT):
        assert leftovers(tmp_path) == [".out.mp4.job"]
        assert SEGMENT < played(out) < played(whole)
        report = tmp_path / "r.json"
        assert run(command(bundles["small"], source, out, "--resume", "--json", report)) == 0
        assert json.loads(report.read_text())["kept"] >= SEGMENT
    assert content(out) == content(whole)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("moment", ["taking over", "opening"])
def test_stopped_while_what_is_there_is_taken_over(
    moment: str, killed: Path, bundles: dict[str, Path], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after Ctrl-C, the output itself is what is left."""
    out, report = killed / "out.mp4", killed / "r.json"
    (killed / ".out.part.mp4").replace(out)
    before = played(out)
    take = SegmentSink.take

    def stopped(sink: SegmentSink, *arguments: Any) -> None:
        take(sink, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "taking over":
            patch.setattr(SegmentSink, "take", stopped)
            assert run(command(bundles["small"], clip, out, "--resume")) == 130
        else:
            patch.setattr("runtime.video.sink.encoding_for", lambda *arguments, **more: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(command(bundles["small"], clip, out, "--resume"))
            assert played(out) == before
    assert run(command(bundles["small"], clip, out, "--resume", "--json", report)) == 0
    assert json.loads(report.read_text())["kept"] == 3 * SEGMENT
    assert content(out) == content(tmp_path / "whole" / "out.mp4")
    assert leftovers(killed) == []


# --- what is refused, and what is begun again -------------------------------------------------------------------------


def test_another_run_is_not_continued(
    killed: Path, bundles: dict[str, Path], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = killed / "out.mp4", tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes() + bytes(8))
    before = {path.name: path.read_bytes() for path in killed.iterdir()}
    for arguments, what in (
        (command(bundles["small"], clip, out, "--crf", 30), "another --crf: give"),
        (command(bundles["small"], clip, out, "--segment", 30), r"another --segment (20, now 30): give"),
        (command(bundles["conditional"], clip, out), "another bundle 1 (tiny-x2 "),
        (command(bundles["small"], other, out), "another input: give"),
    ):
        assert run([*arguments, "--resume"]) == 2
        said = capsys.readouterr().err
        assert f"error: {out} was begun with {what}" in said
        assert said.count("error: ") == 1
        assert {path.name: path.read_bytes() for path in killed.iterdir()} == before
    assert run(command(bundles["small"], clip, out, "--crf", 30, "--resume", "--overwrite")) == 0
    assert "was begun with another --crf: it is begun again" in capsys.readouterr().err
    assert played(out) == FRAMES
    assert leftovers(killed) == []


def test_a_complete_output_and_none_at_all(
    bundles: dict[str, Path], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(bundles["small"], clip, tmp_path / "out.mp4", "--resume")
    assert run(arguments) == 0
    made = (tmp_path / "out.mp4").stat()
    capsys.readouterr()
    assert run(arguments) == 0
    assert "out.mp4 is complete: nothing unfinished is beside it" in capsys.readouterr().err
    assert (tmp_path / "out.mp4").stat() == made
    assert leftovers(tmp_path) == []


def test_an_old_output_is_replaced_only_by_a_run_that_was_allowed_to(
    bundles: dict[str, Path], clip: Path, tmp_path: Path, snapshots: Callable[..., Iterator[Path]]
) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    shutil.copy(clip, folder / "out.mp4")
    arguments = command(bundles["small"], clip, folder / "out.mp4", "--overwrite")
    for killed in snapshots(arguments, folder, [FRAMES - 2]):
        assert (killed / "out.mp4").read_bytes() == clip.read_bytes()
        assert run(command(bundles["small"], clip, killed / "out.mp4", "--resume")) == 0
        assert content(killed / "out.mp4") == content(folder / "out.mp4")


def test_begun_again_without_resume(
    killed: Path, bundles: dict[str, Path], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command(bundles["small"], clip, killed / "out.mp4")) == 0
    assert "--resume would have continued it" in capsys.readouterr().err
    assert content(killed / "out.mp4") == content(tmp_path / "whole" / "out.mp4")
    assert leftovers(killed) == []


@pytest.mark.parametrize("damage", ["last byte", "shorter", "gone", "journal cut", "journal of nonsense"])
def test_damaged_leftovers(
    damage: str, killed: Path, bundles: dict[str, Path], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not as it was written is computed again."""
    part, journal, report = killed / ".out.part.mp4", killed / ".out.mp4.job", killed / "r.json"
    data, lines = bytearray(part.read_bytes()), journal.read_bytes()
    least, most = 0, 3
    if damage == "last byte":
        with av.open(str(part)) as container:
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        data[data.find(packets[2 * SEGMENT - 1]) + len(packets[2 * SEGMENT - 1]) - 1] ^= 1
        part.write_bytes(data)
        least = most = 1
    elif damage == "shorter":
        part.write_bytes(data[: len(data) * 4 // 5])
        most = 3  # or none, where it ends in the head of a piece: FFmpeg does not open that
    elif damage == "gone":
        part.unlink()
        most = 0
    elif damage == "journal cut":
        journal.write_bytes(lines[: lines.index(b"\n", len(lines) // 2) + 30])
        least = 1
    else:
        journal.write_bytes(b'{"format": 1, "run": []}\n' + lines)
        most = 0
    assert run(command(bundles["small"], clip, killed / "out.mp4", "--resume", "--json", report)) == 0
    assert least * SEGMENT <= json.loads(report.read_text())["kept"] <= most * SEGMENT
    assert content(killed / "out.mp4") == content(tmp_path / "whole" / "out.mp4")
    assert leftovers(killed) == []


def test_a_machine_that_computes_something_else(
    killed: Path, bundles: dict[str, Path], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = killed / ".out.mp4.job"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines[1:]:
        line["picture"] = "0" * 64
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(command(bundles["small"], clip, killed / "out.mp4", "--resume")) == 1
    assert "does not come out as it did before" in capsys.readouterr().err


def test_two_runs_on_one_output(
    bundles: dict[str, Path], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, seen = tmp_path / "out.mp4", []
    write = SegmentSink.write

    def second(sink: SegmentSink, frame: VideoFrame) -> None:
        if frame.index == 30:
            process = start(command(bundles["small"], clip, out, "--resume", "--overwrite"))
            seen.append((process.communicate()[1].splitlines()[-1], process.returncode))
        write(sink, frame)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentSink, "write", second)
        assert run(command(bundles["small"], clip, out)) == 0
    sentence = f"error: another run is writing {out}: wait for its end, or give this one another output"
    assert seen == [(sentence, 1)]
    assert played(out) == FRAMES
    assert leftovers(tmp_path) == []


def test_codes_that_change_on_the_way(bundles: dict[str, Path], clip: Path, tmp_path: Path) -> None:
    """A run whose codes were changed by hand is not taken note of from there on."""
    control = tmp_path / "control.json"
    control.write_text("{}")
    arguments = command(bundles["conditional"], clip, tmp_path / "out.mp4", "--control", control)
    noted = []
    write = SegmentSink.write

    def watched(sink: SegmentSink, frame: VideoFrame) -> None:
        write(sink, frame)
        noted.append(len((tmp_path / ".out.mp4.job").read_text().splitlines()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentSink, "write", watched)
        assert run(arguments) == 0
        assert max(noted) > 3
        noted.clear()
        control.write_text('{"style": "1"}')
        assert run([*arguments, "--overwrite"]) == 0
    assert max(noted) == 1


@pytest.mark.parametrize("output", ["null://", "f_%03d.png"])
def test_what_cannot_be_resumed(
    output: str, bundles: dict[str, Path], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = output if output == "null://" else str(tmp_path / output)
    assert run(["run", "-b", str(bundles["small"]), "-i", str(clip), "-o", out, "--resume"]) == 2
    assert "--resume continues a run from a video file to a video file" in capsys.readouterr().err
    arguments = command(bundles["small"], clip, tmp_path / "out.mp4", "--resume", "--realtime")
    assert run(arguments) == 2


# --- where a run with a state goes on ---------------------------------------------------------------------------------


def test_beginnings_from_the_last_cut_are_those_of_the_whole_video() -> None:
    random_ = np.random.default_rng(2)
    shots = [random_.integers(0, 256, (9, 16, 3), dtype=np.uint8) for _ in range(6)]
    frames, pts = [], Fraction(0)
    for index in range(150):
        pts += Fraction(5 if index in (37, 90) else 1, 25) * (4 if index in (90,) else 1)
        image = cv2.resize(shots[index // 25], (64, 36), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        frames.append(VideoFrame(np.roll(image, index, axis=1), pts, index))
    whole = Beginnings()
    begins = [whole(frame) for frame in frames]
    assert sum(begins) >= 6
    for at in (10, 40, 77, 95, 149):
        first = whole.last_cut(at)
        assert first <= at
        again = Beginnings(before=[frame.pts for frame in frames[:first]])
        assert [again(frame) for frame in frames[first:]][1:] == begins[first + 1 :]
        assert again.last_cut(at) == first
