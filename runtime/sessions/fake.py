"""A session without a model, for tests of pipeline and command line. It is no way to claim a result."""

from __future__ import annotations

import time

import numpy as np

from runtime.frames import Frames
from runtime.sessions.base import Pending, Session, SessionInfo


class FakeSession(Session):
    """Repeats every pixel ``scale`` times per axis.

    Args:
        scale: output size over input size.
        delay: seconds each request takes.
        fail_at: number of the request (from 0) that raises ``RuntimeError``, or None.
    """

    def __init__(self, scale: int = 2, delay: float = 0.0, fail_at: int | None = None, in_flight: int = 2) -> None:
        self.scale = scale
        self.info = SessionInfo("fake", "fp32", "fake", "none", 1, in_flight)
        self.requests = self.resets = 0
        self.closed = False
        self._delay, self._fail_at = delay, fail_at

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        number, self.requests = self.requests, self.requests + 1

        def wait() -> Frames:
            time.sleep(self._delay)
            if number == self._fail_at:
                raise RuntimeError(f"fake failure at request {number}")
            result = frames.repeat(self.scale, axis=1).repeat(self.scale, axis=2)
            if out is None:
                return result
            np.copyto(out, result)
            return out

        return Pending(wait)

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.closed = True
