"""Clips for the video tests: real ones from the assets, and small ones with known times and colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from runtime.video.sink import open_sink
from runtime.video.source import open_source


def _picture(index: int, width: int, height: int) -> np.ndarray:
    """A grey ramp with a bright bar that moves: every frame differs."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(40, 160, width, dtype=np.uint8)[None, :, None]
    left = index * 3 % width
    image[:, left : left + 4] = 230
    return image


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """Write a clip with frames at the given ticks; returns its path."""

    def make(
        name: str = "clip.mp4",
        ticks: list[int] | None = None,
        time_base: Fraction = Fraction(1, 90_000),
        size: tuple[int, int] = (64, 48),
        draw: Callable[[int, int, int], np.ndarray] = _picture,
        codec: str = "libx264",
        pix_fmt: str = "yuv420p",
        matrix: int | None = None,
        color_range: int | None = None,
        rotate: tuple[float, bool] | None = None,
        options: dict[str, str] | None = None,
        format: str | None = None,
        container_options: dict[str, str] | None = None,
        sws_matrix: int | None = None,
        sample_aspect: Fraction | None = None,
    ) -> Path:
        path = tmp_path / name
        width, height = size
        ticks = [i * 3600 for i in range(10)] if ticks is None else ticks
        with av.open(str(path), "w", format=format, options=container_options or {}) as out:
            stream: Any = out.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.time_base = stream.codec_context.time_base = time_base
            stream.options = options if options is not None else {"crf": "4", "preset": "ultrafast"}
            if matrix is not None:
                stream.codec_context.colorspace = matrix
            if color_range is not None:
                stream.codec_context.color_range = color_range
            if sample_aspect is not None:
                stream.codec_context.sample_aspect_ratio = sample_aspect
            if rotate is not None:
                stream.set_display_rotation(rotate[0], hflip=rotate[1])
            for index, tick in enumerate(ticks):
                frame = av.VideoFrame.from_ndarray(draw(index, width, height), format="bgr24")
                frame = frame.reformat(
                    format=pix_fmt,
                    dst_colorspace=sws_matrix,
                    src_color_range=2,
                    dst_color_range=color_range or 1,
                    interpolation=0x2 | 0x40000 | 0x2000,
                )
                frame.pts, frame.time_base = tick, time_base
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        return path

    return make


def _packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """(time in seconds, bytes) of every packet of the first track of a kind."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def _frame_times(path: Path) -> list[Fraction]:
    """Presentation times of the video frames in seconds, in order."""
    return sorted(time for time, _ in _packets(path, "video"))


def _remuxed(path: Path, to: Path, **options: str) -> Path:
    """The same packets in another file, e.g. with the index in front (``movflags="faststart"``)."""
    with av.open(str(path)) as source, av.open(str(to), "w", options=options) as out:
        streams = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return to


def _copy_clip(source: Path, to: Path, frames: int | None = None, **settings: Any) -> list[Fraction]:
    """Run a clip through our source and sink; with ``frames``, abort after so many. Returns the frames' pts."""
    times = []
    with open_source(str(source)) as reader:
        info = reader.info
        sink = open_sink(str(to), source=info, width=info.width, height=info.height, **settings)
        for frame in reader:
            times.append(frame.pts)
            sink.write(frame)
            if len(times) == frames:
                sink.abort()
                return times
        sink.close()
    return times


@pytest.fixture
def packets() -> Callable[..., list[tuple[Fraction, bytes]]]:
    return _packets


@pytest.fixture
def frame_times() -> Callable[[Path], list[Fraction]]:
    return _frame_times


@pytest.fixture
def remuxed() -> Callable[..., Path]:
    return _remuxed


@pytest.fixture
def copy_clip() -> Callable[..., list[Fraction]]:
    return _copy_clip


@pytest.fixture(autouse=True)
def _nothing_half_written(tmp_path: Path) -> Iterator[None]:
    """No test may leave a temporary file of a sink behind."""
    yield
    assert not list(tmp_path.rglob(".*.part*"))
