"""The batch on a real Ray cluster of this machine; skipped where Ray is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_carriers import obedient, stillborn
from bundle_factory import write_small_bundle

from runtime.batch.on_ray import Cluster, RayPool, Seen
from runtime.batch.pool import Died, Done, Event, Failed, Told
from runtime.cli import run
from runtime.errors import GenedgeError

ROOT = Path(__file__).resolve().parents[3]


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_clip: Callable[..., Path]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    bundle = write_small_bundle(tmp_path / "tiny-x2")
    arguments = ["batch", str(make_clip()), "-b", str(bundle), "-o", str(tmp_path / "out"), "--ray", "auto"]
    assert run(arguments) == 1
    assert 'ray is not installed: pip install "genedge[ray]"' in capsys.readouterr().err


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "genedge[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))  # of its workers
        with Cluster("auto") as made:
            yield made


@pytest.fixture
def pool(cluster: Cluster) -> Iterator[RayPool]:
    with cluster.pool(2, 1, obedient) as made:
        yield made


def outcome(pool: RayPool, key: int, task: Any) -> Event:
    pool.give(key, task)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        for event in pool.wait(0.2):
            if not isinstance(event, Told):
                assert event.key == key
                return event
    raise AssertionError("the task did not end")


def test_tasks_end_well_fail_or_lose_their_worker(pool: RayPool, tmp_path: Path) -> None:
    assert outcome(pool, 1, ("square", 7)) == Done(1, 49)
    failed = outcome(pool, 2, ("fail",))
    assert isinstance(failed, Failed)
    assert failed.error.startswith("the file is broken (on ")
    assert failed.final
    marker = str(tmp_path / "marker")
    assert outcome(pool, 3, ("die once", marker)) == Died(3, "its worker process was ended")
    assert pool.room == 2
    assert outcome(pool, 4, ("die once", marker)) == Done(4, "alive")


def test_progress_is_told(pool: RayPool) -> None:
    pool.give(1, ("square", 3))
    pool.give(2, ("sleep", 3))
    told: list[Event] = []
    limit = time.monotonic() + 60
    while not any(isinstance(event, Done) and event.key == 2 for event in told):
        assert time.monotonic() < limit
        told += pool.wait(0.1)
    assert Done(1, 9) in told
    assert pool.room == 2


def test_a_worker_that_cannot_begin_says_why(cluster: Cluster) -> None:
    with cluster.pool(1, 1, stillborn) as pool:
        event = outcome(pool, 1, ("pid",))
    assert isinstance(event, Failed)
    assert event.error.startswith("the bundle is gone")


def test_a_machine_that_does_not_see_the_files_is_named(cluster: Cluster, tmp_path: Path) -> None:
    here, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    here.write_bytes(b"12345")
    other.write_bytes(b"12345")
    cluster.check([Seen.of(here), Seen.of(other, whole=True)], tmp_path)
    with pytest.raises(GenedgeError, match=rf"cannot read {tmp_path}/gone.mp4 \(No such file.*under the same paths"):
        cluster.check([Seen(tmp_path / "gone.mp4", 5, None)], tmp_path)
    with pytest.raises(GenedgeError, match=r"a\.mp4 is another file there"):
        cluster.check([Seen(here, 6, None)], tmp_path)
    with pytest.raises(GenedgeError, match="has no folder"):
        cluster.check([Seen.of(here)], tmp_path / "none")


def test_threads_and_workers_fit_the_machines(cluster: Cluster) -> None:
    (node,) = cluster._nodes()
    cores = int(node["Resources"]["CPU"])
    threads, jobs = cluster.share(0, None)
    assert threads * jobs <= cores
    assert cluster.share(1, None) == (1, cores)
    assert cluster.share(0, cores) == (1, cores)
    assert cluster.share(1, 3) == (1, 3)
    with pytest.raises(GenedgeError, match="take fewer --threads"):
        cluster.share(cores + 1, None)


def test_a_batch_on_a_cluster_makes_the_same_files(
    cluster: Cluster, tmp_path: Path, make_clip: Callable[..., Path]
) -> None:
    import ray

    bundle, clips = write_small_bundle(tmp_path / "tiny-x2"), tmp_path / "clips"
    clips.mkdir()
    for name, frames in (("a.mp4", 10), ("b.mp4", 600)):  # one is divided
        make_clip(name, ticks=[3600 * index for index in range(frames)]).rename(clips / name)
    (clips / "bad.mp4").write_bytes(b"no video")
    common = [clips, "-b", bundle, "--backend", "onnxruntime"]
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "runtime", "batch", *common, "-o", tmp_path / "ray", "--ray", address]
    done = subprocess.run(
        list(map(str, command)), env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "bad.mp4 cannot be opened as video" in done.stderr
    assert "2 files done, 1 failed; 610 frames" in done.stderr
    assert run(["batch", *map(str, common), "-o", str(tmp_path / "local"), "--quiet"]) == 1
    for name in ("a.mp4", "b.mp4"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: Connection refused"),
        ("ray://127.0.0.1:1", "no Ray cluster at ray://127.0.0.1:1: Connection refused"),
        ("here", "--ray here: give auto, HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(address: str, message: str) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "genedge[ray]"')
    with pytest.raises(GenedgeError, match=message):
        Cluster(address)
