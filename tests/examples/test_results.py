"""The numbers on README and docs' pages are those of the runs whose results stand in the examples."""

from __future__ import annotations

import pytest

from tests.pages import ROOT

PHOTOGRAPHS = "examples/photographs/results"


def rows(page: str) -> list[list[str]]:
    """The rows of all tables on a page, cell by cell."""
    lines = (ROOT / page).read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def measured(folder: str) -> dict[str, list[str]]:
    """The scores of a run's `table.md` by arm, without the number of seeds."""
    return {arm: scores for arm, _, *scores in rows(f"{folder}/table.md")[2:]}


def test_the_photographs_page_has_the_runs_table() -> None:
    shown = rows("docs/photographs.md")
    for row in rows(f"{PHOTOGRAPHS}/table.md")[2:]:
        assert row[:4] in shown, row


def test_the_other_photographs_are_those_of_their_runs() -> None:
    sets = [measured(f"{PHOTOGRAPHS}/{name}") for name in ("bccd", "aquarium", "coco256")]
    shown = {row[0]: row[1:] for row in rows("docs/photographs.md") if len(row) == 6}
    for arm in sets[0]:
        columns = [scores[arm][at : at + 2] for scores in sets for at in range(0, len(scores[arm]), 2)]
        assert shown[arm] == [f"{accuracy} ({balanced})" for accuracy, balanced in columns], arm


def test_readmes_results_are_the_photographs() -> None:
    scores = measured(PHOTOGRAPHS)
    shown = {row[0]: row[1:] for row in rows("README.md") if len(row) == 3}
    arms = {
        **{f"{arm}, trained as long": arm for arm in ("image only", "coordinates as text", "drawn marks")},
        "region tokens off the tower's maps (`osprey`), stage 2": "region tokens: osprey, on the tower's maps, stage 2",
        "region tokens of crops, stage 1": "region tokens: crops, stage 1",
        "region tokens of crops, stage 2": "region tokens: crops, stage 2",
    }
    for named, arm in arms.items():
        assert shown[named] == scores[arm][:2], named


@pytest.mark.parametrize("results", ["examples/lion/results", "examples/lion/results/photographs"])
def test_lions_page_has_its_runs_tables(results: str) -> None:
    shown = rows("docs/lion-experiment.md")
    for row in rows(f"{results}/table.md"):
        assert row in shown, row
