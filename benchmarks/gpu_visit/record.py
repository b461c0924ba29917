"""What a visit has found so far, in a file that is whole after every row: a visit may be cut off."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import common
from runtime.errors import GenedgeError, UsageError, message_of
from runtime.report import write_json

FORMAT = 1
BEGUN = "begun, and not ended: the process was stopped, or it crashed"


@dataclass(frozen=True)
class Row:
    """One measurement, or the sentence why there is none. ``step`` is open, build, parity or speed.

    ``who`` is what was measured: an engine and a precision, or a rival. ``size`` is (height, width) of the frames.
    """

    step: str
    bundle: str
    who: str
    size: tuple[int, int] | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass
class Record:
    """The rows of a visit and what they depend on."""

    path: Path
    conditions: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    finished: bool = False

    def add(self, row: Row) -> None:
        """Tell about a row, keep it, and write the file."""
        told = row.error or ", ".join(f"{name} {_short(value)}" for name, value in row.figures.items() if value)
        common.say(f"{row.step} {row.bundle} {row.who}: {told}")
        self.put(row)

    def put(self, row: Row) -> None:
        """Keep a row, in the place of an earlier one of the same measurement, and write the file."""
        key = _key(row)
        place = next((place for place, other in enumerate(self.rows) if _key(other) == key), len(self.rows))
        self.rows[place : place + 1] = [row]
        self.write()

    def finish(self) -> None:
        self.finished = True
        self.write()

    def write(self) -> None:
        content = {
            "format": FORMAT,
            "conditions": self.conditions,
            "finished": self.finished,
            "rows": [asdict(row) for row in self.rows],
        }
        write_json(self.path, content)

    def of(self, step: str) -> list[Row]:
        return [row for row in self.rows if row.step == step]

    def attempt(
        self,
        step: str,
        bundle: str,
        who: str,
        size: tuple[int, int] | None,
        body: Callable[[], dict[str, Any]],
    ) -> None:
        """Add the row with the figures that ``body`` gives, or with the sentence of its error.

        While it runs the row says that it has begun: where it takes the whole process down, it is not begun again. A
        row that an earlier visit has measured is left as it is.
        """
        begun = Row(step, bundle, who, size, error=BEGUN)
        earlier = next((row for row in self.rows if _key(row) == _key(begun)), None)
        if earlier is not None and (earlier.figures or earlier.error == BEGUN):
            common.say(f"{step} {bundle} {who}: measured before")
            return
        self.put(begun)
        try:
            figures = body()
        except Exception as error:  # whatever it is, it costs one row
            self.add(replace(begun, error=sentence(error)))
        else:
            self.add(replace(begun, figures=figures, error=""))


def _key(row: Row) -> tuple[Any, ...]:
    return row.step, row.bundle, row.who, row.size


def sentence(error: Exception) -> str:
    """An error as one line; its kind in front where it is none that was meant for a user."""
    lines = [line.strip() for line in message_of(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if isinstance(error, GenedgeError) else f"{type(error).__name__}: {text}"


def read_record(path: Path) -> Record:
    """What an earlier visit has written. Raises :class:`UsageError` where there is nothing that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            Row(row["step"], row["bundle"], row["who"], row["size"] and (row["size"][0], row["size"][1]),
                dict(row["figures"]), row["error"])
            for row in content["rows"]
        ]  # fmt: skip
        return Record(path, dict(content["conditions"]), rows, bool(content["finished"]))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}: name a visit's results with -o") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UsageError(f"{path}: holds no results of a visit") from None


class Budget:
    """Minutes that a visit may take, or a part of it."""

    def __init__(
        self, minutes: float, clock: Callable[[], float] = time.monotonic, seconds: float | None = None
    ) -> None:
        self.minutes, self._clock = minutes, clock
        self._end = clock() + (60 * minutes if seconds is None else seconds)

    @property
    def left(self) -> float:
        """Seconds, 0 where none is left."""
        return max(0.0, self._end - self._clock())

    def part(self, parts: int) -> Budget:
        """The time for the first of ``parts`` that are still to come."""
        return Budget(self.minutes, self._clock, self.left / max(1, parts))

    def check(self) -> None:
        """Raises :class:`TimeUpError` where no time is left."""
        if not self.left:
            raise TimeUpError(f"not measured: the time was up (--minutes {self.minutes:g})")


class TimeUpError(UsageError):
    """No time is left for a measurement."""


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{len(value)} values" if isinstance(value, Collection) and not isinstance(value, str) else str(value)
