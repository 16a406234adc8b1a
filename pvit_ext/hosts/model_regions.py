"""A model's region module: made with the model, filled from its checkpoint, replaced in a loaded one.

A host registers the region module's children under their own names, so that a checkpoint holds ``region_encoder.*``
and ``region_projector.*``; as one child, their names would gain a level and no earlier checkpoint would load. LION's
adapters stand in the language model's feed-forward layers.
:class:`~pvit_ext.tokens.region_module.RegionModule` is laid over them when it is asked for.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import nn

from pvit_ext.adapters.lion.feed_forward import CHILD, feed_forwards, mixtures_in, put_beside
from pvit_ext.adapters.lion.mixture import Mixtures
from pvit_ext.adapters.lion.parts import ADAPTERS, PARTS
from pvit_ext.adapters.lion.routing import keep_routes
from pvit_ext.adapters.tensors import state_of
from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig, StoredRegions, regions_from_json, regions_to_json
from pvit_ext.tokens.region_module import RegionModule, encoder_is_embedded
from pvit_ext.tokens.successor import successor

logger = logging.getLogger(__name__)


def stored_regions(config: Any) -> StoredRegions | None:
    """What a model's config says of regions; None for a stock one."""
    values = getattr(config, CONFIG_KEY, None)
    return None if values is None else regions_from_json(values)


class ModelRegions(ABC):
    """The region modules of a host's model, which may be stock and have none yet.

    Args:
        model: with a config of its own, which names the region encoder.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    @abstractmethod
    def holder(self) -> Any:
        """The module whose children ``region_encoder`` and ``region_projector`` are."""

    @property
    @abstractmethod
    def prefix(self) -> str:
        """Prefix of their names in the model's state dict."""

    @property
    @abstractmethod
    def language_model(self) -> Any:
        """The language model without its head, whose blocks get adapters."""

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """D, width of the language model."""

    @property
    @abstractmethod
    def tower_config(self) -> Any:
        """Config of the vision tower; None for a model without one."""

    @property
    def stored(self) -> StoredRegions | None:
        """What the model's config says of regions."""
        return stored_regions(self.model.config)

    @property
    def module(self) -> RegionModule | None:
        """The children as one module, which shares their tensors; None where there are none."""
        holder, stored = self.holder, self.stored
        projector = getattr(holder, "region_projector", None)
        if projector is None or stored is None or stored.facts is None:
            return None
        return RegionModule.over(
            stored.config, stored.facts, holder.region_encoder, projector, self._lion(stored.config)
        )

    def _lion(self, config: RegionConfig) -> dict[str, nn.Module]:
        found = {name: getattr(self.holder, name, None) for name in PARTS}
        if config.lion_adapters:
            found[ADAPTERS] = Mixtures(getattr(layer, CHILD) for layer in feed_forwards(self.language_model))
        return {name: part for name, part in found.items() if part is not None}

    def create(self) -> None:
        """Give a model under construction the modules its config names, so that ``from_pretrained`` fills them."""
        self.holder.region_encoder = self.holder.region_projector = None
        if (stored := self.stored) is not None:
            blocks = self._blocks(stored.config)
            self._put(RegionModule(stored.config, self.hidden_size, self.tower_config, stored.facts, blocks=blocks))

    def _blocks(self, config: RegionConfig) -> int:
        """How many blocks of the language model get adapters."""
        stored = self.stored
        wanted = config.lion_adapters or (stored is not None and stored.config.lion_adapters)
        return len(feed_forwards(self.language_model)) if wanted else 0

    def finish(self, checkpoint: str | os.PathLike[str] = ".") -> None:
        """Build the frozen encoder of a loaded model from the file its config names; freeze an embedded one."""
        if (module := self.module) is None:
            return
        if module.region_encoder is None:
            module.read_encoder(self.tower_config, checkpoint).to(**self._placement())
            self._put(module)  # with the checksum, where there was none
        module.freeze()

    def replace(
        self,
        config: RegionConfig,
        checkpoint: str | os.PathLike[str] = ".",
        filled_later: bool = False,
        facts: EncoderFacts | None = None,
    ) -> None:
        """Give a model the encoder a config names, in place of the one it has; see :func:`~pvit_ext.attach`."""
        module = successor(
            self.module,
            config,
            self.hidden_size,
            self.tower_config,
            checkpoint=checkpoint,
            sha256=None if facts is None else facts.weights_sha256,
            filled_later=filled_later,
            placement=self._placement(),
            blocks=self._blocks(config),
        )
        self._put(module.train(self.model.training))

    def keys_not_saved(self) -> set[str]:
        """State-dict keys that a full checkpoint leaves out: those of an encoder which lives in its own file."""
        if (stored := self.stored) is None or encoder_is_embedded(stored.config):
            return set()
        return {key for key in self.model.state_dict() if key.startswith(f"{self.prefix}region_encoder.")}

    def keys_to_ignore(self) -> set[str]:
        """``_keys_to_ignore_on_save`` of the model, whose encoder may be another than at its last save."""
        before = self.model._keys_to_ignore_on_save or ()
        return self.keys_not_saved() | {key for key in before if not key.startswith(f"{self.prefix}region_encoder.")}

    def check_missing(self, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
        """Decide on the region tensors that ``from_pretrained`` did not find, which transformers fills at random.

        Parts that start without effect get their start values. All may be missing from a checkpoint whose own config
        has no regions: a stock base, whose region tensors are loaded afterwards.

        Raises:
            ValueError: listing what else is missing.
        """
        names = self._names()
        absent = {names.get(key, key) for key in missing if key in names or key.startswith(f"{self.prefix}region_")}
        if (module := self.module) is None or not absent:
            return
        absent = module.reset_missing(absent)
        if absent and CONFIG_KEY in self.model.config_class.get_config_dict(checkpoint)[0]:
            lacking = sorted(absent)
            raise ValueError(f"{checkpoint} names a region encoder in its config, but lacks its tensors {lacking}")
        if absent:
            logger.warning("%s has no region tensors: they are random until they are loaded", checkpoint)

    def _names(self) -> dict[str, str]:
        """Names in a region file by those in the model's state dict."""
        if (module := self.module) is None:
            return {}
        parts = module.parts().items()
        own = {id(tensor): f"{part}.{name}" for part, of_part in parts for name, tensor in state_of(of_part)}
        return {name: own[id(tensor)] for name, tensor in state_of(self.model) if id(tensor) in own}

    def _put(self, module: RegionModule) -> None:
        holder = self.holder
        holder.region_encoder, holder.region_projector = module.region_encoder, module.region_projector
        for name, part in module.lion.items():
            if name == ADAPTERS:
                put_beside(feed_forwards(self.language_model), mixtures_in(part))
            else:
                setattr(holder, name, part)
        for name in {*PARTS} - {ADAPTERS, *module.lion}:
            if getattr(holder, name, None) is not None:  # of a config before this one
                delattr(holder, name)
        keep_routes(self.model)
        setattr(self.model.config, CONFIG_KEY, regions_to_json(module.config, module.facts))

    def _placement(self) -> dict[str, Any]:
        """Dtype of the language model, and where its inputs go: under a ``device_map`` its head may lie on the disk."""
        weight, hook = self.model.get_output_embeddings().weight, getattr(self.model, "_hf_hook", None)  # accelerate's
        return {"device": getattr(hook, "execution_device", None) or weight.device, "dtype": weight.dtype}
