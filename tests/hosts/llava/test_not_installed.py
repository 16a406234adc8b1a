"""Where LLaVA is not installed, its checkpoints are refused with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pvit_ext
from pvit_ext.tools.examine import examine
from pvit_ext.training.host import HOSTS


def test_every_host_can_be_looked_up() -> None:
    """In a process of its own: what another test has imported is not looked for again."""
    code = (
        "import sys; sys.modules['llava'] = None; from pvit_ext.hosts.find import HOSTS; "
        "[HOSTS.require(name) for name in HOSTS.names()]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_checkpoint_of_llava_names_what_is_missing(llava_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llava", None)
    for call in (
        lambda: pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu"),
        lambda: examine(str(llava_checkpoint)),
        lambda: HOSTS.require("llava")(),
    ):
        with pytest.raises(ImportError, match=r"llava, which is not installed: pip install --no-deps llava-torch"):
            call()
