"""Texts with tags: what a question and an answer become."""

import re

import pytest

from pvit_ext.data.convert.marks import Mark, Said, compose, spoken


def _said(text):
    """``<1>`` names region 1, ``{words|1,2}`` a phrase of regions 1 and 2."""
    marks = []
    for found in re.finditer(r"<([\d,]+)>|\{([^|]*)\|([\d,]*)\}", text):
        keys = tuple(int(one) for one in (found[1] or found[3] or "").split(",") if one)
        marks.append(Mark(found.start(), found.end(), keys, found[2] or ""))
    return Said(text, tuple(marks))


@pytest.mark.parametrize(
    ("turns", "texts", "keys"),
    [
        (["What is <0>?", "A dog."], ["What is <region>?", "A dog."], [0]),
        (["Is <1> like <0,2>?", "No."], ["Is <region> like <region>, <region>?", "No."], [1, 0, 2]),
        (["Is {the dog|0} old?", "No."], ["Is the dog <region> old?", "No."], [0]),
        (["What is <0>?", "A", "And <0>?", "B"], ["What is <region>?", "A", "And <region>?", "B"], [0, 0]),
        (
            ["Which is higher, <0> or <1>?", "<1>"],
            ["Which is higher, region 1 <region> or region 2 <region>?", "Region 2"],
            [0, 1],
        ),
        (
            ["<image>\nWhat is <0>?", "It is by <1>.", "Is <1> old?", "Older than <0>."],
            [
                "<image>\nRegion 2 is <region>. What is region 1 <region>?",
                "It is by region 2.",
                "Is region 2 old?",
                "Older than region 1.",
            ],
            [1, 0],
        ),
        (
            ["Look.", "Yes.", "What is there?", "<0>."],
            ["Look.", "Yes.", "Region 1 is <region>. What is there?", "Region 1."],
            [0],
        ),
        (
            ["<0> or <1>?\nA. <0>\nB. <1>", "A"],
            ["Region 1 <region> or region 2 <region>?\nA. region 1\nB. region 2", "A"],
            [0, 1],
        ),
    ],
)
def test_compose(turns, texts, keys):
    assert compose([_said(turn) for turn in turns]) == (tuple(texts), keys)


@pytest.mark.parametrize(
    ("answer", "text", "phrases"),
    [
        ("Next to the cup <0> and behind the table <1>.", "Next to the cup and behind the table.", []),
        ("The cups <0>, <1> and <2> are red.", "The cups are red.", []),
        ("A dog (<0>), and a cat (<1>).", "A dog, and a cat.", []),
        ("{A dog|0} by {two cups|1,2}.", "A dog by two cups.", ["A dog", "two cups"]),
        ("{It|0} runs.", "It runs.", ["It"]),
        ("No box.", "No box.", []),
    ],
)
def test_spoken(answer, text, phrases):
    found = spoken(_said(answer))
    assert found.text == text
    assert [found.text[start:end] for start, end, _ in found.phrases] == phrases


@pytest.mark.parametrize("answer", ["<0>", "<0> is red.", "It is at <0>.", "Here: <0>", "(<0>, <1>)", ".", "{|0}"])
def test_what_says_nothing_without_its_boxes(answer):
    assert spoken(_said(answer)) is None
