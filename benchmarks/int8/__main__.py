"""Quality, speed, ONNX Runtime's quantiser beside ours, the cost of calibration, and what each part is worth.

Bundles are built by ``python -m export build --calib`` on sets that ``python -m calib sample`` takes from the videos of
the test material. A variant that the build dropped is skipped by name, with the build's reason.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import common
from benchmarks.int8.cost import measure_cost
from benchmarks.int8.material import ALL_NETS, PHOTOS_OF, RECURRENT_NAMES, Int8Bundle, Material
from benchmarks.int8.peers import Peers
from benchmarks.int8.quality import Quality
from benchmarks.int8.remedies import Remedies
from benchmarks.int8.report import Report, write_markdown
from benchmarks.int8.speed import Speed
from benchmarks.nets import Net, UnavailableError, folder_for_built
from runtime.errors import GenedgeError

NAME = "int8"
PARTS = ("quality", "speed", "peers", "cost", "remedies")
QUICK_NETS = ("sr-x2", "candy-nc16", "mobile-rrn-16")
PEER_NETS = ("sr-x2", "realesr-animevideov3")
REMEDY_NETS = ("sr-x2", "sr-x4", "realesr-animevideov3", "candy-nc16")
COST_NET = "realesr-animevideov3"
PACKAGES = ("onnx", "onnxruntime", "openvino", "torch")


def nets_of(options: argparse.Namespace) -> list[Net]:
    """Nets for quality and speed."""
    return [ALL_NETS[name] for name in options.net or (QUICK_NETS if options.quick else ALL_NETS)]


def peer_nets(options: argparse.Namespace) -> list[Net]:
    """Nets with ground truth among those asked for; without ``--net`` two of them, quick: one."""
    default = PEER_NETS[:1] if options.quick else PEER_NETS
    names = [name for name in options.net or default if name not in (*PHOTOS_OF, *RECURRENT_NAMES)]
    return [ALL_NETS[name] for name in names if name in default or options.only == "peers"]


def cost_nets(options: argparse.Namespace) -> list[Net]:
    """The net that calibration is timed with, unless others were asked for."""
    names = [name for name in options.net or (COST_NET,) if name not in RECURRENT_NAMES]
    return [ALL_NETS[name] for name in names if name == COST_NET or options.only == "cost"]


def remedy_nets(options: argparse.Namespace) -> list[Net]:
    """Nets whose recipe is taken apart, unless others were asked for; quick: one."""
    default = REMEDY_NETS[:1] if options.quick else REMEDY_NETS
    names = [name for name in options.net or default if name not in RECURRENT_NAMES]
    return [ALL_NETS[name] for name in names if name in default or options.only == "remedies"]


def attempt(report: Report, nets: list[Net], what: str, measure: Callable[[Net], None]) -> None:
    """Measure each net; what is not here is skipped by name, and what breaks is a missed target, and the rest runs."""
    for net in nets:
        try:
            measure(net)
        except UnavailableError as reason:
            report.result.targets.append(common.skipped(f"{net.name}{what}", str(reason)))
        except GenedgeError as error:
            report.result.targets.append(common.Target(f"{net.name}{what}", str(error), "measured", False))


def measure(options: argparse.Namespace) -> common.Result:
    """Every part and net asked for."""
    report = Report(common.Result(NAME, common.conditions(threads=options.threads)))
    report.result.conditions |= {name: version_of(name) for name in PACKAGES}
    parts = (options.only,) if options.only else PARTS
    quality = Quality(report, options.threads, options.quick)
    speed = Speed(report, options.threads, options.rounds)
    remedies = Remedies(report, options.threads)
    peers = Peers(report, options.threads, options.rounds, options.quick)
    with folder_for_built(options.built) as built:
        material = Material(built / "sets", options.quick)

        def quality_and_speed(net: Net) -> None:
            item = Int8Bundle.of(net, built, material)
            if "quality" in parts:
                quality.measure(item)
            if "speed" in parts:
                speed.measure(item)

        def compare(net: Net) -> None:
            peers.measure(net, built, material)

        def calibrate(net: Net) -> None:
            large = options.frames_720p
            measure_cost(net, built, material, options.frames, large, options.threads, report)

        def take_apart(net: Net) -> None:
            remedies.measure(Int8Bundle.of(net, built, material), material.for_net(net))

        if {"quality", "speed"} & set(parts):
            attempt(report, nets_of(options), "", quality_and_speed)
        if "peers" in parts:
            attempt(report, peer_nets(options), " peers", compare)
        if "remedies" in parts:
            attempt(report, remedy_nets(options), " remedies", take_apart)
        quality.show()
        speed.show()
        peers.show()
        remedies.show()
        if "cost" in parts:
            attempt(report, cost_nets(options), " cost", calibrate)
    report.result.conditions["rounds"] = options.rounds
    if report.loads:
        report.result.conditions["load of others"] = f"{max(report.loads):.2f} a core at most"
    if options.markdown:
        if options.quick:
            report.result.conditions["counts"] = "quick, not for the record"
        write_markdown(options.markdown, report.markdown(command_of(options)))
    return report.result


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def command_of(options: argparse.Namespace) -> str:
    """The command that gives these figures again, without what only says where files go."""
    parts = ["python -m benchmarks.int8", f"--threads {options.threads}", f"--rounds {options.rounds}"]
    parts += [f"--net {name}" for name in options.net or ()]
    if options.only:
        parts.append(f"--only {options.only}")
    if options.only in (None, "cost"):
        parts += [f"--frames {options.frames}", f"--frames-720p {options.frames_720p}"]
    if options.quick:
        parts.append("--quick")
    return " ".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    parser.add_argument(
        "--net", action="append", choices=ALL_NETS, metavar="NAME", help=f"{', '.join(ALL_NETS)}; repeat for several "
        f"(default: all, quick: {', '.join(QUICK_NETS)})"
    )  # fmt: skip
    parser.add_argument("--only", choices=PARTS, help="one part (default: all)")
    parser.add_argument(
        "--threads", type=common.positive, default=2, metavar="N", help="of every engine and of PyTorch (default: 2)"
    )
    parser.add_argument("--rounds", type=common.positive, metavar="N", help="of times (default: 7, quick: 2)")
    parser.add_argument(
        "--frames", type=common.positive, metavar="N", help="that calibration is timed with (default: 128, quick: 6)"
    )
    parser.add_argument(
        "--frames-720p",
        type=common.positive,
        metavar="N",
        help="that its memory is measured with; 200 for the record (default: 24, quick: 6)",
    )
    parser.add_argument(
        "--built", type=Path, metavar="DIR", help="keep bundles and calibration sets here (default: a temporary folder)"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the tables as Markdown, between the marks of FILE"
    )
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 7)
    options.frames = options.frames or (6 if options.quick else 128)
    options.frames_720p = options.frames_720p or (6 if options.quick else 24)
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
