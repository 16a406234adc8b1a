"""What an adapter was trained on, compared with the model that it is to go on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pvit_ext.adapters.lora import ADAPTER_CONFIG
from pvit_ext.files import fingerprint
from pvit_ext.hosts.checkpoint_contents import weight_files
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, adapter_on, find_kind

logger = logging.getLogger(__name__)


def check_base(model: Any, kind: CheckpointKind) -> None:
    """Refuse an adapter of other weights than a model's, and warn where that cannot be told.

    Args:
        model: that is loaded.
        kind: of the adapter's folder.

    Raises:
        ValueError: saying what to load.
    """
    named = _weights_of(str(kind.recorded or kind.base))
    loaded = adapter_on(model)
    own = str(model.name_or_path) if loaded is None else loaded.path
    if Path(own).resolve() == Path(named).resolve():
        return
    if loaded is not None:
        raise ValueError(
            f"the model carries the adapter of {own}, and {kind.path} was trained without it: load {named}, not {own}"
        )
    if Path(named, ADAPTER_CONFIG).is_file():
        raise ValueError(f"{kind.path} was trained on {named} and its adapter: load {named}, not {own}")
    same = holds_same_weights(own, named)
    if same is None:
        text = "%s was trained on %s, the model is %s: right only if both hold the same weights"
        logger.warning(text, kind.path, named, own or "of no folder")
    elif not same:
        raise ValueError(
            f"{kind.path} was trained on {named}, whose weights are others than those of the model, {own}: load "
            f"{named} in its place"
        )


def holds_same_weights(one: str, other: str) -> bool | None:
    """Whether two folders hold the same weights; None where files do not tell, as those of another split.

    Args:
        one: folder of a whole checkpoint, or a name.
        other: another.
    """
    if Path(one).resolve() == Path(other).resolve():
        return True
    ours, others = (weight_files(Path(path)) for path in (one, other))
    if not ours or [path.stat().st_size for path in ours] != [path.stat().st_size for path in others]:
        return None
    return list(map(fingerprint, ours)) == list(map(fingerprint, others))


def _weights_of(path: str) -> str:
    """The folder of the language model's weights in what a folder's name stands for, under region modules alone."""
    try:
        kind = find_kind(path)
    except (OSError, ValueError):
        return path
    return path if kind.adapter or kind.base is None else _weights_of(kind.base)
