"""Flags of which one takes the other's effect away end a run before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvit_ext.training.llava.host import LlavaHost
from pvit_ext.training.run import parse_flags
from pvit_ext.training.stages import freeze_for_stage
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
