"""An image in words: what lies under each patch as the sum of the words for it.

A large language model finds what a text says about any position, because it has read a lot. A tiny one learns to look
things up from scenes that are told so, without any pixels; then the projector is trained to tell the vision tower's
patches in the same words, instead of LLaVA's first stage.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from examples.compare.told import MARKS, NUMBERS
from examples.compare.tower import CELLS
from examples.quickstart.language import thing
from examples.quickstart.world import COLOURS
from pvit_ext.encoders.overlay import COLORS


class PatchWords:
    """The words for patches, by id.

    Attributes:
        things: (digits, colours).
        columns: (numbers,) how a box begins at this x.
        rows: (numbers,) how it ends at this y; so no token is both.
        marks: (colours, marks).
    """

    def __init__(self, tokenizer: Any) -> None:
        def ids(words: list[str]) -> Tensor:
            found = tokenizer.convert_tokens_to_ids(words)
            assert tokenizer.unk_token_id not in found, words
            return torch.tensor(found)

        self.things = torch.stack([ids([f"\u2581{thing(c, value)}" for c in COLOURS]) for value in range(10)])
        self.columns, self.rows = ids([f"[{n}" for n in NUMBERS]), ids([f"{n}]" for n in NUMBERS])
        self.marks = torch.stack([ids([f"{color}-{mark}" for mark in MARKS]) for color in COLORS])

    def thing(self, patches: Tensor) -> Tensor:
        """The word for the digit under a patch, (...) int64; patches (..., 2 + colours), on a digit."""
        return self.things[patches[..., 0], patches[..., 1]]

    def position(self, embedding: Tensor) -> Tensor:
        """The words for the position of each cell, row by row, summed: (P, C)."""
        at = torch.arange(CELLS**2)
        return _near(at % CELLS) @ embedding[self.columns] + _near(at // CELLS) @ embedding[self.rows]

    def mark(self, embedding: Tensor) -> Tensor:
        """The word for a mark of each colour, of any kind: (colours, C)."""
        return embedding[self.marks].mean(1)

    def embed(self, embedding: Tensor, patches: Tensor, position: Tensor, mark: Tensor) -> Tensor:
        """All words for patches, summed.

        Args:
            embedding: (V, C) of the words.
            patches: (..., P, 2 + colours) int64, see :func:`~examples.compare.tower.pixel_targets`.
            position: (P, C), of :meth:`position` for these patches.
            mark: of :meth:`mark`.

        Returns:
            (..., P, C)
        """
        on_digit = (patches[..., :1] >= 0).float()
        things = embedding[self.thing(patches.clamp(min=0))] * on_digit  # (..., P, C)
        return things + position + patches[..., 2:].float() @ mark


def _near(cells: Tensor) -> Tensor:
    """How much of each number is in the middle of a cell of 0..1: (N,) int64 -> (N, numbers), of one or two numbers."""
    tenths = (cells + 0.5) / CELLS * (len(NUMBERS) - 1)
    return (1 - (tenths[:, None] - torch.arange(len(NUMBERS))).abs()).clamp(min=0)  # (N, numbers)
