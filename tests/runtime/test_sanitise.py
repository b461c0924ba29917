"""What reaches a face generator, and where its result goes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.codes import Code
from runtime.errors import GenedgeError
from runtime.faces import sanitise
from runtime.faces.generator import SEEDS, GeneratorPainter, coloured_as
from runtime.faces.sanitise import CELLS, ERASED, SIDE, TEMPLATE, FaceSanitiser
from runtime.faces.types import Box, Cover, Landmarks
from runtime.frames import Frame, Frames
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.codes import CodeInputs

CELL = (10, 6)


def crop_of(picture: Frame, place: int = 0) -> Frame:
    """A piece of a photo, as large as a crop."""
    return np.ascontiguousarray(picture[place : place + SIDE, 2 * place : 2 * place + SIDE])


def placed(scale: float = 1.0, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> Landmarks:
    """The template elsewhere in an image."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (scale * TEMPLATE @ turn.T + shift).astype(np.float32)


@pytest.fixture(scope="module")
def photo() -> Frame:
    """A photo of a face that comes with scikit-image."""
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[..., ::-1])


# --- what is erased ---------------------------------------------------------------------------------------------------


def test_the_rectangle_holds_the_hull_and_whole_cells() -> None:
    rows, columns = ERASED
    assert (rows.stop - rows.start, columns.stop - columns.start) == (CELLS * CELL[0], CELLS * CELL[1])
    outside = sanitise.hull().copy()
    outside[ERASED] = 0
    assert not outside.any()
    assert sanitise.hull()[tuple(np.rint(TEMPLATE).astype(int).T[::-1])].min() == 255  # all landmarks are shown


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**62),
    swaps=st.lists(st.integers(0, 63), min_size=1, max_size=64, unique=True),
    turn=st.integers(1, 59),
)
def test_faces_with_the_same_thumbnail_are_the_same_to_the_generator(
    photo: Frame, seed: int, swaps: list[int], turn: int
) -> None:
    """Pixels are moved about inside of their cells, so the means stay and everything else of the face goes."""
    crop = crop_of(photo[60:, 130:])
    other = crop.copy()
    cells = other[ERASED].reshape(CELLS, CELL[0], CELLS, CELL[1], 3).transpose(0, 2, 1, 3, 4).reshape(64, 60, 3).copy()
    for cell in swaps:
        cells[cell] = np.roll(cells[cell], turn, axis=0)
    other[ERASED] = cells.reshape(CELLS, CELLS, *CELL, 3).transpose(0, 2, 1, 3, 4).reshape(crop[ERASED].shape)
    assert not np.array_equal(other, crop)
    first, second = (FaceSanitiser()(face, face, TEMPLATE, seed) for face in (crop, other))
    np.testing.assert_array_equal(first.frame, second.frame)
    np.testing.assert_array_equal(first.landmarks, second.landmarks)


def test_only_the_thumbnail_of_the_original_is_used_where_its_surroundings_are_given(photo: Frame) -> None:
    face, around = crop_of(photo[60:, 130:]), crop_of(photo[300:, 300:])
    result = FaceSanitiser()(face, around, TEMPLATE, 1).frame
    same = around.copy()
    same[ERASED] = result[ERASED]
    np.testing.assert_array_equal(result, same)
    cells = result[ERASED].reshape(CELLS, CELL[0], CELLS, CELL[1], 3)
    assert np.ptp(cells.astype(int), axis=(1, 3)).max() == 0  # flat cells
    plain = FaceSanitiser(noise=0)(face, around, TEMPLATE, 1).frame
    np.testing.assert_allclose(plain[ERASED][:: CELL[0], :: CELL[1]], sanitise.thumbnail_of(face), atol=0.51)


def test_a_sanitised_crop_is_its_own_sanitised_crop(photo: Frame) -> None:
    once = FaceSanitiser()(photo, photo, placed(1.5, 0.1, (120, 20)), 3).frame
    np.testing.assert_array_equal(sanitise.erased(once, sanitise.thumbnail_of(once)), once)


def test_noise_is_that_of_the_seed() -> None:
    first, second = sanitise.fixed_noise(5), sanitise.fixed_noise(6)
    np.testing.assert_array_equal(first, sanitise.fixed_noise(5))
    assert np.abs(first - second).mean() > 2
    many = np.stack([sanitise.fixed_noise(seed) for seed in range(200)])
    assert many.std() == pytest.approx(sanitise.NOISE, rel=0.03)
    assert abs(many.mean()) < 0.1


# --- where a face is --------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(scale=st.floats(0.2, 8), angle=st.floats(-1.2, 1.2), x=st.floats(-300, 900), y=st.floats(-300, 900))
def test_any_size_tilt_and_place_is_aligned_to_the_template(scale: float, angle: float, x: float, y: float) -> None:
    points = placed(scale, angle, (x, y))
    matrix = sanitise.matrix_for(points)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=0.01)
    shape = FaceSanitiser().shape_of(points, matrix)
    np.testing.assert_allclose(shape, sanitise.normalised(TEMPLATE), atol=1e-3)


def test_the_shape_of_a_face_is_kept_in_part() -> None:
    points = TEMPLATE + np.array([(0, 0), (0, 0), (4, 0), (0, 0), (0, 0)], np.float32)
    matrix = sanitise.matrix_for(points)
    mean, whole, none = (FaceSanitiser(kept=kept).shape_of(points, matrix) for kept in (0.6, 1, 0))
    flat = sanitise.normalised(TEMPLATE)
    np.testing.assert_allclose(none, flat, atol=1e-6)
    np.testing.assert_allclose(mean - flat, 0.6 * (whole - flat), atol=1e-6)
    assert np.abs(whole - flat).max() > 0.03


@pytest.mark.parametrize("bad", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2)), np.full((5, 2), np.inf)])
def test_useless_landmarks_are_refused(photo: Frame, bad: np.ndarray) -> None:
    with pytest.raises(GenedgeError, match="cannot be aligned"):
        FaceSanitiser()(photo, photo, bad.astype(np.float32), 0)


@pytest.mark.parametrize("scale", [2.0, 3.0, 4.7])
def test_every_pixel_of_a_large_face_counts(photo: Frame, scale: float) -> None:
    """A thumbnail does not depend on the size of the picture, although crops are smaller than it."""
    small = crop_of(photo[60:, 130:])
    size = (round(SIDE * scale), round(SIDE * scale))
    large = cv2.resize(small, size, interpolation=cv2.INTER_NEAREST)
    checks = (np.indices(large.shape[:2]).sum(0) % 2)[..., None] * 80  # finer than the crop
    large = np.clip(large.astype(int) // 2 + checks, 0, 255).astype(np.uint8)
    points = ((TEMPLATE + 0.5) * (size[0] / SIDE) - 0.5).astype(np.float32)
    found = sanitise.thumbnail_of(sanitise.aligned(large, sanitise.matrix_for(points)))
    np.testing.assert_allclose(found, sanitise.thumbnail_of(small // 2) + 40, atol=6)


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.0), (2.0, 0.3), (4.0, -0.5)])
def test_a_crop_put_back_is_what_was_there(photo: Frame, scale: float, angle: float) -> None:
    smooth = cv2.GaussianBlur(photo, (0, 0), 4 * scale)
    matrix = sanitise.matrix_for(placed(scale, angle, (90, 60)))
    target = smooth.copy()
    sanitise.put_back(sanitise.aligned(smooth, matrix), matrix, target)
    difference = np.abs(target.astype(int) - smooth)
    assert difference.max() <= 12
    assert difference.mean() < 0.5
    blank = smooth.copy()
    sanitise.put_back(np.zeros((SIDE, SIDE, 3), np.uint8), matrix, blank)
    changed = (blank != smooth).any(2)
    back = cv2.invertAffineTransform(matrix)
    nose = np.rint(TEMPLATE[2] @ back[:, :2].T + back[:, 2]).astype(int)
    assert (blank[nose[1], nose[0]] == 0).all()
    rows, columns = np.nonzero(changed)
    seen = np.column_stack([columns, rows]) @ matrix[:, :2].T + matrix[:, 2]
    (top, bottom), (left, right) = ((part.start, part.stop) for part in ERASED)
    assert (seen >= (left - 1.5, top - 1.5)).all()  # nothing outside of the rectangle changes
    assert (seen <= (right + 0.5, bottom + 0.5)).all()


def test_a_face_beyond_the_border_is_drawn_in_part_or_not_at_all(photo: Frame) -> None:
    for shift in ((-60, -50), (470, 480), (-4000, 0)):
        matrix = sanitise.matrix_for(placed(1.0, 0.0, shift))
        assert sanitise.aligned(photo, matrix).shape == (SIDE, SIDE, 3)
        target = photo.copy()
        sanitise.put_back(np.zeros((SIDE, SIDE, 3), np.uint8), matrix, target)
        assert (target != photo).any() == (shift[0] > -4000)


# --- the painter ------------------------------------------------------------------------------------------------------


class Mirror(Session):
    """Gives each crop back as it came, and remembers what it got."""

    info = SessionInfo("fake", "fp32", "fp32", "CPU", 1, 1)
    scale = 1

    def __init__(self, bits: Code | None = None, landmarks: int = 10) -> None:
        rules = {"landmarks": Code("vector", landmarks, (0.0,) * landmarks, -1.0, 1.0)}
        rules["passcode"] = bits or Code("bits", 16, (-1.0,) * 16, -1.0, 1.0)
        self.code_inputs = CodeInputs(rules)
        self.seen: list[tuple[Frames, dict[str, np.ndarray]]] = []
        self.closed = False

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        self.seen.append((frames.copy(), dict(self.code_inputs.now)))
        return Pending(lambda: frames.copy())

    def close(self) -> None:
        self.closed = True


class Keys:
    def number(self, track: int, below: int) -> int:
        return (track + 1) * 987_654_321_987 % below

    def bits(self, track: int, count: int) -> np.ndarray:
        return (np.arange(count) % (track + 2) == 0).astype(np.float32)


def cover(track: int = 0, points: Landmarks | None = None) -> Cover:
    points = placed(2.0, 0.1, (130, 10)) if points is None else points
    box = Box(150.0, 30.0, 120.0, 150.0)
    return Cover(track, box, box.scaled(1.6, 1.8), "detected", 0.9, points, True)


def test_the_session_gets_the_sanitised_crop_of_the_recipe(photo: Frame) -> None:
    session, around = Mirror(), cv2.GaussianBlur(photo, (0, 0), 20)
    painter, target = GeneratorPainter(session), around.copy()
    painter.paint(photo, target, cover(1), Keys())
    [(frames, codes)] = session.seen
    points = cover(1).landmarks
    assert points is not None
    wanted = FaceSanitiser()(photo, around, points, Keys().number(1, SEEDS))
    np.testing.assert_array_equal(frames, wanted.frame[None])
    np.testing.assert_array_equal(codes["landmarks"], wanted.landmarks)
    np.testing.assert_array_equal(codes["passcode"], 2 * Keys().bits(1, 16) - 1)
    shown = around.copy()
    sanitise.put_back(wanted.frame, wanted.matrix, shown)
    np.testing.assert_array_equal(target, shown)
    painter.close()
    assert session.closed


def test_a_track_keeps_noise_and_bits_and_its_thumbnail_follows_slowly(photo: Frame) -> None:
    session = Mirror()
    painter, dark = GeneratorPainter(session), (photo // 2).astype(np.uint8)
    for picture, track in ((photo, 0), (photo, 0), (dark, 0), (photo, 1)):
        painter.paint(picture, photo.copy(), cover(track), Keys())
    first, again, darker, other = (
        (frames[0][ERASED].astype(float), codes["passcode"]) for frames, codes in session.seen
    )
    np.testing.assert_array_equal(first[0], again[0])
    drop = (again[0] - darker[0]).mean() / (photo.mean() / 2)
    assert 0.1 < drop < 0.5  # a quarter of the step; the face is brighter than the photo
    assert np.abs(first[0] - other[0]).mean() > 2  # other noise
    assert (first[1] != other[1]).any()


@pytest.mark.parametrize(("chroma", "left"), [(0, 0.0), (6, 0.5), (40, 1.0)])
def test_a_face_is_drawn_with_as_much_colour_as_there_is(photo: Frame, chroma: int, left: float) -> None:
    thumbnail = np.full((CELLS, CELLS, 3), 100, np.float32)
    thumbnail[..., 2] += chroma
    face = crop_of(photo[60:, 130:])
    spread = np.ptp(coloured_as(face, thumbnail).astype(float), axis=2).mean()
    assert spread == pytest.approx(left * np.ptp(face.astype(float), axis=2).mean(), abs=0.6)


def test_what_is_not_meant_for_faces_is_refused(photo: Frame) -> None:
    with pytest.raises(GenedgeError, match="takes the codes landmarks"):
        GeneratorPainter(Mirror(landmarks=4))
    with pytest.raises(GenedgeError, match="takes the codes landmarks"):
        GeneratorPainter(Mirror(Code("vector", 16, (0.0,) * 16)))
    with pytest.raises(GenedgeError, match="landmarks"):
        GeneratorPainter(Mirror()).paint(
            photo, photo.copy(), Cover(0, Box(0, 0, 9, 9), Box(0, 0, 9, 9), "held", 1, None, True), Keys()
        )
