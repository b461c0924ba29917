"""What the privacy benchmark measures with: that it finds open faces and only these, and that its rates are right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import common, privacy
from benchmarks.faces import check, crops, scenes, selftest, speed, utility
from benchmarks.faces.clips import encode, frames_of, match_thumbnails, matched, thumbnail
from benchmarks.faces.crops import parrot_people
from benchmarks.faces.identity import (
    Embedder,
    Rate,
    Threshold,
    accepted,
    impostor_cosines,
    parrot,
    threshold_of,
)
from benchmarks.faces.leaks import SHARE, Leak, check_frame, leaks, uncovered
from benchmarks.faces.people import (
    FACE_IN_ALIGNED,
    TEMPLATE,
    MethodOf,
    Sample,
    aligned,
    cover_samples,
    lfw,
    portraits,
    root_of,
)
from benchmarks.faces.reference import FaceTrack, ReferenceDetector, between, each_once, link, patches_of
from runtime.errors import GenedgeError, UsageError
from runtime.faces.types import Box, Face
from runtime.frames import Frame

Assets = Callable[[str], Path]
CLIP = "video/asl_student.mkv"
COUNT = 6  # frames of the clip that the tests use


class Scene:
    """A few frames of a clip with one face in each."""

    def __init__(self, frames: list[Frame], faces: list[list[Face]], detector: ReferenceDetector) -> None:
        self.frames, self.faces, self.detector = frames, faces, detector

    def covered(self, change: Callable[[Frame, Box, int], None]) -> list[Frame]:
        """Copies with every face changed in place."""
        outputs = [frame.copy() for frame in self.frames]
        for index, (output, faces) in enumerate(zip(outputs, self.faces, strict=True)):
            for face in faces:
                change(output, face.box, index)
        return outputs

    def leaking(self, outputs: Sequence[Frame]) -> list[int]:
        return [leak.frame for leak in leaks(self.frames, outputs, self.faces)]


@pytest.fixture(scope="session")
def scene(assets: Assets) -> Scene:
    detector = ReferenceDetector(assets("weights/yunet/yunet_n_dynamic.onnx"), score=0.8, threads=1)
    frames = []
    for frame in frames_of(assets(CLIP)):
        frames.append(frame)
        if len(frames) == COUNT:
            break
    return Scene(frames, [detector.quick(frame)[:1] for frame in frames], detector)


def solid(image: Frame, box: Box, shift: float = 0.0) -> None:
    """A flat ellipse in the face's mean colour, the hardest flat colour to tell from skin."""
    region = box.scaled(1.6, 1.8).moved(shift * box.width, 0)
    x, y, width, height = (round(value) for value in box)
    colour = image[y : y + height, x : x + width].reshape(-1, 3).mean(0)
    axes = round(region.width / 2), round(region.height / 2)
    cv2.ellipse(image, (round(region.center[0]), round(region.center[1])), axes, 0, 0, 360, colour.tolist(), -1)


def blurred(share: float) -> Callable[[Frame, Box, int], None]:
    def change(image: Frame, box: Box, _: int) -> None:
        image[:] = cv2.GaussianBlur(image, (0, 0), share * box.width)

    return change


def through_h264(frames: Sequence[Frame], folder: Path, crf: int | None) -> list[Frame]:
    path = folder / "through.mp4"
    encode(path, frames, Fraction(30), crf=crf)
    return list(frames_of(path))


# --- leaks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crf", [None, 18, 28])
def test_a_flat_cover_leaks_nothing_and_a_missing_one_is_found_in_its_frame(
    scene: Scene, tmp_path: Path, crf: int | None
) -> None:
    covered = through_h264(scene.covered(lambda image, box, _: solid(image, box)), tmp_path, crf)
    assert scene.leaking(covered) == []

    def some(image: Frame, box: Box, index: int) -> None:
        if index not in (2, 5):
            solid(image, box)

    assert scene.leaking(through_h264(scene.covered(some), tmp_path, crf)) == [2, 5]


def test_a_mask_that_is_off_by_a_face_leaks_in_every_frame(scene: Scene, tmp_path: Path) -> None:
    covered = scene.covered(lambda image, box, _: solid(image, box, shift=0.8))
    assert scene.leaking(through_h264(covered, tmp_path, 23)) == list(range(COUNT))


def test_a_small_mask_that_is_off_by_half_a_face_leaks(scene: Scene) -> None:
    covered = scene.covered(lambda image, box, _: solid(image, box.scaled(1 / 1.6, 1 / 1.8), shift=0.5))
    assert scene.leaking(covered) == list(range(COUNT))


def test_a_weak_blur_leaks_and_a_strong_one_does_not(scene: Scene) -> None:
    assert scene.leaking(scene.covered(blurred(0.015))) == list(range(COUNT))
    assert scene.leaking(scene.covered(blurred(0.12))) == []


def test_frames_that_are_covered_whole_or_black_leak_nothing(scene: Scene) -> None:
    assert scene.leaking([np.zeros_like(frame) for frame in scene.frames]) == []
    small = [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA) for frame in scene.frames]
    assert scene.leaking([np.asarray(cv2.resize(frame, (640, 480)), np.uint8) for frame in small]) == []


def test_another_size_of_output_hides_no_leak(scene: Scene) -> None:
    assert scene.leaking([np.asarray(cv2.resize(frame, (640, 496)), np.uint8) for frame in scene.frames]) == list(
        range(COUNT)
    )


def test_a_dark_face_leaks_as_a_bright_one_does(scene: Scene, tmp_path: Path) -> None:
    dark = [(frame // 10).astype(np.uint8) for frame in scene.frames]
    assert len(leaks(dark, through_h264(dark, tmp_path, 18), scene.faces)) == COUNT
    for frame, faces in zip(outputs := [frame.copy() for frame in dark], scene.faces, strict=True):
        solid(frame, faces[0].box)
    assert leaks(dark, through_h264(outputs, tmp_path, 18), scene.faces) == []


def test_another_persons_face_in_the_same_place_and_light_is_no_leak(assets: Assets) -> None:
    assets("faces/congress_pd/faces.csv")
    crops = [aligned(sample.image, sample.landmarks) for sample in portraits(24)]
    for crop, other in zip(crops, [*crops[1:], crops[0]], strict=True):
        like = (other - other.mean((0, 1))) / other.std((0, 1)) * crop.std((0, 1)) + crop.mean((0, 1))
        assert uncovered(crop, np.clip(like, 0, 255).astype(np.uint8), FACE_IN_ALIGNED) <= SHARE


@settings(max_examples=20, deadline=None)
@given(x=st.floats(-200, 700), y=st.floats(-200, 700), width=st.floats(0.1, 900), height=st.floats(0.1, 900))
def test_the_open_share_is_1_for_the_same_picture_and_0_out_of_it(
    scene: Scene, x: float, y: float, width: float, height: float
) -> None:
    frame, box = scene.frames[0], Box(x, y, width, height)
    share = uncovered(frame, frame, box)
    assert share in (0.0, 1.0)
    if box.intersection(Box(0, 0, 640, 480)) == 0:
        assert share == 0.0
    if 0 <= x <= 500 and 0 <= y <= 300 and 20 < width <= 140 and 20 < height <= 180:
        assert share == 1.0


def test_noise_is_measured_outside_of_faces(scene: Scene) -> None:
    frame, faces = scene.frames[0], scene.faces[0]
    brighter = np.clip(frame.astype(int) + 8, 0, 255).astype(np.uint8)
    noise = check_frame(0, 0, frame, brighter, faces).noise
    assert noise.distance == pytest.approx(8, abs=0.5)
    assert noise.seen is not None
    assert noise.seen > 0.9
    whole = Face(Box(-50, -50, 800, 700), 1.0)
    assert check_frame(0, 0, frame, brighter, [whole]).noise.distance is None


def test_different_numbers_of_frames_are_refused(scene: Scene) -> None:
    with pytest.raises(GenedgeError, match="same number"):
        leaks(scene.frames, scene.frames[:-1], scene.faces)


# --- reference faces and tracks ---------------------------------------------------------------------------------------


@given(width=st.integers(33, 5000), height=st.integers(33, 5000))
def test_every_pixel_of_a_large_frame_is_seen_at_full_size_both_ways(width: int, height: int) -> None:
    for flipped in (False, True):
        full = [patch for patch in patches_of(width, height) if patch.scale == 1 and patch.flipped == flipped]
        columns = {edge for patch in full for edge in (patch.x, patch.x + patch.width)}
        rows = {edge for patch in full for edge in (patch.y, patch.y + patch.height)}
        assert min(columns) == min(rows) == 0
        assert max(columns) == width
        assert max(rows) == height
        for x in (0, width // 3, width // 2, width - 1):
            for y in (0, height // 2, height - 1):
                assert any(p.x <= x < p.x + p.width and p.y <= y < p.y + p.height for p in full)


def test_the_mirror_image_has_the_same_face_mirrored(scene: Scene) -> None:
    frame = scene.frames[0]
    (face,), mirrored = scene.faces[0], scene.detector.detect(np.ascontiguousarray(frame[:, ::-1]))
    there = mirrored[0]
    assert face.landmarks is not None
    assert there.landmarks is not None
    assert Box(640 - there.box.x - there.box.width, *there.box[1:]).iou(face.box) > 0.8
    expected = np.stack([640 - face.landmarks[[1, 0, 2, 4, 3], 0], face.landmarks[[1, 0, 2, 4, 3], 1]], 1)
    assert np.abs(there.landmarks - expected).max() < 6


@pytest.mark.parametrize("width", [16, 900])
def test_small_faces_and_close_ups_are_found(scene: Scene, width: int) -> None:
    box = scene.faces[0][0].box
    scale = width / box.width
    part = scene.frames[0][50:210, 230:380]
    resized = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    image = np.full((max(240, resized.shape[0]), max(320, resized.shape[1]), 3), 90, np.uint8)
    image[: resized.shape[0], : resized.shape[1]] = resized
    there = box.moved(-230, -50)
    expected = Box(*(value * scale for value in there))
    assert any(face.box.iou(expected) > 0.5 for face in scene.detector.detect(image))


def test_faces_are_linked_over_a_gap_and_not_over_a_long_one() -> None:
    face = Face(Box(100, 100, 40, 50), 0.9)
    moved = Face(Box(110, 100, 40, 50), 0.8)
    (track,) = link([[face], [], [moved]])
    assert sorted(track.faces) == [0, 2]
    (hidden,) = between([track])[1]
    assert hidden.score == 0
    assert hidden.box == Box(105, 100, 40, 50)
    assert len(link([[face], *[[]] * 9, [face]])) == 2
    assert len(link([[face], [Face(Box(300, 100, 40, 50), 0.9)]])) == 2


def test_a_face_has_one_track_and_a_track_one_face_a_frame() -> None:
    first, second = Face(Box(0, 0, 40, 50), 0.9), Face(Box(20, 0, 40, 50), 0.9)
    tracks = link([[first, second], [second, first], [first]])
    assert sorted(len(track.faces) for track in tracks) == [2, 3]
    assert {track.faces[0].box: track.faces[1].box for track in tracks} == {f.box: f.box for f in (first, second)}


def test_of_two_hits_on_one_face_the_better_stays() -> None:
    good, bad = Face(Box(0, 0, 40, 50), 0.9), Face(Box(4, 0, 40, 50), 0.7)
    assert each_once([bad, good, Face(Box(90, 0, 40, 50), 0.6)])[0] is good
    assert len(each_once([bad, good])) == 1


# --- clips ------------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_doubled_and_dropped_frames_are_matched(assets: Assets, data: st.DataObject) -> None:
    small = np.stack([thumbnail(frame) for frame in frames_of(assets("video/carphone_pristine.mp4"))][:40:2])
    steps = data.draw(st.lists(st.sampled_from([1, 1, 1, 1, 0, 2, 3]), min_size=3, max_size=25))
    order = [index for index in np.cumsum(steps) if index < len(small)]
    if not order:
        return
    hidden = small[order].copy()
    hidden[:, 10:20, 25:38] = 90  # a covered face
    assert match_thumbnails(small, hidden, 6) == [int(index) for index in order]


def test_as_many_frames_are_matched_one_for_one(scene: Scene, tmp_path: Path) -> None:
    for name, frames in (("a.mp4", scene.frames), ("b.mp4", scene.frames[::-1]), ("c.mp4", scene.frames[2:])):
        encode(tmp_path / name, frames, Fraction(30), crf=None)
    assert matched(tmp_path / "a.mp4", tmp_path / "b.mp4")[0] == list(range(COUNT))
    assert matched(tmp_path / "a.mp4", tmp_path / "c.mp4")[0] == list(range(2, COUNT))
    assert all((a == b).all() for a, b in zip(frames_of(tmp_path / "a.mp4"), scene.frames, strict=True))


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_threshold_lets_no_more_impostors_pass_than_asked_for() -> None:
    cosines = np.linspace(-1, 1, 20_001, dtype=np.float32)
    threshold = threshold_of(cosines, 1e-3)
    assert threshold.rate <= 1e-3
    assert threshold.rate == pytest.approx(1e-3, rel=0.1)
    assert threshold_of(np.full(20_000, 0.5, np.float32), 1e-3).rate == 0
    with pytest.raises(GenedgeError, match="too few"):
        threshold_of(cosines[:5000], 1e-3)


def test_impostors_are_pairs_of_two_people() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = vectors[0]
    assert len(impostor_cosines(vectors, ["a", "a", "b", "c"])) == 5
    assert impostor_cosines(vectors, ["a", "a", "b", "c"]).max() == 0
    assert impostor_cosines(vectors, ["a", "d", "b", "c"]).max() == 1


def test_rates_have_a_bound_that_few_samples_widen() -> None:
    assert Rate(0, 1000).upper < 0.005 < Rate(0, 100).upper < 0.05
    assert Rate(5, 10).value == 0.5
    assert Rate(0, 0).words == "none"
    vectors = np.eye(3, dtype=np.float32)
    assert accepted(vectors, vectors[[0, 2, 1]], Threshold(0.3, 0, 0)) == Rate(1, 3)


def test_the_parrot_knows_what_it_has_learnt_and_guesses_what_is_alike() -> None:
    vectors = np.eye(3, dtype=np.float32)
    people = ["a", "b", "c"]
    assert parrot(vectors, people, vectors, people) == Rate(3, 3)
    alike = np.ones((3, 3), np.float32)
    assert parrot(alike, people, alike, people) == Rate(1, 3)


def test_the_parrot_needs_people_with_several_pictures() -> None:
    image, box = np.zeros((4, 4, 3), np.uint8), Box(0, 0, 4, 4)
    samples = [Sample(f"{person}{i}", person, image, TEMPLATE, box) for person in "ab" for i in range(4)]
    assert {sample.person for sample in parrot_people(samples[:-1])} == {"a"}


def test_alignment_brings_the_landmarks_to_the_template(assets: Assets) -> None:
    assets("faces/congress_pd/faces.csv")
    sample = portraits(1)[0]
    turn = cv2.getRotationMatrix2D((225, 275), 20, 0.7)
    points = sample.landmarks @ turn[:, :2].T + turn[:, 2]
    turned = np.asarray(cv2.warpAffine(sample.image, turn, (450, 550), flags=cv2.INTER_AREA), np.uint8)
    straight = aligned(sample.image, sample.landmarks).astype(float)
    assert np.abs(aligned(turned, points.astype(np.float32)) - straight)[20:-10, 20:-20].mean() < 6


# --- use --------------------------------------------------------------------------------------------------------------


def test_landmark_errors_are_shares_of_the_distance_of_the_eyes() -> None:
    face = Face(Box(0, 0, 112, 112), 1.0, TEMPLATE)
    moved = Face(face.box, 1.0, TEMPLATE + np.array([3.5238, 0], np.float32))
    assert utility.landmark_error(face, face) == 0
    assert utility.landmark_error(face, moved) == pytest.approx(0.1, abs=1e-3)


def test_flicker_is_the_change_inside_of_faces_only() -> None:
    first, second = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60, 3), np.uint8)
    second[20:40, 20:40] = 6
    second[50:] = 200
    track = FaceTrack({0: Face(Box(20, 20, 20, 20), 1.0), 1: Face(Box(20, 20, 20, 20), 1.0)})
    assert utility.changes([first, second], [track]) == (6.0, 1)


def test_passcodes_are_told_apart_below_the_threshold() -> None:
    first, second = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1]
    assert utility.diversity([first, second, first], Threshold(0.3, 0, 0)) == Rate(4, 6)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_leaks_of_a_file_are_printed_and_shown(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def some(image: Frame, box: Box, index: int) -> None:
        if index != 3:
            solid(image, box)

    for name, frames in (("original.mp4", scene.frames), ("covered.mp4", scene.covered(some))):
        encode(tmp_path / name, frames, Fraction(30), crf=18)
    files = [str(tmp_path / name) for name in ("original.mp4", "covered.mp4")]
    sheet, figures = tmp_path / "sheet.png", tmp_path / "leaks.json"
    code = privacy.main(["leaks", *files, "--score", "0.8", "--sheet", str(sheet), "--json", str(figures)])
    assert code == 1
    assert "frames with a leak: 3" in capsys.readouterr().out
    result = json.loads(figures.read_text())
    assert [leak["frame"] for leak in result["figures"] if "frame" in leak] == [3]
    assert result["figures"][0]["leaks"] == 1
    assert result["figures"][0]["track_leak_rate"] == 1
    assert cv2.imread(str(sheet)).shape[0] > 100


def test_places_that_are_no_faces_are_read_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "not.csv"
    path.write_text("clip,first,last,x,y,width,height\na.mp4,3,5,10,10,20,20\nb.mp4,0,9,0,0,9,9\n")
    (place,) = check.excluded(path, "a.mp4")
    face = Face(Box(11, 10, 20, 20), 0.7)
    assert [place.holds(index, face) for index in (2, 3, 5, 6)] == [False, True, True, False]
    assert not place.holds(4, Face(Box(18, 18, 40, 40), 0.7))
    path.write_text("clip,first\na.mp4,3\n")
    with pytest.raises(UsageError, match="no CSV file"):
        check.excluded(path, "a.mp4")
    with pytest.raises(UsageError, match="not there"):
        check.excluded(tmp_path / "absent.csv", "a.mp4")
    assert check.excluded(check.NOT_FACES, "short_hamilton_clip.mp4")


def test_it_runs_as_a_file_from_anywhere(tmp_path: Path) -> None:
    script = Path(privacy.__file__)
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "leaks ORIGINAL COVERED" in done.stdout


def test_a_tool_that_leaves_no_output_is_not_fast(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"of an earlier run")
    with pytest.raises(GenedgeError, match="left no output"):
        speed.timed([sys.executable, "-c", "pass"], output, speed.Runs())
    with pytest.raises(GenedgeError, match="exit code 3"):
        speed.timed([sys.executable, "-c", f"open({str(output)!r}, 'w').write('x'); exit(3)"], output, speed.Runs())


def test_commands_take_turns_and_the_first_round_is_not_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {}
    for name in "ab":
        output = tmp_path / name
        code = f"open({str(log)!r}, 'a').write({name!r}); open({str(output)!r}, 'w').write('x')"
        commands[name] = ([sys.executable, "-c", code], output)
    taken = speed.in_turns(commands, 2)
    assert log.read_text() == "abbaab"
    assert all(len(runs.wall) == len(runs.cpu) == 2 for runs in taken.values())
    assert speed.ratio([4, 9, 2], [2, 3, 2]) == 2


def test_a_peer_that_is_named_and_absent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no executable"):
        speed.deface_at(str(tmp_path / "deface"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert speed.deface_at(None) is None
    (tmp_path / "deface").write_text("#!/bin/sh\n")
    (tmp_path / "deface").chmod(0o755)
    assert speed.deface_at(None) == tmp_path / "deface"


def test_leaks_of_a_clip_are_summed_up_by_track() -> None:
    from benchmarks.faces.leaks import FrameCheck, FrameNoise, summary_of

    face, other = Face(Box(0, 0, 9, 9), 0.9), Face(Box(50, 0, 9, 9), 0.9)
    tracks = [FaceTrack({0: face, 1: face}), FaceTrack({0: other})]
    noise = FrameNoise(2.0, 0.9)
    checks = [
        FrameCheck(0, 0, noise, (face, other), (0.5, 0.0)),
        FrameCheck(1, 1, FrameNoise(12.0, 0.0), (face,), (0.4,)),
    ]
    found = summary_of(checks, tracks, 2.0)
    assert found.leaks == (Leak(0, 0, face, 0.5, 0), Leak(1, 1, face, 0.4, 0))
    assert (found.leaking_tracks, found.track_rate, found.leaked_frames) == (1, 0.5, 2)
    assert (found.per_hour, found.face_frames, found.unlike) == (3600, 3, 1)
    assert summary_of([], [], 0.0).per_hour is None


# --- whole parts ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def people(assets: Assets) -> crops.People:
    """A few of the test material's people."""
    assets("faces/lfw_aligned_112/images.tar")
    detector = ReferenceDetector(assets("weights/yunet/yunet_n_dynamic.onnx"), threads=1)
    embedder = Embedder(assets("weights/mobilefacenet/MobileFaceNet.onnx"), threads=1)
    return crops.People(lfw(165), portraits(2), embedder, detector)


def test_a_method_on_known_people_is_measured_and_an_absent_one_skipped(
    people: crops.People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops.People, "load", lambda *_: people)
    for count in ("CODES", "KNOWN_CODES", "DIVERSE"):
        monkeypatch.setattr(crops, count, 2)
    result = common.Result("privacy", {})
    crops.measure_people(result, ("average", "generator"), quick=True, threads=1)
    figures = {(f["method"], f.get("pairs"), f.get("faces")): f for f in result.figures if "at_1e-3" in f}
    before = figures["none", "original and original", "LFW"]
    after = figures["average", "original and covered", "LFW"]
    assert before["at_1e-3"] > 0.9
    assert after["at_1e-3"] < 0.1
    assert after["samples"] == 2 * before["samples"] > 50
    assert figures["average", "same picture, CRF 28", "portraits"]["samples"] == 2
    assert [t.name for t in result.targets if t.met is None] == ["generator on crops"]
    assert any(f["measure"] == "use" and f["found_again"] > 0.9 for f in result.figures)


def test_each_picture_is_a_recording_of_its_own_and_keeps_its_face(people: crops.People) -> None:
    method = MethodOf("average")
    first, again, other = (cover_samples(method, people.portraits, code) for code in (0, 0, 1))
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
    assert any((a.image != b.image).any() for a, b in zip(first, other, strict=True))
    assert len({root_of(name, code) for name in "ab" for code in range(2)}) == 4


def test_a_covered_clip_is_measured_as_it_is_and_out_of_h264(
    scene: Scene, people: crops.People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "thresholds_for_clips", lambda _: (people.embedder, people.thresholds[0]))
    paths = tmp_path / "original.mp4", tmp_path / "covered.mp4"
    outputs = scene.covered(lambda image, box, _: solid(image, box))
    for path, frames in zip(paths, (scene.frames, outputs), strict=True):
        encode(path, frames, Fraction(30), crf=None)
    result = common.Result("privacy", {})
    measured = scenes.Scenes(result, 1)
    tracks = link(scene.faces)
    measured.references[paths[0]] = check.Reference(scene.faces, {}, tracks)
    measured.measure(*paths, "solid")
    measured.measure(paths[0], paths[0], "nothing", judged=False)
    measured.conclude()
    assert [target.met for target in result.targets] == [True, True]
    figures = {(f["measure"], f["method"]): f for f in result.figures}
    assert figures["leaks", "solid, CRF 28"]["leaks"] == 0
    assert figures["leaks", "nothing, CRF 28"]["leaks"] == COUNT
    assert figures["clip", "solid"]["recognised"] == 0
    assert figures["clip", "nothing"]["recognised"] == figures["clip", "nothing"]["found_again"] == 1
    assert figures["clip", "nothing"]["flicker"] == 1
    assert len(result.tables) == 2


def test_clips_and_speed_without_the_verb_are_skipped_and_a_failure_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, people: crops.People
) -> None:
    result = common.Result("privacy", {})
    monkeypatch.setattr(scenes, "deid_missing", lambda: "not here")
    scenes.measure_scenes(result, ("solid",), scenes.CLIPS, 1, None)
    scenes.measure_speed(result, ("solid",), None, 1, None)
    assert [target.met for target in result.targets] == [None, None]
    monkeypatch.setattr(scenes, "deid_missing", lambda: "")
    monkeypatch.setattr(scenes, "thresholds_for_clips", lambda _: (people.embedder, people.thresholds[0]))
    failing = [sys.executable, "-c", "import sys; sys.exit('error: no detector')"]
    monkeypatch.setattr(scenes, "deid_command", lambda *_: failing)
    scenes.measure_scenes(result, ("solid",), (CLIP,), 1, None)
    assert (result.targets[-1].met, result.targets[-1].measured) == (False, "error: no detector")


def test_the_selftest_leaves_faces_open_that_no_cover_touches(scene: Scene) -> None:
    frames, faces = scene.frames * 8, scene.faces * 8
    plan = selftest.plan_of(frames, faces, MethodOf("solid"))
    kinds = [(opened, covered) for (opened,), (covered,) in zip(plan.open, plan.covered, strict=True)]
    assert {(True, False), (False, True)} == set(kinds)
    for (opened, _), before, after in zip(kinds, frames, plan.frames, strict=True):
        assert (before == after).all() == opened
