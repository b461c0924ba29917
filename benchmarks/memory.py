"""Memory of a long run, and tiles against whole frames.

A short clip is repeated into a long file, and one run of it (decode, infer, encode, as ``python -m runtime run`` does
it) is watched from the outside: resident memory at frame 200, when every buffer has been used, and at frame 2000.
Then real frames of several sizes go through tiles of several sizes and are compared with the whole frame's output.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.nets import UnavailableError, bundle_of, bundle_options, folder_for_built
from recipes.assets import assets_folder
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.pipeline import run_pipeline
from runtime.sessions import Choice, choose, open_session
from runtime.stages import open_stage
from runtime.stats import current_rss_bytes
from runtime.tiles import TiledSession, fit_session
from runtime.video.sink import Sink, open_sink
from runtime.video.source import VideoFrame, open_source

NAME = "memory"
GROWTH = 0.05  # of resident memory between the two frames
STEPS = 1  # 8-bit steps between tiled and whole-frame output
FIRST, LAST = 200, 2000  # frames
SAMPLES = 10  # times that memory is read between the two
MIB = 1 << 20
DEFAULT_BUNDLES = {
    "memory": ("sr-x2",),
    "tiles": ("sr-x2", "srgan-x2", "realesr-animevideov3", "span-x4"),
}  # a net a family
CLIP = "video/carphone_pristine.mp4"  # 176x144, 120 frames: small, so that 2000 frames take seconds

FRAME_SIZES = ((288, 352), (211, 317), (97, 131))  # height, width in pixels; the last two are primes
TILE_SIZES = (0, 64, 96, 160)  # pixels a side; 0 stands for both halos and MARGIN
MARGIN = 16  # pixels that a small tile contributes on each axis: fewer would make thousands of tiles


# --- a long run -------------------------------------------------------------------------------------------------------


def repeat_clip(clip: Path, target: Path, frames: int) -> int:
    """Write ``clip`` into ``target`` again and again, packets as they are, until it holds ``frames`` video frames.

    Returns how often. Sound is repeated with the pictures, so that a run copies it all the way.
    """
    import av

    written = turns = 0
    offset = Fraction(0)  # seconds
    with av.open(str(target), "w") as output:
        outs: dict[int, Any] = {}
        while written < frames:
            end = Fraction(0)
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                for stream in (video, *source.streams.audio):
                    if stream.index not in outs:
                        outs[stream.index] = output.add_stream_from_template(stream)
                for packet in source.demux([stream for stream in source.streams if stream.index in outs]):
                    if packet.dts is None or packet.pts is None:  # marks the end
                        continue
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                    written += packet.stream.index == video.index
                    ticks = round(offset / packet.time_base)
                    packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                    packet.stream = outs[packet.stream.index]
                    output.mux(packet)
            offset += end
            turns += 1
    return turns


class WatchedSink:
    """Passes everything on and notes this process's resident memory, in bytes, at certain frames."""

    def __init__(self, sink: Sink, frames: list[int]) -> None:
        self._sink, self._frames, self._count = sink, frozenset(frames), 0
        self.close, self.abort = sink.close, sink.abort
        self.rss: dict[int, int] = {}

    def write(self, frame: VideoFrame) -> None:
        self._sink.write(frame)
        self._count += 1
        if self._count in self._frames:
            self.rss[self._count] = current_rss_bytes()


@dataclass(frozen=True)
class LongRun:
    """Resident memory in bytes at certain frames of one run."""

    rss: dict[int, int]
    first: int
    last: int
    fps: float
    size: tuple[int, int]  # height, width of the input, pixels
    device: str
    threads: int

    @property
    def growth(self) -> float:
        """Share by which memory grew between the two frames."""
        return self.rss[self.last] / self.rss[self.first] - 1

    @property
    def bytes_a_frame(self) -> float:
        return (self.rss[self.last] - self.rss[self.first]) / (self.last - self.first)


def long_run(bundle: Bundle, choice: Choice, clip: Path, first: int, last: int, threads: int, folder: Path) -> LongRun:
    """Run ``last`` frames from file to file."""
    long = folder / "long.mp4"
    turns = repeat_clip(clip, long, last)
    common.say(f"{clip.name} {turns} times in a row; running {last} frames")
    frames = sorted({first, last, *(first + (last - first) * i // SAMPLES for i in range(SAMPLES))})
    with open_source(str(long)) as source:
        height, width = source.info.height, source.info.width
        with open_stage(bundle, choice, height, width, threads=threads) as session:
            session.warm_up((1, height, width, 3))
            scale = session.scale
            sink = open_sink(
                str(folder / "out.mp4"), source=source.info, width=width * scale, height=height * scale, overwrite=True
            )
            watched = WatchedSink(sink, frames)
            report = run_pipeline(source, [session], watched, max_frames=last)
            info = session.info
    return LongRun(watched.rss, first, last, report.fps, (height, width), info.device, info.threads)


def measure_memory(bundle: Bundle, choice: Choice, result: common.Result, options: argparse.Namespace) -> None:
    """The long run of one bundle: table, figures, target."""
    clip = Path(options.input) if options.input else assets_folder() / CLIP
    name = f"{bundle.manifest.name} {choice.precision}"
    label = f"{name} memory growth, frame {options.first} to {options.last}"
    if options.input is None and not clip.is_file():
        result.targets.append(common.skipped(label, common.missing(clip)))
        return
    with tempfile.TemporaryDirectory(prefix="genedge-") as folder:
        run = long_run(bundle, choice, clip, options.first, options.last, options.threads, Path(folder))
    result.conditions |= {"device": run.device, "threads": run.threads}
    rows = [
        (name, f"{run.size[1]}x{run.size[0]}", str(frame), f"{rss / MIB:.1f}", f"{rss / run.rss[run.first] - 1:+.2%}")
        for frame, rss in sorted(run.rss.items())
    ]
    result.add_table(("bundle", "input", "frame", "resident MiB", "since first"), rows, left=2)
    result.figures.append(
        {
            "bundle": bundle.manifest.name,
            "precision": choice.precision,
            "rss_bytes": {str(frame): rss for frame, rss in sorted(run.rss.items())},
            "growth": run.growth,
            "bytes_a_frame": run.bytes_a_frame,
            "fps": run.fps,
        }
    )
    result.targets.append(common.below(label, 100 * run.growth, 100 * GROWTH, " %"))


# --- tiles ------------------------------------------------------------------------------------------------------------


def real_frames(sizes: tuple[tuple[int, int], ...]) -> list[Frame]:
    """One real photo for each size, its most detailed place, ``uint8 (H, W, 3) BGR``; empty without test material."""
    from calib.dataset import CalibrationSet

    files = sorted((assets_folder() / "images" / "kodak").glob("*.png"))[: len(sizes)]
    if len(files) < len(sizes):
        return []
    photos = CalibrationSet.from_paths(files).frames
    return [
        next(CalibrationSet((photo,), ("photo",), "").crops(*size, 1))
        for photo, size in zip(photos, sizes, strict=True)
    ]


def tile_sides(bundle: Bundle, height: int, width: int) -> list[int]:
    """Tile sides in pixels, smallest first, that this net allows and that cut a frame of ``height x width``."""
    geometry = bundle.manifest.geometry
    least = 2 * geometry.halo + MARGIN
    sides = {geometry.size_rule.padded(max(side, least), 1)[0] for side in TILE_SIZES}
    return sorted(side for side in sides if side < max(height, width))


def tile_differences(bundle: Bundle, choice: Choice, frames: list[Frame], threads: int) -> Iterator[dict[str, Any]]:
    """Largest difference, in 8-bit steps, between tiled and whole-frame output for every frame and tile size."""
    geometry = bundle.manifest.geometry
    for frame in frames:
        height, width = frame.shape[:2]
        common.say(f"{bundle.manifest.name}: tiles of a frame of {width}x{height}")
        with fit_session(open_session(bundle, choice, threads=threads), geometry, height, width, 0) as session:
            whole = session.infer(frame[None])[0]
        for side in tile_sides(bundle, height, width):
            opened = open_session(bundle, choice, threads=threads)
            with TiledSession(opened, side, side, geometry.halo, geometry.size_rule) as session:
                tiled = session.infer(frame[None])[0]
                tiles = len(session.plan(height, width).tiles)
            steps = np.abs(whole.astype(np.int16) - tiled.astype(np.int16))
            yield {
                "bundle": bundle.manifest.name,
                "precision": choice.precision,
                "height": height,
                "width": width,
                "tile": side,
                "tiles": tiles,
                "halo": geometry.halo,
                "max_abs": int(steps.max()),
                "changed": float(np.mean(steps > 0)),
            }


def measure_tiles(bundle: Bundle, choice: Choice, result: common.Result, options: argparse.Namespace) -> None:
    """Tiles against the whole frame for one bundle: table, figures, target."""
    name = f"{bundle.manifest.name} {choice.precision}"
    label = f"{name} tiles against whole frame"
    if not bundle.manifest.geometry.tileable or bundle.manifest.geometry.fixed_size:
        result.targets.append(common.skipped(label, "this net takes whole frames, or one size, only"))
        return
    frames = real_frames(FRAME_SIZES[-1:] if options.quick else FRAME_SIZES)
    if not frames:
        result.targets.append(common.skipped(label, common.missing(assets_folder() / "images" / "kodak")))
        return
    figures = list(tile_differences(bundle, choice, frames, options.threads))
    rows = [
        (
            name,
            f"{row['width']}x{row['height']}",
            str(row["tile"]),
            str(row["tiles"]),
            str(row["halo"]),
            str(row["max_abs"]),
            f"{row['changed']:.4%}",
        )
        for row in figures
    ]
    result.add_table(("bundle", "frame", "tile", "tiles", "halo", "max steps", "changed"), rows, left=2)
    result.figures += figures
    worst = max(row["max_abs"] for row in figures)
    result.targets.append(common.at_most(label, worst, STEPS, " 8-bit steps", 0))


def measure(options: argparse.Namespace) -> common.Result:
    """Memory first, while nothing else has run in this process; then tiles."""
    result = common.Result(NAME, common.conditions(threads=options.threads))
    parts = {"memory": measure_memory, "tiles": measure_tiles}
    with folder_for_built(options.built) as built:
        for part, measure_part in parts.items():
            if options.only not in (None, part):
                continue
            for place in options.bundle or DEFAULT_BUNDLES[part]:
                try:
                    bundle = bundle_of(place, built)
                except UnavailableError as reason:
                    result.targets.append(common.skipped(f"{place} {part}", str(reason)))
                    continue
                measure_part(bundle, choose(bundle, "openvino", options.precision), result, options)
    return result


def main(arguments: list[str] | None = None) -> int:
    parser = common.parser_for(NAME, __doc__)
    bundle_options(parser, DEFAULT_BUNDLES["tiles"])
    parser.add_argument("--input", metavar="VIDEO", help=f"clip to repeat (default: {CLIP} of the test material)")
    parser.add_argument(
        "--first", type=common.positive, metavar="N", help=f"first frame (default: {FIRST}, quick: {FIRST // 4})"
    )
    parser.add_argument(
        "--last", type=common.positive, metavar="N", help=f"last frame (default: {LAST}, quick: {FIRST})"
    )
    parser.add_argument("--only", choices=("memory", "tiles"), help="one of the two parts")
    parser.add_argument("--precision", default="fp32", help="auto, fp32, bf16, fp16 or int8 (default: fp32)")
    parser.add_argument(
        "--threads", type=common.not_negative, default=0, metavar="N", help="engine threads, 0: the engine's choice"
    )
    options = parser.parse_args(arguments)
    options.first = options.first or (FIRST // 4 if options.quick else FIRST)
    options.last = options.last or (FIRST if options.quick else LAST)
    if options.last <= options.first:
        parser.error("--last must come after --first")
    return common.run(NAME, measure, options)


if __name__ == "__main__":
    sys.exit(main())
