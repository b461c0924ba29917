"""The engine of this device, built and measured with the bundle, on a TensorRT without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import fake_cuda
import fake_tensorrt
import pytest
from bundle_factory import random_frames, upscale, upscale_model, write_small_bundle
from checkpoint_factory import write_checkpoint
from fake_cuda import FakeGpu

from export.build import _engine as engine_of
from export.cli import run
from export.config import BuildConfig
from export.engines import build_engine, engine_here
from export.parity import Pair, measure, quickest_to_open
from runtime import sessions
from runtime.bundle import Bundle, open_bundle
from runtime.engines.settings import EngineOptions
from runtime.errors import GenedgeError, MissingExtraError
from runtime.sessions import choose


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], fake_tensorrt.Gpu]]:
    """A machine with a GPU and this version of TensorRT."""
    monkeypatch.setattr(sessions, "_cuda_here", lambda: False)
    with ExitStack() as stack:

        def make(version: str) -> fake_tensorrt.Gpu:
            cuda = FakeGpu()
            fake_cuda.install(monkeypatch, cuda)
            found = fake_tensorrt.Gpu(enqueue=lambda stream, work: cuda.enqueue(stream, "enqueue", work))
            stack.enter_context(fake_tensorrt.fake(version, found))
            return found

        yield make


def small_bundle(folder: Path) -> Bundle:
    return open_bundle(write_small_bundle(folder, models=dict.fromkeys(("fp32", "fp16"), upscale_model())))


@pytest.mark.parametrize(("version", "graph"), [("10.3.0", "fp32"), ("11.4", "fp16")])
def test_parity_is_measured_on_tensorrt_too(
    gpu: Callable[[str], fake_tensorrt.Gpu], tmp_path: Path, version: str, graph: str
) -> None:
    here, bundle = gpu(version), small_bundle(tmp_path / "a")
    frames = [random_frames(8, 8, 3), random_frames(8, 8, 3, seed=1), random_frames(9, 7, 3)]
    pairs = [Pair(frame, upscale(frame[None])[0]) for frame in frames]
    results = measure(bundle, pairs, lambda text: None, EngineOptions(folder=tmp_path / "kept"))
    found = [result for result in results if result.choice.backend == "tensorrt"]
    assert [(result.key, result.choice.variant) for result in found] == [
        ("tensorrt-fp32", "fp32"),
        ("tensorrt-fp16", graph),
    ]
    assert all(result.report.max_abs == 0 and result.report.passed for result in found)
    assert {result.engine for result in found} == {"tensorrt on NVIDIA H200"}
    assert len(here.builds) == len(list((tmp_path / "kept").glob("*.plan"))) == 2 * 2  # one for each size
    assert quickest_to_open(results).backend != "tensorrt"
    assert quickest_to_open(found).backend == "tensorrt"


def test_without_being_asked_nothing_is_built(gpu: Callable[[str], fake_tensorrt.Gpu], tmp_path: Path) -> None:
    here, bundle = gpu("11.4"), small_bundle(tmp_path)
    frame = random_frames(8, 8, 3)
    results = measure(bundle, [Pair(frame, upscale(frame[None])[0])], lambda text: None)
    assert results
    assert not any(result.choice.backend == "tensorrt" for result in results)
    assert not here.builds


def test_an_engine_that_cannot_be_built_is_an_error_only_where_it_was_asked_for(
    gpu: Callable[[str], fake_tensorrt.Gpu], tmp_path: Path
) -> None:
    gpu("11.4").build_fails = True
    bundle, config = small_bundle(tmp_path / "a"), BuildConfig("x.pth")
    told = engine_of(bundle, config, lambda text: None)
    assert told.startswith("no engine was built: TensorRT 11.4 cannot build the engine")
    with pytest.raises(GenedgeError, match=r"is written, but its engine is not: TensorRT 11.4 cannot build"):
        engine_of(bundle, replace(config, engine="tensorrt"), lambda text: None)


def test_where_it_is(gpu: Callable[[str], fake_tensorrt.Gpu]) -> None:
    assert not engine_here("auto")
    with pytest.raises(MissingExtraError, match=r"genedge\[tensorrt\]"):
        engine_here("tensorrt")
    gpu("11.4")
    assert (engine_here("auto"), engine_here("tensorrt"), engine_here("none")) == (True, True, False)


def test_without_shapes_it_is_for_frames_of_720_lines(gpu: Callable[[str], fake_tensorrt.Gpu], tmp_path: Path) -> None:
    here, bundle = gpu("11.4"), small_bundle(tmp_path / "a")
    said: list[str] = []
    line = build_engine(bundle, EngineOptions(folder=tmp_path), said.append)
    assert line == f"engine: {choose(bundle, 'tensorrt').reason}; for 1280x720 on NVIDIA H200"
    assert said == ["building the engine for 1280x720"]
    assert here.builds[0]["profiles"][0]["frame"] == ((1, 720, 1280, 3),) * 3


def test_a_whole_build(
    gpu: Callable[[str], fake_tensorrt.Gpu],
    tmp_path: Path,
    pictures_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here, weights = gpu("11.4"), write_checkpoint(tmp_path / "tiny.pth")
    arguments = ["build", str(weights), "-o", str(tmp_path / "b"), "--frames", str(pictures_folder)]
    report = ["--json", str(tmp_path / "r.json")]
    asked = ["--engine", "tensorrt", "--opt-shape", "64x96", "--workspace", "48"]
    assert run([*arguments, *asked, *report]) == 0
    assert "for 96x64 on NVIDIA H200" in capsys.readouterr().out
    assert here.builds[-1]["profiles"][0]["frame"] == ((1, 64, 96, 3),) * 3
    assert here.builds[-1]["pools"] == {"WORKSPACE": 48 << 20}
    folder = tmp_path / "b" / "tiny"
    assert len(list((folder / "engines").glob("*.plan"))) == len(here.builds) == 2 * 2 + 1
    artifacts = open_bundle(folder).manifest.artifacts
    assert artifacts["fp16"].parity["tensorrt-fp16"]["psnr_db"] >= 50.0
    assert json.loads((tmp_path / "r.json").read_text())[0]["engine"].startswith("engine: tensorrt fp16")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--engine", "none", "--workspace", "48"], 2, "--workspace is for TensorRT, which is not used here"),
        (["--opt-shape", "64x96"], 2, "--opt-shape is for TensorRT, which is not used here"),
        (["--engine", "tensorrt"], 1, "tensorrt is not installed"),
    ],
)
def test_without_tensorrt_nothing_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    assert run(["build", str(tmp_path / "missing.pth"), *arguments]) == code
    assert says in capsys.readouterr().err
