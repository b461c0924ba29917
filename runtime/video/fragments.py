"""A video file that grows in whole pieces, so that it can be played wherever its writer is killed.

A muxer writes an MP4 as fragments (``moof`` + ``mdat``) and a Matroska file as clusters, of some seconds each at most.
Killed in the middle of one, it would leave a piece of which only a part is there. So the first bytes of a piece, which
say what it is, are written last: until then there is a hole, which players take for the end of the file.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

PIECE = 500_000  # microseconds of video in a piece at most: in an MP4 its sound comes behind it
SYNC_EVERY = 1.0  # seconds between two calls that wait for the disk; a power cut costs that much more at most

_MP4_LAST = b"mdat"  # the box that completes a piece
_CLUSTER = b"\x1f\x43\xb6\x75"  # Matroska's cluster (RFC 9559), its size behind it
_SEGMENT = b"\x18\x53\x80\x67"  # what contains all others: entered, not passed over
_VOID = b"\xec"  # an element to pass over


def muxer_options(format: str, *, fragmented: bool) -> dict[str, str]:
    """FFmpeg's options for a file of ``format`` in pieces.

    Unless ``fragmented``, an MP4 becomes an ordinary file with one index in the end, in place: nothing is copied.
    """
    if format not in ("mp4", "mov"):
        return {"cluster_time_limit": str(PIECE // 1000)}  # milliseconds
    # the index comes with the first piece, when it is known how late each track starts
    flags = "frag_keyframe+delay_moov+default_base_moof" + "+hybrid_fragmented" * (not fragmented)
    return {"movflags": flags, "frag_duration": str(PIECE)}


class PartFile:
    """What PyAV writes a file into: ``av.open(PartFile(path, "mp4"), "w", format="mp4")``.

    ``whole``: bytes at the front of the file that are whole pieces.

    Args:
        path: emptied where it exists; keeps its mode then.
        format: FFmpeg's name, ``mp4``, ``mov``, ``matroska`` or ``webm``.

    Raises ``OSError`` where the file cannot be made or written; after that it has ended with its last whole piece.
    """

    def __init__(self, path: Path, format: str) -> None:
        self._matroska = format in ("matroska", "webm")
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        self._at = 0
        self._end = 0  # of what was written
        self.whole = 0
        self._head = b""  # first bytes of the piece, held back
        self._box = 0  # where the box or element begins that is being written
        self._box_head = b""
        self._synced = float("-inf")
        self._error: OSError | None = None

    # -- what PyAV calls ------------------------------------------------------------------------

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        if self._at != self._end:  # it goes back to complete what it has written
            if self._box == self._end:
                self._release()
            self._put(view, self._at)
            self._at += len(view)
            self._end = max(self._end, self._at)
        else:
            left = view
            while len(left):
                left = left[self._take(left) :]
            self._at = self._end
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    # -- what the sink calls --------------------------------------------------------------------

    def end(self, *, complete: bool) -> None:
        """Close the file; unless ``complete`` it ends with the last whole piece. Calling it twice is harmless."""
        if self._file is None:
            return
        try:
            if complete:
                self._release()
                os.fsync(self._file)
            else:
                os.ftruncate(self._file, self.whole)
        finally:
            os.close(self._file)
            self._file = None

    # -- pieces ---------------------------------------------------------------------------------

    def _take(self, view: memoryview) -> int:
        """Write what belongs to the current box, or to the head of the next one; how many bytes that were."""
        box_end = self._box_end()
        if box_end is None:  # its head is not complete
            self._box_head += bytes(view[:1])
            self._write_on(view[:1])
            box_end, taken = self._box_end(), 1
            if self._matroska and self._box == self.whole > 0 and box_end is not None and box_end - self._box >= 9:
                self._put(memoryview(_void(box_end - self._box)), self.whole)
        else:
            taken = min(len(view), box_end - self._end)
            self._write_on(view[:taken])
        if box_end is not None and box_end <= self._end:
            self._box_ends()
        return taken

    def _write_on(self, view: memoryview) -> None:
        held = self._end - self.whole
        room = max(0, self._head_length - held)
        self._head += bytes(view[:room])
        if len(view) > room:
            self._put(view[room:], self._end + room)
        self._end += len(view)

    @property
    def _head_length(self) -> int:
        # bytes that are held back; in their place zeros, of which an MP4's reader makes a last box of no meaning, or in
        # Matroska an element to pass over
        return 9 if self._matroska else 8

    def _box_end(self) -> int | None:
        """Where the current box ends, None while that is not known."""
        size = _element_size(self._box_head) if self._matroska else _box_size(self._box_head)
        return None if size is None else self._box + size

    def _box_ends(self) -> None:
        kind = self._box_head[:4] if self._matroska else self._box_head[4:8]
        self._box, self._box_head = self._end, b""
        if kind == (_CLUSTER if self._matroska else _MP4_LAST):
            self._release()

    def _release(self) -> None:
        """The piece is whole: let its head appear."""
        head, self._head = self._head, b""
        if not head:
            return
        now = time.monotonic()
        if self._file is not None and now - self._synced >= SYNC_EVERY:
            self._synced = now
            os.fsync(self._file)
        self._put(memoryview(head), self.whole)
        self.whole = self._end

    def _put(self, view: memoryview, at: int) -> None:
        if self._file is None:
            raise self._error or ValueError("the file is closed")
        try:
            os.lseek(self._file, at, os.SEEK_SET)
            while len(view):
                view = view[os.write(self._file, view) :]
        except OSError as error:
            # a full disk still has room where something was before: a muxer that went back would spoil the whole pieces
            self._error = error
            self.end(complete=False)
            raise


def _void(length: int) -> bytes:
    """Head of a Matroska element of ``length`` bytes in all, at least 9, that players pass over."""
    return _VOID + (length - 9 | 1 << 56).to_bytes(8, "big")


def _box_size(head: bytes) -> int | None:
    """Bytes of the MP4 box that begins with ``head``, None: more of it is needed."""
    if len(head) < 8:
        return None
    size = int.from_bytes(head[:4], "big")
    if size == 1:
        return int.from_bytes(head[8:16], "big") if len(head) >= 16 else None
    return size if size >= 8 else 1 << 62  # 0: up to the end of the file


def _element_size(head: bytes) -> int | None:
    """Bytes of the Matroska element that begins with ``head``, None: more is needed. Of the segment: those of its head,
    since what it contains is passed one by one."""
    if not head:
        return None
    id_length = 9 - head[0].bit_length()
    if len(head) <= id_length:
        return None
    size_length = 9 - head[id_length].bit_length()
    if len(head) < id_length + size_length:
        return None
    if head[:id_length] == _SEGMENT:
        return id_length + size_length
    value = int.from_bytes(head[id_length : id_length + size_length], "big") & ((1 << 7 * size_length) - 1)
    return id_length + size_length + value
