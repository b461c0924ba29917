"""What a generator family is: how its checkpoints are recognised, and what loading one gives."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from runtime.codes import Code
from runtime.errors import CheckpointError
from runtime.frames import Frame, SizeRule

State = Mapping[str, Tensor]  # parameter name -> float32 tensor
Range = tuple[float, float]  # the values that black and white have inside the network

MOST_OF_PICTURES = 6  # channels of a U-Net's input up to which they are those of a picture, or of two of them

_BGR = (2, 1, 0)  # BGR to RGB, and back
_SHOWN = 3  # names of tensors in a message
_COUNTER = "num_batches_tracked"  # of a batch norm; only training needs it


class MismatchError(CheckpointError):
    """A checkpoint's tensors are not those of its family: names ``missing`` and ``extra``, shapes ``wrong``."""

    def __init__(
        self, message: str, missing: tuple[str, ...] = (), extra: tuple[str, ...] = (), wrong: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.missing, self.extra, self.wrong = missing, extra, wrong


@dataclass(frozen=True)
class RecurrentState:
    """Something that a recurrent net gets from the step before.

    ``output`` names the net's result that it is: ``float32 (N, channels, scale H, scale W)``. Where it is None, the
    state is the frame of the step before, which the net takes as it takes the frame. ``initial`` is what it holds in
    the first step: ``zeros`` (of a frame: a black one), or ``frame``, that step's own frame; by default zeros for a
    result of the net, and the frame for a frame.
    """

    name: str
    output: str | None = None
    channels: int = 3
    scale: int = 1
    initial: str = ""

    @property
    def begins_as(self) -> str:
        """``initial``, or what it is by default."""
        return self.initial or ("frame" if self.output is None else "zeros")


@dataclass(frozen=True)
class Condition:
    """What a conditional generator gets besides the frame: a class, attributes, a passcode's bits, a label map.

    The net takes it as ``float32 (N, code.size)``, or where ``is_map`` as ``float32 (N, code.size, H, W)``.
    """

    name: str
    code: Code
    is_map: bool = False


@dataclass(frozen=True)
class FurtherImage:
    """A picture that the net gives besides the first: ``float32 (N, channels, scale H, scale W) RGB or grey``.

    ``channels`` is 3 or 1; ``range`` are its values of black and white.
    """

    name: str
    channels: int = 1
    range: Range = (0.0, 1.0)


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator with its weights, in evaluation mode.

    ``net`` maps ``float32 (N, 3, H, W) RGB`` in ``input_range`` to ``float32 (N, 3, sH, sW) RGB`` in
    ``output_range``, just as its publishers ran it; values outside the range are clipped afterwards.
    ``fold`` makes, where that is exact, a net of its own that maps ``BGR 0..255`` to ``BGR 0..255``.
    ``facts`` are the hyper-parameters that were read from the tensors, for people to look at; ``notes`` are sentences
    about what could not be read from them and how it was decided, for the build's output and report.

    A net with ``states``, ``conditions`` or ``images`` (and the one of ``fold`` alike) takes the frame, one tensor for
    each state, and one for each condition, in that order; it gives a tuple: the picture, one tensor for each of
    ``images``, and one for each state that has an ``output``.

    ``fixed_size`` is the (height, width) that its publishers run it at where it should not run at others; ``fit`` says
    how the runtime brings frames of another size there: ``pad`` repeats their edge (or cuts them into tiles),
    ``resize`` scales them, and the result back.

    ``freeze`` is given by a net that computes norms from the statistics of a whole batch, where these cannot be
    computed from one frame: called with frames ``uint8 (H, W, 3) BGR`` and a function that tells about progress, it
    gives the same generator with statistics frozen over them. What is not frozen yet is never exported.
    """

    family: str
    net: nn.Module
    scale: int
    input_range: Range = (0.0, 1.0)
    output_range: Range = (0.0, 1.0)
    size_rule: SizeRule = field(default_factory=SizeRule)
    tileable: bool = True
    task: str = "super-resolution"
    facts: Mapping[str, int | str] = field(default_factory=dict)
    fold: Callable[[], nn.Module] | None = None
    states: tuple[RecurrentState, ...] = ()
    conditions: tuple[Condition, ...] = ()
    images: tuple[FurtherImage, ...] = ()
    fixed_size: tuple[int, int] | None = None
    fit: str = "pad"
    freeze: Callable[[Sequence[Frame], Callable[[str], None]], LoadedGenerator] | None = None
    notes: tuple[str, ...] = ()

    def folded(self) -> nn.Module | None:
        """The net for ``BGR 0..255`` on both sides, or None where that cannot be folded exactly."""
        return self.fold().eval() if self.fold is not None else None


@dataclass(frozen=True)
class Option:
    """Something that a family's file does not say and the user may: ``--option NAME=VALUE`` of `export build`.

    The chosen value reaches the family's ``load`` as a keyword argument ``name``. ``values`` are those allowed; the
    first one is the default, which the family's ``load`` has too. Empty: any text, which ``load`` checks itself.
    """

    name: str
    values: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Generator:
    """A family of generators.

    ``keys`` are its parameter names with every number written as ``N`` (``body.N.weight``); they tell
    which family a file resembles that fits none. ``detect`` says whether a state dict belongs to the
    family, from names and shapes only; ``load`` builds the net. ``example`` is the name of a file that its
    publishers give away, ``purpose`` what it is for, in a few words.
    """

    id: str
    title: str
    keys: frozenset[str]
    detect: Callable[[State], bool]
    load: Callable[..., LoadedGenerator]
    example: str = ""
    purpose: str = ""
    options: tuple[Option, ...] = ()


def numberless(key: str) -> str:
    """``body.12.weight`` to ``body.N.weight``."""
    return re.sub(r"\d+", "N", key)


def indices(state: State, pattern: str) -> list[int]:
    """The sorted numbers that the one group of ``pattern`` takes among the whole names of ``state``."""
    return sorted({int(match[1]) for key in state if (match := re.fullmatch(pattern, key))})


def last_index(state: State, pattern: str, family: str) -> int:
    """The highest of :func:`indices`, which must find one.

    A file that numbers more layers than it holds tensors is refused, before anybody builds them all.
    """
    last = indices(state, pattern)[-1]
    if last > 4 * len(state):
        raise CheckpointError(
            f"the checkpoint looks like {family}, but it numbers a layer {last} and holds only {len(state)} tensors"
        )
    return last


def outputs_of(state: State, key: str) -> int:
    """Output channels of the convolution ``state[key]``, 0 where it has no dimension."""
    return int(state[key].shape[0]) if state[key].ndim else 0


def kernel_of(state: State, key: str, family: str) -> tuple[int, int, int, int]:
    """The shape of the kernel ``state[key]``, from which a net is going to be built.

    Raises :class:`CheckpointError` where it is missing, empty, or not the kernel of a 2-D convolution.
    """
    weight = state.get(key)
    if weight is None:
        raise CheckpointError(f"the checkpoint looks like {family}, but it lacks {key}")
    if weight.ndim != 4 or weight.numel() == 0:
        raise CheckpointError(
            f"the checkpoint looks like {family}, but {key} is {list(weight.shape)}, no kernel of a convolution"
        )
    first, second, height, width = map(int, weight.shape)
    return first, second, height, width


def is_convolution(state: State, key: str, inputs: int | None = None) -> bool:
    """Whether ``state[key]`` is a square 2-D kernel, and takes ``inputs`` channels."""
    weight = state.get(key)
    return (
        weight is not None
        and weight.ndim == 4
        and weight.numel() > 0
        and weight.shape[2] == weight.shape[3]
        and inputs in (None, weight.shape[1])
    )


def scale_from_channels(family: str, channels: int) -> int:
    """Scale of a pixel shuffle whose convolution gives ``channels`` = 3 scale² channels."""
    scale = math.isqrt(max(0, channels) // 3)
    if channels < 1 or 3 * scale * scale != channels:
        raise CheckpointError(
            f"the checkpoint looks like {family}, but its last convolution gives {channels} channels, "
            "which is not 3 times a square, so no pixel shuffle fits"
        )
    return scale


def load_strictly(
    net: nn.Module, state: State, family: str, original: Callable[[str], str] = lambda name: name
) -> None:
    """Load every tensor, and complain about each one that is missing, left over, or of another shape.

    ``net`` is best built on torch's ``meta`` device, so that a hostile shape takes no memory before it is
    compared here. ``original`` gives the name in the file of a parameter of ``net``; complaints use it.
    """
    own = {name: tensor for name, tensor in net.state_dict().items() if not name.endswith(_COUNTER)}
    wanted = {original(name): tensor for name, tensor in own.items()}
    given = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    complaints = []
    if missing := tuple(name for name in wanted if name not in given):
        complaints.append(f"it lacks {_listed(missing)}")
    if extra := tuple(name for name in given if name not in wanted):
        complaints.append(f"it has {_listed(extra)}, which the family does not know")
    wrong = tuple(
        f"{name} is {list(given[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    )
    if wrong:
        complaints.append(_listed(wrong))
    if complaints:
        raise MismatchError(f"the checkpoint looks like {family}, but {'; '.join(complaints)}", missing, extra, wrong)
    net.to_empty(device="cpu")
    net.load_state_dict({name: given[original(name)] for name in own}, strict=False)
    for name, buffer in net.named_buffers():
        if name.endswith(_COUNTER):
            buffer.zero_()
    net.eval().requires_grad_(False)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def fold_input(conv: nn.Conv2d, low: float = 0.0, high: float = 1.0) -> None:
    """Let a first convolution take BGR 0..255 instead of RGB ``low``..``high``, in place.

    Exact where ``low`` is 0, since zero padding stays zero, and for any ``low`` where the frame is padded with its own
    pixels.
    """
    if low:
        shift = conv.weight.sum(dim=(1, 2, 3)) * low
        conv.bias = nn.Parameter(shift if conv.bias is None else conv.bias + shift, requires_grad=False)
    conv.weight.data = conv.weight.data[:, list(_BGR)] * (high - low) / 255


def fold_output(conv: nn.Conv2d, shuffled: int = 1, factor: float = 255.0) -> None:
    """Let a last convolution give BGR times ``factor`` instead of RGB, in place.

    ``shuffled`` is the factor of a pixel shuffle behind it, which takes ``shuffled²`` neighbouring channels a colour.
    """
    order = [colour * shuffled**2 + place for colour in _BGR for place in range(shuffled**2)]
    conv.weight.data = conv.weight.data[order] * factor
    if conv.bias is not None:
        conv.bias.data = conv.bias.data[order] * factor


def fold_batch_norms(layers: nn.Sequential) -> None:
    """Fold every batch norm into the convolution right before it, in place."""
    for place, layer in enumerate(layers):
        if isinstance(layer, nn.BatchNorm2d):
            conv = layers[place - 1]
            transposed = isinstance(conv, nn.ConvTranspose2d)
            layers[place - 1] = fuse_conv_bn_eval(cast(nn.Conv2d, conv), layer, transpose=transposed)
            layers[place] = nn.Identity()


def with_folded_ends(net: nn.Module, layers: str, scale: int) -> nn.Module:
    """A copy of ``net`` for BGR 0..255 on both sides.

    ``layers`` names its list of layers, whose first is the first convolution and whose last the convolution in front of
    a pixel shuffle by ``scale``.
    """
    result = copy.deepcopy(net)
    convolutions = list(result.get_submodule(layers).children())
    first, last = convolutions[0], convolutions[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    fold_input(first)
    fold_output(last, shuffled=scale)
    return result
