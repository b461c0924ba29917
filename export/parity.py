"""Every variant against PyTorch, on real frames, through the very sessions that ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calib.dataset import CalibrationSet
from export.frame_io import reference_output
from export.generators.base import LoadedGenerator
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.frames import Frame, SizeRule
from runtime.manifest import Geometry
from runtime.metrics import ParityReport, compare
from runtime.sessions import Choice, open_session, runnable
from runtime.tiles import TiledSession
from runtime.verify import limits_for

FRAME_SIZE = (144, 192)  # height, width; four photos' most detailed crops in this size
ODD_SIZE = (97, 131)  # a second size proves that free dimensions are free
GOLDEN_FRAMES = 4
SEAM = 16  # pixels that a tile keeps between its halos, and that a frame has more than a tile, at least


@dataclass(frozen=True)
class Pair:
    """An input frame and what PyTorch makes of it."""

    frame: Frame
    reference: Frame


@dataclass(frozen=True)
class VariantParity:
    """One variant on one engine: the figures, and its output for the worst frame."""

    choice: Choice
    report: ParityReport
    worst_output: Frame
    engine: str

    @property
    def key(self) -> str:
        return f"{self.choice.backend}-{self.choice.precision}"


def parity_frames(material: CalibrationSet, rule: SizeRule, shape: tuple[int, int] | None) -> list[Frame]:
    """Real frames for parity: eight of one size, then two of another where the graph takes any size."""
    if shape is not None:
        return list(material.crops(*shape, 8))
    frames = list(material.crops(*rule.padded(*FRAME_SIZE), 8))
    return frames + list(material.crops(*rule.padded(*ODD_SIZE), 2))


def reference_pairs(loaded: LoadedGenerator, frames: Sequence[Frame], progress: Callable[[str], None]) -> list[Pair]:
    """PyTorch's output for every frame."""
    pairs = []
    for index, frame in enumerate(frames):
        progress(f"PyTorch reference, frame {index + 1} of {len(frames)}")
        pairs.append(Pair(frame, reference_output(loaded, frame)))
    return pairs


def measure(bundle: Bundle, pairs: Sequence[Pair], progress: Callable[[str], None]) -> list[VariantParity]:
    """Run every variant on every engine of this machine and compare with PyTorch.

    Raises :class:`GenedgeError` where a variant can run on no engine here.
    """
    results = []
    choices = runnable(bundle)
    for variant in bundle.manifest.artifacts:
        if not any(choice.variant == variant for choice in choices):
            raise GenedgeError(f'no engine here runs the {variant} variant: pip install "genedge[cpu]"')
    for choice in choices:
        progress(f"{choice.variant} on {choice.backend} in {choice.precision}")
        with open_session(bundle, choice, in_flight=1) as session:
            outputs = [session.infer(pair.frame[None])[0].copy() for pair in pairs]
            engine = f"{choice.backend} on {session.info.device}"
        report = compare(
            ((pair.reference, output) for pair, output in zip(pairs, outputs, strict=True)),
            limits_for(bundle.manifest, choice),
        )
        results.append(VariantParity(choice, report, outputs[report.worst_frame], engine))
    return results


def tile_size(geometry: Geometry, height: int, width: int) -> tuple[int, int]:
    """(height, width) of tiles that cut a frame about in half each way, as far as the halo lets them."""
    smallest = 2 * geometry.halo + SEAM
    return geometry.size_rule.padded(max(smallest, height // 2 + 1), max(smallest, width // 2 + 1))


def tile_frame(material: CalibrationSet, geometry: Geometry) -> Frame:
    """A real frame that is larger than a tile of :func:`tile_size` on both axes."""
    least = geometry.size_rule.padded(2 * geometry.halo + SEAM, 2 * geometry.halo + SEAM)
    sides = (max(side, smallest + SEAM) for side, smallest in zip(FRAME_SIZE, least, strict=True))
    return next(material.crops(*geometry.size_rule.padded(*sides), 1))


def tile_difference(bundle: Bundle, choice: Choice, frame: Frame) -> int:
    """Largest difference in 8-bit steps between tiled output and whole-frame output of one frame.

    The frame must be larger than a tile, see :func:`tile_frame`; else there would be no seam to look at.
    """
    geometry = bundle.manifest.geometry
    height, width = frame.shape[:2]
    tile = tile_size(geometry, height, width)
    if tile[0] >= height and tile[1] >= width:
        raise ValueError(f"a frame of {width}x{height} pixels has no seam between tiles of {tile[1]}x{tile[0]}")
    with open_session(bundle, choice, in_flight=1) as session:
        whole = session.infer(frame[None])[0].copy()
    inner = open_session(bundle, choice, in_flight=2)
    with TiledSession(inner, tile[0], tile[1], geometry.halo, geometry.size_rule) as tiled:
        pieces = tiled.infer(frame[None])[0]
    return int(np.max(np.abs(whole.astype(np.int16) - pieces.astype(np.int16))))


def record(results: Sequence[VariantParity], bundle: Bundle, extra: dict[str, Any]) -> dict[str, Any]:
    """The content of ``parity.json``."""
    return {
        "format": 1,
        "bundle": bundle.manifest.name,
        **extra,
        "results": [
            {
                "variant": result.choice.variant,
                "sha256": bundle.manifest.artifacts[result.choice.variant].sha256,
                "backend": result.choice.backend,
                "precision": result.choice.precision,
                "engine": result.engine,
                **result.report.to_dict(),
            }
            for result in results
        ],
    }
