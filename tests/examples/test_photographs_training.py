"""The real experiment's runs: what they are told, and what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.photographs import settings as settings_module
from examples.photographs import training
from examples.photographs.arms import ARMS
from examples.photographs.settings import Settings


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    found: list[list[str]] = []

    def run(command: list[str], output: Path, name: str) -> None:
        found.append(command)
        if "fails" in output.name:
            raise RuntimeError(name)
        (output / "checkpoint-50").mkdir(parents=True)
        (output / "model").touch()

    monkeypatch.setattr(training, "run_logged", run)
    return found


def value(command: list[str], flag: str) -> str:
    return command[command.index(f"--{flag}") + 1]


def test_stage_2_goes_on_from_stage_1_or_makes_the_encoder_itself(tmp_path: Path, commands: list[list[str]]) -> None:
    trainer = training.Trainer(tmp_path, Settings(), 3)
    base, data = tmp_path / "base", tmp_path / "data.jsonl"
    trainer.align(ARMS["osprey"], base, data, tmp_path / "one")
    trainer.finetune(ARMS["osprey"], base, data, tmp_path / "two", tmp_path / "one")
    trainer.finetune(ARMS["marks"], base, data, tmp_path / "three", None)
    align, finetune, marks = commands
    assert value(align, "region_encoder_options") == '{"hidden": 576, "position_grid": 28}'
    assert value(finetune, "region_modules") == str(tmp_path / "one")
    assert "--region_encoder" not in finetune
    assert value(marks, "region_encoder") == "overlay"
    assert {value(command, "seed") for command in commands} == {"3"}


def test_a_run_saves_what_it_needs_to_go_on_until_it_is_done(tmp_path: Path, commands: list[list[str]]) -> None:
    trainer = training.Trainer(tmp_path, Settings(), 0)
    trainer.align(ARMS["crops"], tmp_path, tmp_path, tmp_path / "one")
    assert value(commands[0], "save_strategy") == "steps"
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model"]
    left = tmp_path / "fails" / "checkpoint-50"
    left.mkdir(parents=True)
    with pytest.raises(RuntimeError, match="training of"):
        trainer.align(ARMS["crops"], tmp_path, tmp_path, tmp_path / "fails")
    assert left.is_dir()


@pytest.mark.parametrize(("has", "dtype", "bf16"), [(True, "bfloat16", "True"), (False, "float32", "False")])
def test_runs_compute_in_what_the_cpu_has_instructions_for(
    has: bool, dtype: str, bf16: str, tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "cpu_has_bfloat16", lambda: has)
    settings = Settings()
    assert settings.dtype == dtype
    training.Trainer(tmp_path, settings, 0).align(ARMS["crops"], tmp_path, tmp_path, tmp_path / "one")
    assert value(commands[0], "bf16") == bf16
