"""How questions are put in order, and dealt out to processes in batches."""

from __future__ import annotations

import pytest

from pvit_ext.inference.answering import by_image
from pvit_ext.inference.questions import Question
from pvit_ext.inference.ranks import Ranks


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ("", ""),
        ("a", "a"),
        ("aaaaa", "aaaa a"),
        ("aaaabbbb", "aaaa bbbb"),
        ("aaaaaabbbbb", "aaaa aa bbbb b"),
        ("abcdefg", "abcd efg"),
        ("abbbbbcc", "abbb bb cc"),
    ],
)
def test_a_batch_ends_with_its_image_where_that_fills_half_of_it(items: str, found: str) -> None:
    assert Ranks().batches(items, 4, str) == found.split()
    assert "".join(Ranks().batches(items, 4)) == items
    assert [len(one) for one in Ranks().batches(items, 4)] == [len(items[n : n + 4]) for n in range(0, len(items), 4)]
    first, second = (Ranks(rank, 2).batches(items, 4, str) for rank in range(2))
    assert sorted([*first, *second]) == sorted(found.split())


def test_questions_about_one_image_are_asked_one_after_the_other() -> None:
    asked = [Question(str(number), (image,), "?") for number, image in enumerate("babca")]
    assert [one.id for one in by_image(asked)] == ["0", "2", "1", "4", "3"]
