from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.dataset import BUILT_IN, CalibrationSet
from runtime.errors import MissingExtraError, UsageError
from runtime.frames import Frame


def noise(height: int, width: int, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def set_of(*frames: Frame) -> CalibrationSet:
    return CalibrationSet(frames, tuple(map(str, range(len(frames)))), "made for a test")


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


# --- built-in photos --------------------------------------------------------------------------------------------------


def test_built_in_photos_are_bgr_frames() -> None:
    from skimage import data

    material = CalibrationSet.built_in()
    assert len(material) == len(BUILT_IN) == 4
    assert material.names == BUILT_IN
    for frame, name in zip(material.frames, BUILT_IN, strict=True):
        assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
        assert np.array_equal(frame[..., 2], getattr(data, name)()[..., 0])  # red is last


def test_missing_scikit_image_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match=r'scikit-image is not installed: pip install "genedge\[export\]"'):
        CalibrationSet.built_in()


# --- pictures of the user ---------------------------------------------------------------------------------------------


def test_files_and_folders_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    second = write(tmp_path / "album" / "b.PNG", noise(5, 6, 1))
    first = write(tmp_path / "album" / "a.bmp", noise(7, 8, 2))
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    single = write(tmp_path / "single.png", noise(9, 4, 3))
    material = CalibrationSet.from_paths([single, tmp_path / "album"])
    assert material.names == ("single", "a", "b")
    assert material.source == f"{single}, {tmp_path / 'album'}"
    for frame, path in zip(material.frames, (single, first, second), strict=True):
        assert np.array_equal(frame, cv2.imread(str(path)))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp"])
def test_kinds_of_pictures(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"a{suffix}", noise(16, 16))
    assert CalibrationSet.from_paths([tmp_path]).frames[0].shape == (16, 16, 3)


@pytest.mark.parametrize(
    "image",
    [
        np.full((4, 5), 80, np.uint8),
        np.full((4, 5, 4), 80, np.uint8),
        np.full((4, 5, 3), 80 * 257, np.uint16),
    ],
    ids=["grey", "with-alpha", "16-bit"],
)
def test_other_kinds_of_pixels_become_bgr_of_8_bits(image: np.ndarray, tmp_path: Path) -> None:
    material = CalibrationSet.from_paths([write(tmp_path / "a.png", image)])
    assert np.array_equal(material.frames[0], np.full((4, 5, 3), 80, np.uint8))


def test_names_need_not_be_ascii(tmp_path: Path) -> None:
    data = cv2.imencode(".png", noise(4, 4))[1].tobytes()
    (tmp_path / "Straße 1.png").write_bytes(data)
    assert CalibrationSet.from_paths([tmp_path]).names == ("Straße 1",)


def claims_to_be_huge() -> bytes:
    """A PNG of 80 bytes whose header says 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", claims_to_be_huge()],
    ids=["empty", "text", "cut-off", "claims-to-be-huge"],
)
def test_what_is_no_picture_is_named(data: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(4, 4))
    (tmp_path / "b.png").write_bytes(data)
    with pytest.raises(UsageError, match=r"b\.png: not a picture that OpenCV can read"):
        CalibrationSet.from_paths([tmp_path])


def test_places_without_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such picture or folder"):
        CalibrationSet.from_paths([tmp_path / "nowhere"])
    (tmp_path / "holiday.jpg").mkdir()  # a folder, whatever it is called
    with pytest.raises(UsageError, match=r"holds no picture \(\.png, \.jpg, \.jpeg, \.webp, \.bmp\)"):
        CalibrationSet.from_paths([tmp_path])
    with pytest.raises(UsageError, match="no pictures were named"):
        CalibrationSet.from_paths([])


# --- crops ------------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=3),
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    count=st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_crops_have_exactly_the_size_asked_for(
    sizes: list[tuple[int, int]], height: int, width: int, count: int
) -> None:
    material = set_of(*(noise(*size) for size in sizes))
    crops = list(material.crops(height, width, count))
    assert len(crops) == count
    assert all(crop.shape == (height, width, 3) and crop.dtype == np.uint8 for crop in crops)
    assert all(crop.flags.c_contiguous for crop in crops)


def places_of(crop: Frame, frame: Frame) -> list[tuple[int, int]]:
    height, width = crop.shape[:2]
    return [
        (y, x)
        for y in range(frame.shape[0] - height + 1)
        for x in range(frame.shape[1] - width + 1)
        if np.array_equal(frame[y : y + height, x : x + width], crop)
    ]


def test_crops_are_cut_out_of_their_frames_in_turn() -> None:
    first, second = noise(20, 30, 1), noise(25, 18, 2)
    crops = list(set_of(first, second).crops(8, 10, 4))
    assert [len(places_of(crop, frame)) for crop, frame in zip(crops, (first, second, first, second), strict=True)] == [
        1
    ] * 4
    assert not np.array_equal(crops[0], crops[2])  # the second turn takes another place


def test_the_most_detailed_place_comes_first() -> None:
    frame = np.full((40, 60, 3), 90, np.uint8)
    frame[26:, :16] = noise(14, 16)  # bottom left
    frame[:10, 48:] = frame[:10, 48:] // 2 + noise(10, 12) // 16  # top right, fainter
    first, second = set_of(frame).crops(12, 14, 2)
    assert places_of(first, frame) == [(28, 0)]
    assert places_of(second, frame) == [(0, 46)]


def test_a_frame_that_is_smaller_than_the_crop_is_enlarged() -> None:
    (crop,) = set_of(np.full((10, 40, 3), (10, 20, 30), np.uint8)).crops(30, 35, 1)
    assert np.array_equal(crop, np.full((30, 35, 3), (10, 20, 30), np.uint8))


def test_a_frame_of_just_the_size_is_used_whole() -> None:
    frame = noise(12, 9)
    assert all(np.array_equal(crop, frame) for crop in set_of(frame).crops(12, 9, 3))


def test_crops_are_the_same_every_time() -> None:
    material = set_of(noise(30, 40, 1), noise(31, 22, 2))
    for first, second in zip(material.crops(9, 9, 7), material.crops(9, 9, 7), strict=True):
        assert np.array_equal(first, second)
