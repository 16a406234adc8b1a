"""Labels, captions and predicates of any text: no task breaks on them, and every record trains."""

import pytest

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Grounded, Relation
from pvit_ext.data.convert.texts import problem_of
from pvit_ext.data.schema import parse_record
from pvit_ext.data.tasks.base import TASKS
from pvit_ext.data.tasks.options import TaskOptions
from pvit_ext.data.tasks.records import records_of

WORDS = (
    "(", "a|b", "[x]", "\\d", "{label}", "{fact}", "", "\u017f", "\u0130", 'dog"s', "\u72ac", "a" * 500, "<b>", "%s",
    "None", "\u2028x",
)  # fmt: skip


def _thing(label, box, captions=(), attributes=()):
    return Annotation(list(box), box, label, captions, attributes)


OBJECTS = tuple(
    _thing(word, (at * 10, 5, at * 10 + 8, 30), (f"caption {word}",) if at % 2 else (), ("red",))
    for at, word in enumerate(WORDS)
) + tuple(_thing("cup", (at * 10, 50, at * 10 + 1.5, 51.5)) for at in range(39))
GROUNDED = Grounded("abc", ((0, 1, (0,)), (1, 2, ()))), Grounded("abc", ((0, 3, (0,)), (1, 2, (1,))))


@pytest.mark.parametrize("size", [(400, 300), None])
@pytest.mark.parametrize("name", TASKS.names())
def test_hostile_words(name, size):
    captions = (*filter(None, WORDS), "a dog \u017f \u0130 i s cup")
    relations = Relation(0, "above", 1), Relation(2, "{predicate}", 2)
    for grounded in (GROUNDED, ()):
        image = AnnotatedImage("a.jpg", size, "x", OBJECTS, captions, relations, grounded)
        options = TaskOptions("mine", negatives=True, box_jitter=0.1 if size else 0.0)
        for record in records_of(image, TASKS.require(name)(), options, WORDS, True):
            assert problem_of(record) is None
            parse_record(record, None)
