"""The parity report: one HTML page with figures, plots and side-by-side pictures, no outside references."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from export.int8 import Int8Result
from export.int8_section import int8_section, table
from export.parity import Pair, VariantParity, reference_of
from export.plots import STYLE, error_legend, error_map, shift_plot, signed, top_of
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.metrics import MAX_PSNR_DB, psnr

_STYLE = (
    """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
body { color: #1b1f24; background: #fff }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.5rem }
h1, li, p, h3, figcaption { overflow-wrap: anywhere }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
.sub { color: #57606a; margin-top: .2rem } .scroll + .sub { margin-top: .5rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid #d8dee4; white-space: nowrap }
th { vertical-align: bottom } td { vertical-align: top }
th:first-child, td:first-child, .parity th:nth-child(2), .parity td:nth-child(2) { text-align: left }
.int8 th, .ranking th { white-space: normal }
.int8 :is(th, td):last-child { text-align: left }
.parity .bad { display: inline-block; white-space: normal; min-width: 12rem }
:is(.ranking, .shifts) :is(th, td) { padding: .25rem .4rem; font-size: .9rem }
.ranking td:nth-child(2) { white-space: normal; overflow-wrap: anywhere; min-width: 9rem }
.ranking :is(th, td):nth-child(2) { text-align: left }
.kept { font-weight: 700 } .kept::before { content: "●"; margin-right: .3em }
.ranking th { position: sticky; top: 0; background: #fff }
small { color: #57606a; white-space: nowrap }
.ok { color: #1a7f37; font-weight: 600 } .bad { color: #cf222e; font-weight: 600 }
.row, .wide { display: grid; gap: 1rem; align-items: start }
.row { grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)) }
.wide { grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)) }
.wide section { min-width: 0 } .wide figure { max-width: 34rem; margin-bottom: .8rem }
figure { margin: 0; min-width: 0 } figure img { width: 100%; image-rendering: pixelated; border: 1px solid #d8dee4 }
figcaption { color: #57606a; font-size: .85rem }
.scroll { overflow-x: auto } .scroll.ranking { overflow-y: auto; max-height: 30rem }
"""
    + STYLE
)


def html_report(
    bundle: Bundle,
    results: Sequence[VariantParity],
    pairs: Sequence[Pair],
    notes: Sequence[str],
    int8: Int8Result | None = None,
) -> str:
    """The page's text. ``pairs`` are the frames that ``results`` were measured on, in the same order."""
    manifest = bundle.manifest
    rows = [_row(result) for result in results]
    pictures = "".join(_pictures(result, pairs, _shared_top(result, results)) for result in results)
    facts = "".join(f"<li>{escape(note)}</li>" for note in notes)
    head = ["variant", "engine", "PSNR", "SSIM", "ΔE2000", "max", "p99.9", "changed", "verdict"]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Parity of {escape(manifest.name)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(manifest.name)}</h1>
<p class="sub">{escape(manifest.task)}, generator {escape(manifest.generator)}, scale {manifest.geometry.scale}.
Every variant against PyTorch in float32, on {len(pairs)} frames.</p>
{table(head, rows, "parity")}
<p class="sub">PSNR in dB ({MAX_PSNR_DB:.0f} means that or more); max and p99.9 are differences in 8-bit steps;
changed is the share of values that differ at all; ΔE2000 is the mean colour difference, where 1 is just noticeable.</p>
<ul>{facts}</ul>
{int8_section(int8, recurrent=bool(manifest.states)) if int8 is not None else ""}
<h2>The worst frame of each variant</h2>
{pictures}
</body></html>
"""


def _row(result: VariantParity) -> tuple[str, ...]:
    report = result.report
    verdict = (
        '<span class="ok">met</span>'
        if report.passed
        else f'<span class="bad">{escape("; ".join(report.failures))}</span>'
    )
    return (
        escape(result.choice.variant),
        escape(f"{result.engine}, computed in {result.choice.precision}"),
        *report.cells(),
        f"{report.changed:.4%}",
        verdict,
    )


def _shared_top(result: VariantParity, results: Sequence[VariantParity]) -> int:
    """Where the error map ends: alike for all INT8 results, and for all others, so that they can be compared."""
    alike = [one for one in results if (one.choice.precision == "int8") == (result.choice.precision == "int8")]
    return top_of(max(one.report.max_abs for one in alike))


def _pictures(result: VariantParity, pairs: Sequence[Pair], top: int) -> str:
    frames, place = len(pairs), result.report.worst_frame % len(pairs)
    pair, reference = pairs[place], reference_of(pairs, result.report.worst_frame)
    height, width = reference.shape[:2]
    enlarged = np.asarray(cv2.resize(pair.frame, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    where = f"{result.choice.variant} on {result.choice.backend} in {result.choice.precision}"
    difference = result.worst_output.astype(np.int16) - reference
    items = "".join(
        f"<figure>{_picture(caption, image)}<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, image in (
            ("input, pixels repeated", enlarged),
            ("PyTorch, float32", reference),
            (where, result.worst_output),
        )
    )
    caption = "largest difference of each pixel's channels, in 8-bit steps"
    reached = psnr(reference, result.worst_output)
    return f"""<h3>{escape(where)}, frame {place + 1} of {frames}: {reached:.2f} dB</h3>
<div class="row">{items}
<figure>{_picture(caption, error_map(reference, result.worst_output, top))}{error_legend(top)}
<figcaption>{escape(caption)}</figcaption></figure>
<figure>{shift_plot(difference)}<figcaption>signed difference of each channel</figcaption></figure>
{_shifts(difference)}</div>
"""


def _shifts(difference: NDArray[np.int16]) -> str:
    """What INT8 does to each channel, in figures."""
    rows = []
    for place, name in enumerate(("blue", "green", "red")):
        values = difference[..., place]
        span = f"{values.min()} to {values.max()}".replace("-", "−")
        rows.append((name, signed(float(values.mean())), f"{np.abs(values).mean():.3f}", span))
    head = ("channel", "mean shift", "mean size", "range")
    return f'<div>{table(head, rows, "shifts")}<p class="sub">Output less PyTorch, in 8-bit steps.</p></div>'


def _picture(caption: str, image: Frame) -> str:
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done, "OpenCV writes any uint8 picture as PNG"
    url = "data:image/png;base64," + base64.b64encode(data.tobytes()).decode("ascii")
    return f'<img alt="{escape(caption)}" src="{url}">'
