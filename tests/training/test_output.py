"""A run does not write among the files of another kind of result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pvit_ext.hosts.checkpoint_kind import CHECKPOINT, LORA, MERGED, REGIONS
from pvit_ext.tools import merge
from pvit_ext.training.host import take_host
from pvit_ext.training.output import check_output
from pvit_ext.training.start import resolve_model
from tests.hosts.test_checkpoint_kind import write
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training.runs import of_host

RUNS: dict[str, dict[str, Any]] = {
    CHECKPOINT: {"stage": "finetune"}, LORA: {"stage": "finetune", "lora_enable": True}, REGIONS: {"stage": "align"},
}  # fmt: skip


NAMES = ["llava", *["transformers"] * HAS_TRANSFORMERS_HOST]


@pytest.fixture(params=NAMES)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return of_host(request, tmp_path)


def test_a_run_beside_another_kind_of_result_ends_before_the_model_loads(
    host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, checkpoint, data = host
    for name in NAMES:
        kind = type(take_host(["--host", name])[0])
        monkeypatch.setattr(kind, "load_model", lambda *_: pytest.fail("the model was loaded"))
    out = write(tmp_path / "out", LORA)
    with pytest.raises(ValueError, match=r"--output_dir .*out holds a LoRA result \(adapter_config\.json\), and this"):
        training.run(monkeypatch, training.flags(checkpoint, data, out, stage="finetune"))


@pytest.mark.parametrize("there", [CHECKPOINT, LORA, REGIONS])
@pytest.mark.parametrize("own", [CHECKPOINT, LORA, REGIONS])
def test_only_its_own_kind_is_written_over(there: str, own: str, tmp_path: Path) -> None:
    folder, lora = str(write(tmp_path / "out", there)), bool(RUNS[own].get("lora_enable"))
    if there == own:
        check_output(folder, RUNS[own]["stage"], lora)
        return
    with pytest.raises(ValueError, match=rf"holds {there} \(.*\), and this run writes {own}, .*another --output_dir"):
        check_output(folder, RUNS[own]["stage"], lora)


@pytest.mark.parametrize(
    ("there", "words", "own"),
    [
        (REGIONS, ["--lora_enable", "True"], LORA),
        (CHECKPOINT, ["--lora-enable"], LORA),
        (REGIONS, ["--lora_enable", "--stage", "finetune"], LORA),
        (LORA, ["--lora_enable", "False"], CHECKPOINT),
        (LORA, [], CHECKPOINT),
        (LORA, ["--stage", "align"], REGIONS),
    ],
)
def test_a_lora_result_is_not_merged_into_the_folder_of_another_result(
    there: str, words: list[str], own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merge comes before all flags are read, and takes minutes and the disk of a model."""
    monkeypatch.setattr(merge, "merge_checkpoint", lambda *_: pytest.fail("the model was merged"))
    out = write(tmp_path / "out", there)
    given = ["--model_name_or_path", str(write(tmp_path / "lora", LORA)), "--output_dir", str(out), *words]
    with pytest.raises(ValueError, match=rf"holds {there} \(.*\), and this run writes {own}, "):
        resolve_model(given)


def test_a_lora_result_is_merged_beside_one_of_the_runs_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "merge_checkpoint", lambda source, out, base: Path(out).mkdir())
    monkeypatch.setattr(merge, "is_merge_of", lambda *_: True)
    out = write(tmp_path / "out", LORA)
    given = ["--model_name_or_path", str(write(tmp_path / "lora", LORA)), "--output_dir", str(out), "--lora_enable"]
    assert resolve_model(given)[-1] == str(out / MERGED)
