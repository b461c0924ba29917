"""The usual way to compress H.264: about as small as x264's ``veryfast``, for less than half of its work.

Beside a fast generator on a processor the encoder is what is dear: with ``veryfast`` a 1280x720 frame costs a fifth of
what ``sr-x2`` in INT8 costs. Of what ``veryfast`` does over ``ultrafast``, most is gained by what costs little:
arithmetic coding, the deblocking filter, one step of finer motion, and more bits for what later frames repeat (mbtree).
``python -m benchmarks.encoding`` measures it.
"""

from __future__ import annotations

LIGHT = "light"  # what --preset calls it
_PARAMETERS = {
    "cabac": "1",
    "deblock": "0,0",
    "8x8dct": "1",
    "partitions": "i4x4,i8x8",
    "subme": "1",
    "mbtree": "1",
    "rc-lookahead": "10",  # frames that wait for it
    "scenecut": "40",
    "aq-mode": "1",
    "aq-strength": "0.3",
}
#: For FFmpeg's libx264. They hold ten frames back, and ``tune=zerolatency`` does not change that: not for live outputs.
X264_LIGHT = (
    ("preset", "ultrafast"),
    ("x264-params", ":".join(f"{key}={value}" for key, value in _PARAMETERS.items())),
)
