"""The usual encoding of H.264: that the encoder does as told, and what it costs in size and quality."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from runtime.errors import UsageError
from runtime.video.sink import open_sink
from runtime.video.source import open_source


def encoded(clip: Path, out: Path, frames: int = 40, **settings: Any) -> tuple[int, float]:
    """(bytes, PSNR in dB against the frames that were given) of the start of ``clip`` at x264's quality 18."""
    with open_source(str(clip)) as source:
        size = {"width": source.info.width, "height": source.info.height}
        given = [frame for _, frame in zip(range(frames), source, strict=False)]
        with open_sink(str(out), source=source.info, audio=False, crf=18, **size, **settings) as sink:
            for frame in given:
                sink.write(frame)
    with open_source(str(out)) as source:
        errors = [
            np.mean((frame.image.astype(float) - was.image) ** 2) for frame, was in zip(source, given, strict=True)
        ]
    return out.stat().st_size, float(10 * np.log10(255**2 / np.mean(errors)))


def settings_of(path: Path) -> dict[str, str]:
    """What x264 has written into the stream about itself."""
    with av.open(str(path)) as container:
        data = bytes(next(container.demux(video=0)))
    words = data[data.index(b"options: ") + 9 :].split(b"\0")[0].decode("ascii", "replace").split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_x264_does_what_it_is_told(assets: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    encoded(assets("video/carphone_pristine.mp4"), out, frames=2)
    told = settings_of(out)
    wanted = {"cabac": "1", "deblock": "1:0:0", "8x8dct": "1", "subme": "1", "mbtree": "1", "rc_lookahead": "10"}
    wanted |= {"scenecut": "40", "aq": "1:0.30", "bframes": "0", "ref": "1", "me": "dia", "crf": "18.0"}
    assert {key: told[key] for key in wanted} == wanted


def test_it_is_about_as_small_and_as_good_as_veryfast(assets: Callable[[str], Path], tmp_path: Path) -> None:
    clip = assets("video/short_hamilton_clip.mp4")
    size, psnr = encoded(clip, tmp_path / "light.mp4")
    usual_size, usual_psnr = encoded(clip, tmp_path / "veryfast.mp4", preset="veryfast")
    ultra_size, _ = encoded(clip, tmp_path / "ultrafast.mp4", preset="ultrafast")
    assert size < 1.15 * usual_size < 0.6 * ultra_size
    assert psnr > usual_psnr - 0.3


def test_other_codecs_take_veryfast_for_it(assets: Callable[[str], Path], tmp_path: Path) -> None:
    clip = assets("video/carphone_pristine.mp4")
    for codec in ("hevc", "vp9"):
        encoded(clip, tmp_path / f"{codec}.mp4", frames=8, codec=codec)
    with pytest.raises(UsageError, match="unknown preset quick of libx264: light, or one of ultrafast"):
        encoded(clip, tmp_path / "no.mp4", preset="quick")
