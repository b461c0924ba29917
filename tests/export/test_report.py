from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from bundle_factory import STATES, random_frames, small_manifest, upscale

from calib.layers import Layer
from calib.recipe import Recipe, VariantRecipe
from calib.sensitivity import Budget, Damage, Loss, Point, Search
from export.int8 import Int8Result
from export.int8_section import MOST_RANKED
from export.parity import Pair, VariantParity
from export.plots import error_map
from export.report import html_report
from runtime.bench import Timing
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.manifest import Artifact, Limits
from runtime.metrics import compare
from runtime.sessions import Choice, SessionInfo

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Text, tables and pictures of a page whose tags are all closed in the right order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.tables: list[tuple[list[str], bool]] = []  # each row, and whether it is a heading
        self.pictures: list[tuple[str, Frame]] = []
        self.references: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        given = dict(attrs)
        assert len(given) == len(attrs), f"an attribute of {tag} is given twice"
        self.references += [str(given[key]) for key in ("src", "href", "action", "data", "srcset") if key in given]
        assert not any(key.startswith("on") for key in given)
        if tag == "img":
            data = base64.b64decode(str(given["src"]).removeprefix("data:image/png;base64,"), validate=True)
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            self.pictures.append((str(given["alt"]), image))
        if tag == "tr":
            self.rows.append([])
            self.tables.append((self.rows[-1], "thead" in self.open))
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def result(
    output_of: Pair, *, step: int = 0, engine: str = "onnxruntime on CPU", variant: str = "fp32"
) -> VariantParity:
    """An outcome that is ``step`` 8-bit steps off in one corner."""
    output = output_of.reference.copy()
    output[:4, :4] += np.uint8(step)
    report = compare([(output_of.reference, output)], Limits(max_abs=1))
    return VariantParity(Choice("onnxruntime", "fp32", variant, ""), report, output, engine)


def int8_result(pair: Pair, *, step: int = 4, variant: str = "int8") -> VariantParity:
    return replace(result(pair, step=step), choice=Choice("onnxruntime", "int8", variant, ""))


@pytest.fixture
def pair() -> Pair:
    image = random_frames(20, 30, 3) // 2
    return Pair(image, upscale(image[None])[0])


def bundle(name: str = "tiny-x2", generator: str = "nearest") -> Bundle:
    manifest = small_manifest({"fp32": Artifact("model.fp32.onnx", "0" * 64)}, name=name)
    return Bundle(Path("nowhere"), replace(manifest, generator=generator))


def test_page_is_well_formed_and_shows_the_figures(pair: Pair) -> None:
    results = [result(pair), result(pair, step=2, variant="fp16")]
    html = html_report(bundle(), results, [pair], ["Frames: two pictures.", "Measured halo: 3 input pixels."])
    assert html.startswith("<!DOCTYPE html>")
    page = Page(html)
    head, good, bad = page.rows[:3]
    assert head == ["variant", "engine", "PSNR", "SSIM", "ΔE2000", "max", "p99.9", "changed", "verdict"]
    assert good == [
        "fp32", "onnxruntime on CPU, computed in fp32", "100.00", "1.00000", "0.0000", "0", "0", "0.0000%", "met",
    ]  # fmt: skip
    report = results[1].report
    assert bad[2:6] == [f"{report.psnr_db:.2f}", f"{report.ssim:.5f}", f"{report.delta_e:.4f}", "2"]
    assert bad[-1] == "largest difference 2 8-bit steps, allowed 1"
    assert "Measured halo: 3 input pixels." in page.text
    assert "on 1 frames" in page.text


def test_page_refers_to_nothing_outside(pair: Pair) -> None:
    html = html_report(bundle(), [result(pair)], [pair], [])
    page = Page(html)
    assert page.references
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(page.seen)
    assert not re.search(r"https?:|url\(|@import|//\w", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))


ERRORS = "largest difference of each pixel's channels, in 8-bit steps"


def test_pictures_are_input_reference_output_and_error_map(pair: Pair) -> None:
    outcome = result(pair, step=3)
    pictures = dict(Page(html_report(bundle(), [outcome], [pair], [])).pictures)
    assert list(pictures) == [
        "input, pixels repeated",
        "PyTorch, float32",
        "fp32 on onnxruntime in fp32",
        ERRORS,
    ]
    enlarged, reference, output, errors = pictures.values()
    assert np.array_equal(enlarged, upscale(pair.frame[None])[0])
    assert np.array_equal(reference, pair.reference)
    assert np.array_equal(output, outcome.worst_output)
    assert np.array_equal(errors, error_map(pair.reference, outcome.worst_output, 4))
    assert errors[:4, :4].min(axis=2).max() > 0
    assert (errors[4:] == errors[-1, -1]).all()


def test_error_maps_of_int8_share_their_colours_and_so_do_all_others(pair: Pair) -> None:
    """A step has the same colour in every map of a kind; else a bad variant would look as good as a good one."""
    results = [result(pair, step=1), result(pair, step=2), int8_result(pair, step=9), int8_result(pair, step=50)]
    maps = [image for name, image in Page(html_report(bundle(), results, [pair], [])).pictures if name == ERRORS]
    for outcome, image, top in zip(results, maps, (2, 2, 64, 64), strict=True):
        assert np.array_equal(image, error_map(pair.reference, outcome.worst_output, top))


def test_shifts_of_each_channel_are_written_out(pair: Pair) -> None:
    outcome = result(pair)
    output = pair.reference.copy()
    output[..., 0] += 2
    output[:10, :, 1] -= np.uint8(1) * (output[:10, :, 1] > 0)
    output[0, 0, 2] += 7
    rows = Page(html_report(bundle(), [replace(outcome, worst_output=output)], [pair], [])).rows
    difference = output.astype(int) - pair.reference
    means = [f"{value:+.3f}".replace("-", "−") for value in difference.mean(axis=(0, 1))]
    assert rows[-4:] == [
        ["channel", "mean shift", "mean size", "range"],
        ["blue", "+2.000", "2.000", "2 to 2"],
        ["green", means[1], f"{-difference[..., 1].mean():.3f}", "−1 to 0"],
        ["red", means[2], f"{difference[..., 2].mean():.3f}", "0 to 7"],
    ]
    assert means[1].startswith("−0.")
    assert means[2] == "+0.003"


def test_the_worst_frame_of_each_result_is_shown(pair: Pair) -> None:
    other = Pair(pair.frame[:10], pair.reference[:20])
    outcome = result(other)
    outcome = replace(outcome, report=replace(outcome.report, worst_frame=1))
    pictures = dict(Page(html_report(bundle(), [outcome], [pair, other], [])).pictures)
    assert pictures["PyTorch, float32"].shape == (20, 60, 3)


def test_names_cannot_become_markup(pair: Pair) -> None:
    hostile = '"><script>alert(1)</script>&amp;<b'
    outcome = result(pair, engine=hostile, variant=hostile)
    outcome = replace(outcome, report=replace(outcome.report, failures=(hostile,)))
    page = Page(html_report(bundle(hostile, hostile), [outcome], [pair], [hostile]))
    assert "script" not in page.seen
    assert "b" not in page.seen
    assert page.text.count(hostile) >= 6  # title, heading, generator, note, row, caption: as it was given
    assert page.rows[1][0] == hostile
    assert page.rows[1][-1] == hostile


# --- INT8 -------------------------------------------------------------------------------------------------------------


def loss(db: float | None, psnr: float = 50.0, delta_e: float = 0.25, drift: float = 0.0) -> Loss:
    return Loss(psnr, delta_e, db, drift)


def layer(name: str) -> Layer:
    return Layer(name, "Conv", "x", "w", None, "y", None, "y", 0, 16, 32)


def searched(
    curve: Sequence[Loss], best: int = 1, *, names: Sequence[str] = ("a", "b", "c"), met: bool = True,
    always: tuple[str, ...] = (), alone: Loss | None = None,
) -> Search:  # fmt: skip
    """A search whose layers lose ever less, the first ``best`` of which are kept in float."""
    points = tuple(Point(tuple(names[:count]), value) for count, value in enumerate(curve))
    chosen = replace(points[best], float_layers=(*always, *points[best].float_layers))
    alone = alone or loss(0.05)
    damages = tuple(
        Damage(layer(name), replace(alone, psnr_db=alone.psnr_db + place)) for place, name in enumerate(names)
    )
    return Search(chosen, met, points, damages if len(names) > 1 else (), tuple(names), onnx.ModelProto())


def timing(choice: Choice, *milliseconds: float) -> Timing:
    info = SessionInfo(choice.backend, choice.precision, choice.variant, "CPU", 2, 1)
    return Timing(choice, info, milliseconds)


def outcome_of(searches: Mapping[str, Search], *, observer: str = "mse", **more: Any) -> Int8Result:
    layers = {variant: found.best.float_layers for variant, found in searches.items() if found.met}
    variants = {variant: VariantRecipe(observer, kept, True) for variant, kept in layers.items()}
    recipe = Recipe("0" * 64, {"judged_on": 16}, {}, {}, {}, variants)
    models = {variant: onnx.ModelProto() for variant in layers}
    return replace(Int8Result(models, layers, recipe, Budget(), searches), **more)


def page_of(pair: Pair, int8: Int8Result, results: Sequence[VariantParity] = (), *, states: bool = False) -> Page:
    shown = bundle()
    if states:
        shown = replace(shown, manifest=replace(shown.manifest, inputs=(*shown.manifest.inputs, *STATES)))
    return Page(html_report(shown, results or [result(pair)], [pair], [], int8))


def rows_below(page: Page, head: str) -> list[list[str]]:
    """Rows of the tables whose heading has a cell ``head``."""
    found, inside = [], False
    for row, is_head in page.tables:
        if is_head:
            inside = head in row
        elif inside:
            found.append(row)
    return found


def test_int8_table_says_what_was_chosen_and_what_it_costs(pair: Pair) -> None:
    results = [result(pair), int8_result(pair)]
    fp32, bf16 = results[0].choice, Choice("onnxruntime", "bf16", "fp32", "")
    int8 = outcome_of(
        {"int8": searched([loss(0.3), loss(0.0714, 48.256, 0.3333)])},
        timings=(timing(fp32, 30, 10, 20), timing(bf16, 1), timing(results[1].choice, 8, 9, 4)),
        rivals={"int8": timing(fp32, 30, 10, 20)},
        notes=("Calibrated on <64> frames.",),
    )
    page = page_of(pair, int8, results)
    head = next(row for row, is_head in page.tables if is_head and "observer" in row)
    assert rows_below(page, "observer") == [
        ["int8", "1 of 3", "0.071", "48.26", "0.333", "mse", "yes", "8.0", "2.50× fp32 (20.0 ms)", "in the bundle"]
    ]  # the precision that it competed with, not the fastest one
    assert head[2:5] == ["loss, dB", "PSNR, dB", "ΔE2000"]
    assert "Calibrated on <64> frames." in page.text
    assert (
        "Budget: 0.1 dB against ground truth (without one: 40 dB PSNR against float), judged on 16 frames." in page.text
    )
    assert "int8: in float a." in page.text


def test_without_int8_the_page_says_nothing_of_it(pair: Pair) -> None:
    assert "INT8" not in Page(html_report(bundle(), [result(pair)], [pair], [])).text


def test_without_truth_psnr_counts(pair: Pair) -> None:
    page = page_of(pair, outcome_of({"int8": searched([loss(None, 38.0), loss(None, 41.5)])}))
    assert rows_below(page, "observer")[0][2:4] == ["–", "41.50"]
    assert "PSNR against float, dB" in page.text
    assert "40 dB" in page.text
    assert "dB against truth" not in page.text


def test_drift_is_shown_for_recurrent_nets_only(pair: Pair) -> None:
    int8 = outcome_of({"int8": searched([loss(0.05, drift=0.75)], 0)})
    assert rows_below(page_of(pair, int8, states=True), "drift, dB")[0][5] == "0.75"
    assert "1 dB drift" in page_of(pair, int8, states=True).text
    assert "drift" not in page_of(pair, int8).text


def test_dropped_variants_are_named_with_their_reason(pair: Pair) -> None:
    slow = timing(Choice("openvino", "int8", "int8", ""), 12.0)
    int8 = outcome_of(
        {"int8": searched([loss(0.05)], 0), "int8-ort": searched([loss(3.0), loss(2.0)], 1, met=False)},
        timings=(slow,),
        dropped={"int8": "not faster", "int8-ort": "no choice <of> layers", "int8-strong": "int8 was dropped"},
    )
    page = page_of(pair, int8)
    rows = {row[0]: row for row in rows_below(page, "observer")}
    assert [row[-1] for row in rows.values()] == ["dropped"] * 3
    for reason in ("int8 was dropped: not faster", "int8-ort was dropped: no choice <of> layers"):
        assert reason in page.text
    assert "int8-strong was dropped: int8 was dropped" in page.text
    assert rows["int8"][-3:-1] == ["12.0", "–"]
    assert rows["int8-ort"][1:3] == ["1 of 3", "2.000"]
    assert rows["int8-strong"][1:-1] == [*["–"] * 4, "mse", "yes", "–", "–"]  # what it has of int8
    assert "best found" in page.text
    assert "No choice of layers met the budget" in page.text


def test_a_recipe_without_searches(pair: Pair) -> None:
    recipe = Recipe("0" * 64, {}, {}, {}, {}, {"int8": VariantRecipe("max", ("x", "y"), False)})
    int8 = Int8Result({"int8": onnx.ModelProto()}, {"int8": ("x", "y")}, recipe, None, notes=("As it says.",))
    page = page_of(pair, int8, [result(pair), int8_result(pair)])
    assert rows_below(page, "observer")[0] == ["int8", "2", "–", "–", "–", "max", "no", "–", "–", "in the bundle"]
    assert "int8: in float x, y." in page.text
    assert "float layers against loss" not in page.text
    assert "Made as a recipe says" in page.text


def test_layers_are_ranked_and_those_in_float_marked(pair: Pair) -> None:
    page = page_of(pair, outcome_of({"int8": searched([loss(0.3), loss(0.0714)], alone=loss(0.0126, 50.127, 0.2))}))
    assert rows_below(page, "#") == [
        ["1", "a Conv 16→32 in float", "50.13", "0.200", "0.013"],
        ["2", "b Conv 16→32", "51.13", "0.200", "0.013"],
        ["3", "c Conv 16→32", "52.13", "0.200", "0.013"],
    ]


def test_of_hundreds_of_layers_forty_are_shown_and_no_name_in_float_is_lost(pair: Pair) -> None:
    names = [f"layer{index}" for index in range(300)]
    found = searched([loss(0.5), loss(0.05)], names=names, always=("head",))
    found = replace(found, best=replace(found.best, float_layers=("head", "layer0", "layer299")))
    page = page_of(pair, outcome_of({"int8": found}))
    rows = rows_below(page, "#")
    assert len(rows) == MOST_RANKED == 40
    assert rows[0][1].endswith("in float")
    assert "260 more layers do less damage. Also in float: head, layer299." in page.text
    assert rows_below(page, "observer")[0][1] == "3 of 301"
    many = replace(found, best=replace(found.best, float_layers=tuple(names)))
    assert "layer39 and 260 more." in page_of(pair, outcome_of({"int8": many})).text


@pytest.mark.parametrize("value", [100.0, math.inf, math.nan, -math.inf])
@pytest.mark.parametrize("truth", [0.0, None, math.nan])
def test_extreme_figures_draw_no_broken_page(pair: Pair, value: float, truth: float | None) -> None:
    found = searched([loss(truth, value), loss(truth, 100.0), loss(truth, value)], 2, alone=loss(truth, value))
    html = html_report(bundle(), [result(pair)], [pair], [], outcome_of({"int8": found}))
    Page(html)
    drawing = re.search(r'<svg[^>]*aria-label="[^"]*by layers in float.*?</svg>', html, re.DOTALL)
    assert drawing is not None
    attributes = re.sub(r">[^<]*<", "><", drawing[0])
    assert not re.search(r"\b(nan|inf)\b", attributes)


def test_names_of_layers_cannot_become_markup(pair: Pair) -> None:
    hostile = '"><script>alert(1)</script>&amp;<b x=\'y\' onload="z"'
    found = searched([loss(0.3), loss(0.05)], names=(hostile, "b", "c"), always=(hostile + "2",))
    int8 = outcome_of(
        {"int8": found, hostile: found},
        observer=hostile, dropped={"int8-strong": hostile}, notes=(hostile,),
    )  # fmt: skip
    page = page_of(pair, int8, states=True)
    assert not {"script", "b"} & set(page.seen)
    assert page.text.count(hostile) >= 8
    assert rows_below(page, "#")[0][1] == f"{hostile} Conv 16→32 in float"


def test_int8_brings_no_outside_references(pair: Pair) -> None:
    int8 = outcome_of({"int8": searched([loss(0.3), loss(0.05)])})
    html = html_report(bundle(), [result(pair), int8_result(pair)], [pair], [], int8)
    page = Page(html)
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not {"script", "link", "iframe", "object", "form", "base", "use", "image"} & set(page.seen)
    assert not re.search(r"https?:|url\(|@import|//\w", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))


def test_all_variants_dropped_without_any_search(pair: Pair) -> None:
    dropped = {variant: f"{variant} needs openvino" for variant in ("int8", "int8-ort")}
    page = page_of(pair, Int8Result({}, {}, Recipe("0" * 64, {}, {}, {}, {}, {}), Budget(), {}, dropped))
    assert rows_below(page, "observer") == [[variant, *["–"] * 8, "dropped"] for variant in dropped]
    assert "int8-ort was dropped: int8-ort needs openvino" in page.text
    assert "float layers against loss" not in page.text
