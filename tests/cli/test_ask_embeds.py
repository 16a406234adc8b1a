"""``pvit-ext ask --to prompt-embeds``: what goes into the files, without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from pvit_ext import Query
from pvit_ext.cli.parser import main
from pvit_ext.regions.image import reading

Ask = Callable[..., int]


@pytest.fixture
def asked() -> list[Query]:
    """The queries that were asked."""
    return []


class Asked:
    """A session of a checkpoint whose language model is an empty file, and whose prompts are of three positions."""

    def __init__(self, asked: list[Query]) -> None:
        self.model, self.asked = None, asked
        self.chat = SimpleNamespace(
            language_model=lambda: SimpleNamespace(
                parameters=lambda: [], save_pretrained=lambda path: (path / "model.safetensors").touch()
            ),
            save_tokenizer=lambda path: None,
            ends=lambda: SimpleNamespace(ids=[2], criteria=[]),
            prompt_embeds=lambda batch: [torch.zeros(3, 4)] * len(batch["queries"]),
        )

    def prompts(self, queries: Sequence[Query]) -> list[Any]:
        return [None] * len(queries)

    def batch(self, queries: Sequence[Query], prompts: Sequence[Any]) -> dict[str, Any]:
        for number, query in enumerate(queries):
            with reading(f"query {number}"):
                query.load_images()
        self.asked += queries
        return {"queries": queries}


@pytest.fixture
def ask(tmp_path: Path, asked: list[Query], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The command for such a checkpoint."""
    tokenizer = SimpleNamespace(save_pretrained=lambda path: None)
    monkeypatch.setattr("pvit_ext.hosts.loading.load_pretrained_model", lambda *_, **__: (tokenizer, None, None, 0))
    monkeypatch.setattr("pvit_ext.inference.session.Session", lambda *_: Asked(asked))
    monkeypatch.setattr(
        "pvit_ext.inference.prompt_embeds.model_host", lambda _: SimpleNamespace(chat=lambda *_: Asked(asked).chat)
    )
    Image.effect_noise((60, 50), 9).save(tmp_path / "a.png")
    question = {"id": 1, "image": "a.png", "question": "what is in <region> ?", "regions": [[1, 2, 30, 40]]}
    lines = [json.dumps({**question, "tags": ["dog"]}), '{"id": 2}']
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llava_llama"}')
    monkeypatch.chdir(tmp_path)

    def run(*words: str, text: str = "text", bad: str = "1") -> int:
        (tmp_path / "r.jsonl").unlink(missing_ok=True)
        given = ["--model", "m", "--file", "q.jsonl", "--out", "r.jsonl", "--max-bad-records", bad, *words]
        return main(["ask", "--to", "prompt-embeds", "--language-model", text, *given])

    return run


def test_another_models_language_model_is_not_served(
    ask: Ask, tmp_path: Path, asked: list[Query], capsys: pytest.CaptureFixture[str]
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
    assert ask(text="others") == 2
    assert "others does not say of which checkpoint it was made; name a new folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert ask(text="empty") == 0
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_bad_lines_are_listed_and_tags_reach_only_a_model_that_reads_them(
    ask: Ask, tmp_path: Path, asked: list[Query], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask() == 0
    told = capsys.readouterr().err
    assert "1 bad questions, in r.jsonl.bad.jsonl:" in told
    assert "q.jsonl line 2 (id '2'): " in told
    (listed,) = map(json.loads, (tmp_path / "r.jsonl.bad.jsonl").read_text().splitlines())
    assert listed["record"] == "q.jsonl line 2 (id '2')"
    assert [query.tags for query in asked] == [None]


def test_an_image_or_mask_that_breaks_off_is_named_and_the_rest_is_written(
    ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"image": "a.png", "question": "what is in <region> ?", "regions": [[1, 2, 30, 40]]}
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    of_a_mask = {**good, "regions": [{"mask": "cut.png"}]}
    asked = [good, {**good, "image": "cut.png"}, good, of_a_mask, good]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps({"id": n, **one}) + "\n" for n, one in enumerate(asked)))
    assert ask() == 1
    told = capsys.readouterr()
    assert "r.jsonl: 3 requests for" in told.out
    assert "q.jsonl line 2 (id '1'): cannot read its image" in told.err
    assert "q.jsonl line 4 (id '3'): cannot read its mask" in told.err
    assert [json.loads(line)["id"] for line in (tmp_path / "r.jsonl").read_text().splitlines()] == ["0", "2", "4"]
    assert ask("--batch-size", "2", bad="2") == 0


def test_a_run_that_cannot_write_the_language_model_is_not_in_the_way_of_the_next(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--out is refused once it is there."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pvit_ext.inference.prompt_embeds.export_language_model", full)
        assert ask() == 2
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "r.jsonl").exists()
    assert ask() == 0


def test_a_model_that_is_refused_leaves_no_language_model(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any, queries: Any, prompts: Any) -> Any:
        raise ValueError("it counts positions in several axes")

    monkeypatch.setattr(Asked, "batch", refuse)
    assert ask() == 2
    assert not (tmp_path / "text").exists()
