"""A region encoder's own tower as a cache stores it: made in every worker from what the command line names."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.data.cache.key import CacheError, encoder_key, width_of
from pvit_ext.data.cache.source import Made
from pvit_ext.encoders.base import build_region_encoder
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.regions.region import Size
from pvit_ext.tokens.encoder_file import load_encoder_file
from pvit_ext.tokens.region_module import encoder_is_embedded
from pvit_ext.tokens.serialization import MODULES_FILE, read_region_config

_PREFIX = "region_encoder."
_ANY_TOWER = SimpleNamespace(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
    patch_size=14, hidden_act="quick_gelu", layer_norm_eps=1e-5,
)  # fmt: skip
"""A vision tower for encoders that read one: they are built, and then refused by name."""


@dataclass(frozen=True)
class RegionTower:
    """See :class:`~pvit_ext.data.cache.source.StoredTower`; one map an image, its cells one after the other.

    Args:
        encoder: that has the tower.
        dtype: that it computes in.
        device: that it lies on.
    """

    encoder: TowerEncoder
    dtype: torch.dtype
    device: str = "cpu"

    def key(self) -> dict[str, Any]:
        """Of the encoder."""
        return encoder_key(self.encoder, self.dtype)

    def bytes_of(self, size: Size) -> int:
        """Of the map of an image of this size; exact, and without weights."""
        channels, height, width = self.encoder.map_shape(size)
        return channels * height * width * width_of(self.dtype)

    def make(self, image: Image.Image | None) -> Made:
        """The map of an image."""
        assert image is not None, "records without an image have no region"
        with torch.inference_mode():
            made = self.encoder.run_tower(self.encoder.pixels(image)[None].to(self.device))[0]  # (C, H, W)
        return Made([made.permute(1, 2, 0)], {})


@dataclass(frozen=True)
class RegionTowerSource:
    """An encoder by its config and the place of its weights.

    Args:
        config: with ``weights``, unless the tensors lie in ``modules``.
        dtype: that the run computes in.
        modules: folder of region modules, or None.
        sha256: that the weights file must have, where that is known.
        registers: module that registered the encoder.
    """

    config: RegionConfig
    dtype: torch.dtype = torch.bfloat16
    modules: Path | None = None
    sha256: str | None = None
    registers: str | None = None

    @property
    def all_images(self) -> bool:
        """Its tower is run for regions alone."""
        return False

    @classmethod
    def of(
        cls, config: RegionConfig, dtype: torch.dtype, modules: Path | None = None, needs_weights: bool = True
    ) -> RegionTowerSource:
        """Check what the command line names.

        Args:
            config: by flags; not read where there are region modules.
            dtype: that the run computes in.
            modules: folder of region modules, or None.
            needs_weights: False where only sizes are asked for.

        Raises:
            CacheError: when the encoder has no tower of its own, or its weights are not named.
            ValueError: for an unknown encoder.
        """
        facts: EncoderFacts | None = None
        if modules is not None:
            config, _, facts = read_region_config(modules)
        found = cls(config, dtype, modules, None if facts is None else facts.weights_sha256)
        encoder = found.outline().encoder  # which raises for one that no weights would help
        if modules is None and not config.weights and needs_weights:
            raise CacheError(
                "the tower's weights are not named, it would be random: give --weights FILE, or --region-modules DIR"
            )
        return replace(found, registers=type(encoder).__module__)

    def outline(self) -> RegionTower:
        """The encoder without weights."""
        self._register()
        with torch.device("meta"):
            return RegionTower(self._build(), self.dtype)

    def open(self, device: str) -> RegionTower:
        """The encoder with its weights, as a run has it.

        Raises:
            FileNotFoundError, ValueError: for weights that are not there, or do not fit.
        """
        self._register()
        encoder, folder = self._build(), self.modules or Path()
        if self.modules is not None and encoder_is_embedded(self.config):
            stored = read_checkpoint(self.modules / MODULES_FILE).items()
            own = {key.removeprefix(_PREFIX): value for key, value in stored if key.startswith(_PREFIX)}
            encoder.load_state_dict(own)
        else:
            facts = EncoderFacts(encoder.feature_dim, encoder.tokens_per_region, self.sha256)
            load_encoder_file(encoder, self.config, facts, folder)
        encoder.to(device=device, dtype=self.dtype).requires_grad_(False).eval()
        return RegionTower(encoder, self.dtype, device)

    def _register(self) -> None:
        if self.registers is not None:
            importlib.import_module(self.registers)

    def _build(self) -> TowerEncoder:
        encoder = build_region_encoder(self.config, _ANY_TOWER)
        if not isinstance(encoder, TowerEncoder):
            raise CacheError(
                f"the region encoder {self.config.encoder!r} has no tower of its own whose maps could be stored "
                "(regionclip has one); for what it reads of the model's vision tower give the flags of the run, "
                "behind --run"
            )
        return encoder
