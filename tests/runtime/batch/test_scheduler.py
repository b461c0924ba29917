"""Order, retries and interrupts of a batch, with workers that are only a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.batch.pool import Died, Done, Event, Failed, Pool, Told
from runtime.batch.scheduler import Scheduler
from runtime.errors import VideoError


class Steps:
    """A file that takes one task, then several at once, then one: as a plan, its segments and the joining."""

    def __init__(self, name: str, segments: int = 2) -> None:
        self.stages = [[f"{name} plan"], [f"{name} {i}" for i in range(segments)], [f"{name} join"]]
        self.taken: list[str] = []

    def ready(self) -> Sequence[str]:
        return self.stages.pop(0) if self.stages else []

    def take(self, task: str, result: int) -> int:
        self.taken.append(task)
        return result


class ListedPool(Pool):
    """``jobs`` workers that say what ``answer`` tells of the task and of how often it was given before."""

    def __init__(self, jobs: int, answer: Callable[[int, str, int], Event], last_first: bool = False) -> None:
        self.jobs, self.answer, self.last_first = jobs, answer, last_first
        self.given: list[str] = []
        self.under_way: list[tuple[int, str]] = []
        self.most = 0

    @property
    def room(self) -> int:
        return self.jobs - len(self.under_way)

    def give(self, key: int, task: str) -> None:
        assert self.room > 0
        self.given.append(task)
        self.under_way.append((key, task))
        self.most = max(self.most, len(self.under_way))

    def wait(self, seconds: float) -> list[Event]:
        key, task = self.under_way.pop(-1 if self.last_first else 0)
        return [Told(key, 1), self.answer(key, task, self.given.count(task) - 1)]

    def close(self) -> None: ...


def well(key: int, task: str, before: int) -> Event:
    return Done(key, 10)


def run(works: list[Any], pool: ListedPool, retries: int = 2) -> Scheduler:
    scheduler = Scheduler(works, pool, retries=retries)
    scheduler.run()
    return scheduler


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4), st.booleans())
def test_every_task_is_done_once_after_those_it_needs(segments: list[int], jobs: int, last_first: bool) -> None:
    works = [Steps(str(number), count) for number, count in enumerate(segments)]
    pool = ListedPool(jobs, well, last_first)
    files = run(works, pool).files
    assert [file.outcome for file in files] == ["complete"] * len(works)
    assert [file.frames for file in files] == [10 * (count + 2) for count in segments]
    assert len(pool.given) == len(set(pool.given)) == sum(count + 2 for count in segments)
    for work in works:
        assert work.taken[0].endswith("plan")
        assert work.taken[-1].endswith("join")
    assert pool.most <= jobs


def test_a_free_worker_takes_the_next_file_while_the_first_one_is_joined() -> None:
    pool = ListedPool(2, well)
    run([Steps("a"), Steps("b")], pool)
    assert pool.given[:2] == ["a plan", "b plan"]
    assert pool.given.index("a join") < pool.given.index("b join")


def test_the_work_of_a_worker_that_died_is_given_again() -> None:
    def dies_twice(key: int, task: str, before: int) -> Event:
        return Died(key, "killed") if task == "a 1" and before < 2 else Done(key, 10)

    pool = ListedPool(2, dies_twice)
    (file,) = run([Steps("a")], pool).files
    assert (file.outcome, file.retries, file.frames) == ("complete", 2, 40)
    assert pool.given.count("a 1") == 3
    assert pool.given.count("a 0") == 1


def test_after_the_last_retry_the_file_has_failed_and_the_others_go_on() -> None:
    def kills(key: int, task: str, before: int) -> Event:
        return Died(key, "killed") if task == "a 0" else Done(key, 10)

    pool = ListedPool(1, kills)
    ended: list[str] = []
    scheduler = Scheduler(
        [Steps("a"), Steps("b")], pool, retries=2, ended=lambda file: ended.append(f"{file.outcome} {file.error}")
    )
    scheduler.run()
    assert ended == ["failed killed (3 times)", "complete None"]
    assert pool.given.count("a 0") == 3
    assert "a join" not in pool.given
    assert scheduler.files[0].retries == 2


def test_what_fails_for_good_is_not_tried_again() -> None:
    def broken(key: int, task: str, before: int) -> Event:
        return Failed(key, "the file is broken", final=True) if task == "a plan" else Done(key, 10)

    pool = ListedPool(3, broken)
    first, second = run([Steps("a"), Steps("b")], pool).files
    assert (first.outcome, first.error, first.retries) == ("failed", "the file is broken", 0)
    assert second.outcome == "complete"
    assert pool.given.count("a plan") == 1


def test_a_failure_that_may_pass_is_tried_again() -> None:
    pool = ListedPool(1, lambda key, task, before: Done(key, 10) if before else Failed(key, "busy", final=False))
    (file,) = run([Steps("a")], pool, retries=1).files
    assert (file.outcome, file.retries) == ("complete", 4)


def test_without_retries_the_first_death_counts() -> None:
    pool = ListedPool(1, lambda key, task, before: Died(key, "killed"))
    (file,) = run([Steps("a")], pool, retries=0).files
    assert (file.outcome, file.error, pool.given) == ("failed", "killed", ["a plan"])


def test_tasks_of_a_failed_file_that_still_run_change_nothing() -> None:
    def one_bad(key: int, task: str, before: int) -> Event:
        return Failed(key, "bad", final=True) if task == "a 0" else Done(key, 10)

    (file,) = run([Steps("a", 3)], ListedPool(3, one_bad)).files
    assert (file.outcome, file.error, file.frames, file.running) == ("failed", "bad", 10, {})


def test_what_a_result_cannot_be_used_for_fails_its_file() -> None:
    class Choosy(Steps):
        def take(self, task: str, result: int) -> int:
            raise VideoError("no such folder on that machine")

    first, second = run([Choosy("a"), Steps("b")], ListedPool(1, well)).files
    assert (first.outcome, first.error) == ("failed", "no such folder on that machine")
    assert second.outcome == "complete"


def test_a_file_without_tasks_is_complete() -> None:
    work = Steps("a")
    work.stages = []
    (file,) = run([work], ListedPool(1, well)).files
    assert (file.outcome, file.frames) == ("complete", 0)


def test_after_one_interrupt_what_is_under_way_is_finished_and_nothing_begun() -> None:
    pool = ListedPool(2, well)
    scheduler = Scheduler([Steps("a"), Steps("b"), Steps("c")], pool, retries=2)
    scheduler.run(lambda: int(len(pool.given) >= 4))
    assert len(pool.given) == 4
    assert not pool.under_way
    assert [file.outcome for file in scheduler.files] == ["left"] * 3
    assert sum(file.frames for file in scheduler.files) == 40


def test_a_file_whose_last_task_ends_after_the_interrupt_is_complete() -> None:
    pool = ListedPool(1, well)
    scheduler = Scheduler([Steps("a", 1), Steps("b")], pool, retries=2)
    scheduler.run(lambda: int("a join" in pool.given))
    assert [file.outcome for file in scheduler.files] == ["complete", "left"]


def test_a_second_interrupt_leaves_what_is_under_way() -> None:
    pool = ListedPool(2, well)
    scheduler = Scheduler([Steps("a"), Steps("b")], pool, retries=2)
    scheduler.run(lambda: 2 * bool(pool.given))
    assert (len(pool.given), len(pool.under_way)) == (2, 1)
    assert [file.outcome for file in scheduler.files] == ["left", "left"]
