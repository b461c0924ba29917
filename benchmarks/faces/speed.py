"""``python -m runtime deid`` beside ``deface``: whole processes, file to file, in turns."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import GenedgeError, UsageError

FASTER = {"solid": 4.0, "average": 3.0}  # times deface's speed on the clock


@dataclass
class Runs:
    """Seconds of one command's runs: ``wall`` on the clock, ``cpu`` of all its threads and children."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def deface_at(place: str | None) -> Path | None:
    """The peer's executable: ``place``, else the one on the PATH, else None."""
    if place:
        found = shutil.which(place)
        if found is None:
            raise UsageError(f"{place} is no executable: --deface takes the path of deface (pip install deface)")
        return Path(found)
    found = shutil.which("deface")
    return Path(found) if found else None


def deid_command(clip: Path, output: Path, method: str, *extra: str) -> list[str]:
    """Ours."""
    verb = [sys.executable, "-m", "runtime", "deid", "-i", str(clip), "-o", str(output), "--method", method]
    return [*verb, "--overwrite", "--quiet", *extra]


def timed(command: Sequence[str], output: Path, runs: Runs) -> None:
    """Run a command once to its end, and note what it took.

    Raises :class:`runtime.errors.GenedgeError` where it fails or leaves no output, for a tool that exits with 0 when
    it has failed is not faster.
    """
    output.unlink(missing_ok=True)
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or not output.is_file() or not output.stat().st_size:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        name = "deid" if "deid" in command else Path(command[0]).name
        raise GenedgeError(f"{name} left no output (exit code {done.returncode}): {last}")
    runs.wall.append(wall)
    runs.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def in_turns(commands: dict[str, tuple[Sequence[str], Path]], rounds: int) -> dict[str, Runs]:
    """``rounds`` runs of each command (name: command, its output), one after the other, and backwards every other
    time, so that none always follows the same one. The first round warms up the file cache and is not counted."""
    taken = {name: Runs() for name in commands}
    for turn in range(rounds + 1):
        names = list(commands) if turn % 2 == 0 else list(reversed(commands))
        for name in names:
            command, output = commands[name]
            timed(command, output, Runs() if turn == 0 else taken[name])
    return taken


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of each round's ratio."""
    return statistics.median(first / second for first, second in zip(slow, fast, strict=True))
