"""The shipped weights: each has its card, and the card is about this very file."""

from __future__ import annotations

import hashlib
import re

import pytest

from export.generators import load_generator
from export.shipped import FOLDER, Shipped, find_shipped, shipped_weights


def test_nothing_lies_about_and_nothing_is_missing() -> None:
    names = {shipped.name for shipped in shipped_weights()}
    assert {"sr-x2", "sr-x4"} <= names
    assert {path.name for path in FOLDER.iterdir()} == {
        "index.json",
        *(f"{name}.{kind}" for name in names for kind in ("safetensors", "md")),
    }


@pytest.mark.parametrize("shipped", shipped_weights(), ids=lambda shipped: shipped.name)
def test_card_and_weights_belong_together(shipped: Shipped) -> None:
    card = shipped.path.with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith(f"# {shipped.name}\n")
    assert f"sha256 `{hashlib.sha256(shipped.path.read_bytes()).hexdigest()}`" in card
    assert f"Licence of the weights: {shipped.licence}" in card
    loaded, _ = load_generator(shipped.path)
    parameters = sum(parameter.numel() for parameter in loaded.net.parameters())
    assert f"{parameters:,} parameters" in card
    if loaded.task == "super-resolution":
        assert f"super-resolution x{loaded.scale} " in card.lower()
        assert re.search(r"CC BY-SA 4\.0.*\n.*Unsplash.*\n.*unrestricted", card)
    else:
        assert loaded.task == "face-deid"
        assert "public domain" in card
        assert "What it does not reach" in card


def test_a_path_is_no_shipped_name() -> None:
    assert find_shipped("export/weights/sr-x2.safetensors") is None
