"""A visit's rows as tables, and what they say about the targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import common
from benchmarks.gpu_visit.record import Record, Row
from benchmarks.gpu_visit.turns import ratio
from benchmarks.int8.report import markdown_table
from runtime.report import table
from runtime.sessions import TENSORRT_FP16_DB

MARKS = "<!-- figures: python -m benchmarks.gpu_visit --table -->", "<!-- end of figures -->"

FP16_DB = TENSORRT_FP16_DB  # against PyTorch, of every bundle
SESSION, PIPELINE = 0.95, 0.90  # of the engine alone, and of the session
GRAPHS = 0.98  # "no slower", less what two measurements of the same thing differ by
FLAGSHIP, FLAGSHIP_SIZE = "sr-x2", (720, 1280)
AGAINST_COMPILE, INT8_GAIN = 1.5, 1.2
COMPILED = "torch.compile channels-last fp16"

#: column -> (figure, digits)
SPEED = {
    "engine ms": ("engine_ms", 3),
    "no graph ms": ("engine_without_graph_ms", 3),
    "session ms": ("session_ms", 3),
    "latency ms": ("latency_ms", 3),
    "p95 ms": ("latency_p95_ms", 3),
    "pipeline ms": ("pipeline_ms", 3),
    "session/engine": ("session_over_engine", 3),
    "pipeline/session": ("pipeline_over_session", 3),
    "dB to fp32": ("psnr_to_fp32_db", 1),
}
PARITY = {
    "PSNR dB": ("psnr_db", 2),
    "SSIM": ("ssim", 5),
    "ΔE2000": ("delta_e", 4),
    "max": ("max_abs", 0),
    "p99.9": ("p999_abs", 0),
}
BUILD = {"seconds": ("seconds", 1)}


@dataclass(frozen=True)
class Section:
    """One table: a title, the words and figures of each row, and a last column that says why figures are missing."""

    title: str
    columns: dict[str, tuple[str, int]]
    rows: Sequence[Row]
    note: str

    @property
    def head(self) -> tuple[str, ...]:
        return "bundle", "what", "size", *self.columns, "remark"

    def cells(self) -> list[tuple[str, ...]]:
        """One line for each row, without columns that no row has."""
        return [
            (
                row.bundle,
                row.who,
                f"{row.size[1]}x{row.size[0]}" if row.size else "-",
                *(_number(row.figures.get(figure), digits) for figure, digits in self.columns.values()),
                row.error or str(row.figures.get("remark", "")),
            )
            for row in self.rows
        ]


def sections(record: Record) -> list[Section]:
    """The tables that have rows."""
    found = [
        Section("Not opened", {}, record.of("open"), ""),
        Section("Builds", BUILD, record.of("build"), "From the ONNX file to the first frame, with the cache's help."),
        Section(
            "Parity with PyTorch", PARITY, record.of("parity"), "On the bundle's golden frames; differences in 8-bit "
            "steps."
        ),
        Section(
            "Speed", SPEED, record.of("speed"), "Milliseconds a frame, medians over rounds in which all took turns. "
            "engine: without copies from and to the host; session: with them, several frames under way; latency: one "
            "frame from array to array; pipeline: a video, decoded, run and thrown away. Ratios are of rates, round by "
            "round."
        ),
    ]  # fmt: skip
    return [section for section in found if section.rows]


def plain(record: Record) -> str:
    """For the terminal."""
    parts = [_facts(record)]
    for section in sections(record):
        parts.append(f"{section.title}\n{table(section.head, section.cells(), left=3)}\n{section.note}".rstrip())
    found = targets(record)
    if found:
        parts.append(table(_TARGET, [_words(target) for target in found], left=4))
    return "\n\n".join(parts)


def markdown(record: Record) -> str:
    """The same for a document."""
    parts = [_facts(record)]
    for section in sections(record):
        text = f"### {section.title}\n\n{markdown_table(section.head, section.cells(), 3)}\n\n{section.note}"
        parts.append(text.rstrip())
    found = targets(record)
    if found:
        parts.append("### Targets\n\n" + markdown_table(_TARGET, [_words(target) for target in found], 4))
    return "\n\n".join(parts)


_TARGET = ("target", "measured", "wanted", "verdict")


def _words(target: common.Target) -> tuple[str, str, str, str]:
    return target.name, target.measured, target.wanted, target.verdict


def _facts(record: Record) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in record.conditions.items() if value is not None)
    return f"{facts}." if record.finished else f"{facts}. Cut off before the end."


def _number(value: Any, digits: int) -> str:
    return "-" if not isinstance(value, int | float) else f"{value:.{digits}f}"


# --- targets ----------------------------------------------------------------------------------------------------------


def targets(record: Record) -> list[common.Target]:
    """Every target, met, missed, or skipped with the reason."""
    found = [*_parity(record.of("parity"))]
    speed = [row for row in record.of("speed") if row.who.split()[0] == record.conditions.get("backend")]
    for row in speed:
        name = f"{row.bundle} {row.who}"
        judged: list[tuple[str, str, float]] = [("pipeline over session", "pipeline_over_session", PIPELINE)]
        if record.conditions.get("backend") == "tensorrt":  # elsewhere nothing is copied to the engine and back
            judged.append(("session over engine", "session_over_engine", SESSION))
        if "engine_without_graph_ms" in row.figures:
            judged.append(("with CUDA graphs over without", "graph_gain", GRAPHS))
        for words, figure, limit in judged:
            value = row.figures.get(figure)
            if value is None:
                found.append(common.skipped(f"{name} {words}", row.error or "not measured"))
            else:
                found.append(common.at_least(f"{name} {words}", value, limit, "", 3))
    return [*found, *_flagship(record)]


def _parity(rows: Iterable[Row]) -> Iterable[common.Target]:
    for row in rows:
        name = f"{row.bundle} {row.who} parity"
        if row.error:
            yield common.skipped(name, row.error)
        else:
            if row.who.endswith(" fp16"):
                yield common.at_least(f"{row.bundle} {row.who} PSNR", row.figures["psnr_db"], FP16_DB, " dB")
            failures = row.figures["failures"]
            yield common.Target(name, "; ".join(failures) or "within", "the manifest's limits", not failures)


def _flagship(record: Record) -> Iterable[common.Target]:
    """What the x2 net must reach at 1280x720."""
    own = str(record.conditions.get("backend"))
    rows = {row.who: row for row in record.of("speed") if (row.bundle, row.size) == (FLAGSHIP, FLAGSHIP_SIZE)}
    for words, slow, fast, limit in (
        ("fp16 over torch.compile", COMPILED, f"{own} fp16", AGAINST_COMPILE),
        ("int8 over fp16", f"{own} fp16", f"{own} int8", INT8_GAIN),
    ):
        name = f"{FLAGSHIP} 1280x720 {words}"
        gain = _gain(rows.get(slow), rows.get(fast))
        if gain is not None:
            yield common.at_least(name, gain, limit, "", 2)
        else:
            errors = [row.error for who in (slow, fast) if (row := rows.get(who)) is not None and row.error]
            missing = [who for who in (slow, fast) if who not in rows]
            yield common.skipped(name, errors[0] if errors else f"{', '.join(missing) or 'a time'} was not measured")


def _gain(slow: Row | None, fast: Row | None) -> float | None:
    """How many times as fast an engine alone is, by round; None where one was not measured."""
    if slow is None or fast is None:
        return None
    times = [row.figures.get("rounds_ms", {}).get("engine") for row in (slow, fast)]
    return ratio(times[0], times[1]) if all(times) else None
