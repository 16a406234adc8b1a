"""Adapters stand on the language model alone, on all of its linear layers or on those that are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.adapters.models import arguments, learned

from pvit_ext.adapters.lora import add_lora  # isort: skip
from pvit_ext.adapters.tensors import adapter_names  # isort: skip


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


def test_layers_that_there_are_not(loaded: Any) -> None:
    with pytest.raises(
        ValueError, match=r"target_modules qproj: the language model has no such layer; it has .*q_proj"
    ):
        add_lora(loaded[1], arguments(lora_options='{"target_modules": ["qproj"]}'))
    with pytest.raises(ValueError, match=r"layers_to_transform \[7\]: the language model has no such block"):
        add_lora(loaded[1], arguments(lora_options='{"layers_to_transform": [7]}'))


def test_an_adapter_on_what_sees_is_refused(loaded: Any) -> None:
    options = '{"target_modules": ["q_proj"], "target_parameters": ["region_projector.features.weight"]}'
    with pytest.raises(
        ValueError, match=r"belongs on the language model alone, and this one changes .*region_projector"
    ):
        add_lora(loaded[1], arguments(lora_options=options))
