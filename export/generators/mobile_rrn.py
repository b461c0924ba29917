"""Mobile RRN, a small recurrent net for video super-resolution x4 (baseline of the Mobile AI 2022 challenge).

Architecture and step follow ``model/mobile_rrn.py`` and ``generate_output.py`` of
https://github.com/MediaTek-NeuroPilot/mai22-real-time-video-sr (Apache-2.0), a lighter form of RRN (Isobe et al.,
Revisiting Temporal Modeling for Video Super-resolution, BMVC 2020). That repository holds TensorFlow checkpoints; the
names read here are those of the same layers in PyTorch: ``conv_first``, ``trunk.N.conv1``, ``trunk.N.conv2``,
``conv_last`` (its channels in the order of PyTorch's pixel shuffle) and ``conv_hidden``.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    RecurrentState,
    State,
    fold_output,
    is_convolution,
    last_index,
    load_strictly,
    outputs_of,
    scale_from_channels,
)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.conv2(torch.relu(self.conv1(features))))


class MobileRrnNet(nn.Module):
    """One step: a frame, the frame before it and the hidden state to the enlarged frame and the next hidden state.

    Args:
        width: channels of the hidden state and of all layers.
        depth: residual blocks.
        scale: output size over input size.
    """

    def __init__(self, width: int, depth: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv_first = nn.Conv2d(6 + width, width, 3, padding=1)
        self.trunk = nn.Sequential(*(_Residual(width) for _ in range(depth)))
        self.conv_last = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        self.conv_hidden = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, frame: Tensor, previous: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Compute one step.

        Args:
            frame: ``float32 (N, 3, H, W) RGB 0..255``.
            previous: the frame before it, alike; in the first step the frame itself.
            hidden: ``float32 (N, width, H, W)``, not negative; in the first step zeros.

        Returns:
            ``float32 (N, 3, scale H, scale W) RGB``, not clipped, and the next hidden state.
        """
        features = self.trunk(torch.relu(self.conv_first(torch.cat((previous, frame, hidden), dim=1))))
        detail = functional.pixel_shuffle(self.conv_last(features), self.scale)
        # TensorFlow's tf.image.resize: centres of pixels, no antialiasing
        base = functional.interpolate(frame, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return detail + base, torch.relu(self.conv_hidden(features))

    def folded(self) -> MobileRrnNet:
        """The same net for BGR on both sides. Exact: only the order of weights changes, the range is 0..255 already."""
        net = copy.deepcopy(self)
        order = [2, 1, 0, 5, 4, 3, *range(6, net.conv_first.in_channels)]
        net.conv_first.weight.data = net.conv_first.weight.data[:, order]
        fold_output(net.conv_last, shuffled=self.scale, factor=1.0)
        return net


def _detect(state: State) -> bool:
    others = ("trunk.0.conv1.weight", "conv_last.weight", "conv_hidden.weight")
    return all(is_convolution(state, name) for name in others) and is_convolution(
        state, "conv_first.weight", 6 + outputs_of(state, "conv_hidden.weight")
    )


def _load(state: State) -> LoadedGenerator:
    width = outputs_of(state, "conv_first.weight")
    depth = last_index(state, r"trunk\.(\d+)\.conv1\.weight", "mobile-rrn") + 1
    scale = scale_from_channels("mobile-rrn", outputs_of(state, "conv_last.weight"))
    with torch.device("meta"):
        net = MobileRrnNet(width, depth, scale)
    load_strictly(net, state, "mobile-rrn")
    return LoadedGenerator(
        "mobile-rrn",
        net,
        scale,
        input_range=(0.0, 255.0),
        output_range=(0.0, 255.0),
        tileable=False,  # a tile would need a state of its own
        facts={"width": width, "depth": depth},
        fold=net.folded,
        states=(RecurrentState("previous"), RecurrentState("hidden", "next_hidden", width)),
    )


MOBILE_RRN = Generator(
    id="mobile-rrn",
    title="Mobile RRN, recurrent video super-resolution (MAI 2022 baseline)",
    keys=frozenset(
        f"{layer}.{kind}"
        for layer in ("conv_first", "trunk.N.convN", "conv_last", "conv_hidden")
        for kind in ("weight", "bias")
    ),
    detect=_detect,
    load=_load,
    purpose="super-resolution of video, with a memory from frame to frame",
)
