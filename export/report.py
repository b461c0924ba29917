"""The parity report: one HTML page with figures and side-by-side pictures, no outside references."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from export.int8 import Int8Result
from export.parity import Pair, VariantParity
from runtime.bundle import Bundle
from runtime.frames import Frame
from runtime.metrics import MAX_PSNR_DB

AMPLIFICATION = 32  # one 8-bit step becomes 32 grey levels, so it can be seen

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
body { color: #1b1f24; background: #fff }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2.5rem }
.sub { color: #57606a; margin-top: .2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid #d8dee4; white-space: nowrap }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
.ok { color: #1a7f37; font-weight: 600 } .bad { color: #cf222e; font-weight: 600 }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .8rem }
figure { margin: 0 } figure img { width: 100%; image-rendering: pixelated; border: 1px solid #d8dee4 }
figcaption { color: #57606a; font-size: .85rem }
.scroll { overflow-x: auto }
"""


def html_report(
    bundle: Bundle,
    results: Sequence[VariantParity],
    pairs: Sequence[Pair],
    notes: Sequence[str],
    int8: Int8Result | None = None,
) -> str:
    """The page's text. ``pairs`` are the frames that ``results`` were measured on, in the same order."""
    manifest = bundle.manifest
    rows = "".join(_row(result) for result in results)
    pictures = "".join(_pictures(result, pairs[result.report.worst_frame]) for result in results)
    facts = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Parity of {escape(manifest.name)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(manifest.name)}</h1>
<p class="sub">{escape(manifest.task)}, generator {escape(manifest.generator)}, scale {manifest.geometry.scale}.
Every variant against PyTorch in float32, on {len(pairs)} frames.</p>
<div class="scroll"><table><thead><tr><th>variant</th><th>engine</th><th>PSNR</th><th>SSIM</th><th>ΔE2000</th>
<th>max</th><th>p99.9</th><th>changed</th><th>verdict</th></tr></thead><tbody>{rows}</tbody></table></div>
<p class="sub">PSNR in dB ({MAX_PSNR_DB:.0f} means that or more); max and p99.9 are differences in 8-bit steps;
changed is the share of values that differ at all; ΔE2000 is the mean colour difference, where 1 is just noticeable.</p>
<ul>{facts}</ul>
<h2>The worst frame of each variant</h2>
{pictures}
</body></html>
"""


def _row(result: VariantParity) -> str:
    report = result.report
    verdict = (
        '<span class="ok">met</span>'
        if report.passed
        else f'<span class="bad">{escape("; ".join(report.failures))}</span>'
    )
    cells = (
        escape(result.choice.variant),
        escape(f"{result.engine}, computed in {result.choice.precision}"),
        *report.cells(),
        f"{report.changed:.4%}",
        verdict,
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _pictures(result: VariantParity, pair: Pair) -> str:
    height, width = pair.reference.shape[:2]
    enlarged = np.asarray(cv2.resize(pair.frame, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    difference = cv2.absdiff(pair.reference, result.worst_output).astype(np.int32) * AMPLIFICATION
    figures = (
        ("input, pixels repeated", enlarged),
        ("PyTorch, float32", pair.reference),
        (f"{result.choice.variant} on {result.choice.backend} in {result.choice.precision}", result.worst_output),
        (f"difference, times {AMPLIFICATION}", np.clip(difference, 0, 255).astype(np.uint8)),
    )
    items = "".join(
        f'<figure><img alt="{escape(caption)}" src="{_data_url(image)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, image in figures
    )
    return f'<div class="row">{items}</div>'


def _data_url(image: Frame) -> str:
    done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done, "OpenCV writes any uint8 picture as PNG"
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode("ascii")
