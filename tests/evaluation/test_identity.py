"""What answers depend on: every file that a checkpoint's answers are made from, the vision tower's among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvit_ext.cli import main
from pvit_ext.evaluation.identity import checkpoint_mark
from pvit_ext.files import read_json
from pvit_ext.inference.answering import Asking


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A LLaVA that names its vision tower by path, in the fewest files."""
    tower, folder = tmp_path / "tower", tmp_path / "llava"
    for path, name in ((tower, "clip_vision_model"), (folder, "llava_llama")):
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"model_type": name, "mm_vision_tower": str(tower)}))
        (path / "model.safetensors").write_bytes(name.encode())
    (tower / "preprocessor_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_another_vision_tower_is_another_model(checkpoint: Path, name: str) -> None:
    before = checkpoint_mark(str(checkpoint))
    assert checkpoint_mark(str(checkpoint)) == before
    tower = Path(read_json(checkpoint / "config.json")["mm_vision_tower"])
    (tower / name).write_text('{"other": 1}')
    assert checkpoint_mark(str(checkpoint)) != before


@pytest.mark.parametrize(
    "name", ["vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json"]
)
def test_other_words_of_the_tokenizer_are_another_model(checkpoint: Path, name: str) -> None:
    before = checkpoint_mark(str(checkpoint))
    (checkpoint / name).write_text("{}")
    assert checkpoint_mark(str(checkpoint)) != before


def test_answers_of_another_vision_tower_are_not_gone_on_with(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before the model loads, as of any other change of the checkpoint."""
    (tmp_path / "q.jsonl").write_text('{"id": "0", "question": "where ?"}\n')
    run = Asking(str(checkpoint), checkpoint_mark(str(checkpoint)), device="cpu").depends()
    (tmp_path / "a.jsonl").write_text(json.dumps({"run": run}) + '\n{"id": "0", "answer": "here"}\n')
    (tmp_path / "tower" / "model.safetensors").write_bytes(b"of another training")
    words = ["ask", "--file", str(tmp_path / "q.jsonl"), "--model", str(checkpoint), "--out", str(tmp_path / "a.jsonl")]
    assert main([*words, "--device", "cpu"]) == 2
    assert "model was" in capsys.readouterr().err
