"""Threads that share a model of either host: each gets what it gets alone, wherever their calls meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import pytest

import pvit_ext
from pvit_ext import Query
from pvit_ext.hosts.find import host_of
from tests.hosts.test_asking import CHOSEN
from tests.hosts.test_shared_images import BOTH
from tests.hosts.tiny_hosts import BOX, MIXED, OTHER, TALL, WIDE, TinyHost
from tests.test_threads import together

pytestmark = pytest.mark.parametrize("host", BOTH, indirect=True)
ASKED = (
    [Query(WIDE, "what is in <region> ?", [BOX]), Query(TALL, "<region> and <region> ?", [OTHER, OTHER])],
    [Query(TALL, "where is <region> red ?", [OTHER]), MIXED[3]],
)
TEXTS = ["a dog", "red"]


def encoding_of_images(model: Any) -> tuple[Any, str]:
    llava = hasattr(model, "encode_images")
    return (type(model), "encode_images") if llava else (type(model.base_model), "get_image_features")


PARTS: dict[str, Callable[[Any], tuple[Any, str]]] = {
    "encoding of images": encoding_of_images,
    "region encoder": lambda model: (model.region_module.region_encoder, "forward"),
    "embedding": lambda model: (model.get_input_embeddings(), "forward"),
    "writing of tokens": lambda model: (type(model.base_model), "get_input_embeddings"),
}


def scores(parts: Any, queries: list[Query]) -> list[list[float]]:
    """Of each text as an answer: they tell prompts apart where a tiny model's answers do not."""
    found = pvit_ext.score(*parts, queries, [TEXTS] * len(queries))
    return [[one.log_likelihood for one in of_query] for of_query in found]


def meeting(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that two threads begin and end together, until one of them has no more of them."""
    barrier = threading.Barrier(2)

    @wraps(call)  # its signature is looked at
    def together(*args: Any, **kwargs: Any) -> Any:
        with suppress(threading.BrokenBarrierError):
            barrier.wait(0.3)
        result = call(*args, **kwargs)
        with suppress(threading.BrokenBarrierError):
            barrier.wait(0.3)
        return result

    return together


@pytest.mark.parametrize(
    ("part", "lion"),
    [
        ("region encoder", {}),
        ("writing of tokens", {}),
        ("embedding", {"lion_adapters": 4, "lion_aggregator": "added"}),
        ("encoding of images", {"lion_aggregator": "appended"}),
    ],
)
def test_calls_that_meet_give_what_each_gives_alone(
    host: TinyHost, part: str, lion: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = host.talking(replace(CHOSEN, **lion))
    for verb in (scores, lambda given, queries: pvit_ext.ask(*given, queries, max_new_tokens=4)):
        calls = [partial(verb, parts, asked) for asked in ASKED]
        expected = [call() for call in calls]
        assert verb is not scores or expected[0] != expected[1]
        with monkeypatch.context() as patch:
            place, name = PARTS[part](parts.model)
            patch.setattr(place, name, meeting(getattr(place, name)))
            assert together(*calls) == expected


def test_no_call_changes_the_configs(host: TinyHost) -> None:
    parts = host.talking(CHOSEN)
    model = parts.model

    def state() -> tuple[str, str, str]:
        return str(model.config.to_dict()), str(model.generation_config.to_dict()), parts.tokenizer.padding_side

    before = state()
    pvit_ext.ask(*parts, ASKED[0], max_new_tokens=2, temperature=0.7)
    assert state() == before


def test_a_padded_and_a_plain_call_of_one_tokenizer(host: TinyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast tokenizers keep padding in themselves for the time of a call; here, the plain one comes in its midst."""
    parts = host.talking(CHOSEN)
    chat = host_of(parts.model).chat(*parts, None, None)
    prompts = [chat.prompt(query, "query") for query in ASKED[0]]
    kind, padded, plain = type(parts.tokenizer), threading.Event(), threading.Event()
    if host.prefix or (change := getattr(kind, "set_truncation_and_padding", None)) is None:
        pytest.skip("LLaVA's prompts are padded by us")
    calls = [
        lambda: chat.batch(ASKED[0], prompts)["attention_mask"].tolist(),
        lambda: chat.answer_ids(prompts[0], "a dog"),
    ]
    expected = [call() for call in calls]

    def changed(*args: Any, **kwargs: Any) -> None:
        mine, others = (plain, padded) if "DO_NOT_PAD" in str(kwargs["padding_strategy"]) else (padded, plain)
        if mine is plain:
            others.wait(0.5)
        change(*args, **kwargs)
        mine.set()
        if mine is padded:
            others.wait(0.5)

    monkeypatch.setattr(kind, "set_truncation_and_padding", changed)
    assert together(*calls) == expected
