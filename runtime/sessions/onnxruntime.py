"""ONNX Runtime session: runs everywhere, and is the reference the other engines are compared with.

With onnxruntime-gpu and a GPU it computes fp32 and fp16 on its CUDA provider, or says what is missing; asked for a
provider that does not start, ONNX Runtime itself prints something and computes on the CPU. INT8 stays on the CPU: the
CUDA provider has no kernel for an integer convolution (none called QLinearConv in the library of 1.31.1; see also
https://github.com/microsoft/onnxruntime/issues/12229).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from runtime.errors import GenedgeError, MissingExtraError
from runtime.frames import Frames
from runtime.nvidia import driver, newer_driver
from runtime.sessions.base import Pending, Session, SessionInfo, output_called
from runtime.sessions.codes import CodeInputs
from runtime.sessions.recurrent import Arrays, Recurrence, Stepper, check_ports

CUDA = "CUDAExecutionProvider"
ON_CUDA = ("fp32", "fp16")  # precisions that the CUDA provider computes
REPAIR = 'pip install "onnxruntime-gpu[cuda,cudnn]"'


#: an ONNX file that gives what it gets
IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01a\x12\x01b"\x08Identity\x12\x01gZ\x0f\n\x01a\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01b\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


class NoCudaError(GenedgeError):
    """ONNX Runtime's CUDA provider does not start although there is a GPU."""

    def __init__(self, version: str, reason: str, remedy: str) -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(
            f"onnxruntime-gpu {version} does not reach the GPU: {reason}: {remedy}; "
            "or hide the GPU with CUDA_VISIBLE_DEVICES= to compute on the CPU"
        )


def module() -> Any:
    """The onnxruntime package; raises :class:`MissingExtraError` without it."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "cpu") from None
    return onnxruntime


def on_cuda() -> bool:
    """Whether fp32 and fp16 are computed on a GPU here: the driver shows one, and ONNX Runtime was built for it."""
    if not driver().gpus or importlib.util.find_spec("onnxruntime") is None:
        return False
    return CUDA in module().get_available_providers()


def start_cuda() -> None:
    """Raise :class:`NoCudaError` where the CUDA provider does not start, although :func:`on_cuda` promises it."""
    _load(IDENTITY, "smallest", "fp32", 1)


class OnnxRuntimeSession(Session):
    """Runs an ONNX frame graph on ONNX Runtime's CUDA provider, or on its CPU provider: see :func:`on_cuda`.

    Input and output are bound to the caller's arrays. On the CPU nothing is copied; a GPU's memory is filled from the
    one and copied into the other, once each. Worker threads do not spin while they wait, so that decoding and encoding
    find a free core.

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
        self._session, device = _load(model, variant, precision, threads)
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
        self.info = SessionInfo("onnxruntime", precision, variant, device, threads, in_flight)

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
        self._session, device = _load(model, variant, precision, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        check_ports(recurrence, (port.name for port in inputs), (port.name for port in outputs), variant)
        self.info = SessionInfo("onnxruntime", precision, variant, device, threads, 1)

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


def _load(model: bytes, variant: str, precision: str, threads: int) -> tuple[Any, str]:
    """A session, and the device that it runs on."""
    engine = module()
    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal only: errors are raised, with their message
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        if precision in ON_CUDA and on_cuda():
            return _on_gpu(engine, model, options, precision), f"CUDA {driver().gpus[0].name}"
        return engine.InferenceSession(model, options, providers=["CPUExecutionProvider"]), "CPU"
    except GenedgeError:
        raise
    except Exception as error:  # the bindings raise half a dozen unrelated classes
        raise GenedgeError(f"ONNX Runtime cannot read the {variant} model: {_first_line(error)}") from None


def _on_gpu(engine: Any, model: bytes, options: Any, precision: str) -> Any:
    """A session on the first GPU. Raises :class:`NoCudaError` where the CUDA provider does not start."""
    trouble = _trouble(engine)
    engine.set_default_logger_severity(4)  # the provider's own complaints go to the process's log, not the session's
    # tensor cores would round float32 to 10 bits of mantissa, which is not what parity was measured in
    settings = {"device_id": "0", "use_tf32": "0" if precision == "fp32" else "1"}
    providers = [(CUDA, settings), "CPUExecutionProvider"]
    with contextlib.redirect_stdout(io.StringIO()):  # before 1.21 a fallback is said with print
        session = engine.InferenceSession(model, options, providers=providers, enable_fallback=0)
    if CUDA not in session.get_providers():
        raise NoCudaError(str(engine.__version__), *trouble)
    return session


def _trouble(engine: Any) -> tuple[str, str]:
    """What is wrong where the CUDA provider does not start, and the remedy. From 1.21 on this also loads CUDA and cuDNN
    from their wheels, where the provider alone would not look."""
    built, served, said = str(getattr(engine, "cuda_version", "")), driver().cuda, io.StringIO()
    if hasattr(engine, "preload_dlls"):
        with contextlib.redirect_stdout(said):  # it is said with print
            engine.preload_dlls()
    if served is not None and built and served[0] < (major := int(built.split(".")[0])):
        return f"it needs CUDA {built} and the driver serves {served[0]}.{served[1]}", newer_driver(major)
    if missing := re.findall(r"Failed to load (\S+):", said.getvalue()):
        return f"{', '.join(dict.fromkeys(missing))} cannot be loaded", REPAIR
    return "CUDA or cuDNN is missing", REPAIR


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
