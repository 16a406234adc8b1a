"""The demo's server without its page: what it opens, asks, copies and saves, and what it refuses."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext.cli import build_parser
from pvit_ext.data.records import load_records
from pvit_ext.regions.region import Region
from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.app import PAGE, SCRIPTS
from pvit_ext.serving.demo.examples import load_examples, shape_of
from pvit_ext.serving.demo.pictures import Pictures
from pvit_ext.serving.demo.saving import Saving, append_line
from pvit_ext.serving.demo.service import Service, Setting
from pvit_ext.tokens.query import Query

SIZE = (40, 30)
BOX = {"box": [1.25, 2, 20, 25.5]}


class Words:
    """An answer of three words, the last of which is never waited for."""

    def __init__(self, query: Query) -> None:
        self.query, self.cancelled = query, False

    def __iter__(self) -> Iterator[str]:
        for word in ("one", " two", " three"):
            if self.cancelled:
                raise RuntimeError("the answer was cancelled")
            yield word

    def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def service(tmp_path: Path) -> Service:
    for name in ("uploads", "kept"):
        (tmp_path / name).mkdir()
    pictures = Pictures(tmp_path / "kept", most=2)
    setting = Setting("my model", tmp_path / "uploads", load_examples(None, None))
    return Service(setting, pictures, Answering(Words, pictures), Saving(tmp_path / "records"))


@pytest.fixture
def key(service: Service, tmp_path: Path) -> str:
    return upload(service, tmp_path, "a b.png")


def upload(service: Service, folder: Path, name: str, colour: int = 7) -> str:
    file = folder / "uploads" / name
    Image.new("RGB", SIZE, (colour, 0, 0)).save(file)
    found: str = service.open_picture(path=str(file), name=name)["picture"]["key"]
    assert not file.exists()
    return found


def talk(key: str, *turns: dict[str, Any]) -> dict[str, Any]:
    return {"picture": key, "turns": list(turns)}


def turn(question: str, *regions: Any, answer: str = "", **more: Any) -> dict[str, Any]:
    return {"question": question, "regions": list(regions), "answer": answer, **more}


def test_an_answer_comes_in_pieces(service: Service, key: str) -> None:
    given = talk(key, turn("<region>?", BOX, answer="Yes."), turn("And <region>?", {"point": [3, 4]}))
    states = list(service.answering.ask({**given, "name": "q"}))
    assert [one["text"] for one in states] == ["", "one", "one two", "one two three", "one two three"]
    assert states[-1]["state"] == "complete"


def test_a_stopped_answer_keeps_what_it_said(service: Service, key: str) -> None:
    stream = service.answering.ask({**talk(key, turn("What?")), "name": "q"})
    assert [next(stream)["text"] for _ in range(3)] == ["", "one", "one two"]
    assert service.stop(name="q") == {"stopped": True}
    assert list(stream) == [{"text": "one two", "state": "stopped"}]
    assert service.stop(name="q") == {"stopped": False}


def test_who_goes_away_stops_the_answer(service: Service, key: str, tmp_path: Path) -> None:
    asked: list[Words] = []
    pictures = service._pictures

    def ask(query: Query) -> Words:
        asked.append(Words(query))
        return asked[-1]

    stream = Answering(ask, pictures).ask({**talk(key, turn("What?")), "name": "q"})
    next(stream)
    stream.close()
    assert asked[0].cancelled


@pytest.mark.parametrize("turns", [[], ["What?"]])
def test_a_second_question_of_the_same_name_leaves_the_first(turns: list[str], service: Service, key: str) -> None:
    first = service.answering.ask({**talk(key, turn("What?")), "name": "q"})
    assert [next(first)["text"] for _ in range(2)] == ["", "one"]
    (refused,) = service.answering.ask({**talk(key, *map(turn, turns)), "name": "q"})
    assert refused["state"] == "error"
    assert next(first)["text"] == "one two"
    assert service.stop(name="q") == {"stopped": True}
    (refused,) = service.answering.ask({**talk(key, turn("What?")), "name": "q"})
    assert "being answered already" in refused["error"]
    assert list(first) == [{"text": "one two", "state": "stopped"}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "q"}, "does not have this picture"),
        ({"picture": "KEY", "turns": []}, "one or more"),
        ({"picture": "KEY", "turns": [turn("  ")]}, "turn 1 has no question"),
        ({"picture": "KEY", "turns": [turn("What is <region>?")]}, "1 <region> in its question but 0 regions"),
        ({"picture": "KEY", "turns": [turn("<region>", {"box": [50, 2, 60, 9]})]}, "region 1: .*outside its image"),
        ({"picture": "KEY", "turns": [turn("<region>", {"mask": "mask.png"})]}, "not as the path of a file"),
        ({"picture": "KEY", "turns": [turn("<region>", {"box": [0, 0, 1, 1], "normalized": True})]}, "in pixels"),
        ({"picture": "KEY", "turns": [turn("<region>", {"circle": 3})]}, "one of"),
        (
            {"picture": "KEY", "turns": [turn("<region>", BOX, numbers=[1, 2])]},
            "turn 1: numbers is a list",
        ),
        (
            {"picture": "KEY", "turns": [turn("<region>", BOX, numbers=["../x"])]},
            "turn 1: numbers is a list",
        ),
    ],
)
def test_bad_requests_are_named(given: dict[str, Any], said: str, service: Service, key: str) -> None:
    request = {"name": "q", **given} | ({"picture": key} if "picture" in given else {})
    (last,) = service.answering.ask(request)
    assert re.search(said, last["error"]), last


def test_only_uploads_are_opened(service: Service, key: str, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("L", SIZE, 255).save(other)
    (tmp_path / "uploads" / "link.png").symlink_to(other)
    for path in (other, tmp_path / "uploads" / ".." / "other.png", tmp_path / "uploads" / "link.png", "uploads"):
        assert "was not uploaded" in service.open_picture(path=str(path), name="x")["error"]
        assert "was not uploaded" in service.add_mask(key=key, path=str(path), name="x")["error"]
    assert other.exists()


def test_pictures_beyond_the_bound_are_forgotten(service: Service, key: str, tmp_path: Path) -> None:
    for colour in (20, 30):
        upload(service, tmp_path, f"{colour}.png", colour)
    assert "open it again" in service.copies(request=talk(key, turn("What?")))["error"]
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_copies_are_what_is_sent(service: Service, key: str) -> None:
    mask = {"mask": {"size": [30, 40], "counts": [0, 300, 900]}}
    shapes = [BOX, {"point": [3.5, 4]}, {"polygon": [[1, 2], [9, 2.25], [4, 8]]}, {"scribble": [[1, 1], [5, 9]]}, mask]
    question = "it's " + "<region>" * 5
    found = service.copies(request=talk(key, turn("Hm?", answer="Hm."), turn(question, *shapes)))
    args = build_parser().parse_args(shlex.split(found["command"])[1:])
    assert (args.model, args.image, args.question) == ("my model", "a b.png", question)
    assert args.regions == [
        ("box", [1.25, 2, 20, 25.5]), ("point", [3.5, 4]), ("polygon", [(1, 2), (9, 2.25), (4, 8)]),
        ("scribble", [(1, 1), (5, 9)]), ("mask", "mask-5.png"),
    ]  # fmt: skip
    assert json.loads(found["record"])["regions"] == shapes
    found = service.copies(request=talk(key, turn("<region> <region>?", BOX, mask, numbers=[4, 3])))
    args = build_parser().parse_args(shlex.split(found["command"])[1:])
    assert args.regions[1] == ("mask", "mask-3.png")  # the page saves it by its number
    assert service.mask_png(key=key, shape=mask)["url"].startswith("data:image/png")


def test_a_saved_record_is_read_back(service: Service, key: str, tmp_path: Path) -> None:
    file = tmp_path / "records" / "records.jsonl"
    question = turn("What is <region>?", BOX, answer="Ein Bär.", corrected=True)
    assert service.save(request=talk(key, question)) == {"file": str(file), "line": 1}
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
    append_line(file, "{}")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_line(file, "x" * 100)
    assert file.read_text() == "{}\n"


def test_masks_and_segmenters(service: Service, key: str, tmp_path: Path) -> None:
    file = tmp_path / "uploads" / "m.png"
    pixels = np.zeros(SIZE[::-1], np.uint8)
    pixels[3:9, 4:8] = 1
    Image.fromarray(pixels).save(file)
    shape = service.add_mask(key=key, path=str(file), name="m.png")["region"]
    assert shape == shape_of(Region.mask(pixels).resolve(SIZE))
    assert "--segmenter" in service.segment(key=key, shape={"point": [3, 3]})["error"]


def test_examples_are_good_records(service: Service) -> None:
    begin = service.start()
    assert len(begin["examples"]) == 4
    for number, example in enumerate(begin["examples"]):
        found = service.open_example(number=number)
        assert len(found["regions"]) == example["question"].count("<region>") > 0
    assert "no example" in service.open_example(number=9)["error"]


def test_the_pages_files_are_there() -> None:
    assert {f"{name}.js" for name in SCRIPTS} | {"page.html", "page.css"} == {one.name for one in PAGE.iterdir()}
    template = (PAGE / "page.html").read_text()
    assert not any(mark in template for mark in ("${", "{{", "`", "@children")), "Gradio would fill these in"


def run(*words: str) -> int:
    """The command without the program's net under it: to tell its errors apart, that imports LLaVA."""
    args = build_parser().parse_args(["demo", *words])
    status: int = args.handler(args)
    return status


def test_a_taken_port_is_said_before_the_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "6.31.0")  # gradio need not be installed
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(OSError, match=f"port {port}: Address already in use; give another --port"):
            run("--model", str(tmp_path), "--port", port)
    with pytest.raises(ValueError, match="0 to 65535, got 99999"):
        run("--model", str(tmp_path), "--port", "99999")


def test_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="no --model given"):
        run()
    with pytest.raises(ValueError, match="give both"):
        run("--model", "any", "--examples", "x.jsonl")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.16.0")
    with pytest.raises(ValueError, match=r"demo needs gradio>=6.31 \(found 4.16.0\): pip install \"pvit-ext\[demo"):
        run("--model", "any")
