"""Flags of an adapter that do not fit a run end it before a model is loaded; those that do reach the optimizer."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.adapters.options import AdapterChoice, field_names
from tests.training.runs import flags, run

from pvit_ext.training.llava.arguments import RegionTrainingArguments  # isort: skip
from pvit_ext.training.llava.patched_tree import _refuse_methods  # isort: skip
from pvit_ext.training.transformers.arguments import TransformersTrainingArguments  # isort: skip

LORA: dict[str, Any] = {"stage": "finetune", "lora_enable": True}


@pytest.mark.parametrize("kind", [RegionTrainingArguments, TransformersTrainingArguments])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lora_method": "dora"}, "--lora_method dora: this run has no adapter, add --lora_enable True"),
        ({"lora_options": "{}"}, "--lora_options {}: this run has no adapter"),
        ({"loraplus_lr_ratio": 16.0}, "--loraplus_lr_ratio 16.0: this run has no adapter"),
        ({**LORA, "stage": "align"}, "--stage align trains region modules only, and the adapter"),
        ({**LORA, "lora_method": "dorra"}, "unknown LoRA method 'dorra'; known: dora, lora"),
        ({**LORA, "lora_options": '{"ranks": 2}'}, "has no field ranks; it has"),
        ({**LORA, "lora_options": '{"peft_type": "PREFIX_TUNING"}'}, "peft_type PREFIX_TUNING is refused"),
        ({**LORA, "loraplus_lr_ratio": 16.0, "optim": "adafactor"}, "--optim adafactor has others"),
        ({**LORA, "loraplus_lr_ratio": 2.0, "lora_options": '{"peft_type": "IA3"}'}, "IA3 has no matrices A and B"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit(tmp_path: Path, kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(output_dir=str(tmp_path), report_to=[], **given)


def test_a_start_that_an_old_peft_takes_for_true_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typing, "get_type_hints", lambda kind: {"init_lora_weights": bool})  # as in peft 0.4
    with pytest.raises(ValueError, match=r"init_lora_weights 'pissa': peft .* knows no such start"):
        AdapterChoice("pissa").config()


def test_an_empty_flag_is_none(tmp_path: Path) -> None:
    RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], lora_method="", lora_options="")


@pytest.mark.parametrize(("name", "value"), [("lora_method", "dora"), ("bits", 4)])
def test_a_patched_tree_makes_plain_lora_alone(tmp_path: Path, name: str, value: Any) -> None:
    given = RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], **LORA)
    setattr(given, name, value)
    with pytest.raises(ValueError, match=rf"--{name} {value}: LLaVA's own train\(\) makes plain LoRA"):
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
    with pytest.raises(ValueError, match="loraplus_lr_ratio given was True, is None"):
        run(monkeypatch, [*arguments[:index], *arguments[index + 2 :]])
