"""OpenVINO session: the engine for CPUs."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GenedgeError, MissingExtraError
from runtime.frames import Frames
from runtime.sessions.base import Pending, Session, SessionInfo, output_called
from runtime.sessions.codes import CodeInputs
from runtime.sessions.recurrent import Arrays, Recurrence, Stepper, check_ports

HINTS = {"fp32": "f32", "fp16": "f32", "int8": "f32", "bf16": "bf16"}


_MAKING_CORE = threading.Lock()


def core() -> Any:
    """The process's OpenVINO core; raises :class:`MissingExtraError` without the package."""
    with _MAKING_CORE:
        return _core()


@lru_cache(maxsize=1)
def _core() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "cpu") from None
    # The first array that the binding makes looks numpy up. Two threads that are there at once wait for each other for
    # ever: one has Python's lock, the other that of the C++ variable which is being made.
    _ = openvino.Tensor(np.zeros(1, np.float32), shared_memory=True).data
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

    def __init__(self, slot: _Slot, inputs: tuple[NDArray[Any], ...], out: Frames) -> None:
        self._slot: _Slot | None = slot
        self._inputs: tuple[NDArray[Any], ...] | None = inputs
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
                self._failure = reason_of(error)
            finally:
                self._inputs = slot.running = None

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
        float_precision: of what is float in an int8 graph, fp32 or bf16; the latter only where the processor has it.
        threads: 0 leaves the choice to OpenVINO.
        in_flight: requests that may be under way at once.
        streams: requests that are computed at once; 1 gives the shortest time per frame.
        ports: of a generator with codes, as its manifest describes them.
        image: the output that is given, by default the first.
    """

    def __init__(
        self,
        model: bytes,
        scale: int,
        *,
        variant: str,
        precision: str,
        float_precision: str = "fp32",
        threads: int = 0,
        in_flight: int = 2,
        streams: int = 1,
        image: str | None = None,
        device: str = "CPU",
        ports: Recurrence | None = None,
    ) -> None:
        self._model = _read(model, variant)
        self._output = output_called(image, [port.any_name for port in self._model.outputs], variant)
        self.scale = scale
        self._ports = ports
        if ports is not None:
            check_ports(ports, *_names(self._model), variant)
            self.code_inputs = CodeInputs.of(ports.codes)
        self._device, self._config = device, engine_config(hint_of(precision, float_precision), streams, threads)
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
            if self._ports is None:
                self._model.reshape(list(shape))
            else:
                self._model.reshape({name: list(sides) for name, sides in self._ports.shapes(shape).items()})
            self._compiled = core().compile_model(self._model, self._device, self._config)
            self._slots = deque(_Slot(self._compiled.create_infer_request()) for _ in range(self._in_flight))
        except RuntimeError as error:
            raise GenedgeError(f"OpenVINO cannot run frames of {shape[2]}x{shape[1]}: {reason_of(error)}") from None
        self._shape = shape
        self.info = _named(self.info, self._compiled, self._device)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        import openvino

        frames, out = self._arrays(frames, out)
        frames = np.require(frames, requirements="W")  # OpenVINO shares no read-only array, not even as an input
        codes = self.code_inputs.arrays(frames.shape) if self.codes else {}
        with self._lock:
            if self._closed:
                raise RuntimeError("the session is closed")
            self._specialise(frames.shape)
            slot = self._slots[0]
            self._slots.rotate(-1)
            slot.settle()  # it has the oldest request, so the first to end
            try:
                if self._ports is None:
                    slot.request.set_input_tensor(openvino.Tensor(frames, shared_memory=True))
                else:
                    for name, array in {self._ports.frame.name: frames, **codes}.items():
                        slot.request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
                slot.request.set_tensor(self._output, openvino.Tensor(out, shared_memory=True))
                slot.request.start_async()
            except RuntimeError as error:
                raise GenedgeError(f"OpenVINO refused the frame: {reason_of(error)}") from None
            slot.running = running = _Running(slot, (frames, *codes.values()), out)
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


class OpenVinoStepper(Stepper):
    """OpenVINO for a generator with a state; see :class:`runtime.sessions.recurrent.RecurrentSession`.

    It has one stream: a frame cannot be computed before the one in front of it, so the whole processor serves each.

    Args:
        model: the ONNX file's bytes, whose ports are those of ``recurrence``.
        precision, float_precision, threads: as for :class:`OpenVinoSession`.
    """

    def __init__(
        self,
        model: bytes,
        recurrence: Recurrence,
        *,
        variant: str,
        precision: str,
        float_precision: str = "fp32",
        threads: int = 0,
        device: str = "CPU",
    ) -> None:
        self._model = _read(model, variant)
        check_ports(recurrence, *_names(self._model), variant)
        self._device, self._config = device, engine_config(hint_of(precision, float_precision), 1, threads)
        self._frame = recurrence.frame.name
        self._request: Any = None
        self.info = SessionInfo("openvino", precision, variant, device, threads, 1)

    def specialise(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._request = None
        try:
            self._model.reshape({name: list(shape) for name, shape in shapes.items()})
            compiled = core().compile_model(self._model, self._device, self._config)
            self._request = compiled.create_infer_request()
        except RuntimeError as error:
            size = f"{shapes[self._frame][2]}x{shapes[self._frame][1]}"
            raise GenedgeError(f"OpenVINO cannot run frames of {size}: {reason_of(error)}") from None
        self.info = _named(self.info, compiled, self._device)

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        import openvino

        # OpenVINO shares no read-only array, not even as an input. It holds no reference either, so `held` does.
        held = {name: np.require(array, requirements="W") for name, array in inputs.items()} | dict(outputs)
        try:
            for name, array in held.items():
                self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            self._request.infer()
        except RuntimeError as error:
            raise GenedgeError(f"OpenVINO failed: {reason_of(error)}") from None

    def close(self) -> None:
        self._request = None


def _read(model: bytes, variant: str) -> Any:
    try:
        return core().read_model(io.BytesIO(model))
    except RuntimeError as error:
        raise GenedgeError(f"OpenVINO cannot read the {variant} model: {reason_of(error)}") from None


def _names(model: Any) -> tuple[list[str], list[str]]:
    """Of the inputs and of the outputs."""
    return [port.any_name for port in model.inputs], [port.any_name for port in model.outputs]


def hint_of(precision: str, float_precision: str) -> str:
    """What OpenVINO computes floats in. An INT8 graph says whether that may be bf16, where the processor has it."""
    if precision == "int8" and float_precision == "bf16" and has_bf16():
        return HINTS["bf16"]
    return HINTS[precision]


def engine_config(hint: str, streams: int, threads: int) -> dict[str, Any]:
    """How a model is compiled: ``hint`` is f32 or bf16; pinning is off, see :class:`OpenVinoSession`."""
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint,
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": streams,
    }
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def compiled_for(model: bytes, variant: str, shapes: Mapping[str, tuple[int, ...]], hint: str) -> Any:
    """A model compiled as the sessions do it, for inputs of these shapes; all that it gives can be asked for."""
    read = _read(model, variant)
    try:
        read.reshape({name: list(shape) for name, shape in shapes.items()})
        return core().compile_model(read, "CPU", engine_config(hint, 1, 0))
    except RuntimeError as error:
        raise GenedgeError(f"OpenVINO cannot run the {variant} model: {reason_of(error)}") from None


def _named(info: SessionInfo, compiled: Any, device: str) -> SessionInfo:
    """With the processor's name and the number of threads, which are known once a model is compiled."""
    threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return replace(info, device=str(core().get_property(device, "FULL_DEVICE_NAME")).strip(), threads=threads)


def reason_of(error: Exception) -> str:
    """The last line of what OpenVINO says, which is the one that tells."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
