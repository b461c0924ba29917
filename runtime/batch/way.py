"""The way of one file through a batch: as a whole, or planned, made in pieces and joined."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.batch.files import FilePair
from runtime.batch.pieces import PieceNote, are_whole, folder_of, kept_pieces, missing, remove
from runtime.batch.work import Join, Made, Piece, Plan, Planned, Whole
from runtime.video.sink import PARTIAL


class FileWork:
    """One file, as the scheduler sees it; see :class:`runtime.batch.scheduler.Work`.

    ``warnings`` grows. ``total``: frames of the file, once that is known. ``kept``: of them those that were made before
    it was begun. ``pieces``: how many it was made in, 1 where it was not divided.

    Args:
        job: identity of the pieces that may be put together.
        jobs: workers that may share it.
        segment: frames that are encoded by themselves, of which pieces consist.
        divide: whether a long video may be made in pieces: not where each frame depends on the one before.
        max_frames: no more than so many are wanted.
    """

    def __init__(
        self, pair: FilePair, job: str, *, jobs: int, segment: int, divide: bool, max_frames: int | None
    ) -> None:
        self.pair = pair
        self.warnings: list[str] = []
        self.total: int | None = None
        self.kept = 0
        self.pieces = 1
        self._job, self._jobs, self._segment = job, jobs, segment
        self._divide, self._max_frames = divide, max_frames
        self._planned = Planned(None, False)
        self._notes: list[PieceNote] = []
        self._made = 0  # frames in pieces
        self._unfit = False
        self._stages = self._way()

    def ready(self) -> Sequence[Any]:
        return next(self._stages, [])

    def take(self, task: Any, result: Any) -> int:
        if isinstance(task, Plan):
            self._planned = result
            return 0
        made: Made = result
        self.warnings += [warning for warning in made.warnings if warning not in self.warnings]
        self._unfit = self._unfit or made.unfit
        if isinstance(task, Piece):
            self._made += made.frames
            if made.note is None:
                self._unfit = True
            else:
                self._notes.append(made.note)
        return made.frames - (self._made if isinstance(task, Whole) else 0)  # then the pieces were in vain

    def _way(self) -> Iterator[list[Any]]:
        if not self.pair.is_picture:
            yield [Plan(self.pair)]
            self.total = self._planned.frames
            capped = self._max_frames is not None and (self.total is None or self._max_frames < self.total)
            if capped:
                self.total = self._max_frames
            if self._divide and self._planned.divisible and self.total is not None and self.total > self._segment:
                yield from self._in_pieces(self.total, capped)
                if not self._unfit:
                    return
                self.kept, self.pieces = 0, 1
                remove(folder_of(self.pair.output))
        yield [Whole(self.pair)]

    def _in_pieces(self, total: int, capped: bool) -> Iterator[list[Any]]:
        """Ends early, ``_unfit`` being set, where the pieces do not make the file."""
        folder = folder_of(self.pair.output)
        self._notes = kept_pieces(folder, self._job, self.pair.output.suffix)
        self.kept = sum(note.frames for note in self._notes)
        todo = list(missing(total, capped, self._notes, self._jobs, self._segment))
        if todo:
            yield [Piece(self.pair, self._job, start, stop) for start, stop in todo]
        notes = sorted(self._notes, key=lambda note: note.start)
        self._unfit = self._unfit or not are_whole(notes)
        if self._unfit:
            return
        self.pieces = len(notes)
        yield [Join(self.pair, tuple(notes))]
        if not self._unfit:
            remove(folder)

    def tidy(self, complete: bool) -> None:
        """Remove what workers that were ended have left, and with a complete file also what was left instead of it."""
        output = self.pair.output
        leftovers = [output.with_name(f".{output.stem}.part{output.suffix}"), output.with_name(f".{output.name}.part")]
        if complete:
            leftovers.append(output.with_name(output.name + PARTIAL))
        for path in leftovers:
            with contextlib.suppress(OSError):
                path.unlink()
