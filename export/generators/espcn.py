"""ESPCN (Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
Neural Network, CVPR 2016), which enlarges luma.

Layout, forward pass and range follow https://github.com/yjn870/ESPCN-pytorch (``models.py``, ``test.py``), any width.
What becomes of colours is said in :mod:`export.generators.luma`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import Generator, LoadedGenerator, State, is_convolution, kernel_of, load_strictly
from export.generators.luma import LumaNet, is_luma_convolution, loaded_luma
from runtime.errors import CheckpointError


class EspcnNet(LumaNet):
    """Three convolutions, tanh between them, and a pixel shuffle.

    ``float32 (N, 1, H, W) luma 0..1`` to ``float32 (N, 1, scale H, scale W)``, not clipped.
    """

    last = "last_part.0"

    def __init__(self, widths: tuple[int, int], scale: int, kernels: tuple[int, int, int]) -> None:
        super().__init__()
        self.scale = scale
        (wide, narrow), (first, second, last) = widths, kernels
        self.first_part = nn.Sequential(
            nn.Conv2d(1, wide, first, padding=first // 2),
            nn.Tanh(),
            nn.Conv2d(wide, narrow, second, padding=second // 2),
            nn.Tanh(),
        )
        self.last_part = nn.Sequential(nn.Conv2d(narrow, scale**2, last, padding=last // 2))

    def forward(self, luma: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.last_part(self.first_part(luma)), self.scale)


def _detect(state: State) -> bool:
    first = state.get("first_part.0.weight")
    return (
        first is not None
        and is_luma_convolution(tuple(first.shape))
        and is_convolution(state, "first_part.2.weight")
        and is_convolution(state, "last_part.0.weight")
    )


def _load(state: State) -> LoadedGenerator:
    wide, _, first, _ = kernel_of(state, "first_part.0.weight", "espcn")
    narrow, _, second, _ = kernel_of(state, "first_part.2.weight", "espcn")
    channels, _, last, _ = kernel_of(state, "last_part.0.weight", "espcn")
    scale = math.isqrt(channels)
    if scale**2 != channels:
        raise CheckpointError(
            f"the checkpoint looks like espcn, but its last convolution gives {channels} channels, which is no square, "
            "so no pixel shuffle fits"
        )
    if not first % 2 == second % 2 == last % 2 == 1:
        raise CheckpointError("the checkpoint looks like espcn, but the side of a kernel is even")
    with torch.device("meta"):
        net = EspcnNet((wide, narrow), scale, (first, second, last))
    load_strictly(net, state, "espcn")
    return loaded_luma("espcn", net, scale, {"width": wide, "narrow": narrow})


ESPCN = Generator(
    id="espcn",
    title="ESPCN of yjn870/ESPCN-pytorch, luma at any scale",
    keys=frozenset(f"{part}.N.{kind}" for part in ("first_part", "last_part") for kind in ("weight", "bias")),
    detect=_detect,
    load=_load,
    example="espcn_x3.pth",
    purpose="super-resolution of luma, very small",
)
