"""The sheet that a person fills: for each question the rank of each answer, 1 for the best; equal ranks are allowed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from pvit_ext.evaluation.ranking.comparison import LETTERS, Comparison
from pvit_ext.files import atomic_write, read_text

ITEM, MARK = "item", "answers"


def write_sheet(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write an empty sheet.

    Args:
        path: of the CSV file.
        comparisons: a row each.
    """
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([ITEM, MARK, *_letters(comparisons)])
        writer.writerows([one.sample.id, one.mark, *("" for _ in one.answers)] for one in comparisons)


def read_sheet(path: Path, comparisons: Sequence[Comparison]) -> dict[str, dict[str, float]]:
    """The ranks of each question that a person has ranked, by system; of equal ones the mean of their places.

    Args:
        path: of the CSV file, also as a spreadsheet saves it with semicolons.
        comparisons: that the sheet is for.

    Raises:
        ValueError: naming a line of another sheet, or one that is ranked in part.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter=";" if first.count(";") > first.count(",") else ",")
    if missing := {ITEM, MARK, *_letters(comparisons)} - set(rows.fieldnames or ()):
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}: fill a sheet of this evaluation")
    known = {one.sample.id: one for one in comparisons}
    found: dict[str, dict[str, float]] = {}
    for number, row in enumerate(rows, 2):
        location = f"{path} line {number}"
        one = known.get(row[ITEM])
        if one is None or row[MARK] != one.mark:
            raise ValueError(
                f"{location}: item {row[ITEM]!r} with {row[MARK]!r} is not of these answers: fill a new sheet"
            )
        if row[ITEM] in found:
            raise ValueError(f"{location}: item {row[ITEM]!r} stands twice")
        cells = {letter: (row[letter] or "").strip() for letter in one.letters()}
        if any(cells.values()):
            found[row[ITEM]] = one.by_system(places_of(_numbers(cells, location)))
    return found


def places_of(ranks: Mapping[str, float]) -> dict[str, float]:
    """The places 1, 2, ... that ranks stand for; equal ranks share the mean of their places.

    Args:
        ranks: lower is better.
    """
    values = sorted(ranks.values())
    return {key: values.index(rank) + (values.count(rank) + 1) / 2 for key, rank in ranks.items()}


def _letters(comparisons: Sequence[Comparison]) -> str:
    return LETTERS[: max(len(one.answers) for one in comparisons)]


def _numbers(cells: Mapping[str, str], location: str) -> dict[str, float]:
    try:
        return {letter: float(_integer(cell)) for letter, cell in cells.items()}
    except ValueError as error:
        said = ", ".join(f"{letter}: {cell or 'empty'}" for letter, cell in cells.items())
        raise ValueError(f"{location}: each answer has a rank from 1 on, or none has one; got {said}") from error


def _integer(cell: str) -> int:
    if not cell.isdecimal() or not int(cell):
        raise ValueError(cell)
    return int(cell)
