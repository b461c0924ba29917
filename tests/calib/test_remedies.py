"""What must not change a graph's output, and what must bring a quantised one nearer to it, on graphs of a few nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calib.collect import Statistics, TensorRecord
from calib.graph import Index, copy_of
from calib.layers import layers_of
from calib.observers import Max
from calib.qdq import Int8Qdq, qdq_from_graph
from calib.remedies import LARGEST_FACTOR, bias_corrected, equalisation, equalised
from runtime.errors import GenedgeError

CHANNELS, SIDE = 6, 10
SHAPE = (1, CHANNELS, SIDE, SIDE)
ACTIVATIONS: dict[str, dict[str, Any]] = {"Relu": {}, "LeakyRelu": {"alpha": 0.2}, "PRelu": {}}


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def weights(seed: int, outputs: int = CHANNELS, inputs: int = CHANNELS, spread: float = 1.5) -> np.ndarray:
    """3x3 kernels whose output channels differ much in size."""
    sizes = np.exp(rng(seed).normal(0, spread, (outputs, 1, 1, 1)))
    return (rng(seed + 1).normal(0, 0.2, (outputs, inputs, 3, 3)) * sizes).astype(np.float32)


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, [output], name=f"{output}.node", **attributes)


def conv(source: str, weight: str, output: str, bias: str = "", **attributes: Any) -> NodeProto:
    settings = {"pads": [1, 1, 1, 1], **attributes}
    return node("Conv", [source, weight, *([bias] if bias else [])], output, **settings)


def graph_of(nodes: Sequence[NodeProto], outputs: Sequence[str] = ("y",), **constants: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def chain(activation: str, *, biased: bool = True, seed: int = 0, **constants: Any) -> onnx.ModelProto:
    """Convolution, activation, convolution."""
    slopes = ["slope"] if activation == "PRelu" else []
    nodes = [
        conv("x", "w1", "a", "b1" if biased else ""),
        node(activation, ["a", *slopes], "r", **ACTIVATIONS.get(activation, {})),
        conv("r", "w2", "y", "b2"),
    ]
    given: dict[str, Any] = {"w1": weights(seed), "w2": weights(seed + 7), "b2": np.ones(CHANNELS, np.float32)}
    if biased:
        given["b1"] = rng(seed + 3).normal(size=CHANNELS).astype(np.float32)
    if slopes:
        given["slope"] = rng(seed + 4).uniform(-0.5, 0.9, (CHANNELS, 1, 1)).astype(np.float32)
    return graph_of(nodes, **{**given, **constants})


def run(model: onnx.ModelProto, names: Sequence[str] = (), seed: int = 0) -> list[np.ndarray]:
    """The outputs, or the tensors ``names``, for a random input."""
    if names:
        model = copy_of(model)
        del model.graph.output[:]
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rng(seed).normal(size=SHAPE).astype(np.float32)})


def factors_of(model: onnx.ModelProto) -> dict[str, list[float]]:
    """The factors by ranges that were measured, in the order of the tensors."""
    names = list(dict.fromkeys(name for layer in layers_of(model) for name in (layer.source, layer.activated)))
    inner = [name for name in names if name != "x"]
    statistics = Statistics({name: TensorRecord() for name in names}, 1)
    for name, values in zip(inner, run(model, inner), strict=True):
        low, high, mean = (reduce(values, axis=(0, 2, 3)) for reduce in (np.min, np.max, np.mean))
        statistics.tensors[name].add(low, high, mean, values.ravel(), values[0, 0].size)
    return equalisation(model, statistics)


def close(model: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    return all(
        np.allclose(a, b, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(a).max())))
        for a, b in zip(run(model, seed=5), run(other, seed=5), strict=True)
    )


# --- equalisation computes the same -----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(ACTIVATIONS)), st.booleans(), st.integers(0, 1000))
def test_an_equalised_graph_computes_the_same(activation: str, biased: bool, seed: int) -> None:
    model = chain(activation, biased=biased, seed=seed)
    before = model.SerializeToString()
    factors = factors_of(model)
    result = equalised(model, factors)
    assert list(factors) == ["r"]
    assert close(model, result)
    assert not np.allclose(run(model, ["r"])[0], run(result, ["r"])[0])  # it did something
    assert model.SerializeToString() == before


def test_channels_come_to_similar_ranges() -> None:
    model = chain("Relu", w2=np.full((CHANNELS, CHANNELS, 3, 3), 0.1, np.float32))
    result = equalised(model, factors_of(model))
    before, after = (run(graph, ["r"])[0].max(axis=(0, 2, 3)) for graph in (model, result))
    assert after.max() / after.min() < (before.max() / before.min()) ** 0.5


def test_quantising_an_equalised_graph_loses_less() -> None:
    """That is what it is for: one scale for a tensor whose channels differ hundredfold drowns the small ones."""
    model = chain("Relu", w2=(weights(7, spread=0) / weights(0).std(axis=(1, 2, 3))[None, :, None, None]))
    wanted, errors = run(model)[0], []
    for graph in (model, equalised(model, factors_of(model))):
        ranges = {name: Max().range_of(record.histogram) for name, record in ranges_of(graph).items()}
        errors.append(float(np.mean((run(qdq_from_graph(graph, ranges))[0] - wanted) ** 2)))
    assert errors[1] < 0.5 * errors[0]


def ranges_of(model: onnx.ModelProto) -> dict[str, TensorRecord]:
    records = {}
    for name in ("x", "r"):
        values = run(graph_of([node("Identity", ["x"], "y")]))[0] if name == "x" else run(model, [name])[0]
        records[name] = TensorRecord()
        low, high, mean = (reduce(values, axis=(0, 2, 3)) for reduce in (np.min, np.max, np.mean))
        records[name].add(low, high, mean, values.ravel(), values[0, 0].size)
    return records


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_a_pad_in_between_moves_values_only(mode: str) -> None:
    nodes = [
        conv("x", "w1", "a"),
        node("Relu", ["a"], "r"),
        node("Pad", ["r", "pads"], "p", mode=mode),
        conv("p", "w2", "y", pads=[0, 0, 0, 0]),
    ]
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    model = graph_of(nodes, w1=weights(0), w2=weights(7), pads=pads)
    factors = factors_of(model)
    assert list(factors) == ["r"]
    assert close(model, equalised(model, factors))


def test_a_pad_with_another_value_ends_the_chain() -> None:
    nodes = [
        conv("x", "w1", "a"),
        node("Relu", ["a"], "r"),
        node("Pad", ["r", "pads", "one"], "p"),
        conv("p", "w2", "y", pads=[0, 0, 0, 0]),
    ]
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    model = graph_of(nodes, w1=weights(0), w2=weights(7), pads=pads, one=np.float32(1))
    assert factors_of(model) == {}


@pytest.mark.parametrize("group", [CHANNELS, 2])
def test_a_grouped_convolution_can_come_first(group: int) -> None:
    nodes = [conv("x", "w1", "a", "b1", group=group), node("Relu", ["a"], "r"), conv("r", "w2", "y")]
    first = weights(0, inputs=CHANNELS // group)
    model = graph_of(nodes, w1=first, w2=weights(7), b1=np.ones(CHANNELS, np.float32))
    factors = factors_of(model)
    assert list(factors) == ["r"]
    assert close(model, equalised(model, factors))


@pytest.mark.parametrize("group", [CHANNELS, 2])
def test_a_grouped_convolution_cannot_come_second(group: int) -> None:
    """Its weights have no axis of all input channels."""
    nodes = [conv("x", "w1", "a"), node("Relu", ["a"], "r"), conv("r", "w2", "y", group=group)]
    model = graph_of(nodes, w1=weights(0), w2=weights(7, inputs=CHANNELS // group))
    assert factors_of(model) == {}


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_transposed_convolutions(second: bool) -> None:
    ops = [
        node("ConvTranspose", ["x", "w1", "b1"], "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("LeakyRelu", ["a"], "r", alpha=0.1),
        conv("r", "w2", "y"),
    ]
    if second:
        ops = [conv("x", "w1", "a", "b1"), ops[1], node("ConvTranspose", ["r", "w2"], "y", strides=[2, 2])]
    wide, turned = weights(0, outputs=8), np.ascontiguousarray(weights(0, outputs=8).swapaxes(0, 1))
    following = weights(7, CHANNELS, 8)
    model = graph_of(
        ops,
        w1=wide if second else turned,
        w2=np.ascontiguousarray(following.swapaxes(0, 1)) if second else following,
        b1=np.linspace(-1, 1, 8, dtype=np.float32),
    )
    factors = factors_of(model)
    assert [len(values) for values in factors.values()] == [8]
    assert close(model, equalised(model, factors))


def test_dead_channels_stay_dead_and_disturb_nobody() -> None:
    first, second = weights(0), weights(7)
    first[2] = 0  # never active
    second[:, 4] = 0  # never read
    model = chain("Relu", biased=False, w1=first, w2=second)
    (factors,) = factors_of(model).values()
    assert (factors[2], factors[4]) == (1.0, 1.0)
    assert np.isfinite(factors).all()
    assert close(model, equalised(model, {"r": factors}))
    nothing = chain("Relu", biased=False, w1=np.zeros_like(first), w2=second)
    assert factors_of(nothing) == {}


@given(st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_factors_are_bounded(seed: int) -> None:
    (factors,) = factors_of(chain("Relu", seed=seed, w1=weights(seed, spread=8.0))).values()
    assert 1 / LARGEST_FACTOR <= min(factors) <= max(factors) <= LARGEST_FACTOR


# --- what is left alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "attributes"), [("Sigmoid", {}), ("Tanh", {}), ("HardSigmoid", {}), ("Elu", {"alpha": 1.0})]
)
def test_activations_that_do_not_scale_are_left_alone(op: str, attributes: dict[str, float]) -> None:
    nodes = [conv("x", "w1", "a"), node(op, ["a"], "r", **attributes), conv("r", "w2", "y")]
    assert factors_of(graph_of(nodes, w1=weights(0), w2=weights(7))) == {}


def test_clipped_activations_are_left_alone() -> None:
    nodes = [conv("x", "w1", "a"), node("Clip", ["a", "zero", "six"], "r"), conv("r", "w2", "y")]
    model = graph_of(nodes, w1=weights(0), w2=weights(7), zero=np.float32(0), six=np.float32(6))
    assert factors_of(model) == {}


def test_a_residual_reader_ends_the_chain() -> None:
    nodes = [*chain("Relu").graph.node[:2], conv("r", "w2", "c"), node("Add", ["c", "r"], "y")]
    model = graph_of(nodes, w1=weights(0), b1=np.ones(CHANNELS, np.float32), w2=weights(7))
    assert factors_of(model) == {}


def test_an_output_of_the_graph_is_left_alone() -> None:
    model = chain("Relu")
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, SHAPE))
    assert factors_of(model) == {}


def test_two_layers_that_read_one_tensor_are_left_alone() -> None:
    nodes = [*chain("Relu").graph.node[:2], conv("r", "w2", "c"), conv("r", "w3", "d"), node("Add", ["c", "d"], "y")]
    model = graph_of(nodes, w1=weights(0), b1=np.ones(CHANNELS, np.float32), w2=weights(7), w3=weights(9))
    assert factors_of(model) == {}


@pytest.mark.parametrize("shared", ["w1", "b1", "w2"])
def test_constants_of_two_layers_are_left_alone(shared: str) -> None:
    parts = {"w1": "w1", "b1": "b1", "w2": "w2", shared: "both"}
    nodes = [
        conv("x", parts["w1"], "a", parts["b1"]),
        node("Relu", ["a"], "r"),
        conv("r", parts["w2"], "c", "b2"),
        conv("c", "both" if shared != "b1" else "w4", "y", "both" if shared == "b1" else "b2"),
    ]
    values = {"w1": weights(0), "w2": weights(7), "b1": np.ones(CHANNELS, np.float32)}
    values["both"] = values.pop(shared)
    model = graph_of(nodes, **values, w4=weights(11), b2=np.zeros(CHANNELS, np.float32))
    factors = factors_of(model)
    assert "r" not in factors
    assert close(model, equalised(model, factors))


@pytest.mark.parametrize("shared", ["w1", "b1", "w2"])
def test_constants_that_other_nodes_read_are_left_alone(shared: str) -> None:
    model = chain("Relu")
    nodes = [*list(model.graph.node)[:2], conv("r", "w2", "c", "b2"), node("ReduceSum", [shared], "s", keepdims=0)]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    model = graph_of([*nodes, node("Add", ["c", "s"], "y")], **constants)
    factors = factors_of(model)
    assert factors == {}
    assert close(model, equalised(model, factors))


def test_a_bias_that_is_computed_is_left_alone() -> None:
    nodes = [node("ReduceMax", ["x"], "m", axes=[0, 2, 3], keepdims=0), conv("x", "w1", "a", "m")]
    nodes += [node("Relu", ["a"], "r"), conv("r", "w2", "y")]
    assert factors_of(graph_of(nodes, w1=weights(0), w2=weights(7))) == {}


@pytest.mark.parametrize(
    "factors",
    [
        {"elsewhere": [1.0] * CHANNELS},
        {"r": [1.0] * (CHANNELS - 1)},
        {"r": []},
        {"r": [1.0] * (CHANNELS - 1) + [0.0]},
        {"r": [1.0] * (CHANNELS - 1) + [-2.0]},
        {"r": [1.0] * (CHANNELS - 1) + [float("nan")]},
        {"r": [1.0] * (CHANNELS - 1) + [float("inf")]},
        {"y": [1.0] * CHANNELS},
        {"x": [1.0] * CHANNELS},
    ],
)
def test_factors_of_another_graph_are_refused(factors: dict[str, list[float]]) -> None:
    with pytest.raises(GenedgeError, match=r"^the equalisation of \w+ fits no layer: .* another graph$"):
        equalised(chain("Relu"), factors)


def test_no_factors_change_nothing() -> None:
    model = chain("PRelu")
    assert equalised(model, {}).SerializeToString() == model.SerializeToString()


# --- bias correction --------------------------------------------------------------------------------------------------


def positive_chain(**constants: Any) -> onnx.ModelProto:
    """The second layer reads what is positive on average, so that rounding its weights shifts its mean."""
    return chain("Relu", **{"b1": np.full(CHANNELS, 8, np.float32), "w1": weights(0, spread=0), **constants})


def means_of(model: onnx.ModelProto) -> dict[str, list[float]]:
    return {"r": [float(value) for value in run(model, ["r"])[0].mean(axis=(0, 2, 3))]}


def mean_errors(model: onnx.ModelProto, corrected: onnx.ModelProto) -> np.ndarray:
    """How far the mean of every output channel is from the float graph's, once quantised."""
    ranges = {name: Max().range_of(record.histogram) for name, record in ranges_of(model).items()}
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # at the border there are zeros besides the mean
    found = run(qdq_from_graph(corrected, ranges, Int8Qdq(keep=("a.node",))))[0][inner]
    return np.abs(found.mean(axis=(0, 2, 3)) - run(model)[0][inner].mean(axis=(0, 2, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_error_of_every_channel_shrinks(seed: int) -> None:
    generator = rng(seed)
    second = generator.normal(0, 0.02, (CHANNELS, CHANNELS, 3, 3))
    second[:, 0, 0, 0] = 4.0  # one large weight makes the steps of the others coarse
    model = positive_chain(w2=second.astype(np.float32))
    corrected = bias_corrected(model, means_of(model), {"y.node"})
    before, after = mean_errors(model, model), mean_errors(model, corrected)
    assert before.mean() > 0.1
    assert after.mean() < 0.3 * before.mean()
    assert (after <= np.maximum(before, 0.1)).all()


def test_only_the_named_layers_are_corrected() -> None:
    model = positive_chain()
    means = {**means_of(model), "x": [1.0] * CHANNELS}
    changed = bias_corrected(model, means, {"y.node"})
    assert np.array_equal(value(changed, "b1"), value(model, "b1"))
    assert not np.array_equal(value(changed, "b2"), value(model, "b2"))
    assert np.array_equal(value(changed, "w2"), value(model, "w2"))
    assert bias_corrected(model, means, ()).SerializeToString() == model.SerializeToString()


def value(model: onnx.ModelProto, name: str) -> np.ndarray:
    found = Index(model.graph).constant(name)
    assert found is not None
    return found


@pytest.mark.parametrize("means", [{}, {"r": [1.0]}, {"elsewhere": [1.0] * CHANNELS}])
def test_layers_without_means_are_left_as_they_are(means: dict[str, list[float]]) -> None:
    model = positive_chain()
    assert bias_corrected(model, means, {"a.node", "y.node"}).SerializeToString() == model.SerializeToString()


def test_a_bias_of_two_layers_is_left_as_it_is() -> None:
    """The error of one would be taken off the other as well."""
    nodes = [conv("x", "w1", "a", "b"), node("Relu", ["a"], "r"), conv("r", "w2", "y", "b")]
    model = graph_of(nodes, w1=weights(0), w2=weights(7), b=np.ones(CHANNELS, np.float32))
    means = {"x": [1.0] * CHANNELS, "r": [1.0] * CHANNELS}
    assert bias_corrected(model, means, {"a.node", "y.node"}).SerializeToString() == model.SerializeToString()


def test_layers_that_read_the_frame_are_left_as_they_are() -> None:
    """Their pixels are centred, which removes the mean already."""
    graph = positive_chain().graph
    port = helper.make_tensor_value_info("frame", TensorProto.UINT8, SHAPE)
    cast = helper.make_node("Cast", ["frame"], ["x"], name="cast", to=TensorProto.FLOAT)
    nodes = [cast, *graph.node]
    framed = helper.make_graph(nodes, "framed", [port], list(graph.output), list(graph.initializer))
    model = helper.make_model(framed, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    means = {"x": [1.0] * CHANNELS, "r": [1.0] * CHANNELS}
    changed = bias_corrected(model, means, {"a.node", "y.node"})
    assert np.array_equal(value(changed, "b1"), value(model, "b1"))
    assert not np.array_equal(value(changed, "b2"), value(model, "b2"))
