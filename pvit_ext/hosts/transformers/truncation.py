"""Placeholders that a tokenizer's truncation cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pvit_ext.regions.region import RegionError


def check_cut(ids_by_text: Any, token_id: int, wanted: Sequence[int], names: Sequence[str], text: str) -> None:
    """Refuse ids that lack a placeholder.

    Args:
        ids_by_text: ids of each text.
        token_id: of the placeholder.
        wanted: how often it stands in each text.
        names: what these are, for messages.
        text: what may be shortened.

    Raises:
        RegionError: naming the sample.
    """
    if len(ids_by_text) != len(wanted):
        raise RegionError(
            f"{len(wanted)} texts became {len(ids_by_text)} rows of ids: regions, hints and rows of images need one "
            "for each text"
        )
    for number, (ids, count, name) in enumerate(zip(ids_by_text, wanted, names, strict=True)):
        if (found := [int(one) for one in ids].count(token_id)) != count:
            raise RegionError(
                f"sample {number}: truncation leaves {found} of {name}: raise max_length, or shorten {text}"
            )
