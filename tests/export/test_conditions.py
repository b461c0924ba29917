"""Conditions of every kind through the frame graph and ONNX, on a net made up for it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoint_factory import frame
from published import convolution, randomised
from torch import Tensor, nn

from export.frame_io import frame_graph, reference_output
from export.generators.base import Condition, LoadedGenerator
from export.onnx_graph import graph_from_generator
from runtime.codes import Code
from runtime.frames import SizeRule


class Labelled(nn.Module):
    """RGB 0..1, a map of three classes and a style of two numbers to RGB 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.style, self.last = convolution(6, 5), nn.Linear(2, 5), convolution(5, 3)

    def forward(self, image: Tensor, classes: Tensor, style: Tensor) -> Tensor:
        features = self.first(torch.cat((image, classes), 1)) + self.style(style)[:, :, None, None]
        return torch.sigmoid(4 * self.last(torch.relu(features)))


@pytest.fixture(scope="module")
def generator() -> LoadedGenerator:
    conditions = (
        Condition("classes", Code("one-hot", 3, (0.0, 1.0, 0.0)), is_map=True),
        Condition("style", Code("vector", 2, (0.5, -1.0), -2.0, 2.0)),
    )
    torch.manual_seed(1)
    net = randomised(Labelled()).requires_grad_(False)
    return LoadedGenerator("test", net, 1, conditions=conditions, tileable=False)


@pytest.fixture(scope="module")
def model(generator: LoadedGenerator) -> onnx.ModelProto:
    return graph_from_generator(frame_graph(generator), SizeRule(), None)


def class_map(height: int, width: int, seed: int = 0) -> np.ndarray:
    """One-hot ``float32 (3, H, W)``: a class for each pixel."""
    places = np.random.default_rng(seed).integers(0, 3, (height, width))
    return (np.arange(3)[:, None, None] == places).astype(np.float32)


def run(model: onnx.ModelProto, images: np.ndarray, maps: np.ndarray, styles: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = {"frame": images, "classes": maps, "style": styles.astype(np.float32)}
    return session.run(None, fed)[0].astype(int)


def test_inputs_of_the_graph_are_the_frame_and_the_conditions_in_order(model: onnx.ModelProto) -> None:
    ports = {
        port.name: [side.dim_param or side.dim_value for side in port.type.tensor_type.shape.dim]
        for port in model.graph.input
    }
    assert ports == {"frame": ["n", "h", "w", 3], "classes": ["n", 3, "h", "w"], "style": ["n", 2]}
    assert all(port.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for port in model.graph.input[1:])


def test_a_map_and_a_vector_reach_the_net(generator: LoadedGenerator, model: onnx.ModelProto) -> None:
    images = np.stack([frame(20, 26, seed=seed) for seed in range(2)])
    maps = np.stack([class_map(20, 26, seed) for seed in range(2)])
    styles = np.array([[1.5, 0.0], [-2.0, 0.25]])
    found = run(model, images, maps, styles)
    for place in range(2):
        wanted = reference_output(generator, images[place], {"classes": maps[place], "style": styles[place]})
        assert wanted.std() > 5
        assert np.abs(found[place] - wanted).max() <= 1
    assert np.abs(found - run(model, images, maps[::-1], styles)).mean() > 1
    assert np.abs(found - run(model, images, maps, styles[::-1])).mean() > 1


def test_a_map_moves_only_what_is_near(model: onnx.ModelProto) -> None:
    images, maps, style = frame(20, 26)[None], class_map(20, 26)[None], np.array([[1.0, 1.0]])
    turned = maps.copy()
    turned[0, :, 5, 7] = np.roll(turned[0, :, 5, 7], 1)
    moved = np.abs(run(model, images, maps, style) - run(model, images, turned, style)).max(axis=(0, 3))
    assert moved[5, 7]
    assert not moved[8:].any()
    assert not moved[:, 10:].any()


def test_a_default_of_one_number_for_each_plane_holds_for_the_whole_map(
    generator: LoadedGenerator, model: onnx.ModelProto
) -> None:
    image = frame(16, 18)
    everywhere = np.zeros((1, 3, 16, 18), np.float32)
    everywhere[:, 1] = 1
    found = run(model, image[None], everywhere, np.array([[0.5, -1.0]]))[0]
    assert np.abs(found - reference_output(generator, image)).max() <= 1
