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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.errors import CheckpointError

#: Where training code puts the weights inside its file, the averaged ones first.
WRAPPERS = ("params_ema", "params", "state_dict", "model", "state_dict_G")
#: What ``DataParallel`` and ``torch.compile`` put in front of every name.
PREFIXES = ("module.", "_orig_mod.")

_HTML = re.compile(rb"(?:\xef\xbb\xbf)?\s*(<!doctype\s+html|<html|<head|<\?xml)", re.IGNORECASE)
_LFS = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
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
    """

    state: Mapping[str, Tensor]
    sha256: str
    wrapper: str = ""


def load_state(path: Path) -> Checkpoint:
    """Read ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors``.

    Raises :class:`CheckpointError` for anything that is no checkpoint: missing, empty, cut off, a web
    page, a pickle with more than tensors in it, a scripted module, values that are not finite.
    """
    data = _read(path)
    try:
        content = _from_safetensors(data) if _is_safetensors(path, data) else _from_torch(data)
        state, wrapper = _unwrapped(content)
        state = _cleaned(state, len(data))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return Checkpoint(state, hashlib.sha256(data).hexdigest(), wrapper)


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
    return path.suffix.lower() == ".safetensors" or data[8:10] in (b'{"', b"{}")


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


def _unwrapped(content: Any) -> tuple[dict[str, Any], str]:
    found: list[str] = []
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping):
            raise CheckpointError(f"it holds a {type(content).__name__} instead of named tensors")
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapper is None:
            break
        content = content[wrapper]
        found.append(wrapper)
    state = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            continue
        name = str(key)
        while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
            name = name.removeprefix(prefix)
        if not name.isprintable() or len(name) > _MAX_NAME:  # it would garble every message that shows it
            raise CheckpointError("a tensor's name is not a name: the file is damaged")
        if name in state:
            raise CheckpointError(f"two tensors are called {name}")
        state[name] = value
    if not state:
        names = ", ".join(repr(str(key)[:_MAX_NAME]) for key in list(content)[:5]) or "nothing"
        raise CheckpointError(
            f"it holds no named tensors (only {names}); weights are looked for under {', '.join(WRAPPERS)}"
        )
    return state, ".".join(found)


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
