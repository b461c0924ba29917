"""Measure a bundle of ``face-deid``: who is still recognised, what stays useful, and whether codes and time behave.

    python -m recipes.face_deid_evaluation bundles/face-deid --run runs/face-deid --out runs/face-deid/figures.json

Faces are covered by the method ``generator`` as the product does it: region, filled surroundings, thumbnail, bundle.
Two recognisers judge. MobileFaceNet also took part in the training, so what it says of the generator is flattering.
The ResNet of dlib (King, 2017; packages ``dlib-bin`` and ``face_recognition_models``) did not; without these packages
say ``--judge mobilefacenet``. The file ``--out`` is completed where it is there. Thresholds are those at which one in a
thousand pairs of two different people in LFW passes.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.faces import utility
from benchmarks.faces.clips import frames_of
from benchmarks.faces.crops import KNOWN_CODES, parrot_people, parrot_rate, through
from benchmarks.faces.identity import Embedder, threshold_of
from benchmarks.faces.people import (
    Covered,
    FreshPainter,
    MethodOf,
    Sample,
    aligned,
    cover_samples,
    lfw,
    lfw_pairs,
    portraits,
    root_of,
)
from benchmarks.faces.reference import ReferenceDetector
from recipes.assets import assets_folder
from runtime.bundle import open_bundle
from runtime.faces import sanitise
from runtime.faces.detect import open_detector
from runtime.faces.generator import GeneratorPainter
from runtime.faces.methods import make_method
from runtime.faces.passcode import RecordingKeys
from runtime.faces.types import Cover, FaceDetector
from runtime.frames import Frame
from runtime.sessions import choose, open_session
from runtime.sessions.base import Session

CLIP = "video/asl_again.mkv"
FRAMES = 120
DIVERSE, CODES = 60, 6
Vectors = NDArray[np.float32]


class Judge(Protocol):
    """Embeds faces; the likeness of two is their scalar product, or minus their distance."""

    name: str
    distance: bool

    def embed(self, samples: Sequence[Sample], images: Sequence[Frame]) -> Vectors: ...


class MobileFaceNet:
    name, distance = "MobileFaceNet (in training)", False

    def __init__(self) -> None:
        self._embedder = Embedder(threads=1)

    def embed(self, samples: Sequence[Sample], images: Sequence[Frame]) -> Vectors:
        crops = [aligned(image, sample.landmarks) for sample, image in zip(samples, images, strict=True)]
        return self._embedder(crops)


class DlibResNet:
    """Looks where the face was before: the attacker knows the place. ImportError without the packages."""

    name, distance = "dlib ResNet (not in training)", True

    def __init__(self) -> None:
        import dlib

        package = importlib.util.find_spec("face_recognition_models")  # importing it needs an old setuptools
        if package is None or package.origin is None:
            raise ImportError("No module named 'face_recognition_models'")
        folder = Path(package.origin).parent / "models"
        self._dlib = dlib
        self._shape = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
        self._net = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def embed(self, samples: Sequence[Sample], images: Sequence[Frame]) -> Vectors:
        chips = []
        for sample, image in zip(samples, images, strict=True):
            x, y = sample.box.center
            half = sample.box.width * 0.55
            y += 0.08 * sample.box.height  # dlib's detector gives squares from the brows to the chin
            square = self._dlib.rectangle(*(round(value) for value in (x - half, y - half, x + half, y + half)))
            shape = self._shape(np.ascontiguousarray(sample.image[..., ::-1]), square)
            chips.append(self._dlib.get_face_chip(np.ascontiguousarray(image[..., ::-1]), shape, 150, 0.25))
        found = [np.asarray(self._net.compute_face_descriptor(chip), np.float32) for chip in chips]
        return np.stack(found)


def likeness(judge: Judge, first: Vectors, second: Vectors) -> NDArray[np.float32]:
    """Row by row."""
    if judge.distance:
        return -np.linalg.norm(first - second, axis=1).astype(np.float32)
    return (first * second).sum(1)


def all_likenesses(judge: Judge, first: Vectors, second: Vectors) -> NDArray[np.float32]:
    """(N, M)."""
    if judge.distance:
        square = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2 * first @ second.T
        return -np.sqrt(np.maximum(square, 0)).astype(np.float32)
    return first @ second.T


@dataclass
class Material:
    """LFW, the held-out portraits, and genuine pairs of LFW as places in it."""

    lfw: list[Sample]
    portraits: list[Sample]
    pairs: NDArray[np.int64]
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, apart: Sequence[str]) -> Material:
        samples = lfw()
        place = {sample.name: index for index, sample in enumerate(samples)}
        pairs = [(place[a], place[b]) for a, b, same in lfw_pairs() if same and a in place and b in place]
        chosen = set(apart)
        return cls(samples, [s for s in portraits() if s.name in chosen], np.array(pairs))


def judged(
    judge: Judge, material: Material, versions: dict[str, tuple[list[Covered], list[Covered]]]
) -> dict[str, Any]:
    """Re-identification by ``judge``, for every version of the covered LFW and portraits."""
    plain = judge.embed(material.lfw, [sample.image for sample in material.lfw])
    faces = judge.embed(material.portraits, [sample.image for sample in material.portraits])
    people = np.array([sample.person for sample in material.lfw])
    first, second = np.triu_indices(len(plain), 1)
    other = people[first] != people[second]
    impostors = all_likenesses(judge, plain, plain)[first[other], second[other]]
    threshold = threshold_of(impostors).cosine
    one, two = material.pairs.T
    rows: dict[str, Any] = {"threshold": threshold, "impostor pairs": len(impostors)}
    rows["original and original"] = {"pairs": float((likeness(judge, plain[one], plain[two]) >= threshold).mean())}
    several = [index for index in range(len(people)) if (people == people[index]).sum() > 1]
    for name, (covered_lfw, covered_faces) in versions.items():
        hidden = judge.embed(material.lfw, [item.image for item in covered_lfw])
        hidden_faces = judge.embed(material.portraits, [item.image for item in covered_faces])
        both = np.concatenate([likeness(judge, plain[one], hidden[two]), likeness(judge, plain[two], hidden[one])])
        scores = all_likenesses(judge, hidden[several], plain)
        scores[np.arange(len(several)), several] = -np.inf  # the very picture is not in the gallery
        rank = people[scores.argmax(1)] == people[several]
        rows[name] = {
            "pairs": float((both >= threshold).mean()),
            "same picture, LFW": float((likeness(judge, plain, hidden) >= threshold).mean()),
            "same picture, portraits": float((likeness(judge, faces, hidden_faces) >= threshold).mean()),
            "rank 1": float(rank.mean()),
            "mean likeness, portraits": float(likeness(judge, faces, hidden_faces).mean()),
        }
    return rows


def thumbnail_attack(judge: Judge, material: Material, known: Sequence[Sample]) -> dict[str, float]:
    """What an attacker gets out of the network's inputs alone: a ridge regression from thumbnail and landmarks to the
    embedding, learnt from the training people's portraits, tried on LFW. No attack on the network's output that is
    learnt in this way from more can be ruled out by it, but none can know more than these inputs."""
    causes = np.stack([inputs_of(sample) for sample in (*known, *material.lfw)])
    middle, spread = causes[: len(known)].mean(0), causes[: len(known)].std(0) + 1e-6
    causes = np.column_stack([(causes - middle) / spread, np.ones(len(causes))])
    goal = judge.embed(known, [sample.image for sample in known])
    taught, asked = causes[: len(known)], causes[len(known) :]
    weights = np.linalg.solve(taught.T @ taught + 200 * np.eye(causes.shape[1]), taught.T @ goal)
    guessed = (asked @ weights).astype(np.float32)
    plain = judge.embed(material.lfw, [sample.image for sample in material.lfw])
    guessed, plain = guessed - goal.mean(0), plain - goal.mean(0)
    guessed /= np.linalg.norm(guessed, axis=1, keepdims=True)
    plain = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    people = np.array([sample.person for sample in material.lfw])
    scores = guessed @ plain.T
    different = people[:, None] != people[None]
    threshold = float(np.quantile(scores[different], 0.999))
    one, two = material.pairs.T
    both = np.concatenate([scores[one, two], scores[two, one]])
    several = [index for index in range(len(people)) if (people == people[index]).sum() > 1]
    ranked = scores[several].copy()
    ranked[np.arange(len(several)), several] = -np.inf
    rank = people[ranked.argmax(1)] == people[several]
    return {"pairs": float((both >= threshold).mean()), "rank 1": float(rank.mean())}


def inputs_of(sample: Sample) -> NDArray[np.float64]:
    """Thumbnail with noise, and landmarks: all that the net is told of the face."""
    matrix = sanitise.matrix_for(sample.landmarks)
    seed = int.from_bytes(sample.name.encode()[-8:], "big")
    thumbnail = sanitise.thumbnail_of(sanitise.aligned(sample.image, matrix)) + sanitise.fixed_noise(seed)
    shape = sanitise.FaceSanitiser().shape_of(sample.landmarks, matrix)
    return np.concatenate([thumbnail.ravel() / 255, shape]).astype(np.float64)


def in_time(session: Session, detector: ReferenceDetector, clip: Path) -> dict[str, float]:
    """One person's clip: is it one face from frame to frame, another than the person's, and does it flicker."""
    frames = list(itertools.islice(frames_of(clip), FRAMES))
    method = make_method("generator", keys=RecordingKeys(root_of("clip")), painter=GeneratorPainter(session))
    embedder, before, after = Embedder(threads=1), [], []
    smooth: NDArray[np.float32] | None = None
    moved: list[tuple[float, float]] = []
    last: tuple[Frame, Frame] | None = None
    for frame in frames:
        found = detector.quick(frame)
        if not found or found[0].landmarks is None:
            smooth, last = None, None
            continue
        marks = found[0].landmarks
        smooth = marks if smooth is None else (smooth + 0.4 * (marks - smooth)).astype(np.float32)
        covered = frame.copy()
        region = found[0].box.scaled(1.6, 1.8)
        method.apply(covered, [Cover(0, found[0].box, region, "detected", 1.0, smooth, True)])
        crops = aligned(frame, marks), aligned(covered, marks)
        before.append(crops[0])
        after.append(crops[1])
        if last is not None:
            part = utility.window(found[0].box, frame)
            change = [np.abs(a[part].astype(int) - b[part]).mean() for a, b in zip(last, (frame, covered), strict=True)]
            moved.append((float(change[0]), float(change[1])))
        last = (frame, covered)
    first, second = embedder(before), embedder(after)
    centre = second.mean(0) / np.linalg.norm(second.mean(0))
    original, made = np.mean(moved, axis=0)
    return {
        "frames": len(after),
        "consecutive likeness": float((second[:-1] * second[1:]).sum(1).mean()),
        "consecutive likeness of the original": float((first[:-1] * first[1:]).sum(1).mean()),
        "least likeness to the track's mean": float((second @ centre).min()),
        "likeness to the original": float((first * second).sum(1).mean()),
        "change in the face, original": float(original),
        "change in the face, covered": float(made),
        "flicker ratio": float(made / original),
    }


def use(material: Material, versions: dict[str, tuple[list[Covered], list[Covered]]]) -> dict[str, Any]:
    """Whether faces are still found, by YuNet and by the project's own detector, and where YuNet sees the landmarks."""
    reference, own = ReferenceDetector(threads=1), open_detector(None, low=0.6, threads=1)
    result: dict[str, Any] = {}
    for name, version in versions.items():
        for kind, covered in zip(("LFW", "portraits"), version, strict=True):
            found = utility.found_after(reference, covered)
            result[f"{name}, {kind}"] = {
                "found by YuNet": found.again.value,
                "of": found.again.count,
                "landmark error": found.error,
                "found by face-detector": found_by(own, covered),
                "fell back": sum(item.applied.method != name for item in covered),
            }
    own.close()
    return result


def found_by(detector: FaceDetector, covered: Sequence[Covered]) -> float:
    hits = count = 0
    for item in covered[::4]:  # it looks at several scales, which takes long
        if utility.best(detector.detect(item.sample.image), item.sample.box) is not None:
            count += 1
            hits += utility.best(detector.detect(item.image), item.sample.box) is not None
    return hits / max(1, count)


def codes(judge: Judge, material: Material, method: MethodOf, threshold: float) -> dict[str, float]:
    """Pairs of passcodes whose faces are two people, and how far apart they are in grey levels over the hull."""
    few = material.portraits[:: max(1, len(material.portraits) // DIVERSE)][:DIVERSE]
    covered = [cover_samples(method, few, code) for code in range(CODES)]
    vectors = [judge.embed(few, [item.image for item in one]) for one in covered]
    apart = [likeness(judge, vectors[i], vectors[j]) < threshold for i in range(CODES) for j in range(i + 1, CODES)]
    shown = sanitise.hull() > 127
    differences = []
    for place, sample in enumerate(few):
        matrix = sanitise.matrix_for(sample.landmarks)
        crops = [sanitise.aligned(one[place].image, matrix)[shown].astype(float) for one in covered[:2]]
        differences.append(np.abs(crops[0] - crops[1]).mean())
    return {"told apart": float(np.concatenate(apart).mean()), "grey levels": float(np.mean(differences))}


def covered_by(method: MethodOf, material: Material, passcode: int = 0) -> tuple[list[Covered], list[Covered]]:
    return cover_samples(method, material.lfw, passcode), cover_samples(method, material.portraits, passcode)


def changed(covered: list[Covered], quality: int | None, crf: int | None) -> list[Covered]:
    """Out of JPEG files, or an H.264 file."""
    if crf is not None:
        images = through(covered, crf)
    else:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality or 75]
        images = [cv2.imdecode(cv2.imencode(".jpg", item.image, options)[1], cv2.IMREAD_COLOR) for item in covered]
    return [Covered(item.sample, image, item.applied) for item, image in zip(covered, images, strict=True)]


def measure(bundle: Path, apart: Sequence[str], precision: str, judges: Sequence[str]) -> dict[str, Any]:
    opened = open_bundle(str(bundle))
    session = open_session(opened, choose(opened, precision=precision), threads=1)
    material = Material.load(apart)
    generator = MethodOf("generator", FreshPainter(session))
    versions = {"generator": covered_by(generator, material)}
    jpeg = tuple(changed(covered, 75, None) for covered in versions["generator"])
    video = tuple(changed(covered, None, 28) for covered in versions["generator"])
    others = {name: covered_by(MethodOf(name), material) for name in ("average", "blur", "solid")}
    every = versions | {"generator, JPEG 75": jpeg, "generator, CRF 28": video} | others
    figures: dict[str, Any] = {"bundle": bundle.name, "precision": session.info.precision, "lfw": len(material.lfw)}
    figures |= {"held-out portraits": len(material.portraits), "pairs": len(material.pairs)}
    if "mobilefacenet" in judges:
        judge = MobileFaceNet()
        known = [sample for sample in portraits() if sample.name not in set(apart)]
        rows = judged(judge, material, every)  # type: ignore[arg-type]
        rows["thumbnail attack"] = thumbnail_attack(judge, material, known)
        rows["codes"] = codes(judge, material, generator, rows["threshold"])
        figures[judge.name] = rows
        figures["use"] = use(material, versions | {"average": others["average"]})
        figures["parrot"] = {
            name: parrot_rate(Parroted(material), method).value  # type: ignore[arg-type]
            for name, method in (("generator", generator), ("solid", MethodOf("solid")))
        }
        figures["parrot"]["people"] = len({sample.person for sample in parrot_people(material.lfw)})
        figures["parrot"]["codes that the attacker learns from"] = KNOWN_CODES
        figures["clip"] = in_time(session, ReferenceDetector(threads=1), assets_folder() / CLIP)
    if "dlib" in judges:  # a tenth as fast, so it sees fewer versions
        slow = DlibResNet()
        rows = judged(slow, material, {name: every[name] for name in ("generator", "average")})  # type: ignore[misc]
        rows["codes"] = codes(slow, material, generator, rows["threshold"])
        figures[slow.name] = rows
    return figures


class Parroted:
    """What :func:`parrot_rate` asks for."""

    def __init__(self, material: Material) -> None:
        self.lfw, self._judge = material.lfw, MobileFaceNet()

    def embed(self, samples: Sequence[Sample], images: Sequence[Frame] | None = None) -> Vectors:
        return self._judge.embed(samples, [sample.image for sample in samples] if images is None else images)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, help="built from the weights")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training, which says who was held out")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    parser.add_argument("--precision", default="fp32", help="of the bundle")
    parser.add_argument("--judge", nargs="+", choices=("mobilefacenet", "dlib"), default=["mobilefacenet", "dlib"])
    options = parser.parse_args(arguments)
    apart = json.loads((options.run / "settings.json").read_text())["held_out"]
    figures = json.loads(options.out.read_text()) if options.out.is_file() else {}
    figures |= measure(options.bundle, apart, options.precision, options.judge)
    options.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
