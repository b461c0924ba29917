"""Tiny nets that enlarge luma, in the layouts of yjn870's repositories, with the colours handled around them.

The colours follow the numbers that MATLAB's ``rgb2ycbcr`` and ``ycbcr2rgb`` print, the bicubic filter is torch's
antialiased one, which is Pillow's, on a picture whose pixels repeat beyond the border.
"""

from __future__ import annotations

import torch
from published import Published, convolution, last_convolution
from torch import Tensor, nn
from torch.nn import functional

LEVELS = torch.tensor([0.25, 0.5, 0.75])


def bicubic(planes: Tensor, scale: int) -> Tensor:
    height, width = planes.shape[2:]
    around = functional.pad(planes, (6, 6, 6, 6), mode="replicate")
    size = ((height + 12) * scale, (width + 12) * scale)
    large = functional.interpolate(around, size, mode="bicubic", align_corners=False, antialias=True)
    return large[..., 6 * scale : -6 * scale, 6 * scale : -6 * scale]


class Luma(nn.Module):
    """RGB to luma and chroma in 0..255, the net on luma, and back."""

    scale: int
    enlarged_before = False

    def luma(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        r, g, b = image.unbind(1)
        y = 16 + 65.481 * r + 128.553 * g + 24.966 * b
        cb = 128 - 37.797 * r - 74.203 * g + 112 * b
        cr = 128 + 112 * r - 93.786 * g - 18.214 * b
        cb, cr = bicubic(torch.stack([cb, cr], 1), self.scale).unbind(1)
        y = y[:, None]
        y = self.luma((bicubic(y, self.scale) if self.enlarged_before else y) / 255).clamp(0, 1)[:, 0] * 255
        y, cb, cr = y - 16, cb - 128, cr - 128
        red = 0.00456621 * y + 0.00625893 * cr
        green = 0.00456621 * y - 0.00153632 * cb - 0.00318811 * cr
        blue = 0.00456621 * y + 0.00791071 * cb
        return torch.stack([red, green, blue], 1)


class Fsrcnn(Luma):
    """yjn870/FSRCNN-pytorch: ``first_part mid_part last_part``."""

    def __init__(self, scale: int, width: int, narrow: int, depth: int) -> None:
        super().__init__()
        self.scale = scale
        self.first_part = nn.Sequential(convolution(1, width, 5), nn.PReLU(width))
        middle = [layer for _ in range(depth) for layer in (convolution(narrow, narrow), nn.PReLU(narrow))]
        shrink, expand = convolution(width, narrow, 1), convolution(narrow, width, 1)
        self.mid_part = nn.Sequential(shrink, nn.PReLU(narrow), *middle, expand, nn.PReLU(width))
        self.last_part = nn.ConvTranspose2d(width, 1, 9, stride=scale, padding=4, output_padding=scale - 1)

    def luma(self, y: Tensor) -> Tensor:
        return self.last_part(self.mid_part(self.first_part(y)))


def settled_fsrcnn(net: nn.Module) -> None:
    """So that a grey picture keeps its grey, as it does with trained weights: every part of the kernel has to."""
    assert isinstance(net, Fsrcnn)
    grey = LEVELS.reshape(3, 1, 1, 1).expand(3, 1, 16, 16)
    features = net.mid_part(net.first_part(grey))[:, :, 8, 8]
    for row in range(net.scale):
        for column in range(net.scale):
            part = net.last_part.weight[:, 0, row :: net.scale, column :: net.scale]
            off = LEVELS - net.last_part.bias - features @ part.sum((1, 2))
            part += (torch.linalg.pinv(features, rtol=1e-3) @ off)[:, None, None] / part[0].numel()


class Espcn(Luma):
    """yjn870/ESPCN-pytorch: ``first_part.0 first_part.2 last_part.0``."""

    def __init__(self, scale: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.scale = scale
        self.first_part = nn.Sequential(convolution(1, wide, 5), nn.Tanh(), convolution(wide, narrow), nn.Tanh())
        self.last_part = nn.Sequential(convolution(narrow, scale**2), nn.PixelShuffle(scale))

    def luma(self, y: Tensor) -> Tensor:
        return self.last_part(self.first_part(y))


class Srcnn(Luma):
    """yjn870/SRCNN-pytorch: ``conv1 conv2 conv3`` on luma that was enlarged before."""

    enlarged_before = True

    def __init__(self, scale: int, wide: int, narrow: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv1, self.conv2 = convolution(1, wide, 9), convolution(wide, narrow, 5)
        self.conv3 = convolution(narrow, 1, 5)

    def luma(self, y: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(y).relu()).relu())


def brightened(net: nn.Module) -> None:
    """So that luma lies around its middle, and varies."""
    last_convolution(net).bias += 0.5
    last_convolution(net).weight *= 5


PUBLISHED_LUMA = (
    *(
        Published(
            f"fsrcnn-x{scale}",
            "fsrcnn",
            lambda scale=scale, depth=depth: Fsrcnn(scale, 8, 4, depth),
            scale,
            {"width": 8, "narrow": 4, "depth": depth},
            telling=r"(first_part\.0|mid_part\.0|last_part)\.weight",
            settle=settled_fsrcnn,
        )
        for scale, depth in ((2, 1), (3, 2), (4, 0))
    ),
    *(
        Published(
            f"espcn-x{scale}",
            "espcn",
            lambda scale=scale: Espcn(scale, 6, 4),
            scale,
            {"width": 6, "narrow": 4},
            telling=r"(first_part\.[02]|last_part\.0)\.weight",
            settle=brightened,
        )
        for scale in (2, 3)
    ),
    Published(
        "srcnn-x2",
        "srcnn",
        lambda: Srcnn(2, 6, 4),
        2,
        {"width": 6, "narrow": 4},
        telling=r"conv\d\.weight",
        settle=brightened,
        options={"scale": "2"},
    ),
    Published(
        "srcnn-x3",
        "srcnn",
        lambda: Srcnn(3, 4, 3),
        3,
        {"width": 4, "narrow": 3},
        telling=r"conv\d\.weight",
        settle=brightened,
    ),
)
