"""SRCNN (Dong et al., Image Super-Resolution Using Deep Convolutional Networks, TPAMI 2016), which improves luma that
was enlarged bicubically.

Layout, forward pass and range follow https://github.com/yjn870/SRCNN-pytorch (``models.py``, ``test.py``), any width.
Their test script enlarges the 8-bit picture and rounds it; here the enlarged luma is not rounded. What becomes of
colours is said in :mod:`export.generators.luma`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from export.generators.base import (
    Generator,
    LoadedGenerator,
    Option,
    State,
    is_convolution,
    kernel_of,
    load_strictly,
    outputs_of,
)
from export.generators.luma import LumaNet, is_luma_convolution, loaded_luma
from runtime.errors import CheckpointError

SCALES = ("3", "2", "4")  # of the published files; the first is the default of their test script


class SrcnnNet(LumaNet):
    """Three convolutions, ReLU between them: ``float32 (N, 1, H, W) luma 0..1`` to the same, not clipped."""

    last = "conv3"

    def __init__(self, widths: tuple[int, int], kernels: tuple[int, int, int]) -> None:
        super().__init__()
        (wide, narrow), (first, second, last) = widths, kernels
        self.conv1 = nn.Conv2d(1, wide, first, padding=first // 2)
        self.conv2 = nn.Conv2d(wide, narrow, second, padding=second // 2)
        self.conv3 = nn.Conv2d(narrow, 1, last, padding=last // 2)

    def forward(self, luma: Tensor) -> Tensor:
        return cast(Tensor, self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(luma))))))


def _detect(state: State) -> bool:
    first = state.get("conv1.weight")
    return (
        first is not None
        and is_luma_convolution(tuple(first.shape))
        and is_convolution(state, "conv2.weight", outputs_of(state, "conv1.weight"))
        and is_convolution(state, "conv3.weight", outputs_of(state, "conv2.weight"))
        and outputs_of(state, "conv3.weight") == 1
    )


def _load(state: State, scale: str = SCALES[0]) -> LoadedGenerator:
    wide, _, first, _ = kernel_of(state, "conv1.weight", "srcnn")
    narrow, _, second, _ = kernel_of(state, "conv2.weight", "srcnn")
    last = kernel_of(state, "conv3.weight", "srcnn")[2]
    if not first % 2 == second % 2 == last % 2 == 1:
        raise CheckpointError("the checkpoint looks like srcnn, but the side of a kernel is even")
    with torch.device("meta"):
        net = SrcnnNet((wide, narrow), (first, second, last))
    load_strictly(net, state, "srcnn")
    note = f"The file does not say its scale; it is run at x{scale}, which --option scale=N changes."
    return loaded_luma("srcnn", net, int(scale), {"width": wide, "narrow": narrow}, after=True, notes=(note,))


SRCNN = Generator(
    id="srcnn",
    title="SRCNN of yjn870/SRCNN-pytorch, luma behind bicubic enlargement",
    keys=frozenset({"convN.weight", "convN.bias"}),
    detect=_detect,
    load=_load,
    example="srcnn_x3.pth",
    purpose="super-resolution of luma, the first such net",
    options=(Option("scale", SCALES, "how much larger the picture becomes; the file does not say it"),),
)
