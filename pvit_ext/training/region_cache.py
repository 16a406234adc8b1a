"""``--region_cache``: what the region encoder's own tower makes of the images is read, not made in every epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pvit_ext.data.cache.key import CacheError
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.tokens.region_module import RegionModule


def open_cache(data: Any) -> None:
    """Check, before the model is loaded, that a run's cache is complete and has the maps of all its images.

    Args:
        data: :class:`~pvit_ext.training.arguments.DataFlags` whose records have been read.

    Raises:
        CacheError: saying what is missing.
    """
    if data.region_cache:
        if data.image_folder is None:
            raise CacheError(f"--region_cache {data.region_cache}: give --image_folder, its images are compared")
        data.cache = FeatureCache(data.region_cache)
        records = data.read[0]
        every = (records[number] for number in range(len(records)))
        data.cache.check_images(data.data_path, data.image_folder, every)


def use_cache(cache: FeatureCache | None, module: RegionModule | None, dataset: RecordDataset, training: Any) -> None:
    """Have the region encoder read its maps from a cache of them.

    Args:
        cache: of the run, or None.
        module: of the model.
        dataset: of the run.
        training: transformers' arguments.

    Raises:
        CacheError: when it is of another encoder.
    """
    if cache is None:
        return
    encoder: Any = module and module.region_encoder
    # DeepSpeed makes a model of float16 when it starts
    cache.check_encoder(encoder, torch.float16 if training.fp16 and training.deepspeed else None)
    encoder.stored_maps = cache
    dataset.region_processor = replace(dataset.region_processor, stored_maps=cache)
