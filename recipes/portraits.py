"""The public domain portraits below ``$GENEDGE_ASSETS``, as their table describes them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.faces.types import Box

NAMES = ("re", "le", "nose", "rm", "lm")  # right eye, left eye, nose, corners of the mouth, as in Landmarks


@dataclass(frozen=True)
class PortraitRow:
    """One portrait: its ``file`` name and ``path``, the ``box`` of the face and (5, 2) ``landmarks`` in pixels, how
    many ``faces`` it shows, and the mean difference of its blue and red (``colour``, 8-bit steps)."""

    file: str
    path: Path
    box: Box
    landmarks: NDArray[np.float64]
    faces: int
    colour: float


def portrait_rows(folder: Path) -> list[PortraitRow]:
    """All rows of ``faces.csv`` in ``folder`` (``faces/congress_pd``), in their order; no picture is read."""
    with (folder / "faces.csv").open(encoding="utf-8", newline="") as file:
        return [_row(row, folder) for row in csv.DictReader(file)]


def _row(row: dict[str, str], folder: Path) -> PortraitRow:
    points = [[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in NAMES]
    box = Box(*(float(row[key]) for key in ("x", "y", "bw", "bh")))
    path = folder / "450x550" / row["file"]
    return PortraitRow(row["file"], path, box, np.array(points), int(row["n_faces"]), float(row["mean_abs_b_minus_r"]))
