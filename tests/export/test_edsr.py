from __future__ import annotations

import re
import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoint_factory import exported, frame, loaded, published
from nets_edsr import MEAN, AuthorsEdsr, BasicSrEdsr
from torch import Tensor, nn

from export.frame_io import FrameGraph, reference_output
from export.generators import identify
from export.generators.base import State
from export.generators.edsr import EDSR
from runtime.errors import CheckpointError, UsageError


def refusal(state: State) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    return str(error.value)


@pytest.mark.parametrize("id", ["edsr-weighted-x4", "edsr-basicsr-x2", "edsr-mmagic-x3"])
def test_onnx_gives_what_the_published_net_gives(id: str) -> None:
    model = exported(id).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    image = frame(13, 19, seed=4)
    result = session.run(None, {"frame": image[None]})[0][0]
    assert np.abs(result.astype(int) - reference_output(loaded(id), image)).max() <= 1
    assert result.std() > 5


@pytest.mark.parametrize("id", ["edsr-weighted-x4", "edsr-basicsr-x2"])
def test_nothing_but_the_mean_is_left_at_the_ends_of_the_graph(id: str) -> None:
    nodes = exported(id).graph.node
    kinds = [node.op_type for node in nodes]
    convolutions = kinds.count("Conv")
    assert convolutions == {"edsr-weighted-x4": 1 + 2 * 3 + 1 + 2 + 1, "edsr-basicsr-x2": 1 + 2 + 1 + 1 + 1}[id]
    assert kinds.index("Sub") < kinds.index("Conv")
    assert "Mul" not in kinds
    assert "Div" not in kinds


def test_the_mean_is_taken_off_before_the_frame_is_padded() -> None:
    """A frame of the mean colour is all zeros for the first convolution, padding included."""
    net = loaded("edsr-mmagic-x3").net
    seen: list[Tensor] = []
    net.get_submodule("conv_first").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(MEAN.view(1, 3, 1, 1).expand(1, 3, 5, 6))
    assert seen[0].abs().max() < 1e-6


# --- what the file does not say ---------------------------------------------------------------------------------------


def at_full_size(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Zeros in the published shapes; they take no memory."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in make().state_dict().items()}
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("make", "count", "scale", "facts"),
    [
        # the parameters of the two shifts, 24, are in the authors' files but not in their count
        (lambda: AuthorsEdsr(2, 64, 16), 1_369_859 + 24, 2, {"layout": "EDSR-PyTorch", "residual_scale": "1"}),
        (lambda: AuthorsEdsr(3, 64, 16), 1_554_499 + 24, 3, {"layout": "EDSR-PyTorch", "residual_scale": "1"}),
        (lambda: AuthorsEdsr(4, 64, 16), 1_517_571 + 24, 4, {"layout": "EDSR-PyTorch", "residual_scale": "1"}),
        (lambda: AuthorsEdsr(2, 256, 32), 40_729_603 + 24, 2, {"layout": "EDSR-PyTorch", "residual_scale": "0.1"}),
        (lambda: BasicSrEdsr(4, 64, 16), 1_517_571, 4, {"layout": "BasicSR", "residual_scale": "1"}),
        (lambda: BasicSrEdsr(4, 256, 32), 43_089_923, 4, {"layout": "BasicSR", "residual_scale": "0.1"}),
        (lambda: BasicSrEdsr(4, 64, 16, packed=True), 1_517_571, 4, {"layout": "mmagic", "residual_scale": "1"}),
    ],
    ids=["baseline-x2", "baseline-x3", "baseline-x4", "x2", "basicsr-m-x4", "basicsr-l-x4", "mmagic-x4"],
)
def test_published_configurations_are_read_at_full_size(
    make: Callable[[], nn.Module], count: int, scale: int, facts: dict[str, int | str]
) -> None:
    state = at_full_size(make)
    assert sum(tensor.numel() for tensor in state.values()) == count
    assert identify(state) is EDSR
    generator = EDSR.load(state)
    width = state[next(name for name in state if re.fullmatch(r"(head\.0|conv_first)\.weight", name))].shape[0]
    assert generator.scale == scale
    assert dict(generator.facts) == {**facts, "width": width, "blocks": 32 if width == 256 else 16}
    sentence = "weight residuals by 0.1" if width == 256 else "do not weight residuals"
    assert f"Nets of {width} channels {sentence}, as the authors train them" in generator.notes[0]


def test_the_option_changes_the_weight_of_the_residuals() -> None:
    state = published("edsr-x2").state()
    image = published("edsr-x2").pictures()
    plain, weighted = EDSR.load(state), EDSR.load(state, residual_scale="0.1")
    assert "Residuals are weighted by 0.1, as the option residual_scale says." in weighted.notes
    with torch.no_grad():
        assert (plain.net(image) - weighted.net(image)).abs().max() > 2


@pytest.mark.parametrize("text", ["a", "0", "-0.1", "nan", "inf", "0,1"])
def test_a_weight_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"residual_scale of edsr is a positive number such as 0.1, not {text}"):
        EDSR.load(published("edsr-x2").state(), residual_scale=text)


def test_the_range_comes_from_the_mean_in_the_file() -> None:
    assert loaded("edsr-x2").input_range == (0.0, 255.0)
    assert loaded("edsr-unit-x3").input_range == (0.0, 1.0)
    assert "RGB 0..1, by the mean that the file takes off." in loaded("edsr-unit-x3").notes
    assert "RGB 0..255, by the mean that the file takes off." in loaded("edsr-x2").notes


def test_shifts_that_mix_colours_are_kept() -> None:
    """Nobody publishes such a file, but a net that divides by a deviation has one."""
    state = published("edsr-x2").state()
    state["sub_mean.weight"] = torch.tensor([[0.5, 0.1, 0], [0, 0.6, 0], [0, 0, 0.7]]).view(3, 3, 1, 1)
    generator = EDSR.load(state)
    assert generator.folded() is None
    image = frame(12, 14)
    with torch.no_grad():
        found = FrameGraph(generator)(torch.from_numpy(image[None]))[0].numpy()
    assert np.abs(found.astype(int) - reference_output(generator, image)).max() <= 1
    assert np.abs(found.astype(int) - reference_output(loaded("edsr-x2"), image)).max() > 1


# --- files that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "name"),
    [
        ("edsr-x2", "body.1.body.2.bias"),
        ("edsr-x2", "body.2.weight"),
        ("edsr-weighted-x4", "tail.0.2.bias"),
        ("edsr-x2", "add_mean.weight"),
        ("edsr-basicsr-x4", "upsample.2.bias"),
        ("edsr-mmagic-x4", "upsample.1.upsample_conv.bias"),
    ],
)
def test_wrong_shape_is_refused_by_its_name_in_the_file(id: str, name: str) -> None:
    state = published(id).state()
    message = refusal({**state, name: torch.zeros(7)})
    assert f"{name} is [7] instead of {list(state[name].shape)}" in message


def test_mdsr_is_not_taken_for_edsr() -> None:
    """The authors' net for three scales at once shares the head and the body."""
    state = {name: tensor for name, tensor in published("edsr-x2").state().items() if not name.startswith("tail")}
    state |= {"tail.0.weight": torch.zeros(3, 6, 3, 3), "upsample.0.0.weight": torch.zeros(24, 6, 3, 3)}
    assert "the nearest family is edsr " in refusal(state)


def test_a_net_that_does_not_enlarge_is_refused() -> None:
    state = {name: t for name, t in published("edsr-basicsr-x4").state().items() if "upsample" not in name}
    assert "looks like edsr, but no upsampling layer was found" in refusal(state)


@pytest.mark.parametrize(
    ("id", "far"), [("edsr-x2", "body.1000000000.body.0.weight"), ("edsr-mmagic-x4", "body.1000000000.conv1.weight")]
)
def test_a_layer_numbered_a_billion_is_refused_at_once(id: str, far: str) -> None:
    started = time.monotonic()
    assert "numbers a layer 1000000000" in refusal({**published(id).state(), far: torch.zeros(3, 3, 3, 3)})
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("id", "first", "step"), [("edsr-x2", "head.0", "tail.0.0"), ("edsr-basicsr-x2", "conv_first", "upsample.0")]
)
def test_a_huge_width_takes_no_memory_before_it_is_refused(id: str, first: str, step: str) -> None:
    state = published(id).state() | {f"{first}.weight": torch.zeros(300_000, 3, 1, 1)}
    state |= {f"{step}.weight": torch.zeros(1, 1, 1, 1).expand(1_200_000, 1, 1, 1)}
    assert f"{first}.weight is [300000, 3, 1, 1] instead of [300000, 3, 3, 3]" in refusal(state)
