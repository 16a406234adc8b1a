"""Flags of an adapter that do not fit a run end it before a model is loaded; those that do reach the optimizer."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig

from pvit_ext.adapters.options import AdapterChoice, field_names
from pvit_ext.training.lora_arguments import adapter_identity, check_tokens_of
from tests.training.runs import flags, run

from pvit_ext.training.llava.arguments import RegionTrainingArguments  # isort: skip
from pvit_ext.training.llava.patched_tree import _refuse_methods  # isort: skip
from pvit_ext.training.transformers.arguments import TransformersTrainingArguments  # isort: skip

LORA: dict[str, Any] = {"stage": "finetune", "lora_enable": True}
IA3 = '{"peft_type": "IA3", "feedforward_modules": ["down_proj"]}'


@pytest.mark.parametrize("kind", [RegionTrainingArguments, TransformersTrainingArguments])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_method": "dora"}, "--lora_method dora: this run has no adapter, add --lora_enable True"),
        ({"lora_options": "{}"}, "--lora_options {}: this run has no adapter"),
        ({"loraplus_lr_ratio": 16.0}, "--loraplus_lr_ratio 16.0: this run has no adapter"),
        ({"lora_r": 8}, "--lora_r 8: this run has no adapter, add --lora_enable True or drop the flag"),
        ({"lora_alpha": 3}, "--lora_alpha 3: this run has no adapter"),
        ({"lora_dropout": 0.5}, "--lora_dropout 0.5: this run has no adapter"),
        ({"lora_bias": "all"}, "--lora_bias all: this run has no adapter"),
        ({"quant_type": "fp4"}, "--quant_type fp4 is a way to store 4 bits, and this run has --bits 16"),
        ({**LORA, "quant_type": "bogus"}, "--quant_type bogus is a way to store 4 bits, and this run has --bits 16"),
        ({**LORA, "bits": 8, "quant_type": "fp4"}, "--quant_type fp4 .* has --bits 8: add --bits 4, or drop"),
        ({**LORA, "double_quant": False}, "--double_quant False is a way to store 4 bits"),
        ({**LORA, "lora_options": '{"use_dora": true, "use_dora": false}'}, "gives use_dora twice"),
        ({**LORA, "lora_alpha": 0}, "--lora_alpha 0: give a number above 0"),
        ({**LORA, "stage": "align"}, "--stage align trains region modules only, and the adapter"),
        ({**LORA, "lora_method": "dorra"}, "unknown LoRA method 'dorra'; known: dora, lora"),
        ({**LORA, "lora_options": '{"ranks": 2}'}, "has no field ranks; it has"),
        ({**LORA, "lora_options": '{"peft_type": "PREFIX_TUNING"}'}, "peft_type PREFIX_TUNING is refused"),
        ({**LORA, "loraplus_lr_ratio": 16.0, "optim": "adafactor"}, "--optim adafactor has others"),
        ({**LORA, "loraplus_lr_ratio": 2.0, "lora_options": IA3}, "IA3 has no matrices A and B"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(tmp_path: Path, kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(output_dir=str(tmp_path), report_to=[], **given)


def test_a_start_that_an_old_peft_takes_for_true_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing, "get_type_hints", lambda kind: {"init_lora_weights": bool})  # as in peft 0.4
    with pytest.raises(ValueError, match=r"init_lora_weights 'pissa': peft .* knows no such start"):
        AdapterChoice("pissa").config()


def test_flags_without_effect_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="pvit_ext"):
        RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], **LORA, lora_r=128, lora_options=IA3)
    assert "without effect, because IA3 takes the fields of --lora_options alone: --lora_r 128" in caplog.text


@pytest.mark.skipif(not hasattr(LoraConfig, "trainable_token_indices"), reason="this peft trains no single tokens")
def test_tokens_that_a_checkpoint_does_not_have(llava_checkpoint: Path, tmp_path: Path) -> None:
    own = {**LORA, "lora_options": '{"trainable_token_indices": [1, 999999]}'}
    given = RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], **own)
    with pytest.raises(ValueError, match=r"trainable_token_indices \[999999\]: the vocabulary has [\d,]+ tokens"):
        check_tokens_of(given, str(llava_checkpoint))
    check_tokens_of(given, "no/such-checkpoint")


@pytest.mark.parametrize(
    ("name", "value"), [("quant_type", "fp4"), ("double_quant", False), ("bits", 8), ("loraplus_lr_ratio", 8)]
)
def test_what_a_resumed_run_cannot_change(tmp_path: Path, name: str, value: Any) -> None:
    """Another base under the adapter, and rates that a checkpoint restores."""
    given = RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], **LORA, loraplus_lr_ratio=4)
    given.bits = 4
    before = adapter_identity(given)
    setattr(given, name, value)
    assert adapter_identity(given).get(name) != before[name]


def test_an_empty_flag_is_none(tmp_path: Path) -> None:
    RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], lora_method="", lora_options="")


@pytest.mark.parametrize(("name", "value"), [("lora_method", "dora"), ("bits", 4), ("lora_bias", "all")])
def test_a_patched_tree_makes_plain_lora_alone(tmp_path: Path, name: str, value: Any) -> None:
    given = RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], **LORA)
    setattr(given, name, value)
    with pytest.raises(ValueError, match=rf"--{name} {value}: LLaVA's own train\(\)"):
        _refuse_methods(given)


def test_a_run_with_lora_plus_keeps_the_rate_of_the_projector(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    method = "dora" if "use_dora" in field_names("LORA") else "lora"  # peft 0.4 of LLaVA's pins has plain LoRA alone
    own = {**LORA, "lora_method": method, "lora_r": 2, "loraplus_lr_ratio": 4, "mm_projector_lr": 1e-4}
    saves = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant"}
    arguments = flags(llava_checkpoint, data, tmp_path, **own, **saves, learning_rate=1e-3)
    trainer = run(monkeypatch, arguments)
    rates = {id(one): group["lr"] for group in trainer.optimizer.param_groups for one in group["params"]}
    named = {name: rates[id(one)] for name, one in trainer.model.named_parameters() if one.requires_grad}
    assert {rate for name, rate in named.items() if ".lora_B." in name} == {4e-3}
    assert {rate for name, rate in named.items() if "mm_projector" in name} == {1e-4}
    others = {name: rate for name, rate in named.items() if ".lora_B." not in name and "mm_projector" not in name}
    assert set(others.values()) == {1e-3}
    assert any("magnitude" in name for name in others) == (method == "dora")
    assert any("region_projector" in name for name in others)
    index = arguments.index("--loraplus_lr_ratio")
    with pytest.raises(ValueError, match=r"loraplus_lr_ratio was 4\.0, is None"):
        run(monkeypatch, [*arguments[:index], *arguments[index + 2 :]])
