"""What TensorRT says while it works, kept instead of printed."""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import Any

MOST_LINES = 500

_ALLOCATION = re.compile(
    r"Requested amount of GPU memory \((\d+) bytes\)|insufficient memory on requested size of (\d+)"
    r"|error allocating (\d+)-byte"
)
_NO_MEMORY = re.compile(r"out of memory|OutOfMemory|insufficient memory|could not be allocated|error allocating")
# "[tunable_graph.cpp:create:117]", "IBuilder::buildSerializedNetwork: Error Code 10: ", "Error[9]: "
_NOISE = re.compile(
    r"^(?:\s*(?:\[[^\]]*::?[^\]]*\]|\w+::\w+:|\d+:|Error\[\d+\]:|Error Code:? \d+:|Internal Error))+\s*"
)


class Log:
    """The newest warnings and errors that TensorRT has said since this was opened; close it at the end.

    ``native`` is the ``trt.ILogger`` to hand to its classes. There is one in a process, which stays: TensorRT's plugins
    keep the address of the logger that they were given last.
    """

    def __init__(self, trt: Any) -> None:
        self.warnings: deque[str] = deque(maxlen=MOST_LINES)
        self.errors: deque[str] = deque(maxlen=MOST_LINES)
        self.native = _native(trt)
        self.native.open.append(self)

    def close(self) -> None:
        self.native.open.remove(self)

    def first_words(self) -> str:
        """The first error since this was asked before, else the last warning, in one line: the errors after it come
        from it."""
        said = self.errors[0] if self.errors else self.warnings[-1] if self.warnings else "TensorRT does not say why"
        self.errors.clear()
        self.warnings.clear()
        return in_one_line(said)

    def cause(self) -> str:
        """The last error in one line, without the places in TensorRT's source; empty where there is none."""
        return in_one_line(self.errors[-1]) if self.errors else ""

    @property
    def out_of_memory(self) -> bool:
        """Whether it failed since the GPU's memory is too small. A warning alone only tells of one skipped kernel."""
        if any(_NO_MEMORY.search(line) for line in self.errors):
            return True
        no_kernel_left = not self.errors or "any implementation" in self.errors[-1]
        return no_kernel_left and any(_NO_MEMORY.search(line) for line in self.warnings)

    @property
    def most_bytes_asked(self) -> int | None:
        """The largest allocation that failed; None where no line tells."""
        found = [match for line in (*self.warnings, *self.errors) for match in _ALLOCATION.finditer(line)]
        return max((int(next(filter(None, match.groups()))) for match in found), default=None)


@lru_cache(maxsize=1)
def _native(trt: Any) -> Any:
    severity = trt.ILogger.Severity

    class Native(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.open: list[Log] = []

        def log(self, said: Any, text: str) -> None:
            for log in tuple(self.open):
                if said in (severity.INTERNAL_ERROR, severity.ERROR):
                    log.errors.append(str(text))
                elif said == severity.WARNING:
                    log.warnings.append(str(text))

    return Native()


def in_one_line(text: str, most: int = 300) -> str:
    """What TensorRT says, without the places in its source, cut to ``most`` characters."""
    line = " ".join(text.split())
    line = _NOISE.sub("", line) or line
    return line if len(line) <= most else f"{line[: most - 1]}…"
