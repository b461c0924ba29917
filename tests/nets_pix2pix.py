"""Tiny random U-Nets as junyanz publishes them: activations in place, batch norms that are never in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable

import torch
from published import Published
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class FramewiseBatchNorm(nn.BatchNorm2d):
    """As the publishers' test.py runs a batch norm: in training mode, and one frame is a batch. Nothing is learnt."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat(
            [
                nn.functional.batch_norm(
                    frame, None, None, self.weight, self.bias, training=True, momentum=0.0, eps=self.eps
                )
                for frame in features.split(1)
            ]
        )


class SkipBlock(nn.Module):
    """``UnetSkipConnectionBlock``: its first activation changes, in place, what is concatenated afterwards."""

    def __init__(
        self, outer: int, inner: int, inside: nn.Module | None, norm: Norm, bias: bool, inputs: int = 0
    ) -> None:
        super().__init__()
        self.outermost = inputs > 0
        down = nn.Conv2d(inputs or outer, inner, kernel_size=4, stride=2, padding=1, bias=bias)
        up = nn.ConvTranspose2d(
            2 * inner if inside else inner, outer, kernel_size=4, stride=2, padding=1, bias=bias or self.outermost
        )
        if self.outermost:
            assert inside is not None
            layers = [down, inside, nn.ReLU(True), up, nn.Tanh()]
        elif inside is None:
            layers = [nn.LeakyReLU(0.2, True), down, nn.ReLU(True), up, norm(outer)]
        else:
            layers = [
                nn.LeakyReLU(0.2, True), down, norm(inner), inside, nn.ReLU(True), up, norm(outer), nn.Dropout(0.5),
            ]  # fmt: skip
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class Unet(nn.Module):
    """``UnetGenerator`` of any depth, with the norms and biases that ``norm`` (batch, instance, none) brings."""

    def __init__(
        self, width: int, levels: int, norm: str, ends: tuple[int, int] = (3, 3), *, evaluated: bool = False
    ) -> None:
        super().__init__()
        batch: Norm = nn.BatchNorm2d if evaluated else FramewiseBatchNorm
        kinds: dict[str, Norm] = {
            "batch": batch,
            "untracked": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
            "instance": nn.InstanceNorm2d,
            "affine": lambda channels: nn.InstanceNorm2d(channels, affine=True),
            "none": lambda channels: nn.Identity(),
        }
        make, bias = kinds[norm], norm in ("instance", "affine")
        wide = [min(2**level, 8) * width for level in range(levels)]  # channels inside each level
        block = SkipBlock(wide[-2], wide[-1], None, make, bias)
        for level in range(levels - 2, 0, -1):
            block = SkipBlock(wide[level - 1], wide[level], block, make, bias)
        self.model = SkipBlock(ends[1], wide[0], block, make, bias, inputs=ends[0])

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image.clone())


def unet(
    id: str, norm: str, levels: int, width: int, facts: dict[str, int | str], *, stored: bool = False
) -> Published:
    return Published(
        id,
        "pix2pix",
        lambda: Unet(width, levels, norm, evaluated=stored),
        1,
        {"width": width, "levels": levels, **facts},
        (-1.0, 1.0),
        unread=r".*\.running_(mean|var)" if norm == "batch" and not stored else "",
        telling=r"model\.model\.(0|1\.model\.1)\.weight",
        settle=settled,
        size=(2**levels, 2 ** (levels + 1)),
        options={"statistics": "stored"} if stored else {},
    )


def settled(net: nn.Module) -> None:
    """So that the output fills -1..1; a transposed convolution reads a quarter of its kernel for each pixel."""
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d):
            module.weight *= 1.5


PUBLISHED_PIX2PIX = (
    unet("pix2pix", "batch", 5, 2, {"norm": "batch", "statistics": "batch"}),
    unet("pix2pix-stored", "batch", 5, 3, {"norm": "batch", "statistics": "stored"}, stored=True),
    unet("pix2pix-instance", "instance", 4, 4, {"norm": "instance"}),
    unet("pix2pix-none", "none", 2, 4, {"norm": "none"}),
)
