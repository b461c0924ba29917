"""Command line of the runtime: parse, call one function, print, exit code.

OpenCV, PyAV and the engines are imported by the verb that needs them, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from runtime.errors import (
    EXIT_NOT_MET,
    EXIT_OK,
    GenedgeError,
    MissingExtraError,
    UsageError,
    guarded,
    message_of,
)
from runtime.report import table, text_stream, write_json

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.control import Controls
    from runtime.engines.settings import EngineOptions, Profile
    from runtime.live.adaptive import Adaptive
    from runtime.live.switch import Slot, Switcher
    from runtime.pipeline import PipelineReport
    from runtime.resume import FileRun
    from runtime.sessions import Choice, Session
    from runtime.verify import Verdict
    from runtime.video.browser import BrowserSink
    from runtime.video.sink import Sink
    from runtime.video.source import Source, SourceInfo, VideoFrame

MIB = 1 << 20

#: package that an import may miss -> the extra that brings it; None: a base dependency
EXTRAS = {
    "openvino": "cpu",
    "onnxruntime": "cpu",
    "tensorrt": "tensorrt",
    "aiohttp": "preview",
    "pyvirtualcam": "vcam",
    "cv2": None,
    "av": None,
    "numpy": None,
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return dispatch(_parser(), arguments, EXTRAS)


def dispatch(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, extras: Mapping[str, str | None]) -> int:
    """Parse, run the ``verb`` that the parser set, and return the exit code.

    A package of ``extras`` (package to the extra that brings it, None for a base dependency) that is not installed is
    reported with the command that installs it.
    """
    options = parser.parse_args(arguments)
    verb: Callable[[argparse.Namespace], int] = options.verb

    def main() -> int:
        try:
            return verb(options)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package not in extras:
                raise
            extra = extras[package]
            if extra is None:
                raise GenedgeError(f"{package} is not installed: pip install genedge") from None
            raise MissingExtraError(package, extra) from None

    return guarded(main)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime",
        description="Run generator bundles on video files, cameras, streams and pictures.",
        epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 parity or privacy not met, 130 interrupted.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    running = verbs.add_parser("run", help="run a video through one or more bundles")
    running.add_argument(
        "-b",
        "--bundle",
        action="append",
        required=True,
        metavar="BUNDLE",
        help="folder, or name in ./bundles and $GENEDGE_BUNDLES; several are stages in this order",
    )
    running.add_argument(
        "-i",
        "--input",
        required=True,
        metavar="INPUT",
        help="clip.mp4, folder/, frames_%%06d.png, photo.png, 0, /dev/video0, rtsp://…, http://…, csi://0, "
        "gst:PIPELINE, - (a video on standard input)",
    )
    running.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUTPUT",
        help="out.mp4 (.mkv, .mov, .webm), frames_%%06d.png, photo.png, display://, null://, rtsp://…, rtmp://…, "
        "udp://…, vcam:// (a virtual camera), gst:PIPELINE, or http://127.0.0.1:8080: a page in the browser; to all of "
        "these files play once at their own speed, and the page's last picture stays until nobody has looked for 10 s",
    )
    engine_options(running)
    running.add_argument("--passcode-file", type=Path, metavar="FILE", help="passcode for a code of bits")
    chain_options(running)
    adaptive_option(running, "what is run")
    running.add_argument("--no-audio", action="store_true", help="leave the sound out (default: copied)")
    running.add_argument(
        "--dump-raw",
        type=Path,
        metavar="FILE",
        help="also write every frame before it is encoded, as raw bytes (height x width x 3, BGR)",
    )
    video_options(running)
    json_option(running)
    running.set_defaults(verb=_run)

    from runtime.batch.cli import add_batch_parser
    from runtime.faces.cli import add_deid_parser
    from runtime.faces.reveal import add_reveal_parser

    add_deid_parser(verbs)
    add_reveal_parser(verbs)
    add_batch_parser(verbs)

    verify = verbs.add_parser("verify", help="check on this device that a bundle still does what PyTorch did")
    verify.add_argument("bundle", metavar="BUNDLE")
    engine_options(verify)
    json_option(verify)
    verify.set_defaults(verb=_verify)

    bench = verbs.add_parser("bench", help="time a bundle's variants side by side, without video around them")
    bench.add_argument("bundle", metavar="BUNDLE")
    engine_options(bench)
    bench.add_argument(
        "--size", type=frame_size, metavar="HxW", help="frame size (default: the bundle's own, else 360x640)"
    )
    bench.add_argument(
        "--rounds",
        type=count,
        metavar="N",
        help="timed frames of each variant (default: 20, or as many as two minutes hold, at least 3)",
    )
    json_option(bench)
    bench.set_defaults(verb=_bench)

    doctor = verbs.add_parser("doctor", help="what is installed here, what is missing, and the command that repairs it")
    json_option(doctor)
    doctor.set_defaults(verb=_doctor)
    return parser


def chain_options(parser: argparse.ArgumentParser) -> None:
    """Add what every verb takes that runs frames through bundles, beside the bundles."""
    parser.add_argument(
        "--tile",
        type=count,
        metavar="N",
        help="side of the tiles in pixels, 0 for whole frames (default: whole frames up to 1920x1088)",
    )
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        type=assignment,
        metavar="NAME=VALUE",
        help="code of a conditional generator: class or label, 0101 or labels joined by +, numbers, random:7, or for a "
        "map a picture; NAME may be BUNDLE.NAME or STAGE.NAME",
    )
    parser.add_argument(
        "--control", type=Path, metavar="FILE", help='JSON such as {"style": "2"}, watched and applied while running'
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="[STAGE:]NAME",
        help="which image of a bundle that gives several; STAGE counts the bundles from 1 (default: the last one)",
    )
    parser.add_argument("--no-cut-reset", action="store_true", help="let a recurrent bundle keep its state across cuts")


def video_options(parser: argparse.ArgumentParser, preset: str = "light") -> None:
    """Add what every verb takes that runs video from an INPUT to an OUTPUT. ``preset``: see :func:`encoder_options`."""
    parser.add_argument("--max-frames", type=count, metavar="N", help="stop after N frames")
    encoder_options(parser, preset)
    parser.add_argument("--input-width", type=count, metavar="N", help="asked of a camera, in pixels")
    parser.add_argument("--input-height", type=count, metavar="N", help="asked of a camera, in pixels")
    parser.add_argument(
        "--input-rate", type=_rate, metavar="FPS", help="asked of a camera; rate of a picture sequence (default: 25)"
    )
    parser.add_argument("--input-codec", type=_fourcc, metavar="XXXX", help="asked of a camera, such as MJPG or YUYV")
    parser.add_argument(
        "--realtime", action="store_true", help="play a file at its own rate as a camera would: the newest frame wins"
    )
    parser.add_argument(
        "--max-latency-ms",
        type=count,
        metavar="MS",
        help="of live sources: drop frames that were captured longer ago than this when their turn comes",
    )
    parser.add_argument(
        "--reconnect",
        type=count,
        default=60,
        metavar="S",
        help="seconds for which a camera or stream that is lost, as INPUT or OUTPUT, is tried again; 0: never "
        "(default: 60)",
    )
    parser.add_argument(
        "--input-timeout",
        type=_seconds,
        metavar="S",
        help="silence after which a stream counts as lost (default: 2.5 for RTSP and the like, else 10)",
    )
    parser.add_argument(
        "--input-option",
        action="append",
        default=[],
        type=assignment,
        metavar="NAME=VALUE",
        help="option of FFmpeg's reader, such as rtsp_transport=udp (default: tcp) or analyzeduration=5000000 "
        "(microseconds that it looks at a stream first; default: 500000 for RTSP and the like)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue a run from file to file that was stopped or killed, behind its last whole segment",
    )
    parser.add_argument(
        "--segment",
        type=segment_length,
        metavar="N",
        help="frames of a segment, which is encoded by itself; fewer lose less and make the file larger (default: 250)",
    )
    parser.add_argument(
        "--fragmented", action="store_true", help="leave an MP4 in pieces, so that it can be played while it grows"
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="of -o http://…: where other machines see the page too, with a token (0.0.0.0)",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="token of the page (default: $GENEDGE_TOKEN, else made up)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")


def encoder_options(parser: argparse.ArgumentParser, preset: str = "light") -> None:
    """Add how a video is compressed, by default with ``preset``; :func:`sink_as_told` reads them."""
    parser.add_argument(
        "--codec",
        metavar="NAME",
        help="h264, hevc, av1, vp9, or an encoder such as h264_nvenc (default: h264, vp9 for .webm)",
    )
    parser.add_argument(
        "--encoder",
        choices=["software", "auto", "hardware"],
        default="software",
        help="auto: hardware where an encoder of the codec opens here (default: software)",
    )
    parser.add_argument("--crf", type=float, metavar="Q", help="quality, smaller is better (default: 18 for h264)")
    parser.add_argument(
        "--bitrate", type=_bitrate, metavar="B", help="mean bits a second, such as 4M, in place of --crf"
    )
    parser.add_argument(
        "--preset",
        default=preset,
        metavar="NAME",
        help="ultrafast to placebo, or the encoder's own name; light: x264 with little work, others veryfast "
        f"(default: {preset})",
    )
    parser.add_argument(
        "--pix-fmt",
        metavar="NAME",
        help="yuv420p, yuv422p, yuv444p, or with 10 bits yuv420p10le, … (default: yuv420p, yuv444p for odd sizes)",
    )


def sink_as_told(options: argparse.Namespace) -> dict[str, Any]:
    """What the options of :func:`video_options` say of the OUTPUT, for :func:`runtime.video.sink.open_sink`.

    Raises :class:`UsageError` where it cannot be for this OUTPUT on this machine.
    """
    from runtime.video.encoders import encoding_for
    from runtime.video.uri import SinkKind, parse_sink

    said = {name: getattr(options, name) for name in ("codec", "crf", "preset", "encoder", "bitrate", "pix_fmt")}
    uri = parse_sink(options.output)
    if uri.kind in (SinkKind.FILE, SinkKind.STREAM):
        encoding_for(uri, threads=0, **said)
    return {**said, "reconnect": options.reconnect, "say": say_between}


def shown_output(options: argparse.Namespace) -> str:
    """The OUTPUT for people and reports, without passwords."""
    from runtime.video.uri import parse_sink

    return parse_sink(options.output).shown


def open_input_as_told(options: argparse.Namespace, *, all_damage: bool = False) -> Source:
    """Open the INPUT as the ``options`` of :func:`video_options` say. What a live source gives is said.

    ``all_damage``: see :class:`runtime.video.source.SourceOptions`.
    """
    from runtime.live.open import LiveOptions, open_input
    from runtime.video.source import SourceOptions

    max_latency = None if options.max_latency_ms is None else options.max_latency_ms / 1000
    source = open_input(
        options.input,
        SourceOptions(
            options.input_width,
            options.input_height,
            options.input_rate,
            silence=options.input_timeout,
            ffmpeg=tuple(options.input_option),
            fourcc=options.input_codec,
            all_damage=all_damage,
        ),
        LiveOptions(options.realtime, max_latency, options.reconnect, say_between),
    )
    if source.info.live:
        say(f"{source.info.uri}: {source.info.told}; the newest frame wins")
    return source


def engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the choice of engine, precision and threads."""
    parser.add_argument(
        "--backend", default="auto", metavar="NAME", help="auto, tensorrt, openvino or onnxruntime (default: auto)"
    )
    parser.add_argument(
        "--precision", default="auto", metavar="NAME", help="auto, fp32, bf16, fp16 or int8 (default: auto)"
    )
    parser.add_argument(
        "--threads", type=count, default=0, metavar="N", help="engine threads, 0 lets the engine choose (default: 0)"
    )
    tensorrt_options(parser)


def tensorrt_options(parser: argparse.ArgumentParser) -> None:
    """Add how TensorRT builds its engines and where they are kept; :func:`engines_of` reads them."""
    group = parser.add_argument_group("TensorRT", "An engine is built on first use, for this GPU, and then kept.")
    group.add_argument(
        "--engine-cache", type=Path, metavar="DIR", help="where engines are kept (default: engines/ in the bundle)"
    )
    group.add_argument("--workspace", type=count, metavar="MIB", help="most GPU memory for intermediate results")
    group.add_argument(
        "--builder-optimization-level", type=count, metavar="N", help="0 (built fast) to 5 (runs fast); from 8.6 on"
    )
    group.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="what was measured before (default: a file beside the engines)",
    )
    group.add_argument(
        "--dla-core", type=count, metavar="N", help="deep-learning accelerator of a Jetson, with the GPU behind it"
    )
    group.add_argument("--version-compatible", action="store_true", help="for later TensorRT versions too; from 8.6 on")
    group.add_argument("--hardware-compatible", action="store_true", help="for all GPUs from Ampere on; from 8.6 on")
    for name, what in (
        ("min", "smallest frames that one engine takes (default: the usual ones)"),
        ("opt", "usual frames, for which it is fastest (default: the largest, else those of the input)"),
        ("max", "largest frames that one engine takes (default: the usual ones)"),
    ):
        group.add_argument(f"--{name}-shape", type=_batch_size, metavar="NxHxW", help=what)


def engines_of(options: argparse.Namespace, backends: Iterable[str]) -> EngineOptions:
    """What the options of :func:`tensorrt_options` say, for a run on these backends.

    Raises :class:`UsageError` where one is given and none of the backends is TensorRT.
    """
    from runtime.engines.settings import EngineOptions, EngineSettings
    from runtime.stats import Clock

    said = {name: getattr(options, name) for name in _TENSORRT_OPTIONS}
    given = [name for name, value in said.items() if value is not None and value is not False]  # 0 is a value
    used = sorted(set(backends))
    if given and "tensorrt" not in used:
        option = f"--{given[0].replace('_', '-')}"
        instead = f" ({', '.join(used)} is)" if used else ""
        raise UsageError(f"{option} is for TensorRT, which is not used here{instead}: leave it out")
    settings = EngineSettings(
        profile=_profile(options),
        workspace_mib=options.workspace,
        optimization_level=options.builder_optimization_level,
        timing_cache=options.timing_cache,
        dla_core=options.dla_core,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
    )
    return EngineOptions(settings, options.engine_cache, Clock())


_TENSORRT_OPTIONS = (
    "engine_cache", "workspace", "builder_optimization_level", "timing_cache", "dla_core", "version_compatible",
    "hardware_compatible", "min_shape", "opt_shape", "max_shape",
)  # fmt: skip


def _profile(options: argparse.Namespace) -> Profile | None:
    """The frames that an engine shall take; what is not said of the three follows from the others."""
    from runtime.engines.settings import Profile

    smallest, usual, largest = options.min_shape, options.opt_shape, options.max_shape
    if smallest is None and usual is None and largest is None:
        return None
    if usual is None and (smallest is None or largest is None):
        raise UsageError("--min-shape and --max-shape go together: give both, and perhaps --opt-shape")
    usual = usual or largest
    return Profile(smallest or usual, usual, largest or usual)


def adaptive_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--adaptive``; :func:`adapting` does what it says."""
    parser.add_argument(
        "--adaptive",
        action="store_true",
        help=f"of live sources: hold the frame rate by changing {what}: larger tiles, a faster precision, and back up "
        "where there is room",
    )


def adapting(
    options: argparse.Namespace, stack: ExitStack, switcher: Switcher | None, source: Source
) -> Adaptive | None:
    """Watch and change the stages of ``switcher`` until ``stack`` ends, where ``--adaptive`` asks for that."""
    if not options.adaptive or switcher is None:
        return None
    from runtime.live.adaptive import Adaptive

    return stack.enter_context(Adaptive(switcher, source, above=options.precision == "auto", say=say_between))


def check_adaptive(options: argparse.Namespace, source: Source) -> None:
    """Raises :class:`UsageError` where ``--adaptive`` is given and the source waits for its frames."""
    if options.adaptive and not source.info.live:
        raise UsageError(f"--adaptive is for live sources: leave it out, or play {options.input} with --realtime")


def json_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``; see :func:`runtime.report.write_json`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON (- for standard output)")


def count(text: str) -> int:
    """A whole number from 0 to 2^20, as an option says it; for argparse."""
    if not text.isdigit() or int(text) > 1 << 20:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {1 << 20}")
    return int(text)


def segment_length(text: str) -> int:
    """Frames of a segment, as an option says it; for argparse."""
    if not text.isdigit() or not 16 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of frames from 16 to 10000")
    return int(text)


def assignment(text: str) -> tuple[str, str]:
    """(name, value) of an option NAME=VALUE; for argparse."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, for example style=2")
    return name, value


def _fourcc(text: str) -> str:
    if len(text) != 4 or not text.isascii():
        raise argparse.ArgumentTypeError(f"{text!r} is no code of four letters such as MJPG")
    return text.upper()


def _bitrate(text: str) -> int:
    from runtime.video.encoders import bits_a_second

    try:
        return bits_a_second(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no time from 0.1 to 3600 seconds")
    return seconds


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no frame rate such as 25 or 30000/1001")
    return rate


def frame_size(text: str) -> tuple[int, int]:
    """(height, width) in pixels of an option HxW; for argparse."""
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and 0 < int(height) <= 16384 and 0 < int(width) <= 16384):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, for example 360x640")
    return int(height), int(width)


def _batch_size(text: str) -> tuple[int, int, int]:
    """(N, height, width) of an option NxHxW, or HxW for one frame at a time; for argparse."""
    count, _, size = text.lower().partition("x") if text.lower().count("x") == 2 else ("1", "x", text)
    if not count.isdigit() or not 0 < int(count) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not NxHEIGHTxWIDTH, for example 1x360x640")
    return (int(count), *frame_size(size))


def browser_of(options: argparse.Namespace, *, compares: bool) -> Callable[[SourceInfo], BrowserSink] | None:
    """What makes the page of ``-o http://…``, None for other outputs; ``compares``: it may show the original frames.

    Raises what :func:`runtime.video.browser.access_for` does, and :class:`UsageError` for options of a page that there
    is none of.
    """
    from runtime.video.uri import SinkKind, parse_sink

    uri = parse_sink(options.output)
    if uri.kind is not SinkKind.BROWSER:
        if options.host is not None or options.token_file is not None:
            option = "--token-file" if options.host is None else "--host"
            raise UsageError(f"{option} is for -o http://ADDRESS:PORT: leave it out")
        return None
    from runtime.video.browser import BrowserSink, access_for

    access = access_for(uri, options.host, options.token_file)
    return lambda source: BrowserSink(source, access, compares=compares, say=say)


# --- run --------------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from runtime.bundle import open_bundle
    from runtime.resume import facts_of, is_complete, open_run
    from runtime.sessions import choose
    from runtime.video.browser import BrowserSink
    from runtime.video.raw_dump import DumpingSink
    from runtime.video.sink import check_sink, open_sink

    replaces = options.overwrite or options.resume
    check_sink(options.output, overwrite=replaces)
    outputs = sink_as_told(options)
    if is_complete(options):
        say(f"{options.output} is complete: nothing unfinished is beside it")
        return EXIT_OK
    bundles = [open_bundle(place) for place in options.bundle]
    hides = any(bundle.manifest.task == "face-deid" for bundle in bundles)  # then nobody shall see who it was
    browser = browser_of(options, compares=not hides)
    images = images_of(options.image, bundles)
    choices = [choose(bundle, options.backend, options.precision) for bundle in bundles]
    engines = engines_of(options, (choice.backend for choice in choices))
    controls = controls_of(options, bundles, passcodes=True)
    with terminable(), ExitStack() as stack:
        source = stack.enter_context(open_input_as_told(options))
        check_sink(options.output, source=source.info, overwrite=replaces)
        check_adaptive(options, source)
        stages, slots, (height, width) = open_stages(
            stack, options, source.info, bundles, choices, images, engines, controls, exchanged=browser is not None
        )
        models = zip(bundles, choices, strict=True)
        file_run = open_run(options, source.info, lambda: facts_of(options, source.info, models), say)
        if file_run is not None:
            stack.enter_context(file_run)
            controls.on_change = file_run.stop_noting
        sink = stack.enter_context(
            open_sink(
                options.output,
                source=source.info,
                width=width,
                height=height,
                overwrite=replaces,
                audio=not options.no_audio,
                extras=not hides,
                fragmented=options.fragmented,
                segment=None if file_run is None else file_run.length,
                browser=browser,
                **outputs,
            )
        )
        say_hardware(sink)
        page = sink if isinstance(sink, BrowserSink) else None
        switcher = _switcher(stack, page, slots, images, controls, options, engines, hides) if slots else None
        adaptive = adapting(options, stack, switcher, source)
        compares = page is not None
        taking = sink if options.dump_raw is None else stack.enter_context(DumpingSink(sink, options.dump_raw))
        job = _Job(options, source, taking, bundles, choices, stages, controls, switcher, file_run, adaptive, compares)
        steer(stack, options, controls, sink)
        return job.run()


def open_stages(
    stack: ExitStack,
    options: argparse.Namespace,
    info: SourceInfo,
    bundles: Sequence[Bundle],
    choices: Sequence[Choice],
    images: Sequence[str | None],
    engines: EngineOptions,
    controls: Controls,
    *,
    exchanged: bool = False,
) -> tuple[list[Session], list[Slot], tuple[int, int]]:
    """One stage for each bundle, warm, and said; ``stack`` closes them.

    Returns the stages, their slots where something may exchange them (``exchanged``, or ``--adaptive``), else none, and
    the height and width in pixels of what comes out of the last one. Raises what
    :func:`runtime.stages.open_stage` does.
    """
    from runtime.live.switch import Slot, SwitchSession
    from runtime.stages import open_stage

    height, width = info.height, info.width
    stages: list[Session] = []
    slots: list[Slot] = []
    for bundle, choice, image in zip(bundles, choices, images, strict=True):
        session: Session = open_stage(
            bundle,
            choice,
            height,
            width,
            tile=options.tile,
            threads=options.threads,
            live=info.live,
            image=image,
            engines=engines,
        )
        if exchanged or options.adaptive:
            session = SwitchSession(session)
            slots.append(Slot(bundle, choice, session, height, width, options.tile))
        stages.append(stack.enter_context(session))
        session.warm_up((1, height, width, 3))
        controls.attach(len(stages) - 1, session, height, width)
        say(f"{bundle.manifest.name}: {choice.reason}; {width}x{height} on {session.info.device}")
        height, width = height * session.scale, width * session.scale
    return stages, slots, (height, width)


def opener(
    slots: Sequence[Slot],
    images: Sequence[str | None],
    options: argparse.Namespace,
    engines: EngineOptions,
    *,
    live: bool,
) -> Callable[[Bundle, Choice, Slot], Session]:
    """What opens another session for a slot, for :class:`runtime.live.switch.Switcher`."""
    from runtime.stages import open_stage

    shown = [(slot, slot.bundle.manifest.name, image) for slot, image in zip(slots, images, strict=True)]

    def opens(bundle: Bundle, choice: Choice, slot: Slot) -> Session:
        # --image is about the bundle that the stage has begun with
        image = next(
            (image for own, name, image in shown if own.session is slot.session and name == bundle.manifest.name), None
        )
        return open_stage(
            bundle,
            choice,
            slot.height,
            slot.width,
            tile=slot.tile,
            threads=options.threads,
            live=live,
            image=image,
            engines=engines,
        )

    return opens


def steer(stack: ExitStack, options: argparse.Namespace, controls: Controls, sink: Sink) -> None:
    """Let the ``--control`` file and the keyboard change the codes, until ``stack`` ends."""
    from runtime.control import FileWatcher, KeyReader, Keys

    if options.control:
        stack.enter_context(FileWatcher(options.control, controls, say_between))
    if controls.dials:
        keys = Keys(controls, say_between)
        sink.on_key = keys.press
        on_terminal = stack.enter_context(KeyReader(keys.press)).active
        if on_terminal or options.output.startswith("display:"):
            say(keys.hint)


def _switcher(
    stack: ExitStack,
    page: BrowserSink | None,
    slots: Sequence[Slot],
    images: Sequence[str | None],
    controls: Controls,
    options: argparse.Namespace,
    engines: EngineOptions,
    hides: bool,
) -> Switcher:
    """Changes bundles and engines of a live run while it goes on; lets the page do so, and change codes."""
    from runtime.live.panel import Panel
    from runtime.live.switch import Switcher, bundles_here

    opens = opener(slots, images, options, engines, live=True if page is None else page.screen.live)

    def told(text: str) -> None:
        say_between(text)
        if page is not None:
            page.tell(text)

    # a stage that hides faces stays what it is
    bundles = (
        [] if hides or page is None else [bundle for bundle in bundles_here() if bundle.manifest.task != "face-deid"]
    )
    resizes = page is not None
    switcher = Switcher(slots, opens, controls, told, resizes=resizes, backend=options.backend, bundles=bundles)
    stack.callback(switcher.close)
    if page is not None:
        page.screen.panel = Panel(controls, switcher)
    return switcher


def controls_of(options: argparse.Namespace, bundles: list[Bundle], *, passcodes: bool) -> Controls:
    """The codes of all stages, set to what the options of :func:`chain_options` say.

    ``passcodes``: the option ``--passcode-file`` is about them too.
    """
    from runtime.codes import PASSCODE
    from runtime.control import Controls, read_passcode

    controls = Controls([bundle.manifest for bundle in bundles])
    passcode_file = options.passcode_file if passcodes else None
    if (options.code or passcode_file or options.control) and not controls.dials:
        option = "--code" if options.code else "--passcode-file" if passcode_file else "--control"
        names = ", ".join(bundle.manifest.name for bundle in bundles)
        raise UsageError(f"{names} takes no code: leave out {option}")
    for name, text in options.code:
        if controls.dial(name).code.kind == "bits" and text.lstrip().startswith(PASSCODE):
            instead = "--passcode-file FILE" if passcodes else "--control FILE"
            raise UsageError(f"everybody on this machine can read a command line: use {instead}")
        controls.apply(name, text)
    if passcode_file:
        controls.apply_passcode(read_passcode(passcode_file))
    return controls


def images_of(wishes: Sequence[str], bundles: Sequence[Bundle]) -> list[str | None]:
    """The image that each stage gives, None for its main one."""
    images: list[str | None] = [None] * len(bundles)
    for wish in wishes:
        stage, colon, name = wish.rpartition(":")
        number = int(stage[:9]) if stage.isdecimal() else len(bundles)  # there are fewer
        if (colon and not stage.isdecimal()) or not 0 < number <= len(bundles):
            raise UsageError(f"--image {wish[:80]}: the stage before the colon is a number from 1 to {len(bundles)}")
        if images[number - 1] is not None:
            raise UsageError(f"--image {wish}: stage {number} has its image already, and a stage gives one")
        images[number - 1] = bundles[number - 1].manifest.image_called(name).name
    return images


class _StoppingSink:
    """Passes everything on, stops the run once the viewer has closed the window, and says where ``most`` frames were
    wanted and have come."""

    def __init__(self, sink: Sink, stop: threading.Event, most: int | None) -> None:
        self._sink, self._stop, self._most = sink, stop, most
        self.abort = sink.abort

    def close(self) -> None:
        self._sink.cut_short = self._sink.frames_written == self._most
        self._sink.close()

    def write(self, frame: VideoFrame) -> None:
        self._sink.write(frame)
        if self._sink.stop_requested:
            self._stop.set()


def run_told(
    options: argparse.Namespace,
    source: Source,
    stages: Sequence[Session],
    sink: Sink,
    tell: Callable[[PipelineReport, str, str | None], None],
    *,
    begins: Callable[[VideoFrame], bool] | None = None,
    first: int = 0,
) -> None:
    """Run the pipeline as the ``options`` of :func:`video_options` say, and tell how it ended, however that was.

    Args:
        tell: called with the report, the outcome (``complete``, ``interrupted`` or ``failed``) and the error's
            sentence or None; after the warnings of source and sink have been said.
        begins: see :func:`runtime.pipeline.run_pipeline`, whose errors come through.
        first: frames that the source has left out, which count for ``--max-frames``.
    """
    from runtime.pipeline import run_pipeline
    from runtime.stats import Progress

    total = source.info.frame_count
    most = options.max_frames
    if most is not None:
        total = min(total, most) if total is not None else most
        most = max(0, most - first)
    if total is not None:
        total = max(0, total - first)
    stop = threading.Event()
    reports: list[PipelineReport] = []
    outcome, error = "failed", None
    try:
        run_pipeline(
            source,
            stages,
            _StoppingSink(sink, stop, options.max_frames),
            progress=Progress(total, quiet=options.quiet),
            stop=stop,
            max_frames=most,
            on_report=reports.append,
            begins=begins,
            newest=source.info.live,
        )
        outcome = "complete"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except Exception as problem:
        error = message_of(problem)
        raise
    finally:
        for warning in (*source.warnings, *sink.warnings):
            say(f"warning: {warning}")
        if reports:
            tell(reports[0], outcome, error)


def say_hardware(sink: Sink) -> None:
    """Which encoder of this machine's hardware compresses the video; nothing for others."""
    from runtime.video.encoders import is_hardware

    if is_hardware(sink.encoder):
        say(f"{sink.encoder} compresses the video")


def say_latency(report: PipelineReport) -> None:
    """What a live run's frames took, and what it left out; nothing for files."""
    capture = report.latency.get("capture")
    if report.dropped and not report.frames:
        say(f"warning: all {report.dropped} frames were older than --max-latency-ms when their turn came")
    if capture is not None:
        say(
            f"from capture to output: p50 {capture.p50_ms:.0f} ms, p95 {capture.p95_ms:.0f} ms, "
            f"p99 {capture.p99_ms:.0f} ms; {report.dropped} frames dropped"
        )


class _Job:
    """One run: frames through the pipeline, then what to say about it."""

    def __init__(
        self,
        options: argparse.Namespace,
        source: Source,
        sink: Sink,
        bundles: list[Bundle],
        choices: list[Choice],
        stages: list[Session],
        controls: Controls,
        switcher: Switcher | None,
        file_run: FileRun | None,
        adaptive: Adaptive | None,
        compares: bool,
    ) -> None:
        self.compares = compares  # the sink shows the original frames too
        self.controls, self.switcher, self.file_run, self.adaptive = controls, switcher, file_run, adaptive
        from runtime.cuts import Beginnings
        from runtime.video.segments import SegmentSink

        self.options, self.source, self.sink = options, source, sink
        self.bundles, self.choices, self.stages = bundles, choices, stages
        # nobody is reset where there is no state, so nobody needs to look
        recurrent = any(bundle.manifest.states for bundle in bundles) or (switcher is not None and switcher.recurrent)
        first, before = 0, []
        if file_run is not None:
            assert isinstance(sink, SegmentSink)
            file_run.take_over(sink)
            first = file_run.first(recurrent=recurrent)
            before = file_run.times_before(first, sink.time_base)
            if first < file_run.done - 1:
                say(f"{file_run.done - first} frames since the last cut are computed again, for what comes behind them")
        self.first = first
        self.beginnings = Beginnings(at_cuts=not options.no_cut_reset, before=before) if recurrent else None
        if file_run is not None and self.beginnings is not None:
            file_run.last_cut = self.beginnings.last_cut

    def run(self) -> int:
        begins = self._keeping_originals if self.compares else self.beginnings
        self.source.skip(self.first)
        run_told(self.options, self.source, self.stages, self.sink, self._tell, begins=begins, first=self.first)
        if self.file_run is not None:
            self.file_run.complete()
        self.sink.linger()
        return EXIT_OK

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of the frames that leave, the last ones where a stage became another."""
        scale = math.prod(stage.scale for stage in self.stages)
        return self.source.info.width * scale, self.source.info.height * scale

    def _keeping_originals(self, frame: VideoFrame) -> bool:
        frame.original = frame.image
        return self.beginnings is not None and self.beginnings(frame)

    def _tell(self, report: PipelineReport, outcome: str, error: str | None) -> None:
        if self.sink.frames_written:
            width, height = self.size
            say(
                f"{shown_output(self.options)}: {self.sink.frames_written} frames of {width}x{height}, "
                f"{report.fps:.1f} fps, "
                f"peak memory {report.peak_rss_bytes / MIB:.0f} MiB"
            )
        say_latency(report)
        if self.options.json:
            write_json(self.options.json, self._as_dict(report, outcome, error))

    def _as_dict(self, report: PipelineReport, outcome: str, error: str | None) -> dict[str, Any]:
        info = self.source.info
        return {
            "outcome": outcome,
            "error": error,
            "input": {
                "uri": info.uri,
                "width": info.width,
                "height": info.height,
                "codec": info.codec,
                "rate": float(info.rate) if info.rate else None,
                "frame_count": info.frame_count,
                "rotation": info.rotation,
                "audio": list(info.audio),
            },
            "output": {
                "uri": shown_output(self.options),
                "width": self.size[0],
                "height": self.size[1],
                "encoder": self.sink.encoder,
                "dropped": self.sink.dropped,
                "gaps": [asdict(gap) for gap in self.sink.gaps],
            },
            "stages": [
                {
                    "bundle": bundle.manifest.name,
                    "backend": choice.backend,
                    "precision": choice.precision,
                    "variant": choice.variant,
                    "reason": choice.reason,
                    "device": stage.info.device,
                    "threads": stage.info.threads,
                    "in_flight": stage.info.in_flight,
                    "image": image or bundle.manifest.image.name,
                    "codes": self.controls.said(index),
                }
                for index, (bundle, choice, stage, image) in enumerate(
                    zip(
                        self.bundles,
                        self.choices,
                        self.stages,
                        images_of(self.options.image, self.bundles),
                        strict=True,
                    )
                )
            ],
            "adaptive": self.adaptive.to_dict() if self.adaptive is not None else None,
            "switched": self.switcher.switched if self.switcher is not None else [],
            **report.to_dict(),
            "kept": 0 if self.file_run is None else self.file_run.done,
            "gaps": [asdict(gap) for gap in self.source.gaps],
            "resets": self.beginnings.to_dict() if self.beginnings is not None else None,
            "warnings": [*self.source.warnings, *self.sink.warnings],
        }


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does: with a finalised file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- verify -----------------------------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    from runtime.bundle import open_bundle
    from runtime.verify import verify

    bundle = open_bundle(options.bundle)
    choices = _choices(bundle, options)
    verdicts = verify(bundle, choices, engines_of(options, (choice.backend for choice in choices)))
    if options.json:
        write_json(
            options.json, {"bundle": bundle.manifest.name, "results": [verdict.to_dict() for verdict in verdicts]}
        )
    return print_verdicts(bundle, verdicts, text_stream(options.json))


def _choices(bundle: Bundle, options: argparse.Namespace) -> list[Choice]:
    """What the user asked for, or everything that runs here."""
    from runtime.sessions import choose, runnable

    asked = (options.backend, options.precision)
    if asked != ("auto", "auto") and "auto" not in asked:
        return [choose(bundle, *asked)]
    if options.backend != "auto" or options.precision != "auto":
        choose(bundle, *asked)  # says why where nothing fits
    choices = [
        choice
        for choice in runnable(bundle)
        if options.backend in ("auto", choice.backend) and options.precision in ("auto", choice.precision)
    ]
    if not choices:
        raise MissingExtraError("an inference engine (openvino or onnxruntime)", "cpu")
    return choices


def print_verdicts(bundle: Bundle, verdicts: Sequence[Verdict], out: TextIO | None = None) -> int:
    """Print the figures of each variant and engine; 0 where all limits are met, else 3."""
    from runtime.metrics import CELLS

    head = ("variant", "engine", "precision", *CELLS, "verdict")
    rows = []
    for verdict in verdicts:
        choice, report = verdict.choice, verdict.report
        rows.append(
            (
                choice.variant,
                choice.backend,
                choice.precision,
                *report.cells(),
                "NOT MET" if verdict.failures else "met",
            )
        )
    print(table(head, rows, left=3), file=out)
    failures = [(verdict.choice, failure) for verdict in verdicts for failure in verdict.failures]
    for choice, failure in failures:
        say(f"error: {choice.variant} on {choice.backend} in {choice.precision}: {failure}")
    if failures:
        return EXIT_NOT_MET
    print(f"{bundle.manifest.name}: {len(bundle.manifest.golden)} golden frames, parity with PyTorch met", file=out)
    return EXIT_OK


# --- bench ------------------------------------------------------------------------------------------------------------


def _bench(options: argparse.Namespace) -> int:
    from runtime.bench import bench
    from runtime.bundle import open_bundle
    from runtime.stats import Clock

    if options.rounds == 0:
        raise UsageError("--rounds must be at least 1")
    bundle = open_bundle(options.bundle)
    height, width = options.size or bundle.manifest.geometry.fixed_size or (360, 640)
    choices = _choices(bundle, options)
    engines = engines_of(options, (choice.backend for choice in choices))
    timings = bench(bundle, choices, height, width, options.rounds, options.threads, Clock(), engines)
    best = min(timing.median_ms for timing in timings)
    rows = [
        (
            timing.choice.variant,
            timing.choice.backend,
            timing.choice.precision,
            f"{timing.median_ms:.1f}",
            f"{timing.p95_ms:.1f}",
            f"{1000 / timing.median_ms:.1f}",
            f"{timing.median_ms / best:.2f}",
        )
        for timing in timings
    ]
    first, out = timings[0].session, text_stream(options.json)
    print(
        f"{bundle.manifest.name}, {width}x{height}, {len(timings[0].milliseconds)} rounds in turn, {first.device}, "
        f"{first.threads or 'default'} threads",
        file=out,
    )
    print(table(("variant", "engine", "precision", "median ms", "p95 ms", "fps", "time/best"), rows, left=3), file=out)
    if options.json:
        results = [timing.to_dict() for timing in timings]
        write_json(options.json, {"bundle": bundle.manifest.name, "width": width, "height": height, "results": results})
    return EXIT_OK


# --- doctor -----------------------------------------------------------------------------------------------------------


def _doctor(options: argparse.Namespace) -> int:
    from runtime.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "ok  " if finding.good else "-   " if finding.optional else "MISS"
        repair = f"\n      -> {finding.repair}" if finding.repair else ""
        print(f"{mark}  {finding.what}{repair}", file=text_stream(options.json))
    if options.json:
        write_json(options.json, [finding.to_dict() for finding in findings])
    return EXIT_OK if all(finding.good or finding.optional for finding in findings) else 1


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def say_between(text: str) -> None:
    """Say something while a progress line may stand on the terminal."""
    say(f"\r\x1b[K{text}" if sys.stderr.isatty() else text)
