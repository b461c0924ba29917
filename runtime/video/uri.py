"""One string names any video: what kind of source or sink it stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.errors import UsageError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
VIDEO_SINK_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
PATTERN = re.compile(r"%(0\d+)?d")  # %d or %06d, as printf and ffmpeg have it
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_NETWORK = ("rtsp", "rtsps", "http", "https", "rtmp", "udp", "srt")
#: schemes of live streams to send -> FFmpeg's name of the format
STREAM_FORMATS = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "rtmp": "flv",
    "rtmps": "flv",
    "udp": "mpegts",
    "tcp": "mpegts",
    "srt": "mpegts",
}
_PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*@")
_HIDDEN = r"\1:…@"
_STREAM_KEY = re.compile(r"^(rtmps?://[^/]+/[^/]+/).+", re.IGNORECASE)


class SourceKind(Enum):
    """Where frames come from."""

    CAMERA = "camera"
    FILE = "file"
    NETWORK = "network"
    PATTERN = "pattern"
    FOLDER = "folder"
    PICTURE = "picture"
    STDIN = "stdin"
    CSI = "csi"
    GSTREAMER = "gstreamer"


class SinkKind(Enum):
    """Where frames go."""

    FILE = "file"
    PATTERN = "pattern"
    PICTURE = "picture"
    DISPLAY = "display"
    BROWSER = "browser"
    STREAM = "stream"
    CAMERA = "camera"
    GSTREAMER = "gstreamer"
    NULL = "null"


@dataclass(frozen=True)
class SourceUri:
    """A parsed INPUT. ``target`` is a camera index or device, a path, an address, or a pipeline, by ``kind``."""

    kind: SourceKind
    target: str
    text: str

    @property
    def path(self) -> Path:
        """The file or folder; only for kinds that are on disk."""
        return Path(self.target)


@dataclass(frozen=True)
class SinkUri:
    """A parsed OUTPUT.

    ``target`` is a path, ``host:port`` for a browser, an address for a stream, a device or nothing for a virtual
    camera, a pipeline, or empty for ``display://`` and ``null://``.
    """

    kind: SinkKind
    target: str
    text: str

    @property
    def path(self) -> Path:
        """The file or pattern; only for kinds that are on disk."""
        return Path(self.target)

    @property
    def on_disk(self) -> bool:
        """Whether it is a file or files."""
        return self.kind in (SinkKind.FILE, SinkKind.PATTERN, SinkKind.PICTURE)

    @property
    def shown(self) -> str:
        """The text for people and reports: without the password, or the key of an RTMP stream."""
        if self.kind is not SinkKind.STREAM:
            return self.text
        return _STREAM_KEY.sub(r"\1…", _PASSWORD.sub(_HIDDEN, self.text))


def parse_source(text: str) -> SourceUri:
    """Say what INPUT ``text`` stands for. Nothing is opened; only a folder is looked for on disk.

    Raises ``UsageError`` where it can be nothing that we know.
    """
    if not text.strip():
        raise UsageError("the input is empty: give a video file, a folder of pictures or a camera such as 0")
    if text.isdigit():
        return SourceUri(SourceKind.CAMERA, text, text)
    if re.fullmatch(r"/dev/video\d+", text):
        return SourceUri(SourceKind.CAMERA, text, text)
    if text == "-":
        return SourceUri(SourceKind.STDIN, "pipe:0", text)
    if text.startswith("gst:"):
        if not text[len("gst:") :].strip():
            raise UsageError(f"{text}: name the pipeline's elements, as in gst:'v4l2src device=/dev/video0'")
        return SourceUri(SourceKind.GSTREAMER, text[len("gst:") :], text)
    scheme = _scheme_of(text)
    if scheme == "v4l2":
        device = text[len("v4l2://") :]
        if not re.fullmatch(r"\d+|/dev/\S+", device):
            raise UsageError(f"{text}: name the camera's device, as in v4l2:///dev/video0")
        return SourceUri(SourceKind.CAMERA, device, text)
    if scheme == "csi":
        sensor = text[len("csi://") :]
        if not sensor.isdigit():
            raise UsageError(f"{text}: name the camera by its number, as in csi://0")
        return SourceUri(SourceKind.CSI, sensor, text)
    if scheme in _NETWORK:
        return SourceUri(SourceKind.NETWORK, text, text)
    if scheme not in ("", "file"):
        raise UsageError(
            f"{text}: unknown input: give a file, a folder, frames_%06d.png, a camera (0 or /dev/video0), "
            "rtsp://..., http://..., csi://0, gst:PIPELINE or - for standard input"
        )
    target = _path_of(text, scheme)
    path = Path(target)
    if target.endswith("/") or path.is_dir():
        return SourceUri(SourceKind.FOLDER, target, text)
    if PATTERN.search(path.name) and not path.exists():
        _one_number(path, text)
        return SourceUri(SourceKind.PATTERN, target, text)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return SourceUri(SourceKind.PICTURE, target, text)
    return SourceUri(SourceKind.FILE, target, text)


def parse_sink(text: str) -> SinkUri:
    """Say what OUTPUT ``text`` stands for. Raises ``UsageError`` where it can be nothing that we know."""
    if not text.strip():
        raise UsageError("the output is empty: give a file such as out.mp4")
    scheme = _scheme_of(text)
    if scheme == "display":
        return SinkUri(SinkKind.DISPLAY, "", text)
    if scheme == "null":
        return SinkUri(SinkKind.NULL, "", text)
    if scheme == "http":
        return SinkUri(SinkKind.BROWSER, "{}:{}".format(*_host_and_port(text)), text)
    if scheme == "vcam":
        return SinkUri(SinkKind.CAMERA, unquote(text[len("vcam://") :]), text)
    if text.startswith("gst:"):
        if not text[len("gst:") :].strip():
            raise UsageError(
                f"{text}: name the pipeline's elements, as in gst:'x264enc ! rtph264pay ! udpsink port=5000'"
            )
        return SinkUri(SinkKind.GSTREAMER, text[len("gst:") :].strip(), text)
    if scheme in STREAM_FORMATS:
        return SinkUri(SinkKind.STREAM, _stream_address(text, scheme), text)
    if scheme not in ("", "file"):
        raise UsageError(
            f"{text}: unknown output: give a file such as out.mp4, rtsp://..., rtmp://..., udp://..., vcam://, "
            "gst:PIPELINE, http://127.0.0.1:8080, display:// or null://"
        )
    target = _path_of(text, scheme)
    path = Path(target)
    suffix = path.suffix.lower()
    if target.endswith("/") or path.is_dir():
        raise UsageError(f"{text} is a folder: name the pictures in it, as in {target.rstrip('/')}/frames_%06d.png")
    if PATTERN.search(path.name):
        _one_number(path, text)
        if suffix not in PICTURE_SUFFIXES:
            raise UsageError(f"{text}: numbered pictures end in one of {' '.join(PICTURE_SUFFIXES)}")
        return SinkUri(SinkKind.PATTERN, target, text)
    if suffix in PICTURE_SUFFIXES:
        return SinkUri(SinkKind.PICTURE, target, text)
    if suffix in VIDEO_SINK_SUFFIXES:
        return SinkUri(SinkKind.FILE, target, text)
    raise UsageError(
        f"{text}: cannot tell what to write: end the name in {' '.join(VIDEO_SINK_SUFFIXES)} for video, "
        "or give frames_%06d.png, display:// or null://"
    )


def _scheme_of(text: str) -> str:
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def _path_of(text: str, scheme: str) -> str:
    if scheme != "file":
        return text
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{text}: a file address has three slashes, as in file:///home/me/clip.mp4")
    return unquote(parts.path)


def host_and_port(uri: SinkUri) -> tuple[str, int]:
    """The host and port of a browser output; port 0 is any that is free."""
    host, _, port = uri.target.rpartition(":")
    return host, int(port)


def _host_and_port(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise UsageError(f"{text}: a page in the browser is http://ADDRESS:PORT, as in http://127.0.0.1:8080")
    return host, port


def _stream_address(text: str, scheme: str) -> str:
    """The address to send to, with what FFmpeg wants to know. Raises ``UsageError`` without a host or a port."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise UsageError(f"{scheme}://: name the server, as in {scheme}://192.168.1.20:8554/live")
    if port is None and STREAM_FORMATS[scheme] == "mpegts":
        raise UsageError(f"{_PASSWORD.sub(_HIDDEN, text)}: name the port, as in {scheme}://{host}:5000")
    if scheme == "udp" and "pkt_size" not in parts.query:
        return (
            f"{text}{'&' if parts.query else '?'}pkt_size=1316"  # seven packets of a transport stream in one datagram
        )
    return text


def _one_number(path: Path, text: str) -> None:
    if len(PATTERN.findall(path.name)) != 1:
        raise UsageError(f"{text}: one number only, as in frames_%06d.png")
