"""Options of generate(): those that ask() passes on, and those that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

import pvit_ext
from pvit_ext import RegionError
from tests.inference.queries import BOX, MIXED, Loaded


def test_beams_and_sampling_take_regions(tiny: Loaded) -> None:
    assert len(pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, num_beams=2)) == 3
    torch.manual_seed(0)
    assert len(pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, do_sample=True)) == 3


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True}])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_several_answers_a_query_are_a_list_each(tiny: Loaded, options: dict[str, Any], batch_size: int) -> None:
    torch.manual_seed(0)
    answers = pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, batch_size=batch_size, num_return_sequences=2, **options)
    assert [len(one) for one in answers] == [2, 2, 2]
    if "num_beams" in options:
        best = pvit_ext.ask(*tiny, MIXED[:3], max_new_tokens=3, **options)
        assert [one[0] for one in answers] == best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_dict_in_generate": True}, r"does not take return_dict_in_generate=: call model.generate"),
        ({"output_scores": True}, r"does not take output_scores=: call model.generate"),
        ({"max_length": 9}, r"does not take max_length=: .*max_new_tokens="),
        ({"eos_token_id": 2}, r"does not take eos_token_id=: .*stopping_criteria="),
        ({"pad_token_id": 2}, r"does not take pad_token_id="),
        ({"attention_mask": None}, r"does not take attention_mask=: the queries give the prompts"),
        ({"inputs": None}, r"does not take inputs="),
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


def test_generate_without_a_prompt(tiny: Loaded) -> None:
    with pytest.raises(RegionError, match=r"pass its ids \(B, L\) as inputs="):
        tiny[0].generate(None, regions=[[BOX]])
