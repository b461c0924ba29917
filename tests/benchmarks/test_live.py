"""The live benchmark: a short run of it, and that its measures can see what they are there for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from bundle_factory import write_small_bundle

from benchmarks import live

pytestmark = pytest.mark.timeout(120)


def test_a_short_run_meets_its_targets(assets: Callable[[str], Path], tmp_path: Path) -> None:
    clip, bundle = assets("video/short_hamilton_clip.mp4"), write_small_bundle(tmp_path / "tiny-x2")
    found = tmp_path / "found.json"
    arguments = ["--bundle", str(bundle), "--input", str(clip), "--minutes", "0.05", "--json", str(found)]
    live.main(arguments)
    content = json.loads(found.read_text())
    (figures,) = content["figures"]
    assert 2.9 <= figures["seconds"] < 10
    assert 0 < figures["frames"] <= 91  # of three seconds with 30 each
    verdicts = {target["name"].partition(": ")[2]: target["verdict"] for target in content["targets"]}
    # of memory and latency a busy machine can say anything within three seconds; these are the same everywhere
    assert verdicts["more open files in the second half"] == "met"
    assert verdicts["sound against pictures"] == "met"
    assert figures["drift_ms"] < 2
    assert set(verdicts) >= {"latency, 95th percentile", "growth of resident memory"}


def test_drift_is_the_worst_distance() -> None:
    among = [Fraction(i, 25) for i in range(10)]
    assert live.furthest(among[::3], among) == 0
    assert live.furthest([Fraction(0), Fraction(1, 25) + Fraction(1, 100)], among) == pytest.approx(10)
    assert live.furthest([Fraction(1)], among) == pytest.approx(640)


def test_what_a_process_holds() -> None:
    before, wait = live.Use.now(), threading.Event()
    with Path("/dev/null").open():
        threading.Thread(target=wait.wait).start()
        after = live.Use.now()
    wait.set()
    assert (after.threads - before.threads, after.files - before.files) == (1, 1)
