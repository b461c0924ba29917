"""The generator families, and the search for the one that a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from export.checkpoint import Checkpoint, load_state
from export.generators.base import Generator, LoadedGenerator, State, numberless
from export.generators.compact import COMPACT
from export.generators.cyclegan import CYCLEGAN
from export.generators.fast_style import FAST_STYLE
from export.generators.frvsr import FRVSR
from export.generators.mobile_rrn import MOBILE_RRN
from export.generators.span import SPAN
from export.generators.srgan import SRGAN
from export.generators.srvgg import SRVGG
from runtime.errors import CheckpointError, UsageError

GENERATORS: tuple[Generator, ...] = (
    COMPACT,
    SRVGG,
    SRGAN,
    SPAN,
    FAST_STYLE,
    CYCLEGAN,
    MOBILE_RRN,
    FRVSR,
)


def identify(state: State) -> Generator:
    """The family whose detector fires.

    Raises :class:`CheckpointError` that names the nearest family where none does, and all of them where several do.
    """
    fitting = [generator for generator in GENERATORS if generator.detect(state)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(
            f"the checkpoint fits {' and '.join(f'{each.id} ({each.title})' for each in fitting)}, and cannot be both: "
            "save the weights of one net alone"
        )
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


def load_generator(path: Path, options: Mapping[str, str] | None = None) -> tuple[LoadedGenerator, Checkpoint]:
    """Read a checkpoint, find its family and build the net.

    ``options`` are what the user says about what the file does not, see :class:`Option`.

    Raises:
        CheckpointError: with the file's name, for anything that does not fit.
        UsageError: the family has no such option, or not that value.
    """
    checkpoint = load_state(path)
    try:
        generator = identify(checkpoint.state)
        check_options(generator, options or {})
        return generator.load(checkpoint.state, **(options or {})), checkpoint
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def check_options(generator: Generator, options: Mapping[str, str]) -> None:
    """Raise :class:`UsageError` for an option that the family does not have, or a value that it does not take."""
    known = {option.name: option for option in generator.options}
    for name, value in options.items():
        if name not in known:
            has = f"only {', '.join(known)}" if known else "none"
            raise UsageError(f"{generator.id} has no option {name!r} ({has})")
        if known[name].values and value not in known[name].values:
            raise UsageError(
                f"the option {name} of {generator.id} is one of {', '.join(known[name].values)}, not {value}"
            )


__all__ = ["GENERATORS", "Generator", "LoadedGenerator", "identify", "load_generator"]
