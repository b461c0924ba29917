from __future__ import annotations

import re
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoint_factory import CycleGan, exported, loaded, published
from nets_pix2pix import FramewiseBatchNorm, Unet, settled
from published import frames, pictures, randomised
from skimage import color
from torch import Tensor, nn

from export.frame_io import FrameGraph, reference_output
from export.generators import GENERATORS, identify
from export.generators.base import LoadedGenerator, State
from export.generators.translation import NO_DROPOUT, Colouriser, lightness, rgb_from_lab
from export.onnx_graph import graph_from_generator
from runtime.errors import CheckpointError
from runtime.frames import Frames
from runtime.sessions import available_backends


def random_net(net: nn.Module) -> nn.Module:
    randomised(net)
    with torch.no_grad():
        settled(net)
    return net


def read(state: State, **options: str) -> LoadedGenerator:
    return identify(state).load(state, **options)


def refusal(state: State, **options: str) -> str:
    with pytest.raises(CheckpointError) as error:
        read(state, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def without(state: State, ending: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not re.search(ending, name)}


RUNNING = r"\.(running_mean|running_var|num_batches_tracked)$"


# --- sizes and engines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "side"), [(2, 4), (5, 32), (7, 128), (8, 256)])
def test_published_size_leaves_one_pixel_in_the_middle(levels: int, side: int) -> None:
    net = Unet(1, levels, "batch")
    generator = read(net.state_dict())
    assert (generator.fixed_size, generator.fit, generator.tileable) == ((side, side), "resize", False)
    assert (generator.size_rule.minimum, generator.size_rule.multiple) == (side, side)
    seen: list[tuple[int, ...]] = []
    for module in generator.net.modules():
        if isinstance(module, nn.Conv2d | nn.InstanceNorm2d):
            module.register_forward_hook(lambda module, _, output: seen.append((type(module), *output.shape[2:])))
    generator.net(torch.zeros(1, 3, side, side))
    assert (nn.Conv2d, 1, 1) in seen
    assert (nn.InstanceNorm2d, 1, 1) not in seen  # PyTorch refuses a norm over one value, and would give its bias


def test_a_frame_of_another_size_does_not_pass() -> None:
    generator = loaded("pix2pix")
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        generator.net(torch.zeros(1, 3, 32, 48))


def run(model: bytes, images: Frames) -> Frames:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"frame": images})[0]


def in_openvino(model: bytes, images: Frames) -> Frames:
    import openvino

    compiled = openvino.compile_model(openvino.Core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(images)[0]


@pytest.mark.parametrize("id", ["pix2pix", "pix2pix-stored", "pix2pix-none", "cyclegan-batch-norm"])
def test_engines_agree_with_pytorch(id: str) -> None:
    height, width = published(id).size
    model = exported(id, (height, width)).SerializeToString()
    image = frames(1, height, width, seed=7)
    wanted = reference_output(loaded(id), image[0]).astype(int)
    assert wanted.std() > 5
    assert np.abs(run(model, image)[0] - wanted).max() <= 1
    if "openvino" in available_backends():
        assert np.abs(in_openvino(model, image)[0] - wanted).max() <= 1


def test_stored_statistics_leave_nothing_but_convolutions() -> None:
    kinds = {node.op_type for node in exported("pix2pix-stored", published("pix2pix-stored").size).graph.node}
    assert not kinds & {"BatchNormalization", "InstanceNormalization"}
    assert "InstanceNormalization" in {
        node.op_type for node in exported("pix2pix", published("pix2pix").size).graph.node
    }


# --- what the file does not say ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["pix2pix", "cyclegan-batch-norm"])
def test_batch_statistics_are_those_of_each_frame(id: str) -> None:
    generator, images = loaded(id), published(id).pictures(2)
    first = generator.net(images[:1])
    torch.testing.assert_close(generator.net(images)[:1], first, atol=1e-5, rtol=1e-5)
    stored = identify(published(id).state()).load(published(id).state(), statistics="stored").net
    assert (stored(images[:1]) - first).abs().max() > 0.05  # so it matters which are used


@pytest.mark.parametrize("id", ["pix2pix", "cyclegan-batch-norm"])
def test_batch_statistics_are_those_of_a_net_in_training_mode(id: str) -> None:
    """The publishers' own batch norm and test.py: nothing is ever set to evaluation mode, and a frame is a batch."""
    evaluated = published(id.replace("-batch-norm", "") + "-stored").make().train()
    for module in evaluated.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    weights = published(id.replace("-batch-norm", "") + "-stored").state()
    evaluated.load_state_dict(weights)
    image = published(id).pictures()
    with torch.no_grad():
        torch.testing.assert_close(read(weights).net(image), evaluated(image), atol=2e-6, rtol=1e-5)


def test_notes_say_which_statistics_are_used() -> None:
    state = published("pix2pix").state()
    assert "without --eval; --option statistics=stored" in read(state).notes[0]
    assert "without --eval." in read(without(state, RUNNING)).notes[0]  # nothing is stored that could be chosen
    assert "does with --eval" in read(state, statistics="stored").notes[0]
    for id in ("pix2pix", "pix2pix-instance", "cyclegan-stored"):
        assert NO_DROPOUT in loaded(id).notes
    assert NO_DROPOUT not in loaded("cyclegan").notes
    assert "instance norms, since they have no weights" in loaded("cyclegan").notes[0]
    assert "no norms" in loaded("pix2pix-none").notes[0]


@pytest.mark.parametrize(
    ("make", "lacks"),
    [
        (lambda: published("pix2pix-instance").state(), "no batch norms"),
        (lambda: published("pix2pix-none").state(), "no batch norms"),
        (lambda: published("cyclegan").state(), "no batch norms"),
        (lambda: without(published("pix2pix").state(), RUNNING), "no running statistics of its norms"),
        (lambda: without(published("cyclegan-stored").state(), RUNNING), "no running statistics of its norms"),
    ],
)
def test_stored_statistics_that_are_not_there_are_refused(make: object, lacks: str) -> None:
    assert callable(make)
    assert f"it holds {lacks}: leave out --option statistics=stored" in refusal(make(), statistics="stored")


@pytest.mark.parametrize("norm", ["untracked", "affine"])
def test_norms_with_weights_are_computed_alike_whatever_they_were(norm: str) -> None:
    net = Unet(2, 3, norm).eval()
    weights = random_net(Unet(2, 3, "batch")).state_dict()
    net.load_state_dict(without(weights, RUNNING), strict=False)  # the affine ones keep biases of their own
    generator = read(net.state_dict())
    assert generator.facts["norm"] == ("batch" if norm == "untracked" else "batch or instance")
    image = pictures(1, 8, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(generator.net(image), net(image), atol=2e-6, rtol=1e-5)


def test_resnets_with_norms_of_either_kind_are_computed_alike() -> None:
    batch = published("cyclegan-batch-norm")
    untracked = read(without(batch.state(), RUNNING))
    image = batch.pictures()
    assert torch.equal(untracked.net(image), loaded("cyclegan-batch-norm").net(image))
    # with biases as well: they vanish in a norm with the frame's own statistics
    biased = {**batch.state(), **{f"model.{n}.bias": torch.full((c,), 0.5) for n, c in ((1, 4), (4, 6), (7, 8))}}
    biased |= {f"model.{n}.bias": torch.full((c,), 0.5) for n, c in ((12, 6), (15, 4))}
    biased |= {f"model.{n}.conv_block.{m}.bias": torch.full((8,), 0.5) for n in (10, 11) for m in (1, 6)}
    generator = read(biased)
    assert generator.facts["norm"] == "batch or instance"
    torch.testing.assert_close(generator.net(image), untracked.net(image), atol=1e-5, rtol=1e-5)


def test_resnet_without_norms() -> None:
    def without_norms(net: nn.Module) -> nn.Module:
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, FramewiseBatchNorm):
                    setattr(parent, name, nn.Identity())
        return net

    net = without_norms(randomised(CycleGan((4, 6, 8, 6, 4), (8,), batch_norm=True)))
    generator = read(net.state_dict())
    assert (generator.facts["norm"], generator.tileable) == ("none", True)
    image = published("cyclegan").pictures()
    with torch.no_grad():
        torch.testing.assert_close(generator.net(image), net(image), atol=2e-6, rtol=1e-5)


def test_compressed_resnet_with_batch_norms_keeps_the_instance_norms_inside() -> None:
    net = randomised(CycleGan((4, 6, 8, 6, 4), (6,), separable=True, dropout=True, batch_norm=True, evaluated=True))
    state = {**net.state_dict(), "model.10.conv_block.1.conv.1.running_mean": torch.zeros(8)}  # stale
    assert "GAN Compression tests its own nets with statistics=stored." in read(state).notes
    generator = read(state, statistics="stored")
    assert (generator.tileable, len(generator.notes)) == (False, 1)
    image = published("cyclegan").pictures()
    with torch.no_grad():
        torch.testing.assert_close(generator.net(image), net(image), atol=2e-6, rtol=1e-5)


# --- files that do not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(4, 3), (1, 1), (3, 1), (1, 3), (6, 3)])
def test_other_channels_are_refused_in_words(ends: tuple[int, int]) -> None:
    takes = f"it takes {ends[0]} and gives {ends[1]} channels; only nets from RGB to RGB"
    assert takes in refusal(Unet(1, 2, "batch", ends).state_dict())
    state = published("cyclegan").state()
    first, last = state["model.1.weight"], state["model.19.weight"]
    state["model.1.weight"] = first[:, :1].repeat(1, ends[0], 1, 1)
    state |= {"model.19.weight": last[:1].repeat(ends[1], 1, 1, 1), "model.19.bias": torch.zeros(ends[1])}
    assert takes in refusal(state)


@pytest.mark.parametrize("inputs", [3, 6])
def test_discriminators_of_the_same_repository_are_no_generators(inputs: int) -> None:
    layers: list[nn.Module] = [nn.Conv2d(inputs, 4, 4, 2, 1), nn.LeakyReLU(0.2)]
    for narrow, wide, stride in ((4, 8, 2), (8, 16, 2), (16, 32, 1)):
        layers += [nn.Conv2d(narrow, wide, 4, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
    patch = nn.Sequential(*layers, nn.Conv2d(32, 1, 4, 1, 1)).state_dict()
    pixel = nn.Sequential(nn.Conv2d(inputs, 4, 1), nn.LeakyReLU(), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)).state_dict()
    for state in (
        {f"model.{name}": tensor for name, tensor in patch.items()},
        {f"net.{name}": tensor for name, tensor in pixel.items()},
    ):
        assert not [generator.id for generator in GENERATORS if generator.detect(state)]


def test_levels_beyond_any_frame_are_refused() -> None:
    assert "it halves the frame 13 times, more than 12" in refusal(Unet(1, 13, "none").state_dict())


def test_missing_level_is_refused_by_name() -> None:
    state = without(published("pix2pix").state(), r"^model\.model\.1\.model\.3\.model\.3\.")
    assert "it lacks model.model.1.model.3.model.3.weight" in refusal(state)


# --- colourisation ----------------------------------------------------------------------------------------------------


def every_colour() -> Frames:
    """A grid over all colours, with black, white and greys: uint8 (1, 64, 96, 3) RGB."""
    levels = np.array([0, 1, 2, 5, 10, 11, 20, 40, 64, 90, 110, 128, 150, 180, 200, 220, 240, 254, 255], np.uint8)[:18]
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    grid = np.concatenate([grid, np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)])
    return np.resize(grid, (1, 64, 96, 3))


def planes(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def test_lightness_is_that_of_scikit_image() -> None:
    rgb = every_colour()
    wanted = color.rgb2lab(rgb)[..., :1]
    torch.testing.assert_close(lightness(planes(rgb) / 255), planes(wanted).float(), atol=2e-4, rtol=1e-5)


def test_colours_of_lab_are_those_of_scikit_image() -> None:
    rng = np.random.default_rng(0)
    lab = np.concatenate([rng.uniform(0, 100, (1, 40, 50, 1)), rng.uniform(-110, 110, (1, 40, 50, 2))], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # colours that sRGB does not have
        wanted = color.lab2rgb(lab)
    found = rgb_from_lab(planes(lab[..., :1]).float(), planes(lab[..., 1:]).float())
    torch.testing.assert_close(found, planes(wanted).float(), atol=1e-4, rtol=1e-4)
    assert ((wanted == 0) | (wanted == 1)).mean() > 0.1  # many are outside


class TrueColours(nn.Module):
    """Knows the a and b of one frame."""

    def __init__(self, rgb: Frames) -> None:
        super().__init__()
        self.register_buffer("ab", planes(color.rgb2lab(rgb)[..., 1:] / 110).float())

    def forward(self, light: Tensor) -> Tensor:
        return self.ab + 0 * light


@pytest.mark.parametrize("in_bytes", [False, True])
def test_true_colours_give_the_frame_back(in_bytes: bool) -> None:
    rgb = every_colour()
    net = TrueColours(rgb).eval()
    generator = LoadedGenerator(
        "test",
        Colouriser(net).eval(),
        1,
        fold=(lambda: Colouriser(net, in_bytes=True)) if in_bytes else None,
    )
    image = np.ascontiguousarray(rgb[..., ::-1])
    assert np.abs(reference_output(generator, image[0]).astype(int) - image[0]).max() <= 1
    with torch.no_grad():
        assert np.abs(FrameGraph(generator).eval()(torch.from_numpy(image)).numpy().astype(int) - image).max() <= 1
    if not in_bytes:
        return  # what is exported is folded
    model = graph_from_generator(FrameGraph(generator), generator.size_rule, rgb.shape[1:3]).SerializeToString()
    assert np.abs(run(model, image).astype(int) - image).max() <= 1
    if "openvino" in available_backends():
        assert np.abs(in_openvino(model, image).astype(int) - image).max() <= 1


def published_colours(net: nn.Module, images: Frames) -> np.ndarray:
    """As the publishers' dataset and model colour ``uint8 (N, H, W, 3) BGR``: float BGR 0..255, one frame at a time."""
    results = []
    for image in images:
        light = color.rgb2lab(image[..., ::-1]).astype(np.float32)[..., :1]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ab = net(planes(light[None]) / 50 - 1)[0].permute(1, 2, 0).numpy() * 110.0
            results.append(color.lab2rgb(np.concatenate([light, ab], -1).astype(np.float64))[..., ::-1] * 255)
    return np.stack(results)


@pytest.mark.parametrize("statistics", ["batch", "stored"])
@pytest.mark.parametrize("layout", ["unet", "resnet"])
def test_colourisation_nets_take_and_give_frames(layout: str, statistics: str) -> None:
    stored = statistics == "stored"
    if layout == "unet":
        net: nn.Module = random_net(Unet(3, 4, "batch", (1, 2), evaluated=stored))
    else:
        net = CycleGan((4, 6, 8, 6, 4), (8,), dropout=True, batch_norm=True, evaluated=stored)
        net.model[1], net.model[-2] = nn.Conv2d(1, 4, 7, bias=False), nn.Conv2d(4, 2, 7)
        randomised(net)
    generator = read(net.state_dict(), statistics=statistics)
    assert generator.facts["channels"] == "L to ab"
    assert (generator.task, generator.scale) == ("translation", 1)
    images = frames(2, 32, 48, seed=2)
    wanted = published_colours(net, images)
    assert np.abs(wanted - wanted.mean(-1, keepdims=True)).mean() > 5  # it is in colour
    for place, image in enumerate(images):
        assert np.abs(reference_output(generator, image) - wanted[place]).max() <= 1
    with torch.no_grad():
        found = FrameGraph(generator).eval()(torch.from_numpy(images)).numpy()
    assert np.abs(found - wanted).max() <= 1
    if stored == (layout == "resnet"):  # exporting takes seconds
        model = graph_from_generator(FrameGraph(generator), generator.size_rule, (32, 48)).SerializeToString()
        assert np.abs(run(model, images[:1]) - wanted[:1]).max() <= 1
