"""OpenVINO session: the engine for CPUs."""

from __future__ import annotations

import io
import threading
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np

from runtime.errors import GenedgeError, MissingExtraError
from runtime.frames import Frames
from runtime.sessions.base import Pending, Session, SessionInfo

HINTS = {"fp32": "f32", "fp16": "f32", "int8": "f32", "bf16": "bf16"}


@lru_cache(maxsize=1)
def core() -> Any:
    """The process's OpenVINO core; raises :class:`MissingExtraError` without the package."""
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "cpu") from None
    return openvino.Core()


def version() -> str:
    import openvino

    return str(openvino.__version__).split("-")[0]


def has_bf16(device: str = "CPU") -> bool:
    """Whether this device computes in bfloat16 natively."""
    return "BF16" in core().get_property(device, "OPTIMIZATION_CAPABILITIES")


class _Slot:
    """A request object of the engine, and what it is busy with."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.running: _Running | None = None

    def settle(self) -> None:
        running = self.running  # read once: the thread that collects the result clears it
        if running is not None:
            running.settle()


class _Running:
    """A started request. The engine knows only the addresses of its arrays, so they are held until it is done."""

    def __init__(self, slot: _Slot, frames: Frames, out: Frames) -> None:
        self._slot: _Slot | None = slot
        self._frames: Frames | None = frames
        self._out, self._failure = out, ""
        self._lock = threading.Lock()

    def settle(self) -> None:
        """Wait for the engine and free the slot, whether or not the result is ever asked for."""
        with self._lock:
            slot, self._slot = self._slot, None
            if slot is None:
                return
            try:
                slot.request.wait()
            except RuntimeError as error:
                self._failure = _first_line(error)
            finally:
                self._frames = slot.running = None

    def result(self) -> Frames:
        self.settle()
        if self._failure:
            raise GenedgeError(f"OpenVINO failed: {self._failure}")
        return self._out


class OpenVinoSession(Session):
    """Runs an ONNX frame graph on OpenVINO.

    Nothing is copied on the way: the engine reads the caller's frame and writes into the output
    array. The graph is compiled for the shape of the frames when they first come, and again when
    the shape changes. CPU pinning is off, because it makes two processes on one machine share a
    core while others idle.

    Args:
        model: the ONNX file's bytes.
        scale: output size over input size.
        precision: fp32, fp16 (weights; a CPU computes in float32), int8, or bf16.
        threads: 0 leaves the choice to OpenVINO.
        in_flight: requests that may be under way at once.
        streams: requests that are computed at once; 1 gives the shortest time per frame.
    """

    def __init__(
        self,
        model: bytes,
        scale: int,
        *,
        variant: str,
        precision: str,
        threads: int = 0,
        in_flight: int = 2,
        streams: int = 1,
        device: str = "CPU",
    ) -> None:
        engine = core()
        try:
            self._model = engine.read_model(io.BytesIO(model))
        except RuntimeError as error:
            raise GenedgeError(f"OpenVINO cannot read the {variant} model: {_first_line(error)}") from None
        self.scale = scale
        self._device, self._streams = device, streams
        self._config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "ENABLE_CPU_PINNING": False,
            "NUM_STREAMS": streams,
        }
        if threads:
            self._config["INFERENCE_NUM_THREADS"] = threads
        self._in_flight = max(in_flight, streams)
        self._closed = False
        self._lock = threading.Lock()
        self._compiled: Any = None
        self._slots: deque[_Slot] = deque()
        self._shape: tuple[int, ...] | None = None
        self.info = SessionInfo("openvino", precision, variant, device, threads, self._in_flight)

    def _specialise(self, shape: tuple[int, ...]) -> None:
        if shape == self._shape:
            return
        self._settle()
        self._compiled, self._shape = None, None
        try:
            self._model.reshape(list(shape))
            self._compiled = core().compile_model(self._model, self._device, self._config)
            self._slots = deque(_Slot(self._compiled.create_infer_request()) for _ in range(self._in_flight))
        except RuntimeError as error:
            raise GenedgeError(f"OpenVINO cannot run frames of {shape[2]}x{shape[1]}: {_first_line(error)}") from None
        self._shape = shape
        used = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        name = str(core().get_property(self._device, "FULL_DEVICE_NAME")).strip()
        self.info = SessionInfo("openvino", self.info.precision, self.info.variant, name, used, self._in_flight)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        import openvino

        frames, out = self._arrays(frames, out)
        frames = np.require(frames, requirements="W")  # OpenVINO shares no read-only array, not even as an input
        with self._lock:
            if self._closed:
                raise RuntimeError("the session is closed")
            self._specialise(frames.shape)
            slot = self._slots[0]
            self._slots.rotate(-1)
            slot.settle()  # it has the oldest request, so the first to end
            try:
                slot.request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
                slot.request.set_output_tensor(openvino.Tensor(out, shared_memory=True))
                slot.request.start_async()
            except RuntimeError as error:
                raise GenedgeError(f"OpenVINO refused the frame: {_first_line(error)}") from None
            slot.running = running = _Running(slot, frames, out)
        return Pending(running.result)

    def _settle(self) -> None:
        for slot in self._slots:
            slot.settle()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._settle()
            self._slots.clear()
            self._compiled, self._shape = None, None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
