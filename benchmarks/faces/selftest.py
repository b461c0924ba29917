"""Whether the check for leaks can be trusted: faces left open on purpose are to be found, and covered ones are not."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks import common
from benchmarks.faces.clips import encode, frames_of
from benchmarks.faces.leaks import SHARE, check_frames
from benchmarks.faces.people import REGION, MethodOf, portraits, root_of
from benchmarks.faces.reference import ReferenceDetector
from recipes.assets import assets_folder
from runtime.faces.types import Cover, Face
from runtime.frames import Frame

CLIP = "video/short_hamilton_clip.mp4"
EVERY, OPEN = 3, 0.25  # every third frame; this share of the hits stays open
QUALITIES = (None, 18, 23, 28, 33)  # x264's CRF, None: lossless
BLURS = (0.01, 0.02, 0.03, 0.05, 0.08)  # standard deviation as a share of the face's width
SHARP = ("solid", "average")  # keep nothing of a face; what the others keep is judged up to CRF 23
HEAD = ("H.264", "method", "open faces found", "least open %", "covered taken for open", "most open %", "control")
BLUR_HEAD = ("blur, of the width", "faces that leak", "median open %")


@dataclass(frozen=True)
class Plan:
    """What was left ``open`` and what is ``covered``, for each face of each frame; a face that a neighbour's region
    touches is neither."""

    frames: list[Frame]
    open: list[list[bool]]
    covered: list[list[bool]]


def plan_of(frames: Sequence[Frame], faces: Sequence[Sequence[Face]], method: MethodOf) -> Plan:
    """Cover all faces but some that are drawn by lot."""
    chance = np.random.default_rng(0)
    covering = method(root_of("selftest"))
    plan = Plan([], [], [])
    for frame, found in zip(frames, faces, strict=True):
        spared = [bool(chance.random() < OPEN) for _ in found]
        regions = [face.box.scaled(*REGION) for face, spare in zip(found, spared, strict=True) if not spare]
        covers = [
            Cover(place, face.box, face.box.scaled(*REGION), "detected", face.score, face.landmarks, True)
            for place, (face, spare) in enumerate(zip(found, spared, strict=True))
            if not spare
        ]
        output = frame.copy()
        covering.apply(output, covers)
        plan.frames.append(output)
        plan.covered.append([not spare for spare in spared])
        plan.open.append([
            spare and not any(region.scaled(1.25).intersection(face.box) for region in regions)
            for face, spare in zip(found, spared, strict=True)
        ])  # fmt: skip
    covering.close()
    return plan


def measure_selftest(
    result: common.Result, methods: Sequence[str], quick: bool, threads: int, generator: Path | None = None
) -> None:
    """Two tables: faces left open, by quality of the codec, and blurred ones."""
    clip = assets_folder() / CLIP
    if not clip.is_file():
        result.targets.append(common.skipped("selftest", common.missing(clip)))
        return
    detector = ReferenceDetector(threads=threads)
    frames = list(frames_of(clip))[:: EVERY * (5 if quick else 1)]
    common.say(f"searching {len(frames)} frames of {clip.name}")
    faces = [detector.detect(frame) for frame in frames]
    rows = []
    for method in methods:
        plan = plan_of(frames, faces, MethodOf.called(method, generator, threads))
        for crf in QUALITIES:
            rows.append(row_of(result, method, crf, plan, frames, faces))
    result.add_table(HEAD, rows, left=2)
    result.add_table(BLUR_HEAD, blur_rows(result, 20 if quick else 120), left=1)


def row_of(
    result: common.Result,
    method: str,
    crf: int | None,
    plan: Plan,
    frames: Sequence[Frame],
    faces: Sequence[Sequence[Face]],
) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="genedge-privacy-") as folder:
        path = Path(folder) / "selftest.mp4"
        encode(path, plan.frames, Fraction(10), crf=crf)
        outputs = list(frames_of(path))
    given = zip(range(len(frames)), frames, outputs, faces, strict=True)
    checks = list(check_frames(given))
    opened, closed = (
        np.array([share for check, chosen in zip(checks, which, strict=True)
                  for share, choice in zip(check.shares, chosen, strict=True) if choice])
        for which in (plan.open, plan.covered)
    )  # fmt: skip
    seen = [check.noise.seen for check in checks if check.noise.seen is not None]
    control = float(np.median(seen)) if seen else None
    found, wrong = int((opened > SHARE).sum()), int((closed > SHARE).sum())
    name = "lossless" if crf is None else f"CRF {crf}"
    result.figures.append({
        "measure": "selftest", "method": method, "crf": crf, "open": len(opened), "open_found": found,
        "covered": len(closed), "covered_taken_for_open": wrong, "control": control,
    })  # fmt: skip
    if method in SHARP or crf is None or crf <= 23:
        missed = len(opened) - found
        title = f"{method}, {name}:"
        result.targets.append(common.Target(f"{title} open faces missed", str(missed), "0", missed == 0))
        result.targets.append(common.Target(f"{title} covered faces taken for open", str(wrong), "0", wrong == 0))
    least = f"{100 * opened.min():.0f}" if len(opened) else "-"
    most = f"{100 * closed.max():.1f}" if len(closed) else "-"
    return (name, method, f"{found} of {len(opened)}", least, f"{wrong} of {len(closed)}", most,
            "-" if control is None else f"{control:.2f}")  # fmt: skip


def blur_rows(result: common.Result, count: int) -> list[tuple[str, ...]]:
    """Portraits under Gaussian blurs: where a blur stops to be a leak."""
    import cv2

    from benchmarks.faces.leaks import uncovered

    rows: list[tuple[str, ...]] = []
    samples = portraits(count)
    for share in BLURS:
        shares = [
            uncovered(s.image, np.asarray(cv2.GaussianBlur(s.image, (0, 0), share * s.box.width), np.uint8), s.box, 6.0)
            for s in samples
        ]
        leaking = sum(value > SHARE for value in shares)
        median = float(np.median(shares))
        result.figures.append(
            {"measure": "blur", "of_width": share, "leaking": leaking, "faces": len(shares), "median_open": median}
        )
        rows.append((f"{100 * share:.0f} %", f"{leaking} of {len(shares)}", f"{100 * median:.0f}"))
    return rows
