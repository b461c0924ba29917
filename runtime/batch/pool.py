"""The seam between the scheduler and those who work for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

P = TypeVar("P", bound="Pool")  # typing.Self comes with Python 3.11; JetPack 6 has 3.10

#: What a worker calls with the frames of the present task that are done.
Tell = Callable[[int], None]
#: Does one task after the other in a worker; the result goes back to the scheduler. What it raises ends the task only.
Carrier = Callable[[Any, Tell], Any]


@dataclass(frozen=True)
class Told:
    """``frames`` of a task that is under way are done."""

    key: int
    frames: int


@dataclass(frozen=True)
class Done:
    """A task has ended well."""

    key: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A task has raised. ``final``: doing it again would give the same, such as a file that is broken."""

    key: int
    error: str
    final: bool


@dataclass(frozen=True)
class Died:
    """The worker of a task is gone, the task with it."""

    key: int
    error: str


Event = Told | Done | Failed | Died


class Pool(ABC):
    """Workers that each carry out one task at a time. A context manager: leaving it ends them at once."""

    @property
    @abstractmethod
    def room(self) -> int:
        """How many tasks can be given now."""

    @abstractmethod
    def give(self, key: int, task: Any) -> None:
        """Start a task; ``key`` names it in its events. A worker that has died is replaced here."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Event]:
        """What has happened since the last call; waits for something to happen, but not longer than ``seconds``."""

    @abstractmethod
    def close(self) -> None:
        """End all workers at once, whatever they do. Calling it twice is harmless."""

    def __enter__(self: P) -> P:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
