"""StarGAN's generator and discriminator as yunjey's ``model.py`` lays them out, tiny and random."""

from __future__ import annotations

import torch
from published import Published, convolution
from torch import Tensor, nn
from torch.nn import functional


class FrameNorm(nn.InstanceNorm2d):
    """The publishers' norm in training mode, in which ``solver.py`` leaves it: it never uses what it has counted."""

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=True, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional.instance_norm(x, None, None, self.weight, self.bias, use_input_stats=True)


class StarGanBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (convolution(width, width, bias=False) for _ in range(2))
        self.main = nn.Sequential(first, FrameNorm(width), nn.ReLU(), second, FrameNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class StarGan(nn.Module):
    """Picture ``RGB -1..1`` and labels ``(N, labels)``; ``mirrored`` pads the first convolution by reflection."""

    def __init__(self, width: int, labels: int, depth: int, *, mirrored: bool = False) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 4 * width
        padding = {"padding_mode": "reflect"} if mirrored else {}
        self.main = nn.Sequential(
            convolution(3 + labels, a, 7, bias=False, **padding), FrameNorm(a), nn.ReLU(),
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False), FrameNorm(b), nn.ReLU(),
            nn.Conv2d(b, c, 4, stride=2, padding=1, bias=False), FrameNorm(c), nn.ReLU(),
            *(StarGanBlock(c) for _ in range(depth)),
            nn.ConvTranspose2d(c, b, 4, stride=2, padding=1, bias=False), FrameNorm(b), nn.ReLU(),
            nn.ConvTranspose2d(b, a, 4, stride=2, padding=1, bias=False), FrameNorm(a), nn.ReLU(),
            convolution(a, 3, 7, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        count, size = labels.shape
        planes = torch.ones(count, size, *image.shape[2:]) * labels.reshape(count, size, 1, 1)
        return self.main(torch.cat([image, planes], 1))


class StarGanDiscriminator(nn.Module):
    def __init__(self, width: int, labels: int, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level in range(depth):
            inputs = 3 if level == 0 else width * 2 ** (level - 1)
            layers += [nn.Conv2d(inputs, width * 2**level, 4, stride=2, padding=1), nn.LeakyReLU(0.01)]
        self.main = nn.Sequential(*layers)
        last = width * 2 ** (depth - 1)
        self.conv1 = nn.Conv2d(last, 1, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(last, labels, 4, bias=False)


def attributes(image: Tensor) -> tuple[Tensor, ...]:
    """Labels of CelebA for each picture: 10010, 01001, 10010, ..."""
    rows = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 1]])
    return (rows[torch.arange(len(image)) % 2],)


def emotions(image: Tensor) -> tuple[Tensor, ...]:
    return (torch.eye(8)[torch.arange(len(image)) + 2],)


COUNTED = r".*\.(running_mean|running_var|num_batches_tracked)"  # by the norms, in training

PUBLISHED_STARGAN = (
    Published(
        "stargan",
        "stargan",
        lambda: StarGan(4, 5, 2),
        1,
        {"width": 4, "blocks": 2, "labels": 5},
        (-1.0, 1.0),
        unread=COUNTED,
        telling=r"main\.(0|9\.main\.[03]|10\.main\.[03])\.weight",
        others=attributes,
    ),
    Published(
        "stargan-emotions",
        "stargan",
        lambda: StarGan(3, 8, 1),
        1,
        {"width": 3, "blocks": 1, "labels": 8},
        (-1.0, 1.0),
        unread=COUNTED,
        telling=r"main\.(0|9\.main\.[03])\.weight",
        others=emotions,
        options={"code": "one-hot"},
    ),
)
