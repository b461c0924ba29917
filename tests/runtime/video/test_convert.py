"""The fast conversions against swscale, and against the definition of YUV."""

from __future__ import annotations

from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import given
from hypothesis import strategies as st

from runtime.video.convert import LUMA, BgrTo420, limited_from_bgr, plane_of
from runtime.video.source import RANGE_FULL, RANGE_LIMITED, SWS_FLAGS, Scaler, ToBgr

USUAL = {"format": "yuv420p", "src_color_range": RANGE_FULL, "dst_color_range": RANGE_LIMITED}


def picture(width: int, height: int) -> np.ndarray:
    """A smooth picture of many colours, as video has them."""
    few = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(few, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def by_definition(colour: tuple[int, int, int], matrix: int) -> np.ndarray:
    red, blue = LUMA[matrix]
    b, g, r = (value / 255 for value in colour)
    y = red * r + (1 - red - blue) * g + blue * b
    return np.array([16 + 219 * y, 128 + 112 * (b - y) / (1 - blue), 128 + 112 * (r - y) / (1 - red)])


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), matrix=st.sampled_from(sorted(LUMA)))
def test_any_colour_becomes_what_the_standard_says(colour: tuple[int, int, int], matrix: int) -> None:
    frame = BgrTo420(4, 2, matrix)(np.full((2, 4, 3), colour, np.uint8))
    for plane, wanted in zip(frame.planes, by_definition(colour, matrix), strict=True):
        assert np.abs(plane_of(plane) - wanted).max() < 0.75  # half a level is the rounding to whole ones


@pytest.mark.parametrize("matrix", sorted(LUMA))
def test_grey_has_no_colour(matrix: int) -> None:
    weights = limited_from_bgr(matrix)
    assert weights[1:, :3].sum(axis=1).tolist() == [0, 0]
    greys = np.repeat(np.arange(256, dtype=np.uint8), 6).reshape(1, 512, 3)
    luma, *chroma = BgrTo420(512, 2, matrix)(np.repeat(greys, 2, axis=0)).planes
    assert (plane_of(luma)[0, [0, 511]] == (16, 235)).all()
    assert all((plane_of(plane) == 128).all() for plane in chroma)


@pytest.mark.parametrize("size", [(320, 180), (66, 34)])  # the second: planes whose rows have gaps between them
def test_to_420_is_what_swscale_makes_of_it(size: tuple[int, int]) -> None:
    given_frame = av.VideoFrame.from_numpy_buffer(picture(*size), format="bgr24")
    ours = Scaler()(given_frame, dst_colorspace=1, **USUAL)
    theirs = VideoReformatter().reformat(given_frame, interpolation=SWS_FLAGS, dst_colorspace=1, **USUAL)
    assert (ours.format.name, ours.width, ours.height) == ("yuv420p", *size)
    assert (ours.colorspace, ours.color_range) == (theirs.colorspace, theirs.color_range) == (1, RANGE_LIMITED)
    for plane, other, most in zip(ours.planes, theirs.planes, (1, 5, 5), strict=True):
        off = plane_of(plane).astype(int) - plane_of(other)
        assert np.abs(off).max() <= most  # chroma: swscale averages with other weights, which edges show
        assert abs(off.mean()) < 0.3


def test_each_frame_has_memory_of_its_own() -> None:
    scale, image = Scaler(), picture(64, 48)
    first = scale(av.VideoFrame.from_numpy_buffer(image, format="bgr24"), dst_colorspace=5, **USUAL)
    before = first.to_ndarray()
    scale(av.VideoFrame.from_numpy_buffer(255 - image, format="bgr24"), dst_colorspace=5, **USUAL)
    assert (first.to_ndarray() == before).all()


@pytest.mark.parametrize(
    "wanted",
    [
        {**USUAL, "dst_colorspace": 1, "width": 64, "height": 64},
        {**USUAL, "dst_colorspace": 1, "dst_color_range": RANGE_FULL},
        {**USUAL, "dst_colorspace": 1, "format": "yuv444p"},
    ],
)
def test_anything_else_is_left_to_swscale(wanted: dict[str, Any]) -> None:
    given_frame = av.VideoFrame.from_numpy_buffer(picture(128, 96), format="bgr24")
    ours = Scaler()(given_frame, **wanted)
    assert (
        ours.to_ndarray() == VideoReformatter().reformat(given_frame, interpolation=SWS_FLAGS, **wanted).to_ndarray()
    ).all()


@pytest.mark.parametrize("size", [(128, 96), (67, 35)])
@pytest.mark.parametrize(
    "name", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "nv12", "gray", "rgb24", "bgr24", "gbrp"]
)
def test_to_bgr_is_what_swscale_makes_of_it(name: str, size: tuple[int, int]) -> None:
    frame = av.VideoFrame.from_numpy_buffer(picture(*size), format="bgr24").reformat(format=name)
    frame.colorspace, frame.color_range = 1, RANGE_LIMITED
    ours = ToBgr(*size)(frame)
    yuv = {"src_colorspace": 1, "src_color_range": RANGE_LIMITED, "dst_color_range": RANGE_FULL}
    rgb = name in ("rgb24", "bgr24", "gbrp")
    theirs = VideoReformatter().reformat(frame, format="bgr24", interpolation=SWS_FLAGS, **({} if rgb else yuv))
    off = np.abs(ours.astype(int) - theirs.to_ndarray())
    assert off.max() <= 1
    assert off.mean() < 0.01
    assert ours.flags.carray
    assert not np.shares_memory(ours, plane_of(frame.planes[0]))
