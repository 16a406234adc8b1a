"""Answers of an evaluation, by sample; see :mod:`pvit_ext.inference.answer_file`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.evaluation.sample import Prediction
from pvit_ext.inference.answer_file import AnswerFile

NAME = "predictions.jsonl"


class Predictions(AnswerFile):
    """The answers under an output folder; as a context manager it is used by one run at a time.

    Args:
        folder: made if it is missing.
        depends: what the answers depend on, in plain JSON types.
        rank: of this process.
    """

    made_by: ClassVar[str] = "pvit-ext eval"
    other: ClassVar[str] = "name another --out, or remove that folder"

    def __init__(self, folder: Path, depends: Mapping[str, Any], rank: int = 0) -> None:
        super().__init__(folder / NAME, depends, rank)

    def read(self) -> dict[str, Prediction]:
        """The answers that are there, by sample id.

        Raises:
            ValueError: when they depend on something else.
        """
        lines = self.lines().items()
        return {id: Prediction(line["answer"], tuple(line.get("areas", ()))) for id, line in lines}

    def add(self, answers: Iterable[tuple[str, Prediction]]) -> None:
        """Keep answers; they are on the disk when this returns."""
        self.append({"id": id, "answer": one.answer, "areas": list(one.areas)} for id, one in answers)
