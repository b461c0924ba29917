from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from runtime.errors import UsageError, VideoError
from runtime.video.sink import LIVE_TIME_BASE, check_sink, movie_timescale, open_sink, sink_time_base
from runtime.video.source import SourceInfo, VideoFrame, open_source

INFO = SourceInfo("test", 64, 48, Fraction(25), Fraction(1, 25))


def frames(count: int, size: tuple[int, int] = (64, 48), noise: bool = False) -> Iterator[VideoFrame]:
    random = np.random.default_rng(1)
    width, height = size
    for i in range(count):
        image = np.full((height, width, 3), i % 256, np.uint8)
        if noise:
            image = random.integers(0, 256, image.shape, dtype=np.uint8)
        yield VideoFrame(image, Fraction(i, 25), i, Fraction(1, 25))


# --- sound ---


def test_sound_is_copied_and_stays_in_step(tmp_path: Path, assets: Any, copy_clip: Any, packets: Any) -> None:
    clip = assets("video/short_hamilton_clip.mp4")  # its video starts 0.844 s after its sound
    out = tmp_path / "out.mp4"
    copy_clip(clip, out, preset="ultrafast")
    assert packets(out, "audio") == packets(clip, "audio")
    assert len(packets(out, "audio")) == 431
    assert packets(out, "video")[0][0] == packets(clip, "video")[0][0] == Fraction(10_214, 11_988)


def test_sound_is_interleaved(tmp_path: Path, assets: Any, copy_clip: Any) -> None:
    copy_clip(assets("video/short_hamilton_clip.mp4"), tmp_path / "out.mp4", preset="ultrafast")
    newest = {"audio": 0.0, "video": 0.0}
    with av.open(str(tmp_path / "out.mp4")) as container:
        found = sorted((p for p in container.demux() if p.size and p.pos is not None), key=lambda p: p.pos or 0)
        for packet in found:
            assert packet.dts is not None
            newest[packet.stream.type] = float(packet.dts * packet.time_base)
            if newest["video"] > 1.5 and newest["audio"] < 9:
                assert abs(newest["audio"] - newest["video"]) < 1.0


def test_sound_can_be_left_out(tmp_path: Path, assets: Any, copy_clip: Any) -> None:
    copy_clip(assets("video/short_hamilton_clip.mp4"), tmp_path / "out.mp4", frames=5, audio=False)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def test_matroska_copies_sound_too(tmp_path: Path, assets: Any, copy_clip: Any, packets: Any) -> None:
    clip = assets("video/short_hamilton_clip.mp4")
    out = tmp_path / "out.mkv"
    copy_clip(clip, out, preset="ultrafast")
    assert [data for _, data in packets(out, "audio")] == [data for _, data in packets(clip, "audio")]
    offset = [packets(path, "video")[0][0] - packets(path, "audio")[0][0] for path in (clip, out)]
    assert abs(offset[0] - offset[1]) <= Fraction(1, 1000)  # Matroska counts milliseconds


def test_sound_that_does_not_fit_is_encoded_anew(tmp_path: Path, assets: Any) -> None:
    with open_source(str(assets("video/short_hamilton_clip.mp4"))) as source:
        sink = open_sink(str(tmp_path / "out.webm"), source=source.info, width=64, height=48)
        for _ in range(30):
            frame = source.read()
            assert frame is not None
            sink.write(VideoFrame(cv2.resize(frame.image, (64, 48)), frame.pts, frame.index, frame.duration))
        sink.abort()
    assert "encoded anew as Opus" in sink.warnings[0]
    with av.open(str(tmp_path / "out.webm")) as container:
        assert container.streams.audio[0].codec_context.name in ("opus", "libopus")
        times = [frame.time for frame in container.decode(audio=0)]
    assert 1.5 < times[-1] - times[0] < 2.0  # 30 frames, and 0.84 s before them


def test_abort_leaves_a_playable_file_with_cut_sound(tmp_path: Path, assets: Any, copy_clip: Any, packets: Any) -> None:
    clip = assets("video/short_hamilton_clip.mp4")
    out = tmp_path / "out.mp4"
    times = copy_clip(clip, out, frames=60)
    with open_source(str(out)) as again:
        assert [frame.pts for frame in again] == times
    whole, cut = packets(clip, "audio"), packets(out, "audio")
    assert cut == whole[: len(cut)]
    end = packets(clip, "video")[0][0] + times[-1] + Fraction(400, 11_988)
    assert abs(cut[-1][0] - end) < Fraction(1, 20)


# --- names and leftovers ---


def test_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    sink = open_sink(str(out), source=INFO, width=64, height=48)
    for frame in frames(10):
        sink.write(frame)
    assert not out.exists()
    sink.close()
    sink.close()
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert sink.frames_written == 10
    with pytest.raises(VideoError, match="takes no more frames"):
        sink.write(next(frames(1)))


def test_nothing_is_left_without_frames_or_after_an_error(tmp_path: Path) -> None:
    open_sink(str(tmp_path / "a.mp4"), source=INFO, width=64, height=48).close()
    open_sink(str(tmp_path / "b.mp4"), source=INFO, width=64, height=48).abort()
    with (
        pytest.raises(VideoError, match="a frame of"),
        open_sink(str(tmp_path / "c.mp4"), source=INFO, width=8, height=8) as sink,
    ):
        sink.write(next(frames(1)))
    assert list(tmp_path.iterdir()) == []


def test_leaving_by_an_exception_keeps_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"

    def run() -> None:
        with open_sink(str(out), source=INFO, width=64, height=48) as sink:
            for frame in frames(10):
                sink.write(frame)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    with open_source(str(out)) as again:
        assert len(list(again)) == 10


def test_existing_output(tmp_path: Path, make_clip: Any) -> None:
    out = tmp_path / "out.mp4"
    out.write_text("mine")
    with pytest.raises(UsageError, match=r"out\.mp4 exists: add --overwrite to replace it"):
        open_sink(str(out), source=INFO, width=64, height=48)
    assert out.read_text() == "mine"
    sink = open_sink(str(out), source=INFO, width=64, height=48, overwrite=True)
    assert out.read_text() == "mine"  # replaced only at the end
    for frame in frames(3):
        sink.write(frame)
    sink.close()
    assert out.stat().st_size > 100


def test_output_that_cannot_be(tmp_path: Path, make_clip: Any) -> None:
    clip = make_clip()
    with open_source(str(clip)) as source:
        with pytest.raises(UsageError, match="is the input itself"):
            check_sink(str(clip), source=source.info, overwrite=True)
        with pytest.raises(UsageError, match=r"the folder .*none does not exist"):
            check_sink(str(tmp_path / "none" / "out.mp4"), source=source.info)
        with pytest.raises(UsageError, match="is one picture, but the input has many"):
            check_sink(str(tmp_path / "one.png"), source=source.info)
        for settings in ({"codec": "h263"}, {"preset": "quick"}, {"crf": 99}):
            with pytest.raises(UsageError):
                open_sink(str(tmp_path / "o.mp4"), source=source.info, width=64, height=48, **settings)
        with pytest.raises(UsageError, match=r"a \.webm file holds vp9"):
            open_sink(str(tmp_path / "o.webm"), source=source.info, width=64, height=48, codec="h264")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


FILL_UP = """
import sys
from fractions import Fraction
import numpy as np
from runtime.errors import VideoError
from runtime.video.sink import open_sink
from runtime.video.source import SourceInfo, VideoFrame
random = np.random.default_rng(0)
sink = None
try:
    sink = open_sink(sys.argv[1], source=SourceInfo("t", 128, 96, Fraction(25), Fraction(1, 25)), width=128, height=96)
    for i in range(600):
        sink.write(VideoFrame(random.integers(0, 256, (96, 128, 3), dtype=np.uint8), Fraction(i, 25), i))
    sink.close()
except VideoError as error:
    print(error)
    sink and sink.close()
"""


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "f_%04d.png"])
def test_disk_full(tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        root = Path(__file__).resolve().parents[3]
        command = [sys.executable, "-c", FILL_UP, str(disk / name)]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert result.stdout.startswith("disk full while writing ")
        left = [path.name for path in disk.iterdir()]
        if name.endswith((".mp4", ".mkv")):  # playable up to where the disk was full
            assert left == [name]
            assert "can be played" in result.stdout
            with av.open(str(disk / name)) as container:
                assert sum(1 for _ in container.demux(video=0)) > 5
        else:
            assert all(cv2.imread(str(disk / each)) is not None for each in left)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- pictures, null, window ---


def test_numbered_pictures(tmp_path: Path) -> None:
    pattern = str(tmp_path / "f_%06d.png")
    with open_sink(pattern, source=INFO, width=64, height=48) as sink:
        for frame in frames(3):
            sink.write(frame)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"f_{i:06d}.png" for i in range(3)]
    with open_source(pattern) as source:
        assert [int(frame.image[0, 0, 0]) for frame in source] == [0, 1, 2]
    with pytest.raises(UsageError, match=r"f_000000\.png exists: add --overwrite"):
        open_sink(pattern, source=INFO, width=64, height=48)
    with open_sink(pattern, source=INFO, width=64, height=48, overwrite=True) as sink:
        sink.write(next(frames(1)))
    assert sink.warnings == ["2 older pictures of the same pattern are still in the folder"]


@pytest.mark.parametrize("name", ["one.png", "one.jpg"])
def test_single_picture(tmp_path: Path, name: str) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), np.full((48, 64, 3), 99, np.uint8))
    with open_source(str(tmp_path / "in.png")) as source:
        sink = open_sink(str(tmp_path / name), source=source.info, width=64, height=48)
        for frame in source:
            sink.write(frame)
        sink.close()
    assert cv2.imread(str(tmp_path / name)).mean() == 99


def test_null_counts() -> None:
    with open_sink("null://", source=INFO, width=64, height=48) as sink:
        for frame in frames(4):
            sink.write(frame)
    assert sink.frames_written == 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only X11 and Wayland can be absent")
@pytest.mark.parametrize("display", [None, ":97"])
def test_no_display_is_an_error_not_an_abort(monkeypatch: pytest.MonkeyPatch, display: str | None) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if display and not Path(f"/tmp/.X11-unix/X{display[1:]}").exists():
        monkeypatch.setenv("DISPLAY", display)
    with pytest.raises(VideoError, match="null://"):
        open_sink("display://", source=INFO, width=64, height=48)


def test_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic of the window without a window: q stops, a file is shown no faster than it was filmed."""
    keys = iter([-1, -1, ord("q")])
    shown: list[Any] = []
    monkeypatch.setattr("runtime.video.preview.require_display", lambda: None)
    for name in ("namedWindow", "resizeWindow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *args: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys, -1))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: 1.0)
    slept: list[float] = []
    monkeypatch.setattr("runtime.video.preview.time.sleep", slept.append)
    with open_sink("display://", source=INFO, width=64, height=48) as sink:
        for frame in frames(3):
            assert not sink.stop_requested
            sink.write(frame)
        assert sink.stop_requested
    assert len(shown) == 3
    assert len(slept) == 2
    assert 0 < slept[0] <= 0.04


def test_other_keys_of_the_window_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, pressed = iter([ord("]"), -1, 9, 200]), []
    monkeypatch.setattr("runtime.video.preview.require_display", lambda: None)
    for name in ("namedWindow", "resizeWindow", "destroyWindow", "imshow"):
        monkeypatch.setattr(cv2, name, lambda *args: None)
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys, -1))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: 1.0)
    with open_sink("display://", source=INFO, width=64, height=48) as sink:
        sink.on_key = pressed.append
        for frame in frames(5):
            sink.write(frame)
        assert not sink.stop_requested
    assert pressed == ["]", "\t"]


# --- clocks ---


def test_encoder_clock() -> None:
    def base(time_base: Fraction) -> Fraction:
        return sink_time_base(SourceInfo("t", 2, 2, None, time_base))

    assert base(Fraction(1, 12_800)) == Fraction(1, 12_800)
    assert base(Fraction(1001, 30_000)) == Fraction(1001, 30_000)
    assert base(Fraction(1, 10**12)) == LIVE_TIME_BASE
    assert base(Fraction(1)) == LIVE_TIME_BASE


def test_clock_of_edit_lists() -> None:
    video, sound = Fraction(1, 90_000), Fraction(1, 44_100)
    assert movie_timescale([(Fraction(0), video), (Fraction(0), sound)]) == 1000
    assert movie_timescale([(Fraction(1, 3), video), (Fraction(0), sound)]) == 90_000
    coarse = Fraction(1, 12_800)
    assert movie_timescale([(Fraction(1, 12_800), coarse), (Fraction(353, 44_100), sound)]) == 5_644_800
    assert movie_timescale([(Fraction(1, 25), Fraction(1, 25))]) == 1000


def test_late_clock_starts_at_zero(tmp_path: Path, assets: Any, remuxed: Any, copy_clip: Any, packets: Any) -> None:
    clip = remuxed(assets("video/short_hamilton_clip.mp4"), tmp_path / "clip.ts", output_ts_offset="100")
    assert packets(clip, "audio")[0][0] > 90
    out = tmp_path / "out.mp4"
    copy_clip(clip, out, preset="ultrafast")
    starts = [packets(out, kind)[0][0] for kind in ("video", "audio")]
    before = [packets(clip, kind)[0][0] for kind in ("video", "audio")]
    assert min(starts) < Fraction(1, 10)
    assert abs((starts[0] - starts[1]) - (before[0] - before[1])) < Fraction(1, 1000)


def test_libraries_stay_quiet(
    tmp_path: Path, make_clip: Any, copy_clip: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip()
    for name, codec in (("a.mp4", "h264"), ("b.mkv", "hevc"), ("c.webm", "vp9")):
        copy_clip(clip, tmp_path / name, codec=codec)
    assert capfd.readouterr() == ("", "")
