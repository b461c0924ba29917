"""Each pass on a graph of a few nodes, and the lowered graph in ONNX Runtime against the one of opset 18."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from calib.graph import copy_of, copy_tensor, opset_of, replace_nodes, set_attribute, without_unused_initializers
from export import passes
from runtime.errors import GenedgeError

SHAPE = (2, 6, 7, 8)  # of the input "x"


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str] = ("y",),
    *,
    opset: int = 18,
    shape: Sequence[int | str] = SHAPE,
    domains: Sequence[str] = (),
    **constants: Any,
) -> onnx.ModelProto:
    """A model from ``x`` (float32) to ``outputs`` around the given nodes and constants."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    shaped = onnx.shape_inference.infer_shapes(model).graph.output
    del graph.output[:]
    graph.output.extend(shaped)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def outputs_of(model: onnx.ModelProto, shape: Sequence[int] = SHAPE) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return session.run(None, {"x": x})


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as opset 17: valid, runnable, and with the same outputs."""
    before = model.SerializeToString()
    result = passes.lowered_to_opset_17(model)
    assert model.SerializeToString() == before  # a pass changes nothing but its result
    assert (opset_of(result), result.ir_version) == (17, 8)
    onnx.checker.check_model(result, full_check=True)
    for wanted, found in zip(outputs_of(model), outputs_of(result), strict=True):
        np.testing.assert_array_equal(found, wanted)
    return result


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(GenedgeError) as error:
        passes.lowered_to_opset_17(model)
    return str(error.value)


def node_of(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    (node,) = [node for node in model.graph.node if node.op_type == kind]
    return node


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# --- without_metadata -------------------------------------------------------------------------------------------------


def test_without_metadata_forgets_where_the_graph_was_made() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"], name="relu")], unused=np.zeros(1, np.float32))
    place = "/home/somebody/secret/net.py"
    items = (model.graph, model.graph.node[0], model.graph.input[0], model.graph.output[0], model.graph.initializer[0])
    for item in (model, *items):
        item.doc_string = place
        item.metadata_props.add(key="source", value=place)
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE))
    model.graph.value_info[0].doc_string = place
    before = model.SerializeToString()
    result = passes.without_metadata(model)
    assert b"secret" not in result.SerializeToString()
    assert result.graph.node[0].name == "relu"
    assert model.SerializeToString() == before


# --- constants_as_initializers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"value": numpy_helper.from_array(np.array([[1.5, 2.5]], np.float32))}, np.array([[1.5, 2.5]], np.float32)),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, ints(3, 4)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_constant_nodes_become_initializers(settings: dict[str, Any], wanted: np.ndarray) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], **settings),
        helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["m"], keepdims=0),
        helper.make_node("Mul", ["x", "m"], ["y"]),
    ]
    model = graph_of(nodes)
    result = passes.constants_as_initializers(model)
    assert [node.op_type for node in result.graph.node] == ["Cast", "ReduceMax", "Mul"]
    (tensor,) = result.graph.initializer
    assert tensor.name == "c"
    found = numpy_helper.to_array(tensor)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(outputs_of(result)[0], outputs_of(model)[0])
    assert len(model.graph.node) == 4


def test_constants_of_other_kinds_stay_nodes() -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value_string=b"text"),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    result = passes.constants_as_initializers(graph_of(nodes))
    assert [node.op_type for node in result.graph.node] == ["Constant", "Identity"]


# --- lowered_to_opset_17: what is rewritten ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("axes", [(2, 3), (-2, -1), (3, 2), (-1,), (0, 1, 2, 3)])
def test_pad_of_some_axes(mode: str, axes: tuple[int, ...]) -> None:
    amounts = ints(*range(1, len(axes) + 1), *[0] * len(axes))
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode=mode)
    result = lowered(graph_of([node], pads=amounts, axes=ints(*axes)))
    assert len(node_of(result, "Pad").input) == 2
    (pads,) = result.graph.initializer  # the old pads and the axes are gone
    assert numpy_helper.to_array(pads).shape == (8,)


def test_pad_keeps_its_value() -> None:
    node = helper.make_node("Pad", ["x", "pads", "value", "axes"], ["y"])
    model = graph_of([node], pads=ints(1, 2), axes=ints(2), value=np.float32(7))
    assert list(node_of(lowered(model), "Pad").input)[2] == "value"
    assert (outputs_of(model)[0] == 7).any()


def test_pad_without_axes_is_left_alone() -> None:
    node = helper.make_node("Pad", ["x", "pads"], ["y"])
    assert list(node_of(lowered(graph_of([node], pads=ints(0, 0, 1, 1, 0, 0, 1, 1))), "Pad").input) == ["x", "pads"]


def test_pad_of_a_tensor_that_is_no_picture() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["r"]),
        helper.make_node("Pad", ["r", "pads", "", "axes"], ["y"]),
    ]
    lowered(graph_of(nodes, flat=ints(2, 6, 56), pads=ints(1, 2), axes=ints(-1)))


@pytest.mark.parametrize(("parts", "axis"), [(2, 1), (3, 1), (4, 2), (4, -1), (2, 0)])
def test_split_into_a_number_of_parts(parts: int, axis: int) -> None:
    """7 rows in 4 parts are 2, 2, 2 and 1."""
    names = [f"y{index}" for index in range(parts)]
    model = graph_of([helper.make_node("Split", ["x"], names, axis=axis, num_outputs=parts)], names)
    assert "num_outputs" not in attributes(node_of(lowered(model), "Split"))


def test_split_with_given_sizes_is_left_alone() -> None:
    model = graph_of([helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1)], ["a", "b"], sizes=ints(1, 5))
    assert list(node_of(lowered(model), "Split").input) == ["x", "sizes"]


def test_split_behind_a_reduction_knows_the_size_from_before_the_rewriting() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"]),
        helper.make_node("Split", ["m"], ["a", "b"], axis=1, num_outputs=2),
    ]
    lowered(graph_of(nodes, ["a", "b"], axes=ints(2, 3)))


def test_resize_loses_the_attributes_that_say_nothing() -> None:
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode="linear", antialias=0, keep_aspect_ratio_policy="stretch",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    result = lowered(graph_of([node], scales=np.array([1, 1, 2, 2], np.float32)))
    assert set(attributes(node_of(result, "Resize"))) == {"mode", "coordinate_transformation_mode"}


@pytest.mark.parametrize(
    "kind", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
             "ReduceLogSumExp"],
)  # fmt: skip
@pytest.mark.parametrize("keep", [0, 1])
def test_axes_of_a_reduction_become_an_attribute(kind: str, keep: int) -> None:
    node = helper.make_node(kind, ["x", "axes"], ["y"], keepdims=keep)
    reduced = node_of(lowered(graph_of([node], axes=ints(2, -1))), kind)
    assert list(reduced.input) == ["x"]
    assert attributes(reduced) == {"keepdims": keep, "axes": [2, -1]}


def test_reduction_over_everything_needs_no_axes() -> None:
    lowered(graph_of([helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=0)]))


def test_reduce_sum_has_taken_axes_as_an_input_since_opset_13() -> None:
    result = lowered(graph_of([helper.make_node("ReduceSum", ["x", "axes"], ["y"])], axes=ints(1)))
    assert list(node_of(result, "ReduceSum").input) == ["x", "axes"]


def test_everything_at_once() -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads", "", "axes"], ["p"], mode="reflect"),
        helper.make_node("Resize", ["p", "", "scales"], ["r"], mode="nearest", antialias=0),
        helper.make_node("Split", ["r"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Mul", ["a", "b"], ["m"]),
        helper.make_node("ReduceMean", ["m", "axes"], ["y"]),
    ]
    lowered(graph_of(nodes, pads=ints(1, 1, 1, 1), axes=ints(2, 3), scales=np.array([1, 1, 2, 2], np.float32)))


def test_a_graph_of_opset_17_only_gets_its_ir_version() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], opset=17)
    model.ir_version = 10
    result = passes.lowered_to_opset_17(model)
    assert (opset_of(result), result.ir_version) == (17, 8)
    assert result.graph == model.graph


# --- lowered_to_opset_17: what is refused -----------------------------------------------------------------------------


def computed(name: str) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("Shape", ["x"], ["four"])
    yield helper.make_node("Sub", ["four", "four"], [name])


FOUR, TWO = np.ones(4, np.float32), np.ones(2, np.float32)
REFUSED: dict[str, tuple[onnx.NodeProto, dict[str, np.ndarray]]] = {
    "Pad p: input 3 is computed": (
        helper.make_node("Pad", ["x", "pads", "", "computed"], ["y"], name="p"),
        {"pads": ints(1, 1)},
    ),
    "Pad p: input 1 is computed": (
        helper.make_node("Pad", ["x", "computed", "", "axes"], ["y"], name="p"),
        {"axes": ints(1)},
    ),
    "ReduceMean m: input 1 is computed": (helper.make_node("ReduceMean", ["x", "computed"], ["y"], name="m"), {}),
    "ReduceMax m: noop_with_empty_axes does not exist": (
        helper.make_node("ReduceMax", ["x"], ["y"], name="m", noop_with_empty_axes=1),
        {},
    ),
    "ReduceMin m: noop_with_empty_axes does not exist": (
        helper.make_node("ReduceMin", ["x", "none"], ["y"], name="m", noop_with_empty_axes=1),
        {"none": ints()},
    ),
    "Resize r: antialiasing does not exist": (
        helper.make_node("Resize", ["x", "", "scales"], ["y"], name="r", mode="linear", antialias=1),
        {"scales": FOUR},
    ),
    "Resize r: axes do not exist": (
        helper.make_node("Resize", ["x", "", "scales"], ["y"], name="r", axes=[2, 3]),
        {"scales": TWO},
    ),
    "Resize r: keep_aspect_ratio_policy does not exist": (
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="r", keep_aspect_ratio_policy="not_larger"),
        {"sizes": ints(2, 6, 9, 9)},
    ),
    "Mish changed in opset 18": (helper.make_node("Mish", ["x"], ["y"]), {}),
    "GroupNormalization changed in opset 18": (
        helper.make_node("GroupNormalization", ["x", "g", "g"], ["y"], num_groups=2),
        {"g": TWO},
    ),
    "NoSuchThing, which is no operator of opset 18": (helper.make_node("NoSuchThing", ["x"], ["y"]), {}),
    "com.microsoft.Gelu, which is no standard ONNX operator": (
        helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"),
        {},
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_opset_17_cannot_say_is_refused_by_name(sentence: str) -> None:
    node, constants = REFUSED[sentence]
    assert sentence in refusal(graph_of([*computed("computed"), node], domains=["com.microsoft"], **constants))


def test_split_of_an_unknown_size_is_refused() -> None:
    node = helper.make_node("Split", ["x"], ["y", "z"], name="s", axis=3, num_outputs=2)
    model = graph_of([node], ["y", "z"], shape=("n", 6, "h", "w"))
    assert refusal(model) == "Split s: opset 17 needs sizes, and the size of axis 3 is not known"


def test_pad_of_an_unknown_rank_is_refused() -> None:
    nodes = [
        *computed("four_zeros"),
        helper.make_node("Cast", ["four_zeros"], ["shape"], to=TensorProto.INT64),
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Compress", ["shape", "condition"], ["some"]),
        helper.make_node("Reshape", ["x", "some"], ["r"]),
        helper.make_node("Pad", ["r", "pads", "", "axes"], ["y"], name="p"),
    ]
    model = graph_of(nodes, condition=np.array([True, False]), pads=ints(1, 1), axes=ints(0))
    assert "Pad p: opset 17 needs every axis, and the rank of its input is not known" in refusal(model)


@pytest.mark.parametrize("opset", [11, 16, 19, 21])
def test_other_opsets_are_refused(opset: int) -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], opset=opset)
    assert refusal(model) == f"the graph has opset {opset}; only 17 and 18 can be lowered to 17"


def test_model_without_an_opset_is_refused() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])])
    del model.opset_import[:]
    assert refusal(model) == "the ONNX model names no opset"


# --- the small ones ---------------------------------------------------------------------------------------------------


def test_unused_initializers_are_dropped_and_used_ones_stay() -> None:
    node = helper.make_node("Add", ["x", "used"], ["y"])
    one = np.ones(1, np.float32)
    model = graph_of([node], ["y", "constant_output"], used=one, unused=one, constant_output=one)
    result = without_unused_initializers(model)
    assert [tensor.name for tensor in result.graph.initializer] == ["used", "constant_output"]
    assert len(model.graph.initializer) == 3


def test_dimension_names_are_exchanged_at_both_ends() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], shape=("s53", 3, "s0", "s0"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["s53", 3, "2*s0", "s0"]))
    result = passes.with_dimension_names(model, {"s53": "n", "s0": "h"})

    def names(port: onnx.ValueInfoProto) -> list[int | str]:
        return [dimension.dim_param or dimension.dim_value for dimension in port.type.tensor_type.shape.dim]

    assert names(result.graph.input[0]) == ["n", 3, "h", "h"]
    assert names(result.graph.output[0]) == ["n", 3, "2*s0", "h"]
    assert names(model.graph.input[0]) == ["s53", 3, "s0", "s0"]


def test_replace_nodes_takes_nodes_of_the_same_graph() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="first"), helper.make_node("Neg", ["r"], ["y"], name="second")]
    graph = graph_of(nodes).graph
    replace_nodes(graph, list(reversed(graph.node)))
    assert [node.name for node in graph.node] == ["second", "first"]


def test_copies_share_nothing() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["y"])], c=np.ones(1, np.float32))
    copy, tensor = copy_of(model), copy_tensor(model.graph.initializer[0])
    copy.graph.node[0].op_type = "Neg"
    tensor.name = "other"
    assert (model.graph.node[0].op_type, model.graph.initializer[0].name) == ("Relu", "c")


# --- shuffled_in_frame_order ------------------------------------------------------------------------------------------


Edit = Callable[[list[onnx.NodeProto]], None]


def named(name: str, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=name, **attributes)


def on_v(kind: str, *others: str, first: bool = True, **attributes: Any) -> onnx.NodeProto:
    inputs = ["v", *others] if first else [*others, "v"]
    return named("", kind, inputs, "v", **attributes)


def shuffling(
    r: int = 2,
    *,
    anchor: str = "channels",
    mode: str = "CRD",
    bias: bool = True,
    before: Sequence[onnx.NodeProto] = (),
    after: Sequence[onnx.NodeProto] = (),
    colours: Sequence[int] = (0, 1, 2),
    size: Sequence[int | str] = ("n", "h", "w"),
    edits: Sequence[Edit] = (),
    **changed: Any,
) -> onnx.ModelProto:
    """A net of two convolutions from ``frame`` to ``image``, as the exporter writes one.

    One node after the other writes ``v``, which gets a new name each time. ``before`` and ``after`` are more of them,
    in front of DepthToSpace and behind it; ``colours`` are those that the anchor of channels adds. ``edits`` change the
    list of nodes, ``changed`` the constants. Weights are whole numbers, and else powers of two: every order of a sum
    gives the same float.
    """
    rng = np.random.default_rng(r)
    each = np.tile(colours, r * r) if mode == "DCR" else np.repeat(colours, r * r)
    constants: dict[str, Any] = {
        "w1": rng.integers(-1, 2, (4, 3, 3, 3)).astype(np.float32),
        "w2": rng.integers(-2, 3, (3 * r * r, 4, 3, 3)).astype(np.float32) / 32,
        "b2": rng.integers(0, 256, 3 * r * r).astype(np.float32),
        "low": np.float32(0),
        "high": np.float32(255),
        "scales": np.array([1, 1, r, r], np.float32),
        "repeated": each.astype(np.int64),
        "swap": ints(2, 0, 1),
        "half": np.full((1, 1, 1, 1), 0.5, np.float32),
        "eight": np.float32(8),
        "gains": np.array([1, 2, 4], np.float32).reshape(3, 1, 1),
        "slope": np.full((1, 1, 1), 0.25, np.float32),
    } | changed
    anchors = {
        "channels": ([named("repeat", "Gather", ["planes", "repeated"], "anchor", axis=1), on_v("Add", "anchor")], []),
        "image": (
            [],
            [
                named("resize", "Resize", ["planes", "", "scales"], "anchor", mode="nearest",
                      coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
                on_v("Add", "anchor", first=False),
            ],
        ),
        "none": ([], []),
    }  # fmt: skip
    small, large = anchors[anchor]
    written = [
        named("cast", "Cast", ["frame"], "float", to=TensorProto.FLOAT),
        named("planes", "Transpose", ["float"], "planes", perm=[0, 3, 1, 2]),
        named("first", "Conv", ["planes", "w1"], "hidden", pads=[1, 1, 1, 1]),
        named("last", "Conv", ["hidden", "w2", "b2"][: 2 + bias], "v", pads=[1, 1, 1, 1]),
        *small,
        *before,
        named("shuffle", "DepthToSpace", ["v"], "v", blocksize=r, mode=mode),
        *large,
        *after,
        named("transpose", "Transpose", ["v"], "v", perm=[0, 2, 3, 1]),
        named("clip", "Clip", ["v", "low", "high"], "v"),
        named("round", "Round", ["v"], "v"),
        named("end", "Cast", ["v"], "image", to=TensorProto.UINT8),
    ]
    for edit in edits:
        edit(written)
    nodes: list[onnx.NodeProto] = []
    version = 0
    for node in written:
        inputs = [f"v{version}" if name == "v" else name for name in node.input]
        version += node.output[0] == "v"
        nodes.append(onnx.NodeProto())
        nodes[-1].CopyFrom(node)
        nodes[-1].name = node.name or f"node_{len(nodes)}"
        del nodes[-1].input[:], nodes[-1].output[:]
        nodes[-1].input.extend(inputs)
        nodes[-1].output.append(f"v{version}" if node.output[0] == "v" else node.output[0])
    read = {name for node in nodes for name in node.input}
    output = [size[0], *(r * side if isinstance(side, int) else f"{r}*{side}" for side in size[1:]), 3]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [*size, 3])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def place_of(nodes: Sequence[onnx.NodeProto], name: str) -> int:
    return [node.name for node in nodes].index(name)


def inserted(before: str, *new: onnx.NodeProto) -> Edit:
    """Other nodes in front of the one with that name."""

    def edit(nodes: list[onnx.NodeProto]) -> None:
        place = place_of(nodes, before)
        nodes[place:place] = new

    return edit


def reading(name: str, place: int, tensor: str) -> Edit:
    """Another input of a node."""

    def edit(nodes: list[onnx.NodeProto]) -> None:
        nodes[place_of(nodes, name)].input[place] = tensor

    return edit


def with_attribute(name: str, **attribute: Any) -> Edit:
    def edit(nodes: list[onnx.NodeProto]) -> None:
        for key, value in attribute.items():
            set_attribute(nodes[place_of(nodes, name)], key, value)

    return edit


def image_of(model: onnx.ModelProto, shape: Sequence[int]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return session.run(None, {"frame": frame})[0]


def shuffled(model: onnx.ModelProto, shape: Sequence[int] = (2, 5, 7)) -> onnx.ModelProto:
    """The model after the pass: rewritten, valid, without remains, and with the same image."""
    before = model.SerializeToString()
    result = passes.shuffled_in_frame_order(model)
    assert model.SerializeToString() == before
    kinds = [node.op_type for node in result.graph.node]
    assert not {"DepthToSpace", "Resize"} & set(kinds)
    assert kinds[-2:] == ["Reshape", "Cast"]
    onnx.checker.check_model(result, full_check=True)
    assert result.graph.output == model.graph.output
    assert without_unused_initializers(result) == result
    read = {name for node in result.graph.node for name in node.input}
    assert {name for node in result.graph.node for name in node.output} <= read | {"image"}
    names = [node.name for node in result.graph.node]
    assert len(set(names)) == len(names)
    np.testing.assert_array_equal(image_of(result, shape), image_of(model, shape))
    assert passes.shuffled_in_frame_order(result) == result
    return result


SCALARS = [
    on_v("Mul", "half"), on_v("Add", "eight"), on_v("Sub", "eight", first=False), on_v("Div", "half"),
    on_v("Clip", "", "high"),
]  # fmt: skip
SWAP = on_v("Gather", "swap", axis=1)


@pytest.mark.parametrize("anchor", ["channels", "image", "none"])
@pytest.mark.parametrize("mode", ["CRD", "DCR"])
@pytest.mark.parametrize("size", [("n", "h", "w"), (2, 5, 7)], ids=["free", "fixed"])
def test_pixel_shuffle_gives_the_order_of_the_frame(anchor: str, mode: str, size: Sequence[int | str]) -> None:
    model = shuffling(anchor=anchor, mode=mode, size=size)
    kinds = [node.op_type for node in shuffled(model).graph.node]
    assert kinds.count("Tile") == (anchor != "none")
    assert ("Shape" in kinds) == (size[0] == "n")
    assert len(np.unique(image_of(model, (2, 5, 7)))) > 50


@settings(max_examples=60, deadline=None)
@given(
    r=st.integers(2, 5),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    fixed=st.booleans(),
    anchor=st.sampled_from(["channels", "image", "none"]),
    mode=st.sampled_from(["CRD", "DCR"]),
    bias=st.booleans(),
    colours=st.tuples(*[st.integers(-3, 2)] * 3),
    before=st.lists(st.sampled_from(SCALARS), max_size=2),
    after=st.lists(st.sampled_from([*SCALARS, SWAP]), max_size=3),
)
def test_the_image_stays_the_same(r: int, shape: tuple[int, int, int], fixed: bool, **options: Any) -> None:
    shuffled(shuffling(r, size=shape if fixed else ("n", "h", "w"), **options), shape)


def test_order_of_colours_goes_into_the_weights() -> None:
    """Both swaps together are a third order, and the anchor follows."""
    result = shuffled(shuffling(3, anchor="image", after=[SWAP, on_v("Mul", "half"), SWAP]))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    (gather,) = [node for node in result.graph.node if node.op_type == "Gather" and node.input[0] == "float"]
    assert constants[gather.input[1]].tolist() == [1, 2, 0]
    assert "swap" not in constants


def test_frame_that_only_the_anchor_reads_as_planes() -> None:
    """The Transpose in front of the anchor goes as well."""
    also = named("also", "Transpose", ["float"], "also", perm=[0, 3, 1, 2])
    result = shuffled(shuffling(edits=[inserted("first", also), reading("first", 0, "also")]))
    assert "planes" not in {node.name for node in result.graph.node}


def test_net_that_computes_at_another_size_than_the_frame() -> None:
    result = shuffled(shuffling(4, anchor="none", edits=[with_attribute("first", strides=[2, 2])]), (2, 6, 8))
    assert image_of(result, (2, 6, 8)).shape == (2, 12, 16, 3)


def test_anchor_on_either_side() -> None:
    again = [named("again", "Gather", ["planes", "repeated"], "also", axis=1), on_v("Add", "also", first=False)]
    result = shuffled(shuffling(anchor="image", edits=[inserted("shuffle", *again)]))
    assert [node.op_type for node in result.graph.node].count("Tile") == 2


def another_reader(before: str, tensor: str) -> Edit:
    return inserted(before, named("other", "Abs", [tensor], "other"))


def pooled(nodes: list[onnx.NodeProto]) -> None:
    nodes[place_of(nodes, "first")].CopyFrom(named("first", "GlobalAveragePool", ["planes"], "hidden"))


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


LEFT_ALONE: dict[str, dict[str, Any]] = {
    "nothing to shuffle": {"r": 1},
    "six channels are shuffled": {
        "anchor": "none", "after": [SWAP], "w2": zeros(24, 4, 3, 3), "b2": zeros(24),
    },
    "convolution in groups": {"edits": [with_attribute("last", group=2)], "w2": zeros(12, 2, 3, 3)},
    "computed weights": {
        "edits": [inserted("last", named("w", "Abs", ["w2"], "w")), reading("last", 1, "w")],
    },
    "another operator before": {"before": [on_v("Tanh")]},
    "another operator behind": {"after": [on_v("PRelu", "slope")]},
    "a number for each colour": {"after": [on_v("Mul", "gains")]},
    "a colour taken twice": {"after": [SWAP], "swap": ints(0, 0, 1)},
    "another axis gathered": {"after": [on_v("Gather", "swap", axis=0)], "size": (3, 5, 7)},
    "added to itself": {"after": [on_v("Add", "v")]},
    "transposed otherwise": {"edits": [with_attribute("transpose", perm=[0, 3, 2, 1])], "size": (1, 5, 5)},
    "channels of the other mode": {"repeated": ints(*[0, 1, 2] * 4)},
    "anchor of another tensor": {"edits": [reading("repeat", 0, "hidden")]},
    "anchor read again": {"edits": [another_reader("shuffle", "anchor")]},
    "convolution read again": {"edits": [inserted("repeat", named("other", "Abs", ["v"], "other"))]},
    "image read again": {"edits": [another_reader("clip", "v")]},
    "weights read again": {"edits": [another_reader("last", "w2")]},
    "bias read again": {"edits": [another_reader("last", "b2")]},
    "result read again": {"edits": [lambda nodes: nodes.append(named("other", "Cast", ["image"], "other", to=1))]},
    "one pixel for the whole frame": {"edits": [pooled], "w2": zeros(12, 3, 3, 3)},
    "enlarged and rounded up": {"anchor": "image", "edits": [with_attribute("resize", nearest_mode="ceil")]},
    "enlarged less than it is shuffled": {
        "r": 4, "anchor": "image", "scales": np.array([1, 1, 2, 2], np.float32),
        "edits": [with_attribute("first", strides=[2, 2])],
    },
    "enlarged smoothly": {"anchor": "image", "edits": [with_attribute("resize", mode="linear")]},
    "enlarged corner to corner": {
        "anchor": "image", "edits": [with_attribute("resize", coordinate_transformation_mode="align_corners")],
    },
    "enlarged from another tensor": {
        "anchor": "image",
        "edits": [inserted("resize", named("other", "Abs", ["planes"], "other")), reading("resize", 0, "other")],
    },
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_other_graphs_are_left_alone(case: str) -> None:
    model = shuffling(**LEFT_ALONE[case])
    result = passes.shuffled_in_frame_order(model)
    assert result is not model
    assert result.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_graph_with_a_second_output_or_a_body_is_left_alone() -> None:
    model = shuffling()
    model.graph.output.append(helper.make_tensor_value_info("hidden", TensorProto.FLOAT, None))
    assert passes.shuffled_in_frame_order(model) == model
    del model.graph.output[1]
    body = helper.make_graph(
        [named("outer", "Identity", ["v0"], "o")], "body", [], [helper.make_tensor_value_info("o", 1, None)]
    )
    model.graph.node.append(named("if", "If", ["condition"], "chosen", then_branch=body, else_branch=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    assert passes.shuffled_in_frame_order(model) == model


def test_net_without_a_pixel_shuffle_is_left_alone() -> None:
    model = graph_of([named("relu", "Relu", ["x"], "y")], opset=17)
    assert passes.shuffled_in_frame_order(model) == model
