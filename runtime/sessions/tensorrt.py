"""TensorRT session: the engine for NVIDIA GPUs.

A frame goes through pinned memory: uploaded on its slot's stream, computed on the one stream that all slots share, and
downloaded on the slot's stream again, so that one slot's copies run while another slot's frame is computed. Events
keep the order, and the host waits for nothing but a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.engines.build import Shape
from runtime.engines.cache import Engine, engine_for
from runtime.engines.facts import DeviceFacts, tensorrt_module
from runtime.engines.log import Log
from runtime.engines.settings import EngineSettings, Profile
from runtime.errors import GenedgeError, UsageError
from runtime.frames import Frames
from runtime.manifest import Port
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.codes import CodeInputs
from runtime.sessions.cuda import (
    Buffer,
    Cuda,
    CudaError,
    Event,
    Graph,
    OutOfGpuMemoryError,
    Stream,
    is_pinned,
    open_cuda,
)
from runtime.sessions.recurrent import Arrays, Recurrence, check_ports

TILE_STEP = 64  # pixels; the tiles that are offered where memory runs out have a multiple of it

Tensors = Mapping[str, tuple[np.dtype[Any], Shape]]  # name of an input or output -> its type and shape


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class TensorRtSession(Session):
    """Runs an ONNX frame graph on an NVIDIA GPU, also one with codes or with states.

    The engine is taken from the cache or built (:func:`runtime.engines.cache.engine_for`) when the first frames come,
    and again for frames that it does not take. What runs on it is made anew for every shape: ``in_flight`` slots, each
    with an execution context, a stream and buffers of its own. NVIDIA's guide asks for a context for each CUDA graph.
    The contexts share the memory for intermediate results, which is most of what one needs: one frame is computed at a
    time, since at the size of video a frame fills the GPU.

    Each slot's enqueue is captured in a CUDA graph once it has run. Where that is refused, or ``use_graphs`` is off,
    it is enqueued anew for every frame. Where TensorRT lets one context only use the engine (8.5 and 8.6, of a graph
    with free dimensions), the slots share it, without graphs.

    The states of a recurrent generator never leave the GPU. With an even number of slots a step reads one array and
    writes the other, and the next step finds them the other way round; with an odd one the result is copied back. The
    states take their initial value for the first frames, after :meth:`reset`, and where the shape of the frames
    changes. A step that TensorRT refuses leaves them as they were; after an error of CUDA they take it too, since
    nobody knows how far the step has come.

    A request that fails leaves the session as it was, unless the GPU says that nothing works any more; then every
    further request says so. The GPU itself copies from and to arrays of :meth:`new_array`.

    Args:
        model: the ONNX file's bytes, of the variant that :func:`runtime.engines.facts.variant_for` names.
        ports: the graph's ports, with the image that is given.
        scale: output size over input size.
        precision: fp32, fp16 or int8.
        facts: of this device.
        folder: where engines are kept.
        in_flight: requests that may be under way at once.
        use_graphs: off to measure what CUDA graphs are worth.
        progress: told what takes long, and the sentences of ``notes`` as they come.
    """

    def __init__(
        self,
        model: bytes,
        ports: Recurrence,
        scale: int,
        *,
        variant: str,
        precision: str,
        facts: DeviceFacts,
        settings: EngineSettings,
        folder: Path,
        in_flight: int = 2,
        use_graphs: bool = True,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._cuda = open_cuda()
        self._trt = tensorrt_module()
        self._model, self._digest = model, hashlib.sha256(model).hexdigest()
        self._ports, self.scale = ports, scale
        self.code_inputs = CodeInputs.of(ports.codes)
        self._facts, self._settings, self._folder = facts, settings, folder
        self._use_graphs, self._progress = use_graphs, progress
        self._lock = threading.Lock()
        self._engine: _Engine | None = None
        self._profile: Profile | None = None
        self._runner: _Runner | None = None
        self._closed, self._failure = False, ""
        self._reset = True  # before the request that is submitted next
        self.notes: list[str] = []  # sentences about the engine and how it is run
        self.info = SessionInfo("tensorrt", precision, variant, facts.gpu, 0, in_flight)

    @property
    def uses_graphs(self) -> bool:
        """Whether frames of the present shape are computed by CUDA graphs."""
        return self._runner is not None and self._runner.uses_graphs

    def new_array(self, shape: tuple[int, ...]) -> Frames:
        """In pinned memory, or where there is no more of that, in any."""
        try:
            return self._cuda.pinned(shape, np.uint8, "frames")
        except CudaError:
            self._cuda.forget_error()
            return super().new_array(shape)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        frames, out = self._checked(frames, out)
        codes = self.code_inputs.arrays(frames.shape)
        with self._lock:
            runner = self._ready(frames.shape)
            slot = runner.next_slot
            slot.settle()  # it has the oldest request, so the first to end
            try:
                staged = runner.start(slot, frames, out, codes, anew=self._reset)
            except GenedgeError as error:
                runner.drain(slot)
                self.note_failure(error)
                self._reset = self._reset or isinstance(error, CudaError)
                raise
            self._reset = False
            slot.running = running = _Running(self, slot, frames, staged, out)
            runner.advance()
        return Pending(running.result)

    def reset(self) -> None:
        with self._lock:
            self._reset = True

    def warm_up(self, shape: tuple[int, int, int, int]) -> None:
        """Specialise to ``shape`` (N, H, W, 3) and run once; states are reset afterwards."""
        super().warm_up(shape)
        self.reset()

    def time_engine(self, frames: Frames, repeats: int) -> list[float]:
        """Seconds that the GPU takes for ``uint8 (N, H, W, 3) BGR``, without copies from and to the host, ``repeats``
        times in a row. Requests that are under way end first; states are reset afterwards."""
        frames, _ = self._checked(frames, None)
        codes = self.code_inputs.arrays(frames.shape)
        with self._lock:
            runner = self._ready(frames.shape)
            runner.settle()
            self._reset = True
            try:
                return runner.time(frames, codes, repeats)
            except GenedgeError as error:
                runner.drain(runner.slots[0])
                self.note_failure(error)
                raise

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._release()
            self._drop_engine()

    def note_failure(self, error: GenedgeError) -> None:
        """Remember an error after which the GPU does nothing any more."""
        if not self._failure and not self._cuda.is_usable():
            self._failure = str(error)

    # -- the engine, for a shape -----------------------------------------------------------------

    def _ready(self, shape: Shape) -> _Runner:
        """What runs frames of this shape. Raises where the session does not run any."""
        if self._closed:
            raise RuntimeError("the session is closed")
        if self._failure:
            raise GenedgeError(f"the GPU cannot be used any more since an error before ({self._failure}): start again")
        if self._runner is None or self._runner.shape != shape:
            self._release()
            self._reset = True
            try:
                self._runner = self._specialised(shape)
            except (OutOfGpuMemoryError, UsageError):
                raise
            except GenedgeError as error:
                self.note_failure(error)
                raise self._ports.misfit(shape, error) from None
            self._tell(self._runner.notes)
        return self._runner

    def _specialised(self, shape: Shape) -> _Runner:
        shapes = self._ports.shapes_taken(shape)
        size = shape[0], shape[1], shape[2]
        engine = self._engine if self._profile is not None and self._profile.holds(*size) else None
        if engine is None:
            self._drop_engine()
            profile = self._profile_for(size)
            self._engine = engine = self._engine_of(profile)
            self._profile = profile
        image, count = self.output_shape(shape), self.info.in_flight
        try:
            return _Runner(self._cuda, engine, self._ports, shapes, image, count, use_graphs=self._use_graphs)
        except GenedgeError:
            self._drop_engine()  # its contexts may live on in the error's traceback, and keep the profile to themselves
            raise

    def _profile_for(self, size: tuple[int, int, int]) -> Profile:
        """The profile of the settings where it holds frames of this (N, H, W), else one for these frames only."""
        asked = self._settings.profile
        if asked is None or asked.holds(*size):
            return asked or Profile.fixed(*size)
        self._tell([f"{_named(size)} is outside the shapes asked for, {_span(asked)}: another engine is needed"])
        return Profile.fixed(*size)

    def _engine_of(self, profile: Profile) -> _Engine:
        sizes = profile.smallest, profile.usual, profile.largest
        smallest, usual, largest = (self._ports.shapes((*size, 3)) for size in sizes)
        inputs = {name: (smallest[name], usual[name], largest[name]) for name in usual}
        try:
            engine = self._deserialised(self._kept_or_built(inputs))
        except _RefusedError as refusal:
            try:
                engine = self._deserialised(self._kept_or_built(inputs, refused=str(refusal)))
            except _RefusedError as again:
                raise GenedgeError(f"TensorRT does not take the engine that it has just built: {again}") from None
        try:
            check_ports(self._ports, engine.inputs, engine.outputs, self.info.variant)
        except GenedgeError:
            engine.close()
            raise
        return engine

    def _deserialised(self, built: Engine) -> _Engine:
        return _Engine(self._cuda, self._trt, built.plan, self._settings)

    def _kept_or_built(self, inputs: Mapping[str, tuple[Shape, Shape, Shape]], refused: str | None = None) -> Engine:
        built = engine_for(
            self._model,
            self._digest,
            inputs,
            self.info.precision,
            self.info.variant,
            self._facts,
            self._settings,
            folder=self._folder,
            progress=self._progress,
            refused=refused,
        )
        self.notes.extend(built.notes)  # which it has told already
        return built

    def _tell(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.notes.append(note)
            self._progress(note)

    def _release(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._runner = None

    def _drop_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = self._profile = None


class _RefusedError(GenedgeError):
    """TensorRT does not take a plan."""


class _Engine:
    """A plan that TensorRT has read.

    Raises :class:`_RefusedError` where it does not, and :class:`OutOfGpuMemoryError` where there is no room for it.
    """

    def __init__(self, cuda: Cuda, trt: Any, plan: bytes, settings: EngineSettings) -> None:
        self._trt, self._log = trt, Log(trt)
        self._engine: Any = None
        self._runtime: Any = None
        try:
            self._read(cuda, plan, settings)
        except BaseException:
            self.close()
            raise

    def _read(self, cuda: Cuda, plan: bytes, settings: EngineSettings) -> None:
        trt = self._trt
        if not trt.init_libnvinfer_plugins(self._log.native, ""):  # 8.5 and 8.6 run instance norms as plugins
            raise GenedgeError(f"TensorRT's plugins do not load: {self._log.first_words()}")
        try:
            self._runtime = trt.Runtime(self._log.native)
        except TypeError:  # what pybind11 makes of a null pointer
            raise GenedgeError(f"TensorRT does not start: {self._log.first_words()}") from None
        if settings.version_compatible:  # such a plan holds code for the host; this one was built here
            self._runtime.engine_host_code_allowed = True
        if settings.dla_core is not None:
            self._runtime.DLA_core = settings.dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            if self._log.out_of_memory:
                remedy = "close what else uses the GPU"
                raise OutOfGpuMemoryError("the engine's weights", len(plan), cuda.memory()[0], remedy)
            raise _RefusedError(self._log.first_words())
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        mode, mode_of = trt.TensorIOMode, self._engine.get_tensor_mode
        self.inputs = [name for name in names if mode_of(name) == mode.INPUT]
        self.outputs = [name for name in names if mode_of(name) == mode.OUTPUT]

    @property
    def scratch_bytes(self) -> int:
        """What a context needs for intermediate results."""
        if hasattr(self._engine, "device_memory_size_v2"):
            return int(self._engine.device_memory_size_v2)
        return int(self._engine.device_memory_size)  # gone in TensorRT 11

    def context(self, shapes: Mapping[str, Shape], stream: int) -> Any | None:
        """An execution context without memory for intermediate results, for inputs of these shapes.

        None where the contexts before have taken the engine's profile, which below TensorRT 9 belongs to one.
        """
        if hasattr(self._engine, "create_execution_context_without_device_memory"):
            context = self._engine.create_execution_context_without_device_memory()
        else:  # from TensorRT 11
            context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self._failed("TensorRT makes no execution context")
        if context.active_optimization_profile < 0:
            try:
                context.set_optimization_profile_async(0, stream)
            except RuntimeError:
                self._log.first_words()
                return None
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._failed(f"TensorRT does not take {name} of {'x'.join(map(str, shape))}")
        return context

    def tensors(self, context: Any) -> Tensors:
        """All inputs and outputs, once the inputs of the context have their shapes."""
        tensors = {}
        for name in (*self.inputs, *self.outputs):
            shape = tuple(context.get_tensor_shape(name))
            if any(side < 0 for side in shape):
                raise GenedgeError(f"TensorRT cannot tell the shape of {name} before it runs: build the bundle again")
            tensors[name] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))), shape
        return tensors

    def lend(self, context: Any, scratch: Buffer) -> None:
        """Give a context the memory for its intermediate results."""
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch.address, scratch.count)
        else:  # before TensorRT 10.1
            context.device_memory = scratch.address

    def bind(self, context: Any, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._failed(f"TensorRT does not take the address of {name}")

    def enqueue(self, context: Any, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise self._failed("TensorRT failed")

    def _failed(self, doing: str) -> GenedgeError:
        return GenedgeError(f"{doing}: {self._log.first_words()}")

    def close(self) -> None:
        """Free the engine; its contexts are gone before."""
        self._engine = self._runtime = None
        self._log.close()


@dataclass(frozen=True)
class _State:
    """What a slot does with a state: the array that it reads, and the one that it writes (None: the frame is it)."""

    port: Port
    read: Buffer
    written: Buffer | None


@dataclass
class _Slot:
    """A place for one request."""

    context: Any
    addresses: dict[str, int]  # of all inputs and outputs
    stream: Stream  # of its copies
    uploaded: Event
    computed: Event
    frame: Buffer
    image: Buffer
    codes: dict[str, Buffer]
    states: list[_State]
    pinned: dict[str, NDArray[Any]]  # what the GPU copies from, and of the image to
    held: Arrays | None = None  # the codes that the GPU has
    graph: Graph | None = None
    running: _Running | None = None

    def settle(self) -> None:
        running = self.running  # read once: the thread that collects the result clears it
        if running is not None:
            running.settle()


class _Running:
    """A started request. The GPU may read and write the caller's arrays, so they are held until it is done.

    ``staged`` is where the result comes to be copied from, None where the GPU writes into ``out``.
    """

    def __init__(
        self, session: TensorRtSession, slot: _Slot, frames: Frames, staged: Frames | None, out: Frames
    ) -> None:
        self._session, self._staged, self._out = session, staged, out
        self._slot: _Slot | None = slot
        self._frames: Frames | None = frames
        self._failure = ""
        self._lock = threading.Lock()

    def settle(self) -> None:
        """Wait for the GPU and free the slot, whether or not the result is ever asked for."""
        with self._lock:
            slot, self._slot = self._slot, None
            if slot is None:
                return
            try:
                slot.stream.synchronize("TensorRT failed on the GPU")
                if self._staged is not None:
                    np.copyto(self._out, self._staged)
            except GenedgeError as error:
                self._failure = str(error)
                self._session.note_failure(error)
            finally:
                self._frames = self._staged = slot.running = None

    def result(self) -> Frames:
        self.settle()
        if self._failure:
            raise GenedgeError(self._failure)
        return self._out


class _Runner:
    """An engine at work on frames of one shape: slots, the compute stream, and all memory on the GPU.

    Raises :class:`OutOfGpuMemoryError` with all that is needed, and what would fit.
    """

    def __init__(
        self,
        cuda: Cuda,
        engine: _Engine,
        ports: Recurrence,
        shapes: Mapping[str, Shape],
        image: Shape,
        count: int,
        *,
        use_graphs: bool,
    ) -> None:
        self.shape = shapes[ports.frame.name]
        self.slots: list[_Slot] = []
        self.notes: list[str] = []
        self._cuda, self._engine, self._ports = cuda, engine, ports
        self._owned, self._next = contextlib.ExitStack(), 0
        self._swaps = count % 2 == 0  # the two arrays of a state change roles from one slot to the next
        self._shares_context = False
        self._compute = self._own(cuda.stream())
        try:
            self._make(shapes, image, count)
            self._try()
            if use_graphs:
                self._capture()
        except BaseException:
            self.close()
            raise

    @property
    def uses_graphs(self) -> bool:
        return self.slots[0].graph is not None

    @property
    def next_slot(self) -> _Slot:
        return self.slots[self._next]

    def advance(self) -> None:
        """The next request goes to the next slot."""
        self._next = (self._next + 1) % len(self.slots)

    def start(self, slot: _Slot, frames: Frames, out: Frames, codes: Arrays, *, anew: bool) -> Frames | None:
        """Give all that a request needs to the GPU. ``anew``: the states have their initial values before it.

        Returns where the result will be, to be copied from there; None where the GPU writes into ``out`` itself.
        """
        self._upload(slot, frames, codes)
        slot.stream.record(slot.uploaded)
        self._compute.wait(slot.uploaded)
        if anew:
            for state in slot.states:
                if state.port.initial == "frame":
                    self._compute.copy(slot.frame, state.read)
                else:
                    self._compute.zero(state.read)
        self._enqueue(slot)
        for state in slot.states:
            if state.written is None:
                self._compute.copy(slot.frame, state.read)
            elif not self._swaps:
                self._compute.copy(state.written, state.read)
        self._compute.record(slot.computed)
        slot.stream.wait(slot.computed)
        staged = None if is_pinned(out) else slot.pinned[self._ports.image.name]
        slot.stream.download(slot.image, out if staged is None else staged)
        return staged

    def time(self, frames: Frames, codes: Arrays, repeats: int) -> list[float]:
        """See :meth:`TensorRtSession.time_engine`. Nothing is under way."""
        slot = self.slots[0]
        self._upload(slot, frames, codes)
        slot.stream.synchronize("copying frames to the GPU failed")
        with contextlib.ExitStack() as stack:
            events = [stack.enter_context(contextlib.closing(self._cuda.event(timed=True))) for _ in range(repeats + 1)]
            self._compute.record(events[0])
            for event in events[1:]:
                self._enqueue(slot)
                self._compute.record(event)
            self._compute.synchronize("TensorRT failed on the GPU")
            return [end.seconds_since(start) for start, end in itertools.pairwise(events)]

    def settle(self) -> None:
        for slot in self.slots:
            slot.settle()

    def drain(self, slot: _Slot) -> None:
        """After a request that was given to the GPU in part only: nothing of it is under way any more."""
        for stream in (slot.stream, self._compute):
            with contextlib.suppress(CudaError):
                stream.synchronize("a request cannot be ended")

    def close(self) -> None:
        """Graphs hold addresses in contexts, and contexts those of buffers: they are freed in this order."""
        self.settle()
        with contextlib.suppress(CudaError):
            self._compute.synchronize("the requests cannot be ended")
        self._drop_graphs()
        self.slots.clear()
        self._owned.close()

    # -- one request -----------------------------------------------------------------------------

    def _upload(self, slot: _Slot, frames: Frames, codes: Arrays) -> None:
        if not (is_pinned(frames) and frames.flags.c_contiguous):
            staged = slot.pinned[self._ports.frame.name]
            np.copyto(staged, frames)
            frames = staged
        slot.stream.upload(frames, slot.frame)
        if slot.held is not codes:  # they are made anew for every change
            slot.held = None
            for name, array in codes.items():
                np.copyto(slot.pinned[name], array)
                slot.stream.upload(slot.pinned[name], slot.codes[name])
            slot.held = codes

    def _enqueue(self, slot: _Slot) -> None:
        if slot.graph is not None:
            self._compute.launch(slot.graph)
            return
        if self._shares_context:
            self._engine.bind(slot.context, slot.addresses)
        self._engine.enqueue(slot.context, self._compute.address)

    # -- getting ready ---------------------------------------------------------------------------

    def _own(self, thing: T) -> T:
        self._owned.callback(thing.close)
        return thing

    def _buffer(self, count: int, what: str) -> Buffer:
        return self._own(self._cuda.buffer(count, what))

    def _make(self, shapes: Mapping[str, Shape], image: Shape, count: int) -> None:
        """Contexts, buffers and slots."""
        engine, ports = self._engine, self._ports
        first = engine.context(shapes, self._compute.address)
        if first is None:
            raise GenedgeError("TensorRT lets no execution context use this engine: build it again")
        tensors = engine.tensors(first)
        _check_edges(tensors, ports, image)
        sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in tensors.items()}
        sources = {port.source for port in ports.states}
        own = [ports.frame.name, ports.image.name, *(port.name for port in ports.codes)]  # of every slot
        unseen = [name for name in engine.outputs if name != ports.image.name and name not in sources]
        fed_back = {port.name for port in ports.states if port.source != ports.frame.name}  # in two arrays
        shared = [*unseen, *(port.name for port in ports.states), *fed_back]
        needed = engine.scratch_bytes + sum(sizes[name] for name in shared) + count * sum(sizes[name] for name in own)
        free = self._cuda.memory()[0]
        try:
            scratch = self._buffer(engine.scratch_bytes, "intermediate results")
            thrown_away = {name: self._buffer(sizes[name], name).address for name in unseen}
            pairs = [
                (
                    port,
                    self._buffer(sizes[port.name], port.name),
                    self._buffer(sizes[port.name], port.name) if port.name in fed_back else None,
                )
                for port in ports.states
            ]
            for index, context in enumerate(self._contexts(first, shapes, count)):
                swapped = self._swaps and index % 2 == 1
                states = [
                    _State(port, other, one) if swapped and other is not None else _State(port, one, other)
                    for port, one, other in pairs
                ]
                slot = self._slot(context, tensors, {name: self._buffer(sizes[name], name) for name in own}, states)
                slot.addresses |= thrown_away
                engine.lend(context, scratch)
                engine.bind(context, slot.addresses)
                self.slots.append(slot)
        except OutOfGpuMemoryError:
            what = f"frames of {self.shape[2]}x{self.shape[1]}, {count} of them in flight"
            remedy = f"run with --tile {_tile_that_fits(self.shape, needed, free)}, or close what else uses the GPU"
            raise OutOfGpuMemoryError(what, needed, free, remedy) from None

    def _contexts(self, first: Any, shapes: Mapping[str, Shape], count: int) -> list[Any]:
        """One for each slot, or for all of them the only one that there can be."""
        contexts = [first]
        while len(contexts) < count:
            context = self._engine.context(shapes, self._compute.address)
            if context is None:
                self._shares_context = True
                return [first] * count
            contexts.append(context)
        return contexts

    def _slot(self, context: Any, tensors: Tensors, buffers: dict[str, Buffer], states: list[_State]) -> _Slot:
        addresses = {name: buffer.address for name, buffer in buffers.items()}
        for state in states:
            addresses[state.port.name] = state.read.address
            if state.written is not None:
                assert state.port.source is not None
                addresses[state.port.source] = state.written.address
        return _Slot(
            context,
            addresses,
            self._own(self._cuda.stream()),
            self._own(self._cuda.event()),
            self._own(self._cuda.event()),
            buffers[self._ports.frame.name],
            buffers[self._ports.image.name],
            {port.name: buffers[port.name] for port in self._ports.codes},
            states,
            {name: self._cuda.pinned(tensors[name][1], tensors[name][0], name) for name in buffers},
        )

    def _try(self) -> None:
        """Run every slot once on zeros. TensorRT does here what a new shape asks of it, which cannot be captured."""
        for slot in self.slots:
            for buffer in (slot.frame, *slot.codes.values(), *(state.read for state in slot.states)):
                self._compute.zero(buffer)
            self._enqueue(slot)
        self._compute.synchronize("TensorRT failed on the GPU")

    def _capture(self) -> None:
        """Make a graph of every slot's enqueue, or a note where that does not work."""
        if self._shares_context:
            self.notes.append("TensorRT lets one execution context only use this engine: it runs without CUDA graphs")
            return
        try:
            for slot in self.slots:
                slot.graph = self._captured(slot)
        except GenedgeError as error:
            self._cuda.forget_error()
            self._drop_graphs()
            self.notes.append(f"no CUDA graph can be made of this engine, it runs without: {error}")

    def _captured(self, slot: _Slot) -> Graph:
        self._compute.begin_capture()
        try:
            self._engine.enqueue(slot.context, self._compute.address)
        except GenedgeError:
            with contextlib.suppress(CudaError):
                self._compute.end_capture().close()
            raise
        return self._compute.end_capture()

    def _drop_graphs(self) -> None:
        for slot in self.slots:
            if slot.graph is not None:
                slot.graph.close()
            slot.graph = None


def _check_edges(tensors: Tensors, ports: Recurrence, image: Shape) -> None:
    """Raise :class:`GenedgeError` where the engine's image, or a type, is not what the manifest describes, or where a
    state is not like what feeds it. States stay on the GPU, so they may have a type that TensorRT chose: int64 became
    int32 before version 10."""
    wanted = {ports.image.name: (np.dtype(ports.image.dtype), image)}
    for port in (ports.frame, *ports.codes):
        wanted[port.name] = np.dtype(port.dtype), tensors[port.name][1]
    for port in ports.states:
        assert port.source is not None
        wanted[port.source] = tensors[port.name]
        if port.initial == "frame":
            wanted[port.name] = wanted[ports.frame.name]
    for name, expected in wanted.items():
        if tensors[name] != expected:
            found, described = (f"{dtype} {'x'.join(map(str, shape))}" for dtype, shape in (tensors[name], expected))
            raise GenedgeError(f"{name} of the engine is {found}, but it should be {described}: build the bundle again")


def _tile_that_fits(shape: Shape, needed: int, free: int) -> int:
    """Pixels a side of the tiles that would fit, with some room left: what is needed grows with the area."""
    side = math.isqrt(int(shape[1] * shape[2] * 0.8 * free / needed))
    return max(TILE_STEP, min(side, *shape[1:3]) // TILE_STEP * TILE_STEP)


def _named(size: Iterable[int]) -> str:
    count, height, width = size
    return f"{width}x{height}" + (f" by {count}" if count > 1 else "")


def _span(profile: Profile) -> str:
    """What a profile takes, for a sentence."""
    smallest, largest = _named(profile.smallest), _named(profile.largest)
    return largest if smallest == largest else f"{smallest} to {largest}"
