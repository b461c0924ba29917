"""Small video files of every kind, with real pictures, sound, subtitles, chapters and tags; and what is in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet

from calib.dataset import CalibrationSet

Frame = np.ndarray
SMOOTH = 0x2 | 0x40000 | 0x2000  # bilinear, accurately rounded, chroma interpolated: as exact as swscale can
SWS_OF = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}  # swscale's number of a matrix of ITU-T H.273
ASS_HEAD = (
    b"[Script Info]\r\nScriptType: v4.00+\r\nPlayResX: 384\r\nPlayResY: 288\r\n\r\n[V4+ Styles]\r\nFormat: Name, "
    b"Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, "
    b"StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, "
    b"Encoding\r\nStyle: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0\r\n\r\n"
    b"[Events]\r\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)


@dataclass(frozen=True)
class Sound:
    """A track of sound, a tone; ``start`` and ``seconds`` on the file's clock."""

    codec: str = "aac"
    layout: str = "stereo"
    rate: int = 48_000
    start: Fraction = Fraction(0)
    seconds: Fraction = Fraction(1)
    tags: dict[str, str] = field(default_factory=dict)
    disposition: int = 1


@dataclass(frozen=True)
class Subtitles:
    """A track of text; ``lines`` are (begin, end in milliseconds, text as ASS has it)."""

    codec: str
    lines: tuple[tuple[int, int, str], ...] = ((100, 400, "Hello"), (500, 900, "two {\\i1}words{\\i0}"))
    tags: dict[str, str] = field(default_factory=dict)
    disposition: int = 0


@cache
def _photo(index: int) -> Frame:
    return np.ascontiguousarray(CalibrationSet.built_in().frames[index])


def pictures(count: int, size: tuple[int, int], photo: int = 0) -> list[Frame]:
    """A window of ``size`` (width, height) that moves over a real photo by two pixels a frame; uint8 BGR."""
    width, height = size
    whole = _photo(photo)
    room = whole.shape[1] - width
    lefts = [abs((2 * i + room) % (2 * room) - room) if room else 0 for i in range(count)]
    return [np.ascontiguousarray(whole[40 : 40 + height, left : left + width]) for left in lefts]


def tone(sound: Sound) -> list[Any]:
    """Frames of 1024 samples: a tone whose loudness changes, of another height in every channel."""
    channels = av.AudioLayout(sound.layout).nb_channels
    count = round(sound.seconds * sound.rate)
    time = np.arange(count) / sound.rate
    waves = [0.2 * np.sin(2 * np.pi * (220 + 110 * i) * time) * np.sin(2 * np.pi * time) for i in range(channels)]
    frames = []
    for begin in range(0, count, 1024):
        block = np.ascontiguousarray(np.stack(waves)[:, begin : begin + 1024].astype(np.float32))
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=sound.layout)
        frame.sample_rate, frame.time_base = sound.rate, Fraction(1, sound.rate)
        frame.pts = begin + round(sound.start * sound.rate)
        frames.append(frame)
    return frames


def write_clip(
    path: Path,
    *,
    ticks: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    size: tuple[int, int] = (96, 72),
    images: Sequence[Frame] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    color: tuple[int, int, int] | None = None,
    full: bool = False,
    rotate: int = 0,
    sample_aspect: Fraction | None = None,
    interlaced: bool = False,
    rate: Fraction = Fraction(25),
    stored: Sequence[int] | None = None,
    sounds: Sequence[Sound] = (),
    subtitles: Sequence[Subtitles] = (),
    chapters: Sequence[tuple[int, int, str]] = (),
    tags: dict[str, str] | None = None,
    video_tags: dict[str, str] | None = None,
    attachments: Sequence[tuple[str, str, bytes]] = (),
    format: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video file and return its path.

    ``color``: matrix, primaries and transfer by H.273; the pixels follow the matrix. ``rotate``: degrees
    counterclockwise at which it is to be shown. ``stored``: ticks that the file has instead of ``ticks``, for times
    that no encoder takes (it must not reorder frames). ``chapters``: (begin, end in milliseconds, title). Tracks are
    laid into the file in order of their times.
    """
    ticks = list(range(25)) if ticks is None else list(ticks)
    images = pictures(len(ticks), size) if images is None else images
    usual = {"libx264": {"crf": "4", "preset": "ultrafast"}, "libx265": {"crf": "6", "x265-params": "log-level=error"}}
    with av.open(str(path), "w", format=format, options=container_options or {}) as out:
        video: Any = out.add_stream(codec, rate=rate)
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        video.options = options if options is not None else usual.get(codec, {})
        video.time_base = video.codec_context.time_base = time_base
        context = video.codec_context
        context.color_range = 2 if full else 1
        if color is not None:
            context.colorspace, context.color_primaries, context.color_trc = color
        if sample_aspect is not None:
            context.sample_aspect_ratio = sample_aspect
        if interlaced:
            context.flags |= 0x40000 | 0x20000000  # interlaced DCT and motion estimation
        if rotate:
            video.set_display_rotation(rotate)
        video.metadata.update(video_tags or {})
        heard: list[Any] = []
        for sound in sounds:
            track: Any = out.add_stream(sound.codec, rate=sound.rate)
            track.codec_context.layout = sound.layout
            track.metadata.update(sound.tags)
            track.disposition = sound.disposition
            heard.append(track)
        read: list[Any] = []
        for each in subtitles:
            track = out.add_stream(each.codec)
            track.codec_context.subtitle_header = ASS_HEAD
            track.time_base = track.codec_context.time_base = Fraction(1, 1000)
            track.metadata.update(each.tags)
            track.disposition = each.disposition
            read.append(track)
        for name, kind, data in attachments:
            out.add_attachment(name, kind, data)
        out.metadata.update(tags or {})
        if chapters:
            out.set_chapters(
                [
                    {
                        "id": number,
                        "start": begin,
                        "end": end,
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": title},
                    }
                    for number, (begin, end, title) in enumerate(chapters, 1)
                ]
            )
        out.start_encoding()
        packets = []
        for image, tick in zip(images, ticks, strict=True):
            frame = _coded(image, pix_fmt, color, full)
            frame.pts, frame.time_base = tick, time_base
            packets += video.encode(frame)
        packets += video.encode(None)
        for index, (packet, tick) in enumerate(zip(packets, stored or (), strict=False)):
            packet.pts, packet.dts = tick, min(tick, index)
        for track, sound in zip(heard, sounds, strict=True):
            resampler = av.AudioResampler(track.codec_context.format, sound.layout, sound.rate)
            for block in tone(sound):
                for frame in resampler.resample(block):
                    packets += track.encode(frame)
            packets += track.encode(None)
        for track, each in zip(read, subtitles, strict=True):
            packets += [_text(track, number, *line) for number, line in enumerate(each.lines)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return path


def _coded(image: Frame, pix_fmt: str, color: tuple[int, int, int] | None, full: bool) -> Any:
    frame = av.VideoFrame.from_ndarray(image, format="bgr24")
    if pix_fmt == "bgr24":
        return frame
    matrix = color[0] if color is not None else 6
    return frame.reformat(
        format=pix_fmt,
        dst_colorspace=SWS_OF.get(matrix, 5),
        src_color_range=2,
        dst_color_range=2 if full else 1,
        interpolation=SMOOTH,
    )


def _text(track: Any, number: int, begin: int, end: int, text: str) -> Any:
    line = SubtitleSet.create(text=f"{number},0,Default,,0,0,0,,{text}".encode(), start=0, end=end - begin, pts=0)
    packet = track.codec_context.encode_subtitle(line)
    packet.pts = packet.dts = begin
    packet.duration, packet.time_base = end - begin, Fraction(1, 1000)
    packet.stream = track
    return packet


# --- what is in a file ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A frame as a player shows it: ``image``: uint8 (H, W, 3) RGB, upright; ``time``: seconds on the file's clock."""

    image: Frame
    time: Fraction
    color: tuple[int, int, int, int]  # matrix, primaries, transfer, range
    interlaced: bool


def shown(path: Path) -> list[Shown]:
    """The frames of a file by a way of its own: FFmpeg's decoder, swscale by the file's tags, numpy's rotation."""
    found = []
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not int(s.disposition) & 0x400)
        for frame in container.decode(stream):
            matrix, given = int(frame.colorspace), int(frame.color_range)
            tags = (matrix, int(frame.color_primaries), int(frame.color_trc), given)
            if not frame.format.is_rgb and not frame.format.name.startswith("pal"):
                if matrix not in SWS_OF:
                    matrix = 1 if frame.height >= 720 or frame.width >= 1280 else 6
                full = given == 2 or frame.format.name.startswith("yuvj")
                converted = frame.reformat(
                    format="rgb24",
                    src_colorspace=SWS_OF[matrix],
                    src_color_range=2 if full else 1,
                    dst_color_range=2,
                    interpolation=SMOOTH,
                )
            else:
                converted = frame.reformat(format="rgb24", interpolation=SMOOTH)
            ticks = frame.pts if frame.pts is not None else frame.dts
            image = np.rot90(converted.to_ndarray(), round(frame.rotation / 90))
            found.append(Shown(image, ticks * frame.time_base, tags, bool(frame.interlaced_frame)))
    return found


@dataclass(frozen=True)
class Track:
    """A track other than the video: what it says of itself, and its packets as (seconds, length in seconds, bytes)."""

    kind: str
    codec: str
    tags: dict[str, str]
    disposition: int
    packets: list[tuple[Fraction, Fraction, bytes]]

    @property
    def data(self) -> list[bytes]:
        return [packet[2] for packet in self.packets]


def tracks(path: Path, kind: str) -> list[Track]:
    """The tracks of a kind (audio, subtitle) with all their packets."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        packets: dict[int, list[Any]] = {stream.index: [] for stream in streams}
        for packet in container.demux(*streams) if streams else ():
            if packet.size:
                base = packet.time_base
                packets[packet.stream.index].append((packet.pts * base, (packet.duration or 0) * base, bytes(packet)))
        return [
            Track(kind, s.codec_context.name, dict(s.metadata), int(s.disposition), packets[s.index]) for s in streams
        ]


def texts(path: Path) -> list[list[tuple[int, int, str]]]:
    """Of every subtitle track: (begin, end in milliseconds, text without its styles)."""
    found = []
    with av.open(str(path)) as container:
        for stream in container.streams.subtitles:
            lines = []
            for packet in container.demux(stream):
                for subtitle in packet.decode() if packet.size else ():
                    text = subtitle.dialogue.decode()
                    begin = round(packet.pts * packet.time_base * 1000)
                    lines.append((begin, begin + round(packet.duration * packet.time_base * 1000), text))
            found.append(lines)
            container.seek(0)
    return found


def marks(path: Path) -> list[tuple[int, int, str]]:
    """The chapters of a file: (begin, end in milliseconds, title)."""
    with av.open(str(path)) as container:
        return [
            (
                round(each["start"] * each["time_base"] * 1000),
                round(each["end"] * each["time_base"] * 1000),
                each["metadata"].get("title", ""),
            )
            for each in container.chapters()
        ]


def tags_of(path: Path) -> dict[str, str]:
    """The tags of a file, their names in small letters."""
    with av.open(str(path)) as container:
        return {key.lower(): value for key, value in container.metadata.items()}
