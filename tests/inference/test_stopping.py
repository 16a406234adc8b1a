"""Answers end at the template's words, at the caller's, and no sooner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import pvit_ext
from pvit_ext import Query
from pvit_ext.hosts.llava import chat as chat_module
from tests.inference.queries import BOX, WIDE, Loaded, new


def test_criteria_of_the_caller_come_beside_the_templates(tiny: Loaded, calls: list[Any]) -> None:
    stop_soon = transformers.StoppingCriteriaList([lambda ids, scores, **_: torch.tensor(len(new(ids[0])) >= 5)])
    answers = ask_saying(tiny, calls, "llava_v0", "a cat and a dog", stopping_criteria=stop_soon)
    assert answers[0] != "a cat and a dog"
    assert ask_saying(tiny, calls, "llava_v0", "seven### Human", stopping_criteria=stop_soon)[0] == "seven"


# Where an answer ends


def saying(tiny: Loaded, *texts: str) -> Callable[..., torch.Tensor]:
    """A stand-in for the language model's step: row k says text k, then its last token for ever."""
    tokenizer = tiny[1]
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]

    def process(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        said = new(input_ids[0])
        wanted = torch.tensor([row[min(len(said), len(row) - 1)] for row in ids])
        return torch.full_like(scores, -1e4).scatter(1, wanted[:, None], 0.0)

    return process


def ask_saying(tiny: Loaded, calls: list[Any], conv: str, *texts: str, **kwargs: Any) -> list[str]:
    from transformers import LogitsProcessorList

    queries = [Query(WIDE, "What is <region>?", [BOX])] * len(texts)
    script = LogitsProcessorList([saying(tiny, *texts)])
    return pvit_ext.ask(*tiny, queries, max_new_tokens=40, conv_version=conv, logits_processor=script, **kwargs)


@pytest.mark.parametrize(
    ("conv", "said", "answer"),
    [
        ("llava_v0", ["seven### Human: red###", "a cat and a dog### x###"], ["seven", "a cat and a dog"]),
        ("v1", ["seven</s>", "a cat and a dog</s>"], ["seven", "a cat and a dog"]),
        ("v1", ["seven ### red</s>", "dog</s>"], ["seven ### red", "dog"]),
        ("mistral_instruct", ["seven</s>", "dog</s>"], ["seven", "dog"]),
        ("plain", ["seven\nred", "dog\ncat"], ["seven", "dog"]),
    ],
)
def test_stop_strings(tiny: Loaded, calls: list[Any], conv: str, said: list[str], answer: list[str]) -> None:
    assert ask_saying(tiny, calls, conv, *said) == answer
    assert [ask_saying(tiny, calls, conv, one)[0] for one in said] == answer


@pytest.mark.skipif(not hasattr(transformers, "StopStringCriteria"), reason="this transformers has no stop_strings")
def test_stop_strings_of_the_caller(tiny: Loaded, calls: list[Any]) -> None:
    said = ["seven and a cat and a dog</s>", "dog</s>"]
    assert ask_saying(tiny, calls, "v1", *said, stop_strings=["cat"]) == ["seven and a cat", "dog"]


@pytest.mark.parametrize("others", [[], ["a cat</s>"], ["a cat and a dog", "a cat###"]])
def test_generation_ends_when_every_row_has(tiny: Loaded, monkeypatch: pytest.MonkeyPatch, others: list[str]) -> None:
    tokenizer, lengths = tiny[1], []
    decode = tokenizer.batch_decode
    monkeypatch.setattr(
        type(tokenizer), "batch_decode", lambda self, ids, **k: lengths.append(len(new(ids[0]))) or decode(ids, **k)
    )
    ask_saying(tiny, [], "llava_v0", "seven### Human: red", *others)
    ends = max(len(tokenizer(text, add_special_tokens=False).input_ids) for text in ("seven###", *others))
    assert lengths[-1] == (40 if "a cat and a dog" in others else ends)


def test_stop_token_of_its_own(tiny: Loaded) -> None:
    tokenizer = tiny[1]
    assert chat_module.stops(tokenizer, "</s>") == ([2], [])
    assert chat_module.stops(tokenizer, "")[0] == [2]

    class WithAdded:
        eos_token, eos_token_id = "</s>", 2

        def get_added_vocab(self) -> dict[str, int]:
            return {"<|im_end|>": 77}

        def convert_tokens_to_ids(self, token: str) -> int:
            return self.get_added_vocab()[token]

    assert chat_module.stops(WithAdded(), "<|im_end|>") == ([2, 77], [])
