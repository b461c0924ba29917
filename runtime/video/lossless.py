"""A video file that keeps every pixel as it is: FFV1 in RGB, in Matroska, readable by its owner only."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any

from runtime.errors import UsageError
from runtime.video.encoders import Encoding
from runtime.video.sink import FileSink, check_sink
from runtime.video.source import MATRIX_RGB, RANGE_FULL, SourceInfo
from runtime.video.uri import SinkUri


class _RgbEncoding(Encoding):
    """FFV1 (RFC 9043); its RGB is coded by a reversible colour transform."""

    def pixel_format(self, width: int, height: int) -> str:
        return "bgr0"


class LosslessSink(FileSink):
    """A :class:`runtime.video.sink.FileSink`, sound and times and all, whose frames come back bit for bit.

    Unlike that one it leaves nothing behind when it is aborted or cannot be written.
    """

    def __init__(self, uri: SinkUri, source: SourceInfo, encoding: Encoding) -> None:
        # FFmpeg keeps the mode of a file that is there already
        temporary = uri.path.with_name(f".{uri.path.stem}.part{uri.path.suffix}")
        with contextlib.suppress(OSError):  # whatever it is, the sink says it
            temporary.unlink(missing_ok=True)
            temporary.touch(mode=0o600)
        super().__init__(uri, source, source.width, source.height, encoding)

    def _add_video(self, source: SourceInfo, encoding: Encoding, time_base: Fraction) -> Any:
        stream = super()._add_video(source, encoding, time_base)
        self._to_yuv = {"format": "bgr0"}  # another order of the same bytes
        context = stream.codec_context
        context.colorspace, context.color_range = MATRIX_RGB, RANGE_FULL
        return stream

    def abort(self) -> None:
        """Leave nothing."""
        if not self._done:
            self._discard()

    def _salvage(self) -> str:
        self._discard()
        return ""


def open_lossless_sink(path: Path, *, source: SourceInfo, overwrite: bool = False, threads: int = 0) -> LosslessSink:
    """A file ``path`` (.mkv) for frames of the size, the times and with the sound of ``source``.

    Raises :class:`UsageError` as :func:`runtime.video.sink.check_sink`, and for another kind of file;
    :class:`VideoError` where it cannot be made.
    """
    if path.suffix.lower() != ".mkv":
        raise UsageError(f"{path}: a video without loss is FFV1, which has to be a file .mkv")
    uri = check_sink(str(path), source=source, overwrite=overwrite)
    # version 3 with slices uses all cores, and a checksum for each slice shows a damaged file
    encoding = _RgbEncoding("ffv1", (("level", "3"), ("slices", "4"), ("slicecrc", "1")), threads)
    return LosslessSink(uri, source, encoding)
