"""A session without a model, for tests of pipeline and command line. It is no way to claim a result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from runtime.codes import Numbers
from runtime.frames import Frames
from runtime.manifest import Port
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.codes import CodeInputs


class FakeSession(Session):
    """Repeats every pixel ``scale`` times per axis.

    Args:
        scale: output size over input size.
        delay: seconds each request takes.
        fail_at: number of the request (from 0) that raises ``RuntimeError``, or None.
        codes: inputs with the role code. They change nothing; ``seen`` has what each request would have been computed
            with.
    """

    def __init__(
        self,
        scale: int = 2,
        delay: float = 0.0,
        fail_at: int | None = None,
        in_flight: int = 2,
        codes: Sequence[Port] = (),
    ) -> None:
        self.scale = scale
        self.code_inputs = CodeInputs.of(codes)
        self.seen: list[Mapping[str, Numbers]] = []
        self.info = SessionInfo("fake", "fp32", "fake", "none", 1, in_flight)
        self.requests = self.resets = 0
        self.closed = False
        self._delay, self._fail_at = delay, fail_at

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        number, self.requests = self.requests, self.requests + 1
        self.seen.append(self.code_inputs.arrays(frames.shape))

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
