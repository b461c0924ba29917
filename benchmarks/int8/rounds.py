"""Times of contenders that take turns, and how much other work ran meanwhile."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import common
from runtime.stats import cores_here

TURN_SECONDS, MOST_FRAMES = 0.25, 10  # of one turn, and the frames it has at most

Run = Callable[[], object]


@dataclass
class Times:
    """Milliseconds a frame, one entry a round: on the clock, and of the processor (all threads of this process)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def median(self, kind: str) -> float:
        return statistics.median(self.of(kind))

    def of(self, kind: str) -> list[float]:
        """``wall`` or ``cpu``."""
        return self.cpu if kind == "cpu" else self.wall


def take_turns(contenders: Mapping[str, Run], rounds: int, label: str) -> dict[str, Times]:
    """Let each contender run in every round, another one first each time.

    A turn begins with a frame that is not counted: it brings the contender's memory back into the caches and lets the
    threads of the one before go to sleep. Then come frames for a quarter of a second, at most ten.
    """
    times = {name: Times() for name in contenders}
    order = list(contenders)
    for number in range(rounds):
        place = number % len(order)
        for name in (*order[place:], *order[:place]):
            run, taken = contenders[name], times[name]
            begin = time.perf_counter()
            run()
            frames = min(MOST_FRAMES, 1 + int(TURN_SECONDS / max(1e-6, time.perf_counter() - begin)))
            cpu, begin = time.process_time(), time.perf_counter()
            for _ in range(frames):
                run()
            taken.wall.append(1e3 * (time.perf_counter() - begin) / frames)
            taken.cpu.append(1e3 * (time.process_time() - cpu) / frames)
        common.say(f"{label}: round {number + 1} of {rounds}")
    return times


def ratios(slow: Times, fast: Times, kind: str) -> list[float]:
    """How many times as long ``slow`` takes, round by round; ``kind`` is ``wall`` or ``cpu``."""
    return [a / b for a, b in zip(slow.of(kind), fast.of(kind), strict=True)]


def ratio(slow: Times, fast: Times, kind: str) -> float:
    """The median of :func:`ratios`."""
    return statistics.median(ratios(slow, fast, kind))


class Watch:
    """How busy others than this process and its children kept the cores since the watch was made."""

    def __init__(self) -> None:
        self._begin = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        spent = os.times()  # children count once they have ended
        return busy_seconds() or 0.0, sum(spent[:4]), time.perf_counter()

    def load(self) -> float:
        """Busy share of the cores that was not this process, 0..1; the load average where the system tells no more."""
        busy, own, seconds = (now - then for now, then in zip(self._now(), self._begin, strict=True))
        if busy_seconds() is None:
            return os.getloadavg()[0] / cores_here() if hasattr(os, "getloadavg") else 0.0
        return min(1.0, max(0.0, (busy - own) / max(seconds, 1e-6) / cores_here()))


def kind_of(load: float) -> str:
    """What times are judged on: ``wall``, or ``cpu`` where the load of others is above :data:`common.BUSY`."""
    return "cpu" if load > common.BUSY else "wall"


def busy_seconds() -> float | None:
    """Seconds that the cores of this process have been busy since the machine started, None where nothing tells."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = 0
        for words in (line.split() for line in lines):
            if words and words[0] in mine:
                user, nice, system, _, _, irq, softirq, steal = (int(word) for word in words[1:9])
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
