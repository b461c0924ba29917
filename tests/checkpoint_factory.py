"""Tiny random generators under the names that their publishers gave the weights, and files to save them in.

The nets are written here from the published layouts, apart from :mod:`export.generators`, so that the two can be
compared. They take and give ``float32 (N, 3, H, W) RGB``, 0..1 where nothing else is said.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import torch
from nets_bicyclegan import PUBLISHED_BICYCLEGAN
from nets_edsr import PUBLISHED_EDSR
from nets_face_deid import PUBLISHED_FACE_DEID
from nets_face_identity import PUBLISHED_FACE_IDENTITY
from nets_frvsr import PUBLISHED_FRVSR
from nets_luma import PUBLISHED_LUMA
from nets_msrresnet import PUBLISHED_MSRRESNET
from nets_pix2pix import PUBLISHED_PIX2PIX, FramewiseBatchNorm
from nets_rrdb import PUBLISHED_RRDB
from nets_stargan import PUBLISHED_STARGAN
from published import Published, convolution, frames, last_convolution
from torch import Tensor, nn
from torch.nn import functional

from export.frame_io import FrameGraph
from export.generators import identify
from export.generators.base import LoadedGenerator
from export.onnx_graph import graph_from_generator
from runtime.frames import Frame


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


class SpanConv(nn.Module):
    """SPAN's ``Conv3XC``. As trained, the file also has ``eval_conv``, merged at some time in the past."""

    def __init__(self, inputs: int, outputs: int, *, trained: bool) -> None:
        super().__init__()
        self.trained = trained
        if trained:
            self.sk = nn.Conv2d(inputs, outputs, 1)
            first, last = nn.Conv2d(inputs, 2 * inputs, 1), nn.Conv2d(2 * outputs, outputs, 1)
            self.conv = nn.Sequential(first, nn.Conv2d(2 * inputs, 2 * outputs, 3), last)
        self.eval_conv = convolution(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.pad(x, (1, 1, 1, 1))) + self.sk(x) if self.trained else self.eval_conv(x)


class SpanBlock(nn.Module):
    def __init__(self, width: int, *, trained: bool) -> None:
        super().__init__()
        self.c1_r = SpanConv(width, width, trained=trained)
        self.c2_r = SpanConv(width, width, trained=trained)
        self.c3_r = SpanConv(width, width, trained=trained)
        self.act1 = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out1 = self.c1_r(x)
        out3 = self.c3_r(self.act1(self.c2_r(self.act1(out1))))
        return (out3 + x) * (torch.sigmoid(out3) - 0.5), out1


class Span(nn.Module):
    """hongyuanyu/SPAN: ``conv_1 block_1..N conv_cat conv_2 upsampler``; ``no_norm`` is neosr's."""

    def __init__(self, scale: int, width: int, depth: int, *, trained: bool = False, normed: bool = True) -> None:
        super().__init__()
        self.depth, self.normed = depth, normed
        if not normed:
            self.register_buffer("no_norm", torch.zeros(1))
        self.conv_1 = SpanConv(3, width, trained=trained)
        for number in range(depth):
            setattr(self, f"block_{number + 1}", SpanBlock(width, trained=trained))
        self.conv_cat = nn.Conv2d(4 * width, width, 1)
        self.conv_2 = SpanConv(width, width, trained=trained)
        self.upsampler = nn.Sequential(convolution(width, 3 * scale**2), nn.PixelShuffle(scale))

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.tensor([[[0.4488]], [[0.4371]], [[0.4040]]])
        first = self.conv_1((image - mean) * 255 if self.normed else image)
        features, outputs = first, []
        for number in range(self.depth):
            features, inside = getattr(self, f"block_{number + 1}")(features)
            outputs.append(features)
        return self.upsampler(self.conv_cat(torch.cat([first, self.conv_2(features), outputs[0], inside], 1)))


class StyleConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv2d, self.pad = nn.Conv2d(inputs, outputs, kernel, stride), nn.ReflectionPad2d(kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2d(self.pad(x))


class StyleBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.in1 = StyleConv(width, width, 3), nn.InstanceNorm2d(width, affine=True)
        self.conv2, self.in2 = StyleConv(width, width, 3), nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.in2(self.conv2(self.in1(self.conv1(x)).relu())) + x


class FastStyle(nn.Module):
    """``TransformerNet`` of pytorch/examples, RGB 0..255 on both sides."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        sizes = [3, width, 2 * width, 4 * width, 2 * width, width]
        for number in range(1, 6):
            name = f"conv{number}" if number < 4 else f"deconv{number - 3}"
            layer = StyleConv(sizes[number - 1], sizes[number], 9 if number == 1 else 3, 2 if number in (2, 3) else 1)
            setattr(self, name, layer)
            setattr(self, f"in{number}", nn.InstanceNorm2d(sizes[number], affine=True))
        for number in range(depth):
            setattr(self, f"res{number + 1}", StyleBlock(4 * width))
        self.deconv3 = StyleConv(width, 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        for number in (1, 2, 3):
            x = getattr(self, f"in{number}")(getattr(self, f"conv{number}")(x)).relu()
        for number in range(self.depth):
            x = getattr(self, f"res{number + 1}")(x)
        for number in (1, 2):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = getattr(self, f"in{number + 3}")(getattr(self, f"deconv{number}")(x)).relu()
        return self.deconv3(x)


class SeparableConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(inputs, inputs, 3, groups=inputs)
        self.conv = nn.Sequential(depthwise, nn.InstanceNorm2d(inputs), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class CycleGanBlock(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class CycleGan(nn.Module):
    """junyanz' ``ResnetGenerator`` and GAN Compression's ``SubMobileResnetGenerator``, RGB -1..1 on both sides."""

    def __init__(
        self,
        ends: tuple[int, int, int, int, int],
        hidden: tuple[int, ...],
        *,
        separable: bool = False,
        dropout: bool = False,
        batch_norm: bool = False,
        evaluated: bool = False,
    ) -> None:
        super().__init__()
        a, b, c, d, e = ends
        batched = nn.BatchNorm2d if evaluated else FramewiseBatchNorm
        norm = batched if batch_norm else nn.InstanceNorm2d
        bias, drop = not batch_norm, [nn.Dropout(0.5)] if dropout else []

        def conv(inputs: int, outputs: int) -> nn.Module:
            return SeparableConv(inputs, outputs) if separable else nn.Conv2d(inputs, outputs, 3, bias=bias)

        def block(width: int) -> CycleGanBlock:
            first = [nn.ReflectionPad2d(1), conv(c, width), norm(width), nn.ReLU()]
            return CycleGanBlock([*first, *drop, nn.ReflectionPad2d(1), conv(width, c), norm(c)])

        def down(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=bias), norm(outputs), nn.ReLU()]

        def up(inputs: int, outputs: int) -> list[nn.Module]:
            layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=bias)
            return [layer, norm(outputs), nn.ReLU()]

        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, a, 7, bias=bias), norm(a), nn.ReLU(),
            *down(a, b), *down(b, c), *map(block, hidden), *up(c, d), *up(d, e),
            nn.ReflectionPad2d(3), nn.Conv2d(e, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


def brightened(net: nn.Module) -> None:
    """For nets that give 0..1 without a residual."""
    last_convolution(net).bias += 0.5


def settled_span(net: nn.Module) -> None:
    brightened(net)
    assert isinstance(net, Span)
    if net.normed:
        first = net.conv_1.conv[0] if net.conv_1.trained else net.conv_1.eval_conv
        for layer in (first, net.conv_1.sk) if net.conv_1.trained else (first,):
            layer.weight /= 64  # what it takes is 0..255


def settled_style(net: nn.Module) -> None:
    last_convolution(net).weight *= 120
    last_convolution(net).bias += 127


def settled_mobile_rrn(net: nn.Module) -> None:
    """So that the state neither dies out nor grows without bound."""
    net.get_parameter("conv_last.weight").mul_(0.5)
    net.get_parameter("conv_hidden.weight").mul_(0.5)


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
        settle=brightened,
    ),
    Published(
        "srgan-lornatang-x3",
        "srgan",
        lambda: LornatangSrgan((3,), 6, 1),
        3,
        {"layout": "Lornatang", "width": 6, "depth": 1},
        settle=brightened,
    ),
    Published(
        "span-x4", "span", lambda: Span(4, 6, 2), 4, {"width": 6, "blocks": 2, "form": "merged"}, settle=settled_span
    ),
    Published(
        "span-x2-trained",
        "span",
        lambda: Span(2, 4, 3, trained=True),
        2,
        {"width": 4, "blocks": 3, "form": "trained"},
        unread=r".*\.eval_conv\..*",
        settle=settled_span,
    ),
    Published(
        "span-x3-uncentred",
        "span",
        lambda: Span(3, 4, 1, normed=False),
        3,
        {"width": 4, "blocks": 1, "form": "merged"},
        unread="no_norm",
        settle=settled_span,
    ),
    Published(
        "fast-style",
        "fast-style",
        lambda: FastStyle(4, 2),
        1,
        {"width": 4, "depth": 2},
        (0.0, 255.0),
        settle=settled_style,
    ),
    Published(
        "cyclegan",
        "cyclegan",
        lambda: CycleGan((4, 8, 16, 8, 4), (16, 16)),
        1,
        {"width": 4, "blocks": 2, "convolutions": "plain", "norm": "instance"},
        (-1.0, 1.0),
    ),
    Published(
        "cyclegan-compressed",
        "cyclegan",
        lambda: CycleGan((4, 6, 12, 8, 5), (8, 12, 6), separable=True, dropout=True),
        1,
        {"width": 4, "blocks": 3, "convolutions": "separable", "norm": "instance"},
        (-1.0, 1.0),
    ),
    Published(
        "cyclegan-batch-norm",
        "cyclegan",
        lambda: CycleGan((4, 6, 8, 6, 4), (8, 8), dropout=True, batch_norm=True),
        1,
        {"width": 4, "blocks": 2, "convolutions": "plain", "norm": "batch", "statistics": "batch"},
        (-1.0, 1.0),
        unread=r".*\.running_(mean|var)",
    ),
    Published(
        "cyclegan-stored",
        "cyclegan",
        lambda: CycleGan((4, 6, 8, 6, 4), (8, 8), dropout=True, batch_norm=True, evaluated=True),
        1,
        {"width": 4, "blocks": 2, "convolutions": "plain", "norm": "batch", "statistics": "stored"},
        (-1.0, 1.0),
        options={"statistics": "stored"},
    ),
    Published(
        "mobile-rrn",
        "mobile-rrn",
        lambda: MobileRrn(6, 2),
        4,
        {"width": 6, "depth": 2},
        (0.0, 255.0),
        telling=r"(conv_\w+|trunk\.0\.conv1)\.weight",
        settle=settled_mobile_rrn,
        others=lambda image: (image.flip(3), torch.full((len(image), 6, *image.shape[2:]), 9.0)),
    ),
    *PUBLISHED_STARGAN,
    *PUBLISHED_BICYCLEGAN,
    *PUBLISHED_FACE_DEID,
    *PUBLISHED_FACE_IDENTITY,
    *PUBLISHED_PIX2PIX,
    *PUBLISHED_LUMA,
    *PUBLISHED_RRDB,
    *PUBLISHED_MSRRESNET,
    *PUBLISHED_EDSR,
    *PUBLISHED_FRVSR,
)


def mobile_rrn() -> MobileRrn:
    net = published("mobile-rrn").net()
    assert isinstance(net, MobileRrn)
    return net


def published(id: str) -> Published:
    return next(case for case in PUBLISHED if case.id == id)


def frame(height: int = 24, width: int = 32, seed: int = 0) -> Frame:
    return frames(1, height, width, seed)[0]


def loaded(id: str) -> LoadedGenerator:
    """One of ``PUBLISHED``, as the exporter reads it."""
    case = published(id)
    state = case.state()
    return identify(state).load(state, **case.options)


@cache
def ready(id: str) -> LoadedGenerator:
    """As :func:`loaded`, its norms frozen where it asks for that, so that it can be exported."""
    generator = loaded(id)
    return generator if generator.freeze is None else generator.freeze(list(frames(8, 40, 40)), lambda text: None)


@cache
def _exported(id: str, shape: tuple[int, int] | None) -> bytes:
    generator = ready(id)
    return graph_from_generator(FrameGraph(generator), generator.size_rule, shape).SerializeToString()


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
