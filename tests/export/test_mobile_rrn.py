"""The first recurrent family, from its checkpoint to frames of a real clip."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest
import torch
from bundle_factory import write_manifest
from checkpoint_factory import MobileRrn, loaded, mobile_rrn, saved
from onnx import TensorProto
from published import frames

import export.cli
import export.parity
import runtime.cli
from calib.dataset import CalibrationSet
from calib.truth import reduced
from export.build import Built, build, check
from export.bundle import draft_manifest
from export.config import BuildConfig
from export.frame_io import FrameGraph, frame_graph, reference_output, reference_run
from export.generators import GENERATORS, identify, load_generator
from export.generators.base import LoadedGenerator, RecurrentState
from export.onnx_graph import graph_from_generator
from export.parity import ODD_SIZE, PANS, RUN_LENGTH, Pair, golden_pairs, measure, parity_pairs, parity_runs
from export.variants import fp16_from_graph
from runtime.bundle import open_bundle
from runtime.errors import CheckpointError, GenedgeError
from runtime.frames import Frame, Frames, SizeRule
from runtime.manifest import Port
from runtime.metrics import psnr
from runtime.sessions import Choice, available_backends, open_session, runnable, session_for
from runtime.verify import verify
from runtime.video.source import open_source


@pytest.fixture(scope="module")
def generator() -> LoadedGenerator:
    state = mobile_rrn().state_dict()
    return identify(state).load(state)


@pytest.fixture(scope="module")
def model(generator: LoadedGenerator) -> onnx.ModelProto:
    return graph_from_generator(frame_graph(generator), generator.size_rule, None)


@torch.no_grad()
def published_run(net: MobileRrn, images: Frames) -> Frames:
    """As ``generate_output.py`` does it, for consecutive ``uint8 (T, H, W, 3) BGR``."""
    planes = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).permute(0, 3, 1, 2).float()
    hidden, outputs = torch.zeros(1, net.width, *images.shape[1:3]), []
    for index in range(len(planes)):
        before = planes[max(0, index - 1), None]
        picture, hidden = net(planes[index, None], before, hidden)
        outputs.append(np.rint(picture[0].permute(1, 2, 0).numpy()).astype(np.uint8)[..., ::-1])
    return np.stack(outputs)


# --- checkpoint -------------------------------------------------------------------------------------------------------


def test_only_its_own_detector_fires(generator: LoadedGenerator) -> None:
    state = mobile_rrn().state_dict()
    assert [family.id for family in GENERATORS if family.detect(state)] == ["mobile-rrn"]
    assert (generator.family, generator.scale, generator.tileable) == ("mobile-rrn", 4, False)
    assert dict(generator.facts) == {"width": 6, "depth": 2}
    assert generator.states == (RecurrentState("previous"), RecurrentState("hidden", "next_hidden", 6))


def test_the_scale_comes_from_the_last_convolution() -> None:
    state = MobileRrn(5, 1, scale=3).state_dict()
    assert identify(state).load(state).scale == 3


def test_loaded_net_computes_what_the_published_one_does(generator: LoadedGenerator) -> None:
    torch.manual_seed(0)
    inputs = torch.rand(2, 3, 10, 12) * 255, torch.rand(2, 3, 10, 12) * 255, torch.rand(2, 6, 10, 12) * 100
    with torch.no_grad():
        for found, wanted in zip(generator.net(*inputs), mobile_rrn()(*inputs), strict=True):
            assert wanted.std() > 1
            torch.testing.assert_close(found.clamp(0, 255) if found.shape[1] == 3 else found, wanted)


def test_folded_net_takes_and_gives_bgr(generator: LoadedGenerator) -> None:
    folded = generator.folded()
    assert folded is not None
    torch.manual_seed(0)
    frame, before, hidden = torch.rand(1, 3, 8, 9) * 255, torch.rand(1, 3, 8, 9) * 255, torch.rand(1, 6, 8, 9)
    with torch.no_grad():
        picture, after = generator.net(frame, before, hidden)
        found = folded(frame.flip(1), before.flip(1), hidden)
    torch.testing.assert_close(found[0], picture.flip(1), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(found[1], after, atol=1e-3, rtol=1e-5)


def refusal(state: dict[str, torch.Tensor]) -> str:
    with pytest.raises(CheckpointError) as error:
        identify(state).load(state)
    return str(error.value)


def test_files_that_do_not_fit_are_refused_by_name() -> None:
    state = dict(mobile_rrn().state_dict())
    for missing in state:
        message = refusal({name: tensor for name, tensor in state.items() if name != missing})
        if missing in ("conv_first.weight", "trunk.0.conv1.weight", "conv_last.weight", "conv_hidden.weight"):
            assert "nearest family is mobile-rrn" in message
        elif missing == "trunk.1.conv1.weight":  # looks like a shallower net
            assert "it has trunk.1.conv1.bias, " in message
        else:
            assert f"it lacks {missing}" in message
    assert "it has critic.weight, which the family does not know" in refusal({**state, "critic.weight": torch.zeros(3)})
    assert "trunk.1.conv2.bias is [7] instead of [6]" in refusal({**state, "trunk.1.conv2.bias": torch.zeros(7)})
    assert "gives 13 channels" in refusal({**state, "conv_last.weight": torch.zeros(13, 6, 3, 3)})
    started = time.monotonic()
    far = {**state, "trunk.1000000000.conv1.weight": torch.zeros(6, 6, 3, 3)}
    assert "numbers a layer 1000000000" in refusal(far)
    assert time.monotonic() - started < 2


# --- graph ------------------------------------------------------------------------------------------------------------


def test_reference_run_is_what_the_publishers_ran(generator: LoadedGenerator) -> None:
    images = frames(5)
    found = reference_run(generator, list(images))
    np.testing.assert_array_equal(np.stack(found), published_run(mobile_rrn(), images))
    alone = reference_run(generator, [images[4]])[0]
    assert np.abs(found[4].astype(int) - alone).max() > 3  # the state matters here


def shape_of(port: onnx.ValueInfoProto) -> list[int | str]:
    return [dimension.dim_param or dimension.dim_value for dimension in port.type.tensor_type.shape.dim]


def test_graph_has_named_ports(model: onnx.ModelProto) -> None:
    ports = {port.name: (port.type.tensor_type.elem_type, shape_of(port)) for port in model.graph.input}
    assert ports == {
        "frame": (TensorProto.UINT8, ["n", "h", "w", 3]),
        "previous": (TensorProto.UINT8, ["n", "h", "w", 3]),
        "hidden": (TensorProto.FLOAT, ["n", 6, "h", "w"]),
    }
    assert list(ports) == ["frame", "previous", "hidden"]
    assert [port.name for port in model.graph.output] == ["image", "next_hidden"]
    assert shape_of(model.graph.output[1]) == ["n", 6, "h", "w"]
    assert [(entry.version, model.ir_version) for entry in model.opset_import] == [(17, 8)]


def test_every_input_is_read_and_uint8_is_cast_at_once(model: onnx.ModelProto) -> None:
    """The exporter takes two inputs for one where the example has the same tensor for both."""
    readers = {
        name: [node.op_type for node in model.graph.node if name in node.input] for name in ("frame", "previous")
    }
    assert readers == {"frame": ["Cast"], "previous": ["Cast"]}
    assert any("hidden" in node.input for node in model.graph.node)


def test_the_float16_variant_keeps_its_ports(model: onnx.ModelProto) -> None:
    half = fp16_from_graph(model)
    for side in ("input", "output"):
        before, after = (
            [(port.name, port.type.tensor_type.elem_type) for port in getattr(m.graph, side)] for m in (model, half)
        )
        assert after == before
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer)


def test_generators_without_a_state_get_the_plain_graph(generator: LoadedGenerator) -> None:
    assert type(frame_graph(loaded("compact-x2"))) is FrameGraph
    assert not frame_graph(generator).simple


@torch.no_grad()
def test_without_folding_the_graph_computes_the_same(generator: LoadedGenerator) -> None:
    """The conversion is then part of the graph, for the frame before as well."""
    images = torch.from_numpy(frames(2))
    inputs = images[:1], images[1:], torch.rand(1, 6, *images.shape[1:3])
    plain, folded = (frame_graph(each)(*inputs) for each in (replace(generator, fold=None), generator))
    assert (plain[0].int() - folded[0].int()).abs().max() <= 1
    torch.testing.assert_close(plain[1], folded[1], atol=1e-3, rtol=1e-4)


# --- parity -----------------------------------------------------------------------------------------------------------

MATERIAL = CalibrationSet((frames(1, 200, 260)[0], frames(1, 180, 300, seed=1)[0]), ("a", "b"), "two pictures")


@pytest.mark.parametrize("shape", [None, (50, 70)])
def test_a_run_is_a_pan_by_whole_pixels(shape: tuple[int, int] | None) -> None:
    runs = parity_runs(MATERIAL, SizeRule(), shape)
    assert [len(run) for run in runs] == [RUN_LENGTH] * 4
    sizes = [run[0].shape[:2] for run in runs]
    assert sizes == ([(144, 192)] * 3 + [ODD_SIZE] if shape is None else [shape] * 4)
    for index, run in enumerate(runs):
        down, right = PANS[index % len(PANS)]
        for before, after in pairwise(run):
            moved = before[max(0, down) :, max(0, right) : right if right < 0 else None]
            same = after[: len(after) - down, max(0, -right) : -right if right > 0 else None]
            np.testing.assert_array_equal(moved, same)
            assert not np.array_equal(before, after)
    assert len({run[0].tobytes() for run in runs}) == 4


def test_runs_obey_the_size_rule() -> None:
    rule = SizeRule(160, 32)
    assert {run[0].shape[:2] for run in parity_runs(MATERIAL, rule, None)} == {(160, 192), (160, 160)}


def test_pairs_say_where_a_run_begins(generator: LoadedGenerator) -> None:
    pairs = parity_pairs(generator, MATERIAL, (20, 24), lambda text: None)
    assert [pair.begins for pair in pairs] == ([True] + [False] * (RUN_LENGTH - 1)) * 4
    for start in range(0, len(pairs), RUN_LENGTH):
        run = pairs[start : start + RUN_LENGTH]
        images = np.stack([pair.frame for pair in run])
        np.testing.assert_array_equal([pair.reference for pair in run], published_run(mobile_rrn(), images))
    plain = parity_pairs(loaded("compact-x2"), MATERIAL, (20, 24), lambda text: None)
    assert all(pair.begins for pair in plain)
    assert np.array_equal(plain[0].reference, reference_output(loaded("compact-x2"), plain[0].frame))


def test_golden_frames_are_the_beginning_of_one_run() -> None:
    images = frames(10, 4, 4)
    run = [Pair(image, image, begins=index in (0, 6)) for index, image in enumerate(images)]
    assert golden_pairs(run) == run[:4]
    assert golden_pairs(run[6:]) == run[6:]
    assert golden_pairs([run[0], run[1], replace(run[2], begins=True)]) == run[:2]
    apart = [replace(pair, begins=True) for pair in run]
    assert golden_pairs(apart) == [apart[0], apart[3], apart[6], apart[9]]


# --- bundle -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pictures_folder: Path) -> Built:
    folder = tmp_path_factory.mktemp("rrn")
    (folder / "rrn.pth").write_bytes(saved(mobile_rrn().state_dict()))
    with pytest.MonkeyPatch.context() as patch:  # comparing takes most of the time, so small frames it is
        patch.setattr(export.parity, "FRAME_SIZE", (40, 48))
        patch.setattr(export.parity, "ODD_SIZE", (29, 37))
        config = BuildConfig(str(folder / "rrn.pth"), folder / "bundles", frames=(pictures_folder,), licence="MIT")
        return build(config)


def test_manifest_describes_the_states(built: Built) -> None:
    manifest = open_bundle(built.folder).manifest
    assert manifest.states == (
        Port("previous", "state", "uint8", ("n", "h", "w", 3), source="frame", initial="frame"),
        Port("hidden", "state", "float32", ("n", 6, "h", "w"), source="next_hidden", initial="zeros"),
    )
    assert manifest.outputs[1:] == (Port("next_hidden", "state", "float32", ("n", 6, "h", "w")),)
    assert (manifest.geometry.tileable, manifest.geometry.halo, built.tile_difference) == (False, 0, None)
    record = json.loads((built.folder / "parity.json").read_text())
    assert (record["runs"], len(record["frames"])) == (4, 4 * RUN_LENGTH)


def test_golden_frames_are_one_run_of_pytorch(built: Built) -> None:
    golden = list(open_bundle(built.folder).golden_frames())
    images = np.stack([image for image, _ in golden])
    np.testing.assert_array_equal([output for _, output in golden], published_run(mobile_rrn(), images))


def test_the_runtime_verifies_it(built: Built) -> None:
    bundle = open_bundle(built.folder)
    verdicts = verify(bundle, runnable(bundle))
    assert {verdict.choice.backend for verdict in verdicts} == set(available_backends())
    assert not [failure for verdict in verdicts for failure in verdict.failures]


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_two_streams_in_one_batch_do_not_mix(built: Built, backend: str) -> None:
    pytest.importorskip(backend)
    images = np.stack([frames(4, seed=1), frames(4, seed=2)], axis=1)  # (T, 2, H, W, 3)
    with open_session(open_bundle(built.folder), Choice(backend, "fp32", "fp32", "")) as session:
        found = np.stack([session.infer(both) for both in images])
    for stream in range(2):
        wanted = published_run(mobile_rrn(), images[:, stream])
        assert np.abs(found[:, stream].astype(int) - wanted).max() <= 1


def test_a_runtime_that_forgot_the_state_would_miss_parity(built: Built, generator: LoadedGenerator) -> None:
    bundle = open_bundle(built.folder)
    pairs = parity_pairs(generator, MATERIAL, (40, 48), lambda text: None)
    assert all(result.report.passed for result in measure(bundle, pairs, lambda text: None))
    forgetful = [replace(pair, begins=True) for pair in pairs]
    assert not any(result.report.passed for result in measure(bundle, forgetful, lambda text: None))


def test_check_compares_all_ports(built: Built, tmp_path: Path) -> None:
    assert len(check(str(built.folder))) == 2
    bundle = open_bundle(built.folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in built.folder.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    frame, previous, hidden = bundle.manifest.inputs
    image, following = bundle.manifest.outputs
    for shape in (("n", 8, "h", "w"), ("n", "h", "h", "w"), ("n", 6, "h")):
        changed = replace(
            bundle.manifest,
            inputs=(frame, previous, replace(hidden, shape=shape)),
            outputs=(image, replace(following, shape=shape)),
        )
        write_manifest(copy, changed)
        with pytest.raises(GenedgeError, match="are not those of the manifest"):
            check(str(copy))
    write_manifest(copy, replace(bundle.manifest, inputs=(frame, hidden, previous)))
    with pytest.raises(GenedgeError, match=r"its inputs .* are not those of the manifest"):
        check(str(copy))


def test_a_graph_of_one_size(generator: LoadedGenerator, tmp_path: Path, pictures_folder: Path) -> None:
    (tmp_path / "rrn.pth").write_bytes(saved(mobile_rrn().state_dict()))
    config = BuildConfig(str(tmp_path / "rrn.pth"), tmp_path, "fixed", ("fp32",), (20, 24), (pictures_folder,))
    bundle = open_bundle(build(config).folder)
    assert bundle.manifest.states[1].shape == (1, 6, 20, 24)
    assert check(str(bundle.folder))
    assert not [failure for verdict in verify(bundle, runnable(bundle)) for failure in verdict.failures]


def test_inspect_says_what_feeds_a_state(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    from export.cli import run

    assert run(["inspect", str(built.folder)]) == 0
    text = capsys.readouterr().out
    assert "state: previous uint8 ['n', 'h', 'w', 3], fed by frame, begins as frame" in text
    assert "state: hidden float32 ['n', 6, 'h', 'w'], fed by next_hidden, begins as zeros" in text


# --- real weights -----------------------------------------------------------------------------------------------------

Finder = Callable[[str], Path]


def clip_frames(path: Path, count: int) -> Iterator[Frame]:
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == count:
                return
            yield np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8)


@pytest.mark.parametrize(("width", "parameters"), [(16, 35_664), (64, 474_288)])
def test_real_weights(width: int, parameters: int, assets: Finder) -> None:
    """On frames of a clip reduced by 4: like the published net, above bicubic, and better for keeping the state."""
    generator, checkpoint = load_generator(assets(f"weights/mobile_rrn/mobile_rrn_{width}.pth"))
    assert (generator.family, generator.scale) == ("mobile-rrn", 4)
    assert dict(generator.facts) == {"width": width, "depth": 5}
    assert sum(parameter.numel() for parameter in generator.net.parameters()) == parameters
    large = [image[:360, :640] for image in clip_frames(assets("video/short_hamilton_clip.mp4"), 12)]
    planes = torch.from_numpy(np.stack(large)).permute(0, 3, 1, 2).float()
    reduced = torch.nn.functional.interpolate(planes, scale_factor=0.25, mode="bicubic", antialias=True)
    small = np.ascontiguousarray(reduced.round().clamp(0, 255).permute(0, 2, 3, 1).numpy().astype(np.uint8))
    reference = MobileRrn(width, 5).eval()
    reference.load_state_dict(dict(checkpoint.state))
    kept = reference_run(generator, list(small))
    difference = np.abs(np.stack(kept).astype(int) - published_run(reference, small))
    assert difference.max() <= 1  # where a value lies between two steps
    forgotten = [reference_run(generator, [image])[0] for image in small]
    bicubic = [cv2.resize(image, (640, 360), interpolation=cv2.INTER_CUBIC) for image in small]

    def quality(images: list[Frame]) -> float:
        return float(np.mean([psnr(wanted, image) for wanted, image in zip(large, images, strict=True)]))

    assert quality(kept) > quality(forgotten) + 0.05
    assert quality(forgotten) > quality(bicubic) + 1


BIKES_SHOT = slice(100, 116)  # of a shot that lasts from frame 76 to 136


@pytest.mark.parametrize(("width", "gain"), [(16, 0.05), (64, 0.15)])
def test_keeping_the_state_beats_resetting_it(width: int, gain: float, assets: Finder) -> None:
    """PSNR in dB on frames of bikes.mp4 reduced by 4, through the session that ships.

    Measured over all its shots of more than ten frames, each from a reset on: 0.07 dB with 16 channels (a shot that
    hardly moves loses 0.11, the others gain 0.05 to 0.16) and 0.30 dB with 64 (0.00 to 0.88).
    """
    generator, checkpoint = load_generator(assets(f"weights/mobile_rrn/mobile_rrn_{width}.pth"))
    large = list(clip_frames(assets("video/bikes.mp4"), BIKES_SHOT.stop))[BIKES_SHOT]
    small = [reduced(image, 4) for image in large]
    size = small[0].shape[:2]
    manifest = draft_manifest("rrn", generator, checkpoint, "Apache-2.0", "unknown", 0, size)
    model = graph_from_generator(frame_graph(generator), generator.size_rule, size).SerializeToString()
    outputs: dict[bool, list[Frame]] = {}
    with session_for(model, manifest, Choice(available_backends()[0], "fp32", "fp32", ""), threads=1) as session:
        for reset in (False, True):
            session.reset()
            outputs[reset] = []
            for image in small:
                outputs[reset].append(session.infer(image[None])[0])
                if reset:
                    session.reset()
    kept, forgotten = (
        float(np.mean([psnr(wanted, image) for wanted, image in zip(large, outputs[reset], strict=True)]))
        for reset in (False, True)
    )
    assert np.array_equal(outputs[False][0], outputs[True][0])
    assert kept > forgotten + gain


def test_from_the_checkpoint_to_a_clip(assets: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built, verified and run by the commands, with two requests in flight: every frame is the one of PyTorch's run."""
    weights, clip = assets("weights/mobile_rrn/mobile_rrn_16.pth"), assets("video/carphone_pristine.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export.parity, "HEAVY", 0)  # parity on smaller frames
    assert export.cli.run(["build", str(weights), "--precision", "fp32"]) == 0
    assert runtime.cli.run(["verify", "mobile_rrn_16"]) == 0
    played = ["run", "-b", "mobile_rrn_16", "-i", str(clip), "-o", "out_%03d.png", "--max-frames", "20", "--quiet"]
    assert runtime.cli.run(played) == 0
    generator, _ = load_generator(weights)
    with open_source(str(clip)) as source:
        images = [frame.image for frame, _ in zip(source, range(20), strict=False)]
    wanted = reference_run(generator, images)
    assert psnr(wanted[-1], reference_run(generator, images[-1:])[0]) < 50  # without what came before
    pictures = [cv2.imread(str(path)) for path in sorted(tmp_path.glob("out_*.png"))]
    assert len(pictures) == 20
    for reference, picture in zip(wanted, pictures, strict=True):
        assert picture is not None
        # in bf16 where the processor has it
        assert psnr(reference, np.asarray(picture, dtype=np.uint8)) > 52
