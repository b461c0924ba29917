"""To the frame of a given number in a video file, exactly and without decoding all frames before it.

Numbers count what a :class:`runtime.video.source.FileSource` gives. The packets are listed first: where they all have
times that make sense, their order is the order of the frames, and decoding begins at the second key frame before the
wanted one. (Of frames behind a key frame some may refer to what is before it, as in an open group of pictures; behind
the next one none does.) Where they do not, all frames before are decoded and dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEYS_BEFORE = 2  # key frames at which decoding must have passed before a frame is taken for what it is


@dataclass(frozen=True)
class Packets:
    """The frames of a file by what its packets say, up to a little behind a wanted one.

    ``ticks``: times of the frames in the stream's time base, in the order in which they are shown. ``keys``: times of
    the key frames among them.
    """

    ticks: tuple[int, ...]
    keys: tuple[int, ...]

    def entry(self, ticks: int) -> int | None:
        """Time of the key frame to begin at for the frame at ``ticks``, None: the beginning of the file is as near."""
        before = [key for key in self.keys if key <= ticks]
        return before[-KEYS_BEFORE] if len(before) > KEYS_BEFORE else None


def list_packets(path: Path, stream_index: int, count: int) -> Packets | None:
    """What is known of the first ``count`` frames of a video stream and one more, without decoding them.

    None where the file ends before, or the times of its packets do not tell which frame comes when.
    """
    import av

    shown: list[int] = []
    keys: list[int] = []
    decoded: int | None = None
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for packet in container.demux(container.streams[stream_index]):
                if packet.size == 0:
                    break
                if packet.pts is None or packet.is_corrupt or packet.is_discard:
                    return None
                if packet.dts is not None:  # Matroska has none, and FFmpeg does not make up the first ones
                    if packet.pts < packet.dts or (decoded is not None and packet.dts <= decoded):
                        return None
                    decoded = packet.dts
                if packet.is_keyframe:
                    if keys and packet.pts <= keys[-1]:
                        return None
                    if decoded is not None and sum(ticks < decoded for ticks in shown) > count:
                        break  # all that come are shown later
                    keys.append(packet.pts)
                elif not keys:
                    return None  # it begins in the middle of a group: what is decoded of it depends on the decoder
                shown.append(packet.pts)
    except av.FFmpegError:
        return None
    if len(set(shown)) != len(shown) or len(shown) <= count:
        return None
    return Packets(tuple(sorted(shown)), tuple(keys))


def seek_frames(container: Any, stream: Any, packets: Packets, count: int, decode: Any) -> Iterator[Any] | None:
    """Decoded frames of ``stream`` from the frame with the number ``count`` on, None where seeking does not get there.

    Args:
        container: open for reading; it stands somewhere else afterwards, also after None.
        decode: called after seeking; gives the decoded ``av.VideoFrame``s from there.
    """
    import av

    wanted = packets.ticks[count]
    entry = packets.entry(wanted)
    if entry is None:
        return None
    try:
        container.seek(entry, stream=stream, backward=True)
    except av.FFmpegError:
        return None
    frames: Iterator[Any] = iter(decode())
    passed = 0
    for frame in frames:
        if frame.pts is None or frame.pts > wanted:
            return None
        passed += frame.pts in packets.keys
        if frame.pts == wanted:
            return _with_first(frame, frames) if passed >= KEYS_BEFORE else None
    return None


def _with_first(frame: Any, frames: Iterator[Any]) -> Iterator[Any]:
    yield frame
    yield from frames
