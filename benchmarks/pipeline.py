"""A video from file to file (decode, infer, encode) against the same session alone on the same frames.

The two take turns in one run, on one warm session, so a disturbance of the machine meets both. What is compared is
the time for the same number of frames; the pipeline's time also has the encoder's end in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.nets import UnavailableError, bundle_of, bundle_options, folder_for_built
from recipes.assets import assets_folder
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.frames import Frames
from runtime.pipeline import PipelineReport, run_pipeline
from runtime.sessions import Choice, Session, choose
from runtime.stages import open_stage
from runtime.video.sink import open_sink
from runtime.video.source import open_source

NAME = "pipeline"
RATIO = 0.85  # frames a second from file to file over those of the session alone
DEFAULT_BUNDLES = ("sr-x2",)
CLIP = "video/short_hamilton_clip.mp4"  # 640x360, 275 frames, with sound


@dataclass(frozen=True)
class Block:
    """One block of frames: seconds on the clock, and of the processor (all cores together)."""

    frames: int
    seconds: float
    cpu_seconds: float

    @property
    def fps(self) -> float:
        return self.frames / self.seconds

    @property
    def ms(self) -> float:
        """Milliseconds a frame."""
        return 1e3 * self.seconds / self.frames

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of one core a frame."""
        return 1e3 * self.cpu_seconds / self.frames


@dataclass
class Rounds:
    """The blocks of a run, one of each kind a round."""

    choice: Choice
    session: Session
    size: tuple[int, int]  # height, width of the input, pixels
    alone: list[Block] = field(default_factory=list)
    piped: list[Block] = field(default_factory=list)
    reports: list[PipelineReport] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Pipeline over session alone, frames a second, round by round."""
        return [piped.fps / alone.fps for alone, piped in zip(self.alone, self.piped, strict=True)]

    def busy(self, stage: str) -> float:
        """Median share of the pipeline's time in which ``stage`` (read, infer, write) was busy."""
        return statistics.median(report.utilisation[stage] for report in self.reports)


def decoded(path: str, count: int) -> list[Frames]:
    """The first ``count`` frames of a video, each ``uint8 (1, H, W, 3) BGR``."""
    frames: list[Frames] = []
    with open_source(path) as source:
        while len(frames) < count and (frame := source.read()) is not None:
            frames.append(frame.image[None])
    return frames


def session_alone(session: Session, frames: list[Frames]) -> Block:
    """The session's throughput: ``in_flight`` requests under way all the time, output arrays used again."""
    depth = max(1, session.info.in_flight)
    outputs = [np.empty(session.output_shape(frames[0].shape), dtype=np.uint8) for _ in range(depth + 1)]
    pending: deque[Any] = deque()
    cpu, begin = time.process_time(), time.perf_counter()
    for index, frame in enumerate(frames):
        if len(pending) == depth:
            pending.popleft().result()
        pending.append(session.submit(frame, outputs[index % (depth + 1)]))
    while pending:
        pending.popleft().result()
    return Block(len(frames), time.perf_counter() - begin, time.process_time() - cpu)


def file_to_file(session: Session, path: str, count: int, output: Path) -> tuple[Block, PipelineReport]:
    """What ``python -m runtime run`` does once its session is warm, for the first ``count`` frames of ``path``."""
    with open_source(path) as source:
        width, height = source.info.width * session.scale, source.info.height * session.scale
        sink = open_sink(str(output), source=source.info, width=width, height=height, overwrite=True)
        cpu = time.process_time()
        report = run_pipeline(source, [session], sink, max_frames=count)
        cpu = time.process_time() - cpu
    if report.frames != count:
        raise GenedgeError(f"{path}: {report.frames} frames were written instead of {count}")
    return Block(report.frames, report.seconds, cpu), report


def take_turns(bundle: Bundle, choice: Choice, options: argparse.Namespace, path: str, folder: Path) -> Rounds:
    """Run both kinds of block ``options.rounds`` times; which one begins changes from round to round."""
    frames = decoded(path, options.frames)
    height, width = frames[0].shape[1:3]
    with open_stage(bundle, choice, height, width, threads=options.threads) as session:
        session.warm_up((1, height, width, 3))
        rounds = Rounds(choice, session, (height, width))
        warm = frames[: max(2, len(frames) // 8)]
        session_alone(session, warm)
        file_to_file(session, path, len(warm), folder / "warm.mp4")
        for number in range(options.rounds):
            for kind in ("alone", "piped") if number % 2 == 0 else ("piped", "alone"):
                if kind == "alone":
                    rounds.alone.append(session_alone(session, frames))
                else:
                    block, report = file_to_file(session, path, len(frames), folder / "out.mp4")
                    rounds.piped.append(block)
                    rounds.reports.append(report)
            common.say(
                f"{bundle.manifest.name} {choice.precision} round {number + 1} of {options.rounds}: "
                f"ratio {rounds.ratios[-1]:.3f}"
            )
    return rounds


def row_of(name: str, rounds: Rounds) -> tuple[str, ...]:
    """One line of the table."""
    alone, piped = rounds.alone, rounds.piped
    return (
        name,
        rounds.choice.precision,
        f"{rounds.size[1]}x{rounds.size[0]}",
        f"{statistics.median(block.ms for block in alone):.1f}",
        f"{statistics.median(block.ms for block in piped):.1f}",
        f"{statistics.median(block.fps for block in piped):.2f}",
        f"{statistics.median(block.cpu_ms for block in alone):.0f}",
        f"{statistics.median(block.cpu_ms for block in piped):.0f}",
        *(f"{rounds.busy(stage):.0%}" for stage in ("read", "infer", "write")),
        f"{statistics.median(rounds.ratios):.3f}",
        f"{min(rounds.ratios):.3f}..{max(rounds.ratios):.3f}",
    )


HEAD = (
    "bundle",
    "precision",
    "input",
    "alone ms",
    "pipeline ms",
    "fps",
    "alone cpu ms",
    "pipeline cpu ms",
    "read",
    "infer",
    "write",
    "ratio",
    "spread",
)


def figures_of(name: str, rounds: Rounds) -> dict[str, Any]:
    """The same for programs, with every round."""
    return {
        "bundle": name,
        "precision": rounds.choice.precision,
        "height": rounds.size[0],
        "width": rounds.size[1],
        "threads": rounds.session.info.threads,
        "in_flight": rounds.session.info.in_flight,
        "alone_ms": [block.ms for block in rounds.alone],
        "pipeline_ms": [block.ms for block in rounds.piped],
        "alone_cpu_ms": [block.cpu_ms for block in rounds.alone],
        "pipeline_cpu_ms": [block.cpu_ms for block in rounds.piped],
        "ratios": rounds.ratios,
        "ratio": statistics.median(rounds.ratios),
        "utilisation": {stage: rounds.busy(stage) for stage in ("read", "infer", "write")},
    }


def measure(options: argparse.Namespace) -> common.Result:
    """Every bundle in every precision asked for."""
    result = common.Result(NAME, common.conditions(threads=options.threads))
    rows = []
    path = options.input or str(assets_folder() / CLIP)
    if options.input is None and not Path(path).is_file():
        result.targets.append(common.skipped("pipeline over session alone", common.missing(Path(path))))
        return result
    with folder_for_built(options.built) as built, tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        for place in options.bundle or DEFAULT_BUNDLES:
            try:
                bundle = bundle_of(place, built)
            except UnavailableError as reason:
                result.targets.append(common.skipped(f"{place} pipeline over session alone", str(reason)))
                continue
            for precision in options.precision:
                choice = choose(bundle, "openvino", precision)
                rounds = take_turns(bundle, choice, options, path, Path(folder))
                name, info = bundle.manifest.name, rounds.session.info
                result.conditions |= {"device": info.device, "threads": info.threads, "in_flight": info.in_flight}
                rows.append(row_of(name, rounds))
                result.figures.append(figures_of(name, rounds))
                ratio = statistics.median(rounds.ratios)
                target = common.at_least(f"{name} {choice.precision} pipeline over session alone", ratio, RATIO, "", 3)
                result.targets.append(target)
    result.conditions |= {"frames": options.frames, "rounds": options.rounds}
    if rows:
        result.add_table(HEAD, rows, left=3)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, DEFAULT_BUNDLES)
    parser.add_argument("--input", metavar="VIDEO", help=f"video file (default: {CLIP} of the test material)")
    parser.add_argument("--frames", type=common.positive, metavar="N", help="frames a block (default: 200, quick: 24)")
    parser.add_argument(
        "--rounds", type=common.positive, metavar="N", help="blocks of each kind (default: 5, quick: 2)"
    )
    parser.add_argument(
        "--precision",
        type=common.names,
        default=("auto",),
        metavar="LIST",
        help="auto, fp32, bf16, fp16, int8; several with commas (default: auto)",
    )
    parser.add_argument(
        "--threads", type=common.not_negative, default=0, metavar="N", help="engine threads, 0: the engine's choice"
    )
    options = parser.parse_args(arguments)
    options.frames = options.frames or (24 if options.quick else 200)
    options.rounds = options.rounds or (2 if options.quick else 5)
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
