"""What a user of an NVIDIA GPU has, lacks, and types to get it: driver, JetPack, TensorRT, cuda-python, Polygraphy."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from runtime.engines.cache import engine_folder
from runtime.engines.facts import device_facts, version_of
from runtime.errors import GenedgeError
from runtime.findings import Finding, first_line, installed_version
from runtime.nvidia import Driver, driver, driver_release, newer_driver

TEGRA_RELEASE = Path("/etc/nv_tegra_release")
OLDEST_TENSORRT = (8, 5)  # that takes uint8 frames
GPU_REPAIR = 'pip install "genedge[gpu]" "onnxruntime-gpu[cuda,cudnn]"'
CUDA_MAJORS = (13, 12, 11)  # that TensorRT's wheels have been built for, named tensorrt-cu13 and so on


@dataclass(frozen=True)
class JetPack:
    """``release`` is L4T's (36, 4); ``tensorrt`` what this JetPack brings, "" where that is not known here; ``python``
    the one that its bindings are for."""

    release: tuple[int, int]
    name: str
    tensorrt: str
    python: tuple[int, int]


#: from the first release of each on
JETPACKS = (
    JetPack((35, 2), "5.1", "8.5", (3, 8)),
    JetPack((36, 2), "6.0", "8.6", (3, 10)),
    JetPack((36, 4), "6.1 or 6.2", "10.3", (3, 10)),
    JetPack((38, 0), "7.0 or 7.1", "10.13", (3, 12)),
    JetPack((39, 0), "7.2 or later", "", (3, 12)),
)


def nvidia_findings() -> list[Finding]:
    """One line for each part. Nothing here is needed where another engine is installed, so all of it is optional."""
    here, release = driver(), jetson_release()
    jetpack = _jetpack(release)
    findings = [_gpu(here, release is not None)]
    if release is not None:
        findings.append(_jetson(release, jetpack))
    tensorrt = _tensorrt(here, release is not None, jetpack)
    findings.append(tensorrt)
    if release is not None or importlib.util.find_spec("tensorrt") is not None:  # else its own repair brings them
        parts = [_cuda_python(here), _polygraphy()]
        findings += parts
        if here.gpus and all(part.good for part in (tensorrt, *parts)):
            findings.append(_ready())
    if not tensorrt.good and release is None and not installed_version("onnxruntime-gpu"):
        remove = "pip uninstall -y onnxruntime && " if installed_version("onnxruntime") else ""
        what = "onnxruntime-gpu: not installed (an NVIDIA GPU without TensorRT)"
        first = f"{newer_driver(13)}, then: " if here.cuda is not None and here.cuda < (13, 0) else ""
        findings.append(Finding(what, False, first + remove + GPU_REPAIR, True))
    engines = _engines()
    return [*findings, engines] if engines is not None else findings


def jetson_release() -> tuple[int, int] | None:
    """L4T's release, (36, 4) for "R36 (release), REVISION: 4.3"; (0, 0) where it is not told, None for no Jetson."""
    try:
        text = TEGRA_RELEASE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"R(\d+) \(release\), REVISION: (\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _jetpack(release: tuple[int, int] | None) -> JetPack | None:
    """The JetPack of a release, None for one before 5.1 and for what is no Jetson."""
    fitting = [jetpack for jetpack in JETPACKS if release is not None and jetpack.release <= release]
    return fitting[-1] if fitting else None


def _gpu(here: Driver, jetson: bool) -> Finding:
    release = driver_release()
    if here.cuda is None:
        if release or jetson:
            start = "--runtime nvidia" if jetson else "--gpus all"
            what = f"NVIDIA driver{f' {release}' if release else ''}: its libcuda is not found"
            return Finding(what, False, f"in a container: start it with {start}; else install the driver again", True)
        repair = "with an NVIDIA GPU: install its driver, nvidia-smi then shows it, and what the next lines say"
        return Finding("NVIDIA GPU: none here (no driver)", False, repair, True)
    told = f"NVIDIA driver{f' {release}' if release else ''}, CUDA {here.cuda[0]}.{here.cuda[1]}"
    if here.trouble:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        repair = "nvidia-smi should list the GPU: reboot after an update of the driver"
        if hidden is not None:
            repair = f"unset CUDA_VISIBLE_DEVICES   # it is {hidden!r}, which may hide the GPU"
        return Finding(f"{told}: {here.trouble}", False, repair, True)
    gpus = (f"{gpu.name} (sm_{gpu.sm[0]}{gpu.sm[1]}, {gpu.memory_bytes / (1 << 30):.1f} GiB)" for gpu in here.gpus)
    return Finding(f"{told}: {', '.join(gpus)}", True)


def _jetson(release: tuple[int, int], jetpack: JetPack | None) -> Finding:
    told = f"Jetson, L4T R{release[0]}.{release[1]}" if release != (0, 0) else "Jetson"
    if jetpack is None:
        older = "JetPack before 5.1" if release != (0, 0) else "its release is not told"
        return Finding(f"{told}: {older}", False, "install JetPack 6.2 or later with NVIDIA's SDK Manager", True)
    brings = f", which brings TensorRT {jetpack.tensorrt}" if jetpack.tensorrt else ""
    told = f"{told}: JetPack {jetpack.name}{brings} for Python {_dotted(jetpack.python)}"
    if jetpack.python < (3, 10):
        return Finding(told, False, "genedge needs Python 3.10: install JetPack 6.2 or later", True)
    if jetpack.python != sys.version_info[:2]:
        return Finding(
            told, False, f"use python{_dotted(jetpack.python)}: this is {_dotted(sys.version_info[:2])}", True
        )
    return Finding(told, True)


def _tensorrt(here: Driver, jetson: bool, jetpack: JetPack | None) -> Finding:
    wheels = {major: installed_version(f"tensorrt-cu{major}") for major in CUDA_MAJORS}
    built = next((major for major, version in wheels.items() if version), None)
    if jetson and (jetpack is None or jetpack.release < (38, 0)):  # from JetPack 7 on a Jetson is like a server
        own = f"JetPack's own{f', {jetpack.tensorrt}' if jetpack is not None else ''}"
        apt = "sudo apt-get install python3-libnvinfer"
        if built is not None or installed_version("tensorrt-bindings"):
            what = f"tensorrt {installed_version('tensorrt') or wheels[built or 13]} came with pip, which has none for"
            names = " ".join(_wheels(built)) if built is not None else "tensorrt tensorrt-bindings tensorrt-libs"
            return Finding(f"{what} JetPack: it needs {own}", False, f"pip uninstall -y {names} && {apt}", True)
        if importlib.util.find_spec("tensorrt") is None:
            venv = "python3 -m venv --system-site-packages .venv"
            return Finding(
                f"tensorrt: this Python does not see {own}; pip install tensorrt is wrong here",
                False,
                f"{apt}, and make the virtual environment with: {venv}",
                True,
            )
    serves = here.cuda[0] if here.cuda is not None else max(CUDA_MAJORS)
    if importlib.util.find_spec("tensorrt") is None:
        what = "tensorrt: not installed (the engine for NVIDIA GPUs)"
        return Finding(what, False, _install(serves), True)
    try:
        version = str(importlib.import_module("tensorrt").__version__)
        if version_of(version) < OLDEST_TENSORRT:
            return Finding(f"tensorrt {version}: older than {_dotted(OLDEST_TENSORRT)}", False, _install(serves), True)
    except Exception as error:  # bindings without libraries, or a library without the driver
        told = f"tensorrt {installed_version('tensorrt')}".rstrip()
        repair = "pip install --force-reinstall tensorrt" if not jetson else "sudo apt-get install --reinstall tensorrt"
        return Finding(f"{told}: does not import ({first_line(error)})", False, repair, True)
    if built is not None and here.cuda is not None and built > serves:
        repair = newer_driver(built)
        if serves in CUDA_MAJORS:
            repair += f", or: pip uninstall -y {' '.join(_wheels(built))} && {_install(serves)}"
        what = f"tensorrt {version}: built for CUDA {built}, and the driver serves CUDA {_dotted(here.cuda)}"
        return Finding(what, False, repair, True)
    return Finding(f"tensorrt {version}{f', built for CUDA {built}' if built is not None else ''}", True)


def _install(serves: int) -> str:
    """How to get a TensorRT for a driver that serves this major of CUDA."""
    if serves >= max(CUDA_MAJORS):
        return 'pip install "genedge[tensorrt]"'
    if serves < 12:  # cuda-python of our extra begins there
        return newer_driver(12)
    return f'pip install tensorrt-cu{serves} polygraphy "cuda-python=={serves}.*"'


def _wheels(built: int) -> list[str]:
    return ["tensorrt", *(f"tensorrt-cu{built}{part}" for part in ("", "-bindings", "-libs"))]


def _cuda_python(here: Driver) -> Finding:
    wanted = f'pip install "cuda-python=={here.cuda[0]}.*"' if here.cuda is not None else "pip install cuda-python"
    version = installed_version("cuda-bindings") or installed_version("cuda-python")
    try:
        importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        try:
            importlib.import_module("cuda.cudart")  # until 12.6
        except ImportError as error:
            what = f"does not import ({first_line(error)})" if version else "not installed (TensorRT's way to the GPU)"
            return Finding(f"cuda-python: {what}", False, wanted, True)
    major = version.split(".")[0]
    if here.cuda is not None and major.isdecimal() and int(major) > here.cuda[0]:
        what = f"cuda-python {version}: made for CUDA {major}, and the driver serves CUDA {_dotted(here.cuda)}"
        return Finding(what, False, wanted, True)
    return Finding(f"cuda-python {version}", True)


def _polygraphy() -> Finding:
    if importlib.util.find_spec("polygraphy") is None:
        return Finding("polygraphy: not installed (builds the engines)", False, "pip install polygraphy", True)
    return Finding(f"polygraphy {installed_version('polygraphy')}", True)


def _ready() -> Finding:
    """What the engines themselves find, once every part is there."""
    try:
        facts = device_facts()
    except GenedgeError as error:
        return Finding(f"TensorRT engines: {error}", False, optional=True)
    return Finding(f"TensorRT engines: for {facts.gpu} (sm_{facts.sm[0]}{facts.sm[1]}) with {facts.tensorrt}", True)


def _engines() -> Finding | None:
    """Where engines are kept and what they take; None where there are none yet."""
    try:
        folder = engine_folder()
        sizes = [path.stat().st_size for path in folder.glob("*.plan")]
    except (GenedgeError, OSError):
        return None
    if not sizes:
        return None
    return Finding(f"engine cache: {len(sizes)} engines, {sum(sizes) / (1 << 20):.0f} MiB in {folder}", True)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version[:2]))
