"""What graph passes share."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_graphs import FLOAT, model_of, node, random

from calib.graph import (
    Index,
    Names,
    attribute,
    checked,
    copy_of,
    copy_tensor,
    names_read,
    opset_of,
    replace_nodes,
    set_attribute,
    topological,
    without_unused_initializers,
)
from runtime.errors import GenedgeError

X = {"x": (FLOAT, (1, 2, "h", "w"))}


def branching() -> onnx.ModelProto:
    """An If whose bodies read ``a`` and the constant ``w``, which nothing else reads, and their own ``k``."""
    bodies = {}
    for name in ("then_branch", "else_branch"):
        bodies[name] = helper.make_graph(
            [node("Add", "a w", "inner"), node("Mul", "inner k", "out")],
            name,
            [],
            [helper.make_tensor_value_info("out", FLOAT, None)],
            [numpy_helper.from_array(np.float32(2).reshape(()), "k")],
        )
    nodes = [node("Relu", "x", "a"), node("If", "condition", "y", **bodies)]
    return model_of(nodes, {"condition": np.array(True), "w": np.float32(1)}, X)


def test_copies_are_apart() -> None:
    model = model_of([node("Mul", "x w", "y")], {"w": np.float32(3)}, X)
    other = copy_of(model)
    other.graph.node[0].name = "other"
    tensor = copy_tensor(model.graph.initializer[0])
    tensor.name = "v"
    assert (model.graph.node[0].name, model.graph.initializer[0].name) == ("y", "w")


def test_nodes_are_replaced_by_copies_of_themselves() -> None:
    model = model_of([node("Relu", "x", "a"), node("Abs", "a", "y")], {}, X)
    replace_nodes(model.graph, [model.graph.node[1], model.graph.node[0]])
    assert [made.op_type for made in model.graph.node] == ["Abs", "Relu"]


def test_unused_constants_go_and_the_model_stays() -> None:
    model = model_of([node("Mul", "x w", "y")], {"w": np.float32(3), "unused": np.float32(1)}, X)
    assert [tensor.name for tensor in without_unused_initializers(model).graph.initializer] == ["w"]
    assert len(model.graph.initializer) == 2


def test_constant_that_is_an_output_is_used() -> None:
    model = model_of([node("Relu", "x", "y")], {"w": np.ones(1, np.float32)}, X)
    model.graph.output.append(helper.make_tensor_value_info("w", FLOAT, [1]))
    assert len(without_unused_initializers(model).graph.initializer) == 1


def test_bodies_read_what_stands_around_them() -> None:
    model = branching()
    assert sorted(names_read(model.graph.node[1])) == ["a", "condition", "w"]
    assert {tensor.name for tensor in without_unused_initializers(model).graph.initializer} == {"condition", "w"}
    reader = Index(model.graph).only_reader("a")
    assert reader is not None
    assert reader.op_type == "If"
    assert [made.op_type for made in topological(list(model.graph.node)[::-1], ["x", "condition", "w"])] == [
        "Relu",
        "If",
    ]


def test_opset() -> None:
    model = model_of([node("Relu", "x", "y")], {}, X)
    assert opset_of(model) == 17
    model.opset_import[0].domain = "com.microsoft"
    with pytest.raises(GenedgeError, match="names no opset"):
        opset_of(model)


def test_checker_speaks_in_one_line() -> None:
    model = model_of([node("Relu", "x", "y")], {}, X)
    assert checked(model) is model
    model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(GenedgeError, match=r"not valid ONNX: .*Nonsense") as caught:
        checked(model)
    assert "\n" not in str(caught.value)


def test_checker_infers_shapes() -> None:
    model = model_of([node("Conv", "x w", "y")], {"w": random(4, 2, 3, 3)}, X)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(random(4, 5, 3, 3), "w"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 8
    model.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(FLOAT, (1, 4, 1, 1)))
    with pytest.raises(GenedgeError, match="not valid ONNX"):
        checked(model)


def test_attributes() -> None:
    conv = node("Conv", "x w", "y", pads=[1, 2, 3, 4], auto_pad="VALID", group=2)
    assert attribute(conv, "pads") == [1, 2, 3, 4]
    assert attribute(conv, "auto_pad") == "VALID"
    assert attribute(conv, "group", 1) == 2
    assert attribute(conv, "strides") is None
    assert attribute(conv, "strides", [1, 1]) == [1, 1]
    set_attribute(conv, "pads", [0, 0, 0, 0])
    set_attribute(conv, "dilations", [2, 2])
    assert attribute(conv, "pads") == [0, 0, 0, 0]
    assert sorted(entry.name for entry in conv.attribute) == ["auto_pad", "dilations", "group", "pads"]


def test_index() -> None:
    nodes = [node("Relu", "x", "a"), node("Add", "a a", "y"), node("Mul", "y w", "z"), node("Clip", "z - w", "e")]
    index = Index(model_of(nodes, {"w": np.float32(3)}, X, ["y", "e"]).graph)
    assert index.producer["a"].op_type == "Relu"
    assert "x" not in index.producer
    assert [made.op_type for made in index.readers["a"]] == ["Add"]
    assert index.is_constant("w")
    assert index.constant("w") == 3
    assert not index.is_constant("a")
    assert index.constant("a") is None
    only = index.only_reader("a")
    assert only is not None
    assert only.op_type == "Add"
    assert index.only_reader("y") is None, "it is an output as well"
    assert index.only_reader("w") is None, "two nodes read it"
    assert index.only_reader("e") is None, "nothing reads it"


def test_fresh_names_are_free_everywhere() -> None:
    nodes = [node("Relu", "x", "a", name="node"), node("Mul", "a w", "y")]
    names = Names(model_of(nodes, {"w": np.float32(3)}, X).graph)
    for taken in ("node", "a", "x", "w", "y"):
        assert names.fresh(taken) == f"{taken}_2"
    assert names.fresh("a") == "a_3"
    assert names.fresh("new") == "new"
    assert names.fresh("new") == "new_2"


def test_order_in_which_everything_is_made_before_it_is_read() -> None:
    nodes = [node("Add", "b a", "y"), node("Relu", "x", "a"), node("Clip", "a - w", "b"), node("Abs", "x", "other")]
    assert [made.name for made in topological(nodes, ["x", "w"])] == ["a", "b", "other", "y"]
    ordered = [nodes[1], nodes[3], nodes[2], nodes[0]]
    assert topological(ordered, ["x", "w"]) == ordered


@pytest.mark.parametrize("known", [["w"], ["x"]])
def test_missing_tensor_has_no_order(known: list[str]) -> None:
    with pytest.raises(ValueError, match="reads a tensor that no node makes"):
        topological([node("Relu", "x", "a"), node("Clip", "a - w", "y")], known)


def test_cycle_has_no_order() -> None:
    with pytest.raises(ValueError, match="Add b"):
        topological([node("Add", "x c", "b"), node("Relu", "b", "c")], ["x"])
