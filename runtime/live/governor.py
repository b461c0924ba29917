"""When a stage shall become faster, and when more exact again: the decision alone, without engines or clocks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """All times in seconds; shares are of the time between two frames of the source.

    ``late``: share from which a stage is too slow, where frames are left out. ``hold``: how long it has to be so.
    ``room``: share that the next more exact level may take. ``settle``: after a change, in which nothing is measured.
    ``patience``: how long there has to be room; doubled, up to ``longest``, whenever the step back up did not last for
    ``lasting``, which then takes it back to the beginning. ``gain``: a faster level takes at most this share of the
    time of the one above; one that was found to take more ``strikes`` times is of no use.
    """

    late: float = 0.95
    hold: float = 1.5
    room: float = 0.7
    settle: float = 1.0
    patience: float = 5.0
    longest: float = 600.0
    lasting: float = 30.0
    gain: float = 0.95
    strikes: int = 2  # the load may have grown just then


class Governor:
    """Chooses among ``levels`` numbered from 0, the most exact one, to the fastest.

    It goes down a level when the stage is late for a while, and up again when there is room for a while. How much
    slower the level above is it knows from the last change between the two, so what has failed once is tried again only
    when everything has become faster; what was never tried counts as twice as slow.

    Args:
        levels: how many there are, at least one.
        level: the one in use.
        rules: see there.
    """

    def __init__(self, levels: int, level: int, rules: Rules | None = None) -> None:
        self.levels, self.level = levels, level
        self._rules = rules or Rules()
        self._useless: set[int] = set()
        self._ratio: dict[tuple[int, int], float] = {}  # (level above, below) -> time above over time below
        self._strikes: dict[int, int] = {}
        self._in_vain = False  # the last step down has made nothing faster
        self._before: tuple[int, float] | None = None  # level and share before the last change, until it is compared
        self._settled = 0.0
        self._late_since: float | None = None
        self._room_since: float | None = None
        self._patience = self._rules.patience
        self._up_at: float | None = None  # when it last went up, until it is known whether that lasts

    def look(self, now: float, share: float | None, missed: bool) -> int | None:
        """The level to change to, None for none. Tell with :meth:`changed` or :meth:`failed` what came of it.

        Args:
            now: seconds, never going back.
            share: of the time between two frames that a frame takes on this level, None without frames.
            missed: the source has left frames out since the last look.
        """
        if share is None or now < self._settled:
            return None
        if self._before is not None:
            self._compare(*self._before, share)
            self._before = None
        if self._up_at is not None and now - self._up_at >= self._rules.lasting:
            self._up_at, self._patience = None, self._rules.patience
        if missed and share >= self._rules.late:
            self._room_since = None
            self._late_since = now if self._late_since is None else self._late_since
            level, hold = self._next(1), self._rules.hold
            if level is None and self._in_vain:
                level, hold = self._next(-1), self._patience
            return level if level is not None and now - self._late_since >= hold else None
        self._late_since = None
        above = self._next(-1)
        if above is None or missed or share * self._ratio.get((above, self.level), 2.0) > self._rules.room:
            self._room_since = None
            return None
        self._room_since = now if self._room_since is None else self._room_since
        return above if now - self._room_since >= self._patience else None

    def changed(self, now: float, level: int, share: float | None) -> None:
        """``level`` is in use from ``now`` on; ``share``: what the one before took at last."""
        if level > self.level and self._up_at is not None:
            self._patience, self._up_at = min(2 * self._patience, self._rules.longest), None
        if level < self.level:
            self._up_at = now
        self._before = (self.level, share) if share is not None else None
        self.level, self._in_vain = level, False
        self._settled = now + self._rules.settle
        self._late_since = self._room_since = None

    def failed(self, level: int) -> None:
        """``level`` cannot be used, and the one before is still in use."""
        self._useless.add(level)
        self._late_since = self._room_since = None

    def _next(self, step: int) -> int | None:
        level = self.level + step
        while level in self._useless:
            level += step
        return level if 0 <= level < self.levels else None

    def _compare(self, before: int, then: float, share: float) -> None:
        """``before`` took the share ``then``, and the level in use takes ``share``."""
        down = self.level > before
        above, below = (before, self.level) if down else (self.level, before)
        slower, faster = (then, share) if down else (share, then)
        self._ratio[above, below] = slower / faster
        if faster <= self._rules.gain * slower:
            self._strikes[below] = 0
            return
        self._in_vain = down
        self._strikes[below] = self._strikes.get(below, 0) + 1
        if self._strikes[below] >= self._rules.strikes:
            self._useless.add(below)
