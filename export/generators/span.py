"""SPAN (Wan et al., Swift Parameter-free Attention Network for Efficient Super-Resolution, CVPRW 2024).

Layout and forward pass follow ``basicsr/archs/span_arch.py`` of https://github.com/hongyuanyu/SPAN (Apache-2.0), the
baseline of the NTIRE challenges on efficient super-resolution. Files come in two forms: as trained, with four
convolutions and a shortcut where the running net has one convolution, and merged for deployment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    State,
    fold_input,
    fold_output,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
    scale_from_channels,
)
from runtime.errors import CheckpointError

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K, RGB 0..1; the file has neither these nor the range
RANGE = 255.0
_UNCENTRED = "no_norm"  # a marker tensor by which later trainers (neosr) say that neither is used


class _Conv(nn.Module):
    """A 3x3 convolution, under the name that it has in the files."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.eval_conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.eval_conv(features))


class _TrainedConv(nn.Module):
    """The same while it is trained: 1x1, 3x3 and 1x1 in a row, and a 1x1 beside them.

    The publishers pad in front of the first 1x1, whose bias so reaches into the padding: one convolution equals the
    four at the border too.
    """

    def __init__(self, inputs: int, outputs: int, gain: int) -> None:
        super().__init__()
        self.sk = nn.Conv2d(inputs, outputs, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inputs * gain, 1),
            nn.Conv2d(inputs * gain, outputs * gain, 3),
            nn.Conv2d(outputs * gain, outputs, 1),
        )

    def merged(self) -> _Conv:
        """The one convolution, computed in float64."""
        (first, first_bias), (middle, middle_bias), (last, last_bias), (beside, beside_bias) = (
            (cast(Tensor, part.weight).double(), cast(Tensor, part.bias).double()) for part in (*self.conv, self.sk)
        )
        first, last, beside = first[:, :, 0, 0], last[:, :, 0, 0], beside[:, :, 0, 0]
        weight = torch.einsum("oh,hgyx,gi->oiyx", last, middle, first)
        weight[:, :, 1, 1] += beside
        result = _Conv(weight.shape[1], weight.shape[0])
        result.eval_conv.weight.data = weight.float()
        result.eval_conv.bias = nn.Parameter(
            (last @ (middle.sum(dim=(2, 3)) @ first_bias + middle_bias) + last_bias + beside_bias).float()
        )
        return result.eval().requires_grad_(False)


_MakeConv = Callable[[int, int], nn.Module]


class _Block(nn.Module):
    """Three convolutions whose result is weighted by its own odd function: attention without parameters."""

    def __init__(self, width: int, conv: _MakeConv) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = conv(width, width), conv(width, width), conv(width, width)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        # what the publishers call the first convolution's output has been through the activation, which is in place
        first = functional.silu(self.c1_r(features))
        third = self.c3_r(functional.silu(self.c2_r(first)))
        return (third + features) * (torch.sigmoid(third) - 0.5), first


class SpanNet(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..1`` to ``float32 (N, 3, sH, sW) RGB``, not clipped.

    Args:
        width: channels.
        blocks: attention blocks.
        scale: output size over input size.
        gain: how many times wider the convolutions were trained; 0 for the merged form.
        centred: take the mean of DIV2K off the input, and compute in 0..255.
    """

    def __init__(self, width: int, blocks: int, scale: int, *, gain: int = 0, centred: bool = True) -> None:
        super().__init__()
        self.blocks = blocks
        self.mean = MEAN if centred else None
        self.range = RANGE if centred else 1.0
        conv: _MakeConv = partial(_TrainedConv, gain=gain) if gain else _Conv
        self.conv_1 = conv(3, width)
        for number in range(1, blocks + 1):
            self.add_module(f"block_{number}", _Block(width, conv))
        self.conv_cat = nn.Conv2d(4 * width, width, 1)
        self.conv_2 = conv(width, width)
        self.upsampler = nn.Sequential(nn.Conv2d(width, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, image: Tensor) -> Tensor:
        if self.mean is not None:
            image = image - torch.tensor(self.mean, device=image.device).reshape(1, 3, 1, 1)
        if self.range != 1:
            image = image * self.range
        shallow = features = self.conv_1(image)
        ends = []
        for number in range(1, self.blocks + 1):
            features, inner = self.get_submodule(f"block_{number}")(features)
            ends.append(features)
        joined = torch.cat([shallow, self.conv_2(features), ends[0], inner], dim=1)
        return cast(Tensor, self.upsampler(self.conv_cat(joined)))

    def merge(self) -> None:
        """Merge every convolution that is still in its trained form, in place."""
        for owner in list(self.modules()):
            for name, module in list(owner.named_children()):
                if isinstance(module, _TrainedConv):
                    setattr(owner, name, module.merged())

    def folded(self) -> SpanNet:
        """The same net for BGR 0..255 on both sides.

        Taking off the mean stays an operation of its own: behind it the frame is padded with zeros, which a bias
        could not tell from pixels.
        """
        net = copy.deepcopy(self)
        first, last = cast(_Conv, net.conv_1).eval_conv, cast(nn.Conv2d, net.upsampler[0])
        fold_input(first, high=self.range)
        net.range = 1.0
        if self.mean is not None:
            red, green, blue = self.mean
            net.mean = (blue * 255, green * 255, red * 255)
        fold_output(last, shuffled=cast(nn.PixelShuffle, net.upsampler[1]).upscale_factor)
        return net


def _detect(state: State) -> bool:
    return any(
        is_convolution(state, f"conv_1.{form}.weight", 3) and is_convolution(state, f"block_1.c1_r.{form}.weight")
        for form in ("sk", "eval_conv")
    )


def _load(state: State) -> LoadedGenerator:
    trained = any(name.endswith(".sk.weight") for name in state)
    blocks = last_index(state, r"block_(\d+)\..*", "span")
    scale = scale_from_channels("span", kernel_of(state, "upsampler.0.weight", "span")[0])
    width = kernel_of(state, f"conv_1.{'sk' if trained else 'eval_conv'}.weight", "span")[0]
    gain = 0
    if trained:
        gain = kernel_of(state, "conv_1.conv.0.weight", "span")[0] // 3
        if gain < 1:
            raise CheckpointError("the checkpoint looks like span, but conv_1.conv.0 is narrower than its input")
        # what the trainer merged at some time; the publishers merge anew before they run the net
        state = {name: tensor for name, tensor in state.items() if ".eval_conv." not in name}
    centred = _UNCENTRED not in state
    with torch.device("meta"):
        net = SpanNet(width, blocks, scale, gain=gain, centred=centred)
    load_strictly(net, {name: tensor for name, tensor in state.items() if name != _UNCENTRED}, "span")
    net.merge()
    facts: dict[str, int | str] = {"width": width, "blocks": blocks, "form": "trained" if trained else "merged"}
    return LoadedGenerator("span", net, scale, facts=facts, fold=net.folded)


_PARTS = ("conv_N", "block_N.cN_r")
SPAN = Generator(
    id="span",
    title="SPAN, Swift Parameter-free Attention Network (trained or merged form)",
    keys=frozenset(
        f"{name}.{kind}"
        for name in (
            *(f"{part}.{form}" for part in _PARTS for form in ("eval_conv", "sk", "conv.N")),
            "conv_cat",
            "upsampler.N",
        )
        for kind in ("weight", "bias")
    ),
    detect=_detect,
    load=_load,
    example="team00_SPAN.pth",
    purpose="fast super-resolution of photos",
)
