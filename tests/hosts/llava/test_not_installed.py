"""Where LLaVA is not installed, its checkpoints are refused with what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pvit_ext
from pvit_ext.tools.examine import examine
from pvit_ext.training.host import HOSTS


def test_a_checkpoint_of_llava_names_what_is_missing(llava_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llava", None)
    for call in (
        lambda: pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu"),
        lambda: examine(str(llava_checkpoint)),
        lambda: HOSTS.require("llava")(),
    ):
        with pytest.raises(ImportError, match=r"llava, which is not installed: pip install --no-deps llava-torch"):
            call()
