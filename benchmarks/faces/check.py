"""``python -m benchmarks.privacy leaks ORIGINAL COVERED``: faces that stand open, and a sheet of the worst."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.faces.clips import frames_of, matched, rate_of, write_sheet
from benchmarks.faces.leaks import SHARE, FrameCheck, Leak, Summary, check_frames, summary_of
from benchmarks.faces.reference import SCORE, FaceTrack, ReferenceDetector, between, link
from runtime.errors import UsageError
from runtime.faces.types import Box, Face
from runtime.frames import Frame

NAME = "privacy leaks"
NOT_FACES = Path(__file__).with_name("not_faces.csv")  # looked at by a person
SAME_PLACE = 0.5  # intersection over union of a hit with such a place
WORST = 40  # candidates in the sheet
HEAD = ("frame", "original", "score", "open %", "track", "box")
SUMMARY = (
    "faces from",
    "frames",
    "face-frames",
    "tracks",
    "leaks",
    "frames with one",
    "leaks an hour",
    "leaking tracks",
    "%",
)


@dataclass(frozen=True)
class Excluded:
    """A place of an original clip that looks like a face to the detector and is none, from frame to frame inclusive."""

    clip: str
    first: int
    last: int
    box: Box

    def holds(self, index: int, face: Face) -> bool:
        return self.first <= index <= self.last and self.box.iou(face.box) >= SAME_PLACE


def excluded(path: Path, clip: str) -> list[Excluded]:
    """Those of ``clip``, by file name: rows of clip, first, last, x, y, width, height."""
    if not path.is_file():
        raise UsageError(f"{path} is not there: --not-faces takes a CSV file of clip,first,last,x,y,width,height")
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("clip") == clip]
    try:
        return [
            Excluded(clip, int(row["first"]), int(row["last"]),
                     Box(*(float(row[key]) for key in ("x", "y", "width", "height"))))
            for row in rows
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"{path} is no CSV file of clip,first,last,x,y,width,height") from None


@dataclass(frozen=True)
class Reference:
    """Faces of a clip's originals: ``seen`` by the detector and ``unseen`` between two sights, by frame; ``dropped``:
    hits that a person looked at, and that are no faces."""

    seen: list[list[Face]]
    unseen: dict[int, list[Face]]
    tracks: list[FaceTrack]
    dropped: int = 0

    def faces(self, index: int) -> list[Face]:
        return [*self.seen[index], *self.unseen.get(index, [])]


def reference_of(
    originals: Sequence[Frame],
    detector: ReferenceDetector,
    not_faces: Sequence[Excluded] = (),
    *,
    progress: bool = False,
) -> Reference:
    """Look at every frame, link the faces, and fill the gaps of their tracks."""
    found: list[list[Face]] = []
    dropped = 0
    for index, frame in enumerate(originals):
        hits = detector.detect(frame)
        kept = [face for face in hits if not any(place.holds(index, face) for place in not_faces)]
        dropped += len(hits) - len(kept)
        found.append(kept)
        if progress and index % 50 == 49:
            common.say(f"{index + 1} of {len(originals)} frames searched")
    tracks = link(found)
    unseen = between(tracks)
    return Reference(found, unseen, tracks, dropped)


@dataclass(frozen=True)
class Checked:
    """A covered clip after the check. ``seen`` counts faces that the detector saw, ``unseen`` those between sights."""

    checks: list[FrameCheck]
    seen: Summary
    unseen: Summary
    originals: list[Frame]
    covered: list[Frame]
    reference: Reference

    @property
    def leaks(self) -> list[Leak]:
        """All, worst first."""
        return sorted((*self.seen.leaks, *self.unseen.leaks), key=lambda leak: -leak.share)


def check_clip(
    original: Path,
    covered: Path,
    detector: ReferenceDetector,
    *,
    not_faces: Sequence[Excluded] = (),
    reference: Reference | None = None,
    share: float = SHARE,
    progress: bool = False,
) -> Checked:
    """Search the original for faces, unless ``reference`` holds them, and look for them in the covered output."""
    order, originals = matched(original, covered)
    reference = reference or reference_of(originals, detector, not_faces, progress=progress)
    outputs = list(frames_of(covered))
    frames = zip(order, outputs, strict=True)
    checks = list(check_frames((index, originals[index], output, reference.faces(index)) for index, output in frames))
    rate = rate_of(covered)
    seconds = len(outputs) / rate if rate else 0.0
    parts = [[FrameCheck(c.frame, c.original, c.noise, *_only(c, unseen)) for c in checks] for unseen in (False, True)]
    seen, unseen = (summary_of(part, reference.tracks, seconds, share) for part in parts)
    return Checked(checks, seen, unseen, originals, outputs, reference)


def _only(check: FrameCheck, unseen: bool) -> tuple[tuple[Face, ...], tuple[float, ...]]:
    pairs = [pair for pair in zip(check.faces, check.shares, strict=True) if (pair[0].score == 0) == unseen]
    return tuple(face for face, _ in pairs), tuple(share for _, share in pairs)


def summary_row(name: str, summary: Summary) -> tuple[str, ...]:
    rate, hour = summary.track_rate, summary.per_hour
    return (
        name,
        f"{summary.frames}",
        f"{summary.face_frames}",
        f"{summary.tracks}",
        f"{len(summary.leaks)}",
        f"{summary.leaked_frames}",
        "-" if hour is None else f"{hour:.0f}",
        f"{summary.leaking_tracks}",
        "-" if rate is None else f"{100 * rate:.1f}",
    )


def figures_of(summary: Summary) -> dict[str, Any]:
    return {
        "frames": summary.frames,
        "face_frames": summary.face_frames,
        "tracks": summary.tracks,
        "leaks": len(summary.leaks),
        "leaked_frames": summary.leaked_frames,
        "leaking_tracks": summary.leaking_tracks,
        "track_leak_rate": summary.track_rate,
        "leaks_per_hour": summary.per_hour,
        "control": summary.seen,
        "frames_unlike": summary.unlike,
    }


def leak_figures(leak: Leak) -> dict[str, Any]:
    return {
        "frame": leak.frame,
        "original": leak.original,
        "score": round(leak.face.score, 3),
        "open": round(leak.share, 3),
        "track": leak.track,
        "box": [round(value, 1) for value in leak.face.box],
    }


def measure(options: argparse.Namespace) -> common.Result:
    original, covered = Path(options.original), Path(options.covered)
    detector = ReferenceDetector(score=options.score, threads=options.threads)
    not_faces = excluded(options.not_faces, original.name)
    checked = check_clip(original, covered, detector, not_faces=not_faces, share=options.share, progress=True)
    result = common.Result(NAME, common.conditions(threads=options.threads))
    result.conditions |= {
        "score": options.score,
        "open at least": options.share,
        "control (share called open outside of faces)": _digits(checked.seen.seen),
        "frames that are not the original outside of faces either": checked.seen.unlike,
        "hits that a person looked at and that are no faces": checked.reference.dropped,
    }
    rows = [summary_row("detector", checked.seen), summary_row("between two sights", checked.unseen)]
    result.add_table(SUMMARY, rows, left=1)
    ordered = sorted(checked.leaks, key=lambda leak: (leak.frame, -leak.share))
    if ordered:
        result.add_table(HEAD, [_row(leak) for leak in ordered], left=0)
        frames = sorted({leak.frame for leak in ordered})
        result.tables.append("frames with a leak: " + " ".join(map(str, frames)))
    result.figures = [
        {"faces": "detector", **figures_of(checked.seen)},
        {"faces": "between", **figures_of(checked.unseen)},
        *map(leak_figures, ordered),
    ]
    total = len(checked.leaks)
    result.targets.append(common.Target("leaks (candidates, look at the sheet)", str(total), "0", total == 0))
    if options.sheet:
        write_sheet(options.sheet, checked.leaks[: options.worst], checked.originals, checked.covered)
    return result


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _row(leak: Leak) -> tuple[str, ...]:
    score = f"{leak.face.score:.2f}" if leak.face.score else "between"
    track = "-" if leak.track is None else str(leak.track)
    box = " ".join(f"{value:.0f}" for value in leak.face.box)
    return str(leak.frame), str(leak.original), score, f"{100 * leak.share:.0f}", track, box


def share(text: str) -> float:
    """For argparse: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, "Faces of ORIGINAL that COVERED still shows, frame by frame.")
    parser.add_argument("original", metavar="ORIGINAL", help="video or picture before de-identification")
    parser.add_argument("covered", metavar="COVERED", help="the same afterwards, by any tool")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write a contact sheet of the worst (.jpg, .png)")
    parser.add_argument("--worst", type=common.positive, default=WORST, metavar="N", help=f"so many (default: {WORST})")
    parser.add_argument(
        "--score", type=share, default=SCORE, metavar="S", help=f"least score of a face (default: {SCORE})"
    )
    parser.add_argument(
        "--share", type=share, default=SHARE, metavar="S", help=f"a leak shows more of the face (default: {SHARE})"
    )
    parser.add_argument(
        "--not-faces", type=Path, default=NOT_FACES, metavar="CSV", help="places of the original that are no faces"
    )
    parser.add_argument("--threads", type=common.positive, default=2, metavar="N", help="of the detector (default: 2)")
    return common.run(NAME, measure, parser.parse_args(arguments))
