"""``pvit-ext plan`` for a model of transformers, against what real runs hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.held_memory import measure
from tests.training.test_plan import LORA, check
from tests.training.test_transformers_host import flags, save_stock, write_records


@pytest.mark.slow
@pytest.mark.parametrize("case", [{"stage": "finetune", "bf16": True}, {"stage": "finetune", **LORA}])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_run_holds_what_was_planned(name: str, case: dict[str, Any], tmp_path: Path) -> None:
    checkpoint, records = save_stock(name, tmp_path / "stock"), write_records(tmp_path / "data")
    given = {**case, "per_device_train_batch_size": 8, "max_steps": 1}
    words = flags(checkpoint, records, tmp_path / "out", **given)
    check(words, measure(words))
