"""Which frames calibrate best: a choice that is spread over scenes, brightness and colour.

Pure functions on small descriptions of frames; nothing here reads a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# 8-bit steps: thumbnails of which no cell differs by more are the same picture, coded anew. A still photo of 288x384 in
# H.264 moves its cells by at most 2 steps up to CRF 32, and by 4 at CRF 36 (x264 ultrafast).
NEAR = 4

# Of 16 choices: two most saturated (INT8 shifts saturated colours first), one darkest, one brightest. Early ones, so
# that a small set has them too.
RESERVED = {1: "saturated", 3: "dark", 5: "bright", 9: "saturated"}
PERIOD = 16


@dataclass(frozen=True)
class Candidates:
    """Frames to choose from, one a row.

    ``thumbnails``: uint8 (N, T), the whole frame, to know near-duplicates by. ``looks``: float32 (N, D), where the
    Euclidean distance says how much two frames differ in brightness and colour. ``brightness``, ``saturation``: float
    (N,), 0 to 255. ``source``, ``scene``: int (N,), from 0; a scene belongs to one source. ``frame``: int (N,),
    number of the frame in its source.
    """

    thumbnails: NDArray[np.uint8]
    looks: NDArray[np.float32]
    brightness: NDArray[np.float64]
    saturation: NDArray[np.float64]
    source: NDArray[np.int64]
    scene: NDArray[np.int64]
    frame: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.source)


def choose(candidates: Candidates, count: int, *, run_length: int = 1, seed: int = 0) -> list[int]:
    """Indices of at most ``count`` candidates, most worthwhile first, so that any beginning of the list is spread too.

    Each choice is the candidate farthest from all chosen before (Gonzalez, "Clustering to minimize the maximum
    intercluster distance", 1985), from a scene that was used least; every fourth is instead the most saturated, the
    darkest or the brightest that is left. Sources have equal quotas; what a source cannot fill goes to the others.
    Near-duplicates of chosen frames are left out, and so are starts of runs of ``run_length`` frames that would
    overlap. Fewer than ``count`` come back where no others are left. ``seed`` breaks ties and picks the first.
    """
    if not len(candidates) or count < 1:
        return []
    order = np.random.default_rng(seed).permutation(len(candidates))
    thumbnails = candidates.thumbnails[order].astype(np.int16)
    looks = candidates.looks[order].astype(np.float32)
    source, scene, frame = candidates.source[order], candidates.scene[order], candidates.frame[order]
    wishes = {
        "saturated": candidates.saturation[order],
        "bright": candidates.brightness[order],
        "dark": -candidates.brightness[order],
    }
    left = np.ones(len(order), dtype=bool)
    distance = np.full(len(order), np.inf)
    of_source, of_scene = np.zeros(source.max() + 1, dtype=int), np.zeros(scene.max() + 1, dtype=int)
    quota = max(1, count // len(np.unique(source)))
    chosen: list[int] = []
    while len(chosen) < count and left.any():
        open_ = left & (of_source[source] < quota)
        if not open_.any():
            quota += 1
            continue
        wish = RESERVED.get(len(chosen) % PERIOD)
        if wish is None:
            fewest = np.full(len(of_source), np.iinfo(int).max)
            np.minimum.at(fewest, source[open_], of_scene[scene[open_]])
            open_ &= of_scene[scene] == fewest[source]
        worth = distance if wish is None else wishes[wish]
        best = int(np.argmax(np.where(open_, worth, -np.inf)))
        chosen.append(best)
        of_source[source[best]] += 1
        of_scene[scene[best]] += 1
        left[left] = np.abs(thumbnails[left] - thumbnails[best]).max(axis=1, initial=0) > NEAR
        left &= (source != source[best]) | (np.abs(frame - frame[best]) >= run_length)
        left[best] = False
        distance = np.minimum(distance, np.linalg.norm(looks - looks[best], axis=1))
    return [int(order[place]) for place in chosen]
