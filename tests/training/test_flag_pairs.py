"""Flags without effect, and flags of which one takes the other's effect away end a run before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import trainer_utils

from pvit_ext.training.host import take_host
from pvit_ext.training.llava.arguments import RegionTrainingArguments
from pvit_ext.training.llava.host import LlavaHost
from pvit_ext.training.run import parse_flags
from pvit_ext.training.stages import freeze_for_stage
from pvit_ext.training.transformers.arguments import TransformersTrainingArguments
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training.runs import flags


def parse(host: Any, checkpoint: Path, output: Path, **given: Any) -> Any:
    words = flags(checkpoint, output / "none.json", output, **given)
    return parse_flags(host, words)


def test_an_adapter_that_another_flag_freezes_is_refused(llava_checkpoint: Path, tmp_path: Path) -> None:
    own = {"stage": "finetune", "lora_enable": True, "tune_mm_mlp_adapter": True}
    with pytest.raises(ValueError, match=r"--lora_enable True with --tune_mm_mlp_adapter True, .* would not learn"):
        parse(LlavaHost(), llava_checkpoint, tmp_path, **own)


@pytest.mark.parametrize("trains", [True, False])
def test_an_adapter_that_anything_freezes_is_refused(llava_checkpoint: Path, tmp_path: Path, trains: bool) -> None:
    host = LlavaHost()
    own = {"stage": "finetune", "lora_enable": True, "lora_r": 2}
    model = host.outline_model(parse(host, llava_checkpoint, tmp_path, **own))
    model.requires_grad_(trains)
    if trains:
        freeze_for_stage(model, "finetune")
        return
    with pytest.raises(ValueError, match=r"--lora_enable True: all of the adapter is frozen .* would not learn"):
        freeze_for_stage(model, "finetune")


@pytest.mark.parametrize("kind", [RegionTrainingArguments, TransformersTrainingArguments])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"region_eval_samples": 4}, "--region_eval_samples 4: this run has no held-out records"),
        ({"region_eval_steps": 5}, r"--region_eval_steps 5: .* give --region_eval_data FILE, or drop the flag"),
        ({"region_eval_records": 5}, "--region_eval_records 5: this run has no held-out records"),
        ({"metric_for_best_model": "loss"}, "--metric_for_best_model loss: this run has no held-out records"),
        ({"greater_is_better": False}, "--greater_is_better False: this run has no held-out records"),
    ],
)
def test_flags_of_held_out_records_need_some(tmp_path: Path, kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(output_dir=str(tmp_path), report_to=[], **given)
    kind(output_dir=str(tmp_path), report_to=[], region_eval_data="x.json", **given)


EVALUATE = "eval_strategy" if hasattr(TransformersTrainingArguments, "eval_strategy") else "evaluation_strategy"


@pytest.mark.parametrize("kind", [RegionTrainingArguments, TransformersTrainingArguments])
@pytest.mark.parametrize("held_out", [None, "x.json"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({EVALUATE: "steps", "eval_steps": 5}, f"--{EVALUATE} steps: transformers' own evaluation, .* is not used"),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "--load_best_model_at_end True: .* drop the flag"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", EVALUATE: "epoch"}, f"--{EVALUATE} epoch: transformers' own"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "reduce_lr_on_plateau requires an eval strategy"),
    ],
)
def test_transformers_own_evaluation_is_refused_before_the_model_loads(
    tmp_path: Path, kind: Any, held_out: str | None, given: dict[str, Any], said: str
) -> None:
    """Its Trainer has no records for it; without saving it loads no best model, and says nothing."""
    with pytest.raises(ValueError, match=said):
        kind(output_dir=str(tmp_path), report_to=[], region_eval_data=held_out, **given)


STARTS = [("eval_on_start", True)] if hasattr(TransformersTrainingArguments, "eval_on_start") else []


@pytest.mark.parametrize("kind", [RegionTrainingArguments, TransformersTrainingArguments])
@pytest.mark.parametrize("held_out", [None, "x.json"])
@pytest.mark.parametrize(("name", "value"), [("do_eval", True), ("eval_steps", 1), ("eval_steps", 0), *STARTS])
def test_flags_that_go_with_transformers_evaluation_are_refused(
    tmp_path: Path, kind: Any, held_out: str | None, name: str, value: Any
) -> None:
    said = rf"--{name} {value}: transformers' own .* --region_eval_steps N measures every N steps"
    with pytest.raises(ValueError, match=said):
        kind(output_dir=str(tmp_path), report_to=[], region_eval_data=held_out, **{name: value})


@pytest.mark.parametrize("kind", [RegionTrainingArguments, TransformersTrainingArguments])
def test_no_evaluation_is_what_llavas_scripts_say(tmp_path: Path, kind: Any) -> None:
    own: dict[str, Any] = {"per_device_eval_batch_size": 4, "do_eval": False, EVALUATE: "no"}
    for given in ({}, own, {**own, "save_strategy": "steps", "save_steps": 50000}):
        for held_out in (None, "x.json"):
            kind(output_dir=str(tmp_path), report_to=[], region_eval_data=held_out, **given)


@pytest.mark.skipif(not hasattr(trainer_utils, "SaveStrategy"), reason="this transformers saves no best")
def test_saving_by_transformers_own_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--save_strategy best: transformers' own evaluation, .* is not used here"):
        RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], save_strategy="best")


def test_a_table_without_a_tracker_is_said_to_be_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own: dict[str, Any] = {"region_eval_data": "x.json", "region_eval_samples": 4}
    RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], **own)
    assert "without effect, because no tracker of --report_to has tables: --region_eval_samples 4" in caplog.text


def test_llavas_flag_for_an_adapter_loads_none_and_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--lora_weight_path X: no adapter is loaded .* --model_name_or_path X"):
        RegionTrainingArguments(output_dir=str(tmp_path), report_to=[], lora_weight_path="X")


@pytest.mark.parametrize("stage", ["align", "lion_image"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"mm_projector_lr": 1e-3},
            r"--mm_projector_lr 0\.001: --stage {} trains region modules only, and mm_projector",
        ),
        ({"tune_mm_mlp_adapter": True}, "--tune_mm_mlp_adapter True: --stage {} trains region modules only"),
    ],
)
def test_what_is_for_mm_projector_needs_a_stage_that_trains_it(
    llava_checkpoint: Path, tmp_path: Path, stage: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said.format(stage)):
        parse(LlavaHost(), llava_checkpoint, tmp_path, stage=stage, **given)


@pytest.mark.parametrize("host", ["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def test_a_rate_of_a_frozen_mm_projector_is_said_to_have_no_effect(
    host: str, llava_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The recipe with LoRA gives one, and its user may freeze it."""
    own: dict[str, Any] = {"stage": "finetune", "freeze_mm_mlp_adapter": True}
    of_host, _ = take_host(["--host", host])
    parse(of_host, llava_checkpoint, tmp_path, mm_projector_lr=1e-3, **own)
    assert "without effect, because --freeze_mm_mlp_adapter True freezes mm_projector: --mm_projector_lr 0.001" in (
        caplog.text
    )
    caplog.clear()
    parse(of_host, llava_checkpoint, tmp_path, **own)
    assert "--mm_projector_lr" not in caplog.text


def test_mm_projector_is_not_trained_alone_and_frozen(llava_checkpoint: Path, tmp_path: Path) -> None:
    own = {"stage": "finetune", "tune_mm_mlp_adapter": True, "freeze_mm_mlp_adapter": True}
    with pytest.raises(ValueError, match="--tune_mm_mlp_adapter True with --freeze_mm_mlp_adapter True"):
        parse(LlavaHost(), llava_checkpoint, tmp_path, **own)


@pytest.mark.parametrize("host", ["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def test_no_model_is_said_by_every_host(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--model_name_or_path is missing: a checkpoint, or a language model"):
        parse_flags(take_host(["--host", host])[0], ["--output_dir", str(tmp_path)])
