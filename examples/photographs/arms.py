"""The arms: how each of them is shown regions. All see the same conversations, for the same number of steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from examples.photographs.crops import Crops
from examples.quickstart.arms import Flags


@dataclass(frozen=True)
class Arm:
    """One way of showing regions.

    Args:
        title: in the table.
        encoder: registered name of the region encoder.
        options: of the encoder.
        has_tokens: the encoder gives region tokens, which stage 1 aligns.
        sees_regions: else the questions say "the region" and records have none.
    """

    title: str
    encoder: str
    options: dict[str, Any] = field(default_factory=dict)
    has_tokens: bool = True
    sees_regions: bool = True

    @property
    def records(self) -> str:
        """Which records it trains on."""
        return "regions" if self.sees_regions else "without_regions"

    def flags(self) -> Flags:
        """Flags of a run that makes the region modules."""
        return {"region_encoder": self.encoder, "region_encoder_options": self.options}


ARMS = {
    "image_only": Arm("image only", "text", has_tokens=False, sees_regions=False),
    "coordinates": Arm("coordinates as text", "text", has_tokens=False),
    "marks": Arm("drawn marks", "overlay", has_tokens=False),
    "osprey": Arm("region tokens: osprey, on the tower's maps", "osprey", {"hidden": 576, "position_grid": 28}),
    "crops": Arm("region tokens: crops", Crops.name),
}
MAIN = "crops"
ALIGNED = "_stage1"
"""Behind an arm's name: the row of the table that asks after stage 1."""
