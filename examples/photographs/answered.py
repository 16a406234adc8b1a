"""The answers of an evaluation beside the boxes that they are about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from examples.photographs.data import Box, Photograph
from pvit_ext.evaluation.answers import normalise
from pvit_ext.evaluation.stored import read_answers


class Answered(NamedTuple):
    """An answer about one box."""

    photograph: Photograph
    box: Box
    kind: str
    answer: str

    @property
    def is_right(self) -> bool:
        """Whether it names the kind, as ``pvit-ext eval own`` compares them."""
        return normalise(self.answer) == normalise(self.kind)


def read_answered(photographs: Sequence[Photograph], predictions: Path) -> Iterator[Answered]:
    """One for each box.

    Args:
        photographs: that were asked about, in that order, box by box.
        predictions: of the evaluation.
    """
    answers = read_answers(predictions)
    boxes = ((one, box, kind) for one in photographs for box, kind in zip(one.boxes, one.kinds, strict=True))
    for number, (photograph, box, kind) in enumerate(boxes):
        yield Answered(photograph, box, kind, answers[f"{number}.0"].answer)
