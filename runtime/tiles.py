"""Frames of any size through a session: padding to the generator's size rule, exact tiles, resizing.

A tile reads a window of the frame and keeps only the part of the result whose whole receptive field
(the *halo*) lies in the window, or reaches over the frame's true border, where the network pads with
zeros exactly as it does on the whole frame. So tiled output equals whole-frame output.
"""

from __future__ import annotations

import queue
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np

from runtime.codes import Numbers, nearest
from runtime.errors import UsageError
from runtime.frames import Frame, Frames, SizeRule
from runtime.manifest import Geometry
from runtime.sessions.base import Pending, Session
from runtime.sessions.codes import CodeInputs, Held, check_map


@dataclass(frozen=True)
class Tile:
    """One tile, in input pixels.

    ``y, x`` is the window's top left corner in the padded frame; ``top, left, bottom, right`` (the
    last two exclusive) is the rectangle of the frame that this tile contributes.
    """

    y: int
    x: int
    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class TilePlan:
    """Tiles that cover a frame of ``height x width`` pixels; every window is ``tile_height x tile_width``.

    The frame is first padded at the bottom and right to ``padded_height x padded_width`` (equal to
    the frame where nothing has to be padded); windows lie inside the padded frame.
    """

    height: int
    width: int
    padded_height: int
    padded_width: int
    tile_height: int
    tile_width: int
    tiles: tuple[Tile, ...]

    @property
    def pads(self) -> bool:
        """Whether the frame has to be padded first."""
        return (self.height, self.width) != (self.padded_height, self.padded_width)


@dataclass(frozen=True)
class _Span:
    """One axis of a tile: the window starts at ``origin``, the contribution is ``start`` to ``stop``."""

    origin: int
    start: int
    stop: int


def smallest_tile(halo: int, rule: SizeRule) -> int:
    """Smallest side of a tile, in pixels: both halos, one step between them, and what the size rule asks for."""
    return rule.padded(2 * halo + rule.multiple, 1)[0]


def _spans(size: int, padded: int, tile: int, halo: int, multiple: int) -> list[_Span]:
    """Cut one axis. All lengths in pixels; ``padded`` and ``tile`` are multiples of ``multiple``."""
    # Window origins are multiples of `multiple`, so that layers with a stride see the same phase as
    # on the whole frame. Neighbours may be `step` apart and still overlap by two halos.
    step = (tile - 2 * halo) // multiple
    room = (padded - tile) // multiple
    gaps = -(-room // step) if room else 0  # a tile that shrank to the frame may have no step
    origins = [i * room // gaps * multiple for i in range(gaps + 1)] if gaps else [0]
    # The cut between two neighbours is the middle of their overlap: both sides keep at least a halo.
    cuts = [0, *((a + tile + b) // 2 for a, b in pairwise(origins)), size]
    return [_Span(origin, cuts[i], cuts[i + 1]) for i, origin in enumerate(origins)]


def plan_tiles(
    height: int,
    width: int,
    tile_height: int,
    tile_width: int,
    halo: int,
    multiple: int,
    *,
    minimum: int = 1,
    fixed_shape: bool = False,
) -> TilePlan:
    """Cut a frame into the smallest number of tiles of one shape, spread evenly.

    Every contributed pixel has ``halo`` pixels of its tile's window on each side, or the window
    touches the border of the (padded) frame there. Windows at the right and bottom are shifted
    inwards, not padded.

    Args:
        height, width: the frame, in pixels.
        tile_height, tile_width: the window, in pixels; multiples of ``multiple``.
        halo: measured reach of the network, in input pixels.
        multiple, minimum: the generator's size rule.
        fixed_shape: the engine takes this tile shape only. A frame that is smaller than the tile is
            then padded up to the tile, and is *not* equal to the whole frame near that border: the
            network sees replicated pixels where it would have padded with zeros. Otherwise the tile
            shrinks to the frame, and nothing is lost.

    Raises:
        UsageError: the tile is smaller than two halos and a step, or no multiple of ``multiple``.
    """
    if height < 1 or width < 1:
        raise UsageError(f"a frame of {width}x{height} pixels has nothing in it")
    rule = SizeRule(minimum, multiple)
    least = smallest_tile(halo, rule)
    for side in (tile_height, tile_width):
        if side < least:
            raise UsageError(
                f"a tile of {tile_width}x{tile_height} pixels is too small for this network, "
                f"which looks {halo} pixels far: the smallest tile is {least}x{least}"
            )
        if side % multiple:
            raise UsageError(
                f"the sides of a tile must be multiples of {multiple} for this network: "
                f"use {rule.padded(side, 1)[0]} instead of {side}"
            )
    padded_height, padded_width = rule.padded(height, width)
    if fixed_shape:
        padded_height, padded_width = max(padded_height, tile_height), max(padded_width, tile_width)
    tile_height, tile_width = min(tile_height, padded_height), min(tile_width, padded_width)
    rows = _spans(height, padded_height, tile_height, halo, multiple)
    columns = _spans(width, padded_width, tile_width, halo, multiple)
    tiles = tuple(
        Tile(row.origin, column.origin, row.start, column.start, row.stop, column.stop)
        for row in rows
        for column in columns
    )
    return TilePlan(height, width, padded_height, padded_width, tile_height, tile_width, tiles)


def pad_frames(frames: Frames, height: int, width: int, out: Frames | None = None) -> Frames:
    """Replicate the bottom row and the right column until frames ``uint8 (N, H, W, 3)`` are ``height x width``."""
    count, h, w, channels = frames.shape
    padded = np.empty((count, height, width, channels), dtype=frames.dtype) if out is None else out
    padded[:, :h, :w] = frames
    padded[:, :h, w:] = frames[:, :, w - 1 : w]
    padded[:, h:] = padded[:, h - 1 : h]
    return padded


class _Spare:
    """Arrays of one shape for use again, made by ``make``; safe between threads. ``take`` never waits."""

    def __init__(self, make: Callable[[tuple[int, ...]], Frames]) -> None:
        self._make = make
        self._free: deque[Frames] = deque()

    def take(self, shape: tuple[int, ...]) -> Frames:
        while True:
            try:
                array = self._free.pop()
            except IndexError:
                return self._make(shape)
            if array.shape == shape:
                return array

    def give(self, array: Frames) -> None:
        self._free.append(array)


class _Codes:
    """Hands codes on to an inner session, maps in the size that it takes. Only one thread calls it.

    ``resizes``: a map of another size is resized, nearest neighbour, instead of padded.
    """

    def __init__(self, inner: Session, *, resizes: bool = False) -> None:
        self._inner, self._resizes = inner, resizes
        self._given: dict[str, tuple[Numbers, tuple[int, ...]]] = {}  # the values, and how a map was cut

    def give(self, codes: Held, padded: tuple[int, int], window: tuple[int, int, int, int] | None = None) -> None:
        """Set what has changed. Maps are padded to (height, width) by repeating their edge, as frames are, and of that
        the inner session gets the ``window`` (top, left, height, width)."""
        for name, values in codes.items():
            cut = () if values.ndim == 1 else (*padded, *(window or ()))
            before = self._given.get(name)
            if before is not None and before[0] is values and before[1] == cut:
                continue
            fitting = values
            if values.ndim == 3:
                top, left, height, width = window or (0, 0, *padded)
                if self._resizes:
                    rows, columns = map(nearest, values.shape[1:], (height, width))
                else:
                    rows = np.minimum(np.arange(top, top + height), values.shape[1] - 1)
                    columns = np.minimum(np.arange(left, left + width), values.shape[2] - 1)
                fitting = values[:, rows][:, :, columns]
            self._inner.set_code(name, fitting)
            self._given[name] = values, cut

    def forget(self) -> None:
        """Give the inner session its defaults: a map that was made for one size does not fit another."""
        self._inner.set_codes({})
        self._given.clear()


def _codes_for(session: Session, height: int, width: int) -> Held:
    """What is set now. Raises :class:`UsageError` where a map has another size than the frames."""
    codes = session.code_inputs.now
    for name, values in codes.items():
        if values.ndim == 3:
            check_map(name, values, height, width)
    return codes


class _AdaptingSession(Session):
    """Brings frames to a size that the inner session takes, and its result to where it belongs.

    Maps among the codes are brought there alike. Frames that have such a size already go through untouched and without
    a copy. The inner session belongs to this one and is closed with it.
    """

    def __init__(self, inner: Session) -> None:
        self._inner = inner
        self._inputs, self._outputs = _Spare(inner.new_array), _Spare(inner.new_array)
        self._shape: tuple[int, ...] | None = None
        self.scale, self.info = inner.scale, inner.info
        self.code_inputs, self._codes = CodeInputs(inner.codes, inner.code_inputs.maps), _Codes(inner)

    @abstractmethod
    def _taken(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that the inner session gets for frames of ``height x width`` pixels."""

    @abstractmethod
    def _bring(self, frames: Frames, taken: Frames) -> None:
        """Write ``frames`` (N, H, W, 3) into ``taken``, which has the inner session's size."""

    @abstractmethod
    def _bring_back(self, result: Frames, out: Frames) -> None:
        """Write the inner session's ``result`` into ``out``, which has the size that belongs to the frames."""

    def new_array(self, shape: tuple[int, ...]) -> Frames:
        return self._inner.new_array(shape)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        if frames.shape != self._shape:  # for the inner session both shapes may be the same, so that it sees no change
            self._inner.reset()
            self._shape = frames.shape
        count, height, width, channels = frames.shape
        size = self._taken(height, width)
        if self.codes:
            self._codes.give(_codes_for(self, height, width), size)
        if size == (height, width):
            pending = self._inner.submit(frames, out)
            self.info = self._inner.info
            return pending
        shape, wanted = (count, *size, channels), self.output_shape(frames.shape)
        if out is not None and (out.shape != wanted or out.dtype != np.uint8):
            raise ValueError(f"out must be a uint8 array of {wanted}")
        taken = self._inputs.take(shape)
        self._bring(frames, taken)
        result = self._outputs.take(self._inner.output_shape(shape))
        pending = self._inner.submit(taken, result)
        self.info = self._inner.info
        done: Frames | None = None

        def wait() -> Frames:
            nonlocal done
            if done is None:
                result = pending.result()
                done = np.empty(wanted, dtype=np.uint8) if out is None else out
                self._bring_back(result, done)
                self._inputs.give(taken)
                self._outputs.give(result)
            return done

        return Pending(wait)

    def warm_up(self, shape: tuple[int, int, int, int]) -> None:
        self._codes.forget()
        self._inner.warm_up((shape[0], *self._taken(shape[1], shape[2]), shape[3]))
        self.info = self._inner.info

    def reset(self) -> None:
        self._inner.reset()

    def close(self) -> None:
        self._inner.close()


class FittedSession(_AdaptingSession):
    """Pads frames that break the generator's size rule by repeating their edge, and crops the result.

    Args:
        inner: takes frames that keep ``rule``.
        rule: from the bundle's geometry.
    """

    def __init__(self, inner: Session, rule: SizeRule) -> None:
        super().__init__(inner)
        self._rule = rule

    def _taken(self, height: int, width: int) -> tuple[int, int]:
        return self._rule.padded(height, width)

    def _bring(self, frames: Frames, taken: Frames) -> None:
        pad_frames(frames, taken.shape[1], taken.shape[2], taken)

    def _bring_back(self, result: Frames, out: Frames) -> None:
        np.copyto(out, result[:, : out.shape[1], : out.shape[2]])


class ResizedSession(_AdaptingSession):
    """Resizes frames to the one size that the generator takes, and the image back to ``scale`` times the frame's size.

    The aspect ratio follows: a wide frame is squeezed into a square one and stretched again afterwards. See
    :func:`resized_into` for the way it is done.

    Args:
        inner: takes frames of ``size``.
        size: (height, width) in pixels.
    """

    def __init__(self, inner: Session, size: tuple[int, int]) -> None:
        super().__init__(inner)
        self._size, self._codes = size, _Codes(inner, resizes=True)

    def _taken(self, height: int, width: int) -> tuple[int, int]:
        return self._size

    def _bring(self, frames: Frames, taken: Frames) -> None:
        for frame, target in zip(frames, taken, strict=True):
            resized_into(frame, target)

    def _bring_back(self, result: Frames, out: Frames) -> None:
        self._bring(result, out)


def resized_into(image: Frame, target: Frame) -> None:
    """Resize ``image`` into ``target``, both uint8 (H, W, 3).

    An axis that shrinks is averaged (OpenCV's INTER_AREA, which does not alias), one that grows is interpolated
    (INTER_CUBIC). Where one shrinks and the other grows, that is done one after the other, the shrinking first, since
    OpenCV's INTER_AREA does not interpolate and its INTER_CUBIC does not average.
    """
    height, width = target.shape[:2]
    if image.shape[:2] == (height, width):
        np.copyto(target, image)
        return
    least = min(height, image.shape[0]), min(width, image.shape[1])
    if least != image.shape[:2]:
        small = target if least == (height, width) else None
        image = np.asarray(cv2.resize(image, least[::-1], dst=small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    if least != (height, width):
        cv2.resize(image, (width, height), dst=target, interpolation=cv2.INTER_CUBIC)


class _Job:
    """One submitted request: its frames and codes, its result, and how many tiles are still missing."""

    def __init__(self, frames: Frames, codes: Held, out: Frames, plan: TilePlan) -> None:
        self.frames, self.codes, self.out, self.plan = frames, codes, out, plan
        self.left = len(plan.tiles)
        self.error: BaseException | None = None
        self.future: Future[Frames] = Future()


class TiledSession(Session):
    """Runs whole frames through an inner session tile by tile; the result equals the whole frame's.

    A worker thread keeps the inner session's ``in_flight`` requests busy, also across the border of
    two frames. Frames that break the size rule are padded by repeating their edge, and the result is
    cropped; maps among the codes are padded and cut as the frame is. The inner session belongs to
    this one and is closed with it; only the worker calls it.

    Args:
        inner: takes windows of ``tile_height x tile_width`` pixels (smaller ones only where the frame
            is smaller and ``fixed_shape`` is false).
        tile_height, tile_width, halo, fixed_shape: see :func:`plan_tiles`.
        rule: from the bundle's geometry.

    Raises:
        UsageError: the tile is too small or has a side that breaks the rule.
    """

    def __init__(
        self,
        inner: Session,
        tile_height: int,
        tile_width: int,
        halo: int,
        rule: SizeRule | None = None,
        *,
        fixed_shape: bool = False,
    ) -> None:
        self._inner, self._rule = inner, rule or SizeRule()
        self._tile, self._halo, self._fixed_shape = (tile_height, tile_width), halo, fixed_shape
        self.plan(tile_height, tile_width)  # a tile that cannot work is refused now, not at the first frame
        self.scale = inner.scale
        self.code_inputs, self._codes = CodeInputs(inner.codes, inner.code_inputs.maps), _Codes(inner)
        # One frame is computed while the next one waits, so that the engine never runs dry between them.
        self.info = replace(inner.info, in_flight=2)
        self._slots = threading.Semaphore(self.info.in_flight)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._inputs, self._outputs = _Spare(inner.new_array), _Spare(inner.new_array)
        self._padded = _Spare(self.new_array)
        self._under_way: deque[tuple[_Job, Tile, Frames | None, Pending]] = deque()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="tiles", daemon=True)
        self._worker.start()

    def plan(self, height: int, width: int) -> TilePlan:
        """The tiles of a frame of ``height x width`` pixels."""
        return plan_tiles(
            height,
            width,
            *self._tile,
            self._halo,
            self._rule.multiple,
            minimum=self._rule.minimum,
            fixed_shape=self._fixed_shape,
        )

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        if self._closed:
            raise RuntimeError("the session is closed")
        plan = self.plan(frames.shape[1], frames.shape[2])
        codes = _codes_for(self, plan.height, plan.width)
        result = np.empty(self.output_shape(frames.shape), dtype=np.uint8) if out is None else out
        self._slots.acquire()
        job = _Job(frames, codes, result, plan)
        self._jobs.put(job)
        return Pending(job.future.result)

    def _work(self) -> None:
        while True:
            # Never wait for the next frame while results are due.
            try:
                job = self._jobs.get(block=not self._under_way)
            except queue.Empty:
                self._collect()
                continue
            if job is None:
                break
            self._run(job)
        while self._under_way:
            self._collect()

    def _run(self, job: _Job) -> None:
        plan, frames = job.plan, job.frames
        whole = len(plan.tiles) == 1 and not plan.pads
        padded = None
        try:
            if plan.pads:
                shape = (frames.shape[0], plan.padded_height, plan.padded_width, frames.shape[3])
                padded = frames = pad_frames(frames, shape[1], shape[2], self._padded.take(shape))
            for tile in plan.tiles:
                while len(self._under_way) >= max(1, self._inner.info.in_flight):
                    self._collect()
                if job.error is not None:
                    break
                if job.codes:
                    window = (tile.y, tile.x, plan.tile_height, plan.tile_width)
                    self._codes.give(job.codes, (plan.padded_height, plan.padded_width), window)
                if whole:
                    self._under_way.append((job, tile, None, self._inner.submit(frames, job.out)))
                    continue
                view = frames[:, tile.y : tile.y + plan.tile_height, tile.x : tile.x + plan.tile_width]
                part = self._inputs.take(view.shape)
                np.copyto(part, view)
                large = self._outputs.take(self._inner.output_shape(view.shape))
                self._under_way.append((job, tile, part, self._inner.submit(part, large)))
        except BaseException as error:
            job.error = job.error or error
        if padded is not None:
            self._padded.give(padded)  # every window has been copied out of it
        if job.error is not None:
            # The tiles that were not sent will not come; nothing may still write or read the caller's arrays.
            while self._under_way:
                self._collect()
            self._settle(job)

    def _collect(self) -> None:
        """Wait for the oldest tile and copy its contribution to where it belongs."""
        job, tile, window, pending = self._under_way.popleft()
        try:
            large = pending.result()
            if window is not None:
                s, y, x = self.scale, tile.y, tile.x
                job.out[:, tile.top * s : tile.bottom * s, tile.left * s : tile.right * s] = large[
                    :, (tile.top - y) * s : (tile.bottom - y) * s, (tile.left - x) * s : (tile.right - x) * s
                ]
                self._inputs.give(window)
                self._outputs.give(large)
        except BaseException as error:
            job.error = job.error or error
        job.left -= 1
        if job.left == 0:
            self._settle(job)

    def _settle(self, job: _Job) -> None:
        if job.future.done():
            return
        self.info = replace(self._inner.info, in_flight=self.info.in_flight)
        self._slots.release()
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.out)

    def warm_up(self, shape: tuple[int, int, int, int]) -> None:
        """Run one tile of the plan for frames of ``shape`` (N, H, W, 3). Call it before the first ``submit``."""
        plan = self.plan(shape[1], shape[2])
        self._codes.forget()
        self._inner.warm_up((shape[0], plan.tile_height, plan.tile_width, shape[3]))
        self.info = replace(self._inner.info, in_flight=self.info.in_flight)

    def close(self) -> None:
        """Finish what was submitted, end the worker and close the inner session."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        self._worker.join()
        self._inner.close()


WHOLE_FRAME_PIXELS = 1920 * 1088  # larger frames are tiled by default: activations of a whole 4K frame take gigabytes
DEFAULT_TILE = 512  # pixels a side where tiles are chosen automatically


def tile_side(geometry: Geometry, height: int, width: int, tile: int | None) -> int:
    """The side of the tiles in pixels, 0 for whole frames, of a graph of any size; else as :func:`fit_session`."""
    if tile is None and geometry.tileable and height * width > WHOLE_FRAME_PIXELS:
        return max(geometry.size_rule.padded(DEFAULT_TILE, 1)[0], smallest_tile(geometry.halo, geometry.size_rule))
    return tile or 0


def fit_session(session: Session, geometry: Geometry, height: int, width: int, tile: int | None) -> Session:
    """Wrap ``session`` so that it takes frames of ``height x width`` pixels.

    Args:
        session: as it was opened for a bundle; it belongs to the returned session.
        geometry: of the bundle's manifest.
        height, width: the frames to come, in pixels.
        tile: side of the tiles in pixels, 0 for whole frames, None to choose: whole frames up to
            ``WHOLE_FRAME_PIXELS``, tiles beyond. A graph of one fixed size is always given tiles of that size, or the
            frame resized to it, as ``geometry.fit`` says.

    Raises :class:`UsageError` where the generator cannot be tiled or the tile does not fit; the session is then closed.
    """
    try:
        rule = geometry.size_rule
        if geometry.fixed_size is not None:
            if tile:
                raise UsageError(
                    f"this bundle takes frames of one size only ({_size(geometry.fixed_size)}): leave out --tile"
                )
            if geometry.fixed_size == (height, width):
                return session
            if geometry.fit == "resize":
                return ResizedSession(session, geometry.fixed_size)
            if not geometry.tileable:
                raise UsageError(
                    f"this bundle takes frames of {_size(geometry.fixed_size)} only and cannot be tiled, "
                    f"but the input is {width}x{height}: resize the input to that size first, "
                    f"or build the bundle for yours (export build --shape {height}x{width})"
                )
            return TiledSession(session, *geometry.fixed_size, geometry.halo, rule, fixed_shape=True)
        if tile and not geometry.tileable:
            raise UsageError("this generator takes whole frames only and cannot be tiled: leave out --tile")
        if side := tile_side(geometry, height, width, tile):
            return TiledSession(session, side, side, geometry.halo, rule)
        return FittedSession(session, rule)
    except BaseException:
        session.close()
        raise


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
