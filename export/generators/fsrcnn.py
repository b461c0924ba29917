"""FSRCNN (Dong et al., Accelerating the Super-Resolution Convolutional Neural Network, ECCV 2016), which enlarges luma.

Layout, forward pass and range follow https://github.com/yjn870/FSRCNN-pytorch (``models.py``, ``test.py``), any width
and depth. What becomes of colours is said in :mod:`export.generators.luma`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Generator,
    LoadedGenerator,
    Option,
    State,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from export.generators.luma import LumaNet, as_convolution, is_luma_convolution, loaded_luma
from runtime.errors import CheckpointError

SCALES = (2, 3, 4)  # of the published files
_LEVELS = (0.25, 0.5, 0.75)  # luma of grey pictures
_SIDE = 24  # pixels of such a picture
_EDGE = 8  # pixels of it that may feel the border
_CLEAR = 0.05  # of luma: what the right stride may be off, and three times that what the others must be


class FsrcnnNet(LumaNet):
    """A 5x5 convolution, a narrow middle, and a transposed convolution, PReLU between them.

    ``float32 (N, 1, H, W) luma 0..1`` to ``float32 (N, 1, scale H, scale W)``, not clipped.

    Args:
        width: channels at the ends.
        narrow: channels in the middle.
        kernels: sides of the first, the inner and the last kernel, in pixels.
    """

    last = "last_part"

    def __init__(self, width: int, narrow: int, depth: int, scale: int, kernels: tuple[int, int, int]) -> None:
        super().__init__()
        first, inner, last = kernels
        self.scale, self.cut = scale, -1
        self.first_part = nn.Sequential(nn.Conv2d(1, width, first, padding=first // 2), nn.PReLU(width))
        layers: list[nn.Module] = [nn.Conv2d(width, narrow, 1), nn.PReLU(narrow)]
        for _ in range(depth):
            layers += [nn.Conv2d(narrow, narrow, inner, padding=inner // 2), nn.PReLU(narrow)]
        self.mid_part = nn.Sequential(*layers, nn.Conv2d(narrow, width, 1), nn.PReLU(width))
        self.last_part: nn.ConvTranspose2d | nn.Conv2d = nn.ConvTranspose2d(
            width, 1, last, scale, last // 2, output_padding=scale - 1
        )

    def forward(self, luma: Tensor) -> Tensor:
        result: Tensor = self.last_part(self.mid_part(self.first_part(luma)))
        if self.cut < 0:  # it is the transposed convolution
            return result
        result = functional.pixel_shuffle(result, self.scale)
        if self.cut:
            kept = slice(self.cut, self.cut - 2 * self.scale)
            result = result[..., kept, kept]
        return result

    def lean(self) -> FsrcnnNet:
        """With a convolution and a pixel shuffle at the end, which OpenVINO runs in half the time."""
        net = super().lean()
        assert isinstance(net, FsrcnnNet)
        assert isinstance(net.last_part, nn.ConvTranspose2d)
        net.last_part, net.cut = as_convolution(net.last_part)
        return net


def _detect(state: State) -> bool:
    first = state.get("first_part.0.weight")
    return (
        first is not None
        and is_luma_convolution(tuple(first.shape))
        and is_convolution(state, "mid_part.0.weight")
        and is_convolution(state, "last_part.weight", 1)
    )


def _load(state: State, scale: str = "auto") -> LoadedGenerator:
    last = last_index(state, r"mid_part\.(\d+)\.weight", "fsrcnn")
    depth = max(0, (last - 2) // 2)
    width, _, first, _ = kernel_of(state, "first_part.0.weight", "fsrcnn")
    narrow = kernel_of(state, "mid_part.0.weight", "fsrcnn")[0]
    inner = kernel_of(state, "mid_part.2.weight", "fsrcnn")[2] if depth else 3
    enlarging = kernel_of(state, "last_part.weight", "fsrcnn")[2]
    if not first % 2 == inner % 2 == enlarging % 2 == 1:
        raise CheckpointError("the checkpoint looks like fsrcnn, but the side of a kernel is even")

    def net_of(scale: int) -> FsrcnnNet:
        with torch.device("meta"):
            net = FsrcnnNet(width, narrow, depth, scale, (first, inner, enlarging))
        load_strictly(net, state, "fsrcnn")
        return net

    facts: dict[str, int | str] = {"width": width, "narrow": narrow, "depth": depth}
    if scale != "auto":
        return loaded_luma("fsrcnn", net_of(int(scale)), int(scale), facts)
    nets = [net_of(each) for each in SCALES]
    net, note = _the_one_that_keeps_grey(nets)
    return loaded_luma("fsrcnn", net, net.scale, facts, notes=(note,))


@torch.no_grad()
def _the_one_that_keeps_grey(nets: Sequence[FsrcnnNet]) -> tuple[FsrcnnNet, str]:
    """The net whose stride is right: the shape of a transposed kernel does not tell it, but its values do.

    Every place of an enlarged pixel gets another part of the kernel, and only with the stride of training these parts
    turn a grey picture into one of the same grey. (Published files are 0.01 off at most, and 0.3 at another stride.)
    """
    grey = torch.tensor(_LEVELS).reshape(-1, 1, 1, 1).expand(-1, 1, _SIDE, _SIDE)
    errors = []
    for net in nets:
        inside = slice(_EDGE * net.scale, -_EDGE * net.scale)
        errors.append(float((net(grey)[..., inside, inside] - grey[..., :1, :1]).abs().max()))
    order = sorted(range(len(nets)), key=errors.__getitem__)
    best, second = order[:2]
    found = ", ".join(f"{100 * error:.1f} % at x{net.scale}" for net, error in zip(nets, errors, strict=True))
    if errors[best] > _CLEAR or errors[second] < 3 * _CLEAR:
        raise CheckpointError(
            "the checkpoint looks like fsrcnn, whose files do not say their scale, and its weights keep a grey picture "
            f"grey at none clearly (they are off by {found}): say it with --option scale=2, 3 or 4"
        )
    return nets[best], (
        f"The file does not say its scale; x{nets[best].scale} was found from the weights, which keep a grey picture "
        f"grey only there (they are off by {found})."
    )


FSRCNN = Generator(
    id="fsrcnn",
    title="FSRCNN of yjn870/FSRCNN-pytorch, luma x2 to x4",
    keys=frozenset(
        {f"{part}.N.{kind}" for part in ("first_part", "mid_part") for kind in ("weight", "bias")}
        | {"last_part.weight", "last_part.bias"}
    ),
    detect=_detect,
    load=_load,
    example="fsrcnn_x2.pth",
    purpose="super-resolution of luma, very small",
    options=(
        Option(
            "scale", ("auto", *map(str, SCALES)), "how much larger the picture becomes (auto: found from the weights)"
        ),
    ),
)
