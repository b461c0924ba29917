"""Finding a face again by its picture, where the detector has missed it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.faces.types import Box
from runtime.frames import Frame

SMALL_WIDTH = 320  # pixels of the grey copies that faces are matched in
ALIKE = 0.6  # normalised correlation from which a match is believed
LEAST_PATCH = 6  # pixels: less shows nothing that can be found again
MOST_PATCH = 28  # pixels: larger faces are matched in a copy of half the size, and so on
LEAST_CONTRAST = 2.0  # standard deviation in 8-bit steps: a flat patch is found everywhere
SEARCH = 2.4  # sides of the search window over those of the box

Grey = NDArray[np.uint8]


class SmallFrame:
    """A grey copy of a frame, at most SMALL_WIDTH pixels wide, in which a face can be found again."""

    def __init__(self, image: Frame) -> None:
        height, width = image.shape[:2]
        self._factor = min(1.0, SMALL_WIDTH / max(width, height))
        size = max(1, round(width * self._factor)), max(1, round(height * self._factor))
        small = image if self._factor == 1.0 else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        self._levels: list[Grey] = [np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)]

    @property
    def size(self) -> int:
        """Pixels that are kept."""
        return sum(level.size for level in self._levels)

    def level(self, number: int) -> Grey:
        """The copy, halved ``number`` times."""
        while len(self._levels) <= number:
            last = self._levels[-1]
            half = max(1, last.shape[1] // 2), max(1, last.shape[0] // 2)
            self._levels.append(np.asarray(cv2.resize(last, half, interpolation=cv2.INTER_AREA), np.uint8))
        return self._levels[number]

    def locate(self, box: Box, other: SmallFrame, around: Box) -> tuple[Box, float] | None:
        """Where what ``box`` shows in this frame is in ``other``, searched near ``around``, and how alike, 0 to 1.

        None where it is less than ALIKE, or where there is too little to compare.
        """
        if other.level(0).shape != self.level(0).shape:
            return None
        number, factor = 0, self._factor
        while number < 4 and max(box.width, box.height) * factor > MOST_PATCH:
            number, factor = number + 1, factor / 2
        patch, left, top = _cut(self.level(number), box, factor)
        window, at_x, at_y = _cut(other.level(number), around.scaled(SEARCH), factor)
        if min(patch.shape) < LEAST_PATCH or patch.shape[0] > window.shape[0] or patch.shape[1] > window.shape[1]:
            return None
        if float(cv2.meanStdDev(patch)[1][0, 0]) < LEAST_CONTRAST:
            return None
        alike = cv2.matchTemplate(window, patch, cv2.TM_CCOEFF_NORMED)
        _, best, _, place = cv2.minMaxLoc(alike)
        if not ALIKE <= best <= 1.001:  # also what is no number
            return None
        return box.moved((at_x + place[0] - left) / factor, (at_y + place[1] - top) / factor), float(min(1.0, best))


def _cut(grey: Grey, box: Box, factor: float) -> tuple[Grey, int, int]:
    """The part of ``grey`` in ``box``, which is in pixels of the full frame, and its left and top edge."""
    height, width = grey.shape
    left, top = min(width, max(0, round(box.x * factor))), min(height, max(0, round(box.y * factor)))
    right = min(width, max(left, round((box.x + box.width) * factor)))
    bottom = min(height, max(top, round((box.y + box.height) * factor)))
    return grey[top:bottom, left:right], left, top
