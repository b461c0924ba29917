"""Ship a trained face detector: its weights, its card with measured figures, and the bundle that the runtime carries.

    python -m recipes.face_detector_card runs/face-detector

reads ``face-detector.safetensors``, ``checkpoint.pt`` and ``log.csv`` of a run of :mod:`recipes.face_detector` and
writes ``export/detector_weights/face-detector.safetensors`` and ``.md`` and the folder ``runtime/faces/face-detector``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from recipes import face_evaluation as evaluation
from recipes.assets import assets_folder
from recipes.evaluation import Frame, read_image

ROOT = Path(__file__).resolve().parents[1]
NAME = "face-detector"
REQUIRED = 0.95  # of the faces that YuNet is sure of
TRAINED_ON = "congress portraits (public domain) in CID22 and CLIC 2025 photos, five clips; YuNet's labels"
MATERIAL = (
    ("874 portraits of members of the United States Congress", "United States Congress", "public domain"),
    ("CID22, the 209 training photos", "Cloudinary", "CC BY-SA 4.0"),
    ("CLIC 2025, 25 photos", "Unsplash photographers", "Unsplash licence"),
    ("asl_book.mkv, asl_student.mkv", "sign language clips", "CC BY 4.0"),
    ("short_hamilton_clip.mp4", "example of ageitgey/face_recognition", "public domain"),
    ("egoblur_two_people.mp4", "example of facebookresearch/EgoBlur", "Apache-2.0"),
    ("bigbuckbunny.mp4", "Blender Foundation", "CC BY 3.0"),
    ("labels by YuNet (teacher)", "Shiqi Yu and others", "Apache-2.0"),
)

#: what somebody saw in the pictures, by the weights' digest: it holds for no others
LOOKED_AT: dict[str, str] = {}


@dataclass(frozen=True)
class Run:
    """The facts of a finished training. ``seconds`` and ``steps`` are those of the checkpoint."""

    settings: Mapping[str, Any]
    steps: int
    seconds: float
    parameters: int
    sha256: str
    curve: tuple[tuple[int, float, float], ...]  # step, seconds, loss
    start: str = ""  # sha256 of the weights that it began with


def read_run(folder: Path) -> Run:
    """Of a run's folder. Raises :class:`SystemExit` where it is not finished enough to ship."""
    import torch
    from safetensors.torch import load_file

    from export.detectors import FaceNet

    weights, checkpoint = folder / f"{NAME}.safetensors", folder / "checkpoint.pt"
    if not weights.is_file() or not checkpoint.is_file():
        raise SystemExit(f"{folder}: no trained detector there; run python -m recipes.face_detector --out {folder}")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = FaceNet()
    net.load_state_dict(load_file(weights))
    with (folder / "log.csv").open(newline="") as file:
        curve = tuple((int(row[0]), float(row[1]), float(row[2])) for row in csv.reader(file))
    return Run(
        state["settings"],
        int(state["step"]),
        float(state["spent"]),
        sum(parameter.numel() for parameter in net.parameters()),
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        curve,
        str(state.get("start", "")),
    )


def card_text(
    run: Run, tallies: Mapping[str, evaluation.Tally], trained: Mapping[str, evaluation.Tally] | None = None
) -> str:
    """Markdown. What is missed comes before how it was made. ``tallies``: of what was not trained on; ``trained``: of
    what was."""
    clips = sum((tally for name, tally in tallies.items() if name.startswith("video/")), evaluation.Tally())
    photos = sum((tally for name, tally in tallies.items() if not name.startswith("video/")), evaluation.Tally())
    share = clips.found / clips.wanted if clips.wanted else 0.0
    verdict = (
        f"It finds {100 * share:.1f} % of the {clips.wanted} faces that YuNet is sure of in clips that it was not "
        f"trained on. "
    )
    if share >= REQUIRED:
        verdict += f"The requirement is {100 * REQUIRED:.0f} %: met."
    else:
        verdict += f"**The requirement is {100 * REQUIRED:.0f} %: not met.**"
    if photos.wanted:
        verdict += f"\nIn photos of crowds it finds {100 * photos.found / photos.wanted:.1f} % of {photos.wanted}."
    verdict += (
        "\nUse it only where YuNet cannot be had, and look at the result: faces stay uncovered that YuNet would find."
    )
    material = "\n".join(f"| {what} | {who} | {licence} |" for what, who, licence in MATERIAL)
    rows = [run.curve[round(place * (len(run.curve) - 1) / 11)] for place in range(12)] if run.curve else []
    curve = "\n".join(f"| {s:,} | {t / 60:.0f} | {loss} |" for s, t, loss in dict.fromkeys(rows))
    started = f" The training began with the weights {run.start[:12]}… of an earlier one." if run.start else ""
    return f"""# {NAME}

Finds faces with five landmarks. It takes the place of YuNet on a machine that cannot fetch it.
{run.parameters:,} parameters: plain and depthwise convolutions with ReLU, a pyramid of strides 8, 16 and 32 by nearest
enlargement and addition, and heads of YuNet's form. Input: `uint8 (N, H, W, 3)` BGR, sides multiples of 32.

{verdict}

- File: `{NAME}.safetensors`, sha256 `{run.sha256}`
- Licence of the weights: Apache-2.0
- Made with: `python -m recipes.face_detector --out runs/{NAME} --minutes {run.seconds / 60:.0f}
  --lr {run.settings["lr"]}{" --start EARLIER.safetensors" if run.start else ""}`, then
  `python -m recipes.face_detector_card runs/{NAME}`; the schedule follows the clock, so another run gives other weights
- {run.steps:,} steps of {run.settings["batch"]} pictures of {run.settings["crop"]} pixels, AdamW, learning rate
  {run.settings["lr"]}, {run.seconds / 60:.0f} minutes on a CPU

## What it finds, and what it misses

Whole frames at long sides of 640 and 320 pixels, merged. Wanted are faces that YuNet, which sees the same, gives a
score of {evaluation.TEACHER_SURE} or more and that have {evaluation.SMALLEST:.0f} pixels or more in the frame; found is
an IoU of {evaluation.SAME} or more. False is what YuNet gives less than {evaluation.TEACHER_MAYBE}. YuNet is no truth:
what both miss counts nowhere, and what only this one finds counts as false.

{evaluation.table(tallies)}

These clips it was trained on, so they say less:

{evaluation.table(trained or {})}

Scores are lower than YuNet's: a threshold of {evaluation.HIGH} loses many faces. In photos much larger than 640 pixels
small faces need tiles, which the runtime adds and this table does not.{LOOKED_AT.get(run.sha256, "")}
All portraits are official ones of politicians who look at the
camera; how well groups of people are found was not measured. Clips of the test hold few people: an earlier training,
without the Hamilton clip, found 85.4 % of its faces at 0.25, so material unlike all of this costs more than the first
table shows.

## Training material

| material | from | licence |
|---|---|---|
{material}

No face data set and nothing of the first table was used.{started}

## Training curve

| step | minutes | loss |
|---|---|---|
{curve}
"""


def parity_frames(assets: Path) -> list[Frame]:
    """Frames of several sizes that PyTorch and the engines are compared on."""
    crowd = read_image(assets / "faces" / "crowds" / "deface_city.jpg")
    portrait = read_image(next(iter(sorted((assets / "faces" / "congress_pd" / "450x550").iterdir()))))
    return [cv2.resize(crowd, (640, 384)), cv2.resize(crowd, (320, 192)), cv2.resize(portrait, (256, 320))]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.face_detector_card", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("run", type=Path, help="folder of the training")
    parser.add_argument("--weights-folder", type=Path, default=ROOT / "export" / "detector_weights")
    parser.add_argument("--bundle", type=Path, default=ROOT / "runtime" / "faces" / NAME)
    options = parser.parse_args(arguments)
    import torch

    from export.detectors import write_detector_bundle

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    assets, run = assets_folder(), read_run(options.run)
    options.weights_folder.mkdir(parents=True, exist_ok=True)
    weights = options.weights_folder / f"{NAME}.safetensors"
    shutil.copyfile(options.run / f"{NAME}.safetensors", weights)
    weights.chmod(0o644)  # the training writes it for its owner only
    differences = write_detector_bundle(weights, options.bundle, trained_on=TRAINED_ON, frames=parity_frames(assets))
    print("largest difference of a head from PyTorch:", {name: f"{most:.1e}" for name, most in differences.items()})
    detect = evaluation.from_graph((options.bundle / "model.fp32.onnx").read_bytes())
    text = card_text(
        run, evaluation.evaluated(detect, assets), evaluation.evaluated(detect, assets, evaluation.TRAINED)
    )
    weights.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
