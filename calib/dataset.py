"""Frames to measure a generator with: the user's own photos, or photos that come with scikit-image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from runtime.errors import MissingExtraError, UsageError
from runtime.frames import Frame

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BUILT_IN = ("astronaut", "coffee", "chelsea", "rocket")  # NASA public domain, and CC0


@dataclass(frozen=True)
class CalibrationSet:
    """Named frames, ``uint8 (H, W, 3) BGR``, of any size."""

    frames: tuple[Frame, ...]
    names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def built_in(cls) -> CalibrationSet:
        """Photos from scikit-image's package; raises :class:`MissingExtraError` without it."""
        try:
            from skimage import data
        except ImportError:
            raise MissingExtraError("scikit-image", "export") from None
        frames = tuple(np.ascontiguousarray(getattr(data, name)()[..., ::-1]) for name in BUILT_IN)
        return cls(frames, BUILT_IN, "scikit-image photos")

    @classmethod
    def from_paths(cls, paths: Sequence[Path]) -> CalibrationSet:
        """Read pictures and folders of pictures. Raises :class:`UsageError` for what is no picture."""
        files = [file for path in paths for file in _pictures(path)]
        if not files:
            raise UsageError("no pictures were named")
        frames = []
        for file in files:
            try:
                image = cv2.imdecode(np.fromfile(file, dtype=np.uint8), cv2.IMREAD_COLOR)
            except cv2.error:  # no bytes at all, or more pixels than OpenCV reads
                image = None
            if image is None:
                raise UsageError(f"{file}: not a picture that OpenCV can read")
            frames.append(np.asarray(image, dtype=np.uint8))
        return cls(tuple(frames), tuple(file.stem for file in files), ", ".join(str(path) for path in paths))

    def crops(self, height: int, width: int, count: int) -> Iterator[Frame]:
        """``count`` crops of exactly ``height x width``, each the most detailed of its frame's corners and centre.

        A frame that is smaller than the crop is enlarged first. Frames are taken in turn; the second
        turn takes the second-best place, and so on, so the crops differ.
        """
        for index in range(count):
            frame = self.frames[index % len(self.frames)]
            factor = max(height / frame.shape[0], width / frame.shape[1], 1.0)
            if factor > 1:
                size = (max(width, round(frame.shape[1] * factor)), max(height, round(frame.shape[0] * factor)))
                frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
            bottom, right = frame.shape[0] - height, frame.shape[1] - width
            places = {(y, x) for y in (0, bottom // 2, bottom) for x in (0, right // 2, right)}
            pieces = [frame[y : y + height, x : x + width] for y, x in sorted(places)]
            pieces.sort(key=lambda piece: -float(cv2.Laplacian(piece, cv2.CV_32F).std()))
            yield np.ascontiguousarray(pieces[(index // len(self.frames)) % len(pieces)])


def _pictures(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file())
        if not found:
            raise UsageError(f"{path}: holds no picture ({', '.join(PICTURE_SUFFIXES)})")
        return found
    if not path.is_file():
        raise UsageError(f"{path}: no such picture or folder")
    return [path]
