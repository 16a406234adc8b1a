"""Soft-prompted tags on both hosts: the hint vector where ``<hint>`` stands, in any batch, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pvit_ext
from pvit_ext import Query
from pvit_ext.cli import main
from pvit_ext.inference.questions import question_of
from pvit_ext.prompt import HINT_TOKEN_INDEX
from pvit_ext.regions.region import RegionError
from tests.hosts.tiny_hosts import (
    BOX,
    HAS_TRANSFORMERS_HOST,
    OSPREY,
    TALL,
    WIDE,
    Parts,
    TinyHost,
    batch_of,
    load,
    logits,
    save,
    with_labels,
)

TAGGED = replace(OSPREY, lion_tags="hint")
OTHERS = ["llava/mistral", "llava/mpt", *["transformers/qwen2_5_vl", "transformers/gemma3"] * HAS_TRANSFORMERS_HOST]
HOSTS: list[Any] = ["llava/llama", *["transformers/llava"] * HAS_TRANSFORMERS_HOST]
HOSTS += [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
QUERIES = [
    Query(WIDE, "what is in <region> ?", [BOX], tags=["a cat", "dog"]),
    Query(None, "where ?"),
    Query(TALL, "where is a cat ?", tags=["dog"]),
    Query(WIDE, "what is in <region> <hint> and <hint> ?", [BOX], tags=["red"]),
    Query([TALL, WIDE], "which is larger ?"),
]


@pytest.fixture(scope="module", params=HOSTS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyHost, Parts]:
    """A host, and its model with a hint vector that is far from any word."""
    host = make_host(request.param, tmp_path_factory)
    parts = host.attached(TAGGED)
    hint_of(parts).weight.data.normal_(std=2)
    return host, parts


def make_host(name: str, tmp: pytest.TempPathFactory) -> TinyHost:
    from tests.hosts.tiny_hosts import TinyLlava, TinyTransformers

    kind, _, family = name.partition("/")
    host: TinyHost = (TinyLlava if kind == "llava" else TinyTransformers)(family, tmp)
    return host


def hint_of(parts: Parts) -> Any:
    return parts.model.region_module.lion["region_hint"]


def end_logits(host: TinyHost, parts: Parts, queries: Sequence[Query]) -> Tensor:
    """Logits (B, V) behind each prompt."""
    batch = batch_of(parts, queries)
    found = logits(parts.model, batch)
    if not host.pads_right:
        return found[:, -1]
    lengths = [int(logits(parts.model, batch_of(parts, [one])).shape[1]) for one in queries]
    return torch.stack([row[length - 1] for row, length in zip(found, lengths, strict=True)])


def test_a_mixed_batch_equals_each_sample_alone(made: tuple[TinyHost, Parts]) -> None:
    host, parts = made
    queries = [one for one in QUERIES if host.pads_right or one.image is not None]
    together = end_logits(host, parts, queries)
    alone = torch.cat([end_logits(host, parts, [one]) for one in queries])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_any_number_of_hints_stand_as_the_vector_and_nothing_else_does(made: tuple[TinyHost, Parts]) -> None:
    host, parts = made
    history = [("what is in <region> ? <hint> or <hint> ?", "left")]
    batch = batch_of(parts, [Query(WIDE, "where is <hint> a dog ?", [BOX], history)])
    language = parts.model.get_model() if host.pads_right else parts.model.model.language_model
    seen: list[Tensor] = []
    hook = language.register_forward_pre_hook(
        lambda _, given, named: seen.append(named["inputs_embeds"]), with_kwargs=True
    )
    parts.model(**batch)
    hook.remove()
    ((embeds,),) = seen  # (L, D)
    ids = batch["input_ids"][0]
    marked = ids == (HINT_TOKEN_INDEX if host.pads_right else parts.tokenizer.convert_tokens_to_ids("<hint>"))
    wanted = (len(ids) - marked.nonzero().flatten()).tolist()  # from the end: image and region stand before them
    assert len(wanted) == 3
    here = (embeds == hint_of(parts).weight[0]).all(-1)
    assert (len(here) - here.nonzero().flatten()).tolist() == wanted


def test_the_vector_stands_at_each_hint_and_gets_gradients(made: tuple[TinyHost, Parts]) -> None:
    _, parts = made
    weight = hint_of(parts).weight
    for query, sees in ((QUERIES[0], True), (QUERIES[3], True), (QUERIES[4], False)):
        batch = with_labels(batch_of(parts, [query]))
        parts.model.zero_grad()
        loss = parts.model.train()(**batch).loss
        loss.backward()
        assert weight.grad is not None, "a rank whose batch has no hint would let the others wait for ever"
        assert bool(weight.grad.any()) == sees
        with torch.no_grad():
            before = weight.clone()
            weight.mul_(-1)
            assert (float(parts.model(**batch).loss) != float(loss)) == sees
            weight.copy_(before)
    parts.model.eval()


def test_without_a_hint_in_any_prompt_nothing_changes(made: tuple[TinyHost, Parts]) -> None:
    host, parts = made
    queries = [replace(one, tags=None) for one in QUERIES if "<hint>" not in one.text and one.image is not None]
    plain = host.attached(OSPREY)
    for name in ("region_encoder", "region_projector"):
        module = getattr(parts.model.region_module, name)
        getattr(plain.model.region_module, name).load_state_dict(module.state_dict())
    for training in (False, True):
        found = []
        for one in (parts, plain):
            batch = with_labels(batch_of(one, queries))
            one.model.train(training)
            with torch.no_grad():
                found.append(one.model(**batch))
            one.model.eval()
        assert torch.equal(found[0].logits, found[1].logits)
        assert torch.equal(found[0].loss, found[1].loss)


@pytest.mark.parametrize("beams", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_answers_are_the_same_alone_in_a_batch_and_without_a_cache(made: tuple[TinyHost, Parts], beams: int) -> None:
    _, parts = made
    queries, options = [QUERIES[number] for number in (0, 2, 3, 4)], {"max_new_tokens": 3, "num_beams": beams}
    cached, uncached = (pvit_ext.ask(*parts, queries, use_cache=cache, **options) for cache in (True, False))
    assert cached == uncached == [pvit_ext.ask(*parts, [one], **options)[0] for one in queries]


def test_saved_and_loaded_with_the_region_modules(made: tuple[TinyHost, Parts], tmp_path: Path) -> None:
    host, parts = made
    queries = [one for one in QUERIES if one.image is not None]
    wanted = logits(parts.model, batch_of(parts, queries))
    whole = load(save(host, parts, tmp_path / "whole"))
    assert torch.equal(logits(whole.model, batch_of(whole, queries)), wanted)
    pvit_ext.save_region_modules(parts.model, tmp_path / "regions", base=str(host.folder()))
    modules = load(tmp_path / "regions")
    torch.testing.assert_close(logits(modules.model, batch_of(modules, queries)), wanted)
    assert torch.equal(hint_of(modules).weight, hint_of(parts).weight)


def test_a_hint_that_is_cut_off_names_the_sample(made: tuple[TinyHost, Parts]) -> None:
    host, parts = made
    if not host.pads_right:  # transformers' model cuts nothing; its processor does
        with pytest.raises(RegionError, match=r"sample 1: truncation leaves 0 of its 1 <hint>"):
            parts.processor(text=["where ?", "where is a cat and a dog <hint> ?"], truncation=True, max_length=3)
        return
    batch = batch_of(parts, [QUERIES[4], replace(QUERIES[2], text=f"{'a cat ' * 80}<hint>")])
    parts.model.config.tokenizer_model_max_length = 200
    try:
        with pytest.raises(RegionError, match=r"sample 1: 1 of its 2 <hint> cut off"):
            parts.model(**batch)
    finally:
        parts.model.config.tokenizer_model_max_length = 512


@pytest.mark.slow
def test_swap_and_attach_add_the_hint_to_a_checkpoint(made: tuple[TinyHost, Parts], tmp_path: Path) -> None:
    host, _ = made
    old = save(host, host.attached(OSPREY), tmp_path / "old")
    words = ["swap", str(old), "--encoder", "osprey", "--encoder-options", json.dumps(OSPREY.encoder_options)]
    assert main([*words, "--lion-tags", "hint", "--out", str(tmp_path / "new")]) == 0
    swapped = load(tmp_path / "new")
    attached = load(old)
    pvit_ext.attach(attached.model, TAGGED, **({} if host.pads_right else {"processor": attached.processor}))
    batch = batch_of(swapped, [QUERIES[0]])
    for parts in (swapped, attached):
        assert 0.01 < float(hint_of(parts).weight.detach().std()) < 0.03
        hint_of(parts).weight.data.fill_(1)
        assert logits(parts.model, batch_of(parts, [QUERIES[0]])).shape == logits(swapped.model, batch).shape
    torch.testing.assert_close(*(logits(one.model, batch_of(one, [QUERIES[0]])) for one in (swapped, attached)))


def test_a_text_without_an_image_may_have_hints_and_images_may_come_without_a_text(
    made: tuple[TinyHost, Parts],
) -> None:
    host, parts = made
    queries = [Query(None, "where <hint> ?"), Query(None, "a cat and <hint> or <hint> dog ?"), Query(None, "where ?")]
    together = logits(parts.model, batch_of(parts, queries))[:, -1]
    alone = torch.cat([logits(parts.model, batch_of(parts, [one]))[:, -1] for one in queries])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    if not host.pads_right:
        assert "pixel_values" in parts.processor(images=[WIDE])


def test_tags_that_are_none_name_the_query(made: tuple[TinyHost, Parts]) -> None:
    _, parts = made
    end = f"a {parts.tokenizer.eos_token}"
    for tags, said in (
        ("dog", "a list of texts"),
        (["<image>"], "holds <image>"),
        (["<image_row>"], "holds <image_row>"),
        ([""], "has no letter"),
        ([end], "holds .* a special token of the tokenizer"),
    ):
        with pytest.raises(RegionError, match=f"query 1: .*{said}"):
            pvit_ext.ask(*parts, [QUERIES[0], replace(QUERIES[2], tags=tags)])


def test_tags_without_an_image_are_refused_in_a_question_as_in_a_record(made: tuple[TinyHost, Parts]) -> None:
    _, parts = made
    with pytest.raises(RegionError, match="query 1: it has tags and no image"):
        pvit_ext.ask(*parts, [QUERIES[0], Query(None, "what ?", tags=["dog"])])
    with pytest.raises(ValueError, match="it has tags and no image"):
        question_of({"id": 1, "question": "what ?", "tags": ["dog"]}, "q line 1", Path())


def test_a_model_without_tags_says_so_and_takes_a_hint_for_text(
    made: tuple[TinyHost, Parts], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = made
    monkeypatch.setattr("pvit_ext.tokens.hint_text._said", [])
    parts = host.attached(OSPREY)
    with pytest.raises(RegionError, match=r"query 0: tags were given, but the model reads none"):
        pvit_ext.ask(*parts, [QUERIES[0]])
    batch = batch_of(parts, [Query(WIDE, "where is <hint> ?")])
    assert "query 0: <hint> in its prompt is ordinary text" in caplog.text
    assert batch["input_ids"].min() >= -200, "LLaVA's sentinel of an image is the lowest"
    assert "<hint>" not in parts.tokenizer.get_vocab()


def test_the_sentence_without_a_hint_needs_no_vector(made: tuple[TinyHost, Parts]) -> None:
    host, _ = made
    parts = host.attached(replace(OSPREY, lion_tags="plain"))
    assert "region_hint" not in parts.model.region_module.lion
    with_tags, without = (
        logits(parts.model, batch_of(parts, [one])) for one in (QUERIES[2], replace(QUERIES[2], tags=None))
    )
    assert with_tags.shape[1] > without.shape[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tags", "dog", "--tagger", "t.json"], "--tags and --tagger both say what is in the image"),
        (["--names", "n.txt"], "--names belongs to a detector: give --tagger FILE.onnx too"),
        (["--threshold", "0.5"], "--threshold belongs to a detector"),
        (["--tagger", "missing.onnx", "--names", "n.txt"], "missing.onnx is no file"),
    ],
)
def test_ask_refuses_tags_that_do_not_go_together_before_a_model_loads(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "what ?", "--image", "a.png", "--model", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err


def test_ask_by_a_tagger_says_what_it_found(
    made: tuple[TinyHost, Parts], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parts = made
    loaded = parts.tokenizer, parts.model, parts.processor, 512
    monkeypatch.setattr(pvit_ext, "load_pretrained_model", lambda *_, **__: loaded)
    asked: list[Query] = []
    monkeypatch.setattr(pvit_ext, "ask", lambda *given, **_: asked.extend(given[3]) or ["a dog"])
    WIDE.save(image := tmp_path / "wide.png")
    (tags := tmp_path / "tags.json").write_text(json.dumps({"wide.png": ["Dog", "dog", "a, b"]}))
    words = ["ask", "what is it ?", "--image", str(image), "--model", str(tmp_path)]
    assert main([*words, "--tagger", str(tags)]) == 0
    assert capsys.readouterr() == ("a dog\n", "tags: Dog, a b\n")
    assert main([*words, "--tags", "cat, red dog"]) == 0
    assert [query.tags for query in asked] == [["Dog", "a b"], ["cat", "red dog"]]
    assert main([*words, "--task", "region"]) == 2
    assert "--task region: the model has no adapters by task" in capsys.readouterr().err
    tags.write_text("{}")
    assert main([*words, "--tagger", str(tags)]) == 2
    assert f"knows nothing of {image}; give --tags, or leave --tagger out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--tags", "cat,,dog"])
