"""Regions as coordinates in the text: no parameters, no region tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.encoders.options import builder
from pvit_ext.regions.region import ResolvedRegion, Size
from pvit_ext.regions.view import View


@dataclass(frozen=True)
class TextOptions:
    """How coordinates are written.

    Args:
        decimals: digits behind the point.
        space: coordinates are fractions of the ``original`` image, or, as in Shikra, of the ``padded`` square around
            it.
    """

    decimals: int = 3
    space: str = "original"


class Text(RegionEncoder):
    """``<region>`` becomes ``[x0,y0,x1,y1]``, or ``[x,y]`` for a point, in fractions; other kinds give their box.

    Source: Shikra (arXiv 2306.15195).
    """

    name: ClassVar[str] = "text"
    tokens_per_region = 0
    feature_dim = 0

    def __init__(self, options: TextOptions) -> None:
        super().__init__()
        if options.space not in ("original", "padded") or options.decimals < 1:
            raise ValueError(f"text takes 1 decimal or more, and the space 'original' or 'padded'; got {options}")
        self.options = options

    def describe(self, regions: Sequence[ResolvedRegion], sizes: Sequence[Size]) -> list[str]:
        """The coordinates of each region; see :meth:`RegionEncoder.describe`."""
        return [self._coordinates(region, sizes[region.image]) for region in regions]

    def _coordinates(self, region: ResolvedRegion, size: Size) -> str:
        values = region.points[0] if region.kind == "point" else region.bounds(size)
        view = View.pad_to_square(size) if self.options.space == "padded" else View.resize(size, size)
        parts = [(value + view.shift[i % 2]) / view.size[i % 2] for i, value in enumerate(values)]
        return "[" + ",".join(f"{min(max(part, 0.0), 1.0):.{self.options.decimals}f}" for part in parts) + "]"


build = builder(Text, TextOptions, reads_tower=False)
