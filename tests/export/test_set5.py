"""Real super-resolution weights reach the figures on Set5 that were measured when they were collected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.frame_io import frame_graph
from export.generators import load_generator
from recipes.evaluation import score_folder
from runtime.frames import Frame

#: checkpoint below ``weights`` -> Y-PSNR in dB on Set5
FIGURES = {
    "srgan_leftthomas/netG_epoch_2_100.pth": 35.49,
    "srgan_leftthomas/netG_epoch_4_100.pth": 30.66,
    "realesr_animevideov3/realesr-animevideov3.pth": 28.23,
    "span_x4/team00_SPAN.pth": 31.74,
}


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "decibels"), FIGURES.items(), ids=lambda value: Path(str(value)).stem)
def test_set5_figure_of_the_weights(weights: str, decibels: float, assets: Callable[[str], Path]) -> None:
    loaded, _ = load_generator(assets(f"weights/{weights}"))
    graph = frame_graph(loaded)

    @torch.no_grad()
    def through_graph(frame: Frame) -> Frame:
        image: Frame = graph(torch.from_numpy(frame)[None])[0].numpy()
        return image

    score = score_folder(assets("images/set5"), loaded.scale, through_graph)
    assert score.images == 5
    assert score.psnr_y == pytest.approx(decibels, abs=0.05)
