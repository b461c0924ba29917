"""Code that users bring along, and what to say where it fails: its file, the line, and the exception's text.

``GENEDGE_DEBUG=1`` prints the traceback as well.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import GenedgeError, printable

DEBUG = "GENEDGE_DEBUG"
_MAX_TEXT = 300  # characters of an exception's text; PyTorch lists every tensor that does not fit

_MACHINERY = tuple(str(Path(file).parent) for file in (importlib.__file__, __file__))
_files: set[str] = set()  # of modules that users brought along in this process


class UserCodeError(GenedgeError):
    """A user's own code failed; the message says where."""


def remember(module: str) -> None:
    """Count the imported ``module`` as a user's code."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file:
        _files.add(file)


def explained(error: BaseException) -> str:
    """``my_net.py, line 12: KeyError: 'x'``: where in the user's code an exception came from, and what it says."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    text = printable(" ".join(str(error).split()))
    text = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    own = [frame for frame in frames if frame.filename in _files] or frames
    place = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    return f"{place}{type(error).__name__}{': ' if text else ''}{text}"


def _is_machinery(file: str) -> bool:
    """Whether it is how Python imports, or ours, which tells a user nothing."""
    return file.startswith(("<", *_MACHINERY))


@contextmanager
def running(what: str) -> Iterator[None]:
    """Run a user's code: whatever it raises becomes one sentence that begins with ``what``.

    Errors that say what to do already, and Ctrl-C, pass through.

    Raises :class:`UserCodeError`.
    """
    try:
        yield
    except (GenedgeError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"{what}: {explained(error)}{_hint()}") from error


@contextmanager
def translated() -> Iterator[None]:
    """As :func:`running`, for a step in which a user's code runs among ours: only what came out of that is changed."""
    try:
        yield
    except (GenedgeError, KeyboardInterrupt):
        raise
    except Exception as error:
        if any(frame.filename in _files for frame in traceback.extract_tb(error.__traceback__)):
            raise UserCodeError(f"{explained(error)}{_hint()}") from error
        raise


def _hint() -> str:
    return "" if os.environ.get(DEBUG) else f" ({DEBUG}=1 shows the traceback)"
