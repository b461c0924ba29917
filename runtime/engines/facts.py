"""The GPU and the TensorRT that an engine belongs to, and what this version takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime.errors import GenedgeError, MissingExtraError
from runtime.sessions.cuda import open_cuda

STRONGLY_TYPED_FROM = (10, 12)  # precision flags are deprecated from here on, and gone in 11


@dataclass(frozen=True)
class DeviceFacts:
    """The GPU and the libraries that engines are built for and run on.

    ``tensorrt`` is the library's version ("10.3.0.26"), ``gpu`` the device's name ("NVIDIA H200"), ``sm`` its compute
    capability ((9, 0)), ``driver`` the major of the CUDA version that the driver serves (12), ``memory_bytes`` that of
    the GPU.
    """

    tensorrt: str
    gpu: str
    sm: tuple[int, int]
    driver: int
    memory_bytes: int

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor of TensorRT."""
        return version_of(self.tensorrt)


def version_of(text: str) -> tuple[int, int]:
    """(10, 3) of "10.3.0.26". Raises :class:`GenedgeError` for what is no version."""
    parts = text.split(".")
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        raise GenedgeError(f"TensorRT says that its version is {text!r}, which is none: install it again")
    return int(parts[0]), int(parts[1])


def strongly_typed(version: tuple[int, int]) -> bool:
    """Whether this version takes its precisions from the graph's types, and not from flags."""
    return version >= STRONGLY_TYPED_FROM


def variant_for(precision: str, version: tuple[int, int]) -> str:
    """The artifact of a bundle that this version of TensorRT builds ``precision`` (fp32, fp16 or int8) from.

    A weakly typed engine computes fp16 from the float32 graph, with a flag; a strongly typed one needs a graph of
    float16.
    """
    weak = {"fp32": "fp32", "fp16": "fp32", "int8": "int8"}
    strong = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-strong"}
    return (strong if strongly_typed(version) else weak)[precision]


def tensorrt_module() -> Any:
    """The tensorrt package. Raises :class:`MissingExtraError` without it, :class:`GenedgeError` without its libraries.

    Making a ``tensorrt.Runtime`` without a driver ends the process in the real library (8.6.0), and a
    ``tensorrt.Builder`` fails there: call :func:`device_facts` first, which notices.
    """
    try:
        import tensorrt
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != "tensorrt":  # its bindings or libraries
            raise GenedgeError(_half_installed(error)) from None
        raise MissingExtraError("tensorrt", "tensorrt") from None
    except (ImportError, OSError) as error:  # OSError: a library that does not load, on Windows
        raise GenedgeError(_half_installed(error)) from None
    return tensorrt


def _half_installed(error: Exception) -> str:
    return (
        f"TensorRT is installed without its libraries, or beside those of another version ({error}): "
        "pip install --force-reinstall tensorrt"
    )


def device_facts() -> DeviceFacts:
    """Ask TensorRT and the CUDA driver, about the first GPU that CUDA shows (``CUDA_VISIBLE_DEVICES`` chooses).

    Raises :class:`MissingExtraError` where a package is not installed and :class:`GenedgeError` where there is no
    driver, it is too old, or a library does not load.
    """
    version = str(tensorrt_module().__version__)
    version_of(version)
    cuda = open_cuda()
    served = cuda.check("asking for the driver's version failed", cuda.runtime.cudaDriverGetVersion())
    properties = cuda.check("asking what GPU this is failed", cuda.runtime.cudaGetDeviceProperties(0))
    return DeviceFacts(
        tensorrt=version,
        gpu=properties.name.decode("utf-8", "replace").rstrip("\0"),
        sm=(int(properties.major), int(properties.minor)),
        driver=served // 1000,
        memory_bytes=int(properties.totalGlobalMem),
    )
