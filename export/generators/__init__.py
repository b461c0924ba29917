"""The generator families, and the search for the one that a checkpoint belongs to."""

from __future__ import annotations

from pathlib import Path

from export.checkpoint import Checkpoint, load_state
from export.generators.base import Generator, LoadedGenerator, State, numberless
from export.generators.compact import COMPACT
from export.generators.cyclegan import CYCLEGAN
from export.generators.fast_style import FAST_STYLE
from export.generators.mobile_rrn import MOBILE_RRN
from export.generators.span import SPAN
from export.generators.srgan import SRGAN
from export.generators.srvgg import SRVGG
from runtime.errors import CheckpointError

GENERATORS: tuple[Generator, ...] = (COMPACT, SRVGG, SRGAN, SPAN, FAST_STYLE, CYCLEGAN, MOBILE_RRN)


def identify(state: State) -> Generator:
    """The family whose detector fires; raises :class:`CheckpointError` that names the nearest one otherwise."""
    for generator in GENERATORS:
        if generator.detect(state):
            return generator
    seen = frozenset(map(numberless, state))
    nearest = max(GENERATORS, key=lambda generator: _likeness(seen, generator.keys))
    names = list(state)
    shown = ", ".join(
        f"{name} {list(state[name].shape)}" for name in (names if len(names) < 4 else [*names[:2], names[-1]])
    )
    raise CheckpointError(
        f"unknown architecture: {len(names)} tensors such as {shown}; the nearest family is {nearest.id} "
        f"({nearest.title}), which shares {len(seen & nearest.keys)} of its {len(nearest.keys)} kinds of tensor names "
        f"(known families: {', '.join(generator.id for generator in GENERATORS)})"
    )


def _likeness(seen: frozenset[str], keys: frozenset[str]) -> tuple[float, float]:
    """Share of names in common, then share of words in common."""

    def words(names: frozenset[str]) -> set[str]:
        return {word for name in names for word in name.split(".")}

    common, either = words(seen) & words(keys), words(seen) | words(keys)
    return len(seen & keys) / len(seen | keys), len(common) / len(either)


def load_generator(path: Path) -> tuple[LoadedGenerator, Checkpoint]:
    """Read a checkpoint, find its family and build the net.

    Raises :class:`CheckpointError` with the file's name for anything that does not fit.
    """
    checkpoint = load_state(path)
    try:
        return identify(checkpoint.state).load(checkpoint.state), checkpoint
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


__all__ = ["GENERATORS", "Generator", "LoadedGenerator", "identify", "load_generator"]
