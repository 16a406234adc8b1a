"""Shikra's kinds of files, and what is said of those that it has none of."""

import json

import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from tests.data.convert.truth import FIXTURES, box_of, changed, converted, put, read, texts_of

REC, FLICKR = "shikra/REC_ref3_train.jsonl", "shikra/CWB_flickr30k_train.jsonl"
REASONED, POINTS = "shikra/GPT4GEN_BoxCoT_train.jsonl", "shikra/pointQA_local_train.jsonl"


def test_expressions_are_captions(tmp_path):
    records, _ = converted(tmp_path, "shikra", REC, "refcoco/images")
    assert [texts_of(record)[1] for record in records] == ["brown dog", "lower cup"]
    assert [record["regions"] for record in records] == [[box_of("s1", "dog")], [box_of("s2", "cup_low")]]


def test_sentences_keep_their_phrases_objects():
    images, notes = read("shikra", FLICKR, "flickr30k_entities")
    (first,), (second,) = images["flickr30k-images/1001.jpg"], images["flickr30k-images/1002.jpg"]
    assert [(one.captions, list(one.box)) for one in first.objects] == [
        (("A brown dog",), box_of("s1", "dog")),
        (("an orange ball",), box_of("s1", "ball")),
    ]
    assert second.grounded[0].text == "Somebody next to two cups ."
    assert second.grounded[0].phrases == ((17, 25, (0, 1)),)
    assert [one.captions for one in second.objects] == [(), ()]  # the phrase is about both
    assert not notes.drops


def test_grounding_has_the_boxes_as_text_again(tmp_path):
    records, _ = converted(tmp_path, "shikra", FLICKR, "flickr30k_entities", tasks=("grounding",), box_text="pixels")
    answers = [text for record in records for text in texts_of(record)[1::2]]
    assert "A brown dog [8, 16, 32, 40] lies next to an orange ball [44, 30, 54, 40] ." in answers
    assert "Somebody next to two cups [30, 40, 40, 52]; [34, 10, 44, 22] ." in answers


@pytest.mark.parametrize(
    ("answers", "answer"),
    [("full", "The dog lies beside a ball . So the answer is the ball ."), ("short", "The ball .")],
)
def test_reasoned_answers(tmp_path, answers, answer):
    records, report = converted(tmp_path, "shikra", REASONED, "flickr30k_entities", settings={"answers": answers})
    assert texts_of(records[0]) == ["<image>\nWhat could the dog <region> play with?", answer]
    assert records[0]["regions"] == [box_of("s1", "dog")]
    captions = [text for record in records for text in texts_of(record)[1::2]]
    assert "It" not in captions
    assert report.counts["boxes clipped to their image"] == 1


@pytest.mark.parametrize(("region", "spec"), [("point", {"point": [20, 28]}), ("box", [8, 16, 32, 40])])
def test_questions_about_a_point(tmp_path, region, spec):
    records, _ = converted(tmp_path, "shikra", POINTS, "visual_genome", settings={"region": region})
    assert texts_of(records[0]) == ["<image>\n<region>\nWhich thing is here?", "dog"]
    assert records[0]["regions"] == [spec]
    assert validate(tmp_path / "out.jsonl", FIXTURES / "visual_genome", check_images=True) == []


@pytest.mark.parametrize(
    ("source", "change", "expected"),
    [
        (FLICKR, put("boxes_seq", [[0]]), "2 phrases for 1 lists of boxes"),
        (FLICKR, put("boxes_seq", [[0], [2]]), "boxes_seq names box 2 of 2, counted from 0"),
        (FLICKR, put("boxes", 0, [1, 2, 3]), "a box is a list of 4 finite numbers"),
        (REASONED, put("answer_boxes_seq", [[0]]), "2 phrases for 1 lists of boxes"),
        (REC, put("img_path", 7), "img_path is text, got 7"),
        (POINTS, lambda item: item.pop("point"), "its keys are none of a kind that is read"),
    ],
)
def test_damage_is_named(tmp_path, source, change, expected):
    with pytest.raises(SourceError, match=rf"source\.json line 1: .*{expected}"):
        converted(tmp_path, "shikra", changed(tmp_path, source, change), "flickr30k_entities")


def test_a_line_that_breaks_off(tmp_path):
    text = (FIXTURES / REC).read_text()
    (tmp_path / "source.jsonl").write_text(text[: len(text) - 40])
    with pytest.raises(SourceError, match=r"source\.jsonl line 2: not valid JSON"):
        converted(tmp_path, "shikra", tmp_path / "source.jsonl", "refcoco/images")


def test_a_size_that_is_not_the_image_s(tmp_path):
    line = json.loads((FIXTURES / REC).read_text().splitlines()[0])
    (tmp_path / "source.jsonl").write_text(json.dumps({**line, "width": 48, "height": 64}))
    with pytest.raises(SourceError, match=r"is 64x48, said to be 48x64; its sides are exchanged"):
        converted(tmp_path, "shikra", tmp_path / "source.jsonl", "refcoco/images")


def _lines(tmp_path, *lines):
    (tmp_path / "source.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "source.jsonl"


def test_which_of_some_boxes(tmp_path):
    boxes = [box_of("s1", "dog"), box_of("s1", "ball"), [40, 4, 60, 16]]
    line = {"file_path": "1.jpg", "question": "Which thing is round?", "candidates": boxes, "point": [49, 35], "id": 1}
    source = _lines(tmp_path, {**line, "answer": boxes[1]})
    (record,), _ = converted(tmp_path, "auto", source, "visual_genome")
    asked = "Which thing is round? Candidates: region 1 <region>, region 2 <region>, region 3 <region>"
    assert texts_of(record) == [f"<image>\n{asked}", "Region 2"]
    assert record["regions"] == boxes
    with pytest.raises(SourceError, match=r"source\.jsonl line 1: answer \[1, 2, 3, 4\] is none of candidates"):
        converted(tmp_path, "shikra", _lines(tmp_path, {**line, "answer": [1, 2, 3, 4]}), "visual_genome")


@pytest.mark.parametrize(
    ("answers", "answer"), [("full", "The dog lies beside the ball. So the answer is dog."), ("short", "dog")]
)
def test_chains_of_thought_of_gqa(tmp_path, answers, answer):
    chain = {
        "boxes": [box_of("s1", "dog"), box_of("s1", "ball")],
        "value": "The <ph_st>dog <ph_ed> lies beside the <ph_st>ball <ph_ed>. So the answer is dog.",
        "seq": [[0], [1]],
    }
    line = {"imageId": "1", "question": "What lies beside the ball?", "answer": "dog", "cot": chain}
    source = _lines(tmp_path, line)
    (record, *_), _ = converted(tmp_path, "auto", source, "visual_genome", settings={"answers": answers})
    assert texts_of(record) == ["<image>\nWhat lies beside the ball?", answer]
    if answers == "full":
        grounded = record["source"]["grounded"][0]
        assert [grounded["text"][start:end] for start, end, _ in grounded["phrases"]] == ["dog", "ball"]
    line["cot"]["seq"] = [[0], [7]]
    with pytest.raises(SourceError, match=r"source\.jsonl line 1: boxes_seq names box 7 of 2"):
        converted(tmp_path, "shikra", _lines(tmp_path, line), "visual_genome")


@pytest.mark.parametrize("question", ["general", "super", "object"])
def test_the_three_questions_of_point_qa_twice(tmp_path, question):
    texts = {
        "general": "How many of these?",
        "super": "How many of these animals?",
        "object": "How many of these dogs?",
    }
    line = {
        "file_path": "1.jpg", "general_question": texts["general"], "super_question": texts["super"],
        "obj_question": texts["object"], "answer": "one", "bbox": box_of("s1", "dog"), "point": [20, 28],
    }  # fmt: skip
    records, _ = converted(tmp_path, "auto", _lines(tmp_path, line), "visual_genome", settings={"question": question})
    assert texts_of(records[0]) == [f"<image>\n<region>\n{texts[question]}", "one"]
    assert records[0]["regions"] == [{"point": [20, 28]}]
