"""``examples/add_your_encoder.py`` as its readers use it: installed from a package of their own, in a fresh process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "someones-encoder"
version = "1"
[tool.setuptools]
py-modules = ["add_your_encoder"]
"""
USE = """
import sys, torch, pvit_ext
from PIL import Image
from pvit_ext import Query, Region, RegionConfig, RegionError

tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(sys.argv[1], region_config=RegionConfig("average"))
encoder = model.get_model().region_encoder
print(type(encoder).__module__, sys.modules["add_your_encoder"].__file__)
image, boxes = Image.effect_noise((60, 40), 90).convert("RGB"), [Region.box(2, 3, 20, 30), Region.box(30, 3, 55, 30)]
asked = [Query(image, "What is <region>?", [box]) for box in boxes]
pvit_ext.ask(model, tokenizer, processor, asked, max_new_tokens=2)
seen = []
encoder.register_forward_hook(lambda module, given, features: seen.append(features))
pvit_ext.ask(model, tokenizer, processor, asked, max_new_tokens=2)
assert seen[0].shape == (2, 1, encoder.feature_dim), seen[0].shape
assert not torch.allclose(seen[0][0], seen[0][1])
try:
    pvit_ext.ask(model, tokenizer, processor, [Query(image, "What is <region>?", [Region.point(5, 5)])])
except RegionError as error:
    print(error)
"""


def entry_point_of_the_example() -> str:
    """The lines that its docstring tells a reader to write."""
    lines = (ROOT / "examples" / "add_your_encoder.py").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("    [project.entry-points"))
    return "\n".join(line.strip() for line in lines[start : start + 2])


@pytest.mark.slow
def test_the_example_works_as_an_installed_package(llava_checkpoint: Path, tmp_path: Path) -> None:
    package, site = tmp_path / "package", tmp_path / "site"
    package.mkdir()
    shutil.copy(ROOT / "examples" / "add_your_encoder.py", package)
    (package / "pyproject.toml").write_text(PROJECT + entry_point_of_the_example())
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(site), str(package)], check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, "-c", USE, str(llava_checkpoint)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, refused = done.stdout.strip().splitlines()
    assert first == f"add_your_encoder {site / 'add_your_encoder.py'}"
    assert "the encoder 'average' takes box, this is a point" in refused
