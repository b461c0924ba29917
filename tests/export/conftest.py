"""Exporting is what these tests do most."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

import onnx
import pytest

import export.build
import export.int8
import export.parity
from export.frame_io import FrameGraph
from export.onnx_graph import graph_from_generator
from runtime.frames import SizeRule


@pytest.fixture(scope="session", autouse=True)
def one_registry() -> Iterator[None]:
    """Torch's exporter gathers its table of operators once, not for half a second in every export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Small frames for parity and speed, and no second export of a net, for modules that are about neither.

    A net is known by its tensors: none may differ from another in what is written in its code only.
    """
    made: dict[object, bytes] = {}

    def once(graph: FrameGraph, rule: SizeRule, shape: tuple[int, int] | None) -> onnx.ModelProto:
        values = b"".join(value.numpy().tobytes() for value in graph.state_dict().values())
        key = hashlib.sha256(values).hexdigest(), shape
        if key not in made:
            made[key] = graph_from_generator(graph, rule, shape).SerializeToString()
        return onnx.load_model_from_string(made[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.parity, "FRAME_SIZE", (48, 64))
        patch.setattr(export.parity, "ODD_SIZE", (29, 37))
        patch.setattr(export.int8, "BENCH_SIZE", (48, 64))
        patch.setattr(export.int8, "BENCH_ROUNDS", 3)
        patch.setattr(export.build, "graph_from_generator", once)
        yield
