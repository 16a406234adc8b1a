"""A batch for ``generate`` whose prompts' beginning was read once; see :mod:`pvit_ext.hosts.prefix`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.prefix import LEAST, Prefix, can_share, common, is_plain, laid_out, new_cache


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
        prefix: of the call.
    """
    config, language = model.config.get_text_config(), model.base_model.language_model
    if "token_type_ids" in batch or not can_share(config, language, type(language).forward):
        return batch
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    rows = [row[here] for row, here in zip(ids, mask, strict=True)]
    begin = _before_regions(rows, common(rows), model.base_model.region_host.token_id)
    if begin < LEAST or any(bool((row[begin:] == model.config.image_token_id).any()) for row in rows):
        return batch
    if not prefix.fits(rows[0][:begin], names):
        cache = _read(model, first(), begin, new_cache(config))
        if not is_plain(cache):
            return batch
        prefix.keep(rows[0][:begin].clone(), names, cache)
    assert prefix.rows is not None
    begin = len(prefix.rows)
    new: dict[str, Any] = dict(batch)
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.shape == ids.shape and key != "questions":
            new[key] = laid_out([row[here] for row, here in zip(value, mask, strict=True)], begin)
    return {**new, "past_key_values": prefix.repeated(len(rows))}


def _before_regions(rows: list[Tensor], begin: int, region_id: int) -> int:
    """The part of a beginning before any region, whose ids are alike and whose tokens are not."""
    here = rows[0][:begin] == region_id
    return int(here.long().argmax()) if bool(here.any()) else begin


def _read(model: Any, batch: dict[str, Any], begin: int, cache: Any) -> Any:
    """Keys and values of the beginning of one prompt."""
    shape = batch["input_ids"].shape
    given = {key: value for key, value in batch.items() if not key.startswith("region") and key != "labels"}
    for key, value in given.items():
        if isinstance(value, Tensor) and value.shape == shape:
            given[key] = value[:, :begin]
    model.base_model(**given, past_key_values=cache, use_cache=True)
    return cache
