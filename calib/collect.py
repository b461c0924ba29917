"""Run frames through the float graph once and record every tensor that a quantiser may ask about.

The reductions run inside the engine: each tensor leaves it as three numbers a channel (smallest, largest, mean, over
all its values) and as a sample for the histogram. So a pass costs little more than plain inference, and no activation
is kept.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from calib.feeds import Feeds
from calib.graph import copy_of, replace_nodes
from calib.layers import Layer, layers_of
from calib.observers import Histogram
from runtime.errors import GenedgeError, MissingExtraError
from runtime.folder import user_cache

SAMPLE = 1 << 18  # values of a tensor that are counted for one frame, at least; smaller tensors are counted whole
WIDEST = 8  # rows or columns from one that is counted to the next, at most: 64 frames then cover every pixel
SAVE_EVERY = 20.0  # seconds between two savings of an unfinished pass
STEP = "calib.step"  # input of the graph with reductions: int64 (1,), the number of the step

Progress = Callable[[str], None]


@dataclass
class TensorRecord:
    """What is known of one tensor: the histogram of a sample, and extremes and mean of all values in each channel."""

    histogram: Histogram = field(default_factory=Histogram)
    lowest: NDArray[np.float64] | None = None
    highest: NDArray[np.float64] | None = None
    mean: NDArray[np.float64] | None = None  # running mean over the frames, each with the weight of its pixels
    weight: float = 0.0

    def add(self, low: NDArray[Any], high: NDArray[Any], mean: NDArray[Any], sample: NDArray[Any], pixels: int) -> None:
        low, high, mean = (np.asarray(values, dtype=np.float64) for values in (low, high, mean))
        if self.lowest is None or self.highest is None or self.mean is None:
            self.lowest, self.highest, self.mean, self.weight = low, high, mean, float(pixels)
        else:
            self.lowest, self.highest = np.minimum(self.lowest, low), np.maximum(self.highest, high)
            self.weight += pixels
            self.mean = self.mean + (mean - self.mean) * (pixels / self.weight)
        self.histogram.add(sample, float(low.min()), float(high.max()))


@dataclass
class Statistics:
    """The records of all tensors after ``steps`` frames."""

    tensors: dict[str, TensorRecord]
    steps: int = 0

    def save(self, path: Path, key: str) -> None:
        """Write to ``path`` in one rename, so that a reader never sees half of it."""
        arrays: dict[str, NDArray[Any]] = {
            "key": np.array(key),
            "steps": np.array(self.steps),
            "names": np.array(list(self.tensors), dtype=np.str_),
            "weights": np.array([record.weight for record in self.tensors.values()]),
        }
        for number, record in enumerate(self.tensors.values()):
            if record.lowest is None or record.highest is None or record.mean is None:
                continue
            arrays[f"{number}.channels"] = np.stack([record.lowest, record.highest, record.mean])
            arrays |= {f"{number}.{part}": value for part, value in record.histogram.to_arrays().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".calib-", suffix=".npz", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path, key: str) -> Statistics | None:
        """What :meth:`save` wrote under ``key``; None where there is nothing, something else, or a damaged file."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if str(arrays["key"]) != key:
                    return None
                tensors = {}
                for number, (name, weight) in enumerate(zip(arrays["names"], arrays["weights"], strict=True)):
                    record = tensors[str(name)] = TensorRecord(weight=float(weight))
                    if record.weight:
                        record.lowest, record.highest, record.mean = np.array(arrays[f"{number}.channels"])
                        parts = {part: np.array(arrays[f"{number}.{part}"]) for part in ("counts", "range")}
                        record.histogram = Histogram.from_arrays(parts)
                return cls(tensors, int(arrays["steps"]))
        except Exception:  # whatever a damaged file makes numpy, zipfile and zlib raise, it is measured again
            return None


def wanted_tensors(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Tensors whose range a variant may need: what feeds a layer, and what stands before and after its activation.

    The sum before a ReLU is left out, since the ReLU becomes part of the quantised layer.
    """
    names: dict[str, None] = {}
    for layer in layers:
        names[layer.source] = None
        if layer.activation != "Relu":
            names[layer.result] = None
        names[layer.activated] = None
    return tuple(names)


def collect(
    model: onnx.ModelProto,
    feeds: Feeds,
    *,
    threads: int = 0,
    cache: Path | None = None,
    progress: Progress = lambda text: None,
) -> Statistics:
    """Run all ``feeds`` through ``model`` (float32, frame graph) and record its tensors.

    Args:
        threads: of the engine, 0 lets it choose.
        cache: folder in which a pass is kept, finished or not, under the digest of graph and feeds. A finished one is
            read again, an unfinished one goes on where it was saved.

    Raises:
        GenedgeError: the graph has no layer to quantise, there is no frame, or values are not finite.
        MissingExtraError: ONNX Runtime is not installed.
    """
    layers = layers_of(model)
    if not layers:
        raise GenedgeError("the graph has no convolution with constant weights, so there is nothing to quantise")
    total = len(feeds)
    if not total:
        raise GenedgeError("there is no frame to calibrate with")
    names = wanted_tensors(layers)
    key = hashlib.sha256(f"3 {digest_of(model)} {feeds.identity} {' '.join(names)}".encode()).hexdigest()
    path = cache / f"{key}.npz" if cache is not None else None
    statistics = (Statistics.load(path, key) if path else None) or Statistics({name: TensorRecord() for name in names})
    if statistics.steps >= total:
        progress(f"ranges of {total} frames were measured before")
        return statistics
    if statistics.steps:
        progress(f"going on after frame {statistics.steps} of {total}")
    engine = _Engine(model, names, [rule.source for rule in feeds.states], threads)
    start = saved = time.monotonic()
    done = statistics.steps  # feeds know how to go on in the middle
    for step, feed in feeds.steps(skip=done):
        results = engine.run(feed.inputs, step)
        feed.accept(results)
        _record(statistics, names, results, layers)
        statistics.steps = step + 1
        now = time.monotonic()
        progress(f"calibrating, frame {step + 1} of {total}, {_left(now - start, step + 1 - done, total - step - 1)}")
        if path and now - saved >= SAVE_EVERY and feed.last_of_run:
            statistics.save(path, key)
            saved = now
    if path:
        statistics.save(path, key)
    return statistics


def digest_of(model: onnx.ModelProto) -> str:
    """SHA-256 of a model's bytes, in hexadecimal digits."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def default_cache() -> Path:
    """``$GENEDGE_CACHE``, else ``genedge`` in the user's cache folder."""
    if named := os.environ.get("GENEDGE_CACHE"):
        return Path(named) / "calib"
    return user_cache() / "calib"


def _left(seconds: float, done: int, remaining: int) -> str:
    return f"{seconds / max(1, done) * remaining:.0f} s left" if remaining else "done"


def _record(
    statistics: Statistics, names: Sequence[str], results: dict[str, NDArray[Any]], layers: Sequence[Layer]
) -> None:
    for name in names:
        low, high, mean = (results[f"{name}:{kind}"] for kind in ("low", "high", "mean"))
        if not (np.isfinite(low).all() and np.isfinite(high).all() and np.isfinite(mean).all()):
            makers = [f"{layer.name} makes" for layer in layers if name in (layer.result, layer.activated)]
            what = (makers or [f"{layer.name} reads" for layer in layers if name == layer.source])[0]
            raise GenedgeError(f"{what} values that are not finite (NaN or infinite): its ranges mean nothing")
        size = results[f"{name}:size"]
        pixels = int(np.prod(size[:1]) * np.prod(size[2:]))
        statistics.tensors[name].add(low, high, mean, results[f"{name}:sample"], pixels)


class _Engine:
    """ONNX Runtime on the graph with reductions of the wanted tensors as additional outputs."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], kept: Sequence[str], threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "cpu") from None
        augmented = with_reductions(model, names, kept)
        options = onnxruntime.SessionOptions()
        # in the order of the nodes, so that a tensor is reduced and freed before the next one is made
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.enable_mem_pattern = False  # frames may differ in size
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            augmented.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._names = [port.name for port in self._session.get_outputs()]
        self._inputs = {port.name for port in self._session.get_inputs()}

    def run(self, inputs: dict[str, NDArray[Any]], step: int) -> dict[str, NDArray[Any]]:
        """All outputs by name. Which rows and columns are sampled moves on with every step."""
        place = {STEP: np.array([step], dtype=np.int64)}
        values = self._session.run(self._names, {**inputs, **(place if STEP in self._inputs else {})})
        return dict(zip(self._names, values, strict=True))


def with_reductions(model: onnx.ModelProto, names: Sequence[str], kept: Sequence[str] = ()) -> onnx.ModelProto:
    """A graph that gives, for each tensor of ``names``, its ``:low``, ``:high`` and ``:mean`` per channel, its
    ``:size`` and a ``:sample`` of its values. Of its own outputs only those in ``kept`` are left.

    Every reduction stands right behind the node that makes the tensor. Images of more than :data:`SAMPLE` values are
    sampled in every n-th row and column, others go out whole; the input :data:`STEP` says which row and column is the
    first. Raises :class:`GenedgeError` for a tensor of unknown rank.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    ranks = {
        info.name: len(info.type.tensor_type.shape.dim)
        for info in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
        if info.type.tensor_type.HasField("shape")
    }
    result = copy_of(model)
    graph = result.graph
    outputs = [port for port in model.graph.output if port.name in kept]
    del graph.output[:]
    graph.output.extend(outputs)
    behind: dict[str, list[NodeProto]] = {}
    for name in names:
        rank = ranks.get(name)
        if rank is None or rank < 2:
            raise GenedgeError(f"the shape of {name} is not known, so its range cannot be measured")
        others = [axis for axis in range(rank) if axis != 1]
        nodes = []
        for kind, op in (("low", "ReduceMin"), ("high", "ReduceMax"), ("mean", "ReduceMean")):  # the mean shows any NaN
            nodes.append(helper.make_node(op, [name], [f"{name}:{kind}"], axes=others, keepdims=0))
            graph.output.append(helper.make_tensor_value_info(f"{name}:{kind}", TensorProto.FLOAT, [None]))
        nodes.append(helper.make_node("Shape", [name], [f"{name}:size"]))
        graph.output.append(helper.make_tensor_value_info(f"{name}:size", TensorProto.INT64, [None]))
        nodes += _sample(name) if rank == 4 else [helper.make_node("Identity", [name], [f"{name}:sample"])]
        graph.output.append(helper.make_tensor_value_info(f"{name}:sample", TensorProto.FLOAT, [None] * rank))
        behind[name] = nodes
    if any(ranks[name] == 4 for name in names):
        graph.input.append(helper.make_tensor_value_info(STEP, TensorProto.INT64, [1]))
        graph.initializer.extend(numpy_helper.from_array(value, f"calib.{name}") for name, value in _numbers().items())
    ordered = [extra for port in model.graph.input for extra in behind.get(port.name, [])]
    for node in model.graph.node:
        ordered.append(node)
        ordered += [extra for name in node.output for extra in behind.get(name, [])]
    replace_nodes(graph, ordered)
    return result


def _numbers() -> dict[str, NDArray[Any]]:
    """The constants that :func:`_sample` needs."""
    return {
        "sample": np.array([SAMPLE], dtype=np.float32),
        "least": np.array(1, dtype=np.float32),
        "most": np.array(WIDEST, dtype=np.float32),
        "axes": np.array([2, 3], dtype=np.int64),
        "ends": np.array([np.iinfo(np.int64).max] * 2, dtype=np.int64),
        "first": np.array([0], dtype=np.int64),
    }


def _sample(name: str) -> list[NodeProto]:
    """Nodes that take every n-th row and column of an image: n is the root of values / SAMPLE, at most WIDEST and at
    most the image's sides. Within n times n steps every pixel is taken once.
    """

    def node(op: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
        read = [f"{name}{item}" if item.startswith(":") else item for item in inputs.split()]
        return helper.make_node(op, read, [f"{name}{output}"], **attributes)

    return [
        node("ReduceProd", ":size", ":count", keepdims=1),
        node("Cast", ":count", ":float", to=TensorProto.FLOAT),
        node("Div", ":float calib.sample", ":ratio"),
        node("Sqrt", ":ratio", ":root"),
        node("Floor", ":root", ":whole"),
        node("Clip", ":whole calib.least calib.most", ":fit"),
        node("Cast", ":fit", ":every", to=TensorProto.INT64),
        node("Gather", ":size calib.axes", ":sides"),
        node("Min", ":sides :every", ":steps"),
        node("Gather", ":steps calib.first", ":rows"),
        node("Div", f"{STEP} :rows", ":turn"),
        node("Concat", f"{STEP} :turn", ":places", axis=0),
        node("Mod", ":places :steps", ":starts"),
        helper.make_node(
            "Slice", [name, f"{name}:starts", "calib.ends", "calib.axes", f"{name}:steps"], [f"{name}:sample"]
        ),
    ]
