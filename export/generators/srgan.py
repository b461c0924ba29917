"""SRGAN's generator (Ledig et al., Photo-Realistic Single Image Super-Resolution Using a GAN, CVPR 2017).

Two public layouts of the same net are read: https://github.com/leftthomas/SRGAN (MIT), whose output is
``(tanh + 1) / 2``, and https://github.com/Lornatang/SRGAN-PyTorch (Apache-2.0), whose output is clipped.
"""

from __future__ import annotations

import copy
import re
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export.generators.base import (
    Generator,
    LoadedGenerator,
    State,
    fold_input,
    fold_output,
    indices,
    is_convolution,
    load_strictly,
)
from runtime.errors import CheckpointError

#: leftthomas: block1 is the head, then residual blocks, then the block behind them, then the tail
_LEFTTHOMAS_RESIDUAL = re.compile(r"block(\d+)\.(conv1|bn1|prelu|conv2|bn2)\.(.+)")
_PLACE = {"conv1": 0, "bn1": 1, "prelu": 2, "conv2": 3, "bn2": 4}

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
            for place, layer in enumerate(layers):
                if isinstance(layer, nn.BatchNorm2d):
                    layers[place - 1] = fuse_conv_bn_eval(cast(nn.Conv2d, layers[place - 1]), layer)
                    layers[place] = nn.Identity()
        fold_input(cast(nn.Conv2d, net.head[0]))
        fold_output(net.tail, factor=1.0 if net.tanh else 255.0)
        net.gain = 255.0
        return net


def _is_leftthomas(state: State) -> bool:
    return is_convolution(state, "block1.0.weight", 3) and is_convolution(state, "block2.conv1.weight")


def _is_lornatang(state: State) -> bool:
    return is_convolution(state, "conv1.0.weight", 3) and is_convolution(state, "trunk.0.rcb.0.weight")


def _from_leftthomas(state: State) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict under this file's names, and the original names of the upsampling convolutions."""
    blocks = indices(state, r"block(\d+)\.conv1\.weight")
    middle, tail = blocks[-1] + 1, blocks[-1] + 2
    steps = indices(state, rf"block{tail}\.(\d+)\.conv\.weight")
    names = {f"block1.{rest}": f"head.{rest}" for rest in ("0.weight", "0.bias", "1.weight")}
    names |= {f"block{tail}.{len(steps)}.{kind}": f"tail.{kind}" for kind in ("weight", "bias")}
    result = {}
    for key, tensor in state.items():
        if match := _LEFTTHOMAS_RESIDUAL.fullmatch(key):
            name = f"trunk.{int(match[1]) - 2}.layers.{_PLACE[match[2]]}.{match[3]}"
        elif match := re.fullmatch(rf"block{tail}\.(\d+)\.(conv|prelu)\.(.+)", key):
            name = f"upsampling.{3 * int(match[1]) + (0 if match[2] == 'conv' else 2)}.{match[3]}"
        elif match := re.fullmatch(rf"block{middle}\.(.+)", key):
            name = f"middle.{match[1]}"
        else:
            name = names.get(key, key)
        result[name] = tensor
    return result, tuple(f"block{tail}.{step}.conv.weight" for step in steps)


def _from_lornatang(state: State) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The same for the other layout."""
    rules = (
        (r"conv1\.(.+)", r"head.\1"),
        (r"trunk\.(\d+)\.rcb\.(.+)", r"trunk.\1.layers.\2"),
        (r"conv2\.(.+)", r"middle.\1"),
        (r"conv3\.(.+)", r"tail.\1"),
    )
    result = {}
    for key, tensor in state.items():
        name = key
        for pattern, replacement in rules:
            name, hits = re.subn(rf"^{pattern}$", replacement, key)
            if hits:
                break
        else:
            if match := re.fullmatch(r"upsampling\.(\d+)\.upsample_block\.(\d+)\.(.+)", key):
                name = f"upsampling.{3 * int(match[1]) + int(match[2])}.{match[3]}"
        result[name] = tensor
    steps = indices(state, r"upsampling\.(\d+)\.upsample_block\.0\.weight")
    return result, tuple(f"upsampling.{step}.upsample_block.0.weight" for step in steps)


def _load(state: State) -> LoadedGenerator:
    leftthomas = _is_leftthomas(state)
    layout = "leftthomas" if leftthomas else "Lornatang"
    renamed, steps = (_from_leftthomas if leftthomas else _from_lornatang)(state)
    width = int(renamed["head.0.weight"].shape[0])
    factors = tuple(round((int(state[step].shape[0]) / width) ** 0.5) for step in steps)
    if not factors or any(factor < 2 for factor in factors):
        raise CheckpointError("the checkpoint looks like srgan, but no upsampling layer was found in it")
    net = SrganNet(
        width,
        max(indices(renamed, r"trunk\.(\d+)\.layers\.0\.weight"), default=-1) + 1,
        factors,
        middle_norm="middle.1.running_mean" in renamed,
        bias="trunk.0.layers.0.bias" in renamed,
        tanh=leftthomas,
    )
    load_strictly(net, renamed, f"srgan ({layout})")
    scale = 1
    for factor in factors:
        scale *= factor
    facts: dict[str, int | str] = {"layout": layout, "width": width, "depth": len(net.trunk)}
    return LoadedGenerator("srgan", net, scale, facts=facts, fold=net.folded)


SRGAN = Generator(
    id="srgan",
    title="SRGAN / SRResNet (leftthomas and Lornatang layouts)",
    keys=_LEFTTHOMAS_KEYS | _LORNATANG_KEYS,
    detect=lambda state: _is_leftthomas(state) or _is_lornatang(state),
    load=_load,
)
