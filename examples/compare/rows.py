"""The rows of the comparison: an encoder, its options in this small world, and its learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.compare.told import OVERLAY_OPTIONS, TEXT_OPTIONS
from examples.quickstart.arms import Flags
from examples.quickstart.towers import REGION_OPTIONS
from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionEncoder, build_region_encoder, region_encoder_names


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        name: of the row; by default an encoder's row carries the encoder's name.
        encoder: registered name.
        options: the encoder's own.
        rate: learning rate of stage 1.
        flags: more flags for both stages.
    """

    name: str
    encoder: str
    options: dict[str, Any] = field(default_factory=dict)
    rate: float = 2e-3
    flags: Flags = field(default_factory=dict)

    @property
    def has_tower(self) -> bool:
        """Whether the encoder is the pre-trained RegionCLIP tower."""
        return self.encoder == "regionclip"

    def build(self, base: Path) -> RegionEncoder:
        """The encoder with random weights, for its sizes and the kinds it takes."""
        from transformers import CLIPVisionConfig

        config = RegionConfig(encoder=self.encoder, encoder_options=self.options)
        return build_region_encoder(config, CLIPVisionConfig.from_pretrained(base / "clip"))


# A map of 7 x 7 cells and regions of one to nine of them: sizes meant for 24 x 24 cells come down with it.
ROWS = (
    # Frozen features of unit length, and one linear layer that makes words of them: it needs a larger rate.
    Row("regionclip", "regionclip", REGION_OPTIONS, rate=2e-2),
    Row("regionclip+cross", "regionclip", REGION_OPTIONS, rate=2e-2, flags={"region_cross_layers": 2}),
    # One round of fusing and a small width.
    Row("gpt4roi", "gpt4roi", {"width": 64, "pool": 4, "scales": [1, 1, 1, 1], "rounds": 1}, rate=3e-3),
    Row("osprey", "osprey", {"position_grid": 28}),
    Row("ferret", "ferret", {"points": 64, "groups": [16, 4], "neighbors": [8, 8]}),
    Row("replay", "replay", {"grid": 3}),
    Row("cross_attention", "cross_attention", {"heads": 4, "head_dim": 32}),
    Row("focal", "focal", {"context": 4, "least": 12, "shuffle": 4}),
    Row("text", "text", TEXT_OPTIONS),
    Row("overlay", "overlay", OVERLAY_OPTIONS),
)


def all_rows() -> list[Row]:
    """:data:`ROWS`, then every other registered encoder with its default options."""
    known = {row.encoder for row in ROWS}
    return [*ROWS, *(Row(name, name) for name in region_encoder_names() if name not in known)]


def pick_rows(names: str | None) -> list[Row]:
    """Rows by name, comma-separated; all of them for None.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    rows = {row.name: row for row in all_rows()}
    wanted = list(rows) if names is None else [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in rows]:
        raise ValueError(f"--encoders: unknown {unknown}; known: {', '.join(rows)}")
    return [rows[name] for name in wanted]
