from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoint_factory import exported, loaded, published
from onnx import TensorProto, helper
from published import convolution, frames, randomised
from torch import nn

from calib.graph import checked
from export.frame_io import FrameGraph, reference_output
from export.generators.base import LoadedGenerator
from export.onnx_graph import canonical, graph_from_generator
from runtime.errors import GenedgeError
from runtime.frames import Frames, SizeRule

FAMILIES = ["compact-x2", "srvgg-x4", "srgan-leftthomas-x4", "span-x4", "fast-style", "cyclegan-compressed"]


class Style(nn.Module):
    """What CycleGAN and perceptual-loss nets are made of: reflection padding, instance norm, strides, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.down = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.InstanceNorm2d(6, affine=True)
        self.up = nn.Upsample(scale_factor=2)
        self.last = convolution(6, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.last(self.up(torch.relu(self.norm(self.down(self.pad(image)))))))


@pytest.fixture(scope="module")
def style() -> LoadedGenerator:
    rule = SizeRule(4, 2)
    return LoadedGenerator("style", randomised(Style()), 1, (-1.0, 1.0), (-1.0, 1.0), rule, tileable=False)


@pytest.fixture(scope="module")
def style_graph(style: LoadedGenerator) -> onnx.ModelProto:
    return graph_from_generator(FrameGraph(style), style.size_rule, None)


def run(model: onnx.ModelProto, images: Frames) -> Frames:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"frame": images})[0]


def assert_is_pytorch(model: onnx.ModelProto, generator: LoadedGenerator, images: Frames) -> None:
    found = run(model, images)
    wanted = np.stack([reference_output(generator, image) for image in images])
    assert found.shape == wanted.shape
    steps = np.abs(found.astype(int) - wanted)
    assert steps.max() <= 1
    assert np.mean(steps != 0) < 0.01
    assert wanted.std() > 5


def dimensions(port: onnx.ValueInfoProto) -> list[int | str]:
    return [dimension.dim_param or dimension.dim_value for dimension in port.type.tensor_type.shape.dim]


def assert_canonical(model: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    onnx.checker.check_model(model, full_check=True)
    assert [port.name for port in model.graph.input] == ["frame"]
    assert [port.name for port in model.graph.output] == ["image"]
    for port in (*model.graph.input, *model.graph.output):
        assert port.type.tensor_type.elem_type == TensorProto.UINT8
    assert not any(node.op_type == "Constant" for node in model.graph.node)
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def assert_uint8_only_at_the_edge(model: onnx.ModelProto) -> None:
    """TensorRT allows uint8 for inputs and outputs only, and converts it to and from floats only."""
    nodes = list(model.graph.node)
    readers = [node for node in nodes if "frame" in node.input]
    assert [node.op_type for node in readers] == ["Cast"]
    assert (nodes[-1].op_type, list(nodes[-1].output)) == ("Cast", ["image"])
    chain = [nodes[-1]]
    while len(chain) < 4:
        (before,) = [node for node in nodes if chain[0].input[0] in node.output]
        chain.insert(0, before)
    kinds = [node.op_type for node in chain]
    assert kinds in (["Transpose", "Clip", "Round", "Cast"], ["Clip", "Round", "Reshape", "Cast"])
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    inside = [info for info in inferred.value_info if info.type.tensor_type.elem_type == TensorProto.UINT8]
    assert not inside
    assert not any(tensor.data_type == TensorProto.UINT8 for tensor in inferred.initializer)


@pytest.mark.parametrize("id", FAMILIES)
def test_exported_family(id: str) -> None:
    model, scale = exported(id), published(id).scale
    assert_canonical(model)
    assert_uint8_only_at_the_edge(model)
    assert dimensions(model.graph.input[0]) == ["n", "h", "w", 3]
    count, height, width, channels = dimensions(model.graph.output[0])
    assert (count, channels) == ("n", 3)
    assert {height, width}.isdisjoint({0, "h", "w"} if scale > 1 else {0})  # free, and not the input's
    assert_is_pytorch(model, loaded(id), frames(2))
    assert_is_pytorch(model, loaded(id), frames(1, 16, 20, seed=3))


@pytest.mark.parametrize("id", FAMILIES)
def test_the_frame_is_transposed_after_the_cast(id: str) -> None:
    model = exported(id)
    (cast,) = [node for node in model.graph.node if "frame" in node.input]
    after = [node.op_type for node in model.graph.node if cast.output[0] in node.input]
    assert after in (["Transpose"], ["Transpose", "Tile"])  # the second one is the anchor


@pytest.mark.parametrize("id", ["compact-x2", "compact-x3", "srvgg-x4"])
@pytest.mark.parametrize("shape", [None, (20, 28)], ids=["free", "fixed"])
def test_pixel_shuffle_at_the_end_is_written_in_frame_order(id: str, shape: tuple[int, int] | None) -> None:
    model = exported(id, shape)
    kinds = [node.op_type for node in model.graph.node]
    assert not {"DepthToSpace", "Resize"} & set(kinds)
    assert (kinds.count("Transpose"), kinds.count("Tile")) == (3, 1)
    assert_is_pytorch(model, loaded(id), frames(1, 20, 28))


def test_net_that_is_not_folded_shuffles_in_frame_order_too() -> None:
    """The swap of the colours at its end goes into the weights; the one at its beginning stays."""
    net = randomised(nn.Sequential(convolution(3, 6), nn.ReLU(), convolution(6, 12), nn.PixelShuffle(2)))
    generator = LoadedGenerator("shuffle", net, 2, (0.0, 1.0), (-1.0, 1.0))
    model = graph_from_generator(FrameGraph(generator), SizeRule(), None)
    assert_canonical(model)
    assert_uint8_only_at_the_edge(model)
    assert "DepthToSpace" not in {node.op_type for node in model.graph.node}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    gathers = [constants[node.input[1]].tolist() for node in model.graph.node if node.op_type == "Gather"]
    assert gathers == [[2, 1, 0], [0, 1, 3, 4]]  # colours, and the sizes of the image
    assert dimensions(model.graph.output[0])[::3] == ["n", 3]
    assert_is_pytorch(model, generator, frames(2))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (48, 64), (61, 90)])
@pytest.mark.parametrize("count", [1, 3])
def test_any_size_and_any_number_of_frames(size: tuple[int, int], count: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    assert_is_pytorch(exported("compact-x2"), loaded("compact-x2"), images)


def test_graph_of_one_size() -> None:
    model = exported("compact-x2", (20, 28))
    assert_canonical(model)
    assert_uint8_only_at_the_edge(model)
    assert dimensions(model.graph.input[0]) == [1, 20, 28, 3]
    assert dimensions(model.graph.output[0]) == [1, 40, 56, 3]
    assert not {"Shape", "Concat"} & {node.op_type for node in model.graph.node}  # no size is left to compute
    assert_is_pytorch(model, loaded("compact-x2"), frames(1, 20, 28))
    with pytest.raises(Exception, match="Got invalid dimensions"):
        run(model, frames(1, 20, 30))


def test_net_with_reflection_padding_and_instance_norm(style: LoadedGenerator, style_graph: onnx.ModelProto) -> None:
    """Asked for opset 17, the exporter stays at 18 for such a net; ours is lowered."""
    assert_canonical(style_graph)
    assert_uint8_only_at_the_edge(style_graph)
    kinds = {node.op_type for node in style_graph.graph.node}
    assert {"Pad", "InstanceNormalization", "Resize"} <= kinds
    assert_is_pytorch(style_graph, style, frames(2, 24, 32))
    assert_is_pytorch(style_graph, style, frames(1, 30, 22, seed=3))


def test_colours_are_swapped_without_a_negative_step(style_graph: onnx.ModelProto) -> None:
    """TensorRT and OpenVINO differ on Slice with step -1; a net that cannot be folded gathers its channels."""
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in style_graph.graph.initializer}
    swaps = [node for node in style_graph.graph.node if node.op_type == "Gather"]
    assert [constants[node.input[1]].tolist() for node in swaps] == [[2, 1, 0], [2, 1, 0]]


@pytest.mark.parametrize("id", FAMILIES)
def test_file_tells_nothing_about_the_machine_that_made_it(id: str) -> None:
    model = exported(id)
    data = model.SerializeToString()
    root = Path(__file__).resolve().parents[2]
    places = (root, Path.home(), Path(torch.__file__).parent)
    for secret in (*map(str, places), "checkpoint_factory", ".py", "pkg.torch"):
        assert secret.encode() not in data, secret
    assert (model.producer_name, model.producer_version, model.doc_string) == ("genedge", "", "")
    assert not model.metadata_props
    assert not model.graph.value_info
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_the_same_weights_give_the_same_file() -> None:
    """Engines are cached under the graph's digest."""
    again = graph_from_generator(FrameGraph(loaded("compact-x2")), SizeRule(), None)
    assert again.SerializeToString(deterministic=True) == exported("compact-x2").SerializeToString(deterministic=True)


def test_size_rule_is_obeyed_by_the_example(style: LoadedGenerator) -> None:
    """The exporter traces one frame; an odd one would be refused by a net with strides."""
    seen = []

    class Watch(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append((int(image.shape[2]), int(image.shape[3])))
            return image

    graph_from_generator(FrameGraph(LoadedGenerator("watch", Watch(), 1)), SizeRule(70, 7), None)
    assert seen
    assert all(height % 7 == 0 and width % 7 == 0 and min(height, width) >= 70 for height, width in seen)


def test_net_that_cannot_be_exported_is_refused_in_one_line() -> None:
    class Stubborn(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if image.mean().item() > 0.5 else -image

    with pytest.raises(GenedgeError) as error:
        graph_from_generator(FrameGraph(LoadedGenerator("stubborn", Stubborn(), 1)), SizeRule(), None)
    assert str(error.value).startswith("PyTorch's ONNX exporter refused the generator: ")
    assert "\n" not in str(error.value)


def test_exporting_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    graph_from_generator(FrameGraph(loaded("compact-x3")), SizeRule(), (8, 8))
    assert capfd.readouterr() == ("", "")


def test_canonical_names_free_dimensions_and_refuses_what_is_invalid() -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["frame"], ["image"], name="i")],
            "g",
            [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["s53", "s0", "s1", 3])],
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["s53", "s0", "s1", 3])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    result = canonical(model)
    assert dimensions(result.graph.input[0]) == dimensions(result.graph.output[0]) == ["n", "h", "w", 3]
    assert (result.graph.name, model.graph.name) == ("generator", "g")
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(GenedgeError, match=re.compile(r"the exported graph is not valid ONNX: .*nothing", re.DOTALL)):
        canonical(model)


def test_checked_gives_back_the_model_or_one_line() -> None:
    model = exported("compact-x2")
    assert checked(model) is model
    with pytest.raises(GenedgeError) as error:
        checked(onnx.ModelProto())
    assert "\n" not in str(error.value)
