"""Adapters stand on the language model alone, on all of its linear layers or on those that are asked for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import pvit_ext
from tests.adapters.models import arguments, learned

from pvit_ext.adapters.lora import add_lora  # isort: skip
from pvit_ext.adapters.tensors import adapter_names  # isort: skip


@pytest.fixture(scope="module")
def base(llava_checkpoint: Path) -> Any:
    """A model that is copied for each test."""
    return pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")[1]


def layers(model: Any) -> set[str]:
    return {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in adapter_names(model)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            '{"target_modules": ["q_proj", "self_attn.v_proj"]}',
            {f"layers.{block}.self_attn.{part}_proj" for block in (0, 1) for part in "qv"},
        ),
        ('{"target_modules": ".*layers.1.mlp.up_proj"}', {"layers.1.mlp.up_proj"}),
        (
            '{"layers_to_transform": [1], "exclude_modules": ["up_proj", "down_proj", "gate_proj"]}',
            {f"layers.1.self_attn.{part}_proj" for part in "qkvo"},
        ),
        ('{"target_modules": ["q_proj"], "layers_to_transform": 0}', {"layers.0.self_attn.q_proj"}),
    ],
)  # fmt: skip
def test_layers_that_are_asked_for(loaded: Any, options: str, expected: set[str]) -> None:
    """The vision tower has a q_proj as well."""
    wrapped = learned(loaded[1], lora_options=options)
    assert layers(wrapped) == {f"model.{name}" for name in expected}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_modules": ["qproj"]}, r"target_modules qproj: the language model has no such layer; it has .*q_proj"),
        ({"target_modules": ["q_proj", "bogus"]}, "target_modules bogus: the language model has no such layer"),
        ({"target_modules": ["q_proj", "fc1"]}, "target_modules fc1: the language model has no such layer"),
        ({"target_modules": ["q_proj", "lm_head"]}, r"lm_head: the head \(lm_head\) never gets an adapter"),
        ({"target_modules": ".*head"}, r"target_modules '.\*head': the head \(lm_head\) never gets an adapter"),
        ({"target_modules": []}, "target_modules names no layer"),
        ({"target_modules": ["input_layernorm"]}, "cannot make an adapter of LORA .*: Target module .*RMSNorm"),
        ({"layers_to_transform": [7]}, r"layers_to_transform \[7\]: .*no such block as 7.*; it has blocks 0 to 1"),
        ({"layers_to_transform": [1, 99]}, r"layers_to_transform \[1, 99\]: .*no such block as 99"),
        (
            {"target_modules": ["layers.0.self_attn.q_proj", "up_proj"], "layers_to_transform": [1]},
            r"layers.0.self_attn.q_proj: no such layer is in the blocks of layers_to_transform \[1\]",
        ),
        ({"exclude_modules": ["up_proj", "bogus"]}, "exclude_modules bogus: there is no such layer .*q_proj"),
        ({"exclude_modules": ["mlp"]}, "exclude_modules mlp: there is no such layer"),
        ({"exclude_modules": ".*"}, r"exclude_modules '.\*' leaves none of the layers"),
        ({"rank_pattern": {"q_proj": 2, "bogus": 2}}, "rank_pattern bogus: no layer takes its value .*q_proj"),
        ({"rank_pattern": {"q_proj": 2, "layers.0.self_attn.q_proj": 3}}, "layers.0.self_attn.q_proj: no layer takes"),
        (
            {"layers_pattern": ["layers", "bogus"], "layers_to_transform": [0]},
            "layers_pattern bogus: the language model has no such list of blocks .*; it has layers",
        ),
        ({"layers_pattern": "bogus", "layers_to_transform": [0]}, "layers_pattern bogus: .*; it has layers"),
        ({"use_bdlora": {"match_strict": False}}, "use_bdlora names no layer: give target_modules_bd_a or .*q_proj"),
        (
            {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 0}, "target_modules": ["q_proj"]},
            "cannot make an adapter of LORA .*: integer",
        ),
        ({"alpha_pattern": {"bogus": 2}}, "alpha_pattern bogus: no layer"),
        ({"exclude_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}}, "rank_pattern q_proj: no layer"),
        (
            {"target_parameters": ["layers.0.mlp.up_proj.weight"], "rank_pattern": {"up_proj": 2}},
            "rank_pattern up_proj: no layer takes",
        ),
        ({"target_parameters": ["x"]}, "target_parameters x: the model has no such parameter; it has .*up_proj.weight"),
        (
            {"target_parameters": ["layers.0.mlp.up_proj.weight"], "target_modules": [], "layers_to_transform": [0]},
            "layers_to_transform is for target_modules",
        ),
        (
            {"peft_type": "IA3", "feedforward_modules": ["down_proj", "bogus"]},
            "feedforward_modules bogus: no such layer gets an adapter; .*down_proj",
        ),
        (
            {"peft_type": "IA3", "feedforward_modules": ["down_proj"], "target_modules": ".*q_proj"},
            "feedforward_modules down_proj: no such layer gets an adapter; those that do are q_proj",
        ),
        (
            {"peft_type": "TRAINABLE_TOKENS", "token_indices": [1], "target_modules": ["embed_tokens", "q_proj"]},
            "target_modules of TRAINABLE_TOKENS are embeddings, .* no rows of tokens: .*q_proj",
        ),
        (
            {"peft_type": "LN_TUNING", "target_modules": ["input_layernorm", "q_proj"]},
            "target_modules of LN_TUNING are norms, .* whole copy: .*q_proj",
        ),
        ({"peft_type": "LN_TUNING", "target_modules": "all-linear"}, "target_modules of LN_TUNING are norms"),
        ({"peft_type": "OFT", "oft_block_size": 7}, "oft_block_size 7 of OFT does not divide the width 48 of"),
        ({"peft_type": "OFT", "oft_block_size": 0, "r": 5}, "r 5 of OFT does not divide"),
        ({"trainable_token_indices": [1, 999999]}, r"trainable_token_indices \[999999\]: the vocabulary has"),
    ],
    ids=str,
)  # fmt: skip
def test_layers_that_there_are_not(base: Any, options: dict[str, Any], said: str) -> None:
    """One such entry among others too: peft takes what it finds, and is silent about the rest."""
    with pytest.raises(ValueError, match=said):
        add_lora(copy.deepcopy(base), arguments(lora_options=json.dumps(options)))


@pytest.mark.parametrize(
    "options",
    [
        {"use_bdlora": {"target_modules_bd_a": ["bogus"], "match_strict": False}},
        {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["bogus"], "match_strict": False}},
        {"use_bdlora": {"target_modules_bd_a": ["up_proj"], "match_strict": False}, "exclude_modules": ["up_proj"]},
    ],
    ids=str,
)
def test_blocks_of_bdlora_that_no_layer_gets(base: Any, options: dict[str, Any]) -> None:
    given = arguments(lora_options=json.dumps(options))
    with pytest.raises(ValueError, match=r"use_bdlora: target_modules_bd_[ab] (bogus|up_proj): no layer .*q_proj"):
        add_lora(copy.deepcopy(base), given)


@pytest.mark.parametrize(
    ("options", "ranks"),
    [
        ({"target_parameters": ["layers.0.mlp.up_proj.weight"], "rank_pattern": {"up_proj.weight": 2}}, {2}),
        ({"rank_pattern": {r"layers\.0\..*": 2, "q_proj": 3}, "exclude_modules": ["lm_head"]}, {2, 3, 4}),
        ({"use_bdlora": {"target_modules_bd_a": ["layers.0"], "target_modules_bd_b": ["rs.1.self", "1.mlp"]}}, {4}),
    ],
    ids=str,
)
def test_entries_that_there_are(base: Any, options: dict[str, Any], ranks: set[int]) -> None:
    wrapped = add_lora(copy.deepcopy(base), arguments(lora_options=json.dumps(options)))
    assert {min(one.shape) for name, one in wrapped.named_parameters() if ".lora_A." in name} == ranks


def test_parameters_alone(base: Any) -> None:
    options = '{"target_parameters": ["layers.0.mlp.up_proj.weight"], "target_modules": []}'
    wrapped = add_lora(copy.deepcopy(base), arguments(lora_options=options))
    assert layers(wrapped) == {"model.layers.0.mlp.up_proj"}


def test_an_adapter_on_what_sees_is_refused(loaded: Any) -> None:
    options = '{"target_modules": ["q_proj"], "target_parameters": ["region_projector.features.weight"]}'
    with pytest.raises(
        ValueError, match=r"belongs on the language model alone, and this one changes .*region_projector"
    ):
        add_lora(loaded[1], arguments(lora_options=options))
