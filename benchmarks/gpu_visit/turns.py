"""Contenders that take turns on one machine in one run, so that a disturbance meets all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_visit.record import Budget, TimeUpError, sentence


@dataclass(frozen=True)
class Turn:
    """One way to run frames. ``run`` takes a number of frames and gives milliseconds a frame: one number for all of
    them, or one for each. ``seconds``: how long a block of it is to last, of at most ``most`` frames."""

    who: str
    what: str
    run: Callable[[int], Sequence[float]]
    seconds: float
    most: int = 240

    def frames(self, milliseconds: float) -> int:
        """Of a block, where a frame takes so long."""
        return max(1, min(self.most, int(1e3 * self.seconds / max(milliseconds, 1e-3))))


@dataclass
class Taken:
    """What the turns of one contender have taken: ``what`` -> milliseconds a frame, a number for each round (the
    median of its block), and of all frames that were timed one by one."""

    rounds: dict[str, list[float]] = field(default_factory=dict)
    frames: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Medians in milliseconds, the 95th percentile where frames were timed one by one, and ratios by round."""
        found: dict[str, Any] = {}
        for what, values in self.rounds.items():
            found[f"{what}_ms"] = statistics.median(values)
        for what, values in self.frames.items():
            if len(values) >= 20:
                found[f"{what}_p95_ms"] = statistics.quantiles(values, n=20)[-1]
        for name, (slow, fast) in RATIOS.items():
            if slow in self.rounds and fast in self.rounds:
                found[name] = ratio(self.rounds[slow], self.rounds[fast])
        return found | {"rounds_ms": dict(self.rounds)}


#: ratio -> how many times as long the first takes as the second
RATIOS = {
    "session_over_engine": ("engine", "session"),
    "pipeline_over_session": ("session", "pipeline"),
    "graph_gain": ("engine_without_graph", "engine"),
}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as long ``slow`` takes: the median of the ratios in each round that both were in."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=False))


def take_turns(
    turns: Sequence[Turn],
    rounds: int,
    budget: Budget,
    *,
    each_round: Callable[[Mapping[str, Taken]], None] = lambda taken: None,
) -> dict[str, Taken]:
    """Let every turn run once in each round, in the given order first, then beginning with another one each time.

    In front of its first block a turn runs twice uncounted, which also tells how many frames its blocks have. A turn
    that fails is left out from then on, and its sentence kept. Nothing begins once the time is up. ``each_round`` gets
    what was found so far.
    """
    found: dict[str, Taken] = {turn.who: Taken() for turn in turns}
    counts: dict[int, int] = {}
    going = list(range(len(turns)))
    for number in range(rounds):
        first = number % len(going) if going else 0
        for place in (*going[first:], *going[:first]):
            turn, taken = turns[place], found[turns[place].who]
            try:
                budget.check()
                if place not in counts:
                    turn.run(1)
                    counts[place] = turn.frames(statistics.median(turn.run(1)))
                values = turn.run(counts[place])
            except TimeUpError as error:
                if turn.what not in taken.rounds:
                    taken.errors[turn.what] = sentence(error)
                continue
            except Exception as error:  # whatever an engine makes of it, the others go on
                taken.errors[turn.what] = sentence(error)
                taken.rounds.pop(turn.what, None)
                going.remove(place)
                continue
            taken.rounds.setdefault(turn.what, []).append(statistics.median(values))
            if len(values) > 1:
                taken.frames.setdefault(turn.what, []).extend(values)
        each_round(found)
        if not budget.left:
            break
    return found
