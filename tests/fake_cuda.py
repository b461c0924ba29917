"""A GPU that is a thread's own work: cuda-python's runtime module as its wheels are recorded to behave, without one.

What is given to a stream waits there, as on a GPU that is far behind: it is done when somebody waits for the stream,
and before that only as far as ``hurry`` says. A copy that forgets to wait for an event therefore reads old bytes, and
an array that is written too early is seen by the copy. Memory of the "GPU" and pinned memory are memory of this
process; their addresses are real, so an engine can be faked on top.

The module has no name that the real ones lack: ``names`` are read from the files in ``tests/data/cuda``.
"""

# ruff: noqa: N801, N802, N815 - the names are CUDA's
from __future__ import annotations

import ctypes
import enum
import random
import sys
import threading
import types
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DATA = Path(__file__).parent / "data" / "cuda"
OLD, NEW = "12.2.1", "13.5.0"


def names_of(version: str) -> frozenset[str]:
    """The names of a real module, see ``tests/data/cuda/README.md``."""
    return frozenset((DATA / f"names-{version}.txt").read_text().split())


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess
WORDS = {
    cudaError_t.cudaErrorMemoryAllocation: b"out of memory",
    cudaError_t.cudaErrorIllegalAddress: b"an illegal memory access was encountered",
    cudaError_t.cudaErrorStreamCaptureInvalidated: b"operation failed due to a previous error during capture",
}


class Handle(int):
    """A stream, event or graph as the real module hands it out: an object that ``int`` makes an address of."""


@dataclass
class Operation:
    """Something for the GPU to do, in the order of its stream."""

    name: str
    do: Callable[[], None]
    waits: Callable[[], bool] = lambda: False  # whether it cannot be done yet
    touches: tuple[tuple[int, int], ...] | None = ()  # (address, bytes) that it reads or writes; None: unknown


@dataclass
class FakeStream:
    number: int
    queue: deque[Operation] = field(default_factory=deque)
    capturing: list[Operation] | None = None
    broken_capture: bool = False


@dataclass
class FakeEvent:
    timed: bool
    recorded: int = 0  # how often it was given to a stream
    passed: int = 0  # the latest of those that the GPU has come by
    at: float = 0.0  # milliseconds


class FakeGpu:
    """The GPU's memory and streams, and the module that drives it in ``module``.

    Args:
        version: of the module whose names are used.
        memory: bytes of the GPU.
        hurry: share of the waiting work that is done at each call, 0 to 1, in an order that ``seed`` decides.
    """

    def __init__(self, version: str = NEW, memory: int = 1 << 30, hurry: float = 0.0, seed: int = 0) -> None:
        self.total, self.hurry = memory, hurry
        self.calls: list[str] = []  # names, in order
        self.done: list[str] = []  # operations, in the order in which the GPU has done them
        self.clock = 0.0  # milliseconds
        self.step_ms = 1.0  # that an operation takes
        self.driver, self.runtime, self.devices, self.sticky = 13000, 13050, 1, OK
        self.name, self.sm = "NVIDIA H200", (9, 0)
        self.last_error = OK
        self.asked_streams: list[int] = []
        self._failing: list[tuple[str, cudaError_t]] = []
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._device: dict[int, np.ndarray] = {}
        self._pinned: dict[int, np.ndarray] = {}
        self._streams: dict[int, FakeStream] = {}
        self._events: dict[int, FakeEvent] = {}
        self._graphs: dict[int, list[Operation]] = {}
        self._numbers = iter(range(1000, 1_000_000))
        self.module = _Module(self, names_of(version))

    # -- for tests -------------------------------------------------------------------------------

    def fail(self, call: str, error: cudaError_t) -> None:
        """Let the next call of this name fail."""
        self._failing.append((call, error))

    def count(self, call: str) -> int:
        return self.calls.count(call)

    @property
    def held(self) -> dict[str, int]:
        """What has been made and not been freed, without what there is none of."""
        kinds = {
            "device": self._device, "pinned": self._pinned, "streams": self._streams, "events": self._events,
            "graphs": self._graphs,
        }  # fmt: skip
        return {name: len(things) for name, things in kinds.items() if things}

    @property
    def waiting(self) -> int:
        """Operations that have been given to streams and not been done."""
        return sum(len(stream.queue) for stream in self._streams.values())

    @property
    def used(self) -> int:
        return sum(block.nbytes for block in self._device.values())

    def view(self, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """GPU memory as an array, for whoever fakes a kernel."""
        count = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        for start, block in self._device.items():
            if start <= address and address + count <= start + block.nbytes:
                return block[address - start : address - start + count].view(dtype).reshape(shape)
        raise AssertionError(f"a kernel touches {count} bytes at {address:#x}, which are not allocated")

    def enqueue(self, stream: int, name: str, do: Callable[[], None]) -> None:
        """Give a kernel to a stream."""
        with self._lock:
            self._give(self._streams[stream], Operation(name, do, touches=None))

    def run_without(self, name: str) -> None:
        """Do all that can be done while no operation of this name is."""
        with self._lock:
            streams = list(self._streams.values())
            while any(stream.queue and stream.queue[0].name != name and self._one(stream) for stream in streams):
                pass

    def is_capturing(self, stream: int) -> bool:
        return self._streams[stream].capturing is not None

    def break_capture(self, stream: int) -> None:
        """What a call does that must not be captured."""
        self._streams[stream].broken_capture = True

    # -- the GPU ---------------------------------------------------------------------------------

    def _give(self, stream: FakeStream, operation: Operation) -> None:
        if stream.capturing is not None:
            stream.capturing.append(operation)
        else:
            stream.queue.append(operation)

    def _one(self, stream: FakeStream) -> bool:
        """Do the next operation of a stream. False: there is none, or it waits."""
        if not stream.queue or stream.queue[0].waits():
            return False
        operation = stream.queue.popleft()
        self.clock += self.step_ms
        operation.do()
        if operation.name:
            self.done.append(operation.name)
        return True

    def _some(self) -> None:
        while self.hurry and self._random.random() < self.hurry:
            streams = list(self._streams.values())
            if not streams or not self._one(self._random.choice(streams)):
                break

    def _finish(self, stream: FakeStream) -> None:
        while stream.queue:
            if not self._one(stream):
                others = [other for other in self._streams.values() if other is not stream]
                self._random.shuffle(others)
                assert any(self._one(other) for other in others), "the streams wait for each other for ever"

    def _free(self, blocks: dict[int, np.ndarray], address: int) -> tuple[cudaError_t]:
        if address not in blocks:
            return (cudaError_t.cudaErrorInvalidValue,)
        end = address + blocks[address].nbytes
        for stream in self._streams.values():
            for operation in stream.queue:
                assert operation.touches is not None, f"{operation.name} is under way while memory is freed"
                for start, count in operation.touches:
                    assert start >= end or start + count <= address, f"{operation.name} still needs what is freed"
        del blocks[address]
        return (OK,)

    # -- the module's functions ------------------------------------------------------------------

    def call(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        with self._lock:
            self.calls.append(name)
            for index, (failing, error) in enumerate(self._failing):
                if failing == name:
                    del self._failing[index]
                    self.last_error = error
                    return (error, *([None] * RESULTS.get(name, 0)))
            if self.sticky != OK and name not in ("cudaGetErrorString", "cudaGetLastError"):
                return (self.sticky, *([None] * RESULTS.get(name, 0)))
            self._some()
            return tuple(getattr(self, f"_{name}")(*arguments))

    def _cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return OK, self.devices

    def _cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return OK, self.driver

    def _cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return OK, self.runtime

    def _cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        major, minor = self.sm
        name = self.name.encode() + b"\0"
        return OK, types.SimpleNamespace(name=name, major=major, minor=minor, totalGlobalMem=self.total)

    def _cudaGetErrorString(self, error: cudaError_t) -> tuple[Any, ...]:
        return OK, WORDS.get(error, b"some error")

    def _cudaGetLastError(self) -> tuple[Any, ...]:
        error, self.last_error = self.last_error, OK
        return (error,)

    def _cudaMemGetInfo(self) -> tuple[Any, ...]:
        return OK, self.total - self.used, self.total

    def _cudaMalloc(self, count: int) -> tuple[Any, ...]:
        if count > self.total - self.used:
            self.last_error = cudaError_t.cudaErrorMemoryAllocation
            return self.last_error, None
        return OK, self._block(self._device, count)

    def _cudaMallocHost(self, count: int) -> tuple[Any, ...]:
        return OK, self._block(self._pinned, count)

    def _block(self, blocks: dict[int, np.ndarray], count: int) -> int:
        block = np.full(count, 0xCD, np.uint8)  # as memory that nobody has written
        blocks[block.ctypes.data] = block
        return block.ctypes.data

    def _cudaFree(self, address: int) -> tuple[Any, ...]:
        return self._free(self._device, address)

    def _cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._free(self._pinned, address)

    def _cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == 1, "the default stream would stop this one"
        number = next(self._numbers)
        self._streams[number] = FakeStream(number)
        return OK, Handle(number)

    def _cudaStreamDestroy(self, stream: Handle) -> tuple[Any, ...]:
        assert not self._streams[stream].queue, "the stream still has work"
        del self._streams[stream]
        return (OK,)

    def _cudaStreamSynchronize(self, stream: Handle) -> tuple[Any, ...]:
        found = self._streams[stream]
        if found.capturing is not None:
            found.broken_capture = True
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        self._finish(found)
        return (self.sticky,)

    def _cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        number = next(self._numbers)
        self._events[number] = FakeEvent(timed=flags == 0)
        return OK, Handle(number)

    def _cudaEventDestroy(self, event: Handle) -> tuple[Any, ...]:
        del self._events[event]
        return (OK,)

    def _cudaEventRecord(self, event: Handle, stream: Handle) -> tuple[Any, ...]:
        found = self._events[event]
        found.recorded += 1
        version = found.recorded

        def passes() -> None:
            found.passed, found.at = max(found.passed, version), self.clock

        self._give(self._streams[stream], Operation("", passes))
        return (OK,)

    def _cudaStreamWaitEvent(self, stream: Handle, event: Handle, flags: int) -> tuple[Any, ...]:
        found = self._events[event]
        version = found.recorded
        self._give(self._streams[stream], Operation("", lambda: None, waits=lambda: found.passed < version))
        return (OK,)

    def _cudaEventElapsedTime(self, start: Handle, end: Handle) -> tuple[Any, ...]:
        first, last = self._events[start], self._events[end]
        if not (first.timed and last.timed and first.passed and last.passed):
            return cudaError_t.cudaErrorInvalidResourceHandle, None
        return OK, last.at - first.at

    def _cudaMemcpyAsync(
        self, to: int, source: int, count: int, kind: cudaMemcpyKind, stream: Handle
    ) -> tuple[Any, ...]:
        inside = {
            cudaMemcpyKind.cudaMemcpyHostToDevice: (to,),
            cudaMemcpyKind.cudaMemcpyDeviceToHost: (source,),
            cudaMemcpyKind.cudaMemcpyDeviceToDevice: (to, source),
        }[kind]
        for address in inside:
            self.view(address, (count,), np.uint8)
        for address in {to, source} - set(inside):
            assert any(a <= address and address + count <= a + b.nbytes for a, b in self._pinned.items()), (
                "a copy from or to memory that is not pinned waits for it"
            )
        name = {1: "upload", 2: "download", 3: "copy"}[kind]
        touches = ((to, count), (source, count))
        self._give(
            self._streams[stream], Operation(name, lambda: ctypes.memmove(to, source, count) and None, touches=touches)
        )
        return (OK,)

    def _cudaMemsetAsync(self, address: int, value: int, count: int, stream: Handle) -> tuple[Any, ...]:
        target = self.view(address, (count,), np.uint8)
        self._give(self._streams[stream], Operation("clear", lambda: target.fill(value), touches=((address, count),)))
        return (OK,)

    def _cudaStreamBeginCapture(self, stream: Handle, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
        self._streams[stream].capturing = []
        return (OK,)

    def _cudaStreamEndCapture(self, stream: Handle) -> tuple[Any, ...]:
        found = self._streams[stream]
        captured, found.capturing = found.capturing, None
        broken, found.broken_capture = found.broken_capture, False
        if broken or captured is None:
            self.last_error = cudaError_t.cudaErrorStreamCaptureInvalidated
            return self.last_error, None
        return OK, self._new_graph(captured)

    def _new_graph(self, operations: list[Operation]) -> Handle:
        number = next(self._numbers)
        self._graphs[number] = operations
        return Handle(number)

    def _cudaGraphInstantiate(self, graph: Handle, flags: int) -> tuple[Any, ...]:
        return OK, self._new_graph(self._graphs[graph])

    def _cudaGraphDestroy(self, graph: Handle) -> tuple[Any, ...]:
        del self._graphs[graph]
        return (OK,)

    _cudaGraphExecDestroy = _cudaGraphDestroy

    def _cudaGraphLaunch(self, graph: Handle, stream: Handle) -> tuple[Any, ...]:
        for operation in self._graphs[graph]:
            self._give(self._streams[stream], operation)
        return (OK,)


RESULTS = {"cudaMemGetInfo": 2} | dict.fromkeys(
    (
        "cudaGetDeviceCount", "cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags",
        "cudaEventElapsedTime", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGetDeviceProperties",
    ),
    1,
)  # fmt: skip


class _Module:
    """``cuda.bindings.runtime``, or ``cuda.cudart``."""

    cudaStreamNonBlocking, cudaEventDefault, cudaEventDisableTiming = 1, 0, 2

    def __init__(self, gpu: FakeGpu, names: frozenset[str]) -> None:
        self._gpu, self._names = gpu, names
        for kind in (cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode):
            assert {f"{kind.__name__}.{member.name}" for member in kind} <= names
            setattr(self, kind.__name__, kind)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda"):
            assert name in self._names, f"cuda-python has no {name}"
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cuda"):
            return lambda *arguments: self._gpu.call(name, arguments)
        raise AttributeError(name)


def install(patch: pytest.MonkeyPatch, gpu: FakeGpu, layout: str = "cuda.bindings.runtime") -> None:
    """Let ``import`` find the fake in this layout, and no other."""
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        patch.setitem(sys.modules, name, gpu.module if name == layout else None)  # type: ignore[arg-type]
