"""What a checkpoint folder holds, which host reads it, and whether its region encoder can be built here."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig

from pvit_ext.config import StoredRegions
from pvit_ext.encoders.base import build_region_encoder
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, find_kind, lowest_checkpoint
from pvit_ext.hosts.find import HOSTS, host_of_checkpoint
from pvit_ext.hosts.stored import StoredModel
from pvit_ext.tokens.encoder_file import find_weights
from pvit_ext.tokens.region_module import encoder_is_embedded
from pvit_ext.tokens.serialization import read_region_config


def examine(path: str) -> dict[str, str]:
    """Lines about a checkpoint, by their names; no tensor is read.

    Args:
        path: folder or hub id.

    Raises:
        OSError: when a folder or file is missing.
        ValueError: when no host reads it, or its region encoder cannot be built.
    """
    kind = find_kind(path)
    lowest, host = lowest_checkpoint(kind), host_of_checkpoint(kind)
    values = PretrainedConfig.get_config_dict(lowest)[0]
    stored, folder = host.stored(Path(lowest)), Path(lowest) if kind.folder is None else kind.folder
    return {
        "holds": str(kind).removeprefix(f"{path}: "),
        "host": HOSTS.name_of(host),
        "model": f"{', '.join(values.get('architectures') or ['unnamed'])} ({values.get('model_type')})",
        "region encoder": _encoder(_regions(kind, stored), stored, folder),
    }


def _regions(kind: CheckpointKind, stored: StoredModel) -> StoredRegions | None:
    if not kind.regions or kind.folder is None:
        return stored.regions
    saved = read_region_config(kind.folder)
    return StoredRegions(saved.config, saved.facts)


def _encoder(regions: StoredRegions | None, stored: StoredModel, folder: Path) -> str:
    if regions is None:
        return "none: pvit_ext.attach, or `pvit-ext swap`, gives it one"
    config = regions.config
    encoder = build_region_encoder(config, stored.tower_config)
    said = f"{config.encoder}, T = {encoder.tokens_per_region}, C = {encoder.feature_dim}"
    if config.weights is None:
        return said
    inside = "in the checkpoint" if encoder_is_embedded(config) else str(find_weights(config.weights, folder))
    return f"{said}, weights {inside}"
