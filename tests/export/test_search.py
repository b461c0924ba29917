"""A generator is found whatever it lies in, and what is none is called by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_factory import PUBLISHED, published, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from published import Published
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from export.checkpoint import AVERAGED, GENERATOR, PLAIN, PREFIXES
from export.generators import GENERATORS, PART, identify, load_generator
from export.generators.base import State
from export.generators.not_generators import DISCRIMINATORS, reason
from export.generators.search import find
from runtime.errors import CheckpointError, UsageError

DIRECTIONS = ("G_A", "netG_B", "G_AB", "genA2B", "generators.a", "generator_B2A")
FRONTS = (*AVERAGED, *GENERATOR, *PLAIN, *DIRECTIONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


def fronted(state: State, front: str) -> dict[str, Tensor]:
    return {f"{front}.{name}": tensor for name, tensor in state.items()}


def refusal(tmp_path: Path, content: Any, **options: str) -> str:
    """The sentence with which a file is refused, without its name."""
    path = tmp_path / "net.pth"
    path.write_bytes(saved(content))
    with pytest.raises(CheckpointError) as error:
        load_generator(path, options)
    text = str(error.value)
    assert text.isprintable()
    return text.removeprefix(f"{path}: ")


# --- generators in wrappers and behind fronts -------------------------------------------------------------------------

_cases = {case.id: case for case in PUBLISHED}
_states: dict[str, dict[str, Tensor]] = {}


def state_of(case: Published) -> dict[str, Tensor]:
    if case.id not in _states:
        _states[case.id] = case.state()
    return _states[case.id]


@given(
    st.sampled_from(sorted(_cases)),
    st.lists(st.sampled_from((*AVERAGED, *GENERATOR, *PLAIN)), max_size=2),
    st.lists(st.sampled_from(FRONTS), max_size=2),
    st.sampled_from(["", *PREFIXES]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_published_net_is_found_in_every_wrapper_and_behind_every_front(
    folder: Path, id: str, wrappers: list[str], fronts: list[str], parallel: str, beside: bool
) -> None:
    case = _cases[id]
    wanted = state_of(case)
    state = {f"{parallel}{name}": tensor for name, tensor in wanted.items()}
    for front in reversed(fronts):
        state = fronted(state, front)
    if fronts and beside:
        state |= {"discriminator.model.0.weight": torch.ones(4, 3, 4, 4), "loss.vgg.mean": torch.ones(3)}
    content: Any = state
    for wrapper in reversed(wrappers):
        content = {"epoch": 3, wrapper: content, "optimizer": {"state": {}, "param_groups": []}}
    path = folder / "renamed.bin"
    path.write_bytes(saved(content))
    generator, checkpoint = load_generator(path, case.options)
    assert (generator.family, dict(generator.facts)) == (case.family, case.facts)
    assert list(checkpoint.state) == list(wanted)
    assert checkpoint.wrapper == ".".join(wrappers)
    assert checkpoint.prefix == ".".join(fronts)
    assert checkpoint.left_out == (("discriminator", "loss") if fronts and beside else ())
    told = [note for note in generator.notes if "left out: discriminator, loss" in note]
    assert len(told) == (1 if fronts and beside else 0)


def test_the_averaged_generator_comes_first() -> None:
    state = published("compact-x2").state()
    other = {name: tensor + 1 for name, tensor in state.items()}
    both = fronted(other, "generator") | fronted(state, "generator_ema") | fronted(other, "discriminator")
    found = find(both, GENERATORS)
    assert found is not None
    assert (found.prefix, found.left_out) == ("generator_ema", ("generator", "discriminator"))
    assert torch.equal(found.state["convs.0.weight"], state["convs.0.weight"])


def test_two_generators_behind_fronts_are_both_named_and_one_can_be_chosen(tmp_path: Path) -> None:
    first, second = published("cyclegan").state(), published("cyclegan-batch-norm").state()
    content = {"state_dict": fronted(first, "netG_A") | fronted(second, "netG_B") | fronted(first, "netD_A")}
    text = refusal(tmp_path, content)
    assert text == "it holds 2 generators, netG_A and netG_B: choose one, e.g. --option part=netG_A"
    for front, norm in (("netG_A", "instance"), ("netG_B", "batch")):
        generator, checkpoint = load_generator(tmp_path / "net.pth", {PART: front})
        assert (generator.facts["norm"], checkpoint.prefix) == (norm, front)


def test_an_unusual_front_is_named_but_not_taken_unasked(tmp_path: Path) -> None:
    content = fronted(published("srvgg-x4").state(), "my.net") | {"head.weight": torch.ones(3)}
    text = refusal(tmp_path, content)
    assert text == "the file holds several nets, and the tensors under my.net look like srvgg: add --option part=my.net"
    generator, checkpoint = load_generator(tmp_path / "net.pth", {PART: "my.net"})
    assert (generator.family, checkpoint.prefix) == ("srvgg", "my.net")


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(saved(published("srvgg-x4").state()))
    with pytest.raises(UsageError, match=r"net\.pth: the file has no part 'netG'; its tensors' names begin with body"):
        load_generator(tmp_path / "net.pth", {PART: "netG"})


def test_no_family_has_an_option_of_the_name_that_is_everybodys() -> None:
    assert not [generator.id for generator in GENERATORS if PART in [option.name for option in generator.options]]


# --- what is no generator ---------------------------------------------------------------------------------------------


def named(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}


def patch_gan(inputs: int, *, norm: bool = True) -> dict[str, Tensor]:
    widths = [inputs, 4, 8, 16, 32, 1]
    places = [0, 2, 5, 8, 11]
    layers: dict[str, nn.Module] = {}
    for place, first, second in zip(places, widths, widths[1:], strict=False):
        layers[f"model.{place}"] = nn.Conv2d(first, second, 4)
        if norm and place in (2, 5, 8):
            layers[f"model.{place + 1}"] = nn.BatchNorm2d(second)
    return named(layers)


DISCRIMINATOR_STATES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "pix2pix": lambda: patch_gan(6),
    "cyclegan": lambda: patch_gan(3, norm=False),
    "pixel": lambda: named({"net.0": nn.Conv2d(3, 4, 1), "net.2": nn.Conv2d(4, 8, 1), "net.5": nn.Conv2d(8, 1, 1)}),
    "pix2pixhd": lambda: named(
        {
            f"scale{scale}_layer{layer}.0": nn.Conv2d(4, 4 if layer < 2 else 1, 4)
            for scale in range(2)
            for layer in range(3)
        }
    ),
    "spade": lambda: named(
        {
            f"discriminator_{index}.model{layer}.0{'.0' if layer % 2 else ''}": spectral_norm(
                nn.Conv2d(4, 4 if layer < 2 else 1, 4)
            )
            for index in range(2)
            for layer in range(3)
        }
    ),
    "leftthomas": lambda: named(
        {
            "net.0": nn.Conv2d(3, 4, 3),
            "net.2": nn.Conv2d(4, 4, 3),
            "net.3": nn.BatchNorm2d(4),
            "net.24": nn.Conv2d(4, 8, 1),
            "net.26": nn.Conv2d(8, 1, 1),
        }
    ),
    "lornatang": lambda: named(
        {
            "features.0": nn.Conv2d(3, 4, 3),
            "features.2": nn.Conv2d(4, 4, 3, bias=False),
            "features.3": nn.BatchNorm2d(4),
            "classifier.0": nn.Linear(16, 8),
            "classifier.2": nn.Linear(8, 1),
        }
    ),
    "real-esrgan": lambda: named(
        {
            "conv0": nn.Conv2d(3, 4, 3),
            **{f"conv{n}": spectral_norm(nn.Conv2d(4, 4, 4 if n < 4 else 3, bias=False)) for n in range(1, 9)},
            "conv9": nn.Conv2d(4, 1, 3),
        }
    ),
    "basicsr-vgg": lambda: named(
        {
            "conv0_0": nn.Conv2d(3, 4, 3),
            "conv0_1": nn.Conv2d(4, 4, 4, bias=False),
            "bn0_1": nn.BatchNorm2d(4),
            "linear1": nn.Linear(64, 100),
            "linear2": nn.Linear(100, 1),
        }
    ),
    "stargan": lambda: named(
        {
            "main.0": nn.Conv2d(3, 4, 4),
            "main.2": nn.Conv2d(4, 8, 4),
            "conv1": nn.Conv2d(8, 1, 3, bias=False),
            "conv2": nn.Conv2d(8, 5, 2, bias=False),
        }
    ),
    "spectral": lambda: named(
        {"stem": spectral_norm(nn.Conv2d(3, 4, 3)), "end": spectral_norm(nn.Conv2d(4, 1, 4, bias=False))}
    ),
    "parametrized": lambda: named(
        {
            "stem": nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
            "end": nn.utils.parametrizations.spectral_norm(nn.Linear(4, 1)),
        }
    ),
    "fronted": lambda: fronted({"anything.weight": torch.ones(3, 3, 3, 3)}, "discriminator"),
}
each_discriminator = pytest.mark.parametrize("make", DISCRIMINATOR_STATES.values(), ids=DISCRIMINATOR_STATES)


@each_discriminator
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_discriminator_is_called_one(make: Callable[[], dict[str, Tensor]], tmp_path: Path) -> None:
    state = make()
    assert not [generator.id for generator in GENERATORS if generator.detect(state)]
    for content in (state, {"state_dict": state}, {f"module.{name}": tensor for name, tensor in state.items()}):
        text = refusal(tmp_path, content)
        assert text.startswith("this is a discriminator (")
        assert (
            "; training needs it, a generator does not: name the file of the generator, e.g. latest_net_G.pth" in text
        )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_each_kind_of_discriminator_fires_on_its_own_alone() -> None:
    named_by = {name: reason(make()) or "" for name, make in DISCRIMINATOR_STATES.items()}
    for kind in DISCRIMINATORS:
        found = [name for name, text in named_by.items() if f"({kind.title})" in text]
        assert found
        assert len(found) == 1 or set(found) in ({"pix2pix", "cyclegan"}, {"pix2pixhd", "spade"})


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.id)
def test_no_generator_is_called_something_else(case: Published) -> None:
    assert reason(state_of(case)) is None


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (
            {
                "features.0": nn.Conv2d(3, 64, 3),
                "features.2": nn.Conv2d(64, 64, 3),
                "classifier.6": nn.Linear(64, 1000),
            },
            "this is a VGG net, a classifier or what computes perceptual losses, which gives no picture",
        ),
        (
            {"conv1": nn.Conv2d(3, 8, 7), "layer1.0.conv1": nn.Conv2d(8, 8, 3), "fc": nn.Linear(8, 1000)},
            "its last layer fc.weight is a linear one with 1000 outputs, so it gives numbers and no picture",
        ),
        (
            {"backbone.conv1": nn.Conv2d(3, 8, 3), "bbox_head.conv": nn.Conv2d(8, 4, 1)},
            "this is a detector (it has a head of boxes), which gives no picture",
        ),
    ],
)
def test_other_nets_are_called_by_their_name(layers: dict[str, nn.Module], sentence: str, tmp_path: Path) -> None:
    assert sentence in refusal(tmp_path, named(layers))


def test_a_plain_sequence_of_convolutions_is_unknown_but_no_vgg() -> None:
    layers = {"0": nn.Conv2d(3, 64, 3), "2": nn.Conv2d(64, 64, 3), "4": nn.Conv2d(64, 12, 3)}
    with pytest.raises(CheckpointError, match=r"unknown architecture: 6 tensors .* --module FILE\.py:FUNCTION builds"):
        identify(named(layers))


@pytest.mark.parametrize("id", ["frvsr-bd-x4", "fsrcnn-x3", "edsr-x2", "msrresnet-x4", "mobile-rrn", "bicyclegan"])
def test_half_of_a_checkpoint_is_called_a_part(id: str) -> None:
    state = published(id).state()
    half = dict(list(state.items())[: len(state) // 2])
    with pytest.raises(CheckpointError) as error:
        identify(half)
    assert f"it may be a part of a checkpoint of {published(id).family} (is the file whole?)" in str(error.value)
    assert "known families" not in str(error.value)


def test_a_net_with_names_of_its_own_is_no_part() -> None:
    state = published("frvsr-bd-x4").state()
    half = {"stem.weight": torch.zeros(4, 3, 3, 3), **dict(list(state.items())[: len(state) // 2])}
    with pytest.raises(CheckpointError, match="known families"):
        identify(half)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vgg19_normalised/vgg_normalised_conv1_1.pth", "a VGG net"),
        ("vgg19_normalised/vgg_normalised_conv2_1.pth", "a VGG net"),
        ("vgg19_normalised/vgg_normalised_conv3_1.pth", "a VGG net"),
        ("mobilefacenet/mobilefacenet.pt", "MobileFaceNet, an embedder of faces"),
        ("yunet/yunet_n.pth", "a detector"),
    ],
)
def test_real_weights_that_are_no_generator(name: str, sentence: str, assets: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError) as error:
        load_generator(assets(f"weights/{name}"))
    assert sentence in str(error.value)


def test_every_other_real_checkpoint_loads(assets: Callable[[str], Path]) -> None:
    files = [path for path in assets("weights").rglob("*.p*") if path.suffix in (".pt", ".pth")]
    others = [path for path in files if path.parent.name not in ("vgg19_normalised", "mobilefacenet", "yunet")]
    assert len(others) >= 10
    for path in others:
        generator, _ = load_generator(path)
        assert generator.scale in (1, 2, 3, 4)
