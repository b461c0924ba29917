from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundle_factory import random_frames, small_manifest, upscale

from export.parity import Pair, VariantParity
from export.report import AMPLIFICATION, html_report
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.manifest import Artifact, Limits
from runtime.metrics import compare
from runtime.sessions import Choice

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Text, tables and pictures of a page whose tags are all closed in the right order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
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
    head, good, bad = page.rows
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


def test_pictures_are_input_reference_output_and_enlarged_difference(pair: Pair) -> None:
    outcome = result(pair, step=3)
    pictures = dict(Page(html_report(bundle(), [outcome], [pair], [])).pictures)
    assert list(pictures) == [
        "input, pixels repeated",
        "PyTorch, float32",
        "fp32 on onnxruntime in fp32",
        f"difference, times {AMPLIFICATION}",
    ]
    enlarged, reference, output, difference = pictures.values()
    assert np.array_equal(enlarged, upscale(pair.frame[None])[0])
    assert np.array_equal(reference, pair.reference)
    assert np.array_equal(output, outcome.worst_output)
    assert (difference[:4, :4] == 3 * AMPLIFICATION).all()
    assert not difference[4:].any()


def test_large_differences_are_white_not_wrapped(pair: Pair) -> None:
    pictures = dict(Page(html_report(bundle(), [result(pair, step=90)], [pair], [])).pictures)
    assert (pictures[f"difference, times {AMPLIFICATION}"][:4, :4] == 255).all()


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
