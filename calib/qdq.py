"""INT8 graphs from the float graph and a table of ranges: the TensorRT form, and the form for ONNX Runtime.

One float graph and one range table serve every engine; see the variants in ``runtime/MANIFEST.md``. Both passes write
QuantizeLinear and DequantizeLinear pairs of opset 13 and leave arithmetic to the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from calib.graph import (
    Index,
    Names,
    attribute,
    checked,
    copy_of,
    replace_nodes,
    set_attribute,
    topological,
    without_unused_initializers,
)
from calib.layers import OUTPUT, WEIGHTED, Layer, layers_of
from calib.observers import LEVELS, Range
from runtime.errors import GenedgeError

Floats = NDArray[np.float32]

U8_LEVELS = 255
SMALLEST_SCALE = 1e-12  # of a tensor that is zero everywhere; any value will do
PIXEL_MIDDLE = 128  # pixel - 128 is a signed byte
HALF_STEP = 0.51  # with some room for gains that were rounded
MOST_BIAS_STEPS = 2**30  # of int32, so that the sum with the products of a layer stays within it


@dataclass(frozen=True)
class Int8Qdq:
    """Settings of the TensorRT form (variants ``int8`` and ``int8-strong``).

    Args:
        keep: names of layers that stay in float.
        centred: give layers that read the frame ``pixel - 128``, which int8 holds without loss. Symmetric int8 without
            it has only every second of the 256 pixel values. Where a layer pads with zeros that are no pixel value
            (127.5 in a net that takes -1..1), its border is wrong by half a pixel value.
        transposed: quantise ConvTranspose. TensorRT 8 to 10 have wrong-result bugs there, OpenVINO gains much.
        residuals: quantise the other input of an Add behind a quantised layer, so that TensorRT can fuse the Add.
        narrow: quantise layers of fewer than 16 input channels too; those of 8 always are. TensorRT pads channels to 32
            and gains nothing from them.
    """

    keep: tuple[str, ...] = ()
    centred: bool = True
    transposed: bool = True
    residuals: bool = False
    narrow: bool = True

    def keeping(self, names: Sequence[str]) -> Int8Qdq:
        """The same with more layers in float."""
        return replace(self, keep=tuple(dict.fromkeys((*self.keep, *names))))

    def quantises(self, layer: Layer) -> bool:
        if layer.name in self.keep or (layer.op == "ConvTranspose" and not self.transposed):
            return False
        return self.narrow or layer.channels_in >= 16 or layer.channels_in % 8 == 0


@dataclass(frozen=True)
class Int8Ort:
    """Settings of the ONNX Runtime form (variant ``int8-ort``): ``keep`` names layers that stay in float.

    ConvTranspose always does, since the CPU provider has no quantised one, and so does a layer that an
    InstanceNormalization reads, or that itself makes an output of the graph: they would run in float all the same.
    """

    keep: tuple[str, ...] = ()

    def keeping(self, names: Sequence[str]) -> Int8Ort:
        """The same with more layers in float."""
        return replace(self, keep=tuple(dict.fromkeys((*self.keep, *names))))

    def quantises(self, layer: Layer) -> bool:
        if layer.name in self.keep or layer.op == "ConvTranspose" or "InstanceNormalization" in layer.readers:
            return False
        return layer.activation is not None or OUTPUT not in layer.readers


def qdq_from_graph(
    model: onnx.ModelProto, ranges: Mapping[str, Range], settings: Int8Qdq | None = None
) -> onnx.ModelProto:
    """The TensorRT form: float32 graph with pairs in front of each layer's input and weights.

    Signed int8 with zero point 0; activations have one scale, weights one per output channel, as a float32 constant
    with a pair (TensorRT 8 refuses int8 constants). Biases and the outputs of layers stay float. A pair stands in front
    of a Pad that only moves values, so the Pad can move bytes.

    Raises:
        GenedgeError: ``keep`` names no layer, no layer is left, or a range is missing.
    """
    settings = settings or Int8Qdq()
    layers = _chosen(model, settings)
    edit = _Edit(model)
    for layer in layers:
        node = edit.index.producer[layer.result]
        if settings.centred and layer.affine is not None and _centre(edit, node, layer):
            pass
        else:
            scale = _symmetric_scale(_range(ranges, layer.source))
            _redirect(edit, node, layer.source, edit.pair(layer.source, scale, np.int8(0)))
        edit.quantise_weights(node, layer)
    if settings.residuals:
        _quantise_residuals(edit, {layer.result for layer in layers}, ranges)
    return edit.finished()


def ort_from_graph(
    model: onnx.ModelProto, ranges: Mapping[str, Range], settings: Int8Ort | None = None
) -> onnx.ModelProto:
    """The ONNX Runtime form: pairs around every layer, so that each one becomes a QLinearConv.

    Activations are uint8: with zero point 0 behind a ReLU, which then vanishes, asymmetric else. In front of any other
    activation there is one more pair. Weights are int8 and biases int32 constants. Whatever reads a quantised tensor
    reads it behind its pair; a float reader beside it would keep the layer in float. Outputs of the graph stay as they
    are.

    Raises:
        GenedgeError: as :func:`qdq_from_graph`.
    """
    settings = settings or Int8Ort()
    layers = _chosen(model, settings)
    edit = _Edit(model)
    made: dict[str, tuple[str, np.float32]] = {}  # tensor -> its dequantised form and scale

    def quantised(name: str, known_as: str, affine: tuple[float, float] | None = None) -> np.float32:
        """Put a pair behind a tensor, for all its readers, and give its scale."""
        if name not in made:
            scale, zero = (_exact_pixels(affine) if affine else None) or _asymmetric_scale(_range(ranges, known_as))
            pair = edit.pair(name, scale, zero)
            edit.redirect_readers(name, pair)
            made[name] = pair, scale
        return made[name][1]

    for layer in layers:
        node = edit.index.producer[layer.result]
        scale = quantised(_undo(node.input[0], made), layer.source, layer.affine)  # behind a Pad, which ORT keeps
        bias = edit.plain_bias(node, layer)
        least = np.abs(bias) / (scale.astype(np.float64) * MOST_BIAS_STEPS) if bias is not None else None
        scales = edit.quantise_weights(node, layer, least=least, constant=True)
        if bias is not None:
            edit.quantise_bias(node, bias, scale * scales)
        if layer.activation != "Relu":
            quantised(layer.result, layer.result)
        elif OUTPUT in layer.readers:  # zero point 0 cuts off what the ReLU would
            quantised(layer.result, layer.activated)
        else:
            quantised(layer.activated, layer.activated)
    return frames_by_quantising(edit.finished())


def frames_by_quantising(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let one QuantizeLinear of scale 1 do what Clip to 0..255, Round and Cast to uint8 do at the end of a frame graph.

    It rounds half to even and saturates, so nothing changes but the three passes over the large image, which ONNX
    Runtime makes one by one. A Reshape between Round and Cast then moves bytes. Graphs that end otherwise stay as they
    are. Not for TensorRT, whose QuantizeLinear makes int8 only.
    """
    result = copy_of(model)
    index = Index(result.graph)
    for last in list(result.graph.node):
        if (
            last.op_type != "Cast"
            or attribute(last, "to") != onnx.TensorProto.UINT8
            or last.output[0] not in index.outputs
        ):
            continue
        shaped = index.producer.get(last.input[0])
        reshape = shaped if shaped is not None and shaped.op_type == "Reshape" else None
        rounded = index.producer.get(reshape.input[0]) if reshape is not None else shaped
        clip = index.producer.get(rounded.input[0]) if rounded is not None and rounded.op_type == "Round" else None
        if rounded is None or clip is None or clip.op_type != "Clip" or not _clips_to_bytes(clip, index):
            continue
        inside = [rounded, clip, *([reshape] if reshape is not None else [])]
        readers = {reader.op_type for node in inside for reader in index.readers.get(node.output[0], [])}
        if not readers <= {"Round", "Reshape", "Cast", "Shape"}:
            continue
        names = Names(result.graph)
        scale, zero, small = (names.fresh(f"{last.output[0]}.{what}") for what in ("scale", "zero", "bytes"))
        result.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), scale))
        result.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), zero))
        output = last.output[0]
        quantise = helper.make_node(
            "QuantizeLinear", [clip.input[0], scale, zero], [small if reshape is not None else output],
            name=names.fresh(f"{output}.quantise"),
        )  # fmt: skip
        if reshape is not None:
            reshape.output[0] = output
        for node in result.graph.node:  # what asked for the shape of the rounded image may ask for that of the bytes
            for place, name in enumerate(node.input):
                if name in (rounded.output[0], clip.output[0]) and node not in (rounded, last):
                    node.input[place] = quantise.output[0]
        kept = [node for node in result.graph.node if node not in (last, rounded, clip)]
        known = [item.name for item in (*result.graph.initializer, *result.graph.input)]
        replace_nodes(result.graph, topological([*kept, quantise], known))
        return checked(without_unused_initializers(result))
    return model


def _clips_to_bytes(clip: NodeProto, index: Index) -> bool:
    limits = [index.constant(name) for name in clip.input[1:3]]
    return len(limits) == 2 and all(
        value is not None and value.size == 1 and float(value.flat[0]) == wanted
        for value, wanted in zip(limits, (0, U8_LEVELS), strict=True)
    )


def _chosen(model: onnx.ModelProto, settings: Int8Qdq | Int8Ort) -> list[Layer]:
    layers = layers_of(model)
    unknown = set(settings.keep) - {layer.name for layer in layers}
    if unknown:
        raise GenedgeError(f"no layer is called {sorted(unknown)[0]}, so it cannot be kept in float")
    chosen = [layer for layer in layers if settings.quantises(layer)]
    if not chosen:
        raise GenedgeError("no layer is left to quantise")
    return chosen


def _range(ranges: Mapping[str, Range], name: str) -> Range:
    if name not in ranges:
        raise GenedgeError(f"the range table knows no tensor {name}: it was measured on another graph")
    return ranges[name]


def _symmetric_scale(values: Range) -> np.float32:
    return np.float32(max(values.magnitude / LEVELS, SMALLEST_SCALE)) if values.magnitude else np.float32(1)


def _asymmetric_scale(values: Range) -> tuple[np.float32, np.uint8]:
    low, high = min(0.0, values.low), max(0.0, values.high)
    if high == low:
        return np.float32(1), np.uint8(0)
    scale = max((high - low) / U8_LEVELS, SMALLEST_SCALE)
    return np.float32(scale), np.uint8(np.clip(round(-low / scale), 0, U8_LEVELS))


def _exact_pixels(affine: tuple[float, float]) -> tuple[np.float32, np.uint8] | None:
    """Scale and zero point that hold ``gain * pixel + offset`` without loss, None where the latter is not whole."""
    gain, offset = affine
    zero = -offset / gain
    if not -0.01 <= zero <= U8_LEVELS + 0.01 or abs(zero - round(zero)) > 0.01:
        return None
    return np.float32(gain), np.uint8(round(zero))


def _undo(name: str, made: Mapping[str, tuple[str, np.float32]]) -> str:
    """The tensor behind whose pair ``name`` stands, else ``name``."""
    return next((tensor for tensor, (pair, _) in made.items() if pair == name), name)


def _centre(edit: _Edit, node: NodeProto, layer: Layer) -> bool:
    """Feed a layer ``source - middle``, where middle is the value of pixel 128, and correct its bias for it.

    What the layer pads with zeros it must now pad with ``-middle``, so its padding becomes a node. The correction uses
    the weights as they were: their rounding errors then act on centred pixels only, as bias correction wants it.
    False, and nothing done, where zero is further than half a step from every pixel value and so cannot be padded with.
    """
    if node.op_type != "Conv" or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    if layer.bias is not None and not edit.index.is_constant(layer.bias):
        return False
    assert layer.affine is not None
    gain, offset = layer.affine
    middle = np.float32(gain * PIXEL_MIDDLE + offset)
    pads = cast("list[int]", attribute(node, "pads", []))
    first, moved = _first_reader(edit, node, layer.source)
    if any(attribute(pad, "mode", "constant") == "constant" for pad in moved) or (moved and any(pads)):
        return False  # zeros between Pads
    border = -(PIXEL_MIDDLE + offset / gain)  # of zero, in steps
    if any(pads) and not -PIXEL_MIDDLE - HALF_STEP <= border <= PIXEL_MIDDLE - 1 + HALF_STEP:
        return False
    centred = edit.add(
        "Sub", [layer.source, edit.constant(f"{layer.source}.middle", middle)], f"{layer.source}.centred"
    )
    if any(pads):
        half = len(pads) // 2
        full = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], dtype=np.int64)
        value = np.float32(gain * np.clip(np.round(border), -PIXEL_MIDDLE, PIXEL_MIDDLE - 1))
        inputs = [centred, edit.constant(f"{layer.source}.pads", full), edit.constant(f"{layer.source}.border", value)]
        centred = edit.add("Pad", inputs, f"{layer.source}.padded", mode="constant")
        set_attribute(node, "pads", [0] * len(pads))
    weights = edit.value(layer.weight)
    correction = middle * weights.sum(axis=tuple(range(1, weights.ndim)), dtype=np.float64)
    bias = edit.value(layer.bias) if layer.bias is not None else np.zeros(len(weights), dtype=np.float32)
    name = edit.constant(f"{node.name}.bias", (bias + correction).astype(np.float32))
    inputs = list(node.input)[:2]
    del node.input[:]
    node.input.extend([*inputs, name])
    first.input[0] = edit.pair(centred, np.float32(gain), np.int8(0))
    return True


def _first_reader(edit: _Edit, node: NodeProto, source: str) -> tuple[NodeProto, list[NodeProto]]:
    """What reads ``source`` for a layer: its node, or the first of the Pads in front of it; and these Pads."""
    moved = []
    while node.input[0] != source:
        node = edit.index.producer[node.input[0]]
        moved.append(node)
    return node, moved


def _redirect(edit: _Edit, node: NodeProto, source: str, pair: str) -> None:
    _first_reader(edit, node, source)[0].input[0] = pair


def _quantise_residuals(edit: _Edit, results: set[str], ranges: Mapping[str, Range]) -> None:
    """Pairs in front of the other input of an Add that alone reads one of ``results``; none where a layer makes it."""
    for node in edit.originals:
        if node.op_type != "Add":
            continue
        fed = [place for place in (0, 1) if node.input[place] in results and edit.index.only_reader(node.input[place])]
        if not fed:
            continue
        other = node.input[1 - fed[0]]
        maker = edit.index.producer.get(other)
        if other in ranges and (maker is None or maker.op_type not in WEIGHTED):
            node.input[1 - fed[0]] = edit.pair(other, _symmetric_scale(ranges[other]), np.int8(0))


class _Edit:
    """A graph that is being changed. Tensors keep their names; new ones get fresh names, and the same is made once."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = copy_of(model)
        self._model.graph.ClearField("value_info")
        self.index = Index(self._model.graph)
        self._names = Names(self._model.graph)
        self.originals = list(self._model.graph.node)
        self._added: list[NodeProto] = []
        self._made: dict[tuple[object, ...], str] = {}  # what was added under which description, to be shared

    def value(self, name: str) -> Floats:
        value = self.index.constant(name)
        assert value is not None, f"{name} is a constant"
        return np.asarray(value, dtype=np.float32)

    def constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        array = np.asarray(value)
        key = name, array.dtype, array.shape, array.tobytes()
        if key not in self._made:
            self._made[key] = self._names.fresh(name)
            self._model.graph.initializer.append(numpy_helper.from_array(array, self._made[key]))
        return self._made[key]

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        key = op, *inputs, *attributes.items()
        if key not in self._made:
            output = self._made[key] = self._names.fresh(output)
            name = self._names.fresh(f"{output}.node")
            self._added.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return self._made[key]

    def pair(self, name: str, scale: np.float32, zero: np.int8 | np.uint8) -> str:
        """A tensor behind QuantizeLinear and DequantizeLinear."""
        numbers = [self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", zero)]
        small = self.add("QuantizeLinear", [name, *numbers], f"{name}.quantised")
        return self.add("DequantizeLinear", [small, *numbers], f"{name}.dequantised")

    def redirect_readers(self, name: str, to: str) -> None:
        """Let every node of the original graph that reads ``name`` read ``to``."""
        for node in self.originals:
            for place, read in enumerate(node.input):
                if read == name:
                    node.input[place] = to

    def quantise_weights(
        self, node: NodeProto, layer: Layer, *, least: NDArray[np.float64] | None = None, constant: bool = False
    ) -> Floats:
        """Put a pair behind the weights, or write them as an int8 ``constant``; gives the scale of each output channel.

        ``least`` is how small these may become. Channels that are zero everywhere take it, since any scale does.
        """
        weights = self.value(layer.weight)
        scales = weight_scales(weights, layer.weight_axis)
        if least is not None:
            dead = np.max(np.abs(weights), axis=_others(weights, layer.weight_axis)) == 0
            scales = np.where(dead & (least > 0), least, np.maximum(scales, least)).astype(np.float32)
        zeros = np.zeros(scales.shape, dtype=np.int8)
        numbers = [self.constant(f"{layer.weight}.scale", scales), self.constant(f"{layer.weight}.zero", zeros)]
        axis = {"axis": layer.weight_axis} if layer.weight_axis is not None else {}
        if constant:
            shape = _broadcastable(scales, layer.weight_axis, weights.ndim)
            steps = np.clip(np.round(weights / shape), -LEVELS, LEVELS).astype(np.int8)
            small = self.constant(f"{layer.weight}.int8", steps)
        else:
            small = self.add("QuantizeLinear", [layer.weight, *numbers], f"{layer.weight}.quantised", **axis)
        node.input[1] = self.add("DequantizeLinear", [small, *numbers], f"{layer.weight}.dequantised", **axis)
        return scales if scales.ndim else np.full(layer.channels_out, scales, dtype=np.float32)

    def plain_bias(self, node: NodeProto, layer: Layer) -> NDArray[np.float64] | None:
        """The constant that is added to the output channels as it is, None where there is none."""
        bias = self.index.constant(layer.bias) if layer.bias is not None else None
        factors = {attribute(node, name, 1.0) for name in ("alpha", "beta")}
        if bias is None or bias.shape != (layer.channels_out,) or factors != {1.0}:
            return None
        return bias.astype(np.float64)

    def quantise_bias(self, node: NodeProto, bias: NDArray[np.float64], scales: Floats) -> None:
        """The bias as int32 in steps of ``scales`` (input scale times weight scale), as a QLinearConv adds it."""
        steps = np.round(bias / scales.astype(np.float64)).astype(np.int32)
        name = node.input[2]
        numbers = [
            self.constant(f"{name}.int32", steps),
            self.constant(f"{name}.scale", scales.astype(np.float32)),
            self.constant(f"{name}.zero", np.zeros(len(steps), dtype=np.int32)),
        ]
        node.input[2] = self.add("DequantizeLinear", numbers, f"{name}.dequantised", axis=0)

    def finished(self) -> onnx.ModelProto:
        graph = self._model.graph
        known = [item.name for item in (*graph.initializer, *graph.input)]
        replace_nodes(graph, topological([*self.originals, *self._added], known))
        return checked(without_unused_initializers(self._model))


def weight_scales(weights: Floats, axis: int | None) -> Floats:
    """Scale of each output channel, or one for all; channels that are zero everywhere get 1."""
    if axis is None:
        largest = np.asarray(np.max(np.abs(weights)))
    else:
        largest = np.max(np.abs(weights), axis=_others(weights, axis))
    return np.where(largest > 0, np.maximum(largest / LEVELS, SMALLEST_SCALE), 1).astype(np.float32)


def _others(weights: Floats, axis: int | None) -> tuple[int, ...]:
    return tuple(other for other in range(weights.ndim) if other != axis)


def _broadcastable(scales: Floats, axis: int | None, rank: int) -> Floats:
    return scales if axis is None else scales.reshape([-1 if place == axis else 1 for place in range(rank)])
