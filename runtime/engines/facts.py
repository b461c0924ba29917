"""The GPU and the TensorRT that an engine belongs to, and what this version takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from runtime.errors import GenedgeError, MissingExtraError

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


def device_facts(device: int = 0) -> DeviceFacts:
    """Ask TensorRT and the CUDA driver. ``device``: number of the GPU, as CUDA counts.

    Raises :class:`runtime.errors.MissingExtraError` where a package is not installed and :class:`GenedgeError` where
    there is no driver, it is too old, or a library does not load.
    """
    version = str(tensorrt_module().__version__)
    version_of(version)
    cuda = _cuda_runtime()
    try:
        _, served = cuda.cudaDriverGetVersion()
        _, needed = cuda.cudaRuntimeGetVersion()
        failed, count = cuda.cudaGetDeviceCount()
    except RuntimeError as error:  # cuda-python before 12.6 finds no libcuda
        raise GenedgeError(f"{_NO_DRIVER} ({error})") from None
    if not served:
        raise GenedgeError(_NO_DRIVER)
    if failed == cuda.cudaError_t.cudaErrorInsufficientDriver:
        raise GenedgeError(
            f"the NVIDIA driver serves CUDA {_dotted(served)}, but cuda-python wants {_dotted(needed)}: update the "
            f'driver, or pip install "cuda-python=={served // 1000}.*"'
        )
    if failed == cuda.cudaError_t.cudaErrorNoDevice or (not int(failed) and not count):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if hidden is None else f" (CUDA_VISIBLE_DEVICES is {hidden!r})"
        raise GenedgeError(f"the NVIDIA driver shows no GPU{why}: use --backend openvino or onnxruntime")
    if int(failed):
        raise GenedgeError(f"the NVIDIA driver does not start ({failed.name}): reboot, or install it again")
    if not 0 <= device < count:
        raise GenedgeError(f"there is no GPU number {device}: this machine has {count}, counted from 0")
    failed, properties = cuda.cudaGetDeviceProperties(device)
    if int(failed):
        raise GenedgeError(f"GPU number {device} does not answer ({failed.name})")
    return DeviceFacts(
        tensorrt=version,
        gpu=properties.name.decode("utf-8", "replace").rstrip("\0"),
        sm=(int(properties.major), int(properties.minor)),
        driver=served // 1000,
        memory_bytes=int(properties.totalGlobalMem),
    )


_NO_DRIVER = "no NVIDIA driver here, which TensorRT needs: install it, or use --backend openvino or onnxruntime"


def _dotted(version: int) -> str:
    """ "12.4" of 12040, as CUDA writes versions."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _cuda_runtime() -> Any:
    """CUDA's runtime API of cuda-python: ``cuda.bindings.runtime``, before 12.6 ``cuda.cudart``."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError:
            raise MissingExtraError("cuda-python", "tensorrt") from None
    return runtime
