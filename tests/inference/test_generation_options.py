"""Options of generate(): those that ask() passes on, and those that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import transformers

import pvit_ext
from pvit_ext import RegionError
from tests.inference.queries import BOX, MIXED, Loaded


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
