"""Write a bundle: everything into a temporary folder, the manifest last, then one rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import onnx

from calib.recipe import VariantRecipe
from export.checkpoint import Checkpoint
from export.config import LIMITS, LIMITS_WITH_STATES
from export.generators.base import Condition, LoadedGenerator, RecurrentState
from export.parity import Pair, VariantParity, golden_pairs
from runtime.bundle import PARITY_NAME, Bundle
from runtime.codes import numbers_of
from runtime.errors import UsageError
from runtime.folder import new_folder
from runtime.frames import Frame
from runtime.manifest import (
    MANIFEST_NAME,
    Artifact,
    FileRef,
    Geometry,
    Golden,
    Limits,
    Manifest,
    Port,
    Weights,
    parse_manifest,
)

REPORT_NAME = "parity.html"


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raise :class:`UsageError` where ``target`` exists and ``force`` is not set, or where it is no bundle at all."""
    if not target.exists():
        return
    if not force:
        raise UsageError(f"{target} exists: add --force to replace it")
    if not (target / MANIFEST_NAME).is_file():  # --force replaces bundles, not somebody's documents
        raise UsageError(f"{target} exists and is no bundle, so it is not replaced: choose another --name or -o")


@contextlib.contextmanager
def new_bundle_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` when the block ends well, and vanishes otherwise.

    An existing bundle is kept until the new one is whole. Raises :class:`UsageError` as :func:`refuse_existing` does.
    """
    refuse_existing(target, force=force)
    with new_folder(target) as temporary:
        yield temporary


def draft_manifest(
    name: str,
    loaded: LoadedGenerator,
    checkpoint: Checkpoint,
    licence: str,
    trained_on: str,
    halo: int,
    shape: tuple[int, int] | None,
) -> Manifest:
    """What is known of a bundle before its files are: ports and geometry, no artifacts yet."""
    scale = loaded.scale
    free: tuple[int | str, ...] = ("n", "h", "w") if shape is None else (1, *shape)
    scaled: tuple[int | str, ...] = ("n", "sh", "sw") if shape is None else (1, shape[0] * scale, shape[1] * scale)
    frame, image = Port("frame", "frame", "uint8", (*free, 3)), Port("image", "image", "uint8", (*scaled, 3))
    if any(state.scale not in (1, scale) for state in loaded.states):  # the manifest has no name for another size
        raise ValueError("a state has the size of the frame or that of the image")
    return Manifest(
        name=name,
        task=loaded.task,
        generator=loaded.family,
        weights=Weights(checkpoint.sha256, licence, trained_on),
        inputs=(
            frame,
            *(_state_input(state, frame, image) for state in loaded.states),
            *(_code_input(condition, frame) for condition in loaded.conditions),
        ),
        outputs=(
            image,
            *(replace(image, name=more.name) for more in loaded.images),
            *(_state_output(state.output, state, frame, image) for state in loaded.states if state.output is not None),
        ),
        geometry=Geometry(
            scale, loaded.size_rule, halo, loaded.tileable, shape, loaded.fit if shape is not None else "pad"
        ),
        artifacts={},
        limits={},
        golden=(),
    )


def write_files(
    folder: Path,
    draft: Manifest,
    models: Mapping[str, onnx.ModelProto],
    pairs: Sequence[Pair],
    recipes: Mapping[str, VariantRecipe],
) -> Bundle:
    """Write models, golden frames and a manifest that parity can already be measured with."""
    artifacts = {}
    for variant, model in models.items():
        digest = _write(folder / f"model.{variant}.onnx", model.SerializeToString())
        recipe = recipes.get(variant, VariantRecipe(""))
        artifacts[variant] = Artifact(
            f"model.{variant}.onnx", digest, recipe.float_layers, float_precision=recipe.float_precision
        )
    (folder / "golden").mkdir()
    golden = []
    for index, pair in enumerate(golden_pairs(pairs)):
        golden.append(
            Golden(
                _write_picture(folder, f"golden/{index}.input.png", pair.frame),
                _write_picture(folder, f"golden/{index}.output.png", pair.reference),
                {name: numbers_of(values) for name, values in pair.codes.items()},
            )
        )
    limits = LIMITS_WITH_STATES if draft.states else LIMITS
    manifest = replace(
        draft,
        artifacts=artifacts,
        limits={key: limits[key] for key in (*models, "bf16") if key in limits},
        golden=tuple(golden),
    )
    write_manifest(folder, manifest)
    return Bundle(folder, manifest)


def _state_input(state: RecurrentState, frame: Port, image: Port) -> Port:
    if state.output is None:
        return Port(state.name, "state", frame.dtype, frame.shape, source=frame.name, initial=state.begins_as)
    output = _state_output(state.output, state, frame, image)
    return replace(output, name=state.name, source=output.name, initial=state.begins_as)


def _state_output(name: str, state: RecurrentState, frame: Port, image: Port) -> Port:
    """Float32 in every variant, since one manifest describes them all."""
    count, height, width, _ = (frame if state.scale == 1 else image).shape
    return Port(name, "state", "float32", (count, state.channels, height, width))


def _code_input(condition: Condition, frame: Port) -> Port:
    """Float32 in every variant; a map has the frame's own size."""
    count, height, width, _ = frame.shape
    size = (height, width) if condition.is_map else ()
    return Port(condition.name, "code", "float32", (count, condition.code.size, *size), code=condition.code)


def without_bf16(bundle: Bundle) -> Bundle:
    """The same bundle, whose manifest does not allow bfloat16: the net loses too much in it."""
    limits = {key: limit for key, limit in bundle.manifest.limits.items() if key != "bf16"}
    return replace(bundle, manifest=replace(bundle.manifest, limits=limits))


def without_variant(bundle: Bundle, variant: str) -> Bundle:
    """The same bundle without one artifact; its file is deleted."""
    (bundle.folder / bundle.manifest.artifacts[variant].file).unlink()
    artifacts = {name: artifact for name, artifact in bundle.manifest.artifacts.items() if name != variant}
    limits = {name: limit for name, limit in bundle.manifest.limits.items() if name != variant}
    return replace(bundle, manifest=replace(bundle.manifest, artifacts=artifacts, limits=limits))


def with_limits(bundle: Bundle, limits: Mapping[str, Limits]) -> Bundle:
    """The same bundle with further limits, which its figures are then judged by."""
    return replace(bundle, manifest=replace(bundle.manifest, limits={**bundle.manifest.limits, **limits}))


def add_parity(bundle: Bundle, results: Sequence[VariantParity], record: dict[str, Any], report: str) -> Bundle:
    """Write ``parity.json`` and the report, and the figures into the manifest, which is written last."""
    (bundle.folder / PARITY_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (bundle.folder / REPORT_NAME).write_text(report, encoding="utf-8")
    artifacts = {
        variant: replace(
            artifact,
            parity={
                result.key: result.report.figures()
                for result in results
                if result.choice.variant == variant and result.report.passed
            },
        )
        for variant, artifact in bundle.manifest.artifacts.items()
    }
    manifest = replace(bundle.manifest, artifacts=artifacts)
    write_manifest(bundle.folder, manifest)
    return Bundle(bundle.folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` in one step, after reading the text back through the runtime's parser."""
    text = manifest.to_json()
    parse_manifest(text)
    temporary = folder / f".{MANIFEST_NAME}"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / MANIFEST_NAME)


def _write_picture(folder: Path, name: str, frame: Frame) -> FileRef:
    done, data = cv2.imencode(".png", frame)
    assert done, "OpenCV writes any uint8 picture as PNG"
    return FileRef(name, _write(folder / name, data.tobytes()))


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
