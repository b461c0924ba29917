"""StarGAN's generator (Choi et al., StarGAN: Unified Generative Adversarial Networks for Multi-Domain Image-to-Image
Translation, CVPR 2018).

Layout and forward pass follow ``Generator`` in ``model.py`` of https://github.com/yunjey/stargan (MIT).

Its instance norms keep statistics of training, but ``solver.py`` never switches to evaluation mode, neither in
``test()`` nor in ``test_multi()``: the statistics of the frame itself are used, here as there, and those in the file
are left out.

The labels are planes behind the picture's three. Inside the picture such a plane adds one number to each channel of the
first convolution, and the mean of the norm behind it takes it away; only because zeros are padded around the picture
the label differs at the border, which shifts mean and deviation of the whole channel (``model.py`` says so too). How
much it does depends on the share of the border, so a frame has the size of training, and is never cut into tiles.
"""

from __future__ import annotations

import re
from typing import cast

import torch
from torch import Tensor, nn

from export.generators.base import (
    Condition,
    Generator,
    LoadedGenerator,
    Option,
    State,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from runtime.codes import Code
from runtime.errors import CheckpointError
from runtime.frames import SizeRule

STRIDE = 4  # two convolutions of stride 2
MINIMUM = 2 * STRIDE  # pixels: a norm needs more than one

_FIRST = 9  # place of the first residual block: behind three times a convolution, its norm and ReLU
_STATISTICS = re.compile(r".*\.(running_mean|running_var|num_batches_tracked)")


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for activation in (True, False):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.InstanceNorm2d(width, affine=True)]
            layers += [nn.ReLU()] if activation else []
        self.main = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.main(features))


class StarGanNet(nn.Module):
    """``float32 (N, 3, H, W) RGB -1..1`` and ``float32 (N, labels)`` to a picture alike; H and W are multiples of 4.

    Args:
        width: channels at the picture's own size.
        labels: numbers of a code.
        blocks: residual blocks.
    """

    def __init__(self, width: int, labels: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in (
            (3 + labels, width, 7, 1),
            (width, 2 * width, 4, 2),
            (2 * width, 4 * width, 4, 2),
        ):
            conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - stride) // 2, bias=False)
            layers += [conv, nn.InstanceNorm2d(outputs, affine=True), nn.ReLU()]
        layers += [_Residual(4 * width) for _ in range(blocks)]
        for inputs in (4 * width, 2 * width):
            layers.append(nn.ConvTranspose2d(inputs, inputs // 2, 4, 2, 1, bias=False))
            layers += [nn.InstanceNorm2d(inputs // 2, affine=True), nn.ReLU()]
        self.main = nn.Sequential(*layers, nn.Conv2d(width, 3, 7, padding=3, bias=False), nn.Tanh())

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        planes = code[:, :, None, None].expand(-1, -1, *image.shape[2:])
        return cast(Tensor, self.main(torch.cat((image, planes), dim=1)))


def _detect(state: State) -> bool:
    first = state.get("main.0.weight")
    return (
        is_convolution(state, "main.0.weight")
        and first is not None
        and first.shape[1] > 3
        and is_convolution(state, f"main.{_FIRST}.main.0.weight")
        and is_convolution(state, f"main.{_FIRST}.main.3.weight")
    )


def _load(state: State, code: str = "bits", labels: str = "", size: str = "128") -> LoadedGenerator:
    width, inputs, _, _ = kernel_of(state, "main.0.weight", "stargan")
    blocks = last_index(state, r"main\.(\d+)\.main\..*", "stargan") + 1 - _FIRST
    if inputs <= 3:
        raise CheckpointError(f"the checkpoint looks like stargan, but its first convolution takes {inputs} channels")
    with torch.device("meta"):
        net = StarGanNet(width, inputs - 3, blocks)
    load_strictly(net, {name: tensor for name, tensor in state.items() if not _STATISTICS.fullmatch(name)}, "stargan")
    count = inputs - 3
    names = tuple(name.strip() for name in labels.split(",")) if labels else ()
    side = int(size)
    return LoadedGenerator(
        "stargan",
        net,
        1,
        input_range=(-1.0, 1.0),
        output_range=(-1.0, 1.0),
        size_rule=SizeRule(MINIMUM, STRIDE),
        tileable=False,  # an instance norm looks at the whole frame
        task="translation",
        facts={"width": width, "blocks": blocks, "labels": count},
        conditions=(Condition("label", Code(code, count, (1.0,) + (0.0,) * (count - 1), labels=names)),),
        fixed_size=(side, side),
        fit="resize",
        notes=tuple(_notes(code, count, names, side)),
    )


def _notes(code: str, count: int, names: tuple[str, ...], side: int) -> list[str]:
    notes = [
        f"Frames are scaled to {side}x{side} (--option size={side}); the file does not say the size of training.",
        "The instance norms use the statistics of each frame, as the publishers' test does, which never switches to "
        "evaluation mode; the statistics in the file are not used.",
    ]
    if code == "bits":
        notes.append(
            f"The label is {count} numbers, each 0 or 1 (attributes, as of CelebA); where they are classes, of which "
            "one holds (emotions, as of RaFD), use --option code=one-hot. The file does not say."
        )
    else:
        notes.append(f"The label is one of {count} classes (--option code=one-hot); the file does not say.")
    if not names:
        notes.append(
            "What the numbers mean is not in the file; name them in the order of training, such as --option "
            "labels=Black_Hair,Blond_Hair,Brown_Hair,Male,Young of the published CelebA net."
        )
    return notes


STARGAN = Generator(
    id="stargan",
    title="StarGAN of yunjey: one net for several attributes or emotions",
    keys=frozenset(
        f"{place}.{kind}"
        for place in ("main.N", "main.N.main.N")
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ),
    detect=_detect,
    load=_load,
    example="200000-G.ckpt",
    purpose="attributes of a face",
    options=(
        Option("code", ("bits", "one-hot"), "whether several labels can hold at once (CelebA) or only one (RaFD)"),
        Option("labels", (), "names of the labels in the order of training, separated by commas"),
        Option("size", ("128", "256"), "height and width of the pictures that it was trained on"),
    ),
)
