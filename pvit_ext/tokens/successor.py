"""The region module that replaces another, and keeps what fits of it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.encoders.base import build_region_encoder
from pvit_ext.files import absolute
from pvit_ext.tokens.region_module import RegionModule, encoder_is_embedded


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
        old: its encoder stays if the config names the same one, parts of its projector where their shapes fit.
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
    if config.weights is not None:  # from another folder, a relative name would be another file
        config = replace(config, weights=absolute(config.weights))
    kept = old.region_encoder if old is not None and old.has_encoder_of(config, sha256) else None
    encoder = kept if kept is not None else build_region_encoder(config, tower_config)
    if old is not None:
        sha256 = old.facts.weights_sha256 if kept is not None else sha256
        config = config.continuing(old.config, encoder.tokens_per_region)
    facts = EncoderFacts(encoder.feature_dim, encoder.tokens_per_region, sha256)
    new = RegionModule(config, hidden_size, tower_config, facts, encoder, blocks)
    if kept is None:
        if not (filled_later and encoder_is_embedded(new.config)):
            new.read_encoder(tower_config, checkpoint)
        encoder.to(**placement or {})
        new.freeze()
    for part in (new.region_projector, *new.lion.values()):
        part.to(**placement or {})
    if old is not None:
        new.transplant(old)
    return new
