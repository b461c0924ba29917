"""Histograms and the four rules, against numpy on whole arrays and against a plain reading of the papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calib.observers import BINS, LEVELS, OBSERVERS, Entropy, Histogram, Max, Mse, Observer, Percentile, observer_named
from runtime.errors import UsageError
from runtime.frames import Frame

EVERY = [Max(), Percentile(), Percentile(99.0), Mse(), Entropy()]
BIGGEST = float(np.finfo(np.float32).max)

numbers = st.floats(-BIGGEST, BIGGEST, width=32) | st.floats(-1, 1, width=32) | st.just(0.0)
arrays = st.lists(numbers, min_size=1, max_size=12).map(lambda values: np.array(values, dtype=np.float32))


def histogram_of(*parts: NDArray[Any]) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part.astype(np.float32))
    return histogram


def edges(photo: Frame) -> NDArray[np.float32]:
    """What a first layer makes of a photo: differences of neighbours, mostly small and now and then large."""
    planes = photo.astype(np.float32) / 255
    smooth = (planes[:, :-1] + planes[:, 1:]) / 2
    return ((smooth[1:] - smooth[:-1]) ** 3 * 8 + (smooth[1:] - smooth[:-1])).ravel()


def squared_error(values: NDArray[np.float32], clip: float) -> float:
    step = clip / LEVELS
    return float(np.mean((np.clip(np.round(values / step), -LEVELS, LEVELS) * step - values) ** 2, dtype=np.float64))


@settings(max_examples=200, deadline=None)
@given(st.lists(arrays, min_size=1, max_size=5))
def test_every_value_is_counted_where_it_belongs(parts: Sequence[NDArray[np.float32]]) -> None:
    """However often the limit doubled: the counts are those of all values over the final limit."""
    histogram = histogram_of(*parts)
    values = np.concatenate(parts).astype(np.float64)
    assert histogram.counts.sum() == values.size
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    assert histogram.largest == np.abs(values).max() <= histogram.limit or not values.any()
    if values.any():
        places = np.floor(values * (BINS / 2 / histogram.limit)) + BINS / 2
        np.testing.assert_array_equal(histogram.counts, np.bincount(places.astype(int), minlength=BINS))


@settings(max_examples=100, deadline=None)
@given(st.lists(arrays, min_size=1, max_size=5), st.randoms())
def test_order_of_the_frames_changes_neither_totals_nor_extremes(parts: list[NDArray[np.float32]], random: Any) -> None:
    first = histogram_of(*parts)
    random.shuffle(parts)
    second = histogram_of(*parts)
    assert first.counts.sum() == second.counts.sum()
    assert (first.low, first.high, first.largest) == (second.low, second.high, second.largest)


@settings(max_examples=150, deadline=None)
@given(st.lists(arrays, min_size=1, max_size=4), st.sampled_from(EVERY))
def test_no_range_goes_beyond_the_extremes(parts: Sequence[NDArray[np.float32]], observer: Observer) -> None:
    values = np.concatenate(parts)
    found = observer.range_of(histogram_of(*parts))
    assert min(0.0, values.min()) <= found.low <= 0 <= found.high <= max(0.0, values.max())
    assert max(-found.low, found.high) <= found.magnitude <= np.abs(values).max()
    assert (found.magnitude > 0) == bool(values.any())


def test_extremes_of_all_values_widen_the_histogram_of_a_sample() -> None:
    histogram = Histogram()
    histogram.add(np.array([0.5, -0.25], dtype=np.float32), low=-3.0, high=2.0)
    assert (histogram.low, histogram.high, histogram.largest) == (-3.0, 2.0, 3.0)
    assert histogram.limit >= 3
    assert Max().range_of(histogram).low == -3.0


def test_nothing_leaves_a_histogram_as_it_was() -> None:
    histogram = histogram_of(np.zeros(0))
    assert (histogram.largest, histogram.counts.sum()) == (0.0, 0)
    for observer in EVERY:
        assert observer.range_of(histogram).magnitude == 0


@pytest.mark.parametrize("observer", EVERY, ids=lambda observer: f"{observer.kind}")
def test_zeros_have_no_magnitude(observer: Observer) -> None:
    found = observer.range_of(histogram_of(np.zeros(1000)))
    assert (found.low, found.high, found.magnitude) == (0, 0, 0)


@pytest.mark.parametrize("observer", EVERY, ids=lambda observer: f"{observer.kind}")
@pytest.mark.parametrize("value", [7.5, -7.5, 1e-30, 3e38])
def test_one_value_is_kept_within_a_bin(observer: Observer, value: float) -> None:
    found = observer.range_of(histogram_of(np.full(50, value)))
    assert found.magnitude == pytest.approx(abs(value), rel=0.02 if isinstance(observer, Mse) else 2 / BINS)
    assert (found.low == 0) == (value > 0)
    assert (found.high == 0) == (value < 0)


@pytest.mark.parametrize("observer", EVERY, ids=lambda observer: f"{observer.kind}")
def test_negative_values_are_as_good_as_positive_ones(observer: Observer, photos: Sequence[Frame]) -> None:
    values = np.abs(edges(photos[0]))
    positive, negative = observer.range_of(histogram_of(values)), observer.range_of(histogram_of(-values))
    assert negative.high == 0
    assert negative.magnitude == pytest.approx(positive.magnitude, rel=1e-3)
    assert negative.low == -negative.magnitude
    assert positive.high == positive.magnitude


@pytest.mark.parametrize("percent", [50.5, 90, 99, 99.9, 99.99, 99.999, 100])
def test_percentile_is_numpys_within_a_bin(percent: float, photos: Sequence[Frame]) -> None:
    for photo in photos:
        parts = np.array_split(edges(photo), 5)
        histogram = histogram_of(*parts)
        expected = np.quantile(np.abs(np.concatenate(parts)), percent / 100, method="inverted_cdf")
        assert Percentile(percent).magnitude(histogram) == pytest.approx(expected, abs=histogram.limit / (BINS / 2))


def test_mse_loses_less_than_the_maximum_and_next_to_the_least_possible(photos: Sequence[Frame]) -> None:
    values = np.concatenate([edges(photo) for photo in photos])
    histogram = histogram_of(values)
    clip = Mse().magnitude(histogram)
    assert clip < 0.9 * histogram.largest
    found = squared_error(values, clip)
    assert found < 0.7 * squared_error(values, histogram.largest)
    least = min(squared_error(values, histogram.largest * share) for share in np.linspace(0.1, 1, 61))
    assert found < 1.03 * least


def test_mse_clips_nothing_where_that_gains_nothing() -> None:
    """Every clip holds a sample of zeros, but the tensor's extremes are known to be further out."""
    histogram = Histogram()
    histogram.add(np.zeros(100, dtype=np.float32), low=0.0, high=4.0)
    assert Mse().magnitude(histogram) == 4.0


def test_fewer_steps_want_a_narrower_range(photos: Sequence[Frame]) -> None:
    histogram = histogram_of(edges(photos[1]))
    assert Mse(steps=7).magnitude(histogram) < Mse().magnitude(histogram)


def entropy_by_the_book(counts: Sequence[int]) -> int:
    """Number of bins that Migacz's slides keep, loop by loop (candidates every 8 bins from 128, and all of them)."""
    last = max(place for place, count in enumerate(counts) if count) + 1
    if last <= 128:
        return last
    best, least = last, math.inf
    for stop in [*range(128, last, 8), last]:
        reference = [float(count) for count in counts[:stop]]
        reference[-1] += sum(counts[stop:])
        candidate = [0.0] * stop
        for level in range(128):
            group = [place for place in range(stop) if place * 128 // stop == level]
            full = [place for place in group if counts[place]]
            for place in full:
                candidate[place] = sum(counts[other] for other in group) / len(full)
        divergence = 0.0
        for p, q in zip(reference, candidate, strict=True):
            if p:
                p, q = p / sum(reference), q / sum(candidate)
                divergence += p * math.log(p / max(q, 1e-12))
        if divergence < least:
            best, least = stop, divergence
    return best


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 190), st.integers(0, 2**32 - 1), st.floats(0.5, 60))
def test_entropy_is_that_of_the_slides(last: int, seed: int, slope: float) -> None:
    draw = np.random.default_rng(seed)
    half = draw.poisson(300 * np.exp(-np.arange(last) / slope))
    half[-1] += 1
    histogram = Histogram()
    histogram.counts[BINS // 2 : BINS // 2 + last] = half
    histogram.limit, histogram.low, histogram.high = float(BINS // 2), 0.0, float(last)
    assert Entropy().magnitude(histogram) == entropy_by_the_book([int(count) for count in half])


def test_entropy_keeps_the_whole_of_an_even_distribution() -> None:
    """The whole range is tried too, where it is no multiple of eight bins."""
    histogram = Histogram()
    histogram.counts[BINS // 2 : BINS // 2 + 131] = 1000
    histogram.limit, histogram.low, histogram.high = float(BINS // 2), 0.0, 131.0
    assert Entropy().magnitude(histogram) == 131


def test_magnitudes_fold_both_sides() -> None:
    histogram = histogram_of(np.array([1.0, -1.0, 0.3, -0.3, -0.3]))
    counts, centres = histogram.magnitudes()
    assert counts.sum() == 5
    for value, count in ((1.0, 2), (0.3, 3)):
        assert counts[np.abs(centres - value).argmin()] == count


@settings(max_examples=50, deadline=None)
@given(st.lists(arrays, max_size=3), arrays)
def test_record_read_back_goes_on_like_the_one_that_was_kept(
    parts: Sequence[NDArray[np.float32]], more: NDArray[np.float32]
) -> None:
    kept = histogram_of(*parts)
    read = Histogram.from_arrays(kept.to_arrays())
    before = kept.counts.copy()
    read.add(more)
    np.testing.assert_array_equal(kept.counts, before)
    kept.add(more)
    np.testing.assert_array_equal(read.counts, kept.counts)
    assert (read.limit, read.low, read.high) == (kept.limit, kept.low, kept.high)


def hostile(**changes: Any) -> dict[str, NDArray[Any]]:
    return {**histogram_of(np.array([1.0, -2.0])).to_arrays(), **changes}


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"counts": np.zeros(BINS, np.int64)},
        hostile(counts=np.zeros(BINS // 2, np.int64)),
        hostile(counts=np.zeros(BINS, np.int32)),
        hostile(counts=np.zeros(BINS, np.int64)),
        hostile(counts=np.full(BINS, -1)),
        hostile(counts=np.full(BINS, 2**62)),
        hostile(range=np.zeros(2)),
        hostile(range=np.zeros(3, np.float32)),
        hostile(range=np.array(["a", "b", "c"])),
        hostile(range=np.array([np.nan, -2.0, 1.0])),
        hostile(range=np.array([np.inf, -2.0, 1.0])),
        hostile(range=np.array([3.0, -np.inf, 1.0])),
        hostile(range=np.array([3.0, 2.0, 1.0])),
        hostile(range=np.array([1.5, -2.0, 1.0])),
        hostile(range=np.array([-3.0, -2.0, 1.0])),
        hostile(range=np.array([0.0, np.inf, -np.inf])),
    ],
)
def test_arrays_of_no_histogram_are_refused(content: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.from_arrays(content)


@pytest.mark.parametrize("observer", EVERY, ids=lambda observer: f"{observer.kind}")
def test_description_has_the_kind_and_the_settings(observer: Observer) -> None:
    kind = observer.to_dict().pop("kind")
    fields = {name: value for name, value in observer.to_dict().items() if name != "kind"}
    assert OBSERVERS[str(kind)](**fields) == observer


def test_observers_by_name() -> None:
    assert observer_named("max") == Max()
    assert observer_named("mse") == Mse()
    assert observer_named("entropy") == Entropy()
    assert observer_named("percentile") == Percentile(99.999)
    assert observer_named("percentile:99.5") == Percentile(99.5)
    assert observer_named("percentile:100") == Percentile(100)


@pytest.mark.parametrize("text", ["", "median", "MAX", "max:", "mse:99", "entropy:1", ":99"])
def test_unknown_observer_names_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"choose max, percentile, mse, entropy or percentile:99\.99"):
        observer_named(text)


@pytest.mark.parametrize("text", ["percentile:", "percentile:many", "percentile:50", "percentile:100.1",
                                  "percentile:nan", "percentile:inf", "percentile:-1"])  # fmt: skip
def test_percentile_must_be_a_number_in_range(text: str) -> None:
    with pytest.raises(UsageError, match="above 50 and at most 100"):
        observer_named(text)
