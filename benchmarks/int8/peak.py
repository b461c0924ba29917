"""Calibrate once and print this process's largest resident memory as JSON: the child of ``benchmarks.int8.cost``."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import onnx

from calib.quantise import Int8Config, prepare
from runtime.bundle import open_bundle
from runtime.stats import peak_rss_bytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8.peak", description="One pass of calibration.")
    parser.add_argument("bundle")
    parser.add_argument("set", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    model = onnx.load_model_from_string(bundle.read_model("fp32"))
    begin = peak_rss_bytes()
    with tempfile.TemporaryDirectory(prefix="genedge-cost-") as cache:
        config = Int8Config((options.set,), equalise=False, threads=options.threads, cache=Path(cache))
        prepared = prepare(model, bundle.manifest, config)
    print(json.dumps({"begin": begin, "peak": peak_rss_bytes(), "steps": prepared.statistics.steps}))


if __name__ == "__main__":
    main()
