"""The INT8 variants of a build: made within a budget, measured, and dropped where they do not earn their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from calib.collect import Progress, digest_of
from calib.layers import layers_of
from calib.qdq import Int8Qdq
from calib.quantise import Int8Config, from_recipe, quantised
from calib.recipe import RECIPE_NAME, Recipe, VariantRecipe, ranges_for, read_recipe
from calib.remedies import equalised
from calib.sensitivity import Budget, Search, qdq_form
from export.bundle import with_limits, without_variant
from export.parity import Pair, VariantParity, choices_for, reference_of
from export.variants import strong_from_qdq
from runtime.bench import Timing, bench
from runtime.bundle import Bundle
from runtime.engines.settings import DEFAULT_ENGINES, EngineOptions
from runtime.errors import GenedgeError
from runtime.manifest import Limits, Manifest
from runtime.metrics import judge, psnr
from runtime.sessions import taken_unasked

VARIANTS = ("int8", "int8-ort", "int8-strong")
BROKEN_DB = 30.0  # PSNR against PyTorch; below that a graph is not merely imprecise
MARGIN_DB = 3.0  # how far below the worst frame at build time a device may be: engines round differently
MARGIN_DELTA_E = 2.0  # times what was measured at build time
BENCH_SIZE = (180, 320)  # height, width of the frame that speed is measured on where the model takes any
BENCH_ROUNDS = 9


@dataclass(frozen=True)
class Int8Result:
    """INT8 graphs of a build and all that its report says about them.

    ``dropped``: variant -> why it is not in the bundle. ``timings``: median milliseconds a frame on this device.
    ``rivals``: variant -> the next precision, which it had to be faster than.
    """

    models: Mapping[str, onnx.ModelProto]
    float_layers: Mapping[str, tuple[str, ...]]
    recipe: Recipe
    budget: Budget | None
    searches: Mapping[str, Search] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    timings: tuple[Timing, ...] = ()
    rivals: Mapping[str, Timing] = field(default_factory=dict)

    def without(self, variant: str, reason: str) -> Int8Result:
        return replace(self, dropped={**self.dropped, variant: reason})

    @property
    def variant_recipes(self) -> dict[str, VariantRecipe]:
        """How each artifact was made; ``int8-strong``, computed by another engine, has floats of its own type."""
        recipes = self.recipe.variants
        return {
            variant: replace(recipes.get(variant, VariantRecipe("")), float_layers=layers)
            for variant, layers in self.float_layers.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """For ``parity.json`` and ``--json``."""
        return {
            "budget": str(self.budget) if self.budget is not None else None,
            "float_layers": {
                variant: list(layers) for variant, layers in self.float_layers.items() if variant not in self.dropped
            },
            "dropped": dict(self.dropped),
            "material": dict(self.recipe.material),
            "search": {variant: search.to_dict() for variant, search in self.searches.items()},
            "timings": [timing.to_dict() for timing in self.timings],
        }

    def write_recipe(self, folder: Path) -> None:
        (folder / RECIPE_NAME).write_text(self.recipe.to_json(), encoding="utf-8")


def make_int8(
    model: onnx.ModelProto, manifest: Manifest, config: Int8Config | None, recipe: Path | None, progress: Progress
) -> Int8Result:
    """Quantise the canonical graph, by search or as a recipe says, and derive ``int8-strong`` from what was found.

    Raises :class:`GenedgeError`, :class:`UsageError` where there is nothing to quantise or to calibrate with.
    """
    if recipe is not None:
        made = read_recipe(recipe, digest_of(model))
        layers = {variant: entry.float_layers for variant, entry in made.variants.items()}
        result = Int8Result(
            from_recipe(model, made, ("int8", "int8-ort")), layers, made, None, notes=(f"INT8 as {recipe.name} says.",)
        )
    else:
        found = quantised(model, manifest, config or Int8Config(()), progress=progress)
        result = Int8Result(
            found.models, found.float_layers, found.recipe, config.budget if config else None, found.searches,
            found.missed, found.notes,
        )  # fmt: skip
    if "int8" not in result.models:
        return result
    progress("deriving the int8-strong variant")
    try:
        strong, kept = _strong(model, result.recipe)
    except GenedgeError as error:
        return result.without("int8-strong", str(error))
    layers = {**result.float_layers, "int8-strong": kept}
    return replace(result, models={**result.models, "int8-strong": strong}, float_layers=layers)


def _strong(model: onnx.ModelProto, recipe: Recipe) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The ``int8`` graph less what TensorRT gains nothing from, and its layers in float.

    These are narrow layers and ConvTranspose besides those that the recipe keeps.
    """
    entry = recipe.variants["int8"]
    settings = Int8Qdq(entry.float_layers, transposed=False, narrow=False)
    form = qdq_form(settings, recipe.means if entry.bias_correction else None)
    base = equalised(model, recipe.equalisation)
    strong = strong_from_qdq(form.build(base, ranges_for(recipe, "int8"), ()))
    return strong, tuple(layer.name for layer in layers_of(base) if not form.quantises(layer))


def limits_of(results: Sequence[VariantParity], pairs: Sequence[Pair]) -> dict[str, Limits]:
    """What a device must reach on the golden frames: what was measured here, less a margin for another engine."""
    limits = {}
    for variant in VARIANTS:
        found = [result for result in results if result.choice.variant == variant]
        if found:
            worst = min(psnr(reference_of(pairs, one.report.worst_frame), one.worst_output) for one in found)
            colour = max(one.report.delta_e for one in found)
            least = max(min(BROKEN_DB, worst), worst - MARGIN_DB)  # the worst frame alone may be below BROKEN_DB
            limits[variant] = Limits(
                psnr_db=math.floor(least * 10) / 10, delta_e=round(colour * MARGIN_DELTA_E + 0.1, 2)
            )
    return limits


def earned(
    bundle: Bundle,
    results: list[VariantParity],
    pairs: Sequence[Pair],
    int8: Int8Result,
    config: Int8Config | None,
    progress: Progress,
    engines: EngineOptions | None = None,
) -> tuple[Bundle, list[VariantParity], Int8Result]:
    """Drop INT8 variants that are broken, or not faster here than the next precision; give the others limits.

    ``engines`` are those of TensorRT, None leaves it out, as in :func:`export.parity.measure`.
    """
    for result in results:
        if result.choice.variant in VARIANTS and result.report.psnr_db < BROKEN_DB:
            reason = f"{result.report.psnr_db:.1f} dB from PyTorch on {result.choice.backend}: not merely imprecise"
            int8 = int8.without(result.choice.variant, reason)
    progress("comparing INT8 with the next precision")
    choices = [choice for choice in choices_for(bundle, engines) if choice.variant not in int8.dropped]
    size = bundle.manifest.geometry.fixed_size or _bench_size(bundle)
    timings = bench(bundle, choices, *size, BENCH_ROUNDS, engines=engines or DEFAULT_ENGINES)
    int8 = replace(int8, timings=tuple(timings))
    for timing in timings:
        if timing.choice.precision != "int8":
            continue
        usable = [other for other in timings if _may_replace(other, timing, results)]
        fastest = min(usable, key=lambda other: other.median_ms, default=None)
        if fastest is None:
            continue
        int8 = replace(int8, rivals={**int8.rivals, timing.choice.variant: fastest})
        if fastest.median_ms <= timing.median_ms:
            told = f"not faster than {fastest.choice.precision} on {timing.choice.backend} here"
            figures = f"{timing.median_ms:.1f} against {fastest.median_ms:.1f} ms a frame"
            if config is not None and config.keep_slow:
                int8 = replace(int8, notes=(*int8.notes, f"{timing.choice.variant} is {told} ({figures}), but kept."))
            else:
                int8 = int8.without(timing.choice.variant, f"{told} ({figures})")
    if "int8" in int8.dropped and "int8-strong" not in int8.dropped:
        int8 = int8.without("int8-strong", "int8, which it is derived from, was dropped")
    for variant in int8.dropped:
        if variant in bundle.manifest.artifacts:
            bundle = without_variant(bundle, variant)
    results = [result for result in results if result.choice.variant in bundle.manifest.artifacts]
    limits = limits_of(results, pairs)
    judged = [
        replace(result, report=judge(result.report, limits[result.choice.variant]))
        if result.choice.variant in limits
        else result
        for result in results
    ]
    return with_limits(bundle, limits), judged, int8


def _may_replace(other: Timing, timing: Timing, results: Sequence[VariantParity]) -> bool:
    """Whether ``other`` is the next precision: float, on the same engine, and good enough to be taken instead.

    That is what the runtime would choose unasked, or what is no further from PyTorch than INT8 is.
    """
    if other.choice.backend != timing.choice.backend or other.choice.precision == "int8":
        return False
    own = next(result.report for result in results if result.choice == timing.choice)
    theirs = next((result.report for result in results if result.choice == other.choice), None)
    if theirs is None or not theirs.passed:
        return False
    return taken_unasked(theirs.psnr_db, theirs.delta_e) or theirs.psnr_db >= own.psnr_db


def _bench_size(bundle: Bundle) -> tuple[int, int]:
    return bundle.manifest.geometry.size_rule.padded(*BENCH_SIZE)
