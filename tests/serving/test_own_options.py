"""Whatever a checkpoint's own ``generation_config`` says, a question gets its own answer, alone and in any batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import transformers

import pvit_ext
from pvit_ext.hosts.chat import Ends
from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.answer import Answer, Completed, Settings
from pvit_ext.serving.engine import Batching, Engine
from pvit_ext.serving.rows import Rows
from tests.hosts.tiny_hosts import MIXED
from tests.serving.test_engine import FINE, asked

SETTINGS = [Settings(6), Settings(3), Settings(5, temperature=1.0, seed=1)]
OTHER_MODES: list[dict[str, Any]] = [
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 2, "num_beam_groups": 2, "diversity_penalty": 0.5},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"prompt_lookup_num_tokens": 3},
    {"max_time": 1e-9},
    {"forced_eos_token_id": 20},
]


def answers(loaded: Loaded, together: bool = True) -> list[Completed]:
    with Engine(loaded, Batching(most=6, window=0)) as engine:
        if together:
            return asked(engine, MIXED[:3], SETTINGS)
        return [asked(engine, [query], [one])[0] for query, one in zip(MIXED, SETTINGS, strict=False)]


def options(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any]) -> None:
    for name, value in own.items():
        monkeypatch.setattr(loaded.model.generation_config, name, value, raising=False)


@pytest.mark.parametrize("own", OTHER_MODES, ids=lambda own: next(iter(own)))
def test_another_way_to_decode_leaves_each_question_its_answer(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any]
) -> None:
    """Beams are rows of ``generate`` beside those of the questions, whose clients would get one another's."""
    expected = answers(loaded)
    options(loaded, monkeypatch, own)
    assert answers(loaded) == expected == answers(loaded, together=False)


@pytest.mark.skipif(not hasattr(transformers, "StopStringCriteria"), reason="this transformers has no stop_strings")
def test_stop_strings_end_their_own_row(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = loaded.tokenizer
    if "abc" not in tokenizer.decode(tokenizer("abc", add_special_tokens=False).input_ids):
        pytest.skip("transformers' stop_strings need a tokenizer that has letters")
    whole = answers(loaded)
    stop = whole[0].text[1:3]
    options(loaded, monkeypatch, {"stop_strings": [stop]})
    found = answers(loaded)
    assert found == answers(loaded, together=False)
    assert len(found[0].ids) < 6
    assert (stop in found[0].text, found[0].reason) == (True, "stop")
    parts = (loaded.model, tokenizer, loaded.processor)
    assert found[0].text == pvit_ext.ask(*parts, MIXED[:1], max_new_tokens=6)[0]


def test_rows_that_are_no_questions_are_no_answers(engine: Engine) -> None:
    """Of another host's ``generate``, or another mode of transformers."""
    answer = Answer(FINE, engine._chat(None).prompt(FINE, "q"), Settings())
    chat = SimpleNamespace(positions=lambda _: [1], answers=engine._chat(None).answers)
    rows = Rows(cast(Any, chat), {}, [answer], [9], Ends([2], []), frozenset())
    with pytest.raises(RuntimeError, match="2 rows for 1 questions"):
        rows(torch.tensor([[1], [2]]), None)
