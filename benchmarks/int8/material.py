"""Nets, calibration sets, pictures and sessions of this benchmark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import missing, say
from benchmarks.nets import NETS, RECURRENT, Net, UnavailableError, int8_bundle_of, int8_record
from recipes.assets import assets_folder
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.frames import Frame
from runtime.sessions import Choice, Session, available_backends, open_session
from runtime.tiles import fit_session

ALL_NETS = {net.name: net for net in (*NETS, *RECURRENT)}
RECURRENT_NAMES = tuple(net.name for net in RECURRENT)
PHOTOS_OF = {"candy-nc16": "kodak", "mosaic-nc8": "kodak", "horse2zebra": "horses"}  # nets without ground truth
ENGINES = {"int8": "openvino", "int8-ort": "onnxruntime"}  # variant -> the engine that it is made for
PICTURES = {".png", ".jpg", ".jpeg", ".bmp"}


@dataclass(frozen=True)
class Material:
    """Calibration sets, sampled from the videos of the test material into ``folder`` and kept there."""

    folder: Path
    quick: bool

    def for_net(self, net: Net) -> Path:
        """The set that a net is calibrated on: 64 crops, for a recurrent one 8 runs of 12 frames (quick: fewer)."""
        if net in RECURRENT:
            count = 24 if self.quick else 96
            return self._sampled(f"runs-{count}", ["--runs", "12", "-n", str(count)])
        count = 16 if self.quick else 64
        return self._sampled(f"crops-{count}", ["-n", str(count)])

    def whole(self, height: int, width: int, count: int) -> Path:
        """``count`` frames of one size."""
        size = f"{height}x{width}"
        return self._sampled(f"frames-{size}-{count}", ["--size", size, "-n", str(count)])

    def _sampled(self, name: str, options: list[str]) -> Path:
        from calib.index import is_set

        target = self.folder / name
        if is_set(target):
            return target
        videos = sorted((assets_folder() / "video").glob("*.mp4"))
        if not videos:
            raise UnavailableError(missing(assets_folder() / "video" / "*.mp4"))
        say(f"sampling {name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "calib", "sample", *map(str, videos), "-o", str(target), "--force", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise GenedgeError(f"sampling {name} failed: {reason[0]}")
        return target


@dataclass(frozen=True)
class Int8Bundle:
    """A bundle with INT8, and what its build said about each variant."""

    net: Net
    bundle: Bundle
    record: dict[str, Any]

    @classmethod
    def of(cls, net: Net, built: Path, material: Material) -> Int8Bundle:
        """Raises :class:`UnavailableError` where weights or videos are not here."""
        bundle = int8_bundle_of(net, built, material.for_net(net))
        return cls(net, bundle, int8_record(bundle))

    def missing(self, variant: str) -> str | None:
        """Why a variant cannot be measured here, None where it can."""
        if variant not in self.bundle.manifest.artifacts:
            return f"dropped by the build: {self.record.get('dropped', {}).get(variant, 'no reason on record')}"
        if ENGINES[variant] not in available_backends():
            return f"{ENGINES[variant]} is not installed"
        return None

    def float_layers(self, variant: str) -> str:
        """Layers in float, of all that the variant could hold in INT8."""
        kept = len(self.record.get("float_layers", {}).get(variant, ()))
        alone = self.record.get("search", {}).get(variant, {}).get("alone", {})
        return f"{kept} of {len(alone)}" if alone else str(kept)


def choice_of(variant: str, engine: str = "") -> Choice:
    """The choice that runs an artifact: ``fp32`` or ``bf16`` on ``engine``, INT8 on its own one."""
    if variant in ENGINES:
        return Choice(ENGINES[variant], "int8", variant, "asked for")
    return Choice(engine, variant, "fp32", "asked for")


@contextmanager
def fitted(bundle: Bundle, choice: Choice, threads: int) -> Iterator[Session]:
    """The runtime's session for whole frames of any size, one request at a time."""
    opened = open_session(bundle, choice, threads=threads, in_flight=1)
    with fit_session(opened, bundle.manifest.geometry, 1, 1, tile=0) as session:
        yield session


def outputs_of(session: Session, frames: Iterable[Frame]) -> list[Frame]:
    """One output for each frame ``uint8 (H, W, 3) BGR``, in order."""
    return [session.infer(frame[None])[0].copy() for frame in frames]


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted; empty where it is not here."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
