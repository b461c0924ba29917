"""The server behind :class:`runtime.video.browser.BrowserSink`, in a thread of its own. Needs aiohttp.

====================  ===============================================================================================
``GET /``             the page; without the right to see it, a form for the token (401)
``GET /live``         a WebSocket, see below
``GET /snapshot.png`` the newest frame with all its pixels
``POST /login``       the token as the body; the answer is a cookie
====================  ===============================================================================================

To the viewer go texts (JSON with a ``type``: ``state``, ``stats``, ``note``) and pictures: four bytes, big-endian, with
the length of a JSON header; the header; and as many JPEGs as it has ``lengths``, the result first and then, where it
was asked for, the original. From the viewer come ``{"seen": NUMBER}``, upon which the next picture follows, ``{"view":
{"before": true, "full": false}}``, and what :meth:`runtime.live.panel.Panel.handle` takes.

Against other sites in the same browser: the ``Host`` must be an address of this page, whatever a name server says it
is, an ``Origin`` must be the page itself, and the cookie is never sent along by other sites.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import math
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

from aiohttp import WSMsgType, hdrs, web

from runtime.errors import VideoError, message_of, printable
from runtime.video.browser import Access, Screen, Shown, is_loopback

MOST_VIEWERS = 32
MAX_MESSAGE_BYTES = 1 << 16  # of what a viewer sends
EVERY = 0.5  # seconds between two points of the plot
SMOOTHED = 4  # points over which the speed is taken, two seconds
KEPT = 240  # points, two minutes
HEARTBEAT = 60.0  # seconds; a viewer who does not answer for half of that is gone
STARTING = 30.0  # seconds
CLOSING = 3.0  # seconds

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/login.js": ("login.js", "text/javascript"),
}
WRONG_TOKEN = "the token is missing or wrong\n"
PUBLIC = ("/login", "/login.js", "/style.css")  # seen without a token

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Viewer:
    """What one viewer has seen and wants."""

    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.ready = True  # for the next picture
        self.before = self.full = False
        self.again = False  # the same frame, in another size
        self.sent = self.state = self.points = self.note = 0
        self.notes: deque[dict[str, Any]] = deque(maxlen=8)  # for this one only


class PageServer:
    """Serves ``screen`` on ``listener`` until :meth:`stop`. Everything but these two runs in its thread."""

    def __init__(self, screen: Screen, access: Access, listener: socket.socket) -> None:
        self._screen, self._access, self._listener = screen, access, listener
        self._port = int(listener.getsockname()[1])
        self._session = secrets.token_urlsafe(32)  # what the cookie holds
        self._cookie = f"genedge-{self._port}"  # cookies do not know ports
        self._wide = not is_loopback(access.host)
        self._names = _own_names(access.host, wide=self._wide)
        self._viewers: set[_Viewer] = set()
        self._encoder = ThreadPoolExecutor(2, "page encoder")
        self._worker = ThreadPoolExecutor(1, "page actions")
        self._pictures: dict[tuple[int, str, bool], asyncio.Future[bytes]] = {}
        self.encoded = 0  # pictures so far
        self._state: dict[str, Any] = {}
        self._state_number = self._point_number = self._note_number = 0
        self._points: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._notes: deque[tuple[int, dict[str, Any]]] = deque(maxlen=8)
        self._began = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._started = threading.Event()
        self._failed = ""
        self._thread = threading.Thread(target=self._work, name="page", daemon=True)
        self._thread.start()
        if not self._started.wait(STARTING) or not self._thread.is_alive():
            raise VideoError(f"the page on port {self._port} cannot be served: {self._failed or 'no answer'}")
        screen.woken = self._wake_from_outside

    @property
    def address(self) -> str:
        """For people; a token that was made up here stands behind the #, which browsers send to nobody."""
        host = self._access.host
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            host = socket.gethostname() if address.is_unspecified else f"[{host}]" if address.version == 6 else host
        token = f"/#token={self._access.token}" if self._access.told else ""
        return f"http://{host}:{self._port}{token}"

    def stop(self) -> None:
        """Send the viewers away and end. Calling it twice is harmless."""
        self._screen.woken = lambda: None
        loop, ending = self._loop, self._ending
        if loop is not None and ending is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(ending.set)
        self._thread.join(CLOSING)
        self._encoder.shutdown(wait=False, cancel_futures=True)
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _wake_from_outside(self) -> None:
        loop = self._loop
        if self._viewers and loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)

    # -- in the server's thread -----------------------------------------------------------------

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:  # said by whoever waits
            self._failed = message_of(error)
        finally:
            self._listener.close()
        self._started.set()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=CLOSING / 2)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener).start()
            self._started.set()
            sampling = asyncio.ensure_future(self._sample())
            await self._ending.wait()
            sampling.cancel()
            self._wake()
        finally:
            await runner.cleanup()

    def app(self) -> web.Application:
        """The routes, behind the checks."""
        app = web.Application(client_max_size=MAX_MESSAGE_BYTES)
        for path in PAGE:
            app.router.add_get(path, self._guarded(self._file))
        app.router.add_get("/live", self._guarded(self._live))
        app.router.add_get("/snapshot.png", self._guarded(self._snapshot))
        app.router.add_post("/login", self._guarded(self._login))
        app.router.add_route("*", "/{rest:.*}", self._guarded(self._nothing))
        return app

    def _guarded(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            refused = self._refused(request)
            response = await handler(request) if refused is None else refused
            if not response.prepared:
                response.headers.update(HEADERS)
            return response

        return answer

    def _refused(self, request: web.Request) -> web.Response | None:
        """The answer to a request that nobody may make, None for others."""
        origin = request.headers.get(hdrs.ORIGIN)
        if not self._is_own(request.host):
            return web.Response(status=403, text="this is not the page's address\n")
        if origin is not None and origin != f"http://{request.host}":
            return web.Response(status=403, text="another site may not use this page\n")
        if request.path in PUBLIC or self._may_see(request):
            return None
        if request.path == "/" and hdrs.AUTHORIZATION not in request.headers:
            return web.Response(status=401, text=_content("login.html"), content_type="text/html")
        return web.Response(status=401, text=WRONG_TOKEN)

    def _is_own(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit() or name.endswith(":"):
            name, port = host, "80"
        if int(port) != self._port:
            return False
        name = name.strip("[]").lower()
        return name in self._names or (self._wide and _is_address(name))

    def _may_see(self, request: web.Request) -> bool:
        if self._access.token is None:
            return True
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(token.encode(errors="replace")):
            return True
        cookie = request.cookies.get(self._cookie, "")
        return hmac.compare_digest(cookie.encode(errors="replace"), self._session.encode())

    def _is_token(self, said: bytes) -> bool:
        token = self._access.token
        return token is not None and hmac.compare_digest(said.strip(), token.encode())

    async def _login(self, request: web.Request) -> web.Response:
        if not self._is_token(await request.read()):
            return web.Response(status=401, text=WRONG_TOKEN)
        response = web.Response(status=204)
        response.set_cookie(self._cookie, self._session, httponly=True, samesite="Strict", path="/")
        return response

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = PAGE[request.path]
        return web.Response(text=_content(name), content_type=kind, charset="utf-8")

    async def _nothing(self, request: web.Request) -> web.Response:
        return web.Response(status=404, text="there is nothing here\n")

    async def _snapshot(self, request: web.Request) -> web.Response:
        newest = self._screen.newest
        if newest is None:
            return web.Response(status=404, text="there is no frame yet\n")
        data = await asyncio.get_running_loop().run_in_executor(self._encoder, newest.png)
        name = f"genedge-{newest.number:06d}.png"
        headers = {hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"'}
        return web.Response(body=data, content_type="image/png", headers=headers)

    # -- viewers --------------------------------------------------------------------------------

    def _wake(self) -> None:
        for viewer in self._viewers:
            viewer.wake.set()

    async def _live(self, request: web.Request) -> web.StreamResponse:
        if len(self._viewers) >= MOST_VIEWERS:
            return web.Response(status=503, text=f"{MOST_VIEWERS} viewers are here already\n")
        talk = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE_BYTES, compress=False)
        await talk.prepare(request)
        viewer = _Viewer()
        self._viewers.add(viewer)
        self._screen.looking = len(self._viewers)
        self._refresh()
        sending = asyncio.ensure_future(self._send(talk, viewer))
        try:
            async for message in talk:
                if message.type is WSMsgType.TEXT:
                    await self._heard(viewer, message.data)
        finally:
            self._viewers.discard(viewer)
            self._screen.looking = len(self._viewers)
            self._screen.left = time.monotonic()
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sending
        return talk

    async def _heard(self, viewer: _Viewer, text: str) -> None:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(content, dict):
            return
        for kind, value in content.items():
            if kind == "seen":
                viewer.ready = True
            elif kind == "view" and isinstance(value, dict):
                wanted = value.get("before") is True and self._screen.compares, value.get("full") is True
                viewer.again = viewer.again or wanted != (viewer.before, viewer.full)
                viewer.before, viewer.full = wanted
            elif isinstance(value, dict):
                await self._act(viewer, kind, value)
        viewer.wake.set()

    async def _act(self, viewer: _Viewer, kind: str, value: dict[str, Any]) -> None:
        panel = self._screen.panel
        if panel is None or self._screen.ended:
            return
        try:
            said = await asyncio.get_running_loop().run_in_executor(self._worker, panel.handle, kind, value)
        except Exception as error:  # whatever a viewer sends, the page goes on
            viewer.notes.append({"type": "note", "bad": True, "text": printable(message_of(error))})
            self._refresh(anew=True)  # the page shows again what counts
        else:
            if said:
                self.note(said)
            self._refresh()

    def note(self, text: str) -> None:
        """Tell all viewers something; one that begins with ``warning:`` is shown as such."""
        bad = text.startswith("warning: ")
        self._note_number += 1
        note = {"type": "note", "bad": bad, "text": text.removeprefix("warning: ")}
        self._notes.append((self._note_number, note))
        self._refresh(anew=bad)

    def note_from_outside(self, text: str) -> None:
        """The same from any thread."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self.note, text)

    def _refresh(self, *, anew: bool = False) -> None:
        """Take note of what is set now; where it has changed, or ``anew``, all viewers get it."""
        screen = self._screen
        state = {
            "type": "state",
            "title": screen.title,
            "live": screen.live,
            "rate": float(screen.rate) if screen.rate else None,
            "compares": screen.compares,
            "ended": screen.ended,
            "panel": screen.panel.state() if screen.panel is not None else None,
        }
        if state != self._state or anew:
            self._state = state
            self._state_number += 1
        self._wake()

    async def _sample(self) -> None:
        """Note the figures of the plot again and again."""
        shown, dropped = 0, 0
        lately = deque([(time.monotonic(), 0)], maxlen=SMOOTHED + 1)  # (time, frames) of the last points
        while True:
            await asyncio.sleep(EVERY)
            screen, now = self._screen, time.monotonic()
            number = screen.newest.number if screen.newest is not None else 0
            if not screen.ended or number > shown:
                stages = screen.panel.milliseconds() if screen.panel is not None else []
                self._points.append(
                    {
                        "time": round(now - self._began, 2),
                        "fps": round((number - lately[0][1]) / (now - lately[0][0]), 2),
                        "stages": [None if each is None else round(each, 2) for each in stages],
                        "delay": _rounded(screen.delay()),
                        "dropped": screen.dropped - dropped,
                        "number": number,
                    }
                )
                self._point_number += 1
            lately.append((now, number))
            shown, dropped = number, screen.dropped
            self._refresh()

    async def _send(self, talk: web.WebSocketResponse, viewer: _Viewer) -> None:
        """Whatever this viewer has not seen yet, the newest only, and the next picture once it is ready for it."""
        viewer.note = self._note_number  # what was said before is of no interest
        with contextlib.suppress(ConnectionError):
            while self._ending is None or not self._ending.is_set():
                await viewer.wake.wait()
                viewer.wake.clear()
                if viewer.state != self._state_number:
                    viewer.state = self._state_number
                    await talk.send_json(self._state)
                if viewer.points != self._point_number:
                    count = min(self._point_number - viewer.points, len(self._points))
                    viewer.points = self._point_number
                    await talk.send_json({"type": "stats", "points": list(self._points)[-count:]})
                for number, note in list(self._notes):
                    if number > viewer.note:
                        viewer.note = number
                        await talk.send_json(note)
                while viewer.notes:
                    await talk.send_json(viewer.notes.popleft())
                shown = self._screen.newest
                if shown is not None and viewer.ready and (shown.number != viewer.sent or viewer.again):
                    viewer.ready = viewer.again = False
                    viewer.sent = shown.number
                    await talk.send_bytes(await self._parcel(shown, viewer))
            await talk.close()

    async def _parcel(self, shown: Shown, viewer: _Viewer) -> bytes:
        kinds = ["after", "before"] if viewer.before and shown.original is not None else ["after"]
        pictures = [await self._picture(shown, kind, viewer.full) for kind in kinds]
        height, width = shown.image.shape[:2]
        content = {
            "number": shown.number,
            "pts": round(shown.pts, 3),
            "width": width,
            "height": height,
            "lengths": [len(picture) for picture in pictures],
        }
        header = json.dumps(content).encode()
        return b"".join((len(header).to_bytes(4, "big"), header, *pictures))

    async def _picture(self, shown: Shown, kind: str, full: bool) -> bytes:
        """The JPEG of a frame, encoded by whoever asks first and kept as long as the frame is the newest."""
        key = shown.number, kind, full
        if key not in self._pictures:
            for old in [key for key in self._pictures if key[0] < shown.number]:
                del self._pictures[old]
            self.encoded += 1
            self._pictures[key] = asyncio.ensure_future(
                asyncio.get_running_loop().run_in_executor(self._encoder, lambda: shown.picture(kind, full=full))
            )
        return await asyncio.shield(self._pictures[key])


def _own_names(host: str, *, wide: bool) -> frozenset[str]:
    """What a browser may call this page by: names of this machine, not one that merely leads here.

    A page that other machines see may also be reached by any bare address, which no other site can pretend to be; those
    are not listed here.
    """
    names = {"localhost", "127.0.0.1", "::1", host.lower()}
    if wide:
        name = socket.gethostname().lower()
        names |= {name, f"{name.partition('.')[0]}.local"}
    return frozenset(names)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _content(name: str) -> str:
    return (files("runtime.video") / "page" / name).read_text(encoding="utf-8")


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 2)
