"""Super-resolution quality through the bundle: Y-PSNR and Y-SSIM of what the runtime's session gives.

Set5, Set14 and a part of BSD100 by the protocol of ``recipes.evaluation``, beside plain bicubic and, on Set5, beside
the net in PyTorch itself. The bicubic figures are targets too: they show that the protocol has not moved.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.nets import UnavailableError, bundle_of, bundle_options, find_net, folder_for_built
from recipes.assets import assets_folder
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.sessions import Choice, open_session, runnable
from runtime.tiles import fit_session

NAME = "super_resolution"
SETS = ("set5", "set14", "bsd100_subset")
DEFAULT_BUNDLES = (
    "sr-x2",
    "sr-x4",
    "srgan-x2",
    "srgan-x4",
    "realesr-animevideov3",
    "span-x4",
    "fsrcnn-x2",
    "fsrcnn-x3",
    "fsrcnn-x4",
)
BICUBIC_TOLERANCE = 0.03  # dB; far below the difference that another crop, luma or filter makes (0.2 dB and more)
PYTORCH_TOLERANCE = 0.05  # dB between a bundle and the same net in PyTorch

#: (set, scale) -> Y-PSNR in dB of plain bicubic (a = -0.75, torch's and OpenCV's). Papers print MATLAB's (a = -0.5),
#: which is 0.2 to 0.3 dB lower.
BICUBIC = {("set5", 2): 33.97, ("set14", 2): 30.56, ("set5", 4): 28.64}
#: net -> set -> (least, aim), Y-PSNR in dB
WANTED = {
    "sr-x2": {"set5": (36.85, 37.3), "set14": (32.72, 33.0)},
    "sr-x4": {"set5": (30.4, 31.0)},
}
#: net -> Set5 Y-PSNR in dB of the published weights in PyTorch, measured when they were collected (FSRCNN's on luma
#: before it was turned into a picture and rounded)
PUBLISHED = {
    "srgan-x2": 35.49,
    "srgan-x4": 30.66,
    "realesr-animevideov3": 28.23,
    "span-x4": 31.74,
    "fsrcnn-x2": 37.15,
    "fsrcnn-x3": 32.61,
    "fsrcnn-x4": 30.52,
}

Scores = dict[str, Any]  # set -> recipes.evaluation.Score
HEAD = ("net", "through", "scale", *(f"{name} {unit}" for name in SETS for unit in ("dB", "SSIM")), "seconds")


def score_sets(scale: int, upscale: Callable[[Frame], Frame], sets: tuple[str, ...]) -> Scores:
    """Score ``upscale`` (``uint8 (H, W, 3) BGR`` to ``scale`` times its size) on every set that is here."""
    from recipes.evaluation import score_folder

    images = assets_folder() / "images"
    return {name: score_folder(images / name, scale, upscale) for name in sets if (images / name).is_dir()}


def keys_bicubic(frame: Frame, scale: int) -> Frame:
    """Enlarge ``uint8 (H, W, 3) BGR`` with a = -0.5, the filter of MATLAB's ``imresize`` that papers compare with."""
    from recipes.evaluation import bicubic

    return bicubic(frame, frame.shape[0] * scale, frame.shape[1] * scale)


def score_session(bundle: Bundle, choice: Choice, threads: int, sets: tuple[str, ...]) -> tuple[Scores, str]:
    """The runtime's session, whole frames of any size; also the device that it ran on."""
    geometry = bundle.manifest.geometry
    opened = open_session(bundle, choice, threads=threads, in_flight=1)
    with fit_session(opened, geometry, 1, 1, tile=0) as session:
        scores = score_sets(geometry.scale, lambda frame: session.infer(frame[None])[0], sets)
        return scores, session.info.device


def score_pytorch(weights: Path, sets: tuple[str, ...]) -> Scores:
    """The net as it was published, in PyTorch."""
    from export.frame_io import reference_output
    from export.generators import load_generator

    loaded, _ = load_generator(weights)
    return score_sets(loaded.scale, lambda frame: reference_output(loaded, frame), sets)


class Table:
    """Collects rows and figures."""

    def __init__(self, result: common.Result, sets: tuple[str, ...]) -> None:
        self.result, self.sets = result, sets
        self.rows: list[tuple[str, ...]] = []

    def add(self, net: str, through: str, scale: int, measure: Callable[[], Scores]) -> Scores:
        """Measure one line."""
        common.say(f"{net} {through}")
        begin = time.perf_counter()
        scores = measure()
        seconds = time.perf_counter() - begin
        cells = []
        for name in SETS:
            score = scores.get(name)
            cells += [f"{score.psnr_y:.3f}", f"{score.ssim_y:.4f}"] if score else ["-", "-"]
        self.rows.append((net, through, f"x{scale}", *cells, f"{seconds:.1f}"))
        self.result.figures.append(
            {
                "net": net,
                "through": through,
                "scale": scale,
                "seconds": seconds,
                "scores": {
                    name: {"psnr_y_db": score.psnr_y, "ssim_y": score.ssim_y, "images": score.images}
                    for name, score in scores.items()
                },
            }
        )
        return scores


def judge_bicubic(scale: int, scores: Scores) -> list[common.Target]:
    """The protocol check for one scale."""
    targets = []
    for (name, at), published in BICUBIC.items():
        if at == scale and name in scores:
            label = f"protocol: bicubic x{scale} {name}"
            targets.append(common.within(label, scores[name].psnr_y, published, BICUBIC_TOLERANCE, " dB"))
    return targets


def judge(net: str, through: str, scores: Scores, pytorch: Scores) -> list[common.Target]:
    """Targets of one net in one precision. bfloat16 has none of its own here: its parity is measured elsewhere."""
    targets = []
    label = f"{net} {through}"
    for name, (least, aim) in WANTED.get(net, {}).items():
        if name in scores:
            value = scores[name].psnr_y
            state = "reached" if value >= aim else f"{aim - value:.2f} short"
            targets.append(common.at_least(f"{label} {name} (aim {aim:.2f}: {state})", value, least, " dB", 3))
    if "set5" not in scores:
        return targets
    value = scores["set5"].psnr_y
    if net in PUBLISHED:
        targets.append(common.within(f"{label} set5 as published", value, PUBLISHED[net], PYTORCH_TOLERANCE, " dB"))
    if "set5" in pytorch:
        expected = pytorch["set5"].psnr_y
        targets.append(common.within(f"{label} set5 as PyTorch here", value, expected, PYTORCH_TOLERANCE, " dB"))
    return targets


def measure_bundle(
    place: str, built: Path, table: Table, bicubic: dict[int, Scores], options: argparse.Namespace
) -> None:
    """All lines of one bundle; bicubic only where its scale has not come yet."""
    from recipes.evaluation import plain_bicubic

    result = table.result
    bundle = bundle_of(place, built)
    name, scale = bundle.manifest.name, bundle.manifest.geometry.scale
    if scale not in bicubic:
        bicubic[scale] = table.add(
            "bicubic", "plain", scale, lambda: score_sets(scale, lambda frame: plain_bicubic(frame, scale), table.sets)
        )
        table.add(
            "bicubic", "as MATLAB", scale, lambda: score_sets(scale, lambda f: keys_bicubic(f, scale), table.sets)
        )
        result.targets += judge_bicubic(scale, bicubic[scale])
    net = find_net(place)
    pytorch: Scores = {}
    if net is not None:
        weights = net.weights()
        pytorch = table.add(name, "pytorch fp32", scale, lambda: score_pytorch(weights, ("set5",)))
    choices = {choice.precision: choice for choice in runnable(bundle) if choice.backend == options.backend}
    for precision in options.precision:
        choice = choices.get(precision)
        if choice is None:
            reason = f"{options.backend} has no {precision} for it here"
            result.targets.append(common.skipped(f"{name} {options.backend} {precision}", reason))
            continue
        through = f"{choice.backend} {precision}"

        def scored(choice: Choice = choice) -> Scores:
            scores, result.conditions["device"] = score_session(bundle, choice, options.threads, table.sets)
            return scores

        scores = table.add(name, through, scale, scored)
        if precision != "bf16":
            result.targets += judge(name, through, scores, pytorch)


def measure(options: argparse.Namespace) -> common.Result:
    """Every bundle asked for."""
    result = common.Result(NAME, common.conditions(threads=options.threads))
    images = assets_folder() / "images"
    absent = [name for name in options.sets if not (images / name).is_dir()]
    result.targets += [common.skipped(name, common.missing(images / name)) for name in absent]
    table = Table(result, options.sets)
    bicubic: dict[int, Scores] = {}
    if len(absent) == len(options.sets):
        return result
    with folder_for_built(options.built) as built:
        for place in options.bundle or DEFAULT_BUNDLES:
            try:
                measure_bundle(place, built, table, bicubic, options)
            except UnavailableError as reason:
                result.targets.append(common.skipped(place, str(reason)))
    if table.rows:
        result.add_table(HEAD, table.rows, left=2)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, DEFAULT_BUNDLES)
    parser.add_argument(
        "--precision",
        type=common.names,
        default=("fp32", "fp16"),
        metavar="LIST",
        help="fp32, fp16, bf16 with commas (default: fp32,fp16)",
    )
    parser.add_argument(
        "--sets",
        type=common.names,
        metavar="LIST",
        help=f"folders of pictures (default: {','.join(SETS)}; quick: set5)",
    )
    parser.add_argument("--backend", choices=("openvino", "onnxruntime"), default="openvino", help="engine")
    parser.add_argument(
        "--threads", type=common.not_negative, default=0, metavar="N", help="engine threads, 0: the engine's choice"
    )
    options = parser.parse_args(arguments)
    options.sets = options.sets or (SETS[:1] if options.quick else SETS)
    if unknown := [name for name in options.sets if name not in SETS]:
        parser.error(f"--sets: {unknown[0]} is none of {', '.join(SETS)}")
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
