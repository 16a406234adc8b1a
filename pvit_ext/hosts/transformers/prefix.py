"""A batch for ``generate`` whose prompts' beginning was read once; see :mod:`pvit_ext.hosts.prefix`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.prefix import Prefix, can_share, common, laid_out, read_once


@torch.no_grad()
def with_prefix(
    model: Any, batch: dict[str, Any], first: Callable[[], dict[str, Any]], names: object, prefix: Prefix
) -> dict[str, Any]:
    """The batch laid out behind keys and values of its prompts' beginning; itself where that holds no whole images.

    Args:
        model: with regions.
        batch: arguments of its ``generate``, all of whose prompts are about the same images.
        first: makes the batch of the first prompt alone.
        names: of the images.
        prefix: that was read last.
    """
    host = model.base_model.region_host
    config, language = model.config.get_text_config(), model.base_model.language_model
    if "token_type_ids" in batch or not can_share(config, language, type(language).forward):
        return batch
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    rows = [row[here] for row, here in zip(ids, mask, strict=True)]
    begin = _before_regions(rows, common(rows), host.token_id)
    of_images = [model.config.image_token_id, *([] if host.facts.row_token_id is None else [host.facts.row_token_id])]
    behind_images = 1 + max(_last(row, id) for row in rows for id in of_images)

    def read(known: int, begin: int, cache: Any) -> None:
        _read(model, first(), known, begin, cache)

    if not (begin := read_once(prefix, rows, begin, names, config, read, behind_images)):
        return batch
    new: dict[str, Any] = dict(batch)
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.shape == ids.shape and key != "questions":
            new[key] = laid_out([row[here] for row, here in zip(value, mask, strict=True)], begin)
    return {**new, "past_key_values": prefix.repeated(len(rows))}


def _before_regions(rows: list[Tensor], begin: int, region_id: int) -> int:
    """The part of a beginning before any region, whose ids are alike and whose tokens are not."""
    here = rows[0][:begin] == region_id
    return int(here.long().argmax()) if bool(here.any()) else begin


def _last(row: Tensor, id: int) -> int:
    """The last place of an id in a row (L,); -1 where it has none."""
    found = (row == id).nonzero()
    return int(found[-1]) if len(found) else -1


def _read(model: Any, batch: dict[str, Any], known: int, begin: int, cache: Any) -> None:
    """Add keys and values of the beginning of one prompt, whose images are all in what is known or all behind it."""
    shape = batch["input_ids"].shape
    given = {key: value for key, value in batch.items() if not key.startswith("region") and key != "labels"}
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.shape == shape and key in given:
            given[key] = value[:, 0 if key == "attention_mask" else known : begin]
        elif known:
            given.pop(key, None)
    model.base_model(**given, past_key_values=cache, use_cache=True)
