"""The training recipes that come with the package, copied to where a user runs and changes them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pvit_ext.files import atomic_write

RECIPES = Path(__file__).parents[1] / "recipes"
SUFFIXES = (".sh", ".json")


def copy_recipes(folder: str | os.PathLike[str], force: bool = False) -> list[Path]:
    """Copy every recipe and the DeepSpeed settings beside it; scripts are executable.

    Args:
        folder: made if it is missing.
        force: overwrite files that differ from the package's.

    Returns:
        The files in the folder.

    Raises:
        FileExistsError: when a file differs, with the names of all that do; nothing is written then.
        NotADirectoryError: when ``folder`` is a file.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file; give the name of a folder")
    sources = sorted(path for path in RECIPES.iterdir() if path.suffix in SUFFIXES)
    changed = [path.name for path in sources if _differs(target / path.name, path)]
    if changed and not force:
        raise FileExistsError(f"{target} has other files of these names: {', '.join(changed)}; --force overwrites them")
    for source in sources:
        _copy(source, target / source.name)
    return [target / source.name for source in sources]


def _differs(path: Path, source: Path) -> bool:
    return path.exists() and (not path.is_file() or path.read_bytes() != source.read_bytes())


def _copy(source: Path, path: Path) -> None:
    with atomic_write(path) as temporary:
        shutil.copyfile(source, temporary)
        if source.suffix == ".sh":  # an installer may have dropped the wheel's modes
            temporary.chmod(temporary.stat().st_mode | 0o111)
