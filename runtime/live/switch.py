"""Exchange the bundle or the precision of a stage while frames go through it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from runtime.bundle import Bundle, open_bundle, search_folders
from runtime.control import Controls
from runtime.errors import GenedgeError, UsageError, message_of, printable
from runtime.frames import Frames
from runtime.manifest import MANIFEST_NAME
from runtime.sessions import Choice, Session, runnable
from runtime.sessions.base import Pending

ENDING = 5.0  # seconds that the end of a run waits for an engine that is just being opened
MOST_OFFERED = 200  # bundles; more are no choice

Say = Callable[[str], None]


class _Turn:
    """A session, and how many requests it still owes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.under_way = 0


class SwitchSession(Session):
    """A session that can be exchanged for another between two frames. Owns the one that it has.

    Requests that are under way end in the session in which they began, so no frame is lost and none changes its place.
    Where the frames become larger or smaller by the exchange, results come in arrays of their own.
    """

    def __init__(self, session: Session) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._turn = _Turn(session)
        self._closed = False
        self._times: deque[float] = deque(maxlen=1000)
        self.requests, self.seconds = 0, 0.0  # that have ended, and the time from submission to result of all of them
        self._show(session)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        with self._changed:
            turn = self._turn
            turn.under_way += 1
        begin = time.perf_counter()
        try:
            if out is not None and out.shape != turn.session.output_shape(frames.shape):
                out = None  # made for the session before
            pending = turn.session.submit(frames, out)
        except BaseException:
            self._leave(turn)
            raise

        def wait() -> Frames:
            try:
                result = pending.result()
                took = time.perf_counter() - begin
                self._times.append(took)
                self.requests, self.seconds = self.requests + 1, self.seconds + took
                return result
            finally:
                self._leave(turn)

        return Pending(wait)

    def exchange(self, session: Session) -> None:
        """From the next request on ``session`` does the work, which is warm and belongs to this one from now on.

        Returns when the one before has ended what it had begun, and is closed.
        """
        with self._changed:
            before, self._turn = self._turn, _Turn(session)
            self._show(session)
            while before.under_way and not self._closed:
                self._changed.wait()
            late = self._closed
        before.session.close()
        if late:
            session.close()

    def milliseconds(self) -> float | None:
        """Mean time from submission to result since the last call, in milliseconds; None without frames."""
        times = [self._times.popleft() for _ in range(len(self._times))]
        return 1e3 * sum(times) / len(times) if times else None

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        return self._turn.session.output_shape(shape)

    def set_code(self, name: str, values: ArrayLike) -> None:
        self._turn.session.set_code(name, values)

    def set_codes(self, values: Mapping[str, ArrayLike]) -> None:
        self._turn.session.set_codes(values)

    def warm_up(self, shape: tuple[int, int, int, int]) -> None:
        self._turn.session.warm_up(shape)
        self._show(self._turn.session)  # some know only now what they run on

    def reset(self) -> None:
        self._turn.session.reset()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            turn = self._turn
        turn.session.close()

    def _leave(self, turn: _Turn) -> None:
        with self._changed:
            turn.under_way -= 1
            self._changed.notify_all()

    def _show(self, session: Session) -> None:
        self.info, self.scale, self.code_inputs = session.info, session.scale, session.code_inputs


@dataclass
class Slot:
    """A stage of the run: what it runs now, and the frames in pixels that it gets.

    ``tile``: as :func:`runtime.tiles.fit_session` takes it.
    """

    bundle: Bundle
    choice: Choice
    session: SwitchSession
    height: int
    width: int
    tile: int | None = None


def engine_name(choice: Choice) -> str:
    """What a choice is called on the page, such as ``openvino int8``."""
    return f"{choice.backend} {choice.precision}"


class Switcher:
    """Exchanges what the stages of a run do: opens and warms the new session while the old one goes on.

    One exchange at a time, in a thread of its own. One that fails is said, and the old session stays.

    Args:
        opens: a session for a bundle, a choice and a slot, whose ``tile`` it shall have.
        controls: their codes go to the new session: those of the same name and rule keep their value.
        say: told what was exchanged, or why it was not.
        resizes: frames that leave the last stage may change their size.
        backend: the only one that is offered, or ``auto`` for all.
        bundles: offered besides those of the slots.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        opens: Callable[[Bundle, Choice, Slot], Session],
        controls: Controls,
        say: Say,
        *,
        resizes: bool,
        backend: str = "auto",
        bundles: Iterable[Bundle] = (),
    ) -> None:
        self.slots = list(slots)
        self.switched: list[dict[str, object]] = []
        self._opens, self._controls, self._say, self._resizes = opens, controls, say, resizes
        self._bundles: dict[str, Bundle] = {}
        for bundle in (*(slot.bundle for slot in slots), *bundles):
            self._bundles.setdefault(bundle.manifest.name, bundle)
        self._choices = {
            name: [choice for choice in runnable(bundle) if backend in ("auto", choice.backend)]
            for name, bundle in self._bundles.items()
        }
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.busy = ""  # what is being opened, for people

    @property
    def offers(self) -> dict[str, list[str]]:
        """The bundles that a stage can become, each with its engines."""
        return {name: [engine_name(choice) for choice in choices] for name, choices in self._choices.items() if choices}

    @property
    def recurrent(self) -> bool:
        """Whether any bundle on offer remembers frames."""
        return any(bundle.manifest.states for bundle in self._bundles.values())

    def ask(self, stage: int, name: str, engine: str, *, tile: int | None = None, why: str = "") -> None:
        """Start to exchange a stage (from 0); returns at once. ``tile``: another than the stage's; ``why``: is said.

        Raises :class:`UsageError` where that is not on offer, would change the size of frames that must keep theirs, or
        another exchange is under way, or the stage hides faces and would become another.
        """
        if not 0 <= stage < len(self.slots):
            raise UsageError(f"there is no stage {stage + 1}")
        if name not in self.offers:
            raise UsageError(f"{name[:80]!r} is no bundle that can be chosen here")
        choices = {engine_name(choice): choice for choice in self._choices[name]}
        if engine not in choices:
            raise UsageError(f"{name} does not run on {engine[:80]!r} here: choose among {', '.join(choices)}")
        slot, bundle = self.slots[stage], self._bundles[name]
        if slot.bundle.manifest.task == "face-deid" and name != slot.bundle.manifest.name:
            raise UsageError(f"{slot.bundle.manifest.name} hides faces, so its stage stays what it is")
        scale, last = bundle.manifest.geometry.scale, stage == len(self.slots) - 1
        if scale != slot.session.scale and not (self._resizes and last):
            behind = "this output keeps the size that it has begun with" if last else "the stage behind it expects that"
            raise UsageError(f"{name} makes frames {scale} times as large, not {slot.session.scale} times: {behind}")
        with self._lock:
            if self._closed:
                raise UsageError("the run has ended")
            if self.busy:
                raise UsageError(f"{self.busy} is still being opened: wait until it is there")
            self.busy = f"{name} on {engine}" + (f" in tiles of {tile}" if tile else "")
            wanted = Slot(
                bundle, choices[engine], slot.session, slot.height, slot.width, slot.tile if tile is None else tile
            )
            self._thread = threading.Thread(target=self._work, args=(stage, wanted, why), name="switch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """No more exchanges. The slots' sessions stay open."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join(ENDING)

    def _work(self, stage: int, wanted: Slot, why: str) -> None:
        slot, bundle, choice = self.slots[stage], wanted.bundle, wanted.choice
        try:
            began = time.monotonic()
            session = self._opens(bundle, choice, wanted)
            try:
                session.warm_up((1, slot.height, slot.width, 3))
                if self._closed:
                    raise GenedgeError("the run has ended")
                self._controls.exchange(stage, bundle.manifest, session, slot.height, slot.width)
            except BaseException:
                session.close()
                raise
            slot.bundle, slot.choice, slot.tile = bundle, choice, wanted.tile
            slot.session.exchange(session)
            self.switched.append(
                {"stage": stage + 1, "bundle": bundle.manifest.name, "engine": engine_name(choice)},
            )
            told = f"now {self.busy} (ready in {time.monotonic() - began:.1f} s)"
            self._say(f"{told}: {why}" if why else told)
        except Exception as error:  # an engine may raise anything, and the run goes on
            self._say(f"warning: {self.busy} cannot be used: {printable(message_of(error))}")
        finally:
            self.busy = ""


def bundles_here() -> list[Bundle]:
    """Bundles in ``./bundles`` and ``$GENEDGE_BUNDLES`` that give images, by name; broken ones are left out."""
    found: dict[str, Bundle] = {}
    for folder in search_folders():
        places = sorted(folder.iterdir()) if folder.is_dir() else []
        for place in places[:MOST_OFFERED]:
            if not (place / MANIFEST_NAME).is_file():
                continue
            try:
                bundle = open_bundle(place)
                bundle.manifest.check_gives_images()
            except (GenedgeError, OSError):
                continue
            found.setdefault(bundle.manifest.name, bundle)
    return list(found.values())
