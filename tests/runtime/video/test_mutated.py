"""Damaged files: 200 of them, run as a user runs them. Each ends in time, with an exit code and a sentence."""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundle_factory import write_small_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[3]
COUNT = 200
PROCESSOR_SECONDS = 10.0  # for one file of 20 frames of 64x48
WALL_SECONDS = 25.0  # the same, on a machine that has other things to do
KINDS = ("clip.mp4", "clip.mkv", "clip.ts", "clip.avi", "clip.mov")

# runs the command line on every file named on standard input, and tells what came of it
WORKER = """
import contextlib, io, json, sys, threading, time
from runtime.cli import run
bundle, out = sys.argv[1:]
for line in sys.stdin:
    said, begin = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(said):
        code = run(["run", "-b", bundle, "-i", line.strip(), "-o", out, "--overwrite", "--quiet"])
    left = [t.name for t in threading.enumerate() if t.name.startswith(("pipeline", "newest"))]
    print(json.dumps({"code": code, "said": said.getvalue(), "cpu": time.process_time() - begin, "left": left}))
    sys.stdout.flush()
"""


def mutated(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """One kind of damage, and the damaged file."""
    size, result = len(data), bytearray(data)
    kind = chance.choice(("bits", "cut", "header", "zeros", "noise", "missing", "twice"))
    start = chance.randrange(size)
    length = chance.randint(1, max(1, size // 8))
    if kind == "bits":
        for _ in range(chance.choice((1, 4, 64, 512))):
            result[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del result[start:]
    elif kind == "header":
        for place in range(chance.choice((4, 16, 64, 512))):
            result[place % size] = chance.randrange(256)
    elif kind == "zeros":
        result[start : start + length] = bytes(len(result[start : start + length]))
    elif kind == "noise":
        result[start : start + length] = chance.randbytes(len(result[start : start + length]))
    elif kind == "missing":
        del result[start : start + length]
    else:
        result[start:start] = data[start : start + length]
    return kind, bytes(result)


class Worker:
    """A process that runs one file after the other; a new one after a crash or a hang."""

    def __init__(self, *arguments: str) -> None:
        self._command = [sys.executable, "-c", WORKER, *arguments]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._reads, args=(self._process, self._lines), daemon=True).start()

    @staticmethod
    def _reads(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def __call__(self, path: Path) -> dict[str, object] | str:
        """What came of a file, or what went wrong."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=WALL_SECONDS)
        except queue.Empty:
            line, wrong = "", "hangs"
        else:
            wrong = "crashes"
        if line:
            return dict(json.loads(line))
        self._process.kill()
        said = self._process.communicate()[1]
        code = self._process.returncode
        self._start()
        return f"{wrong} (exit code {code}): {said[-1500:]}"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    bundle = write_small_bundle(tmp_path / "tiny-x2")
    worker = Worker(str(bundle), str(tmp_path / "out.mkv"))
    yield worker
    worker.close()


def test_damaged_files_end_in_time_and_say_why(
    make_clip: Callable[..., Path], tmp_path: Path, worker: Worker, record_property: Callable[[str, object], None]
) -> None:
    clips = [make_clip(name, ticks=[i * 3600 for i in range(20)]) for name in KINDS]
    wrong: list[str] = []
    codes: dict[int, int] = {}
    for number in range(COUNT):
        chance = random.Random(number)
        clip = clips[number % len(clips)]
        kind, data = mutated(clip.read_bytes(), chance)
        path = tmp_path / f"{number:03}-{kind}{clip.suffix}"
        path.write_bytes(data)
        found = worker(path)
        if isinstance(found, str):
            wrong.append(f"{path.name} {found}")
            continue
        code, said = int(str(found["code"])), str(found["said"])
        codes[code] = codes.get(code, 0) + 1
        if code not in (0, 1) or (code == 1 and "error: " not in said) or "Traceback" in said:
            wrong.append(f"{path.name}: exit code {code}: {said}")
        if found["left"] or float(str(found["cpu"])) > PROCESSOR_SECONDS:
            wrong.append(f"{path.name}: {found}")
    record_property("codes", codes)
    assert not wrong, "\n".join(wrong)
    assert codes.keys() == {0, 1}  # some damage can be played over, some cannot
