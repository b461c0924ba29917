"""The README's commands work as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("   #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def write_clip(path: Path, photo: np.ndarray) -> None:
    """Twelve frames of a photo that moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(12):
            window = np.ascontiguousarray(photo[100 : 100 + 64, 2 * index + 100 : 2 * index + 196])
            frame = av.VideoFrame.from_ndarray(window, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ``model.pth`` and ``clip.mp4`` that the README talks about."""
    from skimage import data

    from export.checkpoint import load_state

    folder = tmp_path_factory.mktemp("readme")
    torch.save({"params": dict(load_state(ROOT / "export/weights/sr-x2.safetensors").state)}, folder / "model.pth")
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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program in ("make", "pip"):
            continue
        assert program == "python", command
        done = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (folder / "out.mp4").stat().st_size > 0
    assert len(list(folder.glob("frames_*.png"))) == 3
    assert (folder / "report.json").stat().st_size > 0
    assert len(list((folder / "material").glob("*.png"))) > 1
    assert (folder / "material-inspect" / "contact_sheet.png").stat().st_size > 0


def test_the_python_example_runs(folder: Path) -> None:
    """After the commands, which leave a bundle called my-model."""
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint(frame.index, image.shape, image.dtype)"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "11 (128, 192, 3) uint8"


def test_help_and_readme_name_the_same_verbs() -> None:
    for package in ("export", "calib", "runtime"):
        done = subprocess.run(
            [sys.executable, "-m", package, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        verbs = set(re.findall(r"^    ([a-z]+)(?:  |$)", done.stdout, re.MULTILINE))
        named = set(re.findall(rf"python -m {package} ([a-z]+)", README))
        assert verbs == named


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


Finder = Callable[[str], Path]


def test_the_two_commands_of_the_first_checkpoint(assets: Finder, tmp_path: Path) -> None:
    """Real-ESRGAN's own file, built and run on a real clip."""
    weights, clip = assets("weights/realesr_animevideov3/realesr-animevideov3.pth"), assets("video/bikes.mp4")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for command in (
        ["export", "build", str(weights)],
        ["runtime", "run", "-b", "bundles/realesr-animevideov3", "-i", str(clip), "-o", "out.mp4", "--max-frames", "3"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].width == 4 * 640
        assert sum(1 for _ in container.decode(video=0)) == 3
