"""Run what stands in a document: its commands, its Python, and the files that it tells the reader to write."""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
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


# Importing other people's packages takes longer than most commands, so each command is forked from a process that has
# them, and none of ours: what it imports of the checkout, its folder, environment and output are its own.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        *("av", "cv2", "onnx", "onnxruntime", "openvino", "pytest"),
        *("onnxscript.function_libs.torch_lib.ops", "torch.export._trace"),
        *("torch.onnx._internal.exporter._core", "torch.onnx._internal.exporter._torchlib.ops"),
    ]
)


def run_python(arguments: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own in ``folder``, where it finds the packages of the checkout.

    ``arguments`` are those of ``python``: ``-m MODULE``, ``-c TEXT`` or a file, and what follows.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with tempfile.TemporaryDirectory() as place:
        files = Path(place, "stdout"), Path(place, "stderr")
        process = FORKED.Process(target=_become, args=(arguments, folder, environment, files))
        process.start()
        process.join()
        printed = [file.read_text(encoding="utf-8") for file in files]
    assert process.exitcode is not None
    return subprocess.CompletedProcess(arguments, process.exitcode, *printed)


def _become(arguments: list[str], folder: Path, environment: dict[str, str], files: tuple[Path, Path]) -> None:
    """In the forked process: do what ``python ARGUMENTS`` does."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    installed = [path for path in sys.path if path not in (str(ROOT), str(ROOT / "tests"))]
    sys.path[:] = ["", *environment["PYTHONPATH"].split(os.pathsep), *installed]
    kind, *rest = arguments
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


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
