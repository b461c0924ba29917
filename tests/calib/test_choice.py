from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.choice import NEAR, Candidates, choose


def made_up(sizes: list[int], scenes: int = 1, levels: int = 256, seed: int = 0) -> Candidates:
    """``sizes[s]`` random candidates of each source, in order of their frames, ``scenes`` scenes a source."""
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    thumbnails = rng.integers(0, levels, (count, 12), dtype=np.uint8)
    source = np.repeat(np.arange(len(sizes)), sizes)
    frame = np.concatenate([np.sort(rng.choice(4 * size + 1, size, replace=False)) for size in sizes])
    part = np.concatenate([np.sort(rng.integers(0, scenes, size)) for size in sizes])
    return Candidates(
        thumbnails=thumbnails,
        looks=thumbnails[:, :5].astype(np.float32),
        brightness=thumbnails.mean(axis=1),
        saturation=rng.uniform(0, 255, count),
        source=source,
        scene=source * scenes + part,
        frame=frame,
    )


def excluded(candidates: Candidates, one: int, other: int, run_length: int) -> bool:
    """Whether two candidates may not be chosen together."""
    thumbnails = candidates.thumbnails.astype(int)
    near = np.abs(thumbnails[one] - thumbnails[other]).max() <= NEAR
    same = candidates.source[one] == candidates.source[other]
    return bool(near or (same and abs(candidates.frame[one] - candidates.frame[other]) < run_length))


# --- choice -----------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    count=st.integers(0, 60),
    scenes=st.integers(1, 4),
    run_length=st.integers(1, 9),
    levels=st.sampled_from([2, 8, 256]),  # two levels: everything is a near-duplicate
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_a_choice_is_distinct_complete_and_shared_among_the_sources(
    sizes: list[int], count: int, scenes: int, run_length: int, levels: int, seed: int
) -> None:
    candidates = made_up(sizes, scenes, levels, seed)
    chosen = choose(candidates, count, run_length=run_length, seed=seed)
    assert chosen == choose(candidates, count, run_length=run_length, seed=seed)
    assert len(chosen) <= count
    for one, other in itertools.combinations(chosen, 2):
        assert one != other
        assert not excluded(candidates, one, other, run_length)
    left = [
        index
        for index in range(len(candidates))
        if index not in chosen and not any(excluded(candidates, index, other, run_length) for other in chosen)
    ]
    if len(chosen) < count:
        assert not left  # fewer only where nothing else is left
    taken = np.bincount(candidates.source[chosen], minlength=len(sizes)) if chosen else np.zeros(len(sizes))
    for index in left:
        assert taken[candidates.source[index]] >= taken.max() - 1  # no source waits while another takes two more


def test_nothing_gives_nothing() -> None:
    assert choose(made_up([3]), 0) == []
    empty = made_up([1])
    assert choose(Candidates(*(getattr(empty, name)[:0] for name in vars(empty))), 5) == []


def test_the_seed_changes_the_choice() -> None:
    candidates = made_up([200])
    assert len({tuple(choose(candidates, 5, seed=seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("seed", range(5))
def test_the_most_saturated_the_darkest_and_the_brightest_are_in_a_small_set(seed: int) -> None:
    candidates = made_up([150], seed=seed)
    chosen = choose(candidates, 8, seed=seed)
    for wanted in (
        np.argmax(candidates.saturation),
        np.argmin(candidates.brightness),
        np.argmax(candidates.brightness),
    ):
        assert wanted in chosen


def test_an_eighth_is_reserved_for_saturated_colours() -> None:
    candidates = made_up([400])
    chosen = choose(candidates, 64)
    assert len(set(chosen) & set(np.argsort(-candidates.saturation)[:8])) == 8


def test_scenes_are_used_evenly_however_long_they_are() -> None:
    rng = np.random.default_rng(0)
    candidates = made_up([100])
    scene = np.repeat([0, 1, 2], [4, 6, 90])
    even = Candidates(**{**vars(candidates), "scene": scene, "saturation": rng.uniform(size=100)})
    taken = np.bincount(scene[choose(even, 12)])
    assert taken.min() >= 3


def test_looks_that_are_rare_are_found() -> None:
    """Two of a thousand differ: a random choice of ten would miss them nearly always."""
    candidates = made_up([1000])
    looks = np.random.default_rng(1).normal(0, 1, (1000, 5)).astype(np.float32)
    looks[[123, 456]] += [[100], [-100]]
    chosen = choose(Candidates(**{**vars(candidates), "looks": looks}), 10)
    assert {123, 456} <= set(chosen)
