"""Command line of calibration: parse, call one function, print, exit code.

NumPy, OpenCV and PyAV are imported by the verb that needs them, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli import dispatch, frame_size, json_option
from runtime.errors import EXIT_OK, GenedgeError, UsageError, printable
from runtime.report import table, text_stream, write_json

if TYPE_CHECKING:
    from calib.sample import Sampled, Wanted
    from calib.sensitivity import Loss

#: package that an import may miss -> the extra that brings it; None: a base dependency
EXTRAS: dict[str, str | None] = {
    "cv2": None,
    "av": None,
    "numpy": None,
    "onnx": "export",
    "onnxruntime": "cpu",
    "openvino": "cpu",
}

DEFAULT_SIZE = (256, 256)  # height, width
RECURRENT_RUN = 8  # frames of a run for nets with a state
MOST_ROWS = 20  # sources that a table shows


def run(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return dispatch(_parser(), arguments, EXTRAS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m calib",
        description="Material to calibrate INT8 with: choose it, look at it, and see which layers INT8 hurts.",
        epilog="Exit codes: 0 ok, 1 failed, 2 usage, 130 interrupted.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_sample(verbs)
    _add_inspect(verbs)
    _add_sensitivity(verbs)
    return parser


def _add_sample(verbs: Any) -> None:
    sample = verbs.add_parser(
        "sample",
        help="choose frames from videos and pictures, spread over scenes, brightness and colour",
        description="Choose frames from videos, folders of pictures and pictures: no near-duplicates, spread over "
        "sources, scenes, brightness and colour. The same sources and seed give the same set.",
    )
    sample.add_argument("sources", nargs="+", metavar="VIDEO|DIR|PICTURE", help="what to choose from")
    sample.add_argument("-o", "--output", type=Path, required=True, metavar="SET", help="folder for the set")
    sample.add_argument(
        "-n", "--count", type=_whole(1, 1 << 16), default=128, metavar="N", help="frames in all (default: 128)"
    )
    sample.add_argument(
        "--size",
        type=_size_or_whole,
        metavar="HxW",
        help="size of the crops, or 'whole' for frames as they are (default: what the bundle takes, 'whole' where it "
        "resizes them, else 256x256)",
    )
    sample.add_argument(
        "--for", dest="bundle", metavar="BUNDLE", help="take size, and runs for recurrent nets, from this bundle"
    )
    sample.add_argument(
        "--runs",
        type=_whole(1, 1 << 10),
        metavar="LENGTH",
        help="so many consecutive frames at one place, for recurrent nets (default: 1, 8 for a recurrent bundle)",
    )
    sample.add_argument("--seed", type=_whole(0, (1 << 32) - 1), default=0, metavar="N", help="default: 0")
    sample.add_argument("--force", action="store_true", help="replace an existing set")
    json_option(sample)
    sample.set_defaults(verb=_sample)


def _add_inspect(verbs: Any) -> None:
    inspect = verbs.add_parser("inspect", help="check a set's digests; counts, spread, a contact sheet and histograms")
    inspect.add_argument("set", type=Path, metavar="SET")
    inspect.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder for the two pictures (default: SET-inspect)"
    )
    json_option(inspect)
    inspect.set_defaults(verb=_inspect)


def _add_sensitivity(verbs: Any) -> None:
    sensitivity = verbs.add_parser(
        "sensitivity",
        help="rank a bundle's layers by the damage that each does alone in INT8",
        description="Quantise one layer at a time, leave all others in float, and measure what that costs: the most "
        "harmful layer comes first. Needs the extras export and cpu, no torch.",
    )
    sensitivity.add_argument("bundle", metavar="BUNDLE", help="folder, or name in ./bundles and $GENEDGE_BUNDLES")
    sensitivity.add_argument(
        "--calib", type=Path, nargs="+", required=True, metavar="SET", help="sets, folders or pictures to measure with"
    )
    sensitivity.add_argument(
        "--variant", choices=["int8", "int8-ort"], default="int8", help="form and engine (default: int8, on OpenVINO)"
    )
    sensitivity.add_argument(
        "--observer", default="percentile", metavar="NAME", help="range rule (default: percentile)"
    )
    sensitivity.add_argument("--no-equalise", action="store_true", help="leave the channels' ranges as they are")
    json_option(sensitivity)
    sensitivity.set_defaults(verb=_sensitivity)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text[:20]) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return parse


def _size_or_whole(text: str) -> tuple[int, int] | str:
    return text if text == "whole" else frame_size(text)


# --- sample -----------------------------------------------------------------------------------------------------------


def _sample(options: argparse.Namespace) -> int:
    from calib.sample import refuse_existing, sample
    from runtime.stats import peak_rss_bytes

    refuse_existing(options.output, force=options.force)
    wanted = _wanted(options)
    start = time.monotonic()
    result = sample(
        options.sources,
        options.output,
        wanted,
        force=options.force,
        warn=lambda text: print(f"warning: {printable(text)}", file=sys.stderr, flush=True),
        quiet=False,
    )
    seconds, peak = time.monotonic() - start, peak_rss_bytes()
    out, index = text_stream(options.json), result.index
    rows = [
        (tally.name, str(tally.frames), str(tally.scenes), str(tally.distinct), str(tally.taken))
        for tally in result.tallies
    ]
    print(_table(("source", "frames", "scenes", "distinct", "taken"), rows), file=out)
    size = "their own size" if index.size is None else f"{index.size[0]}x{index.size[1]}"
    runs = f" in {len(index.runs)} runs of {index.run_length}" if index.run_length > 1 else ""
    print(
        f"wrote {options.output}: {len(index.pictures)} frames of {size}{runs}, digest {index.digest[:12]}, "
        f"{seconds:.1f} s, peak memory {peak / (1 << 20):.0f} MiB",
        file=out,
    )
    if options.json:
        write_json(options.json, _as_dict(options.output, result, seconds, peak))
    return EXIT_OK


def _wanted(options: argparse.Namespace) -> Wanted:
    """Size, rule and run length: what was asked for, else what the bundle takes."""
    from calib.sample import Wanted
    from runtime.frames import SizeRule

    rule, fixed, recurrent = SizeRule(), None, False
    usual: tuple[int, int] | None = DEFAULT_SIZE
    if options.bundle:
        from runtime.bundle import open_bundle

        manifest = open_bundle(options.bundle).manifest
        rule, fixed = manifest.geometry.size_rule, manifest.geometry.fixed_size
        recurrent = any(port.role == "state" for port in manifest.inputs)
        if manifest.geometry.fit == "resize":  # it sees whole frames, whatever their size, and so does calibration
            rule, fixed, usual = SizeRule(), None, None
    size: tuple[int, int] | None
    if options.size == "whole":
        size = None
        if fixed:
            raise UsageError(f"{options.bundle} takes {_text(fixed)} frames only: leave --size out")
    elif options.size:
        size = options.size
        if fixed and size != fixed:
            raise UsageError(f"{options.bundle} takes {_text(fixed)} frames only: leave --size out")
        if not rule.allows(*options.size):
            raise UsageError(
                f"{options.bundle} takes no {_text(options.size)} frames; the next size is "
                f"{_text(rule.padded(*options.size))}"
            )
    else:
        size = fixed or (rule.padded(*usual) if usual else None)
    return Wanted(
        size=size,
        rule=rule,
        run_length=options.runs or (RECURRENT_RUN if recurrent else 1),
        count=options.count,
        seed=options.seed,
    )


def _as_dict(target: Path, result: Sampled, seconds: float, peak: int) -> dict[str, Any]:
    index = result.index
    return {
        "set": str(target),
        "digest": index.digest,
        "frames": len(index.pictures),
        "runs": len(index.runs),
        "run_length": index.run_length,
        "size": index.size,
        "seed": index.seed,
        "sources": [vars(tally) for tally in result.tallies],
        "warnings": list(result.warnings),
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak,
    }


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


# --- inspect ----------------------------------------------------------------------------------------------------------


def _inspect(options: argparse.Namespace) -> int:
    from calib.inspection import CONTACT_SHEET, HISTOGRAMS, inspect
    from runtime.stats import Progress

    folder: Path = options.set
    output = options.output or folder.resolve().with_name(f"{folder.resolve().name}-inspect")
    with Progress(label="reading") as progress:
        overview = inspect(folder, output, progress.step)
    out, material = text_stream(options.json), overview.material
    print(_table(("source", "pictures"), [(name, str(count)) for name, count in overview.sources.items()]), file=out)
    spread = overview.spread()
    head = ("mean, 0 to 255", *next(iter(spread.values())))
    rows = [(name, *(f"{value:.1f}" for value in values.values())) for name, values in spread.items()]
    print(table(head, rows, left=1), file=out)
    sizes = ", ".join(f"{count} of {_text(size)}" for size, count in sorted(overview.sizes.items())[:5])
    more = f" and {len(overview.sizes) - 5} other sizes" if len(overview.sizes) > 5 else ""
    print(
        f"{folder}: {len(material)} pictures in {len(material.runs)} runs, {sizes}{more}, "
        f"digest {material.digest[:12]}, every picture read and checked",
        file=out,
    )
    print(f"wrote {output / CONTACT_SHEET} and {output / HISTOGRAMS}", file=out)
    if options.json:
        write_json(options.json, overview.to_dict())
    return EXIT_OK


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of sources whose last column is a count; of many only the first."""
    shown = list(rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        rest = [sum(int(row[column]) for row in rows[MOST_ROWS:]) for column in range(1, len(head))]
        shown.append((f"{len(rows) - MOST_ROWS} more", *map(str, rest)))
    return table(head, [(printable(row[0]), *row[1:]) for row in shown], left=1)


# --- sensitivity ------------------------------------------------------------------------------------------------------


def _sensitivity(options: argparse.Namespace) -> int:
    import onnx

    from calib.observers import observer_named
    from calib.quantise import Int8Config, form_of, judging, prepare
    from calib.sensitivity import rank
    from runtime.bundle import open_bundle
    from runtime.stats import Clock

    observer_named(options.observer)
    bundle = open_bundle(options.bundle)
    if "fp32" not in bundle.manifest.artifacts:
        raise UsageError(f"{options.bundle} has no fp32 variant, which INT8 is made from")
    try:
        model = onnx.load_model_from_string(bundle.read_model("fp32"))
    except Exception:  # protobuf's DecodeError, whose module has no types
        raise GenedgeError(f"{bundle.manifest.artifacts['fp32'].file}: not an ONNX model") from None
    config = Int8Config(tuple(options.calib), observer=options.observer, equalise=not options.no_equalise)
    progress = Clock()
    prepared = prepare(model, bundle.manifest, config, progress)
    play, judge = judging(prepared, options.variant)
    ranges = prepared.tables[options.observer]
    form = form_of(options.variant, None)
    together = judge.loss(play(form.build(prepared.model, ranges, ())))
    damages = rank(prepared.model, form, ranges, play, judge, progress)
    out = text_stream(options.json)
    truth = together.truth_db is not None
    head = ("layer", "kind", "channels", "PSNR dB", "ΔE2000", *(["truth dB"] if truth else []))
    rows = [
        (
            printable(damage.layer.name),
            damage.layer.op,
            f"{damage.layer.channels_in}-{damage.layer.channels_out}",
            *_figures(damage.loss),
        )
        for damage in damages
    ]
    print(table(head, [*rows, ("all together", "", "", *_figures(together))], left=2), file=out)
    judged = "reduced and restored frames" if truth else "frames"
    print(
        f"{options.variant} with {options.observer} ranges on {len(prepared.clips.inputs)} {judged}: PSNR and ΔE2000 "
        "against float" + (", and dB lost against the ground truth" if truth else ""),
        file=out,
    )
    if options.json:
        layers = [{"layer": damage.layer.name, **damage.loss.to_dict()} for damage in damages]
        write_json(options.json, {"variant": options.variant, "layers": layers, "all": together.to_dict()})
    return EXIT_OK


def _figures(loss: Loss) -> tuple[str, ...]:
    figures = (f"{loss.psnr_db:.2f}", f"{loss.delta_e:.3f}")
    return figures if loss.truth_db is None else (*figures, f"{loss.truth_db:.3f}")
