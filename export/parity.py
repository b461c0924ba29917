"""Every variant against PyTorch, on real frames, through the very sessions that ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calib.dataset import CalibrationSet
from export.facts import cost_of
from export.frame_io import Codes, reference_pictures
from export.generators.base import LoadedGenerator
from runtime.bundle import Bundle
from runtime.engines.settings import DEFAULT_ENGINES, EngineOptions
from runtime.errors import GenedgeError
from runtime.frames import Frame, SizeRule
from runtime.manifest import Geometry
from runtime.metrics import ParityReport, compare
from runtime.sessions import BACKENDS, Choice, Session, available_backends, open_session, runnable
from runtime.tiles import TiledSession
from runtime.verify import limits_for

FRAME_SIZE = (144, 192)  # height, width; four photos' most detailed crops in this size
ODD_SIZE = (97, 131)  # a second size proves that free dimensions are free
HEAVY = 5e10  # multiply-accumulates for a frame of that size from which a net counts as heavy: 1 s on a core of 50 G/s
HEAVY_SIZE, HEAVY_ODD_SIZE, HEAVY_FRAMES = (72, 96), (49, 67), 4  # instead, for what would take more than four minutes
GOLDEN_FRAMES = 4
RUN_LENGTH = 6  # consecutive frames for a generator with a state, long enough for an error in it to add up
PANS = ((1, 2), (0, 3), (2, -1))  # pixels down and to the right from frame to frame, one for each run in turn
SEAM = 16  # pixels that a tile keeps between its halos, and that a frame has more than a tile, at least


@dataclass(frozen=True)
class Pair:
    """An input frame and what PyTorch makes of it. ``begins``: a generator with a state is reset before it.

    ``codes`` are the numbers of each condition, ``further`` the images that the net gives besides.
    """

    frame: Frame
    reference: Frame
    begins: bool = True
    codes: Codes = field(default_factory=dict)
    further: tuple[Frame, ...] = ()


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


def parity_frames(
    material: CalibrationSet, rule: SizeRule, shape: tuple[int, int] | None, *, heavy: bool = False
) -> list[Frame]:
    """Real frames for parity: eight of one size, then two of another where the graph takes any size.

    ``heavy``: half as many, and smaller ones.
    """
    if shape is not None:
        return list(material.crops(*shape, HEAVY_FRAMES if heavy else 8))
    size, odd, count = (HEAVY_SIZE, HEAVY_ODD_SIZE, HEAVY_FRAMES) if heavy else (FRAME_SIZE, ODD_SIZE, 8)
    frames = list(material.crops(*rule.padded(*size), count))
    return frames + list(material.crops(*rule.padded(*odd), count // 4))


def is_heavy(loaded: LoadedGenerator, shape: tuple[int, int] | None) -> bool:
    """Whether a frame takes more than ``HEAVY`` multiply-accumulates; what cannot be counted is taken for light."""
    try:
        return cost_of(loaded, *(shape or loaded.size_rule.padded(*FRAME_SIZE))).macs > HEAVY
    except Exception:  # tensors without values stop many an operation that looks at them, each in its own way
        return False


def codes_of(loaded: LoadedGenerator, count: int) -> list[Codes]:
    """A code for each of ``count`` frames: the default first, then others that the conditions' rules allow."""
    draw = np.random.default_rng(0)
    return [
        {
            condition.name: np.asarray(condition.code.default, np.float32) if index == 0 else condition.code.drawn(draw)
            for condition in loaded.conditions
        }
        for index in range(count)
    ]


def reference_pairs(loaded: LoadedGenerator, frames: Sequence[Frame], progress: Callable[[str], None]) -> list[Pair]:
    """PyTorch's output for every frame, each with a code of its own where the generator has conditions."""
    pairs = []
    for index, (frame, codes) in enumerate(zip(frames, codes_of(loaded, len(frames)), strict=True)):
        progress(f"PyTorch reference, frame {index + 1} of {len(frames)}")
        pairs += _pairs(loaded, [frame], codes)
    return pairs


def _pairs(loaded: LoadedGenerator, run: Sequence[Frame], codes: Codes) -> list[Pair]:
    """The pairs of consecutive frames, which share their codes."""
    pictures = reference_pictures(loaded, run, [codes] * len(run))
    return [
        Pair(frame, first, place == 0, codes, tuple(further))
        for place, (frame, (first, *further)) in enumerate(zip(run, pictures, strict=True))
    ]


def parity_runs(
    material: CalibrationSet, rule: SizeRule, shape: tuple[int, int] | None, *, heavy: bool = False
) -> list[list[Frame]]:
    """Consecutive frames for a generator with a state: three runs of one size, then one of another; smaller ones for a
    ``heavy`` net.

    There is no video at hand, so each run is a pan over a photo: a window that moves by whole pixels (``PANS``), which
    is honest motion of real content without any interpolation. What it lacks is what else a camera sees: things that
    move apart from each other, noise that changes, cuts.
    """
    size, odd = (HEAVY_SIZE, HEAVY_ODD_SIZE) if heavy else (FRAME_SIZE, ODD_SIZE)
    sizes = [rule.padded(*size)] * 3 + [rule.padded(*odd)] if shape is None else [shape] * 4
    runs = []
    for index, (height, width) in enumerate(sizes):
        down, right = PANS[index % len(PANS)]
        room = (height + abs(down) * (RUN_LENGTH - 1), width + abs(right) * (RUN_LENGTH - 1))
        photo = list(material.crops(*room, index + 1))[index]
        top, left = (
            0 if step >= 0 else side - size
            for step, side, size in zip((down, right), room, (height, width), strict=True)
        )
        runs.append(
            [
                np.ascontiguousarray(
                    photo[top + down * t : top + down * t + height, left + right * t : left + right * t + width]
                )
                for t in range(RUN_LENGTH)
            ]
        )
    return runs


def parity_pairs(
    loaded: LoadedGenerator,
    material: CalibrationSet,
    shape: tuple[int, int] | None,
    progress: Callable[[str], None],
) -> list[Pair]:
    """The frames of :func:`parity_frames`, or of :func:`parity_runs` for a generator with a state, with references."""
    heavy = is_heavy(loaded, shape)
    if not loaded.states:
        frames = parity_frames(material, loaded.size_rule, shape, heavy=heavy)
        return reference_pairs(loaded, frames, progress)
    runs = parity_runs(material, loaded.size_rule, shape, heavy=heavy)
    pairs = []
    for index, (run, codes) in enumerate(zip(runs, codes_of(loaded, len(runs)), strict=True)):
        progress(f"PyTorch reference, run {index + 1} of {len(runs)}, {len(run)} frames")
        pairs += _pairs(loaded, run, codes)
    return pairs


def golden_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs that go into the bundle: some from all over the list, or the beginning of its first run."""
    if all(pair.begins for pair in pairs):
        count = min(GOLDEN_FRAMES, len(pairs))
        return [pairs[round(index * (len(pairs) - 1) / max(1, count - 1))] for index in range(count)]
    length = next((index for index, pair in enumerate(pairs) if index and pair.begins), len(pairs))
    return list(pairs[: min(GOLDEN_FRAMES, length)])


def reference_of(pairs: Sequence[Pair], place: int) -> Frame:
    """What the output number ``place`` of :func:`measure` was compared with: all first images, then further ones."""
    further, index = divmod(place, len(pairs))
    return pairs[index].further[further - 1] if further else pairs[index].reference


def _outputs(session: Session, pairs: Sequence[Pair]) -> list[Frame]:
    outputs = []
    for pair in pairs:
        if pair.begins:
            session.reset()
        for name, values in pair.codes.items():
            session.set_code(name, values)
        outputs.append(session.infer(pair.frame[None])[0].copy())
    return outputs


def measure(
    bundle: Bundle,
    pairs: Sequence[Pair],
    progress: Callable[[str], None],
    engines: EngineOptions | None = None,
) -> list[VariantParity]:
    """Run every variant on every engine of this machine and compare with PyTorch.

    ``engines`` are those of TensorRT; None leaves it out. Every image that the net gives counts. Raises
    :class:`GenedgeError` where a variant can run on no engine here.
    """
    results = []
    choices = [*choices_for(bundle, engines), *simulated(bundle)]
    engines = engines or DEFAULT_ENGINES
    for variant in bundle.manifest.artifacts:
        if not any(choice.variant == variant for choice in choices):
            raise GenedgeError(f'no engine here runs the {variant} variant: pip install "genedge[cpu]"')
    for choice in choices:
        progress(f"{choice.variant} on {choice.backend} in {choice.precision}")
        with open_session(bundle, choice, in_flight=1, engines=engines) as session:
            outputs = _outputs(session, pairs)
            engine = f"{choice.backend} on {session.info.device}"
        references = [pair.reference for pair in pairs]
        for place, image in enumerate(bundle.manifest.images[1:]):
            with open_session(bundle, choice, in_flight=1, image=image.name, engines=engines) as session:
                outputs += _outputs(session, pairs)
            references += [pair.further[place] for pair in pairs]
        report = compare(zip(references, outputs, strict=True), limits_for(bundle.manifest, choice))
        results.append(VariantParity(choice, report, outputs[report.worst_frame], engine))
    return results


def choices_for(bundle: Bundle, engines: EngineOptions | None) -> list[Choice]:
    """What a build measures: all that runs here; TensorRT, whose engines take long to build, where it is asked for."""
    return runnable(bundle, BACKENDS if engines is not None else tuple(name for name in BACKENDS if name != "tensorrt"))


def quickest_to_open(results: Sequence[VariantParity]) -> Choice:
    """A choice that needs no engine built for every size, where there is one."""
    return next((result.choice for result in results if result.choice.backend != "tensorrt"), results[0].choice)


def without_effect(bundle: Bundle, choice: Choice, pairs: Sequence[Pair]) -> list[str]:
    """Names of the conditions that change nothing: three codes give the same picture of the first frame, to one 8-bit
    step, which rounding alone can make.

    A net that normalises each batch by its own statistics loses what is constant over the batch, and then a code has
    no effect although parity with PyTorch is perfect.
    """
    draw = np.random.default_rng(1)
    idle = []
    with open_session(bundle, choice, in_flight=1) as session:
        for name, code in session.codes.items():
            pictures = []
            for values in (np.asarray(code.default, np.float32), code.drawn(draw), code.drawn(draw)):
                session.reset()
                session.set_codes({name: values})
                pictures.append(session.infer(pairs[0].frame[None]).astype(np.int16))
            if max(int(np.max(np.abs(other - pictures[0]))) for other in pictures[1:]) <= 1:
                idle.append(name)
    return idle


def simulated(bundle: Bundle) -> list[Choice]:
    """Artifacts for engines that this version does not run yet: measured in ONNX Runtime, which computes the same."""
    if "int8-strong" not in bundle.manifest.artifacts or "onnxruntime" not in available_backends():
        return []
    return [Choice("onnxruntime", "int8", "int8-strong", "simulated")]


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

    Codes have their default, but maps differ from place to place: the halo is measured with frames, and a net may look
    farther around it in a map.

    The frame must be larger than a tile, see :func:`tile_frame`; else there would be no seam to look at.
    """
    geometry = bundle.manifest.geometry
    height, width = frame.shape[:2]
    tile = tile_size(geometry, height, width)
    if tile[0] >= height and tile[1] >= width:
        raise ValueError(f"a frame of {width}x{height} pixels has no seam between tiles of {tile[1]}x{tile[0]}")
    draw = np.random.default_rng(2)
    codes = {
        port.name: port.code.drawn_map(draw, height, width)
        for port in bundle.manifest.codes
        if port.is_map and port.code is not None
    }
    with open_session(bundle, choice, in_flight=1) as session:
        session.set_codes(codes)
        whole = session.infer(frame[None])[0].copy()
    inner = open_session(bundle, choice, in_flight=2)
    with TiledSession(inner, tile[0], tile[1], geometry.halo, geometry.size_rule) as tiled:
        tiled.set_codes(codes)
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
