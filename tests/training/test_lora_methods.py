"""Each adapter of docs/lora.md learns, reloads, merges and resumes; named methods on two ranks too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import lora_methods
from tests.samples import write_training_data
from tests.tiny import build_llava


def small_world(folder: Path) -> dict[str, Path]:
    world = {"checkpoint": build_llava(folder / "tiny"), "data": write_training_data(folder / "data")}
    world["runs"] = folder / "runs"
    world["runs"].mkdir()
    return world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return small_world(tmp_path_factory.mktemp("lora"))


@pytest.mark.slow
@pytest.mark.parametrize("trials", [lora_methods.METHODS, lora_methods.ON_TRANSFORMERS], ids=["llava", "transformers"])
def test_methods_learn_reload_merge_resume_and_do_the_same_on_two_ranks(
    trials: list[lora_methods.Trial], tmp_path: Path
) -> None:
    world = small_world(tmp_path) | lora_methods.stock_world(tmp_path)
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


@pytest.mark.slow
@pytest.mark.parametrize("trial", [*lora_methods.FIELDS, *lora_methods.TUNERS_TRIED], ids=lambda trial: trial.name)
def test_fields_and_tuners_do_on_one_process_what_the_page_says(
    trial: lora_methods.Trial, world: dict[str, Path]
) -> None:
    expected, row = lora_methods.committed()[trial.name], lora_methods.Tried(trial, world).row()
    assert row[3:] == ["equal", "equal", "bit-equal"], row
    assert (row[1], row[3:]) == (expected[1], expected[3:6])
    first, last = map(float, row[2].split(" > "))
    assert last < first, row
