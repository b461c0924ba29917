"""Nets that lie beside generators and are taken for them: discriminators, classifiers, face nets.

Only asked where no family fits. Layouts are those of

- https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix (``NLayerDiscriminator``, ``PixelDiscriminator``) and of
  pix2pixHD and SPADE, which train several of them,
- https://github.com/leftthomas/SRGAN and https://github.com/Lornatang/SRGAN-PyTorch (``Discriminator``),
- https://github.com/xinntao/Real-ESRGAN (``UNetDiscriminatorSN``) and https://github.com/XPixelGroup/BasicSR
  (``VGGStyleDiscriminator``),
- https://github.com/yunjey/stargan (``Discriminator``),
- torchvision's VGG, libfacedetection's YuNet and MobileFaceNet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from export.checkpoint import DISCRIMINATOR
from export.generators.base import State

_SPECTRAL = re.compile(r"\.(weight_orig|parametrizations\.weight\.original)$")  # the weight under a spectral norm
_VECTORS = re.compile(r"\.(weight_u|weight_v|parametrizations\.weight\.0\._[uv])$")
_GENERATORS_FILE = "latest_net_G.pth"


@dataclass(frozen=True)
class NotGenerator:
    """A kind of net that is none; ``matches`` looks at its kernels: names, without norms and biases, to tensors."""

    title: str
    matches: Callable[[State], bool]


def reason(state: State) -> str | None:
    """One sentence about what ``state`` is instead of a generator, or None where that is not known."""
    fronts = {name.split(".")[0] for name in state}
    if fronts and all(DISCRIMINATOR.fullmatch(front) and len(front) > 1 for front in fronts):
        return _discriminator(f"its tensors are called {min(fronts)}")
    kernels = _kernels(state)
    if not kernels:
        return None
    for kind in DISCRIMINATORS:
        if kind.matches(kernels):
            return _discriminator(kind.title)
    for kind in OTHERS:
        if kind.matches(kernels):
            return f"this is {kind.title}, which gives no picture: name the file of a generator"
    last, weight = list(kernels.items())[-1]
    if any(_SPECTRAL.search(name) for name in state) and weight.shape[0] == 1:
        return _discriminator(f"it has spectral norms, and its last layer {last} gives one number")
    if weight.ndim == 2 and any(kernel.ndim == 4 for kernel in kernels.values()):
        return (
            f"its last layer {last} is a linear one with {weight.shape[0]} outputs, so it gives numbers and no picture "
            "(a classifier, an embedder or a discriminator): name the file of a generator"
        )
    return None


def _discriminator(what: str) -> str:
    return (
        f"this is a discriminator ({what}); training needs it, a generator does not: "
        f"name the file of the generator, e.g. {_GENERATORS_FILE}"
    )


def _kernels(state: State) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers in the order of the file, also those under a spectral norm."""
    found = {}
    for name, tensor in state.items():
        if _VECTORS.search(name):
            continue
        plain = _SPECTRAL.sub(".weight", name)
        if tensor.ndim >= 2 and tensor.numel() and plain.endswith("weight"):
            found[plain] = tensor
    return found


def _sizes(kernels: State) -> set[tuple[int, ...]]:
    return {tuple(kernel.shape[2:]) for kernel in kernels.values()}


def _outputs(kernels: State, name: str = "") -> int:
    """Outputs of the layer ``name``, by default of the last one; 0 where it is missing."""
    if name and name not in kernels:
        return 0
    return int(kernels[name].shape[0] if name else list(kernels.values())[-1].shape[0])


def _all_called(kernels: State, pattern: str) -> bool:
    return all(re.fullmatch(pattern, name) for name in kernels)


def _is_patch(kernels: State, pattern: str, size: int) -> bool:
    return _all_called(kernels, pattern) and _sizes(kernels) == {(size, size)} and _outputs(kernels) == 1


def _has(kernels: State, name: str, *sizes: int) -> bool:
    """Whether the layer ``name`` is there with a kernel of ``sizes``."""
    return name in kernels and tuple(kernels[name].shape[2:]) == sizes


DISCRIMINATORS = (
    NotGenerator(
        "the PatchGAN of pix2pix and CycleGAN",
        lambda kernels: _is_patch(kernels, r"model\.\d+\.weight", 4),
    ),
    NotGenerator(
        "the 1x1 PatchGAN of pix2pix and CycleGAN",
        lambda kernels: _is_patch(kernels, r"net\.\d+\.weight", 1),
    ),
    NotGenerator(
        "the PatchGANs of pix2pixHD or SPADE",
        lambda kernels: _is_patch(
            kernels,
            r"(scale\d+_layer\d+|layer\d+|discriminator_\d+\.model\d+)\.\d+(\.\d+)?\.weight",
            4,
        ),
    ),
    NotGenerator(
        "that of leftthomas/SRGAN",
        lambda kernels: (
            _all_called(kernels, r"net\.\d+\.weight") and _has(kernels, "net.0.weight", 3, 3) and _outputs(kernels) == 1
        ),
    ),
    NotGenerator(
        "that of SRGAN or ESRGAN, of the form of a VGG net",
        lambda kernels: (
            _all_called(kernels, r"(features|classifier)\.\d+\.weight")
            and "classifier.0.weight" in kernels
            and _outputs(kernels) == 1
        ),
    ),
    NotGenerator(
        "Real-ESRGAN's UNetDiscriminatorSN",
        lambda kernels: (
            _all_called(kernels, r"conv\d\.weight")
            and _has(kernels, "conv1.weight", 4, 4)
            and _outputs(kernels, "conv9.weight") == 1
        ),
    ),
    NotGenerator(
        "BasicSR's VGGStyleDiscriminator",
        lambda kernels: "conv0_0.weight" in kernels and _outputs(kernels, "linear2.weight") == 1,
    ),
    NotGenerator(
        "StarGAN's",
        lambda kernels: (
            _has(kernels, "main.0.weight", 4, 4)
            and _outputs(kernels, "conv1.weight") == 1
            and "conv2.weight" in kernels
        ),
    ),
)

OTHERS = (
    NotGenerator(
        "a VGG net, a classifier or what computes perceptual losses",
        lambda kernels: (
            _all_called(kernels, r"(features\.|slice\d\.)?\d+\.weight|classifier\.\d+\.weight")
            and _sizes(kernels) <= {(3, 3), (1, 1), ()}
            and any(tuple(kernel.shape) == (64, 3, 3, 3) for kernel in kernels.values())
            and _outputs(kernels) >= 64
        ),
    ),
    NotGenerator(
        "a detector (it has a head of boxes)",
        lambda kernels: any(name.startswith(("bbox_head.", "rpn_head.", "rpn.", "roi_heads.")) for name in kernels),
    ),
    NotGenerator(
        "MobileFaceNet, an embedder of faces",
        lambda kernels: (
            _has(kernels, "gdconv.depthwise.weight", 7, 7) and _has(kernels, "dw_conv.depthwise.weight", 3, 3)
        ),
    ),
)
