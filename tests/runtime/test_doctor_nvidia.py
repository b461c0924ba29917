"""What the doctor tells a user of an NVIDIA GPU, on machines that are not at hand."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_driver import H200, ORIN
from fake_onnxruntime_gpu import MISSING, FakeOnnxRuntimeGpu

from runtime import doctor, doctor_nvidia
from runtime.doctor_nvidia import nvidia_findings
from runtime.engines.facts import DeviceFacts
from runtime.errors import GenedgeError
from runtime.findings import Finding
from runtime.nvidia import Driver
from runtime.sessions import onnxruntime as sessions

NONE = Driver(None, trouble="no NVIDIA driver")
GPU = Driver((13, 0), (H200,))
OLD = replace(GPU, cuda=(12, 4))
PARTS = {"cuda-bindings": "13.5.0", "polygraphy": "0.53.6"}
CU13 = {"tensorrt": "11.4.0.106", "tensorrt-cu13": "11.4.0.106", **PARTS}
THIS_PYTHON = "{}.{}".format(*sys.version_info)
Machine = Callable[..., list[Finding]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """``machine(driver, installed, ...)``: what is found on a machine with that driver and these distributions.

    ``modules`` can be imported, or raise where they are an error; those of ``installed`` can by default.
    """
    found, imported = importlib.util.find_spec, importlib.import_module
    own = ("tensorrt", "polygraphy", "cuda.bindings.runtime", "cuda.cudart")

    def examine(
        driver: Driver = GPU,
        installed: Mapping[str, str] = CU13,
        *,
        modules: Mapping[str, Any] | None = None,
        tegra: str | None = None,
        kernel: str = "",
    ) -> list[Finding]:
        here: dict[str, Any] = {}
        if "tensorrt" in installed:
            here["tensorrt"] = SimpleNamespace(__version__=installed["tensorrt"])
        if "polygraphy" in installed:
            here["polygraphy"] = SimpleNamespace()
        if "cuda-bindings" in installed:
            here["cuda.bindings.runtime"] = SimpleNamespace()
        here.update(modules or {})

        def load(name: str) -> Any:
            if name not in own:
                return imported(name)
            if name not in here:
                raise ModuleNotFoundError(f"No module named {name!r}")
            if isinstance(here[name], Exception):
                raise here[name]
            return here[name]

        monkeypatch.setattr(importlib, "import_module", load)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: (here.get(name) and object()) if name in own else found(name)
        )
        monkeypatch.setattr(doctor_nvidia, "installed_version", lambda name: installed.get(name, ""))
        monkeypatch.setattr(doctor_nvidia, "driver", lambda: driver)
        monkeypatch.setattr(doctor_nvidia, "driver_release", lambda: kernel)
        facts = DeviceFacts("11.4.0.106", H200.name, H200.sm, 13, H200.memory_bytes)
        monkeypatch.setattr(doctor_nvidia, "device_facts", lambda: facts)
        release = tmp_path / "nv_tegra_release"
        if tegra is not None:
            release.write_text(f"# {tegra}, GCID: 38968081, BOARD: generic, EABI: aarch64\n# KERNEL_VARIANT: oot\n")
        monkeypatch.setattr(doctor_nvidia, "TEGRA_RELEASE", release)
        findings = nvidia_findings()
        assert all(finding.good or finding.optional for finding in findings)  # another engine may be there
        return findings

    return examine


def texts(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings]


def about(findings: list[Finding], word: str) -> Finding:
    """The one line that begins with ``word``."""
    (finding,) = (finding for finding in findings if finding.what.startswith(word))
    return finding


# --- a machine without a GPU ------------------------------------------------------------------------------------------


def test_without_a_gpu_it_tells_what_somebody_with_one_would_install(machine: Machine) -> None:
    findings = machine(NONE, {"onnxruntime": "1.32.0"})
    assert [finding.good for finding in findings] == [False] * 3
    repairs = "\n".join(finding.repair for finding in findings)
    assert "install its driver" in repairs
    assert 'pip install "genedge[tensorrt]"' in repairs
    assert 'pip uninstall -y onnxruntime && pip install "genedge[gpu]" "onnxruntime-gpu[cuda,cudnn]"' in repairs


def test_a_driver_of_the_host_without_libcuda_is_a_container(machine: Machine) -> None:
    finding = machine(NONE, {}, kernel="550.54.14")[0]
    assert finding.what == "NVIDIA driver 550.54.14: its libcuda is not found"
    assert "--gpus all" in finding.repair


def test_a_hidden_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = Driver((13, 0), (), "CUDA sees no GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    finding = machine(hidden, {}, kernel="580.82.07")[0]
    assert finding.what == "NVIDIA driver 580.82.07, CUDA 13.0: CUDA sees no GPU"
    assert finding.repair.startswith("unset CUDA_VISIBLE_DEVICES   # it is '-1'")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "nvidia-smi" in machine(hidden, {})[0].repair


# --- a PC or server with one ------------------------------------------------------------------------------------------


def test_everything_is_there(machine: Machine) -> None:
    findings = machine(kernel="580.82.07")
    assert texts(findings) == [
        "NVIDIA driver 580.82.07, CUDA 13.0: NVIDIA H200 (sm_90, 139.7 GiB)",
        "tensorrt 11.4.0.106, built for CUDA 13",
        "cuda-python 13.5.0",
        "polygraphy 0.53.6",
        "TensorRT engines: for NVIDIA H200 (sm_90) with 11.4.0.106",
    ]
    assert all(finding.good for finding in findings)


def test_what_the_engines_themselves_complain_of(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()

    def fail() -> DeviceFacts:
        raise GenedgeError("GPU number 0 does not answer")

    monkeypatch.setattr(doctor_nvidia, "device_facts", fail)
    assert about(nvidia_findings(), "TensorRT engines") == Finding(
        "TensorRT engines: GPU number 0 does not answer", False, optional=True
    )


@pytest.mark.parametrize(
    ("driver", "repair"),
    [
        (GPU, 'pip install "genedge[tensorrt]"'),
        (OLD, 'pip install tensorrt-cu12 polygraphy "cuda-python==12.*"'),  # the extra would bring CUDA 13
        (replace(GPU, cuda=(11, 4)), "update the NVIDIA driver to 525 or later"),
    ],
)
def test_tensorrt_is_installed_for_the_cuda_that_the_driver_serves(
    machine: Machine, driver: Driver, repair: str
) -> None:
    assert about(machine(driver, {}), "tensorrt").repair == repair


def test_a_driver_too_old_for_the_tensorrt_that_is_installed(machine: Machine) -> None:
    findings = machine(OLD, {**CU13, "cuda-bindings": "12.9.0"})
    finding = about(findings, "tensorrt")
    assert finding.what == "tensorrt 11.4.0.106: built for CUDA 13, and the driver serves CUDA 12.4"
    assert finding.repair == (
        "update the NVIDIA driver to 580 or later, or: pip uninstall -y tensorrt tensorrt-cu13 tensorrt-cu13-bindings "
        'tensorrt-cu13-libs && pip install tensorrt-cu12 polygraphy "cuda-python==12.*"'
    )
    assert not any(finding.what.startswith("TensorRT engines") for finding in findings)
    assert about(machine(OLD, {"tensorrt": "11.4.0.106", "tensorrt-cu12": "11.4.0.106", **PARTS}), "tensorrt").good


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libnvinfer.so.11: cannot open shared object file: No such file or directory\nmore"),
        ModuleNotFoundError("No module named 'tensorrt_libs'"),
        OSError("libnvinfer.so.11"),
    ],
)
def test_bindings_without_libraries(machine: Machine, error: Exception) -> None:
    finding = about(machine(installed=CU13, modules={"tensorrt": error}), "tensorrt")
    assert finding.what == f"tensorrt 11.4.0.106: does not import ({str(error).splitlines()[0]})"
    assert finding.repair == "pip install --force-reinstall tensorrt"


def test_a_tensorrt_before_uint8_frames(machine: Machine) -> None:
    finding = about(machine(installed={"tensorrt": "8.4.1.5"}), "tensorrt")
    assert (finding.what, finding.good) == ("tensorrt 8.4.1.5: older than 8.5", False)


@pytest.mark.parametrize(
    ("driver", "installed", "what", "repair"),
    [
        (
            GPU,
            {"tensorrt": "11.4.0.106"},
            "cuda-python: not installed (TensorRT's way to the GPU)",
            'pip install "cuda-python==13.*"',
        ),
        (
            OLD,
            {"tensorrt": "10.3.0", "cuda-bindings": "13.5.0"},
            "cuda-python 13.5.0: made for CUDA 13, and the driver serves CUDA 12.4",
            'pip install "cuda-python==12.*"',
        ),
    ],
)
def test_cuda_python(machine: Machine, driver: Driver, installed: Any, what: str, repair: str) -> None:
    finding = about(machine(driver, installed), "cuda-python")
    assert (finding.what, finding.good, finding.repair) == (what, False, repair)


def test_cuda_python_of_before_12_6(machine: Machine) -> None:
    old = {"tensorrt": "10.3.0", "cuda-python": "12.2.1"}
    assert about(machine(OLD, old, modules={"cuda.cudart": SimpleNamespace()}), "cuda-python").good


def test_polygraphy_is_missing(machine: Machine) -> None:
    finding = about(machine(installed={"tensorrt": "11.4.0.106"}), "polygraphy")
    assert (finding.good, finding.repair) == (False, "pip install polygraphy")


def test_the_second_choice_is_not_offered_beside_the_first(machine: Machine) -> None:
    assert not any(text.startswith("onnxruntime-gpu") for text in texts(machine()))
    assert about(machine(installed={}), "onnxruntime-gpu").repair.startswith('pip install "genedge[gpu]"')
    wanted = "update the NVIDIA driver to 580 or later, then: pip install"
    assert about(machine(OLD, {}), "onnxruntime-gpu").repair.startswith(wanted)


# --- Jetson -----------------------------------------------------------------------------------------------------------

JETSON = Driver((12, 6), (ORIN,))
APT = "sudo apt-get install python3-libnvinfer"


@pytest.mark.parametrize(
    ("tegra", "jetpack"),
    [
        ("R35 (release), REVISION: 4.1", "L4T R35.4: JetPack 5.1, which brings TensorRT 8.5 for Python 3.8"),
        ("R36 (release), REVISION: 3.0", "L4T R36.3: JetPack 6.0, which brings TensorRT 8.6 for Python 3.10"),
        ("R36 (release), REVISION: 4.7", "L4T R36.4: JetPack 6.1 or 6.2, which brings TensorRT 10.3 for Python 3.10"),
        ("R38 (release), REVISION: 2.2", "L4T R38.2: JetPack 7.0 or 7.1, which brings TensorRT 10.13 for Python 3.12"),
        ("R39 (release), REVISION: 2.1", "L4T R39.2: JetPack 7.2 or later for Python 3.12"),
        ("R32 (release), REVISION: 7.3", "L4T R32.7: JetPack before 5.1"),
        ("something else", "its release is not told"),
    ],
)
def test_jetpack_by_its_release(machine: Machine, tegra: str, jetpack: str) -> None:
    assert jetpack in about(machine(JETSON, {}, tegra=tegra), "Jetson").what


def test_pip_install_tensorrt_is_wrong_on_a_jetson(machine: Machine) -> None:
    finding = about(machine(JETSON, {}, tegra="R36 (release), REVISION: 4.3"), "tensorrt")
    assert finding.what == (
        "tensorrt: this Python does not see JetPack's own, 10.3; pip install tensorrt is wrong here"
    )
    assert finding.repair == (
        f"{APT}, and make the virtual environment with: python3 -m venv --system-site-packages .venv"
    )
    assert not any(text.startswith("onnxruntime-gpu") for text in texts(machine(JETSON, {}, tegra="R36 x")))


def test_a_tensorrt_of_pip_on_a_jetson(machine: Machine) -> None:
    cu12 = {"tensorrt": "10.7.0", "tensorrt-cu12": "10.7.0", **PARTS}
    finding = about(machine(JETSON, cu12, tegra="R36 (release), REVISION: 4.3"), "tensorrt")
    assert finding.what == "tensorrt 10.7.0 came with pip, which has none for JetPack: it needs JetPack's own, 10.3"
    assert finding.repair == (
        f"pip uninstall -y tensorrt tensorrt-cu12 tensorrt-cu12-bindings tensorrt-cu12-libs && {APT}"
    )


def test_jetpacks_own_tensorrt(machine: Machine) -> None:
    finding = about(machine(JETSON, {"tensorrt": "10.3.0"}, tegra="R36 (release), REVISION: 4.3"), "tensorrt")
    assert (finding.what, finding.good) == ("tensorrt 10.3.0", True)


def test_from_jetpack_7_on_a_jetson_is_like_a_server(machine: Machine) -> None:
    thor = replace(GPU, gpus=(replace(ORIN, name="NVIDIA Thor", sm=(11, 0)),))
    assert about(machine(thor, CU13, tegra="R38 (release), REVISION: 2.2"), "tensorrt").good


def test_another_python_than_jetpacks(machine: Machine) -> None:
    releases = {"3.10": "R36 (release), REVISION: 4.3", "3.12": "R38 (release), REVISION: 2.2"}
    for python, tegra in releases.items():
        finding = about(machine(JETSON, {}, tegra=tegra), "Jetson")
        assert finding.good == (python == THIS_PYTHON)
        assert finding.good or finding.repair == f"use python{python}: this is {THIS_PYTHON}"


def test_jetpack_5_has_bindings_for_a_python_that_is_too_old(machine: Machine) -> None:
    finding = about(machine(JETSON, {}, tegra="R35 (release), REVISION: 4.1"), "Jetson")
    assert finding.repair == "genedge needs Python 3.10: install JetPack 6.2 or later"


def test_a_jetsons_container_without_the_driver(machine: Machine) -> None:
    assert "--runtime nvidia" in machine(NONE, {}, tegra="R36 (release), REVISION: 4.3")[0].repair


# --- the engine cache -------------------------------------------------------------------------------------------------


def test_the_engine_cache_is_told_with_its_size(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor_nvidia, "engine_folder", lambda: tmp_path)
    assert not any(text.startswith("engine cache") for text in texts(machine()))
    for name, size in (("a.plan", 3 << 20), ("b.plan", 2 << 20), ("a.json", 1 << 20)):
        (tmp_path / name).write_bytes(bytes(size))
    assert about(machine(), "engine cache").what == f"engine cache: 2 engines, 5 MiB in {tmp_path}"


def test_a_user_without_a_home(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise GenedgeError("this user has no home folder to keep engines in")

    monkeypatch.setattr(doctor_nvidia, "engine_folder", fail)
    assert not any(text.startswith("engine cache") for text in texts(machine()))


# --- ONNX Runtime, in the doctor's own lines --------------------------------------------------------------------------


def onnxruntime_line(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, installed: Mapping[str, str], fake: Any = None
) -> Finding:
    if fake is not None:
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)
        fake.__spec__ = object()
    monkeypatch.setattr(doctor, "installed_version", lambda name: installed.get(name, ""))
    for module in (doctor, doctor_nvidia, sessions):
        monkeypatch.setattr(module, "driver", lambda: driver)
    return about(doctor.examine(), "onnxruntime")


BOTH = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}


@pytest.mark.parametrize(("driver", "extra"), [(NONE, "cpu"), (GPU, "gpu")])
def test_both_packages_of_onnxruntime(monkeypatch: pytest.MonkeyPatch, driver: Driver, extra: str) -> None:
    monkeypatch.setattr(doctor_nvidia, "installed_version", lambda name: BOTH.get(name, ""))
    finding = onnxruntime_line(monkeypatch, driver, BOTH)
    assert not finding.good
    assert not finding.optional
    assert finding.repair.startswith(f'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "genedge[{extra}]"')


@pytest.mark.parametrize(
    ("driver", "fake", "what", "repair"),
    [
        (GPU, FakeOnnxRuntimeGpu(), "onnxruntime-gpu 1.31.1: CUDA on NVIDIA H200, and CPU", ""),
        (
            NONE,
            FakeOnnxRuntimeGpu(MISSING),
            "onnxruntime-gpu 1.31.1: CPU, since no GPU is here (no NVIDIA driver)",
            "",
        ),
        (
            GPU,
            FakeOnnxRuntimeGpu(MISSING[:1]),
            "onnxruntime-gpu 1.31.1: does not reach the GPU, libcublasLt.so.13 cannot be loaded",
            'pip install "onnxruntime-gpu[cuda,cudnn]"',
        ),
        (
            OLD,
            FakeOnnxRuntimeGpu(MISSING),
            "onnxruntime-gpu 1.31.1: does not reach the GPU, it needs CUDA 13.0 and the driver serves 12.4",
            "update the NVIDIA driver to 580 or later",
        ),
    ],
)
def test_onnxruntime_gpu(monkeypatch: pytest.MonkeyPatch, driver: Driver, fake: Any, what: str, repair: str) -> None:
    installed = {"onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(doctor_nvidia, "installed_version", lambda name: installed.get(name, ""))
    finding = onnxruntime_line(monkeypatch, driver, installed, fake)
    assert (finding.what, finding.repair) == (what, repair)
    assert finding.good == (not repair)
