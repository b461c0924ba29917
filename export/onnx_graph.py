"""PyTorch generator to canonical ONNX graph: uint8 frames in and out, opset 17, IR 8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch

from calib.graph import checked
from export import passes
from export.frame_io import FrameGraph
from runtime.errors import GenedgeError
from runtime.frames import SizeRule

INPUT, OUTPUT = "frame", "image"


def graph_from_generator(graph: FrameGraph, size_rule: SizeRule, shape: tuple[int, int] | None) -> onnx.ModelProto:
    """Export a frame graph with torch's dynamo exporter and lower it to the canonical form.

    Its inputs are ``frame`` and the graph's states by their names, its outputs ``image`` and the states' outputs.

    Args:
        graph: the wrapped generator.
        size_rule: which frame sizes are allowed (the example frame obeys it).
        shape: (height, width) for a graph of that one size and one frame, None for any size and number.

    Raises:
        GenedgeError: the exporter or the checker refuses the graph.
    """
    graph = graph.eval()
    if shape is None:
        count, (height, width) = 2, size_rule.padded(48, 64)
    else:
        count, (height, width) = 1, shape
    frame = torch.zeros((count, height, width, 3), dtype=torch.uint8)
    states = [  # a tensor of its own for each: the exporter takes one that comes twice for one input
        torch.zeros_like(frame) if state.output is None else torch.zeros(count, state.channels, height, width)
        for state in graph.states
    ]
    n, h, w = (torch.export.Dim(name) for name in ("n", "h", "w"))
    frames, planes = {0: n, 1: h, 2: w}, {0: n, 2: h, 3: w}
    fed = tuple(frames if state.output is None else planes for state in graph.states)
    free = (frames, fed) if fed else (frames,)
    with _quiet():
        try:
            program = torch.onnx.export(
                graph,
                (frame, *states),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=18,
                input_names=[INPUT, *(state.name for state in graph.states)],
                output_names=[OUTPUT, *(state.output for state in graph.states if state.output is not None)],
                dynamic_shapes=free if shape is None else None,
            )
        except Exception as error:  # the exporter wraps many kinds
            cause = error.__cause__ or error
            first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            raise GenedgeError(f"PyTorch's ONNX exporter refused the generator: {first}") from error
    assert program is not None
    return canonical(program.model_proto)


def canonical(model: onnx.ModelProto) -> onnx.ModelProto:
    """Opset 17, IR 8, no metadata, no Constant nodes, a cheap pixel shuffle, checked with full shape inference."""
    model = passes.without_metadata(model)
    model = passes.constants_as_initializers(model)
    model = passes.lowered_to_opset_17(model)
    model = passes.shuffled_in_frame_order(model)
    names = [
        dimension.dim_param or dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim
    ]
    given = {str(old): new for old, new in zip(names, ("n", "h", "w"), strict=False) if isinstance(old, str)}
    model = passes.with_dimension_names(model, given)
    model.producer_name, model.producer_version = "genedge", ""
    model.graph.name = "generator"
    return checked(model)


def fixed_sizes(port: onnx.ValueInfoProto) -> list[int | None]:
    """The dimensions of an input or output, None for each free one."""
    return [dimension.dim_value or None for dimension in port.type.tensor_type.shape.dim]


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about torchvision and its own deprecations; none of that helps a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
