"""Drawings of the parity report: inline SVG and colour maps, with no reference to anything outside.

One unit of a drawing is one CSS pixel where it has ``WIDTH`` to itself, which is the width of a phone. Every text is
escaped here. Colours are those of Okabe and Ito, which colour-blind people tell apart; none says what shape, dashes or
a label do not say too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from runtime.frames import Frame

WIDTH = 360
LEFT = 56  # where plots begin, right of what stands beside them
FLOOR = 208  # where a curve's axis across stands
CHANNELS = {"B": "#0072b2", "G": "#009e73", "R": "#d55e00"}  # in the order of a frame's channels
CHOSEN = "#d55e00"
INK, SOFT, GRID, PAPER = "#1b1f24", "#57606a", "#d8dee4", "#ffffff"
LOG_ABOVE = 20  # times the limit; with larger values a linear axis shows nothing of what is near it
LEAST_LOSS = 1e-3  # dB; lower end of a logarithmic axis
TOPS = (2, 4, 8, 16, 32, 64, 128, 255)  # 8-bit steps that an error map may end at

STYLE = f"""
svg {{ width: 100%; height: auto; display: block }}
svg text {{ font: 12px system-ui, sans-serif; fill: {INK} }} svg .axis {{ fill: {SOFT} }}
svg .halo {{ paint-order: stroke; stroke: {PAPER}; stroke-width: 4px; stroke-linejoin: round; font-weight: 600 }}
"""


@dataclass(frozen=True)
class Axis:
    """Where values stand in a drawing: ``low`` at ``begin``, ``high`` at ``end``; what is beyond stands at the ends."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return round(self.begin + (self.end - self.begin) * (value - low) / (high - low), 2)

    def ticks(self, most: int = 6, *, whole: bool = False) -> list[float]:
        """Round values on the axis: powers of ten, or multiples of 1, 2 or 5 times one, whole numbers if asked for."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / most)))]
        least = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
        step = max(step, 1.0) if whole else step
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(place * step, 10) for place in range(first, last + 1)]


@dataclass(frozen=True)
class Dot:
    """A point of a curve. ``good`` ones are filled; ``label`` is shown where a pointer rests on it, and read aloud."""

    x: float
    y: float
    label: str
    good: bool = True

    @property
    def finite(self) -> bool:
        return math.isfinite(self.x) and math.isfinite(self.y)


def curve_plot(
    dots: Sequence[Dot], chosen: Dot | None, limit: float | None, *, labels: tuple[str, str], unit: str, falling: bool
) -> str:
    """A curve over whole numbers, with a dashed line at ``limit`` and a diamond with its label at ``chosen``.

    ``labels`` are those of the axes, along and up; ``unit`` is that of the limit. A ``falling`` curve is one of losses:
    its axis begins at 0, and is logarithmic where the largest is far beyond the limit. Dots that are not finite are
    left out.
    """
    left, right, top = LEFT, 66, 14
    shown = [dot for dot in dots if dot.finite]
    marked = [chosen] if chosen is not None and chosen.finite else []
    values = [dot.y for dot in (*shown, *marked)] + ([limit] if limit is not None else [])
    most = max([1.0, *(dot.x for dot in (*shown, *marked))])
    across = Axis(-0.05 * most, 1.05 * most, left, WIDTH - right)  # room for the marks at both ends
    up = _upward(values, limit, FLOOR, top, falling)
    parts = [_frame(across, up, across.ticks(whole=True), up.ticks(), labels)]
    if limit is not None:
        y = up(limit)
        parts.append(
            f'<path class="limit" d="M{left} {y}H{WIDTH - right}" fill="none" stroke="{INK}" stroke-width="1.5" '
            'stroke-dasharray="6 4"/>'
        )
        parts.append(text(WIDTH - right + 4, y - 2, "budget") + text(WIDTH - right + 4, y + 12, f"{limit:g} {unit}"))
    places = [(across(dot.x), up(dot.y)) for dot in shown]
    if places:
        line = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{CHANNELS["B"]}" stroke-width="2"/>')
    for dot, (x, y) in zip(shown, places, strict=True):
        fill = CHANNELS["B"] if dot.good else PAPER
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="4" fill="{fill}" stroke="{CHANNELS["B"]}" stroke-width="2">'
            f"<title>{escape(dot.label)}</title></circle>"
        )
    for dot in marked:
        x, y = across(dot.x), up(dot.y)
        parts.append(
            f'<path class="chosen" d="M{x} {y - 8}l8 8l-8 8l-8 -8z" fill="{CHOSEN}" stroke="{INK}" stroke-width="1.5"/>'
        )
        parts.append(_label(x, y, dot.label, _taken(places, up(limit) if limit is not None else None, across.end)))
    return svg(WIDTH, FLOOR + 42, "".join(parts), f"{labels[1]}, by {labels[0]}")


def _taken(places: Sequence[tuple[float, float]], limit: float | None, right: float) -> list[tuple[float, float]]:
    """Points that a label had better not cover: along the curve, and along the limit and its own label."""
    taken = [*places]
    for (x1, y1), (x2, y2) in pairwise(places):
        taken += [(x1 + (x2 - x1) * part, y1 + (y2 - y1) * part) for part in np.linspace(0, 1, 24)]
    if limit is not None:
        taken += [(x, limit) for x in np.arange(0, right, 4)]
        taken += [(x, limit + y) for x in np.arange(right + 4, WIDTH, 4) for y in (-10, -5, 0, 5, 10)]
    return taken


def _label(x: float, y: float, content: str, taken: Sequence[tuple[float, float]]) -> str:
    """A label beside a mark, in the corner where it covers least; what is cut off counts most."""
    wide = 8 * len(content)

    def covered(corner: tuple[int, int]) -> int:
        side, down = corner
        left, bottom = (x + 10 if side > 0 else x - 10 - wide), y + down + 3
        inside = left >= LEFT and left + wide <= WIDTH and bottom - 14 >= 0 and bottom <= FLOOR
        hits = sum(left <= px <= left + wide and bottom - 14 <= py <= bottom for px, py in taken)
        return hits if inside else hits + 1000

    side, down = min(((1, -10), (1, 20), (-1, 20), (-1, -10)), key=covered)
    return text(x + 10 * side, y + down, content, "start" if side > 0 else "end", "halo")


def _upward(values: Sequence[float], limit: float | None, begin: float, end: float, falling: bool) -> Axis:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if not falling:
        room = max(0.5, (high - low) / 10)
        return Axis(low - room, high + room, begin, end)
    if limit is not None and limit > 0 and high > LOG_ABOVE * limit:
        least = min([limit, *(value for value in values if value > 0)]) / 2
        low = max(LEAST_LOSS, 10.0 ** math.floor(math.log10(least)))
        return Axis(low, max(high * 1.5, low * 10), begin, end, log=True)
    return Axis(0, high * 1.15 if high > LEAST_LOSS / 10 else 1.0, begin, end)


def _frame(across: Axis, up: Axis, xs: Sequence[float], ys: Sequence[float], labels: tuple[str, str]) -> str:
    parts = []
    for value in ys:
        y = up(value)
        parts.append(f'<path d="M{across.begin} {y}H{across.end}" stroke="{GRID}"/>')
        parts.append(text(across.begin - 6, y + 4, f"{value:g}", "end", "axis"))
    for value in xs:
        x = across(value)
        parts.append(f'<path d="M{x} {up.begin}v5" stroke="{SOFT}"/>')
        parts.append(text(x, up.begin + 18, f"{value:g}".replace("-", "−"), "middle", "axis"))
    parts.append(f'<path d="M{across.begin} {up.end}V{up.begin}H{across.end}" fill="none" stroke="{SOFT}"/>')
    parts.append(text((across.begin + across.end) / 2, up.begin + 36, labels[0], "middle"))
    middle = (up.begin + up.end) / 2
    parts.append(text(12, middle, labels[1], "middle", turn=f' transform="rotate(-90 12 {middle:g})"'))
    return "".join(parts)


def shift_plot(difference: NDArray[np.int16]) -> str:
    """Histograms of a signed difference ``int16 (H, W, 3) BGR`` in 8-bit steps, one above the other, counts in log."""
    left, right, panel, gap, top = LEFT, 10, 62, 10, 6
    most = max(2, int(np.abs(difference).max()))
    across = Axis(-most - 0.5, most + 0.5, left, WIDTH - right)
    parts = []
    for place, (name, colour) in enumerate(CHANNELS.items()):
        values = difference[..., place].ravel().astype(np.int64)
        counts = np.bincount(values + most, minlength=2 * most + 1)
        base = top + (panel + gap) * place + panel
        up = Axis(10**-0.5, max(10.0, float(counts.max())), base, base - panel, log=True)
        for value in Axis(1, up.high, base, base - panel, log=True).ticks(3):
            y = up(value)
            parts.append(f'<path d="M{left} {y}H{WIDTH - right}" stroke="{GRID}"/>')
            parts.append(text(left - 6, y + 4, _power(value), "end", "axis"))
        steps = [f"V{up(float(count)) if count else base}H{across(step + 0.5)}" for step, count in _runs(counts, most)]
        parts.append(f'<path class="{name}" d="M{left} {base}{"".join(steps)}V{base}z" fill="{colour}"/>')
        parts.append(f'<path d="M{left} {base}H{WIDTH - right}" stroke="{SOFT}"/>')
        parts.append(text(left + 6, base - panel + 14, name, "start", "halo"))
        parts.append(text(WIDTH - right - 4, base - panel + 14, f"mean {signed(float(values.mean()))}", "end", "halo"))
    base = top + 3 * panel + 2 * gap
    zero = across(0)
    parts.append(f'<path d="M{zero} {top}V{base}" stroke="{INK}" stroke-dasharray="2 3"/>')
    for value in Axis(-most, most, 0, 1).ticks(8, whole=True):
        x = across(value)
        parts.append(f'<path d="M{x} {base}v5" stroke="{SOFT}"/>')
        parts.append(text(x, base + 18, f"{value:g}".replace("-", "−"), "middle", "axis"))
    parts.append(text((left + WIDTH - right) / 2, base + 36, "output − PyTorch, 8-bit steps", "middle"))
    middle = (top + base) / 2
    parts.append(text(12, middle, "pixels", "middle", turn=f' transform="rotate(-90 12 {middle:g})"'))
    return svg(WIDTH, base + 44, "".join(parts), "pixels by signed difference to PyTorch in 8-bit steps, by channel")


def _runs(counts: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """(last step, count) of steps next to each other with the same count."""
    last = np.flatnonzero(np.append(np.diff(counts) != 0, True))
    return [(int(place) - most, int(counts[place])) for place in last]


def _power(value: float) -> str:
    power = round(math.log10(value))
    return (
        ("1", "10", "100")[power]
        if power < 3
        else "10" + str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    )


def top_of(largest: int) -> int:
    """The difference in 8-bit steps that an error map ends at, for the largest one in it."""
    return next(top for top in TOPS if top >= largest)


def colours_of(top: int) -> NDArray[np.uint8]:
    """BGR colours ``(256, 3)`` of differences of 0 to 255 steps: black, over red, to light yellow at ``top`` and above.

    The map is OpenCV's "inferno", whose lightness grows steadily; it is spent on the logarithm, so that one step can be
    told from two beside one of fifty.
    """
    steps = np.arange(256)
    places = np.minimum(255, np.rint(255 * np.log1p(steps) / math.log1p(top))).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(places[:, None], cv2.COLORMAP_INFERNO), dtype=np.uint8)[:, 0]


def error_map(reference: Frame, output: Frame, top: int) -> Frame:
    """The largest absolute difference of each pixel's channels, in the colours of :func:`colours_of`."""
    return np.asarray(colours_of(top)[cv2.absdiff(reference, output).max(axis=2)])


def error_legend(top: int) -> str:
    """What the colours of :func:`error_map` mean: one block for each step, labelled at powers of two."""
    left, right, bar = 8, 14, 14
    across = Axis(1, top + 2, left, WIDTH - right, log=True)  # one more than a step, where its block begins
    blocks = "".join(
        f'<rect x="{across(step + 1)}" y="0" width="{round(across(step + 2) - across(step + 1), 2):g}" height="{bar}" '
        f'fill="#{red:02x}{green:02x}{blue:02x}" shape-rendering="crispEdges"/>'
        for step, (blue, green, red) in enumerate(colours_of(top)[: top + 1].tolist())
    )
    labels = "".join(
        text((across(step + 1) + across(step + 2)) / 2, bar + 15, str(step), "middle", "axis")
        for step in (0, 1, *TOPS)
        if step <= top
    )
    edge = f'<rect x="{left}" y="0" width="{WIDTH - left - right}" height="{bar}" fill="none" stroke="{SOFT}"/>'
    return svg(WIDTH, bar + 20, blocks + edge + labels, f"colours of differences from 0 to {top} 8-bit steps")


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "", *, turn: str = "") -> str:
    """A text of a drawing; ``anchor`` is start, middle or end."""
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}{turn}>{escape(content)}</text>'


def svg(width: float, height: float, content: str, title: str) -> str:
    """A drawing with a description for those who cannot see it. It scales with the space it is given."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">{content}</svg>'


def signed(value: float) -> str:
    """A shift with its sign, to a thousandth; none where that is zero."""
    return f"{value:+.3f}".replace("-", "−") if abs(value) >= 0.0005 else "0.000"
