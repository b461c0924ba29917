"""Calls that may hang or fail, made in a thread of their own, one after the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CallTimeoutError(Exception):
    """The call, or one in front of it, did not return in time."""


class Call(Generic[T]):
    """A call under way. ``result`` waits for it."""

    def __init__(self, work: Callable[[], T], begin_by: float) -> None:
        self._work: Callable[[], T] | None = work
        self._done = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        self._deadline = begin_by

    def run(self) -> None:
        work, self._work = self._work, None  # what it holds is free when it is done
        assert work is not None
        try:
            self._value = work()
        except BaseException as error:
            self._error = error
        self._done.set()

    def result(self) -> T:
        """What the call returned; raises what it raised, or :class:`CallTimeoutError`."""
        if not self._done.wait(max(0.0, self._deadline - time.monotonic())):
            raise CallTimeoutError
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


class WatchedThread:
    """Runs calls in order. A call that hangs cannot be ended, so it is left behind: those after it fail at once until
    it returns, and nobody waits for it when this is closed.

    Args:
        timeout: seconds that a call may take, counted from when it is given, those in front of it included.
        limit: calls that may wait; one more fails at once.
    """

    def __init__(self, timeout: float, limit: int = 8) -> None:
        self._timeout, self._limit = timeout, limit
        self._calls: deque[Call[object]] = deque()
        self._wake = threading.Condition()
        self._running: Call[object] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="faces", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], T]) -> Call[T]:
        """Give a call. Its result has to be asked for by the caller."""
        call = Call(work, time.monotonic() + self._timeout)
        with self._wake:
            if self._closed or len(self._calls) >= self._limit or self._overdue():
                call._deadline = 0.0  # never begun: asking for the result tells at once
                return call
            self._calls.append(call)  # type: ignore[arg-type]
            self._wake.notify()
        return call

    def _overdue(self) -> bool:
        return self._running is not None and time.monotonic() > self._running._deadline

    def _work(self) -> None:
        while True:
            with self._wake:
                self._running = None
                while not self._calls and not self._closed:
                    self._wake.wait()
                if self._closed:
                    return
                call = self._calls.popleft()
                if time.monotonic() > call._deadline:
                    continue  # given up by whoever asked
                self._running = call
            call.run()

    def close(self, patience: float = 2.0) -> bool:
        """Begin nothing more and wait ``patience`` seconds for what runs. False: it hangs."""
        with self._wake:
            self._closed = True
            self._calls.clear()
            self._wake.notify()
        self._thread.join(patience)
        return not self._thread.is_alive()
