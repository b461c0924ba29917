"""Stages that become faster while frames go through them, and more exact again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import random_frames, upscale, upscale_model, write_small_bundle

from runtime import sessions, stages
from runtime.bundle import Bundle, open_bundle
from runtime.cli import run
from runtime.control import Controls
from runtime.errors import GenedgeError
from runtime.frames import SizeRule
from runtime.live.adaptive import Adaptive, fewer_tiles, ladder
from runtime.live.switch import Slot, Switcher, SwitchSession
from runtime.manifest import Geometry
from runtime.sessions import Choice, Session, choose, onnxruntime
from runtime.sessions.fake import FakeSession
from runtime.video.source import Source, SourceInfo, VideoFrame

pytestmark = pytest.mark.timeout(60)
NET = Geometry(2, SizeRule(), halo=10, tileable=True, fixed_size=None)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Variants of one graph, on a processor that is said to compute bf16."""
    monkeypatch.setattr(sessions, "_bf16_here", lambda: True)
    models = dict.fromkeys(("fp32", "fp16", "int8", "int8-ort"), upscale_model())
    return open_bundle(write_small_bundle(tmp_path / "tiny-x2", models=models))


# --- what there is to choose from ---


def test_a_ladder_begins_with_the_most_exact_precision(bundle: Bundle) -> None:
    start = choose(bundle, "openvino", "bf16")
    levels, place = ladder(bundle, start, None, 48, 64, above=True)
    assert [level.told for level in levels] == ["openvino fp32", "openvino bf16", "openvino int8"]
    assert place == 1
    levels, place = ladder(bundle, start, None, 48, 64, above=False)
    assert [level.told for level in levels] == ["openvino bf16", "openvino int8"]
    assert place == 0


def test_what_is_no_faster_is_no_choice_unless_asked_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    levels, place = ladder(bundle, choose(bundle, "openvino", "fp16"), None, 48, 64, above=True)
    assert [level.told for level in levels] == ["openvino fp32", "openvino fp16", "openvino bf16", "openvino int8"]
    assert place == 1
    monkeypatch.setattr(onnxruntime, "on_cuda", lambda: False)
    levels, _ = ladder(bundle, choose(bundle, "onnxruntime", "fp32"), None, 48, 64, above=True)
    assert [level.told for level in levels] == ["onnxruntime fp32", "onnxruntime int8"]


def test_larger_tiles_come_before_a_precision_that_is_less_exact(bundle: Bundle) -> None:
    levels, _ = ladder(bundle, choose(bundle, "openvino", "bf16"), 64, 240, 320, above=False)
    told = ["openvino bf16 in tiles of 64", "openvino bf16 in tiles of 128", "openvino bf16 in tiles of 256"]
    assert [level.told for level in levels] == [*told, "openvino int8 in tiles of 256"]


def test_tiles_grow_only_where_that_makes_fewer_of_them() -> None:
    assert fewer_tiles(NET, 2160, 3840, 512) == [1024, 2048]
    assert fewer_tiles(NET, 100, 100, 512) == []
    assert fewer_tiles(NET, 2160, 3840, 0) == []
    assert fewer_tiles(NET, 2160, 3840, None) == []
    assert fewer_tiles(replace(NET, fixed_size=(64, 64)), 2160, 3840, 64) == []


# --- the stages ---


class Camera(Source):
    """Only says what it left out."""

    def __init__(self) -> None:
        self.info = SourceInfo("camera", 12, 8, Fraction(25), Fraction(1, 25), live=True)
        self.dropped = 0

    def read(self) -> VideoFrame | None:
        return None

    def close(self) -> None: ...


class Stand:
    """A switcher with one stage that takes as long as ``delays`` says, and a watch that is moved by hand."""

    def __init__(self, bundle: Bundle, *, task: str = "super-resolution") -> None:
        self.delays = {"fp32": 0.06, "bf16": 0.045, "int8": 0.005}
        self.error: Exception | None = None
        self.said: list[str] = []
        self.camera, self.now = Camera(), 100.0
        choice = choose(bundle, "openvino", "fp32")
        bundle = replace(bundle, manifest=replace(bundle.manifest, task=task))
        self.slot = Slot(bundle, choice, SwitchSession(FakeSession(2)), 8, 12)
        controls = Controls([bundle.manifest])
        self.switcher = Switcher([self.slot], self.opens, controls, self.said.append, resizes=False, backend="openvino")
        self.adaptive = Adaptive(self.switcher, self.camera, above=False, say=self.said.append)

    def opens(self, bundle: Bundle, choice: Choice, slot: Slot) -> Session:
        if self.error is not None:
            raise self.error
        return FakeSession(2)

    def pass_time(self, looks: int, *, late: bool) -> None:
        """Half a second for each look, in which a frame comes through, and others do not where it is ``late``."""
        for _ in range(looks):
            self.slot.session.requests += 1
            self.slot.session.seconds += self.delays[self.slot.choice.precision]
            self.camera.dropped += late
            self.now += 0.5
            self.adaptive.look(self.now)
            end = time.monotonic() + 20
            while self.switcher.busy and time.monotonic() < end:
                time.sleep(0.002)


def test_a_late_stage_becomes_faster_until_it_is_in_time_and_says_why(bundle: Bundle) -> None:
    stand = Stand(bundle)
    assert stand.said.pop(0) == "--adaptive: tiny-x2 may be openvino fp32, openvino bf16, openvino int8"
    stand.pass_time(6, late=True)
    assert stand.slot.choice.precision == "bf16"
    stand.pass_time(8, late=True)
    assert stand.slot.choice.precision == "int8"
    stand.pass_time(8, late=False)
    assert [line.partition(" (ready")[0] for line in stand.said] == [
        "now tiny-x2 on openvino bf16",
        "now tiny-x2 on openvino int8",
    ]
    assert stand.said[0].endswith("s): a frame took 60.0 ms, and one comes every 40.0 ms")
    told = stand.adaptive.to_dict()
    assert (told["down"], told["up"], told["stages"][0]["level"]) == (2, 0, "openvino int8")
    assert [entry["engine"] for entry in stand.switcher.switched] == ["openvino bf16", "openvino int8"]


def test_it_goes_back_up_when_there_is_room(bundle: Bundle) -> None:
    stand = Stand(bundle)
    stand.pass_time(14, late=True)
    stand.delays.update(fp32=0.006, bf16=0.0045, int8=0.0005)  # whatever else this machine did has ended
    stand.pass_time(40, late=False)
    assert stand.slot.choice.precision == "fp32"
    assert (stand.adaptive.downs, stand.adaptive.ups) == (2, 2)


def test_a_level_that_does_not_open_is_left_out(bundle: Bundle) -> None:
    stand = Stand(bundle)
    stand.error = GenedgeError("no memory")
    stand.pass_time(5, late=True)
    assert stand.said[-1] == "warning: tiny-x2 on openvino bf16 cannot be used: no memory"
    stand.error = None
    stand.pass_time(5, late=True)
    assert stand.slot.choice.precision == "int8"


def test_what_somebody_chooses_stays(bundle: Bundle) -> None:
    stand = Stand(bundle)
    stand.switcher.ask(0, "tiny-x2", "openvino int8")
    while stand.switcher.busy:
        time.sleep(0.002)
    stand.pass_time(20, late=True)
    assert stand.said[-1] == "--adaptive leaves stage 1 alone from here on: somebody has chosen"
    assert stand.slot.choice.precision == "int8"
    assert stand.adaptive.to_dict()["stages"] == []


def test_a_stage_that_hides_faces_is_never_touched(bundle: Bundle) -> None:
    stand = Stand(bundle, task="face-deid")
    stand.pass_time(20, late=True)
    assert (stand.said, stand.slot.choice.precision) == ([], "fp32")


def test_tiles_become_larger_and_the_pixels_stay(bundle: Bundle) -> None:
    said: list[str] = []

    def opens(bundle: Bundle, choice: Choice, slot: Slot) -> Session:
        return stages.open_stage(bundle, choice, slot.height, slot.width, tile=slot.tile, threads=1)

    choice, frame = choose(bundle, "openvino", "fp32"), random_frames(1, 40, 60, 3)
    slot = Slot(bundle, choice, SwitchSession(FakeSession(2)), 40, 60, 16)
    slot.session.exchange(opens(bundle, choice, slot))
    switcher = Switcher([slot], opens, Controls([bundle.manifest]), said.append, resizes=False, backend="openvino")
    levels, _ = ladder(bundle, choice, 16, 40, 60, above=False)
    before = slot.session.infer(frame)
    switcher.ask(0, "tiny-x2", "openvino fp32", tile=levels[1].tile, why="it was late")
    while switcher.busy:
        time.sleep(0.002)
    assert slot.tile == levels[1].tile == 32
    assert said[0].startswith("now tiny-x2 on openvino fp32 in tiles of 32 (ready in ")
    assert said[0].endswith("): it was late")
    assert np.array_equal(slot.session.infer(frame), before)
    assert np.array_equal(before, upscale(frame))
    slot.session.close()


# --- the command line ---


def slow_engines(monkeypatch: pytest.MonkeyPatch, delays: dict[str, float]) -> None:
    def opened(bundle: Bundle, choice: Choice, **options: Any) -> Session:
        return FakeSession(2, delay=delays[choice.precision], in_flight=1)

    monkeypatch.setattr(stages, "open_session", opened)


def test_a_run_holds_its_frame_rate(
    bundle: Bundle,
    make_clip: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slow_engines(monkeypatch, {"fp32": 0.1, "bf16": 0.004, "int8": 0.004})
    clip, report = make_clip(ticks=[i * 3600 for i in range(140)]), tmp_path / "r.json"  # 5.6 seconds
    arguments = ["run", "-b", str(bundle.folder), "-i", str(clip), "-o", "null://", "--realtime", "--adaptive"]
    more = ["--backend", "openvino", "--precision", "fp32", "--json", str(report), "--quiet"]
    assert run([*arguments, *more]) == 0
    told, said = json.loads(report.read_text()), capsys.readouterr().err
    assert [entry["engine"] for entry in told["switched"]] == ["openvino bf16"]
    assert (told["adaptive"]["down"], told["adaptive"]["up"]) == (1, 0)
    assert said.count("\nnow tiny-x2 on ") == 1
    # two of five frames at first; then, for two seconds and more, all of them
    assert told["frames"] > 0.4 * 140 + 20
    assert told["frames"] + told["dropped"] <= 140


def test_a_file_needs_no_frame_rate(bundle: Bundle, make_clip: Callable[..., Path], capsys: Any) -> None:
    assert run(["run", "-b", str(bundle.folder), "-i", str(make_clip()), "-o", "null://", "--adaptive"]) == 2
    assert "--adaptive is for live sources: leave it out, or play" in capsys.readouterr().err


def test_deid_adapts_what_is_behind_the_covers_only(
    bundle: Bundle,
    assets: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip = str(assets("video/short_hamilton_clip.mp4"))
    arguments = ["deid", "-i", clip, "-o", "null://", "--adaptive", "--quiet", "--method", "solid", "--realtime"]
    assert run(arguments) == 2
    assert "there is none: add -b" in capsys.readouterr().err
    slow_engines(monkeypatch, {"fp32": 0.2, "bf16": 0.005, "int8": 0.005})
    report = tmp_path / "r.json"
    more = [
        "-b",
        str(bundle.folder),
        "--max-frames",
        "30",
        "--backend",
        "openvino",
        "--precision",
        "fp32",
        "--json",
        str(report),
    ]
    code = run([*arguments, *more])
    told = json.loads(report.read_text())
    assert code == (3 if told["covered_whole"] else 0)
    assert told["adaptive"]["down"] >= 1
    assert told["adaptive"]["stages"][0]["levels"] == ["openvino fp32", "openvino bf16", "openvino int8"]
    assert told["thresholds"] == {"low": 0.3, "high": 0.6}
    assert told["faces"] > 0
