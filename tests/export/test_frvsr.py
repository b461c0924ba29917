"""FRVSR, TecoGAN and EGVSR: their own last picture goes in again, moved to where the frame has it now."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from checkpoint_factory import exported, loaded, published, saved, write_checkpoint
from nets_frvsr import PUBLISHED_FRVSR, frvsr, full_size, published_run
from onnx import TensorProto
from published import frames

import export.build
import export.cli
import export.parity
import runtime.cli
from calib.quantise import Int8Config, prepare
from export.bundle import draft_manifest
from export.checkpoint import Checkpoint
from export.frame_io import reference_run
from export.generators import GENERATORS, check_options, identify, load_generator
from export.generators.base import RecurrentState, State
from export.generators.frvsr import FrvsrNet, bicubic_kernels
from export.parity import RUN_LENGTH
from export.variants import fp16_from_graph
from runtime.errors import CheckpointError, UsageError
from runtime.frames import Frames
from runtime.manifest import Manifest
from runtime.metrics import psnr
from runtime.sessions import Choice, Session, session_for
from runtime.video.source import open_source

IDS = [case.id for case in PUBLISHED_FRVSR]
SIZE = (48, 64)  # height, width
Finder = Callable[[str], Path]


def pan(count: int = RUN_LENGTH, height: int = SIZE[0], width: int = SIZE[1], seed: int = 0) -> Frames:
    """A window that moves over one picture by 2 pixels down and 3 to the right, ``uint8 (T, H, W, 3) BGR``."""
    large = frames(1, height + 2 * count, width + 3 * count, seed)[0]
    return np.stack([large[2 * t : 2 * t + height, 3 * t : 3 * t + width] for t in range(count)])


def size_of(id: str) -> tuple[int, int] | None:
    """One net takes any size; a graph of one size is exported much faster."""
    return None if id == "frvsr-bd-x4" else SIZE


def manifest(id: str) -> Manifest:
    return draft_manifest("net", loaded(id), Checkpoint({}, "0" * 64), "MIT", "noise", 0, size_of(id))


def graph_of(id: str, variant: str = "fp32") -> onnx.ModelProto:
    model = exported(id, size_of(id))
    return model if variant == "fp32" else fp16_from_graph(model)


def opened(id: str, backend: str = "onnxruntime", variant: str = "fp32") -> Session:
    pytest.importorskip(backend)
    model = graph_of(id, variant).SerializeToString()
    return session_for(model, manifest(id), Choice(backend, variant, variant, ""), threads=1)


def played(session: Session, images: Frames) -> Frames:
    return np.concatenate([session.infer(image[None]) for image in images])


# --- checkpoint -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cubic", "depth", "scale", "parameters"),
    [(True, 10, 4, 2_589_093), (False, 10, 4, 2_589_093), (True, 16, 4, 3_032_229), (True, 10, 2, 2_531_429)],
)
def test_nets_of_the_published_size(cubic: bool, depth: int, scale: int, parameters: int) -> None:
    """The 2.6 million parameters of the publishers' benchmark, and TecoGAN+ with its 16 residual blocks."""
    state = full_size(cubic=cubic, depth=depth, scale=scale).state_dict()
    assert [family.id for family in GENERATORS if family.detect(state)] == ["frvsr"]
    generator = identify(state).load(state)
    degradation = "BD" if cubic else "BI"
    facts = {"layout": "TecoGAN", "width": 64, "depth": depth, "degradation": degradation}
    assert (generator.scale, dict(generator.facts)) == (scale, facts)
    assert sum(parameter.numel() for parameter in generator.net.parameters()) == parameters
    assert generator.states == (
        RecurrentState("previous", initial="zeros"),
        RecurrentState("previous_output", "next_output", 3, scale),
    )


def test_cubic_kernels_are_those_of_the_files() -> None:
    for scale in (2, 4):
        held = full_size(cubic=True, depth=1, scale=scale).state_dict()["upsample_func.kernels"]
        torch.testing.assert_close(bicubic_kernels(scale), held, atol=1e-7, rtol=0)


def without_kernels(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("kernels")}


def test_kernels_that_a_file_has_lost_can_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "bare.pth").write_bytes(saved(without_kernels(published("frvsr-bd-x4").state())))
    images = pan(2, 24, 32)
    wanted = reference_run(loaded("frvsr-bd-x4"), list(images))
    generator, _ = load_generator(tmp_path / "bare.pth", {"degradation": "BD"})
    assert (generator.facts["degradation"], generator.notes) == ("BD", ())
    np.testing.assert_array_equal(reference_run(generator, list(images)), wanted)
    unasked, _ = load_generator(tmp_path / "bare.pth")
    assert unasked.facts["degradation"] == "BI"
    assert "no cubic kernels" in unasked.notes[0]
    assert not np.array_equal(reference_run(unasked, list(images)), wanted)
    asked, _ = load_generator(tmp_path / "bare.pth", {"degradation": "BI"})
    assert asked.notes == ()


def test_options_that_contradict_the_file_or_do_not_exist(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "net.pth", "frvsr-bd-x4")
    with pytest.raises(UsageError, match="holds the cubic kernels of BD: leave out --option degradation=BI"):
        load_generator(path, {"degradation": "BI"})
    with pytest.raises(UsageError, match="the option degradation of frvsr is one of auto, BD, BI, not blur"):
        check_options(identify(published("frvsr-bd-x4").state()), {"degradation": "blur"})


def refusal(state: State) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    return str(error.value)


def test_files_that_do_not_fit_are_refused_in_words() -> None:
    state = published("frvsr-bd-x4").state()
    three = {**state, "srnet.conv_in.0.weight": torch.zeros(8, 30, 3, 3)}
    assert "srnet.conv_in takes 30 channels, which fits neither a scale of 2 (15) nor one of 4 (51)" in refusal(three)
    two = {**state, "srnet.conv_in.0.weight": torch.zeros(8, 15, 3, 3)}
    assert "it has srnet.conv_up.2.weight, srnet.conv_up.2.bias, which" in refusal(two)
    assert "upsample_func.kernels is [4, 5] instead of [4, 4]" in refusal(
        {**state, "upsample_func.kernels": torch.zeros(4, 5)}
    )
    assert "it lacks upsample_func.kernels" in refusal(
        {**without_kernels(state), "srnet.upsample_func.kernels": torch.zeros(4, 4)}
    )
    assert "fnet.decoder2.2.weight is [6], no kernel" in refusal({**state, "fnet.decoder2.2.weight": torch.zeros(6)})
    far = {**state, "srnet.resblocks.1000000000.conv.0.weight": torch.zeros(8, 8, 3, 3)}
    assert "numbers a layer 1000000000" in refusal(far)


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_reference_run_is_what_the_publishers_ran(id: str) -> None:
    images = pan(4, 24, 32)
    found, wanted = np.stack(reference_run(loaded(id), list(images))), published_run(frvsr(id), images)
    difference = np.abs(found.astype(int) - wanted)
    assert difference.max() <= 1
    assert np.mean(difference != 0) < 0.001
    alone = reference_run(loaded(id), [images[3]])[0]
    assert np.abs(wanted[3].astype(int) - alone).mean() > 3  # the state matters here


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (0, -2), (-1, 5)])
def test_the_picture_before_is_moved_by_the_motion(right: int, down: int) -> None:
    """By whole pixels of the frame, so 4 of the picture; what comes from outside is the border."""
    net = loaded("frvsr-bd-x4").net
    assert isinstance(net, FrvsrNet)
    picture = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    motion = torch.tensor([right / 24, down / 24]).reshape(1, 2, 1, 1).expand(2, -1, 16, 24)
    found = net.moved(picture, motion)
    y = (torch.arange(64) + 4 * down).clamp(0, 63)
    x = (torch.arange(96) + 4 * right).clamp(0, 95)
    torch.testing.assert_close(found, picture[:, :, y][:, :, :, x], atol=2e-4, rtol=0)


@torch.no_grad()
def test_in_the_first_step_the_frame_before_has_no_effect() -> None:
    """The picture before is black all over, wherever it moves; so the black frame could be any other."""
    net, image = loaded("frvsr-bd-x4").net, published("frvsr-bd-x4").pictures()
    black = torch.zeros(1, 3, 96, 128)
    assert torch.equal(net(image, torch.zeros_like(image), black)[0], net(image, image, black)[0])


# --- graph ------------------------------------------------------------------------------------------------------------


def shape_of(port: onnx.ValueInfoProto) -> list[int | str]:
    return [dimension.dim_param or dimension.dim_value for dimension in port.type.tensor_type.shape.dim]


def test_graph_has_the_ports_of_the_manifest() -> None:
    model, described = exported("frvsr-bd-x4"), manifest("frvsr-bd-x4")
    for ports, wanted in ((model.graph.input, described.inputs), (model.graph.output, described.outputs)):
        assert [(port.name, tuple(shape_of(port))) for port in ports] == [(port.name, port.shape) for port in wanted]
    assert [(port.initial, port.source) for port in described.states] == [("zeros", "frame"), ("zeros", "next_output")]
    assert [(entry.version, model.ir_version) for entry in model.opset_import] == [(17, 8)]


def test_a_state_of_another_size_cannot_be_described() -> None:
    generator = loaded("frvsr-bd-x4")
    states = (generator.states[0], replace(generator.states[1], scale=2))
    with pytest.raises(ValueError, match="the size of the frame or that of the image"):
        draft_manifest("net", replace(generator, states=states), Checkpoint({}, "0" * 64), "MIT", "noise", 0, None)


def test_graph_samples_with_places_that_it_makes_of_two_vectors() -> None:
    """No array of all places is stored, made or fed; and what enlarges the motion has constant weights."""
    graph = exported("frvsr-bd-x4").graph
    (sample,) = (node for node in graph.node if node.op_type == "GridSample")
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in sample.attribute}
    assert attributes == {"align_corners": 1, "mode": b"bilinear", "padding_mode": b"border"}
    assert {node.op_type for node in graph.node if "Range" in node.op_type or "Expand" in node.op_type} == {"Range"}
    constants = {tensor.name for tensor in graph.initializer}
    assert all(node.input[1] in constants for node in graph.node if node.op_type in ("Conv", "ConvTranspose"))
    fixed = exported("frvsr-bi-x4", SIZE).graph
    assert not {node.op_type for node in fixed.node} & {"Range", "Shape"}
    places = 2 * 4 * 16 * SIZE[0] * SIZE[1]  # bytes
    assert max(len(tensor.raw_data) for tensor in fixed.initializer) < places / 10


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_follow_pytorch_over_a_run(id: str, backend: str) -> None:
    with opened(id, backend) as session:
        for images in (pan(), pan(RUN_LENGTH, *(SIZE if size_of(id) else (40, 56)), seed=1)):
            session.reset()
            found, wanted = played(session, images), published_run(frvsr(id), images)
            assert np.abs(found.astype(int) - wanted).max() <= 1


def test_two_streams_do_not_mix_and_a_reset_forgets() -> None:
    both = np.stack([pan(3), pan(3, seed=5)], axis=1)  # (T, 2, H, W, 3)
    with opened("frvsr-bd-x4") as session:
        found = np.stack([session.infer(images) for images in both])
        session.reset()
        alone = session.infer(both[2])
    for stream in range(2):
        wanted = published_run(frvsr(), both[:, stream])
        assert np.abs(found[:, stream].astype(int) - wanted).max() <= 1
    assert np.abs(found[2].astype(int) - alone).mean() > 3


@pytest.mark.parametrize("id", IDS)
def test_float16_keeps_the_places_and_stays_close_over_a_run(id: str) -> None:
    half = graph_of(id, "fp16")
    inferred = onnx.shape_inference.infer_shapes(half, strict_mode=True).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*inferred.value_info, *inferred.input)}
    producer = {name: node for node in half.graph.node for name in node.output}
    seen, waiting = [], [name for node in half.graph.node if node.op_type == "GridSample" for name in node.input]
    while waiting:  # back to where the motion comes from
        name = waiting.pop()
        if name in producer and producer[name].name != "conv2d_13.to_fp32":
            seen.append(producer[name].op_type)
            assert types[name] != TensorProto.FLOAT16
            waiting += producer[name].input
    assert {"Tanh", "Add"} <= set(seen)
    assert sum(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer) > 30
    images = pan()
    with opened(id, variant="fp16") as session:
        found = played(session, images)
    for picture, wanted in zip(found, published_run(frvsr(id), images), strict=True):
        assert psnr(wanted, picture) > 50


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_feeds_the_states(pan_set: Path, tmp_path: Path) -> None:
    prepared = prepare(exported("frvsr-bd-x4"), manifest("frvsr-bd-x4"), Int8Config((pan_set,), cache=tmp_path))
    (first,) = (node for node in prepared.model.graph.node if "net.srnet.conv_in.0.weight" in node.input[1:])
    highest = prepared.statistics.tensors[first.input[0]].highest
    assert highest is not None
    assert highest.shape == (51,)
    assert highest.min() > 0.3  # the picture before as well as the frame


# --- from the checkpoint to a clip ------------------------------------------------------------------------------------


def test_from_the_checkpoint_to_a_clip(assets: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, checked, verified and run by the commands on frames whose sides are no multiples of 8."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export.parity, "HEAVY", 0)  # parity on smaller frames
    monkeypatch.setattr(export.build, "graph_from_generator", lambda *arguments: exported("frvsr-bd-x4"))  # takes 10 s
    with open_source(str(assets("video/bikes.mp4"))) as source:
        images = [frame.image[:150, :202].copy() for frame, _ in zip(source, range(6), strict=False)]
    for index, image in enumerate(images):
        cv2.imwrite(f"in_{index:03d}.png", image)
    write_checkpoint(tmp_path / "tiny.pth", "frvsr-bd-x4")
    assert export.cli.run(["build", "tiny.pth"]) == 0
    assert export.cli.run(["check", "bundles/tiny"]) == 0
    assert runtime.cli.run(["verify", "tiny"]) == 0
    played = ["run", "-b", "tiny", "-i", "in_%03d.png", "-o", "out_%03d.png", "--quiet"]
    assert runtime.cli.run([*played, "--backend", "onnxruntime", "--precision", "fp32"]) == 0
    record = json.loads((tmp_path / "bundles/tiny/parity.json").read_text())
    assert {(result["variant"], result["backend"]) for result in record["results"]} >= {("fp32", "onnxruntime")}
    rule = loaded("frvsr-bd-x4").size_rule
    padded = [np.pad(image, ((0, 2), (0, 6), (0, 0)), mode="edge") for image in images]
    assert padded[0].shape[:2] == rule.padded(150, 202)
    wanted = [image[:600, :808] for image in reference_run(loaded("frvsr-bd-x4"), padded)]
    found = [cv2.imread(str(path)) for path in sorted(tmp_path.glob("out_*.png"))]
    assert len(found) == 6
    for reference, picture in zip(wanted, found, strict=True):
        assert picture is not None
        assert np.abs(reference.astype(int) - picture).max() <= 1
