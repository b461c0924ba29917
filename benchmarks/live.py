"""A camera's stand-in, a clip played at its own rate, through the live pipeline: latency, and what grows over time.

The clip is repeated, with its sound, into a file as long as the run; the newest frame wins. Latency counts from the
moment at which a frame is due to the end of its writing. ``--minutes 30`` makes a soak of it. Where others keep the
cores busy, the latency is shown and not judged. ``sr-x2`` is built with INT8 where no bundle is named.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.int8.rounds import Watch
from benchmarks.memory import repeat_clip
from benchmarks.nets import UnavailableError, bundle_options, folder_for_built
from benchmarks.pipeline import bundle_for
from recipes.assets import assets_folder
from runtime.bundle import Bundle
from runtime.live.open import LiveOptions, open_input
from runtime.pipeline import PipelineReport, run_pipeline
from runtime.sessions import Choice, choose
from runtime.stages import open_stage
from runtime.stats import current_rss_bytes
from runtime.video.sink import Sink, open_sink
from runtime.video.source import SourceOptions, VideoFrame

NAME = "live"
DEFAULT_BUNDLES = ("sr-x2",)
CLIP = "video/short_hamilton_clip.mp4"  # 640x360, 275 frames in 10 s, with sound
MINUTES, QUICK_MINUTES = 2.0, 0.2
INTERVALS = 2  # of frames, that the 95th percentile of the latency may have besides the inference
GROWTH = 2.0  # per cent of resident memory, from a tenth of the run to its end
DRIFT = 20.0  # milliseconds between sound and pictures
EVERY = 0.5  # seconds between two looks at memory, threads and files
MIB = 1 << 20


@dataclass(frozen=True)
class Use:
    """What this process holds at a time (seconds, monotonic)."""

    time: float
    rss_bytes: int
    threads: int
    files: int

    @classmethod
    def now(cls) -> Use:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        threads = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))
        return cls(time.monotonic(), current_rss_bytes(), threads, len(list(Path("/proc/self/fd").iterdir())))


class WatchedSink:
    """Passes everything on, and looks at this process now and then."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.close, self.abort = sink.close, sink.abort
        self.uses: list[Use] = []

    def write(self, frame: VideoFrame) -> None:
        self._sink.write(frame)
        if not self.uses or time.monotonic() - self.uses[-1].time >= EVERY:
            self.uses.append(Use.now())


def times_of(path: Path, kind: str) -> list[Fraction]:
    """Times of all packets of a file's first track of a kind (video, audio), seconds, in order; none without one."""
    import av

    with av.open(str(path)) as container:
        streams = getattr(container.streams, kind)
        if not streams:
            return []
        return sorted(packet.pts * packet.time_base for packet in container.demux(streams[0]) if packet.pts is not None)


def furthest(times: Sequence[Fraction], among: Sequence[Fraction]) -> float:
    """Milliseconds from that time of ``times`` that is furthest from its nearest one of ``among``; both in order."""
    worst, place = Fraction(0), 0
    for moment in times:
        while place + 1 < len(among) and abs(among[place + 1] - moment) <= abs(among[place] - moment):
            place += 1
        worst = max(worst, abs(among[place] - moment))
    return float(1000 * worst)


def drift(clip: Path, output: Path) -> float | None:
    """Milliseconds by which sound and pictures can have moved against each other on the way; None without sound."""
    if not times_of(clip, "audio"):
        return None
    return sum(furthest(times_of(output, kind), times_of(clip, kind)) for kind in ("video", "audio"))


@dataclass(frozen=True)
class LiveRun:
    """One run of a bundle."""

    report: PipelineReport
    interval_ms: float  # from frame to frame of the source
    uses: list[Use]  # the first tenth of the run left out
    drift_ms: float | None
    size: tuple[int, int]  # height, width of the input, pixels
    device: str
    threads: int
    load: float  # of others, share of the cores

    @property
    def growth(self) -> float:
        """Per cent."""
        return 100 * (self.uses[-1].rss_bytes / self.uses[0].rss_bytes - 1)

    def more(self, what: str) -> int:
        """By how much the most of something in the second half of the run is above the most in the first half."""
        half = len(self.uses) // 2 or 1
        early, late = self.uses[:half], self.uses[half:] or self.uses
        return int(max(getattr(use, what) for use in late) - max(getattr(use, what) for use in early))


def live_run(bundle: Bundle, choice: Choice, clip: Path, minutes: float, threads: int, folder: Path) -> LiveRun:
    """Play ``clip`` for so long, and write what comes out."""
    long, output = folder / "long.mkv", folder / "out.mkv"
    with open_input(str(clip), SourceOptions(), LiveOptions()) as source:
        rate = source.info.rate or Fraction(30)
    repeat_clip(clip, long, max(1, round(minutes * 60 * rate)))
    common.say(f"playing {clip.name} for {minutes:g} min at {float(rate):.1f} fps")
    with open_input(str(long), SourceOptions(), LiveOptions(realtime=True)) as source:
        height, width = source.info.height, source.info.width
        with open_stage(bundle, choice, height, width, threads=threads, live=True) as session:
            session.warm_up((1, height, width, 3))
            size = {"width": width * session.scale, "height": height * session.scale}
            sink = WatchedSink(open_sink(str(output), source=source.info, crf=28, preset="ultrafast", **size))
            begin, stop, watch = time.monotonic(), threading.Event(), Watch()
            timer = threading.Timer(60 * minutes, stop.set)
            timer.start()
            report = run_pipeline(source, [session], sink, stop=stop, newest=True)
            timer.cancel()
            info, load = session.info, watch.load()
    settled = [use for use in sink.uses if use.time - begin >= report.seconds / 10]
    moved = drift(long, output)
    return LiveRun(report, float(1000 / rate), settled, moved, (height, width), info.device, info.threads, load)


def add(result: common.Result, label: str, run: LiveRun) -> tuple[str, ...]:
    """Figures and targets of a run; returns its line of the table."""
    report, first, last = run.report, run.uses[0], run.uses[-1]
    capture, infer, write = (report.latency[name] for name in ("capture", "infer", "write"))
    figures: dict[str, Any] = {
        "run": label,
        "frames": report.frames,
        "dropped": report.dropped,
        "seconds": report.seconds,
        "interval_ms": run.interval_ms,
        "latency": {name: summary.to_dict() for name, summary in report.latency.items()},
        "rss_bytes": [first.rss_bytes, last.rss_bytes],
        "threads": [first.threads, last.threads],
        "files": [first.files, last.files],
        "drift_ms": run.drift_ms,
        "load_of_others": run.load,
    }
    result.figures.append(figures)
    limit = INTERVALS * run.interval_ms + infer.p50_ms
    latency = common.at_most(f"{label}: latency, 95th percentile", capture.p95_ms, limit, " ms", 1)
    if run.load > common.BUSY:
        reason = f"{latency.measured}, but others kept {run.load:.0%} of the cores busy"
        latency = common.skipped(latency.name, reason)
    result.targets += [
        latency,
        common.below(f"{label}: growth of resident memory", run.growth, GROWTH, " %"),
        common.at_most(f"{label}: more threads in the second half", run.more("threads"), 0, "", 0),
        common.at_most(f"{label}: more open files in the second half", run.more("files"), 0, "", 0),
    ]
    name = f"{label}: sound against pictures"
    if run.drift_ms is None:
        result.targets.append(common.skipped(name, "the clip has no sound"))
    else:
        result.targets.append(common.at_most(name, run.drift_ms, DRIFT, " ms"))
    return (
        label,
        f"{run.size[1]}x{run.size[0]}",
        f"{1000 / run.interval_ms:.1f}",
        f"{report.fps:.1f}",
        f"{report.dropped}",
        f"{infer.p50_ms:.1f}",
        f"{infer.p95_ms:.1f}",
        f"{write.p50_ms:.1f}",
        *(f"{value:.1f}" for value in (capture.p50_ms, capture.p95_ms, capture.p99_ms)),
        f"{first.rss_bytes / MIB:.0f} > {last.rss_bytes / MIB:.0f}",
        f"{first.threads} > {last.threads}",
        f"{first.files} > {last.files}",
    )


HEAD = (
    "bundle",
    "input",
    "fps in",
    "fps out",
    "dropped",
    "infer ms",
    "its p95",
    "write ms",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "resident MiB",
    "threads",
    "files",
)


def measure(options: argparse.Namespace) -> common.Result:
    """Every bundle in turn."""
    result = common.Result(NAME, common.conditions(threads=options.threads))
    clip = Path(options.input) if options.input else assets_folder() / CLIP
    if options.input is None and not clip.is_file():
        result.targets.append(common.skipped("live", common.missing(clip)))
        return result
    rows = []
    with folder_for_built(options.built) as built, tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        for number, place in enumerate(options.bundle or [None]):
            try:
                bundle = bundle_for(place, built, options.quick)
            except UnavailableError as reason:
                result.targets.append(common.skipped(place or DEFAULT_BUNDLES[0], str(reason)))
                continue
            choice = choose(bundle, options.backend, options.precision)
            inside = Path(folder) / str(number)
            inside.mkdir()
            run = live_run(bundle, choice, clip, options.minutes, options.threads, inside)
            result.conditions |= {"device": run.device, "threads": run.threads, "minutes": options.minutes}
            rows.append(add(result, f"{bundle.manifest.name} {choice.precision}", run))
    if rows:
        result.add_table(HEAD, rows, left=2)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, DEFAULT_BUNDLES)
    parser.add_argument("--input", metavar="VIDEO", help=f"clip to play (default: {CLIP} of the test material)")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help=f"how long (default: {MINUTES:g}, quick: {QUICK_MINUTES:g})"
    )
    parser.add_argument("--backend", default="auto", help="auto, tensorrt, openvino or onnxruntime (default: auto)")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16, fp16 or int8 (default: auto)")
    parser.add_argument(
        "--threads", type=common.not_negative, default=0, metavar="N", help="engine threads, 0: the engine's choice"
    )
    options = parser.parse_args(arguments)
    options.minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
