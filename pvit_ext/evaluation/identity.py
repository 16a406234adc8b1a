"""What a run's answers depend on, and what it was made with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pvit_ext.config import CONFIG_KEY, RegionConfig, regions_from_json
from pvit_ext.evaluation.sample import Sample
from pvit_ext.evaluation.task import Task
from pvit_ext.files import fingerprint, read_json, sha256_file
from pvit_ext.hosts.checkpoint_contents import checkpoint_contents, processor_contents
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.tokens.serialization import read_region_config

_WEIGHTS = (
    "*.safetensors", "*.bin", "*config.json", "region_modules.json", "tokenizer.json", "*.model", "chat_template*",
    "vocab.*", "merges.txt", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
_PACKAGES = ("pvit-ext", "torch", "transformers", "llava", "peft", "pillow")


def checkpoint_mark(path: str, base: str | None = None) -> str:
    """A short mark of a checkpoint: of its files, those under it, and its vision tower's.

    Hub ids stand for themselves: their files may come only while the model loads.

    Args:
        path: folder or hub id.
        base: checkpoint under it, in place of the one that it names.
    """
    digest = hashlib.sha256()
    kind = find_kind(path, base)
    while True:
        if kind.folder is None:
            digest.update(kind.path.encode())
        else:
            files = {file for pattern in _WEIGHTS for file in kind.folder.glob(pattern)}
            for file in sorted(files, key=lambda one: one.name):
                digest.update(f"{file.name}\0{fingerprint(file)}\0".encode())
            digest.update(_tower_mark(kind.folder).encode())
        if kind.base is None:
            return digest.hexdigest()[:16]
        kind = find_kind(kind.base)


def _tower_mark(folder: Path) -> str:
    """What a vision tower that LLaVA loads from a folder of its own holds; empty where a checkpoint names none."""
    config = folder / "config.json"
    tower = read_json(config).get("mm_vision_tower") if config.is_file() else None
    if not isinstance(tower, str) or not Path(tower).is_dir():
        return ""
    return f"{checkpoint_contents(tower)}\0{processor_contents(tower)}\0"


def stored_region_config(path: str, base: str | None = None) -> RegionConfig | None:
    """The config of a checkpoint's region modules, read without loading any weights; None where it has none."""
    kind = find_kind(path, base)
    while kind.base is not None:
        if kind.regions and kind.folder is not None:
            return read_region_config(kind.folder).config
        kind = find_kind(kind.base)
    values = PretrainedConfig.get_config_dict(kind.path)[0].get(CONFIG_KEY)
    return None if values is None else regions_from_json(values).config


def data_hash(task: Task) -> str:
    """SHA-256 of the task's files, in hex."""
    files = [sha256_file(path) for path in task.files()]
    return files[0] if len(files) == 1 else hashlib.sha256(" ".join(files).encode()).hexdigest()


def prompt_hash(task: Task, samples: Iterable[Sample], shown_as: dict[str, Any]) -> str:
    """SHA-256 of all questions in order, and of how they are shown.

    Args:
        task: that asks them.
        samples: all of them, whatever part of them is asked.
        shown_as: the arm, the template and the like; plain JSON types.
    """
    digest = hashlib.sha256(json.dumps(shown_as, sort_keys=True).encode())
    for sample in samples:
        line = [sample.id, [Path(image).name for image in sample.images], sample.history, task.prompt(sample)]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of Python and of the packages that answers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
