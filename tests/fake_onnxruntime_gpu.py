"""onnxruntime-gpu as it was recorded (1.31.1, on a machine without a GPU), around the real ONNX Runtime of the CPU.

What was recorded there: ``get_available_providers`` lists TensorRT, CUDA and CPU whether or not they can start.
``preload_dlls`` prints a line for each library that does not load. ``InferenceSession`` asked for CUDA without its
libraries writes to the log of the process, raises nothing, and has only the CPU provider, as ``get_providers`` tells;
``enable_fallback=0`` does not change that. A session that does start on CUDA was not at hand: this one computes on the
CPU and says CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
MISSING = ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10")


class FakeOnnxRuntimeGpu:
    """The module. ``missing`` are the libraries that do not load; ``starts`` whether the provider does without them."""

    __version__ = "1.31.1"
    cuda_version = "13.0"
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, missing: Sequence[str] = (), *, starts: bool = True) -> None:
        self._missing, self._starts = tuple(missing), starts and not missing
        self.sessions: list[FakeSession] = []
        self.severity = 2  # warnings

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", CUDA, CPU]

    def set_default_logger_severity(self, severity: int) -> None:
        self.severity = severity

    def preload_dlls(self) -> None:
        for name in self._missing:
            print(f"Failed to load {name}: {name}: cannot open shared object file: No such file or directory")
        if self._missing:
            print("Please follow https://onnxruntime.ai/docs/install/#cuda-and-cudnn to install CUDA.")

    def InferenceSession(self, model: bytes, options: Any, providers: Any, **more: Any) -> FakeSession:  # noqa: N802
        session = FakeSession(model, options, providers, starts=self._starts)
        self.sessions.append(session)
        return session


class FakeSession:
    def __init__(self, model: bytes, options: Any, providers: Sequence[Any], *, starts: bool) -> None:
        asked = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.settings = dict(provider for provider in providers if not isinstance(provider, str))
        self._providers = [name for name in asked if name != CUDA or starts]
        self._real = onnxruntime.InferenceSession(model, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return self._providers or [CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
