"""Stages that become others between two frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import CODES, random_frames, small_manifest, upscale, write_conditional_bundle
from bundle_factory import write_small_bundle as write

from runtime.bundle import Bundle
from runtime.control import Controls
from runtime.errors import UsageError
from runtime.live.switch import Slot, Switcher, SwitchSession, bundles_here
from runtime.manifest import Artifact, Manifest, Port
from runtime.pipeline import run_pipeline
from runtime.sessions import Choice, Session, choose
from runtime.sessions.fake import FakeSession
from runtime.stages import open_stage
from runtime.video.source import VideoFrame

pytestmark = pytest.mark.timeout(60)
FAKE = Choice("fake", "fp32", "fake", "")


# --- the session ----------------------------------------------------------------------------------------------------


def test_what_was_begun_ends_where_it_began_and_then_the_old_session_is_closed() -> None:
    old, new = FakeSession(2), FakeSession(2)
    switch, frame = SwitchSession(old), random_frames(1, 4, 6, 3)
    first, second = switch.submit(frame), switch.submit(frame)
    exchange = threading.Thread(target=switch.exchange, args=(new,))
    exchange.start()
    while switch._turn.session is old:
        time.sleep(0.001)
    third = switch.submit(frame)
    assert np.array_equal(first.result(), upscale(frame))
    assert not old.closed
    second.result()
    exchange.join()
    assert old.closed
    third.result()
    assert (old.requests, new.requests) == (2, 1)
    switch.close()
    assert new.closed


def test_another_scale_brings_arrays_of_its_own() -> None:
    switch, frame = SwitchSession(FakeSession(2)), random_frames(1, 4, 6, 3)
    out = np.empty(switch.output_shape(frame.shape), np.uint8)
    assert switch.submit(frame, out).result() is out
    switch.exchange(FakeSession(3))
    result = switch.submit(frame, out).result()  # the array was made before the exchange
    assert np.array_equal(result, upscale(frame, 3))
    assert switch.scale == 3
    assert switch.output_shape(frame.shape) == (1, 12, 18, 3)


def test_a_request_that_fails_is_not_waited_for() -> None:
    old = FakeSession(2, fail_at=0)
    switch = SwitchSession(old)
    with pytest.raises(RuntimeError, match="fake failure"):
        switch.infer(random_frames(1, 4, 6, 3))
    switch.exchange(FakeSession(2))
    assert old.closed


def test_a_run_that_ends_amid_an_exchange_leaves_nothing_open() -> None:
    old, new = FakeSession(2), FakeSession(2)
    switch = SwitchSession(old)
    switch.submit(random_frames(1, 4, 6, 3))  # never collected
    exchange = threading.Thread(target=switch.exchange, args=(new,))
    exchange.start()
    while switch._turn.session is old:
        time.sleep(0.001)
    switch.close()
    exchange.join(5)
    assert old.closed
    assert new.closed


class Endless:
    """Frames that count, until it is told to end."""

    def __init__(self) -> None:
        self.count, self.end = 0, False

    def read(self) -> VideoFrame | None:
        if self.end:
            return None
        self.count += 1
        image = np.full((4, 6, 3), self.count % 256, np.uint8)
        return VideoFrame(image, Fraction(self.count), self.count)


class Keeping:
    """A sink that remembers the size and number of every frame."""

    def __init__(self, at: dict[int, Callable[[], None]]) -> None:
        self.seen: list[tuple[int, int, int]] = []
        self._at = at

    def write(self, frame: VideoFrame) -> None:
        assert np.all(frame.image == frame.index % 256)
        self.seen.append((frame.index, *frame.image.shape[:2]))
        if len(self.seen) in self._at:
            self._at[len(self.seen)]()

    def close(self) -> None: ...

    def abort(self) -> None: ...


def test_no_frame_is_lost_or_changes_its_place_in_a_run_with_exchanges() -> None:
    switch, source, threads = SwitchSession(FakeSession(2)), Endless(), []

    def become(scale: int) -> Callable[[], None]:
        def act() -> None:  # never in the pipeline's own thread
            threads.append(threading.Thread(target=switch.exchange, args=(FakeSession(scale),)))
            threads[-1].start()

        return act

    sink = Keeping({20: become(3), 60: become(1), 100: lambda: setattr(source, "end", True)})
    run_pipeline(source, [switch], sink)
    for thread in threads:
        thread.join(5)
    assert [index for index, _, _ in sink.seen] == list(range(1, len(sink.seen) + 1))
    sizes = [height for _, height, _ in sink.seen]
    assert sorted(set(sizes), key=sizes.index) == [8, 12, 4]
    assert len(sink.seen) >= 100


# --- the codes ------------------------------------------------------------------------------------------------------


def manifest_of(*ports: Port, name: str = "net") -> Manifest:
    return small_manifest({"fp32": Artifact("model.fp32.onnx", "0" * 64)}, name=name, codes=ports)


def test_codes_of_the_same_rule_stay_and_others_begin_anew() -> None:
    style, passcode, strength = CODES
    controls = Controls([manifest_of(style, strength)])
    controls.attach(0, FakeSession(codes=(style, strength)), 4, 6)
    controls.apply("style", "d")
    controls.apply("strength", "7,8")
    new = FakeSession(codes=(style, passcode))
    controls.exchange(0, manifest_of(style, passcode, name="other"), new, 4, 6)
    assert [dial.name for dial in controls.dials] == ["style", "passcode"]
    assert list(new.code_inputs.now["style"]) == [0, 0, 0, 1]
    assert list(new.code_inputs.now["passcode"]) == [-1, -1, 1]
    controls.apply("other.style", "a")
    assert list(new.code_inputs.now["style"]) == [1, 0, 0, 0]
    with pytest.raises(UsageError, match="no code is called 'strength'"):
        controls.apply("strength", "1")


def test_a_dial_of_a_stage_that_has_gone_sets_nothing() -> None:
    style, _, strength = CODES
    controls, new = Controls([manifest_of(style)]), FakeSession(codes=(strength,))
    controls.attach(0, FakeSession(codes=(style,)), 4, 6)
    dial = controls.dial("style")
    controls.exchange(0, manifest_of(strength), new, 4, 6)
    with pytest.raises(UsageError, match="no code is called"):
        controls._set(dial, dial.numbers, None, "b")


# --- the choice -----------------------------------------------------------------------------------------------------


class Opening:
    """Opens sessions as the command line does, and remembers them; raises where it is told to."""

    def __init__(self) -> None:
        self.opened: list[Session] = []
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def __call__(self, bundle: Bundle, choice: Choice, slot: Slot) -> Session:
        self.go.wait(10)
        if self.error is not None:
            raise self.error
        session = open_stage(bundle, choice, slot.height, slot.width, threads=1)
        self.opened.append(session)
        return session


@pytest.fixture
def bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Bundle]:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "bundles"
    write(folder / "tiny-x2")
    write(folder / "tiny-x3", name="tiny-x3", scale=3)
    write_conditional_bundle(folder / "tiny-codes")
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{")
    return bundles_here()


def switcher_of(bundles: list[Bundle], opening: Opening, said: list[str], **more: Any) -> tuple[Switcher, Controls]:
    first = next(bundle for bundle in bundles if bundle.manifest.name == "tiny-x2")
    controls = Controls([first.manifest])
    session = SwitchSession(FakeSession(2))
    controls.attach(0, session, 8, 12)
    slots = [Slot(first, FAKE, session, 8, 12)]
    return Switcher(slots, opening, controls, said.append, **{"resizes": True, "bundles": bundles, **more}), controls


def until_idle(switcher: Switcher) -> None:
    deadline = time.monotonic() + 30
    while switcher.busy:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_stage_becomes_another_bundle_with_its_codes(bundles: list[Bundle]) -> None:
    assert [bundle.manifest.name for bundle in bundles] == ["tiny-codes", "tiny-x2", "tiny-x3"], (
        "broken ones are left out"
    )
    said: list[str] = []
    switcher, controls = switcher_of(bundles, Opening(), said)
    engine = switcher.offers["tiny-codes"][0]
    switcher.ask(0, "tiny-codes", engine)
    until_idle(switcher)
    assert said[0].startswith(f"now tiny-codes on {engine}")
    slot, frame = switcher.slots[0], random_frames(1, 8, 12, 3)
    assert slot.bundle.manifest.name == "tiny-codes"
    before = slot.session.infer(frame)
    controls.apply("style", "d")
    assert np.any(slot.session.infer(frame) != before)
    assert switcher.switched == [{"stage": 1, "bundle": "tiny-codes", "engine": engine}]
    slot.session.close()


def test_a_failure_is_said_and_the_old_session_goes_on(bundles: list[Bundle]) -> None:
    said: list[str] = []
    opening = Opening()
    opening.error = RuntimeError("out of \x1b[31mmemory")
    switcher, controls = switcher_of(bundles, opening, said)
    engine = switcher.offers["tiny-codes"][0]
    switcher.ask(0, "tiny-codes", engine)
    until_idle(switcher)
    assert said == [f"warning: tiny-codes on {engine} cannot be used: out of \\x1b[31mmemory"]
    slot, frame = switcher.slots[0], random_frames(1, 8, 12, 3)
    assert np.array_equal(slot.session.infer(frame), upscale(frame))
    assert (slot.bundle.manifest.name, controls.dials) == ("tiny-x2", ())
    opening.error = None
    switcher.ask(0, "tiny-codes", engine)
    until_idle(switcher)
    assert slot.bundle.manifest.name == "tiny-codes"
    slot.session.close()


def test_one_exchange_at_a_time_and_none_after_the_end(bundles: list[Bundle]) -> None:
    opening = Opening()
    switcher, _ = switcher_of(bundles, opening, [])
    engine = switcher.offers["tiny-x2"][0]
    opening.go.clear()
    switcher.ask(0, "tiny-x2", engine)
    assert switcher.busy == f"tiny-x2 on {engine}"
    with pytest.raises(UsageError, match="still being opened"):
        switcher.ask(0, "tiny-x3", engine)
    threading.Timer(0.05, opening.go.set).start()
    switcher.close()
    assert opening.opened, "the end has waited for it"
    assert switcher.switched == []
    with pytest.raises(UsageError, match="has ended"):
        switcher.ask(0, "tiny-x2", engine)


def test_frames_that_must_keep_their_size_keep_it(bundles: list[Bundle]) -> None:
    switcher, _ = switcher_of(bundles, Opening(), [], resizes=False)
    engine = switcher.offers["tiny-x3"][0]
    with pytest.raises(UsageError, match="3 times as large, not 2 times: this output keeps the size"):
        switcher.ask(0, "tiny-x3", engine)
    first = switcher.slots[0]
    chain = Switcher([first, first], Opening(), Controls([]), print, resizes=True, bundles=bundles)
    with pytest.raises(UsageError, match="the stage behind it"):
        chain.ask(0, "tiny-x3", engine)


def test_a_stage_that_hides_faces_stays(bundles: list[Bundle]) -> None:
    from dataclasses import replace

    switcher, _ = switcher_of(bundles, Opening(), [])
    slot = switcher.slots[0]
    slot.bundle = replace(slot.bundle, manifest=replace(slot.bundle.manifest, name="hider", task="face-deid"))
    with pytest.raises(UsageError, match="hides faces"):
        switcher.ask(0, "tiny-x2", switcher.offers["tiny-x2"][0])


@pytest.mark.parametrize(
    "asked", [(1, "tiny-x2", ""), (-1, "tiny-x2", ""), (0, "../tiny-x2", ""), (0, "tiny-x2", "gpu")]
)
def test_only_what_is_on_offer_can_be_asked_for(bundles: list[Bundle], asked: tuple[int, str, str]) -> None:
    opening = Opening()
    switcher, _ = switcher_of(bundles, opening, [])
    with pytest.raises(UsageError, match=r"no stage|no bundle|does not run"):
        switcher.ask(*asked)
    assert not switcher.busy


def test_only_the_engine_that_the_run_was_told_to_use_is_offered(bundles: list[Bundle]) -> None:
    engine = choose(bundles[0]).backend
    switcher, _ = switcher_of(bundles, Opening(), [], backend=engine)
    names = {name for engines in switcher.offers.values() for name in engines}
    assert {name.split()[0] for name in names} == {engine}
