"""The TensorRT session on real hardware: what ``test_tensorrt`` asks of it, on whatever GPU and TensorRT are here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import (
    CODES,
    STATES,
    conditional,
    conditional_model,
    random_frames,
    recurrent,
    recurrent_model,
    upscale,
    upscale_model,
)

from runtime.engines.facts import DeviceFacts, device_facts
from runtime.engines.settings import EngineSettings, Profile
from runtime.errors import GenedgeError
from runtime.frames import Frames
from runtime.manifest import Port
from runtime.sessions.cuda import open_cuda
from runtime.sessions.recurrent import Recurrence
from runtime.sessions.tensorrt import TensorRtSession

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt, pytest.mark.slow]

FRAME, IMAGE = Port("frame", "frame", "uint8", ("n", "h", "w", 3)), Port("image", "image", "uint8", ("n", "a", "b", 3))
PORTS = Recurrence(FRAME, IMAGE, (), scale=2)
Open = Callable[..., TensorRtSession]


@pytest.fixture(scope="module")
def facts() -> DeviceFacts:
    try:
        return device_facts()
    except GenedgeError as error:
        pytest.skip(f"TensorRT does not run here: {error}")


@pytest.fixture
def open_it(facts: DeviceFacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Opens the model on the GPU; engines of this test run are kept, so that each is built once."""
    opened: list[TensorRtSession] = []
    folder = tmp_path_factory.getbasetemp() / "engines"

    def make(model: bytes, ports: Recurrence = PORTS, **options: Any) -> TensorRtSession:
        options = {"settings": EngineSettings(), **options}
        named = {"variant": "fp32", "precision": "fp32", "facts": facts, "folder": Path(folder)}
        opened.append(TensorRtSession(model, ports, 2, **named, **options))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


def results(session: TensorRtSession, frames: Frames) -> Frames:
    pending = [session.submit(frame) for frame in frames]
    return np.stack([each.result() for each in pending])


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("use_graphs", [False, True])
def test_every_frame_becomes_its_own_result(open_it: Open, in_flight: int, use_graphs: bool) -> None:
    session = open_it(upscale_model(), in_flight=in_flight, use_graphs=use_graphs)
    for shape in ((40, 1, 72, 96, 3), (40, 2, 48, 64, 3), (40, 1, 72, 96, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(results(session, frames), np.stack([upscale(frame) for frame in frames]))
    assert session.uses_graphs == use_graphs, session.notes


def test_a_profile_serves_every_shape_in_it(open_it: Open) -> None:
    session = open_it(upscale_model(), settings=EngineSettings(profile=Profile((1, 32, 32), (1, 64, 64), (2, 96, 96))))
    for shape in ((1, 32, 96, 3), (2, 96, 40, 3), (1, 128, 64, 3)):
        frames = random_frames(*shape)
        np.testing.assert_array_equal(session.infer(frames), upscale(frames))
    assert any("outside the shapes asked for" in note for note in session.notes)


def test_codes_follow_what_is_set(open_it: Open) -> None:
    session = open_it(conditional_model(), replace(PORTS, codes=CODES))
    frame = random_frames(1, 48, 64, 3)
    pending = []
    for said in ({}, {"strength": (7, 9)}, {"strength": (50, 60)}):
        session.set_codes(said)
        pending += [(said, session.submit(frame)) for _ in range(3)]
    for said, each in pending:
        np.testing.assert_array_equal(each.result(), conditional(frame, said))


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_states_follow_the_frames(open_it: Open, in_flight: int) -> None:
    session = open_it(recurrent_model(), replace(PORTS, states=STATES), in_flight=in_flight)
    frames = random_frames(24, 1, 48, 64, 3)
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))
    session.time_engine(frames[0], 5)
    np.testing.assert_array_equal(results(session, frames), recurrent(frames))


def test_pinned_arrays(open_it: Open) -> None:
    session, cuda = open_it(upscale_model()), open_cuda()
    frame, out = cuda.pinned((1, 72, 96, 3), np.uint8, "frames"), cuda.pinned((1, 144, 192, 3), np.uint8, "results")
    for each in random_frames(10, *frame.shape):
        frame[:] = each
        np.testing.assert_array_equal(session.infer(frame, out), upscale(each))


def test_the_engine_alone_takes_some_time_and_not_longer_than_a_request(open_it: Open) -> None:
    session, frame = open_it(upscale_model()), random_frames(1, 720, 1280, 3)
    session.warm_up(frame.shape)
    times = session.time_engine(frame, 50)
    assert len(times) == 50
    assert 0 < float(np.median(times)) < 1


def test_memory_that_runs_out_is_said_and_given_back(open_it: Open) -> None:
    session, cuda = open_it(upscale_model()), open_cuda()
    session.warm_up((1, 720, 1280, 3))
    session.close()
    session, free = open_it(upscale_model()), cuda.memory()[0]
    hog = cuda.buffer(max(1, free - (96 << 20)), "all but 96 MiB")
    try:
        with pytest.raises(GenedgeError, match="memory"):
            session.warm_up((8, 1440, 2560, 3))
    finally:
        hog.close()
    frame = random_frames(1, 720, 1280, 3)
    np.testing.assert_array_equal(session.infer(frame), upscale(frame))
