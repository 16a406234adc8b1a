"""``pvit-ext ask --to prompt-embeds``: what goes into the files, without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pvit_ext import Query
from pvit_ext.cli.parser import main

Ask = Callable[..., int]


@pytest.fixture
def asked() -> list[Mapping[str, Query]]:
    """The queries of each export."""
    return []


@pytest.fixture
def ask(tmp_path: Path, asked: list[Mapping[str, Query]], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The command for a checkpoint whose language model is an empty file."""
    language = SimpleNamespace(parameters=lambda: [], save_pretrained=lambda path: (path / "model.safetensors").touch())
    chat = SimpleNamespace(language_model=lambda: language)
    tokenizer = SimpleNamespace(save_pretrained=lambda path: None)
    monkeypatch.setattr("pvit_ext.hosts.loading.load_pretrained_model", lambda *_, **__: (tokenizer, None, None, 0))
    export = "pvit_ext.inference.prompt_embeds"
    monkeypatch.setattr(f"{export}.model_host", lambda _: SimpleNamespace(chat=lambda *_: chat))
    monkeypatch.setattr(f"{export}.export_prompt_embeds", lambda *given, **_: asked.append(given[3]))
    Image.new("RGB", (60, 50)).save(tmp_path / "a.png")
    question = {"id": 1, "image": "a.png", "question": "what is in <region> ?", "regions": [[1, 2, 30, 40]]}
    lines = [json.dumps({**question, "tags": ["dog"]}), '{"id": 2}']
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llava_llama"}')
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> int:
        given = ["--model", "m", "--file", "q.jsonl", "--out", "r.jsonl", "--max_bad_records", "1", *words]
        return main(["ask", "--to", "prompt-embeds", "--language-model", "text", *given])

    return run


def test_another_models_language_model_is_not_served(
    ask: Ask, tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask() == 0
    assert (tmp_path / "text" / "model.safetensors").exists()
    assert ask() == 0
    (tmp_path / "m" / "model.safetensors").write_bytes(b"trained on")
    assert ask() == 2
    assert len(asked) == 2
    assert "--language-model text holds the language model of another checkpoint than m" in capsys.readouterr().err
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "config.json").write_text("{}")
    assert ask("--language-model", "others") == 2
    assert "others does not say of which checkpoint it was made; name a new folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert ask("--language-model", "empty") == 0
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_bad_lines_are_listed_and_tags_reach_only_a_model_that_reads_them(
    ask: Ask, tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask() == 0
    told = capsys.readouterr().err
    assert "1 bad questions, in r.jsonl.bad.jsonl:" in told
    assert "q.jsonl line 2 (id '2'): " in told
    (listed,) = map(json.loads, (tmp_path / "r.jsonl.bad.jsonl").read_text().splitlines())
    assert listed["record"] == "q.jsonl line 2 (id '2')"
    assert [query.tags for query in asked[0].values()] == [None]
