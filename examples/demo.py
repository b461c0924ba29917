"""From a trained checkpoint to an upscaled video: what ``make demo`` runs.

    python -m examples.demo [CLIP]

Builds the bundle ``bundles/sr-x2`` from the shipped weights, prints its parity with PyTorch, upscales a real clip
and leaves ``demo/upscaled.mp4`` and ``demo/before_after.png``. Without CLIP it takes a clip of the test material
(``$GENEDGE_ASSETS``), and without that it films a photo: a slow pan over a picture that comes with scikit-image.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from export import cli as export_cli
from recipes.assets import assets_folder
from runtime import cli as runtime_cli
from runtime.frames import Frame
from runtime.video.sink import open_sink
from runtime.video.source import SourceInfo, VideoFrame, open_source

OUT = Path("demo")
BUNDLE = Path("bundles/sr-x2")
FRAMES = 120  # four to five seconds
CLIPS = ("carphone_pristine.mp4", "bikes.mp4", "short_hamilton_clip.mp4")
PANEL = (176, 240)  # height, width of the detail shown in before_after.png, in output pixels


def find_clip() -> Path:
    """A clip of the test material, or a pan over a photo that is encoded now."""
    for name in CLIPS:
        path = assets_folder() / "video" / name
        if path.is_file():
            return path
    return photo_pan(OUT / "photo_pan.mp4")


def photo_pan(path: Path, width: int = 320, height: int = 180) -> Path:
    """Film a photo with a moving window of ``width x height`` pixels, as H.264 with 25 frames a second."""
    from skimage import data

    photo = np.ascontiguousarray(data.coffee()[..., ::-1])
    rate = Fraction(25)
    info = SourceInfo(str(path), width, height, rate, 1 / rate, FRAMES)
    with open_sink(str(path), source=info, width=width, height=height, overwrite=True) as sink:
        for index in range(FRAMES):
            share = index / (FRAMES - 1)
            # in fractions of a pixel, so that the pan is smooth
            y = share * (photo.shape[0] - height)
            x = (0.5 - 0.5 * np.cos(np.pi * share)) * (photo.shape[1] - width)
            window = cv2.getRectSubPix(photo, (width, height), (x + (width - 1) / 2, y + (height - 1) / 2))
            sink.write(VideoFrame(np.asarray(window, dtype=np.uint8), index / rate, index, 1 / rate))
    return path


def before_after(clip: Path, upscaled: Path, picture: Path) -> None:
    """Write a detail of the middle frame, enlarged by bicubic interpolation and by the generator, side by side."""
    before = _frame(clip, FRAMES // 2)
    after = _frame(upscaled, FRAMES // 2)
    height, width = after.shape[:2]
    plain = np.asarray(cv2.resize(before, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    tall, wide = min(PANEL[0], height), min(PANEL[1], width)
    y, x = _most_detailed(after, tall, wide)
    panels = [
        _labelled(image[y : y + tall, x : x + wide], text)
        for image, text in ((plain, "before: bicubic"), (after, "after: sr-x2"))
    ]
    if not cv2.imwrite(str(picture), np.hstack(panels)):
        raise OSError(f"{picture} cannot be written")


def _frame(path: Path, index: int) -> Frame:
    with open_source(str(path)) as source:
        frame = None
        for frame in source:
            if frame.index == index:
                break
        assert frame is not None, "an open source has at least one frame"
        return frame.image


def _most_detailed(image: Frame, height: int, width: int) -> tuple[int, int]:
    energy = np.abs(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_32F))
    sums = cv2.integral(energy)
    ys = range(0, image.shape[0] - height + 1, 16)
    xs = range(0, image.shape[1] - width + 1, 16)
    return max(
        ((y, x) for y in ys for x in xs),
        key=lambda at: (
            sums[at[0] + height, at[1] + width]
            - sums[at[0], at[1] + width]
            - sums[at[0] + height, at[1]]
            + sums[at[0], at[1]]
        ),
    )


def _labelled(image: Frame, text: str) -> Frame:
    enlarged = cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    bar = np.full((36, enlarged.shape[1], 3), 24, dtype=np.uint8)
    cv2.putText(bar, text, (10, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (240, 240, 240), 1, cv2.LINE_AA)
    return np.asarray(np.vstack([bar, enlarged]), dtype=np.uint8)


def main(arguments: list[str]) -> int:
    OUT.mkdir(exist_ok=True)
    print("1. From the trained checkpoint to a bundle, checked against PyTorch", flush=True)
    code = export_cli.run(["build", "sr-x2", "--force"])
    if code:
        return code
    clip = Path(arguments[0]) if arguments else find_clip()
    upscaled = OUT / "upscaled.mp4"
    print(f"\n2. {clip.name} through the bundle", flush=True)
    run = ["run", "-b", str(BUNDLE), "-i", str(clip), "-o", str(upscaled), "--max-frames", str(FRAMES)]
    code = runtime_cli.run([*run, "--json", str(OUT / "report.json"), "--overwrite"])
    if code:
        return code
    before_after(clip, upscaled, OUT / "before_after.png")
    print(f"\nwrote {upscaled}, {OUT / 'before_after.png'} and {OUT / 'report.json'}; parity: {BUNDLE / 'parity.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
