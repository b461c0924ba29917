"""Hold a live source's frame rate: a stage that is too slow gets a faster precision or fewer, larger tiles.

:mod:`runtime.live.governor` decides, :class:`runtime.live.switch.Switcher` exchanges. Larger tiles give the same
pixels for less work and more memory, so they come before a precision that is less exact. A stage that hides faces stays
as it is: how well it hides them is no matter of speed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from runtime.bundle import Bundle
from runtime.errors import UsageError
from runtime.live.governor import Governor
from runtime.live.switch import Slot, Switcher, engine_name
from runtime.manifest import Geometry
from runtime.sessions import Choice, runnable
from runtime.tiles import plan_tiles, tile_side
from runtime.video.source import Source

LOOK = 0.5  # seconds between two looks
EXACT = ("fp32", "fp16", "bf16", "int8")  # precisions, the most exact one first
USUAL_RATE = Fraction(30)  # frames a second of a source that does not say
HIDES = "face-deid"  # task of a stage whose output must stay what it is


@dataclass(frozen=True)
class Level:
    """What a stage can run: an engine with a precision, and the side of its tiles as ``fit_session`` takes it."""

    choice: Choice
    tile: int | None

    @property
    def told(self) -> str:
        tiles = f" in tiles of {self.tile}" if self.tile else ""
        return f"{engine_name(self.choice)}{tiles}"


def ladder(
    bundle: Bundle, choice: Choice, tile: int | None, height: int, width: int, *, above: bool
) -> tuple[list[Level], int]:
    """What a stage can run on the engine of ``choice``, the most exact first, and the place of what it runs now.

    Args:
        bundle, choice, tile: what the stage runs.
        height, width: of its frames in pixels.
        above: also precisions that are more exact than that of ``choice``.
    """
    geometry = bundle.manifest.geometry
    if geometry.fixed_size is None:
        tile = tile_side(geometry, height, width, tile) or tile  # said, so that it can be gone back to
    speeds = _speeds(choice.backend)
    known = [other for other in runnable(bundle) if other.backend == choice.backend and other.precision in speeds]
    known.sort(key=_exactness)
    exact = [other for other in known if _exactness(other) < _exactness(choice)] if above else []
    fast = [other for other in known if _exactness(other) > _exactness(choice)]
    larger = fewer_tiles(geometry, height, width, tile)
    levels = [Level(other, tile) for other in (*exact, choice)]
    levels += [Level(choice, side) for side in larger]
    levels += [Level(other, larger[-1] if larger else tile) for other in fast]
    return levels, len(exact)


def _speeds(backend: str) -> tuple[str, ...]:
    """Precisions that differ in speed: on a processor fp16 is a matter of storage, and the rest is on the GPU only."""
    if backend == "onnxruntime":
        from runtime.sessions import onnxruntime

        return onnxruntime.ON_CUDA if onnxruntime.on_cuda() else ("fp32", "int8")
    return ("fp32", "bf16", "int8") if backend == "openvino" else ("fp32", "fp16", "int8")


def _exactness(choice: Choice) -> int:
    return EXACT.index(choice.precision)


def fewer_tiles(geometry: Geometry, height: int, width: int, tile: int | None) -> list[int]:
    """Larger sides of tiles, two and four times as large, that cut a frame into fewer; empty for whole frames."""
    if not tile or geometry.fixed_size is not None:
        return []
    rule = geometry.size_rule

    def count(side: int) -> int:
        plan = plan_tiles(height, width, side, side, geometry.halo, rule.multiple, minimum=rule.minimum)
        return len(plan.tiles)

    sides, least = [], count(tile)
    for larger in (2 * tile, 4 * tile):
        if (fewer := count(larger)) < least:
            sides.append(larger)
            least = fewer
    return sides


@dataclass
class _Watched:
    """A stage, its levels, and what was measured up to the last look."""

    stage: int  # from 0
    name: str  # of its bundle
    slot: Slot
    levels: list[Level]
    governor: Governor
    requests: int = 0
    seconds: float = 0.0
    share: float | None = None
    asked: int | None = None  # the level that is being opened

    def is_on(self, level: int) -> bool:
        """Whether the stage runs that level, and nobody else has made it something else."""
        slot = self.slot
        return (slot.bundle.manifest.name, Level(slot.choice, slot.tile).told) == (self.name, self.levels[level].told)

    def measure(self, rate: float) -> None:
        """The share of the time between two frames that one took since the last look."""
        session = self.slot.session
        requests, seconds = session.requests - self.requests, session.seconds - self.seconds
        self.requests, self.seconds = session.requests, session.seconds
        self.share = seconds / requests * rate if requests else None


class Adaptive:
    """Watches the stages of a live run and switches them, in a thread of its own. A context manager.

    Args:
        switcher: has the stages.
        source: counts the frames that it leaves out.
        above: a stage may become more exact than it has begun.
        say: told what there is to choose from, and where there is nothing.
    """

    def __init__(self, switcher: Switcher, source: Source, *, above: bool, say: Callable[[str], None]) -> None:
        self._switcher, self._source, self._say = switcher, source, say
        self._rate = float(source.info.rate or USUAL_RATE)
        self._dropped = source.dropped
        self.ups = self.downs = 0
        self._watched: list[_Watched] = []
        for stage, slot in enumerate(switcher.slots):
            if slot.bundle.manifest.task == HIDES:
                continue
            levels, place = ladder(slot.bundle, slot.choice, slot.tile, slot.height, slot.width, above=above)
            if len(levels) == 1:
                say(f"--adaptive: {slot.bundle.manifest.name} can only be {levels[0].told} here, and stays that")
                continue
            say(f"--adaptive: {slot.bundle.manifest.name} may be {', '.join(level.told for level in levels)}")
            slot.tile = levels[place].tile
            self._watched.append(_Watched(stage, slot.bundle.manifest.name, slot, levels, Governor(len(levels), place)))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="adaptive", daemon=True)

    def look(self, now: float) -> None:
        """Measure, and ask for a change where one is due; ``now`` in seconds."""
        with self._lock:
            self._look(now)

    def _look(self, now: float) -> None:
        missed, self._dropped = self._source.dropped > self._dropped, self._source.dropped
        if self._switcher.busy:
            return
        for watched in [*self._watched]:
            self._settle(watched, now)
        for watched in self._watched:
            watched.measure(self._rate)
        for watched in sorted(self._watched, key=lambda one: one.share or 0.0, reverse=True):
            level = watched.governor.look(now, watched.share, missed)
            if level is not None and self._ask(watched, level):
                return  # one at a time

    def _settle(self, watched: _Watched, now: float) -> None:
        """Take in what has become of the stage since the last look."""
        governor, asked = watched.governor, watched.asked
        watched.asked = None
        if asked is not None and watched.is_on(asked):
            self.downs, self.ups = self.downs + (asked > governor.level), self.ups + (asked < governor.level)
            governor.changed(now, asked, watched.share)
        elif not watched.is_on(governor.level):
            self._say(f"--adaptive leaves stage {watched.stage + 1} alone from here on: somebody has chosen")
            self._watched.remove(watched)
        elif asked is not None:
            governor.failed(asked)

    def _ask(self, watched: _Watched, level: int) -> bool:
        wanted, interval = watched.levels[level], 1e3 / self._rate
        took = f"a frame took {(watched.share or 0.0) * interval:.1f} ms, and one comes every {interval:.1f} ms"
        try:
            engine = engine_name(wanted.choice)
            self._switcher.ask(watched.stage, watched.name, engine, tile=wanted.tile, why=took)
        except UsageError:  # somebody was faster; the next look shows what has come of that
            return False
        watched.asked = level
        return True

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        with self._lock:
            if not self._switcher.busy:  # a change that has just been made counts too
                for watched in [*self._watched]:
                    self._settle(watched, time.monotonic())
        return {
            "down": self.downs,
            "up": self.ups,
            "stages": [
                {
                    "stage": watched.stage + 1,
                    "levels": [level.told for level in watched.levels],
                    "level": watched.levels[watched.governor.level].told,
                }
                for watched in self._watched
            ],
        }

    def _work(self) -> None:
        while not self._stop.wait(LOOK):
            self.look(time.monotonic())

    def __enter__(self) -> Adaptive:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(1)
