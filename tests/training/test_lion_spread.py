"""Training LION's adapters: the same losses on one process and on two whose batches are of different tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training.test_aggregator import check_spread, transformers_world, with_records
from tests.training.test_distributed import world

__all__ = ["world"]

BY_TASK = ("--region_lion_adapters", "4")
BY_QUESTION = (*BY_TASK, "--region_lion_routing", "question")
LORA = ("--lora_enable", "True", "--lora_r", "4", "--lora_dropout", "0")
ROWS = [BY_TASK, BY_QUESTION, (*BY_TASK, *LORA)]
NAMES = ["by task", "by question", "by task, beside LoRA"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ROWS, ids=NAMES)
def test_losses_do_not_depend_on_how_a_batch_is_spread(
    world: dict[str, Any], tmp_path: Path, how: tuple[str, ...]
) -> None:
    records = json.loads(world["DATA"].read_text())
    for record in records[1::2]:
        del record["regions"]
        record["conversations"][0]["value"] = "<image>\nWhat is in this picture?"
    del records[1]["image"]
    records[1]["conversations"][0]["value"] = "What is this?"
    check_spread(with_records(world, records, tmp_path), tmp_path, *how)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="transformers is too old for its own host")
@pytest.mark.parametrize("how", ROWS, ids=NAMES)
def test_nor_in_models_of_transformers(tmp_path: Path, how: tuple[str, ...]) -> None:
    some, own = transformers_world("llava", tmp_path)
    check_spread(some, tmp_path, *own, *how)
