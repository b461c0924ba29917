"""Our own small super-resolution net: 3x3 convolutions and ReLU at the input's size, pixel shuffle at the end."""

from __future__ import annotations

from itertools import pairwise

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


class CompactNet(nn.Module):
    """Plain 3x3 convolutions in low-resolution space with a repeated-input anchor.

    Args:
        scale: output size over input size, 2 to 4.
        width: channels of the hidden layers (multiples of 32 suit INT8 tensor cores).
        depth: number of hidden ``width -> width`` convolutions, besides the first and the last.

    The input is ``float32 (N, 3, H, W) RGB 0..1``, the output ``float32 (N, 3, scale H, scale W) RGB``, not
    clipped. Every output pixel starts from its input pixel (the anchor), so the convolutions learn
    the difference only. The layout follows ABPN (Du et al., Anchor-based Plain Net for Mobile Image
    Super-Resolution, CVPRW 2021).
    """

    def __init__(self, scale: int = 2, width: int = 32, depth: int = 6) -> None:
        super().__init__()
        self.scale = scale
        channels = [3, *[width] * (depth + 1), 3 * scale * scale]
        self.convs = nn.ModuleList(nn.Conv2d(first, second, 3, padding=1) for first, second in pairwise(channels))

    def forward(self, image: Tensor) -> Tensor:
        features = image
        for conv in self.convs[:-1]:
            features = torch.relu(conv(features))
        # one Gather in ONNX, where repeat_interleave would become six nodes
        colours = torch.tensor([colour for colour in range(3) for _ in range(self.scale**2)], device=image.device)
        anchor = image.index_select(1, colours)
        return functional.pixel_shuffle(self.convs[-1](features) + anchor, self.scale)


def _detect(state: State) -> bool:
    return is_convolution(state, "convs.0.weight", 3) and is_convolution(state, "convs.1.weight")


def _load(state: State) -> LoadedGenerator:
    last = last_index(state, r"convs\.(\d+)\.weight", "compact")
    width, depth = int(state["convs.0.weight"].shape[0]), last - 1
    scale = scale_from_channels("compact", outputs_of(state, f"convs.{last}.weight"))
    with torch.device("meta"):
        net = CompactNet(scale, width, depth)
    load_strictly(net, state, "compact")
    return LoadedGenerator(
        "compact",
        net,
        scale,
        facts={"width": width, "depth": depth},
        fold=lambda: with_folded_ends(net, "convs", scale),
    )


COMPACT = Generator(
    id="compact",
    title="genedge's own small nets (sr-x2, sr-x4)",
    keys=frozenset({"convs.N.weight", "convs.N.bias"}),
    detect=_detect,
    load=_load,
    example="sr-x2.safetensors",
    purpose="super-resolution of video on a CPU",
)
