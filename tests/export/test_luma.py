from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoint_factory import exported, loaded, published, write_checkpoint
from nets_luma import Fsrcnn, bicubic
from published import frames, pictures
from torch import Tensor, nn

from export.cli import run as cli
from export.frame_io import FrameGraph, measured_halo, reference_output
from export.generators import identify, load_generator
from export.generators.base import LoadedGenerator, State
from export.generators.fsrcnn import FSRCNN
from export.generators.luma import (
    LumaGenerator,
    LumaNet,
    as_convolution,
    bicubic_kernels,
    enlarged,
    loaded_luma,
    ycbcr_from_rgb,
)
from export.onnx_graph import graph_from_generator
from export.variants import fp16_from_graph
from recipes.evaluation import score_folder
from runtime.errors import CheckpointError, UsageError
from runtime.frames import Frame, Frames

LUMA = ("fsrcnn-x2", "fsrcnn-x3", "fsrcnn-x4", "espcn-x2", "espcn-x3", "srcnn-x2", "srcnn-x3")
GRAPHS = ("fsrcnn-x2", "fsrcnn-x3", "espcn-x3", "srcnn-x2")  # exporting takes seconds


class Repeated(LumaNet):
    """Gives every pixel's luma ``scale²`` times: a net that changes nothing, in the form of one that was trained."""

    last = "conv"

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(1, scale**2, 1).requires_grad_(False)
        self.conv.weight.fill_(1)
        self.conv.bias.zero_()

    def forward(self, luma: Tensor) -> Tensor:
        return torch.pixel_shuffle(self.conv(luma), self.scale)


def repeated(scale: int, *, after: bool = False) -> LoadedGenerator:
    return loaded_luma("test", Repeated(1 if after else scale), scale, {}, after=after)


def through_graph(generator: LoadedGenerator, images: Frames) -> Frames:
    with torch.no_grad():
        return FrameGraph(generator)(torch.from_numpy(images)).numpy()


def run(model: onnx.ModelProto, images: Frames) -> Frames:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"frame": images})[0]


def all_colours() -> Frame:
    """Flat patches of 8x8 pixels of 6³ colours, from edge to edge of the cube."""
    levels = np.array([0, 51, 102, 153, 204, 255], np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(12, 18, 3)
    return np.ascontiguousarray(cube.repeat(8, 0).repeat(8, 1))


# --- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [False, True])
def test_colours_come_back_where_the_net_changes_nothing(scale: int, after: bool) -> None:
    generator, image = repeated(scale, after=after), all_colours()
    wanted = image.repeat(scale, 0).repeat(scale, 1)
    inner = (slice(3 * scale, 5 * scale), slice(3 * scale, 5 * scale))  # of a patch: the filter is 5 pixels wide
    for found in (reference_output(generator, image), through_graph(generator, image[None])[0]):
        off = np.abs(found.astype(int) - wanted).reshape(12, 8 * scale, 18, 8 * scale, 3).swapaxes(1, 2)
        assert off[:, :, inner[0], inner[1]].max() <= 1


@pytest.mark.parametrize("id", LUMA)
def test_grey_stays_grey(id: str) -> None:
    image = torch.from_numpy(frames(2)[..., 1:2]).expand(-1, -1, -1, 3)
    with torch.no_grad():
        values = FrameGraph(loaded(id)).values(image)
    assert values.std() > 5
    assert (values.amax(1) - values.amin(1)).max() < 1e-3


def test_luma_and_chroma_are_those_of_bt601() -> None:
    """The corners as ITU-R BT.601 has them, to the next whole number: black, white, red, green, blue."""
    matrix, offset = ycbcr_from_rgb()
    corners = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    found = ((corners @ matrix.T + offset) * 255).round().int().tolist()
    assert found == [[16, 128, 128], [235, 128, 128], [81, 90, 240], [145, 54, 34], [41, 240, 110]]


def test_net_gets_luma_in_its_limited_range() -> None:
    seen: list[Tensor] = []

    class Watch(Repeated):
        def forward(self, luma: Tensor) -> Tensor:
            seen.append(luma)
            return super().forward(luma)

    generator = loaded_luma("test", Watch(2), 2, {})
    image = np.zeros((6, 6, 3), np.uint8)
    image[:, 3:] = 255
    reference_output(generator, image)
    through_graph(generator, image[None])
    assert len(seen) == 2
    for luma in seen:
        torch.testing.assert_close(luma[0, 0, 0], torch.tensor([16.0] * 3 + [235.0] * 3) / 255)


def test_luma_is_clipped_as_the_publishers_do() -> None:
    """A net that gives far too much: luma ends at 255/255, which is more than white, and chroma still counts."""
    net = Repeated(2)
    net.conv.weight.fill_(9)
    generator = loaded_luma("test", net, 2, {})
    colour = torch.tensor([0.1, 0.1, 0.9])
    image = colour.reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    red = generator.net(image)[0, 0, 8, 8]
    # R' = (255 - 16) / 219 + what red has beside its luma
    assert float(red) == pytest.approx(239 / 219 + 0.1 - (0.299 * 0.1 + 0.587 * 0.1 + 0.114 * 0.9), abs=1e-4)
    folded = generator.folded()
    assert folded is not None
    torch.testing.assert_close(folded(image.flip(1) * 255).flip(1) / 255, generator.net(image), atol=1e-5, rtol=1e-5)


# --- the filter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5])
def test_bicubic_is_pillows(scale: int) -> None:
    image = pictures(1, 9, 11)
    kernels = torch.block_diag(*[bicubic_kernels(scale).flatten(1)] * 3).reshape(3 * scale**2, 3, 5, 5)
    torch.testing.assert_close(enlarged(image, kernels, scale), bicubic(image, scale), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_keeps_flat_pictures_and_slopes(scale: int) -> None:
    rows = torch.arange(12.0).reshape(1, 1, 12, 1).expand(1, 1, 12, 12).contiguous()
    kernels = bicubic_kernels(scale)[:, None]
    torch.testing.assert_close(enlarged(torch.ones(1, 1, 5, 7), kernels, scale), torch.ones(1, 1, 5 * scale, 7 * scale))
    places = (torch.arange(12.0 * scale) + 0.5) / scale - 0.5  # half-pixel centres
    inside = slice(2 * scale, -2 * scale)
    torch.testing.assert_close(enlarged(rows, kernels, scale)[0, 0, inside, 0], places[inside])


@pytest.mark.parametrize("kernel", [3, 5, 7, 9])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_transposed_convolution_equals_its_convolution_to_the_border(kernel: int, scale: int) -> None:
    net = Fsrcnn(scale, 3, 2, 0)
    net.last_part = nn.ConvTranspose2d(3, 1, kernel, scale, kernel // 2, output_padding=scale - 1)
    state = dict(net.requires_grad_(False).state_dict())
    whole = FSRCNN.load(state, scale=str(scale)).net
    assert isinstance(whole, LumaGenerator)
    luma = pictures(1, 7, 9)[:, :1]
    wanted = net.luma(luma)
    lean = whole.luma.lean()
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in lean.modules())
    torch.testing.assert_close(lean(luma), wanted, atol=1e-5, rtol=1e-5)


def test_convolution_is_as_small_as_the_taps_allow() -> None:
    sides = {
        scale: as_convolution(nn.ConvTranspose2d(4, 1, 9, scale, 4, output_padding=scale - 1))[0].kernel_size[0]
        for scale in (2, 3, 4)
    }
    assert sides == {2: 5, 3: 3, 4: 3}


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", GRAPHS)
def test_graph_gives_what_pytorch_gives(id: str) -> None:
    generator, model = loaded(id), exported(id)
    for images in (frames(2, seed=1), frames(1, 17, 41, seed=2)):
        found = run(model, images)
        wanted = np.stack([reference_output(generator, image) for image in images])
        assert found.shape == wanted.shape
        steps = np.abs(found.astype(int) - wanted)
        assert steps.max() <= 1
        assert np.mean(steps != 0) < 0.002


@pytest.mark.parametrize("id", GRAPHS)
def test_graph_is_lean(id: str) -> None:
    """One sum for luma, one convolution for the rest, and one addition; no Resize and no transposed convolution."""
    kinds = [node.op_type for node in exported(id).graph.node]
    assert kinds.count("ReduceSum") == kinds.count("Round") == 1
    assert kinds.count("Add") == 2  # black's luma, and the end
    assert not {"Resize", "ConvTranspose", "MatMul", "Gather", "Concat"} & set(kinds)


@pytest.mark.parametrize("id", GRAPHS)
def test_luma_of_the_frame_stays_float32_in_fp16(id: str) -> None:
    model = fp16_from_graph(exported(id))
    floats = {
        info.name: info.type.tensor_type.elem_type for info in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    sums = [node.output[0] for node in model.graph.node if node.op_type == "ReduceSum"]
    assert [floats[name] for name in sums] == [onnx.TensorProto.FLOAT]
    images = frames(2, seed=4)
    assert np.abs(run(model, images).astype(int) - run(exported(id), images)).max() <= 1


def test_halo_holds_the_filter_and_the_net() -> None:
    assert measured_halo(FrameGraph(repeated(2)), 1, 1, 2) == 2
    assert measured_halo(FrameGraph(loaded("fsrcnn-x4")), 1, 1, 4) == 3  # 5x5, and one pixel of the 9x9 of x4
    assert measured_halo(FrameGraph(loaded("espcn-x2")), 1, 1, 2) == 4


# --- the scale that files do not say ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_scale_of_fsrcnn_is_found_from_the_weights_and_told(scale: int) -> None:
    generator = loaded(f"fsrcnn-x{scale}")
    assert generator.scale == scale
    assert len(generator.notes) == 1
    assert f"x{scale} was found from the weights" in generator.notes[0]


def test_inspect_tells_how_the_scale_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["inspect", str(write_checkpoint(tmp_path / "net.pth", "fsrcnn-x3"))]) == 0
    shown = capsys.readouterr().out
    assert "family: fsrcnn (FSRCNN of yjn870" in shown
    assert "x3 was found from the weights, which keep a grey picture grey only there" in shown


def unclear() -> State:
    """Random weights, which keep grey at no stride."""
    state = published("fsrcnn-x2").state()
    return {**state, "last_part.weight": torch.zeros_like(state["last_part.weight"])}


def test_scale_that_the_weights_do_not_tell_is_asked_for() -> None:
    with pytest.raises(CheckpointError, match=r"files do not say their scale.*say it with --option scale=2, 3 or 4"):
        identify(unclear()).load(unclear())
    generator = identify(unclear()).load(unclear(), scale="3")
    assert (generator.scale, generator.notes) == (3, ())
    assert generator.net(torch.zeros(1, 3, 5, 6)).shape == (1, 3, 15, 18)


def test_scale_of_srcnn_is_what_the_user_says(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "srcnn.pth", "srcnn-x2")
    by_default, told = load_generator(path)[0], load_generator(path, {"scale": "4"})[0]
    assert (by_default.scale, told.scale) == (3, 4)
    assert "it is run at x4, which --option scale=N changes" in told.notes[0]
    with pytest.raises(UsageError, match="the option scale of srcnn is one of 3, 2, 4, not 7"):
        load_generator(path, {"scale": "7"})


# --- files that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "name", "shape", "message"),
    [
        ("fsrcnn-x2", "last_part.weight", (8, 1, 8, 8), "the side of a kernel is even"),
        ("fsrcnn-x2", "mid_part.2.weight", (4, 4, 3), "mid_part.2.weight is [4, 4, 3], no kernel"),
        ("fsrcnn-x3", "mid_part.3.weight", (7,), "mid_part.3.weight is [7] instead of [4]"),
        ("espcn-x2", "last_part.0.weight", (5, 4, 3, 3), "gives 5 channels, which is no square"),
        ("espcn-x2", "first_part.2.bias", (7,), "first_part.2.bias is [7] instead of [4]"),
        ("espcn-x3", "first_part.2.weight", (4, 6, 2, 2), "the side of a kernel is even"),
        ("srcnn-x2", "conv2.weight", (4, 6, 4, 4), "the side of a kernel is even"),
        ("srcnn-x2", "conv1.bias", (), "conv1.bias is [] instead of [6]"),
    ],
)
def test_odd_shapes_are_refused_in_words(id: str, name: str, shape: tuple[int, ...], message: str) -> None:
    state = {**published(id).state(), name: torch.zeros(shape)}
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("id", "name", "shape"),
    [
        ("fsrcnn-x2", "first_part.0.weight", (8, 3, 5, 5)),
        ("espcn-x2", "first_part.0.weight", (6, 3, 5, 5)),
        ("srcnn-x2", "conv1.weight", (6, 3, 9, 9)),
        ("srcnn-x2", "conv3.weight", (4, 4, 5, 5)),  # leftthomas/ESPCN has four such convolutions
    ],
)
def test_nets_of_colour_in_these_layouts_are_not_taken_for_nets_of_luma(
    id: str, name: str, shape: tuple[int, ...]
) -> None:
    state = {**published(id).state(), name: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match="unknown architecture"):
        identify(state)


def test_huge_width_takes_no_memory_before_it_is_refused() -> None:
    state = {**published("fsrcnn-x2").state(), "first_part.0.weight": torch.zeros(3_000_000, 1, 1, 1)}
    state["mid_part.0.weight"] = torch.zeros(3_000_000, 1, 1, 1)
    with pytest.raises(CheckpointError, match=r"mid_part\.0\.weight is \[3000000, 1, 1, 1\] instead of "):
        identify(state).load(state)


def test_a_layer_numbered_a_billion_is_refused() -> None:
    state = {**published("fsrcnn-x2").state(), "mid_part.1000000000.weight": torch.zeros(4)}
    with pytest.raises(CheckpointError, match="numbers a layer 1000000000"):
        identify(state).load(state)


# --- real weights -----------------------------------------------------------------------------------------------------

#: Y-PSNR on Set5 in dB, measured on luma alone when the weights were collected.
SET5 = {2: 37.15, 3: 32.61, 4: 30.52}


@pytest.mark.parametrize("scale", SET5)
def test_real_fsrcnn_on_set5(scale: int, assets: Callable[[str], Path]) -> None:
    generator, checkpoint = load_generator(assets(f"weights/fsrcnn/fsrcnn_x{scale}.pth"))
    assert (generator.family, generator.scale) == ("fsrcnn", scale)
    assert dict(generator.facts) == {"width": 56, "narrow": 12, "depth": 4}
    reference = Fsrcnn(scale, 56, 12, 4)
    reference.load_state_dict(dict(checkpoint.state))
    image = pictures(1, 20, 30)
    with torch.no_grad():
        torch.testing.assert_close(generator.net(image), reference(image), atol=1e-5, rtol=1e-4)
    model = graph_from_generator(FrameGraph(generator), generator.size_rule, None)
    score = score_folder(assets("images/set5"), scale, lambda frame: run(model, frame[None])[0])
    assert score.images == 5
    assert score.psnr_y == pytest.approx(SET5[scale], abs=0.05)
