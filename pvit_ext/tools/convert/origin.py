"""What a converted checkpoint keeps of the LLaVA checkpoint it came from, so that converting back gives that again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pvit_ext.files import copy_file, read_json
from pvit_ext.tools.shards import Checkpoint

FOLDER, FILE = "llava", "converted.json"


@dataclass(frozen=True)
class Origin:
    """A LLaVA checkpoint that was converted.

    Args:
        rows: of its embedding.
        grown: rows of the embedding that was written.
        tower: prefix of its vision tower's tensors; None where it had no such tensors and named a tower.
        digests: sha256 of the tower's tensors, by their names in the layout of llava-hf checkpoints.
        chat_template: that was written; None where it was not noted yet.
    """

    rows: int
    grown: int
    tower: str | None = None
    digests: dict[str, str] = field(default_factory=dict)
    chat_template: str | None = None

    def save(self, source: Checkpoint, folder: Path) -> None:
        """Write it and the source's own files beside the converted weights.

        Args:
            source: the LLaVA checkpoint.
            folder: of the converted one.
        """
        (kept := folder / FOLDER).mkdir()
        for path in [source.folder / "config.json", *source.other_files()]:
            copy_file(path, kept / path.name)
        (kept / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def origin_of(folder: Path) -> Origin | None:
    """The origin of a converted checkpoint; None for one that does not come from LLaVA's own code."""
    path = folder / FOLDER / FILE
    return Origin(**read_json(path)) if path.is_file() else None
