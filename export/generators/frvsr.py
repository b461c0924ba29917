"""FRVSR and TecoGAN, recurrent video super-resolution that carries its own last picture along the motion.

Architecture and step follow ``codes/models/networks/tecogan_nets.py`` and ``codes/utils/net_utils.py`` of
https://github.com/skycrapers/TecoGAN-PyTorch (Apache-2.0): the frame-recurrent net of Sajjadi et al., Frame-Recurrent
Video Super-Resolution, CVPR 2018, which TecoGAN (Chu et al., Learning Temporal Coherence via Self-Supervision for
GAN-based Video Generation, TOG 2020) trains with a discriminator. ``EGVSR`` of https://github.com/Thmen/EGVSR (MIT) is
the same with a pixel shuffle in place of the transposed convolutions, and no enlarged frame underneath.

What the publishers do besides, and a stream cannot: their tests put the first five frames in reverse order in front of
the first one, so that the state has settled when it comes. Where a frame's side is no multiple of 8, they reflect the
motion into what is missing; here the runtime repeats the edge of the frame instead.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    Option,
    RecurrentState,
    State,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
    outputs_of,
)
from runtime.errors import CheckpointError, UsageError
from runtime.frames import SizeRule

_FAMILY = "frvsr"
_FASTEST = 24  # pixels of the frame that anything may move in a step; the publishers' limit of the motion
_POOLED = 8  # three times by 2
_CUBIC = -0.75  # the cubic's parameter, as in TecoGAN's own TensorFlow code
_STAGES = ("encoder1", "encoder2", "encoder3", "decoder1", "decoder2", "decoder3")
_KERNELS = ("upsample_func.kernels", "srnet.upsample_func.kernels")  # one buffer, which two modules hold


def bicubic_kernels(scale: int) -> Tensor:
    """``float32 (scale, 4)``: the weights of four neighbours for each place between the second and the third."""
    places = torch.arange(scale, dtype=torch.float32) / scale
    powers = torch.stack([places**power for power in range(4)])
    a = _CUBIC
    cubic = torch.tensor([[0, a, -2 * a, a], [1, 0, -(a + 3), a + 2], [0, -a, 2 * a + 3, -(a + 2)], [0, 0, a, -a]])
    return (cubic @ powers).T.contiguous()


class _Bicubic(nn.Module):
    """Enlarge by cubic interpolation whose pixels begin at the corner of those of the input, not around their centres.

    The publishers interpolate rows and then columns; one convolution with the products of both, and a pixel shuffle,
    give the same.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.kernels: Tensor
        self.register_buffer("kernels", torch.empty(scale, 4))

    def forward(self, planes: Tensor) -> Tensor:
        channels = planes.shape[1]
        both = self.kernels[:, None, :, None] * self.kernels[None, :, None, :]
        weight = both.reshape(1, self.scale**2, 1, 4, 4).expand(channels, -1, -1, -1, -1).flatten(0, 1)
        padded = functional.pad(planes, (1, 2, 1, 2), mode="replicate")
        return functional.pixel_shuffle(functional.conv2d(padded, weight, groups=channels), self.scale)


class _Bilinear(nn.Module):
    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, planes: Tensor) -> Tensor:
        return functional.interpolate(planes, scale_factor=float(self.scale), mode="bilinear", align_corners=False)


def _two(inputs: int, outputs: int) -> nn.Sequential:
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2))


class _Motion(nn.Module):
    """Where each pixel of the frame was in the frame before.

    Args:
        widths: channels of the six stages, and of the layer in front of the last.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        before = 6
        for stage, width in zip(_STAGES, widths, strict=False):
            self.add_module(stage, _two(before, width))
            before = width
        self.flow = nn.Sequential(
            nn.Conv2d(before, widths[-1], 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(widths[-1], 2, 3, padding=1)
        )

    def forward(self, frame: Tensor, previous: Tensor) -> Tensor:
        """Both ``float32 (N, 3, H, W)``, sides multiples of 8, to ``(N, 2, H, W)``: right and down, -1..1."""
        features = torch.cat((frame, previous), dim=1)
        for stage in _STAGES[:3]:
            features = functional.max_pool2d(self.get_submodule(stage)(features), 2)
        for stage in _STAGES[3:]:
            features = self.get_submodule(stage)(features)
            features = functional.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.tanh(self.flow(features))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.conv = nn.Sequential(first, nn.ReLU(), second)

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.conv(features))


class _Picture(nn.Module):
    """The frame, and the picture before in the frame's places, to the next picture.

    Args:
        enlarge: of the frame that lies underneath; EGVSR has none.
        shuffled: whether a pixel shuffle enlarges the features.
    """

    def __init__(self, width: int, depth: int, scale: int, enlarge: nn.Module, *, shuffled: bool) -> None:
        super().__init__()
        self.scale = scale
        self.conv_in = nn.Sequential(nn.Conv2d(3 * (scale**2 + 1), width, 3, padding=1), nn.ReLU())
        self.resblocks = nn.Sequential(*(_Residual(width) for _ in range(depth)))
        layers: list[nn.Module] = []
        for _ in range(0 if shuffled else scale.bit_length() - 1):
            layers += [nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=1), nn.ReLU()]
        self.conv_up = nn.Sequential(*layers)
        self.shuffled = shuffled
        self.conv_out = nn.Conv2d(width // scale**2 if shuffled else width, 3, 3, padding=1)
        self.upsample_func = enlarge

    def forward(self, frame: Tensor, moved: Tensor) -> Tensor:
        features = self.resblocks(self.conv_in(torch.cat((frame, _spread(moved, self.scale)), dim=1)))
        if self.shuffled:
            return cast(Tensor, self.conv_out(torch.relu(functional.pixel_shuffle(features, self.scale))))
        return cast(Tensor, self.conv_out(self.conv_up(features)) + self.upsample_func(frame))


def _spread(picture: Tensor, scale: int) -> Tensor:
    """``(N, C, sH, sW)`` to ``(N, s² C, H, W)``, the colours of one place next to each other.

    Not ``pixel_unshuffle``, which has another order and which PyTorch's exporter gets wrong (pytorch#186080).
    """
    count, channels, height, width = picture.shape
    cells = picture.reshape(count, channels, height // scale, scale, width // scale, scale)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(count, scale**2 * channels, height // scale, width // scale)


class FrvsrNet(nn.Module):
    """One step: a frame, the frame before it and the picture before it to the next picture.

    Args:
        motion: channels of the layers that estimate motion, see :class:`_Motion`.
        width: channels of the other layers.
        depth: residual blocks.
        scale: output size over input size.
        bicubic: whether frame and motion are enlarged by cubic interpolation (BD), else bilinearly (BI).
        shuffled: EGVSR's way to enlarge.
    """

    def __init__(
        self, motion: tuple[int, ...], width: int, depth: int, scale: int, *, bicubic: bool, shuffled: bool
    ) -> None:
        super().__init__()
        self.scale = scale
        self.upsample_func = _Bicubic(scale) if bicubic else _Bilinear(scale)
        self.fnet = _Motion(motion)
        self.srnet = _Picture(width, depth, scale, self.upsample_func, shuffled=shuffled)

    def forward(self, frame: Tensor, previous: Tensor, previous_output: Tensor) -> tuple[Tensor, Tensor]:
        """Compute one step.

        Args:
            frame: ``float32 (N, 3, H, W) RGB 0..1``; sides are multiples of 8.
            previous: the frame before it, alike; in the first step zeros.
            previous_output: the picture before, ``float32 (N, 3, scale H, scale W) RGB``, not clipped; in the first
                step zeros.

        Returns:
            The picture ``float32 (N, 3, scale H, scale W) RGB``, not clipped, twice: to be shown, and to be kept.
        """
        picture = self.srnet(frame, self.moved(previous_output, self.fnet(frame, previous)))
        return picture, picture

    def moved(self, picture: Tensor, motion: Tensor) -> Tensor:
        """``picture`` in the places of the frame; ``motion`` is what :class:`_Motion` gives.

        Sampling wants places from -1 to 1. What depends on the frame's size are two vectors of one row and one column,
        so no array of all places has to be made, stored or fed, and the motion is scaled while it is small.
        """
        height, width = picture.shape[2:]
        x, y = torch.arange(width).float(), torch.arange(height).float()
        pixel = 2 / torch.cat((x[-1:], y[-1:]))  # from one pixel of the picture to the next
        columns = torch.stack((x * pixel[0] - 1, 0 * x))[:, None, :]
        rows = torch.stack((0 * y, y * pixel[1] - 1))[:, :, None]
        shift = self.upsample_func(motion * (_FASTEST * self.scale * pixel[:, None, None]))
        places = (shift + columns + rows).permute(0, 2, 3, 1)
        return functional.grid_sample(picture, places, "bilinear", padding_mode="border", align_corners=True)


def _detect(state: State) -> bool:
    others = ("srnet.conv_in.0.weight", "srnet.resblocks.0.conv.0.weight", "srnet.conv_out.weight")
    return (
        is_convolution(state, "fnet.encoder1.0.weight", 6)
        and is_convolution(state, "fnet.flow.2.weight")
        and outputs_of(state, "fnet.flow.2.weight") == 2
        and all(is_convolution(state, name) for name in others)
    )


def _scale(state: State) -> int:
    """The net reads the frame, and scale² pixels of the picture before for each of its pixels."""
    inputs = kernel_of(state, "srnet.conv_in.0.weight", _FAMILY)[1]
    scale = math.isqrt(max(0, inputs // 3 - 1))
    if scale not in (2, 4) or inputs != 3 * (scale**2 + 1):
        raise CheckpointError(
            f"the checkpoint looks like {_FAMILY}, but srnet.conv_in takes {inputs} channels, "
            "which fits neither a scale of 2 (15) nor one of 4 (51)"
        )
    return scale


def _bicubic(state: State, degradation: str) -> bool:
    held = any(name in state for name in _KERNELS)
    if held and degradation == "BI":
        raise UsageError("the file holds the cubic kernels of BD: leave out --option degradation=BI")
    return held or degradation == "BD"


def _load(state: State, degradation: str = "auto") -> LoadedGenerator:
    width = outputs_of(state, "srnet.conv_in.0.weight")
    depth = last_index(state, r"srnet\.resblocks\.(\d+)\..*", _FAMILY) + 1
    scale = _scale(state)
    shuffled = kernel_of(state, "srnet.conv_out.weight", _FAMILY)[1] * scale**2 == width
    motion = tuple(kernel_of(state, f"fnet.{layer}.weight", _FAMILY)[0] for layer in (*_layers(), "flow.0"))
    held = any(name in state for name in _KERNELS)
    bicubic = _bicubic(state, degradation)
    with torch.device("meta"):
        net = FrvsrNet(motion, width, depth, scale, bicubic=bicubic, shuffled=shuffled)
    own = dict(state)
    if shuffled:  # EGVSR's files keep the layers that it has replaced
        own = {name: tensor for name, tensor in own.items() if not name.startswith("srnet.conv_up.")}
    if bicubic and not held:
        own |= dict.fromkeys(_KERNELS, bicubic_kernels(scale))
    load_strictly(net, own, _FAMILY)
    notes: tuple[str, ...] = ()
    if not held and degradation == "auto":
        notes = (
            "The file holds no cubic kernels, so frame and motion are enlarged bilinearly, as its publishers do for "
            "BI; for weights of BD that lost them: --option degradation=BD.",
        )
    return LoadedGenerator(
        _FAMILY,
        net,
        scale,
        size_rule=SizeRule(minimum=_POOLED, multiple=_POOLED),
        tileable=False,  # a tile would need a state of its own, and motion leads out of it
        facts={
            "layout": "EGVSR" if shuffled else "TecoGAN",
            "width": width,
            "depth": depth,
            "degradation": "BD" if bicubic else "BI",
        },
        states=(
            RecurrentState("previous", initial="zeros"),
            RecurrentState("previous_output", "next_output", scale=scale),
        ),
        notes=notes,
    )


def _layers() -> tuple[str, ...]:
    return tuple(f"{stage}.2" for stage in _STAGES)


FRVSR = Generator(
    id=_FAMILY,
    title="FRVSR / TecoGAN, recurrent video super-resolution along the motion",
    keys=frozenset(
        {
            *(f"{layer}.{kind}" for kind in ("weight", "bias") for layer in (
                "fnet.encoderN.N", "fnet.decoderN.N", "fnet.flow.N",
                "srnet.conv_in.N", "srnet.resblocks.N.conv.N", "srnet.conv_up.N", "srnet.conv_out",
            )),
            *_KERNELS,
        }
    ),
    detect=_detect,
    load=_load,
    example="TecoGAN_4x_BD_Vimeo_iter500K.pth",
    purpose="video super-resolution, temporally coherent",
    options=(
        Option(
            "degradation",
            ("auto", "BD", "BI"),
            "what the weights were trained for: BD (blurred and decimated; frame and motion are enlarged by cubic "
            "interpolation) or BI (reduced bicubically; enlarged bilinearly). Files of BD hold the cubic's kernels",
        ),
    ),
)  # fmt: skip
