"""What goes through an identity bundle comes out as it was: frames, times, colours, sound, and all else in the file.

Every case is a file as cameras, phones, editors and broadcasters write them. Sources and outputs are read by a way of
their own (:mod:`clip_factory`), not by the code under test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from bundle_factory import write_small_bundle
from clip_factory import (
    Shown,
    Sound,
    Subtitles,
    marks,
    pictures,
    shown,
    tags_of,
    texts,
    tracks,
    write_clip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.cli import run
from runtime.metrics import delta_e_2000, lab
from runtime.video.sink import writes_bt2020

ROOT = Path(__file__).resolve().parents[3]
MILLISECOND = Fraction(1, 1000)
F = Fraction


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that gives every frame as it is."""
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "identity", name="identity", scale=1)


@dataclass
class Went:
    """A file that went through the bundle."""

    source: Path
    path: Path
    report: dict[str, Any]

    @property
    def said(self) -> str:
        return "\n".join(self.report["warnings"])


@pytest.fixture
def through(identity: Path, tmp_path: Path) -> Callable[..., Went]:
    """Run a file through the identity bundle with hardly any loss in the encoder."""

    def go(source: Path, name: str = "out.mp4", *more: str, alone: bool = False) -> Went:
        out, report = tmp_path / name, tmp_path / "report.json"
        command = ["run", "-b", str(identity), "-i", str(source), "-o", str(out), "--quiet", "--json", str(report)]
        command += ["--crf", "1", "--preset", "ultrafast", "--backend", "onnxruntime", *more]
        if alone:
            whole = [sys.executable, "-m", "runtime", *command]
            done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stderr
        else:
            assert run(command) == 0
        return Went(source, out, json.loads(report.read_text()))

    return go


def differences(before: Sequence[Shown], after: Sequence[Shown]) -> list[float]:
    """The mean colour difference of every frame, in ΔE2000."""
    return [
        float(delta_e_2000(*(lab(np.ascontiguousarray(each.image[..., ::-1])) for each in pair)).mean())
        for pair in zip(before, after, strict=True)
    ]


def assert_same_pictures(went: Went, *, limit: float = 1.0, moved: bool = False) -> list[Shown]:
    """Count, size, times and colours; with ``moved`` the whole may have been shown later. Returns the new frames."""
    before, after = shown(went.source), shown(went.path)
    assert len(before) == len(after)
    assert {each.image.shape for each in after} == {before[0].image.shape}
    offset = after[0].time - before[0].time if moved else F(0)
    assert max(abs(b.time + offset - a.time) for b, a in zip(before, after, strict=True)) <= MILLISECOND
    assert max(differences(before, after)) < limit
    return after


# --- pictures and times -----------------------------------------------------------------------------------------------

ODD = [0, 3003, 6006, 6007, 20_000, 20_100, 95_123, 100_000]  # in 1/90000 s
VP9 = {"codec": "libvpx-vp9", "options": {"crf": "4", "b": "0", "cpu-used": "8", "deadline": "realtime"}}
MJPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "full": True, "options": {"qmin": "1", "qmax": "2"}}
TEN = {"codec": "libx265", "pix_fmt": "yuv420p10le"}
#: without colours that change from pixel to pixel, which 4:2:0 cannot hold
SMOOTH = [cv2.GaussianBlur(image, (0, 0), 3) for image in pictures(25, (96, 72))]
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "variable rate": ("in.mp4", "out.mp4", {"ticks": ODD, "time_base": F(1, 90_000)}),
    "variable rate to Matroska": ("in.mp4", "out.mkv", {"ticks": ODD, "time_base": F(1, 90_000)}),
    "23.976": ("in.mp4", "out.mp4", {"time_base": F(1001, 24_000), "rate": F(24_000, 1001)}),
    "59.94 from Matroska": ("in.mkv", "out.mp4", {"time_base": F(1001, 60_000), "rate": F(60_000, 1001)}),
    "59.94": ("in.mov", "out.mkv", {"time_base": F(1001, 60_000), "rate": F(60_000, 1001)}),
    "odd width": ("in.mp4", "out.mp4", {"size": (101, 76), "pix_fmt": "yuv444p"}),
    "odd height": ("in.mp4", "out.mkv", {"size": (96, 75), "pix_fmt": "yuv444p"}),
    "odd both": ("in.webm", "out.mp4", {"size": (101, 75), **VP9}),
    "odd VP9 both": ("in.webm", "out.webm", {"size": (101, 75), **VP9}),
    "10 bits": ("in.mp4", "out.mp4", {**TEN, "color": (1, 1, 1)}),
    "10 bits H.264": ("in.mkv", "out.mp4", {"pix_fmt": "yuv420p10le"}),
    "full range": ("in.mp4", "out.mp4", {"color": (1, 1, 1), "full": True}),
    "full range to VP9": ("in.mp4", "out.webm", {"color": (6, 6, 6), "full": True}),
    "B-frames": ("in.mp4", "out.mp4", {"options": {"crf": "4", "bf": "3", "x264-params": "b-adapt=0"}}),
    "B-frames to Matroska": ("in.mp4", "out.mkv", {"options": {"crf": "4", "bf": "3", "x264-params": "b-adapt=0"}}),
    "open groups": (
        "in.mkv",
        "out.mp4",
        {"options": {"crf": "4", "bf": "3", "g": "10", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}},
    ),
    "two hours for a frame": (
        "in.mp4",
        "out.mp4",
        {"ticks": [0, 40, 80, 7_200_000, 7_200_040], "time_base": F(1, 1000)},
    ),
    "two hours for a frame in Matroska": (
        "in.mkv",
        "out.mkv",
        {"ticks": [0, 40, 80, 7_200_000, 7_200_040], "time_base": F(1, 1000)},
    ),
    "one frame": ("in.mp4", "out.mkv", {"ticks": [0]}),
    "one frame from Matroska": ("in.mkv", "out.mp4", {"ticks": [0]}),
    "one frame to WebM": ("in.mp4", "out.webm", {"ticks": [0]}),
    "starts late": ("in.mp4", "out.mp4", {"ticks": range(20, 45)}),
    "starts late in Matroska": ("in.mkv", "out.mkv", {"ticks": range(20, 45)}),
    "edit list": (
        "in.mp4",
        "out.mp4",
        {"ticks": range(-3, 22), "container_options": {"avoid_negative_ts": "disabled"}},
    ),
    "VP9": ("in.webm", "out.webm", VP9),
    "VP9 to HEVC": ("in.webm", "out.mkv --codec hevc", VP9),
    "HEVC": ("in.mp4", "out.mp4 --codec hevc", {"codec": "libx265"}),
    "ProRes": ("in.mov", "out.mp4", {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "options": {"profile": "3"}}),
    "ProRes with transparency": (
        "in.mov",
        "out.mp4",
        {"codec": "prores_ks", "pix_fmt": "yuva444p10le", "options": {"profile": "4"}, "images": SMOOTH},
    ),
    "Motion JPEG": ("in.avi", "out.mp4", MJPEG),
    "MPEG-4 with B-frames in AVI": ("in.avi", "out.mkv", {"codec": "mpeg4", "options": {"bf": "2", "qmax": "2"}}),
    "MPEG-2": ("in.ts", "out.mp4", {"codec": "mpeg2video", "options": {"qmin": "1", "qmax": "2", "bf": "2"}}),
    "interlaced": ("in.mp4", "out.mp4", {"interlaced": True, "options": {"crf": "4", "x264-params": "tff=1"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_frames_times_and_colours(case: str, tmp_path: Path, through: Callable[..., Went]) -> None:
    name, out, made = CASES[case]
    went = through(write_clip(tmp_path / name, **made), *out.split())
    after = assert_same_pictures(went, moved=name.endswith(".ts"))
    assert went.report["frames"] == len(after)
    assert ("is interlaced" in went.said) == (case == "interlaced")
    assert ("bits a colour: it is cut down to 8" in went.said) == ("10" in str(made.get("pix_fmt")))
    assert ("has transparency" in went.said) == ("transparency" in case)
    assert not any(each.interlaced for each in after)


@pytest.mark.parametrize("case", ["variable rate", "10 bits"])
def test_the_same_as_a_program_of_its_own(case: str, tmp_path: Path, through: Callable[..., Went]) -> None:
    name, out, made = CASES[case]
    assert_same_pictures(through(write_clip(tmp_path / name, **made), out, alone=True))


def test_frames_of_one_time_keep_their_order(tmp_path: Path, through: Callable[..., Went]) -> None:
    clip = write_clip(tmp_path / "in.mkv", ticks=range(5), time_base=F(1, 1000), stored=[0, 40, 80, 80, 120])
    assert [each.time for each in shown(clip)] == [F(0), F(1, 25), F(2, 25), F(2, 25), F(3, 25)]
    after = assert_same_pictures(through(clip))
    assert [each.time for each in after] == [F(0), F(1, 25), F(2, 25), F(81, 1000), F(3, 25)]


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_picture_is_laid_upright_once(
    degrees: int, out: str, tmp_path: Path, through: Callable[..., Went]
) -> None:
    clip = write_clip(tmp_path / "in.mp4", ticks=range(5), rotate=degrees)
    assert shown(clip)[0].image.shape == ((96, 72, 3) if degrees != 180 else (72, 96, 3))
    first = through(clip, out)
    assert_same_pictures(first)
    again = through(first.path, f"again_{out}")
    assert_same_pictures(again)
    assert again.report["input"]["rotation"] == 0


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv", "out.webm"])
@pytest.mark.parametrize("color", [(1, 1, 1), (6, 6, 6), (5, 5, 6), (9, 9, 14), (7, 7, 7), (6, 1, 13), (1, 2, 2)])
def test_what_the_colours_mean_stays_said(
    color: tuple[int, int, int], out: str, tmp_path: Path, through: Callable[..., Went]
) -> None:
    went = through(write_clip(tmp_path / "in.mp4", ticks=range(3), color=color), out)
    matrix = 1 if color[0] == 9 and not writes_bt2020() else color[0]
    assert {each.color for each in assert_same_pictures(went)} == {(matrix, *color[1:], 1)}


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
@pytest.mark.parametrize("out", ["out.mp4", "out.mkv --codec hevc", "out.webm"])
def test_high_dynamic_range_keeps_its_meaning_in_8_bits(
    transfer: int, out: str, tmp_path: Path, through: Callable[..., Went]
) -> None:
    went = through(write_clip(tmp_path / "in.mp4", ticks=range(3), color=(9, 9, transfer), **TEN), *out.split())
    assert {each.color for each in assert_same_pictures(went)} == {(9 if writes_bt2020() else 1, 9, transfer, 1)}
    assert "is HDR video: it is cut down to 8 bits without tone mapping" in went.said


def test_an_enlarged_picture_keeps_its_matrix(tmp_path: Path) -> None:
    """Of a small file without tags, which players take for BT.601, the large one would be taken for BT.709."""
    bundle = write_small_bundle(tmp_path / "x16", scale=16)
    for name, color, tags in (("tagged", (6, 6, 6), (6, 6, 6, 1)), ("bare", None, (1, 1, 1, 1))):
        clip = write_clip(tmp_path / f"{name}.mp4", ticks=range(2), color=color)
        out = tmp_path / f"{name}_out.mp4"
        assert run(["run", "-b", str(bundle), "-i", str(clip), "-o", str(out), "--quiet", "--crf", "1"]) == 0
        before, after = shown(clip), shown(out)
        assert {each.color for each in after} == {tags}
        for frame in after:
            frame.image.setflags(write=False)
        small = [Shown(each.image[8::16, 8::16], each.time, each.color, each.interlaced) for each in after]
        assert max(differences(before, small)) < 1.0


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv", "out.mp4 --codec vp9", "out.webm"])
def test_pixels_keep_their_shape_or_it_is_said(out: str, tmp_path: Path, through: Callable[..., Went]) -> None:
    went = through(write_clip(tmp_path / "in.mp4", ticks=range(3), sample_aspect=F(64, 45)), *out.split())
    with av.open(str(went.path)) as container:
        aspect = container.streams.video[0].sample_aspect_ratio
    assert (aspect == F(64, 45)) != ("pixels are 64/45 times as wide as high" in went.said)
    assert ("choose h264 or hevc" in went.said) == (out == "out.webm")


def test_an_animation(tmp_path: Path, through: Callable[..., Went]) -> None:
    """A GIF, of cells whose colours its palette has."""
    random = np.random.default_rng(3)
    cells = random.integers(0, 2, (20, 9, 12, 3), dtype=np.uint8) * 255
    images = list(cells.repeat(8, axis=1).repeat(8, axis=2))
    ticks = np.cumsum(random.integers(3, 40, 20)).tolist()
    clip = write_clip(tmp_path / "in.gif", ticks=ticks, time_base=F(1, 100), images=images, codec="gif", pix_fmt="bgr8")
    went = through(clip)
    before, after = shown(clip), shown(went.path)
    assert [each.time for each in before] == [each.time for each in after]
    for one, other in zip(before, after, strict=True):  # 4:2:0 blurs the colours at the edges of the cells
        middles = [each.image[3::8, 3::8].astype(int) for each in (one, other)]
        assert np.abs(middles[0] - middles[1]).max() <= 6


def test_a_clock_that_overflows(tmp_path: Path, through: Callable[..., Went]) -> None:
    """MPEG transport streams count to 2^33 and begin again, after 26.5 hours."""
    clip = write_clip(
        tmp_path / "in.ts",
        ticks=[i * 3600 for i in range(50)],
        time_base=F(1, 90_000),
        sounds=[Sound(seconds=F(2))],
        format="mpegts",
        container_options={"output_ts_offset": str(2**33 / 90_000 - 1)},
    )
    went = through(clip)
    assert_same_pictures(went, moved=True)
    assert_in_step(went)
    # MPEG-TS has seven bytes in front of every packet, which MP4 writes once for all
    assert [data[7:] for data in tracks(clip, "audio")[0].data] == tracks(went.path, "audio")[0].data


# --- sound ------------------------------------------------------------------------------------------------------------


def assert_in_step(went: Went) -> None:
    """All tracks of sound lie beside the pictures as they did."""
    offsets = []
    for path in (went.source, went.path):
        picture = shown(path)[0].time
        offsets.append([track.packets[0][0] - picture for track in tracks(path, "audio")])
    assert all(abs(one - other) <= MILLISECOND for one, other in zip(*offsets, strict=True))


AAC, DEUTSCH = {"language": "eng"}, {"language": "deu", "title": "Kommentar"}
SOUNDS: dict[str, tuple[str, str, list[Sound]]] = {
    "mono": ("in.mp4", "out.mp4", [Sound(layout="mono", rate=22_050)]),
    "5.1": ("in.mp4", "out.mkv", [Sound(layout="5.1")]),
    "5.1 AC-3": ("in.mkv", "out.mp4", [Sound("ac3", "5.1(side)")]),
    "two tracks": ("in.mp4", "out.mp4", [Sound(tags=AAC), Sound("ac3", tags=DEUTSCH, disposition=0)]),
    "two tracks to Matroska": ("in.mp4", "out.mkv", [Sound(tags=AAC), Sound("ac3", tags=DEUTSCH, disposition=0)]),
    "second one first": ("in.mkv", "out.mkv", [Sound(tags=AAC, disposition=0), Sound("flac", tags=DEUTSCH)]),
    "PCM in AVI": ("in.avi", "out.mp4", [Sound("pcm_s16le", "mono")]),
    "PCM 5.1": ("in.mkv", "out.mp4", [Sound("pcm_s24le", "5.1")]),
    "PCM to MOV": ("in.mkv", "out.mov", [Sound("pcm_s16le")]),
    "MP3": ("in.mkv", "out.mp4", [Sound("libmp3lame")]),
    "Opus": ("in.webm", "out.webm", [Sound("libopus")]),
    "Opus in MP4": ("in.webm", "out.mp4", [Sound("libopus")]),
    "longer than the video": ("in.mp4", "out.mp4", [Sound(seconds=F(3))]),
    "longer than the video in Matroska": ("in.mkv", "out.mkv", [Sound(seconds=F(3))]),
    "shorter than the video": ("in.mp4", "out.mp4", [Sound(seconds=F(2, 5))]),
    "begins later": ("in.mp4", "out.mp4", [Sound(start=F(3, 10))]),
    "begins later in Matroska": ("in.mkv", "out.mkv", [Sound(start=F(3, 10))]),
}


@pytest.mark.parametrize("case", SOUNDS)
def test_sound_is_copied_bit_for_bit(case: str, tmp_path: Path, through: Callable[..., Went]) -> None:
    name, out, sounds = SOUNDS[case]
    made = VP9 if name.endswith("webm") else {}
    went = through(write_clip(tmp_path / name, ticks=range(20), sounds=sounds, **made), out)
    # AAC from MP4 begins before 0, which Matroska can only say of sound whose encoder's delay it knows
    assert_same_pictures(went, moved=out.endswith("mkv") and name.endswith("mp4"))
    before, after = tracks(went.source, "audio"), tracks(went.path, "audio")
    assert [b"".join(track.data) for track in before] == [b"".join(track.data) for track in after]
    if not name.endswith("avi"):
        assert [track.disposition for track in before] == [track.disposition for track in after]
    assert_in_step(went)
    for one, other in zip(before, after, strict=True):
        languages = [track.tags.get("language", "und") for track in (one, other)]
        assert languages[0] == languages[1]
        titles = [track.tags.get("title", track.tags.get("name")) for track in (one, other)]
        assert titles[0] == titles[1]
    assert not went.said


@pytest.mark.parametrize("late", [F(0), F(9)], ids=["early", "late"])
@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_video_and_sound_that_begin_at_times_of_their_own(
    name: str, late: Fraction, tmp_path: Path, through: Callable[..., Went]
) -> None:
    first = int(late * 25)
    clip = write_clip(tmp_path / name, ticks=range(first + 20, first + 45), sounds=[Sound(start=late + F(1, 5))])
    went = through(clip, name.replace("in", "out"))
    after = assert_same_pictures(went, moved=bool(late))
    assert_in_step(went)
    assert (after[0].time == F(4, 5)) == (late == 0)
    assert tracks(clip, "audio")[0].data == tracks(went.path, "audio")[0].data


@pytest.mark.parametrize("layout", ["mono", "5.1", "5.1(side)"])
@pytest.mark.parametrize("codec", ["ac3", "pcm_s16le"])
def test_sound_of_any_layout_becomes_opus(
    codec: str, layout: str, tmp_path: Path, through: Callable[..., Went]
) -> None:
    went = through(write_clip(tmp_path / "in.mkv", sounds=[Sound(codec, layout)]), "out.webm")
    (track,) = tracks(went.path, "audio")
    assert track.codec in ("opus", "libopus")
    assert abs(sum(length for _, length, _ in track.packets) - 1) < F(1, 20)
    assert "encoded anew as Opus" in went.said


def test_sound_ends_with_the_last_frame_that_was_wanted(tmp_path: Path, through: Callable[..., Went]) -> None:
    clip = write_clip(tmp_path / "in.mp4", sounds=[Sound(seconds=F(3))])
    whole, part = through(clip, "whole.mp4"), through(clip, "part.mp4", "--max-frames", "10")
    assert tracks(whole.path, "audio")[0].data == tracks(clip, "audio")[0].data
    time, length, _ = tracks(part.path, "audio")[0].packets[-1]
    assert abs(time + length - F(10, 25)) < F(1, 40)  # a packet of AAC is 21 ms long


def test_a_file_without_sound_stays_so(tmp_path: Path, through: Callable[..., Went]) -> None:
    went = through(write_clip(tmp_path / "in.mp4", ticks=range(3)))
    assert tracks(went.path, "audio") == []
    assert not went.said


def test_sound_that_is_damaged_beyond_use_is_left_out(tmp_path: Path, through: Callable[..., Went]) -> None:
    clip = write_clip(tmp_path / "in.mkv", ticks=range(3), sounds=[Sound("pcm_s16le", "mono")])
    data = clip.read_bytes()
    assert data.count(b"\x9f\x81\x01") == 1  # Matroska's number of channels
    clip.write_bytes(data.replace(b"\x9f\x81\x01", b"\x9f\x81\x00"))
    went = through(clip, "out.webm")
    assert tracks(went.path, "audio") == []
    assert went.said == "in.mkv: sound without channels is damaged, and left out"


# --- subtitles, chapters, tags, attachments ---------------------------------------------------------------------------

PLAIN = [(100, 400, "Hello"), (500, 900, "two words")]


def plain(lines: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Without marks for slanted letters, and without the empty lines between others."""
    found = [(begin, end, text.replace("{\\i1}", "").replace("{\\i0}", "").strip()) for begin, end, text in lines]
    return [line for line in found if line[2]]


@pytest.mark.parametrize(
    ("name", "codec", "out", "becomes"),
    [
        ("in.mp4", "mov_text", "out.mp4", ""),
        ("in.mp4", "mov_text", "out.mov", ""),
        ("in.mp4", "mov_text", "out.mkv", "subrip"),
        ("in.mov", "mov_text", "out.webm", "webvtt"),
        ("in.mkv", "subrip", "out.mkv", ""),
        ("in.mkv", "subrip", "out.mp4", "mov_text"),
        ("in.mkv", "ass", "out.mkv", ""),
        ("in.mkv", "ass", "out.mp4", "mov_text"),
        ("in.mkv", "ass", "out.webm", "webvtt"),
        ("in.mkv", "webvtt", "out.mp4", "mov_text"),
    ],
)
def test_subtitles(name: str, codec: str, out: str, becomes: str, tmp_path: Path, through: Callable[..., Went]) -> None:
    clip = write_clip(
        tmp_path / name,
        subtitles=[
            Subtitles(codec, tags={"language": "fra", "title": "Français"}, disposition=1),
            Subtitles(codec, ((200, 800, "forced"),), {"language": "spa"}, 0x40),
        ],
    )
    went = through(clip, out)
    assert [plain(track) for track in texts(went.path)] == [PLAIN, [(200, 800, "forced")]]
    first, second = tracks(went.path, "subtitle")
    assert (first.tags["language"], second.tags["language"]) == ("fra", "spa")
    assert first.tags.get("title", first.tags.get("name")) == "Français"
    assert first.disposition & 1
    assert second.disposition & 0x40 or not out.endswith(".mkv")
    if becomes:
        assert f"2 subtitle tracks ({tracks(clip, 'subtitle')[0].codec}, " in went.said
        assert f"became {becomes}, the form of subtitles in a {Path(out).suffix} file" in went.said
    else:
        assert not went.said
        assert [track.data for track in tracks(clip, "subtitle") if codec != "mov_text"] == (
            [first.data, second.data] if codec != "mov_text" else []
        )


def test_styles_of_subtitles_are_kept_where_both_know_them(tmp_path: Path, through: Callable[..., Went]) -> None:
    clip = write_clip(tmp_path / "in.mkv", subtitles=[Subtitles("ass")])
    assert b"<i>words</i>" in tracks(through(through(clip).path, "again.mkv").path, "subtitle")[0].data[1]


CHAPTERS = [(0, 400, "One"), (400, 1000, "Two")]


@pytest.mark.parametrize("out", ["out.mp4", "out.mov", "out.mkv", "out.webm"])
@pytest.mark.parametrize("name", ["in.mp4", "in.mkv"])
def test_chapters_and_tags(name: str, out: str, tmp_path: Path, through: Callable[..., Went]) -> None:
    given = {"title": "A day", "artist": "Me", "creation_time": "2020-01-02T03:04:05.000000Z", "mood": "calm"}
    clip = write_clip(
        tmp_path / name,
        chapters=CHAPTERS,
        tags=given,
        video_tags={"language": "ita", "title": "Camera 2"},
        container_options={"movflags": "use_metadata_tags"} if name.endswith("mp4") else None,
    )
    assert given.items() <= tags_of(clip).items()
    went = through(clip, out)
    assert marks(went.path) == CHAPTERS
    assert given.items() <= tags_of(went.path).items()
    assert set(tags_of(went.path)) - set(given) <= {"major_brand", "minor_version", "compatible_brands", "encoder"}
    video = tracks(went.path, "video")[0]
    assert video.tags["language"] == "ita"
    assert video.tags.get("title", video.tags.get("name")) == "Camera 2"
    assert not went.said


def test_usual_tags_are_where_players_look_for_them(tmp_path: Path, through: Callable[..., Went]) -> None:
    clip = write_clip(tmp_path / "in.mkv", ticks=range(3), tags={"title": "A day", "COMMENT": "none"})
    data = through(clip).path.read_bytes()
    assert b"\xa9nam" in data
    assert b"mdta" not in data


def test_chapters_move_with_the_clock(tmp_path: Path, through: Callable[..., Went]) -> None:
    chapters = [(9000, 9400, "One"), (9400, 10_000, "Two")]
    lines = Subtitles("subrip", ((8000, 8900, "before"), (8800, 9050, "into it"), (9100, 9300, "Hello")))
    clip = write_clip(tmp_path / "in.mkv", ticks=range(225, 250), chapters=chapters, subtitles=[lines])
    went = through(clip)
    assert shown(went.path)[0].time == 0
    assert marks(went.path) == CHAPTERS
    assert [plain(track) for track in texts(went.path)] == [[(0, 50, "into it"), (100, 300, "Hello")]]


FONT = ("letters.ttf", "font/ttf", bytes(range(256)) * 20)


def attached(path: Path) -> list[tuple[str, bytes]]:
    with av.open(str(path)) as container:
        found = [(s.name, s.data) for s in container.streams if s.type == "attachment"]
        covers = [s for s in container.streams.video if int(s.disposition) & 0x400]
        pictures_of = {s.index: s.metadata.get("filename", "") for s in covers}
        for packet in container.demux(*covers) if covers else ():
            if packet.size:
                found.append((pictures_of[packet.stream.index], bytes(packet)))
        return found


def test_attached_files_and_covers(tmp_path: Path, through: Callable[..., Went]) -> None:
    cover = ("cover.jpg", "image/jpeg", cv2.imencode(".jpg", pictures(1, (64, 64))[0])[1].tobytes())
    clip = write_clip(tmp_path / "in.mkv", ticks=range(5), attachments=[FONT, cover])
    matroska, movie, web = (through(clip, name) for name in ("out.mkv", "out.mp4", "out.webm"))
    assert sorted(attached(matroska.path)) == [(cover[0], cover[2]), (FONT[0], FONT[2])]
    assert not matroska.said
    assert attached(movie.path) == [("", cover[2])]
    assert "without 1 attached file (letters.ttf): a .mp4 file cannot hold that" in movie.said
    assert attached(through(movie.path, "again.mkv").path) == [(cover[0], cover[2])]
    assert attached(web.path) == []
    assert "without 2 attached files (letters.ttf, cover.jpg): a .webm file cannot hold that" in web.said
    for went in (matroska, movie, web):
        assert_same_pictures(went)


def test_what_has_no_place_in_a_file_is_said(tmp_path: Path, through: Callable[..., Went]) -> None:
    clip = tmp_path / "in.mkv"
    first = write_clip(tmp_path / "first.mkv", ticks=range(5))
    with av.open(str(first)) as source, av.open(str(clip), "w") as out:
        copies = [out.add_stream_from_template(source.streams.video[0]) for _ in range(2)]
        bitmaps = out.add_mux_stream("hdmv_pgs_subtitle")
        bitmaps.time_base = F(1, 1000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                for copy in copies:
                    again = av.Packet(bytes(packet))
                    again.pts, again.dts, again.time_base = packet.pts, packet.dts, packet.time_base
                    again.is_keyframe = packet.is_keyframe
                    again.stream = copy
                    out.mux(again)
        again = av.Packet(bytes([0x80, 0, 0]))  # the end of a picture
        again.pts = again.dts = 100
        again.time_base, again.stream = F(1, 1000), bitmaps
        out.mux(again)
    timed = write_clip(tmp_path / "in.mov", ticks=range(5), video_tags={"timecode": "10:00:00:00"})
    assert through(timed, "timed.mp4").said == "in.mov: without 1 data track, such as a time code"
    kept, left = through(clip, "out.mkv"), through(clip, "out.mp4")
    assert tracks(kept.path, "subtitle")[0].data == [bytes([0x80, 0, 0])]
    assert kept.said == "in.mkv: only the first of 2 video tracks is used"
    assert tracks(left.path, "subtitle") == []
    assert "in.mkv: without 1 subtitle track (pgssub): a .mp4 file cannot hold that" in left.said


def test_a_run_that_hides_faces_keeps_none_of_it(identity: Path, tmp_path: Path, through: Callable[..., Went]) -> None:
    """As `deid` does, whose own tests look at its output."""
    clip = write_clip(
        tmp_path / "in.mkv",
        ticks=range(5),
        sounds=[Sound(tags=DEUTSCH)],
        subtitles=[Subtitles("subrip")],
        chapters=CHAPTERS,
        tags={"title": "At home"},
        attachments=[FONT],
    )
    hider, out = tmp_path / "hider", tmp_path / "out.mkv"
    shutil.copytree(identity, hider)
    manifest = json.loads((hider / "manifest.json").read_text())
    (hider / "manifest.json").write_text(json.dumps({**manifest, "task": "face-deid"}))
    assert run(["run", "-b", str(hider), "-i", str(clip), "-o", str(out), "--quiet"]) == 0
    assert tracks(out, "subtitle") == attached(out) == marks(out) == []
    assert set(tags_of(out)) == {"encoder"}
    assert tracks(out, "audio")[0].tags.keys() == {"language", "DURATION"}
    assert tracks(through(clip, "kept.mkv").path, "subtitle")


# --- any times --------------------------------------------------------------------------------------------------------

TIMES = st.lists(st.one_of(st.integers(1, 60), st.integers(61, 20_000)), min_size=0, max_size=24)


@given(steps=TIMES, start=st.integers(0, 900), suffix=st.sampled_from(["mp4", "mkv"]), coarse=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_times_survive_a_round_trip(
    steps: list[int], start: int, suffix: str, coarse: bool, tmp_path: Path, copy_clip: Any
) -> None:
    """Steps of milliseconds, or of 1/15360 s where the file is MP4, with gaps of up to 20 s."""
    base = MILLISECOND if coarse or suffix == "mkv" else F(1, 15_360)
    ticks = [start]
    for step in steps:
        ticks.append(ticks[-1] + step)
    clip, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    write_clip(clip, ticks=ticks, time_base=base, size=(16, 16), images=pictures(len(ticks), (16, 16)))
    given_times = [each.time for each in shown(clip)]
    assert len(given_times) == len(ticks)
    copy_clip(clip, out, preset="ultrafast", overwrite=True)
    assert [each.time for each in shown(out)] == given_times
