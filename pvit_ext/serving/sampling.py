"""Sampling for rows of one batch that differ in temperature, nucleus and seed, or take the likeliest token."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from pvit_ext.serving.answer import Settings

_LEAST = 1e-6
"""A lower temperature takes the likeliest token: scores divided by 1e-38 are infinite, and none of them is largest."""


class RowSampling(LogitsProcessor):
    """Makes greedy decoding draw samples, each row by its own settings and its own generator.

    The largest of ``log p + g``, ``g`` drawn from the standard Gumbel distribution, is a sample from ``p`` (Gumbel,
    1954; Maddison et al., arXiv 1411.0030). So a row draws the same tokens alone and in any batch, which
    ``do_sample=True`` with its one generator for the batch does not.

    Args:
        settings: of the B rows.
    """

    def __init__(self, settings: Sequence[Settings]) -> None:
        self._rows = {number: _Draws(one) for number, one in enumerate(settings) if one.temperature >= _LEAST}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, V) whose largest are the tokens drawn; rows at temperature 0, or next to it, as they were."""
        if not self._rows:
            return scores
        drawn = scores.float()
        for number, draws in self._rows.items():
            drawn[number] = draws(input_ids[number : number + 1], scores[number : number + 1].float())
        return drawn


class _Draws:
    """One row's warpers and generator."""

    def __init__(self, settings: Settings) -> None:
        self._warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(settings.temperature))]
        if settings.top_p < 1:
            self._warpers.append(TopPLogitsWarper(float(settings.top_p)))
        seed = int.from_bytes(os.urandom(8), "big") >> 1 if settings.seed is None else settings.seed
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(1, L) and (1, V) -> (V,)."""
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        waits = torch.empty(scores.shape[-1]).exponential_(generator=self._generator)  # -log of it is Gumbel's
        return scores[0] - waits.log().to(scores.device)
