"""Live outputs: real receivers on loopback, slow ones, lost ones, and none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from live_servers import SYSTEM_PYTHON, RtspRecorder, free_port, picture, rtsp_encoder

from runtime.cli import run
from runtime.errors import MissingExtraError, VideoError
from runtime.video import stream
from runtime.video.sink import Sink, open_sink
from runtime.video.source import SourceInfo, VideoFrame
from runtime.video.stream import SLOTS, pipeline_of

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).resolve().parents[3]
LIVE = SourceInfo("test", 64, 48, Fraction(30), Fraction(1, 30), live=True)
FORMATS = {"udp": "mpegts", "tcp": "mpegts", "rtmp": "flv"}


def frame(index: int, rate: int = 30) -> VideoFrame:
    return VideoFrame(picture(index), Fraction(index, rate), index)


def opened(address: str, info: SourceInfo = LIVE, **settings: Any) -> Sink:
    return open_sink(address, source=info, width=info.width, height=info.height, **settings)


def paced(sink: Sink, indices: range, rate: int = 30) -> float:
    """Write frames at their times; returns the longest time that one took, in seconds."""
    begin, longest = time.monotonic(), 0.0
    for number, index in enumerate(indices):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        before = time.monotonic()
        sink.write(frame(index, rate))
        longest = max(longest, time.monotonic() - before)
    return longest


def differs(image: np.ndarray, index: int) -> float:
    return float(np.abs(image.astype(int) - picture(index)).mean())


class Receiver:
    """Takes one stream, by FFmpeg, in a thread."""

    def __init__(self, scheme: str) -> None:
        self.address = f"{scheme}://127.0.0.1:{free_port()}" + ("/live/key" if scheme == "rtmp" else "")
        self.images: list[np.ndarray] = []
        self.times: list[float] = []
        self.codec = ""
        self._scheme = scheme
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        place = self.address + ("?listen=1" if self._scheme == "tcp" else "")
        silence = (60, 3 if self._scheme == "udp" else 20)  # seconds; others are told when the sender has gone
        options = {"analyzeduration": "200000", "probesize": "50000"}
        if self._scheme == "rtmp":
            options["listen"] = "1"
        try:
            with av.open(place, format=FORMATS[self._scheme], options=options, timeout=silence) as container:
                video = container.streams.video[0]
                self.codec = video.codec_context.name
                for decoded in container.decode(video):
                    self.images.append(decoded.to_ndarray(format="bgr24"))
                    self.times.append(float(decoded.time))
        except av.FFmpegError:
            pass  # the sender has hung up

    def join(self) -> None:
        self._thread.join(40)
        assert not self._thread.is_alive()


def open_when_it_listens(address: str) -> Sink:
    """The receiver's thread needs a moment until it listens, which nothing tells."""
    end = time.monotonic() + 20
    while True:
        try:
            return opened(address)
        except VideoError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


# --- what arrives ---


@pytest.mark.parametrize("scheme", ["udp", "tcp", "rtmp"])
def test_frames_arrive_in_order_with_their_times(scheme: str) -> None:
    receiver = Receiver(scheme)
    time.sleep(0.5 if scheme == "udp" else 0.2)
    with open_when_it_listens(receiver.address) as sink:
        paced(sink, range(5, 35))
    receiver.join()
    assert (sink.frames_written, list(sink.gaps)) == (30, [])
    assert sink.dropped < 10  # none but on a machine that is busy with other things
    assert receiver.codec == "h264"
    assert len(receiver.images) == 30 - sink.dropped
    first = min(range(5, 15), key=lambda index: differs(receiver.images[0], index))
    for image, shown in zip(receiver.images, receiver.times, strict=True):
        index = (shown - receiver.times[0]) * 30
        assert index == pytest.approx(round(index), abs=0.03)
        assert differs(image, first + round(index)) < 3


def test_a_file_goes_out_at_its_own_speed_and_without_sound() -> None:
    port = free_port()
    info = SourceInfo("clip.mp4", 64, 48, Fraction(25), Fraction(1, 25), frame_count=11, audio=("aac",))
    with opened(f"udp://127.0.0.1:{port}", info) as sink:
        begin = time.monotonic()
        for index in range(11):
            sink.write(frame(index, 25))
        assert time.monotonic() - begin >= 0.4 - 0.02
    assert sink.warnings[0] == f"udp://127.0.0.1:{port}: without sound: a live output has pictures only"


# --- receivers that are slow, lost or absent ---


def test_nobody_there_is_one_sentence() -> None:
    address = f"rtsp://user:secret@127.0.0.1:{free_port()}/live"
    with pytest.raises(VideoError, match=r"^rtsp://user:…@127\.0\.0\.1:\d+/live cannot be opened: Connection refused$"):
        opened(address)


@contextmanager
def deaf_server() -> Iterator[tuple[str, list[socket.socket]]]:
    """Accepts connections and reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}", accepted
        server.shutdown(socket.SHUT_RDWR)  # else the thread accepts one more
        for connection in accepted:
            connection.close()


def test_a_receiver_that_reads_nothing_never_holds_the_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STALL", 1.0)
    info = SourceInfo("test", 640, 480, Fraction(30), Fraction(1, 30), live=True)
    random, said = np.random.default_rng(0), []
    noise = [random.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(2)]
    with deaf_server() as (address, connections):
        sink = opened(address, info, crf=1, preset="ultrafast", say=said.append)
        longest, index, end = 0.0, 0, time.monotonic() + 20
        while not said and time.monotonic() < end:  # until the buffers on the way are full
            before = time.monotonic()
            sink.write(VideoFrame(noise[index % 2], Fraction(index, 30), index))
            longest = max(longest, time.monotonic() - before)
            index += 1
            time.sleep(0.01)
        begin = time.monotonic()
        sink.abort()
        assert time.monotonic() - begin < 3
    assert "is lost (it does not answer): trying again" in said[0]
    assert connections
    assert longest < 0.5  # a process is ended and another begun; nothing waits for the network
    assert sink.dropped > SLOTS
    assert [gap.reason for gap in sink.gaps] == ["it does not answer"]


def test_a_receiver_that_stays_away_is_an_error_in_time() -> None:
    said: list[str] = []
    with deaf_server() as (address, connections):
        sink = opened(address, reconnect=1, say=said.append)
        sink.write(frame(0))
        while not connections:
            time.sleep(0.01)
        port = int(address.rpartition(":")[2])
    connections[0].close()
    begin = time.monotonic()
    with pytest.raises(VideoError, match=rf"^tcp://127\.0\.0\.1:{port}: lost after \d+ frames: .*within 1 s$"):
        paced(sink, range(1, 600))
    assert 1 <= time.monotonic() - begin < 6
    sink.abort()
    assert sink.dropped > 0
    assert len(said) == 1


def test_without_reconnect_the_first_loss_is_the_end() -> None:
    with deaf_server() as (address, connections):
        sink = opened(address, reconnect=0)
        while not connections:
            time.sleep(0.01)
    connections[0].close()
    with pytest.raises(VideoError, match="lost after"):
        paced(sink, range(200))
    sink.abort()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[tuple[RtspRecorder, Path]]:
    if rtsp_encoder() is None:
        pytest.skip("no GStreamer RTSP server here")
    file = tmp_path / "pushed.h264"
    server = RtspRecorder(file)
    server.start()
    yield server, file
    server.stop()


def recorded(file: Path) -> list[np.ndarray]:
    with av.open(str(file), format="h264") as container:
        return [decoded.to_ndarray(format="bgr24") for decoded in container.decode(video=0)]


def test_rtsp_push_survives_a_restarted_server(recorder: tuple[RtspRecorder, Path]) -> None:
    server, file = recorder
    said: list[str] = []
    with opened(server.address, say=said.append) as sink:
        paced(sink, range(30))
        server.stop()
        first = recorded(file)
        paced(sink, range(30, 45))
        file.unlink()
        server.start()
        begin, index = time.monotonic(), 45
        while len(said) < 2 and time.monotonic() < begin + 20:
            paced(sink, range(index, index + 6))
            index += 6
        back = time.monotonic() - begin
        paced(sink, range(index, index + 15))
    deadline = time.monotonic() + 5
    while len(second := recorded(file)) < 10 and time.monotonic() < deadline:
        time.sleep(0.1)  # the server writes what it has received
    assert len(first) >= 20
    assert differs(first[0], 0) < 3
    assert min(differs(second[-1], number) for number in range(index, index + 15)) < 3
    assert "is lost" in said[0]
    assert "is back after" in said[1]
    assert back < 6
    assert len(sink.gaps) == 1
    assert sink.gaps[0].seconds == pytest.approx(back + 0.5, abs=1.5)
    assert 10 <= sink.dropped < index
    assert any("1 gap, " in warning for warning in sink.warnings)


# --- processes ---


def children() -> set[int]:
    place = Path(f"/proc/self/task/{os.getpid()}/children")
    if not place.exists():
        pytest.skip("this system does not tell a process's children")
    return set(map(int, place.read_text().split()))


def test_no_process_is_left_behind() -> None:
    before = children()
    sink = opened(f"udp://127.0.0.1:{free_port()}")
    sink.write(frame(0))
    assert len(children() - before) == 1
    sink.close()
    sink.close()
    assert children() == before
    with pytest.raises(VideoError, match="takes no more frames"):
        sink.write(frame(1))


KILLED = """
import sys
import time
from fractions import Fraction
import numpy as np
from runtime.video import stream
from runtime.video.sink import open_sink
from runtime.video.source import SourceInfo, VideoFrame
info = SourceInfo("test", 640, 480, Fraction(30), Fraction(1, 30), live=True)
stream.LOST, stream.STALL = 2, 1000.0
sink = open_sink(sys.argv[1], source=info, width=640, height=480, crf=1, preset="ultrafast")
print(sink._link._process.pid, flush=True)
noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
for index in range(int(sys.argv[2])):  # until nothing goes through any longer
    while not sink._link.write(VideoFrame(np.roll(noise, index, 0), Fraction(index, 30), index)):
        if sink._link.moved + 1 < time.monotonic():
            break
print("full", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("stuck", [False, True])
def test_the_process_that_sends_ends_with_the_one_it_serves(stuck: bool) -> None:
    """Also amid a call that does not return, to a server that reads nothing."""
    with deaf_server() as (address, _):
        command = [sys.executable, "-c", KILLED, address, "100" if stuck else "0"]
        owner = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        sender = int(owner.stdout.readline())
        assert owner.stdout.readline() == "full\n"
        owner.send_signal(signal.SIGKILL)
        owner.communicate()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and _runs(sender):
            time.sleep(0.05)
        assert not _runs(sender)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- GStreamer and virtual cameras ---


def test_pipelines_begin_with_our_frames() -> None:
    assert pipeline_of("x264enc ! udpsink") == "appsrc ! videoconvert ! x264enc ! udpsink"
    assert pipeline_of(" ! fakesink ") == "appsrc ! videoconvert ! fakesink"
    assert pipeline_of("appsrc is-live=true ! fakesink") == "appsrc is-live=true ! fakesink"


def test_gstreamer_that_opencv_has_not(capfd: pytest.CaptureFixture[str]) -> None:
    import cv2

    if "GStreamer:                   NO" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(VideoError, match=r"^gst:fakesink cannot be opened: it needs an OpenCV with GStreamer"):
        opened("gst:fakesink")


PIPELINE = """
import sys
from fractions import Fraction
import numpy as np
from runtime.errors import VideoError
from runtime.video.sink import open_sink
from runtime.video.source import SourceInfo, VideoFrame
info = SourceInfo("test", 64, 48, Fraction(25), Fraction(1, 25), frame_count=10)
try:
    with open_sink(sys.argv[1], source=info, width=64, height=48) as sink:
        for index in range(10):
            sink.write(VideoFrame(np.full((48, 64, 3), 20 * index, np.uint8), Fraction(index, 25), index))
    print(sink.frames_written, sink.dropped)
except VideoError as error:
    print(error)
"""


def by_system_python(address: str) -> str:
    """Ten frames to a pipeline, through the OpenCV of the system, which has GStreamer where it is installed."""
    look = "import cv2; print('GStreamer:                   YES' in cv2.getBuildInformation())"
    try:
        found = subprocess.run([SYSTEM_PYTHON, "-c", look], capture_output=True, text=True, check=False)
    except OSError:
        pytest.skip("no Python of the system")
    if found.stdout.strip() != "True":
        pytest.skip("no OpenCV with GStreamer here")
    command = [SYSTEM_PYTHON, "-c", PIPELINE, address]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_gstreamer_gets_the_frames(tmp_path: Path) -> None:
    written, dropped = map(int, by_system_python(f"gst:pngenc ! multifilesink location={tmp_path}/%02d.png").split())
    files = sorted(tmp_path.glob("*.png"))
    assert written == 10
    assert len(files) == 10 - dropped
    assert dropped < 6
    import cv2

    values = [float(cv2.imread(str(file)).mean()) for file in files]
    assert values[0] == pytest.approx(0, abs=2)
    assert values == sorted(values)


def test_a_pipeline_that_cannot_be_says_how_to_look_for_the_fault() -> None:
    said = by_system_python("gst:no_such_element ! fakesink")
    assert said.startswith("gst:no_such_element ! fakesink cannot be opened: ")
    assert "\n" not in said


class FakeCamera:
    """A backend for pyvirtualcam, as its documentation describes one."""

    made: list[FakeCamera]

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None) -> None:
        if device not in (None, "/dev/fake"):
            raise RuntimeError(f"Device {device} does not exist.")
        self.size, self.fps, self.closed = (width, height), fps, False
        self.frames: list[np.ndarray] = []
        self.made.append(self)

    def device(self) -> str:
        return "/dev/fake"

    def native_fourcc(self) -> int | None:
        return None

    def send(self, frame: np.ndarray) -> None:
        if len(self.frames) == 5:
            raise RuntimeError("the device is gone")
        self.frames.append(frame.copy())

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake_camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    pyvirtualcam = pytest.importorskip("pyvirtualcam")
    from pyvirtualcam.camera import BACKENDS

    monkeypatch.setattr(FakeCamera, "made", [], raising=False)
    for name in list(BACKENDS):
        monkeypatch.delitem(BACKENDS, name)
    monkeypatch.setitem(BACKENDS, "fake", None)  # taken back at the end
    pyvirtualcam.register_backend("fake", FakeCamera)
    return FakeCamera


def test_a_virtual_camera_gets_every_frame(fake_camera: type[FakeCamera]) -> None:
    with opened("vcam:///dev/fake") as sink:
        for index in range(4):
            sink.write(frame(index))
    (camera,) = fake_camera.made
    assert (camera.size, camera.fps, camera.closed) == ((64, 48), 30, True)
    assert [np.array_equal(image, picture(index).ravel()) for index, image in enumerate(camera.frames)] == [True] * 4
    assert sink.frames_written == 4


def test_a_virtual_camera_that_is_lost_or_absent(fake_camera: type[FakeCamera]) -> None:
    sink = opened("vcam://")
    for index in range(5):
        sink.write(frame(index))
    with pytest.raises(VideoError, match="the virtual camera /dev/fake takes no more frames: the device is gone"):
        sink.write(frame(5))
    sink.abort()
    assert fake_camera.made[0].closed
    with pytest.raises(VideoError, match=r"Device /dev/other does not exist.*load v4l2loopback"):
        opened("vcam:///dev/other")


def test_a_virtual_camera_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(MissingExtraError, match=r'pip install "genedge\[vcam\]"'):
        opened("vcam://")


# --- the command line ---


def test_a_run_to_a_stream_tells_what_it_left_out(tmp_path: Path, make_clip: Any) -> None:
    import json

    from bundle_factory import write_small_bundle

    receiver = Receiver("tcp")
    time.sleep(0.5)
    bundle, clip = write_small_bundle(tmp_path / "tiny-x2"), make_clip(ticks=[i * 3600 for i in range(12)])
    report = tmp_path / "r.json"
    arguments = ["run", "-b", str(bundle), "-i", str(clip), "-o", receiver.address, "--json", str(report), "--quiet"]
    assert run(arguments) == 0
    receiver.join()
    told = json.loads(report.read_text())["output"]
    dropped = told.pop("dropped")
    assert told == {"uri": receiver.address, "width": 128, "height": 96, "encoder": "libx264", "gaps": []}
    assert len(receiver.images) == 12 - dropped
    assert receiver.images[0].shape == (96, 128, 3)


def test_deid_sends_covered_frames_only(tmp_path: Path, assets: Any) -> None:
    clip = assets("video/short_hamilton_clip.mp4")
    receiver = Receiver("tcp")
    common = ["deid", "-i", str(clip), "--max-frames", "8", "--quiet", "--method", "solid"]
    assert run([*common, "-o", str(tmp_path / "covered_%03d.png")]) == 0
    assert run([*common, "-o", receiver.address, "--crf", "8"]) == 0
    receiver.join()
    import cv2

    assert receiver.images
    covered = [cv2.imread(str(path)) for path in sorted(tmp_path.glob("covered_*.png"))]
    for image in receiver.images:  # each is one of the covered frames, and none the original
        assert min(np.abs(image.astype(int) - known).mean() for known in covered) < 4
