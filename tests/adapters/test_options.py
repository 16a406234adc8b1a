"""Which adapter the flags ask for, and what is said of those that they cannot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.adapters import refusals
from pvit_ext.adapters.methods import METHODS, LoraMethod
from pvit_ext.adapters.options import AdapterChoice
from pvit_ext.training.lora_arguments import BITS_UNDER_ZERO3
from tests.adapters.models import arguments


def config(**given: Any) -> Any:
    return AdapterChoice.of(arguments(**given)).config()


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (None, "use_rslora", False),
        ("rslora", "use_rslora", True),
        ("dora", "use_dora", True),
        ("pissa", "init_lora_weights", "pissa"),
        ("olora", "init_lora_weights", "olora"),
    ],
)
def test_a_method_is_fields_of_pefts_config(method: str | None, name: str, value: Any) -> None:
    made = config(lora_method=method, lora_r=8)
    assert getattr(made, name) == value
    assert (made.r, made.lora_alpha) == (8, 8)


def test_options_go_beside_a_method() -> None:
    made = config(lora_method="dora", lora_options='{"use_rslora": true, "rank_pattern": {"q_proj": 2}}')
    assert made.use_dora
    assert made.use_rslora
    assert made.rank_pattern == {"q_proj": 2}


def test_another_tuner_takes_its_own_fields_alone() -> None:
    made = config(lora_options='{"peft_type": "vera", "r": 16}', lora_r=2)
    assert refusals.tuner_of(made) == "VERA"
    assert made.r == 16


def test_a_package_adds_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "loha", LoraMethod("a Hadamard product", {"peft_type": "LOHA", "r": 3}))
    made = config(lora_method="loha", lora_options='{"alpha": 5}')
    assert (refusals.tuner_of(made), made.r, made.alpha) == ("LOHA", 3, 5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_method": "qora"}, r"unknown LoRA method 'qora'; known: dora, lora, olora, pissa, rslora"),
        ({"lora_options": "{r: 1}"}, r"--lora_options '{r: 1}' is no JSON"),
        ({"lora_options": "[1]"}, r"is no JSON object"),
        ({"lora_options": '{"rank": 4}'}, r"peft [\d.]+ has no field rank; it has .*init_lora_weights, .*use_dora"),
        ({"lora_options": '{"task_type": "SEQ_CLS"}'}, "has no field task_type"),
        ({"lora_options": '{"r": 4}'}, "names r, which is the flag --lora_r"),
        ({"lora_options": '{"use_dora": false}', "lora_method": "dora"}, "use_dora, which --lora_method dora sets"),
        ({"lora_options": '{"peft_type": "LOR"}'}, r"peft [\d.]+ has no peft_type LOR; it has .*LORA"),
        ({"lora_options": '{"peft_type": "VERA", "lora_alpha": 3}'}, "no field lora_alpha; it has .*d_initial"),
        ({"lora_options": '{"velora_config": {"num_groups": 0}}'}, "--lora_options: velora_config: .*num_groups"),
        ({"lora_options": '{"kasa_config": {"beta": -1.0}}'}, "--lora_options: kasa_config: .*beta"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_is_right(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(**given)


def test_a_method_that_an_older_peft_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "dora", LoraMethod("", {"use_dora_of_the_future": True}))
    with pytest.raises(ValueError, match=r"sets use_dora_of_the_future, which the LORA of peft .* does not"):
        config(lora_method="dora")


@pytest.mark.parametrize(
    ("options", "state", "said"),
    [
        ('{"init_lora_weights": "pissa_niter_4"}', {}, r"pissa_niter_\* is refused: .*under another seed"),
        ('{"init_lora_weights": "lora_ga"}', {}, "lora_ga is refused: .*is not saved"),
        ('{"init_lora_weights": "eva"}', {}, "eva is refused: .*activations"),
        ('{"modules_to_save": ["region_projector"]}', {}, "modules_to_save is refused: .*trains and saves anyway"),
        ('{"lora_bias": true}', {}, "lora_bias is refused: peft cannot merge"),
        ('{"monteclora_config": {}}', {}, "monteclora_config is refused: .*noise ahead"),
        ('{"peft_type": "LILY"}', {}, "peft_type LILY is refused: peft cannot merge it"),
        ('{"peft_type": "DELORA"}', {"zero3": True}, r"DELORA is refused under ZeRO-3 \(ZeRO-2 goes\): it learns"),
        ('{"init_lora_weights": "olora"}', {"bits": 4}, r"olora is refused with --bits 4 \(16 goes\)"),
        ('{"peft_type": "TINYLORA"}', {"bits": 8}, r"TINYLORA is refused with --bits 8 \(16 goes\): peft makes"),
        ('{"peft_type": "HRA"}', {"bits": 8}, r"HRA is refused with --bits 8 \(16 goes\): it computes"),
        ('{"peft_type": "DEFT"}', {"bits": 8}, "DEFT is refused with --bits 8"),
        ('{"peft_type": "LOHA"}', {"bits": 4}, r"LOHA is refused with --bits 4 \(16 goes\): .*; 8 bits go"),
        ('{"kasa_config": {}}', {"bits": 4}, r"kasa_config is refused with --bits 4 \(16 goes\): peft leaves it out"),
    ],
)  # fmt: skip
def test_what_would_lose_something_is_refused_with_the_reason(options: str, state: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refusals.check(config(lora_options=options), **state)


@pytest.mark.parametrize("options", ['{"peft_type": "DELORA"}', '{"init_lora_weights": "olora"}'])
def test_what_fails_under_a_condition_is_accepted_without_it(options: str) -> None:
    refusals.check(config(lora_options=options))


def test_what_four_bits_alone_refuse_goes_with_eight() -> None:
    refusals.check(config(lora_options='{"peft_type": "LOHA"}'), bits=8)


def test_what_cannot_resume_may_answer() -> None:
    made = config()
    made.monteclora_config = object()  # an older peft has no such field
    with pytest.raises(ValueError, match="monteclora_config is refused"):
        refusals.check(made)
    refusals.check(made, training=False)


def test_the_page_gives_the_reasons_of_today() -> None:
    page = (Path(__file__).parents[2] / "docs" / "lora.md").read_text()
    always = {f"`peft_type` {name}": why for name, why in refusals.TUNERS.items()}
    always |= {f"`init_lora_weights` {name}": why for name, why in refusals.INITS.items()}
    only = {"always": "", "training": " (when training alone)"}
    always |= {one.name + only[one.when]: one.reason for one in refusals.FIELDS}
    assert [f"| {name} | {why} |" for name, why in always.items() if f"| {name} | {why} |" not in page] == []
    found = set(re.findall(r"\| refused: ([^|]+?) (?=\|)", page))
    assert found - {one.reason for one in refusals.CONDITIONS} == {BITS_UNDER_ZERO3}
    assert {one.reason for one in refusals.CONDITIONS if "bits" in one.when} <= found
