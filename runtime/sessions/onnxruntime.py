"""ONNX Runtime session: runs everywhere, and is the reference the other engines are compared with."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from runtime.errors import GenedgeError, MissingExtraError
from runtime.frames import Frames
from runtime.sessions.base import Pending, Session, SessionInfo, output_called
from runtime.sessions.codes import CodeInputs
from runtime.sessions.recurrent import Arrays, Recurrence, Stepper, check_ports


def module() -> Any:
    """The onnxruntime package; raises :class:`MissingExtraError` without it."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    return onnxruntime


class OnnxRuntimeSession(Session):
    """Runs an ONNX frame graph on ONNX Runtime's CPU provider.

    Input and output are bound to the caller's arrays, so nothing is copied. Worker threads do not
    spin while they wait, so that decoding and encoding find a free core.

    Args:
        model: the ONNX file's bytes.
        scale: output size over input size.
        threads: 0 leaves the choice to ONNX Runtime.
        in_flight: requests that may be under way at once.
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
        threads: int = 0,
        in_flight: int = 2,
        ports: Recurrence | None = None,
        image: str | None = None,
    ) -> None:
        self._session = _load(model, variant, threads)
        self.scale = scale
        self._inputs = [port.name for port in self._session.get_inputs()]
        outputs = [port.name for port in self._session.get_outputs()]
        self._output = output_called(image, outputs, variant)
        if ports is not None:
            check_ports(ports, self._inputs, outputs, variant)
            self.code_inputs = CodeInputs.of(ports.codes)
            self._inputs = [ports.frame.name]
        self._slots = threading.Semaphore(in_flight)
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="onnxruntime")
        self.info = SessionInfo("onnxruntime", precision, variant, "CPU", threads, in_flight)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        frames, result = self._arrays(frames, out)
        codes = self.code_inputs.arrays(frames.shape) if self.codes else {}
        self._slots.acquire()

        def run() -> Frames:
            try:
                binding = self._session.io_binding()
                binding.bind_input(self._inputs[0], "cpu", 0, np.uint8, frames.shape, frames.ctypes.data)
                for name, array in codes.items():
                    binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
                binding.bind_output(self._output, "cpu", 0, np.uint8, result.shape, result.ctypes.data)
                self._session.run_with_iobinding(binding)
                return result
            except Exception as error:
                raise GenedgeError(f"ONNX Runtime failed: {_first_line(error)}") from None
            finally:
                self._slots.release()

        try:
            return Pending(self._pool.submit(run).result)
        except RuntimeError:  # the session is closed
            self._slots.release()
            raise

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class OnnxRuntimeStepper(Stepper):
    """ONNX Runtime for a generator with a state; see :class:`runtime.sessions.recurrent.RecurrentSession`.

    Args:
        model: the ONNX file's bytes, whose ports are those of ``recurrence``.
        threads: 0 leaves the choice to ONNX Runtime.
    """

    def __init__(self, model: bytes, recurrence: Recurrence, *, variant: str, precision: str, threads: int = 0) -> None:
        self._session = _load(model, variant, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_ports(recurrence, (port.name for port in inputs), (port.name for port in outputs), variant)
        self.info = SessionInfo("onnxruntime", precision, variant, "CPU", threads, 1)

    def specialise(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Nothing to do: ONNX Runtime takes any shape."""

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        try:
            binding = self._session.io_binding()
            for name, array in inputs.items():
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise GenedgeError(f"ONNX Runtime failed: {_first_line(error)}") from None

    def close(self) -> None:
        self._session = None


def _load(model: bytes, variant: str, threads: int) -> Any:
    engine = module()
    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal only: errors are raised, with their message
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return engine.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the bindings raise half a dozen unrelated classes
        raise GenedgeError(f"ONNX Runtime cannot read the {variant} model: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
