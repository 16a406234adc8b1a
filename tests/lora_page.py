"""Tables in docs/lora.md that a script writes, each between two marks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "lora.md"


def rows_between(start: str, end: str, names: Collection[str]) -> dict[str, list[str]]:
    """The cells of each row, by the first of them.

    Args:
        start: mark above the table.
        end: mark below it.
        names: of the rows that are wanted.
    """
    table = PAGE.read_text().partition(start)[2].partition(end)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {row[0]: row for row in cells if row[0] in names}


def replace_between(start: str, end: str, lines: Sequence[str]) -> None:
    """Put other lines between two marks."""
    before, _, rest = PAGE.read_text().partition(start)
    PAGE.write_text(f"{before}{start}\n" + "\n".join(lines) + f"\n\n{end}{rest.partition(end)[2]}")
