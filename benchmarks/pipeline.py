"""A video from file to file (decode, infer, encode) against the same session alone, and against plain scripts.

``ratio``: pipeline and session alone take turns in one run, so a disturbance of the machine meets both. The session
alone is that with the number of requests that suits it best. What is compared is the time for the same number of
frames; the pipeline's time also has the encoder's end in it. ``plain``: ``python -m runtime run`` as a whole program
against the scripts of ``benchmarks.plain``, with the same net, clip and threads. ``stages``: each stage for itself, and
what bounds it. ``sr-x2`` is built with INT8 where no bundle is named.

Where others keep the cores busy, ratios are those of processor time, and the targets say so: neither the session nor
the pipeline leaves a core idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.int8.material import ALL_NETS, Int8Bundle, Material
from benchmarks.int8.rounds import Watch, kind_of
from benchmarks.nets import UnavailableError, bundle_of, bundle_options, find_net, folder_for_built
from benchmarks.stages import HEAD as STAGES_HEAD
from benchmarks.stages import stages_of
from recipes.assets import assets_folder
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.frames import Frames
from runtime.pipeline import PipelineReport, run_pipeline
from runtime.sessions import Choice, Session, choose, open_session
from runtime.stages import open_stage
from runtime.stats import cores_here
from runtime.video.light import LIGHT
from runtime.video.sink import open_sink
from runtime.video.source import open_source

NAME = "pipeline"
RATIO = 0.92  # frames a second from file to file over those of the session alone
PLAIN = {"pytorch": 4.0, "onnxruntime": 2.5}  # how many times as long these take as a whole program
COUNTS = ((1, 1), (1, 2), (2, 2), (2, 3), (2, 4))  # streams and requests in flight that the session alone is tried with
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
    counts: tuple[int, int]  # streams and requests in flight of the session alone
    alone: list[Block] = field(default_factory=list)
    piped: list[Block] = field(default_factory=list)
    reports: list[PipelineReport] = field(default_factory=list)

    def ratios(self, kind: str = "wall") -> list[float]:
        """Pipeline over session alone, round by round: frames a second, or with ``cpu`` frames a processor second."""
        pairs = zip(self.alone, self.piped, strict=True)
        if kind == "cpu":
            return [alone.cpu_ms / piped.cpu_ms for alone, piped in pairs]
        return [piped.fps / alone.fps for alone, piped in pairs]

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


def file_to_file(session: Session, path: str, count: int, output: Path, preset: str) -> tuple[Block, PipelineReport]:
    """What ``python -m runtime run`` does once its session is warm, for the first ``count`` frames of ``path``."""
    with open_source(path) as source:
        width, height = source.info.width * session.scale, source.info.height * session.scale
        sink = open_sink(str(output), source=source.info, width=width, height=height, overwrite=True, preset=preset)
        cpu = time.process_time()
        report = run_pipeline(source, [session], sink, max_frames=count)
        cpu = time.process_time() - cpu
    if report.frames != count:
        raise GenedgeError(f"{path}: {report.frames} frames were written instead of {count}")
    return Block(report.frames, report.seconds, cpu), report


def best_alone(bundle: Bundle, choice: Choice, frames: list[Frames], threads: int) -> tuple[int, int]:
    """Streams and requests in flight of ``COUNTS`` that give a session alone the most frames a second, by the median
    of five turns."""
    height, width = frames[0].shape[1:3]
    with ExitStack() as stack:
        sessions = {}
        for streams, in_flight in COUNTS:
            session = open_session(bundle, choice, threads=threads, streams=streams, in_flight=in_flight)
            sessions[streams, in_flight] = stack.enter_context(session)
            session.warm_up((1, height, width, 3))
        taken: dict[tuple[int, int], list[float]] = {counts: [] for counts in sessions}
        for _ in range(5):
            for counts, session in sessions.items():
                taken[counts].append(session_alone(session, frames).ms)
        return min(taken, key=lambda counts: statistics.median(taken[counts]))


def take_turns(bundle: Bundle, choice: Choice, options: argparse.Namespace, path: str, folder: Path) -> Rounds:
    """Run both kinds of block ``options.rounds`` times; which one begins changes from round to round."""
    frames = decoded(path, options.frames)
    height, width = frames[0].shape[1:3]
    warm = frames[: max(2, len(frames) // 8)]
    counts = best_alone(bundle, choice, warm, options.threads)
    with (
        open_stage(bundle, choice, height, width, threads=options.threads) as session,
        open_session(bundle, choice, threads=options.threads, streams=counts[0], in_flight=counts[1]) as best,
    ):
        for each in (session, best):
            each.warm_up((1, height, width, 3))
        rounds = Rounds(choice, session, (height, width), counts)
        session_alone(best, warm)
        file_to_file(session, path, len(warm), folder / "warm.mp4", options.preset)
        for number in range(options.rounds):
            for kind in ("alone", "piped") if number % 2 == 0 else ("piped", "alone"):
                if kind == "alone":
                    rounds.alone.append(session_alone(best, frames))
                else:
                    block, report = file_to_file(session, path, len(frames), folder / "out.mp4", options.preset)
                    rounds.piped.append(block)
                    rounds.reports.append(report)
            common.say(
                f"{bundle.manifest.name} {choice.precision} round {number + 1} of {options.rounds}: "
                f"ratio {rounds.ratios()[-1]:.3f}, of processor time {rounds.ratios('cpu')[-1]:.3f}"
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
        f"{statistics.median(rounds.ratios()):.3f}",
        f"{min(rounds.ratios()):.3f}..{max(rounds.ratios()):.3f}",
        f"{statistics.median(rounds.ratios('cpu')):.3f}",
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
    "by cpu",
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
        "alone_streams": rounds.counts[0],
        "alone_in_flight": rounds.counts[1],
        "ratios": rounds.ratios(),
        "ratio": statistics.median(rounds.ratios()),
        "ratios_cpu": rounds.ratios("cpu"),
        "ratio_cpu": statistics.median(rounds.ratios("cpu")),
        "utilisation": {stage: rounds.busy(stage) for stage in ("read", "infer", "write")},
    }


def measure_ratio(
    bundle: Bundle, choice: Choice, path: str, result: common.Result, options: argparse.Namespace, folder: Path
) -> None:
    """Pipeline against session alone: table, figures, target."""
    watch = Watch()
    rounds = take_turns(bundle, choice, options, path, folder)
    kind = kind_of(watch.load())
    name, info = bundle.manifest.name, rounds.session.info
    result.conditions |= {"device": info.device, "threads": info.threads, "in_flight": info.in_flight}
    result.conditions |= {"alone": "{} streams, {} in flight".format(*rounds.counts), "load of others": watch.load()}
    result.add_table(HEAD, [row_of(name, rounds)], left=3)
    result.figures.append(figures_of(name, rounds))
    label = f"{name} {choice.precision} pipeline over session alone, {kind}, preset {options.preset}"
    result.targets.append(common.at_least(label, statistics.median(rounds.ratios(kind)), RATIO, "", 3))


def measure_stages(
    bundle: Bundle, choice: Choice, path: str, result: common.Result, options: argparse.Namespace, folder: Path
) -> None:
    """Each stage for itself."""
    found = stages_of(bundle, choice, path, min(options.frames, 60), options.rounds)
    result.add_table(STAGES_HEAD, [stage.row() for stage in found], left=1)
    result.figures += [{"stage": stage.name, "cpu_ms": stage.cpu_ms, "limit": stage.limit} for stage in found]


def whole_program(command: list[str]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor, from start to end of a program."""
    before, begin = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begin, os.times()
    if done.returncode:
        called = " ".join(command[1:4]) if command[0] == sys.executable else command[0]
        raise GenedgeError(f"{called} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, cpu


def measure_plain(
    bundle: Bundle, choice: Choice, path: str, result: common.Result, options: argparse.Namespace, folder: Path
) -> None:
    """``python -m runtime run`` against plain scripts, whole programs in turns: table, figures, targets."""
    net = find_net(bundle.manifest.name)
    if net is None:
        result.targets.append(common.skipped(f"{bundle.manifest.name} plain", "no net of this name has weights here"))
        return
    models = {"pytorch": net.weights(), "onnxruntime": bundle.folder / bundle.manifest.artifacts["fp32"].file}
    threads = ["--threads", str(options.threads or cores_here())]
    output, python = str(folder / "plain.mp4"), [sys.executable, "-m"]
    ours = ["runtime", "run", "-b", str(bundle.folder), "-i", path, "-o", output, "--overwrite", "--quiet"]
    ours += ["--max-frames", str(options.frames), "--backend", choice.backend, "--precision", choice.precision]
    commands = {"ours": [*python, *ours, "--preset", options.preset, *threads]}
    for framework, model in models.items():
        script = ["benchmarks.plain", framework, str(model), path, output, "--frames", str(options.frames)]
        commands[framework] = [*python, *script, *threads]
    watch = Watch()
    taken: dict[str, list[tuple[float, float]]] = {label: [] for label in commands}
    for number in range(min(options.rounds, 3)):
        for label, command in commands.items():
            taken[label].append(whole_program(command))
        common.say(f"{bundle.manifest.name} plain scripts: round {number + 1} of {min(options.rounds, 3)}")
    kind = kind_of(watch.load())
    rows = []
    for label, times in taken.items():
        ratios = {
            by: statistics.median(other[at] / own[at] for own, other in zip(taken["ours"], times, strict=True))
            for at, by in enumerate(("wall", "cpu"))
        }
        medians = [statistics.median(values) for values in zip(*times, strict=True)]
        rows.append((label, *(f"{value:.1f}" for value in (*medians, *ratios.values()))))
        result.figures.append({"program": label, "seconds": times, "ratios": ratios})
        if label in PLAIN:
            name = f"{bundle.manifest.name} {choice.precision} over a plain script with {label} fp32, {kind}"
            result.targets.append(common.at_least(name, ratios[kind], PLAIN[label], "x"))
    result.add_table(("whole program", "seconds", "cpu seconds", "times as long", "by cpu"), rows, left=1)


PARTS = {"ratio": measure_ratio, "plain": measure_plain, "stages": measure_stages}


def bundle_for(place: str | None, built: Path, quick: bool) -> Bundle:
    """The bundle ``place``, or ``sr-x2`` with INT8."""
    return bundle_of(place, built) if place else Int8Bundle.of(ALL_NETS["sr-x2"], built, Material(built, quick)).bundle


def measure(options: argparse.Namespace) -> common.Result:
    """Every bundle in every precision asked for."""
    result = common.Result(NAME, common.conditions(threads=options.threads))
    path = options.input or str(assets_folder() / CLIP)
    if options.input is None and not Path(path).is_file():
        result.targets.append(common.skipped("pipeline over session alone", common.missing(Path(path))))
        return result
    parts = [part for part in PARTS if options.only in (None, part)]
    with folder_for_built(options.built) as built, tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        for place in options.bundle or (None,):
            try:
                bundle = bundle_for(place, built, options.quick)
            except UnavailableError as reason:
                result.targets.append(common.skipped(f"{place or 'sr-x2'} pipeline over session alone", str(reason)))
                continue
            for precision in options.precision:
                choice = choose(bundle, "openvino", precision)
                for part in parts:
                    PARTS[part](bundle, choice, path, result, options, Path(folder))
    result.conditions |= {"frames": options.frames, "rounds": options.rounds}
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, ("sr-x2 with INT8",))
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--preset", default=LIGHT, help=f"of the encoder (default: {LIGHT})")
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
