"""From a float graph and calibration material to INT8 graphs within a budget."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import onnx

from calib.collect import Progress, Statistics, collect, default_cache, digest_of
from calib.dataset import HOW_TO_MAKE, CalibrationSet
from calib.feeds import Feeds, StateRule, code_rules
from calib.layers import layers_of
from calib.observers import Max, Mse, Observer, Percentile, Range, observer_named
from calib.qdq import Int8Ort, Int8Qdq
from calib.recipe import Recipe, VariantRecipe, ranges_for
from calib.remedies import equalisation, equalised
from calib.sensitivity import Budget, Form, Judge, Play, Search, about_as_good, goodness, ort_form, qdq_form, search
from calib.truth import contrast_of, hardened, reduced
from runtime.errors import GenedgeError, UsageError
from runtime.frames import Frame
from runtime.manifest import Artifact, Manifest, Port
from runtime.sessions import Choice, available_backends, session_for

JUDGE_FRAMES = 12  # frames that losses are measured on
JUDGE_RUNS, JUDGE_RUN = 2, 12  # for recurrent nets: runs, and frames of each
JUDGE_SIDE = 256  # pixels of their longer side at most; of the ground truth where there is one
LEAST_SIDE = 32  # pixels of a reduced frame; smaller ones are nearly all border
EQUALISE_FRAMES = 16  # frames that the channels' ranges are first measured on
FEW_FRAMES = 4
HEADROOM = 0.65  # of the budget against ground truth; on Set5, SPAN lost 1.55 times what it lost on frames of clips
BF16_SHARE = 0.25  # of the budget, that bfloat16 alone may take

AUTOMATIC: Mapping[str, Observer] = {  # those that clip less come first
    "max": Max(),
    "percentile:99.9999": Percentile(99.9999),
    "percentile": Percentile(),
    "mse": Mse(),
}
HARDENED_BY = (2, 4)  # reductions that the frames get in turn; together they add a sixth of the pixels
LEAST_HARDENED = 64  # pixels of a hardened frame's shorter side; where a reduction leaves less, a smaller one is taken
ENGINE_OF = {"int8": "openvino", "int8-ort": "onnxruntime"}  # which engine runs a variant, and so judges it


@dataclass(frozen=True)
class Int8Config:
    """What the user asks of INT8.

    ``material``: calibration sets, folders or pictures. ``observer``: a name for :func:`observer_named`, or ``auto``
    for the one that loses least. ``equalise``: bring the channels of a tensor to similar ranges first. ``hardened``:
    measure on hardened frames as well (:func:`calib.truth.hardened`).
    ``bias_correction``: None takes it where less is lost with it. ``float_layers``: layers that stay in float in any
    case, by name, or ``first`` and ``last``. ``keep_slow``: keep variants that are not faster here, for another device.
    ``cache``: folder for measured ranges, None for :func:`default_cache`. Raises :class:`UsageError` for an unknown
    observer.
    """

    material: tuple[Path, ...]
    budget: Budget = field(default_factory=Budget)
    observer: str = "auto"
    equalise: bool = True
    hardened: bool = True
    bias_correction: bool | None = None  # None: where it loses less
    float_layers: tuple[str, ...] = ()
    keep_slow: bool = False
    threads: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.observer != "auto":
            observer_named(self.observer)

    @property
    def observers(self) -> Mapping[str, Observer]:
        return AUTOMATIC if self.observer == "auto" else {self.observer: observer_named(self.observer)}


@dataclass(frozen=True)
class Clips:
    """What losses are measured on: ``begins[i]`` says that a state is reset before frame ``i``."""

    inputs: tuple[Frame, ...]
    begins: tuple[bool, ...]
    truth: tuple[Frame, ...] | None

    @property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        starts = [index for index, begins in enumerate(self.begins) if begins]
        return tuple(tuple(range(a, b)) for a, b in zip(starts, [*starts[1:], len(self.begins)], strict=True))


@dataclass(frozen=True)
class Prepared:
    """A graph whose tensors have been measured. ``model`` is equalised; it computes what ``original`` does."""

    original: onnx.ModelProto
    model: onnx.ModelProto
    manifest: Manifest
    material: CalibrationSet
    clips: Clips
    equalisation: Mapping[str, list[float]]
    statistics: Statistics
    config: Int8Config

    @cached_property
    def tables(self) -> dict[str, dict[str, Range]]:
        return {
            name: {tensor: observer.range_of(record.histogram) for tensor, record in self.statistics.tensors.items()}
            for name, observer in self.config.observers.items()
        }

    @cached_property
    def means(self) -> dict[str, list[float]]:
        records = self.statistics.tensors.items()
        return {name: [float(v) for v in record.mean] for name, record in records if record.mean is not None}

    @cached_property
    def always_float(self) -> tuple[str, ...]:
        return named_layers(self.model, self.config.float_layers)


@dataclass(frozen=True)
class Quantised:
    """INT8 graphs, how they were found, and what has to be written down."""

    models: Mapping[str, onnx.ModelProto]
    float_layers: Mapping[str, tuple[str, ...]]
    searches: Mapping[str, Search]
    missed: Mapping[str, str]  # variant -> why it could not be made
    recipe: Recipe
    notes: tuple[str, ...] = ()


def quantised(
    model: onnx.ModelProto,
    manifest: Manifest,
    config: Int8Config,
    variants: Sequence[str] = ("int8", "int8-ort"),
    progress: Progress = lambda text: None,
) -> Quantised:
    """Calibrate ``model`` (canonical, float32) and find, for each variant, the fewest layers in float for the budget.

    Raises:
        UsageError: the material is missing or does not fit the model.
        GenedgeError: the graph cannot be quantised at all.
    """
    prepared = prepare(model, manifest, config, progress)
    models, layers, searches, missed = {}, {}, {}, {}
    recipes: dict[str, VariantRecipe] = {}
    for variant in variants:
        try:
            found, decided = search_variant(prepared, variant, progress)
        except GenedgeError as error:
            missed[variant] = str(error)
            continue
        searches[variant] = found
        if not found.met:
            missed[variant] = (
                f"no choice of float layers meets the budget of {config.budget}; the best, with "
                f"{len(found.best.float_layers)} of {len({*found.layers, *prepared.always_float})} layers in float, "
                f"{_told(found)}"
            )
            continue
        models[variant], layers[variant], recipes[variant] = found.model, found.best.float_layers, decided
    described = {
        "digest": prepared.material.digest,
        "source": source_of(prepared.config.material),
        "frames": len(prepared.material),
        "judged_on": len(prepared.clips.inputs),
        "ground_truth": prepared.clips.truth is not None,
    }
    recipe = Recipe(
        graph=digest_of(model),
        material=described,
        equalisation=prepared.equalisation,
        ranges={name: prepared.tables[name] for name in {entry.observer for entry in recipes.values()}},
        means=prepared.means if any(entry.bias_correction for entry in recipes.values()) else {},
        variants=recipes,
        search={variant: found.to_dict() for variant, found in searches.items()},
    )
    return Quantised(models, layers, searches, missed, recipe, _notes(prepared))


def from_recipe(model: onnx.ModelProto, recipe: Recipe, variants: Sequence[str]) -> dict[str, onnx.ModelProto]:
    """The INT8 graphs that a recipe describes, without any frame. Variants that it does not hold are left out."""
    base = equalised(model, recipe.equalisation)
    result = {}
    for variant in variants:
        if variant in recipe.variants:
            entry = recipe.variants[variant]
            form = form_of(variant, recipe.means if entry.bias_correction else None)
            result[variant] = form.build(base, ranges_for(recipe, variant), entry.float_layers)
    if not result:
        raise UsageError(f"the recipe holds none of {', '.join(variants)}")
    return result


def form_of(variant: str, means: Mapping[str, list[float]] | None, keep: tuple[str, ...] = ()) -> Form:
    """The form of ``int8`` or ``int8-ort``, with biases corrected where ``means`` are given."""
    if variant == "int8-ort":
        return ort_form(Int8Ort(keep), means)
    # ConvTranspose stays float: TensorRT 8 to 10, which read the same file, have wrong-result bugs there
    return qdq_form(Int8Qdq(keep, transposed=False), means)


def prepare(
    model: onnx.ModelProto, manifest: Manifest, config: Int8Config, progress: Progress = lambda text: None
) -> Prepared:
    """Check the material, equalise the graph, and measure its tensors. Raises as :func:`quantised`."""
    named_layers(model, config.float_layers)  # an unknown name shows before the long part
    material = checked_material(config.material, manifest, progress)
    clips = clips_of(material, manifest)
    feeds = _feeds(material, clips, manifest, hardened=config.hardened)
    cache = config.cache or default_cache()
    base, factors = model, {}
    if config.equalise:
        progress("measuring the channels' ranges")
        few = replace(feeds, runs=_spread(feeds.all_runs(), EQUALISE_FRAMES))
        factors = equalisation(model, collect(model, few, threads=config.threads, cache=cache, progress=progress))
        base = equalised(model, factors) if factors else model
    statistics = collect(base, feeds, threads=config.threads, cache=cache, progress=progress)
    return Prepared(model, base, manifest, material, clips, factors, statistics, config)


def checked_material(
    paths: Sequence[Path], manifest: Manifest, progress: Progress = lambda text: None
) -> CalibrationSet:
    """The frames under ``paths`` in sizes that the model takes. Raises :class:`UsageError` for what is of no use."""
    if not paths:
        raise UsageError(f"INT8 needs frames to calibrate with: {HOW_TO_MAKE}, then --calib SET")
    geometry = manifest.geometry
    material = CalibrationSet.from_paths(paths).fitting(
        geometry.size_rule, geometry.fixed_size, resizes=geometry.fit == "resize"
    )
    if manifest.states and all(len(run) < 2 for run in material.runs):
        raise UsageError(
            f"{material.source}: {manifest.name} is recurrent and needs runs of consecutive frames: "
            "python -m calib sample VIDEO -o SET --runs 8"
        )
    different, flat = set(), True
    for frame in material.frames:
        different.add(hashlib.sha256(frame.tobytes()).digest())
        flat = flat and bool(np.ptp(frame.reshape(-1, 3), axis=0).max() == 0)
    if flat:
        raise UsageError(f"{material.source}: every frame is one flat colour, which says nothing: {HOW_TO_MAKE}")
    if len(different) < FEW_FRAMES:
        progress(f"warning: only {len(different)} different frames, so the ranges will fit little else")
    return material


def clips_of(material: CalibrationSet, manifest: Manifest) -> Clips:
    """Frames from all over the material, every second one hardened; for super-resolution reduced ones, with themselves
    as the truth.

    A model of one fixed size takes no reduced frames, and frames that would be too small are not reduced either: there
    the float graph's output stands for the truth.
    """
    geometry = manifest.geometry
    recurrent = bool(manifest.states)
    runs = _spread(material.runs, JUDGE_RUNS if recurrent else JUDGE_FRAMES, whole=recurrent)
    scale = geometry.scale if manifest.task == "super-resolution" and geometry.fixed_size is None else 1
    step, least = geometry.size_rule.multiple * scale, max(LEAST_SIDE, geometry.size_rule.minimum)
    clips: list[list[Frame]] = []
    for number, run in enumerate(runs):
        harder = None
        clip = []
        for index in run[:JUDGE_RUN]:
            frame = material.frames[index]
            if number % 2:
                smallest = max(LEAST_HARDENED, least * scale)
                harder = harder or _Harder.of(frame, geometry.fixed_size is None, HARDENED_BY[:1], smallest)
                frame = harder(frame)
            clip.append(_middle(frame, step) if geometry.fixed_size is None else frame)
        clips.append(clip)
    clips.sort(key=lambda clip: clip[0].shape)  # an engine specialises itself anew whenever the size changes
    truth = tuple(frame for clip in clips for frame in clip)
    begins = tuple(place == 0 for clip in clips for place in range(len(clip)))
    if scale == 1 or any(min(frame.shape[:2]) < least * scale for frame in truth):
        return Clips(truth, begins, None)
    return Clips(tuple(reduced(frame, scale) for frame in truth), begins, truth)


@dataclass(frozen=True)
class _Harder:
    """How the frames of one run are hardened, all alike."""

    factor: int
    contrast: tuple[float, float]

    @classmethod
    def of(cls, frame: Frame, resizable: bool, factors: Sequence[int], least: int) -> _Harder:
        fitting = [factor for factor in factors if resizable and min(frame.shape[:2]) // factor >= least]
        return cls(fitting[0] if fitting else 1, contrast_of(frame))

    def __call__(self, frame: Frame) -> Frame:
        return hardened(frame, self.factor, self.contrast)


def player(manifest: Manifest, choice: Choice, clips: Clips, threads: int = 0) -> Play:
    """Runs a graph on the clips' inputs through the very session that ships.

    The first clip has the default codes, and each other one codes of its own, the same for every graph.
    """
    rules = code_rules(manifest)

    def play(model: onnx.ModelProto) -> list[Frame]:
        outputs: list[Frame] = []
        with session_for(model.SerializeToString(), manifest, choice, threads=threads, in_flight=1) as session:
            for frame, begins in zip(clips.inputs, clips.begins, strict=True):
                if begins:
                    session.reset()
                    seed, size = f"judged {len(outputs)}", frame.shape[:2]
                    session.set_codes({rule.name: rule.drawn(seed, *size) for rule in rules} if outputs else {})
                outputs.append(session.infer(frame[None])[0].copy())
        return outputs

    return play


def judging(prepared: Prepared, variant: str, float_precision: str = "fp32") -> tuple[Play, Judge]:
    """How a variant is run, and what judges it. Raises :class:`GenedgeError` where its engine is not installed.

    ``float_precision`` is what the layers that stay in float are computed in.
    """
    backend = ENGINE_OF[variant]
    if backend not in available_backends():
        raise GenedgeError(f'{variant} needs {backend} to be judged: pip install "genedge[cpu]"')
    threads = prepared.config.threads
    own = Artifact(f"model.{variant}.onnx", "", float_precision=float_precision)
    manifest = replace(prepared.manifest, artifacts={variant: own})
    play = player(manifest, Choice(backend, "int8", variant, "calibration"), prepared.clips, threads)
    reference = player(prepared.manifest, Choice(backend, "fp32", "fp32", "calibration"), prepared.clips, threads)
    scale = prepared.manifest.geometry.scale
    runs = prepared.clips.runs if prepared.manifest.states else ()  # without a state nothing can drift
    judge = Judge(reference(prepared.original), prepared.clips.truth, border=scale, runs=runs)
    return play, judge


def search_variant(prepared: Prepared, variant: str, progress: Progress) -> tuple[Search, VariantRecipe]:
    """Choose observer and bias correction with all layers in INT8, then search the layers to keep in float.

    Of choices that are about as good, the one that clips least is taken: content will come that no set has shown.
    """
    play, judge = judging(prepared, variant)
    floats = "bf16" if ENGINE_OF[variant] == "openvino" and _affords_bf16(prepared, judge) else "fp32"
    if floats != "fp32":
        progress(f"{variant}: what stays in float may be bf16")
        play, _ = judging(prepared, variant, floats)
    corrections = (True, False) if prepared.config.bias_correction is None else (prepared.config.bias_correction,)
    tried = []
    for name, ranges in prepared.tables.items():
        for corrected in corrections:
            progress(f"{variant}: {name}{', biases corrected' if corrected else ''}")
            form = form_of(variant, prepared.means if corrected else None, prepared.always_float)
            tried.append((judge.loss(play(form.build(prepared.model, ranges, ()))), name, corrected, form))
    best = max((loss for loss, *_ in tried), key=goodness)
    _, name, corrected, form = next(entry for entry in tried if about_as_good(entry[0], best))
    ranges, budget = prepared.tables[name], prepared.config.budget
    found = search(prepared.model, form, ranges, budget, play, judge, progress, HEADROOM)
    layers = tuple(dict.fromkeys((*prepared.always_float, *found.best.float_layers)))
    found = replace(found, best=replace(found.best, float_layers=layers))
    return found, VariantRecipe(name, layers, corrected, floats)


def _affords_bf16(prepared: Prepared, judge: Judge) -> bool:
    """Whether bfloat16 alone takes so little of the budget that the layers in float may as well be computed in it."""
    from runtime.sessions.openvino import has_bf16

    if not has_bf16():
        return False
    play = player(
        prepared.manifest, Choice("openvino", "bf16", "fp32", "calibration"), prepared.clips, prepared.config.threads
    )
    loss, budget = judge.loss(play(prepared.original)), prepared.config.budget
    if budget.delta_e is not None and loss.delta_e > budget.delta_e * BF16_SHARE:
        return False
    if loss.truth_db is not None:
        return loss.truth_db <= budget.db * BF16_SHARE
    return loss.psnr_db >= budget.psnr_db - 10 * math.log10(BF16_SHARE)


def source_of(paths: Sequence[Path]) -> str:
    """What a bundle says about its material: names without folders, which are nobody else's business."""
    return ", ".join(path.resolve().name for path in paths)


def named_layers(model: onnx.ModelProto, names: Sequence[str]) -> tuple[str, ...]:
    """Names of layers, where ``first`` and ``last`` stand for those. Raises :class:`UsageError` for an unknown one."""
    layers = [layer.name for layer in layers_of(model)]
    known = {"first": layers[:1], "last": layers[-1:], **{name: [name] for name in layers}}
    shown = ", ".join(layers[:8]) + ("…" if len(layers) > 8 else "")
    for name in names:
        if name not in known:
            raise UsageError(f"no layer is called {name!r}: use first, last, or one of {shown}")
    return tuple(dict.fromkeys(layer for name in names for layer in known[name]))


def _feeds(material: CalibrationSet, clips: Clips, manifest: Manifest, *, hardened: bool) -> Feeds:
    """The material, the same hardened, and what losses are measured on where that is reduced, and so sharper."""
    parts: list[Sequence[Frame]] = [material.frames]
    runs = list(material.runs)
    if hardened:
        parts.append(_Hardened(material, manifest))
        runs += [tuple(len(material) + index for index in run) for run in material.runs]
    if clips.truth is not None and hardened:
        start = sum(len(part) for part in parts)
        parts.append(clips.inputs)
        runs += [tuple(start + index for index in run) for run in clips.runs]
    states = tuple(_state_rule(port, manifest) for port in manifest.states)
    extra = hashlib.sha256(b"".join(frame.tobytes() for frame in clips.inputs)).hexdigest()
    key = hashlib.sha256(f"{material.digest} {material.size} {extra} {runs} {HARDENED_BY}".encode()).hexdigest()
    return Feeds(_Joined(parts), key, tuple(runs), states, code_rules(manifest), frame_input=manifest.frame.name)


def _state_rule(port: Port, manifest: Manifest) -> StateRule:
    """How calibration fills a state; the manifest says so, see ``runtime/MANIFEST.md``."""
    source, initial = str(port.source), str(port.initial)
    if source == manifest.frame.name or len(port.shape) != 4:  # the exporter writes no others
        return StateRule(port.name, source, initial)
    channels, height = port.shape[1], port.shape[2]
    scale = 1 if height == manifest.frame.shape[1] else manifest.geometry.scale
    return StateRule(port.name, source, initial, channels if isinstance(channels, int) else 0, scale)


def _spread(runs: Sequence[tuple[int, ...]], count: int, *, whole: bool = False) -> tuple[tuple[int, ...], ...]:
    """Runs from all over, up to ``count`` frames in all, or up to ``count`` runs where they stay ``whole``."""
    length = 1 if whole else max(1, len(runs[0]))
    wanted = max(1, min(len(runs), count // length))
    places = sorted({round(place) for place in np.linspace(0, len(runs) - 1, wanted)})
    return tuple(runs[place] for place in places)


def _middle(frame: Frame, step: int) -> Frame:
    """The middle of a frame, at most ``JUDGE_SIDE`` pixels a side and a multiple of ``step``."""
    height, width = (max(step, min(side, JUDGE_SIDE) // step * step) for side in frame.shape[:2])
    if height > frame.shape[0] or width > frame.shape[1]:
        return frame
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    return np.ascontiguousarray(frame[top : top + height, left : left + width])


def _told(found: Search) -> str:
    loss = found.best.loss
    truth = f"{loss.truth_db:.3f} dB from ground truth, " if loss.truth_db is not None else ""
    return f"loses {truth}{loss.psnr_db:.2f} dB PSNR against float, ΔE {loss.delta_e:.2f}"


def _notes(prepared: Prepared) -> tuple[str, ...]:
    material, clips = prepared.material, prepared.clips
    judged = "ground truth: frames reduced by the scale" if clips.truth is not None else "the float graph's output"
    return (
        f"INT8 was calibrated on {len(material)} frames of {source_of(prepared.config.material)} "
        f"and judged on {len(clips.inputs)} against {judged}.",
        *([f"Channels of {len(prepared.equalisation)} tensors were equalised."] if prepared.equalisation else []),
    )


class _Lazy(Sequence[Frame]):
    """A sequence of frames that are made when they are asked for."""

    @overload
    def __getitem__(self, place: int) -> Frame: ...
    @overload
    def __getitem__(self, place: slice) -> list[Frame]: ...
    def __getitem__(self, place: int | slice) -> Frame | list[Frame]:
        if isinstance(place, slice):
            return [self.frame(index) for index in range(*place.indices(len(self)))]
        return self.frame(range(len(self))[place])

    def frame(self, place: int) -> Frame:
        raise NotImplementedError


class _Joined(_Lazy):
    """Sequences of frames one behind the other."""

    def __init__(self, parts: Sequence[Sequence[Frame]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def frame(self, place: int) -> Frame:
        for part in self._parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError(place)


class _Hardened(_Lazy):
    """The frames of the material hardened, those of a run all alike, in sizes that the model takes."""

    def __init__(self, material: CalibrationSet, manifest: Manifest) -> None:
        self._frames = material.frames
        self._run_of = {index: number for number, run in enumerate(material.runs) for index in run}
        self._first = {number: run[0] for number, run in enumerate(material.runs)}
        self._rule, self._resizable = manifest.geometry.size_rule, manifest.geometry.fixed_size is None
        self._harder: tuple[int, _Harder] | None = None  # of the last run asked for

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, place: int) -> Frame:
        run = self._run_of[place]
        if self._harder is None or self._harder[0] != run:
            factors = HARDENED_BY if run % 2 == 0 else HARDENED_BY[::-1]
            least = max(LEAST_HARDENED, self._rule.minimum)
            self._harder = run, _Harder.of(self._frames[self._first[run]], self._resizable, factors, least)
        frame = self._harder[1](self._frames[place])
        if not self._resizable:
            return frame
        height, width = (side - side % self._rule.multiple for side in frame.shape[:2])
        return np.ascontiguousarray(frame[:height, :width])
