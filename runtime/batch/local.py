"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from runtime.batch.pool import Carrier, Died, Done, Event, Failed, Pool, Told
from runtime.errors import GenedgeError, message_of

TELL_EVERY = 0.2  # seconds between two words about progress
LAST_WORDS = 2.0  # seconds that a process which is told to end gets


class LocalPool(Pool):
    """``jobs`` processes, each with a :data:`~runtime.batch.pool.Carrier` of its own that ``make`` gives there.

    They are spawned, not forked: engines and their threads do not survive a fork. Each ends by itself when this process
    is gone, however that came. Ctrl-C reaches this process only.
    """

    def __init__(self, jobs: int, make: Callable[[], Carrier]) -> None:
        self._make, self._jobs = make, jobs
        self._workers: list[_Worker] = []

    @property
    def room(self) -> int:
        return self._jobs - sum(worker.key is not None for worker in self._workers)

    def give(self, key: int, task: Any) -> None:
        for worker in self._workers:
            if worker.key is None and worker.give(key, task):
                return
        self._workers = [worker for worker in self._workers if worker.process.is_alive()]
        worker = _Worker(self._make)
        self._workers.append(worker)
        worker.key = key
        worker.give(key, task)  # one that has died already is found by wait()

    def wait(self, seconds: float) -> list[Event]:
        busy = {worker.connection: worker for worker in self._workers if worker.key is not None}
        if not busy:
            time.sleep(seconds)
            return []
        events: list[Event] = []
        for ready in wait(list(busy), seconds):
            assert isinstance(ready, Connection)
            events += self._hear(busy[ready])
        return events

    def _hear(self, worker: _Worker) -> Iterator[Event]:
        key = worker.key
        assert key is not None
        try:
            while worker.connection.poll():
                kind, *rest = worker.connection.recv()
                if kind == "told":
                    yield Told(key, *rest)
                    continue
                worker.key = None
                yield (Done if kind == "done" else Failed)(key, *rest)
                return
        except (EOFError, OSError):
            self._workers.remove(worker)
            yield Died(key, worker.farewell())

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.farewell()
        self._workers = []


class _Worker:
    """One process, and the line to it."""

    def __init__(self, make: Callable[[], Carrier]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.key: int | None = None
        self.process = context.Process(target=_serve, args=(theirs, make), name="batch worker", daemon=True)
        with _sigint_blocked():  # a process is born with the signals blocked that its parent blocks
            self.process.start()
        theirs.close()

    def give(self, key: int, task: Any) -> bool:
        """False: it is gone."""
        try:
            self.connection.send(task)
        except OSError:
            return False
        self.key = key
        return True

    def farewell(self) -> str:
        """Wait for the process to end, and say how it did."""
        self.connection.close()
        self.process.join(LAST_WORDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            perhaps = ": it may have been out of memory (take fewer --jobs)" if -code == signal.SIGKILL else ""
            return f"its worker process was ended by {name}{perhaps}"
        return f"its worker process ended with exit code {code}"


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, make: Callable[[], Carrier]) -> None:
    """Carry out tasks until the parent is gone. Runs in the worker."""
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                tasks.put(connection.recv())
        except (EOFError, OSError):  # nobody wants the result any longer, and no frame may be computed for nobody
            os._exit(1)

    threading.Thread(target=listen, name="batch parent", daemon=True).start()
    lock = threading.Lock()

    def send(*message: Any) -> None:
        with lock:  # progress is told by another thread than results
            connection.send(message)

    carrier: Carrier | None = None
    while True:
        task = tasks.get()
        try:
            carrier = carrier or make()
            send("done", carrier(task, Teller(lambda frames: send("told", frames))))
        except Exception as error:
            send("failed", *verdict_on(error))


class Teller:
    """Passes frame counts on, but not all too often."""

    def __init__(self, send: Callable[[int], None], every: float = TELL_EVERY) -> None:
        self._send, self._every, self._next = send, every, 0.0

    def __call__(self, frames: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._send(frames)


def verdict_on(error: Exception) -> tuple[str, bool]:
    """(sentence, whether trying again is in vain) of what a task has raised."""
    if isinstance(error, MemoryError):
        return "out of memory: take fewer --jobs or smaller tiles (--tile 256)", False
    if isinstance(error, (GenedgeError, OSError)):
        return message_of(error), isinstance(error, GenedgeError)
    return f"{type(error).__name__}: {error}", False
