"""Open names of regions: semantic similarity (SSim) and word overlap (S-IoU) with the category, on LVIS and PACO.

Source: Osprey (arXiv 2312.10032), whose answers were sampled; these are greedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.data.region_fields import parse_region
from pvit_ext.evaluation import embedding
from pvit_ext.evaluation.converted import objects_of
from pvit_ext.evaluation.fields import text_of, texts_of
from pvit_ext.evaluation.measures import grouped, mean
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, Task, TaskOptions
from pvit_ext.files import read_text

_OSPREY, _DAM = "Osprey's paper", "DAM's paper"
_LVIS = {
    "LLaVA-1.5": (0.4895, 0.1981),
    "Ferret": (0.6378, 0.3657),
    "Osprey": (0.6524, 0.3819),
    "DAM-8B": (0.890, 0.777),
}
_PACO = {
    "LLaVA-1.5": (0.4220, 0.1456),
    "Ferret": (0.5868, 0.2596),
    "Osprey": (0.7306, 0.5272),
    "DAM-8B": (0.842, 0.732),
}
_TAKEN_OUT = {"osprey": re.compile(r"[.:,]"), "pixelrefer": re.compile(r"[.:,()_]")}


class RegionSimilarity(Task):
    """SSim and S-IoU of each answer and its category."""

    about = "names of regions: SSim and S-IoU with the category (Osprey's *_val_1k_category.json, or a converted file)"
    settings: ClassVar[dict[str, Setting]] = {
        "question": Setting("What is <region>? Answer with its category name alone.", "with <region>"),
        "clean": Setting("osprey", "what is taken out of an answer", tuple(_TAKEN_OUT)),
    }
    scoring = ("clean",)

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        embedding.check()
        if self.chosen["question"].count("<region>") != 1:
            raise ValueError(f"--set question={self.chosen['question']!r} has to hold <region>, once")
        name = options.data.name.lower()
        theirs = _LVIS if "lvis" in name and "paco" not in name else _PACO if "paco" in name else {}
        self.published = [
            Published(system, metric, value, _DAM if system.startswith("DAM") else _OSPREY)
            for system, values in theirs.items()
            for metric, value in zip(("SSim", "S-IoU"), values, strict=True)
        ]

    def load(self) -> Iterator[Sample]:
        """A sample for each object; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: for a file of neither kind.
        """
        items = _items(read_text(self.options.data))
        yield from self._converted() if items is None else self._osprey(items)

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The cleaned answer, and its S-IoU."""
        said = self._clean(answer)
        return Judged(said, word_overlap(said, sample.extra["class"]))

    def score(self, results: Sequence[Result]) -> Score:
        """Both measures over objects; the cosine of each is its score."""
        said = embedding.embed([str(one.judged.said) for one in results])  # (N, 384)
        true = embedding.embed([str(one.sample.extra["class"]) for one in results])
        each = [float(value) for value in (said * true).sum(1)]
        metrics = {"SSim": mean(each), "S-IoU": mean([one.judged.score for one in results])}
        kinds = grouped(results, lambda one: one.sample.extra.get("kind"))
        notes = [
            f"SSim is the cosine of embeddings by {embedding.MODEL}; S-IoU is common words over all, lower-cased.",
            f"What follows a colon counts, cleaned as in {self.chosen['clean']}. The question is ours.",
        ]
        return Score("SSim", metrics, {"kind (S-IoU)": kinds} if len(kinds) > 1 else {}, notes=notes, each=each)

    def _clean(self, answer: str) -> str:
        text = answer.split(":")[1] if ":" in answer else answer  # as Osprey's script: a third part is cut off
        text = _TAKEN_OUT[self.chosen["clean"]].sub(" ", text)
        return " ".join((text.lower() if self.chosen["clean"] == "pixelrefer" else text).split())

    def _osprey(self, items: list[Any]) -> Iterator[Sample]:
        for number, item in enumerate(items):
            location = f"{self.options.data.name} item {number}"
            try:
                shapes = [one["segmentation"] for one in item["annotations"]]
                pairs = list(zip(texts_of(item, "categories"), shapes, strict=True))
                image = path_of(self.options.image_folder, text_of(item, "file_name"))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{location}: expected file_name, categories and as many segmentations ({error!r})"
                ) from error
            for index, (name, shape) in enumerate(pairs):
                region = {"polygon": shape} if isinstance(shape, list) else {"mask": shape}
                spec = parse_region(region, f"{location}, object {index}", None)
                yield self._sample(f"{number}.{index}", (image,), name, spec, location, None)

    def _converted(self) -> Iterator[Sample]:
        for found in objects_of(self.options.data, self.options.image_folder):
            if found.label is None:
                self.leave_out("an object without a label")
                continue
            yield self._sample(found.id, found.images, found.label, found.spec, found.location, found.folder)

    def _sample(
        self, id: str, images: tuple[str, ...], name: str, spec: Any, location: str, folder: str | None
    ) -> Sample:
        kind = "part" if ":" in name else "object"
        extra = {"class": " ".join(re.sub("[_:]", " ", name).split()), "kind": kind}
        return Sample(id, images, self.chosen["question"], name, (spec,), folder, location=location, extra=extra)


def word_overlap(first: str, second: str) -> float:
    """Common words over all words of two texts, lower-cased; 0..1."""
    words = [set(text.lower().split()) for text in (first, second)]
    return len(words[0] & words[1]) / max(len(words[0] | words[1]), 1)


def _items(text: str) -> list[Any] | None:
    """Osprey's list; None for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and "categories" in (found or [{}])[0] else None
