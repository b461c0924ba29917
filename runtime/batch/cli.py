"""The verb ``batch`` of ``python -m runtime``."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from runtime.cli import (
    assignment,
    controls_of,
    count,
    encoder_options,
    engine_options,
    engines_of,
    images_of,
    json_option,
    say_between,
    segment_length,
)
from runtime.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    GenedgeError,
    UsageError,
    message_of,
    printable,
)
from runtime.report import write_json

if TYPE_CHECKING:
    from runtime.batch.files import Collection, FilePair
    from runtime.batch.journal import Journal
    from runtime.batch.on_ray import Cluster
    from runtime.batch.pool import Pool
    from runtime.batch.progress import BatchProgress
    from runtime.batch.scheduler import Progression
    from runtime.batch.way import FileWork
    from runtime.batch.work import Settings
    from runtime.sessions import Choice


def add_batch_parser(verbs: Any) -> None:
    """Add the verb ``batch`` to the subparsers of :mod:`runtime.cli`."""
    parser = verbs.add_parser(
        "batch",
        help="run many videos and pictures through one or more bundles",
        description="Run folders of videos and pictures through bundles, several at once. What is done is kept: the "
        "same command goes on where it was left. Faces are hidden with deid, file by file, not here.",
        epilog="Exit codes: 0 ok, 1 a file failed (the others are done), 2 usage, 130 interrupted.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="DIR|FILE",
        help="videos, pictures, and folders with sub-folders of them",
    )
    parser.add_argument(
        "-b", "--bundle", action="append", required=True, metavar="BUNDLE", help="as for run; several are stages"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="OUT", help="folder; files keep their place and name in it"
    )
    parser.add_argument(
        "--jobs", type=count, metavar="N", help="workers at once (default: 1, on a cluster as many as its cores hold)"
    )
    parser.add_argument(
        "--ray",
        metavar="auto|ADDRESS",
        help="work on a Ray cluster: this machine's, else a new one, or that at ADDRESS; every machine must "
        "see the files under the same paths",
    )
    parser.add_argument(
        "--retries", type=count, default=2, metavar="N", help="how often a worker that died is replaced (default: 2)"
    )
    engine_options(parser)
    parser.add_argument("--tile", type=count, metavar="N", help="as for run")
    parser.add_argument("--code", action="append", default=[], type=assignment, metavar="NAME=VALUE", help="as for run")
    parser.add_argument("--passcode-file", type=Path, metavar="FILE", help="as for run")
    parser.add_argument("--image", action="append", default=[], metavar="[STAGE:]NAME", help="as for run")
    parser.add_argument("--no-cut-reset", action="store_true", help="as for run")
    parser.add_argument("--no-audio", action="store_true", help="leave the sound out (default: copied)")
    parser.add_argument("--max-frames", type=count, metavar="N", help="of each file, stop after N frames")
    encoder_options(parser)
    parser.add_argument("--segment", type=segment_length, metavar="N", help="as for run (default: 250)")
    parser.add_argument("--fragmented", action="store_true", help="as for run")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that something else has made")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    json_option(parser)
    parser.set_defaults(verb=batch, control=None)


def batch(options: argparse.Namespace) -> int:
    """Run the verb; returns the exit code."""
    from runtime.batch.files import collect
    from runtime.batch.journal import Journal
    from runtime.batch.local import LocalPool
    from runtime.batch.work import Settings, workshop
    from runtime.bundle import open_bundle
    from runtime.sessions import choose
    from runtime.stats import cores_here

    if options.jobs == 0:
        raise UsageError("--jobs must be at least 1")
    _make_absolute(options)
    bundles = [open_bundle(place) for place in options.bundle]
    images_of(options.image, bundles)
    choices = [choose(bundle, options.backend, options.precision) for bundle in bundles]
    engines_of(options, (choice.backend for choice in choices))
    controls_of(options, bundles, passcodes=True)
    found = collect(options.inputs, options.output)
    _check_encoding(options, found)
    _make_folder(options.output)
    for bundle, choice in zip(bundles, choices, strict=True):
        say_between(f"{bundle.manifest.name}: {choice.reason}")
    recurrent = [bundle.manifest.name for bundle in bundles if bundle.manifest.states]
    if recurrent:
        say_between(f"{recurrent[0]} computes each frame from those before: a file is made by one worker, in one go")
    folders = tuple(bundle.folder.absolute() for bundle in bundles)
    out = options.output.absolute()
    with Journal(out) as journal, ExitStack() as stack:
        cluster = None
        if options.ray is not None:
            cluster = stack.enter_context(_cluster(options, found, folders, choices))
            threads, jobs = cluster.share(options.threads, options.jobs)
            say_between(f"Ray: {cluster.machines} machines, {jobs} workers of {threads} threads")
        else:
            jobs = options.jobs or 1
            threads = options.threads or max(1, cores_here() // jobs)
        cores = None if cluster is None else cores_here()
        settings = Settings(options, folders, tuple(choices), threads, cores)
        make = partial(workshop, settings)
        make_pool = partial(LocalPool, jobs, make) if cluster is None else partial(cluster.pool, jobs, threads, make)
        return _Batch(options, found, settings, journal, jobs=jobs, divide=not recurrent).run(make_pool)


def _cluster(
    options: argparse.Namespace, found: Collection, folders: Sequence[Path], choices: Sequence[Choice]
) -> Cluster:
    """Connect to the cluster of ``--ray``, all of whose machines see what they need."""
    from runtime.batch.journal import NAME
    from runtime.batch.on_ray import Cluster, Seen
    from runtime.manifest import MANIFEST_NAME
    from runtime.sessions.onnxruntime import on_cuda

    gpu = any(choice.backend == "tensorrt" or (choice.backend == "onnxruntime" and on_cuda()) for choice in choices)
    cluster = Cluster(options.ray, gpu=gpu)
    out = options.output.absolute()
    seen = [Seen.of(folder / MANIFEST_NAME, whole=True) for folder in folders]
    seen += [Seen.of(pair.source) for pair in found.pairs[:1]] + [Seen.of(out / NAME)]
    try:
        cluster.check(seen, out)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _check_encoding(options: argparse.Namespace, found: Collection) -> None:
    """Raise :class:`UsageError` where no video could be encoded like this; if some could, the others fail alone."""
    from runtime.batch.work import ENCODER_OPTIONS
    from runtime.video.encoders import encoding_for
    from runtime.video.uri import parse_sink

    errors: list[UsageError] = []
    places = {pair.output.suffix.lower(): pair.output for pair in found.pairs if not pair.is_picture}
    for place in places.values():
        try:
            encoding_for(
                parse_sink(str(place)), threads=0, **{name: getattr(options, name) for name in ENCODER_OPTIONS}
            )
        except UsageError as error:
            errors.append(error)
    if errors and len(errors) == len(places):
        raise errors[0]


def _make_absolute(options: argparse.Namespace) -> None:
    """Let the paths in ``options`` that workers read be those of this process, wherever they run."""
    for name in ("passcode_file", "engine_cache", "timing_cache"):
        if (path := getattr(options, name)) is not None:
            setattr(options, name, path.absolute())
    options.code = [
        (name, str(Path(value).absolute()) if value.lower().endswith(".png") and Path(value).is_file() else value)
        for name, value in options.code
    ]


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give an output folder")
    out.mkdir(parents=True, exist_ok=True)


@dataclass
class _File:
    """One file's line in the report."""

    source: Path
    output: Path | None
    outcome: str  # complete, skipped (was complete before), failed or left (the batch was interrupted)
    error: str | None = None
    work: FileWork | None = None
    job: str = ""
    progression: Progression | None = None

    def to_dict(self) -> dict[str, Any]:
        way, work = self.progression, self.work
        return {
            "input": str(self.source),
            "output": None if self.output is None else str(self.output),
            "outcome": self.outcome,
            "error": self.error,
            "frames": 0 if way is None or work is None else way.frames + work.kept,
            "seconds": 0.0 if way is None else way.seconds,
            "retries": 0 if way is None else way.retries,
            "pieces": 0 if work is None else work.pieces,
            "warnings": [] if work is None else work.warnings,
        }


class _Batch:
    """All files of one call: which are to be done, doing them, and what to say about it."""

    def __init__(
        self,
        options: argparse.Namespace,
        found: Collection,
        settings: Settings,
        journal: Journal,
        *,
        jobs: int,
        divide: bool,
    ) -> None:
        self.options, self.settings, self.journal, self.jobs, self.divide = options, settings, journal, jobs, divide
        self.interrupts = 0  # that were answered
        self.files = [_File(trouble.source, None, "failed", trouble.error) for trouble in found.troubles]
        digest = settings.digest()
        self.files += [self._file(pair, digest) for pair in found.pairs]
        self.sizes = {pair.source: pair.size for pair in found.pairs}
        for file in self.files:
            if file.outcome == "failed":
                self._complain(file)
        if found.others:
            say_between(f"{found.others} files are neither videos nor pictures: left alone")

    def _file(self, pair: FilePair, digest: str) -> _File:
        from runtime.batch.journal import job_of
        from runtime.batch.way import FileWork

        file = _File(pair.source, pair.output, "left")
        try:
            file.job = job_of(pair.source, digest)
            if self.journal.must_do(pair.output, file.job, self.options.overwrite):
                file.work = FileWork(
                    pair,
                    f"{file.job}, {self.settings.made_with}",
                    jobs=self.jobs,
                    segment=self.settings.segment,
                    divide=self.divide,
                    max_frames=self.options.max_frames,
                )
            else:
                file.outcome = "skipped"
        except (GenedgeError, OSError) as error:
            file.outcome, file.error = "failed", message_of(error)
        return file

    def run(self, make_pool: Callable[[], Pool]) -> int:
        """Do what is to be done; returns the exit code."""
        from runtime.batch.progress import BatchProgress
        from runtime.batch.scheduler import Scheduler

        begun = time.monotonic()
        todo = [file for file in self.files if file.work is not None]
        if todo:
            works = [file.work for file in todo if file.work is not None]
            with ExitStack() as stack:
                pool = stack.enter_context(make_pool())
                interrupts = stack.enter_context(interrupts_counted())
                progress = stack.enter_context(BatchProgress(len(todo), quiet=self.options.quiet))
                file_of: dict[Progression, _File] = {}
                scheduler = Scheduler(
                    works,
                    pool,
                    retries=self.options.retries,
                    begins=lambda way: self._begins(file_of[way]),
                    ended=lambda way: self._ended(file_of[way], way),
                    seen=lambda: self._see(progress, todo, interrupts()),
                )
                for file, way in zip(todo, scheduler.files, strict=True):
                    file.progression, file_of[way] = way, file
                scheduler.run(interrupts)
                self._see(progress, todo, interrupts())
            for file in todo:
                if file.work is not None and file.outcome == "left":
                    file.work.tidy(complete=False)
        return self._conclude(time.monotonic() - begun)

    def _begins(self, file: _File) -> None:
        from runtime.batch.journal import BEGUN

        assert file.output is not None
        self.journal.note(file.output, file.job, BEGUN)

    def _ended(self, file: _File, way: Progression) -> None:
        assert file.output is not None
        file.outcome, file.error = way.outcome, way.error
        if file.work is not None:
            file.work.tidy(way.outcome == "complete")
        self.journal.note(file.output, file.job, way.outcome)
        if file.work is not None:
            for warning in file.work.warnings:
                say_between(f"warning: {printable(warning)}")
        if file.error is not None:
            self._complain(file)

    def _see(self, progress: BatchProgress, todo: Sequence[_File], interrupts: int) -> None:
        if interrupts > self.interrupts:
            say_between(
                "leaving at once" if interrupts > 1 else "finishing what is under way; once more to leave at once"
            )
            self.interrupts = interrupts
        whole = sum(self.sizes[file.source] for file in todo) or 1
        ended = frames = 0
        done = 0.0
        for file in todo:
            way, work = file.progression, file.work
            assert way is not None
            assert work is not None
            ended += way.ended
            frames += way.frames_so_far
            part = 1.0 if way.ended else min(1.0, (way.frames_so_far + work.kept) / work.total) if work.total else 0.0
            done += part * self.sizes[file.source]
        progress.see(ended, frames, done / whole)

    def _complain(self, file: _File) -> None:
        error = file.error or ""
        named = error if str(file.source) in error or str(file.output) in error else f"{file.source}: {error}"
        say_between(f"error: {printable(named)}")

    def _conclude(self, seconds: float) -> int:
        counts = Counter(file.outcome for file in self.files)
        frames = sum(file.progression.frames for file in self.files if file.progression is not None)
        parts = [f"{counts['complete']} file{'s' * (counts['complete'] != 1)} done"]
        parts += [f"{counts['skipped']} were done before"] * bool(counts["skipped"])
        parts += [f"{counts['failed']} failed"] * bool(counts["failed"])
        parts += [f"{counts['left']} left"] * bool(counts["left"])
        speed = frames / seconds if seconds > 0 else 0.0
        say_between(f"{self.options.output}: {', '.join(parts)}; {frames} frames, {speed:.1f} fps")
        outcome = "interrupted" if counts["left"] else "failed" if counts["failed"] else "complete"
        if self.options.json:
            totals = {"files": len(self.files)}
            totals |= {name: counts[name] for name in ("complete", "skipped", "failed", "left")}
            retries = sum(file.progression.retries for file in self.files if file.progression is not None)
            content = {
                "outcome": outcome,
                "jobs": self.jobs,
                "threads": self.settings.threads,
                "ray": self.options.ray,
                "stages": [asdict(choice) for choice in self.settings.choices],
                "files": [file.to_dict() for file in self.files],
                "totals": {**totals, "frames": frames, "seconds": seconds, "fps": speed, "retries": retries},
            }
            write_json(self.options.json, content)
        if counts["left"]:
            say_between("interrupted: the same command goes on with the rest")
            return EXIT_INTERRUPTED
        return EXIT_FAILED if counts["failed"] else EXIT_OK


@contextmanager
def interrupts_counted() -> Iterator[Callable[[], int]]:
    """Count Ctrl-C and SIGTERM instead of being ended by them; gives what tells how many came."""
    came = 0

    def count_one(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came += 1  # and nothing is said here: it may have come in the middle of a line

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, count_one) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
