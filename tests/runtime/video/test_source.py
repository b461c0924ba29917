from __future__ import annotations

import http.server
import threading
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from runtime.errors import EndedEarlyError, UsageError, VideoError
from runtime.video.source import (
    CameraSource,
    Orientation,
    SourceOptions,
    SourceTimeoutError,
    natural_key,
    open_source,
)


def read_all(path: Path, **options: Any) -> list[Any]:
    with open_source(str(path), options=SourceOptions(**options)) as source:
        return list(source)


def test_frames_of_a_real_clip(assets: Any) -> None:
    with open_source(str(assets("video/carphone_pristine.mp4"))) as source:
        info = source.info
        assert (info.width, info.height, info.rate) == (176, 144, Fraction(30_000, 1001))
        assert (info.frame_count, info.live, info.start, info.codec) == (120, False, 0, "h264")
        frames = list(source)
        assert source.read() is None
        assert source.warnings == []
    assert [frame.index for frame in frames] == list(range(120))
    assert all(frame.duration == Fraction(1001, 30_000) for frame in frames)
    for frame in frames[:3]:
        assert frame.image.shape == (144, 176, 3)
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.image.flags.writeable
    kept = frames[0].image.copy()
    frames[1].image[:] = 0
    assert np.array_equal(frames[0].image, kept)  # every frame has memory of its own


def test_width_that_is_no_multiple_of_the_alignment(make_clip: Any) -> None:
    clip = make_clip(size=(50, 38))
    frames = read_all(clip)
    assert frames[0].image.shape == (38, 50, 3)
    assert frames[0].image.flags.c_contiguous
    assert abs(int(frames[0].image[20, 2, 0]) - 230) < 12  # the bar of the first frame is at the left
    assert abs(int(frames[0].image[20, 45, 0]) - 150) < 12


# --- orientation ---

CORNERS = {(0, 0): (255, 0, 0), (0, 1): (0, 255, 0), (1, 0): (0, 0, 255), (1, 1): (255, 255, 255)}


def corners(index: int, width: int, height: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for (row, column), colour in CORNERS.items():
        image[row * height // 2 :, column * width // 2 :][: height // 2, : width // 2] = colour
    return image


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(make_clip: Any, degrees: int, flip: bool) -> None:
    clip = make_clip(size=(64, 48), draw=corners, rotate=(degrees, flip))  # counterclockwise, then the mirror
    with open_source(str(clip)) as source:
        frame = source.read()
        assert frame is not None
        assert (source.info.height, source.info.width) == frame.image.shape[:2]
    drawn = corners(0, 64, 48)
    expected = np.rot90(drawn, degrees // 90)
    expected = expected[:, ::-1] if flip else expected
    assert frame.image.shape == expected.shape
    assert np.abs(frame.image.astype(int) - expected).mean() < 6  # edges blur by chroma subsampling
    assert source.info.rotation == -degrees % 360


def test_orientation_knows_all_eight() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for transpose in (False, True):
        for mirror_x in (False, True):
            for mirror_y in (False, True):
                expected = image.transpose(1, 0, 2) if transpose else image
                expected = expected[:, ::-1] if mirror_x else expected
                expected = expected[::-1] if mirror_y else expected
                orientation = Orientation(transpose, mirror_x, mirror_y)
                assert np.array_equal(orientation.apply(image), expected)
                assert orientation.size(3, 2) == expected.shape[1::-1]


def test_output_of_a_rotated_clip_is_upright(tmp_path: Path, make_clip: Any, copy_clip: Any) -> None:
    clip = make_clip(draw=corners, rotate=(90, False), sample_aspect=Fraction(4, 3))
    copy_clip(clip, tmp_path / "out.mp4")
    with open_source(str(tmp_path / "out.mp4")) as again:
        assert (again.info.width, again.info.height, again.info.rotation) == (48, 64, 0)
        assert again.info.sample_aspect == Fraction(3, 4)


# --- bad input ---


def broken(tmp_path: Path, assets: Any, remuxed: Any, share: float = 0.6, name: str = "bikes.mp4") -> Path:
    whole = remuxed(assets(f"video/{name}"), tmp_path / f"whole_{name}", movflags="faststart")
    clip = tmp_path / name
    data = whole.read_bytes()
    clip.write_bytes(data[: int(len(data) * share)])
    return clip


@pytest.mark.parametrize("name", ["bikes.mp4", "short_hamilton_clip.mp4"])
def test_truncated_file_gives_its_frames_then_says_so(tmp_path: Path, assets: Any, remuxed: Any, name: str) -> None:
    clip = broken(tmp_path, assets, remuxed, name=name)
    whole = {frame.pts: frame.image for frame in read_all(tmp_path / f"whole_{name}")}
    frames: list[Any] = []
    with open_source(str(clip)) as source:
        with pytest.raises(EndedEarlyError) as caught:
            frames.extend(iter(source))
        with pytest.raises(EndedEarlyError):
            source.read()  # it does not turn into an ordinary end
    assert 0.4 * len(whole) < len(frames) < 0.7 * len(whole)
    assert all(np.array_equal(frame.image, whole[frame.pts]) for frame in frames)  # nothing half-decoded
    assert f"broke off after frame {len(frames)} of {len(whole)} (" in str(caught.value)


def test_truncated_matroska(tmp_path: Path, assets: Any) -> None:
    data = assets("video/asl_book.mkv").read_bytes()
    clip = tmp_path / "cut.mkv"
    clip.write_bytes(data[: len(data) * 6 // 10])
    with open_source(str(clip)) as source, pytest.raises(EndedEarlyError, match="broke off after frame"):
        list(source)


def test_garbage_in_the_middle_ends_or_warns(tmp_path: Path, assets: Any) -> None:
    data = bytearray(assets("video/bikes.mp4").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 30_000] = bytes(30_000)
    clip = tmp_path / "hole.mp4"
    clip.write_bytes(bytes(data))
    count = 0
    with open_source(str(clip)) as source:
        try:
            for _ in source:
                count += 1
        except EndedEarlyError:
            assert count > 50
        else:
            assert any("damaged" in warning for warning in source.warnings)


def test_index_missing(tmp_path: Path, assets: Any) -> None:
    data = assets("video/bikes.mp4").read_bytes()
    clip = tmp_path / "cut.mp4"
    clip.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"cannot be opened as video: .*\(is it complete\?\)"):
        open_source(str(clip))


def test_files_that_are_no_video(tmp_path: Path, assets: Any) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("<html>404 not found</html>\n" * 50)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(VideoError, match="cannot be opened as video"):
        open_source(str(text))
    with pytest.raises(VideoError, match="is empty"):
        open_source(str(empty))
    with pytest.raises(VideoError, match="does not exist"):
        open_source(str(tmp_path / "none.mp4"))
    sound = tmp_path / "sound.mp4"
    with av.open(str(assets("video/bigbuckbunny.mp4"))) as source, av.open(str(sound), "w") as out:
        audio = source.streams.audio[0]
        copied = out.add_stream_from_template(audio)
        for packet in source.demux(audio):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
    with pytest.raises(VideoError, match="no video track, only audio"):
        open_source(str(sound))


@pytest.mark.parametrize(
    ("name", "reason"), [("none.mkv", "cannot be opened as video"), ("none.mp4", "no video track")]
)
def test_header_without_frames(tmp_path: Path, make_clip: Any, name: str, reason: str) -> None:
    clip = tmp_path / name
    with av.open(str(make_clip())) as source, av.open(str(clip), "w") as out:
        out.add_stream_from_template(source.streams.video[0])
        out.start_encoding()
    with pytest.raises(VideoError, match=reason):
        open_source(str(clip))


def test_no_frame_that_can_be_decoded(tmp_path: Path, make_clip: Any) -> None:
    clip = tmp_path / "none.mp4"
    with av.open(str(make_clip())) as source, av.open(str(clip), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for index in range(5):
            packet: Any = av.Packet(bytes(100))
            packet.pts = packet.dts = index
            packet.time_base = Fraction(1, 25)
            packet.stream = stream
            out.mux(packet)
    with pytest.raises(VideoError, match="no video frame"):
        open_source(str(clip))


def test_frames_that_change_size(tmp_path: Path) -> None:
    clip = tmp_path / "sizes.mjpeg"
    pictures = [np.full((48 + 16 * (i > 2), 64, 3), 40 * i, np.uint8) for i in range(6)]
    clip.write_bytes(b"".join(cv2.imencode(".jpg", image)[1].tobytes() for image in pictures))
    with open_source(str(clip)) as source:
        frames = list(source)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 6
    assert any("3 frames had another size" in warning for warning in source.warnings)


# --- network, cameras ---


def test_http_and_silent_server(tmp_path: Path, assets: Any, remuxed: Any) -> None:
    folder = remuxed(assets("video/carphone_pristine.mp4"), tmp_path / "clip.mp4", movflags="faststart").parent

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/silent":
                done.wait(20)
            else:
                super().do_GET()

    done = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with open_source(f"{address}/clip.mp4") as source:
            assert len(list(source)) == 120
        with pytest.raises(SourceTimeoutError, match=r"no answer within 0\.5 s"):
            open_source(f"{address}/silent", options=SourceOptions(timeout=0.5))
        with pytest.raises(VideoError, match="cannot be opened"):
            open_source(f"{address}/none.mp4")
    finally:
        done.set()
        server.shutdown()
        server.server_close()


def test_no_camera(capfd: pytest.CaptureFixture[str]) -> None:
    if Path("/dev/video99").exists():
        pytest.skip("this machine has a /dev/video99")
    with pytest.raises(VideoError, match="no camera at 99"):
        open_source("99")
    assert capfd.readouterr().err == ""


def test_camera_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic around OpenCV's capture, with a stand-in device: times rise, silence is no end of stream."""

    class Capture:
        images: list[np.ndarray | None] = [np.full((4, 6, 3), i, np.uint8) for i in range(3)] + [None]

        def open(self, *args: Any) -> bool:
            return True

        def read(self) -> tuple[bool, np.ndarray | None]:
            image = self.images.pop(0)
            return image is not None, image

        def get(self, key: int) -> float:
            return 30.0

        def set(self, key: int, value: float) -> bool:
            return True

        def release(self) -> None:
            pass

    device = tmp_path / "video0"
    device.touch()
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    monkeypatch.setattr("runtime.video.source.Path", lambda text: device)
    with open_source("0", options=SourceOptions(width=640, height=480, timeout=0.0)) as source:
        assert isinstance(source, CameraSource)
        assert source.info.live
        assert (source.info.width, source.info.height, source.info.frame_count) == (6, 4, None)
        assert "6x4" in source.warnings[0]
        frames = [source.read() for _ in range(3)]
        times = [frame.pts for frame in frames if frame]
        assert times[0] == 0
        assert times == sorted(set(times))
        with pytest.raises(SourceTimeoutError):
            source.read()


@pytest.mark.parametrize("text", ["csi://0", "gst:videotestsrc"])
def test_not_supported_yet(text: str) -> None:
    with pytest.raises(UsageError, match="not supported yet"):
        open_source(text)


# --- pictures ---


def test_natural_order() -> None:
    names = ["a10.png", "a2.png", "a1.png", "10.png", "9.png"]
    assert sorted(names, key=natural_key) == ["9.png", "10.png", "a1.png", "a2.png", "a10.png"]


def test_folder_pattern_and_single(tmp_path: Path) -> None:
    for i in (2, 10, 1):
        cv2.imwrite(str(tmp_path / f"f{i}.png"), np.full((6, 8, 3), i, np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    for text in (str(tmp_path), f"{tmp_path}/f%d.png"):
        with open_source(text, options=SourceOptions(rate=Fraction(10))) as source:
            frames = list(source)
        assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 10]
        assert [frame.pts for frame in frames] == [0, Fraction(1, 10), Fraction(2, 10)]
        assert (source.info.frame_count, source.info.rate) == (3, 10)
    assert "7 numbers between 1 and 10" in source.warnings[0]
    with open_source(str(tmp_path / "f2.png")) as source:
        assert source.info.frame_count == 1
        assert len(list(source)) == 1


def test_bad_pictures(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="holds no picture"):
        open_source(str(tmp_path))
    with pytest.raises(VideoError, match="no picture has such a name"):
        open_source(f"{tmp_path}/f%06d.png")
    cv2.imwrite(str(tmp_path / "f1.png"), np.zeros((6, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "f2.png"), np.zeros((7, 8, 3), np.uint8))
    with open_source(str(tmp_path)) as source, pytest.raises(VideoError, match=r"f2\.png is 8x7, but .* 8x6"):
        list(source)
    (tmp_path / "f2.png").write_bytes(b"not a picture")
    with open_source(str(tmp_path)) as source, pytest.raises(VideoError, match=r"f2\.png cannot be read as a picture"):
        list(source)
    with pytest.raises(VideoError, match="does not exist"):
        open_source(str(tmp_path / "none.png"))
