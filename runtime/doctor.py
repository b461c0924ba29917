"""What this machine has for running bundles, and the exact command for what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ENGINE_REPAIR = 'pip install "genedge[cpu]"'


@dataclass(frozen=True)
class Finding:
    """One line of the examination. ``optional``: its absence stops nothing."""

    what: str
    good: bool
    repair: str = ""
    optional: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Look at Python, packages, engines, the processor, cameras and displays. Nothing is changed."""
    findings = [_python(), *(_package(name, distribution) for name, distribution in _BASE)]
    findings += [_openvino(), _onnxruntime(), _tensorrt()]
    if not any(finding.good for finding in findings[-3:]):
        findings.append(Finding("no inference engine at all", False, ENGINE_REPAIR))
    findings += [_encoder(), _cameras(), _display()]
    return findings


_BASE = (("numpy", "numpy"), ("cv2", "opencv-python"), ("av", "av"))


def _python() -> Finding:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {_cores()} cores"
    good = (3, 10) <= sys.version_info[:2] < (3, 14)
    return Finding(text, good, "" if good else "use Python 3.10 to 3.13")


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def _package(name: str, distribution: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return Finding(f"{distribution}: {error}", False, f"pip install {distribution}")
    return Finding(f"{distribution} {getattr(module, '__version__', '')}", True)


def _openvino() -> Finding:
    if importlib.util.find_spec("openvino") is None:
        return Finding("openvino: not installed (the fastest engine for CPUs)", False, ENGINE_REPAIR, optional=True)
    try:
        from runtime.sessions import openvino

        devices = ", ".join(openvino.core().available_devices)
        processor = str(openvino.core().get_property("CPU", "FULL_DEVICE_NAME")).strip()
        native = "computes bf16" if openvino.has_bf16() else "no bf16"
        return Finding(f"openvino {openvino.version()}: {devices}; {processor}, {native}", True)
    except Exception as error:
        return Finding(
            f"openvino: does not start ({error})", False, "pip install --force-reinstall openvino", optional=True
        )


def _onnxruntime() -> Finding:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(both) == 2:
        repair = f"pip uninstall -y onnxruntime onnxruntime-gpu && {ENGINE_REPAIR}   # or genedge[gpu]"
        return Finding("onnxruntime and onnxruntime-gpu are both installed and overwrite each other", False, repair)
    if importlib.util.find_spec("onnxruntime") is None:
        return Finding("onnxruntime: not installed", False, ENGINE_REPAIR, optional=True)
    try:
        engine = importlib.import_module("onnxruntime")
        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in engine.get_available_providers())
        return Finding(f"{both[0] if both else 'onnxruntime'} {engine.__version__}: {providers}", True)
    except Exception as error:
        return Finding(f"onnxruntime: does not start ({error})", False, ENGINE_REPAIR, optional=True)


def _tensorrt() -> Finding:
    version = _version("tensorrt")
    if importlib.util.find_spec("tensorrt") is None:
        nvidia = Path("/proc/driver/nvidia/version").exists() or Path("/etc/nv_tegra_release").exists()
        repair = 'pip install "genedge[tensorrt]"' if nvidia else ""
        here = "an NVIDIA driver is here" if nvidia else "no NVIDIA driver here"
        return Finding(f"tensorrt: not installed ({here})", False, repair, optional=True)
    return Finding(
        f"tensorrt {version}: found, but this version of genedge has no session for it yet", False, optional=True
    )


def _encoder() -> Finding:
    try:
        codec = importlib.import_module("av.codec")
        names = [name for name in ("libx264", "libx265", "libvpx-vp9") if _has_encoder(codec, name)]
    except ImportError:
        return Finding("no video encoder: PyAV does not import", False, "pip install av")
    return Finding(
        f"video encoders: {', '.join(names) or 'none'}", "libx264" in names, "" if names else "pip install av"
    )


def _has_encoder(codec: Any, name: str) -> bool:
    try:
        codec.Codec(name, "w")
    except Exception:
        return False
    return True


def _cameras() -> Finding:
    devices = sorted(str(path) for path in Path("/dev").glob("video*")) if Path("/dev").is_dir() else []
    return Finding(f"cameras: {', '.join(devices) or 'none'}", bool(devices), optional=True)


def _display() -> Finding:
    name = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    known = bool(name) or not sys.platform.startswith("linux")
    return Finding(f"display: {name or ('yes' if known else 'none (display:// will not work)')}", known, optional=True)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
