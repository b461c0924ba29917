"""Engines that were built before: kept by what they belong to, never used for anything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.engines.build import Shapes
from runtime.engines.facts import DeviceFacts
from runtime.engines.settings import EngineSettings


@dataclass(frozen=True)
class Engine:
    """A plan that belongs to this GPU. ``built_seconds``: how long it took, None from the cache. ``notes``: sentences
    for the user: why a kept engine was not used, or why this one could not be kept."""

    plan: bytes
    built_seconds: float | None
    notes: tuple[str, ...] = ()


def engine_for(
    model: bytes,
    digest: str,
    inputs: Shapes,
    precision: str,
    variant: str,
    facts: DeviceFacts,
    settings: EngineSettings,
    *,
    folder: Path,
    progress: Callable[[str], None] = lambda text: None,
    refused: str | None = None,
) -> Engine:
    """The engine of a model on this GPU: the one that is kept, else built now and kept.

    Args:
        model: the ONNX file's bytes.
        digest: their sha256, in hexadecimal digits.
        inputs: every input's name -> its smallest, usual and largest shape.
        precision: fp32, fp16 or int8.
        variant: the artifact of the bundle that ``model`` is.
        folder: where engines are kept; made where it is missing. Where it cannot be written, the user's cache takes
            its place, after a look into ``folder``.
        progress: told every second while building, from another thread: time taken, and an estimate.
        refused: TensorRT's words where the plan that this function gave before did not deserialise: it is built anew.

    Raises what :func:`runtime.engines.build.build_plan` raises.
    """
    raise NotImplementedError
