"""What a training file has of tags, looked at once before a run that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pvit_ext.data.records import Record
from pvit_ext.data.scan import BadRecord
from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.data.tags.tags import tags_of

_LONG = 5000
"""Records from which on a progress bar is shown."""


@dataclass
class TagSurvey:
    """Counts of the records of a file.

    Args:
        tagged: with one tag or more.
        empty: with an empty list: the tagger found nothing.
        missing: with an image and no tags.
        without_image: of text alone.
        vocabulary: all tags, each once, sorted.
        bad: records whose tags are none.
    """

    tagged: int = 0
    empty: int = 0
    missing: int = 0
    without_image: int = 0
    vocabulary: tuple[str, ...] = ()
    bad: list[BadRecord] = field(default_factory=list)

    @classmethod
    def of(cls, records: Sequence[Record], special: SpecialTokens | None = None) -> TagSurvey:
        """Read the tags of all records.

        Args:
            records: of the file.
            special: tokens of the model that reads them.
        """
        from tqdm import tqdm

        found, words = cls(), dict[str, str]()
        for record in tqdm(records, desc="tags", unit=" records", disable=len(records) < _LONG):
            try:
                tags = tags_of(record.data, special)
            except ValueError as error:
                found.bad.append(BadRecord(record.location, f"{record.location}: {error}"))
                continue
            if tags is None:
                found.missing += "image" in record.data
                found.without_image += "image" not in record.data
            else:
                found.tagged, found.empty = found.tagged + bool(tags), found.empty + (not tags)
                words.update((tag.casefold(), tag) for tag in tags if tag.casefold() not in words)
        found.vocabulary = tuple(sorted(words.values()))
        return found

    def __str__(self) -> str:
        counts = {
            "have tags": self.tagged,
            "have an empty list": self.empty,
            "have none and are asked without": self.missing,
            "have no image": self.without_image,
        }
        shown = ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
        return f"records: {shown}; {len(self.vocabulary):,} different tags"
