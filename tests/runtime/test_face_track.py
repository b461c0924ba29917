from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from face_paths import face, landmarks_of, moving
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.faces.match import SMALL_WIDTH, SmallFrame
from runtime.faces.regions import enclosing, plausible
from runtime.faces.track import Motion, Sight, Track, assign, carried, predicted, travelled
from runtime.faces.types import Box, Face, Landmarks
from runtime.frames import Frame

HIGH = 0.6


def track(number: int, box: Box, *, index: int = 0, score: float = 0.9) -> Track:
    return Track(number, 0, [Sight(index, index / 25, box, score, None, None, False, Motion())], 1, score)


def pairs(tracks: list[Track], faces: list[Face], index: int = 1) -> dict[int, int]:
    return {tracks[pair.track].number: pair.face for pair in assign(tracks, faces, index, HIGH)}


# -- association ----------------------------------------------------------------------------------


def test_each_track_takes_the_face_that_is_nearest() -> None:
    tracks = [track(0, Box(0, 0, 40, 50)), track(1, Box(100, 0, 40, 50))]
    assert pairs(tracks, [face(Box(97, 2, 40, 50)), face(Box(3, 1, 40, 50))]) == {0: 1, 1: 0}


def test_a_face_with_a_high_score_chooses_before_a_weak_one() -> None:
    tracks = [track(0, Box(0, 0, 40, 50))]
    assert pairs(tracks, [face(Box(2, 0, 40, 50), 0.3), face(Box(8, 0, 40, 50), 0.9)]) == {0: 1}


def test_a_far_face_with_a_high_score_does_not_take_the_track_from_the_weak_one_on_it() -> None:
    tracks = [track(0, Box(0, 0, 40, 50))]
    assert pairs(tracks, [face(Box(36, 0, 40, 50), 0.9), face(Box(1, 0, 40, 50), 0.3)]) == {0: 1}


def test_a_face_twice_as_far_as_it_is_large_is_the_same_only_where_nothing_else_can_be() -> None:
    jumped = [track(0, Box(0, 0, 40, 50))]
    made = assign(jumped, [face(Box(90, 0, 40, 50))], 1, HIGH)
    assert [(pair.face, pair.jumped) for pair in made] == [(0, True)]
    assert pairs(jumped, [face(Box(90, 0, 40, 50)), face(Box(-90, 0, 40, 50))]) == {}


def test_what_was_never_more_than_weak_does_not_jump() -> None:
    assert pairs([track(0, Box(0, 0, 40, 50), score=0.3)], [face(Box(45, 0, 40, 50), 0.3)]) == {}
    assert pairs([track(0, Box(0, 0, 40, 50), score=0.9)], [face(Box(45, 0, 40, 50), 0.3)]) == {0: 0}


def test_a_face_of_another_size_is_another_one() -> None:
    assert pairs([track(0, Box(0, 0, 40, 50))], [face(Box(-40, -50, 120, 150))]) == {}


def test_people_who_cross_keep_their_tracks() -> None:
    left, right = moving((100, 200), 60, speed=0.15), moving((700, 230), 60, speed=0.15, angle=math.pi)
    tracks = [track(0, left(0)), track(1, right(0))]
    for index in range(1, 60):
        faces = [face(left(index)), face(right(index))]
        found = pairs(tracks, faces, index)
        assert found == {0: 0, 1: 1}, index
        for one in tracks:
            one.see(faces[found[one.number]], index, index / 25, True)


@given(
    st.lists(
        st.tuples(*[st.floats(-500, 500), st.floats(-500, 500), st.floats(0, 300), st.floats(0, 300)]), max_size=8
    ),
    st.lists(
        st.tuples(*[st.floats(-500, 500), st.floats(-500, 500), st.floats(0, 300), st.floats(0, 300)]), max_size=8
    ),
    st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_no_track_and_no_face_is_used_twice(
    one: list[tuple[float, ...]], other: list[tuple[float, ...]], index: int
) -> None:
    made = assign([track(i, Box(*b)) for i, b in enumerate(one)], [Face(Box(*b), 0.7) for b in other], index, HIGH)
    assert len({pair.track for pair in made}) == len({pair.face for pair in made}) == len(made)


# -- motion ---------------------------------------------------------------------------------------


def test_an_even_motion_and_zoom_are_learned() -> None:
    path = moving((100, 100), 50, speed=0.2, angle=0.5, zoom=0.01)
    one = track(0, path(0))
    for index in range(1, 12):
        one.see(face(path(index)), index, index / 25, True)
    there, truth = predicted(one.last, 4), path(15)
    assert there.center == pytest.approx(truth.center, abs=1.5)
    assert there.width == pytest.approx(truth.width, rel=0.02)


def test_a_velocity_fades_after_a_while() -> None:
    assert travelled(3) == 3
    assert travelled(12) == 12
    assert 12 < travelled(20) < travelled(1000) <= 12 + 9.01


def test_landmarks_have_no_lag_when_a_face_moves_evenly_and_less_jitter_when_it_rests() -> None:
    moves, rests = moving((100, 100), 60, speed=0.05), moving((100, 100), 60)
    random = np.random.default_rng(3)
    one, other, noisy, steady = track(0, moves(0)), track(1, rests(0)), [], []
    for index in range(1, 80):
        one.see(face(moves(index)), index, index / 25, True)
        points = landmarks_of(rests(index)) + random.normal(0, 1, (5, 2)).astype(np.float32)
        other.see(Face(rests(index), 0.9, points), index, index / 25, True)
        noisy.append(points)
        assert other.last.steady is not None
        steady.append(other.last.steady)
    assert one.last.steady is not None
    assert np.abs(one.last.steady - landmarks_of(moves(79))).max() < 0.5
    assert np.diff(steady, axis=0).std() < 0.75 * np.diff(noisy, axis=0).std()


def test_landmarks_go_with_their_box() -> None:
    box, to = Box(10, 20, 40, 50), Box(110, 0, 80, 100)
    assert carried(landmarks_of(box), box, to) == pytest.approx(landmarks_of(to), abs=1e-3)


# -- regions --------------------------------------------------------------------------------------

boxes = st.builds(Box, st.floats(-300, 300), st.floats(-300, 300), st.floats(1, 200), st.floats(1, 200))


@given(st.lists(boxes, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_ellipse_of_several_regions_holds_theirs(regions: list[Box]) -> None:
    whole = enclosing(regions)
    (x, y), across, down = whole.center, whole.width / 2, whole.height / 2
    for region in regions:
        (cx, cy), half, tall = region.center, region.width / 2, region.height / 2
        for angle in np.linspace(0, 2 * math.pi, 50):
            px, py = cx + half * math.cos(angle), cy + tall * math.sin(angle)
            assert ((px - x) / across) ** 2 + ((py - y) / down) ** 2 <= 1 + 1e-6


def test_one_region_alone_stays_as_it_is_and_one_inside_of_another_adds_nothing() -> None:
    outer = Box(0, 0, 100, 120)
    assert enclosing([outer]) == outer
    assert enclosing([outer, Box(30, 40, 40, 40)]) == outer


def changed(point: int, x: float, y: float) -> Landmarks:
    points = landmarks_of(Box(100, 100, 60, 75))
    points[point] = 100 + 60 * x, 100 + 75 * y
    return points


def test_landmarks_of_a_face_that_looks_at_the_camera_are_plausible() -> None:
    assert plausible(landmarks_of(Box(100, 100, 60, 75)))
    assert not plausible(landmarks_of(Box(100, 100, 6, 7)))  # nothing to tell from


@pytest.mark.parametrize(
    "points",
    [
        landmarks_of(Box(100, 100, 60, 75))[[4, 3, 2, 1, 0]],  # upside down
        landmarks_of(Box(100, 100, 60, 75))[[1, 0, 2, 4, 3]],  # mirrored
        landmarks_of(Box(100, 100, 60, 75))[:, ::-1] * np.float32([1, -1]),  # lying on its side
        changed(2, 0.28, 0.6),  # the nose beside an eye: a profile
        changed(2, 0.5, 0.95),  # the nose below the mouth
        changed(1, 0.36, 0.4),  # both eyes in one place
        np.zeros((5, 2), np.float32),
        np.full((5, 2), np.nan, np.float32),
    ],
)
def test_landmarks_of_no_face_are_not(points: Landmarks) -> None:
    assert not plausible(points)


def test_a_face_that_was_plausible_may_turn_a_little_further() -> None:
    turned = changed(2, 0.34, 0.6)
    assert not plausible(turned)
    assert plausible(turned, 0.1)


# -- finding by the picture -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(assets: Callable[[str], Path]) -> list[Frame]:
    """40 frames from frame 83 on: a singer, whose face is at FACE in the first one."""
    reader = cv2.VideoCapture(str(assets("video/short_hamilton_clip.mp4")))
    frames = [np.asarray(reader.read()[1], np.uint8) for _ in range(123)]
    return frames[83:]


FACE = Box(141, 54, 81, 107)
EIGHT_LATER = Box(168, 58, 79, 105)  # as YuNet finds them


def test_a_face_is_found_again_where_the_picture_has_moved(clip: list[Frame]) -> None:
    picture = clip[0]
    shifted = np.roll(picture, (6, -14), axis=(0, 1))
    found = SmallFrame(picture).locate(FACE, SmallFrame(shifted), FACE)
    assert found is not None
    box, alike = found
    assert box.center == pytest.approx((FACE.center[0] - 14, FACE.center[1] + 6), abs=4)
    assert alike > 0.9


def test_a_face_is_found_again_from_frame_to_frame(clip: list[Frame]) -> None:
    here = FACE
    for before, frame in pairwise(clip[:9]):
        found = SmallFrame(before).locate(here, SmallFrame(frame), here)
        assert found is not None
        here = found[0]
    assert here.center == pytest.approx(EIGHT_LATER.center, abs=8)


def test_what_is_not_there_is_not_found(clip: list[Frame]) -> None:
    small, wall = SmallFrame(clip[0]), Box(480, 100, 60, 80)
    assert small.locate(FACE, SmallFrame(np.full_like(clip[0], 80)), FACE) is None
    assert small.locate(FACE, small, wall) is None
    assert small.locate(Box(-500, -500, 50, 50), small, FACE) is None  # outside of the picture
    assert small.locate(Box(200, 100, 2, 2), small, FACE) is None
    assert small.locate(FACE, SmallFrame(clip[0][:200]), FACE) is None  # a frame of another size


def test_a_small_copy_is_small(clip: list[Frame]) -> None:
    large = np.asarray(cv2.resize(clip[0], (1280, 2000)), np.uint8)
    small = SmallFrame(large)
    small.level(4)
    assert small.size <= SMALL_WIDTH * SMALL_WIDTH * 1.4
