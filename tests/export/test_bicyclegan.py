"""A generator with a latent vector."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from checkpoint_factory import exported, frame, loaded, published
from nets_bicyclegan import BicycleAll, BicycleInput
from published import convolution
from torch import Tensor, nn

from export.frame_io import reference_output
from export.generators import GENERATORS, identify
from export.generators.bicyclegan import BICYCLEGAN
from runtime.errors import CheckpointError, UsageError


def refusal(state: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    return str(error.value)


@pytest.mark.parametrize("id", ["bicyclegan", "bicyclegan-edges", "bicyclegan-batch-norm"])
def test_onnx_graph_gives_what_pytorch_gives_and_the_vector_chooses_the_picture(id: str) -> None:
    generator = loaded(id)
    assert generator.fixed_size is not None
    model, image = exported(id, generator.fixed_size), frame(*generator.fixed_size, seed=3)
    assert [port.name for port in model.graph.input] == ["frame", "latent"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(latent: np.ndarray) -> np.ndarray:
        return session.run(None, {"frame": image[None], "latent": latent[None]})[0][0].astype(int)

    outputs = []
    for latent in np.random.default_rng(0).normal(size=(2, 8)).clip(-3, 3).astype(np.float32):
        outputs.append(run(latent))
        assert np.abs(outputs[-1] - reference_output(generator, image, {"latent": latent})).max() <= 1
    assert np.abs(outputs[0] - outputs[1]).mean() > 1
    assert np.abs(run(np.zeros(8, np.float32)) - reference_output(generator, image)).max() <= 1  # the default


def test_the_code_is_a_vector_about_zero() -> None:
    code = loaded("bicyclegan").conditions[0].code
    assert (code.kind, code.size, code.default, code.low, code.high) == ("vector", 8, (0.0,) * 8, -3, 3)


def test_grey_pictures_are_made_as_pillow_makes_them() -> None:
    image_module = pytest.importorskip("PIL.Image")
    image = frame(64, 32, seed=6)
    grey = np.asarray(image_module.fromarray(np.ascontiguousarray(image[..., ::-1])).convert("L"))
    seen: list[Tensor] = []
    generator = loaded("bicyclegan-edges")
    first = generator.net.get_submodule("model.down.0")
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0, 0] * 127.5 + 127.5))
    reference_output(generator, image)
    assert np.abs(seen[0].numpy() - grey).max() <= 0.51  # Pillow rounds it


def test_frames_have_the_size_at_which_the_innermost_features_are_one_pixel_unless_said_otherwise() -> None:
    generator = loaded("bicyclegan")
    assert (generator.fixed_size, generator.fit, generator.tileable) == ((64, 64), "resize", False)
    assert generator.size_rule.padded(1, 65) == (64, 128)
    state = published("bicyclegan").state()
    assert BICYCLEGAN.load(state, size="512").fixed_size == (512, 512)
    for size in ("500", "0", "-64", "big", "1e3", "100000000000", "65536"):
        with pytest.raises(UsageError, match=f"the option size of bicyclegan is a multiple of 64 .*, not {size}"):
            BICYCLEGAN.load(state, size=size)


def test_a_vector_behind_the_picture_only_is_told_by_a_note() -> None:
    assert any(
        "takes 7 channels, read as a picture of 3 and a latent vector of 4" in n
        for n in loaded("bicyclegan-input").notes
    )
    assert any("takes 9 channels, read as a picture of 1 and" in n for n in loaded("bicyclegan-batch-norm").notes)
    assert not any("channels" in note for note in loaded("bicyclegan").notes)


def test_a_vector_in_all_levels_is_read_from_the_file() -> None:
    generator = BICYCLEGAN.load(BicycleAll(3, 5, 6, 2).state_dict())
    assert generator.conditions[0].code.size == 5
    state = BicycleAll(2, 8, 6, 2).state_dict()
    assert "takes 10 channels, which is no picture of 1 or 3 channels and a latent vector of 8" in refusal(state)


def test_a_u_net_without_a_vector_is_another_family() -> None:
    """That of pix2pix has the names of ``add_input``, and three channels at its input."""
    state = BicycleInput(3, 0, 5, 2).state_dict()
    assert not BICYCLEGAN.detect(state)
    biasless = {name: value for name, value in published("bicyclegan-input").state().items() if "bias" not in name}
    assert not BICYCLEGAN.detect(biasless)


class Encoder(nn.Module):
    """The names of ``E_ResNet``, shortened."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.fcVar = (nn.Sequential(nn.Linear(8, 8)) for _ in range(2))
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), convolution(4, 8))


class Discriminator(nn.Module):
    """The names of ``D_NLayersMulti``, shortened."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(2):
            layers = [nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 1, 1)]
            self.add_module(f"model_{number}", nn.Sequential(*layers))


@pytest.mark.parametrize("net", [Encoder, Discriminator])
def test_the_other_nets_of_its_publishers_are_no_generators(net: type[nn.Module]) -> None:
    state = net().state_dict()
    assert not [family.id for family in GENERATORS if family.detect(state)]


def test_files_that_do_not_fit_are_refused_in_words() -> None:
    state = published("bicyclegan").state()
    wide = refusal(state | {"model.down.0.weight": torch.zeros(300_000, 11, 1, 1)})
    assert "first convolution takes 11 channels" in wide
    wide = refusal(state | {"model.submodule.down.1.weight": torch.zeros(300_000, 10, 1, 1)})
    assert "model.submodule.down.1.weight is [300000, 10, 1, 1] instead of [300000, 10, 4, 4]" in wide
    deep = {f"model.{'submodule.' * level}down.{int(level > 0)}.weight": torch.zeros(1, 2, 4, 4) for level in range(60)}
    assert "the checkpoint looks like bicyclegan, but" in refusal(
        deep | {"model.down.0.weight": torch.zeros(1, 4, 4, 4), "model.up.1.weight": torch.zeros(2, 3, 4, 4)}
    )
    bare = {name: torch.zeros(1, 1, 4, 4) for name in ("model.down.0.weight", "model.submodule.down.1.weight")}
    assert "which is no picture of 1 or 3 channels" in refusal(bare | {"model.up.1.weight": torch.zeros(1, 1, 4, 4)})
