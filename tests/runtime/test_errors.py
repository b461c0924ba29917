"""What a user sees when a command fails: one line that says what to do, and an exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import errors
from runtime.errors import (
    CheckpointError,
    EndedEarlyError,
    GenedgeError,
    ManifestError,
    MissingExtraError,
    NotMetError,
    UsageError,
    VideoError,
    guarded,
    message_of,
)

ROOT = Path(__file__).parents[2]


def raising(error: BaseException) -> int:
    def main() -> int:
        raise error

    return guarded(main)


def test_exit_codes_are_those_of_the_documentation() -> None:
    """Scripts depend on them: 0 ok, 1 failed, 2 usage, 3 parity or privacy not met, 130 Ctrl-C."""
    codes = (
        errors.EXIT_OK,
        errors.EXIT_FAILED,
        errors.EXIT_USAGE,
        errors.EXIT_NOT_MET,
        errors.EXIT_INTERRUPTED,
    )
    assert codes == (0, 1, 2, 3, 130)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_commands_own_exit_code_is_passed_on(code: int) -> None:
    assert guarded(lambda: code) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GenedgeError("say so"), 1),
        (UsageError("say so"), 2),
        (NotMetError("say so"), 3),
        (ManifestError("say so"), 1),
        (CheckpointError("say so"), 1),
        (VideoError("say so"), 1),
        (EndedEarlyError("say so"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_for_the_user_is_one_line_without_a_traceback(
    error: GenedgeError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: say so\n")


def test_a_missing_package_names_the_extra_that_brings_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(MissingExtraError("openvino", "cpu")) == 1
    assert capsys.readouterr().err == 'error: openvino is not installed: pip install "genedge[cpu]"\n'


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_full_disk_says_what_to_do(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(OSError(number, "No space left on device", "out/movie.mp4")) == 1
    expected = "error: disk full while writing out/movie.mp4: free some space and start again\n"
    assert capsys.readouterr().err == expected
    assert message_of(OSError(number, "No space left")) == "disk full: free some space and start again"


def test_errors_of_the_operating_system_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.mp4"
    assert guarded(lambda: len(missing.read_bytes())) == 1
    assert capsys.readouterr().err == f"error: {missing}: No such file or directory\n"


def test_every_error_has_a_message() -> None:
    assert message_of(OSError("something odd")) == "something odd"
    assert message_of(OSError(errno.EIO, "Input/output error")) == "[Errno 5] Input/output error"
    assert message_of(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize("error", [ValueError("ours"), ZeroDivisionError(), SystemExit(2)])
def test_mistakes_in_the_program_keep_their_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)):
        raising(error)


# --- output that goes nowhere: only a process of its own shows it -----------------------------------------------------


def command(body: str, stdout: int) -> subprocess.Popen[str]:
    """A process whose command waits for its stdin to end and then runs ``body``."""
    code = f"""
import sys
from runtime.errors import guarded
def main():
    sys.stdin.read()
    {body}
    return 0
sys.exit(guarded(main))
"""
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=buffered,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "body",
    ["for _ in range(100_000): print('many lines')", "print('one line, still in the buffer when the command ends')"],
    ids=["long", "short"],
)
def test_a_reader_that_goes_away_ends_the_command_quietly(body: str) -> None:
    """As in ``python -m export list | head -0``."""
    reader, writer = os.pipe()
    process = command(body, writer)
    os.close(writer)
    os.close(reader)
    _, err = process.communicate("go", timeout=60)  # it prints only now, when nobody listens any more
    assert err == ""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_an_error() -> None:
    """What was printed is still in Python's buffer when the command ends; losing it must not look like success."""
    with Path("/dev/full").open("w") as full:
        process = command("print('figures')", full.fileno())
        _, err = process.communicate("go", timeout=60)
    assert err.startswith("error: disk full: free some space and start again\n")
    assert process.returncode != 0


def test_escape_sequences_in_a_message_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(CheckpointError("unknown tensor \x1b[31mred\x1b[0m\nsecond line, ΔE")) == 1
    assert capsys.readouterr().err == "error: unknown tensor \\x1b[31mred\\x1b[0m\\nsecond line, ΔE\n"


def test_memory_that_runs_out_names_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(MemoryError()) == 1
    assert "--tile" in capsys.readouterr().err
