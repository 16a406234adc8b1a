"""The beginning that questions share is read by the language model once, and answers and scores are the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from pvit_ext import ImageFeatures, Query, Region, RegionConfig
from pvit_ext.adapters.lion.hint import TagHint
from pvit_ext.adapters.lion.mixture import MixtureOfAdapters
from pvit_ext.hosts import prefix
from pvit_ext.inference.answering import Asking, answer_file
from pvit_ext.inference.asking import ask_in
from pvit_ext.inference.questions import read_questions
from pvit_ext.inference.session import Session
from tests.hosts.test_asking import CHOSEN
from tests.hosts.test_shared_images import BOTH, ENCODERS, MANY, NO_LIMIT, asked
from tests.hosts.tiny_hosts import BOX, MIXED, ON_EVERY_FAMILY, OTHER, TALL, Parts, TinyHost


def read_by(host: TinyHost, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of each pass of the language model's first layer, over all rows."""
    found: list[int] = []
    layers: Any = host.language_model(parts.model).layers
    layer = layers[0]
    stock = layer.forward

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(hidden.shape[0] * hidden.shape[1])
        return stock(hidden, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", forward)
    return found


ABOUT_ONE = [
    *MANY,
    Query(TALL, "where is a cat and a dog ?"),
    Query(TALL, "which is larger <region> and <region> ?", [OTHER, Region.point(20, 45)]),
    Query(TALL, "and <region> ?", [OTHER, BOX], history=[("what is <region> ?", "a dog")]),
]


def check_prefix(host: TinyHost, config: RegionConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Answers about one image, of different lengths; positions that the language model reads, without and with."""
    parts = host.talking(config)
    read = read_by(host, parts, monkeypatch)
    expected = asked(parts, ABOUT_ONE, None, batch_size=4)
    plain = sum(read)
    read.clear()
    assert asked(parts, ABOUT_ONE, ImageFeatures(NO_LIMIT), batch_size=4) == expected
    shared = sum(read)
    assert asked(parts, [*ABOUT_ONE, *MIXED[2:3]], ImageFeatures(NO_LIMIT), num_beams=1)[: len(expected)] == expected
    return plain, shared


NOT_SHARED = ("qwen", "glm4v", "gemma", "paligemma", "mistral", "pixtral", "llava_next")
"""Families whose positions or masks do not follow from the padding, or whose language model has a window."""


@pytest.mark.slow
@ON_EVERY_FAMILY
def test_a_shared_beginning_changes_no_answer(host: TinyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, shared = check_prefix(host, CHOSEN, monkeypatch)
    assert (shared < plain) == (not any(name in getattr(host, "family", "") for name in NOT_SHARED))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_positions_that_turn_by_the_length_share_no_beginning(kind: str, key: str) -> None:
    """Keys of a short beginning are turned otherwise than those of the whole prompt."""
    plain, language = {"rope_type": "default"}, nn.Linear(1, 1)

    def forward(position_ids: Any = None) -> None:
        """The arguments of a language model's."""

    assert prefix.can_share(SimpleNamespace(**{key: plain}), language, forward) == prefix._KNOWS_CACHES
    assert not prefix.can_share(SimpleNamespace(**{key: {"rope_type": kind}}), language, forward)


def test_of_lions_parts_only_those_in_the_language_model_share_no_beginning() -> None:
    """A beginning is read for one task; the hint is in the embeddings, and the aggregator in the image's."""

    def forward(position_ids: Any = None) -> None:
        """The arguments of a language model's."""

    parts = {"region_hint": TagHint(4), "mixture": MixtureOfAdapters(4, 2, 2)}
    shares = [prefix.can_share(SimpleNamespace(), nn.ModuleDict({name: parts[name]}), forward) for name in parts]
    assert shares == [prefix._KNOWS_CACHES, False]


@pytest.mark.parametrize(
    "own",
    [
        {"repetition_penalty": 1.05},
        {"encoder_repetition_penalty": 1.2},
        {"encoder_no_repeat_ngram_size": 2},
        {"min_length": 9},
        {"bad_words_ids": [[5, 6]]},
        {"sequence_bias": {(5, 6): -1.0}},
    ],
    ids=lambda own: next(iter(own)),
)
def test_what_reads_or_counts_the_prompts_ids_shares_no_beginning(own: dict[str, Any]) -> None:
    """The padding behind it would be among them; see `laid_out`."""
    assert prefix.is_plain_generation(GenerationConfig(), ())
    assert not prefix.is_plain_generation(GenerationConfig(**own), ())


@pytest.mark.parametrize("host", BOTH, indirect=True)
@pytest.mark.parametrize(
    "own", [{"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}, {"no_repeat_ngram_size": 2}], ids=str
)
def test_a_model_that_brings_beams_shares_no_beginning(
    host: TinyHost, own: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = host.talking(CHOSEN)
    for name, value in own.items():
        monkeypatch.setattr(parts.model.generation_config, name, value)
    assert asked(parts, MANY, ImageFeatures(NO_LIMIT)) == asked(parts, MANY, None)


@pytest.mark.slow
@pytest.mark.parametrize("host", BOTH, indirect=True)
@pytest.mark.parametrize("config", ENCODERS, ids=lambda config: config.encoder)
def test_a_shared_beginning_with_every_kind_of_encoder(
    host: TinyHost, config: RegionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, shared = check_prefix(host, config, monkeypatch)
    assert (shared < plain) == (config.encoder != "overlay")


def file_of(folder: Path, choices: bool) -> Path:
    """Thirteen questions about one image, whose first words differ; in batches of four one is alone."""
    TALL.save(folder / "tall.png")
    words = ["what is <region> ?", "where is <region> ?"]
    asked = [
        {"id": n, "image": "tall.png", "question": words[n // 4 % 2], "regions": [[n, 2 * n, n + 9, 2 * n + 30]]}
        for n in range(13)
    ]
    more = {"choices": ["a dog", "a cat", "the sofa"]} if choices else {}
    (folder / "q.jsonl").write_text("".join(json.dumps(one | more) + "\n" for one in asked))
    return folder / "q.jsonl"


FIRST_IS_FAST = [BOTH[0], *(pytest.param(one, marks=pytest.mark.slow) for one in BOTH[1:])]


@pytest.mark.parametrize("host", FIRST_IS_FAST, indirect=True)
@pytest.mark.parametrize(
    "how", ["choices", *(pytest.param(one, marks=pytest.mark.slow) for one in ("written", "scores"))]
)
def test_a_file_reads_the_beginning_of_an_image_once(
    host: TinyHost, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once a batch, nor for each choice; and the same lines come out as without."""
    parts, found = host.talking(CHOSEN), {}
    questions, _ = read_questions(file_of(tmp_path, how == "choices"), tmp_path)
    monkeypatch.setattr(
        "pvit_ext.inference.answering.load_pretrained_model",
        lambda *_, **__: (parts.tokenizer, parts.model, parts.processor, 0),
    )
    monkeypatch.setattr(Asking, "depends", lambda self: {})
    read = read_by(host, parts, monkeypatch)
    for image_bytes in (0, NO_LIMIT):
        read.clear()
        asking = Asking("m", "mark", batch_size=4, max_new_tokens=3, scores=how == "scores", image_bytes=image_bytes)
        out = tmp_path / f"{image_bytes}.jsonl"
        answer_file(out, questions, [], asking)
        lines = list(map(json.loads, out.read_text().splitlines()))
        assert len(lines) == 1 + len(questions)
        found[image_bytes] = sum(read), [one.pop("answer") for one in lines[1:]], lines
    (plain, expected, numbers), (shared, answers, own) = found[0], found[NO_LIMIT]
    assert answers == expected
    for one, other in zip(numbers, own, strict=True):
        for name in {"log_likelihood", "per_token"} & {*one}:
            assert one[name] == pytest.approx(other[name], abs=1e-4)
        for each, again in zip(one.get("choices", ()), other.get("choices", ()), strict=True):
            assert each["log_likelihood"] == pytest.approx(again["log_likelihood"], abs=1e-4)
    rows = {"written": 13, "scores": 26, "choices": 39}[how]
    assert plain - shared >= (read[0] - 5) * (rows - 1) if prefix._KNOWS_CACHES else plain == shared


@pytest.mark.parametrize("host", FIRST_IS_FAST, indirect=True)
def test_a_beginning_that_was_cut_or_could_not_be_read_is_read_again(
    host: TinyHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short question cuts it, and one of many words adds to it; a pass that fails does not harm the next."""
    parts = host.talking(CHOSEN)
    session = Session(parts.model, parts.tokenizer, parts.processor, features=ImageFeatures(NO_LIMIT))
    long = "a dog and a cat on the sofa " * 4
    words = "what", long, "where", long
    queries = [Query(TALL, f"{one} {tail} <region> ?", [BOX]) for one in words for tail in "ab"]
    expected = asked(parts, queries, None)
    assert ask_in(session, queries, 3, batch_size=2) == expected
    if not prefix._KNOWS_CACHES:
        pytest.skip("this transformers keeps no beginnings of prompts")
    stock, passes = prefix.Prefix.keep, iter(range(9))

    def fails_once(*given: Any) -> None:
        if next(passes) == 0:
            raise MemoryError
        stock(*given)

    monkeypatch.setattr(prefix.Prefix, "keep", fails_once)
    with pytest.raises(MemoryError):
        ask_in(session, queries[:4], 3, batch_size=2)
    assert ask_in(session, queries, 3, batch_size=2) == expected
