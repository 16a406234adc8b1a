"""Complete checkpoints: a marker, written last, tells them from what a kill or a full disk leaves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer import TRAINER_STATE_NAME

from pvit_ext.files import atomic_write, read_json, sync
from pvit_ext.training.identity import Identity
from pvit_ext.training.image_contents import changed_images, changed_states

MARKER, IMAGES = "pvit_ext_complete.json", "pvit_ext_images.json"
_STEP = re.compile(r"checkpoint-(\d+)")
_FACTORS = ("linear", "cosine", "cosine_with_restarts", "constant", "constant_with_warmup", "inverse_sqrt")
"""Schedules of factors, which a checkpoint's rates are multiplied by; others reckon with the rate that is given."""
_UNTOUCHED = "no gradient"
_OF_DEEPSPEED = "deepspeed.scheduler"


def mark_complete(folder: Path, identity: Identity) -> None:
    """Sync every file of a checkpoint to the disk, then write the marker that lists them with their sizes.

    Args:
        folder: a ``checkpoint-N`` that every rank has finished writing.
        identity: of the run that wrote it.
    """
    with atomic_write(folder / IMAGES) as temporary:
        temporary.write_text(json.dumps(identity.image_states))
    paths = [path for path in sorted(folder.rglob("*")) if path.name != MARKER]
    for path in paths:
        sync(path)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.is_file()}
    own = {name: value for name, value in vars(identity).items() if name != "image_states"}  # it may be long
    values = {"checkpoint": folder.name, **own, "files": files}
    with atomic_write(folder / MARKER) as temporary:
        temporary.write_text(json.dumps(values, indent=1))


def note_untouched(folder: Path, names: list[str]) -> None:
    """Add to a checkpoint's marker which trained tensors got no gradient, which is known only after a save."""
    with atomic_write(folder / MARKER) as temporary:
        temporary.write_text(json.dumps({**read_marker(folder), _UNTOUCHED: names}, indent=1))


def untouched(folder: Path) -> list[str]:
    """What :func:`note_untouched` wrote into ``folder``, if anything."""
    return list(read_marker(folder).get(_UNTOUCHED, ()))


def problem(folder: Path) -> str | None:
    """Why a checkpoint is not complete, or None if it is."""
    try:
        marker = read_marker(folder)
        name, files = marker["checkpoint"], dict(marker["files"])
    except FileNotFoundError:
        return f"it has no {MARKER}: saving it was interrupted"
    except (ValueError, KeyError, TypeError) as error:
        return f"its {MARKER} cannot be read: {error!r}"
    if name != folder.name:
        return f"its {MARKER} is that of {name}"
    for file, size in files.items():
        path = folder / file
        if not path.is_file():
            return f"{file} is missing"
        if path.stat().st_size != size:
            return f"{file} has {path.stat().st_size} bytes instead of {size}"
    return None


def read_marker(folder: Path) -> dict[str, Any]:
    """What :func:`mark_complete` wrote into ``folder``."""
    return read_json(folder / MARKER)


def newest_complete(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The complete checkpoint of the highest step, and for each incomplete one above it the reason to skip it."""
    skipped: list[str] = []
    for folder in reversed(_checkpoints(output_dir)):
        reason = problem(folder)
        if reason is None:
            return folder, skipped
        skipped.append(f"{folder.name}: {reason}")
    return None, skipped


def check_agreement(checkpoint: str | None) -> None:
    """Compare, across processes, what each of them is about to resume from.

    Raises:
        ValueError: when they differ: a step would never end, or mix two states.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    found: list[str | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, checkpoint)
    if len(set(found)) > 1:
        raise ValueError(f"the processes found different checkpoints, {found}: --output_dir must be one shared folder")


def check_same_run(folder: Path, identity: Identity) -> list[str]:
    """What differs from the checkpoint's run; losses will then not be those of the uninterrupted run.

    Raises:
        ValueError: when the flags of this run contradict the checkpoint.
    """
    marker = read_marker(folder)
    if other := _differences(marker["run"], identity.run):
        raise ValueError(
            f"{folder} was written by another run: {'; '.join(other)}. Continue it with its own flags, or name another "
            "--output_dir"
        )
    read = marker.get("images", {})
    changed = changed_images(read, identity.images)
    if identity.image_states and (folder / IMAGES).is_file():  # versions before wrote none
        states = read_json(folder / IMAGES)
        changed += changed_states(states, identity.image_states, read.keys() & identity.images.keys())
    kept = _kept_by_state(identity)
    return [*_differences(marker["settings"], identity.settings, lambda name: name not in kept), *changed]


def without_effect(folder: Path, identity: Identity) -> list[str]:
    """What differs from the checkpoint's run and changes nothing, since the checkpoint's state holds it too."""
    return _differences(read_marker(folder)["settings"], identity.settings, _kept_by_state(identity).__contains__)


def _kept_by_state(identity: Identity) -> frozenset[str]:
    """Settings that come back with the schedule, and with an optimizer of torch; DeepSpeed's own start anew."""
    kept, settings = frozenset[str](), identity.settings
    if settings.get("lr_scheduler_type") in _FACTORS and not any(name.startswith(_OF_DEEPSPEED) for name in settings):
        kept |= {"learning_rate", "mm_projector_lr"}
    if identity.run.get("zero stage") is None:
        kept |= {"weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"}
    return kept


def _differences(
    saved: dict[str, Any], own: dict[str, Any], counts: Callable[[str], bool] = lambda name: True
) -> list[str]:
    own = json.loads(json.dumps(own))  # tuples are lists in the marker
    keys = sorted(filter(counts, saved.keys() | own.keys()))
    return [f"{key} was {saved.get(key)!r}, is {own.get(key)!r}" for key in keys if saved.get(key) != own.get(key)]


def discard(folder: Path) -> None:
    """Delete a checkpoint, marker first: if it is interrupted, no checkpoint that looks complete remains."""
    (folder / MARKER).unlink(missing_ok=True)
    for path in (folder, folder.with_name(f"tmp-{folder.name}")):  # transformers 4.36 and 4.37 write there first
        if path.exists():
            shutil.rmtree(path)


def keep_newest(output_dir: Path, limit: int | None, best: str = "") -> None:
    """Delete complete checkpoints except the newest ``limit`` and the best, and what kills left.

    A folder without a marker stays if it has ``trainer_state.json``, which transformers writes last: it may be a
    checkpoint that was written without pvit-ext.

    Args:
        output_dir: of the run.
        limit: None and 0 keep everything.
        best: name of the best checkpoint, if there is one.
    """
    folders = _checkpoints(output_dir)
    complete = [folder for folder in folders if problem(folder) is None]
    if limit and complete:
        for folder in [*complete[:-limit], *(one for one in folders if not (one / TRAINER_STATE_NAME).is_file())]:
            if folder.name != best:
                discard(folder)


def _checkpoints(output_dir: Path) -> list[Path]:
    """``checkpoint-N`` in ``output_dir``, by N."""
    steps = {path: _STEP.fullmatch(path.name) for path in output_dir.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path in steps if steps[path]), key=lambda path: int(path.name.rpartition("-")[2]))
