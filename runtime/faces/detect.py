"""Finds faces in raw frames, small and large, with YuNet or the own detector.

The decoding is YuNet's (Wu et al., YuNet: A Tiny Millisecond-level Face Detector, 2023), as OpenCV's FaceDetectorYN
does it: score = sqrt(cls * obj), centre = cell + offset, size = exp(size), all in strides of 8, 16 and 32 pixels.
"""

from __future__ import annotations

import contextlib
import io
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.errors import GenedgeError, UsageError
from runtime.faces.resolve import DetectorFile, find_detector
from runtime.faces.types import MIRRORED, Box, Face
from runtime.frames import Frame
from runtime.manifest import HEADS, STRIDES
from runtime.onnx_scan import refuse_external_data

NAMES = tuple(f"{kind}_{stride}" for stride in STRIDES for kind in HEADS)
MULTIPLE = 32  # sides of what the net gets
LONG_SIDES = (640, 320)  # YuNet finds faces of about 10 to 300 pixels, so a close-up needs the small one
TILE, TILE_STEP = 640, 480  # pixels; a quarter of a tile overlaps
TILED_FROM = 960  # longer side of a frame from which tiles are searched too
MOST_TILES = 12  # of a frame in a normal search: a larger one is reduced before
THOROUGH_TILES = 80
SAME = 0.35  # overlap from which two boxes are one face
GREY = 114  # beside a frame that does not fill its pass
MOST = 500  # faces of a frame
# A turned picture shows many faces that are none: at 0.25 hands and shoulders were covered for half of a clip. Above
# this score they are rare, and a face that is upright is found upright as well.
TURNED_LOW = 0.7
# What only a thorough search finds, the normal ones until the next look for around its place: a face of 9 pixels was
# open for 16 frames in a second. Sides of that place as the net gets it, in pixels; a face may be a third of them.
CLOSER_SIDES = (320, 640)
CLOSER_LOW = 0.4  # score from which that is done: below are mostly none, and each place costs time
CLOSER_MOST = 32  # pixels of a longer side in the finest normal look, from which only the mirror shows more
MOST_CLOSER = 6  # such places; for more, the very passes that found them are repeated

Heads = dict[str, NDArray[np.float32]]
Rows = NDArray[np.float32]
"""(n, 15): box as left, top, width, height; five landmarks; score."""


@dataclass(frozen=True)
class Pass:
    """One look at a frame: the rectangle ``(left, top, right, bottom)`` of it, enlarged by ``factor``, then ``turn``ed
    (a code of ``cv2.rotate``) or ``mirror``ed."""

    left: int
    top: int
    right: int
    bottom: int
    factor: float
    turn: int | None = None
    mirror: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture before it is turned."""
        height, width = self.bottom - self.top, self.right - self.left
        return max(1, round(height * self.factor)), max(1, round(width * self.factor))

    def blank(self) -> Frame:
        """What the net gets before the picture is in it: grey, uint8 (1, H, W, 3), sides multiples of MULTIPLE."""
        sides = self.size if self.turn in (None, cv2.ROTATE_180) else self.size[::-1]
        return np.full((1, *(-(-side // MULTIPLE) * MULTIPLE for side in sides), 3), GREY, np.uint8)

    def picture(self, image: Frame, blank: Frame | None = None) -> Frame:
        """What the net gets: the picture in the corner of a :meth:`blank`, of the given one if there is one."""
        height, width = self.size
        piece: Any = image[self.top : self.bottom, self.left : self.right]
        if (height, width) != piece.shape[:2]:
            way = cv2.INTER_AREA if self.factor < 0.6 else cv2.INTER_LINEAR
            piece = cv2.resize(piece, (width, height), interpolation=way)
        if self.turn is not None:
            piece = cv2.rotate(piece, self.turn)
        if self.mirror:
            piece = cv2.flip(piece, 1)
        full = self.blank() if blank is None else blank
        full[0, : piece.shape[0], : piece.shape[1]] = piece
        return full

    def back(self, rows: Rows) -> Rows:
        """Faces of the picture in pixels of the frame."""
        if not len(rows):
            return rows
        height, width = self.size
        boxes, points, scores = rows[:, :4].copy(), rows[:, 4:14].reshape(-1, 5, 2).copy(), rows[:, 14:]
        if self.mirror:  # never together with a turn
            boxes[:, 0] = width - boxes[:, 0] - boxes[:, 2]
            points[..., 0] = width - points[..., 0]
            points = points[:, MIRRORED]
        if self.turn == cv2.ROTATE_90_CLOCKWISE:  # x' = height - y, y' = x
            boxes = np.stack([boxes[:, 1], height - boxes[:, 0] - boxes[:, 2], boxes[:, 3], boxes[:, 2]], 1)
            points = np.stack([points[..., 1], height - points[..., 0]], -1)
        elif self.turn == cv2.ROTATE_90_COUNTERCLOCKWISE:  # x' = y, y' = width - x
            boxes = np.stack([width - boxes[:, 1] - boxes[:, 3], boxes[:, 0], boxes[:, 3], boxes[:, 2]], 1)
            points = np.stack([width - points[..., 1], points[..., 0]], -1)
        elif self.turn == cv2.ROTATE_180:
            boxes[:, :2] = np.array([width, height], np.float32) - boxes[:, :2] - boxes[:, 2:]
            points = np.array([width, height], np.float32) - points
        scale = np.array([(self.right - self.left) / width, (self.bottom - self.top) / height], np.float32)
        shift = np.array([self.left, self.top], np.float32)
        boxes = np.concatenate([boxes[:, :2] * scale + shift, boxes[:, 2:] * scale], 1)
        points = points * scale + shift
        return np.concatenate([boxes, points.reshape(-1, 10), scores], 1).astype(np.float32)

    def whole(self, rows: Rows, height: int, width: int) -> Rows:
        """Without the faces that the edge of a tile cuts, where the frame goes on: the next tile has all of them."""
        if not len(rows):
            return rows
        edge = 2 / self.factor
        x, y, right, bottom = rows[:, 0], rows[:, 1], rows[:, 0] + rows[:, 2], rows[:, 1] + rows[:, 3]
        cut = (self.left > 0) & (x < self.left + edge)
        cut |= (self.top > 0) & (y < self.top + edge)
        cut |= (self.right < width) & (right > self.right - edge)
        cut |= (self.bottom < height) & (bottom > self.bottom - edge)
        # a face as large as what two tiles share may be cut in both
        cut &= np.maximum(rows[:, 2], rows[:, 3]) * self.factor < (TILE - TILE_STEP) * 0.8
        return rows[~cut]


def passes_for(height: int, width: int, *, thorough: bool, largest: int | None = None) -> list[Pass]:
    """How a frame is looked at. The first two are those of the whole frame at LONG_SIDES.

    ``largest``: pixels of the longest side that the engine takes, at least TILE; a finer look is taken in tiles then.
    """
    long = max(height, width)
    result: list[Pass] = []
    for side in LONG_SIDES:
        factor = min(2.0, side / long)
        if not any(math.isclose(each.factor, factor, rel_tol=0.02) for each in result):
            result.append(Pass(0, 0, width, height, factor))
    if long > TILED_FROM:
        result += tiles_for(height, width, THOROUGH_TILES if thorough else MOST_TILES)
    if thorough:
        base = result[0].factor
        if long < 1280:
            finer = min(2.0, 1280 / long)
            if largest is not None and long * finer > largest:
                result += tiles_for(height, width, THOROUGH_TILES, finer)
            else:
                result.append(Pass(0, 0, width, height, finer))
        result.append(Pass(0, 0, width, height, base, mirror=True))
        for turn in (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE):
            result.append(Pass(0, 0, width, height, base, turn=turn))
    return result


def tiles_for(height: int, width: int, most: int, factor: float = 1.0) -> list[Pass]:
    """Overlapping tiles of TILE pixels over the frame enlarged by ``factor``, or by less, so that ``most`` suffice."""
    while True:
        columns, rows = (max(1, math.ceil((side * factor - TILE) / TILE_STEP) + 1) for side in (width, height))
        if columns * rows <= most:
            break
        factor *= 0.9
    side = int(TILE / factor)  # whole pixels, and never more than TILE of them once enlarged
    tiles = []
    for row in range(rows):
        for column in range(columns):
            left = round((width - side) * column / (columns - 1)) if columns > 1 else 0
            top = round((height - side) * row / (rows - 1)) if rows > 1 else 0
            tiles.append(Pass(left, top, min(width, left + side), min(height, top + side), factor))
    return tiles


def closer_looks(
    rows: Rows, passes: Sequence[Pass], found: Sequence[Rows], normal: Sequence[Pass], height: int, width: int
) -> list[Pass]:
    """Looks that a normal search needs besides its own to see the faces that only a thorough one has found.

    ``rows``: the faces of a frame of ``height`` x ``width``, each one of ``found`` by ``passes``. ``normal``: the
    passes of a normal search.
    """
    finest = max(each.factor for each in normal)
    seen = [some for each, some in zip(passes, found, strict=True) if each in normal]
    known = np.concatenate([np.zeros((0, 15), np.float32), *seen])
    finder = {row.tobytes(): each for each, some in zip(passes, found, strict=True) for row in some}
    looks: list[Pass] = []
    finders: list[Pass] = []
    for row in rows:
        box, finding = Box(*map(float, row[:4])), finder[row.tobytes()]
        if row[14] < CLOSER_LOW or finding.turn is not None or finding in normal:
            continue
        if not finding.mirror and max(box.width, box.height) * finest >= CLOSER_MOST:
            continue
        if any(box.iou(Box(*map(float, other[:4]))) >= SAME for other in known):
            continue
        finders += [finding] if finding not in finders else []
        if not any(_holds(look, finding, box) for look in looks):
            looks.append(_closer_look(finding, box, height, width))
    return looks if len(looks) <= MOST_CLOSER else finders


def _closer_look(finding: Pass, box: Box, height: int, width: int) -> Pass:
    """A look like ``finding`` at the surroundings of ``box``, or ``finding`` itself for a large face."""
    across = max(box.width, box.height) * finding.factor
    side = next((side for side in CLOSER_SIDES if 3 * across <= side), None)
    if side is None:
        return finding
    sides = min(width, int(side / finding.factor)), min(height, int(side / finding.factor))
    (x, y), (wide, tall) = box.center, sides
    left, top = int(np.clip(x - wide / 2, 0, width - wide)), int(np.clip(y - tall / 2, 0, height - tall))
    return replace(finding, left=left, top=top, right=left + wide, bottom=top + tall)


def _holds(look: Pass, finding: Pass, box: Box) -> bool:
    """Whether ``look`` sees what ``finding`` did in ``box``, and its surroundings."""
    if (look.factor, look.mirror) != (finding.factor, finding.mirror):
        return False
    x, y, across, down = box.scaled(3)
    return look.left <= x and look.top <= y and x + across <= look.right and y + down <= look.bottom


def decode(heads: Heads, height: int, width: int, low: float, who: str = "the face detector") -> Rows:
    """Faces of one picture of ``height`` x ``width`` pixels (multiples of MULTIPLE) with a score of at least ``low``.

    A number that is none is an error wherever it stands: an engine that gives one cannot be believed elsewhere either.
    ``who`` is named where the model is another.

    Raises :class:`GenedgeError` where a head has another shape or holds a number that is none.
    """
    parts = []
    for stride in STRIDES:
        columns, cells = width // stride, (height // stride) * (width // stride)
        cls, obj, bbox, kps = (_head(heads, f"{kind}_{stride}", cells, numbers, who) for kind, numbers in HEADS.items())
        product = cls[:, 0].clip(0, 1) * obj[:, 0].clip(0, 1)
        chosen = np.flatnonzero(product >= low * low)
        if not len(chosen):
            continue
        box, points = bbox[chosen], kps[chosen].reshape(-1, 5, 2)
        place = np.stack([chosen % columns, chosen // columns], 1).astype(np.float32)
        center = (place + box[:, :2]) * stride
        # in double, because float32 exp differs in its last bit between processors, and with it what is covered
        size = np.exp(np.clip(box[:, 2:], -8, 8).astype(np.float64)).astype(np.float32) * stride
        points = (place[:, None] + points) * stride
        score = np.sqrt(product[chosen])[:, None]
        parts.append(np.concatenate([center - size / 2, size, points.reshape(-1, 10), score], 1))
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 15), np.float32)


def _head(heads: Heads, name: str, cells: int, numbers: int, who: str) -> NDArray[np.float32]:
    head = heads[name]
    if head.size != cells * numbers:
        raise GenedgeError(f"{who}: the output {name} has the shape {head.shape}: it is no YuNet")
    # the sum is none where one of them is, and takes half the time
    if not math.isfinite(head.sum()) and not np.isfinite(head).all():
        raise GenedgeError("the face detector gave a number that is none")
    return head.reshape(cells, numbers)


def merged(rows: Rows) -> Rows:
    """Each face once, the best of those that overlap, best first.

    Raises :class:`GenedgeError` for more than MOST faces: to leave some out would be to leave them open.
    """
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    x, y, right, bottom = rows[:, 0], rows[:, 1], rows[:, 0] + rows[:, 2], rows[:, 1] + rows[:, 3]
    areas = np.maximum(1e-6, rows[:, 2] * rows[:, 3])
    kept: list[int] = []
    left = np.arange(len(rows))  # those that no better one has taken yet
    while len(left):
        if len(kept) == MOST:
            raise GenedgeError(f"the face detector found more than {MOST} faces")
        best, left = left[0], left[1:]
        kept.append(int(best))
        across = np.minimum(right[best], right[left]) - np.maximum(x[best], x[left])
        down = np.minimum(bottom[best], bottom[left]) - np.maximum(y[best], y[left])
        shared, others = np.maximum(across, 0) * np.maximum(down, 0), areas[left]
        same = shared >= SAME * (areas[best] + others - shared)
        # a part of a face that was found at a larger scale is none of its own
        same |= (shared > 0.8 * others) & (others < areas[best])
        left = left[~same]
    return rows[kept]


class _Engine(Protocol):
    """``largest``: pixels of the longest side of a picture that it takes, None: any."""

    largest: int | None

    def run(self, pictures: Sequence[Frame], read: Callable[[int, Heads], Rows]) -> list[Rows]:
        """What ``read`` makes of every picture's number and heads, which go away when it returns."""
        ...

    def twin(self) -> _Engine:
        """Another one for another thread."""
        ...

    def close(self) -> None: ...


class MultiScaleDetector:
    """See :class:`runtime.faces.types.FaceDetector`. ``low``: score from 0 to 1 from which a face counts."""

    def __init__(self, file: DetectorFile, engine: _Engine, engine_name: str, low: float) -> None:
        self.name, self.digest = file.name, file.sha256
        self.description = f"{file.description} on {engine_name}"
        self._engine, self.low, self._place = engine, low, str(file.path)
        self._turns: set[int] = set()  # in which faces were found when the last thorough search was
        self._closer: tuple[tuple[int, int], list[Pass]] = (0, 0), []  # looks at what that alone found; for this size
        self._passes: dict[tuple[int, int, bool], list[Pass]] = {}
        self._blanks: dict[Pass, Frame] = {}  # of the passes of every frame
        self._file, self._engine_name = file, engine_name

    def twin(self) -> MultiScaleDetector:
        """Another one on the same engine, for another thread. What thorough searches of one find, the other does not
        look at closer. Close both."""
        return MultiScaleDetector(self._file, self._engine.twin(), self._engine_name, self.low)

    def detect(self, image: Frame, *, thorough: bool = False) -> list[Face]:
        height, width = image.shape[:2]
        passes = self._usual(height, width, thorough=thorough)
        if not thorough:  # people who lie, or a video that stands on its side
            passes = [*passes, *(replace(passes[0], turn=turn) for turn in sorted(self._turns))]
            size, closer = self._closer
            passes += closer if size == (height, width) else []
        found = self._search(image, passes)
        rows = merged(np.concatenate(found))
        if thorough:
            kept = {row.tobytes() for row in rows}
            self._turns = {
                each.turn
                for each, some in zip(passes, found, strict=True)
                if each.turn is not None and any(row.tobytes() in kept for row in some)
            }
            normal = self._usual(height, width)
            self._closer = (height, width), closer_looks(rows, passes, found, normal, height, width)
        return faces_of(rows)

    def glance(self, image: Frame, number: int) -> list[Face]:
        """As :meth:`detect`, at every other scale, and of the tiles every other one: those with an even place for an
        even ``number``. For the second look at a frame that is like the one before."""
        passes = self._usual(*image.shape[:2])
        return faces_of(merged(np.concatenate(self._search(image, passes[number % 2 :: 2] or passes))))

    def _usual(self, height: int, width: int, *, thorough: bool = False) -> list[Pass]:
        key = height, width, thorough
        if key not in self._passes:
            self._passes[key] = passes_for(height, width, thorough=thorough, largest=self._engine.largest)
        return self._passes[key]

    def _search(self, image: Frame, passes: Sequence[Pass]) -> list[Rows]:
        """What each of ``passes`` finds."""
        height, width = image.shape[:2]
        pictures = [each.picture(image, self._blank(each, height, width)) for each in passes]

        def read(number: int, heads: Heads) -> Rows:
            each, (tall, wide) = passes[number], pictures[number].shape[1:3]
            low = self.low if each.turn is None else max(self.low, TURNED_LOW)
            return each.whole(each.back(decode(heads, tall, wide, low, self._place)), height, width)

        return self._engine.run(pictures, read)

    def _blank(self, each: Pass, height: int, width: int) -> Frame | None:
        """What the picture of a pass of every frame of this size is written into again and again."""
        if each not in self._passes.get((height, width, False), ()):
            return None
        if each not in self._blanks:
            if len(self._blanks) > MOST_TILES + len(LONG_SIDES):  # of frames of another size
                self._blanks.clear()
            self._blanks[each] = each.blank()
        return self._blanks[each]

    def close(self) -> None:
        self._engine.close()


def faces_of(rows: Rows) -> list[Face]:
    return [Face(Box(*map(float, row[:4])), float(min(1.0, row[14])), row[4:14].reshape(5, 2).copy()) for row in rows]


class _Models:
    """A model compiled for every size of picture, up to MOST_SIZES of them; for several threads."""

    MOST_SIZES = 24

    def __init__(self, model: bytes, file: DetectorFile, precision: str, threads: int, streams: int) -> None:
        from runtime.sessions.openvino import HINTS, core, engine_config, has_bf16

        self._model = core().read_model(io.BytesIO(model))
        inputs = self._model.inputs
        is_frame = [port.element_type.get_type_name() for port in inputs] == ["u8"]
        _check_ports(len(inputs), is_frame, [port.any_name for port in self._model.outputs], file)
        if not is_frame:
            self._model = _with_uint8_input(self._model)
        half = precision in ("auto", "bf16") and has_bf16()
        self._config = engine_config(HINTS["bf16" if half else "fp32"], streams, threads)
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()

    def of(self, shape: tuple[int, ...]) -> Any:
        from runtime.sessions.openvino import core

        with self._lock:
            if shape not in self._compiled:
                if len(self._compiled) >= self.MOST_SIZES:
                    self._compiled.clear()
                self._model.reshape(list(shape))
                self._compiled[shape] = core().compile_model(self._model, "CPU", self._config)
            return self._compiled[shape]


class _OpenVino:
    """Up to four requests for every size of picture."""

    largest: int | None = None

    def __init__(self, models: _Models) -> None:
        self._models = models
        self._requests: dict[tuple[int, ...], list[tuple[Any, Heads]]] = {}

    def twin(self) -> _OpenVino:
        return _OpenVino(self._models)

    def _request(self, shape: tuple[int, ...], number: int) -> tuple[Any, Heads]:
        """A request for pictures of ``shape``, and where its results will be."""
        if shape not in self._requests and len(self._requests) >= _Models.MOST_SIZES:
            self._requests.clear()
        requests = self._requests.setdefault(shape, [])
        while len(requests) <= number:
            request = self._models.of(shape).create_infer_request()
            requests.append((request, {name: request.get_tensor(name).data for name in NAMES}))
        return requests[number]

    def run(self, pictures: Sequence[Frame], read: Callable[[int, Heads], Rows]) -> list[Rows]:
        import openvino

        from runtime.sessions.openvino import reason_of

        results: list[Rows] = []
        try:
            # no more under way than there are requests for each size, so that tiles share four
            for begin in range(0, len(pictures), 4):
                used: dict[tuple[int, ...], int] = {}
                running: list[tuple[Any, Heads]] = []
                try:
                    for picture in pictures[begin : begin + 4]:
                        number = used.get(picture.shape, 0)
                        used[picture.shape] = number + 1
                        request, heads = self._request(picture.shape, number)
                        request.set_input_tensor(openvino.Tensor(picture, shared_memory=True))
                        request.start_async()
                        running.append((request, heads))
                    for request, heads in running:
                        request.wait()
                        results.append(read(len(results), heads))
                except BaseException:
                    for request, _ in running:  # they read from pictures that go away with this error
                        with contextlib.suppress(RuntimeError):
                            request.wait()
                    raise
        except RuntimeError as error:
            raise GenedgeError(f"the face detector failed in OpenVINO: {reason_of(error)}") from None
        return results

    def close(self) -> None:
        self._requests.clear()


def _with_uint8_input(model: Any) -> Any:
    """YuNet takes floats of planes; this takes uint8 frames, converted inside of the engine."""
    import openvino

    processor = openvino.preprocess.PrePostProcessor(model)
    processor.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    processor.input().model().set_layout(openvino.Layout("NCHW"))
    return processor.build()


class _OnnxRuntime:
    """For where OpenVINO is not. The published YuNet takes 640x640 only, so smaller pictures lie in a grey square."""

    def __init__(self, model: bytes, file: DetectorFile, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        self._is_frame = [port.type for port in inputs] == ["tensor(uint8)"]
        _check_ports(len(inputs), self._is_frame, [port.name for port in self._session.get_outputs()], file)
        self._name = inputs[0].name
        sides = inputs[0].shape[2:]
        self._fixed = None if self._is_frame or not all(isinstance(side, int) for side in sides) else tuple(sides)
        self.largest: int | None = None if self._fixed is None else min(self._fixed)
        if self.largest is not None and self.largest < TILE:
            size = "x".join(map(str, sides[::-1]))
            raise GenedgeError(f"{file.path}: takes {size} only, which is too small for onnxruntime: install openvino")

    def twin(self) -> _OnnxRuntime:
        return self  # a session takes calls of several threads

    def run(self, pictures: Sequence[Frame], read: Callable[[int, Heads], Rows]) -> list[Rows]:
        return [read(number, self._one(picture)) for number, picture in enumerate(pictures)]

    def _one(self, picture: Frame) -> Heads:
        height, width = picture.shape[1:3]
        given = picture
        if self._fixed is not None and (height, width) != self._fixed:
            given = np.full((1, *self._fixed, 3), GREY, np.uint8)
            given[0, :height, :width] = picture[0]
        fed = given if self._is_frame else np.ascontiguousarray(given.transpose(0, 3, 1, 2), dtype=np.float32)
        try:
            values = self._session.run(list(NAMES), {self._name: fed})
        except Exception as error:
            raise GenedgeError(f"the face detector failed in ONNX Runtime: {error}") from None
        heads = dict(zip(NAMES, values, strict=True))
        if given is picture:
            return heads
        return {name: _corner(head, int(name.split("_")[1]), given, height, width) for name, head in heads.items()}

    def close(self) -> None:
        pass


def _corner(head: NDArray[np.float32], stride: int, given: Frame, height: int, width: int) -> NDArray[np.float32]:
    """The cells of the upper left ``height`` x ``width`` pixels."""
    cells = head.reshape(given.shape[1] // stride, given.shape[2] // stride, -1)
    return np.ascontiguousarray(cells[: height // stride, : width // stride])


def _check_ports(inputs: int, is_frame: bool, outputs: Sequence[str], file: DetectorFile) -> None:
    """Raises :class:`GenedgeError` where the model is no face detector. ``is_frame``: its input is uint8."""
    if inputs != 1 or any(name not in outputs for name in NAMES) or (file.takes_frames and not is_frame):
        raise GenedgeError(
            f"{file.path}: not a face detector: it needs one input and the outputs cls, obj, bbox and kps of strides "
            "8, 16 and 32, as YuNet has them"
        )


def open_detector(
    place: str | None = None,
    *,
    low: float | None = None,
    backend: str = "auto",
    threads: int = 0,
    precision: str = "auto",
    streams: int = 1,
) -> MultiScaleDetector:
    """Open a face detector; where it comes from, :func:`runtime.faces.resolve.find_detector` says.

    Args:
        place: a bundle's folder or an ONNX file in YuNet's form; None: the first that there is.
        low: score from 0 to 1 from which a face counts; None: what suits the detector.
        backend: auto, openvino or onnxruntime.
        threads: of the engine, 0 lets it choose.
        precision: auto computes in bf16 where the processor does; fp32 never.
        streams: pictures that OpenVINO works on at a time, sharing the threads: 2 for a detector and its twin.

    Raises :class:`GenedgeError` where it is missing, damaged or none.
    """
    file = find_detector(place)
    model = file.read()
    refuse_external_data(model, str(file.path))
    from runtime.sessions import installed_backend
    from runtime.sessions.openvino import reason_of

    if backend not in ("auto", "openvino", "onnxruntime"):
        raise UsageError(f"faces are found by openvino or onnxruntime, not by {backend}")
    backend = installed_backend(backend, ("openvino", "onnxruntime"))
    try:
        engine: _Engine = (
            _OpenVino(_Models(model, file, precision, threads, streams))
            if backend == "openvino"
            else _OnnxRuntime(model, file, threads)
        )
    except GenedgeError:
        raise
    except Exception as error:
        raise GenedgeError(f"{file.path}: {backend} cannot read it: {reason_of(error)}") from None
    return MultiScaleDetector(file, engine, backend, file.low if low is None else low)
