"""The check that a bundle still does what PyTorch did: it must not pass anything that was not shown."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_factory import png, random_frames, sha256, upscale_model, write_manifest, write_small_bundle

from runtime.bundle import Bundle, open_bundle
from runtime.errors import GenedgeError, ManifestError, MissingExtraError
from runtime.manifest import Artifact, Limits
from runtime.sessions import Choice, runnable
from runtime.verify import limits_for, verify

pytest.importorskip("onnxruntime")

ORT = Choice("onnxruntime", "fp32", "fp32", "asked for")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_small_bundle(tmp_path / "net"))


def with_model(bundle: Bundle, model: bytes) -> Bundle:
    """The bundle with another fp32 model and its right digest in the manifest; but nobody measured that file."""
    (bundle.folder / "model.fp32.onnx").write_bytes(model)
    artifacts = {"fp32": Artifact("model.fp32.onnx", sha256(model))}
    write_manifest(bundle.folder, replace(bundle.manifest, artifacts=artifacts))
    return open_bundle(bundle.folder)


def with_limits(bundle: Bundle, **limits: Limits) -> Bundle:
    write_manifest(bundle.folder, replace(bundle.manifest, limits=limits))
    return open_bundle(bundle.folder)


def test_a_bundle_as_it_was_built_passes(bundle: Bundle) -> None:
    [verdict] = verify(bundle, [ORT])
    assert verdict.failures == ()
    assert (verdict.report.frames, verdict.report.max_abs, verdict.report.changed) == (2, 0, 0.0)
    assert verdict.choice == ORT


@pytest.mark.timeout(60)
def test_every_engine_of_this_machine_gives_a_verdict(bundle: Bundle) -> None:
    bundle = with_limits(bundle, fp32=Limits(max_abs=0), bf16=Limits(max_abs=1))
    choices = runnable(bundle)
    verdicts = verify(bundle, choices)
    assert [verdict.choice for verdict in verdicts] == choices
    assert [verdict.failures for verdict in verdicts] == [()] * len(choices)


def test_a_verdict_for_json(bundle: Bundle) -> None:
    [verdict] = verify(bundle, [ORT])
    content = json.loads(json.dumps(verdict.to_dict()))
    assert (content["backend"], content["precision"], content["variant"]) == ("onnxruntime", "fp32", "fp32")
    assert (content["passed"], content["failures"], content["max_abs"], content["frames"]) == (True, [], 0, 2)


# --- another result ---------------------------------------------------------------------------------------------------


def test_a_model_that_computes_something_else_fails_with_the_figures(bundle: Bundle) -> None:
    [verdict] = verify(with_model(bundle, upscale_model(brightness=3)), [ORT])
    assert verdict.report.max_abs == 3
    assert any("largest difference 3 8-bit steps, allowed 0" in failure for failure in verdict.failures)
    assert verdict.to_dict()["passed"] is False


def test_a_change_too_small_to_see_fails_since_nobody_measured_that_file(bundle: Bundle) -> None:
    """A weight changed and the digest adapted: the golden frames come out right, and yet nothing is known about it."""
    changed = upscale_model(brightness=1e-4)
    assert sha256(changed) != bundle.manifest.artifacts["fp32"].sha256
    [verdict] = verify(with_model(bundle, changed), [ORT])
    assert (verdict.report.max_abs, verdict.report.failures) == (0, ())
    assert verdict.failures == ("model.fp32.onnx is not the file whose parity was measured at build time",)
    assert verdict.to_dict()["passed"] is False


def test_a_damaged_file_is_an_error(bundle: Bundle) -> None:
    (bundle.folder / "model.fp32.onnx").write_bytes(upscale_model(brightness=1e-4))
    with pytest.raises(ManifestError, match=r"model\.fp32\.onnx: sha256 is"):
        verify(bundle, [ORT])


def test_an_edited_golden_frame_is_an_error(bundle: Bundle) -> None:
    """Else a wrong result could be declared the right one."""
    (bundle.folder / "golden/0.output.png").write_bytes(png(random_frames(16, 24, 3)))
    with pytest.raises(ManifestError, match=r"golden/0\.output\.png: sha256 is"):
        verify(bundle, [ORT])


# --- nothing to judge by ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{}, {"fp32": Limits()}, {"fp16": Limits(max_abs=0)}], ids=["none", "empty", "other"]
)
def test_without_limits_nothing_passes(bundle: Bundle, limits: dict[str, Limits]) -> None:
    [verdict] = verify(with_limits(bundle, **limits), [ORT])
    assert verdict.failures == ("the manifest states no limits for fp32",)


def test_bf16_has_limits_of_its_own(bundle: Bundle) -> None:
    """It is a precision of the fp32 artifact, so the limits of fp32 would be the wrong ones."""
    bundle = with_limits(bundle, fp32=Limits(max_abs=1), bf16=Limits(psnr_db=40.0))
    bf16 = Choice("openvino", "bf16", "fp32", "asked for")
    assert limits_for(bundle.manifest, ORT) == Limits(max_abs=1)
    assert limits_for(bundle.manifest, bf16) == Limits(psnr_db=40.0)
    assert limits_for(with_limits(bundle, fp32=Limits(max_abs=1)).manifest, bf16) is None


def test_missing_limits_of_bf16_are_called_so(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    bundle = with_limits(bundle, fp32=Limits(max_abs=0))
    [verdict] = verify(bundle, [Choice("openvino", "bf16", "fp32", "asked for")])
    assert "the manifest states no limits for bf16" in verdict.failures


def test_a_bundle_without_golden_frames_cannot_be_verified(tmp_path: Path) -> None:
    bundle = open_bundle(write_small_bundle(tmp_path / "net", golden_frames=0))
    with pytest.raises(GenedgeError, match="holds no golden frames to verify against: build it again"):
        verify(bundle, [ORT])


def test_no_engine_is_no_success(bundle: Bundle) -> None:
    """An empty list of verdicts holds no failure, and a caller could take that for a pass."""
    with pytest.raises(GenedgeError, match="no engine here runs a variant of tiny-x2, so nothing was verified"):
        verify(bundle, [])


def test_an_engine_that_is_not_installed_names_its_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="onnxruntime is not installed"):
        verify(bundle, [ORT])


def test_a_variant_that_the_bundle_lacks(bundle: Bundle) -> None:
    with pytest.raises(GenedgeError, match="tiny-x2 has no int8-ort variant, only fp32"):
        verify(bundle, [Choice("onnxruntime", "int8", "int8-ort", "asked for")])


# --- parity.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"results": []},
        {"results": "fp32"},
        {"results": {"variant": "fp32"}},
        {"results": [None, 3, ["fp32"]]},
        {"results": [{"variant": "fp16", "sha256": "0" * 64}]},
    ],
    ids=lambda record: json.dumps(record)[:40],
)
def test_a_record_without_a_measurement_of_the_variant(bundle: Bundle, record: object) -> None:
    path = bundle.folder / "parity.json"
    path.unlink() if record is None else path.write_text(json.dumps(record))
    [verdict] = verify(bundle, [ORT])
    assert verdict.failures == ("parity.json holds no measurement of fp32",)


@pytest.mark.parametrize("digest", [None, "", "0" * 64, {"sha256": "?"}])
def test_a_record_of_another_file(bundle: Bundle, digest: object) -> None:
    record = {"results": [{"variant": "fp32", "sha256": digest}]}
    (bundle.folder / "parity.json").write_text(json.dumps(record))
    [verdict] = verify(bundle, [ORT])
    assert verdict.failures == ("model.fp32.onnx is not the file whose parity was measured at build time",)
