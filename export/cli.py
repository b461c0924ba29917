"""Command line of the exporter: parse, call one function, print, exit code.

Torch, ONNX and the engines are imported by the verb that needs them, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli import dispatch, json_option
from runtime.errors import EXIT_OK, UsageError, printable
from runtime.report import shortened, table, text_stream, write_json
from runtime.stats import Clock

if TYPE_CHECKING:
    from calib.quantise import Int8Config
    from export.build import Built

#: what `inspect` shows of an artifact's parity
FIGURES = {"psnr_db": "{:.2f} dB", "delta_e": "ΔE {:.4f}", "max_abs": "max {:.0f} steps"}

EXTRA_OF: dict[str, str | None] = {
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "skimage": "export",
    "openvino": "cpu",
    "onnxruntime": "cpu",
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return dispatch(_parser(), arguments, EXTRA_OF)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a trained PyTorch generator into a portable bundle with measured parity.",
        epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 parity not met, 130 interrupted.",
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    build = verbs.add_parser("build", help="build bundles from checkpoints or shipped weights")
    build.add_argument(
        "weights",
        nargs="*",
        metavar="WEIGHTS|NAME",
        help="checkpoint files or names of shipped weights (default: all shipped)",
    )
    build.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("bundles"),
        metavar="DIR",
        help="folder for bundles (default: bundles)",
    )
    build.add_argument("--name", help="name of the bundle (default: the file's name)")
    build.add_argument(
        "--precision", metavar="LIST", help="of fp32, fp16, int8 (default: fp32,fp16, and int8 with --calib)"
    )
    _int8_options(build)
    build.add_argument("--shape", metavar="HxW", help="one fixed frame size (default: any size)")
    build.add_argument(
        "--frames",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="pictures or folders for parity and golden frames (default: built-in photos)",
    )
    build.add_argument("--licence", help="licence of the weights, for the manifest")
    build.add_argument(
        "--engine",
        choices=["auto", "none"],
        default="auto",
        help="device engine to build as well (TensorRT comes later)",
    )
    build.add_argument("--force", action="store_true", help="replace an existing bundle")
    json_option(build)
    build.set_defaults(verb=_build)

    listing = verbs.add_parser("list", help="list generator families and shipped weights")
    listing.set_defaults(verb=_list)

    check = verbs.add_parser("check", help="check a bundle: digests, ONNX, parity on its golden frames")
    check.add_argument("bundle", metavar="BUNDLE")
    check.set_defaults(verb=_check)

    inspect = verbs.add_parser("inspect", help="show what a checkpoint or a bundle holds")
    inspect.add_argument("file", metavar="FILE|BUNDLE")
    inspect.set_defaults(verb=_inspect)
    return parser


def _int8_options(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "--calib",
        type=Path,
        nargs="+",
        default=[],
        metavar="SET",
        help="frames to calibrate INT8 with: sets of `python -m calib sample`, folders, pictures; or a recipe.json",
    )
    build.add_argument(
        "--budget-db",
        type=_positive,
        default=0.1,
        metavar="DB",
        help="what INT8 may lose against ground truth, that is frames reduced and restored (default: 0.1)",
    )
    build.add_argument(
        "--budget-delta-e", type=_positive, metavar="DE", help="largest mean colour difference (CIEDE2000) to float"
    )
    build.add_argument(
        "--budget-psnr",
        type=_positive,
        default=40.0,
        metavar="DB",
        help="PSNR against float that INT8 must keep where there is no ground truth (default: 40)",
    )
    build.add_argument(
        "--observer",
        default="auto",
        metavar="NAME",
        help="range rule: max, percentile, percentile:99.99, mse, entropy (default: of four rules the one that loses "
        "least)",
    )
    build.add_argument(
        "--float-layers", default="", metavar="LIST", help="layers that stay in float: first, last, or names"
    )
    build.add_argument(
        "--no-hardened", action="store_true", help="measure ranges on the frames alone, not on sharper copies as well"
    )
    build.add_argument("--no-equalise", action="store_true", help="leave the channels' ranges as they are")
    build.add_argument(
        "--bias-correction", choices=["auto", "on", "off"], default="auto", help="(default: where it loses less)"
    )
    build.add_argument("--keep-slow-int8", action="store_true", help="keep INT8 where it is not faster on this device")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _int8(options: argparse.Namespace) -> tuple[Int8Config, Path | None]:
    """What the options say about INT8: how to find it, and the recipe that says it instead."""
    from calib.quantise import Int8Config
    from calib.sensitivity import Budget

    recipe = next((path for path in options.calib if path.suffix == ".json" and not path.is_dir()), None)
    if recipe is not None and len(options.calib) > 1:
        raise UsageError("--calib takes one recipe.json, or sets and pictures, not both")
    if recipe is not None and options.float_layers:
        raise UsageError(f"{recipe} says which layers stay in float: leave --float-layers out")
    config = Int8Config(
        material=() if recipe is not None else tuple(options.calib),
        budget=Budget(options.budget_db, options.budget_delta_e, options.budget_psnr),
        observer=options.observer,
        equalise=not options.no_equalise,
        hardened=not options.no_hardened,
        bias_correction={"auto": None, "on": True, "off": False}[options.bias_correction],
        float_layers=tuple(name.strip() for name in options.float_layers.split(",") if name.strip()),
        keep_slow=options.keep_slow_int8,
    )
    return config, recipe


def _build(options: argparse.Namespace) -> int:
    from export.build import build
    from export.config import BuildConfig
    from export.shipped import shipped_weights

    weights = options.weights or [shipped.name for shipped in shipped_weights()]
    if options.name and len(weights) > 1:
        raise UsageError("--name fits one checkpoint only")
    shape = _size(options.shape) if options.shape else None
    int8, recipe = _int8(options)
    precision = options.precision or ("fp32,fp16,int8" if options.calib else "fp32,fp16")
    results = []
    for entry in weights:
        config = BuildConfig(
            weights=entry,
            output=options.output,
            name=options.name,
            variants=tuple(part.strip() for part in precision.split(",") if part.strip()),
            shape=shape,
            frames=tuple(options.frames),
            engine=options.engine,
            force=options.force,
            licence=options.licence,
            int8=int8,
            recipe=recipe,
        )
        built = build(config, Clock())
        out = text_stream(options.json)
        print(parity_table(built), file=out)
        for line in int8_lines(built):
            print(line, file=out)
        print(f"wrote {built.folder}  (report: {built.folder / 'parity.html'})", file=out)
        results.append(built)
    if options.json:
        write_json(options.json, [_as_dict(built) for built in results])
    return EXIT_OK


def _list(options: argparse.Namespace) -> int:
    from export.generators import GENERATORS
    from export.shipped import shipped_weights

    print("Generator families (found from the checkpoint's keys):")
    for generator in GENERATORS:
        print(f"  {generator.id:<10} {generator.title}")
    print("Shipped weights (python -m export build NAME):")
    for shipped in shipped_weights():
        print(f"  {shipped.name:<14} {shipped.title}")
    return EXIT_OK


def _check(options: argparse.Namespace) -> int:
    from export.build import check
    from runtime.bundle import open_bundle
    from runtime.cli import print_verdicts
    from runtime.sessions import runnable
    from runtime.verify import verify

    for line in check(options.bundle, Clock()):
        print(line)
    bundle = open_bundle(options.bundle)
    return print_verdicts(bundle, verify(bundle, runnable(bundle)))


def _inspect(options: argparse.Namespace) -> int:
    path = Path(options.file)
    if path.is_file():
        return _inspect_checkpoint(path)
    from runtime.bundle import open_bundle

    bundle = open_bundle(options.file)
    manifest = bundle.manifest
    geometry = manifest.geometry
    size = "x".join(map(str, geometry.fixed_size)) if geometry.fixed_size else "any"
    print(f"{manifest.name}: {manifest.task}, generator {manifest.generator}, scale {geometry.scale}")
    print(f"weights: sha256 {manifest.weights.sha256[:16]}…, licence {printable(manifest.weights.licence)}")
    print(f"trained on: {printable(manifest.weights.trained_on)}")
    print(f"frame size: {size}, halo {geometry.halo}, tileable {'yes' if geometry.tileable else 'no'}")
    for port in (*manifest.inputs, *manifest.outputs):
        fed = f", fed by {port.source}, begins as {port.initial}" if port.source else ""
        print(f"{port.role}: {port.name} {port.dtype} {list(port.shape)}{fed}")
    for variant, artifact in manifest.artifacts.items():
        print(f"{variant}: {artifact.file}, {(bundle.folder / artifact.file).stat().st_size:,} bytes")
        if artifact.float_layers or variant.startswith("int8"):
            names = f" ({printable(shortened(artifact.float_layers, 8))})" if artifact.float_layers else ""
            print(f"  layers in float: {len(artifact.float_layers)}{names}")
        for engine, figures in artifact.parity.items():
            shown = ((key, unit) for key, unit in FIGURES.items() if key in figures)
            print(f"  {engine}: {', '.join(unit.format(figures[key]) for key, unit in shown)}")
    return EXIT_OK


def _inspect_checkpoint(path: Path) -> int:
    from export.checkpoint import load_state
    from export.generators import GENERATORS, from_state

    checkpoint = load_state(path)
    state = checkpoint.state
    print(f"{path.name}: {len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} values")
    print(f"sha256 {checkpoint.sha256}")
    if checkpoint.wrapper:
        print(f"found under: {checkpoint.wrapper}")
    rows = [f"  {printable(key)}  {list(tensor.shape)}" for key, tensor in state.items()]
    print("\n".join(rows if len(rows) <= 12 else [*rows[:8], f"  … {len(rows) - 12} more", *rows[-4:]]))
    loaded = from_state(state)
    title = next((generator.title for generator in GENERATORS if generator.id == loaded.family), "")
    facts = ", ".join(f"{key} {value}" for key, value in loaded.facts.items())
    print(f"family: {loaded.family}" + (f" ({title})" if title else ""))
    print(f"scale {loaded.scale}" + (f", {facts}" if facts else ""))
    for note in loaded.notes:
        print(note)
    return EXIT_OK


def parity_table(built: Built) -> str:
    """The figures of a build as a plain-text table."""
    from runtime.metrics import CELLS

    head = ("variant", "engine", "precision", *CELLS, "changed")
    rows = [
        (
            result.choice.variant,
            result.choice.backend,
            result.choice.precision,
            *result.report.cells(),
            f"{result.report.changed:.3%}",
        )
        for result in built.results
    ]
    return table(head, rows, left=3)


def int8_lines(built: Built) -> list[str]:
    """What a build has to say about INT8: one line for each variant, and the notes."""
    if built.int8 is None:
        return []
    lines = []
    for variant in built.int8.models:
        if variant in built.int8.dropped:
            continue
        layers = built.int8.float_layers[variant]
        found = built.int8.searches.get(variant)
        floats = built.int8.variant_recipes[variant].float_precision
        line = f"{variant}: {len(layers)} layers in float" + (f" ({', '.join(layers)})" if layers else "")
        if found is not None:
            loss = found.best.loss
            truth = f"{loss.truth_db:.3f} dB from ground truth, " if loss.truth_db is not None else ""
            line += f"; loses {truth}{loss.psnr_db:.2f} dB PSNR and ΔE {loss.delta_e:.2f} against float"
        if layers and floats == "bf16":
            line += "; these layers may be bf16"
        lines.append(line)
    lines += [f"{variant} dropped: {reason}" for variant, reason in built.int8.dropped.items()]
    return [*lines, *built.int8.notes]


def _as_dict(built: Built) -> dict[str, Any]:
    return {
        "bundle": str(built.folder),
        "halo": built.halo,
        "tile_difference": built.tile_difference,
        "int8": built.int8.to_dict() if built.int8 is not None else None,
        "results": [
            {"variant": result.choice.variant, "engine": result.key, **result.report.to_dict()}
            for result in built.results
        ],
    }


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if match is None or not all(int(side) for side in match.groups()):
        raise UsageError(f"--shape {text!r} must be HEIGHTxWIDTH, for example 360x640")
    return int(match[1]), int(match[2])
