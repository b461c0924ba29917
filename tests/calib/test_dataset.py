from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.dataset import BUILT_IN, CalibrationSet
from calib.index import Index, Picture, parse_index, read_index
from runtime.errors import ManifestError, MissingExtraError, UsageError
from runtime.frames import Frame, Frames, SizeRule
from runtime.sessions.base import Pending
from runtime.sessions.fake import FakeSession
from runtime.tiles import ResizedSession


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
    good = write(tmp_path / "a.png", noise(4, 4))
    (tmp_path / "b.png").write_bytes(data)
    material = CalibrationSet.from_paths([tmp_path])
    assert np.array_equal(material.frames[0], cv2.imread(str(good)))
    with pytest.raises(UsageError, match=r"b\.png: not a picture that OpenCV can read$"):
        material.frames[1]


def test_a_video_is_no_picture_and_is_told_how_to_become_a_set(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"moving")
    with pytest.raises(UsageError, match=r"clip\.mp4: not a picture .*`python -m calib sample VIDEO -o SET`"):
        list(CalibrationSet.from_paths([tmp_path / "clip.mp4"]).frames)


def test_places_without_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such picture or folder: make a set with `python"):
        CalibrationSet.from_paths([tmp_path / "nowhere"])
    (tmp_path / "holiday.jpg").mkdir()  # a folder, whatever it is called
    with pytest.raises(UsageError, match=r"holds no picture \(\.png, \.jpg, \.jpeg, \.webp, \.bmp\): make a set"):
        CalibrationSet.from_paths([tmp_path])
    with pytest.raises(UsageError, match="no pictures were named: make a set"):
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


# --- sampled sets -----------------------------------------------------------------------------------------------------


def write_set(folder: Path, *frames: Frame, run_length: int = 1) -> Path:
    """A set as ``python -m calib sample`` writes it."""
    folder.mkdir()
    pictures = []
    for number, frame in enumerate(frames):
        data = cv2.imencode(".png", frame)[1].tobytes()
        (folder / f"{number:05}.png").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        run, position = divmod(number, run_length)
        pictures.append(Picture(f"{number:05}.png", "clip.mp4", number, number / 25, 4, 8, digest, run, position))
    sizes = {frame.shape[:2] for frame in frames}
    size = sizes.pop() if len(sizes) == 1 else None
    (folder / "index.json").write_text(Index(7, size, run_length, tuple(pictures)).to_json())
    return folder


def test_a_set_is_read_in_the_order_of_its_index(tmp_path: Path) -> None:
    frames = [noise(16, 24, seed) for seed in range(6)]
    folder = write_set(tmp_path / "set", *frames, run_length=3)
    write(folder / "99999.png", noise(5, 5))  # not in the index, so not of the set
    material = CalibrationSet.from_paths([folder])
    assert len(material) == len(material.frames) == 6
    assert material.names == tuple(f"{number:05}" for number in range(6))
    assert material.runs == ((0, 1, 2), (3, 4, 5))
    assert material.size == (16, 24)
    assert material.source == str(folder)
    for frame, expected in zip(material.frames, frames, strict=True):
        assert np.array_equal(frame, expected)
    assert np.array_equal(material.frames[-1], frames[-1])
    assert [np.array_equal(a, b) for a, b in zip(material.frames[4:], frames[4:], strict=True)] == [True, True]
    with pytest.raises(IndexError):
        material.frames[6]


def test_sets_and_pictures_together(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", noise(8, 8), noise(8, 8, 1), run_length=2)
    photo = write(tmp_path / "photo.png", noise(20, 20))
    material = CalibrationSet.from_paths([photo, folder])
    assert (len(material), material.runs, material.size) == (3, ((0,), (1, 2)), None)
    assert CalibrationSet.from_paths([folder, folder]).size == (8, 8)
    assert CalibrationSet.from_paths([photo]).size is None


def test_pictures_are_read_only_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_set(tmp_path / "set", *(noise(8, 8, seed) for seed in range(4)))
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), original(path))[1])
    material = CalibrationSet.from_paths([folder])
    assert material.digest
    assert read == ["index.json"]
    material.frames[2]
    list(material.frames[3:])
    assert read[1:] == ["00002.png", "00003.png"]


def test_a_picture_that_was_changed_is_named(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", noise(8, 8), noise(8, 8, 1))
    write(folder / "00001.png", noise(8, 8, 2))
    material = CalibrationSet.from_paths([folder])
    material.frames[0]
    with pytest.raises(UsageError, match=r"00001\.png: not the picture that the set's index\.json describes"):
        material.frames[1]
    (folder / "00001.png").unlink()
    with pytest.raises(UsageError, match=r"00001\.png: no such picture any more"):
        material.frames[1]
    with pytest.raises(UsageError, match=r"index\.json: 00001\.png is missing: make the set again"):
        CalibrationSet.from_paths([folder])


def test_digest_tells_content_and_order_and_nothing_else(tmp_path: Path) -> None:
    one, two = noise(8, 8), noise(8, 8, 1)
    digest = CalibrationSet.from_paths([write_set(tmp_path / "a", one, two)]).digest
    assert len(bytes.fromhex(digest)) == 32
    assert CalibrationSet.from_paths([write_set(tmp_path / "b", one, two)]).digest == digest
    assert CalibrationSet.from_paths([write_set(tmp_path / "c", two, one)]).digest != digest
    (tmp_path / "a" / "index.json").unlink()
    plain = CalibrationSet.from_paths([tmp_path / "a"])
    assert plain.digest == digest  # the same files in the same order
    assert set_of(one, two).digest == set_of(one.copy(), two.copy()).digest
    assert set_of(one, two).digest != set_of(two, one).digest
    assert set_of(one.reshape(4, 16, 3)).digest != set_of(one).digest
    assert CalibrationSet.built_in().digest == CalibrationSet.built_in().digest
    assert plain.fitting(SizeRule(1, 4)).digest == digest


def picture(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["pictures"][1].update(values)


def lacking(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["pictures"][1].pop(key)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.update(kind="gallery"), r"index\.kind"),
        (lambda c: c.pop("kind"), r"index\.kind"),
        (lambda c: c.update(format=2), "format 2 is newer"),
        (lambda c: c.update(format=True), r"index\.format"),
        (lambda c: c.update(seed=-1), r"index\.seed"),
        (lambda c: c.update(size=[0, 8]), r"index\.size"),
        (lambda c: c.update(size="8x8"), r"index\.size"),
        (lambda c: c.update(size=[1 << 20, 8]), r"index\.size"),
        (lambda c: c.update(run_length=0), r"index\.run_length"),
        (lambda c: c.update(run_length=2.0), r"index\.run_length"),
        (lambda c: c.update(run_length=3), "not in order|last run"),
        (lambda c: c.update(pictures=[]), r"index\.pictures"),
        (lambda c: c.update(pictures={}), r"index\.pictures"),
        (lambda c: c.update(pictures=[1]), r"pictures\[0\]: must be an object"),
        (lambda c: c["pictures"].pop(), r"last run"),
        (lambda c: c["pictures"].reverse(), "not in order"),
        (picture(file="/etc/passwd"), r"pictures\[1\]\.file"),
        (picture(file="../other.png"), r"pictures\[1\]\.file"),
        (picture(file="..png"), r"pictures\[1\]\.file"),
        (picture(file="a/b.png"), r"pictures\[1\]\.file"),
        (picture(file="a\\b.png"), r"pictures\[1\]\.file"),
        (picture(file="a.png\n"), r"pictures\[1\]\.file"),
        (picture(file="a.jpg"), r"pictures\[1\]\.file"),
        (picture(file=1), r"pictures\[1\]\.file"),
        (picture(file="00000.png"), "same file twice"),
        (picture(file="absent.png"), r"absent\.png is missing"),
        (picture(file="link.png"), r"link\.png leads out of the set"),
        (picture(file="loop.png"), r"loop\.png"),
        (picture(file="folder.png"), r"folder\.png is missing"),
        (picture(source="/home/me/clip.mp4"), r"pictures\[1\]\.source"),
        (picture(source="\x1b[2J"), r"pictures\[1\]\.source"),
        (picture(source=""), r"pictures\[1\]\.source"),
        (picture(frame=-1), r"pictures\[1\]\.frame"),
        (picture(frame=1.5), r"pictures\[1\]\.frame"),
        (picture(time="0:01"), r"pictures\[1\]\.time"),
        (picture(time=-0.5), r"pictures\[1\]\.time"),
        (picture(time=True), r"pictures\[1\]\.time"),
        (picture(crop=[0]), r"pictures\[1\]\.crop"),
        (picture(crop=[0, -1]), r"pictures\[1\]\.crop"),
        (picture(crop=[0, 1 << 40]), r"pictures\[1\]\.crop"),
        (picture(crop=[0, True]), r"pictures\[1\]\.crop"),
        (picture(sha256="0" * 63), r"pictures\[1\]\.sha256"),
        (picture(sha256=None), r"pictures\[1\]\.sha256"),
        (picture(run=1), "not in order"),
        (picture(position=0), "not in order"),
        *[(lacking(key), rf"pictures\[1\]\.{key}: missing") for key in ("file", "source", "frame", "time", "crop")],
        *[(lacking(key), rf"pictures\[1\]\.{key}: missing") for key in ("sha256", "run", "position")],
    ],
)
def test_a_hostile_index_is_refused(change: Callable[[dict[str, Any]], object], complaint: str, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", *(noise(8, 8, seed) for seed in range(4)), run_length=2)
    outside = write(tmp_path / "outside.png", noise(8, 8))
    (folder / "link.png").symlink_to(outside)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "folder.png").mkdir()
    content = json.loads((folder / "index.json").read_text())
    change(content)
    (folder / "index.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=complaint) as caught:
        CalibrationSet.from_paths([folder])
    assert "python -m calib sample" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b"{", b'{"kind": 1, "kind": 2}', b"\xff\xfe{\x00}\x00", b'{"a": NaN}', b"[" * 100_000],
    ids=["empty", "list", "null", "cut-off", "twice", "utf-16", "nan", "deep"],
)
def test_what_is_no_index_is_refused(text: bytes, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", noise(8, 8))
    (folder / "index.json").write_bytes(text)
    with pytest.raises(UsageError, match=r"set/index\.json: index.*take index\.json out of the folder"):
        CalibrationSet.from_paths([folder])


def test_a_gigantic_index_is_not_read(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", noise(8, 8))
    os.truncate(folder / "index.json", 1 << 40)
    with pytest.raises(UsageError, match="more than 33554432 bytes"):
        CalibrationSet.from_paths([folder])


def test_a_small_file_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", noise(8, 8))
    data = claims_to_be_huge()
    (folder / "00000.png").write_bytes(data)
    content = json.loads((folder / "index.json").read_text())
    content["pictures"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "index.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"00000\.png: not a PNG of the size 8x8"):
        CalibrationSet.from_paths([folder]).frames[0]


def test_an_index_survives_writing_and_reading(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", noise(8, 8), noise(9, 8))
    index = read_index(folder)
    assert (index.seed, index.size, index.run_length, len(index.pictures)) == (7, None, 1, 2)
    assert parse_index(index.to_json()) == index


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
@settings(max_examples=50, deadline=None)
def test_any_value_anywhere_is_either_read_or_refused(value: object) -> None:
    content = json.loads(Index(0, (8, 8), 1, (Picture("a.png", "a", 0, 0.0, 0, 0, "0" * 64, 0, 0),)).to_json())
    for place in (content, content["pictures"][0]):
        for key in list(place):
            before = place[key]
            place[key] = value
            with contextlib.suppress(ManifestError):
                parse_index(json.dumps(content))
            place[key] = before


# --- fitting ----------------------------------------------------------------------------------------------------------


def test_a_model_of_one_size_gets_the_most_detailed_place() -> None:
    frame = np.full((40, 60, 3), 90, np.uint8)
    frame[26:, :16] = noise(14, 16)
    exact = noise(12, 14, 5)
    fitted = set_of(frame, exact).fitting(SizeRule(), (12, 14))
    assert [places_of(crop, original) for crop, original in zip(fitted.frames, (frame, exact), strict=True)] == [
        [(28, 0)],
        [(0, 0)],
    ]
    assert (fitted.size, fitted.names, len(fitted)) == ((12, 14), ("0", "1"), 2)


def test_a_run_is_cut_at_one_place(tmp_path: Path) -> None:
    first, second = np.full((2, 40, 60, 3), 90, np.uint8)
    first[26:, :16] = noise(14, 16)
    second[:14, 44:] = noise(14, 16)
    folder = write_set(tmp_path / "set", first, second, run_length=2)
    fitted = CalibrationSet.from_paths([folder]).fitting(SizeRule(), (12, 14))
    assert fitted.runs == ((0, 1),)
    assert np.array_equal(fitted.frames[1], second[28:, :14])  # asked for before the first
    assert np.array_equal(fitted.frames[0], first[28:, :14])


def test_a_model_that_resizes_gets_whole_frames_as_at_run_time(tmp_path: Path) -> None:
    """Small ones too; each frame of a set on disk and in memory is what the session would be given."""
    frames = [noise(40, 60), noise(5, 90, 1), noise(12, 14, 2), noise(3, 4, 3)]
    for index, frame in enumerate(frames):
        write(tmp_path / f"{index}.png", frame)
    inner = Recorder()
    with ResizedSession(inner, (12, 14)) as session:
        for frame in frames:
            session.infer(frame[None])
    for material in (set_of(*frames), CalibrationSet.from_paths([tmp_path])):
        fitted = material.fitting(SizeRule(20, 8), (12, 14), resizes=True)
        assert (fitted.size, fitted.runs, fitted.digest) == ((12, 14), material.runs, material.digest)
        for frame, seen in zip(fitted.frames, inner.frames, strict=True):
            np.testing.assert_array_equal(frame, seen)
            assert frame.flags.c_contiguous
    sampled = CalibrationSet.from_paths([write_set(tmp_path / "set", noise(5, 6), noise(5, 6, 1), run_length=2)])
    assert sampled.fitting(SizeRule(), (12, 14), resizes=True).frames[1].shape == (12, 14, 3)
    assert material.fitting(SizeRule(1, 1), resizes=True).frames[0].shape == (40, 60, 3)  # any size: nothing to resize


class Recorder(FakeSession):
    """Keeps the frames that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        self.frames.append(frames[0].copy())
        return super().submit(frames, out)


def test_free_sizes_are_cut_down_to_the_multiple(tmp_path: Path) -> None:
    frame = noise(21, 34)
    fitted = set_of(frame, noise(16, 16, 1)).fitting(SizeRule(8, 8))
    assert np.array_equal(fitted.frames[0], frame[:16, :32])
    assert fitted.frames[1].shape == (16, 16, 3)
    assert fitted.frames[0].flags.c_contiguous
    assert fitted.size is None
    assert [crop.shape for crop in fitted.frames[0:2]] == [(16, 32, 3), (16, 16, 3)]
    with pytest.raises(IndexError):
        fitted.frames[2]
    sampled = CalibrationSet.from_paths([write_set(tmp_path / "set", frame)])
    assert sampled.fitting(SizeRule(8, 8)).size == (16, 32)


def test_a_set_for_a_smaller_model_says_how_to_make_the_right_one(tmp_path: Path) -> None:
    material = CalibrationSet.from_paths([write_set(tmp_path / "set", noise(16, 40))])
    with pytest.raises(UsageError, match=r"set: a frame of 16x40 is too small.*`python -m calib .*--size 32x24`"):
        material.fitting(SizeRule(), (32, 24))
    with pytest.raises(UsageError, match=r"takes no less than 24x24 .*--size 24x24`"):
        material.fitting(SizeRule(20, 8))
    with pytest.raises(UsageError, match=r"^1: a frame of 4x4"):
        set_of(noise(8, 8), noise(4, 4)).fitting(SizeRule(1, 8))


def test_plain_pictures_that_are_too_small_are_named_when_they_are_read(tmp_path: Path) -> None:
    write(tmp_path / "a.png", noise(8, 8))
    write(tmp_path / "b.png", noise(4, 8))
    fitted = CalibrationSet.from_paths([tmp_path]).fitting(SizeRule(), (8, 8))
    assert fitted.frames[0].shape == (8, 8, 3)
    with pytest.raises(UsageError, match=r"^b: a frame of 4x8 is too small"):
        fitted.frames[1]


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    rule=st.builds(SizeRule, st.integers(1, 12), st.integers(1, 9)),
    fixed=st.none() | st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
@settings(max_examples=100, deadline=None)
def test_fitting_gives_what_the_model_takes_or_refuses(
    height: int, width: int, rule: SizeRule, fixed: tuple[int, int] | None
) -> None:
    frame = noise(height, width)
    try:
        fitted = set_of(frame).fitting(rule, fixed)
    except UsageError:
        smallest = fixed or rule.padded(1, 1)
        assert height < smallest[0] or width < smallest[1]
        return
    (result,) = fitted.frames
    assert result.shape[:2] == fixed if fixed else rule.allows(*result.shape[:2])
    assert places_of(result, frame)
