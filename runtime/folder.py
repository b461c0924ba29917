"""A folder that appears whole or not at all: bundles and calibration sets are written like this."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def user_cache() -> Path:
    """``genedge`` in the user's cache folder. Raises ``RuntimeError`` for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genedge"


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` when the block ends well, and vanishes otherwise.

    What is at ``target`` is kept until the new folder is whole, then replaced: ask first whether it may be.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o755)
        if target.exists():
            _replace(target, temporary)
        else:
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(target: Path, new: Path) -> None:
    """Rename ``new`` to ``target`` and delete what was there; where the rename fails, ``target`` stays what it was."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent)) / target.name
    try:
        target.rename(old)
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    finally:
        if target.exists():  # else the only copy lies in there
            shutil.rmtree(old.parent)


def _sync(folder: Path) -> None:
    """Make the disk hold every file before the rename makes them count."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
