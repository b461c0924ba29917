"""One picture of many generators: what goes in, what PyTorch makes of it, and what each precision makes of it.

Every checkpoint is built into a bundle and runs on material that suits it, through the sessions that ship. A cell shows
output pixels one to one, with its distance to PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from calib.dataset import CalibrationSet
from calib.inspection import put_text
from calib.quantise import Int8Config
from calib.sample import Wanted, sample
from calib.truth import reduced
from export.build import Built, build
from export.config import LIMITS, BuildConfig
from export.frame_io import reference_run
from export.generators import load_generator
from export.generators.base import LoadedGenerator
from export.int8 import BROKEN_DB
from export.parity import choices_for, codes_of, parity_runs
from export.shipped import shipped_weights
from runtime.bundle import Bundle, open_bundle
from runtime.errors import CheckpointError, GenedgeError, UsageError
from runtime.frames import Frame, SizeRule
from runtime.metrics import psnr
from runtime.sessions import Choice, open_session
from runtime.video.source import open_source

SHEET, RECORD = "gallery.png", "gallery.json"
PRECISIONS = ("fp16", "int8")  # columns behind the input and PyTorch
CELL = 256  # pixels a side of a cell
TEXT, GAP, MARGIN = 20, 6, 210  # pixels: a line of text, space between cells, the column of names
KODAK = "21.png"  # a lighthouse: a fence of fine lines, a flat sky, rocks and surf
MOVING_FRAME = 100  # of bikes.mp4, for nets with a state: the first of many in one moving shot
DRAWN_FRAME = 40  # of bigbuckbunny.mp4, for nets that were trained on animation
RUN = 8  # consecutive frames for a generator with a state; the last one is shown
SET_FRAMES = 16  # of the calibration set
SET_SIDE = {True: 128, False: 256}  # pixels, of super-resolution and of other nets, which see a whole scene
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
GENERIC = ("latest_net_G", "latest_net_G_A", "latest_net_G_B", "checkpoint", "model")  # names that say nothing

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """Consecutive frames ``uint8 (H, W, 3) BGR`` that suit a generator (one where it has no state), and their name."""

    frames: tuple[Frame, ...]
    title: str


@dataclass(frozen=True)
class Cell:
    """A picture of the sheet, or the reason why there is none. ``psnr_db``: to PyTorch; ``failure``: what is wrong."""

    title: str
    image: Frame | None = None
    psnr_db: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Row:
    """One generator on the sheet."""

    name: str
    facts: tuple[str, ...]
    cells: tuple[Cell, ...]
    failures: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "facts": list(self.facts),
            "cells": [{"title": cell.title, "psnr_db": cell.psnr_db, "failure": cell.failure} for cell in self.cells],
            "failures": list(self.failures),
        }


@dataclass
class Gallery:
    """Rows so far, and files that are no generators with the reason."""

    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        return [f"{row.name}: {failure}" for row in self.rows for failure in row.failures]

    def to_dict(self) -> dict[str, Any]:
        return {"rows": [row.to_dict() for row in self.rows], "skipped": dict(self.skipped)}


def default_assets() -> Path:
    """``$GENEDGE_ASSETS``, else ``../shared/assets``."""
    return Path(os.environ.get("GENEDGE_ASSETS") or Path("..", "shared", "assets"))


def checkpoints_in(places: Iterable[Path]) -> Iterator[Path]:
    """Checkpoint files: those named, and all in the folders named. Raises :class:`UsageError` for what is not there."""
    for place in places:
        if place.is_dir():
            yield from sorted(path for path in place.rglob("*") if path.suffix in CHECKPOINTS and path.is_file())
        elif place.is_file():
            yield place
        else:
            raise UsageError(f"{place}: no such checkpoint or folder")


def name_of(path: Path) -> str:
    """The file's name, or its folder's where the file's says nothing."""
    return path.parent.name if path.stem in GENERIC and path.parent.name else path.stem


def make_gallery(
    places: Sequence[Path], output: Path, assets: Path, *, int8: bool = True, progress: Progress = lambda text: None
) -> Gallery:
    """Build every generator under ``places`` (none: the shipped ones and those in ``assets``) and draw the sheet.

    Writes ``gallery.png``, ``gallery.json`` and the bundles into ``output``; the sheet is written anew after each
    generator. Files that hold no generator are skipped with the reason.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file: -o names a folder")
    if places:
        paths = list(checkpoints_in(places))
    else:
        paths = [shipped.path for shipped in shipped_weights()]
        paths += list(checkpoints_in([assets / "weights"])) if (assets / "weights").is_dir() else []
    gallery = Gallery()
    for number, path in enumerate(paths):
        told = f"{number + 1} of {len(paths)}, {path.name}: "

        def step(text: str, told: str = told) -> None:
            progress(told + text)

        try:
            loaded, _ = load_generator(path)
        except CheckpointError as error:
            gallery.skipped[path.name] = str(error)
            continue
        gallery.rows.append(_row(path, loaded, output, assets, int8=int8, progress=step))
        _write(output / SHEET, sheet(gallery.rows))
    if not gallery.rows:
        reasons = "; ".join(gallery.skipped.values()) or "there is none"
        raise UsageError(f"no generator among {len(paths)} files: {reasons}")
    return gallery


def _row(path: Path, loaded: LoadedGenerator, output: Path, assets: Path, *, int8: bool, progress: Progress) -> Row:
    name = name_of(path)
    facts = (
        f"{loaded.family} x{loaded.scale}" if loaded.scale > 1 else loaded.family,
        f"{sum(parameter.numel() for parameter in loaded.net.parameters()):,} parameters",
    )
    try:
        subject = subject_for(loaded, name, assets)
        built = _built(path, name, loaded, output, assets, int8=int8, progress=progress)
        cells = _cells(built, subject)
    except GenedgeError as error:
        return Row(name, facts, (), (str(error),))
    return Row(name, (*facts, subject.title), cells, tuple(cell.failure for cell in cells if cell.failure))


# --- material ---------------------------------------------------------------------------------------------------------


def subject_for(loaded: LoadedGenerator, name: str, assets: Path) -> Subject:
    """Frames that suit a generator: what is in ``assets``, else photos that come along."""
    side = CELL // loaded.scale
    height, width = loaded.fixed_size or loaded.size_rule.padded(side, side)
    if loaded.states:
        clip = assets / "video" / "bikes.mp4"
        if clip.is_file():
            frames = _clip(clip, MOVING_FRAME, RUN, loaded.scale, height, width)
            return Subject(frames, f"{clip.name}, frame {MOVING_FRAME + RUN}")
        run = parity_runs(CalibrationSet.built_in(), loaded.size_rule, (height, width))[0]
        return Subject(tuple(run), "a pan over a photo")
    clip = assets / "video" / "bigbuckbunny.mp4"
    if "anime" in name and clip.is_file():
        return Subject(_clip(clip, DRAWN_FRAME, 1, loaded.scale, height, width), f"{clip.name}, frame {DRAWN_FRAME}")
    photo, title = _photo(loaded, name, assets)
    if loaded.task == "super-resolution":
        photo = reduced(_multiple(photo, loaded.scale), loaded.scale)
        return Subject((_detail(photo, height, width),), f"{title}, reduced")
    return Subject((_square(photo, height, width),), title)


def _photo(loaded: LoadedGenerator, name: str, assets: Path) -> tuple[Frame, str]:
    folders = ["images/kodak"]
    if loaded.task == "face-deid":
        folders = ["faces/congress_pd/450x550"]
    elif "horse" in name or "zebra" in name:
        folders = ["images/horses", *folders]
    elif "facade" in name:
        folders = ["images/facades", *folders]
    for folder in folders:
        found = sorted(path for path in (assets / folder).rglob("*") if path.suffix in (".jpg", ".png", ".bmp"))
        if found:
            path = next((path for path in found if path.name == KODAK), found[0])
            image = CalibrationSet.from_paths([path]).frames[0]
            if folder == "images/facades":  # photo and labels side by side; the generator draws the photo
                image = np.ascontiguousarray(image[:, image.shape[1] // 2 :])
            return image, path.name
    material = CalibrationSet.built_in_faces() if loaded.task == "face-deid" else CalibrationSet.built_in()
    return material.frames[-1 if loaded.task == "face-deid" else 1], material.source


def _clip(path: Path, start: int, count: int, scale: int, height: int, width: int) -> tuple[Frame, ...]:
    """Frames of a clip from number ``start`` on, reduced by ``scale``, and of all the place of ``height x width`` that
    is the most detailed in the first."""
    frames: list[Frame] = []
    with open_source(str(path)) as source:
        for frame in source:
            if frame.index >= start:
                frames.append(reduced(_multiple(frame.image, scale), scale))
            if len(frames) == count:
                break
    names = tuple(f"{path.name} {start + number}" for number in range(len(frames)))
    run = CalibrationSet(tuple(frames), names, path.name, (tuple(range(len(frames))),))
    return tuple(run.fitting(SizeRule(), (height, width)).frames)


def _multiple(image: Frame, scale: int) -> Frame:
    height, width = (side - side % scale for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])


def _detail(image: Frame, height: int, width: int) -> Frame:
    """The most detailed crop."""
    return next(CalibrationSet((image,), ("photo",), "photo").crops(height, width, 1))


def _square(image: Frame, height: int, width: int) -> Frame:
    """The middle of the picture in the shape of the frame, resized to it."""
    factor = min(image.shape[0] / height, image.shape[1] / width)
    tall, wide = round(height * factor), round(width * factor)
    top, left = (image.shape[0] - tall) // 2, (image.shape[1] - wide) // 2
    method = cv2.INTER_AREA if factor > 1 else cv2.INTER_CUBIC
    part = cv2.resize(image[top : top + tall, left : left + wide], (width, height), interpolation=method)
    return np.asarray(part, dtype=np.uint8)


def _calibration(loaded: LoadedGenerator, name: str, output: Path, assets: Path) -> Path | None:
    """A calibration set that suits the generator, made once; None where there is no material for one."""
    recurrent = bool(loaded.states)
    if recurrent:
        sources = sorted((assets / "video").glob("*.mp4"))
    else:
        names = ["faces/congress_pd/450x550" if loaded.task == "face-deid" else "images/cid22"]
        if "horse" in name or "zebra" in name:
            names.insert(0, "images/horses")
        sources = [assets / folder for folder in names if (assets / folder).is_dir()]
    if not sources:
        return None
    side = SET_SIDE[loaded.task == "super-resolution"]
    height, width = loaded.fixed_size or loaded.size_rule.padded(side, side)
    kind = "runs" if recurrent else sources[0].name
    target = output / "calibration" / f"{kind}-{height}x{width}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        wanted = Wanted((height, width), loaded.size_rule, RUN if recurrent else 1, SET_FRAMES)
        sample([str(source) for source in sources], target, wanted)
    return target


# --- bundles and cells ------------------------------------------------------------------------------------------------


def _built(
    path: Path, name: str, loaded: LoadedGenerator, output: Path, assets: Path, *, int8: bool, progress: Progress
) -> Built:
    material = _calibration(loaded, name, output, assets) if int8 else None
    frames: tuple[Path, ...] = ()
    if loaded.task == "face-deid" and (assets / "faces/congress_pd/450x550").is_dir():
        frames = (material,) if material is not None else ()
    config = BuildConfig(
        str(path),
        output / "bundles",
        name=name,
        variants=("fp32", "fp16", *(("int8",) if material is not None else ())),
        frames=frames,
        engine="none",
        force=True,
        int8=Int8Config((material,), keep_slow=True) if material is not None else None,
    )
    return build(config, progress)


def _cells(built: Built, subject: Subject) -> tuple[Cell, ...]:
    bundle, loaded = open_bundle(str(built.folder)), built.loaded
    codes = codes_of(loaded, 2)[-1]  # not the default, so that a code that is ignored shows
    reference = reference_run(loaded, subject.frames, [codes] * len(subject.frames))[-1]
    cells = [Cell("input", _enlarged(subject.frames[-1], reference)), Cell("PyTorch", reference)]
    for precision in PRECISIONS:
        choice = next((choice for choice in choices_for(bundle, None) if choice.precision == precision), None)
        if choice is None:
            cells.append(Cell(precision, failure="" if precision == "int8" else "no such variant"))
            continue
        with open_session(bundle, choice, in_flight=1) as session:
            for condition, values in codes.items():
                session.set_code(condition, values)
            for frame in subject.frames:
                image = session.infer(frame[None])[0].copy()
        cells.append(_judged(bundle, choice, reference, image))
    dropped = built.int8.dropped if built.int8 is not None else {}
    told = next(iter(dropped.values()), "not calibrated")
    return tuple(Cell(f"int8: {told}") if cell.title == "int8" and cell.image is None else cell for cell in cells)


def _judged(bundle: Bundle, choice: Choice, reference: Frame, image: Frame) -> Cell:
    reached = psnr(reference, image)
    limits = LIMITS.get(choice.variant)
    least = limits.psnr_db if limits is not None and limits.psnr_db is not None else BROKEN_DB
    failure = "" if reached >= least else f"{choice.precision} is {reached:.1f} dB from PyTorch, not {least:.0f}"
    engine = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}.get(choice.backend, choice.backend)
    return Cell(f"{choice.precision}, {engine}", image, reached, failure)


def _enlarged(frame: Frame, reference: Frame) -> Frame:
    """The input at the output's size, every pixel a square, so that nothing is prettier than it was."""
    height, width = reference.shape[:2]
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


# --- drawing ----------------------------------------------------------------------------------------------------------


def sheet(rows: Sequence[Row]) -> Frame:
    """The contact sheet ``uint8 (H, W, 3) BGR``: a row for each generator, ``CELL`` pixels a cell."""
    pitch = CELL + TEXT + GAP
    columns = 2 + len(PRECISIONS)
    image: Frame = np.full((len(rows) * pitch + GAP, MARGIN + columns * (CELL + GAP), 3), 255, np.uint8)
    for number, row in enumerate(rows):
        top = number * pitch + GAP
        name = image[top : top + CELL, : MARGIN - GAP]  # a long text ends at the column's edge
        for line, text in enumerate(_wrapped((row.name, *row.facts, *(f"! {failure}" for failure in row.failures)))):
            put_text(name, text, (8, 20 + 18 * line), 0.45)
        for column, cell in enumerate(row.cells):
            left = MARGIN + column * (CELL + GAP)
            _draw(image[top : top + CELL + TEXT, left : left + CELL], cell)
    return image


def _draw(place: Frame, cell: Cell) -> None:
    """Into ``place``, a view of a cell with its line of text."""
    if cell.image is None:
        place[:CELL] = 240
        for line, text in enumerate(_wrapped((cell.title,), 34)):
            put_text(place, text, (8, 24 + 18 * line), 0.42)
        return
    part = cell.image[:CELL, :CELL]
    if max(cell.image.shape[:2]) > CELL:  # a middle part, one to one
        top, left = (max(0, side - CELL) // 2 for side in cell.image.shape[:2])
        part = cell.image[top : top + CELL, left : left + CELL]
    place[: part.shape[0], : part.shape[1]] = part
    label = cell.title if cell.psnr_db is None else f"{cell.title}, {min(cell.psnr_db, 99.9):.1f} dB"
    put_text(place, label, (2, CELL + 14), 0.42)
    if cell.failure:
        cv2.rectangle(place, (0, 0), (CELL - 1, CELL - 1), (0, 0, 255), 3)


def _wrapped(texts: Iterable[str], width: int = 24) -> list[str]:
    """Lines of at most ``width`` characters, broken at spaces where there are some."""
    import textwrap

    return [line for text in texts for line in textwrap.wrap(text, width)]


def _write(path: Path, image: Frame) -> None:
    done, data = cv2.imencode(".png", image)
    assert done, "OpenCV writes any uint8 picture as PNG"
    path.write_bytes(data.tobytes())
