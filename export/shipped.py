"""The weights that come with genedge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "weights"


@dataclass(frozen=True)
class Shipped:
    """A shipped net: file, licence, training material, and one line about it."""

    name: str
    path: Path
    licence: str
    trained_on: str
    title: str


def shipped_weights() -> list[Shipped]:
    """All shipped nets, by name. Their facts are in ``weights/index.json``."""
    index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
    return [Shipped(name, FOLDER / f"{name}.safetensors", **facts) for name, facts in sorted(index.items())]


def find_shipped(name: str) -> Shipped | None:
    """The shipped net called ``name``, or None (then it is a path)."""
    return next((shipped for shipped in shipped_weights() if shipped.name == name), None)
