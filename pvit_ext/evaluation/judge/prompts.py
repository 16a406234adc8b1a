"""Prompts of a judge: ours, or those of the benchmark's own files, which are read and never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from pvit_ext.data.convert.base import Setting
from pvit_ext.files import read_text, sha256_file

SETTING = Setting("", "file of the judge's prompt, a text or the benchmark's script; default ours")
_NAME = re.compile(r"\{(\w+)\}")


def read_prompt(path: Path, fields: Collection[str]) -> str:
    """The prompt in a file.

    Args:
        path: of a text; or of a Python script, whose first constant with all the fields is taken.
        fields: that stand in it in braces.

    Raises:
        ValueError: naming the fields that it lacks.
    """
    try:
        text = read_text(path)
        texts = _constants(text) if path.suffix == ".py" else [text]
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"--set judge_prompt={path} cannot be read ({error})") from error
    found = next((one for one in texts if set(fields) <= set(_NAME.findall(one))), None)
    if found is None:
        wanted = ", ".join("{" + name + "}" for name in fields)
        raise ValueError(f"--set judge_prompt={path} has no text with {wanted}: the judge would not see them")
    return found


def source_of(path: Path) -> str:
    """A prompt's file, for the result.

    Raises:
        ValueError: where there is none.
    """
    if not path.is_file():
        raise ValueError(f"--set judge_prompt={path}: there is no such file")
    return f"{path.name}, SHA-256 {sha256_file(path)[:16]}"


def fill(prompt: str, values: Mapping[str, str]) -> str:
    """The prompt with its fields filled; braces in what is filled in stay as they are.

    Args:
        prompt: with ``{name}`` for each of them.
        values: by name; other words in braces stay.
    """
    return _NAME.sub(lambda match: values.get(match[1], match[0]), prompt)


def _constants(script: str) -> list[str]:
    """The strings that a script assigns to names of its own."""
    assigned = (node.value for node in ast.parse(script).body if isinstance(node, ast.Assign))
    return [value.value for value in assigned if isinstance(value, ast.Constant) and isinstance(value.value, str)]
