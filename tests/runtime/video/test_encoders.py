"""Encoders: every one that opens here, what our options become, and what cannot be."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli import run
from runtime.errors import UsageError
from runtime.metrics import compare
from runtime.video import encoders
from runtime.video.encoders import (
    CODECS,
    CONTAINERS,
    ENCODERS,
    PIX_FMTS,
    PRESETS,
    Encoder,
    as_taken,
    bits_a_second,
    encoding_for,
    formats_of,
    trouble_with,
    usable,
)
from runtime.video.sink import FORMATS, open_sink
from runtime.video.source import SourceInfo, VideoFrame, open_source
from runtime.video.uri import parse_sink

HERE = [name for names in usable().values() for name in names]


def known(name: str) -> Encoder:
    return next(one for one in ENCODERS if one.name == name)


def panning(count: int, width: int = 176, height: int = 144) -> Iterator[VideoFrame]:
    """A window that moves over a real photo, 25 frames a second."""
    from calib.dataset import CalibrationSet

    photo = CalibrationSet.built_in().frames[0]
    photo = cv2.resize(photo, (width + 2 * count, height + count), interpolation=cv2.INTER_AREA)
    for index in range(count):
        image = np.ascontiguousarray(photo[index : index + height, 2 * index : 2 * index + width])
        yield VideoFrame(image, Fraction(index, 25), index, Fraction(1, 25))


@pytest.fixture(scope="module")
def hamilton(assets: Any) -> list[VideoFrame]:
    """Six seconds of a real clip, 320x180 pixels, at 25 frames a second."""
    frames: list[VideoFrame] = []
    with open_source(str(assets("video/short_hamilton_clip.mp4"))) as source:
        for frame in source:
            image = np.asarray(cv2.resize(frame.image, (320, 180), interpolation=cv2.INTER_AREA), dtype=np.uint8)
            index = len(frames)
            frames.append(VideoFrame(image, Fraction(index, 25), index, Fraction(1, 25)))
            if len(frames) == 150:
                break
    return frames


def written(path: Path, frames: list[VideoFrame], **settings: Any) -> int:
    """Encode the frames; returns the file's bytes."""
    height, width = frames[0].image.shape[:2]
    info = SourceInfo("test", width, height, Fraction(25), Fraction(1, 25))
    with open_sink(str(path), source=info, width=width, height=height, threads=1, **settings) as sink:
        for frame in frames:
            sink.write(frame)
    return path.stat().st_size


def psnr(path: Path, frames: list[VideoFrame]) -> float:
    with open_source(str(path)) as source:
        images = [frame.image for frame in source]
    return compare(zip((frame.image for frame in frames), images, strict=True)).psnr_db


def stream_of(path: Path) -> tuple[str, str]:
    """(codec, pixel format) of a file, as FFmpeg reads them."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.codec.canonical_name, str(context.pix_fmt)


# --- what opens here ---


def test_every_codec_has_an_encoder_that_opens_here() -> None:
    assert all(usable().values())


@pytest.mark.parametrize("name", HERE)
def test_every_encoder_that_opens_brings_the_pictures_back(tmp_path: Path, name: str) -> None:
    frames, out = list(panning(20)), tmp_path / "out.mkv"
    written(out, frames, codec=name, **({} if known(name).quality else {"bitrate": 2_000_000}))
    assert stream_of(out)[0] == known(name).codec
    assert psnr(out, frames) > 33


def scheduling() -> dict[int, int]:
    """Policy of every thread of this process."""
    found = {}
    for entry in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = os.sched_getscheduler(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a policy on Linux")
@pytest.mark.parametrize("settings", [{}, {"segment": 3, "fragmented": True}], ids=["whole", "segments"])
@pytest.mark.parametrize("name", HERE)
def test_no_encoder_makes_this_a_real_time_process(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    """As root SVT-AV1 does, and then engines that spin keep the processors from whom they wait for."""
    assert trouble_with.__wrapped__(name) == ""
    assert set(scheduling().values()) == {os.SCHED_OTHER}
    frames, seen = list(panning(8)), set()
    more = {} if known(name).quality else {"bitrate": 2_000_000}
    info = SourceInfo("test", 176, 144, Fraction(25), Fraction(1, 25))
    out = str(tmp_path / "out.mkv")
    with open_sink(out, source=info, width=176, height=144, threads=2, codec=name, **more, **settings) as sink:
        for frame in frames:
            sink.write(frame)
            seen |= set(scheduling().values())
    assert seen | set(scheduling().values()) == {os.SCHED_OTHER}


@pytest.mark.parametrize("name", HERE)
def test_a_larger_crf_makes_a_smaller_file_of_less_quality(tmp_path: Path, name: str) -> None:
    if not known(name).quality:
        pytest.skip(f"{name} has no quality")
    frames = list(panning(15))
    sizes, qualities = [], []
    for crf in (15, 30, 45):
        out = tmp_path / f"{crf}.mkv"
        sizes.append(written(out, frames, codec=name, crf=crf))
        qualities.append(psnr(out, frames))
    assert sizes == sorted(sizes, reverse=True)
    assert qualities == sorted(qualities, reverse=True)
    assert sizes[0] > 2 * sizes[2]


@pytest.mark.parametrize("name", HERE)
def test_the_bit_rate_is_met(tmp_path: Path, name: str, hamilton: list[VideoFrame]) -> None:
    size = written(tmp_path / "out.mkv", hamilton, codec=name, bitrate=1_000_000)
    assert 8 * size / (len(hamilton) / 25) == pytest.approx(1_000_000, rel=0.15)


@pytest.mark.parametrize("name", [name for name in HERE if len(formats_of(name)) > 1])
def test_pixel_formats_are_what_was_asked_for(tmp_path: Path, name: str) -> None:
    frames = list(panning(4))
    for pix_fmt in PIX_FMTS:
        if as_taken(pix_fmt, formats_of(name)) is not None:
            out = tmp_path / f"{pix_fmt}.mkv"
            written(out, frames, codec=name, pix_fmt=pix_fmt)
            assert stream_of(out) == (known(name).codec, pix_fmt)
            assert psnr(out, frames) > 30


def test_ten_bits_keep_more_of_a_ramp_than_eight(tmp_path: Path) -> None:
    """A slow ramp in BT.601: what 8 bits of limited range round away, 10 bits keep."""
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    frames = [VideoFrame(np.ascontiguousarray(ramp), Fraction(i, 25), i, Fraction(1, 25)) for i in range(3)]
    for pix_fmt in ("yuv420p", "yuv420p10le"):
        written(tmp_path / f"{pix_fmt}.mp4", frames, codec="hevc", crf=0, pix_fmt=pix_fmt)
    assert psnr(tmp_path / "yuv420p10le.mp4", frames) > psnr(tmp_path / "yuv420p.mp4", frames) + 3


@pytest.mark.parametrize(("codec", "pix_fmt"), [("h264", "yuv444p"), ("hevc", "yuv444p"), ("av1", "yuv420p")])
def test_odd_sizes_keep_every_pixel(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    frames, out = list(panning(3, 65, 49)), tmp_path / "out.mkv"
    written(out, frames, codec=codec)
    assert stream_of(out) == (codec, pix_fmt)
    assert psnr(out, frames) > 30


@pytest.mark.parametrize("codec", ["hevc", "av1", "vp9"])
def test_presets_are_understood(tmp_path: Path, codec: str) -> None:
    """From the fastest to one that is not yet slow: all open, and effort pays."""
    frames = list(panning(12))
    sizes = {preset: written(tmp_path / f"{preset}.mkv", frames, codec=codec, preset=preset) for preset in PRESETS[::3]}
    assert len(set(sizes.values())) > 1


# --- what it becomes for hardware that is not here ---


def test_options_of_hardware_are_spelled_as_ffmpeg_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "trouble_with", lambda name: "")

    def options(name: str, **more: Any) -> dict[str, str]:
        preset = more.pop("preset", "veryfast")
        return dict(encoding_for(parse_sink("o.mp4"), name, more.pop("crf", None), preset, 0, **more).options)

    assert options("h264_nvenc", crf=23) == {"cq": "23", "rc": "vbr", "b": "0", "preset": "p2"}
    assert options("libx264", bitrate=4_000_000)["bufsize"] == "8000000"
    assert options("hevc_nvenc", bitrate=4_000_000, preset="p7") == {"b": "4000000", "rc": "vbr", "preset": "p7"}
    assert options("h264_qsv", crf=23.6, preset="ultrafast") == {"global_quality": "24", "preset": "veryfast"}
    assert options("av1_qsv", bitrate=800_000) == {"b": "800000", "preset": "veryfast"}
    assert options("h264_v4l2m2m", bitrate=800_000) == {"b": "800000"}
    with pytest.raises(UsageError, match=r"h264_v4l2m2m cannot be told a quality: give --bitrate"):
        options("h264_v4l2m2m", crf=20)
    with pytest.raises(UsageError, match=r"crf 0 is not between 1 and 51, as h264_nvenc has it"):
        options("h264_nvenc", crf=0)


def test_hardware_is_chosen_where_it_opens_and_can_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"libx264", "h264_qsv", "h264_v4l2m2m"}
    monkeypatch.setattr(encoders, "trouble_with", lambda name: "" if name in there else f"{name} is not here")

    def chosen(encoder: str, **more: Any) -> str:
        return encoding_for(parse_sink("o.mp4"), "h264", None, "fast", 0, encoder=encoder, **more).encoder

    assert chosen("software") == "libx264"
    assert chosen("auto") == chosen("hardware") == "h264_qsv"
    assert chosen("auto", pix_fmt="yuv444p") == "libx264"
    with pytest.raises(UsageError, match=r"h264_nvenc is not here; h264_qsv does not take yuv444p; .*--encoder hard"):
        chosen("hardware", pix_fmt="yuv444p")
    there.remove("h264_qsv")
    assert chosen("auto") == "libx264"  # the other one has no quality
    assert chosen("auto", bitrate=1_000_000) == "h264_v4l2m2m"


def test_pixels_in_the_order_of_hardware() -> None:
    assert as_taken("yuv420p", ("nv12", "p010le")) == "nv12"
    assert as_taken("yuv420p10le", ("nv12", "p010le")) == "p010le"
    assert as_taken("yuv444p", ("nv12", "p010le")) is None


# --- what cannot be ---


@pytest.mark.parametrize(
    ("output", "settings", "said"),
    [
        ("o.webm", {"codec": "h264"}, r"a \.webm file holds vp9 or av1, not h264: use \.mp4 or \.mkv"),
        ("o.mov", {"codec": "av1"}, r"a \.mov file holds h264 or hevc, not av1"),
        ("o.mp4", {"codec": "h263"}, r"unknown codec h263: h264, hevc, av1, vp9, or an encoder: libx264"),
        ("o.mp4", {"preset": "quick"}, r"unknown preset quick of libx264: light, or one of ultrafast"),
        ("o.mp4", {"codec": "vp9", "preset": "9"}, r"unknown preset 9 of libvpx-vp9: .* or 0 to 8"),
        ("o.mp4", {"crf": 99}, r"crf 99 is not between 0 and 51, as libx264 has it"),
        ("o.mp4", {"crf": 20, "bitrate": 1_000_000}, r"give one of them"),
        ("o.mp4", {"pix_fmt": "rgb24"}, r"unknown pixel format rgb24: one of yuv420p"),
        ("o.mp4", {"codec": "libx264", "encoder": "hardware"}, r"libx264 is no hardware encoder"),
        ("rtsp://h/x", {"codec": "vp9"}, r"a stream is h264 or hevc, not vp9"),
    ],
)
def test_refused_in_one_sentence(output: str, settings: dict[str, Any], said: str) -> None:
    settings = {"codec": None, "crf": None, "preset": "veryfast", "threads": 0, **settings}
    with pytest.raises(UsageError, match=said) as caught:
        encoding_for(parse_sink(output), **settings)
    assert "\n" not in str(caught.value)


def test_pixels_that_an_encoder_does_not_take_are_refused_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    takes = {"libx264": ("yuv420p", "yuv444p"), "libsvtav1": ("yuv420p", "yuv420p10le")}
    monkeypatch.setattr(encoders, "formats_of", lambda name: takes.get(name, ("yuv420p",)))
    monkeypatch.setattr(encoders, "trouble_with", lambda name: "")
    said = "^libsvtav1 does not take yuv444p, but yuv420p, yuv420p10le; --codec h264 takes it$"
    with pytest.raises(UsageError, match=said):
        encoding_for(parse_sink("o.mp4"), "av1", None, "fast", 0, pix_fmt="yuv444p")
    takes["libx264"] = ("yuv420p",)
    encoding = encoding_for(parse_sink("o.mp4"), "h264", None, "fast", 0)
    with pytest.raises(UsageError, match=r"^libx264 takes no frames of 65x49, an odd size"):
        encoding.pixel_format(65, 49)


def test_an_odd_size_that_does_not_fit_the_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"frames of 65x49 do not fit yuv420p of libx264: use --pix-fmt yuv444p"):
        written(tmp_path / "o.mp4", list(panning(1, 65, 49)), pix_fmt="yuv420p")
    assert not list(tmp_path.iterdir())


def test_hardware_that_is_not_here_is_a_sentence_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = next((one.name for one in ENCODERS if one.needs and trouble_with(one.name)), None)
    if absent is None:
        pytest.skip("every encoder of hardware opens here")
    arguments = ["run", "-b", "none", "-i", "none.mp4", "-o", str(tmp_path / "o.mkv"), "--codec", absent]
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {absent} does not open here, it needs ")
    assert said.count("\n") == 1
    assert f"--codec {known(absent).codec} encodes in software" in said


@pytest.mark.parametrize("suffix", list(CONTAINERS))
def test_containers_hold_what_the_table_says(tmp_path: Path, suffix: str) -> None:
    with av.open(str(tmp_path / f"o{suffix}"), "w", format=FORMATS[suffix]) as out:
        for codec in CONTAINERS[suffix]:
            out.add_stream(next(name for name in HERE if known(name).codec == codec), rate=25)
    if suffix == ".webm":
        with av.open(str(tmp_path / "o.webm"), "w", format="webm") as out, pytest.raises(ValueError, match="support"):
            out.add_stream("libx264", rate=25)


# --- bit rates ---


@given(st.integers(1000, 1_000_000_000))
def test_a_bit_rate_is_read_as_it_is_written(bits: int) -> None:
    assert bits_a_second(str(bits)) == bits
    if bits % 1000 == 0:
        assert bits_a_second(f"{bits // 1000}k") == bits
    assert bits_a_second(f"{bits / 1_000_000:.6f}M") == bits


@pytest.mark.parametrize("text", ["", "4Mb", "-1", "999", "4 M", "1e6", "2000M", "١k"])
def test_what_is_no_bit_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no bit rate"):
        bits_a_second(text)


def test_codecs_have_a_software_encoder_first() -> None:
    for codec in CODECS:
        assert not next(one for one in ENCODERS if one.codec == codec).needs
