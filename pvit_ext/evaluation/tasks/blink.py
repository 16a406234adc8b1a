"""BLINK: choices about up to four images, in fourteen tasks of perception.

Source: arXiv 2404.12390. Questions with their choices are the benchmark's own prompts; answers of its test split are
not published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.evaluation.answers import chosen_letter
from pvit_ext.evaluation.measures import balanced, confusion, grouped, mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Task
from pvit_ext.files import atomic_write

_LETTERS = "ABCDEFGH"
_ANSWER = re.compile(r"\(([A-H])\)")
_COLUMNS = ("idx", "question", "sub_task", "choices", "answer", "prompt")
_IMAGES = tuple(f"image_{number}" for number in range(1, 5))


class Blink(Task):
    """Mean accuracy of the tasks."""

    about = "BLINK: choices about one to four images (a Parquet file, or the folder with those of its tasks)"
    settings: ClassVar[dict[str, Setting]] = {
        "split": Setting("val", "of a folder: files SPLIT-*.parquet"),
        "suffix": Setting("Answer with the option's letter from the given choices directly.", "behind the choices"),
    }
    max_new_tokens = 16

    def files(self) -> list[Path]:
        """The file, or those of a folder's split."""
        data = self.options.data
        return sorted(data.rglob(f"{self.chosen['split']}-*.parquet")) if data.is_dir() else [data]

    def load(self) -> Iterator[Sample]:
        """A sample for each question whose answer is known; its images are written to the image folder.

        Raises:
            ValueError: naming a file that is none of BLINK's, or without pyarrow.
        """
        if not self.files():
            raise ValueError(f"{self.options.data} has no {self.chosen['split']}-*.parquet in it: give BLINK's folder")
        for path in self.files():
            for number, row in enumerate(_rows(path), 1):
                try:
                    sample = self._sample(f"{path.name} row {number}", row)
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{path} row {number} is none of BLINK's ({error!r})") from error
                if sample is None:
                    self.leave_out("its answer is not published")
                else:
                    yield sample

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The choice that the answer is, or the one letter that stands in it."""
        said = chosen_letter(answer, sample.extra["choices"])
        return Judged(said, float(said == sample.reference))

    def score(self, results: Sequence[Result]) -> Score:
        """The mean of the tasks' accuracies, as BLINK has it, and the accuracy over all questions."""
        tasks = grouped(results, lambda one: str(one.sample.extra["task"]))
        metrics = {"mean of tasks": balanced(tasks), "accuracy": mean_score(results)}
        letters = sorted({letter for one in results for letter in one.sample.extra["choices"]})
        notes = ["An answer is right if it is the choice, or holds its letter and no other."]
        return Score("mean of tasks", metrics, {"task": tasks}, confusion(results, letters), notes)

    def _sample(self, location: str, row: Mapping[str, Any]) -> Sample | None:
        if (found := _ANSWER.fullmatch(row["answer"])) is None:
            return None
        choices = dict(zip(_LETTERS, row["choices"], strict=False))
        images = [row[name] for name in _IMAGES if row.get(name) is not None]
        if found[1] not in choices or not images or len(row["choices"]) > len(_LETTERS):
            raise ValueError(f"{len(images)} images, {len(row['choices'])} choices, answer {row['answer']}")
        paths = [self._unpacked(f"{row['idx']}_{number}", one) for number, one in enumerate(images, 1)]
        return Sample(
            id=row["idx"],
            images=tuple(paths),
            question="\n".join(filter(None, [row["prompt"], self.chosen["suffix"]])),
            reference=found[1],
            location=f"{location} ({row['idx']})",
            extra={"task": row["sub_task"], "choices": choices, "class": found[1]},
        )

    def _unpacked(self, stem: str, image: Mapping[str, Any]) -> str:
        """The path of an image; it is written where it is not there yet, or another one is."""
        path = Path(self.options.image_folder, stem + (Path(image.get("path") or "").suffix or ".jpg"))
        if not path.is_file() or path.read_bytes() != image["bytes"]:
            with atomic_write(path) as temporary:
                temporary.write_bytes(image["bytes"])
        return str(path)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.lib
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(f'Parquet files take pyarrow ({error}): pip install "pvit-ext[parquet]"') from error
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.lib.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
    if missing := set(_COLUMNS) - set(file.schema_arrow.names):
        raise ValueError(f"{path} lacks the columns {', '.join(sorted(missing))}: give BLINK's files")
    for batch in file.iter_batches(batch_size=16):
        yield from batch.to_pylist()
