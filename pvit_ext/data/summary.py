"""What a data file holds: how many records, images and regions, and of which kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Summary:
    """Counts of the good records of a data file.

    Args:
        records: how many.
        with_regions: records with one region or more.
        images: mentions of an image; one that several records share counts for each.
        kinds: regions by kind, such as ``{"box": 3, "mask": 1}``.
    """

    records: int = 0
    with_regions: int = 0
    images: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def regions(self) -> int:
        """How many regions, of all kinds."""
        return sum(self.kinds.values())

    def add(self, images: int, kinds: Sequence[str]) -> None:
        """Count one record with so many images and a region of each kind named."""
        self.kinds.update(kinds)
        self.records += 1
        self.images += images
        self.with_regions += bool(kinds)

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON, which ``Summary(**...)`` reads."""
        return {**vars(self), "kinds": dict(self.kinds)}

    def __post_init__(self) -> None:
        self.kinds = Counter(self.kinds)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        return (
            f"{self.records:,} records, {self.with_regions:,} of them with regions; {self.images:,} images; "
            f"{self.regions:,} regions" + (f" ({kinds})" if kinds else "")
        )
