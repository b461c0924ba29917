"""What a de-identification did: counts and places, never pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from runtime.faces.types import Applied, Cover, Verdict

IRREVERSIBLE, PSEUDONYMISED = "irreversible", "pseudonymised"


@dataclass
class DeidCounts:
    """Sums over all frames that were released.

    ``kinds``: covers by why they were needed (``detected``, ``held``, ``filled``, ``interpolated``, ``rechecked``).
    ``methods``: covers by the method that was used in the end. ``fallbacks``: covers that the chosen method could not
    do, by the reason. ``covered_whole``: frames that were covered whole, by the reason.
    """

    frames: int = 0
    faces: int = 0
    cuts: int = 0
    canaries: int = 0
    canaries_missed: int = 0
    rechecks: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    covered_whole: Counter[str] = field(default_factory=Counter)
    whole_frames: list[int] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        self.frames += 1
        if not verdict.ok:
            self.covered_whole[verdict.reason] += 1
            self.whole_frames.append(verdict.index)

    def add_covers(self, covers: list[Cover], applied: list[Applied]) -> None:
        self.faces += len(covers)
        self.kinds.update(cover.kind for cover in covers)
        self.methods.update(entry.method for entry in applied)
        self.fallbacks.update(entry.reason for entry in applied if entry.reason)

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        kinds = {kind: self.kinds[kind] for kind in ("detected", "held", "filled", "interpolated", "rechecked")}
        return {
            "frames": self.frames,
            "faces": self.faces,
            **kinds,
            "methods": dict(self.methods),
            "fallbacks": dict(self.fallbacks),
            "covered_whole": sum(self.covered_whole.values()),
            "covered_whole_reasons": dict(self.covered_whole),
            "covered_whole_frames": ranges(self.whole_frames),
            "cuts": self.cuts,
            "canaries": self.canaries,
            "canaries_missed": self.canaries_missed,
            "rechecks": self.rechecks,
        }


def ranges(numbers: list[int]) -> list[list[int]]:
    """Rising numbers as [first, last] pairs."""
    result: list[list[int]] = []
    for number in numbers:
        if result and number == result[-1][1] + 1:
            result[-1][1] = number
        else:
            result.append([number, number])
    return result
