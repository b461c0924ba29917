"""ONNX Runtime on a GPU, never silently on the CPU, through a module that does what onnxruntime-gpu was seen to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_factory import (
    random_frames,
    recurrent,
    upscale,
    upscale_model,
    write_recurrent_bundle,
    write_small_bundle,
)
from fake_driver import H200
from fake_onnxruntime_gpu import MISSING, FakeOnnxRuntimeGpu

from runtime.bundle import Bundle, open_bundle
from runtime.errors import GenedgeError
from runtime.nvidia import Driver
from runtime.sessions import Choice, choose, open_session
from runtime.sessions import onnxruntime as sessions

GPU = Driver((13, 0), (H200,))
VARIANTS = {name: upscale_model() for name in ("fp32", "fp16", "int8-ort")}
Machine = Callable[..., FakeOnnxRuntimeGpu]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """``machine(driver, fake)``: this machine has that driver, and onnxruntime-gpu installed."""

    def put(driver: Driver = GPU, fake: FakeOnnxRuntimeGpu | None = None) -> FakeOnnxRuntimeGpu:
        fake = fake or FakeOnnxRuntimeGpu()
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        fake.__spec__ = object()  # type: ignore[attr-defined]  # as find_spec wants it of what is imported
        monkeypatch.setattr(sessions, "driver", lambda: driver)
        return fake

    return put


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    parity = {"int8-ort": {"onnxruntime-int8": {"psnr_db": 45.0, "delta_e": 0.2}}}
    return open_bundle(write_small_bundle(tmp_path / "b", models=VARIANTS, parity=parity))


def choice(precision: str) -> Choice:
    return Choice("onnxruntime", precision, {"int8": "int8-ort"}.get(precision, precision), "asked for")


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", "0"), ("fp16", "1")])
def test_floats_run_on_the_gpu_and_say_so(bundle: Bundle, machine: Machine, precision: str, rounded: str) -> None:
    fake, frames = machine(), random_frames(2, 6, 8, 3)
    with open_session(bundle, choice(precision), threads=1) as session:
        assert session.info.device == "CUDA NVIDIA H200"
        into = np.empty((2, 12, 16, 3), np.uint8)
        assert session.infer(frames, into) is into
        assert np.array_equal(into, upscale(frames))
    assert fake.sessions[0].settings == {"CUDAExecutionProvider": {"device_id": "0", "use_tf32": rounded}}


def test_a_generator_with_a_state_runs_on_the_gpu_too(tmp_path: Path, machine: Machine) -> None:
    machine()
    bundle, frames = open_bundle(write_recurrent_bundle(tmp_path / "b")), random_frames(3, 1, 8, 12, 3)
    with open_session(bundle, choice("fp32"), threads=1) as session:
        assert np.array_equal(np.stack([session.infer(frame) for frame in frames]), recurrent(frames))
        assert session.info.device == "CUDA NVIDIA H200"


def test_missing_libraries_are_an_error_that_names_them(
    bundle: Bundle, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = machine(fake=FakeOnnxRuntimeGpu(MISSING))
    with pytest.raises(GenedgeError) as error:
        open_session(bundle, choice("fp32"))
    assert str(error.value) == (
        "onnxruntime-gpu 1.31.1 does not reach the GPU: libcublasLt.so.13, libcublas.so.13, libcurand.so.10 cannot be "
        'loaded: pip install "onnxruntime-gpu[cuda,cudnn]"; or hide the GPU with CUDA_VISIBLE_DEVICES= to compute on '
        "the CPU"
    )
    assert capsys.readouterr().out == ""  # what ONNX Runtime prints would spoil --json -
    assert fake.severity == 4


def test_a_driver_that_is_too_old_is_named_rather_than_the_libraries(bundle: Bundle, machine: Machine) -> None:
    machine(replace(GPU, cuda=(12, 4)), FakeOnnxRuntimeGpu(MISSING))
    with pytest.raises(
        GenedgeError, match=r"it needs CUDA 13\.0 and the driver serves 12\.4: update the NVIDIA driver to 580"
    ):
        open_session(bundle, choice("fp32"))


def test_a_provider_that_does_not_start_for_another_reason(bundle: Bundle, machine: Machine) -> None:
    machine(fake=FakeOnnxRuntimeGpu(starts=False))
    with pytest.raises(GenedgeError, match=r"does not reach the GPU: CUDA or cuDNN is missing: pip install"):
        open_session(bundle, choice("fp16"))


@pytest.mark.parametrize("driver", [Driver(None, trouble="no NVIDIA driver"), Driver((13, 0), (), "CUDA sees no GPU")])
def test_without_a_gpu_it_computes_on_the_cpu_and_says_so(bundle: Bundle, machine: Machine, driver: Driver) -> None:
    fake = machine(driver, FakeOnnxRuntimeGpu(MISSING))
    with open_session(bundle, choice("fp32"), threads=1) as session:
        assert session.info.device == "CPU"
    assert fake.sessions[0].settings == {}


def test_onnxruntime_for_the_cpu_ignores_a_gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "driver", lambda: GPU)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with open_session(bundle, choice("fp32"), threads=1) as session:
        assert session.info.device == "CPU"


def test_int8_stays_on_the_cpu_and_says_so(bundle: Bundle, machine: Machine) -> None:
    machine()
    chosen = choose(bundle, "onnxruntime", "int8")
    assert chosen.reason == (
        "onnxruntime int8: asked for, on the CPU, since ONNX Runtime has no INT8 convolution for a GPU"
    )
    with open_session(bundle, chosen, threads=1) as session:
        assert session.info.device == "CPU"


def test_a_gpu_is_chosen_before_the_cpus_engines_and_in_fp16(bundle: Bundle, machine: Machine) -> None:
    machine()
    pytest.importorskip("openvino")
    found = choose(bundle)
    assert (found.backend, found.variant) == ("onnxruntime", "fp16")
    assert found.reason == "onnxruntime fp16: ONNX Runtime reaches the GPU"
    assert choose(bundle, "openvino").backend == "openvino"


def test_without_a_gpu_the_choice_is_as_before(bundle: Bundle, machine: Machine) -> None:
    machine(Driver(None, trouble="no NVIDIA driver"))
    pytest.importorskip("openvino")
    assert choose(bundle).backend == "openvino"
    assert choose(bundle, "onnxruntime").precision == "int8"


def test_a_model_that_cannot_be_read_is_not_the_gpus_fault(machine: Machine) -> None:
    machine()
    with pytest.raises(GenedgeError, match="ONNX Runtime cannot read the fp32 model"):
        sessions.OnnxRuntimeSession(b"nonsense", 2, variant="fp32", precision="fp32")


@pytest.mark.gpu
def test_on_a_real_gpu(bundle: Bundle) -> None:
    if not sessions.on_cuda():
        pytest.skip("needs an NVIDIA GPU and onnxruntime-gpu")
    frames = random_frames(2, 48, 64, 3)
    for precision in ("fp32", "fp16"):
        with open_session(bundle, choice(precision)) as session:
            assert session.info.device.startswith("CUDA ")
            assert np.array_equal(session.infer(frames), upscale(frames))
