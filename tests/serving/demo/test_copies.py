"""A conversation as a command, which asks the same, and as a record, which is saved once."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext import RegionConfig
from pvit_ext.cli import build_parser
from pvit_ext.data.records import load_records
from pvit_ext.inference.questions import read_questions
from pvit_ext.plugins import take_plugins
from pvit_ext.serving.demo.copies import command_of
from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.saving import append_record
from pvit_ext.serving.demo.service import Service
from pvit_ext.serving.demo.turns import read_talk
from tests.serving.demo.served import BOX, SIZE, made, opened, talk, turn

PARTS = {"polygon": [[[1, 2], [9, 2.25], [4, 8]], [[20, 2], [30, 2], [24, 8]]]}
MASK = {"mask": {"size": [30, 40], "counts": [0, 300, 900]}}


def test_copies_are_what_is_sent(service: Service, key: str) -> None:
    shapes = [BOX, {"point": [3.5, 4]}, {"polygon": [[1, 2], [9, 2.25], [4, 8]]}, {"scribble": [[1, 1], [5, 9]]}, MASK]
    question = "it's " + "<region>" * 5
    found = service.copies(request=talk(key, turn(question, *shapes)))
    args = build_parser().parse_args(shlex.split(found["command"])[1:])
    assert (args.model, args.base, args.system) == ("my model", "a base", "Don't.")
    assert (args.image, args.question) == ("a b.png", question)
    assert found["note"].endswith("save mask-5.png there first (the button PNG of the region).")
    assert args.regions == [
        ("box", [1.25, 2, 20, 25.5]), ("point", [3.5, 4]), ("polygon", [(1, 2), (9, 2.25), (4, 8)]),
        ("scribble", [(1, 1), (5, 9)]), ("mask", "mask-5.png"),
    ]  # fmt: skip
    assert json.loads(found["record"])["regions"] == shapes
    found = service.copies(request=talk(key, turn("<region> <region>?", BOX, MASK, numbers=[4, 3])))
    args = build_parser().parse_args(shlex.split(found["command"])[1:])
    assert args.regions[1] == ("mask", "mask-3.png")  # the page saves it by its number
    assert service.mask_png(key=key, shape=MASK)["url"].startswith("data:image/png")


@pytest.mark.parametrize(
    "turns",
    [
        [turn("It's <region>?", BOX, answer="„Ja“, $HOME."), turn("And <region>?", MASK)],
        [turn("<region>?", PARTS)],
    ],
)
def test_what_flags_cannot_say_is_a_file(turns: list[Any], service: Service, key: str, tmp_path: Path) -> None:
    found = service.copies(request=talk(key, *turns))
    write, ask, _ = found["command"].splitlines()
    subprocess.run(["bash", "-c", write], cwd=tmp_path, check=True)
    args = build_parser().parse_args(shlex.split(ask)[1:])
    assert (args.model, args.system) == ("my model", "Don't.")
    Image.new("RGB", SIZE).save(tmp_path / "a b.png")
    ((question,), bad) = read_questions(tmp_path / args.file, tmp_path)
    want = read_talk(talk(key, *turns), service._pictures, Hints()).query()
    got = question.query()
    assert bad == []
    assert (got.text, list(got.history)) == (want.text, want.history)
    assert [one.to_mask(SIZE).tolist() for one in got.regions] == [one.to_mask(SIZE).tolist() for one in want.regions]
    assert "the first line writes the question to a file" in found["note"]


@pytest.mark.parametrize("question", ["-h", "--", "--model", "- what is <region>?", "--plugin x"])
def test_words_that_look_like_options_are_none(question: str, tmp_path: Path) -> None:
    lion = made(tmp_path, Hints(tags=True))
    key, regions = opened(lion, "-rf.png"), [{"box": [-0.00001, 2, 20, 25.5]}] * question.count("<region>")
    command = lion.copies(request={**talk(key, turn(question, *regions)), "tags": ["-v", "dog"]})["command"]
    args = build_parser().parse_args(take_plugins(shlex.split(command)[1:]))
    assert (args.image, args.question, args.tags) == ("-rf.png", question, ["-v", "dog"])
    assert args.regions == [("box", one["box"]) for one in regions]


def test_a_file_of_answers_is_of_one_picture_and_one_model(service: Service, key: str) -> None:
    turns = turn("Who?", answer="Me."), turn("What is <region>?", BOX)
    command = service._setting.command
    asked = [(key, command), (opened(service, "a b.png", colour=9), command), (key, [*command, "--device", "cpu"])]
    found = [command_of(read_talk(talk(one, *turns), service._pictures, Hints()), words)[0] for one, words in asked]
    last = [one.splitlines()[-1] for one in found]
    assert len(set(last)) == 3  # ask keeps what it finds there
    assert found[0] == service.copies(request=talk(key, *turns))["command"]
    ids = [json.loads(shlex.split(one.splitlines()[0])[2])["id"] for one in found]
    assert [f"cat answer-{one}.jsonl" for one in ids] == last


def test_hints_are_those_of_the_models_config() -> None:
    config = RegionConfig("osprey", lion_adapters=8, lion_tasks="region,image", lion_routing="question")
    assert Hints.of(config) == Hints(("region", "image"), by_question=True)
    assert Hints.of(RegionConfig("osprey", lion_tags="plain")) == Hints(tags=True)
    assert Hints.of(RegionConfig("osprey")) == Hints.of(None) == Hints()


def test_task_and_tags_are_sent_copied_and_saved(service: Service, key: str, tmp_path: Path) -> None:
    hints = {"task": "region", "tags": ["red car", "dog"]}
    (tmp_path / "lion").mkdir()
    lion = made(tmp_path / "lion", Hints(("image", "region"), tags=True))
    asked = {**talk(opened(lion, "a b.png"), turn("Where?", answer="There.")), **hints}
    query = read_talk(asked, lion._pictures, lion._setting.hints).query()
    assert (query.task, query.tags) == ("region", ("red car", "dog"))
    found = lion.copies(request=asked)
    args = build_parser().parse_args(shlex.split(found["command"])[1:])
    assert (args.task, args.tags) == ("region", ["red car", "dog"])
    lion.save(request=asked)
    (record,) = load_records(tmp_path / "lion" / "records" / "records.jsonl", tmp_path / "lion" / "records" / "images")
    assert (record.data["lion_task"], record.data["tags"]) == ("region", ["red car", "dog"])
    assert "the tasks image, region, got 'box'" in lion.copies(request={**asked, "task": "box"})["error"]
    assert "no adapters by task" in service.copies(request={**talk(key, turn("Hm?")), "task": "region"})["error"]
    assert "reads no tags" in service.copies(request={**talk(key, turn("Hm?")), "tags": ["dog"]})["error"]


def test_ids_are_unique_and_stay(service: Service, key: str, tmp_path: Path) -> None:
    file = tmp_path / "records" / "records.jsonl"
    first, other = (talk(key, turn(text, answer="Yes.")) for text in ("One?", "Two?"))
    told = [service.save(request=one) for one in (first, other, first)]
    assert [(one["line"], one["before"]) for one in told] == [(1, False), (2, False), (1, True)]
    again = talk(opened(service, "another name.png"), turn("One?", answer="Yes."))
    assert service.save(request=again)["before"]  # the same picture and words
    assert service.save(request=talk(key, turn("One?", answer="No.")))["line"] == 3
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert len(set(ids)) == 3
    assert {len(one) for one in ids} == {16 + 1 + 16}  # of the picture and of the record: no two meet
    file.write_text(ids[0] + "\n" + json.dumps({"id": "x", "note": ids[0]}) + "\n")  # names it, is it not
    assert service.save(request=first)["line"] == 3


def test_a_saved_record_is_read_back(service: Service, key: str, tmp_path: Path) -> None:
    file = tmp_path / "records" / "records.jsonl"
    question = turn("What is <region>?", BOX, answer="Ein Bär.", corrected=True)
    assert service.save(request=talk(key, question)) == {"file": str(file), "line": 1, "before": False}
    file.write_bytes(file.read_bytes().rstrip())  # as an editor may leave it
    assert service.save(request=talk(key, turn("Hm?", answer="Hm.")))["line"] == 2
    first, second = load_records(file, tmp_path / "records" / "images")
    assert first.data["conversations"][1]["value"] == "Ein Bär."
    assert (first.data["corrected"], "corrected" in second.data) == (True, False)
    assert first.resolve(SIZE)[0].points == ((1.25, 2), (20, 25.5))
    assert "turn 1 has no answer" in service.save(request=talk(key, turn("What?")))["error"]
    assert len(file.read_text().splitlines()) == 2


def test_a_line_that_cannot_be_written_whole_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "records.jsonl"
    append_record(file, {"id": "a"})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_record(file, {"id": "x" * 100})
    assert file.read_text() == '{"id": "a"}\n'
