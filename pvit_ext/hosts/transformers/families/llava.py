"""LLaVA-1.5 in transformers: one square view an image, from a CLIP or SigLIP tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import pad

from pvit_ext.hosts.base import HiddenStates, ImageViews
from pvit_ext.hosts.transformers.families.base import Family, any_layer
from pvit_ext.hosts.transformers.families.tiles import check_crops, tile_cells
from pvit_ext.regions.region import Size
from pvit_ext.regions.view import tower_view


class Llava(Family):
    """Shortest edge and centre crop (CLIP), a padded square (``do_pad``), or a squeezed square (SigLIP)."""

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """One view an image."""
        images = processor.image_processor
        aspect = "pad" if getattr(images, "do_pad", False) else None
        return [ImageViews(tower_view(images, aspect, size)) for size in sizes]

    def cells(
        self,
        inner: nn.Module,
        inputs: Mapping[str, Any],
        hidden: HiddenStates,
        views: Sequence[ImageViews],
        tiled: bool,
    ) -> list[Tensor]:
        """Row by row, behind the class token if there is one."""
        (crops, per_crop), patch = any_layer(hidden).shape[:2], self.tower_config(inner.config).patch_size
        check_crops(crops, len(views))
        sizes = [(base.size[0] // patch, base.size[1] // patch) for base, _ in views]
        return [tile_cells(number, per_crop, size, None) for number, size in enumerate(sizes)]


class Gemma3(Llava):
    """Like LLaVA; crops of an image may follow it (pan and scan)."""

    def rows_behind(self, processor: Any, before: str) -> int:
        """Those of one view."""
        return int(processor.image_seq_length)

    def base_views(self, inner: nn.Module, inputs: Mapping[str, Any], ends: Tensor, per_crop: int) -> Tensor:
        """The first of each image."""
        return pad(ends[:-1], (1, 0)) // per_crop


class PaliGemma(Llava):
    """Like LLaVA; its prompt is a prefix in which all tokens attend to each other."""

    sees_prompt_both_ways: ClassVar[bool] = True
