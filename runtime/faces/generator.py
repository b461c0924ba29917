"""Draws faces with a generator that sees no face, only what :mod:`runtime.faces.sanitise` leaves of one."""

from __future__ import annotations

from collections import OrderedDict

import cv2
import numpy as np

from runtime.codes import Code
from runtime.errors import GenedgeError
from runtime.faces import blend, sanitise
from runtime.faces.types import Cover, TrackKeys
from runtime.frames import Frame
from runtime.sessions.base import Session

SEEDS = 1 << 62
"""Seeds for the noise of a track; there are so many that nobody can try them all and take the noise away."""

SMOOTHING = 0.25
"""Share of a new frame in the thumbnail of a track."""

TRACKS = 64
"""Tracks whose thumbnails are remembered: those that were drawn last."""


class GeneratorPainter:
    """A :class:`runtime.faces.methods.Painter`: session and sanitiser draw one face at a time, batch 1.

    The bits of a track choose the face, and its seed the noise; both are the same in all frames. Only the hull of the
    face is drawn; the rest of the region must have been replaced before, and what the generator sees of the
    surroundings is what is left then, not the original.

    Args:
        session: of a bundle of the family ``face-deid``. The painter closes it.
        sanitiser: by default that with which the shipped weights were trained.

    Raises:
        GenedgeError: the generator takes other codes than ``landmarks`` (10 numbers) and ``passcode`` (bits).
    """

    def __init__(self, session: Session, sanitiser: sanitise.FaceSanitiser | None = None) -> None:
        self._bits = bits_of(session)
        self._session = session
        self._sanitiser = sanitiser or sanitise.FaceSanitiser()
        self._thumbnails: OrderedDict[int, sanitise.Thumbnail] = OrderedDict()

    def paint(self, original: Frame, target: Frame, cover: Cover, keys: TrackKeys) -> None:
        """Draw the face of ``cover`` into ``target`` (H, W, 3), from whose region the face has been taken.

        ``original`` is read for the 8 x 8 thumbnail alone. Raises :class:`GenedgeError` where the landmarks are
        missing or useless, or the engine fails.
        """
        if cover.landmarks is None:
            raise GenedgeError("a generated face needs landmarks")
        matrix = sanitise.matrix_for(cover.landmarks)
        thumbnail = self._smoothed(cover.track, sanitise.thumbnail_of(sanitise.aligned(original, matrix)))
        seed = keys.number(cover.track, SEEDS)
        face = self._sanitiser(original, target, cover.landmarks, seed, thumbnail=thumbnail)
        on = keys.bits(cover.track, self._bits.size) > 0.5
        passcode = np.where(on, np.float32(self._bits.high), np.float32(self._bits.low)).astype(np.float32)
        self._session.set_codes({"landmarks": face.landmarks, "passcode": passcode})
        drawn = coloured_as(self._session.infer(face.frame[None])[0], thumbnail)
        sanitise.put_back(drawn, face.matrix, target)

    def _smoothed(self, track: int, thumbnail: sanitise.Thumbnail) -> sanitise.Thumbnail:
        before = self._thumbnails.pop(track, None)
        if before is not None:
            thumbnail = before + np.float32(SMOOTHING) * (thumbnail - before)
        self._thumbnails[track] = thumbnail
        if len(self._thumbnails) > TRACKS:
            self._thumbnails.popitem(last=False)
        return thumbnail

    def close(self) -> None:
        self._session.close()


def coloured_as(face: Frame, thumbnail: sanitise.Thumbnail) -> Frame:
    """``face`` with less colour, or none, where ``thumbnail`` has next to none."""
    spread = float((thumbnail.max(2) - thumbnail.min(2)).mean())
    share = blend.colour_share(spread)  # the noise is coloured, and black and white pictures are not
    if share == 1:
        return face
    grey = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return cv2.addWeighted(face, share, grey, 1 - share, 0).astype(np.uint8, copy=False)


def bits_of(session: Session) -> Code:
    """The passcode's rule of ``session``, which must be that of a ``face-deid`` generator."""
    codes = session.codes
    if set(codes) != {"landmarks", "passcode"} or codes["passcode"].kind != "bits" or codes["landmarks"].size != 10:
        found = ", ".join(codes) or "none"
        raise GenedgeError(f"a face generator takes the codes landmarks (10 numbers) and passcode (bits), not {found}")
    return codes["passcode"]
