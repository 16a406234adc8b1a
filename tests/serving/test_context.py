"""The model's context: a prompt, its answer and the padding before it fit in, or the question is refused."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pvit_ext import Query, RegionError
from pvit_ext.cli import demo
from pvit_ext.cli.parser import main
from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.answer import Settings
from pvit_ext.serving.engine import Batching, Engine
from tests.hosts.tiny_hosts import BOX, OSPREY, WIDE, make
from tests.serving.test_engine import FINE, asked


def test_a_system_prompt_beyond_the_context_is_not_kept(loaded: Loaded) -> None:
    with Engine(loaded) as engine:
        kept = cast(Any, engine._chat).cache_info().currsize
        with pytest.raises(RegionError, match="characters"):
            engine.submit(FINE, system="x" * 100_000)
        assert cast(Any, engine._chat).cache_info().currsize == kept


def test_a_system_prompt_for_all_questions_is_checked_before_them(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's, which would begin, and then fail with each question."""
    llava = loaded.model.config.model_type.startswith("llava_")
    monkeypatch.setattr("pvit_ext.cli.demo.require_extra", lambda *_: None)
    monkeypatch.setattr("pvit_ext.serving.demo.app.running", lambda *_: pytest.fail("the page was opened"))
    monkeypatch.setattr(demo, "_engine", lambda *_: Engine(loaded, conv_version="plain" if llava else None))
    for system, said in [
        ("x" * 100_000, "the system prompt: the text has 100,000 characters"),
        ("Hm.", "no place for"),
    ]:
        if llava or len(system) > 9:
            assert main(["demo", "--port", "0", "--model", "any", "--system", system]) == 2
            assert said in capsys.readouterr().err


def test_answers_end_with_the_context(loaded: Loaded) -> None:
    with Engine(loaded._replace(context_len=10_000)) as engine:
        taken = engine.submit(FINE, Settings(1)).result(60).prompt_tokens
    with Engine(loaded._replace(context_len=taken + 3)) as engine:
        done = engine.submit(FINE, Settings(20)).result(60)
        assert (len(done.ids), done.reason) == (3, "length")
    with Engine(loaded._replace(context_len=taken)) as engine, pytest.raises(RegionError, match="none is free"):
        engine.submit(FINE).result(60)


def test_padding_counts_in_the_context(loaded: Loaded, monkeypatch: Any) -> None:
    """ALiBi's table ends with the context, which a short question's long answer behind a long prompt would leave."""
    short, long = Query(WIDE, "what ?"), Query(WIDE, "where " * 60)
    reached: list[int] = []
    with Engine(loaded, Batching(most=4)) as engine:
        taken = engine.submit(long, Settings(1)).result(60).prompt_tokens
        expected = asked(engine, [short], [Settings(40)]) + asked(engine, [long], [Settings(5)])
    generate = loaded.model.generate

    def spy(**given: Any) -> Any:
        width = max(engine._chat(None).positions({k: v for k, v in given.items() if k != "stopping_criteria"}))
        reached.append(width + given["max_new_tokens"])
        return generate(**given)

    with Engine(loaded._replace(context_len=taken + 20), Batching(most=4)) as engine:
        monkeypatch.setattr(loaded.model, "generate", spy)
        assert asked(engine, [short, long, long, short], [Settings(40), Settings(5), Settings(5), Settings(40)]) == [
            expected[number] for number in (0, 1, 1, 0)
        ]
    assert len(reached) == 2
    assert max(reached) <= taken + 20


@pytest.mark.slow
def test_mpt_answers_a_short_question_beside_a_long_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    model, tokenizer, processor = make("llava/mpt", tmp_path_factory).attached(OSPREY)
    context = model.config.max_seq_len
    short, long = Query(WIDE, "what is in <region> ?", [BOX]), Query(WIDE, "where " * 60 + "<region> ?", [BOX])
    with Engine(Loaded(tokenizer, model, processor, context), Batching(most=4)) as engine:
        alone = [asked(engine, [one], [Settings(200)])[0] for one in (short, long)]
        assert alone[0].prompt_tokens + 200 < context < alone[1].prompt_tokens + 200
        assert asked(engine, [short, long], [Settings(200)] * 2) == alone
