"""The de-identified source: what it releases when all goes well, and when anything fails.

The "face" is a square of one colour that nothing else in a frame has, so that one pixel of it that is released is seen.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import EndedEarlyError, GenedgeError, VideoError
from runtime.faces.blend import merge
from runtime.faces.deid import DeidentifiedSource, DeidSettings, replaced_share
from runtime.faces.guard import GuardSettings
from runtime.faces.methods import make_method
from runtime.faces.passcode import RecordingKeys
from runtime.faces.types import Applied, Box, Face
from runtime.video.source import Source, SourceInfo, VideoFrame

FACE = (250, 10, 200)
HEIGHT, WIDTH, SIDE = 120, 200, 40
RATE = 25


def scene(index: int, face: bool = True) -> np.ndarray:
    """A plain background with the face, which moves to the right."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[:, :, 1] = np.linspace(60, 140, WIDTH, dtype=np.uint8)
    if face:
        left, top = place(index)
        image[top : top + SIDE, left : left + SIDE] = FACE
    return image


def place(index: int) -> tuple[int, int]:
    return 30 + 2 * (index % 50), 40


def visible(image: np.ndarray) -> int:
    """Pixels of the face in a frame."""
    return int((np.abs(image.astype(int) - FACE).max(axis=2) <= 2).sum())


class Clip(Source):
    """``count`` scenes; raises ``error`` after them."""

    def __init__(self, count: int, error: Exception | None = None, frames=None) -> None:
        self.info = SourceInfo("clip", WIDTH, HEIGHT, Fraction(RATE), Fraction(1, RATE), count)
        self.warnings = []
        self._count, self._error, self._given = count, error, 0
        self._frames = frames or scene

    def read(self) -> VideoFrame | None:
        if self._given == self._count:
            if self._error is not None:
                raise self._error
            return None
        index, self._given = self._given, self._given + 1
        return VideoFrame(self._frames(index), Fraction(index, RATE), index, Fraction(1, RATE))

    def close(self) -> None:
        pass


class ColourDetector:
    """Finds the face by its colour. ``faults``: call number -> what to do instead."""

    name, digest, description = "colour", "0" * 64, "finds one colour"

    def __init__(self, faults=None, misses=frozenset(), score: float = 0.9) -> None:
        self.calls = 0
        self._faults, self._misses, self._score = faults or {}, misses, score
        self._lock = threading.Lock()

    def detect(self, image, *, thorough=False):
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
        if call in self._faults:
            return self._faults[call](image)
        if call in self._misses:
            return []
        rows, columns = np.nonzero(np.abs(image.astype(int) - FACE).max(axis=2) <= 2)
        if len(rows) < 9:
            return []
        left, top = float(columns.min()), float(rows.min())
        return [Face(Box(left, top, columns.max() + 1 - left, rows.max() + 1 - top), self._score)]

    def close(self) -> None:
        pass


def fails(image):
    raise GenedgeError("the engine is gone")


def crashes(image):
    raise ZeroDivisionError


def hangs(image):
    time.sleep(1.2)
    return []


def not_numbers(image):
    return [Face(Box(float("nan"), 1.0, 10.0, 10.0), 0.9)]


def not_faces(image):
    return "no list of faces"


def opened(source, detector, *, lookahead=4, recheck=False, method="solid", timeout=5.0, **more) -> DeidentifiedSource:
    return DeidentifiedSource(
        source,
        detector,
        make_method(method, keys=RecordingKeys.random()),
        DeidSettings(GuardSettings(lookahead=lookahead), timeout=timeout, recheck=recheck, thorough_every=0.0),
        **more,
    )


def frames_of(source: DeidentifiedSource) -> list[VideoFrame]:
    with source:
        return list(source)


def test_every_frame_comes_once_in_order_with_its_time_and_without_the_face() -> None:
    given = frames_of(opened(Clip(30), ColourDetector()))
    assert [frame.index for frame in given] == list(range(30))
    assert [frame.pts for frame in given] == [Fraction(index, RATE) for index in range(30)]
    assert not any(visible(frame.image) for frame in given)
    assert visible(scene(3)) == SIDE * SIDE  # the measure sees a face that is there


@pytest.mark.parametrize("lookahead", [0, 1, 4, 12, 40])
def test_what_is_outside_of_the_masks_stays_as_it_was(lookahead: int) -> None:
    for frame in frames_of(opened(Clip(20), ColourDetector(), lookahead=lookahead)):
        assert not visible(frame.image)
        left, top = place(frame.index)
        outside = np.ones((HEIGHT, WIDTH), bool)
        outside[max(0, top - SIDE) : top + 2 * SIDE, max(0, left - SIDE) : left + 2 * SIDE] = False
        assert np.array_equal(frame.image[outside], scene(frame.index)[outside])


def test_a_face_that_is_missed_in_between_stays_covered() -> None:
    source = opened(Clip(30), ColourDetector(misses={9, 10, 11}))
    assert not any(visible(frame.image) for frame in frames_of(source))
    assert source.counts.kinds["held"] + source.counts.kinds["interpolated"] == 3
    assert not source.counts.covered_whole


def test_the_frames_before_the_first_sight_are_covered_where_the_look_ahead_reaches() -> None:
    source = opened(Clip(30), ColourDetector(misses=set(range(4))), lookahead=6)
    assert not any(visible(frame.image) for frame in frames_of(source))
    assert source.counts.kinds["filled"] == 4


@pytest.mark.parametrize("fault", [fails, crashes, hangs, not_numbers, not_faces])
@pytest.mark.parametrize("lookahead", [0, 4])
def test_a_detector_that_fails_releases_no_face(fault, lookahead: int) -> None:
    source = opened(Clip(16), ColourDetector(faults={6: fault, 7: fault}), lookahead=lookahead, timeout=0.4)
    given = frames_of(source)
    assert [frame.index for frame in given] == list(range(16))
    assert not any(visible(frame.image) for frame in given)
    assert sum(source.counts.covered_whole.values()) >= 1
    assert len(np.unique(given[6].image.reshape(-1, 3), axis=0)) == 1, "the frame itself is covered whole"


def test_a_detector_that_always_fails_gives_covered_frames_only() -> None:
    source = opened(Clip(10), ColourDetector(faults=dict.fromkeys(range(100), fails)))
    given = frames_of(source)
    assert all(len(np.unique(frame.image.reshape(-1, 3), axis=0)) == 1 for frame in given)
    assert source.counts.covered_whole == {"detector failed": 10}


def test_a_detector_that_hangs_for_good_does_not_stop_the_run() -> None:
    begin = time.monotonic()
    forever = threading.Event()
    source = opened(Clip(40), ColourDetector(faults={3: lambda image: forever.wait(20) or []}), timeout=0.3)
    given = frames_of(source)
    assert len(given) == 40
    assert not any(visible(frame.image) for frame in given)
    assert time.monotonic() - begin < 10
    forever.set()


class Broken:
    """A method that fails from the third frame on."""

    name = "solid"

    def __init__(self, how) -> None:
        self._calls, self._how = 0, how
        self._real = make_method("solid", keys=RecordingKeys.random())

    def apply(self, image, covers):
        self._calls += 1
        return self._how(image, covers) if self._calls >= 3 else self._real.apply(image, covers)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("how", [lambda image, covers: fails(image), lambda image, covers: []])
def test_a_method_that_fails_or_leaves_a_face_out_releases_none(how) -> None:
    source = DeidentifiedSource(
        Clip(8), ColourDetector(), Broken(how), DeidSettings(GuardSettings(lookahead=2), recheck=False)
    )
    assert not any(visible(frame.image) for frame in frames_of(source))
    assert source.counts.covered_whole == {"method failed": 6}


def test_a_verdict_for_another_frame_lets_none_out(monkeypatch) -> None:
    source = opened(Clip(8), ColourDetector(), lookahead=2)
    pop = source.guard.pop

    def shifted():
        verdict = pop()
        return verdict and replace(verdict, index=verdict.index + 1)

    monkeypatch.setattr(source.guard, "pop", shifted)
    given = frames_of(source)
    assert len(given) == 8
    assert not any(visible(frame.image) for frame in given)
    assert source.counts.covered_whole == {"no verdict for this frame": 8}


class LateDetector(ColourDetector):
    """Finds nothing in raw frames, and everything in the checks of covered ones."""

    checking = False

    def detect(self, image, *, thorough=False):
        return super().detect(image) if self.checking else []


def test_a_face_that_is_found_in_the_result_is_covered_again() -> None:
    detector = LateDetector()
    source = opened(Clip(6), detector, lookahead=0, recheck=True)
    search = source._search

    def noting(image, number=0):
        detector.checking = True  # nothing else runs without look-ahead
        call = search(image, number)
        call._done.wait()
        detector.checking = False
        return call

    source._search = noting
    given = frames_of(source)
    assert [visible(frame.image) for frame in given] == [0] * 6
    assert source.counts.kinds["rechecked"] >= 1
    assert not source.counts.covered_whole


class Checks(ColourDetector):
    """Another detector for the results, which finds every face at the odd scales only."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        self.threads: set[int] = set()

    def glance(self, image, number):
        self.numbers.append(number)
        self.threads.add(threading.get_ident())
        return super().detect(image) if number % 2 else []


class Blind(ColourDetector):
    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def detect(self, image, *, thorough=False):
        self.threads.add(threading.get_ident())
        return []


def test_a_checker_looks_at_every_result_in_a_thread_of_its_own_at_scales_that_take_turns() -> None:
    detector, checker = Blind(), Checks()
    source = opened(Clip(9), detector, recheck=True, checker=checker)
    given = frames_of(source)
    assert checker.numbers == list(range(1, 9))  # the first frame is searched at all scales
    assert not checker.threads & detector.threads
    # found at an odd scale, a face is followed from there on: into the even frame as well
    assert [bool(visible(frame.image)) for frame in given[1:]] == [False] * 8
    assert source.counts.kinds["rechecked"] >= 1


def test_a_checker_that_hangs_covers_frames_whole() -> None:
    checker = Checks()
    checker.glance = lambda image, number: time.sleep(3)  # type: ignore[method-assign]
    source = opened(Clip(3), ColourDetector(), recheck=True, checker=checker, timeout=0.2)
    given = frames_of(source)
    assert not any(visible(frame.image) for frame in given)
    assert source.counts.covered_whole == {"check did not answer in time": 2}


def test_the_canary_is_shown_to_the_checker_as_well() -> None:
    class Sees:
        def check(self, detector, height, width):
            return not isinstance(detector, Checks)

    source = opened(Clip(5), ColourDetector(), recheck=True, checker=Checks(), canary=Sees())
    assert not any(visible(frame.image) for frame in frames_of(source))
    assert source.counts.covered_whole == {"detector missed the test face": 5}


boxes = st.builds(Box, st.floats(-60, 220), st.floats(-60, 140), st.floats(2, 120), st.floats(2, 120))


@settings(max_examples=100, deadline=None)
@given(box=boxes, regions=st.lists(boxes, max_size=3))
def test_the_replaced_share_is_that_of_the_pixels_that_methods_replace(box: Box, regions: list[Box]) -> None:
    replaced = merge(regions, WIDTH, HEIGHT).mask == 255
    left, top = max(0, int(np.floor(box.x))), max(0, int(np.floor(box.y)))
    asked = replaced[top : max(0, int(np.ceil(box.y + box.height))), left : max(0, int(np.ceil(box.x + box.width)))]
    expected = asked.mean() if asked.size else 1.0
    assert abs(replaced_share(box, regions, HEIGHT, WIDTH) - expected) <= 2 / max(1, asked.size)


def test_a_face_in_the_corner_of_a_region_is_not_in_its_ellipse() -> None:
    class Corner:
        """Finds the face in the middle of its frame, and in the result what looks out in the corner of the region."""

        name, digest, description = "corner", "0" * 64, "two faces"
        calls = 0

        def detect(self, image, *, thorough=False):
            self.calls += 1
            middle = Box(80, 40, 40, 40)
            corner = Box(125, 87, 8, 9)  # the region is 64x72 about the middle
            shown = (np.abs(image[int(corner.y), int(corner.x)].astype(int) - FACE) <= 2).all()
            return [Face(middle, 0.9)] if self.calls == 1 else [Face(corner, 0.7)] if shown else []

        def close(self) -> None:
            pass

    source = opened(Clip(1, frames=lambda index: np.full((HEIGHT, WIDTH, 3), FACE, np.uint8)), Corner(), recheck=True)
    source._solid = source._method = Painted()
    image = frames_of(source)[0].image
    assert source.counts.kinds["rechecked"] == 1
    assert not visible(image[87:96, 125:133])


class Painted:
    """Every region in black, for frames of one colour."""

    name = "solid"

    def apply(self, image, covers):
        image[merge([cover.region for cover in covers], WIDTH, HEIGHT).mask == 255] = 0
        return [Applied(cover.track, "solid") for cover in covers]

    def close(self) -> None:
        pass


class Canary:
    def __init__(self, answers) -> None:
        self._answers = list(answers)

    def check(self, detector, height, width):
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("miss", [False, GenedgeError("engine")])
def test_no_frame_is_released_open_while_the_test_face_is_missed(miss) -> None:
    source = opened(Clip(60), ColourDetector(), canary=Canary([True, miss, miss, True]))
    given = frames_of(source)
    assert not any(visible(frame.image) for frame in given)
    assert source.counts.canaries_missed == 2
    assert source.counts.covered_whole["detector missed the test face"] >= 2
    assert len(np.unique(given[-1].image.reshape(-1, 3), axis=0)) > 1, "it goes on once the test face is found"


@pytest.mark.parametrize("error", [EndedEarlyError("clip broke off"), VideoError("the camera is gone")])
def test_what_was_read_before_the_source_failed_is_given_covered_then_its_error(error) -> None:
    source = opened(Clip(9, error), ColourDetector())
    given: list[VideoFrame] = []
    with source, pytest.raises(VideoError) as raised:
        given.extend(iter(source.read, None))
    assert str(raised.value) == str(error)
    assert not isinstance(raised.value, EndedEarlyError), "the output is not complete, so it must not look so"
    assert [frame.index for frame in given] == list(range(9))
    assert not any(visible(frame.image) for frame in given)


class Vault:
    def __init__(self) -> None:
        self.records = []

    def add(self, frame_index, pts, track, left, top, crop):
        self.records.append((frame_index, track, left, top, crop.copy()))


@pytest.mark.parametrize("faults", [{}, {5: fails}])
def test_the_vault_restores_every_pixel(faults) -> None:
    vault = Vault()
    source = opened(Clip(12), ColourDetector(faults=faults), vault=vault, recheck=not faults)
    for frame in frames_of(source):
        for index, _, left, top, crop in vault.records:
            if index == frame.index:
                frame.image[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        assert np.array_equal(frame.image, scene(frame.index))
    assert vault.records


@settings(max_examples=40, deadline=None)
@given(
    misses=st.sets(st.integers(0, 29), max_size=12),
    lookahead=st.integers(0, 12),
    faults=st.dictionaries(st.integers(0, 29), st.sampled_from([fails, crashes, not_numbers]), max_size=6),
)
def test_a_face_that_was_seen_within_the_hold_is_never_released(misses, lookahead, faults) -> None:
    """Whatever is missed and whatever fails: open only before the first sight, further away than the look-ahead."""
    detector = ColourDetector(faults=faults, misses=misses)
    source = opened(Clip(30), detector, lookahead=lookahead)
    given = frames_of(source)
    seen = sorted(set(range(30)) - misses - set(faults))
    assert [frame.index for frame in given] == list(range(30))
    for frame in given:
        if any(frame.index - 15 <= index <= frame.index + lookahead for index in seen):
            assert not visible(frame.image), frame.index
