"""ONNX graphs of a few nodes, and ONNX Runtime to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

UINT8, FLOAT = TensorProto.UINT8, TensorProto.FLOAT
FRAME = {"frame": (UINT8, (1, "h", "w", 3))}


def node(op: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    """``inputs`` are separated by blanks, ``-`` stands for one that is left out. The node is called like its output."""
    read = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, read, output.split(), name=attributes.pop("name", output), **attributes)


def model_of(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any],
    inputs: Mapping[str, tuple[int, Sequence[int | str] | None]],
    outputs: Mapping[str, int] | Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """A checked model of opset 17. Outputs are float32 where no type is given."""
    types = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs, FLOAT)
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for port, inferred in zip(model.graph.output, onnx.shape_inference.infer_shapes(model).graph.output, strict=True):
        port.CopyFrom(inferred)
    onnx.checker.check_model(model, full_check=True)
    return model


def planes_of(gain: float = 1.0, offset: float = 0.0) -> list[NodeProto]:
    """Nodes from ``frame`` to ``planes``: float32 (1, 3, H, W), ``gain * pixel + offset``. They read
    :func:`pixel_constants`.
    """
    nodes = [node("Cast", "frame", "cast", to=FLOAT)]
    last = "cast"
    if gain != 1:
        nodes.append(node("Mul", f"{last} gain", "scaled"))
        last = "scaled"
    if offset:
        nodes.append(node("Add", f"{last} offset", "moved"))
        last = "moved"
    return [*nodes, node("Transpose", last, "planes", perm=[0, 3, 1, 2])]


def pixel_constants(gain: float = 1.0, offset: float = 0.0) -> dict[str, Any]:
    numbers = {"gain": np.float32(gain)} if gain != 1 else {}
    return numbers | ({"offset": np.float32(offset)} if offset else {})


def random(*shape: int, seed: int = 0, reach: float = 1.0) -> NDArray[np.float32]:
    """Weights for a test of structure."""
    return (np.random.default_rng(seed).uniform(-reach, reach, shape)).astype(np.float32)


def run(model: onnx.ModelProto, *, plain: bool = False, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    """All outputs. ``plain`` runs every node as it is written, without ONNX Runtime's fusions."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: list[NDArray[Any]] = session.run(None, inputs)
    return result


def optimised(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of a model on this CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [made.op_type for made in model.graph.node]


def constants_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def makers(model: onnx.ModelProto) -> dict[str, NodeProto]:
    """The node that makes each tensor."""
    return {name: made for made in model.graph.node for name in made.output}
