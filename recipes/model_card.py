"""The model card that goes with trained weights: what they are, how they were made, what they reach."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.evaluation import Score

CURVE_POINTS = 12  # rows of the training curve that the card shows

MATERIAL = (
    ("CID22, the 209 training photos", "Cloudinary", "CC BY-SA 4.0"),
    ("CLIC 2025, 25 photos", "Unsplash photographers", "Unsplash licence"),
    ("Kodak image suite, 12 photos", "Eastman Kodak", "unrestricted"),
)


@dataclass(frozen=True)
class Training:
    """The facts of a finished run. ``threads`` are those of the training, ``stages`` one line each."""

    name: str
    settings: Mapping[str, Any]
    parameters: int
    device: str
    threads: int
    sha256: str
    stages: tuple[str, ...]


def card_text(
    run: Training,
    benchmarks: Mapping[str, tuple[Score, Score]],
    compressed: Mapping[str, tuple[Score, Score]],
    log: Path,
) -> str:
    """Markdown of the card.

    Args:
        run: the training.
        benchmarks: test set to (bicubic, this net), standard protocol.
        compressed: degradation to (bicubic, this net) on the CID22 validation photos.
        log: the run's ``log.csv``: step, seconds, loss, validation Y-PSNR.
    """
    scale = run.settings["scale"]
    camera = run.settings["camera"]
    use = "compressed and camera video (JPEG, H.264)" if camera else "clean video and photos"
    width, depth = run.settings["width"], run.settings["depth"]
    command = f"python -m recipes.super_resolution --scale {scale}{' --camera' if camera else ''} --out runs/{run.name}"
    command += " --start CHECKPOINT" if len(run.stages) > 1 else ""
    material = "\n".join(f"| {what} | {who} | {licence} |" for what, who, licence in MATERIAL)
    return f"""# {run.name}

Super-resolution x{scale} for {use}. {run.parameters:,} parameters: 3x3 convolutions with ReLU at the input's size
({width} channels, {depth} hidden layers besides the first and the last), the input repeated and added as an anchor,
then a pixel shuffle. Input and output: RGB 0..1, `float32 (N, 3, H, W)`; the bundle takes and gives `uint8` BGR frames.

- File: `{run.name}.safetensors`, sha256 `{run.sha256}`
- Licence of the weights: Apache-2.0
- Made with: `{command}`
- Stages, each with its own schedule, on a {run.device} with {run.threads} thread{"s" if run.threads != 1 else ""}:

{_listed(run.stages)}

## Training material

| photos | from | licence |
|---|---|---|
{material}

Low resolution is the antialiased bicubic reduction, rounded to 8 bit\
{", six of seven patches after JPEG (quality 60, 80, 92) or H.264 (CRF 20, 26, 31)" if camera else ""}.
No face data set and no benchmark picture was used.

## What it reaches

Y-PSNR in dB and SSIM, luma of BT.601, a border of {scale} pixels cropped; measured at the end of the training run.

{_scores(benchmarks, "test set")}

The same on the CID22 validation photos, after the low-resolution picture went through a codec:

{_scores(compressed, "compressed by")}

## Training curve

Y-PSNR on the 41 CID22 validation photos.

| step | minutes | loss | Y-PSNR dB |
|---|---|---|---|
{_curve(log)}

## What it does not do

It sharpens edges that are there; it invents no texture, and it does not stabilise video over time.
{_LIMITS[camera]}
"""


_LIMITS = {
    False: "Compression artefacts are taken for detail: blocks and ringing become sharper. "
    "For such input use the camera variant where there is one.",
    True: "On clean input it is softer than the variant without degradation, and its figures there are lower.",
}


def _listed(stages: tuple[str, ...]) -> str:
    return "\n".join(f"{place}. {stage}" for place, stage in enumerate(stages, start=1))


def _scores(scores: Mapping[str, tuple[Score, Score]], head: str) -> str:
    lines = [f"| {head} | bicubic | this net |", "|---|---|---|"]
    for name, (plain, net) in scores.items():
        lines.append(f"| {name} | {plain.psnr_y:.2f} / {plain.ssim_y:.4f} | {net.psnr_y:.2f} / {net.ssim_y:.4f} |")
    return "\n".join(lines)


def _curve(log: Path) -> str:
    with log.open(newline="") as file:
        rows = list(csv.reader(file))
    last = len(rows) - 1
    places = sorted({round(index * last / max(1, CURVE_POINTS - 1)) for index in range(CURVE_POINTS)})
    return "\n".join(
        f"| {int(rows[place][0]):,} | {float(rows[place][1]) / 60:.0f} | {rows[place][2]} | {rows[place][3]} |"
        for place in places
    )
