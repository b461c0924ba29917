"""Presets of the H.264 encoder on what a generator makes: processor time, and size at the quality of veryfast.

Each preset encodes the frames at several qualities (``--crf``), on one thread. Its size is read off where its PSNR, and
its SSIM, are those of ``veryfast`` at 18, between the two nearest points; so sizes compare files that are equally good.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.nets import UnavailableError, bundle_of, bundle_options, folder_for_built
from recipes.assets import assets_folder
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.metrics import decibels, ssim
from runtime.sessions import choose
from runtime.stages import open_stage
from runtime.video.light import LIGHT, X264_LIGHT
from runtime.video.source import RANGE_FULL, RANGE_LIMITED, SWS_OF_MATRIX, Scaler, ToBgr, matrix_for_size, open_source

NAME = "encoding"
CLIPS = ("short_hamilton_clip.mp4", "bikes.mp4", "carphone_pristine.mp4")
PRESETS = (LIGHT, "ultrafast", "superfast", "veryfast")
USUAL, QUALITY = "veryfast", 18.0
QUALITIES = (14.0, 16.0, 18.0, 20.0, 23.0, 26.0)
WORK = 0.5  # of veryfast's processor time, that the light encoding may take
SIZE = 1.15  # of veryfast's bytes at equal PSNR, mean of the clips
HEAD = ("clip", "preset", "cpu ms", "kB a frame", "PSNR dB", "SSIM dB", "work", "size at its PSNR", "at its SSIM")


@dataclass(frozen=True)
class Point:
    """One encoding: a frame's processor milliseconds and bytes, and its likeness to what was encoded."""

    cpu_ms: float
    size: float
    psnr: float  # dB
    ssim: float  # dB: -10 log10(1 - SSIM)


def settings_of(preset: str, crf: float) -> dict[str, str]:
    return {"crf": f"{crf:g}", **(dict(X264_LIGHT) if preset == LIGHT else {"preset": preset})}


def encode(pictures: list[Any], settings: dict[str, str]) -> tuple[float, bytes]:
    """(processor seconds, Matroska file) of yuv420p frames."""
    import av

    rate, first, file = Fraction(30), pictures[0], io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream("libx264", rate=rate, options=settings)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        stream.codec_context.thread_count = 1
        begin = time.process_time()
        for index, picture in enumerate(pictures):
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        seconds = time.process_time() - begin
    return seconds, file.getvalue()


def measured(pictures: list[Any], images: list[Frame], preset: str, crf: float) -> Point:
    """``images``: the pictures again, ``uint8 (H, W, 3) BGR`` as they come out of a decoder without any loss."""
    import av

    seconds, data = encode(pictures, settings_of(preset, crf))
    to_bgr = ToBgr(pictures[0].width, pictures[0].height)
    container: Any
    with av.open(io.BytesIO(data)) as container:
        decoded = [to_bgr(frame) for frame in container.decode(video=0)]
    pairs = list(zip(images, decoded, strict=True))
    error = float(np.mean([np.mean((was.astype(np.float32) - image) ** 2) for was, image in pairs]))
    alike = float(np.mean([ssim(was, image) for was, image in pairs[::8]]))
    count = len(pictures)
    return Point(1e3 * seconds / count, len(data) / count, decibels(error), -10 * math.log10(max(1e-9, 1 - alike)))


def size_at(points: list[Point], kind: str, wanted: float) -> float:
    """Bytes a frame where ``kind`` (psnr, ssim) is ``wanted``; nan outside of the points."""
    ordered = sorted(points, key=lambda point: float(getattr(point, kind)))
    likeness = [getattr(point, kind) for point in ordered]
    sizes = np.log([point.size for point in ordered])
    return float(np.exp(np.interp(wanted, likeness, sizes, left=math.nan, right=math.nan)))


def made(bundle: Bundle, path: str, frames: int) -> list[Frame]:
    """The first frames of a clip, upscaled."""
    choice = choose(bundle, "openvino")
    with open_source(path) as source:
        height, width = source.info.height, source.info.width
        with open_stage(bundle, choice, height, width) as session:
            return [session.infer(frame.image[None])[0] for _, frame in zip(range(frames), source, strict=False)]


def measure(options: argparse.Namespace) -> common.Result:
    """Every clip, every preset, every quality."""
    import av

    result = common.Result(NAME, common.conditions(threads=1))
    rows, works, sizes = [], [], []
    with folder_for_built(options.built) as built:
        try:
            bundle = bundle_of((options.bundle or ["sr-x2"])[0], built)
        except UnavailableError as reason:
            result.targets.append(common.skipped("encoding", str(reason)))
            return result
        for name in CLIPS[: 1 if options.quick else None]:
            path = assets_folder() / "video" / name
            if not path.is_file():
                result.targets.append(common.skipped(name, common.missing(path)))
                continue
            images = made(bundle, str(path), options.frames)
            height, width = images[0].shape[:2]
            scale, to_bgr = Scaler(), ToBgr(width, height)
            wanted: dict[str, Any] = {
                "format": "yuv420p",
                "src_color_range": RANGE_FULL,
                "dst_color_range": RANGE_LIMITED,
            }
            wanted["dst_colorspace"] = SWS_OF_MATRIX[matrix_for_size(width, height)]
            pictures = [scale(av.VideoFrame.from_numpy_buffer(image, format="bgr24"), **wanted) for image in images]
            images = [to_bgr(picture) for picture in pictures]
            found = {p: {crf: measured(pictures, images, p, crf) for crf in QUALITIES} for p in PRESETS}
            usual = found[USUAL][QUALITY]
            for preset, points in found.items():
                own = points[QUALITY]
                at = {kind: size_at(list(points.values()), kind, getattr(usual, kind)) for kind in ("psnr", "ssim")}
                ratios = {kind: size / usual.size for kind, size in at.items()}
                work = own.cpu_ms / usual.cpu_ms
                rows.append(
                    (
                        name,
                        preset,
                        f"{own.cpu_ms:.1f}",
                        f"{own.size / 1e3:.1f}",
                        f"{own.psnr:.1f}",
                        f"{own.ssim:.1f}",
                        f"{work:.2f}",
                        *(f"{ratio:.2f}" for ratio in ratios.values()),
                    )
                )
                result.figures.append({"clip": name, "preset": preset, "work": work, "size_at": ratios})
                if preset == LIGHT:
                    works.append(work)
                    sizes.append(ratios["psnr"])
            common.say(f"{name}: {len(pictures)} frames of {width}x{height}")
    if rows:
        result.add_table(HEAD, rows, left=2)
        result.targets.append(common.at_most(f"{LIGHT}: work of {USUAL}", float(np.mean(works)), WORK))
        label = f"{LIGHT}: size of {USUAL} at its PSNR"
        known = [size for size in sizes if not math.isnan(size)]
        if known:
            result.targets.append(common.at_most(label, float(np.mean(known)), SIZE))
        else:
            result.targets.append(common.skipped(label, "no quality that was tried comes near"))
    result.conditions["frames"] = options.frames
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, ("sr-x2",))
    parser.add_argument("--frames", type=common.positive, metavar="N", help="frames a clip (default: 60, quick: 16)")
    options = parser.parse_args(arguments)
    options.frames = options.frames or (16 if options.quick else 60)
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
