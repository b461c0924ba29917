"""The scripts that a net comes with: OpenCV reads, a framework computes in float32, OpenCV writes, one after the other.

They are the yardstick of ``benchmarks.pipeline --only plain``, which runs each as a whole program.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from runtime.errors import GenedgeError
from runtime.frames import Frame

Upscale = Callable[[Frame], Frame]


def plain_video(clip: Path, output: Path, upscale: Upscale, frames: int) -> int:
    """Write the first ``frames`` frames of ``clip``, each ``upscale``d; returns how many there were."""
    capture = cv2.VideoCapture(str(clip))
    if not capture.isOpened():
        raise GenedgeError(f"OpenCV cannot read {clip}")
    writer, count = None, 0
    while count < frames:
        good, frame = capture.read()
        if not good:
            break
        image = upscale(np.asarray(frame, dtype=np.uint8))
        if writer is None:
            height, width = image.shape[:2]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(output), code, capture.get(cv2.CAP_PROP_FPS), (width, height))
        writer.write(image)
        count += 1
    capture.release()
    if writer is not None:
        writer.release()
    return count


def pytorch(weights: Path, threads: int) -> Upscale:
    """The net in PyTorch, eager."""
    import torch

    from export.generators import load_generator

    if threads:
        torch.set_num_threads(threads)
    loaded, _ = load_generator(weights)
    net, (low, high) = loaded.net.eval(), loaded.input_range
    out_low, out_high = loaded.output_range

    @torch.inference_mode()
    def upscale(frame: Frame) -> Frame:
        rgb = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        tensor = rgb.permute(2, 0, 1)[None].float() / 255 * (high - low) + low
        image = (net(tensor)[0] - out_low) / (out_high - out_low)
        levels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        return np.asarray(cv2.cvtColor(levels, cv2.COLOR_RGB2BGR), dtype=np.uint8)

    return upscale


def onnxruntime(model: Path, threads: int) -> Upscale:
    """The bundle's float32 graph in ONNX Runtime, which has the conversion from and to 8-bit frames in it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda frame: np.asarray(session.run(None, {name: frame[None]})[0][0], dtype=np.uint8)


SCRIPTS = {"pytorch": pytorch, "onnxruntime": onnxruntime}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain", description="A plain script for video.")
    parser.add_argument("framework", choices=SCRIPTS)
    parser.add_argument("model", type=Path, help="checkpoint, or float32 ONNX file of a bundle")
    parser.add_argument("clip", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    upscale = SCRIPTS[options.framework](options.model, options.threads)
    count = plain_video(options.clip, options.output, upscale, options.frames)
    if count != options.frames:
        raise SystemExit(f"{count} frames instead of {options.frames}")


if __name__ == "__main__":
    main()
