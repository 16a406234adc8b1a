"""README's first Python example runs, on a checkpoint of LLaVA's code and on one of transformers' classes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hosts.tiny_hosts import OSPREY, SAVED, TinyHost, photo, save

README = Path(__file__).parents[2] / "README.md"
FOLDER, IMAGE = "runs/quickstart/stage2", "runs/quickstart/held_out.png"


@pytest.mark.parametrize("host", SAVED, indirect=True)
def test_the_first_example(
    host: TinyHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    assert all(f'"{name}"' in code[1] for name in (FOLDER, IMAGE))
    save(host, host.talking(OSPREY), tmp_path / FOLDER)
    photo(96, 96, 0).save(tmp_path / IMAGE)
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1], str(README), "exec"), {})
    assert capsys.readouterr().out.strip()
