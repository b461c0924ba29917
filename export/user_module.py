"""Generators of a user's own: ``--module my_net.py:build``.

The module is the user's code and is run, which is why nothing but that option does it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoint import Checkpoint
from export.frame_io import condition_tensor
from export.generators.base import Generator, LoadedGenerator, State
from export.generators.search import find
from export.user_code import remember, running
from runtime.errors import GenedgeError, UsageError
from runtime.frames import SizeRule

_FAMILY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STRIDES = (1, 2, 4, 8, 16, 32)  # what sizes may have to be a multiple of
#: Layers that look at the whole frame, so that a tile of it gives something else.
_GLOBAL = (
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.MultiheadAttention,
    nn.Linear,
)


def load_user_generator(
    module: str, checkpoint: Checkpoint, options: Mapping[str, str]
) -> tuple[LoadedGenerator, Checkpoint]:
    """Build the net that ``module`` (``my_net.py:build``, ``package.module:build``) makes of a checkpoint.

    It names a :class:`Generator`, or a function that takes the tensors by name and gives a :class:`LoadedGenerator` or
    a plain ``nn.Module``, which is taken to map RGB 0..1 to RGB 0..1. ``options`` become keyword arguments.

    Raises:
        UsageError: there is no such module or name in it, or it takes no such option.
        UserCodeError: its code fails; the message has file, line and the exception's text.
        GenedgeError: what it gives is no generator, or does not give pictures.
    """
    place, target = _imported(module)
    with _importable(place):
        if isinstance(target, Generator):
            loaded, checkpoint = _of_family(module, target, checkpoint, options)
        else:
            _check_arguments(module, target, options)
            with running(module):
                loaded = target(dict(checkpoint.state), **options)
            if isinstance(loaded, nn.Module) and not isinstance(loaded, LoadedGenerator):
                loaded = _plain(module, place.stem if place.suffix else place.name, loaded)
            if not isinstance(loaded, LoadedGenerator):
                raise GenedgeError(
                    f"{module} gives a {type(loaded).__name__}, not a LoadedGenerator or a torch.nn.Module"
                )
        loaded.net.eval().requires_grad_(False)
        _check(module, loaded)
    return loaded, checkpoint


def _of_family(
    module: str, family: Generator, checkpoint: Checkpoint, options: Mapping[str, str]
) -> tuple[LoadedGenerator, Checkpoint]:
    from export.generators import check_options

    with running(module):
        found = find(checkpoint.state, (family,))
    if found is None:
        raise GenedgeError(f"{module}: its detect() does not take this file for {family.id}")
    check_options(family, options)
    with running(module):
        loaded = family.load(found.state, **options)
    if not isinstance(loaded, LoadedGenerator):
        raise GenedgeError(f"{module}: its load() gives a {type(loaded).__name__}, not a LoadedGenerator")
    return loaded, replace(
        checkpoint, state=found.state, prefix=found.prefix or checkpoint.prefix, left_out=found.left_out
    )


def _imported(spec: str) -> tuple[Path, Any]:
    """The module's place and the object that it names."""
    source, colon, name = spec.rpartition(":")
    if not colon or not source or not name.isidentifier():
        raise UsageError(f"--module {spec!r} must be FILE.py:NAME or package.module:NAME, for example my_net.py:build")
    if source.endswith(".py") or "/" in source or "\\" in source:
        place = Path(source)
        if not place.is_file():
            raise UsageError(f"--module {spec}: there is no file {source}")
        module = _from_file(spec, place)
    else:
        module, place = _from_package(spec, source)
    if not hasattr(module, name):
        raise UsageError(f"--module {spec}: {source} defines no {name}")
    target = getattr(module, name)
    if not callable(target) and not isinstance(target, Generator):
        raise UsageError(f"--module {spec}: {name} is a {type(target).__name__}, neither a function nor a Generator")
    return place, target


def _from_file(spec: str, place: Path) -> ModuleType:
    name = f"genedge_user_{place.stem}"  # under its own name it could hide an installed package
    description = importlib.util.spec_from_file_location(name, place)
    assert description is not None
    assert description.loader is not None
    module = importlib.util.module_from_spec(description)
    sys.modules[name] = module  # dataclasses look their module up
    remember(name)
    with _importable(place), running(spec):
        description.loader.exec_module(module)
    return module


def _from_package(spec: str, name: str) -> tuple[ModuleType, Path]:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"--module {spec}: {name} is no module's name")
    # from the current folder too, as `python -m` has it; finding a module runs the package that it lies in
    with _importable(Path("module.py")), running(spec):
        try:
            found = importlib.util.find_spec(name) is not None
        except ModuleNotFoundError as error:
            found = not f"{name}.".startswith(f"{error.name}.")
        if not found:
            raise UsageError(f"--module {spec}: there is no module {name} here, and none is installed")
        module = importlib.import_module(name)
    remember(name)
    return module, Path(name.replace(".", "/"))


@contextlib.contextmanager
def _importable(place: Path) -> Iterator[None]:
    """While the user's code runs, it may import what lies beside it; afterwards the path is what it was."""
    folder = str(place.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _check_arguments(module: str, target: Any, options: Mapping[str, str]) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return
    for name in options:
        try:
            signature.bind_partial(**{name: ""})
        except TypeError:
            raise UsageError(f"{module} takes no option {name!r}") from None
    try:
        signature.bind({}, **options)
    except TypeError as error:
        raise UsageError(f"{module} must be a function of the tensors by name: {error}") from None


# --- what it gives ----------------------------------------------------------------------------------------------------


def _plain(module: str, name: str, net: nn.Module) -> LoadedGenerator:
    """A plain net with what can be measured: scale, and what its sizes must be a multiple of."""
    net.eval().requires_grad_(False)
    multiple, scale = _geometry(module, net)
    whole = next((layer for layer in net.modules() if isinstance(layer, _GLOBAL)), None)
    notes = [f"{module} gives a plain net: RGB 0..1 on both sides is assumed, scale {scale} measured"]
    if multiple > 1:
        notes.append(f"frame sizes are a multiple of {multiple}, measured")
    if whole is not None:
        notes.append(f"frames are never cut into tiles, since {type(whole).__name__} may look at the whole frame")
    family = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "module"
    return LoadedGenerator(
        family,
        net,
        scale,
        size_rule=SizeRule(multiple, multiple),
        tileable=whole is None,
        task="super-resolution" if scale > 1 else "translation",
        notes=tuple(notes),
    )


@torch.no_grad()
def _geometry(module: str, net: nn.Module) -> tuple[int, int]:
    """The smallest multiple whose sizes the net takes, and its scale there."""
    problem = ""
    for multiple in _STRIDES:
        # odd numbers of the multiple, of two different sides, at least 24 pixels
        height = multiple * (2 * (max(1, 24 // multiple) // 2) + 1)
        width = height + 2 * multiple
        try:
            with running(module):
                result = net(torch.full((1, 3, height, width), 0.5))
        except GenedgeError as error:
            problem = problem or f"it fails on a picture of {width}x{height} pixels: {error}"
            continue
        if not isinstance(result, Tensor) or result.ndim != 4 or result.shape[:2] != (1, 3):
            shape = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise GenedgeError(
                f"{module}: the net gives {shape} for a picture [1, 3, {height}, {width}], not one of [1, 3, H, W]; "
                "give a LoadedGenerator where it takes or gives more than a picture"
            )
        scale = result.shape[2] // height
        if scale and (result.shape[2], result.shape[3]) == (scale * height, scale * width):
            return multiple, scale
        problem = problem or (
            f"{module}: the net makes {result.shape[3]}x{result.shape[2]} pixels of {width}x{height}, no whole multiple"
        )
    raise GenedgeError(f"{problem}; give a LoadedGenerator with size_rule or fixed_size where it needs certain sizes")


@torch.no_grad()
def _check(module: str, loaded: LoadedGenerator) -> None:
    """Run the net once and compare what it gives with what was declared."""
    if not _FAMILY.fullmatch(loaded.family):
        raise GenedgeError(
            f"{module}: {loaded.family!r} is no family's name: use letters, digits, dot, dash and underscore"
        )
    if loaded.freeze is not None:
        return  # what it gives without its statistics says nothing
    with running(f"{module}: what its LoadedGenerator says is not right"):
        height, width = loaded.fixed_size or loaded.size_rule.padded(24, 32)
    low, high = loaded.input_range
    frame = torch.full((1, 3, height, width), (low + high) / 2)
    fed = [
        frame if state.output is None else torch.zeros(1, state.channels, height * state.scale, width * state.scale)
        for state in loaded.states
    ]
    codes = [condition_tensor(condition, None, 1, height, width) for condition in loaded.conditions]
    with running(f"{module}: the net fails on a picture of {width}x{height} pixels"):
        result = loaded.net(frame, *fed, *codes)
    given = result if isinstance(result, tuple) else (result,)
    scale = loaded.scale
    wanted = [("the picture", (1, 3, height * scale, width * scale))]
    wanted += [(image.name, (1, image.channels, height * scale, width * scale)) for image in loaded.images]
    wanted += [
        (state.output, (1, state.channels, height * state.scale, width * state.scale))
        for state in loaded.states
        if state.output is not None
    ]
    if len(given) != len(wanted):
        raise GenedgeError(
            f"{module}: the net gives {len(given)} results, not {len(wanted)} ({', '.join(name for name, _ in wanted)})"
        )
    for (name, shape), tensor in zip(wanted, given, strict=True):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise GenedgeError(
                f"{module}: {name} is {found}, not {list(shape)}, for a frame of {width}x{height} pixels"
            )
    if not bool(torch.isfinite(given[0]).all()):
        raise GenedgeError(f"{module}: the net gives values that are no finite numbers for a grey picture")


__all__ = ["State", "load_user_generator"]
