"""What every test can ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured ranges go where nobody looks, and none of another run are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENEDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        # faces are found by the own detector, as on a machine without a network
        patch.setenv("GENEDGE_OFFLINE", "1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))
        patch.delenv("GENEDGE_FACE_DETECTOR", raising=False)
        patch.delenv("GENEDGE_PASSCODE", raising=False)
        yield


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five pieces of real photos of 96x96 pixels."""
    import cv2

    from calib.dataset import CalibrationSet

    folder = tmp_path_factory.mktemp("photos")
    for index, crop in enumerate(CalibrationSet.built_in().crops(96, 96, 5)):
        cv2.imwrite(str(folder / f"{index}.png"), crop)
    return folder


@pytest.fixture(scope="session")
def pan_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration set of two runs of four frames of 72x96 pixels: a window that moves over a real photo."""
    import hashlib

    import cv2

    from calib.dataset import CalibrationSet
    from calib.index import INDEX_NAME, Index, Picture

    folder, pictures = tmp_path_factory.mktemp("pans"), []
    for run, photo in enumerate(CalibrationSet.built_in().frames[:2]):
        for place in range(4):
            name = f"{run}{place}.png"
            data = cv2.imencode(".png", photo[100:172, 50 + 3 * place : 146 + 3 * place])[1].tobytes()
            (folder / name).write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            pictures.append(Picture(name, f"{run}.mp4", place, place / 25, 100, 50, digest, run, place))
    (folder / INDEX_NAME).write_text(Index(0, (72, 96), 4, tuple(pictures)).to_json())
    return folder


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
