"""Train the shipped face detector ``face-detector``.

    python -m recipes.face_detector --out runs/face-detector --minutes 40

Training material is redistributable only: the portraits of members of the United States Congress (public domain) pasted
into CID22 and CLIC 2025 photos, these photos themselves, and the clips of TRAINING_CLIPS (public domain, Apache-2.0,
CC BY), all under ``$GENEDGE_ASSETS``. The teacher, YuNet (Wu et al., YuNet: A Tiny Millisecond-level Face Detector,
2023; Apache-2.0), labels what faces the photos and clips hold; those of the clips are pasted elsewhere too, for they
are seen from the side and in poor light as no official portrait is. The run is seeded, writes a checkpoint and a log
line every ``--every`` steps, and resumes from the checkpoint when started again. ``--start`` begins with the weights of
an earlier run instead of random ones.

The heads have YuNet's form, so that one decoder serves both. Cells near a face's centre are positive (FCOS, Tian et
al., 2019), the scores are trained by the quality focal loss (Li et al., Generalized Focal Loss, 2020), the boxes by
GIoU (Rezatofighi et al., 2019).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from export.detectors import STRIDES, FaceNet
from recipes.assets import assets_folder
from recipes.evaluation import Frame, read_image
from recipes.portraits import portrait_rows
from recipes.training import add_settings, settings_of
from runtime.faces.types import MIRRORED, Box

CHECKPOINT = "checkpoint.pt"
TRAINING_CLIPS = {  # clip -> how many of its frames, spread evenly
    "asl_book.mkv": 40,
    "asl_student.mkv": 40,
    "short_hamilton_clip.mp4": 275,
    "egoblur_two_people.mp4": 14,
    "bigbuckbunny.mp4": 40,
}
LENT = 24.0  # pixels of a clip's face, geometric mean of its sides, from which it is pasted elsewhere
SIDE = 320  # pixels of a prepared scene
SURE, MAYBE = 0.6, 0.3  # teacher's scores: a face; between them it is left open whether there is one


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on besides the pictures."""

    crop: int = 256
    batch: int = 16
    lr: float = 3e-3
    scenes: int = 9000
    clips: str = ",".join(TRAINING_CLIPS)
    steps: int = 200_000
    ema: float = 0.998
    seed: int = 2026


class Label(NamedTuple):
    """A face of a scene: left, top, width, height and five landmarks in pixels. ``open``: neither face nor none."""

    box: Box
    landmarks: NDArray[np.float32]
    open: bool


@dataclass(frozen=True)
class Scene:
    """``image``: uint8 (SIDE, SIDE, 3) BGR."""

    image: Frame
    labels: tuple[Label, ...]


# ------------------------------------------------------------------------------------------------
# Scenes
# ------------------------------------------------------------------------------------------------


class Teacher:
    """YuNet through OpenCV."""

    def __init__(self, assets: Path, low: float = MAYBE) -> None:
        model = str(assets / "weights" / "yunet" / "yunet_n_640_640.onnx")
        self._net = cv2.FaceDetectorYN.create(model, "", (SIDE, SIDE), low, 0.3, 500)

    def __call__(self, image: Frame) -> NDArray[np.float32]:
        """(n, 15): box, landmarks, score."""
        self._net.setInputSize((image.shape[1], image.shape[0]))
        _, faces = self._net.detect(image)
        return np.zeros((0, 15), np.float32) if faces is None else np.asarray(faces, np.float32)


def labels_of(found: NDArray[np.float32]) -> list[Label]:
    return [Label(Box(*map(float, row[:4])), row[4:14].reshape(5, 2).copy(), bool(row[14] < SURE)) for row in found]


class Portrait(NamedTuple):
    image: Frame
    box: Box
    landmarks: NDArray[np.float32]


def portraits_of(assets: Path) -> list[Portrait]:
    rows = portrait_rows(assets / "faces" / "congress_pd")
    return [Portrait(read_image(row.path), row.box, row.landmarks.astype(np.float32)) for row in rows if row.faces == 1]


def lent_faces(frames: list[Frame], teacher: Teacher) -> list[Portrait]:
    """The faces of clips' frames with what is around them, as if they were portraits."""
    result = []
    for frame in frames:
        scale = min(1.0, 640 / max(frame.shape[:2]))
        seen = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for row in teacher(seen):
            x, y, width, height = row[:4] / scale
            if row[14] < 0.7 or math.sqrt(max(0, width * height)) < LENT:
                continue
            left, top = max(0, round(x - width)), max(0, round(y - height * 0.8))
            part = frame[top : round(y + 2.2 * height), left : round(x + 2 * width)]
            box = Box(float(x - left), float(y - top), float(width), float(height))
            points = row[4:14].reshape(5, 2) / scale - (left, top)
            result.append(Portrait(np.ascontiguousarray(part), box, points.astype(np.float32)))
    return result


class SceneMaker:
    """Makes scenes from the material, one after the other, by a seeded random generator."""

    def __init__(self, assets: Path, seed: int, clips: tuple[str, ...] = tuple(TRAINING_CLIPS)) -> None:
        self.random = random.Random(seed)
        self.portraits = portraits_of(assets)
        photos = [*sorted((assets / "images/cid22").glob("train_*")), *sorted((assets / "images/clic2025").iterdir())]
        self.photos = [read_image(path) for path in photos if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
        self.clips = [clip_frames(assets / "video" / name, TRAINING_CLIPS[name]) for name in clips]
        self.teacher = Teacher(assets)
        self.lent = lent_faces([frame for frames in self.clips for frame in frames], self.teacher)
        # photos with people in them are rare and worth the most
        self.peopled = [photo for photo in self.photos if (self.teacher(photo)[:, 14] > SURE).any()]

    def scene(self) -> Scene:
        chance = self.random.random()
        if chance < 0.30:
            # of the clips the long ones more often, but none hardly ever
            clip = self.random.choices(self.clips, [math.sqrt(len(frames)) for frames in self.clips])[0]
            image = self.piece(self.random.choice(clip), smallest=0.3)
        elif chance < 0.42 and self.peopled:
            image = self.piece(self.random.choice(self.peopled))
        else:
            image = self.piece(self.random.choice(self.photos))
        labels = self.real(image, [])
        if self.random.random() < (0.9 if chance >= 0.42 else 0.2):
            pasted: list[Label] = []
            for _ in range(self.random.choice((1, 1, 1, 2, 2, 3, 4))):
                if label := self.paste(image, [*pasted, *labels]):
                    pasted.append(label)
            labels += pasted
        image = self.degraded(image)
        return Scene(image, (*labels, *self.real(image, labels)))

    def real(self, image: Frame, known: list[Label]) -> list[Label]:
        """What the teacher sees in ``image`` besides what is known, in its own size and enlarged: it is surer of
        small faces then."""
        labels = list(known)
        for factor in (1.0, 2.0):
            seen = image if factor == 1 else cv2.resize(image, None, fx=factor, fy=factor)
            for label in labels_of(self.teacher(seen)):
                found = Label(Box(*(side / factor for side in label.box)), label.landmarks / factor, label.open)
                if all(found.box.iou(other.box) < 0.3 for other in labels):
                    labels.append(found)
        return labels[len(known) :]

    def piece(self, photo: Frame, smallest: float = 0.45) -> Frame:
        """A square of a photo, reduced or a little enlarged to SIDE."""
        height, width = photo.shape[:2]
        side = round(min(height, width) * self.random.uniform(smallest, 1.0))
        y, x = self.random.randint(0, height - side), self.random.randint(0, width - side)
        piece = photo[y : y + side, x : x + side]
        way = cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR
        return np.ascontiguousarray(cv2.resize(piece, (SIDE, SIDE), interpolation=way))

    def paste(self, image: Frame, others: list[Label]) -> Label | None:
        """Put a portrait into ``image``; None where there is no room."""
        draw = self.random
        lent = bool(self.lent) and draw.random() < 0.3
        portrait = draw.choice(self.lent if lent else self.portraits)
        x, y, width, height = portrait.box
        largest = min(230.0, 1.6 * math.sqrt(width * height)) if lent else 230.0
        size = math.exp(draw.uniform(math.log(12), math.log(largest)))  # geometric mean of the face's sides
        factor = size / math.sqrt(width * height)
        angle = draw.gauss(0, 12) if draw.random() < 0.85 else draw.uniform(-70, 70)
        squeeze = draw.uniform(0.55, 1.0) if draw.random() < 0.35 else draw.uniform(0.92, 1.08)
        shear = draw.gauss(0, 0.08)
        turn = math.radians(angle)
        turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        linear = factor * turned @ np.array([[squeeze, shear], [0, 1]])
        center = np.array([x + width / 2, y + height / 2])
        target = np.array([draw.uniform(-0.02, 1.02) * SIDE, draw.uniform(0.0, 1.0) * SIDE])
        matrix = np.column_stack([linear, target - linear @ center]).astype(np.float32)
        # the box of the turned face: an ellipse, so smaller than that of the turned box
        half_w = math.hypot(linear[0, 0] * width, linear[0, 1] * height) / 2
        half_h = math.hypot(linear[1, 0] * width, linear[1, 1] * height) / 2
        box = Box(float(target[0] - half_w), float(target[1] - half_h), 2 * half_w, 2 * half_h)
        if any(box.iou(other.box) > 0.02 for other in others):
            return None
        source = portrait.image
        mask = np.zeros(source.shape[:2], np.uint8)
        if draw.random() < (0.5 if lent else 0.25):
            mask[:] = 255  # the whole portrait, background and all
        else:
            grow = draw.uniform(1.15, 1.9)
            axes = round(width * grow / 2 * 1.1), round(height * grow / 2 * 1.1)
            cv2.ellipse(mask, (round(center[0]), round(center[1] - 0.05 * height)), axes, 0, 0, 360, 255, -1)
            if draw.random() < 0.7:  # with neck and shoulders
                top, below = round(y + height * 0.8), (source.shape[1] // 2, source.shape[0] + 40)
                cv2.ellipse(mask, below, (round(width * 1.1), max(1, below[1] - top)), 0, 0, 360, 255, -1)
        if draw.random() < 0.5:
            source, mask = source[:, ::-1], mask[:, ::-1]
            mirror = np.array([[-1, 0, source.shape[1] - 1], [0, 1, 0], [0, 0, 1]], np.float32)
            matrix = np.column_stack([linear, target - linear @ (mirror[:2, :2] @ center + mirror[:2, 2])])
            points = (portrait.landmarks @ mirror[:2, :2].T + mirror[:2, 2])[MIRRORED]
        else:
            points = portrait.landmarks
        landmarks = (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
        if factor < 0.5:  # reduce first, else warping would alias
            sigma = 0.35 / factor
            source, mask = cv2.GaussianBlur(source, (0, 0), sigma), cv2.GaussianBlur(mask, (0, 0), sigma)
        warped = cv2.warpAffine(source, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpAffine(mask, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
        soft = max(0.6, size * draw.uniform(0.005, 0.06))
        alpha = cv2.GaussianBlur(alpha, (0, 0), soft)[..., None]
        toned = self.toned(warped)
        if draw.random() < 0.5:  # take on some of the scene's light
            region = alpha[..., 0] > 0.5
            if region.any():
                shift = image[region].mean(axis=0) - toned[region].mean(axis=0)
                toned = np.clip(toned + draw.uniform(0.2, 0.7) * shift, 0, 255)
        image[:] = np.clip(alpha * toned + (1 - alpha) * image, 0, 255).astype(np.uint8)
        visible = box.intersection(Box(0, 0, SIDE, SIDE)) / box.area
        if draw.random() < 0.15 and size > 24:
            self.occlude(image, box)
        return Label(box, landmarks, visible < 0.45 or size < 9)

    def occlude(self, image: Frame, box: Box) -> None:
        """Lay a piece of a photo over a part of a face: a hand, a microphone, a hat."""
        draw = self.random
        x, y, width, height = box
        piece = self.piece(draw.choice(self.photos))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        center = round(x + width * draw.uniform(0, 1)), round(y + height * draw.choice((0.0, 0.9, 1.0)))
        axes = max(1, round(width * draw.uniform(0.15, 0.5))), max(1, round(height * draw.uniform(0.1, 0.3)))
        cv2.ellipse(mask, center, axes, draw.uniform(0, 180), 0, 360, 255, -1)
        alpha = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None].astype(np.float32) / 255
        image[:] = (alpha * piece + (1 - alpha) * image).astype(np.uint8)

    def toned(self, image: Frame) -> NDArray[np.float32]:
        """Another brightness, contrast, warmth; side light; sometimes grey."""
        draw = self.random
        result = image.astype(np.float32) / 255
        result = result ** draw.uniform(0.55, 1.9)
        result *= np.array([draw.uniform(0.8, 1.2) for _ in range(3)], np.float32)
        if draw.random() < 0.3:
            light = np.linspace(draw.uniform(0.3, 1), draw.uniform(0.3, 1), SIDE, dtype=np.float32)
            result *= light[None, :, None] if draw.random() < 0.7 else light[:, None, None]
        if draw.random() < 0.1:
            result = np.repeat(result.mean(axis=2, keepdims=True), 3, axis=2)
        return np.clip(result * 255 * draw.uniform(0.6, 1.1), 0, 255)

    def degraded(self, image: Frame) -> Frame:
        draw = self.random
        if draw.random() < 0.25:  # a dark room
            light = draw.uniform(0.15, 0.7) * (image.astype(np.float32) / 255) ** draw.uniform(1.0, 1.6)
            image = (255 * light + draw.uniform(0, 12)).clip(0, 255).astype(np.uint8)
        if draw.random() < 0.25:
            image = cv2.GaussianBlur(image, (0, 0), draw.uniform(0.4, 1.8))
        if draw.random() < 0.1:  # motion
            length = draw.randint(3, 9)
            kernel = np.zeros((length, length), np.float32)
            kernel[length // 2] = 1 / length
            image = cv2.filter2D(image, -1, kernel)
        if draw.random() < 0.15:
            grain = np.random.default_rng(draw.randrange(1 << 30)).normal(0, draw.uniform(2, 12), image.shape)
            image = np.clip(image + grain, 0, 255).astype(np.uint8)
        if draw.random() < 0.5:
            image = cv2.imdecode(cv2.imencode(".jpg", image, [1, draw.randint(25, 92)])[1], cv2.IMREAD_COLOR)
        return np.ascontiguousarray(image, dtype=np.uint8)


def clip_frames(path: Path, count: int) -> list[Frame]:
    """``count`` frames that are spread over a clip."""
    from runtime.video.source import open_source

    with open_source(str(path)) as source:
        frames = [frame.image for frame in source]
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)
    return [frames[place] for place in places]


# ------------------------------------------------------------------------------------------------
# Batches and targets
# ------------------------------------------------------------------------------------------------

#: stride -> smallest and largest geometric mean of a face's sides that its cells answer for; they overlap
RANGES = {8: (0.0, 48.0), 16: (32.0, 112.0), 32: (80.0, 1e9)}


class Targets(NamedTuple):
    """Of one picture, cells of all strides in a row: ``score`` 1 face, 0 none, -1 left open; ``box`` (x, y, w, h) and
    ``landmarks`` (10) in pixels."""

    score: Tensor
    box: Tensor
    landmarks: Tensor


@cache
def cell_centers(side: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(A, 2) top left corners of all cells of a square picture in pixels, and (A,) their strides."""
    corners, strides = [], []
    for stride in STRIDES:
        count = side // stride
        rows, columns = np.mgrid[:count, :count]
        corners.append(np.stack([columns.ravel(), rows.ravel()], 1) * stride)
        strides.append(np.full(count * count, stride))
    return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(np.float32)


def targets_of(labels: list[Label], side: int) -> Targets:
    """What every cell shall say about a picture of ``side`` pixels."""
    corners, strides = cell_centers(side)
    centers = corners + strides[:, None] / 2
    score = np.zeros(len(corners), np.float32)
    box, landmarks = np.zeros((len(corners), 4), np.float32), np.zeros((len(corners), 10), np.float32)
    # small faces last: a cell that two faces want is the smaller one's
    for label in sorted(labels, key=lambda label: -label.box[2] * label.box[3]):
        x, y, width, height = label.box
        size = math.sqrt(max(1e-6, width * height))
        off = np.abs(centers - (x + width / 2, y + height / 2))
        inside = (off[:, 0] <= width / 2) & (off[:, 1] <= height / 2)
        if label.open:
            score[inside & (score == 0)] = -1
            continue
        radius = np.maximum(0.25 * size, 0.75 * strides)
        near = (off.max(axis=1) <= radius) & (off.max(axis=1) <= 1.5 * strides)
        for stride in STRIDES:
            low, high = RANGES[stride]
            mine = strides == stride
            if low <= size < high:
                chosen = near & mine
                score[chosen] = 1
                box[chosen] = label.box
                landmarks[chosen] = label.landmarks.ravel()
                ring = inside & mine & ~near & (score == 0) & (off.max(axis=1) <= 0.35 * size)
                score[ring] = -1
    return Targets(torch.from_numpy(score), torch.from_numpy(box), torch.from_numpy(landmarks))


class Batches:
    """Random crops of the scenes, mirrored and scaled."""

    def __init__(self, scenes: list[Scene], settings: Settings) -> None:
        self.scenes, self.settings = scenes, settings
        self.random = random.Random(settings.seed)

    def sample(self) -> tuple[Frame, Targets]:
        draw, crop = self.random, self.settings.crop
        scene = draw.choice(self.scenes)
        side = draw.uniform(0.55, 1.0) * SIDE if draw.random() < 0.6 else SIDE * draw.uniform(1.0, 1.6)
        factor = crop / side
        # beyond the scene lies grey, as beside a letterboxed frame
        x, y = (draw.uniform(min(0.0, SIDE - side), max(0.0, SIDE - side)) for _ in range(2))
        matrix = np.array([[factor, 0, -x * factor], [0, factor, -y * factor]], np.float32)
        image = scene.image
        if factor < 0.8:
            image = cv2.GaussianBlur(image, (0, 0), 0.4 / factor)
        image = cv2.warpAffine(image, matrix, (crop, crop), flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114))
        labels = []
        for label in scene.labels:
            left, top = (label.box[0] - x) * factor, (label.box[1] - y) * factor
            box = Box(left, top, label.box[2] * factor, label.box[3] * factor)
            visible = box.intersection(Box(0, 0, crop, crop)) / max(1e-6, box.area)
            if visible <= 0:
                continue
            points = ((label.landmarks - (x, y)) * factor).astype(np.float32)
            unclear = label.open or visible < 0.5 or math.sqrt(box.area) < 8
            labels.append(Label(box, points, unclear))
        if draw.random() < 0.5:
            image = image[:, ::-1]
            labels = [mirrored(label, crop) for label in labels]
        return np.ascontiguousarray(image), targets_of(labels, crop)

    def batch(self) -> tuple[Tensor, Targets]:
        """uint8 (N, H, W, 3) BGR and the targets (N, A, ...)."""
        images, targets = zip(*(self.sample() for _ in range(self.settings.batch)), strict=True)
        return torch.from_numpy(np.stack(images)), Targets(
            *(torch.stack(parts) for parts in zip(*targets, strict=True))
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Targets]]:
        while True:
            yield self.batch()


def mirrored(label: Label, side: int) -> Label:
    x, y, width, height = label.box
    points = label.landmarks[MIRRORED].copy()
    points[:, 0] = side - 1 - points[:, 0]
    return Label(Box(side - x - width, y, width, height), points, label.open)


# ------------------------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------------------------


def loss_of(heads: dict[str, Tensor], targets: Targets, side: int) -> Tensor:
    """Scores, boxes and landmarks of one batch; ``heads`` before the sigmoid, as ``FaceNet.heads`` gives them."""
    corners, strides = (torch.from_numpy(part) for part in cell_centers(side))
    cls, obj, box, points = (
        torch.cat([heads[f"{name}_{s}"] for s in STRIDES], 1) for name in ("cls", "obj", "bbox", "kps")
    )
    positive = targets.score == 1
    count = positive.sum().clamp(min=1)
    scale = strides[None, :, None]
    place = corners[None] + box[..., :2] * scale
    size = box[..., 2:].clamp(-4, 5).exp() * scale
    found = torch.cat([place - size / 2, place + size / 2], -1)[positive]
    wanted = torch.cat([targets.box[..., :2], targets.box[..., :2] + targets.box[..., 2:]], -1)[positive]
    quality = giou(found, wanted)
    box_loss = (1 - quality).sum() / count
    with torch.no_grad():
        aim = torch.zeros_like(targets.score)
        aim[positive] = quality.clamp(0, 1) * 0.5 + 0.5  # a good box says more
        hard = (targets.score == 1).float()
    known = (targets.score >= 0).float()
    score_loss = (focal(obj[..., 0], aim, known) + focal(cls[..., 0], hard, known)) / count
    where = (corners[None, :, None] + points.unflatten(-1, (5, 2)) * strides[None, :, None, None])[positive]
    extent = targets.box[positive][:, 2:].mean(-1).clamp(min=4)[:, None, None]
    off = (where - targets.landmarks[positive].unflatten(-1, (5, 2))) / extent
    point_loss = functional.smooth_l1_loss(off, torch.zeros_like(off), beta=0.05, reduction="sum") / (10 * count)
    return score_loss + 2 * box_loss + 4 * point_loss


def focal(logits: Tensor, aim: Tensor, known: Tensor) -> Tensor:
    """Quality focal loss with exponent 2, summed over what is known."""
    plain = functional.binary_cross_entropy_with_logits(logits, aim, reduction="none")
    return (plain * (logits.sigmoid() - aim).square() * known).sum()


def giou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised intersection over union of (n, 4) corner boxes, -1 to 1."""
    common = (torch.min(one[:, 2:], other[:, 2:]) - torch.max(one[:, :2], other[:, :2])).clamp(min=0).prod(1)
    both = (one[:, 2:] - one[:, :2]).prod(1) + (other[:, 2:] - other[:, :2]).prod(1) - common
    hull = (torch.max(one[:, 2:], other[:, 2:]) - torch.min(one[:, :2], other[:, :2])).prod(1)
    return common / both.clamp(min=1e-6) - (hull - both) / hull.clamp(min=1e-6)


def prepared(assets: Path, settings: Settings, out: Path) -> list[Scene]:
    """The scenes of a run, made once and kept in its folder."""
    path = out / "scenes.npz"
    if not path.exists():
        maker = SceneMaker(assets, settings.seed, tuple(settings.clips.split(",")))
        begun = time.monotonic()
        scenes = [maker.scene() for _ in range(settings.scenes)]
        print(
            f"{len(scenes)} scenes in {time.monotonic() - begun:.0f} s, {len(maker.peopled)} photos hold faces, "
            f"{len(maker.lent)} faces lent by clips",
            flush=True,
        )
        counts = [len(scene.labels) for scene in scenes]
        rows = [(*label.box, *label.landmarks.ravel(), label.open) for scene in scenes for label in scene.labels]
        np.savez(
            path,
            images=np.stack([scene.image for scene in scenes]),
            counts=np.array(counts),
            rows=np.array(rows, np.float32).reshape(-1, 15),
        )
    with np.load(path) as data:
        images, counts, rows = data["images"], data["counts"], data["rows"]
    ends = np.cumsum(counts)
    result = []
    for image, end, count in zip(images, ends, counts, strict=True):
        labels = tuple(
            Label(Box(*map(float, row[:4])), row[4:14].reshape(5, 2), bool(row[14])) for row in rows[end - count : end]
        )
        result.append(Scene(image, labels))
    return result


def train(settings: Settings, out: Path, assets: Path, minutes: float, every: int, start: Path | None = None) -> Path:
    """Run or resume a training; returns the path of the ``.safetensors`` file."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    net, average = FaceNet(), FaceNet()
    started_from = ""
    if start is not None:
        started_from = hashlib.sha256(start.read_bytes()).hexdigest()
        net.load_state_dict(load_file(start))
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.lr, weight_decay=1e-3)
    step, spent = 0, 0.0
    saved = out / CHECKPOINT
    if saved.exists():
        state = torch.load(saved, map_location="cpu", weights_only=True)
        if state["settings"] != asdict(settings):
            raise SystemExit(f"{saved} was made with other settings; choose another --out or delete it")
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent, started_from = state["step"], state["spent"], state["start"]
        print(f"resumed at step {step}", flush=True)
    batches = Batches(prepared(assets, settings, out), settings)
    batches.random.seed(settings.seed + step)
    started, losses = time.monotonic(), []
    net.train()
    # what follows is updated in place; counts of batches, which nothing reads, are left out
    averaged, current = (
        [value for value in each.state_dict().values() if value.dtype.is_floating_point] for each in (average, net)
    )
    pool = ThreadPoolExecutor(1)
    made = pool.submit(batches.batch)
    while True:
        elapsed = spent + time.monotonic() - started
        progress = max(step / settings.steps, elapsed / (minutes * 60))
        if progress >= 1 or (step and step % every == 0 and losses):
            row = [step, round(elapsed), round(float(np.mean(losses or [0.0])), 4)]
            print(f"step {row[0]} {row[1]} s loss {row[2]}", flush=True)
            if losses:
                with (out / "log.csv").open("a", newline="") as log:
                    csv.writer(log).writerow(row)
            losses.clear()
            state = {
                "settings": asdict(settings),
                "net": net.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent": elapsed,
                "start": started_from,
            }
            torch.save(state, out / "checkpoint.tmp")
            (out / "checkpoint.tmp").replace(saved)
            save_file(average.state_dict(), out / "face-detector.safetensors")
        if progress >= 1:
            break
        factor = min(1.0, (step + 1) / 300) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * factor
        images, targets = made.result()
        made = pool.submit(batches.batch)
        with torch.autocast("cpu", torch.bfloat16):
            heads = net.heads(images)
        loss = loss_of({name: head.float() for name, head in heads.items()}, targets, settings.crop)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(settings.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(averaged, current, 1 - decay)
        losses.append(float(loss.detach()))
        step += 1
    pool.shutdown()
    return out / "face-detector.safetensors"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.face_detector", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: scenes, checkpoint, log, weights")
    parser.add_argument("--minutes", type=float, default=40, help="the schedule ends after this time at the latest")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for all")
    parser.add_argument("--start", type=Path, help=".safetensors of an earlier run to begin with")
    add_settings(parser, Settings())
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    settings = settings_of(options, Settings)
    written = train(settings, options.out, assets_folder(), options.minutes, options.every, options.start)
    print(f"wrote {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
