"""The process that compresses and sends the frames of a :class:`runtime.video.stream.LiveSink`.

Standard input has one JSON object a line: first what to do, then ``{"slot", "pts"}`` for every frame, whose pixels lie
in the shared memory with that number. Standard output answers ``{"open"}``, ``{"slot"}`` when that frame's memory is
free again, or ``{"error"}``, after which the process ends. The end of the input is the end of the video.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import signal
import sys
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from runtime.errors import message_of
from runtime.frames import Frame
from runtime.video.sink import LIVE_TIME_BASE, Ticks
from runtime.video.source import RANGE_FULL, RANGE_LIMITED, Scaler

#: of FFmpeg's formats
_OPTIONS = {
    "rtsp": {"rtsp_transport": "tcp"},
    "flv": {"flvflags": "no_duration_filesize"},
    "mpegts": {"flush_packets": "1"},
}


class _Receiver(Protocol):
    def send(self, image: Frame, pts: Fraction) -> None: ...

    def close(self) -> None: ...


class _Stream:
    """A stream through FFmpeg: RTSP, RTMP, or a transport stream."""

    def __init__(self, job: dict[str, Any]) -> None:
        import av

        kind = job["format"]
        options = dict(_OPTIONS[kind])
        if kind == "rtsp":
            options["timeout"] = str(round(1e6 * job["silence"]))
        address = job["address"]
        self._container = av.open(address, "w", format=kind, container_options=options)
        rate = Fraction(*job["rate"])
        stream: Any = self._container.add_stream(job["encoder"], rate=rate)
        stream.options = job["options"]
        stream.time_base = LIVE_TIME_BASE
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = job["width"], job["height"], job["pix_fmt"]
        context.time_base, context.framerate = LIVE_TIME_BASE, rate
        context.sample_aspect_ratio = Fraction(*job["aspect"])
        context.colorspace, context.color_range = job["matrix"], RANGE_LIMITED
        context.color_primaries, context.color_trc = job["primaries"], job["transfer"]
        context.thread_count = job["threads"]
        context.gop_size = max(1, round(rate))  # who joins sees a picture within a second
        self._stream, self._scale = stream, Scaler()
        self._to_yuv = {
            "format": job["pix_fmt"],
            "src_color_range": RANGE_FULL,
            "dst_colorspace": job["sws_matrix"],
            "dst_color_range": RANGE_LIMITED,
        }
        self._ticks = Ticks(LIVE_TIME_BASE)
        self._zero: Fraction | None = None
        try:
            self._container.start_encoding()
        except av.ProtocolNotFoundError as error:
            raise OSError(f"this PyAV has no {address.partition(':')[0]}") from error

    def send(self, image: Frame, pts: Fraction) -> None:
        import av

        if self._zero is None:
            self._zero = pts
        picture = av.VideoFrame.from_numpy_buffer(image, format="bgr24")
        converted = self._scale(picture, **self._to_yuv)
        converted.pts, converted.time_base = self._ticks.next(pts - self._zero), LIVE_TIME_BASE
        self._container.mux(self._stream.encode(converted))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


class _Pipeline:
    """A GStreamer pipeline through OpenCV, which gives its frames times by their rate."""

    def __init__(self, job: dict[str, Any]) -> None:
        import cv2

        if not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()):
            raise OSError(
                "it needs an OpenCV with GStreamer, which pip's opencv-python is not: use the one of JetPack or of the "
                "system (apt install python3-opencv)"
            )
        pipeline, size = job["pipeline"], (job["width"], job["height"])
        self._writer = cv2.VideoWriter(pipeline, cv2.CAP_GSTREAMER, 0, job["rate"], size)
        if not self._writer.isOpened():
            raise OSError(f"see what GStreamer says: gst-launch-1.0 {pipeline.replace('appsrc', 'videotestsrc', 1)}")

    def send(self, image: Frame, pts: Fraction) -> None:
        self._writer.write(image)

    def close(self) -> None:
        self._writer.release()


def main() -> None:
    """Send until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    count, height, width = job["slots"], job["height"], job["width"]
    memory = mmap.mmap(int(sys.argv[1]), count * height * width * 3)
    slots = np.frombuffer(memory, dtype=np.uint8).reshape(count, height, width, 3)
    try:
        signal.alarm(job["lost"])
        receiver: _Receiver = _Stream(job) if job["kind"] == "stream" else _Pipeline(job)
        answer(open=True)
        signal.alarm(0)
        for line in sys.stdin:
            said = json.loads(line)
            signal.alarm(job["lost"])
            receiver.send(slots[said["slot"]], Fraction(*said["pts"]))
            signal.alarm(0)
            answer(slot=said["slot"])
    except Exception as error:  # libraries raise whatever they like, and all of it is for the other process to say
        answer(error=getattr(error, "strerror", None) or message_of(error))
        return
    signal.alarm(job["lost"])
    with contextlib.suppress(Exception):  # nobody waits for the good-bye
        receiver.close()


if __name__ == "__main__":
    main()
