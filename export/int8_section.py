"""What the parity report says about INT8: the variants, how their float layers were found, what each layer does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from calib.sensitivity import Budget, Loss, Point, Search
from export.int8 import VARIANTS, Int8Result
from export.plots import Dot, curve_plot
from runtime.bench import Timing
from runtime.report import shortened

MOST_RANKED = 40  # layers of a table
MOST_NAMED = 40  # layers in a sentence
UNKNOWN = "–"


def int8_section(int8: Int8Result, *, recurrent: bool) -> str:
    """A table of the variants, also of those that were dropped, and for each search its curve and its layers."""
    known = {*int8.models, *int8.searches, *int8.dropped}
    variants = [variant for variant in VARIANTS if variant in known]
    variants += sorted(known - set(VARIANTS))
    notes = "".join(
        f'<li><span class="bad">{escape(variant)} was dropped:</span> {escape(int8.dropped[variant])}</li>'
        for variant in variants
        if variant in int8.dropped
    ) + "".join(f"<li>{escape(note)}</li>" for note in [*int8.notes, *_named(int8, variants)])
    searches = "".join(
        _search(variant, int8.searches[variant], int8.budget, recurrent=recurrent)
        for variant in variants
        if variant in int8.searches
    )
    return f"""<h2>INT8</h2>
<p>{_promise(int8, recurrent=recurrent)}</p>
{_variants(int8, variants, recurrent=recurrent)}
<p class="sub">Loss is how many dB of luma PSNR a variant is further from the ground truth than float, PSNR and ΔE2000
compare it with float, all on the frames that INT8 was judged on. {UNKNOWN} means not measured: what is derived from
another variant, or made from a recipe, is judged by its parity above. Milliseconds are the median of a frame on this
device, one at a time; the speed is against the next precision: what would be taken on this engine without INT8.</p>
{f"<ul>{notes}</ul>" if notes else ""}
{f'<h2>INT8: float layers against loss</h2><div class="wide">{searches}</div>' if searches else ""}
"""


def _promise(int8: Int8Result, *, recurrent: bool) -> str:
    if int8.budget is None:
        return "Made as a recipe says, without any frames, so there was nothing to measure losses on."
    judged = int8.recipe.material.get("judged_on")
    drift = f" and {int8.budget.drift_db:g} dB drift" if recurrent else ""
    frames = f", judged on {judged} frames" if judged else ""
    return escape(f"Budget: {int8.budget}{drift}{frames}.")


def _named(int8: Int8Result, variants: Sequence[str]) -> list[str]:
    return [
        f"{variant}: in float {shortened(int8.float_layers[variant], MOST_NAMED)}."
        for variant in variants
        if variant not in int8.dropped and int8.float_layers.get(variant)
    ]


def _variants(int8: Int8Result, variants: Sequence[str], *, recurrent: bool) -> str:
    drift = ["drift, dB"] if recurrent else []
    head = ["variant", "layers in float", "loss, dB", "PSNR, dB", "ΔE2000", *drift, "observer", "biases corrected"]
    rows = []
    for variant in variants:
        found = int8.searches.get(variant)
        decided = int8.recipe.variants.get("int8" if variant == "int8-strong" else variant)
        times = [one for one in int8.timings if one.choice.variant == variant and one.choice.precision == "int8"]
        rows.append(
            [
                escape(variant),
                _share(int8, variant, found),
                *_figures(found.best.loss if found is not None else None, recurrent=recurrent),
                escape(decided.observer) if decided is not None else UNKNOWN,
                ("yes" if decided.bias_correction else "no") if decided is not None else UNKNOWN,
                "; ".join(f"{one.median_ms:.1f}" for one in times) or UNKNOWN,
                "; ".join(_speed(one, int8) for one in times) or UNKNOWN,
                "in the bundle" if variant not in int8.dropped else '<span class="bad">dropped</span>',
            ]
        )
    return table([*head, "ms a frame", "speed", "outcome"], rows, "int8")


def _share(int8: Int8Result, variant: str, found: Search | None) -> str:
    if found is not None:
        return f"{len(found.best.float_layers)} of {len(found.layers) + _always(found)}"
    return str(len(int8.float_layers[variant])) if variant in int8.float_layers else UNKNOWN


def _always(found: Search) -> int:
    """How many layers stay in float in any case: the search does not count them among those it can quantise."""
    return len(set(found.best.float_layers) - set(found.layers))


def _figures(loss: Loss | None, *, recurrent: bool) -> list[str]:
    """Loss against the truth, PSNR, ΔE, and drift for recurrent nets."""
    if loss is None:
        return [UNKNOWN] * (4 if recurrent else 3)
    drift = [number(loss.drift_db, 2)] if recurrent else []
    return [number(loss.truth_db, 3), number(loss.psnr_db, 2), number(loss.delta_e, 3), *drift]


def _speed(timing: Timing, int8: Int8Result) -> str:
    """Against the next precision on the same engine."""
    rival = int8.rivals.get(timing.choice.variant)
    if rival is None or not timing.median_ms:
        return UNKNOWN
    ratio = rival.median_ms / timing.median_ms
    return escape(f"{ratio:.2f}× {rival.choice.precision} ({rival.median_ms:.1f} ms)")


def _search(variant: str, found: Search, budget: Budget | None, *, recurrent: bool) -> str:
    kept = set(found.best.float_layers)
    sentence = (
        f"{len(kept)} of {len(found.layers) + _always(found)} layers in float: {_told(found.best.loss)}."
        if found.met
        else f"No choice of layers met the budget; the best, with {len(kept)} in float: {_told(found.best.loss)}."
    )
    return f"""<section><h3>{escape(variant)}</h3>
<figure>{search_plot(found, budget)}<figcaption>
{escape(sentence)} Filled dots meet the whole budget, hollow ones do not.</figcaption></figure>
{_ranking(found, kept, recurrent=recurrent)}</section>
"""


def search_plot(found: Search, budget: Budget | None) -> str:
    """The trade-off curve: layers in float, and the loss against truth, or PSNR against float where there is none."""
    truth = found.best.loss.truth_db is not None
    always = _always(found)

    def dot(point: Point, count: int, label: str) -> Dot:
        value = point.loss.truth_db if truth else point.loss.psnr_db
        good = budget is None or budget.met(point.loss)
        return Dot(count, value if value is not None else math.nan, label, good)

    curve = [(point, len(point.float_layers) + always) for point in found.curve]
    return curve_plot(
        [dot(point, count, f"{count} in float: {_told(point.loss)}") for point, count in curve],
        dot(found.best, len(found.best.float_layers), "chosen" if found.met else "best found"),
        None if budget is None else budget.db if truth else budget.psnr_db,
        labels=(
            f"layers in float, of {len(found.layers) + always}",
            "loss against truth, dB" if truth else "PSNR against float, dB",
        ),
        unit="dB",
        falling=truth,
    )


def _told(loss: Loss) -> str:
    truth = f"{number(loss.truth_db, 3)} dB against truth, " if loss.truth_db is not None else ""
    return f"{truth}{number(loss.psnr_db, 2)} dB PSNR and ΔE {number(loss.delta_e, 3)} against float"


def _ranking(found: Search, kept: set[str], *, recurrent: bool) -> str:
    """The layers by the damage that each does alone, and the names of those in float that the table does not hold."""
    if not found.damages:
        return ""
    drift = ["drift, dB"] if recurrent else []
    head = ["#", "layer alone in INT8", "PSNR, dB", "ΔE", "loss, dB", *drift]
    rows = []
    for rank, damage in enumerate(found.damages[:MOST_RANKED], 1):
        layer = damage.layer
        name, mark = escape(layer.name), ""
        if layer.name in kept:
            name, mark = f'<span class="kept">{name}</span>', " in float"
        truth, psnr, colour, *further = _figures(damage.loss, recurrent=recurrent)
        shape = f"<small>{escape(layer.op)} {layer.channels_in}→{layer.channels_out}{mark}</small>"
        rows.append([str(rank), f"{name} {shape}", psnr, colour, truth, *further])
    shown = {damage.layer.name for damage in found.damages[:MOST_RANKED]}
    others = [name for name in found.best.float_layers if name not in shown]
    below = []
    if len(found.damages) > len(rows):
        below.append(f"{len(found.damages) - len(rows)} more layers do less damage.")
    if others:
        below.append(f"Also in float: {shortened(others, MOST_NAMED)}.")
    return table(head, rows, "ranking") + (f'<p class="sub">{escape(" ".join(below))}</p>' if below else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    """A table that scrolls where it does not fit. The cells of ``rows`` are markup, those of ``head`` are text."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll {kind}"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def number(value: float | None, digits: int) -> str:
    """A figure as text; what was not measured or is no number is a dash."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")
