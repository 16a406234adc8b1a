"""The plots' columns and bars count what they say."""

from __future__ import annotations

import re
from collections import Counter

from pvit_ext.data.show.plots import count_columns, name_bars, shape_scatter, size_columns


def columns(svg: str) -> dict[str, int]:
    found = re.findall(r"<title>(.*?): ([\d,]+)</title>", svg)
    return {label: int(count.replace(",", "")) for label, count in found}


def test_a_column_for_each_number_where_they_are_few() -> None:
    assert columns(count_columns("t", Counter({1: 5, 3: 2}))) == {"1": 5, "2": 0, "3": 2}


def test_ranges_hold_every_value_once_and_the_highest_share_the_last() -> None:
    counts = Counter(dict.fromkeys(range(1, 41), 10) | {5000: 1})
    found = columns(count_columns("t", counts))
    assert sum(found.values()) == counts.total()
    assert found["1-5"] == 50
    assert list(found)[-1] == "36+"
    assert found["36+"] == 51


def test_sizes_are_roots_of_areas() -> None:
    found = columns(size_columns("t", [(0.1, 0.1), (0.4, 0.1), (1.0, 1.0), (0.001, 0.001)]))
    assert {label: count for label, count in found.items() if count} == {
        "under 1": 1, "8-16": 1, "16-32": 1, "over 64": 1
    }  # fmt: skip


def test_the_scatter_takes_the_smallest_frame_that_holds_all() -> None:
    assert "25%" in shape_scatter("t", [(0.2, 0.1)])
    whole = shape_scatter("t", [(0.2, 1.0)])
    assert "100%" in whole
    assert whole.count("<circle") == 1


def test_rare_names_are_counted_below() -> None:
    svg = name_bars("t", Counter({f"n{number}": number for number in range(1, 21)}), most=15)
    assert len(columns(svg)) == 15
    assert "and 5 more, 15 times" in svg


def test_plots_of_nothing() -> None:
    assert "<svg" in count_columns("t", Counter())
    assert "<svg" in name_bars("t", Counter())
    assert "<svg" in shape_scatter("t", [])
