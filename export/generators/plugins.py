"""Families that other installed packages bring along, as entry points of the group ``genedge.generators``.

They are code of these packages, so they are loaded only where no built-in family fits, and by `export list`. One that
does not load is told about and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from export.generators.base import Generator
from export.user_code import explained, remember

GROUP = "genedge.generators"


@dataclass(frozen=True)
class Plugins:
    """Families of other packages, and one sentence for each that cannot be used."""

    generators: tuple[Generator, ...] = ()
    problems: tuple[str, ...] = ()


def load_plugins(taken: Sequence[str]) -> Plugins:
    """Load every registered family. ``taken`` are the ids of the built-in ones, which none may have."""
    ids, generators, problems = set(taken), [], []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            generator = point.load()
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            problems.append(f"{_origin(point)} cannot be loaded: {explained(error)}")
            continue
        if not isinstance(generator, Generator):
            problems.append(f"{_origin(point)} is a {type(generator).__name__}, not a Generator ({point.value})")
        elif generator.id in ids:
            problems.append(f"{_origin(point)} is called {generator.id}, as another family is")
        else:
            remember(point.module)
            ids.add(generator.id)
            generators.append(generator)
    return Plugins(tuple(generators), tuple(problems))


def _origin(point: EntryPoint) -> str:
    """Which registered family it is, and whose: its distribution is what a user can repair or uninstall."""
    distribution = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown package"
    return f"the generator {point.name!r} of the installed package {distribution}"
