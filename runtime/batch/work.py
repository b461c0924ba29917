"""What the workers of a batch do: one file, or a piece of one, through the bundles."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.batch.files import FilePair
from runtime.batch.pieces import PieceNote, folder_of, piece_path
from runtime.batch.pool import Tell
from runtime.cli import controls_of, engines_of, images_of
from runtime.errors import EndedEarlyError, VideoError
from runtime.stats import cores_here
from runtime.video.segments import SEGMENT
from runtime.video.uri import VIDEO_SINK_SUFFIXES

if TYPE_CHECKING:
    from runtime.control import Controls
    from runtime.sessions import Choice, Session
    from runtime.video.sink import Sink
    from runtime.video.source import Source, SourceInfo, VideoFrame

#: Options that say how a video is compressed, by the names that ``open_sink`` has for them.
ENCODER_OPTIONS = ("codec", "crf", "preset", "encoder", "bitrate", "pix_fmt")
#: Options of the verb that change no pixel, or that are part of the identity in another form.
_NO_PIXELS = {
    "verb", "inputs", "output", "jobs", "ray", "retries", "json", "overwrite", "quiet", "threads", "bundle", "backend",
    "precision", "engine_cache", "timing_cache", "workspace", "passcode_file",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How every file is made. ``options``: of the verb. ``folders``, ``choices``: of the bundles, in order.

    The choice is made once, so that all workers compute alike, on whatever machine. ``threads``: of a worker.
    ``cores``: of the machine that the batch was started on, where others work for it.
    """

    options: argparse.Namespace
    folders: tuple[Path, ...]
    choices: tuple[Choice, ...]
    threads: int
    cores: int | None = None

    def encoder_threads(self, height: int) -> int:
        """Threads of an encoder, whose number changes what it makes: so all machines take as many as this one would.

        ``height``: of the frames in pixels. 0 lets the encoder choose, by the cores of its machine.
        """
        if self.cores is None:
            return 0
        # as x264 does: three for two cores, and at least two rows of blocks of 16 pixels for each
        return max(1, min(self.cores * 3 // 2, -(-height // 16) // 2))

    @property
    def segment(self) -> int:
        """Frames of a segment, which is encoded by itself."""
        length: int = self.options.segment or SEGMENT
        return length

    @property
    def made_with(self) -> str:
        """What pieces of one file must share besides the digest: encoders differ by it."""
        import av

        return f"PyAV {av.__version__}, {cores_here()} cores"

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
class Plan:
    """The task of looking at a video before it is begun; gives :class:`Planned`."""

    pair: FilePair


@dataclass(frozen=True)
class Planned:
    """``frames``: what the file says, None where it does not. ``divisible``: its pieces can be reached quickly."""

    frames: int | None
    divisible: bool


@dataclass(frozen=True)
class Piece:
    """The task of making a piece of a video: frames from ``start`` to before ``stop``, or to the end for None."""

    pair: FilePair
    job: str
    start: int
    stop: int | None


@dataclass(frozen=True)
class Join:
    """The task of making the file from all its pieces, and its sound."""

    pair: FilePair
    notes: tuple[PieceNote, ...]


@dataclass(frozen=True)
class Made:
    """What a task has made. ``note``: of a piece; None: it cannot be part of the file, which has to be made as a whole.
    ``unfit``: the same of pieces that were joined."""

    frames: int
    warnings: tuple[str, ...] = ()
    note: PieceNote | None = None
    unfit: bool = False


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

    def __call__(self, task: Whole | Plan | Piece | Join, tell: Tell) -> Made | Planned:
        try:
            if isinstance(task, Plan):
                return self._plan(task.pair)
            if isinstance(task, Piece):
                return self._piece(task, tell)
            if isinstance(task, Join):
                return self._join(task)
            return self._whole(task.pair, tell)
        except BaseException:
            self._close()  # whatever it was: the next file begins with sound sessions
            raise

    def _plan(self, pair: FilePair) -> Planned:
        with self._source(pair) as source:
            # in other containers a frame is found by reading all that come before it
            return Planned(source.info.frame_count, pair.source.suffix.lower() in VIDEO_SINK_SUFFIXES)

    def _whole(self, pair: FilePair, tell: Tell) -> Made:
        options = self._settings.options
        pair.output.parent.mkdir(parents=True, exist_ok=True)
        with self._source(pair) as source:
            sink, _ = self._run(source, pair.output, options.max_frames, tell, whole=True)
            return Made(sink.frames_written, (*source.warnings, *sink.warnings))

    def _piece(self, piece: Piece, tell: Tell) -> Made:
        from runtime.video.segments import SegmentSink

        folder = folder_of(piece.pair.output)
        folder.mkdir(parents=True, exist_ok=True)
        path = piece_path(folder, piece.start, piece.pair.output.suffix)
        most = None if piece.stop is None else piece.stop - piece.start
        with self._source(piece.pair) as source:
            try:
                source.skip(piece.start)
                sink, size = self._run(source, path, most, tell, whole=False)
            except EndedEarlyError:
                return Made(0)
            assert isinstance(sink, SegmentSink)
            note = PieceNote(piece.start, piece.stop, sink.frames_written, size, tuple(sink.whole))
            note.write(folder, piece.job)
            return Made(sink.frames_written, tuple(source.warnings), note)

    def _join(self, task: Join) -> Made:
        from runtime.video.segments import SegmentFile, SegmentSink, join, stored_segments

        folder, suffix = folder_of(task.pair.output), task.pair.output.suffix
        parts = [SegmentFile(piece_path(folder, note.start, suffix), note.whole) for note in task.notes if note.whole]
        with self._source(task.pair) as source:
            sink = self._sink(task.pair.output, source.info, task.notes[0].size, whole=True)
            assert isinstance(sink, SegmentSink)
            try:
                join(parts, sink)
            except VideoError:
                if all(sum(1 for _ in stored_segments(part.path, part.whole)) == len(part.whole) for part in parts):
                    raise
                return Made(0, unfit=True)  # they were damaged after they had been written, as by a power cut
            return Made(0, tuple(sink.warnings))

    def _run(
        self, source: Source, output: Path, most: int | None, tell: Tell, *, whole: bool
    ) -> tuple[Sink, tuple[int, int]]:
        """Run the rest of ``source`` into a file. Returns its sink, which is closed, and (width, height) in pixels."""
        from runtime.cuts import Beginnings
        from runtime.pipeline import run_pipeline

        options, info = self._settings.options, source.info
        stages = self._stages_for(info.height, info.width)
        scale = 1
        for stage in stages:
            stage.reset()
            scale *= stage.scale
        recurrent = any(bundle.manifest.states for bundle in self._bundles)
        size = info.width * scale, info.height * scale
        sink = self._sink(output, info, size, whole=whole)
        run_pipeline(
            source,
            stages,
            _TellingSink(sink, tell),
            max_frames=most,
            begins=Beginnings(at_cuts=not options.no_cut_reset) if recurrent else None,
        )
        return sink, size

    def _source(self, pair: FilePair) -> Source:
        from runtime.video.source import SourceOptions, open_source

        return open_source(str(pair.source), options=SourceOptions(threads=self._settings.threads))

    def _sink(self, output: Path, info: SourceInfo, size: tuple[int, int], *, whole: bool) -> Sink:
        """``whole``: what it takes is the output, with its sound, subtitles and so on, and not a piece of it."""
        from runtime.video.sink import open_sink

        options = self._settings.options
        return open_sink(
            str(output),
            source=info,
            width=size[0],
            height=size[1],
            overwrite=True,  # whether that may be was asked before
            audio=whole and not options.no_audio,
            extras=whole and not any(bundle.manifest.task == "face-deid" for bundle in self._bundles),
            threads=self._settings.encoder_threads(size[1]),
            keep_partial=True,
            fragmented=options.fragmented,
            segment=self._settings.segment,
            **{name: getattr(options, name) for name in ENCODER_OPTIONS},
        )

    def _stages_for(self, height: int, width: int) -> list[Session]:
        """Open sessions for frames of this size, those of the last task where it is the same."""
        from runtime.stages import open_stage

        if self._size == (height, width):
            return self._stages
        self._close()
        options, settings = self._settings.options, self._settings
        engines = engines_of(options, (choice.backend for choice in settings.choices))
        controls: Controls = controls_of(options, self._bundles, passcodes=True)
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
