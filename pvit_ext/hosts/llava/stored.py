"""A LLaVA checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig

from pvit_ext.config import CONFIG_KEY, regions_from_json
from pvit_ext.hosts.llava.classes import load_config, region_class_of_config
from pvit_ext.hosts.llava.vision_tower import check_offers, of_a_plugin, registered_tower
from pvit_ext.hosts.stored import StoredModel


def read_stored(folder: Path) -> StoredModel:
    """What region modules need to know of a checkpoint.

    Args:
        folder: of a LLaVA checkpoint.

    Raises:
        ValueError: when it is none.
    """
    config = load_config(str(folder))
    values = getattr(config, CONFIG_KEY, None)
    regions = None if values is None else regions_from_json(values)
    return StoredModel(checkpoint_prefix(config), config.hidden_size, tower_config(config, folder), regions)


def check_aggregator(folder: Path) -> None:
    """Refuse a vision aggregator on a registered vision tower that offers no layers.

    Args:
        folder: with the config.json of a LLaVA.

    Raises:
        ValueError: naming the tower.
    """
    if (tower := registered_tower(load_config(str(folder)))) is not None:
        check_offers(tower)


def checkpoint_prefix(config: Any) -> str:
    """What stands before the names of the inner model's tensors in a LLaVA checkpoint, such as ``model.``.

    Raises:
        ValueError: when the config is not that of a LLaVA.
    """
    return f"{region_class_of_config(config).base_model_prefix}."


def tower_config(config: Any, origin: Path) -> Any:
    """Config of the vision tower that a LLaVA config names.

    Args:
        config: LLaVA's.
        origin: the checkpoint, for messages.

    Raises:
        ValueError: when it names none, or one that is not found.
    """
    if (tower := getattr(config, "mm_vision_tower", None)) is None:
        raise ValueError(f"{origin} is a language model without a vision tower, not a LLaVA checkpoint")
    if (registered := registered_tower(config)) is not None:
        return registered.config
    try:
        return CLIPVisionConfig.from_pretrained(tower)
    except OSError as error:
        raise ValueError(f"{origin}: {error}; {of_a_plugin(tower)}") from error
