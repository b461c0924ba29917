"""Tiny random generators under the names that their publishers gave the weights, and files to save them in.

The nets are written here from the published layouts, apart from :mod:`export.generators`, so that the two can be
compared. They take and give ``float32 (N, 3, H, W) RGB 0..1``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.frame_io import FrameGraph
from export.generators import identify
from export.generators.base import LoadedGenerator
from export.onnx_graph import graph_from_generator
from runtime.frames import Frame, Frames, SizeRule

torch.set_num_threads(1)  # nets this small gain nothing from a second one, and lose much where the machine is busy


def convolution(inputs: int, outputs: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)


class Compact(nn.Module):
    """genedge's own layout: ``convs.N``, ReLU between them, the repeated input added in front of the pixel shuffle."""

    def __init__(self, scale: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        middle = [convolution(width, width) for _ in range(depth)]
        self.convs = nn.Sequential(convolution(3, width), *middle, convolution(width, 3 * scale**2))

    def forward(self, image: Tensor) -> Tensor:
        features = image
        for place, conv in enumerate(self.convs):
            features = conv(features if place == 0 else features.clamp(min=0))
        nearest = image.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return functional.pixel_shuffle(features, self.scale) + nearest


class Srvgg(nn.Module):
    """Real-ESRGAN's ``SRVGGNetCompact``: convolution and PReLU in turn, all in ``body``."""

    def __init__(self, scale: int, width: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.ModuleList()
        for inputs in (3, *[width] * depth):
            self.body.append(convolution(inputs, width))
            self.body.append(nn.PReLU(num_parameters=width))
        self.body.append(convolution(width, 3 * scale**2))

    def forward(self, image: Tensor) -> Tensor:
        features = image
        for layer in self.body:
            features = layer(features)
        nearest = image.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)
        return functional.pixel_shuffle(features, self.scale) + nearest


class LeftthomasBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(width, width), nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.conv2, self.bn2 = convolution(width, width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class LeftthomasUpsampling(nn.Module):
    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.conv, self.prelu, self.factor = convolution(width, width * factor**2), nn.PReLU(), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(functional.pixel_shuffle(self.conv(x), self.factor))


class LeftthomasSrgan(nn.Module):
    """leftthomas/SRGAN: ``block1`` to ``blockN``, the output ``(tanh + 1) / 2``.

    The convolution behind the residual blocks is followed by a PReLU in the older version, by a batch norm in the
    newer one (``middle_norm``).
    """

    def __init__(self, factors: tuple[int, ...], width: int, depth: int, *, middle_norm: bool) -> None:
        super().__init__()
        self.depth = depth
        self.block1 = nn.Sequential(convolution(3, width, 9), nn.PReLU())
        for number in range(2, depth + 2):
            setattr(self, f"block{number}", LeftthomasBlock(width))
        middle = nn.Sequential(convolution(width, width), nn.BatchNorm2d(width) if middle_norm else nn.PReLU())
        setattr(self, f"block{depth + 2}", middle)
        upsampling = [LeftthomasUpsampling(width, factor) for factor in factors]
        setattr(self, f"block{depth + 3}", nn.Sequential(*upsampling, convolution(width, 3, 9)))

    def block(self, number: int, x: Tensor) -> Tensor:
        return getattr(self, f"block{number}")(x)

    def forward(self, image: Tensor) -> Tensor:
        first = features = self.block(1, image)
        for number in range(2, self.depth + 3):
            features = self.block(number, features)
        return (torch.tanh(self.block(self.depth + 3, first + features)) + 1) / 2


class LornatangBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.rcb = nn.Sequential(
            convolution(width, width, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(),
            convolution(width, width, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.rcb(x), x)


class LornatangUpsampling(nn.Module):
    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.upsample_block = nn.Sequential(convolution(width, width * factor**2), nn.PixelShuffle(factor), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample_block(x)


class LornatangSrgan(nn.Module):
    """Lornatang/SRGAN-PyTorch: ``conv1 trunk conv2 upsampling conv3``, the output clipped to 0..1."""

    def __init__(self, factors: tuple[int, ...], width: int, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(convolution(3, width, 9), nn.PReLU())
        self.trunk = nn.Sequential(*(LornatangBlock(width) for _ in range(depth)))
        self.conv2 = nn.Sequential(convolution(width, width, bias=False), nn.BatchNorm2d(width))
        self.upsampling = nn.Sequential(*(LornatangUpsampling(width, factor) for factor in factors))
        self.conv3 = convolution(width, 3, 9)

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.conv1(image)
        deep = self.conv2(self.trunk(shallow))
        return self.conv3(self.upsampling(shallow + deep)).clamp(0, 1)


class MobileRrnBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = convolution(width, width), convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x).clamp(min=0))


class MobileRrn(nn.Module):
    """MediaTek's Mobile RRN: frame, frame before and hidden state to picture and hidden state, all RGB 0..255."""

    def __init__(self, width: int, depth: int, scale: int = 4) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.conv_first = convolution(6 + width, width)
        self.trunk = nn.ModuleList(MobileRrnBlock(width) for _ in range(depth))
        self.conv_last = convolution(width, 3 * scale**2)
        self.conv_hidden = convolution(width, width)

    def forward(self, frame: Tensor, previous: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv_first(torch.cat([previous, frame, hidden], 1)).clamp(min=0)
        for block in self.trunk:
            x = block(x)
        count, _, height, width = frame.shape
        blocks = self.conv_last(x).reshape(count, 3, self.scale, self.scale, height, width)
        detail = blocks.permute(0, 1, 4, 2, 5, 3).reshape(count, 3, height * self.scale, width * self.scale)
        size = (height * self.scale, width * self.scale)
        picture = detail + functional.interpolate(frame, size, mode="bilinear", align_corners=False)
        return picture.clamp(0, 255), self.conv_hidden(x).clamp(min=0)


def mobile_rrn() -> MobileRrn:
    """A tiny one, with random weights small enough that its state neither dies out nor grows without bound."""
    net = randomised(MobileRrn(6, 2))
    assert isinstance(net, MobileRrn)
    with torch.no_grad():
        net.conv_last.weight *= 0.5
        net.conv_hidden.weight *= 0.5
    return net


@dataclass(frozen=True)
class Published:
    """A tiny net in a published layout, and what a reader has to find out about it."""

    id: str
    family: str
    make: Callable[[], nn.Module]
    scale: int
    facts: dict[str, int | str] = field(default_factory=dict)

    def net(self) -> nn.Module:
        return randomised(self.make())

    def state(self) -> dict[str, Tensor]:
        return dict(self.net().state_dict())


PUBLISHED = (
    Published("compact-x2", "compact", lambda: Compact(2, 8, 1), 2, {"width": 8, "depth": 1}),
    Published("compact-x3", "compact", lambda: Compact(3, 4, 0), 3, {"width": 4, "depth": 0}),
    Published("srvgg-x4", "srvgg", lambda: Srvgg(4, 6, 2), 4, {"width": 6, "depth": 2}),
    Published("srvgg-x1", "srvgg", lambda: Srvgg(1, 4, 1), 1, {"width": 4, "depth": 1}),
    Published(
        "srgan-leftthomas-x4",
        "srgan",
        lambda: LeftthomasSrgan((2, 2), 4, 2, middle_norm=False),
        4,
        {"layout": "leftthomas", "width": 4, "depth": 2},
    ),
    Published(
        "srgan-leftthomas-x8-norm",
        "srgan",
        lambda: LeftthomasSrgan((2, 2, 2), 4, 1, middle_norm=True),
        8,
        {"layout": "leftthomas", "width": 4, "depth": 1},
    ),
    Published(
        "srgan-lornatang-x4",
        "srgan",
        lambda: LornatangSrgan((2, 2), 4, 2),
        4,
        {"layout": "Lornatang", "width": 4, "depth": 2},
    ),
    Published(
        "srgan-lornatang-x3",
        "srgan",
        lambda: LornatangSrgan((3,), 6, 1),
        3,
        {"layout": "Lornatang", "width": 6, "depth": 1},
    ),
)


def published(id: str) -> Published:
    return next(case for case in PUBLISHED if case.id == id)


@torch.no_grad()
def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights with which the output fills 0..1 without leaving it much, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    last: nn.Conv2d | None = None
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            last = module
            reach = module.weight[0].numel() ** -0.5 * 1.7
            uniform(module.weight, -reach, reach)
            if module.bias is not None:
                uniform(module.bias, -0.2, 0.2)
        elif isinstance(module, nn.PReLU):
            uniform(module.weight, 0.1, 0.4)
        elif isinstance(module, nn.BatchNorm2d):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
            uniform(module.running_mean, -0.3, 0.3)
            uniform(module.running_var, 0.4, 1.6)
    assert last is not None
    last.weight *= 0.3
    if isinstance(net, LornatangSrgan):
        last.bias += 0.5
    return net.eval()


def pictures(count: int = 1, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth random pictures with fine noise, ``float32 (N, 3, H, W) RGB 0..1``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 4, 5), generator=generator)
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (smooth + torch.randn((count, 3, height, width), generator=generator) * 0.05).clamp(0, 1)


def frames(count: int = 1, height: int = 24, width: int = 32, seed: int = 0) -> Frames:
    """The same as ``uint8 (N, H, W, 3) BGR``."""
    planes = pictures(count, height, width, seed).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(np.rint(planes * 255).astype(np.uint8)[..., ::-1])


def frame(height: int = 24, width: int = 32, seed: int = 0) -> Frame:
    return frames(1, height, width, seed)[0]


def loaded(id: str) -> LoadedGenerator:
    """One of ``PUBLISHED``, as the exporter reads it."""
    state = published(id).state()
    return identify(state).load(state)


@cache
def _exported(id: str, shape: tuple[int, int] | None) -> bytes:
    graph = FrameGraph(loaded(id))
    return graph_from_generator(graph, SizeRule(), shape).SerializeToString()


def exported(id: str, shape: tuple[int, int] | None = None) -> onnx.ModelProto:
    """The canonical graph of one of ``PUBLISHED``. Exporting takes seconds, so it is done once in a test run."""
    return onnx.load_model_from_string(_exported(id, shape))


def saved(content: Any, *, zipped: bool = True) -> bytes:
    """The bytes that ``torch.save`` writes: a zip file, or the older format without one."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def write_checkpoint(path: Path, id: str = "compact-x2") -> Path:
    """Save one of ``PUBLISHED`` as a checkpoint file."""
    path.write_bytes(saved(published(id).state()))
    return path
