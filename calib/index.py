"""``index.json`` of a sampled calibration set: what each picture is, where it came from, and its digest.

A set can come from anywhere, so reading is as strict as for a bundle's manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ManifestError, UsageError
from runtime.manifest import MAX_SIDE, json_object, safe_member

FORMAT = 1
KIND = "genedge-calibration-set"  # tells it from any other index.json
INDEX_NAME = "index.json"
MAX_PICTURES = 1 << 16
MAX_BYTES = 1 << 25  # 32 MiB: 65,536 entries of less than 512 bytes
MAX_RUN = 1 << 10

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,90}\.png")
_SOURCE = re.compile(r"[^/\x00-\x1f\x7f]{1,255}")


@dataclass(frozen=True)
class Picture:
    """One PNG of a set, ``uint8 (H, W, 3)``.

    ``source``: name of the file or folder it was taken from, without its path. ``frame``: which frame of the source,
    from 0. ``time``: seconds from the source's first frame, None for pictures. ``top``, ``left``: place of the crop in
    the frame, pixels. ``sha256``: of the PNG's bytes. ``run``, ``position``: its run, and its place in it, from 0.
    """

    file: str
    source: str
    frame: int
    time: float | None
    top: int
    left: int
    sha256: str
    run: int
    position: int


@dataclass(frozen=True)
class Index:
    """What ``index.json`` says. ``size`` is (height, width) of every picture in pixels, None where they differ."""

    seed: int
    size: tuple[int, int] | None
    run_length: int
    pictures: tuple[Picture, ...]

    @property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """Picture indices of each run, in order of time."""
        return tuple(
            tuple(range(start, start + self.run_length)) for start in range(0, len(self.pictures), self.run_length)
        )

    @property
    def digest(self) -> str:
        """See :func:`combined_digest`."""
        return combined_digest(picture.sha256 for picture in self.pictures)

    def to_json(self) -> str:
        """The text of ``index.json``."""
        content = {
            "format": FORMAT,
            "kind": KIND,
            "seed": self.seed,
            "size": self.size,
            "run_length": self.run_length,
            "pictures": [
                {
                    "file": picture.file,
                    "source": picture.source,
                    "frame": picture.frame,
                    "time": picture.time,
                    "crop": [picture.top, picture.left],
                    "sha256": picture.sha256,
                    "run": picture.run,
                    "position": picture.position,
                }
                for picture in self.pictures
            ],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def combined_digest(digests: Iterable[str]) -> str:
    """SHA-256, hexadecimal, over the SHA-256 of each picture, in their order."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def is_set(folder: Path) -> bool:
    """Whether the folder claims to be a sampled set."""
    return (folder / INDEX_NAME).is_file()


def read_index(folder: Path) -> Index:
    """Read ``index.json`` of a set and see that its files exist; their bytes are checked when they are read.

    Raises :class:`UsageError` with the place of the first mistake.
    """
    path = folder / INDEX_NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: more than {MAX_BYTES} bytes, so it is no calibration set")
        index = parse_index(path.read_bytes())
        for picture in index.pictures:
            member(folder, picture)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except ManifestError as error:
        raise UsageError(
            f"{path}: {error}: make the set again with `python -m calib sample`, "
            f"or take {INDEX_NAME} out of the folder where these are pictures of your own"
        ) from None
    return index


def member(folder: Path, picture: Picture) -> Path:
    """Path of a picture inside the set. Raises :class:`ManifestError` where it leads outside or is missing."""
    try:
        path = safe_member(folder, picture.file)
    except ManifestError:
        raise ManifestError(f"{picture.file} leads out of the set") from None
    if not path.is_file():
        raise ManifestError(f"{picture.file} is missing")
    return path


def parse_index(text: str | bytes) -> Index:
    """Read the text of ``index.json``. Raises :class:`ManifestError`."""
    top = json_object(text, "index", MAX_BYTES)
    if top.content.get("kind") != KIND:
        raise ManifestError(f"index.kind: not {KIND}, so it is no calibration set")
    version = top.integer("format", 1, 1 << 31)
    if version > FORMAT:
        raise ManifestError(f"index: format {version} is newer than format {FORMAT}, which this version reads")
    run_length = top.integer("run_length", 1, MAX_RUN)
    pictures = []
    for number, entry in enumerate(top.objects("pictures", 1, MAX_PICTURES)):
        crop = entry.get("crop")
        if not isinstance(crop, list) or len(crop) != 2 or not all(_whole(side, MAX_SIDE) for side in crop):
            raise ManifestError(f"{entry.place}.crop: must be [top, left] in pixels")
        time = None if entry.get("time") is None else entry.number("time")
        if time is not None and time < 0:
            raise ManifestError(f"{entry.place}.time: must be seconds from the first frame, or null")
        picture = Picture(
            file=entry.matching("file", _FILE, "letters, digits, dot, dash, underscore, and end in .png"),
            source=entry.matching("source", _SOURCE, "1 to 255 printable characters without a slash"),
            frame=entry.integer("frame", 0, 1 << 40),
            time=time,
            top=crop[0],
            left=crop[1],
            sha256=entry.sha256("sha256"),
            run=entry.integer("run", 0, MAX_PICTURES),
            position=entry.integer("position", 0, MAX_RUN),
        )
        if (picture.run, picture.position) != divmod(number, run_length):
            raise ManifestError(f"{entry.place}: the pictures are not in order of their runs of {run_length}")
        pictures.append(picture)
    if len(pictures) % run_length:
        raise ManifestError(f"index.pictures: the last run has not {run_length} pictures")
    if len({picture.file for picture in pictures}) != len(pictures):
        raise ManifestError("index.pictures: names the same file twice")
    return Index(top.integer("seed", 0, (1 << 32) - 1), top.size("size"), run_length, tuple(pictures))


def _whole(value: Any, at_most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= at_most
