"""Types and rules about frames that every part shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3) BGR
Frames = NDArray[np.uint8]  # (N, H, W, 3) BGR


@dataclass(frozen=True)
class SizeRule:
    """Which frame sizes a generator takes: at least ``minimum`` pixels a side, a multiple of ``multiple``."""

    minimum: int = 1
    multiple: int = 1

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Smallest allowed (height, width) that holds a frame of ``height x width`` pixels."""

        def side(value: int) -> int:
            value = max(value, self.minimum)
            return -(-value // self.multiple) * self.multiple

        return side(height), side(width)

    def allows(self, height: int, width: int) -> bool:
        return self.padded(height, width) == (height, width)
