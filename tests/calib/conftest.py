"""Clips of real photos for the calibration tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from calib.dataset import CalibrationSet
from runtime.frames import Frame


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """Encode frames, ``uint8 (H, W, 3) BGR`` of one size with even sides, at 25 a second; returns the clip's path."""

    def write(frames: Sequence[Frame], name: str = "clip.mp4", crf: int = 12) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as out:
            stream: Any = out.add_stream("libx264", rate=25)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf), "preset": "ultrafast"}
            for index, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def photos() -> tuple[Frame, ...]:
    """Four real photos of at least 300x400 pixels."""
    return tuple(CalibrationSet.built_in().frames)


@pytest.fixture(scope="session")
def pan() -> Callable[..., list[Frame]]:
    """A camera that moves over a photo: ``count`` frames of ``height x width``, ``step`` pixels apart."""

    def frames(photo: Frame, count: int, height: int = 96, width: int = 128, step: int = 6) -> list[Frame]:
        return [
            photo[100 : 100 + height, 20 + step * index : 20 + step * index + width].copy() for index in range(count)
        ]

    return frames
