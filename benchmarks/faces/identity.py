"""Who a recogniser takes a face for, before and after: true-accept rates at a false-match rate of our own impostors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import common
from recipes.assets import assets_folder
from runtime.errors import GenedgeError
from runtime.frames import Frame

WEIGHTS = "weights/mobilefacenet/MobileFaceNet.onnx"
FALSE_MATCH = 1e-3
Embeddings = NDArray[np.float32]
"""(N, 128), each of length 1."""


class Embedder:
    """MobileFaceNet, 112x112 aligned crops to 128 numbers, see the test material's README."""

    def __init__(self, weights: Path | None = None, *, threads: int = 2) -> None:
        import onnxruntime

        path = weights or assets_folder() / WEIGHTS
        if not path.is_file():
            raise GenedgeError(common.missing(path))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, crops: Sequence[Frame]) -> Embeddings:
        """(N, 128) of N aligned crops, uint8 (112, 112, 3) BGR."""
        found = []
        for crop in crops:
            value = (crop[..., ::-1].astype(np.float32) - 127.5) / 128
            found.append(self._session.run(None, {self._input: value.transpose(2, 0, 1)[None]})[0][0])
        vectors = np.stack(found) if found else np.zeros((0, 128), np.float32)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


@dataclass(frozen=True)
class Threshold:
    """The cosine from which two faces are taken for one person; of ``impostors`` pairs of two people, ``rate`` pass."""

    cosine: float
    impostors: int
    rate: float


def impostor_cosines(vectors: Embeddings, people: Sequence[str]) -> NDArray[np.float32]:
    """Cosines of all pairs of two different people."""
    _, person = np.unique(np.array(people), return_inverse=True)
    first, second = np.triu_indices(len(vectors), 1)
    other = person[first] != person[second]
    return np.asarray((vectors @ vectors.T)[first[other], second[other]], np.float32)


def threshold_of(impostors: NDArray[np.float32], false_match: float = FALSE_MATCH) -> Threshold:
    """The least cosine that at most ``false_match`` of the impostors' pairs reach.

    Raises :class:`runtime.errors.GenedgeError` with too few pairs for such a rate: ten of them have to pass.
    """
    allowed = int(len(impostors) * false_match)
    if allowed < 10:
        raise GenedgeError(f"{len(impostors)} impostor pairs are too few for a false-match rate of {false_match:g}")
    ordered = np.sort(impostors)[::-1]
    cosine = float(np.nextafter(ordered[allowed], np.float32(2)))
    return Threshold(cosine, len(impostors), float((impostors >= cosine).mean()))


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``count``."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        return self.hits / self.count if self.count else float("nan")

    @property
    def upper(self) -> float:
        """Upper end of the 95 % Wilson interval: what the rate may be at worst, given so many samples."""
        if not self.count:
            return 1.0
        z, n, p = 1.96, self.count, self.value
        spread = math.sqrt((p * (1 - p) + z * z / (4 * n)) / n)
        return (p + z * z / (2 * n) + z * spread) / (1 + z * z / n)

    @property
    def words(self) -> str:
        return f"{100 * self.value:.1f} % of {self.count}" if self.count else "none"


def rate(values: NDArray[np.floating] | Sequence[float], least: float) -> Rate:
    """How many of ``values`` reach ``least``."""
    array = np.asarray(values, np.float64)
    return Rate(int((array >= least).sum()), array.size)


def accepted(first: Embeddings, second: Embeddings, threshold: Threshold) -> Rate:
    """Pairs, row by row, that pass as one person."""
    return rate((first * second).sum(1), threshold.cosine)


def parrot(known: Embeddings, known_people: Sequence[str], asked: Embeddings, asked_people: Sequence[str]) -> Rate:
    """Rank-1 of a classifier that has learnt covered faces: the nearest centroid of a person's ``known`` embeddings.

    The parrot attack (Newton, Sweeney, Malin 2005): the attacker covers pictures of known people in the same way.
    """
    people = sorted(set(known_people))
    labels = np.array(known_people)
    centroids = np.stack([known[labels == person].mean(0) for person in people])
    centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-9)
    best = (asked @ centroids.T).argmax(1)
    return Rate(sum(people[b] == person for b, person in zip(best, asked_people, strict=True)), len(asked_people))
