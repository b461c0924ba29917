"""The training recipe: collapsed branches, a run that can be resumed, and the scoring protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipes import super_resolution as recipe
from recipes.evaluation import plain_bicubic, score_folder
from recipes.super_resolution import Muon, Settings, TrainedNet, orthogonal

SMALL = Settings(width=8, depth=1, expansion=16, batch=2, patch=16, steps=6, bfloat16=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder like the assets, with two photos that come with scikit-image."""
    from skimage import data

    folder = tmp_path / "assets" / "images" / "cid22"
    folder.mkdir(parents=True)
    for name, photo in (("train_a", data.astronaut()), ("val_a", data.coffee())):
        suffix = ".jpg" if name.startswith("train") else ".png"
        cv2.imwrite(str(folder / f"{name}{suffix}"), photo[:96, :96, ::-1])
    return tmp_path / "assets"


@pytest.mark.parametrize("scale", [2, 4])
def test_collapsing_the_branches_changes_nothing(scale: int) -> None:
    torch.manual_seed(0)
    net = TrainedNet(Settings(scale=scale, width=16, depth=2, expansion=24)).double()
    image = torch.rand(1, 3, 9, 11, dtype=torch.float64)
    torch.testing.assert_close(net.collapsed().double()(image), net(image), atol=1e-6, rtol=0)


def test_an_untrained_net_gives_about_the_repeated_input() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16)
    repeated = image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert (TrainedNet(Settings())(image) - repeated).abs().mean() < 0.1


def test_orthogonal_steps_have_even_singular_values() -> None:
    torch.manual_seed(0)
    for shape in ((32, 288), (288, 32)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_goes_downhill() -> None:
    torch.manual_seed(0)
    goal, weight = torch.randn(8, 12), torch.nn.Parameter(torch.zeros(8, 12))
    optimizer = Muon([weight], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (weight - goal).square().mean().backward()
        optimizer.step()
    assert (weight - goal).square().mean() < 0.05 * goal.square().mean()


def run(photos: Path, out: Path, steps: int) -> Path:
    settings = Settings(**{**recipe.asdict(SMALL), "steps": steps})
    return recipe.train(settings, out, photos, minutes=60, every=3, device=torch.device("cpu"))


def test_a_run_writes_weights_and_a_card_and_can_be_repeated(photos: Path, tmp_path: Path) -> None:
    first, second = (load_file(run(photos, tmp_path / name, 6)) for name in ("a", "b"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=0, rtol=0)
    card = (tmp_path / "a" / "sr-x2.md").read_text()
    assert "CC BY-SA 4.0" in card
    assert "H.264, CRF 26" in card
    assert [line.split(",")[0] for line in (tmp_path / "a" / "log.csv").read_text().splitlines()] == ["3", "6"]


def test_a_run_that_was_cut_off_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = recipe.Patches.batch
    calls = 0

    def failing(patches: recipe.Patches) -> object:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return batch(patches)

    monkeypatch.setattr(recipe.Patches, "batch", failing)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "run", 8)
    weights = run(photos, tmp_path / "run", 8)
    assert "resumed at step 3" in capsys.readouterr().out
    assert weights.exists()
    with pytest.raises(SystemExit, match="other settings"):
        recipe.train(SMALL, tmp_path / "run", photos, 60, 3, torch.device("cpu"))


def test_no_photos_is_an_error_not_noise(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no training photo"):
        recipe.training_files(tmp_path)


def test_degraded_input_stays_close_and_differs(photos: Path) -> None:
    photo = recipe.read_image(photos / "images" / "cid22" / "train_a.jpg")
    for degraded in (recipe.compressed(photo, 80), recipe.h264_round_trip(photo, 26)):
        assert degraded.shape == photo.shape
        assert 0 < np.abs(degraded.astype(int) - photo).mean() < 12


@pytest.mark.parametrize(
    ("folder", "scale", "published"), [("set5", 2, 33.97), ("set14", 2, 30.56), ("set5", 4, 28.64)]
)
def test_bicubic_scores_what_the_protocol_says(
    assets: Callable[[str], Path], folder: str, scale: int, published: float
) -> None:
    pictures = assets(f"images/{folder}")
    score = score_folder(pictures, scale, lambda low: plain_bicubic(low, scale))
    assert score.psnr_y == pytest.approx(published, abs=0.02)
