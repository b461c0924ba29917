"""Face Identity Transformer's generator as laoreja's ``models/networks.py`` lays it out, tiny and random."""

from __future__ import annotations

import torch
from published import Published
from torch import Tensor, nn


def batch_norm(width: int) -> nn.BatchNorm2d:
    """It has no statistics of its own, so it takes those of the batch, in evaluation mode too."""
    return nn.BatchNorm2d(width, affine=True, track_running_stats=False)


class FaceIdentityBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(dim, dim, 3, bias=False), batch_norm(dim), nn.ReLU(),
            nn.ReflectionPad2d(1), nn.Conv2d(dim, dim, 3, bias=False), batch_norm(dim),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class FaceIdentity(nn.Module):
    """``resnet_9blocks`` with ``use_resize_conv``: picture RGB -1..1 and a code ``(N, bits)`` to a picture."""

    def __init__(self, ngf: int, bits: int, blocks: int) -> None:
        super().__init__()
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3 + bits, ngf, 7, bias=False), batch_norm(ngf), nn.ReLU()]
        for scale in (2, 4):
            conv = nn.Conv2d(ngf * scale // 2, ngf * scale, 3, stride=2, bias=False)
            layers += [nn.ReflectionPad2d(1), conv, batch_norm(ngf * scale), nn.ReLU()]
        layers += [FaceIdentityBlock(ngf * 4) for _ in range(blocks)]
        for scale in (2, 1):
            conv = nn.Conv2d(ngf * scale * 2, ngf * scale, 3)
            layers += [nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), conv, batch_norm(ngf * scale), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh())

    def forward(self, image: Tensor, z: Tensor) -> Tensor:
        planes = z.view(len(z), -1, 1, 1).repeat(1, 1, image.size(2), image.size(3))
        return self.model(torch.cat((image, planes), 1))


def passcodes(image: Tensor) -> tuple[Tensor, ...]:
    """A code of 16 bits for each picture."""
    bits = torch.randint(0, 2, (len(image), 16), generator=torch.Generator().manual_seed(5))
    return (bits - 0.5,)


def face_identity(ngf: int = 4, blocks: int = 2) -> FaceIdentity:
    return FaceIdentity(ngf, 16, blocks)


PUBLISHED_FACE_IDENTITY = (
    Published(
        "face-identity",
        "face-identity-transformer",
        face_identity,
        1,
        {"width": 4, "blocks": 2, "bits": 16},
        (-1.0, 1.0),
        telling=r"model\.(1|2|12\.conv_block\.1|13\.conv_block\.1)\.weight",
        others=passcodes,
    ),
)
