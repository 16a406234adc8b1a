"""A sentence about the image, asked for by the regions that it names.

The source's grounded sentences come first. Else a caption of the image is taken that holds the labels of objects, each
of which is the only one of its label.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage, Grounded
from pvit_ext.data.tasks.base import Context, Task, Turn, fill, listed

ABOUT = (
    "Write a sentence about the image that names {regions}.",
    "Caption the image; mention {regions}.",
    "Tell in one sentence what is going on with {regions}.",
    "Describe the image by way of {regions}.",
    "What does the image show? Start from {regions}.",
    "Put {regions} into one sentence about the image.",
    "Which sentence tells about {regions}?",
    "Sum up the image, with {regions} in it.",
)
MOST_REGIONS = 8


class GroundedCaption(Task):
    """See the module."""

    name = "grounded_caption"
    about = "a sentence about the image that names the regions in the question"
    needs = "sentences whose phrases are objects, or captions of images that hold labels of objects"

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """A question for each sentence of one to eight objects."""
        for number, sentence in enumerate(grounded(image)):
            indices = tuple(dict.fromkeys(index for _, _, these in sentence.phrases for index in these))
            if 0 < len(indices) <= MOST_REGIONS:
                asked = fill(context.choice.of(ABOUT, number), regions=listed(len(indices), "and"))
                yield Turn(asked, sentence.text, indices)


def grounded(image: AnnotatedImage) -> list[Grounded]:
    """The source's grounded sentences; else its captions, with the labels in them as phrases."""
    if image.grounded:
        return list(image.grounded)
    counts = Counter(item.label for item in image.objects)
    alone = {item.label: index for index, item in enumerate(image.objects) if item.label and counts[item.label] == 1}
    found = [Grounded(text, tuple(_phrases(text, alone))) for text in image.captions] if alone else []
    return [one for one in found if one.phrases]


def _phrases(text: str, alone: dict[str, int]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Labels in a text, the longest where one holds another; a plural is another thing than the one object."""
    names = "|".join(re.escape(label) for label in sorted(alone, key=len, reverse=True))
    by_name = {label.lower(): index for label, index in alone.items()}
    for match in re.finditer(rf"\b(?:{names})\b", text, re.IGNORECASE):
        if (index := by_name.get(match[0].lower())) is not None:  # letters outside ASCII fold in more ways than one
            yield match.start(), match.end(), (index,)
