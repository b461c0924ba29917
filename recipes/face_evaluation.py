"""How many of the faces that YuNet finds another detector of the same form finds, clip by clip.

    python -m recipes.face_evaluation runs/face-detector/face-detector.safetensors

takes weights of :class:`export.detectors.FaceNet` or an ``.onnx`` graph with its inputs and outputs. Two tables: clips
and pictures that :mod:`recipes.face_detector` leaves alone, and the clips that it learns from.

YuNet is no truth. A face that it misses counts as a false detection here where the other one finds it, and one that
both miss counts nowhere.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from recipes.assets import assets_folder
from recipes.evaluation import Frame, read_image
from runtime.faces.detect import decode
from runtime.faces.resolve import LOW_OF

SIDES = (640, 320)  # long sides that every frame is seen at
LOW = LOW_OF["face-net"]  # score from which a face is covered
HIGH = 0.6  # score from which a face is sure
SAME = 0.4  # IoU from which two boxes are one face
TEACHER_SURE = 0.7  # YuNet's score of a face that has to be found
TEACHER_MAYBE = 0.3  # what YuNet gives at least this is no false detection
SMALLEST = 24.0  # pixels of the frame, geometric mean of the sides
GREY = 114  # beside a frame that does not fill a multiple of 32
TESTED = {  # file that nothing is trained on -> every how many-th frame is looked at
    "video/asl_again.mkv": 1,
    "video/carphone_pristine.mp4": 3,
    "video/bikes.mp4": 2,
    "video/cockatoo.mp4": 5,
    "faces/crowds": 1,
}
TRAINED = {  # the same of those that the training saw
    "video/short_hamilton_clip.mp4": 3,
    "video/egoblur_two_people.mp4": 1,
    "video/asl_book.mkv": 5,
    "video/asl_student.mkv": 5,
    "video/bigbuckbunny.mp4": 5,
}

Rows = NDArray[np.float32]
"""(n, 15): box as left, top, width, height; five landmarks x, y; score. All but the score in pixels."""
Detector = Callable[[Frame], Rows]
Heads = Mapping[str, NDArray[np.float32]]


def decoded(heads: Heads, width: int, low: float) -> Rows:
    """Candidates of one picture ``width`` pixels wide with a score of at least ``low``, from the heads of YuNet's form
    as OpenCV's ``FaceDetectorYN`` decodes them."""
    cells = heads["cls_8"].size
    return decode(dict(heads), cells * 64 // width, width, low)


def suppressed(rows: Rows, same: float = SAME) -> Rows:
    """The best of each group that overlaps by more than ``same``, best first."""
    left, kept = rows[np.argsort(-rows[:, 14], kind="stable")], []
    while len(left):
        kept.append(left[0])
        left = left[1:][ious(left[:1], left[1:])[0] <= same]
    return np.stack(kept) if kept else rows


def ious(one: Rows, other: Rows) -> NDArray[np.float32]:
    """(n, m) intersection over union of boxes given as left, top, width, height."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, :2] + one[:, None, 2:4], other[None, :, :2] + other[None, :, 2:4])
    common = np.clip(high - low, 0, None).prod(2)
    whole = one[:, None, 2:4].prod(2) + other[None, :, 2:4].prod(2) - common
    return np.asarray(common / np.maximum(whole, 1e-9), np.float32)


def at_sides(run: Callable[[Frame], Rows], sides: Sequence[int] = SIDES) -> Detector:
    """``run`` sees each frame at several long sides, padded to multiples of 32; what it finds is merged."""

    def detect(frame: Frame) -> Rows:
        parts = []
        for side in sides:
            factor = min(2.0, side / max(frame.shape[:2]))
            height, width = (max(1, round(s * factor)) for s in frame.shape[:2])
            way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
            padded = np.full((-(-height // 32) * 32, -(-width // 32) * 32, 3), GREY, np.uint8)
            padded[:height, :width] = cv2.resize(frame, (width, height), interpolation=way)
            rows = suppressed(run(padded), 0.3).copy()
            rows[:, :14] *= np.tile((frame.shape[1] / width, frame.shape[0] / height), 7)
            parts.append(rows)
        return suppressed(np.concatenate(parts))

    return detect


def teacher(assets: Path) -> Detector:
    """YuNet through OpenCV, at the same sides."""
    model = str(assets / "weights" / "yunet" / "yunet_n_640_640.onnx")
    net = cv2.FaceDetectorYN.create(model, "", (320, 320), TEACHER_MAYBE, 0.3, 500)

    def run(picture: Frame) -> Rows:
        net.setInputSize((picture.shape[1], picture.shape[0]))
        _, faces = net.detect(picture)
        return np.zeros((0, 15), np.float32) if faces is None else np.asarray(faces, np.float32)

    return at_sides(run)


def from_weights(path: Path, low: float = LOW) -> Detector:
    """``.safetensors`` of a FaceNet through PyTorch."""
    import torch
    from safetensors.torch import load_file

    from export.detectors import FaceNet, head_names

    net = FaceNet()
    net.load_state_dict(load_file(path))
    net.eval()

    def run(picture: Frame) -> Rows:
        with torch.no_grad():
            heads = net(torch.from_numpy(picture[None]))
        return decoded(dict(zip(head_names(), (h.numpy() for h in heads), strict=True)), picture.shape[1], low)

    return at_sides(run)


def from_graph(model: bytes, low: float = LOW, threads: int = 1) -> Detector:
    """An ONNX graph from ``frame`` to the twelve heads through ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(picture: Frame) -> Rows:
        heads = session.run(names, {session.get_inputs()[0].name: picture[None]})
        return decoded(dict(zip(names, heads, strict=True)), picture.shape[1], low)

    return at_sides(run)


@dataclass(frozen=True)
class Tally:
    """Of one clip: ``wanted`` faces that YuNet is sure of; ``found`` and ``found_sure`` of them at LOW and HIGH;
    ``false`` and ``false_sure`` detections that YuNet has nothing for; ``overlap``, sum of the IoU of what was found.
    """

    frames: int = 0
    wanted: int = 0
    found: int = 0
    found_sure: int = 0
    false: int = 0
    false_sure: int = 0
    overlap: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def row(self, name: str) -> str:
        """One line of the table of :func:`table`."""

        def share(part: float) -> str:
            return f"{100 * part / self.wanted:.1f} %" if self.wanted else "-"

        frames = max(1, self.frames)
        iou = f"{self.overlap / self.found:.2f}" if self.found else "-"
        return (
            f"| {name} | {self.frames} | {self.wanted} | {share(self.found)} | {share(self.found_sure)} | {iou} "
            f"| {self.false / frames:.2f} | {self.false_sure / frames:.2f} |"
        )


def compared(found: Rows, reference: Rows) -> Tally:
    """One frame: ``found`` by the detector, ``reference`` by YuNet, both with all scores."""
    sides = np.sqrt(np.clip(reference[:, 2] * reference[:, 3], 0, None))
    wanted = reference[(reference[:, 14] >= TEACHER_SURE) & (sides >= SMALLEST)]
    pairs = matched(found, wanted)
    known = ious(found, reference).max(1, initial=0) >= SAME
    scores = found[:, 14]
    return Tally(
        1,
        len(wanted),
        len(pairs),
        sum(bool(scores[own] >= HIGH) for own, _, _ in pairs),
        int((~known).sum()),
        int((~known & (scores >= HIGH)).sum()),
        sum(overlap for _, _, overlap in pairs),
    )


def matched(found: Rows, wanted: Rows, same: float = SAME) -> list[tuple[int, int, float]]:
    """Pairs (index in ``found``, index in ``wanted``, IoU), each face once, best overlaps first."""
    table, pairs = ious(found, wanted), []
    while table.size and table.max() >= same:
        own, other = np.unravel_index(int(table.argmax()), table.shape)
        pairs.append((int(own), int(other), float(table[own, other])))
        table[own], table[:, other] = -1, -1
    return pairs


def frames_of(path: Path, step: int) -> Iterable[Frame]:
    """Every ``step``-th frame of a clip, or the pictures of a folder."""
    if path.is_dir():
        yield from (read_image(file) for file in sorted(path.iterdir()) if file.suffix in (".jpg", ".png"))
        return
    from runtime.video.source import open_source

    with open_source(str(path)) as source:
        for frame in source:
            if frame.index % step == 0:
                yield frame.image


def evaluated(detect: Detector, assets: Path, tested: Mapping[str, int] | None = None) -> dict[str, Tally]:
    """Tallies by file, in the order of TESTED; files that are not there are left out."""
    ask, result = teacher(assets), {}
    for name, step in (TESTED if tested is None else tested).items():
        if (assets / name).exists():
            tallies = [compared(detect(frame), ask(frame)) for frame in frames_of(assets / name, step)]
            result[name] = sum(tallies, Tally())
    return result


def table(tallies: Mapping[str, Tally]) -> str:
    """Markdown."""
    lines = [
        f"| material | frames | faces of YuNet | found at {LOW} | found at {HIGH} | mean IoU "
        f"| false a frame at {LOW} | at {HIGH} |",
        "|---|---|---|---|---|---|---|---|",
        *(tally.row(Path(name).stem) for name, tally in tallies.items()),
        sum(tallies.values(), Tally()).row("all"),
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.face_evaluation", description=str(__doc__).split("\n")[0])
    parser.add_argument("detector", type=Path, help=".safetensors of a FaceNet or .onnx of its form")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    if options.detector.suffix == ".onnx":
        detect = from_graph(options.detector.read_bytes(), threads=options.threads)
    else:
        import torch

        torch.set_num_threads(options.threads)
        detect = from_weights(options.detector)
    tallies = evaluated(detect, assets_folder())
    print(table(tallies))
    total = sum(tallies.values(), Tally())
    share = total.found / total.wanted if total.wanted else math.nan
    print(f"\n{100 * share:.1f} % of {total.wanted} faces that it was not trained on; of those that it was:\n")
    print(table(evaluated(detect, assets_folder(), TRAINED)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
