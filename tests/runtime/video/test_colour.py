"""Flat colours go in with a known matrix and range; what comes out is compared level by level."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from runtime.video.sink import open_sink, output_color
from runtime.video.source import ColorInfo, SourceInfo, VideoFrame, matrix_for_size, open_source

COLOURS = [
    (0, 0, 255),
    (0, 255, 0),
    (255, 0, 0),
    (255, 255, 0),
    (0, 255, 255),
    (90, 30, 200),
    (201, 99, 17),
    (128, 128, 128),
]
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # Kr, Kb by H.273 matrix


def patches(index: int, width: int, height: int) -> np.ndarray:
    """Four by two flat patches."""
    image = np.empty((height, width, 3), np.uint8)
    for i, colour in enumerate(COLOURS):
        x, y = i % 4 * width // 4, i // 4 * height // 2
        image[y : y + height // 2, x : x + width // 4] = colour
    return image


def patch_errors(image: np.ndarray) -> list[float]:
    """Mean absolute error of the middle of every patch, in levels."""
    height, width = image.shape[:2]
    errors = []
    for i, colour in enumerate(COLOURS):
        x, y = (i % 4) * width // 4, (i // 4) * height // 2
        middle = image[y + 6 : y + height // 2 - 6, x + 6 : x + width // 4 - 6].astype(float)
        errors.append(float(np.abs(middle - np.array(colour)).mean(axis=(0, 1)).max()))
    return errors


def ycbcr(bgr: tuple[int, int, int], matrix: int) -> tuple[float, float, float]:
    """Limited range Y, Cb, Cr by the definition in BT.601 / BT.709."""
    kr, kb = LUMA[matrix]
    b, g, r = (value / 255 for value in bgr)
    y = kr * r + (1 - kr - kb) * g + kb * b
    return 16 + 219 * y, 128 + 112 * (b - y) / (1 - kb), 128 + 112 * (r - y) / (1 - kr)


SWS = {1: 1, 5: 5, 6: 5, 9: 9, 2: None}


def patches_by_definition(matrix: int, full: bool) -> np.ndarray:
    """``patches`` of 128 x 96 pixels as yuv420p planes, computed here and not by the library under test."""
    planes = np.empty((3, 96, 128))
    for i, colour in enumerate(COLOURS):
        x, y = i % 4 * 32, i // 4 * 48
        values = np.array(ycbcr(colour, matrix))
        if full:
            values = (values - (16, 128, 128)) * (255 / 219, 255 / 224, 255 / 224) + (0, 128, 128)
        planes[:, y : y + 48, x : x + 32] = values[:, None, None]
    levels = planes.round().clip(0, 255).astype(np.uint8)
    halves = [plane[::2, ::2].reshape(-1, 128) for plane in levels[1:]]
    return np.concatenate([levels[0], *halves])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_matrix_and_range_are_followed(tmp_path: Path, matrix: int, full: bool) -> None:
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame.from_ndarray(patches_by_definition(matrix, full), format="yuv420p")
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with open_source(str(clip)) as source:
        got = source.read()
        assert source.info.color is not None
        assert (source.info.color.matrix, source.info.color.full_range) == (matrix, full)
    assert got is not None
    assert max(patch_errors(got.image)) <= 2


def test_full_range_by_pixel_format(make_clip: Any) -> None:
    clip = make_clip(
        "clip.mov",
        size=(128, 96),
        draw=patches,
        ticks=[0, 3600],
        codec="mjpeg",
        pix_fmt="yuvj420p",
        sws_matrix=5,
        color_range=2,
        options={"qmin": "1", "qmax": "1"},
    )
    with open_source(str(clip)) as source:
        frame = source.read()
    assert frame is not None
    assert source.info.color is not None
    assert source.info.color.full_range
    assert max(patch_errors(frame.image)) <= 3


def test_ten_bits(make_clip: Any) -> None:
    clip = make_clip(size=(128, 96), draw=patches, ticks=[0, 3600], pix_fmt="yuv420p10le", matrix=1, sws_matrix=1)
    with open_source(str(clip)) as source:
        frame = source.read()
    assert frame is not None
    assert max(patch_errors(frame.image)) <= 2


@pytest.mark.parametrize(("size", "matrix"), [((128, 96), 6), ((1280, 96), 1), ((64, 720), 1)])
def test_untagged_video_is_read_by_size(make_clip: Any, size: tuple[int, int], matrix: int) -> None:
    clip = make_clip(size=size, draw=patches, ticks=[0, 3600], sws_matrix=SWS[matrix])
    with open_source(str(clip)) as source:
        frame = source.read()
        assert source.info.color is not None
        assert source.info.color.matrix == matrix == matrix_for_size(*size)
    assert frame is not None
    assert max(patch_errors(frame.image)) <= 2


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("out.mp4", (128, 96), {}),
        ("out.mp4", (1280, 720), {}),
        ("out.mp4", (127, 95), {}),
        ("out.mkv", (128, 96), {"codec": "hevc", "crf": 8}),
        ("out.webm", (128, 96), {"crf": 4}),
        ("out.webm", (127, 95), {"crf": 4}),
    ],
)
def test_round_trip(tmp_path: Path, name: str, size: tuple[int, int], settings: dict[str, Any]) -> None:
    width, height = size
    info = SourceInfo("test", width, height, Fraction(25), Fraction(1, 25))
    out = tmp_path / name
    image = patches(0, width, height)
    with open_sink(str(out), source=info, width=width, height=height, preset="ultrafast", **settings) as sink:
        for i in range(3):
            sink.write(VideoFrame(image.copy(), Fraction(i, 25), i))
    matrix = matrix_for_size(width, height)
    with av.open(str(out)) as container:
        video: Any = container.streams.video[0]
        frame = next(container.decode(video))
        assert (video.width, video.height) == size  # also odd ones: no row is added, none is lost
        assert (frame.color_range, frame.colorspace) == (1, matrix)
        assert (frame.color_primaries, frame.color_trc) == ((1, 1) if matrix == 1 else (6, 6))
        # independent of our reading: the stored luma against the definition
        plane = np.frombuffer(frame.planes[0], np.uint8).reshape(-1, frame.planes[0].line_size)
        for i, colour in enumerate(COLOURS):
            x, y = i % 4 * width // 4 + width // 8, i // 4 * height // 2 + height // 4
            assert abs(float(plane[y, x]) - ycbcr(colour, matrix)[0]) <= 2, colour
    with open_source(str(out)) as source:
        for got in source:
            assert max(patch_errors(got.image)) <= 2


def test_what_the_source_states_is_kept_and_the_rest_is_usual() -> None:
    hd, sd = (1280, 720), (640, 360)
    assert output_color(ColorInfo(9, False, 9, 16), *hd) == ColorInfo(9, False, 9, 16)
    assert output_color(ColorInfo(1, True, 2, 2), *sd) == ColorInfo(1, False, 2, 2)
    assert output_color(ColorInfo(10, False, 9, 14), *hd) == ColorInfo(9, False, 9, 14)
    assert output_color(ColorInfo(6, False, 2, 2, stated=False), *hd) == ColorInfo(1, False, 1, 1)  # it became larger
    assert output_color(ColorInfo(6, True, 9, 16, stated=False), *sd) == ColorInfo(6, False, 9, 16)
    assert output_color(ColorInfo(0, True, 2, 13), *sd) == ColorInfo(6, False, 6, 13)  # RGB
    assert output_color(None, 1920, 1080) == ColorInfo(1, False, 1, 1)
