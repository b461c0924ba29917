"""genedge's own face generator, written a second time from its description, tiny and random."""

from __future__ import annotations

import torch
from published import Published
from torch import Tensor, nn
from torch.nn import functional

TOP, BOTTOM, LEFT, RIGHT = 8, 88, 24, 72  # the erased rectangle of the crop


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)


class Enlarging(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(inputs, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)


class FaceDeid(nn.Module):
    """Picture RGB 0..1 (N, 3, 96, 96), landmarks (N, 10), bits (N, ``bits``) of -1 and 1."""

    def __init__(self, widths: tuple[int, int, int, int], blocks: int, bits: int, hidden: int) -> None:
        super().__init__()
        a, b, c, d = widths
        self.code = nn.Sequential(nn.Linear(bits, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.places = [d] * blocks + [c, b]
        self.film = nn.Linear(hidden, 2 * sum(self.places))
        self.enter = nn.Conv2d(11, a, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in ((a, b), (b, c), (c, d)))
        self.blocks = nn.ModuleList(Block(d) for _ in range(blocks))
        self.up = nn.ModuleList((Enlarging(d, c), Enlarging(c, b), Enlarging(b, a)))
        self.out = nn.Conv2d(a, 3, 3, padding=1)

    def forward(self, image: Tensor, landmarks: Tensor, bits: Tensor) -> Tensor:
        seen = image.clone()
        for index, picture in enumerate(image):
            cells = picture[:, TOP:BOTTOM, LEFT:RIGHT].reshape(3, 8, 10, 8, 6).mean((2, 4))
            seen[index, :, TOP:BOTTOM, LEFT:RIGHT] = functional.interpolate(
                cells[None], (BOTTOM - TOP, RIGHT - LEFT), mode="bilinear"
            )[0]
        inside = torch.zeros(1, 1, 96, 96)
        inside[:, :, TOP:BOTTOM, LEFT:RIGHT] = 1
        y, x = torch.meshgrid(*2 * [(torch.arange(96) + 0.5) / 48 - 1], indexing="ij")
        points = [
            torch.exp(-((x - row[2 * i]) ** 2 + (y - row[2 * i + 1]) ** 2) / (2 * 0.06**2))
            for row in landmarks
            for i in range(5)
        ]
        places = torch.cat((inside, x[None, None], y[None, None]), 1).expand(len(image), -1, -1, -1)
        inputs = torch.cat((seen * 2 - 1, torch.stack(points).reshape(len(image), 5, 96, 96), places), 1)
        numbers = list(self.film(self.code(bits).relu()).split([p for p in self.places for _ in "ab"], 1))

        def modulated(values: Tensor) -> Tensor:
            scale, shift = numbers.pop(0).tanh() / 2 + 1, numbers.pop(0).tanh()
            return values * scale[:, :, None, None] + shift[:, :, None, None]

        kept = [self.enter(inputs).relu()]
        for layer in self.down:
            kept.append(layer(kept[-1]).relu())
        values = kept[3]
        for block in self.blocks:
            values = values + block.second(modulated(block.first(values)).relu())
        for index, level in enumerate(self.up):
            large = values.repeat_interleave(2, 2).repeat_interleave(2, 3)
            values = level.mix((level.enter(large) + kept[2 - index]).relu())
            values = (modulated(values) if index < 2 else values).relu()
        return torch.where(inside > 0, seen + self.out(values), image)


def landmarks_and_bits(image: Tensor) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    places = torch.rand(len(image), 10, generator=generator) - 0.5
    return places, torch.randint(0, 2, (len(image), 8), generator=generator) * 2.0 - 1


def settled(net: nn.Module) -> None:
    """Random weights of the code's layers, from which it has an effect that can be seen."""
    generator = torch.Generator().manual_seed(6)
    for name in ("code.0", "code.2", "film"):
        layer = net.get_submodule(name)
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 1.5 * layer.weight.shape[1] ** -0.5)
        layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.3)


PUBLISHED_FACE_DEID = (
    Published(
        "face-deid",
        "face-deid",
        lambda: FaceDeid((4, 6, 6, 8), 2, 8, 12),
        1,
        {"width": 4, "blocks": 2, "bits": 8},
        telling=r"(enter|down\.[012]|up\.0\.mix|film|code\.0|blocks\.[01]\.first)\.weight|blocks\.1\..*",
        settle=settled,
        others=landmarks_and_bits,
        size=(96, 96),
    ),
)
