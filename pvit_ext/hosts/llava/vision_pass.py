"""LLaVA's vision tower as a cache stores it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pvit_ext.data.cache.nested import Output
from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.data.record_dataset import RecordDataset
from pvit_ext.hosts.llava import cpu_launch
from pvit_ext.hosts.llava.image_layout import set_pinpoints
from pvit_ext.hosts.llava.image_rows import layers_read

PIXELS = "pixels"


def tower_pixels(image: Image.Image | None, data_args: Any) -> Tensor:
    """The pixels that the tower sees of an image, (3, H, W) or (crops, 3, H, W); zeros for text alone, as in LLaVA.

    Args:
        image: upright RGB.
        data_args: LLaVA's, with the tower's image processor.
    """
    if image is None:
        side = data_args.image_processor.crop_size
        return torch.zeros(3, side["height"], side["width"])
    from llava import mm_utils  # models of the other host are read where LLaVA is not installed

    pixels: Tensor = mm_utils.process_images([image], data_args.image_processor, data_args)[0]
    return pixels


@dataclass(frozen=True)
class LlavaVisionPass:
    """See :class:`~pvit_ext.hosts.vision_pass.VisionPass`.

    Args:
        model: LLaVA, without peft's wrapper.
        data_args: LLaVA's.
    """

    model: Any
    data_args: Any
    axis: int = 0

    @classmethod
    def of(cls, model: Any, data_args: Any) -> LlavaVisionPass:
        """The pass of a model for training, perhaps in peft's wrapper, and its arguments."""
        base = getattr(model, "get_base_model", lambda: model)()
        set_pinpoints(base, data_args)
        cpu_launch.cpu_tower_dtype(base)  # as training does once the model is there
        return cls(base, data_args)

    @property
    def module(self) -> nn.Module:
        """The module that LLaVA's tower wraps."""
        module: nn.Module = self.model.get_vision_tower().vision_tower
        return module

    @property
    def image_processor(self) -> Any:
        """The tower's."""
        return self.data_args.image_processor

    @property
    def layers(self) -> list[int]:
        """CLIP's layers that LLaVA's projector, the region encoder and the vision aggregator read."""
        tower = self.model.get_vision_tower()
        if hasattr(tower, "feature_maps"):
            return []
        encoder = self.model.region_module and self.model.region_module.region_encoder
        read = [tower.select_layer, *(encoder.feature_layers if encoder is not None else ()), *layers_read(self.model)]
        return sorted({layer % (tower.config.num_hidden_layers + 1) for layer in read})

    def settings(self) -> dict[str, Any]:
        """LLaVA's flags for images."""
        names = ("image_aspect_ratio", "image_grid_pinpoints")
        return {name: str(getattr(self.data_args, name, None)) for name in names}

    def prepare(self, image: Image.Image | None) -> dict[str, Any]:
        """The pixels only."""
        return {PIXELS: tower_pixels(image, self.data_args)}

    def run(self, prepared: Mapping[str, Any]) -> None:
        """Pass all crops of an image at once."""
        pixels: Tensor = prepared[PIXELS]
        self.model.get_vision_tower()(pixels if pixels.ndim == 4 else pixels[None])

    def keep(self, output: Any) -> Any:
        """Hidden layers of CLIP, the whole output of another tower."""
        if not (layers := self.layers):
            return output
        return Output(hidden_states=[one if n in layers else None for n, one in enumerate(output["hidden_states"])])

    def refuse(self, records: Iterable[Any]) -> None:
        """Refuse nothing: LLaVA shows every image on its own."""

    def connect(self, dataset: RecordDataset, stored: StoredVision) -> None:
        """Let both read the stored outputs."""
        self.model.stored_vision = stored
        dataset.use_stored(dataset.region_processor.stored_maps, stored)
