"""The engine of this device, built with the bundle instead of on first use, by the same code."""

from __future__ import annotations

from collections.abc import Callable

from runtime.bundle import Bundle
from runtime.engines.settings import EngineOptions
from runtime.sessions import available_backends, choose, installed_backend, open_session

USUAL_SIZE = (720, 1280)  # height, width of the frames that an engine is for where nothing says it


def engine_here(engine: str) -> bool:
    """Whether a build has a TensorRT engine made. ``engine``: auto (where there is a GPU), none or tensorrt.

    Raises :class:`runtime.errors.GenedgeError` with what is missing for tensorrt.
    """
    if engine == "tensorrt":
        installed_backend("tensorrt")
    return engine == "tensorrt" or (engine == "auto" and "tensorrt" in available_backends())


def build_engine(bundle: Bundle, engines: EngineOptions, progress: Callable[[str], None]) -> str:
    """Build, keep and try the engine that the runtime would choose; gives a line that says which.

    It is for the frames of the settings' profile, else of the bundle's fixed size, else of ``USUAL_SIZE``.
    """
    choice = choose(bundle, "tensorrt")
    geometry, profile = bundle.manifest.geometry, engines.settings.profile
    size = geometry.fixed_size or geometry.size_rule.padded(*USUAL_SIZE)
    count, height, width = profile.usual if profile is not None else (1, *size)
    progress(f"building the engine for {width}x{height}")
    with open_session(bundle, choice, in_flight=1, engines=engines) as session:
        session.warm_up((count, height, width, 3))
        return f"engine: {choice.reason}; for {width}x{height} on {session.info.device}"
