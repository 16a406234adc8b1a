"""Rows of the vision aggregator behind each image of a prompt, in models of transformers'.

The processor has written their positions (:mod:`~pvit_ext.hosts.transformers.row_positions`); a pass of the tower makes
the rows, and the embedding layer writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pvit_ext.adapters.lion.aggregator import VisionAggregator
from pvit_ext.hosts.transformers.facts import host_facts
from pvit_ext.hosts.transformers.injection import align_right
from pvit_ext.prompt import ROW_PLACEHOLDER
from pvit_ext.regions.region import RegionError

IMAGE_ROWS = "image_rows"
"""Key of a model's ``forward``: rows (B, K, D) of its prompts, right-aligned."""


@dataclass
class Collected:
    """Rows that a pass of the tower makes for the prompts of a batch.

    Args:
        ends: (images,) int64, on the CPU: image tokens of the batch up to the end of each image.
        rows: (R, D) each, in the order of the images.
    """

    ends: Tensor
    rows: list[Tensor] = field(default_factory=list)


_collected: ContextVar[Collected | None] = ContextVar("collected", default=None)


def appending_part(outer: Any) -> VisionAggregator | None:
    """The aggregator of a model, where its rows are appended."""
    part: VisionAggregator | None = getattr(outer, "region_aggregator", None)
    return part if part is not None and part.appended else None


def collected() -> Collected | None:
    """What is being collected; None where nobody asks for rows."""
    return _collected.get()


@contextmanager
def collecting(config: Any, ids: Tensor | None) -> Iterator[Collected]:
    """Collect rows of the prompts' images inside the block.

    Args:
        config: of the model.
        ids: (B, L) of the prompts.

    Raises:
        RegionError: for prompts without positions for rows.
    """
    if ids is None:
        raise RegionError("the vision aggregator's rows have positions in input_ids: pass these, not inputs_embeds")
    is_row = ids.flatten() == row_id(config)
    begins = is_row & ~pad(is_row, (1, 0))[:-1]  # no prompt begins with a row
    if not bool(begins.any()):
        raise RegionError(
            f"images were given, but the prompts have no position for the vision aggregator's rows (id "
            f"{row_id(config)}): make them with the processor that attach was given, or AutoProcessor, from texts that "
            "show them; frames of a video that a model takes as images (InternVL) go with lion_aggregator='added' alone"
        )
    found = Collected((ids.flatten() == config.image_token_id).cumsum(0)[begins].cpu())
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)


def aligned(config: Any, ids: Tensor, rows: Tensor) -> Tensor:
    """Rows (R, D) of a batch -> (B, K, D), right-aligned.

    Args:
        config: of the model.
        ids: (B, L) of the prompts.
        rows: of all images.

    Raises:
        RegionError: for another number of positions.
    """
    counts: list[int] = (ids == row_id(config)).sum(1).tolist()
    if sum(counts) != len(rows):
        raise RegionError(
            f"the prompts have {counts} positions for the vision aggregator's rows (id {row_id(config)}), their images "
            f"{len(rows)} rows: pass all that one call of the processor returns, and cut nothing off"
        )
    return align_right(rows[:, None], counts)


def refuse_unbound(config: Any, ids: Tensor | None) -> None:
    """Refuse positions of rows in prompts (B, L) without images; one id is the decoding loop, which has none.

    Raises:
        RegionError: naming the sample.
    """
    if ids is None or ids.shape[-1] < 2 or torch.compiler.is_compiling():
        return
    for sample, count in enumerate((ids == row_id(config)).sum(1).tolist()):
        if count:
            raise RegionError(
                f"sample {sample}: the prompt has {count} position(s) for the vision aggregator's rows (id "
                f"{row_id(config)}), but no images were given: pass pixel_values, as the processor returns them"
            )


def row_id(config: Any) -> int:
    """The id at positions of rows, by the config of a model that appends them.

    Raises:
        ValueError: for one that was attached without its processor.
    """
    if (found := host_facts(config).row_token_id) is None:
        raise ValueError(
            f"the model appends rows of its vision aggregator, but its config names no id of {ROW_PLACEHOLDER}: attach "
            "it with its processor, pvit_ext.attach(model, config, processor=processor)"
        )
    return found
