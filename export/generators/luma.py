"""Nets that enlarge luma alone, as generators of whole pictures.

Luma and chroma are those of BT.601 in their limited range, as MATLAB's ``rgb2ycbcr`` has them and as the scripts of
https://github.com/yjn870/FSRCNN-pytorch, https://github.com/yjn870/ESPCN-pytorch and
https://github.com/yjn870/SRCNN-pytorch use them: Y is 16/255..235/255, nothing is rounded in between, what the net
gives is clipped to 0..1, and chroma is enlarged bicubically. (The scripts write red's share of luma as 64.738/256,
where BT.601 has 65.738/256, so that their white is a step too dark. Here colours come back exactly.)

The bicubic filter is that of these scripts (Pillow's, and MATLAB's): half-pixel centres, a = -0.5; pixels repeat beyond
the border. An ONNX ``Resize`` of torch's and OpenCV's filter has a = -0.75 and takes longer than the net itself in
OpenVINO at x4. Written as a convolution with one kernel for each place within a pixel and a pixel shuffle, it is the
same in every engine.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import LoadedGenerator

#: What red, green and blue weigh in luma (BT.601).
WEIGHTS = (0.299, 0.587, 0.114)
#: Luma in 0..1 of black and white.
BLACK, WHITE = 16 / 255, 235 / 255
_CHROMA = 112 / 255  # of chroma on either side of its middle
_MIDDLE = 128 / 255
_A = -0.5  # of the cubic kernel
_REACH = 2  # pixels that the filter reads on every side


def bicubic_kernels(scale: int) -> Tensor:
    """The filter for every place within an enlarged pixel, row by row: ``float32 (scale², 5, 5)``."""

    def weight(distance: float) -> float:
        x = abs(distance)
        if x >= 2:
            return 0.0
        return (_A + 2) * x**3 - (_A + 3) * x**2 + 1 if x <= 1 else _A * (x**3 - 5 * x**2 + 8 * x - 4)

    places = [(place + 0.5) / scale - 0.5 for place in range(scale)]  # in pixels, from the middle of the pixel
    rows = torch.tensor([[weight(tap - place) for tap in range(-_REACH, _REACH + 1)] for place in places])
    return (rows[:, None, :, None] * rows[None, :, None, :]).reshape(scale**2, 2 * _REACH + 1, 2 * _REACH + 1)


def enlarged(planes: Tensor, kernels: Tensor, scale: int) -> Tensor:
    """``(N, A, H, W)`` through ``kernels (B scale², A, 5, 5)`` to ``(N, B, scale H, scale W)``."""
    around = functional.pad(planes, (_REACH,) * 4, mode="replicate")
    return functional.pixel_shuffle(functional.conv2d(around, kernels), scale)


def _each_alone(kernels: Tensor, channels: int) -> Tensor:
    """Kernels that enlarge every one of ``channels`` for itself: ``(channels scale², channels, 5, 5)``."""
    return _mixed(kernels, torch.eye(channels))


def _mixed(kernels: Tensor, matrix: Tensor) -> Tensor:
    """Kernels that enlarge what ``matrix (B, A)`` makes of A channels: ``(B scale², A, 5, 5)``."""
    return (matrix[:, None, :, None, None] * kernels[None, :, None]).flatten(0, 1)


class LumaNet(nn.Module):
    """A net ``float32 (N, 1, H, W) luma 0..1`` to the enlarged luma, or one that takes it bicubically enlarged.

    ``last`` names the layer that gives its output (behind it comes a pixel shuffle at most).
    """

    last = ""

    def lean(self) -> LumaNet:
        """The same in a form that engines run faster, where there is one; the last layer is a convolution then."""
        return copy.deepcopy(self)


def ycbcr_from_rgb() -> tuple[Tensor, Tensor]:
    """``(3, 3)`` and ``(3,)`` with which ``matrix @ rgb + offset`` are Y, Cb, Cr of RGB, all in 0..1."""
    red, _, blue = torch.eye(3, dtype=torch.float64)
    grey = torch.tensor(WEIGHTS, dtype=torch.float64)
    rows = (
        (WHITE - BLACK) * grey,
        _CHROMA / (1 - WEIGHTS[2]) * (blue - grey),
        _CHROMA / (1 - WEIGHTS[0]) * (red - grey),
    )
    return torch.stack(rows), torch.tensor((BLACK, _MIDDLE, _MIDDLE), dtype=torch.float64)


class LumaGenerator(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..1`` to ``float32 (N, 3, scale H, scale W) RGB``, not clipped.

    Args:
        luma: the net.
        scale: how much larger the picture becomes.
        after: the net takes the luma that was enlarged bicubically, and only improves it.
    """

    def __init__(self, luma: LumaNet, scale: int, *, after: bool = False) -> None:
        super().__init__()
        self.luma, self.scale, self.after = luma, scale, after
        matrix, offset = ycbcr_from_rgb()
        self.matrix: Tensor
        self.offset: Tensor
        self.inverse: Tensor
        self.kernels: Tensor
        for name, values in (
            ("matrix", matrix[..., None, None]),
            ("inverse", torch.linalg.inv(matrix)[..., None, None]),
            ("offset", offset[:, None, None]),
            ("kernels", bicubic_kernels(scale)),
        ):
            self.register_buffer(name, values.float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        ycbcr = functional.conv2d(image, self.matrix) + self.offset
        large = enlarged(ycbcr, _each_alone(self.kernels, 3), self.scale)
        luma = self.luma(large[:, :1] if self.after else ycbcr[:, :1]).clamp(0, 1)
        return functional.conv2d(torch.cat([luma, large[:, 1:]], 1) - self.offset, self.inverse)

    def folded(self) -> nn.Module:
        """The same net for BGR 0..255 on both sides."""
        return _Folded(self)


class _Folded(nn.Module):
    """``float32 (N, 3, H, W) BGR 0..255`` to the same, enlarged.

    Luma goes into red, green and blue alike, so the enlarged picture is the net's luma plus what the frame has besides
    its own, enlarged. One convolution takes the luma away and enlarges the rest; of the way back an addition is left,
    since the net's last layer gives luma in 0..255 at once. The frame's luma is a sum outside of any convolution, so
    that it stays float32 in every variant. It cannot go into the net's first convolution, whose padding with zeros is
    darker than black.
    """

    def __init__(self, whole: LumaGenerator) -> None:
        super().__init__()
        self.scale, self.after = whole.scale, whole.after
        self.luma = whole.luma.lean()
        span = 255 / (WHITE - BLACK)
        last = self.luma.get_submodule(self.luma.last)
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        last.weight.data = last.weight.data * span
        last.bias.data = last.bias.data * span - BLACK * span
        self.darkest, self.lightest = -BLACK * span, (1 - BLACK) * span
        grey = torch.tensor(WEIGHTS[::-1])
        self.grey: Tensor
        self.rest: Tensor
        self.kernels: Tensor
        self.register_buffer("grey", grey[:, None, None] * ((WHITE - BLACK) / 255))
        self.register_buffer("rest", _mixed(whole.kernels, torch.eye(3) - grey))
        self.register_buffer("kernels", whole.kernels[:, None])

    def forward(self, frame: Tensor) -> Tensor:
        luma = (frame * self.grey).sum(1, keepdim=True) + BLACK
        if self.after:
            luma = enlarged(luma, self.kernels, self.scale)
        light = self.luma(luma).clamp(self.darkest, self.lightest)
        return enlarged(frame, self.rest, self.scale) + cast(Tensor, light)


def loaded_luma(
    family: str,
    net: LumaNet,
    scale: int,
    facts: dict[str, int | str],
    *,
    after: bool = False,
    notes: tuple[str, ...] = (),
) -> LoadedGenerator:
    """The generator of whole pictures that a luma net makes."""
    whole = LumaGenerator(net, scale, after=after).eval()
    return LoadedGenerator(family, whole, scale, facts=facts, fold=whole.folded, notes=notes)


def as_convolution(layer: nn.ConvTranspose2d) -> tuple[nn.Conv2d, int]:
    """A transposed convolution to one channel as a convolution in front of a pixel shuffle, and what to cut off.

    ``layer`` has a stride s, padding p and output padding with which H x W become sH x sW. The convolution gives s²
    channels of (H + 2m) x (W + 2m); from the shuffled picture the first ``cut`` rows and columns and the last
    ``2ms - cut`` go, where m is 0 and so is ``cut`` unless the taps of the s places cannot be centred alike.
    """
    s, p, k = layer.stride[0], int(layer.padding[0]), layer.kernel_size[0]

    def taps(shift: int) -> list[int]:  # offsets of the input pixels that the places -shift..s-1-shift read
        return [tap for tap in range(-k, k + 1) if any(0 <= place - shift + p - s * tap < k for place in range(s))]

    shift = min(range(s), key=lambda shift: (max(map(abs, taps(shift))), shift))
    reach, more = max(map(abs, taps(shift))), 1 if shift else 0
    conv = nn.Conv2d(layer.in_channels, s * s, 2 * reach + 1, padding=reach + more)
    weight = torch.zeros_like(conv.weight)
    given = layer.weight.detach()[:, 0]
    for row in range(s):
        for column in range(s):
            for down in range(-reach, reach + 1):
                for right in range(-reach, reach + 1):
                    y, x = row - shift + p - s * down, column - shift + p - s * right
                    if 0 <= y < k and 0 <= x < k:
                        weight[row * s + column, :, down + reach, right + reach] = given[:, y, x]
    conv.weight = nn.Parameter(weight, requires_grad=False)
    bias = torch.zeros(1) if layer.bias is None else layer.bias.detach()
    conv.bias = nn.Parameter(bias.expand(s * s).clone(), requires_grad=False)
    return conv, more * s + shift


def is_luma_convolution(shape: tuple[int, ...]) -> bool:
    """Whether a kernel of this shape reads one channel, and is square with an odd side."""
    return len(shape) == 4 and shape[1] == 1 and shape[2] == shape[3] and shape[2] % 2 == 1 and math.prod(shape) > 0
