"""Worker processes: real ones, with stand-ins for the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_carriers import obedient, stillborn

from runtime.batch.local import LocalPool, Teller, verdict_on
from runtime.batch.pool import Died, Done, Event, Failed, Told
from runtime.errors import VideoError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with LocalPool(1, obedient) as made:
        yield made


def outcome(pool: LocalPool, key: int, task: Any) -> Event:
    """Give a task and wait for its end; what is told on the way is left out."""
    pool.give(key, task)
    (event,) = endings(pool, 1)
    assert event.key == key
    return event


def endings(pool: LocalPool, count: int) -> list[Event]:
    """How the next ``count`` tasks end."""
    found: list[Event] = []
    limit = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < limit, "the task did not end"
        found += [event for event in pool.wait(0.2) if not isinstance(event, Told)]
    return found


def test_one_process_does_task_after_task(pool: LocalPool) -> None:
    assert outcome(pool, 1, ("square", 7)) == Done(1, 49)
    first, second = outcome(pool, 2, ("pid",)), outcome(pool, 3, ("pid",))
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert first.result == second.result != os.getpid()


def test_errors_leave_the_worker_alive(pool: LocalPool) -> None:
    before = outcome(pool, 1, ("pid",))
    assert outcome(pool, 2, ("fail",)) == Failed(2, "the file is broken", final=True)
    assert outcome(pool, 3, ("stumble",)) == Failed(3, "clip.mp4: Input/output error", final=False)
    after = outcome(pool, 4, ("pid",))
    assert isinstance(before, Done)
    assert isinstance(after, Done)
    assert before.result == after.result


def test_a_worker_that_was_killed_is_told_and_replaced(pool: LocalPool, tmp_path: Path) -> None:
    died = outcome(pool, 1, ("die once", str(tmp_path / "marker")))
    assert isinstance(died, Died)
    assert died.error == "its worker process was ended by SIGKILL: it may have been out of memory (take fewer --jobs)"
    assert pool.room == 1
    assert outcome(pool, 2, ("die once", str(tmp_path / "marker"))) == Done(2, "alive")


def test_a_worker_that_ends_itself_is_told(pool: LocalPool) -> None:
    assert outcome(pool, 1, ("exit", 7)) == Died(1, "its worker process ended with exit code 7")


def test_a_worker_that_died_between_two_tasks_is_replaced(pool: LocalPool) -> None:
    idle = outcome(pool, 1, ("pid",))
    assert isinstance(idle, Done)
    os.kill(idle.result, signal.SIGKILL)
    event = outcome(pool, 2, ("square", 3))
    if isinstance(event, Died):  # the task was on its way when it died
        event = outcome(pool, 2, ("square", 3))
    assert event == Done(2, 9)


def test_two_workers_work_at_the_same_time() -> None:
    with LocalPool(2, obedient) as pool:
        pool.give(1, ("sleep", 0.3))
        assert pool.room == 1
        pool.give(2, ("sleep", 0.3))
        assert pool.room == 0
        first, second = endings(pool, 2)
    assert isinstance(first, Done)
    assert isinstance(second, Done)
    assert first.result != second.result


def test_a_worker_that_cannot_begin_says_why() -> None:
    with LocalPool(1, stillborn) as pool:
        assert outcome(pool, 1, ("pid",)) == Failed(1, "the bundle is gone", final=True)


def test_closing_ends_workers_that_are_busy() -> None:
    pool = LocalPool(1, obedient)
    started = outcome(pool, 1, ("pid",))
    assert isinstance(started, Done)
    pool.give(2, ("sleep", 60))
    pool.close()
    assert not alive(started.result)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import time\nfrom batch_carriers import obedient\nfrom runtime.batch.local import LocalPool\n"
        "if __name__ == '__main__':\n"
        "    pool = LocalPool(2, obedient)\n"
        "    for key in (1, 2): pool.give(key, ('pid',))\n"
        "    pids = []\n"
        "    while len(pids) < 2: pids += [event.result for event in pool.wait(1)]\n"
        "    for key in (3, 4): pool.give(key, ('sleep', 60))\n"
        "    print(*pids, flush=True)\n    time.sleep(60)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    parent = subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + 10
    while any(map(alive, pids)):
        assert time.monotonic() < limit, "a worker outlives its parent"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_progress_is_not_told_all_too_often() -> None:
    told: list[int] = []
    tell = Teller(told.append, every=3600)
    for frames in range(1, 100):
        tell(frames)
    assert told == [1]


@pytest.mark.parametrize(
    ("error", "sentence", "final"),
    [
        (VideoError("broken"), "broken", True),
        (OSError(28, "No space left on device"), "disk full: free some space and start again", False),
        (MemoryError(), "out of memory: take fewer --jobs or smaller tiles (--tile 256)", False),
        (KeyError("x"), "KeyError: 'x'", False),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception, sentence: str, final: bool) -> None:
    assert verdict_on(error) == (sentence, final)
