"""Run what stands in a document: its commands, its Python, and the files that it tells the reader to write."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the file that its first line names (``# my_net.py``), or none."""

    language: str
    text: str

    @property
    def file(self) -> str:
        named = re.match(r"# ([\w./-]+\.\w+)\n", self.text)
        return named[1] if named else ""

    @property
    def commands(self) -> list[str]:
        """The lines of a block of ``sh``, without remarks."""
        lines = [line.split("   #")[0].strip() for line in self.text.splitlines()]
        return [line for line in lines if line]


def blocks(text: str, *languages: str) -> list[Block]:
    """The fenced blocks of ``languages``, in their order."""
    found = [Block(*match) for match in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    return [block for block in found if block.language in languages]


def run_python(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in ``folder``, where it finds the packages of the checkout."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run_command(command: list[str], folder: Path) -> str:
    """Run a ``python`` command of a document, which must succeed; what it prints."""
    program, *arguments = command
    assert program == "python", command
    done = run_python(arguments, folder)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


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
