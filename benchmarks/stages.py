"""What each stage of a run from file to file costs by itself, and how near it comes to what bounds it.

``python -m benchmarks.pipeline --only stages`` prints the table.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from benchmarks import common
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.frames import Frame
from runtime.sessions import Choice
from runtime.stages import open_stage
from runtime.video.convert import LUMA
from runtime.video.light import LIGHT, X264_LIGHT
from runtime.video.source import RANGE_FULL, RANGE_LIMITED, SWS_FLAGS, SWS_OF_MATRIX, Scaler, ToBgr, matrix_for_size

PEAK = """
import json, time, torch
torch.set_num_threads(1)
a = torch.randint(-127, 127, (2048, 2048), dtype=torch.int8)
best = float("inf")
for _ in range(8):
    begin = time.thread_time()
    torch._int_mm(a, a)
    best = min(best, time.thread_time() - begin)
print(json.dumps(2048**3 / best))
"""
HEAD = ("stage", "cpu ms", "at", "what bounds it", "share of that")


@dataclass
class Stage:
    """One stage over all frames of a block. ``amount`` of ``unit`` a frame, ``limit`` of it a second on one core."""

    name: str
    run: Callable[[], object]
    amount: float
    unit: str
    bound: str
    limit: float | None = None
    cpu_ms: list[float] = field(default_factory=list)  # a frame, one entry a round

    @property
    def ms(self) -> float:
        return statistics.median(self.cpu_ms)

    def row(self) -> tuple[str, ...]:
        speed = 1e3 * self.amount / self.ms
        share = "-" if self.limit is None else f"{speed / self.limit:.0%}"
        return self.name, f"{self.ms:.2f}", f"{speed:.3g} {self.unit}/s", self.bound, share


def copy_speed() -> float:
    """Bytes a second that one core copies, far beyond its caches: read once and written once."""
    source, target = np.ones(64 << 20, np.uint8), np.empty(64 << 20, np.uint8)
    taken = []
    for _ in range(5):
        begin = time.thread_time()
        np.copyto(target, source)
        taken.append(time.thread_time() - begin)
    return len(source) / min(taken)


def int8_peak() -> float | None:
    """Multiply-accumulates a second of one core in a large int8 matrix product (oneDNN, through PyTorch, in a process
    of its own); None without PyTorch."""
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=False)
    return None if done.returncode else float(json.loads(done.stdout))


def macs_of(bundle: Bundle, height: int, width: int) -> float:
    """Multiply-accumulates of the convolutions for one frame."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(bundle.read_model("fp32")))
    sides = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        strides = next((attribute.ints for attribute in node.attribute if attribute.name == "strides"), [1, 1])
        if list(strides) != [1, 1]:
            raise GenedgeError(f"{bundle.manifest.name} has strides: its work is not counted here")
    return float(sum(np.prod(sides[node.input[1]]) for node in convolutions) * height * width)


def _encode(pictures: list[Any], rate: Fraction, settings: dict[str, str]) -> None:
    import av

    first = pictures[0]
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = first.width, first.height, first.format.name
    codec.time_base, codec.framerate, codec.thread_count, codec.options = 1 / rate, rate, 1, settings
    for index, picture in enumerate(pictures):
        picture.pts, picture.time_base = index, 1 / rate
        codec.encode(picture)
    codec.encode(None)


def _each(convert: Callable[[Any], object], frames: list[Any]) -> None:
    for frame in frames:
        convert(frame)  # and forget it: its memory is used again, as in the pipeline


def _infer_all(session: Any, images: list[Frame]) -> list[Frame]:
    return [session.infer(image[None])[0] for image in images]


def stages_of(bundle: Bundle, choice: Choice, path: str, frames: int, rounds: int) -> list[Stage]:
    """Each stage for itself on one thread, in turns; the last ones are what two of them replace."""
    import av
    from av.video.reformatter import VideoReformatter

    def decode() -> list[Any]:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            return [frame for _, frame in zip(range(frames), container.decode(stream), strict=False)]

    decoded = decode()
    count, height, width = len(decoded), decoded[0].height, decoded[0].width
    rate = Fraction(30)
    to_bgr, scaler, swscale = ToBgr(width, height), Scaler(), VideoReformatter()
    images = [to_bgr(frame) for frame in decoded]
    with open_stage(bundle, choice, height, width, threads=1, live=True) as session:
        session.warm_up((1, height, width, 3))
        outputs = _infer_all(session, images)
        out_height, out_width = outputs[0].shape[:2]
        sws_matrix = SWS_OF_MATRIX[matrix_for_size(out_width, out_height)]
        if out_width % 2 or out_height % 2 or sws_matrix not in LUMA:
            raise GenedgeError("the stages are measured on even sizes only")
        wanted: dict[str, Any] = {"format": "yuv420p", "src_color_range": RANGE_FULL, "dst_color_range": RANGE_LIMITED}
        wanted["dst_colorspace"] = sws_matrix
        given = [av.VideoFrame.from_numpy_buffer(image, format="bgr24") for image in outputs]
        written = [scaler(frame, **wanted) for frame in given]
        small, large = width * height / 1e9, out_width * out_height / 1e9
        copies, peak = copy_speed() / 1e9, int8_peak()
        with av.open(path) as container:
            bits = sum(packet.size for packet in container.demux(video=0)) * 8e-6
            bits /= max(1, container.streams.video[0].frames)
        packed: dict[str, Any] = {"interpolation": SWS_FLAGS, "threads": 1}
        memory = "memory, as in a plain copy"
        computing = f"{choice.precision} products, as in a large matrix" if peak else "multiplications"
        stages = [
            Stage("decode", decode, bits, "Mbit", "FFmpeg's decoder"),
            Stage("YUV to BGR", lambda: _each(to_bgr, decoded), 4.5 * small, "GB", memory, 2 * copies),
            Stage(
                f"infer {choice.precision}",
                lambda: _infer_all(session, images),
                macs_of(bundle, height, width) / 1e9,
                "GMAC",
                computing,
                peak / 1e9 if peak and choice.precision == "int8" else None,
            ),
            Stage(
                "BGR to YUV",
                lambda: _each(lambda frame: scaler(frame, **wanted), given),
                4.5 * large,
                "GB",
                memory,
                2 * copies,
            ),
            Stage(
                f"encode, {LIGHT}",
                lambda: _encode(written, rate, {"crf": "18", **dict(X264_LIGHT)}),
                large * 1e3,
                "Mpixel",
                "x264 with these settings",
            ),
            Stage(
                "(swscale to BGR)",
                lambda: _each(lambda frame: swscale.reformat(frame, format="bgr24", **packed), decoded),
                4.5 * small,
                "GB",
                memory,
                2 * copies,
            ),
            Stage(
                "(swscale to YUV)",
                lambda: _each(lambda frame: swscale.reformat(frame, **wanted, **packed), given),
                4.5 * large,
                "GB",
                memory,
                2 * copies,
            ),
            Stage(
                "(encode, veryfast)",
                lambda: _encode(written, rate, {"crf": "18", "preset": "veryfast"}),
                large * 1e3,
                "Mpixel",
                "x264 with these settings",
            ),
        ]
        for number in range(rounds):
            for stage in stages:
                begin = time.process_time()
                stage.run()
                stage.cpu_ms.append(1e3 * (time.process_time() - begin) / count)
            common.say(f"stages: round {number + 1} of {rounds}")
    return stages
