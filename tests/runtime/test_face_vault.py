from __future__ import annotations

import argparse
import functools
import json
import os
import stat
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers

from runtime.cli import EXTRAS, dispatch
from runtime.errors import EndedEarlyError, GenedgeError, MissingExtraError, UsageError, VideoError
from runtime.faces import vault as module
from runtime.faces.passcode import Cost
from runtime.faces.reveal import add_reveal_parser
from runtime.faces.vault import VaultReader, VaultWriter, read_vault
from runtime.frames import Frame
from runtime.video.sink import open_sink
from runtime.video.source import open_source

pytest.importorskip("cryptography")

CHEAP = Cost(32, 1, 4)
RECORDING = bytes(range(32))
SECRET = "correct horse battery staple"
HEADER, INFO, BOX = 68, 80, 72  # bytes, as the layout in vault.py says

Item = tuple[int, Fraction, int, int, int, Frame]


def _write(path: Path, items: Sequence[Item], **more: Any) -> Path:
    with VaultWriter(path, SECRET, recording=RECORDING, **{"cost": CHEAP, **more}) as vault:
        for item in items:
            vault.add(*item)
    return path


def _read(path: Path, passcode: str = SECRET) -> list[Item]:
    with read_vault(path, passcode) as vault:
        return [(e.frame, e.pts, e.track, e.left, e.top, crop) for e, crop in vault]


def _read_until_error(path: Path) -> tuple[list[Item], GenedgeError]:
    """What a broken vault gives before it says so."""
    got: list[Item] = []
    try:
        with read_vault(path, SECRET) as vault:
            for entry, crop in vault:
                got.append((entry.frame, entry.pts, entry.track, entry.left, entry.top, crop))
    except GenedgeError as error:
        return got, error
    raise AssertionError(f"nobody noticed, {len(got)} crops")


def _same(one: Sequence[Item], other: Sequence[Item]) -> bool:
    return len(one) == len(other) and all(
        a[:5] == b[:5] and a[5].dtype == b[5].dtype and np.array_equal(a[5], b[5])
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture(scope="module")
def photo(photo_folder: Path) -> Frame:
    picture = cv2.imread(str(photo_folder / "0.png"))
    assert picture is not None
    return np.asarray(picture, np.uint8)


@pytest.fixture(scope="module")
def items(photo: Frame) -> list[Item]:
    """Five crops of real pixels of two tracks."""
    return [
        (n, Fraction(n, 25), n % 2, 10 * n, 5 * n, np.ascontiguousarray(photo[n : n + 6 + n, 8 : 16 + n]))
        for n in range(5)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, items: list[Item]) -> bytes:
    return _write(tmp_path_factory.mktemp("vault") / "faces.vault", items).read_bytes()


@pytest.fixture
def place(tmp_path: Path, whole: bytes) -> Callable[[bytes], Path]:
    """Writes these bytes as a vault."""

    def put(data: bytes) -> Path:
        path = tmp_path / "changed.vault"
        path.write_bytes(data)
        return path

    return put


# --- what goes in comes out -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1 << 40),
            st.fractions(0, 1 << 20, max_denominator=90_000),
            st.integers(0, 1 << 40),
            st.integers(0, 1 << 31),
            st.integers(0, 1 << 31),
            numbers.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
        ),
        max_size=4,
    )
)
def test_any_crop_comes_back_bit_for_bit(items: list[Item]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert _same(_read(_write(Path(folder) / "faces.vault", items)), items)


def test_the_reader_knows_what_it_holds(tmp_path: Path, items: list[Item]) -> None:
    path = _write(tmp_path / "faces.vault", items, size=(320, 240))
    with read_vault(path, SECRET) as vault:
        assert (vault.recording, vault.size, vault.cost) == (RECORDING, (320, 240), CHEAP)
        assert (vault.count, vault.tracks, vault.complete) == (5, 2, True)
        assert vault.created.year >= 2024
        assert _same([(e.frame, e.pts, e.track, e.left, e.top, c) for e, c in vault], items)


def test_views_of_a_frame_are_kept_and_left_alone(tmp_path: Path, photo: Frame) -> None:
    frame = photo.copy()
    view = frame[10:40:2, 60:20:-1]
    path = _write(tmp_path / "faces.vault", [(0, Fraction(0), 0, 0, 0, view)])
    assert np.array_equal(frame, photo)
    assert np.array_equal(_read(path)[0][5], view)


@pytest.mark.parametrize("pts", [0.04, 1 / 3, 12345.678])
def test_a_time_may_be_a_float(tmp_path: Path, photo: Frame, pts: float) -> None:
    path = tmp_path / "faces.vault"
    with VaultWriter(path, SECRET, recording=RECORDING, cost=CHEAP) as vault:
        vault.add(0, pts, 0, 0, 0, photo)
    assert abs(float(_read(path)[0][1]) - pts) < 1e-9


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_crop_is_refused(tmp_path: Path, crop: Any) -> None:
    vault = VaultWriter(tmp_path / "faces.vault", SECRET, recording=RECORDING, cost=CHEAP)
    with pytest.raises(ValueError, match="crop of"):
        vault.add(0, 0.0, 0, 0, 0, crop)
    vault.abort()
    assert not list(tmp_path.iterdir())


def test_a_corner_outside_of_the_frame_is_refused(tmp_path: Path, photo: Frame) -> None:
    with VaultWriter(tmp_path / "faces.vault", SECRET, recording=RECORDING, cost=CHEAP) as vault:
        with pytest.raises(ValueError, match="corner -1"):
            vault.add(0, 0.0, 0, -1, 0, photo)
        vault.add(0, 0.0, 0, 0, 0, photo)
    assert len(_read(vault.path)) == 1


def test_two_vaults_of_the_same_faces_share_nothing(tmp_path: Path, items: list[Item], whole: bytes) -> None:
    other = _write(tmp_path / "faces.vault", items).read_bytes()
    blocks = [{data[n : n + 16] for n in range(24, len(data) - 15)} for data in (whole, other)]
    assert len(other) == len(whole)
    assert not blocks[0] & blocks[1]


def test_the_file_shows_neither_recording_nor_pixels(whole: bytes, items: list[Item]) -> None:
    assert RECORDING not in whole
    assert RECORDING[:8] not in whole
    assert all(item[5].tobytes()[:16] not in whole for item in items)
    assert module._packed(items[0][5])[2:18] not in whole


# --- nothing without the passcode, nothing that was changed -----------------------------------------------------------


@pytest.mark.parametrize("passcode", ["correct horse battery stapl", "Correct horse battery staple", " ", "a"])
def test_a_wrong_passcode_reveals_nothing(place: Callable[[bytes], Path], whole: bytes, passcode: str) -> None:
    with pytest.raises(GenedgeError) as caught:
        read_vault(place(whole), passcode)
    assert str(caught.value) == "wrong passcode, or the vault was changed"


def test_every_flipped_byte_is_detected(
    place: Callable[[bytes], Path], whole: bytes, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte of the file, one bit of it; what comes out before the error is what went in."""
    monkeypatch.setattr("runtime.faces.passcode.stretched", functools.cache(_cheaper(module)))
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        got, _ = _read_until_error(place(bytes(data)))
        assert _same(got, items[: len(got)]), at


def _cheaper(_: object) -> Callable[..., bytes]:
    """Argon2id, but a header that was made to ask for much gets its guess for little."""
    from runtime.faces.passcode import stretched

    def cheaper(passcode: bytes, salt: bytes, cost: Cost) -> bytes:
        if cost.memory > 4096:
            return stretched(passcode + repr(cost).encode(), salt, CHEAP)
        return stretched(passcode, salt, cost)

    return cheaper


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_other_bytes_are_taken_for_the_vault(whole: bytes, items: list[Item], data: st.DataObject) -> None:
    """Bytes replaced, cut out and put in anywhere behind the header, whose cost the test before has looked at."""
    at = data.draw(st.integers(HEADER, len(whole)))
    gone = data.draw(st.integers(0, 200))
    new = data.draw(st.binary(max_size=200))
    changed = whole[:at] + new + whole[at + gone :]
    if changed == whole:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "changed.vault"
        path.write_bytes(changed)
        got, _ = _read_until_error(path)
    assert _same(got, items[: len(got)])


def _records(whole: bytes) -> list[tuple[int, int]]:
    """Where each record begins and ends; the lengths are known from the crops that went in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.vault"
        path.write_bytes(whole)
        with read_vault(path, SECRET) as vault:
            starts = [entry.place - BOX for entry in vault.entries()]
    assert starts[0] == HEADER + INFO
    return list(zip(starts, [*starts[1:], len(whole) - BOX], strict=True))


@pytest.mark.parametrize("more", [0, 1, BOX - 1, BOX, BOX + 1, -1])
def test_a_vault_that_ends_early_gives_what_it_has_and_says_so(
    place: Callable[[bytes], Path], whole: bytes, items: list[Item], more: int
) -> None:
    for number, (start, end) in enumerate(_records(whole)):
        length = (start if more >= 0 else end) + more
        with read_vault(place(whole[:length]), SECRET) as vault:
            assert not vault.complete
            assert vault.count is None
        got, error = _read_until_error(vault.path)
        assert isinstance(error, EndedEarlyError)
        assert f"first {number} crops" in str(error)
        assert _same(got, items[:number])


def test_a_vault_without_its_end_record_gives_everything_and_says_so(
    place: Callable[[bytes], Path], whole: bytes, items: list[Item]
) -> None:
    for length in (len(whole) - 1, len(whole) - BOX):
        got, error = _read_until_error(place(whole[:length]))
        assert isinstance(error, EndedEarlyError)
        assert "first 5 crops" in str(error)
        assert _same(got, items)


@pytest.mark.parametrize("length", [0, 1, 7, 8, HEADER - 1, HEADER, HEADER + INFO - 1])
def test_a_vault_that_ends_in_its_header_is_refused(place: Callable[[bytes], Path], whole: bytes, length: int) -> None:
    with pytest.raises(GenedgeError, match=r"no vault|ends early"):
        read_vault(place(whole[:length]), SECRET)


def _moved(whole: bytes, order: Sequence[int]) -> bytes:
    records = [whole[start:end] for start, end in _records(whole)]
    return whole[: HEADER + INFO] + b"".join(records[n] for n in order) + whole[-BOX:]


@pytest.mark.parametrize(
    "order", [(1, 0, 2, 3, 4), (0, 1, 2, 4, 3), (0, 2, 3, 4), (0, 1, 2, 3), (0, 0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 4), ()]
)
def test_records_that_were_moved_left_out_or_repeated_are_detected(
    place: Callable[[bytes], Path], whole: bytes, items: list[Item], order: tuple[int, ...]
) -> None:
    path = place(_moved(whole, order))
    got, error = _read_until_error(path)
    assert str(error) == "wrong passcode, or the vault was changed"
    assert _same(got, items[: len(got)])
    assert _same(_read(place(_moved(whole, range(5)))), items)  # in order they are the vault


def test_pixels_are_bound_to_their_place(place: Callable[[bytes], Path], tmp_path: Path, photo: Frame) -> None:
    """Two crops of one track, as long as each other: their pixels may not be exchanged."""
    crops = [(n, Fraction(n), 0, 0, 0, np.ascontiguousarray(photo[8:16, 8:16])) for n in range(2)]
    data = _write(tmp_path / "faces.vault", crops).read_bytes()
    (a, b), (c, d) = _records(data)
    assert b - a == d - c
    with pytest.raises(GenedgeError, match="was changed"):
        _read(place(data[: a + BOX] + data[c + BOX : d] + data[c : c + BOX] + data[a + BOX : b] + data[d:]))


@pytest.mark.parametrize("part", ["info", "record", "end"])
def test_nothing_fits_into_another_vault(
    place: Callable[[bytes], Path], tmp_path: Path, items: list[Item], whole: bytes, part: str
) -> None:
    other = _write(tmp_path / "other.vault", items).read_bytes()
    start, end = _records(whole)[0]
    first, last = {"info": (HEADER, HEADER + INFO), "record": (start, end), "end": (len(whole) - BOX, len(whole))}[part]
    with pytest.raises(GenedgeError, match="was changed"):
        _read(place(whole[:first] + other[first:last] + whole[last:]))


def test_bytes_behind_the_end_are_detected(place: Callable[[bytes], Path], whole: bytes) -> None:
    for more in (b"x", whole[-BOX:]):
        with pytest.raises(GenedgeError, match=r"was changed|ends early"):
            _read(place(whole + more))


@pytest.mark.parametrize(
    ("at", "value"), [(8, 0xFFFFFFFF), (8, (1 << 18) + 1), (12, 0xFFFFFFFF), (12, 0), (16, 0), (16, 1 << 20)]
)
def test_a_header_that_asks_for_everything_is_refused_before_it_gets_it(
    place: Callable[[bytes], Path], whole: bytes, at: int, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> bytes:
        raise AssertionError("Argon2id was run")

    monkeypatch.setattr("runtime.faces.passcode.stretched", never)
    with pytest.raises(GenedgeError, match="too much memory"):
        read_vault(place(whole[:at] + value.to_bytes(4, "big") + whole[at + 4 :]), SECRET)


def test_a_record_that_swells_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Frame) -> None:
    """Whoever knows the passcode still cannot make a reader take more memory than the crop's size says."""
    monkeypatch.setattr(module, "_packed", lambda crop: zlib.compress(bytes(1 << 24), 9))
    path = _write(tmp_path / "faces.vault", [(0, Fraction(0), 0, 0, 0, photo)])
    tracemalloc.start()
    try:
        with pytest.raises(GenedgeError, match="cannot be unpacked"):
            _read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (96, 96)])
def test_the_bound_on_packed_pixels_holds_what_does_not_pack(size: tuple[int, int]) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)  # nothing packs worse
    assert crop.size < len(module._packed(crop)) <= module._most_packed(crop.size)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_name_appears_when_the_vault_is_whole(tmp_path: Path, items: list[Item]) -> None:
    path = tmp_path / "faces.vault"
    with VaultWriter(path, SECRET, recording=RECORDING, cost=CHEAP) as vault:
        vault.add(*items[0])
        assert [entry.name for entry in tmp_path.iterdir()] == ["faces.vault.partial"]
        if os.name == "posix":
            assert stat.S_IMODE(vault.partial.stat().st_mode) == 0o600
        with pytest.raises(EndedEarlyError), read_vault(vault.partial, SECRET) as reader:  # as after a power cut
            assert [entry.frame for entry, _ in reader] == [0]
    vault.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["faces.vault"]
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="closed"):
        vault.add(*items[0])


def test_an_interrupted_run_keeps_what_it_has_hidden(tmp_path: Path, items: list[Item]) -> None:
    path = tmp_path / "faces.vault"

    def run() -> None:
        with VaultWriter(path, SECRET, recording=RECORDING, cost=CHEAP) as vault:
            vault.add(*items[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert _same(_read(path), items[:1])


def test_a_run_that_failed_at_once_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(VideoError), VaultWriter(tmp_path / "faces.vault", SECRET, recording=RECORDING, cost=CHEAP):
        raise VideoError("no camera")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["faces.vault", "faces.vault.partial"])
def test_what_is_there_is_not_overwritten_unasked(tmp_path: Path, items: list[Item], name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UsageError, match=f"{name} exists"):
        _write(tmp_path / "faces.vault", items)
    assert (tmp_path / name).read_bytes() == b"precious"
    assert _same(_read(_write(tmp_path / "faces.vault", items, overwrite=True)), items)
    assert [entry.name for entry in tmp_path.iterdir()] == ["faces.vault"]


def test_two_runs_do_not_write_to_one_vault(tmp_path: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked before either has begun."""
    path = tmp_path / "faces.vault"
    monkeypatch.setattr(VaultWriter, "_check", lambda self: None)
    with VaultWriter(path, SECRET, recording=RECORDING, cost=CHEAP) as vault:
        vault.add(*items[0])
        with pytest.raises(UsageError, match="partial exists"):
            VaultWriter(path, SECRET, recording=RECORDING, cost=CHEAP)
    assert _same(_read(path), items[:1])


def test_a_file_that_came_meanwhile_is_not_overwritten(tmp_path: Path, items: list[Item]) -> None:
    path = tmp_path / "faces.vault"
    vault = VaultWriter(path, SECRET, recording=RECORDING, cost=CHEAP)
    vault.add(*items[0])
    path.write_bytes(b"precious")
    with pytest.raises(VideoError, match=r"exists.*partial"):
        vault.close()
    assert path.read_bytes() == b"precious"
    assert _same(_read(vault.partial), items[:1])


def test_a_full_disk_keeps_the_records_before(
    tmp_path: Path, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, room = os.write, [3]

    def write(handle: int, data: Any) -> int:
        if room[0] == 0:
            raise OSError(28, "No space left on device")
        room[0] -= 1
        return usual(handle, data if room[0] else data[:40])  # the last one is cut

    monkeypatch.setattr(module.os, "write", write)
    with pytest.raises(VideoError, match="disk full"):
        _write(tmp_path / "faces.vault", items)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["faces.vault.partial"]
    with read_vault(tmp_path / "faces.vault.partial", SECRET) as vault, pytest.raises(EndedEarlyError):
        assert [entry.frame for entry in vault.entries()] == [0]


@pytest.mark.parametrize("name", ["missing/faces.vault", "."])
def test_a_place_that_cannot_hold_a_vault_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        VaultWriter(tmp_path / name, SECRET, recording=RECORDING, cost=CHEAP)


@pytest.mark.parametrize("name", ["missing.vault", "."])
def test_a_vault_has_to_be_a_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        read_vault(tmp_path / name, SECRET)


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, place: Callable[[bytes], Path], whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = __import__

    def find(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "cryptography":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, *rest, **more)

    path = place(whole)
    monkeypatch.setattr("builtins.__import__", find)
    with pytest.raises(MissingExtraError, match=r"genedge\[deid\]"):
        read_vault(path, SECRET)
    with pytest.raises(MissingExtraError, match=r"genedge\[deid\]"):
        VaultWriter(tmp_path / "faces.vault", SECRET, recording=RECORDING)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


# --- the verb ---------------------------------------------------------------------------------------------------------

FRAMES = 12
RECTANGLES = {0: (503, 21, 97, 115), 3: (30, 164, 70, 71)}  # track -> left, top, width, height; singer, pianist


def _reveal(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_reveal_parser(parser.add_subparsers(required=True))
    return dispatch(parser, ["reveal", *map(str, arguments)], EXTRAS)


@pytest.fixture
def passcode(tmp_path: Path) -> Path:
    file = tmp_path / "passcode"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    return file


class _Covered:
    """A real clip whose rectangles were covered, its vault, and the frames before and, decoded, after."""

    def __init__(self, clip: Path, folder: Path) -> None:
        self.vault, self.video = folder / "faces.vault", folder / "covered.mp4"
        self.originals: list[Frame] = []
        with open_source(str(clip)) as source:
            info = source.info
            with (
                open_sink(str(self.video), source=info, width=info.width, height=info.height) as sink,
                VaultWriter(self.vault, SECRET, recording=RECORDING, size=(info.width, info.height), cost=CHEAP) as out,
            ):
                for frame in source:
                    if frame.index == FRAMES:
                        break
                    self.originals.append(frame.image.copy())
                    for track, (left, top, width, height) in RECTANGLES.items():
                        region = frame.image[top : top + height, left : left + width]
                        out.add(frame.index, frame.pts, track, left, top, region)
                    for left, top, width, height in RECTANGLES.values():
                        frame.image[top : top + height, left : left + width] = 128
                    sink.write(frame)
        self.covered = _frames(self.video)

    def restored(self, tracks: Sequence[int]) -> list[Frame]:
        frames = [frame.copy() for frame in self.covered]
        for frame, original in zip(frames, self.originals, strict=True):
            for left, top, width, height in (RECTANGLES[track] for track in tracks):
                place = slice(top, top + height), slice(left, left + width)
                frame[place] = original[place]
        return frames


def _frames(path: Path) -> list[Frame]:
    with open_source(str(path)) as source:
        return [frame.image for frame in source]


@pytest.fixture(scope="module")
def covered(assets: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> _Covered:
    return _Covered(assets("video/short_hamilton_clip.mp4"), tmp_path_factory.mktemp("covered"))


def test_pictures_are_the_originals(covered: _Covered, tmp_path: Path, passcode: Path) -> None:
    folder = tmp_path / "faces"
    assert _reveal(covered.vault, "-o", folder, "--passcode-file", passcode) == 0
    index = json.loads((folder / "index.json").read_text())
    assert index["complete"] is True
    assert index["recording"] == RECORDING.hex()
    assert len(index["crops"]) == 2 * FRAMES == len(list(folder.glob("frame_*.png")))
    assert index["crops"][5]["file"] == "frame_000002_track_03.png"
    for crop in index["crops"]:
        left, top, width, height = (crop[name] for name in ("left", "top", "width", "height"))
        assert (left, top, width, height) == RECTANGLES[crop["track"]]
        original = covered.originals[crop["frame"]][top : top + height, left : left + width]
        assert np.array_equal(cv2.imread(str(folder / crop["file"])), original)
    if os.name == "posix":
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("tracks", [(0, 3), (3,)])
def test_a_restored_video_holds_the_exact_pixels(
    covered: _Covered, tmp_path: Path, passcode: Path, tracks: tuple[int, ...]
) -> None:
    target = tmp_path / "restored.mkv"
    wanted = [word for track in tracks for word in ("--track", str(track))] if len(tracks) == 1 else []
    arguments = ["--video", covered.video, "-o", target, "--passcode-file", passcode, *wanted]
    assert _reveal(covered.vault, *arguments) == 0
    frames = _frames(target)
    assert len(frames) == FRAMES
    assert all(np.array_equal(a, b) for a, b in zip(frames, covered.restored(tracks), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(frames, covered.covered, strict=True))
    with av.open(str(target)) as file:
        assert file.streams.video[0].codec_context.name == "ffv1"
    if os.name == "posix":
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["passcode", "restored.mkv"]


def test_a_restored_video_keeps_its_times(covered: _Covered, tmp_path: Path, passcode: Path) -> None:
    target = tmp_path / "restored.mkv"
    assert _reveal(covered.vault, "--video", covered.video, "-o", target, "--passcode-file", passcode) == 0
    with open_source(str(target)) as one, open_source(str(covered.video)) as other:
        times = [(float(a.pts), float(b.pts)) for a, b in zip(one, other, strict=True)]
    assert max(abs(a - b) for a, b in times) <= 0.001


@pytest.mark.parametrize("video", [False, True])
def test_a_wrong_passcode_leaves_nothing(
    covered: _Covered, tmp_path: Path, passcode: Path, capsys: pytest.CaptureFixture[str], video: bool
) -> None:
    passcode.write_text("wrong")
    more = ["--video", covered.video] if video else []
    assert _reveal(covered.vault, "-o", tmp_path / "out.mkv", "--passcode-file", passcode, *more) == 1
    assert capsys.readouterr().err == "error: wrong passcode, or the vault was changed\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["passcode"]


@pytest.mark.parametrize("video", [False, True])
def test_a_changed_vault_leaves_nothing(
    covered: _Covered, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, passcode: Path, video: bool
) -> None:
    data = bytearray(covered.vault.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    changed = tmp_path_factory.mktemp("changed") / "faces.vault"
    changed.write_bytes(data)
    more = ["--video", covered.video] if video else []
    assert _reveal(changed, "-o", tmp_path / "out.mkv", "--passcode-file", passcode, *more) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["passcode"]


@pytest.mark.parametrize("video", [False, True])
def test_a_vault_that_ends_early_restores_what_it_has_and_fails(
    covered: _Covered, tmp_path: Path, passcode: Path, capsys: pytest.CaptureFixture[str], video: bool
) -> None:
    data = covered.vault.read_bytes()
    short, target = tmp_path / "short.vault", tmp_path / "out.mkv"
    short.write_bytes(data[: len(data) // 2])
    more = ["--video", covered.video] if video else []
    assert _reveal(short, "-o", target, "--passcode-file", passcode, *more) == 1
    assert "ends early" in capsys.readouterr().err
    if video:
        frames = _frames(target)
        restored = covered.restored((0, 3))
        same = [np.array_equal(a, b) for a, b in zip(frames, restored, strict=True)]
        assert same[0]
        assert not same[-1]
        assert np.array_equal(frames[-1], covered.covered[-1])
    else:
        index = json.loads((target / "index.json").read_text())
        assert index["complete"] is False
        assert 0 < len(index["crops"]) < 2 * FRAMES


def test_a_track_that_is_not_there_is_a_usage_error(
    covered: _Covered, tmp_path: Path, passcode: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _reveal(covered.vault, "-o", tmp_path / "out", "--passcode-file", passcode, "--track", 1) == 2
    assert "no track 1, but 0, 3" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["passcode"]


def test_another_video_is_refused(
    covered: _Covered,
    tmp_path: Path,
    passcode: Path,
    make_clip: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_clip("small.mp4")
    make_clip("slow.mp4", ticks=[n * 7200 for n in range(FRAMES)], size=(640, 360))
    make_clip("short.mp4", ticks=[n * 3600 for n in range(1)], size=(640, 360))
    target = tmp_path / "out.mkv"
    for name, why in (("small.mp4", "frames of 64x48"), ("slow.mp4", "is at 0.080 s")):
        code = _reveal(covered.vault, "--video", tmp_path / name, "-o", target, "--passcode-file", passcode)
        assert code == 1
        assert why in capsys.readouterr().err
        assert not target.exists()
    assert _reveal(covered.vault, "--video", tmp_path / "short.mp4", "-o", target, "--passcode-file", passcode) == 1
    assert "ends before frame 1: 22 crops" in capsys.readouterr().err
    assert len(_frames(target)) == 1


def test_what_is_there_stays_unless_wished(covered: _Covered, tmp_path: Path, passcode: Path) -> None:
    folder = tmp_path / "faces"
    arguments = [covered.vault, "-o", folder, "--passcode-file", passcode]
    assert _reveal(*arguments) == 0
    (folder / "frame_000000_track_00.png").write_bytes(b"old")
    assert _reveal(*arguments) == 2
    assert (folder / "frame_000000_track_00.png").read_bytes() == b"old"
    assert _reveal(*arguments, "--overwrite") == 0
    assert (folder / "frame_000000_track_00.png").read_bytes() != b"old"
    (folder / "thesis.txt").write_text("precious")
    assert _reveal(*arguments, "--overwrite") == 2
    assert (folder / "thesis.txt").read_text() == "precious"


def test_a_restored_video_has_to_be_matroska(covered: _Covered, tmp_path: Path, passcode: Path) -> None:
    target = tmp_path / "restored.mp4"
    assert _reveal(covered.vault, "--video", covered.video, "-o", target, "--passcode-file", passcode) == 2
    assert not target.exists()


def test_the_passcode_may_come_from_the_environment(
    covered: _Covered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", SECRET)
    assert _reveal(covered.vault, "-o", tmp_path / "one", "--passcode-env", "MINE") == 0
    monkeypatch.setenv("GENEDGE_PASSCODE", SECRET)
    assert _reveal(covered.vault, "-o", tmp_path / "two", "--track", 3) == 0
    assert len(list((tmp_path / "two").glob("*.png"))) == FRAMES


def test_a_face_that_was_kept_twice_comes_back_as_it_was_first(
    covered: _Covered, tmp_path: Path, passcode: Path
) -> None:
    """A covered frame is looked at again, and a region that grows is kept once more: half of it is covered by then."""
    vault, target = tmp_path / "twice.vault", tmp_path / "restored.mkv"
    original = covered.originals[0]
    with VaultWriter(vault, SECRET, recording=RECORDING, cost=CHEAP) as out:
        out.add(0, 0.0, 0, 40, 40, original[40:80, 40:80])
        out.add(0, 0.0, 0, 30, 30, np.zeros((60, 60, 3), np.uint8))
    assert _reveal(vault, "--video", covered.video, "-o", target, "--passcode-file", passcode) == 0
    assert np.array_equal(_frames(target)[0][40:80, 40:80], original[40:80, 40:80])
    assert _reveal(vault, "-o", tmp_path / "faces", "--passcode-file", passcode) == 0
    names = {path.name for path in (tmp_path / "faces").glob("*.png")}
    assert names == {"frame_000000_track_00.png", "frame_000000_track_00_2.png"}


def test_the_standard_cost_is_in_the_file(tmp_path: Path, items: list[Item]) -> None:
    path = tmp_path / "faces.vault"
    with VaultWriter(path, SECRET, recording=RECORDING) as vault:
        vault.add(*items[0])
    with read_vault(path, SECRET) as reader:
        assert isinstance(reader, VaultReader)
        assert reader.cost == Cost(64 * 1024, 3, 4)


@pytest.mark.parametrize("video", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device", "x")])
def test_what_breaks_off_leaves_nothing(
    covered: _Covered,
    tmp_path: Path,
    passcode: Path,
    monkeypatch: pytest.MonkeyPatch,
    video: bool,
    error: BaseException,
) -> None:
    usual = VaultReader.crop

    def crop(self: VaultReader, entry: Any) -> Frame:
        if entry.frame == 5:
            raise error
        return usual(self, entry)

    monkeypatch.setattr(VaultReader, "crop", crop)
    more = ["--video", covered.video] if video else []
    code = _reveal(covered.vault, "-o", tmp_path / "out.mkv", "--passcode-file", passcode, *more)
    assert code == (130 if error is KeyboardInterrupt else 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["passcode"]


def test_a_restored_video_keeps_the_sound(covered: _Covered, tmp_path: Path, passcode: Path) -> None:
    target = tmp_path / "restored.mkv"
    assert _reveal(covered.vault, "--video", covered.video, "-o", target, "--passcode-file", passcode) == 0
    assert _sound(target) == _sound(covered.video) != []


def _sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(file.streams.audio) if packet.size]
