"""The generator families, and the search for the one that a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from export.checkpoint import Checkpoint, load_state
from export.generators import not_generators
from export.generators.base import Generator, LoadedGenerator, State
from export.generators.bicyclegan import BICYCLEGAN
from export.generators.compact import COMPACT
from export.generators.cyclegan import CYCLEGAN
from export.generators.edsr import EDSR
from export.generators.espcn import ESPCN
from export.generators.face_deid import FACE_DEID
from export.generators.face_identity import FACE_IDENTITY
from export.generators.fast_style import FAST_STYLE
from export.generators.frvsr import FRVSR
from export.generators.fsrcnn import FSRCNN
from export.generators.mobile_rrn import MOBILE_RRN
from export.generators.msrresnet import MSRRESNET
from export.generators.other import load_other
from export.generators.pix2pix import PIX2PIX
from export.generators.plugins import Plugins, load_plugins
from export.generators.rrdb import RRDB
from export.generators.search import Found, find, refusal, several
from export.generators.span import SPAN
from export.generators.srcnn import SRCNN
from export.generators.srgan import SRGAN
from export.generators.srvgg import SRVGG
from export.generators.stargan import STARGAN
from export.user_code import running
from runtime.errors import CheckpointError, UsageError

GENERATORS: tuple[Generator, ...] = (
    COMPACT,
    SRVGG,
    SRGAN,
    SPAN,
    FAST_STYLE,
    CYCLEGAN,
    MOBILE_RRN,
    STARGAN,
    BICYCLEGAN,
    FACE_DEID,
    FACE_IDENTITY,
    PIX2PIX,
    FSRCNN,
    ESPCN,
    SRCNN,
    RRDB,
    MSRRESNET,
    EDSR,
    FRVSR,
)


class UnknownArchitectureError(CheckpointError):
    """A state dict that fits no family."""


#: ``--option part=NAME`` of every family: which net of a file that holds several.
PART = "part"


def identify(state: State) -> Generator:
    """The family whose detector fires on ``state``, whose names are bare.

    Raises :class:`UnknownArchitectureError` that names the nearest family where none does, and
    :class:`CheckpointError` that names all of them where several do.
    """
    found = find(state, GENERATORS)
    if found is None or found.prefix:
        raise UnknownArchitectureError(refusal(state, GENERATORS))
    return found.generator


def load_generator(
    path: Path, options: Mapping[str, str] | None = None, module: str | None = None
) -> tuple[LoadedGenerator, Checkpoint]:
    """Read a checkpoint, find its family and build the net.

    Families of other installed packages (entry points ``genedge.generators``) are asked where no built-in one fits.

    Args:
        path: the checkpoint.
        options: what the user says about what the file does not, see :class:`Option`; ``part`` names the net that is
            meant in a file of several.
        module: ``my_net.py:build`` or ``package.module:build``, the user's own code that makes the net instead.

    Raises:
        CheckpointError: with the file's name, for anything that does not fit.
        UsageError: the family has no such option, or not that value.
        UserCodeError: the code of ``module``, or of an installed family, fails.
    """
    given = dict(options or {})
    checkpoint = load_state(path, given.pop(PART, ""))
    try:
        return generator_from(checkpoint, given, module)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def generator_from(
    checkpoint: Checkpoint, options: Mapping[str, str], module: str | None = None
) -> tuple[LoadedGenerator, Checkpoint]:
    """As :func:`load_generator`, from tensors that have been read: ``options`` without ``part``.

    The checkpoint that it gives has the generator's own tensors. Where no family fits, spandrel is asked, if it is
    installed.
    """
    if module is not None:
        from export.user_module import load_user_generator

        return load_user_generator(module, checkpoint, options)
    try:
        found, plugins = find_family(checkpoint.state)
    except UnknownArchitectureError as unknown:
        return load_other(checkpoint.state, str(unknown), options), checkpoint
    check_options(found.generator, options)
    if found.generator in GENERATORS:
        loaded = found.generator.load(found.state, **options)
    else:
        with running(found.generator.id):
            loaded = found.generator.load(found.state, **options)
    notes = list(plugins.problems)
    if found.left_out:
        notes.append(f"taken from the tensors under {found.prefix}; left out: {', '.join(found.left_out)}")
    loaded = replace(loaded, notes=(*loaded.notes, *notes)) if notes else loaded
    prefix = ".".join(part for part in (checkpoint.prefix, found.prefix) if part)
    return loaded, replace(checkpoint, state=found.state, prefix=prefix, left_out=found.left_out)


def find_family(state: State) -> tuple[Found, Plugins]:
    """The family and the generator's tensors; other packages' families are loaded where no built-in one fits.

    Raises:
        UnknownArchitectureError: none fits.
        CheckpointError: two do, or the net is known to be no generator.
    """
    found = find(state, GENERATORS)
    if found is not None:
        return found, Plugins()
    plugins = load_plugins([generator.id for generator in GENERATORS])
    with running("a family of another package"):
        found = find(state, plugins.generators)
    if found is None:
        reason = not_generators.reason(state) or several(state, GENERATORS)
        if reason is not None:
            raise CheckpointError(reason)
        problems = "".join(f"; {problem}" for problem in plugins.problems)
        raise UnknownArchitectureError(refusal(state, GENERATORS) + problems)
    return found, plugins


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


__all__ = ["GENERATORS", "Generator", "LoadedGenerator", "find_family", "generator_from", "identify", "load_generator"]
