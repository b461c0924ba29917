"""A picture and its covered copies in tests/data/covers, which the methods of Python and C++ both give.
``python tests/face_pictures.py`` writes them again, after a change that is meant.

``cases.json`` holds ``root``, 32 bytes in hexadecimal from which the keys of the tracks follow, and for every case
``{"method", "covers", "before"}``; a cover has ``track``, ``box``, ``region``, ``landmarks`` and ``sure``. A method
gets the inverted picture first where ``before`` is true, then the picture, and gives ``NAME.png``; ``applied`` is what
it says of each cover, as method and reason. The session of the generator is :class:`Inverting`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from runtime.codes import Code
from runtime.faces.generator import GeneratorPainter
from runtime.faces.methods import make_method
from runtime.faces.passcode import RecordingKeys
from runtime.faces.types import Box, Cover
from runtime.frames import Frame, Frames

FOLDER = Path(__file__).parent / "data" / "covers"
ROOT = bytes(range(32))


def picture() -> Frame:
    """uint8 (124, 180, 3): colours that change slowly, some edges, and a little texture."""
    y, x = np.mgrid[0:124, 0:180].astype(np.float64)
    planes = [110 + 60 * np.sin(x / 37 + channel) + 50 * np.cos(y / (29 + 7 * channel)) for channel in range(3)]
    image = np.clip(np.stack(planes, -1) + 6 * ((x // 3 + y // 3) % 2)[..., None], 0, 255).astype(np.uint8)
    image[70:92, 24:140] = (40, 90, 170)
    image[12:40, 104:108] = (230, 240, 250)
    return image


class Inverting:
    """In the place of a generator's session: the inverted crop, darker by 10 for each bit of the passcode that is on,
    with a white square of 3 pixels at every landmark."""

    def __init__(self) -> None:
        self.codes = {
            "landmarks": Code("vector", 10, (0.0,) * 10, -1.0, 1.0),
            "passcode": Code("bits", 4, (0.0,) * 4),
        }
        self._now: dict[str, Any] = {}

    def set_codes(self, values: dict[str, Any]) -> None:
        self._now = values

    def infer(self, frames: Frames) -> Frames:
        darker = np.uint8(10 * np.count_nonzero(self._now["passcode"]))
        crop = cv2.subtract(255 - frames[0], np.full_like(frames[0], darker))
        for x, y in (np.asarray(self._now["landmarks"]).reshape(5, 2) + 1) * 48:
            crop[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 255
        return np.asarray(crop, np.uint8)[None]

    def close(self) -> None:
        pass


def played(case: dict[str, Any], image: Frame) -> tuple[Frame, list[list[str]]]:
    """The covered picture, and method and reason for each cover."""
    session: Any = Inverting()
    painter = GeneratorPainter(session) if case["method"] == "generator" else None
    method = make_method(case["method"], keys=RecordingKeys(ROOT), painter=painter)
    covers = [_cover(cover) for cover in case["covers"]]
    if case["before"]:
        method.apply(255 - image, covers)
    applied = method.apply(image, covers)
    return image, [[each.method, each.reason] for each in applied]


def _cover(cover: dict[str, Any]) -> Cover:
    points = cover["landmarks"]
    landmarks = None if points is None else np.array(points, np.float32)
    return Cover(
        cover["track"], Box(*cover["box"]), Box(*cover["region"]), "detected", 0.9, landmarks, bool(cover["sure"])
    )


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and case, without what is expected."""
    together = [_face(0, 60, 60, 34), _face(1, 90, 64, 30), _face(2, 124, 92, 20)]
    border = [_face(3, 4, 12, 30), _face(4, 176, 118, 36), _face(5, -200, 30, 40), _face(6, 150, 30, 24)]
    for method in ("solid", "mosaic", "blur"):
        yield method, {"method": method, "covers": together + border, "before": False}
    many = [
        _face(0, 46, 42, 44),
        _face(1, 130, 46, 32, turned=0.4),
        _face(2, 30, 104, 26) | {"sure": False},
        _face(3, 168, 20, 16),
        _face(4, 150, 96, 36, narrow=0.2),
        _face(5, 90, 50, 30),
    ]
    for method in ("average", "generator"):
        yield method, {"method": method, "covers": many, "before": True}


def _face(track: int, x: float, y: float, width: float, *, turned: float = 0.0, narrow: float = 1.0) -> dict[str, Any]:
    """A face about (x, y), ``turned`` by radians, its landmarks ``narrow`` times as wide."""
    box = Box(x - width / 2, y - 0.625 * width, width, 1.25 * width)
    places = np.array([(-0.2, -0.1), (0.2, -0.1), (0.02, 0.1), (-0.15, 0.3), (0.15, 0.3)]) * (
        narrow * width,
        1.25 * width,
    )
    cosine, sine = np.cos(turned), np.sin(turned)
    points = places @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y)
    region = box.scaled(1.6, 1.8)
    return {
        "track": track,
        "box": [round(value, 3) for value in box],
        "region": [round(value, 3) for value in region],
        "landmarks": np.round(points, 3).tolist(),
        "sure": True,
    }


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(FOLDER / "picture.png"), picture())
    written = {}
    for name, case in cases():
        covered, applied = played(case, picture())
        cv2.imwrite(str(FOLDER / f"{name}.png"), covered)
        written[name] = case | {"applied": applied}
    rows = ",\n".join(f'  "{name}": {json.dumps(case)}' for name, case in written.items())
    (FOLDER / "cases.json").write_text(f'{{"root": "{ROOT.hex()}",\n"cases": {{\n{rows}\n}}}}\n')
