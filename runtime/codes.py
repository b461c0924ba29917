"""Condition codes: what a conditional generator gets besides the frame, and how people say it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from runtime.errors import UsageError

KINDS = ("vector", "one-hot", "bits")
MAX_SIZE = 4096  # numbers in a code; CIAGAN's one-hot has 1,200
MAX_LABEL = 60  # characters


@dataclass(frozen=True)
class Code:
    """A rule for ``size`` numbers, float32.

    ``kind``: ``vector`` has any numbers from ``low`` to ``high``; ``one-hot`` is ``high`` in one place, the class, and
    ``low`` in all others; ``bits`` has ``low`` or ``high`` in each place. ``default`` are the numbers that are used
    until somebody says something else. ``labels`` name the places (classes, attributes), or there are none.

    Raises :class:`UsageError` for a rule that contradicts itself.
    """

    kind: str
    size: int
    default: tuple[float, ...]
    low: float = 0.0
    high: float = 1.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind of code {self.kind!r}: choose among {', '.join(KINDS)}")
        if not 0 < self.size <= MAX_SIZE:
            raise UsageError(f"a code has 1 to {MAX_SIZE} numbers, not {self.size}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"a code's range must rise, not from {self.low:g} to {self.high:g}")
        if self.labels and (len(self.labels) != self.size or len(set(self.labels)) != self.size):
            raise UsageError(f"a code of {self.size} numbers needs as many different labels, not {len(self.labels)}")
        if any(not label or len(label) > MAX_LABEL or not label.isprintable() for label in self.labels):
            raise UsageError(f"a label is a printable text of 1 to {MAX_LABEL} characters")
        self.check(self.default)

    def check(self, values: tuple[float, ...]) -> None:
        """Raise :class:`UsageError` where ``values`` are not what this rule allows."""
        if len(values) != self.size:
            raise UsageError(f"the code has {self.size} numbers, not {len(values)}")
        for place, value in enumerate(values):
            if not self.low <= value <= self.high:  # also for NaN
                raise UsageError(f"number {place} of the code is {value:g}, outside {self.low:g} to {self.high:g}")
            if self.kind != "vector" and value not in (self.low, self.high):
                raise UsageError(f"number {place} of the code is {value:g}, neither {self.low:g} nor {self.high:g}")
        if self.kind == "one-hot" and sum(value == self.high for value in values) != 1:
            raise UsageError(f"exactly one number of the code must be {self.high:g}")
