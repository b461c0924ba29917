"""An independent look for faces, thorough and slow, and their tracks.

None of the runtime's detector, tiles or pyramid is used: a mistake there must not hide itself here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recipes.assets import assets_folder
from runtime.errors import GenedgeError
from runtime.faces.types import Box, Face
from runtime.frames import Frame

WEIGHTS = "weights/yunet/yunet_n_dynamic.onnx"  # YuNet, https://github.com/ShiqiYu/libfacedetection.train
SCORE = 0.6  # least score of a face that counts
DOUBLE_BELOW = 1280  # frames narrower than this are also searched at twice their size
TILE, STEP = 1280, 960  # pixels of a tile of larger frames, and from one to the next: neighbours share a quarter
LONG_SIDES = (320, 640)  # of shrunk frames, where a face that fills the frame has a size that YuNet knows
STRIDES = (8, 16, 32)
SAME = 0.4  # intersection over union from which two hits are one face
LINK = 0.3  # intersection over union from which faces of two frames are one track
GAP = 5  # frames that a track may be unseen


class Patch(NamedTuple):
    """A part of a frame that the net sees: left, top, width, height in pixels, and the scale it is shown at."""

    x: int
    y: int
    width: int
    height: int
    scale: float
    flipped: bool


def patches_of(width: int, height: int) -> list[Patch]:
    """What is looked at in a frame of ``width`` x ``height`` pixels: each once as it is and once mirrored."""
    long = max(width, height)
    whole = [side / long for side in LONG_SIDES if side < long]
    if long < DOUBLE_BELOW:
        whole += [1.0, 2.0]
    else:
        whole.append(DOUBLE_BELOW / long)
    found = [(0, 0, width, height, scale) for scale in whole]
    if long > DOUBLE_BELOW:
        for y in _starts(height):
            for x in _starts(width):
                found.append((x, y, min(TILE, width - x), min(TILE, height - y), 1.0))
    return [Patch(*patch, flipped) for patch in found for flipped in (False, True)]


def _starts(length: int) -> list[int]:
    if length <= TILE:
        return [0]
    return [*range(0, length - TILE, STEP), length - TILE]


class ReferenceDetector:
    """YuNet in ONNX Runtime over many scales, tiles and the mirror image."""

    def __init__(self, weights: Path | None = None, *, score: float = SCORE, threads: int = 2) -> None:
        import onnxruntime

        path = weights or assets_folder() / WEIGHTS
        if not path.is_file():
            raise GenedgeError(f"{path.name} is not here: set GENEDGE_ASSETS")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._score = score

    def detect(self, image: Frame) -> list[Face]:
        """Faces of ``image``, uint8 (H, W, 3) BGR, best first, each once, with scores from the threshold to 1."""
        height, width = image.shape[:2]
        hits: list[Face] = []
        for patch in patches_of(width, height):
            hits += [face for face in self._look(image, patch) if not _cut_by_tile(face.box, patch, width, height)]
        return each_once(hits)

    def quick(self, image: Frame) -> list[Face]:
        """The same at the image's own size only: for crops whose face has a known, fitting size."""
        height, width = image.shape[:2]
        return each_once(self._look(image, Patch(0, 0, width, height, 1.0, False)))

    def _look(self, image: Frame, patch: Patch) -> list[Face]:
        import cv2

        part = image[patch.y : patch.y + patch.height, patch.x : patch.x + patch.width]
        if patch.scale != 1:
            size = max(1, round(patch.width * patch.scale)), max(1, round(patch.height * patch.scale))
            way = cv2.INTER_AREA if patch.scale < 1 else cv2.INTER_CUBIC
            part = np.asarray(cv2.resize(part, size, interpolation=way), np.uint8)
        shown = part[:, ::-1] if patch.flipped else part
        rows, columns = (-(-side // 32) * 32 for side in shown.shape[:2])
        padded = np.zeros((rows, columns, 3), np.float32)
        padded[: shown.shape[0], : shown.shape[1]] = shown
        outputs = self._session.run(None, {"input": padded.transpose(2, 0, 1)[None]})
        faces = decode(outputs, columns, self._score)
        return [_placed(face, patch, part.shape[1]) for face in faces]


def decode(outputs: Sequence[NDArray[Any]], columns: int, least: float) -> list[Face]:
    """Faces of YuNet's twelve outputs (cls, obj, bbox, kps, each at strides 8, 16, 32) for an input ``columns`` wide.

    As libfacedetection.train does it: score = sqrt(cls * obj), centre = (cell + offset) * stride, size = exp * stride.
    """
    faces: list[Face] = []
    for place, stride in enumerate(STRIDES):
        cls, obj, box, points = (np.asarray(outputs[kind * 3 + place][0], np.float64) for kind in range(4))
        scores = np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1))
        for index in np.flatnonzero(scores >= least):
            cell = np.array([index % (columns // stride), index // (columns // stride)])
            centre, size = (cell + box[index, :2]) * stride, np.exp(box[index, 2:]) * stride
            landmarks = ((points[index].reshape(5, 2) + cell) * stride).astype(np.float32)
            corner = centre - size / 2
            faces.append(Face(Box(*map(float, (*corner, *size))), float(scores[index]), landmarks))
    return faces


def _placed(face: Face, patch: Patch, shown: int) -> Face:
    """``face`` of a patch that was shown ``shown`` pixels wide, in the frame's pixels."""
    x, y, width, height = face.box
    landmarks = np.array(face.landmarks, np.float32)
    if patch.flipped:
        x = shown - x - width
        landmarks[:, 0] = shown - landmarks[:, 0]
        landmarks = landmarks[[1, 0, 2, 4, 3]]  # the mirror swaps the eyes and the corners of the mouth
    scale = patch.scale
    landmarks = landmarks / scale + np.array([patch.x, patch.y], np.float32)
    box = Box(x / scale + patch.x, y / scale + patch.y, width / scale, height / scale)
    return Face(box, face.score, landmarks.astype(np.float32))


def _cut_by_tile(box: Box, patch: Patch, width: int, height: int) -> bool:
    """Whether a border of the tile, which is none of the frame, cuts the face: the neighbour sees it whole."""
    left, top = box.x < patch.x + 2 and patch.x > 0, box.y < patch.y + 2 and patch.y > 0
    right = box.x + box.width > patch.x + patch.width - 2 and patch.x + patch.width < width
    bottom = box.y + box.height > patch.y + patch.height - 2 and patch.y + patch.height < height
    return left or top or right or bottom


def each_once(faces: Iterable[Face]) -> list[Face]:
    """Best first; a hit that is one with a better one is dropped."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(face.box.iou(other.box) < SAME for other in kept):
            kept.append(face)
    return kept


@dataclass
class FaceTrack:
    """One face over frames: ``faces`` by the index of the frame, ``unseen`` those between two sights, see
    :func:`between`."""

    faces: dict[int, Face]
    unseen: dict[int, Face] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return max(self.faces)


def link(frames: Sequence[Sequence[Face]], *, gap: int = GAP, least: float = LINK) -> list[FaceTrack]:
    """Tracks of the faces of consecutive frames: best overlap first, unseen for at most ``gap`` frames."""
    tracks: list[FaceTrack] = []
    for index, faces in enumerate(frames):
        living = [track for track in tracks if index - track.last <= gap + 1]
        pairs = sorted(
            ((track.faces[track.last].box.iou(face.box), t, f)
             for t, track in enumerate(living) for f, face in enumerate(faces)),
            reverse=True,
        )  # fmt: skip
        used_tracks: set[int] = set()
        used_faces: set[int] = set()
        for overlap, t, f in pairs:
            if overlap < least or t in used_tracks or f in used_faces:
                continue
            living[t].faces[index] = faces[f]
            used_tracks.add(t)
            used_faces.add(f)
        tracks += [FaceTrack({index: face}) for f, face in enumerate(faces) if f not in used_faces]
    return tracks


def between(tracks: Iterable[FaceTrack]) -> dict[int, list[Face]]:
    """Faces that no pass saw, between two sights of one track: interpolated, with score 0, by frame.

    A profile that turns away for some frames is what detectors lose and people recognise.
    """
    found: dict[int, list[Face]] = {}
    for track in tracks:
        seen = sorted(track.faces)
        for first, second in itertools.pairwise(seen):
            start, end = np.array(track.faces[first].box), np.array(track.faces[second].box)
            for index in range(first + 1, second):
                share = (index - first) / (second - first)
                box = Box(*map(float, start + (end - start) * share))
                track.unseen[index] = Face(box, 0.0)
                found.setdefault(index, []).append(track.unseen[index])
    return found
