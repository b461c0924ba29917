from __future__ import annotations

import pytest

from runtime.engines.settings import Profile
from runtime.errors import UsageError


def test_a_profile_holds_what_lies_between() -> None:
    profile = Profile((1, 64, 32), (1, 360, 640), (4, 720, 1280))
    for size in ((1, 64, 32), (4, 720, 1280), (2, 100, 1280)):
        assert profile.holds(*size)
    for size in ((0, 64, 32), (5, 720, 1280), (1, 63, 32), (1, 721, 32), (1, 64, 31), (1, 64, 1281)):
        assert not profile.holds(*size)


def test_a_fixed_profile_holds_one_shape() -> None:
    profile = Profile.fixed(2, 10, 20)
    assert profile.holds(2, 10, 20)
    assert not profile.holds(2, 20, 10)


@pytest.mark.parametrize(
    ("three", "says"),
    [
        (((1, 64, 64), (1, 63, 64), (1, 128, 128)), "H is 64, 63, 128"),
        (((1, 64, 64), (1, 64, 64), (1, 64, 32)), "W is 64, 64, 32"),
        (((0, 64, 64), (1, 64, 64), (1, 64, 64)), "N is 0, 1, 1"),
    ],
)
def test_sizes_that_do_not_grow(three: tuple[tuple[int, int, int], ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Profile(*three)
