"""A LoRA result is complete with its last file, or it says that it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from pvit_ext.adapters.lora import ADAPTER_CONFIG, NON_LORA_FILE
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.training import lora_checkpoint


@pytest.mark.parametrize("broken", ["region modules", "others"])
def test_a_save_that_breaks_off_leaves_no_result_of_two_runs(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Written over an older one: its adapter, beside the new region modules, would load without a word."""
    _, model, _ = loaded
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    lora_checkpoint.save_adapter(tuned, str(tmp_path), True)
    assert find_kind(str(tmp_path)).adapter

    def disk_full(_state: Any, path: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    if broken == "others":
        monkeypatch.setattr(torch, "save", disk_full)
    else:
        monkeypatch.setattr(tuned, "save_pretrained", lambda *_, **__: disk_full(None, tmp_path / ADAPTER_CONFIG))
    with pytest.raises(OSError, match="No space"):
        lora_checkpoint.save_adapter(tuned, str(tmp_path), True)
    assert not (tmp_path / NON_LORA_FILE).exists()
    with pytest.raises(FileNotFoundError, match="is of an interrupted LoRA run"):
        find_kind(str(tmp_path))
