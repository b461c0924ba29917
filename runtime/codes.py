"""Condition codes: what a conditional generator gets besides the frame, and how people say it."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import struct
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UsageError, message_of

KINDS = ("vector", "one-hot", "bits")
MAX_SIZE = 4096  # numbers in a code; CIAGAN's one-hot has 1,200
MAX_LABEL = 60  # characters
MAX_NUMBER = float(np.finfo(np.float32).max)
MAX_MAP_BYTES = 1 << 31  # 2 GiB; sixteen classes of a 4K frame take a quarter of it
MAX_PICTURE_BYTES = 1 << 28  # 256 MiB
MAX_PICTURE_PIXELS = 1 << 26  # 8192x8192; a few bytes of PNG can claim gigapixels
STEPS = 20  # that a key takes from one end of a vector's range to the other
REGIONS = (3, 4)  # rows and columns of differing codes in a map that is drawn at random
PNG = b"\x89PNG\r\n\x1a\n"
PASSCODE = "passcode:"
RANDOM = "random:"
_SEED = re.compile(r"[0-9]{1,18}")
_PASSCODE_KEY = b"genedge passcode"

#: A code's numbers, ``float32 (size,)``, or of a map ``(size, H, W)``
Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Code:
    """A rule for ``size`` numbers, float32.

    ``kind``: ``vector`` has any numbers from ``low`` to ``high``; ``one-hot`` is ``high`` in one place, the class, and
    ``low`` in all others; ``bits`` has ``low`` or ``high`` in each place. ``default`` are the numbers that are used
    until somebody says something else. ``labels`` name the places (classes, attributes), or there are none.
    Numbers are compared as float32, which is what they are inside the graph.

    Raises :class:`UsageError` for a rule that contradicts itself.
    """

    kind: str
    size: int
    default: tuple[float, ...]
    low: float = 0.0
    high: float = 1.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind of code {self.kind[:80]!r}: choose among {', '.join(KINDS)}")
        if not 0 < self.size <= MAX_SIZE:
            raise UsageError(f"a code has 1 to {MAX_SIZE} numbers, not {self.size}")
        if not -MAX_NUMBER <= self.low < self.high <= MAX_NUMBER or np.float32(self.low) >= np.float32(self.high):
            raise UsageError(f"a code's range must rise, not from {self.low:g} to {self.high:g}")
        if self.labels and (len(self.labels) != self.size or len(set(self.labels)) != self.size):
            raise UsageError(f"a code of {self.size} numbers needs as many different labels, not {len(self.labels)}")
        for label in self.labels:
            if not 0 < len(label) <= MAX_LABEL or not label.isprintable() or label != label.strip():
                raise UsageError(f"a label is a printable text of 1 to {MAX_LABEL} characters, no space at its ends")
        self.check(self.default)

    def check(self, values: Sequence[float]) -> None:
        """Raise :class:`UsageError` where ``values`` are not what this rule allows."""
        if len(values) != self.size:
            raise UsageError(f"the code has {self.size} numbers, not {len(values)}")
        self.checked(np.asarray(values, dtype=np.float64))

    def checked(self, values: NDArray[Any], *, is_map: bool = False) -> Numbers:
        """A copy of ``values``, ``(size,)``, or where ``is_map`` also ``(size, H, W)``, as float32.

        Raises :class:`UsageError` where they are not what this rule allows.
        """
        shapes = f"({self.size},)" + (f" or ({self.size}, height, width)" if is_map else "")
        if values.ndim not in ((1, 3) if is_map else (1,)) or values.shape[0] != self.size:
            raise UsageError(f"the code has the shape {shapes}, not {tuple(values.shape)}")
        if values.size == 0:
            raise UsageError(f"a map of {values.shape[2]}x{values.shape[1]} pixels has nothing in it")
        with np.errstate(over="ignore"):  # becomes infinite, which is outside
            result = np.array(values, dtype=np.float32, order="C")
        low, high = np.float32(self.low), np.float32(self.high)
        wrong = ~((result >= low) & (result <= high))  # also NaN
        words = f"outside {self.low:g} to {self.high:g}"
        if not wrong.any() and self.kind != "vector":
            wrong, words = (result != low) & (result != high), f"neither {self.low:g} nor {self.high:g}"
        if wrong.any():
            place = tuple(int(index) for index in np.argwhere(wrong)[0])
            raise UsageError(f"number {place[0]} of the code is {float(values[place]):g}, {words}")
        if self.kind == "one-hot" and np.any((result == high).sum(axis=0) != 1):
            raise UsageError(f"exactly one number of the code must be {self.high:g}")
        return result

    # -- what people type -----------------------------------------------------------------------

    def parsed(self, text: str, name: str = "the code") -> Numbers:
        """The numbers ``float32 (size,)`` that somebody has typed; spaces at the ends count in a passcode only.

        one-hot: the number of a class, from 0, or its label. bits: ``0101``, a digit for each; or the labels of those
        that are on, joined by ``+``; or ``passcode:TEXT``, see :func:`passcode_bits`. vector: one number for all
        places; as many numbers as there are, with commas between them; ``label=number`` pairs, with commas between
        them, where the others keep their default; or ``random:SEED`` with a whole number, evenly spread over the range
        and the same on every machine.

        Raises :class:`UsageError`, which calls the code ``name``.
        """
        if self.kind == "bits":
            return self._on(self._bits(text.lstrip(), name))
        text = text.strip()
        if self.kind == "one-hot":
            return self._one_hot(self._class(text, name))
        values = self._vector(text, name)
        try:
            return self.checked(np.array(values, dtype=np.float64))
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None

    def _class(self, text: str, name: str) -> int:
        if text in self.labels:
            return self.labels.index(text)
        if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < self.size:
            return int(text)
        known = f" ({_listed(self.labels)})" if self.labels else ""
        raise UsageError(f"{name} has {self.size} classes, 0 to {self.size - 1}{known}; {text[:80]} is none of them")

    def _bits(self, text: str, name: str) -> list[bool]:
        if text.startswith(PASSCODE):
            return passcode_bits(text.removeprefix(PASSCODE), self.size)
        text = text.rstrip()
        if text and set(text) <= {"0", "1"}:
            if len(text) == self.size:
                return [digit == "1" for digit in text]
            if text not in self.labels:
                raise UsageError(f"{name} has {self.size} bits, not {len(text)}")
        on = [text] if text in self.labels else [part.strip() for part in text.split("+")]
        for part in on:
            if part not in self.labels:
                known = f", or labels joined by + ({_listed(self.labels)})" if self.labels else ""
                raise UsageError(f"{name} takes {self.size} digits 0 or 1{known}; {part[:80]!r} is none of that")
        return [label in on for label in self.labels]

    def _vector(self, text: str, name: str) -> list[float]:
        if text.startswith(RANDOM):
            seed = text.removeprefix(RANDOM)
            if not _SEED.fullmatch(seed):
                raise UsageError(f"{name}: {seed[:80]!r} is no seed: use a whole number, as in random:7")
            return [self.low + (self.high - self.low) * share for share in _shares(int(seed), self.size)]
        parts = text.split(",")
        if "=" in text:
            values = list(self.default)
            for part in parts:
                label, _, number = (piece.strip() for piece in part.rpartition("="))
                if label not in self.labels:
                    known = _listed(self.labels) if self.labels else "it has none"
                    raise UsageError(f"{name}: {label[:80]!r} is no label of it ({known})")
                values[self.labels.index(label)] = _number(number, name)
            return values
        numbers = [_number(part, name) for part in parts[: self.size + 1]]
        if len(parts) == 1:
            return numbers * self.size
        if len(parts) != self.size:
            raise UsageError(f"{name} has {self.size} numbers, not {len(parts)}")
        return numbers

    def spelled(self, values: Numbers) -> str:
        """What somebody would type for ``values`` ``(size,)``; :meth:`parsed` gives them again."""
        high = np.float32(self.high)
        if self.kind == "one-hot":
            place = int(np.argmax(values))
            return self.labels[place] if self.labels else str(place)
        if self.kind == "bits":
            return "".join("1" if value == high else "0" for value in values)
        if np.all(values == values[0]):
            return _shortest(values[0])
        return ",".join(_shortest(value) for value in values)

    def stepped(self, values: Numbers, direction: int) -> Numbers:
        """The next code for ``direction`` 1, the one before for -1.

        one-hot: the next class, and the first behind the last. bits: the next binary number, the last bit being the
        lowest. vector: all numbers move by a twentieth of the range, and keep their distances: none leaves the range.
        """
        low, high = np.float32(self.low), np.float32(self.high)
        if self.kind == "one-hot":
            return self._one_hot((int(np.argmax(values)) + direction) % self.size)
        if self.kind == "bits":
            number = int("".join("1" if value == high else "0" for value in values), 2)
            digits = f"{(number + direction) % (1 << self.size):0{self.size}b}"
            return self._on([digit == "1" for digit in digits])
        step = direction * (float(high) - float(low)) / STEPS
        step = min(max(step, float(low) - float(values.min())), float(high) - float(values.max()))
        moved: Numbers = np.clip(values + np.float32(step), low, high)
        return moved

    # -- at random ------------------------------------------------------------------------------

    def drawn(self, rng: np.random.Generator) -> Numbers:
        """A code ``float32 (size,)`` that the rule allows, all alike likely."""
        if self.kind == "one-hot":
            return self._one_hot(int(rng.integers(self.size)))
        if self.kind == "bits":
            return self._on(list(rng.integers(2, size=self.size) == 1))
        low, high = np.float32(self.low), np.float32(self.high)
        return np.clip(rng.uniform(self.low, self.high, self.size).astype(np.float32), low, high)

    def drawn_map(self, rng: np.random.Generator, height: int, width: int) -> Numbers:
        """A map ``float32 (size, height, width)`` of twelve regions, each with a code of its own."""
        rows, columns = REGIONS
        codes = np.stack([self.drawn(rng) for _ in range(rows * columns)], axis=-1).reshape(self.size, rows, columns)
        return np.ascontiguousarray(codes[:, nearest(rows, height)][:, :, nearest(columns, width)])

    def _one_hot(self, place: int) -> Numbers:
        return self._on([index == place for index in range(self.size)])

    def _on(self, on: Sequence[bool]) -> Numbers:
        return np.where(np.asarray(on), np.float32(self.high), np.float32(self.low)).astype(np.float32)


@dataclass(frozen=True)
class Picture:
    """A map's content at a picture's size, ``uint8 or uint16 (planes, H, W)``: classes of a one-hot code, else shares
    of ``full``, in the order RGB where there are three planes."""

    planes: NDArray[Any]
    full: int

    def numbers(self, code: Code, height: int, width: int) -> Numbers:
        """The map ``float32 (size, height, width)``, resized by taking the nearest pixel.

        Raises :class:`UsageError` where that would fill the memory.
        """
        if 4 * code.size * height * width > MAX_MAP_BYTES:
            raise UsageError(
                f"a map of {code.size} numbers for frames of {width}x{height} takes more than {MAX_MAP_BYTES >> 30} GiB"
            )
        rows, columns = (nearest(have, want) for have, want in zip(self.planes.shape[1:], (height, width), strict=True))
        planes = self.planes[:, rows][:, :, columns]
        low, high = np.float32(code.low), np.float32(code.high)
        if code.kind == "one-hot":
            return np.where(np.arange(code.size)[:, None, None] == planes, high, low).astype(np.float32)
        if code.kind == "bits":
            values = np.where(planes > self.full // 2, high, low).astype(np.float32)
        else:
            values = np.clip(low + planes.astype(np.float32) * ((high - low) / np.float32(self.full)), low, high)
        return np.ascontiguousarray(np.broadcast_to(values, (code.size, height, width)))


def read_picture(path: Path, code: Code, name: str = "the code") -> Picture:
    """Read a PNG, of at most 64 million pixels, for a code that is a map.

    one-hot: a grey picture whose values are the classes. Else a grey picture, which counts for all places, or for a
    code of three numbers a colour picture, in the order R, G, B; black is ``low`` and white is ``high`` (bits are on
    where it is brighter than the middle). Raises :class:`UsageError` for anything else.
    """
    import cv2

    if not path.is_file():  # neither a folder, nor a pipe that would keep the reader waiting for ever
        raise UsageError(f"{name}: {path} is no file")
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise UsageError(f"{name}: {path} has more than {MAX_PICTURE_BYTES >> 20} MiB")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: {message_of(error)}") from None
    image = None
    if data.startswith(PNG):
        width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
        if width * height > MAX_PICTURE_PIXELS:
            million = MAX_PICTURE_PIXELS >> 20
            raise UsageError(f"{name}: {path} has {width}x{height} pixels, more than the {million} million allowed")
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise UsageError(f"{name}: {path} is not a PNG that can be read")
    if image.ndim == 3 and image.shape[2] == 4:
        raise UsageError(f"{name}: {path} has 4 planes, one of them how opaque it is: save it without transparency")
    planes: NDArray[Any] = image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)[::-1]
    if len(planes) == 3 and np.array_equal(planes[0], planes[1]) and np.array_equal(planes[1], planes[2]):
        planes = planes[:1]
    if code.kind == "one-hot":
        if len(planes) != 1:
            raise UsageError(f"{name}: {path} is in colour, but classes are a grey picture of the numbers 0, 1, 2, …")
        if planes.max() >= code.size:
            raise UsageError(
                f"{name} has {code.size} classes, 0 to {code.size - 1}; {int(planes.max())} in {path} is none of them"
            )
    elif len(planes) not in (1, code.size):
        raise UsageError(
            f"{name}: {path} has {len(planes)} planes, but a map of {code.size} numbers takes a grey picture"
        )
    return Picture(planes, 255 if image.dtype == np.uint8 else 65535)


def numbers_of(values: Numbers) -> tuple[float, ...]:
    """The numbers of a code ``(size,)`` or of a map that is the same everywhere; :class:`UsageError` for other maps."""
    numbers = values.reshape(len(values), -1)
    if np.any(numbers != numbers[:, :1]):
        raise UsageError("a map that differs from place to place has no list of numbers")
    return tuple(float(number) for number in numbers[:, 0])


def passcode_bits(text: str, size: int) -> list[bool]:
    """The bits that a passcode stands for, the same on every machine.

    They are the bits, highest first, of SHA-256 over ``genedge passcode``, a zero byte, the number of the block (four
    bytes, big-endian, from 0) and the text in Unicode's form NFC as UTF-8; each block gives 256. That makes no short
    code a strong one: 16 bits are 65,536 codes, which can all be tried. Raises :class:`UsageError` for an empty text.
    """
    if not text:
        raise UsageError("the passcode is empty")
    try:
        secret = unicodedata.normalize("NFC", text).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("the passcode is no valid text") from None
    return _hashed_bits(_PASSCODE_KEY + b"\0", secret, size)


def _hashed_bits(key: bytes, secret: bytes, size: int) -> list[bool]:
    blocks = range(-(-size // 256))
    data = b"".join(hashlib.sha256(key + block.to_bytes(4, "big") + secret).digest() for block in blocks)
    return [bool(bit) for bit in np.unpackbits(np.frombuffer(data, dtype=np.uint8))[:size]]


def _shares(seed: int, size: int) -> list[float]:
    """``size`` numbers from 0 to 1: SHA-256 over ``genedge random SEED PLACE``, its first four bytes as a share."""
    digests = (hashlib.sha256(f"genedge random {seed} {place}".encode()).digest() for place in range(size))
    return [int.from_bytes(digest[:4], "big") / (2**32 - 1) for digest in digests]


def _number(text: str, name: str) -> float:
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name}: {text.strip()[:80]!r} is no number")
    return value


def _shortest(value: np.float32) -> str:
    """The shortest decimal number that is this float32."""
    return np.format_float_positional(value, trim="-") if 1e-5 < abs(value) < 1e9 else f"{value:.9g}"


def _listed(labels: Sequence[str], at_most: int = 8) -> str:
    return ", ".join(labels[:at_most]) + (", …" if len(labels) > at_most else "")


def nearest(have: int, want: int) -> NDArray[np.intp]:
    """For each of ``want`` pixels of an axis, which of ``have`` lies under its centre."""
    return ((2 * np.arange(want) + 1) * have // (2 * want)).astype(np.intp)
