"""Traces in tests/data/traces: what was pushed into a guard, and the verdicts. Read by the tests of the Python and the
C++ guard. ``python tests/face_traces.py`` writes them again from the cases below, after a change that is meant.

A trace is ``{"about", "settings", "frames", "verdicts", "tracks"}``. A frame is ``{"index", "pts", "cut", "fail",
"faces", "late", "squares"}``, of which only ``index`` and ``pts`` are always there: ``fail``, a reason, for one that
cannot be judged; ``late``, a face that is added to the latest verdict that was given after this frame was pushed;
``squares``, what its picture of ``"size": [width, height]`` shows, see :func:`picture_of`, else it has no picture. A
face is ``{"box": [x, y, width, height], "score", "landmarks"}``. A verdict is ``{"index", "reason", "covers"}``; a
cover has the names of :class:`runtime.faces.types.Cover`. A reader should allow 1e-6 for boxes and regions, and 1e-4
for landmarks, which are float32.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from runtime.faces.guard import Guard, GuardSettings
from runtime.faces.types import Box, Face, Verdict
from runtime.frames import Frame

FOLDER = Path(__file__).parent / "data" / "traces"


def play(trace: dict[str, Any]) -> dict[str, Any]:
    """``verdicts`` and ``tracks`` of a guard that gets the frames of ``trace``."""
    guard, verdicts = Guard(GuardSettings(**trace["settings"])), []
    late: list[dict[str, Any]] = []
    for frame in trace["frames"]:
        index, pts, cut = frame["index"], frame["pts"], frame.get("cut", False)
        if "fail" in frame:
            guard.fail(index, pts, None, frame["fail"], cut=cut)
        else:
            image = picture_of(trace["size"], frame["squares"]) if "squares" in frame else None
            guard.push(index, pts, image, [_face(face) for face in frame.get("faces", [])], cut=cut)
        while (verdict := guard.pop()) is not None:
            verdicts.append(_verdict(verdict))
        if "late" in frame:
            late.append(_cover(guard.add_late(verdicts[-1]["index"], _face(frame["late"]))))
    guard.finish()
    while (verdict := guard.pop()) is not None:
        verdicts.append(_verdict(verdict))
    tracks = [asdict(track) for track in guard.tracks]
    return {"verdicts": verdicts, "tracks": tracks} | ({"late": late} if late else {})


def picture_of(size: list[int], squares: list[list[int]]) -> Frame:
    """Grey, with ``squares`` ``[left, top, side, seed]`` of cells of 4 pixels, as bright as the seed says."""
    image = np.full((size[1], size[0], 3), 100, np.uint8)
    for left, top, side, seed in squares:
        down, across = np.mgrid[0:side, 0:side] // 4
        cells = (down * 101 + across * 37 + down * across * 17 + seed * 53) * 61 % 200 + 20
        image[top : top + side, left : left + side] = cells[..., None]
    return image


def _face(face: dict[str, Any]) -> Face:
    points = face.get("landmarks")
    return Face(Box(*face["box"]), face["score"], None if points is None else np.array(points, np.float32))


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {"index": verdict.index, "reason": verdict.reason, "covers": [_cover(cover) for cover in verdict.covers]}


def _cover(cover: Any) -> dict[str, Any]:
    return {
        "track": cover.track,
        "box": _rounded(cover.box, 8),
        "region": _rounded(cover.region, 8),
        "kind": cover.kind,
        "score": cover.score,
        "landmarks": None if cover.landmarks is None else [_rounded(point, 6) for point in cover.landmarks.tolist()],
        "sure": cover.sure,
    }


def _rounded(values: Any, decimals: int = 2) -> list[float]:
    return [round(float(value), decimals) for value in values]


# -- the cases ------------------------------------------------------------------------------------


def _seen(box: Box, score: float = 0.9, *, points: bool = False) -> dict[str, Any]:
    face: dict[str, Any] = {"box": _rounded(box), "score": score}
    if points:
        from face_paths import landmarks_of

        face["landmarks"] = [_rounded(point) for point in landmarks_of(box).tolist()]
    return face


def _frames(count: int, rate: float = 25) -> list[dict[str, Any]]:
    return [{"index": index, "pts": round(index / rate, 6)} for index in range(count)]


def cases() -> dict[str, dict[str, Any]]:
    """Traces without what is expected, by name."""
    from face_paths import moving

    small = {"lookahead": 4, "hold": 0.24}
    made: dict[str, dict[str, Any]] = {}

    walk, frames = moving((100, 80), 40, speed=0.1, angle=0.3), _frames(16)
    for index in (2, 3, 6, 7, 8, 9):
        frames[index]["faces"] = [_seen(walk(index), points=True)]
    made["missed"] = {"about": "filled, seen, interpolated, seen, held", "settings": small, "frames": frames}

    frames = _frames(14)
    for index in range(1, 14):
        frames[index]["faces"] = [_seen(walk(index), points=True)] if index not in (6, 7, 9) else []
    frames[8]["cut"] = True
    made["cut"] = {"about": "nothing is carried over the cut before frame 8", "settings": small, "frames": frames}

    frames = _frames(9)
    for index in (0, 1, 4, 5):
        frames[index]["faces"] = [_seen(walk(index))]
    made["live"] = {"about": "no look-ahead", "settings": {"lookahead": 0}, "frames": frames}

    frames = _frames(12)
    frames[5]["faces"] = [_seen(walk(0), 0.3), _seen(Box(300, 100, 30, 40), 0.7)]
    made["weak"] = {"about": "a single weak sight beside a strong one", "settings": small, "frames": frames}

    left, right, frames = (
        moving((60, 100), 40, speed=0.3),
        moving((300, 110), 40, speed=0.3, angle=math.pi),
        _frames(18),
    )
    for index in range(18):
        hidden = left(index).iou(right(index)) > 0.1
        frames[index]["faces"] = [_seen(left(index))] + ([] if hidden else [_seen(right(index), 0.8)])
    made["crossing"] = {"about": "two people cross, one hides the other", "settings": small, "frames": frames}

    still, other, frames = moving((100, 100), 40), moving((180, 100), 40), _frames(14)
    for index in range(14):
        frames[index]["faces"] = [_seen((still if index < 5 else other)(index))]
    made["beside"] = {"about": "one is missed just when another appears beside", "settings": small, "frames": frames}

    frames = _frames(10)
    for index in range(10):
        frames[index]["faces"] = [_seen(walk(index))]
    del frames[4]["faces"], frames[6]["faces"]
    frames[4]["fail"], frames[6]["fail"] = "detector failed", "engine hung"
    frames[5]["faces"] = [_seen(walk(5)), _seen(Box(300, 50, 0, 0), 0.5)]
    made["failed"] = {
        "about": "frames that cannot be judged; a box without an area",
        "settings": small,
        "frames": frames,
    }

    frames = _frames(14)
    for index in range(5):
        frames[index]["faces"] = [_seen(walk(index))]
    frames[9]["late"] = _seen(walk(5), 0.3)
    frames[10]["late"] = _seen(Box(400, 300, 50, 60), 0.4)
    made["late"] = {"about": "faces that were found in the result", "settings": small, "frames": frames}

    rates, frames = [0.0, 0.04, 0.08, 0.5, 0.54, 0.54, 0.54, 0.54, 0.54, 0.3, 1.4, 1.5], _frames(12)
    for frame, pts in zip(frames, rates, strict=True):
        frame["pts"] = pts
    frames[0]["faces"], frames[3]["faces"] = [_seen(walk(0), 0.7)], [_seen(walk(3), 0.5)]
    made["clock"] = {"about": "a clock that jumps, stands still and runs back", "settings": small, "frames": frames}

    zoom, frames = moving((30, 40), 30, speed=0.1, angle=3.9, zoom=0.05), _frames(12)
    for index in (0, 1, 2, 3, 6, 7):
        frames[index]["faces"] = [_seen(zoom(index), 0.65, points=True), _seen(zoom(index).moved(3, 2), 0.3)]
    made["border"] = {"about": "a face that grows out of the frame, found twice", "settings": small, "frames": frames}

    for name, side, seen in (("followed", 24, (3, 4, 5)), ("followed-large", 72, (4,))):
        frames = _frames(14)
        for index, frame in enumerate(frames):
            left, top = 20 + 6 * index, 30 + (index % 3) * 4
            # another one is in its way from frame 9 on
            frame["squares"] = [[left, top, side, 5], [230, 20, 40, 9], *([[left, 30, 40, 2]] if index > 8 else [])]
            if index in seen:
                frame["faces"] = [_seen(Box(left, top, side, side), 0.7 if side == 24 else 0.5)]
        made[name] = {
            "about": "a face that is found by its picture before and after its sights, then no more",
            "settings": {"lookahead": 6, "hold": 0.32},
            "size": [320, 180],
            "frames": frames,
        }
    return made


def text_of(trace: dict[str, Any]) -> str:
    """JSON, one line for each frame, verdict and track."""
    lines = []
    for name, value in trace.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            lines.append(f'"{name}": [\n{rows}\n]')
        else:
            lines.append(f'"{name}": {json.dumps(value)}')
    return "{" + ",\n".join(lines) + "}\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, case in cases().items():
        (FOLDER / f"{name}.json").write_text(text_of(case | play(case)))
