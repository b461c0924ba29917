"""Named passes over an ONNX model: model in, new model out. Each one checks what it ensures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from calib.graph import (
    Index,
    Names,
    copy_of,
    copy_tensor,
    opset_of,
    replace_nodes,
    without_unused_initializers,
)
from calib.graph import attribute as attribute_of
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


def shuffled_in_frame_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write the pixel shuffle at the end of a graph so that it gives (N, H, W, colour) at once. The values stay.

    The exporter ends a super-resolution net with a convolution, DepthToSpace to (N, 3, rH, rW) and a Transpose of that
    large image; the repeated frame is added before (channels by Gather) or after it (Resize). Here the convolution
    gives its channels in the order (row, column, colour) instead of (colour, row, column). One Transpose, which moves
    runs of 3r values, then does the work of both, and the frame is added in the layout in which it came.

    It is meant for OpenVINO with a fixed size, as the runtime compiles it: convolutions keep the channels innermost
    there, so the first Transpose is free, while the old form moved the large image three times. ONNX Runtime is about
    as fast either way (with Tile; its Gather on the last axis is slow). TensorRT allows uint8 only at the very edge of
    a network, so the Cast stays last, behind the Reshape to the size of the image.

    Between the convolution and the Cast may stand arithmetic with single numbers, Clip, Round, a Gather that orders the
    three colours anew (it goes into the weights) and the addition of the frame. A graph with anything else there, or
    with a tensor that is read elsewhere, is given back as it is.
    """
    result = copy_of(model)
    end = _end_of(result)
    if end is None:
        return result
    graph, r = result.graph, end.factor
    names = Names(graph)
    nodes: list[NodeProto] = []

    def constant(name: str, values: list[int]) -> str:
        name = names.fresh(f"shuffle_{name}")
        graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        name = names.fresh(f"shuffle_{name}")
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    for tensor in graph.initializer:
        if tensor.name in end.conv.input[1:]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[end.channels], tensor.name))
    current = add("Transpose", [end.conv.output[0]], "pixels", perm=[0, 2, 3, 1])
    current = add("Reshape", [current, constant("blocks_shape", [0, 0, 0, r, 3 * r])], "blocks")
    current = add("Transpose", [current], "rows", perm=[0, 1, 3, 2, 4])  # (N, H, r, W, 3r), the image's own order
    for step in reversed(end.steps):
        if step.node.op_type == "Cast":
            if end.size is not None:
                shape = constant("image_shape", [0, *end.size, 3])
            else:
                sizes = add("Gather", [add("Shape", [current], "sizes"), constant("kept", [0, 1, 3, 4])], "kept_sizes")
                larger = add("Mul", [sizes, constant("factors", [1, r, r, 0])], "larger_sizes")
                shape = add("Add", [larger, constant("colours", [0, 0, 0, 3])], "image_shape")
            current = add("Reshape", [current, shape], "image")
        node = NodeProto()
        node.CopyFrom(step.node)
        node.input[step.place] = current
        if step.anchor is not None:
            row = step.anchor.frame
            if step.anchor.channels != [0, 1, 2]:
                row = add("Gather", [row, constant("anchor_channels", step.anchor.channels)], "anchor_colours", axis=3)
            row = add("Tile", [row, constant("anchor_repeats", [1, 1, 1, r])], "anchor_row")
            node.input[1 - step.place] = add("Unsqueeze", [row, constant("anchor_axes", [2])], "anchor")
        nodes.append(node)
        current = node.output[0]
    old = {name for node in (*end.removed, *nodes) for name in node.output}
    replace_nodes(graph, [*(node for node in graph.node if old.isdisjoint(node.output)), *nodes])
    return without_unused_initializers(result)


@dataclass(frozen=True)
class _Anchor:
    """The frame, repeated ``factor`` times in both directions by ``node``, as a graph adds it.

    ``frame`` is the tensor (N, H, W, 3); ``channels`` says which of them each colour of the image adds.
    """

    frame: str
    channels: list[int]
    factor: int
    node: NodeProto


@dataclass(frozen=True)
class _Step:
    """A node of the end that stays. Its input ``place`` is what the end computes, another one may be the anchor."""

    node: NodeProto
    place: int
    anchor: _Anchor | None = None


@dataclass
class _End:
    """The end of a graph as :func:`_end_of` finds it, last node first.

    ``order`` gives for a colour of the image the one at the node that was reached. ``shuffle``, once DepthToSpace was
    passed, is an array (colour, row, column) of the channels from which it takes the pixels of a block.
    """

    steps: list[_Step]
    removed: list[NodeProto] = field(default_factory=list)
    order: list[int] = field(default_factory=lambda: [0, 1, 2])
    transposed: bool = False
    shuffle: np.ndarray | None = None
    conv: NodeProto = field(default_factory=NodeProto)
    size: list[int] | None = None  # height and width of the image where they are fixed

    @property
    def factor(self) -> int:
        return 0 if self.shuffle is None else int(self.shuffle.shape[1])

    @property
    def channels(self) -> np.ndarray:
        """The convolution's channels in the order (row, column, colour of the image)."""
        assert self.shuffle is not None
        return self.shuffle[self.order].transpose(1, 2, 0).ravel()


_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Clip", "Round"})


def _end_of(model: onnx.ModelProto) -> _End | None:
    """Walk from the output back to the convolution; None where something does not fit."""
    graph, index, shapes = model.graph, Index(model.graph), _shapes(model)
    if len(graph.output) != 1 or any(entry.HasField("g") for node in graph.node for entry in node.attribute):
        return None  # the body of an If or Loop reads what it likes
    node = index.producer.get(graph.output[0].name)
    if node is None or node.op_type != "Cast" or index.readers.get(node.output[0]):
        return None
    end, place = _End([_Step(node, 0)]), 0
    while True:
        name = node.input[place]
        node = index.producer.get(name)
        if node is None or node.domain not in ("", "ai.onnx") or index.only_reader(name) is None:
            return None
        if node.op_type == "Conv":
            end.conv = node
            return end if _fits(end, index, shapes) else None
        if _passed(end, node, index):
            place = 0
            continue
        step = _step(end, node, index, shapes)
        if step is None:
            return None
        end.steps.append(step)
        place = step.place


def _fits(end: _End, index: Index, shapes: dict[str, list[int | None]]) -> bool:
    """Whether the channels of the convolution can be exchanged; takes the size of the image from its output."""
    weights = end.conv.input[1:]
    kernel = index.constant(weights[0])
    if end.shuffle is None or kernel is None or kernel.ndim != 4 or len(kernel) != end.shuffle.size:
        return False
    given = [name for name in weights if name]
    if any(index.only_reader(name) is None or not index.is_constant(name) for name in given):
        return False
    if attribute_of(end.conv, "group", 1) != 1:
        return False
    if any(step.anchor is not None and step.anchor.factor != end.factor for step in end.steps):
        return False
    sizes = shapes.get(end.conv.output[0], [None])[2:]
    known = [end.factor * size for size in sizes if size is not None]
    end.size = known if len(known) == 2 else None
    for step in end.steps:
        if step.anchor is not None:
            end.removed.append(step.anchor.node)
            planes = step.anchor.node.input[0]
            if index.only_reader(planes) is not None:
                end.removed.append(index.producer[planes])
    return True


def _passed(end: _End, node: NodeProto, index: Index) -> bool:
    """Take in a node that only moves pixels or colours; it is not needed any more."""
    if not end.transposed:
        found = node.op_type == "Transpose" and attribute_of(node, "perm") == [0, 2, 3, 1]
        end.transposed = found
    elif end.shuffle is not None:
        found = False
    elif node.op_type == "DepthToSpace":
        r = attribute_of(node, "blocksize")
        assert isinstance(r, int)
        channels = np.arange(3 * r * r)
        if attribute_of(node, "mode", "DCR") == "CRD":
            end.shuffle = channels.reshape(3, r, r)
        else:
            end.shuffle = channels.reshape(r, r, 3).transpose(2, 0, 1)
        found = r > 1
    else:
        indices = index.constant(node.input[1]) if node.op_type == "Gather" else None
        found = indices is not None and indices.ndim == 1 and sorted(indices) == [0, 1, 2]
        found = found and attribute_of(node, "axis", 0) == 1
        if found and indices is not None:
            end.order = [int(indices[colour]) for colour in end.order]
    if found:
        end.removed.append(node)
    return found


def _step(end: _End, node: NodeProto, index: Index, shapes: dict[str, list[int | None]]) -> _Step | None:
    """A node that does the same to every value, or adds the frame."""
    if node.op_type not in _ARITHMETIC:
        return None
    places = [place for place, name in enumerate(node.input) if name and not index.is_constant(name)]
    constants = [index.constant(name) for name in node.input]
    if len(places) == 1 and all(value is None or value.size == 1 for value in constants):
        return _Step(node, places[0])
    if node.op_type != "Add" or len(places) != 2 or not end.transposed:
        return None
    for place in places:
        anchor = _anchor(end, node.input[1 - place], index, shapes)
        # not where a result of one pixel is spread over the frame
        if anchor is not None and shapes.get(node.input[place]) == shapes.get(node.output[0]):
            return _Step(node, place, anchor)
    return None


def _anchor(end: _End, name: str, index: Index, shapes: dict[str, list[int | None]]) -> _Anchor | None:
    """The frame, repeated r times in both directions or, before DepthToSpace, r * r times as channels."""
    node = index.producer.get(name)
    planes = index.producer.get(node.input[0]) if node is not None and node.input else None
    if node is None or planes is None or index.only_reader(name) is None:
        return None
    if planes.op_type != "Transpose" or attribute_of(planes, "perm") != [0, 3, 1, 2]:
        return None
    frame = planes.input[0]
    if shapes.get(frame, [None])[-1] != 3:
        return None
    if end.shuffle is None:
        factor = _repetition(node, index)
        return _Anchor(frame, end.order, factor, node) if factor else None
    indices = index.constant(node.input[1]) if node.op_type == "Gather" and attribute_of(node, "axis", 0) == 1 else None
    if indices is None or indices.shape != (end.shuffle.size,):
        return None
    taken = indices[end.shuffle]  # (colour, row, column)
    if (taken != taken[:, :1, :1]).any():
        return None
    return _Anchor(frame, [int(taken[colour, 0, 0]) for colour in end.order], end.factor, node)


def _repetition(node: NodeProto, index: Index) -> int:
    """How often a Resize repeats rows and columns; 0 where it does anything else."""
    scales = index.constant(node.input[2]) if node.op_type == "Resize" and len(node.input) == 3 else None
    settings = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if scales is None or any(attribute_of(node, name) != value for name, value in settings.items()):
        return 0
    factor = int(scales[-1]) if len(scales) else 0
    return factor if scales.tolist() == [1, 1, factor, factor] else 0
