"""INT8 against the other precisions, the other engine and PyTorch, one frame at a time, in turns."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from benchmarks import common
from benchmarks.int8.material import Int8Bundle, choice_of, fitted
from benchmarks.int8.report import Report
from benchmarks.int8.rounds import Run, Times, Watch, ratio, ratios, take_turns
from benchmarks.nets import Net
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.sessions import runnable

if TYPE_CHECKING:
    import torch

    from export.generators.base import LoadedGenerator

SIZE = (360, 640)  # height, width of the input, pixels
SMALLER = {  # nets that take seconds for a frame of that size
    "srgan-x2": (180, 320),
    "srgan-x4": (180, 320),
    "horse2zebra": (256, 256),
    "mobile-rrn-16": (180, 320),
    "mobile-rrn-64": (180, 320),
}
JUDGED = ("sr-x2", "sr-x4", "realesr-animevideov3")  # the others are reported
#: slower than INT8 of the same row -> how many times as long it must take
AGAINST_INT8 = {
    "openvino fp32": 3.0,
    "openvino bf16": 1.7,
    "onnxruntime fp32": 2.5,
    "pytorch fp32": 4.0,
    "pytorch fp32 channels_last": 2.5,
}
AGAINST_INT8_ORT = {"onnxruntime fp32": 1.8}
INT8, INT8_ORT = "openvino int8", "onnxruntime int8-ort"
FUSED = {"Relu", "LeakyRelu"}  # activations that ONNX Runtime takes into a quantised layer

HEAD = ("net", "input", "contender", "ms", "cpu ms", "int8 faster", "by cpu", "spread", "wanted")
NOTE = (
    "One frame at a time, medians of interleaved rounds. ms: on the clock, what a user sees; cpu ms: processor time of "
    "all threads, which other work disturbs less. Ratios are medians of the ratios of each round, to int8 on OpenVINO; "
    "in rows of ONNX Runtime's int8-ort, its own fp32 to it. PyTorch runs the published net on a float tensor, so "
    "without the conversion from and to 8-bit frames that the sessions do."
)


def still_frame(bundle: Bundle, height: int, width: int) -> Frame:
    """The bundle's first golden frame in that size, ``uint8 (H, W, 3) BGR``."""
    picture = next(frame for frame, _ in bundle.golden_frames())
    return np.ascontiguousarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def session_run(stack: ExitStack, opened: Any, frame: Frame) -> Run:
    """A warm session of the ``opened`` context that infers ``frame`` into an array used again."""
    session = stack.enter_context(opened)
    frames = frame[None]
    out = np.empty(session.output_shape(frames.shape), dtype=np.uint8)
    session.infer(frames, out)
    return lambda: session.infer(frames, out)


def torch_runs(net: Net, frame: Frame, threads: int) -> dict[str, Run]:
    """The published net in PyTorch, eager, in both memory layouts."""
    import torch

    from export.generators import load_generator

    torch.set_num_threads(threads)
    loaded, _ = load_generator(net.weights())
    inputs = tensors_of(loaded, frame)
    last = copy.deepcopy(loaded.net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layout = torch.channels_last
    return {
        "pytorch fp32": _torch_run(loaded.net, inputs),
        "pytorch fp32 channels_last": _torch_run(last, [value.contiguous(memory_format=layout) for value in inputs]),
    }


def tensors_of(loaded: LoadedGenerator, frame: Frame) -> list[torch.Tensor]:
    """``float32 (1, 3, H, W) RGB`` in the net's range; for a recurrent net also the states of its first step."""
    import torch

    low, high = loaded.input_range
    planes = torch.from_numpy(frame[..., ::-1].astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()
    picture = planes * (high - low) + low
    size = frame.shape[:2]
    states = [picture if state.output is None else torch.zeros(1, state.channels, *size) for state in loaded.states]
    return [picture, *states]


def _torch_run(net: torch.nn.Module, inputs: list[torch.Tensor]) -> Run:
    import torch

    @torch.inference_mode()
    def run() -> object:
        return net(*inputs)

    run()
    return run


def fuses(model: bytes) -> bool:
    """Whether every activation behind a layer is one that ONNX Runtime takes into it."""
    import onnx

    from calib.layers import layers_of

    found = {layer.activation for layer in layers_of(onnx.load_model_from_string(model))} - {None}
    return bool(found) and found <= FUSED


class Speed:
    """Measures one net after the other and collects the lines."""

    def __init__(self, report: Report, threads: int, rounds: int) -> None:
        self._report, self._threads, self._rounds = report, threads, rounds
        self._rows: list[tuple[str, ...]] = []

    def measure(self, item: Int8Bundle) -> None:
        """All contenders of a net."""
        name, bundle = item.net.name, item.bundle
        height, width = bundle.manifest.geometry.size_rule.padded(*SMALLER.get(name, SIZE))
        frame = still_frame(bundle, height, width)
        here = {(choice.backend, choice.precision) for choice in runnable(bundle)}
        absent: dict[str, str] = {}
        with ExitStack() as stack:
            contenders: dict[str, Run] = {}

            def add(label: str, reason: str | None, variant: str, engine: str = "") -> None:
                if reason is not None:
                    absent[label] = reason
                    return
                opened = fitted(bundle, choice_of(variant, engine), self._threads)
                contenders[label] = session_run(stack, opened, frame)

            add(INT8, item.missing("int8"), "int8")
            add(INT8_ORT, item.missing("int8-ort"), "int8-ort")
            for engine, precision in (("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")):
                label = f"{engine} {precision}"
                add(label, None if (engine, precision) in here else f"no {label} here", precision, engine)
            contenders |= torch_runs(item.net, frame, self._threads)
            watch = Watch()
            times = take_turns(contenders, self._rounds, f"{name} speed")
        must = AGAINST_INT8_ORT if fuses(bundle.read_model("fp32")) else {}
        self._show(name, f"{width}x{height}", times, must)
        empty = ["-"] * (len(HEAD) - 4)
        self._rows += [(name, f"{width}x{height}", label, reason, *empty) for label, reason in absent.items()]
        kind = self._report.judged_on(watch)
        self._report.result.targets += judge_speed(name, times, absent, kind, must)

    def show(self) -> None:
        """Add the table."""
        self._report.add("Speed", HEAD, self._rows, 3, NOTE)

    def _show(self, name: str, size: str, times: dict[str, Times], must: dict[str, float]) -> None:
        for label, taken in times.items():
            fast = times.get(INT8_ORT if label == INT8_ORT else INT8)
            slow = times.get("onnxruntime fp32") if label == INT8_ORT else taken
            limit = must.get("onnxruntime fp32") if label == INT8_ORT else AGAINST_INT8.get(label)
            figures = {kind: ratios(slow, fast, kind) if slow and fast else [] for kind in ("wall", "cpu")}
            shown = [f"{ratio(slow, fast, kind):.2f}" if slow and fast else "-" for kind in ("wall", "cpu")]
            spread = f"{min(figures['wall']):.2f}..{max(figures['wall']):.2f}" if figures["wall"] else "-"
            wanted = f"{limit:.1f}" if limit and name in JUDGED else "-"
            medians = [f"{taken.median(kind):.1f}" for kind in ("wall", "cpu")]
            self._rows.append((name, size, label, *medians, *shown, spread, wanted))
            self._report.result.figures.append(
                {
                    "table": "speed",
                    "net": name,
                    "input": size,
                    "contender": label,
                    "wall_ms": taken.wall,
                    "cpu_ms": taken.cpu,
                    "ratios": figures,
                }
            )


def judge_speed(
    name: str, times: dict[str, Times], absent: dict[str, str], kind: str, must: dict[str, float]
) -> list[common.Target]:
    """The targets of a judged net, on ``kind`` of time; ``must`` is what int8-ort has to reach, empty for no target."""
    if name not in JUDGED:
        return []
    targets = []
    for fast, limits in ((INT8, AGAINST_INT8), (INT8_ORT, must)):
        for slow, limit in limits.items():
            label = f"{name} {fast} over {slow}, {kind}"
            reason = absent.get(fast) or absent.get(slow)
            if reason is not None:
                targets.append(common.skipped(label, reason))
            else:
                targets.append(common.at_least(label, ratio(times[slow], times[fast], kind), limit, "x"))
    return targets
