"""The pieces of a long video, which workers make side by side, and what is kept of them until they are joined."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.report import write_text
from runtime.video.segments import Whole

#: Segments of a piece at most: each piece costs some frames that are decoded to get there, and is lost by a kill.
MOST_SEGMENTS = 4


@dataclass(frozen=True)
class PieceNote:
    """A piece that is finished: frames from ``start`` to before ``stop``, or to the end of the video for None.

    ``frames``: how many there were, fewer than asked for where the video ended. ``size``: (width, height) in pixels.
    """

    start: int
    stop: int | None
    frames: int
    size: tuple[int, int]
    whole: tuple[Whole, ...]

    @property
    def is_short(self) -> bool:
        """Whether the video ended in it."""
        return self.stop is None or self.frames < self.stop - self.start

    def write(self, folder: Path, job: str) -> None:
        """Write it down beside the piece, whose job it was too."""
        content = {
            "job": job,
            "start": self.start,
            "stop": self.stop,
            "frames": self.frames,
            "size": self.size,
            "whole": [whole.to_dict() for whole in self.whole],
        }
        write_text(_note_path(folder, self.start), json.dumps(content))

    @classmethod
    def read(cls, folder: Path, start: int, job: str | None = None) -> PieceNote:
        """Raises ``OSError``, ``KeyError``, ``TypeError`` or ``ValueError`` for what :meth:`write` has not made, and
        ``ValueError`` for a piece of another job than ``job``, where that is given."""
        content = json.loads(_note_path(folder, start).read_text(encoding="utf-8"))
        if job is not None and content["job"] != job:
            raise ValueError("another job")
        stop = content["stop"]
        width, height = content["size"]
        whole = tuple(Whole.from_dict(entry) for entry in content["whole"])
        return cls(
            int(content["start"]), None if stop is None else int(stop), int(content["frames"]), (width, height), whole
        )


def folder_of(output: Path) -> Path:
    """Where the pieces of an output lie until they are joined."""
    return output.with_name(f".{output.name}.pieces")


def piece_path(folder: Path, start: int, suffix: str) -> Path:
    """The file of a piece."""
    return folder / f"{start:09d}{suffix}"


def _note_path(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.json"


def kept_pieces(folder: Path, job: str, suffix: str) -> list[PieceNote]:
    """The pieces of a job that were finished before, by their start. What belongs to another job is removed."""
    notes: list[PieceNote] = []
    if not folder.is_dir():
        return notes
    for path in sorted(folder.glob("*.json")):
        try:
            note = PieceNote.read(folder, int(path.stem), job)
        except (OSError, KeyError, TypeError, ValueError):
            continue
        if not note.frames or piece_path(folder, note.start, suffix).is_file():
            notes.append(note)
    if not notes:
        remove(folder)
    return notes


def remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def missing(
    total: int, capped: bool, kept: Sequence[PieceNote], jobs: int, segment: int
) -> Iterator[tuple[int, int | None]]:
    """(start, stop) of the pieces that are yet to be made of a video of about ``total`` frames.

    Pieces begin with a segment, of ``segment`` frames. The last one goes on to the end of the video, wherever that is,
    unless ``capped``: then no frame after ``total`` is wanted.
    """
    segments = -(-total // segment)
    length = segment * min(MOST_SEGMENTS, max(1, segments // (2 * jobs)))
    at = 0
    for note in (*sorted(kept, key=lambda note: note.start), None):
        gap_end = total if note is None else note.start
        while at < gap_end:
            stop = min(at + length, gap_end)
            yield at, None if note is None and stop == total and not capped else stop
            at = stop
        if note is not None:
            if note.stop is None:
                return
            at = note.stop


def are_whole(notes: Sequence[PieceNote]) -> bool:
    """Whether pieces, by their start, are one video: each begins where the last ended, and none goes on after the end.

    A file may hold fewer frames than it says, so the last pieces may be empty.
    """
    at, ended = 0, False
    for note in notes:
        if (note.start != at and not ended) or (ended and note.frames):
            return False
        ended = ended or note.is_short
        at = note.start + note.frames
    return any(note.frames for note in notes)
