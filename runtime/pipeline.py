"""Reader | stages | writer, each in its own threads, with bounded queues. It ends in every case.

    source.read ──queue──> stage 0: submit ─ collect ──queue──> stage 1 ... ──queue──> sink.write

How it ends:

=========================  =========================================  ==========  ====================
what happens               frames                                     the sink    ``run_pipeline``
=========================  =========================================  ==========  ====================
source ends, max_frames    all written                                close()     returns
``stop`` is set            all that left the reader are written       close()     returns, ``stopped``
source raises EndedEarly   all before it are written                  close()     raises it
source or session raises   all before it are written                  abort()     raises it
sink raises                nothing more is written                    abort()     raises it
Ctrl-C                     only what is in flight is written          abort()     KeyboardInterrupt
second Ctrl-C              nothing more is written                    abort()     KeyboardInterrupt
a call does not return     the others end; that one is left behind    abort()*    VideoError
=========================  =========================================  ==========  ====================

``*`` unless it is the sink itself that hangs: calling it from a second thread would make it worse.

Files go through with back-pressure: every frame, in order. A live source (``newest=True``) is asked for a frame only
when the first stage waits for one, and a stage takes the next frame only when the last one has left it: no frame grows
old in a queue, and what the stages cannot keep up with is left out by the source (:mod:`runtime.live.newest`).
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from runtime.errors import EndedEarlyError, GenedgeError, VideoError
from runtime.frames import Frame, Frames
from runtime.sessions.base import Pending, Session
from runtime.stats import LatencyRecorder, LatencySummary, Progress, current_rss_bytes, peak_rss_bytes

RSS_FRAME = 200  # memory is compared from here on: by then every buffer has been used
PATIENCE = 30.0  # seconds without any movement after which an ending pipeline gives up on a call
HURRY = 2.0  # the same, in seconds, after a second Ctrl-C
FINALISING = 10  # times as patient: a long file's index may have to be moved to its front
POLL = 0.05  # seconds between two looks at the stop event


class FrameLike(Protocol):
    """A dataclass with an image, such as ``runtime.video.source.VideoFrame``."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def image(self) -> Frame:
        """``uint8 (H, W, 3) BGR``"""
        ...


F = TypeVar("F", bound=FrameLike)
F_co = TypeVar("F_co", bound=FrameLike, covariant=True)
F_contra = TypeVar("F_contra", bound=FrameLike, contravariant=True)
T = TypeVar("T")


class SourceLike(Protocol[F_co]):
    """What the pipeline needs of a source. The frame's image belongs to the receiver."""

    def read(self) -> F_co | None:
        """The next frame, or None at the end. ``EndedEarlyError``: broke off, all before was delivered."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A source whose ``read`` may wait for long, for a camera or a network."""

    def interrupt(self) -> None:
        """Called from another thread: a ``read`` that waits gives None soon, and so do all later ones."""
        ...


class SinkLike(Protocol[F_contra]):
    """What the pipeline needs of a sink. All three are called from one thread.

    The frame's image is the sink's until ``write`` returns; then its memory is used again.
    """

    def write(self, frame: F_contra, /) -> None: ...

    def close(self) -> None:
        """Finalise; the output is complete."""
        ...

    def abort(self) -> None:
        """Finalise a playable file of what was written. Also called when ``close`` has raised."""
        ...


@dataclass(frozen=True)
class PipelineReport:
    """What a run did. Times of stages are in milliseconds, memory in bytes.

    ``latency`` and ``utilisation`` have the keys ``read``, ``infer`` (with several stages
    ``infer 1``, ``infer 2``, ...) and ``write``; ``latency`` also ``frame``, from the start of
    decoding to the end of writing, and, of frames that say when they were ``captured``, ``capture``, from then
    to the end of writing. ``utilisation`` is the share of the run in which the stage was
    busy. ``queue_high_water`` tells how full the queue behind each stage became.
    """

    frames: int  # written
    dropped: int  # left out by a live source, because a newer one was there or they were too old
    seconds: float  # from the first read to the finalised output
    fps: float
    stopped: bool  # by the stop event or by Ctrl-C
    latency: dict[str, LatencySummary]
    utilisation: dict[str, float]
    queue_high_water: dict[str, int]
    queue_size: int
    peak_rss_bytes: int
    rss_at_frame_200_bytes: int | None  # None for shorter runs
    rss_end_bytes: int
    rss_growth: float | None  # end over frame 200, minus one

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return dataclasses.asdict(self)


def run_pipeline(
    source: SourceLike[F],
    stages: Sequence[Session],
    sink: SinkLike[F],
    *,
    queue_size: int = 4,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    max_frames: int | None = None,
    patience: float = PATIENCE,
    on_report: Callable[[PipelineReport], None] | None = None,
    begins: Callable[[F], bool] | None = None,
    newest: bool = False,
) -> PipelineReport:
    """Run every frame of ``source`` through ``stages`` in order and into ``sink``, and finalise the sink.

    No frame that the source gives is lost and none changes its place. Source and sessions stay open; the caller closes
    them. Call ``session.warm_up`` before if the first frame shall not wait for the engine.

    Args:
        source: gives frames with ``image: uint8 (H, W, 3) BGR``; all else in the frame is passed on.
        stages: sessions; each keeps up to ``info.in_flight`` requests under way. Empty: frames are copied.
            ``submit`` and ``Pending.result`` are called from two different threads.
        sink: takes the frames. Its ``close`` or ``abort`` has been called once when this returns.
        queue_size: frames that may wait in front of each stage.
        progress: gets a step for each written frame, and is closed at the end.
        stop: set it to stop reading and finish; the output is complete up to there.
        max_frames: read no more than this.
        patience: seconds. Once the run is ending, a call into source, session or sink during which
            nothing moves for so long is left behind. (While it is not ending, waiting has no limit.)
        on_report: gets the report in every case, also just before an error is raised.
        begins: asked about every frame once, in order, such as :class:`runtime.cuts.Beginnings`: whether it knows
            nothing of those before. Every stage is then reset before that frame.
        newest: for the shortest time from the source to the sink: ``source.read`` is called when the first stage (or
            the sink) waits for a frame, each stage has one frame at a time, and none waits in a queue
            (``queue_size`` has no meaning then).

    Raises:
        VideoError: a call did not return in time (see ``patience``).
        KeyboardInterrupt: after Ctrl-C, once the sink is finalised. A second Ctrl-C shortens the wait, a
            third ends it.
        Exception: the first error of source, sessions or sink, as it was raised.
    """
    if queue_size < 1:
        raise ValueError("queue_size must be at least 1")
    queue_size = 1 if newest else queue_size
    run = _Run(source, stages, sink, queue_size, progress, stop, max_frames, patience, begins, newest)
    supervisor = threading.Thread(target=run.supervise, name="pipeline", daemon=True)
    # This thread only waits and counts Ctrl-C. It holds no lock of the pipeline, so an interrupt at any place
    # here leaves nothing locked. It does not join the supervisor: up to Python 3.12, Thread.join that is
    # interrupted takes the thread for dead.
    deadline: float | None = None
    started = False
    while not run.done:
        try:
            if not started:
                started = True
                supervisor.start()
            while not run.done and run.interrupts < 3:
                if not run.began and deadline is not None and time.monotonic() > deadline:
                    break  # the interrupt came before the thread had begun
                run.finished.acquire(timeout=POLL)
        except KeyboardInterrupt:
            run.interrupts += 1
            deadline = deadline or time.monotonic() + HURRY
            continue
        break
    interrupted = run.interrupts > 0
    if not run.began:
        run.finalise()
    if progress is not None:
        progress.close()
    report = run.report()
    if on_report is not None:
        on_report(report)
    if interrupted:
        raise KeyboardInterrupt
    error = run.error or run.ended_early
    if error is not None:
        raise error
    return report


class _Channel(Generic[T]):
    """A bounded queue for one thread at either end, that can be closed from both; nobody waits on it for ever.

    ``hand_over``: ``put`` also waits until the item is taken.
    """

    def __init__(self, size: int, hand_over: bool = False) -> None:
        self._size, self._hand_over = size, hand_over
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self._asked = threading.Condition(self._lock)
        self._asking = False
        self._closed = False
        self.high_water = 0

    def wanted(self) -> bool:
        """Wait until somebody waits for an item. False: the channel is closed."""
        with self._lock:
            while (not self._asking or self._items) and not self._closed:
                self._asked.wait()
            return not self._closed

    def put(self, item: T) -> bool:
        """Wait for room. False: the channel is closed and the item was not taken."""
        with self._lock:
            while len(self._items) >= self._size and not self._closed:
                self._emptied.wait()
            if self._closed:
                return False
            self._items.append(item)
            self.high_water = max(self.high_water, len(self._items))
            self._filled.notify()
            while self._hand_over and self._items and not self._closed:
                self._emptied.wait()
            return True

    def get(self) -> T | None:
        """Wait for an item. None: the channel is closed and empty."""
        with self._lock:
            while not self._items and not self._closed:
                self._asking = True
                self._asked.notify()
                self._filled.wait()
            self._asking = False
            if not self._items:
                return None
            self._emptied.notify()
            return self._items.popleft()

    def close(self) -> None:
        """No more items; what is in it can still be taken."""
        with self._lock:
            self._closed = True
            self._filled.notify_all()
            self._emptied.notify_all()
            self._asked.notify_all()

    def discard(self) -> None:
        """Close it and drop what is in it."""
        with self._lock:
            self._items.clear()
        self.close()


class _Ring:
    """Output arrays for use again: ``limit`` of them at most, made when they are first needed, by ``make``."""

    def __init__(self, limit: int, make: Callable[[tuple[int, ...]], Frames]) -> None:
        self._limit, self._made, self._make = limit, 0, make
        self._free: list[Frames] = []
        self._returned = threading.Condition(threading.Lock())
        self._closed = False

    def take(self, shape: tuple[int, ...]) -> Frames | None:
        """Wait for an array. None: the ring is closed."""
        with self._returned:
            while not self._free and self._made >= self._limit and not self._closed:
                self._returned.wait()
            if self._closed:
                return None
            if self._free:
                array = self._free.pop()
                if array.shape == shape:
                    return array
            else:
                self._made += 1
        return self._make(shape)

    def give(self, array: Frames) -> None:
        with self._returned:
            self._free.append(array)
            self._returned.notify()

    def close(self) -> None:
        with self._returned:
            self._closed = True
            self._returned.notify_all()


@dataclass
class _Item(Generic[F]):
    """A frame on its way, and the ring that its image's memory came from."""

    frame: F
    images: Frames  # (1, H, W, 3), the memory of frame.image
    ring: _Ring | None
    begun: float  # when its decoding began
    anew: bool  # it knows nothing of the frames before it

    def free(self) -> None:
        """The image has been read for the last time."""
        if self.ring is not None:
            self.ring.give(self.images)


class _Clock:
    """Latency of a stage, the time in which it was busy, and what it waits for now."""

    def __init__(self, what: str) -> None:
        self.what = what  # for the message when it hangs
        self.latency = LatencyRecorder()
        self.busy = 0.0
        self.inside: set[str] = set()  # calls that are under way; each is added and removed by one thread
        self._until = 0.0

    @contextmanager
    def calling(self, name: str) -> Iterator[None]:
        """Note that the body is inside a call that may hang."""
        self.inside.add(name)
        try:
            yield
        finally:
            self.inside.discard(name)

    def add(self, begin: float, end: float) -> None:
        """A request was under way from ``begin`` to ``end``; requests end in the order in which they began."""
        self.latency.add(end - begin)
        self.busy += max(0.0, end - max(begin, self._until))
        self._until = max(end, self._until)


class _Stage(Generic[F]):
    """One session with its two threads: one submits, one collects in the same order."""

    def __init__(self, run: _Run[F], index: int, session: Session, ring: _Ring) -> None:
        self._run, self._index, self._session, self._ring = run, index, session, ring
        self._slots = threading.Semaphore(1 if run.newest else max(1, session.info.in_flight))
        self._pending: _Channel[tuple[_Item[F], Frames, Pending, float]] = _Channel(max(1, session.info.in_flight))
        self.clock = run.infer[index]

    def submit(self) -> None:
        items = self._run.channels[self._index]
        try:
            while True:
                self._slots.acquire()
                if (item := items.get()) is None:
                    break
                out = self._ring.take(self._session.output_shape(item.images.shape))
                if out is None:  # the run ends; this frame is not in flight yet
                    break
                begin = time.perf_counter()
                with self.clock.calling("submit"):
                    if item.anew:
                        self._session.reset()  # counts from the next submit on, whatever is under way
                    pending = self._session.submit(item.images, out)
                self._pending.put((item, out, pending, begin))
                self._run.moved()
        except BaseException as error:
            # what was submitted before is still collected and written
            self._run.fail(error)
            self._run.discard_upto(self._index)
        finally:
            self._pending.close()

    def collect(self) -> None:
        onward = self._run.channels[self._index + 1]
        forward = True
        try:
            while (entry := self._pending.get()) is not None:
                item, out, pending, begin = entry
                try:
                    with self.clock.calling("result"):
                        images = pending.result()
                except BaseException as error:
                    self._run.fail(error)
                    self._run.discard_upto(self._index)
                    onward.close()
                    forward = False
                    self._slots.release()
                    continue
                if not self._run.newest:
                    self._slots.release()
                self.clock.add(begin, time.perf_counter())
                item.free()
                if images is not out:  # the session has brought an array of its own
                    self._ring.give(out)
                forward = forward and onward.put(
                    _Item(
                        dataclasses.replace(item.frame, image=images[0]),
                        images,
                        self._ring if images is out else None,
                        item.begun,
                        item.anew,
                    )
                )
                if self._run.newest:  # the frame has left this stage: only now is the next one taken
                    self._slots.release()
                self._run.moved()
        finally:
            onward.close()


class _Run(Generic[F]):
    """The state of one run. Channel i leads into stage i, the last one into the sink."""

    def __init__(
        self,
        source: SourceLike[F],
        stages: Sequence[Session],
        sink: SinkLike[F],
        queue_size: int,
        progress: Progress | None,
        stop: threading.Event | None,
        max_frames: int | None,
        patience: float,
        begins: Callable[[F], bool] | None,
        newest: bool,
    ) -> None:
        self._begins, self.newest = begins, newest
        self._source, self._sink, self._progress = source, sink, progress
        self._stop, self._max_frames, self._patience = stop, max_frames, patience
        self._queue_size = queue_size
        self.channels: list[_Channel[_Item[F]]] = [_Channel(queue_size, newest) for _ in range(len(stages) + 1)]
        one = len(stages) == 1
        self.infer = [_Clock(f"the {session.info.backend} session") for session in stages]
        self._read, self._write = _Clock("the source"), _Clock("the sink")
        self._whole, self._since_capture = LatencyRecorder(), LatencyRecorder()
        self._clocks = {
            "read": self._read,
            **{"infer" if one else f"infer {i + 1}": clock for i, clock in enumerate(self.infer)},
            "write": self._write,
        }
        # An array is under way in its session, waits in the queue, or is held by the next session or the sink;
        # one more is in the hands of the collecting thread.
        held = [*(max(1, session.info.in_flight) for session in stages), 1]
        self._rings = [
            _Ring(held[i] + queue_size + held[i + 1] + 1, session.new_array) for i, session in enumerate(stages)
        ]
        self._stages = [_Stage(self, i, session, self._rings[i]) for i, session in enumerate(stages)]
        self._lock = threading.Lock()
        self._final = threading.Lock()  # taken once, by whoever finalises the sink
        self._moves = 0
        self._frames = 0
        self._rss_begin: int | None = None
        self._rss_end: int | None = None
        self._begun = time.perf_counter()
        self._ended: float | None = None
        self._ending = False
        self.interrupts = 0  # written by the caller's thread only
        self.error: BaseException | None = None
        self.ended_early: EndedEarlyError | None = None
        self.began = self.done = False  # the supervisor has begun, has ended
        self.finished = threading.Lock()  # released at the end: what the caller waits for
        self.finished.acquire()

    # -- called by the workers ------------------------------------------------------------------

    def moved(self) -> None:
        self._moves += 1  # a lost count does no harm: it is only looked at for being different

    def fail(self, error: BaseException) -> None:
        """Keep the first error and stop reading."""
        with self._lock:
            self.error = self.error or error
        self._ending = True

    def discard_upto(self, index: int) -> None:
        """Drop what waits in the channels up to ``index``, and wake whoever waits for a buffer there."""
        for channel in self.channels[: index + 1]:
            channel.discard()
        for ring in self._rings[: index + 1]:
            ring.close()

    # -- the two ends ---------------------------------------------------------------------------

    def _reads(self) -> None:
        onward, count = self.channels[0], 0
        try:
            while not self._ending and not self._stopped():
                if self._max_frames is not None and count >= self._max_frames:
                    break
                if self.newest and not onward.wanted():
                    break
                begin = time.perf_counter()
                with self._read.calling("read"):
                    frame = self._source.read()
                if frame is None:
                    break
                self._read.add(begin, time.perf_counter())
                anew = self._begins is not None and self._begins(frame)
                if not onward.put(_Item(frame, frame.image[None], None, begin, anew)):
                    break
                del frame  # its image is freed as soon as the stage has read it
                count += 1
                self.moved()
        except EndedEarlyError as error:
            self.ended_early = error
        except BaseException as error:
            self.fail(error)
        finally:
            onward.close()

    def _writes(self) -> None:
        try:
            while (item := self.channels[-1].get()) is not None:
                begin = time.perf_counter()
                with self._write.calling("write"):
                    self._sink.write(item.frame)
                end = time.perf_counter()
                item.free()
                self._write.add(begin, end)
                self._whole.add(end - item.begun)
                captured: float | None = getattr(item.frame, "captured", None)
                if captured is not None:
                    self._since_capture.add(time.monotonic() - captured)
                del item
                self._frames += 1
                if self._frames == RSS_FRAME:
                    self._rss_begin = current_rss_bytes()
                if self._progress is not None:
                    self._progress.step()
                self.moved()
            self._rss_end = current_rss_bytes()
        except BaseException as error:
            self.fail(error)
        finally:
            self.discard_upto(len(self.channels) - 1)
            self.finalise()

    def finalise(self) -> None:
        """Close or abort the sink, whichever fits; only the first call does it."""
        if not self._final.acquire(blocking=False):
            return
        try:
            with self._write.calling("finalise"):
                if self.error is None and not self.interrupts:
                    try:
                        self._sink.close()
                        return
                    except BaseException as error:
                        self.fail(error)
                self._sink.abort()
        except BaseException as error:
            self.fail(error)  # an error that came first stays the first
        finally:
            self._ended = time.perf_counter()

    # -- the supervisor -------------------------------------------------------------------------

    def _stopped(self) -> bool:
        return self.interrupts > 0 or (self._stop is not None and self._stop.is_set())

    def supervise(self) -> None:
        """Start the workers, carry out what ends the run, and return when all have ended or one hangs."""
        self.began = True
        self._begun = time.perf_counter()
        try:
            threads = [threading.Thread(target=self._writes, name="pipeline write", daemon=True)]
            for i, stage in enumerate(self._stages):
                threads.append(threading.Thread(target=stage.collect, name=f"pipeline collect {i}", daemon=True))
                threads.append(threading.Thread(target=stage.submit, name=f"pipeline submit {i}", daemon=True))
            threads.append(threading.Thread(target=self._reads, name="pipeline read", daemon=True))
            started = []
            try:
                for thread in threads:
                    thread.start()
                    started.append(thread)
            except RuntimeError as error:  # the system has no thread left
                self.fail(GenedgeError(f"cannot start a thread: {error}"))
                self.discard_upto(len(self.channels) - 1)
                for stage in self._stages:
                    stage._pending.close()
            self._watch(started)
            if not started:
                self.finalise()
        finally:
            self.done = True
            self.finished.release()

    def _watch(self, threads: list[threading.Thread]) -> None:
        moves, since = self._moves, time.monotonic()
        acted = 0  # interrupts that were carried out
        given_up = told = False
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(POLL)
            now = time.monotonic()
            if self._stopped() and not self._ending:
                self._ending = True
                since = now
                self.channels[0].close()  # also when the source is inside read(): the others end without it
            if self._ending and not told:
                told = True
                if isinstance(self._source, Interruptible):
                    self._source.interrupt()
            if self.interrupts > acted:
                acted, since = self.interrupts, now
                # first: what no session has yet is dropped; second: everything
                self.discard_upto(len(self.channels) - (2 if acted == 1 else 1))
            if self._moves != moves:
                moves, since = self._moves, now
            patience = self._patience
            if acted > 1 or given_up:
                patience = min(HURRY, patience)
            elif "finalise" in self._write.inside:
                patience *= FINALISING
            if not self._ending or now - since < patience:
                continue
            if given_up:
                return
            given_up, since = True, now
            hanging = " and ".join(clock.what for clock in self._clocks.values() if clock.inside) or "a stage"
            self.fail(VideoError(f"{hanging} did not answer for {patience:.0f} s and was left behind"))
            self.discard_upto(len(self.channels) - 1)

    def report(self) -> PipelineReport:
        seconds = (self._ended or time.perf_counter()) - self._begun
        rss_end = self._rss_end or current_rss_bytes()
        latency = {name: clock.latency.summary() for name, clock in self._clocks.items()}
        latency["frame"], latency["capture"] = self._whole.summary(), self._since_capture.summary()
        names = [name for name in self._clocks if name != "write"]
        return PipelineReport(
            frames=self._frames,
            dropped=getattr(self._source, "dropped", 0),
            seconds=seconds,
            fps=self._frames / seconds if seconds > 0 else 0.0,
            stopped=self._stopped(),
            latency={name: summary for name, summary in latency.items() if summary is not None},
            utilisation={name: min(1.0, clock.busy / seconds) for name, clock in self._clocks.items()},
            queue_high_water={name: channel.high_water for name, channel in zip(names, self.channels, strict=True)},
            queue_size=self._queue_size,
            peak_rss_bytes=peak_rss_bytes(),
            rss_at_frame_200_bytes=self._rss_begin,
            rss_end_bytes=rss_end,
            rss_growth=rss_end / self._rss_begin - 1 if self._rss_begin else None,
        )
