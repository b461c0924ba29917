"""Stand-ins for the work of a batch's workers. A module of its own, since spawned processes import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from runtime.batch.pool import Carrier, Tell
from runtime.errors import VideoError


def obedient() -> Carrier:
    """Does what the task says: ``(what, *arguments)``."""
    return _obey


def _obey(task: Any, tell: Tell) -> Any:
    what, *arguments = task
    if what == "square":
        tell(1)
        return arguments[0] ** 2
    if what == "pid":
        return os.getpid()
    if what == "sleep":
        time.sleep(arguments[0])
        return os.getpid()
    if what == "die once":
        marker = Path(arguments[0])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"
    if what == "exit":
        os._exit(arguments[0])
    if what == "fail":
        raise VideoError("the file is broken")
    if what == "stumble":
        raise OSError(5, "Input/output error", "clip.mp4")
    raise AssertionError(what)


def stillborn() -> Carrier:
    """A worker that cannot begin."""
    raise VideoError("the bundle is gone")
