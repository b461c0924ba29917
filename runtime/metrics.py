"""Figures that compare frames, in the users' units: decibels, 8-bit steps, colour difference.

Needs numpy and OpenCV only, so that a device without torch can verify a bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.frames import Frame
from runtime.manifest import Limits

Floats = NDArray[np.float64]

CELLS = ("PSNR dB", "SSIM", "ΔE2000", "max", "p99.9")  # what ``ParityReport.cells`` gives; the last two in 8-bit steps
MAX_PSNR_DB = 100.0  # stands for "identical", which has no finite value


@dataclass(frozen=True)
class ParityReport:
    """How far a candidate's frames are from the reference. True where every limit is met.

    ``psnr_db`` over all frames together, ``ssim`` and ``delta_e`` (CIEDE2000) as the mean over the
    frames, ``max_abs`` and ``p999_abs`` in 8-bit steps, ``changed`` as the share of values that
    differ at all, ``worst_frame`` the index of the frame with the lowest PSNR.
    """

    frames: int
    psnr_db: float
    ssim: float
    delta_e: float
    max_abs: int
    p999_abs: int
    changed: float
    worst_frame: int
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    def __bool__(self) -> bool:
        return self.passed

    def cells(self) -> tuple[str, ...]:
        """The figures as text for a table, under ``CELLS``."""
        return (
            f"{self.psnr_db:.2f}",
            f"{self.ssim:.5f}",
            f"{self.delta_e:.4f}",
            str(self.max_abs),
            str(self.p999_abs),
        )

    def figures(self) -> dict[str, float]:
        """The measured numbers by name, for JSON."""
        names = ("frames", "psnr_db", "ssim", "delta_e", "max_abs", "p999_abs", "changed", "worst_frame")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def compare(pairs: Iterable[tuple[Frame, Frame]], limits: Limits | None = None) -> ParityReport:
    """Compare (reference, candidate) pairs of ``uint8 (H, W, 3) BGR`` frames.

    The percentile is exact: differences are counted per step. Raises ``ValueError`` for frames of
    different shape or for no frame at all.
    """
    counts = np.zeros(256, dtype=np.int64)
    squares: list[float] = []
    values: list[int] = []
    similarities: list[float] = []
    colours: list[float] = []
    for reference, candidate in pairs:
        if reference.shape != candidate.shape:
            raise ValueError(f"frames of {reference.shape} and {candidate.shape} cannot be compared")
        difference = cv2.absdiff(reference, candidate)
        histogram = np.bincount(difference.ravel(), minlength=256)
        counts += histogram
        squares.append(float(histogram @ np.arange(256, dtype=np.float64) ** 2))
        values.append(reference.size)
        if histogram[0] == reference.size:
            similarities.append(1.0)
            colours.append(0.0)
            continue
        similarities.append(ssim(reference, candidate))
        changed = difference.any(axis=2)  # few of a faithful variant's pixels; the colours of equal ones differ by 0
        steps = delta_e_2000(lab(reference[changed][None]), lab(candidate[changed][None]))
        colours.append(float(steps.sum()) / changed.size)
    if not squares:
        raise ValueError("no frame to compare")
    cumulative = np.cumsum(counts) / counts.sum()
    report = ParityReport(
        frames=len(squares),
        psnr_db=decibels(sum(squares) / sum(values)),
        ssim=float(np.mean(similarities)),
        delta_e=float(np.mean(colours)),
        max_abs=int(np.flatnonzero(counts)[-1]),
        p999_abs=int(np.searchsorted(cumulative, 0.999)),
        changed=float(1 - counts[0] / counts.sum()),
        worst_frame=int(np.argmax(np.array(squares) / np.array(values))),
    )
    return judge(report, limits) if limits else report


def judge(report: ParityReport, limits: Limits) -> ParityReport:
    """The same report with one sentence for each limit it misses."""
    failures = []
    if limits.max_abs is not None and report.max_abs > limits.max_abs:
        failures.append(f"largest difference {report.max_abs} 8-bit steps, allowed {limits.max_abs}")
    if limits.psnr_db is not None and report.psnr_db < limits.psnr_db:
        failures.append(f"PSNR {report.psnr_db:.2f} dB, needed {limits.psnr_db:.2f}")
    if limits.delta_e is not None and report.delta_e > limits.delta_e:
        failures.append(f"mean colour difference {report.delta_e:.3f} ΔE2000, allowed {limits.delta_e:.3f}")
    if limits.changed is not None and report.changed > limits.changed:
        failures.append(f"{report.changed:.4%} of the values differ, allowed {limits.changed:.4%}")
    return ParityReport(**{**report.figures(), "failures": tuple(failures)})  # type: ignore[arg-type]


def psnr(reference: Frame, candidate: Frame) -> float:
    """Peak signal-to-noise ratio in dB over all channels, ``MAX_PSNR_DB`` for identical frames."""
    return decibels(float(np.mean((reference.astype(np.float64) - candidate) ** 2)))


def decibels(mean_square: float) -> float:
    """PSNR of a mean squared error of 8-bit values, at most ``MAX_PSNR_DB``."""
    return min(MAX_PSNR_DB, 10 * float(np.log10(255.0**2 / max(mean_square, 1e-12))))


def luma_bt601(frame: Frame) -> Floats:
    """Luma of BT.601 in 16..235, not rounded, of a frame ``uint8 (H, W, 3) BGR``."""
    weights = np.array([24.966, 128.553, 65.481]) / 255.0
    return np.asarray(16.0 + frame.astype(np.float64) @ weights)


def ssim(reference: Frame, candidate: Frame) -> float:
    """Structural similarity of the luma, Gaussian window of 11 pixels with sigma 1.5, 0..1.

    Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment, IEEE TIP 2004. Frames with a side
    below 11 pixels are compared as a whole.
    """
    first, second = luma_bt601(reference), luma_bt601(candidate)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def smooth(plane: Floats) -> Floats:
        if min(plane.shape) < 11:
            return np.asarray(plane.mean(keepdims=True))
        blurred = cv2.GaussianBlur(plane, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred[5:-5, 5:-5], dtype=np.float64)

    mean1, mean2 = smooth(first), smooth(second)
    variance1 = smooth(first * first) - mean1**2
    variance2 = smooth(second * second) - mean2**2
    covariance = smooth(first * second) - mean1 * mean2
    score = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    return float(np.mean(score / ((mean1**2 + mean2**2 + c1) * (variance1 + variance2 + c2))))


def lab(frame: Frame) -> Floats:
    """CIE L*a*b* (D65) of an sRGB frame ``uint8 (H, W, 3) BGR``; L* is 0..100."""
    return np.asarray(cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_BGR2LAB), dtype=np.float64)


def delta_e_2000(first: Floats, second: Floats) -> Floats:
    """CIEDE2000 colour difference of two Lab arrays ``(..., 3)``; 1 is just noticeable.

    Follows Sharma, Wu, Dalal, The CIEDE2000 Color-Difference Formula, Color Research and
    Application 2005; their test pairs are in the tests.
    """
    lightness1, a1, b1 = np.moveaxis(first, -1, 0)
    lightness2, a2, b2 = np.moveaxis(second, -1, 0)
    mean_chroma7 = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma7 / (mean_chroma7 + 25.0**7))
    a1, a2 = a1 * stretch, a2 * stretch
    chroma1, chroma2 = np.hypot(a1, b1), np.hypot(a2, b2)
    hue1, hue2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    grey = chroma1 * chroma2 == 0

    hue_step = (hue2 - hue1 + 180) % 360 - 180
    # a step of exactly half a turn keeps the sign of the plain difference, as the paper defines it
    hue_step = np.where((hue_step == -180) & (hue2 > hue1), 180.0, hue_step)
    hue_step = np.where(grey, 0.0, hue_step)
    hue_sum = hue1 + hue2
    far = np.abs(hue1 - hue2) > 180
    mean_hue = np.where(far, (hue_sum + np.where(hue_sum < 360, 360, -360)) / 2, hue_sum / 2)
    mean_hue = np.where(grey, hue_sum, mean_hue)

    d_lightness, d_chroma = lightness2 - lightness1, chroma2 - chroma1
    d_hue = 2 * np.sqrt(chroma1 * chroma2) * np.sin(np.radians(hue_step / 2))
    mean_lightness, mean_chroma = (lightness1 + lightness2) / 2, (chroma1 + chroma2) / 2

    def cosine(degrees: Floats) -> Floats:
        return np.asarray(np.cos(np.radians(degrees)))

    weight = (
        1
        - 0.17 * cosine(mean_hue - 30)
        + 0.24 * cosine(2 * mean_hue)
        + 0.32 * cosine(3 * mean_hue + 6)
        - 0.20 * cosine(4 * mean_hue - 63)
    )
    from_middle = (mean_lightness - 50) ** 2
    scale_lightness = 1 + 0.015 * from_middle / np.sqrt(20 + from_middle)
    scale_chroma = 1 + 0.045 * mean_chroma
    scale_hue = 1 + 0.015 * mean_chroma * weight
    mean_chroma7 = mean_chroma**7
    rotation = (
        -2
        * np.sqrt(mean_chroma7 / (mean_chroma7 + 25.0**7))
        * np.sin(np.radians(60 * np.exp(-(((mean_hue - 275) / 25) ** 2))))
    )
    lightness_term, chroma_term, hue_term = d_lightness / scale_lightness, d_chroma / scale_chroma, d_hue / scale_hue
    total = lightness_term**2 + chroma_term**2 + hue_term**2 + rotation * chroma_term * hue_term
    return np.asarray(np.sqrt(np.maximum(total, 0)))
