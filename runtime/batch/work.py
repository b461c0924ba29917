"""What the workers of a batch do: one file, or a piece of one, through the bundles."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.batch.files import FilePair
from runtime.batch.pool import Tell
from runtime.cli import controls_of, engines_of, images_of

if TYPE_CHECKING:
    from runtime.control import Controls
    from runtime.sessions import Choice, Session
    from runtime.video.sink import Sink
    from runtime.video.source import SourceInfo, VideoFrame

#: Options of the verb that change no pixel, or that are part of the identity in another form.
_NO_PIXELS = {
    "verb", "inputs", "output", "jobs", "ray", "retries", "json", "overwrite", "quiet", "threads", "bundle", "backend",
    "precision", "engine_cache", "timing_cache", "workspace", "passcode_file",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How every file is made. ``options``: of the verb. ``folders``, ``choices``: of the bundles, in order.

    The choice is made once, so that all workers compute alike, on whatever machine. ``threads``: of a worker.
    """

    options: argparse.Namespace
    folders: tuple[Path, ...]
    choices: tuple[Choice, ...]
    threads: int

    def digest(self) -> str:
        """Identity of everything but the input that the pixels depend on."""
        options = {name: value for name, value in vars(self.options).items() if name not in _NO_PIXELS}
        facts = [
            sorted((name, str(value)) for name, value in options.items()),
            [hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() for folder in self.folders],
            [(choice.backend, choice.precision, choice.variant) for choice in self.choices],
            # what is in the files of codes; of a passcode only when it was written, since it could be guessed
            [_stamp(Path(value)) for _, value in self.options.code],
            _stamp(self.options.passcode_file) if self.options.passcode_file else None,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Whole:
    """The task of making one file from beginning to end."""

    pair: FilePair


@dataclass(frozen=True)
class Made:
    """What a task has made."""

    frames: int
    warnings: tuple[str, ...]


class FileWork:
    """One file, as the scheduler sees it. ``warnings`` grows; ``total``: frames, once that is known."""

    def __init__(self, pair: FilePair) -> None:
        self.pair = pair
        self.warnings: list[str] = []
        self.total: int | None = None
        self._begun = False

    def ready(self) -> Sequence[Any]:
        return [] if self._begun else [Whole(self.pair)]

    def take(self, task: Any, result: Made) -> int:
        self._begun = True
        self.warnings += result.warnings
        return result.frames


def workshop(settings: Settings) -> Workshop:
    """What a worker begins with."""
    return Workshop(settings)


class Workshop:
    """A worker's bundles; the sessions stay open from task to task while the frames have one size."""

    def __init__(self, settings: Settings) -> None:
        import cv2

        from runtime.bundle import open_bundle

        self._settings = settings
        self._bundles = [open_bundle(folder) for folder in settings.folders]
        self._images = images_of(settings.options.image, self._bundles)
        self._open = ExitStack()
        self._size: tuple[int, int] | None = None
        self._stages: list[Session] = []
        cv2.setNumThreads(settings.threads)

    def __call__(self, task: Whole, tell: Tell) -> Made:
        try:
            return self._whole(task.pair, tell)
        except BaseException:
            self._close()  # whatever it was: the next file begins with sound sessions
            raise

    def _whole(self, pair: FilePair, tell: Tell) -> Made:
        from runtime.cuts import Beginnings
        from runtime.pipeline import run_pipeline
        from runtime.video.sink import open_sink
        from runtime.video.source import SourceOptions, open_source

        options = self._settings.options
        pair.output.parent.mkdir(parents=True, exist_ok=True)
        with open_source(str(pair.source), options=SourceOptions(threads=self._settings.threads)) as source:
            info: SourceInfo = source.info
            stages = self._stages_for(info.height, info.width)
            scale = 1
            for stage in stages:
                stage.reset()
                scale *= stage.scale
            recurrent = any(bundle.manifest.states for bundle in self._bundles)
            sink = open_sink(
                str(pair.output),
                source=info,
                width=info.width * scale,
                height=info.height * scale,
                overwrite=True,  # the scheduler has asked
                codec=None if pair.is_picture else options.codec,
                crf=options.crf,
                preset=options.preset,
                audio=not options.no_audio,
                keep_partial=True,
            )
            run_pipeline(
                source,
                stages,
                _TellingSink(sink, tell),
                max_frames=options.max_frames,
                begins=Beginnings(at_cuts=not options.no_cut_reset) if recurrent else None,
            )
            return Made(sink.frames_written, (*source.warnings, *sink.warnings))

    def _stages_for(self, height: int, width: int) -> list[Session]:
        """Open sessions for frames of this size, those of the last task where it is the same."""
        from runtime.stages import open_stage

        if self._size == (height, width):
            return self._stages
        self._close()
        options, settings = self._settings.options, self._settings
        engines = engines_of(options, (choice.backend for choice in settings.choices))
        controls: Controls = controls_of(options, self._bundles)
        size = height, width
        for number, (bundle, choice) in enumerate(zip(self._bundles, settings.choices, strict=True)):
            stage = self._open.enter_context(
                open_stage(
                    bundle,
                    choice,
                    height,
                    width,
                    tile=options.tile,
                    threads=settings.threads,
                    image=self._images[number],
                    engines=engines,
                )
            )
            stage.warm_up((1, height, width, 3))
            controls.attach(number, stage, height, width)
            self._stages.append(stage)
            height, width = height * stage.scale, width * stage.scale
        self._size = size
        return self._stages

    def _close(self) -> None:
        self._open.close()
        self._stages, self._size = [], None


class _TellingSink:
    """Passes everything on, and tells how many frames were written."""

    def __init__(self, sink: Sink, tell: Callable[[int], None]) -> None:
        self._sink, self._tell = sink, tell
        self.close, self.abort = sink.close, sink.abort

    def write(self, frame: VideoFrame) -> None:
        self._sink.write(frame)
        self._tell(self._sink.frames_written)


def threads_each(threads: int, jobs: int) -> int:
    """Threads of one of ``jobs`` workers: what the user said, else an equal share of this machine's cores."""
    return threads or max(1, len(os.sched_getaffinity(0)) // jobs)
