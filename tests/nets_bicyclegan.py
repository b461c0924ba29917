"""BicycleGAN's generators as junyanz' ``models/networks.py`` lays them out, tiny and random."""

from __future__ import annotations

from typing import Any

import torch
from published import Published, last_convolution
from torch import Tensor, nn


def doubled(inputs: int, outputs: int, upsample: str) -> list[nn.Module]:
    if upsample == "basic":
        return [nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1)]
    larger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return [larger, nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, kernel_size=3)]


def with_planes(x: Tensor, z: Tensor) -> Tensor:
    return torch.cat([x, z.view(*z.shape, 1, 1).repeat(1, 1, *x.shape[2:])], 1)


class BlockWithZ(nn.Module):
    """``UnetBlock_with_z``; ``within`` is the block inside, ``end`` outermost, innermost, or empty."""

    def __init__(
        self,
        inputs: int,
        outer: int,
        inner: int,
        nz: int,
        within: BlockWithZ | None,
        end: str,
        norm: Any,
        upsample: str,
    ) -> None:
        super().__init__()
        self.end = end
        conv = nn.Conv2d(inputs + nz, inner, kernel_size=4, stride=2, padding=1)
        up = [nn.ReLU(), *doubled(inner if end == "innermost" else inner * 2, outer, upsample)]
        if end == "outermost":
            down, up = [conv], [*up, nn.Tanh()]
        elif end == "innermost":
            down, up = [nn.LeakyReLU(0.2), conv], [*up, norm(outer)]
        else:  # in training a dropout may follow, which has no weights
            down, up = [nn.LeakyReLU(0.2), conv, norm(inner)], [*up, norm(outer), nn.Dropout(0.5)]
        self.down = nn.Sequential(*down)
        self.submodule = within
        self.up = nn.Sequential(*up)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        inner = self.down(with_planes(x, z))
        if self.submodule is not None:
            inner = self.submodule(inner, z)
        result = self.up(inner)
        return result if self.end == "outermost" else torch.cat([result, x], 1)


class Block(nn.Module):
    """``UnetBlock``, the same in one list of layers and without the latent vector."""

    def __init__(
        self, inputs: int, outer: int, inner: int, within: Block | None, end: str, norm: Any, upsample: str
    ) -> None:
        super().__init__()
        self.end = end
        conv = nn.Conv2d(inputs, inner, kernel_size=4, stride=2, padding=1)
        up = [nn.ReLU(), *doubled(inner if end == "innermost" else inner * 2, outer, upsample)]
        if end == "outermost":
            layers = [conv, within, *up, nn.Tanh()]
        elif end == "innermost":
            layers = [nn.LeakyReLU(0.2), conv, *up, norm(outer)]
        else:
            layers = [nn.LeakyReLU(0.2), conv, norm(inner), within, *up, norm(outer)]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.end == "outermost" else torch.cat([self.model(x), x], 1)


class BicycleAll(nn.Module):
    """``G_Unet_add_all``: RGB -1..1, or of one channel, and z ``(N, nz)`` to RGB -1..1."""

    def __init__(
        self, pictures: int, nz: int, downs: int, ngf: int, *, norm: Any = None, upsample: str = "basic"
    ) -> None:
        super().__init__()
        self.pictures = pictures
        norm = norm or nn.InstanceNorm2d
        settings = {"norm": norm, "upsample": upsample}
        block = BlockWithZ(ngf * 8, ngf * 8, ngf * 8, nz, None, "innermost", **settings)
        for _ in range(downs - 5):
            block = BlockWithZ(ngf * 8, ngf * 8, ngf * 8, nz, block, "", **settings)
        for width in (ngf * 4, ngf * 2, ngf):
            block = BlockWithZ(width, width, width * 2, nz, block, "", **settings)
        self.model = BlockWithZ(pictures, 3, ngf, nz, block, "outermost", **settings)

    def forward(self, image: Tensor, z: Tensor) -> Tensor:
        return self.model(seen(image, self.pictures), z)


class BicycleInput(nn.Module):
    """``G_Unet_add_input``."""

    def __init__(
        self, pictures: int, nz: int, downs: int, ngf: int, *, norm: Any = None, upsample: str = "basic"
    ) -> None:
        super().__init__()
        self.pictures = pictures
        settings = {"norm": norm or nn.InstanceNorm2d, "upsample": upsample}
        block = Block(ngf * 8, ngf * 8, ngf * 8, None, "innermost", **settings)
        for _ in range(downs - 5):
            block = Block(ngf * 8, ngf * 8, ngf * 8, block, "", **settings)
        for width in (ngf * 4, ngf * 2, ngf):
            block = Block(width, width, width * 2, block, "", **settings)
        self.model = Block(pictures + nz, 3, ngf, block, "outermost", **settings)

    def forward(self, image: Tensor, z: Tensor) -> Tensor:
        return self.model(with_planes(seen(image, self.pictures), z))


def seen(image: Tensor, channels: int) -> Tensor:
    """The picture as the data loader gives it: colour, or grey as Pillow converts it."""
    if channels == 3:
        return image
    return torch.einsum("nchw,c->nhw", image, torch.tensor([299.0, 587.0, 114.0]) / 1000)[:, None]


def latent(size: int) -> Any:
    def others(image: Tensor) -> tuple[Tensor, ...]:
        return (torch.randn(len(image), size, generator=torch.Generator().manual_seed(1)).clamp(-2.5, 2.5),)

    return others


def facts(latent_in: str, size: int, levels: int, width: int = 2, **others: str) -> dict[str, int | str]:
    plain = {"picture": "colour", "upsampling": "transposed", "norm": "instance"}
    return {"width": width, "levels": levels, "latent": size, "latent_in": latent_in, **plain, **others}


@torch.no_grad()
def livened(net: nn.Module) -> None:
    """More contrast."""
    last_convolution(net).weight *= 4


_ALL = r"model\.(submodule\.)*(down\.[01]|up\.1)\.weight"
_INPUT = r"model\.(model\.[135]\.)*model\.([0135]\.weight|1\.bias)"
PUBLISHED_BICYCLEGAN = (
    Published(
        "bicyclegan",
        "bicyclegan",
        lambda: BicycleAll(3, 8, 6, 2),
        1,
        facts("all", 8, 6),
        (-1.0, 1.0),
        telling=_ALL,
        others=latent(8),
        size=(64, 128),
    ),
    Published(
        "bicyclegan-edges",
        "bicyclegan",
        lambda: BicycleAll(1, 8, 5, 2, upsample="bilinear"),
        1,
        facts("all", 8, 5, picture="grey", upsampling="bilinear"),
        (-1.0, 1.0),
        telling=r"model\.(submodule\.)*(down\.[01]|up\.3)\.weight",
        settle=livened,
        others=latent(8),
        size=(64, 32),
    ),
    Published(
        "bicyclegan-input",
        "bicyclegan",
        lambda: BicycleInput(3, 4, 5, 2),
        1,
        facts("input", 4, 5),
        (-1.0, 1.0),
        telling=_INPUT,
        others=latent(4),
        size=(32, 64),
    ),
    Published(
        "bicyclegan-batch-norm",
        "bicyclegan",
        lambda: BicycleInput(1, 8, 5, 2, norm=nn.BatchNorm2d, upsample="bilinear"),
        1,
        facts("input", 8, 5, picture="grey", upsampling="bilinear", norm="batch"),
        (-1.0, 1.0),
        telling=_INPUT + r"|model\.model\.1\.model\.2\.weight",
        settle=livened,
        others=latent(8),
        size=(32, 64),
    ),
)
