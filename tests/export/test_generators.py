from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from checkpoint_factory import (
    PUBLISHED,
    LeftthomasSrgan,
    Published,
    Srvgg,
    loaded,
    pictures,
    published,
    saved,
    write_checkpoint,
)
from torch import Tensor

from export.frame_io import reference_output
from export.generators import GENERATORS, identify, load_generator
from export.generators.base import State
from export.shipped import Shipped, shipped_weights
from runtime.errors import CheckpointError
from runtime.metrics import psnr

each_published = pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.id)


def refusal(state: State) -> str:
    """What the user reads where ``state`` fits no family."""
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    assert "\n" not in str(error.value)
    return str(error.value)


@each_published
def test_only_its_own_detector_fires(case: Published) -> None:
    state = case.state()
    assert [generator.id for generator in GENERATORS if generator.detect(state)] == [case.family]


@each_published
def test_hyper_parameters_come_from_the_shapes(case: Published) -> None:
    generator = loaded(case.id)
    assert (generator.family, generator.scale) == (case.family, case.scale)
    assert dict(generator.facts) == case.facts


@each_published
def test_loaded_net_computes_what_the_published_one_does(case: Published) -> None:
    image = pictures(2)
    wanted = case.net()(image)
    assert wanted.std() > 0.02  # neither black nor white: the comparison can fail
    assert wanted.shape == (2, 3, 24 * case.scale, 32 * case.scale)
    found = loaded(case.id).net(image)
    # what lies outside 0..1 is clipped by Lornatang's net itself, by ours in the frame graph
    torch.testing.assert_close(found.clamp(0, 1), wanted.clamp(0, 1), atol=2e-6, rtol=1e-5)


@each_published
def test_every_tensor_of_the_file_is_used_once(case: Published, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "net.pth", case.id)
    generator, checkpoint = load_generator(path)

    def prints(state: State) -> list[tuple[tuple[int, ...], float]]:
        return sorted((tuple(tensor.shape), float(tensor.double().sum())) for tensor in state.values())

    assert prints(generator.net.state_dict()) == prints(checkpoint.state)


@pytest.mark.parametrize("id", ["compact-x2", "srvgg-x4"])
def test_state_dict_of_the_loaded_net_loads_again(id: str) -> None:
    first = loaded(id).net.state_dict()
    again = identify(first).load(first).net.state_dict()
    assert list(again) == list(first)
    assert all(torch.equal(again[name], first[name]) for name in first)


@each_published
def test_loaded_net_is_ready_for_inference_only(case: Published) -> None:
    net = loaded(case.id).net
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(tensor.device.type == "cpu" for tensor in net.state_dict().values())


@each_published
def test_folded_net_takes_and_gives_bgr_0_to_255(case: Published) -> None:
    generator = loaded(case.id)
    folded = generator.folded()
    assert folded is not None
    image = pictures(2, seed=3)
    wanted = generator.net(image).flip(1) * 255
    torch.testing.assert_close(folded(image.flip(1) * 255), wanted, atol=2e-3, rtol=1e-5)


@each_published
def test_folding_leaves_the_published_net_alone(case: Published) -> None:
    generator = loaded(case.id)
    before = generator.net(pictures())
    generator.folded()
    assert torch.equal(generator.net(pictures()), before)


def test_folding_removes_the_batch_norms() -> None:
    folded = loaded("srgan-lornatang-x4").folded()
    assert folded is not None
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())


# --- files that do not fit --------------------------------------------------------------------------------------------


@each_published
def test_each_missing_tensor_is_refused_by_its_name_in_the_file(case: Published) -> None:
    state = case.state()
    for missing in state:
        rest = {name: tensor for name, tensor in state.items() if name != missing}
        if missing.endswith("num_batches_tracked"):  # a counter that only training needs
            identify(rest).load(rest)
            continue
        message = refusal(rest)
        # without these, the file looks like a net of another depth or family, so another sentence is right
        structural = missing.endswith((".conv.weight", "upsample_block.0.weight", "conv1.weight", "rcb.0.weight"))
        first_or_last = missing in (
            "convs.0.weight", "convs.1.weight", "convs.2.weight", "body.0.weight", "body.1.weight", "body.2.weight",
            "body.4.weight", "body.6.weight", "block1.0.weight", "conv1.0.weight",
        )  # fmt: skip
        if not structural and not first_or_last:
            assert f"it lacks {missing}" in message


@each_published
def test_extra_tensor_is_refused_by_name(case: Published) -> None:
    state = {**case.state(), "discriminator.0.weight": torch.zeros(3)}
    assert "it has discriminator.0.weight, which the family does not know" in refusal(state)


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("compact-x2", "convs.1.bias"),
        ("srvgg-x4", "body.3.weight"),
        ("srgan-leftthomas-x4", "block2.bn1.running_var"),
        ("srgan-leftthomas-x4", "block5.2.bias"),
        ("srgan-lornatang-x4", "trunk.1.rcb.2.weight"),
        ("srgan-lornatang-x4", "upsampling.1.upsample_block.2.weight"),
    ],
)
def test_wrong_shape_is_refused_by_name_with_both_shapes(id: str, name: str) -> None:
    state = published(id).state()
    shape = list(state[name].shape)
    assert f"{name} is [7] instead of {shape}" in refusal({**state, name: torch.zeros(7)})


def test_many_complaints_are_shortened() -> None:
    state = {**published("compact-x2").state(), **{f"surplus.{index}": torch.zeros(1) for index in range(40)}}
    message = refusal(state)
    assert "it has surplus.0, surplus.1, surplus.2 and 37 more, which" in message


def test_pixel_shuffle_that_fits_no_scale_is_explained() -> None:
    state = published("compact-x2").state()
    state |= {"convs.2.weight": torch.zeros(13, 8, 3, 3), "convs.2.bias": torch.zeros(13)}
    assert "last convolution gives 13 channels, which is not 3 times a square" in refusal(state)


def test_srvgg_without_prelu_is_refused_since_its_activation_is_unknown() -> None:
    state = {name: tensor for name, tensor in published("srvgg-x4").state().items() if tensor.ndim != 1}
    assert "its activation (ReLU or LeakyReLU) is not in the file" in refusal(state)


def test_srgan_without_upsampling_is_refused() -> None:
    state = {name: t for name, t in published("srgan-lornatang-x4").state().items() if "upsampling" not in name}
    assert "no upsampling layer was found" in refusal(state)


@pytest.mark.parametrize(
    ("names", "nearest"),
    [
        (("convs.3.weight", "convs.3.bias"), "compact"),
        (("body.7.weight", "body.9.bias"), "srvgg"),
        (("block3.conv1.weight", "block3.bn1.weight", "block3.prelu.weight", "stem.weight"), "srgan"),
        (("trunk.0.rcb.1.weight", "trunk.0.rcb.1.running_mean", "head.weight"), "srgan"),
    ],
)
def test_unknown_architecture_names_what_was_seen_and_the_nearest_family(names: tuple[str, ...], nearest: str) -> None:
    state = {name: torch.zeros(5, 2) for name in names}
    message = refusal(state)
    assert f"unknown architecture: {len(names)} tensors such as {names[0]} [5, 2]" in message
    assert names[-1] in message
    assert f"the nearest family is {nearest} " in message
    assert "known families: compact, srvgg, srgan" in message


@pytest.mark.parametrize(
    "shapes",
    [
        {"convs.0.weight": (0, 3, 3, 3), "convs.1.weight": (4, 4, 3, 3)},
        {"convs.0.weight": (4, 3, 3, 3), "convs.1.weight": (4, 4, 3, 3), "convs.2.weight": ()},
        {"body.0.weight": (4, 3, 3, 3), "body.1.weight": (4,), "body.2.weight": (1, 1, 1, 1)},
        {"block1.0.weight": (0, 3, 9, 9), "block2.conv1.weight": (4, 4, 3, 3)},
        {"block1.0.weight": (4, 3, 9, 9), "block2.conv1.weight": (4, 4, 3, 3), "block4.0.conv.weight": ()},
        {
            "conv1.0.weight": (4, 3, 9, 9),
            "trunk.0.rcb.0.weight": (4, 4, 3, 3),
            "upsampling.5.upsample_block.0.weight": (16, 1),
        },
    ],
)
def test_odd_shapes_are_refused_in_words(shapes: dict[str, tuple[int, ...]]) -> None:
    assert refusal({name: torch.zeros(shape) for name, shape in shapes.items()})


@pytest.mark.parametrize("id", ["compact-x2", "srvgg-x4", "srgan-leftthomas-x4", "srgan-lornatang-x4"])
def test_a_layer_numbered_a_billion_is_refused_before_a_billion_layers_are_built(id: str) -> None:
    far = {
        "compact-x2": "convs.1000000000.weight",
        "srvgg-x4": "body.1000000000.weight",
        "srgan-leftthomas-x4": "block1000000000.conv1.weight",
        "srgan-lornatang-x4": "trunk.1000000000.rcb.0.weight",
    }[id]
    started = time.monotonic()
    assert "numbers a layer 1000000000" in refusal({**published(id).state(), far: torch.zeros(4, 4, 3, 3)})
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("id", "first", "hidden"),
    [
        ("compact-x2", "convs.0.weight", "convs.1.weight"),
        ("srvgg-x4", "body.0.weight", "body.2.weight"),
        ("srgan-leftthomas-x4", "block1.0.weight", "block2.conv1.weight"),
        ("srgan-lornatang-x4", "conv1.0.weight", "trunk.0.rcb.0.weight"),
    ],
)
def test_a_huge_width_takes_no_memory_before_it_is_refused(id: str, first: str, hidden: str) -> None:
    wide = 300_000  # a hidden layer would have 300,000² x 9 weights, 3 terabytes
    state = published(id).state()
    state |= {first: torch.zeros(wide, 3, 1, 1), hidden: torch.zeros(wide, 4, 1, 1)}
    if id.startswith("srgan"):
        for name in [
            name for name in state if name.endswith(("upsample_block.0.weight", "0.conv.weight", "1.conv.weight"))
        ]:
            state[name] = torch.zeros(4 * wide, 1, 1, 1)
    assert f"{first} is [300000, 3, 1, 1] instead of [300000, 3, " in refusal(state)


def test_message_begins_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(saved({"stem.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"odd\.pth: unknown architecture: 1 tensors such as stem\.weight \[2\]"):
        load_generator(path)


# --- real weights -----------------------------------------------------------------------------------------------------


def load_reference(net: torch.nn.Module, state: State) -> torch.nn.Module:
    """Real weights in the net of the tests; strictly, so the names above are the public ones."""
    outcome = net.load_state_dict(dict(state), strict=False)
    assert not outcome.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in outcome.missing_keys)
    return net.eval()


def real_picture(path: Path, side: int = 96) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return np.ascontiguousarray(image[60 : 60 + side, 90 : 90 + side])


def shrunk(frame: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic with antialiasing, the downscaling that super-resolution nets are trained and measured with."""
    size = (frame.shape[0] // scale, frame.shape[1] // scale)
    small = torch.nn.functional.interpolate(as_input(frame), size, mode="bicubic", antialias=True)[0]
    return np.ascontiguousarray(np.rint(small.clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)[..., ::-1])


def as_input(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame[..., ::-1])).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("scale", [2, 4])
def test_real_srgan_of_leftthomas(scale: int, assets: Callable[[str], Path]) -> None:
    generator, checkpoint = load_generator(assets(f"weights/srgan_leftthomas/netG_epoch_{scale}_100.pth"))
    assert (generator.family, generator.scale) == ("srgan", scale)
    assert dict(generator.facts) == {"layout": "leftthomas", "width": 64, "depth": 5}
    factors = (2,) * (scale // 2)
    reference = load_reference(LeftthomasSrgan(factors, 64, 5, middle_norm=False), checkpoint.state)
    large = real_picture(assets("images/set5/butterfly.bmp"))
    small = shrunk(large, scale)
    image = as_input(small)
    with torch.no_grad():
        torch.testing.assert_close(generator.net(image), reference(image), atol=1e-5, rtol=1e-4)
    # Set5 at x2 is 1.5 dB above bicubic; a wrong colour order or range would be far below it
    bicubic = cv2.resize(small, (96, 96), interpolation=cv2.INTER_CUBIC)
    assert psnr(large, reference_output(generator, small)) > psnr(large, bicubic)


def test_real_animevideov3(assets: Callable[[str], Path]) -> None:
    path = assets("weights/realesr_animevideov3/realesr-animevideov3.pth")
    generator, checkpoint = load_generator(path)
    assert (generator.family, generator.scale, checkpoint.wrapper) == ("srvgg", 4, "params")
    assert dict(generator.facts) == {"width": 64, "depth": 16}
    assert sum(parameter.numel() for parameter in generator.net.parameters()) == 621_424
    reference = load_reference(Srvgg(4, 64, 16), checkpoint.state)
    image = as_input(real_picture(assets("images/set5/butterfly.bmp"), 24))
    with torch.no_grad():
        torch.testing.assert_close(generator.net(image), reference(image), atol=1e-5, rtol=1e-4)


each_shipped = pytest.mark.parametrize("shipped", shipped_weights(), ids=lambda shipped: shipped.name)


@each_shipped
def test_shipped_weights_load_and_fold(shipped: Shipped) -> None:
    generator, _ = load_generator(shipped.path)
    assert generator.family == "compact"
    assert shipped.name.startswith(f"sr-x{generator.scale}")
    folded = generator.folded()
    assert folded is not None
    image = pictures(1, seed=2)
    torch.testing.assert_close(folded(image.flip(1) * 255), generator.net(image).flip(1) * 255, atol=5e-3, rtol=1e-4)


@each_shipped
def test_shipped_weights_beat_bicubic(shipped: Shipped, assets: Callable[[str], Path]) -> None:
    generator, _ = load_generator(shipped.path)
    scale = generator.scale
    large = real_picture(assets("images/set5/butterfly.bmp"))
    small = shrunk(large, scale)
    bicubic = cv2.resize(small, (96, 96), interpolation=cv2.INTER_CUBIC)
    assert psnr(large, reference_output(generator, small)) > psnr(large, bicubic)


@pytest.mark.parametrize(
    "name",
    [
        "span_x4/team00_SPAN.pth",
        "fsrcnn/fsrcnn_x2.pth",
        "fast_style_nc8/candy_nc8.pth",
        "cyclegan_horse2zebra/latest_net_G.pth",
        "vgg19_normalised/vgg_normalised_conv1_1.pth",
    ],
)
def test_real_weights_of_other_nets_are_not_mistaken_for_a_known_family(
    name: str, assets: Callable[[str], Path]
) -> None:
    with pytest.raises(CheckpointError, match=r"unknown architecture: \d+ tensors such as "):
        load_generator(assets(f"weights/{name}"))
