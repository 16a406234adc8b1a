"""What differs between families of vision-language models: where pixels land, and how the tower orders its cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from pvit_ext.hosts.base import HiddenStates, ImageViews
from pvit_ext.hosts.transformers.families.cell_groups import CellGroups
from pvit_ext.regions.region import Size


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of a vision tower in the names of CLIP's config, which encoders read.

    Args:
        hidden_size: C.
        num_hidden_layers: without the embedding of patches.
        patch_size: pixels.
        image_size: side in pixels; None for a tower that takes images of any size.
        intermediate_size: of its MLPs.
        num_attention_heads: of its layers.
        hidden_act: name of its activation.
        layer_norm_eps: of its norms.
    """

    hidden_size: int
    num_hidden_layers: int
    patch_size: int
    image_size: int | None = None
    intermediate_size: int | None = None
    num_attention_heads: int | None = None
    hidden_act: str | None = None
    layer_norm_eps: float = 1e-5


class Family(ABC):
    """One family of vision-language models; it keeps no state.

    Attributes:
        tower_name: of the vision tower in the inner model.
        fixed_size: the tower takes images of one size.
        reports_sizes: the processor's output tells what it resized each image to, so that a call may set that.
        sees_prompt_both_ways: tokens of ``token_type_ids`` 0, the prompt, attend to all of it; an answer that is
            learned has to be of type 1.
        images_along: the axis of the tower's output along which images of a batch follow each other.
        prepares_several_differently: whether an image is prepared differently when its prompt has others.
        merges_last: the tower's last hidden layer has one position for several cells.
        image_end: what chat templates write behind an image's placeholder; empty where the processor writes its end.
    """

    tower_name: ClassVar[str] = "vision_tower"
    fixed_size: ClassVar[bool] = True
    reports_sizes: ClassVar[bool] = False
    sees_prompt_both_ways: ClassVar[bool] = False
    images_along: ClassVar[int] = 0
    prepares_several_differently: ClassVar[bool] = False
    merges_last: ClassVar[bool] = False
    image_end: ClassVar[str] = ""

    def tower(self, inner: nn.Module) -> nn.Module:
        """The vision tower of an inner model."""
        return inner.get_submodule(self.tower_name)

    def tower_config(self, config: Any) -> TowerConfig:
        """Sizes of the vision tower.

        Args:
            config: of the model.
        """
        vision = config.vision_config
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        return TowerConfig(
            hidden_size=self.width(vision),
            num_hidden_layers=_first(vision, "num_hidden_layers", "depth"),
            patch_size=patch,
            image_size=vision.image_size if self.fixed_size else None,
            intermediate_size=getattr(vision, "intermediate_size", None),
            num_attention_heads=_first(vision, "num_attention_heads", "num_heads"),
            hidden_act=getattr(vision, "hidden_act", None),
            layer_norm_eps=getattr(vision, "layer_norm_eps", TowerConfig.layer_norm_eps),
        )

    def width(self, vision: Any) -> int:
        """C of the tower's hidden states, by its config."""
        return int(vision.hidden_size)

    def select_layer(self, config: Any) -> int:
        """The hidden layer that the language model reads; the last of them where it reads several.

        Args:
            config: of the model.
        """
        several = getattr(config, "vision_feature_layers", -1)  # ViP-LLaVA's name until transformers 5.22
        layer = getattr(config, "vision_feature_layer", several)
        return int(layer if isinstance(layer, int) else layer[-1])

    @abstractmethod
    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """As :meth:`pvit_ext.hosts.base.Host.views`."""

    @abstractmethod
    def cells(
        self,
        inner: nn.Module,
        inputs: Mapping[str, Any],
        hidden: HiddenStates,
        views: Sequence[ImageViews],
        tiled: bool,
    ) -> list[Tensor]:
        """As :meth:`pvit_ext.hosts.base.Host.cells`.

        Args:
            inner: the inner model.
        """

    def groups(self, inner: nn.Module, inputs: Mapping[str, Any], hidden: HiddenStates, rows: int) -> CellGroups:
        """The cells behind each image row of the language model, before tiles are joined.

        Args:
            inner: the inner model.
            inputs: arguments of its ``get_image_features``.
            hidden: layers of the tower.
            rows: of a crop; of all images where the tower takes them as one sequence.
        """
        crops, positions = any_layer(hidden).shape[:2]
        return CellGroups.of_crops(crops, positions, rows)

    def rows_behind(self, processor: Any, before: str) -> int:
        """How many rows the language model has of the whole view of an image.

        Args:
            processor: of the model.
            before: the prompt up to the end of this image, from the end of the one before it on, written out.
        """
        return before.count(processor.image_token)

    def base_views(self, inner: nn.Module, inputs: Mapping[str, Any], ends: Tensor, per_crop: int) -> Tensor | None:
        """Which crops show all of an image, (images,) int64, on the CPU; None where each does, or for one sequence.

        Args:
            inner: the inner model.
            inputs: arguments of its ``get_image_features``.
            ends: (images,) int64: image tokens of a batch up to the end of each image.
            per_crop: image tokens of a crop, before tiles are joined.
        """
        return None


def image_option(processor: Any, name: str) -> Any:
    """A value that a processor gives to its image processor: its class's own if it has one, else the image processor's.

    Args:
        processor: of a model.
        name: of the option.
    """
    own = getattr(processor, "images_kwargs", None)
    if own is None:  # until transformers 5.22 it lies beside the types of the keywords
        own = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("images_kwargs", {})
    return own[name] if name in own else getattr(processor.image_processor, name)


def any_layer(hidden: HiddenStates) -> Tensor:
    """One of the layers that were kept, for its shape.

    Raises:
        ValueError: when none was.
    """
    for layer in hidden:
        if layer is not None:
            return layer
    raise ValueError("no hidden layer of the vision tower was kept")


def _first(config: Any, *names: str) -> int:
    for name in names:
        if isinstance(value := getattr(config, name, None), int):
            return value
    raise ValueError(f"the vision tower's config {type(config).__name__} has none of {', '.join(names)}")
