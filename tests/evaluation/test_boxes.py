"""Boxes in the text of an answer, and their scales."""

from __future__ import annotations

import pytest

from pvit_ext.evaluation.boxes import find_boxes, iou, to_pixels


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[1,2,3,4] and (5, 6, 7.5, .8)", [(1, 2, 3, 4), (5, 6, 7.5, 0.8)]),
        ("(1,2),(3,4)", [(1, 2, 3, 4)]),
        ("<Region><L1><L20><L300><L999></Region>", [(1, 20, 300, 999)]),
        ("[1,2,3] [a,b,c,d] 1,2,3,4", []),
        ("[0., 0., 1., 1.5]", [(0, 0, 1, 1.5)]),
        ("[1e-1, 2E+0, -3.5e1, .5] [1e999, 0, 1, 1]", [(0.1, 2, -35, 0.5)]),
    ],
)
def test_boxes_in_answers(text: str, want: list[tuple[float, ...]]) -> None:
    assert find_boxes(text) == want


def test_scales_of_boxes() -> None:
    assert to_pixels((0.5, 0.5, 1, 1), (80, 40), "auto") == (40, 20, 80, 40)
    assert to_pixels((500, 500, 1000, 1000), (80, 40), "auto") == (40, 20, 80, 40)
    assert to_pixels((5, 6, 7, 8), (80, 40), "pixel") == (5, 6, 7, 8)
    assert to_pixels((0, 0.25, 1, 0.75), (80, 40), "padded") == (0, 0, 80, 40)
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((2, 2, 0, 0), (0, 0, 2, 2)) == 0


def test_boxes_of_endless_numbers_take_no_time() -> None:
    """Greedy answers may repeat a digit to their end: a pattern that splits numbers at any digit would take days."""
    assert find_boxes(",".join(["[" + "1" * 300] + ["1" * 300] * 3)) == []
