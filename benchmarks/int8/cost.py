"""What calibration costs: time against plain inference of the same frames, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from benchmarks import common
from benchmarks.int8.material import Material
from benchmarks.int8.report import Report
from benchmarks.int8.rounds import Watch
from benchmarks.nets import Net, bundle_of
from runtime.bundle import Bundle
from runtime.errors import GenedgeError
from runtime.frames import Frame

SIZE, LARGE = (360, 640), (720, 1280)  # height, width of the frames for time, and for memory
RATIO = 1.3
PEAK_GB = 1.5  # 10^9 bytes
HEAD = ("net", "what", "frames", "steps", "seconds", "cpu seconds", "a step ms", "peak GB")
NOTE = (
    "One pass of calibration as a build makes it: the frames, the same hardened, and the reduced ones that losses are "
    "judged on (steps: all of these), with decoding, reductions and histograms, against plain inference of the frames "
    "alone with decoding, on ONNX Runtime with as many threads. Half of the plain frames run before the pass and half "
    "after it. A build makes such a pass once, and a short one of 16 frames before it. Peak: resident memory of a "
    "process that does nothing else, in 10^9 bytes; it does not grow with the number of frames."
)


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock and of the processor, and the frames that went through the net."""

    steps: int
    wall: float
    cpu: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.steps + other.steps, self.wall + other.wall, self.cpu + other.cpu)


def plain(model: bytes, frames: Sequence[Frame], places: range, threads: int) -> Spent:
    """Inference of the frames at ``places``, each read when its turn comes, with the settings that calibration has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cpu, begin = time.process_time(), time.perf_counter()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for place in places:
        session.run(None, {name: frames[place][None]})
    return Spent(len(places), time.perf_counter() - begin, time.process_time() - cpu)


def calibration(bundle: Bundle, source: Path, threads: int) -> Spent:
    """One pass, as a build makes it, with nothing kept from an earlier one."""
    from calib.quantise import Int8Config, prepare

    model = onnx.load_model_from_string(bundle.read_model("fp32"))
    with tempfile.TemporaryDirectory(prefix="genedge-cost-") as cache:
        config = Int8Config((source,), equalise=False, threads=threads, cache=Path(cache))
        cpu, begin = time.process_time(), time.perf_counter()
        prepared = prepare(model, bundle.manifest, config)
        return Spent(prepared.statistics.steps, time.perf_counter() - begin, time.process_time() - cpu)


def peak_of(bundle: Bundle, source: Path, threads: int) -> dict[str, Any]:
    """``begin`` and ``peak`` in bytes, and ``steps``, of a child process that calibrates."""
    command = [sys.executable, "-m", "benchmarks.int8.peak", str(bundle.folder), str(source), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise GenedgeError(f"the process that calibrates failed: {reason[0]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def judge_cost(net: str, frames: int, ratios: dict[str, float], kind: str) -> common.Target:
    """The pass against plain inference."""
    return common.at_most(f"{net} calibration over plain inference, {frames} frames, {kind}", ratios[kind], RATIO, "x")


def measure_cost(
    net: Net, built: Path, material: Material, frames: int, large: int, threads: int, report: Report
) -> None:
    """Time with ``frames`` frames, memory with ``large`` of 720p. Raises :class:`UnavailableError` without material."""
    from calib.dataset import CalibrationSet

    bundle = bundle_of(net.name, built)
    source = material.whole(*SIZE, frames)
    pictures = CalibrationSet.from_paths([source]).frames
    model, half = bundle.read_model("fp32"), len(pictures) // 2
    rows: list[tuple[str, ...]] = []
    common.say(f"{net.name}: plain inference, then calibration, of {len(pictures)} frames")
    plain(model, pictures, range(1), threads)
    watch = Watch()
    once = plain(model, pictures, range(half), threads)
    passed = calibration(bundle, source, threads)
    once += plain(model, pictures, range(half, len(pictures)), threads)
    kind = report.judged_on(watch)
    for what, spent in (("plain inference", once), ("calibration", passed)):
        figures = (str(spent.steps), f"{spent.wall:.1f}", f"{spent.cpu:.1f}", f"{1e3 * spent.wall / spent.steps:.0f}")
        rows.append((net.name, f"{what}, {SIZE[1]}x{SIZE[0]}", str(len(pictures)), *figures, "-"))
    ratios = {"wall": passed.wall / once.wall, "cpu": passed.cpu / once.cpu}
    rows.append((net.name, "ratio", "-", "-", *(f"{ratios[each]:.3f}" for each in ("wall", "cpu")), "-", "-"))
    report.result.targets.append(judge_cost(net.name, len(pictures), ratios, kind))
    record = {"table": "cost", "net": net.name, "frames": len(pictures), "ratios": ratios}
    report.result.figures.append(record | {"plain": vars(once), "calibration": vars(passed)})

    source = material.whole(*LARGE, large)
    count = len(CalibrationSet.from_paths([source]))
    common.say(f"{net.name}: memory of calibration with {count} frames of 720p")
    found = peak_of(bundle, source, threads)
    peak = found["peak"] / 1e9
    rows.append(
        (net.name, f"calibration, {LARGE[1]}x{LARGE[0]}", str(count), str(found["steps"]), "-", "-", "-", f"{peak:.2f}")
    )
    report.result.targets.append(
        common.below(f"{net.name} memory of calibration, {count} frames of 720p", peak, PEAK_GB, " GB")
    )
    report.result.figures.append({"table": "memory", "net": net.name, "frames": count} | found)
    report.add("Cost of calibration", HEAD, rows, 2, NOTE)
