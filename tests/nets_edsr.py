"""Tiny EDSRs under the names of their authors, of BasicSR and of mmagic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from nets_msrresnet import Pack, PlainBlock
from published import Published, convolution
from torch import Tensor, nn

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])  # RGB 0..1


def steps_of(scale: int) -> list[int]:
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


class AuthorsBlock(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(width, width), nn.ReLU(), convolution(width, width))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale + x


class AuthorsEdsr(nn.Module):
    """EDSR-PyTorch: ``head``, ``body`` and ``tail``, between 1x1 convolutions that shift the colours."""

    def __init__(self, scale: int, width: int, blocks: int, *, residual: float = 1.0) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(convolution(3, width))
        trunk = [AuthorsBlock(width, residual) for _ in range(blocks)]
        self.body = nn.Sequential(*trunk, convolution(width, width))
        layers = []
        for factor in steps_of(scale):
            layers += [convolution(width, width * factor**2), nn.PixelShuffle(factor)]
        self.tail = nn.Sequential(nn.Sequential(*layers), convolution(width, 3))

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(self.sub_mean(image))
        return self.add_mean(self.tail(self.body(x) + x))


class BasicSrEdsr(nn.Module):
    """BasicSR's names, and with ``packed`` mmagic's; they compute in 0..255 and in 0..1 around the mean."""

    def __init__(self, scale: int, width: int, blocks: int, *, packed: bool = False, residual: float = 1.0) -> None:
        super().__init__()
        self.range = 1.0 if packed else 255.0
        self.conv_first = convolution(3, width)
        self.body = nn.Sequential(*(PlainBlock(width, residual) for _ in range(blocks)))
        self.conv_after_body = convolution(width, width)
        layers = []
        for factor in steps_of(scale):
            layers += [Pack(width, factor)] if packed else [convolution(width, width * factor**2)]
            layers += [] if packed else [nn.PixelShuffle(factor)]
        self.upsample = nn.Sequential(*layers)
        self.conv_last = convolution(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        mean = MEAN.view(1, 3, 1, 1)
        x = self.conv_first((image - mean) * self.range)
        x = self.conv_last(self.upsample(self.conv_after_body(self.body(x)) + x))
        return x / self.range + mean


def centred(white: float) -> Callable[[nn.Module], None]:
    """Shifts as the authors make them, for nets of RGB 0..``white``."""

    def settle(net: nn.Module) -> None:
        if isinstance(net, AuthorsEdsr):
            for shift, sign in ((net.sub_mean, -1), (net.add_mean, 1)):
                shift.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
                shift.bias.copy_(sign * white * MEAN)

    return settle


def case(
    id: str, make: Callable[[], nn.Module], scale: int, layout: str, width: int, blocks: int, **more: object
) -> Published:
    white = 255.0 if layout == "EDSR-PyTorch" and "unit" not in id else 1.0
    options = more.get("options", {})
    facts = {"layout": layout, "width": width, "blocks": blocks, "residual_scale": "1", **options}
    telling = r"(head\.0|body\.0\.body\.0|tail\.0\.0|conv_first|conv_after_body)\.weight"
    return Published(id, "edsr", make, scale, facts, (0.0, white), "", telling, centred(white), size=(14, 18), **more)


PUBLISHED_EDSR = (
    case("edsr-x2", lambda: AuthorsEdsr(2, 6, 2), 2, "EDSR-PyTorch", 6, 2),
    case("edsr-unit-x3", lambda: AuthorsEdsr(3, 4, 1), 3, "EDSR-PyTorch", 4, 1),
    case(
        "edsr-weighted-x4",
        lambda: AuthorsEdsr(4, 5, 3, residual=0.1),
        4,
        "EDSR-PyTorch",
        5,
        3,
        options={"residual_scale": "0.1"},
    ),
    case("edsr-basicsr-x4", lambda: BasicSrEdsr(4, 5, 2), 4, "BasicSR", 5, 2),
    case(
        "edsr-basicsr-x2",
        lambda: BasicSrEdsr(2, 4, 1, residual=0.5),
        2,
        "BasicSR",
        4,
        1,
        options={"residual_scale": "0.5"},
    ),
    case("edsr-mmagic-x4", lambda: BasicSrEdsr(4, 6, 1, packed=True), 4, "mmagic", 6, 1),
    case("edsr-mmagic-x3", lambda: BasicSrEdsr(3, 4, 2, packed=True), 3, "mmagic", 4, 2),
)
