"""From a checkpoint to a bundle, and everything that may stop on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundle_factory import upscale_model, write_small_bundle
from checkpoint_factory import exported, loaded, saved, write_checkpoint
from onnx import numpy_helper

import export.build
import export.parity
import export.variants
from export.build import build, check
from export.config import LIMITS, BuildConfig
from export.frame_io import reference_output
from export.generators import load_generator
from export.shipped import find_shipped
from runtime.bundle import open_bundle
from runtime.errors import CheckpointError, GenedgeError, ManifestError, NotMetError, UsageError
from runtime.frames import SizeRule
from runtime.manifest import Limits
from runtime.sessions import available_backends, runnable
from runtime.verify import verify


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph of the tiny net is exported once for all tests, where exporting is not what they are about."""
    monkeypatch.setattr(export.build, "graph_from_generator", lambda *arguments: exported("compact-x2"))


@pytest.fixture
def config(tmp_path: Path, pictures_folder: Path, monkeypatch: pytest.MonkeyPatch) -> BuildConfig:
    """Of the tiny net; parity is measured on small frames."""
    monkeypatch.setattr(export.parity, "FRAME_SIZE", (48, 64))
    monkeypatch.setattr(export.parity, "ODD_SIZE", (29, 37))
    weights = write_checkpoint(tmp_path / "net.pth")
    return BuildConfig(str(weights), tmp_path / "bundles", variants=("fp32",), frames=(pictures_folder,))


def left_behind(config: BuildConfig) -> list[str]:
    return sorted(path.name for path in config.output.iterdir()) if config.output.exists() else []


# --- a bundle ---------------------------------------------------------------------------------------------------------


def test_bundle_holds_what_it_should(tiny_bundle: Path) -> None:
    files = sorted(str(path.relative_to(tiny_bundle)) for path in tiny_bundle.rglob("*") if path.is_file())
    golden = [f"golden/{index}.{side}.png" for index in range(4) for side in ("input", "output")]
    wanted = ["manifest.json", "model.fp16.onnx", "model.fp32.onnx", "parity.html", "parity.json"]
    assert files == sorted([*golden, *wanted])
    assert [path.name for path in tiny_bundle.parent.iterdir()] == ["tiny"]


def test_manifest_says_where_it_came_from(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    weights = tiny_bundle.parents[1] / "tiny.pth"
    assert (manifest.name, manifest.generator, manifest.task) == ("tiny", "compact", "super-resolution")
    assert manifest.weights.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (manifest.weights.licence, manifest.weights.trained_on) == ("MIT", "unknown")
    assert (manifest.geometry.scale, manifest.geometry.halo, manifest.geometry.tileable) == (2, 3, True)
    assert list(manifest.artifacts) == ["fp32", "fp16"]
    assert set(manifest.limits) == {"fp32", "fp16", "bf16"}


@pytest.mark.usefixtures("quick_export")
def test_bf16_that_misses_its_limits_is_left_out_and_the_bundle_is_built(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no file of the bundle, only a way to compute one, and other machines do not have it at all."""
    monkeypatch.setitem(LIMITS, "bf16", Limits(psnr_db=200.0))
    built = build(config)
    bundle = open_bundle(built.folder)
    if not any(result.choice.precision == "bf16" for result in built.results):
        pytest.skip("this processor does not compute in bfloat16")
    assert "bf16" not in bundle.manifest.limits
    assert "openvino-bf16" not in bundle.manifest.artifacts["fp32"].parity
    assert not any(choice.precision == "bf16" for choice in runnable(bundle))
    assert "needed 200.00" in (built.folder / "parity.html").read_text(encoding="utf-8")


def test_golden_frames_are_pytorchs_own_output(tiny_bundle: Path) -> None:
    generator, _ = load_generator(tiny_bundle.parents[1] / "tiny.pth")
    golden = list(open_bundle(tiny_bundle).golden_frames())
    assert {image.shape for image, _ in golden} == {(144, 192, 3), (97, 131, 3)}
    for image, output in golden:
        assert np.array_equal(output, reference_output(generator, image))


def test_parity_is_recorded_for_every_variant_and_engine(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    recorded = json.loads((tiny_bundle / "parity.json").read_text())
    assert recorded["reference"].startswith("PyTorch 2")
    assert recorded["frames"] == [[144, 192, 3]] * 8 + [[97, 131, 3]] * 2
    assert (recorded["halo"], recorded["tile_difference"]) in [(3, 0), (3, 1)]
    found = {(entry["backend"], entry["precision"]) for entry in recorded["results"]}
    assert found == {(choice.backend, choice.precision) for choice in runnable(bundle)}
    for entry in recorded["results"]:
        assert entry["passed"] is True
        assert entry["frames"] == 10
        artifact = bundle.manifest.artifacts[entry["variant"]]
        assert entry["sha256"] == artifact.sha256
        assert artifact.parity[f"{entry['backend']}-{entry['precision']}"]["psnr_db"] == entry["psnr_db"]
        if entry["precision"] == "fp32":
            assert entry["max_abs"] <= 1


def test_the_runtime_verifies_it(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    verdicts = verify(bundle, runnable(bundle))
    assert len(verdicts) >= 2 * len(available_backends())
    assert not [failure for verdict in verdicts for failure in verdict.failures]


def test_no_file_names_the_place_where_it_was_built(tiny_bundle: Path) -> None:
    place = str(tiny_bundle.parents[1]).encode()
    for path in tiny_bundle.rglob("*.*"):
        if path.name not in ("parity.json", "parity.html"):  # these name the pictures that were measured
            assert place not in path.read_bytes(), path.name


def test_graph_of_one_size(config: BuildConfig) -> None:
    built = build(replace(config, shape=(36, 52), name="fixed"))
    assert built.folder == config.output / "fixed"
    assert built.tile_difference is None
    bundle = open_bundle(built.folder)
    assert bundle.manifest.geometry.fixed_size == (36, 52)
    assert {image.shape for image, _ in bundle.golden_frames()} == {(36, 52, 3)}
    assert {result.report.frames for result in built.results} == {8}
    assert check(str(built.folder))


@pytest.mark.usefixtures("quick_export")
def test_progress_is_told_step_by_step(config: BuildConfig) -> None:
    said: list[str] = []
    build(config, said.append)
    text = "\n".join(said)
    for step in ("loading net.pth", "compact x2, ", "halo", "ONNX", "PyTorch reference, frame 10 of 10", "tiles"):
        assert step in text
    assert "fp16" not in text


@pytest.mark.usefixtures("quick_export")
def test_force_replaces_a_bundle(config: BuildConfig) -> None:
    write_small_bundle(config.output / "net")
    with pytest.raises(UsageError, match="exists: add --force to replace it"):
        build(config)
    build(replace(config, licence="new", force=True))
    assert open_bundle(config.output / "net").manifest.weights.licence == "new"
    assert left_behind(config) == ["net"]


def test_shipped_weights_build_by_name_with_built_in_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.parity, "HEAVY", 0)  # parity on smaller frames
    built = build(BuildConfig("sr-x2", tmp_path))
    manifest, shipped = open_bundle(built.folder).manifest, find_shipped("sr-x2")
    assert built.folder == tmp_path / "sr-x2"
    assert shipped is not None
    assert (manifest.weights.licence, manifest.weights.trained_on) == (shipped.licence, shipped.trained_on)
    depth = load_generator(shipped.path)[0].facts["depth"]
    assert manifest.geometry.halo == int(depth) + 2  # a pixel for every 3x3 convolution
    assert json.loads((built.folder / "parity.json").read_text())["material"] == "scikit-image photos"


# --- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_export")
def test_a_variant_that_misses_its_limits_is_not_shipped(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = export.variants.fp16_from_graph

    def sabotaged(model: onnx.ModelProto, *settings: Any) -> onnx.ModelProto:
        result = honest(model, *settings)
        bias = next(tensor for tensor in result.graph.initializer if tensor.name.endswith("bias.fp16"))
        values = numpy_helper.to_array(bias) + np.float16(3)
        bias.CopyFrom(numpy_helper.from_array(values.astype(np.float16), bias.name))
        return result

    monkeypatch.setattr(export.variants, "fp16_from_graph", sabotaged)
    with pytest.raises(NotMetError) as error:
        build(replace(config, variants=("fp32", "fp16")))
    assert error.value.exit_code == 3
    text = str(error.value)
    assert text.startswith("net: fp16 on ")
    assert "misses parity with PyTorch (PSNR " in text
    assert text.endswith("no bundle was written")
    assert left_behind(config) == []


def test_an_export_with_wrong_colours_is_not_shipped(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is computed outside the graph, so a mistake inside shows."""

    def wrong(*arguments: Any) -> onnx.ModelProto:
        model = exported("compact-x2")
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "net.convs.0.weight")
        swapped = numpy_helper.to_array(weight)[:, ::-1]
        weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(swapped), weight.name))
        return model

    monkeypatch.setattr(export.build, "graph_from_generator", wrong)
    with pytest.raises(NotMetError, match=r"net: fp32 on .* misses parity with PyTorch"):
        build(config)
    assert left_behind(config) == []


@pytest.mark.usefixtures("quick_export")
def test_tiles_with_seams_are_not_shipped(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.build, "measured_halo", lambda *arguments: 0)
    with pytest.raises(NotMetError, match=r"net: tiles differ from the whole frame by \d+ 8-bit steps \(halo 0\)"):
        build(config)
    assert left_behind(config) == []


@pytest.mark.usefixtures("quick_export")
def test_a_failing_gate_keeps_the_bundle_that_is_there(
    config: BuildConfig, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export.build, "measured_halo", lambda *arguments: 0)
    target = config.output / "net"
    target.mkdir(parents=True)
    (target / "manifest.json").write_bytes((tiny_bundle / "manifest.json").read_bytes())
    with pytest.raises(NotMetError):
        build(replace(config, force=True))
    assert open_bundle(target).manifest.name == "tiny"
    assert left_behind(config) == ["net"]


# --- what is refused before anything is computed ----------------------------------------------------------------------


@pytest.fixture
def nothing_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.build, "graph_from_generator", lambda *_: pytest.fail("it was exported"))


@pytest.mark.usefixtures("nothing_computed")
class TestRefused:
    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "/tmp/x", ".hidden", "-x", "_x", "x y", "é", "x" * 101, "x."]
    )
    def test_names_that_are_no_bundle_names(self, name: str, config: BuildConfig) -> None:
        with pytest.raises(UsageError, match="is no bundle name: use letters, digits, dot, dash and underscore"):
            build(replace(config, name=name))

    @pytest.mark.parametrize(
        ("file", "name"),
        [
            ("net.pth", "net"),
            ("latest_net_G.pth.tar", "latest_net_G"),
            ("net.v2.safetensors", "net.v2"),
            ("my net (final).ckpt", "my-net-final"),
            ("_private.pt", "private"),
            ("...pth", "bundle"),
            ("x" * 150 + ".pth", "x" * 100),
        ],
    )
    def test_name_of_the_bundle_is_made_from_that_of_the_file(
        self, file: str, name: str, config: BuildConfig, tmp_path: Path
    ) -> None:
        (config.output / name).mkdir(parents=True)
        with pytest.raises(UsageError) as error:
            build(replace(config, weights=str(tmp_path / file)))
        assert str(error.value) == f"{config.output / name} exists: add --force to replace it"

    def test_force_on_a_folder_that_is_no_bundle(self, config: BuildConfig) -> None:
        (config.output / "net" / "photos").mkdir(parents=True)
        with pytest.raises(UsageError, match="net exists and is no bundle"):
            build(replace(config, force=True))

    @pytest.mark.parametrize(
        ("variants", "sentence"),
        [
            (("fp32", "fp12"), "unknown precision 'fp12': choose among fp32, fp16"),
            (("fp16",), "every bundle needs the fp32 variant"),
            ((), "every bundle needs the fp32 variant"),
        ],
    )
    def test_precisions(self, variants: tuple[str, ...], sentence: str, config: BuildConfig) -> None:
        with pytest.raises(UsageError, match=sentence):
            build(replace(config, variants=variants))

    def test_missing_engine(self, config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export.build, "available_backends", lambda: ())
        with pytest.raises(GenedgeError, match=r'parity needs an engine.*pip install "genedge\[cpu\]"'):
            build(config)

    def test_missing_checkpoint(self, config: BuildConfig) -> None:
        with pytest.raises(CheckpointError, match=r"nowhere\.pth does not exist"):
            build(replace(config, weights="nowhere.pth"))

    def test_unknown_architecture(self, config: BuildConfig) -> None:
        Path(config.weights).write_bytes(saved({"stem.weight": exported_weight()}))
        with pytest.raises(CheckpointError, match=r"net\.pth: unknown architecture"):
            build(config)

    def test_size_that_the_generator_does_not_take(self, config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        strided = replace(loaded("compact-x2"), size_rule=SizeRule(16, 8))
        checkpoint = load_generator(Path(config.weights))[1]
        monkeypatch.setattr(export.build, "load_generator", lambda *arguments: (strided, checkpoint))
        with pytest.raises(UsageError, match="compact takes no 20x33 frames; the next size is 24x40"):
            build(replace(config, shape=(20, 33)))

    def test_size_beyond_all_memory(self, config: BuildConfig) -> None:
        with pytest.raises(UsageError, match="limited to 4096 pixels a side"):
            build(replace(config, shape=(64, 99_999)))


@pytest.mark.usefixtures("quick_export")
def test_a_net_whose_reach_cannot_be_measured_takes_whole_frames(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RRDB x2 of 23 blocks sees some 700 pixels away, unless its weights let that fade below a step."""

    def far(*arguments: Any) -> int:
        raise ValueError("the influence of a pixel reaches beyond 512 pixels")

    monkeypatch.setattr(export.build, "measured_halo", far)
    built = build(config)
    geometry = open_bundle(str(built.folder)).manifest.geometry
    assert (geometry.tileable, geometry.halo, built.tile_difference) == (False, 0, None)
    assert built.loaded.notes[-1] == (
        "The influence of a pixel reaches beyond 512 pixels, so frames are never cut into tiles; large ones need "
        "much memory."
    )


def exported_weight() -> Any:
    return next(iter(loaded("compact-x2").net.state_dict().values()))


@pytest.mark.usefixtures("quick_export")
def test_frames_that_are_no_pictures(config: BuildConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no picture"):
        build(replace(config, frames=(tmp_path / "empty",)))
    assert left_behind(config) == []


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_describes_each_artifact(tiny_bundle: Path) -> None:
    lines = check(str(tiny_bundle))
    assert [line.split(":")[0] for line in lines] == ["model.fp32.onnx", "model.fp16.onnx"]
    assert all("opset 17, IR 8, " in line and line.endswith(" nodes, digest right") for line in lines)


def test_check_finds_a_changed_file(tmp_path: Path) -> None:
    folder = write_small_bundle(tmp_path / "b")
    model = folder / "model.fp32.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match="the file was changed or damaged"):
        check(str(folder))


def changed(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(upscale_model())
    change(model)
    return model.SerializeToString()


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"


def newer_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def broken_edge(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "nothing"


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (changed(rename_input), r"model\.fp32\.onnx: its inputs .*picture.* are not those of the manifest"),
        (changed(newer_opset), r"model\.fp32\.onnx: opset 18, not 17"),
        (changed(broken_edge), r"not valid ONNX"),
        (b"\x42\x01\xff", r"model\.fp32\.onnx: not an ONNX model"),
        (b"\x08\x08", r"not valid ONNX"),
    ],
    ids=["inputs", "opset", "edges", "no-protobuf", "no-graph"],
)
def test_check_finds_a_graph_that_breaks_the_contract(model: bytes, sentence: str, tmp_path: Path) -> None:
    """The digest is right: such a bundle was written by somebody else's tool."""
    folder = write_small_bundle(tmp_path / "b", models={"fp32": model})
    with pytest.raises(GenedgeError, match=sentence):
        check(str(folder))


def test_a_face_detector_is_checked_elsewhere(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "data" / "manifests" / "valid" / "face-detection.json"
    (tmp_path / "manifest.json").write_bytes(example.read_bytes())
    with pytest.raises(UsageError, match="face-detector is a face detector: use it with `python -m runtime deid"):
        check(str(tmp_path))
