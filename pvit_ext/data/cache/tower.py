"""The encoder whose maps are stored: made in every worker from what the command line names."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import torch

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.data.cache.key import CacheError
from pvit_ext.encoders.base import build_region_encoder
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.tokens.encoder_file import load_encoder_file
from pvit_ext.tokens.region_module import encoder_is_embedded
from pvit_ext.tokens.serialization import MODULES_FILE, read_region_config

_PREFIX = "region_encoder."


@dataclass(frozen=True)
class TowerSource:
    """An encoder by its config and the place of its weights.

    Args:
        config: with ``weights``, unless the tensors lie in ``modules``.
        modules: folder of region modules, or None.
        sha256: that the weights file must have, where that is known.
        registers: module that registered the encoder.
    """

    config: RegionConfig
    modules: Path | None = None
    sha256: str | None = None
    registers: str | None = None

    @classmethod
    def of(cls, config: RegionConfig, modules: Path | None, needs_weights: bool = True) -> TowerSource:
        """Check what the command line names.

        Args:
            config: by flags; not read where there are region modules.
            modules: folder of region modules, or None.
            needs_weights: False where only sizes are asked for.

        Raises:
            CacheError: when the encoder has no tower of its own, or its weights are not named.
        """
        facts: EncoderFacts | None = None
        if modules is not None:
            config, _, facts = read_region_config(modules)
        elif config.weights is None and needs_weights:
            raise CacheError(
                "the tower's weights are not named, it would be random: give --weights FILE, or --region-modules DIR"
            )
        sha256 = None if facts is None else facts.weights_sha256
        found = cls(config, modules, sha256)
        return cls(config, modules, sha256, type(found.empty()).__module__)

    def empty(self) -> TowerEncoder:
        """The encoder without weights, for sizes alone."""
        if self.registers is not None:
            importlib.import_module(self.registers)
        with torch.device("meta"):
            return self._build()

    def load(self, dtype: torch.dtype, device: str) -> TowerEncoder:
        """The encoder with its weights, as a run has it.

        Raises:
            FileNotFoundError, ValueError: for weights that are not there, or do not fit.
        """
        if self.registers is not None:
            importlib.import_module(self.registers)
        encoder, folder = self._build(), self.modules or Path()
        if self.modules is not None and encoder_is_embedded(self.config):
            stored = read_checkpoint(self.modules / MODULES_FILE).items()
            own = {key.removeprefix(_PREFIX): value for key, value in stored if key.startswith(_PREFIX)}
            encoder.load_state_dict(own)
        else:
            facts = EncoderFacts(encoder.feature_dim, encoder.tokens_per_region, self.sha256)
            load_encoder_file(encoder, self.config, facts, folder)
        encoder.to(device=device, dtype=dtype).requires_grad_(False).eval()
        return encoder

    def _build(self) -> TowerEncoder:
        encoder = build_region_encoder(self.config)
        if not isinstance(encoder, TowerEncoder):
            raise CacheError(
                f"the region encoder {self.config.encoder!r} has no tower of its own whose maps could be stored "
                "(regionclip has one)"
            )
        return encoder
