"""Find the first layer where an engine leaves the reference.

The reference is the fp32 graph in ONNX Runtime, node by node as it is written. Tensors of both graphs are marked as
outputs, as many at a time as memory allows, beginning at the input, and compared until one is too far away. Marking,
ONNX Runtime and TensorRT go through Polygraphy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto
from polygraphy.backend.onnx import modify_outputs
from polygraphy.backend.onnxrt import OnnxrtRunner
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from calib.collect import digest_of
from calib.graph import Index, copy_of
from calib.recipe import RECIPE_NAME, read_recipe
from calib.remedies import equalised
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.manifest import Port
from runtime.report import shortened, table
from runtime.sessions import Choice
from runtime.sessions.codes import CodeInputs, code_ports
from runtime.sessions.recurrent import recurrence_of

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
Shapes = Mapping[str, tuple[int, ...]]  # input's name -> its shape
Progress = Callable[[str], None]

#: dB that every tensor must keep, by precision: below what rounding alone costs the shipped nets, above broken layers.
TOLERANCE_DB = {"fp32": 60.0, "fp16": 45.0, "bf16": 20.0, "int8": 10.0}
SLICE_BYTES = 256 << 20  # 256 MiB of marked tensors at a time, in each of the two engines
MOST_DB = 200.0  # stands for "identical", which has no finite value; its negative for values that are not finite
AROUND = 4  # tensors shown on either side of the first one that is too far away
_COMPARED = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Difference:
    """One tensor of the candidate beside the reference's.

    ``snr_db``: power of the reference over that of the difference, -200 where the candidate is not finite. ``max_abs``:
    largest difference, in the tensor's own unit, None where it is not finite. ``source_db``: the lowest SNR among what
    ``node`` reads, None where that is the network's input.
    """

    tensor: str
    node: str
    op: str
    snr_db: float
    max_abs: float | None
    source_db: float | None


@dataclass(frozen=True)
class Bisection:
    """What was found. ``rows`` are in the order of the graph, as far as was compared.

    ``first``: the first row out of tolerance, None without one. ``between``: nodes in front of it whose results the
    candidate's graph does not have, so each of them may be to blame as well. ``missing``: tensors of the reference that
    were not compared for that reason. ``whole_db``: SNR of the network's outputs where no other tensor is marked, so
    with every layer fused that the engine fuses.
    """

    choice: Choice
    snr_db: float
    max_abs: float | None
    frames: int
    rows: tuple[Difference, ...]
    first: Difference | None
    between: tuple[str, ...]
    missing: tuple[str, ...]
    whole_db: float

    @property
    def passed(self) -> bool:
        return self.first is None and self.whole_db >= self.snr_db

    def lines(self) -> list[str]:
        """For people: the verdict, the layers around the first one that is too far away, and what was not compared."""
        where = f"{self.choice.variant} on {self.choice.backend} in {self.choice.precision}"
        wanted = f"{self.snr_db:g} dB" + (f" and max abs {self.max_abs:g}" if self.max_abs is not None else "")
        lines = [f"{where} against fp32 on onnxruntime, {self.frames} golden frames, tolerance {wanted}"]
        if self.first is not None:
            lines.append(f"first out of tolerance: {self.first.tensor}, made by {self.first.op} {self.first.node}")
            if self.between:
                lines.append(
                    f"or by {shortened(self.between, 8)} in front of it: the {self.choice.variant} graph does not have "
                    "their results"
                )
        elif not self.passed:
            lines.append(
                f"no layer is out of tolerance while its result can be seen, but the image is where none can "
                f"({self.whole_db:.1f} dB): the loss is in layers that {self.choice.backend} fuses"
            )
        else:
            lines.append("no layer is out of tolerance; the lowest are")
        head = ("tensor", "op", "node", "reads dB", "SNR dB", "max abs")
        lines.append(table(head, [self._cells(row) for row in self._around()], left=3))
        if self.missing:
            lines.append(f"not in the {self.choice.variant} graph: {shortened(self.missing, 8)}")
        return lines

    def _around(self) -> Sequence[Difference]:
        """The rows around the first one out of tolerance; without one the worst rows, in the order of the graph."""
        if self.first is not None:
            place = self.rows.index(self.first)
            return self.rows[max(0, place - AROUND) : place + AROUND + 1]
        worst = sorted(self.rows, key=lambda row: row.snr_db)[: 2 * AROUND + 1]
        return [row for row in self.rows if row in worst]

    def _cells(self, row: Difference) -> tuple[str, ...]:
        return (
            ("> " if row is self.first else "  ") + row.tensor,
            row.op,
            row.node,
            "-" if row.source_db is None else f"{row.source_db:.1f}",
            f"{row.snr_db:.1f}",
            "not finite" if row.max_abs is None else f"{row.max_abs:.4g}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {**asdict(self), "passed": self.passed}


def bisect(
    bundle: Bundle,
    choice: Choice,
    *,
    snr_db: float | None = None,
    max_abs: float | None = None,
    progress: Progress = lambda text: None,
) -> Bisection:
    """Compare the tensors of a bundle's variant on an engine with the reference, from the input on.

    Frames are those golden ones that have the first one's size; a generator with a state gets the reference's states in
    both. Tensors are matched by name: variants keep the names of what they are derived from. Of INT8 variants the
    reference is equalised as the bundle's recipe says, so its channels have the ranges of the variant's.

    Args:
        snr_db: the SNR in dB that a tensor must reach, by default ``TOLERANCE_DB`` of the precision.
        max_abs: the difference that it must not exceed, in its own unit; not looked at by default.

    Raises :class:`GenedgeError` where there is no golden frame, or an engine cannot run the graph.
    """
    least = TOLERANCE_DB[choice.precision] if snr_db is None else snr_db
    candidate = _typed(_parsed(bundle.read_model(choice.variant)))
    reference = _typed(_reference(bundle, choice.variant))
    own = [port.name for port in reference.graph.output]
    progress("states of the reference")
    feeds = _feeds(bundle, reference)
    shapes = {name: array.shape for name, array in feeds[0].items()}
    progress(f"{choice.variant} on {choice.backend} in {choice.precision}, as it ships")
    wanted, known = _tensors(reference), set(_tensors(candidate))
    images = [name for name in wanted if name in own]
    whole = _compare(bundle, choice, reference, candidate, images, feeds, progress)
    common = [name for name in wanted if name in known]
    index = Index(reference.graph)
    rows: dict[str, Difference] = {}
    first = None
    for names in _slices(reference, common, shapes):
        progress(f"comparing {names[0]} to {names[-1]}, {len(rows) + len(names)} of {len(common)} tensors")
        for name, sums in _compare(bundle, choice, reference, candidate, names, feeds, progress).items():
            node, source, _ = _behind(index, name, rows)
            rows[name] = row = Difference(name, node.name or name, node.op_type, sums.snr_db, sums.max_abs, source)
            far = row.max_abs is None or (max_abs is not None and row.max_abs > max_abs) or row.snr_db < least
            first = row if far and first is None else first
        if first is not None:
            break
    return Bisection(
        choice,
        least,
        max_abs,
        len(feeds),
        tuple(rows.values()),
        first,
        _behind(index, first.tensor, rows)[2] if first is not None else (),
        tuple(name for name in wanted if name not in known),
        min(sums.snr_db for sums in whole.values()),
    )


class _Sums:
    """What is known of one tensor after some frames."""

    def __init__(self) -> None:
        self._signal = self._noise = self._largest = 0.0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        if reference.shape != candidate.shape:
            raise GenedgeError(f"the variant's tensors are of {candidate.shape}, those of fp32 of {reference.shape}")
        if not reference.size:
            return
        expected = reference.astype(np.float32)
        difference = candidate.astype(np.float32) - expected
        self._signal += float(np.sum(np.square(expected, dtype=np.float64)))
        self._noise += float(np.sum(np.square(difference, dtype=np.float64)))  # not finite where a value is not
        self._largest = max(self._largest, float(np.max(np.abs(difference), initial=0)))

    @property
    def snr_db(self) -> float:
        if not math.isfinite(self._noise):
            return -MOST_DB
        if not self._noise:
            return MOST_DB
        if not self._signal:
            return -MOST_DB
        return float(np.clip(10 * math.log10(self._signal / self._noise), -MOST_DB, MOST_DB))

    @property
    def max_abs(self) -> float | None:
        return self._largest if math.isfinite(self._noise) else None


def _compare(
    bundle: Bundle,
    choice: Choice,
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    names: Sequence[str],
    feeds: Sequence[Arrays],
    progress: Progress,
) -> dict[str, _Sums]:
    """Run all ``feeds`` with the tensors ``names`` marked in both graphs; only one frame's tensors are held at once."""
    sums = {name: _Sums() for name in names}
    with ExitStack() as stack:
        stack.enter_context(G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1))  # it talks on standard output
        try:
            expected = _plain(_marked(reference, names), stack)
            engine = _engine(_marked(candidate, names), bundle, choice, feeds[0], stack, progress)
            for feed in feeds:
                left, right = expected(feed), engine(feed)
                for name, each in sums.items():
                    each.add(left[name], right[name])
        except PolygraphyException as error:
            raise GenedgeError(f"{choice.backend} cannot run the graph with marked tensors: {_line(error)}") from None
    return sums


def _marked(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The ONNX file with more outputs; its own ones stay, so that the engine does not leave out what is behind them."""
    own = [port.name for port in model.graph.output]
    marked: onnx.ModelProto = modify_outputs(copy_of(model), outputs=[*dict.fromkeys((*own, *names))])
    data: bytes = marked.SerializeToString()
    return data


def _engine(model: bytes, bundle: Bundle, choice: Choice, feed: Arrays, stack: ExitStack, progress: Progress) -> Run:
    """The candidate's engine, for inputs of the shapes in ``feed``."""
    if choice.backend == "onnxruntime":
        return _onnxruntime(model, choice, stack)
    shapes = {name: array.shape for name, array in feed.items()}
    if choice.backend == "tensorrt":
        return _tensorrt(model, choice.precision, shapes, stack, progress)
    return _openvino(model, choice, bundle.manifest.artifacts[choice.variant].float_precision, shapes)


def _plain(model: bytes, stack: ExitStack) -> Run:
    """The reference: ONNX Runtime on the CPU, every node as it is written, without fusions."""
    from runtime.sessions.onnxruntime import module

    engine = module()
    options = engine.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = engine.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the bindings raise half a dozen unrelated classes
        raise GenedgeError(f"ONNX Runtime cannot run the graph with marked tensors: {_line(error)}") from None
    run: Run = stack.enter_context(OnnxrtRunner(session)).infer
    return run


def _onnxruntime(model: bytes, choice: Choice, stack: ExitStack) -> Run:
    """As it ships, on a GPU where it reaches one."""
    from runtime.sessions.onnxruntime import load

    session, _ = load(model, choice.variant, choice.precision, 0)
    run: Run = stack.enter_context(OnnxrtRunner(session)).infer
    return run


def _tensorrt(model: bytes, precision: str, shapes: Shapes, stack: ExitStack, progress: Progress) -> Run:
    """Built as the engines that ship are."""
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    from runtime.engines.build import build_plan
    from runtime.engines.facts import device_facts
    from runtime.engines.settings import EngineSettings

    inputs = {name: (shape, shape, shape) for name, shape in shapes.items()}
    plan = build_plan(model, inputs, precision, device_facts(), EngineSettings(), progress=progress)
    run: Run = stack.enter_context(TrtRunner(EngineFromBytes(plan))).infer
    return run


def _openvino(model: bytes, choice: Choice, float_precision: str, shapes: Shapes) -> Run:
    from runtime.sessions.openvino import compiled_for, hint_of

    compiled = compiled_for(model, choice.variant, shapes, hint_of(choice.precision, float_precision))
    request = compiled.create_infer_request()

    def run(inputs: Arrays) -> Arrays:
        request.infer(dict(inputs))
        return {name: request.get_tensor(port).data for port in compiled.outputs for name in port.names}

    return run


def _parsed(data: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(data)
    except Exception:  # protobuf's DecodeError, whose module has no types
        raise GenedgeError("not an ONNX model: build the bundle again") from None


def _reference(bundle: Bundle, variant: str) -> onnx.ModelProto:
    """The fp32 graph, its channels divided as those of the variant are, which changes no output."""
    model = _parsed(bundle.read_model("fp32"))
    recipe = bundle.folder / RECIPE_NAME
    if variant.startswith("int8") and recipe.exists():
        return equalised(model, read_recipe(recipe, digest_of(model)).equalisation)
    return model


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the type of every tensor in ``value_info``, of the outputs too: marking takes types from there."""
    inferred = onnx.shape_inference.infer_shapes(model)
    inferred.graph.value_info.extend(inferred.graph.output)
    return inferred


def _tensors(model: onnx.ModelProto) -> list[str]:
    """Floating-point results of nodes, and the graph's images, in the order of the nodes. Constants are none."""
    kinds = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    images = {port.name for port in model.graph.output if kinds[port.name] == TensorProto.UINT8}
    fixed = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.input and all(name in fixed for name in node.input):  # weights behind a pair, for example
            fixed.update(node.output)
            continue
        found += [name for name in node.output if name and (kinds.get(name) in _COMPARED or name in images)]
    return found


def _behind(
    index: Index, tensor: str, rows: Mapping[str, Difference]
) -> tuple[NodeProto, float | None, tuple[str, ...]]:
    """The node that makes a tensor, the lowest SNR among the compared tensors that it is made of, and the nodes between
    these and it."""
    maker = index.producer[tensor]
    lowest, between, waiting = None, [], [*maker.input]
    seen = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in index.producer:
            continue
        seen.add(name)
        if name in rows:
            lowest = rows[name].snr_db if lowest is None else min(lowest, rows[name].snr_db)
            continue
        node = index.producer[name]
        between.append(f"{node.op_type} {node.name or name}")
        waiting += node.input
    return maker, lowest, tuple(dict.fromkeys(reversed(between)))


def _slices(model: onnx.ModelProto, names: Sequence[str], shapes: Shapes) -> Iterator[list[str]]:
    """``names`` in pieces of at most ``SLICE_BYTES``; a tensor of unknown size has a piece of its own."""
    sized = copy_of(model)
    for port in sized.graph.input:
        for dimension, side in zip(port.type.tensor_type.shape.dim, shapes[port.name], strict=True):
            dimension.dim_value = side
    sized.graph.ClearField("value_info")
    for port in sized.graph.output:
        port.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    sizes = {info.name: _bytes(info) for info in (*graph.value_info, *graph.output)}
    piece: list[str] = []
    room = SLICE_BYTES
    for name in names:
        size = sizes.get(name, SLICE_BYTES)
        if piece and size > room:
            yield piece
            piece, room = [], SLICE_BYTES
        piece.append(name)
        room -= size
    if piece:
        yield piece


def _bytes(info: onnx.ValueInfoProto) -> int:
    """Of a tensor in float32, ``SLICE_BYTES`` where a side is not known."""
    kind = info.type.tensor_type
    if not kind.HasField("shape") or not all(dimension.HasField("dim_value") for dimension in kind.shape.dim):
        return SLICE_BYTES
    return 4 * math.prod(int(dimension.dim_value) for dimension in kind.shape.dim)


def _feeds(bundle: Bundle, reference: onnx.ModelProto) -> list[dict[str, NDArray[Any]]]:
    """The inputs for each golden frame of the first one's size. A generator with a state gets what the reference left
    of the frame before, since all golden frames are one run then."""
    manifest = bundle.manifest
    recurrence = recurrence_of(manifest)
    codes = CodeInputs.of(code_ports(manifest))
    frames = [frame[None] for frame, _ in bundle.golden_frames()]
    if not frames:
        raise GenedgeError(f"{bundle.folder} holds no golden frames to compare on: build it again")
    feeds: list[dict[str, NDArray[Any]]] = []
    carry: dict[str, NDArray[Any]] = {}
    with ExitStack() as stack:
        step = _plain(_marked(reference, ()), stack) if recurrence is not None else None
        for frame, golden in zip(frames, manifest.golden, strict=True):
            if frame.shape != frames[0].shape:
                continue
            codes.replace(golden.codes)
            feed: dict[str, NDArray[Any]] = {manifest.frame.name: frame, **codes.arrays(frame.shape)}
            if recurrence is not None and step is not None:
                shapes = recurrence.shapes(frame.shape)
                for port in recurrence.states:
                    feed[port.name] = carry[port.name] if carry else _initial(port, shapes[port.name], frame)
                outputs = {**feed, **step(feed)}
                carry = {port.name: outputs[str(port.source)] for port in recurrence.states}
            feeds.append(feed)
    return feeds


def _initial(port: Port, shape: tuple[int, ...], frame: NDArray[Any]) -> NDArray[Any]:
    return frame if port.initial == "frame" else np.zeros(shape, port.dtype)


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
