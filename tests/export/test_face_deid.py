"""Our own face generator: it sees thumbnails only, and a passcode changes what it draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from checkpoint_factory import loaded, published
from nets_face_deid import landmarks_and_bits
from torch import Tensor

from export.build import build
from export.checkpoint import Checkpoint
from export.config import BuildConfig
from export.generators import generator_from, load_generator
from export.generators.face_deid import FaceDeidNet, drawn, seen_of
from export.shipped import find_shipped
from runtime.bundle import open_bundle
from runtime.errors import CheckpointError
from runtime.faces import sanitise
from runtime.faces.generator import GeneratorPainter
from runtime.faces.types import Box, Cover
from runtime.frames import Frame
from runtime.sessions import choose, open_session

INSIDE = (slice(None), slice(None), *sanitise.ERASED)
ASTRONAUT = np.array([(202, 107), (246, 105), (228, 130), (208, 150), (244, 148)], np.float32)
"""Landmarks of scikit-image's photo, read off it."""


def picture(count: int = 1) -> Tensor:
    return published("face-deid").pictures(count, seed=3)


def tiny() -> FaceDeidNet:
    net = loaded("face-deid").net
    assert isinstance(net, FaceDeidNet)
    return net


def test_pixels_moved_about_in_their_cells_change_nothing() -> None:
    image = picture()
    other = image.clone()
    cells = other[INSIDE].reshape(1, 3, 8, 10, 8, 6)
    other[INSIDE] = cells.flip(3, 5).reshape(other[INSIDE].shape)
    assert (other - image).abs().mean() > 0.02
    rest = landmarks_and_bits(image)
    torch.testing.assert_close(tiny()(other, *rest), tiny()(image, *rest), atol=1e-5, rtol=0)


def test_what_is_outside_of_the_rectangle_passes_through() -> None:
    image = picture(2)
    result = tiny()(image, *landmarks_and_bits(image))
    assert (result - image)[INSIDE].abs().mean() > 0.01
    result[INSIDE] = image[INSIDE]
    torch.testing.assert_close(result, image)


def test_a_sanitised_picture_is_seen_as_its_thumbnail() -> None:
    flat = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    image = picture()
    image[INSIDE] = flat.repeat_interleave(10, 2).repeat_interleave(6, 3)
    seen, rectangle = seen_of(image)
    assert rectangle.sum() == 80 * 48
    middle = seen[INSIDE][:, :, 4:-4:10, 2:-2:6]  # near the middles of the cells
    assert (middle[:, :, :8, :8] - flat).abs().mean() < 0.06


def test_each_face_of_a_batch_is_drawn_as_if_it_were_alone() -> None:
    image = picture(3)
    places, bits = landmarks_and_bits(image)
    together = tiny()(image, places, bits)
    for index in range(3):
        part = slice(index, index + 1)
        torch.testing.assert_close(together[part], tiny()(image[part], places[part], bits[part]), atol=1e-5, rtol=0)


def test_landmarks_are_drawn_where_they_are() -> None:
    points = sanitise.normalised(sanitise.TEMPLATE)
    planes = drawn(torch.from_numpy(points)[None])[0]
    for plane, (x, y) in zip(planes, sanitise.TEMPLATE, strict=True):
        row, column = divmod(int(plane.argmax()), sanitise.SIDE)
        assert abs(row - y) <= 0.51
        assert abs(column - x) <= 0.51


def test_every_code_scales_features_by_half_to_one_and_a_half() -> None:
    codes = torch.randint(0, 2, (64, 8), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    scales = torch.cat([scale.flatten() for scale, _ in tiny()._modulation(codes * 50)])
    assert scales.min() >= 0.5
    assert scales.max() <= 1.5
    assert scales.std() > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.0.first.weight"), "lacks blocks.0.first.weight"),
        (lambda state: state.update({"code.0.weight": torch.zeros(12, 65)}), "65 bits"),
        (lambda state: state.update({"code.0.weight": torch.zeros(0, 8)}), "0 units"),
        (lambda state: state.update({"film.weight": torch.zeros(3, 3)}), r"film.weight is \[3, 3\]"),
        (lambda state: state.update({"more": torch.zeros(1)}), "has more"),
    ],
)
def test_what_does_not_fit_is_named(change: Callable[[dict[str, Tensor]], None], message: str) -> None:
    state = published("face-deid").state()
    change(state)
    with pytest.raises(CheckpointError, match=message):
        generator_from(Checkpoint(state, "0" * 64), {})


# --- the shipped one --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(BuildConfig("face-deid", tmp_path_factory.mktemp("bundles"), variants=("fp32",))).folder


@pytest.fixture(scope="module")
def photo() -> Frame:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[..., ::-1])


class Keys:
    def __init__(self, bits: int) -> None:
        self._bits = bits

    def number(self, track: int, below: int) -> int:
        return 12_345 % below

    def bits(self, track: int, count: int) -> np.ndarray:
        return np.array([self._bits >> place & 1 for place in range(count)], np.float32)


def painted(bundle: Path, photo: Frame, bits: int) -> tuple[Frame, Frame]:
    """The photo with another face, and what was below it."""
    opened = open_bundle(str(bundle))
    painter = GeneratorPainter(open_session(opened, choose(opened, precision="fp32"), threads=1))
    around = cv2.GaussianBlur(photo, (0, 0), 25)
    box = Box(180, 60, 90, 120)
    target = around.copy()
    painter.paint(photo, target, Cover(0, box, box.scaled(1.6, 1.8), "detected", 1.0, ASTRONAUT, True), Keys(bits))
    painter.close()
    return target, around


def test_the_painter_draws_what_the_recipe_computes(bundle: Path, photo: Frame) -> None:
    target, around = painted(bundle, photo, 0xA5C3)
    face = sanitise.FaceSanitiser()(photo, around, ASTRONAUT, 12_345)
    shipped = find_shipped("face-deid")
    assert shipped is not None
    generator, _ = load_generator(shipped.path)
    image = torch.from_numpy(face.frame[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    code = torch.from_numpy(Keys(0xA5C3).bits(0, 16))[None] * 2 - 1
    with torch.no_grad():
        made = generator.net(image, torch.from_numpy(face.landmarks)[None], code)
    drawn_face = (made[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
    wanted = around.copy()
    sanitise.put_back(np.ascontiguousarray(drawn_face), face.matrix, wanted)
    assert np.abs(wanted.astype(int) - target).max() <= 2
    assert np.abs(target.astype(int) - around).max() > 40


def test_another_passcode_draws_a_face_that_looks_different(bundle: Path, photo: Frame) -> None:
    first, _ = painted(bundle, photo, 0xA5C3)
    second, _ = painted(bundle, photo, 0x1B64)
    shown = sanitise.hull() > 127
    matrix = sanitise.matrix_for(ASTRONAUT)
    crops = [sanitise.aligned(image, matrix)[shown].astype(int) for image in (first, second)]
    assert np.abs(crops[0] - crops[1]).mean() > 4
