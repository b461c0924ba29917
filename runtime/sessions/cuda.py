"""CUDA through cuda-python: streams, events, memory and graphs, with every call checked.

cuda-python has had two layouts, ``cuda.cudart`` up to 12.6 and ``cuda.bindings.runtime`` from then on; the functions
and their arguments that are used here are the same in both. Waiting is done on streams only: until 12.6
``cudaEventSynchronize`` kept Python's lock, so that no other thread could run meanwhile.
"""

from __future__ import annotations

import importlib
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from runtime.errors import GenedgeError, MissingExtraError

LAYOUTS = ("cuda.bindings.runtime", "cuda.cudart")  # in the order in which they are tried
OLDEST = 12000  # CUDA 12.0, as CUDA writes it: the oldest that the extra asks for
NO_DRIVER = "no NVIDIA driver is found on this machine: install one (nvidia-smi shows it), or use --backend openvino"


class CudaError(GenedgeError):
    """A call to CUDA failed. ``name`` is CUDA's own, such as ``cudaErrorLaunchFailure``."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class OutOfGpuMemoryError(CudaError):
    """``wanted`` bytes of GPU memory were asked for ``what``, and only ``free`` were left (None: unknown)."""

    def __init__(self, what: str, wanted: int, free: int | None, remedy: str = "") -> None:
        left = "" if free is None else f", {amount(free)} are free"
        message = f"out of GPU memory: {amount(wanted)} wanted for {what}{left}{remedy and ': '}{remedy}"
        super().__init__(message, "cudaErrorMemoryAllocation")
        self.wanted, self.free = wanted, free


def amount(count: int) -> str:
    """Bytes for a sentence: "640 KiB", "1.5 GiB"."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count} bytes"


def open_cuda() -> Cuda:
    """CUDA on the first GPU that CUDA shows (``CUDA_VISIBLE_DEVICES`` chooses).

    Raises :class:`MissingExtraError` without cuda-python and :class:`CudaError` in one sentence where there is no
    driver, it is too old, or there is no GPU. It has to be asked before TensorRT is: without a driver
    ``tensorrt.Runtime`` of 8.6 ends the process.
    """
    runtime = _module()
    try:
        error, count = runtime.cudaGetDeviceCount()
    except RuntimeError as failure:  # the older layout, and that only without libcuda.so.1
        raise CudaError(f"{NO_DRIVER} ({_first_line(failure)})") from None
    codes = runtime.cudaError_t
    if error == codes.cudaErrorInsufficientDriver:
        driver = runtime.cudaDriverGetVersion()[1]
        if not driver:
            raise CudaError(NO_DRIVER, error.name)
        needed = runtime.cudaRuntimeGetVersion()[1]
        remedy = "update the driver"
        if OLDEST <= driver < needed // 1000 * 1000:  # another major of cuda-python would do
            remedy += f', or pip install "cuda-python=={driver // 1000}.*"'
        raise CudaError(
            f"the NVIDIA driver is too old: it serves CUDA {_version(driver)}, and cuda-python is made for CUDA "
            f"{_version(needed)}: {remedy}",
            error.name,
        )
    if error == codes.cudaErrorNoDevice or (error == codes.cudaSuccess and count == 0):
        raise CudaError(
            "no NVIDIA GPU is found: nvidia-smi should list one, and CUDA_VISIBLE_DEVICES must not hide it",
            codes.cudaErrorNoDevice.name,
        )
    cuda = Cuda(runtime)
    cuda.check("starting CUDA failed", (error,))
    return cuda


def _module() -> Any:
    for name in LAYOUTS:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            raise CudaError(f"cuda-python does not load: {_first_line(error)}: install it again") from None
    raise MissingExtraError("cuda-python", "tensorrt")


class Cuda:
    """The CUDA runtime, in the version that is installed. See :func:`open_cuda`."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime

    def check(self, doing: str, result: tuple[Any, ...]) -> Any:
        """What a call has given besides its error: None, a value, or a tuple of them.

        ``doing`` begins the message: "copying a frame to the GPU failed". Raises :class:`CudaError`.
        """
        error, *values = result
        if error != self.runtime.cudaError_t.cudaSuccess:
            raise CudaError(f"{doing}: {self._words(error)} ({error.name})", error.name)
        return values[0] if len(values) == 1 else tuple(values) or None

    def memory(self) -> tuple[int, int]:
        """Bytes of GPU memory: (free, all)."""
        free, total = self.check("asking for the free GPU memory failed", self.runtime.cudaMemGetInfo())
        return int(free), int(total)

    def stream(self) -> Stream:
        """A stream that does not wait for the default stream."""
        return Stream(self)

    def event(self, *, timed: bool = False) -> Event:
        """A point in a stream, for another stream to wait for, or with ``timed`` to measure from."""
        return Event(self, timed=timed)

    def buffer(self, count: int, what: str) -> Buffer:
        """``count`` bytes on the GPU, aligned to at least 256 bytes. ``what`` they are for names it in an error.

        Raises :class:`OutOfGpuMemoryError`.
        """
        return Buffer(self, count, what)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike, what: str) -> NDArray[Any]:
        """An array in pinned memory of the host, which the GPU copies from and to while the processor does other
        things. It is freed with the last reference to it; whoever lets it be copied holds one until that is done.
        """
        return np.asarray(_Pinned(self, shape, np.dtype(dtype), what))

    def forget_error(self) -> None:
        """The runtime repeats an error to whoever asks next: clear it once it has been dealt with."""
        self.runtime.cudaGetLastError()

    def is_usable(self) -> bool:
        """Whether CUDA still works after an error. Where a kernel has failed, every call in this process fails."""
        self.forget_error()
        return bool(self.runtime.cudaMemGetInfo()[0] == self.runtime.cudaError_t.cudaSuccess)

    def _words(self, error: Any) -> str:
        failed, words = self.runtime.cudaGetErrorString(error)
        return words.decode() if failed == self.runtime.cudaError_t.cudaSuccess else "unknown error"


class Event:
    """See :meth:`Cuda.event`."""

    def __init__(self, cuda: Cuda, *, timed: bool) -> None:
        self._cuda = cuda
        flags = cuda.runtime.cudaEventDefault if timed else cuda.runtime.cudaEventDisableTiming
        self.handle: Any = cuda.check("making an event failed", cuda.runtime.cudaEventCreateWithFlags(flags))

    def seconds_since(self, earlier: Event) -> float:
        """Seconds between two timed events that the GPU has passed."""
        result = self._cuda.runtime.cudaEventElapsedTime(earlier.handle, self.handle)
        return float(self._cuda.check("measuring a time on the GPU failed", result)) / 1e3

    def close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            self._cuda.runtime.cudaEventDestroy(handle)


class Buffer:
    """See :meth:`Cuda.buffer`. ``address`` is 0 for no bytes, and once it is closed."""

    def __init__(self, cuda: Cuda, count: int, what: str) -> None:
        self._cuda, self.count, self.what, self.address = cuda, count, what, 0
        if count:
            self.address = int(self._allocated(cuda.runtime.cudaMalloc(count)))

    def _allocated(self, result: tuple[Any, ...]) -> Any:
        codes = self._cuda.runtime.cudaError_t
        if result[0] == codes.cudaErrorMemoryAllocation:
            self._cuda.forget_error()
            error, free, _ = self._cuda.runtime.cudaMemGetInfo()
            raise OutOfGpuMemoryError(self.what, self.count, int(free) if error == codes.cudaSuccess else None)
        return self._cuda.check(f"allocating {amount(self.count)} for {self.what} failed", result)

    def close(self) -> None:
        address, self.address = self.address, 0
        if address:
            self._cuda.runtime.cudaFree(address)


class Graph:
    """What a stream has captured, ready to be launched again and again."""

    def __init__(self, cuda: Cuda, captured: Any) -> None:
        self._cuda = cuda
        try:
            self.handle: Any = cuda.check(
                "instantiating a graph failed", cuda.runtime.cudaGraphInstantiate(captured, 0)
            )
        finally:
            cuda.runtime.cudaGraphDestroy(captured)

    def close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            self._cuda.runtime.cudaGraphExecDestroy(handle)


class Stream:
    """What is given to a stream happens in that order, while other streams go on. See :meth:`Cuda.stream`."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda, self._runtime = cuda, cuda.runtime
        result = self._runtime.cudaStreamCreateWithFlags(self._runtime.cudaStreamNonBlocking)
        self.handle: Any = cuda.check("making a stream failed", result)

    @property
    def address(self) -> int:
        """As TensorRT takes it."""
        return int(self.handle)

    def upload(self, array: NDArray[Any], to: Buffer) -> None:
        """Copy a C-contiguous array to the start of a buffer. It is left alone until the stream has passed this."""
        self._copy(
            to.address, _address(array, to), array.nbytes, "HostToDevice", f"copying {to.what} to the GPU failed"
        )

    def download(self, source: Buffer, to: NDArray[Any]) -> None:
        """Fill a C-contiguous array from the start of a buffer; it holds that once the stream has passed this."""
        doing = f"copying {source.what} from the GPU failed"
        self._copy(_address(to, source), source.address, to.nbytes, "DeviceToHost", doing)

    def copy(self, source: Buffer, to: Buffer) -> None:
        """Copy between buffers of one size."""
        if source.count != to.count:
            raise ValueError(f"{source.what} has {source.count} bytes, {to.what} has {to.count}")
        self._copy(to.address, source.address, to.count, "DeviceToDevice", f"copying {source.what} on the GPU failed")

    def zero(self, buffer: Buffer) -> None:
        """Fill a buffer with zeros."""
        result = self._runtime.cudaMemsetAsync(buffer.address, 0, buffer.count, self.handle)
        self._cuda.check(f"clearing {buffer.what} failed", result)

    def record(self, event: Event) -> None:
        self._cuda.check("recording an event failed", self._runtime.cudaEventRecord(event.handle, self.handle))

    def wait(self, event: Event) -> None:
        """What is given to this stream from now on begins after the event, as it was recorded last."""
        self._cuda.check("waiting for a stream failed", self._runtime.cudaStreamWaitEvent(self.handle, event.handle, 0))

    def synchronize(self, doing: str) -> None:
        """Wait until all that was given to the stream is done; other threads run meanwhile. An error of any of it is
        raised here, with ``doing`` in front."""
        self._cuda.check(doing, self._runtime.cudaStreamSynchronize(self.handle))

    def begin_capture(self) -> None:
        """What this thread gives to the stream is written down and not done, until :meth:`end_capture`. Other threads
        may do what they like meanwhile."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda.check("capturing a graph failed", self._runtime.cudaStreamBeginCapture(self.handle, mode))

    def end_capture(self) -> Graph:
        """The graph of what was captured. The stream works as before afterwards, also where this raises."""
        captured = self._cuda.check("capturing a graph failed", self._runtime.cudaStreamEndCapture(self.handle))
        return Graph(self._cuda, captured)

    def launch(self, graph: Graph) -> None:
        self._cuda.check("launching a graph failed", self._runtime.cudaGraphLaunch(graph.handle, self.handle))

    def close(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            self._runtime.cudaStreamDestroy(handle)

    def _copy(self, to: int, source: int, count: int, kind: str, doing: str) -> None:
        kinds = self._runtime.cudaMemcpyKind
        kind = getattr(kinds, f"cudaMemcpy{kind}")
        self._cuda.check(doing, self._runtime.cudaMemcpyAsync(to, source, count, kind, self.handle))


class _Pinned:
    """Owns pinned memory, which numpy sees through ``__array_interface__``."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> None:
        count = max(1, math.prod(shape) * dtype.itemsize)
        address = int(
            cuda.check(f"pinning {amount(count)} of memory for {what} failed", cuda.runtime.cudaMallocHost(count))
        )
        # At the process's end the system frees it, and views of it may still be in use then.
        weakref.finalize(self, cuda.runtime.cudaFreeHost, address).atexit = False
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}


def is_pinned(array: NDArray[Any]) -> bool:
    """Whether an array lies in memory of :meth:`Cuda.pinned`, as the whole or a part of it."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, _Pinned)


def _address(array: NDArray[Any], buffer: Buffer) -> int:
    """CUDA gets a bare address, so what stands behind it is checked here."""
    if not array.flags.c_contiguous or array.nbytes > buffer.count:
        raise ValueError(f"{buffer.what}: {array.dtype} {array.shape} is not C-contiguous or larger than the buffer")
    return array.ctypes.data


def _version(number: int) -> str:
    """12060 is "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
