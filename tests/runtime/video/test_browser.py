"""The page in the browser, without a browser: who may see it, which frame comes next, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundle_factory import CODE_MAP, CODES, small_manifest

from runtime.cli import browser_of, run
from runtime.control import Controls
from runtime.errors import MissingExtraError, UsageError, VideoError
from runtime.live.panel import Panel
from runtime.live.switch import Switcher
from runtime.manifest import Artifact
from runtime.sessions.fake import FakeSession
from runtime.video import browser
from runtime.video.source import SourceInfo, VideoFrame
from runtime.video.uri import parse_sink

aiohttp = pytest.importorskip("aiohttp")

TOKEN = "correct horse battery"
LIVE = SourceInfo("0", 64, 48, Fraction(30), Fraction(1, 90_000), live=True)


def frame_of(index: int, size: tuple[int, int] = (48, 64), **more: Any) -> VideoFrame:
    """A grey frame that tells its index by its brightness."""
    return VideoFrame(np.full((*size, 3), index % 256, np.uint8), Fraction(index, 30), index, **more)


@contextlib.contextmanager
def page(
    info: SourceInfo = LIVE, host: str = "127.0.0.1", token: str | None = None, compares: bool = True
) -> Iterator[browser.BrowserSink]:
    access = browser.Access(host, 0, token)
    with browser.BrowserSink(info, access, compares=compares, say=lambda text: None) as sink:
        yield sink


def talk(sink: browser.BrowserSink, scenario: Callable[[Any], Awaitable[Any]], **headers: str) -> Any:
    """Run ``scenario`` with an HTTP client of this page."""

    async def whole() -> Any:
        jar = aiohttp.CookieJar(unsafe=True)  # else it keeps no cookies of bare addresses
        base = f"http://127.0.0.1:{sink._server._port}"
        async with aiohttp.ClientSession(base, headers=headers, cookie_jar=jar) as client:
            return await asyncio.wait_for(scenario(client), 20)

    return asyncio.run(whole())


def status_of(sink: browser.BrowserSink, path: str = "/", **headers: str) -> int:
    async def ask(client: Any) -> int:
        async with client.get(path) as answer:
            return int(answer.status)

    return int(talk(sink, ask, **headers))


class Viewer:
    """The other end of the WebSocket: the newest text of each type, and the pictures in order."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.texts: dict[str, dict[str, Any]] = {}

    async def picture(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        while True:
            message = await self.socket.receive(timeout=10)
            if message.type is aiohttp.WSMsgType.TEXT:
                self.keep(message.data)
                continue
            assert message.type is aiohttp.WSMsgType.BINARY, message
            data = message.data
            end = 4 + int.from_bytes(data[:4], "big")
            header = json.loads(data[4:end])
            images = []
            for length in header["lengths"]:
                images.append(cv2.imdecode(np.frombuffer(data[end : end + length], np.uint8), cv2.IMREAD_COLOR))
                end += length
            assert end == len(data)
            return header, images

    async def text(self, kind: str, fits: Callable[[dict[str, Any]], bool] = lambda content: True) -> dict[str, Any]:
        while kind not in self.texts or not fits(self.texts[kind]):
            message = await self.socket.receive(timeout=10)
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            if message.type is aiohttp.WSMsgType.TEXT:
                self.keep(message.data)
        return self.texts[kind]

    def keep(self, text: str) -> None:
        content = json.loads(text)
        self.texts[content["type"]] = content

    async def seen(self, number: int) -> None:
        await self.socket.send_json({"seen": number})


@contextlib.asynccontextmanager
async def viewer(client: Any) -> Any:
    async with client.ws_connect("/live", max_msg_size=0) as socket:
        yield Viewer(socket)


# --- who may see it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["evil.example:{port}", "127.0.0.1:1", "127.0.0.1", "127.0.0.1.evil.example:{port}", "192.168.0.7:{port}", ""],
)
def test_a_name_that_merely_leads_here_is_refused(host: str) -> None:
    with page() as sink:
        port = sink._server._port
        assert status_of(sink, Host=host.format(port=port)) == 403
        assert status_of(sink, Host=f"localhost:{port}") == 200
        assert status_of(sink, Host=f"[::1]:{port}") == 200


def test_other_machines_reach_it_by_address_and_own_name_only() -> None:
    with page(host="0.0.0.0", token=TOKEN) as sink:
        port = sink._server._port
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        assert status_of(sink, Host=f"192.168.0.7:{port}", **allowed) == 200
        assert status_of(sink, Host=f"{socket.gethostname()}:{port}", **allowed) == 200
        assert status_of(sink, Host=f"evil.example:{port}", **allowed) == 403


@pytest.mark.parametrize("path", ["/", "/live", "/snapshot.png"])
def test_another_site_in_the_same_browser_is_refused(path: str) -> None:
    with page() as sink:
        sink.write(frame_of(0))
        port = sink._server._port
        for origin in ("http://evil.example", f"http://localhost:{port}", "null", f"https://127.0.0.1:{port}"):
            assert status_of(sink, path, Origin=origin) == 403
        assert status_of(sink, "/", Origin=f"http://127.0.0.1:{port}") == 200


def test_a_page_loads_nothing_from_elsewhere() -> None:
    async def scenario(client: Any) -> None:
        for path in ("/", "/app.js", "/style.css", "/nothing", "/snapshot.png"):
            async with client.get(path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "http" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                text = await answer.text()
                assert "//" not in text.replace("ws://${location.host}", "").replace("// ", ""), path

    with page() as sink:
        talk(sink, scenario)


def test_without_the_token_there_is_a_form_and_nothing_else() -> None:
    async def scenario(client: Any) -> None:
        async with client.get("/") as answer:
            assert answer.status == 401
            assert "app.js" not in await answer.text()
        for path in ("/app.js", "/snapshot.png", "/live", "/nothing", "/index.html"):
            async with client.get(path) as answer:
                assert answer.status == 401
                assert await answer.text() == "the token is missing or wrong\n"

    with page(token=TOKEN) as sink:
        sink.write(frame_of(0))
        talk(sink, scenario)


@pytest.mark.parametrize("wrong", ["", "wrong", TOKEN + "x", TOKEN[:-1], "é" * 21, "\0"])
def test_a_wrong_token_opens_nothing(wrong: str) -> None:
    async def scenario(client: Any) -> None:
        async with client.post("/login", data=wrong.encode()) as answer:
            assert answer.status == 401
            assert not answer.cookies
        cookie = {f"genedge-{sink._server._port}": wrong} if wrong.isascii() and wrong.isprintable() else {}
        async with client.get("/snapshot.png", cookies=cookie) as answer:
            assert answer.status == 401

    with page(token=TOKEN) as sink:
        sink.write(frame_of(0))
        talk(sink, scenario)
        assert status_of(sink, "/", Authorization="Bearer wrong") == 401
        assert status_of(sink, "/", Authorization=f"Basic {TOKEN}") == 401


def test_the_token_is_exchanged_for_a_cookie_that_scripts_and_other_sites_do_not_get() -> None:
    async def scenario(client: Any) -> None:
        async with client.post("/login", data=TOKEN) as answer:
            assert answer.status == 204
            cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        async with client.get("/") as answer:
            assert answer.status == 200
        async with viewer(client) as looking:
            assert (await looking.picture())[0]["number"] == 1

    with page(token=TOKEN) as sink:
        sink.write(frame_of(0))
        talk(sink, scenario)
        assert status_of(sink, "/snapshot.png", Authorization=f"Bearer {TOKEN}") == 200


def options(output: str, **more: Any) -> Namespace:
    return Namespace(**{"output": output, "host": None, "token_file": None, **more})


def test_loopback_needs_no_token_and_others_a_host_and_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(browser.TOKEN_VARIABLE, raising=False)
    for name in ("127.0.0.1", "localhost", "127.0.0.9"):
        access = browser.access_for(parse_sink(f"http://{name}:0"), None, None)
        assert (access.host, access.token) == (name, None)
    with pytest.raises(UsageError, match=r"seen from other machines: say --host 0\.0\.0\.0 too"):
        browser.access_for(parse_sink("http://0.0.0.0:0"), None, None)
    with pytest.raises(UsageError, match="two addresses"):
        browser.access_for(parse_sink("http://192.168.0.7:0"), "0.0.0.0", None)
    made_up = browser.access_for(parse_sink("http://127.0.0.1:0"), "0.0.0.0", None)
    assert made_up.host == "0.0.0.0"
    assert made_up.token is not None
    assert len(made_up.token) >= 32
    assert made_up.told
    assert browser.access_for(parse_sink("http://127.0.0.1:0"), "0.0.0.0", None).token != made_up.token


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, file = parse_sink("http://127.0.0.1:0"), tmp_path / "token"
    monkeypatch.setenv(browser.TOKEN_VARIABLE, TOKEN)
    access = browser.access_for(uri, None, None)
    assert (access.token, access.told) == (TOKEN, False)
    file.write_text("another token of mine\n")
    assert browser.access_for(uri, "0.0.0.0", file).token == "another token of mine"
    for content, message in (
        ("short", "at least 16"),
        ("", "at least 16"),
        ("ä" * 20, "ASCII"),
        ("a\nb" * 9, "at least"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError, match=message):
            browser.access_for(uri, None, file)
    with pytest.raises(UsageError, match="No such file"):
        browser.access_for(uri, None, tmp_path / "none")


def test_a_token_that_was_made_up_stands_where_browsers_send_it_to_nobody() -> None:
    access = browser.Access("0.0.0.0", 0, "A" * 32, told=True)
    told: list[str] = []
    with browser.BrowserSink(LIVE, access, compares=True, say=told.append) as sink:
        assert told == [f"look at {sink.address}"]
        address, _, fragment = sink.address.partition("#")
    assert "A" * 32 not in address
    assert fragment == f"token={'A' * 32}"


@pytest.mark.parametrize("text", ["http://127.0.0.1", "http://:8080", "http://127.0.0.1:99999", "http://a:80/x",
                                  "http://me@a:80", "http://a:80/?x", "http://[::1:8080"])  # fmt: skip
def test_an_address_of_a_page_has_a_port_and_nothing_behind_it(text: str) -> None:
    with pytest.raises(UsageError, match=r"as in http://127\.0\.0\.1:8080"):
        parse_sink(text)


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "runtime.video.page_server", raising=False)
    with pytest.raises(MissingExtraError, match=r'aiohttp is not installed: pip install "genedge\[preview\]"'):
        browser_of(options("http://127.0.0.1:0"), compares=True)


def test_options_of_a_page_are_for_a_page(tmp_path: Path) -> None:
    assert browser_of(options("null://"), compares=True) is None
    with pytest.raises(UsageError, match="--host is for -o http"):
        browser_of(options("out.mp4", host="0.0.0.0"), compares=True)
    with pytest.raises(UsageError, match="--token-file is for -o http"):
        browser_of(options("out.mp4", token_file=tmp_path), compares=True)


def test_a_port_that_is_taken_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from bundle_factory import write_small_bundle

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        bundle = write_small_bundle(tmp_path / "tiny-x2")
        assert run(["run", "-b", str(bundle), "-i", "none.mp4", "-o", f"http://127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err == (
        f"error: port {port} of 127.0.0.1 is taken: end the program that has it, or choose another port\n"
    )


# --- which frame comes next -----------------------------------------------------------------------------------------


def test_the_next_picture_is_the_newest_and_comes_when_the_last_was_seen() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            first, images = await looking.picture()
            assert first["number"] == 1
            assert abs(int(images[0].mean()) - 10) <= 1
            for index in range(11, 20):
                sink.write(frame_of(index))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(looking.picture(), 0.5)  # stats come, but no picture
        async with viewer(client) as looking:
            await looking.picture()
            for index in range(20, 30):
                sink.write(frame_of(index))
            await looking.seen(10)
            second, images = await looking.picture()
            assert second["number"] == 20
            assert abs(int(images[0].mean()) - 29) <= 1

    with page() as sink:
        sink.write(frame_of(10))
        talk(sink, scenario)


def test_a_viewer_who_never_answers_holds_nobody_up() -> None:
    async def scenario(client: Any) -> float:
        async with viewer(client) as slow, viewer(client) as good:
            await slow.picture()
            await good.picture()
            began = time.monotonic()
            for index in range(1, 300):
                sink.write(frame_of(index))
            took = time.monotonic() - began
            await good.seen(1)
            assert (await good.picture())[0]["number"] == 300
            return took

    with page() as sink:
        sink.write(frame_of(0))
        assert talk(sink, scenario) < 1.5  # five milliseconds a frame, which a copy of 9 KiB does not take
        assert sink._server.encoded == 2


def test_nothing_is_encoded_while_nobody_looks_and_once_for_all_who_do() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as one, viewer(client) as two, viewer(client) as three:
            for each in (one, two, three):
                assert (await each.picture())[0]["number"] == 50

    with page() as sink:
        for index in range(50):
            sink.write(frame_of(index))
        assert sink._server.encoded == 0
        talk(sink, scenario)
        assert sink._server.encoded == 1


def test_there_is_an_end_to_how_many_may_look(monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.video import page_server

    monkeypatch.setattr(page_server, "MOST_VIEWERS", 1)

    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            await looking.text("state")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await client.ws_connect("/live")
        while sink.screen.looking:
            await asyncio.sleep(0.01)
        async with viewer(client) as following:
            await following.text("state")

    with page() as sink:
        talk(sink, scenario)


def test_a_frame_is_taken_as_it_was_though_its_memory_is_used_again() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            assert abs(int((await looking.picture())[1][0].mean()) - 200) <= 1

    with page() as sink:
        frame = frame_of(200)
        sink.write(frame)
        frame.image[:] = 0
        talk(sink, scenario)


def test_pictures_are_scaled_down_unless_all_pixels_are_asked_for() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            header, images = await looking.picture()
            assert (header["width"], header["height"]) == (2000, 1000)
            assert images[0].shape == (640, 1280, 3)
            await looking.seen(1)
            await looking.socket.send_json({"view": {"full": True, "before": False}})
            assert (await looking.picture())[1][0].shape == (1000, 2000, 3)
        async with client.get("/snapshot.png") as answer:
            assert answer.headers["Content-Disposition"] == 'attachment; filename="genedge-000001.png"'
            picture = cv2.imdecode(np.frombuffer(await answer.read(), np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(picture, image)

    image = np.random.default_rng(0).integers(0, 256, (1000, 2000, 3), dtype=np.uint8)
    with page() as sink:
        sink.write(VideoFrame(image, Fraction(0), 0))
        talk(sink, scenario)


def test_before_comes_beside_after_where_it_was_asked_for() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            assert (await looking.text("state"))["compares"] is True
            assert len((await looking.picture())[1]) == 1
            await looking.socket.send_json({"seen": 1, "view": {"before": True}})
            _, images = await looking.picture()
            assert [int(round(float(each.mean()), -1)) for each in images] == [200, 50]

    with page() as sink:
        sink.write(frame_of(200, original=np.full((24, 32, 3), 50, np.uint8)))
        talk(sink, scenario)


def test_an_original_that_must_not_be_seen_never_leaves() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            assert (await looking.text("state"))["compares"] is False
            await looking.socket.send_json({"view": {"before": True}})
            for index in range(5):
                header, images = await looking.picture()
                assert len(images) == 1
                sink.write(frame_of(200, original=np.full((24, 32, 3), 50, np.uint8)))
                await looking.socket.send_json(
                    {"seen": header["number"], "view": {"before": True, "full": bool(index)}}
                )

    with page(compares=False) as sink:
        sink.write(frame_of(200, original=np.full((24, 32, 3), 50, np.uint8)))
        talk(sink, scenario)
        assert sink.screen.newest is not None
        assert sink.screen.newest.original is None, "nor is it kept"


def test_frames_that_never_came_are_counted() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            stats = await looking.text(
                "stats", lambda content: any(point["number"] == 4 for point in content["points"])
            )
            assert sum(point["dropped"] for point in stats["points"]) == 7 + 2

    with page() as sink:
        for index in (0, 1, 9, 12):
            sink.write(frame_of(index))
        talk(sink, scenario)


def test_the_time_from_the_camera_to_the_page_is_told() -> None:
    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            points = (await looking.text("stats", lambda stats: stats["points"][-1]["delay"] is not None))["points"]
            assert 250 <= points[-1]["delay"] < 1000

    with page() as sink:
        frame = frame_of(0)
        frame.captured = time.monotonic() - 0.25  # type: ignore[attr-defined]
        sink.write(frame)
        talk(sink, scenario)


def test_files_play_at_their_own_speed() -> None:
    info = SourceInfo("clip.mp4", 64, 48, Fraction(30), Fraction(1, 30))
    with page(info) as sink:
        began = time.monotonic()
        for index in range(10):
            sink.write(frame_of(index))
        assert time.monotonic() - began > 8.5 / 30


# --- what can be changed --------------------------------------------------------------------------------------------


def panel_of(*ports: Any) -> tuple[Panel, Controls, FakeSession]:
    manifest = small_manifest({"fp32": Artifact("model.fp32.onnx", "0" * 64)}, codes=ports)
    controls, session = Controls([manifest]), FakeSession(codes=ports)
    controls.attach(0, session, 48, 64)
    return Panel(controls, Switcher([], lambda *_: session, controls, print, resizes=True)), controls, session


def test_codes_are_set_from_the_page_and_complaints_go_to_who_asked() -> None:
    panel, controls, session = panel_of(*CODES)

    async def scenario(client: Any) -> None:
        async with viewer(client) as looking, viewer(client) as other:
            codes = {code["title"]: code for code in (await looking.text("state"))["panel"]["codes"]}
            assert codes["style"]["labels"] == ["a", "b", "c", "d"]
            assert codes["passcode"]["value"] == "(secret)"
            await looking.socket.send_json({"code": {"name": "1.style", "value": "d"}})
            assert (await other.text("note"))["text"] == "style = d"
            assert (await other.text("state", lambda state: state["panel"]["codes"][0]["value"] == "d"))["type"]
            await looking.socket.send_json({"code": {"name": "1.style", "value": "z"}})
            note = await looking.text("note", lambda note: note["bad"])
            assert "z is none of them" in note["text"]
            await looking.socket.send_json({"code": {"name": "1.passcode", "value": "passcode:hello"}})
            await other.text("note", lambda note: note["text"] == "passcode = (secret)")
            assert other.texts["note"]["bad"] is False

    with page() as sink:
        sink.screen.panel = panel
        talk(sink, scenario)
    assert controls.said(0)["style"] == "d"
    assert list(session.code_inputs.now["style"]) == [0, 0, 0, 1]


def test_a_page_reads_no_pictures_of_this_machine(tmp_path: Path) -> None:
    panel, _, session = panel_of(CODE_MAP)
    cv2.imwrite(str(tmp_path / "map.png"), np.zeros((48, 64), np.uint8))
    with pytest.raises(UsageError, match="cannot name pictures"):
        panel.handle("code", {"name": "1.labels", "value": f" {tmp_path}/map.PNG "})
    assert session.code_inputs.now["labels"].ndim == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"code": 3}', '{"code": {}}', '{"nothing": {}}', '{"switch": {"stage": "0"}}',
     '{"switch": {"stage": true}}', '{"view": 1, "seen": {}}', '{"code": {"name": "1.style", "value": "\\u0000"}}',
     "[" * 30000],
)  # fmt: skip
def test_whatever_a_viewer_sends_the_page_goes_on(text: str) -> None:
    panel, controls, _ = panel_of(*CODES)

    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            await looking.picture()
            await looking.socket.send_str(text)
            await looking.socket.send_json({"seen": 1})
            sink.write(frame_of(1))
            assert (await looking.picture())[0]["number"] == 2

    before = controls.said(0)
    with page() as sink:
        sink.screen.panel = panel
        sink.write(frame_of(0))
        talk(sink, scenario)
    assert controls.said(0) == before


# --- how it ends ----------------------------------------------------------------------------------------------------


def test_the_last_picture_stays_while_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "LINGER", 0.3)
    left = threading.Event()

    async def scenario(client: Any) -> None:
        async with viewer(client) as looking:
            lingering.start()
            assert (await looking.text("state", lambda state: bool(state["ended"])))["ended"] == "The video has ended."
            assert (await looking.picture())[0]["number"] == 1
            await asyncio.sleep(0.8)
            assert not left.is_set()

    with page() as sink:
        sink.write(frame_of(0))
        sink.close()
        lingering = threading.Thread(target=lambda: (sink.linger(), left.set()))
        talk(sink, scenario)
        assert left.wait(5)
        lingering.join()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", sink._server._port), timeout=1)


def test_a_run_shows_its_frames_beside_the_input_and_ends(
    make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bundle_factory import write_small_bundle

    monkeypatch.setattr(browser, "LINGER", 0.2)
    sinks = kept_sinks(monkeypatch)
    bundle, report = write_small_bundle(tmp_path / "tiny-x2"), tmp_path / "r.json"
    arguments = ["run", "-b", str(bundle), "-i", str(make_clip()), "-o", "http://127.0.0.1:0", "--json", str(report)]
    assert run([*arguments, "--quiet"]) == 0
    newest = sinks[0].screen.newest
    assert newest is not None
    assert newest.number == 10
    assert newest.image.shape == (96, 128, 3)
    assert newest.original is not None
    assert np.array_equal(newest.image[::2, ::2], newest.original)
    content = json.loads(report.read_text())
    assert (content["outcome"], content["frames"], content["switched"]) == ("complete", 10, [])


def test_deid_shows_no_original(assets: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "LINGER", 0.2)
    sinks = kept_sinks(monkeypatch)
    originals: list[Any] = []
    show = browser.Screen.show
    monkeypatch.setattr(
        browser.Screen, "show", lambda screen, frame: (originals.append(frame.original), show(screen, frame))
    )
    clip = assets("video/short_hamilton_clip.mp4")
    arguments = ["deid", "-i", str(clip), "-o", "http://127.0.0.1:0", "--max-frames", "3", "--method", "solid"]
    assert run([*arguments, "--quiet", "--no-recheck"]) == 0
    screen = sinks[0].screen
    assert originals == [None, None, None]
    assert screen.newest is not None
    assert screen.newest.original is None
    assert not screen.compares
    assert screen.panel is None


def kept_sinks(monkeypatch: pytest.MonkeyPatch) -> list[browser.BrowserSink]:
    """All sinks that are made from now on."""
    sinks: list[browser.BrowserSink] = []
    make = browser.BrowserSink.__init__

    def kept(self: browser.BrowserSink, *arguments: Any, **more: Any) -> None:
        sinks.append(self)
        make(self, *arguments, **more)

    monkeypatch.setattr(browser.BrowserSink, "__init__", kept)
    return sinks


def test_a_port_taken_meanwhile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        access = browser.Access("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(VideoError, match="is taken"):
            browser.BrowserSink(LIVE, access, compares=True, say=print)
