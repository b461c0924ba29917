"""The search for the family and for the generator's own tensors in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from export.checkpoint import AVERAGED, DIRECTED, DISCRIMINATOR, GENERATOR, PLAIN, several_generators, under
from export.generators import not_generators
from export.generators.base import Generator, State, numberless
from runtime.errors import CheckpointError

_MAX_DEPTH = 3  # fronts inside fronts: ``model.netG.module.``
_FEW = 3  # kinds of names, such as ``body.N.weight``, that nets of other families can have by chance


@dataclass(frozen=True)
class Found:
    """A family, the tensors that are its own, the front that their names had, and the fronts of all others."""

    generator: Generator
    state: State
    prefix: str = ""
    left_out: tuple[str, ...] = ()


def find(state: State, families: Sequence[Generator]) -> Found | None:
    """The family whose detector fires on the bare names, else on what follows a usual front (``netG.``).

    An averaged generator comes first. None where nothing fits; :class:`CheckpointError` where two families do, or where
    the file holds two generators.
    """
    found = _find(state, families, 0)
    if found is None or not found.prefix:
        return found
    others = [name for name in state if not name.startswith(f"{found.prefix}.")]
    return replace(found, left_out=tuple(dict.fromkeys(name.split(".")[0] for name in others)))


def _find(state: State, families: Sequence[Generator], depth: int) -> Found | None:
    fitting = [generator for generator in families if generator.detect(state)]
    if len(fitting) == 1:
        return Found(fitting[0], state)
    if fitting:
        raise CheckpointError(
            f"the checkpoint fits {' and '.join(f'{each.id} ({each.title})' for each in fitting)}, and cannot be both: "
            "save the weights of one net alone"
        )
    if depth == _MAX_DEPTH:
        return None
    for group, alternatives in (((*AVERAGED, *GENERATOR), False), (_directed(state), True), (PLAIN, False)):
        several = []
        for front in group:
            part = under(state, front)
            found = _find(part, families, depth + 1) if part else None
            if found is not None:
                several.append(replace(found, prefix=f"{front}.{found.prefix}".rstrip(".")))
                if not alternatives:
                    break
        if len(several) > 1:
            raise CheckpointError(several_generators([found.prefix for found in several]))
        if several:
            return several[0]
    return None


def _directed(state: State) -> tuple[str, ...]:
    """Fronts such as ``netG_A``, and ``generators.a``."""
    return tuple(front for front in _fronts(state) if DIRECTED.fullmatch(front))


def _fronts(state: State) -> Iterator[str]:
    """The first word, and the first two, of every name, each once."""
    seen = set()
    for name in state:
        words = name.split(".")
        for count in (1, 2):
            front = ".".join(words[:count])
            if len(words) > count and front not in seen:
                seen.add(front)
                yield front


def nearest(state: State, families: Sequence[Generator]) -> Generator:
    """The family whose names resemble those of ``state`` the most."""
    seen = frozenset(map(numberless, state))
    return max(families, key=lambda generator: _likeness(seen, generator.keys))


def refusal(state: State, families: Sequence[Generator]) -> str:
    """One sentence about a checkpoint that no family fits: what it is instead, or which family it resembles."""
    return not_generators.reason(state) or several(state, families) or _unknown(state, families)


def several(state: State, families: Sequence[Generator]) -> str | None:
    """What to say about a file of several nets, one of which fits a family; None for any other."""
    for front in _fronts(state):
        if DISCRIMINATOR.fullmatch(front):
            continue
        part = under(state, front)
        fitting = [generator.id for generator in families if generator.detect(part)]
        if len(fitting) == 1:
            return (
                f"the file holds several nets, and the tensors under {front} look like {fitting[0]}: "
                f"add --option part={front}"
            )
    return None


def _unknown(state: State, families: Sequence[Generator]) -> str:
    near = nearest(state, families)
    seen = frozenset(map(numberless, state))
    names = list(state)
    shown = ", ".join(
        f"{name} {list(state[name].shape)}" for name in (names if len(names) < 4 else [*names[:2], names[-1]])
    )
    what = f"unknown architecture: {len(names)} tensors such as {shown}; the nearest family is {near.id} ({near.title})"
    if len(seen) > _FEW and seen <= near.keys:
        known = f"which knows all of these names: it may be a part of a checkpoint of {near.id} (is the file whole?)"
    else:
        known = (
            f"which shares {len(seen & near.keys)} of its {len(near.keys)} kinds of tensor names "
            f"(known families: {', '.join(generator.id for generator in families)})"
        )
    return f"{what}, {known}; --module FILE.py:FUNCTION builds a net of your own"


def _likeness(seen: frozenset[str], keys: frozenset[str]) -> tuple[float, float]:
    """Share of names in common, then share of words in common."""

    def words(names: frozenset[str]) -> set[str]:
        return {word for name in names for word in name.split(".")}

    common, either = words(seen) & words(keys), words(seen) | words(keys)
    return len(seen & keys) / max(1, len(seen | keys)), len(common) / max(1, len(either))
