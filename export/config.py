"""What a build is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from calib.quantise import Int8Config
from export.triton import TritonConfig
from runtime.engines.settings import DEFAULT_ENGINES, EngineOptions
from runtime.manifest import Limits

#: What each variant must reach against PyTorch on real frames.
LIMITS = {
    # one 8-bit step: two float32 engines may round a value that lies between two steps differently
    "fp32": Limits(max_abs=1, changed=0.002),
    "fp16": Limits(psnr_db=50.0, delta_e=0.3),
    # bfloat16 has 8 bits of precision, about one 8-bit step on a bright pixel
    "bf16": Limits(psnr_db=40.0, delta_e=1.0),
}
#: The same for a generator with a state: what engines round differently comes back to them in the next frame.
LIMITS_WITH_STATES = {**LIMITS, "fp32": Limits(max_abs=1, changed=0.01)}


@dataclass(frozen=True)
class BuildConfig:
    """One build: which weights, into which bundle, with which variants.

    ``shape`` is (height, width) for a graph of one fixed size, or None for any size.
    ``frames`` are pictures or folders for parity and golden frames; empty means the built-in photos.
    ``options`` say what the file does not (``export list`` shows those of each family); ``module`` is the user's own
    code that makes the net, as ``my_net.py:build``.
    ``int8`` says how INT8 variants are found, ``recipe`` names a recipe.json that makes them without frames.
    ``engine`` is auto, none or tensorrt: whether one is built for this device too, as ``engines`` say.
    ``triton`` is the model repository that the bundle is written into as well, if any.
    """

    weights: str
    output: Path = Path("bundles")
    name: str | None = None
    variants: tuple[str, ...] = ("fp32", "fp16")
    shape: tuple[int, int] | None = None
    frames: tuple[Path, ...] = ()
    engine: str = "auto"
    engines: EngineOptions = DEFAULT_ENGINES
    force: bool = False
    licence: str | None = None
    int8: Int8Config | None = None
    recipe: Path | None = None
    triton: TritonConfig | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    module: str | None = None


@dataclass(frozen=True)
class Fp16:
    """Settings of the float16 variant: ``keep`` names nodes that stay float32."""

    keep: tuple[str, ...] = ()
