"""Where a drawn face goes: transforms from five landmarks to five landmarks, and which landmarks can be trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.faces.types import Landmarks

Affine = NDArray[np.float64]
"""(2, 3): maps (x, y, 1) to (x, y)."""

ROLL_LIMIT = 75.0
"""Degrees that the line of the eyes may be tilted."""

PROFILE_LIMIT = 0.3
"""Least distance of the eyes, as a share of the distance from the eyes to the mouth. It is about 0.85 for a face that
looks at the camera, and 0.85 times the cosine of the angle for one that turns away: 0.3 is about 70 degrees."""

NOSE_LIMIT = 1.0
"""How far the tip of the nose may be from the middle of the eyes, along their line, in distances of the eyes: at 0.5
it is below an eye."""


def similarity(source: NDArray[np.floating], target: NDArray[np.floating]) -> Affine:
    """The rotation, uniform scale and shift that bring ``source`` (N, 2) closest to ``target`` (N, 2) in squares.

    Umeyama, Least-squares estimation of transformation parameters between two point patterns (PAMI 13(4), 1991); in
    the plane it has a closed form without a decomposition, and never mirrors. ``source`` must not be one point N times.
    """
    middle, goal = source.mean(0, dtype=np.float64), target.mean(0, dtype=np.float64)
    (x, y), (u, v) = (source - middle).T, (target - goal).T
    size = float((x * x + y * y).sum())
    cosine, sine = float((x * u + y * v).sum()) / size, float((x * v - y * u).sum()) / size
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([linear, goal - linear @ middle])


def affine(source: NDArray[np.floating], target: NDArray[np.floating]) -> Affine:
    """The affine map that brings ``source`` (N, 2) closest to ``target`` (N, 2) in squares."""
    design = np.column_stack([source.astype(np.float64), np.ones(len(source))])
    solution: NDArray[np.float64] = np.linalg.lstsq(design, target.astype(np.float64), rcond=None)[0]
    return solution.T


def placement(source: NDArray[np.floating], target: NDArray[np.floating], give: float = 0.5) -> Affine:
    """A similarity that gives way to the affine map by ``give`` (0 to 1): a turned head becomes narrower.

    Where the affine map mirrors, or is more than twice as long one way as the other, it is the similarity alone.
    """
    plain, bent = similarity(source, target), affine(source, target)
    longer, shorter = np.linalg.svd(bent[:, :2], compute_uv=False)
    if np.linalg.det(bent[:, :2]) <= 0 or longer > 2 * shorter:
        return plain
    mixed = (1 - give) * plain + give * bent
    return mixed


def trouble_with(landmarks: Landmarks | None) -> str:
    """Why no face can be drawn on ``landmarks``: ``no landmarks`` or ``profile``; empty where one can.

    ``no landmarks`` also where a number is not finite or the points fall together. ``profile`` where the head is
    turned or tilted further than :data:`PROFILE_LIMIT`, :data:`NOSE_LIMIT` and :data:`ROLL_LIMIT` allow.
    """
    if landmarks is None or landmarks.shape != (5, 2) or not np.isfinite(landmarks).all():
        return "no landmarks"
    points = landmarks.astype(np.float64)
    eyes = points[1] - points[0]
    middle = (points[0] + points[1]) / 2
    between, down = float(np.hypot(*eyes)), float(np.hypot(*((points[3] + points[4]) / 2 - middle)))
    if between < 1 or down < 1:
        return "profile" if max(between, down) >= 1 else "no landmarks"
    if abs(np.degrees(np.arctan2(eyes[1], eyes[0]))) > ROLL_LIMIT or between < PROFILE_LIMIT * down:
        return "profile"
    aside = float((points[2] - middle) @ eyes) / between**2
    return "profile" if abs(aside) > NOSE_LIMIT else ""
