"""The parts of LION that a config asks for, by the names that they have in checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from pvit_ext.adapters.lion.aggregator import VisionAggregator, aggregator_for
from pvit_ext.adapters.lion.feed_forward import CHILD
from pvit_ext.adapters.lion.hint import TagHint
from pvit_ext.adapters.lion.mixture import MixtureOfAdapters, Mixtures
from pvit_ext.adapters.lion.router import QuestionRouter
from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import APPENDED, RegionConfig, task_names

ADAPTERS = CHILD
HINT = "region_hint"
ROUTER = "region_router"
AGGREGATOR = "region_aggregator"
PARTS = (ADAPTERS, HINT, ROUTER, AGGREGATOR)
"""Names of all parts. :data:`ADAPTERS` is a list, whose members stand beside the feed-forward layers of a language
model; every other part is a child of the module that holds the region encoder, and its name begins with ``region_``."""

_BY_TASK = (ADAPTERS, ROUTER)
"""Those that have something for each task, by its number."""


def tensors_go_by(name: str, part: nn.Module, config: RegionConfig) -> object:
    """What the tensors of a part depend on beside their shapes: of another part they fit where this is equal.

    Args:
        name: of :data:`PARTS`, or another part of a region module.
        part: of this name.
        config: that its tensors were trained by, or may be taken by.
    """
    if isinstance(part, VisionAggregator):
        return config.lion_aggregator, part.tower.read_at(config.lion_aggregator_depths)
    return task_names(config.lion_tasks) if name in _BY_TASK else None


def described(name: str, config: RegionConfig) -> str:
    """In words of the options, what :func:`tensors_go_by` compares.

    Args:
        name: of a part for which that is not None.
        config: with that part.
    """
    if name == AGGREGATOR:
        return f"an {config.lion_aggregator} aggregator of the depths {config.lion_aggregator_depths}"
    return f"adapters of the tasks {', '.join(task_names(config.lion_tasks))}"


def check_same(
    folder: str | os.PathLike[str], saved: RegionConfig, own: RegionConfig, parts: Mapping[str, nn.Module]
) -> None:
    """Refuse a folder's tensors of parts that the model has otherwise, though of the same shapes.

    Args:
        folder: with region modules.
        saved: their config.
        own: the model's.
        parts: of the model, by their names in :data:`PARTS`.

    Raises:
        ValueError: with both.
    """
    of_folder = {ADAPTERS: saved.lion_adapters, AGGREGATOR: saved.lion_aggregator}
    both = {name: part for name, part in parts.items() if of_folder.get(name)}
    others = [name for name, part in both.items() if tensors_go_by(name, part, saved) != tensors_go_by(name, part, own)]
    if not others:
        return
    has, model_has = (" and ".join(described(name, config) for name in others) for config in (saved, own))
    raise ValueError(
        f"{folder} holds {has}, the model has {model_has}, nothing was loaded: load_pretrained_model({str(folder)!r}) "
        "makes a model with the folder's"
    )


def starts_at_random(name: str, config: RegionConfig) -> bool:
    """Whether a new part starts at random; any other changes nothing until it is trained.

    Args:
        name: of :data:`PARTS`, or another part of a region module, which does not.
        config: of the model.
    """
    return name in (HINT, ROUTER) or (name == AGGREGATOR and config.lion_aggregator == APPENDED)


def build_parts(config: RegionConfig, hidden_size: int, tower_config: Any, blocks: int) -> dict[str, nn.Module]:
    """New parts, each with a ``reset()`` that gives it its start values.

    Args:
        config: which parts.
        hidden_size: D, width of the language model.
        tower_config: of the vision tower.
        blocks: of the language model.

    Raises:
        ValueError: for adapters where it is not known how many blocks there are, and for an aggregator that the tower
            has no layers for.
    """
    parts: dict[str, nn.Module] = {}
    if config.lion_adapters:
        if not blocks:
            raise ValueError("lion_adapters: the language model's blocks are not known, give blocks=")
        tasks = len(Tasks.parse(config.lion_tasks).names)
        parts[ADAPTERS] = Mixtures(MixtureOfAdapters(hidden_size, config.lion_adapters, tasks) for _ in range(blocks))
        if config.lion_routing == "question":
            parts[ROUTER] = QuestionRouter(hidden_size, tasks)
    if config.lion_tags == "hint":
        parts[HINT] = TagHint(hidden_size)
    if config.lion_aggregator:
        appended = config.lion_aggregator == APPENDED
        parts[AGGREGATOR] = aggregator_for(tower_config, hidden_size, config.lion_aggregator_depths, appended)
    return parts
