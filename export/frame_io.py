"""Wrap a generator so that raw frames go in and raw frames come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from export.generators.base import LoadedGenerator, RecurrentState
from runtime.frames import Frame

_BGR_RGB = (2, 1, 0)  # the swap is its own inverse


class FrameGraph(nn.Module):
    """``uint8 (N, H, W, 3) BGR`` in, ``uint8 (N, sH, sW, 3) BGR`` out.

    Where the generator can take BGR 0..255 itself (channel order and scaling folded into its first
    and last convolution) nothing else is needed; otherwise both conversions are part of the graph.
    TensorRT allows uint8 only at the very edge of a network, hence the order: cast first and
    transpose then; at the end transpose, clip, round, and cast last. (A pixel shuffle at the end is rewritten
    afterwards, see :func:`export.passes.shuffled_in_frame_order`.)
    """

    states: tuple[RecurrentState, ...] = ()

    def __init__(self, loaded: LoadedGenerator) -> None:
        super().__init__()
        folded = loaded.folded()
        self.folded = folded is not None
        self.net = folded if folded is not None else loaded.net
        self._input_range, self._output_range = loaded.input_range, loaded.output_range
        self.order: Tensor
        self.register_buffer("order", torch.tensor(_BGR_RGB))

    def values(self, frame: Tensor) -> Tensor:
        """The output before rounding: ``float32 (N, 3, sH, sW) BGR``, about 0..255."""
        return self._pixels(cast(Tensor, self.net(self._planes(frame))))

    def forward(self, frame: Tensor) -> Tensor:
        return self._image(self.values(frame))

    def _planes(self, frame: Tensor) -> Tensor:
        """A frame as the net takes it."""
        planes = frame.to(torch.float32).permute(0, 3, 1, 2)
        if self.folded:
            return planes
        low, high = self._input_range
        return planes.index_select(1, self.order) * ((high - low) / 255) + low

    def _pixels(self, result: Tensor) -> Tensor:
        """What the net gives as BGR, about 0..255."""
        if self.folded:
            return result
        low, high = self._output_range
        return ((result - low) * (255 / (high - low))).index_select(1, self.order)

    def _image(self, values: Tensor) -> Tensor:
        return torch.round(torch.clamp(values.permute(0, 2, 3, 1), 0, 255)).to(torch.uint8)


class RecurrentFrameGraph(FrameGraph):
    """The same for one step of a recurrent generator.

    Takes the frame and one tensor for each of ``states``, in that order: a state that is the frame before is
    ``uint8 (N, H, W, 3) BGR`` like the frame, the others ``float32 (N, channels, H, W)``. Gives the image, and what
    follows each state that has an output.
    """

    def __init__(self, loaded: LoadedGenerator) -> None:
        super().__init__(loaded)
        self.states = loaded.states

    def forward(self, frame: Tensor, *states: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        fed = [
            self._planes(value) if state.output is None else value
            for state, value in zip(self.states, states, strict=True)
        ]
        result, *following = self.net(self._planes(frame), *fed)
        return (self._image(self._pixels(result)), *following)


def frame_graph(loaded: LoadedGenerator) -> FrameGraph:
    """The generator in evaluation mode with frames on both sides, of the class that it needs."""
    return (RecurrentFrameGraph(loaded) if loaded.states else FrameGraph(loaded)).eval()


@torch.no_grad()
def reference_output(loaded: LoadedGenerator, frame: Frame) -> Frame:
    """PyTorch's own output for one frame ``uint8 (H, W, 3) BGR``, from the generator as it was published.

    Nothing is folded and the conversion is done outside the net, so that a mistake in the frame
    graph shows up as a difference. Values are rounded half to even, as ONNX's Round does.
    """
    return _published_output(loaded, loaded.net(_published_input(loaded, frame)))


@torch.no_grad()
def reference_run(loaded: LoadedGenerator, frames: Sequence[Frame]) -> list[Frame]:
    """PyTorch's own output for consecutive frames ``uint8 (H, W, 3) BGR``, the first of which is a first step.

    As :func:`reference_output`, for the published recurrent net: it gets the frame before (in the first step the frame
    itself) and what it gave itself in the step before (in the first step zeros).
    """
    outputs = []
    before: Tensor | None = None
    carried = [
        torch.zeros(1, state.channels, *frames[0].shape[:2]) for state in loaded.states if state.output is not None
    ]
    for frame in frames:
        current = _published_input(loaded, frame)
        rest = iter(carried)
        previous = current if before is None else before
        result, *carried = loaded.net(
            current, *(previous if state.output is None else next(rest) for state in loaded.states)
        )
        before = current
        outputs.append(_published_output(loaded, result))
    return outputs


def _published_input(loaded: LoadedGenerator, frame: Frame) -> Tensor:
    low, high = loaded.input_range
    planes = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1)[None].float()
    return planes / 255 * (high - low) + low


def _published_output(loaded: LoadedGenerator, result: Tensor) -> Frame:
    low, high = loaded.output_range
    pixels = ((result - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy()[..., ::-1])


NEGLIGIBLE = 1 / 256  # of an 8-bit step: far below what rounding can show


@torch.no_grad()
def measured_halo(graph: FrameGraph, minimum: int, multiple: int, scale: int, limit: int = 512) -> int:
    """How many input pixels away something can still change an output pixel, measured on the network.

    Two things are done to a frame of noise, and the larger reach counts: a pixel in the middle is
    switched between black and white (several places, since a ReLU hides paths), and the frame is cut
    off on each side, as a tile is, so that the network pads with zeros where pixels were. The field of
    view is enlarged until the influence ends inside it.

    Args:
        graph: the wrapped generator.
        minimum, multiple: its size rule, in pixels.
        scale: output size over input size.
        limit: pixels; an influence beyond it counts as global.

    Raises ``ValueError`` where the influence reaches beyond ``limit`` pixels (global statistics).
    """
    generator = torch.Generator().manual_seed(0)
    radius = 24
    while radius <= limit:
        side = max(2 * radius + 1, minimum)
        side = -(-side // multiple) * multiple
        cut = -(-side // 4 // multiple) * multiple
        whole = max(side, -(-minimum // multiple) * multiple + cut)  # what a cut leaves must still obey the rule
        noise = torch.randint(0, 256, (1, whole, whole, 3), generator=generator, dtype=torch.uint8)
        reach = max(_reach_of_pixel(graph, noise, multiple, scale), _reach_of_cut(graph, noise, cut, scale))
        if reach < min(side // 2 - multiple, radius):
            return reach
        radius *= 2
    raise ValueError(f"the influence of a pixel reaches beyond {limit} pixels")


def _reach_of_pixel(graph: FrameGraph, noise: Tensor, multiple: int, scale: int) -> int:
    """Largest distance in input pixels, along an axis, at which one pixel moves an output value."""
    reach = 0
    for probe in range(6):
        black = noise.roll(probe, 1)
        # all phases of a stride: the pixel moves by one within the smallest period
        y = x = noise.shape[1] // 2 + (probe % multiple if multiple > 1 else probe)
        white = black.clone()
        black[0, y, x], white[0, y, x] = 0, 255
        moved = (graph.values(black) - graph.values(white)).abs().amax(dim=(0, 1)) > NEGLIGIBLE
        for places in (torch.nonzero(moved.any(dim=1)).flatten(), torch.nonzero(moved.any(dim=0)).flatten()):
            if len(places):
                reach = max(reach, y - int(places[0]) // scale, int(places[-1]) // scale - y)
    return reach


def _reach_of_cut(graph: FrameGraph, noise: Tensor, cut: int, scale: int) -> int:
    """How many input pixels from a new border the output differs from that of the whole frame."""
    reach = 0
    whole = graph.values(noise)
    for turns in range(4):  # cut at the top, left, bottom, right
        rows = slice(cut, None) if turns == 0 else slice(None, -cut) if turns == 2 else slice(None)
        columns = slice(cut, None) if turns == 1 else slice(None, -cut) if turns == 3 else slice(None)
        large = [slice(*(edge and edge * scale for edge in (part.start, part.stop))) for part in (rows, columns)]
        part = graph.values(noise[:, rows, columns].contiguous())
        differs = (part - whole[:, :, large[0], large[1]]).abs().amax(dim=(0, 1)) > NEGLIGIBLE
        along = torch.nonzero(differs.any(dim=1 - turns % 2)).flatten() // scale
        if len(along):
            length = part.shape[2 + turns % 2] // scale
            reach = max(reach, int(along[-1]) + 1 if turns < 2 else length - int(along[0]))
    return reach
