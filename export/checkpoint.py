"""Read checkpoints without ever running what is in them.

A ``.pth`` file is a pickle, and a pickle can run any program when it is loaded. Torch's restricted
unpickler (``weights_only=True``) builds tensors and plain containers only, and everything else is
refused here with a sentence that says so.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.errors import CheckpointError, UsageError
from runtime.report import shortened

#: Names under which training code keeps the averaged weights of a generator,
AVERAGED = ("params_ema", "generator_ema", "netG_ema", "net_g_ema", "G_ema", "g_ema", "gen_ema", "ema", "ema_model")
#: a generator beside other nets,
GENERATOR = ("generator", "netG", "net_g", "net_G", "G", "gen", "state_dict_G", "model_G")
#: and the one net that there is. Both mappings inside a file and the fronts of tensors' names are called so.
PLAIN = ("params", "state_dict", "model_state_dict", "model", "net", "network", "weights")
WRAPPERS = (*AVERAGED, *GENERATOR, *PLAIN)  # in the order in which they are opened
#: One of two generators, as CycleGAN has them: ``netG_A``, ``G_AB``, ``genA2B``, ``generators.a``.
DIRECTED = re.compile(
    r"(?:net|model|state_dict)?_?(?:G|[Gg]en(?:erator)?s?)[._]?(?:A2B|B2A|AB|BA|A|B|a2b|b2a|ab|ba|a|b)"
)
#: A discriminator, which only training needs: ``netD``, ``net_d``, ``D_A``, ``discriminator``.
DISCRIMINATOR = re.compile(r"(?:net|model|state_dict)?_?(?:[Dd]|[Dd]is(?:c(?:riminator)?)?s?)(?:[._]?[ABab])?")
#: What ``DataParallel`` and ``torch.compile`` put in front of every name.
PREFIXES = ("module.", "_orig_mod.")

_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*(<!doctype\s+html|<html|<head|<\?xml)", re.IGNORECASE)
_LFS = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80\x02"  # what torch.save wrote before it wrote zip files
_GLOBAL = re.compile(r"(?:GLOBAL|Unsupported class|Unsupported global: GLOBAL)\s+([\w.]+)")
_MAX_DEPTH = 4  # wrappers inside wrappers
_MAX_RANK = 8  # dimensions of a tensor; kernels have up to 5
_MAX_NAME = 200  # characters; real names have about 60


def _scalar(kind: np.dtype[Any], data: bytes) -> Any:
    """A NumPy number out of a pickle: training code likes to note its best score beside the weights."""
    if kind.kind not in "biuf" or not isinstance(data, bytes) or len(data) != kind.itemsize:
        raise ValueError("not a NumPy number")  # torch turns it into its own refusal
    return np.frombuffer(data, dtype=kind)[0]


#: What torch may build besides its own list: plain NumPy numbers, whose names are those of NumPy 1 and of NumPy 2.
_SAFE: list[Any] = [
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(code)) for code in ("?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8")),
]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint, ``float32``, by name.

    ``wrapper`` is where they were found inside the file (``params_ema``, or empty), ``sha256`` that of the file.
    Names have lost ``prefix``, the front that all tensors of the generator shared; ``left_out`` are the fronts of the
    tensors that belong to something else.
    """

    state: Mapping[str, Tensor]
    sha256: str
    wrapper: str = ""
    prefix: str = ""
    left_out: tuple[str, ...] = ()


def load_state(path: Path, part: str = "") -> Checkpoint:
    """Read ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors``.

    ``part`` names what is meant in a file that holds several nets: a place in it (``netG_A``, ``state.generator``) or
    the front of tensors' names. Without it, the first of ``WRAPPERS`` that holds tensors is opened.

    Raises:
        CheckpointError: for anything that is no checkpoint: missing, empty, cut off, a web page, a pickle with more
            than tensors in it, a scripted module, an optimizer's state, values that are not finite.
        UsageError: the file has no such part.
    """
    data = _read(path)
    try:
        content = _from_safetensors(data) if _is_safetensors(path, data) else _from_torch(data)
        if not isinstance(content, Mapping):
            raise CheckpointError(f"it holds a {type(content).__name__} instead of named tensors")
        place, wrapper = _place(content, part) if part else _weights(content)
        state = _named(place)
        prefix = ""
        if part and not wrapper:
            state, prefix = _fronted(state, part), part
        state = _cleaned(state, len(data))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return Checkpoint(state, hashlib.sha256(data).hexdigest(), ".".join(wrapper), prefix)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder: name the checkpoint file in it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist (`python -m export list` shows the names of shipped weights)"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not data:
        raise CheckpointError(f"{path} is empty (0 bytes): download it again")
    if _HTML.match(data):
        raise CheckpointError(f"{path} is a web page, not weights: the download gave an error or login page")
    if data.startswith(_LFS):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights themselves: fetch it with `git lfs pull`")
    return data


def _is_safetensors(path: Path, data: bytes) -> bool:
    # eight bytes of length, then the header, which is JSON
    if data[8:10] in (b'{"', b"{}"):
        return True
    return path.suffix.lower() == ".safetensors" and not data.startswith((_ZIP, _PICKLE))


def _from_safetensors(data: bytes) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"not a whole safetensors file ({_first_line(error)}): download it again") from None
    except KeyError as error:  # a type that torch has no name for
        raise CheckpointError(f"a tensor has the type {error}, which is not supported") from None
    except (TypeError, ValueError, RuntimeError):  # a valid header with a shape that torch cannot make
        raise CheckpointError("a tensor has a shape that is not possible: the file is damaged") from None


def _from_torch(data: bytes) -> Any:
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(_SAFE):
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if match := _GLOBAL.search(text):
            raise CheckpointError(
                f"it holds {match[1]}, not only tensors; loading that would run code from the file, so it is refused: "
                "save the weights alone with torch.save(net.state_dict(), ...)"
            ) from None
        if data.startswith(_ZIP):
            raise CheckpointError(
                "it holds more than tensors, and loading that would run code from the file, so it is refused"
            ) from None
        raise CheckpointError("not a PyTorch checkpoint, or a damaged one") from None
    except EOFError:
        raise CheckpointError("the file is cut off: download it again") from None
    except Exception as error:  # torch raises RuntimeError, but a damaged pickle can raise nearly anything
        text = str(error)
        if "torch.jit" in text or "TorchScript" in text:
            raise CheckpointError("it is a TorchScript program, not a checkpoint: save net.state_dict()") from None
        if data.startswith(_ZIP):
            raise CheckpointError("the file is cut off or damaged: download it again") from None
        raise CheckpointError("not a PyTorch checkpoint, or a damaged one") from None


_Place = tuple[Mapping[Any, Any], tuple[str, ...]]  # a mapping, and the names that lead to it


def _weights(content: Mapping[Any, Any]) -> _Place:
    """Where the weights of the generator are; :class:`CheckpointError` says what is there instead."""
    found = _opened(content, ())
    if found is not None:
        return found
    if _is_optimizer(content):
        raise CheckpointError("it holds an optimizer's state, not weights: name the file of the net itself")
    for name, value in content.items():
        if DISCRIMINATOR.fullmatch(str(name)) and isinstance(value, Mapping) and _opened(value, ()):
            raise CheckpointError(
                f"it holds a discriminator alone (under {name}); training needs it, a generator does not: "
                "name the file of the generator, e.g. latest_net_G.pth"
            )
    return content, ()  # which has no tensors, as will be said


def _opened(content: Mapping[Any, Any], path: tuple[str, ...]) -> _Place | None:
    if len(path) < _MAX_DEPTH:
        for group in ((*AVERAGED, *GENERATOR), _directed(content), PLAIN):
            for name in group:
                inner = content.get(name)
                if isinstance(inner, Mapping) and not _is_optimizer(inner):
                    found = _opened(inner, (*path, str(name)))
                    if found is not None:
                        return found
    has_tensors = any(isinstance(value, Tensor) and (value.ndim or not path) for value in content.values())
    return (content, path) if has_tensors else None


def _directed(content: Mapping[Any, Any]) -> tuple[str, ...]:
    """The one of two generators that is there; :class:`CheckpointError` where both are."""
    names = tuple(
        name
        for name, value in content.items()
        if isinstance(name, str) and DIRECTED.fullmatch(name) and isinstance(value, Mapping) and value
    )
    if len(names) > 1:
        raise CheckpointError(several_generators(names))
    return names


def several_generators(names: Sequence[str]) -> str:
    """What to say about a file with more than one generator in it."""
    return f"it holds {len(names)} generators, {' and '.join(names)}: choose one, e.g. --option part={names[0]}"


def _is_optimizer(content: Mapping[Any, Any]) -> bool:
    """Whether it is an optimizer's ``state_dict``, or holds nothing but such."""
    if "param_groups" in content:
        return True
    inner = [(str(name), value) for name, value in content.items() if isinstance(value, Mapping | list | tuple)]
    return any("optim" in name.lower() for name, _ in inner) and all(
        re.search("optim|sched|scaler", name.lower()) for name, _ in inner
    )


def _place(content: Mapping[Any, Any], part: str) -> _Place:
    """The mapping that ``part`` leads to, and what is to be opened in it; else the whole, for the front of names."""
    place: Any = content
    for name in part.split("."):
        place = place.get(name) if isinstance(place, Mapping) else None
    if isinstance(place, Mapping):
        found = _opened(place, tuple(part.split(".")))
        if found is not None:
            return found
    found = _opened(content, ()) or (content, ())
    return found[0], ()


def _fronted(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``part``, without it."""
    chosen = under(state, part)
    if not chosen:
        fronts = list(dict.fromkeys(name.split(".")[0] for name in state))
        raise UsageError(f"the file has no part {part!r}; its tensors' names begin with {shortened(fronts, 8)}")
    return chosen


def under(state: Mapping[str, Tensor], front: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``front.``, by what follows, also without :data:`PREFIXES`."""
    return {_bare(name[len(front) + 1 :]): tensor for name, tensor in state.items() if name.startswith(f"{front}.")}


def _bare(name: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def _named(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    state = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            continue
        name = _bare(str(key))
        if not name.isprintable() or len(name) > _MAX_NAME:  # it would garble every message that shows it
            raise CheckpointError("a tensor's name is not a name: the file is damaged")
        if name in state:
            raise CheckpointError(f"two tensors are called {name}")
        state[name] = value
    if not state:
        names = ", ".join(repr(str(key)[:_MAX_NAME]) for key in list(content)[:5]) or "nothing"
        raise CheckpointError(
            f"it holds no named tensors (only {names}); weights are looked for under params_ema, generator, "
            "state_dict, model and other usual names, or where --option part=NAME says"
        )
    return state


def _cleaned(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """Float tensors as contiguous ``float32``; ``size`` is that of the file in bytes."""
    result = {}
    for name, tensor in state.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if not plain or tensor.is_quantized or tensor.is_complex() or tensor.ndim > _MAX_RANK:
            raise CheckpointError(f"{name} is no plain tensor (sparse, nested, quantised or complex)")
        if tensor.numel() * tensor.element_size() > size:  # a view that repeats its few values without end
            raise CheckpointError(f"{name} claims {tensor.numel():,} values, more than the file holds")
        if tensor.is_floating_point():
            tensor = tensor.detach().to(torch.float32).contiguous()
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"{name} holds values that are not finite numbers: the training diverged or the file is damaged"
                )
        result[name] = tensor
    return result


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
