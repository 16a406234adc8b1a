"""Write the patch that gives a LLaVA source tree regions: ``python patches/make_patch.py TREE > mine.patch``.

TREE is the folder that holds ``llava/``. Places are found in the syntax tree, so a fork's own changes do not matter.
A patch only adds lines, with no line of LLaVA around them: apply it with ``git apply --unidiff-zero`` or ``patch -p1``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

MARK = "# regions: pvit-ext"

Place = Callable[[ast.Module], int]
Addition = tuple[Place, list[str]]


def first_import(tree: ast.Module) -> int:
    """The line before the file's first import."""
    return next(node.lineno for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))) - 1


def last_import(tree: ast.Module) -> int:
    """The line on which the file's last top-level import ends."""
    return max(node.end_lineno or node.lineno for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))


ADDITIONS: dict[str, Addition] = {
    "llava/model/builder.py": (last_import, ["from pvit_ext.patching import apply_pvit", "apply_pvit()"]),
    "llava/train/train_mem.py": (first_import, ["from pvit_ext.train import use_regions", "use_regions()"]),
}


def make_patch(tree: Path) -> str:
    """The patch as text.

    Raises:
        ValueError: naming a file that is patched already.
    """
    return "".join(_file_patch(tree, name, place, lines) for name, (place, lines) in ADDITIONS.items())


def _file_patch(tree: Path, name: str, place: Place, lines: list[str]) -> str:
    source = (tree / name).read_text()
    if MARK in source:
        raise ValueError(f"{tree / name} is patched already")
    line = place(ast.parse(source))
    hunk = [f"@@ -{line},0 +{line + 1},{len(lines)} @@", f"+{lines[0]}  {MARK}", *(f"+{text}" for text in lines[1:])]
    return "\n".join([f"--- a/{name}", f"+++ b/{name}", *hunk]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        sys.stdout.write(make_patch(Path(sys.argv[1])))
    except (OSError, ValueError) as error:
        sys.exit(f"make_patch: error: {error}")
