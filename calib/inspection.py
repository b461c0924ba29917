"""Look at a calibration set: figures, a contact sheet and histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calib.dataset import CalibrationSet
from calib.index import is_set, read_index
from runtime.errors import UsageError
from runtime.frames import Frame

CONTACT_SHEET, HISTOGRAMS = "contact_sheet.png", "histograms.png"
MOST_SHOWN = 256  # pictures on a contact sheet
CELL = 128  # pixels a side of a picture on it
LABEL = 14  # pixels of text below
GAP = 4
PERCENTILES = (0, 10, 50, 90, 100)
CHANNELS = {"red": (2, (60, 60, 230)), "green": (1, (60, 180, 60)), "blue": (0, (230, 120, 50))}
INK, PAPER, GRID = (40, 40, 40), (255, 255, 255), (225, 225, 225)  # BGR


@dataclass(frozen=True)
class Overview:
    """Figures of a set.

    ``sources``: name to number of pictures. ``sizes``: (height, width) in pixels to number of pictures.
    ``brightness``, ``saturation``: float (N,), mean of each picture, 0 to 255; brightness is BT.601 luma, saturation
    the largest minus the smallest channel. ``histograms``: int64 (3, 256), pixels of all pictures, channels BGR.
    """

    material: CalibrationSet
    sources: dict[str, int]
    sizes: dict[tuple[int, int], int]
    brightness: NDArray[np.float64]
    saturation: NDArray[np.float64]
    histograms: NDArray[np.int64]

    def spread(self) -> dict[str, dict[str, float]]:
        """Percentiles over the pictures of their brightness and saturation."""
        return {
            name: {f"p{percent}": round(float(np.percentile(values, percent)), 2) for percent in PERCENTILES}
            for name, values in (("brightness", self.brightness), ("saturation", self.saturation))
        }

    def ends(self) -> dict[str, dict[str, float]]:
        """Share of each channel's values that are 0 and 255."""
        total = self.histograms[0].sum()
        return {
            name: {"0": float(self.histograms[channel, 0] / total), "255": float(self.histograms[channel, 255] / total)}
            for name, (channel, _) in CHANNELS.items()
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "set": self.material.source,
            "digest": self.material.digest,
            "frames": len(self.material),
            "runs": len(self.material.runs),
            "size": self.material.size,
            "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.items()},
            "sources": self.sources,
            **self.spread(),
            "ends": self.ends(),
        }


def inspect(folder: Path, output: Path, step: Callable[[], None] = lambda: None) -> Overview:
    """Read every picture of a set, check its digest, and draw ``contact_sheet.png`` and ``histograms.png``.

    Raises :class:`UsageError` for a set that is damaged and where ``output`` lies in the set. ``step`` is called after
    each picture.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such set: make one with `python -m calib sample VIDEO -o {folder}`")
    if output.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{output} lies in the set, which holds pictures to calibrate with: choose another -o")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: -o names a folder")
    material = CalibrationSet.from_paths([folder])
    names = [picture.source for picture in read_index(folder).pictures] if is_set(folder) else []
    names = names or [folder.resolve().name] * len(material)
    shown = sorted({round(place) for place in np.linspace(0, len(material) - 1, min(MOST_SHOWN, len(material)))})
    sheet = _Sheet(len(shown))
    sources: dict[str, int] = {}
    sizes: dict[tuple[int, int], int] = {}
    brightness, saturation = [], []
    histograms = np.zeros((3, 256), np.int64)
    for number, frame in enumerate(material.frames):
        sources[names[number]] = sources.get(names[number], 0) + 1
        size = (frame.shape[0], frame.shape[1])
        sizes[size] = sizes.get(size, 0) + 1
        brightness.append(float(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).mean()))
        saturation.append(float((frame.max(axis=2) - frame.min(axis=2)).mean()))
        for channel in range(3):
            histograms[channel] += np.bincount(frame[..., channel].reshape(-1), minlength=256)
        if number in shown:
            sheet.add(frame, f"{material.names[number]} {names[number]}")
        step()
    overview = Overview(material, sources, sizes, np.array(brightness), np.array(saturation), histograms)
    output.mkdir(parents=True, exist_ok=True)
    _write(output / CONTACT_SHEET, sheet.image)
    _write(output / HISTOGRAMS, histogram_picture(overview))
    return overview


class _Sheet:
    """Pictures in a grid, each with a line of text."""

    def __init__(self, count: int) -> None:
        self.columns = min(count, max(1, math.ceil(math.sqrt(count * 1.6))))
        rows = math.ceil(count / self.columns)
        pitch = (CELL + LABEL + GAP, CELL + GAP)
        self.image: Frame = np.full((rows * pitch[0] + GAP, self.columns * pitch[1] + GAP, 3), 255, np.uint8)
        self._pitch, self._count = pitch, 0

    def add(self, frame: Frame, text: str) -> None:
        row, column = divmod(self._count, self.columns)
        self._count += 1
        top, left = row * self._pitch[0] + GAP, column * self._pitch[1] + GAP
        factor = CELL / max(frame.shape[:2])
        height, width = (max(1, round(side * factor)) for side in frame.shape[:2])
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
        small = cv2.resize(frame, (width, height), interpolation=method)
        y, x = top + (CELL - height) // 2, left + (CELL - width) // 2
        self.image[y : y + height, x : x + width] = small
        label = np.full((LABEL, CELL, 3), 255, np.uint8)  # a long text is cut at its edge
        put_text(label, text, (0, LABEL - 4), 0.32)
        self.image[top + CELL : top + CELL + LABEL, left : left + CELL] = label


def histogram_picture(overview: Overview) -> Frame:
    """The set's histograms of red, green, blue and a table of its spread, ``uint8 (H, W, 3) BGR``."""
    width, height, margin = 512, 150, 40
    panel = height + margin
    image: Frame = np.full((3 * panel + 116, width + 2 * margin, 3), 255, np.uint8)
    for row, (name, (channel, color)) in enumerate(CHANNELS.items()):
        top = row * panel + 24
        _histogram(image[top : top + height, margin : margin + width], overview.histograms[channel], color)
        ends = overview.ends()[name]
        put_text(image, f"{name}: {ends['0']:.2%} are 0, {ends['255']:.2%} are 255", (margin, top - 7), 0.42)
        for value in (0, 64, 128, 192, 255):
            put_text(image, str(value), (margin + 2 * value - 8, top + height + 12), 0.34)
    top = 3 * panel + 24
    put_text(image, f"{len(overview.material)} pictures, percentiles of their means, 0 to 255", (margin, top), 0.42)
    for column, percent in enumerate(PERCENTILES):
        put_text(image, f"p{percent}", (margin + 130 + 70 * column, top + 24), 0.42)
    for row, (name, spread) in enumerate(overview.spread().items()):
        put_text(image, name, (margin, top + 48 + 24 * row), 0.42)
        for column, figure in enumerate(spread.values()):
            put_text(image, f"{figure:.1f}", (margin + 130 + 70 * column, top + 48 + 24 * row), 0.42)
    return image


def _histogram(image: Frame, counts: NDArray[np.int64], color: Sequence[int]) -> None:
    """Draw into a view of 2 x 256 columns; the ends, which often stand out, may be cut off at the top."""
    height = image.shape[0]
    top = max(1, int(counts[1:255].max()) or int(counts.max()))
    for value in (64, 128, 192):
        image[:, 2 * value] = GRID
    for value, count in enumerate(counts):
        bar = min(height, round(height * int(count) / top))
        if bar:
            image[height - bar :, 2 * value : 2 * value + 2] = color
    cv2.rectangle(image, (0, 0), (image.shape[1] - 1, height - 1), INK, 1)


def put_text(image: Frame, text: str, place: tuple[int, int], scale: float) -> None:
    """Write a line in dark grey; ``place`` is (x, y) of its lower left corner in pixels."""
    ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no other letters
    cv2.putText(image, ascii_text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)


def _write(path: Path, image: Frame) -> None:
    done, data = cv2.imencode(".png", image)
    assert done, "OpenCV writes any uint8 picture as PNG"
    path.write_bytes(data.tobytes())
