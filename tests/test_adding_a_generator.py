"""The guide to a generator of one's own works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from documents import ROOT, blocks, run_command, run_python, write_clip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GUIDE = (ROOT / "docs/adding-a-generator.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder where somebody has followed the guide from its top to its end, and what each command has printed."""
    from skimage import data

    folder, printed = tmp_path_factory.mktemp("guide"), {}
    write_clip(folder / "clip.mp4", data.astronaut())
    for block in blocks(GUIDE, "python", "sh"):
        if block.file:
            (folder / block.file).write_text(block.text)
        elif block.language == "python":
            run_command(["python", "-c", block.text], folder)
        else:
            printed |= {command: run_command(shlex.split(command), folder) for command in block.commands}
    return folder, printed


def test_it_is_followed_to_its_end(followed: tuple[Path, dict[str, str]]) -> None:
    folder, printed = followed
    assert len(printed) >= 8
    assert (folder / "out.mp4").stat().st_size > 0
    for name in ("my_net", "my_unet"):
        assert (folder / "bundles" / name / "parity.html").is_file()


def test_what_it_says_is_printed(followed: tuple[Path, dict[str, str]]) -> None:
    _, printed = followed
    plain = printed["python -m export inspect my_net.pth --module my_net.py:build"]
    assert "family: my_net\nscale 2\n" in plain
    assert "reach: 2 pixels, measured" in plain
    assert "note: my_net.py:build gives a plain net: RGB 0..1 on both sides is assumed, scale 2 measured" in plain
    styles = printed["python -m export inspect my_styles.pth --module my_styles.py:build"]
    assert "condition: style, one-hot of 3, 0 to 1: dawn, noon, night" in styles
    family = printed["python -m export inspect my_net.pth --module my_family.py:MY_NET"]
    assert "family: my-net\nscale 2, width 8\n" in family


def test_its_entry_point_is_found(followed: tuple[Path, dict[str, str]]) -> None:
    folder, _ = followed
    [block] = blocks(GUIDE, "toml")
    group, name, value = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n(\S+) = "(.+)"\n', block.text).groups()  # type: ignore[union-attr]
    installed = folder / "my_package-1.0.dist-info"  # what pip makes of it
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    found = {"PYTHONPATH": f"{ROOT}:{folder}"}
    listed = run_python(["-m", "export", "list"], ROOT, **found)
    assert re.search(r"^  my-net +my small net$", listed.stdout, re.MULTILINE), listed.stderr
    inspected = run_python(["-m", "export", "inspect", str(folder / "my_net.pth")], ROOT, **found)
    assert "scale 2, width 8" in inspected.stdout, inspected.stderr


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target


def test_it_names_every_field_that_a_user_may_set() -> None:
    from dataclasses import fields

    from export.generators.base import LoadedGenerator

    told = set(re.findall(r"`(\w+)`", GUIDE)) | set(re.findall(r"(\w+)=", GUIDE))
    assert {field.name for field in fields(LoadedGenerator)} <= told
