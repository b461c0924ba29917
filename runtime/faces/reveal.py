"""``python -m runtime reveal``: the original faces of a vault as pictures, or pasted back into the covered video."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import EXIT_OK, EndedEarlyError, GenedgeError, UsageError, VideoError, printable
from runtime.folder import new_folder

if TYPE_CHECKING:
    from runtime.faces.vault import Entry, VaultReader
    from runtime.frames import Frame
    from runtime.video.source import Source, VideoFrame

INDEX_NAME = "index.json"
SAME_TIME = Fraction(1, 200)  # seconds; Matroska rounds times to 1 ms

_PICTURE = re.compile(r"frame_\d+_track_\d+(_\d+)?\.png")
_KIND = "faces of a vault"


def add_reveal_parser(verbs: Any) -> None:
    """Add the verb ``reveal`` to the subparsers of :mod:`runtime.cli`."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "reveal",
        help="restore the exact original faces from a vault",
        description="Restore the exact faces that deid --vault has kept: as pictures, or in the covered video.",
        epilog="Who has a vault and its passcode can undo the covering: until one of them is destroyed, the people are "
        "pseudonymous, not anonymous. What is restored is written for its owner only.",
    )
    parser.add_argument("vault", type=Path, metavar="VAULT")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUTPUT", help="folder; with --video a file .mkv"
    )
    parser.add_argument(
        "--video", metavar="COVERED", help="paste the faces into this covered video; without loss (FFV1, RGB)"
    )
    parser.add_argument(
        "--track", action="append", type=_track, default=[], metavar="N", help="only this person; may be repeated"
    )
    parser.add_argument("--passcode-file", type=Path, metavar="FILE", help="file that holds the passcode")
    parser.add_argument(
        "--passcode-env", metavar="NAME", help="environment variable that holds it (default: GENEDGE_PASSCODE)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.set_defaults(verb=reveal)


def _track(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a track")
    return int(text)


def reveal(options: argparse.Namespace) -> int:
    """Restore what ``options`` of :func:`add_reveal_parser` ask for; returns the exit code.

    The output appears whole or not at all. Of a vault that ends early it holds what is there, and then this raises.

    Raises :class:`UsageError` for an output that may not be replaced and an unknown track; :class:`GenedgeError` where
    the passcode is wrong or the vault was changed: then nothing is written; :class:`EndedEarlyError` after writing what
    a vault held that ends early; :class:`VideoError` where the video does not fit the vault, or has fewer frames.
    """
    from runtime.cli import terminable
    from runtime.faces.passcode import read_passcode
    from runtime.faces.vault import read_vault

    if options.video is None:
        _check_folder(options.output, options.overwrite)
    else:
        _check_video(options.output, options.overwrite)
    passcode = read_passcode(options.passcode_file, options.passcode_env, ask=True, create=False)
    assert passcode is not None  # else somebody was asked
    with terminable(), read_vault(options.vault, passcode) as vault:
        if options.video is None:
            said, problem = _to_folder(vault, options.output, options.track)
        else:
            said, problem = _to_video(vault, options.video, options.output, options.track, options.overwrite)
    print(said)
    if problem is not None:
        raise problem
    return EXIT_OK


class _Chosen:
    """The entries of some tracks, or all, in stored order; afterwards ``broken`` says what is wrong with the vault."""

    def __init__(self, vault: VaultReader, tracks: Sequence[int]) -> None:
        self._vault, self._wanted = vault, set(tracks)
        self.broken: EndedEarlyError | None = None
        self.seen: set[int] = set()

    def __iter__(self) -> Iterator[Entry]:
        try:
            for entry in self._vault.entries():
                self.seen.add(entry.track)
                if not self._wanted or entry.track in self._wanted:
                    yield entry
        except EndedEarlyError as error:
            self.broken = error
        if missing := self._wanted - self.seen:
            there = ", ".join(map(str, sorted(self.seen)[:20])) + (" …" if len(self.seen) > 20 else "")
            raise UsageError(f"the vault holds no track {min(missing)}, but {there or 'none'}")


# --- pictures ---------------------------------------------------------------------------------------------------------


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Only a folder that an earlier reveal has made is ever replaced: --overwrite must not cost anybody their files."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file: give a folder, or --video COVERED for a video")
    names = [path.name for path in folder.iterdir()]
    if not names:
        return
    if not overwrite:
        raise UsageError(f"{folder} exists: add --overwrite to replace it")
    if INDEX_NAME not in names or not all(name == INDEX_NAME or _PICTURE.fullmatch(name) for name in names):
        raise UsageError(f"{folder} holds more than revealed faces, so it is not replaced: give another folder")


def _to_folder(vault: VaultReader, target: Path, tracks: Sequence[int]) -> tuple[str, GenedgeError | None]:
    import cv2

    chosen, times = _Chosen(vault, tracks), Counter[str]()
    crops: list[dict[str, Any]] = []
    with new_folder(target) as folder:
        for entry in chosen:
            good, data = cv2.imencode(".png", vault.crop(entry), [cv2.IMWRITE_PNG_COMPRESSION, 3])
            if not good:
                raise VideoError(f"OpenCV cannot encode a picture of {entry.width}x{entry.height}")
            stem = f"frame_{entry.frame:06d}_track_{entry.track:02d}"
            times[stem] += 1
            # more than once: the frame was looked at again after it was covered
            name = stem if times[stem] == 1 else f"{stem}_{times[stem]}"
            _write_private(folder / f"{name}.png", data.tobytes())
            crops.append(
                {
                    "file": f"{name}.png",
                    "frame": entry.frame,
                    "pts": str(entry.pts),
                    "seconds": float(entry.pts),
                    "track": entry.track,
                    "left": entry.left,
                    "top": entry.top,
                    "width": entry.width,
                    "height": entry.height,
                }
            )
        index = {
            "kind": _KIND,
            "recording": vault.recording.hex(),
            "created": vault.created.isoformat(),
            "complete": vault.complete,
            "crops": crops,
        }
        _write_private(folder / INDEX_NAME, (json.dumps(index, indent=2) + "\n").encode())
    target.chmod(0o700)
    people = len({crop["track"] for crop in crops})
    return f"{target}: {_counted(len(crops), people)}", chosen.broken


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)


def _counted(crops: int, people: int) -> str:
    return f"{crops} original crop{'' if crops == 1 else 's'} of {people} track{'' if people == 1 else 's'}"


# --- video ------------------------------------------------------------------------------------------------------------


def _check_video(path: Path, overwrite: bool) -> None:
    from runtime.video.sink import check_sink

    if path.suffix.lower() != ".mkv":
        raise UsageError(f"{path}: a restored video is without loss (FFV1), so it has to be a file .mkv")
    check_sink(str(path), overwrite=overwrite)


def _to_video(
    vault: VaultReader, covered: str, target: Path, tracks: Sequence[int], overwrite: bool
) -> tuple[str, GenedgeError | None]:
    """Paste the crops into the frames of their index. Everything is authenticated before it reaches the file."""
    from runtime.video.lossless import open_lossless_sink
    from runtime.video.source import open_source

    chosen = _Chosen(vault, tracks)
    of_frame: dict[int, list[Entry]] = {}
    for entry in chosen:
        of_frame.setdefault(entry.frame, []).append(entry)
    problem: GenedgeError | None = chosen.broken
    crops, people, frames = 0, set[int](), 0
    with ExitStack() as stack:
        source = stack.enter_context(open_source(covered))
        size = source.info.width, source.info.height
        if source.info.live:
            raise UsageError(f"{covered} is live: give the covered video as a file")
        if vault.size not in (None, size):
            raise VideoError(f"{covered} has frames of {size[0]}x{size[1]}, the vault of {_size_of(vault)}")
        sink = stack.enter_context(open_lossless_sink(target, source=source.info, overwrite=overwrite))
        try:
            for frame in source:
                # the first one of a face is its original; what was added later may have been covered by then
                for entry in reversed(of_frame.pop(frame.index, [])):
                    _check_fit(entry, frame, source, covered)
                    _paste(frame.image, entry, vault.crop(entry))
                    crops += 1
                    people.add(entry.track)
                sink.write(frame)
                frames += 1
        except EndedEarlyError as error:  # of the covered video
            problem = problem or error
        if not frames:
            raise VideoError(f"{covered} holds no frame")
    for warning in (*source.warnings, *sink.warnings):
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if of_frame and problem is None:
        rest = sum(map(len, of_frame.values()))
        problem = VideoError(f"{covered} ends before frame {min(of_frame)}: {rest} crops of the vault have no frame")
    return f"{target}: {frames} frames, {_counted(crops, len(people))}", problem


def _size_of(vault: VaultReader) -> str:
    return f"{vault.size[0]}x{vault.size[1]}" if vault.size else "an unknown size"


def _check_fit(entry: Entry, frame: VideoFrame, source: Source, name: str) -> None:
    """A vault says nothing about the covered video, so a wrong one has to be known by its size and its times."""
    from runtime.video.source import FileSource

    height, width = frame.image.shape[:2]
    if entry.left + entry.width > width or entry.top + entry.height > height:
        raise VideoError(f"{name} is not the covered video of this vault: a face lies outside of frame {frame.index}")
    if isinstance(source, FileSource) and abs(frame.pts - entry.pts) > SAME_TIME:  # pictures have no times
        raise VideoError(
            f"{name} is not the covered video of this vault: its frame {frame.index} is at {float(frame.pts):.3f} s, "
            f"in the vault at {float(entry.pts):.3f} s"
        )


def _paste(image: Frame, entry: Entry, crop: Frame) -> None:
    image[entry.top : entry.top + entry.height, entry.left : entry.left + entry.width] = crop
