"""SRVGGNetCompact, the small nets of Real-ESRGAN (animevideov3, general-x4v3).

Layout and forward pass follow ``realesrgan/archs/srvgg_arch.py`` of https://github.com/xinntao/Real-ESRGAN
(BSD-3-Clause).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    State,
    is_convolution,
    last_index,
    load_strictly,
    outputs_of,
    scale_from_channels,
    with_folded_ends,
)
from runtime.errors import CheckpointError


class SrvggNet(nn.Module):
    """3x3 convolutions with PReLU at the input's size, pixel shuffle, and the enlarged input added.

    ``float32 (N, 3, H, W) RGB 0..1`` to ``float32 (N, 3, sH, sW) RGB``, not clipped.
    """

    def __init__(self, width: int, depth: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * scale * scale, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        detail = functional.pixel_shuffle(self.body(image), self.scale)
        return detail + functional.interpolate(image, scale_factor=float(self.scale), mode="nearest")


def _detect(state: State) -> bool:
    return is_convolution(state, "body.0.weight", 3) and is_convolution(state, "body.2.weight")


def _load(state: State) -> LoadedGenerator:
    last = last_index(state, r"body\.(\d+)\.weight", "srvgg")
    activation = state.get("body.1.weight")
    if activation is None or activation.ndim != 1:
        raise CheckpointError(
            "the checkpoint looks like srvgg without PReLU; its activation (ReLU or LeakyReLU) is not in the file, "
            "so it cannot be loaded"
        )
    width = int(state["body.0.weight"].shape[0])
    depth = (last - 2) // 2
    scale = scale_from_channels("srvgg", outputs_of(state, f"body.{last}.weight"))
    with torch.device("meta"):
        net = SrvggNet(width, depth, scale)
    load_strictly(net, state, "srvgg")
    return LoadedGenerator(
        "srvgg", net, scale, facts={"width": width, "depth": depth}, fold=lambda: with_folded_ends(net, "body", scale)
    )


SRVGG = Generator(
    id="srvgg",
    title="Real-ESRGAN compact (SRVGGNetCompact: animevideov3, general-x4v3)",
    keys=frozenset({"body.N.weight", "body.N.bias"}),
    detect=_detect,
    load=_load,
    example="realesr-animevideov3.pth",
    purpose="fast super-resolution of animation and real video",
)
