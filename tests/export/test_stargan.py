"""A generator whose labels work only through the border."""

from __future__ import annotations

import re
import time

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoint_factory import exported, frame, loaded, published
from nets_stargan import FrameNorm, StarGan, StarGanDiscriminator
from published import pictures, randomised
from torch import Tensor, nn

from export.frame_io import reference_output
from export.generators import GENERATORS, check_options, identify
from export.generators.stargan import STARGAN
from runtime.errors import CheckpointError, UsageError

DARK, FAIR = (torch.tensor([row]) for row in ([1.0, 0, 0, 1, 1], [0.0, 1, 0, 0, 1]))
EDGE = 8  # pixels


def refusal(state: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    return str(error.value)


# --- norms ------------------------------------------------------------------------------------------------------------


def with_plain_norms() -> nn.Module:
    """The publishers' very modules, with statistics of training that differ from those of a picture."""
    net = published("stargan").net()
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FrameNorm):
                plain = nn.InstanceNorm2d(child.num_features, affine=True, track_running_stats=True)
                plain.load_state_dict(child.state_dict())
                assert plain.running_mean is not None
                plain.running_mean += 0.7
                setattr(parent, name, plain)
    return net


@torch.no_grad()
def test_the_statistics_of_the_frame_are_used_as_the_publishers_test_does() -> None:
    """They never call ``eval()``; had they done so, the result would be another."""
    net, image = with_plain_norms(), pictures() * 2 - 1
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = identify(state).load(state).net(image, DARK)
    torch.testing.assert_close(found, net.train()(image, DARK), atol=1e-5, rtol=0)
    net.load_state_dict(state)
    assert (found - net.eval()(image, DARK)).abs().max() > 0.1


def test_files_without_statistics_load_too() -> None:
    state = {name: value for name, value in published("stargan").state().items() if "running" not in name}
    assert identify(state).load(state).family == "stargan"


# --- labels -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def effect(net: nn.Module, side: int) -> Tensor:
    """How far two labels move the first norm's output, ``float32 (channels, side, side)``."""
    image = pictures(1, side, side, seed=2) * 2 - 1
    first, norm = net.get_submodule("main.0"), net.get_submodule("main.1")
    planes = [label[:, :, None, None].expand(-1, -1, side, side) for label in (DARK, FAIR)]
    outputs = [norm(first(torch.cat((image, plane), 1))) for plane in planes]
    return (outputs[0] - outputs[1]).abs()[0]


def test_labels_work_by_the_zeros_around_the_picture_and_by_nothing_else() -> None:
    net = published("stargan").net()
    whole = effect(net, 64)
    assert whole[:, 0].mean() > 3 * whole[:, 32].mean()  # most of it at the border, which sees the zeros
    inside = whole[:, EDGE:-EDGE, EDGE:-EDGE]
    assert inside.mean() > 0.01  # by way of mean and deviation, the rest too
    mirrored = randomised(StarGan(4, 5, 2, mirrored=True))
    assert effect(mirrored, 64).max() < 1e-4  # rounding errors only
    image = pictures(1, 64, 64, seed=2) * 2 - 1
    with torch.no_grad():
        for padded, least, most in ((net, 0.2, 2.0), (mirrored, 0.0, 1e-4)):
            moved = (padded(image, DARK) - padded(image, FAIR)).abs()[..., EDGE:-EDGE, EDGE:-EDGE].max()
            assert least <= moved <= most


def test_labels_work_the_less_the_larger_the_picture_is() -> None:
    net = published("stargan").net()
    inside = [effect(net, side)[:, EDGE:-EDGE, EDGE:-EDGE].mean() for side in (32, 64, 128)]
    assert inside[0] > 1.3 * inside[1] > 1.6 * inside[2]


def test_so_a_frame_has_the_size_of_training_and_is_never_cut() -> None:
    generator = loaded("stargan")
    assert (generator.tileable, generator.fixed_size, generator.fit) == (False, (128, 128), "resize")
    assert any("128x128 (--option size=128)" in note for note in generator.notes)
    assert STARGAN.load(published("stargan").state(), size="256").fixed_size == (256, 256)


def test_labels_work_in_onnx_as_in_pytorch() -> None:
    generator, model, image = loaded("stargan"), exported("stargan", (128, 128)), frame(128, 128, seed=1)
    assert [port.name for port in model.graph.input] == ["frame", "label"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found, wanted = [], []
    for label in (DARK, FAIR):
        found.append(session.run(None, {"frame": image[None], "label": label.numpy()})[0][0].astype(int))
        wanted.append(reference_output(generator, image, {"label": label[0].numpy()}).astype(int))
        assert np.abs(found[-1] - wanted[-1]).max() <= 1
    moved = np.abs(wanted[0] - wanted[1])[EDGE:-EDGE, EDGE:-EDGE].mean()  # far from the border
    assert moved > 1
    assert np.abs(found[0] - found[1])[EDGE:-EDGE, EDGE:-EDGE].mean() == pytest.approx(moved, abs=0.05)


def test_free_sizes_and_numbers_of_frames_in_onnx() -> None:
    generator, model = loaded("stargan-emotions"), exported("stargan-emotions")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.stack([frame(28, 36, seed=seed) for seed in range(2)])
    labels = np.eye(8, dtype=np.float32)[[3, 7]]
    found = session.run(None, {"frame": images, "label": labels})[0]
    for place in range(2):
        wanted = reference_output(generator, images[place], {"label": labels[place]})
        assert np.abs(found[place].astype(int) - wanted).max() <= 1


# --- options and files ------------------------------------------------------------------------------------------------


def test_labels_have_names_that_the_user_gives() -> None:
    names = "Black_Hair, Blond_Hair,Brown_Hair,Male,Young"
    generator = STARGAN.load(published("stargan").state(), labels=names)
    code = generator.conditions[0].code
    assert code.labels == ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    assert (code.kind, code.default, code.low, code.high) == ("bits", (1, 0, 0, 0, 0), 0, 1)
    assert not any("name them" in note for note in generator.notes)
    assert any("name them" in note for note in loaded("stargan").notes)
    with pytest.raises(UsageError, match="a code of 5 numbers needs as many different labels, not 2"):
        STARGAN.load(published("stargan").state(), labels="Male,Young")


def test_classes_and_attributes_are_told_apart_by_an_option() -> None:
    assert loaded("stargan-emotions").conditions[0].code.kind == "one-hot"
    assert loaded("stargan").conditions[0].code.kind == "bits"
    for name, value in (("code", "vector"), ("size", "64")):
        with pytest.raises(UsageError, match=f"the option {name} of stargan is one of"):
            check_options(STARGAN, {name: value})


def test_its_discriminator_is_no_generator() -> None:
    state = randomised(StarGanDiscriminator(4, 5)).state_dict()
    assert not [family.id for family in GENERATORS if family.detect(state)]
    assert "this is a discriminator (StarGAN's)" in refusal(state)


def test_files_that_do_not_fit_are_refused_in_words() -> None:
    state = published("stargan").state()
    started = time.monotonic()
    assert "numbers a layer 1000000000" in refusal(state | {"main.1000000000.main.0.weight": torch.zeros(1)})
    wide = refusal(state | {"main.0.weight": torch.zeros(300_000, 8, 1, 1)})
    assert "main.0.weight is [300000, 8, 1, 1] instead of [300000, 8, 7, 7]" in wide
    assert time.monotonic() - started < 2
    assert "main.3.weight is [7] instead of [8, 4, 4, 4]" in refusal(state | {"main.3.weight": torch.zeros(7)})
    early = {re.sub(r"^main\.(9|10)(?=\.)", r"main.1\1", name): value for name, value in state.items()}
    assert "unknown architecture" in refusal(early)
