"""``python -m runtime deid`` on real clips, as a user calls it: pictures, sound, metadata, report, exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from bundle_factory import write_small_bundle

from runtime.cli import run
from runtime.errors import GenedgeError
from runtime.faces import detect

FRAMES = 40


@pytest.fixture(scope="module")
def clip(assets: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of a clip with people, packets as they are, with all that a phone's file tells."""
    source = assets("video/short_hamilton_clip.mp4")
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    with av.open(str(source)) as before, av.open(str(path), "w") as after:
        after.metadata.update({"location": "+48.8584+002.2945/", "title": "at home", "com.apple.make": "phone"})
        streams = {}
        for stream in (*before.streams.video, *before.streams.audio):
            streams[stream.index] = after.add_stream_from_template(stream)
            streams[stream.index].metadata["title"] = "kitchen"
        cover = cv2.imencode(".jpg", np.full((32, 32, 3), 200, np.uint8))[1].tobytes()
        after.add_attachment("cover.jpg", "image/jpeg", cover)
        for packet in before.demux(*before.streams.video, *before.streams.audio):
            if packet.dts is not None and packet.pts * packet.time_base < FRAMES / before.streams.video[0].average_rate:
                packet.stream = streams[packet.stream.index]
                after.mux(packet)
    return path


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def deid(*arguments: object) -> int:
    return run(["deid", "--quiet", *map(str, arguments)])


@pytest.mark.parametrize("method", ["average", "solid", "mosaic", "blur"])
def test_a_clip_keeps_its_frames_and_loses_faces_and_sound(clip: Path, tmp_path: Path, method: str, capsys) -> None:
    out, report = tmp_path / "d.mp4", tmp_path / "r.json"
    assert deid("-i", clip, "-o", out, "--method", method, "--json", report) == 0
    before, after = decoded(clip), decoded(out)
    assert len(before) == len(after)
    assert {frame.shape for frame in after} == {before[0].shape}
    told = json.loads(report.read_text())
    assert told["outcome"] == "complete"
    assert told["mode"] == "irreversible"
    assert told["frames"] == len(before)
    assert told["faces"] >= len(before) // 2, "most frames of this clip show a face"
    assert sum(told["methods"].values()) == told["faces"]
    assert told["covered_whole"] == 0
    assert told["tracks"]
    assert len(told["detector"]["sha256"]) == 64
    with av.open(str(out)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    said = capsys.readouterr().err
    assert "a voice identifies" in said
    assert ("can be recognised again" in said) == (method == "blur")


def test_what_the_container_tells_is_left_behind(clip: Path, tmp_path: Path) -> None:
    for name in ("d.mp4", "d.mkv"):
        out = tmp_path / name
        assert deid("-i", clip, "-o", out, "--keep-audio", "--max-frames", 10) == 0
        assert b"48.8584" in clip.read_bytes()
        data = out.read_bytes()
        for word in (b"48.8584", b"at home", b"phone", b"kitchen", b"cover.jpg", b"image/jpeg"):
            assert word not in data, word
        with av.open(str(out)) as container:
            assert sorted(stream.type for stream in container.streams) == ["audio", "video"]


def test_the_passcode_chooses_the_faces(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    # each of the others has a chance of one in sixteen to choose the same face as the first
    for number, code in enumerate(["first", "first", "second", "third", "fourth"]):
        monkeypatch.setenv("GENEDGE_PASSCODE", code)
        out = tmp_path / f"{number}.png"
        assert deid("-i", clip, "-o", tmp_path / f"{number}_%03d.png", "--max-frames", 3) == 0
        results.append(cv2.imread(str(tmp_path / f"{number}_002.png")))
        assert not out.exists()
    assert np.array_equal(results[0], results[1])
    assert not all(np.array_equal(results[0], other) for other in results[2:])


def test_a_vault_needs_a_passcode_and_restores_the_pixels(clip: Path, tmp_path: Path, monkeypatch) -> None:
    vault = tmp_path / "faces.vault"
    monkeypatch.delenv("GENEDGE_PASSCODE", raising=False)
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--vault", vault) == 2
    assert not vault.exists()
    code = tmp_path / "code.txt"
    code.write_text("correct horse\n")
    code.chmod(0o600)
    report = tmp_path / "r.json"
    common = ("--passcode-file", code, "--max-frames", 6, "--json", report)
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--vault", vault, *common) == 0
    assert json.loads(report.read_text())["mode"] == "pseudonymised"
    assert run(["reveal", str(vault), "--passcode-file", str(code), "-o", str(tmp_path / "out")]) == 0
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    records = index["crops"] if "crops" in index else index["records"]
    assert records
    from runtime.video.source import open_source

    with open_source(str(clip)) as source:
        originals = [frame.image for frame, _ in zip(source, range(6), strict=False)]
    for record in records:
        crop = cv2.imread(str(tmp_path / "out" / record["file"]))
        left, top = record["left"], record["top"]
        piece = originals[record["frame"]][top : top + crop.shape[0], left : left + crop.shape[1]]
        assert np.array_equal(crop, piece)
        covered = cv2.imread(str(tmp_path / f"d_{record['frame']:03d}.png"))
        assert not np.array_equal(covered[top : top + crop.shape[0], left : left + crop.shape[1]], piece)
    code.write_text("wrong horse\n")
    assert run(["reveal", str(vault), "--passcode-file", str(code), "-o", str(tmp_path / "no")]) == 1
    assert not list((tmp_path / "no").glob("*")) if (tmp_path / "no").exists() else True


def test_a_broken_input_leaves_covered_frames_under_a_name_that_tells(clip: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.mkv"
    data = clip.read_bytes()
    broken.write_bytes(data[: len(data) * 2 // 3])
    out = tmp_path / "d.mp4"
    assert deid("-i", broken, "-o", out) == 1
    assert not out.exists()
    partial = tmp_path / "d.mp4.partial"
    assert 3 <= len(decoded(partial)) < FRAMES
    assert "broke off" in capsys.readouterr().err


def test_a_detector_that_fails_gives_covered_frames_and_says_so(
    clip: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    class Failing:
        name, digest, description, low = "failing", "0" * 64, "fails", 0.25

        def detect(self, image, *, thorough=False):
            raise GenedgeError("no engine")

        def twin(self):
            return self

        def close(self) -> None:
            pass

    monkeypatch.setattr(detect, "open_detector", lambda *args, **kwargs: Failing())
    report = tmp_path / "r.json"
    assert deid("-i", clip, "-o", tmp_path / "d_%03d.png", "--max-frames", 8, "--json", report) == 3
    for path in tmp_path.glob("d_*.png"):
        assert len(np.unique(cv2.imread(str(path)).reshape(-1, 3), axis=0)) == 1
    told = json.loads(report.read_text())
    assert told["covered_whole"] == 8
    assert told["covered_whole_frames"] == [[0, 7]]
    assert "covered whole" in capsys.readouterr().err


def test_a_threshold_at_which_the_detector_cannot_be_watched_is_said_before_anything_starts(
    clip: Path, assets, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("CODE", "correct horse")
    yunet = assets("weights/yunet/yunet_n_640_640.onnx")
    report, vault = tmp_path / "r.json", tmp_path / "faces.vault"
    options = ("-i", clip, "-o", tmp_path / "d_%03d.png", "--detector", yunet, "--max-frames", 2, "--json", report)
    assert deid(*options, "--thresh", "0.95", "--vault", vault, "--passcode-env", "CODE") == 2
    most = re.search(r"give at most (0\.\d\d)\n", capsys.readouterr().err)
    assert most
    assert 0.6 < float(most[1]) < 0.95
    assert not list(tmp_path.iterdir())
    assert deid(*options, "--thresh", f"{float(most[1]) + 0.01:.2f}") == 2
    assert deid(*options, "--thresh", most[1]) == 0
    told = json.loads(report.read_text())
    assert (told["canaries"], told["canaries_missed"]) == (1, 0)


def test_covered_frames_go_through_further_bundles(clip: Path, tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path / "tiny-x2")
    assert deid("-i", clip, "-o", tmp_path / "s_%03d.png", "--method", "solid", "--max-frames", 3) == 0
    assert deid("-i", clip, "-o", tmp_path / "l_%03d.png", "--method", "solid", "--max-frames", 3, "-b", bundle) == 0
    small, large = (cv2.imread(str(tmp_path / f"{name}_002.png")) for name in "sl")
    assert np.array_equal(large[::2, ::2], small)


def test_the_review_page_shows_the_output_only(clip: Path, tmp_path: Path) -> None:
    page = tmp_path / "review.html"
    assert deid("-i", clip, "-o", tmp_path / "d.mp4", "--review", page, "--thresh", "0.1") == 0
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "tracks were not certain" in text
    assert "http" not in text, "it needs no other file"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-i", "{clip}", "-o", "{tmp}/d.mp4", "--detector", "nowhere.onnx"), "nowhere.onnx"),
        (("-i", "{clip}", "-o", "{tmp}/d.mp4", "--detector", "{clip}"), "clip.mkv"),
        (("-i", "{clip}", "-o", "{clip}"), "exists"),
        (("-i", "{clip}", "-o", "{tmp}/d.mp4", "--json", "{tmp}/d.mp4"), "same file"),
        (("-i", "{clip}", "-o", "{tmp}/d.mp4", "--review", "{tmp}/no/r.html"), "does not exist"),
        (("-i", "{clip}", "-o", "{tmp}/d.mp4", "--passcode-file", "{tmp}/none.txt"), "none.txt"),
        (("-i", "{clip}", "-o", "{tmp}/d.mp4", "-b", "nothing-here"), "nothing-here"),
        (("-i", "{clip}", "-o", "{tmp}/d.mp4", "--method", "generator", "--generator", "no-such"), "no-such"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(clip, tmp_path, arguments, words, capsys) -> None:
    filled = [argument.format(clip=clip, tmp=tmp_path) for argument in arguments]
    assert deid(*filled) in (1, 2)
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_options_of_tensorrt_without_it_are_a_usage_error(clip: Path, tmp_path: Path, capsys) -> None:
    assert deid("-i", clip, "-o", tmp_path / "d.mp4", "--workspace", 64) == 2
    assert "--workspace is for TensorRT, which is not used here: leave it out" in capsys.readouterr().err
    assert not (tmp_path / "d.mp4").exists()


def test_live_frames_are_dropped_before_they_are_searched(clip: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "d.mkv", tmp_path / "r.json"
    assert deid("-i", clip, "-o", out, "--method", "solid", "--realtime", "--json", report) == 0
    told = json.loads(report.read_text())
    assert told["guard"]["lookahead"] == 0
    assert told["frames"] + told["dropped"] == len(decoded(clip))
    assert told["frames"] == len(decoded(out))  # every frame that was searched has left, with its own verdict
    assert told["latency"]["capture"]["count"] == told["frames"]
