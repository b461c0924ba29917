"""Wrap a generator so that raw frames go in and raw frames come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.generators.base import Condition, LoadedGenerator, Range
from runtime.errors import GenedgeError
from runtime.frames import Frame

_BGR_RGB = (2, 1, 0)  # the swap is its own inverse

#: condition's name -> its numbers, ``float32 (size,)``, or ``(size, H, W)`` for a map; the default where one is missing
Codes = Mapping[str, NDArray[np.float32]]


class FrameGraph(nn.Module):
    """``uint8 (N, H, W, 3) BGR`` in, ``uint8 (N, sH, sW, 3) BGR`` out.

    Where the generator can take BGR 0..255 itself (channel order and scaling folded into its first
    and last convolution) nothing else is needed; otherwise both conversions are part of the graph.
    TensorRT allows uint8 only at the very edge of a network, hence the order: cast first and
    transpose then; at the end transpose, clip, round, and cast last. (A pixel shuffle at the end is rewritten
    afterwards, see :func:`export.passes.shuffled_in_frame_order`.)

    Besides the frame it takes one tensor for each state and one for each condition of the generator, in that order. A
    state that is the frame before is ``uint8`` like the frame, others are ``float32 (N, channels, scale H, scale W)``;
    a condition is ``float32 (N, size)`` or ``(N, size, H, W)``. Then it gives a tuple: the image, further images alike,
    and what follows each state that has an output.
    """

    def __init__(self, loaded: LoadedGenerator) -> None:
        super().__init__()
        if loaded.freeze is not None:  # exported as it is, a frame would get statistics that it was not made for
            raise GenedgeError(
                f"{loaded.family} takes the statistics of a whole batch: freeze them before it is exported"
            )
        folded = loaded.folded()
        self.folded = folded is not None
        self.net = folded if folded is not None else loaded.net
        self.states, self.conditions, self.images = loaded.states, loaded.conditions, loaded.images
        self._input_range, self._output_range = loaded.input_range, loaded.output_range
        self.order: Tensor
        self.register_buffer("order", torch.tensor(_BGR_RGB))

    @property
    def simple(self) -> bool:
        """Whether there is nothing but a frame on one side and an image on the other."""
        return not (self.states or self.conditions or self.images)

    def values(self, frame: Tensor) -> Tensor:
        """The image before rounding, for a generator without states: ``float32 (N, 3, sH, sW) BGR``, about 0..255.

        Conditions have their default.
        """
        assert not self.states
        count, height, width, _ = frame.shape
        codes = [condition_tensor(condition, None, count, height, width) for condition in self.conditions]
        result = self.net(self._planes(frame), *codes)
        return self._pixels(cast(Tensor, result if isinstance(result, Tensor) else result[0]))

    def forward(self, frame: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.simple:
            return self._image(self._pixels(cast(Tensor, self.net(self._planes(frame)))))
        states, codes = others[: len(self.states)], others[len(self.states) :]
        fed = [
            self._planes(value) if state.output is None else value
            for state, value in zip(self.states, states, strict=True)
        ]
        result = self.net(self._planes(frame), *fed, *codes)
        picture, *rest = result if isinstance(result, tuple) else (result,)
        further, following = rest[: len(self.images)], rest[len(self.images) :]
        shown = [
            self._image(_scaled(values, image.range).expand(-1, 3, -1, -1))
            for image, values in zip(self.images, further, strict=True)
        ]
        outputs = (self._image(self._pixels(picture)), *shown, *following)
        return outputs if len(outputs) > 1 else outputs[0]

    def _planes(self, frame: Tensor) -> Tensor:
        """A frame as the net takes it."""
        planes = frame.to(torch.float32).permute(0, 3, 1, 2)
        if self.folded:
            return planes
        low, high = self._input_range
        return planes.index_select(1, self.order) * ((high - low) / 255) + low

    def _pixels(self, result: Tensor) -> Tensor:
        """What the net gives as BGR, about 0..255."""
        return result if self.folded else _scaled(result, self._output_range).index_select(1, self.order)

    def _image(self, values: Tensor) -> Tensor:
        return torch.round(torch.clamp(values.permute(0, 2, 3, 1), 0, 255)).to(torch.uint8)


def _scaled(values: Tensor, span: Range) -> Tensor:
    low, high = span
    return (values - low) * (255 / (high - low))


def frame_graph(loaded: LoadedGenerator) -> FrameGraph:
    """The generator in evaluation mode with frames on both sides."""
    return FrameGraph(loaded).eval()


def condition_tensor(condition: Condition, values: NDArray[Any] | None, count: int, height: int, width: int) -> Tensor:
    """``values`` (None: the default) as the net takes them for ``count`` frames of ``height x width`` pixels."""
    numbers = torch.as_tensor(np.asarray(condition.code.default if values is None else values, dtype=np.float32))
    if not condition.is_map:
        return numbers.expand(count, -1)
    plane = numbers[:, None, None] if numbers.ndim == 1 else numbers
    return plane.expand(count, -1, height, width)


def reference_output(loaded: LoadedGenerator, frame: Frame, codes: Codes | None = None) -> Frame:
    """PyTorch's own output for one frame ``uint8 (H, W, 3) BGR``, from the generator as it was published.

    Nothing is folded and the conversion is done outside the net, so that a mistake in the frame
    graph shows up as a difference. Values are rounded half to even, as ONNX's Round does.
    """
    return reference_run(loaded, [frame], [codes or {}])[0]


def reference_run(
    loaded: LoadedGenerator, frames: Sequence[Frame], codes: Sequence[Codes] | None = None
) -> list[Frame]:
    """PyTorch's own output for consecutive frames ``uint8 (H, W, 3) BGR``, the first of which is a first step.

    As :func:`reference_output`. A published recurrent net gets the frame before, what it gave itself in the step
    before, and their initial values in the first step. ``codes`` has those of each frame.
    """
    return [pictures[0] for pictures in reference_pictures(loaded, frames, codes)]


@torch.no_grad()
def reference_pictures(
    loaded: LoadedGenerator, frames: Sequence[Frame], codes: Sequence[Codes] | None = None
) -> list[tuple[Frame, ...]]:
    """As :func:`reference_run`, with the further images of each frame behind the first."""
    outputs = []
    height, width = frames[0].shape[:2]
    before: Tensor | None = None
    carried = [
        torch.zeros(1, state.channels, height * state.scale, width * state.scale)
        for state in loaded.states
        if state.output is not None
    ]
    for place, frame in enumerate(frames):
        current = _published_input(loaded, frame)
        rest = iter(carried)
        fed = []
        for state in loaded.states:
            if state.output is not None:
                fed.append(next(rest))
            elif before is not None:
                fed.append(before)
            else:
                black = torch.full_like(current, loaded.input_range[0])
                fed.append(current if state.begins_as == "frame" else black)
        own = codes[place] if codes else {}
        said = [condition_tensor(each, own.get(each.name), 1, height, width) for each in loaded.conditions]
        result = loaded.net(current, *fed, *said)
        picture, *others = result if isinstance(result, tuple) else (result,)
        further, carried = others[: len(loaded.images)], others[len(loaded.images) :]
        before = current
        shown = [_published_output(values, image.range) for values, image in zip(further, loaded.images, strict=True)]
        outputs.append((_published_output(picture, loaded.output_range), *shown))
    return outputs


def _published_input(loaded: LoadedGenerator, frame: Frame) -> Tensor:
    low, high = loaded.input_range
    planes = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1)[None].float()
    return planes / 255 * (high - low) + low


def _published_output(result: Tensor, span: Range) -> Frame:
    low, high = span
    pixels = ((result - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels[0].expand(3, -1, -1).permute(1, 2, 0).numpy()[..., ::-1])


#: Of an 8-bit step: far below what rounding can show, since photographs reach further than noise does. Measured with
#: RealESRGAN_x4plus: 100 pixels on noise, beyond which 1/64 of a step is left on a photograph.
NEGLIGIBLE = 1 / 256
_FIRST_RADIUS = 24  # pixels; most nets for live video need no larger field
_WIDTH = 96  # pixels; paths through 350 convolutions of 3x3 spread by 15 pixels (one standard deviation) to either side
_PROBES = 6  # pixels that are switched, since a ReLU hides paths; next to each other, so in several phases of a stride
_FEW_PROBES = 2  # in a deep network, which has so many paths that no ReLU hides all


@torch.no_grad()
def measured_halo(graph: FrameGraph, minimum: int, multiple: int, scale: int, limit: int = 512) -> int:
    """How many input pixels away something can still change an output pixel, measured on the network.

    Two things are done to a frame of noise, and the larger reach counts: the frame is cut off on each side, as a tile
    is, so that the network pads with zeros where pixels were, and a pixel in the middle is switched between black and
    white (at several places). The frame is enlarged by half until the influence ends inside it. Deep networks make
    that expensive, so a frame that turns out too small is left at once, and a long one is ``_WIDTH`` pixels wide.

    Args:
        graph: the wrapped generator.
        minimum, multiple: its size rule, in pixels.
        scale: output size over input size.
        limit: pixels; an influence beyond it counts as global.

    Raises ``ValueError`` where the influence reaches beyond ``limit`` pixels (global statistics).
    """

    def side(length: int) -> int:
        return -(-max(length, minimum) // multiple) * multiple

    def cut(radius: int) -> int | None:
        part, removed = side(radius + multiple), side(radius // 2)
        return _reach_of_cut(graph, part, removed, min(part + removed, side(_WIDTH)), multiple, scale)

    def switched(radius: int) -> int | None:
        length = side(2 * (radius + multiple - 1) + _PROBES)
        return _reach_of_pixel(graph, length, min(length, side(_WIDTH)), multiple, scale)

    reach = _reach_inside(cut, _FIRST_RADIUS, limit)
    return max(reach, _reach_inside(switched, max(_FIRST_RADIUS, reach + 1), limit))


def _reach_inside(measure: Callable[[int], int | None], radius: int, limit: int) -> int:
    """What ``measure`` gives for the first radius, from ``radius`` on, at which it gives a reach and not that it may
    end outside."""
    while radius <= limit:
        reach = measure(radius)
        if reach is not None:
            return reach
        radius += radius // 2
    raise ValueError(f"the influence of a pixel reaches beyond {limit} pixels")


def _noise(height: int, width: int) -> Tensor:
    chance = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (1, height, width, 3), generator=chance, dtype=torch.uint8)


def _reach_of_cut(graph: FrameGraph, part: int, cut: int, width: int, multiple: int, scale: int) -> int | None:
    """How many input pixels from a new border the output differs from that of the whole frame, of which ``cut`` pixels
    are cut off and ``part`` are left; None where that may be more than these."""
    noise = _noise(part + cut, width)
    whole = graph.values(noise)
    reach = 0
    for axis in (1, 2):
        if axis == 2 and width < part + cut:
            noise = noise.transpose(1, 2).contiguous()
            whole = graph.values(noise)
        for begin in (cut, 0):  # the cut is before or behind what is left
            values = graph.values(noise.narrow(axis, begin, part).contiguous())
            differs = (values - whole.narrow(axis + 1, begin * scale, part * scale)).abs() > NEGLIGIBLE
            along = torch.nonzero(differs.any(dim=0).any(dim=0).any(dim=2 - axis)).flatten() // scale
            if len(along):
                reach = max(reach, int(along[-1]) + 1 if begin else part - int(along[0]))
            if reach >= part - multiple:
                return None
    return reach


def _reach_of_pixel(graph: FrameGraph, length: int, width: int, multiple: int, scale: int) -> int | None:
    """Largest distance in input pixels, along an axis, at which one pixel moves an output value; None where that may
    be outside of the frame."""
    probes = _PROBES if width == length else _FEW_PROBES
    first, across = (side // 2 // multiple * multiple - probes // 2 for side in (length, width))
    room = min(first, length - first - probes)  # around where the cells of a stride meet
    reach = 0
    for axis in (1, 2) if width < length else (1,):
        places = [(first + probe, across + probe)[:: 1 if axis == 1 else -1] for probe in range(probes)]
        noise = _noise(length, width)
        noise = noise if axis == 1 else noise.transpose(1, 2).contiguous()
        for y, x in places:
            noise[0, y, x] = 0
        black = graph.values(noise)
        for y, x in places:
            white = noise.clone()
            white[0, y, x] = 255
            moved = (graph.values(white) - black).abs().amax(dim=(0, 1)) > NEGLIGIBLE
            for place, across_it in ((y, 1), (x, 0)):
                touched = torch.nonzero(moved.any(dim=across_it)).flatten()
                if len(touched):
                    reach = max(reach, place - int(touched[0]) // scale, int(touched[-1]) // scale - place)
            if reach >= room:
                return None
    return reach
