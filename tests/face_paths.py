"""Faces that move along given paths, for the tests of the guard. No pictures: this is about logic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from runtime.faces.guard import Guard
from runtime.faces.types import Box, Face, Landmarks, Verdict

Path = Callable[[int], Box]


def moving(
    start: tuple[float, float],
    size: float,
    *,
    speed: float = 0.0,
    angle: float = 0.0,
    gain: float = 0.0,
    zoom: float = 0.0,
) -> Path:
    """A face 1 : 1.25, ``size`` pixels wide, that moves ``speed`` widths a frame; each frame by ``gain`` widths faster
    and by ``zoom`` larger."""

    def at(frame: int) -> Box:
        way = size * (speed * frame + gain * frame * frame / 2)
        width = size * (1 + zoom) ** frame
        x, y = start[0] + way * math.cos(angle), start[1] + way * math.sin(angle)
        return Box(x - width / 2, y - 1.25 * width / 2, width, 1.25 * width)

    return at


def landmarks_of(box: Box) -> Landmarks:
    """Of a face that looks at the camera."""
    places = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    return np.array([(box.x + x * box.width, box.y + y * box.height) for x, y in places], np.float32)


def face(box: Box, score: float = 0.9) -> Face:
    return Face(box, score, landmarks_of(box))


def covered(box: Box, verdict: Verdict) -> bool:
    """Whether the four corners of ``box`` lie in the inscribed ellipse of one region, or the frame is covered whole."""
    return not verdict.ok or any(holds(cover.region, box) for cover in verdict.covers)


def holds(region: Box, box: Box) -> bool:
    (x, y), across, down = region.center, region.width / 2, region.height / 2
    corners = [(box.x + i * box.width, box.y + j * box.height) for i in (0, 1) for j in (0, 1)]
    return all(((cx - x) / across) ** 2 + ((cy - y) / down) ** 2 <= 1 + 1e-6 for cx, cy in corners)


def run(
    guard: Guard, frames: Iterable[Sequence[Face] | None], *, cuts: Iterable[int] = (), rate: float = 25.0
) -> list[Verdict]:
    """All verdicts on frames 0, 1, ... without pictures."""
    verdicts: list[Verdict] = []
    cuts = set(cuts)
    for index, faces in enumerate(frames):
        guard.push(index, index / rate, None, faces, cut=index in cuts)
        verdicts += popped(guard)
    guard.finish()
    return verdicts + popped(guard)


def popped(guard: Guard) -> list[Verdict]:
    verdicts = []
    while (verdict := guard.pop()) is not None:
        verdicts.append(verdict)
    return verdicts
