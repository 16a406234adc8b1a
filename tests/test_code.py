"""Rules that no linter knows: sizes of the package's code, the glossary's names, and what lies at the top level."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pvit_ext

ROOT = Path(pvit_ext.__file__).parent
LINES, LINES_OF_A_FUNCTION = 300, 60
OTHER_NAMES = {
    "spi": "region", "prompt_encoder": "region_encoder", "image_tower": "vision_tower", "slot": "position",
    "slots": "positions", "picture": "image, tile or crop", "pictures": "images, tiles or crops", "settle": "resolve",
    "settled": "resolved", "gone": "removed", "lost": "missing", "whole": "complete", "owners": "the module's name",
    "hack": "patch",
}  # fmt: skip
TOP_LEVEL = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
    "Makefile", "README.md", "docs", "examples", "mkdocs.yml", "patches", "pvit_ext", "pyproject.toml", "recipes",
    "ruff.toml", "setup.cfg", "tests",
}  # fmt: skip
USERS_WORD = ROOT / "serving" / "demo"
"""Where a picture is what its page calls the image that a user opened."""


@cache
def others_of(name: str) -> set[str]:
    """The words that a name should not hold."""
    name = name.strip("_").lower()
    return {word for word in OTHER_NAMES if word in name and (word in name.split("_") or "_" in word)}


def problems_of(path: Path) -> Iterator[str]:
    """What breaks a rule in a module."""
    text, file = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
    if (count := text.count("\n")) > LINES:
        yield f"{file} has {count} lines"
    users = {"picture", "pictures"} if USERS_WORD in path.parents else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            count = (node.end_lineno or 0) - node.lineno + 1
            if count > LINES_OF_A_FUNCTION:
                yield f"{file}:{node.lineno}: {node.name} has {count} lines"
        for field in ("id", "attr", "name", "arg"):
            if isinstance(name := getattr(node, field, None), str):
                for word in sorted(others_of(name) - users):
                    yield f"{file}:{getattr(node, 'lineno', 0)}: {name}: say {OTHER_NAMES[word]}"


def test_the_packages_files_are_small_and_speak_the_glossarys_language() -> None:
    problems = [problem for path in sorted(ROOT.rglob("*.py")) for problem in problems_of(path)]
    assert not problems, "\n".join(problems)


def test_nothing_else_lies_at_the_top_level() -> None:
    """Such as a file that a command of the docs wrote there: docs/serving.md's request.json was once committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT.parent, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} == TOP_LEVEL
