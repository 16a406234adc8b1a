"""The region modules of a model of transformers'.

They belong to the outer model: inside the inner one, the key mappings of some families (Qwen's) would rename them.
"""

from __future__ import annotations

from typing import Any

from pvit_ext.hosts.model_regions import ModelRegions
from pvit_ext.hosts.transformers.families import family_of


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
