"""Clips for the face benchmarks: reading, matching an output with its original, encoding, contact sheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.faces.leaks import Leak, like
from runtime.errors import GenedgeError
from runtime.frames import Frame
from runtime.video.source import open_source

THUMBNAIL = (64, 36)  # width and height in pixels of what frames are matched by
UNLIKE = 16.0  # 8-bit steps; pixels that differ more cost no more
REPEAT, SKIP = 0.1, 0.02  # price in 8-bit steps of an original that is shown twice, and of each one left out
REACH = 2.0  # seconds that a matching original may be away: some tools shift or repeat frames
TILE = 160  # pixels of a side of a picture in the contact sheet
AROUND = 1.6  # sides of the face's box that such a picture shows
PAIRS = 5  # pairs of original and covered in a row of it


def frames_of(path: Path) -> Iterator[Frame]:
    """Upright frames, uint8 (H, W, 3) BGR, of a video file or a picture."""
    with open_source(str(path)) as source:
        for frame in source:
            yield frame.image


def rate_of(path: Path) -> float:
    """Frames a second; 0 for a picture."""
    with open_source(str(path)) as source:
        return float(source.info.rate or 0) if (source.info.frame_count or 0) != 1 else 0.0


def matched(original: Path, covered: Path) -> tuple[list[int], list[Frame]]:
    """The original's index for every covered frame, and the originals.

    One for one where both have as many frames. Else by likeness of small thumbnails, never backwards, which survives
    doubled, dropped and shifted frames.
    """
    originals = list(frames_of(original))
    if not originals:
        raise GenedgeError(f"{original} has no frames")
    size = originals[0].shape
    small = [thumbnail(like(originals[0], frame)) for frame in frames_of(covered)]
    if len(small) == len(originals):
        return list(range(len(originals))), originals
    if not small:
        raise GenedgeError(f"{covered} has no frames")
    thumbnails = np.stack([thumbnail(frame) for frame in originals if frame.shape == size])
    reach = max(1, round(REACH * (rate_of(original) or 1)))
    return match_thumbnails(thumbnails, np.stack(small), reach), originals


def thumbnail(frame: Frame) -> NDArray[np.float32]:
    """(36, 64, 3) float32."""
    import cv2

    return np.asarray(cv2.resize(frame, THUMBNAIL, interpolation=cv2.INTER_AREA), np.float32)


def match_thumbnails(originals: NDArray[np.float32], covered: NDArray[np.float32], reach: int) -> list[int]:
    """For each covered thumbnail the index of the original it shows, never backwards and at most ``reach`` ahead.

    The cheapest path over all frames (Viterbi): differences of pixels, cut off so that covered faces cost little, and
    a small price for repeating or leaving out a frame, which decides where a scene stands still.
    """
    count = len(originals)
    prices = np.array([REPEAT, 0.0, *(REPEAT + SKIP * np.arange(1, reach))])
    total = np.full(count, np.inf)
    total[: reach + 1] = 0
    steps = np.zeros((len(covered), count), np.int64)
    for place, picture in enumerate(covered):
        unlike = np.minimum(np.abs(originals - picture), UNLIKE).mean(axis=(1, 2, 3))
        if place:
            moved = np.full((len(prices), count), np.inf)
            for step, price in enumerate(prices[:count]):
                moved[step, step:] = total[: count - step] + price
            steps[place] = moved.argmin(axis=0)
            total = moved.min(axis=0)
        total = total + unlike
    at = int(total.argmin())
    found = [at]
    for place in range(len(covered) - 1, 0, -1):
        at -= int(steps[place, at])
        found.append(at)
    return found[::-1]


def encode(path: Path, frames: Iterable[Frame], rate: Fraction, *, crf: int | None) -> None:
    """Write H.264 in 4:2:0 with x264's ``crf``; None: lossless and in RGB, no pixel changes."""
    import av

    with av.open(str(path), "w") as container:
        stream = None
        for frame in frames:
            if stream is None:
                stream = container.add_stream("libx264" if crf is not None else "libx264rgb", rate=rate)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p" if crf is not None else "rgb24"
                stream.options = {"crf": str(crf if crf is not None else 0), "preset": "veryfast"}
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")
            for packet in stream.encode(picture):
                container.mux(packet)
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)


def write_sheet(path: Path, worst: Sequence[Leak], originals: Sequence[Frame], covered: Sequence[Frame]) -> None:
    """A picture of the worst candidates: original beside covered output, with frame and share, worst first."""
    import cv2

    pairs = []
    for leak in worst:
        original = originals[leak.original]
        output = like(original, covered[leak.frame])
        (x, y), side = leak.face.box.center, AROUND * max(leak.face.box.width, leak.face.box.height)
        pair = [crop(picture, x - side / 2, y - side / 2, side) for picture in (original, output)]
        gain = 255 / max(1.0, float(np.percentile(pair[0], 99.5)))  # dark faces are to be seen as well
        tile = np.hstack([np.clip(picture * gain, 0, 255).astype(np.uint8) for picture in pair])
        tile = np.vstack([np.zeros((18, tile.shape[1], 3), np.uint8), tile])
        text = f"frame {leak.frame} score {leak.face.score:.2f} open {100 * leak.share:.0f} %"
        cv2.putText(tile, text, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
        pairs.append(tile)
    rows = [pairs[start : start + PAIRS] for start in range(0, len(pairs), PAIRS)]
    blank = np.zeros((TILE + 18, 2 * TILE, 3), np.uint8)
    wide = min(PAIRS, len(pairs))
    sheet = np.vstack([np.hstack([*row, *[blank] * (wide - len(row))]) for row in rows]) if rows else blank
    if not cv2.imwrite(str(path), sheet):
        raise GenedgeError(f"{path} cannot be written")


def crop(frame: Frame, x: float, y: float, side: float) -> Frame:
    """A square of ``side`` pixels whose corner is at (x, y), shown at the sheet's size; black outside of the frame."""
    import cv2

    scale = TILE / side
    matrix = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]], np.float32)
    return np.asarray(cv2.warpAffine(frame, matrix, (TILE, TILE), flags=cv2.INTER_AREA), np.uint8)
