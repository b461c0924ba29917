"""The page in a real headless Chromium: what people see, move and press."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundle_factory import CODE_WEIGHTS, write_conditional_bundle, write_small_bundle

from runtime.bundle import open_bundle
from runtime.codes import Code
from runtime.control import Controls
from runtime.live.panel import Panel
from runtime.live.switch import Slot, Switcher, SwitchSession
from runtime.manifest import Port
from runtime.pipeline import run_pipeline
from runtime.sessions import choose
from runtime.stages import open_stage
from runtime.video.browser import Access, BrowserSink
from runtime.video.source import Source, SourceInfo, VideoFrame

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = [name for name in ("aiohttp", "playwright") if importlib.util.find_spec(name) is None]
if CHROMIUM is None:
    MISSING.append("chromium (apt-get install chromium)")
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

HEIGHT, WIDTH, GREY = 96, 160, 50
ADDED = 40 + 1 + 23  # what the default codes of tiny-codes add to every pixel
TOKEN = "correct horse battery"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


class Ticking(Source):
    """A camera that films a grey wall, and noise at its foot that makes pictures large, 30 times a second."""

    def __init__(self, noise: int = 0) -> None:
        self.info = SourceInfo("wall", WIDTH, HEIGHT, Fraction(30), Fraction(1, 90_000), live=True)
        self.warnings: list[str] = []
        self.count, self.end = 0, threading.Event()
        self._noise, self._random = noise, np.random.default_rng(0)

    def read(self) -> VideoFrame | None:
        if self.end.wait(1 / 30):
            return None
        image = np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)
        if self._noise:
            image[-self._noise :] = self._random.integers(0, 256, (self._noise, WIDTH, 3))
        self.count += 1
        return VideoFrame(image, Fraction(self.count, 30), self.count - 1, original=image)

    def close(self) -> None:
        self.end.set()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    rule = Code("bits", 3, (0, 0, 0), 0, 1, ("hat", "beard", "glasses"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODE_WEIGHTS, "attributes", (10, 30, 60))
        ports = [Port("attributes", "code", "float32", ("n", 3), code=rule)]
        bits = write_conditional_bundle(folder / "tiny-bits", name="tiny-bits", ports=ports)
    return {
        "tiny-bits": bits,
        "tiny-codes": write_conditional_bundle(folder / "tiny-codes"),
        "tiny-x2": write_small_bundle(folder / "tiny-x2"),
        "tiny-x3": write_small_bundle(folder / "tiny-x3", name="tiny-x3", scale=3),
    }


@contextlib.contextmanager
def running(
    bundles: dict[str, Path],
    name: str = "tiny-codes",
    *,
    token: str | None = None,
    compares: bool = True,
    noise: int = 0,
    broken: threading.Event | None = None,
    port: int = 0,
) -> Iterator[tuple[BrowserSink, Ticking]]:
    """A run with its page, as the command line puts it together, until the body ends."""
    source, bundle = Ticking(noise), open_bundle(bundles[name])
    choice = choose(bundle, precision="fp32")

    def opens(bundle: Any, choice: Any, slot: Slot) -> Any:
        if bundle.manifest.name == "tiny-x2" and broken is not None and broken.is_set():
            raise RuntimeError("the engine has no memory left")
        return open_stage(bundle, choice, slot.height, slot.width, threads=1)

    session = SwitchSession(open_stage(bundle, choice, HEIGHT, WIDTH, threads=1))
    controls = Controls([bundle.manifest])
    controls.attach(0, session, HEIGHT, WIDTH)
    access = Access("127.0.0.1", port, token)
    with session, BrowserSink(source.info, access, compares=compares, say=lambda text: None) as sink:
        slots, others = [Slot(bundle, choice, session, HEIGHT, WIDTH)], [open_bundle(path) for path in bundles.values()]
        switcher = Switcher(slots, opens, controls, sink.tell, resizes=True, bundles=others)
        sink.screen.panel = Panel(controls, switcher)
        thread = threading.Thread(target=run_pipeline, args=(source, [session], sink))
        thread.start()
        try:
            yield sink, source
        finally:
            switcher.close()
            source.end.set()
            thread.join(20)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--disable-dev-shm-usage"]  # containers have little of it
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; nothing may go wrong in it that its console tells."""
    contexts, complaints = [], []

    def open_page(address: str, size: dict[str, int] = DESKTOP, **more: Any) -> Any:
        contexts.append(chromium.new_context(viewport=size, **more))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    expected = re.compile("401|ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE")  # a wrong token; the run has ended
    assert [text for text in complaints if not expected.search(text)] == []


def grey_at(page: Any, share: float) -> int:
    """Brightness of the picture at a share of its width, a quarter down."""
    return int(
        page.evaluate(
            """(share) => {
                const canvas = document.getElementById("picture");
                const context = canvas.getContext("2d");
                return context.getImageData(Math.floor(share * (canvas.width - 1)), canvas.height / 4, 1, 1).data[1];
            }""",
            share,
        )
    )


def until(check: Callable[[], bool], page: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "that did not happen"
        page.wait_for_timeout(50)


def shows(page: Any, left: int, right: int) -> Callable[[], bool]:
    return lambda: abs(grey_at(page, 0.02) - left) <= 3 and abs(grey_at(page, 0.98) - right) <= 3


def number_of(page: Any) -> int:
    return int(page.get_attribute("#facts", "data-number") or 0)


# --- what is seen ---------------------------------------------------------------------------------------------------


def test_the_slider_lies_between_before_and_after(bundles: dict[str, Path], look: Callable[..., Any]) -> None:
    before, after = GREY, GREY + ADDED
    with running(bundles) as (sink, _):
        page = look(sink.address)
        page.wait_for_selector("#split")
        until(shows(page, before, after), page)
        assert abs(grey_at(page, 0.48) - before) <= 3
        assert abs(grey_at(page, 0.52) - after) <= 3
        box = page.locator("#picture").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
        page.mouse.up()
        until(lambda: abs(grey_at(page, 0.76) - before) <= 3 and abs(grey_at(page, 0.84) - after) <= 3, page)
        page.focus("#split")
        page.keyboard.press("Home")
        until(shows(page, after, after), page)
        page.keyboard.press("End")
        until(shows(page, before, before), page)
        page.uncheck("#compare")
        assert not page.is_visible("#split")
        until(shows(page, after, after), page)
        first = number_of(page)
        until(lambda: number_of(page) > first + 5, page)  # it goes on


def test_where_the_original_must_not_be_seen_there_is_no_slider(
    bundles: dict[str, Path], look: Callable[..., Any]
) -> None:
    with running(bundles, compares=False) as (sink, _):
        page = look(sink.address)
        until(lambda: number_of(page) > 3, page)
        assert not page.is_visible("#split")
        assert not page.is_visible("#compare")
        page.evaluate("document.getElementById('compare').checked = true; showView(); send({view: {before: true}})")
        page.wait_for_timeout(300)
        assert shows(page, GREY + ADDED, GREY + ADDED)()
        assert page.evaluate("before") is None


def test_the_plot_is_drawn_and_its_figures_are_those_of_the_run(
    bundles: dict[str, Path], look: Callable[..., Any]
) -> None:
    with running(bundles) as (sink, source):
        page = look(sink.address)
        until(lambda: page.evaluate("points.length") >= 8, page)
        began, count = time.monotonic(), source.count
        page.wait_for_timeout(2500)
        rate = (source.count - count) / (time.monotonic() - began)
        figure = re.fullmatch(r"([\d.]+) of 30 fps", page.inner_text("#value-fps"))
        assert figure is not None
        assert float(figure[1]) == pytest.approx(rate, rel=0.5)
        assert float(page.inner_text("#value-latency").removesuffix(" ms")) > 0
        assert page.inner_text("#value-drops").isdigit()
        for name in ("fps", "latency", "drops"):
            drawn = page.evaluate(
                """(name) => {
                    const canvas = document.getElementById(`plot-${name}`);
                    const color = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
                    const wanted = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
                    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                    const near = (at) => wanted.every((each, k) => Math.abs(data[at + k] - each) < 24);
                    let count = 0;
                    for (let at = 0; at < data.length; at += 4) count += data[at + 3] > 200 && near(at);
                    return count;
                }""",
                name,
            )
            assert drawn > 8, name


def test_a_snapshot_has_all_pixels(bundles: dict[str, Path], look: Callable[..., Any], tmp_path: Path) -> None:
    with running(bundles, "tiny-x3") as (sink, _):
        page = look(sink.address)
        until(lambda: number_of(page) > 0, page)
        with page.expect_download() as download:
            page.click("#snapshot")
        download.value.save_as(tmp_path / "snapshot.png")
        assert re.fullmatch(r"genedge-\d{6}\.png", download.value.suggested_filename)
        image = cv2.imread(str(tmp_path / "snapshot.png"))
        assert image is not None
        assert image.shape == (3 * HEIGHT, 3 * WIDTH, 3)
        assert np.all(image == GREY)


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
def test_it_fits_the_screen_and_the_keyboard_reaches_everything(
    bundles: dict[str, Path], look: Callable[..., Any], size: dict[str, int], scheme: str
) -> None:
    with running(bundles) as (sink, _):
        page = look(sink.address, size, color_scheme=scheme, has_touch=size is PHONE)
        until(lambda: number_of(page) > 0, page)
        page.wait_for_selector("#codes")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        reached = []
        page.focus("body")
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id"))
        wanted = {"split", "compare", "full", "snapshot", "bundle-0", "engine-0", "code-1.style", "code-1.passcode"}
        assert wanted <= set(reached)
        for name in ("compare-label", "snapshot", "bundle-0", "engine-0"):
            assert page.locator(f"#{name}").bounding_box()["height"] >= 40, "fingers are no pointers"
        unnamed = page.evaluate(
            """[...document.querySelectorAll("input, select, button, a")].filter((each) => each.offsetParent
                && !each.getAttribute("aria-label") && !(each.labels && each.labels.length)
                && !each.textContent.trim()).map((each) => each.id)"""
        )
        assert unnamed == []


# --- what is changed ------------------------------------------------------------------------------------------------


def test_codes_change_the_picture_while_it_runs(bundles: dict[str, Path], look: Callable[..., Any]) -> None:
    with running(bundles) as (sink, _):
        page, other = look(sink.address), look(sink.address, PHONE)
        until(shows(page, GREY, GREY + ADDED), page)
        page.select_option("[id='code-1.style']", "d")
        until(shows(page, GREY, GREY + ADDED + 80), page)
        until(lambda: other.input_value("[id='code-1.style']") == "d", other)
        page.focus("[id='code-1.strength-0']")
        page.keyboard.press("Home")
        until(shows(page, GREY, GREY + ADDED + 80 - 5), page)
        page.fill("[id='code-1.passcode']", "open sesame")
        page.keyboard.press("Enter")
        page.wait_for_selector(".note >> text=passcode = (secret)")
        assert page.input_value("[id='code-1.passcode']") == ""
        assert "sesame" not in page.content()


def test_bits_are_pressed_one_by_one(bundles: dict[str, Path], look: Callable[..., Any]) -> None:
    with running(bundles, "tiny-bits") as (sink, _):
        page = look(sink.address, PHONE)
        until(shows(page, GREY, GREY), page)
        page.click("text=beard")
        until(shows(page, GREY, GREY + 30), page)
        page.focus("[id='code-1.attributes-2']")
        page.keyboard.press("Space")
        until(shows(page, GREY, GREY + 90), page)
        page.click("text=beard")
        until(shows(page, GREY, GREY + 60), page)


def test_a_page_whose_run_is_over_finds_the_next_one(bundles: dict[str, Path], look: Callable[..., Any]) -> None:
    with running(bundles) as (sink, _):
        page, port = look(sink.address), sink._server._port
        until(lambda: number_of(page) > 0, page)
    page.wait_for_selector("#status >> text=no connection")
    with running(bundles, "tiny-x3", token=TOKEN, port=port):
        page.wait_for_selector("#token")


def test_a_stage_becomes_another_bundle_in_another_size(bundles: dict[str, Path], look: Callable[..., Any]) -> None:
    broken = threading.Event()
    with running(bundles, broken=broken) as (sink, source):
        page = look(sink.address)
        until(shows(page, GREY, GREY + ADDED), page)
        page.select_option("#bundle-0", "tiny-x3")
        page.wait_for_selector(".note >> text=now tiny-x3")
        until(shows(page, GREY, GREY), page)
        assert page.inner_text("#facts").startswith(f"{3 * WIDTH} × {3 * HEIGHT}")
        assert not page.is_visible("#codes")
        assert page.input_value("#bundle-0") == "tiny-x3"
        broken.set()
        page.select_option("#bundle-0", "tiny-x2")
        page.wait_for_selector(".note.bad >> text=the engine has no memory left")
        until(lambda: page.input_value("#bundle-0") == "tiny-x3", page)
        engines = page.locator("#engine-0 option").all_inner_texts()
        assert len(engines) > 1
        page.select_option("#engine-0", engines[-1])
        page.wait_for_selector(f".note >> text=now tiny-x3 on {engines[-1]}")
        assert sink.frames_written >= source.count - 20, "the pipeline has gone on"


# --- who looks ------------------------------------------------------------------------------------------------------


def test_a_slow_viewer_gets_fewer_frames_and_takes_none_from_others(
    bundles: dict[str, Path], look: Callable[..., Any]
) -> None:
    with running(bundles, "tiny-x3", noise=HEIGHT // 2) as (sink, source):
        good, slow = look(sink.address), look(sink.address, PHONE)
        until(lambda: number_of(good) > 3 and number_of(slow) > 3, good)
        for page in (good, slow):
            page.evaluate(
                """() => {
                    window.sizes = [];
                    socket.addEventListener("message", ({ data }) => {
                        if (typeof data !== "string") window.sizes.push(data.byteLength);
                    });
                }"""
            )
        until(lambda: bool(good.evaluate("sizes.length")), good)
        rate = 2 * good.evaluate("sizes[0]")  # bytes a second
        line = slow.context.new_cdp_session(slow)
        line.send("Network.enable")
        limits = {"offline": False, "latency": 20, "downloadThroughput": rate, "uploadThroughput": rate}
        line.send("Network.emulateNetworkConditions", limits)
        slow.wait_for_timeout(1000)
        for page in (good, slow):
            page.evaluate("sizes.length = 0")
        read, written = source.count, sink.frames_written
        slow.wait_for_timeout(4000)
        read, written = source.count - read, sink.frames_written - written
        got_good, got_slow = good.evaluate("sizes.length"), slow.evaluate("sizes.length")
        assert abs(read - written) <= 10, "the pipeline waits for nobody"
        assert got_slow <= 12, "two a second fit through"
        assert got_good >= 2 * got_slow
        until(lambda: slow.evaluate("points.some((point) => point.skipped > 0)"), slow)


def test_a_wrong_token_gets_nothing_and_the_right_one_the_page(
    bundles: dict[str, Path], look: Callable[..., Any]
) -> None:
    with running(bundles, token=TOKEN) as (sink, _):
        page = look(sink.address, PHONE)
        page.fill("#token", "wrong token")
        page.click("button")
        page.wait_for_selector("#wrong >> text=This is not the token")
        assert page.locator("#picture").count() == 0
        assert sink._server.encoded == 0
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#picture")
        until(lambda: number_of(page) > 0, page)
        told = look(f"{sink.address}/#token={TOKEN.replace(' ', '%20')}")
        told.wait_for_selector("#picture")
        until(lambda: number_of(told) > 0, told)
        assert TOKEN.split()[0] not in told.url
        assert "battery" not in told.evaluate("document.cookie")


def test_the_last_picture_stays_when_the_video_has_ended(bundles: dict[str, Path], look: Callable[..., Any]) -> None:
    with running(bundles) as (sink, source):
        page = look(sink.address)
        until(lambda: number_of(page) > 3, page)
        source.end.set()
        page.wait_for_selector("#status >> text=ended")
        until(lambda: number_of(page) == sink.frames_written, page)
        assert shows(page, GREY, GREY + ADDED)()
        assert page.is_disabled("#bundle-0")
        late = look(sink.address)
        until(lambda: number_of(late) == sink.frames_written, late)
