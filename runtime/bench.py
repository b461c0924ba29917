"""Time the variants of a bundle side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from runtime.bundle import Bundle
from runtime.engines.settings import DEFAULT_ENGINES, EngineOptions
from runtime.errors import GenedgeError
from runtime.sessions import Choice, SessionInfo, open_session
from runtime.tiles import fit_session

ROUNDS = 20
ENOUGH, LEAST = 120.0, 3  # seconds after which no further round begins, and rounds that there are at least


@dataclass(frozen=True)
class Timing:
    """Milliseconds a frame of one variant on one engine: every request waits for the one before it."""

    choice: Choice
    session: SessionInfo
    milliseconds: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.milliseconds))

    @property
    def p95_ms(self) -> float:
        return float(np.percentile(self.milliseconds, 95))

    def to_dict(self) -> dict[str, Any]:
        return {
            "variant": self.choice.variant,
            "backend": self.choice.backend,
            "precision": self.choice.precision,
            "device": self.session.device,
            "threads": self.session.threads,
            "median_ms": self.median_ms,
            "p95_ms": self.p95_ms,
            "fps": 1000 / self.median_ms,
        }


def bench(
    bundle: Bundle,
    choices: Sequence[Choice],
    height: int,
    width: int,
    rounds: int | None = None,
    threads: int = 0,
    progress: Callable[[str], None] = lambda text: None,
    engines: EngineOptions = DEFAULT_ENGINES,
) -> list[Timing]:
    """Run every choice on the same frame of ``height x width`` pixels, one after the other in each round.

    Taking turns spreads a disturbance of the machine over all of them. The frame is the bundle's first golden frame,
    resized. Without ``rounds`` there are ``ROUNDS``, or fewer where they take longer than ``ENOUGH`` seconds. Raises
    :class:`GenedgeError` where there is no golden frame.
    """
    bundle.manifest.check_gives_images()
    picture = next((frame for frame, _ in bundle.golden_frames()), None)
    if picture is None:
        raise GenedgeError(f"{bundle.folder} holds no golden frame to measure with: build it again")
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
    frame = np.ascontiguousarray(np.asarray(resized, dtype=np.uint8)[None])
    with ExitStack() as stack:
        sessions = []
        for choice in choices:
            progress(f"warming up {choice.variant} on {choice.backend} in {choice.precision}")
            inner = open_session(bundle, choice, threads=threads, in_flight=1, engines=engines)
            session = stack.enter_context(fit_session(inner, bundle.manifest.geometry, height, width, None))
            session.warm_up(tuple(frame.shape))
            sessions.append(session)
        out = np.empty(sessions[0].output_shape(frame.shape), dtype=np.uint8)
        times: list[list[float]] = [[] for _ in sessions]
        start, limit = time.perf_counter(), ENOUGH if rounds is None else math.inf
        for turn in range(rounds or ROUNDS):
            if turn >= LEAST and time.perf_counter() - start > limit:
                break
            progress(f"round {turn + 1} of {rounds or ROUNDS}")
            for session, taken in zip(sessions, times, strict=True):
                begin = time.perf_counter()
                session.infer(frame, out)
                taken.append(1e3 * (time.perf_counter() - begin))
        return [
            Timing(choice, session.info, tuple(taken))
            for choice, session, taken in zip(choices, sessions, times, strict=True)
        ]
