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
from runtime.manifest import FLOAT_PRECISIONS

FORMAT = 1
RECIPE_NAME = "recipe.json"
LARGEST = float(np.finfo(np.float32).max) / 2  # of a range's ends, whose difference must be a float32
MAX_BYTES = 64 << 20  # 64 MiB; a net of a hundred layers takes about one


@dataclass(frozen=True)
class VariantRecipe:
    """One variant: the observer that lost least, the layers in float, whether biases were corrected, and what floats
    may be computed in."""

    observer: str
    float_layers: tuple[str, ...] = ()
    bias_correction: bool = False
    float_precision: str = "fp32"


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
                    "float_precision": variant.float_precision,
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
        if path.exists() and not path.is_file():  # a pipe would keep the reader waiting for ever
            raise UsageError(f"{path}: not a file")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: {path.stat().st_size} bytes, more than any recipe has")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error or type(error).__name__})") from None
    try:
        recipe = _parsed(content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{path}: no recipe that this version reads ({type(error).__name__}: {error})") from None
    if recipe.graph != graph:
        raise UsageError(
            f"{path}: its ranges were measured on another graph (sha256 {recipe.graph[:12]}…, this one has "
            f"{graph[:12]}…): calibrate again with --calib SET"
        )
    return recipe


def _parsed(content: Any) -> Recipe:
    content = _mapping(content, "a recipe")
    if content["format"] != FORMAT:
        raise ValueError(f"format {str(content['format'])[:40]}, not {FORMAT}")
    if not isinstance(content["graph"], str):
        raise TypeError("graph must be a digest")
    return Recipe(
        graph=content["graph"],
        material=_mapping(content["material"], "material"),
        equalisation={
            name: _numbers(values) for name, values in _mapping(content["equalisation"], "equalisation").items()
        },
        ranges={
            observer: {name: _range(name, values) for name, values in _mapping(table, observer).items()}
            for observer, table in _mapping(content["ranges"], "ranges").items()
        },
        means={name: _numbers(values) for name, values in _mapping(content["means"], "means").items()},
        variants={name: _variant(name, entry) for name, entry in _mapping(content["variants"], "variants").items()},
        search=_mapping(content["search"], "search"),
    )


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be an object")
    return value


def _variant(name: str, value: Any) -> VariantRecipe:
    entry = _mapping(value, name)
    observer, layers, bias = entry["observer"], entry["float_layers"], entry["bias_correction"]
    if not isinstance(observer, str) or not isinstance(bias, bool):
        raise TypeError(f"{name}: observer must be a name and bias_correction true or false")
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise TypeError(f"{name}: float_layers must be a list of names")
    floats = entry.get("float_precision", "fp32")
    if floats not in FLOAT_PRECISIONS:
        raise ValueError(f"{name}: float_precision must be one of {', '.join(FLOAT_PRECISIONS)}")
    return VariantRecipe(observer, tuple(layers), bias, floats)


def _range(name: str, values: Any) -> Range:
    low, high, magnitude = _numbers(values, 3)
    if low > high or magnitude < 0 or max(abs(low), abs(high), magnitude) > LARGEST:
        raise ValueError(f"{name}: low, high and magnitude are no range")
    return Range(low, high, magnitude)


def _numbers(values: Any, count: int | None = None) -> list[float]:
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise TypeError(f"{str(values)[:40]} is no list of {count or 'any number of'} numbers")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise TypeError("a list of numbers holds something else")
    numbers = [float(value) for value in values]
    if not np.isfinite(numbers).all():
        raise ValueError("a list of numbers holds one that is not finite")
    return numbers


def ranges_for(recipe: Recipe, variant: str) -> Mapping[str, Range]:
    """The range table of one of the recipe's variants; raises :class:`GenedgeError` where it has none."""
    if variant not in recipe.variants or recipe.variants[variant].observer not in recipe.ranges:
        raise GenedgeError(f"the recipe says nothing about {variant}")
    return recipe.ranges[recipe.variants[variant].observer]
