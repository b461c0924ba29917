"""Results for people (tables) and for programs (JSON)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO


def write_json(path: Path, content: Any) -> None:
    """Write a machine-readable result, whole or not at all; ``-`` is standard output."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def text_stream(json: Path | None) -> TextIO:
    """Where text for people goes: standard output, or standard error where the JSON takes that."""
    return sys.stderr if json is not None and str(json) == "-" else sys.stdout


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Aligned columns as plain text; the first ``left`` columns to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def shortened(names: Sequence[str], most: int) -> str:
    """Names with commas between them, the first ``most`` of them and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
