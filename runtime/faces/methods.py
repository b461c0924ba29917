"""The ways to replace a face: a flat colour, a mosaic, a blur, a face of nobody, or the face of a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from runtime.errors import UsageError
from runtime.faces import METHODS, align, blend
from runtime.faces.average import AveragePainter
from runtime.faces.types import Applied, Box, Cover, Method, TrackKeys, changed_box, uncut_box
from runtime.frames import Frame

MOSAIC_CELLS = 5
"""Cells of a mosaic across and down one face, at most."""

BLUR_CELLS = 8
"""Cells of a blurred face across and down before they are joined, at most."""

BLUR_WARNING = "A blurred face can be recognised again by software that was trained on blurred faces: prefer solid."
"""Revelio (arXiv:2506.12344) finds 95.9 % of the people behind a Gaussian blur."""

SMALLEST = 24.0
"""Shorter side in pixels of a face that is drawn; a smaller one gets a flat colour."""

WHOLE = 48
"""Grey level of a frame that is covered whole."""


class Painter(Protocol):
    """Draws the face of somebody who does not exist. Used by one thread at a time."""

    def paint(self, original: Frame, target: Frame, cover: Cover, keys: TrackKeys) -> None:
        """Draw the face for ``cover`` into ``target`` in place.

        ``original`` and ``target`` are uint8 (H, W, 3) BGR of the same size: a window of the frame around the face,
        as it was, and with the face already removed. The boxes and landmarks of ``cover`` are in pixels of this
        window; its landmarks are never None. ``original`` must not be changed, and nothing of it may be copied.
        An error of any kind means that the face is replaced by a flat colour instead.
        """
        ...


def make_method(name: str, *, keys: TrackKeys, painter: Painter | None = None) -> Method:
    """The method called ``name``, one of :data:`METHODS`. ``generator`` needs a ``painter``.

    Raises :class:`UsageError` for another name, or where the painter is missing.
    """
    if name == "solid":
        return SolidMethod()
    if name == "mosaic":
        return CellsMethod("mosaic", MOSAIC_CELLS, smooth=False)
    if name == "blur":
        return CellsMethod("blur", BLUR_CELLS, smooth=True)
    if name == "average":
        return DrawingMethod("average", AveragePainter(), keys)
    if name == "generator":
        if painter is None:
            raise UsageError("the method generator needs a face generator")
        return DrawingMethod("generator", painter, keys)
    raise UsageError(f"no method is called {name!r}: take one of {', '.join(METHODS)}")


def cover_whole(image: Frame) -> None:
    """Replace all of ``image`` by one flat colour that tells nothing about it, in place."""
    image[...] = WHOLE


class SolidMethod:
    """Every connected region in the mean colour of what surrounds it."""

    name = "solid"

    def apply(self, image: Frame, covers: Sequence[Cover]) -> list[Applied]:
        height, width = image.shape[:2]
        merged = blend.merge([cover.region for cover in covers], width, height)
        for group in merged.groups:
            wide, mask = blend.cut(image, group.wide), blend.cut(merged.mask, group.wide)
            fill = blend.solid_fill(wide, mask, connected=len(group.members) == 1)
            blend.blend(image, fill[group.inner], merged.mask, group)
        return [Applied(cover.track, self.name) for cover in covers]

    def close(self) -> None:
        pass


class CellsMethod:
    """Every face in a few cells of their mean colour, sharp (mosaic) or joined (blur).

    A pixel of two regions takes the cell of the one whose middle is nearer.
    """

    def __init__(self, name: str, count: int, *, smooth: bool) -> None:
        self.name = name
        self._count, self._smooth = count, smooth

    def apply(self, image: Frame, covers: Sequence[Cover]) -> list[Applied]:
        height, width = image.shape[:2]
        merged = blend.merge([cover.region for cover in covers], width, height)
        for group in merged.groups:
            regions = sorted(covers[index].region for index in group.members)
            blend.blend(image, self._fill(image, regions, group.window), merged.mask, group)
        return [Applied(cover.track, self.name) for cover in covers]

    def _fill(self, image: Frame, regions: Sequence[Box], window: blend.Window) -> Frame:
        height, width = image.shape[:2]
        if len(regions) == 1:
            return blend.cells_fill(image, window, uncut_box(regions[0]), self._count, smooth=self._smooth)
        left, top, right, bottom = window
        fill: Frame = np.zeros((bottom - top, right - left, 3), np.uint8)
        nearest = np.full(fill.shape[:2], np.inf, np.float32)
        for region in regions:
            x, y, end, low = part = changed_box(region, width, height)
            view = (slice(y - top, low - top), slice(x - left, end - left))
            far = blend.distance(region, part)
            mine = far < nearest[view]
            np.copyto(nearest[view], far, where=mine)
            cells = blend.cells_fill(image, part, uncut_box(region), self._count, smooth=self._smooth)
            np.copyto(fill[view], cells, where=mine[..., None])
        return fill

    def close(self) -> None:
        pass


class DrawingMethod:
    """Every face removed, its surroundings continued over it, and the face of a painter drawn there.

    A cover on which no face can be drawn gets a flat colour; what the painter draws outside of the region is dropped.
    """

    def __init__(self, name: str, painter: Painter, keys: TrackKeys) -> None:
        self.name = name
        self._painter, self._keys = painter, keys

    def apply(self, image: Frame, covers: Sequence[Cover]) -> list[Applied]:
        height, width = image.shape[:2]
        merged = blend.merge([cover.region for cover in covers], width, height)
        reasons = [reason_against(cover) for cover in covers]
        if isinstance(self._painter, AveragePainter):
            self._painter.look(image, merged.mask)
        for group in merged.groups:
            self._replace(image, merged, group, covers, reasons)
        return [
            Applied(cover.track, "solid" if reason else self.name, reason)
            for cover, reason in zip(covers, reasons, strict=True)
        ]

    def _replace(
        self, image: Frame, merged: blend.Merged, group: blend.Group, covers: Sequence[Cover], reasons: list[str]
    ) -> None:
        """Replace the covers of ``group``; ``reasons`` is completed where the painter fails."""
        wide, mask = blend.cut(image, group.wide), blend.cut(merged.mask, group.wide)
        if all(reasons[index] for index in group.members):
            fill = blend.solid_fill(wide, mask, connected=len(group.members) == 1)
            return blend.blend(image, fill[group.inner], merged.mask, group)
        fill, drawn = blend.background_fill(wide, mask), []
        # the largest face is the nearest: it is drawn last
        members = sorted(group.members, key=lambda member: (covers[member].region.area, covers[member].region))
        for index in members:
            if not reasons[index]:
                cover = moved(covers[index], -group.wide[0], -group.wide[1])
                face = self._painted(wide, fill, cover)
                if face is None:
                    reasons[index] = "engine failed"
                else:
                    drawn.append((cover, face))
        flat = [index for index in members if reasons[index]]
        if flat:
            colours = blend.solid_fill(wide, mask, connected=len(group.members) == 1)
            for index in flat:
                self._put(fill, colours, covers[index].region.moved(-group.wide[0], -group.wide[1]), inside=False)
        for cover, face in drawn:
            self._put(fill, face, cover.region, inside=True)
        blend.blend(image, fill[group.inner], merged.mask, group)

    def _painted(self, original: Frame, fill: Frame, cover: Cover) -> Frame | None:
        """``fill`` with a face on it, or None where the painter failed. ``original`` cannot be reached through it."""
        target, shown = fill.copy(), original.copy()
        try:
            self._painter.paint(shown, target, cover, self._keys)
        except Exception:  # whatever went wrong, the face must not be seen
            return None
        return target

    @staticmethod
    def _put(fill: Frame, face: Frame, region: Box, *, inside: bool) -> None:
        """Put ``face`` into ``fill`` in the ellipse of ``region``, its soft edge inside or outside of it."""
        height, width = fill.shape[:2]
        window = changed_box(region, width, height)
        alpha = (blend.inside_mask if inside else blend.ellipse_mask)(region, window)
        target = blend.cut(fill, window)
        target[:] = blend.mixed(target, blend.cut(face, window), alpha)

    def close(self) -> None:
        close = getattr(self._painter, "close", None)
        if close is not None:
            close()


def reason_against(cover: Cover) -> str:
    """Why no face is drawn for ``cover``: ``unsure``, ``small``, ``no landmarks`` or ``profile``; else empty."""
    if not cover.sure:
        return "unsure"
    if min(cover.box.width, cover.box.height) < SMALLEST:
        return "small"
    trouble = align.trouble_with(cover.landmarks)
    if trouble or cover.landmarks is None:
        return trouble
    x, y = cover.landmarks.T
    (across, down), (half, tall) = cover.region.center, blend.half_axes(cover.region)
    # landmarks of another face, or of none
    return "unsure" if (((x - across) / half) ** 2 + ((y - down) / tall) ** 2).max() > 1 else ""


def moved(cover: Cover, dx: float, dy: float) -> Cover:
    """``cover`` in a picture whose corner is elsewhere."""
    points = None if cover.landmarks is None else (cover.landmarks + np.array([dx, dy])).astype(np.float32)
    return replace(cover, box=cover.box.moved(dx, dy), region=cover.region.moved(dx, dy), landmarks=points)
