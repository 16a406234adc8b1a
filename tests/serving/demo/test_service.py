"""The demo's server without its page: what it opens, asks, copies and saves, and what it refuses."""

from __future__ import annotations

import importlib.metadata
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext import plugins
from pvit_ext.cli import build_parser
from pvit_ext.regions.region import Region
from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.app import PAGE, SCRIPTS
from pvit_ext.serving.demo.examples import shape_of
from pvit_ext.serving.demo.service import MOST_BYTES, Service
from pvit_ext.tokens.query import Query
from tests.serving.demo.served import BOX, SIZE, Words, opened, sent, talk, turn


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
        ({"picture": "KEY", "turns": [turn("What is <region1>?", BOX)]}, "but 1 regions; '<region1>' is text that no"),
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


@pytest.mark.parametrize("content", ["/etc/hostname", "é", 3, "A" * (MOST_BYTES * 4 // 3 + 8)])
def test_files_come_as_base64(content: Any, service: Service, key: str) -> None:
    session = service.start()["session"]
    for found in (
        service.open_picture(session=session, content=content, name="x"),
        service.add_mask(key=key, content=content, name="x"),
    ):
        assert "sent as base64" in found["error"]


def test_names_of_files_leave_no_folder(service: Service, tmp_path: Path) -> None:
    for name in ("../../x.png", "x.p/../q", "x.\0", "x." + "y" * 300):
        opened(service, name)
    assert {one.suffix for one in (tmp_path / "kept").iterdir()} == {""}
    assert [one.name for one in tmp_path.iterdir()] == ["kept"]


def test_pictures_beyond_the_bound_are_forgotten(service: Service, key: str, tmp_path: Path) -> None:
    for colour in (20, 30):
        opened(service, f"{colour}.png", colour)
    assert "open it again" in service.copies(request=talk(key, turn("What?")))["error"]
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_masks_and_segmenters(service: Service, key: str) -> None:
    pixels = np.zeros(SIZE[::-1], np.uint8)
    pixels[3:9, 4:8] = 1
    shape = service.add_mask(key=key, content=sent(Image.fromarray(pixels)), name="m.png")["region"]
    assert shape == shape_of(Region.mask(pixels).resolve(SIZE))
    assert "--segmenter" in service.segment(key=key, shape={"point": [3, 3]})["error"]


def test_examples_are_good_records(service: Service) -> None:
    begin = service.start()
    assert len(begin["examples"]) == 4
    for number, example in enumerate(begin["examples"]):
        found = service.open_example(session=begin["session"], number=number)
        assert len(found["regions"]) == example["question"].count("<region>") > 0
    assert "no example" in service.open_example(session=begin["session"], number=9)["error"]


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
    (tmp_path / "x.jsonl").touch()
    with pytest.raises(OSError, match="--examples none: there is no such file"):
        run("--model", "any", "--examples", "none", "--image-folder", ".")
    with pytest.raises(OSError, match="--image-folder none is not there"):
        run("--model", "any", "--examples", "x.jsonl", "--image-folder", "none")
    with pytest.raises(OSError, match=r"--records x\.jsonl is a file; name a folder"):
        run("--model", "any", "--records", "x.jsonl")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.16.0")
    with pytest.raises(ValueError, match=r"demo needs gradio>=6.31 \(found 4.16.0\): pip install \"pvit-ext\[demo"):
        run("--model", "any")


def test_the_commands_options_reach_the_engine_and_the_copied_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from pvit_ext.cli import demo
    from pvit_ext.serving import engine

    made: list[dict[str, Any]] = []
    monkeypatch.setattr("pvit_ext.load_pretrained_model", lambda *_, **__: (None,) * 4)
    monkeypatch.setattr("pvit_ext.hosts.loading.check_conv_version", lambda *_: None)
    monkeypatch.setattr(engine, "Engine", lambda _, **options: made.append(options))
    monkeypatch.setattr(plugins, "taken", ["my.plugin"])
    words = ["demo", "--model", "a b", "--base", "base", "--system", "Be brief.", "--conv-version", "v1"]
    for more in ([], ["--feature-cache", "0"]):
        args = build_parser().parse_args([*words, *more])
        demo._engine("a b", args)
    assert made[0]["features"].max_bytes == 2**30
    assert made[1] == {"conv_version": "v1", "features": None}
    command = [*demo._ask_command("a b", args), "--image", "x.png", "Hm?"]
    assert command[:4] == ["pvit-ext", "--plugin", "my.plugin", "ask"]
    asked = build_parser().parse_args([*command[3:]])
    assert (asked.model, asked.base, asked.system) == ("a b", "base", "Be brief.")
    assert (asked.conv_version, asked.max_new_tokens) == ("v1", 128)
    args = build_parser().parse_args(["demo", "--system=-h", "--base=-b"])
    asked = build_parser().parse_args([*demo._ask_command("-m", args)[3:], "Hm?"])
    assert (asked.model, asked.base, asked.system) == ("-m", "-b", "-h")
