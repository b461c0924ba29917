"""Where frames come from: video files, streams and pipes (PyAV), cameras, GStreamer and pictures (OpenCV).

Every source gives ``VideoFrame``s: the picture as ``uint8 (H, W, 3) BGR``, upright, in full range, and its
exact time. End of stream (``None``), a source that stays silent (``SourceTimeoutError``) and a source that breaks
(``EndedEarlyError``, ``VideoError``) are three different outcomes.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from runtime.errors import EndedEarlyError, UsageError, VideoError
from runtime.frames import Frame
from runtime.video.convert import LUMA, BgrTo420, bgr_from_planes, plane_of
from runtime.video.seek import list_packets, seek_frames
from runtime.video.uri import PATTERN, PICTURE_SUFFIXES, SourceKind, SourceUri, parse_source

S = TypeVar("S", bound="Source")  # typing.Self comes with Python 3.11; JetPack 6 has 3.10

# Codes of ITU-T H.273, as FFmpeg uses them
UNSPECIFIED = 2
MATRIX_RGB, MATRIX_BT709, MATRIX_FCC, MATRIX_BT470BG, MATRIX_BT601, MATRIX_SMPTE240M = 0, 1, 4, 5, 6, 7
MATRIX_BT2020, MATRIX_BT2020_CL = 9, 10
TRANSFER_PQ, TRANSFER_HLG = 16, 18
# FFmpeg's AVColorRange
RANGE_LIMITED, RANGE_FULL = 1, 2
# swscale's names (SWS_CS_*) for the same matrices
SWS_OF_MATRIX = {
    MATRIX_BT709: 1,
    MATRIX_FCC: 4,
    MATRIX_BT470BG: 5,
    MATRIX_BT601: 5,
    MATRIX_SMPTE240M: 7,
    MATRIX_BT2020: 9,
    MATRIX_BT2020_CL: 9,
}
_LOW_DELAY = 0x80000  # AV_CODEC_FLAG_LOW_DELAY: no frame waits in the decoder for one that might come before it
# bilinear + accurate rounding + chroma interpolated to full resolution: a flat colour comes back within 1 level;
# without the two flags it is 3 to 5 levels off (measured over 10 colours, 3 matrices, 2 ranges), for 2 ms less at 720p
SWS_FLAGS = 0x2 | 0x40000 | 0x2000

SILENCE = 2.5  # seconds after which a stream that is live by its nature counts as lost
_LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "udp", "srt")
_PIPED = " (an MP4 can be read from a pipe if its index is in front: ffmpeg -movflags faststart, or frag_keyframe)"
_UNTIMED = ("mpjpeg", "mjpeg")  # formats without times: FFmpeg makes them up, 25 frames a second
_TICKS = 90_000  # ticks a second; the usual clock of video
ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC: cover art, not video
_CLOCK_JUMP = Fraction(1)  # a step back by more than a second is a restarted clock, not a jitter


class SourceTimeoutError(VideoError):
    """A camera or a stream gave no frame for longer than allowed; it may come back."""


@dataclass
class VideoFrame:
    """One picture and its time.

    ``image``: uint8 (H, W, 3) BGR, C-contiguous, writable, owned by whoever received the frame.
    ``pts``: seconds since the source's first frame, exact. ``index``: counts frames from 0.
    ``duration``: seconds that the frame is shown, where the source says so. ``gap``: the source knows that something is
    missing between the frame before and this one. ``damaged``: the decoder could not read all of it, and has filled
    the rest with what it had. ``captured``: when a live source took it, in seconds of ``time.monotonic()``; None for
    files. ``original``: the image before all stages, for a sink that compares; None unless it was asked for.
    ``cut``: whether another shot begins with it, where somebody has looked at a picture that has become another since;
    None: nobody has.
    """

    image: Frame
    pts: Fraction
    index: int
    duration: Fraction | None = None
    gap: bool = False
    damaged: bool = False
    captured: float | None = None
    original: Frame | None = None
    cut: bool | None = None


@dataclass(frozen=True)
class Gap:
    """A time without frames of a live source that was lost and came back.

    ``after``: frames before it. ``pts``: time of the last of them, seconds. ``seconds``: how long. ``reason``: why.
    """

    after: int
    pts: float
    seconds: float
    reason: str


@dataclass(frozen=True)
class ColorInfo:
    """How a video's pixels mean colour; codes of ITU-T H.273. ``matrix`` is resolved, the others may be 2, unknown.

    ``stated``: the file names its matrix; else it is the one that players assume.
    """

    matrix: int
    full_range: bool
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    stated: bool = True


@dataclass(frozen=True)
class SourceInfo:
    """What is known about a source when it opens.

    ``width``, ``height``: pixels of the frames given, after rotation. ``rate``: mean frames a second.
    ``time_base``: seconds; every ``pts`` is a multiple of it, except where timestamps had to be made up.
    ``frame_count``, ``duration`` (seconds): what the file says, not a promise; None for live sources.
    ``start``: seconds on the file's own clock at which the first frame is shown (its audio uses the same clock).
    ``rotation``: degrees clockwise that were applied. ``sample_aspect``: width over height of a pixel.
    ``path``: of a file that can be read more than once.
    """

    uri: str
    width: int
    height: int
    rate: Fraction | None
    time_base: Fraction
    frame_count: int | None = None
    live: bool = False
    path: Path | None = None
    start: Fraction = Fraction(0)
    duration: Fraction | None = None
    rotation: int = 0
    sample_aspect: Fraction = Fraction(1)
    codec: str = ""
    color: ColorInfo | None = None
    audio: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """Size, rate and codec in words."""
        return _said(self.width, self.height, self.rate, self.codec)


@dataclass(frozen=True)
class SourceOptions:
    """Wishes for a source. Each is used only where it means something.

    ``width``, ``height`` (pixels), ``rate`` (frames a second), ``fourcc`` (four letters, such as MJPG): what a camera
    is asked for; ``rate`` is also the rate of a sequence of pictures. ``timeout``: seconds that a camera or a stream
    may stay silent. ``silence``: the same once it is open; None: 2.5 for streams that are live by nature, RTSP and the
    like, else ``timeout``.
    ``threads``: decoder threads, 0 = as many as there are cores. ``ffmpeg``: names and values of FFmpeg's options.
    ``ahead``: read a file one frame ahead, and so know how long each is shown. ``all_damage``: every frame that the
    decoder could not read whole is ``damaged``; where several frames are decoded at once, it does not always say so.
    """

    width: int | None = None
    height: int | None = None
    rate: Fraction | None = None
    timeout: float = 10.0
    silence: float | None = None
    threads: int = 0
    ffmpeg: tuple[tuple[str, str], ...] = ()
    fourcc: str | None = None
    ahead: bool = True
    all_damage: bool = False


class Source(ABC):
    """Gives frames one after the other, to one thread. A context manager.

    ``warnings`` collects sentences about what was mended on the way; read it at the end. ``dropped``: frames that a
    live source has left out. ``gaps``: where a live source was lost and came back; grows while it runs.
    """

    info: SourceInfo
    warnings: list[str]
    dropped: int = 0
    gaps: Sequence[Gap] = ()

    @abstractmethod
    def read(self) -> VideoFrame | None:
        """The next frame, or None at the end of the stream.

        Raises ``SourceTimeoutError`` (no frame in time), ``EndedEarlyError`` (the source broke off; all frames before
        were given) or ``VideoError``.
        """

    def skip(self, count: int) -> None:
        """Leave out the next ``count`` frames, as if they had been read. Raises what ``read`` does."""
        for _ in range(count):
            if self.read() is None:
                return

    def interrupt(self) -> None:  # noqa: B027 - a file never waits for long
        """Called from any thread: a ``read`` that waits for a live source soon gives None, as do all later ones."""

    @abstractmethod
    def close(self) -> None:
        """Free the device or file. Calling it twice is harmless."""

    def __iter__(self) -> Iterator[VideoFrame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_source(text: str, *, options: SourceOptions | None = None) -> Source:
    """Open INPUT ``text`` (see ``uri.parse_source``) and decode as far as its first frame.

    Raises ``UsageError`` for what cannot be right, ``VideoError`` for what cannot be read.
    """
    uri = parse_source(text)
    options = options or SourceOptions()
    if uri.kind is SourceKind.CAMERA:
        return CameraSource(uri, options)
    if uri.kind in (SourceKind.CSI, SourceKind.GSTREAMER):
        return GStreamerSource(uri, options)
    if uri.kind in (SourceKind.PATTERN, SourceKind.FOLDER, SourceKind.PICTURE):
        return ImageSource(uri, options)
    return FileSource(uri, options)


# --- timestamps -----------------------------------------------------------------------------------------------------


class Timestamps:
    """Turns the timestamps of a stream into strictly rising times that start at 0.

    Good timestamps pass unchanged, exactly. A missing one is one frame later than its predecessor; a repeated one is
    one tick later; a clock that restarts goes on where it was, and ``restarted`` is true for that frame.
    """

    def __init__(self, time_base: Fraction, frame_duration: Fraction) -> None:
        self.time_base = time_base
        self.frame_duration = frame_duration
        self.start: Fraction | None = None  # time of the first frame on the stream's own clock, seconds
        self.made_up = 0
        self.restarted = False
        self._offset = Fraction(0)
        self._last: Fraction | None = None

    def next(self, ticks: int | None) -> Fraction:
        """Time of the next frame in seconds since the first; ``ticks`` in ``time_base``, or None where missing."""
        self.restarted = False
        if self._last is None or self.start is None:
            self.start = Fraction(0) if ticks is None else ticks * self.time_base
            self.made_up += ticks is None
            self._last = Fraction(0)
            return self._last
        following = self._last + self.frame_duration
        if ticks is None:
            self.made_up += 1
            self._last = following
            return following
        pts = ticks * self.time_base - self.start + self._offset
        if pts <= self._last:
            self.made_up += 1
            if self._last - pts > _CLOCK_JUMP:
                self._offset += following - pts
                pts = following
                self.restarted = True
            else:
                pts = self._last + min(self.time_base, self.frame_duration)
        self._last = pts
        return pts


class ArrivalClock:
    """When the frames of a live stream were taken, as far as this machine can tell.

    The stream's own times are laid onto the local clock by the packet that came soonest after its time: every other one
    has waited as much longer, at the server, in the network, or here. What all of them waited cannot be seen.
    """

    DRIFT = 1e-4  # by so much may the sender's clock be slower than ours, which is no waiting; crystals are within 5e-5

    def __init__(self) -> None:
        self._zero: float | None = None  # local time of the stream's time 0
        self._noted = 0.0
        self._last = 0.0

    def note(self, time: float, now: float) -> None:
        """A packet with ``time``, seconds on the stream's clock, has come at ``now``, seconds on ours."""
        zero = now - time
        if self._zero is not None and time > self._last - _CLOCK_JUMP:
            zero = min(zero, self._zero + self.DRIFT * (now - self._noted))
        self._zero, self._noted, self._last = zero, now, time

    def captured(self, time: float | None, now: float) -> float:
        """Seconds on our clock at which the frame of ``time`` was taken: never later than ``now``."""
        return now if time is None or self._zero is None else min(now, self._zero + time)


# --- orientation ----------------------------------------------------------------------------------------------------


class Orientation(NamedTuple):
    """One of the eight ways to lay a picture: transpose first, then mirror."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def from_matrix(cls, matrix: bytes) -> Orientation:
        """From a display matrix: nine int32, row-major ``a b u c d v x y w``, with x' = a x + c y and y' = b x + d y.

        A turn that is no multiple of 90 degrees becomes the nearest one.
        """
        values = np.frombuffer(matrix[:36], dtype=np.int32).astype(float)
        a, b, c, d = values[0], values[1], values[3], values[4]
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, bool(a < 0), bool(d < 0))
        return cls(True, bool(c < 0), bool(b < 0))

    @property
    def degrees(self) -> int:
        """Clockwise turn; of a mirrored picture, the turn before it is mirrored left to right."""
        if self.transpose:
            return 270 if self.mirror_y else 90
        return 180 if self.mirror_y else 0

    @property
    def mirrored(self) -> bool:
        """Whether it is more than a turn."""
        return (self.transpose + self.mirror_x + self.mirror_y) % 2 == 1

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after laying the picture upright."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, image: Frame) -> Frame:
        """The picture laid upright, uint8 (H', W', 3), contiguous; the same array where nothing changes."""
        import cv2

        turns = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
        result: Any = image
        if self.degrees:
            result = cv2.rotate(image, turns[self.degrees])
        if self.mirrored:
            result = cv2.flip(result, 1)
        return np.ascontiguousarray(result, dtype=np.uint8)


# --- colour ---------------------------------------------------------------------------------------------------------


def matrix_for_size(width: int, height: int) -> int:
    """The matrix that players assume for untagged video: BT.709 for HD, BT.601 below."""
    return MATRIX_BT709 if height >= 720 or width >= 1280 else MATRIX_BT601


def color_of(frame: Any) -> ColorInfo:
    """Colour of a decoded ``av.VideoFrame``, with unknown matrix and range resolved."""
    name = frame.format.name
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if frame.format.is_rgb or name.startswith("pal"):
        return ColorInfo(MATRIX_RGB, True, primaries, transfer)
    matrix = int(frame.colorspace)
    stated_matrix = matrix in SWS_OF_MATRIX
    if not stated_matrix:
        matrix = matrix_for_size(frame.width, frame.height)
    implied_full = name.startswith(("yuvj", "gray"))
    stated = int(frame.color_range)
    full = stated == RANGE_FULL or (stated != RANGE_LIMITED and implied_full)
    return ColorInfo(matrix, full, primaries, transfer, stated_matrix)


class Scaler:
    """One swscale context that is used again and again. ``av.VideoFrame`` in, ``av.VideoFrame`` out.

    From full BGR to 4:2:0 in limited range of the same even size, which is what nearly all video is written in, the way
    is that of :class:`runtime.video.convert.BgrTo420`.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._extra: dict[str, Any] = {"threads": 1}  # the pipeline has threads of its own
        self._to_420: BgrTo420 | None = None

    def __call__(self, frame: Any, **wanted: Any) -> Any:
        matrix = wanted.get("dst_colorspace")
        usual = {
            "format": "yuv420p",
            "src_color_range": RANGE_FULL,
            "dst_colorspace": matrix,
            "dst_color_range": RANGE_LIMITED,
        }
        if frame.format.name == "bgr24" and wanted == usual and matrix in LUMA and not (frame.width | frame.height) % 2:
            if self._to_420 is None or self._to_420.key != (frame.width, frame.height, matrix):
                self._to_420 = BgrTo420(frame.width, frame.height, matrix)
            return self._to_420(plane_of(frame.planes[0], 3))
        try:
            return self._reformatter.reformat(frame, interpolation=SWS_FLAGS, **wanted, **self._extra)
        except TypeError:
            if not self._extra:
                raise
            self._extra = {}  # PyAV before 17 does not know "threads"
            return self(frame, **wanted)


class ToBgr:
    """Converts decoded frames to ``uint8 (height, width, 3) BGR`` with the matrix and range of each frame."""

    def __init__(self, width: int, height: int) -> None:
        self._size = {"width": width, "height": height}
        self._scale = Scaler()

    def __call__(self, frame: Any) -> Frame:
        color = color_of(frame)
        if color.matrix == MATRIX_RGB:
            return plane_of(self._scale(frame, format="bgr24", **self._size).planes[0], 3).copy()
        converted = self._scale(
            frame,
            format="gbrp",  # swscale is faster at planes, and OpenCV at laying them together, than swscale at both
            **self._size,
            src_colorspace=SWS_OF_MATRIX[color.matrix],
            src_color_range=RANGE_FULL if color.full_range else RANGE_LIMITED,
            dst_color_range=RANGE_FULL,
        )
        return bgr_from_planes(converted)


# --- files and streams ----------------------------------------------------------------------------------------------


class _BrokeOffError(Exception):
    """The demuxer or the decoder gave up; says why."""


class FileSource(Source):
    """A video file, network stream or standard input, decoded by PyAV.

    Phones' rotation is applied, colours follow the stream's matrix and range, 10-bit video becomes 8-bit,
    variable frame rate is kept. Frames that change size on the way are scaled to the opening size.
    """

    def __init__(self, uri: SourceUri, options: SourceOptions) -> None:
        import av

        self.warnings = []
        self._name = uri.text
        self._error: VideoError | None = None
        self._given = 0
        self._damaged = 0
        self._resized = 0
        self._end = Fraction(0)  # seconds at which the last frame given ends
        # a named pipe cannot be read twice
        path = uri.path if uri.kind is SourceKind.FILE and uri.path.is_file() else None
        self._is_file = uri.kind is not SourceKind.NETWORK
        self._ahead = self._is_file and options.ahead
        self._container = _open_container(uri, options)
        try:
            self._stream = _video_stream(self._container, uri.text)
            # a stream of unknown length, and not a picture
            live = not (self._is_file or self._container.duration or self._container.format.name.endswith("_pipe"))
            self._arrivals = ArrivalClock() if live else None
            self._untimed = live and self._container.format.name in _UNTIMED
            # a frame for each thread is that many frames late, and not always told to be damaged
            self._stream.thread_type = "SLICE" if live or options.all_damage else "AUTO"
            if live:
                self._stream.codec_context.flags |= _LOW_DELAY
            self._stream.codec_context.thread_count = options.threads
            self._decoded = self._with_next(self._decode())
            try:
                first, following = next(self._decoded, (None, None))
            except _BrokeOffError as error:
                piped = uri.kind is SourceKind.STDIN and "mp4" in self._container.format.name
                raise VideoError(f"{uri.text}: no video frame can be decoded: {error}{_PIPED * piped}") from None
            if first is None:
                raise VideoError(f"{uri.text} holds no video frame")
            self._first: Any = first
            self._after_first: Any = following
            stream = self._stream
            rate = _sane_rate(stream.average_rate) or _sane_rate(getattr(stream, "guessed_rate", None))
            time_base = Fraction(first.time_base or stream.time_base or Fraction(1, 90_000))
            self._clock = Timestamps(time_base, 1 / rate if rate else Fraction(1, 25))
            self._orientation = _orientation_of(first)
            self._coded_size = (first.width, first.height)
            self._to_bgr = ToBgr(first.width, first.height)
            width, height = self._orientation.size(first.width, first.height)
            aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
            ticks = _ticks_of(first)
            start = Fraction(0) if ticks is None else ticks * time_base
            length = None if live else self._stated_length(start)
            self._expected = int(stream.frames or 0)
            self.info = SourceInfo(
                uri=uri.text,
                width=width,
                height=height,
                rate=rate,
                time_base=time_base,
                frame_count=None if live else self._expected or self._estimated_count(length, rate),
                live=live,
                path=path,
                start=start,
                duration=length,
                rotation=self._orientation.degrees,
                sample_aspect=1 / aspect if self._orientation.transpose else aspect,
                codec=stream.codec_context.name,
                color=color_of(first),
                audio=tuple(audio.codec_context.name for audio in self._container.streams.audio if audio.codec_context),
            )
            if getattr(first, "interlaced_frame", False):
                self.warnings.append(f"{uri.text} is interlaced: frames are used as they are, combing included")
            depth = max(component.bits for component in first.format.components)
            if any(component.is_alpha for component in first.format.components) and "gif" not in self.info.codec:
                self.warnings.append(f"{uri.text} has transparency, which is left out")
            if self.info.color and self.info.color.transfer in (TRANSFER_PQ, TRANSFER_HLG):
                self.warnings.append(f"{uri.text} is HDR video: it is cut down to 8 bits without tone mapping")
            elif depth > 8:
                self.warnings.append(f"{uri.text} has {depth} bits a colour: it is cut down to 8")
        except av.FFmpegError as error:
            self._container.close()
            raise VideoError(f"{uri.text} cannot be opened as video: {_words(error)}") from error
        except BaseException:
            self._container.close()
            raise

    def read(self) -> VideoFrame | None:
        decoded = self._next()
        if decoded is None:
            return None
        frame, pts, duration = decoded
        gap, damaged = self._clock.restarted, bool(getattr(frame, "is_corrupt", False))
        image = self._orientation.apply(self._to_bgr(frame))
        captured = None
        if self._arrivals is not None:
            ticks = _ticks_of(frame)
            captured = self._arrivals.captured(
                None if ticks is None else float(ticks * self.info.time_base), time.monotonic()
            )
        return VideoFrame(image, pts, self._given - 1, duration, gap, damaged, captured)

    def skip(self, count: int) -> None:
        """Leave out the next ``count`` frames, as if they had been read. Most of them are not even decoded where it is
        the first call and the file allows it (see :mod:`runtime.video.seek`)."""
        if count > 0 and not self._given and self._seek(count):
            return
        for _ in range(count):
            if self._next() is None:
                return

    def _seek(self, count: int) -> bool:
        """Go to the frame with the number ``count``. False: it has to be looked for, from the first one on."""
        # in other containers FFmpeg looks for a time by guessing, and may pass over what is before it
        if self.info.path is None or not self.info.path.is_file() or not _knows_its_length(self._container):
            return False
        packets = list_packets(self.info.path, self._stream.index, count)
        first = _ticks_of(self._first)
        if packets is None or first != packets.ticks[0] or packets.entry(packets.ticks[count]) is None:
            return False
        self._decoded.close()
        frames = seek_frames(self._container, self._stream, packets, count, self._decode)
        found = frames is not None
        if frames is None:  # once more from the beginning
            self._container.seek(packets.ticks[0], stream=self._stream, backward=True)
            frames = self._decode()
        self._decoded = self._with_next(frames)
        self._first = self._after_first = None
        if found:
            for ticks in packets.ticks[:count]:
                self._clock.next(ticks)
            self._given = count
        return found

    def _next(self) -> tuple[Any, Fraction, Fraction] | None:
        """The next decoded frame, its time and its duration in seconds, or None at the end; counts it."""
        if self._error is not None:
            raise self._error
        try:
            if self._first is not None:
                frame, following = self._first, self._after_first
                self._first = self._after_first = None
            else:
                frame, following = next(self._decoded, (None, None))
            if frame is None:
                self._check_complete()
                self._note_damage()
                return None
        except _BrokeOffError as error:
            self._note_damage()
            self._error = EndedEarlyError(
                f"{self._name}: broke off after frame {self._given}{self._of_expected()} "
                f"({float(self._end):.1f} s): {error}"
            )
            raise self._error from None
        if (frame.width, frame.height) != self._coded_size:
            self._resized += 1
        self._damaged += bool(getattr(frame, "is_corrupt", False))
        pts = self._clock.next(_ticks_of(frame))
        duration = self._duration_of(frame, following)
        self._given += 1
        self._end = pts + duration
        return frame, pts, duration

    def _duration_of(self, frame: Any, following: Any) -> Fraction:
        """Seconds until the next frame, or the end of the video. What the file says of one frame is the distance to
        the next one *stored*, which with B-frames is another."""
        ticks = 0
        begin = _ticks_of(frame)
        if begin is not None and following is not None:
            ticks = (_ticks_of(following) or 0) - begin
        elif begin is not None and 0 < self._expected <= self._given + 1 and self._stream.duration:
            ticks = (self._stream.start_time or 0) + self._stream.duration - begin
        if ticks <= 0:
            ticks = int(getattr(frame, "duration", 0) or 0)
        return ticks * self.info.time_base if ticks > 0 else self._clock.frame_duration

    def close(self) -> None:
        self._first = self._after_first = None
        self._decoded.close()
        self._container.close()

    def _with_next(self, frames: Iterator[Any]) -> Generator[tuple[Any, Any], None, None]:
        """Every one of ``frames`` with the one after it; None at the end, and where waiting for it costs time."""
        held: Any = None
        try:
            for frame in frames:
                if not self._ahead:
                    yield frame, None
                    continue
                if held is not None:
                    yield held, frame
                held = frame
        except _BrokeOffError:
            if held is not None:
                yield held, None
            raise
        if held is not None:
            yield held, None

    def _decode(self) -> Generator[Any, None, None]:
        """Decoded ``av.VideoFrame``s; raises ``_BrokeOffError`` after the last good one."""
        import av

        stream = self._stream
        demuxed = self._container.demux(stream)
        decoded_any = False
        reason = ""
        while True:
            try:
                packet = next(demuxed, None)
            except av.FFmpegError as error:
                if isinstance(error, TimeoutError) or type(error).__name__ == "ExitError":
                    raise SourceTimeoutError(f"{self._name}: no frame came in time") from None
                reason = _words(error)
                break
            if packet is None or packet.size == 0:  # the empty packet marks the end
                break
            if packet.is_corrupt and self._is_file and _knows_its_length(self._container):
                reason = "the file ends in the middle of a frame"
                break
            if self._arrivals is not None and packet.pts is not None and not self._untimed:
                self._arrivals.note(float(packet.pts * packet.time_base), time.monotonic())
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if decoded_any and self._is_file:
                    reason = _words(error)
                    break
                continue  # before the first key frame, or a lossy network: go on
            for frame in frames:
                decoded_any = True
                if self._untimed:
                    frame.pts, frame.time_base = round(time.monotonic() * _TICKS), Fraction(1, _TICKS)
                yield frame
        try:
            for frame in stream.codec_context.decode(None):
                if not (reason and getattr(frame, "is_corrupt", False)):
                    yield frame
        except (av.FFmpegError, EOFError) as error:
            if not isinstance(error, EOFError):
                reason = reason or _words(error)
        if reason:
            raise _BrokeOffError(reason)

    def _stated_length(self, start: Fraction) -> Fraction | None:
        """Length of the video in seconds by the file's own words, or None. ``start``: time of its first frame."""
        stream, container = self._stream, self._container
        matroska = "matroska" in container.format.name
        if matroska:
            # a track's length is in a tag, counted from the clock's zero; as the stream's, FFmpeg gives that of the
            # longest track where it has not seen enough frames of this one
            tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip())
            if tag:
                return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3]) - start
        elif stream.duration:
            return Fraction(stream.duration * (stream.time_base or 0))
        alone = not any(other.type in ("audio", "subtitle", "data") for other in container.streams)
        if container.duration and alone:
            return Fraction(container.duration, 1_000_000) - (start if matroska else 0)
        return None

    def _estimated_count(self, length: Fraction | None, rate: Fraction | None) -> int | None:
        if length is None and self._container.duration:
            length = Fraction(self._container.duration, 1_000_000)
        return None if length is None or rate is None else max(1, round(length * rate))

    def _check_complete(self) -> None:
        """At the end: did as much arrive as the file promised? Edit lists shorten the time, so both must be short."""
        promised = self.info.duration
        if promised is None or not _knows_its_length(self._container):
            return
        frame = self._clock.frame_duration
        late = promised - self._end > max(2 * frame, promised / 50)
        few = not self._expected or self._expected - self._given > max(2, self._expected // 50)
        if late and few:
            raise _BrokeOffError("the rest of the file is missing")

    def _note_damage(self) -> None:
        if self._damaged:
            self.warnings.append(f"{self._name}: {self._damaged} frames are damaged")
        if self._resized:
            size = f"{self._coded_size[0]}x{self._coded_size[1]}"
            self.warnings.append(f"{self._name}: {self._resized} frames had another size and were scaled to {size}")
        self._damaged = self._resized = 0

    def _of_expected(self) -> str:
        return f" of {self.info.frame_count}" if self.info.frame_count else ""


def _open_container(uri: SourceUri, options: SourceOptions) -> Any:
    import av

    if uri.kind is SourceKind.FILE:
        path = uri.path
        if not path.exists():
            raise VideoError(f"{uri.text} does not exist")
        if path.is_file() and path.stat().st_size == 0:
            raise VideoError(f"{uri.text} is empty (0 bytes)")
        settings: dict[str, Any] = {"options": dict(options.ffmpeg)}
    elif uri.kind is SourceKind.STDIN:
        if sys.stdin is not None and sys.stdin.isatty():
            raise UsageError("standard input is a terminal: pipe a video into it, as in cat clip.ts | ... -i -")
        settings = {"options": dict(options.ffmpeg)}
    else:
        scheme = uri.text.split(":")[0].lower()
        silence = options.silence or (SILENCE if scheme in _LIVE_SCHEMES else options.timeout)
        # half a second of a live stream tells enough of it: FFmpeg takes up to five
        usual = {"rtsp_transport": "tcp"} if scheme == "rtsp" else {}
        usual |= {"analyzeduration": "500000"} if scheme in _LIVE_SCHEMES else {}
        settings = {"timeout": (options.timeout, silence), "options": {**usual, **dict(options.ffmpeg)}}
    try:
        return av.open(uri.target, metadata_errors="replace", **settings)
    except av.FFmpegError as error:
        if isinstance(error, TimeoutError) or type(error).__name__ == "ExitError":
            raise SourceTimeoutError(f"{uri.text}: no answer within {options.timeout:g} s") from None
        if isinstance(error, PermissionError):
            raise VideoError(f"{uri.text} cannot be read: permission denied") from None
        if uri.kind is SourceKind.NETWORK:
            raise VideoError(f"{uri.text} cannot be opened: {_words(error)}") from None
        if uri.kind is SourceKind.STDIN:
            raise VideoError(f"standard input cannot be opened as video: {_words(error)} (did any come?)") from None
        raise VideoError(f"{uri.text} cannot be opened as video: {_words(error)} (is it complete?)") from None
    except OSError as error:
        raise VideoError(f"{uri.text} cannot be opened: {error.strerror or error}") from error


def _video_stream(container: Any, text: str) -> Any:
    for stream in container.streams.video:
        if not int(stream.disposition) & ATTACHED_PICTURE and stream.codec_context is not None:
            return stream
    kinds = sorted({stream.type for stream in container.streams})
    raise VideoError(f"{text} has no video track" + (f", only {' and '.join(kinds)}" if kinds else ""))


def _words(error: BaseException) -> str:
    """FFmpeg's reason, in lower case and without its error number."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason)[:1].lower() + str(reason)[1:]


def _sane_rate(rate: Fraction | None) -> Fraction | None:
    return Fraction(rate) if rate and 0 < rate <= 1000 else None


def _ticks_of(frame: Any) -> int | None:
    """The frame's timestamp; where only its packet has one (AVI), that of the packet."""
    ticks: int | None = frame.pts if frame.pts is not None else frame.dts
    return ticks


def _knows_its_length(container: Any) -> bool:
    return any(name in container.format.name for name in ("mp4", "matroska", "avi"))


def _orientation_of(frame: Any) -> Orientation:
    for data in frame.side_data:
        if getattr(data.type, "name", "") == "DISPLAYMATRIX":
            return Orientation.from_matrix(bytes(data))
    return Orientation()


# --- cameras --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """OpenCV prints its own warnings when a camera does not open; our message says it."""
    import cv2

    logging: Any = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is None:
        yield
        return
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


class CameraSource(Source):
    """A camera by index or device path, through OpenCV. ``pts`` is the time of capture on the monotonic clock: the
    driver's own where it tells one, else that of arrival."""

    OLDEST = 2.0  # seconds; a driver's time that is further back, or to come, is on another clock

    def __init__(self, uri: SourceUri, options: SourceOptions) -> None:
        import cv2

        self.warnings = []
        self._name = uri.text
        self._timeout = options.silence or options.timeout
        self._device: Path | None = None  # where there is none any more, the camera was unplugged
        self._capture: Any = cv2.VideoCapture()
        self._open(uri, options)
        try:
            self._first: tuple[float, Frame] | None = self._grab()
        except BaseException:
            self._capture.release()
            raise
        self._epoch = self._first[0]
        self._last = -1
        self._index = 0
        image = self._first[1]
        with _quiet_opencv():
            rate = _sane_rate(Fraction(float(self._capture.get(cv2.CAP_PROP_FPS) or 0)).limit_denominator(1001))
            fourcc = int(self._capture.get(cv2.CAP_PROP_FOURCC))
        height, width = image.shape[:2]
        codec = fourcc.to_bytes(4, "little").decode("ascii", "replace").strip() if fourcc > 0 else ""
        asked = options.width or width, options.height or height, options.rate or rate, options.fourcc or codec
        if asked != (width, height, rate, codec):
            gives, wanted = _said(width, height, rate, codec), _said(*asked)
            self.warnings.append(f"{uri.text} gives {gives}, not the {wanted} that was asked for")
        self.info = SourceInfo(
            uri=uri.text, width=width, height=height, rate=rate, time_base=Fraction(1, _TICKS), live=True, codec=codec
        )

    def _open(self, uri: SourceUri, options: SourceOptions) -> None:
        """Open the capture and ask for what is wanted."""
        import cv2

        linux = sys.platform.startswith("linux")
        device = Path(f"/dev/video{uri.target}" if uri.target.isdigit() else uri.target)
        if linux and not device.exists():
            raise VideoError(
                f"no camera at {uri.text} ({device} does not exist): `ls /dev/video*` shows the cameras of this machine"
            )
        self._device = device if linux else None
        with _quiet_opencv():
            target: Any = int(uri.target) if uri.target.isdigit() else uri.target
            opened = self._capture.open(target, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
        if not opened:
            raise VideoError(f"the camera {uri.text} cannot be opened: is another program using it, may you read it?")
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # newest frame, not the oldest
        if hasattr(cv2, "CAP_PROP_READ_TIMEOUT_MSEC"):
            self._capture.set(cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(self._timeout * 1000))
        wishes = (
            # first: which sizes and rates there are depends on it
            (cv2.CAP_PROP_FOURCC, options.fourcc and int.from_bytes(options.fourcc.encode(), "little")),
            (cv2.CAP_PROP_FRAME_WIDTH, options.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, options.height),
            (cv2.CAP_PROP_FPS, options.rate),
        )
        for key, wish in wishes:
            if wish:
                self._capture.set(key, float(wish))

    def _grab(self) -> tuple[float, Frame]:
        """(capture in seconds of the monotonic clock, image)."""
        import cv2

        began = time.monotonic()
        with _quiet_opencv():
            good, image = self._capture.read()
        if good and image is not None:
            now = time.monotonic()
            stamp = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000 if self._device else 0.0
            captured = stamp if now - self.OLDEST < stamp <= now else now
            return captured, np.ascontiguousarray(image, dtype=np.uint8)
        if self._device and not self._device.exists():
            raise VideoError(f"the camera {self._name} is gone: was it unplugged?")
        waited = time.monotonic() - began
        if waited >= 0.5 * self._timeout:
            raise SourceTimeoutError(f"the camera {self._name} gave no frame for {waited:.0f} s")
        raise VideoError(f"the camera {self._name} gives no frames: is another program using it?")

    def read(self) -> VideoFrame | None:
        captured, image = self._first or self._grab()
        self._first = None
        if image.shape[:2] != (self.info.height, self.info.width):
            raise VideoError(f"the camera {self._name} changed its frame size to {image.shape[1]}x{image.shape[0]}")
        self._last = max(round((captured - self._epoch) * _TICKS), self._last + 1)
        self._index += 1
        return VideoFrame(image, Fraction(self._last, _TICKS), self._index - 1, captured=captured)

    def close(self) -> None:
        self._first = None
        self._capture.release()


class GStreamerSource(CameraSource):
    """A GStreamer pipeline, or a camera on a Jetson's CSI port, through an OpenCV that has GStreamer."""

    # nobody waits for an old frame: the sink keeps the newest one, and the clock does not hold it back
    SINK = "videoconvert ! video/x-raw, format=(string)BGR ! appsink max-buffers=1 drop=true sync=false"
    CSI = (
        "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, "
        "framerate=(fraction){rate} ! nvvidconv ! video/x-raw, format=(string)BGRx ! "
    )

    @classmethod
    def pipeline(cls, uri: SourceUri, options: SourceOptions) -> str:
        """What GStreamer is told. A CSI camera gives 1920x1080 at 30 frames a second unless asked for another mode."""
        if uri.kind is SourceKind.GSTREAMER:
            own = uri.target.strip()
            return own if re.search(r"\bappsink\b", own) else f"{own.rstrip('! ')} ! {cls.SINK}"
        rate = options.rate or Fraction(30)
        size = {"width": options.width or 1920, "height": options.height or 1080}
        return cls.CSI.format(sensor=uri.target, rate=f"{rate.numerator}/{rate.denominator}", **size) + cls.SINK

    def _open(self, uri: SourceUri, options: SourceOptions) -> None:
        import cv2

        if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise VideoError(
                f"{uri.text} needs an OpenCV with GStreamer, which pip's opencv-python is not: use the one of JetPack "
                "or of the system (apt install python3-opencv)"
            )
        pipeline = self.pipeline(uri, options)
        opened: list[bool] = []
        # OpenCV waits for ever for a pipeline with an element that is not installed
        attempt = threading.Thread(
            target=lambda: opened.append(self._capture.open(pipeline, cv2.CAP_GSTREAMER)), daemon=True
        )
        with _quiet_opencv():
            attempt.start()
            attempt.join(options.timeout)
        if not any(opened):
            raise VideoError(f"{uri.text} cannot be opened: see what GStreamer says: gst-launch-1.0 {pipeline}")


def _said(width: int, height: int, rate: Fraction | None, codec: str) -> str:
    """What a source gives, or a camera was asked for, in words."""
    words = [f"{width}x{height}", f"at {float(rate):g} fps" if rate else "", f"as {codec}" if codec else ""]
    return " ".join(word for word in words if word)


# --- pictures -------------------------------------------------------------------------------------------------------


def read_picture(path: Path) -> Frame:
    """A picture as uint8 (H, W, 3) BGR, turned upright by its EXIF tag, 8 bits, without alpha."""
    import cv2

    try:
        data = np.fromfile(path, dtype=np.uint8)  # imread fails on some names, imdecode has none
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror or error}") from error
    image = None
    if data.size:
        with contextlib.suppress(cv2.error), _quiet_opencv():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise VideoError(f"{path} cannot be read as a picture" + ("" if data.size else " (0 bytes)"))
    return np.ascontiguousarray(image, dtype=np.uint8)


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sorts ``frame2`` before ``frame10``."""
    return [(0, int(part)) if part.isdigit() else (1, part.lower()) for part in re.split(r"(\d+)", name) if part]


class ImageSource(Source):
    """A picture, a folder of pictures in natural order, or numbered pictures, at a constant rate (25 unless told)."""

    def __init__(self, uri: SourceUri, options: SourceOptions) -> None:
        self.warnings = []
        path = uri.path
        if uri.kind is SourceKind.PICTURE:
            if not path.exists():
                raise VideoError(f"{uri.text} does not exist")
            self._paths = [path]
        elif uri.kind is SourceKind.FOLDER:
            if not path.is_dir():
                raise VideoError(f"{uri.text} is not a folder" if path.exists() else f"{uri.text} does not exist")
            found = [entry for entry in path.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()]
            self._paths = sorted((entry for entry in found if entry.name[0] != "."), key=lambda p: natural_key(p.name))
            if not self._paths:
                raise VideoError(f"{uri.text} holds no picture ({' '.join(PICTURE_SUFFIXES)})")
        else:
            self._paths = self._numbered(path, uri.text)
        self._index = 0
        self._first: Frame | None = read_picture(self._paths[0])
        height, width = self._first.shape[:2]
        self.rate = options.rate or Fraction(25)
        self.info = SourceInfo(
            uri=uri.text,
            width=width,
            height=height,
            rate=self.rate,
            time_base=1 / self.rate,
            frame_count=len(self._paths),
            path=path if uri.kind is SourceKind.PICTURE else None,
            duration=len(self._paths) / self.rate,
            codec=self._paths[0].suffix.lower().lstrip("."),
        )

    def _numbered(self, pattern: Path, text: str) -> list[Path]:
        match = PATTERN.search(pattern.name)
        if match is None:
            raise UsageError(f"{text}: no number in the name, as in frames_%06d.png")
        before, after = re.escape(pattern.name[: match.start()]), re.escape(pattern.name[match.end() :])
        digits = r"\d{" + str(int(match[1])) + ",}" if match[1] else r"0|[1-9]\d*"
        name = re.compile(f"{before}({digits}){after}")
        numbered: dict[int, Path] = {}
        if pattern.parent.is_dir():
            for entry in pattern.parent.iterdir():
                hit = name.fullmatch(entry.name)
                if hit:
                    numbered[int(hit[1])] = entry
        if not numbered:
            raise VideoError(f"{text}: no picture has such a name")
        numbers = sorted(numbered)
        gaps = numbers[-1] - numbers[0] + 1 - len(numbers)
        if gaps:
            self.warnings.append(f"{text}: {gaps} numbers between {numbers[0]} and {numbers[-1]} have no picture")
        return [numbered[number] for number in numbers]

    def read(self) -> VideoFrame | None:
        if self._index >= len(self._paths):
            return None
        path = self._paths[self._index]
        image = self._first if self._first is not None else read_picture(path)
        self._first = None
        if image.shape[:2] != (self.info.height, self.info.width):
            raise VideoError(
                f"{path} is {image.shape[1]}x{image.shape[0]}, but the first picture is "
                f"{self.info.width}x{self.info.height}: all must have the same size"
            )
        index = self._index
        self._index += 1
        return VideoFrame(image, index / self.rate, index, 1 / self.rate)

    def skip(self, count: int) -> None:
        self._index += count
        self._first = None

    def close(self) -> None:
        self._first = None
        self._index = len(self._paths)
