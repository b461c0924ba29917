"""Faces of known people with landmarks: aligned LFW crops and portraits, and how a method covers them."""

from __future__ import annotations

import csv
import hashlib
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import common
from recipes.assets import assets_folder
from recipes.portraits import portrait_rows
from runtime.errors import GenedgeError
from runtime.faces.align import similarity
from runtime.faces.types import Applied, Box, Cover, Landmarks, Method, TrackKeys
from runtime.frames import Frame

if TYPE_CHECKING:
    from runtime.faces.methods import Painter
    from runtime.sessions.base import Session

LFW, PORTRAITS = "faces/lfw_aligned_112", "faces/congress_pd"
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""(5, 2): where the landmarks are in an aligned crop of 112x112 pixels (ArcFace, https://github.com/deepinsight/insightface)."""
ALIGNED = 112  # pixels of a side of an aligned crop
FACE_IN_ALIGNED = Box(17.7, 9.1, 78.3, 111.6)  # median box of the 874 portraits' faces, brought to the template
MARGIN = 64  # pixels put around an aligned crop, so that there is something outside of the region
REGION = (1.6, 1.8)  # times the box: what is covered at least


@dataclass(frozen=True)
class Sample:
    """A picture of one ``person``, uint8 (H, W, 3) BGR, with the landmarks and the box of the face."""

    name: str
    person: str
    image: Frame
    landmarks: Landmarks
    box: Box

    def cover(self) -> Cover:
        """What the pipeline would cover at least, without a detector in between."""
        region = self.box.scaled(*REGION)
        return Cover(0, self.box, region, "detected", 1.0, self.landmarks, True)


def lfw(limit: int | None = None) -> list[Sample]:
    """Aligned LFW crops, the people in the order of the archive, with the border repeated around them."""
    path = assets_folder() / LFW / "images.tar"
    if not path.is_file():
        raise GenedgeError(common.missing(path))
    samples = []
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".jpg") else None
            if file is None:
                continue
            name = member.name.removeprefix("./")
            samples.append(aligned_sample(name, name.split("/")[0], _decoded(file.read(), name)))
            if limit and len(samples) >= limit:
                break
    return samples


def aligned_sample(name: str, person: str, crop: Frame) -> Sample:
    """A sample of an aligned crop, 112x112."""
    import cv2

    image = cv2.copyMakeBorder(crop, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REPLICATE)
    return Sample(name, person, np.asarray(image, np.uint8), TEMPLATE + MARGIN, FACE_IN_ALIGNED.moved(MARGIN, MARGIN))


def lfw_pairs() -> list[tuple[str, str, bool]]:
    """Names of two LFW crops, and whether they show one person."""
    with (assets_folder() / LFW / "pairs.csv").open(encoding="utf-8", newline="") as file:
        return [(row["a"], row["b"], row["same"] == "1") for row in csv.DictReader(file)]


def portraits(limit: int | None = None) -> list[Sample]:
    """Portraits of 874 people, one each; with ``limit`` so many, evenly from all."""
    folder = assets_folder() / PORTRAITS
    if not (folder / "faces.csv").is_file():
        raise GenedgeError(common.missing(folder))
    rows = portrait_rows(folder)
    rows = rows[:: max(1, len(rows) // limit)][:limit] if limit else rows
    samples = []
    for row in rows:
        image = _decoded(row.path.read_bytes(), row.file)
        samples.append(Sample(row.file, row.path.stem, image, row.landmarks.astype(np.float32), row.box))
    return samples


def _decoded(data: bytes, name: str) -> Frame:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise GenedgeError(f"{name} cannot be read as a picture")
    return np.asarray(image, np.uint8)


def aligned(image: Frame, landmarks: Landmarks) -> Frame:
    """(112, 112, 3): the face brought to the template by the similarity that fits all five landmarks best."""
    import cv2

    matrix = similarity(landmarks.astype(np.float64), TEMPLATE)
    scale = float(np.hypot(*matrix[:, 0]))
    if scale < 1:  # shrinks: without a blur first it would alias
        sigma = 0.5 * (1 / scale - 1)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.01, sigma)), np.uint8)
    warped = cv2.warpAffine(image, matrix, (ALIGNED, ALIGNED), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8)


def root_of(*parts: object) -> bytes:
    """32 bytes for the keys of one picture and passcode: a benchmark shall give the same again."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()


class FreshPainter:
    """Draws every face as the first of its track: nothing is smoothed between the pictures of different people.

    ``session``: of a face generator, which the caller closes.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def paint(self, original: Frame, target: Frame, cover: Cover, keys: TrackKeys) -> None:
        from runtime.faces.generator import GeneratorPainter

        GeneratorPainter(self.session).paint(original, target, cover, keys)


class MethodOf:
    """Makes the method ``name`` for the secrets of one recording. ``painter`` is what draws for ``generator``.

    Raises :class:`runtime.errors.UsageError` where the method is not here.
    """

    def __init__(self, name: str, painter: Painter | None = None) -> None:
        self.name, self.painter = name, painter
        self(root_of("probe")).close()

    @classmethod
    def called(cls, name: str, generator: Path | None, threads: int) -> MethodOf:
        """The method ``name``; ``generator``: the bundle that draws for the one of that name."""
        if name != "generator" or generator is None:
            return cls(name)
        from runtime.bundle import open_bundle
        from runtime.sessions import choose, open_session

        bundle = open_bundle(generator)
        return cls(name, FreshPainter(open_session(bundle, choose(bundle), threads=threads)))

    def __call__(self, root: bytes) -> Method:
        """``root``: 32 bytes that only one recording has."""
        from runtime.faces.methods import make_method
        from runtime.faces.passcode import RecordingKeys

        return make_method(self.name, keys=RecordingKeys(root), painter=self.painter)


def cover_samples(method_of: MethodOf, samples: Sequence[Sample], passcode: int = 0) -> list[Covered]:
    """Every sample covered, each as a recording of its own: the same passcode gives another face there."""
    covered = []
    for sample in samples:
        image = sample.image.copy()
        method = method_of(root_of(sample.name, passcode))
        applied = method.apply(image, [sample.cover()])
        method.close()
        covered.append(Covered(sample, image, applied[0]))
    return covered


@dataclass(frozen=True)
class Covered:
    """A sample afterwards."""

    sample: Sample
    image: Frame
    applied: Applied
