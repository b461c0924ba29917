"""What is left of a face that others need: that it is found, where its landmarks are, that it is steady over time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.faces.identity import Embedder, Embeddings, Rate, Threshold
from benchmarks.faces.people import Covered, aligned
from benchmarks.faces.reference import FaceTrack, ReferenceDetector
from runtime.faces.types import Box, Face, Landmarks
from runtime.frames import Frame

OVERLAP = 0.3  # intersection over union from which a hit is the face that was there before
SMALLEST = 40  # pixels of width of a face in a clip that is recognised, or whose landmarks are compared
CERTAIN = 0.8  # median score of a track that is certainly a face: hands give passing hits, and hands are alike


@dataclass(frozen=True)
class Found:
    """Detection after covering: ``again`` of the faces found before, and the landmarks' errors of these, each the mean
    distance of the five points as a share of the distance of the eyes before."""

    again: Rate
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        return float(np.mean(self.errors)) if self.errors else float("nan")


def found_after(detector: ReferenceDetector, covered: Sequence[Covered]) -> Found:
    """Over samples that the detector finds before covering."""
    hits, count, errors = 0, 0, []
    for item in covered:
        before = best(detector.quick(item.sample.image), item.sample.box)
        if before is None:
            continue
        count += 1
        after = best(detector.quick(item.image), before.box)
        if after is not None:
            hits += 1
            errors.append(landmark_error(before, after))
    return Found(Rate(hits, count), tuple(errors))


def best(faces: Sequence[Face], box: Box) -> Face | None:
    """The best hit on ``box``."""
    return next((face for face in faces if face.box.iou(box) >= OVERLAP), None)


def landmark_error(before: Face, after: Face) -> float:
    """Mean distance of the five landmarks over the distance of the eyes before."""
    first, second = np.asarray(before.landmarks, np.float64), np.asarray(after.landmarks, np.float64)
    eyes = max(1e-6, float(np.linalg.norm(first[0] - first[1])))
    return float(np.linalg.norm(first - second, axis=1).mean() / eyes)


def diversity(versions: Sequence[Embeddings], threshold: Threshold) -> Rate:
    """Of all pairs of passcodes, for every face: those whose covered faces are taken for two people."""
    hits = count = 0
    for first in range(len(versions)):
        for second in range(first + 1, len(versions)):
            cosines = (versions[first] * versions[second]).sum(1)
            hits += int((cosines < threshold.cosine).sum())
            count += len(cosines)
    return Rate(hits, count)


def changes(frames: Sequence[Frame], tracks: Sequence[FaceTrack]) -> tuple[float, int]:
    """Mean |dI/dt| in 8-bit steps inside the faces' boxes, over ``count`` pairs of consecutive frames of a track."""
    values = []
    for track in tracks:
        for index in sorted(track.faces):
            if index + 1 not in track.faces:
                continue
            part = window(track.faces[index].box.union(track.faces[index + 1].box), frames[index])
            first, second = (frames[i][part].astype(np.float32) for i in (index, index + 1))
            if first.size:
                values.append(float(np.abs(first - second).mean()))
    return (float(np.mean(values)) if values else float("nan")), len(values)


def window(box: Box, frame: Frame) -> tuple[slice, slice]:
    """The pixels of ``box`` in ``frame``."""
    height, width = frame.shape[:2]
    left, top = (max(0, int(np.floor(value))) for value in (box.x, box.y))
    right, bottom = min(width, int(np.ceil(box.x + box.width))), min(height, int(np.ceil(box.y + box.height)))
    return slice(top, max(top, bottom)), slice(left, max(left, right))


@dataclass(frozen=True)
class Steadiness:
    """Whether one track keeps one face. ``cosine``: mean of consecutive covered frames, over ``pairs`` of them;
    ``one``: frames whose face is taken for that of the track's mean."""

    cosine: float
    pairs: int
    one: Rate


@dataclass(frozen=True)
class ClipIdentity:
    """Recognition in a clip: ``self_pairs``: a face before and after in the same frame, taken for one person."""

    self_pairs: Rate
    steadiness: Steadiness


def clip_identity(
    originals: Sequence[Frame],
    covered: Sequence[Frame],
    tracks: Sequence[FaceTrack],
    embedder: Embedder,
    threshold: Threshold,
) -> ClipIdentity:
    """Both measures, at the landmarks that the original has, over faces of at least 40 pixels."""
    hits = count = pairs = ones = members = 0
    cosines: list[float] = []
    for track in tracks:
        large = [i for i in sorted(track.faces) if usable(track.faces[i])]
        if not large:
            continue
        points: list[Landmarks] = [np.asarray(track.faces[i].landmarks, np.float32) for i in large]
        before = embedder([aligned(originals[i], mark) for i, mark in zip(large, points, strict=True)])
        after = embedder([aligned(covered[i], mark) for i, mark in zip(large, points, strict=True)])
        hits += int(((before * after).sum(1) >= threshold.cosine).sum())
        count += len(large)
        following = np.array([second - first == 1 for first, second in itertools.pairwise(large)], bool)
        cosines += list((after[:-1] * after[1:]).sum(1)[following])
        pairs += int(following.sum())
        centre: NDArray[np.float32] = after.mean(0)
        ones += int((after @ (centre / np.linalg.norm(centre)) >= threshold.cosine).sum())
        members += len(large)
    mean = float(np.mean(cosines)) if cosines else float("nan")
    return ClipIdentity(Rate(hits, count), Steadiness(mean, pairs, Rate(ones, members)))


def certain(tracks: Sequence[FaceTrack]) -> list[FaceTrack]:
    """Tracks of at least three sights whose median score is that of a face seen well."""
    return [
        track
        for track in tracks
        if len(track.faces) >= 3 and np.median([face.score for face in track.faces.values()]) >= CERTAIN
    ]


def usable(face: Face) -> bool:
    return face.landmarks is not None and face.box.width >= SMALLEST


def clip_found_after(
    detector: ReferenceDetector, covered: Sequence[Frame], tracks: Sequence[FaceTrack], every: int = 5
) -> Found:
    """Detection after covering on every ``every``-th frame of a clip, over faces of at least 40 pixels."""
    hits, count, errors = 0, 0, []
    for index in range(0, len(covered), every):
        faces = [track.faces[index] for track in tracks if index in track.faces and usable(track.faces[index])]
        found = detector.detect(covered[index]) if faces else []
        for face in faces:
            count += 1
            after = best(found, face.box)
            if after is not None:
                hits += 1
                errors.append(landmark_error(face, after))
    return Found(Rate(hits, count), tuple(errors))
