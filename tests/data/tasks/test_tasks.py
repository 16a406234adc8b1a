"""Each task: what it asks of known annotations, and what it leaves unasked because the answer is not certain."""

import re

import pytest

from pvit_ext.data.convert.annotation import AnnotatedImage, Grounded
from pvit_ext.data.tasks import (
    attribute,
    counting,
    discrimination,
    grounding,
    identification,
    multi_turn,
    relation,
    small_objects,
)
from pvit_ext.data.tasks.base import TASKS
from pvit_ext.data.tasks.box_text import BoxText
from pvit_ext.data.tasks.options import TaskOptions
from pvit_ext.data.tasks.records import records_of
from tests.data.tasks.scene import BALL, CLASSES, DOG, LEFT, RIGHT, SCENE, SIZE, regions_of, thing, turns_of


def _matches(templates, text):
    """Whether a text is one of some templates, whatever its fields hold."""
    fields = (re.sub(r"\\\{\w+\\\}", "(?s:.+)", re.escape(one)) for one in templates)
    return any(re.fullmatch(pattern, text) for pattern in fields)


def test_identification():
    turns = turns_of("identification")
    assert [(answer, regions) for _, answer, regions in turns] == [
        (one.label, [one.region]) for one in (DOG, BALL, LEFT, RIGHT)
    ]
    assert all(question in identification.NAME for question, *_ in turns)


def test_a_wrong_label_is_corrected_and_a_right_one_confirmed():
    checks = [turn for seed in range(40) for turn in turns_of("identification", negatives=True, seed=seed)[1::2]]
    for question, answer, (region,) in checks:
        own = next(one.label for one in (DOG, BALL, LEFT, RIGHT) if one.region == region)
        asked = next(label for label in CLASSES if label in question)
        assert own in answer
        assert answer.startswith("Yes" if asked == own else "No")
    rights = sum(answer.startswith("Yes") for _, answer, _ in checks)
    assert 0.35 < rights / len(checks) < 0.65
    assert any("horse" in question for question, *_ in checks)
    assert any("cup" in question and answer.startswith("No") for question, answer, _ in checks)


def test_without_a_closed_list_no_label_is_called_wrong():
    assert len(turns_of("identification", classes=None, negatives=True)) == 4
    assert not turns_of("counting", classes=None, negatives=True)


def test_description():
    assert [answer for _, answer, _ in turns_of("description")] == [one.captions[0] for one in (DOG, BALL, LEFT, RIGHT)]
    checks = [turn for seed in range(30) for turn in turns_of("description", negatives=True, seed=seed)[1::2]]
    for question, answer, (region,) in checks:
        own = next(one.captions[0] for one in (DOG, BALL, LEFT, RIGHT) if one.region == region)
        assert answer.startswith("Yes") == (own in question)
        assert own in question or own in answer
    assert 0.3 < sum(answer.startswith("Yes") for _, answer, _ in checks) / len(checks) < 0.7


def test_a_caption_that_might_fit_is_no_negative():
    inside = thing(20, 110, 10, "", ("an ear",))
    alike = thing(300, 200, 10, "", ("another hound",))
    image = AnnotatedImage("a.jpg", SIZE, "8", (DOG, inside, alike))
    questions = [turn for seed in range(20) for turn in turns_of("description", image, negatives=True, seed=seed)]
    about_dog = [question for question, _, regions in questions if regions == [DOG.region]]
    assert all("ear" not in question and "another hound" not in question for question in about_dog)


def test_grounded_caption_of_a_source_and_by_labels():
    sentence = Grounded("A dog by a ball", ((0, 5, (0,)), (9, 15, (1,))))
    image = AnnotatedImage("a.jpg", SIZE, "9", SCENE.objects, grounded=(sentence,))
    ((question, answer, regions),) = turns_of("grounded_caption", image)
    assert (answer, regions) == ("A dog by a ball", regions_of(DOG, BALL))
    assert "<region> and <region>" in question
    ((_, answer, regions),) = turns_of("grounded_caption")
    assert (answer, regions) == ("A dog looks at a ball.", regions_of(DOG, BALL))
    assert not turns_of("grounded_caption", AnnotatedImage("a.jpg", SIZE, "9", (DOG,), ("Two dogs, a hotdog.",)))
    assert not turns_of("grounded_caption", AnnotatedImage("a.jpg", SIZE, "9", (LEFT, RIGHT), ("A cup of tea.",)))


def test_discrimination_by_place_size_colour_and_caption():
    said = {}
    for seed in range(60):
        for question, answer, regions in turns_of("discrimination", seed=seed):
            assert _matches(discrimination.WHICH, question)
            winner = discrimination.ORDINALS.index(re.search("first|second|third", answer)[0])
            fact = next(
                word
                for word in ("left", "right", "highest", "lowest", "most", "least", "white", "blue", "tea", "mug")
                if word in question
            )
            said.setdefault(fact, set()).add("left" if regions[winner] == LEFT.region else "right")
    assert said == {
        "left": {"left"}, "right": {"right"}, "highest": {"left"}, "lowest": {"right"},
        "least": {"left"}, "most": {"right"},
        "white": {"left"}, "blue": {"right"}, "tea": {"left"}, "mug": {"right"},
    }  # fmt: skip


def test_discrimination_leaves_out_what_is_not_clear():
    close = [thing(100, 20, 40, "cup"), thing(110, 25, 41, "cup")]
    assert not [
        turn
        for seed in range(9)
        for turn in turns_of("discrimination", AnnotatedImage("a.jpg", SIZE, "1", tuple(close)), seed=seed)
    ]
    bare = AnnotatedImage("a.jpg", SIZE, "1", (LEFT, thing(300, 20, 60, "cup", (), ("large",))))
    questions = [
        question for seed in range(20) for question, *_ in turns_of("discrimination", bare, seed=seed, negatives=True)
    ]
    assert questions
    assert not [question for question in questions if "white" in question or "tea" in question]


def test_a_colour_that_none_has():
    last = [turns_of("discrimination", seed=seed, negatives=True)[-1] for seed in range(20)]
    for question, answer, regions in last:
        assert answer in discrimination.NONE
        assert not re.search("white|blue", question)
        assert not question.startswith("One of")
        assert len(regions) == 2


def test_relation_and_its_opposite():
    turns = turns_of("relation")
    assert [turn[1:] for turn in turns] == [
        ("dog to the left of ball", regions_of(DOG, BALL)),
        ("ball near dog", regions_of(BALL, DOG)),
    ]
    assert all(question in relation.ASK for question, *_ in turns)
    checks = [turns_of("relation", seed=seed, negatives=True)[1] for seed in range(30)]
    for question, answer, regions in checks:
        assert regions == regions_of(DOG, BALL)
        assert answer.startswith("Yes" if "left" in question else "No")
        assert "left" in answer
    assert len({answer[:2] for _, answer, _ in checks}) == 2
    assert len(turns_of("relation", negatives=True)) == 3  # nobody knows the opposite of near


def test_attribute():
    assert [turn[1:] for turn in turns_of("attribute")][:2] == [("brown, wet", [DOG.region]), ("red", [BALL.region])]
    flagged = AnnotatedImage("a.jpg", SIZE, "1", (thing(1, 1, 9, "cup", (), ("difficult",)),))
    assert not turns_of("attribute", flagged)
    for seed in range(20):
        question, answer, _ = turns_of("attribute", seed=seed, negatives=True)[1]
        assert answer.startswith("Yes") == ("brown" in question)
        assert "brown" in answer
        assert any(colour in question for colour in attribute.COLOURS)


def test_counting():
    for seed in range(20):
        for question, answer, regions in turns_of("counting", seed=seed):
            if _matches(counting.AMONG, question) and len(regions) > 1:
                label = next(one for one in CLASSES if one in question)
                assert int(answer) == sum(one.label == label for one in SCENE.objects if one.region in regions)
            elif regions:
                assert int(answer) == (2 if regions[0] in regions_of(LEFT, RIGHT) else 1)
            else:
                assert int(answer) == (2 if "cup" in question else 1)
    assert not turns_of("counting", complete=False)
    question, answer, _ = turns_of("counting", negatives=True)[-1]
    assert answer == "0"
    assert re.search("cat|horse", question)


def test_small_objects():
    speck = thing(5, 5, 2, "bird")
    image = AnnotatedImage("a.jpg", SIZE, "1", (LEFT, thing(90, 90, 5, "bee"), speck, DOG))
    turns = turns_of("small_objects", image)
    assert [turn[1] for turn in turns] == ["cup of tea", "bee"]
    assert turns[0][0] in small_objects.CAPTION
    assert turns[1][0] in small_objects.LABEL


def test_multi_turn():
    (first,) = list(records_of(SCENE, multi_turn.MultiTurn(), TaskOptions("mine"), CLASSES, True))[:1]
    assert len(first["conversations"]) >= 6
    assert len({str(region) for region in first["regions"]}) >= 2
    assert first["conversations"][2]["value"].count("<region>") >= 1
    assert not turns_of("multi_turn", AnnotatedImage("a.jpg", SIZE, "1", (DOG,)))
    assert len(turns_of("multi_turn", turns=3)) == 3


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("fractions", "[0.025, 0.333, 0.225, 0.600]"),
        ("thousandths", "[25, 333, 225, 600]"),
        ("pixels", "[10, 100, 90, 180]"),
    ],
)
def test_grounding(convention, expected):
    options = TaskOptions("mine", box_text=BoxText[convention.upper()])
    (record,) = records_of(SCENE, grounding.Grounding(), options, CLASSES, True)
    assert record["box_text"] == BoxText[convention.upper()].value
    assert "regions" not in record
    assert record["conversations"][1]["value"] == expected
    assert record["conversations"][5]["value"].count("[") == 2  # both cups


def test_grounding_asks_labels_only_where_all_are_marked():
    assert [answer.count("[") for _, answer, _ in turns_of("grounding", complete=False)] == [1] * 4
    twice = AnnotatedImage("a.jpg", SIZE, "1", (LEFT, thing(9, 9, 9, "", LEFT.captions)))
    assert not turns_of("grounding", twice, complete=False)
    assert not turns_of("grounding", AnnotatedImage("a.jpg", None, "1", (LEFT,)))
    question, answer, _ = turns_of("grounding", negatives=True)[-1]
    assert re.search("cat|horse", question)
    assert answer in grounding.ABSENT


def test_grounding_of_a_sentence():
    sentence = Grounded("A dog by cups.", ((0, 5, (0,)), (9, 13, (3, 2))))
    image = AnnotatedImage("a.jpg", SIZE, "9", SCENE.objects, grounded=(sentence,))
    answer = turns_of("grounding", image, complete=False, box_text=BoxText.PIXELS)[-1][1]
    assert answer == "A dog [10, 100, 90, 180] by cups [20, 20, 40, 40]; [300, 20, 360, 80]."


def test_given():
    records = list(records_of(SCENE, TASKS.require("given")(), TaskOptions("mine")))
    assert [one["id"] for one in records] == ["mine/7/given/talk", "mine/7/given#1"]
    assert [turn["value"] for turn in records[1]["conversations"]][1::2] == ["Yes.", "A dog looks at a ball."]
