"""Train the shipped face generator ``face-deid``.

    python -m recipes.face_deid --out runs/face-deid --minutes 40

Training material: the 874 portraits of members of the United States Congress (public domain) below ``$GENEDGE_ASSETS``;
a fifth of the people is held out. The run is seeded, writes a checkpoint, a log line and a sheet of samples every
``--every`` steps, and resumes from the checkpoint when started again. ``--minutes`` counts all runs together.

The net learns to rebuild a portrait from its thumbnail, its landmarks and 16 numbers that say what the thumbnail does
not: the principal components of the remaining detail, whitened and turned by a Hadamard matrix, so that each number
counts as much as another, and a random code of -1 and 1 is as far from the mean as the numbers of a real face. Once
trained it gets random bits instead of those numbers, and draws the detail of a face that is not there. In the second
half of the run faces with random bits have to look real (PatchGAN, hinge) and keep the thumbnail; for an embedder they
have to be another person than the one replaced, the same one in two pictures of a person, and others with other bits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from export.generators.face_deid import FaceDeidNet, FaceDeidShape, seen_of
from recipes.assets import assets_folder
from recipes.face_losses import Discriminator, FaceEmbedder, Vgg, recognised_part, shaken
from recipes.portraits import portrait_rows
from runtime.faces import blend, sanitise
from runtime.faces.types import MIRRORED, Box

CHECKPOINT = "checkpoint.pt"
NAME = "face-deid"
VIEWS = 3  # of each portrait, with its landmarks moved as a detector's are
BITS = 16
REACH = 2.0  # of the numbers that stand for bits in training

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on besides the pictures. ``late``: share of the time after which faces are invented."""

    batch: int = 16
    lr: float = 1.2e-3
    late: float = 0.45
    ema: float = 0.997
    seed: int = 2026
    pixels: float = 3.0
    low_pass: float = 10.0
    perceptual: float = 1.0
    adversarial: float = 0.15
    away: float = 2.0
    same: float = 1.0
    apart: float = 1.5
    limit: float = 0.05
    limit_apart: float = 0.15
    bfloat16: bool = True


@dataclass(frozen=True)
class Portrait:
    """A portrait's ``file``, picture, box of the face and five landmarks in pixels."""

    file: str
    image: Image
    box: Box
    landmarks: NDArray[np.float32]

    def mirrored(self) -> Portrait:
        width = self.image.shape[1]
        points = self.landmarks[MIRRORED].copy()
        points[:, 0] = width - 1 - points[:, 0]
        box = self.box._replace(x=width - self.box.x - self.box.width)
        return Portrait(self.file, np.ascontiguousarray(self.image[:, ::-1]), box, points)


def read_portraits(assets: Path) -> list[Portrait]:
    rows = sorted(portrait_rows(assets / "faces" / "congress_pd"), key=lambda row: row.file)
    return [Portrait(row.file, cv2.imread(str(row.path)), row.box, row.landmarks.astype(np.float32)) for row in rows]


def held_out(count: int, seed: int = 2026) -> NDArray[np.bool_]:
    """Which of ``count`` people are for evaluation only: a fifth. Every portrait is of another person."""
    order = np.random.default_rng(seed).permutation(count)
    chosen = np.zeros(count, bool)
    chosen[order[: count // 5]] = True
    return chosen


def surroundings(portrait: Portrait) -> Image:
    """The portrait with its face replaced by a continuation of what is around it, as ``runtime.faces.methods`` does."""
    height, width = portrait.image.shape[:2]
    region = portrait.box.scaled(1.6, 1.8)
    mask = blend.ellipse_mask(region, (0, 0, width, height))
    return blend.mixed(portrait.image, blend.background_fill(portrait.image, mask), mask)


@dataclass(frozen=True)
class Crops:
    """Aligned crops, all uint8 (people, views, SIDE, SIDE, 3) BGR, and what goes with them.

    ``plain``: as they are; ``filled``: with the face replaced by its surroundings. ``landmarks``: (people, views, 10),
    as the net gets them. The last :data:`VIEWS` views are mirrored ones.
    """

    files: tuple[str, ...]
    plain: Image
    filled: Image
    landmarks: NDArray[np.float32]


def prepare(assets: Path, seed: int = 2026) -> Crops:
    random = np.random.default_rng(seed)
    sanitiser = sanitise.FaceSanitiser()
    files, plain, filled, landmarks = [], [], [], []
    for portrait in read_portraits(assets):
        rows: list[tuple[Image, Image, NDArray[np.float32]]] = []
        for seen in (portrait, portrait.mirrored()):
            around = surroundings(seen)
            eyes = float(np.hypot(*(seen.landmarks[1] - seen.landmarks[0])))
            for view in range(VIEWS):
                moved = seen.landmarks + (view > 0) * 0.025 * eyes * random.standard_normal((5, 2))
                matrix = sanitise.matrix_for(moved.astype(np.float32))
                shape = sanitiser.shape_of(moved.astype(np.float32), matrix)
                rows.append((sanitise.aligned(seen.image, matrix), sanitise.aligned(around, matrix), shape))
        files.append(portrait.file)
        for target, column in zip((plain, filled, landmarks), zip(*rows, strict=True), strict=True):
            target.append(np.stack(column))
    return Crops(tuple(files), np.stack(plain), np.stack(filled), np.stack(landmarks))


def load_crops(assets: Path, cache: Path) -> Crops:
    """Those of :func:`prepare`, kept in the file ``cache``."""
    if not cache.is_file():
        crops = prepare(assets)
        part = cache.with_suffix(".part.npz")
        np.savez(part, files=np.array(crops.files), plain=crops.plain, filled=crops.filled, landmarks=crops.landmarks)
        part.replace(cache)
    with np.load(cache) as content:
        files = tuple(str(name) for name in content["files"])
        return Crops(files, content["plain"], content["filled"], content["landmarks"])


# ------------------------------------------------------------------------------------------------
# What a thumbnail does not say, as numbers
# ------------------------------------------------------------------------------------------------


def detail_numbers(crops: Crops, known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(people, views, 16): numbers with mean 0 and deviation 1 for the detail of every crop.

    Detail is what a linear regression from thumbnail and landmarks leaves, in the luma and, weaker, the two colour
    differences of the erased rectangle at half the size. Components and regression come from the ``known`` people.
    """
    people, views = crops.plain.shape[:2]
    shown = sanitise.hull()[sanitise.ERASED].astype(np.float32) / np.float32(255)
    details, causes = [], []
    for crop, landmarks in zip(
        crops.plain.reshape(-1, *crops.plain.shape[2:]), crops.landmarks.reshape(-1, 10), strict=True
    ):
        inside = crop[sanitise.ERASED]
        thumbnail = sanitise.thumbnail_of(crop)
        rough = cv2.resize(thumbnail, inside.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        left = (inside.astype(np.float32) - rough) * shown[..., None]
        small = cv2.resize(left, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        blue, green, red = (small[..., index] for index in range(3))
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        details.append(np.concatenate([luma.ravel(), 0.4 * (red - luma).ravel(), 0.4 * (blue - luma).ravel()]))
        causes.append(np.concatenate([thumbnail.ravel() / 64, 4 * landmarks, [1.0]]))
    detail, cause = np.stack(details).astype(np.float64), np.stack(causes).astype(np.float64)
    taught = np.repeat(known, views)
    gram = cause[taught].T @ cause[taught]
    weights = np.linalg.solve(
        gram + 0.02 * np.trace(gram) / len(gram) * np.eye(len(gram)), cause[taught].T @ detail[taught]
    )
    rest = detail - cause @ weights
    middle = rest[taught].mean(0)
    _, scale, axes = np.linalg.svd(rest[taught] - middle, full_matrices=False)
    share = float((scale[:BITS] ** 2).sum() / (scale**2).sum())
    print(f"{BITS} numbers hold {100 * share:.0f} % of the detail's variance", flush=True)
    numbers = (rest - middle) @ axes[:BITS].T / (scale[:BITS] / math.sqrt(taught.sum()))
    turned = numbers @ hadamard(BITS)
    return np.clip(turned, -REACH, REACH).astype(np.float32).reshape(people, views, BITS)


def hadamard(size: int) -> NDArray[np.float64]:
    """The orthogonal matrix of Sylvester's construction; ``size`` is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix / math.sqrt(size)


# ------------------------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------------------------


def to_planes(frames: Image) -> Tensor:
    """BGR ``uint8 (N, H, W, 3)`` to RGB ``float32 (N, 3, H, W)`` 0..1."""
    return torch.from_numpy(np.ascontiguousarray(frames[..., ::-1])).permute(0, 3, 1, 2).float().div_(255)


@dataclass(frozen=True)
class Batch:
    """``frame``: what the net gets, (N, 3, SIDE, SIDE); ``truth``: the crops; ``filled``: with the face replaced."""

    frame: Tensor
    truth: Tensor
    filled: Tensor
    landmarks: Tensor
    numbers: Tensor
    people: NDArray[np.int64]


class Sampler:
    def __init__(self, crops: Crops, numbers: NDArray[np.float32], people: NDArray[np.int64], seed: int) -> None:
        self.crops, self.numbers, self.people = crops, numbers, people
        self.random = np.random.default_rng(seed)

    def pairs(self, count: int) -> Batch:
        """``count`` / 2 people, two views of each, one behind the other."""
        people = np.repeat(self.random.choice(self.people, count // 2, replace=False), 2)
        mirrored = np.repeat(self.random.integers(0, 2, count // 2), 2)
        first = self.random.integers(0, VIEWS, count // 2)
        views = np.stack([first, (first + self.random.integers(1, VIEWS, count // 2)) % VIEWS], 1).ravel()
        return self._batch(people, mirrored * VIEWS + views)

    def singles(self, count: int) -> Batch:
        people = self.random.choice(self.people, count, replace=False)
        return self._batch(people, self.random.integers(0, 2 * VIEWS, count))

    def _batch(self, people: NDArray[np.int64], views: NDArray[np.int64]) -> Batch:
        count = len(people)
        gain = torch.from_numpy(self.random.normal(1, 0.05, (count, 1, 1, 1)).astype(np.float32))
        gain = gain * torch.from_numpy(self.random.normal(1, 0.02, (count, 3, 1, 1)).astype(np.float32))
        truth = (to_planes(self.crops.plain[people, views]) * gain).clamp(0, 1)
        filled = (to_planes(self.crops.filled[people, views]) * gain).clamp(0, 1)
        # the net is used on frames whose region has been filled, and should also work on those where it has not
        whole = torch.from_numpy(self.random.random((count, 1, 1, 1)) < 0.25)
        frame = torch.where(whole, truth, filled)
        rows, columns = sanitise.ERASED
        height, width = (rows.stop - rows.start) // sanitise.CELLS, (columns.stop - columns.start) // sanitise.CELLS
        noise = self.random.normal(0, sanitise.NOISE / 255, (count, 3, sanitise.CELLS, sanitise.CELLS)).astype(
            np.float32
        )
        cells = torch.from_numpy(noise.repeat(height, 2).repeat(width, 3))
        frame[:, :, rows, columns] = truth[:, :, rows, columns] + cells  # its means are the thumbnail, see seen_of
        landmarks = torch.from_numpy(self.crops.landmarks[people, views])
        return Batch(frame, truth, filled, landmarks, torch.from_numpy(self.numbers[people, views]), people)


def reference_embeddings(crops: Crops, embedder: FaceEmbedder) -> Tensor:
    """(people, 128): the mean over both mirror images of every portrait."""
    vectors = []
    with torch.no_grad():
        for start in range(0, len(crops.plain), 32):
            part = crops.plain[start : start + 32]
            both = [embedder(recognised_part(to_planes(part[:, view]))) for view in (0, VIEWS)]
            vectors.append(functional.normalize(both[0] + both[1], dim=1))
    return torch.cat(vectors)


class Run:
    """A training run in the folder ``out``; made again from the same folder it goes on where it was."""

    def __init__(self, assets: Path, out: Path, settings: Settings, device: str = "cpu") -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.settings, self.device = out, settings, torch.device(device)
        torch.manual_seed(settings.seed)
        self.crops = load_crops(assets, out / "crops.npz")
        self.apart = held_out(len(self.crops.files))
        numbers = out / "numbers.npy"
        if not numbers.is_file():
            np.save(numbers, detail_numbers(self.crops, ~self.apart))
        self.numbers = np.load(numbers)
        self.sampler = Sampler(self.crops, self.numbers, np.flatnonzero(~self.apart), settings.seed)
        self.vgg, self.embedder = Vgg(assets).to(self.device), FaceEmbedder(assets).to(self.device)
        self.known = self._references(assets)
        self.net = made_net().to(self.device, memory_format=torch.channels_last)
        self.average = made_net().to(self.device)
        self.average.load_state_dict(self.net.state_dict())
        self.critic = Discriminator().to(self.device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.net.parameters(), settings.lr, betas=(0.9, 0.99))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), 4e-4, betas=(0.0, 0.99))
        self.chance = torch.Generator().manual_seed(settings.seed)
        rows, columns = sanitise.ERASED
        self.inside = (slice(None), slice(None), rows, columns)
        shown = torch.from_numpy(sanitise.hull().astype(np.float32) / 255)[None, None].to(self.device)
        self.hull = shown
        self.weight = 0.15 + 0.85 * shown[self.inside]
        self.step, self.seconds = 0, 0.0
        path = out / CHECKPOINT
        if path.is_file():
            state = torch.load(path, weights_only=True, map_location=self.device)
            for name in ("net", "average", "critic", "optimizer", "critic_optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.step, self.seconds = state["step"], state["seconds"]
            self.sampler.random = np.random.default_rng(settings.seed + self.step)
            self.chance.manual_seed(settings.seed + self.step)

    def _references(self, assets: Path) -> Tensor:
        path = self.out / "embeddings.npy"
        if not path.is_file():
            np.save(path, reference_embeddings(self.crops, self.embedder.cpu()).numpy())
            self.embedder.to(self.device)
        return torch.from_numpy(np.load(path)).to(self.device)

    def _forward(self, batch: Batch, numbers: Tensor) -> Tensor:
        frame = batch.frame.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            result = self.net(frame, batch.landmarks.to(self.device), numbers.to(self.device))
        return result.float()

    def _distance(self, one: Tensor, other: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            first = self.vgg(one.to(memory_format=torch.channels_last))
            with torch.no_grad():
                second = self.vgg(other.to(memory_format=torch.channels_last))
        # features of the normalised net have a mean of about 1 in the first layer and less in the second
        return sum((a.float() - b.float()).abs().mean() for a, b in zip(first, second, strict=True))

    def rebuilt(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss of a batch whose portraits are rebuilt from their own numbers, and the result."""
        s = self.settings
        result = self._forward(batch, batch.numbers)
        truth = batch.truth.to(self.device)
        inside, goal = result[self.inside], truth[self.inside]
        loss = s.pixels * ((inside - goal).abs() * self.weight).mean()
        return loss + s.perceptual * self._distance(inside * self.weight, goal * self.weight), result

    def invented(self, batch: Batch, share: float) -> tuple[Tensor, dict[str, float]]:
        """Loss of pairs of pictures with a random code for each pair; ``share`` is 0 to 1, how much it counts."""
        s = self.settings
        alike = self.step % 4 < 2  # else the two pictures of a person have codes of their own
        codes = torch.randint(0, 2, (len(batch.people), BITS), generator=self.chance).float() * 2 - 1
        if alike:
            codes[1::2] = codes[::2]
        result = self._forward(batch, codes)
        low = functional.avg_pool2d(result[self.inside], (10, 6)) - functional.avg_pool2d(
            seen_of(batch.frame.to(self.device))[0][self.inside], (10, 6)
        )
        loss = s.low_pass * functional.relu(low.abs() - 0.01).mean()
        truth = batch.truth.to(self.device)
        fake, real = result[self.inside] * self.weight, truth[self.inside] * self.weight
        for parameter in self.critic.parameters():
            parameter.requires_grad_(True)
        judged_fake, judged_real = self.critic(fake.detach()), self.critic(real)
        critic_loss = functional.relu(1 + judged_fake).mean() + functional.relu(1 - judged_real).mean()
        self.critic_optimizer.zero_grad(set_to_none=True)
        critic_loss.backward()
        self.critic_optimizer.step()
        for parameter in self.critic.parameters():
            parameter.requires_grad_(False)
        loss = loss - share * s.adversarial * self.critic(fake).mean()
        parts = {"critic": float(critic_loss.detach())}
        if self.step % 2 == 0:
            shown = batch.filled.to(self.device) + self.hull * (result - batch.filled.to(self.device))
            vectors = self.embedder(shaken(recognised_part(shown), self.chance))
            likeness = (vectors * self.known[torch.from_numpy(batch.people)]).sum(1)
            together = (vectors[::2] * vectors[1::2]).sum(1)
            pairs = (1 - together) if alike else functional.relu(together - s.limit_apart)
            weight = s.same if alike else s.apart
            loss = loss + share * (s.away * functional.relu(likeness - s.limit).mean() + weight * pairs.mean())
            parts |= {
                "likeness": float(likeness.detach().mean()),
                "together" if alike else "apart": float(together.detach().mean()),
            }
        return loss, parts

    def train(self, minutes: float, every: int) -> None:
        s = self.settings
        started, budget = time.monotonic() - self.seconds, minutes * 60
        log = self.out / "log.csv"
        if not log.exists():
            log.write_text("step,seconds,rebuilding,held_out,likeness,together,apart,critic,samples_per_second\n")
        sums: dict[str, list[float]] = {}
        marked, marked_step = time.monotonic(), self.step
        while (progress := (time.monotonic() - started) / budget) < 1:
            rate = min(1.0, (self.step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
            for group in self.optimizer.param_groups:
                group["lr"] = s.lr * rate
            late = progress > s.late
            if late:
                loss, _ = self.rebuilt(self.sampler.singles(s.batch // 2))
                sums.setdefault("rebuilding", []).append(float(loss.detach()))
                more, parts = self.invented(self.sampler.pairs(s.batch // 2), min(1.0, (progress - s.late) / 0.1))
                loss = loss + more
                for name, value in parts.items():
                    sums.setdefault(name, []).append(value)
            else:
                loss, _ = self.rebuilt(self.sampler.singles(s.batch))
                sums.setdefault("rebuilding", []).append(float(loss.detach()))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            decay = min(s.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for mean, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
                    mean.lerp_(value, 1 - decay)
            if self.step % every == 0:
                self.seconds = time.monotonic() - started
                means = {name: float(np.mean(values)) for name, values in sums.items()}
                speed = (self.step - marked_step) * s.batch / (time.monotonic() - marked)
                shown = ("likeness", "together", "apart", "critic")
                columns = [f"{means[name]:.4f}" if name in means else "" for name in shown]
                line = f"{self.step},{self.seconds:.0f},{means['rebuilding']:.4f},{self.held_out_error():.4f},"
                line += f"{','.join(columns)},{speed:.1f}"
                with log.open("a") as file:
                    file.write(line + "\n")
                print(line, flush=True)
                self.save()
                sums, marked, marked_step = {}, time.monotonic(), self.step
        self.seconds = time.monotonic() - started
        self.save()

    @torch.no_grad()
    def held_out_error(self, count: int = 48) -> float:
        """Mean absolute error, in grey levels, of held-out portraits that are rebuilt from their own numbers."""
        people = np.flatnonzero(self.apart)[:count]
        frame, landmarks = sanitised(self.crops, people, filled=True)
        made = self.average(
            frame.to(self.device), landmarks.to(self.device), torch.from_numpy(self.numbers[people, 0]).to(self.device)
        )
        error = (made.cpu() - to_planes(self.crops.plain[people, 0])).abs()[self.inside] * self.hull[self.inside].cpu()
        return float(255 * error.sum() / (3 * len(people) * self.hull.sum().cpu()))

    def save(self) -> None:
        names = ("net", "average", "critic", "optimizer", "critic_optimizer")
        state = {name: getattr(self, name).state_dict() for name in names}
        part = self.out / f"{CHECKPOINT}.part"
        torch.save({**state, "step": self.step, "seconds": self.seconds}, part)
        part.replace(self.out / CHECKPOINT)
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.average.state_dict().items()}
        save_file(weights, self.out / f"{NAME}.safetensors")
        facts = {**asdict(self.settings), "step": self.step, "seconds": round(self.seconds), "device": self.device.type}
        facts["held_out"] = [self.crops.files[index] for index in np.flatnonzero(self.apart)]
        (self.out / "settings.json").write_text(json.dumps(facts, indent=1))
        cv2.imwrite(str(self.out / "sheet.png"), sheet(self.average.cpu(), self.crops, self.numbers, self.apart))
        self.average.to(self.device)


def made_net() -> FaceDeidNet:
    """A net with random weights that at first gives the enlarged thumbnail, whatever the code."""
    net = FaceDeidNet(FaceDeidShape())
    for layer in (net.out, *(block.second for block in net.blocks)):
        layer.weight.data.mul_(0.1)  # type: ignore[union-attr]
    return net


def sanitised(
    crops: Crops, people: NDArray[np.int64], *, filled: bool, view: int = 0, seed: int = 7
) -> tuple[Tensor, Tensor]:
    """Frames and landmarks for the net, made by the runtime's own functions from prepared crops."""
    frames = []
    for person in people:
        around = (crops.filled if filled else crops.plain)[person, view]
        noise = sanitise.fixed_noise(seed * 100_003 + int(person))
        frames.append(sanitise.erased(around, sanitise.thumbnail_of(crops.plain[person, view]) + noise))
    return to_planes(np.stack(frames)), torch.from_numpy(crops.landmarks[people, view])


def write_crops(crops: Crops, folder: Path, count: int = 64) -> None:
    """Sanitised crops of ``count`` training people as PNG, to calibrate INT8 with: those of whole portraits cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    people = np.flatnonzero(~held_out(len(crops.files)))[:count]
    frames, _ = sanitised(crops, people, filled=True)
    for person, frame in zip(people, (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1], strict=True):
        cv2.imwrite(str(folder / f"{Path(crops.files[person]).stem}.png"), frame)


def random_codes(count: int, seed: int = 0) -> Tensor:
    """(count, 16) of -1 and 1."""
    return torch.randint(0, 2, (count, BITS), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


@torch.no_grad()
def drawn_faces(net: nn.Module, crops: Crops, people: NDArray[np.int64], codes: Tensor, view: int = 0) -> Image:
    """The replaced faces on their surroundings, uint8 (N, SIDE, SIDE, 3) BGR."""
    frame, landmarks = sanitised(crops, people, filled=True, view=view)
    made = net(frame, landmarks, codes).clamp(0, 1)
    pictures = (made * 255).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1]
    weight = sanitise.hull().astype(np.float32)[..., None] / 255
    around = crops.filled[people, view].astype(np.float32)
    return np.rint(around + weight * (pictures.astype(np.float32) - around)).astype(np.uint8)


def sheet(
    net: nn.Module, crops: Crops, numbers: NDArray[np.float32], apart: NDArray[np.bool_], count: int = 7
) -> Image:
    """Held-out people, one a row: portrait, thumbnail, rebuilt from its own numbers, then six codes."""
    people = np.flatnonzero(apart)[:count]
    rows = []
    columns = [drawn_faces(net, crops, people, torch.from_numpy(numbers[people, 0]))]
    columns += [drawn_faces(net, crops, people, code.expand(len(people), -1)) for code in random_codes(6, 3)]
    for index, person in enumerate(people):
        seen = sanitised(crops, people[index : index + 1], filled=True)[0]
        thumbnail = (seen[0] * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
        row = [crops.plain[person, 0], thumbnail, *(column[index] for column in columns)]
        rows.append(np.concatenate(row, 1))
    return cv2.resize(np.concatenate(rows), None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=40, help="of all runs in this folder together")
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--crops", type=Path, metavar="FOLDER", help="only write sanitised crops for calibration there")
    options = parser.parse_args(arguments)
    if options.crops:
        write_crops(load_crops(assets_folder(), options.out / "crops.npz"), options.crops)
        return 0
    torch.set_num_threads(options.threads)
    run = Run(assets_folder(), options.out, Settings(), options.device)
    run.train(options.minutes, options.every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
