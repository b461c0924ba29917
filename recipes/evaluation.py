"""The standard super-resolution protocol: antialiased bicubic, crop of ``scale`` pixels, Y of BT.601.

Both the training recipes and ``benchmarks/super_resolution.py`` score with these functions, so a
figure in a model card and a figure in a benchmark are the same kind of figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional

from runtime.metrics import luma_bt601

Frame = NDArray[np.uint8]


def read_image(path: Path) -> Frame:
    """Read a picture as ``uint8 (H, W, 3) BGR``. Raises ``ValueError`` where OpenCV cannot."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: not a picture that OpenCV can read")
    return np.asarray(image, dtype=np.uint8)


def bicubic(image: Frame, height: int, width: int) -> Frame:
    """Resize ``uint8 (H, W, 3)`` with torch's antialiased bicubic filter, rounded to 8 bit."""
    planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    small: Tensor = functional.interpolate(
        planes, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    pixels = small[0].permute(1, 2, 0).clamp(0, 255).round().to(torch.uint8)
    return np.asarray(pixels.contiguous().numpy(), dtype=np.uint8)


def plain_bicubic(image: Frame, scale: int) -> Frame:
    """Enlarge ``uint8 (H, W, 3)`` with the bicubic filter (a = -0.75) that torch and OpenCV share: the baseline."""
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def crop_to_multiple(image: Frame, multiple: int) -> Frame:
    """Cut the right and bottom edge so that both sides are a multiple of ``multiple``."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[: height - height % multiple, : width - width % multiple])


@dataclass(frozen=True)
class Score:
    """Mean over a folder: Y-PSNR in dB and Y-SSIM (Gaussian window, sigma 1.5, as in the papers)."""

    psnr_y: float
    ssim_y: float
    images: int


def score_pair(truth: Frame, result: Frame, border: int) -> tuple[float, float]:
    """Y-PSNR (dB) and Y-SSIM of two ``uint8 (H, W, 3) BGR`` pictures, ``border`` pixels cropped."""
    inner = (slice(border, -border), slice(border, -border))
    first, second = luma_bt601(truth)[inner], luma_bt601(result)[inner]
    error = float(np.mean((first - second) ** 2))
    psnr = 10 * np.log10(255.0**2 / max(error, 1e-12))
    ssim = structural_similarity(
        first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(psnr), float(ssim)


def score_folder(folder: Path, scale: int, upscale: Callable[[Frame], Frame], pattern: str = "*") -> Score:
    """Score ``upscale`` (``uint8 BGR`` in, ``scale`` times larger ``uint8 BGR`` out) on HR pictures."""
    pairs = []
    for path in sorted(folder.glob(pattern)):
        if path.suffix.lower() not in {".png", ".jpg", ".jpeg", ".bmp"}:
            continue
        truth = crop_to_multiple(read_image(path), scale)
        small = bicubic(truth, truth.shape[0] // scale, truth.shape[1] // scale)
        pairs.append(score_pair(truth, upscale(small), scale))
    if not pairs:
        raise ValueError(f"{folder}: holds no picture")
    psnr, ssim = np.mean(pairs, axis=0)
    return Score(float(psnr), float(ssim), len(pairs))
