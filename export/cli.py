"""Command line of the exporter: parse, call one function, print, exit code.

Torch, ONNX and the engines are imported by the verb that needs them, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli import dispatch, engines_of, json_option, tensorrt_options
from runtime.errors import EXIT_FAILED, EXIT_OK, CheckpointError, NotMetError, UsageError, printable
from runtime.report import shortened, table, text_stream, write_json
from runtime.stats import Clock

if TYPE_CHECKING:
    from calib.quantise import Int8Config
    from export.build import Built
    from export.triton import TritonConfig
    from runtime.codes import Code

WIDTH = 100  # columns of a listing

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
    "tensorrt": "tensorrt",
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
    _source_options(build)
    build.add_argument("--licence", help="licence of the weights, for the manifest")
    build.add_argument(
        "--engine",
        choices=["auto", "none", "tensorrt"],
        default="auto",
        help="engine for this device to measure and build as well (default: auto, TensorRT where it finds a GPU)",
    )
    tensorrt_options(build)
    _triton_options(build)
    build.add_argument("--force", action="store_true", help="replace an existing bundle")
    json_option(build)
    build.set_defaults(verb=_build)

    listing = verbs.add_parser("list", help="list generator families and shipped weights")
    json_option(listing)
    listing.set_defaults(verb=_list)

    check = verbs.add_parser("check", help="check a bundle: digests, ONNX, parity on its golden frames")
    check.add_argument("bundle", metavar="BUNDLE")
    check.set_defaults(verb=_check)

    inspect = verbs.add_parser("inspect", help="show what a checkpoint or a bundle holds")
    inspect.add_argument("file", metavar="FILE|BUNDLE")
    _source_options(inspect)
    inspect.add_argument(
        "--no-measure", action="store_true", help="do not measure how far away a pixel has an influence"
    )
    json_option(inspect)
    inspect.set_defaults(verb=_inspect)

    gallery = verbs.add_parser("gallery", help="build many checkpoints and draw input, PyTorch, fp16 and int8 of each")
    gallery.add_argument(
        "weights",
        nargs="*",
        type=Path,
        metavar="FILE|DIR",
        help="checkpoints, or folders of them (default: the shipped weights, and those in ASSETS/weights)",
    )
    gallery.add_argument(
        "-o", "--output", type=Path, default=Path("gallery"), metavar="DIR", help="folder to write (default: gallery)"
    )
    gallery.add_argument(
        "--assets",
        type=Path,
        metavar="DIR",
        help="photos and clips to run on, in images, faces and video (default: $GENEDGE_ASSETS, else ../shared/assets)",
    )
    gallery.add_argument("--no-int8", action="store_true", help="leave INT8 out, which takes most of the time")
    json_option(gallery)
    gallery.set_defaults(verb=_gallery)
    return parser


def _triton_options(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "--triton", type=Path, metavar="DIR", help="model repository of a Triton Inference Server to write into as well"
    )
    build.add_argument(
        "--triton-size",
        metavar="HxW",
        help="frames of this size only; recurrent nets need it to compute several streams at once",
    )
    build.add_argument("--triton-batch", type=int, metavar="N", help="most frames at once (default: 8, of an engine 1)")
    build.add_argument(
        "--triton-plan", type=Path, metavar="FILE", help="TensorRT engine to serve instead of the ONNX file"
    )


def _triton(options: argparse.Namespace) -> TritonConfig | None:
    from export.triton import TritonConfig

    size = _size(options.triton_size, "--triton-size") if options.triton_size else None
    given = {"batch": options.triton_batch, "size": size, "plan": options.triton_plan}
    said = {name: value for name, value in given.items() if value is not None}
    if options.triton is None:
        if said:
            raise UsageError(f"--triton-{next(iter(said))} needs --triton DIR, the model repository")
        return None
    return TritonConfig(options.triton, **said)


def _source_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--module",
        metavar="FILE.py:NAME",
        help="your own code that makes the net of the tensors (also package.module:NAME); it is run, so trust it",
    )
    verb.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what the file does not say, see `export list`; part=NAME chooses one of several nets in the file",
    )
    verb.add_argument(
        "--eval",
        action="store_true",
        help="short for --option statistics=stored: batch norms with the statistics of training",
    )


def _options(options: argparse.Namespace) -> dict[str, str]:
    """What ``--option`` and ``--eval`` say."""
    given: dict[str, str] = {}
    for text in [*options.option, *(["statistics=stored"] if options.eval else [])]:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise UsageError(f"--option {text!r} must be NAME=VALUE, for example statistics=stored")
        if given.setdefault(name, value) != value:
            raise UsageError(f"the option {name} is both {given[name]} and {value}")
    return given


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
    from export.engines import engine_here
    from export.shipped import shipped_weights
    from export.user_code import translated

    weights = options.weights or [shipped.name for shipped in shipped_weights()]
    if options.name and len(weights) > 1:
        raise UsageError("--name fits one checkpoint only")
    if options.triton_plan and len(weights) > 1:
        raise UsageError("--triton-plan fits one checkpoint only")
    triton = _triton(options)
    engines = engines_of(options, ["tensorrt"] if engine_here(options.engine) else [])
    shape = _size(options.shape) if options.shape else None
    int8, recipe = _int8(options)
    said = _options(options)
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
            engines=engines,
            force=options.force,
            licence=options.licence,
            int8=int8,
            recipe=recipe,
            triton=triton,
            options=said,
            module=options.module,
        )
        with translated():
            built = build(config, Clock())
        out = text_stream(options.json)
        print(parity_table(built), file=out)
        for line in int8_lines(built):
            print(line, file=out)
        print(f"wrote {built.folder}  (report: {built.folder / 'parity.html'})", file=out)
        if built.engine is not None:
            print(built.engine, file=out)
        if triton is not None:
            print(f"wrote {triton.folder / built.folder.name}  (how to serve it: docs/triton.md)", file=out)
        results.append(built)
    if options.json:
        write_json(options.json, [_as_dict(built) for built in results])
    return EXIT_OK


def _list(options: argparse.Namespace) -> int:
    from export.facts import option_dict, option_line
    from export.generators import GENERATORS
    from export.generators.plugins import load_plugins
    from export.shipped import shipped_weights

    plugins = load_plugins([generator.id for generator in GENERATORS])
    families, weights = (*GENERATORS, *plugins.generators), shipped_weights()
    for problem in plugins.problems:
        print(f"warning: {printable(problem)}", file=sys.stderr)
    out = text_stream(options.json)
    column = max(len(entry) for entry in (*(each.id for each in families), *(each.name for each in weights))) + 4
    print("Generator families (found from the checkpoint's keys):", file=out)
    for family in families:
        example = f", for example {family.example}" if family.example else ""
        lines = [family.title, f"{family.purpose}{example}".removeprefix(", ")]
        lines += [f"--option {option_line(option)}" for option in family.options]
        print(_entry(family.id, [line for line in lines if line], column), file=out)
    print(_entry("", ["--option part=NAME of every family: which net of a file that holds several"], 2), file=out)
    print("Shipped weights (python -m export build NAME):", file=out)
    for shipped in weights:
        print(_entry(shipped.name, [shipped.title], column), file=out)
    if options.json:
        content = {
            "families": [
                {
                    "id": family.id,
                    "title": family.title,
                    "purpose": family.purpose,
                    "example": family.example,
                    "options": [option_dict(option) for option in family.options],
                }
                for family in families
            ],
            "weights": [
                {"name": shipped.name, "title": shipped.title, "licence": shipped.licence} for shipped in weights
            ],
            "problems": list(plugins.problems),
        }
        write_json(options.json, content)
    return EXIT_OK


def _gallery(options: argparse.Namespace) -> int:
    from export.gallery import RECORD, SHEET, default_assets, make_gallery

    assets = options.assets or default_assets()
    if options.assets is not None and not assets.is_dir():
        raise UsageError(f"{assets}: no such folder")
    gallery = make_gallery(options.weights, options.output, assets, int8=not options.no_int8, progress=Clock())
    write_json(options.output / RECORD, gallery.to_dict())
    if options.json:
        write_json(options.json, gallery.to_dict())
    out = text_stream(options.json)
    for name, reason in gallery.skipped.items():
        print(f"skipped {name}: {reason}", file=out)
    rows = [
        (
            row.name,
            row.facts[0],
            *(f"{cell.psnr_db:.1f}" if cell.psnr_db is not None else "-" for cell in row.cells[2:]),
        )
        for row in gallery.rows
        if row.cells
    ]
    print(table(("generator", "family", "fp16 dB", "int8 dB"), rows, left=2), file=out)
    print(f"wrote {options.output / SHEET}", file=out)
    if gallery.failures:
        raise NotMetError("; ".join(gallery.failures))
    return EXIT_OK


def _entry(name: str, lines: Sequence[str], column: int) -> str:
    """A name and what belongs to it, in two columns."""
    indent = " " * column
    wrapped = [
        part
        for line in lines
        for part in textwrap.wrap(printable(line), WIDTH - column, subsequent_indent="  ", break_on_hyphens=False)
    ]
    return f"  {name}".ljust(column) + f"\n{indent}".join(wrapped)


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
    with contextlib.redirect_stdout(text_stream(options.json)):
        if path.is_file():
            code, content = _inspect_checkpoint(path, options)
        else:
            code, content = _inspect_bundle(options)
    if options.json:
        write_json(options.json, content)
    return code


def _inspect_bundle(options: argparse.Namespace) -> tuple[int, Any]:
    from runtime.bundle import open_bundle

    bundle = open_bundle(options.file)
    manifest = bundle.manifest
    geometry = manifest.geometry
    size = "x".join(map(str, geometry.fixed_size)) if geometry.fixed_size else "any"
    size += " (other frames are resized)" if geometry.fit == "resize" else ""
    print(f"{manifest.name}: {manifest.task}, generator {manifest.generator}, scale {geometry.scale}")
    print(f"weights: sha256 {manifest.weights.sha256[:16]}…, licence {printable(manifest.weights.licence)}")
    print(f"trained on: {printable(manifest.weights.trained_on)}")
    print(f"frame size: {size}, halo {geometry.halo}, tileable {'yes' if geometry.tileable else 'no'}")
    for port in (*manifest.inputs, *manifest.outputs):
        fed = f", fed by {port.source}, begins as {port.initial}" if port.source else ""
        print(f"{port.role}: {port.name} {port.dtype} {list(port.shape)}{fed}")
        if port.code is not None:
            print(f"  {_described(port.code)}")
    for variant, artifact in manifest.artifacts.items():
        print(f"{variant}: {artifact.file}, {(bundle.folder / artifact.file).stat().st_size:,} bytes")
        if artifact.float_layers or variant.startswith("int8"):
            names = f" ({printable(shortened(artifact.float_layers, 8))})" if artifact.float_layers else ""
            print(f"  layers in float: {len(artifact.float_layers)}{names}")
        for engine, figures in artifact.parity.items():
            shown = ((key, unit) for key, unit in FIGURES.items() if key in figures)
            print(f"  {engine}: {', '.join(unit.format(figures[key]) for key, unit in shown)}")
    return EXIT_OK, json.loads(manifest.to_json())


def _described(code: Code) -> str:
    """Kind, size, range, default and labels, as people would type them."""
    import numpy as np

    default = code.spelled(np.array(code.default, dtype=np.float32))
    if len(default) > 60:
        default = default[:60] + "…"
    line = f"{code.kind}, {code.size} numbers from {code.low:g} to {code.high:g}, default {default}"
    return printable(line + (f", labels {shortened(code.labels, 8)}" if code.labels else ""))


def _inspect_checkpoint(path: Path, options: argparse.Namespace) -> tuple[int, Any]:
    from export.checkpoint import load_state
    from export.facts import facts_of, header, lacks_of
    from export.generators import PART, generator_from
    from export.user_code import translated

    said = _options(options)
    checkpoint = load_state(path, said.pop(PART, ""))
    print("\n".join(header(path, checkpoint)))
    content: dict[str, Any] = {
        "file": str(path),
        "sha256": checkpoint.sha256,
        "wrapper": checkpoint.wrapper,
        "tensors": {name: list(tensor.shape) for name, tensor in checkpoint.state.items()},
    }
    try:
        loaded, chosen = generator_from(checkpoint, said, options.module)
    except CheckpointError as error:
        lacks = lacks_of(checkpoint, said) if options.module is None else None
        if lacks is not None:
            print("\n".join(lacks.lines()))
            content |= lacks.to_dict()
        print(f"error: {printable(f'{path}: {error}')}", file=sys.stderr)
        return EXIT_FAILED, {**content, "error": str(error)}
    if chosen.prefix:
        print(f"names begin with: {printable(chosen.prefix)}")
    with translated():
        facts = facts_of(loaded, measure=not options.no_measure)
    print("\n".join(facts.lines()))
    return EXIT_OK, {**content, "prefix": chosen.prefix, "left_out": list(chosen.left_out), **facts.to_dict()}


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
        "engine": built.engine,
        "results": [
            {"variant": result.choice.variant, "engine": result.key, **result.report.to_dict()}
            for result in built.results
        ],
    }


def _size(text: str, option: str = "--shape") -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if match is None or not all(int(side) for side in match.groups()):
        raise UsageError(f"{option} {text!r} must be HEIGHTxWIDTH, for example 360x640")
    return int(match[1]), int(match[2])
