"""A session for generators with a state: every frame is computed from what the one before has left."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import GenedgeError
from runtime.frames import Frames
from runtime.manifest import Manifest, Port, free_sizes
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.codes import CodeInputs, code_ports

Arrays = Mapping[str, NDArray[Any]]  # port's name -> C-contiguous array of the port's dtype

MAX_STATE_BYTES = 1 << 31  # 2 GiB; a 64-channel float32 state of a 4K frame


@dataclass(frozen=True)
class Recurrence:
    """The ports of a generator with a state or a code, as its manifest describes them."""

    frame: Port
    image: Port  # the one that the session gives
    states: tuple[Port, ...]  # each with a source and an initial value
    codes: tuple[Port, ...] = ()  # each with a rule
    others: tuple[Port, ...] = ()  # further images, which are computed and thrown away
    scale: int = 1  # output size over input size

    @property
    def inputs(self) -> frozenset[str]:
        return frozenset({self.frame.name, *(port.name for port in (*self.states, *self.codes))})

    @property
    def outputs(self) -> frozenset[str]:
        fed_back = {port.source for port in self.states if port.source is not None}
        images = {port.name for port in (self.image, *self.others)}
        return frozenset(images | (fed_back - {self.frame.name}))

    def shapes(self, frames: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shape of every input for frames of shape (N, H, W, 3)."""
        sizes = free_sizes(self.frame, self.image, frames, self.scale)
        others = {
            port.name: tuple(side if isinstance(side, int) else sizes[side] for side in port.shape)
            for port in (*self.states, *self.codes)
        }
        return {self.frame.name: frames, **others}

    def shapes_taken(self, frames: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """As :meth:`shapes`. Raises :class:`GenedgeError` for frames of a size that the generator does not take, or
        whose states would need more than ``MAX_STATE_BYTES``."""
        for side, size in zip(self.frame.shape, frames, strict=True):
            if isinstance(side, int) and side != size:
                wanted = "x".join(map(str, self.frame.shape))
                raise GenedgeError(f"this generator takes frames of {wanted} only, not of {'x'.join(map(str, frames))}")
        shapes = self.shapes(frames)
        if sum(_bytes(port, shapes[port.name]) for port in self.states) > MAX_STATE_BYTES:
            raise GenedgeError(
                f"frames of {frames[2]}x{frames[1]} need states of more than {MAX_STATE_BYTES >> 30} GiB"
            )
        return shapes

    def misfit(self, frames: tuple[int, ...], error: GenedgeError) -> GenedgeError:
        """What to raise where the first step with frames of this shape has failed with ``error``: often because a
        state does not grow with the frame although the frame may have any size."""
        if all(isinstance(side, int) for side in self.frame.shape[1:]):
            return error
        for port in self.states:
            if len(port.shape) > 2 and all(isinstance(side, int) for side in port.shape[1:]):
                size, sides = f"{frames[2]}x{frames[1]}", "x".join(map(str, port.shape))
                return GenedgeError(
                    f"frames of {size} do not seem to fit the state {port.name}, which is always {sides}: {error}"
                )
        return error


def recurrence_of(manifest: Manifest, image: Port | None = None) -> Recurrence | None:
    """What the manifest says about states, or None for a generator without. ``image``: that shall be given, of several.

    Raises :class:`GenedgeError` where it does not say what feeds a state, or what a code takes.
    """
    states = manifest.states
    for port in states:
        if port.source is None or port.initial is None:
            raise GenedgeError(
                f"the manifest of {manifest.name} does not say what feeds the state {port.name}: build the bundle again"
            )
    shown, scale = image or manifest.image, manifest.geometry.scale
    others = tuple(port for port in manifest.images if port != shown)
    return Recurrence(manifest.frame, shown, states, code_ports(manifest), others, scale) if states else None


def check_ports(recurrence: Recurrence, inputs: Iterable[str], outputs: Iterable[str], variant: str) -> None:
    """Raise :class:`GenedgeError` where a model's ports are not those of the manifest; it may give more than that."""
    for side, found, wanted, fits in (
        ("inputs", frozenset(inputs), recurrence.inputs, frozenset.__eq__),
        ("outputs", frozenset(outputs), recurrence.outputs, frozenset.issuperset),
    ):
        if not fits(found, wanted):
            raise GenedgeError(
                f"the {variant} model has the {side} {', '.join(sorted(found))}, "
                f"but the manifest describes {', '.join(sorted(wanted))}: build the bundle again"
            )


class Stepper(ABC):
    """An engine that computes one step at a time from named arrays. Only one thread calls it.

    ``info`` is what it runs on; it may change in ``specialise``. Both raise :class:`GenedgeError` with the engine's
    own words.
    """

    info: SessionInfo

    @abstractmethod
    def specialise(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Get ready for inputs of these shapes."""

    @abstractmethod
    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Read ``inputs``, write into ``outputs`` in place, and keep no reference to any. Inputs are not written."""

    @abstractmethod
    def close(self) -> None:
        """Free the engine."""


class _State:
    """One state: the array that the next step reads, and the one it writes (None where the frame feeds it)."""

    def __init__(self, port: Port, shape: tuple[int, ...], *, fed_by_frame: bool) -> None:
        self.port = port
        self.value = np.zeros(shape, port.dtype)
        self.following = None if fed_by_frame else np.empty(shape, port.dtype)

    def restart(self) -> None:
        self.value.fill(0)

    def advance(self, frames: Frames) -> None:
        """What the step has left becomes what the next one reads."""
        if self.following is None:
            np.copyto(self.value, frames)  # the frames' memory is the caller's again
        else:
            self.value, self.following = self.following, self.value


class RecurrentSession(Session):
    """Runs frames strictly in the order of ``submit`` and hands the states from each to the next.

    A state that an output feeds lives in two arrays that change roles after each step, so nothing is copied; the
    frame of the step before is copied once, since the caller uses its memory again. Up to ``info.in_flight`` requests
    may wait; one is computed at a time, since it needs the states that the one before leaves.

    The states take their initial value for the first frames, after :meth:`reset`, and where the shape of the frames
    changes. With N > 1 each of the N frames belongs to a stream of its own. A step that fails leaves the states as
    they were before it.

    Args:
        stepper: the engine; it belongs to the session and is closed with it.
        recurrence: the graph's ports.
        scale: output size over input size.
        in_flight: requests that may have been submitted and not be done.
    """

    def __init__(self, stepper: Stepper, recurrence: Recurrence, scale: int, *, in_flight: int = 2) -> None:
        self.scale = scale
        self.code_inputs = CodeInputs.of(recurrence.codes)
        self._stepper, self._recurrence, self._in_flight = stepper, recurrence, in_flight
        self._shape: tuple[int, ...] | None = None
        self._states: list[_State] = []
        self._unseen: dict[str, Frames] = {}  # where further images go
        self._initial = True  # the states hold their initial values
        self._reset = False  # before the request that is submitted next
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(in_flight)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recurrent")  # one thread: steps keep their order
        self.info = replace(stepper.info, in_flight=in_flight)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        frames, result = self._arrays(frames, out)
        codes = self.code_inputs.arrays(frames.shape)
        self._slots.acquire()
        with self._lock:
            reset, self._reset = self._reset, False
            try:
                return Pending(self._pool.submit(self._step, frames, result, reset, codes).result)
            except RuntimeError:  # the session is closed
                self._slots.release()
                raise

    def reset(self) -> None:
        with self._lock:
            self._reset = True

    def warm_up(self, shape: tuple[int, int, int, int]) -> None:
        """Specialise to ``shape`` (N, H, W, 3) and run once; the states are reset afterwards."""
        super().warm_up(shape)
        self.reset()

    def close(self) -> None:
        self._pool.shutdown(wait=True)
        self._states.clear()
        self._unseen.clear()
        self._stepper.close()

    # -- in the worker thread -------------------------------------------------------------------

    def _step(self, frames: Frames, out: Frames, reset: bool, codes: Arrays) -> Frames:
        try:
            if frames.shape != self._shape:
                self._specialise(frames.shape)
            elif reset and not self._initial:
                self._restart()
            ports = self._recurrence
            inputs: dict[str, NDArray[Any]] = {ports.frame.name: frames, **codes}
            outputs: dict[str, NDArray[Any]] = {ports.image.name: out, **self._unseen}
            for state in self._states:
                own = self._initial and state.port.initial == "frame"
                inputs[state.port.name] = frames if own else state.value
                if state.following is not None:
                    assert state.port.source is not None
                    outputs[state.port.source] = state.following
            self._stepper.run(inputs, outputs)
            for state in self._states:
                state.advance(frames)
            self._initial = False
            return out
        except GenedgeError as error:
            raise (self._recurrence.misfit(frames.shape, error) if self._initial else error) from None
        finally:
            self._slots.release()

    def _restart(self) -> None:
        for state in self._states:
            state.restart()
        self._initial = True

    def _specialise(self, shape: tuple[int, ...]) -> None:
        self._shape, self._initial = None, True
        self._states.clear()
        shapes = self._recurrence.shapes_taken(shape)
        self._stepper.specialise(shapes)
        self.info = replace(self._stepper.info, in_flight=self._in_flight)
        frame = self._recurrence.frame.name
        self._unseen = {port.name: np.empty(self.output_shape(shape), np.uint8) for port in self._recurrence.others}
        states = self._recurrence.states
        self._states = [_State(port, shapes[port.name], fed_by_frame=port.source == frame) for port in states]
        self._shape = shape


def _bytes(port: Port, shape: tuple[int, ...]) -> int:
    count = np.dtype(port.dtype).itemsize * (1 if port.source is None else 2)
    for side in shape:
        count *= side  # Python's whole numbers do not overflow
    return count
