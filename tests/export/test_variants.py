from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from checkpoint_factory import exported
from onnx import TensorProto, helper, numpy_helper
from published import frames

from export.config import Fp16
from export.variants import FP32_OPERATORS, fp16_from_graph
from runtime.errors import GenedgeError
from runtime.metrics import psnr

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
FAMILIES = ["compact-x2", "srvgg-x4", "srgan-leftthomas-x4", "span-x4", "fast-style", "cyclegan-compressed"]
SHAPE = (1, 4, 6, 8)


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.2, size=(4, 4, 3, 3)).astype(np.float32)


def conv(input: str, output: str, weight: str = "w") -> onnx.NodeProto:
    return helper.make_node("Conv", [input, weight], [output], name=output, pads=[1, 1, 1, 1])


def graph_of(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",), **constants: Any) -> onnx.ModelProto:
    """A model from ``x`` (float32) to float32 ``outputs``; ``w`` is the weight of a convolution."""
    for node in nodes:
        node.name = node.name or node.output[0]
    constants.setdefault("w", weights())
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, by ONNX's own inference."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    named = {info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.output, *graph.value_info)}
    return named | {tensor.name: tensor.data_type for tensor in graph.initializer}


def assert_strongly_typed(model: onnx.ModelProto) -> None:
    """No node mixes float16 and float32, but for Resize, whose region and scales are float32 by definition."""
    known = types(model)
    for node in model.graph.node:
        inputs = [node.input[0]] if node.op_type == "Resize" else list(node.input)
        kinds = {known[name] for name in inputs if name} & FLOATS
        assert len(kinds) <= 1, f"{node.op_type} {node.name} mixes float types"
        if node.op_type != "Cast":
            assert {known[name] for name in node.output} & FLOATS <= (kinds or FLOATS)


def computed_in(model: onnx.ModelProto) -> dict[str, str]:
    """Node name to ``fp16`` or ``fp32``, from the type of its output; Casts that were added are left out."""
    known, names = types(model), {TensorProto.FLOAT16: "fp16", TensorProto.FLOAT: "fp32"}
    return {node.name: names[known[node.output[0]]] for node in model.graph.node if known[node.output[0]] in names}


def added_casts(model: onnx.ModelProto, original: onnx.ModelProto) -> list[onnx.NodeProto]:
    before = {node.name for node in original.graph.node}
    return [node for node in model.graph.node if node.name not in before]


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def ends(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """Names and types of inputs and outputs."""
    return [(port.name, port.type.tensor_type.elem_type) for port in (*model.graph.input, *model.graph.output)]


def converted(model: onnx.ModelProto, settings: Fp16 | None = None) -> onnx.ModelProto:
    """The float16 variant: valid, strongly typed, with the same ends, and close to the original in its output."""
    before = model.SerializeToString()
    result = fp16_from_graph(model, settings)
    assert model.SerializeToString() == before
    assert (result.opset_import[0].version, result.ir_version) == (17, 8)
    onnx.checker.check_model(result, full_check=True)
    assert_strongly_typed(result)
    assert ends(model) == ends(result)
    if model.graph.input[0].name == "x":
        x = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
        for wanted, found in zip(run(model, x=x), run(result, x=x), strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())
    return result


# --- places to sample at ----------------------------------------------------------------------------------------------


def sampling(flow: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    """``x`` sampled at places that two convolutions, the second with the weights ``flow``, make of ``x``."""
    nodes = [
        conv("x", "features"),
        helper.make_node("Conv", ["features", "motion"], ["estimate"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["estimate"], ["bounded"]),
        helper.make_node("Conv", ["bounded", "flow"], ["smooth"], pads=[1, 1, 1, 1], **attributes),
        helper.make_node("Transpose", ["smooth"], ["places"], perm=[0, 2, 3, 1]),
        helper.make_node("GridSample", ["features", "places"], ["moved"], align_corners=1, padding_mode="border"),
        conv("moved", "y"),
    ]
    motion = np.random.default_rng(2).normal(scale=0.2, size=(flow.shape[1] * attributes.get("group", 1), 4, 3, 3))
    return graph_of(nodes, motion=motion.astype(np.float32), flow=flow.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "attributes", "places"),
    [((2, 2, 3, 3), {}, True), ((2, 1, 3, 3), {"group": 2}, True), ((2, 8, 3, 3), {}, False)],
    ids=["two-channels", "two-groups", "eight-channels"],
)
def test_what_enlarges_a_motion_stays_float32_and_what_estimates_it_does_not(
    shape: tuple[int, ...], attributes: dict[str, Any], places: bool
) -> None:
    flow = np.random.default_rng(3).normal(scale=0.3, size=shape)
    computed = computed_in(converted(sampling(flow, **attributes)))
    assert {name for name, kind in computed.items() if kind == "fp32"} >= {"places", "moved"}
    assert (computed["smooth"], computed["bounded"]) == (("fp32", "fp32") if places else ("fp16", "fp16"))
    assert computed["features"] == computed["estimate"] == computed["y"] == "fp16"


# --- whole families ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", FAMILIES)
def test_family_in_float16(id: str) -> None:
    model = exported(id)
    result = converted(model)
    computed = computed_in(result)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) >= 3
    assert {computed[name] for name in convolutions} == {"fp16"}
    weights = [tensor for tensor in result.graph.initializer if tensor.name.endswith(".weight.fp16")]
    assert len(weights) >= 3
    assert all(tensor.data_type == TensorProto.FLOAT16 for tensor in weights)


@pytest.mark.parametrize("id", FAMILIES)
def test_output_stays_close(id: str) -> None:
    model, images = exported(id), frames(2)
    (wanted,), (found,) = run(model, frame=images), run(fp16_from_graph(model), frame=images)
    assert found.dtype == np.uint8
    assert psnr(wanted, found) > 50
    assert wanted.std() > 5


@pytest.mark.parametrize("id", FAMILIES)
def test_nodes_keep_their_names_and_their_order(id: str) -> None:
    """Reports and ``keep`` name nodes; the only new ones are Casts."""
    model = exported(id)
    result = fp16_from_graph(model)
    old = [node.name for node in model.graph.node]
    assert [node.name for node in result.graph.node if node.name in old] == old
    assert {node.op_type for node in added_casts(result, model)} == {"Cast"}
    names = [node.name for node in result.graph.node]
    assert len(set(names)) == len(names)


def test_picture_arithmetic_in_0_to_255_stays_float32() -> None:
    """Float16 has 11 bits: near 255 it would round to an eighth of a step before the real rounding."""
    result = fp16_from_graph(exported("compact-x2", (20, 28)))
    computed = computed_in(result)
    kinds = {node.op_type: computed.get(node.name) for node in result.graph.node}
    assert {kinds[kind] for kind in ("Tile", "Add", "Transpose", "Clip", "Round", "Reshape")} == {"fp32"}


def test_weights_take_half_the_room() -> None:
    model = exported("srvgg-x4")
    assert len(fp16_from_graph(model).SerializeToString()) < 0.75 * len(model.SerializeToString())


# --- single rules -----------------------------------------------------------------------------------------------------


def test_casts_stand_only_where_the_types_meet() -> None:
    model = graph_of(
        [
            helper.make_node("Mul", ["x", "gain"], ["scaled"]),
            conv("scaled", "first"),
            helper.make_node("Relu", ["first"], ["relu"]),
            conv("relu", "second"),
            helper.make_node("Add", ["second", "scaled"], ["y"]),
        ],
        gain=np.float32(0.5),
    )
    result = converted(model)
    assert computed_in(result) | {"x": ""} == {
        "scaled": "fp32", "scaled.to_fp16": "fp16", "first": "fp16", "relu": "fp16", "second": "fp16",
        "second.to_fp32": "fp32", "y": "fp32", "x": "",
    }  # fmt: skip


def test_one_cast_serves_every_reader() -> None:
    nodes = [conv("x", "a"), conv("x", "b"), helper.make_node("Add", ["a", "b"], ["sum"]), conv("sum", "y")]
    model = graph_of(nodes)
    assert len(added_casts(converted(model), model)) == 2  # x to float16, y to float32


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (helper.make_node("InstanceNormalization", ["a", "g", "g"], ["b"]), {"g": np.ones(4, np.float32)}),
        (helper.make_node("ReduceMean", ["a"], ["b"], axes=[2, 3]), {}),
        (helper.make_node("ReduceSum", ["a", "axes"], ["b"]), {"axes": np.array([2, 3])}),
        (helper.make_node("LayerNormalization", ["a", "g"], ["b"]), {"g": np.ones(8, np.float32)}),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_sums_over_a_picture_stay_float32(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> None:
    assert node.op_type in FP32_OPERATORS
    result = converted(graph_of([conv("x", "a"), node, conv("b", "y")], **constants))
    computed = computed_in(result)
    assert (computed["a"], computed["b"], computed["y"]) == ("fp16", "fp32", "fp16")


def test_coordinates_of_grid_sample_stay_float32() -> None:
    grid = np.random.default_rng(2).uniform(-1, 1, (1, 6, 8, 2)).astype(np.float32)
    nodes = [conv("x", "a"), helper.make_node("GridSample", ["a", "grid"], ["b"]), conv("b", "y")]
    assert computed_in(converted(graph_of(nodes, grid=grid)))["b"] == "fp32"


def test_scales_of_resize_are_float32_by_definition() -> None:
    nodes = [
        conv("x", "a"),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="nearest", nearest_mode="floor"),
        conv("b", "y"),
    ]
    result = converted(graph_of(nodes, scales=np.array([1, 1, 2, 2], np.float32)))
    assert computed_in(result)["b"] == "fp16"
    assert types(result)["scales"] == TensorProto.FLOAT


def test_kept_nodes_stay_float32() -> None:
    model = graph_of([conv("x", "a"), conv("a", "b"), conv("b", "y")])
    result = converted(model, Fp16(keep=("b",)))
    computed = computed_in(result)
    assert (computed["a"], computed["b"], computed["y"]) == ("fp16", "fp32", "fp16")
    assert types(result)["w"] == TensorProto.FLOAT  # read by both, so it is there twice
    assert types(result)["w.fp16"] == TensorProto.FLOAT16


def test_unknown_node_to_keep_is_refused() -> None:
    with pytest.raises(GenedgeError, match="no node is called conv_17, so it cannot be kept in float32"):
        fp16_from_graph(graph_of([conv("x", "y")]), Fp16(keep=("y", "conv_17")))


@pytest.mark.parametrize("value", [70_000.0, -1e30, float("inf")])
def test_constants_beyond_float16_stay_float32(value: float) -> None:
    nodes = [conv("x", "a"), helper.make_node("Max", ["a", "big"], ["b"]), helper.make_node("Min", ["b", "one"], ["c"])]
    model = graph_of([*nodes, conv("c", "y")], big=np.float32(value), one=np.float32(1))
    computed = computed_in(fp16_from_graph(model))
    assert (computed["a"], computed["b"], computed["c"], computed["y"]) == ("fp16", "fp32", "fp16", "fp16")


def test_constant_that_vanishes_in_float16_stays_float32() -> None:
    """An epsilon of 1e-9 guards a division; as float16 it is 0."""
    nodes = [
        conv("x", "a"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Add", ["r", "epsilon"], ["d"]),
        helper.make_node("Div", ["a", "d"], ["q"]),
        helper.make_node("Clip", ["q", "", "one"], ["c"]),
        conv("c", "y"),
    ]
    model = graph_of(nodes, epsilon=np.float32(1e-9), one=np.float32(1))
    assert computed_in(fp16_from_graph(model))["d"] == "fp32"


def test_small_weights_may_vanish() -> None:
    """One tiny weight among others means nothing, so it keeps no layer in float32."""
    tiny = weights()
    tiny[0, 0, 0, 0] = 1e-12
    assert computed_in(converted(graph_of([conv("x", "a"), conv("a", "y")], w=tiny)))["a"] == "fp16"


def test_output_that_is_read_inside_as_well() -> None:
    """The hidden state of a recurrent net leaves the graph as float32 and goes on inside as float16."""
    nodes = [conv("x", "a"), helper.make_node("Relu", ["a"], ["state"]), conv("state", "b"), conv("b", "y")]
    model = graph_of(nodes, ["y", "state"])
    result = converted(model)
    assert computed_in(result)["b"] == "fp16"
    assert len(added_casts(result, model)) == 3  # x, y and the state at the edge; none there and back


def test_cast_inside_gives_float16() -> None:
    nodes = [
        conv("x", "a"),
        helper.make_node("Greater", ["a", "zero"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "m"], ["b"]),
        conv("b", "y"),
    ]
    model = graph_of(nodes, zero=np.float32(0))
    for node in model.graph.node:
        node.name = node.output[0]
    assert computed_in(converted(model))["m"] == "fp16"


def test_shapes_and_indices_keep_their_types() -> None:
    nodes = [
        conv("x", "a"),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Reshape", ["a", "flat"], ["f"]),
        helper.make_node("Reshape", ["f", "shape"], ["b"]),
        conv("b", "y"),
    ]
    result = converted(graph_of(nodes, flat=np.array([4, -1])))
    assert types(result)["shape"] == TensorProto.INT64


def test_graph_without_weights_stays_as_it_is() -> None:
    model = graph_of([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"])])
    result = converted(model)
    assert not added_casts(result, model)
    assert "fp16" not in computed_in(result).values()


def test_subgraphs_are_refused() -> None:
    result = helper.make_tensor_value_info("n", TensorProto.FLOAT, SHAPE)
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["n"])], "branch", [], [result])
    nodes = [helper.make_node("If", ["yes"], ["i"], then_branch=branch, else_branch=branch), conv("i", "y")]
    with pytest.raises(GenedgeError, match="supports no If or Loop"):
        fp16_from_graph(graph_of(nodes, yes=np.array(True)))
