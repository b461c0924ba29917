"""pix2pix's U-Net (Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017), also of
the same repository's colourisation.

Layout and forward pass follow ``UnetGenerator`` and ``UnetSkipConnectionBlock`` in ``models/networks.py`` of
https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix (BSD): ``unet_128`` halves the frame 7 times, ``unet_256`` 8
times, and is run at the size that leaves one pixel in the middle. Its ResNets are :mod:`export.generators.cyclegan`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from export.generators.base import (
    MOST_OF_PICTURES,
    Generator,
    LoadedGenerator,
    State,
    fold_batch_norms,
    is_convolution,
    kernel_of,
    load_strictly,
)
from export.generators.translation import NO_DROPOUT, STATISTICS, Colouriser, Norms, colourises, read_norms
from runtime.errors import CheckpointError
from runtime.frames import SizeRule

MAX_LEVELS = 12  # 4096 pixels a side; the published nets have 7 and 8

_KERNEL, _SLOPE = 4, 0.2
_GREY = 127.5  # the 0 of -1..1 in bytes, which is what the first convolution pads with
_FIRST, _SECOND = "model.model.0.weight", "model.model.1.model.1.weight"


@dataclass(frozen=True)
class UnetShape:
    """What the tensors say about a net, each level from the outermost to the innermost.

    Args:
        inputs: channels of the frame.
        down: channels that the convolution of each level gives, at half the size.
        up: channels that the transposed convolution of each level gives, at twice the size.
        norms: those behind all of them but the first, the innermost and the last.
    """

    inputs: int
    down: tuple[int, ...]
    up: tuple[int, ...]
    norms: Norms


class _Level(nn.Module):
    """From one size to half of it, through the levels inside, and back.

    The published activations work in place, so what goes around the level has passed the first one already. It makes no
    difference, as a ReLU follows, and is done here likewise.
    """

    def __init__(self, shape: UnetShape, level: int) -> None:
        super().__init__()
        self.outermost = level == 0
        innermost = level == len(shape.down) - 1
        norms = shape.norms
        inputs = shape.inputs if self.outermost else shape.down[level - 1]
        inner, outer = shape.down[level], shape.up[level]
        layers: list[nn.Module] = [] if self.outermost else [nn.LeakyReLU(_SLOPE)]
        layers.append(nn.Conv2d(inputs, inner, _KERNEL, 2, 1, bias=norms.biased))
        if not innermost:
            layers += [] if self.outermost else [norms.layer(inner)]
            layers.append(_Level(shape, level + 1))
            inner += shape.up[level + 1]
        biased = norms.biased or self.outermost
        layers += [nn.ReLU(), nn.ConvTranspose2d(inner, outer, _KERNEL, 2, 1, bias=biased)]
        layers.append(nn.Tanh() if self.outermost else norms.layer(outer))
        self.model = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        if self.outermost:
            return cast(Tensor, self.model(features))
        features = around = self.model[0](features)
        for layer in list(self.model)[1:]:
            features = layer(features)
        return torch.cat([around, features], 1)


class Pix2PixNet(nn.Module):
    """``float32 (N, inputs, H, W) -1..1`` to as many planes as ``shape`` says; H and W are multiples of 2^levels."""

    def __init__(self, shape: UnetShape) -> None:
        super().__init__()
        self.bytes = False  # the frame on both sides as 0..255
        self.model = _Level(shape, 0)

    def forward(self, image: Tensor) -> Tensor:
        if self.bytes:
            return (cast(Tensor, self.model(image - _GREY)) + 1) * _GREY
        return cast(Tensor, self.model(image))

    def with_folded_norms(self) -> Pix2PixNet:
        """The same net, batch norms folded into the convolutions before them."""
        net = copy.deepcopy(self)
        for module in net.modules():
            if isinstance(module, _Level):
                fold_batch_norms(module.model)
        return net

    def folded(self) -> Pix2PixNet:
        """The same net for BGR 0..255 on both sides.

        The first convolution pads with zeros, the grey of -1..1. Folded altogether it would pad with black, so the grey
        is subtracted in front of it.
        """
        net = self.with_folded_norms()
        first, last = cast(nn.Conv2d, net.model.model[0]), cast(nn.ConvTranspose2d, net.model.model[-2])
        first.weight.data = first.weight.data.flip(1) / _GREY
        last.weight.data = last.weight.data.flip(1)  # a transposed kernel has its outputs second
        last.bias = nn.Parameter(cast(Tensor, last.bias).flip(0), requires_grad=False)
        net.bytes = True
        return net


def _detect(state: State) -> bool:
    # with more channels than pictures have, it is BicycleGAN's U-Net, which has the same names
    return (
        is_convolution(state, _FIRST) and is_convolution(state, _SECOND) and state[_FIRST].shape[1] <= MOST_OF_PICTURES
    )


def _levels(state: State) -> list[str]:
    """The place of each level in the file, from the outermost to the innermost; there are two at least."""
    places, place = ["model.model"], "model.model.1.model"
    while any(name.startswith(f"{place}.") for name in state):
        places.append(place)
        place += ".3.model"
    return places


def _shape(state: State, statistics: str) -> UnetShape:
    outermost, *middle, innermost = _levels(state)
    down = [f"{outermost}.0", *(f"{place}.1" for place in (*middle, innermost))]
    up = [f"{outermost}.3", *(f"{place}.5" for place in middle), f"{innermost}.3"]
    norms = [*(f"{place}.{number}" for place in middle for number in (2, 6)), f"{innermost}.4"]
    if len(down) > MAX_LEVELS:
        raise CheckpointError(
            f"the checkpoint looks like pix2pix, but it halves the frame {len(down)} times, more than {MAX_LEVELS}"
        )
    return UnetShape(
        inputs=kernel_of(state, f"{down[0]}.weight", "pix2pix")[1],
        down=tuple(kernel_of(state, f"{place}.weight", "pix2pix")[0] for place in down),
        up=tuple(kernel_of(state, f"{place}.weight", "pix2pix")[1] for place in up),
        norms=read_norms(state, norms, [*down, *up[1:]], statistics, "pix2pix"),
    )


def _load(state: State, statistics: str = "batch") -> LoadedGenerator:
    shape = _shape(state, statistics)
    in_colour = colourises(shape.inputs, shape.up[0], "pix2pix")
    with torch.device("meta"):
        net = Pix2PixNet(shape)
    load_strictly(net, shape.norms.used(state), "pix2pix")

    def fold() -> nn.Module:
        return Colouriser(net.with_folded_norms(), in_bytes=True) if in_colour else net.folded()

    low = 0.0 if in_colour else -1.0
    side = 2 ** len(shape.down)
    return LoadedGenerator(
        "pix2pix",
        Colouriser(net).eval() if in_colour else net,
        1,
        input_range=(low, 1.0),
        output_range=(low, 1.0),
        size_rule=SizeRule(side, side),
        tileable=False,  # the middle sees all of the frame
        task="translation",
        facts={
            "width": shape.down[0],
            "levels": len(shape.down),
            **shape.norms.facts,
            **({"channels": "L to ab"} if in_colour else {}),
        },
        fold=fold,
        fixed_size=(side, side),
        fit="resize",
        notes=(*shape.norms.notes, NO_DROPOUT),
    )


_PLACES = ("model.model.N", *(f"model.model.N{'.model.N' * depth}" for depth in range(1, 8)))
PIX2PIX = Generator(
    id="pix2pix",
    title="pix2pix U-Net generators of junyanz (unet_128, unet_256), also for colourisation",
    keys=frozenset(f"{place}.{kind}" for place in _PLACES for kind in ("weight", "bias")),
    detect=_detect,
    load=_load,
    example="facades_label2photo.pth",
    purpose="translation between two kinds of picture, trained on pairs",
    options=(STATISTICS,),
)
