"""``recipe.json``: how a bundle's INT8 variants were made, and all that is needed to make them again without frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calib.observers import Range
from runtime.errors import GenedgeError, UsageError

FORMAT = 1
RECIPE_NAME = "recipe.json"
MAX_BYTES = 64 << 20  # 64 MiB; a net of a hundred layers takes about one


@dataclass(frozen=True)
class VariantRecipe:
    """One variant: the observer that lost least, the layers in float, and whether biases were corrected."""

    observer: str
    float_layers: tuple[str, ...] = ()
    bias_correction: bool = False


@dataclass(frozen=True)
class Recipe:
    """Ranges and decisions for one graph.

    ``graph``: SHA-256 of the canonical float32 graph's bytes. ``material``: digest and description of the calibration
    set. ``equalisation``: tensor -> divisor of each channel, applied before anything else. ``ranges``: observer ->
    tensor -> range, of the equalised graph, before and behind every activation. ``means``: tensor -> mean of every
    channel.
    """

    graph: str
    material: Mapping[str, Any]
    equalisation: Mapping[str, list[float]]
    ranges: Mapping[str, Mapping[str, Range]]
    means: Mapping[str, list[float]]
    variants: Mapping[str, VariantRecipe]
    search: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "graph": self.graph,
            "material": dict(self.material),
            "variants": {
                name: {
                    "observer": variant.observer,
                    "float_layers": list(variant.float_layers),
                    "bias_correction": variant.bias_correction,
                }
                for name, variant in self.variants.items()
            },
            "search": dict(self.search),
            "equalisation": {name: list(values) for name, values in self.equalisation.items()},
            "ranges": {
                observer: {name: [values.low, values.high, values.magnitude] for name, values in table.items()}
                for observer, table in self.ranges.items()
            },
            "means": {name: list(values) for name, values in self.means.items()},
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_recipe(path: Path, graph: str) -> Recipe:
    """Read a recipe and check that it was made for the graph with this digest.

    Raises:
        UsageError: the file is missing, no recipe, damaged, or made for another graph.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: {path.stat().st_size} bytes, more than any recipe has")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from None
    try:
        recipe = _parsed(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: no recipe that this version reads ({type(error).__name__}: {error})") from None
    if recipe.graph != graph:
        raise UsageError(
            f"{path}: its ranges were measured on another graph (sha256 {recipe.graph[:12]}…, this one has "
            f"{graph[:12]}…): calibrate again with --calib SET"
        )
    return recipe


def _parsed(content: Any) -> Recipe:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}, not {FORMAT}")
    if not isinstance(content["graph"], str):
        raise TypeError("graph must be a digest")
    return Recipe(
        graph=content["graph"],
        material=dict(content["material"]),
        equalisation={str(name): _numbers(values) for name, values in content["equalisation"].items()},
        ranges={
            str(observer): {str(name): Range(*_numbers(values, 3)) for name, values in table.items()}
            for observer, table in content["ranges"].items()
        },
        means={str(name): _numbers(values) for name, values in content["means"].items()},
        variants={str(name): _variant(entry) for name, entry in content["variants"].items()},
        search=dict(content["search"]),
    )


def _variant(entry: Any) -> VariantRecipe:
    layers, bias = entry["float_layers"], entry["bias_correction"]
    if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers) or not isinstance(bias, bool):
        raise TypeError("a variant's float_layers must be names and bias_correction true or false")
    return VariantRecipe(str(entry["observer"]), tuple(layers), bias)


def _numbers(values: Any, count: int | None = None) -> list[float]:
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise TypeError(f"{str(values)[:40]} is no list of {count or 'any number of'} numbers")
    numbers = [float(value) for value in values if not isinstance(value, bool)]
    if len(numbers) != len(values) or not np.isfinite(numbers).all():
        raise ValueError("a list holds something that is no finite number")
    return numbers


def ranges_for(recipe: Recipe, variant: str) -> Mapping[str, Range]:
    """The range table of one of the recipe's variants; raises :class:`GenedgeError` where it has none."""
    if variant not in recipe.variants or recipe.variants[variant].observer not in recipe.ranges:
        raise GenedgeError(f"the recipe says nothing about {variant}")
    return recipe.ranges[recipe.variants[variant].observer]
