"""Which face detector is used: the one asked for, YuNet from its publisher, or the own one.

A detector that was asked for is that one or an error. YuNet is fetched once, checked against its digest, and kept in
the user's cache; where that is not possible, the detector that comes with the package takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import GenedgeError
from runtime.folder import user_cache
from runtime.manifest import MANIFEST_NAME

VARIABLE = "GENEDGE_FACE_DETECTOR"
OFFLINE = "GENEDGE_OFFLINE"
OWN = Path(__file__).parent / "face-detector"
LOW = 0.25  # score from which a face of a detector counts; of YuNet's and of any other
# That of the own net, which at 0.25 sees two faces a frame that are none, and half as many at 0.3. On the clips that it
# has not learned from it still finds 144 of the 145 faces that YuNet is sure of (python -m recipes.face_evaluation).
LOW_OF = {"face-net": 0.3}
MOST_BYTES = 64 << 20  # of a detector; YuNet has 0.4 MB
TIMEOUT = 3.0  # seconds without an answer
WHOLE = 30.0  # seconds for all of it


@dataclass(frozen=True)
class Published:
    """A file on the web and the SHA-256 of its bytes."""

    url: str
    sha256: str
    name: str


YUNET = Published(
    "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/"
    "0047ac24afb1a50a0c6105001c89d1b5b805dbf1/onnx/yunet_n_640_640.onnx",
    "25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
    "yunet_n_640_640",
)


@dataclass(frozen=True)
class DetectorFile:
    """A detector's ONNX file. ``sha256`` is that of its bytes when they were read. ``takes_frames``: its input is uint8
    (n, h, w, 3), as its manifest promises; of a file without one, the engine says it: that, or float32 (n, 3, h, w).
    ``low``: score from which its faces count, unless another is asked for."""

    path: Path
    name: str
    sha256: str
    description: str
    data: bytes
    takes_frames: bool
    low: float = LOW

    def read(self) -> bytes:
        return self.data


def find_detector(place: str | None = None) -> DetectorFile:
    """The detector ``place``, else that of ``$GENEDGE_FACE_DETECTOR``, else YuNet from the cache or fetched now, else
    the own one. Raises :class:`GenedgeError` where one that was asked for is missing or damaged."""
    if place is not None:
        return _asked_for(Path(place), "asked for")
    if chosen := os.environ.get(VARIABLE):
        return _asked_for(Path(chosen), f"${VARIABLE}")
    yunet = published(YUNET)
    if yunet is not None:
        return yunet
    return _of_bundle(OWN, "the own detector")


def published(what: Published) -> DetectorFile | None:
    """A published detector from the cache, fetched where it is not there; None where it cannot be had."""
    try:
        path = user_cache() / f"{what.name}.onnx"
    except RuntimeError:  # no home
        return None
    data = None
    with contextlib.suppress(OSError):
        if path.stat().st_size <= MOST_BYTES:
            data = path.read_bytes()
    if data is None or _digest(data) != what.sha256:
        data = None if os.environ.get(OFFLINE, "0") not in ("", "0") else _fetch(what)
        if data is None:
            return None
        with contextlib.suppress(OSError):  # a cache that cannot be written is no error
            _write(path, data)
    return DetectorFile(path, what.name, what.sha256, f"YuNet ({what.name})", data, False)


def _fetch(what: Published) -> bytes | None:
    print(f"fetching the face detector {what.name} once from {what.url.split('/')[2]}", file=sys.stderr, flush=True)
    try:
        data = _download(what.url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"it cannot be fetched ({error}): the own detector is used", file=sys.stderr, flush=True)
        return None
    if _digest(data) != what.sha256:
        print("what came is not that file (its digest differs): the own detector is used", file=sys.stderr, flush=True)
        return None
    return data


def _download(url: str) -> bytes:
    ends, data = time.monotonic() + WHOLE, bytearray()
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        while piece := answer.read1(1 << 16):
            data += piece
            if len(data) > MOST_BYTES:
                raise OSError("it is too large")
            if time.monotonic() > ends:
                raise TimeoutError(f"it took more than {WHOLE:g} s")
    return bytes(data)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    finally:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()


def _asked_for(path: Path, who: str) -> DetectorFile:
    if path.is_dir():
        return _of_bundle(path, who)
    try:
        if not path.is_file():
            raise GenedgeError(f"{path}: there is no such face detector ({who})")
        if path.stat().st_size > MOST_BYTES:
            raise GenedgeError(f"{path}: more than {MOST_BYTES >> 20} MiB: not a face detector")
        data = path.read_bytes()
    except OSError as error:
        raise GenedgeError(f"{path}: {error.strerror}") from None
    return DetectorFile(path, path.stem, _digest(data), f"{path.name} ({who})", data, False)


def _of_bundle(folder: Path, who: str) -> DetectorFile:
    from runtime.bundle import open_bundle

    if not (folder / MANIFEST_NAME).is_file():
        raise GenedgeError(f"{folder}: no face detector there: give one with --detector FILE")
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    if manifest.task != "face-detection" or "fp32" not in manifest.artifacts:
        raise GenedgeError(f"{folder}: {manifest.name} is no face detector")
    data = bundle.read_model("fp32")
    path = folder / manifest.artifacts["fp32"].file
    low = LOW_OF.get(manifest.generator, LOW)
    return DetectorFile(path, manifest.name, _digest(data), f"{manifest.name} ({who})", data, True, low)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
