"""What a training file has of tags, looked at once before a run that reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pvit_ext.data.records import Records
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
    def of(cls, records: Records, special: SpecialTokens | None = None) -> TagSurvey:
        """Read the tags of all records that have any; the others are counted by the index of their file.

        Args:
            records: of the file.
            special: tokens of the model that reads them.
        """
        from tqdm import tqdm

        found, words, tagged = cls(), dict[str, str](), records.tagged
        found.missing = int((~tagged & (records.words > 0)).sum())
        found.without_image = int((~tagged & (records.words <= 0)).sum())
        numbers = tagged.nonzero()[0].tolist()
        for number in tqdm(numbers, desc="tags", unit=" records", disable=len(numbers) < _LONG):
            record = records[number]
            try:
                tags = tags_of(record.data, special)
            except ValueError as error:
                found.bad.append(BadRecord(record.location, f"{record.location}: {error}"))
                continue
            assert tags is not None  # null is no tags, and not in the index
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
