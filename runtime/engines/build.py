"""From a model to a TensorRT plan, one code for 8.5 to 11."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from runtime.engines.facts import DeviceFacts
from runtime.engines.settings import EngineSettings

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]  # input's name -> its smallest, usual and largest shape


def build_plan(
    model: bytes,
    inputs: Shapes,
    precision: str,
    facts: DeviceFacts,
    settings: EngineSettings,
    *,
    timing_cache: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> bytes:
    """Build an engine on this GPU and give its plan.

    Args:
        model: the ONNX file's bytes, of the variant that :func:`runtime.engines.facts.variant_for` names.
        inputs: every input's name -> its smallest, usual and largest shape.
        precision: fp32, fp16 or int8.
        timing_cache: file that is read and written where ``settings`` name none.
        progress: told what TensorRT says in its warnings.

    Raises :class:`runtime.errors.UsageError` for a setting that this version of TensorRT does not have, and
    :class:`runtime.errors.GenedgeError` with the cause where the engine cannot be built.
    """
    raise NotImplementedError
