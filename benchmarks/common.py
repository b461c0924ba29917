"""What the benchmarks share: targets, the machine's facts, test material, and how results are shown.

Torch is not imported here, so that time and memory are measured without it.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import guarded
from runtime.report import table, write_json
from runtime.stats import cores_here

BUSY = 0.5  # load per core above which other work is likely to disturb the times


@dataclass(frozen=True)
class Target:
    """One target: what was measured against what was wanted. ``met`` is None where it could not be measured."""

    name: str
    measured: str
    wanted: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return "skipped" if self.met is None else "met" if self.met else "MISSED"


def at_least(name: str, value: float, limit: float, unit: str = "", digits: int = 2) -> Target:
    """``value >= limit``, both in ``unit``."""
    return Target(name, f"{value:.{digits}f}{unit}", f">= {limit:.{digits}f}{unit}", value >= limit)


def at_most(name: str, value: float, limit: float, unit: str = "", digits: int = 2) -> Target:
    """``value <= limit``, both in ``unit``."""
    return Target(name, f"{value:.{digits}f}{unit}", f"<= {limit:.{digits}f}{unit}", value <= limit)


def below(name: str, value: float, limit: float, unit: str = "", digits: int = 2) -> Target:
    """``value < limit``, both in ``unit``."""
    return Target(name, f"{value:.{digits}f}{unit}", f"< {limit:.{digits}f}{unit}", value < limit)


def within(name: str, value: float, expected: float, tolerance: float, unit: str = "") -> Target:
    """``|value - expected| <= tolerance``, all in ``unit``."""
    met = abs(value - expected) <= tolerance
    return Target(name, f"{value:.3f}{unit}", f"{expected:.3f} +- {tolerance:.2f}{unit}", met)


def skipped(name: str, reason: str) -> Target:
    """A target that cannot be measured here; the reason stands where the figure would."""
    return Target(name, reason, "", None)


@dataclass
class Result:
    """What one benchmark found. ``tables`` are ready to print; ``figures`` are the same for programs."""

    name: str
    conditions: dict[str, Any]
    tables: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    @property
    def missed(self) -> bool:
        return any(target.met is False for target in self.targets)

    def add_table(self, head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
        """Show ``rows`` as aligned columns, the first ``left`` of them words."""
        self.tables.append(table(head, rows, left))

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        targets = [{**asdict(target), "verdict": target.verdict} for target in self.targets]
        return {
            "benchmark": self.name,
            "conditions": self.conditions,
            "figures": self.figures,
            "targets": targets,
            "missed": self.missed,
        }


def conclude(result: Result, json: Path | None) -> int:
    """Print a result, write it as JSON where asked, and return the exit code: 1 where a target is missed."""
    parts = [", ".join(f"{key} {value}" for key, value in result.conditions.items() if value is not None)]
    parts += result.tables
    if result.targets:
        rows = [(t.name, t.measured, t.wanted, t.verdict) for t in result.targets]
        parts.append(table(("target", "measured", "wanted", "verdict"), rows, left=4))
    print("\n\n".join(parts), flush=True)
    if json is not None:
        write_json(json, result.to_dict())
    return 1 if result.missed else 0


# --- command line -----------------------------------------------------------------------------------------------------


def parser_for(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: ``--quick`` and ``--json``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=(description or "").split("\n")[0],
        epilog="Exit codes: 0 targets met or skipped by name, 1 one is missed, 2 usage.",
    )
    parser.add_argument("--quick", action="store_true", help="small counts, to try it out; not for the record")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON (- for standard output)")
    return parser


def run(name: str, measure: Callable[[argparse.Namespace], Result], options: argparse.Namespace) -> int:
    """Measure and conclude; errors that the user can act on become one line."""

    def main() -> int:
        result = measure(options)
        if options.quick:
            result.conditions["counts"] = "quick, not for the record"
        return conclude(result, options.json)

    return guarded(main)


def positive(text: str) -> int:
    """For argparse: a whole number above zero."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def not_negative(text: str) -> int:
    """For argparse: a whole number from zero."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """For argparse: words with commas between them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def say(text: str) -> None:
    """Progress, to standard error."""
    print(text, file=sys.stderr, flush=True)


# --- machine and material ---------------------------------------------------------------------------------------------


def conditions(device: str | None = None, threads: int | None = None) -> dict[str, Any]:
    """What the figures depend on. ``threads``: of the engine, 0 or None where it was left to choose.

    ``load`` is the number of runnable threads over the last minute before the benchmark, this machine's all together.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    facts: dict[str, Any] = {
        "device": device or cpu_name(),
        "cores": cores_here(),
        "threads": threads or "default",
        "python": platform.python_version(),
        "load": None if load is None else round(load, 2),
    }
    if load is not None and load > BUSY * cores_here():
        facts["warning"] = "other work is running here, times are unreliable"
    return facts


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def missing(path: Path) -> str:
    """Words for material that is not here."""
    return f"{path.name} is not here: set GENEDGE_ASSETS"
