"""What NVIDIA's driver says of this machine, asked without any package: it comes as one library, libcuda.

Its functions are those of the CUDA driver API, whose names and numbers stay what they are from version to version.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
KERNEL_MODULE = Path("/proc/driver/nvidia/version")
#: CUDA's major -> the first driver that serves it, as NVIDIA's CUDA compatibility guide lists them
DRIVER_FOR = {11: 450, 12: 525, 13: 580}
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
SM_MAJOR, SM_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True)
class Gpu:
    """``sm`` is the compute capability, (9, 0) of an H200."""

    name: str
    sm: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """``cuda`` is the newest CUDA that the driver serves, (12, 4), None without a driver. ``gpus`` are those that CUDA
    shows, in its order (``CUDA_VISIBLE_DEVICES`` chooses). ``trouble`` says why there are none."""

    cuda: tuple[int, int] | None
    gpus: tuple[Gpu, ...] = ()
    trouble: str = ""


@lru_cache(maxsize=1)
def driver() -> Driver:
    """Ask the driver, once in a process."""
    try:
        library: Any = ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(None, trouble="no NVIDIA driver")
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))  # works before cuInit, and where that fails
    cuda = (number.value // 1000, number.value % 1000 // 10)
    if code := library.cuInit(0):
        reason = (
            "CUDA sees no GPU" if code == NO_DEVICE else f"the NVIDIA driver does not start ({_words(library, code)})"
        )
        return Driver(cuda, trouble=reason)
    library.cuDeviceGetCount(ctypes.byref(number))
    gpus = tuple(_gpu(library, index) for index in range(number.value))
    return Driver(cuda, gpus, "" if gpus else "CUDA sees no GPU")


def newer_driver(cuda: int) -> str:
    """What to do for a CUDA of this major."""
    return (
        f"update the NVIDIA driver to {DRIVER_FOR[cuda]} or later" if cuda in DRIVER_FOR else "update the NVIDIA driver"
    )


def driver_release() -> str:
    """The kernel module's own version, "550.54.14", or "" where there is none or it is not told."""
    try:
        text = KERNEL_MODULE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return found[1] if found else ""


def _gpu(library: Any, index: int) -> Gpu:
    device, size, part = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    sm = []
    for attribute in (SM_MAJOR, SM_MINOR):
        library.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
        sm.append(part.value)
    return Gpu(name.value.decode("utf-8", errors="replace"), (sm[0], sm[1]), size.value)


def _words(library: Any, code: int) -> str:
    """CUDA's own words for an error."""
    words = ctypes.c_char_p()
    library.cuGetErrorString(code, ctypes.byref(words))
    return words.value.decode("utf-8", errors="replace") if words.value else f"error {code}"
