"""Views: how a pixel of the original image lands in what an encoder looks at, as one affine for pixels and regions.

Every view here is an axis-aligned affine ``view = scale * original + shift``. Coordinates are continuous (see
:mod:`pvit_ext.regions.region`), so a resize from ``w`` to ``w'`` columns is exactly ``scale = w' / w, shift = 0``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvit_ext.regions.region import Size


@dataclass(frozen=True)
class View:
    """An affine from original pixels to view pixels.

    Args:
        size: (width, height) of the view.
        scale: (x, y) view pixels per original pixel.
        shift: (x, y) view pixels of the original's top-left corner.
    """

    size: Size
    scale: tuple[float, float]
    shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def resize(cls, source: Size, size: Size) -> View:
        """Resize to exactly this size, whatever the aspect ratio (PVIT's direct square is one of these)."""
        return cls(size, (size[0] / source[0], size[1] / source[1]))

    @classmethod
    def shortest_edge(cls, source: Size, shortest: int, longest: int | None = None) -> View:
        """Resize so that the shorter side is ``shortest``, the longer at most ``longest``.

        With ``longest`` it rounds as detectron2's ResizeShortestEdge does (RegionCLIP's view). Without, it cuts the
        longer side to an integer, as transformers' CLIPImageProcessor does.
        """
        width, height = source
        factor = shortest / min(width, height)
        if longest is None:
            long_side = int(shortest * max(width, height) / min(width, height))
            return cls.resize(source, (shortest, long_side) if width <= height else (long_side, shortest))
        new_width, new_height = (shortest, factor * height) if width < height else (factor * width, shortest)
        if max(new_width, new_height) > longest:
            shrink = longest / max(new_width, new_height)
            new_width, new_height = new_width * shrink, new_height * shrink
        return cls.resize(source, (max(int(new_width + 0.5), 1), max(int(new_height + 0.5), 1)))

    @classmethod
    def pad_to_square(cls, source: Size) -> View:
        """Centre on a square of the longer side, as LLaVA's ``expand2square`` does (odd pixels go right and bottom)."""
        side = max(source)
        return cls((side, side), (1.0, 1.0), (float((side - source[0]) // 2), float((side - source[1]) // 2)))

    @classmethod
    def fit(cls, source: Size, size: Size) -> View:
        """Resize to the largest size that fits, and centre; rounds up, as LLaVA's ``resize_and_pad_image`` does."""
        factors = size[0] / source[0], size[1] / source[1]
        free = 0 if factors[1] <= factors[0] else 1
        inner = list(size)
        inner[free] = min(math.ceil(source[free] * min(factors)), size[free])
        left, top = ((size[axis] - inner[axis]) // 2 for axis in (0, 1))
        return cls(size, (inner[0] / source[0], inner[1] / source[1]), (float(left), float(top)))

    def center_crop(self, size: Size) -> View:
        """Cut the middle out of this view, as CLIPImageProcessor does; a view smaller than the crop is padded."""
        left, top = (self.size[0] - size[0]) // 2, (self.size[1] - size[1]) // 2
        return View(size, self.scale, (self.shift[0] - left, self.shift[1] - top))

    def then(self, other: View) -> View:
        """Look at this view through another."""
        scale = (self.scale[0] * other.scale[0], self.scale[1] * other.scale[1])
        shift = tuple(self.shift[axis] * other.scale[axis] + other.shift[axis] for axis in (0, 1))
        return View(other.size, scale, shift)  # type: ignore[arg-type]

    def map_boxes(self, boxes: Tensor) -> Tensor:
        """Original boxes (M, 4) xyxy float32 -> view boxes (M, 4), not clipped."""
        scale = torch.tensor(self.scale * 2, dtype=torch.float64, device=boxes.device)
        shift = torch.tensor(self.shift * 2, dtype=torch.float64, device=boxes.device)
        return (boxes.double() * scale + shift).float()  # (M, 4)

    def unmap_boxes(self, boxes: Tensor) -> Tensor:
        """View boxes (M, 4) xyxy -> original boxes (M, 4)."""
        scale = torch.tensor(self.scale * 2, dtype=torch.float64, device=boxes.device)
        shift = torch.tensor(self.shift * 2, dtype=torch.float64, device=boxes.device)
        return ((boxes.double() - shift) / scale).float()  # (M, 4)


def tower_view(processor: Any, image_aspect_ratio: str | None, source: Size) -> View:
    """The view that LLaVA's vision tower gets of an image, read from its CLIPImageProcessor.

    Args:
        processor: transformers image processor with ``size``, ``crop_size``, ``do_resize``, ``do_center_crop``.
        image_aspect_ratio: LLaVA's config value; ``pad`` pads to a square first, ``anyres`` squeezes its base view into
            one (its tiles: :mod:`pvit_ext.hosts.llava.image_layout`).
        source: (width, height) of the original image.
    """
    if image_aspect_ratio == "anyres":
        view = View.resize(source, (processor.size["shortest_edge"],) * 2)
    else:
        view = View.pad_to_square(source) if image_aspect_ratio == "pad" else View.resize(source, source)
    if processor.do_resize:
        view = view.then(_resize_view(processor.size, view.size))
    if getattr(processor, "do_center_crop", False):  # SigLIP's processor has no such step
        view = view.center_crop((processor.crop_size["width"], processor.crop_size["height"]))
    return view


def _resize_view(size: Any, source: Size) -> View:
    if "shortest_edge" in size:
        return View.shortest_edge(source, size["shortest_edge"])
    return View.resize(source, (size["width"], size["height"]))
