"""Runs from a file to a video file that can be continued where they were stopped or killed.

The output is encoded in segments, in every run, so that one that is continued with the next segment gives the same file
as one that went through. Nothing is continued on faith: the run must be the same by :func:`facts_of`, every segment
that is kept must still hold what was written, and the last frame before the join is computed again and has to be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import UsageError
from runtime.stats import cores_here
from runtime.video.journal import Journal
from runtime.video.segments import SEGMENT, SegmentSink, Whole, stored_segments
from runtime.video.uri import SinkKind, SourceKind, parse_sink, parse_source

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.sessions import Choice
    from runtime.video.source import SourceInfo

Say = Callable[[str], None]

# options that change nothing in the output; of the input, the bundles and the detector their content counts
_WITHOUT_EFFECT = {
    "verb", "input", "output", "bundle", "generator", "detector", "json", "quiet", "overwrite", "resume", "review",
    "host", "token_file", "control", "passcode_file", "passcode_env", "ask_passcode", "vault", "engine_cache",
    "timing_cache", "reconnect", "input_timeout", "max_latency_ms", "backend", "precision", "segment", "timeout",
}  # fmt: skip
_SAMPLES, _SAMPLE = 64, 1 << 16  # pieces of an input that are looked at, and their bytes


def is_complete(options: argparse.Namespace) -> bool:
    """Whether ``--resume`` was asked for and there is nothing to do.

    Raises :class:`UsageError` where it makes no sense, and what :class:`runtime.video.journal.Journal` does.
    """
    if not options.resume:
        return False
    if options.dump_raw is not None:
        raise UsageError("--dump-raw writes what is computed in this run, and --resume leaves frames out: give one")
    source, sink = parse_source(options.input), parse_sink(options.output)
    if sink.kind is not SinkKind.FILE or source.kind is not SourceKind.FILE or options.realtime:
        raise UsageError("--resume continues a run from a video file to a video file: leave it out")
    if options.overwrite or not sink.path.exists():
        return False
    with Journal(sink.path) as journal:
        return not journal.whole


def facts_of(
    options: argparse.Namespace, info: SourceInfo, models: Iterable[tuple[Bundle, Choice]], **more: str
) -> dict[str, str]:
    """Which run it is: everything that decides what the frames of the output are, each under a name for people."""
    import av

    facts = {"the input": _digest_of(info.path) if info.path is not None else ""}
    for number, (bundle, choice) in enumerate(models, 1):
        weights = bundle.manifest.artifacts[choice.variant].sha256
        facts[f"bundle {number}"] = f"{bundle.manifest.name} {weights[:16]} on {choice.backend} in {choice.precision}"
    for name, value in sorted(vars(options).items()):
        if name not in _WITHOUT_EFFECT and value not in (None, False, []):
            facts[f"--{name.replace('_', '-')}"] = str(value)
    facts["--segment"] = str(options.segment or SEGMENT)
    facts["PyAV"] = av.__version__
    facts["number of cores"] = str(cores_here())
    return {**facts, **more}


def _digest_of(path: Path) -> str:
    """Of a file's size and of pieces of it; of all of it up to 4 MiB."""
    content = hashlib.sha256()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        content.update(size.to_bytes(8, "big"))
        step = max(_SAMPLE, (size - _SAMPLE) // (_SAMPLES - 1))
        for at in range(0, size, step):
            file.seek(min(at, max(0, size - _SAMPLE)))
            content.update(file.read(_SAMPLE))
    return content.hexdigest()[:32]


def open_run(
    options: argparse.Namespace, info: SourceInfo, facts: Callable[[], Mapping[str, str]], say: Say
) -> FileRun | None:
    """The run from a file ``info`` to a video file, None: from or to something else. Raises what :class:`FileRun` does.

    ``facts``: what :func:`facts_of` gives.
    """
    if info.live or info.path is None or parse_sink(options.output).kind is not SinkKind.FILE or options.dump_raw:
        return None
    return FileRun(options, facts(), say)


class FileRun:
    """A run from a file to a video file. A context manager around the sink.

    ``length``: frames of a segment. ``done``: frames of the output that are taken from what is left of an earlier run.
    ``last_cut``: see :meth:`runtime.cuts.Beginnings.last_cut`; where frames depend on those before.

    Raises what :class:`runtime.video.journal.Journal` does, and :class:`UsageError` where another run than this one is
    to be continued; with ``--overwrite`` that is said, and it starts again.
    """

    def __init__(self, options: argparse.Namespace, facts: Mapping[str, str], say: Say) -> None:
        self.length: int = options.segment or SEGMENT
        self.done = 0
        self.last_cut: Callable[[int], int] = lambda frame: 0
        self._say, self._facts, self._output = say, dict(facts), options.output
        self._journal = Journal(parse_sink(options.output).path)
        self._left: Path | None = None
        self._unknown = False
        try:
            self._find(resume=options.resume, overwrite=options.overwrite)
        except BaseException:
            self._journal.close()
            raise

    def _find(self, *, resume: bool, overwrite: bool) -> None:
        journal = self._journal
        if not journal.whole or journal.facts is None:
            return
        other = _difference(journal.facts, self._facts)
        if not resume:
            if not other:
                self._say(f"an unfinished {self._output} is begun again: --resume would have continued it")
        elif other and not overwrite:
            raise UsageError(f"{self._output} was begun with {other}: give the same, or --overwrite to begin again")
        elif other:
            self._say(f"{self._output} was begun with {other}: it is begun again")
        else:
            self._left = journal.find()
            if self._left is None:
                self._say(f"nothing of the unfinished {self._output} is left: it is begun again")

    def take_over(self, sink: SegmentSink) -> None:
        """Give ``sink`` the segments that are there; from now on take note of every new one."""
        taken = 0
        if self._left is not None:
            stop = threading.Event()
            with ThreadPoolExecutor(1) as pool:  # Ctrl-C would be lost inside of FFmpeg's calls of Python
                copying = pool.submit(_copy, self._left, self._journal.whole, sink, stop)
                try:
                    taken = copying.result()
                finally:
                    stop.set()
            self._say(f"{self._output}: {sink.frames_written} frames are there and are kept")
        if taken:
            self._journal.keep(taken)
        else:
            self._journal.begin(self._facts)
        self.done = sink.frames_written
        sink.on_whole = self._note

    def _note(self, whole: Whole) -> None:
        if self._unknown:
            return
        frames = sum(len(each.ticks) for each in self._journal.whole) + len(whole.ticks)
        self._journal.note(whole, self.last_cut(frames))
        self._journal.moved.unlink(missing_ok=True)  # the new file holds more

    def stop_noting(self) -> None:
        """What comes from now on depends on more than the facts, so it could not be continued. From any thread."""
        self._unknown = True

    def first(self, *, recurrent: bool) -> int:
        """The first frame to compute: the last one that is there already, for comparison; with a ``recurrent`` stage
        the one with which its shot begins."""
        if not self.done:
            return 0
        return self._journal.cuts[-1] if recurrent else self.done - 1

    def times_before(self, frame: int, time_base: Fraction) -> list[Fraction]:
        """Times of the frames before ``frame``, seconds since the first one."""
        ticks = [tick for whole in self._journal.whole for tick in whole.ticks][:frame]
        return [(tick - ticks[0]) * time_base for tick in ticks]

    def complete(self) -> None:
        """The output is what it was to be."""
        self._journal.whole.clear()

    def __enter__(self) -> FileRun:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._journal.whole:
            self._journal.tidy()
        self._journal.close()


def _copy(left: Path, whole: list[Whole], sink: SegmentSink, stop: threading.Event) -> int:
    """Hand the segments of a file on until ``stop``; how many that were."""
    taken = 0
    for segment, packets in stored_segments(left, whole):
        if stop.is_set():
            break
        sink.take(segment, packets)
        taken += 1
    return taken


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first thing that is not the same, in words; empty: none."""
    for name in [*before, *now]:
        was, has = before.get(name), now.get(name)
        if was != has:
            if name == "the input":
                return "another input"
            return f"another {name}" if was is None or has is None else f"another {name} ({was}, now {has})"
    return ""
