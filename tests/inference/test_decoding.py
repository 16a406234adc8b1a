"""What a checkpoint's own generation config does to answers, what is told of it, and what a caller's decides."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvit_ext.inference.answering import Asking
from pvit_ext.inference.decoding import described, one_likeliest, own_mark, own_options


@pytest.mark.parametrize(
    ("own", "config", "said"),
    [
        # from 4.50 on transformers 4 fills what a config leaves at a default, such as 1 beam, with the model's value
        ({"num_beams": 3}, {"do_sample": False, "num_beams": 1}, {"do_sample": False, "num_beams": 1}),
        ({"do_sample": True}, {"do_sample": False, "use_cache": True}, {"use_cache": True, "do_sample": False}),
        ({"num_beams": 3}, {"do_sample": True, "num_beams": 2, "use_cache": False}, {}),
        # a transformers that does not know an option keeps it on the model's config alone, and refuses it by another
        ({"use_mtp": True}, {"do_sample": False, "use_cache": True}, {"use_cache": True, "do_sample": False}),
    ],
)
def test_a_config_that_leaves_a_default_asks_for_no_beams(
    own: dict[str, Any], config: dict[str, Any], said: dict[str, Any]
) -> None:
    found = one_likeliest(SimpleNamespace(**own), SimpleNamespace(**config), ())
    assert found == said


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({}, "greedy"),
        ({"do_sample": True, "temperature": 0.2, "num_beams": 3, "num_return_sequences": 2}, "greedy"),
        ({"penalty_alpha": 0.6, "top_k": 4, "dola_layers": "low", "max_time": 9.0}, "greedy"),  # none is used
        ({"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "max_length": 20}, "greedy"),
        (
            {"repetition_penalty": 1.3, "suppress_tokens": [5]},
            "greedy, repetition_penalty 1.3, suppress_tokens [5] of the checkpoint",
        ),
    ],
)
def test_decoding_says_what_the_checkpoint_adds(tmp_path: Path, own: dict[str, Any], said: str) -> None:
    config = {"model_type": "llava_llama"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert described(own_options(str(tmp_path))) == "greedy"
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    assert described(own_options(str(tmp_path))) == said
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config | own))  # as old versions of transformers have it
    assert described(own_options(str(tmp_path))) == said


@pytest.mark.parametrize(
    "own", [{"num_beams": 2}, {"penalty_alpha": 0.6}, {"dola_layers": "low"}, {"force_words_ids": [[3]]}]
)
def test_answers_of_an_earlier_version_by_beams_are_marked(tmp_path: Path, own: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava_llama"}')
    asking = Asking(str(tmp_path), "mark", dtype="float32")
    assert "decoding" not in asking.depends()
    (tmp_path / "generation_config.json").write_text(json.dumps(own))
    assert asking.depends()["decoding"] == own_mark(own)["decoding"] == "greedy"


def test_what_gives_the_same_answers_is_not_marked() -> None:
    assert not own_mark({"num_beams": 1, "penalty_alpha": 0.0, "force_words_ids": [], "prompt_lookup_num_tokens": 3})
