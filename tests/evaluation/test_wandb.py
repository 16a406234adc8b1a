"""What an evaluation writes into W&B, read back from its files; no network, no account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.files import sha256_file
from tests.training.test_tracking_wandb import rows_of_history, wandb_records
from tests.training.tracked import without_wandb_settings


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    without_wandb_settings(monkeypatch, tmp_path)
    return tmp_path


def of_kind(records: list[Any], kind: str) -> list[Any]:
    return [getattr(one, kind) for one in records if one.WhichOneof("record_type") == kind]


def test_the_same_folder_is_one_run_with_metrics_report_and_the_datas_hash(
    evaluate: Any, own_set: Path, folder: Path
) -> None:
    data, answers = folder / "coco_pope_random.json", folder / "answers.jsonl"
    data.write_text("".join(f'{{"image": "0.png", "text": "A dog?", "label": "{one}"}}\n' for one in ("yes", "no")))
    answers.write_text('{"id": "0", "answer": "Yes"}\n{"id": "1", "answer": "Yes"}\n')
    for _ in range(2):
        values = evaluate("--report-to", "wandb", "--answers", answers, task="pope", data=data)
    logs = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert {path.name for path in logs} == {f"run-{(folder / 'out' / 'wandb_run.txt').read_text().strip()}.wandb"}
    records = list(wandb_records(logs[0]))
    (run,) = of_kind(records, "run")
    config = {one.key: json.loads(one.value_json) for one in run.config.update}
    assert config["run"]["data sha256"] == values["run"]["data sha256"] == sha256_file(data)
    (found,) = rows_of_history(records)
    assert found["pope/F1"] == values["metrics"]["F1"] == 2 / 3
    files = logs[0].parent / "files"
    table = json.loads((files / found["metrics.path"]).read_text())
    assert table["columns"] == ["metric", "this run", "LLaVA-1.5-7B"]
    assert ["F1", "66.67", "87.30*"] in table["data"]
    (page,) = (files / "media" / "html").glob("report*.html")
    assert "Random cases" in page.read_text()
