"""Both CPU engines on tiny frame graphs whose right answer numpy gives, and the choice among engines.

What holds for one engine has to hold for the other: the pipeline knows only ``Session``.
"""

from __future__ import annotations

import gc
import importlib.util
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundle_factory import model_of, random_frames, upscale, upscale_model, write_small_bundle
from onnx import TensorProto, helper

from runtime import sessions
from runtime.bundle import Bundle, open_bundle
from runtime.errors import GenedgeError, ManifestError, MissingExtraError, UsageError
from runtime.sessions import Choice, Session, available_backends, choose, open_session, runnable
from runtime.sessions.onnxruntime import OnnxRuntimeSession
from runtime.sessions.openvino import OpenVinoSession, _core, has_bf16

pytestmark = pytest.mark.timeout(60)  # a session that waits for ever is a failure like any other

ENGINES: dict[str, type[OpenVinoSession] | type[OnnxRuntimeSession]] = {
    "openvino": OpenVinoSession,
    "onnxruntime": OnnxRuntimeSession,
}
Open = Callable[..., Session]


@pytest.fixture(params=ENGINES)
def open_model(request: pytest.FixtureRequest) -> Any:
    """``open_model(model, scale, ...)`` opens a session on one of the engines; it is closed after the test."""
    pytest.importorskip(request.param)
    opened = []

    def open_it(model: bytes | None = None, scale: int = 2, **options: Any) -> Session:
        settings = {"variant": "fp32", "precision": "fp32", "threads": 1, **options}
        session = ENGINES[request.param](upscale_model() if model is None else model, scale, **settings)
        opened.append(session)
        return session

    yield open_it
    for session in opened:
        session.close()


def slow_model() -> bytes:
    """Some ten convolutions that leave the frame as it is, so that a request is still under way after ``submit``."""
    same = np.zeros((3, 3, 15, 15), np.float32)
    same[range(3), range(3), 7, 7] = 1
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["0"], perm=[0, 3, 1, 2]),
        *(helper.make_node("Conv", [f"{i}", "same"], [f"{i + 1}"], pads=[7, 7, 7, 7]) for i in range(10)),
        helper.make_node("Transpose", ["10"], ["pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Round", ["pixels"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8),
    ]
    return model_of(nodes, 1, same=same)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 6, 10, 3), (1, 1, 1, 3), (3, 5, 4, 3)])
def test_the_result_is_that_of_numpy(open_model: Open, shape: tuple[int, ...]) -> None:
    frames = random_frames(*shape)
    with open_model() as session:
        result = session.infer(frames)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, upscale(frames))


def test_the_scale_is_that_of_the_graph(open_model: Open) -> None:
    session = open_model(upscale_model(3), 3)
    assert session.output_shape((1, 4, 5, 3)) == (1, 12, 15, 3)
    frames = random_frames(1, 4, 5, 3)
    np.testing.assert_array_equal(session.infer(frames), upscale(frames, 3))


@pytest.mark.parametrize(("added", "expected"), [(300, 255), (-300, 0), (0.5, 12), (1.5, 12), (-0.6, 10)])
def test_values_are_rounded_to_even_and_clipped(open_model: Open, added: float, expected: int) -> None:
    """Not wrapped and not cut off: 11 + 0.5 and 11 + 1.5 are halves between two steps."""
    session = open_model(upscale_model(brightness=added))
    assert np.unique(session.infer(np.full((1, 4, 4, 3), 11, np.uint8))) == expected


def test_the_result_is_written_into_the_callers_array(open_model: Open) -> None:
    session, frames = open_model(), random_frames(1, 6, 10, 3)
    out = np.zeros((1, 12, 20, 3), np.uint8)
    assert session.infer(frames, out) is out
    np.testing.assert_array_equal(out, upscale(frames))


def test_without_an_array_every_result_is_a_new_one(open_model: Open) -> None:
    session, frames = open_model(), random_frames(2, 1, 6, 10, 3)
    first = session.infer(frames[0])
    second = session.infer(frames[1])
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, upscale(frames[0]))


def test_frames_may_be_views_and_read_only(open_model: Open) -> None:
    """As they come from a decoder: a crop, a mirror image, a buffer of bytes."""
    session, whole = open_model(), random_frames(1, 9, 12, 3)
    for frames in (whole[:, 2:8, 1:11], whole[:, 8:2:-1, :10], whole[:, :6, :10, ::-1]):
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))
    constant = np.frombuffer(whole.tobytes(), np.uint8).reshape(whole.shape)
    assert not constant.flags.writeable
    np.testing.assert_array_equal(session.infer(constant), upscale(whole))


def test_an_engine_never_writes_outside_the_callers_array(open_model: Open) -> None:
    """It gets a bare address: an array that is not one block of the right size would be overrun."""
    session, frames = open_model(), random_frames(1, 4, 4, 3)
    room = np.zeros((2, 8, 8, 6), np.uint8)
    fixed = np.zeros((1, 8, 8, 3), np.uint8)
    fixed.flags.writeable = False
    for out in (room[:1, ..., ::2], room[:1, :4, :4, :3], room[:, :, :, :3], fixed, np.zeros((1, 8, 8, 3), np.int8)):
        with pytest.raises(ValueError, match="writable C-contiguous uint8 array"):
            session.infer(frames, out)
    assert not room.any()
    assert not fixed.any()
    np.testing.assert_array_equal(session.infer(frames), upscale(frames))  # and the slots are still free


@pytest.mark.parametrize("frames", [np.zeros((1, 4, 4, 3), np.float32), np.zeros((4, 4, 3), np.uint8)])
def test_frames_are_uint8_with_four_dimensions(open_model: Open, frames: Any) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 \(N, H, W, 3\)"):
        open_model().infer(frames)


# --- several requests -------------------------------------------------------------------------------------------------


def test_several_in_flight_come_back_right_and_in_order(open_model: Open) -> None:
    session, frames = open_model(in_flight=3), random_frames(12, 1, 6, 10, 3)
    pending = []
    results = []
    for frame in frames:
        if len(pending) == 3:
            results.append(pending.pop(0).result())
        pending.append(session.submit(frame))
    results += [each.result() for each in pending]
    np.testing.assert_array_equal(np.stack(results), np.stack([upscale(frame) for frame in frames]))


def test_results_may_be_asked_for_in_any_order_and_again(open_model: Open) -> None:
    session, frames = open_model(in_flight=3), random_frames(3, 1, 6, 10, 3)
    pending = [session.submit(frame) for frame in frames]
    for index in (2, 0, 1, 0, 2):
        np.testing.assert_array_equal(pending[index].result(), upscale(frames[index]))
    assert pending[1].result() is pending[1].result()


def test_more_requests_than_slots_before_the_first_result(open_model: Open) -> None:
    """``submit`` waits for the engine, not for whoever may collect the results: here that is the same thread."""
    session, frames = open_model(in_flight=2), random_frames(7, 1, 6, 10, 3)
    pending = [session.submit(frame) for frame in frames]
    for frame, each in zip(frames, pending, strict=True):
        np.testing.assert_array_equal(each.result(), upscale(frame))


def test_results_that_nobody_asks_for_use_up_nothing(open_model: Open) -> None:
    session, frames = open_model(in_flight=2), random_frames(1, 6, 10, 3)
    for _ in range(6):
        session.submit(frames)
    np.testing.assert_array_equal(session.infer(frames), upscale(frames))


def test_arrays_live_as_long_as_the_engine_works_on_them_and_no_longer() -> None:
    """OpenVINO itself holds no reference: without the session's, this would write into freed memory."""
    pytest.importorskip("openvino")
    session = OpenVinoSession(slow_model(), 1, variant="fp32", precision="fp32", threads=1)
    frames, out = random_frames(1, 90, 120, 3), np.empty((1, 90, 120, 3), np.uint8)
    alive = weakref.ref(frames), weakref.ref(out)
    session.submit(frames, out)  # the Pending is dropped at once
    del frames, out
    gc.collect()
    assert all(array() is not None for array in alive)
    session.close()
    gc.collect()
    assert all(array() is None for array in alive)


def test_the_session_forgets_the_arrays_of_a_finished_request(open_model: Open) -> None:
    session = open_model()
    frames, out = random_frames(1, 6, 10, 3), np.empty((1, 12, 20, 3), np.uint8)
    alive = weakref.ref(frames), weakref.ref(out)
    session.infer(frames, out)
    del frames, out
    gc.collect()
    assert all(array() is None for array in alive)


def test_frames_of_another_shape_may_follow(open_model: Open) -> None:
    session = open_model()
    for shape in ((1, 6, 10, 3), (1, 3, 5, 3), (2, 3, 5, 3), (1, 6, 10, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))


def test_another_shape_may_come_while_results_are_still_due(open_model: Open) -> None:
    """The tiles of two frames do this; it once waited for ever for results that the same thread would collect."""
    session = open_model(in_flight=2)
    shapes = [(1, 6, 10, 3), (1, 6, 10, 3), (1, 3, 5, 3), (1, 4, 4, 3), (1, 6, 10, 3)]
    frames = [random_frames(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    pending = [session.submit(frame) for frame in frames]
    for frame, each in zip(frames, pending, strict=True):
        np.testing.assert_array_equal(each.result(), upscale(frame))


def test_two_threads_may_share_a_session(open_model: Open) -> None:
    """Each with its own frames, and of two shapes, so that the engine specialises itself under the other's feet."""
    session = open_model(in_flight=2)
    wrong: list[str] = []

    def work(seed: int) -> None:
        try:
            for step in range(8):
                frames = random_frames(1, 4 + (step + seed) % 3 // 2, 6, 3, seed=100 * seed + step)
                if not np.array_equal(session.infer(frames), upscale(frames)):
                    wrong.append(f"thread {seed}, step {step}: another result")
        except Exception as error:
            wrong.append(f"thread {seed}: {error!r}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_thread_submits_and_another_one_collects(open_model: Open) -> None:
    """As the pipeline does it."""
    session, frames = open_model(in_flight=2), random_frames(30, 1, 4, 6, 3)
    pending: list[Any] = []
    slots, there = threading.Semaphore(2), threading.Semaphore(0)

    def submit() -> None:
        for frame in frames:
            slots.acquire()
            pending.append(session.submit(frame))
            there.release()

    thread = threading.Thread(target=submit)
    thread.start()
    for frame in frames:
        assert there.acquire(timeout=30)
        result = pending.pop(0).result()
        slots.release()
        np.testing.assert_array_equal(result, upscale(frame))
    thread.join()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [b"", b"not a model", b"\x08\x08", upscale_model()[:-60]],
    ids=["empty", "text", "no graph", "cut off"],
)
def test_a_model_that_the_engine_cannot_read(open_model: Open, model: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GenedgeError, match=r"cannot read the fp16 model: ."):
        open_model(model, variant="fp16")
    assert capfd.readouterr().err == ""  # the message is the error's, not printed by the engine


def test_an_operator_that_the_engine_does_not_know(open_model: Open) -> None:
    model = upscale_model().replace(b"Transpose", b"Transport")
    with pytest.raises(GenedgeError):
        open_model(model).infer(random_frames(1, 4, 4, 3))


def test_a_scale_that_is_not_the_graphs_is_an_error_and_not_an_overrun(
    open_model: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    """For instance a manifest with another scale than its graph."""
    session = open_model(upscale_model(2), 3)
    out = np.zeros((1, 12, 12, 3), np.uint8)
    for _ in range(4):  # more often than there are slots
        with pytest.raises(GenedgeError, match=r"OpenVINO|ONNX Runtime"):
            session.infer(random_frames(1, 4, 4, 3), out)
    assert not out.any()
    assert capfd.readouterr().err == ""


def test_a_session_works_on_after_frames_that_it_refused(open_model: Open) -> None:
    session, frames = open_model(), random_frames(1, 4, 4, 3)
    for _ in range(3):
        with pytest.raises(GenedgeError):
            session.infer(random_frames(1, 4, 4, 2))  # two channels
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))


class ScriptedRequest:
    """In place of OpenVINO's own: counts how often it is waited for, and fails if told to."""

    def __init__(self, failure: str = "") -> None:
        self.failure, self.waits = failure, 0

    def set_input_tensor(self, tensor: Any) -> None: ...

    def set_tensor(self, name: str, tensor: Any) -> None: ...

    def start_async(self) -> None: ...

    def wait(self) -> None:
        self.waits += 1
        if self.failure:
            raise RuntimeError(self.failure)


def test_an_engine_that_fails_while_it_computes() -> None:
    """The error comes with the result, every time that is asked for, and the next request is a new one."""
    pytest.importorskip("openvino")
    failing = ScriptedRequest("Exception from src/inference.cpp:1:\nout of memory\n")
    with OpenVinoSession(upscale_model(), 2, variant="fp32", precision="fp32", in_flight=2) as session:
        frames = random_frames(1, 4, 4, 3)
        session.warm_up(frames.shape)
        session._slots[0].request = failing
        pending = session.submit(frames)
        for _ in range(2):
            with pytest.raises(GenedgeError, match=r"^OpenVINO failed: out of memory$"):
                pending.result()
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))
        session.submit(frames)  # fails, and nobody asks
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))
    assert failing.waits == 2


def test_a_request_is_waited_for_before_the_engine_is_made_for_another_shape() -> None:
    """Also where nobody holds its Pending any more: its arrays may go only when the engine is done with them."""
    pytest.importorskip("openvino")
    under_way = ScriptedRequest()
    with OpenVinoSession(upscale_model(), 2, variant="fp32", precision="fp32", in_flight=2) as session:
        session.warm_up((1, 4, 4, 3))
        session._slots[0].request = under_way
        session.submit(random_frames(1, 4, 4, 3))
        assert under_way.waits == 0
        session.submit(random_frames(1, 5, 4, 3))
        assert under_way.waits == 1


# --- life cycle -------------------------------------------------------------------------------------------------------


def test_closing_twice_is_harmless(open_model: Open) -> None:
    session = open_model()
    session.infer(random_frames(1, 4, 4, 3))
    session.close()
    session.close()
    open_model().close()  # one that has never run


def test_a_result_may_be_asked_for_after_closing(open_model: Open) -> None:
    """``close`` waits for what is under way; the arrays are the caller's."""
    frames = random_frames(2, 1, 90, 120, 3)
    session = open_model(slow_model(), 1)
    out = np.zeros_like(frames[0])
    pending = [session.submit(frames[0], out), session.submit(frames[1])]
    session.close()
    np.testing.assert_array_equal(out, frames[0])  # already there
    assert pending[0].result() is out
    np.testing.assert_array_equal(pending[1].result(), frames[1])


def test_a_closed_session_takes_no_more_frames(open_model: Open) -> None:
    session, frames = open_model(), random_frames(1, 4, 4, 3)
    with session:
        session.infer(frames)
    for _ in range(4):  # more often than there are slots
        with pytest.raises(RuntimeError):
            session.submit(frames)


def test_warming_up_specialises_the_engine(open_model: Open) -> None:
    session = open_model()
    session.warm_up((1, 6, 10, 3))
    frames = random_frames(1, 6, 10, 3)
    np.testing.assert_array_equal(session.infer(frames), upscale(frames))
    assert session.info.device


def test_a_session_says_what_it_runs_on(open_model: Open) -> None:
    session = open_model(variant="fp16", precision="fp16", threads=1, in_flight=3)
    session.warm_up((1, 4, 4, 3))
    info = session.info
    assert info.backend in ENGINES
    assert (info.precision, info.variant, info.threads, info.in_flight) == ("fp16", "fp16", 1, 3)


def test_openvino_keeps_as_many_requests_as_streams() -> None:
    pytest.importorskip("openvino")
    with OpenVinoSession(upscale_model(), 2, variant="fp32", precision="fp32", in_flight=1, streams=2) as session:
        assert session.info.in_flight == 2
        frames = random_frames(4, 1, 4, 4, 3)
        pending = [session.submit(frame) for frame in frames]
        for frame, each in zip(frames, pending, strict=True):
            np.testing.assert_array_equal(each.result(), upscale(frame))


def test_openvino_names_the_processor_once_it_has_compiled() -> None:
    pytest.importorskip("openvino")
    with OpenVinoSession(upscale_model(), 2, variant="fp32", precision="fp32") as session:
        assert session.info.device == "CPU"
        session.warm_up((1, 4, 4, 3))
        assert session.info.device != "CPU"
        assert session.info.threads >= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_computes_in_the_precision_that_was_asked_for(precision: str) -> None:
    """257/256 has nine significant bits: bfloat16 keeps eight, so that scaling by it is lost there."""
    pytest.importorskip("openvino")
    if precision == "bf16" and not has_bf16():
        pytest.skip("this CPU has no bfloat16")
    weights = np.zeros((16, 3, 3, 3), np.float32)
    weights[range(3), range(3), 1, 1] = 1
    back = np.zeros((3, 16, 3, 3), np.float32)
    back[range(3), range(3), 1, 1] = 257 / 256
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["0"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["0", "weights"], ["1"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["1", "back"], ["2"], pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["2"], ["pixels"], perm=[0, 2, 3, 1]),
        helper.make_node("Round", ["pixels"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["image"], to=TensorProto.UINT8),
    ]
    model = model_of(nodes, 1, weights=weights, back=back)
    with OpenVinoSession(model, 1, variant="fp32", precision=precision) as session:
        result = session.infer(np.full((1, 32, 32, 3), 200, np.uint8))
    assert np.unique(result) == (201 if precision == "fp32" else 200)
    assert session.info.precision == precision


# --- which engine and which precision ---------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``device("openvino", bf16=True)`` pretends that just these engines are installed, and what the CPU can do."""

    def pretend(*installed: str, bf16: bool = False) -> None:
        def find_spec(name: str) -> object | None:
            return object() if name in installed else None

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(sessions, "_bf16_here", lambda: bf16)

    return pretend


def bundle_with(folder: Path, *variants: str, parity: dict[str, Any] | None = None) -> Bundle:
    models = dict.fromkeys(variants, upscale_model())
    return open_bundle(write_small_bundle(folder, models=models, golden_frames=0, parity=parity))


BF16_MEASURED = {"fp32": {"openvino-bf16": {"psnr_db": 58.0, "delta_e": 0.1}}}
BF16_POOR = ({"psnr_db": 49.9, "delta_e": 0.1}, {"psnr_db": 58.0, "delta_e": 0.31}, {"psnr_db": 58.0}, {})
ALL_VARIANTS = ("fp32", "fp16", "int8", "int8-strong", "int8-ort")


def test_available_backends_come_best_first(device: Callable[..., None]) -> None:
    device("onnxruntime", "openvino")
    assert available_backends() == ("openvino", "onnxruntime")
    device("onnxruntime")
    assert available_backends() == ("onnxruntime",)
    device()
    assert available_backends() == ()


def test_openvino_is_the_first_choice_on_a_cpu(device: Callable[..., None], tmp_path: Path) -> None:
    device("openvino", "onnxruntime")
    choice = choose(bundle_with(tmp_path, *ALL_VARIANTS))
    assert choice == Choice("openvino", "fp32", "fp32", "openvino fp32: OpenVINO is the fastest engine for a CPU")


def test_without_openvino_it_is_onnx_runtime(device: Callable[..., None], tmp_path: Path) -> None:
    device("onnxruntime", bf16=True)
    choice = choose(bundle_with(tmp_path, *ALL_VARIANTS, parity=BF16_MEASURED))
    assert choice == Choice("onnxruntime", "fp32", "fp32", "onnxruntime fp32: first installed engine")


def test_bf16_is_chosen_where_the_cpu_has_it_and_its_parity_is_recorded(
    device: Callable[..., None], tmp_path: Path
) -> None:
    bundle = bundle_with(tmp_path, "fp32", parity=BF16_MEASURED)
    device("openvino", bf16=True)
    choice = choose(bundle)
    assert (choice.precision, choice.variant) == ("bf16", "fp32")
    assert "this CPU computes bf16, 58.0 dB and ΔE 0.10 from PyTorch" in choice.reason
    device("openvino", bf16=False)
    assert choose(bundle).precision == "fp32"


def test_bf16_without_recorded_parity_is_not_chosen_and_the_reason_says_so(
    device: Callable[..., None], tmp_path: Path
) -> None:
    device("openvino", bf16=True)
    choice = choose(bundle_with(tmp_path, "fp32"))
    assert choice.precision == "fp32"
    assert "no parity on record" in choice.reason


@pytest.mark.parametrize("figures", BF16_POOR)
def test_bf16_that_loses_more_than_fp16_may_is_not_chosen_alone(
    device: Callable[..., None], tmp_path: Path, figures: dict[str, float]
) -> None:
    device("openvino", bf16=True)
    bundle = bundle_with(tmp_path, "fp32", parity={"fp32": {"openvino-bf16": figures}})
    choice = choose(bundle)
    assert choice.precision == "fp32"
    assert "bf16 is possible here, but" in choice.reason
    assert choose(bundle, "auto", "bf16").precision == "bf16"


def test_bf16_that_missed_its_limits_at_build_time_cannot_be_had(device: Callable[..., None], tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, "fp32", parity=BF16_MEASURED)
    limits = {"fp32": bundle.manifest.limits["fp32"]}
    bundle = replace(bundle, manifest=replace(bundle.manifest, limits=limits))
    device("openvino", bf16=True)
    assert [choice.precision for choice in runnable(bundle)] == ["fp32"]
    with pytest.raises(GenedgeError, match="missed its parity with PyTorch in bf16: choose fp32"):
        choose(bundle, "openvino", "bf16")


def test_what_was_asked_for_is_what_one_gets(device: Callable[..., None], tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, *ALL_VARIANTS)
    device("openvino", "onnxruntime", bf16=True)
    for backend, precision, variant in (
        ("openvino", "fp32", "fp32"),
        ("openvino", "fp16", "fp16"),
        ("openvino", "bf16", "fp32"),
        ("openvino", "int8", "int8"),
        ("onnxruntime", "fp32", "fp32"),
        ("onnxruntime", "fp16", "fp16"),
        ("onnxruntime", "int8", "int8-ort"),
    ):
        choice = choose(bundle, backend, precision)
        assert choice == Choice(backend, precision, variant, f"{backend} {precision}: asked for")
    assert choose(bundle, "onnxruntime").precision == "fp32"
    assert choose(bundle, "auto", "fp16").backend == "openvino"


@pytest.mark.parametrize(
    ("variants", "precision"), [(("int8", "fp16"), "fp16"), (("int8",), "int8"), (("int8-strong", "int8"), "int8")]
)
def test_the_most_exact_variant_of_the_bundle_is_chosen(
    device: Callable[..., None], tmp_path: Path, variants: tuple[str, ...], precision: str
) -> None:
    device("openvino", bf16=True)
    assert choose(bundle_with(tmp_path, *variants)).precision == precision


def test_words_that_mean_nothing_are_usage_errors(device: Callable[..., None], tmp_path: Path) -> None:
    device("openvino")
    bundle = bundle_with(tmp_path, "fp32")
    with pytest.raises(UsageError, match="unknown backend 'tpu': choose auto, tensorrt, openvino, onnxruntime"):
        choose(bundle, "tpu")
    with pytest.raises(UsageError, match="unknown precision 'fp64': choose auto, fp32, fp16, bf16, int8"):
        choose(bundle, "auto", "fp64")


def test_an_engine_that_is_not_installed_names_its_extra(device: Callable[..., None], tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, "fp32")
    device("onnxruntime")
    with pytest.raises(MissingExtraError, match=r'^openvino is not installed: pip install "genedge\[cpu\]"$'):
        choose(bundle, "openvino")
    with pytest.raises(MissingExtraError, match=r'^tensorrt is not installed: pip install "genedge\[tensorrt\]"$'):
        choose(bundle, "tensorrt")
    device()
    with pytest.raises(MissingExtraError, match=r"^an inference engine \(openvino or onnxruntime\) is not installed"):
        choose(bundle)


def test_a_bundle_that_lacks_the_variant(device: Callable[..., None], tmp_path: Path) -> None:
    device("openvino", "onnxruntime")
    bundle = bundle_with(tmp_path, "fp32")
    with pytest.raises(GenedgeError, match="tiny-x2 has no int8-ort variant, only fp32"):
        choose(bundle, "onnxruntime", "int8")
    strong = bundle_with(tmp_path / "strong", "int8-strong")
    with pytest.raises(GenedgeError, match="has no variant for openvino, only int8-strong"):
        choose(strong)


def test_a_precision_that_the_engine_or_the_processor_lacks(device: Callable[..., None], tmp_path: Path) -> None:
    """OpenVINO would silently compute in another precision, and the figures would be filed under bf16."""
    device("openvino", "onnxruntime", bf16=False)
    bundle = bundle_with(tmp_path, "fp32")
    with pytest.raises(GenedgeError, match="onnxruntime has no bf16 precision: choose fp32, fp16, int8"):
        choose(bundle, "onnxruntime", "bf16")
    with pytest.raises(GenedgeError, match="this CPU does not compute in bfloat16: choose fp32"):
        choose(bundle, "openvino", "bf16")


def test_everything_that_can_run_here(device: Callable[..., None], tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, "fp32", "int8", "int8-ort")

    def found() -> list[tuple[str, str, str]]:
        return [(choice.backend, choice.precision, choice.variant) for choice in runnable(bundle)]

    device("openvino", "onnxruntime", bf16=True)
    assert found() == [
        ("openvino", "fp32", "fp32"),
        ("openvino", "bf16", "fp32"),
        ("openvino", "int8", "int8"),
        ("onnxruntime", "fp32", "fp32"),
        ("onnxruntime", "int8", "int8-ort"),
    ]
    device("openvino", bf16=False)
    assert found() == [("openvino", "fp32", "fp32"), ("openvino", "int8", "int8")]
    device()
    assert found() == []


@pytest.mark.parametrize("backend", ENGINES)
def test_a_choice_opens_as_a_session(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    bundle = bundle_with(tmp_path, "fp32")
    frames = random_frames(1, 4, 4, 3)
    with open_session(bundle, choose(bundle, backend, "fp32"), threads=1, in_flight=3) as session:
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))
    assert (session.info.backend, session.info.precision) == (backend, "fp32")
    assert (session.info.threads, session.info.in_flight) == (1, 3)


@pytest.mark.parametrize("backend", ENGINES)
def test_an_engine_never_sees_a_damaged_model(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_with(tmp_path, "fp32")
    (tmp_path / "model.fp32.onnx").write_bytes(upscale_model(3))
    monkeypatch.setattr(ENGINES[backend], "__init__", lambda *arguments, **options: pytest.fail("the engine was asked"))
    with pytest.raises(ManifestError, match="sha256"):
        open_session(bundle, Choice(backend, "fp32", "fp32", "asked for"))


@pytest.mark.parametrize("backend", ENGINES)
def test_a_session_whose_package_is_missing_names_its_extra(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_with(tmp_path, "fp32")
    monkeypatch.setitem(sys.modules, backend, None)  # what Python makes of a failed import
    _core.cache_clear()
    with pytest.raises(MissingExtraError, match=rf'{backend} is not installed: pip install "genedge\[cpu\]"'):
        open_session(bundle, Choice(backend, "fp32", "fp32", "asked for"))


def test_a_model_that_gives_more_than_the_image(open_model: Open) -> None:
    """Further outputs are left alone."""
    model = onnx.load_model_from_string(upscale_model())
    model.graph.output.append(helper.make_tensor_value_info("clipped", TensorProto.FLOAT, ["n", "sh", "sw", 3]))
    frames = random_frames(1, 6, 10, 3)
    np.testing.assert_array_equal(open_model(model.SerializeToString()).infer(frames), upscale(frames))
