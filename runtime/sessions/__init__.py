"""Engines, and the choice among them on this device."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from runtime.bundle import Bundle
from runtime.engines.settings import DEFAULT_ENGINES, EngineOptions
from runtime.errors import GenedgeError, MissingExtraError, UsageError
from runtime.manifest import Manifest
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.codes import code_ports
from runtime.sessions.recurrent import Recurrence, RecurrentSession, Stepper, recurrence_of

if TYPE_CHECKING:
    from runtime.engines.facts import DeviceFacts

__all__ = [
    "Choice", "Pending", "Session", "SessionInfo", "available_backends", "choose", "installed_backend", "open_session",
    "runnable",
    "session_for", "taken_unasked",
]  # fmt: skip

BACKENDS = ("tensorrt", "openvino", "onnxruntime")  # in the order of preference
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

# backend -> precision -> the artifact that serves it; TensorRT's depend on its version
_VARIANT_OF = {
    "openvino": {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"},
    "onnxruntime": {"fp32": "fp32", "fp16": "fp16", "int8": "int8-ort"},
}


#: What bf16 must reach against PyTorch to be chosen without being asked for: as much as the fp16 variant.
ALONE_PSNR_DB, ALONE_DELTA_E = 50.0, 0.3
#: What fp16 must reach on TensorRT, whose kernels may add up in fp16 too.
TENSORRT_FP16_DB = 45.0


@dataclass(frozen=True)
class Choice:
    """An engine and a precision for a bundle on this device, and why."""

    backend: str
    precision: str
    variant: str
    reason: str


def available_backends() -> tuple[str, ...]:
    """Backends that are installed here and work on this device, best first. TensorRT does where it finds a GPU."""
    installed = (name for name in BACKENDS if importlib.util.find_spec(name) is not None)
    return tuple(name for name in installed if name != "tensorrt" or _trouble_with_tensorrt() is None)


def installed_backend(backend: str, among: Sequence[str] = BACKENDS) -> str:
    """``backend``, or for ``auto`` the best one of ``among`` that works here.

    Raises :class:`MissingExtraError` where it is not installed, or none is, and :class:`GenedgeError` with what keeps
    TensorRT from working.
    """
    installed = [name for name in available_backends() if name in among]
    if backend == "auto":
        if not installed:
            raise MissingExtraError("an inference engine (openvino or onnxruntime)", "cpu")
        return installed[0]
    if backend == "tensorrt" and importlib.util.find_spec(backend) is not None:
        _tensorrt_facts()  # says why not
    elif backend not in installed:
        raise MissingExtraError(backend, "tensorrt" if backend == "tensorrt" else "cpu")
    return backend


def runnable(bundle: Bundle, among: Sequence[str] = BACKENDS) -> list[Choice]:
    """Every (backend, precision) that can run on this device with the bundle's artifacts; of the backends ``among``."""
    choices = []
    for backend in available_backends():
        if backend not in among:
            continue
        for precision, variant in _variants(backend).items():
            if variant not in bundle.manifest.artifacts:
                continue
            if precision == "bf16" and not ("bf16" in bundle.manifest.limits and _bf16_here()):
                continue
            if (backend, precision) == ("tensorrt", "fp16") and "fp16" not in bundle.manifest.limits:
                continue  # it could be computed from the float32 graph, but nothing says what it must reach
            choices.append(Choice(backend, precision, variant, "asked for"))
    return choices


def choose(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Choice:
    """Pick engine and variant. Raises :class:`GenedgeError` where the device or the bundle cannot serve it."""
    bundle.manifest.check_gives_images()
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"unknown backend {backend!r}: choose auto, {', '.join(BACKENDS)}")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"unknown precision {precision!r}: choose auto, {', '.join(PRECISIONS)}")
    asked, backend = backend, installed_backend(backend)
    why = "asked for"
    if asked == "auto":
        why = _FIRST.get(backend, "first installed engine")
    if asked == "auto" and backend != "tensorrt" and _cuda_here():
        backend, why = "onnxruntime", "ONNX Runtime reaches the GPU"
    if asked == "auto" and (trouble := _trouble_with_tensorrt()) is not None:
        why += f"; TensorRT is installed, but {trouble}"
    on_gpu = backend == "onnxruntime" and _cuda_here()
    artifacts, variants = bundle.manifest.artifacts, _variants(backend)
    if precision == "auto" and not on_gpu and (figures := _parity_of_int8(bundle, backend, variants["int8"])):
        return Choice(backend, "int8", variants["int8"], f"{backend} int8: {why}, {_told(figures)}")
    if precision != "auto":
        variant = variants.get(precision)
        if variant is None:
            raise GenedgeError(f"{backend} has no {precision} precision: choose {', '.join(variants)}")
        if variant not in artifacts:
            raise GenedgeError(f"{bundle.manifest.name} has no {variant} variant, only {', '.join(artifacts)}")
        if precision == "bf16" and not _bf16_here():
            raise GenedgeError("this CPU does not compute in bfloat16: choose fp32")
        if precision == "bf16" and "bf16" not in bundle.manifest.limits:
            raise GenedgeError(f"{bundle.manifest.name} missed its parity with PyTorch in bf16: choose fp32")
        if on_gpu and precision == "int8":
            why += ", on the CPU, since ONNX Runtime has no INT8 convolution for a GPU"
        return Choice(backend, precision, variant, f"{backend} {precision}: {why}")
    if backend == "openvino" and "fp32" in artifacts and _bf16_here():
        figures = artifacts["fp32"].parity.get("openvino-bf16")
        if figures is None:
            why += "; bf16 is possible here, but the bundle has no parity on record for it"
        else:
            measured = _told(figures)
            if taken_unasked(figures.get("psnr_db", 0.0), figures.get("delta_e", 100.0)):
                return Choice(backend, "bf16", "fp32", f"openvino bf16: {why}, this CPU computes bf16, {measured}")
            why += f"; bf16 is possible here, but {measured}"
    if backend == "tensorrt" and variants["fp16"] in artifacts:
        good, reason = _fp16_on_tensorrt(bundle, variants["fp16"])
        if good:
            return Choice(backend, "fp16", variants["fp16"], f"tensorrt fp16: {why}, {reason}")
        why += f"; fp16 is possible here, but {reason}"
    for name in ("fp16", "fp32", "int8") if on_gpu else ("fp32", "fp16", "int8"):
        if variants[name] in artifacts:
            return Choice(backend, name, variants[name], f"{backend} {name}: {why}")
    raise GenedgeError(f"{bundle.manifest.name} has no variant for {backend}, only {', '.join(artifacts)}")


#: why the best backend is taken unasked
_FIRST = {
    "tensorrt": "TensorRT is the fastest engine for an NVIDIA GPU",
    "openvino": "OpenVINO is the fastest engine for a CPU",
}


def _told(figures: Mapping[str, float]) -> str:
    return f"{figures.get('psnr_db', 0.0):.1f} dB and ΔE {figures.get('delta_e', 100.0):.2f} from PyTorch"


def _parity_of_int8(bundle: Bundle, backend: str, variant: str) -> Mapping[str, float] | None:
    """The recorded figures of INT8 on this engine, None without. A bundle holds INT8 only where it earned its place."""
    artifact = bundle.manifest.artifacts.get(variant)
    return None if artifact is None else artifact.parity.get(f"{backend}-int8")


def _fp16_on_tensorrt(bundle: Bundle, variant: str) -> tuple[bool, str]:
    """Whether fp16 may be taken unasked, and what was measured: on TensorRT, else of the fp16 variant elsewhere."""
    artifacts = bundle.manifest.artifacts
    figures = artifacts[variant].parity.get("tensorrt-fp16")
    if figures is not None:
        near = figures.get("psnr_db", 0.0) >= TENSORRT_FP16_DB and figures.get("delta_e", 100.0) <= ALONE_DELTA_E
        return near, _told(figures)
    elsewhere = artifacts["fp16"].parity if "fp16" in artifacts else {}
    for engine in ("openvino-fp16", "onnxruntime-fp16"):
        if figures := elsewhere.get(engine):
            near = taken_unasked(figures.get("psnr_db", 0.0), figures.get("delta_e", 100.0))
            return near, f"{_told(figures)} on {engine.partition('-')[0]}"
    return False, "the bundle has no parity on record for it"


def _variants(backend: str) -> Mapping[str, str]:
    """Precision -> the artifact that serves it."""
    if backend != "tensorrt":
        return _VARIANT_OF[backend]
    from runtime.engines.facts import variant_for

    version = _tensorrt_facts().version
    return {precision: variant_for(precision, version) for precision in ("fp32", "fp16", "int8")}


def _tensorrt_facts() -> DeviceFacts:
    from runtime.engines.facts import device_facts

    return device_facts()


def _trouble_with_tensorrt() -> str | None:
    """Why TensorRT does not work although it is installed, None where it does or is not."""
    if importlib.util.find_spec("tensorrt") is None:
        return None
    try:
        _tensorrt_facts()
    except GenedgeError as error:
        return str(error)
    return None


def taken_unasked(psnr_db: float, delta_e: float) -> bool:
    """Whether a precision that is this far from PyTorch (PSNR in dB, mean CIEDE2000) may be chosen without being asked
    for."""
    return psnr_db >= ALONE_PSNR_DB and delta_e <= ALONE_DELTA_E


def open_session(
    bundle: Bundle,
    choice: Choice,
    *,
    threads: int = 0,
    in_flight: int = 2,
    streams: int = 1,
    image: str | None = None,
    engines: EngineOptions = DEFAULT_ENGINES,
) -> Session:
    """Load the chosen variant into its engine. The caller closes the session.

    Args:
        threads: of the engine, 0 lets it choose.
        in_flight: requests that may be under way at once.
        streams: requests that OpenVINO computes at once, each with a share of the threads. One gives the shortest time
            a frame, more give more frames a second. A generator with a state has one in any case.
        image: name of the output that the session gives, of several; None for the main one.
        engines: of TensorRT; by default they are kept in the bundle's folder.

    Raises :class:`GenedgeError` for a damaged bundle, or one that the engine cannot run, and :class:`UsageError` for an
    image that it does not have.
    """
    model = bundle.read_model(choice.variant)
    if engines.folder is None:
        engines = replace(engines, folder=bundle.folder / "engines")
    return session_for(
        model,
        bundle.manifest,
        choice,
        threads=threads,
        in_flight=in_flight,
        streams=streams,
        image=image,
        engines=engines,
    )


def session_for(
    model: bytes,
    manifest: Manifest,
    choice: Choice,
    *,
    threads: int = 0,
    in_flight: int = 2,
    streams: int = 1,
    image: str | None = None,
    engines: EngineOptions = DEFAULT_ENGINES,
) -> Session:
    """A session for a model that lies in no bundle yet: ``model`` is the ONNX file's bytes, ``manifest`` describes its
    ports. Otherwise as :func:`open_session`."""
    shown = manifest.image_called(image)
    scale, recurrence = manifest.geometry.scale, recurrence_of(manifest, shown)
    if choice.backend == "tensorrt":
        taken = recurrence or Recurrence(manifest.frame, shown, (), code_ports(manifest), scale=scale)
        return _tensorrt_session(model, taken, scale, choice, in_flight, engines)
    if recurrence is not None:
        stepper = _open_stepper(model, manifest, recurrence, choice, threads)
        return RecurrentSession(stepper, recurrence, scale, in_flight=in_flight)
    codes = code_ports(manifest)
    ports = Recurrence(manifest.frame, shown, (), codes) if codes else None
    if choice.backend == "openvino":
        from runtime.sessions.openvino import OpenVinoSession

        return OpenVinoSession(
            model,
            scale,
            variant=choice.variant,
            precision=choice.precision,
            float_precision=_float_precision(manifest, choice),
            threads=threads,
            in_flight=in_flight,
            streams=streams,
            ports=ports,
            image=shown.name,
        )
    from runtime.sessions.onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(
        model,
        scale,
        variant=choice.variant,
        precision=choice.precision,
        threads=threads,
        in_flight=in_flight,
        ports=ports,
        image=shown.name,
    )


def _tensorrt_session(
    model: bytes, ports: Recurrence, scale: int, choice: Choice, in_flight: int, engines: EngineOptions
) -> Session:
    from runtime.engines.cache import engine_folder
    from runtime.sessions.tensorrt import TensorRtSession

    return TensorRtSession(
        model,
        ports,
        scale,
        variant=choice.variant,
        precision=choice.precision,
        facts=_tensorrt_facts(),
        settings=engines.settings,
        folder=engines.folder or engine_folder(),
        in_flight=in_flight,
        progress=engines.progress,
    )


def _float_precision(manifest: Manifest, choice: Choice) -> str:
    artifact = manifest.artifacts.get(choice.variant)
    return artifact.float_precision if artifact is not None else "fp32"


def _open_stepper(model: bytes, manifest: Manifest, recurrence: Recurrence, choice: Choice, threads: int) -> Stepper:
    if choice.backend == "openvino":
        from runtime.sessions.openvino import OpenVinoStepper

        return OpenVinoStepper(
            model,
            recurrence,
            variant=choice.variant,
            precision=choice.precision,
            float_precision=_float_precision(manifest, choice),
            threads=threads,
        )
    from runtime.sessions.onnxruntime import OnnxRuntimeStepper

    return OnnxRuntimeStepper(model, recurrence, variant=choice.variant, precision=choice.precision, threads=threads)


def _cuda_here() -> bool:
    from runtime.sessions.onnxruntime import on_cuda

    return on_cuda()


def _bf16_here() -> bool:
    from runtime.sessions.openvino import has_bf16

    return has_bf16()
