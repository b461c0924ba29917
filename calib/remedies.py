"""What makes a float graph easier to quantise without changing what it computes, and what corrects a quantised one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calib.collect import Statistics
from calib.graph import Index, checked, copy_of
from calib.layers import Layer, layers_of
from calib.observers import LEVELS
from calib.qdq import weight_scales
from runtime.errors import GenedgeError

Floats = NDArray[np.float32]

SCALABLE = ("Relu", "LeakyRelu", "PRelu")  # f(s x) = s f(x) for every s > 0
LARGEST_FACTOR = 50.0  # between the channels of a tensor; more would only amplify what was never seen
ACTIVATION_SHARE = 0.75  # how much of a channel's range goes into the next layer's weights


@dataclass(frozen=True)
class _Chain:
    first: Layer
    second: Layer


def equalisation(
    model: onnx.ModelProto, statistics: Statistics, share: float = ACTIVATION_SHARE
) -> dict[str, list[float]]:
    """Factors that bring the channels of a tensor to similar ranges: tensor -> one divisor for each channel.

    Only tensors between two layers with nothing but ReLU, LeakyReLU or PReLU in between have any. A channel is divided
    by ``range ** share / weights ** (1 - share)``, where weights is the largest weight of the second layer that reads
    it: the rule of SmoothQuant (Xiao et al., ICML 2023), applied to convolutions as in cross-layer equalisation (Nagel
    et al., Data-Free Quantization, ICCV 2019). Per-channel weights of the first layer make its division free.
    """
    index = Index(model.graph)
    factors = {}
    for chain in _chains(model, index):
        record = statistics.tensors.get(chain.first.activated)
        if record is None or record.lowest is None or record.highest is None:
            continue
        ranges = np.maximum(np.abs(record.lowest), np.abs(record.highest))
        weights = _input_magnitudes(chain.second, index)
        alive = (ranges > 0) & (weights > 0)
        if not alive.any():
            continue
        factor = np.ones(len(ranges))
        factor[alive] = ranges[alive] ** share / weights[alive] ** (1 - share)
        factor[alive] /= np.exp(np.mean(np.log(factor[alive])))
        factors[chain.first.activated] = [float(value) for value in np.clip(factor, 1 / LARGEST_FACTOR, LARGEST_FACTOR)]
    return factors


def equalised(model: onnx.ModelProto, factors: Mapping[str, list[float]]) -> onnx.ModelProto:
    """The same function: each channel of a tensor in ``factors`` is divided, the next layer's weights are multiplied.

    Raises :class:`GenedgeError` for factors of another graph.
    """
    result = copy_of(model)
    index = Index(model.graph)
    chains = {chain.first.activated: chain for chain in _chains(model, index)}
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}

    def scale(name: str, factor: NDArray[np.float64], axis: int) -> None:
        values = numpy_helper.to_array(tensors[name])
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        tensors[name].CopyFrom(numpy_helper.from_array((values * factor.reshape(shape)).astype(np.float32), name))

    for tensor, numbers in factors.items():
        chain, factor = chains.get(tensor), np.array(numbers, dtype=np.float64)
        right = len(factor) and np.isfinite(factor).all() and (factor > 0).all()
        if chain is None or len(factor) != chain.first.channels_out or not right:
            raise GenedgeError(f"the equalisation of {tensor} fits no layer: it was measured on another graph")
        assert chain.first.weight_axis is not None
        scale(chain.first.weight, 1 / factor, chain.first.weight_axis)
        if chain.first.bias is not None:
            scale(chain.first.bias, 1 / factor, 0)
        scale(chain.second.weight, factor, _input_axis(chain.second))
    return checked(result)


def bias_corrected(model: onnx.ModelProto, means: Mapping[str, list[float]], names: Collection[str]) -> onnx.ModelProto:
    """Take off the biases of the layers ``names`` what rounding their weights adds to each output channel on average.

    ``means`` holds the mean of every channel of a layer's ``source``. (The bias correction of Nagel et al., ICCV 2019.)
    Layers without a bias of their own, and those that read the frame (their pixels are centred), are left as they are.
    """
    result = copy_of(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    index = Index(model.graph)
    for layer in layers_of(model):
        if layer.name not in names or layer.bias is None or layer.affine is not None or layer.source not in means:
            continue
        weights = index.constant(layer.weight)
        bias = index.constant(layer.bias)
        mean = np.array(means[layer.source], dtype=np.float64)
        if layer.op != "Conv" or weights is None or bias is None or weights.shape[1] != len(mean):
            continue
        if not _read_once(layer.bias, index):
            continue
        scales = weight_scales(weights, 0).reshape(-1, *[1] * (weights.ndim - 1)).astype(np.float64)
        rounded = np.clip(np.round(weights / scales), -LEVELS, LEVELS) * scales
        error = (rounded - weights).sum(axis=tuple(range(2, weights.ndim))) @ mean
        tensors[layer.bias].CopyFrom(numpy_helper.from_array((bias - error).astype(np.float32), layer.bias))
    return result


def _chains(model: onnx.ModelProto, index: Index) -> list[_Chain]:
    layers = layers_of(model)
    readers: dict[str, list[Layer]] = {}
    for layer in layers:
        readers.setdefault(layer.source, []).append(layer)
    chains = []
    for first in layers:
        following = readers.get(first.activated, [])
        if (
            first.activation in SCALABLE
            and first.op in ("Conv", "ConvTranspose")
            and first.weight_axis is not None
            and len(following) == 1
            and following[0].op in ("Conv", "ConvTranspose")
            and following[0].affine is None
            and index.only_reader(first.activated) is not None
            and _groups_of_one(following[0], index)
            and all(_read_once(name, index) for name in (first.weight, first.bias, following[0].weight) if name)
        ):
            chains.append(_Chain(first, following[0]))
    return chains


def _read_once(name: str, index: Index) -> bool:
    """Whether ``name`` is a constant of one node: one that others read as well cannot be changed for this one."""
    return index.is_constant(name) and index.only_reader(name) is not None


def _groups_of_one(layer: Layer, index: Index) -> bool:
    weights = index.constant(layer.weight)
    return weights is not None and weights.shape[_input_axis(layer)] == layer.channels_in


def _input_axis(layer: Layer) -> int:
    return 0 if layer.op == "ConvTranspose" else 1


def _input_magnitudes(layer: Layer, index: Index) -> NDArray[np.float64]:
    weights = index.constant(layer.weight)
    assert weights is not None
    others = tuple(axis for axis in range(weights.ndim) if axis != _input_axis(layer))
    return np.asarray(np.max(np.abs(weights.astype(np.float64)), axis=others))
