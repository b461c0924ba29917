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

from runtime.codes import Code, numbers_of
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


CODES = (
    Port("style", "code", "float32", ("n", 4), code=Code("one-hot", 4, (0, 1, 0, 0), 0, 1, ("a", "b", "c", "d"))),
    Port("passcode", "code", "float32", ("n", 3), code=Code("bits", 3, (-1, -1, 1), -1, 1)),
    Port("strength", "code", "float32", ("n", 2), code=Code("vector", 2, (5, 6), 0, 100, ("red", "blue"))),
)
CODE_MAP = Port("labels", "code", "float32", ("n", 3, "h", "w"), code=Code("one-hot", 3, (0, 0, 1)))
CODE_WEIGHTS = {"style": (0, 40, 80, 120), "passcode": (1, 2, 4), "strength": (1, 3), "labels": (0, 11, 22)}
CODE_STATES = (Port("hidden", "state", "float32", ("n", 3, "h", "w"), source="next_hidden", initial="zeros"),)
CODE_STATE_RESULTS = (Port("next_hidden", "state", "float32", ("n", 3, "h", "w")),)


def conditional(
    frames: Frames,
    codes: Mapping[str, Any] | None = None,
    ports: Sequence[Port] = CODES,
    hidden: Any = 0,
    scale: int = 2,
) -> Frames:
    """What the graph of :func:`conditional_model` makes of ``uint8 (N, H, W, 3)``; all values are whole numbers.

    ``codes`` has ``(size,)`` or a map's ``(size, H, W)``; where one is missing it is the default.
    """
    added: Any = frames.astype(np.int64) + hidden
    for port in ports:
        assert port.code is not None
        values = np.asarray((codes or {}).get(port.name, port.code.default))
        added = added + np.tensordot(CODE_WEIGHTS[port.name], values, 1)[..., None].astype(np.int64)
    return upscale((added % 256).astype(np.uint8), scale)


def conditional_run(frames: Frames, codes: Sequence[Mapping[str, Any]], ports: Sequence[Port] = CODES) -> Frames:
    """The same of the graph with a state, for consecutive ``uint8 (T, N, H, W, 3)`` and the codes of each step."""
    hidden, outputs = np.zeros(frames.shape[1:], np.int64), []
    for frame, said in zip(frames, codes, strict=True):
        outputs.append(conditional(frame, said, ports, hidden))
        hidden = outputs[-1][:, ::2, ::2].astype(np.int64)
    return np.stack(outputs)


def conditional_model(scale: int = 2, ports: Sequence[Port] = CODES, *, states: bool = False) -> bytes:
    """A frame graph that adds to every pixel what its codes weigh, and where it has a state also its last output."""
    node = helper.make_node
    nodes = [
        node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["sum0"], perm=[0, 3, 1, 2]),
    ]
    constants: dict[str, Any] = {"scales": np.array([1, 1, scale, scale], np.float32), "byte": np.float32(256)}
    value = helper.make_tensor_value_info
    size: list[Any] = ["n", "h", "w", 3]
    inputs = [value("frame", TensorProto.UINT8, size)]
    if states:
        inputs.append(value("hidden", TensorProto.FLOAT, ["n", 3, "h", "w"]))
        nodes.append(node("Add", ["sum0", "hidden"], ["sum_hidden"]))
    last = "sum_hidden" if states else "sum0"
    constants |= {"one": np.array([1], np.int64), "behind": np.array([2, 3], np.int64)}
    for port in ports:
        weights = np.array(CODE_WEIGHTS[port.name], np.float32)
        name = port.name
        inputs.append(value(name, TensorProto.FLOAT, list(port.shape)))
        constants[f"{name}_weights"] = weights[None, :, None, None] if port.is_map else weights[None, :]
        nodes.append(node("Mul", [name, f"{name}_weights"], [f"{name}_weighed"]))
        nodes.append(node("ReduceSum", [f"{name}_weighed", "one"], [f"{name}_total"], keepdims=1))
        total = f"{name}_total"
        if not port.is_map:
            nodes.append(node("Unsqueeze", [total, "behind"], [f"{name}_plane"]))
            total = f"{name}_plane"
        nodes.append(node("Add", [last, total], [f"sum_{name}"]))
        last = f"sum_{name}"
    nodes += [
        node("Add", [last, "byte"], ["positive"]),  # the remainder of a negative number has its sign
        node("Mod", ["positive", "byte"], ["next_hidden" if states else "values"], fmod=1),
        node(
            "Resize",
            ["next_hidden" if states else "values", "", "scales"],
            ["large"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        node("Transpose", ["large"], ["pixels"], perm=[0, 2, 3, 1]),
        node("Round", ["pixels"], ["rounded"]),
        node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8),
    ]
    outputs = [value("image", TensorProto.UINT8, ["n", "sh", "sw", 3])]
    if states:
        outputs.append(value("next_hidden", TensorProto.FLOAT, ["n", 3, "h", "w"]))
    graph = helper.make_graph(
        nodes,
        "conditional",
        inputs,
        outputs,
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
    codes: Sequence[Port] = (),
) -> Manifest:
    """The manifest of a nearest-neighbour upscaler that takes any size, with ``STATES`` and ``codes`` or without."""
    return Manifest(
        name=name,
        task="super-resolution",
        generator="nearest",
        weights=Weights(sha256(b"no weights"), "Apache-2.0", "nothing"),
        inputs=(Port("frame", "frame", "uint8", ("n", "h", "w", 3)), *(STATES if states else ()), *codes),
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


def write_conditional_bundle(
    folder: Path, *, name: str = "tiny-codes", ports: Sequence[Port] = CODES, scale: int = 2, states: bool = False
) -> Path:
    """Write a complete bundle around :func:`conditional_model`; its golden frames have the default codes, and others.

    With ``states`` the golden frames are one run. Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = add_file(folder, "model.fp32.onnx", conditional_model(scale, ports, states=states))
    artifacts = {"fp32": Artifact(file.file, file.sha256)}
    rng = np.random.default_rng(0)
    rules = {port.name: port.code for port in ports if port.code is not None}
    said: list[dict[str, Any]] = [{}, {name: numbers_of(rule.drawn(rng)) for name, rule in rules.items()}, {}]
    frames = random_frames(len(said), 1, 8, 12, 3)
    if states:
        outputs = conditional_run(frames, said, ports)
    else:
        outputs = np.stack([conditional(frame, codes, ports) for frame, codes in zip(frames, said, strict=True)])
    golden = [
        Golden(
            add_file(folder, f"golden/{index}.input.png", png(frame[0])),
            add_file(folder, f"golden/{index}.output.png", png(output[0])),
            codes,
        )
        for index, (frame, output, codes) in enumerate(zip(frames, outputs, said, strict=True))
    ]
    write_parity(folder, artifacts)
    manifest = small_manifest(
        artifacts, name=name, scale=scale, limits={"fp32": Limits(max_abs=0, changed=0.0)}, golden=golden, codes=ports
    )
    if states:
        manifest = replace(
            manifest,
            inputs=(manifest.frame, *CODE_STATES, *ports),
            outputs=(manifest.image, *CODE_STATE_RESULTS),
            geometry=replace(manifest.geometry, tileable=False),
        )
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
