"""``pvit-ext doctor CHECKPOINT`` says which host reads a folder and what it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pvit_ext
from pvit_ext import cli
from pvit_ext.tools import doctor
from tests.checkpoints import config, load
from tests.hosts.transformers.zoo import ZOO


def examined(folder: Path, capsys: Any, status: int = 0) -> dict[str, str]:
    assert cli.main(["doctor", str(folder), "--json"]) == status
    found: dict[str, str] = json.loads(capsys.readouterr().out)["checkpoint"]
    return found


@pytest.fixture
def of_transformers(tmp_path: Path) -> Path:
    for part in ZOO["llava"]():
        part.save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


def test_a_llava(llava_checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    found = examined(llava_checkpoint, capsys)
    assert (found["holds"], found["host"]) == ("a whole checkpoint", "llava")
    assert found["model"] == "LlavaLlamaForCausalLM (llava_llama)"
    assert found["region encoder"].startswith("none: pvit_ext.attach")
    model = load(llava_checkpoint, region_config=config())
    pvit_ext.save_region_modules(model, tmp_path / "regions", base=str(llava_checkpoint))
    found = examined(tmp_path / "regions", capsys)
    assert found["holds"] == f"region modules on {llava_checkpoint}"
    assert found["region encoder"].startswith("regionclip, T = 1, C = ")


def test_a_model_of_transformers(of_transformers: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(of_transformers, capsys)
    assert (found["host"], found["model"]) == ("transformers", "LlavaForConditionalGeneration (llava)")
    monkeypatch.setattr(doctor, "_llava", lambda: {"llava": "not installed"})  # which such a folder does not need
    examined(of_transformers, capsys)


def test_what_nobody_reads(tmp_path: Path, capsys: Any) -> None:
    assert "no such checkpoint folder" in examined(tmp_path / "missing", capsys, 1)[str(tmp_path / "missing")]
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    assert "'bert'" in examined(tmp_path, capsys, 1)[str(tmp_path)]
