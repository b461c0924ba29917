"""Errors that a user can act on. The command line prints their message, without a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_MET = 3  # parity or privacy not met
EXIT_INTERRUPTED = 128 + 2  # SIGINT, as shells report it


class GenedgeError(Exception):
    """Something failed; the message says what, and what to do about it."""

    exit_code = EXIT_FAILED


class UsageError(GenedgeError):
    """The command or a value in it cannot be right."""

    exit_code = EXIT_USAGE


class ManifestError(GenedgeError):
    """A bundle's manifest breaks the contract in MANIFEST.md."""


class MissingExtraError(GenedgeError):
    """A package that this step needs is not installed; the message names the extra."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed: pip install "genedge[{extra}]"')


class CheckpointError(GenedgeError):
    """A checkpoint cannot be read, is unsafe, or fits no known generator."""


class VideoError(GenedgeError):
    """A video source or sink failed."""


class EndedEarlyError(VideoError):
    """A source broke off: what was decoded before has been written."""


class NotMetError(GenedgeError):
    """A measured figure misses its limit."""

    exit_code = EXIT_NOT_MET


def message_of(error: BaseException) -> str:
    """One sentence for the user, also for the operating system's errors."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" while writing {error.filename}" if error.filename else ""
        return f"disk full{place}: free some space and start again"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def printable(text: str) -> str:
    """``text`` with control characters spelled out: names in files can hold a terminal's escape sequences."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def guarded(main: Callable[[], int]) -> int:
    """Run a command: user errors become one line on stderr and their exit code, Ctrl-C becomes 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?" for a Greek letter
    try:
        code = main()
        sys.stdout.flush()  # a full disk or a closed pipe shows now, not while Python exits
        return code
    except GenedgeError as error:
        _complain(message_of(error))
        return error.exit_code
    except MemoryError:
        _complain("out of memory: run with smaller tiles (--tile 256) or fewer other programs")
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # the reader of our stdout went away (``| head``): stop quietly, and keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        _complain(message_of(error))
        return EXIT_FAILED


def _complain(message: str) -> None:
    print(f"error: {printable(message)}", file=sys.stderr)
