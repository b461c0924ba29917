"""Tiny MSRResNets under the names of BasicSR, KAIR and mmagic."""

from __future__ import annotations

import torch
from published import Published, convolution
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_shuffle


class PlainBlock(nn.Module):
    """Two convolutions with ReLU between them, beside a shortcut; ``scale`` weights them."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolution(width, width), convolution(width, width)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).clamp(min=0)) * self.scale


class BasicSrResNet(nn.Module):
    """``body``, ``upconv1``, ``upconv2`` and ``conv_hr``; KAIR calls two of them ``recon_trunk`` and ``HRconv``."""

    def __init__(self, scale: int, width: int, blocks: int, *, kair: bool = False) -> None:
        super().__init__()
        self.scale, self.names = scale, ("recon_trunk", "HRconv") if kair else ("body", "conv_hr")
        self.conv_first = convolution(3, width)
        setattr(self, self.names[0], nn.Sequential(*(PlainBlock(width) for _ in range(blocks))))
        self.upconv1 = convolution(width, width * (9 if scale == 3 else 4))
        if scale == 4:
            self.upconv2 = convolution(width, width * 4)
        setattr(self, self.names[1], convolution(width, width))
        self.conv_last = convolution(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = getattr(self, self.names[0])(leaky_relu(self.conv_first(image), 0.1))
        x = leaky_relu(pixel_shuffle(self.upconv1(x), 3 if self.scale == 3 else 2), 0.1)
        if self.scale == 4:
            x = leaky_relu(pixel_shuffle(self.upconv2(x), 2), 0.1)
        x = self.conv_last(leaky_relu(getattr(self, self.names[1])(x), 0.1))
        return x + interpolate(image, scale_factor=self.scale, mode="bilinear", align_corners=False)


class Pack(nn.Module):
    """mmagic's convolution and pixel shuffle."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.upsample_conv = convolution(width, width * factor**2)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.upsample_conv(x), self.factor)


class MmagicResNet(nn.Module):
    def __init__(self, factors: tuple[int, ...], width: int, blocks: int) -> None:
        super().__init__()
        self.conv_first = convolution(3, width)
        self.trunk_net = nn.Sequential(*(PlainBlock(width) for _ in range(blocks)))
        self.upsample1 = Pack(width, factors[0])
        self.upsample2 = Pack(width, factors[1]) if len(factors) > 1 else nn.Identity()
        self.conv_hr, self.conv_last = convolution(width, width), convolution(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.upsample2(self.upsample1(self.trunk_net(leaky_relu(self.conv_first(image), 0.1))))
        x = self.conv_last(leaky_relu(self.conv_hr(x), 0.1))
        return x + nn.Upsample(size=x.shape[2:], mode="bilinear", align_corners=False)(image)


@torch.no_grad()
def settled(net: nn.Module) -> None:
    """The output around grey, with details beside the enlarged picture that is added."""
    net.conv_last.weight *= 2
    net.conv_last.bias -= net.conv_last.bias.mean()


FIRST = r"(conv_first|upconv1|upsample1\.upsample_conv|conv_hr|HRconv)\.weight"

PUBLISHED_MSRRESNET = tuple(
    Published(
        id,
        "msrresnet",
        make,
        scale,
        {"layout": layout, "width": width, "blocks": blocks},
        telling=FIRST,
        settle=settled,
        size=(14, 18),
    )
    for id, make, scale, layout, width, blocks in (
        ("msrresnet-x4", lambda: BasicSrResNet(4, 6, 2), 4, "BasicSR", 6, 2),
        ("msrresnet-x3", lambda: BasicSrResNet(3, 4, 1), 3, "BasicSR", 4, 1),
        ("msrresnet-kair-x2", lambda: BasicSrResNet(2, 5, 2, kair=True), 2, "KAIR", 5, 2),
        ("msrresnet-mmagic-x4", lambda: MmagicResNet((2, 2), 4, 2), 4, "mmagic", 4, 2),
        ("msrresnet-mmagic-x2", lambda: MmagicResNet((2,), 6, 1), 2, "mmagic", 6, 1),
    )
)
