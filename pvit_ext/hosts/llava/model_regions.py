"""The region modules of a LLaVA, and the vision tower that its checkpoint may hold."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from pvit_ext.hosts.llava.vision_tower import check_offers
from pvit_ext.hosts.model_regions import ModelRegions
from pvit_ext.tokens.region_module import RegionModule

logger = logging.getLogger(__name__)


class LlavaRegions(ModelRegions):
    """Children of LLaVA's inner model, as its projector is; see :class:`~pvit_ext.hosts.model_regions.ModelRegions`."""

    @property
    def holder(self) -> Any:
        """The inner model."""
        return self.model.get_model()

    @property
    def prefix(self) -> str:
        """``model.``, or ``transformer.`` of MPT."""
        return f"{self.model.base_model_prefix}."

    @property
    def language_model(self) -> Any:
        """The inner model is LLaMA's, Mistral's or MPT's."""
        return self.holder

    @property
    def hidden_size(self) -> int:
        """The width in the model's config, which is flat."""
        return int(self.model.config.hidden_size)

    @property
    def tower_config(self) -> Any:
        """None for a model without a vision tower."""
        tower = self.model.get_vision_tower()
        return None if tower is None else tower.config

    def _put(self, module: RegionModule) -> None:
        if module.config.lion_aggregator:
            check_offers(self.model.get_vision_tower())
        super()._put(module)


def check_missing_tower(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Decide on the vision tower's tensors that ``from_pretrained`` did not find, which transformers fills at random.

    LLaVA takes the tower of a LLaVA-1.6 (``unfreeze_mm_vision_tower``) from the checkpoint. A checkpoint without any of
    its tensors uses the tower's own file, which is read when it is needed, as in a LLaVA-1.5. Either tower is frozen,
    which transformers 5 forgets for the parameters that it replaces.

    Raises:
        ValueError: listing what is missing, when some are there.
    """
    tower = model.get_vision_tower()
    if tower is None or not tower.is_loaded:
        return
    tower.requires_grad_(False)
    prefix = f"{model.base_model_prefix}.vision_tower."
    own = {f"{prefix}{name}" for name, _ in tower.named_parameters()}
    absent = own & set(missing)
    if absent == own:
        logger.warning("%s does not hold its vision tower: it is read from %s", checkpoint, tower.vision_tower_name)
        tower.cfg_only, tower.is_loaded = tower.vision_tower.config, False
        del tower.vision_tower
    elif absent:
        raise ValueError(
            f"{checkpoint} says unfreeze_mm_vision_tower in its config, so it should hold the vision tower, but lacks "
            f"{sorted(absent)}: get the complete checkpoint, or set it to false for the tower of "
            f"{tower.vision_tower_name}"
        )
