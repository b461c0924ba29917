"""Which of FFmpeg's encoders compresses a video, and what our options are called there.

``--crf``, ``--preset``, ``--bitrate`` and ``--pix-fmt`` mean the same for every encoder; a table says how each one
spells them. The options' names, values and limits are those that FFmpeg 8 lists for its encoders.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from runtime.errors import UsageError
from runtime.video.light import LIGHT, X264_LIGHT
from runtime.video.uri import SinkKind, SinkUri

Options = tuple[tuple[str, str], ...]

CODECS = ("h264", "hevc", "av1", "vp9")
CHOICES = ("software", "auto", "hardware")  # of --encoder
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
PIX_FMTS = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
_OTHER_NAMES = {"h265": "hevc", "avc": "h264", "x264": "libx264", "x265": "libx265"}
_PACKED = {"yuv420p": "nv12", "yuv422p": "nv16", "yuv420p10le": "p010le", "yuv422p10le": "p210le"}  # the same pixels
#: what each kind of file holds
CONTAINERS = {
    ".mp4": CODECS,
    ".m4v": CODECS,
    ".mov": ("h264", "hevc"),
    ".mkv": CODECS,
    ".webm": ("vp9", "av1"),
}
STREAMS = ("h264", "hevc")  # what receivers of a live stream understand
_TRIAL = 256  # pixels of a side of the frame by which an encoder is tried; some take nothing smaller than 145


@dataclass(frozen=True)
class Encoder:
    """One of FFmpeg's encoders.

    ``quality``: its option for ``--crf``, "" where it has none; from ``least`` to ``most``, ``usual`` unless told;
    ``whole``: only whole numbers. ``presets``: options for each of our presets. ``own_presets``: its own names for
    them, given as they are with ``preset_option``. ``always``: further options. ``by_quality``, ``by_bitrate``: further
    options in these two cases; a number stands for so many times the bit rate. ``live``: those that keep no frame
    waiting. ``odd_sizes``: takes odd sizes in 4:2:0. ``needs``: what it needs besides FFmpeg; only hardware has that.
    """

    name: str
    codec: str
    quality: str
    usual: int
    presets: Mapping[str, Options]
    least: int = 0
    most: int = 51
    whole: bool = False
    own_presets: tuple[str, ...] = ()
    preset_option: str = "preset"
    always: Options = ()
    by_quality: Options = ()
    by_bitrate: tuple[tuple[str, str | int], ...] = ()
    live: Options = ()
    odd_sizes: bool = False
    needs: str = ""

    def preset(self, name: str) -> Options:
        """The options for one of our presets, or one of its own. Raises ``UsageError`` for any other."""
        if name in self.own_presets:
            return ((self.preset_option, name),)
        if name in self.presets:
            return self.presets[name]
        own = [preset for preset in self.own_presets if preset not in PRESETS]
        more = f" or {own[0]} to {own[-1]}" if own else ""
        raise UsageError(f"unknown preset {name} of {self.name}: {LIGHT}, or one of {', '.join(PRESETS)}{more}")

    def rate(self, crf: float | None, bitrate: int | None) -> Options:
        """The options for a quality or a bit rate in bits a second; both None: the usual quality."""
        if bitrate is not None:
            more = (
                (name, value if isinstance(value, str) else str(value * bitrate)) for name, value in self.by_bitrate
            )
            return (("b", str(bitrate)), *more)
        if not self.quality:
            raise UsageError(f"{self.name} cannot be told a quality: give --bitrate, such as --bitrate 4M")
        level = float(self.usual) if crf is None else crf
        if not self.least <= level <= self.most:
            raise UsageError(f"crf {level:g} is not between {self.least} and {self.most}, as {self.name} has it")
        return ((self.quality, f"{round(level) if self.whole else level:g}"), *self.by_quality)


def _each(option: str, *values: str) -> dict[str, Options]:
    """One value of ``option`` for each of ``PRESETS``."""
    return {preset: ((option, value),) for preset, value in zip(PRESETS, values, strict=True)}


def _nvenc(codec: str, usual: int, most: int = 51) -> Encoder:
    return Encoder(
        f"{codec}_nvenc",
        codec,
        "cq",
        usual,
        _each("preset", "p1", "p1", "p2", "p3", "p3", "p4", "p5", "p6", "p7", "p7"),
        least=1,  # 0 is no quality but its own choice
        most=most,
        own_presets=tuple(f"p{number}" for number in range(1, 8)),
        by_quality=(("rc", "vbr"), ("b", "0")),
        by_bitrate=(("rc", "vbr"),),
        live=(("tune", "ull"), ("zerolatency", "1"), ("delay", "0"), ("bf", "0")),
        needs="an NVIDIA GPU with NVENC and its driver",
    )


def _qsv(codec: str, usual: int) -> Encoder:
    fast, slow = ("veryfast", "veryfast", "veryfast", "faster", "fast", "medium"), ("slow", "slower", "veryslow")
    return Encoder(
        f"{codec}_qsv",
        codec,
        "global_quality",
        usual,
        _each("preset", *fast, *slow, "veryslow"),
        least=1,
        whole=True,
        live=(("async_depth", "1"), ("bf", "0")),
        needs="an Intel GPU and its driver for media (VPL)",
    )


def _v4l2(codec: str) -> Encoder:
    return Encoder(
        f"{codec}_v4l2m2m",
        codec,
        "",
        0,
        dict.fromkeys(PRESETS, ()),  # it has one speed
        needs="a board whose video encoder is a V4L2 device",
    )


_ZERO_DELAY = (("tune", "zerolatency"),)
_STEADY = (("maxrate", 1), ("bufsize", 2))  # else a clip of eight seconds is up to 31 % too large
#: in the order in which they are tried for a codec
ENCODERS = (
    Encoder("libx264", "h264", "crf", 18, _each("preset", *PRESETS), by_bitrate=_STEADY, live=_ZERO_DELAY),
    Encoder(
        "libx265",
        "hevc",
        "crf",
        20,
        _each("preset", *PRESETS),
        by_bitrate=_STEADY,
        always=(("x265-params", "log-level=error"),),
        live=_ZERO_DELAY,
    ),
    Encoder(
        "libsvtav1",
        "av1",
        "crf",
        30,
        # SVT-AV1 4 warns of visible faults from 10 on
        _each("preset", "9", "9", "9", "8", "7", "6", "5", "4", "3", "1"),
        most=63,
        whole=True,
        own_presets=tuple(str(number) for number in range(14)),
        odd_sizes=True,
    ),
    Encoder(
        "libvpx-vp9",
        "vp9",
        "crf",
        31,
        {
            preset: (("deadline", "realtime" if speed > 4 else "good"), ("cpu-used", str(speed)))
            for preset, speed in zip(PRESETS, (8, 7, 6, 5, 4, 3, 2, 1, 0, 0), strict=True)
        },
        most=63,
        whole=True,
        own_presets=tuple(str(number) for number in range(9)),
        preset_option="cpu-used",
        always=(("row-mt", "1"),),
        by_quality=(("b", "0"),),
        by_bitrate=(("minrate", 1), ("maxrate", 1), ("bufsize", 1)),  # else it gives less where more is of little use
        odd_sizes=True,
    ),
    _nvenc("h264", 20),
    _nvenc("hevc", 22),
    _nvenc("av1", 28, most=63),
    _qsv("h264", 20),
    _qsv("hevc", 22),
    _qsv("av1", 24),
    _qsv("vp9", 24),
    _v4l2("h264"),
    _v4l2("hevc"),
)


@dataclass(frozen=True)
class Encoding:
    """How frames are compressed: FFmpeg's encoder, its options, and whether it takes odd sizes in 4:2:0.

    ``pix_fmt``: the pixels that were asked for, None for what suits the size.
    """

    encoder: str
    options: tuple[tuple[str, str], ...]
    threads: int = 0
    odd_sizes: bool = False
    tag: str = ""
    pix_fmt: str | None = None

    def pixel_format(self, width: int, height: int) -> str:
        """What the encoder is given: 4:2:0 wherever it can hold the size, unless told otherwise.

        Most encoders take odd sizes only in 4:4:4; that keeps every pixel, where padding would change the picture's
        size and cropping would lose a row. Raises ``UsageError`` where it cannot be.
        """
        wanted = self.pix_fmt
        across, down = width % 2 == 0, height % 2 == 0
        if wanted is None:
            wanted = "yuv420p" if (across and down) or self.odd_sizes else "yuv444p"
        fits = "444" in wanted or (across and (down or "422" in wanted))
        if not fits and not self.odd_sizes:
            raise UsageError(f"frames of {width}x{height} do not fit {wanted} of {self.encoder}: use --pix-fmt yuv444p")
        given = as_taken(wanted, formats_of(self.encoder))
        if given is None:
            raise UsageError(
                f"{self.encoder} takes no frames of {width}x{height}, an odd size: use --codec h264, hevc or vp9"
            )
        return given


def encoding_for(
    uri: SinkUri,
    codec: str | None,
    crf: float | None,
    preset: str,
    threads: int,
    *,
    encoder: str = "software",
    bitrate: int | None = None,
    pix_fmt: str | None = None,
) -> Encoding:
    """The encoding for an output file or stream.

    Args:
        uri: the output.
        codec: h264, hevc, av1, vp9, or an encoder by FFmpeg's name such as h264_nvenc; None for what suits the file.
        crf: quality, smaller is better and larger; None for the usual one of the encoder.
        preset: one of ``PRESETS``, what the encoder itself calls one, or ``light``: see :mod:`runtime.video.light`, and
            ``veryfast`` of other encoders and for live outputs.
        threads: of the encoder, 0 for as many as there are cores.
        encoder: ``software``, ``hardware``, or ``auto``: hardware where some opens here, else software.
        bitrate: mean bits a second, in the place of ``crf``.
        pix_fmt: one of ``PIX_FMTS``; None for 8 bits in 4:2:0, or 4:4:4 where the size needs that.

    Raises ``UsageError`` where these do not go together, or the encoder does not open here.
    """
    codec = _OTHER_NAMES.get((codec or "").lower(), (codec or "").lower()) or (
        "vp9" if uri.kind is SinkKind.FILE and uri.path.suffix.lower() == ".webm" else "h264"
    )
    if crf is not None and bitrate is not None:
        raise UsageError("--crf is a quality and --bitrate a size: give one of them")
    if pix_fmt is not None and pix_fmt not in PIX_FMTS:
        raise UsageError(f"unknown pixel format {pix_fmt}: one of {', '.join(PIX_FMTS)}")
    named = next((known for known in ENCODERS if known.name == codec), None)
    if named is None and codec not in CODECS:
        raise UsageError(
            f"unknown codec {codec}: {', '.join(CODECS)}, or an encoder: {', '.join(known.name for known in ENCODERS)}"
        )
    _check_holds(uri, codec if named is None else named.codec)
    chosen = named or _chosen(codec, encoder, bitrate, pix_fmt)
    if named is not None and encoder == "hardware" and not named.needs:
        raise UsageError(f"{named.name} is no hardware encoder: leave out --encoder hardware")
    live = uri.kind is SinkKind.STREAM
    speed: Options = X264_LIGHT
    if preset != LIGHT or chosen.name != "libx264" or live:
        speed = chosen.preset("veryfast" if preset == LIGHT else preset)
    options = (*chosen.rate(crf, bitrate), *speed, *chosen.always)
    if named is not None and (trouble := trouble_with(named.name)):
        instead = f"--codec {named.codec} encodes in software" if named.needs else "choose another codec"
        raise UsageError(f"{trouble}: {instead}")
    if pix_fmt is not None and as_taken(pix_fmt, formats_of(chosen.name)) is None:
        raise UsageError(_refused(chosen, pix_fmt))
    file_of_apple = not live and uri.path.suffix.lower() != ".mkv"
    return Encoding(
        chosen.name,
        (*options, *(chosen.live if live else ())),
        threads,
        chosen.odd_sizes,
        "hvc1" if chosen.codec == "hevc" and file_of_apple else "",
        pix_fmt,
    )


def _check_holds(uri: SinkUri, codec: str) -> None:
    """Raises ``UsageError`` where the output cannot hold the codec."""
    if uri.kind is SinkKind.STREAM:
        if codec not in STREAMS:
            raise UsageError(f"{uri.shown}: a stream is {' or '.join(STREAMS)}, not {codec}")
        return
    suffix = uri.path.suffix.lower()
    if codec not in CONTAINERS[suffix]:
        others = " or ".join(other for other in (".mp4", ".mkv") if codec in CONTAINERS[other])
        raise UsageError(
            f"{uri.text}: a {suffix} file holds {' or '.join(CONTAINERS[suffix])}, not {codec}: use {others}"
        )


def _chosen(codec: str, encoder: str, bitrate: int | None, pix_fmt: str | None) -> Encoder:
    """The first encoder of a codec that opens here and can do what is asked for."""
    known = [one for one in ENCODERS if one.codec == codec]
    software, hardware = [one for one in known if not one.needs], [one for one in known if one.needs]
    among = {"software": software, "hardware": hardware, "auto": [*hardware, *software]}[encoder]
    troubles = []
    for one in among:
        if trouble := trouble_with(one.name):
            troubles.append(trouble)
        elif one.needs and not one.quality and bitrate is None:
            troubles.append(f"{one.name} needs --bitrate")
        elif one.needs and pix_fmt is not None and as_taken(pix_fmt, formats_of(one.name)) is None:
            troubles.append(f"{one.name} does not take {pix_fmt}")
        else:
            return one
    if encoder == "hardware":
        raise UsageError(f"no hardware encoder for {codec} here ({'; '.join(troubles)}): leave out --encoder hardware")
    raise UsageError(f"{'; '.join(troubles)}: choose another codec")


def _refused(encoder: Encoder, pix_fmt: str) -> str:
    """One sentence: what the encoder takes, and who takes the pixels."""
    takes = [name for name in PIX_FMTS if as_taken(name, formats_of(encoder.name)) is not None]
    others = [
        other.codec
        for other in ENCODERS
        if not other.needs and other is not encoder and as_taken(pix_fmt, formats_of(other.name)) is not None
    ]
    instead = f"; --codec {' or '.join(others)} takes it" if others else ""
    return f"{encoder.name} does not take {pix_fmt}, but {', '.join(takes)}{instead}"


def as_taken(pix_fmt: str, formats: tuple[str, ...]) -> str | None:
    """The name under which an encoder with these ``formats`` takes the pixels; None: it does not."""
    if not formats:  # those of V4L2 only the device knows; all known ones take this
        return pix_fmt if pix_fmt == "yuv420p" else None
    return next((name for name in (pix_fmt, _PACKED.get(pix_fmt, "")) if name in formats), None)


@functools.cache
def formats_of(encoder: str) -> tuple[str, ...]:
    """FFmpeg's names of the pixel formats that an encoder takes; empty where it is missing or does not say."""
    import av

    try:
        return tuple(known.name for known in av.codec.Codec(encoder, "w").video_formats or ())
    except (av.FFmpegError, ValueError):
        return ()


@contextlib.contextmanager
def opening_an_encoder() -> Iterator[None]:
    """Within it an encoder opens quietly, and leaves how this process's threads are scheduled as it was.

    SVT-AV1 writes its settings to standard error. Where the user is root, as in a container, it also makes the thread
    that opens it a real-time one (``SCHED_FIFO``, priority 99), which everything that thread starts inherits: engines,
    whose threads wait for each other by spinning, then keep the processors from all others, for ever at times.
    """
    os.environ.setdefault("SVT_LOG", "1")  # errors only
    before = _schedules()
    try:
        yield
    finally:
        own = before.get(threading.get_native_id())
        for thread, now in _schedules().items():
            wanted = before.get(thread, own)
            if wanted is not None and now != wanted:
                with contextlib.suppress(OSError):  # the thread has ended
                    os.sched_setscheduler(thread, wanted[0], os.sched_param(wanted[1]))


def _schedules() -> dict[int, tuple[int, int]]:
    """Each thread's policy and real-time priority; empty where the system has none such."""
    found: dict[int, tuple[int, int]] = {}
    if sys.platform == "linux":
        for entry in Path("/proc/self/task").glob("*"):
            with contextlib.suppress(OSError):
                thread = int(entry.name)
                found[thread] = (os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority)
    return found


@functools.cache
@opening_an_encoder()
def trouble_with(encoder: str) -> str:
    """Why an encoder cannot be used here, "" where it can: found by encoding a small frame with it.

    PyAV lists encoders of hardware that is not there.
    """
    import av

    known = next((one for one in ENCODERS if one.name == encoder), None)
    try:
        context: Any = av.CodecContext.create(encoder, "w")
    except (av.FFmpegError, ValueError):
        return f"this PyAV has no {encoder}"
    try:
        context.width = context.height = _TRIAL
        context.pix_fmt = as_taken("yuv420p", formats_of(encoder)) or formats_of(encoder)[0]
        context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
        context.options = dict((*known.always, ("b", "1000000"))) if known else {}
        frame = av.VideoFrame(_TRIAL, _TRIAL, context.pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        if context.encode(frame) or context.encode(None):
            return ""
        reason = "it gives nothing back"
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    needs = f"it needs {known.needs}" if known is not None and known.needs else reason
    return f"{encoder} does not open here, {needs}" if needs != reason else f"{encoder} does not open here ({reason})"


def usable() -> dict[str, list[str]]:
    """Codec -> the encoders that open here; software first."""
    return {
        codec: [one.name for one in ENCODERS if one.codec == codec and not trouble_with(one.name)] for codec in CODECS
    }


def is_hardware(encoder: str) -> bool:
    """Whether an encoder is a piece of hardware."""
    return any(one.name == encoder and one.needs for one in ENCODERS)


def bits_a_second(text: str) -> int:
    """A bit rate such as ``4M``, ``800k`` or ``2500000``. Raises ``ValueError`` where it is none."""
    match = re.fullmatch(r"([0-9]{1,10}(?:\.[0-9]{1,6})?)([kKmM]?)", text)
    if match is None:
        raise ValueError(f"{text!r} is no bit rate such as 4M or 800k")
    bits = round(Fraction(match[1]) * {"": 1, "k": 1000, "m": 1_000_000}[match[2].lower()])
    if not 1000 <= bits <= 1_000_000_000:
        raise ValueError(f"{text!r} is no bit rate from 1k to 1000M")
    return bits
