"""Prompts as embeddings: the language model alone makes of them what the whole model makes of the prompts."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import pvit_ext
from pvit_ext import Query
from pvit_ext.hosts.find import host_of
from pvit_ext.hosts.llava.tokenizer import load_tokenizer
from pvit_ext.inference.prompt_embeds import encoded, export_language_model, export_prompt_embeds
from tests.hosts.test_asking import CHOSEN
from tests.hosts.test_shared_images import BOTH
from tests.hosts.tiny_hosts import BOX, MIXED, ON_EVERY_FAMILY, WIDE, TinyHost, logits

REFUSED = {
    "paligemma": "see those behind them",
    "gemma3": "see those behind them",
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"), "counts positions in several axes"),
}
WITH_IMAGES = [query for query in MIXED if query.image is not None]


def check_equal(host: TinyHost) -> None:
    parts = host.talking(CHOSEN)
    chat = host_of(parts.model).chat(*parts, None, None)
    prompts = [chat.prompt(query, "query") for query in WITH_IMAGES]
    language, together = chat.language_model(), chat.prompt_embeds(chat.batch(WITH_IMAGES, prompts))
    for query, prompt, in_batch in zip(WITH_IMAGES, prompts, together, strict=True):
        batch: dict[str, Any] = chat.batch([query], [prompt])
        (embeds,) = chat.prompt_embeds(batch)
        torch.testing.assert_close(in_batch, embeds, atol=1e-5, rtol=1e-5)
        batch["input_ids"] = batch.pop("inputs", batch.get("input_ids"))
        expected = logits(parts.model, {key: value for key, value in batch.items() if key != "labels"})
        with torch.no_grad():
            found = language(inputs_embeds=embeds[None]).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("host", BOTH, indirect=True)
def test_the_language_model_alone_gives_the_same_logits(host: TinyHost) -> None:
    check_equal(host)


@pytest.mark.slow
@ON_EVERY_FAMILY
def test_every_family_gives_the_same_or_is_refused(host: TinyHost, tmp_path: Path) -> None:
    if (reason := REFUSED.get(getattr(host, "family", ""))) is None:
        check_equal(host)
        return
    parts = host.talking(CHOSEN)
    with pytest.raises(ValueError, match=reason):
        export_prompt_embeds(*parts, {"a": WITH_IMAGES[0]}, tmp_path / "never.jsonl", "name")
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("host", BOTH, indirect=True)
def test_the_files_answer_as_the_model(host: TinyHost, tmp_path: Path) -> None:
    """As vLLM reads them: base64 of what torch.save wrote, and a checkpoint of text alone."""
    parts = host.talking(CHOSEN)
    queries = {"a": Query(WIDE, "what is in <region> ?", [BOX]), "b": WITH_IMAGES[2], "c": Query(None, "where ?")}
    requests = export_prompt_embeds(*parts, queries, tmp_path / "r.jsonl", "text", max_new_tokens=4)
    folder = export_language_model(*parts, tmp_path / "text")
    language = AutoModelForCausalLM.from_pretrained(folder)
    assert len(AutoTokenizer.from_pretrained(folder)) == len(parts.tokenizer)
    expected = pvit_ext.ask(*parts, list(queries.values()), max_new_tokens=4)
    for line, (id, answer) in zip(requests.read_text().splitlines(), zip(queries, expected, strict=True), strict=True):
        request = json.loads(line)
        body = request["body"]
        assert (request["id"], body["model"], body["prompt"], body["max_tokens"]) == (id, "text", "", 4)
        embeds = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        suppressed = parts.model.generation_config.suppress_tokens
        made = language.generate(
            inputs_embeds=embeds[None], attention_mask=torch.ones(1, len(embeds)), do_sample=False, max_new_tokens=4,
            eos_token_id=body["stop_token_ids"], suppress_tokens=suppressed,
        )  # fmt: skip
        assert parts.tokenizer.decode(made[0], skip_special_tokens=True).strip() == answer
    with pytest.raises(FileExistsError):
        export_language_model(*parts, folder)


def test_the_language_model_has_the_files_that_the_original_ids_come_from(
    llava_checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")
    folder = export_language_model(model, tokenizer, processor, tmp_path / "text")
    for text in ("Which is larger,  the first <s> or the second?", " a</s> b"):
        assert load_tokenizer(str(folder), False)(text).input_ids == tokenizer(text).input_ids
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (llava_checkpoint / name).read_bytes()


@pytest.mark.parametrize("source", ["", "/moved/away/folder"])
def test_a_tokenizer_whose_folder_is_not_there_is_written_without(
    source: str, llava_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")
    tokenizer.name_or_path = source
    folder = export_language_model(model, tokenizer, processor, tmp_path / "text")
    assert AutoTokenizer.from_pretrained(folder)("a dog").input_ids == tokenizer("a dog").input_ids
    assert f"original files could not be copied from {source!r}" in caplog.text


@pytest.mark.parametrize("host", BOTH, indirect=True)
def test_adapters_that_a_language_model_alone_lacks_are_refused(host: TinyHost, tmp_path: Path) -> None:
    parts = host.talking(replace(CHOSEN, lion_adapters=4))
    with pytest.raises(ValueError, match="tensors that a LlamaForCausalLM has no place for"):
        export_prompt_embeds(*parts, {"a": WITH_IMAGES[0]}, tmp_path / "r.jsonl", "text")
    assert not [*tmp_path.iterdir()]


def test_a_request_holds_one_tensor_and_not_what_it_is_a_view_of() -> None:
    one = torch.zeros(1000, 8)[3:5]
    raw = base64.b64decode(encoded(one))
    assert torch.load(io.BytesIO(raw), weights_only=True).shape == (2, 8)
    assert len(raw) < 4000


@pytest.mark.parametrize("host", BOTH[:1], indirect=True)
def test_queries_have_ids(host: TinyHost, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="give a dict of queries by id"):
        export_prompt_embeds(*host.talking(CHOSEN), [], tmp_path / "r.jsonl", "text")  # type: ignore[arg-type]
