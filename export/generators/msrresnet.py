"""MSRResNet, the SRResNet without batch norms that ESRGAN's authors train (Wang et al., ECCVW 2018).

Three layouts are read: ``basicsr/archs/srresnet_arch.py`` of https://github.com/XPixelGroup/BasicSR (Apache-2.0), the
older names of the same net in ``models/network_msrresnet.py`` of https://github.com/cszn/KAIR (MIT), and
``mmagic/models/editors/srgan/sr_resnet.py`` of https://github.com/open-mmlab/mmagic (Apache-2.0), which has no
activation behind its pixel shuffles.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    indices,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from export.generators.edsr import ResidualBlock, upsampling_factors

_SLOPE = 0.1  # of every LeakyReLU
_KIND = r"\.(?:weight|bias)"


class MsrResNet(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..1`` to ``float32 (N, 3, sH, sW) RGB``, not clipped.

    Args:
        width: channels.
        blocks: residual blocks.
        factors: one convolution and pixel shuffle for each, of that factor; the scale is their product.
        activated: LeakyReLU behind each pixel shuffle.
    """

    def __init__(self, width: int, blocks: int, factors: tuple[int, ...], *, activated: bool) -> None:
        super().__init__()
        self.factors = factors
        self.activated = activated
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        for number, factor in enumerate(factors, 1):
            self.add_module(f"upconv{number}", nn.Conv2d(width, width * factor**2, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.body(functional.leaky_relu(self.conv_first(image), _SLOPE))
        for number, factor in enumerate(self.factors, 1):
            features = functional.pixel_shuffle(self.get_submodule(f"upconv{number}")(features), factor)
            if self.activated:
                features = functional.leaky_relu(features, _SLOPE)
        detail = cast(Tensor, self.conv_last(functional.leaky_relu(self.conv_hr(features), _SLOPE)))
        scale = float(math.prod(self.factors))
        return detail + functional.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)

    def folded(self) -> MsrResNet:
        """The same net for BGR 0..255 on both sides. The enlarged picture that is added is so already."""
        net = copy.deepcopy(self)
        fold_input(net.conv_first)
        fold_output(net.conv_last)
        return net


@dataclass(frozen=True)
class _Layout:
    """Names of a layout: of parts that are called otherwise than in :class:`MsrResNet`; ``{}`` is a number."""

    name: str
    body: str
    step: str
    parts: Mapping[str, str] = field(default_factory=dict)
    activated: bool = True

    def fits(self, state: State) -> bool:
        names = (f"{self.body}.0.conv1.weight", f"{self.step.format(1)}.weight", f"{self.original('conv_hr.weight')}")
        return is_convolution(state, "conv_first.weight", 3) and all(is_convolution(state, name) for name in names)

    def original(self, name: str) -> str:
        """From a parameter of :class:`MsrResNet` to its name in the file."""
        part, _, rest = name.partition(".")
        if part == "body":
            return f"{self.body}.{rest}"
        if part.startswith("upconv"):
            return f"{self.step.format(part.removeprefix('upconv'))}.{rest}"
        return f"{self.parts.get(part, part)}.{rest}"


_LAYOUTS = (
    _Layout("BasicSR", "body", "upconv{}"),
    _Layout("KAIR", "recon_trunk", "upconv{}", {"conv_hr": "HRconv"}),
    _Layout("mmagic", "trunk_net", "upsample{}.upsample_conv", activated=False),
)


def _load(state: State) -> LoadedGenerator:
    layout = next(layout for layout in _LAYOUTS if layout.fits(state))
    blocks = last_index(state, rf"{layout.body}\.(\d+)\.conv1{_KIND}", "msrresnet") + 1
    width = kernel_of(state, "conv_first.weight", "msrresnet")[0]
    steps = indices(state, layout.step.replace(".", r"\.").format(r"(\d+)") + _KIND)
    factors = upsampling_factors("msrresnet", state, [f"{layout.step.format(step)}.weight" for step in steps], width)
    with torch.device("meta"):
        net = MsrResNet(width, blocks, factors, activated=layout.activated)
    load_strictly(net, state, f"msrresnet ({layout.name})", layout.original)
    facts: dict[str, int | str] = {"layout": layout.name, "width": width, "blocks": blocks}
    return LoadedGenerator("msrresnet", net, math.prod(factors), facts=facts, fold=net.folded)


_LAYERS = (
    *("conv_first", "body.N.convN", "upconvN", "conv_hr", "conv_last"),
    *("recon_trunk.N.convN", "HRconv", "trunk_net.N.convN", "upsampleN.upsample_conv"),
)
MSRRESNET = Generator(
    id="msrresnet",
    title="MSRResNet, SRResNet without batch norms (BasicSR's, KAIR's and mmagic's layouts)",
    keys=frozenset(f"{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")),
    detect=lambda state: any(layout.fits(state) for layout in _LAYOUTS),
    load=_load,
    example="msrresnet_x4c64b16_1x16_300k_div2k_20200521-61556be5.pth",
    purpose="super-resolution of clean pictures, x2 to x4",
)
