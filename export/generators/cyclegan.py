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
from export.generators.translation import NO_DROPOUT, STATISTICS, Colouriser, Norms, colourises, read_norms
from runtime.errors import CheckpointError
from runtime.frames import SizeRule

STRIDE = 4  # two convolutions of stride 2; another size would come out larger than it went in
MINIMUM = 2 * STRIDE  # pixels: reflection needs 2 after the strides, and 4 at the ends

_FIRST = 10  # place of the first residual block: behind three times a convolution, its norm and ReLU, and one padding
_BLOCK = r"model\.\d+\.conv_block\.1\.(?:conv\.0\.)?weight"
_STALE = re.compile(r".*\.conv\.1\.(running_mean|running_var|num_batches_tracked)")


@dataclass(frozen=True)
class CycleGanShape:
    """What the tensors say about a net.

    Args:
        down: channels of the first three convolutions, of which the second and third have stride 2.
        hidden: channels in the middle of each residual block.
        up: channels of the two transposed convolutions.
        norms: those behind all convolutions but the last, apart from those inside separable ones.
        ends: channels of the frame and of the picture.
        separable: the residual blocks have depthwise separable convolutions.
        dropout: a dropout was trained between the convolutions of a block; it does nothing any more, but takes a place.
    """

    down: tuple[int, int, int]
    hidden: tuple[int, ...]
    up: tuple[int, int]
    norms: Norms
    ends: tuple[int, int] = (3, 3)
    separable: bool = False
    dropout: bool = False


class _Separable(nn.Module):
    """GAN Compression's, whose own norm is an instance norm without weights whatever the others are."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(inputs, inputs, 3, groups=inputs)
        self.conv = nn.Sequential(depthwise, nn.InstanceNorm2d(inputs), nn.Conv2d(inputs, outputs, 1))

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.conv(features))


class _Residual(nn.Module):
    def __init__(self, width: int, hidden: int, shape: CycleGanShape) -> None:
        super().__init__()
        norm = shape.norms.layer

        def conv(inputs: int, outputs: int) -> nn.Module:
            if shape.separable:
                return _Separable(inputs, outputs)
            return nn.Conv2d(inputs, outputs, 3, bias=shape.norms.biased)

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
    """``float32 (N, ends[0], H, W) -1..1`` to ``(N, ends[1], H, W)``; H and W are multiples of 4."""

    def __init__(self, shape: CycleGanShape) -> None:
        super().__init__()
        self.bytes = False  # the output as 0..255
        norm, bias = shape.norms.layer, shape.norms.biased
        given, taken = shape.ends
        narrow, middle, wide = shape.down
        first, second = shape.up
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(given, narrow, 7, bias=bias),
            norm(narrow),
            nn.ReLU(),
        ]
        for inputs, outputs in ((narrow, middle), (middle, wide)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=bias), norm(outputs), nn.ReLU()]
        layers += [_Residual(wide, hidden, shape) for hidden in shape.hidden]
        for inputs, outputs in ((wide, first), (first, second)):
            layers += [nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1, bias=bias), norm(outputs), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(second, taken, 7), nn.Tanh())

    def forward(self, image: Tensor) -> Tensor:
        result = cast(Tensor, self.model(image))
        return (result + 1) * 127.5 if self.bytes else result

    def with_folded_norms(self) -> CycleGanNet:
        """The same net, batch norms folded into the convolutions before them."""
        net = copy.deepcopy(self)
        for module in list(net.modules()):
            if isinstance(module, nn.Sequential):
                fold_batch_norms(module)
        return net

    def folded(self) -> CycleGanNet:
        """The same net for BGR 0..255 on both sides.

        The first convolution's padding mirrors the frame, so that a shift of the frame is a shift of its bias.
        """
        net = self.with_folded_norms()
        fold_input(cast(nn.Conv2d, net.model[1]), low=-1.0, high=1.0)
        fold_output(cast(nn.Conv2d, net.model[-2]), factor=1.0)
        net.bytes = True
        return net


def _has(state: State, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in state)


def _detect(state: State) -> bool:
    """By the first convolution and a block; where the frame is not RGB, by the convolutions in between as well."""
    return (
        is_convolution(state, "model.1.weight")
        and any(weight.ndim == 4 and re.fullmatch(_BLOCK, name) for name, weight in state.items())
        and (
            state["model.1.weight"].shape[1] == 3
            or all(is_convolution(state, f"model.{place}.weight") for place in (4, 7))
        )
    )


def _shape(state: State, statistics: str) -> CycleGanShape:
    def channels(place: int | str, axis: int = 0) -> int:
        return kernel_of(state, f"model.{place}.weight", "cyclegan")[axis]

    behind = last_index(state, r"model\.(\d+)\.conv_block\..*", "cyclegan") + 1
    if behind <= _FIRST:
        raise CheckpointError(f"the checkpoint looks like cyclegan, but it has no residual block at model.{_FIRST}")
    separable = _has(state, r"model\.\d+\.conv_block\.\d+\.conv\..*")
    blocks = range(_FIRST, behind)
    inner = "conv_block.1.conv.2" if separable else "conv_block.1"
    dropout = not _has(state, r"model\.\d+\.conv_block\.5\..*")
    plain = [f"model.{place}" for place in (1, 4, 7, behind, behind + 3)]  # the separable ones have a bias anyhow
    in_blocks = [f"model.{place}.conv_block" for place in blocks]
    return CycleGanShape(
        down=(channels(1), channels(4), channels(7)),
        hidden=tuple(channels(f"{place}.{inner}") for place in blocks),
        up=(channels(behind, 1), channels(behind + 3, 1)),  # a transposed kernel has its inputs first
        norms=read_norms(
            state,
            [f"model.{place}" for place in (2, 5, 8, behind + 1, behind + 4)]
            + [f"{block}.{place}" for block in in_blocks for place in (2, 7 if dropout else 6)],
            plain if separable else plain + [f"{block}.{6 if dropout else 5}" for block in in_blocks],
            statistics,
            "cyclegan",
        ),
        ends=(channels(1, 1), channels(behind + 7)),
        separable=separable,
        dropout=dropout,
    )


def _notes(shape: CycleGanShape) -> tuple[str, ...]:
    if not shape.separable:
        return (NO_DROPOUT,) if shape.dropout else ()
    if shape.norms.tracked and not shape.norms.stored:
        return ("GAN Compression tests its own nets with statistics=stored.",)
    return ()


def _load(state: State, statistics: str = "batch") -> LoadedGenerator:
    shape = _shape(state, statistics)
    in_colour = colourises(*shape.ends, "cyclegan")
    used = {name: tensor for name, tensor in shape.norms.used(state).items() if not _STALE.fullmatch(name)}
    with torch.device("meta"):
        net = CycleGanNet(shape)
    load_strictly(net, used, "cyclegan")

    def fold() -> nn.Module:
        return Colouriser(net.with_folded_norms(), in_bytes=True) if in_colour else net.folded()

    low = 0.0 if in_colour else -1.0
    return LoadedGenerator(
        "cyclegan",
        Colouriser(net).eval() if in_colour else net,
        1,
        input_range=(low, 1.0),
        output_range=(low, 1.0),
        size_rule=SizeRule(MINIMUM, STRIDE),
        tileable=shape.norms.local and not shape.separable,  # an instance norm looks at the whole frame
        task="translation",
        facts={
            "width": shape.down[0],
            "blocks": len(shape.hidden),
            "convolutions": "separable" if shape.separable else "plain",
            **shape.norms.facts,
            **({"channels": "L to ab"} if in_colour else {}),
        },
        fold=fold,
        notes=(*shape.norms.notes, *_notes(shape)),
    )


_PLACES = ("model.N", "model.N.conv_block.N")
CYCLEGAN = Generator(
    id="cyclegan",
    title="CycleGAN / pix2pix ResNet generators of junyanz, also compressed by GAN Compression",
    keys=frozenset(f"{place}.{kind}" for place in _PLACES for kind in ("weight", "bias")),
    detect=_detect,
    load=_load,
    example="horse2zebra.pth",
    purpose="translation between two kinds of picture, trained without pairs",
    options=(STATISTICS,),
)
