"""``recipe.json``: what goes in comes out, and nothing that a stranger wrote into it gets any further."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import calib.recipe
from calib.observers import Range
from calib.recipe import Recipe, VariantRecipe, ranges_for, read_recipe
from runtime.errors import GenedgeError, UsageError

DIGEST = "ab" * 32
RECIPE = Recipe(
    graph=DIGEST,
    material={"digest": "cd" * 32, "source": "frames", "frames": 4},
    equalisation={"relu": [0.5, 2.0]},
    ranges={"max": {"frame": Range(0.0, 255.0, 255.0), "relu": Range(0.0, 1.25, 1.25)}},
    means={"relu": [0.1, -0.30000000000000004]},
    variants={"int8": VariantRecipe("max", ("conv_1",), True), "int8-ort": VariantRecipe("max")},
    search={"int8": {"met": True}},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recipe.json"


def changed(*places: str | int, value: Any = None, gone: bool = False) -> str:
    """The recipe as text with one value changed, or taken out."""
    content = json.loads(RECIPE.to_json())
    part = content
    for place in places[:-1]:
        part = part[place]
    if gone:
        del part[places[-1]]
    else:
        part[places[-1]] = value
    return json.dumps(content)


def refused(path: Path, text: str | bytes, graph: str = DIGEST) -> str:
    """The one sentence with which a file is refused."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as error:
        read_recipe(path, graph)
    assert error.value.exit_code == 2
    sentence = str(error.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 200
    return sentence.removeprefix(f"{path}: ")


# --- round trip -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(path: Path) -> None:
    path.write_text(RECIPE.to_json(), encoding="utf-8")
    assert read_recipe(path, DIGEST) == RECIPE
    assert ranges_for(read_recipe(path, DIGEST), "int8") == RECIPE.ranges["max"]


@given(st.dictionaries(st.text(max_size=8), st.lists(st.floats(allow_nan=False, allow_infinity=False)), max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_number_keeps_all_its_bits(path: Path, means: dict[str, list[float]]) -> None:
    recipe = replace(RECIPE, means=means)
    path.write_text(recipe.to_json(), encoding="utf-8")
    assert read_recipe(path, DIGEST) == recipe


def test_numbers_that_are_not_finite_are_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        replace(RECIPE, means={"relu": [float("nan")]}).to_json()


def test_a_variant_that_the_recipe_does_not_hold() -> None:
    for recipe, variant in ((RECIPE, "fp8"), (replace(RECIPE, ranges={}), "int8")):
        with pytest.raises(GenedgeError, match=f"the recipe says nothing about {variant}"):
            ranges_for(recipe, variant)


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b"nonsense", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}", b"\0" * 50],
    ids=["empty", "cut", "no-utf-8", "text", "deep", "long-number", "zeros"],
)
def test_what_is_no_json(path: Path, text: bytes) -> None:
    assert refused(path, text).startswith("not valid JSON (")


@pytest.mark.parametrize("text", ["null", "3", '"recipe"', "[]", "{}", '{"format": 2}', '{"format": [1]}'])
def test_what_is_no_recipe(path: Path, text: str) -> None:
    assert refused(path, text).startswith("no recipe that this version reads (")


@pytest.mark.parametrize("key", sorted(json.loads(RECIPE.to_json())))
def test_every_key_is_needed_and_has_its_type(path: Path, key: str) -> None:
    assert refused(path, changed(key, gone=True)) == f"no recipe that this version reads (KeyError: '{key}')"
    for value in (None, 17, "text", [], [["a", 1]], key != "format"):
        if value != "text" or key != "graph":
            assert refused(path, changed(key, value=value)).startswith("no recipe that this version reads (")


@pytest.mark.parametrize("key", ["observer", "float_layers", "bias_correction"])
def test_every_key_of_a_variant_is_needed_and_has_its_type(path: Path, key: str) -> None:
    refused(path, changed("variants", "int8", key, gone=True))
    for value in (None, 17, [3], {}, [["conv_1"]], "conv_1" if key != "observer" else True):
        refused(path, changed("variants", "int8", key, value=value))
    refused(path, changed("variants", "int8", value=[1]))


@pytest.mark.parametrize("place", [("equalisation", "relu"), ("means", "relu"), ("ranges", "max", "relu")], ids=str)
@pytest.mark.parametrize(
    "number", [None, "1", True, [1.0], {}, float("nan"), float("inf"), -float("inf"), 10**400], ids=lambda n: str(n)[:5]
)
def test_lists_hold_finite_numbers_only(path: Path, place: tuple[str, ...], number: Any) -> None:
    assert refused(path, changed(*place, 0, value=number)).startswith("no recipe that this version reads (")


def test_a_number_beyond_all_floats(path: Path) -> None:
    refused(path, changed("means", "relu", 0, value=7777).replace("7777", "1e999"))


@pytest.mark.parametrize(
    "values",
    [[0, 1], [0, 1, 1, 1], [], "0 1 1", {"low": 0}, [1, 0, 1], [0, 1, -1], [-1e39, 1, 1], [0, 1e300, 1], [0, 1, 3e38]],
    ids=str,
)
def test_what_is_no_range(path: Path, values: Any) -> None:
    refused(path, changed("ranges", "max", "relu", value=values))


def test_a_recipe_of_another_graph(path: Path) -> None:
    sentence = refused(path, RECIPE.to_json(), "12" * 32)
    assert sentence == (
        "its ranges were measured on another graph (sha256 abababababab…, this one has 121212121212…): "
        "calibrate again with --calib SET"
    )


def test_a_huge_file_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("wb") as file:
        file.truncate(calib.recipe.MAX_BYTES + 1)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UsageError, match=f"recipe.json: {calib.recipe.MAX_BYTES + 1} bytes, more than any recipe has"):
        read_recipe(path, DIGEST)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: None], ids=["folder", "pipe", "nothing"])
def test_what_is_no_file(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(UsageError, match=r"recipe\.json: (not a file|No such file or directory)$"):
        read_recipe(path, DIGEST)
