"""Annotations whose right questions and answers are known, and a task's turns about them."""

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Conversation, Question, Relation
from pvit_ext.data.convert.texts import problem_of
from pvit_ext.data.schema import parse_record
from pvit_ext.data.tasks.base import TASKS
from pvit_ext.data.tasks.options import TaskOptions
from pvit_ext.data.tasks.records import records_of

SIZE = (400, 300)


def thing(x, y, side, label="", captions=(), attributes=()):
    box = (x, y, x + side, y + side)
    return Annotation(list(box), box, label, tuple(captions), tuple(attributes))


DOG = thing(10, 100, 80, "dog", ("a brown hound",), ("brown", "wet"))
BALL = thing(150, 200, 40, "ball", ("something round",), ("red",))
LEFT = thing(20, 20, 20, "cup", ("cup of tea",), ("white",))
RIGHT = thing(300, 20, 60, "cup", ("mug with a handle",), ("blue",))
SCENE = AnnotatedImage(
    "a.jpg",
    SIZE,
    "7",
    (DOG, BALL, LEFT, RIGHT),
    ("A dog looks at a ball.",),
    (Relation(0, "to the left of", 1), Relation(1, "near", 0)),
    questions=(Question("Is <region> wet?", "Yes.", (0,)),),
    conversations=(Conversation(("Hello?", "Good day."), (), "talk"),),
)
CLASSES = ("dog", "ball", "cup", "cat", "horse")


def turns_of(name, image=SCENE, classes=CLASSES, complete=True, **options):
    """(question, answer, regions) of a task's turns, each record of which is one that trains."""
    found = []
    for record in records_of(image, TASKS.require(name)(), TaskOptions("mine", **options), classes, complete):
        assert problem_of(record) is None
        parse_record(record, None)
        assert record["task"] == name
        regions = iter(record.get("regions", []))
        texts = [turn["value"].removeprefix("<image>\n") for turn in record["conversations"]]
        for question, answer in zip(texts[::2], texts[1::2], strict=True):
            found.append((question, answer, [next(regions) for _ in range((question + answer).count("<region>"))]))
    return found


def regions_of(*objects):
    return [one.region for one in objects]
