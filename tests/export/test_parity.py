from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_factory import random_frames, upscale, upscale_model, write_small_bundle
from checkpoint_factory import exported, frame, loaded
from onnx import TensorProto

import export.parity
from calib.dataset import CalibrationSet
from export.frame_io import reference_output
from export.parity import (
    ODD_SIZE,
    Pair,
    measure,
    parity_frames,
    record,
    reference_pairs,
    tile_difference,
    tile_frame,
    tile_size,
)
from runtime.bundle import Bundle, open_bundle
from runtime.codes import Code
from runtime.errors import GenedgeError
from runtime.frames import SizeRule
from runtime.manifest import Geometry, Limits, Port
from runtime.sessions import Choice, available_backends, runnable
from runtime.tiles import plan_tiles


def quiet(text: str) -> None:
    pass


def pairs(*sizes: tuple[int, int]) -> list[Pair]:
    """Frames and what nearest-neighbour upscaling makes of them."""
    images = [random_frames(*size, 3, seed=index) for index, size in enumerate(sizes or ((8, 12), (9, 7)))]
    return [Pair(image, upscale(image[None])[0]) for image in images]


# --- frames -----------------------------------------------------------------------------------------------------------

MATERIAL = CalibrationSet((frame(200, 260), frame(180, 300, seed=1)), ("a", "b"), "two pictures")


def test_frames_have_two_sizes_where_any_size_is_allowed() -> None:
    shapes = [image.shape for image in parity_frames(MATERIAL, SizeRule(), None)]
    assert shapes == [(144, 192, 3)] * 8 + [(*ODD_SIZE, 3)] * 2


def test_frames_obey_the_size_rule() -> None:
    rule = SizeRule(160, 32)
    shapes = {image.shape[:2] for image in parity_frames(MATERIAL, rule, None)}
    assert shapes == {(160, 192), (160, 160)}
    assert all(rule.allows(*shape) for shape in shapes)


def test_frames_have_the_one_size_of_a_fixed_graph() -> None:
    images = parity_frames(MATERIAL, SizeRule(), (50, 70))
    assert [image.shape for image in images] == [(50, 70, 3)] * 8
    assert len({image.tobytes() for image in images}) == 8  # eight different pieces


def test_reference_pairs_are_pytorchs_own_output() -> None:
    generator, images, said = loaded("compact-x2"), [frame(), frame(10, 12, seed=1)], []
    found = reference_pairs(generator, images, said.append)
    assert said == ["PyTorch reference, frame 1 of 2", "PyTorch reference, frame 2 of 2"]
    for pair, image in zip(found, images, strict=True):
        assert pair.frame is image
        assert np.array_equal(pair.reference, reference_output(generator, image))


# --- measuring --------------------------------------------------------------------------------------------------------


def test_every_variant_is_measured_on_every_engine(tmp_path: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "b", models={"fp32": upscale_model(), "fp16": upscale_model()}))
    said: list[str] = []
    results = measure(bundle, pairs(), said.append)
    assert [result.choice for result in results] == runnable(bundle)
    assert {result.choice.backend for result in results} == set(available_backends())
    assert len(said) == len(results) == len({result.key for result in results})
    for result in results:
        assert result.key == f"{result.choice.backend}-{result.choice.precision}"
        assert result.engine.startswith(f"{result.choice.backend} on ")
        if result.choice.precision != "bf16":
            assert (result.report.max_abs, result.report.changed, result.report.frames) == (0, 0.0, 2)


def test_a_wrong_variant_is_found_with_its_worst_frame(tmp_path: Path) -> None:
    """Only the bright frame shows that this graph is too bright by three steps: the dark one is far from white."""
    bundle = open_bundle(write_small_bundle(tmp_path / "b", models={"fp32": upscale_model(brightness=3)}))
    white, grey = np.full((6, 6, 3), 255, np.uint8), np.full((6, 6, 3), 100, np.uint8)
    both = [Pair(image, upscale(image[None])[0]) for image in (white, grey)]
    result = next(r for r in measure(bundle, both, quiet) if r.key == "onnxruntime-fp32")
    assert not result.report.passed
    assert result.report.failures[0] == "largest difference 3 8-bit steps, allowed 0"
    assert result.report.worst_frame == 1
    assert np.array_equal(result.worst_output, np.full((12, 12, 3), 103, np.uint8))


def test_bf16_is_measured_by_its_own_limits(tmp_path: Path) -> None:
    limits = {"fp32": Limits(max_abs=0), "bf16": Limits(psnr_db=200.0)}
    bundle = open_bundle(write_small_bundle(tmp_path / "b", limits=limits))
    reports = {result.key: result.report for result in measure(bundle, pairs(), quiet)}
    if "openvino-bf16" not in reports:
        pytest.skip("this CPU does not compute in bfloat16")
    assert reports["openvino-fp32"].passed
    assert "PSNR" in reports["openvino-bf16"].failures[0]


def test_a_variant_that_no_engine_here_runs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"fp32": upscale_model(), "int8-strong": upscale_model()}
    bundle = open_bundle(write_small_bundle(tmp_path / "b", models=models))
    monkeypatch.setattr(export.parity, "available_backends", lambda: ("openvino",))
    with pytest.raises(
        GenedgeError, match=r'no engine here runs the int8-strong variant: pip install "genedge\[cpu\]"'
    ):
        measure(bundle, pairs(), quiet)


def test_the_graph_for_a_later_engine_is_measured_in_onnx_runtime(tmp_path: Path) -> None:
    """TensorRT does not run yet, and a file that nobody has run does not belong into a bundle."""
    pytest.importorskip("onnxruntime")
    models = {"fp32": upscale_model(), "int8-strong": upscale_model(brightness=2)}
    bundle = open_bundle(write_small_bundle(tmp_path / "b", models=models))
    assert not any(choice.variant == "int8-strong" for choice in runnable(bundle))
    (result,) = (one for one in measure(bundle, pairs(), quiet) if one.choice.variant == "int8-strong")
    assert (result.key, result.report.max_abs) == ("onnxruntime-int8", 2)


def test_outputs_of_two_frames_do_not_share_memory(tmp_path: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "b"))
    same_size = pairs((8, 8), (8, 8), (8, 8))
    assert all(result.report.max_abs == 0 for result in measure(bundle, same_size, quiet) if "bf16" not in result.key)


# --- tiles ------------------------------------------------------------------------------------------------------------


def bundle_with(model: onnx.ModelProto, halo: int, folder: Path) -> Bundle:
    bundle = open_bundle(write_small_bundle(folder, models={"fp32": model.SerializeToString()}, golden_frames=0))
    return Bundle(folder, replace(bundle.manifest, geometry=replace(bundle.manifest.geometry, halo=halo)))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_tiles_with_the_right_halo_equal_the_whole_frame(backend: str, tmp_path: Path) -> None:
    if backend not in available_backends():
        pytest.skip(f"{backend} is not installed")
    bundle = bundle_with(exported("compact-x2"), 3, tmp_path / "b")
    assert tile_difference(bundle, Choice(backend, "fp32", "fp32", ""), frame(97, 131)) <= 1


def test_tiles_with_too_small_a_halo_are_found(tmp_path: Path) -> None:
    bundle = bundle_with(exported("compact-x2"), 0, tmp_path / "b")
    assert tile_difference(bundle, Choice("onnxruntime", "fp32", "fp32", ""), frame(97, 131)) > 1


@pytest.mark.parametrize(("halo", "fits"), [(4, True), (0, False)])
def test_a_net_that_looks_farther_around_it_in_a_map_is_found(halo: int, fits: bool, tmp_path: Path) -> None:
    """To the frame it adds a map's mean over 9x9 pixels, so the frame's own halo is 0."""
    port = Port("light", "code", "float32", ("n", 3, "h", "w"), code=Code("vector", 3, (0, 0, 0), 0, 100))
    nodes = [
        onnx.helper.make_node("AveragePool", ["light"], ["mean"], kernel_shape=[9, 9], pads=[4, 4, 4, 4]),
        onnx.helper.make_node("Transpose", ["mean"], ["pixels"], perm=[0, 2, 3, 1]),
        onnx.helper.make_node("Cast", ["frame"], ["values"], to=TensorProto.FLOAT),
        onnx.helper.make_node("Add", ["values", "pixels"], ["sum"]),
        onnx.helper.make_node("Clip", ["sum", "black", "white"], ["clipped"]),
        onnx.helper.make_node("Cast", ["clipped"], ["image"], to=TensorProto.UINT8),
    ]
    ends = [onnx.numpy_helper.from_array(np.float32(end), name) for end, name in ((0, "black"), (255, "white"))]
    info = onnx.helper.make_tensor_value_info
    inputs = [info("frame", TensorProto.UINT8, ["n", "h", "w", 3]), info("light", TensorProto.FLOAT, port.shape)]
    outputs = [info("image", TensorProto.UINT8, ["n", "h", "w", 3])]
    graph = onnx.helper.make_graph(nodes, "light", inputs, outputs, ends)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    bundle = bundle_with(model, halo, tmp_path / "b")
    manifest = replace(
        bundle.manifest,
        inputs=(bundle.manifest.frame, port),
        geometry=replace(bundle.manifest.geometry, scale=1),
    )
    difference = tile_difference(
        Bundle(bundle.folder, manifest), Choice("onnxruntime", "fp32", "fp32", ""), frame(97, 131)
    )
    assert (difference <= 1) is fits


@pytest.mark.parametrize("halo", [0, 8, 70, 88, 150])
@pytest.mark.parametrize("multiple", [1, 8])
def test_the_frame_for_tiles_always_has_a_seam(halo: int, multiple: int) -> None:
    geometry = Geometry(2, SizeRule(1, multiple), halo, True, None)
    photo = tile_frame(CalibrationSet.built_in(), geometry)
    assert geometry.size_rule.allows(*photo.shape[:2])
    plan = plan_tiles(*photo.shape[:2], *tile_size(geometry, *photo.shape[:2]), halo, multiple)
    assert len(plan.tiles) >= 4


def test_a_frame_without_a_seam_is_no_proof(tmp_path: Path) -> None:
    bundle = bundle_with(exported("compact-x2"), 88, tmp_path / "b")
    with pytest.raises(ValueError, match="no seam"):
        tile_difference(bundle, Choice("onnxruntime", "fp32", "fp32", ""), frame(97, 131))


# --- record -----------------------------------------------------------------------------------------------------------


def test_record_names_file_engine_and_figures(tmp_path: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "b"))
    results = measure(bundle, pairs(), quiet)
    content = record(results, bundle, {"material": "noise"})
    assert (content["format"], content["bundle"], content["material"]) == (1, "tiny-x2", "noise")
    for entry, result in zip(content["results"], results, strict=True):
        assert entry["sha256"] == bundle.manifest.artifacts["fp32"].sha256
        assert (entry["backend"], entry["precision"]) == (result.choice.backend, result.choice.precision)
        assert entry["psnr_db"] == result.report.psnr_db
        assert entry["passed"] is result.report.passed
