"""Architectures that spandrel reads. What needs spandrel itself is skipped by name where it cannot be imported."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoint_factory import saved
from published import convolution, frames, randomised
from torch import Tensor, nn

from export.frame_io import FrameGraph, measured_halo, reference_output
from export.generators import load_generator
from export.generators.base import LoadedGenerator, State
from export.generators.other import SpandrelNet, load_other, treats_places_alike
from export.onnx_graph import graph_from_generator
from runtime.errors import CheckpointError, GenedgeError, UsageError
from runtime.frames import SizeRule

UNKNOWN = "unknown architecture"


def refusal(state: State) -> str:
    with pytest.raises(CheckpointError) as error:
        load_other(state, UNKNOWN)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- spandrel that cannot be imported ---------------------------------------------------------------------------------


class Staged(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules as another machine would have them: a name goes with what its import does, None where it is absent."""

    def __init__(self, modules: dict[str, Callable[[ModuleType], None] | None]) -> None:
        self.modules = modules

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.modules:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        action = self.modules[module.__name__]
        assert action is not None
        action(module)


@pytest.fixture
def stage(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[dict[str, Callable[[ModuleType], None] | None]], None]]:
    seen: set[str] = set()

    def staged(modules: dict[str, Callable[[ModuleType], None] | None]) -> None:
        roots = {name.split(".")[0] for name in modules}
        seen.update(roots)
        for name in [name for name in sys.modules if name.split(".")[0] in roots]:
            monkeypatch.delitem(sys.modules, name)
        present = {name: action for name, action in modules.items() if action is not None}
        for name in modules.keys() - present.keys():
            monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "meta_path", [Staged(present), *sys.meta_path])

    yield staged
    for name in [name for name in sys.modules if name.split(".")[0] in seen]:
        del sys.modules[name]


def works(module: ModuleType) -> None:
    pass


def breaks(module: ModuleType) -> None:
    raise RuntimeError("operator torchvision::nms does not exist")


TORCHVISION = {"torchvision": works, "torchvision.transforms": works, "torchvision.transforms.functional": works}


def test_without_spandrel_the_error_names_the_extra(stage: Any, tmp_path: Path) -> None:
    stage({"spandrel": None})
    path = tmp_path / "odd.pth"
    path.write_bytes(saved({"stem.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError) as error:
        load_generator(path)
    assert str(error.value).startswith(f"{path}: unknown architecture: 1 tensors such as stem.weight [2]; the nearest")
    assert str(error.value).endswith('; spandrel knows 40 more architectures: pip install "genedge[spandrel]"')


def test_missing_torchvision_is_told_with_the_cpu_wheel(stage: Any) -> None:
    stage({"spandrel": works, "torchvision": None})
    message = refusal({"a": torch.zeros(1)})
    assert message.startswith(f"{UNKNOWN}; spandrel knows 40 more")
    assert "it needs torchvision, which is not installed: pip install torchvision --index-url https://" in message


def test_broken_torchvision_is_told_with_its_reason(stage: Any) -> None:
    stage({"spandrel": works, "torchvision": breaks})
    message = refusal({"a": torch.zeros(1)})
    assert "torchvision, which does not fit this PyTorch (RuntimeError: operator torchvision::nms does not " in message
    assert "pip install torchvision --index-url https://download.pytorch.org/whl/cpu" in message


def test_spandrel_that_cannot_be_imported_is_told_with_its_reason(stage: Any) -> None:
    def lacks(module: ModuleType) -> None:
        raise ModuleNotFoundError("No module named 'einops'", name="einops")

    stage({**TORCHVISION, "spandrel": lacks})
    assert "but cannot be imported (ModuleNotFoundError: No module named 'einops')" in refusal({"a": torch.zeros(1)})


# --- descriptions of nets ---------------------------------------------------------------------------------------------


def staged_spandrel(module: ModuleType, net: Callable[[], nn.Module], **described: Any) -> None:
    """A stand-in with the names that are used of spandrel: it knows one architecture, Tiny, by the tensor ``tiny``."""

    class Descriptor(SimpleNamespace):
        pass

    class Masked(SimpleNamespace):
        pass

    def load(state: dict[str, Tensor]) -> Any:
        made = net()
        made.load_state_dict({name: value for name, value in state.items() if name != "tiny"})
        settings = {
            "purpose": "SR",
            "tags": ["8nf"],
            "scale": 1,
            "input_channels": 3,
            "output_channels": 3,
            "size_requirements": SimpleNamespace(minimum=0, multiple_of=1, square=False),
            "tiling": "supported",
            **described,
        }
        kind = Masked if settings["purpose"] == "Inpainting" else Descriptor
        return kind(model=made, architecture=tiny, _call_fn=lambda model, image: model(image), **settings)

    tiny = SimpleNamespace(id="Tiny", name="Tiny", load=load)

    class Registry:
        def __init__(self) -> None:
            self.known: list[Any] = []

        def add(self, support: Any) -> None:
            self.known.append(support)

        def architectures(self, order: str) -> list[Any]:
            assert order == "detection"
            return self.known

        def load(self, state: dict[str, Tensor]) -> Any:
            return self.known[0].architecture.load(state)

    support = SimpleNamespace(architecture=tiny, detect=lambda state: state["tiny"] is not None)
    registry = Registry()
    registry.add(support)
    values: dict[str, Any] = {
        "__version__": "0.0",
        "MAIN_REGISTRY": registry,
        "ArchRegistry": Registry,
        "ArchSupport": SimpleNamespace(from_architecture=lambda architecture: support),
        "ModelLoader": lambda device, registry: SimpleNamespace(load_from_state_dict=registry.load),
        "ImageModelDescriptor": Descriptor,
        "ModelTiling": SimpleNamespace(SUPPORTED="supported"),
    }
    for name, value in values.items():
        setattr(module, name, value)


def plain() -> nn.Module:
    return nn.Sequential(convolution(3, 4), nn.Mish(), convolution(4, 3))


def described(stage: Any, make: Callable[[], nn.Module] = plain, **settings: Any) -> LoadedGenerator:
    stage({**TORCHVISION, "spandrel": lambda module: staged_spandrel(module, make, **settings)})
    return load_other(tiny_state(make), UNKNOWN)


def tiny_state(make: Callable[[], nn.Module] = plain) -> dict[str, Tensor]:
    return {**randomised(make()).state_dict(), "tiny": torch.zeros(1)}


def test_description_becomes_a_generator(stage: Any) -> None:
    sizes = SimpleNamespace(minimum=16, multiple_of=8, square=False)
    generator = described(stage, size_requirements=sizes, purpose="Restoration")
    assert (generator.family, generator.scale, generator.task) == ("spandrel-tiny", 1, "translation")
    assert (generator.input_range, generator.output_range) == ((0.0, 1.0), (0.0, 1.0))
    assert generator.size_rule == SizeRule(16, 8)
    assert dict(generator.facts) == {"architecture": "Tiny", "tags": "8nf"}
    assert generator.tileable
    assert generator.fixed_size is None
    assert generator.notes == ("Read by spandrel 0.0 as Tiny.",)
    assert not any(module.training for module in generator.net.modules())
    assert not any(parameter.requires_grad for parameter in generator.net.parameters())
    state = tiny_state()
    wanted = plain()
    wanted.load_state_dict({name: value for name, value in state.items() if name != "tiny"})
    image = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(generator.net(image), wanted(image))  # its Mish is written in other operators


def test_net_that_takes_squares_only_has_one_size(stage: Any) -> None:
    sizes = SimpleNamespace(minimum=0, multiple_of=128, square=True)
    assert described(stage, size_requirements=sizes).fixed_size == (256, 256)


def test_tiling_that_spandrel_advises_against_is_not_done(stage: Any) -> None:
    generator = described(stage, tiling="discouraged")
    assert not generator.tileable
    assert "is better not cut, says spandrel" in generator.notes[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"purpose": "Inpainting"}, "Tiny fills in what a mask marks; genedge has no masks"),
        ({"purpose": "FaceSR"}, "Tiny restores one aligned face, not a picture"),
        ({"input_channels": 1, "output_channels": 1}, "this Tiny takes 1 channels and gives 1; only nets from RGB"),
        ({"output_channels": 4}, "this Tiny takes 3 channels and gives 4; only nets from RGB"),
    ],
)
def test_what_is_no_generator_of_pictures_is_refused(stage: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        described(stage, **settings)
    assert message in str(error.value)


def test_architecture_that_spandrel_does_not_know_either(stage: Any) -> None:
    stage({**TORCHVISION, "spandrel": lambda module: staged_spandrel(module, plain)})
    assert refusal({"a": torch.zeros(1)}) == f"{UNKNOWN}; spandrel 0.0 does not know it either"  # its detector raises


def test_tensor_that_does_not_fit_is_told_in_one_line(stage: Any) -> None:
    stage({**TORCHVISION, "spandrel": lambda module: staged_spandrel(module, plain)})
    message = refusal({**tiny_state(), "0.bias": torch.zeros(9)})
    assert message.startswith("the checkpoint looks like Tiny, but spandrel cannot load it: RuntimeError: Error(s) in")
    assert "size mismatch for 0.bias" in message


def test_shapes_are_compared_before_they_take_memory(stage: Any) -> None:
    wide = 3_000_000  # the inner convolution would have wide² weights, 36 terabytes

    def huge() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, wide, 1), nn.Conv2d(wide, wide, 1), nn.Conv2d(wide, 3, 1))

    stage({**TORCHVISION, "spandrel": lambda module: staged_spandrel(module, huge)})
    message = refusal({**tiny_state(), "0.weight": torch.zeros(wide, 3, 1, 1)})
    assert "cannot load it: RuntimeError: Error(s) in loading state_dict" in message


def test_net_that_needs_values_while_it_is_built_is_built(stage: Any) -> None:
    class Counting(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(convolution(3, 3))
            self.total = float(torch.linspace(0, 1, 5).sum())  # not possible without memory

    assert described(stage, Counting).family == "spandrel-tiny"


def test_it_has_no_options(stage: Any) -> None:
    stage({**TORCHVISION, "spandrel": lambda module: staged_spandrel(module, plain)})
    with pytest.raises(UsageError, match="Tiny, which spandrel reads, has no option 'scale'"):
        load_other(tiny_state(), UNKNOWN, {"scale": "2"})


# --- tiles ------------------------------------------------------------------------------------------------------------


class Windows(nn.Module):
    """The mean of windows of 8 pixels: it looks 7 pixels far, but not the same everywhere."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.interpolate(nn.functional.avg_pool2d(image, 8, ceil_mode=True), scale_factor=8.0)[
            ..., : image.shape[2], : image.shape[3]
        ]


@pytest.mark.parametrize(
    ("net", "rule", "scale", "alike"),
    [
        (convolution(3, 3, 9), SizeRule(), 1, True),
        (nn.Sequential(convolution(3, 12), nn.PixelShuffle(2)), SizeRule(16, 4), 2, True),
        (nn.Sequential(nn.PixelUnshuffle(4), convolution(48, 48), nn.PixelShuffle(4)), SizeRule(4, 4), 1, True),
        (nn.Sequential(nn.PixelUnshuffle(4), convolution(48, 48), nn.PixelShuffle(4)), SizeRule(4, 2), 1, False),
        (Windows(), SizeRule(), 1, False),
        (Windows(), SizeRule(8, 8), 1, True),
        (nn.Sequential(*(convolution(3, 3, 9) for _ in range(16))), SizeRule(), 1, True),  # 64 pixels
        (nn.Sequential(*(convolution(3, 3, 9) for _ in range(17))), SizeRule(), 1, False),
        (nn.Sequential(convolution(3, 3), nn.InstanceNorm2d(3)), SizeRule(), 1, False),
    ],
)
def test_nets_that_tiles_would_change_are_found(net: nn.Module, rule: SizeRule, scale: int, alike: bool) -> None:
    torch.manual_seed(0)
    assert treats_places_alike(net.eval(), rule, scale) is alike
    if alike:
        graph = FrameGraph(LoadedGenerator("test", net, scale, size_rule=rule))
        assert measured_halo(graph, rule.minimum, rule.multiple, scale, limit=96) <= 64


# --- graphs -----------------------------------------------------------------------------------------------------------


class SizeBound(nn.Module):
    """Computes with the frame's size as a number, as attention in windows does."""

    def forward(self, image: Tensor) -> Tensor:
        return image * float(int(image.shape[2]))


@pytest.mark.slow  # the exporter tries in several ways
def test_graph_that_would_take_one_size_only_is_refused_with_what_to_do() -> None:
    graph = FrameGraph(LoadedGenerator("test", SizeBound(), 1))
    with pytest.raises(GenedgeError, match="need --shape HxW, a graph of one size"):
        graph_from_generator(graph, SizeRule(), None)


# --- spandrel itself --------------------------------------------------------------------------------------------------


def architecture(name: str) -> Any:
    return importlib.import_module(f"spandrel.architectures.{name}")


REAL: dict[str, Callable[[], nn.Module]] = {
    "PLKSR": lambda: architecture("PLKSR").PLKSR(dim=16, n_blocks=2, upscaling_factor=2),
    "RCAN": lambda: architecture("RCAN").RCAN(scale=2, n_resgroups=1, n_resblocks=2, n_feats=16, reduction=4),
    "Swift-SRGAN": lambda: architecture("SwiftSRGAN").SwiftSRGAN(
        in_channels=3, num_channels=8, num_blocks=2, upscale_factor=2
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_architecture_goes_all_the_way(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # RuntimeError where its library fits another PyTorch
        pytest.skip(f"torchvision, which spandrel needs, cannot be imported ({type(error).__name__})")
    torch.manual_seed(0)
    net = REAL[name]().eval()
    path = tmp_path / "net.pth"
    path.write_bytes(saved(net.state_dict()))
    generator, _ = load_generator(path)
    assert generator.facts["architecture"] == name
    assert isinstance(generator.net, SpandrelNet)
    model = graph_from_generator(FrameGraph(generator), generator.size_rule, None)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for height, width in ((24, 32), (17, 41)):
        image = frames(1, *generator.size_rule.padded(height, width))
        wanted = reference_output(generator, image[0])
        assert np.abs(session.run(None, {"frame": image})[0][0].astype(int) - wanted).max() <= 1
        assert wanted.std() > 2
