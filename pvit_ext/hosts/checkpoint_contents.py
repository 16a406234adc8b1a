"""What a checkpoint's files hold, by its folder or hub name: what tells one from another at the same path."""

from __future__ import annotations

import hashlib
from pathlib import Path

from transformers.utils import cached_file

from pvit_ext.files import fingerprint

_PROCESSORS = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("preprocessor_config.json", "processor_config.json", "chat_template*"),
)
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the kind that is loaded comes first


def checkpoint_contents(name: str) -> str:
    """Fingerprints of a checkpoint's config and weights, by its folder or hub name.

    A name that leads to no files here stands for itself.
    """
    if (found := _config_of(name)) is None:
        return name
    return " ".join(f"{path.name} {fingerprint(path)}" for path in [found, *weight_files(found.parent)])


def weight_files(folder: Path) -> list[Path]:
    """The files with a checkpoint's weights; none where it is not here."""
    kinds = (sorted(folder.glob(pattern)) for pattern in _WEIGHTS)
    return next((found for found in kinds if found), [])


def processor_contents(name: str) -> str | None:
    """A fingerprint of the files that make ids of texts and pixels of images; None for a checkpoint without."""
    found = _config_of(name)
    folder = found.parent if found is not None else Path(name)
    files = sorted({path for pattern in _PROCESSORS for path in folder.glob(pattern)})
    marks = " ".join(f"{path.name} {fingerprint(path)}" for path in files)
    return hashlib.sha256(marks.encode()).hexdigest()[:16] if files else None


def _config_of(name: str) -> Path | None:
    """config.json of a checkpoint, by its folder or hub name, where there is one here."""
    found = Path(name, "config.json") if Path(name).is_dir() else _cached(name)
    return found if found is not None and found.is_file() else None


def _cached(name: str) -> Path | None:
    try:
        path = cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False, local_files_only=True)
    except OSError:  # no name of the hub: a registered vision tower
        return None
    return None if path is None else Path(path)
