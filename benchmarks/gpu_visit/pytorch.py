"""The generator in PyTorch itself, on the same frames: what a user has without this project."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_visit.turns import Turn
from export.frame_io import FrameGraph, condition_tensor, frame_graph
from export.generators import load_generator
from export.generators.base import LoadedGenerator
from runtime.errors import GenedgeError
from runtime.frames import Frames

SECONDS = 0.5  # of a block


class _Layout(nn.Module):
    """A net that computes in one type and memory layout, and takes and gives float32."""

    def __init__(self, net: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> None:
        super().__init__()
        self.net = net.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
        self._dtype, self._layout = dtype, layout

    def forward(self, planes: Tensor, *codes: Tensor) -> Any:
        laid_out = planes.to(self._dtype).contiguous(memory_format=self._layout)
        result = self.net(laid_out, *(code.to(self._dtype) for code in codes))
        return result.float() if isinstance(result, Tensor) else tuple(each.float() for each in result)


def device_here() -> str:
    """``cuda``, or where it has none ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def modes(device: str) -> dict[str, Callable[[LoadedGenerator], Any]]:
    """The ways to run a generator, by name. A CPU gets bfloat16 for float16, in which it is slow."""
    half, name = (torch.float16, "fp16") if device == "cuda" else (torch.bfloat16, "bf16")
    return {
        "pytorch eager fp32": lambda loaded: laid_out(loaded, torch.float32, torch.contiguous_format),
        f"pytorch channels-last {name}": lambda loaded: laid_out(loaded, half, torch.channels_last),
        f"torch.compile channels-last {name}": lambda loaded: torch.compile(
            laid_out(loaded, half, torch.channels_last)
        ),
    }


def laid_out(loaded: LoadedGenerator, dtype: torch.dtype, layout: torch.memory_format) -> FrameGraph:
    """The generator with frames on both sides, whose net computes in one type and layout."""
    graph = frame_graph(loaded)
    graph.net = _Layout(graph.net, dtype, layout)
    return graph


def pytorch_turn(weights: Path, who: str, frame: Frames, device: str) -> Turn:
    """One of :func:`modes`, on a frame ``uint8 (1, H, W, 3) BGR`` that lies in the device's memory already.

    A net is loaded for each, since a type and a layout are its own. Conditions have their defaults. Raises
    :class:`GenedgeError` for a generator with a state.
    """
    loaded, _ = load_generator(weights)
    if loaded.states:
        raise GenedgeError("a generator with a state is not timed in PyTorch")
    graph = modes(device)[who](loaded).to(device)
    inputs = [torch.from_numpy(frame).to(device)]
    inputs += [condition_tensor(each, None, *frame.shape[:3]).to(device) for each in loaded.conditions]
    timed = _by_events if device == "cuda" else _by_clock

    def run(count: int) -> Sequence[float]:
        with torch.inference_mode():
            return timed(lambda: graph(*inputs), count)

    return Turn(who, "engine", run, SECONDS)


def _by_events(step: Callable[[], Any], count: int) -> Sequence[float]:
    """Milliseconds a frame on the GPU's own clock."""
    torch.backends.cudnn.benchmark = True
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        step()
    end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / count]


def _by_clock(step: Callable[[], Any], count: int) -> Sequence[float]:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - begin))
    return times
