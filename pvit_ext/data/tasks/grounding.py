"""Where something is: its box as text in the answer. The record's ``box_text`` names the convention.

Asked are labels, where every object of the label is marked; captions of objects, which stand for one object alone; and
grounded sentences, whose phrases get their boxes. With negatives one question is about a class that the image does not
hold. The boxes in answers are the source's own, whatever ``--box-jitter`` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Grounded, Size
from pvit_ext.data.tasks.absent import absent_class
from pvit_ext.data.tasks.base import Context, Task, Turn, fill
from pvit_ext.data.tasks.layout import boxes_of

QUESTIONS = (
    "Where is {text}? Answer with a box.",
    "Give the box of: {text}.",
    "Find {text} and give its box.",
    "Locate {text}. Answer with its box.",
    "Which box holds this: {text}?",
    "Point out {text} by its box.",
    "In which box do you see {text}?",
    "Mark {text}; the answer is a box.",
)
ALL = (
    "Give the boxes of all objects of the kind {text}.",
    "Where are all objects named {text}? Answer with boxes.",
    "Find every {text}; answer with boxes.",
    "Locate each object that is {text} by its box.",
    "Box each {text} in the image.",
    "List the boxes of every object labelled {text}.",
)
CAPTION = (
    "Write a sentence about the image, with the boxes of what it names.",
    "Caption the image, and put the box behind each thing that you name.",
    "Describe the image in a sentence with boxes.",
    "What does the image show? Give the boxes of what you mention.",
    "Say in a sentence what is going on, and where: with boxes.",
    "Give a caption in which boxes stand behind the things.",
)
ABSENT = ("There is none in the image.", "The image shows none.", "None is to be seen in the image.")
_MOST = 8
"""Most boxes in an answer."""


class Grounding(Task):
    """See the module."""

    name = "grounding"
    about = "where something is, with boxes as text in the answer"
    needs = (
        "the images' sizes, and boxes of objects with captions, of a closed list of classes of which every object is "
        "marked, or of sentences' phrases"
    )
    heeds = ("negatives", "box_text")

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """Questions for labels, for captions, and for sentences."""
        if image.size is None:
            return
        yield from _labels(image, context, image.size)
        yield from _captions(image, context, image.size)
        for number, sentence in enumerate(image.grounded):
            if text := _with_boxes(sentence, image, context, image.size):
                yield Turn(context.choice.of(CAPTION, "sentence", number), text)
        if context.negatives and (label := absent_class(image, context, "where")):
            asked = fill(context.choice.of(ALL, "absent"), text=label)
            yield Turn(asked, context.choice.of(ABSENT, "absent"))

    def fields(self, context: Context) -> Mapping[str, Any]:
        """The convention of the boxes."""
        return {"box_text": context.box_text.value}


def _labels(image: AnnotatedImage, context: Context, size: Size) -> Iterator[Turn]:
    counts = Counter(item.label for item in image.objects if item.label) if context.complete else {}
    for label, count in counts.items():
        indices = [index for index, item in enumerate(image.objects) if item.label == label]
        answer = _written(image, indices, context, size)
        if answer and count <= _MOST:
            yield Turn(fill(context.choice.of(QUESTIONS if count == 1 else ALL, "where", label), text=label), answer)


def _captions(image: AnnotatedImage, context: Context, size: Size) -> Iterator[Turn]:
    said = Counter(text for item in image.objects for text in item.captions)
    for index, item in enumerate(image.objects):
        for number, text in enumerate(item.captions):
            answer = _written(image, [index], context, size)
            if answer and said[text] == 1:
                asked = context.choice.of(QUESTIONS, "where", index, number)
                yield Turn(fill(asked, text=f'"{text}"'), answer)


def _with_boxes(sentence: Grounded, image: AnnotatedImage, context: Context, size: Size) -> str:
    """A sentence with boxes behind its phrases; empty where a phrase has none, or too many."""
    parts, done = [], 0
    for _, end, indices in sentence.phrases:
        boxes = _written(image, indices, context, size)
        if not boxes or len(indices) > _MOST or end < done:
            return ""
        parts += [sentence.text[done:end], f" {boxes}"]
        done = end
    return "".join([*parts, sentence.text[done:]]) if parts else ""


def _written(image: AnnotatedImage, indices: Sequence[int], context: Context, size: Size) -> str:
    """Boxes from left to right; empty where an object has none."""
    boxes = sorted(boxes_of(image, indices))
    return "; ".join(context.box_text.write(box, size) for box in boxes) if len(boxes) == len(indices) else ""
