"""How a long video is divided, and what is taken over from an earlier batch."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.batch.files import FilePair
from runtime.batch.pieces import MOST_SEGMENTS, PieceNote, are_whole, folder_of, kept_pieces, missing, piece_path
from runtime.batch.way import FileWork
from runtime.batch.work import Join, Made, Piece, Plan, Planned, Whole

SEGMENT = 250


def note(start: int, stop: int | None, frames: int | None = None) -> PieceNote:
    if frames is None:
        assert stop is not None
        frames = stop - start
    return PieceNote(start, stop, frames, (64, 48), ())


@given(st.integers(1, 20_000), st.integers(1, 64), st.booleans(), st.sets(st.integers(0, 60)))
def test_what_is_missing_completes_what_is_kept(total: int, jobs: int, capped: bool, kept: set[int]) -> None:
    earlier = list(missing(total, capped, [], 3, SEGMENT))
    notes = [
        note(start, stop, (total if stop is None else stop) - start)
        for index, (start, stop) in enumerate(earlier)
        if index in kept
    ]
    made = list(missing(total, capped, notes, jobs, SEGMENT))
    everything = sorted([*made, *((piece.start, piece.stop) for piece in notes)])
    at = 0
    for start, stop in everything[:-1]:
        assert (start, start % SEGMENT) == (at, 0)
        assert stop is not None
        assert start < stop <= start + MOST_SEGMENTS * SEGMENT
        at = stop
    assert everything[-1][0] == at
    assert everything[-1][1] == (total if capped else None)


def test_every_worker_has_something_to_do() -> None:
    assert len(list(missing(20 * SEGMENT, False, [], 4, SEGMENT))) >= 8
    assert len(list(missing(2 * SEGMENT, False, [], 8, SEGMENT))) == 2
    assert len(list(missing(8 * SEGMENT, False, [], 1, SEGMENT))) == 2


@pytest.mark.parametrize(
    ("notes", "whole"),
    [
        ([note(0, 500), note(500, None, 7)], True),
        ([note(0, 500), note(500, 1000)], True),  # no more were wanted
        ([note(0, 500), note(500, None, 0)], True),  # the file holds fewer frames than it says
        ([note(0, 500), note(500, 1000, 3), note(1000, None, 0)], True),
        ([note(0, 500), note(1000, None, 3)], False),
        ([note(0, 500, 400), note(500, None, 3)], False),
        ([note(0, 500, 0), note(500, None, 0)], False),
        ([], False),
    ],
)
def test_pieces_make_a_video_where_none_is_missing(notes: list[PieceNote], whole: bool) -> None:
    assert are_whole(notes) == whole


def test_kept_pieces_are_those_of_this_job(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    folder.mkdir()
    for start in (0, 500, 1000):
        note(start, start + 500).write(folder, "job")
        piece_path(folder, start, ".mp4").touch()
    note(1500, None, 0).write(folder, "job")  # nothing was there, so there is no file
    note(250, 500).write(folder, "another job")
    (folder / "000000750.json").write_text('{"job": "job"')
    piece_path(folder, 1000, ".mp4").unlink()
    assert [piece.start for piece in kept_pieces(folder, "job", ".mp4")] == [0, 500, 1500]
    assert kept_pieces(folder, "a third job", ".mp4") == []
    assert not folder.exists()
    assert kept_pieces(folder, "job", ".mp4") == []


# --- the way of one file ----------------------------------------------------------------------------------------------


def way(tmp_path: Path, name: str = "a.mp4", *, divide: bool = True, max_frames: int | None = None) -> FileWork:
    pair = FilePair(tmp_path / name, tmp_path / "out" / name, 100)
    return FileWork(pair, "job", jobs=2, segment=SEGMENT, divide=divide, max_frames=max_frames)


def planned(work: FileWork, frames: int | None, divisible: bool = True) -> list[object]:
    (plan,) = work.ready()
    assert isinstance(plan, Plan)
    work.take(plan, Planned(frames, divisible))
    return list(work.ready())


def done(work: FileWork, pieces: list[object], frames: int = SEGMENT) -> None:
    folder = folder_of(work.pair.output)
    folder.mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        assert isinstance(piece, Piece)
        made = note(piece.start, piece.stop, frames)
        made.write(folder, "job")
        piece_path(folder, piece.start, ".mp4").touch()
        work.take(piece, Made(frames, (), made))


def test_a_long_video_is_planned_made_in_pieces_and_joined(tmp_path: Path) -> None:
    work = way(tmp_path)
    pieces = planned(work, 3 * SEGMENT)
    assert len(pieces) == 3
    done(work, pieces)
    (join,) = work.ready()
    assert isinstance(join, Join)
    assert [piece.start for piece in join.notes] == [0, SEGMENT, 2 * SEGMENT]
    assert folder_of(work.pair.output).exists()
    assert work.take(join, Made(0, ("the sound was encoded anew",))) == 0
    assert work.ready() == []
    assert not folder_of(work.pair.output).exists()
    assert (work.total, work.pieces, work.warnings) == (3 * SEGMENT, 3, ["the sound was encoded anew"])


def test_an_interrupted_video_needs_only_the_other_pieces(tmp_path: Path) -> None:
    first = way(tmp_path)
    done(first, planned(first, 4 * SEGMENT)[1:3])
    again = way(tmp_path)
    pieces = planned(again, 4 * SEGMENT)
    assert [piece.start for piece in pieces if isinstance(piece, Piece)] == [0, 3 * SEGMENT]
    assert again.kept == 2 * SEGMENT
    done(again, pieces)
    (join,) = again.ready()
    assert isinstance(join, Join)
    assert [piece.start for piece in join.notes] == [0, SEGMENT, 2 * SEGMENT, 3 * SEGMENT]


@pytest.mark.parametrize(
    ("name", "frames", "divisible", "divide", "max_frames"),
    [
        ("a.mp4", SEGMENT, True, True, None),
        ("a.mp4", 10 * SEGMENT, True, False, None),
        ("a.mp4", 10 * SEGMENT, False, True, None),
        ("a.mp4", 10 * SEGMENT, True, True, 5),
        ("a.mp4", None, True, True, None),
    ],
)
def test_other_videos_are_made_as_a_whole(
    tmp_path: Path, name: str, frames: int | None, divisible: bool, divide: bool, max_frames: int | None
) -> None:
    work = way(tmp_path, name, divide=divide, max_frames=max_frames)
    (whole,) = planned(work, frames, divisible)
    assert isinstance(whole, Whole)
    assert work.take(whole, Made(42)) == 42
    assert work.ready() == []


def test_a_picture_needs_no_plan(tmp_path: Path) -> None:
    (whole,) = way(tmp_path, "a.png").ready()
    assert isinstance(whole, Whole)


@pytest.mark.parametrize("where", ["piece", "length", "join"])
def test_pieces_that_do_not_make_the_file_are_thrown_away(tmp_path: Path, where: str) -> None:
    work = way(tmp_path)
    pieces = planned(work, 3 * SEGMENT)
    done(work, pieces, SEGMENT - (where == "length"))
    if where == "piece":
        assert work.take(pieces[1], Made(0)) == 0
    (task,) = work.ready()
    if where == "join":
        assert isinstance(task, Join)
        work.take(task, Made(0, unfit=True))
        (task,) = work.ready()
    assert isinstance(task, Whole)
    assert not folder_of(work.pair.output).exists()
    assert work.pieces == 1
    made = 3 * (SEGMENT - (where == "length"))
    assert work.take(task, Made(700)) == 700 - made  # so that the sum is 700
    assert work.ready() == []
