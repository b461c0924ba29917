"""Codes through every kind of session: what a frame is computed with is what was set when it was submitted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import (
    CODE_MAP,
    CODE_STATES,
    CODES,
    conditional,
    conditional_model,
    conditional_run,
    random_frames,
    small_manifest,
    upscale,
    upscale_model,
    write_conditional_bundle,
    write_manifest,
)

from runtime.bench import bench
from runtime.bundle import open_bundle
from runtime.codes import Numbers
from runtime.errors import GenedgeError, UsageError
from runtime.frames import Frames, SizeRule
from runtime.manifest import Artifact, Port
from runtime.sessions import Choice, Session, open_session, session_for
from runtime.sessions.codes import CodeInputs
from runtime.sessions.fake import FakeSession
from runtime.sessions.recurrent import RecurrentSession
from runtime.stages import open_stage
from runtime.tiles import FittedSession, TiledSession, fit_session
from runtime.verify import verify

pytestmark = pytest.mark.timeout(60)

ENGINES = ("openvino", "onnxruntime")
ALL = (*CODES, CODE_MAP)
Open = Callable[..., Session]


@pytest.fixture(params=ENGINES)
def open_codes(request: pytest.FixtureRequest) -> Iterator[Open]:
    """``open_codes(ports, states=.., in_flight=..)`` opens the conditional test graph on one of the engines."""
    pytest.importorskip(request.param)
    opened = []

    def open_it(ports: tuple[Port, ...] = CODES, model: bytes | None = None, **options: Any) -> Session:
        states = options.pop("states", False)
        manifest = small_manifest({"fp32": Artifact("model.fp32.onnx", "0" * 64)}, codes=ports)
        if states:
            manifest = replace(manifest, inputs=(manifest.frame, *CODE_STATES, *ports))
        data = conditional_model(2, ports, states=states) if model is None else model
        choice = Choice(request.param, "fp32", "fp32", "asked for")
        opened.append(session_for(data, manifest, choice, threads=1, **options))
        return opened[-1]

    yield open_it
    for session in opened:
        session.close()


def drawn(seed: int, ports: tuple[Port, ...] = CODES, size: tuple[int, int] | None = None) -> dict[str, Numbers]:
    """A code for every port; maps differ from place to place where ``size`` is given. All are whole numbers."""
    rng = np.random.default_rng(seed)
    rules = [(port, port.code) for port in ports if port.code is not None]
    return {
        port.name: np.rint(rule.drawn_map(rng, *size) if port.is_map and size else rule.drawn(rng))
        for port, rule in rules
    }


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 6, 10, 3), (1, 1, 1, 3), (3, 5, 4, 3)])
def test_the_default_until_something_is_set(open_codes: Open, shape: tuple[int, ...]) -> None:
    frames = random_frames(*shape)
    session = open_codes(ALL)
    assert session.codes == {port.name: port.code for port in ALL}
    np.testing.assert_array_equal(session.infer(frames), conditional(frames, ports=ALL))


@pytest.mark.parametrize("shape", [(1, 6, 10, 3), (3, 5, 4, 3)])
def test_a_code_applies_to_all_frames_of_a_request(open_codes: Open, shape: tuple[int, ...]) -> None:
    session, frames = open_codes(ALL), random_frames(*shape)
    codes = drawn(1, ALL, shape[1:3])
    for name, values in codes.items():
        session.set_code(name, values)
    np.testing.assert_array_equal(session.infer(frames), conditional(frames, codes, ALL))
    session.set_codes({"strength": (7, 8)})  # the others get their default
    np.testing.assert_array_equal(session.infer(frames), conditional(frames, {"strength": (7, 8)}, ALL))


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("in_flight", [1, 4])
def test_requests_under_way_keep_their_codes(open_codes: Open, states: bool, in_flight: int) -> None:
    session, frames = open_codes(states=states, in_flight=in_flight), random_frames(12, 1, 40, 60, 3)
    codes = [drawn(seed) for seed in range(12)]
    pending = []
    for frame, said in zip(frames, codes, strict=True):
        for name, values in said.items():
            session.set_code(name, values)
            values[:] = np.nan  # the session has its own copy
        pending.append(session.submit(frame))
    codes = [drawn(seed) for seed in range(12)]
    wanted = (
        conditional_run(frames, codes)
        if states
        else [conditional(frame, said) for frame, said in zip(frames, codes, strict=True)]
    )
    for each, output in zip(reversed(pending), reversed(wanted), strict=True):
        np.testing.assert_array_equal(each.result(), output)


def test_states_and_codes_together(open_codes: Open) -> None:
    session, frames = open_codes(ALL, states=True), random_frames(5, 2, 6, 8, 3)
    assert isinstance(session, RecurrentSession)
    session.warm_up((2, 6, 8, 3))
    codes = [drawn(seed, ALL, (6, 8)) for seed in range(5)]
    for _ in range(2):
        found = []
        for frame, said in zip(frames, codes, strict=True):
            session.set_codes(said)
            found.append(session.infer(frame))
        np.testing.assert_array_equal(np.stack(found), conditional_run(frames, codes, ALL))
        session.reset()


def test_another_shape_of_the_frames(open_codes: Open) -> None:
    session = open_codes(ALL)
    said = {**drawn(2), "labels": np.array([0, 1, 0])}
    session.set_codes(said)
    for shape in ((1, 4, 4, 3), (2, 6, 3, 3), (1, 4, 4, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(session.infer(frames), conditional(frames, said, ALL))


def test_read_only_frames_and_views(open_codes: Open) -> None:
    session, whole = open_codes(), random_frames(1, 8, 12, 3)
    whole.flags.writeable = False
    frames = whole[:, 1:7, ::2]
    np.testing.assert_array_equal(session.infer(frames), conditional(frames))


def test_codes_may_be_set_from_any_thread(open_codes: Open) -> None:
    """Every result belongs to one of the codes that were set, never to a mixture."""
    session, frames = open_codes(in_flight=3), random_frames(1, 16, 16, 3)
    codes = [{"strength": np.full(2, 10 * seed, np.float32)} for seed in range(8)]
    allowed = [conditional(frames, said).tobytes() for said in [{}, *codes]]
    stop = threading.Event()

    def work(seed: int) -> None:
        while not stop.is_set():
            session.set_code("strength", codes[seed]["strength"])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    try:
        seen = {session.infer(frames).tobytes() for _ in range(40)}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert seen <= set(allowed)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("mood", [1, 0, 0, 0], "no code called 'mood', only style, passcode, strength, labels"),
        ("style", [1, 0, 0], r"style: the code has the shape \(4,\), not \(3,\)"),
        ("style", np.zeros((4, 6, 10)), "style: the code has the shape"),
        ("style", [1, 1, 0, 0], "style: exactly one number of the code must be 1"),
        ("strength", [1, np.nan], "strength: number 1 of the code is nan, outside 0 to 100"),
        ("passcode", [0, 1, 1], "passcode: number 0 of the code is 0, neither -1 nor 1"),
        ("labels", np.zeros((2, 6, 10)), "labels: the code has the shape"),
    ],
)
def test_a_wrong_code_changes_nothing(open_codes: Open, name: str, values: Any, words: str) -> None:
    session, frames = open_codes(ALL), random_frames(1, 6, 10, 3)
    session.set_code("strength", np.array([9, 9]))
    with pytest.raises(UsageError, match=words):
        session.set_code(name, values)
    with pytest.raises(UsageError, match=words):
        session.set_codes({"strength": np.array([1, 1]), name: values})
    np.testing.assert_array_equal(session.infer(frames), conditional(frames, {"strength": (9, 9)}, ALL))


@pytest.mark.parametrize("states", [False, True])
def test_a_map_of_another_size_than_the_frames(open_codes: Open, states: bool) -> None:
    session, frames = open_codes((CODE_MAP,), states=states), random_frames(1, 6, 10, 3)
    session.set_codes(drawn(0, (CODE_MAP,), (5, 10)))
    for _ in range(4):  # more often than there are slots
        with pytest.raises(UsageError, match="the map for labels has 10x5 pixels, but the frames have 10x6"):
            session.submit(frames)
    session.set_codes({})
    np.testing.assert_array_equal(session.infer(frames), conditional(frames, ports=(CODE_MAP,)))


def test_a_map_that_would_fill_the_memory_is_refused() -> None:
    inputs = CodeInputs.of((CODE_MAP,))
    with pytest.raises(GenedgeError, match="frames of 65536x65536 need a map of more than 2 GiB"):
        inputs.arrays((1, 65536, 65536, 3))


@pytest.mark.parametrize("states", [False, True])
def test_a_model_whose_inputs_are_not_those_of_the_manifest(open_codes: Open, states: bool) -> None:
    with pytest.raises(GenedgeError, match="the fp32 model has the inputs frame, but the manifest describes frame,"):
        open_codes(model=upscale_model(), states=states)
    with pytest.raises(GenedgeError, match=r"has the inputs .*, but the manifest describes frame, .*style"):
        open_codes(CODES[:1], model=conditional_model(2, CODES, states=states), states=states)


@pytest.mark.parametrize("states", [False, True])
def test_a_model_whose_codes_are_of_another_size_is_an_error_and_not_an_overrun(open_codes: Open, states: bool) -> None:
    """It gets bare addresses."""
    wide = replace(CODE_MAP, name="style")
    session = open_codes(
        CODES[:1], model=conditional_model(2, (replace(wide, shape=("n", 4, "h", "w")),), states=states), states=states
    )
    with pytest.raises(GenedgeError, match=r"^(OpenVINO|ONNX Runtime)"):
        session.infer(random_frames(1, 4, 6, 3))


def test_a_generator_without_codes_says_so() -> None:
    session = FakeSession()
    assert session.codes == {}
    session.set_codes({})
    with pytest.raises(UsageError, match="no code called 'style', and none at all"):
        session.set_code("style", np.zeros(4))


def test_a_code_without_a_rule_is_not_opened(tmp_path: Path) -> None:
    folder = write_conditional_bundle(tmp_path / "net", ports=CODES[:1])
    manifest = open_bundle(folder).manifest
    bare = replace(manifest.inputs[1], code=None)
    write_manifest(folder, replace(manifest, inputs=(manifest.frame, bare), golden=()))
    for backend in ENGINES:
        pytest.importorskip(backend)
        with pytest.raises(GenedgeError, match="tiny-codes does not say what the code style takes: build the bundle"):
            open_session(open_bundle(folder), Choice(backend, "fp32", "fp32", "asked for"))


# --- wrappers ---------------------------------------------------------------------------------------------------------


def seen(session: FakeSession) -> list[dict[str, list[float]]]:
    return [{name: values.ravel().tolist() for name, values in each.items()} for each in session.seen]


def test_the_fake_records_what_it_would_have_computed_with() -> None:
    session, frames = FakeSession(codes=CODES), random_frames(1, 4, 4, 3)
    session.infer(frames)
    session.set_code("style", np.array([0, 0, 0, 1]))
    session.infer(frames)
    assert [each["style"] for each in seen(session)] == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_padded_frames_have_padded_maps(open_codes: Open) -> None:
    frames, codes = random_frames(2, 7, 10, 3), drawn(3, ALL, (7, 10))
    with FittedSession(open_codes(ALL), SizeRule(8, 4)) as session:
        session.warm_up((2, 7, 10, 3))
        session.set_codes(codes)
        np.testing.assert_array_equal(session.infer(frames), conditional(frames, codes, ALL))
        session.warm_up((1, 3, 3, 3))  # a map of another size is set, and stays so
        np.testing.assert_array_equal(session.infer(frames), conditional(frames, codes, ALL))
        whole = random_frames(1, 8, 12, 3)
        with pytest.raises(UsageError, match="has 10x7 pixels, but the frames have 12x8"):
            session.submit(whole)
        session.set_code("labels", np.array([0, 1, 0]))
        np.testing.assert_array_equal(
            session.infer(whole), conditional(whole, {**codes, "labels": np.array([0, 1, 0])}, ALL)
        )


def test_the_edge_of_a_map_is_repeated() -> None:
    inner = FakeSession(codes=(CODE_MAP,))
    codes = drawn(0, (CODE_MAP,), (3, 5))
    with FittedSession(inner, SizeRule(1, 4)) as session:
        session.set_codes(codes)
        session.infer(random_frames(1, 3, 5, 3))
    padded = np.pad(codes["labels"], ((0, 0), (0, 1), (0, 3)), mode="edge")
    np.testing.assert_array_equal(inner.seen[-1]["labels"], padded[None])


@pytest.mark.parametrize("fixed_shape", [False, True])
def test_tiles_are_computed_with_their_part_of_a_map(open_codes: Open, fixed_shape: bool) -> None:
    """Several frames are under way, each with codes of its own, though the worker gets to them later."""
    frames = random_frames(4, 1, 21, 34, 3)
    codes = [drawn(seed, ALL, (21, 34)) for seed in range(4)]
    inner = open_codes(ALL, in_flight=2)
    with TiledSession(inner, 8, 12, 1, SizeRule(1, 2), fixed_shape=fixed_shape) as session:
        session.warm_up((1, 21, 34, 3))
        pending = []
        for frame, said in zip(frames, codes, strict=True):
            session.set_codes(said)
            pending.append(session.submit(frame))
        for each, frame, said in zip(pending, frames, codes, strict=True):
            np.testing.assert_array_equal(each.result(), conditional(frame, said, ALL))
        session.set_code("labels", drawn(0, ALL, (20, 34))["labels"])
        with pytest.raises(UsageError, match="has 34x20 pixels, but the frames have 34x21"):
            session.submit(frames[0])
        session.set_codes({})
        np.testing.assert_array_equal(session.infer(frames[0]), conditional(frames[0], ports=ALL))


def test_a_code_that_does_not_change_is_handed_on_once() -> None:
    class Counting(FakeSession):
        calls = 0

        def set_code(self, name: str, values: Any) -> None:
            self.calls += 1
            super().set_code(name, values)

    inner, frames = Counting(codes=CODES), random_frames(1, 20, 20, 3)
    with TiledSession(inner, 8, 8, 1) as session:
        for _ in range(3):
            session.infer(frames)
        assert inner.calls == len(CODES)
        session.set_code("strength", np.array([1, 2]))
        session.infer(frames)
        assert inner.calls == len(CODES) + 1


def test_wrappers_have_the_codes_of_what_they_wrap() -> None:
    for wrap in (lambda inner: FittedSession(inner, SizeRule()), lambda inner: TiledSession(inner, 8, 8, 1)):
        with wrap(FakeSession(codes=CODES)) as session:
            assert list(session.codes) == ["style", "passcode", "strength"]
            with pytest.raises(UsageError, match="style: exactly one"):
                session.set_code("style", np.zeros(4))
        with wrap(FakeSession()) as session, pytest.raises(UsageError, match="and none at all"):
            session.set_code("style", np.zeros(4))


# --- bundles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("backend", ENGINES)
def test_a_bundle_with_codes_opens_runs_and_is_verified(backend: str, states: bool, tmp_path: Path) -> None:
    """Its golden frames have different codes, so that they are right only where each gets its own."""
    pytest.importorskip(backend)
    bundle = open_bundle(write_conditional_bundle(tmp_path / "net", ports=ALL, states=states))
    assert bundle.manifest.golden[1].codes
    choice = Choice(backend, "fp32", "fp32", "asked for")
    [verdict] = verify(bundle, [choice])
    assert verdict.failures == ()
    assert (verdict.report.frames, verdict.report.max_abs) == (3, 0)
    frames = random_frames(1, 6, 10, 3)
    with open_stage(bundle, choice, 6, 10) as session:
        session.warm_up((1, 6, 10, 3))
        session.set_code("strength", np.array([50, 60]))
        np.testing.assert_array_equal(session.infer(frames), conditional(frames, {"strength": (50, 60)}, ALL))


def test_verify_notices_a_code_that_does_not_arrive(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder = write_conditional_bundle(tmp_path / "net")
    manifest = open_bundle(folder).manifest
    write_manifest(folder, replace(manifest, golden=[replace(pair, codes={}) for pair in manifest.golden]))
    [verdict] = verify(open_bundle(folder), [Choice("onnxruntime", "fp32", "fp32", "asked for")])
    assert verdict.failures


def test_bench_times_a_bundle_with_codes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = open_bundle(write_conditional_bundle(tmp_path / "net", ports=ALL))
    [timing] = bench(bundle, [Choice("onnxruntime", "fp32", "fp32", "asked for")], 12, 16, 2)
    assert len(timing.milliseconds) == 2


def test_the_path_without_codes_is_the_one_that_it_was() -> None:
    """No code input is looked at, nothing is made for a request."""
    for backend in ENGINES:
        pytest.importorskip(backend)
        choice = Choice(backend, "fp32", "fp32", "asked for")
        manifest = small_manifest({"fp32": Artifact("model.fp32.onnx", "0" * 64)})
        with session_for(upscale_model(), manifest, choice, threads=1) as session:
            frames: Frames = random_frames(1, 4, 4, 3)
            np.testing.assert_array_equal(session.infer(frames), upscale(frames))
            assert session.codes == {}
    with fit_session(FakeSession(), manifest.geometry, 4, 4, None) as session:
        assert session.codes == {}
