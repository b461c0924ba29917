"""What is a layer, and what is known of it, on graphs of a few nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto
from small_graphs import FLOAT, FRAME, UINT8, model_of, node, pixel_constants, planes_of, random

from calib.layers import ACTIVATIONS, OUTPUT, Layer, layers_of
from runtime.errors import GenedgeError

X = {"x": (FLOAT, (1, 4, "h", "w"))}
ROWS = {"x": (FLOAT, (5, 4))}


def only_layer(model: onnx.ModelProto) -> Layer:
    (layer,) = layers_of(model)
    return layer


def test_convolution_with_a_bias() -> None:
    nodes = [node("Conv", "x w b", "y")]
    assert only_layer(model_of(nodes, {"w": random(6, 4, 3, 3), "b": random(6)}, X)) == Layer(
        name="y",
        op="Conv",
        source="x",
        weight="w",
        bias="b",
        result="y",
        activation=None,
        activated="y",
        weight_axis=0,
        channels_in=4,
        channels_out=6,
        affine=None,
        readers=(OUTPUT,),
    )


@pytest.mark.parametrize("inputs", ["x w", "x w -"])
def test_convolution_without_a_bias(inputs: str) -> None:
    assert only_layer(model_of([node("Conv", inputs, "y")], {"w": random(6, 4, 1, 1)}, X)).bias is None


ARGUMENTS = {"PRelu": "r slope", "Clip": "r low high"}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_behind_a_layer(kind: str) -> None:
    numbers = {"slope": random(2, 1, 1), "low": np.float32(0), "high": np.float32(6)}
    constants = {name: value for name, value in numbers.items() if name in ARGUMENTS.get(kind, "")}
    nodes = [node("Conv", "x w", "r"), node(kind, ARGUMENTS.get(kind, "r"), "a"), node("Neg", "a", "y")]
    layer = only_layer(model_of(nodes, constants | {"w": random(2, 4, 1, 1)}, X))
    assert (layer.result, layer.activation, layer.activated, layer.readers) == ("r", kind, "a", ("Neg",))


@pytest.mark.parametrize(
    ("behind", "outputs", "readers"),
    [
        ([node("Softsign", "r", "y")], ["y"], ("Softsign",)),
        ([node("Relu", "r", "a"), node("Add", "a r", "y")], ["y"], ("Relu", "Add")),
        ([node("Relu", "r", "y")], ["y", "r"], ("Relu", OUTPUT)),
        ([node("PRelu", "x r", "y")], ["y"], ("PRelu",)),
        ([node("Neg", "r", "a"), node("Neg", "r", "b"), node("Add", "a b", "y")], ["y"], ("Neg",)),
    ],
    ids=["another operator", "read twice", "an output", "a slope", "one kind twice"],
)
def test_result_that_no_activation_alone_reads(
    behind: list[NodeProto], outputs: list[str], readers: tuple[str, ...]
) -> None:
    layer = only_layer(model_of([node("Conv", "x w", "r"), *behind], {"w": random(4, 4, 1, 1)}, X, outputs))
    assert (layer.activation, layer.activated, layer.readers) == (None, "r", readers)


def test_readers_are_those_behind_the_activation() -> None:
    nodes = [
        node("Conv", "x w", "r"), node("Relu", "r", "a"), node("InstanceNormalization", "a s s", "n"),
        node("Add", "a n", "y"),
    ]  # fmt: skip
    layer = only_layer(model_of(nodes, {"w": random(4, 4, 1, 1), "s": random(4)}, X, ["y", "a"]))
    assert layer.readers == ("InstanceNormalization", "Add", OUTPUT)


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "expected"),
    [
        ("Conv", (8, 4, 3, 3), {}, (0, 4, 8)),
        ("Conv", (8, 2, 3, 3), {"group": 2}, (0, 4, 8)),
        ("Conv", (4, 1, 3, 3), {"group": 4}, (0, 4, 4)),
        ("ConvTranspose", (4, 6, 2, 2), {"strides": [2, 2]}, (1, 4, 6)),
        ("ConvTranspose", (4, 3, 2, 2), {"group": 2}, (None, 4, 6)),
    ],
)
def test_channels(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any], expected: tuple[int | None, int, int]
) -> None:
    layer = only_layer(model_of([node(op, "x w", "y", **attributes)], {"w": random(*shape)}, X))
    assert (layer.weight_axis, layer.channels_in, layer.channels_out) == expected


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "expected"),
    [
        ("Gemm", (4, 6), {}, (1, 4, 6)),
        ("Gemm", (6, 4), {"transB": 1}, (0, 4, 6)),
        ("MatMul", (4, 6), {}, (1, 4, 6)),
        ("MatMul", (2, 4, 6), {}, (None, 4, 6)),
    ],
)
def test_channels_of_matrices(
    op: str, shape: tuple[int, ...], attributes: dict[str, Any], expected: tuple[int | None, int, int]
) -> None:
    layer = only_layer(model_of([node(op, "x w", "y", **attributes)], {"w": random(*shape)}, ROWS))
    assert (layer.weight_axis, layer.channels_in, layer.channels_out) == expected


def test_no_layers() -> None:
    kernel = {"w": random(4, 4, 1, 1)}
    assert not layers_of(model_of([node("Relu", "x", "y")], {}, X))
    assert not layers_of(model_of([node("Neg", "w", "v"), node("Conv", "x v", "y")], kernel, X)), "computed weights"
    assert not layers_of(model_of([node("Conv", "x w", "y", name="")], kernel, X)), "without a name"
    assert not layers_of(model_of([node("MatMul", "x w", "y")], {"w": random(4)}, ROWS)), "a vector"
    assert not layers_of(model_of([node("MatMul", "w x", "y")], {"w": random(3, 5)}, ROWS)), "weights on the left"
    doubles = {"x": (onnx.TensorProto.DOUBLE, (1, 4, 8, 8))}
    model = model_of([node("Conv", "x w", "y")], {"w": np.zeros((4, 4, 1, 1))}, doubles, {"y": onnx.TensorProto.DOUBLE})
    assert not layers_of(model), "not float32"


def test_layer_of_a_constant_is_none() -> None:
    nodes = [node("Conv", "k w", "c"), node("Add", "x c", "y")]
    assert not layers_of(model_of(nodes, {"k": random(1, 4, 3, 3), "w": random(4, 4, 3, 3)}, X))


def test_layers_stand_in_the_order_of_the_graph_and_may_share_weights() -> None:
    nodes = [node("Conv", "x w", "second", name="b"), node("Conv", "second w", "y", name="a")]
    assert [(layer.name, layer.weight) for layer in layers_of(model_of(nodes, {"w": random(4, 4, 1, 1)}, X))] == [
        ("b", "w"), ("a", "w"),
    ]  # fmt: skip


def test_two_layers_of_one_name_are_an_error() -> None:
    nodes = [node("Conv", "x w", "r", name="same"), node("Conv", "r w", "y", name="same")]
    with pytest.raises(GenedgeError, match="two layers of the graph are called same"):
        layers_of(model_of(nodes, {"w": random(4, 4, 1, 1)}, X))


PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])


def padded(mode: str, value: float | None, *more: NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    constants: dict[str, Any] = {"p": PADS, "w": random(4, 4, 3, 3)}
    if value is not None:
        constants["v"] = np.float32(value)
    pad = node("Pad", "x p" + (" v" if value is not None else ""), "padded", mode=mode)
    return model_of([pad, *more, node("Conv", "padded w", "y")], constants, X, outputs)


@pytest.mark.parametrize(
    ("mode", "value", "source"),
    [
        ("reflect", None, "x"), ("edge", None, "x"), ("reflect", 1.0, "x"), ("constant", None, "x"),
        ("constant", 0.0, "x"), ("constant", -0.0, "x"), ("constant", 0.5, "padded"), ("constant", np.nan, "padded"),
    ],
)  # fmt: skip
def test_source_stands_before_a_pad_that_only_moves_values(mode: str, value: float | None, source: str) -> None:
    assert only_layer(padded(mode, value)).source == source


def test_source_of_a_pad_whose_value_is_computed_stands_behind_it() -> None:
    nodes = [node("ReduceMax", "x", "v", keepdims=0), node("Pad", "x p v", "padded"), node("Conv", "padded w", "y")]
    assert only_layer(model_of(nodes, {"p": PADS, "w": random(4, 4, 3, 3)}, X)).source == "padded"


def test_source_stands_behind_a_pad_that_something_else_reads() -> None:
    assert only_layer(padded("reflect", None, node("Neg", "padded", "n"), outputs=("y", "n"))).source == "padded"
    assert only_layer(padded("reflect", None, outputs=("y", "padded"))).source == "padded"


def test_source_stands_before_several_pads() -> None:
    nodes = [node("Pad", "x p", "a", mode="reflect"), node("Pad", "a p", "b"), node("Conv", "b w", "y")]
    assert only_layer(model_of(nodes, {"p": PADS, "w": random(4, 4, 3, 3)}, X)).source == "x"
    nodes[1] = node("Pad", "a p v", "b")
    both = model_of(nodes, {"p": PADS, "w": random(4, 4, 3, 3), "v": np.float32(1)}, X)
    assert only_layer(both).source == "b"


def first_layer(nodes: list[NodeProto], constants: dict[str, Any]) -> Layer:
    """The layer that reads ``planes``."""
    model = model_of([*nodes, node("Conv", "planes w", "y")], constants | {"w": random(2, 3, 1, 1)}, FRAME)
    return only_layer(model)


@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (1 / 255, 0), (2 / 255, -1), (1, -128)])
def test_source_that_is_affine_in_the_pixels(gain: float, offset: float) -> None:
    layer = first_layer(planes_of(gain, offset), pixel_constants(gain, offset))
    assert layer.affine == pytest.approx((gain, offset))


CAST = node("Cast", "frame", "cast", to=FLOAT)
PLANES = node("Transpose", "z", "planes", perm=[0, 3, 1, 2])


@pytest.mark.parametrize(
    ("arithmetic", "constants", "expected"),
    [
        ([node("Div", "cast a", "z")], {"a": 255.0}, (1 / 255, 0)),
        ([node("Sub", "cast a", "z")], {"a": 127.5}, (1, -127.5)),
        ([node("Mul", "a cast", "z")], {"a": 2.0}, (2, 0)),
        ([node("Add", "a cast", "z")], {"a": 2.0}, (1, 2)),
        ([node("Sub", "cast a", "s"), node("Div", "s b", "z")], {"a": 100.0, "b": 50.0}, (0.02, -2)),
        ([node("Div", "cast b", "s"), node("Sub", "s a", "z")], {"a": 0.5, "b": 255.0}, (1 / 255, -0.5)),
        ([node("Mul", "cast a", "z")], {"a": [3.0, 3.0, 3.0]}, (3, 0)),
        ([node("Identity", "cast", "z")], {}, (1, 0)),
        ([node("Gather", "cast a", "z", axis=3)], {"a": np.array([2, 1, 0])}, (1, 0)),
        ([node("Sub", "cast a", "z")], {"a": [123.7, 116.8, 103.9]}, None),
        ([node("Mul", "cast a", "z")], {"a": -1.0}, None),
        ([node("Mul", "cast a", "z")], {"a": 0.0}, None),
        ([node("Div", "cast a", "z")], {"a": 0.0}, None),
        ([node("Sub", "a cast", "z")], {"a": 255.0}, None),
        ([node("Div", "a cast", "z")], {"a": 255.0}, None),
        ([node("Add", "cast cast", "z")], {}, None),
        ([node("Sqrt", "cast", "z")], {}, None),
        ([node("Mul", "cast a", "z")], {"a": np.nan}, None),
    ],
)
def test_arithmetic_on_pixels(
    arithmetic: list[NodeProto], constants: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    values = {name: v if isinstance(v, np.ndarray) else np.float32(v) for name, v in constants.items()}
    layer = first_layer([CAST, *arithmetic, PLANES], values)
    assert layer.affine == (pytest.approx(expected) if expected else None)


def test_arithmetic_on_bytes_is_not_affine() -> None:
    """A byte doubled wraps around."""
    nodes = [
        node("Mul", "frame a", "z"),
        PLANES,
        node("Cast", "planes", "float", to=FLOAT),
        node("Conv", "float w", "y"),
    ]
    model = model_of(nodes, {"a": np.uint8(2), "w": random(2, 3, 1, 1)}, FRAME)
    assert only_layer(model).affine is None


def test_other_casts_are_not_affine() -> None:
    nodes = [node("Cast", "frame", "whole", to=onnx.TensorProto.INT8), node("Cast", "whole", "z", to=FLOAT), PLANES]
    assert first_layer(nodes, {}).affine is None


def test_frame_before_is_affine_too() -> None:
    """A state that holds the frame before, as recurrent nets take it."""
    inputs = FRAME | {"before": (UINT8, (1, "h", "w", 3))}
    nodes = [node("Cast", "before", "z", to=FLOAT), PLANES, node("Conv", "planes w", "y")]
    assert only_layer(model_of(nodes, {"w": random(2, 3, 1, 1)}, inputs)).affine == (1, 0)


def test_float_input_is_not_affine() -> None:
    assert only_layer(model_of([node("Conv", "x w", "y")], {"w": random(2, 4, 1, 1)}, X)).affine is None


def test_affine_source_behind_a_pad() -> None:
    pad = node("Pad", "planes p", "padded", mode="reflect")
    model = model_of([*planes_of(), pad, node("Conv", "padded w", "y")], {"p": PADS, "w": random(2, 3, 3, 3)}, FRAME)
    assert (only_layer(model).source, only_layer(model).affine) == ("planes", (1, 0))
