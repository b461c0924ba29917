"""The bank of average faces that comes with the package: see ``average_faces.md`` beside this file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import GenedgeError
from runtime.faces.types import Landmarks

LEVELS = 4
"""Sizes in which each face is kept: full, a half, a quarter, an eighth."""


@dataclass(frozen=True)
class AverageFace:
    """A face of nobody: ``levels`` are uint8 (H, W, 4), BGR and how much is shown, each half as large as the one
    before; ``landmarks`` are pixels of the first; ``light`` is the mean of the shown pixels in each channel."""

    levels: tuple[NDArray[np.uint8], ...]
    landmarks: Landmarks
    light: tuple[float, float, float]

    def level_for(self, scale: float) -> int:
        """The smallest level that still has at least the pixels that are shown at ``scale``."""
        return int(np.clip(np.floor(-np.log2(max(scale, 1e-6))), 0, len(self.levels) - 1))


@lru_cache(maxsize=1)
def average_faces() -> tuple[AverageFace, ...]:
    """All faces of the bank. Raises :class:`GenedgeError` where its files are missing or damaged."""
    folder = Path(__file__).parent
    facts_path, sheet_path = folder / "average_faces.json", folder / "average_faces.png"
    try:
        facts = json.loads(facts_path.read_text())
        sheet = cv2.imdecode(np.frombuffer(sheet_path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        width, height, columns, count = (int(facts[key]) for key in ("width", "height", "columns", "count"))
        landmarks = np.array(facts["landmarks"], np.float32).reshape(5, 2)
    except (OSError, ValueError, KeyError, TypeError, cv2.error) as error:
        raise GenedgeError(f"the average faces in {folder} cannot be read: install the package again") from error
    if sheet is None or sheet.shape != (-(-count // columns) * height, columns * width, 4):
        raise GenedgeError(f"the average faces in {folder} cannot be read: install the package again")
    faces = []
    for index in range(count):
        top, left = index // columns * height, index % columns * width
        faces.append(_face(sheet[top : top + height, left : left + width].astype(np.uint8), landmarks))
    return tuple(faces)


def _face(image: NDArray[np.uint8], landmarks: Landmarks) -> AverageFace:
    levels = [image]
    for _ in range(LEVELS - 1):
        half = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA).astype(np.uint8))
    blue, green, red, _ = cv2.mean(image[..., :3], (image[..., 3] > 127).view(np.uint8))
    return AverageFace(tuple(levels), landmarks, (blue, green, red))
