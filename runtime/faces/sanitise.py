"""What a face generator gets to see of a face: its surroundings, 8 x 8 mean colours, and five softened landmarks.

    image, landmarks -> aligned crop -> thumbnail + noise of the track -> sanitised crop -> generator -> painted back

A sanitised crop is a function of three things only: the pixels outside of :data:`ERASED`, the 64 mean colours of the
cells inside of it, and the noise. Two faces that agree in these give the very same crop, so no network behind it, and
nobody who attacks that network, can learn more about the face (data-processing inequality).

Faces are aligned by a similarity to the ArcFace template (Deng et al., CVPR 2019) made smaller by :data:`WIDE`, so that
forehead and chin are in the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import GenedgeError
from runtime.faces.align import Affine, similarity
from runtime.faces.types import Landmarks
from runtime.frames import Frame

SIDE = 96
"""Pixels of a crop, across and down."""

WIDE = 0.75
"""Size of the face in the crop; 1 is that of face recognition."""

CELLS = 8
"""Cells of the thumbnail, across and down."""

ERASED = (slice(8, 88), slice(24, 72))
"""Rows and columns of the crop that are erased: a whole number of pixels for each cell, 10 x 6."""

KEPT = 0.6
"""Share of a landmark's distance from the template that is kept: the shape of a face says who it is."""

NOISE = 4.0
"""Standard deviation of the thumbnail's noise, in grey levels."""

_RECOGNITION = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)

TEMPLATE: Landmarks = ((_RECOGNITION - 55.5) * (WIDE * SIDE / 112) + (SIDE - 1) / 2).astype(np.float32)
"""(5, 2): where the landmarks of an aligned face are, in pixels of the crop."""

Thumbnail = NDArray[np.float32]
"""(8, 8, 3): mean colours BGR 0..255 of the cells of :data:`ERASED`, before noise."""


@dataclass(frozen=True)
class SanitisedFace:
    """What goes into the generator, and where the result belongs.

    ``frame``: uint8 (SIDE, SIDE, 3) BGR. ``landmarks``: float32 (10,), x and y of the five landmarks, -1..1 from one
    edge of the crop to the other. ``matrix`` maps pixels of the image to pixels of the crop.
    """

    frame: Frame
    landmarks: NDArray[np.float32]
    matrix: Affine


class FaceSanitiser:
    """Makes sanitised crops. Has no state; what is smoothed in time is smoothed by the caller.

    Args:
        kept: share of the landmarks' own shape, 0 (all faces have that of the template) to 1.
        noise: standard deviation of the thumbnail's noise in grey levels.
    """

    def __init__(self, kept: float = KEPT, noise: float = NOISE) -> None:
        self.kept, self.noise = kept, noise

    def __call__(
        self,
        original: Frame,
        surroundings: Frame,
        landmarks: Landmarks,
        seed: int,
        *,
        thumbnail: Thumbnail | None = None,
    ) -> SanitisedFace:
        """Sanitise one face.

        Args:
            original: uint8 (H, W, 3) BGR, read for the thumbnail only.
            surroundings: the same picture with the region of the face already replaced; may be ``original``, whose
                pixels outside of :data:`ERASED` are then seen by the generator as they are.
            landmarks: (5, 2) in pixels of both.
            seed: of the noise; the same for all frames of a track, and secret.
            thumbnail: taken instead of that of ``original``, such as a mean over frames.

        Raises:
            GenedgeError: for landmarks that are not finite, or fall together.
        """
        matrix = matrix_for(landmarks)
        if thumbnail is None:
            thumbnail = thumbnail_of(aligned(original, matrix))
        frame = erased(aligned(surroundings, matrix), thumbnail + fixed_noise(seed, self.noise))
        return SanitisedFace(frame, self.shape_of(landmarks, matrix), matrix)

    def shape_of(self, landmarks: Landmarks, matrix: Affine) -> NDArray[np.float32]:
        """(10,) of -1..1: ``landmarks`` of the image in the crop, drawn towards the template."""
        placed = landmarks.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
        return normalised(TEMPLATE + self.kept * (placed - TEMPLATE))


def matrix_for(landmarks: Landmarks) -> Affine:
    """The similarity from pixels of the image to those of the crop."""
    if landmarks.shape != (5, 2) or not np.isfinite(landmarks).all() or np.ptp(landmarks, axis=0).max() < 1:
        raise GenedgeError("a face cannot be aligned: its landmarks fall together or are not finite")
    return similarity(landmarks, TEMPLATE)


def aligned(image: Frame, matrix: Affine) -> Frame:
    """The crop of ``image`` (H, W, 3): uint8 (SIDE, SIDE, 3); beyond the border its edge pixels are repeated.

    A face larger than the crop is first made smaller by whole pixels, so that every pixel of it counts.
    """
    step = int(1 / max(1e-6, float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))))
    height, width = image.shape[:2]
    if step > 1 and min(height, width) >= step:
        size = (width // step, height // step)
        factor = np.array([width / size[0], height / size[1]])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        # pixel centres: x = factor * (x_small + 1/2) - 1/2
        shift = matrix[:, :2] @ ((factor - 1) / 2) + matrix[:, 2]
        matrix = np.column_stack([matrix[:, :2] * factor, shift])
    crop = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return crop.astype(np.uint8, copy=False)


def thumbnail_of(crop: Frame) -> Thumbnail:
    """The mean colours of the cells of ``crop``."""
    inside = crop[ERASED]
    height, width = inside.shape[0] // CELLS, inside.shape[1] // CELLS
    cells = inside.reshape(CELLS, height, CELLS, width, 3).astype(np.float32)
    means: Thumbnail = cells.mean((1, 3), dtype=np.float64).astype(np.float32)
    return means


def erased(crop: Frame, thumbnail: Thumbnail) -> Frame:
    """``crop`` with flat cells of the colours of ``thumbnail`` (rounded) in :data:`ERASED`.

    Cells and no smooth picture: the network takes their means again, which gives exactly the thumbnail, and enlarges it
    itself. So a crop that nobody has sanitised tells it nothing more either.
    """
    out = crop.copy()
    height, width = crop[ERASED].shape[0] // CELLS, crop[ERASED].shape[1] // CELLS
    colours = np.clip(np.rint(thumbnail), 0, 255).astype(np.uint8)
    out[ERASED] = colours.repeat(height, 0).repeat(width, 1)
    return out


def fixed_noise(seed: int, deviation: float = NOISE) -> Thumbnail:
    """Noise for a thumbnail that is the same whenever ``seed`` is: new noise in every frame would average out."""
    random = np.random.Generator(np.random.PCG64(seed))
    return (deviation * random.standard_normal((CELLS, CELLS, 3))).astype(np.float32)


def normalised(points: NDArray[np.floating]) -> NDArray[np.float32]:
    """(5, 2) pixels of the crop to (10,) of -1..1."""
    scaled = (points.astype(np.float64) + 0.5) * (2 / SIDE) - 1
    return np.clip(scaled, -1, 1).astype(np.float32).reshape(10)


@cache
def hull() -> NDArray[np.uint8]:
    """(SIDE, SIDE): how much of the generator's face is shown, 255 from forehead to chin and ear to ear; 0 outside of
    :data:`ERASED`, with a soft edge."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    rows, columns = ERASED
    middle = rows.start + 0.5 * (rows.stop - rows.start) - 0.5
    across = np.abs(x - (columns.start + columns.stop - 1) / 2) / ((columns.stop - columns.start) / 2)
    down = np.abs(y - middle) / ((rows.stop - rows.start) / 2)
    far = (across**2.2 + down**2.2) ** (1 / 2.2)
    soft = np.clip((1 - far) / 0.2, 0, 1)
    shown: NDArray[np.uint8] = np.rint(255 * soft * soft * (3 - 2 * soft)).astype(np.uint8)
    shown.setflags(write=False)
    return shown


def put_back(face: Frame, matrix: Affine, image: Frame) -> None:
    """Draw ``face``, uint8 (SIDE, SIDE, 3), into ``image`` (H, W, 3) in place, where :func:`hull` shows it."""
    height, width = image.shape[:2]
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [0, SIDE, 1], [SIDE, SIDE, 1]]) @ back.T
    left, top = (int(max(0, value)) for value in np.floor(corners.min(0)) - 1)
    right, bottom = (
        int(min(width, np.ceil(corners[:, 0].max()) + 2)),
        int(min(height, np.ceil(corners[:, 1].max()) + 2)),
    )
    if right <= left or bottom <= top:
        return
    back = back - np.array([[0, 0, left], [0, 0, top]])
    size = (right - left, bottom - top)
    # a face larger than the crop looks blocky at its edges with bilinear weights alone
    warped = cv2.warpAffine(face, back, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(hull(), back, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    weight = (alpha.astype(np.float32) / np.float32(255))[..., None]
    part = image[top:bottom, left:right]
    part[:] = np.rint(part + weight * (warped.astype(np.float32) - part)).astype(np.uint8)
