"""Tiny RRDBNets under the names of BasicSR / Real-ESRGAN, of ESRGAN / BSRGAN, and of ESRGAN's first release."""

from __future__ import annotations

import torch
from published import Published, convolution
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu


class NewDense(nn.Module):
    """``conv1`` to ``conv5``."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = convolution(width, growth)
        self.conv2 = convolution(width + growth, growth)
        self.conv3 = convolution(width + 2 * growth, growth)
        self.conv4 = convolution(width + 3 * growth, growth)
        self.conv5 = convolution(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        x1 = leaky_relu(self.conv1(x), 0.2)
        x2 = leaky_relu(self.conv2(torch.cat([x, x1], 1)), 0.2)
        x3 = leaky_relu(self.conv3(torch.cat([x, x1, x2], 1)), 0.2)
        x4 = leaky_relu(self.conv4(torch.cat([x, x1, x2, x3], 1)), 0.2)
        return x + 0.2 * self.conv5(torch.cat([x, x1, x2, x3, x4], 1))


class NewBlock(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = NewDense(width, growth), NewDense(width, growth), NewDense(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RealEsrgan(nn.Module):
    """BasicSR's names; x2 and x1 get squares of 2 and 4 pixels as channels."""

    def __init__(self, scale: int, width: int, blocks: int, growth: int) -> None:
        super().__init__()
        self.cell = 4 // scale
        self.conv_first = convolution(3 * self.cell**2, width)
        self.body = nn.Sequential(*(NewBlock(width, growth) for _ in range(blocks)))
        self.conv_body = convolution(width, width)
        self.conv_up1, self.conv_up2 = convolution(width, width), convolution(width, width)
        self.conv_hr, self.conv_last = convolution(width, width), convolution(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        planes = [  # as BasicSR does it with view and permute: colour, then row, then column in the square
            image[:, colour, row :: self.cell, column :: self.cell]
            for colour in range(3)
            for row in range(self.cell)
            for column in range(self.cell)
        ]
        first = self.conv_first(torch.stack(planes, 1))
        x = first + self.conv_body(self.body(first))
        x = leaky_relu(self.conv_up1(interpolate(x, scale_factor=2)), 0.2)
        x = leaky_relu(self.conv_up2(interpolate(x, scale_factor=2)), 0.2)
        return self.conv_last(leaky_relu(self.conv_hr(x), 0.2))


class EsrganBlock(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = NewDense(width, growth), NewDense(width, growth), NewDense(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))


class Esrgan(nn.Module):
    """xinntao/ESRGAN's names, x4; x2 has one ``upconv1`` alone, as BSRGAN does."""

    def __init__(self, scale: int, width: int, blocks: int, growth: int) -> None:
        super().__init__()
        self.conv_first = convolution(3, width)
        self.RRDB_trunk = nn.Sequential(*(EsrganBlock(width, growth) for _ in range(blocks)))
        self.trunk_conv = convolution(width, width)
        self.upconv1 = convolution(width, width)
        self.upconv2 = convolution(width, width) if scale == 4 else None
        self.HRconv, self.conv_last = convolution(width, width), convolution(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        first = self.conv_first(image)
        x = first + self.trunk_conv(self.RRDB_trunk(first))
        for upconv in (self.upconv1, self.upconv2):
            if upconv is not None:
                x = leaky_relu(upconv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)), 0.2)
        return self.conv_last(leaky_relu(self.HRconv(x), 0.2))


class OldDense(nn.Module):
    """``conv1.0`` to ``conv5.0``: each convolution is in a list with its activation."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for place in range(5):
            outputs = width if place == 4 else growth
            activation = [] if place == 4 else [nn.LeakyReLU(0.2)]
            layers = nn.Sequential(convolution(width + place * growth, outputs), *activation)
            setattr(self, f"conv{place + 1}", layers)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layers in self.children():
            seen.append(layers(torch.cat(seen, 1)))
        return seen[-1] * 0.2 + x


class OldBlock(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = OldDense(width, growth), OldDense(width, growth), OldDense(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return self.RDB3(self.RDB2(self.RDB1(x))) * 0.2 + x


class OldShortcut(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.sub = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sub(x)


class OldEsrgan(nn.Module):
    """The first release: everything in one list ``model``, three layers for each step of upsampling."""

    def __init__(self, steps: tuple[int, ...], width: int, blocks: int, growth: int) -> None:
        super().__init__()
        trunk = [OldBlock(width, growth) for _ in range(blocks)]
        layers = [convolution(3, width), OldShortcut(*trunk, convolution(width, width))]
        for factor in steps:
            layers += [nn.Upsample(scale_factor=factor), convolution(width, width), nn.LeakyReLU(0.2)]
        layers += [convolution(width, width), nn.LeakyReLU(0.2), convolution(width, 3)]
        self.model = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


def settled(net: nn.Module) -> None:
    """Residuals that count beside what they are added to, and an output around grey."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and ("conv5" in name or "rdb" in name.lower()):
            module.weight *= 2
    last = [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]
    last.weight *= 3
    last.bias += 0.5


def case(id: str, net: type[nn.Module], scale: int, made: tuple[object, ...], layout: str, **more: object) -> Published:
    _, width, blocks, growth = made
    facts = {"layout": layout, "width": width, "blocks": blocks, "growth": growth}
    cell = {"rrdb-x2": 2, "rrdb-x1": 4}.get(id, 1)
    first = {"first release": r"model\.0", "ESRGAN": r"conv_first|RRDB_trunk\.0\.RDB1\.conv1"}.get(layout, "conv_first")
    return Published(
        id,
        "rrdb",
        lambda: net(*made),
        scale,
        facts | ({"unshuffle": cell} if cell > 1 else {}),
        telling=rf"({first}|model\.1\.sub\.0\.RDB1\.conv1\.0)\.weight",
        settle=settled,
        **more,
    )


PUBLISHED_RRDB = (
    case("rrdb-x4", RealEsrgan, 4, (4, 6, 2, 3), "BasicSR", size=(12, 18)),
    case("rrdb-x2", RealEsrgan, 2, (2, 5, 1, 4), "BasicSR", size=(14, 22)),
    case("rrdb-x1", RealEsrgan, 1, (1, 8, 1, 3), "BasicSR", size=(24, 32)),
    case("rrdb-esrgan-x4", Esrgan, 4, (4, 4, 2, 3), "ESRGAN", size=(11, 13)),
    case("rrdb-bsrgan-x2", Esrgan, 2, (2, 6, 1, 2), "ESRGAN", size=(15, 20)),
    case("rrdb-first-x4", OldEsrgan, 4, ((2, 2), 6, 2, 3), "first release", size=(12, 13)),
    case("rrdb-first-x8", OldEsrgan, 8, ((2, 2, 2), 4, 1, 2), "first release", size=(9, 10)),
    case("rrdb-first-x1", OldEsrgan, 1, ((), 4, 1, 2), "first release"),
    case("rrdb-first-x3", OldEsrgan, 3, ((3,), 4, 1, 3), "first release", size=(9, 14), options={"factor": "3"}),
)
