from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.video.uri import SinkKind, SourceKind, parse_sink, parse_source


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("0", SourceKind.CAMERA, "0"),
        ("/dev/video2", SourceKind.CAMERA, "/dev/video2"),
        ("v4l2:///dev/video0", SourceKind.CAMERA, "/dev/video0"),
        ("clip.mp4", SourceKind.FILE, "clip.mp4"),
        ("a b/clip.MKV", SourceKind.FILE, "a b/clip.MKV"),
        ("file:///tmp/a%20b.mp4", SourceKind.FILE, "/tmp/a b.mp4"),
        ("frames_%06d.png", SourceKind.PATTERN, "frames_%06d.png"),
        ("f/%d.jpg", SourceKind.PATTERN, "f/%d.jpg"),
        ("pictures/", SourceKind.FOLDER, "pictures/"),
        ("one.webp", SourceKind.PICTURE, "one.webp"),
        ("rtsp://cam/1", SourceKind.NETWORK, "rtsp://cam/1"),
        ("https://x/clip.mp4", SourceKind.NETWORK, "https://x/clip.mp4"),
        ("csi://0", SourceKind.CSI, "0"),
        ("-", SourceKind.STDIN, "pipe:0"),
        ("gst:videotestsrc", SourceKind.GSTREAMER, "videotestsrc"),
    ],
)
def test_sources(text: str, kind: SourceKind, target: str) -> None:
    uri = parse_source(text)
    assert (uri.kind, uri.target, uri.text) == (kind, target, text)


def test_folder_without_slash_and_percent_in_a_real_name(tmp_path: Path) -> None:
    assert parse_source(str(tmp_path)).kind is SourceKind.FOLDER
    odd = tmp_path / "100%d.mp4"
    odd.write_bytes(b"x")
    assert parse_source(str(odd)).kind is SourceKind.FILE


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("out.mp4", SinkKind.FILE),
        ("out.MKV", SinkKind.FILE),
        ("o.webm", SinkKind.FILE),
        ("f/frames_%06d.png", SinkKind.PATTERN),
        ("one.jpg", SinkKind.PICTURE),
        ("display://", SinkKind.DISPLAY),
        ("null://", SinkKind.NULL),
        ("rtsp://user:word@h:8554/live", SinkKind.STREAM),
        ("udp://127.0.0.1:5000", SinkKind.STREAM),
        ("vcam://", SinkKind.CAMERA),
        ("gst:fakesink", SinkKind.GSTREAMER),
    ],
)
def test_sinks(text: str, kind: SinkKind) -> None:
    assert parse_sink(text).kind is kind


@pytest.mark.parametrize(
    ("text", "target", "shown"),
    [
        ("rtsp://h:8554/live", "rtsp://h:8554/live", "rtsp://h:8554/live"),
        ("RTSP://u:p:w@h/live", "RTSP://u:p:w@h/live", "RTSP://u:…@h/live"),
        ("rtmp://h/app/secret-key", "rtmp://h/app/secret-key", "rtmp://h/app/…"),
        ("udp://h:5000", "udp://h:5000?pkt_size=1316", "udp://h:5000"),
        ("udp://h:5000?ttl=2", "udp://h:5000?ttl=2&pkt_size=1316", "udp://h:5000?ttl=2"),
        ("vcam:///dev/video4", "/dev/video4", "vcam:///dev/video4"),
        ("gst:fakesink", "fakesink", "gst:fakesink"),
    ],
)
def test_live_sinks_keep_secrets_to_themselves(text: str, target: str, shown: str) -> None:
    uri = parse_sink(text)
    assert (uri.target, uri.shown) == (target, shown)


@pytest.mark.parametrize(
    "text", ["", "csi://", "csi://x", "gst: ", "foo://x", "a_%d_%d.png", "v4l2://", "file://host/x.mp4"]
)
def test_unknown_sources(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


@pytest.mark.parametrize(
    "text", ["", "out", "out.xyz", "out/", "rtsp://", "udp://x", "tcp://h:x", "gst: ", "frames_%06d.mp4", "s3://x"]
)
def test_unknown_sinks(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sink(text)
    assert "\n" not in str(caught.value)
