"""`make test-pinned` runs a list of tests on other stacks: one that is missing fails, before anything is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTED = (
    "tests/hosts/llava/test_stacks.py",
    "tests/hosts/test_noop.py",
    "tests/tokens/test_prompt.py",
    "tests/inference/test_ask.py",
    "tests/training/test_train.py",
    "tests/training/test_recipes.py",
)


def refused(tree: Path, *files: str, text: str = "") -> str:
    """What test-pinned says in a repository of these tests, with a Python that installs nothing."""
    (tree / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci" / "test-pinned", tree / ".ci")
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "python").write_text("#!/bin/sh\nexit 97\n")
    (tree / "python").chmod(0o755)
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=tree, check=True)
    command = ["env", f"PYTHON={tree}/python", ".ci/test-pinned", "github", "folder"]
    ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert ended.returncode in (1, 97)
    return ended.stderr if ended.returncode == 1 else "installs"


def test_the_list_of_this_repository_is_complete(tmp_path: Path) -> None:
    assert all((ROOT / name).exists() for name in LISTED)
    assert refused(tmp_path, *LISTED) == "installs"


@pytest.mark.parametrize(
    ("missing", "named"),
    [("tests/hosts", "tests/hosts"), ("tests/inference/test_ask.py", "tests/inference")],
)
def test_a_missing_file_or_an_empty_folder_is_named(missing: str, named: str, tmp_path: Path) -> None:
    present = [name for name in LISTED if not name.startswith(missing)]
    assert f"no tests in {named}: give the list" in refused(tmp_path, *present, "tests/hosts/llava/other.py")


def test_pinned_tests_elsewhere_are_named(tmp_path: Path) -> None:
    mark = "@pytest.mark.pinned\ndef test_it(): pass\n"
    said = refused(tmp_path, *LISTED, "tests/data/test_new.py", text=mark)
    assert "tests/data/test_new.py has tests marked pinned and is not in the list" in said
