"""Conditional generators from the checkpoint to a bundle that runs: codes in parity, golden frames and sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_factory import saved, write_checkpoint
from torch import Tensor, nn

import export.parity
from export.build import Built, build
from export.config import BuildConfig
from export.frame_io import reference_pictures
from export.generators.base import LoadedGenerator
from export.parity import HEAVY_FRAMES, HEAVY_SIZE, RUN_LENGTH, codes_of, is_heavy, parity_frames, parity_runs
from runtime.bundle import open_bundle
from runtime.errors import NotMetError
from runtime.frames import SizeRule
from runtime.sessions import choose, open_session, runnable
from runtime.verify import verify

NET = """
import torch
from torch import nn

from export.generators.base import Condition, FurtherImage, LoadedGenerator
from runtime.codes import Code

STYLE = Code("one-hot", 3, (1, 0, 0), labels=("dawn", "noon", "night"))


class Styles(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.gain = gain
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.style = nn.Linear(3, 4)
        self.tail = nn.Conv2d(4, 3, 3, padding=1)
        self.mask = nn.Conv2d(4, 1, 1)

    def forward(self, image, style):
        features = self.head(image)
        features = torch.relu(features + self.gain * self.style(style)[:, :, None, None])
        return image * 0.7 + self.tail(features) * 0.3, torch.sigmoid(self.mask(features))


def made(state, gain):
    net = Styles(gain)
    net.load_state_dict(state)
    conditions, images = (Condition("style", STYLE),), (FurtherImage("mask"),)
    return LoadedGenerator("styles", net.eval(), 1, task="translation", conditions=conditions, images=images)


def build(state):
    return made(state, 1)


def faint(state):
    return made(state, 1e-6)


def deaf(state):
    loaded = made(state, 1)
    loaded.net.forward = lambda image, style: (image * 0.9, image[:, :1])
    return loaded
"""


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a net of somebody's own, its checkpoint and its bundle."""
    folder = tmp_path_factory.mktemp("styles")
    (folder / "my_styles.py").write_text(NET)
    torch.manual_seed(3)
    net = nn.ModuleDict(
        {
            "head": nn.Conv2d(3, 4, 3, padding=1),
            "style": nn.Linear(3, 4),
            "tail": nn.Conv2d(4, 3, 3, padding=1),
            "mask": nn.Conv2d(4, 1, 1),
        }
    )
    (folder / "styles.pth").write_bytes(saved(net.state_dict()))
    return folder


def small_frames(patch: pytest.MonkeyPatch) -> None:
    """Parity is measured on small frames."""
    patch.setattr(export.parity, "FRAME_SIZE", (48, 64))
    patch.setattr(export.parity, "ODD_SIZE", (29, 37))


@pytest.fixture(scope="module")
def built(styles: Path) -> Built:
    module = f"{styles / 'my_styles.py'}:build"
    with pytest.MonkeyPatch.context() as patch:
        small_frames(patch)
        return build(BuildConfig(str(styles / "styles.pth"), styles / "bundles", module=module))


def test_parity_counts_other_codes_and_every_image(built: Built) -> None:
    bundle = open_bundle(built.folder)
    assert [port.name for port in bundle.manifest.images] == ["image", "mask"]
    assert [port.name for port in bundle.manifest.codes] == ["style"]
    codes = codes_of(built.loaded, 10)
    assert {tuple(each["style"]) for each in codes} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    assert codes[0]["style"].tolist() == [1, 0, 0]
    assert all(result.report.passed for result in built.results)


def test_golden_frames_carry_their_codes_and_are_verified_with_them(built: Built) -> None:
    bundle = open_bundle(built.folder)
    golden = bundle.manifest.golden
    assert {pair.codes["style"] for pair in golden} > {(1.0, 0.0, 0.0)}
    assert all(not verdict.failures for verdict in verify(bundle, runnable(bundle)))


def test_a_session_gives_each_image_for_each_code(built: Built) -> None:
    bundle = open_bundle(built.folder)
    frame = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    seen = set()
    for place in range(3):
        code = {"style": np.eye(3, dtype=np.float32)[place]}
        [wanted] = reference_pictures(built.loaded, [frame], [code])
        for port, picture in zip(bundle.manifest.images, wanted, strict=True):
            with open_session(bundle, choose(bundle, precision="fp32"), image=port.name) as session:
                session.set_codes(code)
                found = session.infer(frame[None])[0]
            assert np.abs(found.astype(int) - picture).max() <= 1
            seen.add(found.tobytes())
    assert len(seen) == 6  # two images of three styles


@pytest.mark.parametrize("how", ["faint", "deaf"])
def test_a_condition_without_effect_is_refused(how: str, styles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch)
    config = BuildConfig(str(styles / "styles.pth"), styles / "other", module=f"{styles / 'my_styles.py'}:{how}")
    with pytest.raises(NotMetError, match="styles: style has no effect, any code gives the same picture"):
        build(config)
    assert not (styles / "other" / "styles").exists()


def test_a_passcode_net_is_frozen_without_flags_and_two_passcodes_differ_on_one_face(tmp_path: Path) -> None:
    """What its publishers' code cannot do: with one face in the batch, its norms remove the passcode."""
    path = write_checkpoint(tmp_path / "checkpoint_0001.pth.tar", "face-identity")
    result = build(BuildConfig(str(path), tmp_path))
    assert result.loaded.freeze is None
    assert any("frozen" in note or "statistics" in note for note in result.loaded.notes)
    bundle = open_bundle(result.folder)
    manifest = bundle.manifest
    assert (manifest.task, manifest.geometry.fixed_size, manifest.geometry.fit) == ("face-deid", (128, 128), "resize")
    frame = next(iter(bundle.golden_frames()))[0]
    with open_session(bundle, choose(bundle), in_flight=1) as session:
        pictures = []
        for text in ("0000000000000000", "1111000011110000"):
            code = session.codes["passcode"]
            session.set_code("passcode", code.parsed(text[: code.size]))
            pictures.append(session.infer(frame[None])[0].copy())
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 0


class Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def test_a_heavy_net_is_compared_on_fewer_and_smaller_frames(pictures_folder: Path) -> None:
    from calib.dataset import CalibrationSet

    assert not is_heavy(LoadedGenerator("light", Wide(64), 1), None)
    with torch.device("meta"):
        assert is_heavy(LoadedGenerator("heavy", Wide(40_000), 1), None)  # 60 G, as SRGAN of 16 blocks
        assert is_heavy(LoadedGenerator("heavy", Wide(200_000), 1), (144, 192))
    frames = parity_frames(CalibrationSet.from_paths([pictures_folder]), SizeRule(), None, heavy=True)
    assert [frame.shape[:2] for frame in frames] == [HEAVY_SIZE] * HEAVY_FRAMES + [(49, 67)]
    runs = parity_runs(CalibrationSet.from_paths([pictures_folder]), SizeRule(8, 8), None, heavy=True)
    assert [run[0].shape[:2] for run in runs] == [HEAVY_SIZE] * 3 + [(56, 72)]
    assert {len(run) for run in runs} == {RUN_LENGTH}


def test_what_cannot_be_counted_is_light() -> None:
    class Asking(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image if float(image.sum()) > 1 else image * 2

    assert not is_heavy(LoadedGenerator("asking", Asking(), 1), None)
