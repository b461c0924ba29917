"""From a passcode to the secrets of one recording: where it comes from, Argon2id, and HKDF for every track.

    passcode --Argon2id(salt)--> root --HKDF-SHA256(recording)--> one secret for every purpose and track

With a vault the salt is random and stands in the vault. Without one nothing is stored, and yet the same passcode and
the same recording shall give the same faces again: then the salt is made from the recording (:func:`salt_of`). It still
differs from recording to recording, so nobody can compute tables for all recordings in advance, but whoever has the
original file can, and two runs on one file are alike, which is what was asked for. With the original and the covered
video at hand, which face each person got tells right guesses of the passcode from wrong ones: with many people a weak
passcode can be found like that, as it can with a vault.
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import secrets
import stat
import sys
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runtime.control import MAX_PASSCODE_BYTES
from runtime.control import read_passcode as passcode_in
from runtime.errors import GenedgeError, MissingExtraError, UsageError, VideoError, message_of

if TYPE_CHECKING:
    from runtime.video.source import SourceInfo

PASSCODE_VARIABLE = "GENEDGE_PASSCODE"
KEY_BYTES = 32
SALT_BYTES = 16  # RFC 9106, section 3.1: 16 bytes is recommended for passwords
MOST_EXPANDED = 255 * 32  # bytes; RFC 5869, section 2.3

_CONTEXT = b"genedge faces 1"
_EDGE = 1 << 20  # bytes read at each end of a recording


@dataclass(frozen=True)
class Cost:
    """What one guess of a passcode costs: parameters of Argon2id (RFC 9106).

    ``memory``: KiB, at least 8 a lane; ``passes`` over it; ``lanes``. The defaults are the second recommended option of
    RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes.

    Raises ``ValueError`` for what Argon2id does not take, and for more than 256 MiB, 16 passes or 16 lanes: the
    parameters of a vault come from a file, which may want to use up the memory of whoever opens it.
    """

    memory: int = 1 << 16
    passes: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        if not (1 <= self.lanes <= 16 and 1 <= self.passes <= 16 and 8 * self.lanes <= self.memory <= 1 << 18):
            raise ValueError(f"Argon2id with {self.memory} KiB, {self.passes} passes, {self.lanes} lanes")


STANDARD = Cost()


def stretched(
    passcode: bytes, salt: bytes, cost: Cost = STANDARD, *, secret: bytes | None = None, data: bytes | None = None
) -> bytes:
    """Argon2id (RFC 9106) of ``passcode``, 32 bytes. ``salt``: at least 8 bytes. ``secret`` and ``data`` are the RFC's
    optional K and X.

    Raises :class:`MissingExtraError` without the package ``cryptography``, :class:`GenedgeError` where it has no
    Argon2id.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.kdf import argon2
    except ModuleNotFoundError:
        raise MissingExtraError("cryptography", "deid") from None
    try:
        function = argon2.Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=cost.passes,
            lanes=cost.lanes,
            memory_cost=cost.memory,
            ad=data,
            secret=secret,
        )
    except UnsupportedAlgorithm:
        raise GenedgeError('this cryptography has no Argon2id: pip install --upgrade "genedge[deid]"') from None
    return bytes(function.derive(passcode))


def extracted(salt: bytes, material: bytes) -> bytes:
    """HKDF-SHA256's first step (RFC 5869, section 2.2): a key of 32 bytes."""
    return hmac.digest(salt or bytes(32), material, "sha256")


def expanded(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256's second step (RFC 5869, section 2.3): ``length`` bytes, at most 8160."""
    if not 0 <= length <= MOST_EXPANDED:
        raise ValueError(f"HKDF gives 0 to {MOST_EXPANDED} bytes, not {length}")
    result = block = b""
    counter = 0
    while len(result) < length:
        counter += 1
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        result += block
    return result[:length]


class RecordingKeys:
    """Secrets of one recording; a :class:`runtime.faces.types.TrackKeys`. Safe between threads.

    What one track or purpose gives tells nothing about another one. Make it with :meth:`from_passcode` or
    :meth:`random`.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root

    @classmethod
    def from_passcode(cls, passcode: str, salt: bytes, recording: bytes, *, cost: Cost = STANDARD) -> RecordingKeys:
        """The same for the same passcode, salt (16 bytes), recording (:func:`recording_of`) and cost.

        Takes about as long and as much memory as ``cost`` says, once. A passcode is the same however Unicode spells it
        (NFC), so that it may be typed or come from a file.

        Raises :class:`UsageError` for an empty passcode, and as :func:`stretched`.
        """
        if not passcode:
            raise UsageError("the passcode is empty")
        spelled = unicodedata.normalize("NFC", passcode).encode("utf-8", "surrogateescape")
        return cls(extracted(recording, stretched(spelled, salt, cost)))

    @classmethod
    def random(cls) -> RecordingKeys:
        """No passcode: a fresh secret that is stored nowhere, so nobody can choose the same faces again."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def number(self, track: int, below: int) -> int:
        """A number from 0 to ``below`` - 1, evenly, the same for the same passcode, recording and track."""
        if below < 1:
            raise ValueError(f"there is no number from 0 to {below - 1}")
        # 24 bytes: how much likelier one number is than another is far below 2**-100
        return int.from_bytes(self.secret("number", track, 24), "big") % below

    def bits(self, track: int, count: int) -> NDArray[np.float32]:
        """(count,) of 0 and 1, the same for the same passcode, recording and track; at most 65280."""
        data = np.frombuffer(self.secret("bits", track, -(-count // 8)), np.uint8)
        return np.unpackbits(data, count=count).astype(np.float32)

    def key(self, track: int) -> bytes:
        """32 bytes that encrypt what belongs to ``track`` in a vault."""
        return self.secret("vault", track, KEY_BYTES)

    def secret(self, purpose: str, track: int, length: int) -> bytes:
        """``length`` bytes for a purpose and a track (0 to 2**64 - 1)."""
        info = b"\0".join((_CONTEXT, purpose.encode("ascii"), track.to_bytes(8, "big")))
        return expanded(self._root, info, length)

    def __repr__(self) -> str:
        return "RecordingKeys(…)"  # a log or a traceback shall not show the secret


def salt_of(recording: bytes) -> bytes:
    """The salt, 16 bytes, where there is no vault to keep a random one; see the text of this module."""
    return hashlib.sha256(_CONTEXT + b"\0salt\0" + recording).digest()[:SALT_BYTES]


def recording_of(place: Path | str, info: SourceInfo | None = None) -> bytes:
    """32 bytes that name a recording: the same for the same file wherever it lies, others for any other.

    A file is known by its size and its first and last MiB: a clip of many GB is not read twice, and two recordings that
    agree in all three are copies of each other, as far as anybody does not make them on purpose. A copy that was
    encoded anew is another recording. Numbered pictures and folders are known by all names and sizes and by the first
    and last picture. What is live (``info.live``), or on the network, is never seen again: random.

    Raises :class:`VideoError` where the file cannot be read.
    """
    from runtime.video.source import natural_key
    from runtime.video.uri import PATTERN, PICTURE_SUFFIXES, SourceKind, parse_source

    if info is not None and info.live:
        return secrets.token_bytes(32)
    uri = parse_source(str(place))
    try:
        if uri.kind in (SourceKind.FILE, SourceKind.PICTURE) and uri.path.is_file():
            return hashlib.sha256(_CONTEXT + b"\0file\0" + _digest(uri.path)).digest()
        if uri.kind in (SourceKind.FOLDER, SourceKind.PATTERN):
            folder = uri.path if uri.kind is SourceKind.FOLDER else uri.path.parent
            around = None if uri.kind is SourceKind.FOLDER else PATTERN.split(uri.path.name)
            paths = sorted(
                (
                    path
                    for path in folder.iterdir()
                    if path.suffix.lower() in PICTURE_SUFFIXES
                    and (around is None or (path.name.startswith(around[0]) and path.name.endswith(around[-1])))
                ),
                key=lambda path: natural_key(path.name),
            )
            whole = hashlib.sha256(_CONTEXT + b"\0pictures\0")
            for path in paths:
                whole.update(os.fsencode(path.name) + b"\0" + path.stat().st_size.to_bytes(8, "big"))
            for path in paths[:1] + paths[-1:]:
                whole.update(_digest(path))
            return whole.digest()
    except OSError as error:
        raise VideoError(message_of(error)) from error
    return secrets.token_bytes(32)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        first = file.read(_EDGE)
        file.seek(max(0, size - _EDGE))
        last = file.read(_EDGE)
    return hashlib.sha256(size.to_bytes(8, "big") + hashlib.sha256(first).digest() + last).digest()


def read_passcode(file: Path | None, variable: str | None, *, ask: bool, create: bool = True) -> str | None:
    """The passcode from ``file``, else from an environment variable, else typed by somebody.

    Never from a command line, which everybody on the machine can read. ``variable``: its name; None looks at
    ``$GENEDGE_PASSCODE``, which need not be there. ``ask``: prompt on the terminal, and where ``create`` is true a
    second time, since a mistyped passcode would lock everybody out. None where there is none and nobody shall be asked.
    A file that everybody can read gives a warning on standard error.

    Raises :class:`UsageError` where the file or the named variable holds none or more than 4 KiB, where nothing or two
    different things are typed, and where there is no terminal.
    """
    if file is not None:
        passcode = passcode_in(file)
        mode = file.stat().st_mode
        if os.name == "posix" and stat.S_ISREG(mode) and mode & stat.S_IROTH:
            print(f"warning: everybody on this machine can read {file}: chmod 600 {file}", file=sys.stderr)
        return passcode
    name = variable or PASSCODE_VARIABLE
    if (value := os.environ.get(name)) is not None:
        return _sound(value.rstrip("\r\n"), f"${name}")
    if variable is not None:
        raise UsageError(f"the environment variable {variable} is not set")
    return _asked(create) if ask else None


def _asked(create: bool) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would show what is typed
            passcode = _sound(getpass.getpass("passcode: "), "what was typed")
            if create and getpass.getpass("again: ") != passcode:
                raise UsageError("the two passcodes differ: start again")
    except (EOFError, getpass.GetPassWarning):
        raise UsageError(
            f"there is no terminal to ask for the passcode: use --passcode-file FILE or set ${PASSCODE_VARIABLE}"
        ) from None
    return passcode


def _sound(passcode: str, place: str) -> str:
    if not passcode:
        raise UsageError(f"{place}: holds no passcode")
    if len(passcode.encode("utf-8", "surrogateescape")) > MAX_PASSCODE_BYTES:
        raise UsageError(f"{place}: more than {MAX_PASSCODE_BYTES} bytes")
    return passcode
