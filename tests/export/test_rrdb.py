from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoint_factory import exported, frame, loaded, published
from nets_rrdb import Esrgan, OldEsrgan, RealEsrgan
from torch import Tensor, nn

from export.frame_io import FrameGraph, measured_halo, reference_output
from export.generators import check_options, identify
from export.generators.base import State
from export.generators.rrdb import RRDB
from runtime.errors import CheckpointError, UsageError
from runtime.frames import Frame, SizeRule


def refusal(state: State) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    return str(error.value)


def through_onnx(model: onnx.ModelProto, images: Frame) -> Frame:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"frame": images})[0]


# --- graph ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "height", "width"),
    [("rrdb-x2", 14, 22), ("rrdb-x1", 24, 20), ("rrdb-bsrgan-x2", 7, 9)],
)
def test_onnx_gives_what_the_published_net_gives(id: str, height: int, width: int) -> None:
    """With pixel unshuffling this fails by far where its channels are in another order."""
    images = np.stack([frame(height, width, seed) for seed in (1, 2)])
    found = through_onnx(exported(id), images)
    for image, result in zip(images, found, strict=True):
        steps = np.abs(result.astype(int) - reference_output(loaded(id), image))
        assert steps.max() <= 1
        assert result.std() > 5


def test_unshuffling_becomes_a_stride_of_the_first_convolution() -> None:
    nodes = exported("rrdb-x2").graph.node
    assert "SpaceToDepth" not in {node.op_type for node in nodes}
    first = next(node for node in nodes if node.op_type == "Conv")
    given = {attribute.name: list(attribute.ints) for attribute in first.attribute if attribute.ints}
    assert (given["kernel_shape"], given["strides"], given["pads"]) == ([6, 6], [2, 2], [2, 2, 2, 2])


@pytest.mark.parametrize("id", ["rrdb-x2", "rrdb-x1"])
def test_the_order_of_unshuffled_channels_matters(id: str) -> None:
    """So that the comparisons above can fail."""
    state = published(id).state()
    image = published(id).pictures()
    cell = {"rrdb-x2": 2, "rrdb-x1": 4}[id]
    first = state["conv_first.weight"]
    turned = first.reshape(-1, 3, cell, cell, 3, 3).transpose(2, 3).reshape(first.shape)
    with torch.no_grad():
        right, wrong = (
            identify(state).load({**state, "conv_first.weight": each}).net(image) for each in (first, turned)
        )
    assert (right - wrong).abs().max() > 0.02


@pytest.mark.parametrize(("id", "multiple"), [("rrdb-x4", 1), ("rrdb-x2", 2), ("rrdb-x1", 4), ("rrdb-first-x1", 1)])
def test_frames_are_padded_to_whole_squares(id: str, multiple: int) -> None:
    assert loaded(id).size_rule == SizeRule(multiple=multiple)


def test_weighting_of_inner_residuals_moves_into_their_last_convolutions() -> None:
    net = loaded("rrdb-x4").folded()
    assert net is not None
    weights = net.get_parameter("body.1.rdb2.conv5.weight")
    torch.testing.assert_close(weights, published("rrdb-x4").state()["body.1.rdb2.conv5.weight"] * 0.2)


def test_halo_is_far_below_the_theoretical_field() -> None:
    """30 convolutions and the enlarged end can reach 33 pixels; with weights as training begins hardly any do."""
    net = RealEsrgan(4, 8, 2, 4)
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            module.weight.data *= 0.1
    state = net.state_dict()
    graph = FrameGraph(identify(state).load(state))
    assert 1 <= measured_halo(graph, 1, 1, 4) <= 12


@torch.no_grad()
def test_a_piece_with_its_halo_is_computed_as_in_the_whole_frame() -> None:
    graph = FrameGraph(loaded("rrdb-x2"))
    halo = measured_halo(graph, 1, 2, 2)
    cut = 10
    whole = torch.from_numpy(frame(24, 2 * halo + 40)[None])
    large, piece = (graph(each).int() for each in (whole, whole[:, :, cut:].contiguous()))
    steps = (piece - large[:, :, 2 * cut :]).abs()
    assert steps[:, :, 2 * halo :].max() <= 1
    assert steps[:, :, : 2 * halo].max() > 1  # so the halo is needed


# --- the published configurations -------------------------------------------------------------------------------------


def at_full_size(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Zeros in the published shapes; they take no memory."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("make", "count", "scale", "facts"),
    [
        (lambda: RealEsrgan(4, 64, 23, 32), 16_697_987, 4, {"layout": "BasicSR", "blocks": 23}),
        (lambda: RealEsrgan(2, 64, 23, 32), 16_703_171, 2, {"layout": "BasicSR", "blocks": 23, "unshuffle": 2}),
        (lambda: RealEsrgan(4, 64, 6, 32), 4_467_779, 4, {"layout": "BasicSR", "blocks": 6}),
        (lambda: Esrgan(4, 64, 23, 32), 16_697_987, 4, {"layout": "ESRGAN", "blocks": 23}),
        (lambda: Esrgan(2, 64, 23, 32), 16_661_059, 2, {"layout": "ESRGAN", "blocks": 23}),
        (lambda: OldEsrgan((2, 2), 64, 23, 32), 16_697_987, 4, {"layout": "first release", "blocks": 23}),
    ],
    ids=["x4plus", "x2plus", "anime-6b", "esrgan", "bsrgan-x2", "first-release"],
)
def test_published_configurations_are_read_at_full_size(
    make: Callable[[], nn.Module], count: int, scale: int, facts: dict[str, int | str]
) -> None:
    state = at_full_size(make)
    assert sum(tensor.numel() for tensor in state.values()) == count
    assert identify(state) is RRDB
    generator = RRDB.load(state)
    assert generator.scale == scale
    assert dict(generator.facts) == {**facts, "width": 64, "growth": 32}


# --- options, and files that do not fit -------------------------------------------------------------------------------


def test_one_step_of_the_first_release_is_twice_or_three_times() -> None:
    state = published("rrdb-first-x3").state()
    twice, thrice = RRDB.load(state), RRDB.load(state, factor="3")
    assert (twice.scale, thrice.scale) == (2, 3)
    assert "names and shapes are the same at x2 and x3" in twice.notes[0]
    assert twice.notes[0].startswith("Upsampling is by 2")
    assert not loaded("rrdb-first-x4").notes
    check_options(RRDB, {"factor": "3"})
    with pytest.raises(UsageError, match="the option factor of rrdb is one of 2, 3, not 4"):
        check_options(RRDB, {"factor": "4"})


@pytest.mark.parametrize("id", ["rrdb-x4", "rrdb-bsrgan-x2", "rrdb-first-x4"])
def test_the_option_is_refused_where_the_file_says_the_scale(id: str) -> None:
    with pytest.raises(UsageError, match="the option factor of rrdb is for files of ESRGAN's first release"):
        RRDB.load(published(id).state(), factor="3")


def without(state: State, part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if part not in name}


def test_input_channels_that_fit_no_unshuffling_are_refused() -> None:
    state = published("rrdb-x4").state()
    assert "it takes 4 channels, not 3, 12 or 48" in refusal({**state, "conv_first.weight": torch.zeros(6, 4, 3, 3)})
    assert "it takes 27 channels, not" in refusal({**state, "conv_first.weight": torch.zeros(6, 27, 3, 3)})
    first = published("rrdb-first-x1").state()
    assert "it makes frames 2 times smaller and only 1 times larger" in refusal(
        {**first, "model.0.weight": torch.zeros(4, 12, 3, 3)}
    )


def test_grey_and_pixel_shuffling_nets_are_refused_by_name() -> None:
    state = published("rrdb-x4").state()
    message = refusal({**state, "conv_last.weight": torch.zeros(1, 6, 3, 3)})
    assert "conv_last.weight is [1, 6, 3, 3] instead of [3, 6, 3, 3]" in message
    shuffled = without(published("rrdb-first-x4").state(), "model.10.")
    assert "its last layer is model.8 and not model.4, 7, 10 or 13" in refusal(shuffled)


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("rrdb-x4", "body.1.rdb3.conv4.bias"),
        ("rrdb-esrgan-x4", "RRDB_trunk.1.RDB2.conv5.weight"),
        ("rrdb-first-x4", "model.1.sub.1.RDB3.conv2.0.weight"),
        ("rrdb-first-x4", "model.1.sub.2.weight"),
        ("rrdb-first-x8", "model.9.bias"),
    ],
)
def test_wrong_shape_is_refused_by_its_name_in_the_file(id: str, name: str) -> None:
    state = published(id).state()
    message = refusal({**state, name: torch.zeros(7)})
    assert f"{name} is [7] instead of {list(state[name].shape)}" in message


@pytest.mark.parametrize(
    ("id", "far"),
    [
        ("rrdb-x4", "body.1000000000.rdb1.conv1.weight"),
        ("rrdb-esrgan-x4", "RRDB_trunk.1000000000.RDB1.conv1.weight"),
        ("rrdb-first-x4", "model.1.sub.1000000000.RDB1.conv1.0.weight"),
        ("rrdb-first-x4", "model.1000000000.weight"),
    ],
)
def test_a_layer_numbered_a_billion_is_refused_at_once(id: str, far: str) -> None:
    started = time.monotonic()
    assert "numbers a layer 1000000000" in refusal({**published(id).state(), far: torch.zeros(3, 3, 3, 3)})
    assert time.monotonic() - started < 2


def test_a_huge_width_takes_no_memory_before_it_is_refused() -> None:
    state = published("rrdb-x4").state()
    state |= {"conv_first.weight": torch.zeros(300_000, 3, 1, 1)}
    assert "conv_first.weight is [300000, 3, 1, 1] instead of [300000, 3, 3, 3]" in refusal(state)


@pytest.mark.parametrize("shape", [(), (0, 3, 3, 3), (4,), (4, 3, 3, 1)])
def test_odd_shapes_of_the_first_convolution_are_another_family(shape: tuple[int, ...]) -> None:
    assert "the nearest family is rrdb " in refusal(
        {**published("rrdb-x4").state(), "conv_first.weight": torch.zeros(shape)}
    )


def test_activations_are_leaky_everywhere() -> None:
    """Constant pictures through weights that make every feature negative: only the slope lets anything through."""
    net = loaded("rrdb-x4").net
    with torch.no_grad():
        for bias in (net.get_parameter("conv_hr.bias"), net.get_parameter("conv_up2.bias")):
            bias.fill_(-50.0)
        low, high = (net(torch.full((1, 3, 8, 8), value)) for value in (0.2, 0.8))
    assert (low - high).abs().max() > 1e-3
