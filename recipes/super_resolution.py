"""Train the shipped super-resolution nets ``sr-x2`` and ``sr-x4``.

    python -m recipes.super_resolution --scale 2 --out runs/sr-x2 --minutes 90

Training data is redistributable material only: the ``train`` photos of CID22, CLIC 2025 and Kodak
under ``$GENEDGE_ASSETS/images``. The run is seeded, writes a checkpoint and a log line every
``--every`` steps and resumes from the checkpoint when started again.

Methods taken from the literature: re-parameterised linear blocks that are collapsed inside the
forward pass (Bhardwaj et al., Collapsible Linear Blocks for Super-Efficient Super Resolution,
MLSys 2022), the repeated-input anchor (Du et al., CVPRW 2021), the Muon optimiser (Jordan et al.,
2024; its quintic Newton-Schulz coefficients, and the step size of Liu et al., Muon is Scalable for
LLM Training, 2025).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from export.generators.compact import CompactNet
from recipes.assets import assets_folder
from recipes.evaluation import (
    Frame,
    Score,
    bicubic,
    crop_to_multiple,
    plain_bicubic,
    read_image,
    score_folder,
)
from recipes.model_card import Training, card_text
from recipes.training import add_settings, settings_of

CHECKPOINT = "checkpoint.pt"
LUMA = torch.tensor([65.481, 128.553, 24.966]) / 219.0  # weights of Y among R, G, B; they sum to 1


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on besides the pictures."""

    scale: int = 2
    width: int = 32
    depth: int = 6
    expansion: int = 64
    branches: bool = True
    optimizer: str = "muon"
    lr: float = 2e-3
    batch: int = 16
    patch: int = 48
    steps: int = 60_000
    loss: str = "charbonnier"
    luma_weight: float = 1.0
    ema: float = 0.999
    camera: bool = False
    bfloat16: bool = True
    seed: int = 2026


class Branched(nn.Module):
    """A convolution kernel written as the sum of linear branches, for training only.

    ``kernel()`` collapses the branches: a plain 3x3, a 3x3 that expands to ``expansion`` channels
    followed by a 1x1, and the identity where input and output have as many channels. All
    parameters are matrices, so a matrix optimiser can take them as they are.
    """

    def __init__(self, inputs: int, outputs: int, expansion: int) -> None:
        super().__init__()
        self.shape = (outputs, inputs, 3, 3)
        spread = 1 / math.sqrt(inputs * 9)
        self.plain = nn.Parameter(torch.empty(outputs, inputs * 9).uniform_(-spread, spread))
        self.expand = self.project = None
        if expansion:
            self.expand = nn.Parameter(torch.empty(expansion, inputs * 9).uniform_(-spread, spread))
            limit = 1 / math.sqrt(expansion)
            self.project = nn.Parameter(torch.empty(outputs, expansion).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.zeros(outputs))
        identity = torch.zeros(self.shape)
        if inputs == outputs and expansion:
            nn.init.dirac_(identity)
        self.register_buffer("identity", identity, persistent=False)

    def kernel(self) -> Tensor:
        weight = self.plain
        if self.expand is not None and self.project is not None:
            weight = weight + self.project @ self.expand
        return weight.view(self.shape) + self.identity


class TrainedNet(nn.Module):
    """``CompactNet`` over collapsed branches; ``collapsed()`` returns the net that ships."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        channels = [3, *[s.width] * (s.depth + 1), 3 * s.scale**2]
        expansion = s.expansion if s.branches else 0
        self.blocks = nn.ModuleList(Branched(first, second, expansion) for first, second in pairwise(channels))
        with torch.no_grad():  # start from the plain repeated input
            for parameter in (self.blocks[-1].plain, self.blocks[-1].project):
                if parameter is not None:
                    parameter.mul_(0.1)

    def forward(self, image: Tensor) -> Tensor:
        features = image
        for block in self.blocks[:-1]:
            features = torch.relu(functional.conv2d(features, block.kernel(), block.bias, padding=1))
        last = self.blocks[-1]
        residual = functional.conv2d(features, last.kernel(), last.bias, padding=1)
        anchor = image.repeat_interleave(self.settings.scale**2, dim=1)
        return functional.pixel_shuffle(residual + anchor, self.settings.scale)

    @torch.no_grad()
    def collapsed(self) -> CompactNet:
        s = self.settings
        net = CompactNet(s.scale, s.width, s.depth)
        for conv, block in zip(net.convs, self.blocks, strict=True):
            conv.weight.copy_(block.kernel())
            conv.bias.copy_(block.bias)
        return net.eval()


# ------------------------------------------------------------------------------------------------
# Data
# ------------------------------------------------------------------------------------------------


def training_files(assets: Path) -> list[Path]:
    """The redistributable training photos, sorted."""
    images = assets / "images"
    files = [
        *sorted((images / "cid22").glob("train_*.jpg")),
        *sorted((images / "clic2025").glob("*.jpg")),
        *sorted((images / "kodak").glob("*.png")),
    ]
    if not files:
        raise SystemExit(f"{images}: no training photo there; set GENEDGE_ASSETS to the test material")
    return files


def compressed(frame: Frame, quality: int) -> Frame:
    """What a camera's JPEG or MJPEG stream would make of ``frame`` (4:2:0 chroma)."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    done, data = cv2.imencode(".jpg", frame, options)
    if not done:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def h264_round_trip(frame: Frame, crf: int) -> Frame:
    """Encode one frame as H.264 at ``crf`` and decode it again."""
    import io

    import av

    memory = io.BytesIO()
    height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="bgr24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    memory.seek(0)
    with av.open(memory) as container:
        decoded = next(container.decode(video=0)).to_ndarray(format="bgr24")
    result = frame.copy()
    result[:height, :width] = decoded
    return result


class Patches:
    """Random pairs of low- and high-resolution patches, flipped and rotated.

    Each photo is held at full size and at 0.7 of it (a second sharpness), together with its
    antialiased bicubic reduction; with ``camera`` also with compressed reductions.
    """

    def __init__(self, files: list[Path], settings: Settings) -> None:
        self.settings = settings
        self.random = random.Random(settings.seed)
        self.pairs: list[tuple[list[Frame], Frame]] = []
        for path in files:
            photo = read_image(path)
            for factor in (1.0, 0.7):
                truth = (
                    photo if factor == 1 else bicubic(photo, int(photo.shape[0] * factor), int(photo.shape[1] * factor))
                )
                truth = crop_to_multiple(truth, settings.scale)
                height, width = (side // settings.scale for side in truth.shape[:2])
                if min(height, width) <= settings.patch:
                    continue
                small = bicubic(truth, height, width)
                versions = [small]
                if settings.camera:
                    versions += [compressed(small, quality) for quality in (60, 80, 92)]
                    versions += [h264_round_trip(small, crf) for crf in (20, 26, 31)]
                self.pairs.append((versions, truth))
        areas = [truth.shape[0] * truth.shape[1] for _, truth in self.pairs]
        self.cumulative = np.cumsum(areas) / np.sum(areas)

    def batch(self) -> tuple[Tensor, Tensor]:
        """``float32 (N, 3, p, p)`` and ``(N, 3, scale p, scale p)``, RGB 0..1."""
        s, size = self.settings, self.settings.patch
        smalls, larges = [], []
        for _ in range(s.batch):
            versions, truth = self.pairs[int(np.searchsorted(self.cumulative, self.random.random()))]
            small = self.random.choice(versions)
            y = self.random.randrange(small.shape[0] - size + 1)
            x = self.random.randrange(small.shape[1] - size + 1)
            turns, flip = self.random.randrange(4), self.random.random() < 0.5
            for source, factor, target in ((small, 1, smalls), (truth, s.scale, larges)):
                piece = source[y * factor : (y + size) * factor, x * factor : (x + size) * factor, ::-1]
                piece = np.rot90(piece, turns)
                target.append(piece[:, ::-1] if flip else piece)
        return to_planes(np.stack(smalls)), to_planes(np.stack(larges))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield self.batch()


def to_planes(frames: np.ndarray) -> Tensor:
    """``uint8 (N, H, W, 3)`` to ``float32 (N, 3, H, W)`` 0..1, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float().div_(255)


# ------------------------------------------------------------------------------------------------
# Training
# ------------------------------------------------------------------------------------------------


def loss_of(result: Tensor, truth: Tensor, settings: Settings, progress: float) -> Tensor:
    """Charbonnier or squared error on RGB plus the same on luma, which the eye weighs most.

    ``charbonnier+mse`` changes to the squared error for the last quarter. That is what PSNR counts, but the mean over
    pictures lost 0.03 dB on the validation photos by it: the hardest pictures drown the others.
    """
    difference = result - truth
    weights = LUMA.to(difference).view(1, 3, 1, 1)
    luma = (difference * weights).sum(dim=1, keepdim=True)
    if settings.loss == "charbonnier+mse" and progress > 0.75:  # the factor keeps the scale of the gradient
        return 20 * (difference.square().mean() + settings.luma_weight * luma.square().mean())
    epsilon = 1e-3**2
    return (difference.square() + epsilon).sqrt().mean() + settings.luma_weight * (
        luma.square() + epsilon
    ).sqrt().mean()


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal, for parameters that are matrices.

    The same method as ``torch.optim.Muon``, which computes the orthogonalisation in bfloat16. On a
    processor without bfloat16 units that takes longer than the training step itself, so this one
    stays in float32. The step's root mean square is that of Adam (0.2 of the learning rate).
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                direction = orthogonal(parameter.grad.lerp(average, group["momentum"]))
                parameter.add_(direction, alpha=-group["lr"] * 0.2 * math.sqrt(max(direction.shape)))


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix, roughly: singular values end between 0.7 and 1.2."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def optimizers_of(net: TrainedNet, settings: Settings) -> list[torch.optim.Optimizer]:
    matrices = [p for p in net.parameters() if p.ndim == 2]
    rest = [p for p in net.parameters() if p.ndim != 2]
    if settings.optimizer == "adam":
        return [torch.optim.Adam([*matrices, *rest], lr=settings.lr, betas=(0.9, 0.99))]
    return [Muon(matrices, settings.lr), torch.optim.Adam(rest, lr=settings.lr, betas=(0.9, 0.99))]


def learning_rate_factor(progress: float, step: int) -> float:
    """Linear warm-up over 200 steps, then a cosine from 1 to 0.01."""
    return min(1.0, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def upscaler(net: nn.Module, device: torch.device) -> callable:
    def upscale(frame: Frame) -> Frame:
        with torch.no_grad():
            result = net(to_planes(frame[None, :, :, ::-1]).to(device))
        pixels = result[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(pixels[:, :, ::-1])

    return upscale


def train(
    settings: Settings,
    out: Path,
    assets: Path,
    minutes: float,
    every: int,
    device: torch.device,
    start: Path | None = None,
) -> Path:
    """Run or resume a training; returns the path of the ``.safetensors`` file.

    Args:
        settings: everything but the pictures and the time.
        out: folder of the run.
        assets: folder of the test material.
        minutes: the schedule ends after them, if it has not ended after ``settings.steps``.
        every: steps between two validations with checkpoint.
        device: CPU or CUDA.
        start: ``checkpoint.pt`` of another run of the same net, whose weights this one starts from.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    net = TrainedNet(settings).to(device)
    average = TrainedNet(settings).to(device)
    average.load_state_dict(net.state_dict())
    optimizers = optimizers_of(net, settings)
    step, spent = 0, 0.0
    history: list[str] = []
    saved = out / CHECKPOINT
    if start is not None and not saved.exists():
        before = torch.load(start, map_location=device, weights_only=True)
        for copy in (net, average):
            copy.load_state_dict(before["average"])
        history = [*before.get("history", []), stage_text(before)]
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        if state["settings"] != asdict(settings):
            raise SystemExit(f"{saved} was made with other settings; choose another --out or delete it")
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        step, spent, history = state["step"], state["spent"], state.get("history", [])
        print(f"resumed at step {step}", flush=True)
    patches = Patches(training_files(assets), settings)
    patches.random.seed(settings.seed + step)
    base = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    base = [settings.lr for _ in base]
    started, losses = time.monotonic(), []
    while True:
        elapsed = spent + time.monotonic() - started
        progress = max(step / settings.steps, elapsed / (minutes * 60))
        done = progress >= 1
        if done or (step and step % every == 0 and losses):
            score = score_folder(
                assets / "images" / "cid22", settings.scale, upscaler(average.collapsed().to(device), device), "val_*"
            )
            row = [step, round(elapsed), round(float(np.mean(losses or [0.0])), 6), round(score.psnr_y, 3)]
            losses.clear()
            print(f"step {row[0]} {row[1]} s loss {row[2]} val Y-PSNR {row[3]} dB", flush=True)
            if row[2]:  # nothing was trained since a finished run was started again
                with (out / "log.csv").open("a", newline="") as log:
                    csv.writer(log).writerow(row)
            state = {
                "settings": asdict(settings),
                "net": net.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
                "spent": elapsed,
                "history": history,
            }
            torch.save(state, out / "checkpoint.tmp")
            (out / "checkpoint.tmp").replace(saved)
        if done:
            break
        factor = learning_rate_factor(progress, step)
        for group, lr in zip((g for o in optimizers for g in o.param_groups), base, strict=True):
            group["lr"] = lr * factor
        small, large = (tensor.to(device) for tensor in patches.batch())
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            result = net(small)
        loss = loss_of(result.float(), large, settings, progress)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            decay = min(settings.ema, (step + 1) / (step + 10))
            for mean, parameter in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
        losses.append(float(loss.detach()))
        step += 1
    return write_result(average.collapsed(), settings, out, assets, step, elapsed, history)


def stage_text(state: dict[str, Any]) -> str:
    """One line of the model card about a finished run, from its checkpoint."""
    settings = state["settings"]
    return (
        f"{state['step']:,} steps of {settings['batch']} patches, {settings['optimizer']}, "
        f"learning rate {settings['lr']}, loss {settings['loss']}, {state['spent'] / 60:.0f} minutes"
    )


def write_result(
    net: CompactNet,
    settings: Settings,
    out: Path,
    assets: Path,
    step: int,
    seconds: float,
    history: list[str],
) -> Path:
    """Write ``sr-xN.safetensors`` and its model card with the benchmark figures."""
    name = f"sr-x{settings.scale}" + ("-camera" if settings.camera else "")
    weights = out / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, weights)
    run = Training(
        name,
        asdict(settings),
        sum(parameter.numel() for parameter in net.parameters()),
        "CPU" if next(net.parameters()).device.type == "cpu" else torch.cuda.get_device_name(),
        torch.get_num_threads(),
        hashlib.sha256(weights.read_bytes()).hexdigest(),
        (*history, stage_text({"settings": asdict(settings), "step": step, "spent": seconds})),
    )
    upscale = upscaler(net.cpu(), torch.device("cpu"))
    images = assets / "images"
    benchmarks = {
        title: both_scores(images / folder, settings.scale, upscale)
        for title, folder in (("Set5", "set5"), ("Set14", "set14"), ("BSD100 subset", "bsd100_subset"))
        if (images / folder).is_dir()
    }
    degraded = {
        title: both_scores(images / "cid22", settings.scale, upscale, degrade, "val_*")
        for title, degrade in DEGRADATIONS.items()
    }
    card = card_text(run, benchmarks, degraded, out / "log.csv")
    (out / f"{name}.md").write_text(card, encoding="utf-8")
    print(card)
    return weights


DEGRADATIONS: dict[str, Callable[[Frame], Frame]] = {
    "nothing": lambda frame: frame,
    "JPEG, quality 80": lambda frame: compressed(frame, 80),
    "H.264, CRF 26": lambda frame: h264_round_trip(frame, 26),
}


def both_scores(
    folder: Path,
    scale: int,
    upscale: Callable[[Frame], Frame],
    degrade: Callable[[Frame], Frame] = lambda frame: frame,
    pattern: str = "*",
) -> tuple[Score, Score]:
    """Scores of bicubic interpolation and of ``upscale``, both on what ``degrade`` makes of the small pictures."""
    return (
        score_folder(folder, scale, lambda small: plain_bicubic(degrade(small), scale), pattern),
        score_folder(folder, scale, lambda small: upscale(degrade(small)), pattern),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.super_resolution", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint, log, weights, card")
    parser.add_argument("--minutes", type=float, default=120, help="the schedule ends after this time at the latest")
    parser.add_argument("--every", type=int, default=1000, help="steps between validation and checkpoint")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for all")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="start from the weights of another run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_settings(parser, Settings())
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = settings_of(options, Settings)
    weights = train(
        settings,
        options.out,
        assets_folder(),
        options.minutes,
        options.every,
        torch.device(options.device),
        options.start,
    )
    print(f"wrote {weights}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
