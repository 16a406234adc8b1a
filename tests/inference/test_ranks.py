"""How questions are dealt out to processes, in batches."""

from __future__ import annotations

import pytest

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
