"""One of transformers' vision-language models, as region modules see it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.utils import output_capturing

from pvit_ext.hosts.base import HiddenStates, Host, ImageViews
from pvit_ext.hosts.stored_vision import STORED_IMAGES, TOWER_OUTPUT, returning
from pvit_ext.hosts.transformers.appended_rows import IMAGE_ROWS, aligned, appending_part, collecting
from pvit_ext.hosts.transformers.facts import HostFacts, host_facts
from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.hosts.transformers.families.base import Family, TowerConfig
from pvit_ext.regions.region import Size

_SELECTS = hasattr(output_capturing, "select_hidden_states")
"""Until transformers 5.22 the vision tower keeps all of its layers, or none."""
_PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}


@dataclass(frozen=True)
class EncoderTower:
    """The vision tower for encoders that let it look again.

    Args:
        vision_tower: of the inner model.
        image_processor: with ``image_mean`` and ``image_std``.
    """

    vision_tower: nn.Module
    image_processor: HostFacts


@dataclass(frozen=True)
class TransformersHost:
    """The seven names of :class:`pvit_ext.hosts.base.Host`.

    Args:
        inner: the model below the language model's head.
        layers: hidden layers of the vision tower that region modules and LION's aggregator read, beside those that the
            model reads.
    """

    inner: Any
    layers: tuple[int, ...] = ()

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_of(self.inner.config)

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""
        return self.family.tower(self.inner)

    @property
    def tower_config(self) -> TowerConfig:
        """Sizes of the vision tower."""
        return self.family.tower_config(self.inner.config)

    @property
    def select_layer(self) -> int:
        """The hidden layer that the language model reads."""
        return self.family.select_layer(self.inner.config)

    @property
    def facts(self) -> HostFacts:
        """What the config keeps for region modules."""
        return host_facts(self.inner.config)

    @property
    def token_id(self) -> int:
        """Id that stands at every position of a region."""
        return self.facts.token_id

    @property
    def encoder_tower(self) -> EncoderTower:
        """The vision tower for encoders that let it look again."""
        return EncoderTower(self.tower, self.facts)

    def run_tower(self, inputs: dict[str, Any]) -> HiddenStates | None:
        """Run the vision tower once over images and videos; its output replaces the pixels in ``inputs``.

        For images it does not run where ``inputs`` has its output, or names their numbers in the run's cache. Rows that
        the vision aggregator appends join ``inputs``.
        """
        hidden, outputs = None, dict(inputs.get("mm_encoder_outputs") or {})
        known = inputs.pop(STORED_IMAGES, None), inputs.pop(TOWER_OUTPUT, None)
        for kind, pixels in _PIXELS.items():
            if inputs.get(pixels) is None:
                continue
            features = getattr(self.inner, f"get_{kind}_features")
            names = inspect.signature(features).parameters
            given = {name: inputs[name] for name in names if inputs.get(name) is not None}
            if kind == "image":
                given["output_hidden_states"] = self.kept_layers
            stored, output = known if kind == "image" else (None, None)
            with returning(self.tower, self.inner.stored_vision, stored, output), self._collecting(kind, inputs):
                outputs[kind] = features(**given, return_dict=True)
            if kind == "image":
                hidden, outputs[kind].hidden_states = outputs[kind].hidden_states, None
            del inputs[pixels]
        if outputs:
            inputs["mm_encoder_outputs"] = outputs
        return hidden

    @contextmanager
    def _collecting(self, kind: str, inputs: dict[str, Any]) -> Iterator[None]:
        """Let ``inputs`` get the rows behind the images of its prompts, where the aggregator appends them."""
        if kind != "image" or "input_ids" not in inputs or appending_part(self.inner.outer[0]) is None:
            yield
            return
        with collecting(self.inner.config, ids := inputs["input_ids"]) as found:
            yield
        inputs[IMAGE_ROWS] = aligned(self.inner.config, ids, torch.cat(found.rows))

    @property
    def kept_layers(self) -> list[int] | bool:
        """``output_hidden_states`` of the vision tower."""
        return self.layers_to_keep() if _SELECTS else True

    def layers_to_keep(self) -> list[int]:
        """Hidden layers that the model or the region encoder reads."""
        own = getattr(self.inner.config, "vision_feature_layer", self.select_layer)
        return sorted({*self.layers, self.select_layer, *([own] if isinstance(own, int) else own)})

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """How a pixel of each original lands in the vision tower's pixels."""
        return self.family.views(processor, out, sizes, per_text)

    def cells(
        self, inputs: Mapping[str, Any], hidden: HiddenStates, views: Sequence[ImageViews], tiled: bool
    ) -> list[Tensor]:
        """Which positions of the tower's flattened output are the cells of each image."""
        return self.family.cells(self.inner, inputs, hidden, views, tiled)


if TYPE_CHECKING:
    _OFFERS_ALL: type[Host] = TransformersHost
