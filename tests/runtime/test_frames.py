from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.frames import SizeRule

sides = st.integers(1, 5_000)
rules = st.builds(SizeRule, st.integers(1, 600), st.integers(1, 64))


@pytest.mark.parametrize(
    ("rule", "size", "padded"),
    [
        (SizeRule(), (1, 1), (1, 1)),
        (SizeRule(), (1080, 1920), (1080, 1920)),
        (SizeRule(multiple=8), (1080, 1918), (1080, 1920)),
        (SizeRule(multiple=16), (1080, 1920), (1088, 1920)),
        (SizeRule(minimum=256), (100, 300), (256, 300)),
        (SizeRule(minimum=100, multiple=16), (20, 113), (112, 128)),
    ],
)
def test_padding_to_an_allowed_size(rule: SizeRule, size: tuple[int, int], padded: tuple[int, int]) -> None:
    assert rule.padded(*size) == padded
    assert rule.allows(*size) == (size == padded)


@given(rules, sides, sides)
def test_the_padded_size_is_the_smallest_allowed_one_that_holds_the_frame(
    rule: SizeRule, height: int, width: int
) -> None:
    padded_height, padded_width = rule.padded(height, width)
    for side, padded in ((height, padded_height), (width, padded_width)):
        assert padded >= max(side, rule.minimum)
        assert padded % rule.multiple == 0
        assert padded - rule.multiple < max(side, rule.minimum)
    assert rule.allows(padded_height, padded_width)


@given(rules, sides, sides)
def test_height_and_width_are_independent(rule: SizeRule, height: int, width: int) -> None:
    assert rule.padded(width, height) == rule.padded(height, width)[::-1]
    assert rule.allows(height, width) == (rule.allows(height, height) and rule.allows(width, width))
