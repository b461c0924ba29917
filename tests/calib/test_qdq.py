"""Both INT8 forms on graphs of a few nodes: where pairs stand, what they hold, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, helper
from small_graphs import (
    FLOAT,
    FRAME,
    UINT8,
    constants_of,
    kinds,
    makers,
    model_of,
    node,
    optimised,
    pixel_constants,
    planes_of,
    random,
    run,
)

from calib.collect import wanted_tensors
from calib.graph import attribute, without_unused_initializers
from calib.layers import layers_of
from calib.observers import Range
from calib.qdq import Int8Ort, Int8Qdq, ort_from_graph, qdq_from_graph, weight_scales
from runtime.errors import GenedgeError
from runtime.frames import Frame

X = {"x": (FLOAT, (1, 4, "h", "w"))}
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])
Ranges = dict[str, Range]


def range_of(values: NDArray[Any]) -> Range:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Range(low, high, max(-low, high))


def measured(model: onnx.ModelProto, **inputs: NDArray[Any]) -> Ranges:
    """Ranges of all wanted tensors, over all values for one input. Input ``x`` is random where none is given."""
    if not inputs:
        inputs = {"x": random(1, 4, 12, 10, seed=99)}
    names = wanted_tensors(layers_of(model))
    more = onnx.ModelProto.FromString(model.SerializeToString())
    del more.graph.output[:]
    made = [name for name in names if name not in inputs]
    more.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for name in made)
    values = {**inputs, **dict(zip(made, run(more, plain=True, **inputs), strict=True))}
    return {name: range_of(values[name]) for name in names}


class Pair:
    """The QuantizeLinear and DequantizeLinear that make a tensor. A constant that is quantised already has only one."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        made, constants = makers(model), constants_of(model)
        back = made[name]
        assert back.op_type == "DequantizeLinear"
        self.small = back.input[0]
        self.scale, self.zero = constants[back.input[1]], constants[back.input[2]]
        self.axis = attribute(back, "axis")
        self.constant = constants.get(self.small)
        if self.constant is None:
            there = made[self.small]
            assert there.op_type == "QuantizeLinear"
            assert list(there.input)[1:] == list(back.input)[1:]
            assert attribute(there, "axis") == self.axis
            self.source = there.input[0]


def is_paired(model: onnx.ModelProto, name: str) -> bool:
    made = makers(model)
    return name in made and made[name].op_type == "DequantizeLinear"


def named(model: onnx.ModelProto, name: str) -> NodeProto:
    (found,) = [made for made in model.graph.node if made.name == name]
    return found


def well_formed(result: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """What every result must be, and that the model it was made of stayed."""
    onnx.checker.check_model(result, full_check=True)
    assert [(entry.domain, entry.version) for entry in result.opset_import] == [("", 17)]
    assert result.ir_version == model.ir_version
    assert without_unused_initializers(result) == result
    assert result.graph.input == model.graph.input
    assert result.graph.output == model.graph.output
    names = [made.name for made in result.graph.node]
    assert len(set(names)) == len(names)
    tensors = [name for made in result.graph.node for name in made.output] + list(constants_of(result))
    assert len(set(tensors)) == len(tensors)
    read = {name for made in result.graph.node for name in made.input} | {port.name for port in result.graph.output}
    assert {name for made in result.graph.node for name in made.output} <= read, "every node is of use"


def quantised(
    model: onnx.ModelProto, ranges: Mapping[str, Range] | None = None, config: Int8Qdq | None = None
) -> onnx.ModelProto:
    """The TensorRT form, and what holds for all of them."""
    before = model.SerializeToString(deterministic=True)
    result = qdq_from_graph(model, measured(model) if ranges is None else ranges, config)
    assert model.SerializeToString(deterministic=True) == before
    well_formed(result, model)
    constants = constants_of(result)
    for made in result.graph.node:
        if made.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero, scale = constants[made.input[2]], constants[made.input[1]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert scale.dtype == np.float32
            assert scale.shape == zero.shape
            assert (scale > 0).all()
    assert {value.dtype for name, value in constants.items() if value.ndim > 1} <= {np.dtype(np.float32)}
    for layer in layers_of(model):
        made = named(result, layer.name)
        if layer.bias in constants_of(model):
            assert constants[made.input[2]].dtype == np.float32
    return result


def lowered(
    model: onnx.ModelProto, ranges: Mapping[str, Range] | None = None, config: Int8Ort | None = None
) -> onnx.ModelProto:
    """ONNX Runtime's form, and what holds for all of them."""
    before = model.SerializeToString(deterministic=True)
    result = ort_from_graph(model, measured(model) if ranges is None else ranges, config)
    assert model.SerializeToString(deterministic=True) == before
    well_formed(result, model)
    return result


BOTH = pytest.mark.parametrize("form", [quantised, lowered])
Form = Callable[..., onnx.ModelProto]


def conv(inputs: str = "x w", output: str = "y", **attributes: Any) -> NodeProto:
    return node("Conv", inputs, output, **attributes)


# --- the TensorRT form -----------------------------------------------------------------------------------------------


def test_activations_have_one_scale_and_zero_point_0() -> None:
    model = model_of([conv()], {"w": random(6, 4, 3, 3)}, X)
    result = quantised(model, {"x": Range(-1.0, 2.54, 2.54)})
    pair = Pair(result, named(result, "y").input[0])
    assert (pair.source, pair.axis) == ("x", None)
    assert (pair.scale, pair.scale.shape, pair.zero.dtype) == (np.float32(2.54 / 127), (), np.int8)


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "axis"),
    [
        ("Conv", (6, 4, 3, 3), {}, 0),
        ("Conv", (6, 2, 3, 3), {"group": 2}, 0),
        ("ConvTranspose", (4, 6, 2, 2), {"strides": [2, 2]}, 1),
        ("ConvTranspose", (4, 3, 2, 2), {"group": 2}, None),
    ],
)
def test_weights_stay_float_with_a_pair_behind_them(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any], axis: int | None
) -> None:
    weights = random(*shape)
    result = quantised(model_of([node(op, "x w", "y", **attributes)], {"w": weights}, X))
    pair = Pair(result, named(result, "y").input[1])
    assert (pair.source, pair.axis) == ("w", axis)
    np.testing.assert_array_equal(constants_of(result)["w"], weights)
    others = tuple(other for other in range(4) if other != axis)
    expected = np.abs(weights).max(axis=others if axis is not None else None) / np.float32(127)
    np.testing.assert_allclose(pair.scale, expected, rtol=1e-6)


def test_matrices() -> None:
    rows = {"x": (FLOAT, (5, 4))}
    nodes = [
        node("Gemm", "x g b", "a", transB=1), node("Relu", "a", "r"), node("Gemm", "r h c", "s"),
        node("MatMul", "s m", "y"),
    ]  # fmt: skip
    constants = {"g": random(6, 4), "b": random(6), "h": random(6, 3), "c": random(1, 3), "m": random(3, 2)}
    model = model_of(nodes, constants, rows)
    x = random(5, 4, seed=7)
    result = quantised(model, measured(model, x=x))
    assert [Pair(result, named(result, name).input[1]).axis for name in ("a", "s", "y")] == [0, 1, 1]
    np.testing.assert_allclose(run(result, x=x)[0], run(model, x=x)[0], atol=0.1)
    np.testing.assert_allclose(run(lowered(model, measured(model, x=x), Int8Ort(("y",))), x=x)[0], run(model, x=x)[0],
                               atol=0.1)  # fmt: skip


def test_biases_and_outputs_are_never_quantised() -> None:
    nodes = [conv("x w b", "r"), node("Softsign", "r", "a"), conv("a v c", "s"), node("Neg", "s", "y")]
    constants = {"w": random(6, 4, 3, 3), "b": random(6), "v": random(2, 6, 1, 1), "c": random(2)}
    result = quantised(model_of(nodes, constants, X))
    assert list(named(result, "r").input)[2:] == ["b"]
    assert list(named(result, "s").input)[2:] == ["c"]
    assert named(result, "a").input[0] == "r"
    assert named(result, "y").input[0] == "s"
    sources = {made.input[0] for made in result.graph.node if made.op_type == "QuantizeLinear"}
    assert sources == {"x", "w", "a", "v"}


@pytest.mark.parametrize(
    ("mode", "value", "before"),
    [("reflect", None, True), ("edge", None, True), ("constant", None, True), ("constant", 0.0, True),
     ("constant", 1.0, False)],
)  # fmt: skip
def test_pair_in_front_of_a_pad_that_only_moves_values(mode: str, value: float | None, before: bool) -> None:
    number = {} if value is None else {"v": np.float32(value)}
    pad = node("Pad", "x p" + " v" * len(number), "padded", mode=mode)
    model = model_of([pad, conv("padded w")], {"p": PADS, "w": random(6, 4, 3, 3)} | number, X)
    result = quantised(model)
    if before:
        assert Pair(result, named(result, "padded").input[0]).source == "x"
        assert named(result, "y").input[0] == "padded"
    else:
        assert named(result, "padded").input[0] == "x"
        assert Pair(result, named(result, "y").input[0]).source == "padded"


def test_readers_of_one_tensor_share_a_pair() -> None:
    pad = node("Pad", "x p", "padded", mode="reflect")
    nodes = [conv("x w", "a"), conv("x v", "b"), pad, conv("padded w", "c"), node("Neg", "x", "n")]
    model = model_of(nodes, {"w": random(6, 4, 1, 1), "v": random(2, 4, 1, 1), "p": PADS}, X, ["a", "b", "c", "n"])
    result = quantised(model)
    assert named(result, "a").input[0] == named(result, "b").input[0] == named(result, "padded").input[0]
    assert named(result, "n").input[0] == "x", "nothing else reads the pair"
    assert named(result, "a").input[1] == named(result, "c").input[1], "weights are shared as well"
    assert kinds(result).count("QuantizeLinear") == 3


def residual() -> onnx.ModelProto:
    """``x + conv2(relu(conv1(x)))`` on what a layer makes, and a layer that reads the sum."""
    nodes = [
        conv("x w0", "h0"), node("Relu", "h0", "h"),
        conv("h w1", "r1", pads=[1] * 4), node("Relu", "r1", "a1"), conv("a1 w2", "r2", pads=[1] * 4),
        node("Add", "h r2", "sum"), conv("sum w3", "last"), node("Neg", "last", "y"),
    ]  # fmt: skip
    shapes = [(6, 4, 1, 1), (6, 6, 3, 3), (6, 6, 3, 3), (2, 6, 1, 1)]
    return model_of(nodes, {f"w{place}": random(*shape, seed=place) for place, shape in enumerate(shapes)}, X)


def test_residual_is_quantised_where_asked_for() -> None:
    model = residual()
    assert list(named(quantised(model), "sum").input) == ["h", "r2"]
    result = quantised(model, config=Int8Qdq(residuals=True))
    other, own = named(result, "sum").input
    assert own == "r2", "the output of the layer stays float"
    assert other == named(result, "r1").input[0], "one pair for both"
    assert Pair(result, other).source == "h"


@pytest.mark.parametrize(
    ("nodes", "keep"),
    [
        ([conv("x v", "s"), node("Add", "r s", "y")], ()),
        ([conv("x v", "s"), node("Add", "r s", "y")], ("s",)),
        ([node("Add", "x r", "sum"), node("Mul", "sum r", "y")], ()),
        ([node("Neg", "r", "n"), node("Add", "x n", "y")], ()),
        ([node("Add", "r k", "y")], ()),
        ([node("Abs", "x", "n"), node("Add", "n r", "y")], ()),
    ],
    ids=["two layers", "a layer kept in float", "read again", "no layer", "a constant", "not measured"],
)
def test_residuals_that_no_layer_could_take_in_stay_float(nodes: list[NodeProto], keep: tuple[str, ...]) -> None:
    read = " ".join(name for made in nodes for name in made.input)
    numbers = {"v": random(4, 4, 1, 1, seed=1), "k": random(4, 1, 1)}
    used = {name: value for name, value in numbers.items() if name in read.split()}
    model = model_of([conv("x w", "r"), *nodes], {"w": random(4, 4, 1, 1)} | used, X)
    result = quantised(model, config=Int8Qdq(residuals=True, keep=keep))
    for made in nodes:
        if made.op_type == "Add":
            assert list(named(result, made.name).input) == list(made.input)


def test_pixel_shuffle_at_the_end_stays_float() -> None:
    nodes = [
        *planes_of(), conv("planes w b", "r", pads=[1] * 4), node("Relu", "r", "a"),
        conv("a v", "last", pads=[1] * 4), node("DepthToSpace", "last", "large", blocksize=2, mode="CRD"),
        node("Transpose", "large", "t", perm=[0, 2, 3, 1]), node("Clip", "t low high", "c"),
        node("Round", "c", "rounded"), node("Cast", "rounded", "image", to=UINT8),
    ]  # fmt: skip
    constants = {
        "w": random(8, 3, 3, 3), "b": random(8), "v": random(12, 8, 3, 3), "low": np.float32(0),
        "high": np.float32(255),
    }  # fmt: skip
    model = model_of(nodes, constants, FRAME, {"image": UINT8})
    result = quantised(model, {"planes": Range(0, 255, 255), "a": Range(0, 700, 700)})
    behind = [made.op_type for made in result.graph.node][kinds(result).index("DepthToSpace") - 1 :]
    assert behind == ["Conv", "DepthToSpace", "Transpose", "Clip", "Round", "Cast"]


def three_layers() -> onnx.ModelProto:
    nodes = [
        conv("x w0", "wide"), node("Relu", "wide", "a"), conv("a w1", "narrow"),
        node("ConvTranspose", "narrow w2", "up"), node("Neg", "up", "y"),
    ]  # fmt: skip
    return model_of(nodes, {"w0": random(24, 4, 1, 1), "w1": random(3, 24, 1, 1), "w2": random(3, 2, 2, 2)}, X)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Int8Qdq(), ["wide", "narrow", "up"]),
        (Int8Qdq(keep=("narrow",)), ["wide", "up"]),
        (Int8Qdq().keeping(["up", "wide"]), ["narrow"]),
        (Int8Qdq(transposed=False), ["wide", "narrow"]),
        (Int8Qdq(narrow=False), ["narrow"]),
    ],
)
def test_settings_choose_the_layers(config: Int8Qdq, expected: list[str]) -> None:
    result = quantised(three_layers(), config=config)
    found = [name for name in ("wide", "narrow", "up") if is_paired(result, named(result, name).input[1])]
    assert found == expected
    assert found == [name for name in found if is_paired(result, named(result, name).input[0])]
    assert kinds(result).count("QuantizeLinear") == 2 * len(expected)


def test_layers_of_eight_channels_are_not_narrow() -> None:
    model = model_of([conv()], {"w": random(2, 8, 1, 1)}, {"x": (FLOAT, (1, 8, "h", "w"))})
    assert is_paired(quantised(model, {"x": Range(0, 1, 1)}, Int8Qdq(narrow=False)), "w.dequantised")


def test_kept_layers_are_added_once() -> None:
    config = Int8Qdq(keep=("a",), narrow=False).keeping(["b", "a"])
    assert (config.keep, config.narrow) == (("a", "b"), False)
    assert Int8Ort(("a",)).keeping(["b", "a", "c"]).keep == ("a", "b", "c")


@BOTH
def test_errors(form: Form) -> None:
    model = model_of([conv("x w", "r"), node("Neg", "r", "y")], {"w": random(2, 4, 1, 1)}, X)
    config = Int8Qdq if form is quantised else Int8Ort
    with pytest.raises(GenedgeError, match="no layer is called z"):
        form(model, {}, config(keep=("z",)))
    with pytest.raises(GenedgeError, match="no layer is left to quantise"):
        form(model, {}, config(keep=("r",)))
    with pytest.raises(GenedgeError, match="the range table knows no tensor x"):
        form(model, {})


@BOTH
def test_fresh_names_where_they_are_taken(form: Form) -> None:
    nodes = [
        conv("x w b", "x.scale", name="x.quantised"),
        node("Relu", "x.scale", "w.zero", name="x.dequantised.node"),
        conv("w.zero w.scale", "x.dequantised", name="w.quantised"),
        node("Neg", "x.dequantised", "y"),
    ]
    constants = {"w": random(6, 4, 1, 1), "b": random(6), "w.scale": random(2, 6, 1, 1)}
    model = model_of(nodes, constants, X)
    x = random(1, 4, 5, 5, seed=3)
    np.testing.assert_allclose(run(form(model, measured(model, x=x)), x=x)[0], run(model, x=x)[0], atol=0.2)


@pytest.mark.parametrize(
    ("activation", "constants"),
    [("PRelu", {"slope": random(6, 1, 1)}), ("LeakyRelu", {}), ("Relu", {}), ("Sigmoid", {})],
)
def test_activation_stays_between_float_output_and_pair(activation: str, constants: dict[str, Any]) -> None:
    nodes = [conv("x w", "r"), node(activation, "r slope" if constants else "r", "a"), conv("a v", "y")]
    model = model_of(nodes, {"w": random(6, 4, 1, 1), "v": random(2, 6, 1, 1)} | constants, X)
    result = quantised(model)
    assert named(result, "a").input[0] == "r"
    assert Pair(result, named(result, "y").input[0]).source == "a"


def normed() -> onnx.ModelProto:
    nodes = [
        conv("x w", "r"), node("InstanceNormalization", "r s b", "n"), node("Relu", "n", "a"), conv("a v", "last"),
        node("Tanh", "last", "t"), node("Neg", "t", "y"),
    ]  # fmt: skip
    constants = {"w": random(6, 4, 1, 1), "s": random(6), "b": random(6), "v": random(2, 6, 1, 1)}
    return model_of(nodes, constants, X)


def test_normalisation_between_layer_and_activation_stays_float() -> None:
    result = quantised(normed())
    assert is_paired(result, named(result, "r").input[0])
    assert named(result, "n").input[0] == "r"
    assert named(result, "a").input[0] == "n"
    assert Pair(result, named(result, "last").input[0]).source == "a"


@BOTH
def test_tensor_that_is_zero_everywhere(form: Form) -> None:
    nodes = [conv("x w b", "r"), node("Relu", "r", "a"), conv("a v c", "s"), node("Neg", "s", "y")]
    constants = {"w": random(6, 4, 1, 1), "b": np.full(6, -100, np.float32), "v": random(2, 6, 1, 1), "c": random(2)}
    model = model_of(nodes, constants, X)
    x = random(1, 4, 5, 5, seed=3)
    ranges = measured(model, x=x)
    assert ranges["a"] == Range(0, 0, 0)
    np.testing.assert_allclose(run(form(model, ranges), x=x)[0], run(model, x=x)[0], atol=0.01)


@BOTH
def test_channels_without_weights_keep_their_bias(form: Form) -> None:
    """Their scale is free, and the step of an int32 bias is that times the input's, here 255 / 255."""
    weights = random(4, 3, 1, 1, reach=0.001)
    weights[1] = 0
    weights[3] = 1e-9
    bias = np.array([0.1, 0.2371, 0, -0.3149], dtype=np.float32)
    nodes = [*planes_of(), conv("planes w b", "r"), node("Neg", "r", "y")]
    model = model_of(nodes, {"w": weights, "b": bias}, FRAME)
    frame = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    result = form(model, measured(model, frame=frame) | {"planes": Range(0, 255, 255)})
    expected, got = run(model, frame=frame)[0], run(result, plain=True, frame=frame)[0]
    step = 0 if form is quantised else np.ptp(expected) / 255
    np.testing.assert_allclose(got[:, [1, 3]], expected[:, [1, 3]], atol=step / 2 + 1e-6)
    np.testing.assert_allclose(got, expected, atol=step + 0.003)


def test_scales_of_weights() -> None:
    weights = np.array([[127.0, -1.0], [0.0, 0.0], [-254.0, 3.0]], dtype=np.float32)
    np.testing.assert_array_equal(weight_scales(weights, 0), np.float32([1, 1, 2]))
    np.testing.assert_array_equal(weight_scales(weights, 1), np.float32([2, 3 / 127]))
    assert weight_scales(weights, None) == 2
    assert weight_scales(np.zeros((2, 2), np.float32), None) == 1
    assert weight_scales(np.full((1, 2), 1e-40, np.float32), 0) > 0


def test_layer_computes_with_rounded_input_and_weights() -> None:
    """The graph does what rounding by hand does."""
    weights, bias, x = random(6, 4, 3, 3), random(6, seed=1), random(1, 4, 9, 8, seed=2, reach=1.3)
    model = model_of([conv("x w b")], {"w": weights, "b": bias}, X)
    result = quantised(model, {"x": Range(-1, 1, 1)})
    step = np.float32(1 / 127)
    scales = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / np.float32(127)
    by_hand = model_of([conv("x w b")], {"w": np.round(weights / scales) * scales, "b": bias}, X)
    expected = run(by_hand, x=np.clip(np.round(x / step), -128, 127) * step)[0]
    np.testing.assert_allclose(run(result, plain=True, x=x)[0], expected, atol=1e-4)


# --- layers that read the frame --------------------------------------------------------------------------------------


def whole_weights(outputs: int, inputs: int, height: int, width: int, seed: int) -> NDArray[np.float32]:
    """Weights that int8 holds as they are: whole multiples of a power of two, with 127 in every channel."""
    draw = np.random.default_rng(seed)
    steps = draw.integers(-127, 128, (outputs, inputs, height, width))
    steps[:, 0, 0, 0] = 127
    return (steps * 2.0**-10).astype(np.float32)


RANGES_OF_PIXELS = {"0..255": (1.0, 0.0), "0..1": (1 / 255, 0.0), "-1..1": (2 / 255, -1.0), "-128..127": (1.0, -128.0)}
small = st.integers(0, 2)


@settings(max_examples=80, deadline=None)
@given(
    pixels=st.sampled_from(sorted(RANGES_OF_PIXELS)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    pads=st.tuples(small, small, small, small),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    reflect=st.booleans(),
    bias=st.booleans(),
    group=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**16),
)
def test_layer_that_reads_the_frame_loses_nothing(
    pixels: str,
    kernel: tuple[int, int],
    pads: tuple[int, int, int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    reflect: bool,
    bias: bool,
    group: int,
    seed: int,
) -> None:
    gain, offset = RANGES_OF_PIXELS[pixels]
    weights = whole_weights(6, 3 // group, *kernel, seed)
    constants = pixel_constants(gain, offset) | {"w": weights} | ({"b": random(6, seed=seed)} if bias else {})
    own = {"strides": strides, "dilations": dilations, "group": group}
    if reflect:
        constants["p"] = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]])
        nodes = [node("Pad", "planes p", "padded", mode="reflect"), conv("padded w b" if bias else "padded w", **own)]
    else:
        nodes = [conv("planes w b" if bias else "planes w", pads=pads, **own)]
    model = model_of([*planes_of(gain, offset), *nodes], constants, FRAME)
    frame = np.random.default_rng(seed).integers(0, 256, (1, 9, 8, 3), dtype=np.uint8)
    frame[0, 0, 0] = 0, 127, 255
    result = quantised(model, {})
    difference = np.abs(run(result, plain=True, frame=frame)[0] - run(model, plain=True, frame=frame)[0])
    assert "Sub" in kinds(result)
    if pixels == "-1..1" and any(pads) and not reflect:
        # zero lies between two pixel values: the border is wrong by half of one, and nothing else is
        assert difference.max() <= gain / 2 * np.abs(weights).sum(axis=(1, 2, 3)).max() * 1.001
        top, left = (-(-pads[side] // strides[side]) for side in (0, 1))
        rows, columns = (
            (size - dilations[side] * (kernel[side] - 1) - 1 + pads[side]) // strides[side] + 1
            for side, size in ((0, 9), (1, 8))
        )
        difference = difference[:, :, top:rows, left:columns]
    assert difference.size == 0 or difference.max() <= 1e-4


def test_centred_layer_holds_every_pixel_value(photos: Sequence[Frame]) -> None:
    """And the layer that is not centred does not."""
    weights = np.zeros((3, 3, 1, 1), np.float32)
    weights[range(3), range(3)] = 1
    model = model_of([*planes_of(), conv("planes w")], {"w": weights}, FRAME)
    frame = np.ascontiguousarray(photos[0])[None]
    planes = frame.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(run(quantised(model, {}), frame=frame)[0], planes)
    plain = quantised(model, {"planes": Range(0, 255, 255)}, Int8Qdq(centred=False))
    assert Pair(plain, named(plain, "y").input[0]).source == "planes"
    assert np.abs(run(plain, frame=frame)[0] - planes).max() > 0.9


def test_layers_that_read_the_frame_share_what_centres_it() -> None:
    nodes = [
        *planes_of(), conv("planes w", "a", pads=[1] * 4), conv("planes v", "b"), conv("planes v", "c", pads=[1] * 4),
    ]  # fmt: skip
    model = model_of(nodes, {"w": random(4, 3, 3, 3), "v": random(2, 3, 3, 3)}, FRAME, ["a", "b", "c"])
    result = quantised(model, {})
    assert (kinds(result).count("Sub"), kinds(result).count("Pad")) == (1, 1)
    assert named(result, "a").input[0] == named(result, "c").input[0] != named(result, "b").input[0]
    assert named(result, "c").input[1] == named(result, "b").input[1]
    assert kinds(result).count("QuantizeLinear") == 4


ZERO_PAD = node("Pad", "planes p", "padded")
TWICE = [node("Pad", "planes p", "inner"), node("Pad", "inner p", "padded", mode="reflect")]


@pytest.mark.parametrize(
    ("nodes", "offset"),
    [
        ([ZERO_PAD, conv("padded w")], 0),
        ([*TWICE, conv("padded w")], 0),
        ([node("Pad", "planes p", "padded", mode="reflect"), conv("padded w", pads=[1] * 4)], 0),
        ([conv("planes w", auto_pad="SAME_UPPER")], 0),
        ([conv("planes w", pads=[1] * 4)], 2),
        ([conv("planes w", pads=[1] * 4)], -300),
        ([node("ConvTranspose", "planes u", "y")], 0),
    ],
    ids=["zero Pad", "zero Pad and reflecting", "reflecting Pad and zeros", "automatic", "zero below black",
         "zero above white", "transposed"],
)  # fmt: skip
def test_layer_that_cannot_be_centred_has_an_ordinary_pair(nodes: list[NodeProto], offset: float) -> None:
    read = {name for made in nodes for name in made.input}
    numbers = {"w": random(2, 3, 3, 3), "u": random(3, 2, 2, 2), "p": PADS}
    constants = {name: value for name, value in numbers.items() if name in read} | pixel_constants(1, offset)
    model = model_of([*planes_of(1, offset), *nodes], constants, FRAME)
    reach = max(255 + offset, -offset)
    frame = np.random.default_rng(0).integers(0, 256, (1, 9, 8, 3), dtype=np.uint8)
    result = quantised(model, {"planes": Range(min(0, offset), max(0, 255 + offset), reach)})
    assert "Sub" not in kinds(result)
    expected = run(model, plain=True, frame=frame)[0]
    bound = reach / 127 * 27
    np.testing.assert_allclose(run(result, plain=True, frame=frame)[0], expected, atol=bound)


@BOTH
def test_bias_that_is_computed_stays_as_it_is(form: Form) -> None:
    nodes = [*planes_of(), node("Neg", "b", "c"), conv("planes w c", "r"), node("Neg", "r", "y")]
    model = model_of(nodes, {"w": random(2, 3, 1, 1), "b": random(2)}, FRAME)
    frame = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    result = form(model, measured(model, frame=frame))
    assert named(result, "r").input[2] == "c"
    expected = run(model, frame=frame)[0]
    np.testing.assert_allclose(run(result, plain=True, frame=frame)[0], expected, atol=np.ptp(expected) / 40)


def test_zero_that_is_no_pixel_value_matters_only_where_it_is_padded_with() -> None:
    model = model_of([*planes_of(1, 2), conv("planes w")], pixel_constants(1, 2) | {"w": random(2, 3, 3, 3)}, FRAME)
    assert "Sub" in kinds(quantised(model, {}))


# --- ONNX Runtime's form ---------------------------------------------------------------------------------------------


def chain(activation: str, last: str = "Neg") -> onnx.ModelProto:
    """Three layers with an activation behind the first two."""
    slope = {"slope": random(16, 1, 1, reach=0.3)} if activation == "PRelu" else {}
    more = " slope" if slope else ""
    nodes = [
        *planes_of(), conv("planes w0 b0", "r0", pads=[1] * 4), node(activation, "r0" + more, "a0"),
        conv("a0 w1 b1", "r1", pads=[1] * 4), node(activation, "r1" + more, "a1"),
        conv("a1 w2 b2", "r2", pads=[1] * 4), node(last, "r2", "y"),
    ]  # fmt: skip
    constants = {
        "w0": random(16, 3, 3, 3, seed=0, reach=0.02), "b0": random(16, seed=1),
        "w1": random(16, 16, 3, 3, seed=2, reach=0.2), "b1": random(16, seed=3),
        "w2": random(12, 16, 3, 3, seed=4, reach=0.2), "b2": random(12, seed=5),
    }  # fmt: skip
    return model_of(nodes, constants | slope, FRAME)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("Relu", {"QLinearConv": 3}),
        ("LeakyRelu", {"QLinearConv": 3, "QLinearLeakyRelu": 2}),
        ("PRelu", {"QLinearConv": 3, "PRelu": 2}),
    ],
)
def test_every_layer_becomes_a_quantised_convolution(
    activation: str, expected: dict[str, int], photos: Sequence[Frame], tmp_path: Path
) -> None:
    model, frame = chain(activation), np.ascontiguousarray(photos[0][:40, :50])[None]
    result = lowered(model, measured(model, frame=frame))
    found = kinds(optimised(result, tmp_path))
    for kind in ("Conv", "FusedConv", "Relu", "LeakyRelu", "QLinearConv", "QLinearLeakyRelu", "PRelu"):
        assert found.count(kind) == expected.get(kind, 0), kind
    wanted = run(model, frame=frame)[0]
    np.testing.assert_allclose(run(result, frame=frame)[0], wanted, atol=0.06 * np.abs(wanted).max())


def test_form_of_a_chain(photos: Sequence[Frame]) -> None:
    model, frame = chain("Relu"), np.ascontiguousarray(photos[0][:40, :50])[None]
    ranges = measured(model, frame=frame)
    result = lowered(model, ranges)
    constants = constants_of(result)
    pixels = Pair(result, named(result, "r0").input[0])
    assert (pixels.source, pixels.scale, pixels.zero, pixels.zero.dtype) == ("planes", 1, 0, np.uint8)
    for name, maker in (("r1", "a0"), ("r2", "a1")):
        made = named(result, name)
        pair = Pair(result, made.input[0])
        assert (pair.source, pair.zero, pair.zero.dtype) == (maker, 0, np.uint8)
        assert pair.scale == np.float32(ranges[maker].high / 255)
        weights, bias = Pair(result, made.input[1]), Pair(result, made.input[2])
        assert weights.constant is not None
        assert bias.constant is not None
        assert (weights.constant.dtype, weights.axis, weights.zero.any()) == (np.int8, 0, False)
        assert np.abs(weights.constant.astype(int)).max() == 127
        assert (bias.constant.dtype, bias.axis, bias.zero.dtype, bias.zero.any()) == (np.int32, 0, np.int32, False)
        np.testing.assert_allclose(bias.scale, pair.scale * weights.scale, rtol=1e-6)
        np.testing.assert_allclose(
            bias.constant * bias.scale, constants_of(model)[f"b{name[1]}"], atol=float(bias.scale.max()) / 2 * 1.01
        )
    assert not {"w0", "w1", "b0", "b1"} & set(constants), "nothing is kept twice"


def test_pair_on_both_sides_of_another_activation(photos: Sequence[Frame]) -> None:
    model, frame = chain("LeakyRelu"), np.ascontiguousarray(photos[0][:40, :50])[None]
    ranges = measured(model, frame=frame)
    result = lowered(model, ranges)
    for name in ("r0", "a0", "r1", "a1"):
        (reader,) = [made for made in result.graph.node if made.op_type == "QuantizeLinear" and made.input[0] == name]
        low, high = ranges[name].low, ranges[name].high
        scale, zero = (constants_of(result)[read] for read in reader.input[1:])
        assert low < 0 < high
        assert scale == np.float32((high - low) / 255)
        assert zero == round(-low / ((high - low) / 255))
        assert 0 < zero < 255
    assert Pair(result, named(result, "a0").input[0]).source == "r0"


def test_residual_reads_what_was_quantised(tmp_path: Path) -> None:
    result = lowered(residual())
    assert named(result, "sum").input[0] == named(result, "r1").input[0]
    assert Pair(result, named(result, "sum").input[0]).source == "h"
    assert Pair(result, named(result, "sum").input[1]).source == "r2"
    found = kinds(optimised(result, tmp_path))
    assert (found.count("QLinearConv"), found.count("QLinearAdd"), found.count("Conv")) == (4, 1, 0)


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_layer_behind_a_pad(mode: str, tmp_path: Path) -> None:
    """The layer's own input is quantised, with the range of what goes into the Pad; so is the layer before."""
    pad = node("Pad", "a p", "padded", mode=mode)
    nodes = [conv("x w", "r"), node("Relu", "r", "a"), pad, conv("padded v", "s"), node("Neg", "s", "y")]
    model = model_of(nodes, {"w": random(6, 4, 1, 1), "v": random(2, 6, 3, 3), "p": PADS}, X)
    x = random(1, 4, 7, 6, seed=3)
    ranges = measured(model, x=x)
    assert "padded" not in ranges
    result = lowered(model, ranges)
    own, before = Pair(result, named(result, "s").input[0]), Pair(result, named(result, "padded").input[0])
    assert (own.source, before.source) == ("padded", "a")
    assert own.scale == before.scale == np.float32(ranges["a"].high / 255)
    assert own.zero == before.zero == 0
    found = kinds(optimised(result, tmp_path))
    assert (found.count("QLinearConv"), found.count("Conv")) == (2, 0)
    np.testing.assert_allclose(run(result, x=x)[0], run(model, x=x)[0], atol=0.1)


def test_layers_in_front_of_and_behind_a_pad_that_another_reads() -> None:
    pad = node("Pad", "x p", "padded", mode="reflect")
    nodes = [pad, conv("padded w", "a"), conv("x w", "b"), conv("padded v", "c"),
             node("Neg", "a", "y"), node("Neg", "b", "z"), node("Neg", "c", "t")]  # fmt: skip
    model = model_of(nodes, {"w": random(2, 4, 3, 3), "v": random(2, 4, 3, 3), "p": PADS}, X, ["y", "z", "t"])
    x = random(1, 4, 7, 6, seed=3)
    result = lowered(model, measured(model, x=x))
    assert named(result, "a").input[0] == named(result, "c").input[0]
    assert Pair(result, named(result, "a").input[0]).source == "padded"
    assert Pair(result, named(result, "b").input[0]).source == "x"
    for got, expected in zip(run(result, x=x), run(model, x=x), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.1)


def test_outputs_of_the_graph_are_never_redirected(tmp_path: Path) -> None:
    """``state`` is read by the next layer, too."""
    nodes = [conv("x w", "r"), node("Relu", "r", "state"), conv("state v", "s"), node("Neg", "s", "y")]
    model = model_of(nodes, {"w": random(4, 4, 3, 3), "v": random(2, 4, 3, 3)}, X, ["y", "state"])
    x = random(1, 4, 9, 8, seed=3)
    ranges = measured(model, x=x)
    result = lowered(model, ranges)
    assert named(result, "state").output[0] == "state"
    before = Pair(result, named(result, "state").input[0])
    assert (before.source, before.zero, before.scale) == ("r", 0, np.float32(ranges["state"].high / 255))
    found = kinds(optimised(result, tmp_path))
    assert (found.count("QLinearConv"), found.count("Conv")) == (2, 0)
    for got, expected in zip(run(result, x=x), run(model, x=x), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([conv("x w", "r"), node("InstanceNormalization", "r s s", "y")], ["y"]),
        ([conv("x w", "r"), node("Relu", "r", "a"), node("InstanceNormalization", "a s s", "y")], ["y"]),
        ([conv("x w", "r"), node("InstanceNormalization", "r s s", "n"), node("Add", "r n", "y")], ["y"]),
        ([conv("x w", "y")], ["y"]),
        ([conv("x w", "r"), node("Neg", "r", "y")], ["y", "r"]),
        ([node("ConvTranspose", "x w", "r"), node("Neg", "r", "y")], ["y"]),
    ],
    ids=["normalised", "normalised later", "normalised and more", "output", "output and more", "transposed"],
)
def test_layers_that_gain_nothing_stay_float(nodes: list[NodeProto], outputs: list[str]) -> None:
    constants = {"w": random(4, 4, 1, 1)} | ({"s": random(4)} if len(nodes) > 1 and "s" in nodes[-1].input else {})
    if nodes[1:] and any("s" in made.input for made in nodes):
        constants["s"] = random(4)
    model = model_of(nodes, constants, X, outputs)
    assert not [layer for layer in layers_of(model) if Int8Ort().quantises(layer)]
    with pytest.raises(GenedgeError, match="no layer is left"):
        ort_from_graph(model, measured(model))


def test_net_with_normalisation_keeps_these_layers_in_float() -> None:
    result = lowered(normed())
    assert list(named(result, "r").input) == ["x", "w"]
    assert named(result, "n").input[0] == "r"
    assert is_paired(result, named(result, "last").input[0])


@pytest.mark.parametrize(
    ("gain", "offset", "scale", "zero"),
    [(1, 0, 1, 0), (1 / 255, 0, 1 / 255, 0), (1, -128, 1, 128), (2 / 255, -1, 1.8 / 255, 128), (1, 5, 0.5 / 255, 0)],
)
def test_pixels_without_loss_where_zero_is_a_pixel_value(gain: float, offset: float, scale: float, zero: int) -> None:
    nodes = [*planes_of(gain, offset), conv("planes w", "r"), node("Neg", "r", "y")]
    model = model_of(nodes, pixel_constants(gain, offset) | {"w": random(2, 3, 1, 1)}, FRAME)
    dark = Range(-0.9, 0.9, 0.9) if offset < 0 else Range(0, 0.5, 0.5)  # what was measured does not matter
    result = lowered(model, {"planes": dark, "r": Range(-1, 1, 1)})
    pair = Pair(result, named(result, "r").input[0])
    assert pair.scale == pytest.approx(scale)
    assert pair.zero == zero


def test_range_on_one_side_of_zero_holds_zero_too() -> None:
    model = model_of([conv("x w", "r"), node("Neg", "r", "y")], {"w": random(2, 4, 1, 1)}, X)
    result = lowered(model, {"x": Range(0, 5.1, 5.1), "r": Range(-2.55, 0, 2.55)})
    assert Pair(result, named(result, "r").input[0]).zero == 0
    behind = Pair(result, named(result, "y").input[0])
    assert (behind.zero, behind.scale) == (255, np.float32(0.01))


def test_bias_that_int32_would_not_hold() -> None:
    """Tiny weights take a larger step, so that the bias fits."""
    weights = np.full((2, 4, 1, 1), 1e-9, np.float32)
    model = model_of(
        [conv("x w b", "r"), node("Neg", "r", "y")], {"w": weights, "b": np.float32([3, -0.5])}, X
    )  # fmt: skip
    x = random(1, 4, 3, 3)
    np.testing.assert_allclose(run(lowered(model, measured(model, x=x)), x=x)[0], run(model, x=x)[0], atol=0.015)


def test_gemm_whose_bias_is_scaled_keeps_it_in_float() -> None:
    nodes = [node("Gemm", "x w b", "r", beta=0.5), node("Neg", "r", "y")]
    model = model_of(nodes, {"w": random(4, 3), "b": random(3)}, {"x": (FLOAT, (5, 4))})
    x = random(5, 4, seed=7)
    result = lowered(model, measured(model, x=x))
    assert named(result, "r").input[2] == "b"
    np.testing.assert_allclose(run(result, x=x)[0], run(model, x=x)[0], atol=0.05)


# --- what comes out --------------------------------------------------------------------------------------------------


def error_bound(model: onnx.ModelProto, ranges: Ranges, form: Form, e: float) -> float:
    """How far the result may be from the float net, given that nothing is clipped: a step for every tensor that is
    rounded, half a step for every weight, passed on by the weights. Activations pass on less than they take.
    """
    constants = constants_of(model)
    for layer in layers_of(model):
        weights = constants[layer.weight].astype(np.float64)
        channels = np.moveaxis(weights, layer.weight_axis or 0, 0).reshape(layer.channels_out, -1)
        scales = weight_scales(constants[layer.weight], layer.weight_axis).astype(np.float64)
        reach = ranges[layer.source].magnitude
        step = reach / 127 if form is quantised else (ranges[layer.source].high - ranges[layer.source].low) / 255
        e += step
        lost = (np.abs(channels).sum(axis=1) + scales / 2 * channels.shape[1]) * e
        e = float(np.max(lost + scales / 2 * channels.shape[1] * reach))
        if form is lowered:
            for name in {layer.result, layer.activated} & set(ranges):
                e += (ranges[name].high - ranges[name].low) / 255
    return e * 1.001 + 1e-5


@st.composite
def nets(draw: st.DrawFn) -> onnx.ModelProto:
    """Chains of one to three layers with all kinds of surroundings, behind them a node that is no layer."""
    nodes: list[NodeProto] = []
    constants: dict[str, Any] = {}
    last, channels = "x", 4
    for place in range(draw(st.integers(1, 3))):
        outputs, kernel = draw(st.sampled_from([1, 3, 8])), draw(st.sampled_from([1, 3]))
        reach = draw(st.sampled_from([0.1, 1.0, 4.0]))
        constants[f"w{place}"] = random(outputs, channels, kernel, kernel, seed=draw(st.integers(0, 99)), reach=reach)
        inputs = f"{last} w{place}"
        pads = [kernel // 2] * 4
        if draw(st.booleans()) and kernel == 3:
            constants["p"], pads = PADS, [0] * 4
            nodes.append(node("Pad", f"{last} p", f"p{place}", mode=draw(st.sampled_from(["reflect", "constant"]))))
            inputs = f"p{place} w{place}"
        if draw(st.booleans()):
            constants[f"b{place}"] = random(outputs, seed=place, reach=2)
            inputs += f" b{place}"
        nodes.append(conv(inputs, f"r{place}", pads=pads))
        kind = draw(st.sampled_from(["Relu", "LeakyRelu", "PRelu", "Tanh", None]))
        last, channels = f"r{place}", outputs
        if kind is not None:
            if kind == "PRelu":
                constants[f"s{place}"] = random(outputs, 1, 1, seed=place)
            nodes.append(node(kind, last + (f" s{place}" if kind == "PRelu" else ""), f"a{place}"))
            last = f"a{place}"
    return model_of([*nodes, node("Neg", last, "y")], constants, X)


@settings(max_examples=60, deadline=None)
@given(nets(), st.integers(0, 2**16), st.sampled_from([quantised, lowered]))
def test_result_is_as_near_as_the_scales_allow(model: onnx.ModelProto, seed: int, form: Form) -> None:
    x = random(1, 4, 8, 7, seed=seed, reach=2)
    ranges = measured(model, x=x)
    result = form(model, ranges)
    expected = run(model, plain=True, x=x)[0]
    bound = error_bound(model, ranges, form, 0)
    assert np.abs(run(result, plain=True, x=x)[0] - expected).max() <= bound
    if form is lowered:
        assert np.abs(run(result, x=x)[0] - expected).max() <= bound


@BOTH
def test_bound_is_worth_something(form: Form) -> None:
    nodes = [conv("x w", "r"), node("Relu", "r", "a"), conv("a v", "s"), node("Neg", "s", "y")]
    model = model_of(nodes, {"w": random(3, 4, 1, 1), "v": random(2, 3, 1, 1)}, X)
    x = random(1, 4, 8, 7, seed=1)
    assert error_bound(model, measured(model, x=x), form, 0) < 0.15 * np.ptp(run(model, x=x)[0])


def test_onnx_runtime_simulates_openvino(photos: Sequence[Frame]) -> None:
    """The TensorRT form on a photo: at most 2 grey levels between two engines that share no code."""
    openvino = pytest.importorskip("openvino")
    nodes = [
        *planes_of(), conv("planes w0 b0", "r0", pads=[1] * 4), node("Relu", "r0", "a0"),
        conv("a0 w1 b1", "r1", pads=[1] * 4), node("PRelu", "r1 slope", "a1"), conv("a1 w2 b2", "r2", pads=[1] * 4),
        node("DepthToSpace", "r2", "large", blocksize=2, mode="CRD"),
        node("Resize", "planes - sizes", "anchor", mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
        node("Add", "large anchor", "sum"), node("Transpose", "sum", "t", perm=[0, 2, 3, 1]),
        node("Clip", "t low high", "c"), node("Round", "c", "rounded"), node("Cast", "rounded", "image", to=UINT8),
    ]  # fmt: skip
    constants = {
        "w0": random(16, 3, 3, 3, seed=0, reach=0.02), "b0": random(16, seed=1),
        "w1": random(16, 16, 3, 3, seed=2, reach=0.2), "b1": random(16, seed=3),
        "w2": random(12, 16, 3, 3, seed=4, reach=0.6), "b2": random(12, seed=5, reach=40),
        "slope": random(16, 1, 1, seed=6, reach=0.3), "sizes": np.float32([1, 1, 2, 2]),
        "low": np.float32(0), "high": np.float32(255),
    }  # fmt: skip
    model = model_of(nodes, constants, FRAME, {"image": UINT8})
    frame = np.ascontiguousarray(photos[0][:96, :120])[None]
    result = quantised(model, measured(model, frame=frame))
    simulated = run(result, frame=frame)[0]
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(result.SerializeToString()), "CPU", hints)
    real = compiled(frame)[0]
    float_image = run(model, frame=frame)[0]
    assert real.shape == simulated.shape == (1, 192, 240, 3)
    assert np.abs(real.astype(int) - simulated).max() <= 2
    assert (real != simulated).mean() < 0.01
    assert (float_image != simulated).mean() > 0.1, "INT8 makes a difference here"
    assert np.abs(float_image.astype(int) - np.repeat(np.repeat(frame, 2, 1), 2, 2)).mean() > 10, "so does the net"
