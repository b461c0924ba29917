"""Whole clips and crowd photos through ``python -m runtime deid``: leaks, steadiness, use, and again after H.264."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.faces import utility
from benchmarks.faces.check import (
    NOT_FACES,
    Checked,
    Reference,
    check_clip,
    excluded,
    figures_of,
    reference_of,
)
from benchmarks.faces.clips import encode, frames_of, rate_of, write_sheet
from benchmarks.faces.crops import CRF, thresholds_for_clips
from benchmarks.faces.identity import Embedder, Threshold
from benchmarks.faces.reference import ReferenceDetector
from benchmarks.faces.speed import FASTER, deface_at, deid_command, in_turns, ratio
from recipes.assets import assets_folder
from runtime.errors import GenedgeError

CLIPS = (
    "video/short_hamilton_clip.mp4",
    "video/egoblur_two_people.mp4",
    "video/asl_again.mkv",
    "video/asl_book.mkv",
    "video/asl_student.mkv",
    "video/carphone_pristine.mp4",
    "faces/crowds/deep_privacy2_regjeringen.jpg",
    "faces/crowds/deep_privacy2_g7_leaders.jpg",
    "faces/crowds/deface_city.jpg",
)
QUICK = ("video/asl_student.mkv",)
SPEED_CLIP = "video/short_hamilton_clip.mp4"
STATIC = "asl_"  # clips whose camera and light stand still: flicker is judged there
FLICKER = 1.3
LEAK_HEAD = (
    "clip",
    "method",
    "frames",
    "face-frames",
    "leaks",
    "unseen leaks",
    "an hour",
    "tracks",
    "leaking",
    "control",
    "frames unlike",
)
LOOK_HEAD = (
    "clip",
    "method",
    "recognised in place",
    "found again",
    "landmark error",
    "flicker",
    "consecutive cosine",
    "one face",
)
SPEED_HEAD = ("command", "seconds", "processor seconds", "times deface", "on the processor")


class Scenes:
    """What all clips share; the originals are searched for faces once."""

    def __init__(self, result: common.Result, threads: int, sheets: Path | None = None) -> None:
        self.result, self.sheets = result, sheets
        self.detector = ReferenceDetector(threads=threads)
        self.embedder: Embedder
        self.threshold: Threshold
        self.embedder, self.threshold = thresholds_for_clips(threads)
        self.references: dict[Path, Reference] = {}
        self.leak_rows: list[tuple[str, ...]] = []
        self.look_rows: list[tuple[str, ...]] = []

    def reference(self, original: Path) -> Reference:
        """Faces of the original."""
        if original not in self.references:
            common.say(f"searching {original.name}")
            frames = list(frames_of(original))
            self.references[original] = reference_of(frames, self.detector, excluded(NOT_FACES, original.name))
        return self.references[original]

    def measure(self, original: Path, covered: Path, name: str, *, judged: bool = True) -> None:
        """Everything about one covered output, and the leaks again after H.264."""
        checked = check_clip(original, covered, self.detector, reference=self.reference(original))
        self._leaks(original.name, name, checked, judged)
        self._look(original.name, name, checked)
        if self.sheets and checked.leaks:
            sheet = self.sheets / f"{original.stem}-{name}.jpg"
            write_sheet(sheet, checked.leaks[:40], checked.originals, checked.covered)
        if rate_of(original):
            with tempfile.TemporaryDirectory(prefix="genedge-privacy-") as folder:
                again = Path(folder) / "again.mp4"
                rate = Fraction(rate_of(covered)).limit_denominator(1001)
                encode(again, checked.covered, rate, crf=CRF)
                recoded = check_clip(original, again, self.detector, reference=self.reference(original))
            self._leaks(original.name, f"{name}, CRF {CRF}", recoded, judged)
            self._look(original.name, f"{name}, CRF {CRF}", recoded)

    def _leaks(self, clip: str, name: str, checked: Checked, judged: bool) -> None:
        seen, unseen = checked.seen, checked.unseen
        hour = "-" if seen.per_hour is None else f"{seen.per_hour:.0f}"
        control = "-" if seen.seen is None else f"{seen.seen:.2f}"
        counts = (seen.frames, seen.face_frames, len(seen.leaks), len(unseen.leaks))
        rest = (hour, str(seen.tracks), str(seen.leaking_tracks), control, str(seen.unlike))
        self.leak_rows.append((clip, name, *map(str, counts), *rest))
        self.result.figures.append({"measure": "leaks", "clip": clip, "method": name, **figures_of(seen),
                                    "leaks_between": len(unseen.leaks)})  # fmt: skip
        if judged:
            total = len(checked.leaks)
            self.result.targets.append(common.Target(f"{clip}, {name}: leaks", str(total), "0", total == 0))

    def _look(self, clip: str, name: str, checked: Checked) -> None:
        """Recognition, use and steadiness; only where frames match one for one."""
        frames, originals = checked.covered, checked.originals
        if len(frames) != len(originals) or frames[0].shape != originals[0].shape:
            return
        tracks = utility.certain(checked.reference.tracks)
        who = utility.clip_identity(originals, frames, tracks, self.embedder, self.threshold)
        found = utility.clip_found_after(self.detector, frames, tracks)
        before, pairs = utility.changes(originals, tracks)
        after, _ = utility.changes(frames, tracks)
        flicker = after / before if pairs and before > 0 else None
        steady = who.steadiness
        figure: dict[str, Any] = {
            "measure": "clip",
            "clip": clip,
            "method": name,
            "flicker": flicker,
            "flicker_pairs": pairs,
        }
        figure |= {"recognised": _value(who.self_pairs.value), "faces": who.self_pairs.count}
        figure |= {"found_again": _value(found.again.value), "found_of": found.again.count}
        figure |= {"landmark_error": _value(found.error), "landmarks_of": len(found.errors)}
        figure |= {"consecutive_cosine": _value(steady.cosine), "consecutive_pairs": steady.pairs}
        figure |= {"one_face": _value(steady.one.value)}
        self.result.figures.append(figure)
        self.look_rows.append((
            clip, name, who.self_pairs.words, found.again.words,
            f"{100 * found.error:.1f} % of {len(found.errors)}" if found.errors else "-",
            "-" if flicker is None else f"{flicker:.2f} of {pairs}",
            f"{steady.cosine:.3f} of {steady.pairs}" if steady.pairs else "-", steady.one.words,
        ))  # fmt: skip
        if flicker is not None and clip.startswith(STATIC) and name in FASTER:
            self.result.targets.append(common.at_most(f"{clip}, {name}: flicker", flicker, FLICKER))

    def conclude(self) -> None:
        if self.leak_rows:
            self.result.add_table(LEAK_HEAD, self.leak_rows, left=2)
        if self.look_rows:
            self.result.add_table(LOOK_HEAD, self.look_rows, left=2)


def _value(value: float) -> float | None:
    return None if value != value else value


def deid_missing() -> str:
    """Why ``python -m runtime deid`` cannot be run here; empty where it can."""
    command = [sys.executable, "-m", "runtime", "deid", "--help"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    return "" if done.returncode == 0 else "python -m runtime deid is not here"


def measure_scenes(
    result: common.Result,
    methods: Sequence[str],
    clips: Sequence[str],
    threads: int,
    sheets: Path | None,
    extra: Sequence[str] = (),
) -> None:
    """De-identify every clip with every method, and look at the outputs. ``extra``: more options of the verb."""
    if reason := deid_missing():
        result.targets.append(common.skipped("clips", reason))
        return
    scenes = Scenes(result, threads, sheets)
    with tempfile.TemporaryDirectory(prefix="genedge-privacy-") as folder:
        for clip in clips:
            original = assets_folder() / clip
            if not original.is_file():
                result.targets.append(common.skipped(original.name, common.missing(original)))
                continue
            for method in methods:
                covered = Path(folder) / f"{method}-{original.stem}{'.png' if original.suffix == '.jpg' else '.mp4'}"
                common.say(f"{method} on {original.name}")
                done = subprocess.run(
                    deid_command(original, covered, method, *extra),
                    check=False,
                    capture_output=True,
                    text=True,
                    errors="replace",
                )
                if done.returncode or not covered.is_file():
                    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                    result.targets.append(common.Target(f"{original.name}, {method}", last, "an output", False))
                    continue
                scenes.measure(original, covered, method)
                covered.unlink()
    scenes.conclude()


def measure_speed(
    result: common.Result,
    methods: Sequence[str],
    deface: str | None,
    rounds: int,
    clip: Path | None,
    extra: Sequence[str] = (),
) -> None:
    """Ours and deface in turns on one clip."""
    original = clip or assets_folder() / SPEED_CLIP
    peer = deface_at(deface)
    reason = deid_missing() or ("" if peer else "deface is not here: pip install deface, or --deface PATH")
    reason = reason or ("" if original.is_file() else common.missing(original))
    if reason or peer is None:
        result.targets.append(common.skipped("speed against deface", reason))
        return
    with tempfile.TemporaryDirectory(prefix="genedge-privacy-") as folder:
        output = Path(folder) / "peer.mp4"
        commands: dict[str, tuple[Sequence[str], Path]] = {
            "deface": ([str(peer), str(original), "-o", str(output)], output)
        }
        for method in (name for name in methods if name in FASTER):
            ours = Path(folder) / f"{method}.mp4"
            commands[method] = (deid_command(original, ours, method, *extra), ours)
        try:
            runs = in_turns(commands, rounds)
        except GenedgeError as error:
            result.targets.append(common.Target("speed against deface", str(error), "measured", False))
            return
    rows = []
    for name, taken in runs.items():
        wall, cpu = ratio(runs["deface"].wall, taken.wall), ratio(runs["deface"].cpu, taken.cpu)
        seconds = (sorted(taken.wall)[rounds // 2], sorted(taken.cpu)[rounds // 2])
        rows.append((name, *(f"{value:.2f}" for value in (*seconds, wall, cpu))))
        result.figures.append({"measure": "speed", "method": name, "wall": taken.wall, "cpu": taken.cpu,
                               "times_deface_wall": wall, "times_deface_cpu": cpu, "clip": original.name})  # fmt: skip
        if name in FASTER:
            result.targets.append(common.at_least(f"{name} against deface, on the clock", wall, FASTER[name], "x"))
    result.conditions |= {"speed clip": original.name, "rounds": rounds}
    result.add_table(SPEED_HEAD, rows, left=1)
