"""The beginning that the questions of a batch share, read by the language model once for all of them.

Questions about one image begin alike: with the system prompt and the image's positions, which are most of a prompt.
The keys and values of these are made for one question and repeated; each question brings its own end. Rows are laid
out as [beginning, padding, own end], so that positions, which follow from the mask, are those without.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn

LEAST = 16
"""Positions from which on a beginning is worth it."""
_KNOWS_CACHES = Version(transformers.__version__) >= Version("5")
"""Before, ``generate`` takes embeddings or a cache, not both."""
PLAIN_OPTIONS = frozenset({"do_sample", "temperature", "top_p", "top_k", "min_p", "stop_strings", "stopping_criteria"})
"""Options of ``generate`` with which a beginning may be shared; beams and the like lay out caches of their own."""

_NEUTRAL = {
    **{"num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": 0, "guidance_scale": 1},
    **dict.fromkeys(("cache_implementation", "penalty_alpha", "prompt_lookup_num_tokens", "prefill_chunk_size")),
}
"""Values of a model's own options with which it may be shared; None is one of each."""

_BY_LENGTH = "mrope_section", "longrope", "dynamic"
"""What rotary positions that follow from more than the mask are called; the last two turn by the prompt's length."""


def is_plain_generation(own: Any, given: Collection[str]) -> bool:
    """Whether a beginning may be shared in ``generate``.

    Args:
        own: the model's ``generation_config``; None for a registered host's model without one.
        given: names of options that the caller gives.
    """
    found = {name: getattr(own, name, None) for name in _NEUTRAL}
    return {*given} <= PLAIN_OPTIONS and all(one in (None, _NEUTRAL[name]) for name, one in found.items())


class Prefix:
    """The last beginning of a call, kept for its next batches.

    Attributes:
        rows: (P, ...) ids or embeddings of its positions.
        mark: tells one from another of the same ids, such as the names of its images.
        cache: keys and values, of one row.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.mark: object = None
        self.cache: Any = None

    def fits(self, rows: Tensor, mark: object) -> bool:
        """Whether it is a beginning of a prompt that is no longer than these rows (P, ...)."""
        own = self.rows
        if own is None or mark != self.mark or len(own) > len(rows):
            return False
        return torch.equal(own, rows[: len(own)]) and len(rows) - len(own) < LEAST

    def keep(self, rows: Tensor, mark: object, cache: Any) -> None:
        """Keep another one."""
        self.rows, self.mark, self.cache = rows, mark, cache

    def repeated(self, times: int) -> Any:
        """Keys and values for so many rows, which may be written to."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(times)
        return cache


def can_share(config: Any, language: nn.Module, forward: Any) -> bool:
    """Whether a language model's positions and keys follow from the mask, whatever padding stands between.

    Args:
        config: of the text model.
        language: its module.
        forward: that takes the embeddings.
    """
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not _KNOWS_CACHES or "position_ids" not in inspect.signature(forward).parameters:
        return False
    if getattr(config, "sliding_window", None) is not None or any(one in str(rope) for one in _BY_LENGTH):
        return False
    return not any(type(one).__module__.startswith("pvit_ext.adapters.lion") for one in language.modules())


def new_cache(config: Any) -> Any:
    """An empty cache of keys and values."""
    return transformers.DynamicCache(config=config)


def is_plain(cache: Any) -> bool:
    """Whether a cache holds the keys and values of every position, and nothing else."""
    return all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)


def common(rows: Sequence[Tensor]) -> int:
    """How many positions (L, ...) of all rows are equal; at least one of each stays its own."""
    least = min(map(len, rows)) - 1
    first = rows[0][:least].flatten(1) if rows[0].ndim > 1 else rows[0][:least, None]
    same = torch.ones(least, dtype=torch.bool, device=first.device)
    for row in rows[1:]:
        same &= (row[:least].reshape(first.shape) == first).all(1)
    return int(same.long().cumprod(0).sum())


def laid_out(rows: Sequence[Tensor], begin: int, fill: Any = 0) -> Tensor:
    """Rows (L_i, ...) as (B, L, ...): the shared beginning, padding, and the end of each.

    Args:
        rows: without padding.
        begin: positions of the beginning.
        fill: for padding.
    """
    longest = max(map(len, rows)) - begin
    padded = []
    for row in rows:
        space = row.new_full((longest - (len(row) - begin), *row.shape[1:]), fill)
        padded.append(torch.cat([row[:begin], space, row[begin:]]))
    return torch.stack(padded)
