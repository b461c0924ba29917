"""What the U-Nets and ResNets of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix (BSD) have in common: norms
that their files do not name, and colourisation.

Read at ``models/networks.py`` (``get_norm_layer``, ``use_bias``), ``models/base_model.py``, ``test.py``,
``models/colorization_model.py`` and ``data/colorization_dataset.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from export.generators.base import Option, State
from runtime.errors import CheckpointError

STATISTICS = Option(
    "statistics",
    ("batch", "stored"),
    "what batch norms normalise by: each frame's own statistics, as the publishers' test.py does, or those stored in "
    "training, as it does with --eval (folded into the convolutions, and better suited to INT8)",
)
NO_DROPOUT = (
    "Dropout has no weights and is never run, so that a frame always gives the same picture; the publishers' test.py "
    "leaves it on without --eval."
)

_STATISTICS = re.compile(r".*\.(running_mean|running_var|num_batches_tracked)")
_RUNNING = ("running_mean", "running_var")


@dataclass(frozen=True)
class Norms:
    """The norms of a net, and what the convolutions in front of them are like.

    The publishers give these convolutions a bias only where instance norms follow, and these have no weights. So a file
    tells ``batch`` (weights, no bias), ``instance`` (no weights, bias) and ``none`` (neither) apart. Weights and bias
    together are of somebody else's making, ``batch or instance``; both compute the same. A frame on its own is a whole
    batch, so that a batch norm with the statistics of the batch is an instance norm with weights.
    """

    kind: str
    weights: bool
    biased: bool
    tracked: bool = False  # the file holds statistics of training
    stored: bool = False  # and they are used

    def layer(self, channels: int) -> nn.Module:
        """One norm, which a bias in front of it does not concern."""
        if self.stored:
            return nn.BatchNorm2d(channels)
        return nn.InstanceNorm2d(channels, affine=self.weights) if self.weights or self.biased else nn.Identity()

    @property
    def local(self) -> bool:
        """Whether no norm looks at the whole frame."""
        return self.stored or self.kind == "none"

    @property
    def facts(self) -> dict[str, str]:
        """The kind, and for norms with weights the statistics they use, as the option :data:`STATISTICS` calls them."""
        return {"norm": self.kind} | ({"statistics": "stored" if self.stored else "batch"} if self.weights else {})

    @property
    def notes(self) -> tuple[str, ...]:
        """How what the file does not say was decided."""
        if self.stored:
            return ("Norms use the statistics of training, as the publishers' test.py does with --eval.",)
        if self.weights:
            choice = "; --option statistics=stored would take those of training" if self.tracked else ""
            return (f"Norms use the statistics of each frame, as the publishers' test.py does without --eval{choice}.",)
        if self.biased:
            return (
                "The file does not name its norms: they are instance norms, since they have no weights and the "
                "convolutions in front of them have a bias.",
            )
        return ("The net has no norms: it has no weights of any, nor the biases that the publishers give to others.",)

    def used(self, state: State) -> State:
        """Without the statistics that these norms do not use.

        Among them are those that PyTorch before 0.4 kept for an instance norm; the publishers drop these as well.
        """
        if self.stored:
            return state
        return {name: tensor for name, tensor in state.items() if not _STATISTICS.fullmatch(name)}


def read_norms(state: State, norms: Iterable[str], convolutions: Iterable[str], statistics: str, family: str) -> Norms:
    """The norms of a file that has them at ``norms``, behind the ``convolutions``.

    Raises :class:`CheckpointError` where ``statistics`` are ``stored`` that the file does not hold.
    """
    places = list(norms)
    weights = any(f"{place}.{kind}" in state for place in places for kind in ("weight", "bias"))
    biased = any(f"{place}.bias" in state for place in convolutions)
    tracked = weights and any(f"{place}.{kind}" in state for place in places for kind in _RUNNING)
    stored = statistics == "stored"
    if stored and not tracked:
        lacks = "no running statistics of its norms" if weights else "no batch norms"
        raise CheckpointError(
            f"the checkpoint looks like {family}, but it holds {lacks}: leave out --option statistics=stored"
        )
    kind = ("batch or instance" if biased else "batch") if weights else ("instance" if biased else "none")
    return Norms(kind, weights, biased, tracked, stored)


def colourises(inputs: int, outputs: int, family: str) -> bool:
    """Whether a net of so many channels is one for colourisation; else it is one from RGB to RGB.

    Raises :class:`CheckpointError` for any other.
    """
    if (inputs, outputs) not in ((3, 3), (1, 2)):
        raise CheckpointError(
            f"the checkpoint looks like {family}, but it takes {inputs} and gives {outputs} channels; only nets from "
            "RGB to RGB (3 and 3) and from lightness to ab (1 and 2, colourisation) can be built"
        )
    return (inputs, outputs) == (1, 2)


# --- colourisation ----------------------------------------------------------------------------------------------------

# sRGB's primaries and white D65 (2 degrees), in the digits of scikit-image, which the publishers convert with
_XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_RGB_FROM_XYZ = tuple(tuple(map(float, row)) for row in np.linalg.inv(np.array(_XYZ_FROM_RGB)))
_WHITE = (0.95047, 1.0, 1.08883)
_AB = 110.0  # a and b of Lab that are 1 for the net


def lightness(rgb: Tensor) -> Tensor:
    """L of CIE Lab, ``float32 (N, 1, H, W) 0..100``, of sRGB ``float32 (N, 3, H, W) RGB 0..1``."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    y = _weighted(linear, _XYZ_FROM_RGB[1])
    return torch.where(y > 0.008856, 116 * y ** (1 / 3) - 16, y * (116 * 7.787))


def rgb_from_lab(light: Tensor, ab: Tensor) -> Tensor:
    """sRGB ``float32 (N, 3, H, W) RGB 0..1`` of CIE Lab: L ``(N, 1, H, W) 0..100`` and a, b ``(N, 2, H, W)``.

    Colours that sRGB does not have are clipped.
    """
    y = (light + 16) / 116
    cubes = torch.cat([y + ab[:, 0:1] / 500, y, torch.clamp(y - ab[:, 1:2] / 200, min=0)], 1)
    xyz = torch.where(cubes > 0.2068966, cubes * cubes * cubes, (cubes - 16 / 116) / 7.787)
    xyz = xyz * torch.tensor(_WHITE, device=xyz.device).reshape(1, 3, 1, 1)
    linear = torch.cat([_weighted(xyz, row) for row in _RGB_FROM_XYZ], 1)
    # clamped, since the power of the branch that is not taken would be that of a negative number
    curved = 1.055 * torch.clamp(linear, min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.clamp(torch.where(linear > 0.0031308, curved, linear * 12.92), 0, 1)


def _weighted(planes: Tensor, factors: Iterable[float]) -> Tensor:
    """The sum of three planes times a factor each.

    Written out: as a convolution it would be computed in float16 or int8 where the net is.
    """
    red, green, blue = factors
    return planes[:, 0:1] * red + planes[:, 1:2] * green + planes[:, 2:3] * blue


class Colouriser(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..1`` to the same in colour; only the lightness of the input counts, and is kept.

    ``net`` gives a and b over 110 for L / 50 - 1. ``in_bytes``: BGR 0..255 on both sides instead.
    """

    def __init__(self, net: nn.Module, *, in_bytes: bool = False) -> None:
        super().__init__()
        self.net, self.in_bytes = net, in_bytes

    def forward(self, image: Tensor) -> Tensor:
        light = lightness(image.flip(1) / 255 if self.in_bytes else image)
        result = rgb_from_lab(light, cast(Tensor, self.net(light / 50 - 1)) * _AB)
        return result.flip(1) * 255 if self.in_bytes else result
