"""What an examination of this machine finds."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One line of the examination. ``optional``: its absence stops nothing."""

    what: str
    good: bool
    repair: str = ""
    optional: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def installed_version(distribution: str) -> str:
    """The version of an installed package, "" without it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, else its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
