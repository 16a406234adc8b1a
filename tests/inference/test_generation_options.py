"""Options of generate(): those that ask() passes on, and those that it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from transformers import RepetitionPenaltyLogitsProcessor

import pvit_ext
from pvit_ext import Query, RegionError
from pvit_ext.hosts.llava.repetition import counting_all_new_tokens
from tests.inference.queries import BOX, MIXED, WIDE, Loaded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_dict_in_generate": True}, r"does not take return_dict_in_generate=: call model.generate"),
        ({"output_scores": True}, r"does not take output_scores=: call model.generate"),
        ({"max_length": 9}, r"does not take max_length=: .*max_new_tokens="),
        ({"min_length": 9}, r"does not take min_length=: .*min_new_tokens="),
        ({"eos_token_id": 2}, r"does not take eos_token_id=: .*stopping_criteria="),
        ({"pad_token_id": 2}, r"does not take pad_token_id="),
        ({"attention_mask": None}, r"does not take attention_mask=: the queries give the prompts"),
        ({"inputs": None}, r"does not take inputs="),
        ({"tasks": ["image"]}, r"does not take tasks=: .*task=NAME"),
        ({"questions": None}, r"does not take questions="),
        ({"regions": [[BOX]]}, r"does not take regions=: .*Query\(image, text, regions\)"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temprature": 1.0}, "temprature"),
    ],
)
def test_arguments_of_generate_that_ask_cannot_pass_on(tiny: Loaded, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        pvit_ext.ask(*tiny, MIXED[:1], max_new_tokens=1, **options)


def test_a_generation_config_decides_about_sampling(tiny: Loaded) -> None:
    own = transformers.GenerationConfig(do_sample=True, num_return_sequences=2, temperature=0.7, bos_token_id=1)
    (answers,) = pvit_ext.ask(*tiny, MIXED[:1], max_new_tokens=3, generation_config=own)  # two of greedy are an error
    assert len(answers) == 2


SEVERAL = [Query(WIDE, one) for one in ("What is it?", "What is in the image on the left side of it?", "Who is it?")]


@pytest.mark.parametrize("by", ["caller", "model", "config"])
def test_a_penalty_counts_the_same_tokens_alone_and_in_a_batch(
    tiny: Loaded, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5 leaves out as many as a row has padding, here of the answer: the prompt has no ids."""
    plain = pvit_ext.ask(*tiny, SEVERAL, max_new_tokens=12)
    given: dict[str, Any] = {}
    if by == "model":
        monkeypatch.setattr(tiny[0].generation_config, "repetition_penalty", 1.3)
    elif by == "config":
        given["generation_config"] = transformers.GenerationConfig(repetition_penalty=1.3, bos_token_id=1)
    else:
        given["repetition_penalty"] = 1.3
    alone = [pvit_ext.ask(*tiny, [one], max_new_tokens=12, **given)[0] for one in SEVERAL]
    assert pvit_ext.ask(*tiny, SEVERAL, max_new_tokens=12, **given) == alone
    assert alone != plain


def test_a_callers_own_penalty_takes_the_place_of_the_models() -> None:
    own = RepetitionPenaltyLogitsProcessor(2.0)
    options = {"logits_processor": [own], "repetition_penalty": 1.3}
    assert counting_all_new_tokens(None, options) is options
    assert (
        counting_all_new_tokens(SimpleNamespace(repetition_penalty=1.3), neutral := {"repetition_penalty": 1.0})
        is neutral
    )


def test_generate_without_a_prompt(tiny: Loaded) -> None:
    with pytest.raises(RegionError, match=r"pass its ids \(B, L\) as inputs="):
        tiny[0].generate(None, regions=[[BOX]])
