"""What device this is, and what its TensorRT takes."""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import fake_cuda
import pytest
from fake_cuda import FakeGpu, cudaError_t
from fake_tensorrt import fake

from runtime.engines.facts import DeviceFacts, device_facts, strongly_typed, tensorrt_module, variant_for, version_of
from runtime.errors import GenedgeError, MissingExtraError


@pytest.mark.parametrize("layout", ["cuda.bindings.runtime", "cuda.cudart"])
def test_the_facts(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(memory=150_000_000_000)
    fake_cuda.install(monkeypatch, gpu, layout)
    with fake("11.4"):
        facts = device_facts()
    assert facts == DeviceFacts("11.4.0.106", "NVIDIA H200", (9, 0), 13, 150_000_000_000)
    assert facts.version == (11, 4)


def test_without_a_gpu_the_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    gpu.driver = 0
    gpu.fail("cudaGetDeviceCount", cudaError_t.cudaErrorInsufficientDriver)
    fake_cuda.install(monkeypatch, gpu)
    with fake("8.6.0"), pytest.raises(GenedgeError, match="no NVIDIA driver"):
        device_facts()


def test_a_gpu_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    gpu.fail("cudaGetDeviceProperties", cudaError_t.cudaErrorIllegalAddress)
    fake_cuda.install(monkeypatch, gpu)
    with fake("11.4"), pytest.raises(GenedgeError, match="asking what GPU this is failed"):
        device_facts()


def test_without_tensorrt() -> None:
    with mock.patch.dict(sys.modules, {"tensorrt": None}), pytest.raises(MissingExtraError, match=r"\[tensorrt\]"):
        tensorrt_module()


@pytest.mark.parametrize(
    "source",
    [
        "from tensorrt_bindings_that_are_not_there import *",
        "raise ImportError('libnvinfer.so.11: cannot open shared object file')",
        "raise OSError('nvinfer_11.dll not found')",
    ],
)
def test_tensorrt_without_its_libraries(source: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(GenedgeError, match=r"without its libraries.*pip install --force-reinstall tensorrt"):
        tensorrt_module()


@pytest.mark.parametrize(
    ("version", "variants"),
    [
        ((8, 5), ["fp32", "fp32", "int8"]),
        ((10, 11), ["fp32", "fp32", "int8"]),
        ((10, 12), ["fp32", "fp16", "int8-strong"]),
        ((11, 4), ["fp32", "fp16", "int8-strong"]),
    ],
)
def test_the_variant_follows_the_typing(version: tuple[int, int], variants: list[str]) -> None:
    assert [variant_for(precision, version) for precision in ("fp32", "fp16", "int8")] == variants
    assert strongly_typed(version) == ("int8-strong" in variants)


def test_versions() -> None:
    assert version_of("10.13.3.9.post1") == (10, 13)
    for text in ("", "10", "x.y", "10."):
        with pytest.raises(GenedgeError, match="install it again"):
            version_of(text)
