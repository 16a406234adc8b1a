"""The beginning that the questions of a batch share, read by the language model once for all of them.

Questions about one image begin alike: with the system prompt and the image's positions, which are most of a prompt.
The keys and values of these are made for one question and repeated; each question brings its own end. Rows are laid
out as [beginning, padding, own end], so that positions, which follow from the mask, are those without.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn

from pvit_ext.adapters.lion.feed_forward import mixtures_in

LEAST = 16
"""Positions from which on reading them once is worth a pass of its own."""
_KNOWS_CACHES = Version(transformers.__version__) >= Version("5")
"""Before, ``generate`` takes embeddings or a cache, not both."""
PLAIN_OPTIONS = frozenset({"do_sample", "temperature", "top_p", "top_k", "min_p", "stop_strings", "stopping_criteria"})
"""Options of ``generate`` with which a beginning may be shared; beams and the like lay out caches of their own."""

_NEUTRAL = {
    **dict.fromkeys(("num_beams", "num_return_sequences", "guidance_scale"), 1),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), 1),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), 0),
    **dict.fromkeys(("sequence_bias", "bad_words_ids")),
    **dict.fromkeys(("cache_implementation", "penalty_alpha", "prompt_lookup_num_tokens", "prefill_chunk_size")),
}
"""Values of a model's own options with which it may be shared; None is one of each.

Padding between a beginning and its end changes the prompt's ids, which the second to fourth line read or count.
"""

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
    """The last beginning that was read, kept for the next batches.

    Attributes:
        rows: (P, ...) ids or embeddings of its positions.
        mark: tells one from another of the same ids, such as the names of its images.
        cache: keys and values, of one row.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None
        self.mark: object = None
        self.cache: Any = None

    def is_of(self, mark: object) -> bool:
        """Whether something of this mark has been read."""
        return self.rows is not None and mark == self.mark

    def known(self, rows: Tensor, mark: object) -> int:
        """How many positions of a beginning (P, ...) have been read."""
        if self.rows is None or mark != self.mark:
            return 0
        least = min(len(rows), len(self.rows))
        return _equal(rows[:least], [self.rows[:least]])

    def cut(self, length: int) -> None:
        """Forget all positions but the first."""
        if self.rows is not None and (more := len(self.rows) - length):
            self.cache.crop(-more)
            self.rows = self.rows[:length]

    def taken(self, known: int, empty: Callable[[], Any]) -> Any:
        """Keys and values of the first positions, to add others to and to keep then.

        Args:
            known: how many.
            empty: makes a cache for none.
        """
        if known:
            self.cut(known)
        cache = self.cache if known else empty()
        self.rows = self.cache = None  # what fails while others are added is not found again
        return cache

    def keep(self, rows: Tensor, mark: object, cache: Any) -> None:
        """Keep another one."""
        self.rows, self.mark, self.cache = rows, mark, cache

    def repeated(self, times: int) -> Any:
        """Keys and values for so many rows, which may be written to."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(times)
        return cache


def is_worth_reading(begin: int, known: int, rows: int) -> bool:
    """Whether a beginning is read for all rows at once; else each of them reads what is not known of it.

    Args:
        begin: its positions.
        known: of these, those that have been read.
        rows: of the batch.
    """
    return rows > 1 and begin - known >= LEAST


def read_once(
    prefix: Prefix,
    rows: Sequence[Tensor],
    begin: int,
    mark: object,
    config: Any,
    read: Callable[[int, int, Any], object],
    least: int = 0,
) -> int:
    """Read the beginning of rows once for all where that is worth it; how much of it is in the prefix then, 0 for none.

    Args:
        prefix: that was read last.
        rows: of a batch, without padding.
        begin: positions of the beginning.
        mark: see :class:`Prefix`.
        config: of the text model.
        read: adds keys and values of the positions from the first to before the second number to a cache.
        least: positions without which it cannot be shared.
    """
    known = prefix.known(rows[0][:begin], mark)
    known = known if known >= least else 0
    if begin >= least and is_worth_reading(begin, known, len(rows)):
        cache = prefix.taken(known, lambda: new_cache(config))
        read(known, begin, cache)
        if not is_plain(cache):
            return 0
        prefix.keep(rows[0][:begin].clone(), mark, cache)
        return begin
    if known < LEAST:
        return 0
    prefix.cut(known)
    return known


def can_share(config: Any, language: nn.Module, forward: Any) -> bool:
    """Whether a language model's positions and keys follow from the mask, whatever padding stands between.

    Args:
        config: of the text model.
        language: its module; others beside its layers do not count.
        forward: that takes the embeddings.
    """
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if not _KNOWS_CACHES or "position_ids" not in inspect.signature(forward).parameters:
        return False
    if getattr(config, "sliding_window", None) is not None or any(one in str(rope) for one in _BY_LENGTH):
        return False
    return not mixtures_in(language)  # these read a sample's task


def new_cache(config: Any) -> Any:
    """An empty cache of keys and values."""
    return transformers.DynamicCache(config=config)


def is_plain(cache: Any) -> bool:
    """Whether a cache holds the keys and values of every position, and nothing else."""
    return all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)


def common(rows: Sequence[Tensor]) -> int:
    """How many positions (L, ...) of all rows are equal; at least one of each stays its own."""
    least = min(map(len, rows)) - 1
    return _equal(rows[0][:least], [row[:least] for row in rows[1:]])


def _equal(first: Tensor, others: Sequence[Tensor]) -> int:
    """How many positions (L, ...) at the beginning are those of all others, which are as long."""
    same = torch.ones(len(first), dtype=torch.bool, device=first.device)
    for other in others:
        equal = other == first
        same &= equal.flatten(1).all(1) if equal.ndim > 1 else equal
    return int(same.long().cumprod(0).sum())


def positions_of(mask: Tensor) -> Tensor:
    """The position ids (B, L) that follow from a mask (B, L)."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


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
