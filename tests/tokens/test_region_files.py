"""When files of region modules are written, and that a save which was interrupted is no checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pvit_ext
from pvit_ext.tokens.serialization import CONFIG_FILE, MODULES_FILE, read_region_config
from tests.checkpoints import config


def test_write_false_writes_nothing(named: Any, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(named, tmp_path, write=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crash_at", [MODULES_FILE, CONFIG_FILE])
def test_interrupted_save_is_no_checkpoint(
    named: Any, tmp_path: Path, crash_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over an older save: never the tensors of one save beside the config of another."""
    pvit_ext.save_region_modules(named, tmp_path)
    replace = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if Path(target).name == crash_at:
            raise OSError("power cut")
        return replace(self, target)

    pvit_ext.attach(named, config(weights=named.region_config.weights, delimiters=False))
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        pvit_ext.save_region_modules(named, tmp_path)
    monkeypatch.undo()
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]
    with pytest.raises(FileNotFoundError, match="interrupted"):
        read_region_config(tmp_path)
    pvit_ext.save_region_modules(named, tmp_path)
    assert read_region_config(tmp_path)[0] == named.region_config
