"""Architectures that spandrel knows and genedge does not: https://github.com/chaiNNer-org/spandrel (MIT).

spandrel is an optional extra. It gets tensors that were read by :mod:`export.checkpoint`; it never opens a file itself.
It imports torchvision, of which PyPI's Linux wheels work beside PyTorch for CUDA only.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import LoadedGenerator, State
from runtime.errors import CheckpointError, UsageError
from runtime.frames import SizeRule

MORE = 40  # architectures of spandrel 0.4.2 besides Compact and SPAN, which are genedge's own too
REACH = 64  # pixels that a net may look away from where frames are cut into tiles; measuring more takes minutes
_SQUARE = 256  # pixels a side, at least, of the frame of a net that takes squares only
_CLOSE = 1 / (256 * 255)  # of white: what a shifted frame may change where the net treats all places alike
_MISFIT = "Error(s) in loading state_dict"  # how torch begins when shapes or names differ
_CPU_WHEEL = "pip install torchvision --index-url https://download.pytorch.org/whl/cpu"


class SpandrelNet(nn.Module):
    """``float32 (N, 3, H, W) RGB 0..1`` to ``float32 (N, 3, scale H, scale W) RGB``, not clipped, of an allowed size.

    ``call`` runs the model as spandrel does between padding and clipping.
    """

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, image: Tensor) -> Tensor:
        return self.call(self.model, image)


class _Mish(nn.Module):
    """Mish in operators that ONNX had before opset 18."""

    def forward(self, features: Tensor) -> Tensor:
        return features * torch.tanh(functional.softplus(features))


def _without_mish(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Mish):
                setattr(module, name, _Mish())
    return model


def load_other(state: State, unknown: str, options: Mapping[str, str] | None = None) -> LoadedGenerator:
    """The generator that spandrel makes of a state dict that fits no family.

    Args:
        state: the tensors.
        unknown: the sentence that says that no family fits.
        options: must be empty, since spandrel reads everything from the tensors.

    Raises:
        CheckpointError: spandrel is missing, cannot be imported or does not know the architecture either (``unknown``
            comes first); or it knows it, but the net is no generator of pictures from pictures.
        UsageError: there are options.
    """
    spandrel = _spandrel(unknown)
    registry = spandrel.MAIN_REGISTRY
    architecture = next((each.architecture for each in registry.architectures("detection") if _fits(each, state)), None)
    if architecture is None:
        raise CheckpointError(f"{unknown}; spandrel {spandrel.__version__} does not know it either")
    name = str(architecture.name)
    if options:
        raise UsageError(f"{name}, which spandrel reads, has no option {next(iter(options))!r} (none)")
    described = _described(spandrel, architecture, state)
    if not isinstance(described, spandrel.ImageModelDescriptor):
        raise CheckpointError(f"{name} fills in what a mask marks; genedge has no masks, only pictures from pictures")
    if described.purpose == "FaceSR":
        raise CheckpointError(f"{name} restores one aligned face, not a picture, so it cannot run on frames")
    if (described.input_channels, described.output_channels) != (3, 3):
        raise CheckpointError(
            f"this {name} takes {described.input_channels} channels and gives {described.output_channels}; "
            "only nets from RGB to RGB can run on frames"
        )
    return _loaded(spandrel, described)


def _spandrel(unknown: str) -> Any:
    """The module, or :class:`CheckpointError` that says how to get it."""
    knows = f"spandrel knows {MORE} more architectures"
    if importlib.util.find_spec("spandrel") is None:
        raise CheckpointError(f'{unknown}; {knows}: pip install "genedge[spandrel]"')
    if importlib.util.find_spec("torchvision") is None:
        raise CheckpointError(f"{unknown}; {knows}, but it needs torchvision, which is not installed: {_CPU_WHEEL}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision misses its JPEG library, which nothing here needs
        try:
            importlib.import_module("torchvision.transforms.functional")
        except Exception as error:  # ImportError, or RuntimeError where its library fits another PyTorch
            raise CheckpointError(
                f"{unknown}; {knows}, but it needs torchvision, which does not fit this PyTorch "
                f"({_first_line(error)}): beside PyTorch for the CPU, {_CPU_WHEEL} --force-reinstall --no-deps"
            ) from None
        try:
            return importlib.import_module("spandrel")
        except Exception as error:
            raise CheckpointError(f"{unknown}; {knows}, but cannot be imported ({_first_line(error)})") from None


def _fits(support: Any, state: State) -> bool:
    try:
        return bool(support.detect(dict(state)))
    except Exception:  # a detector that looks at shapes of a file that is none of its own
        return False


def _described(spandrel: Any, architecture: Any, state: State) -> Any:
    """spandrel's description of the net.

    It is built without memory first, as far as it lets itself be, so that a file whose shapes fit the net it asks for
    is all that takes memory.
    """
    registry = spandrel.ArchRegistry()
    registry.add(spandrel.ArchSupport.from_architecture(architecture))
    loader = spandrel.ModelLoader(device="cpu", registry=registry)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a copy into a tensor without memory does nothing
            try:
                with torch.device("meta"):
                    registry.load(dict(state))
            except (NotImplementedError, RuntimeError, ValueError) as error:
                if _MISFIT in str(error):
                    raise
                # else it computes with its own constants while it is built, for which they must have values
            return loader.load_from_state_dict(dict(state))
    except Exception as error:  # torch's own, KeyError, AssertionError: whatever an architecture stumbles over
        raise CheckpointError(
            f"the checkpoint looks like {architecture.name}, but spandrel cannot load it: {_first_line(error)}"
        ) from None


def _loaded(spandrel: Any, described: Any) -> LoadedGenerator:
    sizes = described.size_requirements
    rule = SizeRule(max(1, int(sizes.minimum)), int(sizes.multiple_of))
    net = SpandrelNet(_without_mish(described.model), described._call_fn).eval().requires_grad_(False)
    scale, name = int(described.scale), str(described.architecture.name)
    square = rule.padded(_SQUARE, _SQUARE) if sizes.square else None
    allowed = described.tiling == spandrel.ModelTiling.SUPPORTED
    tileable = allowed and treats_places_alike(net, rule, scale)
    notes = [f"Read by spandrel {spandrel.__version__} as {name}."]
    if not tileable:
        reason = (
            "looks far beyond a tile, or its windows lie on a grid" if allowed else "is better not cut, says spandrel"
        )
        notes.append(f"Frames are not cut into tiles: the net {reason}.")
    return LoadedGenerator(
        f"spandrel-{str(described.architecture.id).lower()}",
        net,
        scale,
        size_rule=rule,
        tileable=tileable,
        task="super-resolution" if described.purpose == "SR" else "translation",
        facts={"architecture": name, "tags": ", ".join(map(str, described.tags)) or "none"},
        fixed_size=square,
        notes=tuple(notes),
    )


@torch.no_grad()
def treats_places_alike(net: nn.Module, rule: SizeRule, scale: int) -> bool:
    """Whether tiles of a frame can give what the whole frame gives.

    A pixel that is no number makes no number of everything that depends on it, so it shows how far the net looks. And a
    frame that is shifted by the multiple of its size must give a shifted picture: attention in windows that lie on a
    grid does not.

    Args:
        net: ``float32 (1, 3, H, W)`` to ``float32 (1, 3, scale H, scale W)``.
        rule: sizes that it takes.
        scale: how much larger its result is.
    """
    step = rule.multiple
    side = rule.padded(2 * REACH + 2 * step + 2, 1)[0]
    noise = torch.rand((1, 3, side + step, side + step), generator=torch.Generator().manual_seed(0))
    here, shifted = noise[..., :side, :side].clone(), noise[..., step:, step:]
    middle = side // 2
    edge = slice(REACH * scale, (side - REACH - step) * scale)
    moved = slice((REACH + step) * scale, (side - REACH) * scale)
    try:
        whole = net(here)
        if float((whole[..., moved, moved] - net(shifted)[..., edge, edge]).abs().max()) > _CLOSE:
            return False
        here[..., middle, middle] = torch.nan
        touched = net(here).isnan().any(dim=1)[0]
    except (RuntimeError, ValueError, IndexError):  # it does not take what its rule allows, or no such numbers
        return False
    places = torch.nonzero(touched) // scale
    return bool(len(places)) and int((places - middle).abs().max()) <= REACH


def _first_line(error: Exception) -> str:
    """Kind and first lines of an error, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


__all__ = ["MORE", "SpandrelNet", "load_other", "treats_places_alike"]
