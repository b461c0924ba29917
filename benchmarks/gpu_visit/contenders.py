"""What a visit measures side by side: the bundle's own engines, PyTorch, and ONNX Runtime on CUDA."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.gpu_visit.turns import Turn
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.frames import Frames
from runtime.metrics import psnr
from runtime.pipeline import run_pipeline
from runtime.sessions import Choice, Pending, Session, choose, open_session
from runtime.sessions.codes import code_ports
from runtime.sessions.recurrent import Recurrence, recurrence_of
from runtime.video.sink import NullSink
from runtime.video.source import VideoFrame, open_source

IN_FLIGHT = 3  # one uploaded, one computed, one downloaded
MATERIAL = 8  # different frames that a session gets in turn
CLIP_FRAMES = 240  # 8 seconds of video
STARTING = 16  # frames, twice what a pipeline's queues and its session hold
ENGINE_SECONDS, WHOLE_SECONDS = 0.5, 3.0  # of a block: engine or latency, and a session or pipeline in full flight


@dataclass(frozen=True)
class Material:
    """What all contenders of a bundle run on. ``frames``: ``uint8 (1, H, W, 3) BGR`` each, ``clip`` the same picture
    as a video that moves."""

    frames: Sequence[Frames]
    clip: Path

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.frames[0].shape[1:3]
        return height, width


def material_of(bundle: Bundle, height: int, width: int, folder: Path) -> Material:
    """A golden frame enlarged to the size, moved along; the clip is written into ``folder``.

    Raises :class:`GenedgeError` where there is no golden frame.
    """
    picture = next((frame for frame, _ in bundle.golden_frames()), None)
    if picture is None:
        raise GenedgeError(f"{bundle.folder} holds no golden frame to measure with: build it again")
    large = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    frames = [np.ascontiguousarray(np.roll(large, 2 * step, axis=1)) for step in range(MATERIAL)]
    clip = folder / f"{bundle.manifest.name}-{height}x{width}.mp4"
    write_clip(frames, clip)
    return Material([frame[None] for frame in frames], clip)


def write_clip(frames: Sequence[Any], path: Path) -> None:
    """``CLIP_FRAMES`` frames at 30 a second, ``frames`` forth and back."""
    import av

    there_and_back = [*frames, *frames[::-1]]
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=30, options={"preset": "veryfast", "crf": "20"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p" if even(frames[0]) else "yuv444p"
        for number in range(CLIP_FRAMES):
            picture = av.VideoFrame.from_ndarray(there_and_back[number % len(there_and_back)], format="bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def even(frame: Frames) -> bool:
    """Whether both sides are even, as halved colour planes need it."""
    return not (frame.shape[0] % 2 or frame.shape[1] % 2)


# --- our own engines --------------------------------------------------------------------------------------------------


def own_turns(bundle: Bundle, choice: Choice, material: Material, stack: ExitStack) -> tuple[list[Turn], Frames]:
    """The turns of a bundle on one engine in one precision, and its output for the first frame.

    ``engine``: the engine alone, on the GPU by its own clock, without copies from and to the host; on a CPU, where
    nothing is copied, one frame after the other. ``session``: as many frames under way as the session takes.
    ``latency``: one frame from array to array, nothing else under way. ``pipeline``: a video that is decoded, into
    nothing. ``engine_without_graph``: the engine alone, enqueued anew for each frame, where there are CUDA graphs. The
    sessions are closed by ``stack``.
    """
    who = f"{choice.backend} {choice.precision}"
    session = stack.enter_context(open_session(bundle, choice, in_flight=IN_FLIGHT))
    first = material.frames[0]
    session.warm_up((1, *material.size, 3))
    output = session.infer(first).copy()
    turns = [Turn(who, "engine", engine_alone(session, first), ENGINE_SECONDS)]
    if getattr(session, "uses_graphs", False):  # of a TensorRT session
        plain = stack.enter_context(without_graphs(bundle, choice))
        turns.append(Turn(who, "engine_without_graph", engine_alone(plain, first), ENGINE_SECONDS))
    return [
        *turns,
        Turn(who, "session", whole_session(session, material), WHOLE_SECONDS),
        Turn(who, "latency", lambda count: one_by_one(session, first, count), ENGINE_SECONDS),
        Turn(who, "pipeline", lambda count: into_nothing(session, material.clip, count), WHOLE_SECONDS, CLIP_FRAMES),
    ], output


def without_graphs(bundle: Bundle, choice: Choice) -> Session:
    """A TensorRT session on the same engine, without CUDA graphs."""
    from runtime.engines.cache import engine_folder
    from runtime.engines.facts import device_facts
    from runtime.engines.settings import EngineSettings
    from runtime.sessions.tensorrt import TensorRtSession

    manifest, scale = bundle.manifest, bundle.manifest.geometry.scale
    ports = recurrence_of(manifest) or Recurrence(
        manifest.frame, manifest.image, (), code_ports(manifest), manifest.images[1:], scale
    )
    return TensorRtSession(
        bundle.read_model(choice.variant),
        ports,
        scale,
        variant=choice.variant,
        precision=choice.precision,
        facts=device_facts(),
        settings=EngineSettings(),
        folder=engine_folder(bundle.folder),
        in_flight=1,
        use_graphs=False,
    )


def engine_alone(session: Session, frame: Frames) -> Callable[[int], Sequence[float]]:
    """A turn's ``run`` for the engine without the way there and back."""
    on_gpu = getattr(session, "time_engine", None)  # of a TensorRT session
    if on_gpu is None:
        return lambda count: one_by_one(session, frame, count)
    return lambda count: [1e3 * seconds for seconds in on_gpu(frame, count)]


def whole_session(session: Session, material: Material) -> Callable[[int], Sequence[float]]:
    """A turn's ``run`` with ``info.in_flight`` frames under way all the time. Output arrays are used again."""
    depth = max(1, session.info.in_flight)
    outputs = [np.empty(session.output_shape(material.frames[0].shape), dtype=np.uint8) for _ in range(depth)]

    def run(count: int) -> Sequence[float]:
        session.reset()
        pending: deque[Pending] = deque()
        begin = time.perf_counter()
        for number in range(count):
            if len(pending) == depth:
                pending.popleft().result()
            frame = material.frames[number % len(material.frames)]
            pending.append(session.submit(frame, outputs[number % depth]))
        while pending:
            pending.popleft().result()
        return [1e3 * (time.perf_counter() - begin) / count]

    return run


def one_by_one(session: Session, frame: Frames, count: int) -> list[float]:
    """Milliseconds of each of ``count`` frames, the next one given when the one before is there."""
    out = np.empty(session.output_shape(frame.shape), dtype=np.uint8)
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        session.infer(frame, out)
        times.append(1e3 * (time.perf_counter() - begin))
    return times


class _TimedSink(NullSink):
    """Throws frames away and remembers when they came."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self.times = [time.perf_counter()]

    def write(self, frame: VideoFrame) -> None:
        super().write(frame)
        self.times.append(time.perf_counter())


def into_nothing(session: Session, clip: Path, count: int) -> list[float]:
    """Milliseconds a frame of a video that is decoded, run and thrown away, without the first quarter of the frames or
    the first ``STARTING`` ones: opening the file counts for nothing in a long run."""
    session.reset()
    with open_source(str(clip)) as source:
        sink = _TimedSink(source.info.width * session.scale, source.info.height * session.scale)
        run_pipeline(source, [session], sink, max_frames=count)
    written = len(sink.times) - 1
    if written != count:
        raise GenedgeError(f"{written} of {count} frames came out of the pipeline")
    first = min(STARTING, count // 4)
    return [1e3 * (sink.times[-1] - sink.times[first]) / (count - first)]


def agreement(reference: Frames, output: Frames) -> float:
    """PSNR in dB of two outputs for one frame, both ``uint8 (1, sH, sW, 3)``."""
    return psnr(reference[0], output[0])


# --- rivals -----------------------------------------------------------------------------------------------------------


def onnxruntime_cuda_turns(bundle: Bundle, precision: str, material: Material, stack: ExitStack) -> list[Turn]:
    """ONNX Runtime's CUDA provider, in a session of ours. Raises :class:`GenedgeError` where it runs on no GPU."""
    from runtime.sessions.onnxruntime import module

    if "CUDAExecutionProvider" not in module().get_available_providers():
        raise GenedgeError('this onnxruntime has no CUDA provider: pip install "genedge[gpu]"')
    session = stack.enter_context(open_session(bundle, choose(bundle, "onnxruntime", precision), in_flight=IN_FLIGHT))
    session.warm_up((1, *material.size, 3))
    if session.info.device == "CPU":
        raise GenedgeError("ONNX Runtime runs on the processor although it has a CUDA provider: see runtime doctor")
    who = f"onnxruntime-cuda {precision}"
    return [
        Turn(who, "session", whole_session(session, material), WHOLE_SECONDS),
        Turn(who, "latency", lambda count: one_by_one(session, material.frames[0], count), ENGINE_SECONDS),
    ]


def find_weights(digest: str, named: Sequence[Path]) -> Path:
    """The checkpoint with this SHA-256, of those named and the shipped ones. Raises :class:`GenedgeError` else."""
    import hashlib

    from export.shipped import shipped_weights  # json only, no torch

    for path in (*named, *(shipped.path for shipped in shipped_weights())):
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return path
    raise GenedgeError(f"the checkpoint (sha256 {digest[:12]}…) is not here: name it with --weights")
