"""Make the bank of average faces that replaces the faces of real people.

    python -m recipes.average_faces --out runtime/faces --sheet docs/average-faces.jpg

Every face of the bank is the mean of at least :data:`PEOPLE` different people, and nobody is in two of them. Material:
the public domain portraits ``faces/congress_pd`` below ``$GENEDGE_ASSETS``. The run draws from a seeded generator and
gives the same bank again on the same version of OpenCV.

Replacing a face by the mean of k faces is k-Same (Newton, Sweeney and Malin, Preserving privacy by de-identifying face
images, IEEE TKDE 17(2), 2005), except that nobody who is replaced has to be in the bank. Aligning each portrait to the
running mean by optical flow, and the mean flow back, keeps the mean sharp (after the averages of active appearance
models, Cootes et al., 2001). The flow is DIS (Kroeger et al., Fast optical flow using dense inverse search, 2016).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.assets import assets_folder
from recipes.portraits import portrait_rows
from runtime.faces.align import similarity

Image = NDArray[np.uint8]

FACES = 24
PEOPLE = 22
WIDTH, HEIGHT = 160, 208
COLUMNS = 6
ROUNDS = 5

TEMPLATE = np.array([(51.0, 93.0), (109.0, 93.0), (80.0, 128.5), (52.5, 149.5), (107.5, 149.5)], np.float32)
"""Where the landmarks are in a face of the bank: the mean of the portraits, made symmetric."""

GREY = 6.0
"""Portraits whose mean difference of blue and red is below this are black and white, and are left out."""

TURNED = 0.12
"""Portraits whose nose is further from the middle of the eyes than this, in distances of the eyes, are left out."""


SKIN = (14.0, 17.0)
"""Mean a and b (Lab) of a face in neutral light, towards which old prints with a colour cast are moved."""


@dataclass(frozen=True)
class Portraits:
    """Aligned portraits ``images`` (N, HEIGHT, WIDTH, 3) BGR and the ``names`` of their files."""

    names: tuple[str, ...]
    images: Image


def read_portraits(folder: Path) -> Portraits:
    """All portraits of ``folder`` that look at the camera and are in colour, brought to :data:`TEMPLATE`."""
    names, images = [], []
    for row in sorted(portrait_rows(folder), key=lambda row: row.file):
        points = row.landmarks
        eyes, middle = points[1] - points[0], (points[0] + points[1]) / 2
        aside = float((points[2] - middle) @ eyes / (eyes @ eyes))
        if abs(aside) > TURNED or row.colour < GREY or row.faces != 1:
            continue
        image = cv2.imread(str(row.path))
        matrix = similarity(points, TEMPLATE)
        small = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
        images.append(balanced(small))
        names.append(row.file)
    return Portraits(tuple(names), np.stack(images).astype(np.uint8))


def balanced(image: Image, share: float = 0.6) -> Image:
    """``image`` with ``share`` of the difference between its mean colour and :data:`SKIN` taken away, light kept."""
    lab = cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_BGR2LAB)
    _, red, yellow, _ = cv2.mean(lab, hull())
    lab += np.float32([0, share * (SKIN[0] - red), share * (SKIN[1] - yellow)])
    out = cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)
    return np.clip(np.rint(255 * out), 0, 255).astype(np.uint8)


def hull() -> Image:
    """(HEIGHT, WIDTH): how much of a face is shown, 255 from forehead to chin and ear to ear, with a soft edge that
    takes in some hair at the top."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    middle, aside = 112.0, np.abs(x - 79.5)
    top = np.hypot(aside / 63, (middle - y) / 108)
    chin = np.sqrt((aside / 63) ** 2.2 + (np.maximum(0, y - middle) / 86) ** 2)
    edge = np.where(y < middle, 0.14 + 0.10 * (middle - y) / 108, 0.14)
    soft = np.clip((1 - np.where(y < middle, top, chin)) / edge, 0, 1)
    return np.rint(255 * soft * soft * (3 - 2 * soft)).astype(np.uint8)


def features(images: Image, parts: int = 24) -> NDArray[np.float64]:
    """(N, parts): principal components of the small faces in Lab, colour counted more than light."""
    shown = cv2.resize(hull(), (20, 26), interpolation=cv2.INTER_AREA).astype(np.float64) / 255
    rows = []
    for image in images:
        small = cv2.resize(image, (20, 26), interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
        lab = cv2.cvtColor(small, cv2.COLOR_BGR2LAB).astype(np.float64) * (1.0, 1.5, 1.5) * shown[..., None]
        rows.append(lab.reshape(-1))
    matrix = np.stack(rows)
    matrix -= matrix.mean(0)
    left, scale, _ = np.linalg.svd(matrix, full_matrices=False)
    # the square root keeps the first components (light, skin) from deciding alone
    return np.asarray(left[:, :parts] * np.sqrt(scale[:parts]))


def groups(points: NDArray[np.float64], count: int, least: int, seed: int = 0) -> NDArray[np.int64]:
    """(N,) group of each point: k-means whose groups have at least ``least`` members."""
    if len(points) < count * least:
        raise ValueError(f"{len(points)} people are too few for {count} groups of {least}")
    random = np.random.default_rng(seed)
    centres = [points[random.integers(len(points))]]
    while len(centres) < count:  # k-means++: the next centre is likely far from the others
        far = np.min([((points - centre) ** 2).sum(1) for centre in centres], 0)
        centres.append(points[random.choice(len(points), p=far / far.sum())])
    middle = np.stack(centres)
    label = np.zeros(len(points), np.int64)
    for _ in range(50):
        distance = ((points[:, None] - middle[None]) ** 2).sum(2)
        new = _with_least(distance, least)
        middle = np.stack([points[new == index].mean(0) for index in range(count)])
        if (new == label).all():
            break
        label = new
    return label


def _with_least(distance: NDArray[np.float64], least: int) -> NDArray[np.int64]:
    """Nearest centre for each row of ``distance``, then small groups take who loses least from those with enough."""
    label = distance.argmin(1)
    count = distance.shape[1]
    while (sizes := np.bincount(label, minlength=count)).min() < least:
        small = int(sizes.argmin())
        loss = distance[:, small] - distance[np.arange(len(label)), label]
        loss[(sizes[label] <= least) | (label == small)] = np.inf
        label[int(loss.argmin())] = small
    return label


def average(images: Image, rounds: int = ROUNDS) -> Image:
    """The mean face of ``images`` in their mean shape, (HEIGHT, WIDTH, 3)."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    mean = _mean(images)
    for turn in range(rounds):
        # a line of one person must not draw the flow of all the others to it
        target = _levelled(np.rint(cv2.GaussianBlur(mean, (0, 0), 1.0)).astype(np.uint8))
        moves = []
        for image in images:
            move = flow.calc(target, _levelled(image), np.zeros((HEIGHT, WIDTH, 2), np.float32))
            moves.append(cv2.GaussianBlur(move, (0, 0), max(3.0, 8.0 / (1 + turn))))
        back = np.mean(moves, 0)
        warped = [
            cv2.remap(
                image,
                x + (move - back)[..., 0],
                y + (move - back)[..., 1],
                cv2.INTER_CUBIC,
                borderMode=cv2.BORDER_REPLICATE,
            ).astype(np.float32)
            for image, move in zip(images, moves, strict=True)
        ]
        mean = _mean(np.stack(warped))
    soft = cv2.GaussianBlur(mean, (0, 0), 2.0)
    return np.clip(np.rint(mean + 0.7 * (mean - soft)), 0, 255).astype(np.uint8)


def _mean(images: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Winsorised mean over the first axis: no pixel of one person (the brim of a hat) counts for more than those of the
    eighth of the people next to it."""
    low, high = np.percentile(images, (12.5, 87.5), axis=0)
    return np.asarray(np.clip(images, low, high).mean(0), np.float32)


def _levelled(image: Image) -> Image:
    """Grey, with light and contrast evened out, so that the flow follows shapes and not shadows."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
    local = grey - cv2.GaussianBlur(grey, (0, 0), 16)
    spread = np.sqrt(cv2.GaussianBlur(local * local, (0, 0), 16)) + 20
    return np.clip(np.rint(128 + 48 * local / spread), 0, 255).astype(np.uint8)


def sheet(faces: Sequence[Image]) -> Image:
    """All faces side by side, :data:`COLUMNS` in a row."""
    rows = [np.hstack(faces[start : start + COLUMNS]) for start in range(0, len(faces), COLUMNS)]
    return np.vstack(rows)


def card(people: Sequence[Sequence[str]]) -> str:
    sizes = [len(group) for group in people]
    return f"""# Average faces

`average_faces.png` holds {len(people)} faces of nobody, {WIDTH}x{HEIGHT} pixels each, {COLUMNS} in a row; its fourth
channel says how much of each is shown (forehead to chin, ear to ear). `average_faces.json` gives their landmarks and
the portraits that each was made from.

* **Method:** k-Same (Newton, Sweeney and Malin, 2005): every face is the mean of {min(sizes)} to {max(sizes)} different
  people, {sum(sizes)} in all, nobody in two faces. People who look alike (colour and light of the aligned portrait; no
  face recogniser) are averaged together, so that the faces differ. Each portrait is aligned by five landmarks and by
  optical flow to the running mean; the mean is winsorised, so that nothing of one person alone shows, and sharpened a
  little.
* **Source:** portraits of members of the Congress of the United States, `congress/450x550` of github.com/jforms/images
  at commit 7eb7278, saved again as JPEG of quality 82; CC0 1.0 by the LICENSE there. No likeness of one person is in
  the bank.
* **Licence:** the bank is dedicated to the public domain like its source (CC0 1.0).
* **Made by:** `python -m recipes.average_faces --out runtime/faces --sheet docs/average-faces.jpg`
* **Limits:** the people are adult politicians of one country, more men than women and more light skins than dark ones,
  and so are the faces. All look at the camera and most smile. As means they are alike: a face
  recogniser takes most of them for one person. Somebody who is in the bank is hidden less well by the very face that
  he or she is in.

| face | people |
|---|---|
""" + "".join(f"| {index} | {size} |\n" for index, size in enumerate(sizes))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the bank of average faces.")
    parser.add_argument("--out", type=Path, required=True, help="folder for average_faces.png, .json and .md")
    parser.add_argument("--sheet", type=Path, help="JPEG of all faces on grey, to look at")
    options = parser.parse_args(arguments)
    portraits = read_portraits(assets_folder() / "faces" / "congress_pd")
    label = groups(features(portraits.images), FACES, PEOPLE)
    faces, people = [], []
    for index in range(FACES):
        faces.append(average(portraits.images[label == index]))
        people.append([name for name, group in zip(portraits.names, label, strict=True) if group == index])
    order = np.argsort([-int(face[76:166, 40:120].mean()) for face in faces], kind="stable")
    faces, people = [faces[i] for i in order], [people[i] for i in order]
    options.out.mkdir(parents=True, exist_ok=True)
    shown = hull()
    # what is not shown is flat: it would only make the file larger
    masked = [np.dstack([np.where(shown[..., None] > 0, face, 128).astype(np.uint8), shown]) for face in faces]
    cv2.imwrite(str(options.out / "average_faces.png"), sheet(masked), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    facts = {"width": WIDTH, "height": HEIGHT, "count": FACES, "columns": COLUMNS, "landmarks": TEMPLATE.tolist()}
    (options.out / "average_faces.json").write_text(json.dumps({**facts, "people": people}, indent=1) + "\n")
    (options.out / "average_faces.md").write_text(card(people))
    if options.sheet:
        weight = shown[..., None] / 255
        grey = [np.rint(face * weight + 96 * (1 - weight)).astype(np.uint8) for face in faces]
        cv2.imwrite(str(options.sheet), sheet(grey), [cv2.IMWRITE_JPEG_QUALITY, 85])
    print(f"{len(portraits.names)} people, {FACES} faces of {min(map(len, people))} to {max(map(len, people))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
