"""Write the model card of ``face-deid`` from the figures of a run.

    python -m recipes.face_deid_card --run runs/face-deid --figures runs/face-deid/figures.json \\
        --bundle bundles/face-deid --limits FILE --weights export/weights/face-deid.safetensors

The figures of the tables come from these files; the file ``--limits`` holds what somebody has seen and written down.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from export.generators import load_generator

POINTS = 10  # rows of the training curve that the card shows
TRAINED = "MobileFaceNet (in training)"
APART = "dlib ResNet (not in training)"


def percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f} %"


def verdict(value: float | None, limit: float, *, least: bool = False) -> str:
    """Whether ``value`` keeps to ``limit``, for the last column."""
    if value is None:
        return "not measured"
    return "met" if (value >= limit if least else value <= limit) else "**missed**"


def both(figures: dict[str, Any], version: str, key: str) -> tuple[float | None, float | None]:
    """What the recogniser of the training says, and the other one."""
    found = [figures.get(name, {}).get(version, {}).get(key) for name in (TRAINED, APART)]
    return found[0], found[1]


def two_judges(
    number: str, title: str, figures: dict[str, Any], version: str, key: str, limits: tuple[float, float]
) -> str:
    first, second = both(figures, version, key)
    worst = "met" if verdict(first, limits[0]) == verdict(second, limits[1]) == "met" else "**missed**"
    if second is None:
        worst = f"{verdict(first, limits[0])} by the first; no second recogniser"
    wanted = f"<= {100 * limits[0]:g} % / <= {100 * limits[1]:g} %"
    return f"| {number} | {title} | {percent(first)} / {percent(second)} | {wanted} | {worst} |"


def acceptance(figures: dict[str, Any], int8: dict[str, Any]) -> list[str]:
    """Rows of the acceptance table."""
    use, clip, parrot = figures["use"], figures["clip"], figures["parrot"]
    lfw, faces = use["generator, LFW"], use["generator, portraits"]
    attack = figures[TRAINED]["thumbnail attack"]
    excess = parrot["generator"] - parrot["solid"]
    found = min(row[key] for row in (lfw, faces) for key in ("found by YuNet", "found by face-detector"))
    error = max(lfw["landmark error"], faces["landmark error"])
    apart, apart_other = both(figures, "codes", "told apart")
    least = clip["least likeness to the track's mean"]
    rows = [
        two_judges("A1", "original against covered, other pictures of the person (LFW)", figures, "generator", "pairs",
                   (0.01, 0.02)),
        two_judges("A2", "same picture before and after, LFW", figures, "generator", "same picture, LFW", (0.02, 0.03)),
        two_judges("A2", "same picture before and after, held-out portraits", figures, "generator",
                   "same picture, portraits", (0.02, 0.03)),
        two_judges("A3", "rank 1 among 1,016 LFW pictures", figures, "generator", "rank 1", (0.01, 0.01)),
        f"| A4 | parrot, {parrot['people']} people, {parrot['codes that the attacker learns from']} codes: more than "
        f"on a flat colour | {100 * excess:.1f} points ({percent(parrot['generator'])} against "
        f"{percent(parrot['solid'])}) | <= 5 points | {verdict(excess, 0.05)}; wanted were 158 people and "
        "64 codes |",
        "| A5 | a network that rebuilds the original from the covered picture | not measured; in its place a linear "
        "regression from the net's inputs to MobileFaceNet's embedding, learnt from 700 people: pairs "
        f"{percent(attack['pairs'])}, rank 1 {percent(attack['rank 1'])} | <= 5 % | not measured as wanted |",
        f"| A6 | found again by YuNet and, every fourth, by `face-detector` | {percent(found)} at least | >= 97 % | "
        f"{verdict(found, 0.97, least=True)} |",
        f"| A7 | landmarks, share of the distance of the eyes | {percent(lfw['landmark error'])} LFW, "
        f"{percent(faces['landmark error'])} portraits | <= 6 % | {verdict(error, 0.06)}; pose was not measured |",
        f"| A8 | one clip of {clip['frames']} frames: consecutive cosine | {clip['consecutive likeness']:.3f} | >= .9 "
        f"| {verdict(clip['consecutive likeness'], 0.9, least=True)} |",
        f"| A8 | least cosine to the mean of the clip | {least:.3f} | above the threshold in 95 % | "
        f"{verdict(least, figures[TRAINED]['threshold'], least=True)} |",
        f"| A8 | flicker: change inside of the face, over the original's own | {clip['flicker ratio']:.2f} | <= 1.3 | "
        f"{verdict(clip['flicker ratio'], 1.3)} |",
        f"| A9 | pairs of passcodes told apart | {percent(apart)} / {percent(apart_other)} | >= 80 % | "
        f"{verdict(min(v for v in (apart, apart_other) if v is not None), 0.8, least=True)} |",
        f"| A10 | INT8 (ONNX Runtime) against PyTorch, PSNR | {int8['psnr_db']:.1f} dB | >= 32 dB | "
        f"{verdict(int8['psnr_db'], 32, least=True)}; A1 and A6 were not repeated in INT8 |",
    ]  # fmt: skip
    plain, _ = both(figures, "generator", "pairs")
    for kind in ("JPEG 75", "CRF 28"):
        after, _ = both(figures, f"generator, {kind}", "pairs")
        assert plain is not None and after is not None  # noqa: PT018
        rows.append(
            f"| A11 | A1 after {kind}, first recogniser | {percent(after)} | within 1 point | "
            f"{verdict(abs(after - plain), 0.01)} |"
        )
    return rows


def beside(figures: dict[str, Any]) -> list[str]:
    """Rows that compare with the other methods."""
    rows = []
    for version in ("generator", "average", "blur", "solid"):
        cells = [
            percent(value)
            for key in ("pairs", "same picture, portraits", "rank 1")
            for value in both(figures, version, key)
        ]
        rows.append(f"| {version} | {' | '.join(cells)} |")
    return rows


def curve(log: Path) -> list[str]:
    rows = list(csv.DictReader(log.open(newline="")))
    places = sorted({round(i * (len(rows) - 1) / (POINTS - 1)) for i in range(POINTS)})
    keys = ("step", "seconds", "held_out", "likeness", "together", "apart")
    return [f"| {' | '.join(rows[place][key] or '-' for key in keys)} |" for place in places]


def card_text(run: Path, figures: dict[str, Any], int8: dict[str, Any], weights: Path, fixed: str) -> str:
    """Markdown of the card. ``fixed``: what somebody has seen in the sample sheets, in sentences."""
    settings = json.loads((run / "settings.json").read_text())
    loaded, _ = load_generator(weights)
    parameters = sum(parameter.numel() for parameter in loaded.net.parameters())
    mine, other = figures[TRAINED], figures.get(APART)
    second = "no second recogniser was at hand" if other is None else (
        f"dlib's ResNet (threshold {-other['threshold']:.3f} in distance) "
        f"{percent(other['original and original']['pairs'])} of them"
    )  # fmt: skip
    codes = [judge["codes"]["grey levels"] for judge in (mine, other) if judge is not None]
    new, minutes = "\n", round(settings["seconds"] / 60)
    return f"""# face-deid

Draws the face of somebody else: 96 x 96, from an 8 x 8 thumbnail of the face (with noise that is fixed for a track),
five landmarks that were drawn towards the mean, the surroundings, and 16 bits of a passcode. {parameters:,} parameters:
a U-Net of 3x3 convolutions with ReLU and no norms, whose features the bits scale and shift. The bundle takes and gives
`uint8` BGR crops as `runtime/faces/sanitise.py` makes them; `runtime/faces/generator.py` does all of it for one face.

**Irreversible by construction as far as the thumbnail goes**: the network takes the cells' means before anything else,
so the sharp face never reaches it, and no attack on its output can find out more than the best one on its inputs. What
a thumbnail and landmarks say of a person it does pass on; how much that is at most was not measured (A5).

- File: `face-deid.safetensors`, sha256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`
- Licence of the weights: Apache-2.0
- Made with: `python -m recipes.face_deid --out runs/face-deid --minutes {minutes}`, {settings["step"]:,} steps of
  {settings["batch"]} on one thread of a busy {settings["device"].upper()}; see "How the run went"
- Measured with: `python -m recipes.face_deid_evaluation bundles/face-deid --run runs/face-deid --out FILE`

## Training material

| what | from | licence |
|---|---|---|
| 700 portraits, one a person (174 more are measured on only) | members of the United States Congress | public domain |

Only while training: MobileFaceNet (foamliu, Apache-2.0) keeps identities away, VGG-19 features (normalised, repository
under Apache-2.0) compare pictures. Neither is in the file.

## Acceptance

Two figures are MobileFaceNet / dlib's ResNet, which stands in for the SFace that was wanted.
**MobileFaceNet took part in the training, so its figures flatter.**
Thresholds: one in a thousand pairs of two people in LFW passes ({mine["impostor pairs"]:,} pairs). At them, of the
{figures["pairs"]} genuine pairs of originals MobileFaceNet (cosine {mine["threshold"]:.3f}) accepts
{percent(mine["original and original"]["pairs"])}; {second}.

| | measure | reached | wanted | |
|---|---|---|---|---|
{new.join(acceptance(figures, int8))}

Two codes differ by {codes[0]:.1f} grey levels on average over the shown face. Covered faces of the clip have a mean
cosine of {figures["clip"]["likeness to the original"]:.3f} to the original.

### Beside the other methods

Each twice, MobileFaceNet and dlib's ResNet: pairs (A1), same picture of held-out portraits (A2), rank 1 (A3).

| method | A1 | A1 dlib | A2 | A2 dlib | A3 | A3 dlib |
|---|---|---|---|---|---|---|
{new.join(beside(figures))}

## What it does not reach

{fixed}

## Training

Held-out error: mean absolute error, in grey levels, of held-out portraits rebuilt from their own 16 numbers. Likeness,
together, apart: mean cosines (MobileFaceNet, shaken pictures) of invented faces to the original, to the same code, and
to another code.

| step | seconds | held-out error | likeness | together | apart |
|---|---|---|---|---|---|
{new.join(curve(run / "log.csv"))}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True, help="built with INT8 for ONNX Runtime")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--limits", type=Path, required=True, help="sentences on what was seen, Markdown")
    options = parser.parse_args(arguments)
    int8 = int8_parity(options.bundle)
    text = card_text(
        options.run, json.loads(options.figures.read_text()), int8, options.weights, options.limits.read_text().strip()
    )
    options.weights.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0


def int8_parity(bundle: Path) -> dict[str, float]:
    """Mean figures of the variant ``int8-ort`` against PyTorch."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    figures: dict[str, float] = manifest["artifacts"]["int8-ort"]["parity"]["onnxruntime-int8"]
    return figures


if __name__ == "__main__":
    sys.exit(main())
