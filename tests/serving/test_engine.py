"""The engine: an answer is the one its question gets alone, whatever shares its batch, ends it or goes wrong in it."""

from __future__ import annotations

import asyncio
import gc
import io
import re
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

import pvit_ext
from pvit_ext import Query, Region, RegionError
from pvit_ext.hosts.chat import Ends
from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.answer import Answer, Cancelled, Completed, Settings
from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.pictures import Pictures
from pvit_ext.serving.engine import Batching, Engine
from pvit_ext.serving.rows import Rows, byte_ids
from pvit_ext.serving.waiting import Draining, QueueFull
from tests.hosts.tiny_hosts import BOX, MIXED, TALL, WIDE

FINE = Query(WIDE, "what is in <region> ?", [BOX])
VARIED = [
    Settings(6),
    Settings(3),
    Settings(5, temperature=1.0, seed=1),
    Settings(5, temperature=1.0, seed=2),
    Settings(4, temperature=0.7, top_p=0.8, seed=1),
    Settings(1),
]


def asked(engine: Engine, queries: list[Query], settings: list[Settings]) -> list[Completed]:
    """All at once, as one batch: the engine's thread finds none of them before all are there."""
    with engine._waiting._changed:
        answers = [engine.submit(query, one, pieces=False) for query, one in zip(queries, settings, strict=True)]
    return [answer.result(60) for answer in answers]


def test_a_placeholder_that_nothing_reads_is_named(engine: Engine, tmp_path: Path) -> None:
    """Also on the demo's page, whose questions come here."""
    with pytest.raises(RegionError, match=r"^question: '<bbox>' in its question is text that no encoder reads"):
        engine.submit(Query(WIDE, "what is <bbox> ?"), VARIED[0], pieces=False)
    pictures = Pictures(tmp_path, most=1)
    WIDE.save(content := io.BytesIO(), "png")
    key = pictures.open(content.getvalue(), "a.png", "page")[0].key
    given = {"name": "q", "picture": key, "turns": [{"question": "what is <region1> ?"}]}
    (said,) = Answering(lambda query: engine.submit(query, VARIED[0], None), pictures).ask(given)
    assert "'<region1>' in its question is text that no encoder reads" in said["error"]


class Batches:
    """Sizes of the batches that an engine ran."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def batch(self, answers: Any, seconds: float) -> None:
        self.sizes.append(len(answers))


@pytest.fixture
def batches(engine: Engine) -> Iterator[Batches]:
    engine._observer = found = Batches()
    yield found
    engine._observer = None


def test_answers_are_those_alone(engine: Engine, loaded: Loaded, batches: Batches) -> None:
    together = asked(engine, MIXED, VARIED)
    alone = [asked(engine, [query], [one])[0] for query, one in zip(MIXED, VARIED, strict=True)]
    assert batches.sizes[:6] == [6, 1, 1, 1, 1, 1]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(torch.tensor(one.ids), torch.tensor(other.ids))
    assert together == alone
    parts = (loaded.model, loaded.tokenizer, loaded.processor)
    assert together[0].text == pvit_ext.ask(*parts, MIXED[:1], max_new_tokens=6)[0]
    assert together[1].text == pvit_ext.ask(*parts, MIXED[1:2], max_new_tokens=3)[0]
    assert together[5].reason == "length"
    assert len(together[5].ids) == 1


def test_prompts_count_their_images_and_regions(engine: Engine, loaded: Loaded) -> None:
    language, seen = loaded.model.get_decoder(), []
    hook = language.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["attention_mask"].sum(1).tolist()), with_kwargs=True
    )
    try:
        together = asked(engine, MIXED, [Settings(1)] * 6)
    finally:
        hook.remove()
    assert [one.prompt_tokens for one in together] == seen[0]


def test_seeds(engine: Engine) -> None:
    settings = [Settings(8, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
    first, again, other = asked(engine, [FINE] * 3, settings)
    assert first == again != other
    unseeded = asked(engine, [FINE] * 3, [Settings(8, temperature=1.5)] * 3)
    assert len({one.text for one in unseeded}) > 1


def test_pieces_are_the_answer(engine: Engine) -> None:
    answer = engine.submit(FINE, Settings(12))
    pieces = list(answer)
    assert len(pieces) > 2
    assert "".join(pieces) == answer.result().text
    assert "".join(list(answer)) == answer.result().text  # a second reader

    async def read() -> tuple[list[str], Completed]:
        answer = engine.submit(FINE, Settings(12))
        return [piece async for piece in answer], await answer.wait()

    assert asyncio.run(read())[0] == pieces


@pytest.mark.parametrize(
    "said",
    [
        "a cat<0x0A><0x0A>and a dog",
        "a<0x5A><0x04><0xFF>",
        "a<0xC3><0xA9> cat",
        "a<0xF0><0x9F><0x98><0x80><0xF0><0x9F><0x98><0x80>",
        "a<0x5A><0xC3>cat",
        "<0x5A>",
        "a<0x5A><s><0x04><0xFF>",
        "a<0xC3><s><s><0xA9><s> cat",
    ],
)
def test_pieces_of_single_bytes_are_the_answer(engine: Engine, loaded: Loaded, said: str) -> None:
    """A run of bytes that turns out to be no UTF-8 changes its first characters, which must not be said before.

    Special tokens between them are left out of a text, so that the bytes on both sides are one run.
    """
    if not byte_ids(loaded.tokenizer):
        pytest.skip("this tokenizer has no bytes")
    convert = loaded.tokenizer.convert_tokens_to_ids
    ids = [convert(token) for token in re.findall(r"<[^>]+>|\S", said)]
    chat = SimpleNamespace(positions=lambda _: [1], answers=engine._chat(None).answers)
    answer = Answer(FINE, engine._chat(None).prompt(FINE, "q"), Settings())
    rows = Rows(cast(Any, chat), {}, [answer], [99], Ends([2], []), byte_ids(loaded.tokenizer))
    for count in range(len(ids)):
        rows(torch.tensor([ids[: count + 1]]), None)
    rows(torch.tensor([[*ids, 2]]), None)
    assert "".join(answer) == answer.result(0).text != ""


def test_stop_texts(engine: Engine) -> None:
    whole = engine.submit(FINE, Settings(12)).result().text
    stop = whole[len(whole) // 2 :][:3]
    answer = engine.submit(FINE, Settings(12, stop=("never said", stop)))
    pieces, done = list(answer), answer.result()
    assert done.text == whole[: whole.find(stop)].rstrip() == "".join(pieces)
    assert done.reason == "stop"
    assert len(done.ids) < 12


def test_an_engine_that_waits_holds_no_question(engine: Engine) -> None:
    query = Query(TALL, "what ?")
    held, answer = weakref.ref(query), engine.submit(query, Settings(1), pieces=False)
    answer.result(60)
    del query, answer
    until = time.monotonic() + 20
    while held() is not None and time.monotonic() < until:
        gc.collect()  # frames of what ended may lie in a circle
        time.sleep(0.01)
    assert held() is None


# Cancelling and errors


def test_a_cancelled_question_frees_its_place(engine: Engine, batches: Batches, monkeypatch: Any) -> None:
    began, go = threading.Event(), threading.Event()
    generate = engine.model.generate
    monkeypatch.setattr(engine.model, "generate", lambda **k: began.set() or (go.wait(30) and generate(**k)))
    running = engine.submit(FINE, Settings(1000), pieces=False)
    assert began.wait(30)
    waiting = [engine.submit(FINE, Settings(1)) for _ in range(12)]
    with pytest.raises(QueueFull, match="12 questions are waiting") as error:
        engine.submit(FINE)
    assert error.value.seconds >= 1
    for one in waiting[1:]:
        one.cancel()
    assert engine.waiting == 1
    running.cancel()
    started = time.monotonic()
    go.set()
    assert waiting[0].result(60).ids
    assert time.monotonic() - started < 5  # not the 1000 tokens of the one before
    for one in (running, *waiting[1:]):
        with pytest.raises(Cancelled):
            one.result(60)
    with pytest.raises(Cancelled):
        list(running)


def test_a_row_that_is_cancelled_leaves_the_others_alone(engine: Engine) -> None:
    with engine._waiting._changed:
        both = [engine.submit(FINE, Settings(30)) for _ in range(2)]
    assert next(iter(both[0]))
    both[0].cancel()
    assert both[1].result(60) == engine.submit(FINE, Settings(30)).result(60)


def test_errors_are_those_of_their_question(engine: Engine, batches: Batches) -> None:
    with pytest.raises(RegionError, match=r"asked, region 0: .* lies outside its image"):
        engine.submit(Query(WIDE, "what is <region> ?", [Region.box(200, 200, 300, 300)]), name="asked")
    with pytest.raises(RegionError, match="asked: 1 <region> placeholder"):
        engine.submit(Query(WIDE, "what is <region> ?"), name="asked")
    with pytest.raises(RegionError, match=r"asked: the text has 66,\d+ characters; .* fewer than 65,536"):
        engine.submit(Query(WIDE, "where " * 11_000), name="asked")
    long = Query(WIDE, "where " * 3000)
    with engine._waiting._changed:
        answers = [engine.submit(query, Settings(2), name="asked") for query in (FINE, long, FINE)]
    assert answers[0].result(60) == answers[2].result(60)
    with pytest.raises(RegionError, match=r"asked: its prompt takes .* positions"):
        answers[1].result(60)


def test_a_failing_model_fails_its_batch_alone(engine: Engine, monkeypatch: Any) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "generate", broken)
        with engine._waiting._changed:
            answers = [engine.submit(FINE) for _ in range(2)]
        for one in answers:
            with pytest.raises(RuntimeError, match="out of memory"):
                one.result(60)
    assert engine.submit(FINE, Settings(2)).result(60).ids


def test_draining_answers_what_was_taken(loaded: Loaded) -> None:
    engine = Engine(loaded, Batching(most=2, places=12))
    taken = [engine.submit(FINE, Settings(2)) for _ in range(5)]
    engine.drain()
    with pytest.raises(Draining):
        engine.submit(FINE)
    engine.close()
    assert len({one.result(0).text for one in taken}) == 1


def test_features_of_an_image_are_kept(engine: Engine, loaded: Loaded) -> None:
    expected = asked(engine, MIXED, VARIED)
    features = pvit_ext.ImageFeatures(2**24)
    with Engine(loaded, Batching(most=6), features=features) as keeping:
        assert asked(keeping, MIXED, VARIED) == expected
        made = features.misses
        assert asked(keeping, MIXED, VARIED) == expected
    assert features.misses == made
    assert features.hits > 0


def test_new_images_are_seen_all_at_once_and_kept_from_their_second_question_on(loaded: Loaded) -> None:
    features = pvit_ext.ImageFeatures(2**24)
    with Engine(loaded, Batching(most=6), features=features) as keeping:
        asked(keeping, [Query(TALL, "what ?"), Query(WIDE, "what ?")], [Settings(1)] * 2)
        assert features.misses == len(features) == 0
        asked(keeping, [Query(WIDE, "where ?")], [Settings(1)])
    assert features.misses == len(features) > 0


def test_a_wait_ends(engine: Engine) -> None:
    answer = Answer(FINE, engine._chat(None).prompt(FINE, "q"), Settings())
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        answer.result(0.01)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stop": ("",)}, "stop holds an empty text"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Settings(**settings)
