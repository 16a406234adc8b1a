"""What the records of a file hold: counts for the plots of ``pvit-ext data show``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pvit_ext.data.image_files import plain_name
from pvit_ext.data.records import Record
from pvit_ext.data.schema import Spec, images_of, task_of
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Size

_SHORT = 40
"""Most characters of an answer that may be the name of a class."""


@dataclass
class Statistics:
    """Counts over records.

    Args:
        tasks: records by task.
        kinds: regions by kind.
        labels: objects by class, where the records keep their source.
        answers: short answers.
        words: answers by how many words they have.
        sizes: width and height of regions, as fractions of their image's.
    """

    tasks: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    _regions: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def images(self) -> int:
        """How many different images there are."""
        return len(self._regions)

    @property
    def regions(self) -> int:
        """How many different regions there are; one that several questions are about counts once."""
        return sum(map(len, self._regions.values()))

    @property
    def regions_per_image(self) -> Counter[int]:
        """Images by how many different regions they have."""
        return Counter(map(len, self._regions.values()))

    def add(self, record: Record) -> None:
        """Count a record; no image is opened."""
        self.tasks[task_of(record.data)] += 1
        self.kinds.update(record.kinds)
        answers = [turn["value"].strip() for turn in record.data["conversations"][1::2]]
        self.words.update(len(answer.split()) for answer in answers)
        self.answers.update(answer for answer in answers if len(answer) <= _SHORT)
        self.labels.update(_labels(record.data.get("source")))
        images = [plain_name(name) for name in images_of(record.data)]
        for image in images:
            self._regions[image]  # an image without regions counts too
        for spec in record.specs:
            self._regions[images[spec.image]].add(_key(spec))

    def add_sizes(self, record: Record, sizes: Sequence[Size]) -> None:
        """Measure a record's regions.

        Args:
            record: whose masks are read.
            sizes: (width, height) of each of its images.

        Raises:
            RegionError: for a region that cannot be used.
        """
        for region in record.resolve(sizes):
            x0, y0, x1, y1 = region.bounds(region.size)
            self.sizes.append(((x1 - x0) / region.size[0], (y1 - y0) / region.size[1]))


def _labels(source: Any) -> list[str]:
    """Classes of the objects that ``pvit-ext data convert`` keeps with a record; of anything else none."""
    objects = source.get("objects") if isinstance(source, dict) else None
    found = [one.get("label") for one in objects if isinstance(one, dict)] if isinstance(objects, list) else []
    return [label for label in found if isinstance(label, str)]


def _key(spec: Spec) -> int:
    """Tells a region of an image from others."""
    if isinstance(spec, PendingMask):
        return hash(spec.source if isinstance(spec.source, str) else spec.source.counts.tobytes())
    return hash((spec.kind, spec.points))
