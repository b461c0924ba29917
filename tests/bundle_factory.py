"""Small bundles and frame graphs for tests: nearest-neighbour upscaling, whose right answer is two lines of numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper

from runtime.frames import Frame, Frames, SizeRule
from runtime.manifest import Artifact, FileRef, Geometry, Golden, Limits, Manifest, Port, Weights, parse_manifest

OPSET, IR_VERSION = 17, 8


def upscale(frames: Frames, scale: int = 2) -> Frames:
    """What the graph of :func:`upscale_model` computes, for ``uint8 (N, H, W, 3)``."""
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def random_frames(*shape: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def model_of(nodes: Sequence[onnx.NodeProto], scale: int = 2, **initializers: Any) -> bytes:
    """An ONNX file from ``frame`` to ``image``, both ``uint8 (n, h, w, 3)``, around the given nodes."""
    size: list[Any] = ["n", "h", "w", 3]
    scaled: list[Any] = size if scale == 1 else ["n", "sh", "sw", 3]
    graph = helper.make_graph(
        list(nodes),
        "frame_graph",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, size)],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, scaled)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def upscale_model(scale: int = 2, brightness: float = 0.0) -> bytes:
    """Nearest-neighbour upscaling in the form of a real frame graph: Cast, Transpose, ..., Clip, Round, Cast."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Resize",
            ["planes", "", "scales"],
            ["large"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Add", ["large", "brightness"], ["lighter"]),
        helper.make_node("Transpose", ["lighter"], ["pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Clip", ["pixels", "low", "high"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8),
    ]
    return model_of(
        nodes,
        scale,
        scales=np.array([1, 1, scale, scale], np.float32),
        brightness=np.float32(brightness),
        low=np.float32(0),
        high=np.float32(255),
    )


SECOND = Port("negative", "image", "uint8", ("n", "sh", "sw", 3))


def with_negative(model: bytes, gives: str = "image") -> bytes:
    """``model`` with a second image ``SECOND``: the first one's negative, 255 minus each value."""
    changed = onnx.load_model_from_string(model)
    cast = next(node for node in changed.graph.node if gives in node.output)
    changed.graph.node.extend(
        [
            helper.make_node("Sub", ["white", cast.input[0]], ["inverted"]),
            helper.make_node("Cast", ["inverted"], [SECOND.name], to=TensorProto.UINT8),
        ]
    )
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(255), "white"))
    size = ["n", "sh", "sw", 3]
    changed.graph.output.insert(1, helper.make_tensor_value_info(SECOND.name, TensorProto.UINT8, size))
    onnx.checker.check_model(changed)
    data: bytes = changed.SerializeToString()
    return data


def add_negative(folder: Path) -> Path:
    """Give a bundle of this module the second image ``SECOND``. Returns the folder."""
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    artifacts = {}
    for variant, artifact in manifest.artifacts.items():
        file = add_file(folder, artifact.file, with_negative((folder / artifact.file).read_bytes()))
        artifacts[variant] = replace(artifact, sha256=file.sha256)
    write_parity(folder, artifacts)
    first, *states = manifest.outputs
    write_manifest(folder, replace(manifest, outputs=(first, SECOND, *states), artifacts=artifacts))
    return folder


STATES = (
    Port("previous", "state", "uint8", ("n", "h", "w", 3), source="frame", initial="frame"),
    Port("hidden", "state", "float32", ("n", 3, "h", "w"), source="next_hidden", initial="zeros"),
    Port("count", "state", "int64", (1,), source="next_count", initial="zeros"),
)
STATE_RESULTS = (
    Port("next_hidden", "state", "float32", ("n", 3, "h", "w")),
    Port("next_count", "state", "int64", (1,)),
)


def recurrent(frames: Frames, scale: int = 2) -> Frames:
    """What the graph of :func:`recurrent_model` makes of consecutive ``uint8 (T, N, H, W, 3)``, from the first step.

    Every output depends on all frames before it and on their order; all values are whole numbers, so it is exact.
    """
    hidden, previous, outputs = np.zeros(frames.shape[1:]), frames[0], []
    for count, frame in enumerate(frames):
        hidden = (hidden * 3 + frame) % 251
        outputs.append(((hidden + 2.0 * previous + count) % 256).astype(np.uint8))
        previous = frame
    return np.stack([upscale(output, scale) for output in outputs])


def recurrent_model(scale: int = 2, hidden_repeats: int = 1, hidden_type: int = TensorProto.FLOAT) -> bytes:
    """A frame graph with three states: the frame before, a float32 plane for each colour, and an int64 counter.

    ``hidden_repeats`` (of the planes in the output) and ``hidden_type`` make a graph that is not what ``STATES`` says.
    """
    node = helper.make_node
    floats = [
        nodes
        for name in ("frame", "previous")
        for nodes in (
            node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
            node("Transpose", [f"{name}_float"], [f"{name}_planes"], perm=[0, 3, 1, 2]),
        )
    ]
    nodes = [
        *floats,
        node("Cast", ["hidden"], ["hidden_float"], to=TensorProto.FLOAT),
        node("Mul", ["hidden_float", "three"], ["tripled"]),
        node("Add", ["tripled", "frame_planes"], ["sum"]),
        node("Mod", ["sum", "prime"], ["hidden_now"], fmod=1),
        node("Cast", ["hidden_now"], ["hidden_cast"], to=hidden_type),
        node("Concat", ["hidden_cast"] * hidden_repeats, ["next_hidden"], axis=1),
        node("Add", ["count", "one"], ["next_count"]),
        node("Cast", ["count"], ["count_float"], to=TensorProto.FLOAT),
        node("Mul", ["previous_planes", "two"], ["doubled"]),
        node("Add", ["hidden_now", "doubled"], ["both"]),
        node("Add", ["both", "count_float"], ["all"]),
        node("Mod", ["all", "byte"], ["values"], fmod=1),
        node(
            "Resize",
            ["values", "", "scales"],
            ["large"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("Transpose", ["large"], ["pixels"], perm=[0, 2, 3, 1]),
        node("Round", ["pixels"], ["rounded"]),
        node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8),
    ]
    constants = {
        "three": np.float32(3),
        "prime": np.float32(251),
        "two": np.float32(2),
        "byte": np.float32(256),
        "one": np.array([1], np.int64),
        "scales": np.array([1, 1, scale, scale], np.float32),
    }
    size: list[Any] = ["n", "h", "w", 3]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [
            value("frame", TensorProto.UINT8, size),
            value("previous", TensorProto.UINT8, size),
            value("hidden", hidden_type, ["n", 3, "h", "w"]),
            value("count", TensorProto.INT64, [1]),
        ],
        [
            value("image", TensorProto.UINT8, ["n", "sh", "sw", 3]),
            value("next_hidden", hidden_type, ["n", 3 * hidden_repeats, "h", "w"]),
            value("next_count", TensorProto.INT64, [1]),
        ],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def png(frame: Frame) -> bytes:
    done, data = cv2.imencode(".png", frame)
    assert done
    return data.tobytes()


def add_file(folder: Path, name: str, data: bytes) -> FileRef:
    """Write a file of the bundle; returns what the manifest says about it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return FileRef(name, sha256(data))


def small_manifest(
    artifacts: Mapping[str, Artifact],
    *,
    name: str = "tiny-x2",
    scale: int = 2,
    limits: Mapping[str, Limits] | None = None,
    golden: Sequence[Golden] = (),
    states: bool = False,
) -> Manifest:
    """The manifest of a nearest-neighbour upscaler that takes any size, with ``STATES`` or without."""
    return Manifest(
        name=name,
        task="super-resolution",
        generator="nearest",
        weights=Weights(sha256(b"no weights"), "Apache-2.0", "nothing"),
        inputs=(Port("frame", "frame", "uint8", ("n", "h", "w", 3)), *(STATES if states else ())),
        outputs=(Port("image", "image", "uint8", ("n", "sh", "sw", 3)), *(STATE_RESULTS if states else ())),
        geometry=Geometry(scale, SizeRule(), halo=1, tileable=not states, fixed_size=None),
        artifacts=artifacts,
        limits=dict.fromkeys((*artifacts, "bf16"), Limits(max_abs=0, changed=0.0)) if limits is None else limits,
        golden=tuple(golden),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def write_parity(folder: Path, artifacts: Mapping[str, Artifact]) -> None:
    """A ``parity.json`` that says: these very files were measured."""
    results = [{"variant": variant, "sha256": artifact.sha256} for variant, artifact in artifacts.items()]
    (folder / "parity.json").write_text(json.dumps({"format": 1, "results": results}), encoding="utf-8")


def write_recurrent_bundle(folder: Path, *, golden_frames: int = 4) -> Path:
    """Write a complete bundle around :func:`recurrent_model`; its golden frames are one run. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = add_file(folder, "model.fp32.onnx", recurrent_model())
    artifacts = {"fp32": Artifact(file.file, file.sha256)}
    frames = random_frames(max(1, golden_frames), 1, 8, 12, 3)
    golden = [
        Golden(
            add_file(folder, f"golden/{index}.input.png", png(frame[0])),
            add_file(folder, f"golden/{index}.output.png", png(output[0])),
        )
        for index, (frame, output) in enumerate(zip(frames, recurrent(frames), strict=True))
    ]
    write_parity(folder, artifacts)
    limits = {"fp32": Limits(max_abs=0, changed=0.0)}
    manifest = small_manifest(artifacts, name="tiny-rrn", limits=limits, golden=golden[:golden_frames], states=True)
    write_manifest(folder, manifest)
    return folder


def write_small_bundle(
    folder: Path,
    *,
    name: str = "tiny-x2",
    scale: int = 2,
    models: Mapping[str, bytes] | None = None,
    limits: Mapping[str, Limits] | None = None,
    golden_frames: int = 2,
    parity: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> Path:
    """Write a complete bundle into ``folder`` (made if need be) and return the folder.

    Args:
        models: variant to ONNX file; default: an fp32 nearest-neighbour upscaler.
        limits: default: every variant must be exact, in bf16 too (which holds whole numbers up to 256).
        golden_frames: how many pairs of frame and right answer, of 8x12 pixels.
        parity: variant to engine to figures, for the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = {}
    for variant, model in (models or {"fp32": upscale_model(scale)}).items():
        file = add_file(folder, f"model.{variant}.onnx", model)
        artifacts[variant] = Artifact(file.file, file.sha256, parity=(parity or {}).get(variant, {}))
    golden = []
    for index in range(golden_frames):
        frame = random_frames(8, 12, 3, seed=index)
        golden.append(
            Golden(
                add_file(folder, f"golden/{index}.input.png", png(frame)),
                add_file(folder, f"golden/{index}.output.png", png(upscale(frame[None], scale)[0])),
            )
        )
    write_parity(folder, artifacts)
    write_manifest(folder, small_manifest(artifacts, name=name, scale=scale, limits=limits, golden=golden))
    return folder
