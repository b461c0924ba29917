"""What a batch has done in an output folder, so that the same command goes on where it was left."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from runtime.errors import GenedgeError, UsageError

NAME = ".batch.jsonl"
HEAD = 1 << 16  # bytes of an input that are part of its identity
BEGUN, COMPLETE, FAILED = "begun", "complete", "failed"


def job_of(source: Path, settings: str) -> str:
    """Identity of one file's job: the input's size, time of change and first bytes, and the digest of the settings.

    Raises ``OSError`` where the file cannot be read.
    """
    with source.open("rb") as file:
        status, head = os.fstat(file.fileno()), file.read(HEAD)
    facts = [status.st_size, status.st_mtime_ns, hashlib.sha256(head).hexdigest(), settings]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Journal:
    """Lines of JSON in ``OUT/.batch.jsonl``, one for each beginning and each end of a file. A context manager.

    A line says which job it was and, of outputs that are there, how large they are and when they were written: what has
    been changed since is nobody's. It is locked while it is open.

    Raises :class:`GenedgeError` where another batch has it open.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._file = (out / NAME).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise GenedgeError(
                f"another batch is writing to {out}: wait for it, or give another output folder"
            ) from None
        self._file.seek(0)
        self._last: dict[str, dict[str, Any]] = {}
        text = self._file.read()
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._last[entry["output"]] = entry
            except (ValueError, KeyError, TypeError):
                continue  # the power went while it was written
        if text and not text.endswith("\n"):
            self._file.write("\n")

    def must_do(self, output: Path, job: str, overwrite: bool) -> bool:
        """Whether a file is yet to be done; False: ``output`` is what this very job has made.

        Raises :class:`UsageError` where something else is there, unless it shall be overwritten.
        """
        entry = self._last.get(str(output.relative_to(self._out)))
        try:
            status = output.stat()
        except FileNotFoundError:
            return True
        if entry is not None and entry.get("job") == job:
            if entry.get("outcome") == BEGUN:
                return True  # the batch was killed right there: nothing was there when it began
            if [entry.get("size"), entry.get("mtime_ns")] == [status.st_size, status.st_mtime_ns]:
                return bool(entry.get("outcome") != COMPLETE)
        if overwrite:
            return True
        why = "was made from another input, or with other bundles or options" if entry else "exists"
        raise UsageError(f"{output} {why}: add --overwrite to replace it")

    def note(self, output: Path, job: str, outcome: str) -> None:
        """Write down what became of a file."""
        place = str(output.relative_to(self._out))
        entry: dict[str, Any] = {"output": place, "job": job, "outcome": outcome}
        if outcome != BEGUN and output.exists():
            status = output.stat()
            entry |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
        self._last[place] = entry
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
