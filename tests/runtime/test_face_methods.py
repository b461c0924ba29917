"""Covering faces: what is hidden, what is left alone, and what a method does where it cannot draw a face."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import face_pictures
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calib.dataset import CalibrationSet
from runtime.errors import GenedgeError, UsageError
from runtime.faces.methods import BLUR_WARNING, METHODS, Painter, cover_whole, make_method
from runtime.faces.types import Applied, Box, Cover, Landmarks, Method, TrackKeys, changed_box
from runtime.frames import Frame

PHOTOS = CalibrationSet.built_in().frames
WIDTH, HEIGHT = 160, 120


class Keys:
    """The same face for the same track."""

    def number(self, track: int, below: int) -> int:
        return (7 * track + 3) % below

    def bits(self, track: int, count: int) -> NDArray[np.float32]:
        return ((np.arange(count) + track) % 2).astype(np.float32)


def photo(index: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Frame:
    return np.ascontiguousarray(cv2.resize(PHOTOS[index], (width, height), interpolation=cv2.INTER_AREA))


def landmarks_in(box: Box) -> Landmarks:
    places = [(0.3, 0.42), (0.7, 0.42), (0.5, 0.62), (0.35, 0.8), (0.65, 0.8)]
    return np.array([(box.x + box.width * x, box.y + box.height * y) for x, y in places], np.float32)


def cover(box: Box, track: int = 0, *, sure: bool = True, landmarks: bool = True) -> Cover:
    region = box.scaled(1.6, 1.8)
    return Cover(track, box, region, "detected", 0.9, landmarks_in(box) if landmarks else None, sure)


def inside(region: Box, height: int, width: int) -> NDArray[np.bool_]:
    """Pixels that must not be seen: those whose centre lies in the ellipse, or whose left upper corner does (as a
    detector may count from there), where the ellipse is no sliver."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    (across, down), (half, tall) = region.center, (max(region.width, 1e-9) / 2, max(region.height, 1e-9) / 2)
    centres = ((x + 0.5 - across) / half) ** 2 + ((y + 0.5 - down) / tall) ** 2 <= 1
    corners = ((x - across) / half) ** 2 + ((y - down) / tall) ** 2 <= 1
    return centres | corners if 0.25 < half / tall < 4 and half > 2 else centres


def union(covers: Sequence[Cover], height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    hidden = np.zeros((height, width), bool)
    for one in covers:
        hidden |= inside(one.region, height, width)
    return hidden


class FlatPainter:
    """Draws a green window, and does its worst with the original."""

    def paint(self, original: Frame, target: Frame, cover: Cover, keys: TrackKeys) -> None:
        target[:] = (0, 255, 0)
        original[:] = (0, 0, 255)


class CopyingPainter:
    def paint(self, original: Frame, target: Frame, cover: Cover, keys: TrackKeys) -> None:
        target[:] = original


class FailingPainter:
    """Draws half of a face and fails, for every track but 2."""

    def paint(self, original: Frame, target: Frame, cover: Cover, keys: TrackKeys) -> None:
        target[:] = (0, 255, 0)
        if cover.track != 2:
            raise ValueError("out of memory")


def method(name: str, painter: Painter | None = None) -> Method:
    return make_method(name, keys=Keys(), painter=painter or (FlatPainter() if name == "generator" else None))


def applied(name: str, image: Frame, covers: Sequence[Cover]) -> Frame:
    out = image.copy()
    method(name).apply(out, covers)
    return out


PLAIN = ("solid", "mosaic", "blur")
BLIND = ("solid", "average", "generator")  # those that tell nothing about the face
boxes = st.builds(
    Box,
    st.floats(-60, WIDTH + 30),
    st.floats(-60, HEIGHT + 30),
    st.floats(0, 90),
    st.floats(0, 90),
)
many = st.lists(st.builds(cover, boxes, st.integers(0, 9), sure=st.booleans(), landmarks=st.booleans()), max_size=4)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(many, st.sampled_from(BLIND))
def test_nothing_tells_of_the_faces(covers: list[Cover], name: str) -> None:
    image = photo()
    other = image.copy()
    other[union(covers)] = photo(1)[union(covers)]
    np.testing.assert_array_equal(applied(name, image, covers), applied(name, other, covers))


@quick
@given(many, st.sampled_from(METHODS))
def test_nothing_outside_of_the_windows_changes(covers: list[Cover], name: str) -> None:
    image, allowed = photo(), np.zeros((HEIGHT, WIDTH), bool)
    for one in covers:
        left, top, right, bottom = changed_box(one.region, WIDTH, HEIGHT)
        allowed[top : max(top, bottom), left : max(left, right)] = True
    out = applied(name, image, covers)
    np.testing.assert_array_equal(out[~allowed], image[~allowed])


@quick
@given(many, st.sampled_from(METHODS))
def test_the_order_of_the_covers_does_not_matter(covers: list[Cover], name: str) -> None:
    """The larger face is in front, whatever its place in the list."""
    regions = [one.region for one in covers]
    if len(set(regions)) == len(regions):
        image = photo()
        np.testing.assert_array_equal(applied(name, image, covers), applied(name, image, covers[::-1]))


@quick
@given(many, st.sampled_from(METHODS))
def test_one_answer_for_each_cover(covers: list[Cover], name: str) -> None:
    answers = method(name).apply(photo(), covers)
    assert [answer.track for answer in answers] == [one.track for one in covers]


@pytest.mark.parametrize("name", METHODS)
def test_no_cover_leaves_the_frame_alone(name: str) -> None:
    image = photo()
    assert method(name).apply(image, []) == []
    np.testing.assert_array_equal(image, photo())


def test_solid_has_the_colour_around_the_face_and_not_of_the_face() -> None:
    image: Frame = np.full((HEIGHT, WIDTH, 3), (200, 120, 40), np.uint8)
    one = cover(Box(60, 40, 40, 40))
    image[union([one])] = (0, 0, 255)
    hidden = applied("solid", image, [one])[union([one])]
    assert (hidden == (200, 120, 40)).all()


def test_faces_apart_take_their_own_surroundings() -> None:
    image: Frame = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    image[:, WIDTH // 2 :] = 220
    covers = [cover(Box(25, 40, 30, 30), 1), cover(Box(105, 40, 30, 30), 2)]
    out = applied("solid", image, covers)
    assert (out[:, : WIDTH // 2] == 30).all()
    assert (out[:, WIDTH // 2 :] == 220).all()


def test_two_regions_that_touch_become_one_colour() -> None:
    out = applied("solid", photo(), covers := [cover(Box(50, 40, 30, 30), 1), cover(Box(70, 45, 30, 30), 2)])
    assert len(np.unique(out[union(covers)], axis=0)) == 1


@pytest.mark.parametrize("name", METHODS)
def test_a_frame_that_is_covered_all_over_shows_nothing_of_its_detail(name: str) -> None:
    image = photo()
    out = applied(name, image, [cover(Box(-300, -300, 700, 700))])
    assert cv2.Laplacian(out, cv2.CV_32F).var() < 0.05 * cv2.Laplacian(image, cv2.CV_32F).var()


@pytest.mark.parametrize("box", [Box(40, 30, 60, 60), Box(-20, 10, 60, 60), Box(130, 90, 60, 60)])
def test_a_mosaic_has_at_most_five_by_five_colours_a_face(box: Box) -> None:
    one = cover(box)
    assert 1 < len(np.unique(applied("mosaic", photo(), [one])[union([one])], axis=0)) <= 25


def test_a_face_that_the_border_cuts_gets_no_finer_cells() -> None:
    one = cover(Box(-30, 30, 60, 60))  # the middle of the face is on the left border
    assert len(np.unique(applied("mosaic", photo(), [one])[union([one])], axis=0)) <= 15


def test_a_blur_keeps_no_detail_finer_than_an_eighth_of_the_face() -> None:
    one = cover(Box(40, 20, 70, 70))
    out = applied("blur", photo(), [one])
    left, top, right, bottom = (int(v) for v in (50, 35, 100, 85))
    detail = cv2.Laplacian(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY), cv2.CV_32F)[top:bottom, left:right]
    assert np.abs(detail).max() < 16
    assert "recognised" in BLUR_WARNING


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
def test_frames_of_a_few_pixels(name: str, size: tuple[int, int]) -> None:
    image = photo(width=size[0], height=size[1]).reshape(size[1], size[0], 3)
    for box in (Box(0, 0, 1, 1), Box(-5, -5, 3, 3), Box(-50, -50, 100, 100), Box(0.2, 0.4, 0, 0)):
        assert method(name).apply(image.copy(), [cover(box)])[0].track == 0


@pytest.mark.parametrize("name", METHODS)
def test_a_region_far_larger_than_the_frame(name: str) -> None:
    image = photo()
    out = applied(name, image, [Cover(0, Box(0, 0, 9, 9), Box(-5e7, -5e7, 1e8, 1e8), "held", 0.1, None, False)])
    assert len(np.unique(out.reshape(-1, 3), axis=0)) < 50


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_region_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(GenedgeError, match="not finite"):
        method("solid").apply(photo(), [Cover(0, Box(0, 0, 9, 9), Box(bad, 0, 9, 9), "held", 0.1, None, False)])


def test_cover_whole_leaves_one_colour_that_does_not_depend_on_the_frame() -> None:
    one, other = photo(0), photo(1)
    cover_whole(one)
    cover_whole(other[::2])
    assert len(np.unique(one.reshape(-1, 3), axis=0)) == 1
    assert (one[0, 0] == other[0, 0]).all()
    np.testing.assert_array_equal(other[1::2], photo(1)[1::2])


def test_an_unknown_method_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(UsageError, match=", ".join(METHODS)):
        method("pixelate")


def test_the_generator_needs_a_painter() -> None:
    with pytest.raises(UsageError, match="face generator"):
        make_method("generator", keys=Keys())


@pytest.mark.parametrize("name", ["average", "generator"])
@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("unsure", {"sure": False}),
        ("no landmarks", {"landmarks": None}),
        ("no landmarks", {"landmarks": np.full((5, 2), np.nan, np.float32)}),
        ("small", {"box": Box(70, 50, 23, 30)}),
        ("unsure", {"landmarks": landmarks_in(Box(0, 0, 40, 40))}),
        ("profile", {"landmarks": np.array([(70, 55), (74, 55), (60, 65), (70, 80), (72, 80)], np.float32)}),
        ("profile", {"landmarks": np.array([(80, 45), (82, 80), (70, 62), (55, 50), (57, 75)], np.float32)}),
    ],
)
def test_where_no_face_can_be_drawn_the_colour_is_flat(name: str, reason: str, change: dict[str, object]) -> None:
    image, one = photo(), replace(cover(Box(60, 40, 40, 45)), **change)  # type: ignore[arg-type]
    answer = method(name).apply(image, [one])
    assert (answer[0].method, answer[0].reason) == ("solid", reason)
    np.testing.assert_array_equal(image, applied("solid", photo(), [one]))


@pytest.mark.parametrize("name", ["average", "generator"])
def test_a_good_cover_is_drawn(name: str) -> None:
    image, one = photo(), cover(Box(60, 40, 40, 45), 5)
    assert method(name).apply(image, [one])[0] == Applied(5, name)
    assert (image != applied("solid", photo(), [one])).any()


def test_what_a_painter_draws_outside_of_the_region_is_dropped() -> None:
    one = cover(Box(60, 40, 40, 45))
    hidden, out = union([one]), applied("generator", photo(), [one])
    assert (out[60:65, 78:83] == (0, 255, 0)).all()
    edge = cv2.dilate(hidden.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool) & ~hidden
    assert not (out[edge] == (0, 255, 0)).all(1).any()


def test_a_painter_sees_the_original_but_cannot_change_it() -> None:
    image, one = photo(), cover(Box(60, 40, 40, 45))
    method("generator", CopyingPainter()).apply(image, [one])
    np.testing.assert_array_equal(image[60:65, 78:83], photo()[60:65, 78:83])
    before = photo()
    out = applied("generator", before, [one])
    assert not (out == (0, 0, 255)).all(2).any()


def test_a_painter_that_fails_leaves_a_flat_colour() -> None:
    image, covers = photo(), [cover(Box(20, 40, 30, 34), 1), cover(Box(110, 40, 30, 34), 2)]
    answers = method("generator", FailingPainter()).apply(image, covers)
    assert answers == [Applied(1, "solid", "engine failed"), Applied(2, "generator")]
    assert (image[55:60, 122:127] == (0, 255, 0)).all()
    left = image[union(covers[:1])]
    assert len(np.unique(left, axis=0)) == 1
    assert not (left == (0, 255, 0)).all(1).any()


def test_a_track_keeps_its_face_and_another_track_has_another() -> None:
    one, box = photo(), Box(60, 40, 40, 45)
    np.testing.assert_array_equal(
        applied("average", one, [cover(box, 1)]),
        applied("average", one, [cover(box, 1)]),
    )
    assert (applied("average", one, [cover(box, 1)]) != applied("average", one, [cover(box, 2)])).any()


def test_the_brightness_of_a_face_follows_that_of_the_scene_slowly() -> None:
    box = Box(60, 40, 40, 45)

    def light(image: Frame) -> float:
        return float(image[60:75, 70:90].mean())

    dark: Frame = (photo() // 4).astype(np.uint8)
    bright_face, dark_face = (
        light(applied("average", photo(), [cover(box)])),
        light(applied("average", dark, [cover(box)])),
    )
    assert dark_face < 0.9 * bright_face
    one, seen = method("average"), []
    for index in range(40):
        image = photo() if index == 0 else dark.copy()
        one.apply(image, [cover(box)])
        seen.append(light(image))
    steps = -np.diff(seen)
    assert steps.max() < 0.2 * (bright_face - dark_face)
    assert abs(seen[-1] - dark_face) < 2


def test_a_track_that_is_gone_is_forgotten() -> None:
    one, box, dark = method("average"), Box(60, 40, 40, 45), (photo() // 4).astype(np.uint8)
    one.apply(photo(), [cover(box)])
    for _ in range(101):
        one.apply(dark.copy(), [])
    image = dark.copy()
    one.apply(image, [cover(box)])
    np.testing.assert_array_equal(image, applied("average", dark, [cover(box)]))


def test_a_black_and_white_scene_gets_a_face_without_colour() -> None:
    grey = cv2.cvtColor(cv2.cvtColor(photo(), cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.uint8)
    out = applied("average", grey, [cover(Box(60, 40, 40, 45))]).astype(int)
    assert (out.max(2) - out.min(2)).max() <= 1
    coloured = applied("average", photo(), [cover(Box(60, 40, 40, 45))])[60:75, 70:90].astype(int)
    assert (coloured.max(2) - coloured.min(2)).mean() > 15


def test_faces_of_real_portraits_are_found_again_at_their_place(assets: Callable[[str], Path]) -> None:
    folder = assets("faces/congress_pd")
    detector = cv2.FaceDetectorYN.create(str(assets("weights/yunet/yunet_n_320_320.onnx")), "", (225, 275), 0.6)
    with (folder / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::40]
    found = 0
    for index, row in enumerate(rows):
        image = cv2.imread(str(folder / "450x550" / row["file"]))
        image = cv2.resize(image, (225, 275), interpolation=cv2.INTER_AREA).astype(np.uint8)
        box = Box(*(float(row[key]) / 2 for key in ("x", "y", "bw", "bh")))
        points = [[float(row[f"{name}_{axis}"]) / 2 for axis in "xy"] for name in ("re", "le", "nose", "rm", "lm")]
        one = replace(cover(box, index), landmarks=np.array(points, np.float32))
        assert method("average").apply(image, [one])[0].reason == ""
        faces = detector.detect(image)[1]
        found += faces is not None and max(Box(*map(float, face[:4])).iou(box) for face in faces) > 0.5
    assert found >= 0.95 * len(rows)


# -- pictures, which the C++ methods give as well ---------------------------------------------------


@pytest.mark.parametrize("name", ["solid", "mosaic", "blur", "average", "generator"])
def test_a_method_gives_the_picture_that_is_kept(name: str) -> None:
    case = json.loads((face_pictures.FOLDER / "cases.json").read_text())["cases"][name]
    picture, expected = (cv2.imread(str(face_pictures.FOLDER / f"{each}.png")) for each in ("picture", name))
    assert picture is not None
    assert expected is not None
    covered, applied = face_pictures.played(case, np.asarray(picture, np.uint8))
    assert applied == case["applied"]
    assert np.abs(covered.astype(int) - expected).max() <= 1
