"""Which nodes of a frame graph can be INT8, and what stands around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx
from onnx import NodeProto

from calib.graph import Index, attribute
from runtime.errors import GenedgeError

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu")
OUTPUT = "output"  # stands among the readers of a tensor that leaves the graph


@dataclass(frozen=True)
class Layer:
    """A weighted node whose weights are constant.

    ``source`` is the tensor that is quantised for it: its input, or the tensor before a padding that only moves values.
    ``result`` is its output, ``activated`` the output of the activation behind it (``result`` where there is none).
    ``weight_axis`` is the axis of the output channels, None where only one scale for all weights is allowed.
    ``affine`` is (gain, offset) where ``source`` is ``gain * pixel + offset`` of the uint8 frame, else None.
    ``readers`` are the operators that read ``activated``, each once, and ``OUTPUT`` where it is an output of the graph.
    """

    name: str
    op: str
    source: str
    weight: str
    bias: str | None
    result: str
    activation: str | None
    activated: str
    weight_axis: int | None
    channels_in: int
    channels_out: int
    affine: tuple[float, float] | None = None
    readers: tuple[str, ...] = ()


def layers_of(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """All layers of a graph, in its order. Nodes without a name or without constant weights are none.

    Raises:
        GenedgeError: two layers have the same name, so nothing that names one is clear.
    """
    index = Index(model.graph)
    frame = {port.name for port in model.graph.input if port.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    found = (_layer(node, index, frame) for node in model.graph.node if node.op_type in WEIGHTED and node.name)
    layers = {}
    for layer in found:
        if layer is None:
            continue
        if layer.name in layers:
            raise GenedgeError(f"two layers of the graph are called {layer.name}")
        layers[layer.name] = layer
    return tuple(layers.values())


def _layer(node: NodeProto, index: Index, frame: set[str]) -> Layer | None:
    weight = index.constant(node.input[1])
    if weight is None or weight.dtype != np.float32 or weight.ndim < 2 or index.is_constant(node.input[0]):
        return None
    axis, channels_in, channels_out = _channels(node, weight)
    source = source_of(node, index)
    result = activated = node.output[0]
    activation = None
    reader = index.only_reader(result)
    if reader is not None and reader.op_type in ACTIVATIONS and list(reader.input).index(result) == 0:
        activation, activated = reader.op_type, reader.output[0]
    readers = [reader.op_type for reader in index.readers.get(activated, [])]
    return Layer(
        name=node.name,
        op=node.op_type,
        source=source,
        weight=node.input[1],
        bias=node.input[2] if len(node.input) > 2 and node.input[2] else None,
        result=result,
        activation=activation,
        activated=activated,
        weight_axis=axis,
        channels_in=channels_in,
        channels_out=channels_out,
        affine=_affine(source, index, frame),
        readers=tuple(dict.fromkeys([*readers, *([OUTPUT] if activated in index.outputs else [])])),
    )


def _channels(node: NodeProto, weight: np.ndarray) -> tuple[int | None, int, int]:
    group = cast(int, attribute(node, "group", 1))
    if node.op_type == "Conv":
        return 0, weight.shape[1] * group, weight.shape[0]
    if node.op_type == "ConvTranspose":  # (in, out / group, ...): with groups, a channel of axis 1 is several outputs
        return (1 if group == 1 else None), weight.shape[0], weight.shape[1] * group
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return 0, weight.shape[1], weight.shape[0]
    if weight.ndim != 2:
        return None, weight.shape[-2], weight.shape[-1]
    return 1, weight.shape[0], weight.shape[1]


def moves_values_only(node: NodeProto, index: Index) -> bool:
    """Whether a Pad copies values or adds zeros, so that quantising before it is quantising behind it."""
    if node.op_type != "Pad":
        return False
    if attribute(node, "mode", "constant") in ("reflect", "edge", "wrap"):
        return True
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = index.constant(node.input[2])
    return value is not None and not value.any()


def source_of(node: NodeProto, index: Index) -> str:
    """The tensor to quantise for a weighted node: in front of a Pad that only it reads, so the Pad moves int8."""
    name = str(node.input[0])
    while (maker := index.producer.get(name)) is not None and moves_values_only(maker, index):
        if index.only_reader(name) is None:
            break
        name = maker.input[0]
    return name


def _affine(name: str, index: Index, frame: set[str]) -> tuple[float, float] | None:
    """(gain, offset) of a tensor that is an affine function of the frame's pixels, the same for all channels."""
    steps: list[tuple[str, float]] = []
    whole = False  # above the Cast to float, where arithmetic would be that of bytes
    while name not in frame:
        node = index.producer.get(name)
        if node is None:
            return None
        if node.op_type == "Cast" and attribute(node, "to") == onnx.TensorProto.FLOAT:
            whole, name = True, node.input[0]
            continue
        if node.op_type in ("Transpose", "Identity") or (node.op_type == "Gather" and index.is_constant(node.input[1])):
            name = node.input[0]
            continue
        if node.op_type not in ("Mul", "Div", "Add", "Sub") or whole:
            return None
        places = [place for place in (0, 1) if not index.is_constant(node.input[place])]
        if len(places) != 1 or (places[0] == 1 and node.op_type in ("Div", "Sub")):
            return None
        value = index.constant(node.input[1 - places[0]])
        assert value is not None
        if value.size == 0 or np.ptp(value) != 0:
            return None
        steps.append((node.op_type, float(value.flat[0])))
        name = node.input[places[0]]
    gain, offset = 1.0, 0.0
    for op, number in reversed(steps):
        if op == "Mul":
            gain, offset = gain * number, offset * number
        elif op == "Div":
            if number == 0:
                return None
            gain, offset = gain / number, offset / number
        else:
            offset += number if op == "Add" else -number
    return (gain, offset) if gain > 0 else None
