"""How many objects of a label there are: in the image, or among some regions.

Only where each label is one of a list of classes and every object of them is marked: not of RefCOCO, where others than
those of its sentences are left out, nor of an image with crowds or damaged boxes. With negatives one question is about
a class that the image does not hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.tasks.absent import absent_class
from pvit_ext.data.tasks.base import Context, Task, Turn, fill, listed

NAMED = (
    "How many objects of the kind {label} does the image show?",
    "Count the objects that are {label}.",
    "What is the number of objects named {label} in the image?",
    "How often does {label} occur in the image?",
    "Give the count of {label} in this image.",
    "Number of objects labelled {label}?",
    "How many times do you see {label} here?",
    "Count: {label}.",
)
LIKE = (
    "How many objects of the same kind as <region> does the image show, itself included?",
    "Count the objects that are of one kind with <region>, and count it too.",
    "<region> is one of how many of its kind in the image?",
    "With <region>, how many objects of this kind are there?",
    "How often does the kind of thing in <region> occur in the image, this one included?",
    "What is the number of objects in the image that are what <region> is, it included?",
)
AMONG = (
    "How many of {regions} are of the kind {label}?",
    "Count those of {regions} that show {label}.",
    "Among {regions}, how many are {label}?",
    "Of {regions}, how many would you name {label}?",
    "Look at {regions}. How many of them are {label}?",
    "How often is {label} the right name among {regions}?",
)
_MOST = 6
"""Most regions in a question."""


class Counting(Task):
    """See the module."""

    name = "counting"
    about = "how many objects of a label there are"
    needs = "a closed list of classes of which every object is marked (detection data such as COCO, VOC, YOLO)"
    heeds = ("negatives",)

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """A question for each label, and one among some regions of several labels."""
        if not context.complete:
            return
        choice = context.choice
        counts = Counter(item.label for item in image.objects if item.label)
        for label, count in counts.items():
            if choice.chance("named", label):
                yield Turn(fill(choice.of(NAMED, label), label=label), str(count))
            else:
                indices = [index for index, item in enumerate(image.objects) if item.label == label]
                yield Turn(choice.of(LIKE, label), str(count), (choice.of(indices, "one", label),))
        if len(counts) > 1 and sum(counts.values()) > 2:
            yield _among(image, context)
        if context.negatives and (absent := absent_class(image, context, "count")):
            yield Turn(fill(choice.of(NAMED, "absent"), label=absent), "0")


def _among(image: AnnotatedImage, context: Context) -> Turn:
    choice, labelled = context.choice, [index for index, item in enumerate(image.objects) if item.label]
    indices = choice.order(labelled, "among")[:_MOST]
    labels = [image.objects[index].label for index in indices]
    label = choice.of(sorted(set(labels)), "label among")
    question = fill(choice.of(AMONG, "asked among"), regions=listed(len(indices), "and"), label=label)
    return Turn(question, str(labels.count(label)), tuple(indices))
