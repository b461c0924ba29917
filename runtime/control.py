"""Codes of a run: what is said on the command line, in a file that is watched, and by keys, while frames go through."""

from __future__ import annotations

import atexit
import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from runtime.codes import PASSCODE, Code, Numbers, Picture, read_picture
from runtime.errors import GenedgeError, UsageError, message_of, printable
from runtime.manifest import Manifest, Port, json_object
from runtime.sessions.base import Session
from runtime.sessions.codes import code_ports

POLL = 0.1  # seconds between two looks at the file
SETTLED = 1.0  # seconds after which a file's time tells two contents apart, whatever the file system's clock
MAX_CONTROL_BYTES = 1 << 16  # 64 KiB
MAX_PASSCODE_BYTES = 1 << 12  # 4 KiB
PREVIOUS, NEXT, OTHER = "[", "]", "\t"  # keys
SHOWN = 80  # characters of a value in a message
SECRET = "(secret)"

Say = Callable[[str], None]


@dataclass
class Dial:
    """One code of one stage, and what it is set to.

    ``name`` is what it is called in messages; ``numbers`` are what it was set to last without a picture, ``(size,)``.
    """

    name: str
    stage: int  # from 0
    bundle: str
    port: Port
    code: Code
    numbers: Numbers
    picture: Picture | None = None
    text: str = ""
    hashed: bool = False  # the numbers come from a passcode

    @property
    def spellings(self) -> tuple[str, ...]:
        """What people may call it."""
        return self.port.name, f"{self.bundle}.{self.port.name}", f"{self.stage + 1}.{self.port.name}"

    @property
    def secret(self) -> bool:
        return self.code.kind == "bits" and (self.hashed or self.port.name == "passcode")

    @property
    def shown(self) -> str:
        """The value as somebody would type it, unless nobody may see it."""
        return SECRET if self.secret else self.text


class Controls:
    """The codes of all stages of a run, in their order. Safe between threads.

    Values can be said before a stage is open (:meth:`apply`); they reach its session with :meth:`attach`, and from then
    on at once.

    Raises :class:`GenedgeError` where a manifest does not say what a code takes.
    """

    def __init__(self, manifests: Sequence[Manifest]) -> None:
        self._lock = threading.RLock()
        self._open: dict[int, tuple[Session, int, int]] = {}
        self._manifests = list(manifests)
        self.dials = _dials(self._manifests)
        self.on_change: Callable[[], None] = lambda: None

    def dial(self, name: str) -> Dial:
        """The code that is called ``name``: STAGE.NAME (stages count from 1), or else NAME or BUNDLE.NAME.

        Raises :class:`UsageError` where there is none, or more than one.
        """
        found = [dial for dial in self.dials if name == dial.spellings[2]]  # no other dial has it
        found = found or [dial for dial in self.dials if name in dial.spellings]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(dial.spellings[2] for dial in found)
            raise UsageError(f"{name} is a code of several bundles: say {choices}")
        names = ", ".join(dial.name for dial in self.dials)
        known = f"there {'is' if len(self.dials) == 1 else 'are'} {names}" if names else "no bundle here takes one"
        raise UsageError(f"no code is called {name[:SHOWN]!r}: {known}")

    def apply(self, name: str, text: str) -> None:
        """Set a code to what somebody has typed (see :meth:`runtime.codes.Code.parsed`); of a map also a ``.png``.

        Raises :class:`UsageError` and changes nothing where that cannot be.
        """
        dial = self.dial(name)
        place = text.strip()
        if dial.port.is_map and place.lower().endswith(".png") and place not in dial.code.labels:
            self._set(dial, dial.numbers, read_picture(Path(place), dial.code, dial.name), place)
            return
        hashed = dial.code.kind == "bits" and text.lstrip().startswith(PASSCODE)
        try:
            numbers = dial.code.parsed(text, dial.name)
        except UsageError:
            if hashed or not dial.secret:
                raise
            # the complaint would repeat what may be a passcode
            raise UsageError(f"{dial.name} takes {dial.code.size} digits 0 or 1, or {PASSCODE}TEXT") from None
        self._set(dial, numbers, None, dial.code.spelled(numbers), hashed)

    def apply_passcode(self, passcode: str) -> None:
        """Give it to every code of bits that is called ``passcode``, or to the only code of bits.

        Raises :class:`UsageError` where there is none.
        """
        bits = [dial for dial in self.dials if dial.code.kind == "bits"]
        dials = [dial for dial in bits if dial.port.name == "passcode"] or bits
        if not dials or (len(dials) > 1 and dials[0].port.name != "passcode"):
            why = "several codes of bits and none called passcode" if dials else "no code of bits"
            raise UsageError(f"there is no place for a passcode: {why}")
        for dial in dials:
            self.apply(dial.spellings[2], PASSCODE + passcode)

    def step(self, name: str, direction: int) -> None:
        """Set a code to the one behind (1) or before (-1) it, see :meth:`runtime.codes.Code.stepped`."""
        with self._lock:
            dial = self.dial(name)
            numbers = dial.code.stepped(dial.numbers, direction)
            self._set(dial, numbers, None, dial.code.spelled(numbers), dial.hashed)

    def attach(self, stage: int, session: Session, height: int, width: int) -> None:
        """From now on the codes of a stage (from 0) go to ``session``, which gets frames of this size in pixels."""
        with self._lock:
            self._open[stage] = session, height, width
            for dial in self.dials:
                if dial.stage == stage:
                    self._hand_on(dial, dial.numbers, dial.picture)

    def exchange(self, stage: int, manifest: Manifest, session: Session, height: int, width: int) -> None:
        """A stage becomes what ``manifest`` describes, and ``session`` what its codes go to; else as :meth:`attach`.

        Codes of the same name and rule as before keep what they are set to, the others begin with their default.
        """
        with self._lock:
            manifests = [*self._manifests]
            manifests[stage] = manifest
            dials = _dials(manifests)
            before = {(dial.stage, dial.port.name): dial for dial in self.dials}
            for dial in dials:
                old = before.get((dial.stage, dial.port.name))
                if old is not None and (old.code, old.port.is_map) == (dial.code, dial.port.is_map):
                    dial.numbers, dial.picture, dial.text, dial.hashed = old.numbers, old.picture, old.text, old.hashed
            for dial in dials:
                if dial.stage == stage:
                    _give(dial, dial.numbers, dial.picture, session, height, width)
            self._open[stage] = session, height, width
            self._manifests, self.dials = manifests, dials

    def said(self, stage: int) -> dict[str, str]:
        """What the codes of a stage (from 0) are set to, for a report."""
        with self._lock:
            return {dial.port.name: dial.shown for dial in self.dials if dial.stage == stage}

    def told(self, dial: Dial) -> str:
        """What a code is set to, in a line for people."""
        with self._lock:  # else the text of a passcode could be taken before it is known to be one
            shown = printable(dial.shown)
        return f"{dial.name} = {shown[:SHOWN]}{'…' if len(shown) > SHOWN else ''}"

    def _set(self, dial: Dial, numbers: Numbers, picture: Picture | None, text: str, hashed: bool = False) -> None:
        with self._lock:
            dial = self.dial(dial.spellings[2])  # its stage may have become another since
            self._hand_on(dial, numbers, picture)
            self.on_change()
            dial.numbers, dial.picture, dial.text, dial.hashed = numbers, picture, text, hashed

    def _hand_on(self, dial: Dial, numbers: Numbers, picture: Picture | None) -> None:
        if dial.stage in self._open:
            _give(dial, numbers, picture, *self._open[dial.stage])


def _give(dial: Dial, numbers: Numbers, picture: Picture | None, session: Session, height: int, width: int) -> None:
    values = numbers if picture is None else picture.numbers(dial.code, height, width)
    session.set_code(dial.port.name, values)


def _dials(manifests: Sequence[Manifest]) -> tuple[Dial, ...]:
    """The codes of all stages in their order, set to their defaults."""
    ports = [(stage, manifest, port) for stage, manifest in enumerate(manifests) for port in code_ports(manifest)]
    names = [port.name for _, _, port in ports]
    dials = []
    for stage, manifest, port in ports:
        assert port.code is not None
        name = port.name if names.count(port.name) == 1 else f"{stage + 1}.{port.name}"
        numbers = np.array(port.code.default, dtype=np.float32)
        dials.append(Dial(name, stage, manifest.name, port, port.code, numbers, text=port.code.spelled(numbers)))
    return tuple(dials)


def read_passcode(path: Path) -> str:
    """The passcode in a file or a pipe, as UTF-8, without a byte order mark in front and the end of its line.

    Raises :class:`UsageError` where there is none, or more than 4 KiB.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PASSCODE_BYTES + 1)
    except OSError as error:
        raise UsageError(message_of(error)) from None
    if len(data) > MAX_PASSCODE_BYTES:
        raise UsageError(f"{path}: more than {MAX_PASSCODE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text in UTF-8") from None
    if not text:
        raise UsageError(f"{path}: holds no passcode")
    return text


class Keys:
    """What keys do: ``[`` and ``]`` step through the chosen code, Tab chooses the next one."""

    def __init__(self, controls: Controls, say: Say) -> None:
        self._controls, self._say = controls, say
        self._chosen = 0
        self._lock = threading.Lock()

    @property
    def hint(self) -> str:
        """How to use them, in one line."""
        first = self._controls.dials[0].name
        more = ", Tab chooses another code" if len(self._controls.dials) > 1 else ""
        return f"keys: {PREVIOUS} and {NEXT} change {first}{more}"

    def press(self, key: str) -> None:
        """A key was pressed; others than these three do nothing. What is set now is said. Never raises."""
        dials = self._controls.dials
        if key not in (PREVIOUS, NEXT, OTHER) or not dials:
            return
        with self._lock:
            if key == OTHER:
                self._chosen = (self._chosen + 1) % len(dials)
            dial = dials[self._chosen % len(dials)]  # a stage may have become another, with fewer codes
            try:
                if key != OTHER:
                    self._controls.step(dial.spellings[2], 1 if key == NEXT else -1)
            except Exception as error:
                self._say(f"warning: {printable(message_of(error))}")
                return
            self._say(self._controls.told(dial))


class FileWatcher:
    """Applies what stands in a JSON file, ``{"style": "2", …}``, and again whenever the file changes.

    A value is a text, as for ``--code``, a number, or a list of numbers. What is invalid gives one warning and leaves
    the code as it is; a file that is not there is waited for. A context manager: entering it reads the file once, then
    a thread looks at it ten times a second. Nothing that the file holds can stop the run.
    """

    def __init__(self, path: Path, controls: Controls, say: Say) -> None:
        self._path, self._controls, self._say = path, controls, say
        self._stamp: tuple[int, ...] | None = None
        self._again = True  # look at the content although the time has not changed
        self._handled: bytes | None = None  # the content that was applied, or complained about
        self._doubtful: bytes | None = None  # a content that cannot be read; somebody may be writing it just now
        self._said: Mapping[str, Any] = {}
        self._complaint = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Apply what has changed since the last look. Never raises."""
        try:
            self._look()
            self._complaint = ""
        except Exception as error:
            complaint = printable(message_of(error))
            if complaint != self._complaint:
                self._say(f"warning: {complaint}")
            self._complaint = complaint

    def _look(self) -> None:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp and not self._again:
            return
        data = _read(self._path)
        self._stamp, self._again = stamp, abs(time.time() - status.st_mtime) < SETTLED
        if data == self._handled:
            return
        try:
            content = json_object(data, str(self._path), MAX_CONTROL_BYTES).content
        except GenedgeError:
            if data != self._doubtful:
                self._doubtful, self._again = data, True
                return
            self._handled = data
            raise
        self._handled = self._doubtful = data
        before, self._said = self._said, content
        for name, value in content.items():
            if name not in before or before[name] != value:
                self._apply(name, value)

    def _apply(self, name: str, value: Any) -> None:
        try:
            self._controls.apply(name, _text(value, name[:SHOWN]))
        except Exception as error:
            self._say(f"warning: {printable(f'{self._path}: {message_of(error)}')}")
        else:
            self._say(self._controls.told(self._controls.dial(name)))

    def __enter__(self) -> FileWatcher:
        self.look()
        self._thread = threading.Thread(target=self._work, name="control file", daemon=True)
        self._thread.start()
        return self

    def _work(self) -> None:
        while not self._stop.wait(POLL):
            self.look()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1)


def _read(path: Path) -> bytes:
    """A small regular file. Nothing else is opened: a pipe would wait, and a device may do something."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{path}: not a file")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UsageError(f"{path}: not a file")
        data = b""
        while len(data) <= MAX_CONTROL_BYTES and (part := os.read(handle, MAX_CONTROL_BYTES + 1)):
            data += part
    finally:
        os.close(handle)
    if len(data) > MAX_CONTROL_BYTES:
        raise UsageError(f"{path}: more than {MAX_CONTROL_BYTES} bytes")
    return data


def _text(value: Any, place: str) -> str:
    if isinstance(value, str):
        return value
    if _is_number(value):
        return repr(value)
    if isinstance(value, list) and value and all(map(_is_number, value)):
        return ",".join(map(repr, value))
    raise UsageError(f"{place} must be a text, a number, or a list of numbers")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


class KeyReader:
    """Gives every key that is pressed on the terminal to ``press``, without waiting for Enter.

    A context manager. The terminal is put into cbreak mode (Ctrl-C still works) and back again when it is left, however
    that happens; keys are read in a thread. It does nothing where standard input is no terminal, or not this process's
    own just now: a process in the background that reads from the terminal would be stopped.
    """

    def __init__(self, press: Callable[[str], None]) -> None:
        self._press = press
        self._handle = _terminal()
        self._before: list[Any] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def active(self) -> bool:
        """Whether keys are read."""
        return self._before is not None

    def __enter__(self) -> KeyReader:
        if self._handle is None or not _in_front(self._handle):
            return self
        import termios

        with contextlib.suppress(termios.error):
            self._before = termios.tcgetattr(self._handle)
            atexit.register(self._restore)  # should an interrupt come at the worst moment
            _cbreak(self._handle)
            self._thread = threading.Thread(target=self._work, name="keys", daemon=True)
            self._thread.start()
        return self

    def _work(self) -> None:
        import select
        import termios

        assert self._handle is not None
        with contextlib.suppress(OSError, ValueError, termios.error):  # the terminal went away
            while not self._stop.is_set():
                if not _in_front(self._handle):  # Ctrl-Z and bg: the terminal is the shell's
                    self._stop.wait(POLL)
                    continue
                _cbreak(self._handle)  # the shell has put it back after Ctrl-Z and fg
                if not select.select([self._handle], [], [], POLL)[0]:
                    continue
                data = os.read(self._handle, 64)
                if not data:
                    return
                for key in data.decode("ascii", errors="ignore"):
                    self._press(key)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        try:
            if self._thread is not None:
                self._thread.join(timeout=1)
        finally:
            self._restore()

    def _restore(self) -> None:
        self._stop.set()
        before, self._before = self._before, None
        atexit.unregister(self._restore)
        if before is None or self._handle is None or not _in_front(self._handle):
            return
        import termios

        with contextlib.suppress(termios.error, OSError):
            termios.tcsetattr(self._handle, termios.TCSANOW, before)


def _terminal() -> int | None:
    """The file descriptor of standard input where that is a terminal whose keys can be read, else None."""
    try:
        import termios  # noqa: F401 - not on Windows

        handle = sys.stdin.fileno()
        return handle if os.isatty(handle) else None
    except (ImportError, OSError, ValueError, AttributeError):  # closed, or replaced by something without a file
        return None


def _in_front(handle: int) -> bool:
    """Whether the terminal is this process's own, not that of a shell which has sent it to the background."""
    try:
        return os.tcgetpgrp(handle) == os.getpgrp()
    except OSError:  # not our controlling terminal, so nobody stops us
        return os.isatty(handle)


def _cbreak(handle: int) -> None:
    """Keys come one by one and are not echoed; where that is so already, nothing is done."""
    import termios
    import tty

    if termios.tcgetattr(handle)[3] & (termios.ICANON | termios.ECHO):
        tty.setcbreak(handle, termios.TCSANOW)
