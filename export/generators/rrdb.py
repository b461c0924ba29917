"""RRDBNet, the generator of ESRGAN and Real-ESRGAN (Wang et al., ECCVW 2018 and ICCVW 2021).

Architecture, range and pixel unshuffling follow ``basicsr/archs/rrdbnet_arch.py`` of
https://github.com/XPixelGroup/BasicSR (Apache-2.0), whose names Real-ESRGAN and mmagic use too. Older files are read as
well: ``RRDBNet_arch.py`` of https://github.com/xinntao/ESRGAN (also BSRGAN of https://github.com/cszn/KAIR, x2 with one
step of upsampling), and the first release of ESRGAN, whose names that repository's ``transer_RRDB_models.py`` lists.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    Option,
    State,
    fold_input,
    fold_output,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from runtime.errors import CheckpointError, UsageError
from runtime.frames import SizeRule

_SLOPE = 0.2  # of every LeakyReLU
_GAIN = 0.2  # of every residual
_DENSE = 5  # convolutions of a dense block
_CELLS = (1, 2, 4)  # pixel unshuffling in front of the first convolution, by which scale 4 becomes 2 or 1
_KIND = r"\.(?:weight|bias)"


class _DenseBlock(nn.Module):
    """Five convolutions, each of which reads the input and what those before it gave."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.gain = _GAIN
        for place in range(_DENSE):
            outputs = growth if place < _DENSE - 1 else width
            self.add_module(f"conv{place + 1}", nn.Conv2d(width + place * growth, outputs, 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        *inner, last = self.children()
        known = features
        for conv in inner:
            known = torch.cat((known, functional.leaky_relu(conv(known), _SLOPE)), dim=1)
        change = cast(Tensor, last(known))
        return features + (change if self.gain == 1 else change * self.gain)

    def fold_gain(self) -> None:
        """Let the last convolution give the weighted residual, in place."""
        last = cast(nn.Conv2d, self.get_submodule(f"conv{_DENSE}"))
        last.weight.data *= self.gain
        cast(nn.Parameter, last.bias).data *= self.gain
        self.gain = 1.0


class _Block(nn.Module):
    """Three dense blocks inside a residual."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_DenseBlock(width, growth) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.rdb3(self.rdb2(self.rdb1(features)))) * _GAIN


class RrdbNet(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..1`` to ``float32 (N, 3, sH, sW) RGB``, not clipped.

    Args:
        width: channels.
        blocks: residual-in-residual dense blocks.
        growth: channels that each convolution in a dense block adds.
        factors: one step of nearest upsampling for each, by that factor.
        cell: side of the squares of pixels that become channels at the start; H and W are multiples of it. The scale
            is the product of ``factors`` divided by it.
    """

    def __init__(self, width: int, blocks: int, growth: int, factors: tuple[int, ...], cell: int = 1) -> None:
        super().__init__()
        self.factors = factors
        self.cell = cell
        self.conv_first = nn.Conv2d(3 * cell**2, width, 3, padding=1)
        self.body = nn.Sequential(*(_Block(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for number in range(1, len(factors) + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.conv_first(_unshuffled(image, self.cell) if self.cell > 1 else image)
        features = shallow + self.conv_body(self.body(shallow))
        for number, factor in enumerate(self.factors, 1):
            features = functional.interpolate(features, scale_factor=float(factor), mode="nearest")
            features = functional.leaky_relu(self.get_submodule(f"conv_up{number}")(features), _SLOPE)
        return cast(Tensor, self.conv_last(functional.leaky_relu(self.conv_hr(features), _SLOPE)))

    def folded(self) -> RrdbNet:
        """The same net for BGR 0..255 on both sides, without pixel unshuffling, and with the inner residuals weighted
        by their last convolutions."""
        net = copy.deepcopy(self)
        net.conv_first = _on_pixels(net.conv_first, net.cell)
        net.cell = 1
        fold_input(net.conv_first)
        fold_output(net.conv_last)
        for module in net.modules():
            if isinstance(module, _DenseBlock):
                module.fold_gain()
        return net


def _unshuffled(image: Tensor, cell: int) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C cell², H / cell, W / cell)``, channel ``colour cell² + row cell + column``."""
    count, channels, height, width = image.shape
    cells = image.reshape(count, channels, height // cell, cell, width // cell, cell)
    return cells.permute(0, 1, 3, 5, 2, 4).reshape(count, channels * cell**2, height // cell, width // cell)


def _on_pixels(conv: nn.Conv2d, cell: int) -> nn.Conv2d:
    """The 3x3 convolution of unshuffled pixels as one of the pixels themselves, whose stride is ``cell``.

    Exact: each tap of the kernel over cells becomes ``cell x cell`` taps, and padding by a cell of zeros stays what it
    is. The graph so needs no unshuffling, which PyTorch's exporter has written in the wrong order
    (https://github.com/pytorch/pytorch/issues/186080).
    """
    width = conv.out_channels
    taps = conv.weight.data.reshape(width, 3, cell, cell, 3, 3).permute(0, 1, 4, 2, 5, 3)
    result = nn.Conv2d(3, width, 3 * cell, stride=cell, padding=cell)
    result.weight.data = taps.reshape(width, 3, 3 * cell, 3 * cell).contiguous()
    cast(nn.Parameter, result.bias).data = cast(nn.Parameter, conv.bias).data.clone()
    return result.eval().requires_grad_(False)


# --- the layouts, as functions from a parameter of RrdbNet to its name in the file ------------------------------------


def _esrgan_name(name: str) -> str:
    """``RRDB_trunk.N.RDB1.conv1``, ``trunk_conv``, ``upconv1``, ``HRconv``."""
    part, _, rest = name.partition(".")
    if part == "body":
        return f"RRDB_trunk.{rest.replace('rdb', 'RDB')}"
    changed = {"conv_body": "trunk_conv", "conv_hr": "HRconv"}.get(part, part.replace("conv_up", "upconv"))
    return f"{changed}.{rest}"


def _first_release_name(blocks: int, steps: int) -> Callable[[str], str]:
    """``model.0``, ``model.1.sub.N.RDB1.conv1.0``, ``model.1.sub.{blocks}``, then three layers for each upsampling."""
    places = {"conv_first": "0", "conv_body": f"1.sub.{blocks}", "conv_hr": f"{3 * steps + 2}"}
    places |= {"conv_last": f"{3 * steps + 4}"} | {f"conv_up{step}": f"{3 * step}" for step in range(1, steps + 1)}

    def original(name: str) -> str:
        if inner := re.fullmatch(r"body\.(\d+)\.rdb(\d)\.conv(\d)\.(\w+)", name):
            return "model.1.sub.{}.RDB{}.conv{}.0.{}".format(*inner.groups())
        part, _, kind = name.partition(".")
        return f"model.{places[part]}.{kind}"

    return original


@dataclass(frozen=True)
class _Layout:
    """Names of the first convolution, of the first dense block's, and of those of all blocks as a pattern."""

    name: str
    first: str
    dense: str
    block: str

    def fits(self, state: State) -> bool:
        return is_convolution(state, f"{self.first}.weight") and is_convolution(state, f"{self.dense}.weight")


_BASICSR = _Layout("BasicSR", "conv_first", "body.0.rdb1.conv1", r"body\.(\d+)\.rdb1\.conv1")
_ESRGAN = _Layout("ESRGAN", "conv_first", "RRDB_trunk.0.RDB1.conv1", r"RRDB_trunk\.(\d+)\.RDB1\.conv1")
_FIRST_RELEASE = _Layout(
    "first release", "model.0", "model.1.sub.0.RDB1.conv1.0", r"model\.1\.sub\.(\d+)\.RDB1\.conv1\.0"
)
_LAYOUTS = (_BASICSR, _ESRGAN, _FIRST_RELEASE)


def _steps_of_first_release(state: State) -> int:
    """Steps of upsampling: model.4 is the last layer without any, and each adds three."""
    last = last_index(state, rf"model\.(\d+){_KIND}", "rrdb")
    if last < 4 or (last - 4) % 3:
        raise CheckpointError(
            f"the checkpoint looks like rrdb, but its last layer is model.{last} and not model.4, 7, 10 or 13, "
            "so its upsampling is not by nearest neighbours"
        )
    return (last - 4) // 3


def _load(state: State, factor: str = "2") -> LoadedGenerator:
    layout = next(layout for layout in _LAYOUTS if layout.fits(state))
    blocks = last_index(state, layout.block + _KIND, "rrdb") + 1
    original: Callable[[str], str]
    if layout is _BASICSR:
        steps, original = 2, lambda name: name
    elif layout is _ESRGAN:
        steps, original = (2 if {"upconv2.weight", "upconv2.bias"} & set(state) else 1), _esrgan_name
    else:
        steps = _steps_of_first_release(state)
        original = _first_release_name(blocks, steps)
    notes: tuple[str, ...] = ()
    factors = (2,) * steps
    if layout is _FIRST_RELEASE and steps == 1:
        factors = (int(factor),)
        notes = (f"Upsampling is by {factor}: names and shapes are the same at x2 and x3 (option factor).",)
    elif factor != "2":
        raise UsageError("the option factor of rrdb is for files of ESRGAN's first release with one step of upsampling")
    width, inputs, *_ = kernel_of(state, f"{layout.first}.weight", "rrdb")
    growth = kernel_of(state, f"{layout.dense}.weight", "rrdb")[0]
    cell = next((cell for cell in _CELLS if 3 * cell**2 == inputs), 0)
    if not cell:
        raise CheckpointError(f"the checkpoint looks like rrdb, but it takes {inputs} channels, not 3, 12 or 48")
    scale = math.prod(factors)
    if scale % cell:
        raise CheckpointError(
            f"the checkpoint looks like rrdb, but it makes frames {cell} times smaller and only {scale} times larger"
        )
    with torch.device("meta"):
        net = RrdbNet(width, blocks, growth, factors, cell)
    load_strictly(net, state, f"rrdb ({layout.name})", original)
    facts: dict[str, int | str] = {"layout": layout.name, "width": width, "blocks": blocks, "growth": growth}
    if cell > 1:
        facts["unshuffle"] = cell
    return LoadedGenerator(
        "rrdb",
        net,
        scale // cell,
        size_rule=SizeRule(multiple=cell),
        facts=facts,
        fold=net.folded,
        notes=notes,
    )


_LAYERS = (
    *("conv_first", "body.N.rdbN.convN", "conv_body", "conv_upN", "conv_hr", "conv_last"),
    *("RRDB_trunk.N.RDBN.convN", "trunk_conv", "upconvN", "HRconv"),
    *("model.N", "model.N.sub.N.RDBN.convN.N", "model.N.sub.N"),
)
RRDB = Generator(
    id="rrdb",
    title="RRDBNet of ESRGAN, Real-ESRGAN and BSRGAN",
    keys=frozenset(f"{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")),
    detect=lambda state: any(layout.fits(state) for layout in _LAYOUTS),
    load=_load,
    example="RealESRGAN_x4plus.pth",
    purpose="super-resolution of photographs, x1 to x8",
    options=(Option("factor", ("2", "3"), "upsampling of a file of ESRGAN's first release that has one step of it"),),
)
