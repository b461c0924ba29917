"""Frames as raw bytes, before they are encoded: what two runtimes are compared by, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import VideoError, message_of
from runtime.video.sink import Sink
from runtime.video.source import VideoFrame


class DumpingSink(Sink):
    """Passes frames on to ``sink``, and writes each one's bytes, ``uint8 (H, W, 3) BGR``, to the end of ``path``.

    Raises ``VideoError`` where the file cannot be written.
    """

    def __init__(self, sink: Sink, path: Path) -> None:
        self._sink, self._path = sink, path
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise VideoError(message_of(error)) from error
        self.warnings = sink.warnings
        self.linger = sink.linger  # type: ignore[method-assign]

    def write(self, frame: VideoFrame) -> None:
        self._sink.write(frame)
        self.frames_written, self.stop_requested = self._sink.frames_written, self._sink.stop_requested
        try:
            self._file.write(frame.image.data)
        except OSError as error:
            raise VideoError(message_of(error)) from error

    def close(self) -> None:
        self._sink.close()
        self._file.close()

    def abort(self) -> None:
        self._sink.abort()
        self._file.close()
