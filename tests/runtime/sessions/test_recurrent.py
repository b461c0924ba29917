"""Generators with a state: each frame is computed from what the one before has left, whatever the caller does."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import (
    STATES,
    random_frames,
    recurrent,
    recurrent_model,
    upscale,
    upscale_model,
    write_manifest,
    write_recurrent_bundle,
    write_small_bundle,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import open_bundle
from runtime.errors import GenedgeError, UsageError
from runtime.frames import Frames, SizeRule
from runtime.manifest import Port
from runtime.pipeline import run_pipeline
from runtime.sessions import Choice, Session, SessionInfo, open_session
from runtime.sessions.fake import FakeSession
from runtime.sessions.onnxruntime import OnnxRuntimeStepper
from runtime.sessions.openvino import OpenVinoStepper
from runtime.sessions.recurrent import Arrays, Recurrence, RecurrentSession, Stepper, recurrence_of
from runtime.stages import open_stage
from runtime.tiles import FittedSession, fit_session
from runtime.verify import verify

pytestmark = pytest.mark.timeout(60)

STEPPERS: dict[str, type[OpenVinoStepper] | type[OnnxRuntimeStepper]] = {
    "openvino": OpenVinoStepper,
    "onnxruntime": OnnxRuntimeStepper,
}
FRAME, IMAGE = Port("frame", "frame", "uint8", ("n", "h", "w", 3)), Port("image", "image", "uint8", ("n", "a", "b", 3))
PORTS = Recurrence(FRAME, IMAGE, STATES)
Open = Callable[..., Session]


@pytest.fixture(params=STEPPERS)
def open_recurrent(request: pytest.FixtureRequest) -> Any:
    """``open_recurrent(in_flight=..)`` opens the recurrent test graph on one of the engines."""
    pytest.importorskip(request.param)
    opened = []

    def open_it(model: bytes | None = None, ports: Recurrence = PORTS, in_flight: int = 2) -> Session:
        stepper = STEPPERS[request.param](
            recurrent_model() if model is None else model, ports, variant="fp32", precision="fp32", threads=1
        )
        session = RecurrentSession(stepper, ports, 2, in_flight=in_flight)
        opened.append(session)
        return session

    yield open_it
    for session in opened:
        session.close()


def results(session: Session, frames: Frames) -> Frames:
    return np.stack([session.infer(frame) for frame in frames])


# --- feeding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 1, 6, 10, 3), (1, 1, 1, 1, 3), (4, 3, 5, 4, 3)])
def test_every_state_is_what_the_step_before_has_left(open_recurrent: Open, shape: tuple[int, ...]) -> None:
    """Several states of different shapes and types; with N > 1 every stream for itself."""
    frames = random_frames(*shape)
    with open_recurrent() as session:
        found = results(session, frames)
    np.testing.assert_array_equal(found, recurrent(frames))
    for stream in range(shape[1]):
        np.testing.assert_array_equal(found[:, stream], recurrent(frames[:, stream : stream + 1])[:, 0])


def test_the_test_graph_shows_a_wrong_order() -> None:
    frames = random_frames(3, 1, 4, 4, 3)
    swapped = recurrent(frames[[1, 0, 2]])
    assert not np.array_equal(recurrent(frames)[2], swapped[2])


@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_order_is_kept_however_many_are_in_flight(open_recurrent: Open, in_flight: int) -> None:
    session, frames = open_recurrent(in_flight=in_flight), random_frames(20, 1, 6, 10, 3)
    assert session.info.in_flight == in_flight
    pending = [session.submit(frame) for frame in frames]
    for each, wanted in zip(reversed(pending), reversed(recurrent(frames)), strict=True):
        np.testing.assert_array_equal(each.result(), wanted)


def test_results_that_nobody_asks_for_count_as_steps(open_recurrent: Open) -> None:
    session, frames = open_recurrent(), random_frames(7, 1, 6, 10, 3)
    for frame in frames[:-1]:
        session.submit(frame)
    np.testing.assert_array_equal(session.infer(frames[-1]), recurrent(frames)[-1])


def test_the_caller_may_use_its_memory_again_once_the_result_is_there(open_recurrent: Open) -> None:
    """The pipeline does so: a state that were only a reference to the last frame would change under the engine."""
    session, frames = open_recurrent(), random_frames(6, 1, 6, 10, 3)
    memory, out = np.empty((1, 6, 10, 3), np.uint8), np.empty((1, 12, 20, 3), np.uint8)
    for frame, wanted in zip(frames, recurrent(frames), strict=True):
        memory[:] = frame
        assert session.infer(memory, out) is out
        np.testing.assert_array_equal(memory, frame)  # the engine has not written into it
        np.testing.assert_array_equal(out, wanted)
        memory[:] = 99
        out[:] = 99


def test_frames_may_be_views_and_read_only(open_recurrent: Open) -> None:
    session, whole = open_recurrent(), random_frames(4, 1, 8, 12, 3)
    whole.flags.writeable = False
    frames = whole[:, :, 1:7, ::2]
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))
    session.reset()
    np.testing.assert_array_equal(results(session, whole), recurrent(whole))


def test_the_session_forgets_the_callers_arrays(open_recurrent: Open) -> None:
    session = open_recurrent()
    frames, out = random_frames(1, 6, 10, 3), np.empty((1, 12, 20, 3), np.uint8)
    alive = weakref.ref(frames), weakref.ref(out)
    session.infer(frames, out)
    del frames, out
    session.infer(random_frames(1, 6, 10, 3))  # the thread is certainly done with the first
    gc.collect()
    assert all(array() is None for array in alive)


# --- states of the image's size ---------------------------------------------------------------------------------------

PICTURE_PORTS = Recurrence(
    FRAME,
    Port("image", "image", "uint8", ("n", "sh", "sw", 3)),
    (
        Port("previous", "state", "uint8", ("n", "h", "w", 3), source="frame", initial="zeros"),
        Port("before", "state", "float32", ("n", 3, "sh", "sw"), source="after", initial="zeros"),
    ),
    scale=2,
)


def picture_model() -> bytes:
    """The output of the step before goes in again, as large as it is, and the frame before, which is black at first."""
    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Cast", ["frame"], ["frame_float"], to=TensorProto.FLOAT),
        node("Cast", ["previous"], ["previous_float"], to=TensorProto.FLOAT),
        node("Mul", ["previous_float", "two"], ["doubled"]),
        node("Add", ["frame_float", "doubled"], ["both"]),
        node("Transpose", ["both"], ["planes"], perm=[0, 3, 1, 2]),
        node("Resize", ["planes", "", "scales"], ["large"], mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric"),
        node("Mul", ["before", "three"], ["tripled"]),
        node("Add", ["tripled", "large"], ["sum"]),
        node("Mod", ["sum", "prime"], ["after"], fmod=1),
        node("Transpose", ["after"], ["pixels"], perm=[0, 2, 3, 1]),
        node("Round", ["pixels"], ["rounded"]),
        node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8),
    ]  # fmt: skip
    numbers = {"two": np.float32(2), "three": np.float32(3), "prime": np.float32(251)}
    constants = {**numbers, "scales": np.array([1, 1, 2, 2], np.float32)}
    graph = helper.make_graph(
        nodes,
        "picture",
        [
            value("frame", TensorProto.UINT8, ["n", "h", "w", 3]),
            value("previous", TensorProto.UINT8, ["n", "h", "w", 3]),
            value("before", TensorProto.FLOAT, ["n", 3, "sh", "sw"]),
        ],
        [
            value("image", TensorProto.UINT8, ["n", "sh", "sw", 3]),
            value("after", TensorProto.FLOAT, ["n", 3, "sh", "sw"]),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def pictures(frames: Frames) -> Frames:
    before, previous, outputs = np.zeros(upscale(frames[0]).shape, int), np.zeros_like(frames[0], int), []
    for frame in frames:
        large = np.repeat(np.repeat(frame + 2 * previous, 2, axis=1), 2, axis=2)
        before, previous = (before * 3 + large) % 251, frame.astype(int)
        outputs.append(before.astype(np.uint8))
    return np.stack(outputs)


def test_a_state_may_be_as_large_as_the_image(open_recurrent: Open) -> None:
    """It is fed back at its own size, and it and a frame that begins black are so again after a reset."""
    session = open_recurrent(picture_model(), PICTURE_PORTS)
    for shape in ((4, 1, 6, 10, 3), (3, 2, 4, 5, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(results(session, frames), pictures(frames))
        session.reset()
        np.testing.assert_array_equal(results(session, frames[1:]), pictures(frames[1:]))
    sizes = PICTURE_PORTS.shapes((2, 4, 5, 3))
    assert sizes == {"frame": (2, 4, 5, 3), "previous": (2, 4, 5, 3), "before": (2, 3, 8, 10)}


def test_large_states_count_with_their_own_size() -> None:
    """Twice 3 channels of float32 at 13000x13000 pixels are 4 GB, at a quarter of that one."""
    with (
        RecurrentSession(Scripted(), PICTURE_PORTS, 2) as session,
        pytest.raises(GenedgeError, match="more than 2 GiB"),
    ):
        session.infer(np.zeros((1, 6500, 6500, 3), np.uint8), np.empty((1, 13000, 13000, 3), np.uint8))


# --- beginning anew ---------------------------------------------------------------------------------------------------


def test_reset_begins_anew(open_recurrent: Open) -> None:
    session, frames = open_recurrent(), random_frames(5, 1, 6, 10, 3)
    session.reset()  # before the first frame: nothing to do
    for _ in range(3):
        np.testing.assert_array_equal(results(session, frames), recurrent(frames))
        session.reset()
        session.reset()


def test_reset_leaves_alone_what_was_submitted_before(open_recurrent: Open) -> None:
    session, frames = open_recurrent(in_flight=8), random_frames(8, 1, 40, 60, 3)
    first = [session.submit(frame) for frame in frames[:5]]
    session.reset()
    second = [session.submit(frame) for frame in frames[5:]]
    np.testing.assert_array_equal([each.result() for each in first], recurrent(frames[:5]))
    np.testing.assert_array_equal([each.result() for each in second], recurrent(frames[5:]))


def test_another_shape_begins_anew(open_recurrent: Open) -> None:
    session = open_recurrent(in_flight=4)
    runs = [random_frames(3, *shape, seed=seed) for seed, shape in enumerate([(1, 6, 10, 3), (1, 4, 4, 3)] * 2)]
    runs.append(random_frames(2, 2, 4, 4, 3))  # another number of streams is another shape, too
    pending = [[session.submit(frame) for frame in run] for run in runs]
    for run, each in zip(runs, pending, strict=True):
        np.testing.assert_array_equal([one.result() for one in each], recurrent(run))


def test_warming_up_leaves_no_trace(open_recurrent: Open) -> None:
    session, frames = open_recurrent(), random_frames(3, 1, 6, 10, 3)
    session.warm_up((1, 6, 10, 3))
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))
    assert session.info.device


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([(1, 2, 3), (1, 3, 2), (2, 2, 3)]), st.integers(0, 4), st.booleans())),
    st.integers(1, 4),
)
def test_any_sequence_of_runs(runs: list[tuple[tuple[int, int, int], int, bool]], in_flight: int) -> None:
    """Runs of different shapes and lengths, with a reset between equal ones: each is as if it were alone."""
    pytest.importorskip("onnxruntime")
    stepper = OnnxRuntimeStepper(recurrent_model(), PORTS, variant="fp32", precision="fp32", threads=1)
    wanted, pending = [], []
    with RecurrentSession(stepper, PORTS, 2, in_flight=in_flight) as session:
        carried: Frames | None = None
        for seed, (shape, length, reset) in enumerate(runs):
            frames = random_frames(length, *shape, 3, seed=seed)
            if reset:
                session.reset()
            goes_on = not reset and carried is not None and carried.shape[1:] == frames.shape[1:]
            if length == 0:
                carried = None if reset else carried
                continue
            before = 0 if not goes_on or carried is None else len(carried)
            carried = frames if not goes_on or carried is None else np.concatenate([carried, frames])
            wanted += list(recurrent(carried)[before:])
            pending += [session.submit(frame) for frame in frames]
        for each, output in zip(pending, wanted, strict=True):
            np.testing.assert_array_equal(each.result(), output)


# --- errors -----------------------------------------------------------------------------------------------------------


class Scripted(Stepper):
    """Adds one to a state in each step; fails when told to, after it has written into the outputs."""

    def __init__(self) -> None:
        self.info = SessionInfo("scripted", "fp32", "fp32", "none", 1, 1)
        self.fail = self.refuse = self.closed = False
        self.specialised: list[tuple[int, ...]] = []
        self.seen: list[int] = []

    def specialise(self, shapes: Any) -> None:
        if self.refuse:
            raise GenedgeError("no room")
        self.specialised.append(shapes["frame"])

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        outputs["later"][:] = inputs["now"] + 1
        if self.fail:
            raise GenedgeError("the engine has failed")
        self.seen.append(int(inputs["now"].ravel()[0]))

    def close(self) -> None:
        self.closed = True


COUNTER = Recurrence(FRAME, IMAGE, (Port("now", "state", "int64", ("n", 2), source="later", initial="zeros"),))


def test_a_step_that_fails_leaves_the_states_as_they_were() -> None:
    stepper, frames = Scripted(), random_frames(1, 4, 4, 3)
    with RecurrentSession(stepper, COUNTER, 2) as session:
        session.infer(frames)
        session.infer(frames)
        stepper.fail = True
        for _ in range(4):  # more often than there are slots
            with pytest.raises(GenedgeError, match="the engine has failed"):
                session.infer(frames)
        stepper.fail = False
        session.infer(frames)
        session.reset()
        stepper.fail = True
        with pytest.raises(GenedgeError):
            session.infer(frames)
        stepper.fail = False
        session.infer(frames)  # the reset is not forgotten
    assert stepper.seen == [0, 1, 2, 0]
    assert stepper.specialised == [(1, 4, 4, 3)]
    assert stepper.closed


def test_an_engine_that_refuses_a_shape_is_asked_again() -> None:
    stepper = Scripted()
    with RecurrentSession(stepper, COUNTER, 2) as session:
        session.infer(random_frames(1, 4, 4, 3))
        stepper.refuse = True
        for _ in range(3):
            with pytest.raises(GenedgeError, match="no room"):
                session.infer(random_frames(1, 5, 4, 3))
        stepper.refuse = False
        session.infer(random_frames(1, 4, 4, 3))
    assert stepper.seen == [0, 0]


def test_states_that_would_fill_the_memory_are_refused() -> None:
    huge = replace(COUNTER, states=(replace(COUNTER.states[0], shape=(65536,) * 8),))
    with RecurrentSession(Scripted(), huge, 2) as session, pytest.raises(GenedgeError, match="more than 2 GiB"):
        session.infer(random_frames(1, 4, 4, 3))


def test_a_closed_session_takes_no_more_frames(open_recurrent: Open) -> None:
    session, frames = open_recurrent(), random_frames(3, 1, 4, 4, 3)
    pending = [session.submit(frame) for frame in frames[:2]]
    session.close()
    session.close()
    session.reset()
    np.testing.assert_array_equal([each.result() for each in pending], recurrent(frames)[:2])
    for _ in range(4):
        with pytest.raises(RuntimeError):
            session.submit(frames[2])


@pytest.mark.parametrize("frames", [np.zeros((1, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8)])
def test_frames_are_uint8_with_four_dimensions(open_recurrent: Open, frames: Any) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \(N, H, W, 3\)"):
        open_recurrent().infer(frames)


def test_a_model_whose_ports_are_not_those_of_the_manifest(open_recurrent: Open) -> None:
    with pytest.raises(
        GenedgeError, match="fp32 model has the inputs frame, but the manifest describes count, frame, hidden, previous"
    ):
        open_recurrent(upscale_model())
    lost = replace(PORTS, states=STATES[:2])
    with pytest.raises(GenedgeError, match="the inputs count, frame, hidden, previous, but the manifest describes fr"):
        open_recurrent(ports=lost)


@pytest.mark.parametrize("wrong", [{"hidden_repeats": 2}, {"hidden_type": TensorProto.FLOAT16}])
def test_a_model_whose_states_are_of_another_kind_is_an_error_and_not_an_overrun(
    open_recurrent: Open, wrong: dict[str, int]
) -> None:
    """It gets bare addresses."""
    session = open_recurrent(recurrent_model(**wrong))
    for _ in range(3):
        with pytest.raises(GenedgeError, match=r"^(OpenVINO|ONNX Runtime)"):
            session.infer(random_frames(1, 4, 6, 3))


def test_frames_with_another_number_of_channels_are_refused(open_recurrent: Open) -> None:
    session, frames = open_recurrent(), random_frames(2, 1, 4, 4, 3)
    with pytest.raises(GenedgeError):
        session.infer(random_frames(1, 4, 4, 2))
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))


def test_two_threads_may_share_a_session(open_recurrent: Open) -> None:
    """Who comes first is theirs to settle; but every frame is one step, and nothing hangs."""
    session = open_recurrent(in_flight=2)

    def work() -> None:
        for _ in range(8):
            session.infer(np.zeros((1, 4, 4, 3), np.uint8))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.unique(session.infer(np.zeros((1, 4, 4, 3), np.uint8))) == 16  # the counter


# --- bundles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", STEPPERS)
def test_a_bundle_with_states_opens_runs_and_is_verified(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    bundle = open_bundle(write_recurrent_bundle(tmp_path / "net"))
    choice = Choice(backend, "fp32", "fp32", "asked for")
    frames = random_frames(4, 1, 6, 10, 3, seed=3)
    with open_session(bundle, choice, threads=1, in_flight=3, streams=2) as session:
        np.testing.assert_array_equal(results(session, frames), recurrent(frames))
        assert (session.info.backend, session.info.in_flight) == (backend, 3)
    [verdict] = verify(bundle, [choice])
    assert verdict.failures == ()
    assert verdict.report.frames == 4
    # in another order the same frames are another run, so the order of the manifest is what was verified
    golden = (*bundle.manifest.golden[1:], bundle.manifest.golden[0])
    write_manifest(bundle.folder, replace(bundle.manifest, golden=golden))
    [verdict] = verify(open_bundle(bundle.folder), [choice])
    assert verdict.failures


def test_a_bundle_whose_states_have_no_source_is_refused_in_words(tmp_path: Path) -> None:
    bundle = open_bundle(write_recurrent_bundle(tmp_path / "net"))
    old = [replace(port, source=None, initial=None) for port in bundle.manifest.inputs]
    write_manifest(bundle.folder, replace(bundle.manifest, inputs=tuple(old)))
    bundle = open_bundle(bundle.folder)
    with pytest.raises(GenedgeError, match="manifest of tiny-rrn does not say what feeds the state previous: build"):
        open_session(bundle, Choice("onnxruntime", "fp32", "fp32", "asked for"))


def test_a_manifest_without_states_gives_the_plain_session(tmp_path: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "net"))
    assert recurrence_of(bundle.manifest) is None
    for backend in STEPPERS:
        pytest.importorskip(backend)
        with open_session(bundle, Choice(backend, "fp32", "fp32", "asked for")) as session:
            assert not isinstance(session, RecurrentSession)
            session.reset()  # does nothing
            frames = random_frames(1, 4, 4, 3)
            np.testing.assert_array_equal(session.infer(frames), upscale(frames))


@pytest.mark.parametrize("live", [True, False])
def test_a_stage_with_a_state_has_one_stream(tmp_path: Path, live: bool) -> None:
    pytest.importorskip("openvino")
    bundle = open_bundle(write_recurrent_bundle(tmp_path / "net"))
    frames = random_frames(5, 1, 6, 10, 3)
    with open_stage(bundle, Choice("openvino", "fp32", "fp32", "asked for"), 6, 10, live=live) as session:
        session.warm_up((1, 6, 10, 3))
        assert session.info.in_flight == 2
        np.testing.assert_array_equal(results(session, frames), recurrent(frames))


def test_a_generator_with_a_state_is_never_tiled(tmp_path: Path) -> None:
    """Neither where tiles are asked for nor for a frame that is so large that others would be cut."""
    bundle = open_bundle(write_recurrent_bundle(tmp_path / "net"))
    with pytest.raises(UsageError, match="takes whole frames only and cannot be tiled: leave out --tile"):
        fit_session(FakeSession(), bundle.manifest.geometry, 64, 64, 16)
    with fit_session(FakeSession(), bundle.manifest.geometry, 4320, 7680, None) as session:
        assert isinstance(session, FittedSession)


def test_frames_of_two_sizes_that_are_padded_to_one_do_not_share_a_state(open_recurrent: Open) -> None:
    rule = SizeRule(1, 4)
    first, second = random_frames(3, 1, 7, 10, 3), random_frames(3, 1, 8, 11, 3)

    def padded(frames: Frames) -> Frames:
        height, width = frames.shape[2:4]
        return np.pad(frames, ((0, 0), (0, 0), (0, 8 - height), (0, 12 - width), (0, 0)), mode="edge")

    with FittedSession(open_recurrent(), rule) as session:
        session.warm_up((1, 7, 10, 3))
        np.testing.assert_array_equal(results(session, first), recurrent(padded(first))[:, :, :14, :20])
        np.testing.assert_array_equal(results(session, second), recurrent(padded(second))[:, :, :16, :22])
        session.reset()
        np.testing.assert_array_equal(results(session, second), recurrent(padded(second))[:, :, :16, :22])


def test_wrappers_pass_a_reset_on() -> None:
    inner = FakeSession()
    session = FittedSession(inner, SizeRule())
    session.infer(random_frames(1, 4, 4, 3))
    before = inner.resets
    session.reset()
    assert inner.resets == before + 1


def test_the_pipeline_keeps_the_order_through_two_stages(open_recurrent: Open) -> None:
    """Its threads submit and collect apart from each other, and it uses its arrays again."""

    @dataclass(frozen=True)
    class Picture:
        image: Frames

    frames = random_frames(40, 6, 10, 3)
    waiting = iter([frame.copy() for frame in frames])
    written: list[Frames] = []

    class Source:
        def read(self) -> Picture | None:
            image = next(waiting, None)
            return None if image is None else Picture(image)

    class Sink:
        def write(self, frame: Picture, /) -> None:
            written.append(frame.image.copy())

        def close(self) -> None: ...

        def abort(self) -> None: ...

    run_pipeline(Source(), [open_recurrent(), open_recurrent(in_flight=3)], Sink())
    once = recurrent(frames[:, None])
    np.testing.assert_array_equal(np.stack(written), recurrent(once)[:, 0])


# --- states of one size -----------------------------------------------------------------------------------------------


def with_hidden_of(*shape: int | str) -> Recurrence:
    """The test graph's ports, where the manifest gives ``hidden`` this shape."""
    return replace(PORTS, states=tuple(replace(p, shape=shape) if p.name == "hidden" else p for p in STATES))


@pytest.mark.parametrize("size", [(8, 12), (1, 1), (1, 14), (20, 28)])
def test_a_state_that_does_not_fit_the_frame_is_named(open_recurrent: Open, size: tuple[int, int]) -> None:
    """Also where broadcasting would let the engine read it: what it leaves would lie beyond the state's memory."""
    session = open_recurrent(ports=with_hidden_of(1, 3, *size))
    for _ in range(2):  # as clear when somebody tries again
        with pytest.raises(GenedgeError) as caught:
            session.infer(random_frames(1, 10, 14, 3))
        words = rf"frames of 14x10 do not seem to fit the state hidden, which is always 1x3x{size[0]}x{size[1]}"
        assert re.match(words, str(caught.value))
        assert "\n" not in str(caught.value)


def test_a_state_of_one_size_takes_frames_that_fit_it(open_recurrent: Open) -> None:
    session, frames = open_recurrent(ports=with_hidden_of(1, 3, 8, 12)), random_frames(4, 1, 8, 12, 3)
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))
    with pytest.raises(GenedgeError, match="do not seem to fit the state hidden"):
        session.infer(random_frames(1, 10, 14, 3))
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))  # and goes on


def test_a_graph_of_one_size_refuses_other_frames_in_one_sentence(open_recurrent: Open) -> None:
    frame = Port("frame", "frame", "uint8", (1, 8, 12, 3))
    previous = replace(STATES[0], shape=frame.shape)
    ports = replace(with_hidden_of(1, 3, 8, 12), frame=frame)
    ports = replace(ports, states=(previous, *ports.states[1:]))
    session, frames = open_recurrent(ports=ports), random_frames(3, 1, 8, 12, 3)
    for _ in range(2):
        with pytest.raises(GenedgeError, match=r"^this generator takes frames of 1x8x12x3 only, not of 1x10x14x3$"):
            session.infer(random_frames(1, 10, 14, 3))
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))
