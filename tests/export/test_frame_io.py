from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from checkpoint_factory import PUBLISHED, frame, loaded, ready
from hypothesis import given, settings
from hypothesis import strategies as st
from published import Published, convolution, frames
from torch import Tensor, nn

from export.frame_io import FrameGraph, condition_tensor, measured_halo, reference_output
from export.generators.base import LoadedGenerator, Range
from runtime.errors import GenedgeError
from runtime.frames import Frame, Frames, SizeRule
from runtime.sessions.base import Pending, Session, SessionInfo
from runtime.tiles import TiledSession

BYTES: Range = (0.0, 255.0)


class Function(nn.Module):
    """A net that is one line of torch."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image)


def generator(net: nn.Module, scale: int = 1, range_: Range = BYTES) -> LoadedGenerator:
    """A generator whose net has black and white at the values of ``range_``, on both sides."""
    return LoadedGenerator("test", net.eval(), scale, range_, range_)


def through_graph(generator: LoadedGenerator, frames: Frames) -> Frames:
    with torch.no_grad():
        result = FrameGraph(generator)(torch.from_numpy(frames), *first_step(generator, frames))
    return (result[0] if isinstance(result, tuple) else result).numpy()


def first_step(generator: LoadedGenerator, frames: Frames) -> list[Tensor]:
    """What the frame graph takes besides the frames in a first step, with the default of every condition."""
    count, height, width, _ = frames.shape
    states = [
        torch.from_numpy(frames.copy() if state.begins_as == "frame" else np.zeros_like(frames))
        if state.output is None
        else torch.zeros(count, state.channels, state.scale * height, state.scale * width)
        for state in generator.states
    ]
    return states + [condition_tensor(each, None, count, height, width) for each in generator.conditions]


def both(generator: LoadedGenerator, image: Frame) -> Frame:
    """Output of the frame graph, which must be PyTorch's own."""
    result = through_graph(generator, image[None])[0]
    assert np.array_equal(result, reference_output(generator, image))
    return result


# --- values and colours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case.id)
def test_frame_graph_gives_what_pytorch_gives(case: Published) -> None:
    generator, images = ready(case.id), frames(3, *case.size)
    result = through_graph(generator, images)
    assert result.dtype == np.uint8
    assert result.shape == (3, case.size[0] * case.scale, case.size[1] * case.scale, 3)
    steps = np.abs(result.astype(int) - np.stack([reference_output(generator, image) for image in images]))
    assert steps.max() <= 1  # a value between two steps may be rounded differently
    assert np.mean(steps != 0) < 0.002
    assert result.std() > 5


def test_a_generator_that_must_be_frozen_gets_no_frame_graph_before() -> None:
    with pytest.raises(GenedgeError, match=r"face-identity-transformer takes .* freeze them"):
        FrameGraph(loaded("face-identity"))


def test_families_are_folded_and_other_nets_are_not() -> None:
    assert FrameGraph(loaded("compact-x2")).folded
    assert not FrameGraph(generator(nn.Identity())).folded


@pytest.mark.parametrize("range_", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-0.5, 0.5)])
def test_net_that_changes_nothing_returns_the_frame(range_: Range) -> None:
    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)  # every value there is
    assert np.array_equal(both(generator(nn.Identity(), 1, range_), image), image)


def test_black_and_white_have_the_values_that_the_ranges_say() -> None:
    seen: list[Tensor] = []

    def remember(image: Tensor) -> Tensor:
        seen.append(image)
        return image

    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 255
    both(generator(Function(remember), 1, (-1.0, 1.0)), image)
    for values in seen:  # in the graph, and in the reference
        assert values.flatten().tolist() == [-1, 1] * 3


def test_net_sees_rgb_and_frames_are_bgr() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
    image = frame()
    result = both(generator(Function(lambda rgb: rgb * red)), image)
    assert np.array_equal(result[..., 2], image[..., 2])
    assert not result[..., :2].any()


def test_folded_net_sees_the_same_colours() -> None:
    """``fold`` gives a net for BGR: it must be used without swapping once more."""
    blue = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)  # in BGR
    net = Function(lambda bgr: bgr * blue)
    folded = LoadedGenerator("test", nn.Identity(), 1, fold=lambda: net)
    image = frame()
    result = through_graph(folded, image[None])[0]
    assert np.array_equal(result[..., 0], image[..., 0])
    assert not result[..., 1:].any()


def test_values_beyond_white_and_black_are_clipped_not_wrapped() -> None:
    image = np.array([[[0, 100, 200]]], np.uint8)
    assert both(generator(Function(lambda rgb: rgb * 2)), image).flatten().tolist() == [0, 200, 255]
    assert both(generator(Function(lambda rgb: rgb - 150)), image).flatten().tolist() == [0, 0, 50]


def test_halves_are_rounded_to_even() -> None:
    image = np.array([[[1, 3, 5]]], np.uint8)
    assert both(generator(Function(lambda rgb: rgb / 2)), image).flatten().tolist() == [0, 2, 2]


def test_every_frame_of_a_batch_is_computed_alone() -> None:
    generator, images = loaded("srvgg-x4"), frames(3, seed=5)
    together = through_graph(generator, images)
    for index in range(3):
        assert np.abs(together[index].astype(int) - through_graph(generator, images[index : index + 1])[0]).max() <= 1


def test_reference_takes_views_and_leaves_them_alone() -> None:
    image = frame(30, 40)
    view = image[3:27, ::-1]
    before = image.copy()
    net = loaded("compact-x2")
    assert np.array_equal(reference_output(net, view), reference_output(net, view.copy()))
    assert np.array_equal(image, before)


# --- halo -------------------------------------------------------------------------------------------------------------


def positive(*kernels: int, **settings: int) -> nn.Sequential:
    """Convolutions whose weights are all positive, so that nothing on the way can cancel out."""
    net = nn.Sequential(*(convolution(3, 3, kernel, **settings) for kernel in kernels))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    return net


def halo(net: nn.Module, rule: SizeRule | None = None, scale: int = 1, limit: int = 512) -> int:
    rule = rule or SizeRule()
    graph = FrameGraph(generator(net, scale)).eval()
    return measured_halo(graph, rule.minimum, rule.multiple, scale, limit)


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 5, 8])
def test_halo_of_3x3_convolutions_is_their_number(depth: int) -> None:
    assert halo(positive(*[3] * depth)) == depth


@pytest.mark.parametrize(("kernels", "wanted"), [((1,), 0), ((5,), 2), ((9,), 4), ((9, 3, 3, 9), 10), ((7, 1, 7), 6)])
def test_halo_of_other_kernels_is_the_sum_of_their_halves(kernels: tuple[int, ...], wanted: int) -> None:
    assert halo(positive(*kernels)) == wanted


def test_halo_beyond_the_first_field_of_view_is_found() -> None:
    assert halo(positive(*[9] * 9)) == 36  # the search begins with 24 pixels


def far(*dilations: int) -> nn.Sequential:
    """3x3 convolutions with gaps, which those before them fill; all weights 1."""
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=gap, dilation=gap, bias=False) for gap in dilations))
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    return net


def test_halo_that_is_measured_in_a_strip() -> None:
    assert halo(far(1, 3, 9, 27, 40)) == 80


@pytest.mark.parametrize(("down", "right"), [(-1, 0), (1, 0), (0, -1), (0, 1)], ids=["up", "down", "left", "right"])
def test_halo_to_one_side_only_in_a_strip(down: int, right: int) -> None:
    net = far(1, 2, 4, 8, 16, 32, 7)
    with torch.no_grad():
        for kernel in net.parameters():
            kernel.zero_()
            kernel[:, :, 1, 1] = kernel[:, :, 1 + down, 1 + right] = 0.3
    assert halo(net) == 70


def test_a_frame_that_is_too_small_is_left_at_once() -> None:
    sizes: list[int] = []
    net = far(1, 3, 9, 27, 40, 9)

    def noted(image: Tensor) -> Tensor:
        sizes.append(max(image.shape[2:]))
        return net(image)

    assert halo(Function(noted)) == 89
    assert sizes[:4] == [37, 37, 55, 55]  # a whole frame and one cut of it, which is as long to the other side
    # at the end, two strips with two cuts each, then two with two switched pixels each, just long enough
    assert sizes[-6:] == [2 * 90 + 6] * 6
    assert len(sizes) <= 2 * 4 + 6 + 6


def test_halo_of_a_dilated_convolution() -> None:
    net = nn.Conv2d(3, 3, 3, padding=4, dilation=4)
    nn.init.constant_(net.weight, 0.1)
    assert halo(net) == 4


def test_halo_counts_input_pixels_where_the_net_enlarges() -> None:
    enlarge = nn.Conv2d(3, 12, 3, padding=1)
    nn.init.constant_(enlarge.weight, 0.1)
    assert halo(nn.Sequential(enlarge, nn.PixelShuffle(2)), scale=2) == 1
    # a 3x3 convolution at twice the size reads half an input pixel further, so one more pixel
    assert halo(nn.Sequential(enlarge, nn.PixelShuffle(2), positive(3)), scale=2) == 2
    # and a second one reads within the pixel that is read already
    assert halo(nn.Sequential(enlarge, nn.PixelShuffle(2), positive(3, 3)), scale=2) == 2


def test_halo_of_a_net_with_a_stride() -> None:
    """Stride 2 and back: an odd output pixel belongs to the cell on its left, whose kernel begins one further left."""
    down = nn.Conv2d(3, 3, 3, stride=2, padding=1)
    nn.init.constant_(down.weight, 0.1)
    assert halo(nn.Sequential(down, nn.Upsample(scale_factor=2)), SizeRule(2, 2)) == 2


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_halo_of_a_net_that_works_on_cells(factor: int) -> None:
    """A 3x3 convolution over cells: the far side of the neighbouring cell is two cells less a pixel away."""
    middle = convolution(3 * factor**2, 3 * factor**2)
    nn.init.constant_(middle.weight, 0.02)
    net = nn.Sequential(nn.PixelUnshuffle(factor), middle, nn.PixelShuffle(factor))
    assert halo(net, SizeRule(factor, factor)) == 2 * factor - 1


def looks(down: int, right: int) -> nn.Sequential:
    """A net whose features are 1 everywhere inside the frame, whatever its pixels; the output reads the neighbour
    that lies ``down`` and ``right`` of it, where the network's own padding puts a 0 at the border."""
    ones, neighbour = convolution(3, 1), convolution(1, 3)
    for parameter in (*ones.parameters(), *neighbour.parameters()):
        nn.init.zeros_(parameter)
    nn.init.ones_(ones.bias)
    neighbour.weight.data[:, :, 1 + down, 1 + right] = 1
    return nn.Sequential(ones, neighbour)


@pytest.mark.parametrize(("down", "right"), [(-1, 0), (1, 0), (0, -1), (0, 1)], ids=["up", "down", "left", "right"])
def test_border_of_a_tile_counts_even_where_no_pixel_does(down: int, right: int) -> None:
    assert halo(looks(down, right)) == 1
    assert halo(looks(0, 0)) == 0


@pytest.mark.parametrize("rule", [SizeRule(65, 4), SizeRule(10, 4), SizeRule(100, 8), SizeRule(51, 1)])
def test_frames_for_measuring_obey_the_size_rule(rule: SizeRule) -> None:
    sizes = set()

    def check(image: Tensor) -> Tensor:
        sizes.update([tuple(image.shape[2:])])
        return image

    assert halo(Function(check), rule) == 0
    assert sizes
    assert all(rule.allows(*size) for size in sizes)


def test_relu_does_not_hide_the_reach() -> None:
    torch.manual_seed(1)
    layers = [layer for _ in range(4) for layer in (convolution(8, 8), nn.ReLU())]
    net = nn.Sequential(convolution(3, 8), nn.ReLU(), *layers, convolution(8, 3))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.2)
    assert halo(net) == 6


@pytest.mark.parametrize(
    "net",
    [
        nn.InstanceNorm2d(3),
        nn.Sequential(convolution(3, 3), nn.InstanceNorm2d(3, affine=True)),
        Function(lambda rgb: rgb - rgb.mean(dim=(2, 3), keepdim=True)),
        Function(lambda rgb: nn.functional.interpolate(nn.functional.adaptive_avg_pool2d(rgb, 4), rgb.shape[2:])),
    ],
    ids=["instance-norm", "convolution-and-instance-norm", "mean", "pooling"],
)
def test_global_statistics_have_no_halo(net: nn.Module) -> None:
    with pytest.raises(ValueError, match="reaches beyond 100 pixels"):
        halo(net, limit=100)


def test_reach_beyond_the_limit_counts_as_global() -> None:
    net = positive(*[9] * 7)  # 28 pixels
    assert halo(net, limit=48) == 28
    with pytest.raises(ValueError, match="reaches beyond 24 pixels"):
        halo(net, limit=24)


@pytest.mark.parametrize(
    ("id", "wanted"),
    [
        ("compact-x2", 3),
        ("srvgg-x4", 4),
        ("srgan-leftthomas-x4", 4 + 2 * 2 + 1 + 1 + 1 + 1),  # ends of 9x9, two blocks, middle, and the enlarged part
        ("span-x4", 1 + 2 * 3 + 1 + 1),
    ],
)
def test_halo_of_the_families(id: str, wanted: int) -> None:
    loaded_ = loaded(id)
    rule = loaded_.size_rule
    assert measured_halo(FrameGraph(loaded_).eval(), rule.minimum, rule.multiple, loaded_.scale) == wanted


@pytest.mark.parametrize("id", ["fast-style", "cyclegan", "cyclegan-compressed", "cyclegan-batch-norm"])
def test_families_with_instance_norm_have_no_halo(id: str) -> None:
    loaded_ = loaded(id)
    rule = loaded_.size_rule
    with pytest.raises(ValueError, match="reaches beyond 60 pixels"):
        measured_halo(FrameGraph(loaded_).eval(), rule.minimum, rule.multiple, 1, limit=60)
    assert not loaded_.tileable


# --- tiles with the measured halo -------------------------------------------------------------------------------------


class TorchSession(Session):
    """A frame graph behind the runtime's seam."""

    def __init__(self, graph: FrameGraph, scale: int) -> None:
        self.graph, self.scale = graph, scale
        self.info = SessionInfo("torch", "fp32", "fp32", "CPU", 1, 2)

    def submit(self, frames: Frames, out: Frames | None = None) -> Pending:
        with torch.no_grad():
            result = self.graph(torch.from_numpy(np.ascontiguousarray(frames))).numpy()
        if out is not None:
            np.copyto(out, result)
        return Pending(lambda: result if out is None else out)

    def close(self) -> None:
        pass


def whole_numbers(kernels: list[int], cell: int, scale: int, seed: int) -> nn.Module:
    """A net that computes in whole numbers, so that float32 is exact and equal can mean equal."""
    chance = torch.Generator().manual_seed(seed)
    channels = 3 * cell**2
    layers: list[nn.Module] = [nn.PixelUnshuffle(cell)]
    for place, kernel in enumerate(kernels):
        last = place == len(kernels) - 1
        conv = convolution(channels, 3 * cell**2 * scale**2 if last else channels, kernel)
        conv.weight.data = torch.randint(-1, 2, conv.weight.shape, generator=chance).float()
        conv.bias.data = torch.randint(-9, 10, conv.bias.shape, generator=chance).float()
        layers += [conv] if last else [conv, nn.ReLU()]
    shrink = Function(lambda values: values.remainder(251))
    return nn.Sequential(*layers, nn.PixelShuffle(cell), nn.PixelShuffle(scale), shrink)


def tiled(graph: FrameGraph, scale: int, image: Frame, tile: int, halo: int, rule: SizeRule) -> Frame:
    with TiledSession(TorchSession(graph, scale), tile, tile, halo, rule) as session:
        return session.infer(image[None])[0]


@given(
    kernels=st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=3),
    cell=st.sampled_from([1, 2]),
    scale=st.sampled_from([1, 2]),
    height=st.integers(20, 70),
    width=st.integers(20, 70),
    room=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_tiles_with_the_measured_halo_equal_the_whole_frame(
    kernels: list[int], cell: int, scale: int, height: int, width: int, room: int, seed: int
) -> None:
    rule = SizeRule(cell, cell)
    height, width = rule.padded(height, width)
    graph = FrameGraph(generator(whole_numbers(kernels, cell, scale, seed), scale)).eval()
    halo = measured_halo(graph, rule.minimum, rule.multiple, scale)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    whole = through_graph(generator(graph.net, scale), image[None])[0]
    tile = rule.padded(2 * halo + room * cell, 1)[0]
    assert np.array_equal(tiled(graph, scale, image, tile, halo, rule), whole)


def test_tiles_of_a_translation_net_with_strides_and_reflection() -> None:
    loaded_ = loaded("cyclegan-stored")
    assert loaded_.tileable
    graph, rule = FrameGraph(loaded_).eval(), loaded_.size_rule
    halo = measured_halo(graph, rule.minimum, rule.multiple, 1)
    assert 20 < halo < 60
    image = frame(168, 204)
    tile = rule.padded(2 * halo + 16, 1)[0]
    assert tile < 168
    whole = through_graph(loaded_, image[None])[0].astype(int)
    assert np.abs(tiled(graph, 1, image, tile, halo, rule) - whole).max() <= 1


def test_a_smaller_halo_would_leave_seams() -> None:
    graph = FrameGraph(generator(whole_numbers([3, 3, 3], 1, 2, seed=4), 2)).eval()
    halo = measured_halo(graph, 1, 1, 2)
    assert halo == 3
    image = frame(50, 60)
    whole = through_graph(generator(graph.net, 2), image[None])[0]
    # tiles of two halos and a pixel: neighbours overlap by no more than they have to
    assert np.array_equal(tiled(graph, 2, image, 2 * halo + 1, halo, SizeRule()), whole)
    assert not np.array_equal(tiled(graph, 2, image, 2 * halo - 1, halo - 1, SizeRule()), whole)
