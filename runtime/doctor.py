"""What this machine has for running bundles, and the exact command for what is missing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path

from runtime.doctor_nvidia import GPU_REPAIR, nvidia_findings
from runtime.findings import Finding, installed_version
from runtime.nvidia import driver
from runtime.stats import cores_here

ENGINE_REPAIR = 'pip install "genedge[cpu]"'


def examine() -> list[Finding]:
    """Look at Python, packages, engines, the processor, cameras and displays. Nothing is changed."""
    findings = [_python(), *(_package(name, distribution) for name, distribution in _BASE)]
    nvidia = nvidia_findings()
    engines = [_openvino(), _onnxruntime()]
    findings += [*engines, *nvidia]
    if not any(finding.good and finding.what.startswith(ENGINES) for finding in (*engines, *nvidia)):
        findings.append(Finding("no inference engine at all", False, ENGINE_REPAIR))
    findings += [_encoders(), _cameras(), _display()]
    return findings


ENGINES = ("openvino", "onnxruntime", "tensorrt")  # how their lines begin
_BASE = (("numpy", "numpy"), ("cv2", "opencv-python"), ("av", "av"))


def _python() -> Finding:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {cores_here()} cores"
    good = (3, 10) <= sys.version_info[:2] < (3, 14)
    return Finding(text, good, "" if good else "use Python 3.10 to 3.13")


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
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed_version(name)]
    if len(found) == 2:
        repair = f"pip uninstall -y {' '.join(found)} && {GPU_REPAIR if driver().gpus else ENGINE_REPAIR}"
        return Finding("onnxruntime and onnxruntime-gpu are both installed and overwrite each other", False, repair)
    if importlib.util.find_spec("onnxruntime") is None:
        return Finding("onnxruntime: not installed", False, ENGINE_REPAIR, optional=True)
    try:
        from runtime.sessions import onnxruntime

        engine = onnxruntime.module()
        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in engine.get_available_providers())
        told = f"{found[0] if found else 'onnxruntime'} {engine.__version__}"
        if onnxruntime.on_cuda():
            try:
                onnxruntime.start_cuda()
            except onnxruntime.NoCudaError as error:
                return Finding(f"{told}: does not reach the GPU, {error.reason}", False, error.remedy, optional=True)
            return Finding(f"{told}: CUDA on {driver().gpus[0].name}, and CPU", True)
        if "CUDA" in providers:
            providers = f"CPU, since no GPU is here ({driver().trouble})"
        return Finding(f"{told}: {providers}", True)
    except Exception as error:
        return Finding(f"onnxruntime: does not start ({error})", False, ENGINE_REPAIR, optional=True)


def _encoders() -> Finding:
    """The encoders that really open here, which is more than to be listed by FFmpeg."""
    try:
        from runtime.video.encoders import is_hardware, usable

        found = usable()
    except ImportError:
        return Finding("no video encoder: PyAV does not import", False, "pip install av")
    told = [f"{codec} {', '.join(names)}" for codec, names in found.items() if names]
    good = "libx264" in found["h264"]
    hardware = "" if any(is_hardware(name) for names in found.values() for name in names) else "; none in hardware"
    return Finding(f"video encoders: {'; '.join(told) or 'none'}{hardware}", good, "" if good else "pip install av")


def _cameras() -> Finding:
    devices = sorted(str(path) for path in Path("/dev").glob("video*")) if Path("/dev").is_dir() else []
    return Finding(f"cameras: {', '.join(devices) or 'none'}", bool(devices), optional=True)


def _display() -> Finding:
    name = os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")
    known = bool(name) or not sys.platform.startswith("linux")
    return Finding(f"display: {name or ('yes' if known else 'none (display:// will not work)')}", known, optional=True)
