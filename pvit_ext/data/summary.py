"""What a data file holds: how many records, images and regions, and of which kinds."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pvit_ext.data.image_files import plain_name


@dataclass
class Summary:
    """Counts of the good records of a data file.

    Args:
        records: how many.
        with_regions: records with one region or more.
        counted: different images, of records that were counted before.
        kinds: regions by kind, such as ``{"box": 3, "mask": 1}``.
    """

    records: int = 0
    with_regions: int = 0
    counted: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    _names: array[int] = field(default_factory=lambda: array("q"), init=False, repr=False, compare=False)
    """A hash of each mention of an image: the names of a large file would take ten times the memory."""

    @property
    def images(self) -> int:
        """How many different images; one that several records share counts once."""
        return self.counted + (len(np.unique(np.frombuffer(self._names, np.int64))) if self._names else 0)

    @property
    def regions(self) -> int:
        """How many regions, of all kinds."""
        return sum(self.kinds.values())

    def add(self, images: Sequence[str], kinds: Sequence[str]) -> None:
        """Count one record with images of these names and a region of each kind named."""
        self.kinds.update(kinds)
        self.records += 1
        self._names.extend(hash(plain_name(name)) for name in images)
        self.with_regions += bool(kinds)

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON, which ``Summary(**...)`` reads."""
        counts = {"records": self.records, "with_regions": self.with_regions, "counted": self.images}
        return counts | {"kinds": dict(self.kinds)}

    def __post_init__(self) -> None:
        self.kinds = Counter(self.kinds)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        return (
            f"{counted(self.records, 'record')}, {self.with_regions:,} of them with regions; "
            f"{counted(self.images, 'image')}; {counted(self.regions, 'region')}" + (f" ({kinds})" if kinds else "")
        )


def counted(number: float, thing: str) -> str:
    """``1 image``, ``2,000 images``: a number of things, the plural with an s."""
    text = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{text} {thing}{'' if number == 1 else 's'}"
