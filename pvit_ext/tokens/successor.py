"""The region module that replaces another, and keeps what fits of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pvit_ext.adapters.lion.tower_layers import different_depths
from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.encoders.base import RegionEncoder, build_region_encoder
from pvit_ext.encoders.weights import names_in
from pvit_ext.files import absolute
from pvit_ext.tokens.region_module import RegionModule, encoder_is_embedded, same_encoder
from pvit_ext.tokens.serialization import CONFIG_FILE, MODULES_FILE, read_region_config

_FITTING = {"weights": "weights='' for none", "encoder_options": "encoder_options={} for the usual ones"}
"""What has to fit each other, and how to say that there is none."""

logger = logging.getLogger(__name__)


def successor(
    old: RegionModule | None,
    config: RegionConfig,
    hidden_size: int,
    tower_config: Any = None,
    *,
    checkpoint: str | os.PathLike[str] = ".",
    sha256: str | None = None,
    filled_later: bool = False,
    placement: dict[str, Any] | None = None,
    blocks: int = 0,
) -> RegionModule:
    """The region module of a config, which replaces an old one and keeps what fits of it.

    Args:
        old: its encoder stays if the config names the same one, parts of its projector where their shapes fit, and its
            options where the config says none.
        config: which encoder, with which weights.
        hidden_size: D, width of the language model.
        tower_config: of the host's vision tower.
        checkpoint: folder in which a relative ``weights`` path is looked up too.
        sha256: of the weights file, where that is known.
        filled_later: tensors that live in a checkpoint are loaded from it afterwards; their file is not needed.
        placement: ``device`` and ``dtype`` of the new parts.
        blocks: of the language model.

    Raises:
        FileNotFoundError: listing where the weights file was looked for.
        ValueError: when the encoder cannot be built, or the file's checksum is another.
    """
    said = config = _with_file(config, old, filled_later)
    if old is not None:  # what cannot follow it is told before an encoder is built; T decides the rest below
        config = said.continuing(old.config)
    kept = old.region_encoder if old is not None and old.has_encoder_of(config, sha256) else None
    encoder = kept if kept is not None else build_region_encoder(config, tower_config)
    if old is not None:
        same_file = kept is not None or (config.weights and said.weights is None)
        sha256 = old.facts.weights_sha256 if same_file else sha256
        _say_what_becomes_of(old, config, kept is not None, filled_later)
        config = said.continuing(old.config, min(encoder.tokens_per_region, old.facts.tokens_per_region))
    if filled_later and Path(checkpoint, CONFIG_FILE).is_file():
        saved = read_region_config(checkpoint).config
        if saved.lion_adapters:  # its tensors go by the order of its tasks, not by that of the old module's
            config = replace(config, lion_tasks=saved.lion_tasks)
        config = _with_depths(config, saved, tower_config)
    else:
        config = _with_depths(config, None if old is None else old.config, tower_config)
        _check_embedding(said, encoder)
    facts = EncoderFacts(encoder.feature_dim, encoder.tokens_per_region, sha256)
    new = RegionModule(config, hidden_size, tower_config, facts, encoder, blocks)
    if kept is None:
        if not (filled_later and encoder_is_embedded(new.config)):
            _read_encoder(new, said, tower_config, checkpoint)
        encoder.to(**placement or {})
        new.freeze()
    for part in (new.region_projector, *new.lion.values()):
        part.to(**placement or {})
    if old is not None:
        _take_parts(new, old, _tensors_in(checkpoint) if filled_later else ())
    return new


def same_features(old: RegionModule, new: RegionModule) -> bool:
    """Whether the encoder of a region module gives what that of another gives; False where that cannot be told."""
    if new.region_encoder is not None and new.region_encoder is old.region_encoder:
        return True
    digest = new.facts.weights_sha256  # the same file may lie elsewhere; what trains is no longer what its file holds
    frozen = new.region_encoder is not None and new.region_encoder.frozen
    same_options = same_encoder(replace(old.config, weights=None), replace(new.config, weights=None))
    return same_options and frozen and digest is not None and digest == old.facts.weights_sha256


def _take_parts(new: RegionModule, old: RegionModule, filled_later: Iterable[str]) -> None:
    """Take over what fits, and tell of a projection of features that fits by its width alone."""
    kept = new.transplant(old, filled_later)
    if "region_projector.features" in kept and not same_features(old, new):
        logger.warning(
            "region projector: features was learned with another encoder (%r) of the same width: train it anew",
            old.config.encoder,
        )


def _read_encoder(new: RegionModule, said: RegionConfig, tower_config: Any, checkpoint: str | os.PathLike[str]) -> None:
    """Give the encoder its weights; an error names what was not said and need not fit what was."""
    try:
        new.read_encoder(tower_config, checkpoint)
    except (ValueError, FileNotFoundError) as error:
        if not (taken := [name for name in _FITTING if getattr(said, name) is None and getattr(new.config, name)]):
            raise
        cures = [f"{name} is not said and is the model's: say it too, or {_FITTING[name]}" for name in taken]
        raise type(error)("; ".join([str(error), *cures])) from error


def _with_file(config: RegionConfig, old: RegionModule | None, filled_later: bool) -> RegionConfig:
    """The config with the weights file by a name that means the same in every folder."""
    if filled_later and config.weights is None:  # it was stored, so it says that there is none
        return replace(config, weights="")
    same = old is not None and config.weights == old.config.weights
    if same or not config.weights or not isinstance(config.weights, (str, os.PathLike)):
        return config
    return replace(config, weights=absolute(config.weights))


def _tensors_in(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the tensors of a region folder; none for a folder that is no such, whose tensors come otherwise."""
    file = Path(folder, MODULES_FILE)
    return names_in(file) if file.is_file() else []


def _with_depths(config: RegionConfig, before: RegionConfig | None, tower_config: Any) -> RegionConfig:
    """Decide the layers of a new aggregator; one that is there keeps its own, which its tensors go by."""
    if not config.lion_aggregator:
        return config
    if before is not None and before.lion_aggregator and config.lion_aggregator_depths == before.lion_aggregator_depths:
        return config
    depths = different_depths(tower_config, config.lion_aggregator_depths)
    return replace(config, lion_aggregator_depths=depths)


def _say_what_becomes_of(old: RegionModule, config: RegionConfig, kept: bool, filled_later: bool) -> None:
    """Log that the old encoder is kept, or that one of its name which has trained is not."""
    before = old.config
    if filled_later:
        return
    if kept:
        logger.info("region encoder %r is kept", config.encoder)
    elif config.encoder == before.encoder and old.region_encoder is not None and not old.region_encoder.frozen:
        names = [name for name in ("encoder_options", "weights") if getattr(config, name) != getattr(before, name)]
        differ = [f"{name} {getattr(config, name)!r}, were {getattr(before, name)!r}" for name in names]
        why = "; ".join(differ) or "its weights file is another"
        logger.warning("region encoder %r starts anew: %s", config.encoder, why)


def _check_embedding(config: RegionConfig, encoder: RegionEncoder) -> None:
    if config.embed_weights is False and not encoder.frozen:
        raise ValueError(
            f"embed_weights is False, and region encoder {encoder.name!r} trains, so that its weights belong into "
            "checkpoints: leave it out"
        )
