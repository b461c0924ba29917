"""Beside the quantiser of ONNX Runtime: the same float graph, the same frames, the same sessions."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx

from benchmarks import common
from benchmarks.int8.material import Material, choice_of, outputs_of
from benchmarks.int8.quality import SETS, losses, pairs_of
from benchmarks.int8.report import Report
from benchmarks.int8.rounds import Times, Watch, ratio, take_turns
from benchmarks.int8.speed import SIZE, session_run, still_frame
from benchmarks.nets import INT8_BUDGET_DB, Net, bundle_of
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.manifest import Manifest
from runtime.metrics import compare
from runtime.sessions import Choice, Session, session_for
from runtime.tiles import fit_session

CROPS, CROP = 16, 128  # frames that every quantiser gets, and their side in pixels
QUICK_CROPS = 4
TOLERANCE = 0.03  # of the ratio of times: two runs of the same graph differ by that much
METHODS = {"default (MinMax)": "MinMax", "Entropy": "Entropy", "Percentile": "Percentile"}
OURS, OURS_OPENVINO = "ours int8-ort", "ours int8"
FP32 = "fp32"
BEATEN = ("default (MinMax)", "Entropy")  # ours must lose less than these
HEAD = ("net", "quantiser", "engine", "float layers", *(f"{name} loss dB" for name in SETS), "PSNR dB", "ms", "cpu ms")


@dataclass(frozen=True)
class Made:
    """A quantised graph, the engine it is for, and how many layers it keeps in float (empty: not ours to say)."""

    model: bytes
    choice: Choice
    float_layers: str = "-"


def write_crops(source: Path, folder: Path, count: int) -> list[Frame]:
    """``count`` crops of the set, also as pictures in ``folder``: the one material for every quantiser."""
    from calib.dataset import CalibrationSet

    folder.mkdir()
    crops = list(CalibrationSet.from_paths([source]).crops(CROP, CROP, count))
    for number, crop in enumerate(crops):
        cv2.imwrite(str(folder / f"{number:03}.png"), crop)
    return crops


def peer_model(model: onnx.ModelProto, frame_input: str, crops: list[Frame], method: str, folder: Path) -> bytes:
    """``quantize_static`` as it comes, but for the calibrator."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Frame] = iter(crops)

        def get_next(self) -> dict[str, Any] | None:
            crop = next(self._left, None)
            return None if crop is None else {frame_input: crop[None]}

    before, after = folder / "before.onnx", folder / f"{method}.onnx"
    onnx.save_model(model, str(before))
    logging.disable(logging.WARNING)  # it advises a preparation that our graphs have behind them
    try:
        with contextlib.redirect_stdout(sys.stderr):  # calibrators print, and standard output may be JSON
            quantize_static(str(before), str(after), Reader(), calibrate_method=CalibrationMethod[method])
    finally:
        logging.disable(logging.NOTSET)
    return after.read_bytes()


def our_models(model: onnx.ModelProto, manifest: Manifest, frames: Path, threads: int, cache: Path) -> dict[str, Made]:
    """Both of our forms within the budget; those that miss it are left out."""
    from calib.quantise import Int8Config, quantised
    from calib.sensitivity import Budget

    config = Int8Config((frames,), Budget(INT8_BUDGET_DB), threads=threads, cache=cache)
    found = quantised(model, manifest, config)
    labels = {"int8-ort": OURS, "int8": OURS_OPENVINO}
    result = {}
    for variant, made in found.models.items():
        layers = f"{len(found.float_layers[variant])} of {len(found.searches[variant].layers)}"
        result[labels[variant]] = Made(made.SerializeToString(), choice_of(variant), layers)
    return result


def judge_peers(
    net: str, lost: Mapping[str, Mapping[str, float]], times: Mapping[str, Times], kind: str, failed: Mapping[str, str]
) -> list[common.Target]:
    """Ours against what comes with ONNX Runtime. ``lost``: quantiser -> set -> dB; ``failed``: quantiser -> reason."""
    targets = []
    for peer in BEATEN:
        label = f"{net} {OURS} loses less than {peer}"
        if reason := failed.get(OURS) or failed.get(peer):
            targets.append(common.skipped(label, reason))
            continue
        targets += [
            common.below(f"{label}, {name}", lost[OURS][name], lost[peer][name], " dB", 3) for name in lost[OURS]
        ]
    label = f"{net} {OURS}, default's time over its own, {kind} (1.00 less {TOLERANCE})"
    if reason := failed.get(OURS) or failed.get(BEATEN[0]):
        return [*targets, common.skipped(label, reason)]
    return [*targets, common.at_least(label, ratio(times[BEATEN[0]], times[OURS], kind), 1 - TOLERANCE, "x")]


class Peers:
    """Measures one net after the other and collects the lines."""

    def __init__(self, report: Report, threads: int, rounds: int, quick: bool) -> None:
        self._report, self._threads, self._rounds, self._quick = report, threads, rounds, quick
        self._rows: list[tuple[str, ...]] = []

    @property
    def _crops(self) -> int:
        return QUICK_CROPS if self._quick else CROPS

    def measure(self, net: Net, built: Path, material: Material) -> None:
        """All quantisers on one net. Raises :class:`UnavailableError` where the net or the videos are not here."""
        bundle = bundle_of(net.name, built)
        source = material.for_net(net)
        model = onnx.load_model_from_string(bundle.read_model("fp32"))
        made = {FP32: Made(bundle.read_model("fp32"), choice_of("fp32", "onnxruntime"))}
        failed: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="genedge-peers-") as name:
            folder = Path(name)
            crops = write_crops(source, folder / "crops", self._crops)
            for label, method in METHODS.items():
                common.say(f"{net.name}: quantize_static {label}")
                try:
                    data = peer_model(model, bundle.manifest.frame.name, crops, method, folder)
                except Exception as error:  # whatever it raises is its result
                    failed[label] = f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
                    continue
                made[label] = Made(data, Choice("onnxruntime", "int8", "int8-ort", "compared with"))
            common.say(f"{net.name}: ours on the same frames")
            made |= our_models(model, bundle.manifest, folder / "crops", self._threads, folder / "cache")
        for label in (OURS, OURS_OPENVINO):
            if label not in made:
                failed[label] = f"no choice of float layers meets {INT8_BUDGET_DB} dB on these frames"
        self._compare(net.name, bundle, made, failed)

    def show(self) -> None:
        """Add the table."""
        note = (
            f"onnxruntime.quantization.quantize_static with its defaults but for the calibrator, and ours within "
            f"{INT8_BUDGET_DB} dB, on the same fp32 graph and the same {self._crops} crops of {CROP}x{CROP} pixels "
            "(its histogram calibrators keep every activation of every frame in memory, hence so few). Loss and PSNR "
            f"as above, against fp32 on ONNX Runtime; ms a frame of {SIZE[1]}x{SIZE[0]}, in turns."
        )
        self._report.add("Beside ONNX Runtime's quantiser", HEAD, self._rows, 3, note)

    def _opened(self, bundle: Bundle, entry: Made) -> Session:
        session = session_for(entry.model, bundle.manifest, entry.choice, threads=self._threads, in_flight=1)
        return fit_session(session, bundle.manifest.geometry, 1, 1, tile=0)

    def _compare(self, net: str, bundle: Bundle, made: dict[str, Made], failed: dict[str, str]) -> None:
        scale = bundle.manifest.geometry.scale
        sets = {name: pairs for name in SETS if (pairs := pairs_of(name, scale))}
        frames = [pair.small for pairs in sets.values() for pair in pairs]
        outputs: dict[str, list[Frame]] = {}
        for label, entry in made.items():
            common.say(f"{net}: quality of {label}")
            with self._opened(bundle, entry) as session:
                outputs[label] = outputs_of(session, frames)
        frame = still_frame(bundle, *bundle.manifest.geometry.size_rule.padded(*SIZE))
        with ExitStack() as stack:
            runs = {label: session_run(stack, self._opened(bundle, entry), frame) for label, entry in made.items()}
            watch = Watch()
            times = take_turns(runs, self._rounds, f"{net} beside quantize_static")
        kind = self._report.judged_on(watch)
        lost: dict[str, dict[str, float]] = {}
        for label, entry in made.items():
            lost[label], place = {}, 0
            for name, pairs in sets.items():
                part = slice(place, place + len(pairs))
                lost[label][name] = losses(pairs, outputs[FP32][part], outputs[label][part], scale)
                place += len(pairs)
            parity = compare(zip(outputs[FP32], outputs[label], strict=True)).psnr_db if sets else float("nan")
            cells = [f"{lost[label][name]:.3f}" if name in lost[label] else "-" for name in SETS]
            cells.append("-" if label == FP32 or not sets else f"{parity:.2f}")
            cells += [f"{times[label].median(each):.1f}" for each in ("wall", "cpu")]
            self._rows.append((net, label, entry.choice.backend, entry.float_layers, *cells))
            figures = {"loss_db": lost[label], "psnr_db": None if not np.isfinite(parity) else parity}
            spent = {"wall_ms": times[label].wall, "cpu_ms": times[label].cpu}
            self._report.result.figures.append({"table": "peers", "net": net, "quantiser": label} | figures | spent)
        for label, reason in failed.items():
            self._rows.append((net, label, reason, *["-"] * (len(HEAD) - 3)))
        self._report.result.targets += judge_peers(net, lost, times, kind, failed)
