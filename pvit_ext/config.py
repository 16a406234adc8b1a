"""What a region-enabled checkpoint is made of: one nested key, ``pvit_ext``, of LLaVA's own config."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

CONFIG_KEY = "pvit_ext"


@dataclass
class RegionConfig:
    """How regions become tokens.

    Args:
        encoder: registered name of the region encoder.
        weights: file with the encoder's own weights, or None for random weights or none to load.
        weights_sha256: of that file, filled when it is first read; another file of the same name is an error.
        embed_weights: keep the encoder's weights inside the checkpoint instead of naming the file; always so for an
            encoder that trains.
        projector: region features to language-model width: ``linear`` (PVIT) or ``mlp2x_gelu``.
        box_embedding: add a linear embedding of the normalised box to every region token (PVIT's stage 2).
        cross_layers: gated attention blocks behind the encoder, through which regions see the whole image; 0 for none.
        delimiters: surround each region with two learned embeddings (PVIT's <Region> and </Region>).
        conv_version: LLaVA conversation template the checkpoint was trained with.
        encoder_options: keyword arguments of the encoder, such as ``{"arch": "rn50x4"}``.
        feature_dim: C of the encoder, filled when it is built.
        tokens_per_region: T of the encoder, filled when it is built.
    """

    encoder: str = "regionclip"
    weights: str | None = None
    weights_sha256: str | None = None
    embed_weights: bool = False
    projector: str = "linear"
    box_embedding: bool = False
    cross_layers: int = 0
    delimiters: bool = True
    conv_version: str | None = None
    encoder_options: dict[str, Any] = field(default_factory=dict)
    feature_dim: int | None = None
    tokens_per_region: int | None = None

    @property
    def slots_per_region(self) -> int:
        """Rows of the prompt that one region takes: T, and two more with delimiters."""
        if self.tokens_per_region is None:
            raise ValueError("tokens_per_region is known once the encoder was built (build_region_encoder)")
        return self.tokens_per_region + 2 * self.delimiters

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RegionConfig:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: on a key this version does not know.
        """
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown RegionConfig keys {unknown}; this version knows {sorted(known)}")
        return cls(**values)
