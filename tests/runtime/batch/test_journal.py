"""What a batch keeps of what it has done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.batch.journal import BEGUN, COMPLETE, FAILED, NAME, Journal, job_of
from runtime.errors import GenedgeError, UsageError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "a.mp4"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def noted(output: Path, *outcomes: str, job: str = "job") -> None:
    with Journal(output.parents[1]) as journal:
        for outcome in outcomes:
            journal.note(output, job, outcome)


def must_do(output: Path, job: str = "job", overwrite: bool = False) -> bool:
    with Journal(output.parents[1]) as journal:
        return journal.must_do(output, job, overwrite)


def test_what_is_complete_is_done_once(output: Path) -> None:
    assert must_do(output)
    noted(output, BEGUN)
    write(output, "result")
    noted(output, COMPLETE)
    assert not must_do(output)
    assert not must_do(output, overwrite=True)


def test_what_was_removed_is_made_again(output: Path) -> None:
    write(output, "result")
    noted(output, BEGUN, COMPLETE)
    output.unlink()
    assert must_do(output)


def test_what_failed_is_tried_again(output: Path) -> None:
    write(output, "half of it")
    noted(output, BEGUN, FAILED)
    assert must_do(output)


def test_a_batch_that_was_killed_before_it_noted_the_end_goes_on(output: Path) -> None:
    noted(output, BEGUN)
    write(output, "result")
    assert must_do(output)


@pytest.mark.parametrize("how", ["another job", "changed", "touched", "nobody's"])
def test_what_this_job_has_not_made_is_kept_unless_it_shall_be_overwritten(output: Path, how: str) -> None:
    write(output, "result")
    if how != "nobody's":
        noted(output, BEGUN, COMPLETE, job="job" if how != "another job" else "other")
    if how == "changed":
        write(output, "something else")
    if how == "touched":
        os.utime(output, ns=(1, 1))
    with pytest.raises(UsageError, match="add --overwrite"):
        must_do(output)
    assert must_do(output, overwrite=True)


def test_a_line_that_was_cut_off_costs_that_line_only(output: Path) -> None:
    write(output, "result")
    noted(output, BEGUN, COMPLETE)
    journal = output.parents[1] / NAME
    text = journal.read_text()
    journal.write_text(text + text.splitlines()[-1][:20])
    assert not must_do(output)
    noted(output.with_name("b.mp4"), BEGUN)
    assert must_do(output.with_name("b.mp4"))
    assert len([line for line in journal.read_text().splitlines() if line.endswith("}")]) == 3


def test_a_second_batch_in_the_same_folder_is_refused(output: Path, tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(GenedgeError, match=f"another batch is writing to {tmp_path}"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_job_is_its_input_and_its_settings(tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"1" * 100)
    os.utime(clip, ns=(5, 5))
    job = job_of(clip, "settings")
    assert job_of(clip, "settings") == job
    assert job_of(clip, "others") != job
    clip.write_bytes(b"2" * 100)
    os.utime(clip, ns=(5, 5))
    assert job_of(clip, "settings") != job  # neither size nor time tell
    clip.write_bytes(b"1" * 100)
    os.utime(clip, ns=(6, 6))
    assert job_of(clip, "settings") != job
