"""What every test can ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.assets import assets_folder


@pytest.fixture(scope="session")
def assets() -> Callable[[str], Path]:
    """Path of real material by its name below ``$GENEDGE_ASSETS``; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        path = assets_folder() / name
        if not path.exists():
            pytest.skip(f"the asset {name} is not here (set GENEDGE_ASSETS)")
        return path

    return find


@pytest.fixture(scope="session")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures of 150x200 pixels."""
    import cv2
    from checkpoint_factory import frame

    folder = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        cv2.imwrite(str(folder / f"{index}.png"), frame(150, 200, seed=index))
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, pictures_folder: Path) -> Path:
    """A bundle that the exporter itself has built from tiny random weights, with all its variants. Do not change it."""
    from checkpoint_factory import write_checkpoint

    from export.build import build
    from export.config import BuildConfig

    folder = tmp_path_factory.mktemp("built")
    weights = write_checkpoint(folder / "tiny.pth")
    config = BuildConfig(str(weights), folder / "bundles", frames=(pictures_folder,), licence="MIT")
    return build(config).folder
