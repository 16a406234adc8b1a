"""Values that nothing trains with are told before a model is loaded: by flag or field, with what is valid."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pvit_ext.adapters import refusals
from pvit_ext.adapters.options import AdapterChoice
from pvit_ext.adapters.values import check_tokens
from tests.adapters.models import arguments

IMPORTS_SKLEARN = pytest.mark.slow
"""peft's config of AdaMSS does, for seconds."""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_r": 0}, "--lora_r 0: give a number above 0"),
        ({"lora_r": -2}, "--lora_r -2: give a number above 0"),
        ({"lora_alpha": 0}, "--lora_alpha 0: give a number above 0, the adapter cannot learn with it"),
        ({"lora_dropout": 1.0}, "--lora_dropout 1.0: give a part from 0 to less than 1, at 1 .* nothing"),
        ({"lora_dropout": 2.0}, "--lora_dropout 2.0: give a part from 0"),
        ({"lora_dropout": -1.0}, "--lora_dropout -1.0: give a part from 0"),
        ({"lora_bias": "bogus"}, "--lora_bias 'bogus': .*none, all"),
        ({"lora_bias": "ALL"}, "--lora_bias 'ALL': .*none, all"),
    ],
)  # fmt: skip
def test_flags(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AdapterChoice.of(arguments(**given)).config()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init_lora_weights": "bogus"}, r"'bogus': peft .* takes .*gaussian, .*pissa.*, true and false"),
        ({"rank_pattern": {"q_proj": "2"}}, "rank_pattern .*: each value is a whole number above 0, got '2'"),
        ({"rank_pattern": {"q_proj": 0}}, "each value is a whole number above 0, got 0"),
        ({"alpha_pattern": {"q_proj": True}}, "each value is a number above 0, got True"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern .*'\(' is no pattern of names \(.*position 0\)"),
        ({"target_modules": "("}, r"target_modules '\(': '\(' is no pattern of names"),
        ({"exclude_modules": "*"}, r"exclude_modules '\*': '\*' is no pattern of names"),
        ({"layers_to_transform": []}, r"layers_to_transform \[\]: it names no block; .* drop it for all of them"),
        ({"layers_pattern": "layers"}, "layers_pattern 'layers' says where .*layers_to_transform"),
        ({"trainable_token_indices": []}, r"trainable_token_indices \[\]: it names no token; .* or drop it"),
        ({"trainable_token_indices": {}}, r"trainable_token_indices \{\}: it names no token"),
        ({"trainable_token_indices": {"embed_tokens": []}}, r"indices \{'embed_tokens': \[\]\}: it names no token"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": []}, r"token_indices \[\]: it names no token"),
        ({"trainable_token_indices": [1, -3]}, r"trainable_token_indices \[1, -3\]: \[-3\] are no tokens"),
        ({"trainable_token_indices": {"embed_tokens": [-3]}}, r"\[-3\] are no tokens"),
        ({"trainable_token_indices": {"embed_tokens": ["3"]}}, r"an object \(a list \(a whole number each\) each\)"),
        ({"velora_config": {"bogus": 1}}, "velora_config of peft .* has no field bogus; it has init_type, num_groups"),
        ({"velora_config": {"num_groups": "1"}}, "velora_config 'num_groups' is a whole number, got '1'"),
        ({"velora_config": {"init_type": "bogus"}}, "velora_config: init_type 'bogus': peft .* takes batch_average"),
        ({"kasa_config": {"bogus": 1}}, "kasa_config of peft .* has no field bogus; it has"),
        ({"loftq_config": {"a": 1}}, "loftq_config of peft .* has no field a; it has loftq_bits"),
        ({"peft_type": "IA3"}, r'IA3 needs feedforward_modules, .*\["down_proj"\]'),
        ({"peft_type": "TRAINABLE_TOKENS"}, "TRAINABLE_TOKENS needs token_indices"),
        ({"peft_type": "LN_TUNING"}, r'LN_TUNING needs target_modules, the norms .*\["input_layernorm", "post_att'),
        ({"peft_type": "VERA", "r": 0}, "--lora_options: r 0: give a number above 0"),
        ({"peft_type": "VERA", "vera_dropout": 1}, "vera_dropout 1: give a part from 0"),
        ({"peft_type": "HRA", "bias": "bogus"}, "bias 'bogus': peft .* takes none, all"),
        ({"peft_type": "GLORA", "config_C": "bogus"}, "config_C 'bogus': peft .* takes lora, vector, none"),
        ({"peft_type": "OSF", "rank_pattern": {"q_proj": "2"}}, r"an object \(a whole number or a number each\)"),
    ],
    ids=str,
)  # fmt: skip
def test_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AdapterChoice.of(arguments(lora_options=json.dumps(options))).config()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"peft_type": "HRA", "apply_GS": True}, "apply_GS with an even r is refused: .*divides by 0"),
        ({"peft_type": "PVERA", "sample_at_inference": True}, "sample_at_inference is refused: .*draws"),
        ({"peft_type": "VBLORA", "save_only_topk_weights": True}, "save_only_topk_weights is refused: .*resumes"),
        pytest.param(
            {"peft_type": "ADAMSS", "mask_interval": 7}, "use_asa is refused: .*trains as", marks=IMPORTS_SKLEARN
        ),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config is refused: it is for init_lora_weights loftq"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights loftq is refused"),
        ({"eva_config": {}}, "eva_config is refused"),
        ({"corda_config": {}}, "corda_config is refused"),
        ({"lora_ga_config": {}}, "lora_ga_config is refused"),
        ({"use_qalora": True}, "use_qalora is refused: peft has it for layers of GPTQ alone"),
        ({"qalora_group_size": 8}, "use_qalora is refused"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is refused"),
        ({"peft_type": "VERA", "fan_in_fan_out": True}, "fan_in_fan_out is refused"),
        ({"megatron_core": "x"}, "megatron_core is refused"),
        ({"megatron_config": {"a": 1}}, "megatron_config is refused"),
    ],
    ids=str,
)  # fmt: skip
def test_what_breaks_a_promise_or_has_no_effect(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refusals.check(AdapterChoice.of(arguments(lora_options=json.dumps(options))).config())


@pytest.mark.parametrize(
    "options",
    [
        {"peft_type": "OFT", "r": 0, "oft_block_size": 16},
        {"peft_type": "OFT", "r": 8, "oft_block_size": 0},
        {"peft_type": "HRA", "bias": "hra_only", "apply_GS": True, "r": 3},
        {"init_lora_weights": False},
        {"peft_type": "LOKR", "init_weights": "lycoris"},
        {"peft_type": "ROAD", "variant": "road_2", "group_size": 8},
        {"peft_type": "OSF", "rank_pattern": {"q_proj": 0.5}},
        {"trainable_token_indices": {"embed_tokens": [1, 5]}, "megatron_core": "megatron.core"},
        pytest.param({"peft_type": "ADAMSS"}, marks=IMPORTS_SKLEARN),
        {"velora_config": {"init_type": "random"}, "kasa_config": {}},
    ],
    ids=str,
)
def test_what_is_right_passes(options: dict[str, Any]) -> None:
    refusals.check(AdapterChoice.of(arguments(lora_options=json.dumps(options))).config())


def test_tokens_of_a_vocabulary() -> None:
    made = AdapterChoice.of(arguments(lora_options='{"trainable_token_indices": [1, 320]}')).config()
    check_tokens(made, 321)
    with pytest.raises(ValueError, match=r"trainable_token_indices \[320\]: the vocabulary has 320 tokens, 0 to 319"):
        check_tokens(made, 320)
