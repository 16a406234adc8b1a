"""What a folder or hub id holds: a checkpoint, or what was trained on one and has to be put on it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from pvit_ext.adapters.lora import ADAPTER_CONFIG, NON_LORA_FILE, check_adapter_files
from pvit_ext.files import read_json
from pvit_ext.tokens.serialization import CONFIG_FILE, MODULES_FILE, read_region_config

PROJECTOR_FILE = "mm_projector.bin"
MERGED = "merged-model"
"""Folder in a run's output with the merged model that the run started from, if any; it moves with the output."""

_ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin", NON_LORA_FILE, "config.json")
_WEIGHT_FILES = tuple(
    f"{name}{end}" for name in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json")
)

_CONFIGS = ("config.json", PROJECTOR_FILE)
CHECKPOINT, LORA, REGIONS = "a whole checkpoint", "a LoRA result", "region modules"
"""What a run writes; see :func:`results_in`."""
_PUT_ON = "pvit_ext_put_on"
"""Attribute of a model."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointKind:
    """What was found.

    Args:
        path: as the user named it.
        folder: of the files; for a hub id its snapshot, None for a whole checkpoint on the hub.
        base: checkpoint under it, None for a whole checkpoint.
        recorded: the checkpoint that it was trained on by its own files, where another base was given.
        regions: it holds region modules on their own.
        adapter: it holds a LoRA adapter.
        projector: it holds LLaVA's mm_projector and nothing else.
    """

    path: str
    folder: Path | None = None
    base: str | None = None
    recorded: str | None = None
    regions: bool = False
    adapter: bool = False
    projector: bool = False

    def __str__(self) -> str:
        """One line for the log."""
        if self.base is None:
            return f"{self.path}: a whole checkpoint"
        lora = "LoRA adapter and region modules" if self.regions else "LLaVA LoRA adapter without regions"
        part = lora if self.adapter else "region modules" if self.regions else "LLaVA's mm_projector"
        other = f", trained on {self.recorded}: right only if both hold the same weights" if self.recorded else ""
        return f"{self.path}: {part} on {self.base}{other}"

    def announce(self) -> None:
        """Log what was found; a base that is not the recorded one is a warning."""
        logger.log(logging.WARNING if self.recorded else logging.INFO, "%s", self)


def find_kind(path: str, base: str | None = None) -> CheckpointKind:
    """Look at the files of a folder or hub id.

    Args:
        path: folder or hub id.
        base: checkpoint under it, in place of the one that it names.

    Raises:
        FileNotFoundError: when the folder, its base or a file that belongs to it is missing.
        ValueError: when a base is given for a whole checkpoint, or the folder holds the results of several runs.
    """
    check_exists(path)
    local = Path(path) if Path(path).is_dir() else None
    held = {} if local is None else results_in(local)
    if local is not None and len(held) > 1:
        raise ValueError(_two_results(local, held))
    if local is not None and (local / CONFIG_FILE).is_file():
        recorded = read_region_config(local).base
        found = _base_of(path, base, recorded, "region modules")
        adapter = check_adapter_files(local)
        return CheckpointKind(path, local, found, _other(base, recorded), regions=True, adapter=adapter)
    has_weights = CHECKPOINT in held
    if not has_weights and (config := file_of(path, ADAPTER_CONFIG)) is not None:
        for name in _ADAPTER_FILES:
            file_of(path, name)
        recorded = read_json(config).get("base_model_name_or_path")
        found = _base_of(path, base, recorded, "a LoRA adapter")
        return CheckpointKind(path, config.parent, found, _other(base, recorded), adapter=True)
    if base is None and local is not None and not has_weights and (local / PROJECTOR_FILE).is_file():
        raise FileNotFoundError(
            f"{path} holds {PROJECTOR_FILE} only: name the checkpoint under it (base=... or --base; for training as "
            "MODEL with --pretrain_mm_mlp_adapter)"
        )
    if local is not None and not has_weights and not any((local / name).is_file() for name in _CONFIGS):
        raise FileNotFoundError(f"{path} has no config.json: name the folder of a checkpoint")
    if base is None:
        return CheckpointKind(path, local)
    if not has_weights and (projector := file_of(path, PROJECTOR_FILE)) is not None:
        file_of(path, "config.json")
        return CheckpointKind(path, projector.parent, _base_of(path, base, None, PROJECTOR_FILE), projector=True)
    raise ValueError(f"{path} is a whole checkpoint, which has no use for a base ({base}): leave out base= (--base)")


def results_in(folder: Path) -> dict[str, str]:
    """What results of runs lie in a folder, :data:`CHECKPOINT`, :data:`LORA` or :data:`REGIONS`, and a file of each.

    LLaVA's mm_projector is none: it goes with a whole checkpoint, and with region modules on their own.

    Args:
        folder: there or not.
    """
    weights = next((name for name in _WEIGHT_FILES if (folder / name).is_file()), None)
    found = {} if weights is None else {CHECKPOINT: weights}
    regions = folder / CONFIG_FILE
    of_adapter = regions.is_file() and bool(read_json(regions).get("adapter"))
    if of_adapter or (folder / ADAPTER_CONFIG).is_file():
        found[LORA] = ADAPTER_CONFIG if (folder / ADAPTER_CONFIG).is_file() else CONFIG_FILE
    if regions.is_file() and not of_adapter:
        found[REGIONS] = CONFIG_FILE
    return found


def _two_results(folder: Path, held: dict[str, str]) -> str:
    """What to say of a folder with the results of several runs."""
    removed, moved = [ADAPTER_CONFIG], [ADAPTER_CONFIG, *_ADAPTER_FILES[:-1]] if LORA in held else []
    kept = f"the {REGIONS} alone"
    also = ": it is an adapter without regions"  # its own were written over, or were saved apart from it
    also += f"; were they trained together, load it with --base {folder} (base=)"
    if CHECKPOINT in held:
        kept, also = "the checkpoint with its own regions", ""
        removed, moved = [CONFIG_FILE, *removed], [CONFIG_FILE, MODULES_FILE, *moved]
    out, away = (", ".join(name for name in some if (folder / name).is_file()) for some in (removed, moved))
    named = LORA in held and (folder / "config.json").is_file()
    copied = ", with a copy of config.json," if named else ""  # it names the bits of the base
    return (
        f"{folder} holds {' and '.join(held)} ({', '.join(dict.fromkeys(held.values()))}), and either may be meant: "
        f"remove {out} to load {kept}, or move {away} to a folder of their own{copied} and load that folder{also}"
    )


def note_put_on(model: Any, kind: CheckpointKind) -> None:
    """Keep with a model what was put on it: ``name_or_path`` stays that of the checkpoint under it."""
    setattr(model, _PUT_ON, (*getattr(model, _PUT_ON, ()), kind))


def adapter_on(model: Any) -> CheckpointKind | None:
    """The last adapter that was loaded onto a model, merged or not; None for a model without."""
    return next((kind for kind in reversed(getattr(model, _PUT_ON, ())) if kind.adapter), None)


def lowest_checkpoint(kind: CheckpointKind) -> str:
    """The whole checkpoint, or plain language model, at the end of the chain."""
    while kind.base is not None:
        kind = find_kind(kind.base)
    return kind.path


def file_of(path: str, name: str) -> Path | None:
    """A file of a folder or hub id, or None if there is none."""
    if Path(path).is_dir():
        return Path(path, name) if Path(path, name).is_file() else None
    found = cached_file(
        path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if found is None else Path(found)


def check_exists(path: str) -> None:
    """Raise FileNotFoundError unless a path is a folder, or a hub id of which something can be read.

    Raises:
        NotADirectoryError: for a file.
    """
    if Path(path).is_file():
        raise NotADirectoryError(f"{path} is a file: name the folder of the checkpoint, {Path(path).parent}")
    if Path(path).exists():
        return
    if Path(path).is_absolute() or path.count("/") != 1 or path.startswith("."):
        raise FileNotFoundError(f"{path}: no such checkpoint folder")
    reason = "no config.json can be read from it"
    try:
        if file_of(path, "config.json") or file_of(path, ADAPTER_CONFIG):
            return
    except OSError as error:
        reason = str(error).splitlines()[0]
    raise FileNotFoundError(
        f"{path}: neither a folder ({Path(path).absolute()} does not exist) "
        f"nor a model on the Hugging Face hub ({reason})"
    )


def _near(folder: Path, base: str) -> Path | None:
    """A base that moves with the folder it lies under."""
    if Path(base).name == MERGED:  # of this run, or of the run whose checkpoint-N this is
        inside = (folder / MERGED, folder.absolute().parent / MERGED)
        return next((path for path in inside if path.is_dir()), None)
    beside = folder / base  # a relative name of a folder that was written before names were absolute
    return beside if beside.is_dir() and not Path(base).is_dir() else None


def _other(given: str | None, recorded: str | None) -> str | None:
    """The recorded base, if another one was given."""
    if not given or not recorded or given == recorded or Path(given).resolve() == Path(recorded).resolve():
        return None
    return recorded


def _base_of(path: str, given: str | None, recorded: str | None, held: str) -> str:
    base = given or recorded
    if not base:
        raise FileNotFoundError(
            f"{path} holds {held} only: name the LLaVA checkpoint they belong to (base=... or --base)"
        )
    if given is None and (near := _near(Path(path), base)) is not None:
        return str(near)
    try:
        check_exists(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} belongs to {base}, which is not there: name the checkpoint's folder (base=... or --base); {error}"
        ) from None
    return base
