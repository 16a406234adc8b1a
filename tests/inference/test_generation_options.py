"""Options of generate(): those that ask() passes on, and those that it refuses."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from transformers import GenerationConfig, RepetitionPenaltyLogitsProcessor

import pvit_ext
from pvit_ext import Query, RegionError
from pvit_ext.hosts.llava.repetition import counting_all_new_tokens
from pvit_ext.inference.decoding import said_once
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
    own = GenerationConfig(do_sample=True, num_return_sequences=2, temperature=0.7, bos_token_id=1)
    (answers,) = pvit_ext.ask(*tiny, MIXED[:1], max_new_tokens=3, generation_config=own)  # two of greedy are an error
    assert len(answers) == 2


def test_a_models_own_beams_are_not_taken(tiny: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A checkpoint says how it was tried, not how it is asked: answers are the likeliest tokens, one a query."""
    plain = pvit_ext.ask(*tiny, MIXED[:2], max_new_tokens=8)
    beams = pvit_ext.ask(*tiny, MIXED[:2], max_new_tokens=8, num_beams=3)
    own = tiny[0].generation_config
    monkeypatch.setattr(own, "num_beams", 3)
    monkeypatch.setattr(own, "num_return_sequences", 2)
    monkeypatch.setattr(own, "max_time", 1e-9)
    said_once.cache_clear()
    for _ in range(2):
        assert pvit_ext.ask(*tiny, MIXED[:2], max_new_tokens=8) == plain != beams
    said = [one.getMessage() for one in caplog.records if "generation_config" in one.getMessage()]
    assert len(said) == 1
    assert "num_beams=3, num_return_sequences=2, max_time=1e-09, which is not used" in said[0]
    assert pvit_ext.ask(*tiny, MIXED[:2], max_new_tokens=8, num_beams=3) == beams
    given = GenerationConfig(num_beams=3, bos_token_id=1)
    assert pvit_ext.ask(*tiny, MIXED[:2], max_new_tokens=8, generation_config=given) == beams
    both = pvit_ext.ask(*tiny, MIXED[:2], max_new_tokens=8, num_beams=3, num_return_sequences=2)
    assert [one[0] for one in both] == beams


@pytest.fixture
def passed(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Options of each call of ``generate``, which writes nothing."""
    calls: list[dict[str, Any]] = []

    def generate(inputs: Any, **options: Any) -> Any:
        calls.append(options)
        return inputs[:, :0]

    monkeypatch.setattr(tiny[0], "generate", generate)
    return calls


@pytest.mark.parametrize(
    ("given", "length"),
    [
        ({}, 64),
        ({"generation_config": GenerationConfig(bos_token_id=1)}, 64),
        ({"generation_config": GenerationConfig(max_new_tokens=3)}, 3),
        ({"generation_config": GenerationConfig(max_new_tokens=3), "max_new_tokens": None}, 3),
        ({"generation_config": GenerationConfig(max_new_tokens=3), "max_new_tokens": 5}, 5),
        ({"generation_config": GenerationConfig(max_new_tokens=3, max_length=90, pad_token_id=9)}, 3),
        ({"generation_config": GenerationConfig(max_length=90), "max_new_tokens": 5}, 5),
    ],
)
def test_the_length_is_the_arguments_or_the_configs(
    tiny: Loaded, passed: list[dict[str, Any]], given: dict[str, Any], length: int
) -> None:
    pvit_ext.ask(*tiny, MIXED[:1], **given)
    assert passed[0]["max_new_tokens"] == length


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_length": 30}, r"does not take max_length= \(30 in generation_config\): .*max_new_tokens="),
        ({"min_length": 3}, r"does not take min_length= .*min_new_tokens="),
        (
            {"eos_token_id": [300]},
            r"does not take eos_token_id= \(\[300\] in generation_config\): .*stopping_criteria=",
        ),
        ({"output_scores": True}, r"does not take output_scores= .*call model.generate"),
        ({"return_dict_in_generate": True}, r"does not take return_dict_in_generate= "),
    ],
)
def test_a_generation_config_says_nothing_that_ask_sets(
    tiny: Loaded, passed: list[dict[str, Any]], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        pvit_ext.ask(*tiny, MIXED[:1], generation_config=GenerationConfig(**config))
    assert not passed


def test_a_generation_config_of_another_kind(tiny: Loaded) -> None:
    with pytest.raises(TypeError, match=r"generation_config is dict .*GenerationConfig\(\.\.\.\)"):
        pvit_ext.ask(*tiny, MIXED[:1], generation_config={"max_new_tokens": 3})


def test_a_changed_copy_of_the_models_generation_config(tiny: Loaded, passed: list[dict[str, Any]]) -> None:
    """It names the model's ends and lengths, which ask sets as always."""
    own = copy.deepcopy(tiny[0].generation_config)
    own.use_cache = False
    pvit_ext.ask(*tiny, MIXED[:1], generation_config=own)
    assert passed[0]["eos_token_id"] == [2]
    assert "use_cache" not in passed[0]


@pytest.mark.skipif(not hasattr(transformers, "StopStringCriteria"), reason="this transformers has no stop_strings")
@pytest.mark.parametrize("by", ["config", "model"])
def test_stop_strings_of_a_config_find_the_tokenizer(tiny: Loaded, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    if by == "config":
        given["generation_config"] = GenerationConfig(stop_strings=["a"], bos_token_id=1)
    else:
        monkeypatch.setattr(tiny[0].generation_config, "stop_strings", ["a"], raising=False)
    assert pvit_ext.ask(*tiny, MIXED[:1], max_new_tokens=2, **given)


@pytest.mark.parametrize(
    ("name", "value"),
    [("guidance_scale", 2.0), ("encoder_repetition_penalty", 1.5), ("encoder_no_repeat_ngram_size", 2)],
)
@pytest.mark.parametrize("by", ["caller", "config"])
def test_options_that_read_the_ids_of_a_prompt_are_refused(tiny: Loaded, by: str, name: str, value: float) -> None:
    """LLaVA's prompt goes in as embeddings."""
    given = {name: value} if by == "caller" else {"generation_config": GenerationConfig(**{name: value})}
    with pytest.raises(ValueError, match=rf"{name}={value}.*ids of the prompt"):
        pvit_ext.ask(*tiny, MIXED[:1], max_new_tokens=1, **given)


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
        given["generation_config"] = GenerationConfig(repetition_penalty=1.3, bos_token_id=1)
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
