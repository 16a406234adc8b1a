"""`pvit-ext recipes --to`, from the source tree and from the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pvit_ext import cli
from pvit_ext.tools.recipes import copy_recipes

ROOT = Path(__file__).parents[2]
SCRIPTS = [*(f"lion_stage{number}.sh" for number in (1, 2, 3)), "stage1.sh", "stage2.sh", "stage2_lora.sh"]
NAMES = [*SCRIPTS, "zero2.json", "zero3.json", "zero3_offload.json"]


def test_recipes_are_copied_as_they_are_and_scripts_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "recipes"
    assert cli.main(["recipes", "--to", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(folder / name) for name in NAMES]
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    for path in folder.iterdir():
        assert path.read_bytes() == (ROOT / "recipes" / path.name).read_bytes()
        assert os.access(path, os.X_OK) == (path.suffix == ".sh")


def test_a_changed_recipe_is_overwritten_on_request_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy_recipes(tmp_path)
    copy_recipes(tmp_path)  # equal files are no reason to stop
    (tmp_path / "stage2.sh").write_text("mine")
    (tmp_path / "zero2.json").unlink()
    assert cli.main(["recipes", "--to", str(tmp_path)]) == 2
    assert "other files of these names: stage2.sh; --force overwrites them" in capsys.readouterr().err
    assert (tmp_path / "stage2.sh").read_text() == "mine"
    assert not (tmp_path / "zero2.json").exists()
    assert cli.main(["recipes", "--to", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "stage2.sh").read_bytes() == (ROOT / "recipes" / "stage2.sh").read_bytes()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "recipes").touch()
    with pytest.raises(NotADirectoryError, match="recipes is a file; give the name of a folder"):
        copy_recipes(tmp_path / "recipes")


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_wheel_carries_the_recipes(tmp_path: Path) -> None:
    """Built from the files that git knows, installed alone: the command needs none of the dependencies."""
    tree, environment = tmp_path / "tree", tmp_path / "environment"
    for name in run("git", "ls-files", "--", "pvit_ext", "recipes", "setup.cfg", "pyproject.toml", cwd=ROOT).split():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    (tree / "README.md").write_text("")
    pip = sys.executable, "-m", "pip", "--disable-pip-version-check"
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, tree, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    packed = [name for name in zipfile.ZipFile(wheel).namelist() if "recipes/" in name]
    assert sorted(name.split("/")[-1] for name in packed) == NAMES
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    run(*pip, "--python", environment / "bin" / "python", "install", "--no-deps", wheel, cwd=tmp_path)
    command = environment / "bin" / "pvit-ext"
    assert len(run(command, "recipes", "--to", "recipes", cwd=tmp_path).splitlines()) == len(NAMES)
    for name in NAMES:
        assert (tmp_path / "recipes" / name).read_bytes() == (ROOT / "recipes" / name).read_bytes()
