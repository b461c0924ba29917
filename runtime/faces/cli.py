"""The verb ``deid`` of ``python -m runtime``."""

from __future__ import annotations

import argparse
import math
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli import (
    adapting,
    adaptive_option,
    browser_of,
    chain_options,
    check_adaptive,
    controls_of,
    count,
    engine_options,
    engines_of,
    images_of,
    json_option,
    open_input_as_told,
    open_stages,
    opener,
    run_told,
    say,
    say_hardware,
    say_latency,
    shown_output,
    sink_as_told,
    steer,
    terminable,
    video_options,
)
from runtime.errors import EXIT_NOT_MET, EXIT_OK, UsageError
from runtime.faces import METHODS
from runtime.report import write_json

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.control import Controls
    from runtime.cuts import Beginnings
    from runtime.engines.settings import EngineOptions
    from runtime.faces.canary import Canary
    from runtime.faces.deid import DeidentifiedSource
    from runtime.faces.detect import MultiScaleDetector
    from runtime.faces.methods import Painter
    from runtime.faces.types import FaceDetector
    from runtime.live.adaptive import Adaptive
    from runtime.pipeline import PipelineReport
    from runtime.resume import FileRun
    from runtime.sessions import Choice
    from runtime.video.sink import Sink
    from runtime.video.source import SourceInfo

_CHAIN = ("code", "control", "image", "tile", "no_cut_reset")  # options about the bundles of -b
LOOKAHEAD = 12  # frames, of files: 0.4 s at 30 frames a second


def add_deid_parser(verbs: Any) -> None:
    """Add the verb ``deid`` to the subparsers of :mod:`runtime.cli`."""
    parser = verbs.add_parser(
        "deid",
        help="replace every face in a video or picture",
        description="Replace every face. A frame that cannot be judged is covered whole. Body, gait, clothing, voice "
        "and place can still tell who it is.",
        epilog="Exit codes: 0 ok, 1 failed (what was written has .partial at the end of its name), 2 usage, "
        "3 frames had to be covered whole, 130 interrupted.",
    )
    parser.add_argument("-i", "--input", required=True, metavar="INPUT", help="as for run")
    parser.add_argument("-o", "--output", required=True, metavar="OUTPUT", help="as for run")
    parser.add_argument(
        "--method", choices=METHODS, default="average", help="what is put in place of a face (default: average)"
    )
    parser.add_argument(
        "--bundle",
        "-b",
        action="append",
        default=[],
        metavar="BUNDLE",
        help="run the covered frames through this bundle too, such as a super-resolution; several are stages in order",
    )
    parser.add_argument(
        "--generator", default="face-deid", metavar="BUNDLE", help="of --method generator (default: face-deid)"
    )
    parser.add_argument("--passcode-file", type=Path, metavar="FILE", help="passcode that chooses the faces")
    parser.add_argument(
        "--passcode-env", metavar="NAME", help="environment variable with the passcode (default: GENEDGE_PASSCODE)"
    )
    parser.add_argument("--ask-passcode", action="store_true", help="ask for the passcode on the terminal")
    parser.add_argument(
        "--vault",
        type=Path,
        metavar="FILE",
        help="keep the original faces, encrypted with the passcode: then it is pseudonymised, not anonymised",
    )
    parser.add_argument(
        "--detector", metavar="FILE", help="bundle or YuNet .onnx (default: $GENEDGE_FACE_DETECTOR, YuNet, own)"
    )
    parser.add_argument(
        "--thresh",
        type=_share,
        metavar="S",
        help="score that covers (default: 0.25, of the own detector in videos 0.3)",
    )
    parser.add_argument(
        "--mask-scale", type=_scale, default=1.6, metavar="F", help="width over that of the face (default: 1.6)"
    )
    parser.add_argument(
        "--lookahead", type=count, metavar="N", help="frames that wait for later sights (default: 12, live: 0)"
    )
    parser.add_argument(
        "--hold", type=_seconds, default=0.8, metavar="S", help="seconds that a lost face stays covered (default: 0.8)"
    )
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="S", help="for the engines (default: 10)")
    parser.add_argument("--no-recheck", action="store_true", help="do not search the covered frames again (faster)")
    parser.add_argument(
        "--keep-audio", action="store_true", help="keep the sound (default: dropped, a voice identifies)"
    )
    parser.add_argument(
        "--dump-raw",
        type=Path,
        metavar="FILE",
        help="also write every covered frame before it is encoded, as raw bytes (height x width x 3, BGR)",
    )
    parser.add_argument("--review", type=Path, metavar="FILE", help="HTML page with the tracks that are not certain")
    chain_options(parser)
    adaptive_option(parser, "what is run behind it (-b), never the covers")
    engine_options(parser)
    video_options(parser, preset="veryfast")  # light is for frames that a net has smoothed
    json_option(parser)
    parser.set_defaults(verb=deid)


def _number(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what} from {least:g} to {most:g}")
    return value


def _share(text: str) -> float:
    return _number(text, 0.05, 0.95, "score")


def _scale(text: str) -> float:
    return _number(text, 1.2, 4.0, "factor")


def _seconds(text: str) -> float:
    return _number(text, 0.1, 600.0, "time in seconds")


def deid(options: argparse.Namespace) -> int:
    """Run the verb; returns the exit code."""
    from runtime.bundle import open_bundle
    from runtime.cuts import Beginnings
    from runtime.faces.canary import bank_canary
    from runtime.faces.deid import DeidentifiedSource, DeidSettings
    from runtime.faces.guard import GuardSettings
    from runtime.faces.methods import BLUR_WARNING, make_method
    from runtime.faces.passcode import RecordingKeys, read_passcode, recording_of, salt_of
    from runtime.faces.resolve import LOW
    from runtime.faces.review import Gallery
    from runtime.live.switch import Switcher
    from runtime.resume import facts_of, is_complete, open_run
    from runtime.sessions import choose
    from runtime.video.raw_dump import DumpingSink
    from runtime.video.sink import check_sink, open_sink

    if options.adaptive and not options.bundle:
        raise UsageError("--adaptive changes the bundles behind the covers, and there is none: add -b, or leave it out")
    replaces = options.overwrite or options.resume
    check_sink(options.output, overwrite=replaces)
    outputs = sink_as_told(options)
    _check_resume(options)
    if is_complete(options):
        say(f"{options.output} is complete: nothing unfinished is beside it")
        return EXIT_OK
    browser = browser_of(options, compares=False)
    _check_beside(options)
    passcode = read_passcode(options.passcode_file, options.passcode_env, ask=options.ask_passcode)
    if options.vault is not None and passcode is None:
        raise UsageError("--vault needs a passcode: --passcode-file FILE, $GENEDGE_PASSCODE or --ask-passcode")
    bundles = [open_bundle(place) for place in options.bundle]
    if not bundles and (option := next((name for name in _CHAIN if getattr(options, name)), None)):
        raise UsageError(f"--{option.replace('_', '-')} is for a bundle behind: add -b BUNDLE, or leave it out")
    images = images_of(options.image, bundles)
    choices = [choose(bundle, options.backend, options.precision) for bundle in bundles]
    controls = controls_of(options, bundles, passcodes=False)  # that is for the faces
    generator = _generator(options) if options.method == "generator" else None
    used = [*choices, *([generator[1]] if generator is not None else [])]
    engines = engines_of(options, (choice.backend for choice in used))
    _no_core_dumps()
    with terminable(), ExitStack() as stack:
        raw = stack.enter_context(open_input_as_told(options, all_damage=True))
        info = raw.info
        check_sink(options.output, source=info, overwrite=replaces)
        check_adaptive(options, raw)
        lookahead = options.lookahead if options.lookahead is not None else 0 if info.live else LOOKAHEAD
        # where frames wait anyway, those that come are searched while the check looks at those that go
        streams = 2 if lookahead and not options.no_recheck else 1
        # in a picture nothing before and after makes up for a face that is missed
        low = LOW if options.thresh is None and info.frame_count == 1 else options.thresh
        detector = _detector(options, low, streams)
        stack.callback(detector.close)
        canary = bank_canary()
        _check_threshold(options, canary, detector, info)
        recording = recording_of(options.input, info)
        keys = (
            RecordingKeys.random()
            if passcode is None
            else RecordingKeys.from_passcode(passcode, salt_of(recording), recording)
        )
        painter = _painter(*generator, options, engines) if generator is not None else None
        method = make_method(options.method, keys=keys, painter=painter)
        stack.callback(method.close)
        vault = None
        if options.vault and passcode is not None:
            from runtime.faces.vault import VaultWriter

            vault = stack.enter_context(
                VaultWriter(options.vault, passcode, recording=recording, overwrite=options.overwrite)
            )
        high = max(0.6, detector.low)
        guard = GuardSettings(
            lookahead=lookahead,
            hold=options.hold,
            low=detector.low,
            high=high,
            across=options.mask_scale,
            down=options.mask_scale * 1.8 / 1.6,
        )
        settings = DeidSettings(guard, timeout=options.timeout, recheck=not options.no_recheck)
        gallery = Gallery() if options.review else None
        checker = detector
        if streams > 1:
            checker = detector.twin()
            stack.callback(checker.close)
        source = stack.enter_context(
            DeidentifiedSource(
                raw, detector, method, settings, canary=canary, vault=vault, checker=checker, observer=gallery
            )
        )
        say(f"{detector.description}; {options.method}; {info.width}x{info.height}, look-ahead {lookahead} frames")
        if lookahead == 0:
            say("without look-ahead a face is covered from the frame in which it is first found, not before")
        if options.method == "blur":
            say(f"warning: {BLUR_WARNING}")
        if options.vault:
            say("with a vault the output is pseudonymised, not anonymised: whoever has vault and passcode can undo it")
        if info.audio and not options.keep_audio:
            say("the sound is left out, because a voice identifies: --keep-audio keeps it")
        stages, slots, (height, width) = open_stages(stack, options, info, bundles, choices, images, engines, controls)
        models = zip(bundles, choices, strict=True)
        more = {"detector": detector.digest, "--thresh": f"{detector.low:g}"}
        file_run = open_run(options, info, lambda: facts_of(options, info, models, **more), say)
        if file_run is not None:
            stack.enter_context(file_run)
            controls.on_change = file_run.stop_noting
            if not _can_be_continued(options):
                file_run.stop_noting()
        sink = stack.enter_context(
            open_sink(
                options.output,
                source=info,
                width=width,
                height=height,
                overwrite=replaces,
                audio=options.keep_audio,
                keep_partial=True,
                fragmented=options.fragmented,
                segment=None if file_run is None else file_run.length,
                browser=browser,
                **outputs,
            )
        )
        say_hardware(sink)
        switcher = None
        if slots:
            opens = opener(slots, images, options, engines, live=info.live)
            switcher = Switcher(slots, opens, controls, say, resizes=False, backend=options.backend)
            stack.callback(switcher.close)
        adaptive = adapting(options, stack, switcher, source)
        # nobody is reset where there is no state, so nobody needs to look
        recurrent = any(bundle.manifest.states for bundle in bundles)
        beginnings = Beginnings(at_cuts=not options.no_cut_reset) if recurrent else None
        steer(stack, options, controls, sink)
        taking = sink if options.dump_raw is None else stack.enter_context(DumpingSink(sink, options.dump_raw))
        job = _Job(options, source, detector, taking, stages, gallery, file_run, adaptive, controls, beginnings)
        return job.run()


def _can_be_continued(options: argparse.Namespace) -> bool:
    """Whether a run does the same again. Which faces are drawn depends on a key, and that is kept nowhere."""
    from runtime.faces.deid import DRAWING

    return options.method not in DRAWING and options.vault is None


def _check_resume(options: argparse.Namespace) -> None:
    if options.resume and not _can_be_continued(options):
        what = "a run with --vault" if options.vault is not None else f"--method {options.method}"
        raise UsageError(
            f"--resume cannot continue {what}, whose keys are kept nowhere: start again with --overwrite "
            "(solid, mosaic and blur without a vault can be continued)"
        )


def _check_beside(options: argparse.Namespace) -> None:
    """The files that are written beside the output must not be each other, or the input."""
    places = {"--output": Path(options.output), "--input": Path(options.input)}
    for name, place in (
        ("--vault", options.vault),
        ("--review", options.review),
        ("--json", options.json),
        ("--dump-raw", options.dump_raw),
    ):
        if place is None or str(place) == "-":
            continue
        if not place.resolve().parent.is_dir():
            raise UsageError(f"the folder {place.parent} does not exist: make it first (mkdir -p {place.parent})")
        for other, taken in places.items():
            if place.resolve() == taken.resolve():
                raise UsageError(f"{name} and {other} are the same file: give each its own name")
        places[name] = place
    if options.vault and options.vault.exists() and not options.overwrite:
        raise UsageError(f"{options.vault} exists: add --overwrite to replace it")


def _detector(options: argparse.Namespace, low: float | None, streams: int = 1) -> MultiScaleDetector:
    """The detector of the options, with ``low`` as the score, 0 to 1, from which a face counts, None for its own."""
    from runtime.faces.detect import open_detector

    backend = "auto" if options.backend == "tensorrt" else options.backend  # it has no detector
    return open_detector(options.detector, low=low, backend=backend, threads=options.threads, streams=streams)


def _check_threshold(
    options: argparse.Namespace, canary: Canary, detector: MultiScaleDetector, info: SourceInfo
) -> None:
    """Raises :class:`UsageError` where the test face would be found, but not at ``--thresh``: all frames would be
    covered whole."""
    from runtime.faces.canary import ENOUGH

    if detector.low <= ENOUGH or canary.check(detector, info.height, info.width):
        return
    with closing(_detector(options, ENOUGH)) as lower:
        score = canary.score(lower, info.height, info.width)
    if score:
        raise UsageError(
            f"--thresh {options.thresh:g} is more than the score of the face by which this detector is watched: "
            f"give at most {math.floor(100 * score) / 100:.2f}"
        )


def _generator(options: argparse.Namespace) -> tuple[Bundle, Choice]:
    """The bundle ``--generator``, and what it runs on."""
    from runtime.bundle import open_bundle
    from runtime.sessions import choose

    bundle = open_bundle(options.generator)
    return bundle, choose(bundle, options.backend, options.precision)


def _painter(bundle: Bundle, choice: Choice, options: argparse.Namespace, engines: EngineOptions) -> Painter:
    """Draws faces with a bundle; the method closes it."""
    from runtime.faces.generator import GeneratorPainter
    from runtime.sessions import open_session

    session = open_session(bundle, choice, threads=options.threads, engines=engines)
    try:
        return GeneratorPainter(session)
    except BaseException:
        session.close()
        raise


def _no_core_dumps() -> None:
    """A crash must not leave raw frames on the disk."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


class _Job:
    """One run: covered frames through the pipeline, then what to say about it."""

    def __init__(
        self,
        options: argparse.Namespace,
        source: DeidentifiedSource,
        detector: FaceDetector,
        sink: Sink,
        stages: list[Any],
        gallery: Any,
        file_run: FileRun | None,
        adaptive: Adaptive | None,
        controls: Controls,
        beginnings: Beginnings | None,
    ) -> None:
        self.adaptive = adaptive
        self.options, self.source, self.detector = options, source, detector
        self.sink, self.stages, self.gallery = sink, stages, gallery
        self.file_run, self.controls, self.beginnings = file_run, controls, beginnings

    def run(self) -> int:
        first, begins = self._take_over() if self.file_run is not None else 0, self.beginnings
        run_told(self.options, self.source, self.stages, self.sink, self._tell, begins=begins, first=first)
        if self.file_run is not None:
            self.file_run.complete()
        self.sink.linger()
        return EXIT_NOT_MET if self.source.counts.covered_whole else EXIT_OK

    def _take_over(self) -> int:
        """Keep the frames that are there; the number of those that need not go through the stages."""
        from runtime.video.segments import SegmentSink

        assert self.file_run is not None
        assert isinstance(self.sink, SegmentSink)
        self.file_run.take_over(self.sink)
        if not self.file_run.done:
            return 0
        say("faces are looked for in these frames again, since what is covered next depends on them")
        first = 0 if self.beginnings is not None else self.file_run.done - 1
        self.source.skip(first)
        return first

    def _tell(self, report: PipelineReport, outcome: str, error: str | None) -> None:
        from runtime.video.sink import PARTIAL

        counts, tracks = self.source.counts, self.source.guard.tracks
        uncertain = sum(track.uncertain for track in tracks)
        if self.sink.frames_written:
            place = shown_output(self.options)
            if outcome != "complete" and Path(place + PARTIAL).exists():
                place += PARTIAL
            say(
                f"{place}: {self.sink.frames_written} frames, {report.fps:.1f} fps; "
                f"{len(tracks)} tracks, {counts.faces} faces replaced "
                f"({counts.kinds['held']} held, {counts.kinds['filled']} filled, "
                f"{counts.kinds['interpolated']} interpolated), {sum(counts.fallbacks.values())} by solid instead"
            )
        say_latency(report)
        if uncertain:
            where = f": see {self.options.review}" if self.options.review else ": --review FILE shows them"
            say(f"{uncertain} tracks are not certain{where}")
        if counts.covered_whole:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in counts.covered_whole.items())
            say(f"error: frames covered whole: {reasons}")
        if self.options.review:
            from runtime.faces.review import write_review

            facts = {"frames": counts.frames, "faces replaced": counts.faces}
            write_review(self.options.review, shown_output(self.options), tracks, self.gallery, facts)
        if self.options.json:
            write_json(self.options.json, self._as_dict(report, outcome, error))

    def _as_dict(self, report: PipelineReport, outcome: str, error: str | None) -> dict[str, Any]:
        import dataclasses

        from runtime.faces.report import IRREVERSIBLE, PSEUDONYMISED

        info, guard = self.source.info, self.source.settings.guard
        return {
            "outcome": outcome,
            "error": error,
            "mode": PSEUDONYMISED if self.options.vault else IRREVERSIBLE,
            "method": self.options.method,
            "input": {"uri": info.uri, "width": info.width, "height": info.height, "frame_count": info.frame_count},
            "output": shown_output(self.options),
            "output_dropped": self.sink.dropped,
            "output_gaps": [dataclasses.asdict(gap) for gap in self.sink.gaps],
            "audio_kept": bool(info.audio and self.options.keep_audio),
            "detector": {
                "name": self.detector.name,
                "sha256": self.detector.digest,
                "description": self.detector.description,
            },
            "thresholds": {"low": guard.low, "high": guard.high},
            "guard": dataclasses.asdict(guard),
            **self.source.counts.to_dict(),
            "tracks": [dataclasses.asdict(track) for track in self.source.guard.tracks],
            "seconds": report.seconds,
            "fps": report.fps,
            "dropped": report.dropped,
            "gaps": [dataclasses.asdict(gap) for gap in self.source.gaps],
            "latency": {name: dataclasses.asdict(summary) for name, summary in report.latency.items()},
            "peak_rss_bytes": report.peak_rss_bytes,
            "stages": [session.info.backend for session in self.stages],
            "adaptive": self.adaptive.to_dict() if self.adaptive is not None else None,
            "codes": [self.controls.said(index) for index in range(len(self.stages))],
            "resets": self.beginnings.to_dict() if self.beginnings is not None else None,
            "warnings": [*self.source.warnings, *self.sink.warnings],
        }
