"""Methods on pictures of known people, with known landmarks: no detector and no tracker in between."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.faces import utility
from benchmarks.faces.clips import encode, frames_of
from benchmarks.faces.identity import (
    Embedder,
    Embeddings,
    Rate,
    Threshold,
    accepted,
    impostor_cosines,
    parrot,
    threshold_of,
)
from benchmarks.faces.people import (
    Covered,
    MethodOf,
    Sample,
    aligned,
    cover_samples,
    lfw,
    lfw_pairs,
    portraits,
)
from benchmarks.faces.reference import ReferenceDetector
from runtime.errors import GenedgeError
from runtime.frames import Frame

RATES = (1e-3, 1e-2)  # false-match rates
CRF = 28
CODES = 6  # passcodes for diversity
KNOWN_CODES = 3  # passcodes with which the parrot covers what it learns from
DIVERSE = 60  # faces that the diversity is measured on
REID, FOUND = 0.02, 0.95  # targets of method average
JUDGED = ("average", "generator")

REID_HEAD = ("method", "pairs", "faces", "at 1e-3", "95 % bound", "at 1e-2", "samples")
USE_HEAD = ("method", "faces", "found again", "landmark error", "fell back")
CODE_HEAD = ("method", "passcodes told apart", "parrot rank 1", "solid rank 1", "chance")


@dataclass
class People:
    """The test material, searched once: both sets of faces, their embeddings, and the thresholds."""

    lfw: list[Sample]
    portraits: list[Sample]
    embedder: Embedder
    detector: ReferenceDetector

    def __post_init__(self) -> None:
        self.vectors = self.embed(self.lfw)
        self.portrait_vectors = self.embed(self.portraits)
        cosines = impostor_cosines(self.vectors, [sample.person for sample in self.lfw])
        self.thresholds = [threshold_of(cosines, rate) for rate in RATES]
        place = {sample.name: index for index, sample in enumerate(self.lfw)}
        pairs = [(a, b) for a, b, same in lfw_pairs() if same and a in place and b in place]
        self.first, self.second = (np.array([place[pair[side]] for pair in pairs], int) for side in (0, 1))

    @classmethod
    def load(cls, quick: bool, threads: int) -> People:
        samples = lfw(300 if quick else None)
        return cls(
            samples, portraits(40 if quick else None), Embedder(threads=threads), ReferenceDetector(threads=threads)
        )

    def embed(self, samples: Sequence[Sample], images: Sequence[Frame] | None = None) -> Embeddings:
        pictures = [sample.image for sample in samples] if images is None else images
        return self.embedder(
            [aligned(image, sample.landmarks) for image, sample in zip(pictures, samples, strict=True)]
        )


def measure_people(
    result: common.Result, methods: Sequence[str], quick: bool, threads: int, generator: Path | None = None
) -> None:
    """Every measure on crops, for each method; a method that is not here is skipped by name. ``generator``: bundle of
    the method of that name."""
    people = People.load(quick, threads)
    sure = people.thresholds[0]
    result.conditions |= {
        "threshold": f"cosine {sure.cosine:.3f} at 1e-3, {people.thresholds[1].cosine:.3f} at 1e-2",
        "impostor pairs": sure.impostors,
    }
    identity_rows = [reid_row("none", "original and original", "LFW", people, people.vectors[people.first],
                              people.vectors[people.second], result)]  # fmt: skip
    use_rows: list[tuple[str, ...]] = []
    code_rows: list[tuple[str, ...]] = []
    solid_rate: Rate | None = None
    for name in ("solid", *(name for name in methods if name != "solid")):
        try:
            method = MethodOf.called(name, generator, threads)
        except (GenedgeError, ModuleNotFoundError) as reason:
            result.targets.append(common.skipped(f"{name} on crops", str(reason)))
            continue
        common.say(f"{name} on {len(people.lfw)} crops and {len(people.portraits)} portraits")
        rank = parrot_rate(people, method)
        solid_rate = rank if name == "solid" else solid_rate
        if name not in methods:
            continue
        one_lfw, one_portraits = (cover_samples(method, samples) for samples in (people.lfw, people.portraits))
        identity_rows += reidentify(name, people, one_lfw, one_portraits, result)
        use_rows += use_of(name, people, one_lfw, one_portraits, result)
        code_rows.append(codes_of(name, people, method, rank, solid_rate, result))
    result.add_table(REID_HEAD, identity_rows, left=3)
    result.add_table(USE_HEAD, use_rows, left=2)
    result.add_table(CODE_HEAD, code_rows, left=1)


def reidentify(
    name: str, people: People, one_lfw: list[Covered], one_portraits: list[Covered], result: common.Result
) -> list[tuple[str, ...]]:
    """Genuine pairs and self-pairs, as they are and after H.264."""
    rows: list[tuple[str, ...]] = []
    for suffix, change in (("", None), (f", CRF {CRF}", CRF)):
        covered = people.embed(people.lfw, through(one_lfw, change))
        faces = people.embed(people.portraits, through(one_portraits, change))
        first, second = people.first, people.second
        genuine = (
            np.concatenate([people.vectors[first], people.vectors[second]]),
            np.concatenate([covered[second], covered[first]]),
        )
        pairs = (
            (f"original and covered{suffix}", "LFW", *genuine),
            (f"same picture{suffix}", "LFW", people.vectors, covered),
            (f"same picture{suffix}", "portraits", people.portrait_vectors, faces),
        )
        rows += [
            reid_row(name, kind, faces_of, people, before, after, result) for kind, faces_of, before, after in pairs
        ]
    return rows


def reid_row(
    name: str, kind: str, faces: str, people: People, first: Embeddings, second: Embeddings, result: common.Result
) -> tuple[str, ...]:
    """A row of the table; it is a figure, and for the methods that draw faces a target."""
    sure, loose = (accepted(first, second, threshold) for threshold in people.thresholds)
    figure: dict[str, Any] = {"measure": "re-identification", "method": name, "pairs": kind, "faces": faces}
    result.figures.append(figure | {"at_1e-3": sure.value, "at_1e-2": loose.value, "samples": sure.count})
    if name in JUDGED and sure.count:
        title = f"{name}: re-identified, {kind}, {faces}"
        result.targets.append(common.at_most(title, 100 * sure.value, 100 * REID, " %"))
    values = (f"{100 * sure.value:.2f} %", f"{100 * sure.upper:.2f} %", f"{100 * loose.value:.2f} %")
    return (name, kind, faces, *values, str(sure.count))


def through(covered: Sequence[Covered], crf: int | None) -> list[Frame]:
    """The pictures as they are, or out of an H.264 file of their own sizes."""
    images = [item.image for item in covered]
    if crf is None or not images:
        return images
    if len({image.shape for image in images}) > 1:
        raise GenedgeError("pictures of one size are needed for one clip")
    with tempfile.TemporaryDirectory(prefix="genedge-privacy-") as folder:
        path = Path(folder) / "crops.mp4"
        encode(path, images, Fraction(25), crf=crf)
        return list(frames_of(path))


def use_of(
    name: str, people: People, one_lfw: list[Covered], one_portraits: list[Covered], result: common.Result
) -> list[tuple[str, ...]]:
    """Detection and landmarks after covering."""
    rows: list[tuple[str, ...]] = []
    for faces, covered in (("LFW", one_lfw), ("portraits", one_portraits)):
        found = utility.found_after(people.detector, covered)
        fallbacks = sum(item.applied.method != name for item in covered)
        figure: dict[str, Any] = {"measure": "use", "method": name, "faces": faces, "samples": found.again.count}
        error = found.error if found.errors else None
        figure |= {"found_again": found.again.value, "landmark_error": error, "fallbacks": fallbacks}
        result.figures.append(figure)
        if name in JUDGED:
            title = f"{name}: found again, {faces}"
            result.targets.append(common.at_least(title, 100 * found.again.value, 100 * FOUND, " %", 1))
        drift = "-" if error is None else f"{100 * error:.1f} % of {len(found.errors)}"
        rows.append((name, faces, found.again.words, drift, f"{fallbacks} of {len(covered)}"))
    return rows


def codes_of(
    name: str, people: People, method: MethodOf, rank: Rate, solid: Rate | None, result: common.Result
) -> tuple[str, ...]:
    """Whether another passcode gives another face, and what an attacker learns from covered pictures."""
    few = people.portraits[:: max(1, len(people.portraits) // DIVERSE)][:DIVERSE]
    versions = [people.embed(few, [c.image for c in cover_samples(method, few, code)]) for code in range(CODES)]
    apart = utility.diversity(versions, people.thresholds[0])
    known = {sample.person for sample in parrot_people(people.lfw)}
    figure: dict[str, Any] = {"measure": "codes", "method": name, "told_apart": apart.value, "pairs": apart.count}
    figure |= {"parrot": rank.value, "parrot_samples": rank.count, "parrot_people": len(known)}
    result.figures.append(figure)
    words = "-" if solid is None else solid.words
    return name, apart.words, rank.words, words, f"{100 / max(1, len(known)):.1f} %"


def parrot_people(samples: Sequence[Sample], least: int = 4) -> list[Sample]:
    """Samples of people with at least ``least`` pictures."""
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.person] = counts.get(sample.person, 0) + 1
    return [sample for sample in samples if counts[sample.person] >= least]


def parrot_rate(people: People, method: MethodOf) -> Rate:
    """The attacker learns from every other picture of a person, covered with codes of its own; asked are the others."""
    samples = parrot_people(people.lfw)
    turn: dict[str, int] = {}
    known: list[Sample] = []
    asked: list[Sample] = []
    for sample in samples:
        turn[sample.person] = turn.get(sample.person, 0) + 1
        (known if turn[sample.person] % 2 else asked).append(sample)
    if not known or not asked:
        return Rate(0, 0)
    learnt = [people.embed(known, [c.image for c in cover_samples(method, known, 1 + i)]) for i in range(KNOWN_CODES)]
    answers = people.embed(asked, [c.image for c in cover_samples(method, asked)])
    names = [sample.person for sample in known] * KNOWN_CODES
    return parrot(np.concatenate(learnt), names, answers, [sample.person for sample in asked])


def thresholds_for_clips(threads: int) -> tuple[Embedder, Threshold]:
    """The embedder with its threshold from LFW's impostors."""
    embedder, samples = Embedder(threads=threads), lfw()
    vectors = embedder([aligned(sample.image, sample.landmarks) for sample in samples])
    return embedder, threshold_of(impostor_cosines(vectors, [sample.person for sample in samples]))
