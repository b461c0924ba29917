"""What goes into a graph step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bundle_factory import CODE_MAP, CODES, small_manifest

from calib.feeds import CodeRule, Feed, Feeds, StateRule, code_rules
from runtime.codes import Code
from runtime.errors import GenedgeError
from runtime.frames import Frame

FRAMES = tuple(np.full((4, 6, 3), index, dtype=np.uint8) for index in range(5))
HIDDEN = StateRule("hidden", "hidden_out", channels=2)
BEFORE = StateRule("before", "frame", initial="frame")
BITS = Code("bits", 32, (-1,) * 32, -1, 1)
STYLE = Code("one-hot", 3, (1, 0, 0))
VECTOR = Code("vector", 2, (0, 0), -3, 5)


class Lazy(Sequence[Frame]):
    """Frames that say when they were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(FRAMES)

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        return FRAMES[index]


def fed(feeds: Feeds, skip: int = 0) -> list[tuple[int, Feed]]:
    """All steps; the net's ``hidden_out`` is the number of the step and one."""
    steps = []
    for step, feed in feeds.steps(skip):
        feed.accept({"hidden_out": np.full((1, 2, 4, 6), step + 1, dtype=np.float32)})
        steps.append((step, feed))
    return steps


def test_net_without_state_has_runs_of_one_frame() -> None:
    steps = fed(Feeds(FRAMES, "digest"))
    assert [step for step, _ in steps] == [0, 1, 2, 3, 4]
    for (_, feed), frame in zip(steps, FRAMES, strict=True):
        assert list(feed.inputs) == ["frame"]
        np.testing.assert_array_equal(feed.inputs["frame"], frame[None])
        assert feed.last_of_run


def test_frames_are_asked_for_when_their_step_comes() -> None:
    lazy = Lazy()
    steps = Feeds(lazy, "digest").steps()
    next(steps)
    assert lazy.asked == [0]
    next(steps)
    assert lazy.asked == [0, 1]


def test_frame_goes_in_under_its_name_and_in_one_piece() -> None:
    mirrored = FRAMES[0][:, ::-1]
    ((_, feed),) = Feeds([mirrored], "digest", frame_input="picture").steps()
    assert feed.inputs["picture"].flags.c_contiguous


RUNS = ((0, 1, 2), (4, 3))


def test_states_are_fed_back_and_reset_at_the_start_of_a_run_only() -> None:
    feeds = Feeds(FRAMES, "digest", runs=RUNS, states=(HIDDEN, BEFORE))
    assert len(feeds) == 5
    steps = fed(feeds)
    assert [feed.inputs["frame"].max() for _, feed in steps] == [0, 1, 2, 4, 3]
    assert [feed.inputs["before"].max() for _, feed in steps] == [0, 0, 1, 4, 4]
    assert [feed.inputs["hidden"].max() for _, feed in steps] == [0, 1, 2, 0, 4]
    assert [feed.last_of_run for _, feed in steps] == [False, False, True, False, True]
    first = steps[0][1].inputs["hidden"]
    assert (first.shape, first.dtype) == ((1, 2, 4, 6), np.float32)


def test_a_state_may_be_larger_than_the_frame() -> None:
    large = StateRule("before", "output", channels=3, scale=4)
    (_, first), *_ = Feeds(FRAMES, "digest", runs=RUNS, states=(large,)).steps()
    assert (first.inputs["before"].shape, first.inputs["before"].dtype) == ((1, 3, 16, 24), np.float32)
    assert not first.inputs["before"].any()


def test_the_frame_before_may_begin_black() -> None:
    steps = fed(Feeds(FRAMES, "digest", runs=((2, 3), (4, 1)), states=(StateRule("before", "frame"),)))
    assert [feed.inputs["before"].max() for _, feed in steps] == [0, 2, 0, 4]
    assert all(feed.inputs["before"].dtype == np.uint8 for _, feed in steps)
    assert all(feed.inputs["before"].shape == (1, 4, 6, 3) for _, feed in steps)


def test_a_state_may_be_another_state_of_the_step_before() -> None:
    older = StateRule("older", "before", initial="frame")
    steps = fed(Feeds(FRAMES, "digest", runs=((0, 1, 2, 3),), states=(BEFORE, older)))
    assert [feed.inputs["older"].max() for _, feed in steps] == [0, 0, 0, 1]


def test_steps_go_on_after_a_run() -> None:
    feeds = Feeds(FRAMES, "digest", runs=RUNS, states=(HIDDEN,), codes=(CodeRule("code", BITS),))
    for (number, feed), (expected, other) in zip(fed(feeds, skip=3), fed(feeds)[3:], strict=True):
        assert number == expected
        assert list(feed.inputs) == list(other.inputs)
        for name in feed.inputs:
            np.testing.assert_array_equal(feed.inputs[name], other.inputs[name])
    assert fed(feeds, skip=5) == []


@pytest.mark.parametrize("skip", [1, 2, 4])
def test_steps_do_not_go_on_in_the_middle_of_a_run(skip: int) -> None:
    with pytest.raises(ValueError, match="in the middle of a run"):
        fed(Feeds(FRAMES, "digest", runs=RUNS), skip)


def codes(feeds: Feeds, name: str = "code") -> list[list[float]]:
    return [feed.inputs[name].ravel().tolist() for _, feed in feeds.steps()]


def test_codes_differ_in_every_step_and_are_the_same_in_every_pass() -> None:
    feeds = Feeds(FRAMES, "digest", codes=(CodeRule("code", BITS), CodeRule("other", BITS)))
    assert codes(feeds) == codes(feeds)
    assert len({tuple(code) for code in (*codes(feeds), *codes(feeds, "other"))}) == 10
    assert codes(replace(feeds, seed=1)) != codes(feeds)
    _, first = next(feeds.steps())
    assert (first.inputs["code"].shape, first.inputs["code"].dtype) == ((1, 32), np.float32)


@pytest.mark.parametrize("rule", [BITS, STYLE, VECTOR], ids=lambda rule: rule.kind)
@pytest.mark.parametrize("is_map", [False, True])
def test_every_code_obeys_its_rule(rule: Code, is_map: bool) -> None:
    for _, feed in Feeds(FRAMES, "digest", codes=(CodeRule("code", rule, is_map),)).steps():
        values = feed.inputs["code"]
        assert (values.shape, values.dtype) == ((1, rule.size, *((4, 6) if is_map else ())), np.float32)
        np.testing.assert_array_equal(rule.checked(values[0], is_map=is_map), values[0])
        assert values.flags.c_contiguous


def test_classes_and_ranges_are_covered() -> None:
    feeds = Feeds(FRAMES, "digest", runs=((0,) * 60,), codes=(CodeRule("style", STYLE), CodeRule("vector", VECTOR)))
    assert {int(np.argmax(code)) for code in codes(feeds, "style")} == {0, 1, 2}
    values = np.array(codes(feeds, "vector"))
    assert values.min() < -2.5
    assert values.max() > 4.5


def test_maps_are_the_same_everywhere_or_of_several_regions() -> None:
    feeds = Feeds(FRAMES, "digest", runs=((0,) * 40,), codes=(CodeRule("code", STYLE, True),))
    kinds = {len(np.unique(feed.inputs["code"].argmax(axis=1))) > 1 for _, feed in feeds.steps()}
    assert kinds == {False, True}


def test_rules_come_from_the_manifest() -> None:
    manifest = small_manifest({}, codes=(*CODES, CODE_MAP))
    assert [(rule.name, rule.code, rule.is_map) for rule in code_rules(manifest)] == [
        (port.name, port.code, port is CODE_MAP) for port in (*CODES, CODE_MAP)
    ]
    with pytest.raises(GenedgeError, match="does not say what the code style takes"):
        code_rules(small_manifest({}, codes=(replace(CODES[0], code=None),)))


def test_whatever_changes_the_inputs_changes_the_identity() -> None:
    feeds = Feeds(FRAMES, "digest")
    others = [
        replace(feeds, digest="other"), replace(feeds, runs=RUNS), replace(feeds, states=(HIDDEN,)),
        replace(feeds, codes=(CodeRule("code", BITS),)), replace(feeds, codes=(CodeRule("code", STYLE),)),
        replace(feeds, codes=(CodeRule("code", STYLE, True),)),
        replace(feeds, seed=1), replace(feeds, frame_input="picture"), replace(feeds, frames=FRAMES[:3]),
    ]  # fmt: skip
    assert len({each.identity for each in [feeds, *others]}) == 1 + len(others)
    assert replace(feeds, frames=list(FRAMES)).identity == feeds.identity
