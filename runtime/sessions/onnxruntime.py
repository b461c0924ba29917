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
from runtime.nvidia import driver
from runtime.sessions.base import Pending, Session, SessionInfo, output_called
from runtime.sessions.codes import CodeInputs
from runtime.sessions.recurrent import Arrays, Recurrence, Stepper, check_ports

CUDA = "CUDAExecutionProvider"
ON_CUDA = ("fp32", "fp16")  # precisions that the CUDA provider computes
REPAIR = 'pip install "onnxruntime-gpu[cuda,cudnn]"'


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
        self._session, device = load(model, variant, precision, threads)
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
        self._session, device = load(model, variant, precision, threads)
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


def load(model: bytes, variant: str, precision: str, threads: int) -> tuple[Any, str]:
    """A session of ONNX Runtime's own, and the device that it runs on, see :func:`on_cuda`."""
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
    """A session on the first GPU. Raises :class:`GenedgeError` where the CUDA provider does not start."""
    engine.set_default_logger_severity(4)  # the provider's own complaints go to the process's log, not the session's
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it is said with print
        if hasattr(engine, "preload_dlls"):  # from 1.21: finds CUDA and cuDNN in their wheels
            engine.preload_dlls()
        # tensor cores would round float32 to 10 bits of mantissa, which is not what parity was measured in
        settings = {"device_id": "0", "use_tf32": "0" if precision == "fp32" else "1"}
        providers = [(CUDA, settings), "CPUExecutionProvider"]
        session = engine.InferenceSession(model, options, providers=providers, enable_fallback=0)
    if CUDA not in session.get_providers():
        raise GenedgeError(
            f"onnxruntime-gpu {engine.__version__} does not reach the GPU: {_why_not(engine, said.getvalue())}; "
            "or hide the GPU with CUDA_VISIBLE_DEVICES= to compute on the CPU"
        )
    return session


def _why_not(engine: Any, said: str) -> str:
    """What is missing, and the remedy. ``said`` is what loading the libraries has printed."""
    built = str(getattr(engine, "cuda_version", ""))
    served = driver().cuda
    if served is not None and built and served[0] < int(built.split(".")[0]):
        return f"it needs CUDA {built} and the driver serves {served[0]}.{served[1]}: update the driver"
    if missing := re.findall(r"Failed to load (\S+):", said):
        return f"{', '.join(dict.fromkeys(missing))} cannot be loaded: {REPAIR}"
    return f"CUDA {built} or cuDNN 9 is missing: {REPAIR}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
