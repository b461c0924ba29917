"""SRGAN's generator (Ledig et al., Photo-Realistic Single Image Super-Resolution Using a GAN, CVPR 2017).

Two public layouts of the same net are read: https://github.com/leftthomas/SRGAN (MIT), whose output is
``(tanh + 1) / 2``, and https://github.com/Lornatang/SRGAN-PyTorch (Apache-2.0), whose output is clipped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
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
    indices,
    is_convolution,
    last_index,
    load_strictly,
    outputs_of,
)
from runtime.errors import CheckpointError

#: leftthomas: block1 is the head, then residual blocks of these layers, then the block behind them, then the tail
_RESIDUAL = ("conv1", "bn1", "prelu", "conv2", "bn2")

_AFFINE = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _names(parts: tuple[str, ...], kinds: tuple[str, ...]) -> frozenset[str]:
    return frozenset(f"{part}.{kind}" for part in parts for kind in kinds)


_LEFTTHOMAS_KEYS = (
    _names(("blockN.N", "blockN.convN", "blockN.bnN", "blockN.N.conv"), _AFFINE)
    | _names(("blockN.bnN",), _STATISTICS)
    | _names(("blockN.prelu", "blockN.N.prelu"), ("weight",))
)
_LORNATANG_KEYS = _names(("convN.N", "trunk.N.rcb.N", "upsampling.N.upsample_block.N", "convN"), _AFFINE) | _names(
    ("convN.N", "trunk.N.rcb.N"), _STATISTICS
)


class _Residual(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            nn.BatchNorm2d(width),
            nn.PReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.layers(features))


class SrganNet(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..1`` to ``float32 (N, 3, sH, sW) RGB`` in 0..1 (with ``tanh``) or about 0..1.

    Args:
        width: channels.
        depth: residual blocks.
        factors: one pixel shuffle for each, of that factor; the scale is their product.
        middle_norm: batch norm behind the convolution after the residual blocks, else PReLU.
        bias: of the convolutions in front of a batch norm.
        tanh: end in ``(tanh + 1) / 2``.
    """

    def __init__(
        self, width: int, depth: int, factors: tuple[int, ...], *, middle_norm: bool, bias: bool, tanh: bool
    ) -> None:
        super().__init__()
        self.tanh = tanh
        self.gain = 1.0
        self.head = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.PReLU())
        self.trunk = nn.Sequential(*(_Residual(width, bias=bias) for _ in range(depth)))
        self.middle = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=bias or not middle_norm),
            nn.BatchNorm2d(width) if middle_norm else nn.PReLU(),
        )
        steps: list[nn.Module] = []
        for factor in factors:
            steps += [nn.Conv2d(width, width * factor**2, 3, padding=1), nn.PixelShuffle(factor), nn.PReLU()]
        self.upsampling = nn.Sequential(*steps)
        self.tail = nn.Conv2d(width, 3, 9, padding=4)

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.head(image)
        deep = self.middle(self.trunk(shallow))
        result: Tensor = self.tail(self.upsampling(shallow + deep))
        return (torch.tanh(result) + 1) * (0.5 * self.gain) if self.tanh else result

    def folded(self) -> SrganNet:
        """The same net for BGR 0..255 on both sides, its batch norms folded into the convolutions before them."""
        net = copy.deepcopy(self).eval()
        for layers in (*(cast(_Residual, block).layers for block in net.trunk), net.middle):
            fold_batch_norms(layers)
        fold_input(cast(nn.Conv2d, net.head[0]))
        fold_output(net.tail, factor=1.0 if net.tanh else 255.0)
        net.gain = 255.0
        return net


def _is_leftthomas(state: State) -> bool:
    return is_convolution(state, "block1.0.weight", 3) and is_convolution(state, "block2.conv1.weight")


def _is_lornatang(state: State) -> bool:
    return is_convolution(state, "conv1.0.weight", 3) and is_convolution(state, "trunk.0.rcb.0.weight")


def _leftthomas_names(middle: int, steps: int) -> Callable[[str], str]:
    """From a parameter of :class:`SrganNet` to its name in the file.

    ``block{middle}`` is the one behind the residual blocks; the tail after it has ``steps`` upsampling layers.
    """

    def original(name: str) -> str:
        part, _, rest = name.partition(".")
        if part == "trunk":
            block, _, place, kind = rest.split(".")
            return f"block{int(block) + 2}.{_RESIDUAL[int(place)]}.{kind}"
        if part == "upsampling":
            place, kind = rest.split(".")
            return f"block{middle + 1}.{int(place) // 3}.{'prelu' if int(place) % 3 else 'conv'}.{kind}"
        return {"head": "block1", "middle": f"block{middle}", "tail": f"block{middle + 1}.{steps}"}[part] + f".{rest}"

    return original


def _lornatang_name(name: str) -> str:
    """The same for the other layout."""
    part, _, rest = name.partition(".")
    if part == "trunk":
        block, _, rest = rest.split(".", 2)
        return f"trunk.{block}.rcb.{rest}"
    if part == "upsampling":
        place, kind = rest.split(".")
        return f"upsampling.{int(place) // 3}.upsample_block.{int(place) % 3}.{kind}"
    return {"head": "conv1", "middle": "conv2", "tail": "conv3"}[part] + f".{rest}"


def _load(state: State) -> LoadedGenerator:
    leftthomas = _is_leftthomas(state)
    if leftthomas:
        layout = "leftthomas"
        depth = last_index(state, r"block(\d+)\.conv1\.weight", "srgan") - 1
        steps = indices(state, rf"block{depth + 3}\.(\d+)\.conv\.weight")
        original = _leftthomas_names(depth + 2, len(steps))
    else:
        layout = "Lornatang"
        depth = last_index(state, r"trunk\.(\d+)\.rcb\.0\.weight", "srgan") + 1
        steps = indices(state, r"upsampling\.(\d+)\.upsample_block\.0\.weight")
        original = _lornatang_name
    width = outputs_of(state, original("head.0.weight"))
    channels = [outputs_of(state, original(f"upsampling.{3 * step}.weight")) for step in steps]
    factors = tuple(round((count / width) ** 0.5) for count in channels)
    if not factors or any(factor < 2 for factor in factors):
        raise CheckpointError("the checkpoint looks like srgan, but no upsampling layer was found in it")
    biases = [original(f"trunk.{block}.layers.{place}.bias") for block in range(depth) for place in (0, 3)]
    with torch.device("meta"):
        net = SrganNet(
            width,
            depth,
            factors,
            middle_norm=any(original(f"middle.1.{kind}") in state for kind in ("bias", "running_mean", "running_var")),
            bias=any(name in state for name in biases),
            tanh=leftthomas,
        )
    load_strictly(net, state, f"srgan ({layout})", original)
    facts: dict[str, int | str] = {"layout": layout, "width": width, "depth": depth}
    return LoadedGenerator("srgan", net, math.prod(factors), facts=facts, fold=net.folded)


SRGAN = Generator(
    id="srgan",
    title="SRGAN / SRResNet (leftthomas and Lornatang layouts)",
    keys=_LEFTTHOMAS_KEYS | _LORNATANG_KEYS,
    detect=lambda state: _is_leftthomas(state) or _is_lornatang(state),
    load=_load,
    example="netG_epoch_4_100.pth",
    purpose="super-resolution of photos, with generated texture",
)
