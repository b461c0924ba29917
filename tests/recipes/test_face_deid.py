"""The recipe of the face generator: its material, its numbers, and a run that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from recipes import face_deid as recipe
from recipes.face_deid import BITS, VIEWS, Crops, Sampler, Settings, detail_numbers, hadamard, held_out, made_net
from recipes.face_losses import FaceEmbedder, recognised_part, shaken
from runtime.faces import sanitise

FEW = 16


@pytest.fixture(scope="module")
def material(request: pytest.FixtureRequest) -> Crops:
    folder = recipe.assets_folder() / "faces" / "congress_pd"
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here: set GENEDGE_ASSETS")
    every = recipe.read_portraits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "read_portraits", lambda assets: every(assets)[:FEW])
        return recipe.prepare(recipe.assets_folder())


def test_a_fifth_of_the_people_is_held_out_and_always_the_same() -> None:
    apart = held_out(874)
    assert apart.sum() == 174
    np.testing.assert_array_equal(apart, held_out(874))
    assert (apart != held_out(874, seed=1)).any()


@pytest.mark.parametrize("size", [1, 2, 16])
def test_the_turn_of_the_numbers_is_orthogonal_and_even(size: int) -> None:
    matrix = hadamard(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(np.abs(matrix), size**-0.5)


def test_an_untrained_net_gives_about_the_enlarged_thumbnail() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, sanitise.SIDE, sanitise.SIDE)
    codes = recipe.random_codes(2)
    with torch.no_grad():
        made = made_net()(image, torch.zeros(2, 10), codes)
    assert (made - recipe.seen_of(image)[0]).abs().mean() < 0.05


def test_views_are_aligned_and_the_last_ones_mirrored(material: Crops) -> None:
    assert material.plain.shape == (FEW, 2 * VIEWS, sanitise.SIDE, sanitise.SIDE, 3)
    mirrored = material.plain[:, VIEWS, :, ::-1].astype(float)
    inner = (slice(None), *sanitise.ERASED)
    assert np.abs(material.plain[:, 0].astype(float) - mirrored)[inner].mean() < 6  # the template is not quite even
    others = np.abs(material.plain[:, 0].astype(float) - np.roll(mirrored, 1, 0))[inner].mean()
    assert others > 20
    moved = np.abs(material.plain[:, 0].astype(float) - material.plain[:, 1])[inner].mean()
    assert 0.5 < moved < 20


def test_filled_crops_hold_nothing_of_the_face(material: Crops) -> None:
    rows, columns = sanitise.ERASED
    edges = [np.abs(np.diff(crops[:, 0, rows, columns].astype(float), axis=1)).mean() for crops in
             (material.plain, material.filled)]  # fmt: skip
    assert edges[1] < 0.25 * edges[0]


def test_numbers_are_even_and_say_something_about_the_face(material: Crops) -> None:
    known = np.arange(FEW) < FEW - 4
    numbers = detail_numbers(material, known)
    assert numbers.shape == (FEW, 2 * VIEWS, BITS)
    taught = numbers[known].reshape(-1, BITS)
    assert np.abs(taught.mean(0)).max() < 0.15
    assert 0.7 < taught.std() < 1.1
    first, second = numbers[:, 0], numbers[:, 1]  # views of one picture
    near = np.linalg.norm(first - second, axis=1).mean()
    far = np.linalg.norm(first - np.roll(second, 1, 0), axis=1).mean()
    assert near < 0.7 * far


def test_batches_show_the_net_what_the_runtime_shows_it(material: Crops) -> None:
    numbers = np.zeros((FEW, 2 * VIEWS, BITS), np.float32)
    sampler = Sampler(material, numbers, np.arange(FEW), seed=1)
    batch = sampler.pairs(8)
    assert (batch.people[::2] == batch.people[1::2]).all()
    assert (batch.landmarks[::2] != batch.landmarks[1::2]).any()
    inside = (slice(None), slice(None), *sanitise.ERASED)
    seen, truth = (functional.avg_pool2d(planes[inside], (10, 6)) for planes in (batch.frame, batch.truth))
    noise = 255 * (seen - truth)
    assert float(noise.std()) == pytest.approx(sanitise.NOISE, rel=0.2)  # the thumbnail's, once for a cell
    single, landmarks = recipe.sanitised(material, np.array([3]), filled=True)
    wanted = sanitise.thumbnail_of(material.plain[3, 0]) + sanitise.fixed_noise(7 * 100_003 + 3)
    found = 255 * functional.avg_pool2d(single[inside], (10, 6))[0].permute(1, 2, 0).numpy()[..., ::-1]
    np.testing.assert_allclose(found, np.clip(wanted, 0, 255), atol=0.51)
    np.testing.assert_array_equal(landmarks[0], material.landmarks[3, 0])


def test_crops_for_calibration_are_sanitised(material: Crops, tmp_path: Path) -> None:
    recipe.write_crops(material, tmp_path, count=2)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        crop = cv2.imread(str(file))
        np.testing.assert_array_equal(sanitise.erased(crop, sanitise.thumbnail_of(crop)), crop)


def test_the_embedder_computes_what_its_graph_does(material: Crops, assets: Callable[[str], Path]) -> None:
    import onnxruntime

    faces = recognised_part(recipe.to_planes(material.plain[:4, 0]))
    session = onnxruntime.InferenceSession(assets("weights/mobilefacenet/MobileFaceNet.onnx"))
    name = session.get_inputs()[0].name
    values = ((faces * 255 - 127.5) / 128).numpy()
    wanted = np.concatenate([session.run(None, {name: value[None]})[0] for value in values])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    embedder = FaceEmbedder(recipe.assets_folder())
    found = embedder(faces)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    moved = embedder(shaken(faces, torch.Generator().manual_seed(0)))
    likeness = found @ moved.T
    assert (likeness.argmax(1) == torch.arange(4)).all()  # shaken, a person is still the same
    assert likeness.diagonal().max() < 0.999


@pytest.mark.timeout(120)
def test_a_run_goes_on_where_it_was(
    material: Crops, assets: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needed in ("weights/vgg19_normalised", "weights/mobilefacenet"):
        assets(needed)
    monkeypatch.setattr(recipe, "load_crops", lambda folder, cache: material)
    monkeypatch.setattr(recipe, "sheet", partial(recipe.sheet, count=1))
    settings = Settings(batch=4, late=0.0, bfloat16=False)
    first = recipe.Run(recipe.assets_folder(), tmp_path, settings)
    first.train(minutes=0.5 / 60, every=1)
    assert first.step > 0
    again = recipe.Run(recipe.assets_folder(), tmp_path, settings)
    assert again.step == first.step
    assert again.seconds == pytest.approx(first.seconds)
    for name, value in first.net.state_dict().items():
        torch.testing.assert_close(again.net.state_dict()[name], value)
    again.train(minutes=(first.seconds + 0.5) / 60, every=1)
    assert again.step > first.step
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == again.step + 1
    assert len({row.count(",") for row in rows}) == 1
    facts = json.loads((tmp_path / "settings.json").read_text())
    assert len(facts["held_out"]) == FEW // 5
    assert {"face-deid.safetensors", "sheet.png"} <= {path.name for path in tmp_path.iterdir()}
