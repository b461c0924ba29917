"""The TensorRT session on a GPU that is far behind, and on TensorRTs that have the names of the real ones.

What reads or writes memory too early gives wrong pictures here: see ``fake_cuda``.
"""

from __future__ import annotations

import ast
import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest
from bundle_factory import (
    CODE_MAP,
    CODES,
    STATES,
    conditional,
    conditional_model,
    random_frames,
    recurrent,
    recurrent_model,
    upscale,
    upscale_model,
    with_negative,
)
from fake_cuda import FakeGpu, cudaError_t
from fake_tensorrt import VERSIONS
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime.sessions.tensorrt as module
from runtime.engines.cache import Engine
from runtime.engines.facts import DeviceFacts
from runtime.engines.log import Log
from runtime.engines.settings import EngineSettings, Profile
from runtime.errors import GenedgeError
from runtime.frames import Frame, Frames
from runtime.manifest import Port
from runtime.pipeline import run_pipeline
from runtime.sessions.cuda import CudaError, OutOfGpuMemoryError, is_pinned, open_cuda
from runtime.sessions.recurrent import Recurrence
from runtime.sessions.tensorrt import TensorRtSession
from runtime.tiles import TiledSession

pytestmark = pytest.mark.timeout(60)

FRAME, IMAGE = Port("frame", "frame", "uint8", ("n", "h", "w", 3)), Port("image", "image", "uint8", ("n", "a", "b", 3))
PORTS = Recurrence(FRAME, IMAGE, (), scale=2)
RECURRENT = Recurrence(FRAME, IMAGE, STATES, scale=2)
CONDITIONAL = Recurrence(FRAME, IMAGE, (), CODES, scale=2)
NEWEST = VERSIONS[-1]
OWN_CONTEXTS = [version for version in VERSIONS if version != "8.6.0"]


class Machine:
    """A computer with a GPU and a TensorRT, and what the engine cache was asked for."""

    def __init__(self, patch: pytest.MonkeyPatch, version: str = NEWEST, **gpu: Any) -> None:
        self.gpu = FakeGpu(**gpu)
        self.fake = fake_tensorrt.Gpu(enqueue=lambda stream, work: self.gpu.enqueue(stream, "enqueue", work))
        self.trt = fake_tensorrt.fake_module(version, self.fake)
        self.asked: list[dict[str, Any]] = []
        self.plans: list[bytes] = []  # to be given instead of good ones, the next first
        self.told: list[str] = []
        self.opened: list[TensorRtSession] = []
        fake_cuda.install(patch, self.gpu)
        patch.setitem(sys.modules, "tensorrt", self.trt)
        patch.setattr(module, "engine_for", self._engine_for)

    def plan(self, model: bytes, inputs: Mapping[str, Any], **head: Any) -> bytes:
        facts = {"version": self.trt.__version__, "sm": self.fake.sm, "any_version": False, "any_gpu": False}
        facts |= {"shapes": inputs, "static": False, "sharing": False, **head}
        return b"ftrt " + json.dumps(facts).encode() + b"\n" + model

    def _engine_for(
        self, model: bytes, digest: str, inputs: Any, precision: str, variant: str, *_: Any, **named: Any
    ) -> Engine:
        self.asked.append({"inputs": inputs, "digest": digest, "precision": precision, "variant": variant, **named})
        plan = self.plans.pop(0) if self.plans else self.plan(model, inputs)
        notes = () if named["refused"] is None else (f"rebuilt: {named['refused']}",)
        for note in notes:
            named["progress"](note)
        return Engine(plan, None, notes)

    def open(self, model: bytes | None = None, ports: Recurrence = PORTS, **options: Any) -> TensorRtSession:
        options = {"settings": EngineSettings(), "scale": 2, **options}
        facts = DeviceFacts(self.trt.__version__, "Fake GPU", self.fake.sm, 13, self.gpu.total)
        session = TensorRtSession(
            upscale_model() if model is None else model,
            ports,
            variant="fp32",
            precision="fp16",
            facts=facts,
            folder=Path("engines"),
            progress=self.told.append,
            **options,
        )
        self.opened.append(session)
        return session


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    """``machine(version, memory=.., hurry=..)``: every session is closed at the end, and has left nothing behind."""
    machines = []

    def make(version: str = NEWEST, **gpu: Any) -> Machine:
        machines.append(Machine(monkeypatch, version, **gpu))
        return machines[-1]

    yield make
    for made in machines:
        for session in made.opened:
            session.close()
        gc.collect()
        assert made.gpu.held == {}
        assert Log(made.trt).native.open[:-1] == [], "every log is closed"


def results(session: TensorRtSession, frames: Frames) -> Frames:
    """Of frames that are submitted as fast as the session takes them."""
    pending = [session.submit(frame) for frame in frames]
    return np.stack([each.result() for each in pending])


# --- names ------------------------------------------------------------------------------------------------------------

OWNERS = {
    "trt": "",
    "mode": "TensorIOMode",
    "context": "IExecutionContext",
    "_engine": "ICudaEngine",
    "_runtime": "Runtime",
}
SINCE = {  # names that code asks for with hasattr, or in the other branch of that
    "ICudaEngine.device_memory_size": "below 11",
    "ICudaEngine.device_memory_size_v2": "from 10",
    "ICudaEngine.create_execution_context_without_device_memory": "below 11",
    "IExecutionContext.set_device_memory": "from 10",
    "ExecutionContextAllocationStrategy": "from 10",
    "ExecutionContextAllocationStrategy.USER_MANAGED": "from 10",
}


def _names_used() -> set[str]:
    """Every name that ``tensorrt.py`` takes of TensorRT's objects: what stands behind a variable of ``OWNERS``."""
    tree, found = ast.parse(Path(module.__file__).read_text()), set()
    engine = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "_Engine")
    for node in ast.walk(engine):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and parts:
            path = [node.id, *reversed(parts)]
            start = next(
                (index for index, part in enumerate(path[:2]) if part in OWNERS and index + 1 < len(path)), None
            )
            if path[:2] == ["self", "_trt"]:
                found.add(".".join(path[2:]))
            elif start is not None:
                found.add(".".join([OWNERS[path[start]], *path[start + 1 :]]).removeprefix("."))
    return found - {""}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_is_used_exists_in_the_real_bindings(version: str) -> None:
    used, listed = _names_used(), fake_tensorrt.names(version)
    assert {"IExecutionContext.execute_async_v3", "Runtime.DLA_core", "TensorIOMode.INPUT", "nptype"} <= used
    assert set(SINCE) - {"ExecutionContextAllocationStrategy"} <= used
    major = int(version.split(".")[0])
    for name in sorted(used):
        since = SINCE.get(name, "from 8")
        edge = int(since.split()[1])
        expected = major >= edge if since.startswith("from") else major < edge
        assert listed.has(name) or not expected, f"TensorRT {version} has no {name}"


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_every_frame_becomes_its_own_result(machine: Any, version: str, in_flight: int) -> None:
    session = machine(version).open(in_flight=in_flight)
    assert session.info.in_flight == in_flight
    frames = random_frames(9, 2, 5, 6, 3)
    np.testing.assert_array_equal(results(session, frames), np.stack([upscale(frame) for frame in frames]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.95), st.integers(1, 4), st.sampled_from(VERSIONS), st.booleans())
def test_however_the_gpu_orders_what_it_may_order(
    seed: int, hurry: float, in_flight: int, version: str, states: bool
) -> None:
    frames = random_frames(8, 1, 2, 3, 3, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        machine = Machine(patch, version, hurry=hurry, seed=seed)
        model, ports = (recurrent_model(), RECURRENT) if states else (None, PORTS)
        with machine.open(model, ports, in_flight=in_flight) as session:
            found = results(session, frames)
    wanted = recurrent(frames) if states else np.stack([upscale(frame) for frame in frames])
    np.testing.assert_array_equal(found, wanted)


def test_a_frame_is_uploaded_computed_and_downloaded(machine: Any) -> None:
    made = machine()
    session = made.open()
    session.warm_up((1, 4, 6, 3))
    made.gpu.done.clear()
    session.infer(random_frames(1, 4, 6, 3))
    assert made.gpu.done == ["upload", "enqueue", "download"]


def test_copies_of_one_frame_run_while_another_is_computed(machine: Any) -> None:
    made = machine()
    session = made.open(in_flight=3)
    session.warm_up((1, 4, 6, 3))
    made.gpu.done.clear()
    pending = [session.submit(frame) for frame in random_frames(3, 1, 4, 6, 3)]
    made.gpu.run_without("enqueue")
    assert made.gpu.done == ["upload"] * 3, "uploads do not wait for the frame before"
    made.gpu.done.clear()
    pending[0].result()
    assert made.gpu.done == ["enqueue", "download"], "a result does not wait for the frame behind"


def test_views_read_only_frames_and_a_given_array(machine: Any) -> None:
    session, whole = machine().open(), random_frames(5, 1, 8, 12, 3)
    whole.flags.writeable = False
    out = np.empty((1, 12, 12, 3), np.uint8)
    for frame in whole[:, :, 1:7, ::2]:
        assert session.infer(frame, out) is out
        np.testing.assert_array_equal(out, upscale(frame))


def test_the_callers_memory_is_its_own_again_once_the_result_is_there(machine: Any) -> None:
    session, memory = machine().open(), np.empty((1, 4, 6, 3), np.uint8)
    for frame in random_frames(4, 1, 4, 6, 3):
        memory[:] = frame
        result = session.infer(memory)
        memory[:] = 99
        np.testing.assert_array_equal(result, upscale(frame))


def test_arrays_in_pinned_memory_are_not_copied_by_the_processor(machine: Any) -> None:
    made = machine()
    session, cuda = made.open(), open_cuda()
    frame, out = cuda.pinned((1, 4, 6, 3), np.uint8, "frames"), cuda.pinned((1, 8, 12, 3), np.uint8, "results")
    frame[:] = random_frames(1, 4, 6, 3)
    staged = [slot.pinned for slot in session._ready(frame.shape).slots]
    for pinned in staged:
        for array in pinned.values():
            array[:] = 7
    assert session.infer(frame, out) is out
    np.testing.assert_array_equal(out, upscale(frame))
    assert all((array == 7).all() for pinned in staged for array in pinned.values())


def test_a_pipeline_and_tiles_use_arrays_that_need_no_copy(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, copied = machine(), list[tuple[int, ...]]()
    session = made.open(in_flight=2)
    original = module._Runner.start

    def start(self: Any, slot: Any, frames: Frames, out: Frames, *rest: Any, **named: Any) -> Any:
        copied.extend(array.shape for array in (frames, out) if not is_pinned(array))
        return original(self, slot, frames, out, *rest, **named)

    monkeypatch.setattr(module._Runner, "start", start)
    frames = random_frames(9, 4, 6, 3)
    sink = Sink()
    run_pipeline(Source(frames), [session], sink)
    np.testing.assert_array_equal(np.stack(sink.images), upscale(frames))
    assert copied == [(1, 4, 6, 3)] * 9, "what a source gives lies anywhere, results do not"
    copied.clear()
    with TiledSession(session, 64, 64, 1) as tiled:
        large = random_frames(1, 96, 150, 3)
        np.testing.assert_array_equal(tiled.infer(large), upscale(large))
    assert copied == []


@dataclass(frozen=True)
class Still:
    image: Frame


class Source:
    def __init__(self, frames: Frames) -> None:
        self._frames = iter(frames)

    def read(self) -> Still | None:
        frame = next(self._frames, None)
        return None if frame is None else Still(frame)


class Sink:
    def __init__(self) -> None:
        self.images: list[Frame] = []

    def write(self, frame: Still) -> None:
        self.images.append(frame.image.copy())

    def close(self) -> None: ...

    def abort(self) -> None: ...


def test_where_no_memory_can_be_pinned_any_array_does(machine: Any) -> None:
    made = machine()
    session, frame = made.open(), random_frames(1, 4, 6, 3)
    made.gpu.fail("cudaMallocHost", cudaError_t.cudaErrorMemoryAllocation)
    out = session.new_array((1, 8, 12, 3))
    assert not is_pinned(out)
    assert made.gpu.last_error == cudaError_t.cudaSuccess
    np.testing.assert_array_equal(session.infer(frame, out), upscale(frame))


def test_wrong_arrays_are_refused_before_anything_is_asked_of_the_gpu(machine: Any) -> None:
    made = machine()
    session = made.open()
    with pytest.raises(ValueError, match="frames must be uint8"):
        session.submit(np.zeros((1, 4, 6, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out must be a writable C-contiguous"):
        session.submit(random_frames(1, 4, 6, 3), np.empty((1, 4, 6, 3), np.uint8))
    assert made.asked == []


def test_buffers_are_made_once_for_a_shape(machine: Any) -> None:
    made = machine()
    session = made.open()
    session.infer(random_frames(1, 4, 6, 3))
    before = [made.gpu.count(call) for call in ("cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags")]
    for frame in random_frames(20, 1, 4, 6, 3):
        session.infer(frame)
    assert before == [made.gpu.count(call) for call in ("cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags")]


def test_a_submit_waits_for_the_oldest_request_although_nobody_asks_for_its_result(machine: Any) -> None:
    session, frames = machine().open(in_flight=2), random_frames(7, 1, 4, 6, 3)
    outs = [np.zeros((1, 8, 12, 3), np.uint8) for _ in frames]
    for frame, out in zip(frames, outs, strict=True):
        session.submit(frame, out)
    session.close()
    np.testing.assert_array_equal(np.stack(outs), np.stack([upscale(frame) for frame in frames]))


def test_another_image_of_the_model_is_given_and_the_rest_thrown_away(machine: Any) -> None:
    negative = Port("negative", "image", "uint8", ("n", "a", "b", 3))
    model, frame = with_negative(upscale_model()), random_frames(1, 4, 6, 3)
    for shown, other in ((IMAGE, negative), (negative, IMAGE)):
        session = machine().open(model, replace(PORTS, image=shown, others=(other,)))
        wanted = upscale(frame) if shown is IMAGE else 255 - upscale(frame)
        np.testing.assert_array_equal(session.infer(frame), wanted)


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", OWN_CONTEXTS)
def test_each_slot_is_captured_once_for_a_shape_after_it_has_run(machine: Any, version: str) -> None:
    made = machine(version)
    session = made.open(in_flight=3)
    for shape, captures in (((1, 4, 6, 3), 3), ((1, 6, 4, 3), 6), ((1, 4, 6, 3), 9)):
        launches = made.gpu.count("cudaGraphLaunch")
        for frame in random_frames(8, *shape):
            np.testing.assert_array_equal(session.infer(frame), upscale(frame))
        assert session.uses_graphs
        assert made.gpu.count("cudaStreamBeginCapture") == captures
        assert made.gpu.count("cudaGraphLaunch") == launches + 8
    assert session.notes == []
    calls = made.gpu.calls
    assert "cudaStreamSynchronize" in calls[: calls.index("cudaStreamBeginCapture")], "it ran before it was captured"


def test_without_graphs_there_are_none(machine: Any) -> None:
    made = machine()
    session, frames = made.open(use_graphs=False), random_frames(4, 1, 4, 6, 3)
    np.testing.assert_array_equal(results(session, frames), np.stack([upscale(frame) for frame in frames]))
    assert not session.uses_graphs
    assert made.gpu.count("cudaStreamBeginCapture") == 0
    assert session.notes == []


def test_an_engine_that_cannot_be_captured_runs_without_a_graph_and_says_so(machine: Any) -> None:
    made = machine()

    def enqueue(stream: int, work: Callable[[], None]) -> None:
        if made.gpu.is_capturing(stream):
            made.gpu.break_capture(stream)
        made.gpu.enqueue(stream, "enqueue", work)

    made.fake.enqueue = enqueue
    session, frames = made.open(), random_frames(4, 1, 4, 6, 3)
    np.testing.assert_array_equal(results(session, frames), np.stack([upscale(frame) for frame in frames]))
    assert not session.uses_graphs
    assert made.told == session.notes
    assert session.notes[0].startswith("no CUDA graph can be made of this engine, it runs without: capturing a graph")
    assert made.gpu.last_error == cudaError_t.cudaSuccess


def _refusing(made: Machine, patch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    """Let TensorRT refuse to enqueue."""
    original = made.trt.IExecutionContext.execute_async_v3

    def execute(self: Any, stream: int) -> bool:
        if when(stream):
            self._logger.log(made.trt.ILogger.Severity.ERROR, "Error Code 1: Cuda Driver (invalid argument)")
            self._logger.log(made.trt.ILogger.Severity.ERROR, "Error Code 2: what follows from it")
            return False
        return bool(original(self, stream))

    patch.setattr(made.trt.IExecutionContext, "execute_async_v3", execute)


def test_tensorrt_that_refuses_to_be_captured_leaves_the_stream_in_order(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = machine()
    _refusing(made, monkeypatch, made.gpu.is_capturing)
    session, frames = made.open(), random_frames(4, 1, 4, 6, 3)
    np.testing.assert_array_equal(results(session, frames), np.stack([upscale(frame) for frame in frames]))
    assert "TensorRT failed: Cuda Driver (invalid argument)" in session.notes[0]


def test_where_one_context_only_may_use_the_engine_the_slots_share_it(machine: Any) -> None:
    made = machine("8.6.0")
    session, frames = made.open(in_flight=3), random_frames(7, 1, 4, 6, 3)
    np.testing.assert_array_equal(results(session, frames), np.stack([upscale(frame) for frame in frames]))
    assert session.notes == ["TensorRT lets one execution context only use this engine: it runs without CUDA graphs"]
    assert made.gpu.count("cudaStreamBeginCapture") == 0


@pytest.mark.parametrize("built", ["static", "sharing"])
def test_engines_as_they_are_built_are_used_by_a_context_for_each_slot_everywhere(machine: Any, built: str) -> None:
    made, shape = machine("8.6.0"), (1, 4, 6, 3)
    made.plans = [made.plan(upscale_model(), {"frame": [shape] * 3}, **{built: True})]
    session, frames = made.open(in_flight=3), random_frames(7, *shape)
    np.testing.assert_array_equal(results(session, frames), np.stack([upscale(frame) for frame in frames]))
    assert (session.uses_graphs, session.notes) == (True, [])


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8.6.0", NEWEST])
def test_codes_are_uploaded_when_they_have_changed_only(machine: Any, version: str) -> None:
    made = machine(version)
    session, frame = made.open(conditional_model(), CONDITIONAL, in_flight=2), random_frames(1, 4, 6, 3)
    for said in ({}, {"strength": (7, 9)}):
        for name, values in said.items():
            session.set_code(name, values)
        made.gpu.done.clear()
        for _ in range(6):
            np.testing.assert_array_equal(session.infer(frame), conditional(frame, said))
        assert made.gpu.done.count("upload") == 6 + 2 * len(CODES), "a frame each, and the codes once for each slot"


def test_frames_under_way_keep_their_codes(machine: Any) -> None:
    session, frame = machine().open(conditional_model(), CONDITIONAL, in_flight=2), random_frames(1, 4, 6, 3)
    first = session.submit(frame)
    session.set_code("strength", (50, 60))
    second = session.submit(frame)
    session.set_code("strength", (70, 80))
    np.testing.assert_array_equal(second.result(), conditional(frame, {"strength": (50, 60)}))
    np.testing.assert_array_equal(first.result(), conditional(frame))


def test_a_map_follows_the_frames_size(machine: Any) -> None:
    ports = replace(CONDITIONAL, codes=(CODE_MAP,))
    session, frame = machine().open(conditional_model(ports=(CODE_MAP,)), ports), random_frames(2, 4, 6, 3)
    labels = np.zeros((3, 4, 6), np.float32)
    labels[1, :2], labels[2, 2:] = 1, 1
    session.set_code("labels", labels)
    np.testing.assert_array_equal(session.infer(frame), conditional(frame, {"labels": labels}, (CODE_MAP,)))


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("in_flight", [1, 2, 3, 4])
def test_states_follow_the_frames_and_never_leave_the_gpu(machine: Any, version: str, in_flight: int) -> None:
    made = machine(version)
    session, frames = made.open(recurrent_model(), RECURRENT, in_flight=in_flight), random_frames(11, 2, 4, 6, 3)
    session.warm_up((2, 4, 6, 3))
    made.gpu.done.clear()
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))
    assert made.gpu.done.count("upload") == made.gpu.done.count("download") == len(frames)


@pytest.mark.parametrize("version", ["8.6.0", NEWEST])
@pytest.mark.parametrize("cuts", [(0, 3, 8), (0, 1, 2, 3), (0, 5, 5, 7)])
def test_reset_puts_the_initial_values_back_for_what_is_submitted_afterwards(
    machine: Any, version: str, cuts: tuple[int, ...]
) -> None:
    session, frames = machine(version).open(recurrent_model(), RECURRENT), random_frames(9, 1, 4, 6, 3)
    pending = []
    for index, frame in enumerate(frames):
        if index in cuts:
            session.reset()
        pending.append(session.submit(frame))
    runs = [part for part in np.split(frames, sorted({*cuts} - {0})) if len(part)]
    np.testing.assert_array_equal(
        np.stack([each.result() for each in pending]), np.concatenate([recurrent(run) for run in runs])
    )


def test_a_change_of_shape_begins_anew(machine: Any) -> None:
    session = machine().open(recurrent_model(), RECURRENT)
    for shape in ((3, 1, 4, 6, 3), (3, 2, 4, 6, 3), (3, 1, 4, 6, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(results(session, frames), recurrent(frames))


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.parametrize("failing", [0, 1, 4])
def test_a_step_that_fails_leaves_the_states_as_they_were(
    machine: Any, monkeypatch: pytest.MonkeyPatch, in_flight: int, failing: int
) -> None:
    made, refuse = machine(), [False]
    _refusing(made, monkeypatch, lambda stream: refuse[0])
    session = made.open(recurrent_model(), RECURRENT, in_flight=in_flight, use_graphs=False)
    session.warm_up((1, 4, 6, 3))
    frames = random_frames(7, 1, 4, 6, 3)
    found = []
    for index, frame in enumerate(frames):
        if index == failing:
            refuse[0] = True
            with pytest.raises(GenedgeError, match=r"^TensorRT failed: Cuda Driver \(invalid argument\)$"):
                session.infer(random_frames(1, 4, 6, 3, seed=99))
            refuse[0] = False
        found.append(session.infer(frame))
    np.testing.assert_array_equal(np.stack(found), recurrent(frames))


def test_a_state_of_a_type_that_tensorrt_chose_is_no_error(machine: Any) -> None:
    """Below 10 there is no int64, and a state that stays on the GPU may be an int32 there."""
    ports = replace(
        RECURRENT, states=tuple(replace(port, dtype="int32") if port.name == "count" else port for port in STATES)
    )
    session, frames = machine().open(recurrent_model(), ports), random_frames(4, 1, 4, 6, 3)
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))


def test_a_state_that_is_not_like_what_feeds_it_is_named(machine: Any) -> None:
    session = machine().open(recurrent_model(hidden_repeats=2), RECURRENT)
    with pytest.raises(
        GenedgeError, match=r"next_hidden of the engine is float32 1x6x4x6, but it should be .* 1x3x4x6"
    ):
        session.infer(random_frames(1, 4, 6, 3))


# --- engines ----------------------------------------------------------------------------------------------------------


def test_without_a_profile_every_shape_has_an_engine_of_its_own(machine: Any) -> None:
    made = machine()
    session = made.open(recurrent_model(), RECURRENT)
    session.warm_up((2, 4, 6, 3))
    session.warm_up((2, 4, 6, 3))
    session.warm_up((1, 8, 6, 3))
    shapes = [asked["inputs"] for asked in made.asked]
    assert [each["frame"] for each in shapes] == [((2, 4, 6, 3),) * 3, ((1, 8, 6, 3),) * 3]
    assert shapes[0]["hidden"] == ((2, 3, 4, 6),) * 3
    assert shapes[0]["count"] == ((1,),) * 3
    first = made.asked[0]
    assert (first["precision"], first["variant"], first["refused"]) == ("fp16", "fp32", None)
    assert len(first["digest"]) == 64
    assert session.notes == []


def test_a_profile_serves_every_shape_in_it(machine: Any) -> None:
    made = machine()
    profile = Profile((1, 4, 4), (1, 6, 8), (2, 8, 8))
    session = made.open(settings=EngineSettings(profile=profile))
    for shape in ((1, 4, 6, 3), (2, 8, 8, 3), (1, 5, 7, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))
    assert [asked["inputs"]["frame"] for asked in made.asked] == [((1, 4, 4, 3), (1, 6, 8, 3), (2, 8, 8, 3))]
    assert made.gpu.count("cudaStreamBeginCapture") == 6, "each shape has graphs of its own"


def test_frames_outside_the_profile_get_another_engine_and_that_is_said(machine: Any) -> None:
    made = machine()
    session = made.open(settings=EngineSettings(profile=Profile((1, 4, 4), (1, 6, 8), (1, 8, 8))))
    for shape in ((1, 4, 6, 3), (3, 9, 6, 3), (1, 4, 6, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))
    assert made.told == ["6x9 by 3 is outside the shapes asked for, 4x4 to 8x8: another engine is needed"]
    assert [asked["inputs"]["frame"][2] for asked in made.asked] == [(1, 8, 8, 3), (3, 9, 6, 3), (1, 8, 8, 3)]


def test_a_plan_that_tensorrt_refuses_is_built_again_with_its_reason(machine: Any) -> None:
    made = machine()
    made.plans = [b"torn by a power cut"]
    session, frame = made.open(), random_frames(1, 4, 6, 3)
    np.testing.assert_array_equal(session.infer(frame), upscale(frame))
    assert [asked["refused"] is None for asked in made.asked] == [True, False]
    assert "Magic tag does not match" in made.asked[1]["refused"]
    assert made.told == [f"rebuilt: {made.asked[1]['refused']}"]


def test_a_new_plan_that_is_refused_too_is_an_error(machine: Any) -> None:
    made = machine()
    made.plans = [b"bad", b"bad as well"]
    with pytest.raises(GenedgeError, match=r"TensorRT does not take the engine that it has just built: .*Magic tag"):
        made.open().infer(random_frames(1, 4, 6, 3))


def test_version_compatible_plans_may_run_their_host_code_others_may_not(machine: Any) -> None:
    made, inputs = machine(), {"frame": [[1, 4, 6, 3]] * 3}
    older = made.plan(upscale_model(), inputs, version="10.3.0", any_version=True)
    made.plans = [older]
    frame = random_frames(1, 4, 6, 3)
    session = made.open(settings=EngineSettings(version_compatible=True))
    np.testing.assert_array_equal(session.infer(frame), upscale(frame))
    assert len(made.asked) == 1
    made.plans = [older]
    made.open().infer(frame)
    assert "not compatible with this version of TensorRT" in made.asked[-1]["refused"]


def test_plugins_are_there_before_a_plan_is_read_and_dla_is_chosen(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, order = machine(), list[Any]()
    original = made.trt.Runtime.deserialize_cuda_engine

    def deserialise(self: Any, plan: bytes) -> Any:
        order.append(self.DLA_core)
        return original(self, plan)

    monkeypatch.setattr(made.trt.Runtime, "deserialize_cuda_engine", deserialise)
    monkeypatch.setattr(made.trt, "init_libnvinfer_plugins", lambda logger, namespace: order.append(namespace) is None)
    made.open(settings=EngineSettings(dla_core=1)).warm_up((1, 4, 6, 3))
    assert order == ["", 1]
    monkeypatch.setattr(made.trt, "init_libnvinfer_plugins", lambda logger, namespace: False)
    with pytest.raises(GenedgeError, match="TensorRT's plugins do not load: TensorRT does not say why"):
        made.open().warm_up((1, 4, 6, 3))


def test_a_null_runtime_is_a_sentence(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = machine()

    def null(logger: Any) -> None:
        logger.log(made.trt.ILogger.Severity.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")  # as recorded of 8.6.0's builder

    monkeypatch.setattr(made.trt, "Runtime", null)
    with pytest.raises(GenedgeError, match=r"^TensorRT does not start: CUDA initialization failure with error: 35$"):
        made.open().warm_up((1, 4, 6, 3))


def test_without_a_driver_tensorrt_is_not_even_asked(machine: Any) -> None:
    """8.6.0 ends the process when a Runtime is made without a driver; the fake has an assertion there."""
    made = machine("8.6.0")
    made.fake.present = False
    made.gpu.fail("cudaGetDeviceCount", cudaError_t.cudaErrorInsufficientDriver)
    made.gpu.driver = 0
    with pytest.raises(CudaError, match="no NVIDIA driver is found on this machine"):
        made.open()


def test_a_context_that_is_not_given_is_a_sentence_and_the_session_lives_on(machine: Any) -> None:
    made = machine()
    session, frame = made.open(), random_frames(1, 4, 6, 3)
    made.fake.out_of_memory = True
    with pytest.raises(GenedgeError, match=r"TensorRT makes no execution context: .*OutOfMemory"):
        session.infer(frame)
    made.fake.out_of_memory = False
    np.testing.assert_array_equal(session.infer(frame), upscale(frame))


@pytest.mark.parametrize(
    ("model", "ports", "scale", "words"),
    [
        (upscale_model(), CONDITIONAL, 2, "the fp32 model has the inputs frame, but the manifest describes"),
        (upscale_model(3), PORTS, 2, "image of the engine is uint8 1x12x18x3, but it should be uint8 1x8x12x3"),
        (
            upscale_model(),
            replace(PORTS, frame=replace(FRAME, shape=("n", 8, 8, 3))),
            2,
            "takes frames of nx8x8x3 only, not of 1x4x6x3",
        ),
    ],
)
def test_a_model_that_is_not_what_the_manifest_says(
    machine: Any, model: bytes, ports: Recurrence, scale: int, words: str
) -> None:
    session = machine("8.6.0").open(model, ports, scale=scale)
    for _ in range(2):  # and nothing of the first try is in the way of the second
        with pytest.raises(GenedgeError, match=words):
            session.infer(random_frames(1, 4, 6, 3))


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_out_of_memory_says_how_much_and_offers_a_tile(machine: Any) -> None:
    made = machine(memory=(1 << 20) + 400_000)  # the fake engine wants 1 MiB for intermediate results
    session = made.open(in_flight=2)
    with pytest.raises(OutOfGpuMemoryError) as caught:
        session.infer(random_frames(1, 128, 256, 3))
    needed = (1 << 20) + 2 * 5 * 128 * 256 * 3
    assert str(caught.value) == (
        f"out of GPU memory: {needed / (1 << 20):.1f} MiB wanted for frames of 256x128, 2 of them in flight, 1.4 MiB "
        "are free: run with --tile 128, or close what else uses the GPU"
    )
    assert (caught.value.wanted, caught.value.free) == (needed, made.gpu.total)
    assert made.gpu.used == 0, "nothing is kept of it"
    small = random_frames(1, 16, 16, 3)
    np.testing.assert_array_equal(session.infer(small), upscale(small))


@given(st.integers(64, 4320), st.integers(64, 7680), st.floats(0.001, 1))
def test_a_tile_that_is_offered_is_smaller_than_the_frame_and_fits(height: int, width: int, share: float) -> None:
    tile = module._tile_that_fits((1, height, width, 3), 1 << 30, int(share * (1 << 30)))
    assert tile % 64 == 0
    assert tile <= min(height, width)
    assert tile == 64 or tile * tile <= share * height * width


def test_no_room_for_the_weights_is_no_reason_to_build_again(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = machine()

    def deserialise(self: Any, plan: bytes) -> None:
        words = "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
        self._logger.log(made.trt.ILogger.Severity.ERROR, words)

    monkeypatch.setattr(made.trt.Runtime, "deserialize_cuda_engine", deserialise)
    with pytest.raises(
        OutOfGpuMemoryError, match=r"wanted for the engine's weights, 1\.0 GiB are free: close what else"
    ):
        made.open().infer(random_frames(1, 4, 6, 3))
    assert len(made.asked) == 1


@pytest.mark.parametrize(
    "call", ["cudaMemcpyAsync", "cudaEventRecord", "cudaStreamWaitEvent", "cudaGraphLaunch", "cudaStreamSynchronize"]
)
@pytest.mark.parametrize("states", [False, True])
def test_a_request_that_fails_leaves_the_session_usable(machine: Any, call: str, states: bool) -> None:
    made = machine()
    session = made.open(*((recurrent_model(), RECURRENT) if states else (None, PORTS)))
    session.warm_up((1, 4, 6, 3))
    kept = session.submit(first := random_frames(1, 4, 6, 3, seed=1))
    kept.result()
    made.gpu.fail(call, cudaError_t.cudaErrorInvalidValue)
    with pytest.raises(GenedgeError, match=r"some error \(cudaErrorInvalidValue\)"):
        session.infer(random_frames(1, 4, 6, 3, seed=2))
    assert made.gpu.waiting == 0 or call == "cudaStreamSynchronize", "the caller has its memory back"
    if call == "cudaStreamSynchronize":  # the step was given to the GPU, and states follow it
        session.reset()
    frames = np.stack([first, *random_frames(4, 1, 4, 6, 3)])
    wanted = recurrent(frames) if states else np.stack([upscale(frame) for frame in frames])
    np.testing.assert_array_equal(results(session, frames), wanted)


def test_a_gpu_that_is_broken_for_good_is_said_to_be(machine: Any) -> None:
    made = machine()
    session, frames = made.open(), random_frames(3, 1, 4, 6, 3)
    session.warm_up((1, 4, 6, 3))
    for operations in made.gpu._graphs.values():
        operations[:] = [_illegal(made.gpu)]
    pending = [session.submit(frame) for frame in frames[:2]]
    for each in pending:
        with pytest.raises(GenedgeError, match=r"^TensorRT failed on the GPU: an illegal memory access"):
            each.result()
    with pytest.raises(GenedgeError, match=r"the GPU cannot be used any more since an error before \(.*illegal"):
        session.submit(frames[2])
    _repaired(made)


def test_a_gpu_that_breaks_when_an_engine_is_tried_is_said_to_be(machine: Any) -> None:
    made = machine()
    made.fake.enqueue = lambda stream, work: made.gpu.enqueue(stream, "enqueue", _illegal(made.gpu).do)
    session, frame = made.open(), random_frames(1, 4, 6, 3)
    with pytest.raises(GenedgeError, match=r"^TensorRT failed on the GPU: an illegal memory access"):
        session.infer(frame)
    with pytest.raises(GenedgeError, match="the GPU cannot be used any more"):
        session.infer(frame)
    _repaired(made)


def _repaired(made: Machine) -> None:
    """Close the sessions, which frees nothing on a broken GPU."""
    for session in made.opened:
        session.close()
    made.opened.clear()
    gc.collect()
    made.gpu.__init__()  # type: ignore[misc]


def _illegal(gpu: FakeGpu) -> fake_cuda.Operation:
    def do() -> None:
        gpu.sticky = cudaError_t.cudaErrorIllegalAddress

    return fake_cuda.Operation("bad kernel", do)


@pytest.mark.parametrize("at", [1, 2])
def test_an_engine_that_does_not_run_on_a_new_shape_leaves_nothing_behind(
    machine: Any, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    made, executed = machine(), list[int]()

    def when(stream: int) -> bool:
        executed.append(stream)
        return len(executed) == at

    _refusing(made, monkeypatch, when)
    session, frame = made.open(), random_frames(1, 4, 6, 3)
    with pytest.raises(GenedgeError, match=r"^TensorRT failed: Cuda Driver"):
        session.infer(frame)
    gc.collect()
    assert made.gpu.held == {}
    np.testing.assert_array_equal(session.infer(frame), upscale(frame))


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_frees_all_in_order_and_twice_is_harmless(machine: Any) -> None:
    made = machine()
    session = made.open(recurrent_model(), RECURRENT, in_flight=3)
    pending = session.submit(frame := random_frames(1, 4, 6, 3))
    made.gpu.calls.clear()
    session.close()
    session.close()
    np.testing.assert_array_equal(pending.result(), recurrent(frame[None])[0])
    gc.collect()
    assert made.gpu.held == {}
    calls = made.gpu.calls
    assert calls.count("cudaGraphExecDestroy") == 3
    last_graph = max(index for index, call in enumerate(calls) if call == "cudaGraphExecDestroy")
    assert calls.index("cudaStreamSynchronize") < calls.index("cudaGraphExecDestroy")
    assert last_graph < calls.index("cudaFree")
    with pytest.raises(RuntimeError, match="the session is closed"):
        session.submit(frame)


def test_closing_before_the_first_frame(machine: Any) -> None:
    made = machine()
    made.open().close()
    assert made.asked == []


# --- timing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_graphs", [True, False])
def test_the_engine_alone_is_timed_on_the_gpu(machine: Any, use_graphs: bool) -> None:
    made = machine()
    session = made.open(use_graphs=use_graphs)
    pending = session.submit(frame := random_frames(1, 4, 6, 3))
    made.gpu.step_ms = 4.0
    times = session.time_engine(frame, 5)
    # the fake takes one step for the enqueue and one for the event behind it
    assert times == pytest.approx([8e-3] * 5)
    np.testing.assert_array_equal(pending.result(), upscale(frame))
    np.testing.assert_array_equal(session.infer(frame), upscale(frame))


def test_states_are_reset_after_timing(machine: Any) -> None:
    session, frames = machine().open(recurrent_model(), RECURRENT), random_frames(5, 1, 4, 6, 3)
    results(session, frames[:2])
    session.time_engine(frames[0], 3)
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))
