"""Face de-identification with a passcode (Gu et al., Password-conditioned Anonymization and Deanonymization with Face
Identity Transformers, ECCV 2020).

Layout and forward pass follow ``ResnetGenerator`` in ``models/networks.py``, the codes ``generate_code`` in
``utils/util.py`` of https://github.com/laoreja/face-identity-transformer (Apache-2.0). The passcode's bits are planes
behind the picture's three, in the order of the number's binary digits, the highest first. The complement of a passcode
is trained to recover the face from the net's own output, so whoever knows the net can try all 65,536 of them.

The net has batch norms that keep no statistics: its publishers run it in batches of a dozen faces with a passcode each,
and every face gets the statistics of the whole batch. A plane that is the same everywhere, mirrored at the edges, adds
one number to each channel of the first convolution; the mean of the norm behind it takes this number away again. So
alone, or where all in a batch share a passcode, the passcode changes nothing (issue 6 of the repository). For one frame
at a time the statistics must be frozen over many faces with many passcodes; that also makes them foldable.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.generators.base import (
    Condition,
    Generator,
    LoadedGenerator,
    Option,
    State,
    fold_batch_norms,
    fold_input,
    fold_output,
    is_convolution,
    kernel_of,
    last_index,
    load_strictly,
)
from runtime.codes import Code
from runtime.errors import CheckpointError, UsageError
from runtime.frames import Frame, SizeRule

SIDE = 128  # pixels of the pictures that it was trained on
STRIDE = 4  # two convolutions of stride 2
BATCH = 12  # faces that share statistics: the publishers' batch on each GPU
POOL = 64  # pictures with a passcode each, over which statistics are frozen; at 64 channels a layer takes 268 MB
FEW = 8  # different pictures, below which a note says so

#: ``use_minus_one`` of the publishers' configurations: a bit's values. The first two are those of their files.
BITS = {"half": (-0.5, 0.5), "one_fourth": (-0.25, 0.25), "true": (-1.0, 1.0), "false": (0.0, 1.0)}

_FIRST = 12  # place of the first residual block: behind three times padding, convolution, norm and ReLU

_MakeNorm = Callable[[int], nn.Module]


class _Residual(nn.Module):
    def __init__(self, width: int, norm: _MakeNorm) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for activation in (True, False):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=False), norm(width)]
            layers += [nn.ReLU()] if activation else []
        self.conv_block = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return features + cast(Tensor, self.conv_block(features))


class FaceIdentityNet(nn.Module):
    """``float32 (N, 3, H, W) RGB -1..1`` and ``float32 (N, bits)`` to a face alike; H and W are multiples of 4.

    Args:
        width: channels at the picture's own size.
        bits: numbers of a passcode.
        blocks: residual blocks.
        frozen: the norms use statistics of their own; otherwise, as published, those of the batch.
    """

    def __init__(self, width: int, bits: int, blocks: int, *, frozen: bool = False) -> None:
        super().__init__()
        self.width, self.bits, self.blocks = width, bits, blocks
        # momentum 1: in training mode the statistics become those of the last batch
        norm: _MakeNorm = partial(nn.BatchNorm2d, momentum=1.0, track_running_stats=frozen)
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in ((3 + bits, width, 7), (width, 2 * width, 3), (2 * width, 4 * width, 3)):
            conv = nn.Conv2d(inputs, outputs, kernel, 1 if kernel == 7 else 2, bias=False)
            layers += [nn.ReflectionPad2d(kernel // 2), conv, norm(outputs), nn.ReLU()]
        layers += [_Residual(4 * width, norm) for _ in range(blocks)]
        for inputs in (4 * width, 2 * width):
            layers += [nn.Upsample(scale_factor=2.0), nn.ReflectionPad2d(1), nn.Conv2d(inputs, inputs // 2, 3)]
            layers += [norm(inputs // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        planes = code[:, :, None, None].expand(-1, -1, *image.shape[2:])
        return cast(Tensor, self.model(torch.cat((image, planes), dim=1)))


class FoldedFaceIdentityNet(nn.Module):
    """A frozen net for ``float32 (N, 3, H, W) BGR 0..255`` on both sides, its norms folded into the convolutions.

    The passcode's planes are left out: they add ``code @ shift`` to the channels of the first convolution.
    """

    def __init__(self, net: FaceIdentityNet) -> None:
        super().__init__()
        layers = copy.deepcopy(net.model)
        for module in list(layers.modules()):
            if isinstance(module, nn.Sequential):
                fold_batch_norms(module)
        whole = cast(nn.Conv2d, layers[1])
        first = nn.Conv2d(3, net.width, 7)
        first.weight = nn.Parameter(whole.weight.data[:, :3].clone(), requires_grad=False)
        first.bias = whole.bias
        fold_input(first, low=-1.0, high=1.0)  # exact: padding mirrors the picture
        fold_output(cast(nn.Conv2d, layers[-2]), factor=1.0)
        self.first, self.rest = nn.Sequential(layers[0], first), layers[2:]
        self.shift = nn.Parameter(whole.weight.data[:, 3:].sum(dim=(2, 3)).T.contiguous(), requires_grad=False)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        features = self.first(image) + (code @ self.shift)[:, :, None, None]
        return (cast(Tensor, self.rest(features)) + 1) * 127.5


def _detect(state: State) -> bool:
    first = state.get("model.1.weight")
    return (
        is_convolution(state, "model.1.weight")
        and first is not None
        and first.shape[1] > 3
        and "model.2.weight" in state
        and is_convolution(state, "model.12.conv_block.1.weight")
        and not any(re.fullmatch(r".*\.running_(mean|var)", name) for name in state)
    )


def _load(state: State, bits: str = "half") -> LoadedGenerator:
    width, inputs, _, _ = kernel_of(state, "model.1.weight", "face-identity-transformer")
    blocks = last_index(state, r"model\.(\d+)\.conv_block\..*", "face-identity-transformer") + 1 - _FIRST
    if f"model.{_FIRST + blocks}.weight" in state:
        raise CheckpointError(
            "the checkpoint looks like face-identity-transformer, but it enlarges with transposed convolutions; "
            "only nets trained with use_resize_conv, as all that were published, can be loaded"
        )
    with torch.device("meta"):
        net = FaceIdentityNet(width, inputs - 3, blocks)
    load_strictly(net, state, "face-identity-transformer")
    low, high = BITS[bits]
    code = Code("bits", net.bits, (low,) * net.bits, low, high)
    loaded = LoadedGenerator(
        "face-identity-transformer",
        net,
        1,
        input_range=(-1.0, 1.0),
        output_range=(-1.0, 1.0),
        size_rule=SizeRule(2 * STRIDE, STRIDE),
        tileable=False,  # a face is one picture
        task="face-deid",
        facts={"width": width, "blocks": blocks, "bits": net.bits},
        conditions=(Condition("passcode", code),),
        fixed_size=(SIDE, SIDE),
        fit="resize",
        notes=(
            f"A passcode's bits are {low:g} and {high:g} (--option bits={bits}); the file does not say which values "
            "they had in training.",
        ),
    )
    return replace(loaded, freeze=partial(_frozen, loaded))


# --- statistics -------------------------------------------------------------------------------------------------------


def _frozen(loaded: LoadedGenerator, frames: Sequence[Frame], progress: Callable[[str], None]) -> LoadedGenerator:
    """``loaded`` with the statistics of one large batch of ``frames``, each with a random passcode of its own.

    Frames are ``uint8 (H, W, 3) BGR``, best faces; the centre square of each is scaled to 128 x 128. Where there are
    fewer than :data:`POOL` they come again, mirrored, and with other passcodes. A batch that is kept apart, of other
    pictures where there are enough, tells how far the net is from the published one. Everything is deterministic.

    On a small net trained for it with faces and codes, one batch of 64 came nearer to the published net (28 to 31 dB)
    than statistics averaged over five batches of 12 (0.2 to 0.8 dB less) or those of one batch of 12 (22 to 24 dB).

    Raises :class:`UsageError` where there is no frame.
    """
    net = cast(FaceIdentityNet, loaded.net)
    faces = _faces(frames)
    apart = BATCH if len(faces) >= 2 * BATCH else 0  # pictures of their own for the comparison
    pool, held = (faces[apart:], faces[:apart]) if apart else (faces, faces.flip(3))
    different = len(pool)
    pictures = f"{different} {'different pictures' if different > 1 else 'picture'}"
    pool, held = _repeated(pool, POOL), _repeated(held, BATCH)
    codes = _random_codes(loaded.conditions[0].code, len(pool) + BATCH)
    ours, theirs = codes[BATCH:], codes[:BATCH]
    progress(f"freezing the norms over {pictures} and {len(pool)} passcodes")
    frozen = frozen_net(net, pool, ours)
    half = BATCH // 2
    with torch.no_grad():
        published = net(held, theirs)
        kept = _psnr(frozen(held, theirs), published)
        moved = net(torch.cat((held[:half], pool[:half])), torch.cat((theirs[:half], ours[:half])))[:half]
        own = _psnr(moved, published[:half])
    notes = [
        *loaded.notes,
        f"The batch norms were frozen over {pictures} with {len(pool)} random passcodes. In a batch of {BATCH} "
        f"{'other pictures' if apart else 'of these, mirrored'}, with other passcodes, the result is {kept:.1f} dB "
        f"(PSNR) from the published net's, whose own result moves by {own:.1f} dB when half of the batch is changed.",
    ]
    if different < FEW:
        notes.append(
            f"These statistics come from {pictures} only: build again with a folder "
            "of some dozen pictures, each of one face (--frames FOLDER)."
        )
    return replace(loaded, net=frozen, fold=lambda: FoldedFaceIdentityNet(frozen), freeze=None, notes=tuple(notes))


@torch.no_grad()
def frozen_net(net: FaceIdentityNet, faces: Tensor, codes: Tensor) -> FaceIdentityNet:
    """``net`` with the statistics of the one batch ``faces`` (N, 3, H, W), ``codes`` (N, bits), layer by layer."""
    frozen = FaceIdentityNet(net.width, net.bits, net.blocks, frozen=True)
    frozen.load_state_dict(net.state_dict(), strict=False)  # all but the statistics
    frozen.train()(faces, codes)
    return frozen.eval().requires_grad_(False)


def _faces(frames: Sequence[Frame]) -> Tensor:
    """Centre squares as ``float32 (N, 3, 128, 128) RGB -1..1``, each different one once.

    Of more than what is needed, evenly spaced ones are taken.
    """
    wanted = min(len(frames), POOL + BATCH)
    chosen: dict[bytes, Frame] = {}
    for place in np.linspace(0, len(frames) - 1, wanted).round().astype(int) if wanted else ():
        square = _square(frames[int(place)])
        chosen.setdefault(square.tobytes(), square)
    if not chosen:
        raise UsageError("face-identity-transformer needs pictures of faces to freeze its norms: --frames FOLDER")
    planes = np.stack(list(chosen.values()))[..., ::-1].transpose(0, 3, 1, 2)
    return torch.from_numpy(planes.astype(np.float32) / 127.5 - 1)


def _square(frame: Frame) -> Frame:
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    inner = frame[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    return cast(Frame, cv2.resize(np.ascontiguousarray(inner), (SIDE, SIDE), interpolation=method))


def _repeated(faces: Tensor, count: int) -> Tensor:
    """``count`` of ``faces``: each, then each mirrored, and again."""
    both = torch.cat((faces, faces.flip(3)))
    return both[torch.arange(count) % len(both)]


def _random_codes(code: Code, count: int) -> Tensor:
    bits = torch.randint(0, 2, (count, code.size), generator=torch.Generator().manual_seed(0))
    return torch.where(bits == 1, code.high, code.low).float()


def _psnr(first: Tensor, second: Tensor) -> float:
    """PSNR in dB of two pictures -1..1; 99.9 where they are nearly the same."""
    error = float(functional.mse_loss(first, second)) / 4
    return min(99.9, -10 * float(np.log10(max(error, 1e-12))))


FACE_IDENTITY = Generator(
    id="face-identity-transformer",
    title="Face Identity Transformer of laoreja: faces made anonymous with a passcode",
    keys=frozenset({f"{place}.{kind}" for place in ("model.N", "model.N.conv_block.N") for kind in ("weight", "bias")}),
    detect=_detect,
    load=_load,
    example="checkpoint.pth.tar",
    purpose="face de-identification, 128 x 128",
    options=(Option("bits", tuple(BITS), "values of a passcode's bits, use_minus_one of the training configuration"),),
)
