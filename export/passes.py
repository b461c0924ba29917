"""Named passes over an ONNX model: model in, new model out. Each one checks what it ensures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from calib.graph import copy_of, copy_tensor, opset_of, replace_nodes, without_unused_initializers
from runtime.errors import GenedgeError

CANONICAL_OPSET = 17  # the newest that TensorRT 8.5 and 8.6 parse
CANONICAL_IR = 8


def without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop doc strings, metadata and recorded shapes. The exporter writes source paths of this machine into them."""
    result = copy_of(model)
    result.ClearField("metadata_props")
    result.doc_string = ""
    graph = result.graph
    graph.doc_string = ""
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        item.ClearField("metadata_props")
    return result


def constants_as_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn Constant nodes into initializers, so that later passes find every constant in one place."""
    result = copy_of(model)
    graph = result.graph
    kept = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            kept.append(node)
            continue
        attribute = node.attribute[0]
        if attribute.name == "value":
            tensor = copy_tensor(attribute.t)
        elif attribute.name in ("value_float", "value_floats"):
            value = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = numpy_helper.from_array(np.array(value, dtype=np.float32))
        elif attribute.name in ("value_int", "value_ints"):
            value = attribute.i if attribute.name == "value_int" else list(attribute.ints)
            tensor = numpy_helper.from_array(np.array(value, dtype=np.int64))
        else:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    replace_nodes(graph, kept)
    return result


def lowered_to_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite an opset 18 model as opset 17, IR 8.

    ONNX's own version converter cannot go down over Pad, Split and Resize, and the exporter asked
    for 17 silently stays at 18. Raises :class:`GenedgeError` for an operator that has no
    equivalent in 17.
    """
    version = opset_of(model)
    if version < CANONICAL_OPSET or version > 18:
        raise GenedgeError(f"the graph has opset {version}; only 17 and 18 can be lowered to {CANONICAL_OPSET}")
    result = copy_of(model)
    if version == 18:
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        known = _Known(constants, _shapes(model))
        for node in result.graph.node:
            _lower_node(node, result.graph, known)
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", CANONICAL_OPSET))
    result.ir_version = CANONICAL_IR
    return without_unused_initializers(result)


@dataclass(frozen=True)
class _Known:
    """What is known about the tensors of the graph before it is rewritten."""

    constants: dict[str, np.ndarray]
    shapes: dict[str, list[int | None]]


def _lower_node(node: NodeProto, graph: onnx.GraphProto, known: _Known) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise GenedgeError(f"the graph uses {node.domain}.{node.op_type}, which is no standard ONNX operator")
    if node.op_type in _LOWERINGS:
        _LOWERINGS[node.op_type](node, graph, known)
        return
    try:
        newer = onnx.defs.get_schema(node.op_type, 18).since_version
    except onnx.defs.SchemaError:
        raise GenedgeError(f"the graph uses {node.op_type}, which is no operator of opset 18") from None
    # Split-like changes are handled above; an operator that is new or changed in 18 and not listed is refused
    if newer > CANONICAL_OPSET and node.op_type not in _SAME_MEANING:
        raise GenedgeError(f"{node.op_type} changed in opset 18 and cannot be written as opset {CANONICAL_OPSET}")


def _constant_input(node: NodeProto, index: int, known: _Known) -> np.ndarray | None:
    if len(node.input) <= index or not node.input[index]:
        return None
    if node.input[index] not in known.constants:
        raise GenedgeError(f"{node.op_type} {node.name}: input {index} is computed, opset 17 needs a constant")
    return known.constants[node.input[index]]


def _lower_pad(node: NodeProto, graph: onnx.GraphProto, known: _Known) -> None:
    axes = _constant_input(node, 3, known)
    if axes is None:
        return
    pads = _constant_input(node, 1, known)
    assert pads is not None
    if node.input[0] not in known.shapes:
        raise GenedgeError(f"Pad {node.name}: opset 17 needs every axis, and the rank of its input is not known")
    rank = len(known.shapes[node.input[0]])
    full = np.zeros(2 * rank, dtype=np.int64)
    for place, axis in enumerate(int(value) % rank for value in axes):
        full[axis], full[axis + rank] = pads[place], pads[place + len(axes)]
    name = f"{node.output[0]}_pads"
    graph.initializer.append(numpy_helper.from_array(full, name))
    node.input[1] = name
    del node.input[3:]
    while node.input and not node.input[-1]:
        del node.input[-1]


def _lower_split(node: NodeProto, graph: onnx.GraphProto, known: _Known) -> None:
    count = next((attribute for attribute in node.attribute if attribute.name == "num_outputs"), None)
    if count is None:
        return
    if len(node.input) < 2 or not node.input[1]:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        shape = known.shapes.get(node.input[0])
        size = shape[axis] if shape else None
        if size is None:
            raise GenedgeError(f"Split {node.name}: opset 17 needs sizes, and the size of axis {axis} is not known")
        part = -(-size // count.i)
        parts = [min(part, size - start) for start in range(0, size, part)]
        name = f"{node.output[0]}_split"
        graph.initializer.append(numpy_helper.from_array(np.array(parts, dtype=np.int64), name))
        del node.input[1:]
        node.input.append(name)
    node.attribute.remove(count)


def _lower_resize(node: NodeProto, graph: onnx.GraphProto, known: _Known) -> None:
    for attribute in list(node.attribute):
        if attribute.name == "antialias" and attribute.i:
            raise GenedgeError(f"Resize {node.name}: antialiasing does not exist in opset 17")
        if attribute.name == "axes":
            raise GenedgeError(f"Resize {node.name}: axes do not exist in opset 17")
        if attribute.name == "keep_aspect_ratio_policy" and attribute.s not in (b"", b"stretch"):
            raise GenedgeError(f"Resize {node.name}: keep_aspect_ratio_policy does not exist in opset 17")
        if attribute.name in ("antialias", "keep_aspect_ratio_policy"):
            node.attribute.remove(attribute)


def _lower_reduce(node: NodeProto, graph: onnx.GraphProto, known: _Known) -> None:
    axes = _constant_input(node, 1, known)
    for attribute in list(node.attribute):
        if attribute.name == "noop_with_empty_axes":
            if attribute.i and (axes is None or not axes.size):
                raise GenedgeError(f"{node.op_type} {node.name}: noop_with_empty_axes does not exist in opset 17")
            node.attribute.remove(attribute)
    if axes is not None:
        node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes]))
        del node.input[1:]


def _shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Dimensions of the tensors whose rank is known; None stands for a free one."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        info.name: [
            dimension.dim_value if dimension.HasField("dim_value") else None
            for dimension in info.type.tensor_type.shape.dim
        ]
        for info in (*graph.value_info, *graph.input, *graph.output)
        if info.type.tensor_type.HasField("shape")
    }


_REDUCTIONS = (
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare",
)  # fmt: skip
_Lowering = Callable[[NodeProto, onnx.GraphProto, _Known], None]
_LOWERINGS: dict[str, _Lowering] = {
    "Pad": _lower_pad,
    "Split": _lower_split,
    "Resize": _lower_resize,
    **dict.fromkeys(_REDUCTIONS, _lower_reduce),
}
# changed in 18 for new types or attributes only: what an opset 17 engine reads means the same
_SAME_MEANING = frozenset({"ScatterElements", "ScatterND"})


def with_dimension_names(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """Rename free dimensions of inputs and outputs; the exporter calls them s53 or ``2*h``."""
    result = copy_of(model)
    for port in (*result.graph.input, *result.graph.output):
        for dimension in port.type.tensor_type.shape.dim:
            if dimension.dim_param in names:
                dimension.dim_param = names[dimension.dim_param]
    return result
