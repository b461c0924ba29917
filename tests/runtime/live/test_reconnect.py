"""A source that breaks is opened again: with a source that breaks on purpose, and with real servers on loopback."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from live_servers import HttpServer, RtspServer, http_server, rtsp_encoder

from runtime.cuts import Beginnings
from runtime.errors import EndedEarlyError, VideoError
from runtime.live.open import LiveOptions, open_input
from runtime.live.reconnect import ReconnectingSource, caught_up, waits
from runtime.pipeline import run_pipeline
from runtime.sessions.fake import FakeSession
from runtime.video.sink import NullSink
from runtime.video.source import Source, SourceInfo, SourceOptions, VideoFrame

pytestmark = pytest.mark.timeout(120)


class Stream(Source):
    """``count`` frames as they are filmed, 100 a second; then the end, or ``error``."""

    def __init__(self, count: int = 3, error: Exception | None = None, size: tuple[int, int] = (8, 6)) -> None:
        self.info = SourceInfo("cam", *size, Fraction(100), Fraction(1, 90_000), live=True)
        self.warnings = []
        self._count, self._error, self._given = count, error, 0
        self.closed = False

    def read(self) -> VideoFrame | None:
        if self._given == self._count:
            if self._error is not None:
                raise self._error
            return None
        time.sleep(0.01)
        index, self._given = self._given, self._given + 1
        image = np.zeros((self.info.height, self.info.width, 3), np.uint8)
        return VideoFrame(image, Fraction(index, 100), index, captured=time.monotonic())

    def close(self) -> None:
        self.closed = True


def opening(*results: Source | Exception) -> Callable[[], Source]:
    """Gives, or raises, one after the other, and the last one for ever."""
    left = itertools.chain(results, itertools.repeat(results[-1]))

    def open_again() -> Source:
        result = next(left)
        if isinstance(result, Exception):
            raise result
        return result

    return open_again


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.live.reconnect.waits", lambda: itertools.repeat(0.05))


def test_waits_double_up_to_two_seconds() -> None:
    assert list(itertools.islice(waits(), 6)) == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [None, EndedEarlyError("cam: reset by peer")])
def test_a_gap_is_reported_and_time_goes_on(error: Exception | None) -> None:
    first, second, said = Stream(4, error), Stream(3), list[str]()
    again = opening(VideoError("refused"), VideoError("refused"), second, VideoError("refused"))
    source = ReconnectingSource(first, again, 0.3, said.append)
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    assert first.closed
    assert second.closed
    assert [frame.index for frame in frames] == list(range(5))  # the first of each may have been buffered
    assert [frame.gap for frame in frames] == [False] * 3 + [True, False]
    times = [frame.pts for frame in frames]
    assert times == sorted(set(times))
    assert all((time * 90_000).denominator == 1 for time in times)  # still ticks of the source's clock
    assert float(times[3] - times[2]) == pytest.approx(frames[3].captured - frames[2].captured, abs=0.002)
    (gap,) = source.gaps
    assert (gap.after, gap.reason) == (3, "the stream ended" if error is None else "reset by peer")
    assert 0.1 <= gap.seconds < 1
    assert any("cam: 1 gap, 0." in warning for warning in source.warnings)
    assert "did not come back within 0.3 s" in source.warnings[-1]  # the second one ended by itself too
    assert "is lost" in said[0]
    assert "is back after" in said[1]


@pytest.mark.usefixtures("quick")
def test_a_source_that_stays_away_ends_early() -> None:
    source = ReconnectingSource(Stream(3, VideoError("unplugged")), opening(VideoError("no camera")), 0.2)
    assert [source.read().index for _ in range(2)] == [0, 1]
    with pytest.raises(EndedEarlyError, match=r"cam: lost after frame 2 .*: unplugged; .* within 0\.2 s"):
        source.read()


@pytest.mark.usefixtures("quick")
def test_it_may_come_back_smaller_and_break_again() -> None:
    streams = [Stream(2, VideoError("x"), (16, 12)) for _ in range(3)]
    source = ReconnectingSource(Stream(2, VideoError("x")), opening(*streams), 5)
    frames = [source.read() for _ in range(4)]
    assert {frame.image.shape for frame in frames} == {(6, 8, 3)}
    assert len(source.gaps) == 3
    assert len([w for w in source.warnings if "scaled to 8x6" in w]) == 1
    assert len([w for w in source.warnings if "3 gaps" in w]) == 1


def test_one_that_breaks_again_and_again_is_given_time() -> None:
    at: list[float] = []

    def open_again() -> Source:
        at.append(time.monotonic())
        return Stream(2, VideoError("x"))

    source, begin = ReconnectingSource(Stream(2, VideoError("x")), open_again, 60), time.monotonic()
    for _ in range(3):
        assert source.read() is not None
    # a quarter of a second after the first loss, half a second after the second
    assert at[0] - begin >= 0.25
    assert 0.5 <= at[1] - at[0] < 2


def test_the_wait_for_it_is_interrupted() -> None:
    source = ReconnectingSource(Stream(0, VideoError("x")), opening(VideoError("refused")), 60)
    threading.Timer(0.1, source.interrupt).start()
    begin = time.monotonic()
    assert source.read() is None
    assert time.monotonic() - begin < 2


def test_what_was_buffered_is_read_past() -> None:
    class Bursting(Stream):
        def read(self) -> VideoFrame | None:
            frame = super().read()
            if frame is not None:
                frame.pts = Fraction(frame.index, 5)  # 20 times as fast as it was filmed
                if frame.index == 4:
                    time.sleep(0.15)
            return frame

    assert caught_up(Bursting(9)).index == 4
    assert caught_up(Bursting(0)) is None
    assert caught_up(Bursting(1)) is None


def test_a_recording_that_ends_is_not_played_again() -> None:
    class Recording(Stream):
        def read(self) -> VideoFrame | None:
            frame = super().read()
            if frame is not None:
                frame.pts *= 1000
            return frame

    source = ReconnectingSource(Recording(4), opening(AssertionError("opened again")), 60)
    assert len(list(source)) == 3


# --- real servers -----------------------------------------------------------------------------------------------------


def goes_through_a_restart(address: str, server: HttpServer | RtspServer, away: float = 1.0) -> None:
    """Run the pipeline on it while the server stops and starts; frames come again within three seconds."""
    arrived: list[tuple[float, Fraction]] = []

    class Sink(NullSink):
        def write(self, frame: VideoFrame) -> None:
            super().write(frame)
            arrived.append((time.monotonic(), frame.pts))

    stop, started = threading.Event(), []

    def restart() -> None:
        while len(arrived) < 10:
            time.sleep(0.01)
        server.stop()
        time.sleep(away)
        server.start()
        started.append(time.monotonic())
        while arrived[-1][0] < started[0]:
            time.sleep(0.01)
        time.sleep(0.5)
        stop.set()

    with open_input(address, SourceOptions(timeout=5), LiveOptions()) as source:
        assert source.info.live
        session, begins = FakeSession(1), Beginnings(at_cuts=False)
        threading.Thread(target=restart, daemon=True).start()
        report = run_pipeline(
            source, [session], Sink(source.info.width, source.info.height), stop=stop, begins=begins, newest=True
        )
        (gap,) = source.gaps
        assert any("1 gap" in warning for warning in source.warnings)
    back = next(at for at, _ in arrived if at > started[0])
    assert back - started[0] < 3.0
    assert gap.seconds >= away - 0.5
    assert (session.resets, begins.gaps) == (1, 1)
    times = [pts for _, pts in arrived]
    assert times == sorted(set(times))
    assert times[0] == 0
    assert float(times[-1]) == pytest.approx(arrived[-1][0] - arrived[0][0], abs=1.0)  # the clock on the wall
    # what was buffered while FFmpeg looked at the stream is not shown late
    assert report.latency["capture"].p50_ms < 100


@pytest.fixture(scope="module")
def http() -> Iterator[HttpServer]:
    with http_server() as server:
        yield server


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("name", ["stream.ts", "stream.mjpg"])
def test_an_http_server_that_restarts(http: HttpServer, name: str) -> None:
    before = open_files()
    goes_through_a_restart(http.address(name), http)
    deadline = time.monotonic() + 5
    while open_files() > before and time.monotonic() < deadline:  # the server's side closes a little later
        time.sleep(0.05)
    assert open_files() <= before


def test_an_rtsp_server_that_restarts() -> None:
    encoder = rtsp_encoder()
    if encoder is None:
        pytest.skip("no GStreamer RTSP server here (gir1.2-gst-rtsp-server-1.0, python3-gi and an H.264 encoder)")
    server = RtspServer(encoder)
    server.start()
    try:
        goes_through_a_restart(server.address, server)
    finally:
        server.stop()


def test_an_rtsp_server_that_freezes_counts_as_lost() -> None:
    encoder = rtsp_encoder()
    if encoder is None:
        pytest.skip("no GStreamer RTSP server here (gir1.2-gst-rtsp-server-1.0, python3-gi and an H.264 encoder)")
    server = RtspServer(encoder)
    server.start()
    try:
        options = SourceOptions(timeout=1.0, silence=0.5)
        with open_input(server.address, options, LiveOptions(reconnect=1)) as source:
            assert source.read() is not None
            server.freeze()
            with pytest.raises(EndedEarlyError, match="no frame came in time; it did not come back within 1 s"):
                list(source)
    finally:
        server.stop()
