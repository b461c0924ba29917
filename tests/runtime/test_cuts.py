"""Where a video begins anew, and that every stage of a pipeline starts afresh there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundle_factory import random_frames, recurrent, upscale, write_recurrent_bundle

from calib.dataset import CalibrationSet
from runtime.bundle import open_bundle
from runtime.cli import run
from runtime.cuts import Beginnings, CutDetector, GapDetector
from runtime.frames import Frame, Frames
from runtime.pipeline import run_pipeline
from runtime.sessions import Choice
from runtime.sessions.fake import FakeSession
from runtime.stages import open_stage
from runtime.video.source import VideoFrame, open_source

pytestmark = pytest.mark.timeout(120)


def found(images: Iterator[Frame] | list[Frame]) -> list[int]:
    is_cut = CutDetector()
    return [index for index, image in enumerate(images) if is_cut(image)]


# --- real clips -------------------------------------------------------------------------------------------------------

#: First frames of shots, each looked at as a picture with the two before and after it. What is none, and changes most:
#: bikes 97 to 103 pans past a close car, cockatoo 156 to 160 is a wing in front of the camera, hamilton 117 and 47 are
#: quick gestures.
TRUTH = {
    "bikes.mp4": [30, 76, 137, 187, 242],
    "short_hamilton_clip.mp4": [20, 82, 211],
    "cockatoo.mp4": [],
    "carphone_pristine.mp4": [],
    "bigbuckbunny.mp4": [],
    "egoblur_two_people.mp4": [],
    "asl_again.mkv": [],
    "asl_book.mkv": [],
    "asl_student.mkv": [],
}


@pytest.mark.parametrize("name", TRUTH)
def test_the_cuts_of_real_clips(name: str, assets: Callable[[str], Path]) -> None:
    begins, indices = Beginnings(), []
    with open_source(str(assets(f"video/{name}"))) as source:
        for frame in source:
            if begins(frame):
                indices.append(frame.index)
    assert indices == TRUTH[name]
    assert begins.to_dict() == {"cuts": len(indices), "gaps": 0}


# --- made up ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos() -> list[Frame]:
    return list(CalibrationSet.built_in().crops(200, 280, 4))


def lighter(image: Frame, gain: float, offset: float = 0.0) -> Frame:
    return np.clip(image * gain + offset, 0, 255).astype(np.uint8)


def pan(photo: Frame, count: int, step: int = 3) -> list[Frame]:
    return [photo[20:140, step * i : step * i + 160] for i in range(count)]


def test_each_change_of_the_photo_is_a_cut_and_the_pan_is_none(photos: list[Frame]) -> None:
    images = [image for photo in photos for image in pan(photo, 10)]
    assert found(images) == [10, 20, 30]


def test_a_shot_of_one_frame_has_a_beginning_too(photos: list[Frame]) -> None:
    assert found(photos) == [1, 2, 3]


def test_flicker_and_exposure_are_no_cuts(photos: list[Frame]) -> None:
    still = photos[0]
    assert not found([lighter(still, 1.0 if i % 2 else 0.6) for i in range(20)])  # a lamp at the frame rate
    assert not found([lighter(still, 0.5, 5.0 * i) for i in range(20)])
    assert not found([still, still, still, still, still, lighter(still, 1.0, 60.0), still, still])  # a soft flash


def test_a_fade_has_no_first_frame(photos: list[Frame]) -> None:
    fade = [lighter(photos[0], i / 25) for i in range(26)]
    dissolve = [cv2.addWeighted(photos[0], 1 - i / 25, photos[1], i / 25, 0.0) for i in range(26)]
    assert not found(fade)
    assert not found([np.asarray(image, np.uint8) for image in dissolve])


def test_flat_and_noisy_frames_are_no_cuts() -> None:
    noise = np.random.default_rng(0).normal(0, 12, (20, 360, 640, 3))
    assert not found([np.clip(30 + each, 0, 255).astype(np.uint8) for each in noise])  # a dark room at night
    assert not found([np.full((90, 160, 3), 16, np.uint8)] * 5)
    assert not found([np.full((90, 160, 3), level, np.uint8) for level in range(0, 250, 25)])


def test_a_picture_after_black_is_a_cut(photos: list[Frame]) -> None:
    black = np.zeros_like(photos[0])
    assert found([black] * 3 + [photos[0]] * 3 + [black] * 3) == [3, 6]


def test_a_cut_between_similar_shots_has_to_stand_out(photos: list[Frame]) -> None:
    """Two shots of half the same content: a cut after a still shot, none where everything moves as much."""
    one, other = (np.vstack([photos[0][:100], photo[100:]]) for photo in (photos[0], photos[2]))
    assert found([one] * 6 + [other] * 6) == [6]
    assert not found([one, other] * 6)


def test_what_is_forgotten_is_compared_with_nothing(photos: list[Frame]) -> None:
    is_cut = CutDetector()
    assert not is_cut(photos[0])
    is_cut.forget()
    assert not is_cut(photos[1])
    assert is_cut(photos[2])


def test_frames_of_any_size(photos: list[Frame]) -> None:
    for size in ((1, 1), (1, 500), (700, 3), (33, 19), (257, 145)):
        images = [np.asarray(cv2.resize(photos[0], size, interpolation=cv2.INTER_AREA), np.uint8)] * 2
        assert not found(images)
    assert not found([photos[0], np.asarray(cv2.resize(photos[0], (700, 500)), np.uint8)])  # the same at another size


# --- times ------------------------------------------------------------------------------------------------------------


def gaps(times: list[float]) -> list[int]:
    is_gap = GapDetector()
    return [index for index, time in enumerate(times) if is_gap(Fraction(time).limit_denominator(90_000))]


def test_a_seek_and_a_pause_are_gaps() -> None:
    steady = [i / 25 for i in range(20)]
    assert gaps(steady) == []
    assert gaps([*steady, *(30 + time for time in steady)]) == [20]
    assert gaps([*steady, *steady]) == [20]  # back to the beginning
    assert gaps([*steady, *(19 / 25 + 0.5 + i / 25 for i in range(5))]) == []  # half a second is not more than that
    assert gaps([*steady, *(19 / 25 + 0.51 + i / 25 for i in range(5))]) == [20]


def test_a_slow_rate_is_no_gap() -> None:
    assert gaps([float(i) for i in range(20)]) == []  # one frame a second
    assert gaps([float(i) for i in range(20)] + [24.5]) == [20] == gaps([float(i) for i in range(20)] + [24.1])
    assert gaps([float(i) for i in range(20)] + [23.9]) == []
    assert gaps([0.0, 0.04, 1.2, 1.24, 1.28]) == []  # too early to tell
    slower = gaps([i / 25 for i in range(30)] + [29 / 25 + i for i in range(1, 40)])
    assert slower == list(range(30, 30 + len(slower)))
    assert len(slower) <= 13  # a rate that changes for good becomes the usual one


def test_beginnings_count_a_cut_at_a_gap_once(photos: list[Frame]) -> None:
    begins = Beginnings()
    frames = [VideoFrame(photos[0], Fraction(i, 25), i) for i in range(5)]
    frames.append(VideoFrame(photos[1], Fraction(9), 5))  # a gap and a cut
    frames.append(VideoFrame(photos[2], Fraction(226, 25), 6))  # a cut
    frames.append(VideoFrame(photos[2], Fraction(227, 25), 7, gap=True))  # the source knows
    assert [frame.index for frame in frames if begins(frame)] == [5, 6, 7]
    assert begins.to_dict() == {"cuts": 1, "gaps": 2}


def test_a_frame_that_says_itself_whether_it_is_a_cut_is_believed(photos: list[Frame]) -> None:
    begins = Beginnings()
    said = [False, False, None, True, None]
    frames = [VideoFrame(photos[i % 2], Fraction(i, 25), i, cut=cut) for i, cut in enumerate(said)]
    assert [frame.index for frame in frames if begins(frame)] == [3]
    assert not any(Beginnings(at_cuts=False)(frame) for frame in frames)


def test_without_looking_only_gaps_count(photos: list[Frame]) -> None:
    begins = Beginnings(at_cuts=False)
    frames = [VideoFrame(photo, Fraction(i, 25), i) for i, photo in enumerate([*photos, photos[0]])]
    frames.append(VideoFrame(photos[0], Fraction(0), 5))
    assert [frame.index for frame in frames if begins(frame)] == [5]
    assert begins.to_dict() == {"cuts": 0, "gaps": 1}


# --- in the pipeline --------------------------------------------------------------------------------------------------


class Listed:
    """Source and sink of given frames."""

    def __init__(self, frames: Frames) -> None:
        self._given = iter([VideoFrame(frame, Fraction(i, 25), i) for i, frame in enumerate(frames)])
        self.images: list[Frame] = []

    def read(self) -> VideoFrame | None:
        return next(self._given, None)

    def write(self, frame: VideoFrame) -> None:
        self.images.append(frame.image.copy())

    def close(self) -> None: ...

    def abort(self) -> None: ...


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_after_a_cut_the_output_is_that_of_a_run_that_starts_there(backend: str, tmp_path: Path) -> None:
    """Two recurrent stages in a row, several frames in flight: each is reset before the very same frame."""
    pytest.importorskip(backend)
    bundle, choice = open_bundle(write_recurrent_bundle(tmp_path / "rrn")), Choice(backend, "fp32", "fp32", "test")
    frames, starts = random_frames(24, 10, 14, 3), {7, 8, 15}
    order: list[int] = []

    def begins(frame: VideoFrame) -> bool:
        order.append(frame.index)
        return frame.index in starts

    def through(frames: Frames, begins: Callable[[VideoFrame], bool] | None = None) -> Frames:
        ends = Listed(frames)
        with open_stage(bundle, choice, 10, 14) as one, open_stage(bundle, choice, 20, 28) as two:
            assert one.info.in_flight > 1
            run_pipeline(ends, [one, two], ends, begins=begins)
        return np.stack(ends.images)

    result = through(frames, begins)
    assert order == list(range(24))
    for start, end in ((0, 7), (7, 8), (8, 15), (15, 24)):
        np.testing.assert_array_equal(result[start:end], through(frames[start:end]))
    wanted = recurrent(recurrent(frames[15:, None]))
    np.testing.assert_array_equal(result[15:], wanted[:, 0])
    assert not np.array_equal(through(frames)[15:], result[15:])  # so it was the reset


def test_every_stage_is_reset_as_often_and_only_there() -> None:
    stages, frames = [FakeSession(1, in_flight=3) for _ in range(3)], random_frames(30, 6, 8, 3)
    ends = Listed(frames)
    run_pipeline(ends, stages, ends, begins=lambda frame: frame.index % 10 == 5)
    assert [stage.resets for stage in stages] == [3, 3, 3]
    np.testing.assert_array_equal(np.stack(ends.images), frames)


def test_an_error_while_looking_ends_the_run() -> None:
    ends = Listed(random_frames(9, 6, 8, 3))

    def fail(frame: VideoFrame) -> bool:
        if frame.index == 4:
            raise RuntimeError("cannot look")
        return False

    with pytest.raises(RuntimeError, match="cannot look"):
        run_pipeline(ends, [FakeSession(1)], ends, begins=fail)
    assert len(ends.images) == 4


# --- on the command line ----------------------------------------------------------------------------------------------


def pictures_of(folder: Path) -> Frames:
    return np.stack([cv2.imread(str(path)) for path in sorted(folder.glob("*.png"))])


def test_a_run_resets_at_cuts_and_says_so(photos: list[Frame], tmp_path: Path) -> None:
    bundle = write_recurrent_bundle(tmp_path / "rrn")
    images = [*pan(photos[0], 5), *pan(photos[1], 4)]
    (tmp_path / "in").mkdir()
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / "in" / f"{index:02}.png"), image)

    def output(name: str, *options: str) -> tuple[Frames, object]:
        (tmp_path / name).mkdir()
        report = tmp_path / f"{name}.json"
        arguments = ["run", "-b", str(bundle), "-i", str(tmp_path / "in"), "-o", str(tmp_path / name / "%02d.png")]
        assert run([*arguments, "--quiet", "--json", str(report), *options]) == 0
        return pictures_of(tmp_path / name), json.loads(report.read_text())["resets"]

    shots = [np.stack(images[:5])[:, None], np.stack(images[5:])[:, None]]
    result, resets = output("reset")
    np.testing.assert_array_equal(result, np.concatenate([recurrent(shot)[:, 0] for shot in shots]))
    assert resets == {"cuts": 1, "gaps": 0}
    result, resets = output("kept", "--no-cut-reset")
    np.testing.assert_array_equal(result, recurrent(np.concatenate(shots))[:, 0])
    assert resets == {"cuts": 0, "gaps": 0}


def test_nobody_looks_for_cuts_where_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bundle_factory import write_small_bundle

    bundle, report = write_small_bundle(tmp_path / "plain"), tmp_path / "r.json"
    monkeypatch.setattr(CutDetector, "__call__", lambda *_: pytest.fail("looked"))
    frame = random_frames(10, 12, 3)
    cv2.imwrite(str(tmp_path / "in.png"), frame)
    arguments = ["run", "-b", str(bundle), "-i", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.png")]
    assert run([*arguments, "--quiet", "--json", str(report)]) == 0
    assert json.loads(report.read_text())["resets"] is None
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), upscale(frame[None])[0])
