from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

import calib.sample
from calib.dataset import CalibrationSet
from calib.index import read_index
from calib.sample import MOST_OF_A_SOURCE, Sampled, Wanted, refuse_existing, sample
from runtime.errors import GenedgeError, UsageError
from runtime.frames import Frame, SizeRule
from runtime.video.source import open_source

Clip = Callable[..., Path]
Pan = Callable[..., list[Frame]]
Photos = tuple[Frame, ...]

SMALL = Wanted(size=(64, 64), count=8)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def grey(frame: Frame) -> Frame:
    return np.repeat(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)[..., None], 3, axis=2)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "set"


@pytest.fixture(autouse=True)
def _nothing_half_written(target: Path) -> Iterator[None]:
    """The set is there or it is not; nothing else is left beside it."""
    yield
    if target.parent.exists():
        assert {path.name for path in target.parent.iterdir()} <= {"set"}


@pytest.fixture
def four_scenes(write_clip: Clip, photos: Photos, pan: Pan) -> Path:
    """Ten frames of each of four photos."""
    return write_clip([frame for photo in photos for frame in pan(photo, 10)])


# --- content of a set -------------------------------------------------------------------------------------------------


def test_the_same_sources_and_seed_give_the_same_bytes(four_scenes: Path, target: Path, tmp_path: Path) -> None:
    sources = [str(four_scenes)]
    sample(sources, target, SMALL)
    sample(sources, tmp_path / "again", SMALL)
    assert content(target) == content(tmp_path / "again")
    assert len(content(target)) == 9
    sample(sources, tmp_path / "other", Wanted(size=(64, 64), count=8, seed=1))
    assert content(target) != content(tmp_path / "other")


def test_pictures_are_the_frames_that_the_index_says(four_scenes: Path, target: Path) -> None:
    index = sample([str(four_scenes)], target, SMALL).index
    assert index == read_index(target)
    assert (index.seed, index.size, index.run_length) == (0, (64, 64), 1)
    with open_source(str(four_scenes)) as source:
        frames = {frame.index: frame for frame in source}
    for picture in index.pictures:
        data = (target / picture.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == picture.sha256
        crop = frames[picture.frame].image[picture.top : picture.top + 64, picture.left : picture.left + 64]
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), crop)
        assert picture.time == pytest.approx(picture.frame / 25)
        assert picture.source == "clip.mp4"
    assert len({(picture.top, picture.left) for picture in index.pictures}) > 1
    assert str(target.parent.parent) not in (target / "index.json").read_text()  # no place on this machine


def test_a_set_is_read_by_what_calibrates_with_it(four_scenes: Path, target: Path) -> None:
    result = sample([str(four_scenes)], target, SMALL)
    material = CalibrationSet.from_paths([target])
    assert (len(material), material.size, material.digest) == (8, (64, 64), result.index.digest)
    assert all(frame.shape == (64, 64, 3) for frame in material.frames)


def test_scenes_are_found_and_all_used(four_scenes: Path, target: Path) -> None:
    result = sample([str(four_scenes)], target, SMALL)
    (tally,) = result.tallies
    assert (tally.name, tally.frames, tally.scenes, tally.taken) == ("clip.mp4", 40, 4, 8)
    assert {picture.frame // 10 for picture in result.index.pictures} == {0, 1, 2, 3}
    assert result.warnings == ()


def test_sources_have_equal_shares(write_clip: Clip, photos: Photos, pan: Pan, target: Path) -> None:
    long = write_clip(pan(photos[0], 50, step=5), "long.mp4")
    short = write_clip(pan(photos[1], 6), "short.mp4")
    result = sample([str(long), str(short)], target, SMALL)
    assert [tally.taken for tally in result.tallies] == [4, 4]


def test_saturated_colours_are_chosen(write_clip: Clip, photos: Photos, pan: Pan, target: Path) -> None:
    """Two colourful frames among eighty grey ones, in the middle of a real pan."""
    frames = [grey(frame) for frame in pan(photos[0], 80, step=4)]
    for index in (33, 61):
        hsv = cv2.cvtColor(pan(photos[1], 80, step=4)[index], cv2.COLOR_BGR2HSV)
        hsv[..., 1] = np.maximum(hsv[..., 1], 200)
        frames[index] = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    for seed in range(3):
        folder = target.with_name("set") if seed == 0 else target.parent.parent / f"seed{seed}"
        index = sample([str(write_clip(frames))], folder, Wanted(size=(64, 64), count=10, seed=seed)).index
        assert {33, 61} <= {picture.frame for picture in index.pictures}


def test_dark_and_bright_frames_are_chosen(write_clip: Clip, photos: Photos, pan: Pan, target: Path) -> None:
    frames = pan(photos[0], 60, step=5)
    frames[20] = frames[20] // 8
    frames[40] = 255 - (255 - frames[40]) // 8
    index = sample([str(write_clip(frames))], target, SMALL).index
    assert {20, 40} <= {picture.frame for picture in index.pictures}


def test_detailed_and_colourful_places_are_preferred(photos: Photos, tmp_path: Path, target: Path) -> None:
    """A wide grey picture with the photo in its right fifth."""
    folder = tmp_path / "wide"
    folder.mkdir()
    for number in range(10):
        wide = np.full((100, 1000, 3), 100 + 8 * number, np.uint8)
        wide[:, 800:] = photos[1][100 + 10 * number : 200 + 10 * number, 100:300]
        cv2.imwrite(str(folder / f"{number}.png"), wide)
    index = sample([str(folder)], target, Wanted(size=(96, 96), count=10)).index
    right = sum(picture.left > 704 for picture in index.pictures)  # by chance: 1 to 2 of 10
    assert right >= 7


# --- near-duplicates and flat frames ----------------------------------------------------------------------------------


def test_three_identical_frames_are_one(write_clip: Clip, photos: Photos, pan: Pan, target: Path) -> None:
    clip = write_clip(pan(photos[0], 1) * 3, crf=25)
    result = sample([str(clip), str(clip)], target, SMALL)
    assert len(result.index.pictures) == 1
    assert result.tallies[0].distinct == 1
    assert result.warnings == ("only 1 distinct frames were found, 8 were asked for: name more videos, or longer ones",)


def test_a_still_picture_with_coding_noise_is_one(write_clip: Clip, photos: Photos, target: Path) -> None:
    frames = [photo[:288, :384] for photo in photos for _ in range(30)]
    result = sample([str(write_clip(frames, crf=32))], target, SMALL)
    assert sorted(picture.frame // 30 for picture in result.index.pictures) == [0, 1, 2, 3]


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (30, 120, 200)], ids=["black", "white", "orange"])
def test_one_flat_colour_is_nothing_to_calibrate_with(
    color: tuple[int, int, int], write_clip: Clip, target: Path
) -> None:
    clip = write_clip([np.full((96, 128, 3), color, np.uint8)] * 12)
    with pytest.raises(GenedgeError, match="nothing to calibrate with: every frame is one flat colour"):
        sample([str(clip)], target, SMALL)
    assert not target.exists()


def test_flat_frames_are_left_out(write_clip: Clip, photos: Photos, pan: Pan, target: Path) -> None:
    black = [np.zeros((96, 128, 3), np.uint8)] * 5
    clip, empty = write_clip(black + pan(photos[0], 10) + black), write_clip(black, "black.mp4")
    result = sample([str(clip), str(empty)], target, SMALL)
    assert all(5 <= picture.frame < 15 for picture in result.index.pictures)
    assert result.warnings == ("black.mp4: left out, every frame is one flat colour",)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_a_source_that_is_too_small_is_left_out_by_name(
    write_clip: Clip, photos: Photos, pan: Pan, target: Path
) -> None:
    large, small = write_clip(pan(photos[0], 10)), write_clip(pan(photos[1], 10, 48, 80), "small.mp4")
    warned: list[str] = []
    result = sample([str(large), str(small)], target, SMALL, warn=warned.append)
    assert [tally.taken for tally in result.tallies] == [8, 0]
    assert tuple(warned) == result.warnings
    assert warned == [
        "small.mp4: left out, its frames are smaller than 64x64 (largest 48x80, HEIGHTxWIDTH): "
        "--size 48x80 would take it"
    ]


def test_where_all_are_too_small_a_size_that_fits_is_named(
    write_clip: Clip, photos: Photos, pan: Pan, target: Path
) -> None:
    clip = str(write_clip(pan(photos[1], 3, 50, 78)))
    with pytest.raises(UsageError, match=r"every frame is smaller than 64x64, the largest is 50x78 .*add --size 50x78"):
        sample([clip], target, SMALL)
    with pytest.raises(UsageError, match=r"add --size 48x76"):
        sample([clip], target, Wanted(size=(64, 64), rule=SizeRule(1, 4)))
    with pytest.raises(UsageError, match=r"smaller than 64x64, .*: name larger material"):
        sample([clip], target, Wanted(size=None, rule=SizeRule(60, 8)))
    assert not target.exists()


def test_whole_frames(write_clip: Clip, photos: Photos, pan: Pan, target: Path) -> None:
    one, two = write_clip(pan(photos[0], 6)), write_clip(pan(photos[1], 6, 48, 80), "two.mp4")
    result = sample([str(one), str(two)], target, Wanted(size=None, count=6))
    assert result.index.size is None
    material = CalibrationSet.from_paths([target])
    assert {frame.shape for frame in material.frames} == {(96, 128, 3), (48, 80, 3)}


def test_frames_of_just_the_size(write_clip: Clip, photos: Photos, pan: Pan, target: Path) -> None:
    index = sample([str(write_clip(pan(photos[0], 8)))], target, Wanted(size=(96, 128), count=4)).index
    assert {(picture.top, picture.left) for picture in index.pictures} == {(0, 0)}


# --- folders and pictures ---------------------------------------------------------------------------------------------


def test_folders_of_pictures_of_any_size_and_single_pictures(photos: Photos, tmp_path: Path, target: Path) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    cv2.imwrite(str(folder / "10.png"), photos[0][:200, :100])
    cv2.imwrite(str(folder / "9.jpg"), photos[1][:100, :200])
    cv2.imwrite(str(folder / "11.png"), photos[1][:40, :40])  # too small
    cv2.imwrite(str(folder / ".hidden.png"), photos[2])
    (folder / "notes.txt").write_text("no picture")
    cv2.imwrite(str(tmp_path / "single.png"), photos[3])
    result = sample([str(folder), str(tmp_path / "single.png")], target, SMALL)
    pictures = sorted((picture.source, picture.frame, picture.time) for picture in result.index.pictures)
    assert pictures == [("album", 0, None), ("album", 1, None), ("single.png", 0, None)]
    assert result.warnings[0].startswith("album: 1 of 3 frames left out, smaller than 64x64")


def test_numbered_pictures(photos: Photos, pan: Pan, tmp_path: Path, target: Path) -> None:
    for number, frame in enumerate(pan(photos[0], 6)):
        cv2.imwrite(str(tmp_path / f"f_{number:03}.png"), frame)
    result = sample([str(tmp_path / "f_%03d.png")], target, Wanted(size=(64, 64), count=2, run_length=2))
    assert [picture.time for picture in result.index.pictures] == [None, None]
    assert result.tallies[0].frames == 6


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere.mp4", r"nowhere\.mp4: no such video, picture or folder"),
        ("0", "a source is read twice, so it must be a file or folder: record it first"),
        ("rtsp://camera/stream", "record it first"),
        ("", "the input is empty"),
    ],
)
def test_what_cannot_be_a_source(source: str, complaint: str, target: Path) -> None:
    with pytest.raises(UsageError, match=complaint):
        sample([source], target, SMALL)


def test_what_cannot_be_read_fails_and_names_the_file(four_scenes: Path, tmp_path: Path, target: Path) -> None:
    """Never "skipping" with exit code 0."""
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(GenedgeError, match=r"broken\.mp4 cannot be opened as video"):
        sample([str(four_scenes), str(tmp_path / "broken.mp4")], target, SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: holds no picture"):
        sample([str(tmp_path / "empty")], target, SMALL)
    assert not target.exists()


def test_a_video_that_breaks_off_is_used_as_far_as_it_goes(
    write_clip: Clip, photos: Photos, pan: Pan, target: Path
) -> None:
    clip = write_clip(pan(photos[0], 60, step=5), "clip.mkv", crf=4)
    os.truncate(clip, clip.stat().st_size // 2)
    result = sample([str(clip)], target, SMALL)
    assert 8 < result.tallies[0].frames < 60
    assert len(result.index.pictures) == 8
    assert any("broke off" in warning and "what came before is used" in warning for warning in result.warnings)


def test_names_of_sources_need_not_be_text(photos: Photos, tmp_path: Path, target: Path) -> None:
    data = cv2.imencode(".png", photos[0])[1].tobytes()
    name = os.fsdecode(b"odd\xff\x1bname.png")
    (tmp_path / name).write_bytes(data)
    sample([str(tmp_path / name)], target, SMALL)
    assert read_index(target).pictures[0].source == r"odd?\x1bname.png"


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 4, 10])
def test_runs_follow_each_other_at_one_place_and_never_cross_a_cut(
    length: int, four_scenes: Path, target: Path
) -> None:
    index = sample([str(four_scenes)], target, Wanted(size=(64, 64), count=4 * length, run_length=length)).index
    assert len(index.runs) == 4
    used: set[int] = set()
    for number, run in enumerate(index.runs):
        pictures = [index.pictures[place] for place in run]
        frames = [picture.frame for picture in pictures]
        assert frames == list(range(frames[0], frames[0] + length))
        assert len({frame // 10 for frame in frames}) == 1  # one scene
        assert len({(picture.top, picture.left) for picture in pictures}) == 1
        assert [(picture.run, picture.position) for picture in pictures] == [(number, p) for p in range(length)]
        assert not used & set(frames)
        used |= set(frames)
    assert CalibrationSet.from_paths([target]).runs == index.runs


def test_a_count_that_is_no_multiple_gives_whole_runs(four_scenes: Path, target: Path) -> None:
    result = sample([str(four_scenes)], target, Wanted(size=(64, 64), count=11, run_length=4))
    assert (len(result.index.runs), result.warnings) == (2, ())


def test_runs_that_cannot_be(four_scenes: Path, photos: Photos, tmp_path: Path, target: Path) -> None:
    with pytest.raises(UsageError, match="no scene has a run of 11 consecutive frames"):
        sample([str(four_scenes)], target, Wanted(size=(64, 64), run_length=11))
    with pytest.raises(UsageError, match="-n 3 is less than one run of 4 frames"):
        sample([str(four_scenes)], target, Wanted(size=(64, 64), count=3, run_length=4))
    (tmp_path / "album").mkdir()
    for number, photo in enumerate(photos):
        cv2.imwrite(str(tmp_path / "album" / f"{number}.png"), photo[:300, :400])
    with pytest.raises(UsageError, match="no scene has a run of 2"):  # photos are no video
        sample([str(tmp_path / "album")], target, Wanted(size=(64, 64), run_length=2))


# --- memory -----------------------------------------------------------------------------------------------------------


def test_only_so_many_frames_of_a_source_are_described(
    write_clip: Clip, photos: Photos, pan: Pan, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calib.sample, "MOST_OF_A_SOURCE", 64)
    frames = [frame for photo in photos for frame in pan(photo, 64, 64, 64, step=4)]
    result = sample([str(write_clip(frames))], target, Wanted(size=(64, 64), count=200))
    (tally,) = result.tallies
    assert tally.frames == 256
    assert 32 <= tally.distinct <= 64
    gaps = np.diff(sorted(picture.frame for picture in result.index.pictures))
    assert gaps.max() <= 16  # thinned out evenly
    assert MOST_OF_A_SOURCE == 4096


def test_one_frame_at_a_time_is_in_memory(four_scenes: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0
    original = calib.sample._frames

    def watched(*arguments: Any) -> Iterator[tuple[int, Frame, float | None]]:
        nonlocal most
        for index, image, time in original(*arguments):
            alive.append(weakref.ref(image))
            yield index, image, time
            most = max(most, sum(reference() is not None for reference in alive))

    monkeypatch.setattr(calib.sample, "_frames", watched)
    sample([str(four_scenes)], target, SMALL)
    assert len(alive) > 40
    assert most <= 2


# --- the folder -------------------------------------------------------------------------------------------------------


def test_a_set_is_replaced_only_by_force(four_scenes: Path, target: Path) -> None:
    sample([str(four_scenes)], target, SMALL)
    before = content(target)
    with pytest.raises(UsageError, match=r"set exists: add --force to replace it"):
        sample([str(four_scenes)], target, Wanted(size=(32, 32), count=2))
    assert content(target) == before
    sample([str(four_scenes)], target, Wanted(size=(32, 32), count=2), force=True)
    assert len(content(target)) == 3


def test_force_replaces_nothing_but_a_set(tmp_path: Path, four_scenes: Path, target: Path) -> None:
    documents = tmp_path / "Documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="Documents exists and is no calibration set"):
        sample([str(four_scenes)], documents, SMALL, force=True)
    (documents / "index.json").write_text("{}")
    with pytest.raises(UsageError, match="so it is no calibration set"):
        refuse_existing(documents, force=True)
    with pytest.raises(UsageError, match=r"thesis\.txt exists and is no"):
        refuse_existing(documents / "thesis.txt", force=True)
    sample([str(four_scenes)], target, SMALL)
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"also holds thesis\.txt, so it is not replaced"):
        refuse_existing(target, force=True)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError, match="is no calibration set"):
        refuse_existing(tmp_path / "link", force=True)
    assert (documents / "thesis.txt").read_text() == (target / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_breaks_off_leaves_the_old_set(
    error: BaseException, four_scenes: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample([str(four_scenes)], target, SMALL)
    before = content(target)
    write_bytes, calls = Path.write_bytes, 0

    def full(path: Path, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(type(error)):
        sample([str(four_scenes)], target, Wanted(size=(32, 32), count=8), force=True)
    assert content(target) == before


def test_a_source_that_changes_between_the_passes_is_noticed(
    four_scenes: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = calib.sample._frames, 0

    def shorter(*arguments: Any) -> Iterator[tuple[int, Frame, float | None]]:
        nonlocal calls
        calls += 1
        for index, image, time in original(*arguments):
            if calls == 2 and index == 5:
                return
            yield index, image, time

    monkeypatch.setattr(calib.sample, "_frames", shorter)
    with pytest.raises(GenedgeError, match="a source changed while it was read"):
        sample([str(four_scenes)], target, SMALL)
    assert not target.exists()


# --- real clips -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(assets: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sampled]:
    """A set of real clips: with cuts, too small, drawn, and of people."""
    clips = [
        assets(f"video/{name}.mp4") for name in ("bigbuckbunny", "bikes", "carphone_pristine", "short_hamilton_clip")
    ]
    folder = tmp_path_factory.mktemp("real") / "set"
    return folder, sample([str(clip) for clip in clips], folder, Wanted(count=64))


@pytest.mark.slow
def test_real_clips(real: tuple[Path, Sampled]) -> None:
    folder, result = real
    material = CalibrationSet.from_paths([folder])
    assert len(material) == 64
    assert all(frame.shape == (256, 256, 3) for frame in material.frames)
    taken = {tally.name: tally.taken for tally in result.tallies}
    assert taken.pop("carphone_pristine.mp4") == 0  # 144x176
    assert min(taken.values()) >= 20
    assert [tally.scenes for tally in result.tallies if tally.name == "bikes.mp4"] == [6]  # cuts at 30 76 137 187 242


@pytest.mark.slow
def test_a_choice_spreads_wider_than_chance(real: tuple[Path, Sampled], assets: Callable[[str], Path]) -> None:
    """Against as many evenly spaced frames of the same clips, cropped in the centre."""
    folder, result = real
    even: list[Frame] = []
    for name in (tally.name for tally in result.tallies if tally.taken):
        with av.open(str(assets(f"video/{name}"))) as container:
            count = container.streams.video[0].frames
            for index, frame in enumerate(container.decode(video=0)):
                if index % max(1, count // 13) == 0:
                    image = frame.to_ndarray(format="bgr24")
                    top, left = (image.shape[0] - 256) // 2, (image.shape[1] - 256) // 2
                    even.append(image[top : top + 256, left : left + 256])

    def figures(frames: list[Frame]) -> tuple[float, float]:
        chroma = np.array([float((frame.max(axis=2) - frame.min(axis=2)).mean()) for frame in frames])
        light = np.array([float(frame.mean()) for frame in frames])
        return float(np.percentile(chroma, 90)), float(np.ptp(light))

    chosen, spaced = figures(list(CalibrationSet.from_paths([folder]).frames)), figures(even)
    assert chosen[0] > spaced[0]
    assert chosen[1] > spaced[1]
