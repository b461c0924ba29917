"""Engines, and the choice among them on this device."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.bundle import Bundle
from runtime.errors import GenedgeError, MissingExtraError, UsageError
from runtime.manifest import Manifest
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.codes import code_ports
from runtime.sessions.recurrent import Recurrence, RecurrentSession, Stepper, recurrence_of

__all__ = [
    "Choice", "Pending", "Session", "SessionInfo", "available_backends", "choose", "installed_backend", "open_session",
    "runnable",
    "session_for", "taken_unasked",
]  # fmt: skip

BACKENDS = ("tensorrt", "openvino", "onnxruntime")  # in the order of preference
PRECISIONS = ("fp32", "fp16", "bf16", "int8")

# backend -> precision -> the artifact that serves it
_VARIANT_OF = {
    "openvino": {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "int8"},
    "onnxruntime": {"fp32": "fp32", "fp16": "fp16", "int8": "int8-ort"},
}


#: What bf16 must reach against PyTorch to be chosen without being asked for: as much as the fp16 variant.
ALONE_PSNR_DB, ALONE_DELTA_E = 50.0, 0.3


@dataclass(frozen=True)
class Choice:
    """An engine and a precision for a bundle on this device, and why."""

    backend: str
    precision: str
    variant: str
    reason: str


def available_backends() -> tuple[str, ...]:
    """Backends whose package is installed here and that this version can drive, best first."""
    return tuple(name for name in BACKENDS if name in _VARIANT_OF and importlib.util.find_spec(name) is not None)


def installed_backend(backend: str) -> str:
    """``backend``, or for ``auto`` the best one that is installed.

    Raises :class:`MissingExtraError` where it is not, or none is.
    """
    installed = available_backends()
    if backend == "auto":
        if not installed:
            raise MissingExtraError("an inference engine (openvino or onnxruntime)", "cpu")
        return installed[0]
    if backend not in installed:
        raise MissingExtraError(backend, "cpu")
    return backend


def runnable(bundle: Bundle) -> list[Choice]:
    """Every (backend, precision) that can run on this device with the bundle's artifacts."""
    choices = []
    for backend in available_backends():
        for precision, variant in _VARIANT_OF[backend].items():
            if variant not in bundle.manifest.artifacts:
                continue
            if precision == "bf16" and not ("bf16" in bundle.manifest.limits and _bf16_here()):
                continue
            choices.append(Choice(backend, precision, variant, "asked for"))
    return choices


def choose(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Choice:
    """Pick engine and variant. Raises :class:`GenedgeError` where the device or the bundle cannot serve it."""
    bundle.manifest.check_gives_images()
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"unknown backend {backend!r}: choose auto, {', '.join(BACKENDS)}")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"unknown precision {precision!r}: choose auto, {', '.join(PRECISIONS)}")
    if backend == "tensorrt":
        if importlib.util.find_spec("tensorrt") is None:
            raise MissingExtraError("tensorrt", "tensorrt")
        raise GenedgeError("this version has no TensorRT session yet: use --backend openvino or onnxruntime")
    asked, backend = backend, installed_backend(backend)
    why = "asked for"
    if asked == "auto":
        why = "OpenVINO is the fastest engine for a CPU" if backend == "openvino" else "first installed engine"
    if asked == "auto" and backend != "tensorrt" and _cuda_here():
        backend, why = "onnxruntime", "ONNX Runtime reaches the GPU"
    on_gpu = backend == "onnxruntime" and _cuda_here()
    artifacts = bundle.manifest.artifacts
    if precision == "auto" and not on_gpu and (figures := _parity_of_int8(bundle, backend)):
        told = f"{figures.get('psnr_db', 0.0):.1f} dB and ΔE {figures.get('delta_e', 0.0):.2f} from PyTorch"
        return Choice(backend, "int8", _VARIANT_OF[backend]["int8"], f"{backend} int8: {why}, {told}")
    if precision != "auto":
        variant = _VARIANT_OF[backend].get(precision)
        if variant is None:
            raise GenedgeError(f"{backend} has no {precision} precision: choose {', '.join(_VARIANT_OF[backend])}")
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
            decibels, colour = figures.get("psnr_db", 0.0), figures.get("delta_e", 100.0)
            measured = f"{decibels:.1f} dB and ΔE {colour:.2f} from PyTorch"
            if taken_unasked(decibels, colour):
                return Choice(backend, "bf16", "fp32", f"openvino bf16: {why}, this CPU computes bf16, {measured}")
            why += f"; bf16 is possible here, but {measured}"
    for name in ("fp16", "fp32", "int8") if on_gpu else ("fp32", "fp16", "int8"):
        if _VARIANT_OF[backend][name] in artifacts:
            return Choice(backend, name, _VARIANT_OF[backend][name], f"{backend} {name}: {why}")
    raise GenedgeError(f"{bundle.manifest.name} has no variant for {backend}, only {', '.join(artifacts)}")


def _parity_of_int8(bundle: Bundle, backend: str) -> Mapping[str, float] | None:
    """The recorded figures of INT8 on this engine, None without. A bundle holds INT8 only where it earned its place."""
    artifact = bundle.manifest.artifacts.get(_VARIANT_OF[backend]["int8"])
    return None if artifact is None else artifact.parity.get(f"{backend}-int8")


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
) -> Session:
    """Load the chosen variant into its engine. The caller closes the session.

    Args:
        threads: of the engine, 0 lets it choose.
        in_flight: requests that may be under way at once.
        streams: requests that OpenVINO computes at once, each with a share of the threads. One gives the shortest time
            a frame, more give more frames a second. A generator with a state has one in any case.
        image: name of the output that the session gives, of several; None for the main one.

    Raises :class:`GenedgeError` for a damaged bundle, or one that the engine cannot run, and :class:`UsageError` for an
    image that it does not have.
    """
    model = bundle.read_model(choice.variant)
    return session_for(
        model, bundle.manifest, choice, threads=threads, in_flight=in_flight, streams=streams, image=image
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
) -> Session:
    """A session for a model that lies in no bundle yet: ``model`` is the ONNX file's bytes, ``manifest`` describes its
    ports. Otherwise as :func:`open_session`."""
    shown = manifest.image_called(image)
    scale, recurrence = manifest.geometry.scale, recurrence_of(manifest, shown)
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
