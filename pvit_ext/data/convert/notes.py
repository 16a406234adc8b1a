"""What a conversion drops and why, and which items are bad; nothing is dropped without an entry here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

CLIPPED = "boxes clipped to their image"
"""The count of boxes that reach beyond it."""
GUESSED = "images found by the last part of their name alone"
"""What they are counted as."""


class Reason(Enum):
    """Why something is not in the output; the value is what the report calls it."""

    CROWD = "crowd: a region of many things, not one"
    DEGENERATE = "degenerate: no width, no height, or inverted"
    OUTSIDE = "outside its image"
    DUPLICATE = "said twice"
    HIDDEN = "marked as not visible"
    NO_NAME = "no label and no caption"
    NO_QUESTION = "gives no question for any of the tasks"
    NOT_A_REGION = "of a kind that is no region"
    NO_IMAGE = "its image is not in the image folder"
    NO_LABELS = "image without labels"
    SIZE_DIFFERS = "the image has another size than its annotations say"
    BROKEN_IMAGE = "its image cannot be read"
    CANCELLED = "cancelled, or another annotator's"
    HELD_OUT = "an image that evaluation needs, left out so that nothing is measured on what was learned"
    OTHER_SPLIT = "not in the split"
    INCOMPLETE = "something it needs is missing in the source"
    BOXES_ASKED = "its answer needs boxes as text, records answer in words"
    BAD = "bad: damaged, or against the format's rules"


class BadItem(ValueError):
    """An item of a source that breaks the format's rules; its text says what was found and what is expected.

    Args:
        problem: what was found, and what is expected.
        location: file, line and id, where the reader does not know them.
    """

    def __init__(self, problem: str, location: str = "") -> None:
        super().__init__(problem)
        self.location = location


@dataclass(frozen=True)
class Drop:
    """One thing that is not in the output.

    Args:
        reason: why.
        location: file, line or id.
        detail: what was found.
        count: of objects that go with it.
    """

    reason: Reason
    location: str
    detail: str = ""
    count: int = 1


def is_end(path: str, of: str) -> bool:
    """Whether a path is another, or its last parts."""
    return f"/{of}".endswith(f"/{path}")


@dataclass
class Notes:
    """What was noted while a part of the source was read; parts add up, in their order.

    Args:
        drops: everything that was dropped.
        counts: of what was kept and changed, such as ``images``, ``objects`` and ``clipped to the image``.
        has: of what the source has, such as ``relations``.
        met: photographs that evaluation needs, which an image is.
        taken: images of the folder, each with the names that the source has for it.
    """

    drops: list[Drop] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    has: Counter[str] = field(default_factory=Counter)
    met: set[str] = field(default_factory=set)
    taken: dict[str, set[str]] = field(default_factory=dict)

    def take_image(self, name: str, asked: str) -> None:
        """Note that an image is used.

        Args:
            name: in the image folder.
            asked: what the source calls it; the name in the folder ends otherwise where only the last part was found.
        """
        self.taken.setdefault(name, set()).add(asked)
        if not is_end(asked, name):
            self.count(GUESSED)

    def drop(self, reason: Reason, location: str, detail: str = "", count: int = 1) -> None:
        """Note something that is not in the output."""
        self.drops.append(Drop(reason, location, detail, count))

    @property
    def problems(self) -> int:
        """How many bad items were noted."""
        return sum(drop.reason is Reason.BAD for drop in self.drops)

    def bad(self, location: str, problem: str) -> None:
        """Note a bad item."""
        self.drop(Reason.BAD, location, problem)

    def count(self, what: str, number: int = 1) -> None:
        """Count something that was kept."""
        self.counts[what] += number
