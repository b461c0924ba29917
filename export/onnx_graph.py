"""PyTorch generator to canonical ONNX graph: uint8 frames in and out, opset 17, IR 8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch

from calib.graph import checked
from export import passes
from export.frame_io import FrameGraph, condition_tensor
from runtime.errors import GenedgeError
from runtime.frames import SizeRule

INPUT, OUTPUT = "frame", "image"
ONE_SIZE = "nets that compute with the frame's size while they run need --shape HxW, a graph of one size"


def graph_from_generator(graph: FrameGraph, size_rule: SizeRule, shape: tuple[int, int] | None) -> onnx.ModelProto:
    """Export a frame graph with torch's dynamo exporter and lower it to the canonical form.

    Its inputs are ``frame`` and the graph's states and conditions by their names; its outputs are ``image``, the
    further images, and the states' outputs.

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
    n, h, w = (torch.export.Dim(name) for name in ("n", "h", "w"))
    if size_rule.multiple > 1:  # where a net brings two sizes together, they are only equal for such frames
        h, w = size_rule.multiple * h, size_rule.multiple * w
    frames, planes = {0: n, 1: h, 2: w}, {0: n, 2: h, 3: w}
    example, free = [frame], [frames]
    for state in graph.states:  # a tensor of its own for each: the exporter takes one that comes twice for one input
        if state.output is None:
            example.append(torch.zeros_like(frame))
            free.append(frames)
        else:
            s = state.scale
            example.append(torch.zeros(count, state.channels, height * s, width * s))
            free.append(planes if s == 1 else {0: n, 2: s * h, 3: s * w})
    for condition in graph.conditions:
        example.append(condition_tensor(condition, None, count, height, width).clone())
        free.append(planes if condition.is_map else {0: n})
    names = [state.name for state in graph.states] + [condition.name for condition in graph.conditions]
    outputs = [state.output for state in graph.states if state.output is not None]
    with quiet():
        try:
            program = torch.onnx.export(
                graph,
                tuple(example),
                dynamo=True,
                verbose=False,
                external_data=False,
                opset_version=18,
                input_names=[INPUT, *names],
                output_names=[OUTPUT, *(image.name for image in graph.images), *outputs],
                dynamic_shapes=_free_shapes(free) if shape is None else None,
            )
        except Exception as error:  # the exporter wraps many kinds
            cause = error.__cause__ or error
            first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            hint = f" ({ONE_SIZE})" if shape is None else ""
            raise GenedgeError(f"PyTorch's ONNX exporter refused the generator: {first}{hint}") from error
    assert program is not None
    model = canonical(program.model_proto)
    if shape is None and any(fixed_sizes(model.graph.input[0])[:3]):
        raise GenedgeError(f"the generator's graph would take no other size than {width}x{height}: {ONE_SIZE}")
    return _with_state_sizes(model, graph)


def _with_state_sizes(model: onnx.ModelProto, graph: FrameGraph) -> onnx.ModelProto:
    """Call the sides of a state of the image's size ``sh`` and ``sw``, as the manifest does."""
    names: dict[str, str] = {}
    for state, port in zip(graph.states, model.graph.input[1:], strict=False):
        if state.output is not None and state.scale > 1:
            _, _, height, width = (dimension.dim_param for dimension in port.type.tensor_type.shape.dim)
            names |= {height: "sh", width: "sw"}
    return passes.with_dimension_names(model, {old: new for old, new in names.items() if old})


def _free_shapes(free: list[dict[int, Any]]) -> tuple[Any, ...]:
    """As ``dynamic_shapes`` wants them: what the graph takes as ``*others`` is one tuple."""
    return (free[0], tuple(free[1:])) if len(free) > 1 else (free[0],)


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
def quiet() -> Iterator[None]:
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
