"""INT8 from checkpoint to bundle, as a user asks for it: what is built, what is dropped and why, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from checkpoint_factory import exported, mobile_rrn, published, saved, write_checkpoint
from onnx import TensorProto

import export.build
import export.int8
import export.parity
import runtime.cli
from calib.dataset import CalibrationSet
from calib.graph import Index, attribute
from calib.layers import layers_of
from calib.observers import Range
from calib.qdq import Int8Qdq, qdq_from_graph
from export.cli import run
from export.int8 import BROKEN_DB, limits_of
from export.parity import Pair, VariantParity
from export.variants import strong_from_qdq
from runtime.bench import Timing
from runtime.bundle import Bundle, open_bundle
from runtime.frames import Frame
from runtime.metrics import compare, psnr
from runtime.sessions import Choice, SessionInfo, choose, runnable
from runtime.verify import verify

pytestmark = pytest.mark.usefixtures("quick")

INT8 = ("int8", "int8-ort", "int8-strong")
NAMES = ["node_conv2d", "node_conv2d_1", "node_conv2d_2"]  # the layers of the tiny net


@dataclass(frozen=True)
class Outcome:
    """A finished ``build``."""

    folder: Path
    out: str
    err: str
    json: dict[str, Any]

    @property
    def bundle(self) -> Bundle:
        return open_bundle(self.folder)

    @property
    def int8(self) -> dict[str, Any]:
        return dict(self.json["int8"])


Build = Callable[..., Outcome]


def built(folder: Path, capsys: pytest.CaptureFixture[str] | None, weights: Path, *arguments: object) -> Outcome:
    report = folder / "result.json"
    command = ["build", weights, "-o", folder / "bundles", "--precision", "fp32,int8", "--json", report, *arguments]
    assert run([str(argument) for argument in command]) == 0
    captured = capsys.readouterr() if capsys is not None else None
    (result,) = json.loads(report.read_text())
    return Outcome(Path(result["bundle"]), captured.out if captured else "", captured.err if captured else "", result)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "net.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, photo_folder: Path) -> Outcome:
    """A bundle with all INT8 variants, whatever the speed of this machine. Do not change it."""
    return built(tmp_path_factory.mktemp("whole"), None, checkpoint, "--calib", photo_folder, "--keep-slow-int8")


@pytest.fixture
def build(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Build:
    """Build the tiny net with further arguments."""
    return lambda *arguments, weights=checkpoint: built(tmp_path, capsys, weights, *arguments)


@pytest.fixture
def recipe(whole: Outcome, tmp_path: Path) -> Path:
    """The recipe of the whole bundle: building from it takes no search."""
    return Path(shutil.copy(whole.folder / "recipe.json", tmp_path))


def model_of(bundle: Bundle, variant: str) -> onnx.ModelProto:
    return onnx.load_model_from_string(bundle.read_model(variant))


def outputs(model: onnx.ModelProto, frames: Sequence[Frame]) -> list[Frame]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(["image"], {"frame": frame[None]})[0][0] for frame in frames]


@pytest.fixture(scope="module")
def photos() -> list[Frame]:
    return list(CalibrationSet.built_in().crops(60, 80, 3))


# --- what is in the bundle --------------------------------------------------------------------------------------------


def test_every_variant_is_there_with_its_figures_and_limits(whole: Outcome) -> None:
    manifest = whole.bundle.manifest
    assert set(manifest.artifacts) == {"fp32", *INT8}
    assert {path.name for path in whole.folder.glob("*.*")} == {
        "manifest.json", "parity.json", "parity.html", "recipe.json",
        *(f"model.{name}.onnx" for name in manifest.artifacts),
    }  # fmt: skip
    engines = {"int8": "openvino-int8", "int8-ort": "onnxruntime-int8", "int8-strong": "onnxruntime-int8"}
    for variant, engine in engines.items():
        figures, limits = manifest.artifacts[variant].parity, manifest.limits[variant]
        assert list(figures) == [engine]
        assert limits.psnr_db is not None
        assert limits.delta_e is not None
        assert BROKEN_DB <= limits.psnr_db < figures[engine]["psnr_db"] < 70
        assert limits.delta_e > figures[engine]["delta_e"] > 0


def test_layers_in_float_are_named(whole: Outcome) -> None:
    """The first layer reads three channels, so TensorRT gains nothing from it."""
    artifacts = whole.bundle.manifest.artifacts
    assert (artifacts["fp32"].float_layers, artifacts["int8"].float_layers) == ((), ())
    assert artifacts["int8-strong"].float_layers == (NAMES[0],)
    assert whole.int8["float_layers"] == {"int8": [], "int8-ort": [], "int8-strong": [NAMES[0]]}


def test_record_says_how_it_was_found(whole: Outcome, photo_folder: Path) -> None:
    recorded = json.loads((whole.folder / "parity.json").read_text())["int8"]
    assert recorded == whole.int8
    assert recorded["material"]["frames"] == 5
    assert recorded["material"]["ground_truth"] is True  # frames of 96 pixels, reduced by two
    assert recorded["material"]["digest"] == CalibrationSet.from_paths([photo_folder]).digest
    assert set(recorded["search"]) == {"int8", "int8-ort"}
    assert recorded["search"]["int8"]["loss"]["truth_db"] <= 0.1
    assert {(timing["backend"], timing["precision"]) for timing in recorded["timings"]} == {
        (choice.backend, choice.precision) for choice in runnable(whole.bundle)
    }
    entries = json.loads((whole.folder / "parity.json").read_text())["results"]
    assert {entry["variant"] for entry in entries} == {"fp32", *INT8}
    assert all(entry["passed"] for entry in entries)


def test_check_and_verify_pass(whole: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(whole.folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    versions = {line.split(":")[0]: line.split(", ")[:2] for line in lines if line.startswith("model.")}
    assert versions.pop("model.int8-strong.onnx") == ["model.int8-strong.onnx: opset 19", "IR 9"]
    assert versions == {f"model.{name}.onnx": [f"model.{name}.onnx: opset 17", "IR 8"] for name in ("fp32", *INT8[:2])}
    assert runtime.cli.run(["verify", str(whole.folder)]) == 0
    assert "int8" in capsys.readouterr().out


def test_check_finds_int8_strong_of_another_opset(whole: Outcome, tmp_path: Path) -> None:
    from bundle_factory import write_manifest

    folder = Path(shutil.copytree(whole.folder, tmp_path / "b"))
    artifacts = dict(open_bundle(folder).manifest.artifacts)
    artifacts["int8-strong"] = replace(artifacts["int8"])
    write_manifest(folder, replace(open_bundle(folder).manifest, artifacts=artifacts))
    with pytest.raises(Exception, match=r"model\.int8\.onnx: opset 17, not 19"):
        export.build.check(str(folder))


def test_verify_finds_int8_that_got_worse(whole: Outcome, tmp_path: Path) -> None:
    """Limits are what was measured here, less a margin for another engine, and not more."""
    bundle = whole.bundle
    worse = {name: replace(limit, psnr_db=99.0) for name, limit in bundle.manifest.limits.items() if name in INT8}
    strict = replace(bundle, manifest=replace(bundle.manifest, limits={**bundle.manifest.limits, **worse}))
    failed = {verdict.choice.variant for verdict in verify(strict, runnable(strict)) if verdict.failures}
    assert failed == {"int8", "int8-ort"}


def test_choose_takes_int8_unasked_only_with_its_figures(whole: Outcome) -> None:
    bundle = whole.bundle
    for backend, variant in (("openvino", "int8"), ("onnxruntime", "int8-ort")):
        choice = choose(bundle, backend)
        figures = bundle.manifest.artifacts[variant].parity[f"{backend}-int8"]
        assert (choice.precision, choice.variant) == ("int8", variant)
        assert f"{figures['psnr_db']:.1f} dB and ΔE {figures['delta_e']:.2f} from PyTorch" in choice.reason
        assert choose(bundle, backend, "fp32").variant == "fp32"
        for parity in ({}, {f"{backend}-int8": {}}, {"tensorrt-int8": dict(figures)}):
            artifacts = dict(bundle.manifest.artifacts)
            artifacts[variant] = replace(artifacts[variant], parity=parity)
            unproven = replace(bundle, manifest=replace(bundle.manifest, artifacts=artifacts))
            assert choose(unproven, backend).precision != "int8"
            assert choose(unproven, backend, "int8").variant == variant  # who asks for it gets it


# --- int8-strong ------------------------------------------------------------------------------------------------------


def test_strong_pairs_stand_directly_in_front_of_their_layers(whole: Outcome) -> None:
    """A Cast in between would keep TensorRT from making one INT8 kernel of them."""
    model = model_of(whole.bundle, "int8-strong")
    index = Index(model.graph)
    convolutions = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    for name in NAMES[1:]:
        for port in convolutions[name].input[:2]:
            pair = index.producer[port]
            assert pair.op_type == "DequantizeLinear"
            scale, zero = index.constant(pair.input[1]), index.constant(pair.input[2])
            assert scale is not None
            assert scale.dtype == np.float16
            assert zero is not None
            assert zero.dtype == np.int8
            assert not zero.any()
            assert index.producer[pair.input[0]].op_type == "QuantizeLinear"
        assert attribute(index.producer[convolutions[name].input[1]], "axis") == 0
    first = convolutions[NAMES[0]].input
    assert all(name not in index.producer or "Quantize" not in index.producer[name].op_type for name in first[:2])


def test_strong_computes_about_what_int8_does(whole: Outcome, photos: list[Frame]) -> None:
    fp32, int8, strong = (outputs(model_of(whole.bundle, name), photos) for name in ("fp32", "int8", "int8-strong"))
    assert np.mean([psnr(a, b) for a, b in zip(int8, strong, strict=True)]) > 50
    assert all(psnr(a, b) > 45 for a, b in zip(fp32, strong, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(fp32, strong, strict=True))


@pytest.mark.parametrize("scale", [1e-6, 1e-7])
def test_scales_that_float16_cannot_hold_stay_float32(scale: float) -> None:
    """One layer reads tiny values: its pairs and itself stay float32, the others do not."""
    model = exported("compact-x2")
    layers = layers_of(model)
    ranges = {layer.source: Range(0.0, 1.0, 1.0) for layer in layers}
    ranges[layers[1].source] = Range(0.0, 127 * scale, 127 * scale)
    strong = strong_from_qdq(qdq_from_graph(model, ranges, Int8Qdq(narrow=False)))
    index = Index(strong.graph)
    types = []
    for layer in layers[1:]:
        node = next(node for node in strong.graph.node if node.name == layer.name)
        pairs = [index.producer[name] for name in node.input[:2]]
        assert {pair.op_type for pair in pairs} == {"DequantizeLinear"}
        types.append(
            [np.dtype(value.dtype).name for pair in pairs if (value := index.constant(pair.input[1])) is not None]
        )
    assert types == [["float32", "float32"], ["float16", "float16"]]
    onnx.checker.check_model(strong, full_check=True)
    outputs(strong, [np.zeros((8, 8, 3), np.uint8)])


# --- again from the recipe --------------------------------------------------------------------------------------------


def test_a_recipe_makes_the_same_files_again(whole: Outcome, recipe: Path, build: Build) -> None:
    again = build("--calib", recipe, "--keep-slow-int8")
    for variant in INT8:
        assert again.bundle.manifest.artifacts[variant].sha256 == whole.bundle.manifest.artifacts[variant].sha256
        assert again.bundle.read_model(variant) == whole.bundle.read_model(variant)
    assert again.bundle.manifest.artifacts["int8-strong"].float_layers == (NAMES[0],)
    assert (again.folder / "recipe.json").read_bytes() == recipe.read_bytes()
    assert again.int8["material"] == whole.int8["material"]
    assert "calibrating" not in again.err


def rewritten(recipe: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(recipe.read_text())
    change(content)
    recipe.write_text(json.dumps(content))
    return recipe


def test_a_variant_that_is_broken_is_dropped_with_the_reason(recipe: Path, build: Build) -> None:
    """Biases are corrected by means that no frame has."""

    def mislead(content: dict[str, Any]) -> None:
        content["means"] = {name: [1e4] * 8 for name in content["ranges"]["max"]}
        content["variants"] = {name: {**entry, "bias_correction": True} for name, entry in content["variants"].items()}

    result = build("--calib", rewritten(recipe, mislead), "--keep-slow-int8")
    assert list(result.bundle.manifest.artifacts) == ["fp32"]
    assert set(result.int8["dropped"]) == set(INT8)
    for variant, backend in (("int8", "openvino"), ("int8-ort", "onnxruntime")):
        reason = result.int8["dropped"][variant]
        assert reason.endswith(f" dB from PyTorch on {backend}: not merely imprecise")
        assert f"{variant} dropped: {reason}" in result.out.splitlines()
    assert {path.name for path in result.folder.iterdir()} == {
        "golden", "manifest.json", "model.fp32.onnx", "parity.html", "parity.json",
    }  # fmt: skip
    assert set(result.bundle.manifest.limits) <= {"fp32", "bf16"}
    assert run(["check", str(result.folder)]) == 0
    assert choose(result.bundle).precision != "int8"


# --- speed ------------------------------------------------------------------------------------------------------------


def speeds(monkeypatch: pytest.MonkeyPatch, **milliseconds: float) -> None:
    """Let every variant take what ``milliseconds`` say, by precision."""

    def bench(bundle: Bundle, choices: Sequence[Choice], height: int, width: int, rounds: int) -> list[Timing]:
        info = SessionInfo("engine", "int8", "int8", "device", 1, 1)
        return [Timing(choice, info, (milliseconds[choice.precision],) * rounds) for choice in choices]

    monkeypatch.setattr(export.int8, "bench", bench)


def test_a_variant_that_is_not_faster_is_dropped_with_the_reason(
    recipe: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds(monkeypatch, fp32=3.0, bf16=4.0, int8=3.0)
    result = build("--calib", recipe)
    assert list(result.bundle.manifest.artifacts) == ["fp32"]
    assert result.int8["dropped"] == {
        "int8": "not faster than fp32 on openvino here (3.0 against 3.0 ms a frame)",
        "int8-ort": "not faster than fp32 on onnxruntime here (3.0 against 3.0 ms a frame)",
        "int8-strong": "int8, which it is derived from, was dropped",
    }
    assert not list(result.folder.glob("*int8*"))
    assert not (result.folder / "recipe.json").exists()
    assert result.int8["float_layers"] == {}


def test_only_what_is_slow_is_dropped(recipe: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, fp32=3.0, bf16=4.0, int8=2.9)
    assert build("--calib", recipe).int8["dropped"] == {}


def test_slow_variants_are_kept_for_another_device(recipe: Path, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, fp32=3.0, bf16=4.0, int8=9.0)
    result = build("--calib", recipe, "--keep-slow-int8")
    assert set(result.bundle.manifest.artifacts) == {"fp32", *INT8}
    assert result.int8["dropped"] == {}
    note = "int8 is not faster than fp32 on openvino here (9.0 against 3.0 ms a frame), but kept."
    assert note in result.out.splitlines()


# --- limits -----------------------------------------------------------------------------------------------------------


def parity_of(reference: Frame, step: int, others: int = 3) -> tuple[list[VariantParity], list[Pair]]:
    """One frame that is ``step`` 8-bit steps off, and ``others`` that are right."""
    off = reference + np.uint8(step)
    pairs = [Pair(reference[::2, ::2], reference)] * (others + 1)
    report = compare([(reference, off), *[(reference, reference)] * others])
    return [VariantParity(Choice("onnxruntime", "int8", "int8-ort", ""), report, off, "")], pairs


@pytest.mark.parametrize("step", [1, 2, 4, 6, 9, 11, 13, 20, 25])
def test_the_device_that_built_a_bundle_meets_its_limits(step: int) -> None:
    """Golden frames may be the worst ones alone, and these may be below what all together must reach."""
    reference = (np.arange(48 * 48 * 3, dtype=np.uint32) % 200).astype(np.uint8).reshape(48, 48, 3)
    results, pairs = parity_of(reference, step)
    limits = limits_of(results, pairs)
    assert list(limits) == ["int8-ort"]
    assert compare([(reference, results[0].worst_output)], replace(limits["int8-ort"], delta_e=None)).passed
    worst, limit = psnr(reference, results[0].worst_output), limits["int8-ort"].psnr_db
    assert limit is not None
    assert worst - 3.11 <= limit or limit >= BROKEN_DB
    assert limit >= min(BROKEN_DB, worst) - 0.1


# --- budget -----------------------------------------------------------------------------------------------------------


def test_a_budget_that_cannot_be_met_drops_int8_and_says_by_how_much(photo_folder: Path, build: Build) -> None:
    result = build("--calib", photo_folder, "--budget-delta-e", "1e-9")
    assert list(result.bundle.manifest.artifacts) == ["fp32"]
    dropped = result.int8["dropped"]
    assert dropped.pop("int8-strong") == "int8, which it is derived from, was dropped"
    assert set(dropped) == {"int8", "int8-ort"}
    for variant, reason in dropped.items():
        assert reason.startswith("no choice of float layers meets the budget of 0.1 dB against ground truth")
        assert re.search(r"and ΔE 1e-09; the best, with [12] of 3 layers in float, loses 0\.\d+ dB from", reason)
        assert f"{variant} dropped: {reason}" in result.out
    assert not list(result.folder.glob("*int8*"))
    assert not (result.folder / "recipe.json").exists()
    assert result.int8["search"]["int8"]["met"] is False


def test_layers_that_the_user_keeps_in_float(photo_folder: Path, build: Build) -> None:
    result = build("--calib", photo_folder, "--keep-slow-int8", "--float-layers", "first, last", "--observer", "max")
    for variant in INT8:
        assert result.bundle.manifest.artifacts[variant].float_layers == (NAMES[0], NAMES[-1])
    model = model_of(result.bundle, "int8")
    quantised = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    found = [node.name for node in model.graph.node if node.op_type == "Conv" and set(node.input) & quantised]
    assert found == [NAMES[1]]
    assert f"int8: 2 layers in float ({NAMES[0]}, {NAMES[-1]}); loses " in result.out
    content = json.loads((result.folder / "recipe.json").read_text())
    assert {entry["observer"] for entry in content["variants"].values()} == {"max"}


# --- other nets -------------------------------------------------------------------------------------------------------


def test_one_fixed_size(photo_folder: Path, build: Build) -> None:
    result = build("--calib", photo_folder, "--keep-slow-int8", "--shape", "40x56")
    assert result.bundle.manifest.geometry.fixed_size == (40, 56)
    assert set(result.bundle.manifest.artifacts) == {"fp32", *INT8}
    assert result.int8["material"]["ground_truth"] is False  # it takes no reduced frames
    assert run(["check", str(result.folder)]) == 0


@pytest.mark.slow
def test_a_translation_net_is_judged_against_float(photo_folder: Path, build: Build, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "gan.pth", "cyclegan")
    result = build("--calib", photo_folder, "--keep-slow-int8", "--observer", "max", weights=weights)
    assert result.int8["material"]["ground_truth"] is False
    for found in result.int8["search"].values():
        assert found["loss"]["truth_db"] is None
        assert found["loss"]["psnr_db"] >= 40
    strong = model_of(result.bundle, "int8-strong")
    index = Index(strong.graph)
    kept = result.bundle.manifest.artifacts["int8-strong"].float_layers
    transposed = [node for node in strong.graph.node if node.op_type == "ConvTranspose"]
    assert transposed
    for node in transposed:
        assert node.name in kept
        assert not any("Dequantize" in index.producer[name].op_type for name in node.input if name in index.producer)
    narrow = {
        layer.name for layer in layers_of(exported("cyclegan")) if layer.channels_in < 16 and layer.channels_in % 8
    }
    assert narrow
    assert narrow <= set(kept)
    norms = [node for node in strong.graph.node if node.op_type == "InstanceNormalization"]
    types = {tensor.name: tensor.data_type for tensor in strong.graph.initializer}
    assert norms
    assert all(types[node.input[1]] == TensorProto.FLOAT for node in norms)
    assert run(["check", str(result.folder)]) == 0


@pytest.mark.slow
def test_a_recurrent_net_is_calibrated_on_runs(
    pan_set: Path, photo_folder: Path, build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "rrn.pth"
    weights.write_bytes(saved(mobile_rrn().state_dict()))
    result = build("--calib", pan_set, "--keep-slow-int8", "--observer", "max", weights=weights)
    assert {"int8", "int8-ort"} <= set(result.bundle.manifest.artifacts)
    assert result.int8["material"]["judged_on"] == 8
    assert "drift_db" in result.int8["search"]["int8"]["loss"]
    assert run(["check", str(result.folder)]) == 0
    capsys.readouterr()
    command = [
        "build",
        str(weights),
        "-o",
        str(tmp_path / "b"),
        "--precision",
        "fp32,int8",
        "--calib",
        str(photo_folder),
    ]
    code, sentence = failure(capsys, command)
    assert code == 2
    assert "is recurrent and needs runs of consecutive frames: python -m calib sample VIDEO -o SET --runs 8" in sentence
    assert not (tmp_path / "b").exists()


# --- bad input --------------------------------------------------------------------------------------------------------


def failure(capsys: pytest.CaptureFixture[str], command: Sequence[object]) -> tuple[int, str]:
    """Exit code and the one sentence with which a command fails."""
    try:
        code = run([str(argument) for argument in command])
    except SystemExit as stopped:  # argparse
        code = int(str(stopped.code))
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if "error: " in line]
    assert len(errors) == 1, captured.err
    assert "Traceback" not in captured.err
    return code, errors[0].partition("error: ")[2]


@pytest.fixture
def refused(
    tmp_path: Path, checkpoint: Path, whole: Outcome, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Exit code and sentence of a build with further arguments, after which nothing new lies in its folder, and
    a bundle that is there is as it was."""

    def refuse(*arguments: object, weights: Path = checkpoint) -> tuple[int, str]:
        folder = tmp_path / "bundles"
        old = folder / weights.stem
        if not old.exists():
            shutil.copytree(whole.folder, old)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        outcome = failure(capsys, ["build", weights, "-o", folder, "--force", *arguments])
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert [path.name for path in folder.iterdir()] == [weights.stem]
        return outcome

    return refuse


Refused = Callable[..., tuple[int, str]]
HOW = "make a set with `python -m calib sample VIDEO -o SET`"


def pictures(folder: Path, frames: Sequence[Frame]) -> Path:
    folder.mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), frame)
    return folder


@pytest.mark.parametrize("precision", ["fp32,int8", "int8", "fp32,fp16,int8"])
def test_without_material(precision: str, refused: Refused) -> None:
    assert refused("--precision", precision) == (
        2,
        f"INT8 needs frames to calibrate with: {HOW}, then add --calib SET",
    )


def test_material_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert refused("--calib", tmp_path / "nowhere") == (
        2, f"{tmp_path / 'nowhere'}: no such picture or folder: {HOW}",
    )  # fmt: skip
    (tmp_path / "empty").mkdir()
    code, sentence = refused("--calib", tmp_path / "empty")
    assert (code, "holds no picture" in sentence, HOW in sentence) == (2, True, True)


def test_missing_material_is_found_before_anything_is_exported(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.build, "load_generator", lambda *_: pytest.fail("it was loaded"))
    assert refused("--calib", tmp_path / "nowhere")[0] == 2


def test_a_black_folder(refused: Refused, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "black", [np.zeros((64, 64, 3), np.uint8)] * 4)
    assert refused("--calib", folder) == (
        2, f"{folder}: every frame is one flat colour, which says nothing: {HOW}",
    )  # fmt: skip


def test_three_identical_frames_work_with_a_warning(build: Build, tmp_path: Path, photos: list[Frame]) -> None:
    folder = pictures(tmp_path / "same", photos[:1] * 3)
    result = build("--calib", folder, "--keep-slow-int8", "--observer", "max", "--bias-correction", "off")
    assert "int8" in result.bundle.manifest.artifacts
    assert "warning: only 1 different frames, so the ranges will fit little else" in result.err


def test_frames_smaller_than_the_fixed_size(refused: Refused, photo_folder: Path) -> None:
    code, sentence = refused("--calib", photo_folder, "--shape", "40x120")
    assert code == 2
    assert "a frame of 96x96 is too small, the model takes 40x120 (HEIGHTxWIDTH)" in sentence
    assert "--size 40x120" in sentence


@pytest.mark.slow
def test_frames_smaller_than_the_least_size(refused: Refused, tmp_path: Path, photos: list[Frame]) -> None:
    folder = pictures(tmp_path / "small", [photos[0][:6, :40], photos[1][:6, :40]])
    code, sentence = refused("--calib", folder, weights=write_checkpoint(tmp_path / "gan.pth", "cyclegan"))
    assert code == 2
    assert "a frame of 6x40 is too small, the model takes no less than 8x8" in sentence


def test_frames_that_are_tiny_are_calibrated_with_all_the_same(
    build: Build, tmp_path: Path, photos: list[Frame]
) -> None:
    """Smaller than the scale, so there is nothing to reduce."""
    folder = pictures(tmp_path / "tiny", [photo[:1, :5] for photo in photos])
    result = build("--calib", folder, "--keep-slow-int8", "--observer", "max", "--bias-correction", "off")
    assert result.int8["material"]["ground_truth"] is False


def test_a_set_for_another_models_size(refused: Refused, pan_set: Path) -> None:
    code, sentence = refused("--calib", pan_set, "--shape", "80x80")
    assert code == 2
    assert "a frame of 72x96 is too small, the model takes 80x80" in sentence


def test_a_recipe_of_another_graph(refused: Refused, recipe: Path, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "gan.pth", "cyclegan")
    code, sentence = refused("--calib", recipe, weights=weights)
    assert code == 2
    assert sentence.startswith(f"{recipe}: its ranges were measured on another graph (sha256 ")
    assert sentence.endswith("calibrate again with --calib SET")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content.update(variants={}), "the recipe holds none of int8, int8-ort"),
        (lambda content: content.update(ranges={}), "the recipe says nothing about int8"),
        (
            lambda content: content["ranges"].update({key: {} for key in content["ranges"]}),
            "it was measured on another",
        ),
        (lambda content: content["equalisation"].update(nowhere=[1.0]), "the equalisation of nowhere fits no layer"),
        (lambda content: content["variants"]["int8"].update(float_layers=["x"]), "no layer is called x"),
        (lambda content: content["variants"]["int8"].update(float_layers=NAMES), "no layer is left to quantise"),
    ],
)
def test_recipes_that_say_too_little(
    change: Callable[[dict[str, Any]], None], sentence: str, refused: Refused, recipe: Path
) -> None:
    code, found = refused("--calib", rewritten(recipe, change))
    assert code in (1, 2)
    assert sentence in found


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--budget-db", "0"], "argument --budget-db: '0' is no number above 0"),
        (["--budget-db", "nan"], "argument --budget-db: 'nan' is no number above 0"),
        (["--budget-db", "-1"], "argument --budget-db: '-1' is no number above 0"),
        (["--budget-psnr", "inf"], "argument --budget-psnr: 'inf' is no number above 0"),
        (["--budget-delta-e", "much"], "argument --budget-delta-e: 'much' is no number above 0"),
        (["--observer", "average"], "unknown observer 'average': choose max, percentile, mse, entropy"),
        (["--observer", "percentile:0"], "the percentile must be a number above 50 and at most 100"),
        (["--observer", "max:3"], "unknown observer 'max:3'"),
        (["--bias-correction", "maybe"], "argument --bias-correction: invalid choice: 'maybe'"),
        (["--float-layers", "firts"], f"no layer is called 'firts': use first, last, or one of {', '.join(NAMES)}"),
    ],
)
def test_values_that_cannot_be_right(arguments: list[str], sentence: str, refused: Refused, photo_folder: Path) -> None:
    code, found = refused("--calib", photo_folder, *arguments)
    assert code == 2
    assert sentence in found


def test_a_recipe_stands_alone(refused: Refused, recipe: Path, photo_folder: Path) -> None:
    both = "--calib takes one recipe.json, or sets and pictures, not both"
    assert refused("--calib", recipe, recipe) == (2, both)
    assert refused("--calib", photo_folder, recipe) == (2, both)
    assert refused("--calib", recipe, "--float-layers", "first") == (
        2, f"{recipe} says which layers stay in float: leave --float-layers out",
    )  # fmt: skip
    code, sentence = refused("--calib", recipe.with_name("other.json"))
    assert (code, sentence) == (2, f"{recipe.with_name('other.json')}: No such file or directory")


def test_a_folder_may_be_called_like_a_recipe(refused: Refused, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "set.json", [np.zeros((64, 64, 3), np.uint8)])
    assert "every frame is one flat colour" in refused("--calib", folder)[1]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), "convs.1.weight holds values that are not finite numbers"),
        (float("inf"), "convs.1.weight holds values that are not finite numbers"),
        (1e38, f"{NAMES[1]} makes values that are not finite (NaN or infinite): its ranges mean nothing"),
    ],
)
def test_weights_that_are_not_finite_or_make_what_is_not(
    value: float,
    sentence: str,
    refused: Refused,
    tmp_path: Path,
    photo_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The layer is named. (The halo would complain first, so it is left out.)"""
    weights = tmp_path / "net.pth"
    state = published("compact-x2").state()
    state["convs.1.weight"][:] = value
    weights.write_bytes(saved(state))
    monkeypatch.setattr(export.build, "_reach", lambda loaded, graph: (loaded, 3))
    code, found = refused("--calib", photo_folder, weights=weights)
    assert code == 1
    assert sentence in found
