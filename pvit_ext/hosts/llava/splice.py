"""Puts region tokens where ``<region>`` stands, around LLaVA's own unmodified splice of the image tokens.

LLaVA moves, truncates and pads labels exactly as it does embeddings. So each position that a region will take gets
a token id of 0 and a *marked label*; after LLaVA has spliced the images, the marks say where the positions are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pvit_ext.prompt import HINT_TOKEN_INDEX, IMAGE_TOKEN_INDEX, REGION_TOKEN_INDEX
from pvit_ext.regions.region import RegionError, ResolvedRegion

IGNORE_INDEX = -100
REGION_MARK = -10000
"""Label of region position k is ``REGION_MARK - k``; no vocabulary, and none of LLaVA's sentinels, reaches that far."""
ROW_MARK = -(10**12)
"""Likewise of row k behind an image; no prompt has so many positions of regions."""
HINT_MARK = -(10**15)
"""Likewise of hint k."""


@dataclass
class MarkedBatch:
    """A right-padded batch in which every region takes its positions: ids, labels and attention_mask (B, L)."""

    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor


def mark_regions(
    input_ids: Tensor, labels: Tensor | None, attention_mask: Tensor | None, positions_per_region: int
) -> MarkedBatch:
    """Give each ``REGION_TOKEN_INDEX`` its positions and mark them, in order of appearance.

    Args:
        input_ids: (B, L) int64.
        labels: (B, L) int64, or None.
        attention_mask: (B, L) of 0 and 1 or bool, or None for no padding.
        positions_per_region: S.
    """
    repeats = torch.where(input_ids == REGION_TOKEN_INDEX, positions_per_region, 1)  # (B, L)
    return _marked(input_ids, labels, attention_mask, repeats, REGION_TOKEN_INDEX, REGION_MARK)


def mark_rows(
    input_ids: Tensor, labels: Tensor | None, attention_mask: Tensor | None, rows_per_image: int
) -> MarkedBatch:
    """Make room for further rows behind each ``IMAGE_TOKEN_INDEX``, and mark it, in order of appearance.

    Args:
        input_ids: (B, L) int64.
        labels: (B, L) int64, or None.
        attention_mask: (B, L) of 0 and 1 or bool, or None for no padding.
        rows_per_image: R.
    """
    repeats = torch.where(input_ids == IMAGE_TOKEN_INDEX, 1 + rows_per_image, 1)  # (B, L)
    return _marked(input_ids, labels, attention_mask, repeats, IMAGE_TOKEN_INDEX, ROW_MARK, spare=1)


def mark_hints(input_ids: Tensor, labels: Tensor | None, attention_mask: Tensor | None) -> MarkedBatch:
    """Mark the position of each ``HINT_TOKEN_INDEX``.

    Args:
        input_ids: (B, L) int64.
        labels: (B, L) int64, or None.
        attention_mask: (B, L) of 0 and 1 or bool, or None for no padding.
    """
    repeats = torch.ones_like(input_ids)
    return _marked(input_ids, labels, attention_mask, repeats, HINT_TOKEN_INDEX, HINT_MARK)


def _marked(
    input_ids: Tensor,
    labels: Tensor | None,
    attention_mask: Tensor | None,
    repeats: Tensor,
    sentinel: int,
    first_mark: int,
    spare: int = 0,
) -> MarkedBatch:
    """Repeat positions, and mark those of a sentinel, in order of appearance.

    Args:
        repeats: (B, L) int64, 1 or more.
        first_mark: of the first marked position; the next ones count down from it.
        spare: so many of a sentinel's positions stay as they are.
    """
    keep = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    labels = torch.full_like(input_ids, IGNORE_INDEX) if labels is None else labels
    repeats = repeats * keep
    lengths = repeats.sum(1)  # (B,)
    flat_repeats = repeats[keep]
    flat_ids = input_ids[keep].repeat_interleave(flat_repeats)  # (N,)
    flat_labels = labels[keep].repeat_interleave(flat_repeats)
    sample = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(lengths)  # (N,)
    position = torch.arange(len(sample), device=sample.device) - (lengths.cumsum(0) - lengths)[sample]

    runs = (flat_repeats.cumsum(0) - flat_repeats).repeat_interleave(flat_repeats)  # (N,), of each its first position
    in_run = torch.arange(len(sample), device=sample.device) - runs
    is_marked = (flat_ids == sentinel) & (in_run >= spare)
    marks = first_mark - (is_marked.cumsum(0) - 1)
    shape = (len(input_ids), max(int(lengths.max()), 2))  # LLaVA takes a batch of width 1 for a decoding step
    batch = MarkedBatch(
        input_ids.new_zeros(shape),
        labels.new_full(shape, IGNORE_INDEX),
        torch.zeros(shape, dtype=torch.bool, device=input_ids.device),
    )
    batch.input_ids[sample, position] = flat_ids.masked_fill(is_marked, 0)
    batch.labels[sample, position] = torch.where(is_marked, marks, flat_labels)
    batch.attention_mask[sample, position] = True
    return batch


def inject_region_tokens(
    inputs_embeds: Tensor, marked_labels: Tensor, tokens: Tensor, regions: Sequence[ResolvedRegion]
) -> tuple[Tensor, Tensor]:
    """Write region tokens at the marked positions and take the marks out of the labels.

    Args:
        inputs_embeds: (B, L, D), after LLaVA's splice.
        marked_labels: (B, L) int64, after LLaVA's splice.
        tokens: (M, S, D) region tokens in the order of the marks.
        regions: M, for error messages.

    Raises:
        RegionError: naming the regions that truncation cut.
    """
    is_region = marked_labels <= REGION_MARK  # (B, L)
    sample, position = is_region.nonzero(as_tuple=True)  # (M * S,) each, unless the prompt was cut
    number = REGION_MARK - marked_labels[sample, position]
    if len(number) != tokens.shape[0] * tokens.shape[1]:
        kept = torch.bincount(number // tokens.shape[1], minlength=len(tokens))  # (M,)
        cut = [regions[region].name for region in (kept < tokens.shape[1]).nonzero().flatten().tolist()]
        raise RegionError(
            f"{'; '.join(cut)}: cut off, because the prompt with its images is longer than the model's maximum of "
            f"{inputs_embeds.shape[1]}; shorten the prompt or raise model_max_length (tokenizer_model_max_length)"
        )
    values = tokens.flatten(0, 1).to(inputs_embeds)[number]  # (M * S, D)
    embeds = inputs_embeds.index_put((sample, position), values)
    return embeds, marked_labels.masked_fill(is_region, IGNORE_INDEX)


def inject_rows(inputs_embeds: Tensor, marked_labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Write rows at the positions that :func:`mark_rows` made, and take these marks out of the labels.

    Args:
        inputs_embeds: (B, L, D), after LLaVA's splice.
        marked_labels: (B, L) int64, after LLaVA's splice.
        rows: (images, R, D) of the images that stand in the prompts, in their order.

    Raises:
        RegionError: naming the sample whose rows truncation cut.
    """
    is_row = marked_labels <= ROW_MARK  # (B, L)
    sample, position = is_row.nonzero(as_tuple=True)
    number = ROW_MARK - marked_labels[sample, position]
    if len(number) != rows.shape[0] * rows.shape[1]:
        kept = torch.bincount(number // rows.shape[1], minlength=len(rows))
        cut = (kept < rows.shape[1]).nonzero().flatten().tolist()
        raise RegionError(
            f"the vision aggregator's rows behind image(s) {cut} of the batch are cut off, because the prompt with its "
            f"images is longer than the model's maximum of {inputs_embeds.shape[1]}; shorten the prompt or raise "
            "model_max_length (tokenizer_model_max_length)"
        )
    values = rows.flatten(0, 1).to(inputs_embeds)[number]
    embeds = inputs_embeds.index_put((sample, position), values)
    return embeds, marked_labels.masked_fill(is_row, IGNORE_INDEX)


def pad_left(embeds: Tensor, mask: Tensor, position_ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Move the padding of a batch to the left; what is padded there already stays as it is.

    Args:
        embeds: (B, L, D).
        mask: (B, L) of 0 and 1 or bool.
        position_ids: (B, L) or None.
    """
    order = mask.long().sort(dim=1, stable=True).indices  # (B, L), padding first, the rest in its order
    moved = embeds.gather(1, order[..., None].expand_as(embeds))
    return moved, mask.gather(1, order), None if position_ids is None else position_ids.expand_as(mask).gather(1, order)
