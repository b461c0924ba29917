"""What INT8 loses: against ground truth, against float on photos, and over time in recurrent nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.int8.material import (
    ENGINES,
    PHOTOS_OF,
    RECURRENT_NAMES,
    Int8Bundle,
    choice_of,
    fitted,
    outputs_of,
    pictures,
)
from benchmarks.int8.report import Report
from recipes.assets import assets_folder
from runtime.frames import Frame
from runtime.metrics import compare
from runtime.sessions import Session, open_session

SETS = ("set5", "set14")
LOSS = {"sr-x2": {"set5": 0.08, "set14": 0.05}, "sr-x4": {"set5": 0.08, "set14": 0.05}}  # dB of Y-PSNR, at most
OTHER_LOSS = {"set5": 0.1, "set14": 0.1}
COLOUR = {"sr-x2": 0.5, "sr-x4": 0.5}  # mean CIEDE2000 to fp32, at most
PHOTO_PSNR = 40.0  # dB against fp32, at least, where there is no ground truth
CLIP, CLIP_FRAMES, CLIP_SCALE = "video/asl_again.mkv", 60, 4  # no set is sampled from it: those are of the .mp4 files
CLIP_LOSS, CLIP_DRIFT = 0.1, 1.0  # dB

HEADS = {
    "truth": ("net", "variant", "engine", "float layers", *(f"{name} loss dB" for name in SETS), "PSNR dB", "ΔE2000"),
    "photos": ("net", "variant", "engine", "float layers", "photos", "PSNR dB", "ΔE2000", "max"),
    "clip": (
        "net", "variant", "engine", "float layers", "clip loss dB", "PSNR dB", "PSNR first half", "PSNR second half",
    ),
}  # fmt: skip
TITLES = {
    "truth": "Quality against ground truth",
    "photos": "Quality of nets without ground truth",
    "clip": "Quality of recurrent nets",
}
NOTES = {
    "truth": "Loss: Y-PSNR of the bundle's fp32 on the same engine less that of INT8, mean over the set (bicubic "
    "input, crop of the scale, BT.601). PSNR and ΔE2000: against fp32, RGB, over both sets.",
    "photos": "Against the bundle's fp32 on the same engine, on photos that no set is sampled from.",
    "clip": f"{CLIP_FRAMES} consecutive frames of {Path(CLIP).name}, which no set is sampled from, reduced by "
    f"{CLIP_SCALE} as input and as they are as the truth; loss as above, PSNR against fp32.",
}


@dataclass(frozen=True)
class Pair:
    """An input of a set and its truth, ``uint8 (H, W, 3) BGR``."""

    small: Frame
    truth: Frame


def pairs_of(name: str, scale: int) -> list[Pair]:
    """A set by the standard protocol; empty where it is not here."""
    from recipes.evaluation import bicubic, crop_to_multiple, read_image

    pairs = []
    for path in pictures(assets_folder() / "images" / name):
        truth = crop_to_multiple(read_image(path), scale)
        pairs.append(Pair(bicubic(truth, truth.shape[0] // scale, truth.shape[1] // scale), truth))
    return pairs


def y_psnr(truth: Frame, output: Frame, border: int) -> float:
    """Y-PSNR in dB, as :func:`recipes.evaluation.score_pair` has it."""
    from recipes.evaluation import score_pair

    return score_pair(truth, output, border)[0]


def losses(pairs: Sequence[Pair], reference: Sequence[Frame], outputs: Sequence[Frame], scale: int) -> float:
    """How many dB of Y-PSNR ``outputs`` are further from the truth than ``reference``, mean over the pairs."""
    each = [
        y_psnr(pair.truth, before, scale) - y_psnr(pair.truth, after, scale)
        for pair, before, after in zip(pairs, reference, outputs, strict=True)
    ]
    return float(np.mean(each))


def judge_truth(label: str, net: str, lost: dict[str, float], delta_e: float) -> list[common.Target]:
    """Targets of one variant of a super-resolution net."""
    limits = LOSS.get(net, OTHER_LOSS)
    targets = [common.at_most(f"{label} loss on {name}", value, limits[name], " dB", 3) for name, value in lost.items()]
    if net in COLOUR:
        targets.append(common.at_most(f"{label} colour", delta_e, COLOUR[net], " ΔE2000"))
    return targets


def judge_clip(label: str, loss: float, first: float, second: float) -> list[common.Target]:
    """Targets of one variant of a recurrent net; ``first`` and ``second`` are the PSNR to fp32 of each half, dB."""
    return [
        common.at_most(f"{label} loss on the clip", loss, CLIP_LOSS, " dB", 3),
        common.at_most(f"{label} first less second half of the clip", first - second, CLIP_DRIFT, " dB"),
    ]


class Quality:
    """Measures one net after the other and collects the lines."""

    def __init__(self, report: Report, threads: int, quick: bool) -> None:
        self._report, self._threads, self._quick = report, threads, quick
        self._rows: dict[str, list[tuple[str, ...]]] = {kind: [] for kind in HEADS}

    def measure(self, item: Int8Bundle) -> None:
        """Both variants of a bundle."""
        name = item.net.name
        kind = "clip" if name in RECURRENT_NAMES else "photos" if name in PHOTOS_OF else "truth"
        for variant in ENGINES:
            label = f"{name} {variant}"
            if (reason := item.missing(variant)) is not None:
                self._report.result.targets.append(common.skipped(f"{label} quality", reason))
                cells = (name, variant, ENGINES[variant], "-", reason)
                self._rows[kind].append((*cells, *["-"] * (len(HEADS[kind]) - len(cells))))
                continue
            common.say(f"{label}: quality")
            getattr(self, f"_{kind}")(item, variant, label)

    def show(self) -> None:
        """Add the tables."""
        for kind, rows in self._rows.items():
            self._report.add(TITLES[kind], HEADS[kind], rows, 3, NOTES[kind])

    def _outputs(self, item: Int8Bundle, variant: str, frames: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
        """What fp32 and INT8 give on the variant's engine."""
        both = []
        for choice in (choice_of("fp32", ENGINES[variant]), choice_of(variant)):
            with fitted(item.bundle, choice, self._threads) as session:
                both.append(outputs_of(session, frames))
        return both[0], both[1]

    def _add(self, kind: str, item: Int8Bundle, variant: str, cells: Sequence[str], **figures: Any) -> None:
        layers = item.float_layers(variant)
        self._rows[kind].append((item.net.name, variant, ENGINES[variant], layers, *cells))
        record = {"table": f"quality {kind}", "net": item.net.name, "variant": variant, "float_layers": layers}
        self._report.result.figures.append(record | figures)

    def _truth(self, item: Int8Bundle, variant: str, label: str) -> None:
        scale, targets = item.bundle.manifest.geometry.scale, self._report.result.targets
        sets = {name: pairs_of(name, scale) for name in SETS}
        for name in [name for name, pairs in sets.items() if not pairs]:
            reason = common.missing(assets_folder() / "images" / name)
            targets.append(common.skipped(f"{label} loss on {name}", reason))
            del sets[name]
        if not sets:
            return
        reference, outputs = self._outputs(item, variant, [pair.small for pairs in sets.values() for pair in pairs])
        lost, place = {}, 0
        for name, pairs in sets.items():
            part = slice(place, place + len(pairs))
            lost[name] = losses(pairs, reference[part], outputs[part], scale)
            place += len(pairs)
        parity = compare(zip(reference, outputs, strict=True))
        cells = [f"{lost[name]:.3f}" if name in lost else "-" for name in SETS]
        cells += [f"{parity.psnr_db:.2f}", f"{parity.delta_e:.3f}"]
        self._add("truth", item, variant, cells, loss_db=lost, **parity.figures())
        targets += judge_truth(label, item.net.name, lost, parity.delta_e)

    def _photos(self, item: Int8Bundle, variant: str, label: str) -> None:
        from recipes.evaluation import read_image

        folder = assets_folder() / "images" / PHOTOS_OF[item.net.name]
        files, targets = pictures(folder)[: 2 if self._quick else 8], self._report.result.targets
        if not files:
            targets.append(common.skipped(f"{label} on {folder.name}", common.missing(folder)))
            return
        reference, outputs = self._outputs(item, variant, [read_image(path) for path in files])
        parity = compare(zip(reference, outputs, strict=True))
        cells = (f"{len(files)} of {folder.name}", *(parity.cells()[place] for place in (0, 2, 3)))
        self._add("photos", item, variant, cells, photos=folder.name, **parity.figures())
        targets.append(common.at_least(f"{label} PSNR on {folder.name}", parity.psnr_db, PHOTO_PSNR, " dB"))

    def _clip(self, item: Int8Bundle, variant: str, label: str) -> None:
        path, targets = assets_folder() / CLIP, self._report.result.targets
        if not path.is_file():
            targets.append(common.skipped(f"{label} on {path.name}", common.missing(path)))
            return
        pairs = clip_pairs(path, CLIP_FRAMES, item.bundle.manifest.geometry.scale)
        both = []
        for choice in (choice_of("fp32", ENGINES[variant]), choice_of(variant)):
            with open_session(item.bundle, choice, threads=self._threads, in_flight=1) as session:
                both.append(one_run(session, [pair.small for pair in pairs]))
        reference, outputs = both
        lost = losses(pairs, reference, outputs, item.bundle.manifest.geometry.scale)
        half = len(pairs) // 2
        whole, first, second = (
            compare(zip(reference[part], outputs[part], strict=True)).psnr_db
            for part in (slice(None), slice(half), slice(half, None))
        )
        cells = (f"{lost:.3f}", *(f"{value:.2f}" for value in (whole, first, second)))
        figures = {"frames": len(pairs), "loss_db": lost, "psnr_db": whole, "first_db": first, "second_db": second}
        self._add("clip", item, variant, cells, **figures)
        targets += judge_clip(label, lost, first, second)


def one_run(session: Session, frames: Sequence[Frame]) -> list[Frame]:
    """Consecutive frames from a state that begins anew."""
    session.reset()
    return outputs_of(session, frames)


def clip_pairs(path: Path, count: int, scale: int) -> list[Pair]:
    """The first ``count`` frames of a video as the truth, and reduced by ``scale`` as inputs."""
    from recipes.evaluation import bicubic, crop_to_multiple
    from runtime.video.source import open_source

    pairs: list[Pair] = []
    with open_source(str(path)) as source:
        while len(pairs) < count and (frame := source.read()) is not None:
            truth = crop_to_multiple(frame.image, scale)
            pairs.append(Pair(bicubic(truth, truth.shape[0] // scale, truth.shape[1] // scale), truth))
    return pairs
