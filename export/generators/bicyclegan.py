"""BicycleGAN's generator (Zhu et al., Toward Multimodal Image-to-Image Translation, NIPS 2017).

Layout and forward pass follow ``G_Unet_add_all`` and ``G_Unet_add_input`` in ``models/networks.py`` of
https://github.com/junyanz/BicycleGAN (MIT): a U-Net whose latent vector is repeated as planes, behind the features in
front of every convolution that halves the size (``all``, the default, which the published weights have), or behind the
picture only (``input``). Its tests use evaluation mode, so dropout does nothing and batch norms use the statistics of
training; norms are instance norms without weights by default. ``edges2shoes`` and ``edges2handbags`` take a grey
picture (``input_nc`` 1), here made of the frame as Pillow does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from export.generators.base import (
    MOST_OF_PICTURES,
    Condition,
    Generator,
    LoadedGenerator,
    Option,
    State,
    is_convolution,
    kernel_of,
    load_strictly,
)
from runtime.codes import Code
from runtime.errors import CheckpointError, UsageError
from runtime.frames import SizeRule

LATENT = 8  # numbers of a latent vector in all published weights
REACH = 3.0  # a latent vector is drawn from a normal distribution: 99.7 % of its numbers lie within three deviations
DEEPEST = 10  # levels that are looked for; the publishers' nets have 7 or 8
LARGEST = 1024  # pixels

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, Pillow's conversion to grey
_STATISTICS = re.compile(r".*\.(running_mean|running_var|num_batches_tracked)")

_MakeNorm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class BicycleGanShape:
    """What the tensors say about a net.

    Args:
        pictures: channels of the picture that it takes, 3 or 1.
        latent: numbers of the latent vector.
        widths: channels behind each convolution that halves the size, the first one first.
        everywhere: the latent vector comes in front of each of them (``add_all``), else only of the first one.
        bilinear: sizes are doubled by bilinear interpolation and a convolution, else by a transposed convolution.
        batch_norm: batch norms, with the statistics of training; else instance norms without weights.
    """

    pictures: int
    latent: int
    widths: tuple[int, ...]
    everywhere: bool
    bilinear: bool = False
    batch_norm: bool = False


class _Level(nn.Module):
    """Half the size and twice the size again, with the levels below in between; the first level is ``outermost``."""

    def __init__(self, shape: BicycleGanShape, level: int) -> None:
        super().__init__()
        self.outermost, innermost = level == 0, level == len(shape.widths) - 1
        norm: _MakeNorm = nn.BatchNorm2d if shape.batch_norm else nn.InstanceNorm2d
        inner = shape.widths[level]
        outer = 3 if self.outermost else shape.widths[level - 1]
        inputs = shape.pictures if self.outermost else outer
        latent = shape.latent if shape.everywhere or self.outermost else 0
        down: list[nn.Module] = [] if self.outermost else [nn.LeakyReLU(0.2)]
        down.append(nn.Conv2d(inputs + latent, inner, 4, 2, 1))
        if not (self.outermost or innermost):
            down.append(norm(inner))
        below = inner if innermost else 2 * inner
        up: list[nn.Module] = [nn.ReLU()]
        if shape.bilinear:
            up += [nn.Upsample(scale_factor=2.0, mode="bilinear"), nn.ReflectionPad2d(1), nn.Conv2d(below, outer, 3)]
        else:
            up.append(nn.ConvTranspose2d(below, outer, 4, 2, 1))
        up.append(nn.Tanh() if self.outermost else norm(outer))
        self._build(down, None if innermost else type(self)(shape, level + 1), up)

    def _build(self, down: list[nn.Module], below: _Level | None, up: list[nn.Module]) -> None:
        raise NotImplementedError


class _LevelOfAll(_Level):
    """``UnetBlock_with_z``: the latent vector goes down through all levels."""

    def _build(self, down: list[nn.Module], below: _Level | None, up: list[nn.Module]) -> None:
        self.down, self.submodule, self.up = nn.Sequential(*down), below, nn.Sequential(*up)

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        inner = self.down(_beside(features, latent))
        if self.submodule is not None:
            inner = self.submodule(inner, latent)
        result = cast(Tensor, self.up(inner))
        return result if self.outermost else torch.cat((result, features), dim=1)


class _LevelOfInput(_Level):
    """``UnetBlock``: one list of layers, of which one is the level below."""

    def _build(self, down: list[nn.Module], below: _Level | None, up: list[nn.Module]) -> None:
        self.model = nn.Sequential(*down, *([] if below is None else [below]), *up)

    def forward(self, features: Tensor) -> Tensor:
        result = cast(Tensor, self.model(features))
        return result if self.outermost else torch.cat((result, features), dim=1)


class BicycleGanNet(nn.Module):
    """``float32 (N, 3, H, W) RGB -1..1`` and ``float32 (N, latent)`` to a picture alike.

    H and W are multiples of 2 to the number of levels.
    """

    def __init__(self, shape: BicycleGanShape) -> None:
        super().__init__()
        self.grey = shape.pictures == 1
        self.everywhere = shape.everywhere
        self.model = _LevelOfAll(shape, 0) if shape.everywhere else _LevelOfInput(shape, 0)

    def forward(self, image: Tensor, latent: Tensor) -> Tensor:
        if self.grey:
            image = _LUMA[0] * image[:, :1] + _LUMA[1] * image[:, 1:2] + _LUMA[2] * image[:, 2:]
        if self.everywhere:
            return cast(Tensor, self.model(image, latent))
        return cast(Tensor, self.model(_beside(image, latent)))


def _beside(features: Tensor, latent: Tensor) -> Tensor:
    """``features`` with a plane behind them for each number of ``latent``."""
    return torch.cat((features, latent[:, :, None, None].expand(-1, -1, *features.shape[2:])), dim=1)


# --- names ------------------------------------------------------------------------------------------------------------


def _down(level: int, *, everywhere: bool) -> str:
    """Name of the convolution that halves the size in ``level``."""
    place = int(level > 0)  # behind an activation
    if everywhere:
        return f"model.{'submodule.' * level}down.{place}.weight"
    # the level below is behind the convolution and, from the second level on, its activation and norm
    inside = "".join("model.1." if above == 0 else "model.3." for above in range(level))
    return f"model.{inside}model.{place}.weight"


def _convolutions(state: State, *, everywhere: bool) -> list[str]:
    """Names of the halving convolutions that ``state`` holds, the first level first."""
    names: list[str] = []
    while len(names) < DEEPEST and is_convolution(state, name := _down(len(names), everywhere=everywhere)):
        names.append(name)
    return names


def _detect(state: State) -> bool:
    for everywhere, ups in ((True, ("model.up.1", "model.up.3")), (False, ("model.model.3", "model.model.5"))):
        names = _convolutions(state, everywhere=everywhere)
        if len(names) > 1 and any(is_convolution(state, f"{up}.weight") for up in ups):
            # a pix2pix U-Net has the names of add_input, and takes a picture only, or two of them
            biased = names[1].replace(".weight", ".bias") in state
            return everywhere or (biased and kernel_of(state, names[0], "bicyclegan")[1] > MOST_OF_PICTURES)
    return False


def _shape(state: State) -> BicycleGanShape:
    everywhere = is_convolution(state, _down(0, everywhere=True))
    names = _convolutions(state, everywhere=everywhere)
    kernels = [kernel_of(state, name, "bicyclegan") for name in names]
    inputs = kernels[0][1]
    latent = LATENT if inputs == LATENT + 1 else inputs - 3  # the file says only how many channels there are together
    if everywhere:
        latent = kernels[1][1] - kernels[0][0]
    if latent < 1 or inputs - latent not in (1, 3):
        raise CheckpointError(
            f"the checkpoint looks like bicyclegan, but its first convolution takes {inputs} channels, which is no "
            f"picture of 1 or 3 channels and a latent vector of {latent} numbers"
        )
    norm = "model.submodule.down.2" if everywhere else "model.model.1.model.2"
    return BicycleGanShape(
        pictures=inputs - latent,
        latent=latent,
        widths=tuple(kernel[0] for kernel in kernels),
        everywhere=everywhere,
        bilinear=f"model.{'up.3' if everywhere else 'model.5'}.weight" in state,
        batch_norm=f"{norm}.weight" in state,
    )


def _load(state: State, size: str = "") -> LoadedGenerator:
    shape = _shape(state)
    stride = 2 ** len(shape.widths)
    side = _side(size, stride)
    if not shape.batch_norm:  # statistics that PyTorch before 0.4 kept for an instance norm and the publishers drop
        state = {name: tensor for name, tensor in state.items() if not _STATISTICS.fullmatch(name)}
    with torch.device("meta"):
        net = BicycleGanNet(shape)
    load_strictly(net, state, "bicyclegan")
    notes = [f"Frames are scaled to {side}x{side} (--option size={side}); the file does not say the size of training."]
    if not shape.everywhere:
        notes.append(
            f"The net takes {shape.pictures + shape.latent} channels, read as a picture of {shape.pictures} and a "
            f"latent vector of {shape.latent}; the file does not tell them apart."
        )
    return LoadedGenerator(
        "bicyclegan",
        net,
        1,
        input_range=(-1.0, 1.0),
        output_range=(-1.0, 1.0),
        size_rule=SizeRule(stride, stride),
        tileable=False,  # the innermost features see the whole frame
        task="translation",
        facts={
            "width": shape.widths[0],
            "levels": len(shape.widths),
            "latent": shape.latent,
            "latent_in": "all" if shape.everywhere else "input",
            "picture": "colour" if shape.pictures == 3 else "grey",
            "upsampling": "bilinear" if shape.bilinear else "transposed",
            "norm": "batch" if shape.batch_norm else "instance",
        },
        conditions=(Condition("latent", Code("vector", shape.latent, (0.0,) * shape.latent, -REACH, REACH)),),
        fixed_size=(side, side),
        fit="resize",
        notes=tuple(notes),
    )


def _side(size: str, stride: int) -> int:
    """The option ``size`` in pixels; where it is empty, the size at which the innermost features are one pixel."""
    if not size:
        return stride
    if not size.isdecimal() or not stride <= int(size[:9]) <= max(stride, LARGEST) or int(size[:9]) % stride:
        raise UsageError(
            f"the option size of bicyclegan is a multiple of {stride} pixels up to {max(stride, LARGEST)} for this "
            f"net, not {size}"
        )
    return int(size)


_PLACES = ("model.{}down.N", "model.{}up.N")
BICYCLEGAN = Generator(
    id="bicyclegan",
    title="BicycleGAN of junyanz: many pictures of one, chosen by a latent vector",
    keys=frozenset(
        f"{place.format('submodule.' * level)}.{kind}"
        for place in _PLACES
        for level in range(8)
        for kind in ("weight", "bias")
    ),
    detect=_detect,
    load=_load,
    example="edges2shoes_net_G.pth",
    purpose="edges, maps or night to photos",
    options=(Option("size", (), "height and width of the pictures that it was trained on, such as 512 for maps"),),
)
