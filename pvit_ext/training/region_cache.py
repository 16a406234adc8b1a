"""``--region_cache``: outputs of frozen towers are read, not made in every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pvit_ext.data.cache.key import CacheError
from pvit_ext.data.cache.parts import cache_folders
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.hosts.vision_pass import HostTower, use_stored
from pvit_ext.training.contract import Arguments, TrainingHost


def open_caches(data: Any) -> None:
    """Check, before the model is loaded, that a run's caches are complete and have all its images.

    Args:
        data: :class:`~pvit_ext.training.arguments.DataFlags` whose records have been read.

    Raises:
        CacheError: saying what is missing.
    """
    if not data.region_cache:
        return
    records = data.read[0]
    if not records.summary.images:
        raise CacheError(f"--region_cache {data.region_cache}: {data.data_path} names no image, leave the flag out")
    data.caches = tuple(map(FeatureCache, cache_folders(Path(data.region_cache))))
    for cache in data.caches:
        cache.check_images(data.data_path, data.image_folder, (records[number] for number in range(len(records))))


def use_caches(
    host: TrainingHost, args: Arguments, model: Any, processor: Any, dataset: RecordDataset
) -> Iterator[str]:
    """Let towers of a model return what is in the run's caches.

    Args:
        host: of the run.
        args: of the run.
        model, processor: as they train.
        dataset: of the run.

    Yields:
        What is read, in words.

    Raises:
        CacheError: when a cache is of another tower, or cannot be used in this run.
    """
    half = is_half(args.training)
    for cache in args.data.caches:
        if cache.is_of_vision:
            use_stored(host_tower(host, args, model, processor), cache, dataset)
            yield f"{cache.folder}: the vision tower's outputs are read{_still_decoded(dataset)}"
        else:
            encoder = model.region_module and model.region_module.region_encoder
            cache.check_encoder(encoder, torch.float16 if half else None)
            encoder.stored_maps = cache
            dataset.use_stored(cache, dataset.stored_vision)
            yield f"{cache.folder}: the maps of the region encoder's own tower are read"


def host_tower(host: TrainingHost, args: Arguments, model: Any, processor: Any) -> HostTower:
    """The vision tower of a run's model, as caches store it.

    Raises:
        CacheError: for a host of another package that does not offer it.
    """
    if not hasattr(host, "vision_pass"):
        raise CacheError(f"the host {type(host).__name__} does not say how its vision tower sees an image")
    training = args.training
    mixed = torch.bfloat16 if training.bf16 else torch.float16 if training.fp16 else None
    autocast = None if training.deepspeed else mixed  # DeepSpeed changes the weights' dtype instead
    return HostTower(host.vision_pass(args, model, processor), autocast, is_half(training))


def is_half(training: Any) -> bool:
    """Whether DeepSpeed makes a model of float16 when it starts."""
    return bool(training.fp16 and training.deepspeed)


def _still_decoded(dataset: RecordDataset) -> str:
    processor = dataset.region_processor
    if not processor.needs_pixels or processor.encoder is None:
        return ", images are not decoded"
    return f"; images are decoded for the encoder {processor.encoder.name!r}, which reads them itself"
