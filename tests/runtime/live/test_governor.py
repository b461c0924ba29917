"""The decision to become faster or more exact: traces of a stage's times, without engines."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.live.governor import Governor, Rules

LOOK = 0.5  # seconds between two looks
Costs = Callable[[float, int], float]  # (time, level) -> share of the time between two frames


def simulate(governor: Governor, cost: Costs, seconds: float, switching: float = 0.3) -> list[tuple[float, int]]:
    """(time, level) of every change; a change takes ``switching`` seconds, in which the old level goes on."""
    changes: list[tuple[float, int]] = []
    now, last = 0.0, 0.0
    while now < seconds:
        now += LOOK
        share = cost(now, governor.level)
        level = governor.look(now, share, missed=share > 1)
        if level is not None:
            now += switching
            governor.changed(now, level, share)
            changes.append((now, level))
        assert now > last
        last = now
    return changes


def steady(*costs: float) -> Costs:
    return lambda now, level: costs[level]


def test_a_stage_in_time_stays_as_it_is() -> None:
    assert simulate(Governor(3, 1), steady(1.5, 0.8, 0.4), 600) == []


def test_a_late_stage_goes_down_after_a_moment_and_stays_where_it_is_in_time() -> None:
    governor = Governor(3, 0)
    changes = simulate(governor, steady(2.0, 1.4, 0.8), 1200)
    assert [level for _, level in changes] == [1, 2]
    assert 1.5 <= changes[0][0] <= 3
    assert changes[1][0] - changes[0][0] < 4


def test_one_slow_moment_changes_nothing() -> None:
    assert simulate(Governor(2, 0), lambda now, level: 3.0 if now == 20 else 0.8, 60) == []


def test_lateness_without_frames_left_out_changes_nothing() -> None:
    governor = Governor(2, 0)
    assert all(governor.look(LOOK * step, 1.2, missed=False) is None for step in range(100))


def test_frames_that_something_else_loses_change_nothing() -> None:
    governor = Governor(2, 0)
    assert all(governor.look(LOOK * step, 0.3, missed=True) is None for step in range(100))


def test_the_fastest_stays_however_late_it_is() -> None:
    assert [level for _, level in simulate(Governor(2, 1), steady(9.0, 3.0), 600)] == []


def test_it_goes_back_up_when_a_load_has_gone() -> None:
    def cost(now: float, level: int) -> float:
        load = 2.5 if 10 <= now < 60 else 1.0
        return load * (0.6, 0.3)[level]

    changes = simulate(Governor(2, 0), cost, 300)
    assert [level for _, level in changes] == [1, 0]
    assert 11 <= changes[0][0] <= 14
    assert 65 <= changes[1][0] <= 70


def test_what_was_too_slow_once_is_not_tried_again_while_nothing_changes() -> None:
    """At first only a guess says that there is room; after that it is known that there is none."""
    changes = simulate(Governor(2, 1), steady(1.3, 0.3), 3600)
    assert [level for _, level in changes] == [0, 1]


def test_a_level_that_is_no_faster_is_left() -> None:
    assert [level for _, level in simulate(Governor(3, 0), steady(1.5, 1.6, 0.8), 1200)] == [1, 2]


def test_where_nothing_is_faster_the_exact_level_stays_in_the_end() -> None:
    """Down nothing was won, and back up nothing lost: then it was not a load that grew just then."""
    assert [level for _, level in simulate(Governor(2, 0), steady(1.5, 1.5), 3600)] == [1, 0]


def test_a_level_that_cannot_be_used_is_passed_over() -> None:
    governor = Governor(3, 0)
    asked = [governor.look(LOOK * step, 1.5, missed=True) for step in range(1, 5)]
    assert asked[-1] == 1
    governor.failed(1)
    asked = [governor.look(10 + LOOK * step, 1.5, missed=True) for step in range(1, 5)]
    assert asked[-1] == 2
    governor.failed(2)
    assert [governor.look(20 + LOOK * step, 1.5, missed=True) for step in range(1, 9)] == [None] * 8


def test_a_load_that_comes_and_goes_is_followed_ever_more_slowly() -> None:
    """Twelve seconds with a load and twelve without, for an hour: the worst that there is for a hysteresis."""

    def cost(now: float, level: int) -> float:
        return (2.4 if now % 24 < 12 else 1.0) * (0.5, 0.25)[level]

    changes = simulate(Governor(2, 0), cost, 3600)
    ups = [now for now, level in changes if level == 0]
    gaps = [later - sooner for sooner, later in pairwise(ups)]
    assert len(changes) < 30  # 300 without the growing patience
    assert gaps == sorted(gaps) or max(gaps) > 100


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.05, 3.0), min_size=1, max_size=4),
    st.integers(0, 3),
    st.floats(0.0, 0.04),
    st.integers(0, 2**32),
)
@example([1.02, 0.97], 0, 0.04, 0)
def test_with_a_steady_load_it_comes_to_rest(costs: list[float], level: int, noise: float, seed: int) -> None:
    """No level is tried again and again, whatever they cost (2, 3 and 4 that are nearly alike: 8, 9 and 10 changes in
    20 minutes, the most of some thousand trials), and the end is the best that is in time, if any is."""
    costs, dice = sorted(costs, reverse=True), random.Random(seed)
    governor = Governor(len(costs), min(level, len(costs) - 1))
    changes = simulate(governor, lambda now, level: costs[level] * (1 + dice.uniform(-noise, noise)), 1200)
    assert len(changes) <= 3 * len(costs) + 2
    if costs[-1] < 0.9 and costs[governor.level] > 1.05:
        # only where all that is faster was found to be no faster
        assert costs[-1] > 0.9 * costs[governor.level]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 40), st.floats(0.1, 5.0)), min_size=1, max_size=40), st.integers(1, 4))
def test_it_never_flaps_whatever_the_load_does(loads: list[tuple[float, float]], levels: int) -> None:
    """No step down within 2.5 s and none up within 6 s of the last change, and ups that do not last become rarer."""
    total = sum(seconds for seconds, _ in loads)

    def cost(now: float, level: int) -> float:
        now %= total
        for seconds, load in loads:
            if now < seconds:
                return load * 0.5**level
            now -= seconds
        return 1.0

    rules = Rules()
    changes = simulate(Governor(levels, 0, rules), cost, 600)
    previous, level = -10.0, 0
    for now, new in changes:
        assert now - previous >= rules.settle + (rules.patience if new < level else rules.hold)
        previous, level = now, new
    assert len(changes) <= 75
