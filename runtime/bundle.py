"""Open a bundle and hand out its files, each checked against its digest."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from runtime.errors import GenedgeError, ManifestError
from runtime.frames import Frame
from runtime.manifest import MANIFEST_NAME, MAX_BYTES, FileRef, Manifest, parse_manifest, safe_member
from runtime.onnx_scan import refuse_external_data

PARITY_NAME = "parity.json"
DEFAULT_FOLDER = "bundles"
SEARCH_PATH_VARIABLE = "GENEDGE_BUNDLES"
MAX_FILE_BYTES = 1 << 31  # 2 GiB, the most that protobuf, and so an ONNX file, can hold


@dataclass(frozen=True)
class Bundle:
    """A bundle's folder and its checked manifest."""

    folder: Path
    manifest: Manifest

    def read(self, reference: FileRef) -> bytes:
        """The bytes of a file of the bundle; raises :class:`ManifestError` where the digest differs."""
        path = safe_member(self.folder, reference.file)
        try:
            data = _read(path)
        except FileNotFoundError:
            raise ManifestError(f"{path}: the manifest names this file, but it is missing") from None
        digest = hashlib.sha256(data).hexdigest()
        if digest != reference.sha256:
            raise ManifestError(
                f"{path}: sha256 is {digest[:12]}…, the manifest says {reference.sha256[:12]}…: "
                "the file was changed or damaged; build the bundle again"
            )
        return data

    def read_model(self, variant: str) -> bytes:
        """The ONNX file of a variant, digest checked, without references to other files."""
        artifact = self.manifest.artifacts.get(variant)
        if artifact is None:
            raise GenedgeError(
                f"{self.manifest.name} has no {variant} variant, only {', '.join(self.manifest.artifacts)}"
            )
        model = self.read(FileRef(artifact.file, artifact.sha256))
        refuse_external_data(model, artifact.file)
        return model

    def golden_frames(self) -> Iterator[tuple[Frame, Frame]]:
        """Pairs of input frame and PyTorch's output, both ``uint8 (H, W, 3) BGR``."""
        scale = self.manifest.geometry.scale
        for pair in self.manifest.golden:
            frame, output = self._picture(pair.input), self._picture(pair.output)
            if output.shape != (frame.shape[0] * scale, frame.shape[1] * scale, 3):
                raise ManifestError(f"{self.folder / pair.output.file}: its size is not {scale} times the input's")
            yield frame, output

    def _picture(self, reference: FileRef) -> Frame:
        try:
            image = cv2.imdecode(np.frombuffer(self.read(reference), dtype=np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # no bytes at all, or more pixels than OpenCV reads
            image = None
        if image is None:
            raise ManifestError(f"{self.folder / reference.file}: not a picture")
        return np.asarray(image, dtype=np.uint8)

    def parity_record(self) -> dict[str, Any] | None:
        """The content of ``parity.json``, or None where there is none."""
        path = safe_member(self.folder, PARITY_NAME)
        try:
            content = json.loads(_read(path))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}: not valid JSON ({error})") from None
        if not isinstance(content, dict):
            raise ManifestError(f"{path}: must be an object")
        return content


def open_bundle(place: str | Path) -> Bundle:
    """Open a bundle by folder, or by name in ``./bundles`` and the folders of ``$GENEDGE_BUNDLES``.

    Raises :class:`ManifestError` for a broken manifest and :class:`GenedgeError` where there is none.
    """
    folder = _find(place)
    path = folder / MANIFEST_NAME
    if path.stat().st_size > MAX_BYTES:
        raise ManifestError(f"{path}: more than {MAX_BYTES} bytes")
    try:
        return Bundle(folder, parse_manifest(path.read_bytes()))
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def _read(path: Path) -> bytes:
    """The bytes of a regular file. Raises ``FileNotFoundError`` where there is none, else :class:`ManifestError`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would keep the reader waiting for ever
            raise ManifestError(f"{path}: not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise ManifestError(f"{path}: more than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from None


def search_folders() -> list[Path]:
    """Where a bundle is looked for by its name: ``./bundles``, then the folders of ``$GENEDGE_BUNDLES``."""
    more = os.environ.get(SEARCH_PATH_VARIABLE, "").split(os.pathsep)
    return [Path(folder) for folder in (DEFAULT_FOLDER, *filter(None, more))]


def _find(place: str | Path) -> Path:
    folders = [Path(place)]
    if len(Path(place).parts) == 1:
        folders += [folder / place for folder in search_folders()]
    for folder in folders:
        if (folder / MANIFEST_NAME).is_file():
            return folder
    if Path(place).is_dir():
        raise GenedgeError(f"{place}: holds no {MANIFEST_NAME}, so it is no bundle")
    tried = ", ".join(str(folder) for folder in folders)
    raise GenedgeError(f"no bundle {place} (looked for {tried}): make it with `python -m export build`")
