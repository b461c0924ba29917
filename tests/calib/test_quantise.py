"""From frames to INT8 graphs, without an exporter around it: what is measured on what, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from bundle_factory import (
    CODE_MAP,
    CODES,
    conditional,
    conditional_model,
    small_manifest,
    upscale_model,
    write_small_bundle,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import calib.quantise
from calib.cli import run
from calib.collect import digest_of
from calib.dataset import CalibrationSet
from calib.feeds import code_rules
from calib.layers import layers_of
from calib.qdq import Int8Qdq
from calib.quantise import (
    JUDGE_FRAMES,
    JUDGE_RUN,
    JUDGE_RUNS,
    JUDGE_SIDE,
    Clips,
    Int8Config,
    Quantised,
    _Hardened,
    checked_material,
    clips_of,
    form_of,
    from_recipe,
    judging,
    named_layers,
    player,
    prepare,
    quantised,
)
from calib.sensitivity import Budget
from calib.truth import contrast_of, hardened, reduced
from runtime.codes import Code
from runtime.errors import GenedgeError, UsageError
from runtime.frames import Frame, SizeRule
from runtime.manifest import Artifact, Manifest, Port
from runtime.metrics import psnr
from runtime.sessions import Choice
from runtime.tiles import resized_into

# --- a net of the tests' own ------------------------------------------------------------------------------------------


def sr_net(weights: float = 1.0, width: int = 8, *, code: bool = False) -> onnx.ModelProto:
    """Scale 2: frame to float planes, three convolutions, pixel shuffle, and the repeated frame added.

    With ``code`` a condition ``float32 (n, 3)`` makes each colour that the convolutions see lighter by up to 100.
    """
    rng = np.random.default_rng(0)

    def random(outputs: int, inputs: int) -> np.ndarray:
        return (rng.normal(0, (inputs * 9) ** -0.5, (outputs, inputs, 3, 3)) * weights).astype(np.float32)

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], name=f"{op.lower()}.{output}", **attributes)

    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Cast", ["frame"], "float", to=TensorProto.FLOAT),
        node("Transpose", ["float"], "x", perm=[0, 3, 1, 2]),
        *([node("Unsqueeze", ["code", "behind"], "plane"), node("Add", ["x", "plane"], "lit")] if code else []),
        helper.make_node("Conv", ["lit" if code else "x", "w1", "b1"], ["a"], name="head", **pads),
        node("Relu", ["a"], "ra"),
        helper.make_node("Conv", ["ra", "w2", "b2"], ["b"], name="body", **pads),
        node("LeakyRelu", ["b"], "rb", alpha=0.2),
        helper.make_node("Conv", ["rb", "w3", "b3"], ["c"], name="tail", **pads),
        node("DepthToSpace", ["c"], "d", blocksize=2, mode="CRD"),
        node("Resize", ["x", "", "sizes"], "up", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", ["d", "up"], "sum"),
        node("Transpose", ["sum"], "t", perm=[0, 2, 3, 1]),
        node("Clip", ["t", "black", "white"], "clipped"),
        node("Round", ["clipped"], "rounded"),
        node("Cast", ["rounded"], "image", to=TensorProto.UINT8),
    ]  # fmt: skip
    constants = {
        "w1": random(width, 3), "b1": np.full(width, 5, np.float32),
        "w2": random(width, width), "b2": np.ones(width, np.float32),
        "w3": random(12, width) * np.float32(0.3), "b3": np.zeros(12, np.float32),
        "sizes": np.array([1, 1, 2, 2], np.float32), "black": np.float32(0), "white": np.float32(255),
        **({"behind": np.array([2, 3], np.int64)} if code else {}),
    }  # fmt: skip
    more = [helper.make_tensor_value_info("code", TensorProto.FLOAT, ["n", 3])] if code else []
    ends = [
        helper.make_tensor_value_info("frame", TensorProto.UINT8, ["n", "h", "w", 3]),
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "sh", "sw", 3]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "sr", [ends[0], *more], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MANIFEST = small_manifest({})


def with_geometry(**changes: Any) -> Manifest:
    return replace(MANIFEST, geometry=replace(MANIFEST.geometry, **changes))


HIDDEN = Port("hidden", "state", "float32", ("n", 4, "h", "w"), source="next", initial="zeros")
RECURRENT = replace(MANIFEST, inputs=(*MANIFEST.inputs, HIDDEN))


CODE = Port("code", "code", "float32", ("n", 3), code=Code("vector", 3, (0, 0, 0), 0, 100))
CONDITIONAL = replace(MANIFEST, inputs=(*MANIFEST.inputs, CODE))


@pytest.fixture(scope="module")
def found(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    config = Int8Config((photo_folder,), cache=tmp_path_factory.mktemp("cache"))
    return quantised(sr_net(), MANIFEST, config)


def outputs(model: onnx.ModelProto, frames: list[Frame]) -> list[Frame]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(["image"], {"frame": frame[None]})[0][0] for frame in frames]


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_both_forms_are_made_within_the_budget(found: Quantised, photos: tuple[Frame, ...]) -> None:
    assert set(found.models) == set(found.float_layers) == set(found.searches) == {"int8", "int8-ort"}
    assert not found.missed
    frames = [np.ascontiguousarray(photo[40:120, 60:160]) for photo in photos]
    reference = outputs(sr_net(), frames)
    for variant, model in found.models.items():
        assert found.searches[variant].met
        assert Budget().met(found.searches[variant].best.loss)
        assert any(node.op_type == "DequantizeLinear" for node in model.graph.node)
        result = outputs(model, frames)
        assert all(psnr(a, b) > 40 for a, b in zip(reference, result, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(reference, result, strict=True))


def test_the_recipe_makes_the_same_graphs_without_frames(found: Quantised) -> None:
    again = from_recipe(sr_net(), found.recipe, ("int8", "int8-ort"))
    assert {name: digest_of(model) for name, model in again.items()} == {
        name: digest_of(model) for name, model in found.models.items()
    }
    assert found.recipe.graph == digest_of(sr_net())
    assert list(from_recipe(sr_net(), found.recipe, ("int8",))) == ["int8"]
    with pytest.raises(UsageError, match="the recipe holds none of fp8"):
        from_recipe(sr_net(), found.recipe, ("fp8",))


def test_notes_say_on_what_it_was_judged(found: Quantised) -> None:
    assert found.notes[0].startswith("INT8 was calibrated on 5 frames of ")
    assert found.notes[0].endswith("and judged on 5 against ground truth: frames reduced by the scale.")


def test_calibrating_again_reads_what_was_measured(photo_folder: Path, tmp_path: Path) -> None:
    config = Int8Config((photo_folder,), observer="max", cache=tmp_path)
    said: list[str] = []
    first = prepare(sr_net(), MANIFEST, config)
    second = prepare(sr_net(), MANIFEST, config, said.append)
    assert second.tables == first.tables
    assert second.equalisation == first.equalisation
    assert not [line for line in said if line.startswith("calibrating")]


# --- codes ------------------------------------------------------------------------------------------------------------


def test_ranges_are_measured_over_codes(photo_folder: Path, tmp_path: Path) -> None:
    config = Int8Config((photo_folder,), equalise=False, cache=tmp_path)
    plain = prepare(sr_net(), MANIFEST, config).statistics.tensors["x"].histogram.high
    lit = prepare(sr_net(code=True), CONDITIONAL, config).statistics.tensors["lit"].histogram.high
    assert plain == 255
    assert 300 < lit <= 355


def test_every_judged_clip_but_the_first_has_a_code_of_its_own(photos: tuple[Frame, ...]) -> None:
    frames = tuple(np.ascontiguousarray(photos[0][:8, :12]) for _ in range(4))
    ports = (*CODES[:2], CODE_MAP)
    manifest = small_manifest({"fp32": Artifact("model.fp32.onnx", "")}, codes=ports)
    play = player(manifest, Choice("onnxruntime", "fp32", "fp32", "calibration"), Clips(frames, (True,) * 4, None), 1)
    model = onnx.load_model_from_string(conditional_model(2, ports))
    shown = play(model)
    np.testing.assert_array_equal(shown[0], conditional(frames[0][None], ports=ports)[0])
    rules = {rule.name: rule for rule in code_rules(manifest)}
    for place in range(1, 4):
        codes = {name: rule.drawn(f"judged {place}", 8, 12) for name, rule in rules.items()}
        np.testing.assert_array_equal(shown[place], conditional(frames[place][None], codes, ports)[0])
    assert len({output.tobytes() for output in shown}) == 4
    assert all(np.array_equal(a, b) for a, b in zip(shown, play(model), strict=True))


def test_the_frames_of_a_run_share_a_code(photos: tuple[Frame, ...]) -> None:
    frames = tuple(np.ascontiguousarray(photos[0][:8, :12]) for _ in range(4))
    manifest = small_manifest({"fp32": Artifact("model.fp32.onnx", "")}, codes=CODES[:1])
    clips = Clips(frames, (True, False, True, False), None)
    shown = player(manifest, Choice("onnxruntime", "fp32", "fp32", "calibration"), clips, 1)(
        onnx.load_model_from_string(conditional_model(2, CODES[:1]))
    )
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[2], shown[3])
    assert not np.array_equal(shown[1], shown[2])


def test_int8_of_a_conditional_net_meets_the_budget_over_its_codes(photo_folder: Path, tmp_path: Path) -> None:
    config = Int8Config((photo_folder,), observer="max", equalise=False, bias_correction=False, cache=tmp_path)
    found = quantised(sr_net(code=True), CONDITIONAL, config, ("int8-ort",))
    assert found.searches["int8-ort"].met
    play, judge = judging(prepare(sr_net(code=True), CONDITIONAL, config), "int8-ort")
    assert Budget().met(judge.loss(play(found.models["int8-ort"])))


def test_without_equalisation_the_graph_stays_what_it_is(photo_folder: Path, tmp_path: Path) -> None:
    prepared = prepare(sr_net(), MANIFEST, Int8Config((photo_folder,), equalise=False, cache=tmp_path))
    assert prepared.model is prepared.original
    assert prepared.equalisation == {}


@pytest.mark.parametrize("correction", [True, False])
def test_bias_correction_can_be_asked_for(correction: bool, photo_folder: Path, tmp_path: Path) -> None:
    config = Int8Config((photo_folder,), observer="max", bias_correction=correction, cache=tmp_path)
    recipe = quantised(sr_net(), MANIFEST, config, ("int8",)).recipe
    assert recipe.variants["int8"].bias_correction is correction
    assert bool(recipe.means) is correction


def test_a_missing_engine_costs_its_variant_only(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calib.quantise, "available_backends", lambda: ("onnxruntime",))
    found = quantised(sr_net(), MANIFEST, Int8Config((photo_folder,), observer="max", cache=tmp_path))
    assert list(found.models) == ["int8-ort"]
    assert found.missed == {"int8": 'int8 needs openvino to be judged: pip install "genedge[cpu]"'}


def test_all_layers_in_float_leave_nothing(photo_folder: Path, tmp_path: Path) -> None:
    config = Int8Config((photo_folder,), observer="max", float_layers=("head", "body", "tail"), cache=tmp_path)
    found = quantised(sr_net(), MANIFEST, config)
    assert found.models == {}
    assert set(found.missed.values()) == {"no layer is left to quantise"}


def test_form_of() -> None:
    names = {variant: form_of(variant, None).variant for variant in ("int8", "int8-ort")}
    assert names == {"int8": "int8", "int8-ort": "int8-ort"}
    layer = layers_of(sr_net())[0]
    assert form_of("int8", None).quantises(layer)
    assert not form_of("int8", None, ("head",)).quantises(layer)
    assert Int8Qdq().quantises(layer)


# --- names of layers --------------------------------------------------------------------------------------------------


def test_first_and_last() -> None:
    assert named_layers(sr_net(), ("last", "first", "head")) == ("tail", "head")
    assert named_layers(sr_net(), ()) == ()
    with pytest.raises(UsageError, match=r"^no layer is called 'relu': use first, last, or one of head, body, tail$"):
        named_layers(sr_net(), ("first", "relu"))


def test_an_unknown_layer_is_told_before_anything_is_measured(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calib.quantise, "collect", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(UsageError, match="no layer is called 'nose'"):
        quantised(sr_net(), MANIFEST, Int8Config((photo_folder,), float_layers=("nose",)))


# --- material ---------------------------------------------------------------------------------------------------------


def pictures(folder: Path, frames: list[Frame]) -> Path:
    folder.mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index:02}.png"), frame)
    return folder


def test_no_material() -> None:
    with pytest.raises(UsageError, match=r"INT8 needs frames to calibrate with: make a set with .*, then --calib SET"):
        checked_material((), MANIFEST)


def test_few_different_frames_get_a_warning(tmp_path: Path, photos: tuple[Frame, ...]) -> None:
    said: list[str] = []
    folder = pictures(tmp_path / "same", [photos[0][:64, :64]] * 3)
    assert len(checked_material((folder,), MANIFEST, said.append)) == 3
    assert said == ["warning: only 1 different frames, so the ranges will fit little else"]
    other = pictures(tmp_path / "other", [photo[:64, :64] for photo in photos])
    assert len(checked_material((folder, other), MANIFEST, said.append)) == 7
    assert len(said) == 1


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_frames_say_nothing(value: int, tmp_path: Path, photos: tuple[Frame, ...]) -> None:
    folder = pictures(tmp_path / "flat", [np.full((40, 40, 3), (value, 7, 9), np.uint8)] * 3)
    with pytest.raises(UsageError, match="every frame is one flat colour, which says nothing"):
        checked_material((folder,), MANIFEST)
    cv2.imwrite(str(folder / "photo.png"), photos[0])
    assert len(checked_material((folder,), MANIFEST)) == 4


def test_frames_that_are_too_small(photo_folder: Path) -> None:
    with pytest.raises(UsageError, match="a frame of 96x96 is too small, the model takes no less than 128x128"):
        checked_material((photo_folder,), with_geometry(size_rule=SizeRule(128, 1)))
    with pytest.raises(UsageError, match="a frame of 96x96 is too small, the model takes 96x100"):
        checked_material((photo_folder,), with_geometry(fixed_size=(96, 100)))


def test_frames_of_a_model_that_resizes(photo_folder: Path) -> None:
    """None is too small, and it is judged on whole frames as well."""
    manifest = with_geometry(fixed_size=(96, 100), fit="resize")
    material = checked_material((photo_folder,), manifest)
    whole = CalibrationSet.from_paths([photo_folder]).frames[0]
    resized = np.empty((96, 100, 3), np.uint8)
    resized_into(whole, resized)
    assert np.array_equal(material.frames[0], resized)
    clips = clips_of(material, manifest)
    assert clips.truth is None
    assert {frame.shape for frame in clips.inputs} == {(96, 100, 3)}
    assert np.array_equal(clips.inputs[0], resized)


def test_a_recurrent_net_needs_runs(photo_folder: Path, pan_set: Path) -> None:
    with pytest.raises(UsageError, match=r"recurrent and needs runs of consecutive frames: .*--runs 8"):
        checked_material((photo_folder,), RECURRENT)
    assert len(checked_material((pan_set,), RECURRENT)) == 8


# --- what losses are measured on --------------------------------------------------------------------------------------


def material_of(frames: list[Frame], runs: tuple[tuple[int, ...], ...] = ()) -> CalibrationSet:
    return CalibrationSet(tuple(frames), tuple(map(str, range(len(frames)))), "test", runs)


def test_frames_are_reduced_and_are_their_own_truth(photos: tuple[Frame, ...]) -> None:
    clips = clips_of(material_of(list(photos)), MANIFEST)
    assert clips.truth is not None
    assert len(clips.inputs) == len(clips.truth) == len(photos)
    for small, truth in zip(clips.inputs, clips.truth, strict=True):
        assert np.array_equal(small, reduced(truth, 2))
        assert max(truth.shape[:2]) <= JUDGE_SIDE
    assert clips.begins == (True,) * len(photos)


def test_every_second_frame_is_hardened(photos: tuple[Frame, ...]) -> None:
    dim = [(100 + photo * 0.2).astype(np.uint8) for photo in photos]
    clips = clips_of(material_of(dim), MANIFEST)
    assert clips.truth is not None
    contrasts = sorted(int(np.ptp(frame)) for frame in clips.truth)
    assert contrasts[1] <= 51
    assert contrasts[2] > 200


@pytest.mark.parametrize(
    "manifest", [replace(MANIFEST, task="translation"), with_geometry(fixed_size=(96, 96)), with_geometry(scale=1)]
)
def test_other_models_are_judged_against_float(manifest: Manifest, photos: tuple[Frame, ...]) -> None:
    clips = clips_of(material_of([photo[:96, :96] for photo in photos]), manifest)
    assert clips.truth is None
    assert {frame.shape for frame in clips.inputs} == {(96, 96, 3)}


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([(1, 1), (8, 4), (2, 2)]), st.sampled_from([1, 2, 3, 4]))
def test_frames_of_any_size_give_clips_that_the_model_takes(
    height: int, width: int, rule: tuple[int, int], scale: int
) -> None:
    manifest = with_geometry(size_rule=SizeRule(*rule), scale=scale)
    if not SizeRule(*rule).allows(height - height % rule[1], width - width % rule[1]):
        return
    rng = np.random.default_rng(height * 71 + width)
    frames = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]
    clips = clips_of(material_of(frames).fitting(manifest.geometry.size_rule), manifest)
    assert all(SizeRule(*rule).allows(*frame.shape[:2]) for frame in clips.inputs)
    if clips.truth is not None:
        for small, truth in zip(clips.inputs, clips.truth, strict=True):
            assert (small.shape[0] * scale, small.shape[1] * scale) == truth.shape[:2]


def test_frames_come_from_all_over_the_material() -> None:
    frames = [np.full((64, 64, 3), value, np.uint8) for value in range(200)]
    clips = clips_of(material_of(frames), replace(MANIFEST, task="translation"))
    assert len(clips.inputs) == JUDGE_FRAMES
    plain = sorted(int(frame[0, 0, 0]) for frame in clips.inputs)
    assert 0 in plain
    assert plain[-1] > 170


def test_runs_stay_whole_for_a_recurrent_net(photos: tuple[Frame, ...]) -> None:
    frames = [photos[0][index : index + 96, :96] for index in range(80)]
    runs = tuple(tuple(range(start, start + 16)) for start in range(0, 80, 16))
    manifest = replace(RECURRENT, task="translation")
    clips = clips_of(material_of(frames, runs), manifest)
    assert [len(run) for run in clips.runs] == [JUDGE_RUN] * JUDGE_RUNS
    first = [clips.inputs[index] for index in clips.runs[0]]
    assert any(all(np.array_equal(a, b) for a, b in zip(first, frames[run[0] :], strict=False)) for run in runs)


def test_only_a_recurrent_net_can_drift(pan_set: Path, tmp_path: Path) -> None:
    """A set with runs serves any net, and what happens in them is no drift."""
    prepared = prepare(sr_net(), MANIFEST, Int8Config((pan_set,), observer="max", cache=tmp_path))
    assert any(len(run) > 1 for run in prepared.clips.runs)
    play, judge = judging(prepared, "int8")
    outputs = [frame.copy() for frame in play(prepared.original)]
    outputs[-1] ^= 64
    assert judge.loss(outputs).drift_db == 0


def test_frames_to_measure_on_are_hardened_run_by_run(photos: tuple[Frame, ...]) -> None:
    """The contrast is that of a run's first frame, the reduction changes from run to run, sizes stay the model's."""
    frames = [(photo[:150, :170] * gain + 40).astype(np.uint8) for photo in photos[:2] for gain in (0.2, 0.4)]
    material = material_of(frames, ((0, 1), (2, 3)))
    hard = _Hardened(material, with_geometry(size_rule=SizeRule(8, 4)))
    for index in (3, 0, 2, 1):  # in any order
        first, factor = frames[index - index % 2], 2  # a quarter of 150 rows is less than a hardened frame has at least
        wanted = hardened(frames[index], factor, contrast_of(first))[:72, :84]
        assert np.array_equal(hard[index], wanted), index
    assert len(hard) == 4
    larger = _Hardened(material_of([np.ascontiguousarray(photo[:300, :320]) for photo in photos[:2]]), MANIFEST)
    assert [frame.shape for frame in larger] == [(150, 160, 3), (75, 80, 3)]
    fixed = _Hardened(material, with_geometry(fixed_size=(150, 170)))
    assert {frame.shape for frame in fixed} == {(150, 170, 3)}


# --- graphs that cannot be quantised ----------------------------------------------------------------------------------


def test_a_graph_without_convolution(photo_folder: Path, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(upscale_model())
    with pytest.raises(GenedgeError, match="no convolution with constant weights, so there is nothing to quantise"):
        quantised(model, MANIFEST, Int8Config((photo_folder,), cache=tmp_path))


@pytest.mark.parametrize(("weight", "layer"), [("w1", "head"), ("w2", "body"), ("b3", "tail")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_their_layer(
    weight: str, layer: str, value: float, photo_folder: Path, tmp_path: Path
) -> None:
    model = sr_net()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    with pytest.raises(GenedgeError, match=f"^{layer} makes values that are not finite"):
        quantised(model, MANIFEST, Int8Config((photo_folder,), cache=tmp_path))


# --- calib sensitivity ------------------------------------------------------------------------------------------------


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and the one sentence with which ``calib sensitivity`` fails."""
    capsys.readouterr()
    try:
        code = run(["sensitivity", *map(str, arguments)])
    except SystemExit as stopped:
        code = int(str(stopped.code))
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1, errors
    return code, errors[0].partition("error: ")[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path / "b", models={"fp32": sr_net().SerializeToString()}, golden_frames=0)


@pytest.mark.parametrize("variant", ["int8", "int8-ort"])
def test_sensitivity_ranks_every_layer(
    variant: str, bundle: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    arguments = ["sensitivity", str(bundle), "--calib", str(photo_folder), "--variant", variant, "--json", str(report)]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    content = json.loads(report.read_text())
    assert content["variant"] == variant
    assert sorted(entry["layer"] for entry in content["layers"]) == ["body", "head", "tail"]
    harm = [(-entry["truth_db"], entry["psnr_db"]) for entry in content["layers"]]
    assert harm == sorted(harm)  # the most harmful first
    assert content["all"]["psnr_db"] <= min(entry["psnr_db"] for entry in content["layers"]) + 0.5
    assert [line.split()[0] for line in lines[-5:-2]] == [entry["layer"] for entry in content["layers"]]
    assert lines[-2].startswith("all together")


def test_sensitivity_on_what_it_cannot_use(
    bundle: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_int8 = write_small_bundle(tmp_path / "c", models={"int8": sr_net().SerializeToString()}, golden_frames=0)
    code, sentence = failure(capsys, only_int8, "--calib", photo_folder)
    assert (code, sentence) == (2, f"{only_int8} has no fp32 variant, which INT8 is made from")
    code, sentence = failure(capsys, "nowhere", "--calib", photo_folder)
    assert code == 1
    assert sentence.startswith("no bundle nowhere (looked for ")
    broken = write_small_bundle(tmp_path / "d", models={"fp32": b"\x42\x01\xff"}, golden_frames=0)
    assert failure(capsys, broken, "--calib", photo_folder)[0] == 1
    code, sentence = failure(capsys, bundle, "--calib", tmp_path / "nothing")
    assert (code, "no such picture or folder" in sentence) == (2, True)
    assert failure(capsys, bundle)[0] == 2


@pytest.mark.parametrize("observer", ["auto", "average", "percentile:200", ""])
def test_sensitivity_with_an_unknown_observer(
    observer: str, bundle: Path, photo_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calib.quantise, "collect", lambda *_, **__: pytest.fail("it was measured"))
    code, sentence = failure(capsys, bundle, "--calib", photo_folder, "--observer", observer)
    assert code == 2
    assert "observer" in sentence
