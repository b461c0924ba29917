"""The device's facts, from what cuda-python was seen to answer without a driver and what its documentation says."""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from fake_tensorrt import fake

from runtime.engines.facts import DeviceFacts, device_facts, strongly_typed, tensorrt_module, variant_for, version_of
from runtime.errors import GenedgeError, MissingExtraError


class Code(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorInitializationError = 3  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815


OK = Code.cudaSuccess


class Cuda(types.ModuleType):
    """cuda.bindings.runtime, or cuda.cudart, with one H200."""

    cudaError_t = Code  # noqa: N815

    def __init__(self, **answers: Any) -> None:
        super().__init__("runtime")
        self.answers = {"served": (OK, 13000), "count": (OK, 1), "properties": OK, "dlopen": None, **answers}

    def cudaDriverGetVersion(self) -> Any:  # noqa: N802
        if self.answers["dlopen"]:
            raise RuntimeError(self.answers["dlopen"])
        return self.answers["served"]

    def cudaRuntimeGetVersion(self) -> Any:  # noqa: N802
        return OK, 13040

    def cudaGetDeviceCount(self) -> Any:  # noqa: N802
        return self.answers["count"]

    def cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        found = types.SimpleNamespace(name=b"NVIDIA H200\0", major=9, minor=0, totalGlobalMem=150_000_000_000)
        return self.answers["properties"], found if self.answers["properties"] == OK else None


def cuda(**answers: Any) -> Any:
    """``import cuda.bindings.runtime`` gives this."""
    runtime = Cuda(**answers)
    package, bindings = types.ModuleType("cuda"), types.ModuleType("cuda.bindings")
    bindings.runtime = runtime  # type: ignore[attr-defined]
    modules = {"cuda": package, "cuda.bindings": bindings, "cuda.bindings.runtime": runtime}
    return mock.patch.dict(sys.modules, modules)


@pytest.fixture(autouse=True)
def tensorrt() -> Iterator[None]:
    with fake("11.4"):
        yield


def test_the_facts() -> None:
    with cuda():
        facts = device_facts()
    assert facts == DeviceFacts("11.4.0.106", "NVIDIA H200", (9, 0), 13, 150_000_000_000)
    assert facts.version == (11, 4)


def test_cuda_python_before_12_6() -> None:
    package = types.ModuleType("cuda")
    package.cudart = Cuda(served=(OK, 12020))  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"cuda": package, "cuda.bindings": None}):
        assert device_facts().driver == 12


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        # seen on a machine without a driver: cuda-python 12.3, then 12.9 and 13.4
        ({"dlopen": "Failed to dlopen libcuda.so.1"}, "no NVIDIA driver here.*libcuda"),
        ({"served": (OK, 0), "count": (Code.cudaErrorInsufficientDriver, None)}, "no NVIDIA driver here"),
        (
            {"served": (OK, 11040), "count": (Code.cudaErrorInsufficientDriver, None)},
            r"serves CUDA 11.4, but cuda-python wants 13.4: update the driver, or pip install .cuda-python==11\.\*.",
        ),
        ({"count": (Code.cudaErrorNoDevice, None)}, "shows no GPU"),
        ({"count": (OK, 0)}, "shows no GPU"),
        ({"count": (Code.cudaErrorInitializationError, None)}, "does not start .cudaErrorInitializationError"),
        ({"properties": Code.cudaErrorInitializationError}, "GPU number 0 does not answer"),
    ],
)
def test_no_gpu_to_be_had(answers: dict[str, Any], says: str) -> None:
    with cuda(**answers), pytest.raises(GenedgeError, match=says):
        device_facts()


def test_hidden_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with cuda(count=(Code.cudaErrorNoDevice, None)), pytest.raises(GenedgeError, match="CUDA_VISIBLE_DEVICES is '-1'"):
        device_facts()


@pytest.mark.parametrize("device", [-1, 1])
def test_a_gpu_that_is_not_there(device: int) -> None:
    with cuda(), pytest.raises(GenedgeError, match=f"no GPU number {device}: this machine has 1"):
        device_facts(device)


def test_without_cuda_python() -> None:
    says = r"cuda-python is not installed: pip install .genedge\[tensorrt\]"
    absent = mock.patch.dict(sys.modules, {"cuda": None, "cuda.bindings": None})
    with absent, pytest.raises(MissingExtraError, match=says):
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
    monkeypatch.delitem(sys.modules, "tensorrt")
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
