from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoint_factory import exported, frame, loaded, published
from nets_msrresnet import BasicSrResNet, MmagicResNet
from torch import nn

from export.frame_io import reference_output
from export.generators import identify
from export.generators.base import State
from export.generators.msrresnet import MSRRESNET
from runtime.errors import CheckpointError


def refusal(state: State) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    return str(error.value)


@pytest.mark.parametrize("id", ["msrresnet-x3", "msrresnet-mmagic-x4"])
def test_onnx_gives_what_the_published_net_gives(id: str) -> None:
    model = exported(id).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    image = frame(13, 19, seed=4)
    result = session.run(None, {"frame": image[None]})[0][0]
    assert np.abs(result.astype(int) - reference_output(loaded(id), image)).max() <= 1
    assert result.std() > 5


@pytest.mark.parametrize(
    ("make", "count", "scale", "layout"),
    [
        (lambda: BasicSrResNet(4, 64, 16), 1_517_571, 4, "BasicSR"),
        (lambda: BasicSrResNet(3, 64, 16), 1_554_499, 3, "BasicSR"),
        (lambda: BasicSrResNet(4, 64, 16, kair=True), 1_517_571, 4, "KAIR"),
        (lambda: MmagicResNet((2, 2), 64, 16), 1_517_571, 4, "mmagic"),
    ],
    ids=["basicsr-x4", "basicsr-x3", "kair-x4", "mmagic-x4"],
)
def test_published_configurations_are_read_at_full_size(
    make: Callable[[], nn.Module], count: int, scale: int, layout: str
) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    assert sum(tensor.numel() for tensor in state.values()) == count
    assert identify(state) is MSRRESNET
    generator = MSRRESNET.load(state)
    assert generator.scale == scale
    assert dict(generator.facts) == {"layout": layout, "width": 64, "blocks": 16}


def test_what_is_added_is_the_enlarged_picture() -> None:
    state = published("msrresnet-x4").state()
    silent = state | {name: torch.zeros_like(tensor) for name, tensor in state.items() if "conv_last" in name}
    image = published("msrresnet-x4").pictures()
    wanted = nn.functional.interpolate(image, scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(MSRRESNET.load(silent).net(image), wanted)


def test_mmagic_has_no_activation_behind_its_pixel_shuffles() -> None:
    """The same weights in both layouts are two different nets."""
    state = published("msrresnet-mmagic-x4").state()
    other = {
        name.replace("trunk_net", "body").replace("upsample", "upconv", 1).replace(".upsample_conv", ""): tensor
        for name, tensor in state.items()
    }
    image = published("msrresnet-mmagic-x4").pictures()
    plain, activated = identify(state).load(state), identify(other).load(other)
    assert (plain.facts["layout"], activated.facts["layout"]) == ("mmagic", "BasicSR")
    assert (plain.net(image) - activated.net(image)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("msrresnet-x4", "upconv2.bias"),
        ("msrresnet-kair-x2", "recon_trunk.1.conv2.weight"),
        ("msrresnet-kair-x2", "HRconv.bias"),
        ("msrresnet-mmagic-x4", "upsample2.upsample_conv.bias"),
    ],
)
def test_wrong_shape_is_refused_by_its_name_in_the_file(id: str, name: str) -> None:
    state = published(id).state()
    message = refusal({**state, name: torch.zeros(7)})
    assert f"{name} is [7] instead of {list(state[name].shape)}" in message


def test_channels_that_fit_no_pixel_shuffle_are_refused() -> None:
    state = published("msrresnet-x4").state()
    assert "upconv2.weight gives 25 channels, which is not 6 times a square" in refusal(
        {**state, "upconv2.weight": torch.zeros(25, 6, 3, 3)}
    )
    assert "upconv1.weight gives 6 channels" in refusal({**state, "upconv1.weight": torch.zeros(6, 6, 3, 3)})


@pytest.mark.parametrize(
    ("id", "far"),
    [
        ("msrresnet-x4", "body.1000000000.conv1.weight"),
        ("msrresnet-kair-x2", "recon_trunk.1000000000.conv1.weight"),
        ("msrresnet-mmagic-x4", "trunk_net.1000000000.conv1.weight"),
    ],
)
def test_a_layer_numbered_a_billion_is_refused_at_once(id: str, far: str) -> None:
    started = time.monotonic()
    assert "numbers a layer 1000000000" in refusal({**published(id).state(), far: torch.zeros(3, 3, 3, 3)})
    assert time.monotonic() - started < 2


def test_a_huge_width_takes_no_memory_before_it_is_refused() -> None:
    state = published("msrresnet-x3").state() | {"conv_first.weight": torch.zeros(300_000, 3, 1, 1)}
    state |= {"upconv1.weight": torch.zeros(1, 1, 1, 1).expand(2_700_000, 1, 1, 1)}
    assert "conv_first.weight is [300000, 3, 1, 1] instead of [300000, 3, 3, 3]" in refusal(state)
