"""What every tiny published net of the tests is: made of random weights, under its publishers' names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.frames import Frames

torch.set_num_threads(1)  # nets this small gain nothing from a second one, and lose much where the machine is busy


def convolution(inputs: int, outputs: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)


@dataclass(frozen=True)
class Published:
    """A tiny net in a published layout, and what a reader has to find out about it.

    ``range`` are the values of black and white on both sides; ``unread`` is a pattern of names whose values the reader
    does not use; ``telling`` one of names by which family and shape are recognised, without which it says something
    else than that they are missing. ``settle`` changes random weights where the output would be black or white.
    ``others`` gives, for a picture ``float32 (N, 3, H, W)`` in the net's range, what else the net takes: states and
    conditions. ``size`` is the (height, width) of a frame that suits it. ``options`` are those of its family's loader.
    """

    id: str
    family: str
    make: Callable[[], nn.Module]
    scale: int
    facts: dict[str, int | str] = field(default_factory=dict)
    range: tuple[float, float] = (0.0, 1.0)
    unread: str = ""
    telling: str = ""
    settle: Callable[[nn.Module], None] = lambda net: None
    others: Callable[[Tensor], tuple[Tensor, ...]] = lambda image: ()
    size: tuple[int, int] = (24, 32)
    options: dict[str, str] = field(default_factory=dict)

    def net(self) -> nn.Module:
        net = randomised(self.make())
        with torch.no_grad():
            self.settle(net)
        return net

    def state(self) -> dict[str, Tensor]:
        return dict(self.net().state_dict())

    def pictures(self, count: int = 1, seed: int = 0) -> Tensor:
        """:func:`pictures` in the range of the net."""
        low, high = self.range
        return pictures(count, *self.size, seed=seed) * (high - low) + low

    def outputs(self, net: nn.Module, image: Tensor) -> tuple[Tensor, ...]:
        """What ``net`` gives for ``image`` and ``others``, the picture first."""
        with torch.no_grad():
            result = net(image, *self.others(image))
        return result if isinstance(result, tuple) else (result,)

    def as_bgr(self, image: Tensor) -> Tensor:
        """``RGB`` in the range of the net to ``BGR 0..255``."""
        low, high = self.range
        return (image.flip(1) - low) * (255 / (high - low))


def last_convolution(net: nn.Module) -> nn.Conv2d:
    """The convolution that was declared last."""
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)][-1]


@torch.no_grad()
def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights with which the output fills 0..1 without leaving it much, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            reach = module.weight[0].numel() ** -0.5 * 1.7
            uniform(module.weight, -reach, reach)
            if module.bias is not None:
                uniform(module.bias, -0.2, 0.2)
        elif isinstance(module, nn.PReLU):
            uniform(module.weight, 0.1, 0.4)
        elif isinstance(module, nn.BatchNorm2d):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
            if module.running_mean is not None and module.running_var is not None:
                uniform(module.running_mean, -0.3, 0.3)
                uniform(module.running_var, 0.4, 1.6)
        elif isinstance(module, nn.InstanceNorm2d) and module.affine:
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
    last_convolution(net).weight *= 0.3
    return net.eval()


def pictures(count: int = 1, height: int = 24, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth random pictures with fine noise, ``float32 (N, 3, H, W) RGB 0..1``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 4, 5), generator=generator)
    smooth = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (smooth + torch.randn((count, 3, height, width), generator=generator) * 0.05).clamp(0, 1)


def frames(count: int = 1, height: int = 24, width: int = 32, seed: int = 0) -> Frames:
    """The same as ``uint8 (N, H, W, 3) BGR``."""
    planes = pictures(count, height, width, seed).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(np.rint(planes * 255).astype(np.uint8)[..., ::-1])
