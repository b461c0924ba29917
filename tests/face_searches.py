"""How frames are searched for faces, in tests/data/face-search.json. Read by the tests of the Python and the C++
detector. ``python tests/face_searches.py`` writes it again, after a change that is meant.

``passes``: for ``frame`` [height, width], the looks of a normal and of a ``thorough`` search; a look is [left, top,
right, bottom, factor, turn or -1, mirror]. ``decoded``: the rows of :func:`heads_of` a seed for a picture of ``size``
[height, width], and these rows ``back`` in the frame of the thorough ``look``. ``merged``: of the rows of a seed, see
:func:`rows_of`. ``closer``: the looks for what the thorough looks at ``frame`` have found, look ``number`` what
:func:`rows_of` gives for that seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from runtime.faces import detect
from runtime.manifest import HEADS, STRIDES

FILE = Path(__file__).parent / "data" / "face-search.json"
FRAMES = [(120, 160), (360, 640), (480, 640), (720, 1280), (1080, 1920), (1920, 2560), (2160, 3840), (700, 24)]
SIZE = (64, 96)


def _numbers(seed: int, count: int) -> np.ndarray[Any, Any]:
    """(count,) float64 from 0 to 1, the same everywhere: a linear congruential generator's."""
    values = []
    state = seed
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        values.append(state / 2**31)
    return np.array(values)


def heads_of(seed: int) -> detect.Heads:
    """For a picture of SIZE: scores from 0 to 1, offsets and sizes from -2 to 2."""
    heads = {}
    for place, stride in enumerate(STRIDES):
        cells = SIZE[0] // stride * (SIZE[1] // stride)
        for kind, numbers in HEADS.items():
            values = _numbers(100 * seed + 10 * place + numbers + (kind == "obj"), cells * numbers)
            spread = values if numbers == 1 else 4 * values - 2
            heads[f"{kind}_{stride}"] = spread.astype(np.float32).reshape(1, cells, numbers)
    return heads


def rows_of(seed: int, count: int = 12) -> detect.Rows:
    """Boxes of 6 to 66 pixels within 400 x 300, with scores from 0.3 to 1."""
    values = _numbers(seed + 1, 15 * count).reshape(count, 15)
    rows = values * np.array([400, 300, 60, 60, *[400, 300] * 5, 0.7]) + np.array([0, 0, 6, 6, *[0] * 10, 0.3])
    return rows.astype(np.float32)


def made() -> dict[str, Any]:
    """What the Python detector does now, as the file has it."""
    passes = [
        {"frame": frame, "thorough": thorough, "looks": [_look(look) for look in _passes(frame, thorough)]}
        for frame in FRAMES
        for thorough in (False, True)
    ]
    decoded = []
    for seed, look in enumerate(detect.passes_for(400, 640, thorough=True)):
        rows = detect.decode(heads_of(seed), *SIZE, 0.8)
        decoded.append(
            {
                "seed": seed,
                "low": 0.8,
                "size": SIZE,
                "rows": _rows(rows),
                "look": _look(look),
                "back": _rows(look.back(rows)),
            }
        )
    merged = [{"seed": seed, "rows": _rows(detect.merged(rows_of(seed, 60)))} for seed in range(3)]
    closer = []
    for frame in ((300, 400), (1080, 1920)):
        thorough, normal = _passes(frame, True), _passes(frame, False)
        for count in (1, 3, 12):
            found = [look.whole(rows_of(number, count), *frame) for number, look in enumerate(thorough)]
            looks = detect.closer_looks(detect.merged(np.concatenate(found)), thorough, found, normal, *frame)
            closer.append({"frame": frame, "count": count, "looks": [_look(look) for look in looks]})
    whole = {"passes": passes, "decoded": decoded, "merged": merged, "closer": closer}
    return dict(json.loads(json.dumps(whole)))


def _passes(frame: tuple[int, int], thorough: bool) -> list[detect.Pass]:
    return detect.passes_for(*frame, thorough=thorough)


def _look(look: detect.Pass) -> list[float]:
    turn = -1 if look.turn is None else look.turn
    return [look.left, look.top, look.right, look.bottom, look.factor, turn, int(look.mirror)]


def _rows(rows: detect.Rows) -> list[list[float]]:
    return [[float(f"{value:.9g}") for value in row] for row in rows.tolist()]


if __name__ == "__main__":
    lists = ",\n".join(
        f'"{name}": [\n' + ",\n".join("  " + json.dumps(entry) for entry in entries) + "\n]"
        for name, entries in made().items()
    )
    FILE.write_text("{" + lists + "}\n")
