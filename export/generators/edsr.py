"""EDSR (Lim et al., Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017).

Three layouts of the same net are read: the authors' https://github.com/sanghyun-son/EDSR-PyTorch (MIT; RGB 0..255, the
mean shift is in the file), https://github.com/XPixelGroup/BasicSR (Apache-2.0; RGB 0..1, computes in 0..255 around a
mean that is not in the file) and https://github.com/open-mmlab/mmagic (Apache-2.0; the same, but computes in 0..1).
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    Option,
    State,
    fold_input,
    fold_output,
    indices,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from runtime.errors import CheckpointError, UsageError

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, RGB 0..1
_WIDE = 256  # channels from which the authors weight residuals
_KIND = r"\.(?:weight|bias)"


class ResidualBlock(nn.Module):
    """``x + gain * conv2(relu(conv1(x)))``, without norms."""

    def __init__(self, width: int, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        change = cast(Tensor, self.conv2(torch.relu(self.conv1(features))))
        return features + (change if self.gain == 1 else change * self.gain)

    def fold_gain(self) -> None:
        """Let the second convolution give the weighted residual, in place."""
        self.conv2.weight.data *= self.gain
        cast(nn.Parameter, self.conv2.bias).data *= self.gain
        self.gain = 1.0


def upsampling_factors(family: str, state: State, names: list[str], width: int) -> tuple[int, ...]:
    """Factor of the pixel shuffle behind each of the convolutions ``names``, which keeps ``width`` channels.

    Raises :class:`CheckpointError` where there is none, or their channels fit no pixel shuffle.
    """
    if not names:
        raise CheckpointError(f"the checkpoint looks like {family}, but no upsampling layer was found in it")
    factors = []
    for name in names:
        channels = kernel_of(state, name, family)[0]
        factor = math.isqrt(channels // width)
        if factor < 2 or factor**2 * width != channels:
            raise CheckpointError(
                f"the checkpoint looks like {family}, but {name} gives {channels} channels, "
                f"which is not {width} times a square, so no pixel shuffle fits"
            )
        factors.append(factor)
    return tuple(factors)


class EdsrNet(nn.Module):
    """``float32 (N, 3, H, W) RGB`` to ``float32 (N, 3, sH, sW) RGB`` in the same range, not clipped.

    Args:
        width: channels.
        blocks: residual blocks.
        factors: one convolution and pixel shuffle for each, of that factor; the scale is their product.
        gain: weight of the residuals.
        spread: how many times larger than the input's the values inside are, around their mean; None where the mean is
            taken off and added by 1x1 convolutions, which the authors' files hold.
    """

    def __init__(self, width: int, blocks: int, factors: tuple[int, ...], gain: float, spread: float | None) -> None:
        super().__init__()
        self.factors = factors
        self.mean = MEAN  # of the input, where no convolution takes it off
        self.spread = 1.0 if spread is None else spread
        self.restores = spread is not None  # undo mean and spread at the end
        self.sub_mean = nn.Conv2d(3, 3, 1) if spread is None else None
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width, gain) for _ in range(blocks)))
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.upsample = nn.ModuleList(nn.Conv2d(width, width * factor**2, 3, padding=1) for factor in factors)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        self.add_mean = nn.Conv2d(3, 3, 1) if spread is None else None

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=image.device).reshape(1, 3, 1, 1)
        image = image - mean if self.sub_mean is None else self.sub_mean(image)
        shallow = self.conv_first(image if self.spread == 1 else image * self.spread)
        features = shallow + self.conv_after_body(self.body(shallow))
        for conv, factor in zip(self.upsample, self.factors, strict=True):
            features = functional.pixel_shuffle(conv(features), factor)
        result = cast(Tensor, self.conv_last(features))
        if self.add_mean is not None:
            return cast(Tensor, self.add_mean(result))
        return result / self.spread + mean if self.restores else result

    @property
    def foldable(self) -> bool:
        """Whether the first shift changes no colour but by a constant."""
        return self.sub_mean is None or torch.equal(self.sub_mean.weight[:, :, 0, 0], torch.eye(3))

    def folded(self, white: float) -> EdsrNet:
        """The same net for BGR 0..255 on both sides, instead of RGB 0..``white``.

        Taking off the mean stays an operation of its own: behind it the frame is padded with zeros, which a bias
        could not tell from pixels. What happens behind the last convolution becomes part of it.
        """
        net = copy.deepcopy(self)
        if net.sub_mean is not None:
            red, green, blue = (-cast(nn.Parameter, net.sub_mean.bias)).tolist()
        else:
            red, green, blue = net.mean
        net.mean = (blue * 255 / white, green * 255 / white, red * 255 / white)
        fold_input(net.conv_first, high=white * net.spread)
        last, bias = net.conv_last, cast(nn.Parameter, net.conv_last.bias)
        if net.add_mean is not None:
            mixed = net.add_mean.weight.data[:, :, 0, 0]
            last.weight.data = torch.einsum("oi,ihyx->ohyx", mixed, last.weight.data)
            bias.data = mixed @ bias.data + cast(nn.Parameter, net.add_mean.bias).data
        else:
            last.weight.data = last.weight.data / net.spread
            bias.data = bias.data / net.spread + torch.tensor(self.mean)
        fold_output(last, factor=255 / white)
        net.spread, net.restores, net.sub_mean, net.add_mean = 1.0, False, None, None
        for block in net.body:
            cast(ResidualBlock, block).fold_gain()
        return net


@dataclass(frozen=True)
class _Layout:
    """Names of a layout: each part of :class:`EdsrNet`, its blocks and upsampling as patterns with one number."""

    name: str
    parts: Mapping[str, str]
    block: str  # of the first convolution of a block
    inner: tuple[str, str]  # a block's convolutions
    step: str  # of an upsampling convolution
    stride: int  # from the number of one upsampling convolution to that of the next
    spread: float | None

    def original(self, blocks: int) -> Callable[[str], str]:
        """From a parameter of :class:`EdsrNet` to its name in the file."""

        def name_of(name: str) -> str:
            part, *rest, kind = name.split(".")
            if part == "body":
                block, conv = rest
                return f"body.{block}.{self.inner[conv == 'conv2']}.{kind}"
            if part == "upsample":
                return f"{self.step.format(self.stride * int(rest[0]))}.{kind}"
            return f"{self.parts.get(part, part).format(blocks=blocks)}.{kind}"

        return name_of


_AUTHORS = _Layout(
    "EDSR-PyTorch",
    {"conv_first": "head.0", "conv_after_body": "body.{blocks}", "conv_last": "tail.1"},
    r"body\.(\d+)\.body\.0",
    ("body.0", "body.2"),
    "tail.0.{}",
    2,
    None,
)
_BASICSR = _Layout("BasicSR", {}, r"body\.(\d+)\.conv1", ("conv1", "conv2"), "upsample.{}", 2, 255.0)
_MMAGIC = _Layout("mmagic", {}, r"body\.(\d+)\.conv1", ("conv1", "conv2"), "upsample.{}.upsample_conv", 1, 1.0)


def _layout(state: State) -> _Layout | None:
    if (
        is_convolution(state, "head.0.weight", 3)
        and is_convolution(state, "body.0.body.0.weight")
        and is_convolution(state, "tail.0.0.weight")
    ):
        return _AUTHORS
    names = ("body.0.conv1.weight", "conv_after_body.weight")
    if is_convolution(state, "conv_first.weight", 3) and all(is_convolution(state, name) for name in names):
        return _MMAGIC if any(".upsample_conv." in name for name in state) else _BASICSR
    return None


def _gain(text: str, width: int) -> tuple[float, str]:
    """Weight of the residuals, and a sentence about where it comes from; ``text`` is what the user says, or empty."""
    if text:
        try:
            gain = float(text)
        except ValueError:
            gain = math.nan
        if not 0 < gain < math.inf:
            raise UsageError(f"the option residual_scale of edsr is a positive number such as 0.1, not {text}")
        return gain, f"Residuals are weighted by {gain:g}, as the option residual_scale says."
    gain = 0.1 if width >= _WIDE else 1.0
    how = f"weight residuals by {gain:g}" if gain != 1 else "do not weight residuals"
    return gain, f"Nets of {width} channels {how}, as the authors train them; the file does not say (residual_scale)."


def _load(state: State, residual_scale: str = "") -> LoadedGenerator:
    layout = cast(_Layout, _layout(state))
    blocks = last_index(state, layout.block + _KIND, "edsr") + 1
    width = kernel_of(state, _first(layout), "edsr")[0]
    steps = indices(state, re.escape(layout.step).replace(r"\{\}", r"(\d+)") + _KIND)
    factors = upsampling_factors("edsr", state, [f"{layout.step.format(step)}.weight" for step in steps], width)
    gain, note = _gain(residual_scale, width)
    notes = [note]
    with torch.device("meta"):
        net = EdsrNet(width, blocks, factors, gain, layout.spread)
    load_strictly(net, state, f"edsr ({layout.name})", layout.original(blocks))
    white = 1.0
    if net.sub_mean is not None:
        white = _white(net.sub_mean)
        notes.append(f"RGB 0..{white:g}, by the mean that the file takes off.")
    else:
        notes.append("The mean of DIV2K is taken off, as in the publishers' configurations; the file does not hold it.")
    facts: dict[str, int | str] = {
        "layout": layout.name,
        "width": width,
        "blocks": blocks,
        "residual_scale": f"{gain:g}",
    }
    return LoadedGenerator(
        "edsr",
        net,
        math.prod(factors),
        input_range=(0.0, white),
        output_range=(0.0, white),
        facts=facts,
        fold=(lambda: net.folded(white)) if net.foldable else None,
        notes=tuple(notes),
    )


def _first(layout: _Layout) -> str:
    return f"{layout.parts.get('conv_first', 'conv_first')}.weight"


def _white(shift: nn.Conv2d) -> float:
    """255, or 1 for nets trained with ``--rgb_range 1``: the mean of a picture lies between black and white."""
    return 1.0 if 0 < float(cast(nn.Parameter, shift.bias).abs().max()) <= 1 else 255.0


_LAYERS = (
    *("sub_mean", "head.N", "body.N", "body.N.body.N", "tail.N.N", "tail.N", "add_mean"),
    *("conv_first", "body.N.convN", "conv_after_body", "upsample.N", "upsample.N.upsample_conv", "conv_last"),
)
EDSR = Generator(
    id="edsr",
    title="EDSR (authors', BasicSR's and mmagic's layouts)",
    keys=frozenset(f"{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")),
    detect=lambda state: _layout(state) is not None,
    load=_load,
    example="edsr_baseline_x2-1bc95232.pt",
    purpose="super-resolution of clean pictures, x2 to x4",
    options=(Option("residual_scale", (), "weight of the residuals; by default 0.1 from 256 channels on, else 1"),),
)
