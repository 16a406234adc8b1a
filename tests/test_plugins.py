"""What another package registers reaches every command line: by ``--plugin MODULE`` and by entry point."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pvit_ext import plugins
from pvit_ext.cli import main
from pvit_ext.plugins import Registry, take_plugins

MODULE = """
import pvit_ext
from pvit_ext.encoders.text import build
pvit_ext.register_region_encoder("{name}")(build)
print("imported")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the current folder, of a new name."""
    name = f"plugin_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE.format(name=name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    return name


@pytest.mark.parametrize("style", ["--plugin {}", "--plugin={}"])
def test_modules_are_imported_and_taken_out(module: str, style: str) -> None:
    from pvit_ext.encoders.base import region_encoder_names

    words = style.format(module).split()
    assert take_plugins(["ask", *words, "--device", "cpu"]) == ["ask", "--device", "cpu"]
    assert module in region_encoder_names()


@pytest.mark.parametrize(
    ("words", "said"), [(["--plugin"], "takes the name of a module"), (["--plugin", "no.such"], "no")]
)
def test_a_module_that_is_not_there_is_an_error(words: list[str], said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["doctor", *words])
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


def test_every_command_takes_it_anywhere(module: str) -> None:
    words = [sys.executable, "-m", "pvit_ext.cli", "doctor", "--help", "--plugin", module]
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "imported" in done.stdout


def test_training_takes_it_from_its_line_and_its_yaml(module: str, tmp_path: Path) -> None:
    from pvit_ext.training.arguments import expand_command_line
    from tests.training.runs import compat  # noqa: F401  (prepares LLaVA's imports)

    (tmp_path / "run.yaml").write_text(f"plugin: {module}\nlearning_rate: 0.1\n")
    assert expand_command_line(["--config", str(tmp_path / "run.yaml")]) == ["--learning_rate", "0.1"]
    assert module in sys.modules


def test_registry_asks_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name="theirs", load=lambda: str)
    monkeypatch.setattr(
        plugins.importlib.metadata, "entry_points", lambda group: [point] if group == "pvit_ext.things" else []
    )
    registry: Registry[Any] = Registry("thing", "pvit_ext.things")
    registry.add("ours", int)
    assert registry.names() == ["ours", "theirs"]
    assert (registry.require("ours"), registry.require("theirs")) == (int, str)
    with pytest.raises(ValueError, match="'ours' is already registered"):
        registry.add("ours", str)
    with pytest.raises(ValueError, match=r"unknown thing 'other'; known: ours, theirs; --plugin MODULE"):
        registry.require("other")
