"""Draws a face of the bank of average faces: k-same de-identification that is stable in time."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces import align, blend
from runtime.faces.bank import AverageFace, average_faces
from runtime.faces.types import Cover, TrackKeys, changed_box
from runtime.frames import Frame

FORGET = 100
"""Frames after which the colours of a track that was not drawn are forgotten."""

SMOOTHING = 0.1
"""Share of a new frame in the colours of a track."""

DAYLIGHT = 118.0
"""Mean brightness of a scene in which a face keeps the brightness it has in the bank."""

BRIGHTNESS = (0.6, 1.15)
WARMTH = (0.88, 1.14)
"""Limits of the gains; a face of nobody should stay one that could be somebody's."""

SAMPLES = 48
"""Pixels across and down on which the scene is judged, at most."""


@dataclass(frozen=True)
class Scene:
    """What the frame outside of all regions says about its light: ``mean`` colour and ``colour``, 0 (black and white)
    to 1."""

    mean: blend.Colour
    colour: float


@dataclass
class _Track:
    tone: NDArray[np.float64]  # (4,): gains of blue, green and red, and how much colour
    used: int


class AveragePainter:
    """Draws the same average face for the same track, in colours that follow the surroundings slowly.

    The original face is never read: brightness and warmth come from the pixels around the regions.
    """

    def __init__(self) -> None:
        self._faces = average_faces()
        self._scene = Scene(blend.NEUTRAL, 1.0)
        self._mask: blend.Mask | None = None
        self._tracks: dict[int, _Track] = {}
        self._count = 0

    def look(self, image: Frame, mask: blend.Mask) -> None:
        """Take the light of a new frame from its pixels where ``mask`` is 0. Call it once for each frame."""
        self._count += 1
        self._scene = scene_of(image, mask)
        self._tracks = {track: state for track, state in self._tracks.items() if self._count - state.used < FORGET}

    def paint(self, original: Frame, target: Frame, cover: Cover, keys: TrackKeys) -> None:
        """Draw on ``target``, whose values around the region are the surroundings; ``original`` is not read."""
        assert cover.landmarks is not None
        height, width = target.shape[:2]
        window = changed_box(cover.region, width, height)
        face = self._faces[keys.number(cover.track, len(self._faces))]
        part = blend.cut(target, window)
        tone = self._tone(cover.track, face, part)
        warped = placed(face, align.placement(face.landmarks, cover.landmarks), window)
        shown = cv2.extractChannel(warped, 3).astype(np.uint8, copy=False)
        part[:] = blend.mixed(part, coloured(warped, tone), shown)

    def _tone(self, track: int, face: AverageFace, around: Frame) -> NDArray[np.float64]:
        near = cv2.mean(around)[:3]  # the face is gone from it: it holds its surroundings, continued
        wanted = tone_for((near[0], near[1], near[2]), self._scene)
        state = self._tracks.get(track)
        if state is not None:
            wanted = state.tone + SMOOTHING * (wanted - state.tone)
        self._tracks[track] = _Track(wanted, self._count)
        return wanted


def scene_of(image: Frame, mask: blend.Mask) -> Scene:
    """The light of ``image`` (H, W, 3) where ``mask`` (H, W) is 0, judged on a grid of :data:`SAMPLES` pixels."""
    height, width = mask.shape
    down, across = -(-height // SAMPLES), -(-width // SAMPLES)
    pixels = image[down // 2 :: down, across // 2 :: across][mask[down // 2 :: down, across // 2 :: across] == 0]
    if not len(pixels):
        return Scene(blend.NEUTRAL, 1.0)
    spread = float(np.percentile(pixels.max(1) - pixels.min(1), 95))  # of the most colourful twentieth
    blue, green, red = (float(value) for value in pixels.mean(0))
    return Scene((blue, green, red), blend.colour_share(spread))


def tone_for(near: blend.Colour, scene: Scene) -> NDArray[np.float64]:
    """Gains of blue, green and red, and how much colour, for a face between ``near`` in a ``scene``.

    Cautious, as hair, clothes and walls are not skin: the square root of how much darker it is than daylight, a third
    of how much warmer, within :data:`BRIGHTNESS` and :data:`WARMTH`.
    """
    light = np.maximum(1.0, (np.asarray(near) + np.asarray(scene.mean)) / 2)
    bright = float(light @ (0.114, 0.587, 0.299))
    gain = np.clip((bright / DAYLIGHT) ** 0.5, *BRIGHTNESS)
    warm = np.clip(((light[2] + 16) / (light[0] + 16)) ** (1 / 6), *WARMTH)
    return np.array([gain / warm, gain, gain * warm, scene.colour])


def placed(face: AverageFace, matrix: align.Affine, window: blend.Window) -> NDArray[np.uint8]:
    """``face`` under ``matrix`` (its first level to pixels), cut to ``window``: uint8 (H, W, 4), 0 where it is not."""
    level = face.level_for(float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))))
    step, (left, top, right, bottom) = 2**level, window
    # landmarks count pixel centres as whole numbers; a pixel of the level is the mean of step x step of the first
    first = np.array([[step, 0, (step - 1) / 2], [0, step, (step - 1) / 2], [0, 0, 1.0]])
    whole = matrix @ first - np.array([[0, 0, left], [0, 0, top]])
    return cv2.warpAffine(
        face.levels[level], whole, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    ).astype(np.uint8, copy=False)


def coloured(image: NDArray[np.uint8], tone: NDArray[np.float64]) -> Frame:
    """BGR of ``image`` (H, W, 4) with the gains of ``tone``, and as much of its colour as the last number says."""
    levels = np.arange(256, dtype=np.float64)[:, None] * tone[:3]
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(256, 1, 3)
    out = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), table)
    if tone[3] < 1:
        grey = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        out = cv2.addWeighted(out, float(tone[3]), grey, 1 - float(tone[3]), 0)
    return out.astype(np.uint8, copy=False).reshape(*image.shape[:2], 3)
