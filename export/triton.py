"""A model repository for NVIDIA's Triton Inference Server, which serves a bundle to many streams.

What the fields of ``config.pbtxt`` mean is said by Triton's ``model_config.proto`` and by its documents on model
configuration and implicit state; what the server and its ONNX Runtime backend refuse was read in their sources
(triton-inference-server/core, onnxruntime_backend and tensorrt_backend of June and July 2026).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calib.graph import Names, checked
from export.pbtxt import Message, Word, text_of
from runtime.bundle import Bundle
from runtime.errors import UsageError
from runtime.folder import new_folder
from runtime.manifest import Manifest, Port, free_sizes
from runtime.sessions.codes import code_ports
from runtime.sessions.recurrent import recurrence_of

CONFIG_NAME = "config.pbtxt"
TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64"}
QUEUE_DELAY = 2000  # microseconds that a frame may wait for others to fill a batch: a tenth of a frame at 50 fps
IDLE = 10_000_000  # microseconds without a frame after which the server forgets a stream's states
STREAMS = 64  # streams whose states one instance keeps at a time
USUAL_BATCH, MAX_BATCH = 8, 1024


@dataclass(frozen=True)
class TritonConfig:
    """What a server shall be told about a bundle.

    ``folder`` is the model repository. ``batch`` is the most frames that are computed at once; None is 8, and 1 for an
    engine, which takes no more than it was built for. ``size`` (height, width) makes a model of that one frame size;
    without it, frames of any size that the bundle takes may come. ``plan`` is a TensorRT engine of the bundle that was
    built for the server's GPU, which is served instead of the ONNX file.
    """

    folder: Path
    batch: int | None = None
    size: tuple[int, int] | None = None
    plan: Path | None = None

    def check(self, name: str, *, force: bool) -> None:
        """Raise :class:`UsageError` for what can be told to be wrong before there is a bundle called ``name``."""
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise UsageError(f"a Triton batch has 1 to {MAX_BATCH} frames, not {self.batch}")
        if self.plan is not None and not self.plan.is_file():
            raise UsageError(f"{self.plan}: no such TensorRT engine")
        target = self.folder / name
        if not target.exists():
            return
        if not force:
            raise UsageError(f"{target} exists: add --force to replace it")
        if not (target / CONFIG_NAME).is_file():
            raise UsageError(f"{target} exists and is no Triton model, so it is not replaced: choose another folder")


def write_triton(bundle: Bundle, config: TritonConfig, *, force: bool = False) -> Path:
    """Write the bundle into a model repository, whole or not at all: its configuration and version 1 of the model.

    The ONNX Runtime backend runs the fp16 variant, or fp32 where there is no other, with TensorRT as its accelerator; a
    plan is run by the TensorRT backend. Frames and images are ``uint8``, the first dimension of the graph is the batch.
    Codes are plain inputs, and the configuration's ``parameters`` hold their defaults. States stay in the server.

    Returns the folder of the model. Raises :class:`UsageError` for a bundle or a size that cannot be served like this.
    """
    name = bundle.manifest.name
    config.check(name, force=force)
    manifest = _of_size(bundle.manifest, config.size)
    recurrence_of(manifest), code_ports(manifest)  # what the manifest does not say, nobody can serve
    states: Sequence[_State] = ()
    if config.plan is not None:
        if manifest.states:
            raise UsageError(f"{name} has states, which begin anew in a graph of Triton's own: leave the engine out")
        file, model = "model.plan", config.plan.read_bytes()
        engine: Message = {"platform": "tensorrt_plan"}
    else:
        variant = next((each for each in ("fp16", "fp32") if each in manifest.artifacts), None)
        if variant is None:
            raise UsageError(f"{name} has neither an fp16 nor an fp32 variant, only {', '.join(manifest.artifacts)}")
        file, (model, states) = "model.onnx", _served(bundle.read_model(variant), manifest)
        engine = {"backend": "onnxruntime", "optimization": {"execution_accelerators": _tensorrt(name, variant)}}
    shape = config.size or _golden_size(bundle)
    batch = config.batch or (USUAL_BATCH if config.plan is None else 1)
    content = {**_configuration(manifest, batch, states, shape), **engine, "default_model_filename": file}
    target = config.folder / name
    with new_folder(target) as folder:
        (folder / CONFIG_NAME).write_text(text_of(content), encoding="ascii")
        (folder / "1").mkdir()
        (folder / "1" / file).write_bytes(model)
    return target


# --- the configuration ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """A state as the server sees it: the model's input and output, and the input that tells when a stream begins."""

    port: Port
    input: str
    output: str
    start: str


def _configuration(manifest: Manifest, batch: int, states: Sequence[_State], shape: tuple[int, int] | None) -> Message:
    batched = _batched(manifest)
    if not batched:
        batch = 0  # Triton's word for a model whose dimensions are all its own
    elif any(isinstance(side, str) for state in states for side in state.port.shape[1:]):
        batch = 1  # the server does not compare the sizes of states before it puts them into one batch
    inputs = [port for port in manifest.inputs if port.role != "state"]
    content: dict[str, Any] = {
        "name": manifest.name,
        "max_batch_size": batch,
        "input": [_port(port, batched) for port in inputs],
        "output": [_port(port, batched) for port in manifest.images],
        "instance_group": [{"count": 1, "kind": Word("KIND_GPU")}],
    }
    preferred = sorted({batch, (batch + 1) // 2} - {0, 1})
    waiting: Message = (
        {"preferred_batch_size": preferred, "max_queue_delay_microseconds": QUEUE_DELAY} if preferred else {}
    )
    if states:
        content["sequence_batching"] = _sequences(states, batched, waiting)
    elif waiting:
        content["dynamic_batching"] = waiting
    # a warm-up reaches the model without passing the sequence batcher, which alone has states for it
    if shape is not None and not states:
        content["model_warmup"] = [_warm_up(inputs, batched, count, shape) for count in sorted({1, max(1, batch)})]
    content["parameters"] = [
        _entry(f"genedge.code.{port.name}.default", {"string_value": json.dumps(list(port.code.default))})
        for port in manifest.codes
        if port.code is not None
    ]
    return content


def _port(port: Port, batched: bool) -> Message:
    return {"name": port.name, "data_type": Word(TYPES[port.dtype]), "dims": _dims(port, batched)}


def _dims(port: Port, batched: bool, free: int = -1) -> list[int]:
    return [side if isinstance(side, int) else free for side in port.shape[1 if batched else 0 :]]


def _sequences(states: Sequence[_State], batched: bool, waiting: Message) -> Message:
    """One stream is one sequence. Of those that wait, the oldest frames are taken, so streams share an instance."""
    start = {"kind": Word("CONTROL_SEQUENCE_START"), "bool_false_true": [False, True]}
    return {
        "max_sequence_idle_microseconds": IDLE,
        "oldest": {"max_candidate_sequences": STREAMS, **waiting},
        "control_input": [{"name": states[0].start, "control": [start]}],
        "state": [
            {
                "input_name": state.input,
                "output_name": state.output,
                "data_type": Word(TYPES[state.port.dtype]),
                "dims": _dims(state.port, batched),
                # what a first step gets; the graph puts zeros of the frame's size, or the frame, in its place
                "initial_state": [
                    {
                        "name": f"{state.port.name} at first",
                        "data_type": Word(TYPES[state.port.dtype]),
                        "dims": _dims(state.port, batched, free=1),
                        "zero_data": True,
                    }
                ],
            }
            for state in states
        ],
    }


def _tensorrt(name: str, variant: str) -> Message:
    """The accelerator's options are ONNX Runtime's. Its engines are kept in a folder of one level, since it makes no
    more than one, and TensorRT before 11 needs to be told that there is float16 in the graph."""
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": f"/tmp/{name}-engines",
        "trt_timing_cache_enable": "1",
        **({"precision_mode": "FP16"} if variant == "fp16" else {}),
    }
    parameters = [_entry(key, value) for key, value in options.items()]
    return {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": parameters}]}


def _warm_up(inputs: Sequence[Port], batched: bool, count: int, shape: tuple[int, int]) -> Message:
    """Black frames of ``shape``, so that engines are built before the first frame comes."""
    frame = next(port for port in inputs if port.role == "frame")
    sizes: dict[int | str, int] = dict(zip(frame.shape, (1, *shape, 3), strict=True))
    entries = [
        _entry(
            port.name,
            {
                "data_type": Word(TYPES[port.dtype]),
                "dims": [side if isinstance(side, int) else sizes[side] for side in port.shape[1 if batched else 0 :]],
                "zero_data": True,
            },
        )
        for port in inputs
    ]
    return {"name": f"{count} of {shape[0]}x{shape[1]}", "batch_size": count, "inputs": entries}


def _entry(key: str, value: str | Message) -> Message:
    """An entry of a map."""
    return {"key": key, "value": value}


def _batched(manifest: Manifest) -> bool:
    """Whether every port begins with a free dimension, the batch, as Triton needs it."""
    return all(isinstance(port.shape[0], str) for port in (*manifest.inputs, *manifest.outputs))


def _of_size(manifest: Manifest, size: tuple[int, int] | None) -> Manifest:
    """``manifest`` with ports of frames of ``size`` (height, width) only; their number stays free."""
    image = manifest.image
    if size is None:
        return manifest
    geometry = manifest.geometry
    if geometry.fixed_size is not None:
        if geometry.fixed_size != size:
            raise UsageError(
                f"{manifest.name} takes frames of {geometry.fixed_size[0]}x{geometry.fixed_size[1]} only, "
                f"not of {size[0]}x{size[1]}"
            )
        return manifest
    if not geometry.size_rule.allows(*size):
        height, width = geometry.size_rule.padded(*size)
        raise UsageError(
            f"{manifest.name} takes no {size[0]}x{size[1]} frames for Triton; the next size is {height}x{width}"
        )
    sizes = free_sizes(manifest.frame, image, (1, *size, 3), geometry.scale)
    sizes.pop(str(manifest.frame.shape[0]), None)

    def pinned(port: Port) -> Port:
        return replace(
            port, shape=tuple(sizes.get(side, side) if isinstance(side, str) else side for side in port.shape)
        )

    return replace(
        manifest,
        inputs=tuple(pinned(port) for port in manifest.inputs),
        outputs=tuple(pinned(port) for port in manifest.outputs),
    )


def _golden_size(bundle: Bundle) -> tuple[int, int] | None:
    """(height, width) of the first golden frame, or of the only size there is; None without."""
    if bundle.manifest.geometry.fixed_size is not None:
        return bundle.manifest.geometry.fixed_size
    for frame, _ in bundle.golden_frames():
        return int(frame.shape[0]), int(frame.shape[1])
    return None


# --- the graph --------------------------------------------------------------------------------------------------------


def _served(data: bytes, manifest: Manifest) -> tuple[bytes, list[_State]]:
    """The model with the ports of ``manifest``, and its states in the form that the server needs.

    The server does not know a stream's frame size when it begins, nor that a state can be the frame before. So the
    graph gets an input that is true in a stream's first step, puts the initial value in the state's place then, and
    gives every state as an output.
    """
    if not manifest.states and all(isinstance(side, str) for side in manifest.frame.shape[:3]):
        return data, []
    model = onnx.load_model_from_string(data)
    graph = model.graph
    described = {port.name: port for port in (*manifest.inputs, *manifest.outputs)}
    for value in (*graph.input, *graph.output):
        for dim, side in zip(value.type.tensor_type.shape.dim, described[value.name].shape, strict=True):
            if isinstance(side, int):
                dim.dim_value = side
    if not manifest.states:
        return checked(model).SerializeToString(), []
    names, batched = Names(graph), _batched(manifest)
    start = names.fresh("START")
    nodes = [helper.make_node("Shape", [manifest.frame.name], [names.fresh("frame_shape")])]
    states = []
    for port in manifest.states:
        value = next(value for value in graph.input if value.name == port.name)
        value.name = names.fresh(f"{port.name}_kept")
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if axis and dim.dim_param:  # it is 1 in the first step, and TensorRT wants equal names to be equal sizes
                dim.dim_param = f"{value.name}_side{axis}"
        added, initial = _initial_value(port, manifest, nodes[0].output[0], names)
        begins = names.fresh(f"{port.name}_begins")
        nodes += added
        nodes += [
            _constant(begins + "_shape", np.array([-1, *[1] * (len(port.shape) - 1)], np.int64)),
            helper.make_node("Reshape", [start, begins + "_shape"], [begins]),
            helper.make_node("Where", [begins, initial, value.name], [port.name]),
        ]
        output = port.source or ""
        if output == manifest.frame.name:
            output = names.fresh(f"next_{port.name}")
            nodes.append(helper.make_node("Identity", [manifest.frame.name], [output]))
            following = onnx.ValueInfoProto()
            following.CopyFrom(next(value for value in graph.input if value.name == manifest.frame.name))
            following.name = output
            graph.output.append(following)
        states.append(_State(port, value.name, output, start))
    sides: list[str | int | None] = [str(manifest.frame.shape[0]), 1] if batched else [1]
    graph.input.append(helper.make_tensor_value_info(start, onnx.TensorProto.BOOL, sides))
    for node in reversed(nodes):
        graph.node.insert(0, node)
    return checked(model).SerializeToString(), states


def _initial_value(port: Port, manifest: Manifest, shape: str, names: Names) -> tuple[list[onnx.NodeProto], str]:
    """Nodes that make what a state holds in the first step, and the tensor's name. ``shape``: that of the frame's."""
    if port.initial == "frame":
        return [], manifest.frame.name
    frame, image, scale = manifest.frame, manifest.image, manifest.geometry.scale
    places: dict[int | str, tuple[int, int]] = {}  # dimension's name -> (axis of the frame, factor)
    if image.shape[1] != image.shape[2]:
        places = {image.shape[axis]: (axis, scale) for axis in (1, 2)}
    places |= {side: (axis, 1) for axis, side in enumerate(frame.shape)}
    nodes, sides = [], []
    for axis, side in enumerate(port.shape):
        base = names.fresh(f"{port.name}_side{axis}")
        sides.append(base)
        if isinstance(side, int):
            nodes.append(_constant(base, np.array([side], np.int64)))
            continue
        place, factor = places[side]
        nodes += [
            _constant(f"{base}_axis", np.array([place], np.int64)),
            _constant(f"{base}_factor", np.array([factor], np.int64)),
            helper.make_node("Gather", [shape, f"{base}_axis"], [f"{base}_of_frame"]),
            helper.make_node("Mul", [f"{base}_of_frame", f"{base}_factor"], [base]),
        ]
    zeros = names.fresh(f"{port.name}_zeros")
    nothing = numpy_helper.from_array(np.zeros(1, port.dtype), "zero")
    nodes += [
        helper.make_node("Concat", sides, [f"{zeros}_shape"], axis=0),
        helper.make_node("ConstantOfShape", [f"{zeros}_shape"], [zeros], value=nothing),
    ]
    return nodes, zeros


def _constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
