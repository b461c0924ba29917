"""Streaming observers: a bounded record of every tensor, and four rules that make a range of it.

A record holds a histogram of fixed size, so memory grows with the number of tensors and not with the number of frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

BINS = 4096  # on both sides of zero together; 127 steps of int8 get 16 bins each
LEVELS = 127  # largest magnitude of symmetric int8
MOST = 2.0**62  # values that are counted at most; no recording is that long


class Histogram:
    """Counts of values over ``[-limit, limit]`` in ``BINS`` equal bins; the limit doubles as larger values come.

    Doubling merges pairs of bins exactly, so the order of the values does not change where they are counted, only how
    finely they were told apart before. The true smallest and largest values are kept beside it.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(BINS, dtype=np.int64)
        self.limit = 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, values: NDArray[np.float32], low: float | None = None, high: float | None = None) -> None:
        """Count finite ``values``; ``low`` and ``high`` are the extremes of all values where these are a sample."""
        if not values.size:
            return
        low = float(values.min()) if low is None else low
        high = float(values.max()) if high is None else high
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        if self.limit == 0:  # nothing but zeros so far
            self.counts[BINS // 2] += values.size
            return
        # in float64, so that neither the smallest nor the largest float32 leaves the numbers there are
        bins = np.floor(np.multiply(values.ravel(), BINS / 2 / self.limit, dtype=np.float64)) + BINS / 2
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1).astype(np.int64), minlength=BINS)

    def _widen(self, largest: float) -> None:
        if largest == 0:
            return
        if self.limit == 0:
            self.limit = largest * 1.0001
            return
        while self.limit < largest:
            self.limit *= 2
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([np.zeros(BINS // 4, np.int64), pairs, np.zeros(BINS // 4, np.int64)])

    @property
    def largest(self) -> float:
        """Largest magnitude seen, 0 where nothing was."""
        return max(0.0, -self.low, self.high) if self.high >= self.low else 0.0

    def magnitudes(self) -> tuple[Counts, Floats]:
        """Counts of ``|x|`` in ``BINS / 2`` bins, and the centres of these bins."""
        half = BINS // 2
        width = self.limit / half if self.limit else 1.0
        counts: Counts = self.counts[half:] + self.counts[:half][::-1]
        centres: Floats = (np.arange(half, dtype=np.float64) + 0.5) * width
        return counts, centres

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {"counts": self.counts, "range": np.array([self.limit, self.low, self.high])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Histogram:
        """Inverse of :meth:`to_arrays`. Raises ``ValueError`` for arrays that it does not make."""
        if not {"counts", "range"} <= set(arrays):
            raise ValueError("not a histogram: counts or range are missing")
        counts, limits = np.asarray(arrays["counts"]), np.asarray(arrays["range"])
        if counts.shape != (BINS,) or counts.dtype != np.int64 or limits.shape != (3,) or limits.dtype != np.float64:
            raise ValueError("not a histogram: other shapes or types")
        if counts.min() < 0 or counts.sum(dtype=np.float64) > MOST:
            raise ValueError("not a histogram: impossible counts")
        result = cls()
        result.counts = counts.copy()
        result.limit, result.low, result.high = (float(value) for value in limits)
        empty = (result.limit, result.low, result.high) == (0.0, np.inf, -np.inf) and not counts.any()
        if not empty and not (np.isfinite(limits).all() and result.low <= result.high and counts.any()):
            raise ValueError("not a histogram: impossible extremes")
        if result.largest > result.limit:
            raise ValueError("not a histogram: values beyond its bins")
        return result


@dataclass(frozen=True)
class Range:
    """What a tensor's values are quantised over: ``magnitude`` symmetric, ``low`` and ``high`` (with zero) else."""

    low: float
    high: float
    magnitude: float


class Observer:
    """A rule that turns a histogram into a range. Its fields and its ``kind`` are recorded in ``recipe.json``."""

    kind: ClassVar[str]

    def magnitude(self, histogram: Histogram) -> float:
        """Where ``|x|`` is clipped; more than zero and at most ``histogram.largest``, zero for an empty tensor."""
        raise NotImplementedError

    def range_of(self, histogram: Histogram) -> Range:
        clip = min(self.magnitude(histogram), histogram.largest)
        return Range(max(min(0.0, histogram.low), -clip), min(max(0.0, histogram.high), clip), clip)

    def to_dict(self) -> dict[str, float | str]:
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class Max(Observer):
    """The largest magnitude seen: nothing is clipped."""

    kind = "max"

    def magnitude(self, histogram: Histogram) -> float:
        return histogram.largest


@dataclass(frozen=True)
class Percentile(Observer):
    """Clip so that ``percent`` of the magnitudes lie inside."""

    percent: float = 99.999
    kind = "percentile"

    def magnitude(self, histogram: Histogram) -> float:
        counts, centres = histogram.magnitudes()
        total = int(counts.sum())
        if not total:
            return 0.0
        needed = total * self.percent / 100
        cumulative = np.cumsum(counts)
        place = int(np.searchsorted(cumulative, needed))
        place = min(place, len(centres) - 1)
        width = centres[1] - centres[0]
        before = float(cumulative[place - 1]) if place else 0.0
        share = (needed - before) / max(1.0, float(counts[place]))  # within the bin, values are taken as even
        return float(min(histogram.largest, centres[place] - width / 2 + width * share))


@dataclass(frozen=True)
class Mse(Observer):
    """The clip with the smallest mean squared error of quantising to ``steps`` levels a side."""

    steps: int = LEVELS
    kind = "mse"

    def magnitude(self, histogram: Histogram) -> float:
        counts, centres = histogram.magnitudes()
        used = counts > 0
        counts, centres = counts[used], centres[used]
        best, least = histogram.largest, np.inf
        for share in np.linspace(1.0, 0.2, 161):  # of two that are as good, the wider one
            clip = histogram.largest * share
            step = clip / self.steps
            if step == 0:
                return histogram.largest
            error = centres - np.minimum(np.round(centres / step), self.steps) * step
            # within a bin the values spread evenly; far below a step that adds nothing
            total = float(counts @ (error * error))
            if total < least * (1 - 1e-9):
                best, least = float(clip), total
        return best


@dataclass(frozen=True)
class Entropy(Observer):
    """The clip whose quantised histogram diverges least (Kullback-Leibler) from the original.

    The rule of TensorRT's entropy calibrator (S. Migacz, 8-bit Inference with TensorRT, GTC 2017): the tail is moved
    into the last bin, the rest is merged to 128 levels and spread again over the bins that were not empty.
    """

    kind = "entropy"

    def magnitude(self, histogram: Histogram) -> float:
        counts, centres = histogram.magnitudes()
        if not counts.any():
            return 0.0
        width = centres[1] - centres[0]
        last = int(np.flatnonzero(counts)[-1]) + 1
        best, least = last, np.inf
        for stop in (*range(LEVELS + 1, last, 8), last) if last > LEVELS else ():
            reference = counts[:stop].astype(np.float64)
            inside = reference.copy()
            reference[-1] += counts[stop:].sum()
            merged = _merged(inside, LEVELS + 1)
            divergence = _divergence(reference, merged)
            if divergence < least:
                best, least = stop, divergence
        return float(min(histogram.largest, best * width))


def _merged(counts: Floats, levels: int) -> Floats:
    """Counts after merging to ``levels`` groups, each spread evenly over its bins that were not empty."""
    groups = np.minimum((np.arange(len(counts)) * levels) // len(counts), levels - 1)
    full = counts > 0
    sums = np.bincount(groups, weights=counts, minlength=levels)
    sizes = np.bincount(groups, weights=full.astype(np.float64), minlength=levels)
    return np.asarray(np.where(full, (sums / np.maximum(sizes, 1))[groups], 0.0))


def _divergence(reference: Floats, candidate: Floats) -> float:
    total, other = reference.sum(), candidate.sum()
    if not total or not other:
        return float(np.inf)
    p, q = reference / total, candidate / other
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))


OBSERVERS: dict[str, type[Observer]] = {kind.kind: kind for kind in (Max, Percentile, Mse, Entropy)}


def observer_named(text: str) -> Observer:
    """``max``, ``mse``, ``entropy``, ``percentile`` or ``percentile:99.99``; raises :class:`UsageError` else."""
    kind, colon, value = text.partition(":")
    if kind not in OBSERVERS or (colon and kind != "percentile"):
        raise UsageError(f"unknown observer {text!r}: choose {', '.join(OBSERVERS)} or percentile:99.99")
    if not colon:
        return OBSERVERS[kind]()
    try:
        percent = float(value)
    except ValueError:
        percent = 0.0
    if not 50 < percent <= 100:
        raise UsageError(f"observer {text!r}: the percentile must be a number above 50 and at most 100")
    return Percentile(percent)
