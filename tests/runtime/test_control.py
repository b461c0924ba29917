"""Codes while a run is under way: the command line, a file that is watched, and keys."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundle_factory import (
    CODE_MAP,
    CODE_WEIGHTS,
    CODES,
    conditional,
    random_frames,
    small_manifest,
    write_conditional_bundle,
    write_small_bundle,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cli import run
from runtime.codes import passcode_bits
from runtime.control import Controls, FileWatcher, KeyReader, Keys, read_passcode
from runtime.errors import UsageError
from runtime.manifest import Artifact, Manifest, Port
from runtime.sessions.fake import FakeSession

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
ALL = (*CODES, CODE_MAP)


def manifest(*ports: Port, name: str = "net") -> Manifest:
    return small_manifest({"fp32": Artifact("model.fp32.onnx", "0" * 64)}, name=name, codes=ports)


def controls_of(*ports: Port) -> tuple[Controls, FakeSession]:
    controls, session = Controls([manifest(*ports)]), FakeSession(codes=ports)
    controls.attach(0, session, 4, 6)
    return controls, session


def now(session: FakeSession, name: str) -> Any:
    return session.code_inputs.now[name].tolist()


# --- controls ---------------------------------------------------------------------------------------------------------


def test_what_was_said_before_a_stage_is_open_reaches_its_session() -> None:
    controls, session = Controls([manifest(*CODES)]), FakeSession(codes=CODES)
    controls.apply("style", "d")
    controls.apply("strength", "red=1")
    assert controls.said(0) == {"style": "d", "passcode": "(secret)", "strength": "1,6"}
    assert now(session, "style") == [0, 1, 0, 0]
    controls.attach(0, session, 4, 6)
    assert now(session, "style") == [0, 0, 0, 1]
    assert now(session, "strength") == [1, 6]
    controls.apply("style", "0")
    assert now(session, "style") == [1, 0, 0, 0]


def test_what_is_invalid_changes_nothing() -> None:
    controls, session = controls_of(*CODES)
    controls.apply("style", "c")
    for name, text, words in (
        ("style", "7", "style has 4 classes, 0 to 3 .*; 7 is none of them"),
        ("mood", "1", "no code is called 'mood': there are style, passcode, strength"),
        ("style", "x.png", "x.png is none of them"),  # no map
    ):
        with pytest.raises(UsageError, match=words):
            controls.apply(name, text)
    assert now(session, "style") == [0, 0, 1, 0]
    assert controls.said(0)["style"] == "c"
    with pytest.raises(UsageError, match=r"no code is called 'mood': there is style$"):
        Controls([manifest(CODES[0])]).apply("mood", "1")


def test_names_of_several_bundles() -> None:
    style, strength = CODES[0], CODES[2]
    controls = Controls([manifest(style, name="a"), manifest(name="plain"), manifest(style, strength, name="b")])
    assert [dial.name for dial in controls.dials] == ["1.style", "3.style", "strength"]
    for name, stage in (("1.style", 0), ("a.style", 0), ("3.style", 2), ("b.style", 2), ("strength", 2)):
        assert controls.dial(name).stage == stage
    with pytest.raises(UsageError, match=r"style is a code of several bundles: say 1\.style or 3\.style"):
        controls.dial("style")
    with pytest.raises(UsageError, match=r"no code is called '2.style': there are 1\.style, 3\.style, strength"):
        controls.dial("2.style")


def test_a_bundle_twice_has_its_stages_names() -> None:
    controls = Controls([manifest(CODES[0]), manifest(CODES[0])])
    controls.apply("2.style", "3")
    assert [controls.said(stage) for stage in (0, 1)] == [{"style": "b"}, {"style": "d"}]
    with pytest.raises(UsageError, match=r"net\.style is a code of several bundles"):
        controls.dial("net.style")


def test_a_stages_name_is_never_ambiguous() -> None:
    controls = Controls([manifest(CODES[0], name="2"), manifest(CODES[0], name="b")])
    assert [controls.dial(name).stage for name in ("1.style", "2.style", "b.style")] == [0, 1, 1]


def test_a_map_is_a_picture_of_any_size_or_the_same_everywhere(tmp_path: Path) -> None:
    controls, session = controls_of(CODE_MAP)
    path = tmp_path / "classes.PNG"
    cv2.imwrite(str(tmp_path / "classes.png"), np.array([[0, 1], [1, 2]], np.uint8))
    (tmp_path / "classes.png").rename(path)
    controls.apply("labels", str(path))
    values = session.code_inputs.now["labels"]
    assert values.shape == (3, 4, 6)
    np.testing.assert_array_equal(values.argmax(axis=0), np.kron([[0, 1], [1, 2]], np.ones((2, 3), int)))
    assert controls.said(0) == {"labels": str(path)}
    controls.step("labels", 1)
    assert now(session, "labels") == [1, 0, 0]
    controls.apply("labels", "1")
    assert now(session, "labels") == [0, 1, 0]


def test_a_passcode_goes_to_the_code_of_that_name_or_to_the_only_bits() -> None:
    passcode = CODES[1]
    other = Port("hair", "code", "float32", ("n", 3), code=passcode.code)
    wanted = [1 if bit else -1 for bit in passcode_bits("sesame", 3)]
    for ports in ((passcode,), (other,), (other, passcode)):
        controls, session = controls_of(*ports)
        controls.apply_passcode("sesame")
        assert now(session, ports[-1].name) == wanted
        assert controls.said(0)[ports[-1].name] == "(secret)"
    assert controls.said(0)["hair"] == "001"
    for ports, words in (((CODES[0],), "no code of bits"), ((other, Port("b", *other_parts(other))), "several codes")):
        controls, _ = controls_of(*ports)
        with pytest.raises(UsageError, match=f"there is no place for a passcode: {words}"):
            controls.apply_passcode("sesame")


def other_parts(port: Port) -> tuple[Any, ...]:
    return port.role, port.dtype, port.shape, port.source, port.initial, port.code


@pytest.mark.parametrize("content", ["naïve \r\n", "naïve ", "\ufeffnaïve \n"], ids=["line", "bare", "mark"])
def test_a_passcode_file(tmp_path: Path, content: str) -> None:
    """Its spaces count; the end of its line does not, nor the mark that Windows' editor puts in front."""
    path = tmp_path / "secret"
    path.write_bytes(content.encode())
    assert read_passcode(path) == "naïve "
    controls, session = controls_of(CODES[1])
    controls.apply_passcode(read_passcode(path))
    assert now(session, "passcode") == [1 if bit else -1 for bit in passcode_bits("naïve ", 3)]
    assert passcode_bits("naïve ", 3) != passcode_bits("naïve", 3)


def test_what_is_no_passcode_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for place, words in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=f"{place}: {words}"):
            read_passcode(place)
    for content, words in (
        (b"", "holds no passcode"),
        (b"\n", "holds no passcode"),
        (b"\xef\xbb\xbf\r\n", "holds no passcode"),
        (b"\xff", "not a text"),
        (b"x" * 5000, "more than 4096 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=words):
            read_passcode(path)


def test_a_passcode_is_not_repeated_in_a_complaint() -> None:
    """Somebody forgets what stands in front of a passcode, or says it of another code of bits."""
    controls, session = controls_of(CODES[1])
    for text in ("sesame", "sesame+street", "passcod:sesame"):
        with pytest.raises(UsageError, match="passcode takes 3 digits 0 or 1, or passcode:TEXT") as caught:
            controls.apply("passcode", text)
        assert "sesame" not in str(caught.value)
    assert now(session, "passcode") == [-1, -1, 1]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_step_and_choose() -> None:
    controls, session = controls_of(*CODES)
    said: list[str] = []
    keys = Keys(controls, said.append)
    assert keys.hint == "keys: [ and ] change style, Tab chooses another code"
    for key in ("]", "]", "x", "[", "\t", "]", "\t", "]", "\t"):
        keys.press(key)
    assert said == [
        "style = c", "style = d", "style = c", "passcode = (secret)", "passcode = (secret)", "strength = 5,6",
        "strength = 10,11", "style = c",
    ]  # fmt: skip
    assert now(session, "style") == [0, 0, 1, 0]
    assert now(session, "passcode") == [-1, 1, -1]


def test_keys_without_codes_or_with_a_session_that_fails_do_no_harm() -> None:
    Keys(Controls([manifest()]), print).press("]")
    controls, session = controls_of(*CODES)
    said: list[str] = []

    def fail(name: str, values: Any) -> None:
        raise RuntimeError("gone\x1b[2J")

    session.set_code = fail  # type: ignore[method-assign]
    Keys(controls, said.append).press("]")
    assert said == ["warning: gone\\x1b[2J"]
    assert controls.said(0)["style"] == "b"


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path: Path) -> Any:
    """(path, watcher that is looked through by hand, session, what was said)"""
    controls, session = controls_of(*CODES)
    said: list[str] = []
    path = tmp_path / "control.json"
    return path, FileWatcher(path, controls, said.append), session, said


def write(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_the_file_is_applied_and_applied_again_when_it_changes(watched: Any) -> None:
    path, watcher, session, said = watched
    write(path, {"style": "2", "strength": [1, 2.5]})
    watcher.look()
    assert (now(session, "style"), now(session, "strength")) == ([0, 0, 1, 0], [1, 2.5])
    assert said == ["style = c", "strength = 1,2.5"]
    write(path, {"style": 3, "strength": [1, 2.5]})  # the same number of bytes less two, in the same moment
    watcher.look()
    watcher.look()
    assert now(session, "style") == [0, 0, 0, 1]
    assert said[2:] == ["style = d"]


def test_only_what_changes_in_the_file_is_applied(watched: Any) -> None:
    """Else a key's step would be undone by an entry that nobody has touched."""
    path, watcher, session, _ = watched
    write(path, {"style": "2", "strength": 1})
    watcher.look()
    watcher._controls.apply("style", "0")
    write(path, {"style": "2", "strength": 2})
    watcher.look()
    assert (now(session, "style"), now(session, "strength")) == ([1, 0, 0, 0], [2, 2])


def test_a_change_within_one_tick_of_the_clock_is_seen(watched: Any) -> None:
    path, watcher, session, _ = watched
    write(path, {"style": "2"})
    moment = time.time_ns()
    os.utime(path, ns=(moment, moment))
    watcher.look()
    write(path, {"style": "3"})
    os.utime(path, ns=(moment, moment))
    watcher.look()
    assert now(session, "style") == [0, 0, 0, 1]


def test_an_old_file_is_not_read_again_and_again(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, watcher, _, _ = watched
    write(path, {"style": "2"})
    os.utime(path, (1e9, 1e9))
    watcher.look()
    monkeypatch.setattr("runtime.control._read", lambda path: pytest.fail("read again"))
    watcher.look()
    assert watcher._complaint == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "must be an object"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b'{"style": "2", "style": "3"}', "the same key twice"),
        (b'{"style": NaN}', "not valid JSON"),
        (b"[" * 50_000, "not valid JSON"),
        (b" " * 70_000, "more than 65536 bytes"),
    ],
)
def test_a_file_that_is_no_control_file_is_complained_about_once(watched: Any, content: bytes, words: str) -> None:
    path, watcher, session, said = watched
    write(path, {"style": "3"})
    watcher.look()
    path.write_bytes(content)
    for _ in range(5):
        watcher.look()
    assert [line for line in said if line.startswith("warning:")] == said[1:]
    assert len(said) == 2
    assert words in said[1]
    assert said[1].isprintable()
    assert len(said[1]) < 500
    assert now(session, "style") == [0, 0, 0, 1]
    write(path, {"style": "0"})
    watcher.look()
    assert now(session, "style") == [1, 0, 0, 0]


def test_a_file_that_is_being_written_is_given_time(watched: Any) -> None:
    path, watcher, session, said = watched
    path.write_bytes(b'{"sty')
    watcher.look()
    write(path, {"style": "3"})
    watcher.look()
    assert said == ["style = d"]
    assert now(session, "style") == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("7", "style has 4 classes"), (True, "style must be a text, a number"), (None, "style must be a text"),
        ([], "style must be"), ([[1]], "style must be"), ({"a": 1}, "style must be"), (["0"], "style must be"),
        (1e308, "style must be"), ("\x1b[2J", r"\x1b[2J is none of them"), (10**400, "style must be a text"),
    ],
)  # fmt: skip
def test_a_value_that_is_invalid_is_complained_about_once_and_the_others_are_applied(
    watched: Any, value: Any, words: str
) -> None:
    path, watcher, session, said = watched
    write(path, {"style": value, "mood": 1, "strength": 9})
    for _ in range(3):
        watcher.look()
    assert len(said) == 3
    assert words in said[0]
    assert said[0].startswith("warning: ")
    assert "no code is called 'mood'" in said[1]
    assert said[2] == "strength = 9"
    assert all(line.isprintable() and len(line) < 500 for line in said)
    assert now(session, "style") == [0, 1, 0, 0]


def test_a_file_that_is_missing_is_waited_for(watched: Any) -> None:
    path, watcher, session, said = watched
    for _ in range(3):
        watcher.look()
    assert said == [f"warning: {path}: No such file or directory"]
    write(path, {"style": "3"})
    watcher.look()
    path.unlink()
    watcher.look()
    watcher.look()
    assert said == [said[0], "style = d", said[0]]
    assert now(session, "style") == [0, 0, 0, 1]


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_keeps_nobody_waiting(watched: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, watcher, _, said = watched
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path)}[kind]()
    monkeypatch.setattr(os, "open", lambda *args: pytest.fail("opened"))
    begun = time.monotonic()
    watcher.look()
    watcher.look()
    assert time.monotonic() - begun < 5
    assert len(said) == 1
    assert said[0].startswith("warning: ")


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["style", "strength", "passcode", "1.style"]) | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        ),
        max_size=4,
    ).map(lambda content: json.dumps(content).encode())
)
def test_whatever_the_file_holds_the_run_goes_on(content: bytes) -> None:
    controls, session = controls_of(*CODES)
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "control.json"
        path.write_bytes(content)
        watcher = FileWatcher(path, controls, said.append)
        for _ in range(3):
            watcher.look()
        told = len(said)
        watcher.look()
    assert len(said) == told  # each complaint once
    assert all(line.isprintable() and len(line) < 600 for line in said)
    for name, code in session.codes.items():
        code.checked(session.code_inputs.now[name])


def test_the_thread_applies_a_change_and_ends(tmp_path: Path) -> None:
    controls, session = controls_of(*CODES)
    path = tmp_path / "control.json"
    write(path, {"style": "2"})
    with FileWatcher(path, controls, lambda text: None):
        assert now(session, "style") == [0, 0, 1, 0]  # at once, before the first frame
        write(path, {"style": "3"})
        until(lambda: now(session, "style") == [0, 0, 0, 1])
    assert not [thread for thread in threading.enumerate() if thread.name == "control file"]


def until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# --- the terminal -----------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """(master, slave) of a pseudo terminal that is standard input."""
    master, slave = pty.openpty()
    with os.fdopen(os.dup(slave)) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield master, slave
    for handle in (master, slave):
        os.close(handle)


def test_keys_of_a_terminal_come_one_by_one_and_it_is_put_back(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    before, pressed = termios.tcgetattr(slave), []
    with KeyReader(pressed.append) as reader:
        assert reader.active
        assert not termios.tcgetattr(slave)[3] & (termios.ICANON | termios.ECHO)
        assert termios.tcgetattr(slave)[3] & termios.ISIG  # Ctrl-C still works
        os.write(master, b"]\t\xff")
        until(lambda: len(pressed) == 2)
    assert pressed == ["]", "\t"]
    assert termios.tcgetattr(slave) == before
    assert not reader.active


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_terminal_is_put_back_after_an_error(terminal: tuple[int, int], error: type[BaseException]) -> None:
    before = termios.tcgetattr(terminal[1])
    with pytest.raises(error), KeyReader(lambda key: None):
        raise error
    assert termios.tcgetattr(terminal[1]) == before


def test_the_terminal_is_put_back_after_ctrl_c_while_it_is_left(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = termios.tcgetattr(terminal[1])
    reader = KeyReader(lambda key: None).__enter__()

    def interrupted(timeout: float) -> None:
        raise KeyboardInterrupt

    assert reader._thread is not None
    monkeypatch.setattr(reader._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reader.__exit__(None, None, None)
    assert termios.tcgetattr(terminal[1]) == before


def test_what_is_no_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = os.pipe()
    with os.fdopen(inner) as stdin, os.fdopen(outer, "w"):
        for value in (stdin, None):
            monkeypatch.setattr(sys, "stdin", value)
            with KeyReader(lambda key: pytest.fail("a key")) as reader:
                assert not reader.active


def test_a_terminal_of_somebody_else_is_left_alone(terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in the background would be stopped by reading from it."""
    monkeypatch.setattr(os, "tcgetpgrp", lambda handle: os.getpgrp() + 1)
    before = termios.tcgetattr(terminal[1])
    with KeyReader(lambda key: pytest.fail("a key")) as reader:
        assert not reader.active
        assert termios.tcgetattr(terminal[1]) == before


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditional_bundle(tmp_path_factory.mktemp("bundles") / "tiny-codes", ports=ALL)


@pytest.fixture
def picture(tmp_path: Path) -> tuple[Path, Any]:
    frames = random_frames(1, 8, 10, 3)
    cv2.imwrite(str(tmp_path / "in.png"), frames[0])
    return tmp_path / "in.png", frames


def command(bundle: Path, source: Path, out: Path, *more: str | Path) -> list[str]:
    return [str(part) for part in ("run", "-b", bundle, "-i", source, "-o", out, "--quiet", "--threads", "1", *more)]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_codes_on_the_command_line(bundle: Path, picture: Any, tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend)
    (source, frames), out, secret = picture, tmp_path / "out.png", tmp_path / "secret"
    secret.write_text("sesame\n")
    classes = np.random.default_rng(0).integers(0, 3, (8, 10), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "classes.png"), classes)
    arguments = ["--code", "style=3", "--code", "tiny-codes.strength=red=7", "--code", f"labels={tmp_path}/classes.png"]
    arguments += ["--passcode-file", str(secret), "--backend", backend, "--json", str(tmp_path / "r.json")]
    assert run(command(bundle, source, out, *arguments)) == 0
    codes = {
        "style": (0, 0, 0, 1),
        "strength": (7, 6),
        "passcode": [1 if bit else -1 for bit in passcode_bits("sesame", 3)],
        "labels": np.arange(3)[:, None, None] == classes,
    }
    np.testing.assert_array_equal(cv2.imread(str(out)), conditional(frames, codes, ALL)[0])
    [stage] = json.loads((tmp_path / "r.json").read_text())["stages"]
    shown = {"style": "d", "strength": "7,6", "passcode": "(secret)", "labels": f"{tmp_path}/classes.png"}
    assert stage["codes"] == shown


def test_a_map_is_cut_into_tiles_with_the_frame(bundle: Path, tmp_path: Path) -> None:
    frames = random_frames(1, 50, 40, 3)
    cv2.imwrite(str(tmp_path / "in.png"), frames[0])
    classes = np.random.default_rng(0).integers(0, 3, (50, 40), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "classes.png"), classes)
    out = tmp_path / "out.png"
    code = f"labels={tmp_path}/classes.png"
    assert run(command(bundle, tmp_path / "in.png", out, "--code", code, "--tile", "16")) == 0
    wanted = conditional(frames, {"labels": np.arange(3)[:, None, None] == classes}, ALL)
    np.testing.assert_array_equal(cv2.imread(str(out)), wanted[0])


def test_codes_of_several_stages(bundle: Path, picture: Any, tmp_path: Path) -> None:
    (source, frames), out = picture, tmp_path / "out.png"
    other = write_conditional_bundle(tmp_path / "other", name="other", ports=CODES[:1])
    arguments = ["-b", str(other), "--code", "1.style=c", "--code", "other.style=0", "--code", "strength=1"]
    assert run(command(bundle, source, out, *arguments)) == 0
    once = conditional(frames, {"style": (0, 0, 1, 0), "strength": (1, 1)}, ALL)
    twice = conditional(once, {"style": (1, 0, 0, 0)}, CODES[:1])
    np.testing.assert_array_equal(cv2.imread(str(out)), twice[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--code", "style=7"], "style has 4 classes, 0 to 3 (a, b, c, d); 7 is none of them"),
        (["--code", "mood=7"], "no code is called 'mood': there are style, passcode, strength, labels"),
        (["--code", "strength=1,2,3"], "strength has 2 numbers, not 3"),
        (["--code", "strength=nan"], "strength: 'nan' is no number"),
        (["--code", "passcode=passcode:sesame"], "everybody on this machine can read a command line"),
        (["--code", "labels=nowhere.png"], "labels: nowhere.png is no file"),
        (["--passcode-file", "/dev/null"], "/dev/null: holds no passcode"),
    ],
)
def test_mistakes_on_the_command_line(
    bundle: Path, picture: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(command(bundle, picture[0], tmp_path / "out.png", *arguments)) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert words in error
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("option", [["--code", "a=1"], ["--control", "x.json"], ["--passcode-file", "/dev/null"]])
def test_a_bundle_that_takes_no_code(
    picture: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    plain = write_small_bundle(tmp_path / "plain")
    assert run(command(plain, picture[0], tmp_path / "out.png", *option)) == 2
    assert f"tiny-x2 takes no code: leave out {option[0]}" in capsys.readouterr().err


def test_what_is_no_assignment(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("style", "=2"):
        with pytest.raises(SystemExit) as caught:
            run(["run", "-b", str(bundle), "-i", "x", "-o", "y", "--code", text])
        assert caught.value.code == 2
        assert "is not NAME=VALUE, for example style=2" in capsys.readouterr().err


# --- a real run that is changed while it goes on ----------------------------------------------------------------------

FRAMES = 120  # noise, whose PNG take some ten milliseconds each to write: the run lasts seconds


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    for index in range(FRAMES):
        cv2.imwrite(str(folder / f"{index:03d}.png"), random_frames(180, 240, 3, seed=index))
    return folder


def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    default = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, "-m", "runtime", *arguments], **{**default, **options})


def styles(folder: Path, noise: Path) -> list[int]:
    """The class of every frame that was written, each of which has one class all over."""
    found = []
    default = int(conditional(np.zeros((1, 1, 1, 3), np.uint8), ports=CODES)[0, 0, 0, 0]) - 40
    for path in sorted(folder.glob("out_*.png")):
        index = int(path.stem.removeprefix("out_"))
        frame = cv2.imread(str(noise / f"{index:03d}.png")).astype(int)
        [offset] = np.unique((cv2.imread(str(path))[::2, ::2] - frame - default) % 256)
        found.append(CODE_WEIGHTS["style"].index(int(offset)))
    return found


def steps(found: list[int]) -> list[int]:
    """Without repetitions."""
    return [each for place, each in enumerate(found) if place == 0 or each != found[place - 1]]


@pytest.fixture(scope="module")
def plain_codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditional_bundle(tmp_path_factory.mktemp("bundles") / "tiny-codes")


def test_a_file_changes_a_run_that_is_under_way_and_never_ends_it(
    plain_codes: Path, noise: Path, tmp_path: Path
) -> None:
    control, report = tmp_path / "control.json", tmp_path / "r.json"
    write(control, {"style": "2"})
    arguments = command(plain_codes, noise, tmp_path / "out_%03d.png", "--control", control, "--json", report)
    with start(arguments) as process:
        lines: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")))
        reader.start()

        def told(words: str) -> None:
            until(lambda: any(words in line for line in lines) or process.poll() is not None)

        until(lambda: (tmp_path / "out_010.png").exists() or process.poll() is not None)
        write(control, "{ hostile")
        told("not valid JSON")
        write(control, {"style": "99", "mood": "x", "strength": [1, 2, 3]})
        told("strength has 2 numbers")
        replacement = tmp_path / "new.json"
        write(replacement, {"style": "d"})
        replacement.replace(control)  # as careful programs write
        process.wait(timeout=100)
        reader.join()
    errors = "".join(lines)
    assert process.returncode == 0, errors
    found = styles(tmp_path, noise)
    assert len(found) == FRAMES
    assert steps(found) in ([2, 3], [2])  # on a busy machine the run may end before the last change is seen
    assert found[10] == 2
    # a file that is written in place may be read while it is empty
    assert 1 <= sum("not valid JSON" in line for line in lines) <= 3
    assert sum("99 is none of them" in line for line in lines) == 1
    assert sum("no code is called 'mood'" in line for line in lines) == 1
    assert lines.index("style = c\n") < lines.index("style = d\n")
    assert "Traceback" not in errors
    assert json.loads(report.read_text())["stages"][0]["codes"]["style"] == "d"


def test_keys_in_the_window_change_a_run_that_is_under_way(
    plain_codes: Path, noise: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("runtime.video.preview.require_display", lambda: None)
    for name in ("namedWindow", "resizeWindow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *args: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(image[:2, :2].copy()))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: ord("]") if len(shown) == 1 else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *args: 1.0)
    arguments = ["run", "-b", str(plain_codes), "-i", str(noise), "-o", "display://", "--quiet", "--threads", "1"]
    assert run([*arguments, "--input-rate", "1000", "--max-frames", "40"]) == 0
    told = capsys.readouterr().err
    assert "keys: [ and ] change style" in told  # although standard input is no terminal
    assert "style = c" in told
    first, last = (random_frames(180, 240, 3, seed=seed)[None, :1, :1] for seed in (0, 39))
    np.testing.assert_array_equal(shown[0], conditional(first)[0])
    np.testing.assert_array_equal(shown[-1], conditional(last, {"style": (0, 0, 1, 0)})[0])


@contextlib.contextmanager
def on_terminal(arguments: list[str]) -> Iterator[tuple[subprocess.Popen[str], int, int, list[Any]]]:
    """Start with a pseudo terminal that is the process's own: (process, master, slave, its settings before)."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)

    def own() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = start(arguments, stdin=slave, preexec_fn=own)
    try:
        yield process, master, slave, before
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def test_keys_on_a_terminal_change_a_run_that_is_under_way(plain_codes: Path, noise: Path, tmp_path: Path) -> None:
    arguments = command(plain_codes, noise, tmp_path / "out_%03d.png")
    with on_terminal(arguments) as (process, master, slave, before):
        until(lambda: (tmp_path / "out_010.png").exists() or process.poll() is not None)
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        os.write(master, b"]")
        until(lambda: (tmp_path / "out_060.png").exists() or process.poll() is not None)
        os.write(master, b"[[")
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        assert termios.tcgetattr(slave) == before
    assert steps(styles(tmp_path, noise)) in ([1, 2, 0], [1, 2, 1, 0])
    assert "keys: [ and ] change style, Tab chooses another code" in errors
    assert [line for line in errors.splitlines() if line.startswith("style = ")] == [
        "style = c", "style = b", "style = a",
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "broken input"])
def test_the_terminal_is_put_back_however_a_run_ends(plain_codes: Path, noise: Path, tmp_path: Path, how: str) -> None:
    source = noise
    if how == "broken input":
        source = tmp_path / "in"
        source.mkdir()
        for path in sorted(noise.iterdir())[:60]:
            (source / path.name).symlink_to(path)
        (source / "999.png").write_bytes(b"no picture")
    with on_terminal(command(plain_codes, source, tmp_path / "out_%03d.png")) as (process, master, slave, before):
        until(lambda: (tmp_path / "out_003.png").exists() or process.poll() is not None)
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        if how == "Ctrl-C":
            os.write(master, b"\x03")
        elif how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == (1 if how == "broken input" else 130), errors
        assert termios.tcgetattr(slave) == before
