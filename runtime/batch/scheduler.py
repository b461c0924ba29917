"""What is done when, by whom, and what happens when it goes wrong. Knows nothing of video or of processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.batch.pool import Died, Done, Event, Pool, Told
from runtime.errors import GenedgeError, message_of

POLL = 0.2  # seconds between two looks at Ctrl-C


class Work(Protocol):
    """The way of one file: which tasks it takes, each known once those before it are done."""

    def ready(self) -> Sequence[Any]:
        """All tasks that can be carried out now, at the same time; empty once everything is done.

        Called again when all of the last answer are done.
        """
        ...

    def take(self, task: Any, result: Any) -> int:
        """A task is done. Returns the frames that it has added to the file.

        Raises what keeps the file from being finished.
        """
        ...


@dataclass(eq=False)
class Progression:
    """How far one file is. ``seconds``: from its first task to its end. ``retries``: tasks that were done again."""

    work: Work
    outcome: str = "left"  # then complete or failed
    error: str | None = None
    frames: int = 0
    retries: int = 0
    seconds: float = 0.0
    waiting: list[Any] = field(default_factory=list)
    running: dict[int, int] = field(default_factory=dict)  # key of a task -> frames of it that are done
    begun: float | None = None

    @property
    def ended(self) -> bool:
        return self.outcome != "left"

    @property
    def frames_so_far(self) -> int:
        """Frames of finished tasks, and of those that are under way."""
        return self.frames + sum(self.running.values())


@dataclass(frozen=True)
class _Given:
    """A task that a worker has. ``attempt`` counts from 0."""

    file: Progression
    task: Any
    attempt: int


class Scheduler:
    """Carries the works of all files out, in their order: a worker that is free takes the first task there is.

    Args:
        works: one for each file.
        pool: who does it.
        retries: how often a task is given again whose worker has died, or that failed for a reason that may pass.
        begins: called with each file before its first task is given.
        ended: called with each file that is complete or failed, as soon as it is.
        seen: called at least every ``POLL`` seconds.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        works: Sequence[Work],
        pool: Pool,
        *,
        retries: int,
        begins: Callable[[Progression], None] = lambda file: None,
        ended: Callable[[Progression], None] = lambda file: None,
        seen: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.files = [Progression(work) for work in works]
        self._open = list(self.files)
        self._pool, self._retries = pool, retries
        self._begins, self._ended, self._seen, self._clock = begins, ended, seen, clock
        self._given: dict[int, _Given] = {}
        self._again: list[_Given] = []
        self._keys = 0

    def run(self, interrupts: Callable[[], int] = lambda: 0) -> None:
        """Return when every file has ended.

        ``interrupts``: how often Ctrl-C was pressed; after the first, what is under way is finished and nothing new is
        begun, after the second everything is left at once.
        """
        while True:
            if interrupts() > 1:
                return
            if not interrupts():
                while self._pool.room > 0 and (given := self._next()) is not None:
                    self._give(given)
            if not self._given:
                return
            for event in self._pool.wait(POLL):
                self._handle(event)
            self._seen()

    def _next(self) -> _Given | None:
        if self._again:
            return self._again.pop(0)
        for file in self._startable():
            return _Given(file, file.waiting.pop(0), 0)
        return None

    def _startable(self) -> Iterator[Progression]:
        """Files with a task that can be given, the first ones first."""
        for file in list(self._open):
            if file.begun is None:
                file.begun = self._clock()
                self._begins(file)
                self._refill(file)
            if file.waiting:
                yield file

    def _refill(self, file: Progression) -> None:
        """All tasks of a file so far are done: see what comes next."""
        file.waiting = list(file.work.ready())
        if not file.waiting:
            self._end(file, None)

    def _give(self, given: _Given) -> None:
        self._keys += 1
        self._given[self._keys] = given
        given.file.running[self._keys] = 0
        self._pool.give(self._keys, given.task)

    def _handle(self, event: Event) -> None:
        given = self._given[event.key]
        file = given.file
        if isinstance(event, Told):
            file.running[event.key] = event.frames
            return
        del self._given[event.key], file.running[event.key]
        if file.ended:
            return  # another of its tasks has failed for good
        if isinstance(event, Done):
            try:
                file.frames += file.work.take(given.task, event.result)
                if not file.waiting and not file.running and all(again.file is not file for again in self._again):
                    self._refill(file)
            except (GenedgeError, OSError) as error:
                self._end(file, message_of(error))
        elif given.attempt < self._retries and (isinstance(event, Died) or not event.final):
            file.retries += 1
            self._again.append(_Given(file, given.task, given.attempt + 1))
        else:
            often = f" ({given.attempt + 1} times)" if given.attempt else ""
            self._end(file, event.error + often)

    def _end(self, file: Progression, error: str | None) -> None:
        file.outcome, file.error = ("complete", None) if error is None else ("failed", error)
        file.waiting = []
        self._again = [given for given in self._again if given.file is not file]
        self._open.remove(file)
        file.seconds = 0.0 if file.begun is None else self._clock() - file.begun
        self._ended(file)
