from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.codes import Code
from runtime.errors import UsageError
from runtime.frames import Frame, Frames, SizeRule
from runtime.manifest import Geometry, Port
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.sessions.fake import FakeSession
from runtime.tiles import (
    FittedSession,
    ResizedSession,
    TiledSession,
    fit_session,
    pad_frames,
    plan_tiles,
    resized_into,
    smallest_tile,
)

KERNEL = np.array([[1, 2, 1], [3, 5, 2], [1, 4, 2]], dtype=np.float64)  # no symmetry: a flip would show


class ConvSession(Session):
    """A real little network: ``layers`` zero-padded 3x3 convolutions in integers, then x2 by repeating.

    The values are taken modulo 251 between the layers, so that every pixel within reach changes the result.
    ``stride`` > 1 adds a layer that shares one value in each stride x stride cell: it has a phase, as networks
    that go down and up again have. Requests run on threads and may finish in any order.
    """

    def __init__(
        self, layers: int = 3, stride: int = 1, in_flight: int = 2, fixed: tuple[int, int] | None = None
    ) -> None:
        self.scale, self.layers, self.stride, self.fixed = 2, layers, stride, fixed
        self.info = SessionInfo("conv", "fp32", "fp32", "none", 1, in_flight)
        self.shapes: list[tuple[int, ...]] = []
        self.under_way = self.most = 0
        self.fail_at: int | None = None
        self.closed = False

    @property
    def halo(self) -> int:
        return self.layers + self.stride - 1

    def network(self, frame: Frame) -> Frame:
        values: NDArray[Any] = frame.astype(np.float64)
        if self.stride > 1:
            s = self.stride
            height, width = values.shape[:2]
            assert height % s == 0
            assert width % s == 0
            values = values.reshape(height // s, s, width // s, s, 3).sum((1, 3)).repeat(s, 0).repeat(s, 1) % 251
        for _ in range(self.layers):
            values = cv2.filter2D(values, cv2.CV_64F, KERNEL, borderType=cv2.BORDER_CONSTANT) % 251
        return values.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        number = len(self.shapes)
        self.shapes.append(frames.shape)
        if self.fixed is not None:
            assert frames.shape[1:3] == self.fixed
        assert frames.flags.c_contiguous
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        assert self.under_way <= self.info.in_flight
        result: queue.SimpleQueue[Frames | Exception] = queue.SimpleQueue()
        known: list[Frames] = []

        def work() -> None:
            if number == self.fail_at:
                result.put(RuntimeError("the engine failed"))
                return
            images = np.stack([self.network(frame) for frame in frames])
            target = np.empty_like(images) if out is None else out
            target[...] = images
            result.put(target)

        thread = threading.Thread(target=work)
        thread.start()

        def wait() -> Frames:
            if known:
                return known[0]
            answer = result.get()
            self.under_way -= 1
            if isinstance(answer, Exception):
                raise answer
            known.append(answer)
            return answer

        return Pending(wait)

    def close(self) -> None:
        assert self.under_way == 0
        self.closed = True


def noise(height: int, width: int, count: int = 1, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


plans = st.fixed_dictionaries(
    {
        "height": st.integers(1, 200),
        "width": st.integers(1, 200),
        "halo": st.integers(0, 12),
        "multiple": st.sampled_from([1, 2, 4, 8]),
        "minimum": st.sampled_from([1, 7, 32]),
        "more_height": st.integers(0, 6),
        "more_width": st.integers(0, 6),
        "fixed_shape": st.booleans(),
    }
)


@given(plans)
@settings(deadline=None, max_examples=300)
def test_a_plan_covers_each_pixel_once_with_enough_context(case: dict[str, int]) -> None:
    height, width, halo, multiple = case["height"], case["width"], case["halo"], case["multiple"]
    rule = SizeRule(case["minimum"], multiple)
    least = smallest_tile(halo, rule)
    tile = least + case["more_height"] * multiple, least + case["more_width"] * multiple
    fixed = bool(case["fixed_shape"])
    plan = plan_tiles(height, width, *tile, halo, multiple, minimum=rule.minimum, fixed_shape=fixed)

    assert rule.allows(plan.tile_height, plan.tile_width)
    assert rule.allows(plan.padded_height, plan.padded_width)
    if fixed:
        assert (plan.tile_height, plan.tile_width) == tile
    else:
        assert (plan.padded_height, plan.padded_width) == rule.padded(height, width)
    covered = np.zeros((height, width), dtype=int)
    for t in plan.tiles:
        assert t.y % multiple == 0
        assert t.x % multiple == 0
        assert 0 <= t.y <= plan.padded_height - plan.tile_height
        assert 0 <= t.x <= plan.padded_width - plan.tile_width
        assert t.top < t.bottom
        assert t.left < t.right
        covered[t.top : t.bottom, t.left : t.right] += 1
        assert t.y == 0 or t.top - t.y >= halo
        assert t.x == 0 or t.left - t.x >= halo
        y_end, x_end = t.y + plan.tile_height, t.x + plan.tile_width
        assert t.bottom <= y_end
        assert t.right <= x_end
        assert y_end == plan.padded_height or y_end - t.bottom >= halo
        assert x_end == plan.padded_width or x_end - t.right >= halo
    assert (covered == 1).all()


@given(st.integers(20, 400), st.integers(0, 8), st.integers(0, 40))
@settings(deadline=None)
def test_a_plan_has_no_tile_too_many_and_is_even(size: int, halo: int, more: int) -> None:
    tile = 2 * halo + 1 + more
    plan = plan_tiles(size, tile, tile, tile, halo, 1)
    # n tiles reach from 0 to (n - 1) steps of at most tile - 2 halo, and the last window ends at the frame's end
    count = len(plan.tiles)
    assert count == 1 or (count - 2) * (tile - 2 * halo) + tile < size
    gaps = np.diff([t.y for t in plan.tiles])
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("halo", "rule", "least"), [(3, SizeRule(), 7), (3, SizeRule(1, 4), 12), (3, SizeRule(32), 32)]
)
def test_a_tile_that_is_too_small_is_refused_with_the_smallest(halo: int, rule: SizeRule, least: int) -> None:
    with pytest.raises(UsageError, match=f"the smallest tile is {least}x{least}"):
        plan_tiles(100, 100, least - 1, 64, halo, rule.multiple, minimum=rule.minimum)
    plan_tiles(100, 100, least, least, halo, rule.multiple, minimum=rule.minimum)


def test_a_tile_that_breaks_the_multiple_is_refused() -> None:
    with pytest.raises(UsageError, match="use 36 instead of 34"):
        plan_tiles(100, 100, 34, 36, 3, 4)


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(0, 9), st.integers(0, 9), st.sampled_from([1, 2, 4]),
    st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_tiled_equals_whole_bit_for_bit(
    height: int, width: int, more_h: int, more_w: int, stride: int, count: int, in_flight: int, give: bool, seed: int
) -> None:
    rule = SizeRule(3, stride)
    inner = ConvSession(stride=stride, in_flight=in_flight)
    least = smallest_tile(inner.halo, rule)
    frames = noise(height, width, count, seed)
    with FittedSession(ConvSession(stride=stride), rule) as whole:
        expected = whole.infer(frames)
    out = np.empty_like(expected) if give else None
    with TiledSession(inner, least + more_h * stride, least + more_w * stride, inner.halo, rule) as tiled:
        result = tiled.infer(frames, out)
    assert np.array_equal(result, expected)
    assert out is None or result is out
    assert inner.closed
    assert len(set(inner.shapes)) == 1  # all tiles have one shape


def test_a_halo_one_too_small_shows() -> None:
    frames = noise(52, 68)  # with a halo of 2, tiles of 20 are 16 apart here: no context to spare
    expected = ConvSession().infer(frames)
    for halo, equal in ((3, True), (2, False)):
        with TiledSession(ConvSession(), 20, 20, halo) as tiled:
            assert np.array_equal(tiled.infer(frames), expected) is equal


def test_windows_that_ignore_the_phase_would_show() -> None:
    frames = noise(64, 64)
    stride = ConvSession(stride=4)
    expected = stride.infer(frames)
    with TiledSession(ConvSession(stride=4), 24, 24, stride.halo, SizeRule(4, 4)) as tiled:
        assert np.array_equal(tiled.infer(frames), expected)
    with TiledSession(ConvSession(stride=4), 28, 28, stride.halo, SizeRule(4, 1)) as tiled:  # origins 0, 12, 24, 36
        assert np.array_equal(tiled.infer(frames), expected)
    with TiledSession(ConvSession(stride=4), 24, 24, stride.halo, SizeRule(4, 1)) as tiled:  # origins 0, 10, 20, ...
        assert not np.array_equal(tiled.infer(frames), expected)


def test_a_fixed_shape_engine_gets_only_its_shape_and_differs_only_near_the_padded_border() -> None:
    frames = noise(20, 50)
    expected = ConvSession().infer(frames)
    with TiledSession(ConvSession(fixed=(32, 32)), 32, 32, 3, fixed_shape=True) as tiled:
        result = tiled.infer(frames)
    assert result.shape == expected.shape
    far = 2 * (20 - 3)
    assert np.array_equal(result[:, :far], expected[:, :far])
    assert not np.array_equal(result, expected)


def test_several_frames_in_flight_of_changing_size_come_back_right() -> None:
    frames = [noise(30 + 7 * i, 40 + 3 * i, seed=i) for i in range(8)]
    expected = [ConvSession().infer(frame) for frame in frames]
    inner = ConvSession(in_flight=3)
    with TiledSession(inner, 16, 24, 3) as tiled:
        assert tiled.info.in_flight == 2
        pending: list[Pending] = []
        results = []
        for frame in frames:
            if len(pending) == tiled.info.in_flight:
                results.append(pending.pop(0).result())
            pending.append(tiled.submit(frame))
        results += [p.result() for p in pending]
    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))
    assert inner.most == 3  # the inner session was kept busy


def test_submit_blocks_while_two_frames_are_under_way() -> None:
    gate = threading.Event()

    class Gated(FakeSession):
        def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
            gate.wait(10)
            return super().submit(frames, out)

    with TiledSession(Gated(), 16, 16, 2) as tiled:
        tiled.submit(noise(20, 20))
        tiled.submit(noise(20, 20))
        third = threading.Thread(target=lambda: tiled.submit(noise(20, 20)).result(), daemon=True)
        third.start()
        time.sleep(0.1)
        assert third.is_alive()
        gate.set()
        third.join(10)
        assert not third.is_alive()


@pytest.mark.parametrize("fail_at", [0, 3, 8])
def test_an_error_in_one_tile_fails_that_frame_and_no_other(fail_at: int) -> None:
    inner = ConvSession(in_flight=2)
    inner.fail_at = fail_at
    frames = noise(40, 40)  # 3 x 3 tiles of 20 with halo 3
    expected = ConvSession().infer(frames)
    with TiledSession(inner, 20, 20, 3) as tiled:
        first, second = tiled.submit(frames), tiled.submit(frames)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the engine failed"):
                first.result()
        assert np.array_equal(second.result(), expected)
        assert np.array_equal(tiled.infer(frames), expected)


def test_an_error_in_submit_is_the_frames_error() -> None:
    class Refusing(FakeSession):
        def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
            raise ValueError("no")

    with TiledSession(Refusing(), 16, 16, 2) as tiled:
        for _ in range(4):
            with pytest.raises(ValueError, match="no"):
                tiled.infer(noise(40, 40))


def test_a_wrong_tile_is_refused_when_the_session_opens() -> None:
    with pytest.raises(UsageError, match="the smallest tile is 7x7"):
        TiledSession(ConvSession(), 6, 32, 3)


def test_close_finishes_what_was_submitted_and_refuses_more() -> None:
    tiled = TiledSession(FakeSession(delay=0.005), 16, 16, 2)
    pending = tiled.submit(noise(30, 30))
    tiled.close()
    tiled.close()
    assert pending.result().shape == (1, 60, 60, 3)
    with pytest.raises(RuntimeError, match="closed"):
        tiled.submit(noise(30, 30))


def test_warm_up_runs_one_tile() -> None:
    inner = ConvSession()
    with TiledSession(inner, 16, 24, 3) as tiled:
        tiled.warm_up((1, 100, 100, 3))
        assert inner.shapes == [(1, 16, 24, 3)]


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (5, 31), (1, 1)])
def test_fitted_pads_by_repeating_and_crops(size: tuple[int, int]) -> None:
    frames = noise(*size, count=2)
    rule = SizeRule(8, 4)
    padded = rule.padded(*size)
    grown = np.pad(frames, ((0, 0), (0, padded[0] - size[0]), (0, padded[1] - size[1]), (0, 0)), mode="edge")
    assert np.array_equal(pad_frames(frames, *padded), grown)
    expected = ConvSession(stride=4).infer(grown)[:, : 2 * size[0], : 2 * size[1]]
    with FittedSession(ConvSession(stride=4), rule) as fitted:
        for _ in range(3):  # the buffers are used again
            pending = fitted.submit(frames)
            assert np.array_equal(pending.result(), expected)
            assert pending.result() is pending.result()
        out = np.empty_like(expected)
        assert fitted.infer(frames, out) is out
        assert np.array_equal(out, expected)


def test_fitted_lets_frames_that_keep_the_rule_through_without_a_copy() -> None:
    seen: list[tuple[Frames, Frames | None]] = []

    class Watching(FakeSession):
        def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
            seen.append((frames, out))
            return super().submit(frames, out)

    frames, out = noise(16, 16), np.empty((1, 32, 32, 3), np.uint8)
    with FittedSession(Watching(), SizeRule(8, 8)) as fitted:
        fitted.infer(frames, out)
    assert seen[0][0] is frames
    assert seen[0][1] is out


# --- resized ----------------------------------------------------------------------------------------------------------


def resized(image: Frame, height: int, width: int) -> Frame:
    """As it is promised: average the axis that shrinks, then interpolate the one that grows."""
    least = min(width, image.shape[1]), min(height, image.shape[0])
    small = cv2.resize(image, least, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize("size", [(24, 40), (8, 8), (24, 8), (8, 40), (16, 40), (16, 8), (1, 1), (160, 200)])
def test_resized_goes_to_the_fixed_size_and_back(size: tuple[int, int]) -> None:
    frames = noise(*size, count=2)
    small = np.stack([resized(frame, 16, 20) for frame in frames])
    expected = np.stack([resized(image, 2 * size[0], 2 * size[1]) for image in ConvSession().infer(small)])
    inner = ConvSession(fixed=(16, 20))
    with ResizedSession(inner, (16, 20)) as session:
        session.warm_up((2, *size, 3))
        for _ in range(3):  # the buffers are used again
            pending = session.submit(frames)
            assert np.array_equal(pending.result(), expected)
            assert pending.result() is pending.result()
        out = np.empty_like(expected)
        assert session.infer(frames, out) is out
        assert np.array_equal(out, expected)
        with pytest.raises(ValueError, match="out must be a uint8 array"):  # OpenCV would make one of its own
            session.submit(frames, np.empty((2, 32, 40, 3), np.uint8))
    assert set(inner.shapes) == {(2, 16, 20, 3)}
    assert inner.closed


def test_resizing_to_the_same_size_is_a_copy() -> None:
    image, target = noise(5, 7)[0], np.zeros((5, 7, 3), np.uint8)
    resized_into(image, target)
    np.testing.assert_array_equal(target, image)


def test_shrinking_averages_and_growing_interpolates() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # nearest or cubic would give moiré, or one of the two values
    small = np.empty((64, 8, 3), np.uint8)
    resized_into(stripes, small)
    assert set(np.unique(small)) <= {127, 128}
    ramp = np.repeat(np.arange(0, 200, 25, dtype=np.uint8)[None, :, None], 3, axis=2)
    large = np.empty((1, 64, 3), np.uint8)
    resized_into(ramp, large)
    assert np.diff(large[0, 8:-8, 0].astype(int)).min() >= 2  # a ramp again, not steps of 25 with flats between
    mixed = np.empty((128, 8, 3), np.uint8)
    resized_into(stripes, mixed)
    assert set(np.unique(mixed)) <= {127, 128}


def test_resized_lets_frames_of_its_size_through_without_a_copy() -> None:
    seen: list[tuple[Frames, Frames | None]] = []

    class Watching(FakeSession):
        def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
            seen.append((frames, out))
            return super().submit(frames, out)

    frames, out = noise(16, 20), np.empty((1, 32, 40, 3), np.uint8)
    with ResizedSession(Watching(), (16, 20)) as session:
        assert session.infer(frames, out) is out
        session.infer(noise(8, 8))
    assert seen[0][0] is frames
    assert seen[0][1] is out
    assert seen[1][0].shape == (1, 16, 20, 3)


def test_resized_keeps_several_in_flight_apart_and_takes_another_size() -> None:
    inner = ConvSession(in_flight=3, fixed=(16, 20))
    batch = [noise(*size, seed=seed) for seed, size in enumerate([(24, 40)] * 5 + [(10, 12)] * 5)]
    with ResizedSession(inner, (16, 20)) as session:
        assert session.info.in_flight == 3
        alone = [session.infer(frames).copy() for frames in batch]
        pending: list[Pending] = []
        results = []
        for frames in batch:
            if len(pending) == 3:
                results.append(pending.pop(0).result())
            pending.append(session.submit(frames))
        results += [each.result() for each in pending]
    assert all(np.array_equal(found, wanted) for found, wanted in zip(results, alone, strict=True))
    assert inner.most == 3


def test_resized_passes_a_reset_on_and_resets_where_the_frames_size_changes() -> None:
    inner = FakeSession()
    with ResizedSession(inner, (16, 20)) as session:
        session.infer(noise(8, 8))
        begun = inner.resets
        session.infer(noise(8, 8))
        assert inner.resets == begun
        session.reset()
        assert inner.resets == begun + 1
        session.infer(noise(9, 8))  # the inner session sees 16x20 as before
        assert inner.resets == begun + 2


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("own", "places"),
    [(2, [0, 0, 1, 1]), (6, [1, 4]), (5, [0, 1, 3, 4]), (4, [0, 1, 2, 3])],
    ids=["grows", "shrinks", "uneven", "same"],
)
def test_resized_takes_the_nearest_pixel_of_a_map(own: int, places: list[int], axis: int) -> None:
    """What lies under the middle of each pixel, so that nothing moves to one side."""
    given, taken = ((1, side) if axis else (side, 1) for side in (own, len(places)))
    inner = FakeSession(
        codes=[Port("where", "code", "float32", ("n", 1, "h", "w"), code=Code("vector", 1, (0,), 0, 9))]
    )
    numbers = np.arange(own, dtype=np.float32).reshape(1, *given)
    with ResizedSession(inner, taken) as session:
        for said, wanted in ((numbers, places), (numbers, places), ([7], [7] * len(places)), (numbers, places)):
            session.set_code("where", said)
            session.infer(noise(*given))
            assert inner.seen[-1]["where"].shape == (1, 1, *taken)
            assert inner.seen[-1]["where"].ravel().tolist() == wanted
        with pytest.raises(UsageError, match=r"the map for where has .* pixels, but the frames have 3x3"):
            session.infer(noise(3, 3))


GEOMETRY = Geometry(2, SizeRule(), halo=3, tileable=False, fixed_size=(16, 20))


def test_a_generator_of_one_size_is_resized_or_tiled_or_refused() -> None:
    tileable, resize = replace(GEOMETRY, tileable=True), replace(GEOMETRY, fit="resize")
    for geometry in (GEOMETRY, tileable, resize):
        inner = FakeSession()
        assert fit_session(inner, geometry, 16, 20, None) is inner  # nothing to do
        with pytest.raises(UsageError, match="one size only"):
            fit_session(FakeSession(), geometry, 16, 20, 16)
    with fit_session(ConvSession(fixed=(16, 20)), tileable, 40, 50, None) as session:
        assert isinstance(session, TiledSession)
        assert np.array_equal(session.infer(noise(40, 50)), ConvSession().infer(noise(40, 50)))
    with fit_session(ConvSession(fixed=(16, 20)), resize, 40, 50, None) as session:
        assert isinstance(session, ResizedSession)
        assert session.infer(noise(40, 50)).shape == (1, 80, 100, 3)
    refused = FakeSession()
    with pytest.raises(UsageError, match=r"20x16 only and cannot be tiled.*input is 50x40: resize.*--shape 40x50"):
        fit_session(refused, GEOMETRY, 40, 50, None)
    assert refused.closed


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: FittedSession(s, SizeRule(1, 2)),
        lambda s: TiledSession(s, 16, 16, 2),
        lambda s: ResizedSession(s, (16, 16)),
    ],
    ids=["fitted", "tiled", "resized"],
)
def test_the_inner_sessions_info_is_passed_on_when_it_learns_more(wrap: Callable[[Session], Session]) -> None:
    inner = FakeSession()
    session = wrap(inner)
    inner.info = replace(inner.info, device="a CPU", threads=7)
    session.infer(noise(20, 20))
    assert (session.info.device, session.info.threads) == ("a CPU", 7)
    session.close()
    assert inner.closed
