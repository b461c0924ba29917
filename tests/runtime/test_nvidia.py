"""What the driver says, through a stand-in for its library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_driver import H200, ORIN, FakeDriver

from runtime import nvidia
from runtime.nvidia import Driver, driver, driver_release

Install = Callable[[FakeDriver | None], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a driver in place, or none."""

    def put(fake: FakeDriver | None) -> None:
        def load(name: str) -> FakeDriver:
            assert name == nvidia.LIBRARY
            if fake is None:
                raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")
            return fake

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(nvidia, "driver", nvidia.driver.__wrapped__)

    return put


def test_without_a_driver(install: Install) -> None:
    install(None)
    assert nvidia.driver() == Driver(None, (), "no NVIDIA driver")


def test_gpus_in_cudas_order(install: Install) -> None:
    install(FakeDriver((H200, ORIN), cuda=12040))
    assert nvidia.driver() == Driver((12, 4), (H200, ORIN))


def test_a_driver_that_sees_no_gpu(install: Install) -> None:
    install(FakeDriver(()))
    assert nvidia.driver() == Driver((13, 0), (), "CUDA sees no GPU")


@pytest.mark.parametrize(
    ("code", "words"), [(803, "system has unsupported display driver / cuda driver combination"), (999, "error 999")]
)
def test_a_driver_that_does_not_start(install: Install, code: int, words: str) -> None:
    install(FakeDriver(fails=code))
    assert nvidia.driver() == Driver((13, 0), (), f"the NVIDIA driver does not start ({words})")


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
            "550.54.14",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (root@host)  Wed\n",
            "580.82.07",
        ),
        ("nothing that is known", ""),
    ],
)
def test_the_kernel_modules_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, release: str) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(nvidia, "KERNEL_MODULE", tmp_path / "version")
    assert driver_release() == release


def test_no_kernel_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "KERNEL_MODULE", tmp_path / "version")
    assert driver_release() == ""


@pytest.mark.gpu
def test_the_real_driver() -> None:
    found = driver()
    if not found.gpus:
        pytest.skip(f"needs an NVIDIA GPU: {found.trouble}")
    assert found.cuda is not None
    assert found.cuda >= (11, 0)
    assert found.gpus[0].sm >= (5, 0)
    assert found.gpus[0].memory_bytes > 1 << 30
