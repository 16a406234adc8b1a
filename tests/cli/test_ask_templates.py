"""A conversation template that a model does not have is told before the model loads, and before a file is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pvit_ext.cli.parser import main
from pvit_ext.hosts.checkpoint_kind import CheckpointKind
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST

QUESTION = "what is in <region> ?"


def test_a_wrong_template_is_refused_before_anything_is_loaded_or_written(
    llava_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointKind, "announce", lambda _: pytest.fail("the model was loaded"))
    # The template is checked before gradio is imported, and the environment of `make test` has none.
    monkeypatch.setattr("pvit_ext.cli.demo.require_extra", lambda *_: None)
    said = {llava_checkpoint: "unknown conversation template 'v1x'; known: "}
    if HAS_TRANSFORMERS_HOST:
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {}}))
        (other / "model.safetensors").touch()
        said[other] = "conv_version='v1x' (--conv-version) names one of LLaVA's templates; a model of transformers is"
    Image.new("RGB", (20, 20)).save(tmp_path / "0.png")
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": "1", "image": "0.png", "question": "what ?"}) + "\n")
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": "a dog"}]
    record = {"id": "1", "image": "0.png", "conversations": turns, "regions": [{"box": [2, 2, 10, 10]}]}
    (tmp_path / "own.jsonl").write_text(json.dumps(record) + "\n")
    for number, (model, words) in enumerate(said.items()):
        out = tmp_path / f"out{number}"
        model_words = ["--model", str(model), "--device", "cpu", "--conv-version", "v1x"]
        asked = [*model_words, "--image-folder", str(tmp_path)]
        embeds = ["--to", "prompt-embeds", "--language-model", str(out / "lm")]
        assert main(["ask", "--file", str(tmp_path / "q.jsonl"), "--out", str(out / "e.jsonl"), *asked, *embeds]) == 2
        assert words in capsys.readouterr().err
        assert main(["ask", "what ?", "--image", str(tmp_path / "0.png"), *model_words]) == 2
        assert words in capsys.readouterr().err
        for command in ("serve", "demo"):
            assert main([command, "--port", "0", *model_words]) == 2
            assert words in capsys.readouterr().err
        assert main(["ask", "--file", str(tmp_path / "q.jsonl"), "--out", str(out / "a.jsonl"), *asked]) == 2
        assert words in capsys.readouterr().err
        own = ["eval", "own", "--data", str(tmp_path / "own.jsonl"), "--out", str(out), "--arm", "text", *asked]
        assert main(own) == 2
        assert words in capsys.readouterr().err
        assert not out.exists()
