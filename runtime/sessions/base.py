"""The one seam between the video pipeline and an inference engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from runtime.codes import Code
from runtime.errors import GenedgeError
from runtime.frames import Frames
from runtime.sessions.codes import NO_CODES, CodeInputs

S = TypeVar("S", bound="Session")  # typing.Self comes with Python 3.11; JetPack 6 has 3.10


@dataclass(frozen=True)
class SessionInfo:
    """What a session runs on, for reports and the one-line reason."""

    backend: str  # openvino | onnxruntime | tensorrt | fake
    precision: str  # fp32 | bf16 | fp16 | int8
    variant: str  # the artifact in the bundle
    device: str  # e.g. "CPU"
    threads: int
    in_flight: int  # requests that may run at once


class Pending:
    """A result that is on its way. ``result()`` waits for it and re-raises the engine's error."""

    __slots__ = ("_wait",)

    def __init__(self, wait: Callable[[], Frames]) -> None:
        self._wait = wait

    def result(self) -> Frames:
        """The output frames, ``uint8 (N, sH, sW, 3) BGR``."""
        return self._wait()


def output_called(name: str | None, outputs: Sequence[str], variant: str) -> str:
    """``name``, or the first of a model's ``outputs`` for None.

    Raises :class:`GenedgeError` where the model has no such output.
    """
    if name is None:
        return outputs[0]
    if name not in outputs:
        raise GenedgeError(
            f"the {variant} model has the outputs {', '.join(outputs)}, but the manifest describes {name}: "
            "build the bundle again"
        )
    return name


class Session(ABC):
    """A generator that is ready to run frames of one shape after the other. A context manager.

    **Who owns the buffers.** The session reads ``frames`` until the result is there, so the caller
    leaves it alone until ``Pending.result()`` has returned. The result is written into ``out``
    where the caller gives one (C-contiguous, ``output_shape(frames.shape)``), else into a new
    array; either way it belongs to the caller. Sessions never keep a reference to it.

    A change of the frames' shape is allowed between requests; the engine specialises itself again,
    which can take from milliseconds (ONNX Runtime) to seconds (OpenVINO, TensorRT).

    A conditional generator has ``codes``, which any thread may set at any time.
    """

    info: SessionInfo
    scale: int
    code_inputs: CodeInputs = NO_CODES

    @property
    def codes(self) -> Mapping[str, Code]:
        """The rule of every code by its name; empty for a generator that takes nothing but frames."""
        return self.code_inputs.codes

    def set_code(self, name: str, values: ArrayLike) -> None:
        """Give a code these numbers, for the frames that are submitted from now on; those under way keep theirs.

        Args:
            name: one of ``codes``.
            values: ``float32 (size,)``, or of a map also ``(size, H, W)`` of the frames' size. They apply to all N
                frames of a request. The array is copied.

        Raises :class:`runtime.errors.UsageError` where there is no such code or its rule does not allow the numbers.
        """
        self.code_inputs.set(name, values)

    def set_codes(self, values: Mapping[str, ArrayLike]) -> None:
        """Set all codes at once: those that ``values`` does not name get their default. Else as :meth:`set_code`."""
        self.code_inputs.replace(values)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Shape of the output frames for input frames of ``shape`` (N, H, W, 3)."""
        count, height, width, _ = shape
        return count, height * self.scale, width * self.scale, 3

    def new_array(self, shape: tuple[int, ...]) -> Frames:
        """A new uint8 array, not filled, in memory that this session reads and writes without a copy on the way. Any
        other array does too."""
        return np.empty(shape, dtype=np.uint8)

    def infer(self, frames: Frames, out: Frames | None = None) -> Frames:
        """Run ``uint8 (N, H, W, 3) BGR`` and wait for ``uint8 (N, sH, sW, 3) BGR``."""
        return self.submit(frames, out).result()

    def _arrays(self, frames: Frames, out: Frames | None) -> tuple[Frames, Frames]:
        """``frames`` C-contiguous and the array for the result. An engine gets bare addresses, so both are checked."""
        frames, out = self._checked(frames, out)
        return np.ascontiguousarray(frames), out

    def _checked(self, frames: Frames, out: Frames | None) -> tuple[Frames, Frames]:
        """``frames`` as they are, in whatever order their memory has, and the array for the result."""
        if frames.ndim != 4 or frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 (N, H, W, 3), not {frames.dtype} {frames.shape}")
        shape = self.output_shape(frames.shape)
        if out is None:
            out = np.empty(shape, dtype=np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.carray:
            raise ValueError(f"out must be a writable C-contiguous uint8 array of {shape}")
        return frames, out

    @abstractmethod
    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        """Start a request. Blocks while ``info.in_flight`` requests are under way already."""

    def warm_up(self, shape: tuple[int, int, int, int]) -> None:
        """Specialise to ``shape`` (N, H, W, 3) and run once, so that the first frame is not slow."""
        self.infer(np.full(shape, 127, dtype=np.uint8))

    def reset(self) -> None:  # noqa: B027 - most generators have no state
        """Begin anew: frames that are submitted from now on know nothing of those before.

        Put the states of a recurrent generator back to their initial values. One without a state does nothing here.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait for what is under way and free the engine. Calling it twice is harmless."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
