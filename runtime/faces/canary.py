"""A face that is known to be there: while the engines do not find it, nothing that they say is believed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces.bank import average_faces
from runtime.faces.types import Box, FaceDetector
from runtime.frames import Frame

SIDE = 128  # pixels of the face's height, where the frame is large enough
ENOUGH = 0.5  # score


class Canary:
    """A picture of one face, uint8 (H, W, 4): BGR and how much of it is shown."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        self._picture = picture
        self._frames: dict[tuple[int, int], tuple[Frame, Box]] = {}

    def check(self, detector: FaceDetector, height: int, width: int) -> bool:
        """Whether ``detector`` finds the face in a frame of ``height`` x ``width`` pixels.

        The face must be seen, so nothing is released of frames that are too small for one: YuNet sees it from 12x12
        pixels on and the own detector from 14x14 (measured), and both in strips of 24 pixels or more, 640 to 3840 long.
        """
        return self.score(detector, height, width) >= ENOUGH

    def score(self, detector: FaceDetector, height: int, width: int) -> float:
        """The score, 0 to 1, that ``detector`` gives the face in a grey frame of ``height`` x ``width`` pixels, so by
        the same engines as the frames of that size; 0 where it does not find it."""
        if (height, width) not in self._frames:
            self._frames = {(height, width): self._frame(height, width)}
        frame, box = self._frames[height, width]
        return max((face.score for face in detector.detect(frame) if face.box.iou(box) > 0.2), default=0.0)

    def _frame(self, height: int, width: int) -> tuple[Frame, Box]:
        # at the size at which the whole frame is searched, a face of SIDE pixels
        tall = min(SIDE * max(1.0, max(height, width) / 640), 0.9 * height, 0.9 * width)
        factor = tall / self._picture.shape[0]
        size = max(1, round(self._picture.shape[1] * factor)), max(1, round(tall))
        small = np.asarray(cv2.resize(self._picture, size, interpolation=cv2.INTER_AREA), np.float32)
        frame = np.full((height, width, 3), 128, np.uint8)
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        alpha = small[..., 3:] / 255
        place = frame[top : top + size[1], left : left + size[0]]
        place[:] = np.clip(alpha * small[..., :3] + (1 - alpha) * place, 0, 255).astype(np.uint8)
        return frame, Box(float(left), float(top), float(size[0]), float(size[1]))


def bank_canary() -> Canary:
    """With the first face of the bank of average faces."""
    return Canary(average_faces()[0].levels[0])
