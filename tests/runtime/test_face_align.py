"""Transforms between landmarks, and which landmarks carry a face."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.faces import align
from runtime.faces.bank import average_faces

POINTS = np.array([(51, 77), (109, 77), (80, 112), (53, 133), (107, 133)], np.float64)
"""A face that looks at the camera."""


def turned(angle: float, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> NDArray[np.float64]:
    turn = np.radians(angle)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return POINTS @ matrix.T + np.array(shift)


def put(matrix: align.Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ matrix[:, :2].T + matrix[:, 2]


angles, scales = st.floats(-180, 180), st.floats(0.05, 20)
shifts = st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000))


@given(angles, scales, shifts)
def test_a_similarity_is_found_again(angle: float, scale: float, shift: tuple[float, float]) -> None:
    goal = turned(angle, scale, shift)
    for find in (align.similarity, align.affine, align.placement):
        np.testing.assert_allclose(put(find(POINTS, goal), POINTS), goal, atol=1e-6)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=5, max_size=5), angles, scales)
def test_a_similarity_neither_bends_nor_mirrors(noise: list[tuple[float, float]], angle: float, scale: float) -> None:
    linear = align.similarity(POINTS, turned(angle, scale) + np.array(noise))[:, :2]
    gram = linear.T @ linear
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(2), atol=1e-9)
    assert np.linalg.det(linear) >= 0


def test_the_similarity_is_the_best_of_those_near_it() -> None:
    goal = turned(20, 1.3, (5, -7)) + np.array([(3, 1), (-2, 4), (0, -5), (6, 0), (-1, -2)])
    best = align.similarity(POINTS, goal)
    error = ((put(best, POINTS) - goal) ** 2).sum()
    for change in ([[0.01, 0, 0], [0, 0.01, 0]], [[0, -0.01, 0], [0.01, 0, 0]], [[0, 0, 0.2], [0, 0, 0]]):
        for sign in (1, -1):
            assert ((put(best + sign * np.array(change), POINTS) - goal) ** 2).sum() > error


def test_a_mirrored_face_is_not_drawn_mirrored() -> None:
    matrix = align.placement(POINTS, POINTS * (-1, 1))
    assert np.linalg.det(matrix[:, :2]) >= 0


def test_a_turned_head_becomes_narrower() -> None:
    narrow = POINTS * (0.7, 1)
    linear = align.placement(POINTS, narrow)[:, :2]
    assert np.hypot(*linear[:, 0]) < np.hypot(*linear[:, 1])
    squeezed = align.placement(POINTS, POINTS * (0.3, 1))[:, :2]  # more than a face can bear: a similarity
    assert np.hypot(*squeezed[:, 0]) == pytest.approx(np.hypot(*squeezed[:, 1]))


@given(st.floats(-70, 70), scales, shifts)
def test_a_face_that_looks_at_the_camera_is_fine(angle: float, scale: float, shift: tuple[float, float]) -> None:
    assert align.trouble_with(turned(angle, scale, shift).astype(np.float32)) == ""


@given(st.floats(80, 280))
def test_a_head_on_its_side_or_upside_down_is_a_profile(angle: float) -> None:
    assert align.trouble_with(turned(angle).astype(np.float32)) == "profile"


@pytest.mark.parametrize("width", [0.0, 0.1, 0.25])
def test_a_head_seen_from_the_side_is_a_profile(width: float) -> None:
    assert align.trouble_with((POINTS * (width, 1)).astype(np.float32)) == "profile"


def test_a_nose_beside_the_eyes_is_a_profile() -> None:
    points = POINTS.astype(np.float32)
    points[2, 0] = 145
    assert align.trouble_with(points) == "profile"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(10))
def test_a_number_that_is_none_is_no_landmark(bad: float, place: int) -> None:
    points = POINTS.astype(np.float32)
    points.reshape(-1)[place] = bad
    assert align.trouble_with(points) == "no landmarks"


def test_missing_points_and_a_single_point_are_no_landmarks() -> None:
    assert align.trouble_with(None) == "no landmarks"
    assert align.trouble_with(POINTS[:4].astype(np.float32)) == "no landmarks"
    assert align.trouble_with(np.full((5, 2), 7, np.float32)) == "no landmarks"


def test_every_face_of_the_bank_has_its_landmarks_inside_and_is_different() -> None:
    faces = average_faces()
    assert len(faces) >= 16
    for face in faces:
        assert align.trouble_with(face.landmarks) == ""
        shown = face.levels[0][..., 3]
        assert all(shown[round(float(y)), round(float(x))] == 255 for x, y in face.landmarks)
        assert shown[[0, -1]].max() == 0
        assert shown[:, [0, -1]].max() == 0
    small = [face.levels[2][..., :3].astype(float) for face in faces]
    assert min(np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]) > 2


def test_a_level_is_large_enough_and_the_next_is_not() -> None:
    face = average_faces()[0]
    assert [face.level_for(scale) for scale in (8.0, 1.0, 0.51, 0.5, 0.26, 0.25, 0.1, 0.0)] == [0, 0, 0, 1, 1, 2, 3, 3]
