"""Video in segments of so many frames, each of which is encoded as if nothing were before it.

So a segment comes out the same whoever encodes it: a run that goes through, one that is continued after it was killed,
or several that share the work. ::

    for segment in plan_segments(frames):  # in any order, on any machine
        source.skip(segment.start)         # of a source that has just been opened
        sink = open_sink(path, source=source.info, width=width, height=height, segment=SEGMENT, audio=False)
        ...                                # write the frames segment.start to segment.stop as the source gives them
        sink.close()
        parts.append(SegmentFile(Path(path), tuple(sink.whole)))
    join(parts, open_sink("out.mp4", source=source.info, width=width, height=height, segment=SEGMENT))

gives the packets of one run over all frames, bit for bit. A part may also hold several segments: it has to begin with
the first frame of one and, unless it is the last part, to end with the last frame of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import VideoError
from runtime.video.encoders import Encoding, opening_an_encoder
from runtime.video.nal import parts_of, with_start_codes
from runtime.video.sink import FileSink, date
from runtime.video.source import SourceInfo, VideoFrame
from runtime.video.uri import SinkUri

SEGMENT = 250  # frames: after as many x264 and x265 set a key frame by themselves, so that this costs none

_CLONED = (
    "width", "height", "pix_fmt", "time_base", "framerate", "sample_aspect_ratio", "colorspace", "color_range",
    "color_primaries", "color_trc", "thread_count", "flags", "bit_rate", "gop_size", "max_b_frames",
)  # fmt: skip


# x264 (0.165) without its code for AVX-512, of which that for macroblock trees with B-frames depends on what the memory
# held before: of 276 encodings of segments of 20 frames 104 came out otherwise; without that code none of 159 did
_WITHOUT_AVX512 = "asm=MMX2,SSE2Fast,SSSE3,SSE4.2,AVX,FMA3,BMI1,BMI2,AVX2"


def repeatable(encoding: Encoding) -> Encoding:
    """``encoding`` so that the same frames give the same packets, every time."""
    if encoding.encoder != "libx264" or not _has_avx512():
        return encoding
    options = dict(encoding.options)
    own = options.get("x264-params")
    options["x264-params"] = f"{own}:{_WITHOUT_AVX512}" if own else _WITHOUT_AVX512
    return replace(encoding, options=tuple(options.items()))


@cache
def _has_avx512() -> bool:
    try:
        return " avx512" in Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return False


@dataclass(frozen=True)
class Segment:
    """The frames from ``start`` up to but not including ``stop``, counted from 0."""

    index: int
    start: int
    stop: int


def plan_segments(frames: int, length: int = SEGMENT) -> list[Segment]:
    """The segments of a video of ``frames`` frames: ``length`` frames each, the last one what is left.

    Raises ``ValueError`` for a length below 1 or fewer than no frames.
    """
    if length < 1 or frames < 0:
        raise ValueError(f"no segments of {length} in {frames} frames")
    starts = range(0, frames, length)
    return [Segment(index, start, min(start + length, frames)) for index, start in enumerate(starts)]


@dataclass(frozen=True)
class Whole:
    """What is known of a segment that was written whole.

    ``ticks``: times of its frames as they are shown, in the encoder's time base. ``end``: when the last one ends.
    ``digest``: SHA-256 of what its packets hold. ``picture``: of the last frame before it was encoded, uint8 BGR.
    ``delay``: frames by which the encoder is late, since it may have to put one before another.
    """

    ticks: tuple[int, ...]
    end: int
    digest: str
    picture: str
    delay: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Of the times their first and the steps from one to the next, each with how often it comes."""
        steps = (later - earlier for earlier, later in itertools.pairwise(self.ticks))
        return {
            "first": self.ticks[0],
            "steps": [[step, sum(1 for _ in group)] for step, group in itertools.groupby(steps)],
            "end": self.end,
            "digest": self.digest,
            "picture": self.picture,
            "delay": self.delay,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Whole:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what :meth:`to_dict` has not made."""
        steps = [int(step) for step, count in content["steps"] for _ in range(int(count))]
        ticks = tuple(itertools.accumulate(steps, initial=int(content["first"])))
        return cls(ticks, int(content["end"]), str(content["digest"]), str(content["picture"]), int(content["delay"]))


@dataclass(frozen=True)
class SegmentFile:
    """A video file and the whole segments with which it begins."""

    path: Path
    whole: tuple[Whole, ...]


class SegmentSink(FileSink):
    """A :class:`runtime.video.sink.FileSink` that encodes every ``length`` frames anew.

    ``whole``: the segments that were finished. ``on_whole``: called with each of them, once it was handed to the file.
    Its last frames may still be on their way there, which whoever reads them again finds out by ``digest``.
    """

    def __init__(
        self,
        uri: SinkUri,
        source: SourceInfo,
        width: int,
        height: int,
        encoding: Encoding,
        *,
        length: int = SEGMENT,
        **settings: bool,
    ) -> None:
        self._length = length
        self._encoding = encoding = repeatable(encoding)
        self._settings: dict[str, Any] = {}
        self.whole: list[Whole] = []
        self.on_whole: Callable[[Whole], None] = lambda whole: None
        super().__init__(uri, source, width, height, encoding, **settings)
        self._encoder = self._stream.codec_context
        self._fresh = True  # nothing has been encoded by it
        self._undated: deque[int] = deque()  # times of frames, in order, that no packet has as its decoding time
        self._delay = 0
        self._lead = True  # the first packets, which are decoded before any frame is shown
        self._begin_segment()
        self._known = 0  # frames of whole segments that were taken over

    def _add_video(self, source: SourceInfo, encoding: Encoding, time_base: Fraction) -> Any:
        stream = super()._add_video(source, encoding, time_base)
        context = stream.codec_context
        self._settings = {name: value for name in _CLONED if (value := getattr(context, name)) is not None}
        return stream

    @property
    def time_base(self) -> Fraction:
        """Seconds of a tick."""
        return self._ticks.time_base

    # -- frames ---------------------------------------------------------------------------------

    def write(self, frame: VideoFrame) -> None:
        """Take a frame. One of a segment that was taken over is left out; the last of them has to be the same."""
        if frame.index < self._known:
            if frame.index == self._known - 1 and _digest_of(frame) != self.whole[-1].picture:
                raise VideoError(
                    f"{self._final}: frame {frame.index} does not come out as it did before (another machine?), "
                    "so the run cannot be continued: start again with --overwrite"
                )
            return
        super().write(frame)
        if len(self._ticks_of_segment) == self._length:
            self._picture = _digest_of(frame)

    def _encode(self, picture: Any) -> list[Any]:
        if picture is not None and len(self._ticks_of_segment) == self._length:
            self._mux(self._encoded(None))
            self._end_segment()
            self._encoder, self._fresh = self._new_encoder(), True
        if picture is None and self._fresh:
            return []  # there is nothing in it, and some encoders do not like to end before they began
        if picture is not None:
            self._ticks_of_segment.append(picture.pts)
            self._end_of_segment = self._end
            self._undated.append(picture.pts)
            self._fresh = False
        return self._encoded(picture)

    def _encoded(self, picture: Any) -> list[Any]:
        packets = self._encoder.encode(picture)
        if picture is None and not self._packets_of_segment:
            date(packets)
        return self._dated(packets)

    def _new_encoder(self) -> Any:
        import av

        context: Any = av.CodecContext.create(self._encoding.encoder, "w")
        for name, value in self._settings.items():
            setattr(context, name, value)
        context.options = dict(self._encoding.options)
        with opening_an_encoder():
            context.open()
        return context

    def _dated(self, packets: list[Any]) -> list[Any]:
        """Packets of this file's stream, with the decoding times that one encoder for all frames would give them."""
        for packet in packets:
            packet.stream = self._stream
            self._packets_of_segment += 1
            for part in parts_of(self._stream.codec_context.name, bytes(packet)):
                self._hash.update(part)
            if self._lead and packet.dts is not None and packet.dts < self._first_tick:
                self._delay += 1
                continue
            self._lead = False
            if self._undated:
                packet.dts = self._undated.popleft()
        return packets

    @property
    def _first_tick(self) -> int:
        return self.whole[0].ticks[0] if self.whole else self._ticks_of_segment[0]

    # -- segments -------------------------------------------------------------------------------

    def _begin_segment(self) -> None:
        self._ticks_of_segment: list[int] = []
        self._packets_of_segment = self._end_of_segment = 0
        self._picture = ""
        self._hash = hashlib.sha256()

    def _end_segment(self) -> None:
        ticks = tuple(self._ticks_of_segment)
        if self._packets_of_segment == len(ticks):  # else the encoder left frames out
            whole = Whole(ticks, self._end_of_segment, self._hash.hexdigest(), self._picture, self._delay)
            self.whole.append(whole)
            self.on_whole(whole)
        self._begin_segment()

    def _finish(self, *, cut: bool) -> None:
        super()._finish(cut=cut)
        if self._ticks_of_segment and (not cut or len(self._ticks_of_segment) == self._length):
            self._end_segment()

    def take(self, whole: Whole, packets: Sequence[Any]) -> None:
        """Take over a segment that was encoded before, in the place of its frames: see :func:`stored_segments`."""
        ticks = whole.ticks
        for packet, tick in zip(sorted(packets, key=lambda packet: packet.pts), ticks, strict=True):
            packet.pts = tick
        lead = whole.delay if self._lead else 0
        before = ticks[lead] - ticks[0] if lead < len(ticks) else lead
        self._undated.extend(ticks)
        for index, packet in enumerate(packets):
            packet.stream, packet.time_base = self._stream, self._ticks.time_base
            packet.dts = ticks[index] - before if index < lead else self._undated.popleft()
        if self._lead:
            self._lead, self._delay, self._first_pts = False, whole.delay, ticks[0]
        self._durations.update(
            (tick, max(1, later - tick)) for tick, later in zip(ticks, (*ticks[1:], whole.end), strict=True)
        )
        self._end = whole.end
        with self._guard("cannot be written"):
            self._end_with(packets)
            self._mux(list(packets))
        self._ticks.go_on(ticks[-1])
        self._known += len(ticks)
        self.frames_written += len(ticks)
        self.whole.append(whole)
        self.on_whole(whole)


def stored_segments(path: Path, whole: Sequence[Whole]) -> Iterator[tuple[Whole, list[Any]]]:
    """The segments ``whole`` with the packets of a file that begins with them, for :meth:`SegmentSink.take`; up to the
    first that is not there as it was written."""
    import av

    with contextlib.suppress(av.FFmpegError, OSError, IndexError), av.open(str(path)) as container:
        stream = container.streams.video[0]
        # the first byte of what a file says about units behind their lengths
        lengths = stream.codec_context.name in ("h264", "hevc") and (stream.codec_context.extradata or b"")[:1] == b"\1"
        packets = (packet for packet in container.demux(stream) if packet.size)
        for segment in whole:
            taken = list(itertools.islice(packets, len(segment.ticks)))
            content = hashlib.sha256()
            for packet in taken:
                content.update(bytes(packet))
            if len(taken) != len(segment.ticks) or content.hexdigest() != segment.digest:
                return
            for packet in taken if lengths else ():
                packet.update(with_start_codes(bytes(packet)))
            yield segment, taken


def join(parts: Iterable[SegmentFile], sink: SegmentSink) -> None:
    """Put the segments of ``parts`` one behind the other into ``sink``, which adds the sound, and close it.

    Nothing is encoded: ``sink`` has to be opened as those of the parts were. Raises :class:`VideoError` where a part
    does not hold what it says; the sink is then aborted.
    """
    with sink:
        for part in parts:
            taken = 0
            for whole, packets in stored_segments(part.path, part.whole):
                sink.take(whole, packets)
                taken += 1
            if taken < len(part.whole):
                raise VideoError(f"{part.path} is not what was written there: segment {taken} of it has changed")


def _digest_of(frame: VideoFrame) -> str:
    return hashlib.sha256(np.ascontiguousarray(frame.image).data).hexdigest()
