"""The line that says how far a batch is."""

from __future__ import annotations

from runtime.stats import Progress, duration


class BatchProgress(Progress):
    """``3/10 files  1250 frames  48.1 fps  ETA 0:20``: files that have ended, frames written, and the time left.

    The time left follows from the share of the work that is done, since not all files say how many frames they have.
    It is right as far as a byte of every file takes equally long. Arguments as of :class:`runtime.stats.Progress`.
    """

    def __init__(self, files: int, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._files, self._ended, self._share = files, 0, 0.0

    def see(self, ended: int, frames: int, share: float) -> None:
        """``ended`` files have ended, ``frames`` are done in all, which is ``share`` (0 to 1) of the work."""
        self._ended, self._share = ended, share
        self.update(frames)

    def _counter(self) -> str:
        return f"{self._ended}/{self._files} files  {super()._counter()}"

    def _time_left(self, now: float, speed: float) -> str | None:
        if not 0 < self._share < 1:
            return None
        return f"ETA {duration((now - self._start) * (1 - self._share) / self._share)}"
