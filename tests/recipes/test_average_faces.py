"""The recipe of the average faces: groups that protect everybody in them, and the bank that is shipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes import average_faces as recipe


@pytest.fixture(scope="module")
def portraits(assets: Callable[[str], Path]) -> recipe.Portraits:
    return recipe.read_portraits(assets("faces/congress_pd"))


FACES = Path(__file__).resolve().parents[2] / "runtime" / "faces"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 9))
def test_no_group_is_too_small_and_everybody_is_in_one(seed: int, count: int, least: int) -> None:
    # points with a far cluster of one, which plain k-means would leave alone
    points = np.random.default_rng(seed).normal(size=(count * least + seed % 7, 3))
    points[0] += 100
    label = recipe.groups(points, count, least, seed)
    assert np.bincount(label, minlength=count).min() >= least
    assert label.shape == (len(points),)
    assert set(label) == set(range(count))


def test_too_few_people_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        recipe.groups(np.zeros((19, 2)), 2, 10)


def test_alike_points_come_together() -> None:
    points = np.repeat(np.array([[0.0, 0], [10, 0], [0, 10]]), 10, axis=0) + np.arange(30)[:, None] / 100
    assert len({tuple(recipe.groups(points, 3, 5)[start : start + 10]) for start in (0, 10, 20)}) == 3


def test_the_shipped_bank_is_of_at_least_twenty_people_a_face_and_nobody_twice() -> None:
    facts = json.loads((FACES / "average_faces.json").read_text())
    people = facts["people"]
    assert len(people) == facts["count"] >= 16
    assert min(len(set(group)) for group in people) >= 20
    everybody = [name for group in people for name in group]
    assert len(everybody) == len(set(everybody))
    assert sum(path.stat().st_size for path in FACES.glob("average_faces.*")) < 1.5e6
    text = (FACES / "average_faces.md").read_text()
    assert f"{len(everybody)} in all" in text
    assert text == recipe.card(people)


def test_people_of_the_shipped_bank_look_at_the_camera_in_colour(portraits: recipe.Portraits) -> None:
    assert portraits.images.shape == (len(portraits.names), recipe.HEIGHT, recipe.WIDTH, 3)
    facts = json.loads((FACES / "average_faces.json").read_text())
    assert sorted(name for group in facts["people"] for name in group) == sorted(portraits.names)


def test_a_shipped_face_is_nearer_to_the_mean_of_its_people_than_to_that_of_others(portraits: recipe.Portraits) -> None:
    place = {name: index for index, name in enumerate(portraits.names)}
    people = json.loads((FACES / "average_faces.json").read_text())["people"]
    sheet = cv2.imread(str(FACES / "average_faces.png"), cv2.IMREAD_UNCHANGED)
    shown = recipe.hull() == 255
    means = np.stack([portraits.images[[place[name] for name in group]].mean(0)[shown] for group in people])
    right = 0
    for index in range(len(people)):
        row, column = divmod(index, recipe.COLUMNS)
        top, left = row * recipe.HEIGHT, column * recipe.WIDTH
        face = sheet[top : top + recipe.HEIGHT, left : left + recipe.WIDTH, :3][shown].astype(float)
        right += int(np.abs(means - face).mean((1, 2)).argmin()) == index
    assert right >= 0.9 * len(people)


def test_the_mean_of_one_portrait_many_times_is_that_portrait(portraits: recipe.Portraits) -> None:
    portrait = portraits.images[3]
    out = recipe.average(np.stack([portrait] * 3), rounds=1)
    inner = np.s_[60:180, 30:130]
    soft = cv2.GaussianBlur(out, (0, 0), 2.0)[inner].astype(float) - cv2.GaussianBlur(portrait, (0, 0), 2.0)[inner]
    assert np.abs(soft).mean() < 3


def test_one_odd_portrait_does_not_show(portraits: recipe.Portraits) -> None:
    images = portraits.images[:22].copy()
    robust, plain = recipe._mean(images), images.mean(0)
    images[5, 20:40] = 255  # a band on one forehead
    moved = np.abs(recipe._mean(images) - robust)[20:40].mean()
    assert moved < 0.6 * np.abs(images.mean(0) - plain)[20:40].mean()
