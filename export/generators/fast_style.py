"""Style transfer with one pass of a net (Johnson et al., Perceptual Losses for Real-Time Style Transfer and
Super-Resolution, ECCV 2016).

Layout and forward pass follow ``TransformerNet`` in ``fast_neural_style`` of https://github.com/pytorch/examples
(BSD-3-Clause), at any base width: https://github.com/gnsmrky/pytorch-fast-neural-style-for-web has narrower ones.
"""

from __future__ import annotations

import copy
import re
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    State,
    fold_input,
    fold_output,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from runtime.frames import SizeRule

STRIDE = 4  # two convolutions of stride 2; another size would come out larger than it went in
MINIMUM = 2 * STRIDE  # pixels: reflection needs 2 after the strides, and 5 at the ends

#: Statistics that PyTorch before 0.4 kept for an instance norm and never used.
_STALE = re.compile(r"(res\d+\.)?in\d+\.(running_mean|running_var|num_batches_tracked)")


class _Conv(nn.Module):
    """A convolution that pads by reflection, on ``enlarged`` times the size."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, enlarged: int = 1) -> None:
        super().__init__()
        self.enlarged = enlarged
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode="reflect")

    def forward(self, features: Tensor) -> Tensor:
        if self.enlarged > 1:
            features = functional.interpolate(features, scale_factor=float(self.enlarged), mode="nearest")
        return cast(Tensor, self.conv2d(features))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.in1 = _Conv(width, width), nn.InstanceNorm2d(width, affine=True)
        self.conv2, self.in2 = _Conv(width, width), nn.InstanceNorm2d(width, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.in2(self.conv2(torch.relu(self.in1(self.conv1(features))))))


class FastStyleNet(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..255`` to the same, not clipped; H and W are multiples of 4.

    Args:
        width: channels at the frame's own size; twice and four times as many after the strides.
        depth: residual blocks.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.conv1, self.in1 = _Conv(3, width, 9), nn.InstanceNorm2d(width, affine=True)
        self.conv2, self.in2 = _Conv(width, 2 * width, stride=2), nn.InstanceNorm2d(2 * width, affine=True)
        self.conv3, self.in3 = _Conv(2 * width, 4 * width, stride=2), nn.InstanceNorm2d(4 * width, affine=True)
        for number in range(1, depth + 1):
            self.add_module(f"res{number}", _Residual(4 * width))
        self.deconv1, self.in4 = _Conv(4 * width, 2 * width, enlarged=2), nn.InstanceNorm2d(2 * width, affine=True)
        self.deconv2, self.in5 = _Conv(2 * width, width, enlarged=2), nn.InstanceNorm2d(width, affine=True)
        self.deconv3 = _Conv(width, 3, 9)

    def forward(self, image: Tensor) -> Tensor:
        features = torch.relu(self.in1(self.conv1(image)))
        features = torch.relu(self.in2(self.conv2(features)))
        features = torch.relu(self.in3(self.conv3(features)))
        for number in range(1, self.depth + 1):
            features = self.get_submodule(f"res{number}")(features)
        features = torch.relu(self.in4(self.deconv1(features)))
        features = torch.relu(self.in5(self.deconv2(features)))
        return cast(Tensor, self.deconv3(features))

    def folded(self) -> FastStyleNet:
        """The same net for BGR on both sides; its range is 0..255 already."""
        net = copy.deepcopy(self)
        fold_input(net.conv1.conv2d, high=255.0)
        fold_output(net.deconv3.conv2d, factor=1.0)
        return net


def _detect(state: State) -> bool:
    return is_convolution(state, "conv1.conv2d.weight", 3) and is_convolution(state, "res1.conv1.conv2d.weight")


def _load(state: State) -> LoadedGenerator:
    width = kernel_of(state, "conv1.conv2d.weight", "fast-style")[0]
    depth = last_index(state, r"res(\d+)\..*", "fast-style")
    with torch.device("meta"):
        net = FastStyleNet(width, depth)
    load_strictly(net, {name: tensor for name, tensor in state.items() if not _STALE.fullmatch(name)}, "fast-style")
    return LoadedGenerator(
        "fast-style",
        net,
        1,
        input_range=(0.0, 255.0),
        output_range=(0.0, 255.0),
        size_rule=SizeRule(MINIMUM, STRIDE),
        tileable=False,  # instance norm looks at the whole frame
        task="translation",
        facts={"width": width, "depth": depth},
        fold=net.folded,
    )


FAST_STYLE = Generator(
    id="fast-style",
    title="fast neural style (TransformerNet of pytorch/examples: candy, mosaic, rain_princess, udnie)",
    keys=frozenset(
        f"{name}.{kind}"
        for name in ("convN.convNd", "inN", "resN.convN.convNd", "resN.inN", "deconvN.convNd")
        for kind in ("weight", "bias")
    ),
    detect=_detect,
    load=_load,
    example="candy.pth",
    purpose="painting a frame in the style of one picture",
)
