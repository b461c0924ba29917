from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from bundle_factory import random_frames
from hypothesis import given
from hypothesis import strategies as st

from export.plots import (
    TOPS,
    WIDTH,
    Axis,
    Dot,
    colours_of,
    curve_plot,
    error_legend,
    error_map,
    shift_plot,
    signed,
    svg,
    text,
    top_of,
)

LABELS = ("layers in float, of 4", "loss, dB")


def drawn(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


def circles(drawing: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in drawing.iter("circle")]


def labels(drawing: ElementTree.Element) -> list[str]:
    return [str(element.text) for element in drawing.iter("text")]


# --- axes -------------------------------------------------------------------------------------------------------------


def test_axis_places_values_and_keeps_them_inside() -> None:
    axis = Axis(0, 10, 100, 0)
    assert [axis(value) for value in (0, 2.5, 10, -3, 99, math.inf)] == [100, 75, 0, 100, 0, 0]
    log = Axis(0.001, 10, 0, 400, log=True)
    assert [log(value) for value in (0, 0.001, 0.01, 1, 10)] == [0, 0, 100, 300, 400]


@pytest.mark.parametrize(
    ("axis", "whole", "expected"),
    [
        (Axis(0, 0.115, 0, 1), False, [0, 0.02, 0.04, 0.06, 0.08, 0.1]),
        (Axis(38.5, 51.5, 0, 1), False, [40, 45, 50]),
        (Axis(0, 1, 0, 1), True, [0, 1]),
        (Axis(0, 300, 0, 1), True, [0, 50, 100, 150, 200, 250, 300]),
        (Axis(0.001, 12, 0, 1, log=True), False, [0.001, 0.01, 0.1, 1, 10]),
    ],
)
def test_ticks(axis: Axis, whole: bool, expected: list[float]) -> None:
    assert axis.ticks(whole=whole) == pytest.approx(expected)


@given(st.floats(-1e4, 1e4), st.floats(0.01, 1e4))
def test_ticks_are_few_and_on_the_axis(low: float, size: float) -> None:
    axis = Axis(low, low + size, 0, 100)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(axis.low - size * 1e-6 <= tick <= axis.high + size * 1e-6 for tick in ticks)
    assert ticks == sorted(set(ticks))


# --- the curve --------------------------------------------------------------------------------------------------------


def test_coordinates_of_a_known_curve() -> None:
    dots = [Dot(0, 0.2, "0", False), Dot(1, 0.1, "1", True), Dot(2, 0.0, "2", True)]
    drawing = drawn(curve_plot(dots, Dot(1, 0.1, "chosen"), 0.1, labels=LABELS, unit="dB", falling=True))
    left, right, top, bottom = 56, WIDTH - 66, 14, 208
    across = [left + (right - left) * (x + 0.1) / 2.2 for x in (0, 1, 2)]  # a twentieth of 2 at both ends
    up = [bottom - (bottom - top) * y / 0.23 for y in (0.2, 0.1, 0.0)]  # 15 % above the largest
    expected = [pytest.approx(place, abs=0.01) for place in zip(across, up, strict=True)]
    assert circles(drawing) == expected
    line = drawing.find("polyline")
    assert line is not None
    assert [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()] == expected
    assert [dot.attrib["fill"] == "#ffffff" for dot in drawing.iter("circle")] == [True, False, False]
    limit = drawing.find("path[@class='limit']")
    assert limit is not None
    assert limit.attrib["stroke-dasharray"]
    assert float(re.match(r"M56 ([\d.]+)H294$", limit.attrib["d"])[1]) == pytest.approx(up[1], abs=0.01)  # type: ignore[index]
    chosen = drawing.find("path[@class='chosen']")
    assert chosen is not None
    x, y = map(float, re.match(r"M([\d.]+) ([\d.]+)", chosen.attrib["d"]).groups())  # type: ignore[union-attr]
    assert (x, y + 8) == (pytest.approx(across[1], abs=0.01), pytest.approx(up[1], abs=0.01))
    assert {"chosen", "budget", "0.1 dB", *LABELS, "0.05", "0.15", "1", "2"} <= set(labels(drawing))


def test_large_losses_get_a_logarithmic_axis() -> None:
    dots = [Dot(0, 20.0, "0", False), Dot(1, 0.05, "1"), Dot(2, 0.0, "2")]
    drawing = drawn(curve_plot(dots, dots[1], 0.1, labels=LABELS, unit="dB", falling=True))
    heights = [y for _, y in circles(drawing)]
    assert {"0.01", "0.1", "1", "10"} <= set(labels(drawing))
    assert heights[2] == 208  # zero stands at the bottom
    assert heights[1] == pytest.approx(208 - 194 * math.log10(0.05 / 0.01) / math.log10(30 / 0.01), abs=0.01)


@pytest.mark.parametrize("falling", [True, False])
@pytest.mark.parametrize("limit", [None, 0.1, 40.0, 1e-6])
@pytest.mark.parametrize(
    "values", [[], [0.0], [100.0], [0.05, 0.05], [math.nan, 3.0], [math.inf], [1e-4], [1e-12, 0.0], [50.0] * 24]
)
def test_every_curve_stays_inside_its_drawing(values: list[float], limit: float | None, falling: bool) -> None:
    dots = [Dot(index, value, str(index)) for index, value in enumerate(values)]
    chosen = dots[-1] if dots else None
    drawing = drawn(curve_plot(dots, chosen, limit, labels=LABELS, unit="dB", falling=falling))
    places = circles(drawing)
    assert len(places) == sum(math.isfinite(value) for value in values)
    assert all(56 <= x <= WIDTH - 66 and 14 <= y <= 208 for x, y in places)
    for element in drawing.iter("text"):
        assert 0 <= float(element.attrib["x"]) <= WIDTH
        assert 0 <= float(element.attrib["y"]) <= 250


def test_label_of_the_chosen_point_covers_neither_curve_nor_budget() -> None:
    def place(values: list[float], chosen: int, limit: float, *, falling: bool) -> tuple[float, float, str]:
        dots = [Dot(index, value, "") for index, value in enumerate(values)]
        mark = Dot(chosen, values[chosen], "chosen")
        drawing = drawn(curve_plot(dots, mark, limit, labels=LABELS, unit="dB", falling=falling))
        label = next(element for element in drawing.iter("text") if element.text == "chosen")
        x, y = circles(drawing)[chosen]
        return float(label.attrib["x"]) - x, float(label.attrib["y"]) - y, label.attrib["text-anchor"]

    assert place([0.9, 0.5, 0.3, 0.1], 2, 1.0, falling=True) == (10, -10, "start")
    assert place([30, 34, 38, 42, 46], 2, 45, falling=False) == (10, 20, "start")
    assert place([0.09], 0, 0.1, falling=True) == (10, 20, "start")


def test_labels_are_escaped() -> None:
    hostile = '<script>"&amp;'
    markup = curve_plot(
        [Dot(0, 1, hostile)], Dot(0, 1, hostile), 1, labels=(hostile, hostile), unit=hostile, falling=True
    )
    drawing = drawn(markup)
    assert "<script" not in markup
    assert {hostile, f"1 {hostile}"} <= set(labels(drawing))
    assert drawn(svg(1, 1, text(0, 0, hostile), hostile)).attrib["aria-label"] == hostile


# --- errors -----------------------------------------------------------------------------------------------------------


def bars(drawing: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    """(height, right end) of the bars of a channel."""
    path = next(element for element in drawing.iter("path") if element.attrib.get("class") == name)
    return [(float(y), float(x)) for y, x in re.findall(r"V([\d.]+)H([\d.]+)", path.attrib["d"])]


def test_histogram_of_each_channel() -> None:
    difference = np.zeros((10, 10, 3), np.int16)
    difference[0, :, 0] = -3  # 10 pixels
    difference[0, 0, 1] = 3
    drawing = drawn(shift_plot(difference))
    left, right, panel = 56, WIDTH - 10, 62
    edge = {step: left + (right - left) * (step + 4.0) / 7 for step in range(-3, 4)}  # right end of a step's bar

    def height(count: int, place: int) -> float:
        base = 6 + 72 * place + panel
        full = math.log10(100 - (10 if place == 0 else 1 if place == 1 else 0)) + 0.5
        return base - panel * (math.log10(count) + 0.5) / full if count else base

    for name, place, counts in (
        ("B", 0, {-3: 10, -1: 0, 0: 90, 3: 0}),
        ("G", 1, {-1: 0, 0: 99, 2: 0, 3: 1}),
        ("R", 2, {-1: 0, 0: 100, 3: 0}),
    ):
        expected = [(height(count, place), edge[step]) for step, count in counts.items()]
        assert bars(drawing, name) == [pytest.approx(bar, abs=0.01) for bar in expected]
    assert {"mean −0.300", "mean +0.030", "mean 0.000", "pixels", "output − PyTorch, 8-bit steps"} <= set(
        labels(drawing)
    )


@pytest.mark.parametrize("step", [0, 1, -255, 255])
def test_extreme_differences_are_drawn(step: int) -> None:
    drawing = drawn(shift_plot(np.full((4, 5, 3), step, np.int16)))
    assert all(56 <= x <= WIDTH - 10 for name in "BGR" for _, x in bars(drawing, name))
    assert len(labels(drawing)) < 30


@pytest.mark.parametrize("top", [2, 4, 8, 16, 32])
def test_every_step_has_a_colour_of_its_own_and_larger_ones_are_lighter(top: int) -> None:
    colours = colours_of(top)
    assert len(np.unique(colours[: top + 1], axis=0)) == top + 1
    grey = cv2.cvtColor(colours[None], cv2.COLOR_BGR2GRAY)[0].astype(int)
    assert (np.diff(grey[: top + 1]) > 0).all()
    assert (colours[top:] == colours[top]).all()


def test_error_map_takes_the_largest_channel() -> None:
    reference, output = random_frames(6, 8, 3, seed=1), random_frames(6, 8, 3, seed=2)
    largest = np.abs(reference.astype(int) - output).max(axis=2)
    assert np.array_equal(error_map(reference, output, 255), colours_of(255)[largest])


@pytest.mark.parametrize("top", TOPS)
def test_legend_holds_the_colours_and_names_the_steps(top: int) -> None:
    drawing = drawn(error_legend(top))
    blocks = [element for element in drawing.iter("rect") if element.attrib["fill"] != "none"]
    found = [tuple(bytes.fromhex(block.attrib["fill"][1:]))[::-1] for block in blocks]
    assert found == [tuple(colour) for colour in colours_of(top)[: top + 1].tolist()]
    ends = [float(block.attrib["x"]) + float(block.attrib["width"]) for block in blocks]
    assert ends[-1] == pytest.approx(WIDTH - 14, abs=0.1)
    assert labels(drawing)[0] == "0"
    assert labels(drawing)[-1] == str(top)


def test_top_is_the_next_one_that_holds_the_largest_difference() -> None:
    assert [top_of(largest) for largest in (0, 1, 2, 3, 64, 65, 255)] == [2, 2, 2, 4, 64, 128, 255]


def test_signs() -> None:
    assert [signed(value) for value in (0.0, -0.0004, 0.0006, -1.25)] == ["0.000", "0.000", "+0.001", "−1.250"]
