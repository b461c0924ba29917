"""Which files a batch reads, and what each becomes in the output folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UsageError, message_of
from runtime.video.uri import PATTERN, PICTURE_SUFFIXES, VIDEO_SINK_SUFFIXES

#: What FFmpeg reads and a folder of videos may hold. A file that is named itself may end in anything.
VIDEO_SUFFIXES = (
    *VIDEO_SINK_SUFFIXES, ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob", ".wmv", ".asf", ".flv", ".f4v",
    ".3gp", ".ogv", ".mxf", ".y4m", ".gif",
)  # fmt: skip
#: For videos of other kinds: it holds sound of nearly every codec as it is.
OTHER_SUFFIX = ".mkv"


@dataclass(frozen=True)
class FilePair:
    """A file and what it becomes; both paths are absolute. ``size``: of the input, in bytes."""

    source: Path
    output: Path
    size: int

    @property
    def is_picture(self) -> bool:
        return self.output.suffix.lower() in PICTURE_SUFFIXES


@dataclass(frozen=True)
class Trouble:
    """A file or folder that cannot be part of the batch, and why in one sentence."""

    source: Path
    error: str


@dataclass(frozen=True)
class Collection:
    """What was found. ``others``: files in the folders that are neither videos nor pictures."""

    pairs: tuple[FilePair, ...]
    troubles: tuple[Trouble, ...]
    others: int


def collect(inputs: Sequence[Path], out: Path) -> Collection:
    """Find the videos and pictures of folders, with all their sub-folders, and of files.

    A file of a folder keeps its place below that folder; a file that is named itself comes right into ``out``. Hidden
    files and folders, and ``out`` itself, are left alone; links to folders are followed, each folder is entered once.

    Raises:
        UsageError: an input does not exist, there is nothing to do, two inputs would become one output, or an output
            is an input.
    """
    found: dict[Path, Path] = {}  # input -> place below out
    troubles: list[Trouble] = []
    others = 0
    for given in inputs:
        if not os.path.lexists(given):
            raise UsageError(f"{given} does not exist: give video files, pictures, or folders of them")
        if not given.is_dir():
            found.setdefault(given.absolute(), Path(given.name))
            continue
        if given.resolve() == out.resolve():
            raise UsageError(f"{given} is the output folder too: give another output folder")
        entered = {out.resolve()}
        for path in _files_below(given.absolute(), entered, troubles):
            if path.suffix.lower() in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES) and (path.is_file() or path.is_symlink()):
                found.setdefault(path, path.relative_to(given.absolute()))
            else:
                others += 1
    pairs: list[FilePair] = []
    for source, place in found.items():
        try:
            size = source.stat().st_size
        except OSError as error:
            troubles.append(Trouble(source, message_of(error)))
            continue
        output = out.absolute() / place.with_suffix(_suffix_for(place))
        if PATTERN.search(output.name):
            troubles.append(Trouble(source, f"{source}: %d in a name stands for a number: give it another name"))
            continue
        pairs.append(FilePair(source, output, size))
    if not pairs and not troubles:
        raise UsageError(f"no videos or pictures in {', '.join(map(str, inputs))}")
    _check_distinct(pairs)
    return Collection(tuple(pairs), tuple(troubles), others)


def _suffix_for(place: Path) -> str:
    """The container or picture format is kept where it can be written."""
    suffix = place.suffix.lower()
    return place.suffix if suffix in (*VIDEO_SINK_SUFFIXES, *PICTURE_SUFFIXES) else OTHER_SUFFIX


def _files_below(folder: Path, entered: set[Path], troubles: list[Trouble]) -> Iterator[Path]:
    """Files below ``folder`` in order of their names; folders in ``entered`` are left out, and added once entered."""
    real = folder.resolve()
    if real in entered:
        return
    entered.add(real)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        troubles.append(Trouble(folder, message_of(error)))
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files_below(entry, entered, troubles)
        else:
            yield entry


def _check_distinct(pairs: Sequence[FilePair]) -> None:
    made: dict[Path, Path] = {}
    sources = {pair.source.resolve() for pair in pairs}
    for pair in pairs:
        other = made.setdefault(pair.output, pair.source)
        if other != pair.source:
            raise UsageError(
                f"{other} and {pair.source} would both become {pair.output}: rename one, or give them different outputs"
            )
        if pair.output.resolve() in sources:
            raise UsageError(f"{pair.output} is itself an input: give another output folder")
