"""Which files a batch finds, and where they go."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.batch.files import collect
from runtime.errors import UsageError


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * len(name))
    return folder


def places(inputs: list[Path], out: Path) -> dict[str, str]:
    """Name of the input -> place of its output below ``out``."""
    return {pair.source.name: str(pair.output.relative_to(out)) for pair in collect(inputs, out).pairs}


def test_sub_folders_are_kept_and_what_is_no_video_is_counted(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "a.mp4", "b/c/d.MKV", "b/e.png", "notes.txt", ".hidden.mp4", ".git/f.mp4")
    out = tmp_path / "out"
    assert places([clips], out) == {"a.mp4": "a.mp4", "d.MKV": "b/c/d.MKV", "e.png": "b/e.png"}
    found = collect([clips], out)
    assert found.others == 1
    assert [pair.size for pair in found.pairs] == [5, 9, 7]


def test_containers_that_cannot_be_written_become_matroska(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "a.avi", "b.m2ts", "c.webm", "d.mov", "e.jpg")
    out = tmp_path / "out"
    assert sorted(places([clips], out).values()) == ["a.mkv", "b.mkv", "c.webm", "d.mov", "e.jpg"]


def test_a_file_that_is_named_comes_right_into_the_output_whatever_its_ending(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "x/a.mp4", "x/b.dat")
    out = tmp_path / "out"
    assert places([clips / "x/a.mp4", clips / "x/b.dat"], out) == {"a.mp4": "a.mp4", "b.dat": "b.mkv"}


def test_an_output_folder_inside_the_input_is_no_input(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "a.mp4", "out/a.mp4", "out/sub/b.mp4")
    assert places([clips], clips / "out") == {"a.mp4": "a.mp4"}


def test_inputs_inside_the_output_folder_are_fine(tmp_path: Path) -> None:
    fill(tmp_path, "all/new/a.mp4")
    assert places([tmp_path / "all/new"], tmp_path / "all") == {"a.mp4": "a.mp4"}


def test_a_file_that_is_found_twice_is_done_once(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "sub/a.mp4")
    assert places([clips, clips / "sub", clips / "sub/a.mp4"], tmp_path / "out") == {"a.mp4": "sub/a.mp4"}


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "a.mp4")
    fill(tmp_path / "elsewhere", "b.mp4")
    (clips / "more").symlink_to(tmp_path / "elsewhere")
    (clips / "round").symlink_to(clips)
    assert places([clips], tmp_path / "out") == {"a.mp4": "a.mp4", "b.mp4": "more/b.mp4"}


def test_a_link_to_nothing_is_a_trouble_of_its_own(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "a.mp4")
    (clips / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    found = collect([clips], tmp_path / "out")
    assert len(found.pairs) == 1
    assert [trouble.error for trouble in found.troubles] == [f"{clips / 'gone.mp4'}: No such file or directory"]


def test_an_unreadable_folder_is_told_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = fill(tmp_path / "clips", "a.mp4", "closed/b.mp4")
    listed = Path.iterdir

    def iterdir(folder: Path) -> object:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = collect([clips], tmp_path / "out")
    assert [pair.source.name for pair in found.pairs] == ["a.mp4"]
    assert [trouble.error for trouble in found.troubles] == [f"{clips / 'closed'}: Permission denied"]


def test_a_name_that_stands_for_numbers_is_told(tmp_path: Path) -> None:
    clips = fill(tmp_path / "clips", "take%d.png", "a.png")
    found = collect([clips], tmp_path / "out")
    assert [pair.source.name for pair in found.pairs] == ["a.png"]
    assert "stands for a number" in found.troubles[0].error


@pytest.mark.parametrize(
    ("names", "inputs", "out", "message"),
    [
        (["a.avi", "a.mkv"], ["."], "out", "would both become .*a.mkv: rename one"),
        (["x/a.mp4", "y/a.mp4"], ["x", "y"], "out", "would both become"),
        (["a.mp4"], ["."], ".", "is the output folder too"),
        (["in/b/a.mp4", "in/a.mp4"], ["in/b"], "in", None),
        (["in/b/a.mp4", "in/a.mp4"], ["in/b", "in/a.mp4"], "in", "would both become|is itself an input"),
        (["in/a.mp4"], ["in/a.mp4"], "in", "is itself an input"),
        (["notes.txt"], ["."], "out", "no videos or pictures in"),
        ([], ["nowhere"], "out", "nowhere does not exist"),
    ],
)
def test_what_cannot_be_is_said_before_anything_begins(
    tmp_path: Path, names: list[str], inputs: list[str], out: str, message: str | None
) -> None:
    fill(tmp_path, *names)
    given = [tmp_path / name for name in inputs]
    if message is None:
        assert len(collect(given, tmp_path / out).pairs) == 1  # a.mp4 is there already: for the journal to say
        return
    with pytest.raises(UsageError, match=message):
        collect(given, tmp_path / out)
