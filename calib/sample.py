"""Make a calibration set from videos, folders of pictures and pictures.

The sources are decoded twice, one frame in memory at a time: first every frame is described in a few hundred bytes,
then the frames that :func:`calib.choice.choose` takes are cut out and written. The same sources and seed give the same
set, byte for byte, on one machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from calib.choice import NEAR, Candidates, choose
from calib.index import INDEX_NAME, Index, Picture, is_set, read_index
from runtime.cuts import CutDetector
from runtime.errors import EndedEarlyError, GenedgeError, UsageError, printable
from runtime.folder import new_folder
from runtime.frames import Frame, SizeRule
from runtime.stats import Progress
from runtime.video.source import natural_key, open_source, read_picture
from runtime.video.uri import PICTURE_SUFFIXES, SourceKind, SourceUri, parse_source

THUMBNAIL = 8  # cells a side, of the whole frame
LOOKS = 4  # cells a side, of the crop
REDUCED = 64  # pixels that the crop's shorter side has at least where places are compared
PLACES = 12  # places of a frame that are compared
FLAT = 6  # 8-bit steps: a frame that spans no more in any channel is one flat colour
CHROMA_WEIGHT = 2.0  # real colours use about half of CIELAB's a and b as L is used
MOST_OF_A_SOURCE = 4096  # frames described of one source; more are thinned out evenly
MOST_OF_ALL = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """What a set shall be.

    ``size``: (height, width) of the crops in pixels, None for whole frames. ``rule``: sizes that the model takes.
    ``run_length``: frames that follow each other, 1 for single frames. ``count``: frames in all.
    """

    size: tuple[int, int] | None = (256, 256)
    rule: SizeRule = field(default_factory=SizeRule)
    run_length: int = 1
    count: int = 128
    seed: int = 0

    def takes(self, height: int, width: int) -> bool:
        """Whether a frame is large enough."""
        least = self.size or self.rule.padded(1, 1)
        return height >= least[0] and width >= least[1]


@dataclass
class Tally:
    """What one source had and gave. ``frames`` were decoded, ``distinct`` could be chosen, ``taken`` were."""

    name: str
    frames: int = 0
    scenes: int = 0
    distinct: int = 0
    taken: int = 0


@dataclass(frozen=True)
class Sampled:
    """A set that was written, and how it came about."""

    index: Index
    tallies: tuple[Tally, ...]
    warnings: tuple[str, ...]


def refuse_existing(target: Path, *, force: bool) -> None:
    """Raise :class:`UsageError` where ``target`` exists and ``force`` is not set, or holds anything but a set."""
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise UsageError(f"{target} exists: add --force to replace it")
    if not target.is_dir() or target.is_symlink() or not is_set(target):
        raise UsageError(f"{target} exists and is no calibration set, so it is not replaced: choose another -o")
    known = {picture.file for picture in read_index(target).pictures} | {INDEX_NAME}
    others = sorted(path.name for path in target.iterdir() if path.name not in known)
    if others:
        raise UsageError(f"{target} also holds {others[0]}, so it is not replaced: move that, or choose another -o")


def sample(
    sources: Sequence[str],
    target: Path,
    wanted: Wanted,
    *,
    force: bool = False,
    warn: Callable[[str], None] = lambda text: None,
    quiet: bool = True,
) -> Sampled:
    """Write the set ``target`` from ``sources``: names of videos, folders of pictures, and pictures.

    Raises :class:`UsageError` for wishes that cannot be met with these sources, :class:`GenedgeError` for sources that
    cannot be read or hold nothing. ``quiet``: no progress on stderr.
    """
    refuse_existing(target, force=force)
    if wanted.count < wanted.run_length:
        raise UsageError(f"-n {wanted.count} is less than one run of {wanted.run_length} frames")
    uris = [_on_disk(text) for text in sources]
    warnings: list[str] = []

    def note(text: str) -> None:
        warnings.append(text)
        warn(text)

    surveys: list[_Survey] = []
    most = max(REDUCED, min(MOST_OF_A_SOURCE, MOST_OF_ALL // max(1, len(uris))))
    with Progress(label="looking", quiet=quiet) as progress:
        for number, uri in enumerate(uris):
            surveys.append(_survey(uri, number, wanted, most, note, progress))
    _refuse_nothing(surveys, wanted)
    asked = wanted.count // wanted.run_length
    possible = [_Run(number, first) for number, survey in enumerate(surveys) for first in survey.described]
    picks = choose(_candidates(surveys), asked, run_length=wanted.run_length, seed=wanted.seed)
    runs = [possible[pick] for pick in picks]
    if len(runs) < asked:
        what = "distinct frames" if wanted.run_length == 1 else f"distinct runs of {wanted.run_length} frames"
        note(f"only {len(runs)} {what} were found, {asked} were asked for: name more videos, or longer ones")
    tallies = [survey.tally for survey in surveys]
    for run in runs:
        tallies[run.source].taken += wanted.run_length
    with new_folder(target) as folder:
        index = _write(folder, uris, runs, wanted, quiet)
    return Sampled(index, tuple(tallies), tuple(warnings))


# --- reading ----------------------------------------------------------------------------------------------------------


def _on_disk(text: str) -> SourceUri:
    uri = parse_source(text)
    if uri.kind not in (SourceKind.FILE, SourceKind.FOLDER, SourceKind.PICTURE, SourceKind.PATTERN):
        raise UsageError(f"{text}: a source is read twice, so it must be a file or folder: record it first")
    if not uri.path.exists() and uri.kind is not SourceKind.PATTERN:
        raise UsageError(f"{text}: no such video, picture or folder")
    return uri


def _name(uri: SourceUri) -> str:
    """The file's or folder's name without its path, as text that an index can hold."""
    name = uri.path.resolve().name or "root"
    return printable(name.encode("utf-8", "replace").decode())[:255]


def _frames(
    uri: SourceUri, note: Callable[[str], None], needed: Container[int] | None = None
) -> Iterator[tuple[int, Frame, float | None]]:
    """(number, ``uint8 (H, W, 3) BGR``, seconds from the first or None) of every frame.

    A folder's pictures may differ in size; those that are not in ``needed`` are not read. A video that breaks off ends,
    with a note.
    """
    if uri.kind is SourceKind.FOLDER:
        found = [path for path in uri.path.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
        paths = sorted((path for path in found if path.name[0] != "."), key=lambda path: natural_key(path.name))
        if not paths:
            raise UsageError(f"{uri.text}: holds no picture ({' '.join(PICTURE_SUFFIXES)}); name videos one by one")
        for number, path in enumerate(paths):
            if needed is None or number in needed:
                yield number, read_picture(path), None
        return
    with open_source(uri.text) as source:
        try:
            for frame in source:
                yield frame.index, frame.image, round(float(frame.pts), 6) if uri.kind is SourceKind.FILE else None
        except EndedEarlyError as error:
            note(f"{error}; what came before is used")
        for warning in source.warnings:
            note(warning)


# --- first pass: describe ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Description:
    """A frame in about 300 bytes; ``thumbnail`` uint8 (192,) is of the whole frame, the rest of the crop."""

    frame: int
    time: float | None
    top: int
    left: int
    thumbnail: NDArray[np.uint8]
    looks: NDArray[np.float32]
    brightness: float
    saturation: float


@dataclass
class _Survey:
    """What the first pass learns of a source. ``largest``: (height, width) of its largest frame."""

    tally: Tally
    described: list[_Description] = field(default_factory=list)
    scenes: list[int] = field(default_factory=list)
    largest: tuple[int, int] = (0, 0)
    small: int = 0
    flat: int = 0
    without_run: bool = False


def _survey(
    uri: SourceUri, number: int, wanted: Wanted, most: int, note: Callable[[str], None], progress: Progress
) -> _Survey:
    """Describe a source's distinct frames, at most ``most`` of them, evenly spread."""
    survey = _Survey(Tally(_name(uri)))
    begins = bytearray()  # a byte a frame, 90 kB an hour
    is_cut, whole = CutDetector(), False  # whether the frame before was one that the detector has seen
    last: NDArray[np.uint8] | None = None  # thumbnail of the last distinct frame
    stride, distinct = 1, 0
    for index, image, time in _frames(uri, note):
        progress.step()
        height, width = image.shape[:2]
        survey.largest = max(survey.largest, (height, width), key=lambda size: (min(size), max(size)))
        if not wanted.takes(height, width):
            survey.small += 1
            begins.append(True)  # no run goes on across it
            is_cut.forget()
            whole = False
            continue
        begins.append(is_cut(image) or not whole)
        whole = True
        reduced = _reduced(image, wanted.size or (height, width))
        thumbnail = _cells(reduced, THUMBNAIL).reshape(-1)
        if int(np.ptp(reduced.reshape(-1, 3), axis=0).max()) <= FLAT:
            survey.flat += 1
            continue
        if last is not None and _difference(thumbnail, last).max() <= NEAR:
            continue
        last = thumbnail
        if distinct % stride == 0:
            place = _place(reduced, (height, width), wanted.size, (wanted.seed, number, index))
            survey.described.append(_describe(index, time, reduced, (height, width), wanted.size, place, thumbnail))
            if len(survey.described) > most:
                survey.described = survey.described[::2]
                stride *= 2
        distinct += 1
    _cut_scenes(survey, np.frombuffer(begins, dtype=np.bool_), wanted.run_length)
    _note_left_out(survey, wanted, note)
    return survey


def _cut_scenes(survey: _Survey, begins: NDArray[np.bool_], run_length: int) -> None:
    """Number the scenes by the frames that begin one, and drop starts of runs that would cross a cut or the end."""
    scene = np.cumsum(begins) - 1  # the first frame begins one in any case
    survey.tally.frames = len(begins)
    survey.tally.scenes = int(scene[-1]) + 1 if len(scene) > survey.small else 0
    kept = []
    for description in survey.described:
        end = description.frame + run_length - 1
        if end < len(scene) and scene[end] == scene[description.frame]:
            kept.append(description)
    survey.without_run = bool(survey.described) and not kept
    survey.described = kept
    survey.scenes = [int(scene[description.frame]) for description in kept]
    survey.tally.distinct = len(kept)


def _note_left_out(survey: _Survey, wanted: Wanted, note: Callable[[str], None]) -> None:
    name, frames = survey.tally.name, survey.tally.frames
    if survey.small:
        least = _text(wanted.size or wanted.rule.padded(1, 1))
        which = "left out, its frames are" if survey.small == frames else f"{survey.small} of {frames} frames left out,"
        fits = _fitting(survey.largest, wanted.rule)
        hint = f": --size {_text(fits)} would take it" if survey.small == frames and fits and wanted.size else ""
        note(f"{name}: {which} smaller than {least} (largest {_text(survey.largest)}, HEIGHTxWIDTH){hint}")
    elif survey.flat == frames:
        note(f"{name}: left out, every frame is one flat colour")
    elif survey.without_run:
        note(f"{name}: left out, no scene has {wanted.run_length} consecutive frames")


def _refuse_nothing(surveys: Sequence[_Survey], wanted: Wanted) -> None:
    """Say why where no source gives a frame."""
    if any(survey.described for survey in surveys):
        return
    if any(survey.without_run for survey in surveys):
        raise UsageError(
            f"no scene has a run of {wanted.run_length} consecutive frames: ask for shorter runs (--runs) or give "
            "videos with longer scenes"
        )
    if any(survey.flat for survey in surveys):
        raise GenedgeError("nothing to calibrate with: every frame is one flat colour; name videos with content")
    largest = max((survey.largest for survey in surveys), key=lambda size: (min(size), max(size)))
    least = wanted.size or wanted.rule.padded(1, 1)
    fits = _fitting(largest, wanted.rule)
    advice = f"add --size {_text(fits)}, or name larger material" if fits and wanted.size else "name larger material"
    raise UsageError(
        f"every frame is smaller than {_text(least)}, the largest is {_text(largest)} (HEIGHTxWIDTH): {advice}"
    )


def _fitting(size: tuple[int, int], rule: SizeRule) -> tuple[int, int] | None:
    """The largest size within ``size`` that the rule allows, or None."""
    height, width = (side - side % rule.multiple for side in size)
    return (height, width) if rule.allows(height, width) else None


def _reduced(image: Frame, crop: tuple[int, int]) -> Frame:
    """The frame made smaller, so that the crop's shorter side has about ``REDUCED`` pixels."""
    factor = min(crop) / REDUCED
    if factor <= 1:
        return image
    size = (max(1, round(image.shape[1] / factor)), max(1, round(image.shape[0] / factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _cells(image: Frame, side: int) -> Frame:
    """Mean colours of ``side x side`` cells."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int16]:
    return np.abs(a.astype(np.int16) - b.astype(np.int16))


def _chroma(image: Frame) -> NDArray[np.uint8]:
    """Largest minus smallest channel of each pixel: 0 for grey, 255 for the purest colours. HSV's saturation would call
    nearly black pixels pure."""
    return np.asarray(image.max(axis=-1) - image.min(axis=-1), dtype=np.uint8)


def _place(
    reduced: Frame, frame: tuple[int, int], size: tuple[int, int] | None, seed: tuple[int, int, int]
) -> tuple[int, int]:
    """(top, left) of the crop: one of ``PLACES`` random places, detailed and saturated ones more likely."""
    if size is None or size == frame:
        return 0, 0
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, frame[0] - size[0], PLACES, endpoint=True)
    lefts = rng.integers(0, frame[1] - size[1], PLACES, endpoint=True)
    detail = np.abs(cv2.Laplacian(cv2.cvtColor(reduced, cv2.COLOR_BGR2GRAY), cv2.CV_16S))
    chroma = _chroma(reduced)
    crops = [_window(reduced, frame, size, (int(top), int(left))) for top, left in zip(tops, lefts, strict=True)]
    details = np.array([detail[crop].mean() for crop in crops])
    chromas = np.array([chroma[crop].mean() for crop in crops])
    worth = (details / max(details.max(), 1e-6) + chromas / max(chromas.max(), 1e-6)) ** 2
    if worth.sum() <= 0:
        worth = np.ones(PLACES)
    chosen = int(rng.choice(PLACES, p=worth / worth.sum()))
    return int(tops[chosen]), int(lefts[chosen])


def _window(
    reduced: Frame, frame: tuple[int, int], size: tuple[int, int], place: tuple[int, int]
) -> tuple[slice, slice]:
    """The crop ``size`` at ``place`` of a frame, in its reduced picture."""
    slices = []
    for side, whole, crop, start in zip(reduced.shape[:2], frame, size, place, strict=True):
        first = min(round(start * side / whole), side - 1)
        slices.append(slice(first, max(first + 1, round((start + crop) * side / whole))))
    return slices[0], slices[1]


def _describe(
    index: int,
    time: float | None,
    reduced: Frame,
    frame: tuple[int, int],
    size: tuple[int, int] | None,
    place: tuple[int, int],
    thumbnail: NDArray[np.uint8],
) -> _Description:
    crop = np.ascontiguousarray(reduced[_window(reduced, frame, size or frame, place)])
    lab = cv2.cvtColor(_cells(crop, LOOKS), cv2.COLOR_BGR2LAB).astype(np.float32)
    lab[..., 1:] = (lab[..., 1:] - 128) * CHROMA_WEIGHT
    return _Description(
        frame=index,
        time=time,
        top=place[0],
        left=place[1],
        thumbnail=thumbnail,
        looks=np.asarray(lab.reshape(-1), dtype=np.float32),
        brightness=float(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY).mean()),
        saturation=float(np.percentile(_chroma(crop), 90)),  # a small colourful thing counts
    )


def _candidates(surveys: Sequence[_Survey]) -> Candidates:
    described = [description for survey in surveys for description in survey.described]
    scenes, scene = [], 0
    for survey in surveys:
        scenes += [scene + place for place in survey.scenes]
        scene += survey.tally.scenes
    return Candidates(
        thumbnails=np.stack([description.thumbnail for description in described]),
        looks=np.stack([description.looks for description in described]),
        brightness=np.array([description.brightness for description in described]),
        saturation=np.array([description.saturation for description in described]),
        source=np.repeat(np.arange(len(surveys)), [len(survey.described) for survey in surveys]),
        scene=np.array(scenes),
        frame=np.array([description.frame for description in described]),
    )


# --- second pass: write -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A chosen run of a source, by its first frame."""

    source: int
    first: _Description


def _write(folder: Path, uris: Sequence[SourceUri], runs: Sequence[_Run], wanted: Wanted, quiet: bool) -> Index:
    length = wanted.run_length
    pictures: dict[int, Picture] = {}
    # for each source: which frame goes where in the set, and the first frame of its run, which says where to crop
    places: list[dict[int, tuple[int, _Description]]] = [{} for _ in uris]
    for number, run in enumerate(runs):
        for position in range(length):
            places[run.source][run.first.frame + position] = (number * length + position, run.first)
    with Progress(sum(max(frames, default=-1) + 1 for frames in places), label="writing", quiet=quiet) as progress:
        for uri, frames in zip(uris, places, strict=True):
            if not frames:
                continue
            for index, image, time in _frames(uri, lambda text: None, frames):
                progress.step()
                if index in frames:
                    place, first = frames[index]
                    pictures[place] = _write_picture(folder, place, image, _name(uri), index, time, first, wanted)
                if index >= max(frames):
                    break
    if len(pictures) < len(runs) * length:
        raise GenedgeError("a source changed while it was read: start again when nobody writes to it")
    index_of_set = Index(wanted.seed, wanted.size, length, tuple(pictures[place] for place in sorted(pictures)))
    (folder / INDEX_NAME).write_text(index_of_set.to_json(), encoding="utf-8")
    read_index(folder)  # what we write, we can read
    return index_of_set


def _write_picture(
    folder: Path,
    number: int,
    image: Frame,
    source: str,
    frame: int,
    time: float | None,
    first: _Description,
    wanted: Wanted,
) -> Picture:
    if wanted.size is not None:
        height, width = wanted.size
        image = np.ascontiguousarray(image[first.top : first.top + height, first.left : first.left + width])
        if image.shape[:2] != wanted.size:
            raise GenedgeError("a source changed while it was read: start again when nobody writes to it")
    done, data = cv2.imencode(".png", image)
    assert done, "OpenCV writes any uint8 picture as PNG"
    file, content = f"{number:05}.png", data.tobytes()
    (folder / file).write_bytes(content)
    return Picture(
        file=file,
        source=source,
        frame=frame,
        time=time,
        top=first.top,
        left=first.left,
        sha256=hashlib.sha256(content).hexdigest(),
        run=number // wanted.run_length,
        position=number % wanted.run_length,
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
