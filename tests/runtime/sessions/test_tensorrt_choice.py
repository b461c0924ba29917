"""TensorRT among the engines: when it is chosen, from which graph, with what it was told, up to a finished video."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_cuda
import fake_tensorrt
import numpy as np
import pytest
from bundle_factory import random_frames, upscale, upscale_model, write_small_bundle
from fake_cuda import FakeGpu, cudaError_t

from runtime import sessions
from runtime.bundle import Bundle, open_bundle
from runtime.cli import run
from runtime.engines.settings import EngineOptions, EngineSettings, Profile
from runtime.errors import GenedgeError, MissingExtraError, UsageError
from runtime.manifest import Limits
from runtime.sessions import available_backends, choose, installed_backend, open_session, runnable
from runtime.verify import limits_for, verify

EVERY = ("fp32", "fp16", "int8", "int8-strong", "int8-ort")
GOOD = {"psnr_db": 60.0, "delta_e": 0.1}


class Machine:
    """A computer with TensorRT; ``cuda`` and ``gpu`` are what its libraries see."""

    def __init__(self, stack: ExitStack, patch: pytest.MonkeyPatch, version: str) -> None:
        self.cuda = FakeGpu()
        self.gpu = fake_tensorrt.Gpu(enqueue=lambda stream, work: self.cuda.enqueue(stream, "enqueue", work))
        fake_cuda.install(patch, self.cuda)
        stack.enter_context(fake_tensorrt.fake(version, self.gpu))

    def lose_its_driver(self, times: int) -> None:
        self.cuda.driver = 0
        for _ in range(times):
            self.cuda.fail("cudaGetDeviceCount", cudaError_t.cudaErrorInsufficientDriver)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Machine]]:
    monkeypatch.setattr(sessions, "_cuda_here", lambda: False)  # ONNX Runtime's
    monkeypatch.setattr(sessions, "_bf16_here", lambda: False)
    with ExitStack() as stack:
        yield lambda version="11.4": Machine(stack, monkeypatch, version)


def bundle_with(folder: Path, *variants: str, parity: dict[str, Any] | None = None, **more: Any) -> Bundle:
    models = dict.fromkeys(variants, upscale_model())
    return open_bundle(write_small_bundle(folder, models=models, parity=parity, **more))


# --- which, and why ---------------------------------------------------------------------------------------------------


def test_tensorrt_comes_first_where_it_works(machine: Callable[..., Machine]) -> None:
    machine()
    assert available_backends()[0] == "tensorrt"
    assert installed_backend("auto") == "tensorrt"
    assert installed_backend("auto", ("openvino", "onnxruntime")) != "tensorrt"


@pytest.mark.parametrize(
    ("version", "precision", "variant"),
    [
        ("8.6.0", "fp32", "fp32"),
        ("8.6.0", "fp16", "fp32"),
        ("10.3.0", "int8", "int8"),
        ("10.13.3", "fp16", "fp16"),
        ("11.4", "int8", "int8-strong"),
    ],
)
def test_the_graph_is_the_one_that_this_version_takes(
    machine: Callable[..., Machine], tmp_path: Path, version: str, precision: str, variant: str
) -> None:
    machine(version)
    choice = choose(bundle_with(tmp_path, *EVERY), "tensorrt", precision)
    assert (choice.variant, choice.reason) == (variant, f"tensorrt {precision}: asked for")


@pytest.mark.parametrize(
    ("parity", "precision", "says"),
    [
        ({"fp16": {"openvino-fp16": GOOD}}, "fp16", "60.0 dB and ΔE 0.10 from PyTorch on openvino"),
        ({"fp16": {"tensorrt-fp16": {**GOOD, "psnr_db": 45.0}}}, "fp16", "45.0 dB and ΔE 0.10 from PyTorch"),
        ({"fp16": {"tensorrt-fp16": {**GOOD, "psnr_db": 44.9}}}, "fp32", "fp16 is possible here, but 44.9 dB"),
        (
            {"fp16": {"tensorrt-fp16": {**GOOD, "delta_e": 0.4}}},
            "fp32",
            "fp16 is possible here, but 60.0 dB and ΔE 0.4",
        ),
        ({"fp16": {"onnxruntime-fp16": {**GOOD, "psnr_db": 49.9}}}, "fp32", "but 49.9 dB"),
        ({}, "fp32", "no parity on record"),
        ({"int8-strong": {"tensorrt-int8": GOOD}}, "int8", "60.0 dB"),
        ({"int8-strong": {"onnxruntime-int8": GOOD}}, "fp32", "no parity on record"),
    ],
)
def test_unasked_it_takes_the_fastest_precision_that_was_measured_to_be_good(
    machine: Callable[..., Machine], tmp_path: Path, parity: dict[str, Any], precision: str, says: str
) -> None:
    machine()
    choice = choose(bundle_with(tmp_path, *EVERY, parity=parity))
    assert (choice.backend, choice.precision) == ("tensorrt", precision)
    assert says in choice.reason
    assert "TensorRT is the fastest engine for an NVIDIA GPU" in choice.reason


def test_a_flag_of_an_old_version_needs_the_figures_of_a_real_fp16_graph(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    machine("10.3.0")
    assert choose(bundle_with(tmp_path / "a", "fp32")).precision == "fp32"
    good = bundle_with(tmp_path / "b", "fp32", "fp16", parity={"fp16": {"openvino-fp16": GOOD}})
    assert choose(good).precision == "fp16"
    assert choose(good).variant == "fp32"


def test_what_runs_here(machine: Callable[..., Machine], tmp_path: Path) -> None:
    machine("10.3.0")
    here = [choice for choice in runnable(bundle_with(tmp_path, "fp32", "fp16")) if choice.backend == "tensorrt"]
    assert [(choice.precision, choice.variant) for choice in here] == [("fp32", "fp32"), ("fp16", "fp32")]
    alone = [choice for choice in runnable(bundle_with(tmp_path / "b", "fp32")) if choice.backend == "tensorrt"]
    assert [choice.precision for choice in alone] == ["fp32"]  # nothing says what fp16 would have to reach
    assert not [choice for choice in runnable(bundle_with(tmp_path / "c", "fp32"), ("openvino",)) if choice in here]


def test_fp16_is_judged_by_the_limits_of_fp16_whatever_graph_it_comes_from(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    machine("10.3.0")
    bundle = bundle_with(tmp_path, "fp32", "fp16")
    limits = {"fp32": Limits(max_abs=1), "fp16": Limits(psnr_db=50.0, delta_e=0.3)}
    manifest = replace(bundle.manifest, limits=limits)
    assert limits_for(manifest, choose(bundle, "tensorrt", "fp16")) == Limits(psnr_db=45.0, delta_e=0.3)
    assert limits_for(manifest, choose(bundle, "tensorrt", "fp32")) == Limits(max_abs=1)
    strict = replace(manifest, limits={"fp16": Limits(psnr_db=40.0)})
    assert limits_for(strict, choose(bundle, "tensorrt", "fp16")) == Limits(psnr_db=40.0)
    if "onnxruntime" in available_backends():
        assert limits_for(manifest, choose(bundle, "onnxruntime", "fp16")) == Limits(psnr_db=50.0, delta_e=0.3)


def test_without_a_driver_another_engine_is_taken_and_the_reason_told(
    machine: Callable[..., Machine], tmp_path: Path
) -> None:
    here, bundle = machine(), bundle_with(tmp_path, "fp32")
    here.lose_its_driver(8)
    choice = choose(bundle)
    assert choice.backend != "tensorrt"
    assert "; TensorRT is installed, but no NVIDIA driver" in choice.reason
    with pytest.raises(GenedgeError, match="no NVIDIA driver"):
        choose(bundle, "tensorrt")


def test_what_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"genedge\[tensorrt\]"):
        installed_backend("tensorrt")


# --- through a session ------------------------------------------------------------------------------------------------


def opened(bundle: Bundle, **settings: Any) -> Any:
    engines = EngineOptions(EngineSettings(**settings))
    return open_session(bundle, choose(bundle, "tensorrt", "fp16"), engines=engines)


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_frames_go_through_and_the_engine_stays_in_the_bundle(
    machine: Callable[..., Machine], tmp_path: Path, version: str
) -> None:
    here, bundle, frames = machine(version), bundle_with(tmp_path, "fp32", "fp16"), random_frames(1, 8, 12, 3)
    for _ in range(2):
        with opened(bundle) as session:
            assert np.array_equal(session.infer(frames), upscale(frames))
            assert session.info.device == "NVIDIA H200"
    assert len(here.gpu.builds) == 1
    assert here.gpu.builds[0]["profiles"] == [{"frame": ((1, 8, 12, 3),) * 3}]
    assert len(list((bundle.folder / "engines").glob("*.plan"))) == 1


def test_the_settings_arrive(machine: Callable[..., Machine], tmp_path: Path) -> None:
    here, bundle = machine(), bundle_with(tmp_path, "fp32", "fp16")
    profile = Profile((1, 4, 4), (1, 8, 8), (2, 16, 16))
    with opened(bundle, profile=profile, workspace_mib=64, optimization_level=2) as session:
        for size in ((1, 4, 16, 3), (2, 16, 4, 3)):
            assert np.array_equal(session.infer(random_frames(*size)), upscale(random_frames(*size)))
    (built,) = here.gpu.builds
    assert built["profiles"] == [{"frame": ((1, 4, 4, 3), (1, 8, 8, 3), (2, 16, 16, 3))}]
    assert (built["pools"], built["optimization_level"]) == ({"WORKSPACE": 64 << 20}, 2)


def test_a_kept_engine_that_tensorrt_refuses_is_built_again(machine: Callable[..., Machine], tmp_path: Path) -> None:
    here, bundle, frames = machine(), bundle_with(tmp_path, "fp32", "fp16"), random_frames(1, 8, 8, 3)
    with opened(bundle) as session:
        session.infer(frames)
    here.gpu.sm = (8, 9)  # what the driver says is the same, and TensorRT sees another device
    with opened(bundle) as session:
        assert np.array_equal(session.infer(frames), upscale(frames))
        assert "TensorRT refused the kept engine" in session.notes[0]
    assert len(here.gpu.builds) == 2


def test_verify_judges_it(machine: Callable[..., Machine], tmp_path: Path) -> None:
    machine("10.3.0")
    bundle = bundle_with(tmp_path, "fp32", "fp16")
    choices = [choice for choice in runnable(bundle) if choice.backend == "tensorrt"]
    verdicts = verify(bundle, choices, EngineOptions(folder=tmp_path / "kept"))
    assert [verdict.choice.precision for verdict in verdicts] == ["fp32", "fp16"]
    assert [verdict.report.max_abs for verdict in verdicts] == [0, 0]
    assert list((tmp_path / "kept").glob("*.plan"))
    assert not (bundle.folder / "engines").exists()


# --- the command line -------------------------------------------------------------------------------------------------


def place(tmp_path: Path) -> str:
    return str(bundle_with(tmp_path, "fp32", "fp16").folder)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--engine-cache", "x"], "--engine-cache"),
        (["--workspace", "0"], "--workspace"),
        (["--builder-optimization-level", "0"], "--builder-optimization-level"),
        (["--timing-cache", "x"], "--timing-cache"),
        (["--dla-core", "0"], "--dla-core"),
        (["--version-compatible"], "--version-compatible"),
        (["--hardware-compatible"], "--hardware-compatible"),
        (["--opt-shape", "360x640"], "--opt-shape"),
    ],
)
@pytest.mark.parametrize("verb", ["verify", "bench"])
def test_with_another_engine_they_are_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, arguments: list[str], option: str
) -> None:
    assert run([verb, place(tmp_path), "--backend", "onnxruntime", *arguments]) == 2
    said = f"error: {option} is for TensorRT, which is not used here (onnxruntime is): leave it out"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--min-shape", "64x64"], "--min-shape and --max-shape go together"),
        (["--max-shape", "64x64"], "--min-shape and --max-shape go together"),
        (["--min-shape", "64x64", "--max-shape", "32x32"], "must grow from smallest to usual to largest"),
        (["--builder-optimization-level", "6"], "choose 0 (built fast) to 5"),
        (["--workspace", "0"], "at least 1 MiB"),
        (["--dla-core", "0"], "this device has none"),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    machine: Callable[..., Machine],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    machine()
    assert run(["verify", place(tmp_path), "--backend", "tensorrt", "--precision", "fp16", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["64", "x64x64", "0x64x64", "1x64", "1x0x64", "1x2x3x4", "ax64x64"])
def test_shapes_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    if text == "1x64":  # height and width of a line of pixels
        assert run(["verify", place(tmp_path), "--backend", "onnxruntime", "--opt-shape", text]) == 2
        assert "is for TensorRT" in capsys.readouterr().err
        return
    with pytest.raises(SystemExit) as caught:
        run(["verify", "x", "--opt-shape", text])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "shapes"),
    [
        ([], ((1, 16, 24), (1, 16, 24), (1, 16, 24))),
        (["--opt-shape", "16x24"], ((1, 16, 24), (1, 16, 24), (1, 16, 24))),
        (["--opt-shape", "16x24", "--max-shape", "2x32x48"], ((1, 16, 24), (1, 16, 24), (2, 32, 48))),
        (["--opt-shape", "16x24", "--min-shape", "8x8"], ((1, 8, 8), (1, 16, 24), (1, 16, 24))),
        (["--min-shape", "8x8", "--max-shape", "4x32x48"], ((1, 8, 8), (4, 32, 48), (4, 32, 48))),
        (
            ["--min-shape", "8x8", "--opt-shape", "1x16x24", "--max-shape", "4x32x48"],
            ((1, 8, 8), (1, 16, 24), (4, 32, 48)),
        ),
    ],
)
def test_bench_builds_what_the_options_say(
    machine: Callable[..., Machine],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    shapes: tuple[tuple[int, int, int], ...],
) -> None:
    here = machine()
    asked = ["--backend", "tensorrt", "--precision", "fp16", "--size", "16x24", "--rounds", "1", "--workspace", "32"]
    kept = ["--engine-cache", str(tmp_path / "kept")]
    assert run(["bench", place(tmp_path), *asked, *kept, *arguments, "--json", str(tmp_path / "b.json")]) == 0
    assert [tuple(shape[:3] for shape in here.gpu.builds[0]["profiles"][0]["frame"])] == [shapes]
    assert here.gpu.builds[0]["pools"] == {"WORKSPACE": 32 << 20}
    assert json.loads((tmp_path / "b.json").read_text())["results"][0]["device"] == "NVIDIA H200"
    assert "building the TensorRT fp16 engine" in capsys.readouterr().err
    assert list((tmp_path / "kept").glob("*.plan"))


def test_pictures_through_run(
    machine: Callable[..., Machine], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    machine("8.6.0")
    frame = random_frames(16, 24, 3)
    cv2.imwrite(str(tmp_path / "in.png"), frame)
    out = tmp_path / "out.png"
    arguments = ["-i", str(tmp_path / "in.png"), "-o", str(out), "--backend", "tensorrt", "--precision", "fp16"]
    assert run(["run", "-b", place(tmp_path), *arguments]) == 0
    assert np.array_equal(cv2.imread(str(out)), upscale(frame[None])[0])
    assert "tensorrt fp16: asked for; 24x16 on NVIDIA H200" in capsys.readouterr().err


def test_a_stage_on_another_engine_is_no_reason_to_refuse(machine: Callable[..., Machine]) -> None:
    import argparse

    from runtime.cli import engine_options, engines_of

    parser = argparse.ArgumentParser()
    engine_options(parser)
    options = parser.parse_args(["--workspace", "5"])
    assert engines_of(options, ["openvino", "tensorrt"]).settings.workspace_mib == 5
    with pytest.raises(UsageError, match="not used here: leave it out"):
        engines_of(options, [])
