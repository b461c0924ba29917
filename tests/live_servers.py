"""Real servers of live video on loopback, which can be stopped and started again on the same port."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import cv2
import numpy as np

SIZE = (64, 48)  # width, height
RATE = 30
SYSTEM_PYTHON = "/usr/bin/python3"  # where the distribution's GStreamer bindings are


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def picture(index: int) -> np.ndarray:
    image = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
    left = index * 3 % SIZE[0]
    image[:, left : left + 6] = 220
    return image


def transport_stream(seconds: float) -> list[tuple[float, bytes]]:
    """(seconds from the first frame, MPEG-TS bytes of one frame), a key frame each half second."""
    buffer, parts = BytesIO(), []
    with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(RATE // 2)}
        done = 0
        for index in range(round(seconds * RATE)):
            frame = av.VideoFrame.from_ndarray(picture(index), format="bgr24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            out.mux(stream.encode(frame))
            data = buffer.getvalue()
            parts.append((index / RATE, data[done:]))
            done = len(data)
    return parts


class HttpServer:
    """``/stream.ts`` (MPEG-TS with H.264) and ``/stream.mjpg`` (JPEG parts), sent as they would be filmed."""

    def __init__(self, seconds: float = 20) -> None:
        self.port = free_port()
        self._parts = transport_stream(seconds)
        self._server: http.server.ThreadingHTTPServer | None = None
        self._stop = threading.Event()

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        owner = self
        self._stop = stop = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self.send_response(200)
                jpegs = self.path.endswith(".mjpg")
                kind = "multipart/x-mixed-replace; boundary=frame" if jpegs else "video/mp2t"
                self.send_header("Content-Type", kind)
                self.end_headers()
                begin = time.monotonic()
                for index, (due, data) in enumerate(owner._parts):
                    if stop.wait(max(0.0, begin + due - time.monotonic())):
                        break
                    if jpegs:
                        body = cv2.imencode(".jpg", picture(index))[1].tobytes()
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                        data = head.encode() + body + b"\r\n"
                    try:
                        self.wfile.write(data)
                    except OSError:
                        break
                self.close_connection = True

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@contextmanager
def http_server(seconds: float = 20) -> Iterator[HttpServer]:
    server = HttpServer(seconds)
    server.start()
    try:
        yield server
    finally:
        server.stop()


RTSP_SCRIPT = """
import sys, gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(sys.argv[2])
factory.set_shared(True)
server.get_mount_points().add_factory("/live", factory)
assert server.attach(None), "the port is taken"
print("ready", flush=True)
GLib.MainLoop().run()
"""
RTSP_LAUNCH = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=30/1 "
    "! {encoder} name=pay0 pt=96 )"
)
RTSP_ENCODERS = {
    "x264enc": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay config-interval=1",
    "openh264enc": "openh264enc gop-size=15 ! rtph264pay config-interval=1",
}


def rtsp_encoder() -> str | None:
    """The H.264 encoder that a GStreamer RTSP server here can use; None: there is no such server."""
    if not Path(SYSTEM_PYTHON).exists():
        return None
    script = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
        f"print(next(name for name in {list(RTSP_ENCODERS)} if Gst.ElementFactory.find(name)))"
    )
    found = subprocess.run([SYSTEM_PYTHON, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    return found.stdout.strip() or None if found.returncode == 0 else None


class RtspServer:
    """``rtsp://127.0.0.1:PORT/live``: a moving ball at 30 frames a second, by GStreamer's own server in a process."""

    def __init__(self, encoder: str) -> None:
        self.port = free_port()
        self.address = f"rtsp://127.0.0.1:{self.port}/live"
        self._script, self._launch = RTSP_SCRIPT, RTSP_LAUNCH.format(encoder=RTSP_ENCODERS[encoder])
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [SYSTEM_PYTHON, "-c", self._script, str(self.port), self._launch]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def freeze(self) -> None:
        """Connections stay open, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


RECORD_SCRIPT = RTSP_SCRIPT.replace(
    "factory.set_shared(True)", "factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)"
)
RECORD_LAUNCH = (
    "( rtph264depay name=depay0 ! video/x-h264,stream-format=byte-stream,alignment=au "
    "! filesink location={file} buffer-mode=unbuffered )"
)


class RtspRecorder(RtspServer):
    """``rtsp://127.0.0.1:PORT/live`` to push H.264 to: what comes is kept in ``file``, as it is."""

    def __init__(self, file: Path) -> None:
        self.port = free_port()
        self.address = f"rtsp://127.0.0.1:{self.port}/live"
        self._script, self._launch = RECORD_SCRIPT, RECORD_LAUNCH.format(file=file)
        self._process = None
