"""What LLaVA's own ``train()``, in a patched tree, refuses before it loads a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvit_ext.hosts.checkpoint_kind import LORA
from pvit_ext.training.arguments import expand_command_line
from pvit_ext.training.llava.arguments import RegionDataArguments, RegionModelArguments, RegionTrainingArguments
from pvit_ext.training.llava.patched_tree import ArgumentParser
from pvit_ext.training.start import resolve_model
from tests.hosts.test_checkpoint_kind import write
from tests.training.runs import flags


def parse(words: list[str]) -> Any:
    parser = ArgumentParser((RegionModelArguments, RegionDataArguments, RegionTrainingArguments))
    return parser.parse_args_into_dataclasses(resolve_model(expand_command_line(words)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stage": "align", "mm_projector_lr": 1e-3}, r"--mm_projector_lr 0\.001: --stage align trains region modules"),
        ({"stage": "align", "region_lion_adapters": 4}, None),
        ({"data_path": "away.json"}, r"--data_path away\.json is not there"),
        ({"region_eval_data": "away.json"}, r"--region_eval_data away\.json is not there"),
        ({"stage": "lion_region"}, "--stage lion_region"),
    ],
)
def test_flags_and_data_that_do_not_fit(
    llava_checkpoint: Path, data: Path, tmp_path: Path, given: dict[str, Any], said: str | None
) -> None:
    words = flags(llava_checkpoint, data, tmp_path / "out", **{"stage": "finetune", **given})
    if said is None:
        assert str(parse(words)[0].model_name_or_path) == str(llava_checkpoint)
        return
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{said}"):
        parse(words)


def test_the_result_of_another_run(llava_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = write(tmp_path / "out", LORA)
    with pytest.raises(ValueError, match=r"--output_dir .*out holds a LoRA result \(adapter_config\.json\), and this"):
        parse(flags(llava_checkpoint, data, out, stage="finetune"))


def test_no_model(llava_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    words = flags(llava_checkpoint, data, tmp_path / "out", stage="finetune")
    place = words.index("--model_name_or_path")
    with pytest.raises(ValueError, match=r"^--model_name_or_path is missing: a checkpoint, or a language model"):
        parse(words[:place] + words[place + 2 :])
