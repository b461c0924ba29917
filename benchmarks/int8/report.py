"""Tables of this benchmark, for the terminal and as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import common
from benchmarks.int8.rounds import Watch, kind_of
from runtime.errors import UsageError
from runtime.report import table

BEGIN, END = "<!-- figures: python -m benchmarks.int8 --markdown -->", "<!-- end of figures -->"
Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A table with its title and, below it, how it was measured. The first ``left`` columns are words."""

    title: str
    head: Sequence[str]
    rows: Rows
    left: int
    note: str

    def plain(self) -> str:
        return f"{self.title}\n{table(self.head, self.rows, self.left)}\n{self.note}"

    def markdown(self) -> str:
        return f"### {self.title}\n\n{markdown_table(self.head, self.rows, self.left)}\n\n{self.note}"


@dataclass
class Report:
    """The benchmark's result, and its tables once more for Markdown."""

    result: common.Result
    sections: list[Section] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)  # of others, while times were taken

    def judged_on(self, watch: Watch) -> str:
        """``wall`` or ``cpu``, see :func:`kind_of`; the load is kept for the conditions."""
        self.loads.append(watch.load())
        return kind_of(self.loads[-1])

    def add(self, title: str, head: Sequence[str], rows: Rows, left: int, note: str) -> None:
        """Show a table unless it has no row."""
        if rows:
            section = Section(title, head, rows, left, note)
            self.sections.append(section)
            self.result.tables.append(section.plain())

    def markdown(self, command: str) -> str:
        """All tables and the targets, with the command and the conditions in front."""
        facts = ", ".join(f"{key} {value}" for key, value in self.result.conditions.items() if value is not None)
        parts = [f"`{command}`: {facts}.", *(section.markdown() for section in self.sections)]
        if self.result.targets:
            rows = [(target.name, target.measured, target.wanted, target.verdict) for target in self.result.targets]
            parts.append("### Targets\n\n" + markdown_table(("target", "measured", "wanted", "verdict"), rows, 4))
        return "\n\n".join(parts)


def markdown_table(head: Sequence[str], rows: Rows, left: int) -> str:
    """A GitHub table: the first ``left`` columns to the left, figures to the right."""
    lines = [head, ["---" if place < left else "--:" for place in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_markdown(path: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Write the figures: between the ``marks`` of a document that has them, else as a new file.

    Raises :class:`UsageError` for a file that is there and has no marks: nothing of it is overwritten.
    """
    before, after = around_marks(path, marks)
    path.write_text(f"{before}{marks[0]}\n\n{text}\n\n{marks[1]}{after}", encoding="utf-8")


def around_marks(path: Path, marks: tuple[str, str] = (BEGIN, END)) -> tuple[str, str]:
    """What a document has before and after the figures; of one that is not there yet, nothing and an end of line.

    Raises :class:`UsageError` as :func:`write_markdown`.
    """
    if not path.is_file():
        return "", "\n"
    before, begin, rest = path.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not begin or not end:
        raise UsageError(f"{path} is there, but has no '{marks[0]}' and '{marks[1]}' to write between")
    return before, after
