"""What is known of a video file that is not finished, in a small file beside it: ``.out.mp4.job``.

The first line says which run it is, in words and digests; each of the others describes a segment that was written whole
(see :class:`runtime.video.segments.Whole`). The file also is the lock that keeps a second run from the same output.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from runtime.errors import VideoError, message_of
from runtime.video.segments import Whole, stored_segments
from runtime.video.sink import PARTIAL

FORMAT = 1
_LARGEST = 1 << 28  # bytes of a journal that is read


class Journal:
    """The journal of the output ``path``. A context manager that gives the lock back.

    ``facts``: which run has left it, None where none has. ``whole``: its segments. ``cuts``: for each of them the
    number of the frame with which the last shot in it begins.

    Raises :class:`VideoError` where another run has the lock, or the journal cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.output = path
        self._path = path.with_name(f".{path.name}.job")
        self._file = self._locked()
        self.facts: dict[str, str] | None = None
        self.whole: list[Whole] = []
        self.cuts: list[int] = []
        self._ends = [0]  # of the lines, in bytes
        self._origin: Path | None = None
        self._read()

    def _locked(self) -> int:
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
            except OSError as error:
                raise VideoError(f"{self.output} cannot be written: {message_of(error)}") from error
            try:
                _lock(file)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file), self._path.stat()):
                        return file
            except BlockingIOError:
                os.close(file)
                raise VideoError(
                    f"another run is writing {self.output}: wait for its end, or give this one another output"
                ) from None
            os.close(file)  # the run that had it has just removed it

    def _read(self) -> None:
        os.lseek(self._file, 0, os.SEEK_SET)
        with os.fdopen(os.dup(self._file), "rb") as file:
            for number, line in enumerate(file.read(_LARGEST).splitlines(keepends=True)):
                try:
                    content: dict[str, Any] = json.loads(line if line.endswith(b"\n") else b"")
                    if number == 0:
                        if content["format"] != FORMAT:
                            return
                        self.facts = {str(name): str(value) for name, value in content["run"].items()}
                    else:
                        whole, cut = Whole.from_dict(content), int(content["cut"])
                        self.whole.append(whole)
                        self.cuts.append(cut)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    return  # its writer was killed here
                self._ends.append(self._ends[-1] + len(line))

    # -- writing --------------------------------------------------------------------------------

    def begin(self, facts: Mapping[str, str]) -> None:
        """A run that begins with the first frame."""
        self.moved.unlink(missing_ok=True)
        self.facts = dict(facts)
        self.whole, self.cuts, self._ends = [], [], [0]
        self._append({"format": FORMAT, "run": self.facts})

    def keep(self, count: int) -> None:
        """Only the first ``count`` segments are there."""
        del self.whole[count:], self.cuts[count:], self._ends[count + 2 :]
        os.ftruncate(self._file, self._ends[-1])

    def note(self, whole: Whole, cut: int) -> None:
        """A segment more. ``cut``: the frame with which the shot begins that its last frame belongs to."""
        self.whole.append(whole)
        self.cuts.append(cut)
        self._append({**whole.to_dict(), "cut": cut})

    def _append(self, content: dict[str, Any]) -> None:
        line = json.dumps(content).encode() + b"\n"
        os.ftruncate(self._file, self._ends[-1])
        os.lseek(self._file, self._ends[-1], os.SEEK_SET)
        os.write(self._file, line)
        os.fsync(self._file)
        self._ends.append(self._ends[-1] + len(line))

    # -- what is left of a run ------------------------------------------------------------------

    @property
    def moved(self) -> Path:
        """Where the file of a run that is continued is kept until the new one holds as much."""
        return self.output.with_name(f".{self.output.stem}.left{self.output.suffix}")

    def find(self) -> Path | None:
        """The file that holds most of the segments, moved out of the way of a new one; None: there is none.

        After a kill that is the hidden part; after Ctrl-C or an error the output itself, or what has ``.partial`` at
        the end of its name.
        """
        counts = self._counts()
        best = max(counts, key=lambda place: counts[place], default=None)
        if best is None or not counts[best]:
            return None
        if best != self.moved:
            best.replace(self.moved)
            self._origin = best
        return self.moved

    def tidy(self) -> None:
        """The run ends before it is complete: what was moved away is not needed where another file holds as much, and
        else goes back."""
        if not self.moved.exists():
            return
        counts = self._counts()
        kept = counts.pop(self.moved, 0)
        if kept <= max(counts.values(), default=0):
            self.moved.unlink()
        elif self._origin is not None and not self._origin.exists():
            self.moved.replace(self._origin)

    @property
    def _part(self) -> Path:
        return self.output.with_name(f".{self.output.stem}.part{self.output.suffix}")

    def _counts(self) -> dict[Path, int]:
        """How many of the segments each of the files holds that there are."""
        places = (self.moved, self._part, self.output.with_name(self.output.name + PARTIAL), self.output)
        return {
            place: sum(1 for _ in stored_segments(place, self.whole))
            for place in places
            if place.is_file() and place.stat().st_size
        }

    def remove(self) -> None:
        """The run is complete, or cannot be continued: nothing of it is left here. The lock stays."""
        for place in (self.moved, self._path):
            with contextlib.suppress(OSError):
                place.unlink()

    def close(self) -> None:
        """Give the lock back. A journal of no segment is not left behind. Calling it twice is harmless."""
        if self._file < 0:
            return
        if not self.whole:
            self.remove()
        os.close(self._file)
        self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock(file: int) -> None:
    """Raises ``BlockingIOError`` where another process has the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BlockingIOError from None
        # a file system without locks
