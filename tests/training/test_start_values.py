"""New modules start as ``--seed`` says, whatever is drawn while the model is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pvit_ext.training.host import take_host
from pvit_ext.training.run import parse_flags
from tests.training import runs


@pytest.fixture(params=["llava", "transformers"])
def words(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """A run with LoRA; LLaVA's makes its mm_projector too."""
    host, checkpoint, data = runs.of_host(request, tmp_path)
    changed: dict[str, Any] = {"stage": "finetune", "lora_enable": True, "region_encoder": "replay", "seed": 3}
    if request.param == "llava":
        changed["model_name_or_path"] = write_language_model(checkpoint, tmp_path / "language")
    return [*host.flags(checkpoint, data, tmp_path, **changed), "--region_encoder_options", "{}"]


def write_language_model(llava: Path, folder: Path) -> Path:
    """A plain LLaMA of the sizes of a LLaVA."""
    values = json.loads((llava / "config.json").read_text())
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = transformers.LlamaConfig(**{name: values[name] for name in names}, pad_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(llava / name, folder)
    return folder


@pytest.mark.skipif(
    not hasattr(transformers.PreTrainedModel, "get_init_context"), reason="draws on one process as under ZeRO-3"
)
def test_what_is_drawn_while_a_model_loads_moves_no_start(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ZeRO-3 models are made for real, and their bare parameters draw."""
    stock = transformers.PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def drawing(kind: Any, *args: Any, **keywords: Any) -> Any:
        torch.rand(7)
        return stock(kind, *args, **keywords)

    starts = []
    for load in (stock, drawing):
        monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(load))
        host, rest = take_host(words)
        with host.running():
            starts.append(dict(host.load_model(parse_flags(host, rest))[0].named_parameters()))
    assert [name for name, value in starts[0].items() if not torch.equal(value, starts[1][name])] == []
