"""``export check --bisect``: a layer that is made wrong on purpose is the one that is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bundle_factory
import fake_cuda
import fake_tensorrt
import numpy as np
import onnx
import pytest
from bundle_factory import (
    CODE_WEIGHTS,
    conditional_model,
    recurrent_model,
    write_conditional_bundle,
    write_recurrent_bundle,
    write_small_bundle,
)
from onnx import numpy_helper
from small_graphs import node, random

from calib.collect import digest_of
from calib.recipe import Recipe
from calib.remedies import equalised
from export import bisect as module
from export.bisect import Bisection, bisect
from export.cli import run
from export.variants import fp16_from_graph
from runtime.bundle import Bundle, open_bundle
from runtime.errors import GenedgeError
from runtime.sessions import Choice, choose

LAYERS = ("conv_a", "conv_b", "conv_c")


def net(results: Mapping[str, str] | None = None, **changed: Any) -> bytes:
    """Three 3x3 layers between frame and image. ``changed`` replaces constants, ``results`` renames tensors."""
    constants: dict[str, Any] = {
        "weights_a": random(8, 3, 3, 3, seed=1) / 255,
        "weights_b": random(8, 8, 3, 3, seed=2) / 4,
        "weights_c": random(3, 8, 3, 3, seed=3) * 40,
        "bias": np.full(3, 90, np.float32),
        "low": np.float32(0),
        "high": np.float32(255),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Cast", "frame", "cast", to=1),
        node("Transpose", "cast", "planes", perm=[0, 3, 1, 2]),
        node("Conv", "planes weights_a", "conv_a", **pads),
        node("Relu", "conv_a", "relu_a"),
        node("Conv", "relu_a weights_b", "conv_b", **pads),
        node("Relu", "conv_b", "relu_b"),
        node("Conv", "relu_b weights_c bias", "conv_c", **pads),
        node("Transpose", "conv_c", "pixels", perm=[0, 2, 3, 1]),
        node("Clip", "pixels low high", "clipped"),
        node("Round", "clipped", "rounded"),
        node("Cast", "rounded", "image", to=2),
    ]
    model = onnx.load_model_from_string(bundle_factory.model_of(nodes, 1, **(constants | changed)))
    for each in model.graph.node:
        for names in (each.input, each.output):
            names[:] = [(results or {}).get(name, name) for name in names]
    data: bytes = model.SerializeToString()
    return data


def perturbed(layer: str) -> bytes:
    """The net with a wrong weight in one layer."""
    name = layer.replace("conv", "weights")
    model = onnx.load_model_from_string(net())
    weights = next(numpy_helper.to_array(each) for each in model.graph.initializer if each.name == name).copy()
    weights[1, 2, 1, 1] += 0.5 * np.abs(weights).max()
    return net(**{name: weights})


def bundle_of(folder: Path, candidate: bytes, variant: str = "fp16") -> Bundle:
    return open_bundle(write_small_bundle(folder / "net", scale=1, models={"fp32": net(), variant: candidate}))


def found(folder: Path, candidate: bytes, backend: str = "onnxruntime", **options: Any) -> Bisection:
    return bisect(bundle_of(folder, candidate), Choice(backend, "fp16", "fp16", "asked for"), **options)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_planted_layer_is_the_first_one(tmp_path: Path, layer: str, backend: str) -> None:
    result = found(tmp_path, perturbed(layer), backend)
    assert result.first is not None
    assert (result.first.tensor, result.first.node, result.first.op) == (layer, layer, "Conv")
    assert not result.passed
    assert result.between == ()
    place = [row.tensor for row in result.rows].index(layer)
    assert all(row.snr_db > 80 for row in result.rows[:place])
    assert f"first out of tolerance: {layer}, made by Conv {layer}" in result.lines()
    marked = [line for line in result.lines()[-1].splitlines() if line.startswith("> ")]
    assert [line.split()[1] for line in marked] == [layer]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_good_variant_passes(tmp_path: Path, backend: str) -> None:
    half = fp16_from_graph(onnx.load_model_from_string(net())).SerializeToString()
    result = found(tmp_path, half, backend)
    assert result.passed
    assert [row.tensor for row in result.rows if row.op == "Conv"] == list(LAYERS)
    assert 45 < min(row.snr_db for row in result.rows) < 100  # float16 was computed, not float32
    assert "no layer is out of tolerance; the lowest are" in result.lines()


def test_tolerances_can_be_asked_for(tmp_path: Path) -> None:
    half = fp16_from_graph(onnx.load_model_from_string(net())).SerializeToString()
    strict = found(tmp_path / "a", half, snr_db=150.0)
    assert strict.first is not None
    assert strict.first.tensor == "conv_a"
    small = found(tmp_path / "b", half, max_abs=1e-9)
    assert small.first is not None
    assert small.first.snr_db > small.snr_db


def test_results_that_the_variant_does_not_have_are_named(tmp_path: Path) -> None:
    fused = onnx.load_model_from_string(perturbed("conv_b"))
    for each in fused.graph.node:
        for names in (each.input, each.output):
            names[:] = ["hidden" if name == "conv_b" else name for name in names]
    result = found(tmp_path, fused.SerializeToString())
    assert result.first is not None
    assert result.first.tensor == "relu_b"
    assert result.between == ("Conv conv_b",)
    assert result.missing == ("conv_b",)
    assert "or by Conv conv_b in front of it: the fp16 graph does not have their results" in result.lines()


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    result = found(tmp_path, net(weights_b=np.full((8, 8, 3, 3), np.inf, np.float32)), snr_db=0.001)
    assert result.first is not None
    assert (result.first.tensor, result.first.max_abs, result.first.snr_db) == ("conv_b", None, -200)
    json.dumps(result.to_dict(), allow_nan=False)


def test_little_memory_takes_more_passes_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(tmp_path / "a", perturbed("conv_b"))
    monkeypatch.setattr(
        module, "SLICE_BYTES", 2 * 4 * 8 * 8 * 12
    )  # of cast, planes and conv_a together, then of two more
    said: list[str] = []
    pieces = found(tmp_path / "b", perturbed("conv_b"), progress=said.append)
    assert pieces.first == whole.first
    assert len([line for line in said if line.startswith("comparing")]) == 2
    assert "conv_c" not in [row.tensor for row in pieces.rows]  # nothing behind the piece is run
    assert "conv_c" in [row.tensor for row in whole.rows]


def test_int8_is_compared_with_equalised_channels(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(net())
    factors = {"relu_a": [0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 1.0, 0.7]}
    bundle = bundle_of(tmp_path, equalised(model, factors).SerializeToString(), "int8")
    choice = Choice("onnxruntime", "int8", "int8", "asked for")
    first = bisect(bundle, choice).first
    assert first is not None
    assert first.tensor == "conv_a"
    recipe = Recipe(digest_of(model), {}, factors, {}, {}, {})
    (bundle.folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    assert bisect(bundle, choice).passed


def changed(model: bytes, **constants: Any) -> bytes:
    graph = onnx.load_model_from_string(model)
    for each in graph.graph.initializer:
        if each.name in constants:
            each.CopyFrom(numpy_helper.from_array(np.asarray(constants[each.name]), each.name))
    data: bytes = graph.SerializeToString()
    return data


def with_candidate(folder: Path, monkeypatch: pytest.MonkeyPatch, candidate: bytes) -> Bundle:
    """A bundle whose fp16 variant is ``candidate``, with no more in the manifest than bisecting asks for."""
    bundle = open_bundle(folder)
    read = Bundle.read_model
    monkeypatch.setattr(
        Bundle, "read_model", lambda self, variant: candidate if variant == "fp16" else read(self, variant)
    )
    return bundle


def test_states_are_those_of_a_running_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_recurrent_bundle(tmp_path / "rrn")
    choice = Choice("onnxruntime", "fp16", "fp16", "asked for")
    same = bisect(with_candidate(folder, monkeypatch, recurrent_model()), choice)
    assert same.passed
    assert same.frames == 4
    monkeypatch.undo()
    wrong = changed(recurrent_model(), three=np.float32(4))  # what it multiplies is zero in the first step
    result = bisect(with_candidate(folder, monkeypatch, wrong), choice)
    assert result.first is not None
    assert (result.first.tensor, result.first.op) == ("tripled", "Mul")


def test_codes_are_those_of_the_golden_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_conditional_bundle(tmp_path / "codes")
    choice = Choice("onnxruntime", "fp16", "fp16", "asked for")
    golden = open_bundle(folder).manifest.golden
    told = next(pair.codes["style"] for pair in golden if pair.codes)
    weights = np.array(CODE_WEIGHTS["style"], np.float32)
    weights[int(np.argmax(told))] += 20  # the default does not use it
    assert np.argmax(told) != 1
    wrong = changed(conditional_model(), style_weights=weights[None])
    result = bisect(with_candidate(folder, monkeypatch, wrong), choice)
    assert result.first is not None
    assert result.first.tensor == "style_weighed"


def test_what_goes_wrong_only_in_fused_layers_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module._engine

    def fusing(model: bytes, *others: Any) -> Any:
        engine = real(model, *others)
        alone = len(onnx.load_model_from_string(model).graph.output) == 1
        return lambda feed: {name: array // 2 if alone else array for name, array in engine(feed).items()}

    monkeypatch.setattr(module, "_engine", fusing)
    result = found(tmp_path, net())
    assert result.first is None
    assert not result.passed
    assert "the loss is in layers that onnxruntime fuses" in "\n".join(result.lines())


@pytest.mark.parametrize(("version", "flags"), [("8.6.0", {"FP16"}), ("11.4", set())])
def test_tensorrt_gets_an_engine_of_the_marked_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, flags: set[str]
) -> None:
    """The runtime's own builder on a fake TensorRT; what would run its plan is ONNX Runtime. The wiring, no numbers."""
    import onnxruntime
    import polygraphy.backend.trt as polygraphy_trt
    from polygraphy.backend.onnxrt import OnnxrtRunner

    def runner(plan: bytes) -> Any:
        model = plan.partition(b"\n")[2]  # as the fake writes it, behind a line of facts
        return OnnxrtRunner(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]))

    fake_cuda.install(monkeypatch, fake_cuda.FakeGpu())
    gpu = fake_tensorrt.Gpu()
    wrong = perturbed("conv_c")
    with fake_tensorrt.fake(version, gpu):
        monkeypatch.setattr(polygraphy_trt, "EngineFromBytes", lambda plan: plan)
        monkeypatch.setattr(polygraphy_trt, "TrtRunner", runner)
        models = {"fp32": net(), "fp16": wrong}
        bundle = open_bundle(write_small_bundle(tmp_path / "net", scale=1, models=models))
        choice = choose(bundle, "tensorrt", "fp16")
        if choice.variant == "fp32":  # weakly typed: fp16 is a flag
            assert bisect(bundle, choice).passed
        else:
            first = bisect(bundle, choice).first
            assert first is not None
            assert first.tensor == "conv_c"
    assert len(gpu.builds) == 2  # as it ships, and with all tensors marked
    assert all(set(build["flags"]) & {"FP16", "INT8"} == flags for build in gpu.builds)


def test_a_bundle_without_golden_frames(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "net", scale=1, models={"fp32": net()}, golden_frames=0)
    with pytest.raises(GenedgeError, match="holds no golden frames to compare on"):
        bisect(open_bundle(folder), Choice("onnxruntime", "fp32", "fp32", "asked for"))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bundle_of(tmp_path, perturbed("conv_b"))
    report = tmp_path / "bisect.json"
    options = ["--bisect", "--backend", "onnxruntime"]
    assert run(["check", str(bundle.folder), *options, "--precision", "fp16", "--json", str(report)]) == 3
    assert "first out of tolerance: conv_b, made by Conv conv_b" in capsys.readouterr().out
    content = json.loads(report.read_text(encoding="utf-8"))
    assert (content["first"]["node"], content["passed"], content["choice"]["variant"]) == ("conv_b", False, "fp16")
    assert run(["check", str(bundle.folder), *options, "--precision", "fp32"]) == 0
    assert run(["check", str(bundle.folder), *options, "--precision", "fp16", "--snr-db", "0.01"]) == 0
    assert run(["check", str(bundle.folder), "--backend", "onnxruntime"]) == 2
    assert "belong to --bisect" in capsys.readouterr().err
