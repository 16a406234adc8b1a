"""How two regions stand to each other, by the source's relations.

With negatives also whether they stand so, half of them the opposite, where there is one: above and below.
"""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage, Relation
from pvit_ext.data.tasks.base import Context, Task, Turn
from pvit_ext.data.tasks.check import Check

ASK = (
    "What is the relation of <region> to <region>?",
    "How does <region> relate to <region>?",
    "What connects <region> with <region>?",
    "In which relation does <region> stand to <region>?",
    "Look at <region> and <region>. What is the first to the second?",
    "Say how <region> and <region> belong together.",
    "Which relation holds between <region> and <region>, in this order?",
    "What can you say about <region> with respect to <region>?",
)
CHECK = Check(
    "predicate",
    ask=(
        "Is <region> {predicate} <region>?",
        "Would you say that <region> is {predicate} <region>?",
        "Is it right that <region> is {predicate} <region>?",
        "Somebody says that <region> is {predicate} <region>. Is that so?",
        "Can it be seen that <region> is {predicate} <region>?",
        "True or not: <region> is {predicate} <region>?",
    ),
    right=("Yes, it is {predicate} it.", "Yes, {predicate} it."),
    wrong=("No, it is {predicate} it.", "No, {predicate} it."),
)
_PAIRS = (
    ("above", "below"), ("over", "under"), ("in front of", "behind"), ("left of", "right of"),
    ("to the left of", "to the right of"), ("inside", "outside"), ("on top of", "underneath"),
)  # fmt: skip
OPPOSITE = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}


class RelationTask(Task):
    """See the module."""

    name = "relation"
    about = "how two regions stand to each other"
    needs = "relations between objects"
    version = 2
    heeds = ("negatives",)

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """A question for each relation."""
        for number, one in enumerate(image.relations):
            ends = one.subject, one.object
            yield Turn(context.choice.of(ASK, "relation", number), sentence(image, one), ends)
            if context.negatives and one.predicate in OPPOSITE:
                yield CHECK.turn(one.predicate, OPPOSITE[one.predicate], ends, context, number)


def sentence(image: AnnotatedImage, relation: Relation) -> str:
    """The predicate between the labels, ``dog next to ball``; alone where one has none."""
    names = image.objects[relation.subject].label, image.objects[relation.object].label
    return f"{names[0]} {relation.predicate} {names[1]}" if all(names) else relation.predicate
