"""A virtual camera: other programs see the frames as those of a webcam."""

from __future__ import annotations

from runtime.errors import MissingExtraError, VideoError
from runtime.video.preview import Pace
from runtime.video.sink import Sink, _check_frame
from runtime.video.source import SourceInfo, VideoFrame
from runtime.video.uri import SinkUri


class VirtualCameraSink(Sink):
    """Frames for ``vcam://`` or ``vcam://DEVICE``, through pyvirtualcam: v4l2loopback on Linux, OBS elsewhere.

    Files play at their own speed. Who looks may take a frame or not; none waits.

    Raises :class:`MissingExtraError` without the extra ``vcam``, ``VideoError`` where there is no such device.
    """

    def __init__(self, uri: SinkUri, source: SourceInfo, width: int, height: int) -> None:
        try:
            import pyvirtualcam
        except ModuleNotFoundError:
            raise MissingExtraError("pyvirtualcam", "vcam") from None
        self.warnings = []
        self._size = width, height
        self._pace = Pace(live=source.live)
        try:
            self._camera = pyvirtualcam.Camera(
                width, height, float(source.rate or 30), fmt=pyvirtualcam.PixelFormat.BGR, device=uri.target or None
            )
        except Exception as error:  # RuntimeError, and what a backend raises
            raise VideoError(
                f"{uri.text}: no virtual camera for {width}x{height} here ({' '.join(str(error).split())}): on Linux "
                "load v4l2loopback (sudo modprobe v4l2loopback), elsewhere install OBS"
            ) from error

    def write(self, frame: VideoFrame) -> None:
        _check_frame(frame.image, *self._size)
        self._pace.wait(frame.pts)
        try:
            self._camera.send(frame.image)
        except Exception as error:
            raise VideoError(f"the virtual camera {self._camera.device} takes no more frames: {error}") from error
        self.frames_written += 1

    def close(self) -> None:
        self._camera.close()
