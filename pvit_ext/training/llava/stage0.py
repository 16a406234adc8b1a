"""LLaVA's own first stage, ``--tune_mm_mlp_adapter``: mm_projector learns from captions, without regions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pvit_ext.config import CONFIG_KEY
from pvit_ext.distributed import cpu_copies
from pvit_ext.files import atomic_write

PROJECTOR_FILE = "mm_projector.bin"

logger = logging.getLogger(__name__)


def is_without_regions(model: Any, args: Any, dataset: Any) -> bool:
    """Whether a run trains mm_projector, and neither flags, checkpoint nor data say anything of regions.

    Args:
        model: region-enabled LLaVA model before training.
        args: of training.
        dataset: records to train on.
    """
    if not getattr(args, "tune_mm_mlp_adapter", False) or args.stage != "finetune" or args.lora_enable:
        return False
    present = CONFIG_KEY in PretrainedConfig.get_config_dict(model.name_or_path)[0]
    return not (present or model.model_arguments.names_regions or dataset.records.summary.regions)


def freeze_regions(model: Any) -> None:
    """Freeze region modules that are there only because every run has some: LLaVA's stage does not reach them."""
    inner = model.get_model()
    inner.region_projector.requires_grad_(False)
    inner.region_encoder.requires_grad_(False)


@contextmanager
def saving_no_regions(model: Any, state: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Keep such modules out of a run's checkpoints, as out of its result: the next stage may start from one.

    Args:
        model: that is saved within the block.
        state: its tensors by name, where they were gathered already.

    Yields:
        The tensors to save.
    """
    stored = vars(model.config).pop(CONFIG_KEY, None)
    tensors = model.state_dict() if state is None else state
    try:
        yield {name: value for name, value in tensors.items() if ".region_" not in name}
    finally:
        if stored is not None:
            setattr(model.config, CONFIG_KEY, stored)


def drop_regions(model: Any) -> None:
    """Take such modules out, so that the next stage chooses its encoder."""
    inner = model.get_model()
    inner.region_encoder = inner.region_projector = None
    delattr(model.config, CONFIG_KEY)
    logger.info("no region was trained on: the result is LLaVA without regions, any encoder can follow")


def write_projector(model: Any, folder: str, write: bool) -> None:
    """Write LLaVA's file for ``--pretrain_mm_mlp_adapter``.

    Args:
        model: that was trained.
        folder: of the run's result.
        write: False on ranks that only take part in gathering.
    """
    state = cpu_copies((name, one) for name, one in model.named_parameters() if "mm_projector" in name)
    if write:
        with atomic_write(Path(folder, PROJECTOR_FILE)) as temporary:
            torch.save(state, temporary)
