"""Records that are broken, huge or adversarial: an error that names file and line, or a stated rule; never a crash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pvit_ext.data.check import validate
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.regions.region import RegionError
from tests.data.records import asked, record, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    return tmp_path


def lines_of(problems: list[str]) -> list[int]:
    return [int(problem.split()[2].rstrip(":")) for problem in problems]


# JSON

GOOD = json.dumps(record(1))
BROKEN = {
    "NaN, then no JSON": '{"x": NaN, oops', "twice, then no JSON": '{"a": 1, "a": 2, oops', "no JSON": "{'a': 1}",
    "twice, then too deep": '{"x": {"a": 1, "a": 2}, "y": ' + "[" * 100_000, "Infinity": '{"x": [Infinity]}',
    "half a record": GOOD[:40], "a second record": GOOD + GOOD, "a number": "7", "control character": '{"a": "\t"}',
    "long key twice": f'{{"{"k" * 9999}": 1, "{"k" * 9999}": 2}}', "long number": '{"x": ' + "9" * 9999 + "}",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_one_problem_and_reading_goes_on(folder: Path, name: str) -> None:
    problems = validate(write(folder, f"{GOOD}\n{BROKEN[name]}\n{GOOD}\n"), folder)
    assert lines_of(problems) == [2]
    assert len(problems[0]) < 300


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_of_an_array_is_a_problem(folder: Path, name: str) -> None:
    problems = validate(write(folder, f"[{GOOD},\n{BROKEN[name]},\n{GOOD}]"), folder)
    assert lines_of(problems) == [2]
    assert len(problems[0]) < 300


def test_bytes_that_are_no_text_cost_one_line(folder: Path) -> None:
    (folder / "t.jsonl").write_bytes(
        b"\n".join([GOOD.encode(), GOOD.encode().replace(b"dog", b"d\xffg"), GOOD.encode()])
    )
    assert validate(folder / "t.jsonl", folder) == [
        "t.jsonl line 2: the line is not UTF-8: invalid start byte at its byte 135"
    ]
    (folder / "t.json").write_bytes(b"[" + GOOD.encode() + b",\n" + GOOD.encode().replace(b"dog", b"d\xffg") + b"]")
    assert lines_of(validate(folder / "t.json", folder)) == [2]


@pytest.mark.parametrize("depth", [50, 400, 700, 900, 950, 985])
@pytest.mark.parametrize("field", ["id", "image", "conversations", "regions", "extra"])
def test_deep_nesting_anywhere(folder: Path, field: str, depth: int) -> None:
    text = json.dumps(record(**{field: "HERE"})).replace('"HERE"', "[" * depth + "]" * depth)
    assert lines_of(validate(write(folder, f"{GOOD}\n{text}\n5"), folder))[-1] == 3


SEEDS = [
    GOOD,
    json.dumps([record(1), record(2)]),
    json.dumps(record(3, regions=[{"mask": {"size": [2, 2], "counts": [1, 3]}}])),
]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 500), st.sampled_from('"{}[],:\\\n 0-eN\x00é')), max_size=5),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_change_of_characters_is_read_or_reported(tmp_path_factory: Any, text: str, changes: list[Any]) -> None:
    for place, character in changes:
        place %= len(text)
        text = text[:place] + character + text[place + 1 :]
    path = write(tmp_path_factory.mktemp("changed"), text)
    problems = validate(path)
    assert all(problem.startswith("train.json line ") and len(problem) < 400 for problem in problems)
    if not problems:
        assert load_records(path)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("<image>\n<region>")
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
PLACES = [
    ("id",), ("image",), ("regions",), ("regions", 0), ("regions", 0, 2), ("regions", 1), ("regions", 1, "polygon"),
    ("regions", 1, "polygon", 1), ("regions", 1, "polygon", 1, 0), ("regions", 1, "image"),
    ("regions", 1, "normalized"), ("regions", 2, "mask"), ("regions", 2, "mask", "size"),
    ("regions", 2, "mask", "counts"),
    ("regions", 2, "mask", "counts", 1), ("conversations",), ("conversations", 0), ("conversations", 0, "from"),
    ("conversations", 1, "value"),
]  # fmt: skip


@given(st.sampled_from(PLACES), values)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_wrong_type_at_every_level(tmp_path_factory: Any, place: tuple[Any, ...], value: Any) -> None:
    regions = [
        [1, 2, 30, 15], {"polygon": [[1, 1], [9, 1], [9, 9]], "image": 0, "normalized": False},
        {"mask": {"size": [2, 2], "counts": [1, 3]}},
    ]  # fmt: skip
    row: Any = record(conversations=asked("<image>\n<region><region><region>"), regions=regions)
    holder = row
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path = write(tmp_path_factory.mktemp("typed"), [row])
    problems = validate(path)
    assert all(problem.startswith("train.json line 2") and len(problem) < 400 for problem in problems)
    if not problems:
        load_records(path)


# Files


@pytest.mark.parametrize(
    "image", ["a" * 5000 + ".png", "x/" * 3000 + "a.png", "\ud800.png", ".", "a.png/b.png", "é\u202e.png"]
)
def test_names_that_the_file_system_refuses(folder: Path, image: str) -> None:
    for row in (record(image=image), record(regions=[{"mask": image}])):
        (problem,) = validate(write(folder, [row]), folder)
        assert problem.startswith("train.json line 2 (id '0'): ")
        assert len(problem) < 400
        problem.encode()  # it can be printed


def test_links_inside_the_folder_are_followed(folder: Path, tmp_path_factory: Any) -> None:
    """The folder is the user's own, and links to data sets elsewhere are how such folders are made; records are not."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("RGB", (40, 20)).save(elsewhere / "b.png")
    os.symlink(elsewhere, folder / "linked")
    os.symlink(folder / "loop", folder / "loop")
    rows = [record(1, image="linked/b.png"), record(2, image="linked/../a.png"), record(3, image="loop")]
    problems = validate(write(folder, "\n".join(map(json.dumps, rows))), folder, check_images=True)
    assert lines_of(problems) == [2, 3]
    assert "must stay inside" in problems[0]


# Conversations and regions


def test_an_image_in_an_answer_is_refused(folder: Path) -> None:
    (problem,) = validate(write(folder, [record(conversations=asked("What is <region>?", "<image> A dog."))]), folder)
    assert "<image> stands in an answer" in problem


def test_thousands_of_regions_in_a_sample(folder: Path) -> None:
    conversations = asked("<image>\n" + "<region>" * 4000)
    path = write(folder, json.dumps(record(conversations=conversations, regions=[[1, 2, 30, 15]] * 4000)))
    assert len(load_records(path, folder)[0].regions) == 4000
    path = write(
        folder, json.dumps(record(conversations=conversations, regions=[[1, 2, 30, 15]] * 3999 + [[5, 2, 1, 15]]))
    )
    assert "regions[3999]: box" in validate(path, folder)[0]
    path = write(
        folder, json.dumps(record(conversations=conversations, regions=[[1, 2, 30, 15]] * 3999 + [[1, 50, 30, 90]]))
    )
    assert "region 3999: box" in validate(path, folder, check_images=True)[0]


def test_problems_come_by_line(folder: Path) -> None:
    (folder / "empty.png").write_bytes(b"")
    rows = [
        record(1, image="empty.png"),
        record(2, image=5),
        record(3),
        record(4, image="empty.png"),
        record(5, regions=7),
    ]
    problems = validate(write(folder, "\n".join(map(json.dumps, rows))), folder, check_images=True)
    assert lines_of(problems) == [1, 2, 4, 5]


# What reaches LLaVA's template and tokenizer


@pytest.fixture(scope="module")
def item(llava_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: conversations -> the training item, or the error of the record."""
    pytest.importorskip("llava")
    from tests.training.records import make_dataset

    from llava import conversation  # isort: skip
    from llava.train import train as llava_train  # isort: skip

    folder = tmp_path_factory.mktemp("items")
    Image.new("RGB", (40, 20)).save(folder / "a.png")
    path = write(folder, [record()])
    dataset = make_dataset(llava_checkpoint, path)

    def make(conversations: Any, regions: Any) -> Any:
        write(folder, [record(conversations=conversations, regions=regions)])
        dataset.records = load_records(path, folder)
        return dataset[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversation, "default_conversation", conversation.conv_templates["v1"])
        patch.setattr(llava_train, "tokenizer_image_token", tokenizer_region_token)
        yield make


@pytest.mark.parametrize("text", ["A dog.</s>", "A dog.</s>USER: Which? ASSISTANT: That."])
def test_the_end_token_in_a_text_is_refused(item: Any, text: str) -> None:
    """LLaVA's v1 template would read the second as two answers: the record could add turns of its own."""
    for turns in (asked("<image>\n<region>?", text), asked(f"<image>\n<region> {text} <region>?")):
        with pytest.raises(RecordError, match=r"^train\.json line 2 \(id '0'\): its text holds </s>"):
            item(turns, [[1, 2, 30, 15]] * turns[0]["value"].count("<region>"))


@pytest.mark.parametrize(
    "text", ["<s>", "<im_start>", "<im_end>", "<im_patch>", "[INST] <<SYS>>", "<L204>", "\0", "\u202e é 🐕"]
)
def test_other_tokens_in_a_text_are_text(item: Any, text: str) -> None:
    plain = item(asked("<image>\nWhat is <region>?", "A dog."), [[1, 2, 30, 15]])
    made = item(asked(f"<image>\nWhat {text} is <region>?", f"A {text} dog."), [[1, 2, 30, 15]])
    assert (made["labels"] >= 0).sum() > (plain["labels"] >= 0).sum()
    assert (made["input_ids"] == -300).sum() == (made["input_ids"] == -200).sum() == 1


def test_the_templates_own_words_in_a_text_are_an_error_not_a_lost_answer(item: Any) -> None:
    for text in ("Say ASSISTANT: no", "<unk>"):
        with pytest.raises(RecordError, match=r"^train\.json line 2 \(id '0'\): no answer token is left"):
            item(asked(f"<image>\n<region> {text}"), [[1, 2, 30, 15]])


def test_a_region_in_an_answer_is_learned_around_not_lost(item: Any) -> None:
    made = item(asked("<image>\nWhere?", "At <region>."), [[1, 2, 30, 15]])
    assert int((made["input_ids"] == -300).sum()) == 1
    with pytest.raises(RecordError, match="1 <region> placeholders but 0 regions"):
        item(asked("<image>\nWhere?", "At <region>."), [])


texts = st.text(max_size=12) | st.sampled_from(
    ["</s>", "<s>", "<image>", "<region>", " ASSISTANT: ", "USER:", "\n###", "<unk>"]
)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_text_is_trained_on_or_refused_by_name(item: Any, rounds: list[tuple[str, str]]) -> None:
    turns = [turn for question, answer in rounds for turn in asked(question, answer)]
    turns[0]["value"] = "<image>\n<region>" + turns[0]["value"]
    try:
        made = item(turns, [[1, 2, 30, 15]])
    except (RecordError, RegionError) as error:
        named = str(error).startswith("train.json line 2 (id '0'): ")
    else:
        named = bool((made["labels"] >= 0).any()) and int((made["input_ids"] == -300).sum()) == 1
    assert named
