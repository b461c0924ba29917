"""From a checkpoint to a bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from calib.dataset import HOW_TO_MAKE, CalibrationSet
from calib.quantise import source_of
from export import variants
from export.bundle import (
    add_parity,
    draft_manifest,
    new_bundle_folder,
    refuse_existing,
    without_bf16,
    write_files,
)
from export.config import BuildConfig
from export.engines import build_engine, engine_here
from export.frame_io import FrameGraph, frame_graph, measured_halo
from export.generators import load_generator
from export.generators.base import LoadedGenerator
from export.int8 import VARIANTS as INT8_VARIANTS
from export.int8 import Int8Result, earned, make_int8
from export.onnx_graph import graph_from_generator
from export.parity import (
    VariantParity,
    measure,
    parity_pairs,
    quickest_to_open,
    record,
    tile_difference,
    tile_frame,
    without_effect,
)
from export.report import html_report
from export.shipped import Shipped, find_shipped
from export.triton import write_triton
from runtime.bundle import Bundle, open_bundle
from runtime.errors import GenedgeError, NotMetError, UsageError
from runtime.sessions import available_backends

Progress = Callable[[str], None]

VARIANTS = ("fp32", "fp16", "int8")  # as asked for; int8 stands for its three forms
MAX_FIXED_SIDE = 4096  # pixels; activations of a larger whole frame take many gigabytes


@dataclass(frozen=True)
class Built:
    """A finished bundle and its parity figures. ``loaded`` is the generator that it was made of."""

    folder: Path
    loaded: LoadedGenerator
    results: tuple[VariantParity, ...]
    halo: int
    tile_difference: int | None
    int8: Int8Result | None = None
    engine: str | None = None  # what is said of the one that was built for this device


def build(config: BuildConfig, progress: Progress = lambda text: None) -> Built:
    """Build one bundle; nothing is left behind where a step fails.

    Raises:
        CheckpointError: the weights cannot be read or fit no generator.
        NotMetError: a variant misses its parity limits.
        GenedgeError, UsageError: anything else the user can act on.
    """
    _check(config)
    with_engine = engine_here(config.engine)
    # frames of parity have sizes of their own
    engines = replace(config.engines, settings=replace(config.engines.settings, profile=None)) if with_engine else None
    shipped = find_shipped(config.weights)
    path = shipped.path if shipped else Path(config.weights)
    name = config.name or _bundle_name(path)
    target = config.output / name
    refuse_existing(target, force=config.force)
    if config.triton is not None:
        config.triton.check(name, force=config.force)
    progress(f"loading {path.name}")
    loaded, checkpoint = load_generator(path, config.options, config.module)
    progress(f"{loaded.family} x{loaded.scale}, {sum(p.numel() for p in loaded.net.parameters()):,} parameters")
    shape = config.shape or loaded.fixed_size
    if shape is not None and not loaded.size_rule.allows(*shape):
        height, width = loaded.size_rule.padded(*shape)
        raise UsageError(f"{loaded.family} takes no {shape[0]}x{shape[1]} frames; the next size is {height}x{width}")
    material = _material(config, loaded.task)
    if loaded.freeze is not None:
        progress("freezing the statistics of its norms")
        loaded = loaded.freeze(material.frames, progress)
    graph, halo = frame_graph(loaded), 0
    if loaded.tileable:
        progress("measuring the halo")
        loaded, halo = _reach(loaded, graph)
    for note in loaded.notes:
        progress(note)
    progress("exporting to ONNX")
    canonical = graph_from_generator(graph, loaded.size_rule, shape)
    read = {source for node in canonical.graph.node for source in node.input}  # engines leave out what nothing reads
    _refuse_idle(name, [condition.name for condition in loaded.conditions if condition.name not in read])
    draft = draft_manifest(
        name, loaded, checkpoint, config.licence or _licence(shipped), _trained_on(shipped), halo, shape
    )
    models = {"fp32": canonical}
    if "fp16" in config.variants:
        progress("deriving the fp16 variant")
        models["fp16"] = variants.fp16_from_graph(canonical)
    int8 = make_int8(canonical, draft, config.int8, config.recipe, progress) if "int8" in config.variants else None
    if int8 is not None:
        models.update(int8.models)
    source = source_of(config.frames) if config.frames else material.source
    pairs = parity_pairs(loaded, material, shape, progress)
    with new_bundle_folder(target, force=config.force) as folder:
        bundle = write_files(folder, draft, models, pairs, int8.variant_recipes if int8 is not None else {})
        results = measure(bundle, pairs, progress, engines)
        _gate(name, results)
        _refuse_idle(name, without_effect(bundle, quickest_to_open(results), pairs))
        if any(not result.report.passed for result in results):  # bf16, or the gate would have raised
            bundle = without_bf16(bundle)
        if int8 is not None:
            bundle, results, int8 = earned(bundle, results, pairs, int8, config.int8, progress, engines)
            if any(variant in bundle.manifest.artifacts for variant in INT8_VARIANTS):
                int8.write_recipe(folder)
        seams = None
        if loaded.tileable and shape is None:
            progress("comparing tiles with the whole frame")
            seams = tile_difference(bundle, quickest_to_open(results), tile_frame(material, bundle.manifest.geometry))
            if seams > 1:
                raise NotMetError(f"{name}: tiles differ from the whole frame by {seams} 8-bit steps (halo {halo})")
        reach = (
            f"Measured halo: {halo} input pixels." if loaded.tileable else "Every output pixel may see the whole frame."
        )
        notes = [*loaded.notes, f"Frames: {source}.", reach]
        if seams is not None:
            notes.append(f"Tiled output against whole-frame output: at most {seams} 8-bit steps apart.")
        extra = {
            "reference": f"PyTorch {torch.__version__.split('+')[0]}, float32",
            "frames": [list(pair.frame.shape) for pair in pairs],
            "runs": sum(pair.begins for pair in pairs),  # as many as frames where no state ties them together
            "material": source,
            "notes": list(loaded.notes),
            "halo": halo,
            "tile_difference": seams,
        }
        if int8 is not None:
            extra["int8"] = int8.to_dict()
        report = html_report(bundle, results, pairs, notes, int8)
        add_parity(bundle, results, record(results, bundle, extra), report)
    if config.triton is not None:
        progress(f"writing the model repository {config.triton.folder}")
        write_triton(open_bundle(target), config.triton, force=config.force)
    engine = _engine(open_bundle(target), config, progress) if with_engine else None
    return Built(target, loaded, tuple(results), halo, seams, int8, engine)


def _engine(bundle: Bundle, config: BuildConfig, progress: Progress) -> str:
    """Build the engine of this device; where nobody asked for one, a failure is only told."""
    try:
        return build_engine(bundle, config.engines, progress)
    except GenedgeError as error:
        if config.engine != "auto":
            raise GenedgeError(f"{bundle.folder} is written, but its engine is not: {error}") from None
        return f"no engine was built: {error}"


def check(place: str, progress: Progress = lambda text: None) -> list[str]:
    """Check a bundle as the exporter sees it: digests, ONNX validity, opset, types at the edge.

    Returns one line for each artifact. Raises :class:`GenedgeError` for the first thing that is wrong.
    """
    import onnx

    from calib.graph import checked, opset_of
    from export.onnx_graph import fixed_sizes
    from export.passes import CANONICAL_OPSET

    bundle = open_bundle(place)
    bundle.manifest.check_gives_images()
    lines = []
    for variant, artifact in bundle.manifest.artifacts.items():
        progress(f"checking {artifact.file}")
        data = bundle.read_model(variant)
        try:
            model = onnx.load_model_from_string(data)
        except Exception:  # protobuf's DecodeError, whose module has no types
            raise GenedgeError(f"{artifact.file}: not an ONNX model") from None
        model = checked(model)
        for side, ports, declared in (
            ("input", model.graph.input, bundle.manifest.inputs),
            ("output", model.graph.output, bundle.manifest.outputs),
        ):
            found = [(port.name, port.type.tensor_type.elem_type, fixed_sizes(port)) for port in ports]
            wanted = [
                (
                    port.name,
                    onnx.helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)),
                    [side if isinstance(side, int) else None for side in port.shape],
                )
                for port in declared
            ]
            if found != wanted:
                raise GenedgeError(f"{artifact.file}: its {side}s {found} are not those of the manifest {wanted}")
        opset = opset_of(model)
        wanted_opset = variants.STRONG_OPSET if variant == "int8-strong" else CANONICAL_OPSET
        if opset != wanted_opset:
            raise GenedgeError(f"{artifact.file}: opset {opset}, not {wanted_opset}")
        lines.append(
            f"{artifact.file}: opset {opset}, IR {model.ir_version}, {len(model.graph.node)} nodes, digest right"
        )
    return lines


def _check(config: BuildConfig) -> None:
    unknown = [variant for variant in config.variants if variant not in VARIANTS]
    if unknown:
        raise UsageError(f"unknown precision {unknown[0]!r}: choose among {', '.join(VARIANTS)}")
    if "int8" in config.variants and config.recipe is None and (config.int8 is None or not config.int8.material):
        raise UsageError(f"INT8 needs frames to calibrate with: {HOW_TO_MAKE}, then add --calib SET")
    if "int8" in config.variants and config.recipe is None and config.int8 is not None:
        CalibrationSet.from_paths(config.int8.material)  # says what is not there; nothing is decoded
    if "fp32" not in config.variants:
        raise UsageError("every bundle needs the fp32 variant: the others are measured and derived from it")
    if config.name is not None and _bundle_name(Path(config.name)) != config.name:
        raise UsageError(f"{config.name!r} is no bundle name: use letters, digits, dot, dash and underscore")
    if config.shape is not None and max(config.shape) > MAX_FIXED_SIDE:
        raise UsageError(
            f"--shape is limited to {MAX_FIXED_SIDE} pixels a side: leave it out, and larger frames are cut into tiles"
        )
    if config.output.exists() and not config.output.is_dir():
        raise UsageError(f"{config.output} is a file: -o names the folder for bundles")
    if not available_backends():
        raise GenedgeError('parity needs an engine, and none is installed: pip install "genedge[cpu]"')


def _material(config: BuildConfig, task: str) -> CalibrationSet:
    """What parity is measured on: the user's pictures, else photos that come along, of a face where it needs one."""
    if config.frames:
        return CalibrationSet.from_paths(config.frames)
    return CalibrationSet.built_in_faces() if task == "face-deid" else CalibrationSet.built_in()


def _bundle_name(path: Path) -> str:
    name = path.name
    for suffix in (".tar", ".pth", ".pt", ".ckpt", ".safetensors"):
        name = name.removesuffix(suffix)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("-._").rstrip("-.")  # a letter or digit comes first
    return name[:100] or "bundle"


def _reach(loaded: LoadedGenerator, graph: FrameGraph) -> tuple[LoadedGenerator, int]:
    """The halo in pixels; a net that sees too far for one is never cut into tiles, and says so."""
    rule = loaded.size_rule
    try:
        return loaded, measured_halo(graph, rule.minimum, rule.multiple, loaded.scale)
    except ValueError as error:
        reason = str(error)
    note = f"{reason[0].upper()}{reason[1:]}, so frames are never cut into tiles; large ones need much memory."
    return replace(loaded, tileable=False, notes=(*loaded.notes, note)), 0


def _gate(name: str, results: list[VariantParity]) -> None:
    """Raise where a variant misses its limits; bf16 is none, only a way to run one, and is left out where it misses."""
    for result in results:
        if not result.report.passed and result.choice.precision != "bf16":
            without = " (--engine none leaves TensorRT out)" if result.choice.backend == "tensorrt" else ""
            where = f"{result.choice.variant} on {result.choice.backend} in {result.choice.precision}"
            raise NotMetError(
                f"{name}: {where} misses parity with PyTorch ({'; '.join(result.report.failures)}); "
                f"no bundle was written{without}"
            )


def _refuse_idle(name: str, idle: Sequence[str]) -> None:
    if idle:
        raise NotMetError(
            f"{name}: {', '.join(idle)} has no effect, any code gives the same picture; no bundle was written"
        )


def _licence(shipped: Shipped | None) -> str:
    return shipped.licence if shipped else "unknown: the checkpoint's own licence applies"


def _trained_on(shipped: Shipped | None) -> str:
    return shipped.trained_on if shipped else "unknown"
