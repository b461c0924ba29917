"""A page in the browser that shows frames while they are made: ``http://127.0.0.1:8080``.

The sink keeps the newest frame only. A picture is encoded when a viewer is ready for it, once for all viewers who want
the same size, by a thread of the server: neither many nor slow viewers hold the pipeline up, and while nobody looks
nothing is encoded.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from runtime.errors import MissingExtraError, UsageError, VideoError, message_of
from runtime.frames import Frame
from runtime.video.preview import Pace
from runtime.video.sink import Sink
from runtime.video.source import SourceInfo, VideoFrame
from runtime.video.uri import SinkUri, host_and_port

if TYPE_CHECKING:
    from runtime.video.page_server import PageServer

LONGEST_SIDE = 1280  # pixels of a picture on the page, unless its viewer asks for all of them
JPEG_QUALITY = 90
PNG_COMPRESSION = 3  # of 9: a snapshot of 4K in about a second
TOKEN_VARIABLE = "GENEDGE_TOKEN"
SHORTEST_TOKEN = 16  # characters
MAX_TOKEN_BYTES = 1 << 12
LINGER = 10.0  # seconds without a viewer after which the last picture of a run need not be kept

Say = Callable[[str], None]


class PanelLike(Protocol):
    """What the page can show and change besides pictures; see :class:`runtime.live.panel.Panel`."""

    def state(self) -> dict[str, Any]: ...

    def milliseconds(self) -> list[float | None]: ...

    def handle(self, kind: str, content: dict[str, Any]) -> str: ...


@dataclass(frozen=True)
class Access:
    """Where the page is, and who may see it. ``token`` None: whoever reaches the address."""

    host: str
    port: int
    token: str | None = None
    told: bool = False  # the token was made up here, so its reader has to be told


def access_for(uri: SinkUri, host: str | None, token_file: Path | None) -> Access:
    """Who may see the page: this machine only, or with ``host`` everybody who has the token.

    The token is what stands in ``token_file``, else in ``$GENEDGE_TOKEN``, else one is made up where one is needed.

    Raises :class:`UsageError` where another address than this machine's own is to be used without ``host``, or the
    token is too short; :class:`MissingExtraError` without the extra ``preview``; :class:`VideoError` where the port is
    taken.
    """
    _server()
    address, port = host_and_port(uri)
    if host is None and not is_loopback(address):
        raise UsageError(
            f"{uri.text} can be seen from other machines: say --host {address} too, and keep the token to yourself"
        )
    if host is not None and host != address and not is_loopback(address):
        raise UsageError(f"{uri.text} and --host {host} are two addresses: leave out one")
    address = host or address
    token = _token(token_file)
    told = token is None and not is_loopback(address)
    if told:
        token = secrets.token_urlsafe(24)
    access = Access(address, port, token, told)
    listen(access).close()
    return access


def _server() -> type[PageServer]:
    try:
        from runtime.video.page_server import PageServer
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "aiohttp", "preview") from None
    return PageServer


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(file: Path | None) -> str | None:
    if file is None:
        token, place = os.environ.get(TOKEN_VARIABLE) or None, f"${TOKEN_VARIABLE}"
    else:
        place = str(file)
        try:
            with file.open("rb") as opened:
                token = opened.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except OSError as error:
            raise UsageError(message_of(error)) from None
        except UnicodeDecodeError:
            raise UsageError(f"{file}: a token is letters, digits and other signs of ASCII") from None
    if token is not None and not (len(token) >= SHORTEST_TOKEN and token.isascii() and token.isprintable()):
        raise UsageError(
            f"{place}: a token has at least {SHORTEST_TOKEN} letters and digits: `openssl rand -hex 16` makes one"
        )
    return token


def listen(access: Access) -> socket.socket:
    """A socket that listens there. Raises :class:`VideoError` where that cannot be."""
    try:
        found = socket.getaddrinfo(access.host, access.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # localhost: what browsers find in the end
        family, _, _, _, address = found[0]
        return socket.create_server((address[0], address[1]), family=family)
    except OSError as error:
        where = f"port {access.port} of {access.host}"
        if error.errno == errno.EADDRINUSE:
            raise VideoError(f"{where} is taken: end the program that has it, or choose another port") from None
        raise VideoError(f"{where} cannot be opened: {error.strerror or error}") from None


@dataclass(frozen=True)
class Shown:
    """A frame as the viewers get it, never written to again. ``number`` counts the frames of the sink from 1."""

    number: int
    image: Frame  # uint8 (H, W, 3) BGR
    original: Frame | None  # uint8 (h, w, 3) BGR
    pts: float  # seconds

    def picture(self, kind: str, *, full: bool) -> bytes:
        """A JPEG of the ``image`` (kind ``after``) or the original (``before``), scaled down unless ``full``."""
        import cv2

        image = self.image if kind == "after" else self.original
        assert image is not None
        height, width = image.shape[:2]
        share = LONGEST_SIDE / max(height, width)
        if share < 1 and not full:
            size = max(1, round(width * share)), max(1, round(height * share))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise VideoError(f"a picture of {width}x{height} cannot be made a JPEG")
        return data.tobytes()

    def png(self) -> bytes:
        """All pixels of the image as they are."""
        import cv2

        done, data = cv2.imencode(".png", self.image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])
        if not done:
            raise VideoError("the frame cannot be made a PNG")
        return data.tobytes()


class Screen:
    """What the sink leaves for the server: the newest frame and figures. One thread writes, others read."""

    def __init__(self, info: SourceInfo, *, compares: bool) -> None:
        self.title = (info.path.name if info.path is not None else info.uri)[:200]
        self.live, self.rate, self.compares = info.live, info.rate, compares
        self.newest: Shown | None = None
        self.panel: PanelLike | None = None
        self.ended = ""  # how, once it has
        self.dropped = 0  # frames that the source has counted but that never came
        self.looking = 0  # viewers
        self.left = time.monotonic()  # when the last one left
        self.woken: Callable[[], None] = lambda: None
        self._next_index: int | None = None
        self._delays: list[float] = []

    def show(self, frame: VideoFrame) -> None:
        """Take a frame; copies its image, which is used again by others."""
        if self._next_index is not None:
            self.dropped += max(0, frame.index - self._next_index)
        self._next_index = frame.index + 1
        number = 1 if self.newest is None else self.newest.number + 1
        original = frame.original if self.compares else None
        self.newest = Shown(number, frame.image.copy(), original, float(frame.pts))
        captured = frame.captured
        if captured is not None:
            self._delays.append(time.monotonic() - captured)
        self.woken()

    def delay(self) -> float | None:
        """Mean time from capture to here since the last call, in milliseconds; None where sources do not tell."""
        delays, self._delays = self._delays, []
        return 1e3 * sum(delays) / len(delays) if delays else None

    def end(self, how: str) -> None:
        """No more frames; ``how`` is shown."""
        self.ended = self.ended or how
        self.woken()


class BrowserSink(Sink):
    """Shows frames on a page in the browser, which is there as soon as this is made.

    Files are shown no faster than they were filmed; live sources as they come. After the last frame the page stays
    with it: see :meth:`linger`.

    Args:
        source: where the frames come from.
        access: where the page is, and for whom.
        compares: frames with an ``original`` show it beside the result. False: it never leaves this process.
        say: told where the page is.

    Raises :class:`MissingExtraError` without the extra ``preview``, :class:`VideoError` where the port is taken.
    """

    def __init__(self, source: SourceInfo, access: Access, *, compares: bool, say: Say) -> None:
        self.warnings = []
        self.screen = Screen(source, compares=compares)
        self._pace = Pace(live=source.live)
        self._server = _server()(self.screen, access, listen(access))
        self._stopped = threading.Event()
        say(f"look at {self._server.address}")

    @property
    def address(self) -> str:
        """The page's address, with the token where one was made up; behind the # it is in no log."""
        return self._server.address

    def write(self, frame: VideoFrame) -> None:
        """Take a frame of any size."""
        self._pace.wait(frame.pts)
        self.screen.show(frame)
        self.frames_written += 1

    def close(self) -> None:
        """No more frames; the page keeps the last one."""
        self.screen.end("The video has ended.")

    def abort(self) -> None:
        self.screen.end("The run was stopped.")

    def tell(self, text: str) -> None:
        """Show all viewers a sentence; one that begins with ``warning:`` as such. From any thread."""
        self._server.note_from_outside(text)

    def linger(self) -> None:
        """Keep the page until nobody has looked for ten seconds, or Ctrl-C."""
        try:
            while self.screen.looking or time.monotonic() - self.screen.left < LINGER:
                if self._stopped.wait(0.1):
                    return
        except KeyboardInterrupt:
            pass

    def stop(self) -> None:
        """Close the page. Calling it twice is harmless."""
        self._stopped.set()
        self._server.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.stop()
