"""``genedge-run`` beside ``python -m runtime``: start to first frame, peak memory, frames a second.

Whole programs with the same bundle, engine, threads and clip, in turns. The start is a run of one frame to
``null://``, from the program's start to its end. Memory and frames a second are what the programs report of
``--frames`` frames to a file: ``run`` upscales, ``deid`` covers faces. Build it first: ``cmake --preset host``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import runtime.faces
from benchmarks import common
from benchmarks.int8.rounds import Watch
from benchmarks.nets import UnavailableError, bundle_options, folder_for_built
from benchmarks.pipeline import CLIP, bundle_for, whole_program
from recipes.assets import assets_folder
from runtime.stats import cores_here

NAME = "native"
BUILT = Path("build/runtime/cpp/genedge-run")
START, MEMORY, SPEED = 0.5, 0.6, 1.0  # of Python's
METHODS = ("solid", "average")  # of deid
DETECTOR = Path(runtime.faces.__file__).parent / "face-detector"
MIB = 1 << 20


def program_of(place: Path | None) -> Path | None:
    """``genedge-run``: ``place``, that of the host preset, or one that is installed."""
    if place is not None:
        return place
    installed = shutil.which("genedge-run")
    return BUILT.resolve() if BUILT.is_file() else Path(installed) if installed else None


def reported(command: list[str], folder: Path) -> tuple[float, float]:
    """(frames a second, peak resident memory in MiB), by the program's own report."""
    report = folder / "report.json"
    whole_program([*command, "-o", str(folder / "out.mp4"), "--overwrite", "--json", str(report)])
    figures: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return figures["fps"], figures["peak_rss_bytes"] / MIB


@dataclass
class Turns:
    """What one program did: seconds of runs of one frame, and what it reported of the longer ones."""

    starts: list[float] = field(default_factory=list)
    runs: list[tuple[float, float]] = field(default_factory=list)  # frames a second, MiB

    def medians(self) -> tuple[float, ...]:
        """Seconds, frames a second, MiB."""
        return statistics.median(self.starts), *(statistics.median(each) for each in zip(*self.runs, strict=True))


def take_turns(commands: dict[str, list[str]], frames: int, rounds: int, folder: Path) -> dict[str, Turns]:
    """Run each of ``commands`` so often, one after the other."""
    turns = {name: Turns() for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds, _ = whole_program([*command, "--max-frames", "1", "-o", "null://"])
            if number:  # the first turn fills the disk's cache
                turns[name].starts.append(seconds)
    for _ in range(rounds):
        for name, command in commands.items():
            turns[name].runs.append(reported([*command, "--max-frames", str(frames)], folder))
    return turns


def verbs_of(options: argparse.Namespace, built: Path, result: common.Result) -> dict[str, list[str]]:
    """What is compared, with all arguments that say how."""
    verbs = {f"deid {method}": ["deid", "--method", method, "--detector", str(DETECTOR)] for method in METHODS}
    try:
        bundle = bundle_for(options.bundle[0] if options.bundle else None, built, options.quick)
    except UnavailableError as reason:
        result.targets.append(common.skipped("run", str(reason)))
        return verbs
    return {"run": ["run", "-b", str(bundle.folder), "--backend", "openvino"], **verbs}


def measure(options: argparse.Namespace) -> common.Result:
    """Each verb: ratios of this run's medians."""
    result = common.Result(NAME, common.conditions(threads=options.threads))
    clip = Path(options.input) if options.input else assets_folder() / CLIP
    program = program_of(options.program)
    if program is None or not clip.is_file():
        reason = common.missing(clip) if program else f"{BUILT} is not there: cmake --build --preset host"
        result.targets.append(common.skipped(NAME, reason))
        return result
    watch, rows = Watch(), []
    programs = {"python": [sys.executable, "-m", "runtime"], "native": [str(program)]}
    always = ["-i", str(clip), "--quiet", "--threads", str(options.threads or cores_here())]
    with folder_for_built(options.built) as built, tempfile.TemporaryDirectory(prefix="genedge-") as scratch:
        for label, verb in verbs_of(options, built, result).items():
            commands = {name: [*program, *verb, *always] for name, program in programs.items()}
            turns = take_turns(commands, options.frames, options.rounds, Path(scratch))
            common.say(f"{label}: measured")
            medians = {name: each.medians() for name, each in turns.items()}
            ratios = [mine / other for mine, other in zip(medians["native"], medians["python"], strict=True)]
            for name, (start, fps, memory) in medians.items():
                rows.append((label, name, f"{1e3 * start:.0f}", f"{fps:.1f}", f"{memory:.0f}"))
            rows.append((label, "ratio", *(f"{ratio:.2f}" for ratio in ratios)))
            result.figures.append({"verb": label, "ratios": ratios} | {name: asdict(t) for name, t in turns.items()})
            result.targets += [
                common.below(f"{label}: start to first frame, of Python's", ratios[0], START),
                common.at_least(f"{label}: frames a second, of Python's", ratios[1], SPEED),
                common.below(f"{label}: peak memory, of Python's", ratios[2], MEMORY),
            ]
    result.conditions |= {"frames": options.frames, "rounds": options.rounds, "load of others": f"{watch.load():.2f}"}
    result.add_table(("verb", "program", "start ms", "fps", "peak MiB"), rows, left=2)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, ("sr-x2",))
    parser.add_argument("--input", metavar="VIDEO", help=f"clip (default: {CLIP} of the test material)")
    parser.add_argument(
        "--program", type=Path, metavar="FILE", help=f"genedge-run (default: {BUILT}, or an installed one)"
    )
    parser.add_argument("--frames", type=common.positive, metavar="N", help="of each run (default: 150, quick: 20)")
    parser.add_argument("--rounds", type=common.positive, metavar="N", help="runs of each (default: 5, quick: 1)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: all cores)")
    options = parser.parse_args(arguments)
    options.frames = options.frames or (20 if options.quick else 150)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
