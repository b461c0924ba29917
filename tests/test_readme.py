"""The README's commands work as they stand there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
from checkpoint_factory import published
from documents import ROOT, blocks, run_command, run_python, write_clip

import export.cli
import export.parity
import runtime.cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [command for block in blocks(README, "sh") for command in block.commands]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ``model.pth`` and ``clip.mp4`` that the README talks about."""
    from skimage import data

    folder = tmp_path_factory.mktemp("readme")
    torch.save({"params": published("compact-x2").state()}, folder / "model.pth")
    write_clip(folder / "clip.mp4", data.astronaut())
    return folder


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [shlex.split(command)[1] for command in COMMANDS if command.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_commands_run_in_their_order(folder: Path) -> None:
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] not in ("make", "pip"):
            run_command(words, folder)
    assert (folder / "out.mp4").stat().st_size > 0
    assert len(list(folder.glob("frames_*.png"))) == 3
    assert (folder / "report.json").stat().st_size > 0
    assert len(list((folder / "material").glob("*.png"))) > 1
    assert (folder / "material-inspect" / "contact_sheet.png").stat().st_size > 0


def test_the_python_example_runs(folder: Path) -> None:
    """After the commands, which leave a bundle called my-model."""
    [block] = blocks(README, "python")
    done = run_python(["-c", block.text + "\nprint(frame.index, image.shape, image.dtype)"], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "11 (128, 192, 3) uint8"


def test_help_and_readme_name_the_same_verbs() -> None:
    for package in ("export", "calib", "runtime"):
        text = run_command(["python", "-m", package, "--help"], ROOT)
        verbs = set(re.findall(r"^    ([a-z]+)(?:  |$)", text, re.MULTILINE))
        named = set(re.findall(rf"python -m {package} ([a-z]+)", README))
        assert verbs == named


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


Finder = Callable[[str], Path]


def test_the_two_commands_of_the_first_checkpoint(
    assets: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real-ESRGAN's own file, built and run on a real clip."""
    weights, clip = (
        assets("weights/realesr_animevideov3/realesr-animevideov3.pth"),
        assets("video/carphone_pristine.mp4"),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export.parity, "HEAVY", 0)  # parity on smaller frames
    assert export.cli.run(["build", str(weights)]) == 0
    played = ["run", "-b", "bundles/realesr-animevideov3", "-i", str(clip), "-o", "out.mp4", "--max-frames", "3"]
    assert runtime.cli.run(played) == 0
    with av.open("out.mp4") as container:
        assert container.streams.video[0].width == 4 * 176
        assert sum(1 for _ in container.decode(video=0)) == 3
