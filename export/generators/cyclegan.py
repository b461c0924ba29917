"""CycleGAN's generator (Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks,
ICCV 2017), and its compressed form (Li et al., GAN Compression, CVPR 2020).

Layouts and forward pass follow ``ResnetGenerator`` in ``models/networks.py`` of
https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix (BSD), and ``SubMobileResnetGenerator`` of
https://github.com/mit-han-lab/gan-compression (BSD), whose residual blocks are depthwise separable and whose widths
were searched layer by layer.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from export.generators.base import (
    Generator,
    LoadedGenerator,
    State,
    fold_batch_norms,
    fold_input,
    fold_output,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from runtime.errors import CheckpointError
from runtime.frames import SizeRule

STRIDE = 4  # two convolutions of stride 2; another size would come out larger than it went in
MINIMUM = 2 * STRIDE  # pixels: reflection needs 2 after the strides, and 4 at the ends

_FIRST = 10  # place of the first residual block: behind three times a convolution, its norm and ReLU, and one padding
_BLOCK = r"model\.\d+\.conv_block\.1\.(?:conv\.0\.)?weight"
_STATISTICS = re.compile(r".*\.(running_mean|running_var|num_batches_tracked)")

_MakeLayer = Callable[[int], nn.Module]


@dataclass(frozen=True)
class CycleGanShape:
    """What the tensors say about a net.

    Args:
        down: channels of the first three convolutions, of which the second and third have stride 2.
        hidden: channels in the middle of each residual block.
        up: channels of the two transposed convolutions.
        separable: the residual blocks have depthwise separable convolutions.
        dropout: a dropout was trained between the convolutions of a block; it does nothing any more, but takes a place.
        batch_norm: batch norms, with the statistics of training, and no bias in front of them; else instance norms.
    """

    down: tuple[int, int, int]
    hidden: tuple[int, ...]
    up: tuple[int, int]
    separable: bool = False
    dropout: bool = False
    batch_norm: bool = False


class _Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(inputs, inputs, 3, groups=inputs)
        self.conv = nn.Sequential(depthwise, nn.InstanceNorm2d(inputs), nn.Conv2d(inputs, outputs, 1))

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.conv(features))


class _Residual(nn.Module):
    def __init__(self, width: int, hidden: int, shape: CycleGanShape, norm: _MakeLayer) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int) -> nn.Module:
            if shape.separable:
                return _Separable(inputs, outputs)
            return nn.Conv2d(inputs, outputs, 3, bias=not shape.batch_norm)

        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            conv(width, hidden),
            norm(hidden),
            nn.ReLU(),
            *([nn.Identity()] if shape.dropout else []),
            nn.ReflectionPad2d(1),
            conv(hidden, width),
            norm(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.conv_block(features))


class CycleGanNet(nn.Module):
    """``float32 (N, 3, H, W) RGB -1..1`` to the same; H and W are multiples of 4."""

    def __init__(self, shape: CycleGanShape) -> None:
        super().__init__()
        self.bytes = False  # the output as 0..255
        norm: _MakeLayer = nn.BatchNorm2d if shape.batch_norm else nn.InstanceNorm2d
        bias = not shape.batch_norm
        narrow, middle, wide = shape.down
        first, second = shape.up
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, narrow, 7, bias=bias), norm(narrow), nn.ReLU()]
        for inputs, outputs in ((narrow, middle), (middle, wide)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=bias), norm(outputs), nn.ReLU()]
        layers += [_Residual(wide, hidden, shape, norm) for hidden in shape.hidden]
        for inputs, outputs in ((wide, first), (first, second)):
            layers += [nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1, bias=bias), norm(outputs), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(second, 3, 7), nn.Tanh())

    def forward(self, image: Tensor) -> Tensor:
        result = cast(Tensor, self.model(image))
        return (result + 1) * 127.5 if self.bytes else result

    def folded(self) -> CycleGanNet:
        """The same net for BGR 0..255 on both sides, batch norms folded into the convolutions before them.

        The first convolution's padding mirrors the frame, so that a shift of the frame is a shift of its bias.
        """
        net = copy.deepcopy(self)
        for module in list(net.modules()):
            if isinstance(module, nn.Sequential):
                fold_batch_norms(module)
        fold_input(cast(nn.Conv2d, net.model[1]), low=-1.0, high=1.0)
        fold_output(cast(nn.Conv2d, net.model[-2]), factor=1.0)
        net.bytes = True
        return net


def _has(state: State, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in state)


def _detect(state: State) -> bool:
    return is_convolution(state, "model.1.weight", 3) and any(
        weight.ndim == 4 and re.fullmatch(_BLOCK, name) for name, weight in state.items()
    )


def _shape(state: State) -> CycleGanShape:
    def channels(place: int | str, axis: int = 0) -> int:
        return kernel_of(state, f"model.{place}.weight", "cyclegan")[axis]

    behind = last_index(state, r"model\.(\d+)\.conv_block\..*", "cyclegan") + 1
    if behind <= _FIRST:
        raise CheckpointError(f"the checkpoint looks like cyclegan, but it has no residual block at model.{_FIRST}")
    separable = _has(state, r"model\.\d+\.conv_block\.\d+\.conv\..*")
    batch_norm = _has_batch_norm(state, separable=separable)
    inner = "conv_block.1.conv.2" if separable else "conv_block.1"
    return CycleGanShape(
        down=(channels(1), channels(4), channels(7)),
        hidden=tuple(channels(f"{place}.{inner}") for place in range(_FIRST, behind)),
        up=(channels(behind, 1), channels(behind + 3, 1)),  # a transposed kernel has its inputs first
        separable=separable,
        dropout=not _has(state, r"model\.\d+\.conv_block\.5\..*"),
        batch_norm=batch_norm,
    )


def _has_batch_norm(state: State, *, separable: bool) -> bool:
    """Whether the norms are batch norms, which have weights; instance norms have none here.

    The same names could also be instance norms with weights, or batch norms that take the statistics of each batch.
    The publishers give a convolution a bias only in front of an instance norm, which tells them apart; what stays
    ambiguous is refused.
    """
    norms = [f"model.{place}" for place in (2, 5, 8)]
    if not any(f"{norm}.weight" in state for norm in norms):
        return False
    counted = any(f"{norm}.{kind}" in state for norm in norms for kind in ("running_mean", "running_var"))
    if separable or not counted or any(f"model.{place}.bias" in state for place in (1, 4, 7)):
        raise CheckpointError(
            "the checkpoint looks like cyclegan, but its norms have weights and are not surely batch norms with the "
            "statistics of training; only those, and instance norms without weights, can be loaded"
        )
    return True


def _load(state: State) -> LoadedGenerator:
    shape = _shape(state)
    if not shape.batch_norm:  # statistics that PyTorch before 0.4 kept for an instance norm and the publishers drop
        state = {name: tensor for name, tensor in state.items() if not _STATISTICS.fullmatch(name)}
    with torch.device("meta"):
        net = CycleGanNet(shape)
    load_strictly(net, state, "cyclegan")
    return LoadedGenerator(
        "cyclegan",
        net,
        1,
        input_range=(-1.0, 1.0),
        output_range=(-1.0, 1.0),
        size_rule=SizeRule(MINIMUM, STRIDE),
        tileable=shape.batch_norm,  # an instance norm looks at the whole frame
        task="translation",
        facts={
            "width": shape.down[0],
            "blocks": len(shape.hidden),
            "convolutions": "separable" if shape.separable else "plain",
            "norm": "batch" if shape.batch_norm else "instance",
        },
        fold=net.folded,
    )


_PLACES = ("model.N", "model.N.conv_block.N", "model.N.conv_block.N.conv.N")
CYCLEGAN = Generator(
    id="cyclegan",
    title="CycleGAN / pix2pix ResNet generators of junyanz, also compressed by GAN Compression",
    keys=frozenset(f"{place}.{kind}" for place in _PLACES for kind in ("weight", "bias")),
    detect=_detect,
    load=_load,
    example="horse2zebra.pth",
    purpose="translation from one kind of picture to another",
)
