"""Each adapter of docs/lora.md learns, reloads, merges and resumes; named methods on two ranks too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import lora_bits, lora_methods
from tests.lora_page import rows_between


def rows() -> dict[str, list[str]]:
    return rows_between(lora_methods.START, lora_methods.END, lora_methods.TRIALS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return lora_methods.tiny_world(tmp_path_factory.mktemp("lora"))


@pytest.mark.slow
@pytest.mark.parametrize("trials", [lora_methods.METHODS, lora_methods.ON_TRANSFORMERS], ids=["llava", "transformers"])
def test_methods_learn_reload_merge_resume_and_do_the_same_on_two_ranks(
    trials: list[lora_methods.Trial], tmp_path: Path
) -> None:
    world = lora_methods.tiny_world(tmp_path) | lora_methods.stock_world(tmp_path)
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
    expected, row = rows()[trial.name], lora_methods.Tried(trial, world).row()
    assert row[3:] == ["equal", "equal", "bit-equal"], row
    assert (row[1], row[3:]) == (expected[1], expected[3:6])
    first, last = map(float, row[2].split(" > "))
    assert last < first, row


def test_the_page_has_a_row_of_each_trial() -> None:
    assert list(rows()) == list(lora_methods.TRIALS)
    in_few_bits = rows_between(lora_bits.START, lora_bits.END, lora_bits.TRIALS)
    assert list(in_few_bits) == list(lora_bits.TRIALS)
    cells = [cell for row in in_few_bits.values() for cell in row[1:]]
    assert [cell for cell in cells if not cell.startswith(("goes; ", "refused: "))] == []


def test_a_trial_that_peft_does_not_take_is_no_refusal() -> None:
    with pytest.raises(ValueError, match="has no field bogus"):
        lora_bits.refusal(lora_methods.Trial("wrong", options={"bogus": 1}), 4)


@pytest.mark.parametrize(
    ("cells", "further", "said"),
    [
        (["8", "5.79 > 5.48", "equal", "4e-03 off", "bit-equal"], 4e-3, []),
        (["8", "5.79 > 5.48", "equal", "equal", "bit-equal"], 0.0, []),
        (["8", "5.79 > 5.48", "equal", "4e-03 off", "bit-equal"], 0.9, ["starts 9e-01 off its base"]),
        (["8", "5.79 > 5.48", "equal", "1e+00 off", "bit-equal"], 0.0, ["merge 1e+00 off"]),
        (["8", "5.79 > 5.48", "equal", "fails: KeyError", "bit-equal"], 0.0, ["merge fails: KeyError"]),
    ],
)  # fmt: skip
def test_what_does_not_go_in_few_bits(cells: list[str], further: float, said: list[str]) -> None:
    assert lora_bits.problems(cells, further) == said
