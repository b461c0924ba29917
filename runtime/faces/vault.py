"""The vault: original pixels of covered faces, encrypted, so that whoever knows the passcode gets them back exactly.

Whoever keeps a vault has pseudonymised, not anonymised: the people in the video can be known again. Destroying the
vault, or every copy of the passcode, ends that (crypto-shredding), and then the covered video is all there is.

Layout; integers are big-endian, ``box(key, nonce, aad, text)`` is AES-256-GCM with its tag of 16 bytes:

    header  magic, Argon2id's memory, passes and lanes, salt, key commitment        68 bytes, not secret
    info    box("info",  0, digest, recording, created, frame size)                  64 + 16 bytes
    record  box("index", n, digest n, frame, track, pts, rectangle, stored size)     56 + 16 bytes
            box(track's, n, digest n and the text before, compressed pixels)         stored size + 16 bytes
    …       n counts the records from 0
    end     box("end",   0, digest, count of records, of tracks)                     56 + 16 bytes

``digest`` is the SHA-256 of the header. Keys are HKDF's of Argon2id's of the passcode, see
:mod:`runtime.faces.passcode`; every vault has a random salt, so no key serves two vaults and no nonce is used twice
with one key. Since GCM binds a text to its key only loosely, the header also holds a value that one passcode alone
gives (Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key Commitment", USENIX Security 2022).

What the file tells without the passcode: that it is a vault, what a guess of the passcode costs, its size, and when the
file was written. Not which recording, which frames, how many faces or people, or where they are. Whoever has the file
can try passcodes as fast as their memory allows, so a passcode has to be long.

A record that was changed, moved, repeated, left out or taken from another vault does not authenticate, and nothing is
handed out before it does. A vault that only ends early, as after a power cut, gives what it has and then says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from runtime.errors import EndedEarlyError, GenedgeError, MissingExtraError, UsageError, VideoError, message_of
from runtime.faces.passcode import SALT_BYTES, STANDARD, Cost, RecordingKeys
from runtime.frames import Frame

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"GEVAULT1"
MOST_PIXELS = 1 << 26  # of one crop: 8192 x 8192

_FRONT = struct.Struct(f">8sIII{SALT_BYTES}s")
_COMMITMENT = 32
_HEADER = _FRONT.size + _COMMITMENT
_INFO = struct.Struct(">32sQII16x")  # recording, created (seconds since 1970), frame width and height or 0
_ENTRY = struct.Struct(">QQqQIIIIQ")  # frame, track, pts over, pts under, left, top, width, height, stored bytes
_END = struct.Struct(">QQ40x")  # records, tracks
_TAG = 16
_BOX = _ENTRY.size + _TAG
assert _END.size == _ENTRY.size

WRONG = "wrong passcode, or the vault was changed"


@dataclass(frozen=True)
class Entry:
    """One crop of a vault, without its pixels.

    ``frame`` counts from 0, ``pts`` is in seconds, ``left``, ``top``, ``width``, ``height`` in pixels of the upright
    frame. ``number`` and ``place`` say where it lies in the vault.
    """

    frame: int
    pts: Fraction
    track: int
    left: int
    top: int
    width: int
    height: int
    number: int
    place: int
    text: bytes


class _Cipher:
    """The keys of one vault."""

    def __init__(self, front: bytes, passcode: str, salt: bytes, cost: Cost) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ModuleNotFoundError:
            raise MissingExtraError("cryptography", "deid") from None
        self._make = AESGCM
        # in place of the recording, which is secret until the info is open; the salt is this vault's alone
        self._keys = RecordingKeys.from_passcode(passcode, salt, hashlib.sha256(front).digest(), cost=cost)
        self.commitment = self._keys.secret("commitment", 0, _COMMITMENT)
        self._digest = hashlib.sha256(front + self.commitment).digest()
        self._others = {name: AESGCM(self._keys.secret(name, 0, 32)) for name in ("info", "index", "end")}
        self._tracks: dict[int, AESGCM] = {}

    def seal(self, name: str, number: int, text: bytes) -> bytes:
        return self._others[name].encrypt(_nonce(number), text, self._bound(name, number))

    def open(self, name: str, number: int, box: bytes) -> bytes | None:
        """The text, or None where it does not authenticate."""
        return _opened(self._others[name], number, box, self._bound(name, number))

    def seal_crop(self, track: int, number: int, entry: bytes, pixels: bytes) -> bytes:
        return self._track(track).encrypt(_nonce(number), pixels, self._bound("crop", number) + entry)

    def open_crop(self, track: int, number: int, entry: bytes, box: bytes) -> bytes | None:
        return _opened(self._track(track), number, box, self._bound("crop", number) + entry)

    def _bound(self, name: str, number: int) -> bytes:
        return self._digest + name.encode() + b"\0" + number.to_bytes(8, "big")

    def _track(self, track: int) -> AESGCM:
        if track not in self._tracks:
            self._tracks[track] = self._make(self._keys.key(track))
        return self._tracks[track]


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _opened(key: AESGCM, number: int, box: bytes, bound: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    try:
        return key.decrypt(_nonce(number), box, bound)
    except InvalidTag:
        return None


class VaultWriter:
    """Writes a vault. A context manager, used by one thread; leaving it by an exception aborts.

    The file is ``NAME.partial`` until it is whole, and only its owner may read it (mode 0600). ``recording``: 32 bytes,
    see :func:`runtime.faces.passcode.recording_of`; ``size``: width and height of the frames, so that only a video of
    that size is restored. ``cost`` of guessing the passcode; less than the standard is for tests.

    Opening it takes as long as one guess costs, about 0.2 s.

    Raises :class:`UsageError` where ``path`` or its partial file exists and ``overwrite`` is not set, or its folder is
    missing; :class:`MissingExtraError` without the package ``cryptography``; :class:`VideoError` where it cannot be
    made.
    """

    def __init__(
        self,
        path: Path,
        passcode: str,
        *,
        recording: bytes,
        size: tuple[int, int] | None = None,
        overwrite: bool = False,
        cost: Cost = STANDARD,
    ) -> None:
        if len(recording) != 32:
            raise ValueError(f"a recording is known by 32 bytes, not {len(recording)}")
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.count = 0
        self._overwrite = overwrite
        self._tracks: set[int] = set()
        self._handle: int | None = None
        self._check()
        salt = secrets.token_bytes(SALT_BYTES)
        front = _FRONT.pack(MAGIC, cost.memory, cost.passes, cost.lanes, salt)
        self._cipher = _Cipher(front, passcode, salt, cost)
        info = _INFO.pack(recording, int(time.time()), *(size or (0, 0)))
        try:
            if overwrite:
                self.partial.unlink(missing_ok=True)
            # exclusive: neither a second run nor a link that somebody has put there is written to
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._handle = os.open(self.partial, flags, 0o600)
        except FileExistsError:
            raise self._taken() from None
        except OSError as error:
            raise VideoError(message_of(error)) from error
        self._length = 0
        try:
            self._put(front + self._cipher.commitment + self._cipher.seal("info", 0, info))
        except BaseException:
            self.discard()
            raise

    def _check(self) -> None:
        if not self.path.parent.is_dir():
            raise UsageError(f"the folder {self.path.parent} does not exist: make it first")
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a folder: give the vault another name")
        if not self._overwrite and self.path.exists():
            raise UsageError(f"{self.path} exists: add --overwrite to replace it, and what only it can restore is lost")
        if not self._overwrite and self.partial.exists():
            raise self._taken()

    def _taken(self) -> UsageError:
        return UsageError(
            f"{self.partial} exists, from a run that goes on or was broken off: reveal or delete it, or add --overwrite"
        )

    def add(self, frame_index: int, pts: Fraction | float, track: int, left: int, top: int, crop: Frame) -> None:
        """Keep the pixels ``crop``, uint8 (h, w, 3), of the rectangle whose corner is at ``left``, ``top`` (0 or more)
        of a frame at ``pts`` seconds. They are compressed without loss.

        Raises ``ValueError`` for what is no such crop, :class:`VideoError` where it cannot be written; what came before
        then stays in the partial file.
        """
        if self._handle is None:
            raise ValueError(f"{self.path} is closed: it takes no more crops")
        if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or not 0 < crop.size <= 3 * MOST_PIXELS:
            raise ValueError(f"a crop of {crop.dtype} {crop.shape} came to a vault of uint8 (h, w, 3)")
        height, width = crop.shape[:2]
        time_of = Fraction(pts)
        if time_of.denominator > 1 << 31:  # a float
            time_of = time_of.limit_denominator(1_000_000_000)
        pixels = _packed(crop)
        try:
            entry = _ENTRY.pack(
                frame_index, track, time_of.numerator, time_of.denominator, left, top, width, height, len(pixels)
            )
        except struct.error as error:
            raise ValueError(f"frame {frame_index}, track {track}, corner {left}, {top}: {error}") from None
        number = self.count
        self._put(self._cipher.seal("index", number, entry) + self._cipher.seal_crop(track, number, entry, pixels))
        self.count += 1
        self._tracks.add(track)

    def close(self) -> None:
        """Write the end, make the disk hold it all, and give the file its name. Calling it twice is harmless."""
        if self._handle is None:
            return
        self._put(self._cipher.seal("end", 0, _END.pack(self.count, len(self._tracks))))
        handle, self._handle = self._handle, None
        try:
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            self._name()
        except OSError as error:
            raise VideoError(f"{message_of(error)}; the vault stays {self.partial}") from error

    def abort(self) -> None:
        """Stop early, as :meth:`runtime.video.sink.Sink.abort` does: what was added becomes a whole vault that ends
        there; if nothing was, nothing is left."""
        if self.count:
            self.close()
        else:
            self.discard()

    def discard(self) -> None:
        """Stop early and leave nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
            with contextlib.suppress(OSError):
                self.partial.unlink()

    def _name(self) -> None:
        if self._overwrite:
            self.partial.replace(self.path)
        else:
            try:
                os.link(self.partial, self.path)  # unlike a rename, this never replaces what has come meanwhile
                self.partial.unlink()
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                if self.path.exists():
                    raise FileExistsError(17, "File exists", str(self.path)) from None
                self.partial.rename(self.path)
        if os.name == "posix":
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _put(self, data: bytes) -> None:
        """All of ``data``, or none of it."""
        assert self._handle is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            handle, self._handle = self._handle, None
            with contextlib.suppress(OSError):
                os.ftruncate(handle, self._length)
            os.close(handle)
            error.filename = str(self.partial)
            raise VideoError(message_of(error)) from error
        self._length += len(data)

    def __enter__(self) -> VaultWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class VaultReader:
    """An open vault, see :func:`read_vault`. A context manager; iterating gives ``(Entry, crop)`` in stored order.

    ``recording``: 32 bytes; ``created``: when, UTC; ``cost`` of a guess; ``size``: width and height of the frames,
    where it is known; ``complete``: the end is there; ``count`` and ``tracks``: how many crops and people, None where
    it is not.
    """

    def __init__(self, path: Path, file: BinaryIO, passcode: str) -> None:
        self.path, self._file = path, file
        self._size = file.seek(0, os.SEEK_END)
        header = self._read(0, _HEADER)
        if header[: len(MAGIC)] != MAGIC or len(header) < _HEADER:
            raise GenedgeError(f"{path} is no vault, or nothing is left of it")
        front = header[: _FRONT.size]
        _, memory, passes, lanes, salt = _FRONT.unpack(front)
        try:
            self.cost = Cost(memory, passes, lanes)
        except ValueError:
            raise GenedgeError(f"{path} is no vault of this program: it asks for too much memory or time") from None
        self._cipher = _Cipher(front, passcode, salt, self.cost)
        if not hmac.compare_digest(self._cipher.commitment, header[_FRONT.size :]):
            raise GenedgeError(WRONG)
        self._first = _HEADER + _INFO.size + _TAG
        box = self._read(_HEADER, _INFO.size + _TAG)
        if len(box) < _INFO.size + _TAG:
            raise EndedEarlyError(f"{path} ends early: it holds no face")
        info = self._cipher.open("info", 0, box)
        if info is None:
            raise GenedgeError(WRONG)
        self.recording, created, width, height = _INFO.unpack(info)
        self.created = datetime.fromtimestamp(min(created, 1 << 37), timezone.utc)
        self.size: tuple[int, int] | None = (width, height) if width and height else None
        self.count: int | None = None
        self.tracks: int | None = None
        self._end = self._size - _BOX
        if self._end >= self._first and (end := self._cipher.open("end", 0, self._read(self._end, _BOX))) is not None:
            self.count, self.tracks = _END.unpack(end)

    @property
    def complete(self) -> bool:
        return self.count is not None

    def entries(self) -> Iterator[Entry]:
        """What is in the vault, each handed out once it is authenticated; without the pixels, see :meth:`crop`.

        Raises :class:`GenedgeError` where the vault was changed, :class:`EndedEarlyError` after the last one where the
        end is missing.
        """
        place, number = self._first, 0
        end = self._end if self.complete else self._size
        while place < end:
            box = self._read(place, _BOX)
            if len(box) < _BOX:
                break
            text = self._cipher.open("index", number, box)
            if text is None:
                raise GenedgeError(WRONG)
            frame, track, over, under, left, top, width, height, stored = _ENTRY.unpack(text)
            if not under or not 0 < width * height <= MOST_PIXELS or stored > _most_packed(width * height * 3):
                raise GenedgeError(f"{self.path}: its crop {number} cannot be one")
            following = place + _BOX + stored + _TAG
            if following > end:
                if self.complete:
                    raise GenedgeError(WRONG)
                break
            yield Entry(frame, Fraction(over, under), track, left, top, width, height, number, place + _BOX, text)
            place, number = following, number + 1
        if self.complete:
            if number != self.count or place != end:
                raise GenedgeError(WRONG)
            return
        raise EndedEarlyError(f"{self.path} ends early: only its first {number} crops are there")

    def crop(self, entry: Entry) -> Frame:
        """The original pixels, uint8 (height, width, 3). Raises :class:`GenedgeError` where they were changed."""
        stored = _ENTRY.unpack(entry.text)[-1]
        box = self._read(entry.place, stored + _TAG)
        data = self._cipher.open_crop(entry.track, entry.number, entry.text, box) if len(box) == stored + _TAG else None
        if data is None:
            raise GenedgeError(WRONG)
        crop = _unpacked(data, entry.height, entry.width)
        if crop is None:
            raise GenedgeError(f"{self.path}: its crop {entry.number} cannot be unpacked")
        return crop

    def __iter__(self) -> Iterator[tuple[Entry, Frame]]:
        for entry in self.entries():
            yield entry, self.crop(entry)

    def _read(self, place: int, length: int) -> bytes:
        """``length`` bytes, fewer only at the end of the file."""
        self._file.seek(place)
        return self._file.read(min(length, max(0, self._size - place)))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> VaultReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_vault(path: Path, passcode: str) -> VaultReader:
    """Open a vault with its passcode. Takes as long as one guess costs, and at most 256 MiB.

    Raises :class:`GenedgeError` where the passcode is wrong or the vault was changed, which cannot be told apart, or is
    none; :class:`EndedEarlyError` where it ends before its first record; :class:`UsageError` where there is no such
    file; :class:`MissingExtraError` without the package ``cryptography``.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is no file")
        file = path.open("rb")
    except OSError as error:
        raise UsageError(message_of(error)) from None
    try:
        return VaultReader(path, file, passcode)
    except BaseException:
        file.close()
        raise


def _packed(crop: Frame) -> bytes:
    """Differences of the rows, compressed by zlib: over two faces of a real clip 0.24 of the size in 0.15 ms a crop,
    where OpenCV's PNG at its level 1 has 0.24 in 0.31 ms."""
    rows = np.ascontiguousarray(crop).copy()
    rows[1:] -= crop[:-1]
    return zlib.compress(rows.tobytes(), 1)


def _unpacked(data: bytes, height: int, width: int) -> Frame | None:
    size = height * width * 3
    unpacking = zlib.decompressobj()
    try:
        rows = unpacking.decompress(data, size + 1)
    except zlib.error:
        return None
    if len(rows) != size or not unpacking.eof or unpacking.unused_data:
        return None
    differences = np.frombuffer(rows, np.uint8).reshape(height, width, 3)
    return np.add.accumulate(differences, axis=0, dtype=np.uint8)


def _most_packed(size: int) -> int:
    """No deflated data of ``size`` bytes is longer: five bytes for every stored block, and zlib's frame."""
    return size + size // 1000 + 1024
