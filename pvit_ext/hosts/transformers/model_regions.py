"""The region modules of a model of transformers'.

They belong to the outer model: inside the inner one, the key mappings of some families (Qwen's) would rename them.
"""

from __future__ import annotations

from typing import Any

from pvit_ext.adapters.lion.tower_layers import layers_at
from pvit_ext.config import RegionConfig
from pvit_ext.hosts.model_regions import ModelRegions
from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.tokens.region_module import RegionModule


class TransformersRegions(ModelRegions):
    """Children of the outer model; see :class:`~pvit_ext.hosts.model_regions.ModelRegions`."""

    prefix = ""

    @property
    def holder(self) -> Any:
        """The outer model itself."""
        return self.model

    @property
    def language_model(self) -> Any:
        """Within the inner model."""
        return self.model.base_model.language_model

    @property
    def hidden_size(self) -> int:
        """The language model's; its config is nested in the model's."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def tower_config(self) -> Any:
        """The vision tower's config, in the names of CLIP's."""
        return family_of(self.model.config).tower_config(self.model.config)

    def _put(self, module: RegionModule) -> None:
        if module.config.lion_aggregator:
            check_depths(self.model.config, module.config)
        super()._put(module)


def check_depths(config: Any, regions: RegionConfig) -> None:
    """Refuse a vision aggregator that reads a layer in which a model has no cells.

    Args:
        config: of the model.
        regions: its region modules, with ``lion_aggregator``.

    Raises:
        ValueError: naming the model's type, with the reason.
    """
    family = family_of(config)
    count, depths = family.tower_config(config).num_hidden_layers, regions.lion_aggregator_depths
    if family.merges_last and max(layers_at(depths, count)) == count:
        raise ValueError(
            f"lion_aggregator_depths {depths!r} names hidden layer {count}, the last one, in which the vision tower of "
            f"{config.model_type!r} has merged its cells: begin with {(count - 1) / count:.2g} or less"
        )
