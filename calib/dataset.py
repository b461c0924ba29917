"""Frames to measure and calibrate a generator with: a set made by ``python -m calib sample``, the user's own pictures,
or photos that come with scikit-image."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import cv2
import numpy as np

from calib.index import combined_digest, is_set, read_index
from runtime.errors import MissingExtraError, UsageError
from runtime.frames import Frame, SizeRule
from runtime.tiles import resized_into

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BUILT_IN = ("astronaut", "coffee", "chelsea", "rocket")  # NASA public domain, and CC0
FACE_SIDES = (136, 160, 200)  # pixels, of crops that hold the astronaut's whole face
FACE_PLACES = ((112, 224), (104, 216), (120, 232))  # y, x of their middles, around that of the face
HOW_TO_MAKE = "make a set with `python -m calib sample VIDEO -o SET`"


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Named frames, ``uint8 (H, W, 3) BGR``, of any size.

    ``frames`` may be read from disk on access: each access then reads, checks and decodes the picture again, and raises
    :class:`UsageError` where it cannot be read or was changed. Only one frame is in memory at a time.
    ``runs``: frame indices that follow each other in time, for recurrent nets; runs of one frame unless told otherwise.
    ``size``: (height, width) in pixels that every frame of a sampled set has, else None.
    """

    frames: Sequence[Frame]
    names: tuple[str, ...]
    source: str
    runs: tuple[tuple[int, ...], ...] = ()
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.runs:
            object.__setattr__(self, "runs", tuple((index,) for index in range(len(self.frames))))

    def __len__(self) -> int:
        return len(self.frames)

    @cached_property
    def digest(self) -> str:
        """SHA-256, hexadecimal, over the SHA-256 of each picture, in their order.

        That of a picture is taken of its file's bytes (a sampled set's are in its index), or of the shape and pixels of
        a frame in memory. :meth:`fitting` does not change it: it says what the material is.
        """
        if isinstance(self.frames, _Files | _Fitted):
            return self.frames.digest()
        return _digest_of_pixels(self.frames)

    @classmethod
    def built_in(cls) -> CalibrationSet:
        """Photos from scikit-image's package; raises :class:`MissingExtraError` without it."""
        try:
            from skimage import data
        except ImportError:
            raise MissingExtraError("scikit-image", "export") from None
        frames = tuple(np.ascontiguousarray(getattr(data, name)()[..., ::-1]) for name in BUILT_IN)
        return cls(frames, BUILT_IN, "scikit-image photos")

    @classmethod
    def built_in_faces(cls) -> CalibrationSet:
        """The face of scikit-image's astronaut in several crops and mirrored: real, but of one person only.

        Raises :class:`MissingExtraError` as :meth:`built_in` does.
        """
        photo = cls.built_in().frames[BUILT_IN.index("astronaut")]
        frames, names = [], []
        for side, (y, x) in ((side, place) for side in FACE_SIDES for place in FACE_PLACES):
            top, left = y - side // 2, x - side // 2
            crop = photo[max(0, top) : top + side, max(0, left) : left + side]
            for mirrored in (False, True):
                frames.append(np.ascontiguousarray(crop[:, ::-1] if mirrored else crop))
                names.append(f"astronaut-{side}-{y}-{x}{'-mirrored' if mirrored else ''}")
        return cls(tuple(frames), tuple(names), "one face of scikit-image's photos")

    @classmethod
    def from_paths(cls, paths: Sequence[Path]) -> CalibrationSet:
        """Pictures, folders of pictures, and sets made by ``python -m calib sample``, in the order given.

        Nothing is decoded yet. Raises :class:`UsageError` for what is not there and for a set whose ``index.json``
        breaks its contract; what is no picture shows when it is read.
        """
        files: list[_File] = []
        runs: list[tuple[int, ...]] = []
        sizes: set[tuple[int, int] | None] = set()
        for path in paths:
            first = len(files)
            if path.is_dir() and is_set(path):
                index = read_index(path)
                files += [_File(path / picture.file, picture.sha256, index.size) for picture in index.pictures]
                runs += [tuple(first + place for place in run) for run in index.runs]
                sizes.add(index.size)
            else:
                files += [_File(file) for file in _pictures(path)]
                runs += [(place,) for place in range(first, len(files))]
                sizes.add(None)
        if not files:
            raise UsageError(f"no pictures were named: {HOW_TO_MAKE}, or name pictures or folders of pictures")
        return cls(
            frames=_Files(files),
            names=tuple(file.path.stem for file in files),
            source=", ".join(str(path) for path in paths),
            runs=tuple(runs),
            size=sizes.pop() if len(sizes) == 1 else None,
        )

    def crops(self, height: int, width: int, count: int) -> Iterator[Frame]:
        """``count`` crops of exactly ``height x width``, each the most detailed of its frame's corners and centre.

        A frame that is smaller than the crop is enlarged first. Frames are taken in turn; the second
        turn takes the second-best place, and so on, so the crops differ.
        """
        for index in range(count):
            frame = self.frames[index % len(self.frames)]
            factor = max(height / frame.shape[0], width / frame.shape[1], 1.0)
            if factor > 1:
                size = (max(width, round(frame.shape[1] * factor)), max(height, round(frame.shape[0] * factor)))
                frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
            places = _places(frame, height, width)
            top, left = places[(index // len(self.frames)) % len(places)]
            yield np.ascontiguousarray(frame[top : top + height, left : left + width])

    def fitting(self, rule: SizeRule, fixed: tuple[int, int] | None = None, *, resizes: bool = False) -> CalibrationSet:
        """The same material in sizes that a model takes, see ``geometry`` in a bundle's manifest.

        A model of one size, ``fixed`` (height, width), gets the most detailed of each frame's corners and centre, at
        the same place throughout a run; or where it ``resizes``, whole frames, resized to it as the runtime does. Else
        right and bottom are cut down to the rule's multiple.

        Raises :class:`UsageError` for frames that are too small: now where the sizes are known, else when it is read.
        None is where a model resizes.
        """
        fitted = _Fitted(self.frames, self.names, self.runs, rule, fixed, resizes=resizes)
        size = fitted.cut(*self.size, self.source) if self.size else fixed
        if not isinstance(self.frames, _Files | _Fitted):
            for frame, name in zip(self.frames, self.names, strict=True):
                fitted.cut(frame.shape[0], frame.shape[1], name)
        return CalibrationSet(fitted, self.names, self.source, self.runs, size)


# --- sequences that read when they are asked --------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A picture on disk; what its set's index says about it, where there is one."""

    path: Path
    sha256: str | None = None
    size: tuple[int, int] | None = None

    def bytes(self) -> bytes:
        """The file, its digest checked."""
        try:
            if not self.path.is_file():  # a pipe would keep the reader waiting for ever
                raise UsageError(f"{self.path}: no such picture any more")
            data = self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror or error}") from None
        if self.sha256 is not None and hashlib.sha256(data).hexdigest() != self.sha256:
            raise UsageError(
                f"{self.path}: not the picture that the set's index.json describes (its sha256 differs): "
                "it was changed or damaged; make the set again with `python -m calib sample`"
            )
        return data

    def frame(self) -> Frame:
        """``uint8 (H, W, 3) BGR``."""
        data = self.bytes()
        # 80 bytes of PNG can claim a gigapixel, so the header is looked at first
        if self.size is not None and data[16:24] != struct.pack(">II", self.size[1], self.size[0]):
            raise UsageError(f"{self.path}: not a PNG of the size {_text(self.size)} that the set's index.json says")
        try:
            image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # no bytes at all, or more pixels than OpenCV reads
            image = None
        if image is None or (self.size is not None and image.shape[:2] != self.size):
            hint = "" if self.path.suffix.lower() in PICTURE_SUFFIXES else f"; from a video, {HOW_TO_MAKE}"
            raise UsageError(f"{self.path}: not a picture that OpenCV can read{hint}")
        return np.asarray(image, dtype=np.uint8)


class _Files(Sequence[Frame]):
    """Pictures on disk, read and decoded on access."""

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = tuple(files)

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, place: int) -> Frame: ...
    @overload
    def __getitem__(self, place: slice) -> _Files: ...
    def __getitem__(self, place: int | slice) -> Frame | _Files:
        if isinstance(place, slice):
            return _Files(self._files[place])
        return self._files[place].frame()

    def digest(self) -> str:
        return combined_digest(file.sha256 or hashlib.sha256(file.bytes()).hexdigest() for file in self._files)


class _Fitted(Sequence[Frame]):
    """Frames cut or resized to what a model takes, on access."""

    def __init__(
        self,
        frames: Sequence[Frame],
        names: tuple[str, ...],
        runs: tuple[tuple[int, ...], ...],
        rule: SizeRule,
        fixed: tuple[int, int] | None,
        *,
        resizes: bool,
    ) -> None:
        self._frames, self._names, self._rule, self._fixed = frames, names, rule, fixed
        self._resizes = resizes and fixed is not None
        self._first_of = {index: run[0] for run in runs for index in run}
        self._place_of: dict[int, tuple[int, int]] = {}  # first frame of a run -> where all of the run is cut

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, place: int) -> Frame: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Frame, ...]: ...
    def __getitem__(self, place: int | slice) -> Frame | tuple[Frame, ...]:
        if isinstance(place, slice):
            return tuple(self[index] for index in range(*place.indices(len(self))))
        index = range(len(self))[place]  # raises IndexError, and counts from the end
        frame = self._frames[index]
        height, width = self.cut(frame.shape[0], frame.shape[1], self._names[index])
        if (height, width) == frame.shape[:2]:
            return frame
        if self._resizes:
            resized = np.empty((height, width, 3), np.uint8)
            resized_into(frame, resized)
            return resized
        top, left = self._place(index, frame, height, width) if self._fixed else (0, 0)
        return np.ascontiguousarray(frame[top : top + height, left : left + width])

    def cut(self, height: int, width: int, name: str) -> tuple[int, int]:
        """(height, width) that a frame gets; raises :class:`UsageError` for one that is too small."""
        if self._fixed is not None:
            wanted, left = self._fixed, self._fixed
            fits = self._resizes or (height >= wanted[0] and width >= wanted[1])
        else:
            wanted = self._rule.padded(1, 1)
            left = (height - height % self._rule.multiple, width - width % self._rule.multiple)
            fits = self._rule.allows(*left)
        if not fits:
            takes = "takes" if self._fixed else "takes no less than"
            raise UsageError(
                f"{name}: a frame of {_text((height, width))} is too small, the model {takes} {_text(wanted)} "
                f"(HEIGHTxWIDTH): make a set with `python -m calib sample VIDEO -o SET --size {_text(wanted)}`"
            )
        return left

    def _place(self, index: int, frame: Frame, height: int, width: int) -> tuple[int, int]:
        first = self._first_of.get(index, index)
        if first not in self._place_of:
            start = frame if first == index else self._frames[first]
            self._place_of[first] = _places(start, height, width)[0]
        return self._place_of[first]

    def digest(self) -> str:
        if isinstance(self._frames, _Files | _Fitted):
            return self._frames.digest()
        return _digest_of_pixels(self._frames)


def _digest_of_pixels(frames: Sequence[Frame]) -> str:
    return combined_digest(hashlib.sha256(repr(frame.shape).encode() + frame.tobytes()).hexdigest() for frame in frames)


def _places(frame: Frame, height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of a crop of ``height x width`` in the frame's corners, edges and centre, most detailed first."""
    bottom, right = frame.shape[0] - height, frame.shape[1] - width
    places = sorted({(y, x) for y in (0, bottom // 2, bottom) for x in (0, right // 2, right)})
    detail = {(y, x): float(cv2.Laplacian(frame[y : y + height, x : x + width], cv2.CV_32F).std()) for y, x in places}
    return sorted(places, key=lambda place: -detail[place])


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _pictures(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file())
        if not found:
            raise UsageError(f"{path}: holds no picture ({', '.join(PICTURE_SUFFIXES)}): {HOW_TO_MAKE}")
        return found
    if not path.is_file():
        raise UsageError(f"{path}: no such picture or folder: {HOW_TO_MAKE}")
    return [path]
