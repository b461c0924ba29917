"""Which layers INT8 hurts, and the smallest set of them kept in float that meets a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx

from calib.layers import Layer, layers_of
from calib.observers import Range
from calib.qdq import Int8Ort, Int8Qdq, ort_from_graph, qdq_from_graph
from calib.remedies import bias_corrected
from runtime.errors import GenedgeError
from runtime.frames import Frame
from runtime.metrics import decibels, delta_e_2000, lab, luma_bt601

Ranges = Mapping[str, Range]
Play = Callable[[onnx.ModelProto], Sequence[Frame]]  # a model's output for every frame of a judge, in order
Progress = Callable[[str], None]

UNSEEN = 1.0  # squared 8-bit steps
MAX_CURVE = 24  # points of the trade-off curve that are measured at most


@dataclass(frozen=True)
class Loss:
    """What a quantised graph loses, over all frames of a :class:`Judge`.

    ``drift_db`` is how much further from float the second half of each run is than the first, in dB; 0 without runs.
    ``psnr_db`` and ``delta_e`` (mean CIEDE2000) compare it with the float graph. ``truth_db`` is how many dB of luma
    PSNR (BT.601) it is further from the ground truth than the float graph, None where there is no truth: the mean over
    the frames, where a frame that happens to come closer counts as no loss, so that luck on one hides nothing. To the
    errors behind ``truth_db`` and ``drift_db`` ``UNSEEN`` is added: a frame that is right to within a step loses, and
    drifts by, decibels that nobody could see.
    """

    psnr_db: float
    delta_e: float
    truth_db: float | None = None
    drift_db: float = 0.0

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


@dataclass(frozen=True)
class Budget:
    """How much may be lost: ``db`` against ground truth; where there is none ``psnr_db`` must be kept against float.

    ``delta_e`` limits the mean colour difference (CIEDE2000) to float, None does not. A recurrent net may not drift
    away by more than ``drift_db``.
    """

    db: float = 0.1
    delta_e: float | None = None
    psnr_db: float = 40.0
    drift_db: float = 1.0

    def met(self, loss: Loss) -> bool:
        if (self.delta_e is not None and loss.delta_e > self.delta_e) or loss.drift_db > self.drift_db:
            return False
        return loss.truth_db <= self.db if loss.truth_db is not None else loss.psnr_db >= self.psnr_db

    def excess(self, loss: Loss) -> float:
        """How many times the budget a loss is, by the figure that is worst; errors against float as amplitudes."""
        own = 10 ** ((self.psnr_db - loss.psnr_db) / 20) if loss.truth_db is None else loss.truth_db / self.db
        colour = loss.delta_e / self.delta_e if self.delta_e is not None else 0.0
        return max(own, colour, loss.drift_db / self.drift_db)

    def __str__(self) -> str:
        colour = f" and ΔE {self.delta_e:g}" if self.delta_e is not None else ""
        return f"{self.db:g} dB against ground truth (without one: {self.psnr_db:g} dB PSNR against float){colour}"


class Judge:
    """Frames to compare on: the float graph's outputs, and the ground truth where there is one.

    Args:
        reference: the float graph's outputs, ``uint8 (H, W, 3) BGR``.
        truth: what they should have been, of the same shapes.
        border: pixels cut off each side before luma is compared with the truth.
        runs: indices of frames that follow each other, for recurrent nets.
    """

    def __init__(
        self,
        reference: Sequence[Frame],
        truth: Sequence[Frame] | None = None,
        border: int = 0,
        runs: Sequence[Sequence[int]] = (),
    ) -> None:
        if not reference:
            raise ValueError("no frame to judge with")
        self.reference = list(reference)
        self.border = border
        self._runs = [list(run) for run in runs if len(run) > 1]
        self._luma = [self._cut(luma_bt601(frame)) for frame in truth] if truth is not None else None
        self._own = [self._truth_psnr(index, frame) for index, frame in enumerate(reference)]
        self._lab = [lab(frame[::2, ::2]) for frame in reference]  # every fourth pixel tells the mean well enough

    def _cut(self, plane: np.ndarray) -> np.ndarray:
        b = self.border
        return plane[b:-b, b:-b] if b and min(plane.shape) > 2 * b else plane

    def _truth_psnr(self, index: int, frame: Frame) -> float:
        if self._luma is None:
            return 0.0
        return decibels(UNSEEN + float(np.mean((self._cut(luma_bt601(frame)) - self._luma[index]) ** 2)))

    def loss(self, outputs: Sequence[Frame]) -> Loss:
        """Raises ``ValueError`` for another number of frames or other shapes."""
        squares, values, colours, further = [], [], [], []
        for index, (reference, output) in enumerate(zip(self.reference, outputs, strict=True)):
            if reference.shape != output.shape:
                raise ValueError(f"frames of {reference.shape} and {output.shape} cannot be compared")
            difference = reference.astype(np.float32) - output
            squares.append(float(np.sum(difference * difference, dtype=np.float64)))
            values.append(difference.size)
            colours.append(float(delta_e_2000(self._lab[index], lab(output[::2, ::2])).mean()))
            if self._luma is not None:
                further.append(max(0.0, self._own[index] - self._truth_psnr(index, output)))
        psnr = decibels(sum(squares) / sum(values))
        further_db = float(np.mean(further)) if self._luma is not None else None
        return Loss(psnr, float(np.mean(colours)), further_db, self._drift(squares, values))

    def _drift(self, squares: Sequence[float], values: Sequence[int]) -> float:
        halves = [(run[: len(run) // 2], run[len(run) // 2 :]) for run in self._runs]
        if not halves:
            return 0.0
        early, late = (
            sum(squares[i] for part in parts for i in part) / sum(values[i] for part in parts for i in part)
            for parts in zip(*halves, strict=True)
        )
        return decibels(UNSEEN + early) - decibels(UNSEEN + late)


@dataclass(frozen=True)
class Form:
    """One INT8 variant: how it is built with layers kept in float, and which layers it can quantise."""

    variant: str
    build: Callable[[onnx.ModelProto, Ranges, tuple[str, ...]], onnx.ModelProto]
    quantises: Callable[[Layer], bool]


def qdq_form(settings: Int8Qdq | None = None, means: Mapping[str, list[float]] | None = None) -> Form:
    """The variant ``int8``. With ``means`` (of every channel of a tensor) biases are corrected."""
    settings = settings or Int8Qdq()

    def build(model: onnx.ModelProto, ranges: Ranges, keep: tuple[str, ...]) -> onnx.ModelProto:
        return qdq_from_graph(_corrected(model, means, settings.keeping(keep)), ranges, settings.keeping(keep))

    return Form("int8", build, settings.quantises)


def ort_form(settings: Int8Ort | None = None, means: Mapping[str, list[float]] | None = None) -> Form:
    """The variant ``int8-ort``. With ``means`` (of every channel of a tensor) biases are corrected."""
    settings = settings or Int8Ort()

    def build(model: onnx.ModelProto, ranges: Ranges, keep: tuple[str, ...]) -> onnx.ModelProto:
        return ort_from_graph(_corrected(model, means, settings.keeping(keep)), ranges, settings.keeping(keep))

    return Form("int8-ort", build, settings.quantises)


def _corrected(
    model: onnx.ModelProto, means: Mapping[str, list[float]] | None, settings: Int8Qdq | Int8Ort
) -> onnx.ModelProto:
    if means is None:
        return model
    return bias_corrected(model, means, {layer.name for layer in layers_of(model) if settings.quantises(layer)})


@dataclass(frozen=True)
class Damage:
    """What one layer does when it alone is INT8."""

    layer: Layer
    loss: Loss


@dataclass(frozen=True)
class Point:
    """One point of the trade-off curve: the layers kept in float, and the loss with them."""

    float_layers: tuple[str, ...]
    loss: Loss


@dataclass(frozen=True)
class Search:
    """What the search found: ``met`` says whether ``best`` is within the budget; ``curve`` starts with all in INT8."""

    best: Point
    met: bool
    curve: tuple[Point, ...]
    damages: tuple[Damage, ...]
    layers: tuple[str, ...]  # all that the form can quantise
    model: onnx.ModelProto

    def to_dict(self) -> dict[str, Any]:
        return {
            "met": self.met,
            "float_layers": list(self.best.float_layers),
            "loss": self.best.loss.to_dict(),
            "curve": [{"float_layers": len(point.float_layers), **point.loss.to_dict()} for point in self.curve],
            "alone": {damage.layer.name: damage.loss.to_dict() for damage in self.damages},
        }


def goodness(loss: Loss) -> float:
    """Larger where less is lost: against the truth in dB, without one in dB of PSNR against float."""
    return -loss.truth_db if loss.truth_db is not None else loss.psnr_db


def about_as_good(loss: Loss, best: Loss) -> bool:
    """Whether a loss exceeds another one by less than a choice of frames decides."""
    return goodness(best) - goodness(loss) <= (0.02 if best.truth_db is not None else 0.5)


def rank(
    model: onnx.ModelProto,
    form: Form,
    ranges: Ranges,
    play: Play,
    judge: Judge,
    progress: Progress = lambda text: None,
) -> tuple[Damage, ...]:
    """Every layer alone in INT8, all others float, the most harmful first: by what the budget counts, see
    :func:`goodness`."""
    layers = [layer for layer in layers_of(model) if form.quantises(layer)]
    damages = []
    for number, layer in enumerate(layers):
        progress(f"{form.variant}: layer {number + 1} of {len(layers)} alone")
        keep = tuple(other.name for other in layers if other is not layer)
        damages.append(Damage(layer, judge.loss(play(form.build(model, ranges, keep)))))
    return tuple(sorted(damages, key=lambda damage: (goodness(damage.loss), damage.loss.psnr_db)))


def search(
    model: onnx.ModelProto,
    form: Form,
    ranges: Ranges,
    budget: Budget,
    play: Play,
    judge: Judge,
    progress: Progress = lambda text: None,
    headroom: float = 1.0,
) -> Search:
    """Keep layers in float, the most harmful first, until the budget is met; then give back those it can do without.

    The result is minimal: none of the layers kept can become INT8 again within the budget. Where not even one layer
    left in INT8 meets it, ``met`` is False and ``best`` is the point that exceeds it least.

    ``headroom`` is the share of the budget in dB that is aimed at, since other frames may lose more than those judged
    on. Where that is out of reach, the whole budget counts.
    """
    aim = replace(budget, db=budget.db * headroom)
    tried: dict[frozenset[str], Loss] = {}  # no models: a hundred of a large net fill the memory

    def attempt(keep: Sequence[str]) -> Loss:
        key = frozenset(keep)
        if key not in tried:
            tried[key] = judge.loss(play(form.build(model, ranges, tuple(keep))))
        return tried[key]

    def found(keep: Sequence[str], met: bool) -> Search:
        ordered = tuple(name for name in names if name in keep)
        best = Point(ordered, attempt(ordered))
        return Search(best, met, tuple(curve), damages, names, form.build(model, ranges, ordered))

    layers = [layer for layer in layers_of(model) if form.quantises(layer)]
    if not layers:
        raise GenedgeError(f"no layer of the graph can be quantised as {form.variant}")
    names = tuple(layer.name for layer in layers)
    progress(f"{form.variant}: all {len(layers)} layers")
    curve = [Point((), attempt(()))]
    damages: tuple[Damage, ...] = ()
    if len(layers) > 1:
        damages = rank(model, form, ranges, play, judge, progress)
    order = [damage.layer.name for damage in damages]
    counts = sorted({round(place) for place in np.linspace(1, max(1, len(order) - 1), min(MAX_CURVE, len(order)))})
    for count in counts if len(order) > 1 else []:
        reached = [point for point in curve if aim.met(point.loss)]
        if len(reached) > 2:  # the curve beyond says nothing new
            break
        progress(f"{form.variant}: {count} of {len(layers)} layers in float")
        curve.append(Point(tuple(order[:count]), attempt(order[:count])))
    first = next((point for point in curve if aim.met(point.loss)), None)
    if first is None:
        aim = budget
        first = next((point for point in curve if aim.met(point.loss)), None)
    if first is None:
        best = min(curve, key=lambda point: budget.excess(point.loss))
        return found(best.float_layers, False)
    keep, before = list(first.float_layers), -1
    while len(keep) != before:  # what was needed at first may not be without another one: errors can cancel out
        before = len(keep)
        for name in reversed(tuple(keep)):  # the least harmful first
            without = [other for other in keep if other != name]
            if frozenset(without) not in tried:
                progress(f"{form.variant}: {name} back to INT8?")
            if aim.met(attempt(without)):
                keep = without
    return found(keep, True)
