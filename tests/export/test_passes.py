"""Each pass on a graph of a few nodes, and the lowered graph in ONNX Runtime against the one of opset 18."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calib.graph import copy_of, copy_tensor, opset_of, replace_nodes, without_unused_initializers
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
