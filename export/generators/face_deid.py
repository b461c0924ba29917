"""Our own face generator ``face-deid``: draws somebody else's face from 8 x 8 mean colours, five landmarks and 16 bits.

Trained by ``recipes/face_deid.py``. The crop's geometry is that of :mod:`runtime.faces.sanitise`, whose pictures it
takes. The net itself takes the mean colours of the erased rectangle before anything else, so it sees no more than the
thumbnail even of a picture that nobody has sanitised.

Plain 3 x 3 convolutions with ReLU and no norms: a U-Net (Ronneberger et al., 2015) with residual blocks at an eighth of
the size. The bits scale and shift features (FiLM, Perez et al., AAAI 2018), by factors from 0.5 to 1.5, so that ranges
for INT8 do not depend on the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Condition,
    Generator,
    LoadedGenerator,
    State,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from runtime.codes import Code
from runtime.errors import CheckpointError
from runtime.faces import sanitise
from runtime.frames import SizeRule

POINTS = 5  # landmarks
PLANES = 3  # constant: the erased rectangle, x, y
SPREAD = 0.06  # of a landmark's Gaussian, in half sides of the crop: 3 pixels
INPUTS = 3 + POINTS + PLANES


@dataclass(frozen=True)
class FaceDeidShape:
    """Channels at the full size, 1/2, 1/4 and 1/8; residual blocks at 1/8; bits; hidden units of the code's layers."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 96)
    blocks: int = 4
    bits: int = 16
    hidden: int = 64

    @property
    def modulated(self) -> tuple[int, ...]:
        """Channels of every place that the code scales and shifts."""
        _, half, quarter, eighth = self.widths
        return (*(eighth for _ in range(self.blocks)), quarter, half)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        inner = torch.relu(self.first(features) * scale + shift)
        return features + cast(Tensor, self.second(inner))


class _Up(nn.Module):
    """Twice the size: nearest neighbour and a convolution, then one more over the sum with the features on the way
    down."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor, skipped: Tensor) -> Tensor:
        enlarged: Tensor = self.enter(functional.interpolate(features, scale_factor=2.0, mode="nearest"))
        mixed: Tensor = self.mix(torch.relu(enlarged + skipped))
        return mixed


class FaceDeidNet(nn.Module):
    """A crop ``float32 (N, 3, 96, 96) RGB 0..1``, landmarks ``(N, 10)`` -1..1 and bits ``(N, 16)``, -1 or 1, to the
    crop with another face."""

    def __init__(self, shape: FaceDeidShape) -> None:
        super().__init__()
        self.shape = shape
        full, half, quarter, eighth = shape.widths
        self.enter = nn.Conv2d(INPUTS, full, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(above, below, 3, stride=2, padding=1)
            for above, below in ((full, half), (half, quarter), (quarter, eighth))
        )
        self.blocks = nn.ModuleList(_Residual(eighth) for _ in range(shape.blocks))
        self.up = nn.ModuleList((_Up(eighth, quarter), _Up(quarter, half), _Up(half, full)))
        self.out = nn.Conv2d(full, 3, 3, padding=1)
        self.code = nn.Sequential(nn.Linear(shape.bits, shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, shape.hidden))
        self.film = nn.Linear(shape.hidden, 2 * sum(shape.modulated))

    def forward(self, image: Tensor, landmarks: Tensor, code: Tensor) -> Tensor:
        known, rectangle = seen_of(image)
        planes = _constant_planes().to(image).expand(image.shape[0], -1, -1, -1)
        features = torch.cat((known * 2 - 1, drawn(landmarks), planes), dim=1)
        first = torch.relu(self.enter(features))
        skipped = [first]
        for layer in self.down:
            skipped.append(torch.relu(layer(skipped[-1])))
        modulation = self._modulation(code)
        features = skipped.pop()
        for block, (scale, shift) in zip(self.blocks, modulation, strict=False):
            features = block(features, scale, shift)
        for place, level in enumerate(self.up):
            features = level(features, skipped.pop())
            if place < 2:
                scale, shift = modulation[self.shape.blocks + place]
                features = features * scale + shift
            features = torch.relu(features)
        # the enlarged thumbnail is the anchor, as the enlarged picture is in super-resolution
        return known + rectangle * cast(Tensor, self.out(features))

    def _modulation(self, code: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Scale and shift ``(N, C, 1, 1)`` for every modulated place."""
        numbers = self.film(torch.relu(self.code(code)))[:, :, None, None]
        parts = torch.split(numbers, [width for width in self.shape.modulated for _ in range(2)], dim=1)
        return [
            (1 + 0.5 * torch.tanh(scale), torch.tanh(shift))
            for scale, shift in zip(parts[::2], parts[1::2], strict=True)
        ]


def seen_of(image: Tensor) -> tuple[Tensor, Tensor]:
    """All that the net sees of ``image`` (N, 3, 96, 96): its thumbnail, enlarged, instead of the erased rectangle.

    And the rectangle (1, 1, 96, 96), 1 inside.
    """
    rows, columns = sanitise.ERASED
    height, width = rows.stop - rows.start, columns.stop - columns.start
    cell = (height // sanitise.CELLS, width // sanitise.CELLS)
    thumbnail = functional.avg_pool2d(image[:, :, rows, columns], cell)
    enlarged = functional.interpolate(thumbnail, size=(height, width), mode="bilinear", align_corners=False)
    edges = (columns.start, sanitise.SIDE - columns.stop, rows.start, sanitise.SIDE - rows.stop)
    rectangle = _constant_planes()[:, :1].to(image)
    return image * (1 - rectangle) + functional.pad(enlarged, edges), rectangle


def drawn(landmarks: Tensor) -> Tensor:
    """(N, 10) of -1..1 to a Gaussian plane for each landmark, (N, 5, 96, 96)."""
    place = _constant_planes()[:, 1:].to(landmarks)
    points = landmarks.reshape(-1, POINTS, 2, 1, 1)
    x, y = place[:, :1] - points[:, :, 0], place[:, 1:] - points[:, :, 1]
    return torch.exp((x * x + y * y) * (-0.5 / SPREAD**2))


def _constant_planes() -> Tensor:
    """(1, 3, 96, 96): 1 in the erased rectangle, and x and y from -1 to 1. No buffers, as they belong to no file."""
    rectangle = np.zeros((sanitise.SIDE, sanitise.SIDE), np.float32)
    rectangle[sanitise.ERASED] = 1
    line = ((np.arange(sanitise.SIDE) + 0.5) * 2 / sanitise.SIDE - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return torch.from_numpy(np.stack((rectangle, x, y))[None])


def _detect(state: State) -> bool:
    code = state.get("code.0.weight")
    return (
        is_convolution(state, "enter.weight", INPUTS)
        and is_convolution(state, "up.0.mix.weight")
        and "film.weight" in state
        and code is not None
        and code.ndim == 2
    )


def _load(state: State) -> LoadedGenerator:
    name = "face-deid"
    full = kernel_of(state, "enter.weight", name)[0]
    half, quarter, eighth = (kernel_of(state, f"down.{level}.weight", name)[0] for level in range(3))
    if "blocks.0.first.weight" not in state:
        raise CheckpointError(f"the checkpoint looks like {name}, but it lacks blocks.0.first.weight")
    blocks = last_index(state, r"blocks\.(\d+)\..*", name) + 1
    hidden, bits = (int(side) for side in state["code.0.weight"].shape)
    if not 0 < bits <= 64 or not 0 < hidden <= 4096:
        raise CheckpointError(f"the checkpoint looks like {name}, but its code has {bits} bits and {hidden} units")
    with torch.device("meta"):
        net = FaceDeidNet(FaceDeidShape((full, half, quarter, eighth), blocks, bits, hidden))
    load_strictly(net, state, name)
    shape = tuple(float(value) for value in sanitise.normalised(sanitise.TEMPLATE))
    return LoadedGenerator(
        name,
        net,
        1,
        size_rule=SizeRule(sanitise.SIDE, sanitise.SIDE),
        tileable=False,  # a face is one picture
        task="face-deid",
        facts={"width": full, "blocks": blocks, "bits": bits},
        conditions=(
            Condition("landmarks", Code("vector", 2 * POINTS, shape, -1.0, 1.0)),
            Condition("passcode", Code("bits", bits, (-1.0,) * bits, -1.0, 1.0)),
        ),
        fixed_size=(sanitise.SIDE, sanitise.SIDE),
        fit="resize",
        notes=("It takes aligned faces whose middle is erased (runtime.faces.sanitise), and no whole pictures.",),
    )


FACE_DEID = Generator(
    id="face-deid",
    title="genedge's own face generator: somebody else's face from a thumbnail, landmarks and a passcode",
    keys=frozenset(
        f"{place}.{kind}"
        for place in (
            "enter", "out", "film", "code.N", "down.N", "blocks.N.first", "blocks.N.second", "up.N.enter", "up.N.mix",
        )
        for kind in ("weight", "bias")
    ),
    detect=_detect,
    load=_load,
    example="face-deid.safetensors",
    purpose="face de-identification, 96 x 96",
)  # fmt: skip
