"""Each named method keeps its promises: learns, reloads, merges and resumes, and is the same on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import lora_methods
from tests.samples import write_training_data
from tests.tiny import build_llava


@pytest.mark.slow
@pytest.mark.parametrize("trials", [lora_methods.METHODS, lora_methods.ON_TRANSFORMERS], ids=["llava", "transformers"])
def test_methods_learn_reload_merge_resume_and_do_the_same_on_two_ranks(
    trials: list[lora_methods.Trial], tmp_path: Path
) -> None:
    world = {"checkpoint": build_llava(tmp_path / "tiny"), "runs": tmp_path / "runs"}
    world["data"] = write_training_data(tmp_path / "data")
    world |= lora_methods.stock_world(tmp_path)
    world["runs"].mkdir()
    tried = [lora_methods.Tried(trial, world) for trial in trials]
    rows = [one.row() for one in tried]
    assert [row[3:] for row in rows] == [["equal", "equal", "bit-equal"]] * len(rows), rows
    for row in rows:
        first, last = map(float, row[2].split(" > "))
        assert "NOTHING" not in row[1], row
        assert last < first - 0.1, row
    for zero in ("zero2", "zero3"):
        lora_methods.launch(world, zero, trials)
        assert [one.on_ranks(zero, one.losses()) for one in tried] == ["equal, resumes bit-equal"] * len(tried), zero
