"""The default task: what is asked about, in which order, with which regions."""

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Conversation, Question
from pvit_ext.data.schema import parse_record
from pvit_ext.data.tasks.basic import Basic
from pvit_ext.data.tasks.choice import pick
from pvit_ext.data.tasks.description import DESCRIBE
from pvit_ext.data.tasks.identification import NAME
from pvit_ext.data.tasks.options import TaskOptions
from pvit_ext.data.tasks.records import records_of

SIZE = (40, 30)
DOG = Annotation([1, 2, 10, 12], (1, 2, 10, 12), "dog")
CAT = Annotation({"polygon": [[5, 5, 9, 5, 9, 9]]}, (5, 5, 9, 9), "cat", captions=("a small cat", "my cat"))
BARE = Annotation([1, 1, 4, 4], (1, 1, 4, 4))
MASK = {"mask": {"size": [30, 40], "counts": [31, 2, 28, 2, 1137]}}


def _records(options=None, **fields):
    records = list(records_of(AnnotatedImage("a.jpg", SIZE, "7", **fields), Basic(), options or TaskOptions("mine")))
    for record in records:
        parse_record(record, None)
    return records


def _texts(record):
    return [turn["value"] for turn in record["conversations"]]


def test_names_captions_and_questions():
    question = Question("Is the dog <region> near?", "Yes.", (0,), "q1")
    (record,) = _records(objects=(DOG, CAT, BARE), questions=(question,), captions=("A park.",))
    questions, answers = _texts(record)[::2], _texts(record)[1::2]
    assert questions[0] == "<image>\nIs the dog <region> near?"
    assert answers == ["Yes.", "dog", "a small cat", "my cat"]
    assert questions[1] in NAME
    assert questions[2] in DESCRIBE
    assert record["regions"] == [DOG.region, DOG.region, CAT.region, CAT.region]
    assert [one["region"] for one in record["source"]["objects"]] == [0, 2, BARE.region]
    assert record["id"] == "mine/7"


def test_conversations_come_over_as_they_are():
    turns = ("What is <region>?", "A dog beside <region>.")
    first, second = _records(
        conversations=(Conversation(turns, (DOG.region, MASK)), Conversation(("Look <image> here.", "Yes."), (), "b"))
    )
    assert _texts(first) == ["<image>\nWhat is <region>?", "A dog beside <region>."]
    assert first["regions"] == [DOG.region, MASK]
    assert (second["id"], _texts(second)[0]) == ("mine/7/b", "Look <image> here.")
    assert "source" in first
    assert "source" not in second


def test_boxes_instead_of_shapes_also_in_conversations():
    options = TaskOptions("mine", boxes=True)
    (record,) = _records(options, conversations=(Conversation(("<region>, <region>", "Yes."), (DOG.region, MASK)),))
    assert record["regions"] == [DOG.region, [1, 1, 3, 3]]
    (record,) = _records(options, objects=(CAT,))
    assert record["regions"] == [[5, 5, 9, 9]] * 2
    assert record["source"]["objects"][0]["region"] == CAT.region


def test_an_image_of_captions_or_of_nothing_to_ask():
    (record,) = _records(captions=("A park.", "Trees."))
    assert _texts(record)[1] in ("A park.", "Trees.")
    assert _records(objects=(BARE,)) == []


def test_several_images():
    (record,) = records_of(
        AnnotatedImage(("a.jpg", "b.jpg"), SIZE, "7", conversations=(Conversation(("Same?", "No.")),)),
        Basic(),
        TaskOptions("mine"),
    )
    assert record["image"] == ["a.jpg", "b.jpg"]
    assert _texts(record)[0] == "<image>\n<image>\nSame?"
    parse_record(record, None)


def test_choices_are_the_same_everywhere():
    assert [pick("abcdef", 0, "coco", number) for number in range(8)] == list("fbdebcce")
    assert {pick("abc", seed, "x") for seed in range(20)} == set("abc")
