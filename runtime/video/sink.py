"""Where frames go: video files (PyAV), numbered pictures, a single picture, a window, nowhere.

A file appears under its own name only when it is finished: until then it is ``.name.part.ext`` beside it.
Frames keep their exact times, sound is copied packet by packet and stays in step.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from runtime.errors import UsageError, VideoError, message_of
from runtime.frames import Frame
from runtime.video.encoders import Encoding, encoding_for, opening_an_encoder
from runtime.video.extras import Extras, name_track
from runtime.video.fragments import PartFile, muxer_options
from runtime.video.light import LIGHT
from runtime.video.source import (
    MATRIX_BT709,
    MATRIX_BT2020,
    MATRIX_BT2020_CL,
    MATRIX_RGB,
    RANGE_FULL,
    RANGE_LIMITED,
    SWS_OF_MATRIX,
    UNSPECIFIED,
    ColorInfo,
    Gap,
    Scaler,
    SourceInfo,
    VideoFrame,
    matrix_for_size,
)
from runtime.video.uri import PATTERN, SinkKind, SinkUri, parse_sink

S = TypeVar("S", bound="Sink")  # typing.Self comes with Python 3.11; JetPack 6 has 3.10

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
LIVE_TIME_BASE = Fraction(1, 90_000)  # seconds; the usual clock of video, divides 24, 25, 30, 50, 60 and 30000/1001
PARTIAL = ".partial"  # end of the name of a file that is not complete, where that is asked for
_INT32 = 2**31 - 1
_LATE_START = Fraction(1)  # a clock that starts later than this (MPEG-TS) is moved to zero, as ffmpeg does


class Sink(ABC):
    """Takes frames one after the other, from one thread. A context manager: leaving it by an exception aborts.

    ``encoder``: FFmpeg's encoder, of video. ``frames_written``: frames taken so far. ``dropped``: those of them that a
    live output has left out. ``gaps``: where one was lost and came back. ``cut_short``: set it before ``close`` where
    the source has more frames than were wanted: sound then ends with the last one. ``stop_requested``: True once the
    viewer closed the window or pressed q. ``warnings``: sentences about what could not be kept; read them at the end.
    ``on_key``: called with every other key that is pressed in a window.
    """

    encoder: str = ""
    frames_written: int = 0
    dropped: int = 0
    gaps: Sequence[Gap] = ()
    cut_short: bool = False
    stop_requested: bool = False
    on_key: Callable[[str], None] | None = None
    warnings: list[str]

    @abstractmethod
    def write(self, frame: VideoFrame) -> None:
        """Take a frame whose image, uint8 (H, W, 3) BGR, has the sink's size. Does not keep a reference to it.

        Raises ``VideoError`` where it cannot be written; the sink has then cleaned up and takes no more.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish. Files get their final name here. Calling it twice, or after ``abort``, is harmless."""

    def abort(self) -> None:
        """Stop early: what was written becomes a playable file that ends there; if nothing was, nothing is left."""
        self.close()

    def linger(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Called at the end of a run that is complete: return when nobody looks at the last frame any longer."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def check_sink(text: str, *, source: SourceInfo | None = None, overwrite: bool = False) -> SinkUri:
    """Find out, before anything is opened or loaded, whether OUTPUT ``text`` can be written.

    Raises ``UsageError`` for an unknown kind, a missing folder, an existing file without ``overwrite``, and an output
    that is the input.
    """
    uri = parse_sink(text)
    if not uri.on_disk:
        return uri
    folder = uri.path.parent
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist: make it first (mkdir -p {folder})")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder {folder} may not be written to")
    if uri.kind is SinkKind.PATTERN:
        if not overwrite and (taken := _numbered_files(uri.path)):
            raise UsageError(f"{taken[0]} exists: add --overwrite to replace such pictures")
        return uri
    original = source.path if source is not None else None
    if original is not None and original.exists() and uri.path.exists() and uri.path.samefile(original):
        raise UsageError(f"{text} is the input itself: give the output another name")
    if uri.path.exists() and not overwrite:
        raise UsageError(f"{text} exists: add --overwrite to replace it")
    if uri.kind is SinkKind.PICTURE and source is not None and source.frame_count != 1:
        raise UsageError(
            f"{text} is one picture, but the input has many: give {uri.path.stem}_%06d{uri.path.suffix} or a video file"
        )
    return uri


def open_sink(
    text: str,
    *,
    source: SourceInfo,
    width: int,
    height: int,
    overwrite: bool = False,
    codec: str | None = None,
    crf: float | None = None,
    preset: str = LIGHT,
    encoder: str = "software",
    bitrate: int | None = None,
    pix_fmt: str | None = None,
    audio: bool = True,
    extras: bool = False,
    threads: int = 0,
    keep_partial: bool = False,
    fragmented: bool = False,
    segment: int | None = None,
    browser: Callable[[SourceInfo], Sink] | None = None,
    reconnect: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
) -> Sink:
    """Open OUTPUT ``text`` for frames of ``width`` x ``height`` pixels that come from ``source``.

    ``codec``, ``crf``, ``preset``, ``encoder``, ``bitrate``, ``pix_fmt``, ``threads``: see
    :func:`runtime.video.encoders.encoding_for`. ``audio``: copy the source's sound. ``extras``: keep what else a video
    file holds, as :mod:`runtime.video.extras` can: subtitles, chapters, titles, place and time.
    ``keep_partial``: a video file that is not complete keeps ``.partial`` at the end of its name.
    ``fragmented``: an MP4 stays in pieces, as it is while it is written; such a file can be played while it grows.
    ``segment``: encode a video file anew every so many frames: a :class:`runtime.video.segments.SegmentSink`.
    ``browser``: makes the :class:`runtime.video.browser.BrowserSink` of an output ``http://ADDRESS:PORT``.
    ``reconnect``, ``say``: of a live output, see :class:`runtime.video.stream.LiveSink`.

    Raises ``UsageError`` before anything is opened (see ``check_sink``), ``VideoError`` where the file cannot be made.
    """
    uri = check_sink(text, source=source, overwrite=overwrite)
    if uri.kind is SinkKind.NULL:
        return NullSink(width, height)
    if uri.kind is SinkKind.BROWSER:
        if browser is None:
            raise UsageError(f"{text}: a page in the browser is no output of this command")
        return browser(source)
    if uri.kind is SinkKind.DISPLAY:
        from runtime.video.preview import WindowSink

        return WindowSink(width, height, live=source.live)
    if uri.kind in (SinkKind.PATTERN, SinkKind.PICTURE):
        return PictureSink(uri, width, height)
    if uri.kind is SinkKind.CAMERA:
        from runtime.video.camera import VirtualCameraSink

        return VirtualCameraSink(uri, source, width, height)
    if uri.kind is SinkKind.GSTREAMER:
        from runtime.video.stream import open_pipeline

        return open_pipeline(uri, source, width, height, reconnect, say)
    encoding = encoding_for(uri, codec, crf, preset, threads, encoder=encoder, bitrate=bitrate, pix_fmt=pix_fmt)
    if uri.kind is SinkKind.STREAM:
        from runtime.video.stream import open_stream

        return open_stream(uri, source, width, height, encoding, reconnect, say, audio=audio)
    settings: dict[str, Any] = {
        "audio": audio,
        "extras": extras,
        "keep_partial": keep_partial,
        "fragmented": fragmented,
    }
    if segment is None:
        return FileSink(uri, source, width, height, encoding, **settings)
    from runtime.video.segments import SegmentSink

    return SegmentSink(uri, source, width, height, encoding, length=segment, **settings)


def _check_frame(image: Frame, width: int, height: int) -> None:
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise VideoError(f"a frame of {image.dtype} {image.shape} came to a sink of uint8 {(height, width, 3)}")


class NullSink(Sink):
    """Counts frames and forgets them: for measuring."""

    def __init__(self, width: int, height: int) -> None:
        self.warnings = []
        self._size = width, height

    def write(self, frame: VideoFrame) -> None:
        _check_frame(frame.image, *self._size)
        self.frames_written += 1

    def close(self) -> None:
        pass


# --- pictures -------------------------------------------------------------------------------------------------------


def _numbered_files(pattern: Path) -> list[Path]:
    """Files that ``pattern`` could name, in order of their names."""
    match = PATTERN.search(pattern.name)
    if match is None:
        return []
    name = re.compile(re.escape(pattern.name[: match.start()]) + r"\d+" + re.escape(pattern.name[match.end() :]))
    return sorted(entry for entry in pattern.parent.iterdir() if name.fullmatch(entry.name))


class PictureSink(Sink):
    """Pictures named by frame number, from 0 (``frames_000000.png``), or a single picture.

    Each one appears whole: it is written under another name and renamed. Pictures stay where the run is aborted.
    """

    def __init__(self, uri: SinkUri, width: int, height: int) -> None:
        self.warnings = []
        self._pattern = uri.path
        self._single = uri.kind is SinkKind.PICTURE
        self._size = width, height
        self._older = set() if self._single else set(_numbered_files(uri.path))
        self._closed = False

    def write(self, frame: VideoFrame) -> None:
        import cv2

        _check_frame(frame.image, *self._size)
        if self._single and self.frames_written:
            raise VideoError(f"{self._pattern} is one picture, but a second frame came")
        path = self._pattern
        if not self._single:
            path = path.with_name(PATTERN.sub(lambda match: match[0] % frame.index, path.name))
        suffix = path.suffix.lower()
        options = [cv2.IMWRITE_PNG_COMPRESSION, 3] if suffix == ".png" else []
        if suffix in (".jpg", ".jpeg"):
            options = [cv2.IMWRITE_JPEG_QUALITY, 95]
        try:
            good, data = cv2.imencode(suffix, frame.image, options)
        except cv2.error as error:
            raise VideoError(f"{path} cannot be written: {error}") from error
        if not good:
            raise VideoError(f"{path} cannot be written: OpenCV cannot encode it")
        temporary = path.with_name(f".{path.name}.part")
        try:
            with temporary.open("wb") as file:
                file.write(data.tobytes())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if error.filename is None:
                error.filename = str(path)
            raise VideoError(message_of(error)) from error
        self._older.discard(path)
        self.frames_written += 1

    def close(self) -> None:
        if self._older and self.frames_written and not self._closed:
            self.warnings.append(f"{len(self._older)} older pictures of the same pattern are still in the folder")
        self._closed = True


# --- video files ----------------------------------------------------------------------------------------------------


def output_color(source: ColorInfo | None, width: int, height: int) -> ColorInfo:
    """Colour of the file to write: that of the source where it states one, in limited range.

    Else the matrix that players assume of a file without tags: BT.709 for HD, BT.601 below. Primaries and transfer are
    never converted, so they stay those of the source where it names them. (Full range is not kept since swscale rounds
    its chroma down, by half a level; limited range is rounded to the nearest one.)
    """
    if source is not None and source.stated and source.matrix != MATRIX_RGB:
        # the decoder's way from BT.2020 with constant luminance is that without
        matrix = MATRIX_BT2020 if source.matrix == MATRIX_BT2020_CL else source.matrix
        return ColorInfo(matrix, False, source.primaries, source.transfer)
    matrix = matrix_for_size(width, height)
    usual = 1 if matrix == MATRIX_BT709 else 6  # BT.709; SMPTE 170M
    primaries = transfer = usual
    if source is not None:
        # 0 and 3 are reserved, 2 is unspecified
        primaries = source.primaries if source.primaries not in (0, UNSPECIFIED, 3) else usual
        transfer = source.transfer if source.transfer not in (0, UNSPECIFIED, 3) else usual
    return ColorInfo(matrix, False, primaries, transfer)


def writes_bt2020() -> bool:
    """Whether this PyAV converts to BT.2020. Up to 17.1 it takes BT.601 in its place, without a word."""
    import av

    picture = av.VideoFrame(16, 16, "bgr24")
    converted = Scaler()(picture, format="yuv420p", dst_colorspace=SWS_OF_MATRIX[MATRIX_BT2020])
    return int(converted.colorspace) == MATRIX_BT2020


class Ticks:
    """Turns times in seconds into strictly rising whole ticks of ``time_base``; exact wherever the time is one."""

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self.moved = 0
        self._last: int | None = None

    def next(self, seconds: Fraction) -> int:
        """Ticks for the next frame; one more than the last where the time did not rise."""
        ticks = round(seconds / self.time_base)
        if self._last is not None and ticks <= self._last:
            self.moved += 1
            ticks = self._last + 1
        self._last = ticks
        return ticks

    def go_on(self, ticks: int) -> None:
        """The last frame had ``ticks``."""
        self._last = ticks


def date(packets: Sequence[Any]) -> None:
    """Give all packets of a video, in the order in which they are decoded, times for that.

    x265 leaves memory that nobody has written there for a video of fewer frames than it holds back.
    """
    shown = sorted(packet.pts for packet in packets)
    late = max((time - packet.pts for time, packet in zip(shown, packets, strict=True)), default=0)
    for time, packet in zip(shown, packets, strict=True):
        packet.dts = time - late


def sink_time_base(source: SourceInfo) -> Fraction:
    """The encoder's clock: the source's own, so that every timestamp stays exact."""
    base = source.time_base
    fits = base > 0 and max(base.numerator, base.denominator) <= _INT32
    return base if fits and base <= Fraction(1, 5) else LIVE_TIME_BASE


def movie_timescale(starts: list[tuple[Fraction, Fraction]]) -> int:
    """Ticks a second for an MP4's edit lists, in which every track's start (seconds, with the track's time base in
    seconds) is exact: 1000 where that is enough."""
    own = starts[0][1].denominator
    common = math.lcm(*(base.denominator for _, base in starts))
    for scale in (1000, own * -(-1000 // own), common):
        if scale <= _INT32 and all(
            round(Fraction(start * scale // 1, scale) / base) == round(start / base) for start, base in starts
        ):
            return scale
    return own * -(-1000 // own)


class FileSink(Sink):
    """A video file, encoded by PyAV, with the source's sound.

    ``abort`` ends the file, sound included, after the last frame written. When the disk is full, or the process is
    killed, what there is ends with the last whole piece (see :class:`runtime.video.fragments.PartFile`).
    ``fragmented``: an MP4 stays in pieces when it is finished.
    """

    def __init__(
        self,
        uri: SinkUri,
        source: SourceInfo,
        width: int,
        height: int,
        encoding: Encoding,
        *,
        audio: bool = True,
        extras: bool = False,
        keep_partial: bool = False,
        fragmented: bool = False,
    ) -> None:
        import av

        self.warnings = []
        self._final = uri.path
        # what is not complete: under the output's own name, or one that tells
        self._unfinished = uri.path.with_name(uri.path.name + PARTIAL) if keep_partial else uri.path
        self._temporary = uri.path.with_name(f".{uri.path.stem}.part{uri.path.suffix}")
        self._size = width, height
        self.encoder = encoding.encoder
        self._done = False
        self._audio: _Audio | None = None
        self._extras: Extras | None = None
        self._container: Any = None
        self._part: PartFile | None = None
        self._first_dts: int | None = None
        self._first_pts = 0
        self._durations: dict[int, int] = {}
        self._end = 0  # ticks at which the last frame ends
        time_base = sink_time_base(source)
        self._format = FORMATS[uri.path.suffix.lower()]
        with self._guard("cannot be made"):
            self._part = PartFile(self._temporary, self._format)
            options = muxer_options(self._format, fragmented=fragmented)
            self._container = av.open(self._part, "w", format=self._format, options=options)
            self._ticks = Ticks(time_base)
            self._stream = self._add_video(source, encoding, time_base)
            if audio and source.audio:
                if source.path is None:
                    self.warnings.append(f"{self._final}: without sound: only that of a file can be copied")
                else:
                    self._audio = _Audio(source.path, self._container, self.warnings, named=extras)
            if extras and source.path is not None:
                self._extras = Extras(source.path, self._container, self._final.suffix, self._stream, self.warnings)
            self._start = self._first_time(source)
            if self._format in ("mp4", "mov"):
                # FFmpeg counts a track's late start in milliseconds, rounded down, unless told otherwise
                starts = [(self._start, time_base), *(self._audio.output_starts() if self._audio else ())]
                self._container.container_options["movie_timescale"] = str(movie_timescale(starts))
            # the header is left to the first packet: FFmpeg's MP4 writer crashes where none comes
            with opening_an_encoder():
                self._stream.codec_context.open()
        self._scale = Scaler()

    def _add_video(self, source: SourceInfo, encoding: Encoding, time_base: Fraction) -> Any:
        width, height = self._size
        color = output_color(source.color, width, height)
        if color.matrix == MATRIX_BT2020 and not writes_bt2020():
            color = replace(color, matrix=MATRIX_BT709)
        self._to_yuv = {
            "format": encoding.pixel_format(width, height),
            "src_color_range": RANGE_FULL,
            "dst_colorspace": SWS_OF_MATRIX[color.matrix],
            "dst_color_range": RANGE_LIMITED,
        }
        rate = (source.rate or Fraction(30)).limit_denominator(1_000_000)
        stream: Any = self._container.add_stream(encoding.encoder, rate=rate)
        stream.options = dict(encoding.options)
        stream.time_base = time_base
        context = stream.codec_context
        context.width, context.height = width, height
        context.pix_fmt = self._to_yuv["format"]
        context.time_base = time_base
        context.framerate = rate
        context.sample_aspect_ratio = source.sample_aspect
        # H.264 and HEVC say the shape of a pixel themselves, MP4 does for the others; PyAV cannot have Matroska say it
        tells = self._format in ("mp4", "mov") or not re.search("vp9|av1", encoding.encoder)
        if source.sample_aspect != 1 and not tells:
            self.warnings.append(
                f"{self._final}: pixels are {source.sample_aspect} times as wide as high, which this codec cannot say "
                f"in a {self._final.suffix} file: choose h264 or hevc, or an .mp4 file"
            )
        context.colorspace = color.matrix
        context.color_range = RANGE_LIMITED
        context.color_primaries = color.primaries
        context.color_trc = color.transfer
        context.thread_count = encoding.threads
        if encoding.tag:
            context.codec_tag = encoding.tag
        return stream

    def _first_time(self, source: SourceInfo) -> Fraction:
        """Time of the first frame in the output, seconds. The source's clock is kept; only if everything starts late,
        or the video below zero, all tracks move by the same amount."""
        earliest = min([source.start, *(self._audio.starts if self._audio else ())])
        move = -earliest if earliest > _LATE_START else max(Fraction(0), -source.start)
        if self._audio:
            self._audio.move(move)
        if self._extras:
            self._extras.move(move)
        return source.start + move

    def write(self, frame: VideoFrame) -> None:
        import av

        if self._done:
            raise VideoError(f"{self._final} is closed: it takes no more frames")
        _check_frame(frame.image, *self._size)
        with self._guard("cannot be written"):
            picture = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(frame.image), format="bgr24")
            converted = self._scale(picture, **self._to_yuv)
            ticks = self._ticks.next(self._start + frame.pts)
            converted.pts = ticks
            converted.time_base = self._ticks.time_base
            length = max(1, round((frame.duration or 0) / self._ticks.time_base))
            if frame.duration:
                self._durations[ticks] = length
            if not self.frames_written:
                self._first_pts = ticks
            self._end = ticks + length
            self._mux(self._encode(converted))
        self.frames_written += 1

    def _encode(self, picture: Any) -> list[Any]:
        """Packets with their times, from a picture or, at the end, None."""
        packets: list[Any] = self._stream.encode(picture)
        if picture is None and self._first_dts is None:
            date(packets)
        return packets

    def _mux(self, packets: list[Any]) -> None:
        """Hand video packets to the file, each after the sound that comes before it."""
        for packet in packets:
            length = self._durations.pop(packet.pts, None)
            if length is not None:
                packet.duration = length
            if self._first_dts is None:
                self._first_dts = packet.dts
            if self._audio:
                self._audio.copy(until=packet.dts * packet.time_base)
            if self._extras:
                self._extras.copy(until=packet.dts * packet.time_base)
            self._container.mux(packet)

    def close(self) -> None:
        """Write what is still in the encoder, all of the sound and the index, then give the file its name."""
        self._finish(cut=False)

    def abort(self) -> None:
        """Finish a playable file that ends, sound too, after the last frame written; without frames leave nothing."""
        self._finish(cut=True)

    def _finish(self, *, cut: bool) -> None:
        if self._done:
            return
        if not self.frames_written:
            self._discard()
            return
        with self._guard("cannot be finished"):
            packets = self._encode(None)
            self._end_with(packets)
            self._mux(packets)
            until = self._end * self._ticks.time_base if cut or self.cut_short else None
            if self._audio:
                self._audio.copy(until=until)
                self._audio.finish()
            if self._extras:
                self._extras.copy(until=until)
            self._container.close()
            assert self._part is not None
            self._part.end(complete=True)
            self._temporary.replace(self._unfinished if cut else self._final)
        self._done = True
        self._free()
        if self._ticks.moved:
            self.warnings.append(f"{self._final}: {self._ticks.moved} frames did not come later than the one before")

    def _end_with(self, packets: Sequence[Any]) -> None:
        """Let the last of ``packets``, whose frames may be the last ones, end with what is shown last."""
        if packets and self._format in ("mp4", "mov"):
            # the file's length is the sum of its packets' in stored order; the last of them is often not the
            # frame that is shown last, but its length has to make up for that one's
            first = packets[0].dts if self._first_dts is None else self._first_dts
            self._durations.pop(packets[-1].pts, None)
            packets[-1].duration = max(1, self._end - self._first_pts - (packets[-1].dts - first))

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn the libraries' errors into a ``VideoError`` and clean up after any error."""
        import av

        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            saved = self._salvage()
            number = getattr(error, "errno", None)
            if number in (errno.ENOSPC, errno.EDQUOT):
                reason = message_of(OSError(number, os.strerror(number), str(self._final)))
            else:
                reason = f"{self._final} {what}: {getattr(error, 'strerror', None) or error}"
            raise VideoError(reason + saved) from error
        except BaseException as error:
            if not (isinstance(error, KeyboardInterrupt) and self.frames_written):
                self._discard()
            raise  # after Ctrl-C the caller decides: the file can still be finished

    def _salvage(self) -> str:
        """After a failed write: keep the file if it can be played, else remove it. Returns words for the message."""
        import av

        self._close_container()
        if self.frames_written:
            with contextlib.suppress(av.FFmpegError, OSError, StopIteration, IndexError):
                with av.open(str(self._temporary)) as written:
                    next(written.decode(video=0))
                self._temporary.replace(self._unfinished)
                return f" (what was written so far can be played: {self._unfinished})"
        self._remove()
        return ""

    def _discard(self) -> None:
        self._close_container()
        self._remove()

    def _close_container(self) -> None:
        """Close the file, with its end where that can still be written."""
        self._done = True
        complete = False
        with contextlib.suppress(Exception):
            self._container.close()
            complete = True
        if self._part is not None:
            with contextlib.suppress(OSError):
                self._part.end(complete=complete)
        self._free()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def _free(self) -> None:
        if self._audio:
            self._audio.close()
        if self._extras:
            self._extras.close()
        self._durations.clear()


# --- sound ----------------------------------------------------------------------------------------------------------


class _Track(NamedTuple):
    """``out``: stream of the output file; ``encoder``: the same stream where sound is encoded anew, else None.
    ``unframed``: takes the headers of MPEG-TS off AAC, which FFmpeg does not do by itself for an MP4 in pieces."""

    out: Any
    encoder: Any
    unframed: Any = None


#: What a number of channels stands for where nothing says which they are, as FFmpeg takes it
_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def _layout_of(context: Any) -> str:
    """Name of the channels' places. An MP4 with PCM cannot be finished without."""
    name, count = str(context.layout.name), int(context.layout.nb_channels)
    return _LAYOUTS.get(count, name) if name == f"{count} channels" else name


class _Audio:
    """The sound of the source file, on its way into the output. Reads the file once more, as far as is needed."""

    def __init__(self, path: Path, output: Any, warnings: list[str], *, named: bool = False) -> None:
        """``named``: the tracks keep their titles, not only their languages."""
        import av

        self._path, self._named = path, named
        self._warnings = warnings
        self._output = output
        self._shift = Fraction(0)
        self._ahead: Any = None  # a packet that was read but is not due yet
        self._input: Any = av.open(str(path), metadata_errors="replace")
        self._tracks: dict[int, _Track] = {}
        streams: list[Any] = []
        for stream in self._input.streams:
            context: Any = stream.codec_context
            readable = stream.type == "audio" and context is not None
            if readable and context.layout.nb_channels:
                self._tracks[stream.index] = self._add(stream)
                streams.append(stream)
                continue
            if readable:
                self._warnings.append(f"{path.name}: sound without channels is damaged, and left out")
            stream.discard = av.stream.Discard.all  # do not read the video once more
        self._starts = [(s.start_time * s.time_base, s.time_base) for s in streams if s.start_time is not None]
        self.starts: list[Fraction] = [start for start, _ in self._starts]  # seconds on the source's clock
        self._packets: Iterator[Any] = self._input.demux(*streams) if streams else iter(())

    def _add(self, stream: Any) -> _Track:
        import av

        name = stream.codec_context.name
        if name in self._output.supported_codecs:
            out = self._output.add_stream_from_template(stream)
            framed = name == "aac" and not stream.codec_context.extradata and self._output.format.name in ("mp4", "mov")
            out.codec_context.layout = _layout_of(stream.codec_context)
            track = _Track(out, None, av.BitStreamFilterContext("aac_adtstoasc", stream) if framed else None)
        else:
            webm = self._output.format.name == "webm"
            context = stream.codec_context
            out = self._output.add_stream("libopus" if webm else "aac", rate=48_000 if webm else context.sample_rate)
            # Opus knows these layouts only; others are mapped to them, such as 5.1 with side speakers
            out.codec_context.layout = _LAYOUTS.get(context.layout.nb_channels, context.layout.name)
            track = _Track(out, out)
            self._warnings.append(
                f"{self._path.name}: {name} sound does not fit a {self._output.format.name} file and was encoded anew "
                f"as {'Opus' if webm else 'AAC'}"
            )
        if self._named:
            name_track(track.out, stream)
        elif language := stream.metadata.get("language"):
            track.out.metadata["language"] = language
        return track

    def output_starts(self) -> list[tuple[Fraction, Fraction]]:
        """(start in seconds on the output's clock, time base in seconds) of every track."""
        return [(start + self._shift, base) for start, base in self._starts]

    def move(self, seconds: Fraction) -> None:
        """Show all sound ``seconds`` later."""
        self._shift = seconds

    def copy(self, *, until: Fraction | None) -> None:
        """Copy sound up to ``until``, seconds on the output's clock, or all of it."""
        while (packet := self._next()) is not None:
            time = packet.dts * packet.time_base + self._shift
            if until is not None and time >= until:
                self._ahead = packet
                return
            self._put(packet)

    def finish(self) -> None:
        """Write what is still in the encoders."""
        for track in self._tracks.values():
            if track.encoder is not None:
                self._output.mux(track.encoder.encode(None))

    def close(self) -> None:
        self._packets = iter(())
        self._ahead = None
        self._input.close()

    def _next(self) -> Any:
        """The next packet with a timestamp, or None at the end."""
        import av

        if self._ahead is not None:
            packet, self._ahead = self._ahead, None
            return packet
        while True:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError as error:
                self._packets = iter(())
                self._warnings.append(f"{self._path.name}: the sound breaks off: {error.strerror}")
                return None
            if packet is None:
                return None
            if packet.dts is None:
                packet.dts = packet.pts
            if packet.dts is not None and packet.size and not packet.is_corrupt:
                return packet

    def _put(self, packet: Any) -> None:
        import av

        track = self._tracks[packet.stream.index]
        if track.encoder is None:
            if self._shift:
                ticks = round(self._shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts += ticks
            for bare in [packet] if track.unframed is None else track.unframed.filter(packet):
                bare.stream = track.out
                self._output.mux(bare)
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return  # a damaged piece of sound: leave it out
        for frame in frames:
            if self._shift and frame.pts is not None:
                frame.pts += round(self._shift / frame.time_base)
            self._output.mux(track.encoder.encode(frame))
