"""The CLIP vision tower of a LLaVA checkpoint: the one that its config names, or the one among its tensors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.llava.stored import tower_config
from pvit_ext.hosts.llava.vision_tower import registered_tower
from pvit_ext.tools.convert.names import LLAVA_TOWERS, TOWER
from pvit_ext.tools.shards import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tower:
    """The CLIP vision tower that a LLaVA config names.

    Args:
        name: path or hub id.
        config: its CLIPVisionConfig.
    """

    name: str
    config: Any

    @cached_property
    def images(self) -> Any:
        """Its image processor."""
        from transformers import CLIPImageProcessor

        return CLIPImageProcessor.from_pretrained(self.name)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights, by their names below ``vision_model.``."""
        from transformers import CLIPVisionModel

        state = CLIPVisionModel.from_pretrained(self.name).state_dict()
        buffer = "embeddings.position_ids"
        return {
            name.removeprefix("vision_model."): value.contiguous()
            for name, value in state.items()
            if not name.endswith(buffer)
        }


def vision_tower_of(host: Any, folder: Path) -> Tower:
    """The vision tower of a LLaVA checkpoint.

    Args:
        host: LLaVA's config.
        folder: of the checkpoint, for messages.

    Raises:
        ValueError: for one that is not CLIP's as it is.
    """
    config = tower_config(host, folder)  # raises
    name = str(host.mm_vision_tower)
    if registered_tower(host) is not None or getattr(host, "s2", False):
        raise ValueError(f"{folder}: its vision tower {name!r} is not a plain CLIP, for which transformers has a class")
    return Tower(name, config)


def prefix_of_tower(source: Checkpoint, host: Any, tower: Tower) -> str | None:
    """Prefix of the tensors of a checkpoint's tower; None where it has none, or LLaVA does not run it.

    LLaVA runs the tower among the tensors where its config says ``unfreeze_mm_vision_tower``, else the named one.

    Args:
        source: the checkpoint.
        host: LLaVA's config.
        tower: that it names.
    """
    prefix = next((one for one in LLAVA_TOWERS if any(name.startswith(one) for name in source.tensors)), None)
    if prefix is None or getattr(host, "unfreeze_mm_vision_tower", False):
        return prefix
    named = tower.tensors()
    own = [name for name in source.tensors if name.startswith(prefix)]
    for name, value in source.read(own):
        other = named.get(name.removeprefix(prefix))
        if other is None or not torch.equal(other.to(value.dtype), value):
            logger.warning(
                "%s holds another vision tower than %s, which LLaVA runs (its config does not say "
                "unfreeze_mm_vision_tower): the latter is taken", source.folder, tower.name,
            )  # fmt: skip
            return None
    return prefix


def digests_of(source: Checkpoint, names: Iterable[str], prefix: str) -> dict[str, str]:
    """SHA-256 of tensors in a checkpoint, by their names in the layout of llava-hf checkpoints.

    Args:
        source: the checkpoint.
        names: of the tower's tensors.
        prefix: of their names.
    """
    return {TOWER + name.removeprefix(prefix): digest(value) for name, value in source.read(names)}


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()
