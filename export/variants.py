"""Precision variants, each derived from the canonical float32 graph."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.version_converter
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calib.graph import checked, copy_of, replace_nodes, without_unused_initializers
from export.config import Fp16
from runtime.errors import GenedgeError

#: Operators that lose too much, or overflow, in float16 (sums over a whole picture, coordinates).
FP32_OPERATORS = frozenset(
    {
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "GlobalAveragePool",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL2",
        "GridSample",
    }
)
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
STRONG_OPSET, STRONG_IR = 19, 9  # the first opset whose scales may be float16, and the IR version that came with it
_FP16_MAX = float(np.finfo(np.float16).max)  # 65504


def fp16_from_graph(model: onnx.ModelProto, settings: Fp16 | None = None) -> onnx.ModelProto:
    """Write float16 into the graph itself, as strongly typed TensorRT wants it.

    Float32 stay: the operators in ``FP32_OPERATORS``, what makes the places of a GridSample (see
    :func:`_coordinates`), the nodes that ``settings.keep`` names, nodes with a constant beyond
    float16's range, and everything before the first and after the last weighted operator (scaling,
    anchor, clip and round of 0..255 values, which float16 would round to an eighth of a step). Casts
    are inserted where the two meet; inputs and outputs keep their types.

    Raises:
        GenedgeError: ``settings.keep`` names a node that does not exist, or the graph has subgraphs.
    """
    settings = settings or Fp16()
    model = copy_of(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    graph = model.graph
    if any(
        attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for attribute in _attributes(graph)
    ):
        raise GenedgeError("the float16 variant supports no If or Loop in the graph")
    unknown = set(settings.keep) - {node.name for node in graph.node}
    if unknown:
        raise GenedgeError(f"no node is called {sorted(unknown)[0]}, so it cannot be kept in float32")
    floats = _float_tensors(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    inside = _between_weights(graph) - _coordinates(graph)
    half = [
        index in inside
        and node.op_type not in FP32_OPERATORS
        and node.name not in settings.keep
        and not any(name in constants and _beyond_float16(constants[name]) for name in node.input)
        for index, node in enumerate(graph.node)
    ]
    _pairs_as_their_readers(graph, half, constants)
    half_names = {name for index, node in enumerate(graph.node) if half[index] for name in node.output}
    fixed = {port.name for port in graph.output}
    nodes: list[NodeProto] = []
    casts: dict[tuple[str, int], str] = {}
    added: dict[str, TensorProto] = {}

    def converted(name: str, to: int) -> str:
        """The tensor ``name`` as type ``to``, with a Cast node or a converted constant where needed."""
        suffix = "fp16" if to == TensorProto.FLOAT16 else "fp32"
        if name in constants:
            if to == TensorProto.FLOAT:
                return name
            if name not in added:
                values = numpy_helper.to_array(constants[name]).astype(np.float16)
                added[name] = numpy_helper.from_array(values, f"{name}.{suffix}")
            return f"{name}.{suffix}"
        if to == TensorProto.FLOAT16 and name in half_names and name in fixed:
            return f"{name}.half"  # the output itself is a Cast back to float32
        if (name in half_names and name not in fixed) == (to == TensorProto.FLOAT16):
            return name
        if (name, to) not in casts:
            casts[name, to] = f"{name}.{suffix}"
            nodes.append(helper.make_node("Cast", [name], [casts[name, to]], name=f"{name}.to_{suffix}", to=to))
        return casts[name, to]

    for index, node in enumerate(graph.node):
        to = TensorProto.FLOAT16 if half[index] else TensorProto.FLOAT
        for place, name in enumerate(node.input):
            scales = node.op_type == "Resize" and place in (1, 2)  # region and scales are float32 by definition
            if name in floats and not scales:
                node.input[place] = converted(name, to)
        if half[index] and node.op_type == "Cast":
            attribute = next(attribute for attribute in node.attribute if attribute.name == "to")
            if attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        outputs = list(node.output)
        for place, name in enumerate(outputs):
            if half[index] and name in fixed and name in floats:
                node.output[place] = f"{name}.half"
        nodes.append(node)
        for name, current in zip(outputs, node.output, strict=True):
            if name != current:
                nodes.append(helper.make_node("Cast", [current], [name], name=f"{name}.to_fp32", to=TensorProto.FLOAT))
    replace_nodes(graph, nodes)
    graph.initializer.extend(added.values())
    graph.ClearField("value_info")
    return checked(without_unused_initializers(model))


def strong_from_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """The ``int8-strong`` variant of a graph in the TensorRT form: opset 19, where scales may be float16.

    Strongly typed TensorRT computes a layer in the type of its pairs' scales, and a Cast between a pair and its layer
    would keep the two from becoming one INT8 kernel. So pairs take the type of the layer that reads them. Layers whose
    scales float16 cannot hold precisely keep float32 pairs.

    Raises:
        GenedgeError: ONNX's converter cannot lift the graph, or as :func:`fp16_from_graph`.
    """
    try:
        lifted = onnx.version_converter.convert_version(model, STRONG_OPSET)
    except Exception as error:  # the converter raises RuntimeError and its own classes
        first = str(error).splitlines()[0]
        raise GenedgeError(f"the int8-strong variant needs opset {STRONG_OPSET}: {first}") from None
    lifted.ir_version = STRONG_IR
    return fp16_from_graph(lifted)


def _pairs_as_their_readers(graph: onnx.GraphProto, half: list[bool], constants: dict[str, TensorProto]) -> None:
    """Give QuantizeLinear and DequantizeLinear the type of the nodes that read them, and both types their reasons."""
    readers: dict[str, list[int]] = {}
    producer: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        producer.update(dict.fromkeys(node.output, index))
        for name in node.input:
            readers.setdefault(name, []).append(index)
    imprecise = {
        index
        for index, node in enumerate(graph.node)
        if node.op_type in _PAIR and node.input[1] in constants and _imprecise_in_float16(constants[node.input[1]])
    }
    for index in imprecise:
        if graph.node[index].op_type == "DequantizeLinear":  # its layer, and so the layer's other pair, stay float32
            for reader in readers.get(graph.node[index].output[0], []):
                half[reader] = False
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if node.op_type in _PAIR:
            following = readers.get(node.output[0], [])
            half[index] = index not in imprecise and bool(following) and any(half[reader] for reader in following)


def _attributes(graph: onnx.GraphProto) -> Iterable[onnx.AttributeProto]:
    return (attribute for node in graph.node for attribute in node.attribute)


def _float_tensors(graph: onnx.GraphProto) -> set[str]:
    typed = (*graph.input, *graph.output, *graph.value_info)
    names = {info.name for info in typed if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _between_weights(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes that have a weighted operator at or before them and one at or after them."""
    after_one: set[str] = set()
    behind = set()
    for index, node in enumerate(graph.node):
        if node.op_type in _WEIGHTED or any(name in after_one for name in node.input):
            behind.add(index)
            after_one.update(node.output)
    needed: set[str] = set()
    ahead = set()
    for index in range(len(graph.node) - 1, -1, -1):
        node = graph.node[index]
        if node.op_type in _WEIGHTED or any(name in needed for name in node.output):
            ahead.add(index)
            needed.update(node.input)
    return behind & ahead


def _coordinates(graph: onnx.GraphProto) -> set[int]:
    """Indices of the nodes between the layers that estimate a motion and the GridSample that it leads.

    Near 1, float16 has 1024 steps: less than one for each pixel of a large picture. A layer that reads no more than two
    channels only enlarges the motion, and belongs to it.
    """
    producer = {name: index for index, node in enumerate(graph.node) for name in node.output}
    inputs = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 4}
    groups = {
        index: next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        for index, node in enumerate(graph.node)
        if node.op_type == "Conv"
    }
    found: set[int] = set()
    waiting = [node.input[1] for node in graph.node if node.op_type == "GridSample"]
    while waiting:
        index = producer.get(waiting.pop())
        if index is None or index in found:
            continue
        node = graph.node[index]
        if node.op_type in _WEIGHTED and inputs.get(node.input[1], 3) * groups.get(index, 1) > 2:
            continue
        found.add(index)
        waiting += node.input
    return found


def _beyond_float16(tensor: TensorProto) -> bool:
    """Whether a constant overflows in float16, or vanishes altogether (an epsilon under a division)."""
    values = np.abs(numpy_helper.to_array(tensor))
    largest = float(np.max(values)) if values.size else 0.0
    return largest > _FP16_MAX or (largest > 0 and float(np.float16(largest)) == 0)


def _imprecise_in_float16(tensor: TensorProto) -> bool:
    """Whether float16 changes a scale by more than a thousandth: it has too few bits left for tiny numbers."""
    values = numpy_helper.to_array(tensor).astype(np.float64)
    return bool(np.any(np.abs(values.astype(np.float16) - values) > 1e-3 * np.abs(values)))
