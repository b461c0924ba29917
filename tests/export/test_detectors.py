"""The face detector's net and its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from export import detectors
from export.detectors import FaceNet, head_names, write_detector_bundle
from recipes import face_detector_card as card
from recipes import face_evaluation as evaluation
from recipes.evaluation import read_image
from runtime.bundle import open_bundle
from runtime.errors import NotMetError

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "export" / "detector_weights" / "face-detector.safetensors"
BUNDLE = ROOT / "runtime" / "faces" / "face-detector"


def test_the_heads_fit_frames_of_any_multiple_of_32() -> None:
    net = FaceNet().eval()
    with torch.no_grad():
        heads = dict(zip(head_names(), net(torch.zeros((2, 96, 160, 3), dtype=torch.uint8)), strict=True))
    for stride in (8, 16, 32):
        cells = (96 // stride) * (160 // stride)
        for kind, numbers in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            assert heads[f"{kind}_{stride}"].shape == (2, cells, numbers)
    assert 70_000 < sum(parameter.numel() for parameter in net.parameters()) < 130_000


@pytest.fixture(scope="module")
def shipped() -> Path:
    if not WEIGHTS.is_file():
        pytest.skip("no face detector is shipped yet")
    return BUNDLE


@pytest.fixture(scope="module")
def made(shipped: Path, assets: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "face-detector"
    frames = [cv2.resize(read_image(assets("faces/crowds") / "deface_city.jpg"), (320, 192))]
    differences = write_detector_bundle(WEIGHTS, folder, trained_on=card.TRAINED_ON, frames=frames)
    assert set(differences) == {"onnxruntime", "openvino"}
    assert 0 < max(differences.values()) < 1e-3
    return folder


def test_the_shipped_bundle_is_what_its_weights_give(made: Path, shipped: Path) -> None:
    ours, theirs = (onnx.load(folder / "model.fp32.onnx") for folder in (made, shipped))
    assert ours.graph.node == theirs.graph.node
    assert (ours.opset_import[0].version, ours.ir_version) == (17, 8)
    assert "BatchNormalization" not in {node.op_type for node in ours.graph.node}
    manifests = [open_bundle(folder).manifest for folder in (made, shipped)]
    assert manifests[0].weights == manifests[1].weights
    assert [port.name for port in manifests[1].outputs] == head_names()


def test_weights_that_do_not_give_the_graph_are_refused(
    shipped: Path, assets: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_file(WEIGHTS)
    other["out.8.bias"] += 0.01
    save_file(other, tmp_path / "other.safetensors")
    graph = onnx.load(shipped / "model.fp32.onnx")
    monkeypatch.setattr(detectors, "detector_graph", lambda net: graph)
    frame = cv2.resize(read_image(assets("faces/crowds") / "deface_city.jpg"), (96, 64))
    with pytest.raises(NotMetError, match="differ from PyTorch's"):
        write_detector_bundle(tmp_path / "other.safetensors", tmp_path / "bundle", trained_on="", frames=[frame])
    assert not (tmp_path / "bundle").exists()


def test_the_card_tells_of_these_weights(shipped: Path) -> None:
    text = WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    assert open_bundle(shipped).manifest.weights.sha256 in text
    assert json.loads((shipped / "manifest.json").read_text())["weights"]["licence"] == "Apache-2.0"


def test_the_bundle_finds_the_face_of_an_unseen_clip(shipped: Path, assets: Callable[[str], Path]) -> None:
    clip = assets("video/asl_again.mkv")
    detect = evaluation.from_graph((shipped / "model.fp32.onnx").read_bytes())
    ask = evaluation.teacher(clip.parents[1])
    tally = sum(
        (evaluation.compared(detect(frame), ask(frame)) for frame in evaluation.frames_of(clip, 15)),
        evaluation.Tally(),
    )
    assert tally.found == tally.wanted >= 4


def test_the_card_says_where_the_requirement_is_missed() -> None:
    run = card.Run(
        {"batch": 16, "crop": 256, "lr": 1e-3}, 100, 60.0, 99_000, "ab" * 32, ((50, 30.0, 2.0), (100, 60.0, 1.0))
    )
    missed = card.card_text(run, {"video/a.mp4": evaluation.Tally(1, 100, 80, 70, 3, 1, 60.0)})
    assert "80.0 %" in missed
    assert "not met" in missed
    met = card.card_text(run, {"video/a.mp4": evaluation.Tally(1, 100, 96, 70, 3, 1, 60.0)})
    assert "not met" not in met
    assert np.all([f"| {step} |" in met for step in (50, 100)])
