"""A checkpoint on disk as tools that work on its files see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pvit_ext.config import StoredRegions


@dataclass(frozen=True)
class StoredModel:
    """What region modules need to know of a checkpoint; none of its tensors is read for it.

    Args:
        prefix: of the names of region tensors in its files.
        hidden_size: D, width of the language model.
        tower_config: of its vision tower.
        regions: what it says of its region modules; None where it has none.
    """

    prefix: str
    hidden_size: int
    tower_config: Any
    regions: StoredRegions | None
